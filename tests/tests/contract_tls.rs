//! The contract, section 8, lines 54 and 57: connections that have TLS from their beginning.
//!
//! That sections 3 to 5 hold unchanged is tested where they are, by the tests whose names begin with `tls_`.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use twistor::endpoint::{
    ConnectEndpoint, IntoConnectEndpoint, ListenEndpoint, TcpConnect, TlsConnect, TlsListen,
};
use twistor::testing::{Link as NetworkLink, Pieces, Simulation};
use twistor::tls::rustls::pki_types::ServerName;
use twistor::tls::rustls::{ServerConfig, ServerConnection, version};
use twistor::tls::{TlsClient, TlsInfo, TlsServer, TlsVersion};
use twistor::{ConnectError, ConnectErrorKind, Connection, Deferred, Port, Transport};
use twistor_tests::outcome::{outcome, watch};
use twistor_tests::tls::{self, Authority, NAME};
use twistor_tests::{Driver, Ending, Event, Log, Peer, Script, Socket, World, contract, pattern, with_seeds};

fn address_of(port: &Port) -> SocketAddr {
    port.local_addr().socket_addr().expect("an IP port")
}

fn listen(world: &World, server: TlsServer, factory: impl twistor::Factory) -> Port {
    let endpoint = TlsListen::new("tcp:0:interface=127.0.0.1", server).unwrap();
    world.reactor.listen(ListenEndpoint::Tls(endpoint), factory).unwrap()
}

fn endpoint(under: impl IntoConnectEndpoint, client: TlsClient, name: &str) -> ConnectEndpoint {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    ConnectEndpoint::Tls(TlsConnect::new(under, client, name).unwrap())
}

/// Connects as everybody's client to everybody's server.
fn connect(world: &World, to: SocketAddr, log: &Log) -> Deferred<Connection<Script>, ConnectError> {
    let endpoint = endpoint(to, tls::common().client.clone(), NAME);
    world.reactor.connect_protocol(endpoint, Script::new(log))
}

/// A socket that has connected to a port, and speaks as the test likes.
fn raw<'w>(world: &'w World, port: &Port) -> Peer<'w> {
    Peer::of(world, world.machine().connect(address_of(port)).unwrap())
}

fn accept(world: &World, listener: &twistor_tests::Listener) -> Socket {
    let mut socket = None;
    world.until("a connection", || {
        socket = listener.accept();
        socket.is_some()
    });
    socket.unwrap()
}

/// Reads what was agreed on, of each connection that comes.
#[derive(Clone, Default)]
struct Agreed(Rc<RefCell<Vec<TlsInfo>>>);

impl Agreed {
    fn script(&self, log: &Log) -> Script {
        let agreed = self.clone();
        Script::new(log).on_made(move |transport| agreed.0.borrow_mut().push(transport.tls().unwrap()))
    }

    fn take(&self) -> TlsInfo {
        self.0.borrow_mut().pop().expect("a connection was made")
    }
}

/// A server that asks for nothing, after a change of its configuration.
fn server(authority: &Authority, change: impl FnOnce(&mut ServerConfig)) -> TlsServer {
    let mut config = authority.server_config();
    change(&mut config);
    TlsServer::from_config(Arc::new(config))
}

