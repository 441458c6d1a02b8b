//! Async closures as hooks: each is a task that waits for what is to come and handles one after the other.
//!
//! What hooks is registered by the call itself, so that nothing is missed before the task's first turn; it
//! ends with the task, whose future owns it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
#[cfg(unix)]
use std::io;
#[cfg(unix)]
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::reactor::events::Events;
use crate::reactor::handle::Handle;
use crate::reactor::looping::Grid;
use crate::reactor::stats::Counters;
use crate::reactor::task::Task;
use crate::reactor::task::budget;

#[cfg(unix)]
use crate::reactor::descriptor::DescriptorWatch;
#[cfg(unix)]
use crate::reactor::signals::Signal;

/// What has come and is still to be handled.
struct Backlog<E> {
    waiting: VecDeque<E>,
    waker: Option<Waker>,
    is_closed: bool,
    /// One was dropped, which was logged, and not everything is handled since.
    has_dropped: bool,
}

/// The hook's side of a backlog; closes it when it is dropped.
struct Feed<E>(Rc<RefCell<Backlog<E>>>);

/// The task's side of a backlog.
struct Fed<E>(Rc<RefCell<Backlog<E>>>);

fn backlog<E>() -> (Feed<E>, Fed<E>) {
    let shared = Backlog { waiting: VecDeque::new(), waker: None, is_closed: false, has_dropped: false };
    let shared = Rc::new(RefCell::new(shared));
    (Feed(Rc::clone(&shared)), Fed(shared))
}

impl<E> Feed<E> {
    fn push(&self, event: E) {
        self.change(|backlog| backlog.waiting.push_back(event));
    }

    /// Whether so many wait that the next one is to be dropped. Logs that once, until the task has caught up.
    fn is_full(&self, limit: usize, made_at: &Location<'_>) -> bool {
        let mut backlog = self.0.borrow_mut();
        let is_full = backlog.waiting.len() >= limit;
        if is_full && !std::mem::replace(&mut backlog.has_dropped, true) {
            drop(backlog);
            log::error!(
                "a handler of an event set at {made_at} is {limit} events behind: further ones are dropped"
            );
        }
        is_full
    }

    /// Events that tell nothing but that there was one count once.
    #[cfg(unix)]
    fn push_one(&self, event: E) {
        if self.0.borrow().waiting.is_empty() {
            self.push(event);
        }
    }

    fn change(&self, change: impl FnOnce(&mut Backlog<E>)) {
        let waker = {
            let mut backlog = self.0.borrow_mut();
            change(&mut backlog);
            backlog.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<E> Drop for Feed<E> {
    fn drop(&mut self) {
        self.change(|backlog| backlog.is_closed = true);
    }
}

impl<E> Fed<E> {
    /// The next event; `None` when none will come.
    async fn next(&self) -> Option<E> {
        poll_fn(|cx| {
            if self.0.borrow().waiting.is_empty() {
                self.0.borrow_mut().has_dropped = false;
                if self.0.borrow().is_closed {
                    return Poll::Ready(None);
                }
                // Cloned and dropped with nothing borrowed.
                let waker = cx.waker().clone();
                let old = self.0.borrow_mut().waker.replace(waker);
                drop(old);
                return Poll::Pending;
            }
            budget::poll_turn(cx).map(|()| self.0.borrow_mut().waiting.pop_front())
        })
        .await
    }
}

/// Does something when the task is over.
struct AtEnd<F: FnMut()>(F);

impl<F: FnMut()> Drop for AtEnd<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Runs one call of a handler; a panic in it is logged and ends only this call.
async fn contained(handle: &Handle, what: &str, made_at: &Location<'_>, call: impl Future<Output = ()>) {
    let mut call = pin!(call);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx))) {
        Ok(polled) => polled,
        Err(payload) => {
            if let Some(inner) = handle.inner() {
                inner.panicked(&format_args!("{what} set at {made_at}"), payload);
            }
            Poll::Ready(())
        }
    })
    .await;
}

