//! The contract, section 7: connecting to hosts by their names.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use twistor::endpoint::TcpConnect;
use twistor::testing::{AccumulatingProtocol, Fault, Simulation};
use twistor::{ConnectErrorKind, Deferred, Handle, Protocol, Reactor, ReactorBuilder, Transport};
use twistor_tests::{World, contract, kernel_contract};

struct Quiet;

impl Protocol for Quiet {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

/// Whom a connect reached, or the kind and text of its error.
type Reached = Result<String, (ConnectErrorKind, String)>;

fn connect(
    handle: &Handle,
    endpoint: impl twistor::endpoint::IntoConnectEndpoint,
) -> Rc<RefCell<Option<Reached>>> {
    let outcome = Rc::new(RefCell::new(None));
    let place = Rc::clone(&outcome);
    handle.connect(endpoint, |_| Quiet).on_done(move |_, result| {
        let result = result.map(|connection| connection.peer_addr().to_string());
        *place.borrow_mut() = Some(result.map_err(|error| (error.kind(), error.to_string())));
    });
    outcome
}

fn reached(world: &World, outcome: &Rc<RefCell<Option<Reached>>>) -> Reached {
    world.until("the attempt has ended", || outcome.borrow().is_some());
    outcome.take().expect("just seen")
}

/// Answers `name` with these addresses, and nothing else; counts the questions.
fn knows(
    builder: ReactorBuilder,
    name: &'static str,
    addresses: &[&str],
    asked: &Arc<AtomicUsize>,
) -> ReactorBuilder {
    let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().expect("an address")).collect();
    let asked = Arc::clone(asked);
    builder.resolver(move |handle, question| {
        asked.fetch_add(1, Ordering::SeqCst);
        let (resolver, deferred) = Deferred::new(handle);
        resolver.resolve(if question == name {
            Ok(addresses.clone())
        } else {
            Err(std::io::Error::new(std::io::ErrorKind::NotFound, "never heard of it"))
        });
        deferred
    })
}

