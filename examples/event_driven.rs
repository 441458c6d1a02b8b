//! Events of two kinds and one handler that waits: lines of standard input, and a timer.
//!
//! Run it:      cargo run --release --example event_driven
//! Talk to it:  type lines. After five seconds the timer speaks up, after ten the program ends. Ctrl-C ends it before
//!              that, and `run` returns the error that it was cancelled.
//! A pipe:      (sleep 1; echo a line) | cargo run --release --example event_driven
//!
//! What it shows: an application's own events, with an asynchronous handler. Whoever knows of something emits an event
//! and goes on; the handler may take its time, and has them one after the other in the order in which they came.

// Where it cannot work, it only says so.
#![cfg_attr(not(unix), allow(dead_code))]

use std::time::Duration;

/// A longer line is an error, so that an input without any newline cannot fill the memory.
const LONGEST: usize = 64 * 1024;

#[cfg(unix)]
fn main() -> Result<(), twistor_examples::Failure> {
    use twistor::{Events, StreamProtocol, task};

    let [] =
        twistor_examples::arguments("event_driven", "Tells of lines and of a timer for ten seconds.", []);
    twistor_examples::init_logging();

    twistor::run(async |reactor| {
        let events = Events::<&'static str>::new(&reactor);
        events.on_async(async |_, event| {
            // As if it had to look something up first.
            task::sleep(Duration::from_millis(10)).await;
            println!("Received event: {event}");
        });

        let lines = events.clone();
        reactor.stdio(StreamProtocol::new(move |input| {
            task::spawn(async move {
                loop {
                    match input.read_line(LONGEST).await {
                        Ok(Some(_)) => lines.emit("stdin"),
                        Ok(None) => break,
                        Err(error) => break eprintln!("event_driven: cannot read standard input: {error}"),
                    }
                }
                // Standard output is the other half of this stream, and is still needed.
                std::future::pending::<()>().await;
            });
        }))?;

        let timer = events.clone();
        reactor.call_later(Duration::from_secs(5), move |_| timer.emit("timer"));

        task::sleep(Duration::from_secs(10)).await;
        println!("Ends.");
        Ok(())
    })?
}

#[cfg(not(unix))]
fn main() {
    eprintln!("event_driven: this system cannot wait for standard input as for a socket");
    std::process::exit(1);
}
