//! How hooks are called, and what happens to a connection before and after.
//!
//! Every hook of a protocol goes through [`Inner::enter`] and [`Inner::leave`]: the protocol is taken out of its
//! slot, called with nothing borrowed, put back, and its connection *tended*: flushed, ended, watched for what it
//! needs next. What has to call further hooks (losses, watermarks) is put on the list for settle.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use bytes::Bytes;

use crate::core::slots::Token;
use crate::driver::{Interest, Sent};
use crate::net::connection::{Connection as Machine, Crossing, End, Phase, Step};
use crate::net::reason::Reason;
use crate::net::timeouts::Timeout;
use crate::protocol::{Eof, OnTimeout, Protocol};
use crate::reactor::inner::{Inner, TypedCall};
use crate::reactor::stats::Counters;
use crate::reactor::timers::Timer;
use crate::reactor::transport::{Link, Transport};
use crate::reactor::watchdog::Hook;

impl Inner {
    // Calling.

    /// Takes the protocol out of its cell, so that it can be called.
    fn enter(&self, token: Token) -> Option<(Transport, Box<dyn Protocol>)> {
        let transport = self.transport(token)?;
        let protocol = transport.0.protocol.take()?;
        transport.0.attended.set(true);
        if transport.0.may_switch() {
            let protocol = self.apply_switch(&transport, protocol);
            return Some((transport, protocol));
        }
        Some((transport, protocol))
    }

    /// Puts the protocol back after its hook and does what the hook asked for.
    fn leave<R>(
        &self,
        transport: &Transport,
        mut protocol: Box<dyn Protocol>,
        hook: Hook,
        outcome: thread::Result<R>,
    ) -> Option<R> {
        self.hook_ran(transport.0.token, hook);
        let value = match outcome {
            Ok(value) => Some(value),
            Err(payload) => {
                self.hook_panicked(transport, &*protocol, hook, payload);
                None
            }
        };
        if transport.0.may_switch() {
            protocol = self.apply_switch(transport, protocol);
        }
        self.leave_uncalled(transport, protocol);
        value
    }

    #[cold]
    fn hook_panicked(
        &self,
        transport: &Transport,
        protocol: &dyn Protocol,
        hook: Hook,
        payload: Box<dyn Any + Send>,
    ) {
        let what = format!(
            "{}::{} ({}, peer {})",
            protocol.type_name(),
            hook.name(),
            transport.id(),
            transport.peer_addr()
        );
        self.panicked(&what, payload);
        transport.0.machine.borrow_mut().lose(Reason::Panicked, End::Abrupt, transport.pool());
    }

