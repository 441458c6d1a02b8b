//! The contract, section 4: time-outs of a connection.
//!
//! What must not happen too early is checked exactly; what must happen is waited for.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use twistor::{OnTimeout, Timeout, Timeouts, Transport};
use twistor_tests::{Buffers, Ending, Event, Log, Peer, Script, World, stream_contract};

const SHORT: Duration = Duration::from_millis(40);
const LONG: Duration = Duration::from_secs(600);

/// A connection with these time-outs, and when they began to count.
fn watched<'w>(world: &'w World, log: &Log, timeouts: Timeouts) -> (Transport, Peer<'w>, Instant) {
    let (transport, peer) = world.pair_with(Buffers::TIGHT, Script::new(log));
    let start = world.now();
    transport.set_timeouts(timeouts);
    (transport, peer, start)
}

/// Waits for the loss by this time-out, and returns when it was seen.
fn until_timed_out(world: &World, log: &Log, which: Timeout, mut meanwhile: impl FnMut()) -> Instant {
    world.until("the time-out", || {
        if log.lost().is_none() {
            meanwhile();
        }
        log.lost().is_some()
    });
    assert_eq!(log.lost(), Some(format!("timed out ({which})")));
    assert_eq!(log.count(&Event::TimedOut(which)), 1);
    world.now()
}

