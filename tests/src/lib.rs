//! What the contract tests share: a reactor on each driver, peers at the other end, protocols that write down
//! what they were told.
//!
//! A test is written once, against a [`World`], and runs on every [`Driver`]. It never sleeps: it turns the
//! reactor [until](World::until) something is so, and fails with a sentence if that does not come true. Peers
//! are driven by the test's own thread while it turns the reactor, so that a driver without a kernel can
//! offer the same.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use twistor::testing::{Fault, Link, Simulation};
use twistor::tls::TlsInfo;
use twistor::{Eof, OnTimeout, Port, Protocol, Reactor, ReactorBuilder, Reason, Timeout, Transport};

pub use addresses::Silent;
pub use buffers::{Buffers, pattern};
pub use child::in_child;
pub use descriptor::becomes_readable;
pub use line::{Line, with_tls};
pub use machine::{Listener, Machine, Mailbox, Socket};
pub use mail::{Heard, Mail, Post};

mod addresses;
pub mod allocations;
mod buffers;
mod child;
mod descriptor;
mod guide;
mod line;
pub mod logged;
mod machine;
mod mail;
pub mod outcome;
pub mod process;
pub mod pty;
pub mod streams;
pub mod tls;

/// The drivers that the contract is tested on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    /// Linux: `epoll_wait` on the poller's own descriptor.
    Direct,
    /// Everywhere: through the poller's portable interface.
    Portable,
    /// No kernel at all: a simulated network on virtual time.
    Simulated,
}

impl Driver {
    /// The name of the test on this driver.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Portable => "portable",
            Self::Simulated => "simulated",
        }
    }
}

