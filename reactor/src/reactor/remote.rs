//! The way in from other threads: [`Remote`].

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use crate::core::slots::Token;
use crate::driver::Waker;
use crate::reactor::handle::Handle;

pub(crate) type Message = Box<dyn FnOnce(&Handle) + Send>;

/// Whether the loop has to be woken for a message.
mod attention {
    /// It runs and will look by itself.
    pub(super) const AWAKE: u8 = 0;
    /// It sleeps, or its host does.
    pub(super) const ASLEEP: u8 = 1;
    /// It was woken from this sleep already.
    pub(super) const WOKEN: u8 = 2;
}

struct Messages {
    queue: VecDeque<Message>,
    /// Tasks to be polled.
    woken: Vec<Token>,
    /// `Remote::stop` was called.
    stop: bool,
    closed: bool,
}

/// Messages from other threads on their way to the loop.
pub(crate) struct Inbox {
    messages: Mutex<Messages>,
    /// Whether there may be any: lets the loop look without the lock.
    pending: AtomicBool,
    state: AtomicU8,
    limit: usize,
    /// The loop's, which a reactor never leaves.
    thread: ThreadId,
    /// Nobody's once the reactor is gone: a `Remote` that is kept must not keep a descriptor.
    waker: Mutex<Waker>,
    wake_hook: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Inbox {
    pub(crate) fn new(
        limit: usize,
        waker: Waker,
        wake_hook: Option<Arc<dyn Fn() + Send + Sync>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            messages: Mutex::new(Messages {
                queue: VecDeque::new(),
                woken: Vec::new(),
                stop: false,
                closed: false,
            }),
            pending: AtomicBool::new(false),
            state: AtomicU8::new(attention::ASLEEP),
            limit,
            thread: thread::current().id(),
            waker: Mutex::new(waker),
            wake_hook,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Messages> {
        // Nothing that can panic runs under the lock.
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message in; gives the reason when it does not.
    pub(crate) fn push(&self, make: impl FnOnce() -> Message) -> Result<(), Refusal> {
        {
            let mut messages = self.lock();
            if messages.closed {
                return Err(Refusal::Gone);
            }
            if messages.queue.len() >= self.limit {
                return Err(Refusal::Full);
            }
            messages.queue.push_back(make());
            self.pending.store(true, Ordering::SeqCst);
        }
        self.wake();
        Ok(())
    }

    /// Takes in what must not get lost; no limit applies. Nothing happens once the reactor is gone.
    pub(crate) fn push_always(&self, message: Message) {
        {
            let mut messages = self.lock();
            if messages.closed {
                return;
            }
            messages.queue.push_back(message);
            self.pending.store(true, Ordering::SeqCst);
        }
        self.wake();
    }

    /// A task was woken. Nothing happens once the reactor is gone.
    pub(crate) fn push_woken(&self, task: Token) {
        {
            let mut messages = self.lock();
            if messages.closed {
                return;
            }
            messages.woken.push(task);
            self.pending.store(true, Ordering::SeqCst);
        }
        self.wake();
    }

    fn stop(&self) {
        {
            let mut messages = self.lock();
            if messages.closed {
                return;
            }
            messages.stop = true;
            self.pending.store(true, Ordering::SeqCst);
        }
        self.wake();
    }

    /// Wakes the loop, once per sleep.
    fn wake(&self) {
        if self
            .state
            .compare_exchange(attention::ASLEEP, attention::WOKEN, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
        {
            self.waker.lock().unwrap_or_else(PoisonError::into_inner).wake();
            self.tell_host();
        }
    }

    pub(crate) fn tell_host(&self) {
        if let Some(hook) = &self.wake_hook {
            hook();
        }
    }

    /// The loop is about to sleep; false when it should not, because something is here.
    #[inline]
    pub(crate) fn fall_asleep(&self) -> bool {
        self.state.store(attention::ASLEEP, Ordering::SeqCst);
        !self.pending.load(Ordering::SeqCst)
    }

    #[inline]
    pub(crate) fn wake_up(&self) {
        self.state.store(attention::AWAKE, Ordering::SeqCst);
    }

    #[inline]
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::SeqCst)
    }

    /// What has come, and whether the reactor is to stop. The tasks that were woken are exchanged for
    /// `woken`, which is empty: so neither side allocates again and again.
    pub(crate) fn take(&self, woken: &mut Vec<Token>) -> (VecDeque<Message>, bool) {
        let mut messages = self.lock();
        self.pending.store(false, Ordering::SeqCst);
        std::mem::swap(&mut messages.woken, woken);
        (std::mem::take(&mut messages.queue), std::mem::take(&mut messages.stop))
    }

    /// The reactor is gone: nothing more is taken in. What was not run is returned to be dropped.
    pub(crate) fn close(&self) -> VecDeque<Message> {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Waker::Nobody;
        let mut messages = self.lock();
        messages.closed = true;
        messages.woken = Vec::new();
        std::mem::take(&mut messages.queue)
    }

    fn is_closed(&self) -> bool {
        self.lock().closed
    }
}

/// Why a message was not taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    Full,
    Gone,
}

impl Refusal {
    pub(crate) fn with<T>(self, value: T) -> SendError<T> {
        match self {
            Self::Full => SendError::Full(value),
            Self::Gone => SendError::Gone(value),
        }
    }
}

/// A message that the loop did not take in, and why.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum SendError<T> {
    /// As many messages wait as the limit allows.
    Full(T),
    /// The reactor, or the receiver, is gone.
    Gone(T),
}

