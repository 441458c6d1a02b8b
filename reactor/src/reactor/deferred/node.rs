//! What a chain is made of: nodes that are told an outcome, and nodes that will have one.
//!
//! A node is one allocation. Upstream owns downstream (whoever will decide owns who waits), downstream knows
//! upstream weakly, to cancel it. Nothing here recurses along a chain: running hands back the next node,
//! cancelling and dropping go from one to the next in a loop.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Failure;
use crate::core::interruption::Interruption;
use crate::reactor::handle::Handle;
use crate::reactor::inner::{Call, Inner};

/// Anything in a chain.
pub(crate) trait Node {}

/// A node that has been told its input and has to work on it, from the loop.
pub(crate) trait Runnable: Node {
    /// Does it, and returns whose turn is next.
    fn run(self: Rc<Self>, inner: &Inner) -> Option<Rc<dyn Runnable>>;

    /// Its turn will not come, for the loop ends: drops what it has, and returns whose turn will not come for
    /// that.
    fn forget(self: Rc<Self>, inner: &Inner) -> Option<Rc<dyn Runnable>>;
}

/// A node that waits for the one before it.
pub(crate) trait Next<T, E>: Node {
    /// Takes the outcome. Calls nobody: what is returned is to be run.
    fn accept(self: Rc<Self>, outcome: Result<T, E>) -> Rc<dyn Runnable>;
}

/// A node whose closure has returned a Deferred.
pub(crate) trait Outer<T, E>: Node {
    /// Takes that Deferred's outcome.
    fn settle(self: Rc<Self>, outcome: Result<T, E>) -> Rc<dyn Runnable>;
}

/// Who waits for an outcome.
pub(crate) enum Consumer<T, E> {
    Next(Rc<dyn Next<T, E>>),
    Outer(Rc<dyn Outer<T, E>>),
}

impl<T, E> Consumer<T, E> {
    fn accept(self, outcome: Result<T, E>) -> Rc<dyn Runnable> {
        match self {
            Self::Next(next) => next.accept(outcome),
            Self::Outer(outer) => outer.settle(outcome),
        }
    }
}

/// What became of the wish to cancel a node.
pub(crate) enum Step {
    /// Whether it will end cancelled.
    Over(bool),
    /// It waits for this one, which is to be asked.
    Ask(Rc<dyn Cancel>),
}

/// A node that can be cancelled.
pub(crate) trait Cancel: Node {
    fn cancel_step(self: Rc<Self>) -> Step;

    /// What it waited for was cancelled.
    fn input_cancelled(&self) {}

    /// Notes whether an error is what its owner asked for. Returns what it was before.
    fn mark_cancelled(&self, is_cancelled: bool) -> bool;
}

/// A node that will have an outcome.
pub(crate) trait Source<T, E>: Cancel {
    /// Hands the outcome to `consumer` when it is there. What is returned is to be run.
    fn attach(self: Rc<Self>, consumer: Consumer<T, E>) -> Option<Rc<dyn Runnable>>;

    /// Takes the outcome, or wakes the task when it is there.
    fn poll(&self, context: &Context<'_>) -> Poll<Result<T, E>>;

    /// Nobody will ask any more.
    fn abandon(&self);

    /// Whether the outcome is not there yet.
    fn is_pending(&self) -> bool;

    /// Whether it is a node in the middle of a chain, that waits for others.
    fn is_link(&self) -> bool {
        false
    }

    fn handle(&self) -> &Handle;

    /// An error that nobody takes is no news: somebody else is told of it.
    fn hush(&self) {}

    /// Sets what is called synchronously by `cancel`; it returns whether the outcome will be a cancelled one.
    fn on_cancel(&self, canceller: Box<dyn FnOnce() -> bool>) {
        drop(canceller);
    }
}

/// Goes up from `first` to the node that everything waits for, and cancels that.
pub(crate) fn cancel(first: &Rc<dyn Cancel>) -> bool {
    // Ahead of it: the error may be dropped at once.
    let before = first.mark_cancelled(true);
    let mut node = Rc::clone(first);
    let mut waiter = None;
    // Links can be made to wait for each other in a circle. There is nothing to cancel in it: who goes round
    // in it comes by the mark again, which is set anew after twice as many steps each time.
    let (mut mark, mut steps, mut lap) = (Rc::clone(first), 0_usize, 1_usize);
    loop {
        match Rc::clone(&node).cancel_step() {
            Step::Ask(next) if std::ptr::addr_eq(Rc::as_ptr(&next), Rc::as_ptr(&mark)) => {
                first.mark_cancelled(before);
                return false;
            }
            Step::Ask(next) => {
                waiter = Some(std::mem::replace(&mut node, next));
                steps += 1;
                if steps == lap {
                    (mark, steps, lap) = (Rc::clone(&node), 0, lap.saturating_mul(2));
                }
            }
            Step::Over(true) => {
                if let Some(waiter) = waiter {
                    waiter.input_cancelled();
                }
                return true;
            }
            Step::Over(false) => {
                first.mark_cancelled(before);
                return false;
            }
        }
    }
}

/// The outcome of a node: who waits for it, or the outcome itself.
pub(crate) struct Output<T, E> {
    state: Cell<State<T, E>>,
    /// Its owner has cancelled it, and knows why there is an error.
    is_cancelled: Cell<bool>,
    /// Somebody else is told of its error.
    is_hushed: Cell<bool>,
}

enum State<T, E> {
    /// Neither outcome nor anybody who waits.
    Waiting,
    Consumer(Consumer<T, E>),
    Waker(Waker),
    /// The outcome waits for somebody.
    Fired(Result<T, E>),
    /// Handed on.
    Done,
    /// The Deferred was dropped; the outcome is of no interest, unless it is an error.
    Abandoned,
}

impl<T, E> Output<T, E> {
    pub(crate) const fn new() -> Self {
        Self::of(State::Waiting)
    }

