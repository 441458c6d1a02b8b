//! The contract, section 7: clients that stay connected.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use twistor::testing::{Fault, Host, Simulation};
use twistor::{
    Backoff, ConnectErrorKind, Deferred, Eof, Factory, Handle, Peer, Protocol, ReconnectingClient, Transport,
};
use twistor_tests::{World, contract};

const SECOND: Duration = Duration::from_secs(1);

/// Counts what becomes of it.
struct Client(Rc<Cell<u32>>);

impl Protocol for Client {
    fn connection_made(&mut self, _: &Transport) {
        self.0.set(self.0.get() + 1);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        if data == b"go" {
            transport.lose_connection();
        }
    }

    fn eof_received(&mut self, _: &Transport) -> Eof {
        Eof::Close
    }
}

/// Closes what says "bye", echoes the rest.
struct Server;

impl Protocol for Server {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        if data == b"bye" { transport.lose_connection() } else { transport.write(data) }
    }
}

fn listen(reactor: &Handle) {
    reactor.listen("tcp:1", |_| Server).expect("a port");
}

/// A server, and a host to connect from.
fn hosts() -> (Simulation, Host, Host) {
    let sim = Simulation::new(8);
    let server = sim.host("server", listen);
    let client = sim.host("client", |_| {});
    (sim, server, client)
}

fn exact() -> Backoff {
    Backoff::new().first(SECOND).factor(2.0).longest(8 * SECOND).jitter(0.0)
}

fn connections() -> Rc<Cell<u32>> {
    Rc::default()
}

// Line 53.
#[test]
fn a_lost_connection_is_made_again_after_the_first_wait() {
    let (sim, _, host) = hosts();
    let made = connections();
    let count = Rc::clone(&made);
    let client = ReconnectingClient::builder("tcp:server:1", move |_| Client(Rc::clone(&count)))
        .backoff(exact())
        .start(&host.reactor())
        .expect("a client");
    sim.run_until("it is connected", || client.connection().is_some());
    for n in 1..5 {
        assert_eq!(made.get(), n);
        client.connection().expect("connected").write(b"bye");
        sim.run_until("it is lost", || client.connection().is_none());
        let lost = sim.now();
        sim.run_until("it is connected again", || client.connection().is_some());
        let took = sim.now() - lost;
        assert!((SECOND..SECOND + SECOND / 100).contains(&took), "{took:?}");
        assert_eq!(client.failures(), 0);
    }
}

// Line 53.
#[test]
fn the_waits_grow_to_a_limit_and_a_success_starts_over() {
    let (sim, server, host) = hosts();
    sim.inject(Fault::refuse("server"));
    let client = ReconnectingClient::builder(server.address(1), |_| Client(connections()))
        .backoff(exact())
        .start(&host.reactor())
        .expect("a client");
    let mut times = Vec::new();
    for n in 1..=6 {
        sim.run_until("an attempt has failed", || client.failures() == n);
        times.push(sim.now());
    }
    let waits: Vec<u64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_millis() as u64 / 10).collect();
    assert_eq!(waits, [100, 200, 400, 800, 800]);
    sim.inject(Fault::refuse("server").lasting(Duration::from_nanos(1)));
    sim.run_until("it is connected", || client.connection().is_some());
    assert_eq!(client.failures(), 0);
    sim.inject(Fault::crash("server").lasting(SECOND / 2));
    sim.inject(Fault::reset("client"));
    sim.run_until("it is lost", || client.connection().is_none());
    let lost = sim.now();
    sim.run_until("it is connected", || client.connection().is_some());
    assert!(sim.now() - lost < SECOND + SECOND / 10);
}

// Line 53.
#[test]
fn a_connection_that_ends_while_it_is_made_is_a_failure_and_not_the_end() {
    /// Ends its first two connections at once.
    struct Picky(Rc<Cell<u32>>);
    impl Protocol for Picky {
        fn connection_made(&mut self, transport: &Transport) {
            self.0.set(self.0.get() + 1);
            match self.0.get() {
                1 => transport.abort_connection(),
                2 => transport.lose_connection(),
                _ => {}
            }
        }
        fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    }
    let (sim, _, host) = hosts();
    let made = connections();
    let count = Rc::clone(&made);
    let client = ReconnectingClient::builder("tcp:server:1", move |_| Picky(Rc::clone(&count)))
        .backoff(exact())
        .start(&host.reactor())
        .expect("a client");
    sim.run_until("the first has failed", || client.failures() == 1);
    sim.run_until("the second has failed", || client.failures() == 2);
    sim.run_until("the third is ready", || client.connection().is_some());
    assert_eq!((made.get(), client.failures()), (3, 0));
}

