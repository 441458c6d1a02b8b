//! The contract, section 8, line 55: a connection that goes on with TLS.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use twistor::tls::TlsInfo;
use twistor::{Deferred, Eof, Port, Reason, Transport};
use twistor_tests::outcome::{Outcome, outcome, watch};
use twistor_tests::tls::{self, NAME};
use twistor_tests::{Driver, Ending, Event, Log, Peer, Script, World, contract, with_seeds};

const REQUEST: &[u8] = b"STARTTLS\r\n";
const INJECTED: &str = "TLS: plain text came behind the request to begin with TLS";

type Started = Outcome<TlsInfo, Reason>;

fn start(transport: &Transport) -> Deferred<TlsInfo, Reason> {
    transport.start_tls_server(&tls::common().server)
}

/// A server that goes on with TLS when it is asked to, does `then`, and notes what becomes of it.
fn server(log: &Log, mut then: impl FnMut(&Transport, &[u8]) + 'static) -> (Script, Started) {
    let started = Started::default();
    let outcome = Rc::clone(&started);
    let script = Script::new(log).on_data(move |transport, data| {
        if let Some(behind) = data.strip_prefix(REQUEST) {
            transport.write(b"go\r\n");
            let outcome = Rc::clone(&outcome);
            start(transport).on_done(move |_, result| *outcome.borrow_mut() = Some(result));
            then(transport, behind);
        }
    });
    (script, started)
}

/// A connection whose server has been asked to go on with TLS, and has begun.
fn begun<'w>(
    world: &'w World,
    log: &Log,
    then: impl FnMut(&Transport, &[u8]) + 'static,
) -> (Transport, Peer<'w>, Started) {
    let (script, started) = server(log, then);
    let (transport, peer) = world.pair(script);
    peer.send(REQUEST);
    assert_eq!(peer.receive(4), b"go\r\n");
    world.turns(3);
    (transport, peer, started)
}

fn request() -> Event {
    Event::Data(REQUEST.to_vec())
}

fn lost(reason: &str) -> Event {
    Event::Lost(reason.to_owned())
}

/// What a Deferred failed with.
fn failed(started: &Started) -> String {
    started.take().expect("an outcome").expect_err("a failure").to_string()
}

