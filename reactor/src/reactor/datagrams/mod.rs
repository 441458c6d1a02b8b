//! Sockets for datagrams: [`Handle::listen_datagram`], [`Handle::connect_datagram`], and the
//! [`DatagramSocket`] to send from.
//!
//! Datagrams come in batches. A batch is taken out of the reactor while the hooks look at it, so that they
//! run with nothing borrowed; what the hooks of a batch send leaves together after the last of them.
//! Invariant: whatever is queued is offered to the driver before the loop waits, unless the driver said that
//! it takes no more.

mod appetite;
mod receiving;
mod sending;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use crate::core::address::{Address, UnixAddress};
use crate::core::datagrams::DatagramQueue;
use crate::core::multicast::MulticastInterface;
use crate::core::slots::Token;
use crate::core::stalled::Stalled;
use crate::datagram::DatagramProtocol;
use crate::driver::Interest;
use crate::driver::options::{DatagramOption, DatagramSpec, UnixDatagramSpec};
use crate::endpoint::{
    DatagramConnectEndpoint, DatagramEndpoint, DatagramLimits, IntoDatagramConnectEndpoint,
    IntoDatagramEndpoint,
};
use crate::net::reason::Reason;
use crate::reactor::deferred::Deferred;
use crate::reactor::handle::Handle;
use crate::reactor::inner::{Inner, Slot};
use crate::reactor::stats::Counters;
use crate::reactor::timers::DelayedCall;
use crate::reactor::watchdog::Hook;
use appetite::Appetite;

/// The most that fits into a datagram: 65535 bytes less the headers of IP and UDP.
const LONGEST_V4: usize = 65_507;
/// The header of IPv6 does not count itself.
const LONGEST_V6: usize = 65_527;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Open,
    /// By the user's wish.
    Paused,
    Closed,
}

/// Why the queue stays as it is for now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sending {
    Free,
    /// The driver will report when it takes more.
    Blocked,
    /// A timer will try again.
    Resting,
}

/// What can be sent to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    V4,
    V6 {
        /// IPv4 addresses as well, in the notation of IPv6.
        takes_v4: bool,
    },
    Unix {
        /// Bytes of the longest datagram.
        longest: usize,
    },
}

impl Family {
    fn is_unix(self) -> bool {
        matches!(self, Self::Unix { .. })
    }
}

/// What to open.
enum Spec<'e> {
    Udp(&'e DatagramSpec),
    Unix(&'e UnixDatagramSpec),
}

/// What became of datagrams that were offered to the driver.
#[derive(Default)]
struct Outcome {
    sent: u64,
    /// Had no place to wait.
    dropped: u64,
    /// Were refused, and nobody is told of each.
    refused: u64,
    failed: Vec<(Option<Address>, io::Error)>,
}

/// A datagram that arrived and was not delivered, because the socket was paused in the middle of a batch.
struct Held {
    data: Vec<u8>,
    from: Address,
    truncated: bool,
}

/// A socket inside the reactor.
struct Mail {
    handle: Handle,
    token: Token,
    local: Address,
    peer: Option<Address>,
    family: Family,
    limits: DatagramLimits,
    state: Cell<State>,
    sending: Cell<Sending>,
    interest: Cell<Interest>,
    /// Stands on the list of those to look after, or is being looked after.
    attended: Cell<bool>,
    appetite: Cell<Appetite>,
    queue: RefCell<DatagramQueue<Address>>,
    /// What waits for receivers that have no room.
    stalled: RefCell<Stalled<Address>>,
    /// Tries them again.
    retry: RefCell<Option<DelayedCall>>,
    held: RefCell<VecDeque<Held>>,
    /// Failures that the protocol has not heard of.
    failures: RefCell<Vec<(Option<Address>, io::Error)>>,
    refusals: Cell<u32>,
    counts: Cell<DatagramStats>,
    /// Not here while it runs, and after the end.
    protocol: RefCell<Option<Box<dyn DatagramProtocol>>>,
    started: Cell<bool>,
    referenced: Cell<bool>,
}

/// What a [`DatagramSocket`] has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DatagramStats {
    /// Datagrams received, truncated ones included.
    pub received: u64,
    /// Datagrams that were longer than the socket takes.
    pub truncated: u64,
    /// Datagrams that the system took.
    pub sent: u64,
    /// Datagrams dropped because the queue was full, or because the socket was closed before the system took
    /// them.
    pub dropped: u64,
    /// Datagrams that the system could not send.
    pub failed: u64,
    /// Refusals that a connected socket heard of.
    pub refused: u64,
}

