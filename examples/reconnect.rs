//! A client that stays connected: it prints what a server says, however often that server goes away.
//!
//! Run it:      cargo run --release --example reconnect -- tcp:127.0.0.1:8000
//! Talk to it:  nc -l 8000               (type lines; end it with Ctrl-C; start it again)
//!
//! What it shows: `ReconnectingClient`. It connects again when the connection is lost or an attempt fails, and waits
//! longer after each failure. `retry_if` hears of every failure; a trigger of the shutdown ends the client in good
//! order. Ctrl-C or SIGTERM stops it.

use std::time::Duration;

use twistor::{Backoff, Eof, Reactor, Reason, ReconnectingClient, ShutdownPhase};
use twistor_examples::{Failure, arguments, init_logging};
use twistor_protocols::{LineProtocol, LineReceiver, Lines};

/// One connection; the next one gets a new value.
struct Listener;

impl LineReceiver for Listener {
    fn connection_made(&mut self, io: &Lines) {
        println!("reconnect: connected to {}", io.peer_addr());
    }

    fn line_received(&mut self, _: &Lines, line: &[u8]) {
        println!("{}", String::from_utf8_lossy(line));
    }

    fn eof_received(&mut self, io: &Lines, rest: &[u8]) -> Eof {
        // The server did not complete its last line; it is worth printing all the same.
        if !rest.is_empty() {
            self.line_received(io, rest);
        }
        Eof::Close
    }

    fn connection_lost(&mut self, _: &Lines, reason: &Reason) {
        println!("reconnect: connection lost: {reason}");
    }
}

fn main() -> Result<(), Failure> {
    let about = "Stays connected to a server and prints the lines that it sends.";
    let [endpoint] = arguments("reconnect", about, [("ENDPOINT", None)]);
    init_logging();

    let reactor = Reactor::new()?;
    let client = ReconnectingClient::builder(&*endpoint, |_| LineProtocol::new(Listener))
        .backoff(Backoff::new().first(Duration::from_millis(500)).longest(Duration::from_secs(10)))
        .retry_if(|error| {
            println!("reconnect: {error}; trying again");
            true
        })
        .start(&reactor)?;
    // Waited for: an attempt is cancelled, a connection closed.
    reactor.on_shutdown(ShutdownPhase::Before, move |_| client.stop());
    reactor.run()?;
    println!("reconnect: stopped");
    Ok(())
}
