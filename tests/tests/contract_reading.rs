//! The contract, section 3: reading.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use twistor::{Eof, Protocol, Transport};
use twistor_tests::{Buffers, Ending, Event, Log, Script, World, contract, pattern, stream_contract};

stream_contract! {
    // Line 18.
    fn hooks_come_in_order_and_the_loss_once_and_last(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (_, peer) = world.pair(Script::new(&log).on_data(Transport::write));
        peer.send(b"abc");
        assert_eq!(peer.receive(3), b"abc");
        peer.finish();
        let _ = peer.receive_to_end();
        world.until("the loss", || log.lost().is_some());
        let events = log.events();
        assert_eq!(events.first(), Some(&Event::Made));
        assert_eq!(log.data(), b"abc");
        assert_eq!(log.lost().as_deref(), Some("closed"));
    }

    // Line 18.
    fn connection_made_comes_first_also_when_everything_has_happened_already(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let port = {
            let log = log.clone();
            world.listen(move |_| Script::new(&log))
        };
        let peer = world.connect(&port);
        peer.send(b"early");
        peer.finish();
        world.until("the loss", || log.lost().is_some());
        let expected =
            [Event::Made, Event::Data(b"early".to_vec()), Event::Eof, Event::Lost("closed".to_owned())];
        assert_eq!(log.events(), expected);
    }

    // Line 18.
    fn after_the_loss_the_reactor_holds_no_reference_to_the_protocol(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let owned = Rc::new(());
        let (transport, mut peer) = {
            let owned = Rc::clone(&owned);
            world.pair(Script::new(&log).on_made(move |_| assert!(Rc::strong_count(&owned) > 1)))
        };
        assert_eq!(Rc::strong_count(&owned), 2);
        peer.reset();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(Rc::strong_count(&owned), 1, "kept although the transport is all that is left");
        assert!(transport.is_closing());
    }

    // Line 19.
    fn data_arrives_complete_and_in_order(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (_transport, peer) = world.pair(Script::new(&log));
        let data = pattern(3_000_000);
        peer.send(&data);
        peer.finish();
        world.until("the loss", || log.lost().is_some());
        assert!(log.data() == data, "3 MB differ");
    }

    // Line 19.
    fn data_arrives_in_order_through_tiny_buffers(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (_transport, peer) = world.pair_with(Buffers::TIGHT, Script::new(&log));
        let data = pattern(200_000);
        peer.send(&data);
        peer.finish();
        world.until("the loss", || log.lost().is_some());
        assert!(log.data() == data, "200 KB differ");
    }

    // Line 20.
    fn pausing_in_data_received_stops_further_data_at_once(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let script = Script::new(&log).on_data(|transport, _| transport.pause_reading());
        let (transport, peer) = world.pair(script);
        let sent = peer.fill();
        world.until("the first data", || !log.data().is_empty());
        world.turns(10);
        assert_eq!(log.events().len(), 2, "data_received was called again: {} bytes", log.data().len());
        assert!(!transport.is_reading());
        assert!(log.data().len() < sent, "there was more to deliver");
        world.until("all data, one call per resume", || {
            transport.resume_reading();
            log.data().len() == sent
        });
        assert!(log.data().iter().all(|byte| *byte == b'f'));
    }

    // Line 20.
    fn pausing_in_connection_made_holds_all_data_back(driver) {
        let world = World::new(driver);
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
        peer.send(b"early");
        world.until("the connection", || made.borrow().is_some());
        world.assert_sleeps("the connection is paused since connection_made");
        assert_eq!(log.events(), [Event::Made]);
        made.borrow().as_ref().unwrap().resume_reading();
        world.until("the data", || log.data() == b"early");
    }

    // Line 20.
    fn pausing_from_elsewhere_takes_effect_at_once(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log));
        peer.send(b"before");
        world.until("the data", || log.data() == b"before");
        transport.pause_reading();
        peer.send(b" after");
        world.turns(10);
        assert_eq!(log.data(), b"before");
        transport.resume_reading();
        world.until("the rest", || log.data() == b"before after");
    }

    // Line 20.
    fn pausing_one_connection_from_the_hook_of_another_holds_in_the_same_pass(driver) {
        let world = World::new(driver);
        let others = Rc::new(RefCell::new(Vec::<Transport>::new()));
        let logs = [Log::new(), Log::new()];
        let script = |log: &Log| {
            let others = Rc::clone(&others);
            Script::new(log).on_data(move |transport, _| {
                let others = others.borrow();
                others.iter().filter(|other| other.id() != transport.id()).for_each(Transport::pause_reading);
            })
        };
        let (first, peer) = world.pair(script(&logs[0]));
        let (second, other_peer) = world.pair(script(&logs[1]));
        others.borrow_mut().extend([first, second]);
        assert_eq!((peer.try_send(b"x"), other_peer.try_send(b"x")), (1, 1));
        world.turns(20);
        let delivered = logs.iter().filter(|log| !log.data().is_empty()).count();
        assert_eq!(delivered, 1, "whoever came first paused the other");
    }

    // Line 20.
    fn pausing_and_resuming_in_one_hook_loses_nothing(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (_transport, peer) = world.pair(Script::new(&log).on_data(|transport, _| {
            transport.pause_reading();
            transport.pause_reading();
            transport.resume_reading();
            transport.resume_reading();
        }));
        let data = pattern(1_000_000);
        peer.send(&data);
        world.until("all data", || log.data().len() == data.len());
        assert!(log.data() == data);
    }

    // Line 20.
    fn a_paused_connection_costs_no_wake_ups_while_its_peer_keeps_sending(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log));
        transport.pause_reading();
        world.turns(2);
        let before = world.reactor.stats();
        for _ in 0..5 {
            assert!(peer.try_send(&[1; 1000]) == 1000);
            world.assert_sleeps("the connection is paused");
        }
        let calls = world.reactor.stats().system_calls;
        assert_eq!(calls.receives, before.system_calls.receives);
        assert_eq!(calls.controls, before.system_calls.controls);
        transport.resume_reading();
        world.until("the data", || log.data().len() == 5000);
    }

    // Line 21.
    fn bytes_given_back_come_again_before_anything_newer(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log).on_data(|transport, data| {
            if let Some(rest) = data.strip_prefix(b"abc") && !rest.is_empty() {
                transport.unread(rest.to_vec());
                transport.pause_reading();
            }
        }));
        peer.send(b"abcdef");
        world.until("the first delivery", || !log.data().is_empty());
        peer.send(b"ghi");
        world.turns(5);
        assert_eq!(log.data(), b"abcdef", "nothing comes while paused");
        transport.resume_reading();
        world.until("the rest", || log.data().len() == 12);
        assert_eq!(log.data(), b"abcdefdefghi");
        assert_eq!(log.events()[2], Event::Data(b"def".to_vec()));
    }

    // Line 21.
    fn bytes_given_back_are_never_delivered_while_paused(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, _peer) = world.pair(Script::new(&log));
        transport.pause_reading();
        transport.unread(&b"kept"[..]);
        world.assert_sleeps("bytes given back wait for the resume");
        assert_eq!(log.data(), b"");
        transport.resume_reading();
        transport.pause_reading();
        world.turns(3);
        assert_eq!(log.data(), b"");
        transport.resume_reading();
        world.until("the bytes", || log.data() == b"kept");
    }

    // Line 21.
    fn bytes_given_back_again_and_again_come_once_a_pass(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (_transport, peer) = world.pair(Script::new(&log).on_data(|transport, data| {
            transport.unread(data.to_vec());
        }));
        peer.send(b"xy");
        world.until("the data", || !log.data().is_empty());
        let (events, passes) = (log.events().len(), world.reactor.stats().passes);
        world.turns(20);
        let (more, turned) = (log.events().len() - events, world.reactor.stats().passes - passes);
        assert!((1..=turned as usize).contains(&more), "{more} deliveries in {turned} passes");
        assert!(log.events()[1..].iter().all(|event| *event == Event::Data(b"xy".to_vec())));
    }

    // Line 21.
    fn bytes_given_back_twice_stay_before_what_arrived_meanwhile(driver) {
        let world = World::new(driver);
        let taken = Rc::new(RefCell::new(Vec::new()));
        let (_transport, peer) = {
            let (taken, mut calls) = (Rc::clone(&taken), 0);
            world.pair(Script::new(&Log::new()).on_data(move |transport, data| {
                calls += 1;
                if calls % 4 == 0 {
                    taken.borrow_mut().extend_from_slice(data);
                } else {
                    transport.unread(data.to_vec());
                }
            }))
        };
        let data = pattern(1000);
        for piece in data.chunks(10) {
            assert_eq!(peer.try_send(piece), piece.len());
            world.turns(1);
        }
        world.until("all data", || taken.borrow().len() == data.len());
        assert!(*taken.borrow() == data, "the order changed");
    }

    // Line 21.
    fn giving_back_more_than_the_limit_fails_the_connection(driver) {
        let world = World::with(driver, |builder| builder.unread_limit(1000));
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log));
        transport.pause_reading();
        transport.unread(vec![0; 1000]);
        world.turns(3);
        assert_eq!(log.lost(), None, "the limit itself is allowed");
        transport.unread(vec![0; 1]);
        world.until("the loss", || log.lost().is_some());
        assert!(log.lost().unwrap().starts_with("failed: "), "{:?}", log.lost());
        assert_eq!(log.data(), b"", "unread input is discarded");
        assert_eq!(peer.receive_to_end().1, Ending::Reset);
        transport.unread(vec![0; 1]);
        world.turns(2);
    }

    // Line 23.
    fn a_paused_connection_still_notices_a_reset(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, mut peer) = world.pair(Script::new(&log));
        transport.pause_reading();
        world.turns(2);
        peer.send(b"never delivered");
        world.turns(2);
        peer.reset();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.events(), [Event::Made, Event::Lost("reset by the peer or the network".to_owned())]);
    }

    // Line 23.
    fn a_paused_connection_with_bytes_given_back_notices_a_reset_and_discards_them(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, mut peer) = world.pair(Script::new(&log));
        transport.pause_reading();
        transport.unread(&b"given back"[..]);
        world.turns(2);
        peer.reset();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.events(), [Event::Made, Event::Lost("reset by the peer or the network".to_owned())]);
    }

    // Line 23.
    fn a_paused_connection_with_blocked_output_notices_a_reset(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, mut peer) = world.pair_with(Buffers::TIGHT, Script::new(&log));
        transport.pause_reading();
        transport.write(&[0; 50_000]);
        world.turns(3);
        assert!(transport.queued() > 0);
        peer.reset();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.events(), [Event::Made, Event::Lost("reset by the peer or the network".to_owned())]);
    }

    // Line 23.
    fn a_write_to_a_vanished_peer_ends_a_paused_connection_at_once(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, mut peer) = world.pair(Script::new(&log));
        transport.pause_reading();
        world.turns(2);
        peer.close();
        world.assert_sleeps("an orderly end waits");
        assert_eq!(log.events(), [Event::Made]);
        // Nobody is there any more to take this: the answer is a reset.
        transport.write(b"x");
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.lost().as_deref(), Some("reset by the peer or the network"));
    }

    // Line 23.
    fn an_orderly_end_waits_behind_unread_data_while_paused(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log));
        transport.pause_reading();
        peer.send(b"data");
        peer.finish();
        world.turns(5);
        world.assert_sleeps("paused, with data and an end to report");
        assert_eq!(log.events(), [Event::Made]);
        transport.resume_reading();
        world.until("the loss", || log.lost().is_some());
        let expected =
            [Event::Made, Event::Data(b"data".to_vec()), Event::Eof, Event::Lost("closed".to_owned())];
        assert_eq!(log.events(), expected);
    }

    // Line 23.
    fn an_orderly_end_without_data_is_reported_after_resume(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log));
        transport.pause_reading();
        world.turns(2);
        peer.finish();
        world.turns(5);
        world.assert_sleeps("paused, with an end to report");
        assert_eq!(log.events(), [Event::Made]);
        transport.resume_reading();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.events(), [Event::Made, Event::Eof, Event::Lost("closed".to_owned())]);
    }

    // Line 23.
    fn an_end_seen_in_the_turn_that_paused_waits_for_resume(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log).on_data(|transport, data| {
            transport.unread(data[1..].to_vec());
            transport.pause_reading();
        }));
        peer.send(b"abc");
        peer.finish();
        world.until("the data", || !log.data().is_empty());
        world.assert_sleeps("paused, with bytes given back and an end to report");
        assert_eq!(log.events().len(), 2);
        transport.resume_reading();
        world.until("the second call", || log.events().len() == 3);
        world.turns(3);
        assert_eq!(log.events()[2..], [Event::Data(b"bc".to_vec())]);
        transport.resume_reading();
        world.until("the third call", || log.events().len() == 4);
        transport.resume_reading();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.events()[3..], [
            Event::Data(b"c".to_vec()),
            Event::Eof,
            Event::Lost("closed".to_owned())
        ]);
    }

    // Line 23.
    fn a_hang_up_waits_behind_unread_data_while_paused(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log));
        transport.lose_write_connection();
        transport.pause_reading();
        assert_eq!(peer.receive_to_end().1, Ending::Fin);
        peer.send(b"last words");
        peer.finish();
        world.turns(5);
        world.assert_sleeps("paused, and both directions have ended");
        assert_eq!(log.events(), [Event::Made]);
        transport.resume_reading();
        world.until("the loss", || log.lost().is_some());
        let expected =
            [Event::Made, Event::Data(b"last words".to_vec()), Event::Eof, Event::Lost("closed".to_owned())];
        assert_eq!(log.events(), expected);
    }

    // Line 23.
    fn a_hang_up_without_data_is_reported_after_resume(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, mut peer) = world.pair(Script::new(&log));
        transport.pause_reading();
        transport.lose_write_connection();
        assert_eq!(peer.receive_to_end().1, Ending::Fin);
        peer.close();
        world.turns(5);
        world.assert_sleeps("paused, and both directions have ended");
        assert_eq!(log.events(), [Event::Made]);
        transport.resume_reading();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.events(), [Event::Made, Event::Eof, Event::Lost("closed".to_owned())]);
    }

    // Line 24.
    fn data_before_a_fin_is_delivered_first_however_much_it_is(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (_transport, peer) = world.pair(Script::new(&log));
        let sent = peer.fill();
        peer.finish();
        assert!(sent > 256 * 1024, "more than one read budget: {sent}");
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.data().len(), sent);
        let events = log.events();
        assert_eq!(events[events.len() - 2..], [Event::Eof, Event::Lost("closed".to_owned())]);
    }

    // Line 24.
    fn data_before_a_hang_up_is_delivered_first(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, mut peer) = world.pair(Script::new(&log));
        transport.lose_write_connection();
        assert_eq!(peer.receive_to_end().1, Ending::Fin);
        let sent = peer.fill();
        peer.close();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.data().len(), sent);
        let events = log.events();
        assert_eq!(events[events.len() - 2..], [Event::Eof, Event::Lost("closed".to_owned())]);
    }

    // Line 24.
    fn the_end_of_the_stream_is_reported_once_and_costs_nothing_more(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log).on_eof(|_| Eof::KeepOpen));
        peer.send(b"x");
        peer.finish();
        world.until("the end", || log.has(&Event::Eof));
        world.assert_sleeps("the end was reported");
        transport.pause_reading();
        transport.resume_reading();
        transport.write(b"still here");
        assert_eq!(peer.receive(10), b"still here");
        world.assert_sleeps("the end was reported");
        assert_eq!(log.events(), [Event::Made, Event::Data(b"x".to_vec()), Event::Eof]);
    }

    // Line 24.
    fn a_reset_behind_the_end_of_the_stream_is_still_noticed(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (_transport, mut peer) = world.pair(Script::new(&log).on_eof(|_| Eof::KeepOpen));
        peer.finish();
        world.until("the end", || log.has(&Event::Eof));
        peer.reset();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.lost().as_deref(), Some("reset by the peer or the network"));
        assert_eq!(log.count(&Event::Eof), 1);
    }

    // Line 25.
    fn by_default_the_end_of_the_stream_flushes_then_closes(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let answer = pattern(300_000);
        let (_transport, peer) = {
            let answer = answer.clone();
            let script = Script::new(&log).on_data(move |transport, _| transport.write(&answer));
            world.pair_with(Buffers::TIGHT, script)
        };
        peer.send(b"?");
        peer.finish();
        let (data, ending) = peer.receive_to_end();
        assert!(data == answer, "{} bytes instead of {}", data.len(), answer.len());
        assert_eq!(ending, Ending::Fin);
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.lost().as_deref(), Some("closed"));
    }

    // Line 25.
    fn what_eof_received_writes_is_flushed_too(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (_transport, peer) = world.pair(Script::new(&log).on_eof(|transport| {
            transport.write(b"bye");
            Eof::Close
        }));
        peer.finish();
        assert_eq!(peer.receive_to_end(), (b"bye".to_vec(), Ending::Fin));
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.lost().as_deref(), Some("closed"));
    }

    // Line 25.
    fn keep_open_leaves_the_write_side_usable_until_we_end_it(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log).on_eof(|_| Eof::KeepOpen));
        peer.finish();
        world.until("the end", || log.has(&Event::Eof));
        for word in [&b"one"[..], b"two"] {
            transport.write(word);
            assert_eq!(peer.receive(3), word);
        }
        transport.lose_write_connection();
        assert_eq!(peer.receive_to_end(), (Vec::new(), Ending::Fin));
        world.until("the loss follows when both directions have ended", || log.lost().is_some());
        assert_eq!(log.lost().as_deref(), Some("closed"));
    }

    // Line 25.
    fn loss_follows_the_second_end_also_with_keep_open(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log).on_eof(|_| Eof::KeepOpen));
        transport.write(b"bye");
        transport.lose_write_connection();
        assert_eq!(peer.receive_to_end(), (b"bye".to_vec(), Ending::Fin));
        assert_eq!(log.lost(), None);
        peer.finish();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.events(), [Event::Made, Event::Eof, Event::Lost("closed".to_owned())]);
    }

    // Line 26.
    fn a_flooding_peer_gets_one_read_budget_between_two_turns_of_another(driver) {
        let world = World::new(driver);
        flooding(&world, 256 * 1024);
    }

    // Line 26.
    fn the_read_budget_can_be_set(driver) {
        let world = World::with(driver, |builder| builder.read_budget(10_000));
        flooding(&world, 10_000);
    }
}

