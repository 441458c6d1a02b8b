//! A link of a chain: a closure that makes the next outcome of the one before.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use super::node::{Cancel, Consumer, Next, Node, Outer, Output, Runnable, Source, Step, run_soon};
use super::resolver::Origin;
use super::undecided::{list, unlist};
use super::{Deferred, Failure};
use crate::core::interruption::Interruption;
use crate::core::slots::Token;
use crate::reactor::endings::Ending;
use crate::reactor::handle::Handle;
use crate::reactor::inner::{Inner, panic_text};
use crate::reactor::task::Task;
use crate::reactor::watchdog::Hook;

/// What a link's closure returns: an outcome, or a [`Deferred`] or a [`Task`] that will have one.
pub trait Outcome {
    /// What there is if it goes well.
    type Value;
    /// Why not.
    type Error;

    /// Which of the two it is.
    #[doc(hidden)]
    fn split(self) -> Split<Self::Value, Self::Error>;
}

/// Now, or later.
#[doc(hidden)]
#[derive(Debug)]
pub enum Split<T, E> {
    Now(Result<T, E>),
    Later(Deferred<T, E>),
}

impl<T, E> Outcome for Result<T, E> {
    type Value = T;
    type Error = E;

    fn split(self) -> Split<T, E> {
        Split::Now(self)
    }
}

impl<T, E> Outcome for Deferred<T, E> {
    type Value = T;
    type Error = E;

    fn split(self) -> Split<T, E> {
        Split::Later(self)
    }
}

/// A link may go on with a task.
impl<T: 'static> Outcome for Task<T> {
    type Value = T;
    type Error = Interruption;

    #[track_caller]
    fn split(self) -> Split<T, Interruption> {
        Split::Later(self.into_deferred())
    }
}

/// A link from `Result<T, E>` to `Result<U, G>`.
struct Link<T, E, U, G, F> {
    handle: Handle,
    made_at: &'static Location<'static>,
    stage: Cell<Stage<T, E, U, G, F>>,
    output: Output<U, G>,
}

enum Stage<T, E, U, G, F> {
    /// For the outcome of the node before it.
    Waiting(F, Weak<dyn Cancel>),
    /// The closure is queued.
    Due(F, Result<T, E>, Asked),
    /// The closure runs.
    Running(Asked),
    /// For the Deferred that the closure returned. It is listed if that is another link.
    Inner(Weak<dyn Cancel>, Token),
    /// That has its outcome.
    Settled(Result<U, G>),
    Over,
}

/// Whether a link was cancelled since it got its input.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    No,
    /// What the closure returns is to be cancelled.
    Cancel,
    /// The input is what came of it: there is nothing more to cancel.
    Cancelled,
}

/// Adds a link to a chain.
pub(super) fn link<T, E, U, G, F>(
    before: Deferred<T, E>,
    made_at: &'static Location<'static>,
    closure: F,
) -> Deferred<U, G>
where
    T: 'static,
    E: 'static,
    U: 'static,
    G: Failure,
    F: FnOnce(&Handle, Result<T, E>) -> Split<U, G> + 'static,
{
    if before.handle().is_gone() {
        // There is no loop to run it.
        return Origin::ready(before.handle(), made_at, Err(Interruption::Dropped.into()));
    }
    let source = before.into_source();
    let upstream: Rc<dyn Cancel> = source.clone();
    let upstream = Rc::downgrade(&upstream);
    let link = Rc::new(Link {
        handle: source.handle().clone(),
        made_at,
        stage: Cell::new(Stage::Waiting(closure, upstream)),
        output: Output::new(),
    });
    let next = source.attach(Consumer::Next(link.clone()));
    run_soon(&link.handle, next);
    Deferred::of(link)
}

impl<T, E, U, G, F> Node for Link<T, E, U, G, F> {}

impl<T, E, U, G, F> Next<T, E> for Link<T, E, U, G, F>
where
    Self: Runnable + 'static,
{
    fn accept(self: Rc<Self>, outcome: Result<T, E>) -> Rc<dyn Runnable> {
        if let Stage::Waiting(closure, _) = self.stage.replace(Stage::Over) {
            self.stage.set(Stage::Due(closure, outcome, Asked::No));
        }
        self
    }
}

impl<T, E, U, G, F> Outer<U, G> for Link<T, E, U, G, F>
where
    Self: Runnable + 'static,
{
    fn settle(self: Rc<Self>, outcome: Result<U, G>) -> Rc<dyn Runnable> {
        if let Stage::Inner(_, listed) = self.stage.replace(Stage::Settled(outcome)) {
            unlist(&self.handle, listed);
        }
        self
    }
}

