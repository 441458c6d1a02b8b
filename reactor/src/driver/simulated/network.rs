//! The simulated network: hosts with addresses, links between them, and a clock that jumps from event to
//! event.
//!
//! Nothing here calls anybody. Drivers and raw sockets act on it through short borrows; whoever runs the
//! simulation moves the time with [`Network::advance`]. What happens at the same moment happens in an order
//! that the seed decides, but within a stream order is kept.

use std::cmp::{Ordering, Reverse};
use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::datagram::{Mailbox, Packet};
use super::link::{Link, Pieces};
use super::stream::{End, NOWHERE};
use super::trace::{Happening, Time, Trace};
use crate::core::address::UnixAddress;
use crate::core::random::Generator;
use crate::core::slots::{Slots, Token};
use crate::driver::Interest;
use crate::driver::options::{ListenSpec, TcpOptions};

/// Names a host of one network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct HostId(pub(crate) usize);

/// Names a socket of one network, for as long as it exists.
pub(crate) type SocketId = Token;

/// Lines of the trace that are kept unless more are asked for.
const TRACE_LINES: usize = 10_000;
/// A segment that was not acknowledged is sent again after this time, and then at doubled intervals.
pub(super) const RETRANSMIT: Duration = Duration::from_millis(200);
/// A SYN that was not answered is sent again after this time, and then at doubled intervals.
pub(super) const SYN_RETRY: Duration = Duration::from_secs(1);
/// So often a SYN is sent again before the attempt is given up: after 127 s in all, as on Linux.
pub(super) const SYN_RETRIES: u32 = 6;
/// So often the answer to a SYN is sent again, as on Linux.
pub(super) const SYN_ANSWERS: u32 = 5;
/// A stream whose output nobody acknowledges is given up after this time, about as on Linux.
pub(super) const GIVE_UP: Duration = Duration::from_secs(15 * 60);

/// The ports that a host chooses from, as on Linux.
pub(super) const EPHEMERAL_PORTS: Range<u16> = 32_768..61_000;

/// Whom a socket belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// A reactor's driver, which knows it by this token.
    Driver(Token),
    /// A raw socket of the test.
    Raw,
    /// It waits in the backlog of this listener.
    Backlog(SocketId),
    /// It was closed, and is there only until what it sent has arrived.
    Nobody,
}

/// A listening socket.
pub(super) struct Listener {
    pub(super) host: HostId,
    pub(super) address: SocketAddr,
    pub(super) v6only: bool,
    reuse_port: bool,
    backlog: usize,
    /// What accepted sockets inherit.
    pub(super) options: TcpOptions,
    pub(super) waiting: VecDeque<SocketId>,
    /// Connections that are not complete yet; an upper bound.
    pub(super) handshakes: usize,
    pub(super) owner: Owner,
    pub(super) watch: Interest,
}

/// A host.
pub(super) struct Host {
    pub(super) name: String,
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Ipv6Addr,
    pub(super) is_up: bool,
    /// Its process does not run before this time.
    pub(super) busy_until: u64,
    clock: Clock,
    pub(super) descriptors: usize,
    pub(super) descriptor_limit: usize,
    next_port: u16,
    next_datagram_port: u16,
    /// Sockets on each port.
    ports: BTreeMap<u16, u32>,
    listeners: Vec<SocketId>,
    /// Unix sockets: ports of its own that have names.
    pub(super) unix_names: Vec<(UnixAddress, SocketAddr)>,
    /// What its driver should look at.
    pub(super) touched: Vec<Token>,
    pub(super) woken: Arc<AtomicBool>,
    /// For the order in which its driver reports what is ready; its own, so that what happens elsewhere
    /// changes nothing here.
    pub(super) random: Generator,
    /// Bytes per second that its process reads, and when it may read again.
    pub(super) read_rate: Option<u64>,
    pub(super) reads_again: u64,
    /// Connections that its kernel refuses or ignores although somebody listens.
    pub(super) unwelcome: Option<Unwelcome>,
}

