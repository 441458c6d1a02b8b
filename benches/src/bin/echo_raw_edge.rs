//! Echo on epoll by hand, edge-triggered: registered once for everything, reads until the kernel has nothing more.
//! No `epoll_ctl` after registration, but one more `recv` per message, and a connection that keeps sending keeps
//! the loop to itself.

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
    epoll.add(listener.as_raw_fd(), sys::IN | sys::EDGE, LISTENER)?;
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

struct Server {
    epoll: Epoll,
    listener: TcpListener,
    /// Indexed by descriptor number, which is also the token.
    connections: Vec<Option<Connection>>,
    buffer: Vec<u8>,
}

struct Connection {
    socket: OwnedFd,
    /// Received and not yet sent. Nothing is read before it is empty again.
    backlog: Vec<u8>,
}

impl Server {
    fn accept(&mut self) -> io::Result<()> {
        loop {
            let socket = match sys::accept(self.listener.as_fd()) {
                Ok(socket) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            let fd = socket.as_raw_fd();
            let index = fd as usize;
            self.epoll.add(fd, sys::IN | sys::OUT | sys::RDHUP | sys::EDGE, index as u64)?;
            if self.connections.len() <= index {
                self.connections.resize_with(index + 1, || None);
            }
            self.connections[index] = Some(Connection { socket, backlog: Vec::new() });
        }
    }

    fn ready(&mut self, index: usize) {
        let Some(connection) = &mut self.connections[index] else { return };
        match connection.echo(&mut self.buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // Closing the descriptor also removes it from the epoll set.
            Ok(()) | Err(_) => self.connections[index] = None,
        }
    }
}

impl Connection {
    /// Goes on until the kernel says `WouldBlock`, in either direction. `Ok` is the end of the stream.
    fn echo(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        if !self.backlog.is_empty() {
            self.flush()?;
        }
        loop {
            let received = sys::recv(self.socket.as_fd(), buffer)?;
            if received == 0 {
                return Ok(());
            }
            let mut rest = &buffer[..received];
            while !rest.is_empty() {
                match sys::send(self.socket.as_fd(), rest) {
                    Ok(sent) => rest = &rest[sent..],
                    Err(error) => {
                        self.backlog.extend_from_slice(rest);
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Sends all that was left, or ends with `WouldBlock`.
    fn flush(&mut self) -> io::Result<()> {
        while !self.backlog.is_empty() {
            let sent = sys::send(self.socket.as_fd(), &self.backlog)?;
            self.backlog.drain(..sent);
        }
        self.backlog = Vec::new();
        Ok(())
    }
}
