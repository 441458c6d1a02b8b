//! [`AsCompleted`]: outcomes in the order in which they come.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::panic::Location;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::node::discard;
use super::resolver::Origin;
use super::{Canceller, Deferred, Failure, Resolver};
use crate::core::interruption::Interruption;
use crate::reactor::handle::Handle;

/// The outcomes of several [`Deferred`]s in the order of completion, each with the place of its input. Made
/// by [`Deferred::as_completed`].
///
/// Dropped while a task waits for the next one, it cancels the inputs that are left; dropped otherwise, they
/// go on.
pub struct AsCompleted<T: 'static, E: Failure> {
    shared: Rc<Shared<T, E>>,
    cancellers: Vec<Canceller>,
    /// A task waits for the next.
    is_awaited: bool,
}

struct Shared<T: 'static, E: Failure> {
    handle: Handle,
    made_at: &'static Location<'static>,
    state: RefCell<State<T, E>>,
}

struct State<T: 'static, E: Failure> {
    /// Outcomes that nobody has taken.
    there: VecDeque<(usize, Result<T, E>)>,
    /// Inputs that have no outcome.
    left: usize,
    taker: Taker<T, E>,
}

enum Taker<T: 'static, E: Failure> {
    Nobody,
    Task(Waker),
    Hook(Box<dyn FnMut(&Handle, usize, Result<T, E>)>, Resolver<(), Interruption>),
    /// The hook is running.
    Busy,
    /// Nobody will. Errors are logged, unless the inputs were cancelled.
    Gone {
        is_cancelled: bool,
    },
}

impl<T: 'static, E: Failure> Deferred<T, E> {
    /// The outcomes in the order in which they come.
    ///
    /// ```
    /// use std::time::Duration;
    /// use twistor::{Deferred, Reactor};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let inputs = [20_u64, 1].map(|wait| {
    ///     let (resolver, deferred) = Deferred::<u64, String>::new(&reactor);
    ///     reactor.call_later(Duration::from_millis(wait), move |_| { resolver.callback(wait); });
    ///     deferred
    /// });
    /// Deferred::as_completed(&reactor, inputs)
    ///     .for_each(|_, place, outcome| println!("input {place}: {outcome:?}"))
    ///     .on_done(|reactor, _| reactor.stop());
    /// reactor.run()
    /// # }
    /// ```
    #[track_caller]
    pub fn as_completed(handle: &Handle, inputs: impl IntoIterator<Item = Self>) -> AsCompleted<T, E> {
        let state = State { there: VecDeque::new(), left: 0, taker: Taker::Nobody };
        let shared = Rc::new(Shared {
            handle: handle.clone(),
            made_at: Location::caller(),
            state: RefCell::new(state),
        });
        let mut cancellers = Vec::new();
        for (index, input) in inputs.into_iter().enumerate() {
            cancellers.push(input.canceller());
            shared.state.borrow_mut().left += 1;
            let shared = Rc::clone(&shared);
            input.on_done(move |handle, outcome| shared.arrived(handle, index, outcome));
        }
        AsCompleted { shared, cancellers, is_awaited: false }
    }
}

