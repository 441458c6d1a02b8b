//! An echo server on a Unix socket that knows whom it talks to.
//!
//! Run it:      cargo run --release --example unix_echo
//! Elsewhere:   cargo run --release --example unix_echo -- unix:/run/user/1000/echo.sock:mode=600
//! Talk to it:  nc -U /tmp/unix_echo.sock
//!
//! The mode of the socket file says who may connect; who did is vouched for by the system. Ctrl-C or SIGTERM ends the
//! server and removes the file. After `kill -9` it stays, and the next server replaces it.

use twistor_examples::Failure;

#[cfg(unix)]
fn main() -> Result<(), Failure> {
    unix::run()
}

#[cfg(not(unix))]
fn main() -> Result<(), Failure> {
    eprintln!("unix_echo: this system has no Unix sockets");
    Ok(())
}

#[cfg(unix)]
mod unix {
    use twistor::{Protocol, Reactor, Reason, Transport};
    use twistor_examples::{Failure, arguments, init_logging};

    struct Echo;

    impl Protocol for Echo {
        fn connection_made(&mut self, transport: &Transport) {
            let Some(peer) = transport.check(transport.peer_credentials()) else { return };
            // Not every system tells the process.
            let process = peer.pid.map_or_else(|| "of some number".to_owned(), |pid| pid.to_string());
            println!("unix_echo: process {process} of user {}, group {}", peer.uid, peer.gid);
            writeln!(transport, "hello process {process}");
        }

        fn data_received(&mut self, transport: &Transport, data: &[u8]) {
            transport.write(data);
        }

        fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
            println!("unix_echo: {reason}");
        }
    }

    pub(crate) fn run() -> Result<(), Failure> {
        let about = "An echo server on a Unix socket.";
        let default = "unix:/tmp/unix_echo.sock:mode=660";
        let [endpoint] = arguments("unix_echo", about, [("ENDPOINT", Some(default))]);
        init_logging();

        let reactor = Reactor::new()?;
        let port = reactor.listen(endpoint, |_| Echo)?;
        println!("unix_echo: listening on {}", port.local_addr());
        reactor.run()?;
        println!("unix_echo: {}", reactor.stats());
        Ok(())
    }
}
