//! Several Deferreds as one, and limits on waiting: gather, race, any, as completed, time-outs, pauses,
//! shields.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use twistor::{Deferred, Interruption, Resolver, Task, task};
use twistor_tests::outcome::{Outcome, outcome, watch};
use twistor_tests::{Driver, World, contract, logged};

const HOUR: Duration = Duration::from_secs(3600);

type Number = Deferred<u32, Interruption>;
fn end<T: 'static>(world: &World, task: Task<T>) -> Result<T, Interruption> {
    let slot = Outcome::default();
    let filled = Rc::clone(&slot);
    task.on_done(move |_, outcome| *filled.borrow_mut() = Some(outcome));
    world.until("the task ends", || slot.borrow().is_some());
    slot.take().expect("it came")
}

fn several<const N: usize>(world: &World) -> ([Option<Resolver<u32, Interruption>>; N], [Number; N]) {
    let mut resolvers = [const { None }; N];
    let deferreds = std::array::from_fn(|n| {
        let (resolver, deferred) = Deferred::new(&world.reactor);
        resolvers[n] = Some(resolver);
        deferred
    });
    (resolvers, deferreds)
}

/// Decides one of them; whether it was still wanted.
fn decide(resolver: &mut Option<Resolver<u32, Interruption>>, outcome: Result<u32, Interruption>) -> bool {
    resolver.take().expect("not decided yet").resolve(outcome)
}

