//! TLS on the connections of a reactor: input and output pass its [filter](crate::net::tls), handshakes take
//! turns, and a port or an attempt to connect gives a connection its protocol only when it is secure.

mod gate;
mod starting;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crate::core::address::Address;
use crate::core::outbox::Outbox;
use crate::core::pool::Pool;
use crate::core::slots::Token;
use crate::driver::{Sent, read_queued_file};
use crate::net::connection::{Connection as Machine, End, Phase};
use crate::net::reason::Reason;
use crate::net::tls::{Opened, Opening, SpareWire, Tls};
use crate::reactor::inner::{Inner, Slot};
use crate::reactor::stats::Counters;
use crate::reactor::transport::{Link, Transport};
use crate::reactor::watchdog::Hook;
use crate::tls::TlsError;
use crate::tls::TlsServer;

/// What the connections with TLS share.
#[derive(Default)]
pub(crate) struct TlsCommons {
    /// Input that is being opened; not here meanwhile.
    opening: Cell<Opening>,
    spare: RefCell<SpareWire>,
    /// Of which pass, and how many handshakes were worked on in it.
    turns: Cell<(u64, u32)>,
    /// Handshakes with input that have to wait for a pass that is less busy.
    waiting: RefCell<VecDeque<Token>>,
}

impl Inner {
    /// The ports with TLS.
    pub(crate) fn tls_ports(&self) -> Vec<(Address, TlsServer)> {
        let slots = self.slots.borrow();
        let ports = slots.iter().filter_map(|(_, slot)| match slot {
            Slot::Listener(listening) => Some((listening.address().clone(), listening.tls()?)),
            _ => None,
        });
        ports.collect()
    }

    /// Sealed bytes arrived.
    pub(super) fn received_sealed(&self, transport: &Transport, data: &[u8]) {
        let is_in_handshake = {
            let mut machine = transport.0.machine.borrow_mut();
            machine.discount_received(data.len());
            // A record may take its time to become complete; its bytes are input all the same.
            machine.stamp_received(|| self.now());
            machine.tls().is_some_and(Tls::is_in_handshake)
        };
        if !is_in_handshake && !transport.0.machine.borrow().is_open() {
            // Nobody will see it: it is as good to throw away as it is.
            return self.received_plain(transport, data);
        }
        if is_in_handshake && !(self.tls.waiting.borrow().is_empty() && self.take_turn()) {
            self.wait_for_turn(transport, data);
            return;
        }
        self.open_records(transport, data);
    }

    /// Whether one more handshake may be worked on in this pass.
    fn take_turn(&self) -> bool {
        let pass = self.counters.passes.get();
        let (counted, count) = self.tls.turns.get();
        let count = if counted == pass { count } else { 0 };
        let is_free = count < self.config.handshakes_per_pass;
        self.tls.turns.set((pass, count + u32::from(is_free)));
        is_free
    }

    /// No handshake waits any more: the connections are gone, and so is the call that would have gone on with
    /// them.
    pub(super) fn forget_waiting(&self) {
        self.tls.waiting.borrow_mut().clear();
    }

    fn wait_for_turn(&self, transport: &Transport, data: &[u8]) {
        let token = transport.0.token;
        let is_new = {
            let mut machine = transport.0.machine.borrow_mut();
            machine.tls_mut().is_some_and(|tls| {
                let is_new = !tls.awaits_turn();
                tls.wait_with(data);
                is_new
            })
        };
        if is_new {
            let mut waiting = self.tls.waiting.borrow_mut();
            waiting.push_back(token);
            if waiting.len() == 1 {
                drop(waiting);
                self.call_waiting();
            }
        }
        self.tend(transport);
    }

    /// Has the next pass go on with handshakes that wait.
    fn call_waiting(&self) {
        self.handle.call_soon(|handle| {
            let Some(inner) = handle.inner() else { return };
            while !inner.tls.waiting.borrow().is_empty() && inner.take_turn() {
                let token = inner.tls.waiting.borrow_mut().pop_front();
                if let Some(transport) = token.and_then(|token| inner.transport(token)) {
                    inner.open_records(&transport, &[]);
                }
            }
            if !inner.tls.waiting.borrow().is_empty() {
                inner.call_waiting();
            }
        });
    }