impl<T, E, U, G, F> Runnable for Link<T, E, U, G, F>
where
    T: 'static,
    E: 'static,
    U: 'static,
    G: Failure,
    F: FnOnce(&Handle, Result<T, E>) -> Split<U, G> + 'static,
{
    fn run(self: Rc<Self>, inner: &Inner) -> Option<Rc<dyn Runnable>> {
        let (closure, input, asked) = match self.stage.replace(Stage::Over) {
            Stage::Due(closure, input, asked) => (closure, input, asked),
            Stage::Settled(outcome) => return self.output.emit(outcome, &self.handle, self.made_at),
            other => {
                self.stage.set(other);
                return None;
            }
        };
        // While it runs, another cancellation is for what it will return.
        let asked = if asked == Asked::Cancelled { Asked::No } else { asked };
        self.stage.set(Stage::Running(asked));
        let made = catch_unwind(AssertUnwindSafe(|| closure(&inner.handle, input)));
        inner.hook_ran(Token::NOBODY, Hook::Callback);
        let is_cancelled = matches!(self.stage.replace(Stage::Over), Stage::Running(Asked::Cancel));
        let outcome = match made {
            Ok(Split::Later(deferred)) => return self.wait_for(deferred, is_cancelled),
            Ok(Split::Now(outcome)) => outcome,
            Err(payload) => {
                let text = panic_text(&*payload).to_owned();
                inner.panicked(&format_args!("a link of a Deferred made at {}", self.made_at), payload);
                Err(Interruption::Panicked(text).into())
            }
        };
        let outcome = if is_cancelled {
            // Cancelled while nothing could be done about it but to lose what the closure made.
            inner.discard(outcome);
            Err(Interruption::Cancelled.into())
        } else {
            outcome
        };
        self.output.emit(outcome, &self.handle, self.made_at)
    }

    fn forget(self: Rc<Self>, inner: &Inner) -> Option<Rc<dyn Runnable>> {
        let outcome = match self.stage.replace(Stage::Over) {
            Stage::Settled(outcome) => outcome,
            unheard => {
                inner.discard(unheard);
                if inner.is_torn_down.get() || !self.output.is_wanted() {
                    // Nobody waits, or they end as well: nothing has failed.
                    self.output.mark_cancelled(true);
                }
                Err(Interruption::Dropped.into())
            }
        };
        self.output.emit(outcome, &self.handle, self.made_at)
    }
}

impl<T, E, U, G, F> Link<T, E, U, G, F>
where
    Self: Outer<U, G>,
    T: 'static,
    E: 'static,
    U: 'static,
    G: Failure,
    F: 'static,
{
    fn wait_for(self: Rc<Self>, deferred: Deferred<U, G>, is_cancelled: bool) -> Option<Rc<dyn Runnable>> {
        let source = deferred.into_source();
        let inside: Rc<dyn Cancel> = source.clone();
        if std::ptr::addr_eq(Rc::as_ptr(&inside), Rc::as_ptr(&self)) {
            log::error!(
                "a link of a Deferred made at {} returned that Deferred, for itself to wait for",
                self.made_at
            );
            return self.output.emit(Err(Interruption::Dropped.into()), &self.handle, self.made_at);
        }
        self.stage.set(Stage::Inner(Rc::downgrade(&inside), Token::NOBODY));
        if is_cancelled {
            super::node::cancel(&inside);
        }
        let next = Rc::clone(&source).attach(Consumer::Outer(self.clone()));
        if next.is_none() && source.is_link() {
            let listed = list(&self.handle, &self);
            self.stage.set(Stage::Inner(Rc::downgrade(&inside), listed));
        }
        next
    }
}

impl<T: 'static, E: 'static, U: 'static, G: Failure, F: 'static> Cancel for Link<T, E, U, G, F> {
    fn cancel_step(self: Rc<Self>) -> Step {
        let stage = self.stage.replace(Stage::Over);
        let (stage, step) = match stage {
            Stage::Waiting(closure, upstream) => {
                let step = upstream.upgrade().map_or(Step::Over(false), Step::Ask);
                (Stage::Waiting(closure, upstream), step)
            }
            Stage::Inner(inside, listed) => {
                let step = inside.upgrade().map_or(Step::Over(false), Step::Ask);
                (Stage::Inner(inside, listed), step)
            }
            // What the closure returns will be cancelled.
            Stage::Due(closure, input, Asked::No) => {
                (Stage::Due(closure, input, Asked::Cancel), Step::Over(true))
            }
            Stage::Running(Asked::No) => (Stage::Running(Asked::Cancel), Step::Over(true)),
            asked @ (Stage::Due(..) | Stage::Running(_)) => (asked, Step::Over(false)),
            other @ (Stage::Settled(_) | Stage::Over) => (other, Step::Over(false)),
        };
        self.stage.set(stage);
        step
    }

    fn input_cancelled(&self) {
        let stage = match self.stage.replace(Stage::Over) {
            Stage::Due(closure, input, Asked::No) => Stage::Due(closure, input, Asked::Cancelled),
            other => other,
        };
        self.stage.set(stage);
    }

    fn mark_cancelled(&self, is_cancelled: bool) -> bool {
        self.output.mark_cancelled(is_cancelled)
    }
}

/// It may wait for itself.
impl<T: 'static, E: 'static, U: 'static, G: Failure, F: 'static> Ending for Link<T, E, U, G, F> {
    fn end(&self, inner: &Inner) {
        inner.discard(self.stage.replace(Stage::Over));
        self.output.end(Interruption::Dropped, inner, &self.handle, self.made_at);
    }
}

impl<T, E, U, G, F> Drop for Link<T, E, U, G, F> {
    fn drop(&mut self) {
        if let Stage::Inner(_, listed) = self.stage.get_mut() {
            unlist(&self.handle, *listed);
        }
    }
}

impl<T: 'static, E: 'static, U: 'static, G: Failure, F: 'static> Source<U, G> for Link<T, E, U, G, F> {
    fn attach(self: Rc<Self>, consumer: Consumer<U, G>) -> Option<Rc<dyn Runnable>> {
        self.output.attach(consumer)
    }

    fn poll(&self, context: &Context<'_>) -> Poll<Result<U, G>> {
        self.output.poll(context)
    }

    fn abandon(&self) {
        self.output.abandon(&self.handle, self.made_at);
    }

    fn is_pending(&self) -> bool {
        self.output.is_pending()
    }

    fn is_link(&self) -> bool {
        true
    }

    fn handle(&self) -> &Handle {
        &self.handle
    }
}
