//! Tending a connection: everything that its state asks for, but for calling hooks. It is flushed, ended,
//! watched for what it needs next, and put on the list for settle if hooks are left to be called.

use std::io;

use crate::core::slots::Token;
use crate::driver::{Interest, Sent};
use crate::net::connection::{Connection as Machine, End, Phase, Step};
use crate::net::reason::Reason;
use crate::net::timeouts::Timeout;
use crate::protocol::OnTimeout;
use crate::reactor::inner::Inner;
use crate::reactor::stats::Counters;
use crate::reactor::timers::Timer;
use crate::reactor::transport::{Link, Transport};
use crate::reactor::watchdog::Hook;

impl Inner {
    /// Does for a connection what its state asks for, but for calling hooks.
    pub(crate) fn tend(&self, transport: &Transport) {
        if !self.send_in_peace(&transport.0, &mut transport.0.machine.borrow_mut()) {
            self.tend_closely(transport);
        }
    }

    /// A connection at peace has either nothing to send or something that the kernel takes at once; true if
    /// that is so and all is done.
    #[inline(always)]
    pub(super) fn send_in_peace(&self, link: &Link, machine: &mut Machine) -> bool {
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

    /// Sends from a large buffer of the user what the kernel takes of it at once; returns how much that was.
    /// What goes wrong is found out by the flush of the rest.
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
    pub(super) fn tend_closely(&self, transport: &Transport) {
        if self.work_off(transport) && !transport.0.attended.replace(true) {
            self.attention.borrow_mut().push(transport.0.token);
            self.eventful.set(true);
        }
    }

    /// Flushes, ends and watches a connection as its state asks; true if hooks are left to be called at
    /// settle.
    pub(super) fn work_off(&self, transport: &Transport) -> bool {
        let link = &*transport.0;
        let pool = transport.pool();
        let needs_settle = {
            let mut machine = link.machine.borrow_mut();
            loop {
                match machine.step() {
                    Step::Rest => break,
                    Step::Flush => {
                        let before = machine.pending();
                        let result = self.flush(link, &mut machine);
                        // More than before, if sealing has failed half-way.
                        let sent = before.saturating_sub(machine.pending());
                        match result {
                            Ok(outcome) => machine.sent(sent, outcome == Sent::Blocked, || self.now()),
                            Err(error) if ends_the_stream(error.kind()) => {
                                log::debug!("{:?}: sending failed: {error}", link.token);
                                machine.sending_failed(pool);
                            }
                            // The stream is alive, but what was queued cannot be sent: nothing else will say
                            // so.
                            Err(error) => machine.lose(Reason::failed(error), End::Abrupt, pool),
                        }
                    }
                    #[cfg(feature = "tls")]
                    Step::Announce => self.announce_end(&mut machine),
                    #[cfg(not(feature = "tls"))]
                    Step::Announce => {}
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

    /// Offers what is queued to the kernel.
    fn flush(&self, link: &Link, machine: &mut Machine) -> io::Result<Sent> {
        #[cfg(feature = "tls")]
        if machine.tls().is_some() {
            return self.flush_sealed(link, machine);
        }
        self.driver.borrow_mut().send(link.token, machine.outbox(), link.pool())
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

    /// Keeps one timer at the connection's earliest deadline, or before it: a later deadline is noticed when
    /// the timer fires.
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

    /// Takes back the timer of a connection that has no deadlines any more: as long as there is any timer,
    /// every pass has to look at the clock.
    #[cfg(feature = "tls")]
    pub(super) fn disarm(&self, machine: &mut Machine) {
        if !machine.has_deadlines()
            && let Some(timer) = machine.rare().timer.take()
        {
            let watch = self.timers.borrow_mut().remove(timer);
            drop(watch);
        }
    }

    /// The timer of a connection's deadlines has fired.
    pub(crate) fn deadline_passed(&self, token: Token) {
        let Some(transport) = self.transport(token) else { return };
        transport.0.machine.borrow_mut().rare().timer = None;
        self.switch_first(&transport);
        let now = self.now();
        let passed = {
            let mut machine = transport.0.machine.borrow_mut();
            #[cfg(feature = "tls")]
            self.end_late_handshake(&mut machine, now, transport.pool());
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
}

/// Whether a send that failed like this means that the stream is dead, so that reading will find its end.
fn ends_the_stream(kind: io::ErrorKind) -> bool {
    use io::ErrorKind;
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
