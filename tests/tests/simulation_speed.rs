//! A simulation is fast enough to try hours in seconds.

use std::time::Duration;

use twistor::testing::{Link, Simulation};
use twistor::{Handle, Protocol, Transport};
use twistor_tests::{Driver, in_child};

use twistor_tests::process::processor_time;

const NAMES: [&str; 3] = ["a", "b", "c"];

struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// Says something, and again whenever it is echoed.
struct Ping;

impl Protocol for Ping {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write(&[1; 100]);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// Each host echoes, and plays ping-pong with both others.
fn serve(reactor: &Handle, own: usize) {
    reactor.listen("tcp:7", |_| Echo).expect("a port");
    for other in (0..NAMES.len()).filter(|other| *other != own) {
        let peer = format!("tcp:10.0.0.{}:7", other + 1);
        reactor.call_later(Duration::from_millis(1), move |reactor| {
            reactor.connect_protocol(peer, Ping).on_done(|_, outcome| drop(outcome.expect("a connection")));
        });
    }
}

fn echo_network() -> Simulation {
    let sim = Simulation::new(1);
    sim.set_default_link(Link::new().latency(Duration::from_micros(500)));
    for (own, name) in NAMES.into_iter().enumerate() {
        sim.host(name, move |reactor| serve(reactor, own));
    }
    sim
}

/// What this build should reach, given what a release build has to.
fn expected(figure: f64) -> f64 {
    if cfg!(debug_assertions) { figure / 10.0 } else { figure }
}

mod a_busy_echo_network {
    use super::*;

    #[test]
    fn simulated() {
        in_child(module_path!(), Driver::Simulated, || {
            let sim = echo_network();
            sim.run_for(Duration::from_secs(1));
            let (begin, events, turns) = (processor_time(), sim.events(), turns(&sim));
            let virtual_time = Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 50 });
            sim.run_for(virtual_time);
            let cost = (processor_time() - begin).as_secs_f64();
            let speed = virtual_time.as_secs_f64() / cost;
            let events = (sim.events() - events) as f64 / cost;
            let turns = (super::turns(&sim) - turns) as f64 / cost;
            println!(
                "per second of CPU: {speed:.1} s of simulated time, {events:.0} events, {turns:.0} turns of reactors"
            );
            assert!(speed >= expected(50.0), "{speed:.1} s of simulated time per second of CPU");
            assert!(events >= expected(100_000.0), "{events:.0} events per second of CPU");
        });
    }
}

fn turns(sim: &Simulation) -> u64 {
    NAMES.iter().map(|name| sim.find(name).reactor().stats().passes).sum()
}