contract! {
    // Line 54.
    fn connection_made_comes_after_the_handshake_on_both_sides(driver) {
        let world = World::secured(driver, |builder| builder);
        let (log, asked) = (Log::new(), Rc::new(Cell::new(0)));
        let port = {
            let (log, asked) = (log.clone(), Rc::clone(&asked));
            world.listen(move |peer: twistor::Peer| {
                asked.set(asked.get() + 1);
                assert_eq!(peer.tls.expect("what was agreed on").server_name.as_deref(), Some(NAME));
                Script::new(&log)
            })
        };
        let peer = raw(&world, &port);
        peer.send(&tls::common().hello());
        world.until("the answer", || !peer.try_receive().unwrap().is_empty());
        world.turns(5);
        assert_eq!((asked.get(), log.events()), (0, Vec::new()), "the client has not proved anything");

        let listener = world.machine().listen_somewhere();
        let ours = Log::new();
        let attempt = watch(connect(&world, listener.local_addr(), &ours));
        let socket = accept(&world, &listener);
        world.turns(5);
        assert_eq!((attempt.borrow().is_none(), ours.events()), (true, Vec::new()));
        let peer = Peer::secure(&world, socket, tls::common().server_session());
        world.until("the outcome", || attempt.borrow().is_some());
        assert_eq!(ours.events(), [Event::Made]);
        let connection = attempt.take().unwrap().unwrap();
        connection.write(b"hello");
        assert_eq!(peer.receive(5), b"hello");
    }

    // Line 54.
    fn bytes_go_both_ways_between_reactors(driver) {
        let world = World::secured(driver, |builder| builder);
        let (theirs, ours) = (Log::new(), Log::new());
        let port = {
            let theirs = theirs.clone();
            world.listen(move |_| Script::new(&theirs).on_data(Transport::write))
        };
        let connection = outcome(&world, connect(&world, address_of(&port), &ours)).unwrap();
        let data = pattern(1_000_000);
        connection.write(&data);
        world.until("the echo", || ours.data().len() == data.len());
        assert!(ours.data() == data && theirs.data() == data);
        let stats = connection.stats();
        assert_eq!((stats.bytes_sent, stats.bytes_received), (1_000_000, 1_000_000), "plain bytes are counted");
        connection.lose_connection();
        world.until("both losses", || ours.lost().is_some() && theirs.lost().is_some());
        assert_eq!((ours.lost().unwrap(), theirs.lost().unwrap()), ("closed".into(), "closed".into()));
        let stats = world.reactor.stats();
        assert_eq!((stats.handshakes, stats.tls_failures, stats.connected, stats.accepted), (2, 0, 1, 1));
    }

    // Line 54.
    fn both_sides_know_what_was_agreed_on(driver) {
        for version in [&version::TLS12, &version::TLS13] {
            let world = World::new(driver);
            let authority = Authority::new();
            let server = server(&authority, |config| config.alpn_protocols = vec![b"b".to_vec(), b"c".to_vec()]);
            let (theirs, ours) = (Agreed::default(), Agreed::default());
            let port = {
                let theirs = theirs.clone();
                listen(&world, server, move |_| theirs.script(&Log::new()))
            };
            let mut config = authority.client_config_of(&[version]);
            config.alpn_protocols = vec![b"a".to_vec(), b"b".to_vec()];
            let client = TlsClient::from_config(Arc::new(config));
            for round in 0..2 {
                let endpoint = endpoint(address_of(&port), client.clone(), NAME);
                let protocol = ours.script(&Log::new());
                let connection = outcome(&world, world.reactor.connect_protocol(endpoint, protocol)).unwrap();
                world.until("the other side", || !theirs.0.borrow().is_empty());
                // The tickets come behind the handshake.
                world.turns(5);
                let (theirs, ours) = (theirs.take(), ours.take());
                assert_eq!(ours.version == TlsVersion::Tls13, version.version == version::TLS13.version);
                assert_eq!((theirs.version, theirs.cipher_suite), (ours.version, ours.cipher_suite));
                assert!(ours.cipher_suite.starts_with("TLS"), "{}", ours.cipher_suite);
                for info in [&theirs, &ours] {
                    assert_eq!(info.alpn.as_deref(), Some(&b"b"[..]));
                    assert_eq!(info.server_name.as_deref(), Some(NAME));
                    assert_eq!(info.is_resumed, round == 1, "{info:?}");
                }
                assert_eq!((ours.peer_certificates.len(), theirs.peer_certificates.len()), (2, 0));
                assert_eq!(connection.tls().as_ref(), Some(&ours));
                connection.abort_connection();
                world.turns(3);
                assert_eq!(connection.tls(), Some(ours), "also after the loss");
            }
        }
    }

    // Line 54.
    fn data_in_one_chunk_with_the_end_of_the_handshake_waits_for_who_pauses_in_connection_made(driver) {
        let world = World::secured(driver, |builder| builder);
        let log = Log::new();
        let made = Rc::new(RefCell::new(None::<Transport>));
        let port = {
            let (log, made) = (log.clone(), Rc::clone(&made));
            world.listen(move |_| {
                let made = Rc::clone(&made);
                Script::new(&log).on_made(move |transport| {
                    transport.pause_reading();
                    *made.borrow_mut() = Some(transport.clone());
                })
            })
        };
        let peer = world.connect(&port);
        assert!(made.borrow().is_none(), "the last word of the client has not been read");
        assert_eq!((peer.try_send(b"one"), peer.try_send(b"two")), (3, 3));
        peer.finish();
        world.until("the connection", || made.borrow().is_some());
        world.assert_sleeps("the connection is paused since connection_made");
        assert_eq!(log.events(), [Event::Made]);
        made.take().unwrap().resume_reading();
        world.until("the loss", || log.lost().is_some());
        assert_eq!((log.data(), log.lost().as_deref()), (b"onetwo".to_vec(), Some("closed")));
    }

    // Lines 22 and 54.
    fn between_two_records_of_one_chunk_a_protocol_may_give_back_pause_and_make_way(driver) {
        let world = World::secured(driver, |builder| builder);
        let (first, second) = (Log::new(), Log::new());
        let (transport, peer) = {
            let second = second.clone();
            world.pair(Script::new(&first).on_data(move |transport, data| {
                transport.unread(data[1..].to_vec());
                transport.switch_protocol(Script::new(&second).on_made(Transport::pause_reading));
            }))
        };
        for piece in [b"abc", b"def", b"ghi"] {
            assert_eq!(peer.try_send(piece), 3);
        }
        world.until("the switch", || second.has(&Event::Made));
        world.turns(5);
        assert_eq!(first.data(), b"abc");
        assert_eq!(second.events(), [Event::Made]);
        transport.resume_reading();
        world.until("the rest", || second.data() == b"bcdefghi");
    }

    // Line 54.
    fn new_keys_of_the_peer_are_taken_and_answered(driver) {
        if tls::talks_old_version() {
            return;
        }
        let world = World::secured(driver, |builder| builder);
        let log = Log::new();
        let (_transport, peer) = world.pair(Script::new(&log).on_data(Transport::write));
        for round in 0..10 {
            peer.with_tls(rustls::Connection::refresh_traffic_keys).unwrap();
            let data = pattern(1000 + round);
            peer.send(&data);
            assert!(peer.receive(data.len()) == data, "round {round}");
        }
        // Nothing but new keys is an attack.
        for _ in 0..100 {
            peer.with_tls(rustls::Connection::refresh_traffic_keys).unwrap();
        }
        world.until("the loss", || log.lost().is_some());
        assert!(log.lost().unwrap().contains("TooManyKeyUpdateRequests"), "{:?}", log.lost());
        assert_eq!(world.reactor.stats().queued_bytes, 0);
    }

    // Line 54.
    fn writing_between_two_parts_of_a_message_of_the_peer_does_no_harm(driver) {
        if tls::talks_old_version() {
            return;
        }
        let world = World::new(driver);
        let listener = world.machine().listen_somewhere();
        let log = Log::new();
        let attempt = watch(connect(&world, listener.local_addr(), &log));
        let socket = accept(&world, &listener);
        let mut config = tls::common().authority.server_config();
        // The session ticket comes in many records.
        config.max_fragment_size = Some(64);
        config.send_tls13_tickets = 1;
        let mut server = ServerConnection::new(Arc::new(config)).unwrap();
        let mut sealed = Vec::new();
        world.until("the handshake", || {
            if server.read_tls(&mut &socket).is_ok() {
                server.process_new_packets().unwrap();
            }
            if server.is_handshaking() && server.wants_write() {
                while server.wants_write() {
                    server.write_tls(&mut &socket).unwrap();
                }
            }
            attempt.borrow().is_some() && !server.is_handshaking()
        });
        let connection = attempt.take().unwrap().unwrap();
        while server.wants_write() {
            server.write_tls(&mut sealed).unwrap();
        }
        let first = usize::from(u16::from_be_bytes([sealed[3], sealed[4]])) + 5;
        assert!(first < 100 && sealed.len() > 100, "{first} of {} bytes: no ticket in parts", sealed.len());
        let mut received = Vec::new();
        for part in sealed.chunks(50) {
            assert_eq!(socket.write(part).unwrap(), part.len());
            world.turns(3);
            connection.write(b"x");
            world.turns(3);
            assert!(server.read_tls(&mut &socket).is_ok());
            server.process_new_packets().unwrap();
            let mut buffer = [0; 10];
            let count = server.reader().read(&mut buffer).unwrap();
            received.extend_from_slice(&buffer[..count]);
        }
        assert_eq!(received, vec![b'x'; sealed.len().div_ceil(50)]);
        server.writer().write_all(b"done").unwrap();
        while server.wants_write() {
            server.write_tls(&mut &socket).unwrap();
        }
        world.until("the data", || log.data() == b"done");
    }

    // Lines 24 and 54.
    fn an_end_that_comes_with_the_end_of_the_handshake_is_told(driver) {
        for keeps_stream in [true, false] {
            let world = World::secured(driver, |builder| builder);
            let log = Log::new();
            let port = {
                let log = log.clone();
                world.listen(move |_| Script::new(&log))
            };
            let peer = world.connect(&port);
            assert_eq!(log.events(), [], "the last word of the client has not been read");
            if keeps_stream {
                peer.with_tls(|tls| {
                    tls.send_close_notify();
                    tls.write_tls(&mut peer.socket()).unwrap();
                });
            } else {
                peer.finish();
            }
            world.until("the end", || log.has(&Event::Eof));
            assert_eq!(peer.receive_to_end(), (Vec::new(), Ending::Fin));
            drop(peer);
            world.until("the loss", || log.lost().is_some());
            assert_eq!(log.events(), [Event::Made, Event::Eof, Event::Lost("closed".to_owned())]);
        }
    }

    // Lines 11 and 54.
    fn a_handshake_that_stands_still_and_half_a_record_cost_no_wake_ups(driver) {
        let world = World::secured(driver, |builder| builder);
        let log = Log::new();
        let port = world.listen(|_| -> Script { unreachable!("nobody completes a handshake") });
        let (silent, slow) = (raw(&world, &port), raw(&world, &port));
        slow.send(&tls::common().hello()[..100]);
        let (_transport, peer) = world.pair(Script::new(&log));
        peer.with_tls(|tls| tls.writer().write(&[b'x'; 1000])).unwrap();
        let mut record = Vec::new();
        peer.with_tls(|tls| tls.write_tls(&mut record)).unwrap();
        assert_eq!(peer.socket().write(&record[..500]).unwrap(), 500);
        world.assert_sleeps("nothing happens");
        assert_eq!(log.events(), [Event::Made]);
        assert_eq!(peer.socket().write(&record[500..]).unwrap(), record.len() - 500);
        world.until("the record", || log.data().len() == 1000);
        drop((silent, slow));
        world.until("the others are gone", || world.reactor.stats().connections == 1);
    }

    // Lines 45 and 54.
    fn a_factory_that_does_not_want_a_connection_has_it_closed_in_good_order(driver) {
        let world = World::secured(driver, |builder| builder);
        let port = world.listen(|_: twistor::Peer| None::<Script>);
        let peer = world.connect(&port);
        assert_eq!(peer.receive_to_end(), (Vec::new(), Ending::Fin));
        peer.finish();
        world.until("the end", || world.reactor.stats().connections == 0);
        let stats = world.reactor.stats();
        assert_eq!((stats.refused, stats.handshakes, stats.tls_failures), (1, 1, 0));

        let port = world.listen(|_| Script::default());
        let target = endpoint(address_of(&port), tls::common().client.clone(), NAME);
        let error = outcome(&world, world.reactor.connect(target, |_| None::<Script>)).unwrap_err();
        assert_eq!(error.kind(), ConnectErrorKind::Declined);
        world.until("the end", || world.reactor.stats().connections == 0);
    }

    // Lines 5 and 54.
    fn a_factory_that_panics_costs_its_connection_only(driver) {
        let world = World::secured(driver, |builder| builder);
        let port = {
            let mut first = true;
            world.listen(move |_| {
                assert!(!std::mem::take(&mut first), "on purpose");
                Script::default().on_data(Transport::write)
            })
        };
        let (first, second) = (world.connect(&port), world.connect(&port));
        let _ = first.receive_to_end();
        second.send(b"?");
        assert_eq!(second.receive(1), b"?");
        assert_eq!(world.reactor.stats().panics, 1);

        let target = endpoint(address_of(&port), tls::common().client.clone(), NAME);
        let attempt = world.reactor.connect(target, |_| -> Script { panic!("on purpose") });
        assert_eq!(outcome(&world, attempt).unwrap_err().kind(), ConnectErrorKind::Declined);
        assert_eq!(world.reactor.stats().panics, 2);
        drop((first, second));
        world.until("the end", || world.reactor.stats().connections == 0);
    }

    // Lines 5 and 54.
    fn a_panic_in_connection_made_costs_its_connection_only(driver) {
        let world = World::secured(driver, |builder| builder);
        let log = Log::new();
        let port = {
            let log = log.clone();
            world.listen(move |_| Script::new(&log).on_made(|_| panic!("on purpose")))
        };
        let peer = world.connect(&port);
        assert_eq!(peer.receive_to_end().1, Ending::Reset);
        assert_eq!(log.events(), [Event::Made, Event::Lost("a hook panicked".to_owned())]);

        let (port, log) = (world.listen(|_| Script::default()), Log::new());
        let target = endpoint(address_of(&port), tls::common().client.clone(), NAME);
        let protocol = Script::new(&log).on_made(|_| panic!("on purpose"));
        let error = outcome(&world, world.reactor.connect_protocol(target, protocol)).unwrap_err();
        assert_eq!(error.kind(), ConnectErrorKind::Declined);
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.events(), [Event::Made, Event::Lost("a hook panicked".to_owned())]);
        assert_eq!(world.reactor.stats().panics, 2);
    }

    // Lines 48 and 54.
    fn a_port_that_stops_lets_handshakes_end_before_its_factory_hears_of_it(driver) {
        let world = World::secured(driver, |builder| builder);
        let (diary, log) = (Rc::new(RefCell::new(Vec::new())), Log::new());
        let port = world.listen(Diary { entries: Rc::clone(&diary), log: log.clone() });
        let (completing, leaving) = (raw(&world, &port), raw(&world, &port));
        completing.send(&tls::common().hello()[..100]);
        leaving.send(&tls::common().hello()[..100]);
        world.turns(3);
        outcome(&world, port.stop_listening()).unwrap();
        world.turns(3);
        assert_eq!(*diary.borrow(), ["started"], "two connections are in their handshakes");
        drop(completing);
        world.turns(5);
        assert_eq!(*diary.borrow(), ["started"]);
        drop(leaving);
        world.until("the end", || world.reactor.stats().connections == 0);
        world.turns(2);
        assert_eq!(*diary.borrow(), ["started", "stopped", "dropped"]);
        assert_eq!(log.events(), []);
    }

    // Lines 48 and 54.
    fn a_handshake_that_ends_after_its_port_gets_a_protocol(driver) {
        let world = World::secured(driver, |builder| builder);
        let (diary, log) = (Rc::new(RefCell::new(Vec::new())), Log::new());
        let port = world.listen(Diary { entries: Rc::clone(&diary), log: log.clone() });
        let socket = world.machine().connect(address_of(&port)).unwrap();
        world.until("it is accepted", || world.reactor.stats().accepted == 1);
        outcome(&world, port.stop_listening()).unwrap();
        let peer = Peer::secure(&world, socket, tls::common().session());
        peer.send(b"hello");
        world.until("the data", || log.data() == b"hello");
        world.turns(2);
        assert_eq!(*diary.borrow(), ["started", "built", "stopped", "dropped"]);
    }

    // Lines 9 and 54.
    fn a_reactor_that_is_dropped_in_the_middle_of_handshakes_leaves_nothing(driver) {
        let world = World::secured(driver, |builder| builder);
        let diary = Rc::new(RefCell::new(Vec::new()));
        let _port = world.listen(Diary { entries: Rc::clone(&diary), log: Log::new() });
        let peer = world.machine().connect(address_of(&_port)).unwrap();
        assert!(peer.write(&tls::common().hello()[..100]).is_ok());
        let listener = world.machine().listen_somewhere();
        let log = Log::new();
        let attempt = watch(connect(&world, listener.local_addr(), &log));
        let accepted = accept(&world, &listener);
        world.turns(3);
        assert_eq!(world.reactor.stats().connections, 2);
        let simulation = world.end();
        assert!(diary.borrow().contains(&"dropped"), "{:?}", diary.borrow());
        assert!(!log.has(&Event::Made));
        for socket in [&peer, &accepted] {
            assert!(socket.becomes_readable(), "the other end is told");
        }
        drop((attempt, simulation));
    }

    // Lines 7 and 54.
    fn stopping_the_reactor_does_not_wait_for_handshakes(driver) {
        let world = World::secured(driver, |builder| builder);
        let port = world.listen(|_| Script::default());
        let _peer = raw(&world, &port);
        let listener = world.machine().listen_somewhere();
        let attempt = watch(connect(&world, listener.local_addr(), &Log::new()));
        let _socket = accept(&world, &listener);
        let start = world.now();
        world.reactor.stop();
        while world.turn(Duration::from_millis(1)) {
            assert!(world.since(start) < Duration::from_millis(500), "the drain time-out is waited for");
        }
        let error = attempt.take().expect("an outcome").unwrap_err();
        assert_eq!(error.kind(), ConnectErrorKind::Cancelled, "{error}");
    }

    // Lines 51 and 54.
    fn an_attempt_that_is_cancelled_in_its_handshake_is_over(driver) {
        let world = World::new(driver);
        let listener = world.machine().listen_somewhere();
        let log = Log::new();
        let attempt = connect(&world, listener.local_addr(), &log);
        let peer = Peer::of(&world, accept(&world, &listener));
        world.until("the hello", || !peer.try_receive().unwrap().is_empty());
        assert!(attempt.cancel());
        let error = outcome(&world, attempt).unwrap_err();
        assert_eq!(error.kind(), ConnectErrorKind::Cancelled);
        let _ = peer.receive_to_end();
        world.until("the end", || world.reactor.stats().connections == 0);
        assert_eq!((world.reactor.stats().attempts, log.events()), (0, Vec::new()));
    }

    // Lines 51 and 54.
    fn the_time_limit_of_an_attempt_covers_its_handshake(driver) {
        let world = World::new(driver);
        let listener = world.machine().listen_somewhere();
        let under = TcpConnect::new(listener.local_addr()).timeout(Duration::from_millis(40));
        let start = world.now();
        let target = endpoint(under, tls::common().client.clone(), NAME);
        let attempt = world.reactor.connect_protocol(target, Script::default());
        let error = outcome(&world, attempt).unwrap_err();
        assert_eq!(error.kind(), ConnectErrorKind::TimedOut);
        assert!(error.to_string().contains(&listener.local_addr().to_string()), "{error}");
        assert!(world.since(start) >= Duration::from_millis(40));
        world.turns(2);
        assert_eq!(world.reactor.stats().connections, 0);
    }

    // Line 57.
    fn a_client_says_which_check_its_server_failed_and_so_does_the_server(driver) {
        let right = tls::common();
        let expired = right.authority.issue(&[NAME], tls::make_expired);
        let expired = tls::server_config_of(expired);
        let stranger = Authority::named("a stranger").server();
        let cases = [
            ("elsewhere.example", right.server.clone(), "not valid for name", "BadCertificate"),
            (NAME, stranger, "UnknownIssuer", "UnknownCA"),
            (NAME, TlsServer::from_config(Arc::new(expired)), "expired", "CertificateExpired"),
        ];
        for (name, server, check, alert) in cases {
            let world = World::new(driver);
            let port = listen(&world, server.clone(), |_| -> Script { unreachable!("it has failed") });
            let log = Log::new();
            let target = endpoint(address_of(&port), right.client.clone(), name);
            let attempt = world.reactor.connect_protocol(target, Script::new(&log));
            let error = outcome(&world, attempt).unwrap_err();
            assert_eq!(error.kind(), ConnectErrorKind::Tls);
            let text = error.to_string();
            assert!(text.contains(check) && text.contains(&address_of(&port).to_string()), "{text}");
            world.until("both ends", || world.reactor.stats().connections == 0);
            assert_eq!((log.events(), world.reactor.stats().tls_failures), (Vec::new(), 2));

            // Where the server has a protocol already, that hears of the alert.
            let heard = Log::new();
            let (transport, peer) = world.pair(Script::new(&heard));
            let failed = watch(transport.start_tls_server(&server));
            let mut session = right.session_for(name);
            world.until("the loss", || {
                let _ = session.write_tls(&mut peer.socket());
                if session.read_tls(&mut peer.socket()).is_ok() {
                    let _ = session.process_new_packets();
                }
                heard.lost().is_some()
            });
            assert!(heard.lost().unwrap().contains(alert), "{:?}", heard.lost());
            world.turns(2);
            let reason = failed.take().expect("an outcome").unwrap_err();
            assert_eq!(reason.to_string(), heard.lost().unwrap());
        }
    }

    // Line 57.
    fn what_is_no_tls_gets_an_alert_and_never_reaches_a_protocol(driver) {
        let world = World::secured(driver, |builder| builder);
        let port = world.listen(|_| -> Script { unreachable!("it was no handshake") });
        for words in [&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff], &[0; 100]] {
            let mut peer = raw(&world, &port);
            peer.send(words);
            let (answer, _) = peer.receive_to_end();
            // An alert (RFC 8446, section 6), and nothing else.
            assert_eq!((answer.len(), answer[0]), (7, 21), "{answer:?}");
            peer.close();
            world.until("the end", || world.reactor.stats().connections == 0);
        }
        assert_eq!(world.reactor.stats().tls_failures, 3);
    }

    // Line 57.
    fn a_peer_that_leaves_in_its_handshake_is_counted_and_told(driver) {
        let world = World::secured(driver, |builder| builder);
        let port = world.listen(|_| -> Script { unreachable!("it was no handshake") });
        for hello in [0, 100, 10_000] {
            let peer = raw(&world, &port);
            let all = tls::common().hello();
            peer.send(&all[..all.len().min(hello)]);
            peer.finish();
            let _ = peer.receive_to_end();
            world.until("the end", || world.reactor.stats().connections == 0);
        }
        assert_eq!(world.reactor.stats().tls_failures, 3);

        let listener = world.machine().listen_somewhere();
        let attempt = connect(&world, listener.local_addr(), &Log::new());
        let peer = Peer::of(&world, accept(&world, &listener));
        peer.finish();
        let error = outcome(&world, attempt).unwrap_err();
        assert_eq!(error.kind(), ConnectErrorKind::Tls);
        assert!(error.to_string().contains("ended the connection during the handshake"), "{error}");
    }

    // Line 57.
    fn a_storm_of_handshakes_leaves_established_connections_responsive(driver) {
        let limit = 4;
        let world = World::secured(driver, |builder| builder.handshakes_per_pass(limit));
        let log = Log::new();
        let (_transport, established) = world.pair(Script::new(&log));
        let port = world.listen(|_| Script::default());
        let hello = tls::common().hello();
        let mut waiting: Vec<_> = (0..60).map(|_| raw(&world, &port)).collect();
        for peer in &waiting {
            // In two pieces, of which the second comes while the first may be waiting.
            peer.send(&hello[..10]);
        }
        world.turns(2);
        for peer in &waiting {
            assert_eq!(peer.try_send(&hello[10..]), hello.len() - 10);
        }
        let mut passes = 0;
        while !waiting.is_empty() {
            assert_eq!(established.try_send(b"x"), 1);
            world.turns(1);
            passes += 1;
            assert_eq!(log.data().len(), passes, "the established connection did not get its turn");
            let before = waiting.len();
            waiting.retain(|peer| peer.try_receive().expect("it goes on").is_empty());
            assert!(before - waiting.len() <= limit as usize, "{} handshakes in a pass", before - waiting.len());
            assert!(passes < 1000, "{} handshakes never get their turn", waiting.len());
        }
        assert!(passes >= 60 / limit as usize);
        world.assert_sleeps("no handshake goes on");
    }

    // Lines 34 and 54.
    fn a_pipe_leads_from_plain_to_tls_and_back(driver) {
        let world = World::secured(driver, |builder| builder);
        let (secured, sealed) = world.pair(Script::default());
        world.set_secured(false);
        let (open, peer) = world.pair(Script::default());
        let (there, back) = (watch(open.pipe(&secured)), watch(secured.pipe(&open)));
        let data = pattern(1_000_000);
        let (mut sent, mut sent_back, mut arrived, mut returned) = (0, 0, Vec::new(), Vec::new());
        world.until("both directions", || {
            sent += peer.try_send(&data[sent..]);
            sent_back += sealed.try_send(&data[sent_back..]);
            arrived.extend_from_slice(&sealed.try_receive().expect("the stream goes on"));
            returned.extend_from_slice(&peer.try_receive().expect("the stream goes on"));
            arrived.len() == data.len() && returned.len() == data.len()
        });
        assert!(arrived == data && returned == data);
        peer.finish();
        assert_eq!(sealed.receive_to_end(), (Vec::new(), Ending::Fin), "announced, and then ended");
        sealed.send(b"later");
        assert_eq!(peer.receive(5), b"later");
        sealed.finish();
        assert_eq!(peer.receive_to_end(), (Vec::new(), Ending::Fin));
        world.until("both outcomes", || there.borrow().is_some() && back.borrow().is_some());
        assert_eq!((there.take().unwrap().unwrap(), back.take().unwrap().unwrap()), (1_000_000, 1_000_005));
        world.until("the end", || world.reactor.stats().connections == 0);
    }
}