/// A socket for datagrams. Clones stand for the same one; dropping it changes nothing.
///
/// What is sent in a hook of the socket leaves when the hook returns (those of one batch of received
/// datagrams together), what is sent from elsewhere at the end of the loop's pass. What the system does not
/// take then waits in a queue; beyond its limits
/// ([`UdpBind::queue_limit`](crate::endpoint::UdpBind::queue_limit)) datagrams are dropped and counted.
///
/// On a Unix socket that is not connected, what finds its receiver full waits in a queue of that receiver, so
/// that others are not held up; it is tried again after 1 ms at first, after 64 ms in the end.
#[derive(Clone)]
pub struct DatagramSocket {
    mail: Rc<Mail>,
}

impl Handle {
    /// Opens a socket for datagrams at `endpoint`, which receives from everybody and can send to everybody.
    ///
    /// The endpoint is a string such as `"udp:8000"` or `"unix:/run/log.sock"` (see
    /// [`endpoint`](crate::endpoint)), a [`UdpBind`](crate::endpoint::UdpBind), a
    /// [`UnixDatagramBind`](crate::endpoint::UnixDatagramBind) or a `SocketAddr`.
    ///
    /// # Errors
    ///
    /// The endpoint makes no sense, or the system refuses it: the text names the address and the cause.
    pub fn listen_datagram(
        &self,
        endpoint: impl IntoDatagramEndpoint,
        protocol: impl DatagramProtocol,
    ) -> io::Result<DatagramSocket> {
        let inner = self.alive()?;
        match &endpoint.into_datagram_endpoint()? {
            DatagramEndpoint::Udp(udp) => {
                inner.open_datagrams(&Spec::Udp(udp.spec()), udp.limits(), Box::new(protocol))
            }
            DatagramEndpoint::Unix(unix) => {
                inner.open_datagrams(&Spec::Unix(unix.spec()), unix.limits(), Box::new(protocol))
            }
        }
    }

    /// Opens a socket for datagrams that is connected to one peer: it receives from nobody else, and hears
    /// when nobody takes its datagrams there.
    ///
    /// The endpoint is a string such as `"udp:127.0.0.1:53"` or `"unix:/dev/log"` (see
    /// [`endpoint`](crate::endpoint)), a [`UdpConnect`](crate::endpoint::UdpConnect), a
    /// [`UnixDatagramConnect`](crate::endpoint::UnixDatagramConnect) or a `SocketAddr`. Names of hosts have
    /// to be looked up first: there is no handshake that could tell which of a name's addresses answers.
    ///
    /// ```
    /// use twistor::{Address, DatagramSocket, Reactor};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let server = reactor.listen_datagram(
    ///     "udp:0:interface=127.0.0.1",
    ///     |socket: &DatagramSocket, data: &[u8], from: &Address| socket.send_to(data, from).unwrap(),
    /// )?;
    /// let client = reactor.connect_datagram(
    ///     format!("udp:{}", server.local_addr()),
    ///     |socket: &DatagramSocket, data: &[u8], _: &Address| {
    ///         assert_eq!(data, b"hello");
    ///         socket.reactor().stop();
    ///     },
    /// )?;
    /// client.send(b"hello")?;
    /// reactor.run()
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`listen_datagram`](Self::listen_datagram), or there is no route to the peer; for Unix sockets,
    /// nobody is there.
    pub fn connect_datagram(
        &self,
        endpoint: impl IntoDatagramConnectEndpoint,
        protocol: impl DatagramProtocol,
    ) -> io::Result<DatagramSocket> {
        let inner = self.alive()?;
        match &endpoint.into_datagram_connect_endpoint()? {
            DatagramConnectEndpoint::Udp(udp) => {
                inner.open_datagrams(&Spec::Udp(udp.spec()), udp.limits(), Box::new(protocol))
            }
            DatagramConnectEndpoint::Unix(unix) => {
                inner.open_datagrams(&Spec::Unix(unix.spec()), unix.limits(), Box::new(protocol))
            }
        }
    }
}

