//! [`Handle`]: the reactor, for everybody who does not own it.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::panic::Location;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::core::address::Address;
use crate::core::queue::Ticket;
use crate::core::slots::Token;
use crate::endpoint::{IntoConnectEndpoint, IntoListenEndpoint};
use crate::protocol::{Factory, Protocol};
use crate::reactor::channel::Sender;
use crate::reactor::connect_error::ConnectError;
use crate::reactor::connecting::{self, Connector};
use crate::reactor::deferred::{Deferred, MaybeDeferred};
#[cfg(feature = "testing")]
use crate::reactor::inner::Slot;
use crate::reactor::inner::{Call, Inner, TypedCall};
use crate::reactor::kinds::AnyFactory;
use crate::reactor::listening::Port;
use crate::reactor::looping::LoopingCall;
use crate::reactor::remote::{Inbox, Remote};
use crate::reactor::shutdown::{ShutdownPhase, Stage};
use crate::reactor::stats::{LagHistogram, Stats, SystemCalls};
use crate::reactor::task::budget;
use crate::reactor::timers::{DelayedCall, Timer};
use crate::reactor::transport::{Transport, TransportId};
use crate::reactor::typed::Connection;

thread_local! {
    /// The reactor whose `run` or `turn` is on this thread's stack, the innermost one. Its owner is there as
    /// well: so it is not this that keeps it.
    static CURRENT: RefCell<Option<Rc<Inner>>> = const { RefCell::new(None) };
}

/// Queues a task that was woken, if it belongs to the reactor that runs on this thread; `inbox` says which it
/// is.
pub(crate) fn queue_task_if_current(inbox: &Arc<Inbox>, task: Token) -> bool {
    let queued = CURRENT.try_with(|current| {
        let current = current.try_borrow().ok();
        match current.as_deref() {
            Some(Some(inner)) if Arc::ptr_eq(&inner.inbox, inbox) => {
                inner.queue_task(task);
                true
            }
            _ => false,
        }
    });
    queued == Ok(true)
}

/// A reactor to work with: everything but running it.
///
/// Handles are cheap to clone, stay on their reactor's thread and do not keep it alive: after the reactor is
/// dropped their methods do nothing or return an error. Scheduled closures are given a `&Handle`, and
/// [`Transport::reactor`] has one, so that there is rarely a reason to keep a clone.
#[derive(Clone)]
pub struct Handle {
    inner: Weak<Inner>,
}

impl Handle {
    pub(crate) fn new(inner: Weak<Inner>) -> Self {
        Self { inner }
    }

    pub(crate) fn inner(&self) -> Option<Rc<Inner>> {
        self.inner.upgrade()
    }

    /// Whether the reactor has been dropped.
    pub(crate) fn is_gone(&self) -> bool {
        self.inner.strong_count() == 0
    }

    pub(crate) fn alive(&self) -> io::Result<Rc<Inner>> {
        self.inner().ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the reactor is gone"))
    }

