//! What `hyper` (version 1) asks of a runtime: [`HyperTimer`], [`HyperExecutor`], and [`Stream`] as its I/O.
//! Feature `hyper`.
//!
//! hyper wants sleeps that are `Send` and `Sync` although timers belong to one thread. So a sleep has no
//! reactor: it finds its own as the current one of the thread, which it is whenever a task is polled.
//! Elsewhere, where hyper never is but where somebody might take it, it asks the loop for what it wants.

use std::fmt;
use std::future::Future;
use std::io;
use std::mem::replace;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_io::{AsyncBufRead, AsyncWrite};
use hyper::rt::{Executor, ReadBufCursor, Sleep};

use crate::core::wheel::TimerId;
use crate::reactor::handle::Handle;
use crate::reactor::inner::Inner;
use crate::reactor::remote::Inbox;
use crate::reactor::stream::Stream;
use crate::reactor::timers::{Timer, deadline};

/// The reactor's timers for hyper: for `header_read_timeout`, keep-alive of HTTP/2 and the like. Feature
/// `hyper`.
///
/// Its clock is the reactor's, so that in a simulation hyper's time-outs are in simulated time.
///
/// ```
/// use std::time::Duration;
/// use hyper::rt::Timer;
/// use twistor::{HyperTimer, Reactor};
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// let timer = HyperTimer::new(&reactor);
/// reactor.run_until_complete(timer.sleep(Duration::from_millis(1)))
/// # }
/// ```
#[derive(Clone)]
pub struct HyperTimer {
    inbox: Arc<Inbox>,
}

impl HyperTimer {
    /// The timers of this reactor.
    #[must_use]
    pub fn new(reactor: &Handle) -> Self {
        Self { inbox: reactor.remote().inbox }
    }
}

impl hyper::rt::Timer for HyperTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(deadline(self.now(), duration))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(HyperSleep { inbox: Arc::clone(&self.inbox), deadline, timer: None })
    }

    fn now(&self) -> Instant {
        here(&self.inbox).map_or_else(Instant::now, |inner| inner.read_clock())
    }
}

impl fmt::Debug for HyperTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HyperTimer")
    }
}

/// The reactor of this inbox, if this is its thread and it runs.
fn here(inbox: &Arc<Inbox>) -> Option<Rc<Inner>> {
    Handle::current()?.inner().filter(|inner| Arc::ptr_eq(&inner.inbox, inbox))
}

struct HyperSleep {
    inbox: Arc<Inbox>,
    deadline: Instant,
    /// Once it was polled on the loop's thread.
    timer: Option<TimerId>,
}

impl Sleep for HyperSleep {}

impl Future for HyperSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let at = self.deadline;
        let reactor = here(&self.inbox);
        if at <= reactor.as_ref().map_or_else(Instant::now, |inner| inner.read_clock()) {
            return Poll::Ready(());
        }
        let waker = cx.waker().clone();
        match (reactor, self.timer) {
            (Some(inner), Some(id)) if inner.timers.borrow().deadline(id).is_some() => {
                let old =
                    inner.timers.borrow_mut().value_mut(id).map(|timer| replace(timer, Timer::Wake(waker)));
                inner.discard(old);
            }
            (Some(inner), _) => self.timer = Some(inner.add_timer_at(at, Timer::Wake(waker)).id()),
            (None, _) => self.inbox.push_always(Box::new(move |handle| {
                if let Some(inner) = handle.inner() {
                    inner.add_timer_at(at, Timer::Wake(waker));
                }
            })),
        }
        Poll::Pending
    }
}

impl Drop for HyperSleep {
    fn drop(&mut self) {
        let Some(timer) = self.timer else { return };
        match here(&self.inbox) {
            Some(inner) => remove(&inner, timer),
            None => self.inbox.push_always(Box::new(move |handle| {
                if let Some(inner) = handle.inner() {
                    remove(&inner, timer);
                }
            })),
        }
    }
}

fn remove(inner: &Inner, timer: TimerId) {
    let removed = inner.timers.borrow_mut().remove(timer);
    inner.discard(removed);
}

/// Runs hyper's own futures, such as those of HTTP/2, as tasks of the reactor. They need not be `Send`.
/// Feature `hyper`.
#[derive(Clone, Debug)]
pub struct HyperExecutor {
    handle: Handle,
}

impl HyperExecutor {
    /// Tasks of this reactor.
    #[must_use]
    pub fn new(reactor: &Handle) -> Self {
        Self { handle: reactor.clone() }
    }
}

impl<F: Future<Output: 'static> + 'static> Executor<F> for HyperExecutor {
    fn execute(&self, future: F) {
        // Dropped: it goes on by itself.
        drop(self.handle.spawn(future));
    }
}

/// With the feature `hyper`. What hyper reads is copied once, into its own buffer; what it writes waits by
/// the rules of every stream, so that neither side of hyper can fill the memory.
impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let data = ready!(self.as_mut().poll_fill_buf(cx))?;
        let count = data.len().min(buffer.remaining());
        buffer.put_slice(&data[..count]);
        self.consume(count);
        Poll::Ready(Ok(()))
    }
}

/// With the feature `hyper`.
impl hyper::rt::Write for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(self, cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(self, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_close(self, cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write_vectored(self, cx, buffers)
    }
}
