//! Structured concurrency: [`scope`], whose children end before it does.
//!
//! The children are not tasks: they are part of the scope's own future, which polls those that were woken. So
//! they may borrow what the scope may, and whoever drops the scope has dropped them.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;

use crate::core::interruption::Interruption;
use crate::reactor::handle::Handle;
use crate::reactor::inner::panic_text;
use crate::reactor::task::children::Children;

type ChildFuture<'env, E> = Pin<Box<dyn Future<Output = Result<(), E>> + 'env>>;

struct Shared<'env, E> {
    /// Children that the scope has not seen yet; `None` once it is over.
    spawned: Option<Vec<ChildFuture<'env, E>>>,
    /// Whoever polls the scope.
    waker: Option<Waker>,
}

/// Where children are spawned. See [`scope`]. Clones are the same scope.
pub struct Scope<'env, E> {
    shared: Rc<RefCell<Shared<'env, E>>>,
}

impl<'env, E: From<Interruption> + 'env> Scope<'env, E> {
    /// Runs `future` until it ends, or the scope does. An error that it ends with ends the scope, and so does
    /// a panic, as [`Interruption::Panicked`].
    ///
    /// What is returned can be awaited for the value, and need not be.
    #[track_caller]
    pub fn spawn<T: 'env>(&self, future: impl Future<Output = Result<T, E>> + 'env) -> ScopedChild<T> {
        let place = Rc::new(RefCell::new(Place::Running(None)));
        let keeper = Keeper { place: Rc::clone(&place) };
        let child = Child { future, keeper, spawned_at: Location::caller() };
        let child: ChildFuture<'env, E> = Box::pin(child);
        let (refused, waker) = {
            let mut shared = self.shared.borrow_mut();
            match &mut shared.spawned {
                Some(spawned) => {
                    spawned.push(child);
                    (None, shared.waker.take())
                }
                None => (Some(child), None),
            }
        };
        drop(refused);
        if let Some(waker) = waker {
            waker.wake();
        }
        ScopedChild { place }
    }
}

impl<E> Clone for Scope<'_, E> {
    fn clone(&self) -> Self {
        Self { shared: Rc::clone(&self.shared) }
    }
}

impl<E> fmt::Debug for Scope<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scope")
    }
}

/// The value of a child.
enum Place<T> {
    /// Somebody may wait for it.
    Running(Option<Waker>),
    Ended(T),
    /// It was dropped, or it was taken.
    Gone,
}

/// Sees to it that whoever waits for a child hears of its end.
struct Keeper<T> {
    place: Rc<RefCell<Place<T>>>,
}

impl<T> Keeper<T> {
    fn put(&self, end: Place<T>) {
        let before = {
            let mut place = self.place.borrow_mut();
            if !matches!(*place, Place::Running(_)) {
                return;
            }
            std::mem::replace(&mut *place, end)
        };
        if let Place::Running(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl<T> Drop for Keeper<T> {
    fn drop(&mut self) {
        self.put(Place::Gone);
    }
}

pin_project! {
    struct Child<F, T> {
        #[pin]
        future: F,
        keeper: Keeper<T>,
        spawned_at: &'static Location<'static>,
    }
}

impl<T, E: From<Interruption>, F: Future<Output = Result<T, E>>> Future for Child<F, T> {
    type Output = Result<(), E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        let this = self.project();
        match catch_unwind(AssertUnwindSafe(|| this.future.poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(Ok(value))) => {
                this.keeper.put(Place::Ended(value));
                Poll::Ready(Ok(()))
            }
            Ok(Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            Err(payload) => {
                let text = panic_text(&*payload).to_owned();
                if let Some(inner) = Handle::current().and_then(|handle| handle.inner()) {
                    inner.panicked(
                        &format_args!("a child of a scope, spawned at {},", this.spawned_at),
                        payload,
                    );
                }
                Poll::Ready(Err(Interruption::Panicked(text).into()))
            }
        }
    }
}

/// A child of a [`scope`]: a future of its value.
///
/// It says [`Interruption::Cancelled`] when the child failed, or the scope was over before it. Dropping it
/// changes nothing: the child belongs to the scope.
pub struct ScopedChild<T> {
    place: Rc<RefCell<Place<T>>>,
}

impl<T> Future for ScopedChild<T> {
    type Output = Result<T, Interruption>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Cloned and dropped with nothing borrowed.
        let waker = cx.waker().clone();
        let mut place = self.place.borrow_mut();
        match std::mem::replace(&mut *place, Place::Gone) {
            Place::Running(old) => {
                *place = Place::Running(Some(waker));
                drop(place);
                drop(old);
                Poll::Pending
            }
            Place::Ended(value) => Poll::Ready(Ok(value)),
            Place::Gone => Poll::Ready(Err(Interruption::Cancelled)),
        }
    }
}

impl<T> fmt::Debug for ScopedChild<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScopedChild")
    }
}

