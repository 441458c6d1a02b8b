//! Datagrams in the simulated network: sockets, and packets on their way between them.
//!
//! A packet arrives once, twice or not at all, as the link says; those that are not reordered arrive in the
//! order in which they were sent. All random choices come from generators of their own, so that datagrams
//! change nothing about the streams beside them. Sockets of a driver and raw ones are the same here. Unix
//! sockets reach only their own host: what they send is there at once, or refused.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::network::{HostId, Network, Next, Owner, SocketId, nanos, out_of_descriptors, overlap};
use crate::core::address::{Address, UnixAddress};
use crate::driver::Interest;
use crate::driver::ops::unmapped;
use crate::driver::options::{DatagramSpec, UnixDatagramSpec};

/// What a packet needs beside its data in a receive buffer, about as on Linux.
const OVERHEAD: usize = 512;
/// The buffers of a socket that asked for none: those of Linux.
const BUFFER: usize = 212_992;

/// Datagrams that a Unix socket has room for less one, as on Linux.
const UNIX_QUEUE: usize = 10;
/// What Linux keeps of a send buffer for itself.
const UNIX_OVERHEAD: usize = 32;

/// A socket for datagrams.
pub(super) struct Mailbox {
    pub(super) host: HostId,
    pub(super) local: SocketAddr,
    pub(super) remote: Option<SocketAddr>,
    v6only: bool,
    reuse_address: bool,
    reuse_port: bool,
    pub(super) broadcast: bool,
    receive_buffer: usize,
    send_buffer: usize,
    input: VecDeque<Packet>,
    input_bytes: usize,
    /// What the network has told it.
    pub(super) error: Option<io::ErrorKind>,
    /// Nothing can be sent before this time.
    blocked_until: u64,
    pub(super) owner: Owner,
    pub(super) watch: Interest,
    /// What a Unix socket has beside; the addresses above mean nothing then.
    unix: Option<UnixSide>,
}

/// The addresses of a Unix socket.
struct UnixSide {
    name: UnixAddress,
    peer: Option<UnixAddress>,
}

/// A datagram on its way, or arrived.
#[derive(Clone)]
pub(super) struct Packet {
    sender: SocketId,
    pub(super) from: SocketAddr,
    to: SocketAddr,
    pub(super) data: Vec<u8>,
    /// Who sent it, if it came through a Unix socket.
    from_unix: Option<UnixAddress>,
}

impl Packet {
    /// Who sent it.
    pub(super) fn sender(&self) -> Address {
        match &self.from_unix {
            Some(name) => name.clone().into(),
            None => self.from.into(),
        }
    }
}

impl Mailbox {
    pub(super) fn is_readable(&self) -> bool {
        !self.input.is_empty() || self.error.is_some()
    }

    /// Whether there is something to report; `has_room` says whether the peer of a Unix socket has room.
    pub(super) fn is_of_interest(&self, now: u64, has_room: bool) -> bool {
        (self.watch.reads() && self.is_readable())
            || (self.watch.writes() && has_room && self.blocked_until <= now)
            || self.error.is_some()
    }

    pub(super) fn is_writable(&self, now: u64) -> bool {
        self.blocked_until <= now
    }

    pub(super) fn describe(&self) -> String {
        let peer = self.remote.map(|remote| format!(" - {remote}")).unwrap_or_default();
        let (packets, bytes) = (self.input.len(), self.input_bytes);
        if let Some(unix) = &self.unix {
            return format!("{}: {packets} datagrams ({bytes} B) not received", unix.name);
        }
        format!("{}{peer}: {packets} datagrams ({bytes} B) not received", self.local)
    }
}

