//! Work on other threads whose result comes home: [`Handle::defer_to_thread`], [`ThreadPool::defer`].

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::core::interruption::Interruption;
use crate::core::slots::Token;
use crate::reactor::deferred::{Deferred, Resolver};
use crate::reactor::handle::Handle;
use crate::reactor::inner::{Inner, panic_text};
use crate::reactor::remote::Inbox;
use crate::sys::sequence::Sequence;
use crate::sys::thread_pool::ThreadPool;

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
    /// What waited for the job has ended for this reason.
    Interrupted(Interruption),
}

impl From<Interruption> for JobError {
    fn from(interruption: Interruption) -> Self {
        match interruption {
            Interruption::Cancelled => Self::Cancelled,
            Interruption::Panicked(text) => Self::Panicked(text),
            other => Self::Interrupted(other),
        }
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked(text) => write!(f, "the job panicked: {text}"),
            Self::Cancelled => f.write_str("the job was cancelled"),
            Self::Full => f.write_str("the thread pool has as many jobs waiting as it may; try again later"),
            Self::Gone => f.write_str("the thread pool or its reactor is gone"),
            Self::Interrupted(interruption) => write!(f, "the job: {interruption}"),
        }
    }
}

impl Error for JobError {}

impl Handle {
    /// Runs `job` on a thread of the reactor's own pool: computing, or calls that block. Its result comes
    /// back through the loop.
    ///
    /// How many threads there are is said to [`ReactorBuilder::threads`](crate::ReactorBuilder::threads). In
    /// a simulation there are none: the loop itself runs the jobs, one at a time and up to a millisecond
    /// later.
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
    #[track_caller]
    pub fn defer_to_thread<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Deferred<T, JobError> {
        match self.inner() {
            Some(inner) => {
                let pool = inner.thread_pool().clone();
                defer(&inner, &pool, None, job)
            }
            None => gone(self),
        }
    }
}

impl ThreadPool {
    /// Runs `job` on a thread of this pool. Its result comes back through the reactor's loop.
    #[track_caller]
    pub fn defer<T: Send + 'static>(
        &self,
        reactor: &Handle,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Deferred<T, JobError> {
        match reactor.inner() {
            Some(inner) => defer(&inner, self, None, job),
            None => gone(reactor),
        }
    }
}

#[track_caller]
fn gone<T: 'static>(handle: &Handle) -> Deferred<T, JobError> {
    Deferred::ready(handle, Err(JobError::Gone))
}

/// Runs a job on a thread of `pool`, in its order in `sequence` if it belongs to one.
#[track_caller]
pub(crate) fn defer<T: Send + 'static>(
    inner: &Inner,
    pool: &ThreadPool,
    sequence: Option<&Sequence>,
    job: impl FnOnce() -> T + Send + 'static,
) -> Deferred<T, JobError> {
    let (resolver, deferred) = Deferred::<T, JobError>::new(&inner.handle);
    let is_simulated = inner.driver.borrow().is_simulated();
    // A simulated pool runs its jobs in their order anyway.
    let sequence = sequence.filter(|_| !is_simulated);
    let place = Rc::new(Cell::new(None));
    // Weak: a Deferred that somebody keeps must not keep the pool.
    let (cancelled, weak_pool, handle) = (Rc::clone(&place), pool.downgrade(), inner.handle.clone());
    let within = sequence.cloned();
    let token = inner.jobs.borrow_mut().insert_with(|token| {
        resolver.on_cancel(move || {
            let is_cancelled = finish::<T>(&handle, token, Err(JobError::Cancelled));
            // Dropped here, on the loop's thread, if it has not begun.
            let job = cancelled.get().and_then(|id| match &within {
                Some(sequence) => sequence.take_back(id),
                None => weak_pool.upgrade()?.take_back(id),
            });
            if let Some(inner) = handle.inner() {
                inner.discard(job);
            }
            is_cancelled
        });
        Box::new(resolver)
    });
    let Some(token) = token else { return gone(&inner.handle) };
    let home = Homeward::<T> { inbox: inner.handle.remote().inbox, token, outcome: Err(JobError::Gone) };
    let task = Box::new(move || {
        let mut home = home;
        home.outcome = catch_unwind(AssertUnwindSafe(job)).map_err(|payload| {
            let text = panic_text(&*payload).to_owned();
            // What somebody panicked with may panic again when it is dropped.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
            JobError::Panicked(text)
        });
    });
    let taken = match sequence {
        Some(sequence) => sequence.push(pool, task),
        None if is_simulated => pool.push_without_thread(task),
        None => pool.push(task),
    };
    match taken {
        Ok(id) => place.set(Some(id)),
        Err(_) => {
            // What the pool gave up has come home as if the pool were gone; this is heard first.
            finish::<T>(&inner.handle, token, Err(JobError::Full));
            return deferred;
        }
    }
    if is_simulated {
        // The loop works the queue off, one job at a time and in their order, as one thread would.
        let delay = Duration::from_micros(inner.random.borrow_mut().below(1000));
        let mut turn = Turn { pool: Some(pool.clone()) };
        inner.handle.call_later(delay, move |_| {
            if let Some(job) = turn.pool.take().and_then(|pool| pool.take_first()) {
                job();
            }
        });
    }
    deferred
}

/// In a simulation: the time at which a job is done. A stop drops it, and with it a job that will have no
/// other.
struct Turn {
    /// `None` once it was taken.
    pool: Option<ThreadPool>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.pool.take().and_then(|pool| pool.take_first()));
    }
}

/// The outcome of a job on its way to the loop. It arrives however the job ends; one that is dropped without
/// having run says that its pool is gone.
struct Homeward<T: Send + 'static> {
    inbox: Arc<Inbox>,
    token: Token,
    outcome: Result<T, JobError>,
}

impl<T: Send + 'static> Drop for Homeward<T> {
    fn drop(&mut self) {
        let (token, outcome) = (self.token, std::mem::replace(&mut self.outcome, Err(JobError::Gone)));
        self.inbox.push_always(Box::new(move |handle| {
            finish(handle, token, outcome);
        }));
    }
}

/// Resolves the Deferred of a job. False when that was done before.
fn finish<T: 'static>(handle: &Handle, token: Token, outcome: Result<T, JobError>) -> bool {
    let Some(inner) = handle.inner() else { return false };
    let job = inner.jobs.borrow_mut().remove(token);
    let Some(resolver) = job.and_then(|job| job.downcast::<Resolver<T, JobError>>().ok()) else {
        return false;
    };
    if let Err(JobError::Panicked(text)) = &outcome {
        log::error!("a job on another thread panicked: {text}");
    }
    resolver.resolve(outcome)
}

impl Inner {
    fn thread_pool(&self) -> &ThreadPool {
        self.thread_pool.get_or_init(|| match self.config.threads {
            Some(threads) => ThreadPool::new(threads),
            None => ThreadPool::usual(),
        })
    }
}
