//! Timers as users see them: [`DelayedCall`].

use std::fmt;
use std::panic::Location;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::core::slots::Token;
use crate::core::wheel::TimerId;
use crate::reactor::connecting::AttemptId;
use crate::reactor::handle::Handle;
use crate::reactor::inner::{Inner, TypedCall};
use crate::reactor::looping::Looping;
use crate::reactor::stats::Counters;
use crate::reactor::watchdog::Hook;

/// What happens when a timer fires.
pub(crate) enum Timer {
    /// With the place that set it, for the log.
    Call(Box<dyn FnOnce(&Handle)>, &'static Location<'static>),
    /// A call into the protocol of a connection.
    Typed(Token, TypedCall),
    Loop(Rc<Looping>),
    /// Somebody sleeps until then.
    Wake(Waker),
    /// A connection's time-outs are to be looked at.
    Watch(Token),
    /// A listener has rested.
    AcceptAgain(Token),
    /// An attempt to connect has taken too long.
    ConnectTimeout(AttemptId),
    /// An attempt to connect tries its next address as well.
    NextAddress(AttemptId),
}

/// Beyond any deadline that could matter; "for ever" ends here.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// `from` plus `after`, without overflow.
pub(crate) fn deadline(from: Instant, after: Duration) -> Instant {
    from.checked_add(after.min(FOREVER)).unwrap_or(from)
}

/// A call that will be made later, and can be moved or cancelled until then.
///
/// Dropping it changes nothing: the call is made all the same.
///
/// ```
/// use std::time::Duration;
/// use twistor::Reactor;
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// let never = reactor.call_later(Duration::from_secs(5), |_| unreachable!());
/// reactor.call_later(Duration::from_millis(1), move |reactor| {
///     assert!(never.cancel());
///     assert!(!never.cancel(), "cancelling twice is ordinary");
///     reactor.stop();
/// });
/// reactor.run()
/// # }
/// ```
#[derive(Clone)]
pub struct DelayedCall {
    handle: Handle,
    /// `None` for a call that was refused.
    id: Option<TimerId>,
}

impl DelayedCall {
    /// A call that will never be made.
    pub(crate) fn dead(handle: &Handle) -> Self {
        Self { handle: handle.clone(), id: None }
    }

    pub(crate) fn id(&self) -> TimerId {
        self.id.unwrap_or(TimerId::NONE)
    }

    /// Takes the call back, at once, also when it is due in this very pass. False when it was made or
    /// cancelled before.
    pub fn cancel(&self) -> bool {
        let Some((inner, id)) = self.parts() else { return false };
        // Dropped after the borrow has ended: the closure is a user's value.
        let removed = inner.timers.borrow_mut().remove(id);
        let is_removed = removed.is_some();
        inner.discard(removed);
        is_removed
    }

    /// Makes the call `after` from now instead. False when it was made or cancelled before.
    pub fn reset(&self, after: Duration) -> bool {
        let Some((inner, id)) = self.parts() else { return false };
        let deadline = deadline(inner.read_clock(), after);
        let moved = inner.timers.borrow_mut().reset(id, deadline);
        inner.host_needs_to_know();
        moved
    }

    /// Makes the call `by` later than planned. False when it was made or cancelled before.
    pub fn delay(&self, by: Duration) -> bool {
        let Some((inner, id)) = self.parts() else { return false };
        let mut timers = inner.timers.borrow_mut();
        match timers.deadline(id) {
            Some(planned) => timers.reset(id, deadline(planned, by)),
            None => false,
        }
    }

    /// When the call will be made; `None` when it was made or cancelled.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let (inner, id) = self.parts()?;
        inner.timers.borrow().deadline(id)
    }

    /// Whether the call is still to be made.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.deadline().is_some()
    }

    /// Does not let [`Reactor::run_until_idle`](crate::Reactor::run_until_idle) wait for this call.
    pub fn unref(&self) {
        if let Some((inner, id)) = self.parts() {
            inner.timers.borrow_mut().set_referenced(id, false);
        }
    }

    /// A guard that cancels the call when it is dropped.
    #[must_use = "dropping the guard cancels the call"]
    pub fn cancel_on_drop(self) -> CancelOnDrop {
        CancelOnDrop(self)
    }

    fn parts(&self) -> Option<(Rc<Inner>, TimerId)> {
        Some((self.handle.inner()?, self.id?))
    }
}

impl fmt::Debug for DelayedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DelayedCall").field("active", &self.is_active()).finish()
    }
}

/// Cancels a [`DelayedCall`] when dropped. It derefs to the call.
#[derive(Debug)]
pub struct CancelOnDrop(DelayedCall);

impl std::ops::Deref for CancelOnDrop {
    type Target = DelayedCall;

    fn deref(&self) -> &DelayedCall {
        &self.0
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Inner {
    /// Adds a timer. It counts from the clock as it is, not as the pass knows it: set late in a long pass it
    /// would be early otherwise.
    pub(crate) fn add_timer(&self, after: Duration, timer: Timer) -> DelayedCall {
        self.add_timer_at(deadline(self.read_clock(), after), timer)
    }

    pub(crate) fn add_timer_at(&self, at: Instant, timer: Timer) -> DelayedCall {
        let id = self.timers.borrow_mut().insert(at, timer);
        self.eventful.set(true);
        self.host_needs_to_know();
        DelayedCall { handle: self.handle.clone(), id: Some(id) }
    }

    /// Runs what is due at the time of this pass.
    #[inline]
    pub(crate) fn run_timers(&self) {
        if !self.timers.borrow().is_empty() {
            self.run_due_timers();
        }
    }

    #[inline(never)]
    fn run_due_timers(&self) {
        self.timers.borrow_mut().collect_due(self.now());
        loop {
            let due = self.timers.borrow_mut().pop_due();
            let Some((id, timer)) = due else { break };
            Counters::bump(&self.counters.timer_calls);
            match timer {
                Timer::Call(call, made_at) => {
                    self.contain(format_args!("a timer set at {made_at}"), || call(&self.handle));
                    self.hook_ran(Token::NOBODY, Hook::Timer);
                }
                Timer::Typed(token, call) => {
                    if let Some(transport) = self.transport(token) {
                        transport.with_extra(|extra| extra.timers.retain(|timer| *timer != id));
                    }
                    self.run_typed(token, Hook::Timer, call);
                }
                Timer::Loop(looping) => looping.fire(self),
                Timer::Wake(waker) => {
                    self.contain("a waker", || waker.wake());
                }
                Timer::Watch(token) => self.deadline_passed(token),
                Timer::AcceptAgain(token) => self.accept_again(token),
                Timer::ConnectTimeout(attempt) => self.connect_timed_out(attempt),
                Timer::NextAddress(attempt) => self.try_next_address(attempt),
            }
        }
    }
}
