//! Whole systems on simulated time: [`Simulation`] and its [`Host`]s.

use std::cell::{Cell, RefCell};
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use super::fault::{Fault, Faults};
use crate::core::random::Generator;
use crate::driver::simulated::SharedNetwork;
use crate::driver::simulated::link::Link;
use crate::driver::simulated::network::{HostId, Network};
use crate::driver::simulated::raw::{RawDatagrams, RawListener, RawStream};
use crate::reactor::Reactor;
use crate::reactor::builder::{PanicPolicy, ReactorBuilder};
use crate::reactor::handle::Handle;

/// Turns of reactors without time passing after which the simulation must be going round in circles.
const TURNS_AT_ONE_TIME: u32 = 1_000_000;
/// How long `run_until` lets time pass before it says that its condition will not come true.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);
/// Lines of the trace that a failure shows.
pub(super) const LAST_LINES: usize = 40;

/// A network of simulated hosts, each with a reactor of its own, on one thread and one virtual clock.
///
/// The same seed gives the same run, event for event; another seed another order of whatever could happen in
/// another order. Time jumps from event to event: waiting costs nothing.
///
/// ```
/// use std::time::Duration;
/// use twistor::testing::{AccumulatingProtocol, Simulation};
/// use twistor::{Protocol, Transport};
///
/// struct Echo;
/// impl Protocol for Echo {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         transport.write(data);
///     }
/// }
///
/// let sim = Simulation::new(1);
/// let server = sim.host("server", |reactor| {
///     reactor.listen("tcp:7", |_| Echo).unwrap();
/// });
/// let client = sim.host("client", |_| {});
///
/// let (heard, log) = AccumulatingProtocol::new();
/// client.reactor().connect_protocol(server.address(7), heard).on_done(|_, connection| {
///     connection.unwrap().write(b"hello");
/// });
/// sim.run_until("the echo is there", || log.data() == b"hello");
/// assert!(sim.now() < Duration::from_millis(10));
/// ```
pub struct Simulation {
    inner: Rc<Inner>,
}

/// What a program of a host does when the host starts.
type Program = Rc<dyn Fn(&Handle)>;

struct HostState {
    id: HostId,
    name: String,
    builder: ReactorBuilder,
    program: RefCell<Program>,
    /// `None` while the host is down, its program has ended, or the reactor is in other hands.
    reactor: RefCell<Option<Reactor>>,
}

type Action = Box<dyn FnOnce(&Simulation)>;

struct Scheduled {
    at: u64,
    number: u64,
    action: Action,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// A fault that was drawn: the how manieth, and for when.
#[derive(Clone)]
pub(super) struct RandomFault {
    pub(super) number: usize,
    pub(super) time: Duration,
    pub(super) fault: Fault,
}

struct Inner {
    seed: u64,
    network: SharedNetwork,
    hosts: RefCell<Vec<Rc<HostState>>>,
    actions: RefCell<BinaryHeap<Reverse<Scheduled>>>,
    number: Cell<u64>,
    /// How often faults have changed what lasts.
    settings: RefCell<BTreeMap<String, u64>>,
    /// A host's reactor is in other hands, which move the time.
    has_lone_reactor: Cell<bool>,
    /// For the test itself, and for random faults.
    choices: RefCell<Generator>,
    fault_choices: RefCell<Generator>,
    /// A time, and the turns that were made then.
    turns_at_one_time: Cell<(u64, u32)>,
    /// Random faults drawn so far.
    drawn: Cell<usize>,
    /// In a replay: the only ones of them that are to happen.
    kept: RefCell<Option<BTreeSet<usize>>>,
    /// Random faults that were scheduled.
    scheduled_faults: RefCell<Vec<RandomFault>>,
    /// Somebody else says what went wrong.
    is_quiet: Cell<bool>,
}

/// What a step came to.
#[derive(PartialEq, Eq)]
enum Step {
    /// Something happened.
    Moved,
    /// The given time has come.
    Arrived,
    /// Nothing will ever happen any more.
    Stuck,
}

impl Simulation {
    /// An empty network. Everything random in it follows from the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut generator = Generator::new(seed);
        let inner = Inner {
            seed,
            settings: RefCell::default(),
            has_lone_reactor: Cell::new(false),
            choices: RefCell::new(generator.split()),
            fault_choices: RefCell::new(generator.split()),
            network: Rc::new(RefCell::new(Network::new(generator.next()))),
            hosts: RefCell::new(Vec::new()),
            actions: RefCell::new(BinaryHeap::new()),
            number: Cell::new(0),
            turns_at_one_time: Cell::new((0, 0)),
            drawn: Cell::new(0),
            kept: RefCell::new(None),
            scheduled_faults: RefCell::new(Vec::new()),
            is_quiet: Cell::new(false),
        };
        Self { inner: Rc::new(inner) }
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.inner.seed
    }

