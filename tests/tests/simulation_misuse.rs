//! What makes no sense in a simulation is a panic with a sentence, never a hang.

mod simulation_support;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use simulation_support::*;
use twistor::testing::{
    AccumulatingProtocol, Clock, Fault, Faults, Link, Pair, Pieces, ProtocolTest, Simulation,
};
use twistor::{Handle, Protocol, Reactor, Transport};

#[track_caller]
fn assert_panics(f: impl FnOnce(), parts: &[&str]) {
    let text = panic_of(f);
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

fn two_hosts() -> Simulation {
    let sim = Simulation::new(1);
    sim.host("a", |_| {});
    sim.host("b", |_| {});
    sim
}

// Names.

#[test]
fn an_unknown_host_is_named_with_those_there_are() {
    let sim = two_hosts();
    let text = ["the simulation has no host \"z\"", "there are a, b"];
    assert_panics(|| drop(sim.find("z")), &text);
    assert_panics(|| sim.set_link("a", "z", &Link::new()), &text);
    assert_panics(|| sim.inject(Fault::crash("z")), &text);
    assert_panics(|| sim.inject(Fault::partition(["a", "z"])), &text);
    assert_panics(|| sim.inject(Fault::cut("z", "a")), &text);
    // Not when it happens, but when it is said.
    assert_panics(|| sim.inject_at(secs(10), Fault::link("a", "z", Link::new())), &text);
    assert_panics(|| sim.random_faults(&Faults::within(secs(1)).crashes(50.0).only(["z"])), &text);
}

#[test]
fn two_hosts_of_one_name_are_one_too_many() {
    let sim = two_hosts();
    assert_panics(|| drop(sim.host("a", |_| {})), &["the simulation has a host \"a\" already"]);
}

#[test]
fn a_host_that_does_not_run_has_no_reactor() {
    let sim = two_hosts();
    sim.inject(Fault::crash("a"));
    let text = ["no reactor runs on host \"a\"", "it crashed or has stopped"];
    assert_panics(|| drop(sim.find("a").reactor()), &text);
    sim.inject(Fault::restart("a"));
    sim.find("a").reactor().stop();
    sim.run_for(secs(1));
    assert_panics(|| drop(sim.find("a").reactor()), &text);
}

#[test]
fn a_host_ends_with_its_simulation() {
    let sim = two_hosts();
    let host = sim.find("a");
    drop(sim);
    assert_eq!(host.name(), "a");
    assert_panics(|| println!("{}", host.ip()), &["the simulation of host \"a\" is over"]);
    assert!(!host.is_running());
}

#[test]
fn settings_that_make_no_sense_are_told() {
    let sim = Simulation::new(1);
    let builder = Reactor::builder().watermarks(1, 2);
    assert_panics(|| drop(sim.host_with("a", builder.clone(), |_| {})), &["host \"a\": ", "watermark"]);
    assert_panics(|| drop(Clock::with(builder)), &["no reactor: ", "watermark"]);
}

// Time.

#[test]
fn time_does_not_go_back() {
    let sim = two_hosts();
    sim.run_for(secs(10));
    let text = ["the simulation is at 10s already, and time does not go back to 9s"];
    assert_panics(|| sim.at(secs(9), |_| {}), &text);
    assert_panics(|| sim.inject_at(secs(9), Fault::crash("a")), &text);
    sim.at(secs(10), |_| {});
}

#[test]
fn a_clock_rate_is_positive() {
    for rate in [0.0, -1.0, f64::NAN] {
        assert_panics(
            || drop(Fault::clock_rate("a", rate)),
            &["a clock rate of ", "stand still or go backwards"],
        );
    }
}

#[test]
fn waiting_for_what_never_comes_is_a_deadlock_that_says_who_waits_for_what() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, ECHO);
    client.connection.pause_reading();
    client.write(b"nobody reads the answer");
    net.sim.inject(Fault::crash("c"));
    let text = panic_of(|| net.sim.run_until("the moon is blue", || false));
    let expected = "\
nothing will ever happen any more, and still not: the moon is blue
  a: listens on 0.0.0.0:7 (0 waiting to be accepted)
    listens on 0.0.0.0:9 (0 waiting to be accepted)
    10.0.0.1:7 - 10.0.0.2:32768: waits for input; 0 B sent and not arrived, 0 B unread
  b: listens on 0.0.0.0:7 (0 waiting to be accepted)
    listens on 0.0.0.0:9 (0 waiting to be accepted)
    10.0.0.2:32768 - 10.0.0.1:7: watched for nothing; 0 B sent and not arrived, 23 B unread
  c: down";
    assert!(text.starts_with("deadlock at t=0.00"), "{text}");
    assert_eq!(text.split_once(": ").expect("a cause").1, expected);
}

#[test]
fn a_deadlock_tells_who_has_stopped_and_who_waits_for_nothing() {
    let sim = two_hosts();
    sim.find("a").reactor().stop();
    let text = panic_of(|| sim.run_until("anything happens", || false));
    assert!(
        text.ends_with("still not: anything happens\n  a: has stopped\n  b: waits for nothing"),
        "{text}"
    );
}