impl Handle {
    /// Runs an async closure as a task: [`spawn`](Self::spawn), for a closure that wants the handle.
    #[track_caller]
    pub fn call_soon_async<T: 'static>(&self, f: impl AsyncFnOnce(Self) -> T + 'static) -> Task<T> {
        let handle = self.clone();
        self.spawn(async move { f(handle).await })
    }

    /// Runs an async closure as a task after a while: never early, measured from now. Cancelling the task
    /// takes back the call as well.
    ///
    /// ```
    /// use std::time::Duration;
    /// use twistor::Reactor;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// reactor.call_later_async(Duration::from_millis(1), async |reactor| {
    ///     println!("a moment later");
    ///     reactor.sleep(Duration::from_millis(1)).await;
    ///     println!("and another");
    ///     reactor.stop();
    /// });
    /// reactor.run()
    /// # }
    /// ```
    #[track_caller]
    pub fn call_later_async<T: 'static>(
        &self,
        after: Duration,
        f: impl AsyncFnOnce(Self) -> T + 'static,
    ) -> Task<T> {
        let (handle, sleep) = (self.clone(), self.sleep(after));
        self.spawn(async move {
            sleep.await;
            f(handle).await
        })
    }

    /// Calls an async closure at regular intervals, the first time after one interval; never while it is
    /// still busy with the call before. It is told how many slots of the grid were skipped for that, as with
    /// [`every`](Self::every). Cancel the task to end it.
    ///
    /// ```
    /// use std::time::Duration;
    /// use twistor::Reactor;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let mut calls = 0;
    /// reactor.every_async(Duration::from_millis(1), async move |reactor, _skipped| {
    ///     reactor.sleep(Duration::from_micros(100)).await;
    ///     calls += 1;
    ///     if calls == 3 {
    ///         reactor.stop();
    ///     }
    /// });
    /// reactor.run()
    /// # }
    /// ```
    #[track_caller]
    pub fn every_async(&self, interval: Duration, mut f: impl AsyncFnMut(Self, u64) + 'static) -> Task<()> {
        let handle = self.clone();
        let mut grid = Grid::new(self.now(), interval);
        self.spawn(async move {
            loop {
                handle.sleep_until(grid.next_deadline()).await;
                f(handle.clone(), grid.take_skipped()).await;
                grid.advance(handle.now());
            }
        })
    }

    /// As [`add_reader`](Self::add_reader), with an async closure: the descriptor is looked at again when the
    /// call before has ended. A panic ends the watch, and so does cancelling the task.
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use std::os::unix::net::UnixStream;
    /// use twistor::Reactor;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let (mut ours, mut theirs) = UnixStream::pair()?;
    /// let reactor = Reactor::new()?;
    /// reactor.add_reader_async(&ours.try_clone()?, async move |reactor| {
    ///     let mut buffer = [0; 100];
    ///     let count = ours.read(&mut buffer).unwrap();
    ///     assert_eq!(&buffer[..count], b"hello");
    ///     reactor.stop();
    /// })?;
    /// theirs.write_all(b"hello")?;
    /// reactor.run()
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`add_reader`](Self::add_reader).
    #[cfg(unix)]
    #[track_caller]
    pub fn add_reader_async(
        &self,
        descriptor: &impl AsFd,
        f: impl AsyncFnMut(Self) + 'static,
    ) -> io::Result<Task<()>> {
        let (feed, fed) = backlog();
        let watch = self.add_reader(descriptor, move |_| feed.push_one(()))?;
        Ok(self.spawn(handle_readiness(self.clone(), watch, fed, f)))
    }

    /// As [`add_reader_async`](Self::add_reader_async), for writing.
    ///
    /// # Errors
    ///
    /// As [`add_reader`](Self::add_reader).
    #[cfg(unix)]
    #[track_caller]
    pub fn add_writer_async(
        &self,
        descriptor: &impl AsFd,
        f: impl AsyncFnMut(Self) + 'static,
    ) -> io::Result<Task<()>> {
        let (feed, fed) = backlog();
        let watch = self.add_writer(descriptor, move |_| feed.push_one(()))?;
        Ok(self.spawn(handle_readiness(self.clone(), watch, fed, f)))
    }

    /// As [`on_signal`](Self::on_signal), with an async closure: deliveries during a call count as one, which
    /// is handled after it. A call that panics is logged, and later signals are handled all the same. Cancel
    /// the task to end it.
    ///
    /// ```no_run
    /// use twistor::{Reactor, Signal, task};
    ///
    /// let reactor = Reactor::new()?;
    /// reactor.on_signal_async(Signal::HUP, async |_| {
    ///     task::sleep(std::time::Duration::from_millis(100)).await;
    ///     println!("reading the configuration again");
    /// })?;
    /// reactor.run()
    /// # ; Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`on_signal`](Self::on_signal).
    #[cfg(unix)]
    #[track_caller]
    pub fn on_signal_async(
        &self,
        signal: Signal,
        mut f: impl AsyncFnMut(Self) + 'static,
    ) -> io::Result<Task<()>> {
        let (feed, fed) = backlog();
        let hook = self.on_signal(signal, move |_| feed.push_one(()))?;
        let (handle, here) = (self.clone(), Location::caller());
        let end = AtEnd(move || {
            hook.remove();
        });
        Ok(self.spawn(async move {
            let _end = end;
            while fed.next().await.is_some() {
                contained(&handle, "a handler of a signal", here, f(handle.clone())).await;
            }
        }))
    }
}

