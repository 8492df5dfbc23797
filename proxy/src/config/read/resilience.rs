//! How the endpoints of a service are used.

use super::timeout;
use crate::config::Resilience;
use policy::yaml::{Map, Node, Problems};

/// The keys of a service that say so.
pub(super) fn resilience(map: &mut Map<'_>) -> Resilience {
    let default = Resilience::default();
    Resilience {
        try_timeout: map
            .optional("tryTimeout", or_off(timeout))
            .unwrap_or(default.try_timeout),
    }
}

/// A value, or `off`.
fn or_off<T>(
    read: impl Fn(&Node, &Problems) -> Option<T>,
) -> impl Fn(&Node, &Problems) -> Option<Option<T>> {
    move |node, problems| match node.is_word("off") {
        true => Some(None),
        false => read(node, problems).map(Some),
    }
}
