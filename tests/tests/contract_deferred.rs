//! Chains of Deferreds: order, suspension, panics, errors that nobody took.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use twistor::sync::Queue;
use twistor::{Deferred, Handle, Interruption, Protocol, Resolver, ShutdownPhase, Transport};
use twistor_tests::outcome::outcome;
use twistor_tests::{Driver, World, contract, logged};

type Notes = Rc<RefCell<Vec<String>>>;

fn note(notes: &Notes, text: impl Into<String>) {
    notes.borrow_mut().push(text.into());
}

fn pair(world: &World) -> (Resolver<u32, String>, Deferred<u32, String>) {
    Deferred::new(&world.reactor)
}

/// The outcome, which must come.
struct Quiet;

impl Protocol for Quiet {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

contract! {
    // Line 70.
    fn links_run_in_order_each_with_the_outcome_before(driver) {
        let world = World::new(driver);
        let notes = Notes::default();
        let (resolver, deferred) = pair(&world);
        let (one, two, three, four) = (notes.clone(), notes.clone(), notes.clone(), notes.clone());
        let chain = deferred
            .map(move |value| {
                note(&one, format!("map {value}"));
                value + 1
            })
            .and_then(move |_, value| {
                note(&two, format!("and_then {value}"));
                Err::<u32, _>(format!("no {value}"))
            })
            .map(|_| -> u32 { unreachable!("an error passes by") })
            .or_else(move |_, error| {
                note(&three, format!("or_else {error}"));
                Ok::<_, String>(7)
            })
            .or_else(|_, _| -> Result<u32, String> { unreachable!("a value passes by") })
            .then(move |_, outcome| {
                note(&four, format!("then {outcome:?}"));
                outcome.map(u64::from)
            })
            .map_err(|error| format!("not {error}"));
        assert!(resolver.callback(1));
        assert_eq!(outcome(&world, chain), Ok(7));
        assert_eq!(notes.take(), ["map 1", "and_then 2", "or_else no 2", "then Ok(7)"]);
    }

    // Line 70.
    fn nothing_runs_inside_the_call_that_resolves_or_that_adds(driver) {
        let world = World::new(driver);
        let ran = Rc::new(Cell::new(0));
        let count = |by: u32| {
            let ran = Rc::clone(&ran);
            move |value: u32| {
                ran.set(ran.get() + by);
                value
            }
        };
        let (resolver, deferred) = pair(&world);
        let deferred = deferred.map(count(1));
        resolver.callback(1);
        assert_eq!(ran.get(), 0);
        world.turns(2);
        assert_eq!(ran.get(), 1);
        let deferred = deferred.map(count(10));
        assert_eq!(ran.get(), 1, "it has fired, and yet");
        world.turns(2);
        assert_eq!(ran.get(), 11);
        let ready = Deferred::ready(&world.reactor, Ok::<_, String>(3)).map(count(100));
        assert_eq!(ran.get(), 11);
        assert_eq!(outcome(&world, ready), Ok(3));
        assert_eq!(outcome(&world, deferred), Ok(1));
        assert_eq!(ran.get(), 111);
    }

    // Line 71.
    fn a_link_that_returns_a_deferred_suspends_those_after_it(driver) {
        let world = World::new(driver);
        let (inner, waited) = pair(&world);
        let ran = Rc::new(Cell::new(false));
        let after = Rc::clone(&ran);
        let (resolver, deferred) = pair(&world);
        let chain = deferred.and_then(move |_, _| waited).map(move |value| {
            after.set(true);
            value * 2
        });
        resolver.callback(1);
        world.turns(5);
        assert!(!ran.get());
        inner.callback(21);
        assert_eq!(outcome(&world, chain), Ok(42));
        // One that has fired suspends nothing.
        let handle = world.reactor.clone();
        let chain = Deferred::ready(&handle, Ok::<_, String>(1))
            .and_then(|handle, value| Deferred::ready(handle, Ok(value + 1)))
            .and_then(|handle, value| Deferred::<u32, _>::ready(handle, Err(format!("no {value}"))))
            .or_else(|handle, error| Deferred::ready(handle, Err::<u32, _>(error + "!")));
        assert_eq!(outcome(&world, chain), Err("no 2!".to_owned()));
    }

    // Line 8, 70.
    fn a_link_that_panics_is_logged_and_fails_the_chain(driver) {
        logged::keep();
        let world = World::new(driver);
        let chain = Deferred::ready(&world.reactor, Ok::<u32, Interruption>(1))
            .map(|_| -> u32 { panic!("out of {}", "order") });
        assert_eq!(outcome(&world, chain), Err(Interruption::Panicked("out of order".into())));
        let lines = logged::take();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("contract_deferred.rs:") && lines[0].contains("out of order"), "{lines:?}");
        assert_eq!(world.reactor.stats().panics, 1);
        // A hook at the end, too; the next goes on.
        Deferred::ready(&world.reactor, Ok::<u32, String>(1)).on_done(|_, _| panic!("again"));
        assert_eq!(outcome(&world, Deferred::ready(&world.reactor, Ok::<u32, String>(2))), Ok(2));
        assert_eq!(world.reactor.stats().panics, 2);
    }

