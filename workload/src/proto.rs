//! The contracts, generated from `proto/` by the build script: the SPIFFE Workload API, and of Envoy's API what SDS needs.
#![expect(
    clippy::allow_attributes_without_reason,
    missing_docs,
    missing_debug_implementations,
    unused_qualifications,
    reason = "generated code follows its generator's style"
)]

use zeroize::Zeroize as _;

tonic::include_proto!("contracts");

// Whatever holds a key or a token prints without it.

impl std::fmt::Debug for X509svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("X509svid")
            .field("spiffe_id", &self.spiffe_id)
            .finish_non_exhaustive()
    }
}

/// What was handed over is zeroed here; the copies on its way through gRPC and the socket are not ours.
impl Drop for X509svid {
    fn drop(&mut self) {
        self.x509_svid_key.zeroize();
    }
}

impl std::fmt::Debug for Jwtsvid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jwtsvid")
            .field("spiffe_id", &self.spiffe_id)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ValidateJwtsvidRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ValidateJwtsvidRequest")
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for envoy::config::core::v3::DataSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataSource").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for envoy::service::discovery::v3::DiscoveryResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiscoveryResponse")
            .field("version_info", &self.version_info)
            .field("nonce", &self.nonce)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for envoy::service::discovery::v3::Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resource")
            .field("name", &self.name)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
