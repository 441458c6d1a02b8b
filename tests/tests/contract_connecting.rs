//! The contract, section 7, lines 50 and 51: connecting.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use twistor::endpoint::{ConnectEndpoint, IntoConnectEndpoint, TcpConnect};
use twistor::{
    ConnectError, ConnectErrorKind, Connection, Deferred, Eof, Factory, Port, Protocol, Transport,
};
use twistor_tests::{Driver, Event, Log, Script, World, contract, kernel_contract, process};

struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// Tells when it is dropped.
struct Guard(Rc<Cell<bool>>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

fn address_of(port: &Port) -> SocketAddr {
    port.local_addr().socket_addr().expect("an IP port")
}

/// Waits for the outcome.
fn outcome<P: Protocol>(
    world: &World,
    attempt: Deferred<Connection<P>, ConnectError>,
) -> Result<Connection<P>, ConnectError> {
    let place = Rc::new(RefCell::new(None));
    let result = Rc::clone(&place);
    attempt.on_done(move |_, outcome| *result.borrow_mut() = Some(outcome));
    world.until("the attempt has an outcome", || place.borrow().is_some());
    place.take().unwrap()
}

fn error<P: Protocol>(world: &World, attempt: Deferred<Connection<P>, ConnectError>) -> ConnectError {
    outcome(world, attempt).expect_err("the attempt should fail")
}

/// A factory that must not be asked.
fn never() -> impl Factory<Protocol = Echo> {
    |_: twistor::Peer| -> Echo { panic!("a protocol was asked for") }
}

/// The error names the address and the cause.
fn names(error: &ConnectError, address: SocketAddr, cause: &str) {
    let text = error.to_string();
    assert!(text.contains(&address.to_string()), "the address is missing: {text}");
    assert!(text.contains(cause), "{cause:?} is missing: {text}");
}

contract! {
    // Line 50.
    fn the_outcome_is_the_typed_connection_after_its_connection_made(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Echo);
        let log = Log::new();
        let script = log.clone();
        let attempt = world.reactor.connect(address_of(&port), move |_| {
            Script::new(&script).on_made(|transport| transport.write(b"made"))
        });
        let made_before = Rc::new(Cell::new(false));
        let (seen, made) = (log.clone(), Rc::clone(&made_before));
        let place = Rc::new(RefCell::new(None));
        let result = Rc::clone(&place);
        attempt.on_done(move |_, outcome| {
            made.set(seen.has(&Event::Made));
            *result.borrow_mut() = Some(outcome);
        });
        assert_eq!(log.events(), [], "called from inside the call");
        world.until("the attempt has an outcome", || place.borrow().is_some());
        let connection: Connection<Script> = place.take().unwrap().unwrap();
        assert!(made_before.get(), "connection_made was not before the outcome");
        world.until("the echo", || log.data() == b"made");
        assert_eq!(connection.peer_addr(), port.local_addr());
        // It leads into the protocol.
        let posted = Rc::new(Cell::new(false));
        let post = Rc::clone(&posted);
        assert!(connection.post(move |_: &mut Script, transport| {
            post.set(!transport.is_closing());
        }));
        world.until("the post", || posted.get());
        assert_eq!(log.count(&Event::Made), 1);
        let stats = world.reactor.stats();
        assert_eq!((stats.connected, stats.accepted, stats.connections), (1, 1, 2));
    }

    // Line 50.
    fn every_way_to_name_an_endpoint_connects(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Echo);
        let address = address_of(&port);
        outcome(&world, world.reactor.connect(address, |_| Echo)).unwrap();
        outcome(&world, world.reactor.connect(format!("tcp:{address}"), |_| Echo)).unwrap();
        outcome(&world, world.reactor.connect(&*format!("tcp:{address}"), |_| Echo)).unwrap();
        outcome(&world, world.reactor.connect(TcpConnect::new(address), |_| Echo)).unwrap();
        let endpoint: ConnectEndpoint = address.into_connect_endpoint().unwrap();
        outcome(&world, world.reactor.connect(endpoint, |_| Echo)).unwrap();
        assert_eq!(world.reactor.stats().connected, 5);
    }

    // Line 50.
    fn an_ipv6_address_connects(driver) {
        let world = World::new(driver);
        let port = world.reactor.listen("tcp6:0:interface=[::1]", |_| Echo).unwrap();
        let number = address_of(&port).port();
        let connection = outcome(&world, world.reactor.connect(format!("tcp:[::1]:{number}"), |_| Echo));
        assert_eq!(connection.unwrap().peer_addr().ip(), Some(Ipv6Addr::LOCALHOST.into()));
    }

    // Line 50.
    fn connect_protocol_takes_the_one_value(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Echo);
        let log = Log::new();
        let protocol = Script::new(&log).on_made(|transport| transport.write(b"hello"));
        let connection: Connection<Script> =
            outcome(&world, world.reactor.connect_protocol(address_of(&port), protocol)).unwrap();
        world.until("the echo", || log.data() == b"hello");
        connection.lose_connection();
        world.until("the loss", || log.lost().is_some());
    }

    // Line 50.
    fn a_protocol_that_gets_no_connection_is_dropped(driver) {
        let world = World::new(driver);
        let dropped = Rc::new(Cell::new(false));
        let guard = Guard(Rc::clone(&dropped));
        let log = Log::new();
        let protocol = Script::new(&log).on_made(move |_| assert!(!guard.0.get()));
        error(&world, world.reactor.connect_protocol(world.machine().vacant(), protocol));
        world.turns(2);
        assert!(dropped.get());
        assert_eq!(log.events(), []);
    }

    // Line 50.
    fn the_local_address_is_the_one_asked_for(driver) {
        let world = World::new(driver);
        let from = Rc::new(Cell::new(None));
        let seen = Rc::clone(&from);
        let port = world.listen(move |peer: twistor::Peer| {
            seen.set(peer.address.socket_addr());
            Echo
        });
        let local = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 9), 0));
        let endpoint = TcpConnect::new(address_of(&port)).local_addr(local);
        let connection = outcome(&world, world.reactor.connect(endpoint, |_| Echo)).unwrap();
        world.until("the connection is accepted", || from.get().is_some());
        assert_eq!(from.get(), connection.local_addr().socket_addr());
        assert_eq!(connection.local_addr().ip(), Some(local.ip()));
    }

    // Line 50.
    fn a_local_address_of_somebody_else_is_an_error_that_names_it(driver) {
        let world = World::new(driver);
        let target = world.machine().vacant();
        let endpoint = TcpConnect::new(target).local_addr((Ipv4Addr::new(192, 0, 2, 1), 0).into());
        let error = error(&world, world.reactor.connect(endpoint, never()));
        names(&error, target, "192.0.2.1");
        names(&error, target, "not local");
    }

    // Line 50.
    fn a_refusal_names_the_address_and_the_cause(driver) {
        let world = World::new(driver);
        let address = world.machine().vacant();
        let error = error(&world, world.reactor.connect(address, never()));
        assert_eq!(error.kind(), ConnectErrorKind::Refused);
        names(&error, address, "refused");
        // Nothing is said twice.
        assert_eq!(error.to_string().matches(&address.to_string()).count(), 1, "{error}");
        assert_eq!(std::io::Error::from(error).kind(), ErrorKind::ConnectionRefused);
        assert_eq!(world.reactor.stats().connections, 0);
    }

    // Line 50.
    fn no_route_names_the_address_and_the_cause(driver) {
        let world = World::new(driver);
        // A documentation address; on a real machine through the device that leads nowhere else.
        let address = SocketAddr::from(("2001:db8::1".parse::<Ipv6Addr>().unwrap(), 9));
        let mut endpoint = TcpConnect::new(address).timeout(Duration::from_secs(5));
        if driver != Driver::Simulated {
            endpoint = endpoint.bind_device("lo");
        }
        let error = error(&world, world.reactor.connect(endpoint, never()));
        assert_eq!(error.kind(), ConnectErrorKind::Unreachable, "{error}");
        names(&error, address, "route");
        assert_eq!(std::io::Error::from(error).kind(), ErrorKind::HostUnreachable);
    }

    // Lines 50 and 51.
    fn a_time_out_names_the_address_and_the_cause_and_is_never_early(driver) {
        let world = World::new(driver);
        let silent = world.machine().silent();
        let time = Duration::from_millis(60);
        let endpoint = TcpConnect::new(silent.address).timeout(time);
        let began = world.now();
        let error = error(&world, world.reactor.connect(endpoint, never()));
        assert!(world.since(began) >= time);
        assert_eq!(error.kind(), ConnectErrorKind::TimedOut);
        names(&error, silent.address, "timed out");
        assert_eq!(std::io::Error::from(error).kind(), ErrorKind::TimedOut);
        assert_eq!((world.reactor.stats().connections, world.reactor.stats().timers), (0, 0));
    }

    // Line 51.
    fn an_attempt_has_thirty_seconds_unless_told_otherwise(driver) {
        let world = World::new(driver);
        let silent = world.machine().silent();
        let began = world.reactor.now();
        let attempt = world.reactor.connect(silent.address, never());
        world.turns(2);
        let left = world.reactor.next_deadline().expect("a time-out") - began;
        assert!(left >= Duration::from_secs(30) && left < Duration::from_secs(35), "{left:?}");
        assert!(attempt.cancel());
        assert_eq!(world.reactor.stats().timers, 0);
    }

    // Line 51.
    fn the_time_out_of_a_connection_that_came_is_gone(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Echo);
        let log = Log::new();
        let script = log.clone();
        let endpoint = TcpConnect::new(address_of(&port)).timeout(Duration::from_millis(40));
        let connection = outcome(&world, world.reactor.connect(endpoint, move |_| Script::new(&script)));
        assert_eq!(world.reactor.stats().timers, 0);
        world.run_for(Duration::from_millis(60));
        assert_eq!(log.events(), [Event::Made]);
        assert!(!connection.unwrap().is_closing());
    }

    // Line 50.
    fn a_bad_endpoint_comes_through_the_deferred_and_is_quoted(driver) {
        let world = World::new(driver);
        let attempt = world.reactor.connect("tcp:127.0.0.1:http", never());
        let error = error(&world, attempt);
        assert_eq!(error.kind(), ConnectErrorKind::Endpoint);
        let text = error.to_string();
        assert!(text.contains("tcp:127.0.0.1:http") && text.contains("port"), "{text}");
        assert_eq!(text.matches("tcp:127.0.0.1:http").count(), 1, "{text}");
        assert_eq!(std::io::Error::from(error).kind(), ErrorKind::InvalidInput);
    }

    // Line 51.
    fn a_cancelled_attempt_ends_and_calls_nothing(driver) {
        let world = World::new(driver);
        let silent = world.machine().silent();
        let attempt = world.reactor.connect(silent.address, never());
        world.turns(3);
        assert!(attempt.cancel());
        assert!(!attempt.cancel(), "it can only be cancelled once");
        let error = error(&world, attempt);
        assert_eq!(error.kind(), ConnectErrorKind::Cancelled);
        names(&error, silent.address, "cancelled");
        let stats = world.reactor.stats();
        assert_eq!((stats.connections, stats.timers, stats.panics), (0, 0, 0));
    }

    // Line 51.
    fn an_attempt_cancelled_before_its_first_turn_calls_nothing(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Echo);
        let attempt = world.reactor.connect(address_of(&port), never());
        assert!(attempt.cancel());
        let error = error(&world, attempt);
        names(&error, address_of(&port), "cancelled");
        world.turns(5);
        assert_eq!(world.reactor.stats().connected, 0);
        assert_eq!(world.reactor.stats().panics, 0);
    }

    // Line 51.
    fn an_attempt_that_has_its_connection_cannot_be_cancelled(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Echo);
        let log = Log::new();
        let attempt = world.reactor.connect_protocol(address_of(&port), Script::new(&log));
        world.until("the connection is made", || log.has(&Event::Made));
        assert!(!attempt.cancel());
        assert!(outcome(&world, attempt).is_ok());
        assert_eq!(log.lost(), None);
    }

    // Line 50.
    fn dropping_the_deferred_changes_nothing(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Echo);
        let log = Log::new();
        drop(world.reactor.connect_protocol(address_of(&port), Script::new(&log)));
        world.until("the connection is made", || log.has(&Event::Made));
    }

    // Line 50.
    fn a_connector_is_checked_once_and_used_often(driver) {
        let world = World::new(driver);
        let error = world.reactor.connector("tcp:127.0.0.1:70000").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("70000"), "{error}");

        let port = world.listen(|_| Echo);
        let connector = world.reactor.connector(address_of(&port)).unwrap();
        assert_eq!(*connector.endpoint(), address_of(&port).into_connect_endpoint().unwrap());
        for _ in 0..3 {
            let connection = outcome(&world, connector.connect(|_| Echo)).unwrap();
            assert_eq!(connection.peer_addr(), port.local_addr());
        }
        assert_eq!(world.reactor.stats().connected, 3);
    }

    // Line 50, and decision 10: every queue has a limit.
    fn no_more_attempts_are_under_way_than_the_limit_allows(driver) {
        let world = World::with(driver, |builder| builder.pending_connects(2));
        let silent = world.machine().silent();
        let attempts = [(); 2].map(|()| world.reactor.connect(silent.address, never()));
        let failure = error(&world, world.reactor.connect(silent.address, never()));
        assert_eq!(failure.kind(), ConnectErrorKind::TooMany);
        names(&failure, silent.address, "pending_connects");
        // When one is over there is room for another.
        assert!(attempts[0].cancel());
        let port = world.listen(|_| Echo);
        outcome(&world, world.reactor.connect(address_of(&port), |_| Echo)).unwrap();
        outcome(&world, world.reactor.connect(address_of(&port), |_| Echo)).unwrap();
        assert!(attempts[1].cancel());
    }

    // Line 50.
    fn many_attempts_at_once_all_have_an_outcome(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Echo);
        let vacant = world.machine().vacant();
        let (made, refused) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        for n in 0..200 {
            let (made, refused) = (Rc::clone(&made), Rc::clone(&refused));
            let target = if n % 2 == 0 { address_of(&port) } else { vacant };
            world.reactor.connect(target, |_| Echo).on_done(move |_, outcome| match outcome {
                Ok(connection) => {
                    made.set(made.get() + 1);
                    connection.lose_connection();
                }
                Err(error) => {
                    assert_eq!(error.kind(), ConnectErrorKind::Refused);
                    refused.set(refused.get() + 1);
                }
            });
        }
        world.until("all outcomes", || made.get() + refused.get() == 200);
        assert_eq!((made.get(), refused.get()), (100, 100));
        world.until("all connections are over", || world.reactor.stats().connections == 0);
    }

    // Line 50.
    fn a_connection_that_the_factory_declines_is_closed_and_named(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let script = log.clone();
        let port = world.listen(move |_| Script::new(&script));
        let attempt = world.reactor.connect(address_of(&port), |_| None::<Echo>);
        let error = error(&world, attempt);
        assert_eq!(error.kind(), ConnectErrorKind::Declined);
        names(&error, address_of(&port), "protocol");
        world.until("the other end hears of it", || log.lost().is_some());
        assert_eq!(log.count(&Event::Eof), 1, "not a quiet close: {:?}", log.events());
        assert_eq!(world.reactor.stats().panics, 0);
    }

    // Lines 50 and 5.
    fn a_factory_that_panics_declines(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Echo);
        let attempt = world.reactor.connect(address_of(&port), never());
        let error = error(&world, attempt);
        assert_eq!(error.kind(), ConnectErrorKind::Declined);
        assert_eq!(world.reactor.stats().panics, 1);
        outcome(&world, world.reactor.connect(address_of(&port), |_| Echo)).unwrap();
    }

    // Lines 50 and 5.
    fn a_panic_in_connection_made_is_a_loss_and_an_error(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Echo);
        let log = Log::new();
        let protocol = Script::new(&log).on_made(|_| panic!("on purpose"));
        let error = error(&world, world.reactor.connect_protocol(address_of(&port), protocol));
        assert_eq!(error.kind(), ConnectErrorKind::Declined);
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.events(), [Event::Made, Event::Lost("a hook panicked".into())]);
    }

    // Line 50.
    fn a_protocol_may_end_its_connection_in_connection_made(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Echo);
        let log = Log::new();
        let protocol = Script::new(&log).on_made(Transport::abort_connection);
        let connection =
            outcome(&world, world.reactor.connect_protocol(address_of(&port), protocol)).unwrap();
        assert!(connection.is_closing());
        assert!(!connection.post(|_: &mut Script, _| {}));
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.events(), [Event::Made, Event::Lost("aborted".into())]);
    }

    // Line 50.
    fn connecting_to_oneself_is_a_refusal(driver) {
        let world = World::new(driver);
        // The number is free again when the listener that chose it is closed.
        let address = world.machine().listen((process::own_address(), 0).into()).unwrap().local_addr();
        let endpoint = TcpConnect::new(address).local_addr(address);
        let error = error(&world, world.reactor.connect(endpoint, never()));
        assert_eq!(error.kind(), ConnectErrorKind::Refused, "{error}");
        names(&error, address, "refused");
    }

    // Line 50.
    fn data_that_comes_with_the_connection_is_delivered(driver) {
        let world = World::new(driver);
        let listener = world.machine().listen_somewhere();
        let log = Log::new();
        let protocol = Script::new(&log).on_eof(|_| Eof::Close);
        let attempt = world.reactor.connect_protocol(listener.local_addr(), protocol);
        // It is accepted, greeted and ended by its peer before the loop has seen it.
        let peer = listener.accept().unwrap();
        assert_eq!(peer.write(b"welcome and goodbye").unwrap(), 19);
        peer.finish().unwrap();
        let _ = outcome(&world, attempt).unwrap();
        world.until("the end", || log.lost().is_some());
        assert_eq!(log.data(), b"welcome and goodbye");
        assert_eq!(log.lost().as_deref(), Some("closed"));
    }

    // Lines 51 and 9.
    fn an_attempt_under_way_goes_down_with_its_reactor(driver) {
        let world = World::new(driver);
        let silent = world.machine().silent();
        let dropped = Rc::new(Cell::new(false));
        let guard = Guard(Rc::clone(&dropped));
        let attempt = world.reactor.connect(silent.address, move |_| -> Echo {
            let _ = &guard;
            panic!("a protocol was asked for")
        });
        world.turns(1);
        drop(world);
        assert!(dropped.get());
        let _ = attempt.cancel();
    }

    // Lines 51 and 7.
    fn a_reactor_that_stops_does_not_wait_for_attempts(driver) {
        let world = World::new(driver);
        let silent = world.machine().silent();
        let attempt = world.reactor.connect(silent.address, never());
        attempt.on_done(|_, outcome| assert!(outcome.is_err()));
        world.turns(1);
        world.reactor.stop();
        let began = world.now();
        while world.reactor.turn(Some(Duration::from_millis(10))).unwrap() {
            assert!(world.since(began) < twistor_tests::PATIENCE, "the attempt holds the reactor up");
        }
        assert_eq!(world.reactor.stats().connections, 0);
    }

    // Line 9.
    fn a_reactor_that_is_gone_is_an_error(driver) {
        let world = World::new(driver);
        let handle = twistor::Handle::clone(&world.reactor);
        let vacant = world.machine().vacant();
        let connector = handle.connector(vacant).unwrap();
        drop(world);
        drop(handle.connect(vacant, never()));
        drop(connector.connect(never()));
        assert_eq!(handle.listen("tcp:0", |_| Echo).unwrap_err().kind(), ErrorKind::NotConnected);
    }
}

// Options as the kernel knows them.
kernel_contract! {
    // Line 50.
    fn the_socket_has_the_options_of_the_endpoint(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Echo);
        let connect = |endpoint| {
            let connection = outcome(&world, world.reactor.connect(endpoint, |_| Echo)).unwrap();
            let local = connection.local_addr().socket_addr().unwrap();
            process::Socket::between(local, Some(address_of(&port)))
        };
        let socket = connect(TcpConnect::new(address_of(&port)));
        assert!(socket.is_non_blocking() && socket.is_close_on_exec());
        assert!(socket.options().tcp_nodelay().unwrap());
        let endpoint = TcpConnect::new(address_of(&port)).nodelay(false).send_buffer(16 * 1024);
        let socket = connect(endpoint);
        assert!(!socket.options().tcp_nodelay().unwrap());
        assert_eq!(socket.options().send_buffer_size().unwrap(), 32 * 1024);
    }
}
