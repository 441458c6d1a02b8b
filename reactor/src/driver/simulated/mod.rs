//! The driver for a simulated network: the same completions as from a kernel, on virtual time.
//!
//! A driver is the kernel of one host of a [`Network`]. It owns no clock of its own: who runs the simulation
//! moves the time. Only a driver that is [alone](SimDriver::new) moves it itself, when its reactor waits.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::backlog::read_queued_file;
use super::datagram::{BATCH, DatagramBatch, DatagramsSent};
use super::options::{
    ConnectSpec, DatagramOption, DatagramSpec, KeepAliveSpec, ListenSpec, TcpOptions, UnixConnectSpec,
    UnixDatagramSpec, UnixListenSpec,
};
use super::{Budgets, Completion, DriverStats, Interest, NewSocket, NewStream, Relay, RelayState, Relayed};
use super::{Sent, Waker, socket};
use crate::core::address::{Address, UnixAddress};
#[cfg(unix)]
use crate::core::credentials::Credentials;
use crate::core::datagrams::DatagramQueue;
use crate::core::outbox::{Front, MAX_SLICES, Outbox};
use crate::core::pool::Pool;
use crate::core::slots::Token;

mod datagram;
pub(crate) mod link;
pub(crate) mod network;
pub(crate) mod raw;
mod stream;
mod trace;
mod unix;

use network::{HostId, Network, Owner, SocketId};
use stream::Stage;

/// A network that several drivers share.
pub(crate) type SharedNetwork = Rc<RefCell<Network>>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Vacant,
    Listener,
    Connecting,
    Stream,
    Datagram,
}

#[derive(Clone, Copy)]
struct Source {
    generation: u32,
    kind: Kind,
    socket: SocketId,
    /// Stands on the list of those that are ready.
    listed: bool,
}

impl Source {
    const VACANT: Self = Self { generation: 0, kind: Kind::Vacant, socket: SocketId::NOBODY, listed: false };
}

/// The source that is being worked on.
#[derive(Clone, Copy)]
enum Turn {
    /// Bytes that may still be read.
    Read(Token, usize),
    /// Connections that may still be accepted.
    Accept(Token, u32),
}

/// What one step of a turn came to.
enum Outcome {
    Received(Token, usize),
    Completed(Completion<'static>),
    Nothing,
}

/// The driver.
pub(crate) struct SimDriver {
    network: SharedNetwork,
    host: HostId,
    /// Nobody else moves the time.
    is_alone: bool,
    sources: Vec<Source>,
    ready: VecDeque<Token>,
    turn: Option<Turn>,
    /// The source that was worked on last: it may have more.
    last: Option<Token>,
    woken: Arc<AtomicBool>,
    budgets: Budgets,
    stats: DriverStats,
}

/// A socket of a stream that was accepted and not adopted yet.
pub(crate) struct SimStream {
    network: SharedNetwork,
    host: HostId,
    /// `None` once it was adopted.
    socket: Option<SocketId>,
}

impl Drop for SimStream {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            let mut network = self.network.borrow_mut();
            network.close(socket);
            network.give_descriptor_back(self.host);
        }
    }
}