contract! {
    // Line 55.
    fn what_was_written_before_is_plain_and_what_is_written_after_waits_and_is_not(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer, started) = begun(&world, &log, |transport, _| transport.write(b"secret"));
        let flushed = watch(transport.flushed());
        world.turns(5);
        assert_eq!(peer.try_receive(), Some(Vec::new()), "it waits for the handshake");
        assert_eq!((transport.queued(), transport.tls(), flushed.borrow().is_none()), (6, None, true));
        assert!(started.borrow().is_none());
        world.assert_sleeps("the peer has not begun");
        let peer = peer.upgrade(tls::common().session());
        assert_eq!(peer.receive(6), b"secret");
        world.until("all is sent", || flushed.borrow().is_some());
        assert_eq!(log.events(), [Event::Made, request(), Event::Secured]);
        let info = started.take().unwrap().unwrap();
        assert_eq!((info.server_name.as_deref(), transport.tls()), (Some(NAME), Some(info.clone())));
        peer.send(b"more");
        world.until("the data", || log.data().ends_with(b"more"));
        assert_eq!(transport.stats().bytes_received, REQUEST.len() as u64 + 4);
        assert_eq!(transport.stats().bytes_sent, 10);
        peer.finish();
        assert_eq!(peer.receive_to_end(), (Vec::new(), Ending::Fin));
        world.until("the loss", || log.lost().as_deref() == Some("closed"));
    }

    // Line 55.
    fn both_sides_begin_in_the_same_way(driver) {
        let world = World::new(driver);
        let (theirs, ours) = (Log::new(), Log::new());
        let (script, server) = server(&theirs, |_, _| {});
        let mut script = Some(script.on_secured(|transport| transport.write(b"welcome")));
        let port = world.listen(move |_: twistor::Peer| script.take());
        let client = Started::default();
        let script = {
            let client = Rc::clone(&client);
            Script::new(&ours).on_made(|transport| transport.write(REQUEST)).on_data(move |transport, data| {
                if data == b"go\r\n" {
                    let client = Rc::clone(&client);
                    let begun = transport.start_tls_client(&tls::common().client, NAME);
                    begun.on_done(move |_, outcome| *client.borrow_mut() = Some(outcome));
                    transport.write(b"hello");
                }
            })
        };
        let connection = outcome(&world, world.reactor.connect_protocol(address_of(&port), script)).unwrap();
        world.until("the words", || ours.data().ends_with(b"welcome") && theirs.data().ends_with(b"hello"));
        let (server, client) = (server.take().unwrap().unwrap(), client.take().unwrap().unwrap());
        assert_eq!((server.cipher_suite, server.version), (client.cipher_suite, client.version));
        assert_eq!((client.peer_certificates.len(), client.server_name.as_deref()), (2, Some(NAME)));
        assert_eq!(ours.count(&Event::Secured) + theirs.count(&Event::Secured), 2);
        connection.lose_connection();
        world.until("both losses", || ours.lost().is_some() && theirs.lost().is_some());
        assert_eq!((ours.lost().unwrap(), theirs.lost().unwrap()), ("closed".into(), "closed".into()));
        assert_eq!((world.reactor.stats().handshakes, world.reactor.stats().tls_failures), (2, 0));
    }

    // Line 55.
    fn a_protocol_may_begin_in_connection_made(driver) {
        let world = World::new(driver);
        let (theirs, ours) = (Log::new(), Log::new());
        let port = {
            let theirs = theirs.clone();
            world.listen(move |_| {
                Script::new(&theirs).on_made(|transport| drop(start(transport))).on_data(Transport::write)
            })
        };
        let script = Script::new(&ours).on_made(|transport| {
            drop(transport.start_tls_client(&tls::common().client, NAME));
            transport.write(b"hello");
        });
        let _connection = outcome(&world, world.reactor.connect_protocol(address_of(&port), script)).unwrap();
        world.until("the answer", || ours.data() == b"hello");
        assert_eq!(theirs.events(), [Event::Made, Event::Secured, Event::Data(b"hello".to_vec())]);
    }

    // Line 55.
    fn plain_bytes_behind_the_request_are_an_injection_however_they_are_given_back(driver) {
        let ways: [fn(&Transport, &[u8]); 4] = [
            |transport, behind| transport.unread(behind.to_vec()),
            |transport, behind| {
                transport.pause_reading();
                transport.unread(behind.to_vec());
            },
            |transport, behind| {
                let (later, behind) = (transport.clone(), behind.to_vec());
                transport.reactor().call_soon(move |_| later.unread(behind));
            },
            |transport, behind| {
                transport.switch_protocol(Script::default());
                transport.unread(behind.to_vec());
            },
        ];
        for (n, way) in ways.into_iter().enumerate() {
            let world = World::new(driver);
            let log = Log::new();
            let (script, started) = server(&log, way);
            let (_transport, peer) = world.pair(script);
            peer.send(&[REQUEST, b"EVIL\r\n"].concat());
            world.until("the refusal", || started.borrow().is_some());
            assert_eq!(failed(&started), INJECTED, "way {n}");
            world.turns(3);
            assert_eq!(log.count(&Event::Data([REQUEST, b"EVIL\r\n"].concat())), 1);
            assert!(log.events().len() <= 3, "it was delivered again: {:?}", log.events());
            assert_eq!(log.lost().as_deref(), Some(INJECTED), "way {n}");
            assert_eq!(world.reactor.stats().tls_failures, 1);
            assert_eq!(peer.receive_to_end().1, Ending::Reset);
        }
    }

    // Line 55.
    fn plain_bytes_that_were_given_back_before_are_an_injection_too(driver) {
        for pause in [true, false] {
            let world = World::new(driver);
            let log = Log::new();
            let (transport, peer) = world.pair(Script::new(&log));
            if pause {
                transport.pause_reading();
            }
            transport.unread(&b"EVIL"[..]);
            let started = watch(start(&transport));
            world.until("the refusal", || started.borrow().is_some());
            world.turns(2);
            assert_eq!(failed(&started), INJECTED);
            assert_eq!(log.events(), [Event::Made, lost(INJECTED)]);
            assert_eq!(peer.receive_to_end().1, Ending::Reset);
        }
    }

    // Line 55.
    fn plain_bytes_that_had_not_been_read_are_no_handshake_and_are_never_delivered(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (script, started) = server(&log, |_, _| {});
        let (_transport, peer) = world.pair(script);
        peer.send(REQUEST);
        world.until("the request", || log.has(&request()));
        peer.send(b"EHLO evil.example\r\n");
        world.until("the failure", || started.borrow().is_some());
        let reason = failed(&started);
        assert!(reason.starts_with("TLS: "), "{reason}");
        peer.finish();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.events(), [Event::Made, request(), lost(&reason)]);
        assert_eq!(world.reactor.stats().tls_failures, 1);
    }

    // Line 55.
    fn where_tls_cannot_begin_the_deferred_says_why_and_nothing_else_happens(driver) {
        let world = World::secured(driver, |builder| builder);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log));
        let again = watch(start(&transport));
        world.set_secured(false);
        let plain = Log::new();
        let (other, other_peer) = world.pair(Script::new(&plain));
        let nameless = watch(other.start_tls_client(&tls::common().client, "no name at all"));
        let relayed_log = Log::new();
        let (relayed, _relayed_peer) = world.pair(Script::new(&relayed_log));
        let _pipe = relayed.pipe(&transport);
        let relayed = watch(start(&relayed));
        let (closing, _closing_peer) = world.pair(Script::default());
        closing.lose_connection();
        let closing = watch(start(&closing));
        world.until("all outcomes", || {
            [&again, &nameless, &relayed, &closing].iter().all(|outcome| outcome.borrow().is_some())
        });
        assert!(failed(&again).contains("has TLS already"));
        assert!(failed(&nameless).contains("cannot verify a server named \"no name at all\""));
        assert!(failed(&relayed).contains("relayed"));
        assert_eq!(failed(&closing), "closed");
        world.turns(3);
        peer.send(b"sealed");
        other_peer.send(b"plain");
        world.until("both", || log.data() == b"sealed" && plain.data() == b"plain");
        assert_eq!(relayed_log.lost(), None);
    }

    // Line 55.
    fn beginning_twice_is_refused_and_the_first_goes_on(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer, started) = begun(&world, &log, |_, _| {});
        let again = watch(start(&transport));
        world.until("the refusal", || again.borrow().is_some());
        assert!(failed(&again).contains("has TLS already"));
        let peer = peer.upgrade(tls::common().session());
        world.until("the outcome", || started.borrow().is_some());
        started.take().unwrap().unwrap();
        peer.send(b"x");
        world.until("the data", || log.data().ends_with(b"x"));
    }

    // Line 55.
    fn a_peer_that_ends_in_the_handshake_is_told_to_both(driver) {
        for reset in [true, false] {
            let world = World::new(driver);
            let log = Log::new();
            let (_transport, mut peer, started) = begun(&world, &log, |transport, _| transport.write(b"secret"));
            if reset { peer.reset() } else { peer.finish() }
            world.until("the loss", || log.lost().is_some() && started.borrow().is_some());
            let reason = if reset {
                "reset by the peer or the network"
            } else {
                "TLS: the peer ended the connection during the handshake"
            };
            assert_eq!((failed(&started).as_str(), log.lost().as_deref()), (reason, Some(reason)));
            assert!(!log.has(&Event::Eof) && !log.has(&Event::Secured));
            if !reset {
                assert_eq!(peer.receive_to_end().0, b"", "the secret did not leave");
            }
        }
    }

    // Line 55.
    fn beginning_with_a_peer_that_has_ended_already_fails_at_once(driver) {
        for pause in [true, false] {
            let world = World::new(driver);
            let log = Log::new();
            let (transport, peer) = world.pair(Script::new(&log).on_eof(|_| Eof::KeepOpen));
            if pause {
                transport.pause_reading();
            }
            peer.finish();
            world.turns(5);
            assert_eq!(log.has(&Event::Eof), !pause);
            let started = watch(start(&transport));
            let before = world.now();
            world.until("the failure", || started.borrow().is_some());
            assert!(world.since(before) < Duration::from_secs(5), "no time-out has to pass");
            assert_eq!(failed(&started), "TLS: the peer ended the connection during the handshake");
            world.until("the loss", || log.lost().is_some());
        }
    }

    // Lines 5 and 55.
    fn a_panic_in_tls_started_costs_its_connection_only(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (script, _started) = server(&log, |_, _| {});
        let (_transport, peer) = world.pair(script.on_secured(|_| panic!("on purpose")));
        peer.send(REQUEST);
        let _ = peer.receive(4);
        // Its handshake may never become complete.
        let peer = peer.begin_tls(tls::common().session());
        assert_eq!(peer.receive_to_end().1, Ending::Reset);
        assert_eq!(log.events(), [Event::Made, request(), Event::Secured, lost("a hook panicked")]);
        assert_eq!(world.reactor.stats().panics, 1);
    }

    // Lines 38 and 55.
    fn ending_in_tls_started_is_the_end(driver) {
        for abort in [true, false] {
            let world = World::new(driver);
            let log = Log::new();
            let (script, _started) = server(&log, |_, _| {});
            let (_transport, peer) = world.pair(script.on_secured(move |transport| {
                transport.write(b"bye");
                if abort { transport.abort_connection() } else { transport.lose_connection() }
            }));
            peer.send(REQUEST);
            let _ = peer.receive(4);
            let peer = peer.upgrade(tls::common().session());
            let _ = peer.try_send(b"never delivered");
            let (data, ending) = peer.receive_to_end();
            let expected = if abort { (&b""[..], Ending::Reset) } else { (&b"bye"[..], Ending::Fin) };
            assert_eq!((&data[..], ending), expected);
            let _ = peer.try_finish();
            world.until("the loss", || log.lost().is_some());
            let reason = if abort { "aborted" } else { "closed" };
            assert_eq!(log.events(), [Event::Made, request(), Event::Secured, lost(reason)]);
        }
    }

    // Lines 22 and 55.
    fn another_protocol_may_take_over_in_tls_started(driver) {
        let world = World::new(driver);
        let (first, second) = (Log::new(), Log::new());
        let (script, _started) = server(&first, |_, _| {});
        let next = second.clone();
        let (_transport, peer) = world.pair(script.on_secured(move |transport| {
            transport.switch_protocol(Script::new(&next));
        }));
        peer.send(REQUEST);
        let _ = peer.receive(4);
        let peer = peer.upgrade(tls::common().session());
        assert_eq!(peer.try_send(b"hello"), 5);
        world.until("the data", || second.data() == b"hello");
        assert_eq!(first.events(), [Event::Made, request(), Event::Secured]);
        assert_eq!(second.events()[0], Event::Made);
    }

    // Lines 37, 38 and 55.
    fn closing_in_the_handshake_waits_for_it_only_if_something_has_to_be_sealed(driver) {
        for words in [&b""[..], b"secret"] {
            let world = World::new(driver);
            let log = Log::new();
            let (_transport, peer, started) = begun(&world, &log, move |transport, _| {
                transport.write(words);
                transport.lose_connection();
            });
            if words.is_empty() {
                assert_eq!(peer.receive_to_end(), (Vec::new(), Ending::Fin));
                peer.finish();
            } else {
                assert_eq!(peer.try_receive(), Some(Vec::new()));
                let peer = peer.upgrade(tls::common().session());
                assert_eq!(peer.receive_to_end(), (words.to_vec(), Ending::Fin));
                peer.finish();
                world.until("the loss", || log.lost().is_some());
            }
            world.until("the loss", || log.lost().is_some());
            assert_eq!(log.events(), [Event::Made, request(), lost("closed")], "no hook is called any more");
            world.until("the outcome", || started.borrow().is_some());
        }
    }

    // Lines 40 and 55.
    fn ending_our_side_in_the_handshake_waits_for_it_and_reading_goes_on(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (_transport, peer, _started) = begun(&world, &log, |transport, _| {
            transport.write(b"secret");
            transport.lose_write_connection();
        });
        let peer = peer.upgrade(tls::common().session());
        assert_eq!(peer.receive_to_end(), (b"secret".to_vec(), Ending::Fin));
        peer.send(b"still there");
        world.until("the data", || log.data().ends_with(b"still there"));
        peer.finish();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.lost().as_deref(), Some("closed"));
    }

    // Lines 20 and 55.
    fn a_paused_connection_shakes_hands_and_holds_its_data_back(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer, _started) = begun(&world, &log, |transport, _| transport.pause_reading());
        let peer = peer.upgrade(tls::common().session());
        assert_eq!(peer.try_send(b"hello"), 5);
        world.until("the handshake", || log.has(&Event::Secured));
        world.assert_sleeps("the connection is paused");
        assert_eq!(log.events(), [Event::Made, request(), Event::Secured]);
        transport.resume_reading();
        world.until("the data", || log.data().ends_with(b"hello"));
    }

    // Lines 29, 30 and 55.
    fn what_waits_for_the_handshake_counts_towards_marks_and_limits(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer, _started) = begun(&world, &log, |transport, _| transport.write(&[1; 100_000]));
        world.turns(2);
        assert_eq!((log.count(&Event::Pause), transport.queued()), (1, 100_000));
        let peer = peer.upgrade(tls::common().session());
        assert!(peer.receive(100_000) == [1; 100_000]);
        world.until("the low mark", || log.has(&Event::Resume));

        let log = Log::new();
        let (transport, _peer, _started) = begun(&world, &log, |transport, _| transport.set_write_limit(1000));
        transport.write(&[1; 2000]);
        transport.write(b"one more");
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.lost().as_deref(), Some("the peer does not read: write limit reached"));
        assert_eq!(world.reactor.stats().queued_bytes, 0);
    }
}