contract! {
    // Line 74.
    fn gather_brings_the_values_in_the_order_of_the_inputs(driver) {
        let world = World::new(driver);
        let (mut resolvers, inputs) = several::<3>(&world);
        let gathered = watch(Deferred::gather(&world.reactor, inputs));
        for n in [2, 0, 1] {
            assert!(gathered.borrow().is_none());
            assert!(decide(&mut resolvers[n], Ok(n as u32)));
            world.turns(2);
        }
        world.until("it is there", || gathered.borrow().is_some());
        assert_eq!(gathered.take(), Some(Ok(vec![0, 1, 2])));
    }

    // Line 74.
    fn the_first_error_ends_a_gather_and_cancels_the_others(driver) {
        logged::keep();
        let world = World::new(driver);
        let (mut resolvers, inputs) = several::<3>(&world);
        let gathered = Deferred::gather(&world.reactor, inputs);
        decide(&mut resolvers[0], Ok(1));
        decide(&mut resolvers[1], Err(Interruption::TimedOut));
        assert_eq!(outcome(&world, gathered), Err(Interruption::TimedOut));
        assert!(!decide(&mut resolvers[2], Err(Interruption::Empty)), "it was cancelled");
        world.turns(2);
        assert_eq!(logged::take(), Vec::<String>::new());
    }

    // Line 74.
    fn no_inputs_resolve_at_once(driver) {
        let world = World::new(driver);
        let none = || std::iter::empty::<Number>();
        let handle = &world.reactor;
        assert_eq!(outcome(&world, Deferred::gather(handle, none())), Ok(vec![]));
        assert_eq!(outcome(&world, Deferred::gather_all(handle, none())), Ok(vec![]));
        assert_eq!(outcome(&world, Deferred::race(handle, none())), Err(Interruption::Empty));
        assert_eq!(outcome(&world, Deferred::any(handle, none())), Err(vec![]));
        let completed = Deferred::as_completed(handle, none());
        assert!(completed.is_empty());
        assert_eq!(outcome(&world, completed.for_each(|_, _, _| unreachable!("there is none"))), Ok(()));
    }

    // Line 74.
    fn gather_all_brings_every_outcome_good_or_bad(driver) {
        let world = World::new(driver);
        let (mut resolvers, inputs) = several::<3>(&world);
        let all = Deferred::gather_all(&world.reactor, inputs);
        decide(&mut resolvers[2], Ok(2));
        decide(&mut resolvers[0], Err(Interruption::TimedOut));
        drop(resolvers[1].take());
        let expected = vec![Err(Interruption::TimedOut), Err(Interruption::Dropped), Ok(2)];
        assert_eq!(outcome(&world, all), Ok(expected));
    }

    // Line 74.
    fn a_race_has_one_winner_and_the_others_are_cancelled(driver) {
        let world = World::new(driver);
        let (mut resolvers, inputs) = several::<3>(&world);
        let race = Deferred::race(&world.reactor, inputs);
        decide(&mut resolvers[1], Ok(7));
        assert_eq!(outcome(&world, race), Ok((1, 7)));
        assert!(!decide(&mut resolvers[0], Ok(1)) && !decide(&mut resolvers[2], Ok(1)));
        // An error wins as well.
        let (mut resolvers, inputs) = several::<2>(&world);
        let race = Deferred::race(&world.reactor, inputs);
        decide(&mut resolvers[1], Err(Interruption::TimedOut));
        assert_eq!(outcome(&world, race), Err(Interruption::TimedOut));
        assert!(!decide(&mut resolvers[0], Ok(1)));
    }

    // Line 74.
    fn any_takes_the_first_value_or_all_errors(driver) {
        let world = World::new(driver);
        let (mut resolvers, inputs) = several::<3>(&world);
        let any = Deferred::any(&world.reactor, inputs);
        decide(&mut resolvers[0], Err(Interruption::TimedOut));
        decide(&mut resolvers[2], Ok(3));
        assert_eq!(outcome(&world, any), Ok((2, 3)));
        assert!(!decide(&mut resolvers[1], Ok(1)));
        let (mut resolvers, inputs) = several::<2>(&world);
        let any = Deferred::any(&world.reactor, inputs);
        decide(&mut resolvers[1], Err(Interruption::TimedOut));
        decide(&mut resolvers[0], Err(Interruption::Empty));
        assert_eq!(outcome(&world, any), Err(vec![Interruption::Empty, Interruption::TimedOut]));
    }

    // Line 74.
    fn cancelling_what_is_combined_cancels_the_inputs(driver) {
        let world = World::new(driver);
        let (mut resolvers, inputs) = several::<2>(&world);
        let gathered = Deferred::gather(&world.reactor, inputs);
        assert!(gathered.cancel() && !gathered.cancel());
        assert_eq!(outcome(&world, gathered), Err(Interruption::Cancelled));
        assert!(!decide(&mut resolvers[0], Ok(1)) && !decide(&mut resolvers[1], Ok(1)));
        let (mut resolvers, inputs) = several::<2>(&world);
        let heard = Rc::new(Cell::new(0));
        let hearing = Rc::clone(&heard);
        let each = Deferred::as_completed(&world.reactor, inputs)
            .for_each(move |_, _, _| hearing.set(hearing.get() + 1));
        decide(&mut resolvers[1], Ok(1));
        world.turns(2);
        assert!(each.cancel());
        assert_eq!(outcome(&world, each), Err(Interruption::Cancelled));
        assert!(!decide(&mut resolvers[0], Ok(1)));
        world.turns(2);
        assert_eq!(heard.get(), 1);
    }

    // Line 74.
    fn outcomes_are_handed_on_in_the_order_of_completion(driver) {
        let world = World::new(driver);
        let (mut resolvers, inputs) = several::<3>(&world);
        let seen = Rc::new(RefCell::new(Vec::new()));
        let seeing = Rc::clone(&seen);
        let each = Deferred::as_completed(&world.reactor, inputs)
            .for_each(move |_, place, outcome| seeing.borrow_mut().push((place, outcome)));
        for (n, outcome) in [(2, Ok(2)), (0, Err(Interruption::TimedOut)), (1, Ok(1))] {
            decide(&mut resolvers[n], outcome);
        }
        assert_eq!(outcome(&world, each), Ok(()));
        assert_eq!(seen.take(), [(2, Ok(2)), (0, Err(Interruption::TimedOut)), (1, Ok(1))]);
    }

    // Line 74.
    fn a_hook_of_what_is_completed_that_panics_ends_it(driver) {
        let world = World::new(driver);
        let inputs = [1, 2].map(|n| Number::ready(&world.reactor, Ok(n)));
        let each = Deferred::as_completed(&world.reactor, inputs).for_each(|_, _, _| panic!("no"));
        assert!(matches!(outcome(&world, each), Err(Interruption::Panicked(_))));
        assert_eq!(world.reactor.stats().panics, 1);
    }

    // Line 74.
    fn a_task_takes_outcomes_as_they_complete(driver) {
        let world = World::new(driver);
        let (mut resolvers, inputs) = several::<3>(&world);
        let mut completed = Deferred::as_completed(&world.reactor, inputs);
        let task = world.reactor.spawn(async move {
            let mut places = Vec::new();
            while let Some((place, _)) = completed.next().await {
                places.push(place);
            }
            places
        });
        for n in [1, 2, 0] {
            world.turns(2);
            decide(&mut resolvers[n], Ok(1));
        }
        assert_eq!(end(&world, task), Ok(vec![1, 2, 0]));
    }

    // Line 75.
    fn a_task_cancelled_while_it_waits_for_the_next_cancels_the_rest(driver) {
        let world = World::new(driver);
        let (mut resolvers, inputs) = several::<2>(&world);
        let mut completed = Deferred::as_completed(&world.reactor, inputs);
        let task = world.reactor.spawn(async move { while completed.next().await.is_some() {} });
        world.turns(3);
        decide(&mut resolvers[0], Ok(1));
        world.turns(3);
        task.cancel();
        world.turns(3);
        assert!(!decide(&mut resolvers[1], Ok(1)), "it was cancelled");
    }

    // Line 73.
    fn a_time_out_is_one_only_if_its_own_timer_fired(driver) {
        let world = World::new(driver);
        let (_kept, [slow]) = several::<1>(&world);
        assert_eq!(
            outcome(&world, slow.timeout(Duration::from_millis(2))),
            Err(Interruption::TimedOut),
        );
        // Cancelled, and failed by something else, and in time.
        let (mut resolvers, [one, two, three]) = several::<3>(&world);
        let limited = one.timeout(HOUR);
        assert!(limited.cancel());
        assert_eq!(outcome(&world, limited), Err(Interruption::Cancelled));
        decide(&mut resolvers[1], Err(Interruption::Empty));
        assert_eq!(outcome(&world, two.timeout(HOUR)), Err(Interruption::Empty));
        decide(&mut resolvers[2], Ok(3));
        assert_eq!(outcome(&world, three.timeout(HOUR)), Ok(3));
        assert_eq!(world.reactor.stats().timers, 0, "its timer goes with the outcome");
    }

    // Line 73.
    fn what_a_canceller_saves_from_a_time_out_is_a_value(driver) {
        let world = World::new(driver);
        let (_resolver, deferred) =
            Number::with_canceller(&world.reactor, |_, resolver| assert!(resolver.callback(1)));
        assert_eq!(outcome(&world, deferred.timeout(Duration::from_millis(1))), Ok(1));
        let (_resolver, deferred) =
            Number::with_canceller(&world.reactor, |_, resolver| assert!(resolver.errback(Interruption::Empty)));
        let limited = deferred.timeout(Duration::from_millis(1));
        assert_eq!(outcome(&world, limited), Err(Interruption::TimedOut));
    }

    // Line 70.
    fn a_pause_holds_the_outcome_back_and_pauses_nest(driver) {
        let world = World::new(driver);
        let (mut resolvers, [input, other]) = several::<2>(&world);
        let (pause, paused) = input.pausable();
        let seen = watch(paused);
        pause.pause();
        pause.pause();
        decide(&mut resolvers[0], Ok(1));
        world.turns(3);
        pause.resume();
        world.turns(3);
        assert!(seen.borrow().is_none() && pause.is_paused());
        pause.resume();
        pause.resume();
        assert!(!pause.is_paused() && seen.borrow().is_none(), "not inside the call");
        world.until("it comes", || seen.borrow().is_some());
        assert_eq!(seen.take(), Some(Ok(1)));
        // Never paused, it passes; dropped, it lets go.
        let (pause, paused) = other.pausable();
        pause.pause();
        decide(&mut resolvers[1], Ok(2));
        world.turns(3);
        drop(pause);
        assert_eq!(outcome(&world, paused), Ok(2));
        let (_pause, open) = Number::ready(&world.reactor, Ok(3)).pausable();
        assert_eq!(outcome(&world, open), Ok(3));
    }

    // Line 73.
    fn a_paused_outcome_can_be_cancelled_and_so_can_what_it_waits_for(driver) {
        let world = World::new(driver);
        let (mut resolvers, [input]) = several::<1>(&world);
        let (_pause, paused) = input.pausable();
        assert!(paused.cancel());
        assert!(!decide(&mut resolvers[0], Ok(1)));
        assert_eq!(outcome(&world, paused), Err(Interruption::Cancelled));
        let (pause, paused) = Number::ready(&world.reactor, Ok(3)).pausable();
        pause.pause();
        world.turns(3);
        assert!(paused.cancel());
        assert_eq!(outcome(&world, paused), Err(Interruption::Cancelled));
    }

    // Line 73.
    fn a_shield_keeps_what_is_behind_it_from_being_cancelled(driver) {
        logged::keep();
        let world = World::new(driver);
        let (mut resolvers, [one, two]) = several::<2>(&world);
        let shielded = one.shield();
        assert!(shielded.cancel());
        assert_eq!(outcome(&world, shielded), Err(Interruption::Cancelled));
        assert!(decide(&mut resolvers[0], Err(Interruption::TimedOut)), "it went on");
        world.turns(3);
        let lines = logged::take();
        assert!(lines.len() == 1 && lines[0].contains("TimedOut"), "nobody else has it: {lines:?}");
        decide(&mut resolvers[1], Ok(2));
        assert_eq!(outcome(&world, two.shield()), Ok(2));
    }

    // Line 75.
    fn a_deferred_is_awaited_and_cancelled_with_the_task_that_waits_for_it(driver) {
        let world = World::new(driver);
        let (mut resolvers, [one, two, three]) = several::<3>(&world);
        let sum = world.reactor.spawn(async move { Ok::<_, Interruption>(one.await? + 1) });
        let given_up = world.reactor.spawn(two);
        let shielded = world.reactor.spawn(three.shield());
        world.turns(3);
        decide(&mut resolvers[0], Ok(1));
        assert_eq!(end(&world, sum), Ok(Ok(2)));
        given_up.cancel();
        shielded.cancel();
        world.turns(3);
        assert!(!decide(&mut resolvers[1], Ok(1)), "cancelled");
        assert!(decide(&mut resolvers[2], Ok(1)), "not cancelled");
    }

    // Line 75.
    fn a_deferred_that_was_never_polled_is_not_cancelled_by_dropping_it(driver) {
        let world = World::new(driver);
        let (mut resolvers, [input]) = several::<1>(&world);
        drop(input);
        assert!(decide(&mut resolvers[0], Ok(1)));
        // Nor is one that has its outcome.
        let (mut resolvers, [input]) = several::<1>(&world);
        decide(&mut resolvers[0], Ok(1));
        let task = world.reactor.spawn(input);
        assert_eq!(end(&world, task), Ok(Ok(1)));
    }

    // Line 75.
    fn a_future_becomes_a_deferred_and_so_does_a_task(driver) {
        let world = World::new(driver);
        let (mut resolvers, [one, two]) = several::<2>(&world);
        let handle = &world.reactor;
        let made = Number::from_future(handle, async move { Ok(one.await? + 1) }).map(|value| value + 1);
        decide(&mut resolvers[0], Ok(1));
        assert_eq!(outcome(&world, made), Ok(3));
        let failing = Number::from_future(handle, async { panic!("no") });
        assert_eq!(outcome(&world, failing), Err(Interruption::Panicked("no".into())));
        let waiting = Number::from_future(handle, two).map(|value| value + 1);
        world.turns(2);
        assert!(waiting.cancel());
        assert_eq!(outcome(&world, waiting), Err(Interruption::Cancelled));
        assert!(!decide(&mut resolvers[1], Ok(1)), "cancelled with the task");
        // A link goes on with a task.
        let chain = Number::ready(handle, Ok(1)).and_then(|handle, value| handle.spawn(async move { value * 3 }));
        assert_eq!(outcome(&world, chain), Ok(3));
        let task = handle.spawn(async { 5 }).into_deferred();
        assert_eq!(outcome(&world, task), Ok(5));
    }

    // Line 75.
    fn a_task_that_waits_in_a_chain_of_links(driver) {
        let world = World::new(driver);
        let (mut resolvers, [input]) = several::<1>(&world);
        let task = world.reactor.spawn(async move {
            let first = input.map(|value| value + 1).await?;
            let handle = twistor::Handle::current().expect("a task runs on a reactor");
            let second = Number::ready(&handle, Ok(first)).and_then(|_, value| Ok(value * 2)).await?;
            task::yield_now().await;
            Ok::<_, Interruption>(second)
        });
        world.turns(3);
        decide(&mut resolvers[0], Ok(1));
        assert_eq!(end(&world, task), Ok(Ok(4)));
    }
}

// Line 73: in simulated time.
#[test]
fn a_time_out_of_an_hour_takes_an_hour() {
    let world = World::new(Driver::Simulated);
    let begin = world.now();
    let (_kept, [slow]) = several::<1>(&world);
    let limited = watch(slow.timeout(HOUR));
    while limited.borrow().is_none() {
        world.turn(2 * HOUR);
    }
    assert_eq!(limited.take(), Some(Err(Interruption::TimedOut)));
    assert!(world.since(begin) >= HOUR && world.since(begin) < HOUR + Duration::from_secs(1));
}