impl Network {
    pub(super) fn bind_datagram(
        &mut self,
        host: HostId,
        spec: &DatagramSpec,
        owner: Owner,
    ) -> io::Result<(SocketId, Address)> {
        let ip = |address: &Option<Address>| address.as_ref().and_then(Address::socket_addr).map(unmapped);
        let remote = ip(&spec.remote);
        let mut local = match (ip(&spec.local), remote) {
            (Some(local), _) => local,
            (None, Some(remote)) if remote.is_ipv4() => (Ipv4Addr::UNSPECIFIED, 0).into(),
            (None, Some(_)) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
            (None, None) => return Err(io::ErrorKind::InvalidInput.into()),
        };
        if !self.is_local(host, local.ip()) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        if let Some(remote) = remote
            && local.ip().is_unspecified()
        {
            local.set_ip(self.local_address(host, remote.ip()));
        }
        if local.port() == 0 {
            local.set_port(self.free_datagram_port(host).ok_or(io::ErrorKind::AddrInUse)?);
        }
        let v6only = spec.v6only.unwrap_or(false);
        let clashes = self.mailboxes.iter().any(|(_, one)| {
            one.host == host
                && one.unix.is_none()
                && one.local.port() == local.port()
                && !(one.reuse_port && spec.reuse_port)
                && !(one.reuse_address && spec.reuse_address)
                && overlap((one.local.ip(), one.v6only), (local.ip(), v6only))
        });
        if clashes {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let mailbox = Mailbox {
            host,
            local,
            remote,
            v6only,
            reuse_address: spec.reuse_address,
            reuse_port: spec.reuse_port,
            broadcast: spec.broadcast,
            receive_buffer: spec.recv_buffer.unwrap_or(BUFFER),
            send_buffer: spec.send_buffer.unwrap_or(BUFFER),
            input: VecDeque::new(),
            input_bytes: 0,
            error: None,
            blocked_until: 0,
            owner,
            watch: Interest::READ,
            unix: None,
        };
        let id = self.mailboxes.insert(mailbox).ok_or_else(out_of_descriptors)?;
        self.add_to_trace(host, "takes datagrams", local, remote, 0);
        Ok((id, local.into()))
    }

    /// Opens a Unix socket; its address, and how long a datagram from it may be.
    pub(super) fn bind_unix_datagram(
        &mut self,
        host: HostId,
        spec: &UnixDatagramSpec,
        owner: Owner,
    ) -> io::Result<(SocketId, UnixAddress, usize)> {
        if let Some(peer) = &spec.remote {
            self.unix_mailbox(host, peer)?;
        }
        let name = match &spec.local {
            Some(name) => name.clone(),
            None if spec.autobind => self.free_unix_name(host),
            None => UnixAddress::unnamed(),
        };
        if self.has_unix_name(host, &name) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let send_buffer = spec.options.send_buffer.unwrap_or(BUFFER);
        let mailbox = Mailbox {
            host,
            local: nowhere,
            remote: None,
            v6only: false,
            reuse_address: false,
            reuse_port: false,
            broadcast: false,
            receive_buffer: spec.options.recv_buffer.unwrap_or(BUFFER),
            send_buffer,
            input: VecDeque::new(),
            input_bytes: 0,
            error: None,
            blocked_until: 0,
            owner,
            watch: Interest::READ,
            unix: Some(UnixSide { name: name.clone(), peer: spec.remote.clone() }),
        };
        let id = self.mailboxes.insert(mailbox).ok_or_else(out_of_descriptors)?;
        self.add_to_trace(host, "takes datagrams at a Unix socket,", nowhere, None, 0);
        Ok((id, name, send_buffer.saturating_sub(UNIX_OVERHEAD)))
    }

    fn free_unix_name(&self, host: HostId) -> UnixAddress {
        let mut names = (0_u32..).map(|number| UnixAddress::from_abstract_name(format!("{number:05x}")));
        names.find(|name| !self.has_unix_name(host, name)).unwrap_or_else(UnixAddress::unnamed)
    }

    /// Whether a Unix socket of the host takes connections or datagrams at this address.
    fn has_unix_name(&self, host: HostId, name: &UnixAddress) -> bool {
        self.unix_mailbox(host, name).is_ok() || self.unix_target(host, name).is_ok()
    }

    /// The Unix socket that takes datagrams at this address.
    pub(super) fn unix_mailbox(&self, host: HostId, name: &UnixAddress) -> io::Result<SocketId> {
        let mut boxes = self.mailboxes.iter().filter(|(_, one)| one.host == host && !name.is_unnamed());
        let found = boxes.find(|(_, one)| one.unix.as_ref().is_some_and(|unix| unix.name == *name));
        let missing =
            if name.path().is_some() { io::ErrorKind::NotFound } else { io::ErrorKind::ConnectionRefused };
        found.map(|(id, _)| id).ok_or_else(|| missing.into())
    }

    /// Whether this is a Unix socket.
    pub(super) fn is_unix(&self, id: SocketId) -> bool {
        self.mailboxes.get(id).is_some_and(|mailbox| mailbox.unix.is_some())
    }

    /// Whether this is a Unix socket that is connected to this address.
    fn is_connected(&self, id: SocketId, to: &UnixAddress) -> bool {
        let unix = self.mailboxes.get(id).and_then(|mailbox| mailbox.unix.as_ref());
        unix.and_then(|unix| unix.peer.as_ref()) == Some(to)
    }

    /// Sends one datagram through a Unix socket: it arrives at once, or there is an error.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the receiver has no room; who is connected to it is told when there is.
    pub(super) fn send_unix_datagram(
        &mut self,
        id: SocketId,
        to: Option<&UnixAddress>,
        data: &[u8],
    ) -> io::Result<()> {
        let mailbox = self.mailboxes.get(id).ok_or(io::ErrorKind::NotConnected)?;
        let (host, own) = (mailbox.host, mailbox.unix.as_ref().ok_or(io::ErrorKind::InvalidInput)?);
        let (from, local) = (own.name.clone(), mailbox.local);
        let target = match (to, &own.peer) {
            (Some(to), _) => self.unix_mailbox(host, to)?,
            // Nobody is there any more.
            (None, Some(peer)) => {
                self.unix_mailbox(host, peer).map_err(|_| io::ErrorKind::ConnectionRefused)?
            }
            (None, None) => return Err(io::ErrorKind::NotConnected.into()),
        };
        let receiver = self.mailboxes.get(target).ok_or(io::ErrorKind::ConnectionRefused)?;
        let peer = receiver.unix.as_ref().and_then(|unix| unix.peer.as_ref());
        let is_mutual = peer == Some(&from) && !from.is_unnamed();
        if peer.is_some() && !is_mutual {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        // Two that are connected to each other wait for memory only.
        let is_full = if is_mutual {
            receiver.input_bytes > receiver.receive_buffer
        } else {
            receiver.input.len() > UNIX_QUEUE
        };
        if is_full {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.add_to_trace(host, "sends a datagram through a Unix socket,", local, None, data.len());
        let Some(receiver) = self.mailboxes.get_mut(target) else { return Ok(()) };
        receiver.input_bytes += data.len() + OVERHEAD;
        let packet =
            Packet { sender: id, from: local, to: local, data: data.to_vec(), from_unix: Some(from) };
        receiver.input.push_back(packet);
        self.touch_mailbox(target);
        Ok(())
    }

    /// Whether a Unix socket that is connected could send now.
    pub(super) fn has_room_at_peer(&self, id: SocketId) -> bool {
        let mailbox = self.mailboxes.get(id);
        let Some((host, peer)) =
            mailbox.and_then(|one| one.unix.as_ref()?.peer.as_ref().map(|peer| (one.host, peer)))
        else {
            return true;
        };
        let receiver = self.unix_mailbox(host, peer).ok().and_then(|peer| self.mailboxes.get(peer));
        receiver.is_none_or(|receiver| receiver.input.len() <= UNIX_QUEUE)
    }

    /// Has those that are connected to a Unix socket look whether they can send.
    fn tell_senders(&mut self, host: HostId, name: &UnixAddress) {
        let senders = self.mailboxes.iter().filter(|(_, one)| one.host == host && one.watch.writes());
        let senders: Vec<SocketId> =
            senders.map(|(id, _)| id).filter(|id| self.is_connected(*id, name)).collect();
        for sender in senders {
            self.touch_mailbox(sender);
        }
    }

    fn free_datagram_port(&mut self, host: HostId) -> Option<u16> {
        let taken = |network: &Self, port| {
            network.mailboxes.iter().any(|(_, one)| one.host == host && one.local.port() == port)
        };
        for _ in super::network::EPHEMERAL_PORTS {
            let port = self.next_datagram_port(host);
            if !taken(self, port) {
                return Some(port);
            }
        }
        None
    }

    pub(super) fn close_mailbox(&mut self, id: SocketId) {
        let Some(mailbox) = self.mailboxes.remove(id) else { return };
        if matches!(mailbox.owner, Owner::Driver(_)) {
            self.give_descriptor_back(mailbox.host);
        }
        self.add_to_trace(mailbox.host, "takes no more datagrams", mailbox.local, mailbox.remote, 0);
        if let Some(unix) = mailbox.unix {
            self.tell_senders(mailbox.host, &unix.name);
        }
    }

    /// Sends one datagram; whether it arrives is another matter.
    pub(super) fn send_datagram(
        &mut self,
        id: SocketId,
        to: Option<SocketAddr>,
        data: &[u8],
    ) -> io::Result<()> {
        let local_now = self.mailboxes.get(id).map(|mailbox| self.local_now(mailbox.host));
        let now = local_now.ok_or(io::ErrorKind::NotConnected)?;
        let mailbox = self.mailboxes.get_mut(id).ok_or(io::ErrorKind::NotConnected)?;
        if let Some(kind) = mailbox.error.take() {
            return Err(kind.into());
        }
        let to = to.map(unmapped).or(mailbox.remote).ok_or(io::ErrorKind::NotConnected)?;
        if mailbox.blocked_until > now {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let is_broadcast = to.ip() == IpAddr::V4(Ipv4Addr::BROADCAST);
        if is_broadcast && !mailbox.broadcast {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let (host, mut from, send_buffer) = (mailbox.host, mailbox.local, mailbox.send_buffer);
        if from.ip().is_unspecified() {
            from.set_ip(self.local_address(host, to.ip()));
        }
        self.add_to_trace(host, "sends a datagram,", from, Some(to), data.len());
        let targets = if is_broadcast {
            (0..self.hosts.len()).map(HostId).filter(|other| *other != host).collect()
        } else {
            self.host_at(host, to.ip()).into_iter().collect::<Vec<_>>()
        };
        if targets.is_empty() {
            self.add_to_trace(host, "finds nobody at that address,", from, Some(to), data.len());
        }
        for target in targets {
            let packet = Packet { sender: id, from, to, data: data.to_vec(), from_unix: None };
            self.send_packet(now, host, target, packet, send_buffer);
        }
        Ok(())
    }

    fn send_packet(&mut self, now: u64, from: HostId, to: HostId, packet: Packet, send_buffer: usize) {
        let (sender, length) = (packet.sender, packet.data.len());
        let is_cut = self.is_cut(from, to);
        let path = self.path(from, to);
        let mut leaves = now;
        if let Some(bandwidth) = path.link.bandwidth {
            let time = |bytes: usize| {
                let takes = bytes as u128 * 1_000_000_000 / u128::from(bandwidth);
                u64::try_from(takes).unwrap_or(u64::MAX)
            };
            leaves = now.max(path.busy_until).saturating_add(time(length));
            path.busy_until = leaves;
            // What has not left stands in the send buffer.
            let room_from = leaves.saturating_sub(time(send_buffer));
            if room_from > now {
                if let Some(mailbox) = self.mailboxes.get_mut(sender) {
                    mailbox.blocked_until = room_from;
                }
                self.schedule(room_from, Next::DatagramRoom(sender));
            }
        }
        let path = self.path(from, to);
        let random = &mut path.datagrams.random;
        let (latency, jitter) = (nanos(path.link.latency), nanos(path.link.jitter));
        let mut delay = || latency + if jitter == 0 { 0 } else { random.below(jitter + 1) };
        let first = leaves.saturating_add(delay());
        let second = leaves.saturating_add(delay());
        let is_lost = random.chance(path.link.loss);
        let is_late = random.chance(path.link.reorder);
        let is_twofold = random.chance(path.link.duplicate);
        // Late enough for several others to overtake it.
        let late = first.saturating_add(latency + jitter + 1 + random.below(1_000_000));
        if is_cut || is_lost {
            self.add_to_trace(from, "loses a datagram,", packet.from, Some(packet.to), length);
            return;
        }
        if is_twofold && let Some(copy) = self.strays.insert((from, to, packet.clone())) {
            self.schedule(second, Next::StrayDatagram(copy));
        }
        if is_late {
            if let Some(stray) = self.strays.insert((from, to, packet)) {
                self.schedule(late, Next::StrayDatagram(stray));
            }
            return;
        }
        let path = self.path(from, to);
        let arrives = first.max(path.datagrams.last_arrival);
        path.datagrams.last_arrival = arrives;
        path.datagrams.packets.push_back(packet);
        self.schedule(arrives, Next::Datagram(from, to));
    }

    /// The first in order that is on its way there arrives.
    pub(super) fn datagram_arrives(&mut self, from: HostId, to: HostId) {
        if let Some(packet) = self.path(from, to).datagrams.packets.pop_front() {
            self.deliver(from, to, packet);
        }
    }

    pub(super) fn stray_arrives(&mut self, stray: SocketId) {
        if let Some((from, to, packet)) = self.strays.remove(stray) {
            self.deliver(from, to, packet);
        }
    }

    fn deliver(&mut self, from: HostId, to: HostId, packet: Packet) {
        let length = packet.data.len();
        if self.is_cut(from, to) {
            self.add_to_trace(from, "loses a datagram,", packet.from, Some(packet.to), length);
            return;
        }
        let Some(id) = self.mailbox_for(to, &packet) else {
            self.add_to_trace(to, "has nobody for a datagram,", packet.to, Some(packet.from), length);
            // Only a connected socket hears of it.
            if self.mailboxes.get(packet.sender).is_some_and(|sender| sender.remote == Some(packet.to)) {
                let path = self.path(to, from);
                let (latency, jitter) = (nanos(path.link.latency), nanos(path.link.jitter));
                let delay = latency + path.datagrams.random.below(jitter + 1);
                self.schedule(self.now.saturating_add(delay), Next::DatagramRefused(packet.sender));
            }
            return;
        };
        let Some(mailbox) = self.mailboxes.get_mut(id) else { return };
        let needs = length + OVERHEAD;
        let (local, remote) = (packet.to, packet.from);
        if mailbox.input_bytes > 0 && mailbox.input_bytes + needs > mailbox.receive_buffer {
            self.add_to_trace(to, "has no room for a datagram,", local, Some(remote), length);
            return;
        }
        mailbox.input_bytes += needs;
        mailbox.input.push_back(packet);
        self.add_to_trace(to, "gets a datagram,", local, Some(remote), length);
        self.touch_mailbox(id);
    }

    /// Who takes it: a socket connected to its sender before others, one with that very address before
    /// others; those who share a port take turns at random; of those who share an address the last one gets
    /// everything.
    fn mailbox_for(&mut self, host: HostId, packet: &Packet) -> Option<SocketId> {
        let target = match packet.to.ip() {
            IpAddr::V4(Ipv4Addr::BROADCAST) => Ipv4Addr::UNSPECIFIED.into(),
            ip => ip,
        };
        let mut best: Vec<SocketId> = Vec::new();
        let mut best_score = 0;
        let mut shared = false;
        for (id, one) in self.mailboxes.iter() {
            let fits = one.host == host
                && one.unix.is_none()
                && one.local.port() == packet.to.port()
                && overlap((one.local.ip(), one.v6only), (target, false))
                && one.remote.is_none_or(|remote| remote == packet.from);
            if !fits {
                continue;
            }
            let score = 1 + 2 * u8::from(one.remote.is_some()) + u8::from(!one.local.ip().is_unspecified());
            if score > best_score {
                best.clear();
                best_score = score;
                shared = one.reuse_port;
            }
            if score == best_score {
                best.push(id);
            }
        }
        match best.len() {
            0 | 1 => best.pop(),
            several if shared => {
                let chosen = self.path(host, host).datagrams.random.below(several as u64);
                best.get(chosen as usize).copied()
            }
            _ => best.pop(),
        }
    }

    /// A connected socket hears that nobody takes its datagrams.
    pub(super) fn datagram_refused(&mut self, id: SocketId) {
        let Some(mailbox) = self.mailboxes.get_mut(id) else { return };
        mailbox.error = Some(io::ErrorKind::ConnectionRefused);
        let (host, local, remote) = (mailbox.host, mailbox.local, mailbox.remote);
        self.add_to_trace(host, "hears that its datagram was refused", local, remote, 0);
        self.touch_mailbox(id);
    }

    /// The next datagram that has arrived.
    pub(super) fn receive_datagram(&mut self, id: SocketId) -> io::Result<Packet> {
        let mailbox = self.mailboxes.get_mut(id).ok_or(io::ErrorKind::NotConnected)?;
        if let Some(kind) = mailbox.error.take() {
            return Err(kind.into());
        }
        let packet = mailbox.input.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        mailbox.input_bytes -= packet.data.len() + OVERHEAD;
        if let Some(UnixSide { name, .. }) = &mailbox.unix
            && mailbox.input.len() == UNIX_QUEUE
        {
            let (host, name) = (mailbox.host, name.clone());
            self.tell_senders(host, &name);
        }
        Ok(packet)
    }

    pub(super) fn touch_mailbox(&mut self, id: SocketId) {
        if let Some(mailbox) = self.mailboxes.get(id)
            && let Owner::Driver(token) = mailbox.owner
            && mailbox.is_of_interest(self.local_now(mailbox.host), self.has_room_at_peer(id))
        {
            self.hosts[mailbox.host.0].touched.push(token);
        }
    }
}
