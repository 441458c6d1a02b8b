//! The driver for real sockets: level-triggered readiness from `polling`, turned into completions.
//!
//! A stream is registered once for reading; write interest exists only while output is blocked. One `recv`
//! per ready stream: after a short read nothing is read again to see `EAGAIN`, because a level-triggered
//! poller reports whatever is left. The invariant: `wanted` is what the loop asked for last and counts at
//! once; `registered` is what the poller knows and follows at settle.

mod accept;
mod datagrams;
#[cfg(unix)]
mod pipe;
#[cfg(unix)]
mod unix;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use polling::{Event, PollMode};
use socket2::{SockRef, Socket};

use super::backlog::send_backlog;
use super::ops;
use super::options::{ConnectSpec, KeepAliveSpec, ListenSpec, TcpOptions};
#[cfg(not(unix))]
use super::options::{UnixConnectSpec, UnixDatagramSpec, UnixListenSpec};
#[cfg(unix)]
use super::rights::Received;
use super::socket;
use super::waiter::{Readiness, WAKE_KEY, Waiter};
use super::{Budgets, Completion, DriverStats, Interest, NewStream, Relay, RelayState, Relayed};
use super::{Sent, Waker, open_reserve};
use crate::core::address::Address;
#[cfg(not(unix))]
use crate::core::address::UnixAddress;
use crate::core::outbox::Outbox;
use crate::core::pool::Pool;
use crate::core::random::Generator;
use crate::core::slots::Token;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Vacant,
    Listener,
    Connecting,
    Stream,
    /// A stream whose input is relayed by the loop instead of being read here.
    Relayed,
    /// A socket for datagrams.
    Datagram,
    /// A stream that stands on descriptors in the table of pipes.
    #[cfg(unix)]
    Pipe,
    /// A Unix stream whose peer may pass descriptors.
    #[cfg(unix)]
    Passing,
    /// A descriptor of the user's, whose readiness is only reported.
    #[cfg(unix)]
    Descriptor,
    /// A descriptor that no poller takes, like a regular file: it is always ready.
    #[cfg(unix)]
    AlwaysReady,
}

struct Source {
    generation: u32,
    kind: Kind,
    wanted: Interest,
    /// `None`: the poller does not know the socket.
    registered: Option<Interest>,
    /// Stands on the list of interest changes.
    changed: bool,
    /// Urgent data came while the input was relayed.
    urgent: bool,
    socket: Option<Socket>,
}

impl Source {
    const VACANT: Self = Self {
        generation: 0,
        kind: Kind::Vacant,
        wanted: Interest::NONE,
        registered: None,
        changed: false,
        urgent: false,
        socket: None,
    };
}

/// The source whose event is being worked on.
#[derive(Clone, Copy)]
enum Turn {
    /// Bytes that may still be read.
    Read(Token, usize),
    /// Connections that may still be accepted.
    Accept(Token, u32),
}

/// What one read brought: bytes, 0 at the end of the stream, or an error.
type ReadOutcome = Result<(Token, usize), (Token, io::Error)>;

/// How a turn went on.
enum GoneOn<'b> {
    Read(ReadOutcome),
    #[cfg(unix)]
    Passed(Token, Received),
    Completed(Completion<'b>),
    Over,
}

/// The driver.
pub(crate) struct PollDriver {
    waiter: Waiter,
    /// Relays go through the kernel; the portable way is to copy.
    splices: bool,
    /// Datagrams go many at a time where the system can do that; the portable way is one by one.
    batches: bool,
    sources: Vec<Source>,
    /// Sources whose interest differs from what is registered.
    changes: Vec<Token>,
    /// Sources of the kind `AlwaysReady`, and how many of them have been reported in this pass.
    #[cfg(unix)]
    always_ready: Vec<Token>,
    #[cfg(unix)]
    reported_ready: usize,
    /// In a box, because the driver is moved about.
    #[cfg(unix)]
    unix: Box<unix::UnixTables>,
    /// What is left of the turn of the source whose event came last.
    turn: Option<Turn>,
    budgets: Budgets,
    /// The target of each attempt to connect, for its error.
    targets: HashMap<Token, Address>,
    /// Options of what each listener accepts, for systems where sockets do not inherit them.
    accept_options: HashMap<Token, TcpOptions>,
    /// Given up for a moment when no descriptor is left, to refuse connections instead of leaving them
    /// waiting.
    reserve: Option<File>,
    stats: DriverStats,
}

