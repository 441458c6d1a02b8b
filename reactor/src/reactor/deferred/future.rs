//! A Deferred as a future, so that tasks wait for it with `.await`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::Deferred;
use crate::reactor::task::budget;

/// Resolves to the outcome. A Deferred that is dropped while a task waits for it is cancelled; see
/// [`shield`](Deferred::shield).
///
/// # Panics
///
/// If it is polled again after it was ready.
impl<T: 'static, E: 'static> Future for Deferred<T, E> {
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let source = self.source();
        if !source.is_pending() {
            ready!(budget::poll_turn(context));
        }
        let polled = source.poll(context);
        self.is_awaited = polled.is_pending();
        polled
    }
}
