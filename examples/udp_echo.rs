//! An echo server for datagrams: what comes in goes back to its sender.
//!
//! Run it:      cargo run --release --example udp_echo
//! Elsewhere:   cargo run --release --example udp_echo -- udp:9000:interface=127.0.0.1
//! Talk to it:  nc -u 127.0.0.1 8000
//!
//! What it shows: a closure as the protocol of a socket for datagrams. A hundred datagrams that arrive at
//! once cost a few system calls, not two hundred. Ctrl-C stops it, and it says what it served.

use twistor::{Address, DatagramSocket, Reactor};
use twistor_examples::{Failure, arguments, init_logging};

/// Answers, but not what claims to come from its own port: two servers that echo, or one and a forged datagram of
/// its own address, would keep each other busy for ever.
fn echo(socket: &DatagramSocket, data: &[u8], from: &Address) {
    if from.port() == socket.local_addr().port() {
        return;
    }
    if let Err(error) = socket.send_to(data, from) {
        log::warn!("cannot answer {from}: {error}");
    }
}

fn main() -> Result<(), Failure> {
    let about = "An echo server for datagrams.";
    let [endpoint] = arguments("udp_echo", about, [("ENDPOINT", Some("udp:8000"))]);
    init_logging();

    let reactor = Reactor::new()?;
    let socket = reactor.listen_datagram(&endpoint, echo)?;
    println!("udp_echo: listening on {}", socket.local_addr());
    reactor.run()?;
    let stats = socket.stats();
    println!(
        "udp_echo: {} datagrams received, {} sent, {} dropped",
        stats.received, stats.sent, stats.dropped
    );
    Ok(())
}
