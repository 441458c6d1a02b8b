//! How much of the loop's time a task may take at one go: so many operations of the futures that it is made
//! of.
//!
//! The count is the thread's, as only one task is polled there at a time; one that runs another reactor lends
//! it none.

use std::cell::Cell;
use std::task::{Context, Poll};

/// Operations that the futures of a task may finish in one poll before it is another's turn.
const TURN: u64 = 128;
/// What is not polled by the loop is not limited: nobody counts as far as that.
const UNLIMITED: u64 = u64::MAX;

thread_local! {
    /// Operations that are left in this turn.
    static LEFT: Cell<u64> = const { Cell::new(UNLIMITED) };
}

/// Puts back what was left before.
pub(crate) struct Outer(u64);

impl Drop for Outer {
    fn drop(&mut self) {
        LEFT.set(self.0);
    }
}

/// Polls a task: it has one turn.
#[inline]
pub(super) fn with_a_turn<R>(poll: impl FnOnce() -> R) -> R {
    let _outer = Outer(LEFT.replace(TURN));
    poll()
}

/// Lifts the limit: what is polled from here on is no part of a task.
pub(crate) fn lift() -> Outer {
    Outer(LEFT.replace(UNLIMITED))
}

/// Called by every future that could go on at once, ahead of doing so: `Pending`, with the task woken again,
/// when the task has had its turn.
#[inline]
pub(crate) fn poll_turn(cx: &Context<'_>) -> Poll<()> {
    match LEFT.get() {
        0 => its_turn_is_over(cx),
        left => {
            LEFT.set(left - 1);
            Poll::Ready(())
        }
    }
}

#[cold]
fn its_turn_is_over(cx: &Context<'_>) -> Poll<()> {
    cx.waker().wake_by_ref();
    Poll::Pending
}
