//! Accepting: connections from a listener, and what is done when one cannot be had.

use std::io;

use super::super::socket;
use super::super::{Completion, NewSocket, NewStream, open_reserve, ops};
use super::{PollDriver, Turn};
use crate::core::slots::Token;

impl PollDriver {
    pub(super) fn accept<'b>(&mut self, listener: Token, budget: u32) -> Option<Completion<'b>> {
        self.turn = None;
        let source = self.source(listener)?;
        if !source.wanted.reads() {
            return None;
        }
        let result = ops::accept(source.socket.as_ref()?);
        self.stats.accepts += 1;
        if budget > 1 {
            self.turn = Some(Turn::Accept(listener, budget - 1));
        }
        let error = match result {
            Ok((socket, peer)) => {
                if self.reserve.is_none() {
                    // Somebody else took it while there was none to spare.
                    self.reserve = open_reserve().ok();
                }
                if let Some(options) = self.accept_options.get(&listener)
                    && let Err(error) = socket::apply_to_accepted(&socket, options)
                {
                    log::warn!("{peer}: {error}");
                }
                return Some(Completion::Accepted {
                    listener,
                    #[cfg(unix)]
                    stream: NewStream {
                        socket: NewSocket::Real(socket),
                        passes: peer.unix().is_some() && self.unix.takes_descriptors(listener),
                        peer,
                    },
                    #[cfg(not(unix))]
                    stream: NewStream { socket: NewSocket::Real(socket), peer },
                });
            }
            Err(error) => error,
        };
        match classify(&error) {
            AcceptError::Empty => {
                self.turn = None;
                None
            }
            AcceptError::Unlucky => Some(Completion::AcceptFailed { listener, error }),
            AcceptError::OutOfDescriptors => {
                self.turn = None;
                let shed = self.shed(listener);
                Some(Completion::Exhausted { listener, error, shed })
            }
            AcceptError::Other => {
                self.turn = None;
                Some(Completion::Exhausted { listener, error, shed: 0 })
            }
        }
    }

    /// Refuses waiting connections with the reserved descriptor, at most one accept budget of them.
    pub(super) fn shed(&mut self, listener: Token) -> u32 {
        let mut shed = 0;
        while shed < self.budgets.accept {
            if self.reserve.take().is_none() {
                break;
            }
            let Some(socket) = self.source(listener).and_then(|source| source.socket.as_ref()) else { break };
            let accepted = ops::accept(socket);
            self.stats.accepts += 1;
            let refused = accepted.is_ok();
            drop(accepted);
            self.reserve = open_reserve().ok();
            if !refused {
                break;
            }
            shed += 1;
        }
        if self.reserve.is_none() {
            self.reserve = open_reserve().ok();
        }
        shed
    }
}

/// What a failed accept means for the listener.
enum AcceptError {
    /// Nobody is waiting.
    Empty,
    /// This one connection is lost.
    Unlucky,
    /// No descriptor is left in the process or the system.
    #[cfg_attr(not(unix), allow(dead_code, reason = "sockets are not descriptors there"))]
    OutOfDescriptors,
    /// Anything else: better not tried again at once.
    Other,
}

fn classify(error: &io::Error) -> AcceptError {
    match error.kind() {
        io::ErrorKind::WouldBlock => return AcceptError::Empty,
        io::ErrorKind::Interrupted
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown => return AcceptError::Unlucky,
        _ => {}
    }
    #[cfg(unix)]
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => return AcceptError::OutOfDescriptors,
        // Errors already pending on the new socket, which Linux passes on (accept(2)).
        Some(libc::EPROTO | libc::ENOPROTOOPT | libc::EHOSTDOWN | libc::EOPNOTSUPP) => {
            return AcceptError::Unlucky;
        }
        _ => {}
    }
    AcceptError::Other
}