    /// Time since the beginning.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.inner.network.borrow().elapsed()
    }

    // Hosts.

    /// Adds a host and starts it: `program` is called with the handle of its reactor, now and whenever the
    /// host starts again after a crash.
    ///
    /// A hook that panics fails the test: the panic leaves the call that runs the simulation. To see what it
    /// does in production, where it ends its connection only, add the host [with](Self::host_with) settings
    /// of your own.
    ///
    /// # Panics
    ///
    /// There is a host of that name already.
    pub fn host(&self, name: &str, program: impl Fn(&Handle) + 'static) -> Host {
        self.host_with(name, strict(), program)
    }

    /// Adds a host whose reactors are built with these settings. [`PanicPolicy::Propagate`] among them makes
    /// panics of hooks fail the test.
    ///
    /// # Panics
    ///
    /// There is a host of that name already, or the settings make no sense.
    pub fn host_with(
        &self,
        name: &str,
        builder: ReactorBuilder,
        program: impl Fn(&Handle) + 'static,
    ) -> Host {
        let state = self.add_host(name, builder, Rc::new(program));
        self.boot(&state);
        self.handle_of(&state)
    }

    /// Adds a host without a program, whose reactor you hold and run yourself. Its waits move the time, so it
    /// has to be the only reactor of the simulation; all others are [raw sockets](Host::connect_raw).
    ///
    /// ```
    /// use std::time::Duration;
    /// use twistor::Reactor;
    /// use twistor::testing::Simulation;
    ///
    /// let sim = Simulation::new(1);
    /// let (_host, reactor) = sim.lone_reactor("here", Reactor::builder()).unwrap();
    /// reactor.call_later(Duration::from_secs(3600), |reactor| reactor.stop());
    /// reactor.run().unwrap();
    /// assert_eq!(sim.now(), Duration::from_secs(3600));
    /// ```
    ///
    /// # Errors
    ///
    /// The settings make no sense.
    pub fn lone_reactor(&self, name: &str, builder: ReactorBuilder) -> io::Result<(Host, Reactor)> {
        let state = self.add_host(name, builder.clone(), Rc::new(|_| {}));
        self.inner.has_lone_reactor.set(true);
        // Within one machine, everything arrives at once.
        let reactor = builder.build_simulated(&self.inner.network, state.id, true)?;
        Ok((self.handle_of(&state), reactor))
    }

    fn add_host(&self, name: &str, builder: ReactorBuilder, program: Program) -> Rc<HostState> {
        let exists = self.inner.hosts.borrow().iter().any(|host| host.name == name);
        assert!(!exists, "the simulation has a host {name:?} already");
        let id = self.inner.network.borrow_mut().add_host(name);
        let (name, program) = (name.to_owned(), RefCell::new(program));
        let state = Rc::new(HostState { id, name, builder, program, reactor: RefCell::new(None) });
        self.inner.hosts.borrow_mut().push(Rc::clone(&state));
        state
    }

    fn handle_of(&self, state: &Rc<HostState>) -> Host {
        Host { sim: Rc::downgrade(&self.inner), state: Rc::clone(state) }
    }

    fn boot(&self, state: &Rc<HostState>) {
        let reactor = state
            .builder
            .clone()
            .build_simulated(&self.inner.network, state.id, false)
            .unwrap_or_else(|error| panic!("host {:?}: {error}", state.name));
        let handle = Handle::clone(&reactor);
        *state.reactor.borrow_mut() = Some(reactor);
        let program = Rc::clone(&state.program.borrow());
        program(&handle);
    }

    /// The host of that name.
    ///
    /// # Panics
    ///
    /// There is none.
    #[must_use]
    pub fn find(&self, name: &str) -> Host {
        self.handle_of(&self.state(name))
    }

    fn state(&self, name: &str) -> Rc<HostState> {
        let hosts = self.inner.hosts.borrow();
        match hosts.iter().find(|host| host.name == name) {
            Some(state) => Rc::clone(state),
            None => {
                let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
                panic!("the simulation has no host {name:?}; there are {}", names.join(", "));
            }
        }
    }

    pub(super) fn id(&self, name: &str) -> HostId {
        self.state(name).id
    }

    pub(super) fn host_names(&self) -> Vec<String> {
        self.inner.hosts.borrow().iter().map(|host| host.name.clone()).collect()
    }

    pub(super) fn network(&self) -> &SharedNetwork {
        &self.inner.network
    }

    // Links.

    /// What links are like between hosts for which nothing else is said. Takes effect for pairs of hosts that
    /// have not talked yet.
    pub fn set_default_link(&self, link: Link) {
        self.inner.network.borrow_mut().set_usual_link(link);
    }

    /// What the link between these two hosts is like from now on; of a host with itself: its loopback device.
    ///
    /// # Panics
    ///
    /// There is no such host.
    pub fn set_link(&self, one: &str, other: &str, link: &Link) {
        let (one, other) = (self.id(one), self.id(other));
        self.inner.network.borrow_mut().set_link(one, other, link);
    }

    // Faults and other events.

    /// Has `action` called at a time since the beginning, between two turns of reactors.
    ///
    /// # Panics
    ///
    /// That time has passed: time does not go backwards. Or a [lone reactor](Self::lone_reactor) moves the
    /// time.
    pub fn at(&self, time: Duration, action: impl FnOnce(&Self) + 'static) {
        assert!(
            !self.inner.has_lone_reactor.get(),
            "a reactor that runs by itself moves the time, and knows nothing of what the simulation is to do: \
             use a timer of that reactor"
        );
        let now = self.now();
        assert!(time >= now, "the simulation is at {now:?} already, and time does not go back to {time:?}");
        let number = self.inner.number.get();
        self.inner.number.set(number + 1);
        let at = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let scheduled = Scheduled { at, number, action: Box::new(action) };
        self.inner.actions.borrow_mut().push(Reverse(scheduled));
    }

    /// Lets a fault happen now. Called from a hook, it happens when the hook's turn is over.
    ///
    /// # Panics
    ///
    /// It makes no sense now: no such host, a crash of one that is down, a reset where no stream is open.
    pub fn inject(&self, fault: Fault) {
        self.inject_with(fault, true);
    }

    /// Lets a fault happen at a time since the beginning.
    ///
    /// # Panics
    ///
    /// As [`at`](Self::at) and, when it happens, as [`inject`](Self::inject).
    pub fn inject_at(&self, time: Duration, fault: Fault) {
        fault.check(self);
        self.at(time, move |sim| sim.inject(fault));
    }

    fn inject_with(&self, fault: Fault, strictly: bool) {
        let reactors_rest =
            self.inner.hosts.borrow().iter().all(|host| host.reactor.try_borrow_mut().is_ok());
        if reactors_rest {
            fault.apply(self, strictly);
        } else {
            self.at(self.now(), move |sim| fault.apply(sim, strictly));
        }
    }

    /// Draws faults from the seed and lets them happen. What makes no sense when its time comes is left out.
    pub fn random_faults(&self, faults: &Faults) {
        let list = faults.draw(&self.host_names(), self.now(), &mut self.inner.fault_choices.borrow_mut());
        for (time, fault) in list {
            let number = self.inner.drawn.replace(self.inner.drawn.get() + 1);
            fault.check(self);
            if self.inner.kept.borrow().as_ref().is_none_or(|kept| kept.contains(&number)) {
                let scheduled = RandomFault { number, time, fault: fault.clone() };
                self.inner.scheduled_faults.borrow_mut().push(scheduled);
                self.at(time, move |sim| sim.inject_with(fault, false));
            }
        }
    }

    /// Notes that a fault changes something, and how often that was done; a heal changes all cuts.
    pub(super) fn change_setting(&self, setting: &str) -> u64 {
        let mut settings = self.inner.settings.borrow_mut();
        if setting == "cuts" {
            return settings.get("heal").copied().unwrap_or_default();
        }
        let changes = settings.entry(setting.to_owned()).or_default();
        *changes += 1;
        *changes
    }

    /// Whether nobody has changed it since.
    pub(super) fn setting_is_as(&self, setting: &str, mark: u64) -> bool {
        let setting = if setting == "cuts" { "heal" } else { setting };
        self.inner.settings.borrow().get(setting).copied().unwrap_or_default() == mark
    }

    /// Lets only those random faults happen that have these numbers.
    pub(super) fn keep_faults(&self, numbers: impl Iterator<Item = usize>) {
        *self.inner.kept.borrow_mut() = Some(numbers.collect());
    }

    pub(super) fn random_faults_so_far(&self) -> Vec<RandomFault> {
        self.inner.scheduled_faults.borrow().clone()
    }

    pub(super) fn keep_quiet(&self) {
        self.inner.is_quiet.set(true);
    }

    /// A number below `limit` that follows from the seed, for the test itself.
    #[must_use]
    pub fn random_below(&self, limit: u64) -> u64 {
        self.inner.choices.borrow_mut().below(limit)
    }

    // Running.

    /// Lets this much time pass.
    pub fn run_for(&self, time: Duration) {
        let end = self.now().saturating_add(time);
        let until = u64::try_from(end.as_nanos()).unwrap_or(u64::MAX);
        loop {
            match self.step(until) {
                Step::Moved => {}
                Step::Arrived => return,
                Step::Stuck => {
                    self.inner.network.borrow_mut().advance(until);
                    return;
                }
            }
        }
    }

    /// Runs until `condition` holds; `what` says what is waited for.
    ///
    /// # Panics
    ///
    /// Nothing will ever happen any more ("deadlock at t=…", with who waits for what), or a day of simulated
    /// time has passed.
    pub fn run_until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let end = self.now().saturating_add(PATIENCE);
        let until = u64::try_from(end.as_nanos()).unwrap_or(u64::MAX);
        while !condition() {
            match self.step(until) {
                Step::Moved => {}
                Step::Arrived => panic!("a day has passed in the simulation, and still not: {what}"),
                Step::Stuck => panic!("{}", self.deadlock(what)),
            }
        }
    }

    /// Runs until nothing happens any more but timers that nobody waits for. What is open then stays open.
    pub fn run_until_idle(&self) {
        while !self.is_idle() {
            if self.step(u64::MAX) != Step::Moved {
                return;
            }
        }
    }

    /// Runs what happens without waiting for timers: until nothing is on its way and nothing is queued.
    pub(super) fn run_until_quiet(&self, most_turns: usize) {
        for _ in 0..most_turns {
            let now = self.inner.network.borrow().now();
            let due = self.runnable_host(now).is_some();
            let next = self.inner.network.borrow().next_event();
            match next {
                _ if due => self.step(now),
                // Far events are retransmissions and give-ups: timers of the kernel.
                Some(next) => self.step(next),
                None => return,
            };
        }
        panic!("after {most_turns} turns there is still something on its way");
    }

    fn is_idle(&self) -> bool {
        if self.inner.network.borrow().next_event().is_some() || !self.inner.actions.borrow().is_empty() {
            return false;
        }
        self.inner.hosts.borrow().iter().all(|host| {
            let reactor = host.reactor.borrow();
            !self.inner.network.borrow().has_news(host.id)
                && reactor.as_ref().is_none_or(|reactor| !reactor.has_calls_ahead())
        })
    }

    /// The text of a deadlock.
    fn deadlock(&self, what: &str) -> String {
        use fmt::Write;
        let network = self.inner.network.borrow();
        let mut text =
            format!("deadlock at {}: nothing will ever happen any more, and still not: {what}", *network);
        for host in &*self.inner.hosts.borrow() {
            let state = if !network.is_up(host.id) {
                "down".to_owned()
            } else if host.reactor.borrow().is_none() {
                "has stopped".to_owned()
            } else {
                let waiting = network.describe(host.id);
                if waiting.is_empty() { "waits for nothing".to_owned() } else { waiting.join("\n    ") }
            };
            // Writing to a string cannot fail.
            let _ = write!(text, "\n  {}: {state}", host.name);
        }
        text
    }

    /// Lets one thing happen, but nothing after `until`.
    fn step(&self, until: u64) -> Step {
        let now = self.inner.network.borrow().now();
        if let Some(action) = self.due_action(now) {
            action(self);
            self.count_turn("of an action of the test");
            return Step::Moved;
        }
        if let Some(host) = self.runnable_host(now) {
            self.turn(&host);
            self.count_turn(format_args!("of host {:?}", host.name));
            return Step::Moved;
        }
        let Some(next) = self.next_moment() else { return Step::Stuck };
        let arrived = next > until;
        self.inner.network.borrow_mut().advance(next.min(until));
        if arrived { Step::Arrived } else { Step::Moved }
    }

    /// Counts a turn, and panics when time stands still for too many of them.
    pub(super) fn count_turn(&self, whose: impl fmt::Display) {
        let now = self.inner.network.borrow().now();
        let (time, turns) = self.inner.turns_at_one_time.get();
        let turns = if time == now { turns + 1 } else { 1 };
        self.inner.turns_at_one_time.set((now, turns));
        assert!(
            turns < TURNS_AT_ONE_TIME,
            "the simulation does not get on: {turns} turns at t={:?}, the last {whose}",
            self.now()
        );
    }

    /// Whether something happens in the network, or to a host, without time passing.
    pub(super) fn has_events_now(&self) -> bool {
        let network = self.inner.network.borrow();
        network.next_event().is_some_and(|at| at <= network.now())
            || self.inner.hosts.borrow().iter().any(|host| network.has_news(host.id))
    }

    fn due_action(&self, now: u64) -> Option<Action> {
        let mut actions = self.inner.actions.borrow_mut();
        if actions.peek().is_some_and(|Reverse(first)| first.at <= now) {
            return actions.pop().map(|Reverse(first)| first.action);
        }
        None
    }

    /// One of the hosts that have something to do, at random.
    fn runnable_host(&self, now: u64) -> Option<Rc<HostState>> {
        let hosts = self.inner.hosts.borrow();
        let network = self.inner.network.borrow();
        let mut runnable = hosts.iter().filter(|host| {
            network.runs_from(host.id) <= now && wants_turn_at(host, &network).is_some_and(|at| at <= now)
        });
        let count = runnable.clone().count();
        let chosen = match count {
            0 => return None,
            1 => 0,
            several => {
                let turn = u64::from(self.inner.turns_at_one_time.get().1);
                Generator::for_purpose(self.inner.seed, now, turn).below(several as u64) as usize
            }
        };
        runnable.nth(chosen).map(Rc::clone)
    }

    /// The next time at which anything happens.
    fn next_moment(&self) -> Option<u64> {
        let hosts = self.inner.hosts.borrow();
        let network = self.inner.network.borrow();
        let action = self.inner.actions.borrow().peek().map(|Reverse(first)| first.at);
        let of_hosts = hosts
            .iter()
            .filter_map(|host| Some(wants_turn_at(host, &network)?.max(network.runs_from(host.id))));
        of_hosts.chain(network.next_event()).chain(action).min()
    }

    fn turn(&self, host: &Rc<HostState>) {
        let goes_on = match &*host.reactor.borrow() {
            Some(reactor) => reactor.turn(Some(Duration::ZERO)),
            None => return,
        };
        match goes_on {
            Ok(true) => {}
            Ok(false) => {
                self.inner.network.borrow_mut().note(Some(host.id), "has stopped");
                let reactor = host.reactor.borrow_mut().take();
                drop(reactor);
            }
            Err(error) => panic!("host {:?} cannot turn: {error}", host.name),
        }
    }

    pub(super) fn crash(&self, name: &str) {
        let state = self.state(name);
        self.inner.network.borrow_mut().take_down(state.id);
        let reactor = state.reactor.borrow_mut().take();
        drop(reactor);
    }

    pub(super) fn restart(&self, name: &str) {
        let state = self.state(name);
        self.inner.network.borrow_mut().bring_up(state.id);
        self.boot(&state);
    }

    pub(super) fn is_up(&self, name: &str) -> bool {
        self.inner.network.borrow().is_up(self.id(name))
    }

    // The trace.

    /// Writes a line into the trace.
    pub fn note(&self, text: impl fmt::Display) {
        self.inner.network.borrow_mut().note(None, &text.to_string());
    }

    /// The trace: what happened when, the last 10 000 lines or as many as [were asked
    /// for](Self::set_trace_limit). Equal seeds give equal text.
    #[must_use]
    pub fn trace(&self) -> String {
        self.inner.network.borrow().trace(usize::MAX)
    }

    /// The trace without what happened to single streams: what happened to hosts, faults, and what was noted.
    /// See [`set_trace_limit`](Self::set_trace_limit): the limit counts all lines.
    #[must_use]
    pub fn notes(&self) -> String {
        self.inner.network.borrow().notes()
    }

    /// The last lines of the trace.
    #[must_use]
    pub fn last_events(&self, lines: usize) -> String {
        self.inner.network.borrow().trace(lines)
    }

    /// How many lines of the trace are kept.
    pub fn set_trace_limit(&self, lines: usize) {
        self.inner.network.borrow_mut().set_trace_limit(lines);
    }

    /// A number that stands for the whole trace, also for what was left out: equal runs have equal ones.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.inner.network.borrow().fingerprint()
    }

    /// How many events of the network have happened: arrivals, attempts, acknowledgements.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.inner.network.borrow().happened()
    }
}

