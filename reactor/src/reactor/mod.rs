//! The reactor: what users hold of it, and the pass that does the work.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::io;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use crate::core::pool::Pool;
use crate::core::queue::Queue;
use crate::core::random::Generator;
use crate::core::slots::Slots;
use crate::core::wheel::Wheel;
use crate::driver::{Driver, PollDriver, Scratch};

#[cfg(unix)]
pub(crate) mod adopting;
pub(crate) mod async_file;
pub(crate) mod builder;
pub(crate) mod channel;
pub(crate) mod connect_error;
pub(crate) mod connecting;
pub(crate) mod cooperate;
pub(crate) mod datagrams;
pub(crate) mod deferred;
#[cfg(unix)]
pub(crate) mod descriptor;
pub(crate) mod endings;
pub(crate) mod events;
mod files;
pub(crate) mod handle;
mod hooks;
mod incoming;
pub(crate) mod inner;
pub(crate) mod kinds;
pub(crate) mod listening;
pub(crate) mod looping;
mod names;
mod pass;
#[cfg(unix)]
pub(crate) mod passing;
#[cfg(unix)]
pub(crate) mod process;
pub(crate) mod random;
mod relay;
pub(crate) mod remote;
mod settle;
pub(crate) mod shutdown;
pub(crate) mod signals;
pub(crate) mod stats;
pub(crate) mod stream;
pub mod sync;
pub mod task;
mod teardown;
mod tend;
pub(crate) mod threads;
pub(crate) mod timers;
#[cfg(feature = "tls")]
pub(crate) mod tls;
pub(crate) mod transport;
pub(crate) mod typed;
mod watchdog;
#[cfg(feature = "hyper")]
pub(crate) mod with_hyper;
#[cfg(feature = "tokio")]
pub(crate) mod with_tokio;

use builder::{Config, ReactorBuilder};
use cooperate::Cooperations;
use handle::Handle;
use inner::Inner;
use kinds::Kinds;
use names::Names;
use remote::Inbox;
use shutdown::{Shutdown, Stage};
use stats::Counters;
use task::executor::Tasks;
use watchdog::Watchdog;

/// The reactor: owns the poller, the timers, the callback queue and every connection, and calls your hooks.
///
/// It derefs to [`Handle`], which has everything but running. Dropping it ends everything at once: no hook is
/// called any more, every user value is dropped, every descriptor closed, every thread has ended. The one
/// exception is a resolver that is [stuck](ReactorBuilder::blocking_resolver): its thread ends when it comes
/// back.
///
/// ```no_run
/// use twistor::{Protocol, Reactor, Transport};
///
/// struct Echo;
///
/// impl Protocol for Echo {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         transport.write(data);
///     }
/// }
///
/// fn main() -> std::io::Result<()> {
///     let reactor = Reactor::new()?;
///     reactor.listen("tcp:8000", |_| Echo)?;
///     reactor.run()
/// }
/// ```
pub struct Reactor {
    inner: Rc<Inner>,
    /// Borrowed while the loop runs: that is how running it from a hook is noticed.
    scratch: RefCell<Scratch>,
    #[cfg(unix)]
    descriptor: Option<std::sync::Arc<polling::Poller>>,
}

impl Reactor {
    /// A reactor with default settings.
    ///
    /// # Errors
    ///
    /// The system refuses a poller.
    pub fn new() -> io::Result<Self> {
        Self::builder().build()
    }

    /// To set limits, time-outs and policies.
    pub fn builder() -> ReactorBuilder {
        ReactorBuilder::default()
    }

    pub(crate) fn with_config(config: Config) -> io::Result<Self> {
        let driver = Driver::Poll(PollDriver::new(config.portable, config.budgets)?);
        Ok(Self::with_driver(config, driver))
    }

    pub(crate) fn with_driver(config: Config, driver: Driver) -> Self {
        #[cfg(feature = "testing")]
        let driver = config.between(driver);
        let now = driver.now();
        #[cfg(unix)]
        let descriptor = driver.descriptor();
        let inbox = Inbox::new(config.inbox_limit, driver.waker(), config.wake_hook.clone());
        let inner = Rc::new_cyclic(|weak| Inner {
            handle: Handle::new(weak.clone()),
            random: RefCell::new(Generator::new(driver.seed())),
            jobs: RefCell::new(Slots::new()),
            thread_pool: OnceCell::new(),
            file_pool: OnceCell::new(),
            driver: RefCell::new(driver),
            slots: RefCell::new(Slots::new()),
            timers: RefCell::new(Wheel::new(now)),
            calls: RefCell::new(Queue::new()),
            tasks: RefCell::new(Tasks::new()),
            woken: RefCell::default(),
            is_torn_down: Cell::new(false),
            goes_on: Cell::new(false),
            datagram_batch: Cell::new(None),
            pool: Pool::new(config.output),
            attention: RefCell::new(Vec::new()),
            redelivery: RefCell::new(Vec::new()),
            #[cfg(feature = "tls")]
            tls: tls::TlsCommons::default(),
            sampled_now: Cell::new(None),
            eventful: Cell::new(true),
            in_pass: Cell::new(false),
            inbox,
            channels: RefCell::new(Slots::new()),
            loops: RefCell::new(Vec::new()),
            endings: RefCell::default(),
            undecided: RefCell::default(),
            cooperations: Cooperations::default(),
            kinds: RefCell::new(Kinds::default()),
            before_wait: RefCell::new(Vec::new()),
            shutdown: RefCell::new(Shutdown::new()),
            connections: Cell::new(0),
            attempts: RefCell::new(Slots::new()),
            names: RefCell::new(Names::new(config.names.cached)),
            referenced_ports: Cell::new(0),
            #[cfg(unix)]
            passing: RefCell::default(),
            counters: Counters::default(),
            #[cfg(feature = "tokio")]
            tokio: RefCell::default(),
            watchdog: Watchdog::new(config.slow_hook),
            signals: RefCell::default(),
            #[cfg(unix)]
            processes: RefCell::new(Slots::new()),
            panic: RefCell::new(None),
            config,
        });
        Self {
            inner,
            scratch: RefCell::new(Scratch::new()),
            #[cfg(unix)]
            descriptor,
        }
    }

