//! A leader lease among five hosts, and a simulation that searches it for mistakes.
//!
//! Search it:        cargo run --release --features testing --example lease_simulation
//! Plant a mistake:  cargo run --release --features testing --example lease_simulation -- --buggy
//! Look at one run:  cargo run --release --features testing --example lease_simulation -- --seed 7
//!
//! At most one host leads at a time. Who wants to lead asks all for a grant, and leads if a majority has granted.
//! Three rules make that safe, although no two clocks agree on the time and the network does what it likes:
//!
//! * A holder counts its lease from when it asked, a grantor counts its grant from when it answered. A grant is longer
//!   than a lease, by more than two clocks can differ in their rates.
//! * A grantor that starts again has forgotten what it granted. So it grants nothing for as long as a grant lasts.
//! * A leader looks at its clock each time before it acts: it may have been frozen since the last time.
//!
//! What it shows: the first half is an ordinary program of the reactor, with lines, timers and connections that are
//! made again when they are lost; it would run on real hosts. The second half runs it on simulated ones, under
//! partitions, crashes, freezes, clocks that run wrong and connections that break, and checks that no two leases
//! overlap and that there is a leader in the end.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{ExitCode, exit};
use std::rc::Rc;
use std::time::{Duration, Instant};

use twistor::endpoint::{KeepAlive, TcpConnect, TcpListen};
use twistor::testing::{Faults, Host, Simulation, find_failure};
use twistor::{Connection, Handle, Reason};
use twistor_protocols::{LineProtocol, LineReceiver, Lines};

const PORT: u16 = 7000;
/// How long a holder trusts its lease.
const LEASE: Duration = Duration::from_secs(4);
/// How long a grantor keeps its word.
const GRANT: Duration = Duration::from_secs(5);
/// How slow and how fast clocks may run.
const CLOCK_RATES: (f64, f64) = (0.9, 1.1);
const _: () = assert!(
    LEASE.as_secs_f64() / CLOCK_RATES.0 < GRANT.as_secs_f64() / CLOCK_RATES.1,
    "on a slow clock a lease lasts longer than a grant on a fast one"
);
/// How often a leader renews its lease, and how often it acts.
const RENEW: Duration = Duration::from_secs(1);
const ACT: Duration = Duration::from_millis(100);

// The program.

/// One of those who grant the lease and may hold it.
#[derive(Clone)]
struct Member(Rc<RefCell<State>>);

struct State {
    name: String,
    majority: usize,
    grant: Option<Grant>,
    round: Round,
    /// Until when it leads.
    lease: Option<Instant>,
    /// The connections on which it asks.
    others: BTreeMap<SocketAddr, Connection<LineProtocol<Asker>>>,
    /// What a leader does; it is told until when it leads.
    act: Rc<dyn Fn(Instant)>,
}

/// A member's word that it grants the lease to nobody else.
struct Grant {
    to: String,
    round: u64,
    until: Instant,
}

/// The last time that a member asked for the lease.
struct Round {
    number: u64,
    asked: Instant,
    /// Who has granted, besides itself.
    granted_by: BTreeSet<SocketAddr>,
}

impl State {
    fn leads(&self, now: Instant) -> bool {
        self.lease.is_some_and(|until| now < until)
    }

    fn may_grant(&self, to: &str, now: Instant) -> bool {
        self.grant.as_ref().is_none_or(|grant| grant.to == to || grant.until <= now)
    }

    fn begin_round(&mut self, now: Instant) {
        self.round = Round { number: self.round.number + 1, asked: now, granted_by: BTreeSet::new() };
    }

    /// Says something to all others, from the next turn on.
    fn tell(&self, what: &str) {
        let line = format!("{what} {} {}", self.name, self.round.number);
        for other in self.others.values() {
            let line = line.clone();
            other.post(move |asker, transport| {
                let io = asker.io(transport);
                asker.say(&io, &line);
            });
        }
    }
}

impl Member {
    /// Listens, connects to all others, and tries to get the lease from now on.
    fn start(
        handle: &Handle,
        name: &str,
        others: &[SocketAddr],
        forgets: bool,
        act: impl Fn(Instant) + 'static,
    ) {
        let now = handle.now();
        // Whatever it granted before it was started, to whomever, has run out by then.
        let forgotten = Grant { to: "somebody".to_owned(), round: 0, until: now + GRANT };
        let member = Self(Rc::new(RefCell::new(State {
            name: name.to_owned(),
            majority: others.len().div_ceil(2) + 1,
            grant: Some(forgotten).filter(|_| !forgets),
            round: Round { number: 0, asked: now, granted_by: BTreeSet::new() },
            lease: None,
            others: BTreeMap::new(),
            act: Rc::new(act),
        })));
        let grantor = member.clone();
        let grantor = move |_| LineProtocol::new(Grantor { member: grantor.clone() });
        if let Err(error) = handle.listen(TcpListen::new(PORT).keep_alive(KeepAlive::new()), grantor) {
            eprintln!("lease: {error}");
            return handle.stop();
        }
        for &other in others {
            member.connect(handle, other);
        }
        member.campaign(handle);
        handle.every(ACT, move |handle, _| member.act(handle.now()));
    }

