//! A million links: bounded stack, one allocation and few bytes for each, and no step that grows with their
//! number (a quadratic one would not end).

use std::cell::Cell;
use std::rc::Rc;

use twistor::{Deferred, Handle, Interruption, Resolver};
use twistor_tests::allocations::{Counting, counts};
use twistor_tests::outcome::outcome;
use twistor_tests::{Driver, World};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MILLION: u32 = 1_000_000;
/// What one link may take, besides what its closure captures.
const BYTES: i64 = 200;

type Number = Deferred<u32, Interruption>;

/// Runs a test on a stack that a million frames would not fit on.
fn with_small_stack(test: fn()) {
    let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(test).expect("a thread");
    thread.join().expect("the test passes");
}

fn chain(handle: &Handle, links: u32) -> (Resolver<u32, Interruption>, Number) {
    let (resolver, mut deferred) = Number::new(handle);
    for _ in 0..links {
        deferred = deferred.map(|value| value + 1);
    }
    (resolver, deferred)
}

// Line 71.
#[test]
fn a_link_is_one_allocation_of_few_bytes() {
    with_small_stack(|| {
        let world = World::new(Driver::Simulated);
        let before = counts();
        let (resolver, deferred) = chain(&world.reactor, MILLION);
        let after = counts();
        let links = i64::from(MILLION);
        let (calls, bytes) = (after.calls - before.calls, after.bytes - before.bytes);
        println!("{:.3} allocations and {:.1} bytes per link", calls as f64 / 1e6, bytes as f64 / 1e6);
        assert!(calls <= links + 5, "{calls} allocations");
        assert!(bytes <= links * BYTES, "{bytes} bytes");
        resolver.callback(0);
        assert_eq!(outcome(&world, deferred), Ok(MILLION));
        assert!(counts().live - before.live < 100, "nothing is left of it");
    });
}

// Line 71.
#[test]
fn a_hook_and_an_outcome_take_two_allocations() {
    let world = World::new(Driver::Simulated);
    let round = || {
        let (resolver, deferred) = Number::new(&world.reactor);
        deferred.on_done(|_, outcome| assert_eq!(outcome, Ok(1)));
        resolver.callback(1);
        world.turns(1);
    };
    round();
    round();
    let calls = |rounds: i64, round: &dyn Fn()| {
        let before = counts().calls;
        for _ in 0..rounds {
            round();
        }
        counts().calls - before
    };
    let idle = calls(100, &|| world.turns(1));
    let used = calls(100, &round);
    assert_eq!(used - idle, 200);
}

// Line 71.
#[test]
fn a_million_links_are_dropped_on_a_small_stack_however_they_end() {
    with_small_stack(|| {
        let world = World::new(Driver::Simulated);
        let before = counts().live;
        // Unfired: who waits first, and who decides first.
        let (resolver, deferred) = chain(&world.reactor, MILLION);
        drop(deferred);
        drop(resolver);
        let (resolver, deferred) = chain(&world.reactor, MILLION);
        drop(resolver);
        drop(deferred);
        world.turns(2);
        // Cancelled, and extended after that.
        let (_resolver, deferred) = chain(&world.reactor, MILLION);
        assert!(deferred.cancel());
        assert_eq!(outcome(&world, deferred.map(|value| value + 1)), Err(Interruption::Cancelled));
        assert!(counts().live - before < 100);
        // Fired, queued, and then the reactor ends; and the reactor ends first.
        let (resolver, deferred) = chain(&world.reactor, MILLION);
        resolver.callback(1);
        let (kept, waiting) = chain(&world.reactor, MILLION);
        drop(world);
        drop(deferred);
        drop(kept);
        drop(waiting);
    });
}

/// Waits, and then goes on with the rest.
fn step(handle: &Handle, left: u32, ahead: &Rc<Cell<Option<Resolver<u32, Interruption>>>>) -> Number {
    if left == 0 {
        let (resolver, last) = Number::new(handle);
        ahead.set(Some(resolver));
        return last;
    }
    let ahead = Rc::clone(ahead);
    Number::ready(handle, Ok(left)).and_then(move |handle, left| step(handle, left - 1, &ahead))
}

// Line 71.
#[test]
fn links_that_wait_for_links_a_million_deep_use_a_bounded_stack() {
    with_small_stack(|| {
        let world = World::new(Driver::Simulated);
        let ahead = Rc::default();
        let (before, deferred) = (counts().live, step(&world.reactor, MILLION, &ahead));
        let resolver = loop {
            world.turns(1);
            if let Some(resolver) = ahead.take() {
                break resolver;
            }
        };
        resolver.callback(5);
        assert_eq!(outcome(&world, deferred), Ok(5));
        assert!(counts().live - before < 100, "nothing is left of it");
        // Cancelled from outside: down to the innermost.
        let deferred = step(&world.reactor, MILLION / 10, &ahead);
        let resolver = loop {
            world.turns(1);
            if let Some(resolver) = ahead.take() {
                break resolver;
            }
        };
        assert!(deferred.cancel());
        assert!(!resolver.callback(5));
        assert_eq!(outcome(&world, deferred), Err(Interruption::Cancelled));
        // Dropped in the middle.
        let deferred = step(&world.reactor, MILLION / 10, &ahead);
        let resolver = loop {
            world.turns(1);
            if let Some(resolver) = ahead.take() {
                break resolver;
            }
        };
        drop(world);
        drop(deferred);
        drop(resolver);
    });
}

