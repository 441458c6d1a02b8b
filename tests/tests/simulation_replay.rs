//! A seed decides everything: the same one gives the same run, event for event, in every build; `check` finds
//! the seed and the faults that a failure needs.

mod simulation_support;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use simulation_support::*;
use twistor::testing::{AccumulatingProtocol, Fault, Faults, Link, Pieces, Simulation, check, find_failure};
use twistor::{Handle, Protocol, Reason, Transport};

/// Says something of a random length, waits for the answer, thinks for a random time, and so on until it is
/// lost or tired.
struct Chatter {
    awaited: usize,
}

impl Chatter {
    fn say(&mut self, transport: &Transport) {
        let length = 1 + transport.reactor().random().below(2_000) as usize;
        self.awaited = length;
        transport.write(&pattern(length));
    }
}

impl Protocol for Chatter {
    fn connection_made(&mut self, transport: &Transport) {
        self.say(transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.awaited -= data.len();
        if self.awaited > 0 {
            return;
        }
        if transport.reactor().random().chance(0.1) {
            transport.lose_connection();
        } else {
            let pause = transport.reactor().random().duration(millis(1)..millis(50));
            transport.call_later(pause, Self::say);
        }
    }

    fn connection_lost(&mut self, transport: &Transport, _: &Reason) {
        let peer = transport.peer_addr();
        let reactor = transport.reactor();
        let pause = reactor.random().duration(millis(10)..millis(500));
        reactor.call_later(pause, move |reactor| chat_with(reactor, &peer.to_string()));
    }
}

fn chat_with(reactor: &Handle, peer: &str) {
    let again = peer.to_owned();
    reactor.connect_protocol(format!("tcp:{peer}:timeout=2"), Chatter { awaited: 0 }).on_done(
        move |reactor, outcome| {
            if outcome.is_err() {
                let pause = reactor.random().duration(millis(100)..secs(1));
                reactor.call_later(pause, move |reactor| chat_with(reactor, &again));
            }
        },
    );
}

/// Three hosts that all talk to each other, over bad links, in bad weather.
fn busy(sim: &Simulation) {
    sim.set_default_link(Link::new().loss(0.02).pieces(Pieces::UpTo(700)).bandwidth(1_000_000));
    let names = ["a", "b", "c"];
    for (own, name) in names.into_iter().enumerate() {
        sim.host(name, move |reactor| {
            reactor.listen("tcp:7", |_| Echo).expect("a port");
            for other in (0..names.len()).filter(|other| *other != own) {
                chat_with(reactor, &format!("10.0.0.{}:7", other + 1));
            }
        });
    }
    sim.random_faults(&Faults::all(secs(4)));
    sim.run_for(secs(5));
}

fn busy_run(seed: u64) -> Simulation {
    let sim = Simulation::new(seed);
    sim.set_trace_limit(1_000_000);
    busy(&sim);
    sim
}

#[test]
fn a_hundred_runs_of_one_seed_are_the_same_run() {
    let first = busy_run(1);
    let (trace, fingerprint) = (first.trace(), first.fingerprint());
    assert!(first.events() > 1_000, "{} events are not busy", first.events());
    for word in ["fault:", "is reset", "crashes", "accepts", "gets the end"] {
        assert!(trace.contains(word), "nothing {word:?} happened");
    }
    for _ in 1..100 {
        let again = busy_run(1);
        assert!(again.trace() == trace, "a trace differs");
        assert_eq!(again.fingerprint(), fingerprint);
        assert_eq!((again.events(), again.now()), (first.events(), first.now()));
    }
}

#[test]
fn different_seeds_are_different_runs() {
    let fingerprints: BTreeSet<u64> = (0..50).map(|seed| busy_run(seed).fingerprint()).collect();
    assert_eq!(fingerprints.len(), 50);
}

/// The same in debug and release builds, and on every system. Whoever changes what a reactor or the
/// simulation does, or in which order, has other ones: the failing test says which.
const GOLDEN: [u64; 4] = [
    3_734_330_140_708_008_229,
    15_927_160_654_946_847_608,
    11_624_100_305_049_798_776,
    17_803_545_198_486_651_713,
];

#[test]
fn the_fingerprint_of_a_seed_is_the_same_in_every_build() {
    let fingerprints: Vec<u64> = (1..=4).map(|seed| busy_run(seed).fingerprint()).collect();
    assert_eq!(fingerprints, GOLDEN, "as long as the reactor and the simulation do what they did");
}

#[test]
fn a_short_trace_has_the_fingerprint_of_a_long_one() {
    let run = |lines| {
        let sim = Simulation::new(5);
        sim.set_trace_limit(lines);
        busy(&sim);
        sim
    };
    let (short, long) = (run(10), run(1_000_000));
    assert_eq!(short.fingerprint(), long.fingerprint());
    let (short, long) = (short.trace(), long.trace());
    let (left_out, last) = short.split_once('\n').expect("several lines");
    assert!(long.ends_with(last));
    assert_eq!(last.lines().count(), 10);
    assert_eq!(left_out, format!("({} earlier lines left out)", long.lines().count() - 10));
}

#[test]
fn a_note_is_part_of_the_trace_and_of_the_fingerprint() {
    let run = |text: &'static str| {
        let sim = Simulation::new(1);
        let host = sim.host("alpha", |_| {});
        sim.run_for(millis(1_500));
        host.note(text);
        sim.note("for all");
        sim
    };
    let one = run("hello");
    assert_eq!(one.trace(), "    1.500000000 alpha      hello\n    1.500000000            for all\n");
    assert_eq!(one.fingerprint(), run("hello").fingerprint());
    assert_ne!(one.fingerprint(), run("hullo").fingerprint());
    assert_eq!(one.last_events(1), "(1 earlier lines left out)\n    1.500000000            for all\n");
}