    pub(crate) const fn fired(outcome: Result<T, E>) -> Self {
        Self::of(State::Fired(outcome))
    }

    const fn of(state: State<T, E>) -> Self {
        Self { state: Cell::new(state), is_cancelled: Cell::new(false), is_hushed: Cell::new(false) }
    }

    pub(crate) fn hush(&self) {
        self.is_hushed.set(true);
    }

    pub(crate) fn mark_cancelled(&self, is_cancelled: bool) -> bool {
        self.is_cancelled.replace(is_cancelled)
    }

    /// Looks at the state. No user code runs meanwhile.
    fn look<R>(&self, f: impl FnOnce(&State<T, E>) -> R) -> R {
        let state = self.state.replace(State::Done);
        let answer = f(&state);
        let placeholder = self.state.replace(state);
        debug_assert!(matches!(placeholder, State::Done));
        answer
    }

    pub(crate) fn is_pending(&self) -> bool {
        self.look(|state| !matches!(state, State::Fired(_) | State::Done))
    }

    /// Whether the outcome is there, and nobody has taken it.
    pub(crate) fn is_unread(&self) -> bool {
        self.look(|state| matches!(state, State::Fired(_)))
    }

    /// Takes the value, if that is the outcome and nobody has taken it.
    pub(crate) fn take_value(&self) -> Option<T> {
        match self.state.replace(State::Done) {
            State::Fired(Ok(value)) => Some(value),
            other => {
                self.state.set(other);
                None
            }
        }
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.look(|state| matches!(state, State::Waiting | State::Consumer(_) | State::Waker(_)))
    }
}

impl<T: 'static, E: Failure> Output<T, E> {
    pub(crate) fn attach(&self, consumer: Consumer<T, E>) -> Option<Rc<dyn Runnable>> {
        let before = self.state.replace(State::Done);
        match before {
            State::Fired(outcome) => Some(consumer.accept(outcome)),
            State::Done => {
                bury_consumer(consumer);
                None
            }
            State::Waiting | State::Waker(_) | State::Consumer(_) | State::Abandoned => {
                self.state.set(State::Consumer(consumer));
                None
            }
        }
    }

    /// The outcome is there. What is returned is to be run.
    pub(crate) fn emit(
        &self,
        outcome: Result<T, E>,
        handle: &Handle,
        made_at: &Location<'_>,
    ) -> Option<Rc<dyn Runnable>> {
        match self.state.replace(State::Done) {
            State::Consumer(consumer) => return Some(consumer.accept(outcome)),
            State::Waiting => self.state.set(State::Fired(outcome)),
            State::Waker(waker) => {
                self.state.set(State::Fired(outcome));
                // It may be a user's.
                match handle.inner() {
                    Some(inner) => drop(inner.contain("a waker", || waker.wake())),
                    None => waker.wake(),
                }
            }
            State::Abandoned => self.unhandled(outcome, handle, made_at),
            decided @ (State::Fired(_) | State::Done) => {
                self.state.set(decided);
                discard(handle, outcome);
            }
        }
        None
    }