#[test]
fn a_deadlock_tells_who_waits_until_it_can_send() {
    let net = Network::new();
    let listener = net.a.listen_raw(net.a.address(80), 5).expect("a listener");
    let client = net.connect(&net.b, &net.a, 80);
    let _far = accept(&net.sim, &listener);
    client.write(&pattern(1_000_000));
    assert_panics(
        || net.sim.run_until("all is read", || false),
        &["10.0.0.2:32768 - 10.0.0.1:80: watched for input and output; 262144 B sent and not arrived"],
    );
}

#[test]
fn a_simulation_that_only_ticks_is_given_up_after_a_day() {
    let sim = two_hosts();
    sim.find("a").reactor().every(secs(10), |_, _| {});
    let text = "a day has passed in the simulation, and still not: the moon is blue";
    assert_panics(|| sim.run_until("the moon is blue", || false), &[text]);
    assert_eq!(sim.now(), secs(24 * 3600));
}

#[test]
fn a_host_that_turns_in_circles_is_found_out() {
    fn again(reactor: &Handle) {
        reactor.call_soon(again);
    }
    let sim = two_hosts();
    sim.run_for(secs(3));
    sim.find("b").reactor().call_soon(again);
    assert_panics(
        || sim.run_for(secs(1)),
        &["the simulation does not get on: ", " turns at t=3s, the last of host \"b\""],
    );
}

#[test]
fn hosts_that_turn_in_circles_together_are_found_out() {
    let net = Network::new();
    net.sim.set_link("a", "b", &Link::instant());
    // Two who echo each other, at once.
    net.b.reactor().connect_protocol(net.a.address(ECHO), Echo).on_done(|_, connection| {
        connection.expect("a connection").write(b"ping");
    });
    assert_panics(|| net.sim.run_for(secs(1)), &["the simulation does not get on: "]);
}

#[test]
fn an_action_that_schedules_itself_at_once_is_found_out() {
    fn again(sim: &Simulation) {
        sim.at(sim.now(), again);
    }
    let sim = two_hosts();
    sim.at(secs(1), again);
    assert_panics(|| sim.run_for(secs(2)), &["the simulation does not get on: ", "an action of the test"]);
}

// Faults that make no sense.

#[test]
fn a_crash_needs_a_host_that_is_up_and_a_restart_one_that_is_down() {
    let sim = two_hosts();
    sim.run_for(secs(1));
    assert_panics(|| sim.inject(Fault::restart("a")), &["restart of a makes no sense at t=1s: a is up"]);
    sim.inject(Fault::crash("a"));
    assert_panics(|| sim.inject(Fault::crash("a")), &["crash of a makes no sense at t=1s: a is down"]);
    assert_panics(|| sim.inject(Fault::slow_reader("a", 1)), &["a reads 1 B/s makes no sense", "a is down"]);
    assert_panics(|| sim.inject(Fault::descriptor_limit("a", 1)), &["makes no sense", "a is down"]);
    assert_panics(|| sim.inject(Fault::freeze("a")), &["freeze of a, for 1s makes no sense", "a is down"]);
}

#[test]
fn a_scripted_fault_has_to_make_sense_when_it_happens() {
    let sim = two_hosts();
    sim.inject_at(secs(1), Fault::crash("a"));
    sim.inject_at(secs(2), Fault::crash("a"));
    assert_panics(|| sim.run_for(secs(3)), &["crash of a makes no sense at t=2s: a is down"]);
}

#[test]
fn a_link_that_is_cut_cannot_be_cut() {
    let sim = two_hosts();
    sim.inject(Fault::cut("a", "b"));
    sim.inject(Fault::cut("b", "a"));
    assert_panics(
        || sim.inject(Fault::cut("a", "b")),
        &["cut from a to b makes no sense at t=0ns: that way is cut already"],
    );
}

#[test]
fn a_host_without_an_open_stream_cannot_lose_one() {
    let sim = two_hosts();
    for fault in [Fault::reset("a"), Fault::half_open("a")] {
        assert_panics(|| sim.inject(fault), &["makes no sense at t=0ns: a has no open stream"]);
    }
}

#[test]
fn random_faults_that_make_no_sense_are_left_out() {
    for seed in 0..20 {
        let sim = Simulation::new(seed);
        sim.host("a", |_| {});
        sim.host("b", |_| {});
        sim.random_faults(&Faults::within(secs(10)).crashes(20.0).resets(20.0).half_opens(20.0).cuts(20.0));
        sim.run_for(secs(30));
        assert!(sim.find("a").is_running() && sim.find("b").is_running());
    }
}

