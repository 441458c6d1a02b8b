//! Cancelling Deferreds: cancellers, late results, chains, the crate's own.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use twistor::{Connection, Deferred, Handle, Interruption, Protocol, Resolver, Transport};
use twistor_tests::outcome::{outcome, watch};
use twistor_tests::{Driver, World, contract, logged};

type Made = (Resolver<u32, Interruption>, Deferred<u32, Interruption>);

fn with_canceller(
    world: &World,
    canceller: impl FnOnce(&Handle, Resolver<u32, Interruption>) + 'static,
) -> Made {
    Deferred::with_canceller(&world.reactor, canceller)
}

contract! {
    // Line 73.
    fn without_a_canceller_the_outcome_is_cancelled_and_late_results_are_swallowed(driver) {
        logged::keep();
        let world = World::new(driver);
        let (resolver, deferred) = Deferred::<u32, Interruption>::new(&world.reactor);
        assert!(resolver.is_wanted());
        assert!(deferred.cancel());
        assert!(!deferred.cancel() && !resolver.is_wanted());
        assert!(!resolver.errback(Interruption::Empty), "a late result");
        assert_eq!(outcome(&world, deferred), Err(Interruption::Cancelled));
        // The owner knows why: nothing is logged.
        let (_resolver, deferred) = Deferred::<u32, Interruption>::new(&world.reactor);
        deferred.cancel();
        drop(deferred.map(|value| value + 1));
        let (_resolver, deferred) = Deferred::<u32, Interruption>::new(&world.reactor);
        let canceller = deferred.canceller();
        drop(deferred);
        canceller.cancel();
        world.turns(3);
        assert_eq!(logged::take().len(), 1, "only the one that went into a link uncancelled");
    }

    // Line 73, rule 3.
    fn a_canceller_is_called_once_from_the_loop(driver) {
        let world = World::new(driver);
        let calls = Rc::new(Cell::new(0));
        let called = Rc::clone(&calls);
        let (resolver, deferred) = with_canceller(&world, move |_, _| called.set(called.get() + 1));
        assert!(deferred.cancel());
        assert_eq!(calls.get(), 0, "not inside the call");
        assert!(!deferred.cancel());
        assert!(!resolver.callback(1), "swallowed from now on");
        assert_eq!(outcome(&world, deferred), Err(Interruption::Cancelled));
        assert_eq!(calls.get(), 1);
    }

    // Line 73.
    fn a_canceller_may_decide_itself_now_or_later(driver) {
        let world = World::new(driver);
        let (resolver, deferred) = with_canceller(&world, |_, resolver| { resolver.callback(9); });
        deferred.cancel();
        drop(resolver);
        assert_eq!(outcome(&world, deferred), Ok(9));
        let (_resolver, deferred) = with_canceller(&world, |handle, resolver| {
            handle.call_later(Duration::from_millis(3), move |_| { resolver.errback(Interruption::TimedOut); });
        });
        deferred.cancel();
        let seen = watch(deferred);
        world.turns(1);
        assert!(seen.borrow().is_none());
        world.until("it comes later", || seen.borrow().is_some());
        assert_eq!(seen.take(), Some(Err(Interruption::TimedOut)));
    }

    // Line 73.
    fn a_canceller_that_panics_still_leaves_it_cancelled(driver) {
        let world = World::new(driver);
        let (_resolver, deferred) = with_canceller(&world, |_, _resolver| panic!("no"));
        deferred.cancel();
        assert_eq!(outcome(&world, deferred), Err(Interruption::Cancelled));
        assert_eq!(world.reactor.stats().panics, 1);
    }

    // Line 73.
    fn a_canceller_is_not_called_after_the_outcome_nor_without_a_cancellation(driver) {
        let world = World::new(driver);
        let witness = Rc::new(());
        let held = Rc::clone(&witness);
        let (resolver, deferred) = with_canceller(&world, move |_, _| unreachable!("{held:?}"));
        resolver.callback(1);
        assert_eq!(Rc::strong_count(&witness), 1, "it is dropped as soon as it is of no use");
        assert!(!deferred.cancel());
        assert_eq!(outcome(&world, deferred), Ok(1));
        let (resolver, deferred) = with_canceller(&world, |_, _| unreachable!("nobody cancels"));
        drop((resolver, deferred));
        world.turns(3);
    }

    // Line 73.
    fn cancelling_a_chain_cancels_what_it_waits_for_and_the_rest_hears_of_it(driver) {
        let world = World::new(driver);
        let (_resolver, deferred) = Deferred::<u32, Interruption>::new(&world.reactor);
        let chain = deferred.map(|_| -> u32 { unreachable!() }).or_else(|_, error| {
            assert_eq!(error, Interruption::Cancelled);
            Ok::<_, Interruption>(5)
        });
        assert!(chain.cancel());
        assert!(!chain.cancel());
        assert_eq!(outcome(&world, chain), Ok(5), "recovered");
    }

    // Line 73.
    fn cancelling_a_chain_goes_into_the_deferred_that_a_link_waits_for(driver) {
        let world = World::new(driver);
        let calls = Rc::new(Cell::new(0));
        let called = Rc::clone(&calls);
        let chain = Deferred::ready(&world.reactor, Ok::<u32, Interruption>(1))
            .and_then(move |handle, _| {
                let (resolver, inner) = Deferred::<u32, Interruption>::with_canceller(handle, move |_, _| {
                    called.set(called.get() + 1);
                });
                handle.call_later(Duration::from_secs(100), move |_| drop(resolver));
                inner.map(|value| value + 1)
            })
            .map(|value| value + 1);
        world.turns(3);
        assert!(chain.cancel());
        assert_eq!(outcome(&world, chain), Err(Interruption::Cancelled));
        assert_eq!(calls.get(), 1);
    }

    // Line 73.
    fn a_link_cancelled_before_it_runs_still_runs_and_what_it_returns_is_cancelled(driver) {
        let world = World::new(driver);
        let ran = Rc::new(Cell::new(0));
        let (one, two) = (Rc::clone(&ran), Rc::clone(&ran));
        let chain = Deferred::ready(&world.reactor, Ok::<u32, Interruption>(1)).map(move |value| {
            one.set(one.get() + 1);
            value
        });
        assert!(chain.cancel() && !chain.cancel());
        assert_eq!(outcome(&world, chain), Err(Interruption::Cancelled));
        let chain = Deferred::ready(&world.reactor, Ok::<u32, Interruption>(1)).and_then(move |handle, _| {
            two.set(two.get() + 10);
            let (resolver, inner) = Deferred::<u32, Interruption>::with_canceller(handle, |_, resolver| {
                resolver.callback(33);
            });
            drop(handle.call_later(Duration::from_secs(100), move |_| drop(resolver)));
            inner
        });
        assert!(chain.cancel());
        assert_eq!(outcome(&world, chain), Ok(33), "what the inner canceller decided");
        assert_eq!(ran.get(), 11);
    }

    // Line 73: an answer that has come already is no answer after a cancellation.
    fn a_job_that_is_cancelled_is_cancelled_at_whatever_moment(driver) {
        let world = World::new(driver);
        for turns in 0..12 {
            let job = world.reactor.defer_to_file_thread(|| Ok(1));
            let canceller = job.canceller();
            let seen = watch(job);
            for _ in 0..turns {
                world.turn(Duration::from_micros(200));
            }
            let is_cancelled = canceller.cancel();
            world.until("it ends", || seen.borrow().is_some());
            let result = seen.take().expect("ended");
            assert_eq!(result.is_err(), is_cancelled, "after {turns} turns: {result:?}");
            let name = world.reactor.resolve("localhost");
            let canceller = name.canceller();
            let seen = watch(name);
            for _ in 0..turns {
                world.turn(Duration::from_micros(200));
            }
            let is_cancelled = canceller.cancel();
            world.until("it ends", || seen.borrow().is_some());
            let is_ok = seen.take().expect("ended").is_ok();
            assert!(!(is_ok && is_cancelled), "after {turns} turns");
        }
    }

    // Line 73.
    fn a_canceller_that_is_still_queued_at_the_end_is_not_called(driver) {
        let world = World::new(driver);
        let (_resolver, deferred) = with_canceller(&world, |_, _| unreachable!("there is no loop"));
        deferred.cancel();
        deferred.on_done(|_, _| unreachable!("there is no loop"));
        drop(world);
    }
}

