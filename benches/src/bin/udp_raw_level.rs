//! Echo of datagrams on epoll by hand, level-triggered: one receive and one send for each event.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::process::ExitCode;

use twistor_benches::serve::{self, Options, announce, peer_main};
use twistor_benches::sys::{self, Epoll, Event};

fn main() -> ExitCode {
    peer_main(serve)
}

fn serve(options: Options) -> io::Result<()> {
    let epoll = Epoll::new()?;
    let socket = serve::bind(options.address)?;
    epoll.add(socket.as_raw_fd(), sys::IN, 0)?;
    let mut events = [Event::EMPTY; 16];
    let mut buffer = vec![0; options.buffer];
    announce(socket.local_addr()?)?;
    loop {
        for _ in 0..epoll.wait(&mut events, -1)? {
            match socket.recv_from(&mut buffer) {
                Ok((count, from)) => drop(socket.send_to(&buffer[..count], from)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}