/// How a host treats those who want to connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unwelcome {
    /// As if nobody listened.
    Refuse,
    /// As if the backlog were full.
    Ignore,
}

/// A host's clock: how its time follows from the network's.
#[derive(Clone, Copy)]
struct Clock {
    /// From this time of the network on …
    since: u64,
    /// … when the host's clock showed this …
    shown: u64,
    /// … it runs at this rate, in parts per million.
    rate: u64,
}

const MILLION: u64 = 1_000_000;

impl Clock {
    fn at(self, time: u64) -> u64 {
        let passed = u128::from(time.saturating_sub(self.since)) * u128::from(self.rate);
        self.shown.saturating_add(u64::try_from(passed / u128::from(MILLION)).unwrap_or(u64::MAX))
    }

    /// The first time of the network at which the clock shows at least `shown`.
    fn when(self, shown: u64) -> u64 {
        let left = u128::from(shown.saturating_sub(self.shown)) * u128::from(MILLION);
        self.since.saturating_add(u64::try_from(left.div_ceil(u128::from(self.rate))).unwrap_or(u64::MAX))
    }
}

/// One direction between two hosts.
pub(super) struct Path {
    pub(super) link: Link,
    /// How many faults cut it now.
    pub(super) cuts: u32,
    /// When the last byte that was sent has left.
    pub(super) busy_until: u64,
    /// Its own, so that what happens elsewhere changes nothing here.
    pub(super) random: Generator,
    pub(super) datagrams: DatagramPath,
}

/// The datagrams on their way from one host to another.
pub(super) struct DatagramPath {
    /// Those that arrive in order.
    pub(super) packets: VecDeque<Packet>,
    /// When the last of them arrives.
    pub(super) last_arrival: u64,
    /// Its own, so that streams go as they would without datagrams.
    pub(super) random: Generator,
}

/// Something that will happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// A connecting socket's SYN arrives.
    Syn(SocketId),
    /// A connecting socket hears that it was refused.
    Refused(SocketId),
    /// A connecting socket hears that there is no such host.
    NoRoute(SocketId),
    /// The last SYN of a connecting socket was not answered.
    Unanswered(SocketId),
    /// A connecting socket hears that it was accepted.
    Established(SocketId),
    /// The side of this socket's listener hears that it is connected.
    Acknowledged(SocketId),
    /// The first segment that this socket has on its way arrives.
    Arrival(SocketId),
    /// There may be room again for what this socket has to send.
    Transmit(SocketId),
    /// This socket has waited for an acknowledgement as long as a kernel does.
    GiveUp(SocketId),
    /// The last keep-alive probe of this socket was not answered.
    Probed(SocketId),
    /// A reset comes back for what this socket sent.
    ResetBack(SocketId),
    /// A host that reads slowly may read again.
    ReadsAgain(HostId),
    /// The first datagram on its way from one host to another arrives.
    Datagram(HostId, HostId),
    /// A datagram arrives that is not in order.
    StrayDatagram(SocketId),
    /// A socket hears that its datagram was refused.
    DatagramRefused(SocketId),
    /// There is room again for what this socket has to send.
    DatagramRoom(SocketId),
}

impl Next {
    /// A number that tells what happens at one moment apart.
    fn identity(self) -> u64 {
        let (kind, key) = match self {
            Self::Syn(id) => (1, id.key()),
            Self::Refused(id) => (2, id.key()),
            Self::NoRoute(id) => (3, id.key()),
            Self::Unanswered(id) => (4, id.key()),
            Self::Established(id) => (5, id.key()),
            Self::Arrival(id) => (6, id.key()),
            Self::Transmit(id) => (7, id.key()),
            Self::GiveUp(id) => (8, id.key()),
            Self::Probed(id) => (9, id.key()),
            Self::ResetBack(id) => (10, id.key()),
            Self::ReadsAgain(host) => (11, host.0),
            Self::Acknowledged(id) => (12, id.key()),
            Self::Datagram(from, to) => (13, from.0 << 16 | to.0),
            Self::StrayDatagram(id) => (14, id.key()),
            Self::DatagramRefused(id) => (15, id.key()),
            Self::DatagramRoom(id) => (0, id.key()),
        };
        (key as u64) << 4 | kind
    }
}

