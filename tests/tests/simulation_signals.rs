//! Signals of simulated hosts, and faults that overlap.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use twistor::testing::{Fault, Injection, Link, RecordingFactory, Simulation};
use twistor::{Events, Protocol, Reactor, Signal, Transport};

const SECOND: Duration = Duration::from_secs(1);

struct Quiet;

impl Protocol for Quiet {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

#[test]
fn a_daemon_hears_the_signals_that_its_host_is_sent() {
    let sim = Simulation::new(1);
    let heard = Rc::new(RefCell::new(Vec::new()));
    let log = Rc::clone(&heard);
    let daemon = sim.host("daemon", move |reactor| {
        let log = Rc::clone(&log);
        reactor.on_signal(Signal::HUP, move |_| log.borrow_mut().push("again")).expect("a hook");
        assert!(reactor.on_signal(Signal::KILL, |_| {}).is_err());
    });
    daemon.signal(Signal::HUP);
    daemon.signal(Signal::USR1);
    sim.run_for(SECOND);
    assert_eq!(*heard.borrow(), ["again"]);
    daemon.signal(Signal::TERM);
    sim.run_for(SECOND);
    assert!(!daemon.is_running(), "it has stopped");
}

/// Three hosts, one of which listens, and whether another reaches it now.
fn hosts() -> Simulation {
    let sim = Simulation::new(1);
    for name in ["a", "b", "c"] {
        sim.host(name, |reactor| {
            reactor.listen("tcp:1", |_| Quiet).expect("a port");
        });
    }
    sim
}

fn reaches(sim: &Simulation, from: &str, to: &str) -> bool {
    let stream = sim.find(from).connect_raw(sim.find(to).address(1)).expect("a socket");
    sim.run_for(SECOND / 2);
    stream.is_connected()
}

#[test]
fn a_partition_for_good_outlasts_a_short_one() {
    let sim = hosts();
    sim.inject(Fault::partition(["a"]));
    sim.inject(Fault::partition(["a", "b"]).lasting(SECOND));
    sim.run_for(2 * SECOND);
    assert!(!reaches(&sim, "a", "c"), "that is cut for good");
    assert!(reaches(&sim, "b", "c"), "that was cut for a second");
    sim.inject(Fault::heal());
    assert!(reaches(&sim, "a", "c"));
}

#[test]
fn a_heal_ends_what_would_have_lasted_longer_and_nothing_that_comes_later() {
    let sim = hosts();
    sim.inject(Fault::partition(["a"]).lasting(2 * SECOND));
    sim.inject(Fault::heal());
    sim.inject(Fault::partition(["a"]));
    sim.run_for(3 * SECOND);
    assert!(!reaches(&sim, "a", "b"));
}

#[test]
fn the_later_of_two_faults_of_one_thing_has_the_last_word() {
    let sim = hosts();
    sim.inject(Fault::refuse("a").lasting(SECOND));
    sim.inject(Fault::refuse("a").lasting(3 * SECOND));
    sim.run_for(2 * SECOND);
    assert!(!reaches(&sim, "b", "a"));
    sim.run_for(SECOND);
    assert!(reaches(&sim, "b", "a"));
}

#[test]
fn a_host_that_crashed_for_good_does_not_come_back_with_an_earlier_crash() {
    let sim = hosts();
    sim.inject(Fault::crash("a").lasting(2 * SECOND));
    sim.run_for(SECOND);
    sim.inject(Fault::restart("a"));
    sim.inject(Fault::crash("a"));
    sim.run_for(5 * SECOND);
    assert!(!sim.find("a").is_running());
}

#[test]
fn a_link_that_changes_for_a_while_changes_back() {
    let sim = hosts();
    sim.inject(Fault::link("a", "b", Link::new().latency(10 * SECOND)).lasting(SECOND));
    assert!(!reaches(&sim, "a", "b"));
    sim.run_for(SECOND);
    assert!(reaches(&sim, "a", "b"));
}

#[test]
fn a_clock_never_goes_back_when_its_rate_changes_while_it_computes() {
    let sim = hosts();
    let host = sim.find("a");
    host.compute(10 * SECOND);
    let before = host.clock();
    sim.inject(Fault::clock_rate("a", 0.5));
    assert!(host.clock() >= before);
    sim.run_for(20 * SECOND);
    assert!(host.clock() > before);
}

#[test]
fn a_handshake_that_nobody_completes_comes_to_an_end() {
    let sim = hosts();
    let stream = sim.find("a").connect_raw(sim.find("b").address(1)).expect("a socket");
    // The SYN is there after half a millisecond, and answered; the answer's answer gets lost.
    sim.run_for(Duration::from_micros(700));
    sim.inject(Fault::cut("a", "b"));
    sim.run_until_idle();
    assert!(sim.now() < Duration::from_secs(3600), "{:?}", sim.now());
    assert_eq!(sim.find("b").reactor().stats().accepted, 0);
    drop(stream);
}

#[test]
fn hosts_whose_events_get_lost_are_not_forgotten() {
    for seed in 0..50 {
        let sim = Simulation::new(seed);
        let builder = || Reactor::builder().fault_injection(Injection::new(seed).would_block(0.5));
        let factory = RecordingFactory::new();
        let made = factory.clone();
        let server = sim.host_with("server", builder(), move |reactor| {
            reactor.listen("tcp:1", factory.clone()).expect("a port");
        });
        let client = sim.host_with("client", builder(), |_| {});
        client.reactor().connect_protocol(server.address(1), Quiet).on_done(|_, connection| {
            connection.expect("connected").write(b"hello");
        });
        sim.run_until("it has arrived", || made.logs().first().is_some_and(|log| log.data() == b"hello"));
    }
}

#[test]
#[should_panic(expected = "a reactor that runs by itself moves the time")]
fn a_plan_for_a_reactor_that_runs_by_itself_is_a_panic() {
    let sim = Simulation::new(1);
    let (_host, _reactor) = sim.lone_reactor("here", Reactor::builder()).expect("a reactor");
    sim.at(SECOND, |_| {});
}

#[test]
fn events_whose_hooks_hold_them_end_with_the_reactor() {
    let reactor = Reactor::new().expect("a reactor");
    let events = Events::new(&reactor);
    let kept = Rc::new(());
    let (own, held) = (events.clone(), Rc::clone(&kept));
    events.on(move |_, number: &u32| {
        let _ = &held;
        if *number < 3 {
            own.emit(number + 1);
        }
    });
    events.emit(1);
    drop(events);
    reactor.run_until_idle().expect("a run");
    drop(reactor);
    assert_eq!(Rc::strong_count(&kept), 1);
}