#[test]
fn links_that_carry_nothing_cannot_be_made() {
    assert_panics(|| drop(Link::new().bandwidth(0)), &["a bandwidth of 0 would carry nothing"]);
    assert_panics(|| drop(Link::new().loss(1.0)), &["a loss is a probability from 0 to below 1"]);
    assert_panics(|| drop(Link::new().loss(f64::NAN)), &["a loss is a probability"]);
    assert_panics(|| drop(Link::new().pieces(Pieces::UpTo(0))), &["pieces of 0 bytes"]);
    assert_panics(|| drop(Link::new().pieces(Pieces::Exactly(0))), &["pieces of 0 bytes"]);
    assert_panics(|| drop(Link::new().buffers(0, 1)), &["a buffer of 0 bytes"]);
    assert_panics(|| drop(Link::new().buffers(1, 0)), &["a buffer of 0 bytes"]);
}

#[test]
fn a_fault_that_lasts_for_ever_does() {
    let sim = two_hosts();
    sim.run_for(secs(1));
    sim.inject(Fault::crash("a").lasting(Duration::MAX));
    sim.inject(Fault::freeze("b").lasting(Duration::MAX));
    sim.run_for(secs(24 * 3600));
    assert!(!sim.find("a").is_running());
}

// Who runs whom.

#[test]
fn a_reactor_by_itself_does_not_go_with_other_reactors() {
    let sim = Simulation::new(1);
    sim.host("server", |reactor| {
        reactor.listen("tcp:7", |_| Echo).expect("a port");
    });
    let (_host, reactor) = sim.lone_reactor("client", Reactor::builder()).expect("a reactor");
    let (protocol, _log) = AccumulatingProtocol::new();
    reactor.connect_protocol("tcp:10.0.0.1:7", protocol).on_done(|_, _| {});
    assert_panics(
        || drop(reactor.run()),
        &["host \"server\" has something to do, but nobody runs its reactor", "has to be the only one"],
    );
}

#[test]
fn a_reactor_by_itself_that_waits_for_nothing_is_a_deadlock() {
    let sim = Simulation::new(1);
    let (_host, reactor) = sim.lone_reactor("here", Reactor::builder()).expect("a reactor");
    let text = panic_of(|| drop(reactor.run()));
    assert_eq!(text, "deadlock at t=0.000000000 s: nothing will ever happen any more. nothing is open");
    reactor.listen("tcp:80", |_| Echo).expect("a port");
    assert_panics(|| drop(reactor.run()), &["deadlock", "listens on 0.0.0.0:80"]);
}

#[test]
fn a_hook_cannot_run_the_simulation_that_runs_it() {
    let sim = Rc::new(two_hosts());
    let inside = Rc::clone(&sim);
    let text = Rc::new(RefCell::new(String::new()));
    let place = Rc::clone(&text);
    sim.find("a").reactor().call_soon(move |reactor| {
        reactor.call_soon(|_| {});
        *place.borrow_mut() = panic_of(|| inside.run_for(secs(1)));
    });
    sim.run_for(secs(1));
    assert!(text.borrow().contains("host \"a\" cannot turn"), "{text:?}");
}

#[test]
fn a_hook_cannot_move_its_clock() {
    let clock = Rc::new(Clock::new());
    let (inside, text) = (Rc::clone(&clock), Rc::new(RefCell::new(String::new())));
    let place = Rc::clone(&text);
    clock.call_soon(move |_| *place.borrow_mut() = panic_of(|| inside.advance(secs(1))));
    clock.run_due();
    assert!(text.borrow().contains("the clock cannot be moved from a hook"), "{text:?}");
}

#[test]
fn a_clock_that_cannot_get_on_is_found_out() {
    fn again(reactor: &Handle) {
        reactor.call_soon(again);
    }
    let clock = Clock::new();
    clock.call_later(secs(1), again);
    assert_panics(
        || clock.advance(secs(2)),
        &["the simulation does not get on: ", " turns at t=1s, the last of the clock's reactor"],
    );
}

#[test]
fn two_protocols_that_never_come_to_rest_are_found_out() {
    let mut pair = Pair::new(Echo, Echo);
    pair.client().write(b"ping");
    assert_panics(|| pair.pump(), &["after ", " turns there is still something on its way"]);
}

// A protocol by itself.

#[test]
fn a_protocol_that_does_not_read_cannot_be_fed_without_end() {
    struct Shut;
    impl Protocol for Shut {
        fn connection_made(&mut self, transport: &Transport) {
            transport.pause_reading();
        }
        fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    }
    let mut test = ProtocolTest::new(Shut);
    assert_panics(|| test.feed(&pattern(1_000_000)), &[" bytes do not fit: the protocol has paused reading"]);
}

#[test]
fn a_connection_that_is_over_cannot_be_fed() {
    let mut test = ProtocolTest::new(Echo);
    test.reset();
    assert_panics(|| test.feed(b"more"), &["the connection was reset by the test"]);
    assert_panics(
        || test.with_protocol(|_, _| {}),
        &["the connection is over, or its protocol was replaced"],
    );

    let mut test = ProtocolTest::new(Echo);
    test.transport().abort_connection();
    assert_panics(|| test.feed_in_pieces(b"more", 1), &["the protocol's peer cannot send: "]);

    let mut test = ProtocolTest::new(Echo);
    test.finish();
    assert_panics(|| test.feed(b"more"), &["the protocol's peer cannot send: "]);
}
