//! Long work in small steps, between the I/O: [`Handle::cooperate`] and [`Cooperation`].
//!
//! All cooperations of a reactor stand in one line. A slice is one callback of the loop: it has the first in
//! line make a step and go to the end, until its time or its number of steps is used up, and queues the next
//! slice for the next pass. So I/O and timers have their turn between any two slices.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::rc::{Rc, Weak};
use std::time::Duration;

use crate::core::fifo::Fifo;
use crate::core::interruption::Interruption;
use crate::core::slots::Token;
use crate::reactor::deferred::{Deferred, MaybeDeferred, Resolver};
use crate::reactor::endings::{Ending, Endings};
use crate::reactor::handle::Handle;
use crate::reactor::inner::{Inner, panic_text};
use crate::reactor::watchdog::Hook;

/// How long the steps of one pass may take together, beyond the one that is under way.
const SLICE: Duration = Duration::from_millis(10);
/// How many steps one pass makes at most, by a clock that stands still as well.
const STEPS: usize = 4096;

/// What became of a step.
enum Step {
    /// There may be another one.
    Made,
    /// It has returned a Deferred, which is waited for.
    Waits,
    /// There was none: that is the end.
    NoMore,
}

type Work = Box<dyn FnMut(&Rc<Cooperating>) -> Step>;

enum State {
    /// Wants to make a step.
    Ready,
    /// A step is being made, or its Deferred has no outcome yet.
    Busy,
    Over(Result<(), CooperationError>),
}

/// The state behind a [`Cooperation`].
pub(crate) struct Cooperating {
    handle: Handle,
    made_at: &'static Location<'static>,
    state: RefCell<State>,
    /// Not here while a step is made.
    work: RefCell<Option<Work>>,
    /// How often it was paused and not resumed.
    pauses: Cell<usize>,
    in_line: Cell<bool>,
    waiting: RefCell<Fifo<Resolver<(), CooperationError>>>,
}

/// Those of a reactor.
#[derive(Default)]
pub(crate) struct Cooperations {
    line: RefCell<VecDeque<Rc<Cooperating>>>,
    /// A slice is queued or under way.
    is_queued: Cell<bool>,
    all: RefCell<Endings>,
}

/// Work that is done in small steps, round-robin with other such work, between the I/O. See
/// [`Handle::cooperate`].
///
/// Clones are the same work. Dropping them changes nothing, unless it is paused: then nobody could resume it.
#[derive(Clone)]
pub struct Cooperation {
    shared: Rc<Cooperating>,
}

impl Handle {
    /// Takes the items of `steps` a few per pass, for their effect, until there are no more. Where an item is
    /// a [`Deferred`], the next is taken when that has its outcome; one that fails ends it.
    ///
    /// All cooperations take turns, a step each. Together they have about 10 ms in a pass (by the reactor's
    /// [clock](Self::now)) and at most 4096 steps, at least one; then I/O and timers are looked at. A single
    /// step should take well below that. A step that panics ends its own cooperation only. What is not
    /// finished when the reactor has stopped is dropped.
    ///
    /// A closure becomes such steps with [`std::iter::from_fn`]: `Some(())` is a step, `None` the end.
    ///
    /// ```
    /// use twistor::Reactor;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let mut sum = 0_u64;
    /// let adding = reactor.cooperate((0..100_000).map(move |n| {
    ///     sum += n;
    ///     if n == 99_999 {
    ///         println!("{sum}");
    ///     }
    /// }));
    /// adding.when_done().on_done(|reactor, outcome| {
    ///     assert!(outcome.is_ok());
    ///     reactor.stop();
    /// });
    /// reactor.run()
    /// # }
    /// ```
    #[track_caller]
    pub fn cooperate<I>(&self, steps: I) -> Cooperation
    where
        I: IntoIterator,
        I::IntoIter: 'static,
        I::Item: MaybeDeferred,
    {
        let mut steps = steps.into_iter();
        let work = move |cooperating: &Rc<Cooperating>| match steps.next() {
            None => Step::NoMore,
            Some(item) => {
                let cooperating = Rc::clone(cooperating);
                match item.when_done(move |_, outcome| cooperating.waited(outcome)) {
                    Some(_) => Step::Made,
                    None => Step::Waits,
                }
            }
        };
        Cooperation::start(self, Box::new(work), Location::caller())
    }
}