impl PollDriver {
    pub(crate) fn new(portable: bool, budgets: Budgets) -> io::Result<Self> {
        Ok(Self {
            waiter: Waiter::new(portable)?,
            splices: !portable,
            batches: cfg!(target_os = "linux") && !portable,
            sources: Vec::new(),
            changes: Vec::new(),
            #[cfg(unix)]
            always_ready: Vec::new(),
            #[cfg(unix)]
            reported_ready: 0,
            #[cfg(unix)]
            unix: Box::default(),
            turn: None,
            budgets,
            targets: HashMap::new(),
            accept_options: HashMap::new(),
            reserve: None,
            stats: DriverStats::default(),
        })
    }

    #[inline(always)]
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.turn = None;
        self.stats.waits += 1;
        self.waiter.wait(timeout)
    }

    /// The next file that is watched for something, once a pass.
    #[cfg(unix)]
    #[inline]
    fn next_file<'b>(&mut self, scratch: &'b mut [u8]) -> Option<Completion<'b>> {
        if self.always_ready.is_empty() { None } else { self.next_always_ready(scratch) }
    }

    #[cfg(unix)]
    #[cold]
    fn next_always_ready<'b>(&mut self, scratch: &'b mut [u8]) -> Option<Completion<'b>> {
        while let Some(&key) = self.always_ready.get(self.reported_ready) {
            self.reported_ready += 1;
            if !self.is_wanted(key) {
                continue;
            }
            if let Some(stream) = Token::of_output(key.key()) {
                return Some(Completion::Writable { stream });
            }
            if !self.reads_pipe(key) {
                return Some(Completion::Ready { source: key });
            }
            match self.read_pipe(key, self.budgets.read, scratch) {
                Ok((stream, 0)) => return Some(Completion::EndOfStream { stream }),
                Ok((stream, count)) => {
                    return Some(Completion::Received { stream, data: &scratch[..count] });
                }
                Err((_, error))
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err((stream, error)) => return Some(Completion::Failed { stream, error }),
            }
        }
        None
    }

    /// Whether what is always ready is wanted for what it is ready for.
    #[cfg(unix)]
    fn is_wanted(&self, key: Token) -> bool {
        let output = Token::of_output(key.key());
        let token = output.unwrap_or(key);
        let source = self.sources.get(token.index());
        source.filter(|source| source.generation == token.generation()).is_some_and(|source| {
            match source.kind {
                Kind::Pipe if output.is_some() => source.wanted.writes(),
                Kind::Pipe => source.wanted.reads(),
                Kind::AlwaysReady => source.wanted != Interest::NONE,
                _ => false,
            }
        })
    }

    #[cfg(not(unix))]
    fn next_file<'b>(&mut self, _: &'b mut [u8]) -> Option<Completion<'b>> {
        None
    }

    pub(super) fn take_interrupted(&mut self) -> bool {
        self.waiter.take_interrupted()
    }

    #[inline]
    pub(super) fn next<'b>(&mut self, scratch: &'b mut [u8]) -> Option<Completion<'b>> {
        loop {
            let outcome = match self.turn {
                None => {
                    let Some(event) = self.waiter.next() else { return self.next_file(scratch) };
                    let stream = Token::from_key(event.key);
                    // The usual event: read once, and that is it.
                    if event.is_just_input() && self.reads(stream) {
                        self.read(stream, self.budgets.read, scratch)
                    } else {
                        match self.begin(event) {
                            Some(completion) => return Some(completion),
                            None => continue,
                        }
                    }
                }
                Some(turn) => match self.go_on(turn, scratch) {
                    GoneOn::Read(outcome) => outcome,
                    #[cfg(unix)]
                    GoneOn::Passed(stream, Received { bytes, descriptors, .. }) => {
                        let data = &scratch[..bytes];
                        return Some(Completion::Passed { stream, descriptors, data });
                    }
                    GoneOn::Completed(completion) => return Some(completion),
                    GoneOn::Over => continue,
                },
            };
            // The scratch is lent here, where it is certain to be handed out.
            match outcome {
                Ok((stream, 0)) => return Some(Completion::EndOfStream { stream }),
                Ok((stream, count)) => return Some(Completion::Received { stream, data: &scratch[..count] }),
                Err((stream, error)) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                    _ => return Some(Completion::Failed { stream, error }),
                },
            }
        }
    }

    /// Goes on with what is left of a turn.
    #[inline(never)]
    fn go_on<'b>(&mut self, turn: Turn, scratch: &mut [u8]) -> GoneOn<'b> {
        self.turn = None;
        match turn {
            Turn::Read(stream, budget) if self.reads(stream) => {
                GoneOn::Read(self.read(stream, budget, scratch))
            }
            #[cfg(unix)]
            Turn::Read(stream, budget) if self.reads_pipe(stream) => {
                GoneOn::Read(self.read_pipe(stream, budget, scratch))
            }
            #[cfg(unix)]
            Turn::Read(stream, _) if self.reads_passing(stream) => {
                match self.receive_passed(stream, scratch) {
                    Ok(received) if received.descriptors.is_empty() => {
                        GoneOn::Read(Ok((stream, received.bytes)))
                    }
                    Ok(received) => GoneOn::Passed(stream, received),
                    Err(error) => GoneOn::Read(Err((stream, error))),
                }
            }
            Turn::Read(..) => GoneOn::Over,
            Turn::Accept(listener, budget) => {
                self.accept(listener, budget).map_or(GoneOn::Over, GoneOn::Completed)
            }
        }
    }

    /// Whether the token names a stream that is to be read: not paused, closed or handed over since its
    /// event.
    #[inline]
    fn reads(&self, stream: Token) -> bool {
        match self.sources.get(stream.index()) {
            Some(source) => {
                source.kind == Kind::Stream
                    && source.wanted.reads()
                    && source.generation == stream.generation()
            }
            None => false,
        }
    }

    /// Reads once. After a full buffer the turn goes on; a short read has emptied the socket, as far as
    /// anybody can know.
    #[inline]
    fn read(&mut self, stream: Token, budget: usize, scratch: &mut [u8]) -> ReadOutcome {
        let limit = budget.min(scratch.len());
        let Some(socket) = self.sources.get(stream.index()).and_then(|source| source.socket.as_ref()) else {
            return Err((stream, io::ErrorKind::WouldBlock.into()));
        };
        match ops::receive(socket, &mut scratch[..limit]) {
            Ok(count) => {
                self.stats.receives += 1;
                self.stats.bytes_received += count as u64;
                if count >= limit && limit < budget {
                    self.turn = Some(Turn::Read(stream, budget - limit));
                }
                Ok((stream, count))
            }
            Err(error) => {
                self.stats.receives += 1;
                Err((stream, error))
            }
        }
    }

    /// Looks at one event: what it means for its source, and what is to be done about it.
    #[inline(never)]
    fn begin<'b>(&mut self, event: Readiness) -> Option<Completion<'b>> {
        if event.key == WAKE_KEY {
            self.waiter.drain_wake();
            return Some(Completion::Woken);
        }
        #[cfg(unix)]
        if let Some(token) = Token::of_output(event.key) {
            return self.pipe_output_event(token, event);
        }
        let token = Token::from_key(event.key);
        let budgets = self.budgets;
        let Some(source) = self.source(token) else {
            self.stats.stale_events += 1;
            return None;
        };
        match source.kind {
            #[cfg(unix)]
            Kind::Passing => self.begin_stream(token, event),
            Kind::Stream => self.begin_stream(token, event),
            Kind::Relayed => {
                source.urgent |= event.urgent();
                if source.wanted == Interest::NONE && (event.error() || event.hung_up()) {
                    return self.unwanted(token, event);
                }
                if source.wanted.writes() && event.writable() {
                    return Some(Completion::Writable { stream: token });
                }
                (source.wanted.reads() && event.readable())
                    .then_some(Completion::RelayReady { stream: token })
            }
            Kind::Listener => {
                if source.wanted.reads() {
                    self.turn = Some(Turn::Accept(token, budgets.accept));
                }
                None
            }
            #[cfg(unix)]
            Kind::Pipe => {
                let wanted = source.wanted;
                self.pipe_input_event(token, event, wanted)
            }
            Kind::Connecting => event.writable().then(|| self.finish_connect(token)),
            Kind::Datagram => {
                let readable = source.wanted.reads() && event.readable();
                let writable = source.wanted.writes() && event.writable();
                // Receiving tells an error; without it, it has to be taken, or it would be reported forever.
                let error = match &source.socket {
                    Some(socket) if event.error() && !readable => socket.take_error().ok().flatten(),
                    _ => None,
                };
                (readable || writable || error.is_some()).then_some(Completion::Datagrams {
                    socket: token,
                    readable,
                    writable,
                    error,
                })
            }
            #[cfg(unix)]
            Kind::Descriptor => {
                if source.wanted == Interest::NONE {
                    // An error or a hang-up is reported whether wanted or not.
                    self.deregister(token);
                    return None;
                }
                let is_ready = (source.wanted.reads() && event.readable())
                    || (source.wanted.writes() && event.writable());
                is_ready.then_some(Completion::Ready { source: token })
            }
            Kind::Vacant => None,
            #[cfg(unix)]
            Kind::AlwaysReady => None,
        }
    }

    /// An event of a stream that is not just input.
    fn begin_stream<'b>(&mut self, token: Token, event: Readiness) -> Option<Completion<'b>> {
        let budget = self.budgets.read;
        let source = self.source(token)?;
        if event.urgent()
            && let Some(socket) = &source.socket
        {
            ops::discard_urgent(socket);
        }
        if source.wanted.reads() && event.readable() {
            self.turn = Some(Turn::Read(token, budget));
        } else if source.wanted == Interest::NONE && (event.error() || event.hung_up()) {
            return self.unwanted(token, event);
        }
        let source = self.source(token)?;
        (source.wanted.writes() && event.writable()).then_some(Completion::Writable { stream: token })
    }

    /// An error or a hang-up of a stream that is watched for nothing: reported whether wanted or not.
    fn unwanted<'b>(&mut self, token: Token, event: Readiness) -> Option<Completion<'b>> {
        if event.error() {
            let source = self.source(token)?;
            let error = source.socket.as_ref().and_then(|socket| socket.take_error().ok().flatten());
            let error = error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
            return Some(Completion::Failed { stream: token, error });
        }
        // An orderly end waits until somebody wants to read again; watched on, it would be reported forever.
        self.deregister(token);
        None
    }

    fn deregister(&mut self, token: Token) {
        let Some(source) = self.sources.get_mut(token.index()) else { return };
        if let (Some(socket), Some(_)) = (&source.socket, source.registered.take()) {
            self.stats.controls += 1;
            if let Err(error) = self.waiter.poller.delete(socket) {
                log::warn!("cannot deregister a socket: {error}");
            }
        }
    }

    #[inline]
    fn source(&mut self, token: Token) -> Option<&mut Source> {
        let source = self.sources.get_mut(token.index())?;
        (source.generation == token.generation() && source.kind != Kind::Vacant).then_some(source)
    }

    fn finish_connect<'b>(&mut self, stream: Token) -> Completion<'b> {
        let address = self.targets.remove(&stream);
        let outcome = match (self.source(stream).and_then(|source| source.socket.as_ref()), address) {
            (Some(socket), Some(address)) => {
                socket::finish_connect(socket, &address).and_then(|()| local_address(socket))
            }
            _ => Err(io::ErrorKind::NotConnected.into()),
        };
        match outcome {
            Ok(local) => {
                let kind = self.kind_of_connected(stream);
                if let Some(source) = self.source(stream) {
                    source.kind = kind;
                }
                self.set_interest(stream, Interest::READ);
                Completion::Connected { stream, local }
            }
            Err(error) => Completion::Failed { stream, error },
        }
    }

    #[cfg(unix)]
    fn kind_of_connected(&mut self, stream: Token) -> Kind {
        if self.unix.forget(stream) { Kind::Passing } else { Kind::Stream }
    }

    #[cfg(not(unix))]
    fn kind_of_connected(&mut self, _: Token) -> Kind {
        Kind::Stream
    }

    #[inline]
    fn socket(sources: &[Source], token: Token) -> Option<&Socket> {
        let source = sources.get(token.index())?;
        if source.generation == token.generation() { source.socket.as_ref() } else { None }
    }

    #[inline]
    pub(super) fn send_small(&mut self, stream: Token, data: &[u8]) -> io::Result<usize> {
        // A pipe has none: it goes the long way.
        let socket = Self::socket(&self.sources, stream).ok_or(io::ErrorKind::NotConnected)?;
        let result = ops::send(socket, data);
        self.stats.sends += 1;
        let sent = result?;
        self.stats.bytes_sent += sent as u64;
        Ok(sent)
    }

    pub(super) fn send(&mut self, stream: Token, outbox: &mut Outbox, pool: &Pool) -> io::Result<Sent> {
        let Some(socket) = Self::socket(&self.sources, stream) else {
            return self.send_otherwise(stream, outbox, pool);
        };
        send_backlog(socket, outbox, pool, self.budgets.write, &mut self.stats)
    }

    #[cold]
    fn send_otherwise(&mut self, stream: Token, outbox: &mut Outbox, pool: &Pool) -> io::Result<Sent> {
        #[cfg(unix)]
        return self.send_to_pipe(stream, outbox, pool);
        #[cfg(not(unix))]
        {
            let _ = (stream, outbox, pool);
            Err(io::ErrorKind::NotConnected.into())
        }
    }

    pub(super) fn now(&self) -> Instant {
        Instant::now()
    }

    /// Whether the next wait must not wait: there are changes to make, or files to report.
    pub(super) fn has_changes(&self) -> bool {
        #[cfg(unix)]
        if self.always_ready.iter().any(|key| self.is_wanted(*key)) {
            return true;
        }
        !self.changes.is_empty()
    }

    pub(super) fn settle(&mut self) {
        #[cfg(unix)]
        {
            self.reported_ready = 0;
        }
        while let Some(token) = self.changes.pop() {
            let Some(source) = self.source(token) else { continue };
            source.changed = false;
            if source.registered == Some(source.wanted) {
                continue;
            }
            if source.registered.is_none() && source.wanted == Interest::NONE {
                continue;
            }
            #[cfg(unix)]
            if source.kind == Kind::AlwaysReady {
                continue;
            }
            #[cfg(unix)]
            if source.kind == Kind::Pipe {
                if let Err(error) = self.register_pipe(token) {
                    log::error!("cannot change what a pipe is watched for: {error}");
                }
                continue;
            }
            if let Err(error) = self.register(token) {
                log::error!("cannot change what a socket is watched for: {error}");
            }
        }
    }

    /// Tells the poller what the source is wanted for.
    fn register(&mut self, token: Token) -> io::Result<()> {
        self.stats.controls += 1;
        let poller = std::sync::Arc::clone(&self.waiter.poller);
        let Some(source) = self.source(token) else { return Ok(()) };
        let Some(socket) = &source.socket else { return Ok(()) };
        let event = Event::new(token.key(), source.wanted.reads(), source.wanted.writes());
        match source.registered {
            // SAFETY: `close` removes the socket from the poller before it is dropped, but on Linux, where
            // epoll forgets a closed descriptor by itself.
            None => unsafe { poller.add_with_mode(socket, event, PollMode::Level) }?,
            Some(_) => poller.modify_with_mode(socket, event, PollMode::Level)?,
        }
        source.registered = Some(source.wanted);
        Ok(())
    }

    fn install(&mut self, token: Token, kind: Kind, socket: Socket, wanted: Interest) -> io::Result<()> {
        self.place(token, kind, socket, wanted);
        self.register(token).inspect_err(|_| self.sources[token.index()] = Source::VACANT)
    }

    /// Gives a socket its place in the table; the poller does not know it yet.
    fn place(&mut self, token: Token, kind: Kind, socket: Socket, wanted: Interest) {
        self.place_source(token, Source { kind, wanted, socket: Some(socket), ..Source::VACANT });
    }

    fn place_source(&mut self, token: Token, source: Source) {
        let index = token.index();
        if self.sources.len() <= index {
            if self.sources.capacity() <= index {
                self.sources.reserve_exact((index + 1 - self.sources.len()).max(index / 4).max(16));
            }
            self.sources.resize_with(index + 1, || Source::VACANT);
        }
        self.sources[index] = Source { generation: token.generation(), ..source };
    }

    pub(super) fn listen(&mut self, token: Token, spec: &ListenSpec) -> io::Result<SocketAddr> {
        let (socket, address) = socket::listen(spec)?;
        self.stats.others += 1;
        self.install_listener(token, socket)?;
        if !cfg!(target_os = "linux") {
            self.accept_options.insert(token, spec.tcp.clone());
        }
        Ok(address)
    }

    pub(super) fn connect(&mut self, token: Token, spec: &ConnectSpec) -> io::Result<()> {
        let socket = socket::connect(spec)?;
        self.stats.others += 1;
        self.install(token, Kind::Connecting, socket, Interest::WRITE)?;
        self.targets.insert(token, spec.address.into());
        Ok(())
    }

    #[cfg(not(unix))]
    pub(super) fn bind_unix_datagram(
        &mut self,
        _: Token,
        _: &UnixDatagramSpec,
    ) -> io::Result<(UnixAddress, usize)> {
        Err(no_unix_sockets())
    }

    #[cfg(not(unix))]
    pub(super) fn listen_unix(&mut self, _: Token, _: &UnixListenSpec) -> io::Result<()> {
        Err(no_unix_sockets())
    }

    #[cfg(not(unix))]
    pub(super) fn connect_unix(&mut self, _: Token, _: &UnixConnectSpec) -> io::Result<()> {
        Err(no_unix_sockets())
    }

    pub(super) fn adopt(&mut self, token: Token, stream: NewStream) -> io::Result<()> {
        #[cfg(unix)]
        let kind = if stream.passes { Kind::Passing } else { Kind::Stream };
        #[cfg(not(unix))]
        let kind = Kind::Stream;
        self.install(token, kind, stream.into_real()?, Interest::READ)
    }

    pub(super) fn local_addr(&mut self, stream: &NewStream) -> io::Result<Address> {
        self.stats.others += 1;
        local_address(stream.real()?)
    }

    #[cfg(unix)]
    pub(super) fn adopt_socket(
        &mut self,
        token: Token,
        descriptor: std::os::fd::OwnedFd,
    ) -> io::Result<(Address, Address)> {
        self.stats.others += 1;
        let (socket, local, peer) = socket::adopt_stream(descriptor)?;
        self.install(token, Kind::Stream, socket, Interest::NONE)?;
        Ok((local, peer))
    }

    #[cfg(unix)]
    pub(super) fn adopt_listener(
        &mut self,
        token: Token,
        descriptor: std::os::fd::OwnedFd,
    ) -> io::Result<Address> {
        self.stats.others += 1;
        let (socket, address) = socket::adopt_listener(descriptor)?;
        self.install_listener(token, socket)?;
        if !cfg!(target_os = "linux") && address.socket_addr().is_some() {
            self.accept_options.insert(token, TcpOptions::default());
        }
        Ok(address)
    }

    fn install_listener(&mut self, token: Token, socket: Socket) -> io::Result<()> {
        if self.reserve.is_none() {
            self.reserve = open_reserve().ok();
        }
        self.install(token, Kind::Listener, socket, Interest::READ)
    }

    #[inline]
    pub(super) fn set_interest(&mut self, token: Token, interest: Interest) {
        let Some(source) = self.source(token) else { return };
        if source.wanted == interest {
            return;
        }
        source.wanted = interest;
        if !source.changed {
            source.changed = true;
            self.changes.push(token);
        }
    }

    pub(super) fn shutdown(&mut self, stream: Token) -> io::Result<()> {
        self.stats.others += 1;
        #[cfg(unix)]
        if self.unix.pipes.contains_key(&stream) {
            return self.finish_pipe(stream);
        }
        self.with_socket(stream, |socket| socket.shutdown(std::net::Shutdown::Write))
    }

    pub(super) fn close(&mut self, token: Token, reset: bool) {
        if cfg!(not(target_os = "linux")) || self.is_shared(token) {
            self.deregister(token);
        }
        self.stats.others += 1;
        let Some(source) = self.source(token) else { return };
        if reset && let Some(socket) = &source.socket {
            // Zero linger makes the close a reset.
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
        let kind = source.kind;
        *source = Source { generation: source.generation, ..Source::VACANT };
        match kind {
            Kind::Connecting => {
                self.targets.remove(&token);
                #[cfg(unix)]
                self.unix.forget(token);
            }
            Kind::Listener => {
                self.accept_options.remove(&token);
                #[cfg(unix)]
                self.unix.forget(token);
            }
            #[cfg(unix)]
            Kind::AlwaysReady => self.not_always_ready(token),
            #[cfg(unix)]
            Kind::Pipe => {
                self.close_pipe(token);
            }
            #[cfg(unix)]
            Kind::Descriptor => {}
            #[cfg(unix)]
            Kind::Passing => {}
            #[cfg(unix)]
            Kind::Datagram => {
                self.unix.forget(token);
            }
            #[cfg(not(unix))]
            Kind::Datagram => {}
            Kind::Vacant | Kind::Stream | Kind::Relayed => {}
        }
    }

    #[cfg(unix)]
    fn not_always_ready(&mut self, key: Token) {
        if let Some(place) = self.always_ready.iter().position(|one| *one == key) {
            self.always_ready.remove(place);
            // The next one may have taken its place on the list.
            self.reported_ready -= usize::from(place < self.reported_ready);
        }
    }

    /// Whether somebody else may have the same file open, as another process a listener that it has
    /// inherited: then closing it here does not make epoll forget it.
    #[cfg(unix)]
    fn is_shared(&self, token: Token) -> bool {
        self.sources.get(token.index()).is_some_and(|source| {
            matches!(source.kind, Kind::Descriptor | Kind::Listener)
                && source.generation == token.generation()
        })
    }

    #[cfg(not(unix))]
    fn is_shared(&self, _: Token) -> bool {
        false
    }

    #[cfg(unix)]
    pub(super) fn watch_descriptor(
        &mut self,
        token: Token,
        descriptor: std::os::fd::OwnedFd,
    ) -> io::Result<()> {
        // It need not be a socket: it is only registered here, and closed.
        self.place(token, Kind::Descriptor, Socket::from(descriptor), Interest::NONE);
        match self.register(token) {
            // What epoll says of regular files and directories.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                self.sources[token.index()].kind = Kind::AlwaysReady;
                self.always_ready.push(token);
                Ok(())
            }
            result => result.inspect_err(|_| self.sources[token.index()] = Source::VACANT),
        }
    }

    fn with_socket<R>(&mut self, token: Token, f: impl FnOnce(&Socket) -> io::Result<R>) -> io::Result<R> {
        match self.source(token).and_then(|source| source.socket.as_ref()) {
            Some(socket) => f(socket),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    pub(super) fn set_nodelay(&mut self, token: Token, on: bool) -> io::Result<()> {
        self.stats.others += 1;
        self.with_socket(token, |socket| socket::set_nodelay(socket, on))
    }

    pub(super) fn set_keep_alive(&mut self, token: Token, spec: Option<KeepAliveSpec>) -> io::Result<()> {
        self.stats.others += 1;
        self.with_socket(token, |socket| socket::set_keep_alive(socket, spec))
    }

    pub(super) fn new_relay(&mut self, source: Token, target: Token) -> Option<Relay> {
        let is_plain = |token: Token| match self.sources.get(token.index()) {
            Some(source) => source.kind == Kind::Stream && source.generation == token.generation(),
            None => false,
        };
        if !self.splices || !is_plain(source) || !is_plain(target) {
            return None;
        }
        super::splice::Pipe::new().ok().map(|pipe| Relay { pipe })
    }

    pub(super) fn set_relaying(&mut self, stream: Token, relaying: bool) {
        if let Some(source) = self.source(stream) {
            match (source.kind, relaying) {
                (Kind::Stream, true) => source.kind = Kind::Relayed,
                (Kind::Relayed, false) => source.kind = Kind::Stream,
                _ => {}
            }
        }
    }

    pub(super) fn relay(
        &mut self,
        source: Token,
        target: Token,
        relay: &mut Relay,
        budget: usize,
    ) -> Relayed {
        let gone = |state: fn(io::Error) -> RelayState| Relayed {
            moved: 0,
            state: state(io::ErrorKind::NotConnected.into()),
        };
        if self.source(source).is_none() {
            return gone(RelayState::SourceFailed);
        }
        if self.source(target).is_none() {
            return gone(RelayState::TargetFailed);
        }
        let urgent = std::mem::take(&mut self.sources[source.index()].urgent);
        let sockets = (&self.sources[source.index()].socket, &self.sources[target.index()].socket);
        let (Some(from), Some(to)) = sockets else { return gone(RelayState::SourceFailed) };
        let relayed = relay.pipe.relay(from, to, urgent, budget, &mut self.stats.others);
        self.stats.bytes_received += relayed.moved;
        self.stats.bytes_sent += relayed.moved;
        relayed
    }

    pub(super) fn waker(&self) -> Waker {
        self.waiter.waker()
    }

    #[cfg(unix)]
    pub(super) fn signal_fd(&mut self) -> io::Result<std::os::fd::RawFd> {
        self.waiter.signal_fd()
    }

    #[cfg(unix)]
    pub(super) fn descriptor(&self) -> Option<std::sync::Arc<polling::Poller>> {
        Some(std::sync::Arc::clone(&self.waiter.poller))
    }

    pub(super) fn resolve(&self, _name: &str) -> Option<io::Result<Vec<std::net::IpAddr>>> {
        None
    }

    pub(super) fn seed(&self) -> u64 {
        Generator::unpredictable().next()
    }

    pub(super) fn stats(&self) -> DriverStats {
        self.stats
    }
}

impl Drop for PollDriver {
    fn drop(&mut self) {
        #[cfg(unix)]
        for token in self.unix.pipes.keys().copied().collect::<Vec<_>>() {
            self.close_pipe(token);
        }
        for source in &self.sources {
            if let (Some(socket), Some(_)) = (&source.socket, source.registered) {
                let _ = self.waiter.poller.delete(socket);
            }
        }
    }
}

#[cfg(not(unix))]
fn no_unix_sockets() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "Unix sockets are for Unix")
}

fn local_address(socket: &Socket) -> io::Result<Address> {
    Ok(ops::address(&SockRef::from(socket).local_addr()?))
}
