//! Echo of datagrams on `tokio`, current-thread runtime: one task.

use std::io;
use std::process::ExitCode;

use tokio::net::UdpSocket;
use twistor_benches::serve::{self, Options, announce, peer_main};

fn main() -> ExitCode {
    peer_main(|options| {
        tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(serve(options))
    })
}

async fn serve(options: Options) -> io::Result<()> {
    let socket = UdpSocket::from_std(serve::bind(options.address)?)?;
    announce(socket.local_addr()?)?;
    let mut buffer = vec![0; options.buffer];
    loop {
        let (count, from) = socket.recv_from(&mut buffer).await?;
        socket.send_to(&buffer[..count], from).await?;
    }
}