    fn connect(&self, handle: &Handle, address: SocketAddr) {
        let (member, endpoint) = (self.clone(), TcpConnect::new(address).timeout(Duration::from_secs(1)));
        let asker = LineProtocol::new(Asker { member: self.clone(), address, owes_an_answer: false });
        handle.connect_protocol(endpoint, asker).on_done(move |handle, outcome| {
            if outcome.is_err() {
                member.connect_later(handle, address);
            }
        });
    }

    fn connect_later(&self, handle: &Handle, address: SocketAddr) {
        let pause = handle.random().duration(Duration::from_millis(100)..Duration::from_millis(300));
        let member = self.clone();
        handle.call_later(pause, move |handle| member.connect(handle, address));
    }

    /// Asks for the lease, to keep it or because it seems to be free; or, if that brought nothing, gives the others
    /// their words back. And so again after a while.
    fn campaign(&self, handle: &Handle) {
        let (state, now) = (&mut *self.0.borrow_mut(), handle.now());
        let leads = state.leads(now);
        let is_candidate = state.grant.take_if(|grant| grant.to == state.name).is_some();
        if leads || !is_candidate && state.may_grant(&state.name, now) {
            state.begin_round(now);
            state.grant =
                Some(Grant { to: state.name.clone(), round: state.round.number, until: now + GRANT });
            state.tell("ask");
        } else if is_candidate {
            state.tell("release");
            // Answers that are still on their way do not count.
            state.begin_round(now);
        }
        let pause = if leads { RENEW } else { handle.random().duration(RENEW / 2..RENEW) };
        let member = self.clone();
        handle.call_later(pause, move |handle| member.campaign(handle));
    }

    /// Another member asks; whether this one grants.
    fn grant(&self, to: &str, round: u64, now: Instant) -> bool {
        let state = &mut *self.0.borrow_mut();
        let may_grant = state.may_grant(to, now);
        if may_grant {
            state.grant = Some(Grant { to: to.to_owned(), round, until: now + GRANT });
        }
        may_grant
    }

    /// Another member does not need the grant any more; unless it has asked again since.
    fn release(&self, name: &str, round: u64) {
        self.0.borrow_mut().grant.take_if(|grant| grant.to == name && grant.round <= round);
    }

    /// Another member has granted.
    fn granted(&self, round: u64, by: SocketAddr) {
        let state = &mut *self.0.borrow_mut();
        let is_new = round == state.round.number && state.round.granted_by.insert(by);
        if is_new && state.round.granted_by.len() + 1 == state.majority {
            state.lease = Some(state.round.asked + LEASE);
        }
    }

    fn act(&self, now: Instant) {
        let (lease, act) = (self.0.borrow().lease, Rc::clone(&self.0.borrow().act));
        if let Some(until) = lease.filter(|until| now < *until) {
            act(until);
        }
    }
}

/// The end of a connection that asks.
struct Asker {
    member: Member,
    address: SocketAddr,
    owes_an_answer: bool,
}

impl Asker {
    fn say(&mut self, io: &Lines, line: &str) {
        if self.owes_an_answer {
            // Not even the last question was answered. Perhaps a new connection is better.
            return io.abort_connection();
        }
        self.owes_an_answer = line.starts_with("ask");
        io.send_line(line);
    }
}

impl LineReceiver for Asker {
    fn connection_made(&mut self, io: &Lines) {
        let connection = io.connection();
        self.member.0.borrow_mut().others.extend(connection.map(|connection| (self.address, connection)));
    }

    fn line_received(&mut self, io: &Lines, line: &[u8]) {
        self.owes_an_answer = false;
        if let ["granted", round] = *words(line)
            && let Some(round) = io.check(round.parse())
        {
            self.member.granted(round, self.address);
            self.member.act(io.reactor().now());
        }
    }

    fn connection_lost(&mut self, io: &Lines, _: &Reason) {
        self.member.0.borrow_mut().others.remove(&self.address);
        self.member.connect_later(io.reactor(), self.address);
    }
}

/// The end of a connection that grants.
struct Grantor {
    member: Member,
}

impl LineReceiver for Grantor {
    fn line_received(&mut self, io: &Lines, line: &[u8]) {
        let [verb, name, round] = *words(line) else { return io.fail("not a question") };
        let Some(round) = io.check(round.parse()) else { return };
        match verb {
            "release" => self.member.release(name, round),
            _ if self.member.grant(name, round, io.reactor().now()) => {
                io.send_line(format!("granted {round}"));
            }
            _ => io.send_line("refused"),
        }
    }
}

/// The words of a line; none if it is not text.
fn words(line: &[u8]) -> Vec<&str> {
    std::str::from_utf8(line).map(|line| line.split(' ').collect()).unwrap_or_default()
}