    /// Runs the loop until [`Handle::stop`], also when nothing is registered. SIGINT and SIGTERM stop it too,
    /// unless the builder says otherwise. Afterwards it can run again.
    ///
    /// # Errors
    ///
    /// Called from a hook, or the system's poller fails.
    pub fn run(&self) -> io::Result<()> {
        self.run_while(|_| true)
    }

    /// Runs the loop until it is stopped or nothing is left that could call a hook: no connection, no
    /// attempt, no port, no timer, no callback, no job on another thread, no look-up of a name, no watched
    /// descriptor; hooks of signals do not count. Ports and timers can be excluded with their `unref`.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn run_until_idle(&self) -> io::Result<()> {
        self.run_while(|inner| {
            inner.has_work()
                || inner.connections.get() > 0
                || inner.referenced_ports.get() > 0
                || inner.timers.borrow().referenced() > 0
                || !inner.jobs.borrow().is_empty()
                || inner.names.borrow().are_waited_for()
                || inner.stage() != Stage::Running
        })
    }

    fn run_while(&self, busy: impl Fn(&Inner) -> bool) -> io::Result<()> {
        let mut scratch = self.scratch.try_borrow_mut().map_err(|_| already_running())?;
        let _current = self.inner.handle.enter();
        let _asleep = Asleep(&self.inner.inbox);
        let _signals = self.inner.watch_signals(true)?;
        self.inner.goes_on.set(true);
        while busy(&self.inner) {
            self.inner.pass(None, &mut scratch)?;
            if self.inner.eventful.get() && self.inner.stage() == Stage::Finished {
                self.inner.finish_shutdown();
                break;
            }
        }
        Ok(())
    }

    /// One pass, which waits at most this long for something to happen; `None` is as long as it takes.
    /// Returns false once a [`stop`](Handle::stop) is complete.
    ///
    /// This is for a reactor that is a guest in another loop: that loop watches the reactor's descriptor
    /// (`AsFd`), sleeps no longer than until [`next_deadline`](Handle::next_deadline) and then calls
    /// `turn(Some(Duration::ZERO))`.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn turn(&self, timeout: Option<Duration>) -> io::Result<bool> {
        let mut scratch = self.scratch.try_borrow_mut().map_err(|_| already_running())?;
        let _current = self.inner.handle.enter();
        let _asleep = Asleep(&self.inner.inbox);
        self.inner.goes_on.set(false);
        self.inner.keep_watching_signals()?;
        // What cut a wait of `run` short is none of this turn's business.
        self.inner.driver.borrow_mut().take_interrupted();
        let until = timeout.map(|timeout| timers::deadline(self.inner.read_clock(), timeout));
        let mut left = timeout;
        // A signal that is none of ours does not end the wait.
        loop {
            self.inner.pass(left, &mut scratch)?;
            if !self.inner.driver.borrow_mut().take_interrupted() {
                break;
            }
            left = until.map(|until| until.saturating_duration_since(self.inner.read_clock()));
            if left == Some(Duration::ZERO) || self.inner.stage() != Stage::Running {
                break;
            }
        }
        if self.inner.stage() == Stage::Finished {
            self.inner.finish_shutdown();
            return Ok(false);
        }
        Ok(true)
    }

    /// Ends everything at once; the same as dropping the reactor.
    pub fn close(self) {
        drop(self);
    }
}

/// Leaves the loop, also by a panic or an error: its host may sleep now, and calls from other threads have to
/// wake it.
struct Asleep<'i>(&'i Inbox);

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        if !self.0.fall_asleep() {
            // One has come just before: its sender believed that the loop would see it.
            self.0.tell_host();
        }
    }
}

fn already_running() -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, "the reactor runs already: a hook cannot run it again")
}

impl Deref for Reactor {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.inner.handle
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").field("connections", &self.inner.connections.get()).finish_non_exhaustive()
    }
}

/// The descriptor is readable when a turn would find something to do.
///
/// # Panics
///
/// The reactor is one of a simulation, where there are no descriptors.
#[cfg(unix)]
impl std::os::fd::AsFd for Reactor {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match &self.descriptor {
            Some(descriptor) => descriptor.as_fd(),
            None => panic!("a simulated reactor has no descriptor"),
        }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.inner.tear_down();
    }
}
