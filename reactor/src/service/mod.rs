//! What is built of the reactor's parts for whole programs: clients that stay connected.

pub(crate) mod reconnecting;
