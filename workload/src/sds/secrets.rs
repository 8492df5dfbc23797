//! What a name stands for in a caller's view.

use super::SECRET;
use crate::holdings::{Svid, View};
use crate::proto::envoy::config::core::v3::data_source::Specifier;
use crate::proto::envoy::config::core::v3::{DataSource, TypedExtensionConfig};
use crate::proto::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use crate::proto::envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config::TrustDomain;
use crate::proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate,
};
use crate::proto::envoy::service::discovery::v3::DiscoveryResponse;
use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use identity::TrustBundle;
use prost::Message as _;
use prost_types::Any;

const DEFAULT: &str = "default";
const ROOTCA: &str = "ROOTCA";
const ALL: &str = "ALL";

/// Hexadecimal digits of a version.
pub(super) const VERSION_LETTERS: usize = 16;

const SPIFFE_VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
const SPIFFE_VALIDATOR_CONFIG: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

/// A secret in the form in which it travels. It may hold a private key: no Debug.
pub(super) struct Named {
    pub(super) name: String,
    /// Of the public parts: the same certificates have the same version on every stream and after every restart.
    pub(super) version: String,
    secret: Secret,
}

impl Named {
    pub(super) fn to_any(&self) -> Any {
        Any {
            type_url: SECRET.to_owned(),
            value: self.secret.encode_to_vec(),
        }
    }
}

/// Those of `names` that there are, in that order; all of them when no name is given.
pub(super) fn of(view: &View, names: &[String]) -> Vec<Named> {
    if names.is_empty() {
        let ids = view.svids.iter().map(|svid| svid.portable.id().to_string());
        let names = ids.chain(view.svids.first().map(|_| ROOTCA.to_owned()));
        return names.filter_map(|name| find(view, &name)).collect();
    }
    names.iter().filter_map(|name| find(view, name)).collect()
}

/// All of `secrets` in one response, whose version changes with any of them.
pub(super) fn response(secrets: &[Named], nonce: String) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: version_of_all(secrets),
        resources: secrets.iter().map(Named::to_any).collect(),
        type_url: SECRET.to_owned(),
        nonce,
    }
}

pub(super) fn version_of_all(secrets: &[Named]) -> String {
    let mut version = Version::new();
    for secret in secrets {
        version.add(secret.name.as_bytes());
        version.add(secret.version.as_bytes());
    }
    version.finish()
}

pub(super) fn find(view: &View, name: &str) -> Option<Named> {
    let bundles = || std::iter::once(&view.own).chain(&view.federated);
    match name {
        DEFAULT => view.svids.first().map(|svid| certificate(name, svid)),
        ROOTCA => Some(roots(name, &view.own)),
        ALL => Some(all_roots(name, bundles().map(AsRef::as_ref))),
        id => {
            let svid = view
                .svids
                .iter()
                .find(|svid| svid.portable.id().as_str() == id);
            if let Some(svid) = svid {
                return Some(certificate(name, svid));
            }
            let domain = id.strip_prefix("spiffe://")?;
            let bundle = bundles().find(|bundle| bundle.trust_domain().as_str() == domain)?;
            Some(roots(name, bundle))
        }
    }
}

fn certificate(name: &str, Svid { portable, .. }: &Svid) -> Named {
    let chain = identity::pem::encode(portable.chain());
    let mut version = Version::new();
    version.add(chain.as_bytes());
    let certificate = TlsCertificate {
        certificate_chain: Some(inline(chain.into_bytes())),
        private_key: Some(inline(private_key(portable.key()))),
    };
    named(name, version, Type::TlsCertificate(certificate))
}

fn roots(name: &str, bundle: &TrustBundle) -> Named {
    let pem = bundle.to_pem();
    let mut version = Version::new();
    version.add(pem.as_bytes());
    let context = CertificateValidationContext {
        trusted_ca: Some(inline(pem.into_bytes())),
        custom_validator_config: None,
    };
    named(name, version, Type::ValidationContext(context))
}

fn all_roots<'b>(name: &str, bundles: impl Iterator<Item = &'b TrustBundle>) -> Named {
    let mut version = Version::new();
    let mut trust_domains = Vec::new();
    for bundle in bundles {
        let (domain, pem) = (bundle.trust_domain().to_string(), bundle.to_pem());
        version.add(domain.as_bytes());
        version.add(pem.as_bytes());
        trust_domains.push(TrustDomain {
            name: domain,
            trust_bundle: Some(inline(pem.into_bytes())),
        });
    }
    let config = Any {
        type_url: SPIFFE_VALIDATOR_CONFIG.to_owned(),
        value: SpiffeCertValidatorConfig { trust_domains }.encode_to_vec(),
    };
    let context = CertificateValidationContext {
        trusted_ca: None,
        custom_validator_config: Some(TypedExtensionConfig {
            name: SPIFFE_VALIDATOR.to_owned(),
            typed_config: Some(config),
        }),
    };
    named(name, version, Type::ValidationContext(context))
}

fn named(name: &str, version: Version, secret: Type) -> Named {
    Named {
        name: name.to_owned(),
        version: version.finish(),
        secret: Secret {
            name: name.to_owned(),
            r#type: Some(secret),
        },
    }
}

fn inline(bytes: Vec<u8>) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(bytes)),
    }
}

/// RFC 7468 section 10.
fn private_key(pkcs8: &[u8]) -> Vec<u8> {
    let mut pem = b"-----BEGIN PRIVATE KEY-----\n".to_vec();
    let text = zeroize::Zeroizing::new(STANDARD.encode(pkcs8));
    for line in text.as_bytes().chunks(64) {
        pem.extend_from_slice(line);
        pem.push(b'\n');
    }
    pem.extend_from_slice(b"-----END PRIVATE KEY-----\n");
    pem
}

/// A short name for some contents.
struct Version(Context);

impl Version {
    fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// The length keeps two lists with the same octets apart.
    fn add(&mut self, part: &[u8]) {
        self.0.update(&(part.len() as u64).to_be_bytes());
        self.0.update(part);
    }

    fn finish(self) -> String {
        let digest = self.0.finish();
        digest.as_ref()[..VERSION_LETTERS / 2]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}
