//! The contract, section 8: what is rare in connections with TLS.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::Cell;
use std::io::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use twistor::endpoint::{ListenEndpoint, TlsListen};
use twistor::tls::rustls::crypto::{GetRandomFailed, SecureRandom};
use twistor::tls::rustls::{ClientConfig, RootCertStore};
use twistor::tls::{TlsClient, TlsServer, provider};
use twistor::{Eof, OnTimeout, Port, Timeouts};
use twistor_tests::tls::{self, Authority, NAME};
use twistor_tests::{Event, Log, Peer, Script, World, contract};

fn address_of(port: &Port) -> SocketAddr {
    port.local_addr().socket_addr().expect("an IP port")
}

fn listen(world: &World, server: TlsServer, factory: impl twistor::Factory) -> Port {
    let endpoint = TlsListen::new("tcp:0:interface=127.0.0.1", server).unwrap();
    world.reactor.listen(ListenEndpoint::Tls(endpoint), factory).unwrap()
}

/// A socket that has connected to a port, and speaks as the test likes.
fn raw<'w>(world: &'w World, port: &Port) -> Peer<'w> {
    Peer::of(world, world.machine().connect(address_of(port)).unwrap())
}

/// A system without randomness.
#[derive(Debug)]
struct NoRandom;

impl SecureRandom for NoRandom {
    fn fill(&self, _: &mut [u8]) -> Result<(), GetRandomFailed> {
        Err(GetRandomFailed)
    }
}

/// An alert within the handshake, in the clear: that nothing more follows.
const PLAIN_END: &[u8] = &[21, 3, 3, 0, 2, 1, 0];

