//! The pass: one turn of the loop, phase by phase.
//!
//! ```text
//! 1 wait      not at all if anything is queued, else until the next deadline
//! 2 I/O       what was given back is delivered again; then each completion → hook → flush its own output
//! 3 timers    one sampled now; what is due at it
//! 4 queue     callbacks, posts and calls of other threads that were there when this phase began
//! 5 stop?     the phases of shutdown
//! 6 settle    flush the others · watermark hooks · losses · free slots · interest changes
//! ```

use std::io;
use std::time::Duration;

use crate::driver::{Completion, Scratch};
use crate::reactor::inner::{Call, Inner};
use crate::reactor::shutdown::Stage;
use crate::reactor::stats::Counters;
use crate::reactor::watchdog::Hook;

impl Inner {
    /// Whether something is to be done that no event will announce.
    pub(crate) fn has_work(&self) -> bool {
        !self.calls.borrow().is_empty()
            || !self.attention.borrow().is_empty()
            || !self.redelivery.borrow().is_empty()
            || self.inbox.is_pending()
            || self.shutdown_can_advance()
    }

    /// One pass, which waits at most `limit`. True when a signal cut the wait short.
    pub(crate) fn pass(&self, limit: Option<Duration>, scratch: &mut Scratch) -> io::Result<bool> {
        self.in_pass.set(true);
        self.sampled_now.set(None);
        Counters::bump(&self.counters.passes);
        let interrupted = self.wait(limit)?;
        self.pass_began();
        if self.eventful.get() {
            self.redeliver_all();
        }
        self.complete(scratch);
        self.run_timers();
        if self.eventful.get() || self.inbox.is_pending() {
            self.run_queues();
        }
        self.driver.borrow_mut().settle();
        self.pass_ended();
        self.in_pass.set(false);
        Ok(interrupted)
    }

    /// Sleeps until there is something to do.
    fn wait(&self, limit: Option<Duration>) -> io::Result<bool> {
        let timeout = if self.eventful.get() && self.is_busy() {
            Some(Duration::ZERO)
        } else {
            self.until_next_timer(limit)
        };
        let awake = timeout == Some(Duration::ZERO) || !self.inbox.fall_asleep();
        let result = self.driver.borrow_mut().wait(if awake { Some(Duration::ZERO) } else { timeout });
        self.inbox.wake_up();
        result
    }

    /// Runs the hooks ahead of the wait and says whether there is to be one; settles what `eventful` means.
    #[cold]
    fn is_busy(&self) -> bool {
        let has_hooks = !self.before_wait.borrow().is_empty();
        if has_hooks {
            self.call_before_wait();
        }
        let busy = self.has_work();
        self.eventful.set(busy || has_hooks || self.stage() != Stage::Running);
        busy
    }

    /// The time to the next timer, or `limit` if that is shorter.
    #[inline]
    fn until_next_timer(&self, limit: Option<Duration>) -> Option<Duration> {
        let mut timers = self.timers.borrow_mut();
        if timers.is_empty() {
            return limit;
        }
        let Some(deadline) = timers.next_deadline() else { return limit };
        let left = deadline.saturating_duration_since(self.read_clock());
        Some(limit.map_or(left, |limit| limit.min(left)))
    }

    #[cold]
    fn call_before_wait(&self) {
        let hooks = self.before_wait.borrow().clone();
        for hook in hooks {
            self.contain("a before_wait hook", || (hook.borrow_mut())(&self.handle));
        }
    }

    /// Hands every completion to whom it concerns.
    #[inline]
    fn complete(&self, scratch: &mut Scratch) {
        loop {
            let completion = self.driver.borrow_mut().next(scratch);
            match completion {
                None => break,
                Some(Completion::Received { stream, data }) => self.received(stream, data),
                Some(Completion::Writable { stream }) => self.writable(stream),
                Some(Completion::EndOfStream { stream }) => self.peer_ended(stream),
                Some(Completion::Accepted { listener, stream }) => self.accepted(listener, stream),
                Some(Completion::AcceptFailed { listener, error }) => self.accept_failed(listener, &error),
                Some(Completion::Exhausted { listener, error, shed }) => {
                    self.accept_exhausted(listener, &error, shed);
                }
                Some(Completion::RelayReady { stream }) => self.relay_ready(stream),
                Some(Completion::Connected { stream, local }) => self.connected(stream, local),
                Some(Completion::Failed { stream, error }) => {
                    if let Some(error) = self.attempt_failed(stream, error) {
                        self.failed(stream, &error);
                    }
                }
                Some(Completion::Woken) => self.look_for_signals(),
            }
        }
    }

    #[cold]
    fn redeliver_all(&self) {
        for token in self.redelivery.take() {
            self.redeliver(token);
        }
    }

    /// The phases that have something to do only now and then: queue, shutdown, settle.
    fn run_queues(&self) {
        self.run_calls();
        self.run_messages();
        self.advance_shutdown();
        self.settle();
        let panic = self.panic.borrow_mut().take();
        if let Some(payload) = panic {
            self.in_pass.set(false);
            std::panic::resume_unwind(payload);
        }
    }

    /// Runs the callbacks that are queued now.
    fn run_calls(&self) {
        let end = self.calls.borrow().end();
        loop {
            let call = self.calls.borrow_mut().pop_before(end);
            let Some(call) = call else { break };
            Counters::bump(&self.counters.calls);
            match call {
                Call::Plain(call) => {
                    self.contain("a callback", || call(&self.handle));
                    self.hook_ran(None, Hook::Callback);
                }
                Call::Typed(token, call) => self.run_typed(token, Hook::Post, call),
            }
        }
    }

    /// Runs the calls of other threads that are there now.
    fn run_messages(&self) {
        if !self.inbox.is_pending() {
            return;
        }
        let (messages, stop) = self.inbox.take();
        if stop {
            self.ask_to_stop();
        }
        for message in messages {
            Counters::bump(&self.counters.calls);
            self.contain("a call from another thread", || message(&self.handle));
            self.hook_ran(None, Hook::Callback);
        }
    }
}
