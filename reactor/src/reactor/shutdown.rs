//! Stopping: the phases from `stop` to the end of `run`.

use std::panic::Location;
use std::time::Instant;

use crate::core::slots::Token;
use crate::net::connection::End;
use crate::net::reason::Reason;
use crate::reactor::deferred::{Completed, MaybeDeferred};
use crate::reactor::handle::Handle;
use crate::reactor::inner::{Inner, Slot};
use crate::reactor::timers::Timer;
use crate::reactor::watchdog::Hook;

/// When a shutdown trigger runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ShutdownPhase {
    /// First: connections and ports are still there. A Deferred that the trigger returns is waited for.
    Before,
    /// After the connections are gone.
    During,
    /// Last.
    After,
}

/// True: it is done. False: it will say so.
type Trigger = Box<dyn FnOnce(&Handle) -> bool>;

/// How far a shutdown has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    Running,
    /// `stop` was called.
    Asked,
    /// Triggers of a phase run; this many have not finished.
    Triggers(ShutdownPhase, usize),
    /// Connections have until then.
    Draining(Instant),
    /// The last connections are being reported lost.
    Aborting,
    Finished,
}

/// The stage, and the triggers that are still to run.
pub(crate) struct Shutdown {
    pub(crate) stage: Stage,
    /// Tells a late trigger of an earlier shutdown from those of this one.
    round: u32,
    triggers: Vec<(ShutdownPhase, Trigger)>,
}

impl Shutdown {
    pub(crate) fn new() -> Self {
        Self { stage: Stage::Running, round: 0, triggers: Vec::new() }
    }
}

impl Inner {
    pub(crate) fn stage(&self) -> Stage {
        self.shutdown.borrow().stage
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stage() != Stage::Running
    }

    fn set_stage(&self, stage: Stage) {
        self.eventful.set(true);
        self.shutdown.borrow_mut().stage = stage;
    }

    pub(crate) fn on_shutdown<R: MaybeDeferred>(
        &self,
        phase: ShutdownPhase,
        f: impl FnOnce(&Handle) -> R + 'static,
    ) {
        let trigger = move |handle: &Handle| {
            let round = handle.inner().map(|inner| inner.shutdown.borrow().round);
            let done = f(handle).when_done(move |handle, outcome| {
                if let Err(error) = outcome {
                    log::error!("a shutdown trigger failed: {error}");
                }
                if let Some(inner) = handle.inner()
                    && round == Some(inner.shutdown.borrow().round)
                {
                    inner.trigger_finished(phase);
                }
            });
            matches!(done, Some(Completed))
        };
        self.shutdown.borrow_mut().triggers.push((phase, Box::new(trigger)));
    }

    /// Marks that the reactor is to stop; the pass does the rest.
    pub(crate) fn ask_to_stop(&self) {
        if self.stage() == Stage::Running {
            let round = self.shutdown.borrow().round.wrapping_add(1);
            self.shutdown.borrow_mut().round = round;
            self.set_stage(Stage::Asked);
            self.host_needs_to_know();
        }
    }

    /// Ends a drain that is under way: asked to stop twice, one means it.
    #[cfg(unix)]
    pub(crate) fn hurry(&self) {
        match self.stage() {
            Stage::Draining(_) => self.set_stage(Stage::Draining(self.now())),
            Stage::Triggers(phase, _) => self.set_stage(Stage::Triggers(phase, 0)),
            _ => {}
        }
    }

    fn trigger_finished(&self, phase: ShutdownPhase) {
        if let Stage::Triggers(running, count) = self.stage()
            && running == phase
        {
            self.set_stage(Stage::Triggers(phase, count.saturating_sub(1)));
        }
    }

    fn has_triggers(&self, phase: ShutdownPhase) -> bool {
        self.shutdown.borrow().triggers.iter().any(|(at, _)| *at == phase)
    }

