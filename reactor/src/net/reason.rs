//! Why a connection ended.

use std::error::Error;
use std::fmt;
use std::rc::Rc;

use super::timeouts::Timeout;
use crate::core::interruption::Interruption;
#[cfg(feature = "tls")]
use crate::tls::TlsError;

/// Why a connection was lost, as [`connection_lost`](crate::Protocol::connection_lost) is told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// Both sides are done: an orderly end.
    Closed,
    /// The peer or the network broke the connection; what was not yet sent or read is gone.
    Reset,
    /// [`abort_connection`](crate::Transport::abort_connection) was called here.
    Aborted,
    /// A time-out set on the transport passed.
    TimedOut(Timeout),
    /// The peer did not read what was written for it, up to the write limit of the connection or of the
    /// reactor.
    WriteLimit,
    /// After [`lose_connection`](crate::Transport::lose_connection) the peer did not take the rest in time.
    LingerTimeout,
    /// TLS failed, or was cut off.
    #[cfg(feature = "tls")]
    Tls(TlsError),
    /// A hook of the protocol panicked.
    Panicked,
    /// [`fail`](crate::Transport::fail) was called with this error, or something that was asked for failed.
    Failed(Rc<dyn Error>),
    /// The reactor stopped and the connection did not end within the drain time-out.
    Shutdown,
}

impl Reason {
    pub(crate) fn failed(error: impl Into<Box<dyn Error>>) -> Self {
        Self::Failed(Rc::from(error.into()))
    }

    /// Whether the connection ended in good order.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        matches!(self, Self::Closed)
    }
}

impl From<Interruption> for Reason {
    fn from(interruption: Interruption) -> Self {
        Self::failed(interruption)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::Reset => f.write_str("reset by the peer or the network"),
            Self::Aborted => f.write_str("aborted"),
            Self::TimedOut(which) => write!(f, "timed out ({which})"),
            Self::WriteLimit => f.write_str("the peer does not read: write limit reached"),
            Self::LingerTimeout => f.write_str("the peer did not take the last bytes in time"),
            #[cfg(feature = "tls")]
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Panicked => f.write_str("a hook panicked"),
            Self::Failed(error) => write!(f, "failed: {error}"),
            Self::Shutdown => f.write_str("the reactor stopped"),
        }
    }
}

impl Error for Reason {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed(error) => Some(&**error),
            #[cfg(feature = "tls")]
            Self::Tls(error) => Some(error),
            _ => None,
        }
    }
}