stream_contract! {
    // Line 36.
    fn an_idle_connection_times_out_and_its_peer_sees_a_reset(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (_transport, peer, start) = watched(&world, &log, Timeouts::new().idle(SHORT));
        let end = until_timed_out(&world, &log, Timeout::Idle, || ());
        assert!(end - start >= SHORT, "after {:?}", end - start);
        assert_eq!(peer.receive_to_end().1, Ending::Reset);
        assert_eq!(world.reactor.stats().timeouts, 1);
    }

    // Line 36.
    fn input_and_output_both_refresh_the_idle_time_out(driver) {
        for output in [false, true] {
            let world = World::new(driver);
            let log = Log::new();
            let (transport, peer, start) = watched(&world, &log, Timeouts::new().idle(2 * SHORT));
            let mut last = start;
            let end = until_timed_out(&world, &log, Timeout::Idle, || {
                if world.since(start) < 4 * SHORT {
                    // Taken before, because the reactor cannot notice earlier.
                    last = world.now();
                    if output { transport.write(b"x") } else { let _ = peer.try_send(b"x"); }
                    let _ = peer.try_receive();
                }
            });
            assert!(end - last >= 2 * SHORT, "{:?} after the last byte", end - last);
        }
    }

    // Line 36.
    fn output_does_not_refresh_the_read_time_out(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer, start) = watched(&world, &log, Timeouts::new().read(SHORT));
        let end = until_timed_out(&world, &log, Timeout::Read, || {
            transport.write(b"x");
            let _ = peer.try_receive();
        });
        assert!(end - start >= SHORT);
    }

    // Line 36.
    fn input_refreshes_the_read_time_out(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (_transport, peer, start) = watched(&world, &log, Timeouts::new().read(2 * SHORT));
        let mut last = start;
        let end = until_timed_out(&world, &log, Timeout::Read, || {
            if world.since(start) < 4 * SHORT {
                last = world.now();
                let _ = peer.try_send(b"x");
            }
        });
        assert!(end - last >= 2 * SHORT, "{:?} after the last byte", end - last);
    }

    // Line 36.
    fn a_peer_that_takes_nothing_stalls_the_writer(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer, _) = watched(&world, &log, Timeouts::new().write_stall(SHORT));
        let start = world.now();
        transport.write(&[0; 50_000]);
        // Input is no sign of progress.
        let end = until_timed_out(&world, &log, Timeout::WriteStall, || {
            let _ = peer.try_send(b"x");
        });
        assert!(end - start >= SHORT);
        assert_eq!(peer.receive_to_end().1, Ending::Reset);
    }

    // Line 36.
    fn what_the_peer_takes_refreshes_the_write_stall(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer, start) = watched(&world, &log, Timeouts::new().write_stall(4 * SHORT));
        transport.write(&vec![0; 3_000_000]);
        // When the turn began in which the kernel last took something.
        let (mut taken, mut last, mut turn) = (0, start, start);
        let end = until_timed_out(&world, &log, Timeout::WriteStall, || {
            if transport.stats().bytes_sent > taken {
                taken = transport.stats().bytes_sent;
                last = turn;
            }
            if world.since(start) < 6 * SHORT {
                let _ = peer.read(&mut [0; 500]);
            }
            turn = world.now();
        });
        assert!(last > start, "it was slow, but it took something");
        assert!(end - last >= 4 * SHORT, "{:?} after the last byte", end - last);
    }

    // Line 36.
    fn without_queued_output_nothing_stalls(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer, _) = watched(&world, &log, Timeouts::new().write_stall(SHORT / 4));
        transport.write(b"taken at once");
        world.run_for(SHORT);
        assert_eq!(log.events(), [Event::Made]);
        // A stall that begins long after the last byte counts from its own beginning.
        let _ = peer.receive(13);
        let start = world.now();
        transport.write(&[0; 50_000]);
        let end = until_timed_out(&world, &log, Timeout::WriteStall, || ());
        assert!(end - start >= SHORT / 4, "after {:?}", end - start);
    }

    // Line 36.
    fn a_slow_drip_does_not_hold_a_connection_with_a_minimum_rate(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let timeouts = Timeouts::new().minimum_rate(1_000_000, SHORT).idle(LONG).read(LONG);
        let (_transport, peer, start) = watched(&world, &log, timeouts);
        let end = until_timed_out(&world, &log, Timeout::MinimumRate, || {
            let _ = peer.try_send(b"x");
        });
        assert!(end - start >= SHORT);
        assert!(!log.data().is_empty(), "it did drip");
    }

    // Line 36.
    fn a_rate_above_the_minimum_keeps_the_connection(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let window = Duration::from_millis(400);
        let (_transport, peer, start) = watched(&world, &log, Timeouts::new().minimum_rate(10, window));
        let mut last = start;
        let end = until_timed_out(&world, &log, Timeout::MinimumRate, || {
            if world.since(start) < window * 3 / 2 {
                last = world.now();
                let _ = peer.try_send(b"many bytes");
            }
        });
        assert!(end - start >= 2 * window, "the first window was good: {:?}", end - start);
    }

    // Line 36.
    fn the_total_life_ends_whatever_happens(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let timeouts = Timeouts::new().total(SHORT).idle(LONG);
        let (transport, peer, start) = watched(&world, &log, timeouts);
        let end = until_timed_out(&world, &log, Timeout::Total, || {
            let _ = (peer.try_send(b"x"), peer.try_receive());
            transport.write(b"y");
        });
        assert!(end - start >= SHORT);
    }

    // Line 36.
    fn time_outs_hold_while_reading_is_paused(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer, start) = watched(&world, &log, Timeouts::new().total(SHORT).idle(LONG));
        transport.pause_reading();
        let end = until_timed_out(&world, &log, Timeout::Total, || {
            let _ = peer.try_send(b"x");
        });
        assert!(end - start >= SHORT);
        assert_eq!(log.data(), b"");
    }

    // Line 36.
    fn timed_out_may_keep_the_connection_and_is_asked_again(driver) {
        for timeouts in [
            Timeouts::new().idle(SHORT / 4),
            Timeouts::new().read(SHORT / 4),
            Timeouts::new().minimum_rate(1000, SHORT / 4),
            Timeouts::new().total(SHORT / 4),
        ] {
            let world = World::new(driver);
            let log = Log::new();
            let times = Rc::new(RefCell::new(vec![]));
            let (transport, peer) = {
                let (times, machine) = (Rc::clone(&times), world.machine());
                world.pair(Script::new(&log).on_timed_out(move |transport, _| {
                    times.borrow_mut().push(machine.now());
                    transport.write(b"PING");
                    OnTimeout::Keep
                }))
            };
            let start = world.now();
            transport.set_timeouts(timeouts);
            world.until("three time-outs", || times.borrow().len() >= 3);
            assert!(!transport.is_closing());
            for (n, time) in (1..).zip(&*times.borrow()) {
                assert!(*time - start >= n * SHORT / 4, "{timeouts:?}: no. {n} after {:?}", *time - start);
            }
            assert!(peer.receive(8) == b"PINGPING");
        }
    }

    // Line 36.
    fn a_kept_write_stall_is_asked_about_again(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, _peer) =
            world.pair_with(Buffers::TIGHT, Script::new(&log).on_timed_out(|_, _| OnTimeout::Keep));
        transport.set_timeouts(Timeouts::new().write_stall(SHORT / 4));
        transport.write(&[0; 50_000]);
        world.until("three time-outs", || log.count(&Event::TimedOut(Timeout::WriteStall)) == 3);
        assert_eq!(log.lost(), None);
    }

    // Line 36.
    fn timed_out_may_answer_and_close(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log).on_timed_out(|transport, _| {
            transport.write(b"408");
            OnTimeout::Close
        }));
        transport.set_timeouts(Timeouts::new().read(SHORT));
        assert_eq!(peer.receive_to_end(), (b"408".to_vec(), Ending::Fin));
        peer.finish();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.lost().as_deref(), Some("timed out (read)"));
    }

    // Lines 36 and 39.
    fn timed_out_may_end_the_connection_itself(driver) {
        for abort in [true, false] {
            let world = World::new(driver);
            let log = Log::new();
            let (transport, peer) = world.pair(Script::new(&log).on_timed_out(move |transport, _| {
                if abort { transport.abort_connection() } else { transport.lose_connection() }
                OnTimeout::Keep
            }));
            transport.set_timeouts(Timeouts::new().read(SHORT));
            assert_eq!(peer.receive_to_end().1, if abort { Ending::Reset } else { Ending::Fin });
            peer.try_finish().ok();
            world.until("the loss", || log.lost().is_some());
            assert_eq!(log.lost().as_deref(), Some(if abort { "aborted" } else { "closed" }));
        }
    }

    // Lines 5 and 36.
    fn a_panic_in_timed_out_ends_the_connection(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, _peer) = world.pair(Script::new(&log).on_timed_out(|_, _| panic!("on purpose")));
        transport.set_timeouts(Timeouts::new().read(SHORT));
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.lost().as_deref(), Some("a hook panicked"));
    }

    // Line 36.
    fn all_time_outs_are_set_in_one_call_and_replace_each_other(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let most = Timeouts::new().idle(SHORT).read(SHORT).write_stall(SHORT);
        let all = most.minimum_rate(1, SHORT).total(SHORT);
        let (transport, _peer, _) = watched(&world, &log, all);
        assert_eq!(transport.timeouts(), all);
        transport.set_timeouts(Timeouts::new());
        assert!(transport.timeouts().is_empty());
        world.run_for(2 * SHORT);
        assert_eq!(log.events(), [Event::Made]);
        transport.set_timeouts(Timeouts::new().idle(LONG));
        let start = world.now();
        transport.set_timeouts(Timeouts::new().idle(SHORT));
        let end = until_timed_out(&world, &log, Timeout::Idle, || ());
        assert!(end - start >= SHORT, "they count from the call");
    }

    // Line 36.
    fn setting_time_outs_again_makes_them_count_from_then(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, _peer, first) = watched(&world, &log, Timeouts::new().total(2 * SHORT));
        let mut start = first;
        let end = until_timed_out(&world, &log, Timeout::Total, || {
            if world.since(first) < 3 * SHORT {
                start = world.now();
                transport.set_timeouts(Timeouts::new().total(2 * SHORT));
            }
        });
        assert!(end - start >= 2 * SHORT, "after {:?}", end - start);
    }

    // Line 36.
    fn several_time_outs_are_each_told(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, _peer) = world.pair(Script::new(&log).on_timed_out(|_, _| OnTimeout::Keep));
        transport.set_timeouts(Timeouts::new().idle(SHORT / 4).read(SHORT / 2).total(SHORT));
        let all = [Timeout::Idle, Timeout::Read, Timeout::Total];
        // Keeping the connection at one of them does not put the others off.
        world.until("all of them", || all.iter().all(|which| log.has(&Event::TimedOut(*which))));
    }

    // Line 36.
    fn refreshing_costs_neither_a_system_call_nor_a_timer_operation(driver) {
        let world = World::new(driver);
        let script = Script::new(&Log::new()).on_data(Transport::write);
        let (transport, peer) = world.pair(script);
        transport.set_timeouts(Timeouts::new().idle(LONG).read(LONG).write_stall(LONG).total(LONG));
        peer.send(b"warm up");
        let _ = peer.receive(7);
        let before = world.reactor.stats();
        for _ in 0..10 {
            peer.send(b"x");
            assert_eq!(peer.receive(1), b"x");
        }
        let after = world.reactor.stats();
        let (new, old) = (after.system_calls, before.system_calls);
        assert_eq!((new.receives - old.receives, new.sends - old.sends), (10, 10));
        assert_eq!((new.controls - old.controls, new.others - old.others), (0, 0));
        assert_eq!((after.timer_calls, after.timers), (before.timer_calls, before.timers));
    }

    // Line 36.
    fn a_stamp_moves_the_deadline_without_extra_wake_ups(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (_transport, peer, _) = watched(&world, &log, Timeouts::new().idle(LONG));
        peer.send(b"x");
        world.until("the data", || log.data() == b"x");
        world.assert_sleeps("the deadline is far away");
    }

    // Lines 9 and 36.
    fn the_loss_takes_the_time_outs_with_it(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let timers = world.reactor.stats().timers;
        let (transport, _peer, _) = watched(&world, &log, Timeouts::new().idle(LONG).total(LONG));
        world.turns(2);
        transport.abort_connection();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(world.reactor.stats().timers, timers);
        transport.set_timeouts(Timeouts::new().idle(SHORT));
        world.turns(2);
        assert_eq!(world.reactor.stats().timers, timers, "a lost connection has no time-outs");
    }

    // Line 36.
    fn time_outs_may_be_set_in_connection_made(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let start = Rc::new(Cell::new(None));
        let (_transport, _peer) = {
            let (start, machine) = (Rc::clone(&start), world.machine());
            world.pair(Script::new(&log).on_made(move |transport| {
                start.set(Some(machine.now()));
                transport.set_timeouts(Timeouts::new().idle(SHORT));
            }))
        };
        let end = until_timed_out(&world, &log, Timeout::Idle, || ());
        assert!(end - start.get().expect("set in connection_made") >= SHORT);
    }
}