// Line 71.
#[test]
fn closures_that_keep_deferreds_that_keep_closures_are_dropped_on_a_small_stack() {
    with_small_stack(|| {
        let world = World::new(Driver::Simulated);
        let mut deferred = Number::ready(&world.reactor, Ok(1));
        let mut resolvers = Vec::new();
        for _ in 0..MILLION / 4 {
            let (resolver, first) = Number::new(&world.reactor);
            resolvers.push(resolver);
            let rest = deferred;
            deferred = first.and_then(move |_, _| rest);
        }
        drop(world);
        drop(resolvers);
        drop(deferred);
    });
}

// Lines 9 and 71.
#[test]
fn a_million_hooks_and_links_that_wait_for_themselves_go_with_their_reactor() {
    /// What a place in the list of a reactor takes, at most, while it grows.
    const PLACE: i64 = 24 + 24 / 4;
    with_small_stack(|| {
        let before = counts();
        let world = World::new(Driver::Simulated);
        let start = counts();
        for _ in 0..MILLION {
            let (resolver, deferred) = Number::new(&world.reactor);
            deferred.on_done(move |_, _| drop(resolver));
        }
        let bytes = (counts().bytes - start.bytes) / i64::from(MILLION);
        println!("{bytes} bytes per hook that owns its resolver");
        assert!(bytes <= BYTES + PLACE, "{bytes} bytes");
        // Each owns the resolver of the next.
        let (mut before_it, deferred) = Number::new(&world.reactor);
        deferred.on_done(|_, _| unreachable!("nobody decides it"));
        for _ in 0..MILLION / 4 {
            let (resolver, deferred) = Number::new(&world.reactor);
            let owned = std::mem::replace(&mut before_it, resolver);
            deferred.on_done(move |_, _| drop(owned));
        }
        let (own, last) = Number::new(&world.reactor);
        last.on_done(move |_, _| drop((own, before_it)));
        // One circle: each link waits for the one that is made after it, the last for the first.
        let places: Vec<_> = (0..MILLION / 4).map(|_| Rc::new(Cell::new(None::<Number>))).collect();
        let nexts = places.iter().cycle().skip(1);
        let resolvers: Vec<_> = places
            .iter()
            .zip(nexts)
            .map(|(place, next)| {
                let ((resolver, first), next) = (Number::new(&world.reactor), Rc::clone(next));
                place.set(Some(first.and_then(move |_, _| next.take().expect("the next"))));
                resolver
            })
            .collect();
        drop(places);
        let links = counts().live;
        for resolver in resolvers {
            resolver.callback(0);
        }
        world.turns(2);
        assert!(
            links - counts().live < i64::from(MILLION) / 2 + 10,
            "only the origins and the places are gone"
        );
        drop(world);
        assert!(counts().live - before.live < 10, "{} allocations are left", counts().live - before.live);
    });
}

// Line 74.
#[test]
fn a_million_inputs_are_gathered_raced_and_handed_on() {
    with_small_stack(|| {
        let world = World::new(Driver::Simulated);
        let handle = &world.reactor;
        let inputs = || {
            let pairs: Vec<_> = (0..MILLION).map(|_| Number::new(handle)).collect();
            let (resolvers, deferreds): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            (resolvers, deferreds)
        };
        let (resolvers, deferreds) = inputs();
        let gathered = Deferred::gather(handle, deferreds);
        for (value, resolver) in (0..).zip(resolvers) {
            resolver.callback(value);
        }
        let values = outcome(&world, gathered).expect("values");
        assert!(values.len() == MILLION as usize && values.iter().copied().eq(0..MILLION));
        let (mut resolvers, deferreds) = inputs();
        let raced = Deferred::race(handle, deferreds);
        resolvers.pop().expect("the last").callback(1);
        assert_eq!(outcome(&world, raced), Ok((MILLION as usize - 1, 1)));
        assert!(resolvers.iter().all(|resolver| !resolver.is_wanted()));
        let (resolvers, deferreds) = inputs();
        let any = Deferred::any(handle, deferreds);
        drop(resolvers);
        assert_eq!(outcome(&world, any).expect_err("all were dropped").len(), MILLION as usize);
        let heard = Rc::new(Cell::new(0));
        let hearing = Rc::clone(&heard);
        let (resolvers, deferreds) = inputs();
        let each = Deferred::as_completed(handle, deferreds)
            .for_each(move |_, place, _| hearing.set(hearing.get() + usize::from(place > 0)));
        for resolver in resolvers.into_iter().rev() {
            resolver.callback(0);
        }
        assert_eq!(outcome(&world, each), Ok(()));
        assert_eq!(heard.get(), MILLION as usize - 1);
    });
}
