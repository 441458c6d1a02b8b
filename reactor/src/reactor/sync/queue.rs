//! [`Queue`]: items from those who have them to those who want them, with a limit on how many lie in between.
//!
//! Three lines meet here: items, getters that found none, putters that found no room. What can be matched is
//! matched in one place, [`Shared::settle`]; everything else only joins or leaves a line.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::rc::{Rc, Weak};

use crate::core::fifo::Fifo;
use crate::core::interruption::Interruption;
use crate::core::slots::Token;
use crate::reactor::deferred::{Deferred, Resolver};
use crate::reactor::endings::Ending;
use crate::reactor::handle::Handle;
use crate::reactor::inner::Inner;
use crate::reactor::sync::grants::Grants;

/// A queue with room for so many items: who puts waits for room, who gets waits for an item. Clones are the
/// same queue.
///
/// With a capacity of 0 nothing ever lies in it: each `put` waits for the `get` that takes its item.
///
/// ```
/// use twistor::Reactor;
/// use twistor::sync::Queue;
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// let jobs = Queue::new(&reactor, 1);
/// jobs.put("first").on_done(|_, outcome| assert!(outcome.is_ok(), "there was room"));
/// let queue = jobs.clone();
/// jobs.put("second").on_done(move |_, outcome| {
///     assert!(outcome.is_ok(), "there is room once somebody has got the first");
///     queue.close();
/// });
/// let queue = jobs.clone();
/// jobs.get().on_done(move |_, job| {
///     assert_eq!(job, Ok("first"));
///     queue.get().on_done(|reactor, job| {
///         assert_eq!(job, Ok("second"));
///         reactor.stop();
///     });
/// });
/// reactor.run()
/// # }
/// ```
pub struct Queue<T: 'static> {
    shared: Rc<Shared<T>>,
}

struct Shared<T: 'static> {
    handle: Handle,
    capacity: usize,
    state: RefCell<State<T>>,
    grants: Grants,
}

struct State<T: 'static> {
    items: VecDeque<T>,
    getters: Fifo<Resolver<T, GetError>>,
    putters: Fifo<Putter<T>>,
    closed: bool,
}

struct Putter<T: 'static> {
    value: T,
    resolver: Resolver<(), PutError<T>>,
}

/// What the lines allow to be done next.
enum Match<T: 'static> {
    Get(Resolver<T, GetError>, T),
    /// A getter whose Deferred was dropped: it leaves with nothing.
    Gone(Resolver<T, GetError>),
    Put(Resolver<(), PutError<T>>),
    NoMoreItems(Resolver<T, GetError>),
    NoMoreRoom(Putter<T>),
}

