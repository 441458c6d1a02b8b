//! Several Deferreds as one: all of them, the first, the first that succeeds.

use std::cell::{Cell, RefCell};
use std::panic::Location;
use std::rc::Rc;

use super::resolver::Origin;
use super::{Canceller, Deferred, Failure, Resolver};
use crate::core::interruption::Interruption;
use crate::reactor::deferred::node::discard;
use crate::reactor::handle::Handle;

/// Combining. What comes out is in the order of the inputs, whatever the order of completion. Cancelling what
/// comes out cancels the inputs; dropping it does not, unless a task waits for it.
impl<T: 'static, E: Failure> Deferred<T, E> {
    /// All values, in the order of the inputs; at once if there are none. The first error is the outcome, and
    /// cancels the other inputs: what [`try_gather`](crate::task::try_gather) is for futures.
    ///
    /// ```
    /// use twistor::{Deferred, Reactor};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let lengths = ["localhost", "127.0.0.1"].map(|name| reactor.resolve(name).map(|all| all.len()));
    /// Deferred::gather(&reactor, lengths).on_done(|reactor, lengths| {
    ///     println!("{:?} addresses", lengths.unwrap());
    ///     reactor.stop();
    /// });
    /// reactor.run()
    /// # }
    /// ```
    #[track_caller]
    pub fn gather(handle: &Handle, inputs: impl IntoIterator<Item = Self>) -> Deferred<Vec<T>, E> {
        let all = Collecting::new(handle, Ok(Vec::new()), Location::caller());
        all.start(inputs, |all, index, outcome| match outcome {
            Ok(value) => {
                if let Some(values) = all.put(index, value) {
                    all.decide(Ok(values));
                }
            }
            Err(error) => all.decide(Err(error)),
        })
    }

    /// All outcomes, good or bad, in the order of the inputs; at once if there are none: what
    /// [`gather`](crate::task::gather) is for futures.
    #[track_caller]
    pub fn gather_all(
        handle: &Handle,
        inputs: impl IntoIterator<Item = Self>,
    ) -> Deferred<Vec<Result<T, E>>, Interruption> {
        let all = Collecting::new(handle, Ok(Vec::new()), Location::caller());
        all.start(inputs, |all, index, outcome| {
            if let Some(outcomes) = all.put(index, outcome) {
                all.decide(Ok(outcomes));
            }
        })
    }

    /// The outcome that comes first, good or bad; a value comes with the place of its input. The other inputs
    /// are cancelled. With no inputs it fails with [`Empty`](Interruption::Empty).
    ///
    /// ```
    /// use twistor::{Deferred, Reactor};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let (_slow, first) = Deferred::<&str, String>::new(&reactor);
    /// let (quick, second) = Deferred::new(&reactor);
    /// Deferred::race(&reactor, [first, second]).on_done(|reactor, outcome| {
    ///     assert_eq!(outcome, Ok((1, "quick")));
    ///     reactor.stop();
    /// });
    /// quick.callback("quick");
    /// reactor.run()
    /// # }
    /// ```
    #[track_caller]
    pub fn race(handle: &Handle, inputs: impl IntoIterator<Item = Self>) -> Deferred<(usize, T), E> {
        let empty = Err(Interruption::Empty.into());
        let all = Collecting::<(), _, _>::new(handle, empty, Location::caller());
        all.start(inputs, |all, index, outcome| all.decide(outcome.map(|value| (index, value))))
    }

    /// The first value, with the place of its input; the other inputs are cancelled. When all have failed,
    /// all errors in the order of the inputs: none if there are none.
    #[track_caller]
    pub fn any(handle: &Handle, inputs: impl IntoIterator<Item = Self>) -> Deferred<(usize, T), Vec<E>> {
        let all = Collecting::new(handle, Err(Vec::new()), Location::caller());
        all.start(inputs, |all, index, outcome| match outcome {
            Ok(value) => all.decide(Ok((index, value))),
            Err(error) => {
                if let Some(errors) = all.put(index, error) {
                    all.decide(Err(errors));
                }
            }
        })
    }
}

/// Inputs that are waited for, and what has come of them.
struct Collecting<S, V, F> {
    handle: Handle,
    made_at: &'static Location<'static>,
    /// What is known of each input.
    slots: RefCell<Vec<Option<S>>>,
    /// Slots that are empty.
    left: Cell<usize>,
    cancellers: RefCell<Vec<Canceller>>,
    outcome: Cell<Progress<V, F>>,
}

enum Progress<V, F> {
    /// The inputs are being looked at: what is to come if there are none.
    Beginning(Result<V, F>),
    Open(Resolver<V, F>),
    Decided,
}

impl<S: 'static, V: 'static, F: Failure> Collecting<S, V, F> {
    fn new(handle: &Handle, empty: Result<V, F>, made_at: &'static Location<'static>) -> Rc<Self> {
        Rc::new(Self {
            handle: handle.clone(),
            made_at,
            slots: RefCell::default(),
            left: Cell::new(0),
            cancellers: RefCell::default(),
            outcome: Cell::new(Progress::Beginning(empty)),
        })
    }

    /// Has `arrived` hear of every outcome.
    fn start<T: 'static, E: Failure>(
        self: Rc<Self>,
        inputs: impl IntoIterator<Item = Deferred<T, E>>,
        arrived: fn(&Self, usize, Result<T, E>),
    ) -> Deferred<V, F> {
        let mut cancellers = Vec::new();
        for (index, input) in inputs.into_iter().enumerate() {
            cancellers.push(input.canceller());
            let all = Rc::clone(&self);
            // Nothing is heard before the loop's next turn.
            input.on_done(move |_, outcome| arrived(&all, index, outcome));
        }
        let count = cancellers.len();
        let empty = self.outcome.replace(Progress::Decided);
        if let (0, Progress::Beginning(empty)) = (count, empty) {
            return Origin::ready(&self.handle, self.made_at, empty);
        }
        let (resolver, deferred) = Origin::pair(&self.handle, self.made_at, None);
        let weak = Rc::downgrade(&self);
        resolver.on_cancel(move || {
            let Some(all) = weak.upgrade() else { return false };
            all.decide(Err(Interruption::Cancelled.into()));
            true
        });
        self.slots.borrow_mut().resize_with(count, || None);
        self.left.set(count);
        *self.cancellers.borrow_mut() = cancellers;
        self.outcome.set(Progress::Open(resolver));
        deferred
    }

    /// Notes what is known of an input. Returns everything once all is known.
    fn put(&self, index: usize, value: S) -> Option<Vec<S>> {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(index) else {
            drop(slots);
            discard(&self.handle, value);
            return None;
        };
        *slot = Some(value);
        self.left.set(self.left.get() - 1);
        if self.left.get() > 0 {
            return None;
        }
        let all = std::mem::take(&mut *slots);
        drop(slots);
        Some(all.into_iter().flatten().collect())
    }

    /// Decides the outcome, unless it was decided before, and cancels whatever is not needed any more.
    fn decide(&self, outcome: Result<V, F>) {
        let Progress::Open(resolver) = self.outcome.replace(Progress::Decided) else {
            return discard(&self.handle, outcome);
        };
        resolver.resolve(outcome);
        for canceller in self.cancellers.take() {
            canceller.cancel();
        }
        let unused = self.slots.take();
        discard(&self.handle, unused);
    }
}