/// Settings for tests: a panic is a failure.
pub(super) fn strict() -> ReactorBuilder {
    Reactor::builder().panic_policy(PanicPolicy::Propagate)
}

/// When the host's reactor wants a turn next, in the network's time.
fn wants_turn_at(host: &HostState, network: &Network) -> Option<u64> {
    let reactor = host.reactor.borrow();
    let reactor = reactor.as_ref()?;
    if network.has_news(host.id) {
        return Some(network.now());
    }
    let clock = network.clock(host.id);
    reactor.wants_turn_at(clock).map(|at| network.when(host.id, at))
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.inner.hosts.borrow();
        let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
        f.debug_struct("Simulation")
            .field("seed", &self.inner.seed)
            .field("hosts", &names)
            .finish_non_exhaustive()
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.inner.is_quiet.get() {
            eprintln!(
                "the simulation with seed {} failed at t={:?}; its last events:\n{}",
                self.seed(),
                self.now(),
                self.last_events(LAST_LINES)
            );
        }
        // In order, and while the network is still there.
        for host in self.inner.hosts.take() {
            let reactor = host.reactor.try_borrow_mut().ok().and_then(|mut reactor| reactor.take());
            drop(reactor);
            // A program may hold its own host.
            drop(host.program.replace(Rc::new(|_| {})));
        }
    }
}

