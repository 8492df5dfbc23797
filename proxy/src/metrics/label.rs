//! The closed sets that label series and name fields of the access log.

/// Which way a request goes, seen from the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    pub(super) const ALL: [Self; 2] = [Self::Inbound, Self::Outbound];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What was decided about a request. An allowed request may still fail on its way; its status and reason say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    Allow,
    /// No grant names it, a guard forbids it, or no service names its destination (403).
    Deny,
    /// It is ambiguous or malformed (400 and kin), or memory was full (503); policy was not asked.
    Reject,
    /// It was granted, over a limit (429).
    Limit,
}

impl Decision {
    pub(super) const ALL: [Self; 4] = [Self::Allow, Self::Deny, Self::Reject, Self::Limit];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Reject => "reject",
            Self::Limit => "limit",
        }
    }
}
