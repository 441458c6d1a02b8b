//! [`ExitStatus`]: how a child process ended.

use std::fmt;

use crate::reactor::signals::Signal;
use crate::sys::process::End;

/// How a child process ended.
///
/// ```
/// use twistor::{ExitStatus, Signal};
///
/// assert!(ExitStatus::Code(0).success());
/// let killed = ExitStatus::Signal { signal: Signal::KILL, core_dumped: false };
/// assert_eq!(killed.to_string(), "killed by SIGKILL");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ExitStatus {
    /// By itself, with this exit code.
    Code(i32),
    /// By a signal.
    Signal {
        /// Which one.
        signal: Signal,
        /// Whether the system has kept its memory in a file.
        core_dumped: bool,
    },
    /// Nobody knows: other code of this program has waited for the child, and was told.
    Unknown,
}

impl ExitStatus {
    /// Whether it ended by itself with code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        *self == Self::Code(0)
    }

    /// The exit code, unless it was killed.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(*code),
            _ => None,
        }
    }

    /// The signal that killed it.
    #[must_use]
    pub fn signal(&self) -> Option<Signal> {
        match self {
            Self::Signal { signal, .. } => Some(*signal),
            _ => None,
        }
    }
}

impl From<End> for ExitStatus {
    fn from(end: End) -> Self {
        match end {
            End::Exited(code) => Self::Code(code),
            End::Killed { signal, core } => {
                Self::Signal { signal: Signal::from_raw(signal), core_dumped: core }
            }
            End::Unknown => Self::Unknown,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal { signal, core_dumped: false } => write!(f, "killed by {signal}"),
            Self::Signal { signal, core_dumped: true } => write!(f, "killed by {signal} (core dumped)"),
            Self::Unknown => f.write_str("ended, how is not known"),
        }
    }
}