impl Cooperation {
    fn start(handle: &Handle, work: Work, made_at: &'static Location<'static>) -> Self {
        let shared = Rc::new(Cooperating {
            handle: handle.clone(),
            made_at,
            state: RefCell::new(State::Ready),
            work: RefCell::new(Some(work)),
            pauses: Cell::new(0),
            in_line: Cell::new(false),
            waiting: RefCell::new(Fifo::new()),
        });
        match handle.inner() {
            Some(inner) => {
                inner.cooperations.all.borrow_mut().add(&shared);
                shared.join_line();
            }
            None => {
                shared.finish(&Err(CooperationError::Interrupted(Interruption::Dropped)));
            }
        }
        Self { shared }
    }

    /// Makes no further step until it is [resumed](Self::resume) as often as it was paused. False when it was
    /// over.
    pub fn pause(&self) -> bool {
        let shared = &self.shared;
        if shared.is_over() {
            return false;
        }
        shared.pauses.set(shared.pauses.get() + 1);
        true
    }

    /// Takes one [`pause`](Self::pause) back. False when there was none, or it was over.
    pub fn resume(&self) -> bool {
        let shared = &self.shared;
        let Some(left) = shared.pauses.get().checked_sub(1) else { return false };
        shared.pauses.set(left);
        if shared.is_over() {
            return false;
        }
        shared.join_line();
        true
    }

    /// Ends it: no further step is made, and [`when_done`](Self::when_done) says
    /// [`CooperationError::Stopped`]. What it waits for goes on. False when it was over.
    pub fn stop(&self) -> bool {
        self.shared.finish(&Err(CooperationError::Stopped))
    }

    /// Whether steps may still be made.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.shared.is_over()
    }

    /// Whether it is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.shared.pauses.get() > 0 && !self.shared.is_over()
    }

    /// Fires when all steps were made, or says why not. It can be asked as often as wanted, also afterwards;
    /// cancelling the Deferred only ends this wait.
    #[track_caller]
    pub fn when_done(&self) -> Deferred<(), CooperationError> {
        let shared = &self.shared;
        let (resolver, deferred) = Deferred::new(&shared.handle);
        let outcome = match &*shared.state.borrow() {
            State::Over(outcome) => Some(outcome.clone()),
            State::Ready | State::Busy => None,
        };
        match outcome {
            Some(outcome) => {
                resolver.resolve(outcome);
            }
            None => {
                let token = shared.waiting.borrow_mut().push(resolver);
                let shared = Rc::downgrade(shared);
                deferred.on_cancel(move || cancel(&shared, token));
            }
        }
        deferred
    }
}

fn cancel(shared: &Weak<Cooperating>, token: Token) -> bool {
    let Some(shared) = shared.upgrade() else { return false };
    let resolver = shared.waiting.borrow_mut().remove(token);
    resolver.is_some_and(|resolver| resolver.resolve(Err(Interruption::Cancelled.into())))
}

impl Cooperating {
    fn is_over(&self) -> bool {
        matches!(&*self.state.borrow(), State::Over(_))
    }

    /// Stands in line, if it wants a step and is not there yet.
    fn join_line(self: &Rc<Self>) {
        let is_ready = matches!(&*self.state.borrow(), State::Ready);
        if !is_ready || self.pauses.get() > 0 || self.in_line.get() {
            return;
        }
        let Some(inner) = self.handle.inner() else { return };
        self.in_line.set(true);
        inner.cooperations.line.borrow_mut().push_back(Rc::clone(self));
        inner.queue_slice();
    }

    /// Its turn has come.
    fn take_turn(self: &Rc<Self>, inner: &Inner) {
        self.in_line.set(false);
        let is_ready = matches!(&*self.state.borrow(), State::Ready);
        if !is_ready || self.pauses.get() > 0 {
            return;
        }
        let Some(mut work) = self.work.borrow_mut().take() else { return };
        *self.state.borrow_mut() = State::Busy;
        let step = catch_unwind(AssertUnwindSafe(|| work(self)));
        inner.hook_ran(Token::NOBODY, Hook::Step);
        if self.is_over() {
            // It was stopped from within.
            inner.discard(work);
            if let Err(payload) = step {
                inner.panicked(&format_args!("a step of a cooperation begun at {}", self.made_at), payload);
            }
            return;
        }
        *self.work.borrow_mut() = Some(work);
        match step {
            Ok(Step::Made) => self.go_on(),
            Ok(Step::Waits) => {}
            Ok(Step::NoMore) => {
                self.finish(&Ok(()));
            }
            Err(payload) => {
                let text = panic_text(&*payload).to_owned();
                inner.panicked(&format_args!("a step of a cooperation begun at {}", self.made_at), payload);
                self.finish(&Err(Interruption::Panicked(text).into()));
            }
        }
    }

