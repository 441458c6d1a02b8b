//! Events of the application's own: [`Events`].

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::{Rc, Weak};

use crate::core::slots::Token;
use crate::reactor::endings::Ending;
use crate::reactor::handle::Handle;
use crate::reactor::inner::Inner;
use crate::reactor::watchdog::Hook;

/// A kind of event that parts of a program tell each other of, without knowing each other. Clones are the
/// same kind.
///
/// Whoever is interested says so with [`on`](Self::on); whoever knows of one calls [`emit`](Self::emit).
/// Nobody is called from inside `emit`: events wait in the callback queue, and each goes to all who are
/// interested then, in the order in which they said so.
///
/// ```
/// use std::cell::RefCell;
/// use std::rc::Rc;
/// use twistor::{Events, Reactor};
///
/// enum Input {
///     Key(char),
///     Click { x: u16, y: u16 },
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// let inputs = Events::new(&reactor);
/// let seen = Rc::new(RefCell::new(String::new()));
///
/// let text = Rc::clone(&seen);
/// inputs.on(move |_, input| match input {
///     Input::Key(key) => text.borrow_mut().push(*key),
///     Input::Click { x, y } => text.borrow_mut().push_str(&format!("({x},{y})")),
/// });
/// inputs.emit(Input::Key('a'));
/// inputs.emit(Input::Click { x: 3, y: 4 });
/// assert_eq!(*seen.borrow(), "", "nobody is called from inside a call");
/// reactor.run_until_idle()?;
/// assert_eq!(*seen.borrow(), "a(3,4)");
/// # Ok(())
/// # }
/// ```
pub struct Events<E> {
    handle: Handle,
    shared: Rc<Shared<E>>,
    /// How many may wait for each async handler.
    backlog_limit: Rc<Cell<usize>>,
}

/// The limit unless another is set.
const BACKLOG_LIMIT: usize = 65_536;

type EventHook<E> = Rc<RefCell<dyn FnMut(&Handle, &E)>>;

struct Shared<E> {
    hooks: RefCell<Vec<(u64, EventHook<E>)>>,
    next: Cell<u64>,
}

impl<E: 'static> Events<E> {
    /// A kind of event that nobody is interested in yet.
    #[must_use]
    pub fn new(handle: &Handle) -> Self {
        let shared = Rc::new(Shared { hooks: RefCell::new(Vec::new()), next: Cell::new(0) });
        if let Some(inner) = handle.inner() {
            inner.endings.borrow_mut().add(&shared);
        }
        Self { handle: handle.clone(), shared, backlog_limit: Rc::new(Cell::new(BACKLOG_LIMIT)) }
    }

    /// Has `hook` called with every event from now on, until the subscription is cancelled, the last clone of
    /// this is gone or the reactor is dropped; a hook may keep a clone, to emit again. A hook that panics is
    /// logged, and called again all the same.
    pub fn on(&self, hook: impl FnMut(&Handle, &E) + 'static) -> Subscription {
        let number = self.shared.next.get();
        self.shared.next.set(number + 1);
        self.shared.hooks.borrow_mut().push((number, Rc::new(RefCell::new(hook))));
        let subscriptions: Rc<dyn Subscriptions> = self.shared.clone();
        Subscription { handle: self.handle.clone(), of: Rc::downgrade(&subscriptions), number }
    }

    /// Has `hook` called with the events that `matches` picks out.
    pub fn on_matching(
        &self,
        matches: impl Fn(&E) -> bool + 'static,
        mut hook: impl FnMut(&Handle, &E) + 'static,
    ) -> Subscription {
        self.on(move |handle, event| {
            if matches(event) {
                hook(handle, event);
            }
        })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// How many events may wait for each [async handler](Self::on_async), at least one; default 65 536. It
    /// holds at once and for all clones of this. Those that wait already stay.
    ///
    /// ```
    /// use twistor::{Events, Reactor};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let samples = Events::new(&reactor);
    /// samples.set_backlog_limit(2);
    /// samples.on_async(async |_, sample: u32| println!("{sample}"));
    /// (0..5).for_each(|sample| samples.emit(sample));
    /// reactor.run_until_idle()?;
    /// assert_eq!(reactor.stats().dropped_events, 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_backlog_limit(&self, events: usize) {
        self.backlog_limit.set(events.max(1));
    }

    pub(crate) fn backlog_limit(&self) -> &Rc<Cell<usize>> {
        &self.backlog_limit
    }

    /// Tells everybody who is interested, from the loop: first emitted, first told.
    #[track_caller]
    pub fn emit(&self, event: E) {
        let shared = Rc::clone(&self.shared);
        self.handle.call_soon(move |handle| shared.tell(handle, &event));
    }

    /// How many are interested.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.shared.hooks.borrow().len()
    }
}

impl<E> Shared<E> {
    fn tell(&self, handle: &Handle, event: &E) {
        let Some(inner) = handle.inner() else { return };
        let hooks = self.hooks.borrow().clone();
        for (number, hook) in &hooks {
            // One before it may have cancelled it.
            if self.hooks.borrow().iter().any(|(one, _)| one == number) {
                inner.contain("a hook of an event", || (hook.borrow_mut())(handle, event));
                inner.hook_ran(Token::NOBODY, Hook::Callback);
            }
        }
        inner.discard(hooks);
    }
}

/// What a subscription needs of its event, whatever its type.
pub(crate) trait Subscriptions {
    fn remove(&self, number: u64, handle: &Handle) -> bool;
    fn has(&self, number: u64) -> bool;
}

impl<E> Ending for Shared<E> {
    fn end(&self, inner: &Inner) {
        inner.discard(self.hooks.take());
    }
}

impl<E> Subscriptions for Shared<E> {
    fn remove(&self, number: u64, handle: &Handle) -> bool {
        let removed = {
            let mut hooks = self.hooks.borrow_mut();
            let place = hooks.iter().position(|(one, _)| *one == number);
            place.map(|place| hooks.remove(place))
        };
        let is_removed = removed.is_some();
        // A user's value: dropped with nothing borrowed.
        match handle.inner() {
            Some(inner) => inner.discard(removed),
            None => drop(removed),
        }
        is_removed
    }

    fn has(&self, number: u64) -> bool {
        self.hooks.borrow().iter().any(|(one, _)| *one == number)
    }
}

impl<E> Clone for Events<E> {
    fn clone(&self) -> Self {
        Self {
            handle: self.handle.clone(),
            shared: Rc::clone(&self.shared),
            backlog_limit: Rc::clone(&self.backlog_limit),
        }
    }
}

impl<E> fmt::Debug for Events<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("subscribers", &self.shared.hooks.borrow().len()).finish()
    }
}

/// An interest in [`Events`]. Dropping it changes nothing.
#[derive(Clone)]
pub struct Subscription {
    handle: Handle,
    of: Weak<dyn Subscriptions>,
    number: u64,
}

impl Subscription {
    /// Ends it, at once. False when it had ended.
    pub fn cancel(&self) -> bool {
        self.of.upgrade().is_some_and(|of| of.remove(self.number, &self.handle))
    }

    /// Whether it still stands.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.of.upgrade().is_some_and(|of| of.has(self.number))
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("active", &self.is_active()).finish()
    }
}
