//! The contract, section 4: one stream piped into another.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::RefCell;
use std::rc::Rc;

use twistor::{Eof, Transport};
use twistor_tests::{Buffers, Driver, Ending, Event, Log, Peer, Script, World, pattern, stream_contract};

type Outcome = Rc<RefCell<Option<Result<u64, String>>>>;

fn pipe(source: &Transport, target: &Transport) -> Outcome {
    let outcome = Outcome::default();
    let seen = Rc::clone(&outcome);
    source.pipe(target).on_done(move |_, result| {
        let previous = seen.borrow_mut().replace(result.map_err(|reason| reason.to_string()));
        assert_eq!(previous, None);
    });
    outcome
}

fn failed(outcome: &Outcome) -> Option<String> {
    outcome.borrow().as_ref().map(|outcome| outcome.as_ref().expect_err("a broken relay").clone())
}

/// A source, a target, and the peers at their other ends.
struct Relay<'w> {
    source: Transport,
    from: Peer<'w>,
    source_log: Log,
    target: Transport,
    to: Peer<'w>,
    target_log: Log,
}

fn relay(world: &World, buffers: Buffers) -> Relay<'_> {
    let (source_log, target_log) = (Log::new(), Log::new());
    let (source, from) = world.pair_with(buffers, Script::new(&source_log));
    let (target, to) = world.pair_with(buffers, Script::new(&target_log));
    Relay { source, from, source_log, target, to, target_log }
}