#[test]
fn random_numbers_of_a_reactor_follow_from_the_seed() {
    let numbers = |seed| {
        let sim = Simulation::new(seed);
        let hosts = ["a", "b"].map(|name| sim.host(name, |_| {}));
        hosts.map(|host| (0..5).map(|_| host.reactor().random().number()).collect::<Vec<u64>>())
    };
    assert_eq!(numbers(1), numbers(1));
    assert_ne!(numbers(1), numbers(2));
    let [one, other] = numbers(1);
    assert_ne!(one, other, "two hosts do not throw the same dice");
}

#[test]
fn random_numbers_of_a_next_life_are_other_ones() {
    let sim = Simulation::new(1);
    let host = sim.host("a", |_| {});
    let first = host.reactor().random().number();
    sim.inject(Fault::crash("a").lasting(secs(1)));
    sim.run_for(secs(2));
    assert_ne!(host.reactor().random().number(), first);
}

#[test]
fn random_numbers_of_the_test_follow_from_the_seed() {
    let numbers = |seed| {
        let sim = Simulation::new(seed);
        (0..20).map(|_| sim.random_below(10)).collect::<Vec<u64>>()
    };
    assert_eq!(numbers(1), numbers(1));
    assert_ne!(numbers(1), numbers(2));
    assert!(numbers(3).iter().all(|number| *number < 10));
}

/// The order in which several hosts do what they all do at one moment.
fn order_of_timers(seed: u64) -> Vec<usize> {
    let sim = Simulation::new(seed);
    let order = Rc::new(RefCell::new(Vec::new()));
    for number in 0..4 {
        let order = Rc::clone(&order);
        sim.host(&number.to_string(), move |reactor| {
            let order = Rc::clone(&order);
            reactor.call_later(secs(1), move |_| order.borrow_mut().push(number));
        });
    }
    sim.run_for(secs(2));
    order.take()
}

#[test]
fn hosts_run_in_every_order() {
    let orders: BTreeSet<Vec<usize>> = (0..500).map(order_of_timers).collect();
    assert_eq!(orders.len(), 24);
    assert_eq!(order_of_timers(7), order_of_timers(7));
}

/// The order in which data arrives that several streams carry at one moment, at one reactor.
fn order_of_arrivals(seed: u64) -> Vec<u8> {
    struct Collect(Rc<RefCell<Vec<u8>>>);
    impl Protocol for Collect {
        fn data_received(&mut self, _: &Transport, data: &[u8]) {
            self.0.borrow_mut().extend_from_slice(data);
        }
    }
    let net = Network::with_seed(seed);
    net.sim.set_link("a", "b", &Link::instant().latency(millis(1)));
    let order = Rc::new(RefCell::new(Vec::new()));
    let place = Rc::clone(&order);
    net.a.reactor().listen("tcp:80", move |_| Collect(Rc::clone(&place))).expect("a port");
    let clients: Vec<Client> = (0..3).map(|_| net.connect(&net.b, &net.a, 80)).collect();
    net.sim.run_for(secs(1));
    for (number, client) in (0..).zip(&clients) {
        client.write(&[number]);
    }
    net.sim.run_for(secs(1));
    order.take()
}

