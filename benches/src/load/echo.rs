//! Many connections to an echo server, each with a fixed number of messages in flight.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use super::PATIENCE;
use super::channel::{Channel, Wire};
use crate::pattern;
use crate::sys::{self, Epoll, Event};

/// How much is sent, and in which portions.
#[derive(Debug, Clone, Copy)]
pub struct Echo {
    /// Messages in all, over all connections. Rounded up to the same number for each.
    pub messages: u64,
    /// Bytes of a message.
    pub size: usize,
    /// Messages that a connection sends before it wants an answer.
    pub in_flight: usize,
    /// When the next is sent.
    pub pace: Pace,
}

/// When a connection sends again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// When all in flight have come back: one send per batch.
    Batch,
    /// As soon as one has come back.
    Stream,
}

/// Connected clients.
#[derive(Debug)]
pub struct EchoClients {
    epoll: Epoll,
    clients: Vec<Client>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Client {
    /// Chooses this client's bytes.
    number: usize,
    channel: Channel,
    sent: u64,
    received: u64,
    /// Where this run began, in bytes, and where it ends.
    start: u64,
    goal: u64,
    blocked: bool,
}

/// Bytes of the message with which a new connection proves that the server serves it.
const GREETING: usize = 64;

impl EchoClients {
    /// Connects `count` clients, one after the other; each has one message echoed, so that the server has accepted
    /// it and holds whatever it allocates at first use.
    ///
    /// # Errors
    /// A connection fails or comes back wrong.
    pub fn connect(server: SocketAddr, wire: &Wire, count: usize) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let mut clients = Vec::with_capacity(count);
        for number in 0..count {
            let client = Client::greet(server, wire, number)?;
            epoll.add(client.channel.as_raw_fd(), sys::IN, number as u64)?;
            clients.push(client);
        }
        Ok(Self { epoll, clients, buffer: vec![0; 128 * 1024] })
    }

    /// Number of messages that [`run`](Self::run) really sends.
    pub fn messages(&self, load: &Echo) -> u64 {
        load.messages.div_ceil(self.clients.len() as u64) * self.clients.len() as u64
    }

    /// Sends the load and returns when all of it has come back.
    ///
    /// # Errors
    /// A wrong byte, a lost connection, or a server that has stopped answering.
    pub fn run(&mut self, load: &Echo) -> io::Result<()> {
        let share = load.messages.div_ceil(self.clients.len() as u64) * load.size as u64;
        for client in &mut self.clients {
            client.start = client.sent;
            client.goal = client.sent + share;
        }
        for client in &mut self.clients {
            client.fill(load, &self.epoll)?;
        }
        let mut events = [Event::EMPTY; 256];
        let mut unfinished = self.clients.len();
        while unfinished > 0 {
            let count = self.epoll.wait(&mut events, PATIENCE.as_millis() as i32)?;
            if count == 0 {
                let waiting = self.clients.iter().filter(|client| client.received < client.goal).count();
                let text = format!("no answer for {PATIENCE:?}; {waiting} connections are waiting");
                return Err(io::Error::new(ErrorKind::TimedOut, text));
            }
            for event in &events[..count] {
                let client = &mut self.clients[event.token() as usize];
                if event.flags() & !sys::OUT != 0 {
                    client.receive(&mut self.buffer)?;
                }
                client.fill(load, &self.epoll)?;
                if client.received == client.goal && client.sent == client.goal {
                    // At most once per run: nothing more arrives for a client at its goal.
                    unfinished -= 1;
                }
            }
        }
        Ok(())
    }
}

impl Client {
    fn greet(server: SocketAddr, wire: &Wire, number: usize) -> io::Result<Self> {
        let channel = Channel::greet(server, wire, number, GREETING)?;
        channel.socket().set_nonblocking(true)?;
        let position = GREETING as u64;
        Ok(Self { number, channel, sent: position, received: position, start: 0, goal: 0, blocked: false })
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        while self.receive_some(buffer)? && self.channel.reads_on() {}
        Ok(())
    }

    /// False if there was nothing.
    fn receive_some(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let count = match self.channel.read(buffer) {
            Ok(0) => {
                let text = format!("connection {}: closed by the server", self.number);
                return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
            }
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        if self.received + count as u64 > self.sent {
            let text = format!("connection {}: more came back than was sent", self.number);
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
        pattern::verify(self.number, self.received, &buffer[..count])?;
        self.received += count as u64;
        Ok(true)
    }

    /// Sends what the window allows.
    fn fill(&mut self, load: &Echo, epoll: &Epoll) -> io::Result<()> {
        let window = (load.size * load.in_flight) as u64;
        let step = if load.pace == Pace::Batch { window } else { load.size as u64 };
        let whole = (self.received - self.start) / step * step;
        let allowed = self.goal.min(self.start + whole + window);
        while self.sent < allowed {
            let len = (allowed - self.sent).min(pattern::LONGEST as u64) as usize;
            match self.channel.write(pattern::slice(self.number, self.sent, len)) {
                Ok(sent) => self.sent += sent as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return self.set_blocked(true, epoll);
                }
                Err(error) => return Err(error),
            }
        }
        if self.channel.is_blocked() {
            match self.channel.flush() {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        self.set_blocked(self.channel.is_blocked(), epoll)
    }

    fn set_blocked(&mut self, blocked: bool, epoll: &Epoll) -> io::Result<()> {
        if self.blocked == blocked {
            return Ok(());
        }
        self.blocked = blocked;
        let flags = if blocked { sys::IN | sys::OUT } else { sys::IN };
        epoll.modify(self.channel.as_raw_fd(), flags, self.number as u64)
    }
}
