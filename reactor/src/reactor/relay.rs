//! `Transport::pipe`: one stream's input becomes another's output.
//!
//! Where the driver has a kernel buffer for it the bytes never enter the process; elsewhere they are copied
//! through the target's outbox. Either way the source is held while the target takes no more.

use crate::driver::{Relay, RelayState};
use crate::net::connection::{End, Phase};
use crate::net::reason::Reason;
use crate::reactor::deferred::Resolver;
use crate::reactor::inner::Inner;
use crate::reactor::transport::{Extra, Transport};

/// The relay out of a connection.
pub(crate) struct RelayOut {
    target: Transport,
    moved: u64,
    kernel: Option<Relay>,
    resolver: Resolver<u64, Reason>,
}

impl Inner {
    pub(crate) fn start_relay(
        &self,
        source: &Transport,
        target: &Transport,
        resolver: Resolver<u64, Reason>,
    ) {
        let busy = source.with_extra(|extra| extra.relay_out.is_some())
            || target.with_extra(|extra| extra.relay_from.is_some());
        let refusal = if busy {
            Some(Reason::failed("one of the connections is piped this way already"))
        } else {
            let reason = source.0.machine.borrow().reason().or(target.0.machine.borrow().reason()).cloned();
            if let Some(reason) = &reason {
                // One is lost: that ends the other, as it would have a moment later.
                source.follow(reason);
                target.follow(reason);
            }
            reason
        };
        if let Some(reason) = refusal {
            resolver.resolve(Err(reason));
            return;
        }
        if source.0.machine.borrow().has_ended() {
            target.lose_write_connection();
            resolver.resolve(Ok(0));
            return;
        }
        // A stream piped to itself goes through its outbox: a kernel buffer would need two borrows of it.
        let (from, to) = (source.0.token, target.0.token);
        let is_plain = [source, target].iter().all(|end| end.0.machine.borrow().tls().is_none());
        let kernel = (from != to && is_plain).then(|| self.driver.borrow_mut().new_relay(from, to)).flatten();
        if kernel.is_some() {
            self.driver.borrow_mut().set_relaying(source.0.token, true);
        }
        let relay = RelayOut { target: target.clone(), moved: 0, kernel, resolver };
        source.with_extra(|extra| extra.relay_out = Some(Box::new(relay)));
        target.with_extra(|extra| extra.relay_from = Some(source.clone()));
        source.attend();
        target.attend();
    }

    fn relay_target(&self, source: &Transport) -> Option<Transport> {
        let extra = source.0.extra.borrow();
        extra.as_ref()?.relay_out.as_ref().map(|relay| relay.target.clone())
    }

    /// Copies bytes of a relayed source into its target; false when the source is not relayed.
    pub(crate) fn relay_bytes(&self, source: &Transport, data: &[u8]) -> bool {
        let Some(target) = self.relay_target(source) else { return false };
        self.cut_relay(source, &target);
        if !source.0.machine.borrow().is_open() {
            return false;
        }
        target.write(data);
        source.with_extra(|extra| {
            if let Some(relay) = &mut extra.relay_out {
                relay.moved += data.len() as u64;
            }
        });
        self.hold_while_full(source, &target);
        true
    }

    /// Holds the source above the target's high mark, and lets it go at the low one.
    fn hold_while_full(&self, source: &Transport, target: &Transport) {
        let (queued, (high, low)) = {
            let machine = target.0.machine.borrow();
            (machine.queued(), machine.marks(target.pool()))
        };
        if queued > high {
            source.0.machine.borrow_mut().hold(true);
        } else if queued <= low {
            source.0.machine.borrow_mut().hold(false);
        }
        self.watch(source);
    }

    /// A source relayed by the kernel has input.
    pub(crate) fn relay_ready(&self, token: crate::core::slots::Token) {
        if let Some(source) = self.transport(token) {
            self.run_relay(&source);
        }
    }

    /// A stream has become writable: whoever relays into it may go on.
    pub(crate) fn target_writable(&self, target: &Transport) {
        let source = target.0.extra.borrow().as_ref().and_then(|extra| extra.relay_from.clone());
        if let Some(source) = source {
            self.run_relay(&source);
        }
    }

