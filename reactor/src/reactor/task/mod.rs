//! Tasks: futures that the loop runs, and what they are made of.
//!
//! A task is spawned with [`Handle::spawn`] or [`spawn`]. It runs on the loop's thread, in the phase of the
//! callbacks, whenever something that it waits for has woken it; so it shares data with hooks and other tasks
//! as callbacks do, in an `Rc<RefCell<_>>`. No borrow may be held across an `.await`.
//!
//! The functions of this module use the reactor whose hook or task is running on this thread
//! ([`Handle::current`]), and panic where there is none.
//!
//! ```
//! use std::time::Duration;
//! use twistor::task;
//!
//! # fn main() -> std::io::Result<()> {
//! let sum = twistor::run(async |_| {
//!     let slow = task::spawn(async {
//!         task::sleep(Duration::from_millis(2)).await;
//!         40
//!     });
//!     let quick = task::spawn(async { 2 });
//!     slow.await.unwrap() + quick.await.unwrap()
//! })?;
//! assert_eq!(sum, 42);
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::core::interruption::Interruption;
use crate::core::slots::Token;
use crate::reactor::Reactor;
use crate::reactor::handle::Handle;

pub(crate) mod budget;
mod cell;
mod children;
mod deferred;
pub(crate) mod executor;
mod handlers;
mod limits;
mod scope;
mod several;
mod sleep;
mod waker;

pub use executor::TaskInfo;
pub use limits::{Shield, Timeout};
pub use scope::{Scope, ScopedChild, scope};
pub use several::{AsCompleted, Gather, Many, Runners, TryGather, Tuple};
pub use several::{any, as_completed, gather, race, try_gather};
pub use sleep::Sleep;

/// A future that the loop runs, and what it will come to.
///
/// It is a future itself: awaiting it gives the output, or the [`Interruption`] that ended the task: it was
/// [cancelled](Self::cancel), or it panicked. Other ways to hear of the end are [`on_done`](Self::on_done),
/// and not to: dropping a `Task` lets the task go on by itself. But one that is dropped *while it is waited
/// for* is cancelled: what waited for it has been cancelled or given up, and with it goes what it was waiting
/// for. See [`shield`](Self::shield).
///
/// Awaited again after its outcome was taken, and after the reactor is gone, it says
/// [`Interruption::Dropped`].
///
/// ```
/// use twistor::Interruption;
///
/// # fn main() -> std::io::Result<()> {
/// twistor::run(async |reactor| {
///     let task = reactor.spawn(async { 6 * 7 });
///     assert_eq!(task.await, Ok(42));
///
///     let task = reactor.spawn(std::future::pending::<()>());
///     assert!(task.cancel());
///     assert_eq!(task.await, Err(Interruption::Cancelled));
/// })
/// # }
/// ```
pub struct Task<T> {
    handle: Handle,
    token: Token,
    output: PhantomData<fn() -> T>,
}

impl<T: 'static> Task<T> {
    fn new(handle: &Handle, token: Token) -> Self {
        Self { handle: handle.clone(), token, output: PhantomData }
    }

    /// Calls `hook` with the outcome, from the loop. It is not called when the reactor ends before the task.
    ///
    /// ```
    /// use twistor::Reactor;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// reactor.spawn(async { 6 * 7 }).on_done(|reactor, outcome| {
    ///     assert_eq!(outcome, Ok(42));
    ///     reactor.stop();
    /// });
    /// reactor.run()
    /// # }
    /// ```
    pub fn on_done(self, hook: impl FnOnce(&Handle, Result<T, Interruption>) + 'static) {
        if let Some(inner) = self.handle.inner() {
            let token = self.release();
            inner.hook_task(token, Box::new(move |handle, ended| hook(handle, ended.outcome())));
        }
    }

    /// Lets the task go on by itself, also if it was waited for.
    pub fn detach(self) {
        if let Some(inner) = self.handle.inner() {
            inner.detach_task(self.release());
        }
    }

    /// Takes the slot from this handle, which then ends nothing.
    fn release(mut self) -> Token {
        std::mem::replace(&mut self.token, Token::NOBODY)
    }
}

