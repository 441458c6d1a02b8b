//! Echo of datagrams on twistor, as in its guide.

use std::process::ExitCode;

use twistor::{Address, DatagramSocket, Reactor};
use twistor_benches::serve::{announce, peer_main};

fn echo(socket: &DatagramSocket, data: &[u8], from: &Address) {
    let _ = socket.send_to(data, from);
}

fn main() -> ExitCode {
    peer_main(|options| {
        let reactor = Reactor::new()?;
        let socket = reactor.listen_datagram(options.address, echo)?;
        announce(socket.local_addr())?;
        reactor.run()
    })
}
