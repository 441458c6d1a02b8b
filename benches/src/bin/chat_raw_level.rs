//! Chat on epoll by hand, level-triggered: every line goes to every member, one `send` each. A member that does not
//! read is kept up to [`LIMIT`] bytes behind, then dropped.

use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::ExitCode;

use twistor_benches::chat::LineCutter;
use twistor_benches::serve::{self, Options, announce, peer_main};
use twistor_benches::sys::{self, Epoll, Event};

fn main() -> ExitCode {
    peer_main(serve)
}

fn serve(options: Options) -> io::Result<()> {
    let listener = serve::listen(options.address)?;
    let epoll = Epoll::new()?;
    epoll.add(listener.as_raw_fd(), sys::IN, LISTENER)?;
    let mut server = Server { epoll, listener, members: Vec::new(), buffer: vec![0; options.buffer] };
    let mut events = [Event::EMPTY; 1024];
    announce(server.listener.local_addr()?)?;
    loop {
        let count = server.epoll.wait(&mut events, -1)?;
        for event in &events[..count] {
            if event.token() == LISTENER {
                server.accept()?;
            } else {
                server.ready(event.token() as usize, event.flags());
            }
        }
    }
}

const LISTENER: u64 = u64::MAX;
/// Accepts per pass.
const ACCEPTS: usize = 64;
/// Bytes that a member may be behind.
const LIMIT: usize = 1 << 20;

struct Server {
    epoll: Epoll,
    listener: TcpListener,
    /// Indexed by descriptor number, which is also the token.
    members: Vec<Option<Member>>,
    buffer: Vec<u8>,
}

struct Member {
    socket: OwnedFd,
    lines: LineCutter,
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
            if self.members.len() <= index {
                self.members.resize_with(index + 1, || None);
            }
            self.members[index] = Some(Member { socket, lines: LineCutter::new(), backlog: Vec::new() });
        }
        Ok(())
    }

    fn ready(&mut self, index: usize, flags: u32) {
        if flags & sys::OUT != 0 {
            self.change(index, Member::flush);
        }
        if flags & !sys::OUT != 0 {
            self.receive(index);
        }
    }

    fn receive(&mut self, index: usize) {
        let Some(member) = &mut self.members[index] else { return };
        let received = match sys::recv(member.socket.as_fd(), &mut self.buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Ok(0) | Err(_) => {
                self.members[index] = None;
                return;
            }
            Ok(received) => received,
        };
        if let Some(lines) = member.lines.feed(&self.buffer[..received]) {
            for index in 0..self.members.len() {
                self.change(index, |member, epoll| member.send(epoll, &lines));
            }
        }
    }

    /// Drops the member if `change` fails.
    fn change(&mut self, index: usize, change: impl FnOnce(&mut Member, &Epoll) -> io::Result<()>) {
        if let Some(member) = &mut self.members[index]
            && change(member, &self.epoll).is_err()
        {
            self.members[index] = None;
        }
    }
}

impl Member {
    fn send(&mut self, epoll: &Epoll, lines: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        if self.backlog.is_empty() {
            sent = match sys::send(self.socket.as_fd(), lines) {
                Ok(sent) => sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            };
            if sent < lines.len() {
                self.interest(epoll, sys::IN | sys::OUT)?;
            }
        }
        if self.backlog.len() + lines.len() - sent > LIMIT {
            return Err(io::Error::other("does not read"));
        }
        self.backlog.extend_from_slice(&lines[sent..]);
        Ok(())
    }

    fn flush(&mut self, epoll: &Epoll) -> io::Result<()> {
        match sys::send(self.socket.as_fd(), &self.backlog) {
            Ok(sent) => drop(self.backlog.drain(..sent)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if self.backlog.is_empty() { self.interest(epoll, sys::IN) } else { Ok(()) }
    }

    fn interest(&self, epoll: &Epoll, flags: u32) -> io::Result<()> {
        let fd = self.socket.as_raw_fd();
        epoll.modify(fd, flags, fd as u64)
    }
}
