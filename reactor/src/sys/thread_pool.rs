//! [`ThreadPool`]: a bounded queue of jobs and the threads that work it off. Knows no reactor.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A thread that has had nothing to do for this long ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Jobs that may wait.
const QUEUE_LIMIT: usize = 1024;
/// The fewest and the most threads of a pool whose size nobody chose.
const USUAL_SIZE: (usize, usize) = (4, 32);

/// How long the end of a pool that leaves stuck threads behind waits for them.
const GRACE: Duration = Duration::from_millis(100);

/// Names one job of a pool.
pub(crate) type JobId = u64;

/// Work for another thread. It sees to its own result, and to its own panics.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Threads for what would hold the loop: computing, and calls that block.
///
/// A pool starts threads on demand, up to its size, and lets those go that have had nothing to do for ten
/// seconds. Jobs beyond what the threads can take wait in a bounded queue. Clones are the same pool. When the
/// last one is dropped, jobs that have not begun are dropped, and those that have are waited for.
///
/// Every reactor has one for [`Handle::defer_to_thread`](crate::Handle::defer_to_thread); a pool of its own
/// suits what must not wait behind that, or must not take all of it.
///
/// ```
/// use twistor::{Reactor, ThreadPool};
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// let one_at_a_time = ThreadPool::new(1);
/// one_at_a_time.defer(&reactor, || (1..=20_u64).product::<u64>()).on_done(|reactor, product| {
///     assert_eq!(product.unwrap(), 2_432_902_008_176_640_000);
///     reactor.stop();
/// });
/// reactor.run()
/// # }
/// ```
#[derive(Clone)]
pub struct ThreadPool {
    owner: Arc<Owner>,
}

/// Ends the pool when its last clone is dropped. The threads themselves share only what is inside.
struct Owner {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Rung when a job has come, or the end.
    bell: Condvar,
    /// Rung when a thread ends.
    ended: Condvar,
    size: usize,
    queue_limit: usize,
    end: End,
}

/// What the end of a pool does about jobs that have begun.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Waits for them.
    Join,
    /// Waits for them a moment, then leaves their threads to themselves: nothing can hurry them.
    Leave,
}

struct State {
    jobs: VecDeque<(JobId, Job)>,
    next_id: JobId,
    threads: Vec<JoinHandle<()>>,
    running: usize,
    idle: usize,
    is_closed: bool,
}

/// A job was not taken: as many wait as may, or no thread could be started and there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NotTaken;

/// A pool that does not live longer because of this.
pub(crate) struct WeakPool {
    owner: Weak<Owner>,
}

impl WeakPool {
    pub(crate) fn upgrade(&self) -> Option<ThreadPool> {
        self.owner.upgrade().map(|owner| ThreadPool { owner })
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.owner.strong_count() > 0
    }
}

