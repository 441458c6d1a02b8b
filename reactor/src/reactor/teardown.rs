//! The end of a reactor: every user value is dropped while the reactor still exists, and nothing is left.
//!
//! Destructors may call anything, so this takes things out first, drops them with nothing borrowed, and looks
//! again until nothing new has come.

use std::rc::Weak;

use crate::core::address::Address;
use crate::net::connection::End;
use crate::net::reason::Reason;
use crate::reactor::inner::{Call, Inner, Slot};
use crate::reactor::shutdown::{Shutdown, Stage};

/// Rounds after which destructors that keep making new work are left to themselves.
const ROUNDS: usize = 8;

impl Inner {
    /// After the last phase of a shutdown: what is still pending is dropped, and the reactor can run again.
    pub(crate) fn finish_shutdown(&self) {
        self.drop_pending();
        #[cfg(feature = "tls")]
        self.forget_waiting();
        self.shutdown.borrow_mut().stage = Stage::Running;
    }

    fn drop_pending(&self) {
        for _ in 0..ROUNDS {
            let calls = self.calls.borrow_mut().drain();
            let timers = self.timers.borrow_mut().drain();
            let loops = self.loops.take();
            let had_work = self.end_cooperations() | self.drop_tasks();
            if !had_work && calls.is_empty() && timers.is_empty() && loops.is_empty() {
                return;
            }
            for looping in loops.iter().filter_map(Weak::upgrade) {
                self.contain("a destructor", || looping.abandon());
            }
            for call in calls {
                match call {
                    Call::Run(node) => self.forget_nodes(node),
                    call => self.discard(call),
                }
            }
            for timer in timers {
                self.discard(timer);
            }
        }
    }

    /// Drops everything, calling no hook.
    pub(crate) fn tear_down(&self) {
        self.is_torn_down.set(true);
        for message in self.inbox.close() {
            self.discard(message);
        }
        #[cfg(unix)]
        self.abandon_processes();
        self.discard(self.signals.take());
        // First those who wait, or each thing that is dropped below would be handed to the next of them.
        self.end_all();
        for _ in 0..ROUNDS {
            let tokens = self.slots.borrow().tokens();
            if tokens.is_empty() {
                break;
            }
            for token in tokens {
                let slot = self.slots.borrow_mut().remove(token);
                self.driver.borrow_mut().close(token);
                if let Some(slot) = slot {
                    self.drop_slot(slot);
                }
            }
        }
        let attempts = self.attempts.borrow().tokens();
        for id in attempts {
            let attempt = self.attempts.borrow_mut().remove(id);
            self.discard(attempt);
        }
        self.drop_pending();
        let triggers = std::mem::replace(&mut *self.shutdown.borrow_mut(), Shutdown::new());
        self.discard(triggers);
        let channels = self.channels.borrow().tokens();
        for token in channels {
            let receiver = self.channels.borrow_mut().remove(token);
            self.discard(receiver);
        }
        let jobs = self.jobs.borrow().tokens();
        for token in jobs {
            let job = self.jobs.borrow_mut().remove(token);
            self.discard(job);
        }
        let queries = self.names.borrow_mut().take_queries();
        self.discard(queries);
        // Once more: destructors may have begun to wait.
        self.end_all();
        let kinds = self.kinds.take();
        self.discard(kinds);
        let hooks = self.before_wait.take();
        self.discard(hooks);
        self.drop_outcomes();
        for _ in 0..ROUNDS {
            self.drop_pending();
            self.discard(self.pool.take_spent());
            #[cfg(unix)]
            self.abandon_processes();
            // A destructor may have asked for signals; the descriptor that they wake is about to be closed.
            self.discard(self.signals.take());
            // What waits for itself, once everything else is gone that could have decided it.
            if !self.end_undecided() {
                break;
            }
        }
        self.pool.release();
        // Last: what was dropped above may have been inside it, or may have made it.
        #[cfg(feature = "tokio")]
        self.end_tokio();
    }

    pub(crate) fn drop_slot(&self, slot: Slot) {
        match slot {
            Slot::Connection(transport) => {
                let unread = {
                    let mut machine = transport.0.machine.borrow_mut();
                    machine.lose(Reason::Shutdown, End::Orderly, transport.pool());
                    machine.take_all_unread()
                };
                transport.0.attended.set(true);
                let extra = transport.0.extra.take();
                self.discard(transport.0.protocol.take());
                self.discard(extra);
                self.discard(unread);
                self.discard(transport);
            }
            Slot::Listener(listening) => {
                let factory = listening.end();
                self.discard(factory);
            }
            Slot::Datagrams(socket) => self.discard(socket.end()),
            #[cfg(unix)]
            Slot::Descriptor(watched) => self.discard(watched.end()),
            Slot::Attempt(_) | Slot::Reserved => {}
        }
    }

    pub(crate) fn port_addresses(&self) -> Vec<Address> {
        let slots = self.slots.borrow();
        let ports = slots.iter().filter_map(|(_, slot)| match slot {
            Slot::Listener(listening) => Some(listening.address().clone()),
            _ => None,
        });
        ports.collect()
    }
}
