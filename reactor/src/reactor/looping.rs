//! [`LoopingCall`]: something done again and again on a fixed grid.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::core::pruned;
use crate::core::slots::Token;
use crate::core::wheel::TimerId;
use crate::net::reason::Reason;
use crate::protocol::Protocol;
use crate::reactor::deferred::{Deferred, MaybeDeferred, Resolver};
use crate::reactor::handle::Handle;
use crate::reactor::inner::Inner;
use crate::reactor::stats::Counters;
use crate::reactor::timers::{Timer, deadline};
use crate::reactor::transport::Transport;
use crate::reactor::watchdog::Hook;

/// What is done each time. `Plain` returns whether it is over; if not, it will call `Looping::finished`.
enum Action {
    Plain(Box<dyn FnMut(&Handle, u64, &Rc<Looping>) -> bool>),
    Typed(Token, Box<dyn FnMut(&mut dyn Protocol, &Transport) -> bool>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// A timer is set.
    Waiting(TimerId),
    /// The action runs, or its Deferred has not fired.
    Running,
    Stopped,
}

pub(crate) struct Grid {
    start: Instant,
    interval: Duration,
    /// Slot of the last call; slot 0 is the start.
    slot: u64,
    skipped: u64,
}

impl Grid {
    pub(crate) fn new(start: Instant, interval: Duration) -> Self {
        Self { start, interval: interval.max(Duration::from_nanos(1)), slot: 1, skipped: 0 }
    }

    /// How many slots were left out since this was asked last.
    pub(crate) fn take_skipped(&mut self) -> u64 {
        std::mem::take(&mut self.skipped)
    }

    /// The first slot after `now`, and how many were left out.
    pub(crate) fn advance(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.start).as_nanos();
        let next = u64::try_from(since / self.interval.as_nanos()).unwrap_or(u64::MAX - 1) + 1;
        let next = next.max(self.slot + 1);
        self.skipped += next - self.slot - 1;
        self.slot = next;
    }

    pub(crate) fn next_deadline(&self) -> Instant {
        let nanos = self.interval.as_nanos().saturating_mul(u128::from(self.slot));
        deadline(self.start, Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }
}

/// The state behind a [`LoopingCall`].
pub(crate) struct Looping {
    handle: Handle,
    grid: RefCell<Grid>,
    state: RefCell<State>,
    action: RefCell<Option<Action>>,
    /// Whether `run_until_idle` waits for it.
    referenced: Cell<bool>,
    waiting: RefCell<Vec<Resolver<(), Box<dyn Error>>>>,
    /// The text of the error that ended it, for those who ask later.
    failure: RefCell<Option<String>>,
}

/// A call made again and again, at `start + n · interval`.
///
/// A call that comes late or takes long does not shift the grid: the missed slots are skipped, and the next
/// call is told how many. Dropping the handle changes nothing.
///
/// ```
/// use std::time::Duration;
/// use twistor::Reactor;
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// let mut ticks = 0;
/// reactor.every(Duration::from_millis(1), move |reactor, skipped| {
///     ticks += 1 + skipped;
///     if ticks >= 3 {
///         reactor.stop();
///     }
/// });
/// reactor.run()
/// # }
/// ```
#[derive(Clone)]
pub struct LoopingCall {
    looping: Rc<Looping>,
}

impl LoopingCall {
    pub(crate) fn plain<R: MaybeDeferred>(
        handle: &Handle,
        interval: Duration,
        mut f: impl FnMut(&Handle, u64) -> R + 'static,
    ) -> Self {
        let action = move |handle: &Handle, skipped: u64, looping: &Rc<Looping>| {
            let looping = Rc::clone(looping);
            f(handle, skipped).when_done(move |_, outcome| looping.finished(outcome)).is_some()
        };
        Self::start(handle, interval, Action::Plain(Box::new(action)))
    }

    pub(crate) fn typed(
        handle: &Handle,
        interval: Duration,
        token: Token,
        f: Box<dyn FnMut(&mut dyn Protocol, &Transport) -> bool>,
    ) -> Self {
        Self::start(handle, interval, Action::Typed(token, f))
    }

    fn start(handle: &Handle, interval: Duration, action: Action) -> Self {
        let inner = handle.inner();
        let start = inner.as_ref().map_or_else(Instant::now, |inner| inner.read_clock());
        let looping = Rc::new(Looping {
            handle: handle.clone(),
            grid: RefCell::new(Grid::new(start, interval)),
            state: RefCell::new(State::Stopped),
            action: RefCell::new(Some(action)),
            referenced: Cell::new(true),
            waiting: RefCell::new(Vec::new()),
            failure: RefCell::new(None),
        });
        if let Some(inner) = inner {
            let mut loops = inner.loops.borrow_mut();
            pruned::push(&mut loops, Rc::downgrade(&looping), |looping| looping.strong_count() > 0);
        }
        looping.schedule();
        Self { looping }
    }

    /// Makes no further call. False when it had stopped before.
    pub fn stop(&self) -> bool {
        self.looping.stop(Ok(()))
    }

    /// Starts the grid over: the next call comes one interval from now. False when it has stopped.
    pub fn reset(&self) -> bool {
        self.looping.reset()
    }

    /// Whether calls are still to come.
    #[must_use]
    pub fn is_running(&self) -> bool {
        *self.looping.state.borrow() != State::Stopped
    }

    /// Slots skipped since the last call was made.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.looping.grid.borrow().skipped
    }

    /// Does not let [`Reactor::run_until_idle`](crate::Reactor::run_until_idle) wait for its calls.
    pub fn unref(&self) {
        self.looping.referenced.set(false);
        if let (State::Waiting(id), Some(inner)) = (*self.looping.state.borrow(), self.looping.handle.inner())
        {
            inner.timers.borrow_mut().set_referenced(id, false);
        }
    }

