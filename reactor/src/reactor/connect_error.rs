//! Why a connection could not be made: [`ConnectError`].

use std::error::Error;
use std::fmt;
use std::io;

use crate::core::interruption::Interruption;
use crate::endpoint::EndpointError;
use crate::net::reason::Reason;

/// Why a connection could not be made. The text names the address and the cause.
#[derive(Debug)]
pub struct ConnectError {
    address: String,
    kind: ConnectErrorKind,
    source: Option<io::Error>,
}

/// Kinds of [`ConnectError`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ConnectErrorKind {
    /// The endpoint makes no sense.
    Endpoint,
    /// There is no host of that name, or nobody knows.
    NotFound,
    /// Nobody listens there.
    Refused,
    /// There is no way there.
    Unreachable,
    /// It took too long.
    TimedOut,
    /// [`Deferred::cancel`](crate::Deferred::cancel) was called, or the reactor stopped.
    Cancelled,
    /// The factory did not want the connection, or a hook panicked before it was complete.
    Declined,
    /// As many attempts are under way as the limit allows.
    TooMany,
    /// TLS: the server could not prove who it is, did not accept what we showed, or broke the protocol.
    #[cfg(feature = "tls")]
    Tls,
    /// Something else; see the source.
    Other,
}

impl ConnectError {
    pub(crate) fn new(address: impl fmt::Display, kind: ConnectErrorKind) -> Self {
        Self { address: address.to_string(), kind, source: None }
    }

    pub(crate) fn from_io(address: impl fmt::Display, error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused => ConnectErrorKind::Refused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                ConnectErrorKind::Unreachable
            }
            io::ErrorKind::TimedOut => ConnectErrorKind::TimedOut,
            _ => ConnectErrorKind::Other,
        };
        Self { address: address.to_string(), kind, source: Some(error) }
    }

    /// The endpoint makes no sense.
    pub(crate) fn of_endpoint(error: EndpointError) -> Self {
        let address = error.to_string();
        Self { address, kind: ConnectErrorKind::Endpoint, source: Some(error.into()) }
    }

    /// The name of the host could not be resolved.
    pub(crate) fn unresolved(target: &str, error: &io::Error) -> Self {
        let text = format!("cannot connect to {target}: the name cannot be resolved: {error}");
        let source = io::Error::new(error.kind(), text);
        Self { address: target.to_owned(), kind: ConnectErrorKind::NotFound, source: Some(source) }
    }

    /// One error for all the addresses of a host, which failed one after the other.
    pub(crate) fn of_all(target: &str, mut errors: Vec<Self>) -> Self {
        let Some(last) = errors.pop() else { return Self::new(target, ConnectErrorKind::Other) };
        if errors.is_empty() && last.address == target {
            return last;
        }
        let kind = last.kind;
        errors.push(last);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let text = format!("cannot connect to {target}: {}", texts.join("; "));
        Self { address: target.to_owned(), kind, source: Some(io::Error::other(text)) }
    }

    /// A connection was lost before it was ready.
    pub(crate) fn unprepared(target: &impl fmt::Display, reason: &Reason) -> Self {
        let text = format!("connected to {target}, but lost before it was prepared: {reason}");
        let source = io::Error::new(io::ErrorKind::ConnectionAborted, text);
        Self { address: target.to_string(), kind: ConnectErrorKind::Declined, source: Some(source) }
    }

    /// A connection was lost in its handshake.
    #[cfg(feature = "tls")]
    pub(crate) fn unsecured(target: &str, reason: &Reason) -> Self {
        use crate::tls::TlsError;

        let kind = match reason {
            Reason::Tls(TlsError::HandshakeTimeout) => ConnectErrorKind::TimedOut,
            Reason::Tls(_) | Reason::Reset => ConnectErrorKind::Tls,
            Reason::Shutdown | Reason::Aborted => ConnectErrorKind::Cancelled,
            _ => ConnectErrorKind::Other,
        };
        let text = match reason {
            Reason::Tls(_) => format!("cannot connect to {target}: {reason}"),
            _ => format!("cannot connect to {target}: lost in the TLS handshake: {reason}"),
        };
        let source = io::Error::other(text);
        Self { address: target.to_owned(), kind, source: Some(source) }
    }

    /// The same error once more, for somebody else who waits.
    pub(crate) fn again(&self) -> Self {
        let source = self.source.as_ref().map(|error| io::Error::new(error.kind(), error.to_string()));
        Self { address: self.address.clone(), kind: self.kind, source }
    }

    /// What kind of error it is.
    #[must_use]
    pub fn kind(&self) -> ConnectErrorKind {
        self.kind
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = &self.address;
        match (self.kind, &self.source) {
            // The driver's text names the address already.
            (_, Some(error)) if error.to_string().contains(address.as_str()) => error.fmt(f),
            (_, Some(error)) => write!(f, "cannot connect to {address}: {error}"),
            (ConnectErrorKind::TimedOut, None) => write!(f, "cannot connect to {address}: timed out"),
            (ConnectErrorKind::Cancelled, None) => write!(f, "cannot connect to {address}: cancelled"),
            (ConnectErrorKind::Declined, None) => {
                write!(f, "connected to {address}, but the protocol was not set up: see the log")
            }
            (ConnectErrorKind::TooMany, None) => {
                write!(f, "cannot connect to {address}: too many attempts are under way (pending_connects)")
            }
            (kind, None) => write!(f, "cannot connect to {address}: {kind:?}"),
        }
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|error| error as &(dyn Error + 'static))
    }
}

impl From<Interruption> for ConnectError {
    fn from(interruption: Interruption) -> Self {
        let kind = match interruption {
            Interruption::Cancelled => ConnectErrorKind::Cancelled,
            Interruption::TimedOut => ConnectErrorKind::TimedOut,
            Interruption::Panicked(_) => ConnectErrorKind::Declined,
            Interruption::Dropped | Interruption::Empty => ConnectErrorKind::Other,
        };
        Self { address: "the peer".to_owned(), kind, source: Some(interruption.into()) }
    }
}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        let kind = match error.kind {
            ConnectErrorKind::Endpoint => io::ErrorKind::InvalidInput,
            ConnectErrorKind::NotFound => io::ErrorKind::NotFound,
            ConnectErrorKind::Refused => io::ErrorKind::ConnectionRefused,
            ConnectErrorKind::Unreachable => io::ErrorKind::HostUnreachable,
            ConnectErrorKind::TimedOut => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
