//! What is built of the reactor's parts for whole programs: clients that stay connected, several reactors.

pub(crate) mod reactors;
pub(crate) mod reconnecting;