struct Event {
    at: u64,
    /// The order of events at the same time is random; `number` makes it total.
    tie: u32,
    number: u64,
    next: Next,
}

impl Event {
    fn key(&self) -> (u64, u32, u64) {
        (self.at, self.tie, self.number)
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// The network.
pub(crate) struct Network {
    pub(super) now: u64,
    origin: Instant,
    seed: u64,
    pub(super) hosts: Vec<Host>,
    paths: BTreeMap<(HostId, HostId), Path>,
    usual_link: Link,
    pub(super) ends: Slots<End>,
    pub(super) listeners: Slots<Listener>,
    pub(super) mailboxes: Slots<Mailbox>,
    /// Datagrams that arrive out of order, and from and to which host they go.
    pub(super) strays: Slots<(HostId, HostId, Packet)>,
    events: BinaryHeap<Reverse<Event>>,
    number: u64,
    happened: u64,
    trace: Trace,
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: 0,
            origin: Instant::now(),
            seed,
            hosts: Vec::new(),
            paths: BTreeMap::new(),
            usual_link: Link::new(),
            ends: Slots::new(),
            listeners: Slots::new(),
            mailboxes: Slots::new(),
            strays: Slots::new(),
            events: BinaryHeap::new(),
            number: 0,
            happened: 0,
            trace: Trace::new(TRACE_LINES),
        }
    }

    // Hosts.