impl<T> SendError<T> {
    /// The message.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(value) | Self::Gone(value) => value,
        }
    }

    /// Whether trying again later may help.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_full() { "Full(..)" } else { "Gone(..)" })
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the loop has as many messages waiting as its limit allows; send again later",
            Self::Gone(_) => "the receiver or its reactor is gone",
        })
    }
}

impl<T> Error for SendError<T> {}

/// Why a [blocking call](Remote::blocking_call) brought nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CallError {
    /// As many messages wait as the limit allows.
    Full,
    /// The reactor is gone.
    Gone,
    /// The call panicked, or the reactor was dropped before it came to it.
    Unanswered,
    /// The loop's own thread cannot wait for the loop.
    OwnThread,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the loop has as many messages waiting as its limit allows; call again later",
            Self::Gone => "the reactor is gone",
            Self::Unanswered => "the call panicked, or the reactor ended before it",
            Self::OwnThread => "the loop's own thread would wait for itself; call directly",
        })
    }
}

impl Error for CallError {}

/// A reactor, for other threads: whatever they want done there is done by the loop.
///
/// ```
/// use twistor::Reactor;
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// let remote = reactor.remote();
/// std::thread::spawn(move || {
///     // The closure runs on the loop's thread, where the `Handle` is.
///     remote.call(|handle| handle.stop()).ok();
/// });
/// reactor.run()
/// # }
/// ```
#[derive(Clone)]
pub struct Remote {
    pub(crate) inbox: Arc<Inbox>,
}

impl Remote {
    /// Of a reactor that is gone.
    pub(crate) fn dead() -> Self {
        let inbox = Inbox::new(0, Waker::Nobody, None);
        inbox.close();
        Self { inbox }
    }

    /// Has `f` called by the loop. Calls of one thread are made in order. Never blocks; a sleeping loop is
    /// woken once, however many calls are waiting.
    ///
    /// # Errors
    ///
    /// As many calls are waiting as the limit allows, or the reactor is gone. The closure comes back in the
    /// error.
    pub fn call<F: FnOnce(&Handle) + Send + 'static>(&self, f: F) -> Result<(), SendError<F>> {
        let mut f = Some(f);
        let pushed = self.inbox.push(|| match f.take() {
            Some(f) => Box::new(f),
            None => Box::new(|_| {}),
        });
        match (pushed, f) {
            (Err(refusal), Some(f)) => Err(refusal.with(f)),
            _ => Ok(()),
        }
    }

    /// Has `f` called by the loop, and waits for what it returns.
    ///
    /// ```
    /// use twistor::Reactor;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let remote = reactor.remote();
    /// let asking = std::thread::spawn(move || {
    ///     let connections = remote.blocking_call(|handle| handle.stats().connections);
    ///     remote.stop();
    ///     connections
    /// });
    /// reactor.run()?;
    /// assert_eq!(asking.join().unwrap().unwrap(), 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As many calls are waiting as the limit allows; the reactor is gone, or is dropped before it comes to
    /// this call (one that has stopped and was not dropped may run again, and is waited for); `f` panics; or
    /// this is the loop's own thread, which would wait for itself.
    pub fn blocking_call<R: Send + 'static>(
        &self,
        f: impl FnOnce(&Handle) -> R + Send + 'static,
    ) -> Result<R, CallError> {
        if self.inbox.thread == thread::current().id() && !self.inbox.is_closed() {
            return Err(CallError::OwnThread);
        }
        let (answer, answers) = std::sync::mpsc::sync_channel(1);
        let pushed = self.inbox.push(|| {
            Box::new(move |handle: &Handle| {
                let result = f(handle);
                // Nobody is there to hear it only if that thread is gone.
                let _ = answer.send(result);
            })
        });
        match pushed {
            Ok(()) => answers.recv().map_err(|_| CallError::Unanswered),
            Err(Refusal::Full) => Err(CallError::Full),
            Err(Refusal::Gone) => Err(CallError::Gone),
        }
    }

    /// Asks the reactor to stop, as [`Handle::stop`](crate::Handle::stop) does. No limit applies.
    pub fn stop(&self) {
        self.inbox.stop();
    }

    /// Whether the reactor still exists.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.inbox.is_closed()
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("alive", &self.is_alive()).finish()
    }
}
