//! Echo on `twistor` as tasks: one task and one buffer (`--buffer`) per connection, as on `tokio`.

use std::io;
use std::process::ExitCode;

use twistor::{Reactor, Stream};
use twistor_benches::serve::{BACKLOG, Options, announce, peer_main};

fn main() -> ExitCode {
    peer_main(serve)
}

fn serve(options: Options) -> io::Result<()> {
    let reactor = Reactor::new()?;
    let (host, port) = (options.address.ip(), options.address.port());
    let endpoint = format!("tcp:{port}:interface={host}:backlog={BACKLOG}");
    let port = reactor.serve(endpoint.as_str(), async move |stream| echo(stream, options.buffer).await)?;
    announce(port.local_addr())?;
    reactor.run()
}

async fn echo(stream: Stream, size: usize) -> io::Result<()> {
    let mut buffer = vec![0; size];
    loop {
        let received = stream.read(&mut buffer).await?;
        if received == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..received]).await?;
    }
}