impl DatagramSocket {
    /// Sends to the peer of a connected socket.
    ///
    /// # Errors
    ///
    /// The datagram can never go: it is too long, the socket is not connected, or closed. Or the queue is
    /// full ([`WouldBlock`](io::ErrorKind::WouldBlock)); then it is dropped and counted. What goes wrong
    /// later is told to [`DatagramProtocol::send_failed`].
    pub fn send(&self, data: &[u8]) -> io::Result<()> {
        if self.mail.peer.is_none() {
            let text = "the socket has no peer: use send_to, or connect_datagram";
            return Err(io::Error::new(io::ErrorKind::NotConnected, text));
        }
        self.enqueue(None, data)
    }

    /// Sends to an address. A connected socket takes only the address of its peer.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), or the address is of another family, has no port, or is not the peer's. A
    /// Unix socket that has not been bound is unnamed, and cannot be answered.
    pub fn send_to(&self, data: &[u8], to: impl Into<Address>) -> io::Result<()> {
        let to = to.into();
        match &self.mail.peer {
            Some(peer) if *peer == to => self.enqueue(None, data),
            Some(peer) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("cannot send to {to}: the socket is connected to {peer}"),
            )),
            None => self.enqueue(Some(self.mail.reachable(&to)?), data),
        }
    }

    fn enqueue(&self, to: Option<Address>, data: &[u8]) -> io::Result<()> {
        let inner = self.mail.handle.alive()?;
        let mail = &*self.mail;
        if mail.state.get() == State::Closed {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the socket is closed"));
        }
        let longest = mail.longest(to.as_ref());
        if data.len() > longest {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a datagram of {} bytes is too long: {longest} are the most", data.len()),
            ));
        }
        if let Some(to) = &to
            && mail.stalled.borrow().holds(to)
        {
            return inner.wait_for_receiver(mail, to, data);
        }
        if mail.is_full(data.len()) {
            // What stands there may not have been offered to the system yet.
            inner.flush_datagrams(self);
            if mail.is_full(data.len()) {
                mail.count(|counts| counts.dropped += 1);
                Counters::bump(&inner.counters.datagrams_dropped);
                let text = "the queue of datagrams is full, because the system takes no more: dropped";
                return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
            }
            if let Some(to) = &to
                && mail.stalled.borrow().holds(to)
            {
                return inner.wait_for_receiver(mail, to, data);
            }
        }
        mail.queue.borrow_mut().push(to, data);
        inner.attend_datagrams(mail);
        Ok(())
    }

    /// Where it receives; with the real port number when 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> Address {
        self.mail.local.clone()
    }

    /// To whom it is connected, if it is.
    #[must_use]
    pub fn peer_addr(&self) -> Option<Address> {
        self.mail.peer.clone()
    }

    /// Closes the socket. No datagram is delivered any more, also none that has arrived; what was sent before
    /// is offered to the system once more, and what it does not take is dropped and counted. The Deferred
    /// fires when the port number is free.
    #[track_caller]
    pub fn close(&self) -> Deferred<(), Reason> {
        let (resolver, deferred) = Deferred::new(&self.mail.handle);
        if let Some(inner) = self.mail.handle.inner() {
            inner.close_datagrams(self);
        }
        resolver.resolve(Ok(()));
        deferred
    }

    /// Whether it is open, paused or not.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.mail.state.get() != State::Closed
    }

    /// Delivers nothing for a while. What arrives waits in the system's buffer, and is lost when that is
    /// full.
    pub fn pause_reading(&self) {
        self.set_paused(true);
    }

    /// Delivers again.
    pub fn resume_reading(&self) {
        self.set_paused(false);
    }

    /// Whether datagrams are delivered.
    #[must_use]
    pub fn is_reading(&self) -> bool {
        self.mail.state.get() == State::Open
    }

    fn set_paused(&self, paused: bool) {
        let (from, to) = if paused { (State::Open, State::Paused) } else { (State::Paused, State::Open) };
        if self.mail.state.get() == from
            && let Some(inner) = self.mail.handle.inner()
        {
            self.mail.state.set(to);
            inner.watch_datagrams(&self.mail);
            if !self.mail.held.borrow().is_empty() {
                inner.attend_datagrams(&self.mail);
            }
        }
    }

    /// Receives what is sent to a multicast group from now on, through one of the interfaces.
    ///
    /// The socket has to be bound to the group's port, and not to another address than the group's; several
    /// programs of one machine need [`reuse_address`](crate::endpoint::UdpBind::reuse_address) for that.
    ///
    /// ```
    /// use std::net::Ipv4Addr;
    /// use twistor::{Address, DatagramSocket, Reactor};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let hear = |_: &DatagramSocket, data: &[u8], from: &Address| println!("{from}: {data:?}");
    /// let socket = reactor.listen_datagram("udp:0:reuse_address=yes", hear)?;
    /// socket.join_multicast(Ipv4Addr::new(239, 255, 0, 1), Ipv4Addr::LOCALHOST)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// It is no group, of another family, joined already, or the interface does not exist; a simulated
    /// network has no multicast.
    pub fn join_multicast(
        &self,
        group: impl Into<IpAddr>,
        interface: impl Into<MulticastInterface>,
    ) -> io::Result<()> {
        self.mail.only_internet("join a multicast group")?;
        let group = self.mail.group(group.into())?;
        self.set_option(DatagramOption::JoinGroup(group, interface.into()))
    }

    /// Leaves a multicast group.
    ///
    /// # Errors
    ///
    /// The socket has not joined it through this interface.
    pub fn leave_multicast(
        &self,
        group: impl Into<IpAddr>,
        interface: impl Into<MulticastInterface>,
    ) -> io::Result<()> {
        self.mail.only_internet("leave a multicast group")?;
        let group = self.mail.group(group.into())?;
        self.set_option(DatagramOption::LeaveGroup(group, interface.into()))
    }

    /// Through which interface multicast is sent. By default the routes decide.
    ///
    /// # Errors
    ///
    /// There is no such interface. An IPv4 socket wants an address, an IPv6 socket a number.
    pub fn set_multicast_interface(&self, interface: impl Into<MulticastInterface>) -> io::Result<()> {
        self.set_option(DatagramOption::MulticastInterface(interface.into()))
    }

    /// How far multicast goes: 0 stays on this machine, 1 (the default) on the local network, more passes
    /// routers, up to 255.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub fn set_multicast_ttl(&self, hops: u32) -> io::Result<()> {
        self.set_option(DatagramOption::MulticastTtl(hops))
    }

    /// Whether this machine gets what it sends to groups that it has joined. On by default.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub fn set_multicast_loop(&self, on: bool) -> io::Result<()> {
        self.set_option(DatagramOption::MulticastLoop(on))
    }

    /// How many routers other datagrams may pass: 1 to 255.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub fn set_ttl(&self, hops: u32) -> io::Result<()> {
        self.set_option(DatagramOption::Ttl(hops))
    }

    /// Whether it may send to broadcast addresses. Off by default.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub fn set_broadcast(&self, on: bool) -> io::Result<()> {
        self.set_option(DatagramOption::Broadcast(on))
    }

    fn set_option(&self, option: DatagramOption) -> io::Result<()> {
        let inner = self.mail.handle.alive()?;
        if !self.is_open() {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the socket is closed"));
        }
        self.mail.only_internet(match option {
            DatagramOption::JoinGroup(..) => "join a multicast group",
            DatagramOption::LeaveGroup(..) => "leave a multicast group",
            DatagramOption::MulticastInterface(_) => "set the multicast interface",
            DatagramOption::MulticastTtl(_) => "set multicast_ttl",
            DatagramOption::MulticastLoop(_) => "set multicast_loop",
            DatagramOption::Ttl(_) => "set ttl",
            DatagramOption::Broadcast(_) => "set broadcast",
        })?;
        inner.driver.borrow_mut().set_datagram_option(self.mail.token, option)
    }

    /// Datagrams that the system has not taken yet, and their bytes.
    #[must_use]
    pub fn queued(&self) -> (usize, usize) {
        let (queue, stalled) = (self.mail.queue.borrow(), self.mail.stalled.borrow());
        (queue.len() + stalled.len(), queue.byte_count() + stalled.byte_count())
    }

    /// What it has counted so far.
    #[must_use]
    pub fn stats(&self) -> DatagramStats {
        self.mail.counts.get()
    }

    /// Does not let [`Reactor::run_until_idle`](crate::Reactor::run_until_idle) wait for this socket.
    pub fn unref(&self) {
        if self.mail.referenced.replace(false)
            && let Some(inner) = self.mail.handle.inner()
        {
            inner.referenced_ports.set(inner.referenced_ports.get() - 1);
        }
    }

    /// The reactor.
    #[must_use]
    pub fn reactor(&self) -> &Handle {
        &self.mail.handle
    }

    /// Takes the protocol out, to be dropped with nothing borrowed.
    pub(crate) fn end(&self) -> Option<Box<dyn DatagramProtocol>> {
        self.mail.state.set(State::Closed);
        self.mail.protocol.borrow_mut().take()
    }
}