    fn go_on(self: &Rc<Self>) {
        *self.state.borrow_mut() = State::Ready;
        self.join_line();
    }

    /// The Deferred of its last step has its outcome.
    fn waited(self: &Rc<Self>, outcome: Result<(), Box<dyn Error>>) {
        if self.is_over() {
            if let Err(error) = outcome {
                self.log_failure(&*error);
            }
            return;
        }
        match outcome {
            Ok(()) => self.go_on(),
            Err(error) => {
                self.finish(&Err(CooperationError::Failed(Rc::from(error))));
            }
        }
    }

    fn finish(&self, outcome: &Result<(), CooperationError>) -> bool {
        if self.is_over() {
            return false;
        }
        *self.state.borrow_mut() = State::Over(outcome.clone());
        // Dropped after its borrow: a user's value. While a step is made it is not here, and `take_turn`
        // drops it.
        let work = self.work.borrow_mut().take();
        match self.handle.inner() {
            Some(inner) => inner.discard(work),
            None => drop(work),
        }
        if self.waiting.borrow().is_empty()
            && let Err(CooperationError::Failed(cause)) = outcome
        {
            self.log_failure(&**cause);
        }
        loop {
            let resolver = self.waiting.borrow_mut().pop();
            let Some(resolver) = resolver else { return true };
            resolver.resolve(outcome.clone());
        }
    }

    /// Nobody else is told why a step failed.
    fn log_failure(&self, cause: &dyn Error) {
        let Some(inner) = self.handle.inner() else { return };
        inner.contain("the Display of an error", || {
            log::error!("a step of the cooperation begun at {} failed: {cause}", self.made_at);
        });
    }
}

/// The reactor has stopped or is dropped: no step will be made.
impl Ending for Cooperating {
    fn end(&self, inner: &Inner) {
        let over = State::Over(Err(CooperationError::Interrupted(Interruption::Dropped)));
        let before = if self.is_over() { None } else { Some(self.state.replace(over)) };
        let (work, waiting) = (self.work.borrow_mut().take(), self.waiting.replace(Fifo::new()));
        inner.discard(before);
        inner.discard(work);
        inner.discard(waiting);
    }
}

impl Inner {
    fn queue_slice(&self) {
        if !self.cooperations.is_queued.replace(true) {
            self.handle.call_soon(Self::run_slice);
        }
    }

    /// Has those in line make steps, until that is enough for this pass.
    fn run_slice(handle: &Handle) {
        let Some(inner) = handle.inner() else { return };
        let until = inner.read_clock() + SLICE;
        for _ in 0..STEPS {
            let first = inner.cooperations.line.borrow_mut().pop_front();
            let Some(first) = first else { break };
            first.take_turn(&inner);
            if Rc::strong_count(&first) == 1 {
                inner.discard(first);
            }
            if inner.read_clock() >= until {
                break;
            }
        }
        inner.cooperations.is_queued.set(false);
        if !inner.cooperations.line.borrow().is_empty() {
            inner.queue_slice();
        }
    }

    /// Ends all cooperations, at the end of a shutdown or of the reactor. Returns whether there were any.
    pub(crate) fn end_cooperations(&self) -> bool {
        let all = self.cooperations.all.take();
        let line = self.cooperations.line.take();
        // What was queued is dropped.
        self.cooperations.is_queued.set(false);
        let alive = all.alive();
        let were_there = !alive.is_empty();
        for one in alive {
            one.end(self);
            self.discard(one);
        }
        self.discard(line);
        were_there
    }
}

impl fmt::Debug for Cooperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cooperation")
            .field("is_running", &self.is_running())
            .field("is_paused", &self.is_paused())
            .finish_non_exhaustive()
    }
}

/// Why a [`Cooperation`] ended before its last step.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CooperationError {
    /// [`Cooperation::stop`].
    Stopped,
    /// A Deferred that a step returned failed with this.
    Failed(Rc<dyn Error>),
    /// A step panicked, the reactor is gone, or this wait for the end was cancelled.
    Interrupted(Interruption),
}

impl From<Interruption> for CooperationError {
    fn from(interruption: Interruption) -> Self {
        Self::Interrupted(interruption)
    }
}

impl fmt::Display for CooperationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("the cooperation was stopped"),
            Self::Failed(_) => f.write_str("a step of the cooperation failed"),
            Self::Interrupted(interruption) => write!(f, "the cooperation was interrupted: {interruption}"),
        }
    }
}

impl Error for CooperationError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed(error) => Some(&**error),
            Self::Stopped => None,
            Self::Interrupted(interruption) => Some(interruption),
        }
    }
}