contract! {
    // Line 57.
    fn of_many_handshakes_that_come_at_once_as_many_stay_as_are_allowed(driver) {
        let world = World::new(driver);
        let identity = Authority::new().issue(&[NAME], |_| {});
        let server = TlsServer::builder()
            .certificate_pem(identity.chain_pem.as_bytes(), identity.key_pem.as_bytes())
            .max_handshakes(10)
            .build()
            .unwrap();
        let port = listen(&world, server, |_| Script::default());
        let peers: Vec<_> = (0..10).map(|_| raw(&world, &port)).collect();
        world.until("they are there", || world.reactor.stats().connections == 10);
        let more: Vec<_> = (0..5).map(|_| raw(&world, &port)).collect();
        world.until("they are there", || world.reactor.stats().accepted == 15);
        world.turns(3);
        let stats = world.reactor.stats();
        assert_eq!((stats.connections, stats.tls_failures), (10, 5));
        drop((peers, more));
    }

    // Lines 6 and 57.
    fn a_reactor_that_was_stopped_in_a_storm_of_handshakes_does_them_when_it_runs_again(driver) {
        let world = World::with(driver, |builder| builder.handshakes_per_pass(1));
        let port = listen(&world, tls::common().server.clone(), |_| Script::default());
        let hello = tls::common().hello();
        let peers: Vec<_> = (0..10).map(|_| raw(&world, &port)).collect();
        world.until("they are there", || world.reactor.stats().connections == 10);
        peers.iter().for_each(|peer| peer.send(&hello));
        world.turns(1);
        world.reactor.stop();
        while world.turn(Duration::from_millis(1)) {}
        let port = listen(&world, tls::common().server.clone(), |_| Script::new(&Log::new()));
        let peers: Vec<_> = (0..2).map(|_| raw(&world, &port)).collect();
        for peer in peers {
            drop(peer.upgrade(tls::common().session()));
        }
    }

    // Lines 55 and 56.
    fn an_end_that_is_announced_in_the_middle_of_a_handshake_is_none(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let script = Script::new(&log)
            .on_made(|transport| drop(transport.start_tls_server(&tls::common().server)))
            .on_eof(|_| Eof::KeepOpen);
        let (_transport, peer) = world.pair(script);
        peer.send(&tls::common().hello());
        world.turns(5);
        peer.send(PLAIN_END);
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.events().len(), 2, "{:?}", log.events());
        assert!(log.lost().unwrap().starts_with("TLS: "), "{:?}", log.lost());
    }

    // Line 54.
    fn a_connection_whose_handshake_failed_was_never_secure(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let seen = Rc::new(Cell::new(None));
        let place = Rc::clone(&seen);
        let script = Script::new(&log)
            .on_made(|transport| drop(transport.start_tls_server(&tls::common().server)))
            .on_lost(move |transport, _| place.set(Some((transport.is_secure(), transport.tls().is_some()))));
        let (transport, peer) = world.pair(script);
        peer.send(&tls::common().hello());
        world.turns(5);
        peer.send(&[20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 32]);
        peer.send(&[7; 32]);
        world.until("the failure", || transport.is_closing());
        assert_eq!((transport.is_secure(), transport.tls()), (false, None));
        peer.finish();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(seen.get(), Some((false, false)));
    }

    // Lines 30 and 55.
    fn what_was_written_before_a_handshake_that_cannot_begin_is_not_counted_for_ever(driver) {
        let world = World::new(driver);
        let mut provider = (*provider::ring()).clone();
        provider.secure_random = &NoRandom;
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let client = TlsClient::from_config(Arc::new(config));
        let log = Log::new();
        let script = Script::new(&log).on_made(move |transport| {
            transport.write(b"STARTTLS\r\n");
            drop(transport.start_tls_client(&client, NAME));
        });
        let (_transport, _peer) = world.pair(script);
        world.until("the loss", || log.lost().is_some());
        assert!(log.lost().unwrap().starts_with("TLS: "), "{:?}", log.lost());
        assert_eq!(world.reactor.stats().queued_bytes, 0);
    }

    // Lines 24 and 57.
    fn data_and_the_end_behind_a_handshake_that_waits_for_its_turn_arrive(driver) {
        let world = World::with(driver, |builder| builder.handshakes_per_pass(1));
        let log = Log::new();
        let port = {
            let log = log.clone();
            listen(&world, tls::common().server.clone(), move |_| Script::new(&log))
        };
        let sockets: Vec<_> = (0..6).map(|_| world.machine().connect(address_of(&port)).unwrap()).collect();
        let mut lines: Vec<_> = sockets.into_iter().map(|socket| (socket, tls::common().session())).collect();
        for (socket, session) in &mut lines {
            let mut out = Vec::new();
            session.write_tls(&mut out).unwrap();
            assert_eq!(socket.write(&out).unwrap(), out.len());
        }
        for _ in 0..30 {
            world.turn(Duration::from_millis(1));
        }
        for (socket, session) in &mut lines {
            let mut buffer = vec![0; 1 << 16];
            let count = socket.read(&mut buffer).unwrap();
            session.read_tls(&mut &buffer[..count]).unwrap();
            session.process_new_packets().unwrap();
            assert!(!session.is_handshaking());
        }
        for (socket, session) in &mut lines {
            session.writer().write_all(b"x").unwrap();
            session.send_close_notify();
            let mut out = Vec::new();
            while session.wants_write() {
                session.write_tls(&mut out).unwrap();
            }
            assert_eq!(socket.write(&out).unwrap(), out.len());
            socket.finish().unwrap();
        }
        world.until("all", || world.reactor.stats().connections == 0);
        assert_eq!(log.data(), b"xxxxxx", "{:?}", log.events());
        assert_eq!(log.count(&Event::Eof), 6);
        assert_eq!(world.reactor.stats().tls_failures, 0);
    }

    // Lines 36 and 54.
    fn a_record_that_comes_slowly_is_input_all_the_same(driver) {
        let world = World::secured(driver, |builder| builder);
        let log = Log::new();
        let script = Script::new(&log).on_made(|transport| {
            transport.set_timeouts(Timeouts::new().idle(Duration::from_millis(120)));
        });
        let script = script.on_timed_out(|_, _| OnTimeout::Abort);
        let (_transport, peer) = world.pair(script);
        let sealed = peer.with_tls(|session| {
            session.writer().write_all(&[b'x'; 500]).unwrap();
            let mut sealed = Vec::new();
            session.write_tls(&mut sealed).unwrap();
            sealed
        });
        for part in sealed.chunks(70) {
            assert_eq!(peer.socket().write(part).unwrap(), part.len());
            world.run_for(Duration::from_millis(40));
        }
        assert_eq!(log.data().len(), 500, "{:?}", log.events());
    }

    // Lines 37 and 55.
    fn a_peer_that_leaves_in_its_handshake_does_not_hold_who_wants_to_close(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let script = Script::new(&log).on_made(|transport| {
            drop(transport.start_tls_server(&tls::common().server));
            transport.write(b"never");
            transport.lose_connection();
        });
        let (_transport, peer) = world.pair(script);
        let start = world.now();
        peer.finish();
        world.until("the loss", || log.lost().is_some());
        assert!(world.since(start) < Duration::from_secs(1), "{:?} {:?}", world.since(start), log.lost());
    }

    // Lines 37 and 54.
    fn an_answer_to_a_request_leaves_whatever_comes_behind_that(driver) {
        let world = World::secured(driver, |builder| builder);
        let log = Log::new();
        let script = Script::new(&log).on_data(|transport, _| {
            transport.write(b"answer");
            transport.lose_connection();
        });
        let (_transport, peer) = world.pair(script);
        let mut sealed = peer.with_tls(|session| {
            session.writer().write_all(b"request").unwrap();
            let mut sealed = Vec::new();
            session.write_tls(&mut sealed).unwrap();
            sealed
        });
        sealed.extend([23, 3, 3, 0, 40]);
        sealed.extend([1; 40]);
        assert_eq!(peer.socket().write(&sealed).unwrap(), sealed.len());
        assert_eq!(peer.receive(6), b"answer");
        drop(peer);
        world.until("the loss", || log.lost().is_some());
    }
}
