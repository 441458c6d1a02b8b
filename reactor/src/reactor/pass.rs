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

use crate::core::slots::Token;
use crate::driver::{Completion, Scratch};
use crate::reactor::inner::{Call, Inner};
use crate::reactor::shutdown::Stage;
use crate::reactor::stats::Counters;
use crate::reactor::watchdog::Hook;

/// Polls of tasks after which events are looked for, in passes that do nothing else.
const POLLS_PER_LOOK: u32 = 61;

impl Inner {
    /// Whether something is to be done that no event will announce.
    pub(crate) fn has_work(&self) -> bool {
        !self.calls.borrow().is_empty()
            || !self.attention.borrow().is_empty()
            || !self.redelivery.borrow().is_empty()
            || self.inbox.is_pending()
            || self.driver.borrow().has_changes()
            || self.panic.borrow().is_some()
            || self.shutdown_can_advance()
    }

    /// One pass, which waits at most `limit`.
    ///
    /// While nothing but I/O happens (no timer, nothing queued, no interest to change) a pass is a wait and
    /// its completions.
    #[inline]
    pub(crate) fn pass(&self, limit: Option<Duration>, scratch: &mut Scratch) -> io::Result<()> {
        self.in_pass.set(true);
        self.sampled_now.set(None);
        Counters::bump(&self.counters.passes);
        let waited = if self.eventful.get() || limit.is_some() {
            self.wait_with_deadline(limit)
        } else {
            self.wait_for_events(None)
        };
        if waited.is_err() {
            self.in_pass.set(false);
            return waited;
        }
        self.pass_began();
        if self.eventful.get() {
            self.redeliver_all();
        }
        self.complete(scratch);
        if self.eventful.get() || self.inbox.is_pending() {
            self.run_queues();
        }
        self.pass_ended();
        self.in_pass.set(false);
        Ok(())
    }

    /// Sleeps, unless something has come from another thread.
    #[inline(always)]
    fn wait_for_events(&self, timeout: Option<Duration>) -> io::Result<()> {
        if !self.inbox.fall_asleep() {
            self.inbox.wake_up();
            return self.look_for_events();
        }
        let result = self.driver.borrow_mut().wait(timeout);
        self.inbox.wake_up();
        result
    }

    /// Waits for nothing, but fetches the events that are there.
    #[cold]
    fn look_for_events(&self) -> io::Result<()> {
        self.driver.borrow_mut().wait(Some(Duration::ZERO))
    }

    /// Runs the hooks ahead of the wait, finds out whether there is anything but I/O to think of, and waits
    /// accordingly.
    #[inline(never)]
    fn wait_with_deadline(&self, limit: Option<Duration>) -> io::Result<()> {
        let has_hooks = !self.before_wait.borrow().is_empty();
        if has_hooks {
            self.call_before_wait();
        }
        let busy = self.has_work();
        let has_timers = !self.timers.borrow().is_empty();
        self.eventful.set(busy || has_hooks || has_timers || self.stage() != Stage::Running);
        // What looked at the time so far was ahead of the wait.
        self.sampled_now.set(None);
        if busy || limit == Some(Duration::ZERO) {
            // Between two turns its host may have slept.
            self.inbox.wake_up();
            return self.look_for_events();
        }
        self.wait_for_events(if has_timers { self.until_next_timer(limit) } else { limit })
    }