    /// The reactor ends: whoever waits does as well, and no hook is called.
    pub(crate) fn end(&self, why: Interruption, inner: &Inner, handle: &Handle, made_at: &Location<'_>) {
        if self.is_pending() {
            self.mark_cancelled(true);
            if let Some(first) = self.emit(Err(why.into()), handle, made_at) {
                inner.forget_nodes(first);
            }
        }
    }

    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<Result<T, E>> {
        let old = match self.state.replace(State::Done) {
            State::Fired(outcome) => return Poll::Ready(outcome),
            State::Waker(waker) if waker.will_wake(context.waker()) => {
                self.state.set(State::Waker(waker));
                return Poll::Pending;
            }
            State::Done => panic!("a Deferred was polled after it was ready"),
            old => old,
        };
        self.state.set(State::Waker(context.waker().clone()));
        drop(old);
        Poll::Pending
    }

    pub(crate) fn abandon(&self, handle: &Handle, made_at: &Location<'_>) {
        match self.state.replace(State::Abandoned) {
            State::Fired(outcome) => {
                self.state.set(State::Done);
                self.unhandled(outcome, handle, made_at);
            }
            State::Done => self.state.set(State::Done),
            waited @ (State::Waiting | State::Consumer(_) | State::Waker(_) | State::Abandoned) => {
                drop(waited);
            }
        }
    }

    /// Nobody takes the outcome.
    fn unhandled(&self, outcome: Result<T, E>, handle: &Handle, made_at: &Location<'_>) {
        if let Err(error) = &outcome
            && !self.is_cancelled.get()
            && let Some(inner) = handle.inner()
        {
            inner.contain("the Debug of an error", || {
                let level = if self.is_hushed.get() { log::Level::Debug } else { log::Level::Error };
                log::log!(level, "nobody took the error of a Deferred made at {made_at}: {error:?}");
            });
        }
        discard(handle, outcome);
    }
}

impl<T, E> Drop for Output<T, E> {
    fn drop(&mut self) {
        if let State::Consumer(consumer) = self.state.replace(State::Done) {
            bury_consumer(consumer);
        }
    }
}

/// Drops a user's value while nothing is borrowed.
pub(crate) fn discard<T>(handle: &Handle, value: T) {
    match handle.inner() {
        Some(inner) => inner.discard(value),
        None => drop(value),
    }
}

/// Has the loop run a node and those behind it.
pub(crate) fn run_soon(handle: &Handle, first: Option<Rc<dyn Runnable>>) {
    let Some(first) = first else { return };
    match handle.inner() {
        Some(inner) => {
            inner.queue_call(Call::Run(first));
        }
        None => bury(first),
    }
}

impl Inner {
    /// Runs a node, and those that have to do something because of that, one after the other.
    pub(crate) fn run_nodes(&self, first: Rc<dyn Runnable>) {
        let mut next = Some(first);
        while let Some(node) = next {
            next = node.run(self);
        }
    }

    /// Ends a node whose turn will not come, and those behind it, without a hook: whoever holds on to one of
    /// them and asks when the loop runs again is told that it was dropped.
    pub(crate) fn forget_nodes(&self, first: Rc<dyn Runnable>) {
        let mut next = Some(first);
        while let Some(node) = next {
            next = node.forget(self);
        }
    }
}

thread_local! {
    /// Nodes that are to be dropped; `None` while none is being dropped.
    static BURIED: RefCell<Option<Vec<Rc<dyn Node>>>> = const { RefCell::new(None) };
}

fn bury_consumer<T, E>(consumer: Consumer<T, E>) {
    match consumer {
        Consumer::Next(node) => bury(node),
        Consumer::Outer(node) => bury(node),
    }
}

/// Drops a node, and those that only it keeps, with a stack that does not grow with their number.
pub(crate) fn bury(node: Rc<dyn Node>) {
    if Rc::strong_count(&node) > 1 {
        return;
    }
    let mut node = Some(node);
    let is_first = BURIED.try_with(|buried| {
        let mut buried = buried.borrow_mut();
        let is_first = buried.is_none();
        let list = buried.get_or_insert_with(Vec::new);
        if !is_first {
            list.extend(node.take());
        }
        is_first
    });
    if is_first != Ok(true) {
        // The thread is ending, or the node is on the list.
        return drop(node);
    }
    let mut panic: Option<Box<dyn Any + Send>> = None;
    while let Some(dropped) = node.take() {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(dropped))) {
            panic.get_or_insert(payload);
        }
        node = BURIED.with_borrow_mut(|buried| buried.as_mut().and_then(Vec::pop));
    }
    let list = BURIED.with_borrow_mut(Option::take);
    drop(list);
    if let Some(payload) = panic
        && !std::thread::panicking()
    {
        resume_unwind(payload);
    }
}
