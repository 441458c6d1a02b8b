//! How a reactor is set up.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::core::pool::OutputLimits;
use crate::driver::Budgets;
#[cfg(feature = "testing")]
use crate::driver::{
    Driver,
    middleware::{Injection, Middleware, TraceEvent, Tracer},
};
use crate::net::connection::Linger;
use crate::reactor::Reactor;
use crate::reactor::deferred::Deferred;
use crate::reactor::handle::Handle;
use crate::reactor::names::{NameConfig, Source};

/// What happens to a panic in a hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PanicPolicy {
    /// It is logged and ends what the hook belongs to: the connection, the timer, the callback.
    #[default]
    Isolate,
    /// The same, and then it leaves [`Reactor::run`] or [`Reactor::turn`].
    Propagate,
}

/// The settings of a reactor.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) output: OutputLimits,
    pub(crate) budgets: Budgets,
    pub(crate) linger: Linger,
    pub(crate) drain_timeout: Duration,
    pub(crate) panic_policy: PanicPolicy,
    pub(crate) signals: Option<bool>,
    pub(crate) portable: bool,
    pub(crate) slow_hook: Option<Duration>,
    pub(crate) inbox_limit: usize,
    pub(crate) unread_limit: usize,
    pub(crate) pending_connects: usize,
    pub(crate) threads: Option<usize>,
    pub(crate) names: NameConfig,
    pub(crate) file_threads: usize,
    pub(crate) file_queue: usize,
    #[cfg(feature = "tls")]
    pub(crate) handshakes_per_pass: u32,
    pub(crate) wake_hook: Option<Arc<dyn Fn() + Send + Sync>>,
    #[cfg(feature = "testing")]
    injection: Option<Injection>,
    #[cfg(feature = "testing")]
    tracer: Option<Tracer>,
}

#[cfg(feature = "testing")]
impl Config {
    /// Puts what was asked for between the loop and its driver.
    pub(crate) fn between(&self, driver: Driver) -> Driver {
        Middleware::above(driver, self.injection.clone(), self.tracer.clone())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            output: OutputLimits::default(),
            budgets: Budgets::default(),
            linger: Linger::default(),
            drain_timeout: Duration::from_secs(1),
            panic_policy: PanicPolicy::Isolate,
            signals: None,
            portable: false,
            slow_hook: Some(Duration::from_millis(100)),
            inbox_limit: 65_536,
            unread_limit: 1 << 20,
            pending_connects: 4096,
            threads: None,
            names: NameConfig::default(),
            file_threads: 4,
            file_queue: 1024,
            #[cfg(feature = "tls")]
            handshakes_per_pass: 16,
            wake_hook: None,
            #[cfg(feature = "testing")]
            injection: None,
            #[cfg(feature = "testing")]
            tracer: None,
        }
    }
}

/// Sets up a [`Reactor`]. Every limit has a default that suits a daemon.
///
/// ```
/// use std::time::Duration;
/// use twistor::Reactor;
///
/// let reactor = Reactor::builder()
///     .drain_timeout(Duration::from_secs(5))
///     .write_limit(4 << 20)
///     .build()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Default)]
#[must_use = "a builder does nothing until `build`"]
pub struct ReactorBuilder {
    config: Config,
}

impl std::fmt::Debug for ReactorBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReactorBuilder").finish_non_exhaustive()
    }
}

impl ReactorBuilder {
    /// High and low mark of output, in bytes: above the high mark `pause_writing` is called, at the low mark
    /// `resume_writing`. Default 64 KiB and 16 KiB.
    pub fn watermarks(mut self, high: usize, low: usize) -> Self {
        self.config.output.high = high;
        self.config.output.low = low;
        self
    }

    /// A write made while more than this many bytes are queued aborts the connection. Default 16 MiB.
    pub fn write_limit(mut self, bytes: usize) -> Self {
        self.config.output.write = bytes;
        self
    }

    /// A write that takes the sum of all outboxes above this aborts its connection. Default 1 GiB.
    pub fn total_write_limit(mut self, bytes: usize) -> Self {
        self.config.output.total = bytes;
        self
    }

    /// Bytes read from one connection before the others get their turn. Default 256 KiB.
    pub fn read_budget(mut self, bytes: usize) -> Self {
        self.config.budgets.read = bytes;
        self
    }

    /// Bytes offered to the kernel for one connection before the others get their turn. Default 1 MiB.
    pub fn write_budget(mut self, bytes: usize) -> Self {
        self.config.budgets.write = bytes;
        self
    }

    /// Connections accepted from one port before the others get their turn. Default 64.
    pub fn accept_budget(mut self, connections: u32) -> Self {
        self.config.budgets.accept = connections;
        self
    }

    /// Datagrams received from one socket before the others get their turn. Default 256.
    pub fn datagram_budget(mut self, datagrams: usize) -> Self {
        self.config.budgets.datagrams = datagrams;
        self
    }

    /// How long a closing connection waits for a peer that takes nothing, and for its end. Default 30 s.
    pub fn linger_timeout(mut self, timeout: Duration) -> Self {
        self.config.linger.timeout = timeout;
        self
    }

