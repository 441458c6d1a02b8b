//! An echo server: what comes in goes out.
//!
//! Run it:      cargo run --release --example echo_server
//! Elsewhere:   cargo run --release --example echo_server -- tcp:9000:interface=127.0.0.1
//! Talk to it:  nc 127.0.0.1 8000
//! See more:    RUST_LOG=debug cargo run --release --example echo_server
//!
//! Ctrl-C or SIGTERM stops it cleanly, and it says what it served.

use twistor::{Handle, Port, Protocol, Reactor, Transport};
use twistor_examples::{Failure, arguments, init_logging};

struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// Echoes to everybody who connects to the endpoint.
pub(crate) fn serve(reactor: &Handle, endpoint: &str) -> std::io::Result<Port> {
    reactor.listen(endpoint, |_| Echo)
}

fn main() -> Result<(), Failure> {
    let [endpoint] = arguments("echo_server", "An echo server.", [("ENDPOINT", Some("tcp:8000"))]);
    init_logging();

    let reactor = Reactor::new()?;
    let port = serve(&reactor, &endpoint)?;
    println!("echo_server: listening on {}", port.local_addr());
    reactor.run()?;
    println!("echo_server: {}", reactor.stats());
    Ok(())
}
