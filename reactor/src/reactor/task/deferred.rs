//! From tasks to Deferreds. The other way needs nothing: a Deferred is a future.

use std::error::Error;
use std::future::Future;

use crate::core::interruption::Interruption;
use crate::reactor::deferred::{Completed, Deferred, Done, Failure, MaybeDeferred};
use crate::reactor::handle::Handle;
use crate::reactor::task::Task;

impl<T: 'static> Task<T> {
    /// The task as a [`Deferred`]: cancelling that cancels the task.
    ///
    /// ```
    /// use twistor::Reactor;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let answer = reactor.spawn(async { 41 }).into_deferred();
    /// answer.map(|answer| answer + 1).on_done(|reactor, answer| {
    ///     assert_eq!(answer, Ok(42));
    ///     reactor.stop();
    /// });
    /// reactor.run()
    /// # }
    /// ```
    #[track_caller]
    pub fn into_deferred(self) -> Deferred<T, Interruption> {
        let (resolver, deferred) = Deferred::new(&self.handle);
        let canceller = self.canceller();
        resolver.on_cancel(move || canceller.cancel());
        self.on_done(move |_, outcome| {
            resolver.resolve(outcome);
        });
        deferred
    }
}

impl<T: 'static, E: Failure> Deferred<T, E> {
    /// Runs a future as a task; its outcome is that of the Deferred, and if it panics or is cancelled, that
    /// is the error. Cancelling the Deferred cancels the task.
    ///
    /// ```
    /// use twistor::{Deferred, Reactor};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let answer = Deferred::from_future(&reactor, async { Ok::<_, String>(42) });
    /// answer.on_done(|reactor, answer| {
    ///     assert_eq!(answer, Ok(42));
    ///     reactor.stop();
    /// });
    /// reactor.run()
    /// # }
    /// ```
    #[track_caller]
    pub fn from_future(handle: &Handle, future: impl Future<Output = Result<T, E>> + 'static) -> Self {
        let (resolver, deferred) = Self::new(handle);
        let task = handle.spawn(future);
        let canceller = task.canceller();
        resolver.on_cancel(move || canceller.cancel());
        task.on_done(move |_, outcome| {
            resolver.resolve(outcome.unwrap_or_else(|interruption| Err(interruption.into())));
        });
        deferred
    }
}

/// A hook that returns a task is over when the task has ended.
impl MaybeDeferred for Task<()> {
    fn when_done(self, done: impl Done) -> Option<Completed> {
        self.on_done(move |handle, outcome| done(handle, outcome.map_err(Into::into)));
        None
    }
}

impl<E: Into<Box<dyn Error>> + 'static> MaybeDeferred for Task<Result<(), E>> {
    fn when_done(self, done: impl Done) -> Option<Completed> {
        self.on_done(move |handle, outcome| {
            done(handle, outcome.map_err(Into::into).and_then(|outcome| outcome.map_err(Into::into)));
        });
        None
    }
}