impl<T: 'static> Queue<T> {
    /// An empty queue with room for so many items. `usize::MAX` is no limit.
    #[must_use]
    pub fn new(handle: &Handle, capacity: usize) -> Self {
        let shared = Rc::new(Shared {
            handle: handle.clone(),
            capacity,
            state: RefCell::new(State {
                items: VecDeque::new(),
                getters: Fifo::new(),
                putters: Fifo::new(),
                closed: false,
            }),
            grants: Grants::default(),
        });
        if let Some(inner) = handle.inner() {
            inner.endings.borrow_mut().add(&shared);
        }
        Self { shared }
    }

    /// Puts `value` at the end, once there is room. When this is cancelled, or the queue closed, the value
    /// comes back in the error.
    #[track_caller]
    pub fn put(&self, value: T) -> Deferred<(), PutError<T>> {
        let (resolver, deferred) = Deferred::new(&self.shared.handle);
        if self.shared.handle.inner().is_none() {
            resolver.resolve(Err(PutError::Interrupted(Interruption::Dropped, Some(value))));
            return deferred;
        }
        match self.try_put(value) {
            Ok(()) => {
                resolver.resolve(Ok(()));
            }
            Err(PutError::Full(value)) => {
                let putter = Putter { value, resolver };
                let token = self.shared.state.borrow_mut().putters.push(putter);
                let shared = Rc::downgrade(&self.shared);
                deferred.on_cancel(move || cancel_put(&shared, token));
            }
            Err(error) => {
                resolver.resolve(Err(error));
            }
        }
        deferred
    }

    /// Puts `value` at the end, if there is room and nobody waits to put.
    ///
    /// # Errors
    ///
    /// [`PutError::Full`] or [`PutError::Closed`], with the value.
    pub fn try_put(&self, value: T) -> Result<(), PutError<T>> {
        // Those who do not wait any more make no room.
        self.shared.settle();
        {
            let mut state = self.shared.state.borrow_mut();
            if state.closed {
                return Err(PutError::Closed(value));
            }
            if !state.putters.is_empty() || !state.has_room(self.shared.capacity) {
                return Err(PutError::Full(value));
            }
            state.items.push_back(value);
        }
        self.shared.settle();
        Ok(())
    }

    /// Gets the first item, once there is one. Cancelling the Deferred gives up the place in line.
    #[track_caller]
    pub fn get(&self) -> Deferred<T, GetError> {
        let (resolver, deferred) = Deferred::new(&self.shared.handle);
        if self.shared.handle.inner().is_none() {
            resolver.resolve(Err(GetError::Interrupted(Interruption::Dropped)));
            return deferred;
        }
        match self.try_get() {
            Ok(item) => self.shared.give(resolver, item),
            Err(GetError::Empty) => {
                let token = self.shared.state.borrow_mut().getters.push(resolver);
                let shared = Rc::downgrade(&self.shared);
                deferred.on_cancel(move || cancel_get(&shared, token));
                // Without capacity it is now that somebody who waits to put can do so.
                self.shared.settle();
            }
            Err(error) => {
                resolver.resolve(Err(error));
            }
        }
        deferred
    }

    /// Gets the first item, if there is one and nobody waits for it.
    ///
    /// # Errors
    ///
    /// [`GetError::Empty`], or [`GetError::Closed`] when there will be none.
    pub fn try_get(&self) -> Result<T, GetError> {
        // Those who do not wait any more are no reason to wait.
        self.shared.settle();
        let (item, putter) = {
            let mut state = self.shared.state.borrow_mut();
            if !state.getters.is_empty() {
                return Err(GetError::Empty);
            }
            match state.items.pop_front() {
                Some(item) => (item, None),
                None => match state.putters.pop() {
                    Some(Putter { value, resolver }) => (value, Some(resolver)),
                    None if state.closed => return Err(GetError::Closed),
                    None => return Err(GetError::Empty),
                },
            }
        };
        if let Some(putter) = putter {
            putter.resolve(Ok(()));
        }
        self.shared.settle();
        Ok(item)
    }

    /// Closes the queue. Nothing can be put any more, and who waits to put gets the value back. What is in
    /// the queue can still be got; afterwards who gets is told [`GetError::Closed`].
    pub fn close(&self) {
        self.shared.state.borrow_mut().closed = true;
        self.shared.settle();
    }

    /// Whether the queue was closed. There may still be items in it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.state.borrow().closed
    }

    /// How many items are in the queue, apart from those of who waits to put.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.state.borrow().items.len()
    }

    /// Whether no item is in the queue.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many items there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared.capacity
    }

    /// How many wait for an item.
    #[must_use]
    pub fn getters(&self) -> usize {
        self.shared.state.borrow().getters.len()
    }

    /// How many wait for room.
    #[must_use]
    pub fn putters(&self) -> usize {
        self.shared.state.borrow().putters.len()
    }
}

fn cancel_get<T>(shared: &Weak<Shared<T>>, token: Token) -> bool {
    let Some(shared) = shared.upgrade() else { return false };
    let resolver = shared.state.borrow_mut().getters.remove(token);
    resolver.is_some_and(|resolver| resolver.resolve(Err(GetError::Interrupted(Interruption::Cancelled))))
}

fn cancel_put<T>(shared: &Weak<Shared<T>>, token: Token) -> bool {
    let Some(shared) = shared.upgrade() else { return false };
    let putter = shared.state.borrow_mut().putters.remove(token);
    putter.is_some_and(|Putter { value, resolver }| {
        resolver.resolve(Err(PutError::Interrupted(Interruption::Cancelled, Some(value))))
    })
}

/// Takes back an item that was handed to somebody who had gone.
fn give_back<T>(shared: &Weak<Shared<T>>, item: T) {
    let Some(shared) = shared.upgrade() else { return };
    shared.state.borrow_mut().items.push_front(item);
    shared.settle();
}

impl<T> State<T> {
    /// Whether one more item has a place, or somebody who waits for it.
    fn has_room(&self, capacity: usize) -> bool {
        self.items.len() < capacity.saturating_add(self.getters.len())
    }