// Connections that nobody has accepted yet, while peers with TLS wait until they are. A storm of handshakes
// is tested with TLS itself.
contract! {
    // Line 26.
    fn a_flood_of_connections_does_not_hold_up_the_established_ones(driver) {
        let world = World::new(driver);
        let accepted = Rc::new(Cell::new(0));
        let port = {
            let accepted = Rc::clone(&accepted);
            world.listen(move |_| {
                accepted.set(accepted.get() + 1);
                Sink
            })
        };
        let log = Log::new();
        let (_transport, established) = world.pair(Script::new(&log));
        let peers: Vec<_> = (0..200).map(|_| world.connect(&port)).collect();
        let mut delivered = 0;
        while accepted.get() < peers.len() {
            assert_eq!(established.try_send(b"x"), 1);
            let before = accepted.get();
            world.turns(1);
            let now = accepted.get() - before;
            assert!(now <= 64, "{now} connections were accepted in one pass");
            delivered += 1;
            assert_eq!(log.data().len(), delivered, "the other connection did not get its turn");
        }
        assert!(delivered >= 4, "200 connections in {delivered} passes");
    }
}

/// What a record of TLS carries at most.
const RECORD: usize = 16 * 1024;

/// Takes anything.
struct Sink;

impl Protocol for Sink {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

/// One peer has filled its connection; another sends a byte a pass and must be heard in every pass.
fn flooding(world: &World, budget: usize) {
    let (flood, quiet) = (Rc::new(Cell::new(0)), Log::new());
    let (_flooded, flooder) = {
        let flood = Rc::clone(&flood);
        world.pair(Script::new(&Log::new()).on_data(move |_, data| flood.set(flood.get() + data.len())))
    };
    let (_other, peer) = world.pair(Script::new(&quiet));
    let sent = flooder.fill();
    assert!(sent > 3 * budget, "{sent} bytes are no flood");
    // The last bytes read may complete a record.
    let budget = if world.is_secured() { budget + RECORD } else { budget };
    let mut passes = 0;
    while flood.get() < sent {
        assert_eq!(peer.try_send(b"x"), 1);
        let before = flood.get();
        world.turns(1);
        passes += 1;
        assert!(flood.get() - before <= budget, "{} bytes in one pass", flood.get() - before);
        assert_eq!(quiet.data().len(), passes, "the quiet peer was not heard in this pass");
        assert!(passes < 10_000);
    }
}
