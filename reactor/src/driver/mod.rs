//! The seam between the loop and whatever makes things happen.
//!
//! The loop asks a [`Driver`] for what *has happened* ([`Driver::next`]) and tells it what to start. A
//! readiness driver performs the `recv` when asked for the next completion; a simulated one has it ready. The
//! driver owns sockets and the clock, never calls anybody, and knows connections only by their token.
//!
//! The order of calls in a pass: [`wait`](Driver::wait) once, [`next`](Driver::next) until it returns `None`
//! with anything started in between, [`settle`](Driver::settle) once.

// The kernel is spoken to here and in `sys/`; everything above is safe code.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::core::address::{Address, UnixAddress};
#[cfg(unix)]
use crate::core::credentials::Credentials;
use crate::core::datagrams::DatagramQueue;
use crate::core::outbox::Outbox;
use crate::core::pool::Pool;
use crate::core::slots::Token;

mod backlog;
mod datagram;
#[cfg(feature = "testing")]
pub(crate) mod middleware;
mod ops;
pub(crate) mod options;
mod poll;
#[cfg(unix)]
mod rights;
#[cfg(feature = "testing")]
pub(crate) mod simulated;
pub(crate) mod socket;
#[cfg_attr(not(target_os = "linux"), path = "splice_none.rs")]
mod splice;
#[cfg(unix)]
mod unix;
mod waiter;

#[cfg(feature = "tls")]
pub(crate) use backlog::read_queued_file;
pub(crate) use datagram::{BATCH, DatagramBatch, DatagramsSent};
pub(crate) use ops::ticks;
use options::{
    ConnectSpec, DatagramOption, DatagramSpec, KeepAliveSpec, ListenSpec, UnixConnectSpec, UnixDatagramSpec,
    UnixListenSpec,
};
pub(crate) use poll::PollDriver;
#[cfg(feature = "testing")]
pub(crate) use simulated::SimDriver;
#[cfg(unix)]
pub(crate) use unix::check as check_unix_address;
pub(crate) use waiter::Waker;

/// Bytes read at once, and the size of the buffer that `data_received` borrows.
pub(crate) const SCRATCH: usize = 64 * 1024;

/// Where received bytes stand while a hook looks at them. One per reactor; moved out while a hook runs.
pub(crate) struct Scratch {
    buffer: Box<[u8]>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; SCRATCH].into_boxed_slice() }
    }
}

/// Which readiness a stream is watched for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Interest(u8);

impl Interest {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const READ: Self = Self(1);
    pub(crate) const WRITE: Self = Self(2);

    pub(crate) fn new(read: bool, write: bool) -> Self {
        Self(u8::from(read) | (u8::from(write) << 1))
    }

    pub(crate) fn reads(self) -> bool {
        self.0 & 1 != 0
    }

    pub(crate) fn writes(self) -> bool {
        self.0 & 2 != 0
    }
}

