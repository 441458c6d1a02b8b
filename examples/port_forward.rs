//! A port forwarder: whoever connects here is connected to somewhere else.
//!
//! Run it:      cargo run --release --example port_forward -- tcp:8002 tcp:127.0.0.1:8000
//! Talk to it:  nc 127.0.0.1 8002        (with `cargo run --release --example echo_server` behind it)
//!
//! What it shows: `connect` from a hook, and `Transport::pipe`, which relays one direction with back-pressure until
//! its end (on Linux without the bytes ever entering the program). Two pipes are a proxy that keeps half-closed
//! connections half-closed. While the target is being connected to, the client's bytes are left to the kernel.

use std::process::exit;

use twistor::endpoint::{ConnectEndpoint, IntoConnectEndpoint};
use twistor::{Canceller, Handle, Port, Protocol, Reactor, Reason, Transport};
use twistor_examples::{Failure, arguments, init_logging};

/// The side that connected to us.
struct Client {
    target: ConnectEndpoint,
    /// Of the attempt to reach the target.
    attempt: Option<Canceller>,
}

impl Protocol for Client {
    fn connection_made(&mut self, transport: &Transport) {
        // Until the pipe stands, nothing is to be read.
        transport.pause_reading();
        let client = transport.clone();
        let peer = transport.peer_addr();
        println!("port_forward: {peer} connected");
        let connecting = {
            let client = client.clone();
            transport.reactor().connect_protocol(self.target.clone(), Target { client })
        };
        self.attempt = Some(connecting.canceller());
        connecting.on_done(move |_, outcome| {
            if let Err(error) = outcome {
                println!("port_forward: {peer} closed: {error}");
                client.lose_connection();
            }
        });
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {
        // Everything goes through the pipe.
    }

    fn connection_lost(&mut self, _: &Transport, _: &Reason) {
        if let Some(attempt) = self.attempt.take() {
            attempt.cancel();
        }
    }
}

/// The side that we connected to.
struct Target {
    client: Transport,
}

impl Protocol for Target {
    fn connection_made(&mut self, target: &Transport) {
        if self.client.is_closing() {
            return target.lose_connection();
        }
        relay("to the target", &self.client, target);
        relay("to the client", target, &self.client);
        self.client.resume_reading();
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {
        // Everything goes through the pipe.
    }
}

fn relay(direction: &'static str, from: &Transport, to: &Transport) {
    let peer = from.peer_addr();
    from.pipe(to).on_done(move |_, outcome| match outcome {
        Ok(bytes) => println!("port_forward: {peer}: {bytes} bytes {direction}"),
        Err(reason) => println!("port_forward: {peer}: {direction}: {reason}"),
    });
}

/// Forwards everybody who connects to the endpoint to the target.
pub(crate) fn serve(reactor: &Handle, endpoint: &str, target: ConnectEndpoint) -> std::io::Result<Port> {
    reactor.listen(endpoint, move |_| Client { target: target.clone(), attempt: None })
}

fn main() -> Result<(), Failure> {
    let [listen, target] = arguments(
        "port_forward",
        "Forwards connections to LISTEN to TARGET.",
        [("LISTEN", None), ("TARGET", None)],
    );
    init_logging();
    // Checked now: a bad target should not wait for the first client to show.
    let target = target.into_connect_endpoint().unwrap_or_else(|error| {
        eprintln!("port_forward: {error}");
        exit(2);
    });

    let reactor = Reactor::new()?;
    let port = serve(&reactor, &listen, target)?;
    println!("port_forward: listening on {}", port.local_addr());
    Ok(reactor.run()?)
}