/// Asks one thing after the other; the server echoes.
#[derive(Default)]
struct Client(Option<Resolver<(), String>>);

impl Protocol for Client {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {
        if let Some(resolver) = self.0.take() {
            resolver.callback(());
        }
    }
}

/// Says something on the connection; gives the connection back when the answer comes. Cancelled, it ends it.
fn say(connection: Connection<Client>, text: &'static [u8]) -> Deferred<Connection<Client>, String> {
    let transport = connection.transport().clone();
    let (resolver, answer) =
        Deferred::with_canceller(connection.reactor(), move |_, _| transport.abort_connection());
    connection.post(move |client, transport| {
        client.0 = Some(resolver);
        transport.write(text);
    });
    answer.map(move |()| connection)
}

// Line 73: cancel at every pass of connect, handshake, request.
#[test]
fn a_conversation_cancelled_at_any_pass_ends_once_and_leaves_no_connection() {
    struct Echo;
    impl Protocol for Echo {
        fn data_received(&mut self, transport: &Transport, data: &[u8]) {
            transport.write(data);
        }
    }
    let mut completed = 0;
    for passes in 0..30 {
        let world = World::new(Driver::Simulated);
        let port = world.listen(|_| Echo);
        let witness = Rc::new(());
        let (one, two, three) = (Rc::clone(&witness), Rc::clone(&witness), Rc::clone(&witness));
        let chain = world
            .reactor
            .connect(format!("tcp:{}", port.local_addr()), |_| Client::default())
            .map_err(|error| error.to_string())
            .and_then(move |_, connection| {
                drop(one);
                say(connection, b"hello")
            })
            .and_then(move |_, connection| {
                drop(two);
                say(connection, b"request")
            })
            .map(move |connection| {
                drop(three);
                connection.lose_connection();
            });
        let canceller = chain.canceller();
        let ends = Rc::new(RefCell::new(Vec::new()));
        let ending = Rc::clone(&ends);
        chain.on_done(move |_, outcome| ending.borrow_mut().push(outcome.is_ok()));
        world.turns(passes);
        let is_cancelled = canceller.cancel();
        world.run_for(Duration::from_secs(2));
        assert_eq!(ends.take(), [!is_cancelled], "after {passes} passes");
        completed += usize::from(!is_cancelled);
        let stats = world.reactor.stats();
        assert_eq!((stats.connections, stats.attempts, stats.timers), (0, 0, 0), "after {passes} passes");
        assert_eq!(Rc::strong_count(&witness), 1);
    }
    assert!((1..30).contains(&completed), "{completed} were over when they were cancelled");
}