/// Instantiates tests for every driver: each function becomes a module of that name with a test per driver.
///
/// ```text
/// contract! {
///     fn data_arrives_in_order(driver) {
///         let world = World::new(driver);
///     }
/// }
/// ```
#[macro_export]
macro_rules! contract {
    ($($(#[$meta:meta])* fn $name:ident($driver:ident) $body:block)*) => {
        $(
            $(#[$meta])*
            mod $name {
                #[allow(unused_imports)]
                use super::*;

                fn test($driver: $crate::Driver) $body

                #[test]
                fn direct() {
                    test($crate::Driver::Direct);
                }

                #[test]
                fn portable() {
                    test($crate::Driver::Portable);
                }

                #[test]
                fn simulated() {
                    $crate::with_seeds(|| test($crate::Driver::Simulated));
                }
            }
        )*
    };
}

/// Like [`contract!`], and once more on every driver with TLS on the streams (section 8: sections 3 to 5 hold
/// unchanged).
///
/// What means nothing with TLS stays in a `contract!` beside it.
#[macro_export]
macro_rules! stream_contract {
    ($($(#[$meta:meta])* fn $name:ident($driver:ident) $body:block)*) => {
        $(
            $(#[$meta])*
            mod $name {
                #[allow(unused_imports)]
                use super::*;

                fn test($driver: $crate::Driver) $body

                #[test]
                fn direct() {
                    test($crate::Driver::Direct);
                }

                #[test]
                fn portable() {
                    test($crate::Driver::Portable);
                }

                #[test]
                fn simulated() {
                    $crate::with_seeds(|| test($crate::Driver::Simulated));
                }

                #[test]
                fn tls_direct() {
                    $crate::with_tls(|| test($crate::Driver::Direct));
                }

                #[test]
                fn tls_portable() {
                    $crate::with_tls(|| test($crate::Driver::Portable));
                }

                #[test]
                fn tls_simulated() {
                    $crate::with_tls(|| $crate::with_seeds(|| test($crate::Driver::Simulated)));
                }
            }
        )*
    };
}

/// Like [`contract!`], for what only a kernel can show: descriptors, signals, threads that wake a sleeping
/// reactor.
#[macro_export]
macro_rules! kernel_contract {
    ($($(#[$meta:meta])* fn $name:ident($driver:ident) $body:block)*) => {
        $(
            $(#[$meta])*
            mod $name {
                #[allow(unused_imports)]
                use super::*;

                fn test($driver: $crate::Driver) $body

                #[test]
                fn direct() {
                    test($crate::Driver::Direct);
                }

                #[test]
                fn portable() {
                    test($crate::Driver::Portable);
                }
            }
        )*
    };
}

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(1) };
}

/// Runs a test on the simulated driver: with seed 1, or with those that `TWISTOR_SEEDS=n..m` says.
///
/// # Panics
///
/// It says something else.
pub fn with_seeds(test: impl Fn()) {
    let wanted = std::env::var("TWISTOR_SEEDS").unwrap_or_else(|_| "1..2".to_owned());
    let range = wanted.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    let (from, to): (u64, u64) = range.expect("TWISTOR_SEEDS is a range n..m");
    for seed in from..to {
        set_seed(seed);
        test();
    }
}

/// The seed of this thread, as `TWISTOR_SEEDS` takes it.
fn this_seed() -> String {
    let seed = SEED.get();
    format!("{seed}..{}", seed + 1)
}

/// From what everything random in the simulated worlds of this thread follows.
pub fn set_seed(seed: u64) {
    SEED.set(seed);
}

/// What a pass takes at least in a simulation: on no machine does it take no time.
const PASS: Duration = Duration::from_micros(100);
/// The name of the simulated host.
pub const HOST: &str = "here";
/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A reactor and its surroundings.
#[derive(Debug)]
pub struct World {
    /// The reactor under test. Turned by the world's methods; signals do not stop it.
    pub reactor: Reactor,
    machine: Machine,
    /// What the machine is part of, if it is not a real one.
    simulation: Option<Simulation>,
    /// Whether its ports, and its peers, have TLS.
    secured: Cell<bool>,
    /// Of the peers with TLS.
    lines: RefCell<Vec<Weak<Line>>>,
    /// Of those that closed with something left to send.
    leaving: RefCell<Vec<Rc<Line>>>,
}

impl World {
    /// A reactor with default settings.
    #[must_use]
    pub fn new(driver: Driver) -> Self {
        Self::with(driver, |builder| builder)
    }

    /// A reactor with other settings.
    #[must_use]
    pub fn with(driver: Driver, set: impl FnOnce(ReactorBuilder) -> ReactorBuilder) -> Self {
        Self::try_with(driver, set).expect("a reactor")
    }

    /// A reactor with settings that may make no sense.
    ///
    /// # Errors
    ///
    /// They do not.
    pub fn try_with(
        driver: Driver,
        set: impl FnOnce(ReactorBuilder) -> ReactorBuilder,
    ) -> std::io::Result<Self> {
        let builder = set(Reactor::builder().portable_polling(driver == Driver::Portable));
        if driver == Driver::Simulated {
            let simulation = Simulation::new(SEED.get());
            let (host, reactor) = simulation.lone_reactor(HOST, builder)?;
            // About what Linux gives to the loopback device.
            simulation.set_link(HOST, HOST, &Link::instant().buffers(2 << 20, 4 << 20));
            let machine = Machine::Simulated(host);
            return Ok(Self::of(reactor, machine, Some(simulation)));
        }
        Ok(Self::of(builder.build()?, Machine::Real, None))
    }

    /// A reactor whose ports have TLS, and whose peers do.
    ///
    /// # Panics
    ///
    /// The settings make no sense.
    #[must_use]
    pub fn secured(driver: Driver, set: impl FnOnce(ReactorBuilder) -> ReactorBuilder) -> Self {
        let world = Self::with(driver, set);
        world.set_secured(true);
        world
    }

    fn of(reactor: Reactor, machine: Machine, simulation: Option<Simulation>) -> Self {
        Self {
            reactor,
            machine,
            simulation,
            secured: Cell::new(line::is_secured()),
            lines: RefCell::default(),
            leaving: RefCell::default(),
        }
    }

    /// Where the reactor runs.
    #[must_use]
    pub fn machine(&self) -> Machine {
        self.machine.clone()
    }

    /// What the reactor's clock shows.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.machine.now()
    }

    /// The time since an earlier moment.
    #[must_use]
    pub fn since(&self, moment: Instant) -> Duration {
        self.machine.since(moment)
    }

    /// Lets time pass without turning the reactor. In a hook, use [`Machine::spend`].
    pub fn spend(&self, time: Duration) {
        match &self.simulation {
            Some(simulation) => simulation.run_for(time),
            None => self.machine.spend(time),
        }
    }

    /// Lets `count` more descriptors be opened, by the whole process on a real machine. Those that are open
    /// above the limit stay open. Returns the old limit.
    pub fn leave_descriptors(&self, count: u64) -> u64 {
        match &self.simulation {
            Some(_) => {
                self.limit_descriptors(self.machine.open_descriptors() as u64 + count);
                u64::MAX
            }
            None => process::limit_descriptors(process::next_descriptor() + count),
        }
    }

    /// Lets only so many descriptors be open from now on.
    pub fn limit_descriptors(&self, limit: u64) {
        match &self.simulation {
            Some(simulation) => {
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                simulation.inject(Fault::descriptor_limit(HOST, limit));
            }
            None => {
                process::limit_descriptors(limit);
            }
        }
    }

    /// Ends the reactor and leaves the rest, which is a simulation, or nothing.
    #[must_use = "a simulation ends when it is dropped"]
    pub fn end(self) -> Option<Simulation> {
        drop(self.reactor);
        self.simulation
    }

    /// The simulation that this is, if it is one.
    #[must_use]
    pub fn simulation(&self) -> Option<&Simulation> {
        self.simulation.as_ref()
    }

    /// Turns the reactor once; returns whether it goes on. Takes some time also in a simulation.
    ///
    /// # Panics
    ///
    /// The reactor fails.
    pub fn turn(&self, wait: Duration) -> bool {
        self.pump_peers();
        let before = self.now();
        let goes_on = self.reactor.turn(Some(wait)).expect("a turn");
        if let Some(simulation) = &self.simulation {
            simulation.run_for(PASS.saturating_sub(self.since(before)));
        }
        goes_on
    }

    /// Turns the reactor until `condition` holds.
    ///
    /// # Panics
    ///
    /// It does not hold in time; `what` says what was waited for.
    pub fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = self.now() + PATIENCE;
        while !condition() {
            assert!(self.now() < deadline, "still waiting: {what}");
            self.turn(Duration::from_millis(1));
        }
    }

    /// Turns the reactor `passes` times without waiting.
    pub fn turns(&self, passes: usize) {
        for _ in 0..passes {
            self.pump_peers();
            self.reactor.turn(Some(Duration::ZERO)).expect("a turn");
        }
    }

    /// Waits until a pass would find something, without making one.
    #[must_use]
    pub fn becomes_ready(&self) -> bool {
        match self.machine {
            Machine::Real => becomes_readable(&self.reactor, PATIENCE),
            // What was sent has arrived.
            Machine::Simulated(_) => true,
        }
    }

    /// Turns the reactor for a while, to see what does not happen.
    pub fn run_for(&self, time: Duration) {
        let deadline = self.now() + time;
        while let Some(left) = deadline.checked_duration_since(self.now()).filter(|left| !left.is_zero()) {
            self.turn(left);
        }
    }

    /// Asserts that nothing wakes the reactor for a while: `what` says why nothing should.
    ///
    /// # Panics
    ///
    /// The loop turns although nothing happens.
    pub fn assert_sleeps(&self, what: &str) {
        self.turns(2);
        let before = self.reactor.stats();
        self.run_for(Duration::from_millis(30));
        let after = self.reactor.stats();
        let passes = after.passes - before.passes;
        assert!(passes <= 3, "{passes} passes in 30 ms: {what}");
        assert_eq!(after.hooks, before.hooks, "a hook ran: {what}");
    }

    /// Listens on a free port, with a closure or factory.
    pub fn listen(&self, factory: impl twistor::Factory) -> Port {
        self.listen_with(Buffers::default(), factory)
    }

    /// A peer connected to `port`; the reactor has not accepted it yet.
    #[must_use]
    pub fn connect(&self, port: &Port) -> Peer<'_> {
        Peer::connect(self, port.local_addr().socket_addr().expect("an IP port"))
    }

    /// A port, its only connection (accepted, `connection_made` done) and the peer.
    ///
    /// A [`Script`] is the connection's first protocol; another protocol is switched to.
    pub fn pair(&self, protocol: impl Protocol) -> (Transport, Peer<'_>) {
        self.pair_with(Buffers::default(), protocol)
    }
}

/// Hands the transport out, then makes way for the protocol that it carries.
struct Announce<P> {
    protocol: Option<P>,
    made: Rc<RefCell<Option<Transport>>>,
    #[allow(dead_code, reason = "keeps the handle of the peer alive as a user's protocol might")]
    reactor: twistor::Handle,
}

impl<P: Protocol> Protocol for Announce<P> {
    fn connection_made(&mut self, transport: &Transport) {
        *self.made.borrow_mut() = Some(transport.clone());
        if let Some(protocol) = self.protocol.take() {
            transport.switch_protocol(protocol);
        }
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.unread(data.to_vec());
    }
}

/// The other end of a connection: a plain socket that the test drives while it turns the reactor.
#[derive(Debug)]
pub struct Peer<'w> {
    world: &'w World,
    line: Option<Rc<Line>>,
}

/// How a stream ended for the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// With a FIN.
    Fin,
    /// With a reset.
    Reset,
}

impl<'w> Peer<'w> {
    /// Connects to an address on this machine.
    ///
    /// # Panics
    ///
    /// Nobody takes the connection.
    #[must_use]
    pub fn connect(world: &'w World, address: SocketAddr) -> Self {
        Self::connect_with(world, address, Buffers::default())
    }

    /// A peer over a socket that exists already, without TLS in any world.
    #[must_use]
    pub fn of(world: &'w World, socket: Socket) -> Self {
        Self { world, line: Some(Rc::new(Line::plain(socket))) }
    }

    fn line(&self) -> &Line {
        self.line.as_ref().expect("the peer is still connected")
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        self.line().socket()
    }

    /// Receives what has arrived; 0 at the end of the stream.
    ///
    /// # Errors
    ///
    /// Nothing has arrived, or the stream is broken, or TLS did not announce its end.
    pub fn read(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.line().read(buffer)
    }

    /// Sends what there is room for.
    ///
    /// # Errors
    ///
    /// There is no room, or the stream is broken.
    pub fn write(&self, data: &[u8]) -> std::io::Result<usize> {
        self.line().write(data)
    }

    /// Our address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.socket().local_addr()
    }

    /// Sends everything, turning the reactor while it does not read.
    pub fn send(&self, data: &[u8]) {
        let mut left = data;
        self.world.until("the reactor reads what the peer sends", || {
            left = &left[self.try_send(left)..];
            left.is_empty()
        });
    }

    /// Sends what the kernel takes at once.
    pub fn try_send(&self, data: &[u8]) -> usize {
        if data.is_empty() {
            return 0;
        }
        match self.write(data) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("the peer cannot send: {error}"),
        }
    }

    /// Receives exactly `count` bytes, turning the reactor meanwhile.
    #[must_use]
    pub fn receive(&self, count: usize) -> Vec<u8> {
        let mut data = vec![0; count];
        let mut filled = 0;
        self.world.until("the peer receives what was written", || {
            while filled < count {
                match self.read(&mut data[filled..]) {
                    Ok(0) => panic!("the stream ended after {filled} of {count} bytes"),
                    Ok(more) => filled += more,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("the peer cannot receive: {error}"),
                }
            }
            filled == count
        });
        data
    }

    /// What can be received at once, without turning the reactor; `None` at the end of the stream.
    #[must_use]
    pub fn try_receive(&self) -> Option<Vec<u8>> {
        let mut data = vec![0; 1 << 16];
        match self.read(&mut data) {
            Ok(0) => None,
            Ok(count) => {
                data.truncate(count);
                Some(data)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Some(Vec::new()),
            Err(_) => None,
        }
    }

    /// Receives to the end of the stream, turning the reactor meanwhile.
    #[must_use]
    pub fn receive_to_end(&self) -> (Vec<u8>, Ending) {
        let mut data = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        let mut ending = None;
        self.world.until("the stream ends for the peer", || {
            loop {
                match self.read(&mut buffer) {
                    Ok(0) => ending = Some(Ending::Fin),
                    Ok(count) => {
                        data.extend_from_slice(&buffer[..count]);
                        continue;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => ending = Some(Ending::Reset),
                }
                break;
            }
            ending.is_some()
        });
        (data, ending.expect("just seen"))
    }

    /// Ends the peer's direction with a FIN.
    pub fn finish(&self) {
        self.try_finish().expect("a FIN");
    }

    /// Ends the peer's direction with a FIN, if it can.
    ///
    /// # Errors
    ///
    /// The stream is broken.
    pub fn try_finish(&self) -> std::io::Result<()> {
        self.line().finish()
    }

    /// Breaks the connection with a reset.
    pub fn reset(&mut self) {
        if let Some(line) = self.line.take().and_then(Rc::into_inner) {
            line.reset();
        }
    }

    /// Closes the peer's socket; with unread data in it the kernel sends a reset.
    pub fn close(&mut self) {
        if let Some(line) = self.line.take() {
            line::close(self.world, line);
        }
    }
}

/// What a protocol was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// `connection_made`
    Made,
    /// `data_received`
    Data(Vec<u8>),
    /// `tls_started`
    Secured,
    /// `eof_received`
    Eof,
    /// `pause_writing`
    Pause,
    /// `resume_writing`
    Resume,
    /// `timed_out`
    TimedOut(Timeout),
    /// `shutting_down`
    ShuttingDown,
    /// `connection_lost`, with the reason as text
    Lost(String),
}

/// A list of events, shared between the test and its protocols.
#[derive(Clone, Default, Debug)]
pub struct Log(Rc<RefCell<Vec<Event>>>);

impl Log {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes an event down.
    pub fn push(&self, event: Event) {
        self.0.borrow_mut().push(event);
    }

    /// All events so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.0.borrow().clone()
    }

    /// All bytes of `Data` events so far, in order.
    #[must_use]
    pub fn data(&self) -> Vec<u8> {
        let events = self.0.borrow();
        events
            .iter()
            .filter_map(|event| if let Event::Data(data) = event { Some(&**data) } else { None })
            .fold(Vec::new(), |mut all, data| {
                all.extend_from_slice(data);
                all
            })
    }

    /// How often an event was written down.
    #[must_use]
    pub fn count(&self, event: &Event) -> usize {
        self.0.borrow().iter().filter(|seen| *seen == event).count()
    }

    /// Whether it was.
    #[must_use]
    pub fn has(&self, event: &Event) -> bool {
        self.count(event) > 0
    }

    /// The text of the loss, if there was one.
    ///
    /// # Panics
    ///
    /// The loss was reported more than once, or something after it.
    #[must_use]
    pub fn lost(&self) -> Option<String> {
        let events = self.0.borrow();
        let position = events.iter().position(|event| matches!(event, Event::Lost(_)))?;
        assert_eq!(position, events.len() - 1, "the loss is not the last event: {events:?}");
        match &events[position] {
            Event::Lost(reason) => Some(reason.clone()),
            _ => None,
        }
    }
}