    /// How much a closing connection reads and throws away while it waits for the peer's end. Default 1 MiB.
    pub fn linger_bytes(mut self, bytes: usize) -> Self {
        self.config.linger.bytes = bytes;
        self
    }

    /// How long a stopping reactor waits for its connections. Default 1 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.config.drain_timeout = timeout;
        self
    }

    /// What happens to a panic in a hook. Default: it is isolated.
    pub fn panic_policy(mut self, policy: PanicPolicy) -> Self {
        self.config.panic_policy = policy;
        self
    }

    /// Whether SIGINT and SIGTERM stop the reactor. Default: in [`Reactor::run`] they do, in
    /// [`Reactor::turn`] they do not. Windows has no such signals; there it changes nothing.
    pub fn handle_signals(mut self, on: bool) -> Self {
        self.config.signals = Some(on);
        self
    }

    /// Waits through the portable interface of the poller also where a faster way exists, and hears of the
    /// ends of child processes by SIGCHLD also where they have descriptors.
    pub fn portable_polling(mut self, on: bool) -> Self {
        self.config.portable = on;
        self
    }

    /// Hooks that hold the loop at least this long are named in the log; `None` turns that off. Default 100
    /// ms.
    pub fn slow_hook_threshold(mut self, threshold: Option<Duration>) -> Self {
        self.config.slow_hook = threshold;
        self
    }

    /// Calls and messages from other threads that may wait for the loop. Default 65 536.
    pub fn inbox_limit(mut self, messages: usize) -> Self {
        self.config.inbox_limit = messages;
        self
    }

    /// Bytes that one connection may have given back with `unread`. Default 1 MiB.
    pub fn unread_limit(mut self, bytes: usize) -> Self {
        self.config.unread_limit = bytes;
        self
    }

    /// How many TLS handshakes are worked on in one pass; the others wait for the next, so that a storm of
    /// them leaves established connections responsive. Default 16, at least 1.
    #[cfg(feature = "tls")]
    pub fn handshakes_per_pass(mut self, handshakes: u32) -> Self {
        self.config.handshakes_per_pass = handshakes.max(1);
        self
    }

    /// Attempts to connect that may be under way at once. Default 4096.
    pub fn pending_connects(mut self, attempts: usize) -> Self {
        self.config.pending_connects = attempts;
        self
    }

    /// Threads of the pool for [`defer_to_thread`](crate::Handle::defer_to_thread), at most. Default: as many
    /// as there are processors, but from 4 to 32.
    pub fn threads(mut self, threads: usize) -> Self {
        self.config.threads = Some(threads);
        self
    }

    /// Threads for [files](crate::Handle::read_file), at most. They do nothing else, so that a slow disk
    /// delays neither [`defer_to_thread`](crate::Handle::defer_to_thread) nor the look-up of names. Default
    /// 4.
    pub fn file_threads(mut self, threads: usize) -> Self {
        self.config.file_threads = threads;
        self
    }

    /// Calls on files that may wait for one of the [`file_threads`](Self::file_threads), and for an earlier
    /// call on the same file. What comes beyond that fails at once. Default 1024.
    pub fn file_queue(mut self, calls: usize) -> Self {
        self.config.file_queue = calls;
        self
    }

    /// What finds the addresses of a host by its name, best first. By default the system's resolver does, on
    /// [threads](Self::resolver_threads) of its own; in a simulation the names are those of its hosts.
    ///
    /// The loop calls it, so that it must not block; for one that does there is
    /// [`blocking_resolver`](Self::blocking_resolver). What it answers is [kept](Self::name_cache) for a
    /// while. It is asked with lower-case letters, and once for all who want to know the same at the same
    /// time.
    ///
    /// ```
    /// use std::net::{IpAddr, Ipv4Addr};
    /// use twistor::{Deferred, Reactor};
    ///
    /// let reactor = Reactor::builder()
    ///     .resolver(|reactor, name| {
    ///         let (resolver, addresses) = Deferred::new(reactor);
    ///         resolver.resolve(match name {
    ///             "here" => Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]),
    ///             _ => Err(std::io::ErrorKind::NotFound.into()),
    ///         });
    ///         addresses
    ///     })
    ///     .build()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn resolver(
        mut self,
        resolver: impl Fn(&Handle, &str) -> Deferred<Vec<IpAddr>, io::Error> + Send + Sync + 'static,
    ) -> Self {
        self.config.names.source = Source::Loop(Arc::new(resolver));
        self
    }

    /// What finds the addresses of a host by its name, as [`resolver`](Self::resolver), and may block: it is
    /// called on the [threads](Self::resolver_threads) for that. In a simulation the loop itself calls it.
    ///
    /// A call that is stuck when the reactor is dropped is left alone: its thread, with this closure, ends
    /// when the call returns. So it is with the system's resolver.
    ///
    /// ```
    /// use std::net::ToSocketAddrs;
    /// use twistor::Reactor;
    ///
    /// // The system's, with a name of our own beside those that it knows.
    /// let reactor = Reactor::builder()
    ///     .blocking_resolver(|name| {
    ///         let name = if name == "database" { "db1.example.org" } else { name };
    ///         Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
    ///     })
    ///     .build()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn blocking_resolver(
        mut self,
        resolver: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> Self {
        self.config.names.source = Source::Blocking(Arc::new(resolver));
        self
    }

    /// Threads for resolvers that block, at most; they start on demand, and are apart from those of
    /// [`defer_to_thread`](crate::Handle::defer_to_thread). A name whose search is stuck holds one of them,
    /// however often it is asked for; when all are held, other names wait. Default 16.
    pub fn resolver_threads(mut self, threads: usize) -> Self {
        self.config.names.threads = threads;
        self
    }

    /// Names whose addresses are kept, so that they need not be looked up each time; 0 turns that off. When
    /// there are more, the one that was not used for longest goes. Default 1024.
    ///
    /// An attempt that reaches none of the addresses of a name has that name looked up anew the next time.
    pub fn name_cache(mut self, names: usize) -> Self {
        self.config.names.cached = names;
        self
    }

    /// How long addresses are kept, and how long it is kept that a name has none. Resolvers do not tell; the
    /// default is 60 s and 1 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// use twistor::Reactor;
    ///
    /// let reactor = Reactor::builder()
    ///     .name_cache_times(Duration::from_secs(10), Duration::ZERO)
    ///     .build()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn name_cache_times(mut self, known: Duration, unknown: Duration) -> Self {
        self.config.names.known_for = known;
        self.config.names.unknown_for = unknown;
        self
    }

    /// Called, from whatever thread, when the reactor wants its next [`turn`](Reactor::turn) although its
    /// host does not watch its descriptor. It must only tell the host: the reactor cannot be used from it.
    pub fn wake_hook(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.config.wake_hook = Some(Arc::new(hook));
        self
    }

    /// Makes the reactor.
    ///
    /// # Errors
    ///
    /// The system refuses a poller, or a limit makes no sense: the error names it.
    pub fn build(self) -> io::Result<Reactor> {
        self.check().map_err(|text| io::Error::new(io::ErrorKind::InvalidInput, text))?;
        Reactor::with_config(self.config)
    }

    /// Disturbs the driver as kernels may: short reads and writes, `EAGAIN`, wake-ups for nothing and more.
    /// So real sockets are tested under fire.
    ///
    /// ```
    /// use twistor::Reactor;
    /// use twistor::testing::Injection;
    ///
    /// let reactor = Reactor::builder().fault_injection(Injection::harmless(17)).build()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[cfg(feature = "testing")]
    pub fn fault_injection(mut self, injection: Injection) -> Self {
        self.config.injection = Some(injection);
        self
    }

    /// Tells `tracer` of everything that goes through between the loop and its driver. It must not use the
    /// reactor.
    ///
    /// ```
    /// use twistor::Reactor;
    ///
    /// let reactor = Reactor::builder().trace(|event| eprintln!("{event}")).build()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[cfg(feature = "testing")]
    pub fn trace(mut self, tracer: impl Fn(&TraceEvent) + Send + Sync + 'static) -> Self {
        self.config.tracer = Some(Arc::new(tracer));
        self
    }

    /// Makes the reactor of a simulated host.
    #[cfg(feature = "testing")]
    pub(crate) fn build_simulated(
        mut self,
        network: &crate::driver::simulated::SharedNetwork,
        host: crate::driver::simulated::network::HostId,
        is_alone: bool,
    ) -> io::Result<Reactor> {
        self.check().map_err(|text| io::Error::new(io::ErrorKind::InvalidInput, text))?;
        // There are no signals, and real time says nothing.
        self.config.signals = Some(false);
        self.config.slow_hook = None;
        let driver = crate::driver::SimDriver::new(network, host, is_alone, self.config.budgets);
        Ok(Reactor::with_driver(self.config, Driver::Simulated(driver)))
    }

    fn check(&self) -> Result<(), String> {
        let config = &self.config;
        let at_least_one = [
            ("write_limit", config.output.write),
            ("total_write_limit", config.output.total),
            ("read_budget", config.budgets.read),
            ("write_budget", config.budgets.write),
            ("accept_budget", config.budgets.accept as usize),
            ("datagram_budget", config.budgets.datagrams),
            ("inbox_limit", config.inbox_limit),
            ("pending_connects", config.pending_connects),
            ("threads", config.threads.unwrap_or(1)),
            ("resolver_threads", config.names.threads),
            ("file_threads", config.file_threads),
            ("file_queue", config.file_queue),
            ("watermarks high", config.output.high),
        ];
        for (name, value) in at_least_one {
            if value == 0 {
                return Err(format!("{name} is 0: nothing could ever pass; use at least 1"));
            }
        }
        if config.output.low > config.output.high {
            let (high, low) = (config.output.high, config.output.low);
            return Err(format!("watermarks: the low mark {low} is above the high mark {high}; swap them"));
        }
        if config.slow_hook == Some(Duration::ZERO) {
            return Err(
                "slow_hook_threshold is 0: every hook would be reported; use None to turn it off".into()
            );
        }
        Ok(())
    }
}