impl<T> Task<T> {
    /// Ends the task: the loop drops its future, at its next turn, where it waits now. The outcome is
    /// [`Interruption::Cancelled`]. False, and nothing happens, when the task has ended or was cancelled
    /// before.
    ///
    /// The future is dropped, not told: what it has to do at its end is for the destructors of what it holds.
    /// One that is being polled right now goes on to its next `.await` that has to wait; if it ends before it
    /// comes to one, its output is dropped, too.
    #[allow(clippy::must_use_candidate, reason = "most do not ask whether there was anything to cancel")]
    pub fn cancel(&self) -> bool {
        self.handle.inner().is_some_and(|inner| inner.cancel_task(self.token))
    }

    /// What [cancels](Self::cancel) it, apart from it.
    #[must_use]
    pub fn canceller(&self) -> TaskCanceller {
        TaskCanceller { handle: self.handle.clone(), token: self.token }
    }

    /// Whether the task has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.handle.inner().is_none_or(|inner| inner.has_task_ended(self.token))
    }

    /// Gives the task a name, for the log and for [`Handle::tasks`].
    pub fn set_name(&self, name: &str) {
        if let Some(inner) = self.handle.inner() {
            inner.name_task(self.token, name);
        }
    }

    /// The task's name, if it was given one.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        self.handle.inner()?.task_name(self.token)
    }
}

impl<T: 'static> Future for Task<T> {
    type Output = Result<T, Interruption>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(inner) = self.handle.inner() else { return Poll::Ready(Err(Interruption::Dropped)) };
        let ended = ready!(inner.poll_task(self.token, cx));
        self.token = Token::NOBODY;
        Poll::Ready(ended.outcome())
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if self.token != Token::NOBODY
            && let Some(inner) = self.handle.inner()
        {
            inner.let_go_of_task(self.token);
        }
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("finished", &self.is_finished()).finish_non_exhaustive()
    }
}

/// Ends a [`Task`]. See [`Task::canceller`].
#[derive(Clone)]
pub struct TaskCanceller {
    handle: Handle,
    token: Token,
}

impl TaskCanceller {
    /// As [`Task::cancel`].
    #[allow(clippy::must_use_candidate, reason = "most do not ask whether there was anything to cancel")]
    pub fn cancel(&self) -> bool {
        self.handle.inner().is_some_and(|inner| inner.cancel_task(self.token))
    }
}

impl fmt::Debug for TaskCanceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TaskCanceller")
    }
}

impl Handle {
    /// Has the loop run `future`, from its next turn on.
    ///
    /// The future need not be `Send`: it stays on the loop's thread. It is dropped there too, when it has
    /// ended, was cancelled, or the reactor ends. A panic in it is logged and ends the task alone.
    ///
    /// A task may finish 128 operations (a sleep that is over, a value that is there, a read) at one go, then
    /// it is another's turn: one that always finds something to do does not keep the loop from its other
    /// work.
    #[track_caller]
    pub fn spawn<F: Future + 'static>(&self, future: F) -> Task<F::Output> {
        self.spawn_at(Location::caller(), future)
    }

    /// As [`spawn`](Self::spawn), for a task whose user asked for it there.
    pub(crate) fn spawn_at<F: Future + 'static>(
        &self,
        place: &'static Location<'static>,
        future: F,
    ) -> Task<F::Output> {
        let token = self.inner().and_then(|inner| inner.spawn(future, place));
        Task::new(self, token.unwrap_or(Token::NOBODY))
    }

    /// As [`spawn`](Self::spawn), with a name for the log and for [`tasks`](Self::tasks).
    #[track_caller]
    pub fn spawn_named<F: Future + 'static>(&self, name: &str, future: F) -> Task<F::Output> {
        let task = self.spawn(future);
        task.set_name(name);
        task
    }

    /// The tasks that have not ended, for whoever wonders what the program is doing.
    #[must_use]
    pub fn tasks(&self) -> Vec<TaskInfo> {
        self.inner().map(|inner| inner.task_infos()).unwrap_or_default()
    }
}