    // Line 72.
    fn an_error_that_nobody_took_is_logged_with_where_it_was_made(driver) {
        logged::keep();
        let world = World::new(driver);
        // Dropped with the error in it.
        let (resolver, deferred) = pair(&world);
        resolver.errback("it broke".to_owned());
        drop(deferred);
        let lines = logged::take();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("\"it broke\"") && lines[0].contains("contract_deferred.rs:"), "{lines:?}");
        // Dropped ahead of the error; the place is that of the last link.
        let (resolver, deferred) = pair(&world);
        let line = line!() + 1;
        drop(deferred.map(|value| value + 1));
        resolver.errback("late".to_owned());
        world.turns(2);
        let lines = logged::take();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains(&format!("contract_deferred.rs:{line}:")), "{lines:?}");
        // Taken, or a value, or never asked for: nothing.
        let (resolver, deferred) = pair(&world);
        deferred.on_done(|_, outcome| drop(outcome));
        resolver.errback("taken".to_owned());
        let (resolver, deferred) = pair(&world);
        drop(deferred);
        resolver.callback(1);
        let (resolver, deferred) = pair(&world);
        drop(deferred);
        drop(resolver);
        world.turns(2);
        assert_eq!(logged::take(), Vec::<String>::new());
    }

    // Lines 9, 72.
    fn what_tasks_wait_for_at_the_end_of_the_reactor_is_no_error_that_nobody_took(driver) {
        logged::keep();
        let world = World::new(driver);
        let queue = Queue::<u32>::new(&world.reactor, 1);
        let (resolver, deferred) = pair(&world);
        world.reactor.spawn(async move { queue.get().await }).detach();
        world.reactor.spawn(deferred).detach();
        let port = world.reactor.listen("tcp:0:interface=127.0.0.1", move |_| {
            let _kept = &resolver;
            Quiet
        });
        assert!(port.is_ok());
        world.turns(2);
        drop(world.end());
        assert_eq!(logged::take(), Vec::<String>::new());
    }

    // Line 72.
    fn the_crates_own_deferreds_say_where_they_were_asked_for(driver) {
        logged::keep();
        let world = World::new(driver);
        let line = line!() + 1;
        drop(world.reactor.connect("nonsense", |_| Quiet));
        world.turns(3);
        let lines = logged::take();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains(&format!("contract_deferred.rs:{line}:")), "{lines:?}");
        let line = line!() + 1;
        drop(world.reactor.read_file("/there/is/no/such/file"));
        let mut lines = Vec::new();
        world.until("it is logged", || {
            lines.extend(logged::take());
            !lines.is_empty()
        });
        assert!(lines[0].contains(&format!("contract_deferred.rs:{line}:")), "{lines:?}");
    }

    // Line 72.
    fn an_error_whose_debug_or_destructor_panics_does_no_harm(driver) {
        struct Bad;
        impl From<Interruption> for Bad {
            fn from(_: Interruption) -> Self {
                Self
            }
        }
        impl std::fmt::Debug for Bad {
            fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                panic!("no text")
            }
        }
        impl Drop for Bad {
            fn drop(&mut self) {
                if !std::thread::panicking() {
                    panic!("no end");
                }
            }
        }
        let world = World::new(driver);
        let (resolver, deferred) = Deferred::<(), Bad>::new(&world.reactor);
        drop(deferred);
        resolver.errback(Bad);
        let (resolver, deferred) = Deferred::<(), Bad>::new(&world.reactor);
        drop(resolver);
        drop(deferred);
        assert!(world.reactor.stats().panics >= 3);
        assert_eq!(outcome(&world, Deferred::ready(&world.reactor, Ok::<u32, String>(2))), Ok(2));
    }

    // A dropped resolver.
    fn a_resolver_that_is_dropped_fails_the_deferred(driver) {
        let world = World::new(driver);
        let (resolver, deferred) = Deferred::<u32, Interruption>::new(&world.reactor);
        drop(resolver);
        assert_eq!(outcome(&world, deferred.map(|value| value + 1)), Err(Interruption::Dropped));
        let (resolver, deferred) = Deferred::<(), Box<dyn Error>>::new(&world.reactor);
        world.reactor.call_soon(move |_| drop(resolver));
        assert!(outcome(&world, deferred).expect_err("dropped").to_string().contains("dropped"));
    }

    // Line 14, with a dropped resolver.
    fn a_shutdown_trigger_whose_resolver_is_dropped_does_not_hold_the_shutdown(driver) {
        let world = World::new(driver);
        world.reactor.on_shutdown(ShutdownPhase::Before, |handle| Deferred::<(), String>::new(handle).1);
        world.reactor.stop();
        let mut turns = 0;
        while world.turn(Duration::from_secs(1)) {
            turns += 1;
            assert!(turns < 100, "it does not stop");
        }
    }

    // A post to a connection that is gone.
    fn a_post_that_drops_a_resolver_fails_who_waits_for_it(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Quiet);
        let connection = outcome(&world, world.reactor.connect(format!("tcp:{}", port.local_addr()), |_| Quiet))
            .expect("a connection");
        connection.abort_connection();
        world.turns(3);
        let (resolver, deferred) = pair(&world);
        assert!(!connection.post(move |_, _| assert!(resolver.callback(1))));
        assert!(outcome(&world, deferred).is_err());
    }

    // Line 70.
    fn nothing_is_called_once_the_reactor_is_gone(driver) {
        logged::keep();
        let world = World::new(driver);
        let never = |_: u32| -> u32 { unreachable!("there is no loop") };
        let (resolver, first) = pair(&world);
        let (kept, second) = pair(&world);
        let (_open, third) = pair(&world);
        first.map(never).on_done(|_, _| unreachable!("there is no loop"));
        second.map(never).on_done(move |_, _| drop(resolver));
        let third = third.map(never);
        world.reactor.call_soon(move |_| drop(kept));
        drop(world);
        assert!(!third.cancel(), "it has ended");
        drop(third);
        assert_eq!(logged::take(), Vec::<String>::new());
    }

    // Line 71.
    fn a_link_that_returns_its_own_deferred_fails_instead_of_waiting_for_itself(driver) {
        logged::keep();
        let world = World::new(driver);
        let (resolver, first) = pair(&world);
        let slot: Rc<RefCell<Option<Deferred<u32, String>>>> = Rc::default();
        let own = Rc::clone(&slot);
        let link = first.and_then(move |_, _| own.take().expect("the link's own Deferred"));
        let canceller = link.canceller();
        *slot.borrow_mut() = Some(link);
        resolver.callback(1);
        world.turns(2);
        assert!(!canceller.cancel());
        let lines = logged::take();
        assert!(lines.iter().any(|line| line.contains("for itself to wait for")), "{lines:?}");
    }

    // Line 71.
    fn links_that_wait_for_each_other_in_a_circle_can_be_asked_to_end(driver) {
        for length in 1..6 {
            let world = World::new(driver);
            let (resolver, first) = pair(&world);
            let slot: Rc<RefCell<Option<Deferred<u32, String>>>> = Rc::default();
            let own = Rc::clone(&slot);
            let mut last = first.and_then(move |_, _| own.take().expect("the last of the circle"));
            let mut cancellers = vec![last.canceller()];
            for _ in 0..length {
                last = last.map(|value| value + 1);
                cancellers.push(last.canceller());
            }
            *slot.borrow_mut() = Some(last);
            resolver.callback(1);
            world.turns(2);
            assert!(cancellers.iter().all(|canceller| !canceller.cancel()));
        }
    }

    // Lines 7 and 70.
    fn a_link_whose_turn_a_stop_has_taken_is_dropped_and_says_so_when_the_loop_runs_again(driver) {
        logged::keep();
        let world = World::new(driver);
        let never = |_: u32| -> u32 { unreachable!("its turn has not come") };
        let kept = Rc::new(RefCell::new(Vec::new()));
        let keep = Rc::clone(&kept);
        world.reactor.on_shutdown(ShutdownPhase::After, move |handle| {
            let mut kept = keep.borrow_mut();
            kept.push(Deferred::<u32, String>::ready(handle, Ok(1)).map(never));
            kept.push(Deferred::<u32, String>::ready(handle, Ok(2)).map(never).map(never));
            let (_, cancelled) = Deferred::with_canceller(handle, |_, _| unreachable!("its turn has not come"));
            cancelled.cancel();
            kept.push(cancelled);
            drop(Deferred::<u32, String>::ready(handle, Ok(3)).map(never));
        });
        world.reactor.stop();
        while world.turn(Duration::from_millis(1)) {}
        let dropped = Interruption::Dropped.to_string();
        let ends: Vec<_> = kept.take().into_iter().map(|deferred| outcome(&world, deferred)).collect();
        assert_eq!(ends[..2], [Err(dropped.clone()), Err(dropped)]);
        assert!(ends[2].is_err());
        assert_eq!(logged::take(), Vec::<String>::new());
    }

    // Lines 31, 34, 35 and 72.
    fn what_connection_lost_tells_is_no_error_in_the_log(driver) {
        logged::keep();
        let world = World::new(driver);
        let (transport, _peer) = world.pair(Quiet);
        let (target, _other) = world.pair(Quiet);
        transport.write(&vec![0; 1 << 24]);
        drop(transport.flushed());
        let _open = transport.flushed();
        drop(target.pipe(&transport));
        transport.abort_connection();
        world.turns(3);
        drop(transport.flushed());
        assert_eq!(logged::take(), Vec::<String>::new());
        // What goes into a chain is of interest to somebody.
        drop(transport.flushed().map(|()| 1));
        world.turns(3);
        assert_eq!(logged::take().len(), 1);
    }

    // Line 70.
    fn a_deferred_reaches_into_a_protocol(driver) {
        #[derive(Default)]
        struct Counting(u32, bool);
        impl Protocol for Counting {
            fn data_received(&mut self, _: &Transport, _: &[u8]) {}
        }
        let world = World::new(driver);
        let (transport, _peer) = world.pair(Counting::default());
        let (resolver, deferred) = pair(&world);
        let heard = Rc::new(Cell::new(0));
        let hearing = Rc::clone(&heard);
        deferred.map(|value| value + 1).deliver(&transport, move |it: &mut Counting, _, outcome| {
            (it.0, it.1) = (outcome.expect("a value"), true);
            hearing.set(it.0);
        });
        resolver.callback(1);
        world.until("it is heard", || heard.get() == 2);
    }

    // Line 9, 71.
    fn links_that_wait_for_each_other_in_a_circle_are_gone_with_the_reactor(driver) {
        for length in [1, 2, 3, 1000] {
            let world = World::new(driver);
            let alive = Rc::new(());
            let mut slots = Vec::new();
            let mut resolvers = Vec::new();
            // Each link waits for the one that is made after it, and the last for the first.
            let slot = || Rc::new(RefCell::new(None::<Deferred<u32, String>>));
            slots.resize_with(length, slot);
            for place in 0..length {
                let (resolver, first) = pair(&world);
                let (next, held) = (Rc::clone(&slots[(place + 1) % length]), Rc::clone(&alive));
                let last = first.and_then(move |_, _| next.take().expect("the next")).map(move |value| {
                    let _held = &held;
                    value
                });
                *slots[place].borrow_mut() = Some(last);
                resolvers.push(resolver);
            }
            drop(slots);
            for resolver in resolvers {
                resolver.callback(1);
            }
            world.turns(3);
            assert_eq!(Rc::strong_count(&alive), length + 1, "they wait");
            drop(world);
            assert_eq!(Rc::strong_count(&alive), 1, "a circle of {length}");
        }
    }

    // Lines 9 and 70.
    fn a_hook_that_owns_what_would_have_it_called_is_gone_with_the_reactor(driver) {
        logged::keep();
        let world = World::new(driver);
        let alive = Rc::new(());
        let never = |held: &Rc<()>| {
            let held = Rc::clone(held);
            move || -> u32 { unreachable!("nobody decides {held:?}") }
        };
        // The hook, a link, and a canceller that own the resolver of their chain.
        let (resolver, deferred) = pair(&world);
        let hook = never(&alive);
        deferred.on_done(move |_, _| drop((resolver, hook())));
        let (resolver, deferred) = pair(&world);
        let link = never(&alive);
        drop(deferred.map(|value| value + 1).map(move |_| (resolver, link()).1));
        let (own, canceller) = (Rc::new(RefCell::new(None)), never(&alive));
        let owned = Rc::clone(&own);
        let (resolver, _) = Deferred::<u32, String>::with_canceller(&world.reactor, move |_, _| {
            drop((owned, canceller()));
        });
        *own.borrow_mut() = Some(resolver);
        drop(own);
        // A hook that owns the Deferred of its own link.
        let own = Rc::new(RefCell::new(None));
        let (resolver, deferred) = pair(&world);
        let (owned, hook, kept) = (Rc::clone(&own), never(&alive), RefCell::new(Some(resolver)));
        *own.borrow_mut() = Some(deferred.map(move |_| (owned, hook(), kept.take()).1));
        drop(own);
        // Two whose hooks own the resolver of each other.
        let ((left, from_left), (right, from_right)) = (pair(&world), pair(&world));
        let (hook, other) = (never(&alive), never(&alive));
        from_left.on_done(move |_, _| drop((right, hook())));
        from_right.on_done(move |_, _| drop((left, other())));
        // And what is made of several Deferreds.
        let ((one, first), (other, second)) = (pair(&world), pair(&world));
        let hook = never(&alive);
        Deferred::gather(&world.reactor, [first.shield(), second.timeout(Duration::from_secs(1))])
            .on_done(move |_, _| drop((one, other, hook())));
        let ((one, first), hook) = (pair(&world), never(&alive));
        let (pause, first) = first.pausable();
        Deferred::as_completed(&world.reactor, [first])
            .for_each(move |_, _, _| {
                let _ = (&one, &pause, hook());
            })
            .on_done(|_, _| unreachable!("it does not end"));
        world.turns(3);
        assert_eq!(Rc::strong_count(&alive), 9);
        drop(world);
        assert_eq!(Rc::strong_count(&alive), 1);
        assert_eq!(logged::take(), Vec::<String>::new());
    }

    // Lines 9 and 70.
    fn hooks_that_own_handles_and_deferreds_are_gone_with_the_reactor(driver) {
        let world = World::new(driver);
        let alive = Rc::new(());
        let mut resolvers = Vec::new();
        let mut before = pair(&world).1;
        for _ in 0..1000 {
            let (resolver, deferred) = pair(&world);
            let (handle, held) = (world.reactor.clone(), Rc::clone(&alive));
            let owned = std::mem::replace(&mut before, deferred.map(|value| value + 1));
            let (next, waited) = pair(&world);
            waited.on_done(move |_, _| drop((handle, owned, held)));
            resolvers.push((resolver, next));
        }
        let held = Rc::clone(&alive);
        before.on_done(move |_, _| drop((resolvers, held)));
        world.turns(2);
        assert_eq!(Rc::strong_count(&alive), 1002);
        drop(world);
        assert_eq!(Rc::strong_count(&alive), 1);
    }

    // Line 9.
    fn a_chain_that_outlives_its_reactor_is_dropped_by_it(driver) {
        let world = World::new(driver);
        let handle = world.reactor.clone();
        let alive = Rc::new(());
        let held = || {
            let held = Rc::clone(&alive);
            move |_: &Handle, _: Result<u32, String>| -> Result<u32, String> { unreachable!("{held:?}") }
        };
        let (resolver, deferred) = pair(&world);
        let mut chain = deferred.then(held()).then(held());
        drop(world);
        assert_eq!(Rc::strong_count(&alive), 1, "it waits in vain");
        assert!(!resolver.is_wanted());
        assert!(!resolver.callback(1));
        let mut context = Context::from_waker(Waker::noop());
        let dropped = Poll::Ready(Err(Interruption::Dropped.to_string()));
        assert_eq!(Pin::new(&mut chain).poll(&mut context), dropped);
        // What is made after the end has nobody to run it.
        let (resolver, deferred) = Deferred::new(&handle);
        let hook = held();
        deferred.on_done(move |handle, outcome| drop((hook(handle, outcome), resolver)));
        let (resolver, deferred) = Deferred::new(&handle);
        let hook = held();
        let mut chain = deferred.then(move |handle, outcome| (hook(handle, outcome), resolver).0);
        assert_eq!(Pin::new(&mut chain).poll(&mut context), dropped);
        assert_eq!(Rc::strong_count(&alive), 1);
    }

    // Line 9.
    fn destructors_at_the_end_may_ask_for_more(driver) {
        /// Makes another hook that owns its resolver, `0` times more.
        struct More(u32, Handle, Rc<Cell<u32>>);
        impl Drop for More {
            fn drop(&mut self) {
                self.2.set(self.2.get() + 1);
                if self.0 > 0 {
                    let (resolver, deferred) = Deferred::<u32, String>::new(&self.1);
                    let more = More(self.0 - 1, self.1.clone(), Rc::clone(&self.2));
                    deferred.on_done(move |_, _| drop((resolver, more)));
                }
                assert!(self.0 != 2, "one of them panics");
            }
        }
        let world = World::new(driver);
        let dropped = Rc::new(Cell::new(0));
        drop(More(5, world.reactor.clone(), Rc::clone(&dropped)));
        assert_eq!(dropped.get(), 1);
        drop(world);
        assert_eq!(dropped.get(), 6);
    }
}

// Line 70.
#[test]
fn a_chain_can_be_extended_and_cancelled_from_its_own_hooks() {
    let world = World::new(Driver::Simulated);
    let (resolver, deferred) = pair(&world);
    let slot: Rc<RefCell<Option<Deferred<u32, String>>>> = Rc::default();
    let (own, result) = (Rc::clone(&slot), Rc::new(Cell::new(None)));
    let seen = Rc::clone(&result);
    let chain = deferred.map(move |value| {
        let rest = own.take().expect("the chain");
        let canceller = rest.canceller();
        rest.on_done(move |_, outcome| seen.set(Some(outcome)));
        assert!(canceller.cancel(), "it is this very link that is cancelled");
        assert!(!canceller.cancel());
        value
    });
    *slot.borrow_mut() = Some(chain);
    resolver.callback(1);
    world.turns(3);
    assert_eq!(result.take(), Some(Err("cancelled".to_owned())));
}
