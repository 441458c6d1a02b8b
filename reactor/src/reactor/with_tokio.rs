//! Futures that need a tokio runtime, run by this loop: [`Handle::with_tokio`]. Feature `tokio`.
//!
//! What a future of tokio needs is its runtime's context while it is polled and dropped, and somebody who
//! drives the runtime's sockets and timers. [`WithTokio`] enters the context; a thread of the reactor drives,
//! and wakes the future's task through its waker like any other thread. The invariant: the runtime lives in
//! that thread alone and is dropped there, so that no place that drops a reactor can be wrong for dropping a
//! runtime.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::runtime::{Builder, Handle as Runtime};
use tokio::sync::oneshot;

use crate::reactor::handle::Handle;
use crate::reactor::inner::Inner;

/// How long the runtime's end waits for calls that block threads of its own.
const BLOCKING_GRACE: Duration = Duration::from_millis(100);
/// How long the reactor's end waits for the runtime's; nothing can hurry a task that holds its thread.
const GRACE: Duration = Duration::from_millis(500);

/// The runtime of a reactor, which is made when it is first needed.
#[derive(Default)]
pub(crate) enum Tokio {
    #[default]
    NotYet,
    Running(Background),
    /// The reactor is gone, or as good as gone.
    Ended,
}

/// A runtime that a thread drives. Dropping it ends both.
pub(crate) struct Background {
    runtime: Runtime,
    /// Dropping it lets the thread go. `None` once that is done.
    hold: Option<oneshot::Sender<()>>,
    /// Disconnected when the thread has nothing left to do.
    ended: mpsc::Receiver<io::Result<Runtime>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Background {
    fn start() -> io::Result<Self> {
        let (hold, held) = oneshot::channel();
        let (tell, ended) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("twistor-tokio".to_owned()).spawn(move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = tell.send(Err(error));
                    return;
                }
            };
            // Whoever asked waits for this.
            let _ = tell.send(Ok(runtime.handle().clone()));
            // An error says that nobody holds any more.
            let _ = runtime.block_on(held);
            runtime.shutdown_timeout(BLOCKING_GRACE);
            drop(tell);
        })?;
        let runtime = ended.recv().map_err(|_| io::Error::other("its thread has ended"))??;
        Ok(Self { runtime, hold: Some(hold), ended, thread: Some(thread) })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.hold.take());
        if let Err(mpsc::RecvTimeoutError::Timeout) = self.ended.recv_timeout(GRACE) {
            log::warn!("a task holds the thread of the tokio runtime: it is left to end by itself");
        } else if let Some(Err(_)) = self.thread.take().map(thread::JoinHandle::join) {
            log::error!("the thread of the tokio runtime panicked");
        }
    }
}

impl Handle {
    /// Makes `future` one that any task of this loop can wait for although it needs a tokio runtime: those of
    /// `reqwest`, `tokio-postgres`, `tokio::net`, `tokio::time`. Feature `tokio`.
    ///
    /// The future itself runs on this thread, need not be `Send`, and ends with the task that waits for it.
    /// The runtime is made with the first call and belongs to the reactor: one thread, `twistor-tokio`,
    /// drives its sockets and timers, and what the future gives to `tokio::spawn`. It ends with the reactor,
    /// which waits half a second for what blocks it and then leaves it behind with a warning.
    ///
    /// Many of tokio's constructors need the runtime already when they are called: write them inside an
    /// `async` block.
    ///
    /// ```
    /// use std::time::Duration;
    /// use twistor::Reactor;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let waiting = reactor.with_tokio(async {
    ///     tokio::time::sleep(Duration::from_millis(1)).await;
    ///     "awake"
    /// })?;
    /// assert_eq!(reactor.run_until_complete(waiting)?, "awake");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Limits
    ///
    /// - `tokio::task::spawn_local` has no `LocalSet` here: spawn a task of the reactor instead.
    /// - tokio makes its own tasks yield, but not this future: one whose sockets are always ready holds the
    ///   loop. [`yield_now`](crate::task::yield_now) in between, or `tokio::spawn`.
    /// - Each wake-up comes from another thread and costs what [`Remote::call`](crate::Remote::call) costs.
    ///
    /// # Errors
    ///
    /// The system refuses the thread or the runtime's descriptors; the reactor is gone; or it is a simulated
    /// one: the clock and the sockets of tokio would be real there, and no run like another.
    pub fn with_tokio<F: Future>(&self, future: F) -> io::Result<WithTokio<F>> {
        let runtime = self.alive()?.tokio_runtime()?;
        Ok(WithTokio { future: Some(future), runtime })
    }
}

impl Inner {
    fn tokio_runtime(&self) -> io::Result<Runtime> {
        if self.driver.borrow().is_simulated() {
            let text = "a simulated reactor has no tokio runtime: its clock and its sockets would be real";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let mut tokio = self.tokio.borrow_mut();
        match &*tokio {
            Tokio::Running(background) => Ok(background.runtime.clone()),
            Tokio::Ended => Err(io::Error::new(io::ErrorKind::NotConnected, "the reactor is gone")),
            Tokio::NotYet => {
                let started = Background::start().map_err(|error| {
                    io::Error::new(error.kind(), format!("cannot start a tokio runtime: {error}"))
                })?;
                let runtime = started.runtime.clone();
                *tokio = Tokio::Running(started);
                Ok(runtime)
            }
        }
    }

    /// Ends the runtime, and with it everything that was spawned on it. There will be no other.
    pub(crate) fn end_tokio(&self) {
        let tokio = self.tokio.replace(Tokio::Ended);
        // What tokio's tasks hold is dropped on their thread; here it is only waited for.
        drop(tokio);
    }
}

pin_project! {
    /// A future inside the context of the reactor's tokio runtime. Made by [`Handle::with_tokio`].
    ///
    /// It may be polled by anybody, on any thread if the future may; wake-ups come from the runtime's thread.
    /// After the reactor has gone, what still waits for a socket or a timer of tokio panics when it is
    /// polled, as it does whenever a runtime ends before its futures.
    #[must_use = "futures do nothing unless they are awaited"]
    pub struct WithTokio<F> {
        #[pin]
        future: Option<F>,
        runtime: Runtime,
    }

    impl<F> PinnedDrop for WithTokio<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _inside = this.runtime.enter();
            this.future.set(None);
        }
    }
}

impl<F: Future> Future for WithTokio<F> {
    type Output = F::Output;

    /// # Panics
    ///
    /// It has told its output before.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        let _inside = this.runtime.enter();
        let Some(future) = this.future.as_mut().as_pin_mut() else {
            panic!("a future was polled again after it had told its output")
        };
        let output = ready!(future.poll(cx));
        this.future.set(None);
        Poll::Ready(output)
    }
}

impl<F> fmt::Debug for WithTokio<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithTokio").field("is_done", &self.future.is_none()).finish_non_exhaustive()
    }
}
