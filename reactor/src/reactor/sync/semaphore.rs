//! [`Semaphore`]: so many at once, the others in line.

use std::cell::RefCell;
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

/// A fixed number of permits. Clones are the same semaphore.
///
/// Permits are handed out in the order in which they were asked for: one that asks for many is not overtaken
/// by those that ask for few. A permit comes back when its [`Permit`] is dropped, so none can come back
/// twice.
///
/// ```
/// use twistor::Reactor;
/// use twistor::sync::Semaphore;
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// let requests = Semaphore::new(&reactor, 1);
/// let first = requests.try_acquire().expect("one is free");
/// assert!(requests.try_acquire().is_none());
/// requests.acquire().on_done(|reactor, permit| {
///     println!("our turn: {permit:?}");
///     reactor.stop();
/// });
/// drop(first);
/// reactor.run()
/// # }
/// ```
#[derive(Clone)]
pub struct Semaphore {
    shared: Rc<Shared>,
}

struct Shared {
    handle: Handle,
    total: usize,
    state: RefCell<State>,
    grants: Grants,
}

struct State {
    free: usize,
    waiting: Fifo<Waiter>,
}

struct Waiter {
    wanted: usize,
    resolver: Resolver<Permit, Interruption>,
}

impl Semaphore {
    /// A semaphore with so many permits, all of them free.
    #[must_use]
    pub fn new(handle: &Handle, permits: usize) -> Self {
        let shared = Rc::new(Shared {
            handle: handle.clone(),
            total: permits,
            state: RefCell::new(State { free: permits, waiting: Fifo::new() }),
            grants: Grants::default(),
        });
        if let Some(inner) = handle.inner() {
            inner.endings.borrow_mut().add(&shared);
        }
        Self { shared }
    }

    /// Asks for a permit. Cancelling the Deferred gives up the place in line.
    ///
    /// # Panics
    ///
    /// The semaphore has none: it was made with 0.
    #[track_caller]
    pub fn acquire(&self) -> Deferred<Permit, Interruption> {
        self.acquire_many(1)
    }

    /// Asks for so many permits at once. They are handed out together, and until they are free nobody behind
    /// gets any.
    ///
    /// # Panics
    ///
    /// That is more than the semaphore [has](Self::permits): it would wait for ever, and all others with it.
    #[track_caller]
    pub fn acquire_many(&self, wanted: usize) -> Deferred<Permit, Interruption> {
        self.check(wanted);
        let (resolver, deferred) = Deferred::new(&self.shared.handle);
        if self.shared.handle.inner().is_none() {
            resolver.resolve(Err(Interruption::Dropped));
        } else if let Some(permit) = self.try_acquire_many(wanted) {
            resolver.resolve(Ok(permit));
        } else {
            let token = self.shared.state.borrow_mut().waiting.push(Waiter { wanted, resolver });
            let shared = Rc::downgrade(&self.shared);
            deferred.on_cancel(move || cancel(&shared, token));
        }
        deferred
    }

    /// Takes a permit if one is free and nobody waits.
    ///
    /// # Panics
    ///
    /// As [`acquire`](Self::acquire).
    #[track_caller]
    pub fn try_acquire(&self) -> Option<Permit> {
        self.try_acquire_many(1)
    }

    /// Takes so many permits if they are free and nobody waits.
    ///
    /// # Panics
    ///
    /// As [`acquire_many`](Self::acquire_many).
    #[track_caller]
    pub fn try_acquire_many(&self, wanted: usize) -> Option<Permit> {
        self.check(wanted);
        let mut state = self.shared.state.borrow_mut();
        if !state.waiting.is_empty() || state.free < wanted {
            return None;
        }
        state.free -= wanted;
        Some(Permit { shared: Rc::clone(&self.shared), count: wanted })
    }

    #[track_caller]
    fn check(&self, wanted: usize) {
        let total = self.shared.total;
        assert!(wanted <= total, "{wanted} permits are asked of a semaphore that has {total}");
    }

    /// How many permits there are, free or not.
    #[must_use]
    pub fn permits(&self) -> usize {
        self.shared.total
    }

    /// How many permits are free. Those who [wait](Self::waiting) come first.
    #[must_use]
    pub fn available(&self) -> usize {
        self.shared.state.borrow().free
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.state.borrow().waiting.len()
    }
}

fn cancel(shared: &Weak<Shared>, token: Token) -> bool {
    let Some(shared) = shared.upgrade() else { return false };
    let waiter = shared.state.borrow_mut().waiting.remove(token);
    let Some(waiter) = waiter else { return false };
    let is_cancelled = waiter.resolver.resolve(Err(Interruption::Cancelled));
    // It may have been the one that wanted more than there is, ahead of others that want less.
    shared.settle();
    is_cancelled
}

impl Shared {
    /// Hands out what is free to those who have waited longest.
    fn settle(self: &Rc<Self>) {
        self.grants.run(|| {
            let Some(waiter) = self.next() else { return false };
            let permit = Permit { shared: Rc::clone(self), count: waiter.wanted };
            waiter.resolver.resolve(Ok(permit));
            true
        });
    }

    fn next(&self) -> Option<Waiter> {
        let mut state = self.state.borrow_mut();
        if state.waiting.front()?.wanted > state.free {
            return None;
        }
        let waiter = state.waiting.pop()?;
        state.free -= waiter.wanted;
        Some(waiter)
    }
}

impl Ending for Shared {
    fn end(&self, inner: &Inner) {
        let waiting = std::mem::replace(&mut self.state.borrow_mut().waiting, Fifo::new());
        inner.discard(waiting);
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("permits", &self.permits())
            .field("available", &self.available())
            .field("waiting", &self.waiting())
            .finish()
    }
}

/// Permits of a [`Semaphore`]. They come back when it is dropped, and go to whoever has waited longest.
#[must_use = "the permit comes back when it is dropped"]
pub struct Permit {
    shared: Rc<Shared>,
    count: usize,
}

impl Permit {
    /// How many permits it stands for.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.state.borrow_mut().free += self.count;
        self.shared.settle();
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("count", &self.count).finish()
    }
}
