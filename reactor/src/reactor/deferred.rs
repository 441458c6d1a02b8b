//! A value that comes later: one-shot, cancellable, heard from the loop.
//!
//! The resolving side holds a [`Resolver`], the waiting side a [`Deferred`]. The outcome is never delivered from
//! inside the call that resolves or that asks; it is queued and the loop delivers it.

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::rc::{Rc, Weak};

use crate::protocol::Protocol;
use crate::reactor::handle::Handle;
use crate::reactor::stats::Counters;
use crate::reactor::transport::Transport;

type Hook<T, E> = Box<dyn FnOnce(&Handle, Result<T, E>)>;

enum State<T, E> {
    /// Neither outcome nor hook.
    Waiting,
    /// A hook waits for the outcome.
    Hooked(Hook<T, E>),
    /// The outcome waits for a hook.
    Fired(Result<T, E>),
    /// Both met, or nobody is interested any more.
    Done,
}

struct Shared<T, E> {
    handle: Handle,
    state: RefCell<State<T, E>>,
    canceller: RefCell<Option<Box<dyn FnOnce()>>>,
}

impl<T: 'static, E: 'static> Shared<T, E> {
    fn fire(&self, outcome: Result<T, E>) -> bool {
        // Taken first and dropped last: a canceller is user data and must not be dropped under a borrow.
        let _canceller = self.canceller.borrow_mut().take();
        let state = std::mem::replace(&mut *self.state.borrow_mut(), State::Done);
        match state {
            State::Waiting => {
                *self.state.borrow_mut() = State::Fired(outcome);
                true
            }
            State::Hooked(hook) => {
                self.handle.call_soon(move |handle| hook(handle, outcome));
                true
            }
            State::Fired(first) => {
                *self.state.borrow_mut() = State::Fired(first);
                false
            }
            State::Done => false,
        }
    }
}

/// The outcome of something that was started: a `T`, or an `E` that says why not.
///
/// Dropping it changes nothing; what was started goes on.
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
#[must_use = "the outcome is lost unless somebody asks for it"]
pub struct Deferred<T, E> {
    shared: Rc<Shared<T, E>>,
}

impl<T: 'static, E: 'static> Deferred<T, E> {
    /// A new one, and what resolves it.
    pub fn new(handle: &Handle) -> (Resolver<T, E>, Self) {
        let shared = Rc::new(Shared {
            handle: handle.clone(),
            state: RefCell::new(State::Waiting),
            canceller: RefCell::new(None),
        });
        (Resolver { shared: Rc::clone(&shared) }, Self { shared })
    }

    /// Calls `hook` with the outcome, from the loop.
    pub fn on_done(self, hook: impl FnOnce(&Handle, Result<T, E>) + 'static) {
        let state = std::mem::replace(&mut *self.shared.state.borrow_mut(), State::Done);
        match state {
            State::Fired(outcome) => {
                self.shared.handle.call_soon(move |handle| hook(handle, outcome));
            }
            State::Done => {}
            State::Waiting | State::Hooked(_) => {
                *self.shared.state.borrow_mut() = State::Hooked(Box::new(hook));
            }
        }
    }

    /// Hands the outcome to the protocol of `to`. Dropped and counted when that connection has ended or speaks
    /// another protocol by then.
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
        let shared: Rc<dyn Cancel> = self.shared.clone();
        Canceller { shared: Rc::downgrade(&shared) }
    }

    /// What [`cancel`](Self::cancel) calls.
    pub(crate) fn on_cancel(&self, canceller: impl FnOnce() + 'static) {
        *self.shared.canceller.borrow_mut() = Some(Box::new(canceller));
    }

    /// Asks what was started to end early. False when it has ended, or cannot be cancelled.
    pub fn cancel(&self) -> bool {
        self.shared.cancel()
    }
}

trait Cancel {
    fn cancel(&self) -> bool;
}

impl<T, E> Cancel for Shared<T, E> {
    fn cancel(&self) -> bool {
        let canceller = self.canceller.borrow_mut().take();
        canceller.map(|cancel| cancel()).is_some()
    }
}

/// Ends what a [`Deferred`] waits for. See [`Deferred::canceller`].
#[derive(Clone)]
pub struct Canceller {
    shared: Weak<dyn Cancel>,
}

impl Canceller {
    /// As [`Deferred::cancel`].
    pub fn cancel(&self) -> bool {
        self.shared.upgrade().is_some_and(|shared| shared.cancel())
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

/// The side that decides a [`Deferred`]. Dropping it unused leaves the outcome open for ever.
pub struct Resolver<T, E> {
    shared: Rc<Shared<T, E>>,
}

impl<T: 'static, E: 'static> Resolver<T, E> {
    /// Decides the outcome. False, with the outcome dropped, when it was decided before.
    pub fn resolve(self, outcome: Result<T, E>) -> bool {
        self.shared.fire(outcome)
    }

    /// What [`Deferred::cancel`] calls.
    pub(crate) fn on_cancel(&self, canceller: impl FnOnce() + 'static) {
        *self.shared.canceller.borrow_mut() = Some(Box::new(canceller));
    }
}

impl<T, E> fmt::Debug for Resolver<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

/// What a hook may return that can take its time: `()`, or a [`Deferred`] that is waited for.
pub trait MaybeDeferred {
    /// Calls `done` when it is over: at once for `()`.
    #[doc(hidden)]
    fn when_done(self, done: impl FnOnce(&Handle, Result<(), Box<dyn Error>>) + 'static)
    -> Option<Completed>;
}

/// Says that there is nothing to wait for.
#[doc(hidden)]
#[derive(Debug)]
pub struct Completed;

impl MaybeDeferred for () {
    fn when_done(self, _: impl FnOnce(&Handle, Result<(), Box<dyn Error>>) + 'static) -> Option<Completed> {
        Some(Completed)
    }
}

impl<E: Into<Box<dyn Error>> + 'static> MaybeDeferred for Deferred<(), E> {
    fn when_done(
        self,
        done: impl FnOnce(&Handle, Result<(), Box<dyn Error>>) + 'static,
    ) -> Option<Completed> {
        self.on_done(move |handle, outcome| done(handle, outcome.map_err(Into::into)));
        None
    }
}