    pub(crate) fn add_host(&mut self, name: &str) -> HostId {
        let number = self.hosts.len() as u16 + 1;
        let [high, low] = number.to_be_bytes();
        self.hosts.push(Host {
            name: name.to_owned(),
            v4: Ipv4Addr::new(10, 0, high, low),
            v6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number),
            is_up: true,
            busy_until: 0,
            clock: Clock { since: 0, shown: 0, rate: MILLION },
            descriptors: 0,
            descriptor_limit: usize::MAX,
            next_port: EPHEMERAL_PORTS.start,
            next_datagram_port: EPHEMERAL_PORTS.start,
            ports: BTreeMap::new(),
            listeners: Vec::new(),
            unix_names: Vec::new(),
            touched: Vec::new(),
            woken: Arc::new(AtomicBool::new(false)),
            random: Generator::for_purpose(self.seed, u64::MAX, u64::from(number)),
            read_rate: None,
            reads_again: 0,
            unwelcome: None,
        });
        HostId(self.hosts.len() - 1)
    }

    pub(crate) fn addresses(&self, host: HostId) -> (Ipv4Addr, Ipv6Addr) {
        (self.hosts[host.0].v4, self.hosts[host.0].v6)
    }

    /// Both addresses of the host of that name.
    pub(super) fn addresses_of(&self, name: &str) -> Option<Vec<IpAddr>> {
        if name == "localhost" {
            return Some(vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()]);
        }
        let host = self.hosts.iter().find(|host| host.name == name)?;
        Some(vec![host.v6.into(), host.v4.into()])
    }

    pub(crate) fn is_up(&self, host: HostId) -> bool {
        self.hosts[host.0].is_up
    }

    /// Whether the host's driver has something to report.
    pub(crate) fn has_news(&self, host: HostId) -> bool {
        let host = &self.hosts[host.0];
        !host.touched.is_empty() || host.woken.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// The name of a host other than this one whose driver has something to report.
    pub(super) fn host_with_news(&self, but: HostId) -> Option<&str> {
        let mut others = (0..self.hosts.len()).map(HostId).filter(|host| *host != but);
        others.find(|host| self.has_news(*host)).map(|host| &*self.hosts[host.0].name)
    }

    /// When the host's process can run.
    pub(crate) fn runs_from(&self, host: HostId) -> u64 {
        self.hosts[host.0].busy_until
    }

    /// The host's process does nothing else for a while.
    pub(crate) fn keep_busy(&mut self, host: HostId, time: Duration) {
        let now = self.local_now(host);
        self.hosts[host.0].busy_until = now.saturating_add(nanos(time));
    }

    /// The host stops at once, without a word to anybody.
    pub(crate) fn take_down(&mut self, host: HostId) {
        self.note(Some(host), "crashes");
        self.hosts[host.0].is_up = false;
        let gone: Vec<SocketId> =
            self.ends.iter().filter(|(_, end)| end.host == host).map(|(id, _)| id).collect();
        for id in gone {
            self.remove_end(id);
        }
        for listener in std::mem::take(&mut self.hosts[host.0].listeners) {
            self.listeners.remove(listener);
        }
        let open = self.mailboxes.iter().filter(|(_, one)| one.host == host);
        for mailbox in open.map(|(id, _)| id).collect::<Vec<_>>() {
            self.mailboxes.remove(mailbox);
        }
        let host_state = &mut self.hosts[host.0];
        host_state.ports.clear();
        host_state.descriptors = 0;
        host_state.touched.clear();
        host_state.busy_until = 0;
        host_state.read_rate = None;
        host_state.descriptor_limit = usize::MAX;
        self.reachability_changed();
    }

    pub(crate) fn bring_up(&mut self, host: HostId) {
        self.note(Some(host), "starts");
        self.hosts[host.0].is_up = true;
        self.hosts[host.0].woken = Arc::new(AtomicBool::new(false));
        self.reachability_changed();
    }

    pub(crate) fn set_descriptor_limit(&mut self, host: HostId, limit: Option<usize>) {
        self.hosts[host.0].descriptor_limit = limit.unwrap_or(usize::MAX);
        // Those who wait can be accepted now, perhaps.
        for listener in self.hosts[host.0].listeners.clone() {
            self.touch_listener(listener);
        }
    }

    pub(crate) fn set_unwelcome(&mut self, host: HostId, unwelcome: Option<Unwelcome>) {
        self.hosts[host.0].unwelcome = unwelcome;
    }

    pub(crate) fn set_read_rate(&mut self, host: HostId, rate: Option<u64>) {
        self.hosts[host.0].read_rate = rate;
        self.hosts[host.0].reads_again = self.now;
        self.touch_all(host);
    }

    pub(crate) fn open_descriptors(&self, host: HostId) -> usize {
        self.hosts[host.0].descriptors
    }

    /// Whether another descriptor can be had; counts it if so.
    pub(super) fn take_descriptor(&mut self, host: HostId) -> io::Result<()> {
        let host = &mut self.hosts[host.0];
        if host.descriptors >= host.descriptor_limit {
            return Err(out_of_descriptors());
        }
        host.descriptors += 1;
        Ok(())
    }

    pub(super) fn give_descriptor_back(&mut self, host: HostId) {
        let host = &mut self.hosts[host.0];
        host.descriptors = host.descriptors.saturating_sub(1);
    }

    // Time.

    /// Time since the beginning.
    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.now)
    }

    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// The network's time as the host's process knows it: it may be ahead while it is busy.
    pub(super) fn local_now(&self, host: HostId) -> u64 {
        self.now.max(self.hosts[host.0].busy_until)
    }

    /// What the host's clock shows.
    pub(crate) fn clock(&self, host: HostId) -> Instant {
        self.origin + Duration::from_nanos(self.hosts[host.0].clock.at(self.local_now(host)))
    }

    /// When the host's clock will show `time`, in the network's time.
    pub(crate) fn when(&self, host: HostId, time: Instant) -> u64 {
        let shown = nanos(time.saturating_duration_since(self.origin));
        self.hosts[host.0].clock.when(shown).max(self.now)
    }

    /// Lets the host's clock run faster or slower from now on.
    pub(crate) fn set_clock_rate(&mut self, host: HostId, rate: f64) {
        // A host that computes has seen its clock there already.
        let now = self.local_now(host);
        let clock = &mut self.hosts[host.0].clock;
        let rate = (rate * MILLION as f64).round().max(1.0) as u64;
        *clock = Clock { since: now, shown: clock.at(now), rate };
    }

    /// When something happens next, if nobody does anything.
    pub(crate) fn next_event(&self) -> Option<u64> {
        self.events.peek().map(|Reverse(event)| event.at)
    }

    /// How much has happened so far.
    pub(crate) fn happened(&self) -> u64 {
        self.happened
    }

    /// Moves the time on, and lets everything happen that happens until then.
    pub(crate) fn advance(&mut self, until: u64) {
        while let Some(Reverse(event)) = self.events.peek()
            && event.at <= until
        {
            let Some(Reverse(event)) = self.events.pop() else { break };
            self.now = self.now.max(event.at);
            self.happened += 1;
            self.happen(event.next);
        }
        self.now = self.now.max(until);
    }

    pub(super) fn schedule(&mut self, at: u64, next: Next) {
        let tie = Generator::for_purpose(self.seed, at, next.identity()).next() as u32;
        self.number += 1;
        self.events.push(Reverse(Event { at: at.max(self.now), tie, number: self.number, next }));
    }

    fn happen(&mut self, next: Next) {
        match next {
            Next::Syn(id) => self.syn(id),
            Next::Refused(id) => self.syn_is_answered(id, false),
            Next::NoRoute(id) => self.attempt_fails(id, io::ErrorKind::HostUnreachable),
            Next::Unanswered(id) => self.attempt_fails(id, io::ErrorKind::TimedOut),
            Next::Established(id) => self.syn_is_answered(id, true),
            Next::Acknowledged(id) => self.acknowledged(id),
            Next::Arrival(id) => self.arrival(id),
            Next::Transmit(id) => self.transmit(id),
            Next::GiveUp(id) => self.give_up(id),
            Next::Probed(id) => self.probed(id),
            Next::ResetBack(id) => self.reset_arrives(id),
            Next::ReadsAgain(host) => self.touch_all(host),
            Next::Datagram(from, to) => self.datagram_arrives(from, to),
            Next::StrayDatagram(id) => self.stray_arrives(id),
            Next::DatagramRefused(id) => self.datagram_refused(id),
            Next::DatagramRoom(id) => self.touch_mailbox(id),
        }
    }

    // Paths.

    pub(crate) fn set_usual_link(&mut self, link: Link) {
        self.usual_link = link;
    }

    pub(crate) fn set_link(&mut self, one: HostId, other: HostId, link: &Link) {
        for (from, to) in [(one, other), (other, one)] {
            self.path(from, to).link = link.clone();
        }
    }

    /// What the link between two hosts is like now.
    pub(crate) fn link(&mut self, one: HostId, other: HostId) -> Link {
        self.path(one, other).link.clone()
    }

    pub(super) fn path(&mut self, from: HostId, to: HostId) -> &mut Path {
        let (usual, seed) = (&self.usual_link, self.seed);
        self.paths.entry((from, to)).or_insert_with(|| Path {
            link: if from == to { Link::instant() } else { usual.clone() },
            cuts: 0,
            busy_until: 0,
            random: Generator::for_purpose(seed, from.0 as u64, to.0 as u64),
            datagrams: DatagramPath {
                packets: VecDeque::new(),
                last_arrival: 0,
                random: Generator::for_purpose(seed, from.0 as u64 | 1 << 32, to.0 as u64),
            },
        })
    }

    /// Whether nothing gets from one host to the other.
    pub(super) fn is_cut(&self, from: HostId, to: HostId) -> bool {
        let nowhere = from == NOWHERE || to == NOWHERE || !self.hosts[to.0].is_up;
        nowhere || self.paths.get(&(from, to)).is_some_and(|path| path.cuts > 0)
    }

    /// Cuts the way from one host to the other, or takes one cut back: it is free when all are.
    pub(crate) fn set_cut(&mut self, from: HostId, to: HostId, is_cut: bool) {
        let path = self.path(from, to);
        path.cuts = if is_cut { path.cuts + 1 } else { path.cuts.saturating_sub(1) };
        self.reachability_changed();
    }

    pub(crate) fn is_link_cut(&self, from: HostId, to: HostId) -> bool {
        self.paths.get(&(from, to)).is_some_and(|path| path.cuts > 0)
    }

    /// Mends all paths.
    pub(crate) fn heal(&mut self) {
        for path in self.paths.values_mut() {
            path.cuts = 0;
        }
        self.reachability_changed();
    }

    /// What is sent now arrives after this time.
    pub(super) fn delay(&mut self, from: HostId, to: HostId) -> u64 {
        let path = self.path(from, to);
        let (latency, jitter) = (nanos(path.link.latency), nanos(path.link.jitter));
        latency + if jitter == 0 { 0 } else { path.random.below(jitter + 1) }
    }

    /// The delay of a segment, with the times that it was lost.
    pub(super) fn delay_with_loss(&mut self, from: HostId, to: HostId) -> u64 {
        let mut delay = self.delay(from, to);
        let path = self.path(from, to);
        let loss = path.link.loss;
        let mut again = nanos(RETRANSMIT);
        while path.random.chance(loss) {
            delay = delay.saturating_add(again);
            again = again.saturating_mul(2);
        }
        delay
    }

    /// The largest piece of a stream that travels, or is received, at once.
    pub(super) fn piece(&mut self, from: HostId, to: HostId, most: usize) -> usize {
        let path = self.path(from, to);
        match path.link.pieces {
            Pieces::Whole => most,
            Pieces::UpTo(limit) => {
                let limit = limit.min(most).max(1);
                1 + path.random.below(limit as u64) as usize
            }
            Pieces::Exactly(length) => length.min(most),
        }
    }

    /// The host with this address, as seen from another.
    pub(super) fn host_at(&self, from: HostId, address: IpAddr) -> Option<HostId> {
        if address.is_loopback() {
            return Some(from);
        }
        let index = self.hosts.iter().position(|host| match address {
            IpAddr::V4(v4) => host.v4 == v4,
            IpAddr::V6(v6) => host.v6 == v6,
        });
        index.map(HostId)
    }

    /// Whether the host has this address.
    pub(super) fn is_local(&self, host: HostId, address: IpAddr) -> bool {
        address.is_unspecified() || self.host_at(host, address) == Some(host)
    }

    /// The address that a host talks from to another one.
    pub(super) fn local_address(&self, host: HostId, remote: IpAddr) -> IpAddr {
        let state = &self.hosts[host.0];
        match remote {
            remote if remote.is_loopback() => remote,
            IpAddr::V4(_) => state.v4.into(),
            IpAddr::V6(_) => state.v6.into(),
        }
    }

    // Listening.

    pub(super) fn listen(
        &mut self,
        host: HostId,
        spec: &ListenSpec,
        owner: Owner,
    ) -> io::Result<(SocketId, SocketAddr)> {
        let mut address = spec.address;
        let (v6only, reuse_port) = (spec.v6only.unwrap_or(false), spec.reuse_port);
        if !self.is_local(host, address.ip()) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        if address.port() == 0 {
            address.set_port(self.free_port(host).ok_or(io::ErrorKind::AddrInUse)?);
        }
        let clashes =
            self.hosts[host.0].listeners.iter().filter_map(|id| self.listeners.get(*id)).any(|one| {
                one.address.port() == address.port()
                    && !(one.reuse_port && reuse_port)
                    && overlap((one.address.ip(), one.v6only), (address.ip(), v6only))
            });
        let has_connections =
            || self.ends.iter().any(|(_, end)| end.host == host && end.local.port() == address.port());
        if clashes || (!spec.reuse_address && has_connections()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let listener = Listener {
            host,
            address,
            v6only,
            reuse_port,
            backlog: spec.backlog.max(1) as usize,
            options: spec.tcp.clone(),
            waiting: VecDeque::new(),
            handshakes: 0,
            owner,
            watch: Interest::READ,
        };
        let Some(id) = self.listeners.insert(listener) else {
            return Err(out_of_descriptors());
        };
        self.hosts[host.0].listeners.push(id);
        self.use_port(host, address.port());
        self.add_to_trace(host, "listens", address, None, 0);
        Ok((id, address))
    }

    pub(super) fn free_port(&mut self, host: HostId) -> Option<u16> {
        for _ in EPHEMERAL_PORTS {
            let state = &mut self.hosts[host.0];
            let port = state.next_port;
            state.next_port = if port + 1 == EPHEMERAL_PORTS.end { EPHEMERAL_PORTS.start } else { port + 1 };
            if !self.is_taken(host, port) {
                return Some(port);
            }
        }
        None
    }

    /// Another port to try for datagrams.
    pub(super) fn next_datagram_port(&mut self, host: HostId) -> u16 {
        let state = &mut self.hosts[host.0];
        let port = state.next_datagram_port;
        state.next_datagram_port =
            if port + 1 == EPHEMERAL_PORTS.end { EPHEMERAL_PORTS.start } else { port + 1 };
        port
    }

    /// Whether a socket of the host has this port.
    pub(super) fn is_taken(&self, host: HostId, port: u16) -> bool {
        self.hosts[host.0].ports.contains_key(&port)
    }

    fn use_port(&mut self, host: HostId, port: u16) {
        *self.hosts[host.0].ports.entry(port).or_default() += 1;
    }

    fn give_port_back(&mut self, host: HostId, port: u16) {
        if let Entry::Occupied(mut sockets) = self.hosts[host.0].ports.entry(port) {
            *sockets.get_mut() -= 1;
            if *sockets.get() == 0 {
                sockets.remove();
            }
        }
    }

    pub(super) fn add_end(&mut self, end: End) -> Option<SocketId> {
        let (host, port) = (end.host, end.local.port());
        let id = self.ends.insert(end)?;
        self.use_port(host, port);
        Some(id)
    }

    pub(super) fn remove_end(&mut self, id: SocketId) {
        if let Some(end) = self.ends.remove(id) {
            self.give_port_back(end.host, end.local.port());
        }
    }

    /// Who takes connections to this address, if anybody does.
    pub(super) fn listener_for(&mut self, host: HostId, address: SocketAddr) -> Option<SocketId> {
        let fits = |id: &SocketId| {
            self.listeners.get(*id).is_some_and(|one| {
                one.address.port() == address.port()
                    && overlap((one.address.ip(), one.v6only), (address.ip(), false))
            })
        };
        let mut found: Vec<SocketId> =
            self.hosts[host.0].listeners.iter().copied().filter(|id| fits(id)).collect();
        // The most exact address is the one that counts; sharers of a port take turns at random.
        if found.len() > 1
            && let Some(exact) = found.iter().copied().find(|id| {
                self.listeners.get(*id).is_some_and(|one| one.address.ip() == address.ip() && !one.reuse_port)
            })
        {
            found = vec![exact];
        }
        match found.len() {
            0 => None,
            1 => found.first().copied(),
            several => Some(found[self.path(host, host).random.below(several as u64) as usize]),
        }
    }

    /// Whether the listener's backlog has room for one more, with those whose handshake is under way.
    pub(super) fn has_room(&mut self, id: SocketId) -> bool {
        let Some(listener) = self.listeners.get(id) else { return false };
        if listener.waiting.len() + listener.handshakes < listener.backlog {
            return true;
        }
        // Some may have been given up by the other side.
        let handshakes = self.handshakes_of(id);
        let Some(listener) = self.listeners.get_mut(id) else { return false };
        listener.handshakes = handshakes;
        listener.waiting.len() + handshakes < listener.backlog
    }

    pub(super) fn take_waiting(&mut self, listener: SocketId) -> Option<SocketId> {
        loop {
            let id = self.listeners.get_mut(listener)?.waiting.pop_front()?;
            if self.ends.get(id).is_some() {
                return Some(id);
            }
        }
    }

    pub(super) fn close_listener(&mut self, id: SocketId) {
        let Some(listener) = self.listeners.remove(id) else { return };
        self.hosts[listener.host.0].listeners.retain(|one| *one != id);
        self.give_port_back(listener.host, listener.address.port());
        self.forget_unix_name(listener.host, listener.address);
        if matches!(listener.owner, Owner::Driver(_)) {
            self.give_descriptor_back(listener.host);
        }
        self.add_to_trace(listener.host, "stops listening", listener.address, None, 0);
        for waiting in listener.waiting {
            self.reset(waiting);
        }
    }

    // Telling drivers.

    pub(super) fn touch_listener(&mut self, id: SocketId) {
        if let Some(listener) = self.listeners.get(id)
            && listener.watch.reads()
            && !listener.waiting.is_empty()
            && let Owner::Driver(token) = listener.owner
        {
            self.hosts[listener.host.0].touched.push(token);
        }
    }

    /// Has the host's driver look at all its sockets.
    fn touch_all(&mut self, host: HostId) {
        let ids: Vec<SocketId> =
            self.ends.iter().filter(|(_, end)| end.host == host).map(|(id, _)| id).collect();
        for id in ids {
            self.touch(id);
        }
    }

    // The trace.

    pub(super) fn add_to_trace(
        &mut self,
        host: HostId,
        verb: &'static str,
        local: SocketAddr,
        remote: Option<SocketAddr>,
        bytes: usize,
    ) {
        self.trace.add(self.now, Some(host.0), Happening::Stream { verb, local, remote, bytes });
    }

    /// Writes a line of the simulation, or of the user.
    pub(crate) fn note(&mut self, host: Option<HostId>, text: &str) {
        self.trace.add(self.now, host.map(|host| host.0), Happening::Text(text.to_owned()));
    }

    pub(crate) fn set_trace_limit(&mut self, lines: usize) {
        self.trace.set_limit(lines);
    }

    pub(crate) fn trace(&self, lines: usize) -> String {
        self.trace.text(lines, |host| self.hosts[host].name.clone())
    }

    pub(crate) fn notes(&self) -> String {
        self.trace.notes(|host| self.hosts[host].name.clone())
    }

    pub(crate) fn fingerprint(&self) -> u64 {
        self.trace.fingerprint()
    }

    /// What the host's sockets are waiting for, a line each.
    pub(crate) fn describe(&self, host: HostId) -> Vec<String> {
        let listening = self.listeners.iter().filter(|(_, one)| one.host == host);
        let listening = listening.map(|(_, one)| {
            format!("listens on {} ({} waiting to be accepted)", one.address, one.waiting.len())
        });
        let ends = self.ends.iter().filter(|(_, end)| end.host == host);
        let mailboxes = self.mailboxes.iter().filter(|(_, one)| one.host == host);
        let mailboxes = mailboxes.map(|(_, one)| one.describe());
        listening.chain(ends.map(|(_, end)| end.describe())).chain(mailboxes).collect()
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = Time(self.now).to_string();
        write!(f, "t={} s", time.trim_start())
    }
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether two listening addresses of one port would both get a connection.
pub(super) fn overlap((one, one_v6only): (IpAddr, bool), (other, other_v6only): (IpAddr, bool)) -> bool {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            one.is_unspecified() || other.is_unspecified() || one == other
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => {
            one.is_unspecified() || other.is_unspecified() || one == other
        }
        (IpAddr::V6(six), IpAddr::V4(_)) => six.is_unspecified() && !one_v6only,
        (IpAddr::V4(_), IpAddr::V6(six)) => six.is_unspecified() && !other_v6only,
    }
}

/// The error of a process that has as many descriptors open as it may.
pub(super) fn out_of_descriptors() -> io::Error {
    #[cfg(unix)]
    return io::Error::from_raw_os_error(libc::EMFILE);
    #[cfg(not(unix))]
    io::Error::other("too many open files")
}
