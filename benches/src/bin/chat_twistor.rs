//! Chat on `twistor`: the members' transports in a shared list, every line queued to each by reference. A member that
//! does not read is ended by the reactor's write limit.

use std::cell::RefCell;
use std::io;
use std::process::ExitCode;
use std::rc::Rc;

use twistor::{Protocol, Reactor, Reason, Transport};
use twistor_benches::chat::LineCutter;
use twistor_benches::serve::{BACKLOG, Options, announce, peer_main};

fn main() -> ExitCode {
    peer_main(serve)
}

#[derive(Default)]
struct Member {
    everyone: Rc<RefCell<Vec<Transport>>>,
    lines: LineCutter,
}

impl Protocol for Member {
    fn connection_made(&mut self, transport: &Transport) {
        self.everyone.borrow_mut().push(transport.clone());
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        if let Some(lines) = self.lines.feed(data) {
            for member in self.everyone.borrow().iter() {
                member.write_bytes(lines.clone());
            }
        }
    }

    fn connection_lost(&mut self, transport: &Transport, _: &Reason) {
        self.everyone.borrow_mut().retain(|member| member.id() != transport.id());
    }
}

fn serve(options: Options) -> io::Result<()> {
    let reactor = Reactor::new()?;
    let everyone = Rc::default();
    let (host, port) = (options.address.ip(), options.address.port());
    let endpoint = format!("tcp:{port}:interface={host}:backlog={BACKLOG}");
    let join = move |_| Member { everyone: Rc::clone(&everyone), lines: LineCutter::new() };
    let port = reactor.listen(endpoint.as_str(), join)?;
    announce(port.local_addr())?;
    reactor.run()
}
