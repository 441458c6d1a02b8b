//! Echo (or bulk, with `--bulk`) with TLS on `tokio` and `tokio-rustls`, current-thread runtime: one task and one buffer
//! (`--buffer`) per connection.

use std::io;
use std::process::ExitCode;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use twistor_benches::bulk::{DONE, Request};
use twistor_benches::secure;
use twistor_benches::serve::{self, Options, announce, peer_main};

fn main() -> ExitCode {
    peer_main(|options| {
        tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(serve(options))
    })
}

async fn serve(options: Options) -> io::Result<()> {
    let acceptor = TlsAcceptor::from(secure::server_config()?);
    let listener = TcpListener::from_std(serve::listen(options.address)?)?;
    announce(listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // A lost connection is the client's business.
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let ended = if options.bulk {
                bulk(stream, options.buffer).await
            } else {
                echo(stream, options.buffer).await
            };
            drop(ended);
        });
    }
}

async fn echo(mut stream: TlsStream<TcpStream>, size: usize) -> io::Result<()> {
    let mut buffer = vec![0; size];
    loop {
        let received = stream.read(&mut buffer).await?;
        if received == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..received]).await?;
        stream.flush().await?;
    }
}

async fn bulk(mut stream: TlsStream<TcpStream>, size: usize) -> io::Result<()> {
    let mut buffer = vec![0; size];
    loop {
        let mut request = [0; Request::LENGTH];
        stream.read_exact(&mut request).await?;
        let mut request = Request::from_bytes(request);
        while request.to_receive > 0 {
            let received = stream.read(&mut buffer).await?;
            if received == 0 {
                return Ok(());
            }
            request.to_receive = request.to_receive.saturating_sub(received as u64);
        }
        while let Some(piece) = request.next_piece() {
            stream.write_all(piece).await?;
        }
        stream.write_all(&DONE).await?;
        stream.flush().await?;
    }
}
