//! The contract, section 2: timers and looping calls.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use twistor::{Deferred, DelayedCall, Handle, Resolver, task};
use twistor_tests::allocations::{Counting, counts};
use twistor_tests::{World, contract, logged};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

contract! {
    // Line 13.
    fn deadlines_are_times_of_the_monotonic_clock(driver) {
        let world = World::new(driver);
        let before = world.now();
        let now = world.reactor.now();
        assert!(before <= now && now <= world.now());
        let at = now + Duration::from_nanos(1_234_567_891);
        assert_eq!(world.reactor.call_at(at, |_| {}).deadline(), Some(at), "kept to the nanosecond");
    }

    // Line 14.
    fn no_timer_is_early(driver) {
        let world = World::new(driver);
        let left = Rc::new(Cell::new(0));
        for n in 0..200_u64 {
            let after = Duration::from_nanos(n * n * 997 % 30_000_000);
            left.set(left.get() + 1);
            let count = Rc::clone(&left);
            let called = world.now();
            world.reactor.call_later(after, move |handle| {
                let waited = handle.now() - called;
                assert!(waited >= after, "{waited:?} instead of {after:?}");
                count.set(count.get() - 1);
            });
        }
        world.until("all timers", || left.get() == 0);
        assert_eq!(world.reactor.stats().panics, 0);
    }

    // Line 14.
    fn a_timer_set_late_in_a_long_pass_counts_from_the_call(driver) {
        let world = World::new(driver);
        let waited = Rc::new(Cell::new(None));
        let set = Rc::clone(&waited);
        let machine = world.machine();
        world.reactor.call_soon(move |handle| {
            machine.spend(Duration::from_millis(30));
            let called = machine.now();
            handle.call_later(Duration::from_millis(20), move |_| set.set(Some(machine.since(called))));
        });
        world.until("the timer", || waited.get().is_some());
        assert!(waited.get() >= Some(Duration::from_millis(20)), "{:?}", waited.get());
    }

    // Line 14.
    fn timers_run_in_order_of_deadline_and_equal_ones_in_order_of_creation(driver) {
        let world = World::new(driver);
        let order = Rc::new(RefCell::new(Vec::new()));
        let base = world.reactor.now() + Duration::from_millis(5);
        let mut expected = Vec::new();
        for n in 0..500_u64 {
            // Nanoseconds apart, many of them equal.
            let offset = n * 7919 % 50;
            expected.push((offset, n));
            let order = Rc::clone(&order);
            world.reactor.call_at(base + Duration::from_nanos(offset), move |_| order.borrow_mut().push((offset, n)));
        }
        expected.sort_unstable();
        world.until("all timers", || order.borrow().len() == 500);
        assert_eq!(*order.borrow(), expected);
    }

    // Line 15.
    fn a_cancelled_timer_is_dropped_at_once_and_cancelling_again_is_false(driver) {
        let world = World::new(driver);
        let value = Rc::new(());
        let held = Rc::clone(&value);
        let call = world.reactor.call_later(Duration::ZERO, move |_| panic!("called with {held:?}"));
        assert!(call.is_active());
        assert!(call.cancel());
        assert_eq!(Rc::strong_count(&value), 1);
        assert!(!call.cancel() && !call.is_active());
        assert!(!call.reset(Duration::ZERO) && !call.delay(Duration::ZERO));
        world.turns(3);
        assert_eq!(world.reactor.stats().panics, 0);
    }

    // Line 15.
    fn after_the_call_every_method_is_an_ordinary_false(driver) {
        let world = World::new(driver);
        let ran = Rc::new(Cell::new(0));
        let (count, me) = (Rc::clone(&ran), Rc::new(RefCell::new(None::<DelayedCall>)));
        let inside = Rc::clone(&me);
        let call = world.reactor.call_later(Duration::ZERO, move |_| {
            let call = inside.borrow_mut().take().expect("it was kept");
            assert!(!call.is_active() && !call.cancel() && !call.reset(Duration::ZERO), "its call is under way");
            count.set(count.get() + 1);
        });
        *me.borrow_mut() = Some(call.clone());
        world.until("the timer", || ran.get() == 1);
        assert!(!call.is_active() && !call.cancel());
        assert!(!call.reset(Duration::ZERO) && !call.delay(Duration::ZERO));
        // Another timer in its place is not touched.
        let other = world.reactor.call_later(Duration::from_secs(60), |_| {});
        assert!(!call.cancel());
        assert!(other.is_active());
        world.turns(3);
        assert_eq!(ran.get(), 1);
    }

    // Line 15.
    fn a_timer_can_cancel_reset_and_delay_others_due_in_the_same_pass(driver) {
        let world = World::new(driver);
        let at = world.reactor.now();
        let calls: Rc<RefCell<Vec<DelayedCall>>> = Rc::default();
        let (ran, pass) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(0)));
        let (others, seen) = (Rc::clone(&calls), Rc::clone(&pass));
        world.reactor.call_at(at, move |handle| {
            seen.set(handle.stats().passes);
            let others = others.borrow();
            assert!(others[0].cancel());
            assert!(others[1].reset(Duration::from_millis(20)));
            assert!(others[2].delay(Duration::from_secs(3600)));
            assert!(others[3].reset(Duration::ZERO));
        });
        for n in 0..5 {
            let ran = Rc::clone(&ran);
            let call = world.reactor.call_at(at, move |handle| ran.borrow_mut().push((n, handle.stats().passes)));
            calls.borrow_mut().push(call);
        }
        let began = world.now();
        world.until("the timers that are left", || ran.borrow().len() == 3);
        let ran = ran.borrow();
        assert_eq!(ran.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [4, 3, 1]);
        assert_eq!(ran[0].1, pass.get(), "the untouched one runs in the same pass");
        assert!(ran[1].1 > pass.get(), "one that is reset is not due in this pass any more");
        assert!(world.since(began) >= Duration::from_millis(20));
        assert!(!calls.borrow()[0].is_active() && calls.borrow()[2].is_active());
        assert_eq!(calls.borrow()[2].deadline(), Some(at + Duration::from_secs(3600)));
    }

    // Line 15.
    fn a_timer_can_be_moved_to_be_sooner(driver) {
        let world = World::new(driver);
        let ran = Rc::new(Cell::new(false));
        let seen = Rc::clone(&ran);
        let call = world.reactor.call_later(Duration::from_secs(3600), move |_| seen.set(true));
        world.turns(2);
        assert!(call.reset(Duration::from_millis(1)));
        let began = world.now();
        // One wait: it must end at the new deadline.
        while !ran.get() {
            world.reactor.turn(Some(Duration::from_secs(60))).expect("a turn");
        }
        assert!(world.since(began) < Duration::from_secs(30));
    }

    // Decision 2 of the design: cancelling is explicit, or by a guard.
    fn dropping_a_handle_changes_nothing_and_dropping_a_guard_cancels(driver) {
        let world = World::new(driver);
        let ran = Rc::new(RefCell::new(Vec::new()));
        let (one, other) = (Rc::clone(&ran), Rc::clone(&ran));
        drop(world.reactor.call_later(Duration::ZERO, move |_| one.borrow_mut().push("dropped")));
        let guard = world.reactor.call_later(Duration::ZERO, move |_| other.borrow_mut().push("guarded"));
        let guard = guard.cancel_on_drop();
        assert!(guard.is_active());
        drop(guard);
        world.run_for(Duration::from_millis(5));
        assert_eq!(*ran.borrow(), ["dropped"]);
    }

    // Line 16.
    fn centuries_neither_overflow_nor_fire(driver) {
        let world = World::new(driver);
        let never = |_: &Handle| panic!("it fired");
        let far = [
            world.reactor.call_later(CENTURY, never),
            world.reactor.call_later(9 * CENTURY, never),
            world.reactor.call_later(Duration::MAX, never),
            world.reactor.call_at(world.now() + Duration::from_secs(u64::from(u32::MAX) * 1000), never),
        ];
        let moved = world.reactor.call_later(Duration::from_secs(60), never);
        assert!(moved.delay(Duration::MAX) && moved.delay(Duration::MAX) && moved.delay(CENTURY));
        let reset = world.reactor.call_later(Duration::from_secs(60), never);
        assert!(reset.reset(Duration::MAX));
        let looping = world.reactor.every(Duration::MAX, |_, _| -> () { panic!("it fired") });
        assert!(looping.reset());
        let soon = Rc::new(Cell::new(false));
        let seen = Rc::clone(&soon);
        world.reactor.call_later(Duration::from_millis(5), move |_| seen.set(true));
        while !soon.get() {
            world.reactor.turn(Some(Duration::MAX)).expect("a turn");
        }
        world.turns(10);
        assert_eq!(world.reactor.stats().panics, 0);
        assert!(far.iter().chain([&moved, &reset]).all(DelayedCall::is_active));
        assert!(far[0].deadline() > Some(world.now() + CENTURY / 2));
    }

    // Line 16.
    fn a_million_pending_timers_cost_an_idle_pass_nothing(driver) {
        let world = World::new(driver);
        let calls: Vec<_> = (0..1_000_000_u64)
            .map(|n| world.reactor.call_later(Duration::from_secs(60) + Duration::from_micros(n * 7919), |_| {}))
            .collect();
        assert_eq!(world.reactor.stats().timers, 1_000_000);
        world.turns(1);
        // Of real time, on every driver.
        let began = Instant::now();
        world.turns(10_000);
        let taken = began.elapsed();
        // A pass that looked at each of them would take ten seconds for ten thousand at a nanosecond each.
        assert!(taken < Duration::from_secs(3), "{taken:?}");
        assert_eq!(world.reactor.stats().timer_calls, 0);
        assert!(calls.iter().all(DelayedCall::cancel));
        assert_eq!(world.reactor.stats().timers, 0);
    }

    // Line 16.
    fn memory_of_cancelled_timers_is_used_again(driver) {
        let world = World::new(driver);
        let mut held = Vec::new();
        let round = || {
            let calls = (0..20_000_u64).map(|n| world.reactor.call_later(Duration::from_millis(1000 + n), |_| {}));
            let calls: Vec<_> = calls.collect();
            assert!(calls.iter().all(DelayedCall::cancel));
            world.turns(1);
        };
        for _ in 0..30 {
            round();
            held.push(counts().bytes);
        }
        // Tables grow and shrink a little from round to round; half a million timers leave less than two
        // bytes each.
        assert!(held[29] - held[2] < 1_000_000, "{held:?}");
    }

    // Line 17.
    fn a_looping_call_stays_on_its_grid(driver) {
        let world = World::new(driver);
        let interval = Duration::from_millis(5);
        let slots = Rc::new(Cell::new(0_u32));
        let (count, calls) = (Rc::clone(&slots), Rc::new(Cell::new(0)));
        let seen = Rc::clone(&calls);
        let start = world.now();
        let looping = world.reactor.every(interval, move |handle, skipped| {
            count.set(count.get() + 1 + u32::try_from(skipped).expect("few"));
            seen.set(seen.get() + 1);
            let passed = handle.now() - start;
            assert!(passed >= interval * count.get(), "slot {} at {passed:?}", count.get());
        });
        world.until("ten calls", || calls.get() >= 10);
        assert!(looping.stop());
        assert_eq!(world.reactor.stats().panics, 0);
    }

    // Line 17.
    fn a_long_call_skips_slots_and_the_next_is_told_how_many(driver) {
        let world = World::new(driver);
        let interval = Duration::from_millis(4);
        let told = Rc::new(RefCell::new(Vec::new()));
        let (calls, end) = (Rc::clone(&told), Rc::new(Cell::new(world.now())));
        let (set, machine) = (Rc::clone(&end), world.machine());
        let looping = world.reactor.every(interval, move |_, skipped| {
            calls.borrow_mut().push(skipped);
            if calls.borrow().len() == 1 {
                machine.spend(Duration::from_millis(30));
                set.set(machine.now());
            }
        });
        let started = world.now();
        world.until("two calls", || told.borrow().len() >= 2);
        looping.stop();
        assert_eq!(told.borrow()[0], 0);
        // The second call's slot comes after the end of the first, wherever the grid began exactly.
        let slot = told.borrow()[1] + 2;
        let passed = (end.get() - started).as_nanos() / interval.as_nanos();
        assert!(u128::from(slot) > passed, "slot {slot} is not after {passed}");
        assert!(told.borrow()[1] >= 5, "{:?}", told.borrow());
    }

    // Line 17.
    fn a_looping_call_waits_for_the_deferred_of_its_hook(driver) {
        let world = World::new(driver);
        let resolvers: Rc<RefCell<Vec<Resolver<(), String>>>> = Rc::default();
        let (calls, kept) = (Rc::new(Cell::new(0)), Rc::clone(&resolvers));
        let count = Rc::clone(&calls);
        let looping = world.reactor.every(Duration::from_millis(1), move |handle, _| {
            count.set(count.get() + 1);
            let (resolver, deferred) = Deferred::<(), String>::new(handle);
            kept.borrow_mut().push(resolver);
            deferred
        });
        world.until("the first call", || calls.get() == 1);
        world.run_for(Duration::from_millis(20));
        assert_eq!(calls.get(), 1, "called again before its Deferred fired");
        assert!(looping.is_running());
        resolvers.borrow_mut().pop().expect("the first").resolve(Ok(()));
        world.until("the second call", || calls.get() == 2);
        // Its failure ends the loop and its Deferred.
        let outcome = Rc::new(RefCell::new(None));
        let heard = Rc::clone(&outcome);
        looping.finished().on_done(move |_, result| {
            *heard.borrow_mut() = Some(result.map_err(|error| error.to_string()));
        });
        resolvers.borrow_mut().pop().expect("the second").resolve(Err("it broke".into()));
        world.until("the end", || outcome.borrow().is_some());
        assert_eq!(*outcome.borrow(), Some(Err("it broke".into())));
        assert!(!looping.is_running() && !looping.stop() && !looping.reset());
        world.run_for(Duration::from_millis(10));
        assert_eq!(calls.get(), 2);
    }

    // Line 17.
    fn a_looping_call_ends_with_an_error_that_its_hook_returns_or_a_resolver_that_it_drops(driver) {
        let world = World::new(driver);
        let end = |looping: &twistor::LoopingCall| {
            let outcome = Rc::new(RefCell::new(None));
            let heard = Rc::clone(&outcome);
            looping.finished().on_done(move |_, result| {
                *heard.borrow_mut() = Some(result.map_err(|error| error.to_string()));
            });
            world.until("the end", || outcome.borrow().is_some());
            outcome.take().expect("an end").expect_err("a failure")
        };
        let calls = Rc::new(Cell::new(0));
        let count = Rc::clone(&calls);
        let looping = world.reactor.every(Duration::from_millis(1), move |_, _| {
            count.set(count.get() + 1);
            if count.get() < 3 { Ok(()) } else { Err("enough") }
        });
        assert_eq!(end(&looping), "enough");
        assert_eq!(calls.get(), 3);
        let looping =
            world.reactor.every(Duration::from_millis(1), |handle, _| Deferred::<(), String>::new(handle).1);
        assert!(end(&looping).contains("dropped"));
    }

    // Line 17.
    fn a_looping_call_waits_for_the_task_of_its_hook_and_ends_with_its_failure(driver) {
        let world = World::new(driver);
        for kind in ["error", "panic", "cancelled"] {
            let calls = Rc::new(Cell::new(0));
            let (count, busy) = (Rc::clone(&calls), Rc::new(Cell::new(false)));
            let looping = world.reactor.every(Duration::from_millis(2), move |handle, _| {
                assert!(!busy.replace(true), "called again before its task has ended");
                count.set(count.get() + 1);
                let (call, busy) = (count.get(), Rc::clone(&busy));
                let task = handle.spawn(async move {
                    task::sleep(Duration::from_millis(5)).await;
                    busy.set(false);
                    match (call, kind) {
                        (1, _) => Ok(()),
                        (_, "panic") => panic!("on purpose"),
                        (_, "cancelled") => std::future::pending().await,
                        _ => Err("it broke"),
                    }
                });
                if call == 2 && kind == "cancelled" {
                    task.cancel();
                }
                task
            });
            let outcome = Rc::new(RefCell::new(None));
            let heard = Rc::clone(&outcome);
            looping.finished().on_done(move |_, result| {
                *heard.borrow_mut() = Some(result.map_err(|error| error.to_string()));
            });
            world.until("the end", || outcome.borrow().is_some());
            let text = outcome.take().expect("an end").expect_err("a failure");
            let expected = if kind == "error" { "it broke" } else { kind };
            assert!(text.contains(expected), "{kind}: {text}");
            assert_eq!((calls.get(), looping.is_running()), (2, false));
        }
    }

    // Lines 17 and 72.
    fn a_failure_that_comes_when_a_looping_call_was_stopped_is_logged(driver) {
        logged::keep();
        let world = World::new(driver);
        let slot: Rc<RefCell<Option<Resolver<(), String>>>> = Rc::default();
        let kept = Rc::clone(&slot);
        let looping = world.reactor.every(Duration::from_millis(1), move |handle, _| {
            let (resolver, deferred) = Deferred::<(), String>::new(handle);
            *kept.borrow_mut() = Some(resolver);
            deferred
        });
        world.until("the first call", || slot.borrow().is_some());
        assert!(looping.stop());
        slot.take().expect("it ran").errback("too late".to_owned());
        world.turns(2);
        let lines = logged::take();
        assert!(lines.len() == 1 && lines[0].contains("too late"), "{lines:?}");
    }

    // Line 17.
    fn a_looping_call_stopped_while_its_deferred_is_open_is_not_called_again(driver) {
        let world = World::new(driver);
        let slot: Rc<RefCell<Option<Resolver<(), String>>>> = Rc::default();
        let (calls, kept) = (Rc::new(Cell::new(0)), Rc::clone(&slot));
        let count = Rc::clone(&calls);
        let looping = world.reactor.every(Duration::from_millis(1), move |handle, _| {
            count.set(count.get() + 1);
            let (resolver, deferred) = Deferred::<(), String>::new(handle);
            *kept.borrow_mut() = Some(resolver);
            deferred
        });
        world.until("the first call", || calls.get() == 1);
        assert!(looping.stop());
        slot.borrow_mut().take().expect("it ran").resolve(Ok(()));
        world.run_for(Duration::from_millis(10));
        assert_eq!(calls.get(), 1);
    }

    // Line 17.
    fn a_looping_call_can_stop_itself_and_its_deferred_fires(driver) {
        let world = World::new(driver);
        let me: Rc<RefCell<Option<twistor::LoopingCall>>> = Rc::default();
        let (inside, calls) = (Rc::clone(&me), Rc::new(Cell::new(0)));
        let (count, ended) = (Rc::clone(&calls), Rc::new(Cell::new(false)));
        let looping = world.reactor.every(Duration::from_millis(1), move |_, _| {
            count.set(count.get() + 1);
            if count.get() == 3 {
                assert!(inside.borrow_mut().take().expect("kept").stop());
            }
        });
        *me.borrow_mut() = Some(looping.clone());
        let seen = Rc::clone(&ended);
        looping.finished().on_done(move |_, outcome| seen.set(outcome.is_ok()));
        world.until("the end", || ended.get());
        assert!(!looping.is_running() && !looping.stop());
        world.run_for(Duration::from_millis(10));
        assert_eq!(calls.get(), 3);
        assert_eq!(Rc::strong_count(&calls), 1, "its closure is dropped");
    }

    // Line 17.
    fn reset_starts_the_grid_over(driver) {
        let world = World::new(driver);
        let fired = Rc::new(Cell::new(None));
        let set = Rc::clone(&fired);
        let interval = Duration::from_millis(40);
        let looping = world.reactor.every(interval, move |handle, skipped| {
            if fired_first(handle, &set) {
                assert_eq!(skipped, 0);
            }
        });
        world.spend(Duration::from_millis(20));
        let reset = world.now();
        assert!(looping.reset());
        world.until("the first call", || fired.get().is_some());
        assert!(fired.get().expect("just seen") - reset >= interval);
        assert_eq!(world.reactor.stats().panics, 0);
    }
}

/// Notes when it was first called.
fn fired_first(handle: &Handle, at: &Cell<Option<Instant>>) -> bool {
    let first = at.get().is_none();
    if first {
        at.set(Some(handle.now()));
    }
    first
}