/// Runs a test in simulated time only: it takes too much of the other.
fn in_simulated_time(test: impl Fn(&World)) {
    with_seeds(|| test(&World::secured(Driver::Simulated, |builder| builder)));
}

/// How long a handshake may take.
const LIMIT: Duration = Duration::from_secs(10);

// Line 57.
#[test]
fn a_handshake_has_ten_seconds_however_busy_its_peer_is() {
    in_simulated_time(|world| {
        let port = world.listen(|_| -> Script { unreachable!("it was no handshake") });
        let (silent, slow) = (raw(world, &port), raw(world, &port));
        let start = world.now();
        let hello = tls::common().hello();
        let mut sent = 0;
        while world.reactor.stats().tls_failures < 2 {
            if sent < 50 && slow.try_send(&hello[sent..=sent]) == 1 {
                sent += 1;
            }
            world.run_for(Duration::from_millis(300));
            assert!(world.since(start) < LIMIT + Duration::from_secs(1));
        }
        assert!(world.since(start) >= LIMIT);
        assert_eq!((silent.receive_to_end().1, slow.receive_to_end().1), (Ending::Reset, Ending::Reset));

        let listener = world.machine().listen_somewhere();
        let start = world.now();
        let error = outcome(world, connect(world, listener.local_addr(), &Log::new())).unwrap_err();
        assert_eq!(error.kind(), ConnectErrorKind::TimedOut);
        assert!(error.to_string().contains("handshake took too long"), "{error}");
        assert!(world.since(start) >= LIMIT && world.since(start) < LIMIT + Duration::from_secs(1));
        world.turns(2);
        assert_eq!((world.reactor.stats().connections, world.reactor.stats().tls_failures), (0, 3));
    });
}