// Line 53.
#[test]
fn waits_differ_so_that_clients_do_not_come_back_all_at_once() {
    let (sim, server, host) = hosts();
    sim.inject(Fault::refuse("server"));
    let clients: Vec<_> = (0..20)
        .map(|_| {
            ReconnectingClient::builder(server.address(1), |_| Client(connections()))
                .backoff(Backoff::new().first(10 * SECOND).jitter(0.5))
                .start(&host.reactor())
                .expect("a client")
        })
        .collect();
    sim.run_until("all have failed once", || clients.iter().all(|client| client.failures() == 1));
    let began = sim.now();
    sim.run_until("one has failed again", || clients.iter().any(|client| client.failures() == 2));
    let first = sim.now() - began;
    sim.run_until("all have", || clients.iter().all(|client| client.failures() >= 2));
    let last = sim.now() - began;
    assert!(first >= 5 * SECOND && last <= 15 * SECOND + SECOND, "{first:?} {last:?}");
    assert!(last - first > 5 * SECOND, "{first:?} {last:?}");
}

// Line 53.
#[test]
fn retry_if_decides_by_the_error() {
    let (sim, server, host) = hosts();
    sim.inject(Fault::refuse("server"));
    let client = ReconnectingClient::builder(server.address(1), |_| Client(connections()))
        .backoff(exact())
        .retry_if(|error| error.kind() == ConnectErrorKind::TimedOut)
        .start(&host.reactor())
        .expect("a client");
    let outcome = Rc::new(Cell::new(None));
    for _ in 0..2 {
        let place = Rc::clone(&outcome);
        client.when_connected().on_done(move |_, result| place.set(result.err().map(|error| error.kind())));
        sim.run_until("it has given up", || outcome.get().is_some());
        assert_eq!(outcome.take(), Some(ConnectErrorKind::Refused));
    }
    sim.run_for(60 * SECOND);
    assert_eq!(client.failures(), 1);
}

// Line 53.
#[test]
fn it_gives_up_after_as_many_failures_as_it_was_told() {
    let (sim, server, host) = hosts();
    sim.inject(Fault::refuse("server"));
    let client = ReconnectingClient::builder(server.address(1), |_| Client(connections()))
        .backoff(exact())
        .fail_after(3)
        .start(&host.reactor())
        .expect("a client");
    let failed = Rc::new(RefCell::new(Vec::new()));
    for _ in 0..2 {
        let log = Rc::clone(&failed);
        client.when_connected().on_done(move |_, outcome| {
            log.borrow_mut().push(outcome.err().map(|error| error.to_string()));
        });
    }
    sim.run_until("it has given up", || failed.borrow().len() == 2);
    let text = "cannot connect to 10.0.0.1:1: connection refused (nobody listens there)";
    assert_eq!(*failed.borrow(), [Some(text.to_owned()), Some(text.to_owned())]);
    assert_eq!(client.failures(), 3);
    assert!((3 * SECOND..4 * SECOND).contains(&sim.now()));
}

// Line 53.
#[test]
fn a_connection_counts_once_it_is_prepared() {
    let (sim, server, host) = hosts();
    let (tries, made) = (Rc::new(Cell::new(0)), connections());
    let (count, protocols) = (Rc::clone(&tries), Rc::clone(&made));
    let client = ReconnectingClient::builder(server.address(1), move |_| Client(Rc::clone(&protocols)))
        .backoff(exact())
        .prepare(move |connection| {
            count.set(count.get() + 1);
            let (resolver, deferred) = Deferred::<(), String>::new(connection.reactor());
            // The third succeeds, after a while.
            let outcome = if count.get() == 3 { Ok(()) } else { Err("not yet".to_owned()) };
            connection.reactor().call_later(SECOND / 10, move |_| {
                resolver.resolve(outcome);
            });
            deferred
        })
        .start(&host.reactor())
        .expect("a client");
    sim.run_until("it is connected", || made.get() == 1);
    assert!(client.connection().is_none(), "it is not prepared");
    sim.run_until("it is prepared", || client.connection().is_some());
    assert_eq!((tries.get(), made.get(), client.failures()), (3, 3, 0));
    let took = sim.now();
    assert!((3 * SECOND..4 * SECOND).contains(&took), "waits of one and two seconds: {took:?}");
}

