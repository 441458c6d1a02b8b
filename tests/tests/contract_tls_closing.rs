//! The contract, section 8, line 56: how a connection with TLS ends.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::time::Duration;

use twistor::{Eof, Transport};
use twistor_tests::outcome::watch;
use twistor_tests::{Buffers, Ending, Event, Log, Peer, Script, World, contract, pattern};

const TRUNCATED: &str = "TLS: the stream was cut off: its end was not announced (close_notify)";

/// The peer's next record, which it does not send.
fn record(peer: &Peer<'_>, data: &[u8]) -> Vec<u8> {
    use std::io::Write;

    let mut record = Vec::new();
    peer.with_tls(|tls| {
        tls.writer().write_all(data).unwrap();
        while tls.wants_write() {
            tls.write_tls(&mut record).unwrap();
        }
    });
    record
}

/// Says within TLS that the peer's direction ends, and leaves the stream below as it is.
fn announce(peer: &Peer<'_>) {
    peer.with_tls(|tls| {
        tls.send_close_notify();
        tls.write_tls(&mut peer.socket()).unwrap();
    });
}

contract! {
    // Line 56.
    fn an_end_that_was_not_announced_is_told_after_the_data_and_is_no_end(driver) {
        for paused in [true, false] {
            for half_a_record in [true, false] {
                let world = World::secured(driver, |builder| builder);
                let log = Log::new();
                let (transport, peer) = world.pair(Script::new(&log).on_eof(|_| Eof::KeepOpen));
                if paused {
                    transport.pause_reading();
                    world.turns(2);
                }
                peer.send(&pattern(50_000));
                if half_a_record {
                    let record = record(&peer, b"never complete");
                    assert_eq!(peer.socket().write(&record[..record.len() / 2]).unwrap(), record.len() / 2);
                }
                peer.socket().finish().unwrap();
                if paused {
                    world.assert_sleeps("paused, with data and an end to report");
                    assert_eq!(log.events(), [Event::Made]);
                    transport.resume_reading();
                }
                world.until("the loss", || log.lost().is_some());
                assert!(log.data() == pattern(50_000));
                assert_eq!((log.lost().as_deref(), log.has(&Event::Eof)), (Some(TRUNCATED), false));
                assert_eq!(world.reactor.stats().tls_failures, 1);
            }
        }
    }

    // Line 56.
    fn a_paused_connection_whose_data_has_been_opened_hears_of_the_cut_behind_it(driver) {
        let world = World::secured(driver, |builder| builder);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log).on_data(|transport, _| transport.pause_reading()));
        assert_eq!((peer.try_send(b"one"), peer.try_send(b"two")), (3, 3));
        peer.socket().finish().unwrap();
        world.until("the first", || !log.data().is_empty());
        world.turns(3);
        world.assert_sleeps("paused, with data and an end to report");
        assert_eq!(log.events().len(), 2);
        transport.resume_reading();
        world.until("the second", || log.data() == b"onetwo");
        world.turns(3);
        assert_eq!(log.lost(), None, "paused again");
        transport.resume_reading();
        world.until("the loss", || log.lost().is_some());
        assert_eq!((log.lost().as_deref(), log.has(&Event::Eof)), (Some(TRUNCATED), false));
    }

    // Line 56.
    fn a_cut_is_told_also_while_output_waits(driver) {
        let world = World::secured(driver, |builder| builder);
        let log = Log::new();
        let (transport, peer) = world.pair_with(Buffers::TIGHT, Script::new(&log));
        transport.write(&[0; 200_000]);
        world.turns(3);
        assert!(transport.queued() > 0);
        peer.socket().finish().unwrap();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.lost().as_deref(), Some(TRUNCATED));
        assert_eq!(world.reactor.stats().queued_bytes, 0);
    }

    // Lines 25 and 56.
    fn either_direction_may_end_first_and_the_other_goes_on(driver) {
        for theirs_first in [true, false] {
            let world = World::secured(driver, |builder| builder);
            let log = Log::new();
            let (transport, peer) = world.pair(Script::new(&log).on_eof(|_| Eof::KeepOpen));
            if theirs_first {
                peer.send(b"question");
                peer.finish();
                world.until("the end", || log.has(&Event::Eof));
                world.assert_sleeps("only we have something to say");
                transport.write(&pattern(300_000));
                assert!(peer.receive(300_000) == pattern(300_000));
                transport.lose_write_connection();
                assert_eq!(peer.receive_to_end(), (Vec::new(), Ending::Fin));
            } else {
                transport.write(b"answer");
                transport.lose_write_connection();
                assert_eq!(peer.receive_to_end(), (b"answer".to_vec(), Ending::Fin));
                peer.send(&pattern(300_000));
                world.until("the data", || log.data().len() == 300_000);
                assert_eq!(log.lost(), None);
                peer.finish();
            }
            world.until("the loss", || log.lost().is_some());
            assert_eq!((log.lost().as_deref(), log.count(&Event::Eof)), (Some("closed"), 1));
        }
    }

    // Lines 24 and 56.
    fn an_announced_end_is_told_before_that_of_the_stream_and_what_follows_is_not_delivered(driver) {
        let world = World::secured(driver, |builder| builder);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log).on_eof(|_| Eof::KeepOpen));
        assert_eq!(peer.try_send(b"last words"), 10);
        announce(&peer);
        world.until("the end", || log.has(&Event::Eof));
        assert_eq!(log.events(), [Event::Made, Event::Data(b"last words".to_vec()), Event::Eof]);
        peer.socket().write(&[0x17, 3, 3, 0, 20, 0, 0, 0]).unwrap();
        world.assert_sleeps("nobody reads behind the end");
        transport.write(b"answer");
        assert_eq!(peer.receive(6), b"answer");
        transport.lose_connection();
        world.until("the loss", || log.lost().is_some());
        assert_eq!((log.data(), log.lost().as_deref()), (b"last words".to_vec(), Some("closed")));
    }

    // Lines 23 and 56.
    fn an_announced_end_waits_while_paused(driver) {
        let world = World::secured(driver, |builder| builder);
        let log = Log::new();
        let (transport, mut peer) = world.pair(Script::new(&log));
        transport.pause_reading();
        assert_eq!(peer.try_send(b"data"), 4);
        announce(&peer);
        world.turns(3);
        world.assert_sleeps("paused, with data and an end to report");
        assert_eq!(log.events(), [Event::Made]);
        transport.resume_reading();
        world.until("the end", || log.has(&Event::Eof));
        assert_eq!(peer.receive_to_end(), (Vec::new(), Ending::Fin));
        peer.close();
        world.until("the loss", || log.lost().is_some());
        let data = Event::Data(b"data".to_vec());
        assert_eq!(log.events(), [Event::Made, data, Event::Eof, Event::Lost("closed".to_owned())]);
    }

    // Lines 37 and 56.
    fn a_peer_that_does_not_answer_our_announcement_does_not_hold_us(driver) {
        for silent in [true, false] {
            let limit = Duration::from_millis(60);
            let world = World::secured(driver, |builder| builder.linger_timeout(limit));
            let log = Log::new();
            let (transport, peer) = world.pair(Script::new(&log));
            transport.write(b"bye");
            let start = world.now();
            transport.lose_connection();
            assert_eq!(peer.receive_to_end(), (b"bye".to_vec(), Ending::Fin));
            if !silent {
                peer.socket().finish().unwrap();
            }
            world.until("the loss", || log.lost().is_some());
            assert_eq!(log.lost().as_deref(), Some("closed"), "who leaves does not care how the peer does");
            assert_eq!((world.since(start) >= limit, world.reactor.stats().tls_failures), (silent, 0));
        }
    }

    // Lines 7 and 56.
    fn stopping_the_reactor_announces_the_end(driver) {
        let world = World::secured(driver, |builder| builder.drain_timeout(Duration::from_millis(30)));
        let (log, obstinate_log) = (Log::new(), Log::new());
        let (transport, peer) = world.pair(Script::new(&log));
        let obstinate = Script::new(&obstinate_log).on_shutting_down(|_| {});
        let (_obstinate, other) = world.pair(obstinate);
        transport.write(b"bye");
        world.reactor.stop();
        while world.turn(Duration::from_millis(1)) {}
        assert_eq!(peer.receive_to_end().0, b"bye");
        assert_eq!(other.receive_to_end().1, Ending::Reset);
        assert_eq!(obstinate_log.lost().as_deref(), Some("the reactor stopped"));
    }

    // Lines 34 and 56.
    fn a_stream_that_was_cut_off_does_not_look_complete_behind_a_pipe(driver) {
        let world = World::secured(driver, |builder| builder);
        let (source_log, target_log) = (Log::new(), Log::new());
        let (source, from) = world.pair(Script::new(&source_log));
        world.set_secured(false);
        let (target, to) = world.pair(Script::new(&target_log));
        let moved = watch(source.pipe(&target));
        from.send(b"half of it");
        assert_eq!(to.receive(10), b"half of it");
        from.socket().finish().unwrap();
        assert_eq!(to.receive_to_end(), (Vec::new(), Ending::Reset));
        world.until("both losses", || source_log.lost().is_some() && target_log.lost().is_some());
        assert_eq!(source_log.lost().as_deref(), Some(TRUNCATED));
        world.until("the outcome", || moved.borrow().is_some());
        assert_eq!(moved.take().unwrap().unwrap_err().to_string(), TRUNCATED);
    }

    // Lines 39 and 56.
    fn a_bad_record_ends_the_connection_with_an_alert_behind_what_was_delivered(driver) {
        let world = World::secured(driver, |builder| builder);
        let log = Log::new();
        let (_transport, peer) = world.pair(Script::new(&log).on_data(Transport::write));
        peer.send(b"good");
        assert_eq!(peer.receive(4), b"good");
        let mut bad = record(&peer, b"never delivered");
        *bad.last_mut().unwrap() ^= 1;
        assert_eq!(peer.socket().write(&bad).unwrap(), bad.len());
        world.until("the alert", || peer.read(&mut [0; 10]).is_err_and(|error| error.to_string().contains("BadRecordMac")));
        peer.socket().finish().unwrap();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.data(), b"good");
        assert!(log.lost().unwrap().contains("cannot decrypt peer's message"), "{:?}", log.lost());
        assert_eq!(world.reactor.stats().tls_failures, 1);
    }
}
