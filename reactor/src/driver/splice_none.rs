//! Systems that cannot relay between sockets: there is never a pipe, and the reactor copies instead.

use std::io;

use socket2::Socket;

use super::Relayed;

/// Does not exist here.
pub(crate) enum Pipe {}

impl Pipe {
    pub(super) fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn relay(&mut self, _: &Socket, _: &Socket, _: bool, _: usize, _: &mut u64) -> Relayed {
        match *self {}
    }
}
