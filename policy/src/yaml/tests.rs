use super::*;

fn messages(text: &str) -> Vec<String> {
    let problems = Problems::new();
    parse("f.yaml", text, &problems);
    problems
        .into_sorted()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn problems_name_file_line_column_and_key_path() {
    let problems = Problems::new();
    let node = parse_one(
        "f.yaml",
        "outbound:\n  services:\n    - {timeout: soon}\n",
        &problems,
    )
    .unwrap();
    let read = map(&node, &problems, |map| {
        map.required("outbound", |node, problems| {
            super::map(node, problems, |map| {
                map.required(
                    "services",
                    list(|node, problems| {
                        super::map(node, problems, |map| map.required("timeout", duration))
                    }),
                )
            })
        })
    });
    let problems = problems.or_value(read).unwrap_err();
    assert_eq!(
        problems[0].to_string(),
        "f.yaml:3:17: outbound.services[0].timeout: expected a duration such as 500ms, 5s, 10m, 24h or 14d, found \"soon\""
    );
}
