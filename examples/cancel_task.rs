//! A task that is cancelled: where it stops, what it leaves in order, and who hears of it.
//!
//! Run it:      cargo run --release --example cancel_task
//! Talk to it:  there is nothing to say; watch it for two seconds. It ends by itself.
//!
//! What it shows: `Task::cancel`. The task is dropped where it waits, so what it holds is dropped with it: a guard is
//! what `finally` is elsewhere. What it waits for is cancelled, too: here a task of its own, which a `shield` would have
//! saved. A task cannot refuse.

use std::time::Duration;

use twistor::{Handle, Interruption, task};
use twistor_examples::{Failure, arguments, init_logging};

/// Says, when it is dropped, that something is put in order.
struct Tidy(&'static str);

impl Drop for Tidy {
    fn drop(&mut self) {
        println!("{}: put in order", self.0);
    }
}

async fn helper() {
    let _tidy = Tidy("helper");
    task::sleep(Duration::from_secs(3600)).await;
    println!("helper: this is never printed");
}

async fn worker(reactor: Handle) {
    let _tidy = Tidy("worker");
    for step in 1..=3 {
        println!("worker: step {step}");
        task::sleep(Duration::from_millis(300)).await;
    }
    println!("worker: waits for its helper");
    let outcome = reactor.spawn(helper()).await;
    println!("worker: this is never printed: {outcome:?}");
}

fn main() -> Result<(), Failure> {
    let [] = arguments("cancel_task", "Cancels a task that waits.", []);
    init_logging();

    twistor::run(async |reactor| {
        let task = reactor.spawn(worker(reactor.clone()));
        let canceller = task.canceller();
        reactor.call_later(Duration::from_millis(1500), move |_| {
            println!("main: cancel, which is {}", canceller.cancel());
            println!("main: cancel again, which is {}", canceller.cancel());
        });
        let outcome = task.await;
        println!("main: the outcome is {outcome:?}");
        assert_eq!(outcome, Err(Interruption::Cancelled));
        Ok(())
    })?
}