#[test]
fn streams_are_served_in_every_order() {
    let orders: BTreeSet<Vec<u8>> = (0..200).map(order_of_arrivals).collect();
    assert_eq!(orders.len(), 6);
}

#[test]
fn writes_of_one_stream_stay_in_order_with_every_seed() {
    for seed in 0..100 {
        let net = Network::with_seed(seed);
        net.sim.set_link("a", "b", &Link::instant());
        let client = net.connect(&net.b, &net.a, DISCARD);
        for number in 0..20_u8 {
            client.write(&[number]);
            if net.sim.random_below(2) == 0 {
                net.sim.run_for(millis(1));
            }
        }
        net.sim.run_for(secs(1));
        assert_eq!(net.discarded_at_a()[0].data(), (0..20).collect::<Vec<u8>>());
    }
}

// check.

/// Somebody who cannot stand a reset, among all other faults: a planted bug.
fn fragile(sim: &Simulation) {
    let reset = Rc::new(Cell::new(false));
    sim.host("server", |reactor| {
        reactor.listen("tcp:7", |_| Echo).expect("a port");
    });
    let seen = Rc::clone(&reset);
    sim.host("client", move |reactor| {
        let seen = Rc::clone(&seen);
        let (protocol, log) = AccumulatingProtocol::new();
        reactor.connect_protocol("tcp:10.0.0.1:7", protocol).on_done(|_, _| {});
        reactor.every(millis(10), move |_, _| {
            let is_reset = log.lost().is_some_and(|reason| reason == RESET);
            seen.set(seen.get() || is_reset);
        });
    });
    let weather = Faults::within(secs(20)).partitions(4.0).freezes(4.0).clock_rates(4.0).resets(0.5);
    sim.random_faults(&weather);
    sim.run_for(secs(25));
    assert!(!reset.get(), "the planted bug shows");
}

#[test]
fn a_bug_is_found_with_the_one_fault_that_it_needs() {
    let (seed, text) =
        (0..100).find_map(|seed| Some((seed, find_failure(seed, fragile)?))).expect("a seed that fails");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(&*format!("seed {seed} fails: the planted bug shows")));
    let found = lines.next().expect("how many faults it needs");
    assert!(found.starts_with("It needs 1 of its ") && found.ends_with(" random faults:"), "{text}");
    let many: usize = found.split(' ').nth(5).and_then(|count| count.parse().ok()).expect("a number");
    assert!(many > 3, "{text}");
    let fault = lines.next().expect("the fault");
    assert!(fault.contains("reset of a stream of "), "{text}");
    assert_eq!(lines.next(), Some("The last events:"));
    assert!(text.contains("is reset"), "{text}");
    // Looked for again, it is found again.
    assert_eq!(find_failure(seed, fragile), Some(text));
}

#[test]
fn a_bug_that_needs_two_faults_is_found_with_two() {
    let needs_two = |sim: &Simulation| {
        sim.host("a", |_| {});
        sim.host("b", |_| {});
        sim.random_faults(&Faults::within(secs(20)).freezes(6.0).only(["a"]));
        sim.random_faults(&Faults::within(secs(20)).slow_readers(6.0).clock_rates(6.0).only(["b"]));
        sim.run_for(secs(30));
        let trace = sim.trace();
        assert!(!(trace.contains("freeze of a") && trace.contains("b reads")), "both happened");
    };
    let text = (0..20).find_map(|seed| find_failure(seed, needs_two)).expect("a seed that fails");
    let faults: Vec<&str> = text.lines().skip(2).take_while(|line| line.starts_with("  ")).collect();
    assert!(text.contains("It needs 2 of its "), "{text}");
    assert_eq!(faults.len(), 2, "{text}");
    assert!(text.contains("freeze of a") && text.contains("b reads"), "{text}");
}

#[test]
fn a_bug_that_needs_no_fault_is_found_without() {
    let text = find_failure(3, |sim| {
        sim.host("a", |_| {});
        sim.random_faults(&Faults::within(secs(20)).freezes(6.0));
        sim.run_for(secs(30));
        panic!("always");
    })
    .expect("a failure");
    assert!(text.starts_with("seed 3 fails: always\nIt needs none of its "), "{text}");
    let text = find_failure(3, |sim| sim.find("nobody").note("hello")).expect("a failure");
    assert!(text.starts_with("seed 3 fails: the simulation has no host \"nobody\""), "{text}");
    assert!(!text.contains("It needs"), "{text}");
}

