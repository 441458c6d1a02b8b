//! Everything a reactor owns, behind short borrows.
//!
//! The invariant that makes every hook free to call anything: no `RefCell` here is borrowed while user code
//! runs, and user values are dropped only while nothing is borrowed.

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use crate::core::pool::Pool;
use crate::core::queue::Queue;
use crate::core::random::Generator;
use crate::core::slots::{Slots, Token};
use crate::core::wheel::Wheel;
use crate::driver::{DatagramBatch, Driver, Interest};
use crate::protocol::Protocol;
use crate::reactor::builder::{Config, PanicPolicy};
use crate::reactor::connecting::{Attempt, AttemptId};
use crate::reactor::cooperate::Cooperations;
use crate::reactor::datagrams::DatagramSocket;
use crate::reactor::deferred::node::Runnable;
use crate::reactor::deferred::undecided::Undecided;
#[cfg(unix)]
use crate::reactor::descriptor::Watched;
use crate::reactor::endings::Endings;
use crate::reactor::handle::Handle;
use crate::reactor::kinds::Kinds;
use crate::reactor::listening::Listening;
use crate::reactor::looping::Looping;
use crate::reactor::names::Names;
#[cfg(unix)]
use crate::reactor::passing::Passing;
#[cfg(unix)]
use crate::reactor::process::Processes;
use crate::reactor::remote::Inbox;
use crate::reactor::shutdown::Shutdown;
use crate::reactor::signals::Signals;
use crate::reactor::stats::Counters;
use crate::reactor::task::executor::Tasks;
use crate::reactor::timers::Timer;
#[cfg(feature = "tls")]
use crate::reactor::tls::TlsCommons;
use crate::reactor::transport::Transport;
use crate::reactor::watchdog::Watchdog;
#[cfg(feature = "tokio")]
use crate::reactor::with_tokio::Tokio;
use crate::sys::thread_pool::ThreadPool;

/// A closure for the protocol of one connection; false when the protocol has another type by now.
pub(crate) type TypedCall = Box<dyn FnOnce(&mut dyn Protocol, &Transport) -> bool>;

/// An entry of the callback queue.
pub(crate) enum Call {
    /// With the place that queued it, for the log.
    Plain(Box<dyn FnOnce(&Handle)>, &'static Location<'static>),
    Typed(Token, TypedCall),
    /// A task that was woken.
    Task(Token),
    /// A link of a Deferred.
    Run(Rc<dyn Runnable>),
}

/// What a token names.
pub(crate) enum Slot {
    Connection(Transport),
    Listener(Rc<Listening>),
    Datagrams(DatagramSocket),
    /// One of an attempt's addresses is being tried.
    Attempt(AttemptId),
    #[cfg(unix)]
    Descriptor(Rc<Watched>),
    /// Taken, but not filled yet.
    Reserved,
}

