//! What the driver reports about a connection, and what its protocol hears of it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use crate::core::slots::Token;
use crate::net::connection::{End, Phase};
use crate::net::reason::Reason;
use crate::protocol::Eof;
use crate::reactor::inner::Inner;
use crate::reactor::stats::Counters;
use crate::reactor::transport::Transport;
use crate::reactor::watchdog::Hook;

impl Inner {
    /// Bytes arrived: the one path that has to be short. A connection at peace has nothing that could stand
    /// between its driver and its protocol.
    #[inline(always)]
    pub(crate) fn received(&self, token: Token, data: &[u8]) {
        let Some(transport) = self.transport(token) else {
            Counters::bump(&self.counters.stale);
            return;
        };
        let link = &*transport.0;
        let at_peace = link.machine.borrow_mut().received_in_peace(data.len());
        let protocol = if at_peace { link.protocol.take() } else { None };
        let Some(mut protocol) = protocol else {
            self.received_otherwise(&transport, data);
            return;
        };
        link.attended.set(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| protocol.data_received(&transport, data)));
        let mut machine = link.machine.borrow_mut();
        if outcome.is_ok() && machine.is_at_peace() {
            self.hook_ran(token, Hook::DataReceived);
            link.put_back(protocol);
            link.attended.set(false);
            if !self.send_in_peace(link, &mut machine) {
                drop(machine);
                self.tend_closely(&transport);
            }
        } else {
            drop(machine);
            self.leave(&transport, protocol, Hook::DataReceived, outcome);
        }
    }

    /// Descriptors arrived, and then the bytes that they came with. What nobody takes is closed.
    #[cfg(unix)]
    pub(crate) fn passed(&self, token: Token, descriptors: Vec<std::os::fd::OwnedFd>, data: &[u8]) {
        for descriptor in descriptors {
            self.call_hook(token, Hook::DescriptorReceived, |protocol, transport| {
                protocol.descriptor_received(transport, descriptor);
            });
        }
        if data.is_empty() {
            self.peer_ended(token);
        } else {
            self.received(token, data);
        }
    }

    /// Bytes arrived at a connection that is watched, relayed, paused, on its way out or behind a filter.
    #[cold]
    fn received_otherwise(&self, transport: &Transport, data: &[u8]) {
        #[cfg(feature = "tls")]
        if transport.0.machine.borrow().tls().is_some() {
            return self.received_sealed(transport, data);
        }
        self.received_plain(transport, data);
    }

    /// Bytes for the protocol, if it wants any.
    pub(super) fn received_plain(&self, transport: &Transport, data: &[u8]) {
        let Some((_, mut protocol)) = self.enter(transport.0.token) else {
            Counters::bump(&self.counters.stale);
            return;
        };
        let at_once = {
            let mut machine = transport.0.machine.borrow_mut();
            machine.stamp_received(|| self.now());
            machine.delivers_at_once()
        };
        if at_once && !self.is_relaying(transport) {
            let outcome = catch_unwind(AssertUnwindSafe(|| protocol.data_received(transport, data)));
            self.leave(transport, protocol, Hook::DataReceived, outcome);
            return;
        }
        // What was given back comes before what is new, for a relay as well.
        if transport.0.machine.borrow().has_unread() || !self.relay_bytes(transport, data) {
            let mut machine = transport.0.machine.borrow_mut();
            match machine.phase() {
                Phase::Open => machine.keep(data),
                Phase::Closing => {
                    if machine.discard(data.len(), &self.config.linger) {
                        let (reason, end) = machine.discarded_enough();
                        machine.lose(reason, end, transport.pool());
                    }
                }
                Phase::Lost => {}
            }
        }
        self.leave_uncalled(transport, protocol);
    }

    fn is_relaying(&self, transport: &Transport) -> bool {
        transport.0.extra.borrow().as_ref().is_some_and(|extra| extra.relay_out.is_some())
    }

    /// The peer has finished sending.
    pub(crate) fn peer_ended(&self, token: Token) {
        let Some(transport) = self.transport(token) else {
            Counters::bump(&self.counters.stale);
            return;
        };
        transport.0.machine.borrow_mut().peer_ended();
        #[cfg(feature = "tls")]
        self.end_broken_handshake(&transport);
        self.tell_peer_end(&transport);
    }

    /// Tells the protocol that the peer has finished, unless something has to be delivered first; tends the
    /// connection either way.
    pub(super) fn tell_peer_end(&self, transport: &Transport) {
        self.switch_first(transport);
        #[cfg(feature = "tls")]
        self.lose_truncated(transport);
        if !transport.0.machine.borrow_mut().take_peer_end() || self.relay_ended(transport) {
            self.tend(transport);
            return;
        }
        self.call_hook(transport.0.token, Hook::EofReceived, |protocol, transport| {
            if protocol.eof_received(transport) == Eof::Close {
                transport.lose_connection();
            }
        });
    }

    /// The stream can take output again.
    pub(crate) fn writable(&self, token: Token) {
        let Some(transport) = self.transport(token) else {
            Counters::bump(&self.counters.stale);
            return;
        };
        transport.0.machine.borrow_mut().writable();
        // Not the short way: what the driver watches for has to change, too.
        self.tend_closely(&transport);
        self.target_writable(&transport);
    }

    /// The stream is dead.
    pub(crate) fn failed(&self, token: Token, error: &std::io::Error) {
        let Some(transport) = self.transport(token) else {
            Counters::bump(&self.counters.stale);
            return;
        };
        log::debug!("{}: {error}", transport.peer_addr());
        transport.0.machine.borrow_mut().lose(Reason::Reset, End::Orderly, transport.pool());
        self.tend(&transport);
    }

    /// Delivers again what was given back, at most what was there when this began.
    pub(crate) fn redeliver(&self, token: Token) {
        let Some(transport) = self.transport(token) else { return };
        transport.0.awaits_redelivery.set(false);
        let mut budget = self.config.budgets.read;
        loop {
            self.switch_first(&transport);
            let bytes = {
                let mut machine = transport.0.machine.borrow_mut();
                if !machine.wants_redelivery() { None } else { machine.take_unread() }
            };
            let Some(bytes) = bytes else { break };
            let (length, left) = (bytes.len(), transport.0.machine.borrow().unread_bytes());
            self.deliver_again(&transport, bytes);
            budget = budget.saturating_sub(length);
            // What the hook gave back is for the next pass.
            if budget == 0 || transport.0.machine.borrow().unread_bytes() > left {
                break;
            }
        }
        self.tell_peer_end(&transport);
    }

    fn deliver_again(&self, transport: &Transport, bytes: Bytes) {
        if !self.relay_bytes(transport, &bytes) {
            self.call_hook(transport.0.token, Hook::DataReceived, |protocol, transport| {
                protocol.data_received(transport, &bytes);
            });
        }
        self.discard(bytes);
    }
}