impl Reactor {
    /// Runs the loop until `future` has ended, and returns its output. Everything else runs meanwhile, and
    /// stays when this returns: the loop can run again.
    ///
    /// If the reactor is [stopped](Handle::stop), the shutdown is gone through first; the future runs
    /// meanwhile, and if it has not ended by the end of it, it is dropped.
    ///
    /// ```
    /// use std::time::Duration;
    /// use twistor::{Reactor, task};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let answer = reactor.run_until_complete(async {
    ///     task::sleep(Duration::from_millis(1)).await;
    ///     42
    /// })?;
    /// assert_eq!(answer, 42);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run). Or the future ended without an output, and the error carries an
    /// [`Interruption`]: `Panicked`, or `Cancelled` when the reactor stopped before it.
    #[track_caller]
    pub fn run_until_complete<F: Future + 'static>(&self, future: F) -> io::Result<F::Output> {
        let mut task = self.spawn(future);
        let token = task.token;
        let ran = self.run_while(|inner| !inner.has_task_ended(token) || inner.is_stopping());
        if let Err(error) = ran {
            task.cancel();
            return Err(error);
        }
        let _unlimited = budget::lift();
        match Pin::new(&mut task).poll(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(outcome) => outcome.map_err(Into::into),
            Poll::Pending => Err(Interruption::Cancelled.into()),
        }
    }
}

/// Makes a reactor, runs `main` on it until that has ended, and closes the reactor: a whole program in one
/// call.
///
/// `main` is given a [`Handle`]. What it has started and not waited for is dropped when it ends. SIGINT and
/// SIGTERM [stop](Handle::stop) the reactor, and `main` with it.
///
/// ```
/// use std::time::Duration;
///
/// fn main() -> std::io::Result<()> {
///     twistor::run(async |reactor| {
///         reactor.sleep(Duration::from_millis(1)).await;
///         println!("a moment later");
///     })
/// }
/// ```
///
/// # Errors
///
/// The system refuses a poller; and as [`Reactor::run_until_complete`].
#[track_caller]
pub fn run<T: 'static>(main: impl AsyncFnOnce(Handle) -> T + 'static) -> io::Result<T> {
    let reactor = Reactor::new()?;
    let handle = Handle::clone(&reactor);
    reactor.run_until_complete(async move { main(handle).await })
}

/// The reactor that runs on this thread.
#[track_caller]
fn current() -> Handle {
    match Handle::current() {
        Some(handle) => handle,
        None => panic!(
            "no reactor runs on this thread: call this from a task or a hook, or use the method of a `Handle`"
        ),
    }
}

/// Has the current reactor run `future`. See [`Handle::spawn`].
///
/// # Panics
///
/// No reactor runs on this thread.
#[track_caller]
pub fn spawn<F: Future + 'static>(future: F) -> Task<F::Output> {
    current().spawn(future)
}

/// A future that is ready `after` from now. See [`Handle::sleep`].
///
/// # Panics
///
/// No reactor runs on this thread.
#[track_caller]
pub fn sleep(after: Duration) -> Sleep {
    current().sleep(after)
}

/// A future that is ready at a time of the current reactor's clock. See [`Handle::sleep_until`].
///
/// # Panics
///
/// No reactor runs on this thread.
#[track_caller]
pub fn sleep_until(at: Instant) -> Sleep {
    current().sleep_until(at)
}

/// Gives `future` so much time from now; then it is dropped, and [`Interruption::TimedOut`] is the outcome.
/// See [`Handle::timeout`].
///
/// # Panics
///
/// No reactor runs on this thread.
#[track_caller]
pub fn timeout<F: Future>(time: Duration, future: F) -> Timeout<F> {
    current().timeout(time, future)
}

/// Runs `future` as a task that goes on when what waits for it is cancelled. See [`Task::shield`].
///
/// # Panics
///
/// No reactor runs on this thread.
#[track_caller]
pub fn shield<F: Future + 'static>(future: F) -> Shield<F::Output> {
    current().shield(future)
}

/// Lets everything else that is due have its turn first: the task goes on in the next pass of the loop.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// twistor::run(async |_| {
///     for step in 0..3 {
///         println!("a long computation, step {step}");
///         twistor::task::yield_now().await;
///     }
/// })
/// # }
/// ```
pub fn yield_now() -> YieldNow {
    YieldNow { has_yielded: false }
}

/// See [`yield_now`].
#[derive(Debug)]
#[must_use = "a turn is given up only by awaiting it"]
pub struct YieldNow {
    has_yielded: bool,
}

impl Future for YieldNow {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_yielded {
            return Poll::Ready(());
        }
        self.has_yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
