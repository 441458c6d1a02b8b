//! Echo on `mio`. Edge-triggered, as mio is on Linux: reading stops at a short read, which on epoll means that the
//! socket was empty, unless the event says that the peer has ended its writing.

use std::io::{self, ErrorKind, Read, Write};
use std::process::ExitCode;

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use twistor_benches::serve::{self, Options, announce, peer_main};

fn main() -> ExitCode {
    peer_main(serve)
}

fn serve(options: Options) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::from_std(serve::listen(options.address)?);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut connections = Connections::default();
    let mut buffer = vec![0; options.buffer];
    announce(listener.local_addr()?)?;
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.token() == LISTENER {
                connections.accept(&poll, &listener)?;
            } else {
                connections.ready(event, &mut buffer);
            }
        }
    }
}

const LISTENER: Token = Token(usize::MAX);

#[derive(Default)]
struct Connections {
    slots: Vec<Option<Connection>>,
    free: Vec<usize>,
}

struct Connection {
    stream: TcpStream,
    /// Received and not yet sent. Nothing is read before it is empty again.
    backlog: Vec<u8>,
}

impl Connections {
    fn accept(&mut self, poll: &Poll, listener: &TcpListener) -> io::Result<()> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            let index = self.free.pop().unwrap_or_else(|| {
                self.slots.push(None);
                self.slots.len() - 1
            });
            poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
            self.slots[index] = Some(Connection { stream, backlog: Vec::new() });
        }
    }

    fn ready(&mut self, event: &Event, buffer: &mut [u8]) {
        let index = event.token().0;
        let Some(connection) = &mut self.slots[index] else { return };
        match connection.echo(event, buffer) {
            Ok(true) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(false) | Err(_) => {
                self.slots[index] = None;
                self.free.push(index);
            }
        }
    }
}

impl Connection {
    /// `false` at the end of the stream.
    fn echo(&mut self, event: &Event, buffer: &mut [u8]) -> io::Result<bool> {
        if !self.backlog.is_empty() {
            self.flush()?;
        }
        loop {
            let received = self.stream.read(buffer)?;
            if received == 0 {
                return Ok(false);
            }
            let mut rest = &buffer[..received];
            while !rest.is_empty() {
                match self.stream.write(rest) {
                    Ok(sent) => rest = &rest[sent..],
                    Err(error) => {
                        self.backlog.extend_from_slice(rest);
                        return Err(error);
                    }
                }
            }
            if received < buffer.len() && !event.is_read_closed() {
                return Ok(true);
            }
        }
    }

    /// Sends all that was left, or ends with `WouldBlock`.
    fn flush(&mut self) -> io::Result<()> {
        while !self.backlog.is_empty() {
            let sent = self.stream.write(&self.backlog)?;
            self.backlog.drain(..sent);
        }
        self.backlog = Vec::new();
        Ok(())
    }
}