    /// Fires when the loop has stopped, or fails when the action's Deferred failed or the action panicked.
    #[track_caller]
    pub fn finished(&self) -> Deferred<(), Box<dyn Error>> {
        let (resolver, deferred) = Deferred::new(&self.looping.handle);
        if self.is_running() {
            self.looping.waiting.borrow_mut().push(resolver);
        } else {
            let failure = self.looping.failure.borrow().clone();
            resolver.resolve(failure.map_or(Ok(()), |text| Err(text.into())));
        }
        deferred
    }
}

impl fmt::Debug for LoopingCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopingCall").field("state", &*self.looping.state.borrow()).finish()
    }
}

impl Looping {
    /// Sets the timer of the grid's current slot.
    fn schedule(self: &Rc<Self>) {
        let Some(inner) = self.handle.inner() else { return };
        let at = self.grid.borrow().next_deadline();
        let timer = inner.add_timer_at(at, Timer::Loop(Rc::clone(self)));
        if !self.referenced.get() {
            timer.unref();
        }
        *self.state.borrow_mut() = State::Waiting(timer.id());
    }

    /// The timer has fired.
    pub(crate) fn fire(self: &Rc<Self>, inner: &Inner) {
        *self.state.borrow_mut() = State::Running;
        let Some(mut action) = self.action.borrow_mut().take() else { return };
        let skipped = self.grid.borrow_mut().take_skipped();
        let mut gone = false;
        let outcome = match &mut action {
            Action::Plain(f) => {
                let over = inner.contain("a looping call", || f(&self.handle, skipped, self));
                inner.hook_ran(Token::NOBODY, Hook::Timer);
                over.ok_or("the looping call panicked")
            }
            Action::Typed(token, f) => {
                let called =
                    inner.call_hook(*token, Hook::Timer, |protocol, transport| f(protocol, transport));
                gone = called != Some(true);
                let panicked = called.is_none() && has_panicked(inner, *token);
                if gone && !panicked {
                    Counters::bump(&inner.counters.dropped_posts);
                }
                if panicked { Err("the looping call panicked") } else { Ok(true) }
            }
        };
        if *self.state.borrow() == State::Stopped {
            inner.discard(action);
            return;
        }
        *self.action.borrow_mut() = Some(action);
        match outcome {
            Ok(true) if gone => {
                self.stop(Ok(()));
            }
            Ok(true) => self.go_on(),
            Ok(false) => {}
            Err(text) => {
                self.stop(Err(text.into()));
            }
        }
    }

    /// The action's Deferred has fired.
    fn finished(self: &Rc<Self>, outcome: Result<(), Box<dyn Error>>) {
        match outcome {
            Ok(()) if *self.state.borrow() == State::Running => self.go_on(),
            Ok(()) => {}
            Err(error) => {
                let text = error.to_string();
                if !self.stop(Err(error)) {
                    log::error!("the last call of a looping call that was stopped failed: {text}");
                }
            }
        }
    }

    /// The call is over: the next free slot of the grid comes next.
    fn go_on(self: &Rc<Self>) {
        if *self.state.borrow() != State::Running {
            return;
        }
        let Some(inner) = self.handle.inner() else { return };
        self.grid.borrow_mut().advance(inner.read_clock());
        self.schedule();
    }

    fn reset(self: &Rc<Self>) -> bool {
        let Some(inner) = self.handle.inner() else { return false };
        let state = *self.state.borrow();
        let mut grid = self.grid.borrow_mut();
        match state {
            State::Stopped => return false,
            State::Waiting(timer) => {
                (grid.start, grid.slot, grid.skipped) = (inner.read_clock(), 1, 0);
                inner.timers.borrow_mut().reset(timer, grid.next_deadline());
            }
            // The call that runs now becomes slot 0 of the new grid.
            State::Running => (grid.start, grid.slot, grid.skipped) = (inner.read_clock(), 0, 0),
        }
        true
    }

    /// Its reactor has dropped the timer: no call will come.
    pub(crate) fn abandon(&self) {
        *self.state.borrow_mut() = State::Stopped;
        let (action, waiting) = (self.action.borrow_mut().take(), self.waiting.take());
        drop((action, waiting));
    }

    fn stop(&self, outcome: Result<(), Box<dyn Error>>) -> bool {
        let before = std::mem::replace(&mut *self.state.borrow_mut(), State::Stopped);
        if before == State::Stopped {
            return false;
        }
        if let (State::Waiting(timer), Some(inner)) = (before, self.handle.inner()) {
            let timer = inner.timers.borrow_mut().remove(timer);
            drop(timer);
        }
        // Dropped after its borrow: a user's closure. While it runs it is not here, and `fire` drops it.
        let action = self.action.borrow_mut().take();
        match self.handle.inner() {
            Some(inner) => inner.discard(action),
            None => drop(action),
        }
        let mut waiting = self.waiting.take().into_iter();
        if let Err(error) = outcome {
            // The first to ask gets the error itself, the others its text.
            let text = error.to_string();
            *self.failure.borrow_mut() = Some(text.clone());
            match waiting.next() {
                Some(first) => {
                    first.resolve(Err(error));
                }
                None => log::error!("a looping call ended: {text}"),
            }
            for resolver in waiting {
                resolver.resolve(Err(text.clone().into()));
            }
        } else {
            for resolver in waiting {
                resolver.resolve(Ok(()));
            }
        }
        true
    }
}

/// Whether a panic in one of its hooks has just ended the connection.
fn has_panicked(inner: &Inner, token: Token) -> bool {
    let transport = inner.transport(token);
    transport.is_some_and(|transport| matches!(transport.0.machine.borrow().reason(), Some(Reason::Panicked)))
}