    /// The time to the next timer, or `limit` if that is shorter.
    fn until_next_timer(&self, limit: Option<Duration>) -> Option<Duration> {
        let Some(deadline) = self.timers.borrow_mut().next_deadline() else { return limit };
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
    #[inline(always)]
    fn complete(&self, scratch: &mut Scratch) {
        loop {
            let completion = self.driver.borrow_mut().next(scratch);
            match completion {
                Some(Completion::Received { stream, data }) => {
                    // There is nothing in it to drop; the compiler would look for it all the same.
                    std::mem::forget(completion);
                    self.received(stream, data);
                }
                None => break,
                Some(other) => self.completed(other),
            }
        }
    }

    /// Everything but received bytes.
    #[inline(never)]
    fn completed(&self, completion: Completion<'_>) {
        match completion {
            Completion::Received { stream, data } => self.received(stream, data),
            #[cfg(unix)]
            Completion::Passed { stream, descriptors, data } => self.passed(stream, descriptors, data),
            Completion::Writable { stream } => self.writable(stream),
            Completion::EndOfStream { stream } => self.peer_ended(stream),
            Completion::Accepted { listener, stream } => self.accepted(listener, stream),
            Completion::AcceptFailed { listener, error } => self.accept_failed(listener, &error),
            Completion::Exhausted { listener, error, shed } => self.accept_exhausted(listener, &error, shed),
            Completion::RelayReady { stream } => self.relay_ready(stream),
            Completion::Datagrams { socket, readable, writable, error } => {
                self.datagrams_ready(socket, readable, writable, error);
            }
            Completion::Connected { stream, local } => self.connected(stream, local),
            Completion::Failed { stream, error } => {
                if let Some(error) = self.attempt_failed(stream, error) {
                    self.failed(stream, &error);
                }
            }
            #[cfg(unix)]
            Completion::Ready { source } => self.descriptor_ready(source),
            Completion::Woken => self.look_for_signals(),
        }
    }

    #[cold]
    fn redeliver_all(&self) {
        for token in self.redelivery.take() {
            self.redeliver(token);
        }
    }

    /// The phases that have something to do only now and then: timers, queue, shutdown, settle.
    ///
    /// As long as all that happens is that tasks wake each other, there follow passes that do not look for
    /// events, until so many polls have been made: such a pass costs no system call and no reading of the
    /// clock.
    #[inline(never)]
    fn run_queues(&self) {
        let mut polls = 0;
        loop {
            self.run_timers();
            let made = self.run_calls();
            self.run_messages();
            self.advance_shutdown();
            self.settle();
            self.driver.borrow_mut().settle();
            polls += made.unwrap_or(POLLS_PER_LOOK);
            if !self.goes_on.get() || polls >= POLLS_PER_LOOK || !self.has_only_calls() {
                break;
            }
            Counters::bump(&self.counters.passes);
            self.sampled_now.set(None);
        }
        if self.panic.borrow().is_some() {
            self.let_panic_out();
        }
        if !self.stays_eventful() {
            self.eventful.set(false);
        }
    }

    #[cold]
    fn let_panic_out(&self) {
        let panic = self.panic.borrow_mut().take();
        if let Some(payload) = panic {
            self.in_pass.set(false);
            if self.stage() == Stage::Finished {
                self.finish_shutdown();
            }
            std::panic::resume_unwind(payload);
        }
    }

    /// Whether the next pass has more than I/O to think of. If not, it saves itself all thoughts ahead of its
    /// wait.
    #[inline]
    fn stays_eventful(&self) -> bool {
        !self.timers.borrow().is_empty()
            || !self.calls.borrow().is_empty()
            || !self.attention.borrow().is_empty()
            || self.is_stopping()
            || !self.redelivery.borrow().is_empty()
            || !self.before_wait.borrow().is_empty()
            || self.driver.borrow().has_changes()
    }

    /// Whether another pass has something to do, which is nothing but what is queued.
    fn has_only_calls(&self) -> bool {
        !self.calls.borrow().is_empty()
            && self.stage() == Stage::Running
            && self.panic.borrow().is_none()
            && self.redelivery.borrow().is_empty()
            && self.before_wait.borrow().is_empty()
    }

    /// Runs the callbacks that are queued now. Returns how many tasks were polled, if nothing else was
    /// called.
    fn run_calls(&self) -> Option<u32> {
        let end = self.calls.borrow().end();
        let (mut polls, mut is_all) = (0_u32, true);
        loop {
            let call = self.calls.borrow_mut().pop_before(end);
            let Some(call) = call else { break };
            match call {
                Call::Task(token) => {
                    // There is nothing in it to drop; the compiler would look for it all the same.
                    std::mem::forget(call);
                    polls = polls.saturating_add(1);
                    self.run_task(token);
                }
                Call::Run(node) => {
                    polls = polls.saturating_add(1);
                    Counters::bump(&self.counters.calls);
                    self.run_nodes(node);
                }
                other => {
                    is_all = false;
                    self.run_callback(other);
                }
            }
        }
        is_all.then_some(polls)
    }

    /// Not part of the loop above, so that the way of a task through that stays short.
    #[inline(never)]
    fn run_callback(&self, call: Call) {
        Counters::bump(&self.counters.calls);
        match call {
            Call::Plain(call, made_at) => {
                self.contain(format_args!("a callback queued at {made_at}"), || call(&self.handle));
                self.hook_ran(Token::NOBODY, Hook::Callback);
            }
            Call::Typed(token, call) => self.run_typed(token, Hook::Post, call),
            Call::Task(token) => self.run_task(token),
            Call::Run(node) => self.run_nodes(node),
        }
    }

    /// Runs the calls of other threads that are there now, and the tasks that they have woken.
    #[inline]
    fn run_messages(&self) {
        if self.inbox.is_pending() {
            self.take_messages();
        }
    }

    #[inline(never)]
    fn take_messages(&self) {
        let mut woken = self.woken.take();
        let (messages, stop) = self.inbox.take(&mut woken);
        if stop {
            self.ask_to_stop();
        }
        for message in messages {
            Counters::bump(&self.counters.calls);
            self.contain("a call from another thread", || message(&self.handle));
            self.hook_ran(Token::NOBODY, Hook::Callback);
        }
        for token in woken.drain(..) {
            self.run_task(token);
        }
        *self.woken.borrow_mut() = woken;
    }
}