// Lines 5 and 53.
#[test]
fn a_prepare_that_panics_is_a_failure_and_so_is_a_loss_meanwhile() {
    let sim = Simulation::new(8);
    sim.host("server", listen);
    let builder = twistor::Reactor::builder().panic_policy(twistor::PanicPolicy::Isolate);
    let host = sim.host_with("client", builder, |_| {});
    let tries = Rc::new(Cell::new(0));
    let count = Rc::clone(&tries);
    let client = ReconnectingClient::builder("tcp:server:1", |_| Client(connections()))
        .backoff(exact())
        .prepare(move |connection| {
            count.set(count.get() + 1);
            match count.get() {
                1 => panic!("in prepare"),
                2 => connection.write(b"bye"),
                _ => {}
            }
            let (resolver, deferred) = Deferred::<(), String>::new(connection.reactor());
            if count.get() > 2 {
                resolver.resolve(Ok(()));
            } else {
                std::mem::forget(resolver);
            }
            deferred
        })
        .start(&host.reactor())
        .expect("a client");
    sim.run_until("it is connected", || client.connection().is_some());
    assert_eq!(tries.get(), 3);
    assert_eq!(host.reactor().stats().panics, 1);
}

fn stop(sim: &Simulation, client: &ReconnectingClient<impl Factory>) {
    let stopped = Rc::new(Cell::new(false));
    let flag = Rc::clone(&stopped);
    client.stop().on_done(move |_, _| flag.set(true));
    sim.run_until("it has stopped", || stopped.get());
    assert!(client.connection().is_none());
}

// Line 53.
#[test]
fn stop_ends_it_in_every_state() {
    let (sim, server, host) = hosts();
    let made = connections();
    let start = || {
        let count = Rc::clone(&made);
        let factory = move |_: Peer| Client(Rc::clone(&count));
        ReconnectingClient::builder(server.address(1), factory)
            .backoff(exact())
            .start(&host.reactor())
            .expect("a client")
    };
    // While it connects.
    let connecting = start();
    let refused = Rc::new(Cell::new(None));
    let place = Rc::clone(&refused);
    connecting.when_connected().on_done(move |_, outcome| place.set(outcome.err().map(|error| error.kind())));
    stop(&sim, &connecting);
    assert_eq!((refused.get(), made.get()), (Some(ConnectErrorKind::Cancelled), 0));
    // While it is connected; and again.
    let connected = start();
    sim.run_until("it is connected", || connected.connection().is_some());
    stop(&sim, &connected);
    stop(&sim, &connected);
    assert_eq!(host.reactor().stats().connections, 0);
    // While it waits.
    sim.inject(Fault::refuse("server"));
    let waiting = start();
    sim.run_until("it waits", || waiting.failures() == 1);
    stop(&sim, &waiting);
    sim.run_for(60 * SECOND);
    let stats = host.reactor().stats();
    assert_eq!((made.get(), stats.attempts, stats.timers, waiting.failures()), (1, 0, 0, 1));
}

// Line 53.
#[test]
fn it_outlives_whatever_happens_to_its_server() {
    twistor::testing::check(0..1000, |sim| {
        sim.host("server", listen);
        let host = sim.host("client", |_| {});
        let client = ReconnectingClient::builder("tcp:server:1", |_| Client(connections()))
            .backoff(Backoff::new().longest(5 * SECOND))
            .start(&host.reactor())
            .expect("a client");
        let weather = twistor::testing::Faults::within(60 * SECOND)
            .lasting_up_to(10 * SECOND)
            .only(["server"])
            .crashes(2.0)
            .partitions(2.0)
            .resets(3.0)
            .refusals(1.0)
            .full_backlogs(1.0);
        sim.random_faults(&weather);
        sim.run_for(120 * SECOND);
        // A half-open connection to a server that crashed unheard is found out by using it.
        if let Some(connection) = client.connection() {
            connection.write(b"ping");
        }
        sim.run_for(120 * SECOND);
        sim.run_until("it is connected", || client.connection().is_some());
        assert!(host.reactor().stats().connections <= 1);
    });
}