/// The reactor's insides.
pub(crate) struct Inner {
    /// For hooks that are given a `&Handle`.
    pub(crate) handle: Handle,
    pub(crate) config: Config,
    pub(crate) driver: RefCell<Driver>,
    pub(crate) slots: RefCell<Slots<Slot>>,
    pub(crate) timers: RefCell<Wheel<Timer>>,
    pub(crate) calls: RefCell<Queue<Call>>,
    pub(crate) tasks: RefCell<Tasks>,
    /// Memory for the tasks that other threads have woken.
    pub(crate) woken: RefCell<Vec<Token>>,
    /// Everything is being dropped: what nobody decides any more is no news.
    pub(crate) is_torn_down: Cell<bool>,
    /// The loop runs, and one pass follows the other: not so when its host asks for a turn.
    pub(crate) goes_on: Cell<bool>,
    pub(crate) pool: Rc<Pool>,
    /// Where datagrams are received into; made when the first come, not here while hooks look at it.
    pub(crate) datagram_batch: Cell<Option<Box<DatagramBatch>>>,
    /// There may be something but I/O to think of: queued calls, connections to look after, timers, hooks
    /// ahead of the wait, interest to change, a shutdown. False: surely not.
    pub(crate) eventful: Cell<bool>,
    /// Connections to look after at settle.
    pub(crate) attention: RefCell<Vec<Token>>,
    /// Connections with something to deliver again.
    pub(crate) redelivery: RefCell<Vec<Token>>,
    /// The clock as this pass read it, once it had to.
    pub(crate) sampled_now: Cell<Option<Instant>>,
    /// A pass is under way: whatever is scheduled will be seen before the next wait.
    pub(crate) in_pass: Cell<bool>,
    pub(crate) inbox: Arc<Inbox>,
    /// Receivers of channels, by the number in their senders.
    pub(crate) channels: RefCell<Slots<Option<Box<dyn Any>>>>,
    /// Looping calls that may still be there: their closures can hold them alive.
    pub(crate) loops: RefCell<Vec<Weak<Looping>>>,
    /// What holds hooks that may hold it alive.
    pub(crate) endings: RefCell<Endings>,
    /// Deferreds that may hold their resolvers alive.
    pub(crate) undecided: RefCell<Undecided>,
    pub(crate) cooperations: Cooperations,
    pub(crate) kinds: RefCell<Kinds>,
    pub(crate) before_wait: RefCell<Vec<Rc<RefCell<dyn FnMut(&Handle)>>>>,
    pub(crate) shutdown: RefCell<Shutdown>,
    /// Connections and attempts: what `run_until_idle` waits for.
    pub(crate) connections: Cell<usize>,
    pub(crate) attempts: RefCell<Slots<Attempt>>,
    pub(crate) referenced_ports: Cell<usize>,
    /// Set if ports are passed on to another process.
    #[cfg(unix)]
    pub(crate) passing: RefCell<Option<Passing>>,
    pub(crate) counters: Counters,
    pub(crate) random: RefCell<Generator>,
    /// Jobs on other threads whose results are awaited: what resolves each, with the type that it has.
    pub(crate) jobs: RefCell<Slots<Box<dyn Any>>>,
    pub(crate) thread_pool: OnceCell<ThreadPool>,
    /// Look-ups of names that are under way, and their answers.
    pub(crate) names: RefCell<Names>,
    /// For files alone.
    pub(crate) file_pool: OnceCell<ThreadPool>,
    /// For futures that need it.
    #[cfg(feature = "tokio")]
    pub(crate) tokio: RefCell<Tokio>,
    /// What the connections with TLS share.
    #[cfg(feature = "tls")]
    pub(crate) tls: TlsCommons,
    pub(crate) watchdog: Watchdog,
    pub(crate) signals: RefCell<Signals>,
    /// Children that run, or whose pipes are open.
    #[cfg(unix)]
    pub(crate) processes: RefCell<Processes>,
    /// A panic on its way out of `run`.
    pub(crate) panic: RefCell<Option<Box<dyn Any + Send>>>,
}

impl Inner {
    /// Runs user code that belongs to nothing else: a panic in it is logged and goes no further.
    pub(crate) fn contain<R>(&self, what: impl fmt::Display, f: impl FnOnce() -> R) -> Option<R> {
        match catch_unwind(AssertUnwindSafe(f)) {
            Ok(value) => Some(value),
            Err(payload) => {
                self.panicked(&what, payload);
                None
            }
        }
    }

    /// Drops a user's value, whose destructor may do anything.
    pub(crate) fn discard<T>(&self, value: T) {
        if std::mem::needs_drop::<T>() {
            self.contain("a destructor", || drop(value));
        }
    }

    /// Logs a caught panic, or keeps it for `run` to let out.
    pub(crate) fn panicked(&self, what: &dyn fmt::Display, payload: Box<dyn Any + Send>) {
        Counters::bump(&self.counters.panics);
        log::error!("{what} panicked: {}", panic_text(&*payload));
        if self.config.panic_policy == PanicPolicy::Propagate {
            let mut first = self.panic.borrow_mut();
            if first.is_none() {
                *first = Some(payload);
                self.eventful.set(true);
                return;
            }
        }
        // The payload is a user's value too.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
    }

    pub(crate) fn set_interest(&self, token: Token, interest: Interest) {
        self.driver.borrow_mut().set_interest(token, interest);
        self.eventful.set(true);
        self.host_needs_to_know();
    }

    pub(crate) fn transport(&self, token: Token) -> Option<Transport> {
        match self.slots.borrow().get(token) {
            Some(Slot::Connection(transport)) => Some(transport.clone()),
            _ => None,
        }
    }

    pub(crate) fn listener(&self, token: Token) -> Option<Rc<Listening>> {
        match self.slots.borrow().get(token) {
            Some(Slot::Listener(listening)) => Some(Rc::clone(listening)),
            _ => None,
        }
    }

    /// Reads the clock; everything in this pass that needs no better time uses [`Inner::now`].
    pub(crate) fn read_clock(&self) -> Instant {
        self.driver.borrow().now()
    }

    /// The time of this pass: sampled when it is first asked for, the same until the pass ends.
    pub(crate) fn now(&self) -> Instant {
        if !self.in_pass.get() {
            return self.read_clock();
        }
        self.sampled_now.get().unwrap_or_else(|| {
            let now = self.read_clock();
            self.sampled_now.set(Some(now));
            now
        })
    }
}

/// The text of a panic, where it has one.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "(no text)"
    }
}