impl fmt::Debug for DatagramSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramSocket")
            .field("local_addr", &self.mail.local)
            .field("peer_addr", &self.mail.peer)
            .field("state", &self.mail.state.get())
            .finish_non_exhaustive()
    }
}

impl Mail {
    fn count(&self, f: impl FnOnce(&mut DatagramStats)) {
        let mut counts = self.counts.get();
        f(&mut counts);
        self.counts.set(counts);
    }

    /// Whether another datagram of this length has no place in the queue.
    fn is_full(&self, length: usize) -> bool {
        let queue = self.queue.borrow();
        queue.len() >= self.limits.queue || queue.byte_count() + length > self.limits.queue_bytes
    }

    fn longest(&self, to: Option<&Address>) -> usize {
        if let Family::Unix { longest } = self.family {
            return longest;
        }
        let to = to.or(self.peer.as_ref()).and_then(Address::ip);
        match to {
            Some(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_none() => LONGEST_V6,
            _ => LONGEST_V4,
        }
    }

    /// The address as this socket has to say it to the system.
    fn reachable(&self, to: &Address) -> io::Result<Address> {
        let refuse = |why: &str| {
            let text = format!("cannot send to {to} from {}: {why}", self.local);
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        };
        if self.family.is_unix() {
            let Some(address) = to.unix() else { return refuse("the socket is a Unix one") };
            if address.is_unnamed() {
                return refuse("who has not bound its socket to an address cannot be answered");
            }
            return match check(address) {
                Ok(()) => Ok(to.clone()),
                Err(error) => refuse(&error.to_string()),
            };
        }
        let Some(address) = to.socket_addr() else { return refuse("it is no address of UDP") };
        if address.port() == 0 {
            return refuse("it has no port");
        }
        match (self.family, address) {
            (Family::V4, SocketAddr::V4(_)) | (Family::V6 { .. }, SocketAddr::V6(_)) => Ok(address.into()),
            (Family::V6 { takes_v4: true }, SocketAddr::V4(v4)) => {
                Ok(SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())).into())
            }
            (Family::V4, SocketAddr::V6(v6)) => match v6.ip().to_ipv4_mapped() {
                Some(v4) => Ok(SocketAddr::from((v4, v6.port())).into()),
                None => refuse("the socket is an IPv4 one"),
            },
            (Family::V6 { takes_v4: false }, SocketAddr::V4(_)) => refuse("the socket is an IPv6 one"),
            (Family::Unix { .. }, _) => refuse("the socket is a Unix one"),
        }
    }

    /// Refuses what only the protocols of the internet have.
    fn only_internet(&self, what: &str) -> io::Result<()> {
        if !self.family.is_unix() {
            return Ok(());
        }
        let text =
            format!("cannot {what}: {} is a Unix socket, which knows no routers and no groups", self.local);
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }

    fn group(&self, group: IpAddr) -> io::Result<IpAddr> {
        let why = match (self.family, group) {
            _ if !group.is_multicast() => "it is no multicast address (224.0.0.0/4 or ff00::/8)",
            (Family::V4, IpAddr::V6(_)) => "the socket is an IPv4 one",
            (Family::V6 { .. }, IpAddr::V4(_)) => "the socket is an IPv6 one",
            _ => return Ok(group),
        };
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("cannot join or leave {group}: {why}")))
    }
}