/// Something that happened.
pub(crate) enum Completion<'b> {
    /// A listener has a new stream, to be [adopted](Driver::adopt) or dropped.
    Accepted { listener: Token, stream: NewStream },
    /// One accept failed; the listener goes on.
    AcceptFailed { listener: Token, error: io::Error },
    /// No descriptor or memory is left; `shed` connections were refused. Accepting should pause.
    Exhausted { listener: Token, error: io::Error, shed: u32 },
    /// Bytes arrived; never empty.
    Received { stream: Token, data: &'b [u8] },
    /// Descriptors arrived, on bytes that come after them.
    #[cfg(unix)]
    Passed { stream: Token, descriptors: Vec<std::os::fd::OwnedFd>, data: &'b [u8] },
    /// The peer has finished sending.
    EndOfStream { stream: Token },
    /// Output may go on.
    Writable { stream: Token },
    /// A relayed stream has something to move.
    RelayReady { stream: Token },
    /// An attempt to connect succeeded.
    Connected { stream: Token, local: Address },
    /// A stream or an attempt is dead.
    Failed { stream: Token, error: io::Error },
    /// A socket for datagrams can be [received](Driver::receive_datagrams) from or sent to, or was told of an
    /// error that is lost if it is not looked at.
    Datagrams { socket: Token, readable: bool, writable: bool, error: Option<io::Error> },
    /// A descriptor is ready for what it is watched for.
    #[cfg(unix)]
    Ready { source: Token },
    /// Another thread or a signal asked for attention.
    Woken,
}

/// An accepted stream that nobody owns yet; dropping it closes it.
pub(crate) struct NewStream {
    socket: NewSocket,
    pub(crate) peer: Address,
    /// Its peer may pass descriptors.
    #[cfg(unix)]
    passes: bool,
}

enum NewSocket {
    Real(socket2::Socket),
    #[cfg(feature = "testing")]
    Simulated(simulated::SimStream),
}

impl NewStream {
    /// The kernel's socket; there is none in a simulation.
    fn real(&self) -> io::Result<&socket2::Socket> {
        match &self.socket {
            NewSocket::Real(socket) => Ok(socket),
            #[cfg(feature = "testing")]
            NewSocket::Simulated(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn into_real(self) -> io::Result<socket2::Socket> {
        match self.socket {
            NewSocket::Real(socket) => Ok(socket),
            #[cfg(feature = "testing")]
            NewSocket::Simulated(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// What became of an attempt to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sent {
    /// The outbox is empty.
    All,
    /// The kernel (or the write budget) takes no more now.
    Blocked,
}

/// What became of an attempt to relay.
#[derive(Debug)]
pub(crate) struct Relayed {
    /// Bytes that reached the target.
    pub(crate) moved: u64,
    pub(crate) state: RelayState,
}

/// Why a relay stopped for now.
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "nothing is relayed by the kernel there"))]
#[derive(Debug)]
pub(crate) enum RelayState {
    /// The source has nothing more at the moment.
    SourceDry,
    /// The target takes no more at the moment.
    TargetFull,
    /// The source ended and everything it sent was moved.
    Ended,
    /// The source failed.
    SourceFailed(io::Error),
    /// The target failed.
    TargetFailed(io::Error),
}

/// A kernel buffer between two streams; exists only where the system can relay without copying.
pub(crate) struct Relay {
    pipe: splice::Pipe,
}

/// Counts of what the driver asked of the kernel.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct DriverStats {
    pub(crate) waits: u64,
    pub(crate) receives: u64,
    pub(crate) sends: u64,
    pub(crate) accepts: u64,
    pub(crate) controls: u64,
    pub(crate) others: u64,
    pub(crate) stale_events: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
}

/// How much of one thing is done before others get their turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budgets {
    /// Bytes read from one stream per pass.
    pub(crate) read: usize,
    /// Bytes sent to one stream per flush.
    pub(crate) write: usize,
    /// Connections accepted from one listener per pass.
    pub(crate) accept: u32,
    /// Datagrams received from one socket per pass.
    pub(crate) datagrams: usize,
}

impl Default for Budgets {
    fn default() -> Self {
        Self { read: 256 * 1024, write: 1 << 20, accept: 64, datagrams: 256 }
    }
}

/// The drivers there are.
pub(crate) enum Driver {
    Poll(PollDriver),
    #[cfg(feature = "testing")]
    Simulated(SimDriver),
    /// Another one, with a tracer or an injector of faults above it.
    #[cfg(feature = "testing")]
    Middleware(Box<middleware::Middleware>),
}

/// Passes a call on to whichever driver it is.
macro_rules! each {
    ($driver:expr, $inner:ident => $call:expr) => {
        match $driver {
            Driver::Poll($inner) => $call,
            #[cfg(feature = "testing")]
            Driver::Simulated($inner) => $call,
            #[cfg(feature = "testing")]
            Driver::Middleware($inner) => $call,
        }
    };
}

impl Driver {
    /// Blocks until something happens or `timeout` has passed; the only call that blocks.
    #[inline(always)]
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        each!(self, driver => driver.wait(timeout))
    }

    /// Whether a signal handler cut the last wait short with nothing to report; asked once.
    pub(crate) fn take_interrupted(&mut self) -> bool {
        each!(self, driver => driver.take_interrupted())
    }

    /// The next thing that happened since the last wait.
    #[inline]
    pub(crate) fn next<'b>(&mut self, scratch: &'b mut Scratch) -> Option<Completion<'b>> {
        each!(self, driver => driver.next(&mut scratch.buffer))
    }

    /// [`next`](Self::next) for the middleware, which may offer less room.
    #[cfg(feature = "testing")]
    fn next_into<'b>(&mut self, buffer: &'b mut [u8]) -> Option<Completion<'b>> {
        each!(self, driver => driver.next(buffer))
    }

    /// Whether time is not real, and there is only this thread.
    pub(crate) fn is_simulated(&self) -> bool {
        match self {
            Self::Poll(_) => false,
            #[cfg(feature = "testing")]
            Self::Simulated(_) => true,
            #[cfg(feature = "testing")]
            Self::Middleware(middleware) => middleware.is_simulated(),
        }
    }

    /// Tries to send what is in the outbox, within the write budget. Never blocks.
    ///
    /// # Errors
    ///
    /// The stream's failure, or `UnexpectedEof` when a queued file is shorter than it was said to be.
    #[inline]
    pub(crate) fn send(&mut self, stream: Token, outbox: &mut Outbox, pool: &Pool) -> io::Result<Sent> {
        each!(self, driver => driver.send(stream, outbox, pool))
    }

    /// Tries to send one small buffer to a socket; returns how much of it was taken.
    #[inline]
    pub(crate) fn send_small(&mut self, stream: Token, data: &[u8]) -> io::Result<usize> {
        each!(self, driver => driver.send_small(stream, data))
    }

    pub(crate) fn now(&self) -> Instant {
        each!(self, driver => driver.now())
    }

    /// Whether the next wait must not wait: there are interest changes that the poller has not heard of, or
    /// descriptors that are always ready.
    pub(crate) fn has_changes(&self) -> bool {
        each!(self, driver => driver.has_changes())
    }

    /// Applies the interest changes of this pass.
    pub(crate) fn settle(&mut self) {
        each!(self, driver => driver.settle());
    }

    /// Opens a listener; the address is the real one, also for port 0.
    pub(crate) fn listen(&mut self, token: Token, spec: &ListenSpec) -> io::Result<SocketAddr> {
        each!(self, driver => driver.listen(token, spec))
    }

    /// Starts an attempt to connect, which ends in `Connected` or `Failed`.
    pub(crate) fn connect(&mut self, token: Token, spec: &ConnectSpec) -> io::Result<()> {
        each!(self, driver => driver.connect(token, spec))
    }

    /// Opens a socket for datagrams and watches it for reading; the address is the real one, also for port 0.
    pub(crate) fn bind_datagram(&mut self, token: Token, spec: &DatagramSpec) -> io::Result<Address> {
        each!(self, driver => driver.bind_datagram(token, spec))
    }

    /// Opens a Unix socket for datagrams and watches it for reading; its address, and how long a datagram may
    /// be that is sent from it.
    pub(crate) fn bind_unix_datagram(
        &mut self,
        token: Token,
        spec: &UnixDatagramSpec,
    ) -> io::Result<(UnixAddress, usize)> {
        each!(self, driver => driver.bind_unix_datagram(token, spec))
    }

    /// Receives at most `count` datagrams of at most `max` bytes each into `batch`, whose old content is
    /// gone.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if nothing is there, else what the socket was told since, such as a refusal.
    pub(crate) fn receive_datagrams(
        &mut self,
        socket: Token,
        batch: &mut DatagramBatch,
        count: usize,
        max: usize,
    ) -> io::Result<()> {
        each!(self, driver => driver.receive_datagrams(socket, batch, count, max))
    }

    /// Tries to send what is queued, within the write budget. Never blocks.
    ///
    /// # Errors
    ///
    /// The first datagram still queued cannot go, or the socket was told of a refusal.
    pub(crate) fn send_datagrams(
        &mut self,
        socket: Token,
        queue: &mut DatagramQueue<Address>,
    ) -> io::Result<DatagramsSent> {
        each!(self, driver => driver.send_datagrams(socket, queue))
    }

    /// Changes something about an open socket for datagrams.
    pub(crate) fn set_datagram_option(&mut self, socket: Token, option: DatagramOption) -> io::Result<()> {
        each!(self, driver => driver.set_datagram_option(socket, option))
    }

    /// Opens a listening Unix socket.
    pub(crate) fn listen_unix(&mut self, token: Token, spec: &UnixListenSpec) -> io::Result<()> {
        each!(self, driver => driver.listen_unix(token, spec))
    }

    /// Starts an attempt to connect to a Unix socket, which ends in `Connected` or `Failed`.
    pub(crate) fn connect_unix(&mut self, token: Token, spec: &UnixConnectSpec) -> io::Result<()> {
        each!(self, driver => driver.connect_unix(token, spec))
    }

    /// Who is at the other end of a Unix stream.
    #[cfg(unix)]
    pub(crate) fn peer_credentials(&mut self, stream: Token) -> io::Result<Credentials> {
        each!(self, driver => driver.peer_credentials(stream))
    }

    /// Takes an accepted stream in under `token` and watches it for reading.
    pub(crate) fn adopt(&mut self, token: Token, stream: NewStream) -> io::Result<()> {
        each!(self, driver => driver.adopt(token, stream))
    }

    /// Our address of an accepted stream, asked of the kernel.
    pub(crate) fn local_addr(&mut self, stream: &NewStream) -> io::Result<Address> {
        each!(self, driver => driver.local_addr(stream))
    }

    /// Watches a descriptor, which need not be a socket, for nothing as yet. What is ready for it is only
    /// reported.
    #[cfg(unix)]
    pub(crate) fn watch_descriptor(
        &mut self,
        token: Token,
        descriptor: std::os::fd::OwnedFd,
    ) -> io::Result<()> {
        each!(self, driver => driver.watch_descriptor(token, descriptor))
    }

    /// Takes a stream in that stands on descriptors of any kind. It is watched for nothing as yet.
    #[cfg(unix)]
    pub(crate) fn adopt_pipe(&mut self, token: Token, ends: options::PipeEnds) -> io::Result<()> {
        each!(self, driver => driver.adopt_pipe(token, ends))
    }

    /// Takes a connected stream socket in, if it is one; its own address and the peer's. It is watched for
    /// nothing as yet.
    #[cfg(unix)]
    pub(crate) fn adopt_socket(
        &mut self,
        token: Token,
        descriptor: std::os::fd::OwnedFd,
    ) -> io::Result<(Address, Address)> {
        each!(self, driver => driver.adopt_socket(token, descriptor))
    }

    /// Takes a listening stream socket in, if it is one.
    #[cfg(unix)]
    pub(crate) fn adopt_listener(
        &mut self,
        token: Token,
        descriptor: std::os::fd::OwnedFd,
    ) -> io::Result<Address> {
        each!(self, driver => driver.adopt_listener(token, descriptor))
    }

    /// Duplicates a listening socket for another process; whether it has a file that goes with it.
    #[cfg(unix)]
    pub(crate) fn share_listener(&mut self, token: Token) -> io::Result<(std::os::fd::OwnedFd, bool)> {
        each!(self, driver => driver.share_listener(token))
    }

    /// The socket file of a listener is somebody else's from now on: it stays when the listener is closed.
    #[cfg(unix)]
    pub(crate) fn give_socket_file_away(&mut self, token: Token) {
        each!(self, driver => driver.give_socket_file_away(token));
    }

    /// The socket file of an adopted listener goes with it from now on.
    #[cfg(unix)]
    pub(crate) fn own_socket_file(&mut self, token: Token) -> io::Result<()> {
        each!(self, driver => driver.own_socket_file(token))
    }

    /// What an adopted listener accepts takes descriptors that peers pass.
    #[cfg(unix)]
    pub(crate) fn take_descriptors(&mut self, listener: Token) {
        each!(self, driver => driver.take_descriptors(listener));
    }

    /// What the source is to be watched for. Reading stops at once; the poller hears of it at settle.
    #[inline]
    pub(crate) fn set_interest(&mut self, token: Token, interest: Interest) {
        each!(self, driver => driver.set_interest(token, interest));
    }

    /// Ends our direction of a stream.
    pub(crate) fn shutdown(&mut self, stream: Token) -> io::Result<()> {
        each!(self, driver => driver.shutdown(stream))
    }

    /// Closes a listener or a stream.
    pub(crate) fn close(&mut self, token: Token) {
        each!(self, driver => driver.close(token, false));
    }

    /// Closes a stream so that the peer sees a reset.
    pub(crate) fn abort(&mut self, token: Token) {
        each!(self, driver => driver.close(token, true));
    }

    pub(crate) fn set_nodelay(&mut self, token: Token, on: bool) -> io::Result<()> {
        each!(self, driver => driver.set_nodelay(token, on))
    }

    pub(crate) fn set_keep_alive(
        &mut self,
        token: Token,
        keep_alive: Option<KeepAliveSpec>,
    ) -> io::Result<()> {
        each!(self, driver => driver.set_keep_alive(token, keep_alive))
    }

    /// A kernel buffer to relay through, or `None` where relaying is done by copying.
    pub(crate) fn new_relay(&mut self, source: Token, target: Token) -> Option<Relay> {
        each!(self, driver => driver.new_relay(source, target))
    }

    /// Whether the stream's input is reported as `RelayReady` instead of being read.
    pub(crate) fn set_relaying(&mut self, stream: Token, relaying: bool) {
        each!(self, driver => driver.set_relaying(stream, relaying));
    }

    /// Moves about `budget` bytes from `source` to `target`; with none, only those on their way already.
    pub(crate) fn relay(
        &mut self,
        source: Token,
        target: Token,
        relay: &mut Relay,
        budget: usize,
    ) -> Relayed {
        each!(self, driver => driver.relay(source, target, relay, budget))
    }

    pub(crate) fn waker(&self) -> Waker {
        each!(self, driver => driver.waker())
    }

    /// The descriptor that a signal handler writes to.
    #[cfg(unix)]
    pub(crate) fn signal_fd(&mut self) -> io::Result<std::os::fd::RawFd> {
        each!(self, driver => driver.signal_fd())
    }

    /// What is readable when a pass would find something, where there is a kernel.
    #[cfg(unix)]
    pub(crate) fn descriptor(&self) -> Option<std::sync::Arc<polling::Poller>> {
        each!(self, driver => driver.descriptor())
    }

    pub(crate) fn stats(&self) -> DriverStats {
        each!(self, driver => driver.stats())
    }

    /// The addresses of a host by its name, where the driver knows names; `None` leaves it to the system.
    pub(crate) fn resolve(&self, name: &str) -> Option<io::Result<Vec<std::net::IpAddr>>> {
        each!(self, driver => driver.resolve(name))
    }

    /// A number to begin random numbers with: unpredictable, unless everything is to be repeatable.
    pub(crate) fn seed(&self) -> u64 {
        each!(self, driver => driver.seed())
    }
}

/// Opens the descriptor kept in reserve for the moment when no other can be had.
fn open_reserve() -> io::Result<File> {
    if cfg!(unix) { File::open("/dev/null") } else { Err(io::ErrorKind::Unsupported.into()) }
}
