//! A value that comes later: one-shot, cancellable, heard from the loop.
//!
//! The resolving side holds a [`Resolver`], the waiting side a [`Deferred`]. The outcome is never delivered
//! from inside the call that resolves or that asks; it is queued and the loop delivers it. Closures that make
//! the next outcome of the one before are links of a [chain](node); a chain is run by the loop as one entry
//! of its queue.

use std::fmt;
use std::panic::Location;
use std::rc::{Rc, Weak};

use crate::core::interruption::Interruption;
use crate::protocol::Protocol;
use crate::reactor::handle::Handle;
use crate::reactor::stats::Counters;
use crate::reactor::transport::Transport;
use hook::Hook;
use node::{Cancel, Consumer, Source, bury, run_soon};
use resolver::Origin;

pub use completion::AsCompleted;
pub use limits::Pause;
pub use link::Outcome;
pub use maybe::MaybeDeferred;
pub(crate) use maybe::{Completed, Done};
pub use resolver::Resolver;

mod chaining;
mod combining;
mod completion;
mod future;
mod hook;
mod limits;
mod link;
mod maybe;
pub(crate) mod node;
mod resolver;
pub(crate) mod undecided;

/// What the error type of a [`Deferred`] has to be: it can say that there is no outcome, and can be logged.
///
/// Implemented by itself for every type that qualifies: `String`, [`std::io::Error`], `Box<dyn Error>`,
/// [`Interruption`], and own types that are `From<Interruption>`.
pub trait Failure: From<Interruption> + fmt::Debug + 'static {}

impl<E: From<Interruption> + fmt::Debug + 'static> Failure for E {}

/// The outcome of something that was started: a `T`, or an `E` that says why not.
///
/// Dropping it changes nothing, and what was started goes on; only one that a task waits for is cancelled. An
/// error that nobody took is logged, with where the Deferred was made.
///
/// ```
/// use twistor::{Deferred, Reactor};
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// let (resolver, deferred) = Deferred::<u32, String>::new(&reactor);
/// deferred.on_done(|handle, outcome| {
///     assert_eq!(outcome, Ok(42));
///     handle.stop();
/// });
/// resolver.resolve(Ok(42));
/// reactor.run()
/// # }
/// ```
#[must_use = "an error that nobody asks for is logged"]
pub struct Deferred<T, E> {
    /// `None` only once it was consumed.
    source: Option<Rc<dyn Source<T, E>>>,
    /// A task has asked for the outcome, and it was not there.
    is_awaited: bool,
}

impl<T: 'static, E: Failure> Deferred<T, E> {
    /// A new one, and what resolves it.
    #[track_caller]
    pub fn new(handle: &Handle) -> (Resolver<T, E>, Self) {
        Origin::pair(handle, Location::caller(), None)
    }

    /// As [`new`](Self::new), with what is to be done when somebody cancels it.
    ///
    /// The loop calls `canceller`, at most once, and hands it a [`Resolver`] of its own. It may decide with
    /// that what comes of the cancellation, at once or later; dropped, the outcome is
    /// [`Cancelled`](Interruption::Cancelled), as it is when the canceller panics. The first resolver is not
    /// heard any more.
    ///
    /// ```
    /// use twistor::{Deferred, Interruption, Reactor};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let (resolver, deferred) = Deferred::<u32, String>::with_canceller(&reactor, |_, resolver| {
    ///     println!("the other side is told");
    ///     resolver.errback("given up".to_owned());
    /// });
    /// assert!(deferred.cancel());
    /// assert!(!resolver.callback(42), "too late");
    /// deferred.on_done(|reactor, outcome| {
    ///     assert_eq!(outcome, Err("given up".to_owned()));
    ///     reactor.stop();
    /// });
    /// reactor.run()
    /// # }
    /// ```
    #[track_caller]
    pub fn with_canceller(
        handle: &Handle,
        canceller: impl FnOnce(&Handle, Resolver<T, E>) + 'static,
    ) -> (Resolver<T, E>, Self) {
        Origin::pair(handle, Location::caller(), Some(Box::new(canceller)))
    }

    /// One that has its outcome.
    #[track_caller]
    pub fn ready(handle: &Handle, outcome: Result<T, E>) -> Self {
        Origin::ready(handle, Location::caller(), outcome)
    }
}

