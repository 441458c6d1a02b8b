//! Why TLS failed: [`TlsError`].

use std::error::Error;
use std::fmt;
use std::rc::Rc;

use rustls::{CertificateError, OtherError};

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
                rustls::Error::InvalidCertificate(fault) => {
                    f.write_str("invalid peer certificate: ")?;
                    write_fault(fault, f)
                }
                error => error.fmt(f),
            },
        }
    }
}

/// What is wrong with a certificate, where rustls only has a name for it.
fn write_fault(fault: &CertificateError, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match fault {
        CertificateError::UnknownIssuer => {
            f.write_str("it was not issued by anybody who is trusted (UnknownIssuer)")
        }
        // A self-signed one, often: another root has the same name.
        CertificateError::BadSignature => {
            f.write_str("it was not signed by the one that it says has issued it (BadSignature)")
        }
        CertificateError::Other(OtherError(error)) => match error.downcast_ref() {
            Some(webpki::Error::CaUsedAsEndEntity) => f.write_str(
                "it is that of an authority (CA:TRUE), which is not to be shown by a server or client",
            ),
            _ => write!(f, "{error}"),
        },
        fault => write!(f, "{fault}"),
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_is_wrong_with_a_certificate_is_said_in_words() {
        let text = |fault| TlsError::from(rustls::Error::InvalidCertificate(fault)).to_string();
        let other = |error: Arc<dyn Error + Send + Sync>| text(CertificateError::Other(OtherError(error)));
        assert_eq!(
            text(CertificateError::UnknownIssuer),
            "invalid peer certificate: it was not issued by anybody who is trusted (UnknownIssuer)"
        );
        assert_eq!(
            other(Arc::new(webpki::Error::CaUsedAsEndEntity)),
            "invalid peer certificate: it is that of an authority (CA:TRUE), which is not to be shown by a server or \
             client"
        );
        assert_eq!(
            other(Arc::new(std::io::Error::other("not on our list"))),
            "invalid peer certificate: not on our list"
        );
        assert_eq!(text(CertificateError::Expired), "invalid peer certificate: Expired");
    }
}