type Hook = Box<dyn FnMut(&Transport)>;
type DataHook = Box<dyn FnMut(&Transport, &[u8])>;

/// A protocol that writes down what it is told and does what the test wants in each hook.
#[derive(Default)]
pub struct Script {
    log: Log,
    made: Option<Hook>,
    data: Option<DataHook>,
    secured: Option<Hook>,
    eof: Option<Box<dyn FnMut(&Transport) -> Eof>>,
    pause: Option<Hook>,
    resume: Option<Hook>,
    timed_out: Option<Box<dyn FnMut(&Transport, Timeout) -> OnTimeout>>,
    shutting_down: Option<Hook>,
    lost: Option<Box<dyn FnMut(&Transport, &Reason)>>,
    /// Where to leave the transport.
    announce: Option<Rc<RefCell<Option<Transport>>>>,
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Script").field("log", &self.log).finish_non_exhaustive()
    }
}

impl Script {
    /// Writes to `log` and does nothing else.
    #[must_use]
    pub fn new(log: &Log) -> Self {
        Self { log: log.clone(), ..Self::default() }
    }

    /// In `connection_made`.
    #[must_use]
    pub fn on_made(mut self, hook: impl FnMut(&Transport) + 'static) -> Self {
        self.made = Some(Box::new(hook));
        self
    }

