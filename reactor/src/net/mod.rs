//! The state machines of the network: a connection, its time-outs, the back-off of a listener.
//!
//! They decide; they do not act. No system call is made here, no clock is read and no user code is called:
//! the reactor above feeds them what happened and does what they say.

pub(crate) mod backoff;
pub(crate) mod connection;
pub(crate) mod ends;
pub(crate) mod reason;
pub(crate) mod timeouts;
#[cfg_attr(not(feature = "tls"), path = "tls_none.rs")]
pub(crate) mod tls;
