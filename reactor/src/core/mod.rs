//! What the loop is made of, without the loop: slots with generations, the outbox, the callback queue, the
//! timer wheel, and a cache.
//!
//! Everything here is pure: no system call, no clock, no user code is ever called. It can be tested under
//! Miri and under any imagined order of events.

pub(crate) mod address;
pub(crate) mod cache;
#[cfg(unix)]
pub(crate) mod credentials;
pub(crate) mod datagrams;
pub(crate) mod fifo;
pub(crate) mod intake;
pub(crate) mod interruption;
pub(crate) mod multicast;
pub(crate) mod outbox;
pub(crate) mod pool;
pub(crate) mod pruned;
pub(crate) mod queue;
pub(crate) mod random;
pub(crate) mod slots;
pub(crate) mod stalled;
pub(crate) mod wheel;