    /// Calls `f` with the protocol of an open connection.
    pub(crate) fn call_hook<R>(
        &self,
        token: Token,
        hook: Hook,
        f: impl FnOnce(&mut dyn Protocol, &Transport) -> R,
    ) -> Option<R> {
        let (transport, mut protocol) = self.enter(token)?;
        if !transport.0.machine.borrow().is_open() {
            self.leave_uncalled(&transport, protocol);
            return None;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| f(&mut *protocol, &transport)));
        self.leave(&transport, protocol, hook, outcome)
    }

    fn leave_uncalled(&self, transport: &Transport, protocol: Box<dyn Protocol>) {
        transport.0.put_back(protocol);
        transport.0.attended.set(false);
        self.tend(transport);
    }

    /// Installs the protocol that `switch_protocol` left, and greets it, until no further one is left.
    #[cold]
    fn apply_switch(&self, transport: &Transport, mut protocol: Box<dyn Protocol>) -> Box<dyn Protocol> {
        while let Some(mut next) = transport.with_extra(|extra| extra.switch.take()) {
            if !transport.0.machine.borrow().is_open() {
                self.discard(next);
                continue;
            }
            transport.0.protocol_type.set(Any::type_id(&*next));
            let made = catch_unwind(AssertUnwindSafe(|| next.connection_made(transport)));
            self.hook_ran(transport.0.token, Hook::ConnectionMade);
            if let Err(payload) = made {
                self.hook_panicked(transport, &*next, Hook::ConnectionMade, payload);
            }
            self.discard(std::mem::replace(&mut protocol, next));
        }
        protocol
    }

    /// Runs a closure that was posted to the protocol.
    pub(crate) fn run_typed(&self, token: Token, hook: Hook, call: TypedCall) {
        // The closure is a user's value: when it is not called it is dropped here, with nothing borrowed.
        let mut call = Some(call);
        let ran = self.call_hook(token, hook, |protocol, transport| {
            call.take().is_some_and(|call| call(protocol, transport))
        });
        if ran != Some(true) {
            Counters::bump(&self.counters.dropped_posts);
        }
        self.discard(call);
    }

    // What happened.

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

    /// Bytes arrived at a connection that is watched, relayed, paused or on its way out.
    #[cold]
    fn received_otherwise(&self, transport: &Transport, data: &[u8]) {
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
        self.tell_peer_end(&transport);
    }

    /// Tells the protocol that the peer has finished, unless something has to be delivered first; tends the
    /// connection either way.
    fn tell_peer_end(&self, transport: &Transport) {
        self.switch_first(transport);
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

    // Tending.

    /// Does for a connection what its state asks for, but for calling hooks.
    pub(crate) fn tend(&self, transport: &Transport) {
        if !self.send_in_peace(&transport.0, &mut transport.0.machine.borrow_mut()) {
            self.tend_closely(transport);
        }
    }

    /// A connection at peace has either nothing to send or something that the kernel takes at once; true if that
    /// is so and all is done.
    #[inline(always)]
    fn send_in_peace(&self, link: &Link, machine: &mut Machine) -> bool {
        if !machine.is_at_peace() {
            return false;
        }
        let Some(data) = machine.small_output() else { return !machine.has_output() };
        let length = data.len();
        let result = self.driver.borrow_mut().send_small(link.token, data);
        match result {
            Ok(sent) if sent == length => {
                machine.sent_small(sent, link.pool());
                true
            }
            Ok(sent) => {
                machine.sent(sent as u64, true, || self.now());
                machine.outbox().consume(sent, link.pool());
                false
            }
            // Looked at again by `tend_closely`, where every case has its place.
            Err(_) => false,
        }
    }

    /// Sends from a large buffer of the user what the kernel takes of it at once; returns how much that was. What goes
    /// wrong is found out by the flush of the rest.
    pub(crate) fn send_at_once(&self, transport: &Transport, data: &[u8]) -> usize {
        let link = &*transport.0;
        let mut machine = link.machine.borrow_mut();
        if !machine.may_send_at_once(data.len(), link.pool()) {
            return 0;
        }
        let offered = &data[..data.len().min(self.config.budgets.write)];
        let result = self.driver.borrow_mut().send_small(link.token, offered);
        let Ok(sent) = result else { return 0 };
        machine.sent(sent as u64, sent < offered.len(), || self.now());
        sent
    }

    /// Goes through all that a connection may need, and asks for attention if something is left for settle.
    #[inline(never)]
    fn tend_closely(&self, transport: &Transport) {
        if self.work_off(transport) && !transport.0.attended.replace(true) {
            self.attention.borrow_mut().push(transport.0.token);
            self.eventful.set(true);
        }
    }

    /// Flushes, ends and watches a connection as its state asks; true if hooks are left to be called at settle.
    fn work_off(&self, transport: &Transport) -> bool {
        let link = &*transport.0;
        let pool = transport.pool();
        let needs_settle = {
            let mut machine = link.machine.borrow_mut();
            loop {
                match machine.step() {
                    Step::Rest => break,
                    Step::Flush => {
                        let before = machine.outbox().pending();
                        let result = self.driver.borrow_mut().send(link.token, machine.outbox(), pool);
                        let sent = before - machine.outbox().pending();
                        match result {
                            Ok(outcome) => machine.sent(sent, outcome == Sent::Blocked, || self.now()),
                            Err(error) if ends_the_stream(error.kind()) => {
                                log::debug!("{:?}: sending failed: {error}", link.token);
                                machine.sending_failed(pool);
                            }
                            // The stream is alive, but what was queued cannot be sent: nothing else will say so.
                            Err(error) => machine.lose(Reason::failed(error), End::Abrupt, pool),
                        }
                    }
                    Step::Shutdown => {
                        if let Err(error) = self.driver.borrow_mut().shutdown(link.token) {
                            log::debug!("{:?}: cannot end our side: {error}", link.token);
                        }
                        machine.write_side_ended(self.now());
                    }
                    Step::Lose(reason, end) => machine.lose(reason, end, pool),
                }
            }
            let (read, write) = machine.interest();
            let interest = Interest::new(read, write);
            if interest != link.interest.get() {
                link.interest.set(interest);
                self.set_interest(link.token, interest);
            }
            if machine.has_deadlines() {
                self.arm(link.token, &mut machine);
            }
            if machine.wants_redelivery() && !link.awaits_redelivery.replace(true) {
                self.redelivery.borrow_mut().push(link.token);
                self.eventful.set(true);
            }
            machine.phase() == Phase::Lost || machine.crossing(pool).is_some()
        };
        let has_more = self.has_more_to_do(transport);
        if pool.has_spent() {
            self.discard(pool.take_spent());
        }
        needs_settle || has_more
    }

    /// Looks at what only few connections have: relays, and those who wait for a flush. True when settle is
    /// needed.
    #[inline]
    fn has_more_to_do(&self, transport: &Transport) -> bool {
        if transport.0.extra.borrow().is_none() {
            return false;
        }
        self.tend_extra(transport)
    }

    #[cold]
    fn tend_extra(&self, transport: &Transport) -> bool {
        let (taken, open) = {
            let machine = transport.0.machine.borrow();
            (machine.counts().1, machine.is_open())
        };
        let fired: Vec<_> = transport.with_extra(|extra| {
            let count = extra.flushed.iter().take_while(|(position, _)| *position <= taken).count();
            extra.flushed.drain(..count).collect()
        });
        for (_, resolver) in fired {
            resolver.resolve(Ok(()));
        }
        self.tend_relay(transport);
        open && transport.with_extra(|extra| extra.switch.is_some())
    }

    /// Has the driver watch for what the connection needs now.
    pub(crate) fn watch(&self, transport: &Transport) {
        let (read, write) = transport.0.machine.borrow().interest();
        let interest = Interest::new(read, write);
        if transport.0.interest.replace(interest) != interest {
            self.set_interest(transport.0.token, interest);
        }
    }

    /// Keeps one timer at the connection's earliest deadline, or before it: a later deadline is noticed when the
    /// timer fires.
    fn arm(&self, token: Token, machine: &mut Machine) {
        let Some(deadline) = machine.next_deadline(&self.config.linger) else { return };
        let mut timers = self.timers.borrow_mut();
        if let Some(timer) = machine.timer() {
            match timers.deadline(timer) {
                Some(armed) if armed <= deadline => return,
                Some(_) => {
                    timers.reset(timer, deadline);
                    return;
                }
                None => {}
            }
        }
        let timer = timers.insert(deadline, Timer::Watch(token));
        self.eventful.set(true);
        timers.set_referenced(timer, false);
        machine.rare().timer = Some(timer);
    }

    /// The timer of a connection's deadlines has fired.
    pub(crate) fn deadline_passed(&self, token: Token) {
        let Some(transport) = self.transport(token) else { return };
        transport.0.machine.borrow_mut().rare().timer = None;
        self.switch_first(&transport);
        let now = self.now();
        let passed = {
            let mut machine = transport.0.machine.borrow_mut();
            if let Some((reason, end)) = machine.linger_passed(now, &self.config.linger) {
                if end == End::Abrupt {
                    Counters::bump(&self.counters.linger_timeouts);
                }
                machine.lose(reason, end, transport.pool());
            }
            machine.passed_timeout(now)
        };
        if let Some(which) = passed {
            self.time_out(&transport, which);
        }
        self.tend(&transport);
    }

    fn time_out(&self, transport: &Transport, which: Timeout) {
        Counters::bump(&self.counters.timeouts);
        let answer = self.call_hook(transport.0.token, Hook::TimedOut, |protocol, transport| {
            protocol.timed_out(transport, which)
        });
        let mut machine = transport.0.machine.borrow_mut();
        match answer {
            Some(OnTimeout::Abort) => machine.lose(Reason::TimedOut(which), End::Abrupt, transport.pool()),
            Some(OnTimeout::Close) => {
                machine.lose_connection(Some(Reason::TimedOut(which)), || self.now());
            }
            Some(OnTimeout::Keep) => machine.restart_timeout(which, self.now()),
            None => {}
        }
    }

    // Settling.

    /// Flushes what was written from elsewhere, calls the watermark hooks and reports the losses of the
    /// connections that asked for attention. What they ask for meanwhile is for the next pass.
    pub(crate) fn settle(&self) {
        if self.attention.borrow().is_empty() {
            return;
        }
        let mut list = self.attention.take();
        for token in list.drain(..) {
            let Some(transport) = self.transport(token) else { continue };
            transport.0.attended.set(false);
            // What only wrote, and was taken whole, needs nothing else.
            if self.send_in_peace(&transport.0, &mut transport.0.machine.borrow_mut()) {
                continue;
            }
            // Whatever that leaves to settle is settled right here.
            self.work_off(&transport);
            if transport.0.extra.borrow().is_some() {
                // A switch from elsewhere happens in `enter`.
                self.call_hook_if_switching(&transport);
            }
            self.call_watermark_hook(&transport);
            if transport.0.machine.borrow().phase() == Phase::Lost {
                self.finish(&transport);
                // What is left of it may hold the last of a user's error.
                self.discard(transport);
            }
        }
        let mut attention = self.attention.borrow_mut();
        if attention.is_empty() {
            // Keeps the list's memory.
            *attention = list;
        }
    }

    /// Switches before it is decided what the protocol is told next: a new one may pause or close when it is greeted.
    fn switch_first(&self, transport: &Transport) {
        if transport.0.may_switch() {
            self.call_hook_if_switching(transport);
        }
    }

    #[cold]
    fn call_hook_if_switching(&self, transport: &Transport) {
        if transport.with_extra(|extra| extra.switch.is_some())
            && let Some((transport, protocol)) = self.enter(transport.0.token)
        {
            self.leave_uncalled(&transport, protocol);
        }
    }

    fn call_watermark_hook(&self, transport: &Transport) {
        let crossing = {
            let mut machine = transport.0.machine.borrow_mut();
            let crossing = machine.crossing(transport.pool());
            if let Some(crossing) = crossing {
                machine.cross(crossing);
            }
            crossing
        };
        match crossing {
            Some(Crossing::Pause) => {
                self.call_hook(transport.0.token, Hook::PauseWriting, |protocol, transport| {
                    protocol.pause_writing(transport);
                });
            }
            Some(Crossing::Resume) => {
                self.call_hook(transport.0.token, Hook::ResumeWriting, |protocol, transport| {
                    protocol.resume_writing(transport);
                });
            }
            None => {}
        }
    }

    /// Closes a lost connection, says so, and frees its slot.
    fn finish(&self, transport: &Transport) {
        let link = &*transport.0;
        let token = link.token;
        // From here on nothing of it needs attention any more.
        link.attended.set(true);
        link.awaits_redelivery.set(true);
        let (reason, end, timer, unread) = {
            let mut machine = link.machine.borrow_mut();
            let reason = machine.reason().cloned().unwrap_or(Reason::Closed);
            (reason, machine.end(), machine.timer(), machine.take_all_unread())
        };
        match end {
            End::Orderly => self.driver.borrow_mut().close(token),
            End::Abrupt => self.driver.borrow_mut().abort(token),
        }
        let watch = timer.and_then(|timer| self.timers.borrow_mut().remove(timer));
        drop(watch);
        let protocol = link.protocol.take();
        if let Some(mut protocol) = protocol {
            let outcome = catch_unwind(AssertUnwindSafe(|| protocol.connection_lost(transport, &reason)));
            self.hook_ran(token, Hook::ConnectionLost);
            if let Err(payload) = outcome {
                self.hook_panicked(transport, &*protocol, Hook::ConnectionLost, payload);
            }
            self.discard(protocol);
        }
        self.release_extra(transport, &reason);
        self.discard(unread);
        Counters::bump(&self.counters.lost);
        self.connections.set(self.connections.get() - 1);
        let slot = self.slots.borrow_mut().remove(token);
        drop(slot);
        if transport.pool().has_spent() {
            self.discard(transport.pool().take_spent());
        }
    }

    /// Lets go of the users' values that belong to a lost connection.
    fn release_extra(&self, transport: &Transport, reason: &Reason) {
        let Some(mut extra) = transport.0.extra.take() else { return };
        for timer in extra.timers.drain(..) {
            let timer = self.timers.borrow_mut().remove(timer);
            self.discard(timer);
        }
        for call in extra.loops.drain(..) {
            call.stop();
        }
        for (_, resolver) in extra.flushed.drain(..) {
            resolver.resolve(Err(reason.clone()));
        }
        self.end_relays(transport, &mut extra, reason);
        self.discard(extra);
    }
}

/// Whether a send that failed like this means that the stream is dead, so that reading will find its end.
fn ends_the_stream(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind;
    matches!(
        kind,
        ErrorKind::BrokenPipe
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::NotConnected
            | ErrorKind::TimedOut
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
    )
}
