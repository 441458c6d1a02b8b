//! TLS that begins in the middle of a stream, with plain text where an attacker may have put it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use rustls::ClientConfig;
use twistor::tls::TlsServer;
use twistor::{Reason, Stream, Transport};
use twistor_protocols::{LineProtocol, LineReceiver, Lines};
use twistor_tests::outcome::{Outcome, outcome, watch};
use twistor_tests::tls::{Authority, NAME};
use twistor_tests::{Driver, Event, Log, Peer, Script, World, contract};

use super::support::{BOTH, Other, Version, client_config, loss};

const REQUEST: &[u8] = b"STARTTLS\r\n";
const INJECTED: &str = "TLS: plain text came behind the request to begin with TLS";

/// Begins as a server when it is asked to, and gives back what stands behind the request.
fn plain_server(log: &Log, server: TlsServer) -> Script {
    Script::new(log).on_data(move |transport, data| {
        if let Some(behind) = data.strip_prefix(REQUEST) {
            transport.write(b"go ahead\r\n");
            drop(transport.start_tls_server(&server));
            transport.unread(behind.to_vec());
        } else {
            transport.write(data);
        }
    })
}

/// The data that came behind the handshake.
fn secret_data(log: &Log) -> Vec<u8> {
    let all = log.data();
    all.strip_prefix(REQUEST).map(<[u8]>::to_vec).unwrap_or(all)
}

fn go_on<'w>(world: &'w World, peer: Peer<'w>, config: ClientConfig) -> Other<'w> {
    let mut client = Other::client(world, peer, config);
    client.shake_hands();
    client
}

