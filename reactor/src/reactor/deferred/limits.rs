//! Limits on waiting: a time-out, a shield against cancellation, a pause.

use std::cell::Cell;
use std::fmt;
use std::panic::Location;
use std::rc::Rc;
use std::time::Duration;

use super::node::discard;
use super::resolver::Origin;
use super::{Canceller, Deferred, Failure, Resolver};
use crate::core::interruption::Interruption;
use crate::reactor::handle::Handle;

impl<T: 'static, E: Failure> Deferred<T, E> {
    /// Cancels what it waits for when that takes longer than `after`; its failure is then
    /// [`TimedOut`](Interruption::TimedOut). What comes in time is passed on as it is, and so is an error
    /// that has another cause.
    ///
    /// ```
    /// use std::time::Duration;
    /// use twistor::{Deferred, Interruption, Reactor};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let (_nobody, answer) = Deferred::<u32, Interruption>::new(&reactor);
    /// answer.timeout(Duration::from_millis(2)).on_done(|reactor, outcome| {
    ///     assert_eq!(outcome, Err(Interruption::TimedOut));
    ///     reactor.stop();
    /// });
    /// reactor.run()
    /// # }
    /// ```
    #[track_caller]
    pub fn timeout(self, after: Duration) -> Self {
        let canceller = self.canceller();
        let is_late = Rc::new(Cell::new(false));
        let late = Rc::clone(&is_late);
        let timer = self.handle().call_later(after, move |_| late.set(canceller.cancel()));
        self.then(move |_, outcome| {
            timer.cancel();
            match outcome {
                Err(_) if is_late.get() => Err(Interruption::TimedOut.into()),
                other => other,
            }
        })
    }

    /// The same outcome, but cancelling this, or dropping it while a task waits for it, does not cancel what
    /// it waits for: that goes on, and an error of it is logged.
    #[track_caller]
    pub fn shield(self) -> Self {
        let made_at = Location::caller();
        let (resolver, shielded) = Origin::pair(self.handle(), made_at, None);
        self.on_done(move |handle, outcome| {
            if outcome.is_err() && !resolver.is_wanted() {
                drop(Origin::ready(handle, made_at, outcome));
            } else {
                resolver.resolve(outcome);
            }
        });
        shielded
    }

    /// The same outcome, which can be held back. Cancelling goes through; an outcome that is held back gives
    /// way to [`Cancelled`](Interruption::Cancelled).
    ///
    /// ```
    /// use twistor::{Deferred, Reactor};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let (pause, answer) = Deferred::<u32, String>::ready(&reactor, Ok(42)).pausable();
    /// pause.pause();
    /// answer.on_done(|reactor, outcome| {
    ///     assert_eq!(outcome, Ok(42));
    ///     reactor.stop();
    /// });
    /// reactor.call_soon(move |_| pause.resume());
    /// reactor.run()
    /// # }
    /// ```
    #[track_caller]
    pub fn pausable(self) -> (Pause, Self) {
        let made_at = Location::caller();
        let handle = self.handle().clone();
        let (resolver, deferred) = Origin::pair(&handle, made_at, None);
        let upstream = self.canceller();
        let gate = Rc::new(Held { handle, depth: Cell::new(0), state: Cell::new(State::Waiting(resolver)) });
        let weak = Rc::downgrade(&gate);
        deferred.on_cancel(move || weak.upgrade().is_some_and(|gate| gate.cancel(&upstream)));
        let arriving = Rc::clone(&gate);
        self.on_done(move |_, outcome| arriving.arrived(outcome));
        (Pause { gate }, deferred)
    }
}

/// Holds back the outcome of a [`Deferred`]; see [`Deferred::pausable`]. Pauses nest: as many calls of
/// [`resume`](Self::resume) as of [`pause`](Self::pause) let it go. Dropping this lets it go as well.
pub struct Pause {
    gate: Rc<dyn Gate>,
}

impl Pause {
    /// Holds the outcome back, from now or when it comes.
    pub fn pause(&self) {
        self.gate.depth(1);
    }

    /// Takes back one [`pause`](Self::pause).
    pub fn resume(&self) {
        self.gate.depth(-1);
    }

    /// Whether the outcome is, or would be, held back.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.gate.depth(0)
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        while self.is_paused() {
            self.resume();
        }
    }
}

impl fmt::Debug for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pause").field("is_paused", &self.is_paused()).finish()
    }
}

trait Gate {
    /// Changes how often it is paused; returns whether it is.
    fn depth(&self, change: i32) -> bool;
}

/// An outcome on its way.
struct Held<T, E> {
    handle: Handle,
    depth: Cell<i32>,
    state: Cell<State<T, E>>,
}

enum State<T, E> {
    /// For the outcome.
    Waiting(Resolver<T, E>),
    /// It is there, and paused.
    There(Resolver<T, E>, Result<T, E>),
    Over,
}

impl<T: 'static, E: Failure> Held<T, E> {
    fn arrived(&self, outcome: Result<T, E>) {
        match self.state.replace(State::Over) {
            State::Waiting(resolver) if self.depth.get() == 0 => {
                resolver.resolve(outcome);
            }
            State::Waiting(resolver) => self.state.set(State::There(resolver, outcome)),
            State::There(..) | State::Over => discard(&self.handle, outcome),
        }
    }

    fn cancel(&self, upstream: &Canceller) -> bool {
        match self.state.replace(State::Over) {
            State::Waiting(resolver) => {
                self.state.set(State::Waiting(resolver));
                upstream.cancel()
            }
            State::There(resolver, outcome) => {
                discard(&self.handle, outcome);
                resolver.resolve(Err(Interruption::Cancelled.into()))
            }
            State::Over => false,
        }
    }
}

impl<T: 'static, E: Failure> Gate for Held<T, E> {
    fn depth(&self, change: i32) -> bool {
        let depth = self.depth.get().saturating_add(change).max(0);
        self.depth.set(depth);
        if depth == 0 {
            match self.state.replace(State::Over) {
                State::There(resolver, outcome) => {
                    resolver.resolve(outcome);
                }
                other => self.state.set(other),
            }
        }
        depth > 0
    }
}
