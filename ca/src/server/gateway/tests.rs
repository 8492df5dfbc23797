//! The description is held to the code; what callers get is tested over the wire, in `tests/service/gateway.rs`.

use super::problem::status_code;
use super::*;
use crate::metrics::Reason;
use crate::proto::attestation::Evidence;
use crate::proto::{
    FederatesWith, IssueResponse, Registration, RenewResponse, Revocations, RevokedIdentity,
    TrustBundle, X509Possession,
};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use tonic::Code;

fn description() -> Value {
    serde_json::from_str(DESCRIPTION).unwrap()
}

fn schema(name: &str) -> Value {
    description()["components"]["schemas"][name].clone()
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn the_description_lists_every_path_with_its_method_and_no_other() {
    let paths = description()["paths"].clone();
    let listed = keys(&paths);
    let described: BTreeSet<_> = listed
        .iter()
        .flat_map(|path| {
            keys(&paths[path])
                .into_iter()
                .map(move |method| (method, path.clone()))
        })
        .collect();
    let expected = Operation::ALL.map(|operation| {
        (
            operation.method().to_lowercase(),
            operation.path().to_owned(),
        )
    });
    assert_eq!(described, BTreeSet::from(expected));
}

/// The keys that a request may have, by what is said of one that it may not.
fn taken<T: DeserializeOwned>(json: &str) -> BTreeSet<String> {
    let Err(error) = serde_json::from_str::<T>(json) else {
        panic!("{json} was taken");
    };
    let text = error.to_string();
    let quoted = text.split('`').skip(1).step_by(2).map(str::to_owned);
    quoted.filter(|word| word != "?").collect()
}

#[test]
fn the_description_names_the_fields_that_requests_take_and_no_others() {
    let unknown = "{\"?\": 0}";
    for (name, taken) in [
        ("IssueRequest", taken::<IssueRequest>(unknown)),
        ("RenewRequest", taken::<RenewRequest>(unknown)),
        ("X509Possession", taken::<X509Possession>(unknown)),
        ("Attestation", taken::<Evidence>(unknown)),
    ] {
        let schema = schema(name);
        assert_eq!(keys(&schema["properties"]), taken, "{name}");
        assert_eq!(schema["additionalProperties"], false, "{name}");
    }
}

/// What there is of JSON Schema in the description.
fn check(at: &str, value: &Value, schema: &Value) {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        return check(name, value, &self::schema(name));
    }
    if let Some(expected) = schema.get("const") {
        return assert_eq!(value, expected, "{at}");
    }
    if let Some(one_of) = schema["enum"].as_array() {
        assert!(one_of.contains(value), "{at}: {value}");
    }
    if let Some(any_of) = schema["anyOf"].as_array() {
        assert_eq!(any_of[1]["type"], "null", "{at}");
        return check(at, value, &any_of[0]);
    }
    match schema["type"].as_str().unwrap() {
        "object" => {
            let properties = &schema["properties"];
            assert_eq!(keys(value), keys(properties), "{at}");
            let none = Map::new();
            for (key, value) in value.as_object().unwrap_or(&none) {
                check(key, value, &properties[key]);
            }
        }
        "array" => {
            let items = value.as_array().unwrap();
            assert!(!items.is_empty(), "{at}: nothing to look at");
            items
                .iter()
                .for_each(|item| check(at, item, &schema["items"]));
        }
        "integer" => assert!(value.is_u64(), "{at}: {value}"),
        "string" => {
            let text = value.as_str().unwrap();
            if schema["pattern"] == "^-?[0-9]+$" {
                text.parse::<i128>().unwrap();
            }
            if schema["contentEncoding"] == "base64" {
                assert_eq!(text, "AQI=", "{at}");
            }
        }
        other => panic!("{at}: type {other}"),
    }
}

#[test]
fn the_description_names_the_fields_that_replies_have() {
    let octets = vec![1, 2];
    let certificate = Some(Certificate {
        chain: vec![octets.clone()],
        renew_at_unix_ms: 1,
        not_after_unix_ms: i64::MAX,
    });
    let bundle = TrustBundle {
        trust_domain: "demo.test".to_owned(),
        authorities: vec![octets.clone()],
        sequence: u64::MAX,
        jwt_keys: String::new(),
    };
    let revocations = Some(Revocations {
        sequence: 1,
        serials: vec![octets.clone()],
        identities: vec![RevokedIdentity::default()],
        authorities: vec![octets],
    });
    let registration = Some(Registration {
        hint: "main".to_owned(),
        federates_with: Some(FederatesWith {
            trust_domains: vec!["other.test".to_owned()],
        }),
    });
    let issued = IssueResponse {
        certificate: certificate.clone(),
        bundle: Some(bundle.clone()),
        revocations: revocations.clone(),
        registration: registration.clone(),
        ..IssueResponse::default()
    };
    let renewed = RenewResponse {
        certificate,
        bundle: Some(bundle.clone()),
        revocations,
        registration,
        ..RenewResponse::default()
    };
    for (name, value) in [
        ("IssueResponse", serde_json::to_value(&issued)),
        ("RenewResponse", serde_json::to_value(&renewed)),
        ("TrustBundle", serde_json::to_value(&bundle)),
    ] {
        check(name, &value.unwrap(), &schema(name));
    }
}

#[test]
fn pem_is_for_who_names_it_among_others_and_for_nobody_else() {
    for (lists, is_pem) in [
        (&["application/pem-certificate-chain"][..], true),
        (&["Application/PEM-Certificate-Chain;q=0.5"], true),
        (
            &["text/html, application/pem-certificate-chain ,*/*;q=0.1"],
            true,
        ),
        (
            &["application/json", "application/pem-certificate-chain"],
            true,
        ),
        (
            &["application/pem-certificate-chain; Q=0.0, application/json"],
            false,
        ),
        (&["application/pem-certificate-chainx"], false),
        (&["text/application/pem-certificate-chain"], false),
        (&["application/*"], false),
        (&["*/*"], false),
        (&["application/json"], false),
        (&[""], false),
        (&[], false),
    ] {
        let mut headers = HeaderMap::new();
        for list in lists {
            headers.append(ACCEPT, HeaderValue::from_static(list));
        }
        let form = Form::asked(&headers);
        assert_eq!(matches!(form, Form::Pem), is_pem, "{lists:?}");
    }
}

#[test]
fn the_description_has_every_reason_and_every_status() {
    let reasons = schema("ErrorInfo")["properties"]["reason"]["enum"].clone();
    let expected = Reason::ALL.map(|reason| Value::from(reason.as_str()));
    assert_eq!(reasons.as_array().unwrap()[..], expected);

    let codes = schema("Error")["properties"]["code"]["enum"].clone();
    let codes = codes.as_array().unwrap().iter();
    let mut statuses: BTreeSet<String> = codes
        .map(|code| Code::from_i32(code.as_i64().unwrap().try_into().unwrap()))
        .map(|code| status_code(code).as_u16().to_string())
        .collect();
    statuses.extend(["405", "413", "415"].map(str::to_owned));
    assert_eq!(keys(&description()["components"]["responses"]), statuses);
    let wait = &description()["components"]["responses"]["429"];
    assert!(keys(&wait["headers"]).contains("Retry-After"), "{wait}");
    for reason in ["rate_limited", "overloaded"] {
        assert!(wait["description"].as_str().unwrap().contains(reason));
    }
}