fn address_of(port: &Port) -> std::net::SocketAddr {
    port.local_addr().socket_addr().expect("an IP port")
}

// Lines 55 and 57: in simulated time, for it takes ten seconds.
#[test]
fn a_peer_that_never_begins_is_given_ten_seconds() {
    with_seeds(|| {
        let world = World::new(Driver::Simulated);
        let log = Log::new();
        let (_transport, _peer, started) = begun(&world, &log, |_, _| {});
        let start = world.now();
        world.until("the loss", || log.lost().is_some());
        assert!(world.since(start) > Duration::from_secs(9), "after {:?}", world.since(start));
        world.turns(2);
        assert_eq!(failed(&started), "TLS: the handshake took too long");
        assert_eq!(log.lost().as_deref(), Some("TLS: the handshake took too long"));
    });
}

// Line 72.
#[test]
fn a_start_that_nobody_waits_for_may_fail_in_silence() {
    twistor_tests::logged::keep();
    let world = World::new(Driver::Simulated);
    let log = Log::new();
    let place = Rc::new(RefCell::new(None));
    let (transport, peer) = {
        let place = Rc::clone(&place);
        world.pair(Script::new(&log).on_made(move |transport| *place.borrow_mut() = Some(start(transport))))
    };
    drop(place.take());
    drop(transport);
    peer.finish();
    world.until("the loss", || log.lost().is_some());
    assert_eq!(twistor_tests::logged::take(), Vec::<String>::new());
}
