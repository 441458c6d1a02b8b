//! [`Sleep`]: a time that passes.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::core::wheel::TimerId;
use crate::reactor::handle::Handle;
use crate::reactor::task::budget;
use crate::reactor::timers::{Timer, deadline};

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not polled yet, or not since its deadline was moved.
    Unset,
    /// The wheel has a timer with the waker of whoever waits.
    Set(TimerId),
    Over,
}

/// Is ready when its time has come, never early. Made by [`sleep`](crate::task::sleep) and
/// [`Handle::sleep`].
///
/// Dropping it takes its timer back. When the reactor is gone there is no time to wait for: it is ready.
#[must_use = "time passes only for who waits"]
pub struct Sleep {
    handle: Handle,
    deadline: Instant,
    state: State,
}

impl Sleep {
    fn new(handle: &Handle, deadline: Instant) -> Self {
        Self { handle: handle.clone(), deadline, state: State::Unset }
    }

    /// When it is ready, by the reactor's [clock](Handle::now).
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether it has been ready.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Starts anew: it is ready `after` from now.
    pub fn reset(&mut self, after: Duration) {
        self.reset_to(deadline(self.handle.now(), after));
    }

    /// Starts anew: it is ready at `at`. Whoever waits for it is woken in time.
    pub fn reset_to(&mut self, at: Instant) {
        self.deadline = at;
        if let State::Set(id) = self.state {
            let is_moved = self.handle.inner().is_some_and(|inner| {
                let is_moved = inner.timers.borrow_mut().reset(id, at);
                inner.host_needs_to_know();
                is_moved
            });
            if is_moved {
                return;
            }
        }
        self.state = State::Unset;
    }

    /// Whether its time has come; if not, `cx` is woken when it has.
    pub(super) fn poll_unbudgeted(&mut self, cx: &Context<'_>) -> Poll<()> {
        let Some(inner) = self.handle.inner() else { return Poll::Ready(()) };
        match self.state {
            State::Over => return Poll::Ready(()),
            State::Unset if inner.read_clock() < self.deadline => {
                let timer = inner.add_timer_at(self.deadline, Timer::Wake(cx.waker().clone()));
                self.state = State::Set(timer.id());
                return Poll::Pending;
            }
            State::Unset => {}
            State::Set(id) => {
                let mut timers = inner.timers.borrow_mut();
                match timers.value_mut(id) {
                    Some(Timer::Wake(waker)) if waker.will_wake(cx.waker()) => return Poll::Pending,
                    Some(_) => {
                        drop(timers);
                        // Foreign code, as far as anybody knows: nothing is borrowed while it is cloned.
                        let mut waker = Timer::Wake(cx.waker().clone());
                        if let Some(timer) = inner.timers.borrow_mut().value_mut(id) {
                            std::mem::swap(timer, &mut waker);
                        }
                        inner.discard(waker);
                        return Poll::Pending;
                    }
                    None => {}
                }
            }
        }
        self.state = State::Over;
        Poll::Ready(())
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_unbudgeted(cx));
        // The time that has come stays, if it is another's turn first.
        budget::poll_turn(cx)
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let State::Set(id) = self.state
            && let Some(inner) = self.handle.inner()
        {
            let removed = inner.timers.borrow_mut().remove(id);
            inner.discard(removed);
        }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("deadline", &self.deadline).field("over", &self.is_over()).finish()
    }
}

impl Handle {
    /// A future that is ready `after` from now: from this call, not from the first time it is polled.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// twistor::run(async |reactor| {
    ///     let before = reactor.now();
    ///     reactor.sleep(Duration::from_millis(2)).await;
    ///     assert!(reactor.now() - before >= Duration::from_millis(2));
    /// })
    /// # }
    /// ```
    pub fn sleep(&self, after: Duration) -> Sleep {
        self.sleep_until(deadline(self.now(), after))
    }

    /// A future that is ready at a time of the reactor's [clock](Self::now).
    pub fn sleep_until(&self, at: Instant) -> Sleep {
        Sleep::new(self, at)
    }
}