contract! {
    // Line 53.
    fn a_client_reconnects_to_a_real_port(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Server);
        let made = connections();
        let count = Rc::clone(&made);
        let client = ReconnectingClient::builder(
            port.local_addr().socket_addr().expect("IP"),
            move |_| Client(Rc::clone(&count)),
        )
        .backoff(Backoff::new().first(Duration::from_millis(5)))
        .start(&world.reactor)
        .expect("a client");
        for n in 1..4 {
            world.until("it is connected", || client.connection().is_some());
            assert_eq!(made.get(), n);
            client.connection().expect("connected").write(b"bye");
            world.until("it is lost", || client.connection().is_none());
        }
        let stopped = Rc::new(Cell::new(false));
        let flag = Rc::clone(&stopped);
        client.stop().on_done(move |_, _| flag.set(true));
        world.until("it has stopped", || stopped.get());
    }

    // Line 18.
    fn the_loss_can_be_waited_for(driver) {
        let world = World::new(driver);
        let log = twistor_tests::Log::new();
        let (transport, mut peer) = world.pair(twistor_tests::Script::new(&log));
        let heard = Rc::new(RefCell::new(Vec::new()));
        let hear = |transport: &Transport| {
            let (place, log) = (Rc::clone(&heard), log.clone());
            transport.lost().on_done(move |_, reason| {
                assert!(log.lost().is_some(), "the protocol was told first");
                place.borrow_mut().push(reason.map(|reason| reason.to_string()));
            });
        };
        hear(&transport);
        hear(&transport);
        world.turns(3);
        assert!(heard.borrow().is_empty());
        peer.reset();
        world.until("the loss", || heard.borrow().len() == 2);
        hear(&transport);
        world.until("once more", || heard.borrow().len() == 3);
        assert!(heard.borrow().iter().all(|reason| *reason == Ok(twistor::Reason::Reset.to_string())), "{heard:?}");
    }

    // Line 18.
    fn a_loss_that_is_asked_for_while_bytes_wait_comes_after_the_protocol_was_told(driver) {
        let world = World::new(driver);
        let log = twistor_tests::Log::new();
        let (transport, _peer) = world.pair(twistor_tests::Script::new(&log));
        transport.unread(&b"given back"[..]);
        transport.abort_connection();
        let (heard, told) = (Rc::new(Cell::new(false)), log.clone());
        let flag = Rc::clone(&heard);
        transport.lost().on_done(move |_, _| {
            assert!(told.lost().is_some(), "the protocol was told first");
            flag.set(true);
        });
        world.until("the loss", || heard.get());
        assert_eq!(world.reactor.stats().panics, 0);
    }

    // Line 53.
    fn to_give_up_after_no_failure_at_all_is_an_error(driver) {
        let world = World::new(driver);
        let client = ReconnectingClient::builder("tcp:127.0.0.1:1", |_| Server).fail_after(0);
        let error = client.start(&world.reactor).expect_err("it would never try");
        assert!(error.to_string().contains("fail_after is 0"), "{error}");
    }

    // Line 53.
    fn an_endpoint_that_makes_no_sense_is_an_error_at_once(driver) {
        let world = World::new(driver);
        let client = ReconnectingClient::builder("nonsense", |_| Server).start(&world.reactor);
        assert!(client.is_err());
    }
}

/// A pool of connections: requests take turns, answers come in the order of the requests of each connection.
mod pool {
    use std::collections::VecDeque;

    use twistor::{Connection, Resolver};

    use super::*;

    type Answer = Deferred<Vec<u8>, String>;

    /// Sends one request after the other; the server echoes 4 bytes for 4.
    #[derive(Default)]
    struct Requests {
        waiting: VecDeque<Resolver<Vec<u8>, String>>,
        received: Vec<u8>,
    }