impl<T: 'static, E: Failure> AsCompleted<T, E> {
    /// The next outcome, with the place of its input; `None` after the last. For tasks.
    pub async fn next(&mut self) -> Option<(usize, Result<T, E>)> {
        poll_fn(|context| {
            let next = self.shared.poll_next(context);
            self.is_awaited = next.is_pending();
            next
        })
        .await
    }

    /// Has the loop call `hook` with every outcome. What is returned fires after the last; cancelling it
    /// cancels the inputs that are left, of which the hook hears no more. It fails if the hook panics.
    #[track_caller]
    pub fn for_each(
        mut self,
        hook: impl FnMut(&Handle, usize, Result<T, E>) + 'static,
    ) -> Deferred<(), Interruption> {
        let (resolver, done) = Origin::pair(&self.shared.handle, Location::caller(), None);
        let weak = Rc::downgrade(&self.shared);
        let cancellers = std::mem::take(&mut self.cancellers);
        resolver.on_cancel(move || {
            let Some(shared) = weak.upgrade() else { return false };
            let is_waiting = shared.end();
            for canceller in cancellers {
                canceller.cancel();
            }
            is_waiting
        });
        let old = std::mem::replace(
            &mut self.shared.state.borrow_mut().taker,
            Taker::Hook(Box::new(hook), resolver),
        );
        drop(old);
        // What is there already comes from the loop, too.
        let shared = Rc::clone(&self.shared);
        self.shared.handle.call_soon(move |handle| shared.hand_on(handle));
        done
    }

    /// Cancels the inputs that are left. Their outcomes come all the same.
    pub fn cancel(&self) {
        for canceller in &self.cancellers {
            canceller.cancel();
        }
    }

    /// How many outcomes are still to be taken.
    #[must_use]
    pub fn len(&self) -> usize {
        let state = self.shared.state.borrow();
        state.left + state.there.len()
    }

    /// Whether the last was taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: 'static, E: Failure> Shared<T, E> {
    fn poll_next(&self, context: &Context<'_>) -> Poll<Option<(usize, Result<T, E>)>> {
        let mut state = self.state.borrow_mut();
        if let Some(next) = state.there.pop_front() {
            return Poll::Ready(Some(next));
        }
        if state.left == 0 {
            return Poll::Ready(None);
        }
        drop(state);
        // Foreign code, as far as anybody knows: nothing is borrowed while it is cloned and dropped.
        let waker = Taker::Task(context.waker().clone());
        let old = std::mem::replace(&mut self.state.borrow_mut().taker, waker);
        drop(old);
        Poll::Pending
    }

    fn arrived(&self, handle: &Handle, index: usize, outcome: Result<T, E>) {
        let mut state = self.state.borrow_mut();
        state.left -= 1;
        match std::mem::replace(&mut state.taker, Taker::Nobody) {
            Taker::Gone { is_cancelled } => {
                state.taker = Taker::Gone { is_cancelled };
                drop(state);
                if is_cancelled {
                    discard(handle, outcome);
                } else {
                    // Nobody takes it: logged if it is an error.
                    drop(Origin::ready(handle, self.made_at, outcome));
                }
            }
            Taker::Task(waker) => {
                state.there.push_back((index, outcome));
                drop(state);
                waker.wake();
            }
            other => {
                state.there.push_back((index, outcome));
                state.taker = other;
                drop(state);
                self.hand_on(handle);
            }
        }
    }

    /// Calls the hook with what is there.
    fn hand_on(&self, handle: &Handle) {
        let Some(inner) = handle.inner() else { return };
        loop {
            let mut state = self.state.borrow_mut();
            let (mut hook, resolver) = match std::mem::replace(&mut state.taker, Taker::Busy) {
                Taker::Hook(hook, resolver) => (hook, resolver),
                other => return state.taker = other,
            };
            let Some((index, outcome)) = state.there.pop_front() else {
                if state.left > 0 {
                    return state.taker = Taker::Hook(hook, resolver);
                }
                state.taker = Taker::Gone { is_cancelled: false };
                drop(state);
                inner.discard(hook);
                resolver.resolve(Ok(()));
                return;
            };
            drop(state);
            let called =
                inner.contain(format_args!("a hook of what is completed, made at {}", self.made_at), || {
                    hook(handle, index, outcome);
                });
            let mut state = self.state.borrow_mut();
            let end = match (called, &state.taker) {
                (Some(()), Taker::Busy) => {
                    state.taker = Taker::Hook(hook, resolver);
                    continue;
                }
                (None, _) => Interruption::Panicked("a hook of what is completed".into()),
                (Some(()), _) => Interruption::Cancelled,
            };
            if matches!(state.taker, Taker::Busy) {
                state.taker = Taker::Gone { is_cancelled: false };
            }
            drop(state);
            inner.discard(hook);
            resolver.resolve(Err(end));
            return;
        }
    }

    /// The hook is to hear no more. False when that was so before.
    fn end(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let taker = std::mem::replace(&mut state.taker, Taker::Gone { is_cancelled: true });
        let unused = std::mem::take(&mut state.there);
        drop(state);
        discard(&self.handle, unused);
        match taker {
            Taker::Hook(hook, resolver) => {
                discard(&self.handle, hook);
                resolver.resolve(Err(Interruption::Cancelled))
            }
            // The end is told when it has run.
            Taker::Busy => true,
            Taker::Nobody | Taker::Task(_) | Taker::Gone { .. } => false,
        }
    }
}

impl<T: 'static, E: Failure> Drop for AsCompleted<T, E> {
    fn drop(&mut self) {
        let mut state = self.shared.state.borrow_mut();
        let unused = match state.taker {
            Taker::Nobody | Taker::Task(_) => {
                let taker =
                    std::mem::replace(&mut state.taker, Taker::Gone { is_cancelled: self.is_awaited });
                let there = std::mem::take(&mut state.there);
                drop(state);
                drop(taker);
                there
            }
            Taker::Hook(..) | Taker::Busy | Taker::Gone { .. } => return,
        };
        for (_, outcome) in unused {
            drop(Origin::ready(&self.shared.handle, self.shared.made_at, outcome));
        }
        if self.is_awaited {
            for canceller in &self.cancellers {
                canceller.cancel();
            }
        }
    }
}

impl<T: 'static, E: Failure> fmt::Debug for AsCompleted<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.borrow();
        f.debug_struct("AsCompleted").field("left", &state.left).field("there", &state.there.len()).finish()
    }
}