contract! {
    // Lines 50 and 52.
    fn a_name_is_looked_up_and_connected_to(driver) {
        let asked = Arc::default();
        let world = World::with(driver, |builder| knows(builder, "here", &["127.0.0.1"], &asked));
        let port = world.listen(|_| Quiet);
        let number = port.local_addr().port();
        let outcome = connect(&world.reactor, format!("tcp:here:{number}"));
        assert!(outcome.borrow().is_none(), "no call runs a hook");
        assert_eq!(reached(&world, &outcome), Ok(port.local_addr().to_string()));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert_eq!(world.reactor.stats().attempts, 0);
    }

    // Line 52.
    fn an_address_never_reaches_the_resolver(driver) {
        let asked = Arc::default();
        let world = World::with(driver, |builder| knows(builder, "here", &[], &asked));
        let port = world.listen(|_| Quiet);
        let address = port.local_addr();
        for endpoint in [format!("tcp:{address}"), format!("tcp:host=127.0.0.1:port={}", address.port())] {
            assert_eq!(reached(&world, &connect(&world.reactor, endpoint)), Ok(address.to_string()));
        }
        let endpoint = TcpConnect::host("127.0.0.1", address.port());
        assert_eq!(reached(&world, &connect(&world.reactor, endpoint)), Ok(address.to_string()));
        assert_eq!(asked.load(Ordering::SeqCst), 0);
    }

    // Line 50.
    fn a_name_that_nobody_knows_is_an_error_that_names_it(driver) {
        let asked = Arc::default();
        let world = World::with(driver, |builder| knows(builder, "empty", &[], &asked));
        let unknown = reached(&world, &connect(&world.reactor, "tcp:nowhere:80"));
        let text = "cannot connect to nowhere:80: the name cannot be resolved: never heard of it";
        assert_eq!(unknown, Err((ConnectErrorKind::NotFound, text.to_owned())));
        let empty = reached(&world, &connect(&world.reactor, "tcp:empty:80"));
        let text = "cannot connect to empty:80: the name cannot be resolved: it has no address";
        assert_eq!(empty, Err((ConnectErrorKind::NotFound, text.to_owned())));
        world.assert_sleeps("nothing is under way");
    }

    // Line 52.
    fn after_a_failure_the_next_address_is_tried_at_once(driver) {
        let asked = Arc::default();
        let addresses = ["127.0.0.2", "127.0.0.3", "127.0.0.1"];
        let world = World::with(driver, |builder| knows(builder, "here", &addresses, &asked));
        let port = world.listen(|_| Quiet);
        let began = world.now();
        let outcome = connect(&world.reactor, format!("tcp:here:{}", port.local_addr().port()));
        assert_eq!(reached(&world, &outcome), Ok(port.local_addr().to_string()));
        assert!(world.since(began) < Duration::from_millis(250), "it did not wait");
    }

    // Line 50.
    fn when_all_addresses_fail_the_error_tells_of_each(driver) {
        let asked = Arc::default();
        let world = World::with(driver, |builder| knows(builder, "here", &["127.0.0.2", "127.0.0.3"], &asked));
        let port = world.listen(|_| Quiet);
        let number = port.local_addr().port();
        let Err((kind, text)) = reached(&world, &connect(&world.reactor, format!("tcp:here:{number}"))) else {
            panic!("nobody listens there");
        };
        assert_eq!(kind, ConnectErrorKind::Refused);
        assert!(text.starts_with(&format!("cannot connect to here:{number}: ")), "{text}");
        for address in ["127.0.0.2", "127.0.0.3"] {
            assert!(text.contains(&format!("{address}:{number}")), "{text}");
        }
        world.assert_sleeps("nothing is under way");
    }

    // Line 51.
    fn cancelling_ends_the_search_for_an_address(driver) {
        let asked = Arc::default();
        let world = World::with(driver, |builder| knows(builder, "here", &["127.0.0.1"], &asked));
        let port = world.listen(|_| Quiet);
        let outcome = Rc::new(Cell::new(None));
        let place = Rc::clone(&outcome);
        let connecting = world
            .reactor
            .connect(format!("tcp:here:{}", port.local_addr().port()), |_| -> Quiet { unreachable!("cancelled") });
        let canceller = connecting.canceller();
        connecting.on_done(move |_, result| place.set(result.err().map(|error| error.kind())));
        assert!(canceller.cancel());
        world.until("the outcome", || world.reactor.stats().attempts == 0 && outcome.get().is_some());
        assert_eq!(outcome.get(), Some(ConnectErrorKind::Cancelled));
        world.run_for(Duration::from_millis(20));
        assert_eq!(world.reactor.stats().accepted, 0);
    }

    // Line 51.
    fn the_time_limit_covers_the_search_for_an_address(driver) {
        let world = World::with(driver, |builder| {
            // Never answers.
            builder.resolver(|handle, _| {
                let (resolver, deferred) = Deferred::new(handle);
                let kept = RefCell::new(Some(resolver));
                handle.call_later(Duration::from_secs(3600), move |_| drop(kept.take())).unref();
                deferred
            })
        });
        let endpoint = TcpConnect::host("here", 80).timeout(Duration::from_millis(50));
        let began = world.now();
        let Err((kind, text)) = reached(&world, &connect(&world.reactor, endpoint)) else {
            panic!("there is no address");
        };
        assert_eq!((kind, &*text), (ConnectErrorKind::TimedOut, "cannot connect to here:80: timed out"));
        assert!(world.since(began) >= Duration::from_millis(50));
    }

    // Line 50.
    fn a_name_that_cannot_be_one_is_an_error_of_the_endpoint(driver) {
        let world = World::new(driver);
        for bad in ["tcp:a b:80", "tcp:1.2.3.4.5:80", "tcp:a..b:80"] {
            let outcome = reached(&world, &connect(&world.reactor, bad));
            assert!(matches!(outcome, Err((ConnectErrorKind::Endpoint, _))), "{outcome:?}");
        }
    }
}

kernel_contract! {
    // Line 52.
    fn the_systems_resolver_knows_localhost(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Quiet);
        let outcome = connect(&world.reactor, format!("tcp:localhost:{}", port.local_addr().port()));
        assert_eq!(reached(&world, &outcome), Ok(port.local_addr().to_string()));
    }

    // Line 52.
    fn the_resolver_has_threads_of_its_own(driver) {
        let world = World::with(driver, |builder| builder.threads(1));
        let port = world.listen(|_| Quiet);
        let (release, released) = std::sync::mpsc::channel::<()>();
        world.reactor.defer_to_thread(move || released.recv().is_ok()).on_done(|_, _| {});
        let outcome = connect(&world.reactor, format!("tcp:localhost:{}", port.local_addr().port()));
        assert!(reached(&world, &outcome).is_ok());
        release.send(()).expect("the job waits");
    }
}

/// A host with both families whose program listens, and one that connects to it; when each attempt was seen
/// to begin.
fn two_hosts(answers_on_v6: bool) -> (Simulation, Rc<RefCell<Option<Reached>>>) {
    let sim = Simulation::new(3);
    sim.host("server", move |reactor| {
        let endpoint = if answers_on_v6 { "tcp6:80" } else { "tcp:80" };
        reactor.listen(endpoint, |_| Quiet).expect("a port");
    });
    let client = sim.host("client", |_| {});
    let outcome = connect(&client.reactor(), "tcp:server:80");
    (sim, outcome)
}