// Line 57.
#[test]
fn a_time_limit_that_ended_with_the_handshake_does_nothing_later() {
    in_simulated_time(|world| {
        let log = Log::new();
        let (_transport, peer) = world.pair(Script::new(&log).on_data(Transport::write));
        world.run_for(3 * LIMIT);
        peer.send(b"still there");
        assert_eq!(peer.receive(11), b"still there");
        assert_eq!(world.reactor.stats().timers, 0, "once it has passed, nothing is left of it");
    });
}

// Line 57.
#[test]
fn of_too_many_handshakes_the_one_that_has_waited_longest_gives_way() {
    in_simulated_time(|world| {
        let port = world.listen(|_| Script::default().on_data(Transport::write));
        let limit = 10_000;
        let mut waiting = Vec::new();
        for n in 0..limit {
            waiting.push(raw(world, &port));
            if n % 64 == 63 {
                world.reactor.turn(Some(Duration::ZERO)).unwrap();
            }
        }
        world.until("all are accepted", || world.reactor.stats().accepted == limit);
        assert_eq!(world.reactor.stats().tls_failures, 0);
        let peer = world.connect(&port);
        peer.send(b"?");
        assert_eq!(peer.receive(1), b"?");
        assert_eq!(world.reactor.stats().tls_failures, 1);
        assert_eq!(waiting[0].try_receive(), None, "the first has given way");
        assert_eq!(waiting[1].try_receive(), Some(Vec::new()));
        // One is through and one has given way: there is room for one.
        let _another = raw(world, &port);
        world.turns(3);
        assert_eq!(world.reactor.stats().tls_failures, 1);
        let _one_more = raw(world, &port);
        world.turns(3);
        assert_eq!((world.reactor.stats().tls_failures, waiting[1].try_receive()), (2, None));
    });
}