    /// Moves what can be moved.
    fn run_relay(&self, source: &Transport) {
        let Some(target) = self.relay_target(source) else { return };
        self.cut_relay(source, &target);
        if target.0.machine.borrow().phase() == Phase::Lost {
            return;
        }
        let kernel =
            source.with_extra(|extra| extra.relay_out.as_mut().and_then(|relay| relay.kernel.take()));
        let Some(mut kernel) = kernel else {
            self.hold_while_full(source, &target);
            return;
        };
        // What was queued before comes first, and bytes given back come before what is in the socket.
        if target.0.machine.borrow().has_output() || source.0.machine.borrow().has_unread() {
            self.keep_kernel(source, kernel);
            source.0.machine.borrow_mut().hold(true);
            self.watch(source);
            return;
        }
        // A paused source is not read; what left it before goes on to the target.
        let budget = if source.is_reading() { self.config.budgets.read } else { 0 };
        let relayed = self.driver.borrow_mut().relay(source.0.token, target.0.token, &mut kernel, budget);
        self.keep_kernel(source, kernel);
        let now = self.now();
        source.0.machine.borrow_mut().count_relayed(relayed.moved, now);
        source.with_extra(|extra| {
            if let Some(relay) = &mut extra.relay_out {
                relay.moved += relayed.moved;
            }
        });
        let full = matches!(relayed.state, RelayState::TargetFull);
        target.0.machine.borrow_mut().sent(relayed.moved, full, || now);
        source.0.machine.borrow_mut().hold(full);
        match relayed.state {
            RelayState::SourceDry => {}
            // Its write stall, if one is set, begins.
            RelayState::TargetFull => target.attend(),
            RelayState::Ended => {
                let told = {
                    let mut machine = source.0.machine.borrow_mut();
                    machine.peer_ended();
                    machine.take_peer_end()
                };
                if told {
                    self.relay_ended(source);
                }
            }
            RelayState::SourceFailed(error) => {
                log::debug!("relay from {}: {error}", source.peer_addr());
                source.end(Reason::Reset, End::Orderly);
            }
            RelayState::TargetFailed(error) => {
                log::debug!("relay to {}: {error}", target.peer_addr());
                target.end(Reason::Reset, End::Orderly);
            }
        }
        self.watch(source);
        self.watch(&target);
        source.attend();
    }

    fn keep_kernel(&self, source: &Transport, kernel: Relay) {
        source.with_extra(|extra| {
            if let Some(relay) = &mut extra.relay_out {
                relay.kernel = Some(kernel);
            }
        });
    }

    /// Takes a relay apart; `None` when the connection is not relayed.
    fn detach(&self, source: &Transport) -> Option<RelayOut> {
        let relay = *source.with_extra_if(|extra| extra.relay_out.take())?;
        if relay.kernel.is_some() {
            self.driver.borrow_mut().set_relaying(source.0.token, false);
        }
        relay.target.with_extra_if(|extra| extra.relay_from.take());
        Some(relay)
    }

    /// The source of a relay has ended in good order: so does the target's write side. False when the
    /// connection is not relayed.
    pub(crate) fn relay_ended(&self, source: &Transport) -> bool {
        let Some(RelayOut { target, moved, resolver, .. }) = self.detach(source) else { return false };
        target.lose_write_connection();
        resolver.resolve(Ok(moved));
        source.attend();
        true
    }

    /// Keeps a relay going, or breaks it off when one of its ends is leaving.
    pub(crate) fn tend_relay(&self, transport: &Transport) {
        let (out, from) = {
            let extra = transport.0.extra.borrow();
            let Some(extra) = extra.as_ref() else { return };
            (extra.relay_out.is_some(), extra.relay_from.clone())
        };
        if out && !transport.0.machine.borrow().is_open() {
            self.break_relay(transport);
        }
        if let Some(source) = &from {
            self.cut_relay(source, transport);
        }
        if let Some(source) = from
            && !transport.0.machine.borrow().has_output()
            && source.0.machine.borrow().is_open()
        {
            self.release_source(&source, transport);
        }
    }

    /// The target's outbox is empty: bytes that wait for it can move.
    fn release_source(&self, source: &Transport, target: &Transport) {
        let by_kernel =
            source.with_extra(|extra| extra.relay_out.as_ref().is_some_and(|relay| relay.kernel.is_some()));
        if !by_kernel {
            self.hold_while_full(source, target);
        } else if !target.0.machine.borrow().interest().1 {
            source.0.machine.borrow_mut().hold(false);
            self.watch(source);
        }
    }

    /// The source is closing: nothing more is relayed.
    fn break_relay(&self, source: &Transport) {
        let reason = source.0.machine.borrow().reason().cloned().unwrap_or(Reason::Closed);
        self.abandon(source, &reason);
    }

    /// The target was told to finish: what still arrives for it has nowhere to go, and the source closes as
    /// well.
    fn cut_relay(&self, source: &Transport, target: &Transport) {
        if !target.0.machine.borrow().is_finishing() {
            return;
        }
        if let Some(relay) = self.detach(source) {
            source.lose_connection();
            relay.resolver.resolve(Err(Reason::Closed));
        }
    }

    /// The target of a relay ends after its source.
    fn abandon(&self, source: &Transport, reason: &Reason) {
        if let Some(relay) = self.detach(source) {
            relay.target.follow(reason);
            relay.resolver.resolve(Err(reason.clone()));
        }
    }

    /// One end of a relay is lost: so is the other.
    pub(crate) fn end_relays(&self, lost: &Transport, reason: &Reason) {
        self.abandon(lost, reason);
        let source = lost.with_extra_if(|extra| extra.relay_from.take());
        if let Some(source) = source
            && let Some(relay) = self.detach(&source)
        {
            source.follow(reason);
            relay.resolver.resolve(Err(reason.clone()));
        }
    }
}

impl Transport {
    /// Ends after the other end of a relay: in good order or not, as that did.
    fn follow(&self, reason: &Reason) {
        match reason {
            Reason::Closed => self.lose_connection(),
            _ => self.end(Reason::Aborted, End::Abrupt),
        }
    }

    /// Takes something out of the extra state, if there is any.
    fn with_extra_if<R>(&self, f: impl FnOnce(&mut Extra) -> Option<R>) -> Option<R> {
        self.0.extra.borrow_mut().as_mut().and_then(|extra| f(extra))
    }
}
