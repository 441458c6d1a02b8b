//! Several things at a time: all of them, the first of them, or none that takes too long.
//!
//! Run it:      cargo run --release --example gather_race_timeout
//! Talk to it:  there is nothing to say; watch it for three seconds. It ends by itself.
//!
//! What it shows: `gather` waits for all and keeps their order; `race` takes the first and cancels the others;
//! `timeout` cancels what takes too long; `as_completed` gives each as it comes; a `scope` ends when its children have,
//! and the first error ends them all.

use std::time::Duration;

use twistor::{Interruption, task};
use twistor_examples::{Failure, arguments, init_logging};

/// A mirror that answers after a while.
async fn mirror(name: &'static str, milliseconds: u64) -> &'static str {
    task::sleep(Duration::from_millis(milliseconds)).await;
    println!("  {name} has answered");
    name
}

fn main() -> Result<(), Failure> {
    let [] = arguments("gather_race_timeout", "Waits for several things at a time.", []);
    init_logging();

    twistor::run(async |reactor| {
        let mirrors = || [mirror("Oslo", 600), mirror("Rome", 200), mirror("Lima", 400)];

        println!("gather:");
        println!("  {:?}", task::gather(mirrors()).await);

        println!("race:");
        println!("  {:?} was first", task::race(mirrors()).await);

        println!("timeout:");
        let limit = Duration::from_millis(300);
        println!("  {:?}", task::timeout(limit, mirror("Rome", 200)).await);
        let late = task::timeout(limit, mirror("Oslo", 600)).await;
        println!("  {late:?}");
        assert_eq!(late, Err(Interruption::TimedOut));

        println!("as_completed:");
        let mut answers = task::as_completed(mirrors());
        while let Some((place, name)) = answers.next().await {
            println!("  number {place} of the list: {name}");
        }

        println!("scope:");
        let begin = reactor.now();
        let outcome: Result<(), String> = task::scope(async |scope| {
            scope.spawn(async {
                task::sleep(Duration::from_secs(3600)).await;
                Ok(())
            });
            scope.spawn(async {
                task::sleep(Duration::from_millis(200)).await;
                Err::<(), _>("one child has failed".to_owned())
            });
            Ok(())
        })
        .await;
        println!("  {outcome:?} after {:.1} s", (reactor.now() - begin).as_secs_f64());
        Ok(())
    })?
}
