//! [`Event`]: a flag that can be waited for.

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

/// A flag that can be waited for. Clones are the same flag.
///
/// ```
/// use twistor::Reactor;
/// use twistor::sync::Event;
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// let configured = Event::new(&reactor);
/// configured.wait().on_done(|reactor, outcome| {
///     assert_eq!(outcome, Ok(()));
///     reactor.stop();
/// });
/// reactor.call_soon(move |_| configured.set());
/// reactor.run()
/// # }
/// ```
#[derive(Clone)]
pub struct Event {
    shared: Rc<Shared>,
}

struct Shared {
    handle: Handle,
    state: RefCell<State>,
}

struct State {
    is_set: bool,
    waiting: Fifo<Resolver<(), Interruption>>,
}

impl Event {
    /// A flag that is not set.
    #[must_use]
    pub fn new(handle: &Handle) -> Self {
        let shared = Rc::new(Shared {
            handle: handle.clone(),
            state: RefCell::new(State { is_set: false, waiting: Fifo::new() }),
        });
        if let Some(inner) = handle.inner() {
            inner.endings.borrow_mut().add(&shared);
        }
        Self { shared }
    }

    /// Waits until the flag is set, not at all if it is. All who wait when it is set hear of it, also if it
    /// is cleared right after.
    #[track_caller]
    pub fn wait(&self) -> Deferred<(), Interruption> {
        let (resolver, deferred) = Deferred::new(&self.shared.handle);
        if self.shared.handle.inner().is_none() {
            resolver.resolve(Err(Interruption::Dropped));
        } else if self.is_set() {
            resolver.resolve(Ok(()));
        } else {
            let token = self.shared.state.borrow_mut().waiting.push(resolver);
            let shared = Rc::downgrade(&self.shared);
            deferred.on_cancel(move || cancel(&shared, token));
        }
        deferred
    }

    /// Sets the flag. Who waits hears of it from the loop, in the order in which they came.
    pub fn set(&self) {
        let waiting = {
            let mut state = self.shared.state.borrow_mut();
            state.is_set = true;
            state.waiting.len()
        };
        // Counted: whoever comes to wait because of this one waits for the next.
        for _ in 0..waiting {
            let resolver = self.shared.state.borrow_mut().waiting.pop();
            let Some(resolver) = resolver else { break };
            resolver.resolve(Ok(()));
        }
    }

    /// Clears the flag, so that it can be waited for again.
    pub fn clear(&self) {
        self.shared.state.borrow_mut().is_set = false;
    }

    /// Whether the flag is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.shared.state.borrow().is_set
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.state.borrow().waiting.len()
    }
}

fn cancel(shared: &Weak<Shared>, token: Token) -> bool {
    let Some(shared) = shared.upgrade() else { return false };
    let resolver = shared.state.borrow_mut().waiting.remove(token);
    resolver.is_some_and(|resolver| resolver.resolve(Err(Interruption::Cancelled)))
}

impl Ending for Shared {
    fn end(&self, inner: &Inner) {
        let waiting = std::mem::replace(&mut self.state.borrow_mut().waiting, Fifo::new());
        inner.discard(waiting);
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("is_set", &self.is_set()).field("waiting", &self.waiting()).finish()
    }
}
