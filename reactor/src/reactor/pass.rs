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
use crate::reactor::stats::Counters;
use crate::reactor::watchdog::Hook;

impl Inner {
    /// Whether something is to be done that no event will announce.
    #[inline]
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
        Counters::bump(&self.counters.passes);
        if !self.before_wait.borrow().is_empty() {
            self.call_before_wait();
        }
        let interrupted = self.wait(limit)?;
        let now = self.read_clock();
        self.now.set(now);
        self.watchdog.pass_began(now);

        if !self.redelivery.borrow().is_empty() {
            for token in self.redelivery.take() {
                self.redeliver(token);
            }
        }
        self.complete(scratch);
        self.run_timers();
        self.run_queue();
        if self.inbox.take_stop() {
            self.ask_to_stop();
        }
        self.look_for_signals();
        self.advance_shutdown();
        self.settle();
        self.driver.borrow_mut().settle();
        self.pass_ended();
        self.in_pass.set(false);
        let panic = self.panic.borrow_mut().take();
        if let Some(payload) = panic {
            std::panic::resume_unwind(payload);
        }
        Ok(interrupted)
    }

    fn wait(&self, limit: Option<Duration>) -> io::Result<bool> {
        let timeout = if self.has_work() { Some(Duration::ZERO) } else { self.until_next_timer(limit) };
        let sleeps = timeout != Some(Duration::ZERO);
        if sleeps && !self.inbox.fall_asleep() {
            self.inbox.wake_up();
            return self.driver.borrow_mut().wait(Some(Duration::ZERO));
        }
        let result = self.driver.borrow_mut().wait(timeout);
        self.inbox.wake_up();
        result
    }

    /// The time to the next timer, or `limit` if that is shorter.
    #[inline]
    fn until_next_timer(&self, limit: Option<Duration>) -> Option<Duration> {
        let next = self.timers.borrow_mut().next_deadline();
        let Some(deadline) = next else { return limit };
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
                Some(Completion::Woken) => {}
            }
        }
    }

    /// Runs the callbacks and the calls of other threads that are there now.
    fn run_queue(&self) {
        let end = {
            let calls = self.calls.borrow();
            if calls.is_empty() { None } else { Some(calls.end()) }
        };
        if let Some(end) = end {
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
        if self.inbox.is_pending() {
            for message in self.inbox.take() {
                Counters::bump(&self.counters.calls);
                self.contain("a call from another thread", || message(&self.handle));
                self.hook_ran(None, Hook::Callback);
            }
        }
    }
}
