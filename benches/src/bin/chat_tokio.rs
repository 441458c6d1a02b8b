//! Chat on `tokio`, current-thread runtime: one broadcast channel, one task per member that both reads and writes.

use std::io;
use std::process::ExitCode;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::{self, error::RecvError};
use twistor_benches::chat::LineCutter;
use twistor_benches::serve::{self, Options, announce, peer_main};

fn main() -> ExitCode {
    peer_main(|options| {
        tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(serve(options))
    })
}

/// Lines that a member may be behind.
const LIMIT: usize = 1024;

async fn serve(options: Options) -> io::Result<()> {
    let listener = TcpListener::from_std(serve::listen(options.address)?)?;
    announce(listener.local_addr()?)?;
    let (everyone, _) = broadcast::channel(LIMIT);
    loop {
        let (stream, _) = listener.accept().await?;
        let (everyone, lines) = (everyone.clone(), everyone.subscribe());
        // A lost member is the client's business.
        tokio::spawn(async move { drop(member(stream, everyone, lines, options.buffer.min(4096)).await) });
    }
}

async fn member(
    mut stream: TcpStream,
    everyone: broadcast::Sender<Bytes>,
    mut lines: broadcast::Receiver<Bytes>,
    size: usize,
) -> io::Result<()> {
    let mut buffer = vec![0; size];
    let mut cutter = LineCutter::new();
    loop {
        tokio::select! {
            received = stream.read(&mut buffer) => {
                let received = received?;
                if received == 0 {
                    return Ok(());
                }
                if let Some(lines) = cutter.feed(&buffer[..received]) {
                    // Fails only without receivers, and we are one.
                    let _ = everyone.send(lines);
                }
            }
            line = lines.recv() => match line {
                Ok(line) => stream.write_all(&line).await?,
                Err(RecvError::Lagged(_) | RecvError::Closed) => return Ok(()),
            },
        }
    }
}
