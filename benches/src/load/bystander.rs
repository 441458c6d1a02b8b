//! How long an ordinary client waits while others keep the server busy: two connections that flood, or a storm of
//! new connections.
//!
//! One thread does both parts. It looks at the probe before anything else and does the other work in small portions,
//! so what the client itself adds to a latency is below the time of one such portion, and the same for all servers.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::connect::{connect, start_connect};
use crate::pattern;
use crate::stats;
use crate::sys::{self, Epoll, Event};

/// Round trips of the probe.
#[derive(Debug, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// The latency that `share` (0 to 1) of the round trips did not exceed, in microseconds.
    pub fn percentile(&self, share: f64) -> f64 {
        let micros: Vec<f64> = self.0.iter().map(|latency| latency.as_secs_f64() * 1e6).collect();
        stats::quantile(&micros, share)
    }

    /// Number of round trips.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there was no round trip.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One client that sends a message, waits for the answer, and pauses.
#[derive(Debug)]
pub struct Probe {
    socket: TcpStream,
    position: u64,
    pause: Duration,
    state: State,
    latencies: Latencies,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Pausing { until: Instant },
    Waiting { since: Instant },
}

const MESSAGE: usize = 64;
/// The probe's stream of bytes; others count from 0.
const PROBE: usize = 1 << 20;

impl Probe {
    /// Connects, with `pause` between an answer and the next message.
    ///
    /// # Errors
    /// The connection fails or the first message comes back wrong.
    pub fn connect(server: SocketAddr, pause: Duration) -> io::Result<Self> {
        let mut socket = connect(server)?;
        socket.write_all(pattern::slice(PROBE, 0, MESSAGE))?;
        let mut answer = [0; MESSAGE];
        socket.read_exact(&mut answer)?;
        pattern::verify(PROBE, 0, &answer)?;
        socket.set_nonblocking(true)?;
        let state = State::Pausing { until: Instant::now() };
        Ok(Self { socket, position: MESSAGE as u64, pause, state, latencies: Latencies::default() })
    }

    /// Sends if it is time to, takes an answer if there is one. Never blocks.
    fn poll(&mut self) -> io::Result<()> {
        match self.state {
            State::Pausing { until } => {
                let now = Instant::now();
                if now >= until {
                    // 64 bytes always fit into the buffer of a socket with nothing in flight.
                    self.socket.write_all(pattern::slice(PROBE, self.position, MESSAGE))?;
                    self.state = State::Waiting { since: now };
                }
            }
            State::Waiting { since } => {
                let mut answer = [0; MESSAGE];
                match sys::recv(self.socket.as_fd(), &mut answer) {
                    Ok(MESSAGE) => {
                        let now = Instant::now();
                        pattern::verify(PROBE, self.position, &answer)?;
                        self.position += MESSAGE as u64;
                        self.latencies.0.push(now - since);
                        self.state = State::Pausing { until: now + self.pause };
                    }
                    Ok(_) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the probe was cut off")),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        if since.elapsed() > PATIENCE {
                            return Err(io::Error::new(ErrorKind::TimedOut, "the probe was not answered"));
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Waits for the last answer and gives up the latencies.
    fn finish(mut self) -> io::Result<Latencies> {
        while let State::Waiting { .. } = self.state {
            sys::wait_readable(self.socket.as_fd(), Duration::from_millis(100))?;
            self.poll()?;
        }
        Ok(self.latencies)
    }
}

/// Bytes that a flooding connection has in flight.
const FLOOD: u64 = 1 << 20;
/// Bytes that it sends or receives between two looks at the probe.
const PORTION: usize = 32 * 1024;

/// Runs `probe` for `duration` while two connections send as fast as the server takes it. Returns the latencies and
/// how many bytes the floods got back.
///
/// # Errors
/// A connection is lost or comes back wrong.
pub fn flood(server: SocketAddr, mut probe: Probe, duration: Duration) -> io::Result<(Latencies, u64)> {
    let epoll = Epoll::new()?;
    let mut floods = Vec::new();
    for number in 0..2 {
        let socket = connect(server)?;
        socket.set_nonblocking(true)?;
        epoll.add(socket.as_raw_fd(), sys::IN | sys::OUT, number)?;
        floods.push(Flood { number: number as usize, socket, sent: 0, received: 0, full: false });
    }
    let mut events = [Event::EMPTY; 2];
    let mut buffer = vec![0; PORTION];
    let end = Instant::now() + duration;
    while Instant::now() < end {
        // Zero: the probe is polled, which at full load costs nothing that would otherwise be idle.
        let count = epoll.wait(&mut events, 0)?;
        probe.poll()?;
        for event in &events[..count] {
            let flood = &mut floods[event.token() as usize];
            flood.receive(&mut buffer)?;
            probe.poll()?;
            flood.send(&epoll)?;
            probe.poll()?;
        }
    }
    let latencies = probe.finish()?;
    Ok((latencies, floods.iter().map(|flood| flood.received).sum()))
}

struct Flood {
    number: usize,
    socket: TcpStream,
    sent: u64,
    received: u64,
    /// Everything allowed is in flight: writability is not asked for.
    full: bool,
}

impl Flood {
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        match sys::recv(self.socket.as_fd(), buffer) {
            Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "a flooding connection was closed")),
            Ok(count) => {
                pattern::verify(self.number, self.received, &buffer[..count])?;
                self.received += count as u64;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn send(&mut self, epoll: &Epoll) -> io::Result<()> {
        let room = FLOOD - (self.sent - self.received);
        let len = room.min(PORTION as u64) as usize;
        if len > 0 {
            match sys::send(self.socket.as_fd(), pattern::slice(self.number, self.sent, len)) {
                Ok(sent) => self.sent += sent as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        let full = self.sent - self.received == FLOOD;
        if full != self.full {
            self.full = full;
            let flags = if full { sys::IN } else { sys::IN | sys::OUT };
            epoll.modify(self.socket.as_raw_fd(), flags, self.number as u64)?;
        }
        Ok(())
    }
}

/// Runs `probe` while `count` connections arrive as fast as this client can open them, and until all are
/// established; they stay open until the end.
///
/// # Errors
/// A connection fails, or is not established in time.
pub fn connect_storm(server: SocketAddr, mut probe: Probe, count: usize) -> io::Result<Latencies> {
    let mut sockets = Vec::with_capacity(count);
    while sockets.len() < count {
        sockets.push(start_connect(server)?);
        probe.poll()?;
        // Under such a load packets are delivered by a kernel thread of this CPU; without a yield an answer would
        // wait for it until this thread's time slice ends, however soon the server has sent it.
        std::thread::yield_now();
    }
    let deadline = Instant::now() + PATIENCE;
    for socket in &sockets {
        // Established is what getpeername says; a refusal is what SO_ERROR says.
        while socket.peer_addr().is_err() {
            if let Some(error) = socket.take_error()? {
                return Err(error);
            }
            if Instant::now() > deadline {
                let text = format!("not all of {count} connections were established");
                return Err(io::Error::new(ErrorKind::TimedOut, text));
            }
            probe.poll()?;
        }
        probe.poll()?;
    }
    probe.finish()
}