    /// The reactor whose hook is running on this thread.
    ///
    /// ```
    /// use twistor::{Handle, Reactor};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// assert!(Handle::current().is_none());
    /// reactor.call_soon(|_| Handle::current().unwrap().stop());
    /// reactor.run()
    /// # }
    /// ```
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.with_borrow(|current| current.as_ref().map(|inner| inner.handle.clone()))
    }

    // Ports and connections.

    /// Listens at `endpoint`, and has `factory` make the protocol of each connection.
    ///
    /// The endpoint is a string such as `"tcp:8000"` (see [`endpoint`](crate::endpoint)), a
    /// [`TcpListen`](crate::endpoint::TcpListen) or a `SocketAddr`.
    ///
    /// # Errors
    ///
    /// The endpoint makes no sense, or the system refuses it: the text names the address and the cause.
    pub fn listen(&self, endpoint: impl IntoListenEndpoint, factory: impl Factory) -> io::Result<Port> {
        self.listen_any(endpoint, AnyFactory::new(factory))
    }

    /// Connects to `endpoint`. The outcome is the connection, after its `connection_made`, or why there is
    /// none. Cancelling the Deferred ends the attempt.
    ///
    /// ```
    /// use twistor::{Protocol, Reactor, Transport};
    ///
    /// struct Hello;
    /// impl Protocol for Hello {
    ///     fn connection_made(&mut self, transport: &Transport) {
    ///         transport.write(b"hello\r\n");
    ///     }
    ///     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    /// }
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let port = reactor.listen("tcp:0:interface=127.0.0.1", |_| Hello)?;
    /// reactor.connect(format!("tcp:{}", port.local_addr()), |_| Hello).on_done(|reactor, outcome| {
    ///     println!("connected to {}", outcome.unwrap().peer_addr());
    ///     reactor.stop();
    /// });
    /// reactor.run()
    /// # }
    /// ```
    #[track_caller]
    pub fn connect<F: Factory>(
        &self,
        endpoint: impl IntoConnectEndpoint,
        factory: F,
    ) -> Deferred<Connection<F::Protocol>, ConnectError> {
        connecting::connect(self, self.connect_endpoint(endpoint), factory)
    }

    /// Connects to `endpoint` with this one protocol.
    #[track_caller]
    pub fn connect_protocol<P: Protocol>(
        &self,
        endpoint: impl IntoConnectEndpoint,
        protocol: P,
    ) -> Deferred<Connection<P>, ConnectError> {
        let mut protocol = Some(protocol);
        self.connect(endpoint, move |_| protocol.take())
    }

    /// Checks `endpoint` once, to connect to it as often as wanted.
    ///
    /// # Errors
    ///
    /// The endpoint makes no sense.
    pub fn connector(&self, endpoint: impl IntoConnectEndpoint) -> io::Result<Connector> {
        Ok(Connector::new(self, self.connect_endpoint(endpoint)?))
    }

    /// The connection of that name, unless it is lost.
    #[must_use]
    pub fn transport(&self, id: TransportId) -> Option<Transport> {
        self.inner()?.transport(id.0)
    }

    // Calls.

    /// Has `f` called by the loop, in the order in which calls were queued. What is queued by a queued call
    /// runs in the next pass.
    #[track_caller]
    pub fn call_soon(&self, f: impl FnOnce(&Handle) + 'static) -> CallHandle {
        let here = Location::caller();
        let ticket = self.inner().map(|inner| inner.queue_call(Call::Plain(Box::new(f), here)));
        CallHandle { handle: self.clone(), ticket }
    }

    /// Has `f` called after a while: never early, measured from now.
    #[track_caller]
    pub fn call_later(&self, after: Duration, f: impl FnOnce(&Handle) + 'static) -> DelayedCall {
        match self.inner() {
            Some(inner) => inner.add_timer(after, Timer::Call(Box::new(f), Location::caller())),
            None => DelayedCall::dead(self),
        }
    }

    /// Has `f` called at a time of the reactor's [clock](Self::now).
    #[track_caller]
    pub fn call_at(&self, at: Instant, f: impl FnOnce(&Handle) + 'static) -> DelayedCall {
        match self.inner() {
            Some(inner) => inner.add_timer_at(at, Timer::Call(Box::new(f), Location::caller())),
            None => DelayedCall::dead(self),
        }
    }

    /// Has `f` called at regular intervals, the first time after one interval. It is told how many slots were
    /// skipped because a call came late or took long. When it returns a [`Deferred`], the next call waits for
    /// it.
    pub fn every<R: MaybeDeferred>(
        &self,
        interval: Duration,
        f: impl FnMut(&Handle, u64) -> R + 'static,
    ) -> LoopingCall {
        LoopingCall::plain(self, interval, f)
    }

    /// Has `f` called ahead of every wait of the loop, for as long as the reactor lives.
    pub fn before_wait(&self, f: impl FnMut(&Handle) + 'static) {
        if let Some(inner) = self.inner() {
            inner.before_wait.borrow_mut().push(Rc::new(RefCell::new(f)));
            inner.eventful.set(true);
        }
    }

    // Stopping.

    /// Stops the reactor: only marks it; the loop goes through the phases of shutdown and then leaves
    /// [`run`](crate::Reactor::run).
    pub fn stop(&self) {
        if let Some(inner) = self.inner() {
            inner.ask_to_stop();
        }
    }

    /// Whether [`stop`](Self::stop) was called and the reactor is on its way out.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.inner().is_none_or(|inner| inner.stage() != Stage::Running)
    }

    /// Has `f` called once when the reactor stops. In the phase [`ShutdownPhase::Before`] connections are
    /// still live, and a [`Deferred`] that `f` returns is waited for; so it is in the others.
    pub fn on_shutdown<R: MaybeDeferred>(
        &self,
        phase: ShutdownPhase,
        f: impl FnOnce(&Handle) -> R + 'static,
    ) {
        if let Some(inner) = self.inner() {
            inner.on_shutdown(phase, f);
        }
    }

    // Other threads.

    /// The reactor, for other threads.
    #[must_use]
    pub fn remote(&self) -> Remote {
        match self.inner() {
            Some(inner) => Remote { inbox: Arc::clone(&inner.inbox) },
            None => Remote::dead(),
        }
    }

    /// A channel into the loop: what any thread sends, `receive` hears on the loop's thread. At most
    /// `capacity` values wait. `receive` is dropped when the last sender is, after what was sent.
    ///
    /// ```
    /// use twistor::Reactor;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let sender = reactor.channel(16, |reactor, answer: u32| {
    ///     assert_eq!(answer, 42);
    ///     reactor.stop();
    /// })?;
    /// std::thread::spawn(move || sender.send(42));
    /// reactor.run()
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The reactor is gone.
    pub fn channel<T: Send + 'static>(
        &self,
        capacity: usize,
        receive: impl FnMut(&Handle, T) + 'static,
    ) -> io::Result<Sender<T>> {
        Ok(self.alive()?.channel(capacity, receive))
    }

    // Questions.

    /// The reactor's clock.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.inner().map_or_else(Instant::now, |inner| inner.read_clock())
    }

    /// As [`next_deadline`](Self::next_deadline), for whoever knows what the clock shows.
    #[cfg(feature = "testing")]
    pub(crate) fn wants_turn_at(&self, now: Instant) -> Option<Instant> {
        let inner = self.inner()?;
        if inner.has_work() { Some(now) } else { inner.timers.borrow_mut().next_deadline() }
    }

    /// Whether a hook will be called although nothing comes from outside: something is queued, or a timer is
    /// set that counts.
    #[cfg(feature = "testing")]
    pub(crate) fn has_calls_ahead(&self) -> bool {
        self.inner().is_some_and(|inner| {
            inner.has_work() || inner.timers.borrow().referenced() > 0 || inner.stage() != Stage::Running
        })
    }

    /// The connections that are there now.
    #[cfg(feature = "testing")]
    pub(crate) fn connections(&self) -> Vec<Transport> {
        let Some(inner) = self.inner() else { return Vec::new() };
        let slots = inner.slots.borrow();
        let transports = slots.iter().filter_map(|(_, slot)| match slot {
            Slot::Connection(transport) => Some(transport.clone()),
            _ => None,
        });
        transports.collect()
    }

    /// When the reactor wants its next turn, whatever happens outside: now if something is queued, else at
    /// the earliest timer; `None` if it only waits for events.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let inner = self.inner()?;
        if inner.has_work() {
            return Some(inner.read_clock());
        }
        inner.timers.borrow_mut().next_deadline()
    }

    /// What the reactor has counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner().map(|inner| inner.stats()).unwrap_or_default()
    }

    /// How long the passes took, apart from waiting.
    #[must_use]
    pub fn lag(&self) -> LagHistogram {
        self.inner().map_or(LagHistogram::new(), |inner| inner.watchdog.lag(inner.counters.passes.get()))
    }

    /// The addresses of the open ports.
    #[must_use]
    pub fn ports(&self) -> Vec<Address> {
        self.inner().map(|inner| inner.port_addresses()).unwrap_or_default()
    }

    /// Reads the certificates, keys and lists of all ports with TLS again, where they came from files. New
    /// handshakes use the new ones. A port for which something is wrong goes on with what it has; the log
    /// says why. Returns whether all went well.
    #[cfg(feature = "tls")]
    pub fn reload_tls(&self) -> bool {
        let ports = self.inner().map(|inner| inner.tls_ports()).unwrap_or_default();
        let mut all_well = true;
        for (address, server) in ports {
            match server.reload() {
                Ok(()) => log::info!("{address}: the certificates were read again"),
                Err(error) => {
                    all_well = false;
                    log::error!("{address}: {error}; the old certificates stay in use");
                }
            }
        }
        all_well
    }

    /// Makes this the current reactor of the thread until the guard is dropped.
    pub(crate) fn enter(&self) -> Entered {
        Entered { outer: CURRENT.replace(self.inner()), _unlimited: budget::lift() }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("alive", &self.inner().is_some()).finish()
    }
}

