//! IssueJwt: a token for the holder of a valid SVID.

use super::refused::Refused;
use super::{Api, requested_ttl, unix_ms};
use crate::admission::Source;
use crate::authority::IssueError;
use crate::jwt::{TokenError, Tokens};
use crate::proto::{IssueJwtRequest, IssueJwtResponse};
use identity::Leaf;
use std::sync::Arc;
use std::time::SystemTime;

impl Api {
    pub(crate) fn issuing_tokens(self, tokens: Arc<Tokens>) -> Self {
        Self {
            tokens: Some(tokens),
            ..self
        }
    }

    pub(super) async fn issue_token(
        &self,
        svid: &Leaf,
        request: IssueJwtRequest,
    ) -> Result<IssueJwtResponse, Refused> {
        self.keep_pace(&Source::Tokens(svid.id.clone()))?;
        let tokens = self.tokens.as_ref().ok_or(Refused::NoTokens)?;
        let ttl = requested_ttl(request.ttl_seconds);
        let issued = tokens.issue(svid, request.audience, ttl).await?;
        Ok(IssueJwtResponse {
            token: issued.token,
            expires_unix_ms: unix_ms(issued.expires),
            bundle: Some(self.bundle()),
            server_time_unix_ms: unix_ms(SystemTime::now()),
        })
    }
}

impl From<TokenError> for Refused {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Audience => Self::Audience(error),
            TokenError::Lineage(error) => Self::Issue(IssueError::Lineage(error)),
            TokenError::Record(error) => Self::Store(error),
            TokenError::Key => Self::Issue(IssueError::Interrupted),
        }
    }
}
