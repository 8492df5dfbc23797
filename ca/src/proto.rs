//! The gRPC contract `tipstaff.ca.v1`, generated from `proto/` by the build script.
#![expect(
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "generated code follows its generator's style"
)]

tonic::include_proto!("tipstaff.ca.v1");
