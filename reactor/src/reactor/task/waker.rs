//! How a task is woken: from its own loop by an entry in the callback queue, from everywhere else through the
//! inbox.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use crate::core::slots::Token;
use crate::reactor::handle;
use crate::reactor::remote::Inbox;

/// What the wakers of one task share. It may outlive the task and the reactor: then waking does nothing.
pub(super) struct TaskWaker {
    inbox: Arc<Inbox>,
    token: Token,
    /// The task is queued already, or about to be.
    queued: AtomicBool,
}

impl TaskWaker {
    /// Of a task that is queued for the first time.
    pub(super) fn new(inbox: Arc<Inbox>, token: Token) -> Self {
        Self { inbox, token, queued: AtomicBool::new(true) }
    }

    /// Hands it to another task; nobody may hold it but the reactor.
    pub(super) fn reuse(&mut self, token: Token) {
        self.token = token;
        *self.queued.get_mut() = true;
    }

    /// Whether the caller has to queue the task.
    pub(super) fn claim(&self) -> bool {
        !self.queued.swap(true, Ordering::AcqRel)
    }

    /// The task is about to be polled: what happens from here on has to queue it again. What happened before
    /// is seen by the poll.
    pub(super) fn release(&self) {
        self.queued.swap(false, Ordering::AcqRel);
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.claim() && !handle::queue_task_if_current(&self.inbox, self.token) {
            self.inbox.push_woken(self.token);
        }
    }
}
