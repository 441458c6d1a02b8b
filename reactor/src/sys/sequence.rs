//! [`Sequence`]: jobs for a pool that must run one after the other, in their order.
//!
//! At most one of them is with the pool at a time, so that a sequence that is stuck keeps one thread and no
//! more. The invariant: while there are jobs, exactly one [`Step`] exists. It is what the pool runs; one that
//! is dropped without having run is a pool that ended, and takes the jobs with it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sys::thread_pool::{Job, JobId, NotTaken, ThreadPool, WeakPool};

/// Clones are the same sequence.
#[derive(Clone)]
pub(crate) struct Sequence {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    pool: WeakPool,
    /// Jobs that may wait for the one that runs.
    limit: usize,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<(JobId, Job)>,
    next_id: JobId,
    has_step: bool,
}

impl Sequence {
    /// No jobs yet. As many may wait here as in the pool itself.
    pub(crate) fn new(pool: &ThreadPool) -> Self {
        let shared =
            Shared { state: Mutex::default(), pool: pool.downgrade(), limit: pool.queue_limit().max(1) };
        Self { shared: Arc::new(shared) }
    }

    /// Queues a job behind the others.
    pub(crate) fn push(&self, pool: &ThreadPool, job: Job) -> Result<JobId, NotTaken> {
        let (id, needs_step) = {
            let mut state = self.shared.lock();
            if state.jobs.len() >= self.shared.limit {
                return Err(NotTaken);
            }
            let id = state.next_id;
            state.next_id += 1;
            state.jobs.push_back((id, job));
            (id, !std::mem::replace(&mut state.has_step, true))
        };
        if needs_step {
            // What is refused is dropped, and takes back that there is a step.
            let step = Step(Some(Arc::clone(&self.shared)));
            pool.push(Box::new(move || step.run()))?;
        }
        Ok(id)
    }

    /// Takes back a job that has not begun.
    pub(crate) fn take_back(&self, id: JobId) -> Option<Job> {
        let mut state = self.shared.lock();
        let place = state.jobs.iter().position(|(waiting, _)| *waiting == id)?;
        state.jobs.remove(place).map(|(_, job)| job)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No user code runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job; none ends the step.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        let next = state.jobs.pop_front();
        state.has_step = next.is_some();
        next.map(|(_, job)| job)
    }
}

/// The turn of a sequence: it runs until no job is left, or the pool is ending.
struct Step(Option<Arc<Shared>>);

impl Step {
    fn run(mut self) {
        while let Some(shared) = &self.0
            && shared.pool.is_alive()
        {
            let Some(job) = shared.next() else {
                self.0 = None;
                return;
            };
            // A job catches its own panic. What it leaves behind may have another, in a destructor.
            if let Err(payload) = catch_unwind(AssertUnwindSafe(job)) {
                let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
            }
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        // The pool is ending, or refused it.
        if let Some(shared) = self.0.take() {
            let jobs = {
                let mut state = shared.lock();
                state.has_step = false;
                std::mem::take(&mut state.jobs)
            };
            for (_, job) in jobs {
                let _ = catch_unwind(AssertUnwindSafe(|| drop(job)));
            }
        }
    }
}
