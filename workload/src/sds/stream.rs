//! State of the world: each response holds all that the client has asked for.

use super::conversation;
use super::{check_names, check_type, log_refusal, secrets};
use crate::holdings::View;
use crate::proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use tonic::Status;

/// What the client wants and has.
#[derive(Debug, Clone, Default)]
pub(super) struct Wants {
    /// `None` when it wants nothing: before the first request, and once it has unsubscribed. An empty list is all there is.
    names: Option<Vec<String>>,
    /// Whether it ever named what it wants. Naming nothing unsubscribes from then on (xDS, "Unsubscribing From Resources").
    has_named: bool,
    /// The version last sent, whether it was taken or refused: neither is sent again.
    sent: Option<String>,
    nonce: u64,
}

impl conversation::Wants for Wants {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn take(&mut self, request: DiscoveryRequest) -> Result<(), Status> {
        check_type(&request.type_url)?;
        check_names(&request.resource_names)?;
        // An answer to an earlier response says nothing: one to the last is on its way.
        if !request.response_nonce.is_empty() && request.response_nonce != self.nonce.to_string() {
            return Ok(());
        }
        if let Some(error) = &request.error_detail {
            log_refusal(&request.version_info, &error.message);
        }
        let names = request.resource_names;
        self.has_named |= !names.is_empty();
        let names = (!names.is_empty() || !self.has_named).then_some(names);
        if self.names != names {
            self.names = names;
            self.sent = None;
        }
        Ok(())
    }

    fn news(&mut self, view: &View) -> Option<DiscoveryResponse> {
        let found = secrets::of(view, self.names.as_ref()?);
        // Envoy waits for what is not there yet; an empty answer would take away what it has.
        if found.is_empty() {
            return None;
        }
        let nonce = self.next(secrets::version_of_all(&found))?;
        Some(secrets::response(&found, nonce))
    }
}

impl Wants {
    /// The nonce to send `version` with, unless it was the last to be sent.
    fn next(&mut self, version: String) -> Option<String> {
        if self.sent.as_ref() == Some(&version) {
            return None;
        }
        self.sent = Some(version);
        self.nonce += 1;
        Some(self.nonce.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::conversation::Wants as _;
    use super::*;
    use crate::proto::google::rpc;

    fn request(names: &[&str], nonce: &str) -> DiscoveryRequest {
        DiscoveryRequest {
            resource_names: names.iter().map(ToString::to_string).collect(),
            response_nonce: nonce.to_owned(),
            ..DiscoveryRequest::default()
        }
    }

    #[test]
    fn a_version_is_sent_once_whether_it_is_taken_or_refused() {
        let mut wants = Wants::default();
        wants.take(request(&["default"], "")).unwrap();
        assert_eq!(wants.next("a".to_owned()).unwrap(), "1");
        wants.take(request(&["default"], "1")).unwrap();
        assert_eq!(wants.next("a".to_owned()), None, "it was taken");
        assert_eq!(wants.next("b".to_owned()).unwrap(), "2");
        let mut refusal = request(&["default"], "2");
        refusal.error_detail = Some(rpc::Status::default());
        wants.take(refusal).unwrap();
        assert_eq!(wants.next("b".to_owned()), None, "it was refused");
        assert_eq!(wants.next("c".to_owned()).unwrap(), "3");
    }

    #[test]
    fn other_names_are_answered_and_late_answers_to_earlier_responses_are_not() {
        let mut wants = Wants::default();
        wants.take(request(&["default"], "")).unwrap();
        assert!(wants.next("a".to_owned()).is_some());
        assert!(wants.next("b".to_owned()).is_some());
        wants.take(request(&["ROOTCA"], "1")).unwrap();
        assert_eq!(wants.names.as_deref().unwrap(), ["default"]);
        wants.take(request(&["ROOTCA"], "2")).unwrap();
        assert_eq!(wants.names.as_deref().unwrap(), ["ROOTCA"]);
        assert!(wants.next("b".to_owned()).is_some());
    }

    #[test]
    fn naming_nothing_is_for_all_at_first_and_for_nothing_later() {
        let mut wants = Wants::default();
        wants.take(request(&[], "")).unwrap();
        assert_eq!(wants.names.as_deref(), Some(&[][..]));
        wants.take(request(&["default"], "")).unwrap();
        wants.take(request(&[], "")).unwrap();
        assert_eq!(wants.names, None, "it has unsubscribed");
        wants.take(request(&["default"], "")).unwrap();
        assert_eq!(wants.names.as_deref().unwrap(), ["default"]);
    }

    #[test]
    fn other_types_and_too_many_or_too_long_names_are_refused() {
        let mut wants = Wants::default();
        let mut other = request(&["default"], "");
        other.type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned();
        assert!(wants.take(other).is_err());
        let many: Vec<_> = (0..65).map(|n| n.to_string()).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(wants.take(request(&many, "")).is_err());
        let long = "x".repeat(8 * 1024);
        assert!(wants.take(request(&[&long, "default"], "")).is_err());
        assert!(wants.names.is_none());
    }
}
