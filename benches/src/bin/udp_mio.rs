//! Echo of datagrams on `mio`. Edge-triggered, as mio is on Linux: reading stops when the socket is empty.

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};
use twistor_benches::serve::{self, Options, announce, peer_main};

fn main() -> ExitCode {
    peer_main(serve)
}

fn serve(options: Options) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut socket = UdpSocket::from_std(serve::bind(options.address)?);
    poll.registry().register(&mut socket, Token(0), Interest::READABLE)?;
    let mut events = Events::with_capacity(16);
    let mut buffer = vec![0; options.buffer];
    announce(socket.local_addr()?)?;
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        loop {
            match socket.recv_from(&mut buffer) {
                Ok((count, from)) => drop(socket.send_to(&buffer[..count], from)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
}
