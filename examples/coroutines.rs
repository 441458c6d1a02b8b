//! Coroutines: functions that wait, called one after the other and side by side.
//!
//! Run it:      cargo run --release --example coroutines
//! Talk to it:  there is nothing to say; watch it for three seconds. It ends by itself.
//!
//! What it shows: an `async fn` does nothing until somebody awaits it. Awaiting two of them in turn takes the sum of their
//! times. A *task* runs by itself as soon as it is spawned, so two tasks take as long as the longer one. A task is
//! also a value: it has a name, it can be awaited for its result, and a panic in it is an error of whoever awaits it.

use std::time::Duration;

use twistor::task;
use twistor_examples::{Failure, arguments, init_logging};

const HALF: Duration = Duration::from_millis(500);
const ONE: Duration = Duration::from_secs(1);

/// Says something after a while, and returns how long it was.
async fn say_after(delay: Duration, what: &'static str) -> usize {
    task::sleep(delay).await;
    println!("  {what}");
    what.len()
}

fn main() -> Result<(), Failure> {
    let [] = arguments("coroutines", "Calls coroutines one after the other, and side by side.", []);
    init_logging();

    twistor::run(async |reactor| {
        println!("one after the other:");
        let begin = reactor.now();
        let length = say_after(HALF, "hello").await + say_after(ONE, "world").await;
        println!("  {length} letters in {:.1} s", (reactor.now() - begin).as_secs_f64());

        println!("side by side:");
        let begin = reactor.now();
        let world = reactor.spawn(say_after(ONE, "world"));
        let hello = reactor.spawn(say_after(HALF, "hello"));
        let length = world.await? + hello.await?;
        println!("  {length} letters in {:.1} s", (reactor.now() - begin).as_secs_f64());

        println!("many of them:");
        let begin = reactor.now();
        let counts = (1..=100_u64).map(async |n| {
            task::sleep(Duration::from_millis(10 * (n % 10))).await;
            n
        });
        let sum: u64 = task::gather(counts).await.into_iter().sum();
        println!("  100 coroutines bring {sum} after {:.1} s", (reactor.now() - begin).as_secs_f64());
        Ok(())
    })?
}
