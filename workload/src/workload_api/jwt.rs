//! The JWT profile: tokens come from the CA, through whoever holds the identity; their bundles and their validation are ours.

use crate::holdings::{Named, TokenAsk, View};
use crate::proto::{
    JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse,
};
use futures_util::future::join_all;
use identity::jwt::claimed_trust_domain;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::Map;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot};
use tonic::{Code, Status};

/// For a token to come.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Audiences of one token, and the bytes of one of them: no CA takes more, and none has to be asked to know.
const MOST_AUDIENCES: usize = 16;
const LONGEST_AUDIENCE: usize = 256;
/// Claims within claims, at most. The rest of a token's size is bounded by the message.
const DEEPEST: u32 = 16;

/// A token for each of the caller's identities that has one, or for the one that it names.
pub(super) async fn svids(view: &View, request: JwtsvidRequest) -> Result<JwtsvidResponse, Status> {
    let is_fit = |one: &String| (1..=LONGEST_AUDIENCE).contains(&one.len());
    let count = request.audience.len();
    if !(1..=MOST_AUDIENCES).contains(&count) || !request.audience.iter().all(is_fit) {
        return Err(Status::invalid_argument(format!(
            "expected 1 to {MOST_AUDIENCES} audiences of 1 to {LONGEST_AUDIENCE} bytes"
        )));
    }
    let wanted =
        |named: &&Named| request.spiffe_id.is_empty() || named.id.as_str() == request.spiffe_id;
    let identities: Vec<_> = view.identities.iter().filter(wanted).collect();
    if identities.is_empty() {
        return Err(Status::permission_denied(
            "this identity is not issued to this process",
        ));
    }
    let asked = identities.iter().map(|named| async {
        Ok::<_, Status>(Jwtsvid {
            spiffe_id: named.id.to_string(),
            svid: token(&named.tokens, request.audience.clone()).await?,
            hint: named.hint.clone(),
        })
    });
    let (mut svids, mut refusal) = (Vec::new(), None);
    for outcome in join_all(asked).await {
        match outcome {
            Ok(svid) => svids.push(svid),
            Err(refused) => refusal = refusal.or(Some(refused)),
        }
    }
    match refusal {
        // One identity that has none is no reason to keep those of the others.
        Some(refusal) if svids.is_empty() => Err(refusal),
        _ => Ok(JwtsvidResponse { svids }),
    }
}

async fn token(tokens: &mpsc::Sender<TokenAsk>, audience: Vec<String>) -> Result<String, Status> {
    let (sender, answer) = oneshot::channel();
    let asked = async {
        tokens.send((audience, sender)).await.ok()?;
        answer.await.ok()
    };
    match tokio::time::timeout(TIMEOUT, asked).await {
        Ok(Some(Ok(token))) => Ok(token),
        Ok(Some(Err(refusal))) => {
            tracing::debug!(reason = refusal.message(), "no token");
            Err(match refusal.code() {
                Code::PermissionDenied => {
                    Status::permission_denied("the CA issues no token for this identity")
                }
                Code::Unimplemented => Status::unimplemented("this CA issues no tokens"),
                _ => Status::unavailable("the CA issues no token at present; ask again"),
            })
        }
        Ok(None) | Err(_) => Err(Status::unavailable("no token has come; ask again")),
    }
}

pub(super) fn bundles(view: &View) -> JwtBundlesResponse {
    let entries = view.bundles().map(|bundle| {
        let id = format!("spiffe://{}", bundle.trust_domain());
        (id, bundle.jwt_keys().to_jwks().into_bytes())
    });
    JwtBundlesResponse {
        bundles: entries.collect(),
    }
}

/// Against the keys of the trust domain that the token claims to be of, and no others.
pub(super) fn validate(
    view: &View,
    request: &ValidateJwtsvidRequest,
) -> Result<ValidateJwtsvidResponse, Status> {
    if request.audience.is_empty() || request.svid.is_empty() {
        return Err(Status::invalid_argument("expected an audience and a token"));
    }
    let refuse = |reason: &dyn std::fmt::Display| Status::invalid_argument(reason.to_string());
    let claimed = claimed_trust_domain(&request.svid).map_err(|error| refuse(&error))?;
    let bundle = view
        .bundles()
        .find(|bundle| *bundle.trust_domain() == claimed)
        .ok_or_else(|| refuse(&"expected a token of a trust domain that is known here"))?;
    let claims = bundle
        .jwt_keys()
        .verify(
            &claimed,
            &request.svid,
            &request.audience,
            SystemTime::now(),
        )
        .map_err(|error| refuse(&error))?;
    Ok(ValidateJwtsvidResponse {
        spiffe_id: claims.subject.to_string(),
        claims: Some(structure(&claims.all, DEEPEST)),
    })
}

fn structure(map: &Map<String, serde_json::Value>, deepest: u32) -> Struct {
    let fields = map
        .iter()
        .map(|(name, value)| (name.clone(), protobuf(value, deepest)));
    Struct {
        fields: fields.collect(),
    }
}

fn protobuf(value: &serde_json::Value, deepest: u32) -> Value {
    use serde_json::Value as Json;
    let kind = match (value, deepest.checked_sub(1)) {
        (Json::Bool(value), _) => Kind::BoolValue(*value),
        (Json::Number(value), _) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        (Json::String(value), _) => Kind::StringValue(value.clone()),
        (Json::Array(values), Some(deepest)) => Kind::ListValue(ListValue {
            values: values
                .iter()
                .map(|value| protobuf(value, deepest))
                .collect(),
        }),
        (Json::Object(map), Some(deepest)) => Kind::StructValue(structure(map, deepest)),
        (Json::Null | Json::Array(_) | Json::Object(_), _) => Kind::NullValue(0),
    };
    Value { kind: Some(kind) }
}
