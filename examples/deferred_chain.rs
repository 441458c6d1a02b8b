//! A chain of callbacks: what happens next, what happens if it fails, and what happens in any case.
//!
//! Run it:      cargo run --release --example deferred_chain
//! Another:     cargo run --release --example deferred_chain -- 17
//! An error:    cargo run --release --example deferred_chain -- seventeen
//! Talk to it:  there is nothing to say; watch it. It ends by itself.
//!
//! What it shows: `Deferred` without a task. Each link is given what the one before made of it: `map` changes a value,
//! `and_then` starts something that takes its time and is waited for, `or_else` may recover from an error, `then` hears
//! of both. An error passes by all links that are not for errors.

use std::time::Duration;

use twistor::{Deferred, Handle, Interruption, Reactor};
use twistor_examples::{Failure, arguments, init_logging};

/// What a user's number turns out to be, after a while.
fn look_up(reactor: &Handle, user: String) -> Deferred<u64, String> {
    let (resolver, deferred) = Deferred::new(reactor);
    reactor.call_later(Duration::from_millis(300), move |_| {
        resolver.resolve(user.parse().map_err(|error| format!("{user:?} is no number: {error}")));
    });
    deferred
}

/// The sum of the numbers up to `n`, from another thread.
fn sum_up_to(reactor: &Handle, n: u64) -> Deferred<u64, String> {
    reactor.defer_to_thread(move || (1..=n).sum()).map_err(|error| error.to_string())
}

/// Something that never comes.
fn never(reactor: &Handle) -> Deferred<u64, Interruption> {
    let (resolver, deferred) = Deferred::new(reactor);
    // Dropped, it would say so to the other half.
    reactor.call_later(Duration::from_secs(3600), move |_| drop(resolver)).unref();
    deferred
}

fn main() -> Result<(), Failure> {
    let [number] = arguments("deferred_chain", "Sums the numbers up to NUMBER.", [("NUMBER", Some("100"))]);
    init_logging();
    let reactor = Reactor::new()?;

    look_up(&reactor, number)
        .map(|number| {
            println!("looked up: {number}");
            number
        })
        .and_then(sum_up_to)
        .map(|sum| format!("the sum is {sum}"))
        .or_else(|_, error| {
            println!("an error passes by: {error}");
            Ok::<_, String>("there is no sum".to_owned())
        })
        .then(|reactor, outcome| {
            println!("{}", outcome.unwrap_or_default());
            // Half a second for something that takes an hour.
            never(reactor).timeout(Duration::from_millis(500))
        })
        .on_done(|_, outcome| println!("and then: {outcome:?}"));

    let halves = (1..=4).map(|n| sum_up_to(&reactor, 1_000_000 * n));
    Deferred::gather(&reactor, halves).on_done(|_, sums| println!("gathered, in their order: {sums:?}"));

    Ok(reactor.run_until_idle()?)
}