/// A host of a [`Simulation`]. Cloning it gives another name for the same host; it does not keep the
/// simulation alive.
#[derive(Clone)]
pub struct Host {
    sim: Weak<Inner>,
    state: Rc<HostState>,
}

impl Host {
    fn network(&self) -> SharedNetwork {
        match self.sim.upgrade() {
            Some(inner) => Rc::clone(&inner.network),
            None => panic!("the simulation of host {:?} is over", self.state.name),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Its IPv4 address.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.network().borrow().addresses(self.state.id).0.into()
    }

    /// Its IPv6 address.
    #[must_use]
    pub fn ip6(&self) -> IpAddr {
        self.network().borrow().addresses(self.state.id).1.into()
    }

    /// Its IPv4 address with a port: where to connect to.
    #[must_use]
    pub fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(), port)
    }

    /// Gives it another program: `program` is called now, and from now on whenever the host starts again.
    /// What the program before has begun goes on. So programs can know all hosts, also their own:
    ///
    /// ```
    /// # use twistor::testing::{Host, Simulation};
    /// let sim = Simulation::new(1);
    /// let hosts: Vec<Host> = ["a", "b", "c"].map(|name| sim.host(name, |_| {})).into();
    /// for me in &hosts {
    ///     let (me, all) = (me.clone(), hosts.clone());
    ///     me.clone().set_program(move |_reactor| {
    ///         let others = all.iter().filter(|host| host.name() != me.name()).map(|host| host.address(7));
    ///         me.note(format_args!("will talk to {:?}", others.collect::<Vec<_>>()));
    ///     });
    /// }
    /// ```
    ///
    /// # Panics
    ///
    /// No reactor runs there, as for [`reactor`](Self::reactor).
    pub fn set_program(&self, program: impl Fn(&Handle) + 'static) {
        let program: Program = Rc::new(program);
        let before = self.state.program.replace(Rc::clone(&program));
        drop(before);
        program(&self.reactor());
    }

    /// The reactor of the program that runs there now.
    ///
    /// # Panics
    ///
    /// None does: the host is down, its reactor has stopped, or you hold it yourself.
    #[must_use]
    pub fn reactor(&self) -> Handle {
        match &*self.state.reactor.borrow() {
            Some(reactor) => Handle::clone(reactor),
            None => panic!("no reactor runs on host {:?}: it crashed or has stopped", self.state.name),
        }
    }

    /// Whether a reactor runs there.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state.reactor.borrow().is_some()
    }

    /// What its clock shows.
    #[must_use]
    pub fn clock(&self) -> Instant {
        self.network().borrow().clock(self.state.id)
    }

    /// Its process does nothing but compute for a while: a hook that takes its time. Its clock goes on at
    /// once; what arrives meanwhile waits.
    pub fn compute(&self, time: Duration) {
        self.network().borrow_mut().keep_busy(self.state.id, time);
    }

    /// How many descriptors its process has open: ports, connections, attempts to connect. Raw sockets do not
    /// count.
    #[must_use]
    pub fn open_descriptors(&self) -> usize {
        self.network().borrow().open_descriptors(self.state.id)
    }

    /// Sends a signal to the program that runs there. Its hooks for it are called in the reactor's next turn;
    /// without a hook SIGINT and SIGTERM stop the reactor, and others do nothing.
    ///
    /// # Panics
    ///
    /// No reactor runs there.
    #[cfg(unix)]
    pub fn signal(&self, signal: crate::Signal) {
        self.note(format_args!("gets {signal}"));
        self.reactor().call_soon(move |handle| {
            if let Some(inner) = handle.inner() {
                inner.deliver_signal(signal);
            }
        });
    }

    /// Writes a line of this host into the trace.
    pub fn note(&self, text: impl fmt::Display) {
        self.network().borrow_mut().note(Some(self.state.id), &text.to_string());
    }

    /// Connects from here without a reactor. The attempt takes as long as the link does: see
    /// [`RawStream::is_connected`].
    ///
    /// # Errors
    ///
    /// No socket can be had.
    pub fn connect_raw(&self, to: SocketAddr) -> io::Result<RawStream> {
        RawStream::connect(&self.network(), self.state.id, to)
    }

    /// Listens here without a reactor.
    ///
    /// # Errors
    ///
    /// The address is in use, or not one of this host.
    pub fn listen_raw(&self, address: SocketAddr, backlog: u32) -> io::Result<RawListener> {
        RawListener::bind(&self.network(), self.state.id, address, backlog)
    }

    /// Opens a socket for datagrams here without a reactor; port 0 is a free one.
    ///
    /// # Errors
    ///
    /// The address is in use, or not one of this host.
    pub fn datagrams_raw(&self, address: SocketAddr) -> io::Result<RawDatagrams> {
        RawDatagrams::open(&self.network(), self.state.id, Some(address), None)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("name", &self.state.name).finish_non_exhaustive()
    }
}