    /// Opens what has come, and hands it to whom it concerns, record by record: between two of them anybody
    /// may pause, close, or switch.
    fn open_records(&self, transport: &Transport, data: &[u8]) {
        let link = &*transport.0;
        let mut opening = self.tls.opening.take();
        let begun = match link.machine.borrow_mut().tls_mut() {
            Some(tls) => tls.begin(data, &mut opening),
            None => Ok(()),
        };
        if let Err(error) = begun {
            self.tls_failed(transport, error);
        }
        let mut is_due = false;
        let mut is_wanted;
        loop {
            let opened = {
                let mut machine = link.machine.borrow_mut();
                is_wanted = match machine.phase() {
                    Phase::Open => true,
                    // What was written before may need the handshake to leave.
                    Phase::Closing => machine.tls().is_some_and(Tls::is_in_handshake),
                    Phase::Lost => false,
                };
                let Some(tls) = machine.tls_mut().filter(|_| is_wanted) else { break };
                let spare = &mut self.tls.spare.borrow_mut();
                // What comes from outside must not end the program, whatever it finds in a library.
                self.contain("rustls", || tls.open(&mut opening, spare)).unwrap_or_else(|| tls.give_up())
            };
            match opened {
                Opened::Record => is_due = self.received_opened(transport, &opening.plain),
                Opened::Secured => self.secured(transport),
                Opened::PeerEnd => link.machine.borrow_mut().peer_announced_end(),
                Opened::Nothing => break,
                Opened::Failed(error) => {
                    self.tls_failed(transport, error);
                    break;
                }
            }
        }
        if let Some(tls) = link.machine.borrow_mut().tls_mut() {
            tls.end(&mut opening, is_wanted);
        }
        self.tls.opening.set(opening);
        if is_due {
            link.attended.set(false);
        }
        if !self.flows_sealed(link) || !self.send_flowing(link) {
            self.tell_peer_end(transport);
        }
    }

