//! The contract, section 6: listening.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use twistor::endpoint::{KeepAlive, TcpListen};
use twistor::{Address, Peer as Built, Port, Protocol, SharedFactory, Transport};
use twistor_tests::{
    Ending, Event, Log, PATIENCE, Peer, Script, World, contract, in_child, kernel_contract, process,
};

struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// A factory that writes its own life down.
#[derive(Default)]
struct Diary {
    entries: Rc<RefCell<Vec<&'static str>>>,
}

impl twistor::Factory for Diary {
    type Protocol = Echo;

    fn build_protocol(&mut self, _: Built) -> Option<Echo> {
        self.entries.borrow_mut().push("build");
        Some(Echo)
    }

    fn started(&mut self) {
        self.entries.borrow_mut().push("started");
    }

    fn stopped(&mut self) {
        self.entries.borrow_mut().push("stopped");
    }
}

impl Drop for Diary {
    fn drop(&mut self) {
        self.entries.borrow_mut().push("dropped");
    }
}

fn address_of(port: &Port) -> SocketAddr {
    port.local_addr().socket_addr().expect("an IP port")
}

fn loopback(port: &Port) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, address_of(port).port()).into()
}

fn local() -> TcpListen {
    TcpListen::new(0).interface(Ipv4Addr::LOCALHOST)
}

/// What a factory was told of its connections.
#[derive(Clone, Default)]
struct Seen(Rc<RefCell<Vec<Built>>>);

impl Seen {
    fn factory(&self) -> impl FnMut(Built) -> Echo + 'static {
        let seen = self.clone();
        move |peer| {
            seen.0.borrow_mut().push(peer);
            Echo
        }
    }

    fn count(&self) -> usize {
        self.0.borrow().len()
    }
}

fn echoes(peer: &Peer<'_>) {
    peer.send(b"hello");
    assert_eq!(peer.receive(5), b"hello");
}

/// Listens where no other test listens, not even when the port is free again.
fn listen_apart(world: &World, factory: impl twistor::Factory) -> Port {
    world.reactor.listen(TcpListen::new(0).interface(process::own_address()), factory).unwrap()
}

/// The kernel's own socket at the server's end of a connection.
fn accepted_socket(world: &World, port: &Port) -> (process::Socket, TcpStream) {
    let before = world.reactor.stats().accepted;
    let client = TcpStream::connect(loopback(port)).unwrap();
    world.until("the connection is accepted", || world.reactor.stats().accepted > before);
    let socket = process::Socket::between(client.peer_addr().unwrap(), Some(client.local_addr().unwrap()));
    (socket, client)
}

fn listening_socket(port: &Port) -> process::Socket {
    process::Socket::between(address_of(port), None)
}

