//! What cancels, and what keeps from being cancelled: [`Timeout`] and [`Shield`].

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;

use crate::core::interruption::Interruption;
use crate::reactor::handle::Handle;
use crate::reactor::task::{Sleep, Task};

pin_project! {
    /// A future that is given so much time. Made by [`timeout`](crate::task::timeout) and
    /// [`Handle::timeout`].
    #[must_use = "time passes only for who waits"]
    pub struct Timeout<F> {
        #[pin]
        future: Option<F>,
        sleep: Sleep,
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Interruption>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(future) = this.future.as_mut().as_pin_mut() else {
            return Poll::Ready(Err(Interruption::TimedOut));
        };
        if let Poll::Ready(output) = future.poll(cx) {
            this.future.set(None);
            return Poll::Ready(Ok(output));
        }
        // Not by the budget: a future that uses it up every time must not escape.
        if this.sleep.poll_unbudgeted(cx).is_ready() {
            this.future.set(None);
            return Poll::Ready(Err(Interruption::TimedOut));
        }
        Poll::Pending
    }
}

impl<F> fmt::Debug for Timeout<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeout").field("deadline", &self.sleep.deadline()).finish_non_exhaustive()
    }
}

/// A task that goes on when what waits for it is cancelled. Made by [`Task::shield`] and
/// [`shield`](crate::task::shield).
#[derive(Debug)]
#[must_use = "awaiting it is what it is for; dropping it lets the task go on by itself"]
pub struct Shield<T: 'static> {
    /// `None` once it was let go.
    task: Option<Task<T>>,
}

impl<T: 'static> Shield<T> {
    /// The task, which is not shielded any more.
    #[must_use]
    pub fn into_task(mut self) -> Option<Task<T>> {
        self.task.take()
    }
}

impl<T: 'static> Future for Shield<T> {
    type Output = Result<T, Interruption>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.task {
            Some(task) => Pin::new(task).poll(cx),
            None => Poll::Ready(Err(Interruption::Dropped)),
        }
    }
}

impl<T: 'static> Drop for Shield<T> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.detach();
        }
    }
}

impl<T: 'static> Task<T> {
    /// To be awaited in place of the task: dropping what waits for it does not cancel the task.
    ///
    /// ```
    /// use std::time::Duration;
    /// use twistor::{Interruption, task};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// twistor::run(async |reactor| {
    ///     let saving = reactor.spawn(async {
    ///         task::sleep(Duration::from_millis(5)).await;
    ///         println!("saved");
    ///     });
    ///     let impatient = task::timeout(Duration::from_millis(1), saving.shield());
    ///     assert_eq!(impatient.await, Err(Interruption::TimedOut));
    ///     // It is still being saved.
    ///     assert_eq!(reactor.stats().tasks, 2);
    /// })
    /// # }
    /// ```
    pub fn shield(self) -> Shield<T> {
        Shield { task: Some(self) }
    }
}

impl Handle {
    /// Gives `future` so much time from now; then it is dropped.
    ///
    /// ```
    /// use std::time::Duration;
    /// use twistor::Interruption;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// twistor::run(async |reactor| {
    ///     let never = reactor.timeout(Duration::from_millis(1), std::future::pending::<()>());
    ///     assert_eq!(never.await, Err(Interruption::TimedOut));
    ///     let at_once = reactor.timeout(Duration::ZERO, async { 42 });
    ///     assert_eq!(at_once.await, Ok(42));
    /// })
    /// # }
    /// ```
    pub fn timeout<F: Future>(&self, time: Duration, future: F) -> Timeout<F> {
        Timeout { future: Some(future), sleep: self.sleep(time) }
    }

    /// Runs `future` as a task that goes on when what waits for it is cancelled. See [`Task::shield`].
    #[track_caller]
    pub fn shield<F: Future + 'static>(&self, future: F) -> Shield<F::Output> {
        self.spawn(future).shield()
    }
}