impl SimDriver {
    /// The driver of a host. One that is alone moves the time when its reactor waits; otherwise whoever runs
    /// the simulation does, and the reactor must never wait.
    pub(crate) fn new(network: &SharedNetwork, host: HostId, is_alone: bool, budgets: Budgets) -> Self {
        let woken = Arc::clone(&network.borrow().hosts[host.0].woken);
        Self {
            network: Rc::clone(network),
            host,
            is_alone,
            sources: Vec::new(),
            ready: VecDeque::new(),
            turn: None,
            last: None,
            woken,
            budgets,
            stats: DriverStats::default(),
        }
    }

    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.stats.waits += 1;
        self.end_turn();
        let now = {
            let mut network = self.network.borrow_mut();
            if self.is_alone {
                // A hook that took its time has held everything up.
                let until = network.runs_from(self.host).max(network.now());
                network.advance(until);
            }
            network.now()
        };
        let deadline = timeout.map(|timeout| {
            let network = self.network.borrow();
            network.when(self.host, network.clock(self.host) + timeout)
        });
        loop {
            self.collect();
            let is_woken = self.woken.swap(false, Ordering::SeqCst);
            if is_woken || !self.ready.is_empty() || deadline.is_some_and(|deadline| deadline <= now) {
                return Ok(());
            }
            assert!(
                self.is_alone,
                "a reactor of a simulation of several hosts was run by itself; run the simulation instead"
            );
            let mut network = self.network.borrow_mut();
            let next = network.next_event();
            let until = match (next, deadline) {
                (Some(next), Some(deadline)) => next.min(deadline),
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => {
                    let waiting = network.describe(self.host).join("; ");
                    let waiting = if waiting.is_empty() { "nothing is open".to_owned() } else { waiting };
                    panic!("deadlock at {}: nothing will ever happen any more. {waiting}", *network);
                }
            };
            network.advance(until);
            if let Some(other) = network.host_with_news(self.host) {
                panic!(
                    "host {other:?} has something to do, but nobody runs its reactor: a reactor that runs by itself \
                     has to be the only one of its simulation"
                );
            }
            drop(network);
            if deadline == Some(until) {
                self.collect();
                return Ok(());
            }
        }
    }

    /// Puts those of our sockets on the list that have something to report, in an order that the seed
    /// decides.
    fn collect(&mut self) {
        let mut network = self.network.borrow_mut();
        let mut touched = std::mem::take(&mut network.hosts[self.host.0].touched);
        touched.retain(|token| {
            let Some(source) = self.sources.get_mut(token.index()) else { return false };
            let counts =
                source.generation == token.generation() && !source.listed && is_of_interest(&network, source);
            source.listed |= counts;
            counts
        });
        network.hosts[self.host.0].random.shuffle(&mut touched);
        self.ready.extend(touched.drain(..));
        // Gives the list its memory back.
        network.hosts[self.host.0].touched = touched;
    }

    /// What was worked on last is looked at again in the next pass, if it has more to report.
    fn end_turn(&mut self) {
        self.turn = None;
        for token in self.last.take().into_iter().chain(std::mem::take(&mut self.ready)) {
            let Some(source) = self.sources.get_mut(token.index()) else { continue };
            if source.generation != token.generation() {
                continue;
            }
            source.listed = false;
            let mut network = self.network.borrow_mut();
            match source.kind {
                Kind::Vacant => {}
                Kind::Listener => network.touch_listener(source.socket),
                Kind::Connecting | Kind::Stream => network.touch(source.socket),
                Kind::Datagram => network.touch_mailbox(source.socket),
            }
        }
    }

    pub(super) fn next<'b>(&mut self, scratch: &'b mut [u8]) -> Option<Completion<'b>> {
        loop {
            let outcome = match self.turn.take() {
                Some(Turn::Read(stream, budget)) => self.read(stream, budget, scratch),
                Some(Turn::Accept(listener, budget)) => self.accept(listener, budget),
                None => {
                    let token = self.next_ready()?;
                    self.begin(token).map_or(Outcome::Nothing, Outcome::Completed)
                }
            };
            match outcome {
                Outcome::Received(stream, count) => {
                    return Some(Completion::Received { stream, data: &scratch[..count] });
                }
                Outcome::Completed(completion) => return Some(completion),
                Outcome::Nothing => {}
            }
        }
    }

    fn next_ready(&mut self) -> Option<Token> {
        let next = self.ready.pop_front();
        if let Some(last) = std::mem::replace(&mut self.last, next)
            && let Some(source) = self.sources.get_mut(last.index())
            && source.generation == last.generation()
        {
            source.listed = false;
            let (kind, socket) = (source.kind, source.socket);
            let mut network = self.network.borrow_mut();
            match kind {
                Kind::Listener => network.touch_listener(socket),
                Kind::Datagram => network.touch_mailbox(socket),
                _ => network.touch(socket),
            }
        }
        next
    }

    /// Looks at one source: what there is to report, and what is to be done about it.
    fn begin(&mut self, token: Token) -> Option<Completion<'static>> {
        let Some(source) = self.source(token) else {
            self.stats.stale_events += 1;
            return None;
        };
        let (kind, socket) = (source.kind, source.socket);
        match kind {
            Kind::Vacant => None,
            Kind::Listener => {
                self.turn = Some(Turn::Accept(token, self.budgets.accept));
                None
            }
            Kind::Connecting => self.finish_connect(token, socket),
            Kind::Datagram => {
                let mut network = self.network.borrow_mut();
                let now = network.local_now(self.host);
                let has_room = network.has_room_at_peer(socket);
                let mailbox = network.mailboxes.get_mut(socket)?;
                let readable = mailbox.watch.reads() && mailbox.is_readable();
                let writable = mailbox.watch.writes() && has_room && mailbox.is_writable(now);
                // Receiving tells an error.
                let error = if readable { None } else { mailbox.error.take() };
                (readable || writable || error.is_some()).then_some(Completion::Datagrams {
                    socket: token,
                    readable,
                    writable,
                    error: error.map(Into::into),
                })
            }
            Kind::Stream => {
                let mut network = self.network.borrow_mut();
                let end = network.ends.get_mut(socket)?;
                if end.watch.reads() && end.is_readable() {
                    self.turn = Some(Turn::Read(token, self.budgets.read));
                } else if end.watch == Interest::NONE && end.has_failed() {
                    let error = network.receive_error(socket);
                    return Some(Completion::Failed { stream: token, error });
                }
                let end = network.ends.get(socket)?;
                (end.watch.writes() && end.is_writable()).then_some(Completion::Writable { stream: token })
            }
        }
    }

    fn finish_connect(&mut self, token: Token, id: SocketId) -> Option<Completion<'static>> {
        let mut network = self.network.borrow_mut();
        let end = network.ends.get_mut(id)?;
        match end.stage {
            Stage::Connecting(_) => None,
            Stage::Open => {
                end.watch = Interest::READ;
                let (local, remote) = (end.local, end.remote);
                let is_unix = network.unix_name(self.host, remote).is_some();
                let local = if is_unix { UnixAddress::unnamed().into() } else { local.into() };
                if let Some(source) = self.sources.get_mut(token.index()) {
                    source.kind = Kind::Stream;
                }
                Some(Completion::Connected { stream: token, local })
            }
            Stage::Dead => {
                let remote = end.remote;
                let remote = match network.unix_name(self.host, remote) {
                    Some(name) => name.clone().into(),
                    None => remote.into(),
                };
                let kind = network.receive_error(id).kind();
                Some(Completion::Failed {
                    stream: token,
                    error: socket::describe("connect to", &remote, &kind.into()),
                })
            }
        }
    }

    fn read(&mut self, stream: Token, budget: usize, scratch: &mut [u8]) -> Outcome {
        let Some(source) = self.source(stream) else { return Outcome::Nothing };
        let socket = source.socket;
        let mut network = self.network.borrow_mut();
        if !network.ends.get(socket).is_some_and(|end| end.watch.reads()) {
            return Outcome::Nothing;
        }
        let limit = budget.min(scratch.len());
        self.stats.receives += 1;
        match network.receive(socket, &mut scratch[..limit]) {
            Ok(0) => Outcome::Completed(Completion::EndOfStream { stream }),
            Ok(count) => {
                self.stats.bytes_received += count as u64;
                if count >= limit && limit < budget {
                    self.turn = Some(Turn::Read(stream, budget - limit));
                }
                Outcome::Received(stream, count)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Outcome::Nothing,
            Err(error) => Outcome::Completed(Completion::Failed { stream, error }),
        }
    }

    fn accept(&mut self, listener: Token, budget: u32) -> Outcome {
        let Some(source) = self.source(listener) else { return Outcome::Nothing };
        let socket = source.socket;
        let mut network = self.network.borrow_mut();
        if !network.listeners.get(socket).is_some_and(|one| one.watch.reads()) {
            return Outcome::Nothing;
        }
        self.stats.accepts += 1;
        let Some(waiting) = network.take_waiting(socket) else { return Outcome::Nothing };
        if let Err(error) = network.take_descriptor(self.host) {
            // The reserved descriptor goes through the backlog.
            let mut shed = 0;
            let mut next = Some(waiting);
            while let Some(id) = next {
                network.reset(id);
                shed += 1;
                next = if shed < self.budgets.accept { network.take_waiting(socket) } else { None };
            }
            return Outcome::Completed(Completion::Exhausted { listener, error, shed });
        }
        if budget > 1 {
            self.turn = Some(Turn::Accept(listener, budget - 1));
        }
        let Some(end) = network.ends.get_mut(waiting) else { return Outcome::Nothing };
        end.owner = Owner::Raw;
        let (peer, local) = (end.remote, end.local);
        network.add_to_trace(self.host, "accepts", local, Some(peer), 0);
        let stream = SimStream { network: Rc::clone(&self.network), host: self.host, socket: Some(waiting) };
        let is_unix = network.unix_name(self.host, local).is_some();
        let peer = if is_unix { UnixAddress::unnamed().into() } else { peer.into() };
        let stream = NewStream {
            socket: NewSocket::Simulated(stream),
            peer,
            #[cfg(unix)]
            passes: false,
        };
        Outcome::Completed(Completion::Accepted { listener, stream })
    }

    #[inline]
    fn source(&mut self, token: Token) -> Option<&mut Source> {
        let source = self.sources.get_mut(token.index())?;
        (source.generation == token.generation() && source.kind != Kind::Vacant).then_some(source)
    }

    fn socket(&mut self, token: Token) -> io::Result<SocketId> {
        self.source(token).map(|source| source.socket).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn install(&mut self, token: Token, kind: Kind, socket: SocketId) {
        if self.sources.len() <= token.index() {
            self.sources.resize(token.index() + 1, Source::VACANT);
        }
        self.sources[token.index()] =
            Source { generation: token.generation(), kind, socket, ..Source::VACANT };
    }

    pub(super) fn send_small(&mut self, stream: Token, data: &[u8]) -> io::Result<usize> {
        let socket = self.socket(stream)?;
        self.stats.sends += 1;
        let sent = self.network.borrow_mut().send(socket, data)?;
        self.stats.bytes_sent += sent as u64;
        Ok(sent)
    }

    /// Sends several buffers with one call.
    fn send_many(&mut self, stream: Token, list: &[IoSlice<'_>]) -> io::Result<usize> {
        let socket = self.socket(stream)?;
        let room = self.network.borrow().room(socket).max(1);
        let mut all = Vec::new();
        for slice in list {
            all.extend_from_slice(&slice[..slice.len().min(room - all.len())]);
        }
        self.send_small(stream, &all)
    }

    pub(super) fn send(&mut self, stream: Token, outbox: &mut Outbox, pool: &Pool) -> io::Result<Sent> {
        let mut left = self.budgets.write;
        while left > 0 {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let (offered, sent) = match outbox.front(&mut slices) {
                Front::Nothing => return Ok(Sent::All),
                Front::One(data) => (data.len(), self.send_small(stream, data)),
                #[cfg(unix)]
                Front::Passed(..) => return Err(no_kernel()),
                Front::Many(list) => {
                    let offered = list.iter().map(|slice| slice.len()).sum();
                    (offered, self.send_many(stream, list))
                }
                Front::File(range) => {
                    let piece = read_queued_file(range, left)?;
                    let sent = match self.send_small(stream, &piece) {
                        Ok(sent) => sent,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Sent::Blocked),
                        Err(error) => return Err(error),
                    };
                    outbox.consume_file(sent as u64, pool);
                    left = left.saturating_sub(sent);
                    if sent < piece.len() {
                        return Ok(Sent::Blocked);
                    }
                    continue;
                }
            };
            match sent {
                Ok(sent) => {
                    outbox.consume(sent, pool);
                    left = left.saturating_sub(sent);
                    if sent < offered {
                        return Ok(Sent::Blocked);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Sent::Blocked),
                Err(error) => return Err(error),
            }
        }
        Ok(if outbox.is_empty() { Sent::All } else { Sent::Blocked })
    }

    pub(super) fn now(&self) -> Instant {
        self.network.borrow().clock(self.host)
    }

    pub(super) fn listen(&mut self, token: Token, spec: &ListenSpec) -> io::Result<SocketAddr> {
        self.stats.others += 1;
        let mut network = self.network.borrow_mut();
        let opened = network.take_descriptor(self.host).and_then(|()| {
            network
                .listen(self.host, spec, Owner::Driver(token))
                .inspect_err(|_| network.give_descriptor_back(self.host))
        });
        let (socket, address) =
            opened.map_err(|error| socket::describe("listen on", &spec.address.into(), &error))?;
        drop(network);
        self.install(token, Kind::Listener, socket);
        Ok(address)
    }

    pub(super) fn connect(&mut self, token: Token, spec: &ConnectSpec) -> io::Result<()> {
        self.stats.others += 1;
        let mut network = self.network.borrow_mut();
        let started = network.take_descriptor(self.host).and_then(|()| {
            network
                .connect(self.host, spec.address, spec.local_address, &spec.tcp, Owner::Driver(token))
                .inspect_err(|_| network.give_descriptor_back(self.host))
        });
        let socket = started.map_err(|error| socket::describe("connect to", &spec.address.into(), &error))?;
        drop(network);
        self.install(token, Kind::Connecting, socket);
        Ok(())
    }

    pub(super) fn bind_datagram(&mut self, token: Token, spec: &DatagramSpec) -> io::Result<Address> {
        self.stats.others += 1;
        let mut network = self.network.borrow_mut();
        let opened = network.take_descriptor(self.host).and_then(|()| {
            network
                .bind_datagram(self.host, spec, Owner::Driver(token))
                .inspect_err(|_| network.give_descriptor_back(self.host))
        });
        let (socket, address) = opened.map_err(|error| {
            let (what, address) = match &spec.remote {
                Some(remote) => ("connect to", Some(remote)),
                None => ("bind", spec.local.as_ref()),
            };
            match address {
                Some(address) => socket::describe(what, address, &error),
                None => error,
            }
        })?;
        drop(network);
        self.install(token, Kind::Datagram, socket);
        Ok(address)
    }

    pub(super) fn bind_unix_datagram(
        &mut self,
        token: Token,
        spec: &UnixDatagramSpec,
    ) -> io::Result<(UnixAddress, usize)> {
        self.stats.others += 1;
        let mut network = self.network.borrow_mut();
        let opened = network.take_descriptor(self.host).and_then(|()| {
            network
                .bind_unix_datagram(self.host, spec, Owner::Driver(token))
                .inspect_err(|_| network.give_descriptor_back(self.host))
        });
        let (socket, local, longest) = opened.map_err(|error| {
            let what = if spec.remote.is_some() { "connect to" } else { "bind" };
            match spec.remote.as_ref().or(spec.local.as_ref()) {
                Some(address) => socket::describe(what, &address.clone().into(), &error),
                None => error,
            }
        })?;
        drop(network);
        self.install(token, Kind::Datagram, socket);
        Ok((local, longest))
    }

    pub(super) fn receive_datagrams(
        &mut self,
        token: Token,
        batch: &mut DatagramBatch,
        count: usize,
        max: usize,
    ) -> io::Result<()> {
        let socket = self.socket(token)?;
        batch.clear();
        self.stats.receives += 1;
        let mut network = self.network.borrow_mut();
        while batch.len() < count.min(BATCH) {
            match network.receive_datagram(socket) {
                Ok(packet) => {
                    batch.push(&packet.data, packet.sender(), max);
                    self.stats.bytes_received += packet.data.len().min(max) as u64;
                }
                Err(error) if batch.len() == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(())
    }

    pub(super) fn send_datagrams(
        &mut self,
        token: Token,
        queue: &mut DatagramQueue<Address>,
    ) -> io::Result<DatagramsSent> {
        let socket = self.socket(token)?;
        let mut network = self.network.borrow_mut();
        while let Some((to, data)) = queue.front() {
            self.stats.sends += 1;
            let is_unix = network.is_unix(socket);
            let result = if is_unix {
                network.send_unix_datagram(socket, to.and_then(Address::unix), data)
            } else {
                network.send_datagram(socket, to.and_then(Address::socket_addr), data)
            };
            match result {
                Ok(()) => {
                    self.stats.bytes_sent += data.len() as u64;
                    queue.pop();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && is_unix && to.is_some() => {
                    return Ok(DatagramsSent::ReceiverFull);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(DatagramsSent::Blocked),
                Err(error) => return Err(error),
            }
        }
        Ok(DatagramsSent::All)
    }

    /// There are no groups and no routers here.
    pub(super) fn set_datagram_option(&mut self, token: Token, option: DatagramOption) -> io::Result<()> {
        let socket = self.socket(token)?;
        match option {
            DatagramOption::Broadcast(on) => {
                if let Some(mailbox) = self.network.borrow_mut().mailboxes.get_mut(socket) {
                    mailbox.broadcast = on;
                }
                Ok(())
            }
            DatagramOption::Ttl(_) => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::Unsupported, "a simulated network has no multicast")),
        }
    }

    pub(super) fn listen_unix(&mut self, token: Token, spec: &UnixListenSpec) -> io::Result<()> {
        self.stats.others += 1;
        let mut network = self.network.borrow_mut();
        let opened = network.take_descriptor(self.host).and_then(|()| {
            network
                .listen_unix(self.host, spec, Owner::Driver(token))
                .inspect_err(|_| network.give_descriptor_back(self.host))
        });
        let socket =
            opened.map_err(|error| socket::describe("listen on", &spec.address.clone().into(), &error))?;
        drop(network);
        self.install(token, Kind::Listener, socket);
        Ok(())
    }

    pub(super) fn connect_unix(&mut self, token: Token, spec: &UnixConnectSpec) -> io::Result<()> {
        self.stats.others += 1;
        let mut network = self.network.borrow_mut();
        let (host, owner) = (self.host, Owner::Driver(token));
        let started = network.unix_target(host, &spec.address).and_then(|address| {
            network.take_descriptor(host)?;
            network
                .connect(host, address, None, &TcpOptions::default(), owner)
                .inspect_err(|_| network.give_descriptor_back(host))
        });
        let socket =
            started.map_err(|error| socket::describe("connect to", &spec.address.clone().into(), &error))?;
        drop(network);
        self.install(token, Kind::Connecting, socket);
        Ok(())
    }

    #[cfg(unix)]
    pub(super) fn peer_credentials(&mut self, _: Token) -> io::Result<Credentials> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a simulated host has no users"))
    }

    pub(super) fn adopt(&mut self, token: Token, stream: NewStream) -> io::Result<()> {
        let NewSocket::Simulated(mut stream) = stream.socket else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let socket = stream.socket.take().ok_or(io::ErrorKind::NotConnected)?;
        self.install(token, Kind::Stream, socket);
        let mut network = self.network.borrow_mut();
        if let Some(end) = network.ends.get_mut(socket) {
            end.owner = Owner::Driver(token);
            end.watch = Interest::READ;
        }
        network.touch(socket);
        Ok(())
    }

    pub(super) fn local_addr(&self, stream: &NewStream) -> io::Result<Address> {
        let NewSocket::Simulated(stream) = &stream.socket else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let network = self.network.borrow();
        let end = stream.socket.and_then(|socket| network.ends.get(socket));
        end.map(|end| end.local.into()).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    pub(super) fn set_interest(&mut self, token: Token, interest: Interest) {
        let Some(source) = self.source(token) else { return };
        let (kind, socket) = (source.kind, source.socket);
        let mut network = self.network.borrow_mut();
        if kind == Kind::Listener {
            if let Some(listener) = network.listeners.get_mut(socket) {
                listener.watch = interest;
            }
            network.touch_listener(socket);
        } else if kind == Kind::Datagram {
            if let Some(mailbox) = network.mailboxes.get_mut(socket) {
                mailbox.watch = interest;
            }
            network.touch_mailbox(socket);
        } else {
            if let Some(end) = network.ends.get_mut(socket) {
                end.watch = interest;
            }
            network.touch(socket);
        }
    }

    pub(super) fn shutdown(&mut self, stream: Token) -> io::Result<()> {
        self.stats.others += 1;
        let socket = self.socket(stream)?;
        self.network.borrow_mut().shut_down(socket)
    }

    pub(super) fn close(&mut self, token: Token, reset: bool) {
        self.stats.others += 1;
        let Some(source) = self.source(token) else { return };
        let (kind, socket) = (source.kind, source.socket);
        *source = Source { generation: source.generation, ..Source::VACANT };
        let mut network = self.network.borrow_mut();
        match kind {
            Kind::Listener => network.close_listener(socket),
            Kind::Datagram => network.close_mailbox(socket),
            _ if reset => network.reset(socket),
            _ => network.close(socket),
        }
    }

    /// No simulated segment waits for others.
    pub(super) fn set_nodelay(&mut self, token: Token, _on: bool) -> io::Result<()> {
        self.socket(token).map(|_| ())
    }

    pub(super) fn set_keep_alive(&mut self, token: Token, spec: Option<KeepAliveSpec>) -> io::Result<()> {
        let socket = self.socket(token)?;
        self.network.borrow_mut().set_keep_alive(socket, spec);
        Ok(())
    }

    // What has no counterpart without a kernel.

    pub(super) fn take_interrupted(&mut self) -> bool {
        false
    }

    pub(super) fn has_changes(&self) -> bool {
        false
    }

    pub(super) fn settle(&mut self) {}

    pub(super) fn new_relay(&mut self, _: Token, _: Token) -> Option<Relay> {
        None
    }

    pub(super) fn set_relaying(&mut self, _stream: Token, _relaying: bool) {}

    pub(super) fn relay(&mut self, _: Token, _: Token, _: &mut Relay, _: usize) -> Relayed {
        Relayed { moved: 0, state: RelayState::SourceFailed(io::ErrorKind::Unsupported.into()) }
    }

    #[cfg(unix)]
    pub(super) fn watch_descriptor(&mut self, _: Token, _: std::os::fd::OwnedFd) -> io::Result<()> {
        Err(no_kernel())
    }

    #[cfg(unix)]
    pub(super) fn adopt_pipe(&mut self, _: Token, _: super::options::PipeEnds) -> io::Result<()> {
        Err(no_kernel())
    }

    #[cfg(unix)]
    pub(super) fn adopt_socket(
        &mut self,
        _: Token,
        _: std::os::fd::OwnedFd,
    ) -> io::Result<(Address, Address)> {
        Err(no_kernel())
    }

    #[cfg(unix)]
    pub(super) fn adopt_listener(&mut self, _: Token, _: std::os::fd::OwnedFd) -> io::Result<Address> {
        Err(no_kernel())
    }

    #[cfg(unix)]
    pub(super) fn share_listener(&mut self, _: Token) -> io::Result<(std::os::fd::OwnedFd, bool)> {
        Err(no_kernel())
    }

    #[cfg(unix)]
    pub(super) fn give_socket_file_away(&mut self, _: Token) {}

    #[cfg(unix)]
    pub(super) fn own_socket_file(&mut self, _: Token) -> io::Result<()> {
        Err(no_kernel())
    }

    #[cfg(unix)]
    pub(super) fn take_descriptors(&mut self, _: Token) {}

    #[cfg(unix)]
    pub(super) fn signal_fd(&mut self) -> io::Result<std::os::fd::RawFd> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a simulated host gets no signals"))
    }

    #[cfg(unix)]
    pub(super) fn descriptor(&self) -> Option<Arc<polling::Poller>> {
        None
    }

    pub(super) fn waker(&self) -> Waker {
        Waker::Flag(Arc::clone(&self.woken))
    }

    pub(super) fn stats(&self) -> DriverStats {
        self.stats
    }

    /// Names are those of the simulation's hosts.
    pub(super) fn resolve(&self, name: &str) -> Option<io::Result<Vec<IpAddr>>> {
        let network = self.network.borrow();
        Some(network.addresses_of(name).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "the simulation has no host of that name")
        }))
    }

    /// Where the reactor's own random numbers start.
    pub(super) fn seed(&self) -> u64 {
        self.network.borrow_mut().hosts[self.host.0].random.next()
    }
}

/// The host's process ends: its kernel closes what it had open.
impl Drop for SimDriver {
    fn drop(&mut self) {
        for index in 0..self.sources.len() {
            let source = self.sources[index];
            let mut network = self.network.borrow_mut();
            match source.kind {
                Kind::Vacant => {}
                Kind::Listener => network.close_listener(source.socket),
                Kind::Connecting | Kind::Stream => network.close(source.socket),
                Kind::Datagram => network.close_mailbox(source.socket),
            }
        }
    }
}

fn is_of_interest(network: &Network, source: &Source) -> bool {
    match source.kind {
        Kind::Vacant => false,
        Kind::Listener => network
            .listeners
            .get(source.socket)
            .is_some_and(|one| one.watch.reads() && !one.waiting.is_empty()),
        Kind::Connecting | Kind::Stream => network.is_of_interest(source.socket),
        Kind::Datagram => network.mailboxes.get(source.socket).is_some_and(|one| {
            one.is_of_interest(network.local_now(one.host), network.has_room_at_peer(source.socket))
        }),
    }
}

#[cfg(unix)]
fn no_kernel() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "a simulated host has no descriptors of the kernel's")
}