stream_contract! {
    // Line 34.
    fn a_pipe_relays_until_the_end_and_tells_how_much(driver) {
        let world = World::new(driver);
        let r = relay(&world, Buffers::default());
        let outcome = pipe(&r.source, &r.target);
        let data = pattern(100_000);
        r.from.send(&data);
        assert!(r.to.receive(data.len()) == data);
        assert_eq!(*outcome.borrow(), None);
        r.from.finish();
        assert_eq!(r.to.receive_to_end(), (Vec::new(), Ending::Fin));
        world.until("the outcome", || outcome.borrow().is_some());
        assert_eq!(*outcome.borrow(), Some(Ok(100_000)));
        assert_eq!(r.source_log.events(), [Event::Made], "data and end go to the target only");
        assert_eq!(r.target_log.events(), [Event::Made]);
        assert_eq!(r.source.stats().bytes_received, 100_000);
        assert_eq!(r.target.stats().bytes_sent, 100_000);
    }

    // Line 34.
    fn between_plain_sockets_the_kernel_relays(driver) {
        let world = World::new(driver);
        let r = relay(&world, Buffers::default());
        let _outcome = pipe(&r.source, &r.target);
        let before = world.reactor.stats().system_calls;
        r.from.send(b"some data");
        assert_eq!(r.to.receive(9), b"some data");
        let after = world.reactor.stats().system_calls;
        let copies = (after.receives - before.receives, after.sends - before.sends);
        let is_spliced = driver == Driver::Direct && !world.is_secured();
        assert_eq!(copies == (0, 0), is_spliced, "receives and sends: {copies:?}");
    }

    // Line 34.
    fn half_close_is_kept(driver) {
        let world = World::new(driver);
        let r = relay(&world, Buffers::default());
        let outcome = pipe(&r.source, &r.target);
        r.from.send(b"request");
        r.from.finish();
        assert_eq!(r.to.receive_to_end(), (b"request".to_vec(), Ending::Fin));
        world.until("the outcome", || outcome.borrow().is_some());
        r.to.send(b"still talking");
        world.until("the other direction", || r.target_log.data() == b"still talking");
        r.source.write(b"answer");
        assert_eq!(r.from.receive(6), b"answer");
        assert_eq!((r.source_log.lost(), r.target_log.lost()), (None, None));
    }

    // Line 34.
    fn a_proxy_pipes_both_ways_and_ends_when_both_directions_have(driver) {
        let world = World::new(driver);
        let r = relay(&world, Buffers::default());
        let (there, back) = (pipe(&r.source, &r.target), pipe(&r.target, &r.source));
        let (request, answer) = (pattern(300_000), pattern(500_000));
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
        let (mut sent, mut sent_back) = (0, 0);
        world.until("both directions", || {
            sent += r.from.try_send(&request[sent..]);
            sent_back += r.to.try_send(&answer[sent_back..]);
            asked.extend_from_slice(&r.to.try_receive().expect("the request"));
            answered.extend_from_slice(&r.from.try_receive().expect("the answer"));
            asked.len() == request.len() && answered.len() == answer.len()
        });
        assert!(asked == request && answered == answer);
        r.from.finish();
        assert_eq!(r.to.receive_to_end().1, Ending::Fin);
        assert_eq!((r.source_log.lost(), r.target_log.lost()), (None, None));
        r.to.finish();
        assert_eq!(r.from.receive_to_end().1, Ending::Fin);
        world.until("both losses", || r.source_log.lost().is_some() && r.target_log.lost().is_some());
        assert_eq!(r.source_log.lost().as_deref(), Some("closed"));
        assert_eq!(r.target_log.lost().as_deref(), Some("closed"));
        assert_eq!((there.take(), back.take()), (Some(Ok(300_000)), Some(Ok(500_000))));
    }

    // Line 34.
    fn back_pressure_reaches_the_sender(driver) {
        let world = World::new(driver);
        let r = relay(&world, Buffers::TIGHT);
        let outcome = pipe(&r.source, &r.target);
        let data = pattern(4_000_000);
        let mut sent = 0;
        let mut idle = 0;
        while idle < 20 {
            let more = r.from.try_send(&data[sent..]);
            sent += more;
            idle = if more > 0 { 0 } else { idle + 1 };
            world.turns(2);
        }
        assert!(sent < data.len(), "nothing held the sender back");
        assert!(r.target.queued() <= 512 * 1024, "{} bytes are queued", r.target.queued());
        world.assert_sleeps("the target takes no more");
        let mut received = Vec::new();
        world.until("the rest", || {
            sent += r.from.try_send(&data[sent..]);
            received.extend_from_slice(&r.to.try_receive().expect("the stream goes on"));
            received.len() == data.len()
        });
        assert!(received == data);
        r.from.finish();
        let _ = r.to.receive_to_end();
        world.until("the outcome", || outcome.borrow().is_some());
        assert_eq!(*outcome.borrow(), Some(Ok(4_000_000)));
    }

    // Line 34.
    fn the_end_behind_a_backlog_waits_until_it_is_relayed(driver) {
        let world = World::new(driver);
        let r = relay(&world, Buffers { peer_receive: Some(4096), send: Some(4096), receive: None });
        let outcome = pipe(&r.source, &r.target);
        let sent = r.from.fill();
        r.from.finish();
        world.turns(20);
        assert_eq!(*outcome.borrow(), None);
        let (data, ending) = r.to.receive_to_end();
        assert_eq!((data.len(), ending), (sent, Ending::Fin));
        world.until("the outcome", || outcome.borrow().is_some());
        assert_eq!(*outcome.borrow(), Some(Ok(sent as u64)));
    }

    // Lines 21 and 34.
    fn what_was_given_back_and_what_was_queued_comes_first(driver) {
        let world = World::new(driver);
        let r = relay(&world, Buffers::default());
        r.source.pause_reading();
        r.source.unread(&b"2 given back,"[..]);
        r.from.send(b"3 in the socket");
        r.target.write(b"1 queued,");
        let outcome = pipe(&r.source, &r.target);
        r.source.resume_reading();
        assert_eq!(r.to.receive(37), b"1 queued,2 given back,3 in the socket");
        r.from.finish();
        world.until("the outcome", || outcome.borrow().is_some());
        assert_eq!(*outcome.borrow(), Some(Ok(28)));
    }

    // Lines 20 and 34.
    fn a_paused_source_relays_nothing_until_it_is_resumed(driver) {
        let world = World::new(driver);
        let r = relay(&world, Buffers::default());
        let outcome = pipe(&r.source, &r.target);
        r.source.pause_reading();
        r.from.send(b"data");
        r.from.finish();
        world.assert_sleeps("the source is paused");
        assert_eq!(r.to.try_receive(), Some(Vec::new()));
        r.source.resume_reading();
        assert_eq!(r.to.receive_to_end(), (b"data".to_vec(), Ending::Fin));
        world.until("the outcome", || outcome.borrow().is_some());
        assert_eq!(*outcome.borrow(), Some(Ok(4)));
    }

    // Line 34.
    fn writes_to_the_target_meanwhile_lose_nothing(driver) {
        let world = World::new(driver);
        let r = relay(&world, Buffers::TIGHT);
        let outcome = pipe(&r.source, &r.target);
        let (mut sent, mut written, mut received) = (0, 0, Vec::new());
        world.until("everything", || {
            if sent < 300_000 {
                sent += r.from.try_send(&[b'r'; 1000]);
            }
            if written < 300_000 && r.target.queued() < 10_000 {
                r.target.write(&[b'w'; 1000]);
                written += 1000;
            }
            received.extend_from_slice(&r.to.try_receive().expect("the stream goes on"));
            sent >= 300_000 && received.len() == sent + written
        });
        assert_eq!(received.iter().filter(|byte| **byte == b'w').count(), 300_000);
        r.from.finish();
        world.until("the outcome", || outcome.borrow().is_some());
        assert_eq!(*outcome.borrow(), Some(Ok(sent as u64)));
    }

    // Line 34.
    fn a_reset_of_the_source_ends_the_target(driver) {
        let world = World::new(driver);
        let mut r = relay(&world, Buffers::default());
        let outcome = pipe(&r.source, &r.target);
        r.from.send(b"data");
        assert_eq!(r.to.receive(4), b"data");
        r.from.reset();
        world.until("both losses", || r.source_log.lost().is_some() && r.target_log.lost().is_some());
        assert_eq!(r.source_log.lost().as_deref(), Some("reset by the peer or the network"));
        assert_eq!(r.to.receive_to_end().1, Ending::Reset, "a broken stream must not look complete");
        world.until("the outcome", || outcome.borrow().is_some());
        assert_eq!(failed(&outcome).as_deref(), Some("reset by the peer or the network"));
    }

    // Line 34.
    fn a_reset_of_the_target_ends_the_source(driver) {
        for queued in [false, true] {
            let world = World::new(driver);
            let mut r = relay(&world, Buffers::TIGHT);
            let outcome = pipe(&r.source, &r.target);
            if queued {
                let _ = r.from.try_send(&[0; 100_000]);
                world.turns(10);
            }
            r.to.reset();
            world.until("both losses", || r.source_log.lost().is_some() && r.target_log.lost().is_some());
            assert_eq!(r.target_log.lost().as_deref(), Some("reset by the peer or the network"));
            assert_eq!(r.from.receive_to_end().1, Ending::Reset);
            world.until("the outcome", || outcome.borrow().is_some());
            assert_eq!(failed(&outcome).as_deref(), Some("reset by the peer or the network"));
        }
    }

    // Line 34.
    fn aborting_either_side_ends_the_other(driver) {
        for abort_source in [true, false] {
            let world = World::new(driver);
            let r = relay(&world, Buffers::default());
            let outcome = pipe(&r.source, &r.target);
            world.turns(2);
            if abort_source { r.source.abort_connection() } else { r.target.abort_connection() }
            world.until("both losses", || r.source_log.lost().is_some() && r.target_log.lost().is_some());
            assert_eq!((r.from.receive_to_end().1, r.to.receive_to_end().1), (Ending::Reset, Ending::Reset));
            world.until("the outcome", || outcome.borrow().is_some());
            assert_eq!(failed(&outcome).as_deref(), Some("aborted"));
        }
    }

    // Lines 34 and 37.
    fn closing_the_target_is_orderly_and_ends_the_source(driver) {
        let world = World::new(driver);
        let r = relay(&world, Buffers::default());
        let outcome = pipe(&r.source, &r.target);
        r.from.send(b"data");
        assert_eq!(r.to.receive(4), b"data");
        r.target.lose_connection();
        assert_eq!(r.to.receive_to_end(), (Vec::new(), Ending::Fin));
        // Arrives when nobody is there any more to take it.
        let _ = r.from.try_send(b"too late");
        world.turns(3);
        r.to.finish();
        world.until("the loss of the target", || r.target_log.lost().is_some());
        assert_eq!(r.target_log.lost().as_deref(), Some("closed"));
        assert_eq!(r.from.receive_to_end().1, Ending::Fin);
        r.from.finish();
        world.until("the loss of the source", || r.source_log.lost().is_some());
        world.until("the outcome", || outcome.borrow().is_some());
        assert!(failed(&outcome).is_some());
        assert_eq!(r.to.try_receive(), None);
    }

    // Lines 34 and 37.
    fn closing_the_source_flushes_what_was_relayed_and_ends_the_target(driver) {
        let world = World::new(driver);
        let r = relay(&world, Buffers::default());
        let outcome = pipe(&r.source, &r.target);
        r.from.send(b"data");
        world.turns(3);
        r.source.lose_connection();
        assert_eq!(r.to.receive_to_end(), (b"data".to_vec(), Ending::Fin));
        assert_eq!(r.from.receive_to_end(), (Vec::new(), Ending::Fin));
        world.until("the outcome", || outcome.borrow().is_some());
        assert!(failed(&outcome).is_some());
        r.to.finish();
        r.from.finish();
        world.until("both losses", || r.source_log.lost().is_some() && r.target_log.lost().is_some());
        assert_eq!(r.target_log.lost().as_deref(), Some("closed"));
        assert_eq!(r.source_log.lost().as_deref(), Some("closed"));
    }

    // Line 34.
    fn a_pipe_that_cannot_be_says_so(driver) {
        let world = World::new(driver);
        let r = relay(&world, Buffers::default());
        let first = pipe(&r.source, &r.target);
        let second = pipe(&r.source, &r.target);
        world.until("the refusal", || second.borrow().is_some());
        assert!(failed(&second).unwrap().contains("piped"), "{second:?}");
        assert_eq!(*first.borrow(), None);
        assert!(!r.source.is_closing() && !r.target.is_closing(), "the first pipe goes on");
    }

    // Line 34.
    fn a_pipe_with_a_lost_side_fails_and_ends_the_other(driver) {
        let world = World::new(driver);
        let lost_log = Log::new();
        let (lost, _peer) = world.pair(Script::new(&lost_log));
        lost.abort_connection();
        world.until("the loss", || lost_log.lost().is_some());
        for lost_is_target in [true, false] {
            let log = Log::new();
            let (other, peer) = world.pair(Script::new(&log));
            let outcome = if lost_is_target { pipe(&other, &lost) } else { pipe(&lost, &other) };
            world.until("the outcome", || outcome.borrow().is_some());
            assert_eq!(failed(&outcome).as_deref(), Some("aborted"));
            world.until("the other loss", || log.lost().is_some());
            assert_eq!(peer.receive_to_end().1, Ending::Reset);
        }
    }

    // Line 34.
    fn a_stream_piped_to_itself_is_an_echo(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log));
        let outcome = pipe(&transport, &transport);
        let data = pattern(1_000_000);
        let (mut sent, mut received) = (0, Vec::new());
        world.until("the echo", || {
            sent += peer.try_send(&data[sent..]);
            received.extend_from_slice(&peer.try_receive().expect("the echo"));
            received.len() == data.len()
        });
        assert!(received == data);
        peer.finish();
        assert_eq!(peer.receive_to_end(), (Vec::new(), Ending::Fin));
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.events(), [Event::Made, Event::Lost("closed".to_owned())]);
        assert_eq!(outcome.take(), Some(Ok(1_000_000)));
    }

    // Line 34.
    fn a_pipe_from_a_stream_that_has_ended_already_ends_at_once(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (source, from) = world.pair(Script::new(&log).on_eof(|_| Eof::KeepOpen));
        let (target, to) = world.pair(Script::new(&Log::new()));
        from.finish();
        world.until("the end", || log.has(&Event::Eof));
        let outcome = pipe(&source, &target);
        world.until("the outcome", || outcome.borrow().is_some());
        assert_eq!(outcome.take(), Some(Ok(0)));
        assert_eq!(to.receive_to_end(), (Vec::new(), Ending::Fin));
    }

    // Lines 9 and 34.
    fn a_pipe_leaves_no_descriptor_behind(driver) {
        let world = World::new(driver);
        let mut r = relay(&world, Buffers::default());
        let weak = {
            let alive = Rc::new(());
            let weak = Rc::downgrade(&alive);
            r.source.pipe(&r.target).on_done(move |_, _| drop(alive));
            weak
        };
        r.from.reset();
        world.until("both losses", || r.source_log.lost().is_some() && r.target_log.lost().is_some());
        world.turns(2);
        assert_eq!(weak.strong_count(), 0, "the relay was kept");
        assert_eq!(world.reactor.stats().connections, 0);
    }
}