    /// In `data_received`.
    #[must_use]
    pub fn on_data(mut self, hook: impl FnMut(&Transport, &[u8]) + 'static) -> Self {
        self.data = Some(Box::new(hook));
        self
    }

    /// In `tls_started`.
    #[must_use]
    pub fn on_secured(mut self, hook: impl FnMut(&Transport) + 'static) -> Self {
        self.secured = Some(Box::new(hook));
        self
    }

    /// In `eof_received`.
    #[must_use]
    pub fn on_eof(mut self, hook: impl FnMut(&Transport) -> Eof + 'static) -> Self {
        self.eof = Some(Box::new(hook));
        self
    }

    /// In `pause_writing`.
    #[must_use]
    pub fn on_pause(mut self, hook: impl FnMut(&Transport) + 'static) -> Self {
        self.pause = Some(Box::new(hook));
        self
    }

    /// In `resume_writing`.
    #[must_use]
    pub fn on_resume(mut self, hook: impl FnMut(&Transport) + 'static) -> Self {
        self.resume = Some(Box::new(hook));
        self
    }

    /// In `timed_out`.
    #[must_use]
    pub fn on_timed_out(mut self, hook: impl FnMut(&Transport, Timeout) -> OnTimeout + 'static) -> Self {
        self.timed_out = Some(Box::new(hook));
        self
    }