contract! {
    // Line 55.
    fn plain_text_in_one_chunk_with_the_request_ends_the_connection(driver) {
        let (world, authority, log) = (World::new(driver), Authority::new(), Log::new());
        let (_, peer) = world.pair(plain_server(&log, authority.server()));
        peer.send(b"STARTTLS\r\nEVIL\r\n");
        assert_eq!(loss(&world, &log), INJECTED);
        assert_eq!(log.data(), b"STARTTLS\r\nEVIL\r\n");
        // It was the chunk itself; nothing was delivered behind it.
        assert_eq!(log.events().len(), 3);
    }

    // Line 55.
    fn plain_text_that_comes_after_the_request_is_no_handshake(driver) {
        let (world, authority, log) = (World::new(driver), Authority::new(), Log::new());
        let (_, peer) = world.pair(plain_server(&log, authority.server()));
        peer.send(REQUEST);
        assert_eq!(peer.receive(10), b"go ahead\r\n");
        peer.send(b"EVIL\r\n");
        assert!(loss(&world, &log).starts_with("TLS: "), "{:?}", log.lost());
        assert_eq!(log.data(), REQUEST);
        assert!(!log.has(&Event::Eof));
    }

    // Line 55.
    fn text_that_was_given_back_before_is_an_injection(driver) {
        let (world, authority, log) = (World::new(driver), Authority::new(), Log::new());
        let failed = Rc::new(RefCell::new(None::<Outcome<_, Reason>>));
        let script = Script::new(&log).on_data({
            let (server, failed) = (authority.server(), Rc::clone(&failed));
            move |transport, data| {
                transport.unread(data[2..].to_vec());
                *failed.borrow_mut() = Some(watch(transport.start_tls_server(&server)));
            }
        });
        let (_, peer) = world.pair(script);
        peer.send(b"..EVIL");
        assert_eq!(loss(&world, &log), INJECTED);
        assert_eq!(log.data(), b"..EVIL");
        world.turns(2);
        let failed = failed.take().unwrap().take();
        assert_eq!(failed.unwrap().unwrap_err().to_string(), INJECTED);
    }

    // Line 55.
    fn a_server_cannot_inject_into_a_client_that_begins(driver) {
        for behind in [&b"EVIL\r\n"[..], b"E"] {
            let (world, authority, log) = (World::new(driver), Authority::new(), Log::new());
            let script = Script::new(&log).on_made(|transport| transport.write(REQUEST)).on_data({
                let client = authority.client();
                move |transport, data| {
                    if let Some(behind) = data.strip_prefix(b"go ahead\r\n") {
                        drop(transport.start_tls_client(&client, NAME));
                        transport.unread(behind.to_vec());
                    }
                }
            });
            let (_, peer) = world.pair(script);
            assert_eq!(peer.receive(REQUEST.len()), REQUEST);
            peer.send(&[b"go ahead\r\n", behind].concat());
            assert_eq!(loss(&world, &log), INJECTED);
            let (answer, _) = peer.receive_to_end();
            // A hello may have left, but nothing of use.
            assert!(answer.is_empty() || answer[0] == 22);
        }
    }

    fn lines_behind_the_request_in_its_chunk_are_not_taken_for_the_peers(driver) {
        for behind in [&b"EVIL\r\n"[..], b"EV"] {
            let (world, authority) = (World::new(driver), Authority::new());
            let lines = Rc::default();
            let protocol = LineProtocol::new(Liner { server: authority.server(), lines: Rc::clone(&lines) });
            let (_, peer) = world.pair(protocol);
            peer.send(&[REQUEST, behind].concat());
            world.turns(4);
            let mut client = Other::client(&world, peer, client_config(&authority, &[Version::Tls13]));
            for _ in 0..50 {
                client.step();
                world.turn(Duration::from_millis(1));
            }
            if !client.tls.is_handshaking() {
                use std::io::Write;
                client.tls.writer().write_all(b"IL\r\n").unwrap();
            }
            world.until("the connection ends", || {
                client.step();
                world.reactor.stats().connections == 0
            });
            assert_eq!(*lines.borrow(), ["STARTTLS"], "{behind:?}");
        }
    }

    fn what_a_stream_holds_from_before_is_never_read_behind_the_handshake(driver) {
        let (world, authority) = (World::new(driver), Authority::new());
        let read = Rc::new(RefCell::new(Vec::new()));
        let port = world.reactor.serve("tcp:0:interface=127.0.0.1", {
            let (server, read) = (authority.server(), Rc::clone(&read));
            move |stream: Stream| {
                let (server, read) = (server.clone(), Rc::clone(&read));
                async move {
                    let request = stream.read_line(100).await;
                    read.borrow_mut().push(format!("{request:?}"));
                    // Time for more to come.
                    stream.write_all(b"wait\r\n").await?;
                    let _ = stream.transport().reactor().sleep(Duration::from_millis(20)).await;
                    let begun = stream.transport().start_tls_server(&server);
                    read.borrow_mut().push("begins".to_owned());
                    let begun = begun.await;
                    read.borrow_mut().push(begun.map_or_else(|reason| reason.to_string(), |_| "begun".to_owned()));
                    let line = stream.read_line(100).await;
                    read.borrow_mut().push(line.map_or_else(|error| error.to_string(), |line| format!("{line:?}")));
                    Ok::<_, std::io::Error>(())
                }
            }
        }).unwrap();
        let peer = world.connect(&port);
        peer.send(b"STARTTLS\r\nEVIL\r\n");
        let _ = peer.receive(6);
        world.until("TLS begins", || read.borrow().len() == 2);
        let mut client = Other::client(&world, peer, client_config(&authority, &[Version::Tls13]));
        world.until("the task ends", || {
            client.step();
            read.borrow().len() == 4
        });
        assert_eq!(*read.borrow(), ["Ok(Some(\"STARTTLS\"))", "begins", INJECTED, INJECTED]);
    }

    // Line 55.
    fn the_handshake_that_follows_a_clean_request_works(driver) {
        for version in BOTH {
            let (world, authority, log) = (World::new(driver), Authority::new(), Log::new());
            let (_, peer) = world.pair(plain_server(&log, authority.server()));
            peer.send(REQUEST);
            assert_eq!(peer.receive(10), b"go ahead\r\n");
            let mut client = go_on(&world, peer, client_config(&authority, &[version]));
            client.say(b"secret");
            assert_eq!(client.hear(6), b"secret");
            assert_eq!(secret_data(&log), b"secret");
            client.leave();
        }
    }

    fn a_second_request_within_the_handshake_is_refused(driver) {
        let (world, authority, log) = (World::new(driver), Authority::new(), Log::new());
        let (transport, peer) = world.pair(plain_server(&log, authority.server()));
        peer.send(REQUEST);
        assert_eq!(peer.receive(10), b"go ahead\r\n");
        let error = outcome(&world, transport.start_tls_server(&authority.server())).unwrap_err();
        assert_eq!(error.to_string(), "failed: the connection has TLS already");
        let client = go_on(&world, peer, client_config(&authority, &[Version::Tls13]));
        client.leave();
    }

    // Line 57.
    fn a_peer_that_never_reads_cannot_hold_a_handshake_open(driver) {
        let world = World::new(driver);
        let (authority, log) = (Authority::new(), Log::new());
        let server = TlsServer::builder();
        let identity = authority.issue(&[NAME], |_| {});
        let server = server
            .certificate_pem(identity.chain_pem.as_bytes(), identity.key_pem.as_bytes())
            .handshake_timeout(Duration::from_millis(300)).build().unwrap();
        let script = Script::new(&log).on_made(move |transport: &Transport| {
            transport.set_write_limit(usize::MAX);
            transport.write(&vec![b'x'; 32 << 20]);
            drop(transport.start_tls_server(&server));
        });
        let (transport, peer) = world.pair(script);
        let mut client = Other::client(&world, peer, client_config(&authority, &[Version::Tls13]));
        let hello = client.take_output();
        client.peer.send(&hello);
        assert_eq!(loss(&world, &log), "TLS: the handshake took too long");
        assert_eq!(transport.queued(), 0);
        assert_eq!(world.reactor.stats().queued_bytes, 0);
    }
}

/// Speaks in lines, and begins with TLS when it is asked to.
struct Liner {
    server: TlsServer,
    lines: Rc<RefCell<Vec<String>>>,
}

impl LineReceiver for Liner {
    fn line_received(&mut self, io: &Lines, line: &[u8]) {
        self.lines.borrow_mut().push(String::from_utf8_lossy(line).into_owned());
        if line == b"STARTTLS" {
            drop(io.transport().start_tls_server(&self.server));
        }
    }
}

#[test]
fn a_connection_that_leaves_in_the_handshake_says_so_and_is_gone() {
    let (world, authority, log) = (World::new(Driver::Simulated), Authority::new(), Log::new());
    let (transport, peer) = world.pair(plain_server(&log, authority.server()));
    peer.send(REQUEST);
    assert_eq!(peer.receive(10), b"go ahead\r\n");
    transport.lose_connection();
    let (_, _) = peer.receive_to_end();
    drop(peer);
    assert_eq!(loss(&world, &log), "closed");
}