/// Everything that happens in a simulated network where a client and a server talk over TLS.
fn trace(seed: u64) -> (String, u64) {
    let simulation = Simulation::new(seed);
    simulation.set_trace_limit(1_000_000);
    simulation.set_default_link(NetworkLink::new().loss(0.05).pieces(Pieces::UpTo(500)).bandwidth(1_000_000));
    simulation.host("server", |reactor| {
        let endpoint = TlsListen::new("tcp:443", tls::common().server.clone()).unwrap();
        let echo = |_| Script::default().on_data(Transport::write);
        reactor.listen(ListenEndpoint::Tls(endpoint), echo).unwrap();
    });
    simulation.host("client", |reactor| {
        for n in 0..5 {
            let target = endpoint("tcp:10.0.0.1:443", tls::common().client.clone(), NAME);
            let mut left = 20_000 * n;
            let talk = Script::default().on_made(|transport| transport.write(b"hello")).on_data(
                move |transport, data| match left {
                    0 => transport.lose_connection(),
                    _ => {
                        left = usize::saturating_sub(left, data.len());
                        transport.write(&pattern(transport.reactor().random().below(3000) as usize + 1));
                    }
                },
            );
            drop(reactor.connect_protocol(target, talk));
        }
    });
    simulation.run_for(Duration::from_secs(20));
    (simulation.trace(), simulation.fingerprint())
}

// Line 54, and what simulations promise.
#[test]
fn a_seed_decides_what_happens_with_tls_too() {
    let (first, fingerprint) = trace(1);
    assert!(first.lines().count() > 500, "{} events", first.lines().count());
    for _ in 0..10 {
        let (again, other) = trace(1);
        let difference = first.lines().zip(again.lines()).find(|(one, other)| one != other);
        assert_eq!((difference, other), (None, fingerprint));
    }
    assert_ne!(trace(2).1, fingerprint);
}

/// A factory that writes its own life down.
struct Diary {
    entries: Rc<RefCell<Vec<&'static str>>>,
    log: Log,
}

impl twistor::Factory for Diary {
    type Protocol = Script;

    fn build_protocol(&mut self, _: twistor::Peer) -> Option<Script> {
        self.entries.borrow_mut().push("built");
        Some(Script::new(&self.log))
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