impl Inner {
    fn open_datagrams(
        &self,
        spec: &Spec<'_>,
        limits: DatagramLimits,
        protocol: Box<dyn DatagramProtocol>,
    ) -> io::Result<DatagramSocket> {
        let token = self.reserve()?;
        let opened = match spec {
            Spec::Udp(udp) => self.driver.borrow_mut().bind_datagram(token, udp).map(|local| {
                let family = match local.ip() {
                    Some(IpAddr::V6(ip)) => {
                        Family::V6 { takes_v4: ip.is_unspecified() && udp.v6only != Some(true) }
                    }
                    _ => Family::V4,
                };
                (local, udp.remote.clone(), family)
            }),
            Spec::Unix(unix) => {
                self.driver.borrow_mut().bind_unix_datagram(token, unix).map(|(local, longest)| {
                    // What is longer than the queue could never go.
                    let family = Family::Unix { longest: longest.min(limits.queue_bytes) };
                    (local.into(), unix.remote.clone().map(Address::from), family)
                })
            }
        };
        let (local, peer, family) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.slots.borrow_mut().remove(token);
                return Err(error);
            }
        };
        let mail = Rc::new(Mail {
            handle: self.handle.clone(),
            token,
            local,
            peer,
            family,
            limits,
            state: Cell::new(State::Open),
            sending: Cell::new(Sending::Free),
            interest: Cell::new(Interest::READ),
            attended: Cell::new(false),
            appetite: Cell::new(Appetite::NEW),
            queue: RefCell::new(DatagramQueue::new()),
            stalled: RefCell::new(Stalled::new()),
            retry: RefCell::default(),
            held: RefCell::default(),
            failures: RefCell::default(),
            refusals: Cell::new(0),
            counts: Cell::default(),
            protocol: RefCell::new(Some(protocol)),
            started: Cell::new(false),
            referenced: Cell::new(true),
        });
        let socket = DatagramSocket { mail };
        if let Some(slot) = self.slots.borrow_mut().get_mut(token) {
            *slot = Slot::Datagrams(socket.clone());
        }
        self.referenced_ports.set(self.referenced_ports.get() + 1);
        let starting = socket.clone();
        self.handle.call_soon(move |handle| {
            if let Some(inner) = handle.inner() {
                inner.start_datagrams(&starting);
            }
        });
        log::debug!("taking datagrams at {}", socket.mail.local);
        Ok(socket)
    }

    fn datagrams(&self, token: Token) -> Option<DatagramSocket> {
        match self.slots.borrow().get(token) {
            Some(Slot::Datagrams(socket)) => Some(socket.clone()),
            _ => None,
        }
    }

    /// Has the socket looked after at the end of this pass.
    fn attend_datagrams(&self, mail: &Mail) {
        if !mail.attended.replace(true) {
            self.attention.borrow_mut().push(mail.token);
            self.host_needs_to_know();
            self.eventful.set(true);
        }
    }

    fn watch_datagrams(&self, mail: &Mail) {
        let reads = mail.state.get() == State::Open;
        let interest = Interest::new(reads, mail.sending.get() == Sending::Blocked);
        if mail.state.get() != State::Closed && mail.interest.replace(interest) != interest {
            self.set_interest(mail.token, interest);
        }
    }

    /// Calls `started`, unless that was done.
    fn start_datagrams(&self, socket: &DatagramSocket) {
        if !socket.mail.started.get() && socket.is_open() {
            self.call_datagram_hook(socket, Hook::Started, |protocol| {
                socket.mail.started.set(true);
                protocol.started(socket);
            });
        }
    }

    fn call_datagram_hook(
        &self,
        socket: &DatagramSocket,
        hook: Hook,
        f: impl FnOnce(&mut dyn DatagramProtocol),
    ) {
        let Some(mut protocol) = socket.mail.protocol.borrow_mut().take() else { return };
        let what = Named { protocol: protocol.type_name(), hook, socket };
        self.contain(what, || f(&mut *protocol));
        self.hook_ran(Token::NOBODY, hook);
        if socket.is_open() {
            *socket.mail.protocol.borrow_mut() = Some(protocol);
        } else {
            self.end_datagram_protocol(socket, protocol);
        }
    }

    /// The part of settle that is about datagrams.
    #[cold]
    pub(crate) fn settle_datagrams(&self, token: Token) {
        let Some(socket) = self.datagrams(token) else { return };
        let mail = &*socket.mail;
        self.flush_datagrams(&socket);
        self.deliver_held(&socket);
        // What these hooks bring about is told in the next pass.
        let failures = mail.failures.take();
        for _ in 0..mail.refusals.take() {
            self.call_datagram_hook(&socket, Hook::ConnectionRefused, |protocol| {
                protocol.connection_refused(&socket);
            });
        }
        for (to, error) in failures {
            self.call_datagram_hook(&socket, Hook::SendFailed, |protocol| {
                protocol.send_failed(&socket, to.as_ref(), &error);
            });
        }
        self.look_after_datagrams(&socket);
        mail.attended.set(false);
        if self.has_untold_failures(mail) && socket.is_open() {
            self.attend_datagrams(mail);
        }
    }

    pub(crate) fn close_datagrams(&self, socket: &DatagramSocket) {
        let mail = &*socket.mail;
        if !socket.is_open() {
            return;
        }
        self.flush_datagrams(socket);
        let protocol = socket.end();
        self.driver.borrow_mut().close(mail.token);
        let slot = self.slots.borrow_mut().remove(mail.token);
        drop(slot);
        if mail.referenced.replace(false) {
            self.referenced_ports.set(self.referenced_ports.get() - 1);
        }
        let waited = mail.stalled.replace(Stalled::new());
        if let Some(timer) = mail.retry.take() {
            timer.cancel();
        }
        let left = (mail.queue.replace(DatagramQueue::new()).len() + waited.len()) as u64;
        mail.count(|counts| counts.dropped += left);
        Counters::add(&self.counters.datagrams_dropped, left);
        mail.held.borrow_mut().clear();
        mail.failures.borrow_mut().clear();
        log::debug!("takes no more datagrams at {}", mail.local);
        // While a hook runs the protocol is not here; then `call_datagram_hook` ends it.
        if let Some(protocol) = protocol {
            self.end_datagram_protocol(socket, protocol);
        }
    }

    /// Has the loop call `stopped` and drop the protocol.
    fn end_datagram_protocol(&self, socket: &DatagramSocket, mut protocol: Box<dyn DatagramProtocol>) {
        let socket = socket.clone();
        self.handle.call_soon(move |_| {
            if socket.mail.started.get() {
                protocol.stopped(&socket);
            }
        });
    }

    /// Closes all sockets for datagrams: the reactor stops.
    pub(crate) fn close_all_datagrams(&self) {
        let open: Vec<DatagramSocket> = {
            let slots = self.slots.borrow();
            let sockets = slots.iter().filter_map(|(_, slot)| match slot {
                Slot::Datagrams(socket) => Some(socket.clone()),
                _ => None,
            });
            sockets.collect()
        };
        for socket in open {
            self.close_datagrams(&socket);
        }
    }
}

/// Which hook of which protocol it is, for the log.
struct Named<'s> {
    protocol: &'static str,
    hook: Hook,
    socket: &'s DatagramSocket,
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{} (datagrams at {})", self.protocol, self.hook.name(), self.socket.mail.local)
    }
}

/// Whether the system can take the address of a Unix socket.
fn check(address: &UnixAddress) -> io::Result<()> {
    #[cfg(unix)]
    return crate::driver::check_unix_address(address);
    #[cfg(not(unix))]
    Ok(drop(address.clone()))
}

/// Whether a datagram came back because nobody takes it; Windows calls that a reset.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset)
}
