//! Work on other threads whose result comes home: [`Handle::defer_to_thread`], [`ThreadPool::defer`].

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use crate::core::slots::Token;
use crate::reactor::deferred::{Deferred, Resolver};
use crate::reactor::handle::Handle;
use crate::reactor::inner::{Inner, panic_text};
use crate::sys::thread_pool::{NotTaken, ThreadPool};

/// Why a job for another thread brought no result.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum JobError {
    /// It panicked, with this text.
    Panicked(String),
    /// [`Deferred::cancel`] was called. If the job had begun, it went on to its end for nothing.
    Cancelled,
    /// As many jobs wait as the pool allows, or no thread can be started.
    Full,
    /// The pool or the reactor is on its way out.
    Gone,
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked(text) => write!(f, "the job panicked: {text}"),
            Self::Cancelled => f.write_str("the job was cancelled"),
            Self::Full => f.write_str("the thread pool has as many jobs waiting as it may; try again later"),
            Self::Gone => f.write_str("the thread pool or its reactor is gone"),
        }
    }
}

impl Error for JobError {}

impl Handle {
    /// Runs `job` on a thread of the reactor's own pool: computing, or calls that block. Its result comes back through
    /// the loop.
    ///
    /// How many threads there are is said to [`ReactorBuilder::threads`](crate::ReactorBuilder::threads). In a
    /// simulation there are none: the loop itself runs the job, a little later.
    ///
    /// ```
    /// use twistor::Reactor;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// reactor.defer_to_thread(|| std::fs::read_to_string("/etc/hostname")).on_done(|reactor, name| {
    ///     if let Ok(Ok(name)) = name {
    ///         println!("this is {}", name.trim());
    ///     }
    ///     reactor.stop();
    /// });
    /// reactor.run()
    /// # }
    /// ```
    pub fn defer_to_thread<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Deferred<T, JobError> {
        match self.inner() {
            Some(inner) => {
                let pool = inner.thread_pool().clone();
                defer(&inner, &pool, job)
            }
            None => gone(self),
        }
    }
}

impl ThreadPool {
    /// Runs `job` on a thread of this pool. Its result comes back through the reactor's loop.
    pub fn defer<T: Send + 'static>(
        &self,
        reactor: &Handle,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Deferred<T, JobError> {
        match reactor.inner() {
            Some(inner) => defer(&inner, self, job),
            None => gone(reactor),
        }
    }
}

fn gone<T: 'static>(handle: &Handle) -> Deferred<T, JobError> {
    let (resolver, deferred) = Deferred::new(handle);
    resolver.resolve(Err(JobError::Gone));
    deferred
}

fn defer<T: Send + 'static>(
    inner: &Inner,
    pool: &ThreadPool,
    job: impl FnOnce() -> T + Send + 'static,
) -> Deferred<T, JobError> {
    let (resolver, deferred) = Deferred::<T, JobError>::new(&inner.handle);
    let place = Rc::new(Cell::new(None));
    let (cancelled, cancelled_pool, handle) = (Rc::clone(&place), pool.clone(), inner.handle.clone());
    let token = inner.jobs.borrow_mut().insert_with(|token| {
        resolver.on_cancel(move || {
            // Dropped here, on the loop's thread, if it has not begun.
            drop(cancelled.get().and_then(|id| cancelled_pool.take_back(id)));
            finish::<T>(&handle, token, Err(JobError::Cancelled));
        });
        Box::new(resolver)
    });
    let Some(token) = token else { return gone(&inner.handle) };
    let home = inner.handle.remote().inbox;
    let task = move || {
        let outcome = catch_unwind(AssertUnwindSafe(job)).map_err(|payload| {
            let text = panic_text(&*payload).to_owned();
            // What somebody panicked with may panic again when it is dropped.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
            JobError::Panicked(text)
        });
        home.push_always(Box::new(move |handle| finish(handle, token, outcome)));
    };
    if inner.driver.borrow().is_simulated() {
        let delay = Duration::from_micros(inner.random.borrow_mut().below(1000));
        inner.handle.call_later(delay, move |_| task());
        return deferred;
    }
    match pool.push(Box::new(task)) {
        Ok(id) => place.set(Some(id)),
        Err(NotTaken::Closed) => finish::<T>(&inner.handle, token, Err(JobError::Gone)),
        Err(NotTaken::Full | NotTaken::NoThread) => finish::<T>(&inner.handle, token, Err(JobError::Full)),
    }
    deferred
}

/// Resolves the Deferred of a job, unless that was done before.
fn finish<T: 'static>(handle: &Handle, token: Token, outcome: Result<T, JobError>) {
    let Some(inner) = handle.inner() else { return };
    let job = inner.jobs.borrow_mut().remove(token);
    if let Some(resolver) = job.and_then(|job| job.downcast::<Resolver<T, JobError>>().ok()) {
        if let Err(JobError::Panicked(text)) = &outcome {
            log::error!("a job on another thread panicked: {text}");
        }
        resolver.resolve(outcome);
    }
}

impl Inner {
    fn thread_pool(&self) -> &ThreadPool {
        self.thread_pool.get_or_init(|| match self.config.threads {
            Some(threads) => ThreadPool::new(threads),
            None => ThreadPool::usual(),
        })
    }
}
