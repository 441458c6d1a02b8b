//! The guest of the examples that embed a reactor: what it serves, and what can be typed into its host.
//!
//! The hosts differ, each in a file of its own; this is the same for all.

use std::io::{self, BufRead};
use std::time::{Duration, Instant};

use twistor::{Handle, Protocol, Transport};

/// What a host says that it is good for, for its `--help`.
pub const COMMANDS: &str = "Echoes what comes in. Type: timer, stats, quit.";

struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// Echoes to everybody who connects to the endpoint, and says where it listens.
///
/// # Errors
///
/// Nobody can listen there.
pub fn serve(reactor: &Handle, program: &str, endpoint: &str) -> io::Result<()> {
    let port = reactor.listen(endpoint, |_| Echo)?;
    println!("{program}: listening on {}", port.local_addr());
    Ok(())
}

/// Does what was typed into the host. Called between two turns, or by the loop: it makes no difference.
pub fn command(reactor: &Handle, line: &str) {
    match line.trim() {
        "timer" => {
            let set = Instant::now();
            reactor.call_later(Duration::from_millis(100), move |_| {
                println!("the timer of 100 ms was called after {} ms", set.elapsed().as_millis());
            });
        }
        "stats" => {
            let stats = reactor.stats();
            println!("{} turns, {} connections", stats.passes, stats.connections);
        }
        "quit" => reactor.stop(),
        "" => {}
        other => println!("{other:?} is none of timer, stats, quit"),
    }
}

/// Hands each typed line to `to`, from a thread of its own; to the end of the input, or as long as `to` returns true.
pub fn each_typed_line(mut to: impl FnMut(String) -> bool + Send + 'static) {
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if !to(line) {
                return;
            }
        }
    });
}