contract! {
    // Line 5.
    fn a_factory_that_was_never_used_may_panic_when_it_is_dropped(driver) {
        struct Last;
        impl Drop for Last {
            fn drop(&mut self) {
                panic!("on purpose");
            }
        }
        let world = World::new(driver);
        let port = world.listen(|_| Script::new(&Log::new()));
        let last = Last;
        let factory = move |_| {
            let _ = &last;
            Script::new(&Log::new())
        };
        assert_eq!(world.reactor.listen(address_of(&port), factory).expect_err("in use").kind(), ErrorKind::AddrInUse);
    }

    // Line 43.
    fn an_address_in_use_is_an_error_at_once_that_names_it(driver) {
        let world = World::new(driver);
        let first = world.listen(|_| Echo);
        let address = address_of(&first);
        let error = world.reactor.listen(address, |_| Echo).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        let text = error.to_string();
        assert!(text.contains(&address.to_string()) && text.contains("in use"), "{text}");
        // The first one has not suffered, and no trace of the second is left.
        assert_eq!(world.reactor.ports(), [first.local_addr()]);
        echoes(&world.connect(&first));
    }

    // Line 43.
    fn an_address_of_somebody_else_is_an_error_that_names_it(driver) {
        let world = World::new(driver);
        // From TEST-NET-1, which belongs to nobody.
        let error = world.reactor.listen("tcp:0:interface=192.0.2.1", |_| Echo).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
        let text = error.to_string();
        assert!(text.contains("192.0.2.1:0") && text.contains("not local"), "{text}");
        assert!(world.reactor.ports().is_empty());
    }

    // Line 43.
    fn a_string_that_is_no_endpoint_is_an_error_that_quotes_it(driver) {
        let world = World::new(driver);
        let error = world.reactor.listen("tcp:eighty", |_| Echo).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let text = error.to_string();
        assert!(text.contains("tcp:eighty") && text.contains("port"), "{text}");
    }

    // Line 43.
    fn a_factory_that_gets_no_port_is_dropped_unstarted(driver) {
        let world = World::new(driver);
        let diary = Diary::default();
        let entries = Rc::clone(&diary.entries);
        let taken = world.listen(|_| Echo);
        world.reactor.listen(address_of(&taken), diary).unwrap_err();
        world.turns(3);
        assert_eq!(*entries.borrow(), ["dropped"]);
    }

    // Line 43.
    fn port_zero_becomes_the_real_number(driver) {
        let world = World::new(driver);
        let port = world.reactor.listen("tcp:0:interface=127.0.0.1", |_| Echo).unwrap();
        let address = address_of(&port);
        assert_eq!(address.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_ne!(address.port(), 0);
        assert!(port.is_listening() && port.is_accepting());
        echoes(&Peer::connect(&world, address));
    }

    // Line 43.
    fn tcp_listens_on_every_ipv4_address(driver) {
        let world = World::new(driver);
        let seen = Seen::default();
        let port = world.reactor.listen("tcp:0", seen.factory()).unwrap();
        assert_eq!(address_of(&port).ip(), IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        for host in [[127, 0, 0, 1], [127, 0, 0, 2]] {
            let peer = Peer::connect(&world, (host, address_of(&port).port()).into());
            echoes(&peer);
            // Our own address is the one that was connected to, not the wildcard.
            let seen = seen.0.borrow().last().unwrap().clone();
            assert_eq!(seen.local.ip(), Some(host.into()));
            assert_eq!(seen.address, Address::Ip(peer.local_addr()));
            assert_eq!(seen.port, Some(port.local_addr()));
        }
    }

    // Line 43.
    fn tcp6_takes_ipv6_peers_and_ipv4_peers_which_are_reported_as_ipv4(driver) {
        let world = World::new(driver);
        let seen = Seen::default();
        let port = world.reactor.listen("tcp6:0", seen.factory()).unwrap();
        assert_eq!(address_of(&port).ip(), IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        let hosts: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        for host in hosts {
            let peer = Peer::connect(&world, (host, address_of(&port).port()).into());
            echoes(&peer);
            let seen = seen.0.borrow().last().unwrap().clone();
            assert_eq!(seen.address, Address::Ip(peer.local_addr()));
            assert_eq!(seen.local, Address::Ip((host, address_of(&port).port()).into()));
        }
    }

    // Line 43.
    fn v6only_leaves_ipv4_to_others(driver) {
        let world = World::new(driver);
        let alone = world.reactor.listen("tcp6:0:v6only=yes", |_| Echo).unwrap();
        let _ = world.machine().connect(loopback(&alone));
        world.turns(3);
        assert_eq!(world.reactor.stats().accepted, 0);
        echoes(&Peer::connect(&world, (Ipv6Addr::LOCALHOST, address_of(&alone).port()).into()));
        // One number for two listeners, one per family; without the option the second wants both.
        let v4 = world.reactor.listen("tcp:0", |_| Echo).unwrap();
        let number = address_of(&v4).port();
        let error = world.reactor.listen(format!("tcp6:{number}"), |_| Echo).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        let v6 = world.reactor.listen(format!("tcp6:{number}:v6only=yes"), |_| Echo).unwrap();
        for (host, port) in [(IpAddr::from(Ipv4Addr::LOCALHOST), &v4), (Ipv6Addr::LOCALHOST.into(), &v6)] {
            assert_eq!(address_of(port).port(), number);
            echoes(&Peer::connect(&world, (host, number).into()));
        }
    }

    // Line 44.
    fn a_port_can_be_had_again_while_its_old_connections_live_unless_told_not_to(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Echo);
        let address = address_of(&port);
        let old = world.connect(&port);
        echoes(&old);
        drop(port.stop_listening());
        let error = world.reactor.listen(TcpListen::on(address).reuse_address(false), |_| Echo).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        let again = world.reactor.listen(address, |_| Echo).unwrap();
        echoes(&world.connect(&again));
        echoes(&old);
    }

    // Line 45.
    fn a_connection_that_no_factory_wants_is_closed_quietly(driver) {
        let world = World::new(driver);
        let mut turn = 0;
        let port = world.listen(move |_| {
            turn += 1;
            (turn % 2 == 0).then_some(Echo)
        });
        let unwanted = world.connect(&port);
        assert_eq!(unwanted.receive_to_end(), (Vec::new(), Ending::Fin));
        let wanted = world.connect(&port);
        echoes(&wanted);
        let stats = world.reactor.stats();
        assert_eq!((stats.refused, stats.accepted, stats.lost, stats.panics), (1, 1, 0, 0));
        assert_eq!(stats.connections, 1);
    }

    // Lines 45 and 5.
    fn a_factory_that_panics_loses_that_one_socket(driver) {
        let world = World::new(driver);
        let mut first = true;
        let port = world.listen(move |_| {
            assert!(!std::mem::take(&mut first), "on purpose");
            Echo
        });
        let unlucky = world.connect(&port);
        assert!(unlucky.receive_to_end().0.is_empty());
        assert!(port.is_listening());
        echoes(&world.connect(&port));
        let stats = world.reactor.stats();
        assert_eq!((stats.panics, stats.accepted, stats.connections), (1, 1, 1));
    }

    // Line 45.
    fn a_connection_broken_in_the_backlog_does_not_end_the_listener(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let script = log.clone();
        let port = world.listen(move |_| Script::new(&script).on_data(Transport::write));
        let mut peer = world.connect(&port);
        peer.reset();
        world.until("the broken one is over", || {
            let stats = world.reactor.stats();
            stats.accept_errors > 0 || stats.lost > 0
        });
        let reason = log.lost();
        assert!(reason.as_ref().is_none_or(|reason| reason.starts_with("reset")), "{reason:?}");
        assert!(port.is_accepting());
        echoes(&world.connect(&port));
    }

    // Line 47.
    fn when_a_stop_has_fired_the_port_number_is_free(driver) {
        let world = World::new(driver);
        let port = listen_apart(&world, |_| Echo);
        let address = address_of(&port);
        let survivor = world.connect(&port);
        echoes(&survivor);
        let rebound = Rc::new(RefCell::new(None));
        let result = Rc::clone(&rebound);
        port.stop_listening().on_done(move |reactor, outcome| {
            outcome.unwrap();
            *result.borrow_mut() = Some(reactor.listen(address, |_| Echo));
        });
        assert!(rebound.borrow().is_none(), "heard from inside the call");
        assert!(!port.is_listening() && !port.is_accepting());
        world.until("the stop has fired", || rebound.borrow().is_some());
        let again = rebound.borrow_mut().take().unwrap().expect("the number is free");
        assert_eq!(world.reactor.ports(), [again.local_addr()]);
        // What was accepted lives on.
        echoes(&survivor);
        echoes(&world.connect(&again));
    }

    // Line 47.
    fn a_stopped_port_takes_no_connection_and_refuses_those_that_waited(driver) {
        let world = World::new(driver);
        let seen = Seen::default();
        let port = listen_apart(&world, seen.factory());
        let waiting = world.connect(&port);
        drop(port.stop_listening());
        assert!(!world.machine().is_listened_on(address_of(&port)), "the port is open after its stop");
        assert_eq!(waiting.receive_to_end(), (Vec::new(), Ending::Reset));
        assert_eq!(seen.count(), 0);
        // Again, and what makes no sense any more, changes nothing.
        let fired = Rc::new(Cell::new(false));
        let fire = Rc::clone(&fired);
        port.stop_listening().on_done(move |_, outcome| fire.set(outcome.is_ok()));
        port.resume_accepting();
        port.pause_accepting();
        world.until("the second stop has fired", || fired.get());
        assert!(!port.is_listening() && !port.is_accepting());
        assert!(!world.machine().is_listened_on(address_of(&port)));
    }

    // Line 47.
    fn a_paused_port_leaves_connections_to_the_kernel(driver) {
        let world = World::new(driver);
        let seen = Seen::default();
        let port = world.listen(seen.factory());
        port.pause_accepting();
        assert!(port.is_listening() && !port.is_accepting());
        let peer = world.connect(&port);
        assert_eq!(peer.try_send(b"early"), 5);
        // Somebody waits, but nothing wakes the loop for that.
        world.turns(1);
        let before = world.reactor.stats().passes;
        world.run_for(Duration::from_millis(50));
        assert!(world.reactor.stats().passes - before <= 2, "a paused port wakes the loop");
        assert_eq!(seen.count(), 0);
        port.resume_accepting();
        assert!(port.is_accepting());
        assert_eq!(peer.receive(5), b"early");
    }

    // Line 47.
    fn accepting_that_is_resumed_between_two_turns_does_not_wait_for_an_event(driver) {
        let world = World::new(driver);
        let seen = Seen::default();
        let port = world.listen(seen.factory());
        port.pause_accepting();
        world.turns(2);
        let _peer = world.connect(&port);
        port.resume_accepting();
        // Long sleeps: the poller has to hear of it before them.
        let began = world.now();
        for _ in 0..2 {
            if seen.count() == 0 {
                world.reactor.turn(Some(PATIENCE)).unwrap();
            }
        }
        assert!(world.since(began) < PATIENCE, "the loop slept over it");
        assert_eq!(seen.count(), 1);
    }

    // Line 47.
    fn a_pause_in_build_protocol_holds_at_once(driver) {
        let world = World::new(driver);
        let place: Rc<RefCell<Option<Port>>> = Rc::default();
        let own = Rc::clone(&place);
        let port = world.listen(move |_| {
            own.borrow().as_ref().unwrap().pause_accepting();
            Echo
        });
        *place.borrow_mut() = Some(port.clone());
        let peers: Vec<_> = (0..3).map(|_| world.connect(&port)).collect();
        world.turns(5);
        assert_eq!(world.reactor.stats().accepted, 1);
        port.resume_accepting();
        world.turns(5);
        assert_eq!(world.reactor.stats().accepted, 2);
        port.resume_accepting();
        peers.iter().for_each(echoes);
    }

    // Line 47.
    fn a_port_can_be_stopped_inside_its_own_build_protocol(driver) {
        let world = World::new(driver);
        let place: Rc<RefCell<Option<Port>>> = Rc::default();
        let own = Rc::clone(&place);
        let fired = Rc::new(Cell::new(false));
        let fire = Rc::clone(&fired);
        let port = listen_apart(&world, move |_| {
            let fire = Rc::clone(&fire);
            let stop = own.borrow().as_ref().unwrap().stop_listening();
            stop.on_done(move |_, outcome| fire.set(outcome.is_ok()));
            Echo
        });
        *place.borrow_mut() = Some(port.clone());
        let (accepted, waiting) = (world.connect(&port), world.connect(&port));
        world.until("the stop has fired", || fired.get());
        assert!(!world.machine().is_listened_on(address_of(&port)));
        // The connection that it was about is an accepted one and lives on; the next one is not.
        echoes(&accepted);
        assert_eq!(waiting.receive_to_end(), (Vec::new(), Ending::Reset));
        assert_eq!(world.reactor.stats().accepted, 1);
    }

    // Line 47.
    fn a_port_can_be_stopped_inside_connection_made(driver) {
        let world = World::new(driver);
        let place: Rc<RefCell<Option<Port>>> = Rc::default();
        let own = Rc::clone(&place);
        let log = Log::new();
        let script = log.clone();
        let port = listen_apart(&world, move |_| {
            let own = Rc::clone(&own);
            Script::new(&script)
                .on_made(move |_| {
                    drop(own.borrow().as_ref().unwrap().stop_listening());
                })
                .on_data(Transport::write)
        });
        *place.borrow_mut() = Some(port.clone());
        let (accepted, waiting) = (world.connect(&port), world.connect(&port));
        world.until("the connection is made", || log.has(&Event::Made));
        assert!(!world.machine().is_listened_on(address_of(&port)));
        echoes(&accepted);
        assert_eq!(waiting.receive_to_end(), (Vec::new(), Ending::Reset));
        assert_eq!(log.count(&Event::Made), 1);
    }

    // Line 48.
    fn a_factory_starts_before_its_first_protocol_and_stops_after_its_port(driver) {
        let world = World::new(driver);
        let diary = Diary::default();
        let entries = Rc::clone(&diary.entries);
        let port = world.listen(diary);
        assert!(entries.borrow().is_empty(), "called from inside the call");
        let (first, second) = (world.connect(&port), world.connect(&port));
        echoes(&first);
        echoes(&second);
        assert_eq!(*entries.borrow(), ["started", "build", "build"]);
        drop(port.stop_listening());
        assert_eq!(entries.borrow().len(), 3, "called from inside the call");
        world.turns(2);
        assert_eq!(*entries.borrow(), ["started", "build", "build", "stopped", "dropped"]);
        // Its connections need it no more.
        echoes(&first);
    }

    // Line 48.
    fn a_factory_starts_although_nobody_connects(driver) {
        let world = World::new(driver);
        let diary = Diary::default();
        let entries = Rc::clone(&diary.entries);
        let port = world.listen(diary);
        world.turns(2);
        assert_eq!(*entries.borrow(), ["started"]);
        drop(port.stop_listening());
        world.turns(2);
        assert_eq!(*entries.borrow(), ["started", "stopped", "dropped"]);
    }

    // Line 48.
    fn a_shared_factory_starts_with_its_first_port_and_stops_with_its_last(driver) {
        let world = World::new(driver);
        let diary = Diary::default();
        let entries = Rc::clone(&diary.entries);
        let factory = SharedFactory::new(diary);
        let ports = [world.listen(factory.clone()), world.listen(factory.clone())];
        world.turns(2);
        assert_eq!(*entries.borrow(), ["started"]);
        drop(ports[0].stop_listening());
        world.turns(2);
        assert_eq!(*entries.borrow(), ["started"]);
        echoes(&world.connect(&ports[1]));
        drop(ports[1].stop_listening());
        world.turns(2);
        assert_eq!(*entries.borrow(), ["started", "build", "stopped"]);
        // And again.
        let port = world.listen(factory);
        world.turns(2);
        drop(port.stop_listening());
        world.turns(2);
        assert_eq!(*entries.borrow(), ["started", "build", "stopped", "started", "stopped", "dropped"]);
    }

    // Line 48.
    fn a_connector_is_a_use_of_its_factory_while_its_attempt_lasts(driver) {
        let world = World::new(driver);
        let silent = world.machine().silent();
        let diary = Diary::default();
        let entries = Rc::clone(&diary.entries);
        let attempt = world.reactor.connect(silent.address, diary);
        assert!(entries.borrow().is_empty(), "called from inside the call");
        world.turns(3);
        assert_eq!(*entries.borrow(), ["started"]);
        assert!(attempt.cancel());
        world.turns(3);
        assert_eq!(*entries.borrow(), ["started", "stopped", "dropped"]);
    }

    // Line 48.
    fn a_connector_ends_its_use_of_the_factory_with_the_outcome(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Echo);
        let diary = Diary::default();
        let entries = Rc::clone(&diary.entries);
        let connected = Rc::new(Cell::new(false));
        let connect = Rc::clone(&connected);
        world
            .reactor
            .connect(address_of(&port), diary)
            .on_done(move |_, outcome| connect.set(outcome.is_ok()));
        world.until("the connection is made", || connected.get());
        world.turns(3);
        assert_eq!(*entries.borrow(), ["started", "build", "stopped", "dropped"]);
    }
}

// Rights, options as the kernel knows them, and several reactors on one machine.
kernel_contract! {
    // Line 43. ‡
    fn a_port_that_needs_rights_is_an_error_that_names_it_and_the_right(driver) {
        in_child(module_path!(), driver, || {
            let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
            if first.is_ok_and(|first| first.trim().parse::<u16>().is_ok_and(|first| first <= 7)) {
                println!("skipped: this system lets everybody have every port");
                return;
            }
            process::become_ordinary();
            let world = World::new(driver);
            let error = world.reactor.listen("tcp:7:interface=127.0.0.1", |_| Echo).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            let text = error.to_string();
            assert!(text.contains("127.0.0.1:7") && text.contains("denied"), "{text}");
            assert!(text.contains("root"), "it does not say what would help: {text}");
        });
    }

    // Line 44. ‡
    fn accepted_sockets_do_not_block_nor_outlive_an_exec_nor_delay(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Echo);
        let (socket, _client) = accepted_socket(&world, &port);
        assert!(socket.is_non_blocking());
        assert!(socket.is_close_on_exec());
        assert!(socket.options().tcp_nodelay().unwrap());
        assert!(!socket.options().keepalive().unwrap());
        assert!(listening_socket(&port).is_close_on_exec());
    }

    // Line 44. ‡
    fn accepted_sockets_have_the_options_of_their_port(driver) {
        let world = World::new(driver);
        let keep_alive = KeepAlive::new()
            .idle(Duration::from_secs(41))
            .interval(Duration::from_millis(6500))
            .count(3);
        let endpoint =
            local().nodelay(false).keep_alive(keep_alive).recv_buffer(32 * 1024).send_buffer(16 * 1024);
        let port = world.reactor.listen(endpoint, |_| Echo).unwrap();
        let (socket, _client) = accepted_socket(&world, &port);
        let socket = socket.options();
        assert!(!socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(41));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        // Linux doubles both.
        assert_eq!(socket.recv_buffer_size().unwrap(), 64 * 1024);
        assert_eq!(socket.send_buffer_size().unwrap(), 32 * 1024);
    }

    // Line 44. ‡
    fn the_backlog_is_as_long_as_asked_for(driver) {
        let world = World::new(driver);
        for length in [1, 7, 128] {
            let port = world.reactor.listen(local().backlog(length), |_| Echo).unwrap();
            assert_eq!(listening_socket(&port).backlog(), length);
        }
        let port = world.listen(|_| Echo);
        let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let most: u32 = most.trim().parse().unwrap();
        assert_eq!(listening_socket(&port).backlog(), most.min(1024));
    }

    // Line 44. ‡
    fn ports_are_shared_by_those_who_ask_for_it_and_only_by_them(driver) {
        let worlds = [World::new(driver), World::new(driver)];
        let first = worlds[0].reactor.listen(local().reuse_port(true), |_| Echo).unwrap();
        let address = address_of(&first);
        let second = worlds[1].reactor.listen(TcpListen::on(address).reuse_port(true), |_| Echo).unwrap();
        assert_eq!(address_of(&second), address);
        let error = worlds[1].reactor.listen(address, |_| Echo).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        // The kernel spreads connections over both.
        let accepted = |world: &World| world.reactor.stats().accepted;
        let mut clients = Vec::new();
        worlds[0].until("both have accepted something", || {
            clients.push(TcpStream::connect(address).unwrap());
            worlds[1].turns(1);
            assert!(clients.len() < 200, "all connections go to one of them");
            worlds.iter().all(|world| accepted(world) > 0)
        });
    }

    // Line 44. ‡
    fn defer_accept_waits_for_the_first_byte(driver) {
        let world = World::new(driver);
        let endpoint = local().defer_accept(Duration::from_secs(30));
        let log = Log::new();
        let script = log.clone();
        let port = world.reactor.listen(endpoint, move |_| Script::new(&script)).unwrap();
        assert!(listening_socket(&port).tcp_option(libc::TCP_DEFER_ACCEPT) >= 30);
        let peer = world.connect(&port);
        world.run_for(Duration::from_millis(50));
        assert_eq!(log.events(), []);
        peer.send(b"here I am");
        world.until("the connection is accepted", || log.data() == b"here I am");
    }

    // Line 44. ‡
    fn fast_open_and_the_device_reach_the_kernel(driver) {
        let world = World::new(driver);
        let endpoint = local().fast_open(17).bind_device("lo");
        let port = world.reactor.listen(endpoint, |_| Echo).unwrap();
        let socket = listening_socket(&port);
        assert_eq!(socket.tcp_option(libc::TCP_FASTOPEN), 17);
        assert_eq!(socket.options().device().unwrap().as_deref(), Some(&b"lo"[..]));
        echoes(&world.connect(&port));
    }
}

#[test]
fn the_test_of_an_open_port_can_fail() {
    for driver in [twistor_tests::Driver::Direct, twistor_tests::Driver::Simulated] {
        let world = World::new(driver);
        let machine = world.machine();
        let listener = machine.listen((process::own_address(), 0).into()).unwrap();
        let address = listener.local_addr();
        assert!(machine.is_listened_on(address));
        drop(listener);
        assert!(!machine.is_listened_on(address));
    }
}
