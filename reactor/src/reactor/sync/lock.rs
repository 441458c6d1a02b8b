//! [`Lock`]: a value that one has at a time, the others in line.
//!
//! Who has the lock has the value itself: it moves from the lock into the guard and back. So there is nothing
//! to borrow, and nothing that could be borrowed twice.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::rc::{Rc, Weak};

use crate::core::fifo::Fifo;
use crate::core::interruption::Interruption;
use crate::core::slots::Token;
use crate::reactor::deferred::{Deferred, Resolver};
use crate::reactor::endings::Ending;
use crate::reactor::handle::Handle;
use crate::reactor::inner::Inner;
use crate::reactor::sync::grants::Grants;

/// A value that one has at a time, over as many callbacks and `.await`s as it takes. Clones are the same
/// lock.
///
/// Asking twice without giving it back in between is a deadlock, as everywhere; cancelling the Deferred ends
/// it. A lock is not poisoned by a panic: the guard is dropped, and the next gets the value as it is.
///
/// ```
/// use std::time::Duration;
/// use twistor::Reactor;
/// use twistor::sync::Lock;
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// let log = Lock::new(&reactor, String::new());
/// for name in ["a", "b"] {
///     log.lock().on_done(move |reactor, log| {
///         let mut log = log.unwrap();
///         log.push_str(name);
///         // Nobody else writes until this is done.
///         reactor.call_later(Duration::from_millis(1), move |_| log.push_str(name));
///     });
/// }
/// reactor.run_until_idle()?;
/// assert_eq!(*log.try_lock().unwrap(), "aabb");
/// # Ok(())
/// # }
/// ```
pub struct Lock<T: 'static> {
    shared: Rc<Shared<T>>,
}

struct Shared<T: 'static> {
    handle: Handle,
    state: RefCell<State<T>>,
    grants: Grants,
}

struct State<T: 'static> {
    /// Not here while somebody has it.
    value: Option<Box<T>>,
    waiting: Fifo<Resolver<LockGuard<T>, Interruption>>,
}

impl<T: 'static> Lock<T> {
    /// A lock that nobody has.
    pub fn new(handle: &Handle, value: T) -> Self {
        let shared = Rc::new(Shared {
            handle: handle.clone(),
            state: RefCell::new(State { value: Some(Box::new(value)), waiting: Fifo::new() }),
            grants: Grants::default(),
        });
        if let Some(inner) = handle.inner() {
            inner.endings.borrow_mut().add(&shared);
        }
        Self { shared }
    }

    /// Asks for the value. Cancelling the Deferred gives up the place in line.
    #[track_caller]
    pub fn lock(&self) -> Deferred<LockGuard<T>, Interruption> {
        let (resolver, deferred) = Deferred::new(&self.shared.handle);
        if self.shared.handle.inner().is_none() {
            resolver.resolve(Err(Interruption::Dropped));
        } else if let Some(guard) = self.try_lock() {
            resolver.resolve(Ok(guard));
        } else {
            let token = self.shared.state.borrow_mut().waiting.push(resolver);
            let shared = Rc::downgrade(&self.shared);
            deferred.on_cancel(move || cancel(&shared, token));
        }
        deferred
    }

    /// Takes the value if nobody has it or waits for it.
    #[must_use]
    pub fn try_lock(&self) -> Option<LockGuard<T>> {
        let mut state = self.shared.state.borrow_mut();
        if !state.waiting.is_empty() {
            return None;
        }
        let value = state.value.take()?;
        Some(LockGuard { shared: Rc::clone(&self.shared), value: Some(value) })
    }

    /// Whether somebody has the value.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.shared.state.borrow().value.is_none()
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.state.borrow().waiting.len()
    }
}

fn cancel<T>(shared: &Weak<Shared<T>>, token: Token) -> bool {
    let Some(shared) = shared.upgrade() else { return false };
    let resolver = shared.state.borrow_mut().waiting.remove(token);
    resolver.is_some_and(|resolver| resolver.resolve(Err(Interruption::Cancelled)))
}

impl<T> Shared<T> {
    /// Hands the value, if it is here, to who has waited longest.
    fn settle(self: &Rc<Self>) {
        self.grants.run(|| {
            let Some((resolver, value)) = self.next() else { return false };
            let guard = LockGuard { shared: Rc::clone(self), value: Some(value) };
            resolver.resolve(Ok(guard));
            true
        });
    }

    fn next(&self) -> Option<(Resolver<LockGuard<T>, Interruption>, Box<T>)> {
        let mut state = self.state.borrow_mut();
        if state.waiting.is_empty() {
            return None;
        }
        let value = state.value.take()?;
        Some((state.waiting.pop()?, value))
    }
}

impl<T> Ending for Shared<T> {
    fn end(&self, inner: &Inner) {
        let waiting = std::mem::replace(&mut self.state.borrow_mut().waiting, Fifo::new());
        inner.discard(waiting);
    }
}

impl<T> Clone for Lock<T> {
    fn clone(&self) -> Self {
        Self { shared: Rc::clone(&self.shared) }
    }
}

impl<T> fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("is_locked", &self.is_locked())
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}

/// The value of a [`Lock`], for whoever has it. Dropping the guard gives it to who has waited longest.
#[must_use = "the lock is given back when this is dropped"]
pub struct LockGuard<T: 'static> {
    shared: Rc<Shared<T>>,
    /// Gone only while the guard is dropped.
    value: Option<Box<T>>,
}

impl<T> Deref for LockGuard<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_deref().expect("a guard has the value until it is dropped")
    }
}

impl<T> DerefMut for LockGuard<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_deref_mut().expect("a guard has the value until it is dropped")
    }
}

impl<T> Drop for LockGuard<T> {
    fn drop(&mut self) {
        self.shared.state.borrow_mut().value = self.value.take();
        self.shared.settle();
    }
}

impl<T: fmt::Debug> fmt::Debug for LockGuard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: fmt::Display> fmt::Display for LockGuard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