    impl Protocol for Requests {
        fn data_received(&mut self, _: &Transport, data: &[u8]) {
            self.received.extend_from_slice(data);
            while self.received.len() >= 4 {
                let answer = self.received.drain(..4).collect();
                self.waiting.pop_front().expect("an answer to a request").resolve(Ok(answer));
            }
        }

        fn connection_lost(&mut self, _: &Transport, _: &twistor::Reason) {
            for waiting in self.waiting.drain(..) {
                waiting.resolve(Err("the connection was lost".to_owned()));
            }
        }
    }

    type Build = fn(Peer) -> Requests;

    struct Pool {
        handle: Handle,
        clients: Vec<ReconnectingClient<Build>>,
        next: Cell<usize>,
    }

    impl Pool {
        fn new(handle: &Handle, size: usize) -> Self {
            let build: Build = |_| Requests::default();
            let start = || ReconnectingClient::builder("tcp:server:1", build).backoff(exact()).start(handle);
            let clients = (0..size).map(|_| start().expect("a client")).collect();
            Self { handle: handle.clone(), clients, next: Cell::new(0) }
        }

        /// The next connection in turn that is ready; else the first that will be.
        fn connection(&self) -> Deferred<Connection<Requests>, twistor::ConnectError> {
            let first = self.next.get();
            self.next.set((first + 1) % self.clients.len());
            let turn = |n| &self.clients[(first + n) % self.clients.len()];
            // A connection that is just being lost still counts as one for a moment.
            let is_ready = |client: &&ReconnectingClient<Build>| {
                client.connection().is_some_and(|connection| !connection.is_closing())
            };
            let ready = (0..self.clients.len()).map(turn).find(is_ready);
            ready.unwrap_or_else(|| turn(0)).when_connected()
        }

        fn request(&self, data: &'static [u8; 4]) -> Answer {
            let (resolver, answer) = Deferred::new(&self.handle);
            self.connection().on_done(move |_, connection| match connection {
                Ok(connection) => {
                    connection.post(move |requests, transport| {
                        transport.write(data);
                        requests.waiting.push_back(resolver);
                    });
                }
                Err(_) => drop(resolver.resolve(Err("no connection".to_owned()))),
            });
            answer
        }
    }

    // Line 53.
    #[test]
    fn a_pool_of_connections_can_be_built_on_it() {
        let (sim, server, host) = hosts();
        let pool = Pool::new(&host.reactor(), 3);
        let (good, bad) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let ask = |count: usize| {
            for _ in 0..count {
                let (good, bad) = (Rc::clone(&good), Rc::clone(&bad));
                pool.request(b"ping").on_done(move |_, answer| match answer {
                    Ok(answer) => {
                        assert_eq!(answer, b"ping");
                        good.set(good.get() + 1);
                    }
                    Err(_) => bad.set(bad.get() + 1),
                });
            }
        };
        // Before any is connected, and then over all of them.
        ask(6);
        sim.run_until("all are answered", || good.get() == 6);
        sim.run_until("all are connected", || host.reactor().stats().connections == 3);
        ask(30);
        sim.run_until("all are answered", || good.get() == 36);
        assert_eq!(server.reactor().stats().accepted, 3);
        // One is lost: the others serve, and it comes back.
        pool.clients[0].connection().expect("connected").abort_connection();
        sim.run_until("it is lost", || host.reactor().stats().connections == 2);
        ask(10);
        sim.run_until("all are answered", || good.get() == 46);
        sim.run_until("it is back", || server.reactor().stats().accepted == 4);
        assert_eq!(bad.get(), 0);
        // The server dies with requests under way, and comes back: no request is left without an answer.
        ask(10);
        sim.inject(Fault::crash("server"));
        sim.run_for(SECOND);
        sim.inject(Fault::restart("server"));
        sim.run_until("each has its answer", || good.get() + bad.get() == 56);
        sim.run_until("it is connected again", || server.reactor().stats().accepted == 3);
        let before = good.get();
        ask(10);
        sim.run_until("it serves again", || good.get() == before + 10);
        for client in &pool.clients {
            drop(client.stop());
        }
    }
}