// Line 52.
#[test]
fn names_of_a_simulation_are_those_of_its_hosts() {
    let (sim, outcome) = two_hosts(true);
    sim.run_until("it is connected", || outcome.borrow().is_some());
    assert_eq!(outcome.take(), Some(Ok("[fd00::1]:80".to_owned())), "IPv6 comes first");
    assert!(sim.now() < Duration::from_millis(5));
}

// Line 52.
#[test]
fn a_family_that_is_refused_costs_nothing() {
    let (sim, outcome) = two_hosts(false);
    sim.run_until("it is connected", || outcome.borrow().is_some());
    assert_eq!(outcome.take(), Some(Ok("10.0.0.1:80".to_owned())));
    assert!(sim.now() < Duration::from_millis(5), "{:?}", sim.now());
}

/// A client whose first addresses lead to hosts that do not answer.
fn black_holes(silent: &[&'static str]) -> (Simulation, Rc<RefCell<Option<Reached>>>) {
    let sim = Simulation::new(3);
    for name in silent {
        sim.host(name, |_| {});
        sim.inject(Fault::crash(name));
    }
    let server = sim.host("server", |reactor| {
        reactor.listen("tcp:80", |_| Quiet).expect("a port");
    });
    let mut addresses: Vec<IpAddr> = silent.iter().map(|name| sim.find(name).ip()).collect();
    addresses.push(server.ip());
    let addresses = Mutex::new(addresses);
    let builder = Reactor::builder().resolver(move |handle, _| {
        let (resolver, deferred) = Deferred::new(handle);
        resolver.resolve(Ok(addresses.lock().expect("not poisoned").clone()));
        deferred
    });
    let client = sim.host_with("client", builder, |_| {});
    let outcome = connect(&client.reactor(), "tcp:several:80");
    (sim, outcome)
}

// Line 52.
#[test]
fn an_address_that_is_silent_costs_a_quarter_of_a_second() {
    let (sim, outcome) = black_holes(&["hole"]);
    sim.run_until("it is connected", || outcome.borrow().is_some());
    assert_eq!(outcome.take(), Some(Ok("10.0.0.2:80".to_owned())));
    let took = sim.now();
    assert!((Duration::from_millis(250)..Duration::from_millis(300)).contains(&took), "{took:?}");
    // The other attempt is given up: nothing of it is left.
    assert_eq!(sim.find("client").open_descriptors(), 1);
    sim.run_for(Duration::from_secs(200));
    assert_eq!(sim.find("client").reactor().stats().attempts, 0);
}

// Line 52.
#[test]
fn each_silent_address_costs_a_quarter_of_a_second() {
    let (sim, outcome) = black_holes(&["one", "two", "three"]);
    sim.run_until("it is connected", || outcome.borrow().is_some());
    let took = sim.now();
    assert!((Duration::from_millis(750)..Duration::from_millis(800)).contains(&took), "{took:?}");
}

// Lines 50 and 52.
#[test]
fn a_late_answer_of_the_first_address_wins_if_the_second_is_slower() {
    let sim = Simulation::new(5);
    for name in ["near", "far"] {
        sim.host(name, |reactor| {
            reactor.listen("tcp:80", |_| Quiet).expect("a port");
        });
    }
    let addresses = [sim.find("near").ip(), sim.find("far").ip()].to_vec();
    let builder = Reactor::builder().resolver(move |handle, _| {
        let (resolver, deferred) = Deferred::new(handle);
        resolver.resolve(Ok(addresses.clone()));
        deferred
    });
    let client = sim.host_with("client", builder, |_| {});
    let link =
        |millis| twistor::testing::Link::new().latency(Duration::from_millis(millis)).jitter(Duration::ZERO);
    sim.set_link("client", "near", &link(200));
    sim.set_link("client", "far", &link(300));
    let outcome = connect(&client.reactor(), "tcp:both:80");
    sim.run_until("it is connected", || outcome.borrow().is_some());
    assert_eq!(outcome.take(), Some(Ok("10.0.0.1:80".to_owned())));
    assert_eq!(sim.now(), Duration::from_millis(400));
    sim.run_for(Duration::from_secs(10));
    // The far one saw an attempt that came to nothing, or a connection that ended at once.
    assert_eq!(sim.find("far").reactor().stats().connections, 0);
    let (protocol, log) = AccumulatingProtocol::new();
    client.reactor().connect_protocol("tcp:both:80", protocol).on_done(|_, _| {});
    sim.run_until("again", || log.transport().is_some());
    assert_eq!(Ipv4Addr::new(10, 0, 0, 1), log.transport().expect("made").peer_addr().ip().expect("IP"));
}