// The simulation.

const HOSTS: [&str; 5] = ["ann", "bob", "cat", "dan", "eve"];
/// Faults begin within this time, and last no longer than that.
const FAULTS_FOR: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_millis(2500);
/// So long after the last fault there has to be a leader.
const RECOVERY: Duration = Duration::from_secs(20);

/// Sees all hosts at once, which no program can.
struct Observer {
    hosts: [Host; HOSTS.len()],
    /// Who said until when it leads, on its own clock.
    leases: RefCell<BTreeMap<String, Instant>>,
    latest: RefCell<String>,
}

impl Observer {
    fn leaders(&self) -> Vec<&str> {
        let leases = self.leases.borrow();
        let leads = |host: &&Host| {
            host.is_running() && leases.get(host.name()).is_some_and(|until| host.clock() < *until)
        };
        self.hosts.iter().filter(leads).map(Host::name).collect()
    }

    fn acts(&self, host: &Host, until: Instant) {
        self.leases.borrow_mut().insert(host.name().to_owned(), until);
        if self.latest.replace(host.name().to_owned()) != host.name() {
            host.note("leads");
        }
        let leaders = self.leaders();
        assert!(leaders.len() == 1, "{} lead at the same time", leaders.join(" and "));
    }
}

/// Five hosts under faults.
fn scenario(sim: &Simulation, forgets: bool) {
    let hosts = HOSTS.map(|name| sim.host(name, |_| {}));
    let (leases, latest) = Default::default();
    let observer = Rc::new(Observer { hosts, leases, latest });
    for me in &observer.hosts {
        let others = observer.hosts.iter().filter(|host| host.name() != me.name());
        let others: Vec<SocketAddr> = others.map(|host| host.address(PORT)).collect();
        let (host, observer) = (me.clone(), Rc::clone(&observer));
        me.set_program(move |handle| {
            // Who has crashed does not lead any more.
            observer.leases.borrow_mut().remove(host.name());
            let (me, observer) = (host.clone(), Rc::clone(&observer));
            Member::start(handle, host.name(), &others, forgets, move |until| observer.acts(&me, until));
        });
    }
    let faults = Faults::within(FAULTS_FOR).lasting_up_to(LONGEST).clock_range(CLOCK_RATES.0, CLOCK_RATES.1);
    let faults = faults.partitions(4.0).cuts(1.0).crashes(12.0).freezes(2.0).clock_rates(2.0);
    sim.random_faults(&faults.resets(1.0).half_opens(1.0));
    sim.run_for(FAULTS_FOR + LONGEST + RECOVERY);
    assert!(!observer.leaders().is_empty(), "nobody leads, {RECOVERY:?} after the last fault");
}

const HELP: &str = "\
A leader lease among five simulated hosts under random faults.

Usage: lease_simulation [--search SEEDS | --seed SEED] [--buggy]

  --search SEEDS  runs so many seeds, until one fails; default: 1000
  --seed SEED     runs one seed, and prints what happened
  --buggy         with a mistake: who starts again grants at once

The status is 0 if there was one leader at most at any time, and one in the end; otherwise 1.";

fn main() -> ExitCode {
    let (mut seed, mut seeds, mut buggy) = (None, 1000, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--help" | "-h" => {
                println!("{HELP}");
                return ExitCode::SUCCESS;
            }
            "--buggy" => buggy = true,
            "--search" => seeds = number(&argument, arguments.next()),
            "--seed" => seed = Some(number(&argument, arguments.next())),
            _ => wrong(&format!("unknown argument {argument}")),
        }
    }
    let is_right = match seed {
        Some(seed) => show(seed, buggy),
        None => search(seeds, buggy),
    };
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn number(name: &str, text: Option<String>) -> u64 {
    let number = text.and_then(|text| text.parse().ok());
    number.unwrap_or_else(|| wrong(&format!("{name} needs a number")))
}

fn wrong(problem: &str) -> ! {
    eprintln!("lease_simulation: {problem}\n\n{HELP}");
    exit(2);
}

/// Runs one seed and tells its story.
fn show(seed: u64, buggy: bool) -> bool {
    let sim = Simulation::new(seed);
    sim.set_trace_limit(usize::MAX);
    // Its panic has been printed.
    let is_right = catch_unwind(AssertUnwindSafe(|| scenario(&sim, buggy))).is_ok();
    print!("{}", sim.notes());
    is_right
}

/// Runs seeds until one fails.
fn search(seeds: u64, buggy: bool) -> bool {
    let start = Instant::now();
    let failure = (0..seeds).find_map(|seed| find_failure(seed, |sim| scenario(sim, buggy)));
    match &failure {
        Some(failure) => println!("{failure}"),
        None => println!("{seeds} seeds, {:.1?}: one leader at most, and one in the end", start.elapsed()),
    }
    failure.is_none()
}
