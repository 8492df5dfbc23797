//! pkilint's verdict on every kind of certificate we make.

use super::{Credentials, python};
use crate::harness::{Mesh, STOREFRONT, path};
use std::path::Path;

/// pkilint does not know that a URI without a port or dots may be `spiffe:`; this is its one expected finding.
const EXPECTED: &str = "spiffe";

#[test]
fn root_intermediate_and_leaf_pass_lint_pkix_cert() {
    let mesh = Mesh::start();
    let leaf = Credentials::issue(&mesh.ca, mesh.folder.path(), "leaf", STOREFRONT);
    let chain = std::fs::read_to_string(&leaf.chain).expect("a chain");
    let root = std::fs::read_to_string(mesh.ca.bundle()).expect("a bundle");
    let certificates: Vec<&str> = chain
        .split_inclusive("-----END CERTIFICATE-----\n")
        .chain([root.as_str()])
        .collect();
    assert_eq!(certificates.len(), 3, "leaf, intermediate and root");
    for (number, pem) in certificates.iter().enumerate() {
        let file = mesh.folder.path().join(format!("{number}.pem"));
        std::fs::write(&file, pem).expect("a file");
        let findings = lint(&file);
        let unexpected: Vec<_> = findings
            .iter()
            .filter(|finding| !finding.contains(EXPECTED))
            .collect();
        assert!(
            unexpected.is_empty(),
            "certificate {number}: {unexpected:?}"
        );
    }
}

/// One line a finding of severity NOTICE or above.
fn lint(file: &Path) -> Vec<String> {
    let output = python()
        .args([
            "-m",
            "pkilint.bin.lint_pkix_cert",
            "lint",
            "-s",
            "NOTICE",
            "-f",
            "CSV",
            path(file),
        ])
        .output()
        .expect("pkilint runs");
    assert!(output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines()
        .skip(1)
        .filter(|line| !line.trim().is_empty())
        .map(str::to_owned)
        .collect()
}
