//! Why TLS failed: [`TlsError`].

use std::error::Error;
use std::fmt;
use std::rc::Rc;

use rustls::CertificateError;

/// Why a connection with TLS ended, in [`Reason::Tls`](crate::Reason::Tls).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// The stream ended without the peer saying so in TLS (RFC 8446, section 6.1): what came may not be all.
    Truncated,
    /// The peer ended the connection in the middle of the handshake.
    HandshakeEnded,
    /// The handshake took too long.
    HandshakeTimeout,
    /// Too many handshakes were under way, and this one had waited longest.
    TooManyHandshakes,
    /// There was plain text behind the request to begin with TLS, where an attacker may have put it.
    Injected,
    /// What the peer sent is not right, its certificate is not, or it said that ours is not.
    Protocol(Rc<rustls::Error>),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => {
                f.write_str("the stream was cut off: its end was not announced (close_notify)")
            }
            Self::HandshakeEnded => f.write_str("the peer ended the connection during the handshake"),
            Self::HandshakeTimeout => f.write_str("the handshake took too long"),
            Self::TooManyHandshakes => f.write_str("too many handshakes were under way"),
            Self::Injected => f.write_str("plain text came behind the request to begin with TLS"),
            Self::Protocol(error) => match &**error {
                // The text of a check of the user's own.
                rustls::Error::InvalidCertificate(CertificateError::Other(own)) => {
                    write!(f, "the peer's certificate was refused: {}", own.0)
                }
                error => error.fmt(f),
            },
        }
    }
}

impl Error for TlsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Protocol(error) => Some(&**error),
            _ => None,
        }
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self::Protocol(Rc::new(error))
    }
}