#[test]
fn a_scenario_that_holds_is_run_with_every_seed() {
    let seeds = RefCell::new(Vec::new());
    check(10..20, |sim| seeds.borrow_mut().push(sim.seed()));
    assert!(*seeds.borrow() == (10..20).collect::<Vec<u64>>() || std::env::var_os("TWISTOR_SEED").is_some());
    assert_eq!(find_failure(1, |_| {}), None);
}

#[test]
fn check_stops_at_the_first_seed_that_fails() {
    if std::env::var_os("TWISTOR_SEED").is_some() {
        return;
    }
    let runs = Cell::new(0);
    let text = panic_of(|| {
        check(0..20, |sim| {
            runs.set(runs.get() + 1);
            assert!(sim.seed() < 7, "seven is too much");
        });
    });
    assert!(text.starts_with("seed 7 fails: seven is too much"), "{text}");
    assert_eq!(runs.get(), 8);
}

// TWISTOR_SEED.

/// Says to tests whose names begin with `child` that another one has started them.
const CHILD: &str = "TWISTOR_TEST_CHILD";

/// Runs one test of this program by itself, with this in its environment; its output.
fn run_test(name: &str, seed: &str) -> String {
    let output = Command::new(std::env::current_exe().expect("the test program"))
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .env("TWISTOR_SEED", seed)
        .stdin(Stdio::null())
        .output()
        .expect("the test program starts");
    [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat()
}

#[test]
fn child_says_its_seeds() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    check(0..3, |sim| println!("its seed is {}", sim.seed()));
}

#[test]
fn child_fails() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    check(0..3, |sim| {
        sim.note("a last word");
        panic!("as planned with {}", sim.seed());
    });
}

#[test]
fn child_fails_without_check() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let sim = Simulation::new(99);
    sim.note("a last word");
    panic!("as planned");
}

#[test]
fn the_environment_chooses_the_seed() {
    let text = run_test("child_says_its_seeds", "123456789");
    assert_eq!(text.matches("its seed is").count(), 1, "{text}");
    assert!(text.contains("its seed is 123456789\n"), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
fn a_seed_that_is_no_number_is_told() {
    let text = run_test("child_says_its_seeds", "lucky");
    assert!(text.contains("TWISTOR_SEED=\"lucky\" is not a number"), "{text}");
    assert!(!text.contains("its seed is"), "{text}");
}

#[test]
fn a_failure_is_printed_once_with_its_seed_and_last_events() {
    let text = run_test("child_fails", "17");
    assert_eq!(text.matches("as planned with 17").count(), 1, "{text}");
    assert!(text.contains("seed 17 fails"), "{text}");
    assert_eq!(text.matches("a last word").count(), 1, "{text}");
    assert!(text.contains("Replay it with TWISTOR_SEED=17."), "{text}");
}

#[test]
fn a_simulation_by_itself_says_its_seed_when_its_test_fails() {
    let text = run_test("child_fails_without_check", "17");
    assert!(text.contains("the simulation with seed 99 failed at t=0ns"), "{text}");
    assert!(text.contains("a last word"), "{text}");
}

#[test]
fn a_replay_needs_nothing_but_the_seed() {
    let (seed, text) =
        (0..100).find_map(|seed| Some((seed, find_failure(seed, fragile)?))).expect("a seed that fails");
    let replayed = panic_of(|| check([seed], fragile));
    assert_eq!(replayed, format!("{text}Replay it with TWISTOR_SEED={seed}."));
}

#[test]
fn scripted_and_random_faults_go_together() {
    let run = |seed| {
        let net = Network::with_seed(seed);
        net.sim.inject_at(secs(1), Fault::freeze("a"));
        net.sim
            .random_faults(&Faults::within(secs(10)).freezes(5.0).lasting_up_to(Duration::from_millis(50)));
        net.sim.run_for(secs(20));
        net.sim.trace()
    };
    let traces: Vec<String> = (0..20).map(run).collect();
    assert!(traces.iter().all(|trace| trace.contains("    1.000000000            fault: freeze of a")));
    assert!(traces.iter().map(|trace| trace.matches("freeze of").count()).max() > Some(5));
}
