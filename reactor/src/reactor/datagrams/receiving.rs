//! Datagrams that come in, and what the socket was told: from the driver to the hooks.

use std::io;

use super::{DatagramSocket, Held, Mail, Sending, State, is_refusal};
use crate::core::address::Address;
use crate::core::slots::Token;
use crate::driver::DatagramBatch;
use crate::reactor::inner::Inner;
use crate::reactor::stats::Counters;
use crate::reactor::watchdog::Hook;

/// Failures to send whose hooks have not been called yet; more are only counted.
const FAILURES: usize = 64;

impl Inner {
    /// The driver has something to say about a socket.
    #[cold]
    pub(crate) fn datagrams_ready(
        &self,
        token: Token,
        readable: bool,
        writable: bool,
        error: Option<io::Error>,
    ) {
        let Some(socket) = self.datagrams(token) else {
            Counters::bump(&self.counters.stale);
            return;
        };
        let mail = &*socket.mail;
        if writable && mail.sending.get() == Sending::Blocked {
            mail.sending.set(Sending::Free);
        }
        // From here on, nobody needs to be told that there is something to send.
        let attended = mail.attended.replace(true);
        self.start_datagrams(&socket);
        if let Some(error) = error {
            self.datagram_error(&socket, error);
        }
        if readable {
            self.receive_datagrams(&socket);
        }
        self.look_after_datagrams(&socket);
        mail.attended.set(attended);
        if self.has_untold_failures(mail) {
            self.attend_datagrams(mail);
        }
    }

    pub(super) fn receive_datagrams(&self, socket: &DatagramSocket) {
        let mail = &*socket.mail;
        self.deliver_held(socket);
        let mut batch = self.datagram_batch.take().unwrap_or_else(|| Box::new(DatagramBatch::new()));
        let mut left = self.config.budgets.datagrams;
        while left > 0 && mail.state.get() == State::Open {
            let wanted = mail.appetite.get().wanted().min(left);
            let received = self.driver.borrow_mut().receive_datagrams(
                mail.token,
                &mut batch,
                wanted,
                mail.limits.max_datagram,
            );
            match received {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    left -= 1;
                    self.datagram_error(socket, error);
                    continue;
                }
            }
            let count = batch.len();
            mail.appetite.set(mail.appetite.get().after(wanted, count));
            left = left.saturating_sub(count.max(1));
            self.deliver_batch(socket, &batch);
            self.flush_datagrams(socket);
            // What is left after a single one is reported again.
            if count < wanted || wanted == 1 {
                break;
            }
        }
        self.datagram_batch.set(Some(batch));
    }

    pub(super) fn deliver_batch(&self, socket: &DatagramSocket, batch: &DatagramBatch) {
        for datagram in (0..batch.len()).filter_map(|index| batch.get(index)) {
            let mail = &*socket.mail;
            match mail.state.get() {
                State::Open => {
                    self.deliver(socket, datagram.data, datagram.from, datagram.truncated);
                }
                State::Paused => mail.held.borrow_mut().push_back(Held {
                    data: datagram.data.to_vec(),
                    from: datagram.from.clone(),
                    truncated: datagram.truncated,
                }),
                State::Closed => break,
            }
        }
    }

    pub(super) fn deliver(&self, socket: &DatagramSocket, data: &[u8], from: &Address, truncated: bool) {
        socket.mail.count(|counts| {
            counts.received += 1;
            counts.truncated += u64::from(truncated);
        });
        Counters::bump(&self.counters.datagrams_received);
        if truncated {
            Counters::bump(&self.counters.datagrams_truncated);
            self.call_datagram_hook(socket, Hook::DatagramTruncated, |protocol| {
                protocol.datagram_truncated(socket, data, from);
            });
        } else {
            self.call_datagram_hook(socket, Hook::DatagramReceived, |protocol| {
                protocol.datagram_received(socket, data, from);
            });
        }
    }

    /// Delivers what a pause in the middle of a batch left over.
    pub(super) fn deliver_held(&self, socket: &DatagramSocket) {
        while socket.is_reading() {
            let held = socket.mail.held.borrow_mut().pop_front();
            let Some(held) = held else { return };
            self.deliver(socket, &held.data, &held.from, held.truncated);
        }
    }

    /// The network, or the system, has told the socket of an error.
    pub(super) fn datagram_error(&self, socket: &DatagramSocket, error: io::Error) {
        if is_refusal(&error) {
            // On Windows a socket without a peer is told, too, and nobody knows of whose datagram.
            if socket.mail.peer.is_some() {
                socket.mail.count(|counts| counts.refused += 1);
                self.call_datagram_hook(socket, Hook::ConnectionRefused, |protocol| {
                    protocol.connection_refused(socket);
                });
            }
        } else if error.kind() != io::ErrorKind::Interrupted {
            self.note_failure(&socket.mail, None, error);
        }
    }

    pub(super) fn note_failure(&self, mail: &Mail, to: Option<Address>, error: io::Error) {
        log::debug!("{}: a datagram could not be sent: {error}", mail.local);
        mail.count(|counts| counts.failed += 1);
        let mut failures = mail.failures.borrow_mut();
        if failures.len() < FAILURES {
            failures.push((to, error));
        }
    }

    pub(super) fn has_untold_failures(&self, mail: &Mail) -> bool {
        mail.refusals.get() > 0 || !mail.failures.borrow().is_empty()
    }
}
