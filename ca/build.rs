//! Compiles the gRPC contract without `protoc`, so that the Rust toolchain is all a build needs, and has its messages read
//! and written as JSON where the gateway takes and gives them.

use protox::prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use protox::prost_reflect::prost_types::{DescriptorProto, FieldDescriptorProto};
use tonic_prost_build::Builder;

const PACKAGE: &str = "tipstaff.ca.v1";

/// What the gateway takes. A key that is no field, or is there twice, is refused.
const TAKEN: [&str; 3] = ["IssueRequest", "RenewRequest", "X509Possession"];
/// What only those can have who watch the bundle, which the gateway's callers cannot.
const WATCHED: &str = "ledger_head";
/// What it gives.
const GIVEN: [&str; 8] = [
    "IssueResponse",
    "RenewResponse",
    "Certificate",
    "TrustBundle",
    "Revocations",
    "RevokedIdentity",
    "Registration",
    "FederatesWith",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/tipstaff/ca/v1/ca.proto"], ["proto"])?;
    let ours = descriptors
        .file
        .iter()
        .filter(|file| file.package() == PACKAGE);
    let messages: Vec<_> = ours.flat_map(|file| &file.message_type).collect();
    let named = |name: &&str| messages.iter().find(|message| message.name() == *name);
    let (taken, given) = (TAKEN.iter().map(named), GIVEN.iter().map(named));

    let mut builder = attestation(tonic_prost_build::configure());
    for message in taken {
        builder = json(builder, message.ok_or("no such message")?, TAKEN_AS);
    }
    for message in given {
        builder = json(builder, message.ok_or("no such message")?, GIVEN_AS);
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}

const TAKEN_AS: &str = "#[derive(serde::Deserialize)]
    #[serde(rename_all = \"camelCase\", deny_unknown_fields, default)]";
const GIVEN_AS: &str = "#[derive(serde::Serialize)] #[serde(rename_all = \"camelCase\")]";

/// The JSON of `message` is that of proto3: names in camel case, bytes as base64, 64-bit numbers as text.
fn json(builder: Builder, message: &DescriptorProto, attributes: &str) -> Builder {
    let path = format!(".{PACKAGE}.{}", message.name());
    let fields = message.field.iter();
    fields.fold(
        builder.message_attribute(&path, attributes),
        |builder, field| match form(field) {
            _ if field.name() == WATCHED => {
                builder.field_attribute(format!("{path}.{WATCHED}"), "#[serde(skip)]")
            }
            Some(form) => builder.field_attribute(
                format!("{path}.{}", field.name()),
                format!("#[serde(with = \"crate::json::{form}\")]"),
            ),
            None => builder,
        },
    )
}

fn form(field: &FieldDescriptorProto) -> Option<&'static str> {
    match (field.r#type(), field.label()) {
        (Type::Bytes, Label::Repeated) => Some("octets_list"),
        (Type::Bytes, _) => Some("octets"),
        (Type::Int64 | Type::Uint64, _) => Some("decimal"),
        _ => None,
    }
}

/// A oneof is one key of the message that it is in. This message is nothing else.
fn attestation(builder: Builder) -> Builder {
    let path = format!(".{PACKAGE}.Attestation");
    builder
        .message_attribute(&path, "#[derive(serde::Deserialize)] #[serde(transparent)]")
        .enum_attribute(
            format!("{path}.evidence"),
            "#[derive(serde::Deserialize)] #[serde(rename_all = \"camelCase\")]",
        )
}
