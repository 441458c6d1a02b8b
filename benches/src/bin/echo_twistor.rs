//! Echo on `twistor`, as its users write it.

use std::io;
use std::process::ExitCode;

use twistor::{Protocol, Reactor, Transport};
use twistor_benches::serve::{BACKLOG, Options, announce, peer_main};

fn main() -> ExitCode {
    peer_main(serve)
}

struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

fn serve(options: Options) -> io::Result<()> {
    let reactor = Reactor::new()?;
    let (host, port) = (options.address.ip(), options.address.port());
    let port = reactor.listen(format!("tcp:{port}:interface={host}:backlog={BACKLOG}").as_str(), |_| Echo)?;
    announce(port.local_addr())?;
    reactor.run()
}