    fn next(&mut self, capacity: usize) -> Option<Match<T>> {
        if self.getters.front().is_some_and(|getter| !getter.is_wanted()) {
            return self.getters.pop().map(Match::Gone);
        }
        if self.closed
            && let Some(putter) = self.putters.pop()
        {
            return Some(Match::NoMoreRoom(putter));
        }
        if self.has_room(capacity)
            && let Some(Putter { value, resolver }) = self.putters.pop()
        {
            self.items.push_back(value);
            return Some(Match::Put(resolver));
        }
        if self.getters.is_empty() {
            return None;
        }
        match self.items.pop_front() {
            Some(item) => Some(Match::Get(self.getters.pop()?, item)),
            None if self.closed => self.getters.pop().map(Match::NoMoreItems),
            None => None,
        }
    }
}

impl<T> Shared<T> {
    /// Hands an item over. It comes back if the Deferred is dropped before anybody has seen it.
    fn give(self: &Rc<Self>, resolver: Resolver<T, GetError>, item: T) {
        let shared = Rc::downgrade(self);
        resolver.resolve_or_return(item, move |item| give_back(&shared, item));
    }

    /// Brings together what can be.
    fn settle(self: &Rc<Self>) {
        self.grants.run(|| {
            let next = self.state.borrow_mut().next(self.capacity);
            match next {
                Some(Match::Get(resolver, item)) => self.give(resolver, item),
                Some(Match::Gone(resolver)) => drop(resolver),
                Some(Match::Put(resolver)) => {
                    resolver.resolve(Ok(()));
                }
                Some(Match::NoMoreItems(resolver)) => {
                    resolver.resolve(Err(GetError::Closed));
                }
                Some(Match::NoMoreRoom(Putter { value, resolver })) => {
                    resolver.resolve(Err(PutError::Closed(value)));
                }
                None => return false,
            }
            true
        });
    }
}

impl<T> Ending for Shared<T> {
    fn end(&self, inner: &Inner) {
        let (getters, putters) = {
            let mut state = self.state.borrow_mut();
            let getters = std::mem::replace(&mut state.getters, Fifo::new());
            (getters, std::mem::replace(&mut state.putters, Fifo::new()))
        };
        inner.discard(getters);
        inner.discard(putters);
    }
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { shared: Rc::clone(&self.shared) }
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.borrow();
        f.debug_struct("Queue")
            .field("len", &state.items.len())
            .field("capacity", &self.shared.capacity)
            .field("getters", &state.getters.len())
            .field("putters", &state.putters.len())
            .field("closed", &state.closed)
            .finish()
    }
}

/// Why a value was not put into a [`Queue`].
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PutError<T> {
    /// There is no room now. Only [`Queue::try_put`] says so.
    Full(T),
    /// The queue is closed.
    Closed(T),
    /// The wait for room ended for another reason. The value is there if that was
    /// [cancelling](crate::Deferred::cancel).
    Interrupted(Interruption, Option<T>),
}

impl<T> PutError<T> {
    /// The value, unless it is lost.
    pub fn into_value(self) -> Option<T> {
        match self {
            Self::Full(value) | Self::Closed(value) => Some(value),
            Self::Interrupted(_, value) => value,
        }
    }
}

impl<T> From<Interruption> for PutError<T> {
    fn from(interruption: Interruption) -> Self {
        Self::Interrupted(interruption, None)
    }
}

impl<T> fmt::Debug for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("Full(..)"),
            Self::Closed(_) => f.write_str("Closed(..)"),
            Self::Interrupted(interruption, _) => write!(f, "Interrupted({interruption:?}, ..)"),
        }
    }
}

impl<T> fmt::Display for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("the queue is full"),
            Self::Closed(_) => f.write_str("the queue is closed"),
            Self::Interrupted(interruption, _) => write!(f, "waiting for room in a queue: {interruption}"),
        }
    }
}

impl<T> Error for PutError<T> {}

/// Why nothing was got from a [`Queue`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum GetError {
    /// There is no item now. Only [`Queue::try_get`] says so.
    Empty,
    /// The queue is closed, and nothing is left in it.
    Closed,
    /// The wait for an item ended for another reason.
    Interrupted(Interruption),
}

impl From<Interruption> for GetError {
    fn from(interruption: Interruption) -> Self {
        Self::Interrupted(interruption)
    }
}

impl fmt::Display for GetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the queue is empty"),
            Self::Closed => f.write_str("the queue is closed, and nothing is left in it"),
            Self::Interrupted(interruption) => write!(f, "waiting for an item of a queue: {interruption}"),
        }
    }
}

impl Error for GetError {}