    /// In `shutting_down`, instead of closing.
    #[must_use]
    pub fn on_shutting_down(mut self, hook: impl FnMut(&Transport) + 'static) -> Self {
        self.shutting_down = Some(Box::new(hook));
        self
    }

    /// In `connection_lost`.
    #[must_use]
    pub fn on_lost(mut self, hook: impl FnMut(&Transport, &Reason) + 'static) -> Self {
        self.lost = Some(Box::new(hook));
        self
    }
}

fn call(hook: &mut Option<Hook>, transport: &Transport) {
    if let Some(hook) = hook {
        hook(transport);
    }
}

impl Protocol for Script {
    fn connection_made(&mut self, transport: &Transport) {
        if let Some(announce) = self.announce.take() {
            *announce.borrow_mut() = Some(transport.clone());
        }
        self.log.push(Event::Made);
        call(&mut self.made, transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        assert!(!data.is_empty(), "an empty slice was delivered");
        self.log.push(Event::Data(data.to_vec()));
        if let Some(hook) = &mut self.data {
            hook(transport, data);
        }
    }

    fn tls_started(&mut self, transport: &Transport, tls: &TlsInfo) {
        assert_eq!(transport.tls().as_ref(), Some(tls));
        self.log.push(Event::Secured);
        call(&mut self.secured, transport);
    }

    fn eof_received(&mut self, transport: &Transport) -> Eof {
        self.log.push(Event::Eof);
        self.eof.as_mut().map_or(Eof::Close, |hook| hook(transport))
    }

    fn pause_writing(&mut self, transport: &Transport) {
        self.log.push(Event::Pause);
        call(&mut self.pause, transport);
    }

    fn resume_writing(&mut self, transport: &Transport) {
        self.log.push(Event::Resume);
        call(&mut self.resume, transport);
    }

    fn timed_out(&mut self, transport: &Transport, which: Timeout) -> OnTimeout {
        self.log.push(Event::TimedOut(which));
        self.timed_out.as_mut().map_or(OnTimeout::Abort, |hook| hook(transport, which))
    }

    fn shutting_down(&mut self, transport: &Transport) {
        self.log.push(Event::ShuttingDown);
        match &mut self.shutting_down {
            Some(hook) => hook(transport),
            None => transport.lose_connection(),
        }
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        self.log.push(Event::Lost(reason.to_string()));
        if let Some(hook) = &mut self.lost {
            hook(transport, reason);
        }
    }
}
