//! Echo on `tokio`, current-thread runtime: one task and one buffer (`--buffer`) per connection.

use std::io;
use std::process::ExitCode;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use twistor_benches::serve::{self, Options, announce, peer_main};

fn main() -> ExitCode {
    peer_main(|options| {
        tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(serve(options))
    })
}

async fn serve(options: Options) -> io::Result<()> {
    let listener = TcpListener::from_std(serve::listen(options.address)?)?;
    announce(listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        // A lost connection is the client's business.
        tokio::spawn(async move { drop(echo(stream, options.buffer).await) });
    }
}

async fn echo(mut stream: TcpStream, size: usize) -> io::Result<()> {
    let mut buffer = vec![0; size];
    loop {
        let received = stream.read(&mut buffer).await?;
        if received == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..received]).await?;
    }
}
