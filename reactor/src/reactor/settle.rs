//! The last phase of a pass: flushes what was written from elsewhere, calls the watermark hooks, and reports
//! losses.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::net::connection::{Crossing, End, Phase};
use crate::net::reason::Reason;
use crate::reactor::inner::Inner;
use crate::reactor::stats::Counters;
use crate::reactor::transport::Transport;
use crate::reactor::watchdog::Hook;

impl Inner {
    /// Flushes what was written from elsewhere, calls the watermark hooks and reports the losses of the
    /// connections that asked for attention. What they ask for meanwhile is for the next pass.
    pub(crate) fn settle(&self) {
        let count = self.attention.borrow().len();
        if count == 0 {
            return;
        }
        for at in 0..count {
            let Some(token) = self.attention.borrow_mut().get(at).copied() else { break };
            let Some(transport) = self.transport(token) else {
                self.settle_datagrams(token);
                continue;
            };
            transport.0.attended.set(false);
            // What only wrote, and was taken whole, needs nothing else.
            let is_settled = self.send_in_peace(&transport.0, &mut transport.0.machine.borrow_mut());
            if !is_settled {
                self.settle_closely(transport);
            }
        }
        let mut attention = self.attention.borrow_mut();
        if attention.len() <= count {
            attention.clear();
        } else {
            attention.drain(..count);
        }
    }

    #[inline(never)]
    fn settle_closely(&self, transport: Transport) {
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
        Counters::bump(&self.counters.lost);
        self.connections.set(self.connections.get() - 1);
        let slot = self.slots.borrow_mut().remove(token);
        drop(slot);
        self.release_extra(transport, &reason);
        self.discard(unread);
        if transport.pool().has_spent() {
            self.discard(transport.pool().take_spent());
        }
    }

    /// Lets go of the users' values that belong to a lost connection.
    fn release_extra(&self, transport: &Transport, reason: &Reason) {
        self.end_relays(transport, reason);
        let Some(mut extra) = transport.0.extra.take() else { return };
        for timer in extra.timers.drain(..) {
            let timer = self.timers.borrow_mut().remove(timer);
            self.discard(timer);
        }
        for call in extra.loops.drain(..) {
            call.stop();
        }
        #[cfg(feature = "tls")]
        if let Some(resolver) = extra.secured.take() {
            resolver.resolve(Err(reason.clone()));
        }
        for resolver in extra.lost.drain(..) {
            resolver.resolve(Ok(reason.clone()));
        }
        for (_, resolver) in extra.flushed.drain(..) {
            resolver.resolve(Err(reason.clone()));
        }
        self.discard(extra);
    }
}
