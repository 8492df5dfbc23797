//! Names the suites that this run leaves out, so that a green `cargo test` does not say more than it ran.

fn main() {
    if cfg!(feature = "real-programs") {
        println!("no suite is left out: real-programs is on");
        return;
    }
    println!(
        "left out, as they need programs that Cargo cannot install (tests/run installs them and runs all):"
    );
    println!("  proxy/tests/it/h1_oracle/h11.rs");
    let suites = include_str!("it/real.rs");
    for name in suites
        .lines()
        .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'))
    {
        println!("  tests/it/real/{name}.rs");
    }
}
