//! The contract, section 4: writing, its marks and its limits.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::{Cell, RefCell};
use std::io::{IoSlice, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use twistor::Transport;
use twistor::bytes::Bytes;
use twistor_tests::{Buffers, Ending, Event, Log, Script, World, contract, pattern, stream_contract};

/// Bytes that tell when their last owner lets go of them.
struct Watched(Arc<AtomicBool>, Vec<u8>);

impl AsRef<[u8]> for Watched {
    fn as_ref(&self) -> &[u8] {
        &self.1
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn watched(data: Vec<u8>) -> (Bytes, impl Fn() -> bool) {
    let dropped = Arc::new(AtomicBool::new(false));
    let bytes = Bytes::from_owner(Watched(Arc::clone(&dropped), data));
    (bytes, move || dropped.load(Ordering::Relaxed))
}

fn marks(log: &Log) -> (usize, usize) {
    (log.count(&Event::Pause), log.count(&Event::Resume))
}

/// A connection whose kernel buffers are full.
fn filled<'w>(world: &'w World, log: &Log) -> (Transport, twistor_tests::Peer<'w>, usize) {
    let (transport, peer) = world.pair_with(Buffers::TIGHT, Script::new(log));
    let mut written = 0;
    while transport.queued() == 0 {
        transport.write(&[b'f'; 1000]);
        written += 1000;
        world.turns(2);
    }
    (transport, peer, written)
}

// TLS makes something else of the user's buffer, whatever its size.
contract! {
    // Line 27.
    fn a_large_write_of_its_own_hook_is_not_copied(driver) {
        for (size, sends) in [(31 * 1024, 1), (64 * 1024, 2)] {
            let world = World::new(driver);
            let data = pattern(size);
            let answer = data.clone();
            let (_transport, peer) = world.pair(Script::new(&Log::new()).on_data(move |transport, _| {
                transport.write(&answer);
                // What is not copied was never queued.
                assert_eq!(transport.queued(), if sends == 1 { answer.len() } else { 0 });
                transport.write(b"and more");
            }));
            peer.send(b"x");
            let before = world.reactor.stats().system_calls.sends;
            assert!(peer.receive(size + 8) == [&data[..], b"and more"].concat());
            assert_eq!(world.reactor.stats().system_calls.sends - before, sends);
        }
    }
}

stream_contract! {
    // Line 27.
    fn many_writes_in_one_hook_cost_one_system_call(driver) {
        let world = World::new(driver);
        let sent = Rc::new(Cell::new(0));
        let (_transport, peer) = {
            let sent = Rc::clone(&sent);
            world.pair_with(Buffers::WIDE, Script::new(&Log::new()).on_data(move |transport, _| {
                for n in 0..1000_u32 {
                    transport.write(&n.to_le_bytes());
                }
                write!(transport, "{}-{}", 1, 2);
                transport.write_vectored(&[IoSlice::new(b"a"), IoSlice::new(b""), IoSlice::new(b"b")]);
                transport.write_bytes(vec![7; 20_000]);
                transport.write(b"end");
                sent.set(transport.reactor().stats().system_calls.sends);
            }))
        };
        peer.send(b"?");
        let data = peer.receive(4000 + 3 + 2 + 20_000 + 3);
        let numbers: Vec<u8> = (0..1000_u32).flat_map(u32::to_le_bytes).collect();
        assert!(data[..4000] == numbers);
        assert_eq!(data[4000..4005], *b"1-2ab");
        assert!(data[4005..24_005].iter().all(|byte| *byte == 7));
        assert_eq!(data[24_005..], *b"end");
        assert_eq!(world.reactor.stats().system_calls.sends - sent.get(), 1);
    }

    // Line 27.
    fn an_answer_in_a_hook_costs_one_send_and_no_control(driver) {
        let world = World::new(driver);
        let (_transport, peer) = world.pair(Script::new(&Log::new()).on_data(|transport, data| {
            transport.write(&data[..1]);
            transport.write(&data[1..]);
        }));
        peer.send(b"warm up");
        let _ = peer.receive(7);
        let before = world.reactor.stats().system_calls;
        for _ in 0..10 {
            peer.send(b"again");
            assert_eq!(peer.receive(5), b"again");
        }
        let after = world.reactor.stats().system_calls;
        assert_eq!(after.sends - before.sends, 10);
        assert_eq!(after.receives - before.receives, 10);
        assert_eq!(after.controls - before.controls, 0);
    }

    // Line 27.
    fn own_writes_go_out_when_the_hook_returns_and_those_to_others_at_settle(driver) {
        let world = World::new(driver);
        let other = Rc::new(RefCell::new(None::<Transport>));
        let seen = Rc::new(RefCell::new(Vec::new()));
        let (own, peer) = {
            let (other, seen) = (Rc::clone(&other), Rc::clone(&seen));
            world.pair(Script::new(&Log::new()).on_data(move |transport, _| {
                transport.write(b"own");
                let other = other.borrow().clone().unwrap();
                other.write(b"other");
                assert_eq!((transport.queued(), other.queued()), (3, 5), "nothing goes out during the hook");
                let (own, seen) = (transport.clone(), Rc::clone(&seen));
                // Runs later in this pass, before settle.
                transport.reactor().call_soon(move |_| {
                    seen.borrow_mut().extend([own.queued(), other.queued()]);
                });
            }))
        };
        let (transport, other_peer) = world.pair(Script::new(&Log::new()));
        *other.borrow_mut() = Some(transport.clone());
        assert_eq!(peer.try_send(b"?"), 1);
        world.until("the hook", || !seen.borrow().is_empty());
        assert_eq!(*seen.borrow(), [0, 5]);
        assert_eq!((own.queued(), transport.queued()), (0, 0), "settle is part of the same pass");
        assert_eq!(peer.try_receive().as_deref(), Some(&b"own"[..]));
        assert_eq!(other_peer.try_receive().as_deref(), Some(&b"other"[..]));
    }

    // Line 27.
    fn writes_from_callbacks_and_from_outside_go_out_at_settle_in_call_order(driver) {
        let world = World::new(driver);
        let (transport, peer) = world.pair(Script::new(&Log::new()));
        transport.write(b"1");
        transport.write_bytes(&b"2"[..]);
        {
            let transport = transport.clone();
            world.reactor.call_soon(move |_| transport.write(b"4"));
        }
        (&transport).write_all(b"3").unwrap();
        assert_eq!(peer.try_receive(), Some(Vec::new()), "no method sends");
        let before = world.reactor.stats().system_calls.sends;
        assert_eq!(peer.receive(4), b"1234");
        assert_eq!(world.reactor.stats().system_calls.sends - before, 1);
    }

    // Lines 11 and 27.
    fn output_that_was_blocked_costs_nothing_once_it_is_drained(driver) {
        let world = World::new(driver);
        for more in [0, 100_000] {
            let (transport, peer, written) = filled(&world, &Log::new());
            transport.write(&vec![0; more]);
            world.assert_sleeps("the kernel takes no more");
            let _ = peer.receive(written + more);
            assert_eq!(transport.queued(), 0);
            world.assert_sleeps("nothing is queued any more");
            let before = world.reactor.stats().system_calls.controls;
            transport.write(b"x");
            assert_eq!(peer.receive(1), b"x");
            assert_eq!(world.reactor.stats().system_calls.controls, before, "the kernel takes this at once");
        }
    }

    // Line 27.
    fn a_write_of_any_size_never_blocks(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair_with(Buffers::TIGHT, Script::new(&log));
        let data = pattern(2_000_000);
        transport.write(&data);
        assert_eq!(transport.queued(), data.len());
        world.turns(2);
        assert!(transport.queued() > 0);
        assert!(peer.receive(data.len()) == data);
        assert_eq!(transport.stats().bytes_sent, 2_000_000);
    }

    // Lines 27 and 29.
    fn what_the_kernel_does_not_take_of_a_large_write_is_queued(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let data = pattern(2_000_000);
        let answer = data.clone();
        let (transport, peer) =
            world.pair_with(Buffers::TIGHT, Script::new(&log).on_data(move |transport, _| {
                transport.write(&answer);
                transport.write(b"end");
                assert!(transport.queued() > 1_000_000);
            }));
        peer.send(b"x");
        world.until("the marks are passed", || log.has(&Event::Pause));
        assert!(peer.receive(data.len() + 3) == [&data[..], b"end"].concat());
        world.until("all is sent", || log.has(&Event::Resume));
        assert_eq!(transport.stats().bytes_sent, 2_000_003);
    }

    // Line 28.
    fn a_large_buffer_is_queued_by_reference_and_given_back_when_sent(driver) {
        let world = World::new(driver);
        let (transport, peer) = world.pair_with(Buffers::TIGHT, Script::new(&Log::new()));
        let (bytes, dropped) = watched(vec![1; 100_000]);
        transport.write_bytes(bytes);
        world.turns(3);
        assert!(!dropped(), "it is queued by reference");
        let _ = peer.receive(100_000);
        world.until("the buffer is given back", &dropped);
        assert_eq!(world.reactor.stats().queued_bytes, 0);
    }

    // Line 28.
    fn a_small_buffer_is_copied_and_given_back_at_once(driver) {
        let world = World::new(driver);
        let (transport, peer) = world.pair(Script::new(&Log::new()));
        let (bytes, dropped) = watched(vec![1; 100]);
        transport.write_bytes(bytes);
        assert!(dropped());
        let _ = peer.receive(100);
    }

    // Line 28.
    fn the_loss_gives_queued_buffers_back(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, _peer) = world.pair_with(Buffers::TIGHT, Script::new(&log));
        let (bytes, dropped) = watched(vec![1; 100_000]);
        transport.write_bytes(bytes);
        transport.write(&[0; 100_000]);
        transport.abort_connection();
        world.until("the loss", || log.lost().is_some());
        assert!(dropped());
        assert_eq!((transport.queued(), world.reactor.stats().queued_bytes), (0, 0));
    }

    // Line 29.
    fn marks_are_told_once_each_and_in_turn(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair_with(Buffers::TIGHT, Script::new(&log));
        for round in 1..=3 {
            transport.write(&[0; 200_000]);
            world.turns(3);
            assert_eq!(marks(&log), (round, round - 1));
            transport.write(&[0; 200_000]);
            world.turns(3);
            assert_eq!(marks(&log), (round, round - 1), "not repeated");
            let mut received = 0;
            while marks(&log).1 < round {
                received += peer.receive(1000).len();
                assert!(received <= 400_000, "resume_writing was never called");
            }
            assert!(transport.queued() <= 16 * 1024, "{} bytes are queued", transport.queued());
            received += peer.receive(400_000 - received).len();
            assert_eq!((received, marks(&log)), (400_000, (round, round)));
        }
        assert_eq!(log.events().len(), 7);
    }

    // Line 29.
    fn resume_comes_at_the_low_mark_and_not_before(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair_with(Buffers::TIGHT, Script::new(&log));
        transport.set_watermarks(100_000, 50_000);
        transport.write(&[0; 300_000]);
        world.turns(3);
        assert_eq!(marks(&log), (1, 0));
        while transport.queued() > 50_000 {
            assert_eq!(marks(&log), (1, 0), "{} bytes are queued", transport.queued());
            let _ = peer.receive(500);
            if transport.queued() > 50_000 {
                assert_eq!(marks(&log), (1, 0));
            }
        }
        world.until("resume_writing", || marks(&log) == (1, 1));
    }

    // Line 29.
    fn what_the_kernel_takes_at_once_never_counts(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair_with(
            Buffers::WIDE,
            Script::new(&log).on_data(|transport, _| transport.write(&[0; 100_000])),
        );
        transport.set_watermarks(10_000, 1000);
        peer.send(b"?");
        let _ = peer.receive(100_000);
        transport.write(&[0; 100_000]);
        let _ = peer.receive(100_000);
        world.turns(3);
        assert_eq!(marks(&log), (0, 0));
    }

    // Line 29.
    fn changed_marks_are_compared_at_once(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, _peer, _) = filled(&world, &log);
        transport.write(&[0; 30_000]);
        world.turns(2);
        assert_eq!(marks(&log), (0, 0));
        transport.set_watermarks(20_000, 10_000);
        assert_eq!(marks(&log), (0, 0), "no method calls a hook");
        world.turns(1);
        assert_eq!(marks(&log), (1, 0));
        transport.set_watermarks(1 << 20, 1 << 19);
        world.turns(1);
        assert_eq!(marks(&log), (1, 1));
        transport.set_watermarks(0, 0);
        world.turns(1);
        assert_eq!(marks(&log), (2, 1));
    }

    // Line 29.
    fn pause_writing_may_write_more_and_is_not_called_again(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair_with(
            Buffers::TIGHT,
            Script::new(&log).on_pause(|transport| transport.write(&[0; 100_000])).on_resume(|transport| {
                transport.lose_connection();
            }),
        );
        transport.write(&[0; 100_000]);
        world.turns(4);
        assert_eq!(marks(&log), (1, 0));
        let (data, ending) = peer.receive_to_end();
        assert_eq!((data.len(), ending), (200_000, Ending::Fin));
        assert_eq!(marks(&log), (1, 1));
    }

    // Line 29.
    fn a_producer_that_obeys_the_marks_is_never_far_above_them(driver) {
        let world = World::new(driver);
        let paused = Rc::new(Cell::new(false));
        let (pause, resume) = (Rc::clone(&paused), Rc::clone(&paused));
        let script = Script::new(&Log::new())
            .on_pause(move |_| assert!(!pause.replace(true)))
            .on_resume(move |_| assert!(resume.replace(false)));
        let (transport, peer) = world.pair_with(Buffers::TIGHT, script);
        let (mut written, mut received, mut pauses) = (0, 0, 0);
        while received < 2_000_000 {
            while !paused.get() && written < 2_000_000 {
                transport.write(&[9; 10_000]);
                written += 10_000;
                world.turns(1);
                pauses += u32::from(paused.get());
            }
            assert!(transport.queued() <= 64 * 1024 + 10_000, "{} bytes are queued", transport.queued());
            let data = peer.try_receive().expect("the stream goes on");
            received += data.len();
            world.turns(1);
        }
        assert!(pauses > 5, "{pauses} pauses");
    }

    // Line 30.
    fn a_write_above_the_write_limit_aborts_the_connection(driver) {
        let world = World::with(driver, |builder| builder.write_limit(100_000));
        let log = Log::new();
        let (transport, peer, _) = filled(&world, &log);
        transport.write(&vec![0; 100_001 - transport.queued()]);
        assert!(!transport.is_closing(), "the write that passes the limit is taken");
        transport.write(b"x");
        assert!(transport.is_closing());
        world.until("the loss", || log.lost().is_some());
        assert!(log.lost().unwrap().contains("write limit"), "{:?}", log.lost());
        assert_eq!(world.reactor.stats().write_limit_hits, 1);
        assert_eq!(peer.receive_to_end().1, Ending::Reset);
        assert_eq!(log.count(&Event::Pause), 0, "aborted before the mark was compared");
    }

    // Line 30.
    fn the_write_limit_is_16_mib_by_default_and_can_be_set_per_connection(driver) {
        let world = World::new(driver);
        let logs = [Log::new(), Log::new()];
        let (usual, _peer, _) = filled(&world, &logs[0]);
        let (generous, _other, _) = filled(&world, &logs[1]);
        generous.set_write_limit(20 << 20);
        for transport in [&usual, &generous] {
            transport.write_bytes(vec![0; (16 << 20) - transport.queued()]);
            transport.write(b"x");
            assert!(!transport.is_closing(), "exactly at the limit");
            transport.write(b"x");
        }
        assert!(usual.is_closing());
        assert!(!generous.is_closing());
        generous.set_write_limit(1000);
        assert!(!generous.is_closing(), "a limit is looked at by a write");
        generous.write(b"x");
        assert!(generous.is_closing());
        world.until("both losses", || logs.iter().all(|log| log.lost().is_some()));
    }

    // Line 30.
    fn one_single_huge_write_is_allowed(driver) {
        let world = World::with(driver, |builder| builder.write_limit(1000));
        let (transport, peer) = world.pair(Script::new(&Log::new()));
        let data = pattern(5_000_000);
        transport.write(&data);
        assert!(peer.receive(data.len()) == data);
        transport.write(b"more");
        assert_eq!(peer.receive(4), b"more");
    }

    // Line 30.
    fn a_write_above_the_total_limit_aborts_its_own_connection_only(driver) {
        let world = World::with(driver, |builder| builder.total_write_limit(300_000));
        let logs = [Log::new(), Log::new()];
        let (first, _peer, _) = filled(&world, &logs[0]);
        let (second, _other, _) = filled(&world, &logs[1]);
        first.write(&[0; 200_000]);
        second.write(&[0; 50_000]);
        world.turns(3);
        assert_eq!((logs[0].lost(), logs[1].lost()), (None, None));
        second.write(&[0; 100_000]);
        world.until("the loss", || logs[1].lost().is_some());
        assert!(logs[1].lost().unwrap().contains("write limit"));
        assert_eq!(logs[0].lost(), None);
        first.write(&[0; 50_000]);
        world.turns(2);
        assert_eq!(logs[0].lost(), None, "there is room again");
    }

    // Line 30.
    fn try_write_refuses_instead(driver) {
        let world = World::with(driver, |builder| builder.write_limit(100_000).total_write_limit(150_000));
        let logs = [Log::new(), Log::new()];
        let (transport, _peer, _) = filled(&world, &logs[0]);
        let room = 100_000 - transport.queued();
        assert!(!transport.try_write(&vec![0; room + 1]));
        assert_eq!(transport.queued(), 100_000 - room, "nothing of it was queued");
        assert!(transport.try_write(&vec![0; room]));
        assert!(!transport.try_write(b"x"));
        let (other, peer, written) = filled(&world, &logs[1]);
        assert!(!other.try_write(&[0; 60_000]), "all outboxes together are above the total");
        assert!(other.try_write(b"end"));
        let data = peer.receive(written + 3);
        assert_eq!(data[written..], *b"end");
        assert_eq!((logs[0].lost(), logs[1].lost()), (None, None));
        other.lose_connection();
        assert!(!other.try_write(b"x"), "closing");
    }

    // Line 31.
    fn flushed_fires_when_the_kernel_has_taken_all_queued_so_far(driver) {
        let world = World::new(driver);
        let fired = Rc::new(RefCell::new(Vec::new()));
        let (transport, peer) = world.pair_with(Buffers::TIGHT, Script::new(&Log::new()));
        let wait = |name: &'static str| {
            let fired = Rc::clone(&fired);
            transport.flushed().on_done(move |_, outcome| {
                outcome.unwrap();
                fired.borrow_mut().push(name);
            });
        };
        wait("nothing");
        transport.write(&[0; 50_000]);
        wait("first");
        transport.write(&[0; 50_000]);
        wait("second");
        assert!(fired.borrow().is_empty(), "heard from the loop only");
        world.turns(4);
        assert_eq!(*fired.borrow(), ["nothing"]);
        let mut received = 0;
        while fired.borrow().len() < 2 {
            received += peer.receive(500).len();
            assert!(received <= 60_000, "the first 50 000 were received");
        }
        assert!(transport.queued() <= 50_000);
        received += peer.receive(100_000 - received).len();
        assert_eq!(received, 100_000);
        world.until("the last", || *fired.borrow() == ["nothing", "first", "second"]);
    }

    // Line 31.
    fn flushed_fires_for_small_answers_too(driver) {
        let world = World::new(driver);
        let fired = Rc::new(Cell::new(0));
        let (transport, peer) = {
            let fired = Rc::clone(&fired);
            world.pair(Script::new(&Log::new()).on_data(move |transport, data| {
                transport.write(data);
                let fired = Rc::clone(&fired);
                transport.flushed().on_done(move |_, outcome| {
                    outcome.unwrap();
                    fired.set(fired.get() + 1);
                });
            }))
        };
        for round in 1..=3 {
            peer.send(b"x");
            world.until("flushed", || fired.get() == round);
        }
        transport.write(b"from elsewhere");
        let fired_elsewhere = Rc::clone(&fired);
        transport.flushed().on_done(move |_, outcome| {
            outcome.unwrap();
            fired_elsewhere.set(100);
        });
        world.until("flushed", || fired.get() == 100);
    }

    // Line 31.
    fn flushed_fails_with_the_loss(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let outcomes = Rc::new(RefCell::new(Vec::new()));
        let (transport, mut peer) = world.pair_with(Buffers::TIGHT, Script::new(&log));
        let wait = || {
            let outcomes = Rc::clone(&outcomes);
            transport.flushed().on_done(move |_, outcome| {
                outcomes.borrow_mut().push(outcome.unwrap_err().to_string());
            });
        };
        transport.write(&[0; 100_000]);
        wait();
        world.turns(3);
        peer.reset();
        world.until("the failure", || outcomes.borrow().len() == 1);
        assert_eq!(log.lost().as_deref(), Some("reset by the peer or the network"));
        wait();
        world.until("a late question", || outcomes.borrow().len() == 2);
        assert!(outcomes.borrow().iter().all(|text| text == "reset by the peer or the network"));
    }

    // Line 31.
    fn flushed_fires_while_closing(driver) {
        let world = World::new(driver);
        let fired = Rc::new(Cell::new(false));
        let (transport, peer) = world.pair_with(Buffers::TIGHT, Script::new(&Log::new()));
        transport.write(&[0; 100_000]);
        let done = Rc::clone(&fired);
        transport.flushed().on_done(move |_, outcome| {
            outcome.unwrap();
            done.set(true);
        });
        transport.lose_connection();
        let _ = peer.receive_to_end();
        world.until("flushed", || fired.get());
    }

    // Line 32.
    fn writes_to_a_closing_transport_are_dropped(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log));
        transport.write(b"before");
        transport.lose_connection();
        every_write(&transport, log.lost().is_some());
        assert_eq!(peer.receive_to_end(), (b"before".to_vec(), Ending::Fin));
        every_write(&transport, log.lost().is_some());
        peer.finish();
        world.until("the loss", || log.lost().is_some());
        every_write(&transport, true);
        world.turns(3);
        assert_eq!(transport.stats().bytes_queued, 0);
        assert_eq!(transport.stats().bytes_sent, 6);
    }

    // Line 32.
    fn writes_to_a_half_closed_transport_are_dropped(driver) {
        let world = World::new(driver);
        let (transport, peer) = world.pair(Script::new(&Log::new()));
        transport.write(b"before");
        transport.lose_write_connection();
        every_write(&transport, false);
        assert_eq!(peer.receive_to_end(), (b"before".to_vec(), Ending::Fin));
        every_write(&transport, false);
        world.turns(3);
        assert_eq!(transport.stats().bytes_sent, 6);
    }

    // Line 32.
    fn writes_in_connection_lost_and_after_the_reactor_are_dropped(driver) {
        let log = Log::new();
        let kept = {
            let world = World::new(driver);
            let script = Script::new(&log).on_lost(|transport, _| every_write(transport, true));
            let (transport, _peer) = world.pair(script);
            transport.abort_connection();
            world.until("the loss", || log.lost().is_some());
            let (other, _peer) = world.pair(Script::new(&Log::new()));
            (transport, other)
        };
        every_write(&kept.0, true);
        kept.1.write(b"x");
        kept.1.write_bytes(vec![0; 10_000]);
        let _ = kept.1.try_write(b"x");
        drop(kept.1.flushed());
    }
}

/// Every way to write, none of which may do anything.
fn every_write(transport: &Transport, lost: bool) {
    let queued = transport.queued();
    transport.write(b"dropped");
    transport.write(&[0; 100_000]);
    transport.write(b"");
    transport.write_bytes(vec![0; 100_000]);
    transport.write_bytes(Bytes::new());
    transport.write_vectored(&[IoSlice::new(b"dropped")]);
    transport.write_vectored(&[]);
    write!(transport, "{}", transport.id());
    assert!(!transport.try_write(b"dropped"));
    if lost {
        assert!(Write::write(&mut &*transport, b"dropped").is_err());
    }
    let file = std::fs::File::open("/dev/null").expect("a file");
    drop(transport.send_file(file, 0..10));
    assert_eq!(transport.queued(), queued);
}