    /// Plain bytes for the protocol. A connection that just flows is not tended behind each record, but once
    /// behind all that came with it: true if that is still to be done.
    fn received_opened(&self, transport: &Transport, plain: &[u8]) -> bool {
        let link = &*transport.0;
        link.machine.borrow_mut().count_opened(plain.len());
        let protocol = if self.flows_sealed(link) { link.protocol.take() } else { None };
        let Some(mut protocol) = protocol else {
            self.received_plain(transport, plain);
            return false;
        };
        link.attended.set(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| protocol.data_received(transport, plain)));
        if outcome.is_ok() && self.flows_sealed(link) {
            self.hook_ran(link.token, Hook::DataReceived);
            link.put_back(protocol);
            return true;
        }
        self.leave(transport, protocol, Hook::DataReceived, outcome);
        false
    }

    /// Whether nothing stands between a connection's filter and its protocol, nor between its output and the
    /// kernel.
    fn flows_sealed(&self, link: &Link) -> bool {
        link.machine.borrow().flows_sealed() && link.extra.borrow().is_none()
    }

    /// Sends what a connection that just flows has to send; true if the kernel took it and all is done.
    fn send_flowing(&self, link: &Link) -> bool {
        let mut machine = link.machine.borrow_mut();
        if !machine.is_waiting_to_send() {
            return true;
        }
        let before = machine.pending();
        // What goes wrong is found out anew where every case has its place.
        let Ok(outcome) = self.flush_sealed(link, &mut machine) else { return false };
        let sent = before.saturating_sub(machine.pending());
        machine.sent(sent, outcome == Sent::Blocked, || self.now());
        outcome == Sent::All && !link.pool().has_spent()
    }

    /// A handshake is complete.
    fn secured(&self, transport: &Transport) {
        Counters::bump(&self.counters.handshakes);
        self.disarm(&mut transport.0.machine.borrow_mut());
        let info = transport.tls();
        let Some(info) = info else { return };
        let resolver = transport.0.extra.borrow_mut().as_mut().and_then(|extra| extra.secured.take());
        transport.release_unused_extra();
        self.call_hook(transport.0.token, Hook::TlsStarted, |protocol, transport| {
            protocol.tls_started(transport, &info);
        });
        if let Some(resolver) = resolver {
            // The protocol may have refused what it was told.
            let lost = transport.0.machine.borrow().reason().cloned();
            resolver.resolve(lost.map_or(Ok(info), Err));
        }
    }

    /// The peer gets an alert, and the connection ends.
    fn tls_failed(&self, transport: &Transport, error: TlsError) {
        Counters::bump(&self.counters.tls_failures);
        log::debug!("{}: TLS: {error}", transport.peer_addr());
        let now = self.now();
        transport.0.machine.borrow_mut().tls_failed(Reason::Tls(error), now, transport.pool());
    }

    /// The stream may have ended in the middle of a handshake. If sending has failed, it did not end, it
    /// broke.
    pub(super) fn end_broken_handshake(&self, transport: &Transport) {
        let mut machine = transport.0.machine.borrow_mut();
        if machine.phase() != Phase::Lost && machine.is_secured_later() && !machine.sending_has_failed() {
            Counters::bump(&self.counters.tls_failures);
            // Who was leaving for a reason keeps it.
            let reason = machine.closing_reason().unwrap_or(Reason::Tls(TlsError::HandshakeEnded));
            machine.lose(reason, End::Orderly, transport.pool());
        }
    }

    /// A handshake may have taken too long.
    pub(super) fn end_late_handshake(&self, machine: &mut Machine, now: Instant, pool: &Pool) {
        if machine.handshake_passed(now) {
            Counters::bump(&self.counters.tls_failures);
            let reason = machine.closing_reason().unwrap_or(Reason::Tls(TlsError::HandshakeTimeout));
            machine.lose(reason, End::Abrupt, pool);
        }
    }

    /// The stream may have been cut off, and all that came before has been delivered.
    pub(super) fn lose_truncated(&self, transport: &Transport) {
        let mut machine = transport.0.machine.borrow_mut();
        if machine.is_truncated() {
            Counters::bump(&self.counters.tls_failures);
            machine.lose(Reason::Tls(TlsError::Truncated), End::Orderly, transport.pool());
        }
    }

    /// Says within TLS that our side ends.
    pub(super) fn announce_end(&self, machine: &mut Machine) {
        if let Some(tls) = machine.tls_mut() {
            tls.announce_end(&mut self.tls.spare.borrow_mut());
        }
    }

    /// Seals what is queued and offers it to the kernel, within the write budget.
    pub(super) fn flush_sealed(&self, link: &Link, machine: &mut Machine) -> io::Result<Sent> {
        let mut left = self.config.budgets.write;
        loop {
            let mut spare = self.tls.spare.borrow_mut();
            // With what rustls has to say of its own, if that is still there: a handshake's last words.
            let seals = machine.tls().is_some_and(Tls::takes_more);
            let sealed =
                if seals { machine.seal_next(&mut spare, link.pool(), read_queued_file)? } else { 0 };
            left = left.saturating_sub(sealed);
            let is_last = machine.outbox().is_empty() || (seals && sealed == 0);
            let Some(tls) = machine.tls_mut() else { return Ok(Sent::All) };
            if self.send_sealed(link, tls)? == Sent::Blocked {
                return Ok(Sent::Blocked);
            }
            if is_last || left == 0 || !tls.takes_output() {
                tls.return_wire(&mut spare);
                let is_budget_spent = !is_last && left == 0;
                return Ok(if is_budget_spent { Sent::Blocked } else { Sent::All });
            }
        }
    }

    /// Offers to the kernel what was written before TLS began, and then what is sealed.
    fn send_sealed(&self, link: &Link, tls: &mut Tls) -> io::Result<Sent> {
        let pool = link.pool();
        if !tls.before().is_empty()
            && self.driver.borrow_mut().send(link.token, tls.before(), pool)? == Sent::Blocked
        {
            return Ok(Sent::Blocked);
        }
        while !tls.wire().is_empty() {
            let offered = tls.wire().len();
            match self.send_wire(link, tls.wire()) {
                Ok(sent) => {
                    tls.wire_sent(sent, pool);
                    if sent < offered {
                        return Ok(Sent::Blocked);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Sent::Blocked),
                Err(error) => return Err(error),
            }
        }
        Ok(Sent::All)
    }

    fn send_wire(&self, link: &Link, wire: &[u8]) -> io::Result<usize> {
        let mut driver = self.driver.borrow_mut();
        match driver.send_small(link.token, wire) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                // Not every stream is a socket: pipes take the long way.
                let (mut outbox, pool) = (Outbox::default(), link.pool());
                outbox.write(wire, pool);
                let result = driver.send(link.token, &mut outbox, pool);
                let sent = wire.len() - outbox.queued();
                outbox.clear(pool);
                result.map(|_| sent)
            }
            result => result,
        }
    }
}
