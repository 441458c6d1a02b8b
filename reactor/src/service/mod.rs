//! What is built of the reactor's parts for whole programs: clients that stay connected, several reactors,
//! services, daemons.

#[cfg(unix)]
pub(crate) mod daemon;
pub(crate) mod reactors;
pub(crate) mod ready_made;
pub(crate) mod reconnecting;
pub(crate) mod tree;