/// Ends the scope: what was spawned and not seen is dropped, and nothing more is taken.
struct Closing<'s, 'env, E>(&'s RefCell<Shared<'env, E>>);

impl<E> Drop for Closing<'_, '_, E> {
    fn drop(&mut self) {
        let (spawned, waker) = {
            let mut shared = self.0.borrow_mut();
            (shared.spawned.take(), shared.waker.take())
        };
        drop(spawned);
        drop(waker);
    }
}

/// Runs `body` and the children that it spawns; is ready when all of them have ended.
///
/// The first error, of the body or of a child, drops everything else in the scope and is its outcome.
/// Dropping the scope drops the children at once. So nothing of what was begun in it goes on after it.
///
/// Children may borrow what lives longer than the scope, and may spawn further ones through a clone of the
/// [`Scope`].
///
/// ```
/// use std::time::Duration;
/// use std::{cell::Cell, io};
/// use twistor::task;
///
/// # fn main() -> io::Result<()> {
/// twistor::run(async |_| {
///     let done = Cell::new(0);
///     let done = &done;
///     let outcome: io::Result<&str> = task::scope(async |scope| {
///         for length in 1..=3 {
///             scope.spawn(async move {
///                 task::sleep(Duration::from_millis(length)).await;
///                 done.set(done.get() + 1);
///                 Ok(())
///             });
///         }
///         Ok("all spawned")
///     })
///     .await;
///     assert_eq!((outcome.unwrap(), done.get()), ("all spawned", 3));
///
///     let outcome: io::Result<()> = task::scope(async |scope| {
///         scope.spawn(std::future::pending::<io::Result<()>>());
///         scope.spawn(async { Err::<(), _>(io::Error::other("failed")) });
///         Ok(())
///     })
///     .await;
///     assert_eq!(outcome.unwrap_err().to_string(), "failed");
/// })
/// # }
/// ```
///
/// # Errors
///
/// The first error of the body or a child.
pub async fn scope<'env, T, E: From<Interruption> + 'env>(
    body: impl AsyncFnOnce(Scope<'env, E>) -> Result<T, E>,
) -> Result<T, E> {
    let shared = Rc::new(RefCell::new(Shared { spawned: Some(Vec::new()), waker: None }));
    // Dropped last: what the destructors of the others spawn is dropped as well.
    let _closing = Closing(&shared);
    let mut children = Children::new();
    let mut body = pin!(body(Scope { shared: Rc::clone(&shared) }));
    let mut output = None;
    poll_fn(|cx| {
        // Cloned and dropped with nothing borrowed.
        let waker = cx.waker().clone();
        let old = shared.borrow_mut().waker.replace(waker);
        drop(old);
        if output.is_none() {
            match body.as_mut().poll(cx) {
                Poll::Ready(Ok(value)) => output = Some(value),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        let spawned = shared.borrow_mut().spawned.as_mut().map(std::mem::take);
        for child in spawned.into_iter().flatten() {
            children.push(child);
        }
        let mut failed = None;
        children.poll_woken(cx, |_, outcome| match outcome {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        });
        if let Some(error) = failed {
            return Poll::Ready(Err(error));
        }
        if shared.borrow().spawned.as_ref().is_some_and(|spawned| !spawned.is_empty()) {
            cx.waker().wake_by_ref();
        } else if children.left() == 0
            && let Some(value) = output.take()
        {
            return Poll::Ready(Ok(value));
        }
        Poll::Pending
    })
    .await
}
