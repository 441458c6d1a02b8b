//! Echo (or bulk, with `--bulk`) with TLS on `twistor`, as its users write it.

use std::io;
use std::process::ExitCode;

use twistor::bytes::Bytes;
use twistor::endpoint::{ListenEndpoint, TlsListen};
use twistor::tls::TlsServer;
use twistor::{Protocol, Reactor, Transport};
use twistor_benches::bulk::{DONE, Request};
use twistor_benches::secure;
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

#[derive(Default)]
struct Bulk {
    begun: Vec<u8>,
    request: Option<Request>,
}

/// Pieces that are written before waiting until they have left.
const AT_ONCE: usize = 4;

/// Sends what a request asks for.
fn send(transport: Transport, mut request: Request) {
    for _ in 0..AT_ONCE {
        let Some(piece) = request.next_piece() else {
            return transport.write(&DONE);
        };
        transport.write_bytes(Bytes::from_static(piece));
    }
    transport.flushed().on_done(move |_, left| {
        if left.is_ok() {
            send(transport, request);
        }
    });
}

impl Protocol for Bulk {
    fn data_received(&mut self, transport: &Transport, mut data: &[u8]) {
        if self.request.is_none() {
            let missing = (Request::LENGTH - self.begun.len()).min(data.len());
            let (more, rest) = data.split_at(missing);
            self.begun.extend_from_slice(more);
            data = rest;
            let Ok(whole) = <[u8; Request::LENGTH]>::try_from(&self.begun[..]) else { return };
            self.begun.clear();
            self.request = Some(Request::from_bytes(whole));
        }
        let Some(request) = &mut self.request else { return };
        request.to_receive = request.to_receive.saturating_sub(data.len() as u64);
        if request.to_receive == 0
            && let Some(request) = self.request.take()
        {
            send(transport.clone(), request);
        }
    }
}

fn serve(options: Options) -> io::Result<()> {
    let reactor = Reactor::new()?;
    let (host, port) = (options.address.ip(), options.address.port());
    let under = format!("tcp:{port}:interface={host}:backlog={BACKLOG}");
    let tls = TlsServer::from_config(secure::server_config()?);
    let endpoint = TlsListen::new(under.as_str(), tls).map_err(io::Error::other)?;
    let endpoint = ListenEndpoint::Tls(endpoint);
    let port = if options.bulk {
        reactor.listen(endpoint, |_| Bulk::default())?
    } else {
        reactor.listen(endpoint, |_| Echo)?
    };
    announce(port.local_addr())?;
    reactor.run()
}
