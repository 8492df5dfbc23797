//! Which server a TLS client asks for (SNI, RFC 6066 section 3). rustls reads the ClientHello, and answers nothing here: the
//! bytes go on as they came.
//!
//! Only the outer name is seen. With Encrypted Client Hello that is the front of whoever hides behind it, so such a front
//! passes only where the configuration names it.

use crate::detect::begins_as_tls;
use policy::target::host::Host;
use rustls::server::Acceptor;
use std::fmt;

/// The most that is read before the hello has to be whole. With post-quantum keys and a session ticket one has 2 to 4 KiB.
const MOST_HELLO: usize = 16 * 1024;

/// A ClientHello in the coming.
pub struct Hello {
    acceptor: Acceptor,
    fed: usize,
}

/// Why a connection does not say which server it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    #[error("expected a TLS ClientHello")]
    NotTls,
    #[error("the ClientHello names no server")]
    NoName,
    #[error("expected a ClientHello of at most {MOST_HELLO} bytes")]
    TooLong,
    #[error("the ClientHello did not come in time")]
    Timeout,
}

impl HelloError {
    /// A word from a closed set, for the access log and as a metric label.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotTls => "not_tls",
            Self::NoName => "no_server_name",
            Self::TooLong => "hello_too_long",
            Self::Timeout => "hello_timeout",
        }
    }
}

impl Hello {
    pub fn new() -> Self {
        Self {
            acceptor: Acceptor::default(),
            fed: 0,
        }
    }

    /// The name that is asked for, canonical, once the hello is whole. `start` is all that has come so far.
    ///
    /// # Errors
    /// Any but [`HelloError::Timeout`]; nothing more can be read then.
    pub fn read(&mut self, start: &[u8]) -> Result<Option<String>, HelloError> {
        if !start.is_empty() && !begins_as_tls(start) {
            return Err(HelloError::NotTls);
        }
        let within = &start[..start.len().min(MOST_HELLO)];
        while self.fed < within.len() {
            let mut rest = &within[self.fed..];
            let taken = self.acceptor.read_tls(&mut rest);
            match taken {
                Ok(1..) => self.fed = within.len() - rest.len(),
                Ok(0) | Err(_) => return Err(HelloError::NotTls),
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let name = hello.server_name().ok_or(HelloError::NoName)?;
                    let host = Host::parse(name.as_bytes()).map_err(|_| HelloError::NoName)?;
                    return Ok(Some(host.name().to_owned()));
                }
                Err(_) => return Err(HelloError::NotTls),
            }
        }
        if start.len() >= MOST_HELLO {
            return Err(HelloError::TooLong);
        }
        Ok(None)
    }
}

impl Default for Hello {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello")
            .field("fed", &self.fed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
