//! Compiles the two contracts without `protoc`, so that the Rust toolchain is all a build needs.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let contracts = [
        "spiffe/workload.proto",
        "envoy/service/secret/v3/sds.proto",
        "envoy/extensions/transport_sockets/tls/v3/secret.proto",
    ];
    let descriptors = protox::compile(contracts, ["proto"])?;
    tonic_prost_build::configure()
        // Whatever holds a key or a token has a Debug of its own that leaves it out (src/proto.rs).
        .skip_debug([
            ".X509SVID",
            ".JWTSVID",
            ".ValidateJWTSVIDRequest",
            ".envoy.config.core.v3.DataSource",
            ".envoy.service.discovery.v3.DiscoveryResponse",
            ".envoy.service.discovery.v3.Resource",
        ])
        .include_file("contracts.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