// Line 73: cancel at every pass of a chain of steps; nothing leaks, nothing fires twice.
#[test]
fn a_chain_cancelled_at_any_pass_ends_once_and_keeps_nothing() {
    for passes in 0..20 {
        let world = World::new(Driver::Simulated);
        let witness = Rc::new(());
        let step = |kept: Rc<()>| {
            move |handle: &Handle, value: u32| {
                let (resolver, later) = Deferred::<u32, Interruption>::new(handle);
                let inside = Rc::clone(&kept);
                handle.call_later(Duration::from_micros(150), move |_| {
                    let _inside = inside;
                    resolver.callback(value + 1);
                });
                later
            }
        };
        let chain = Deferred::ready(&world.reactor, Ok::<u32, Interruption>(0))
            .and_then(step(Rc::clone(&witness)))
            .and_then(step(Rc::clone(&witness)))
            .and_then(step(Rc::clone(&witness)));
        let canceller = chain.canceller();
        let ends = Rc::new(Cell::new(0));
        let (counted, result) = (Rc::clone(&ends), Rc::new(Cell::new(None)));
        let kept = Rc::clone(&result);
        chain.on_done(move |_, outcome| {
            counted.set(counted.get() + 1);
            kept.set(Some(outcome));
        });
        world.turns(passes);
        let is_cancelled = canceller.cancel();
        world.run_for(Duration::from_secs(1));
        assert_eq!(ends.get(), 1);
        let result = result.take().expect("an end");
        assert_eq!(
            result,
            if is_cancelled { Err(Interruption::Cancelled) } else { Ok(3) },
            "{passes} passes"
        );
        assert_eq!(Rc::strong_count(&witness), 1);
    }
}
