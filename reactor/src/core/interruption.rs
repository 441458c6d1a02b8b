//! [`Interruption`]: why something that was waited for ended although nobody decided how.

use std::error::Error;
use std::fmt;
use std::io;

/// Why a [`Deferred`](crate::Deferred) or a task ended without an outcome of its own.
///
/// The error type of a Deferred can be made of it (`From<Interruption>`), so that a waiter has one error to
/// look at. It is for `String`, [`std::io::Error`], `Box<dyn Error>` and `()` already.
///
/// ```
/// use twistor::Interruption;
///
/// #[derive(Debug, PartialEq)]
/// enum LoginError {
///     WrongPassword,
///     Interrupted(Interruption),
/// }
///
/// impl From<Interruption> for LoginError {
///     fn from(interruption: Interruption) -> Self {
///         Self::Interrupted(interruption)
///     }
/// }
///
/// assert_eq!(LoginError::from(Interruption::TimedOut), LoginError::Interrupted(Interruption::TimedOut));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Interruption {
    /// It was cancelled.
    Cancelled,
    /// It took longer than it was given.
    TimedOut,
    /// What would have decided it was dropped without doing so, or the reactor is gone.
    Dropped,
    /// A hook on the way to it, or the task itself, panicked with this text. The log has it, too.
    Panicked(String),
    /// There was nothing to choose from: a race without runners.
    Empty,
}

impl fmt::Display for Interruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => f.write_str("cancelled"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Dropped => f.write_str("dropped by what should have decided it"),
            Self::Panicked(text) => write!(f, "panicked: {text}"),
            Self::Empty => f.write_str("nothing to choose from"),
        }
    }
}

impl Error for Interruption {}

impl From<Interruption> for io::Error {
    fn from(interruption: Interruption) -> Self {
        let kind = match interruption {
            Interruption::TimedOut => io::ErrorKind::TimedOut,
            // Not `Interrupted`: that asks for the call to be made again.
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, interruption)
    }
}

impl From<Interruption> for String {
    fn from(interruption: Interruption) -> Self {
        interruption.to_string()
    }
}

/// For [`Deferred::any`](crate::Deferred::any), which fails with the errors of all its inputs.
impl<E: From<Interruption>> From<Interruption> for Vec<E> {
    fn from(interruption: Interruption) -> Self {
        vec![interruption.into()]
    }
}

impl From<Interruption> for () {
    fn from(_: Interruption) {}
}