    fn run_triggers(&self, phase: ShutdownPhase) {
        let mut unfinished = 0;
        // One by one, because a trigger may add another to its own phase.
        loop {
            let due = {
                let triggers = &mut self.shutdown.borrow_mut().triggers;
                let next = triggers.iter().position(|(at, _)| *at == phase);
                next.map(|next| triggers.remove(next).1)
            };
            let Some(trigger) = due else { break };
            // A trigger that panics is over.
            if self.contain("a shutdown trigger", || trigger(&self.handle)) == Some(false) {
                unfinished += 1;
            }
        }
        self.set_stage(Stage::Triggers(phase, unfinished));
    }

    /// Whether the shutdown can go on without waiting for anything.
    pub(crate) fn shutdown_can_advance(&self) -> bool {
        match self.stage() {
            Stage::Running | Stage::Finished => false,
            Stage::Asked | Stage::Triggers(_, 0) => true,
            Stage::Triggers(..) => false,
            Stage::Draining(deadline) => self.connections.get() == 0 || deadline <= self.now(),
            Stage::Aborting => true,
        }
    }

    /// Whether connections are not wanted any more: a new one would keep the shutdown from its end.
    pub(crate) fn is_past_connections(&self) -> bool {
        match self.stage() {
            Stage::Aborting | Stage::Finished => true,
            Stage::Triggers(phase, _) => phase != ShutdownPhase::Before,
            Stage::Running | Stage::Asked | Stage::Draining(_) => false,
        }
    }

    /// Takes the shutdown as far as it goes in this pass.
    #[inline]
    pub(crate) fn advance_shutdown(&self) {
        if self.is_stopping() {
            self.advance_stages();
        }
    }

    #[cold]
    fn advance_stages(&self) {
        while self.shutdown_can_advance() {
            match self.stage() {
                Stage::Asked => self.run_triggers(ShutdownPhase::Before),
                // Added while the others of this phase were waited for.
                Stage::Triggers(phase, _) if self.has_triggers(phase) => self.run_triggers(phase),
                Stage::Triggers(ShutdownPhase::Before, _) => self.start_draining(),
                Stage::Draining(_) => {
                    self.abort_connections();
                    self.set_stage(Stage::Aborting);
                    // Settle reports the losses first.
                    return;
                }
                Stage::Aborting if self.connections.get() > 0 => return,
                Stage::Aborting => self.run_triggers(ShutdownPhase::During),
                Stage::Triggers(ShutdownPhase::During, _) => self.run_triggers(ShutdownPhase::After),
                Stage::Triggers(ShutdownPhase::After, _) => self.set_stage(Stage::Finished),
                Stage::Running | Stage::Finished => return,
            }
        }
    }

    fn tokens(&self, wanted: fn(&Slot) -> bool) -> Vec<Token> {
        self.slots.borrow().iter().filter(|(_, slot)| wanted(slot)).map(|(token, _)| token).collect()
    }

    fn start_draining(&self) {
        let now = self.read_clock();
        let deadline = crate::reactor::timers::deadline(now, self.config.drain_timeout);
        self.set_stage(Stage::Draining(deadline));
        // Ends a wait at the deadline; there is nothing to do but look.
        self.add_timer_at(deadline, Timer::Call(Box::new(|_| {}), Location::caller())).unref();
        self.close_listeners();
        self.abandon_attempts();
        for token in self.tokens(|slot| matches!(slot, Slot::Connection(..))) {
            self.call_hook(token, Hook::ShuttingDown, |protocol, transport| {
                protocol.shutting_down(transport);
            });
        }
    }

    pub(crate) fn close_listeners(&self) {
        self.close_all_datagrams();
        for token in self.tokens(|slot| matches!(slot, Slot::Listener(_))) {
            if let Some(listening) = self.listener(token) {
                self.stop_listening(&listening);
            }
        }
    }

    /// One last attempt to flush, then the end; also of what was opened meanwhile.
    fn abort_connections(&self) {
        self.close_listeners();
        self.abandon_attempts();
        for token in self.tokens(|slot| matches!(slot, Slot::Connection(..))) {
            if let Some(transport) = self.transport(token) {
                self.tend(&transport);
                transport.end(Reason::Shutdown, End::Abrupt);
            }
        }
    }
}