impl<T: 'static, E: 'static> Deferred<T, E> {
    /// Calls `hook` with the outcome, from the loop. Drops it when the reactor is dropped, or was.
    #[track_caller]
    pub fn on_done(self, hook: impl FnOnce(&Handle, Result<T, E>) + 'static) {
        if self.handle().is_gone() {
            return;
        }
        let source = self.into_source();
        let hook = Rc::new(Hook::new(Location::caller(), hook));
        let next = Rc::clone(&source).attach(Consumer::Next(hook));
        run_soon(source.handle(), next);
    }

    /// Hands the outcome to the protocol of `to`. Dropped and counted when that connection has ended or
    /// speaks another protocol by then.
    pub fn deliver<P: Protocol>(
        self,
        to: &Transport,
        hook: impl FnOnce(&mut P, &Transport, Result<T, E>) + 'static,
    ) {
        let connection = to.clone();
        self.on_done(move |handle, outcome| {
            let posted =
                connection.post_typed(move |protocol: &mut P, transport| hook(protocol, transport, outcome));
            if !posted && let Some(inner) = handle.inner() {
                Counters::bump(&inner.counters.dropped_posts);
            }
        });
    }

    /// What cancels it, apart from it: [`on_done`](Self::on_done) takes the Deferred, this stays.
    ///
    /// ```
    /// use twistor::{Protocol, Reactor, Transport};
    ///
    /// struct Quiet;
    /// impl Protocol for Quiet {
    ///     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    /// }
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let connecting = reactor.connect("tcp:127.0.0.1:9", |_| Quiet);
    /// let canceller = connecting.canceller();
    /// connecting.on_done(|reactor, outcome| {
    ///     assert!(outcome.is_err());
    ///     reactor.stop();
    /// });
    /// canceller.cancel();
    /// reactor.run()
    /// # }
    /// ```
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        let node: Rc<dyn Cancel> = self.source().clone();
        Canceller { node: Rc::downgrade(&node) }
    }

    /// Asks what it waits for to end early. False when it has ended, was cancelled before, or cannot be
    /// cancelled.
    ///
    /// After `true`, results that still come are dropped. Without a canceller the outcome is
    /// [`Cancelled`](Interruption::Cancelled); a [canceller](Self::with_canceller) decides itself. In a chain
    /// that is the outcome of the link that is waited for, and goes on to the links after it, which may
    /// recover.
    pub fn cancel(&self) -> bool {
        let node: Rc<dyn Cancel> = self.source().clone();
        node::cancel(&node)
    }

    /// Has an error that nobody takes logged at the level debug: the protocol hears of it as well.
    pub(crate) fn hushed(self) -> Self {
        self.source().hush();
        self
    }

    /// What [`cancel`](Self::cancel) calls, at once; it returns whether the outcome will be a cancelled one.
    pub(crate) fn on_cancel(&self, canceller: impl FnOnce() -> bool + 'static) {
        self.source().on_cancel(Box::new(canceller));
    }
}

/// Only what takes a Deferred by value empties it.
const CONSUMED_ONCE: &str = "a Deferred is consumed once";

impl<T, E> Deferred<T, E> {
    fn of(source: Rc<dyn Source<T, E>>) -> Self {
        Self { source: Some(source), is_awaited: false }
    }

    fn source(&self) -> &Rc<dyn Source<T, E>> {
        self.source.as_ref().expect(CONSUMED_ONCE)
    }

    fn handle(&self) -> &Handle
    where
        T: 'static,
        E: 'static,
    {
        self.source().handle()
    }

    fn into_source(mut self) -> Rc<dyn Source<T, E>> {
        self.source.take().expect(CONSUMED_ONCE)
    }
}

impl<T, E> Drop for Deferred<T, E> {
    fn drop(&mut self) {
        let Some(source) = self.source.take() else { return };
        if self.is_awaited && source.is_pending() {
            let node: Rc<dyn Cancel> = source.clone();
            node::cancel(&node);
        }
        source.abandon();
        bury(source);
    }
}

/// Ends what a [`Deferred`] waits for. See [`Deferred::canceller`].
#[derive(Clone)]
pub struct Canceller {
    node: Weak<dyn Cancel>,
}

impl Canceller {
    /// As [`Deferred::cancel`].
    pub fn cancel(&self) -> bool {
        self.node.upgrade().is_some_and(|node| node::cancel(&node))
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Canceller")
    }
}

impl<T, E> fmt::Debug for Deferred<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deferred")
    }
}
