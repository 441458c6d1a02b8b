//! An echo server: what comes in goes out. The same as `echo_server`, but each connection is a task.
//!
//! Run it:      cargo run --release --example echo_async
//! Elsewhere:   cargo run --release --example echo_async -- tcp:9000:interface=127.0.0.1
//! Talk to it:  nc 127.0.0.1 8000
//! See more:    RUST_LOG=debug cargo run --release --example echo_async
//!
//! Ctrl-C or SIGTERM stops it cleanly, and it says what it served.

use std::io;

use twistor::{Handle, Port, Reactor, Stream};
use twistor_examples::{Failure, arguments, init_logging};

async fn echo(stream: Stream) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count]).await?,
        }
    }
}

/// Echoes to everybody who connects to the endpoint.
pub(crate) fn serve(reactor: &Handle, endpoint: &str) -> io::Result<Port> {
    reactor.serve(endpoint, echo)
}

fn main() -> Result<(), Failure> {
    let [endpoint] = arguments("echo_async", "An echo server of tasks.", [("ENDPOINT", Some("tcp:8000"))]);
    init_logging();

    let reactor = Reactor::new()?;
    let port = serve(&reactor, &endpoint)?;
    println!("echo_async: listening on {}", port.local_addr());
    reactor.run()?;
    println!("echo_async: {}", reactor.stats());
    Ok(())
}
