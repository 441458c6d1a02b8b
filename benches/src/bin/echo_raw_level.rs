//! Echo on epoll by hand, level-triggered: what every other peer is compared with. One `recv` and one `send` per
//! ready connection and pass. What the kernel does not take is kept, and the connection waits for writability
//! instead of reading; so a connection never holds more than one buffer.

use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::ExitCode;

use twistor_benches::serve::{self, Options, announce, peer_main};
use twistor_benches::sys::{self, Epoll, Event};

fn main() -> ExitCode {
    peer_main(serve)
}

fn serve(options: Options) -> io::Result<()> {
    let listener = serve::listen(options.address)?;
    let epoll = Epoll::new()?;
    epoll.add(listener.as_raw_fd(), sys::IN, LISTENER)?;
    let mut server = Server { epoll, listener, connections: Vec::new(), buffer: vec![0; options.buffer] };
    let mut events = [Event::EMPTY; 1024];
    announce(server.listener.local_addr()?)?;
    loop {
        let count = server.epoll.wait(&mut events, -1)?;
        for event in &events[..count] {
            if event.token() == LISTENER { server.accept()? } else { server.ready(event.token() as usize) }
        }
    }
}

const LISTENER: u64 = u64::MAX;
/// Accepts per pass, so that a storm of connections does not hold up the others.
const ACCEPTS: usize = 64;

struct Server {
    epoll: Epoll,
    listener: TcpListener,
    /// Indexed by descriptor number, which is also the token.
    connections: Vec<Option<Connection>>,
    buffer: Vec<u8>,
}

struct Connection {
    socket: OwnedFd,
    /// Received and not yet sent. Empty while the connection reads.
    backlog: Vec<u8>,
}

impl Server {
    fn accept(&mut self) -> io::Result<()> {
        for _ in 0..ACCEPTS {
            let socket = match sys::accept(self.listener.as_fd()) {
                Ok(socket) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            let fd = socket.as_raw_fd();
            let index = fd as usize;
            self.epoll.add(fd, sys::IN, index as u64)?;
            if self.connections.len() <= index {
                self.connections.resize_with(index + 1, || None);
            }
            self.connections[index] = Some(Connection { socket, backlog: Vec::new() });
        }
        Ok(())
    }

    fn ready(&mut self, index: usize) {
        let Some(connection) = &mut self.connections[index] else { return };
        let result = if connection.backlog.is_empty() {
            connection.echo(&self.epoll, &mut self.buffer)
        } else {
            connection.flush(&self.epoll)
        };
        match result {
            Ok(true) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // Closing the descriptor also removes it from the epoll set.
            Ok(false) | Err(_) => self.connections[index] = None,
        }
    }
}

impl Connection {
    /// One receive, one send. `false` at the end of the stream.
    fn echo(&mut self, epoll: &Epoll, buffer: &mut [u8]) -> io::Result<bool> {
        let received = sys::recv(self.socket.as_fd(), buffer)?;
        if received == 0 {
            return Ok(false);
        }
        let sent = match sys::send(self.socket.as_fd(), &buffer[..received]) {
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if sent < received {
            self.backlog.extend_from_slice(&buffer[sent..received]);
            self.interest(epoll, sys::OUT)?;
        }
        Ok(true)
    }

    fn flush(&mut self, epoll: &Epoll) -> io::Result<bool> {
        let sent = sys::send(self.socket.as_fd(), &self.backlog)?;
        self.backlog.drain(..sent);
        if self.backlog.is_empty() {
            self.backlog = Vec::new();
            self.interest(epoll, sys::IN)?;
        }
        Ok(true)
    }

    fn interest(&self, epoll: &Epoll, flags: u32) -> io::Result<()> {
        let fd = self.socket.as_raw_fd();
        epoll.modify(fd, flags, fd as u64)
    }
}