/// Marks a reactor as the thread's current one.
pub(crate) struct Entered {
    outer: Option<Rc<Inner>>,
    _unlimited: budget::Outer,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let left = CURRENT.replace(self.outer.take());
        drop(left);
    }
}

/// A queued callback. Dropping it changes nothing.
#[derive(Clone)]
pub struct CallHandle {
    handle: Handle,
    ticket: Option<Ticket>,
}

impl CallHandle {
    /// Takes the callback back. False when it ran or was cancelled before.
    pub fn cancel(&self) -> bool {
        let (Some(inner), Some(ticket)) = (self.handle.inner(), self.ticket) else { return false };
        // Dropped after the borrow has ended: the closure is a user's value.
        let call = inner.calls.borrow_mut().cancel(ticket);
        let is_cancelled = call.is_some();
        inner.discard(call);
        is_cancelled
    }

    /// Whether the callback is still to run.
    #[must_use]
    pub fn is_active(&self) -> bool {
        match (self.handle.inner(), self.ticket) {
            (Some(inner), Some(ticket)) => inner.calls.borrow().contains(ticket),
            _ => false,
        }
    }
}

impl fmt::Debug for CallHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallHandle").field("active", &self.is_active()).finish()
    }
}

impl Inner {
    pub(crate) fn queue_call(&self, call: Call) -> Ticket {
        let ticket = self.calls.borrow_mut().push(call);
        self.eventful.set(true);
        self.host_needs_to_know();
        ticket
    }