/// Calls `f` when the descriptor is ready, which is not watched meanwhile.
#[cfg(unix)]
async fn handle_readiness(
    handle: Handle,
    watch: DescriptorWatch,
    fed: Fed<()>,
    mut f: impl AsyncFnMut(Handle),
) {
    let watched = watch.clone();
    let _end = AtEnd(move || {
        watched.remove();
    });
    while fed.next().await.is_some() {
        watch.pause();
        f(handle.clone()).await;
        watch.resume();
    }
}

impl<E: Clone + 'static> Events<E> {
    /// As [`on`](Self::on), with an async closure, which is given each event when it has handled the one
    /// before. Events that come meanwhile wait, as far as there is [room](Self::set_backlog_limit). Those
    /// that come when there is none are dropped for this handler, counted in
    /// [`Stats::dropped_events`](crate::Stats::dropped_events), and the log says so once.
    ///
    /// A call that panics is logged, and later events are handled all the same. The task ends when the last
    /// clone of this is gone and everything is handled; cancel it to end it before.
    ///
    /// ```
    /// use std::time::Duration;
    /// use twistor::{Events, Reactor, task};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let orders = Events::new(&reactor);
    /// orders.on_async(async |reactor, order: &str| {
    ///     println!("begun: {order}");
    ///     task::sleep(Duration::from_millis(1)).await;
    ///     println!("done: {order}");
    ///     if order == "tea" {
    ///         reactor.stop();
    ///     }
    /// });
    /// orders.emit("coffee");
    /// orders.emit("tea");
    /// reactor.run()
    /// # }
    /// ```
    #[track_caller]
    pub fn on_async(&self, mut f: impl AsyncFnMut(Handle, E) + 'static) -> Task<()> {
        let (feed, fed) = backlog();
        let (handle, here) = (self.handle().clone(), Location::caller());
        let limit = Rc::clone(self.backlog_limit());
        let subscription = self.on(move |handle, event: &E| {
            if !feed.is_full(limit.get(), here) {
                feed.push(event.clone());
            } else if let Some(inner) = handle.inner() {
                Counters::bump(&inner.counters.dropped_events);
            }
        });
        let end = AtEnd(move || {
            subscription.cancel();
        });
        self.handle().spawn(async move {
            let _end = end;
            while let Some(event) = fed.next().await {
                contained(&handle, "a handler of an event", here, f(handle.clone(), event)).await;
            }
        })
    }
}