impl ThreadPool {
    /// A pool of at most so many threads (at least one), where 1024 jobs may wait.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self::with_queue(threads, QUEUE_LIMIT)
    }

    /// A pool of at most so many threads (at least one), where so many jobs may wait for one to be free.
    #[must_use]
    pub fn with_queue(threads: usize, waiting_jobs: usize) -> Self {
        Self::ending(threads, waiting_jobs, End::Join)
    }

    /// A pool for calls that may be stuck for long and cannot be hurried. When the last clone is dropped,
    /// threads that do not come back within a moment are left to end by themselves.
    pub(crate) fn leaving_stuck_threads(threads: usize) -> Self {
        Self::ending(threads, QUEUE_LIMIT, End::Leave)
    }

    fn ending(threads: usize, waiting_jobs: usize, end: End) -> Self {
        let state = State {
            jobs: VecDeque::new(),
            next_id: 0,
            threads: Vec::new(),
            running: 0,
            idle: 0,
            is_closed: false,
        };
        let shared = Shared {
            state: Mutex::new(state),
            bell: Condvar::new(),
            ended: Condvar::new(),
            size: threads.max(1),
            queue_limit: waiting_jobs,
            end,
        };
        Self { owner: Arc::new(Owner { shared: Arc::new(shared) }) }
    }

    /// As many threads as the machine has processors, within reason.
    pub(crate) fn usual() -> Self {
        let processors = thread::available_parallelism().map_or(USUAL_SIZE.0, NonZero::get);
        Self::new(processors.clamp(USUAL_SIZE.0, USUAL_SIZE.1))
    }

    /// The most threads that it has at once.
    #[must_use]
    pub fn size(&self) -> usize {
        self.owner.shared.size
    }

    /// How many threads it has now.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.owner.shared.lock().running
    }

    /// How many jobs wait for a thread.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.owner.shared.lock().jobs.len()
    }

    /// The most jobs that wait for a thread.
    pub(crate) fn queue_limit(&self) -> usize {
        self.owner.shared.queue_limit
    }

    pub(crate) fn downgrade(&self) -> WeakPool {
        WeakPool { owner: Arc::downgrade(&self.owner) }
    }

    /// Queues a job for a thread, and starts one if none is free.
    pub(crate) fn push(&self, job: Job) -> Result<JobId, NotTaken> {
        let shared = &self.owner.shared;
        let (result, failure) = {
            let mut state = shared.lock();
            // What a free thread is about to take does not wait.
            let free = state.idle + (shared.size - state.running);
            if state.jobs.len() >= shared.queue_limit.saturating_add(free) {
                return Err(NotTaken);
            }
            let failure = if state.jobs.len() >= state.idle && state.running < shared.size {
                shared.start_thread(&mut state).err()
            } else {
                None
            };
            let result = if state.running == 0 { Err(NotTaken) } else { Ok(state.add(job)) };
            (result, failure)
        };
        if let Some(error) = failure {
            log::warn!("the pool cannot start a thread: {error}");
        }
        shared.bell.notify_one();
        result
    }

    /// Queues a job for [`take_first`](Self::take_first).
    pub(crate) fn push_without_thread(&self, job: Job) -> Result<JobId, NotTaken> {
        let shared = &self.owner.shared;
        let mut state = shared.lock();
        if state.jobs.len() >= shared.queue_limit.saturating_add(shared.size) {
            return Err(NotTaken);
        }
        Ok(state.add(job))
    }

    /// The first of the jobs that wait, for whoever does it instead of a thread.
    pub(crate) fn take_first(&self) -> Option<Job> {
        self.owner.shared.lock().jobs.pop_front().map(|(_, job)| job)
    }

    /// Takes back a job that has not begun.
    pub(crate) fn take_back(&self, id: JobId) -> Option<Job> {
        let mut state = self.owner.shared.lock();
        let place = state.jobs.iter().position(|(waiting, _)| *waiting == id)?;
        state.jobs.remove(place).map(|(_, job)| job)
    }
}

impl State {
    fn add(&mut self, job: Job) -> JobId {
        let id = self.next_id;
        self.next_id += 1;
        self.jobs.push_back((id, job));
        id
    }
}

/// A thread of the pool, as long as it lives.
struct Running<'s>(&'s Shared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
        self.0.ended.notify_all();
    }
}

impl Shared {
    fn start_thread(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        let worker = Arc::clone(self);
        let thread = thread::Builder::new().name("twistor-pool".to_owned()).spawn(move || worker.work())?;
        state.threads.retain(|thread| !thread.is_finished());
        state.threads.push(thread);
        state.running += 1;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No user code runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no thread runs any more, soon enough.
    fn all_end_within(&self, grace: Duration) -> bool {
        let state = self.lock();
        let waited = self.ended.wait_timeout_while(state, grace, |state| state.running > 0);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.running == 0
    }

    /// The life of a thread.
    fn work(&self) {
        let _running = Running(self);
        loop {
            let Some(job) = self.next_job() else { return };
            // A job catches its own panic. What it leaves behind may have another, also in a destructor.
            if let Err(payload) = catch_unwind(AssertUnwindSafe(job)) {
                let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
            }
        }
    }

    /// Waits for a job; `None` when this thread is not needed any more.
    fn next_job(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some((_, job)) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.is_closed {
                return None;
            }
            state.idle += 1;
            let (woken, wait) =
                self.bell.wait_timeout(state, IDLE_TIMEOUT).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if wait.timed_out() && state.jobs.is_empty() {
                return None;
            }
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let (jobs, threads) = {
            let mut state = self.shared.lock();
            state.is_closed = true;
            (std::mem::take(&mut state.jobs), std::mem::take(&mut state.threads))
        };
        self.shared.bell.notify_all();
        for (_, job) in jobs {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(job)));
        }
        if self.shared.end == End::Leave && !self.shared.all_end_within(GRACE) {
            log::warn!("a thread of a pool is stuck; it is left to end by itself");
            return;
        }
        for thread in threads {
            // The last clone may have been in a job: its thread cannot wait for itself.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadPool")
            .field("size", &self.size())
            .field("threads", &self.threads())
            .field("waiting", &self.waiting())
            .finish()
    }
}