    /// Queues a task to be polled.
    #[inline(always)]
    pub(crate) fn queue_task(&self, task: Token) {
        self.calls.borrow_mut().push(Call::Task(task));
        self.eventful.set(true);
        self.host_needs_to_know();
    }

    pub(crate) fn post(&self, token: Token, call: TypedCall) {
        self.queue_call(Call::Typed(token, call));
    }

    /// A host that sleeps between turns has to hear of what was scheduled outside of one.
    #[inline]
    pub(crate) fn host_needs_to_know(&self) {
        if !self.in_pass.get() && self.config.wake_hook.is_some() {
            self.inbox.tell_host();
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let driver = self.driver.borrow().stats();
        let counters = &self.counters;
        let inner_hooks = if self.in_pass.get() { self.watchdog.hooks_of_pass() } else { 0 };
        Stats {
            passes: counters.passes.get(),
            hooks: counters.hooks.get() + inner_hooks,
            panics: counters.panics.get(),
            accepted: counters.accepted.get(),
            connected: counters.connected.get(),
            adopted: counters.adopted.get(),
            lost: counters.lost.get(),
            refused: counters.refused.get(),
            accept_errors: counters.accept_errors.get(),
            shed: counters.shed.get(),
            stale_events: counters.stale.get() + driver.stale_events,
            dropped_posts: counters.dropped_posts.get(),
            dropped_events: counters.dropped_events.get(),
            write_limit_hits: counters.write_limit_hits.get(),
            linger_timeouts: counters.linger_timeouts.get(),
            timeouts: counters.timeouts.get(),
            timer_calls: counters.timer_calls.get(),
            calls: counters.calls.get(),
            polls: counters.polls.get(),
            slow_hooks: counters.slow_hooks.get(),
            datagrams_received: counters.datagrams_received.get(),
            datagrams_sent: counters.datagrams_sent.get(),
            datagrams_dropped: counters.datagrams_dropped.get(),
            datagrams_truncated: counters.datagrams_truncated.get(),
            name_queries: counters.name_queries.get(),
            name_hits: counters.name_hits.get(),
            handshakes: counters.handshakes.get(),
            tls_failures: counters.tls_failures.get(),
            connections: self.connections.get() - self.attempts.borrow().len(),
            attempts: self.attempts.borrow().len(),
            timers: self.timers.borrow().len(),
            tasks: self.tasks.borrow().live(),
            queued_bytes: self.pool.total(),
            bytes_received: driver.bytes_received,
            bytes_sent: driver.bytes_sent,
            system_calls: SystemCalls {
                waits: driver.waits,
                receives: driver.receives,
                sends: driver.sends,
                accepts: driver.accepts,
                controls: driver.controls,
                others: driver.others,
            },
        }
    }
}
