//! Sockets for datagrams: opening them, their options, and receiving and sending in batches.
//!
//! On Linux many datagrams go through one `recvmmsg` or `sendmmsg`; elsewhere, and on the portable path, one
//! through each call. What was received stands in a [`DatagramBatch`] that the loop owns, so that hooks can
//! look at it with nothing borrowed. Nothing here waits, and nothing is retried: the loop decides what an
//! error means.
//!
//! # Portability
//!
//! `reuse_port` exists on Unix, `bind_device` on Linux, joining an IPv4 group by the number of an interface
//! not on OpenBSD, NetBSD, illumos and Solaris. What a system lacks is an error of kind `Unsupported`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::DriverStats;
use super::ops::unmapped;
use super::options::{DatagramOption, DatagramSpec};
use super::socket::{describe, named, set_bind_device, set_reuse_port};
use crate::core::address::Address;
#[cfg(unix)]
use crate::core::address::UnixAddress;
use crate::core::datagrams::DatagramQueue;
use crate::core::multicast::MulticastInterface;

/// Datagrams that one call receives or sends at most.
pub(crate) const BATCH: usize = 32;
/// Room for one datagram: more than any datagram of IP has.
const ROOM: usize = 64 * 1024;
/// From one datagram's room to the next: not a power of two, so that they do not all meet in one set of the
/// cache.
const STRIDE: usize = ROOM + 320;

/// One datagram of a batch.
struct Entry {
    /// The number of its room.
    room: usize,
    length: usize,
    from: Address,
    truncated: bool,
}

/// What one receive has brought. The memory is made once, and touched only as far as datagrams need it.
pub(crate) struct DatagramBatch {
    rooms: Vec<u8>,
    entries: Vec<Entry>,
    /// The last sender that had a Unix address: most have the same, which is then not made anew.
    #[cfg(unix)]
    known: UnixAddress,
}

/// One received datagram.
pub(crate) struct Datagram<'b> {
    pub(crate) data: &'b [u8],
    pub(crate) from: &'b Address,
    /// It was longer than the socket takes: what is here is its beginning.
    pub(crate) truncated: bool,
}

impl DatagramBatch {
    pub(crate) fn new() -> Self {
        Self {
            rooms: vec![0; STRIDE * BATCH],
            entries: Vec::with_capacity(BATCH),
            #[cfg(unix)]
            known: UnixAddress::unnamed(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, index: usize) -> Option<Datagram<'_>> {
        let entry = self.entries.get(index)?;
        let data = &self.rooms[entry.room * STRIDE..][..entry.length];
        Some(Datagram { data, from: &entry.from, truncated: entry.truncated })
    }

    /// Who the system says that a datagram is from.
    fn sender(&mut self, name: &SockAddr) -> Option<Address> {
        // Only Unix sockets can be without an address.
        #[cfg(unix)]
        if name.is_unix() || name.len() < offset_of_name() {
            if !super::unix::is_address_of(name, &self.known) {
                self.known = super::ops::unix_address(name);
            }
            return Some(self.known.clone().into());
        }
        name.as_socket().map(|address| unmapped(address).into())
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Puts a datagram in as a kernel would, cut to `max` bytes.
    #[cfg(feature = "testing")]
    pub(super) fn push(&mut self, data: &[u8], from: Address, max: usize) {
        let (room, length) = (self.entries.len(), data.len().min(max).min(ROOM));
        self.rooms[room * STRIDE..][..length].copy_from_slice(&data[..length]);
        self.entries.push(Entry { room, length, from, truncated: length < data.len() });
    }
}

/// What became of the queue that was to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DatagramsSent {
    /// It is empty.
    All,
    /// The kernel takes no more now, and will say when it does.
    Blocked,
    /// The kernel has no memory for more now, and will not say when it has.
    NoMemory,
    /// To whom the first one goes has no room for it, and the kernel will not say when there is. Others may
    /// have room.
    ReceiverFull,
}

/// Opens a socket; tells its address, with the real port where the spec has none.
pub(super) fn open(spec: &DatagramSpec) -> io::Result<(Socket, Address)> {
    let (what, address) = match (&spec.remote, &spec.local) {
        (Some(remote), _) => ("connect to", remote),
        (None, Some(local)) => ("bind", local),
        (None, None) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    try_open(spec, ip(address)?).map_err(|error| describe(what, address, &error))
}

fn try_open(spec: &DatagramSpec, address: SocketAddr) -> io::Result<(Socket, Address)> {
    let domain = Domain::for_address(address);
    #[cfg(any(target_os = "linux", target_os = "freebsd"))]
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    #[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
    let socket = {
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket
    };
    if spec.reuse_address {
        named("reuse_address", socket.set_reuse_address(true))?;
    }
    if spec.reuse_port {
        named("reuse_port", set_reuse_port(&socket))?;
    }
    if let Some(v6only) = v6only(spec, address) {
        named("v6only", socket.set_only_v6(v6only))?;
    }
    if let Some(device) = &spec.bind_device {
        named(&format!("bind_device={device}"), set_bind_device(&socket, device))?;
    }
    if spec.broadcast {
        named("broadcast", socket.set_broadcast(true))?;
    }
    if let Some(size) = spec.recv_buffer {
        named("recv_buffer", socket.set_recv_buffer_size(size))?;
    }
    if let Some(size) = spec.send_buffer {
        named("send_buffer", socket.set_send_buffer_size(size))?;
    }
    if let Some(local) = &spec.local {
        let bound = socket.bind(&ip(local)?.into());
        if spec.remote.is_some() {
            bound.map_err(|error| describe("bind", local, &error))?;
        } else {
            bound?;
        }
    }
    if let Some(remote) = &spec.remote {
        socket.connect(&ip(remote)?.into())?;
    }
    let local = socket.local_addr()?.as_socket();
    let local = local.ok_or_else(|| io::Error::other("the socket has no internet address"))?;
    Ok((socket, local.into()))
}

fn ip(address: &Address) -> io::Result<SocketAddr> {
    address
        .socket_addr()
        .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, format!("{address} is no address of UDP")))
}

/// Systems disagree about the default of `[::]`, so that it is always said.
fn v6only(spec: &DatagramSpec, address: SocketAddr) -> Option<bool> {
    match address {
        SocketAddr::V4(_) => None,
        SocketAddr::V6(v6)
            if spec.remote.is_none() && v6.ip().is_unspecified() && !cfg!(target_os = "openbsd") =>
        {
            Some(spec.v6only.unwrap_or(false))
        }
        SocketAddr::V6(_) => spec.v6only,
    }
}

/// Changes something about an open socket.
pub(super) fn set_option(socket: &Socket, option: DatagramOption) -> io::Result<()> {
    match option {
        DatagramOption::JoinGroup(group, interface) => {
            let joined = join(socket, group, interface);
            joined.map_err(|error| about_group("join", group, interface, &error))
        }
        DatagramOption::LeaveGroup(group, interface) => {
            let left = leave(socket, group, interface);
            left.map_err(|error| about_group("leave", group, interface, &error))
        }
        DatagramOption::MulticastInterface(interface) => {
            let is_v6 = is_v6(socket)?;
            named(
                "the multicast interface",
                match (interface, is_v6) {
                    (MulticastInterface::Any, true) => socket.set_multicast_if_v6(0),
                    (MulticastInterface::Index(index), true) => socket.set_multicast_if_v6(index),
                    (MulticastInterface::Address(_), true) => Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        "an IPv6 socket knows interfaces by their numbers",
                    )),
                    (MulticastInterface::Any, false) => socket.set_multicast_if_v4(&Ipv4Addr::UNSPECIFIED),
                    (MulticastInterface::Address(address), false) => socket.set_multicast_if_v4(&address),
                    (MulticastInterface::Index(_), false) => Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        "an IPv4 socket knows interfaces by their addresses",
                    )),
                },
            )
        }
        DatagramOption::MulticastTtl(hops) => named(
            "multicast_ttl",
            match is_v6(socket)? {
                true => socket.set_multicast_hops_v6(hops),
                false => socket.set_multicast_ttl_v4(hops),
            },
        ),
        DatagramOption::MulticastLoop(on) => named(
            "multicast_loop",
            match is_v6(socket)? {
                true => socket.set_multicast_loop_v6(on),
                false => socket.set_multicast_loop_v4(on),
            },
        ),
        DatagramOption::Ttl(hops) => named(
            "ttl",
            match is_v6(socket)? {
                true => socket.set_unicast_hops_v6(hops),
                false => socket.set_ttl_v4(hops),
            },
        ),
        DatagramOption::Broadcast(on) => named("broadcast", socket.set_broadcast(on)),
    }
}

fn is_v6(socket: &Socket) -> io::Result<bool> {
    Ok(socket.local_addr()?.is_ipv6())
}

fn about_group(what: &str, group: IpAddr, interface: MulticastInterface, error: &io::Error) -> io::Error {
    let through = match interface {
        MulticastInterface::Any => String::new(),
        MulticastInterface::Address(address) => format!(" through {address}"),
        MulticastInterface::Index(index) => format!(" through interface {index}"),
    };
    let cause = match error.kind() {
        io::ErrorKind::AddrInUse => "the socket has joined it already".to_owned(),
        io::ErrorKind::AddrNotAvailable if what == "leave" => "the socket has not joined it".to_owned(),
        _ => error.to_string(),
    };
    io::Error::new(error.kind(), format!("cannot {what} {group}{through}: {cause}"))
}

fn join(socket: &Socket, group: IpAddr, interface: MulticastInterface) -> io::Result<()> {
    only_own_groups(socket, group);
    match (group, interface) {
        (IpAddr::V6(group), MulticastInterface::Any) => socket.join_multicast_v6(&group, 0),
        (IpAddr::V6(group), MulticastInterface::Index(index)) => socket.join_multicast_v6(&group, index),
        (IpAddr::V6(_), MulticastInterface::Address(_)) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "an IPv6 group is joined through an interface by its number",
        )),
        (IpAddr::V4(group), MulticastInterface::Any) => {
            socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED)
        }
        (IpAddr::V4(group), MulticastInterface::Address(own)) => socket.join_multicast_v4(&group, &own),
        (IpAddr::V4(group), MulticastInterface::Index(index)) => join_v4_by_index(socket, group, index),
    }
}

fn leave(socket: &Socket, group: IpAddr, interface: MulticastInterface) -> io::Result<()> {
    match (group, interface) {
        (IpAddr::V6(group), MulticastInterface::Any) => socket.leave_multicast_v6(&group, 0),
        (IpAddr::V6(group), MulticastInterface::Index(index)) => socket.leave_multicast_v6(&group, index),
        (IpAddr::V6(_), MulticastInterface::Address(_)) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "an IPv6 group is left through an interface by its number",
        )),
        (IpAddr::V4(group), MulticastInterface::Any) => {
            socket.leave_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED)
        }
        (IpAddr::V4(group), MulticastInterface::Address(own)) => socket.leave_multicast_v4(&group, &own),
        (IpAddr::V4(group), MulticastInterface::Index(index)) => leave_v4_by_index(socket, group, index),
    }
}

/// Linux gives a socket what comes for groups that any socket of the machine has joined, unless told not to.
#[cfg(target_os = "linux")]
fn only_own_groups(socket: &Socket, group: IpAddr) {
    let result = match group {
        IpAddr::V4(_) => socket.set_multicast_all_v4(false),
        IpAddr::V6(_) => socket.set_multicast_all_v6(false),
    };
    if let Err(error) = result {
        log::debug!("other groups than {group} may be heard as well: {error}");
    }
}

#[cfg(not(target_os = "linux"))]
fn only_own_groups(_: &Socket, _: IpAddr) {}

#[cfg(any(target_os = "linux", target_os = "freebsd", target_vendor = "apple", windows))]
fn join_v4_by_index(socket: &Socket, group: Ipv4Addr, index: u32) -> io::Result<()> {
    socket.join_multicast_v4_n(&group, &socket2::InterfaceIndexOrAddress::Index(index))
}

#[cfg(any(target_os = "linux", target_os = "freebsd", target_vendor = "apple", windows))]
fn leave_v4_by_index(socket: &Socket, group: Ipv4Addr, index: u32) -> io::Result<()> {
    socket.leave_multicast_v4_n(&group, &socket2::InterfaceIndexOrAddress::Index(index))
}

#[cfg(not(any(target_os = "linux", target_os = "freebsd", target_vendor = "apple", windows)))]
fn join_v4_by_index(_: &Socket, _: Ipv4Addr, _: u32) -> io::Result<()> {
    super::socket::unsupported()
}

#[cfg(not(any(target_os = "linux", target_os = "freebsd", target_vendor = "apple", windows)))]
fn leave_v4_by_index(_: &Socket, _: Ipv4Addr, _: u32) -> io::Result<()> {
    super::socket::unsupported()
}

/// Receives at most `count` datagrams of at most `max` bytes each into the batch, which is emptied first.
///
/// # Errors
///
/// Nothing was received: `WouldBlock` if nothing is there, else what the socket was told, such as a refusal.
pub(super) fn receive(
    socket: &Socket,
    batch: &mut DatagramBatch,
    count: usize,
    max: usize,
    in_batches: bool,
    stats: &mut DriverStats,
) -> io::Result<()> {
    batch.clear();
    let (count, max) = (count.min(BATCH), max.min(ROOM));
    if in_batches {
        stats.receives += 1;
        if count == 1 {
            system::receive_single(socket, batch, max)?;
        } else {
            system::receive_many(socket, batch, count, max)?;
        }
    } else {
        for room in 0..count {
            stats.receives += 1;
            match receive_one(socket, &mut batch.rooms[room * STRIDE..][..max]) {
                Ok((length, truncated, from)) => {
                    if let Some(from) = batch.sender(&from) {
                        batch.entries.push(Entry { room, length, from, truncated });
                    }
                }
                Err(error) if room == 0 => return Err(error),
                // Told again by the next receive, if it is an error.
                Err(_) => break,
            }
        }
    }
    stats.bytes_received += batch.entries.iter().map(|entry| entry.length as u64).sum::<u64>();
    Ok(())
}

fn receive_one(socket: &Socket, room: &mut [u8]) -> io::Result<(usize, bool, SockAddr)> {
    // SAFETY: a `u8` is a valid `MaybeUninit<u8>`, and receiving writes nothing but bytes into it.
    let room = unsafe { &mut *(std::ptr::from_mut(room) as *mut [std::mem::MaybeUninit<u8>]) };
    let mut slices = [socket2::MaybeUninitSlice::new(room)];
    let (length, flags, from) = socket.recv_from_vectored(&mut slices)?;
    Ok((length, flags.is_truncated(), from))
}

/// The length of an address that has a family and nothing else.
#[cfg(unix)]
fn offset_of_name() -> libc::socklen_t {
    std::mem::offset_of!(libc::sockaddr_un, sun_path) as libc::socklen_t
}

/// The address as the system takes it.
fn sock_addr(address: &Address) -> io::Result<SockAddr> {
    match address {
        #[cfg(unix)]
        Address::Unix(address) => super::unix::sock_addr(address),
        _ => Ok(ip(address)?.into()),
    }
}

/// Sends what is queued, at most about `budget` bytes of it.
///
/// # Errors
///
/// The first datagram that is still queued cannot go, for this reason.
pub(super) fn send(
    socket: &Socket,
    queue: &mut DatagramQueue<Address>,
    budget: usize,
    in_batches: bool,
    stats: &mut DriverStats,
) -> io::Result<DatagramsSent> {
    let mut left = budget;
    while let Some((to, data)) = queue.front() {
        if left == 0 {
            // The socket is most likely writable: it has its turn again in the next pass.
            return Ok(DatagramsSent::Blocked);
        }
        stats.sends += 1;
        let result = if in_batches && queue.len() > 1 {
            system::send_many(socket, queue)
        } else {
            send_one(socket, to, data).map(|()| 1)
        };
        match result {
            Err(error) if matches!(to, Some(Address::Unix(_))) && has_no_room(&error) => {
                return Ok(DatagramsSent::ReceiverFull);
            }
            Ok(count) => {
                for _ in 0..count {
                    let (_, length) = queue.pop().unwrap_or((None, 0));
                    stats.bytes_sent += length as u64;
                    left = left.saturating_sub(length.max(1));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(DatagramsSent::Blocked),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_out_of_memory(&error) => return Ok(DatagramsSent::NoMemory),
            Err(error) => return Err(error),
        }
    }
    Ok(DatagramsSent::All)
}

fn send_one(socket: &Socket, to: Option<&Address>, data: &[u8]) -> io::Result<()> {
    match to {
        Some(to) => socket.send_to(data, &sock_addr(to)?)?,
        None => socket.send(data)?,
    };
    Ok(())
}

/// Whether there is no room at the receiver, or none at ours: nothing tells the two apart.
fn has_no_room(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || is_out_of_memory(error)
}

/// Whether the kernel lacks memory for the moment, as BSD systems say it when a device's queue is full.
#[cfg(unix)]
fn is_out_of_memory(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(not(unix))]
fn is_out_of_memory(error: &io::Error) -> bool {
    // WSAENOBUFS
    error.raw_os_error() == Some(10055)
}

#[cfg(target_os = "linux")]
mod system {
    use std::mem::MaybeUninit;
    use std::net::SocketAddrV6;
    use std::os::fd::AsRawFd;

    use super::super::unix;
    use super::{
        Address, BATCH, DatagramBatch, DatagramQueue, Entry, Ipv4Addr, STRIDE, SockAddr, Socket, SocketAddr,
        UnixAddress, io, sock_addr, unmapped,
    };

    const OFFSET_OF_NAME: usize = std::mem::offset_of!(libc::sockaddr_un, sun_path);

    /// Receives what is there with one call.
    pub(super) fn receive_many(
        socket: &Socket,
        batch: &mut DatagramBatch,
        count: usize,
        max: usize,
    ) -> io::Result<()> {
        let mut names = [const { MaybeUninit::<libc::sockaddr_storage>::uninit() }; BATCH];
        let mut slices = [const { MaybeUninit::<libc::iovec>::uninit() }; BATCH];
        let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH];
        for index in 0..count {
            let room = batch.rooms[index * STRIDE..][..max].as_mut_ptr();
            let slice = slices[index].write(libc::iovec { iov_base: room.cast(), iov_len: max });
            let name = names[index].as_mut_ptr().cast();
            let length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            headers[index].write(header(name, length, slice));
        }
        // SAFETY: `count` headers were written above; what they point to, a name, a slice and the slice's
        // room each, lives until this function returns and is used by nobody else meanwhile.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr().cast(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let Ok(received) = usize::try_from(received) else { return Err(io::Error::last_os_error()) };
        for (room, (header, name)) in headers.iter().zip(&names).take(received).enumerate() {
            // SAFETY: the first `received` headers were written above, and filled in by the kernel.
            let header = unsafe { header.assume_init_ref() };
            // SAFETY: the kernel wrote so many bytes of an address there.
            let from =
                unsafe { decode(name.as_ptr(), header.msg_hdr.msg_namelen as usize, &mut batch.known) };
            let Some(from) = from else { continue };
            let truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            batch.entries.push(Entry { room, length: header.msg_len as usize, from, truncated });
        }
        Ok(())
    }

    /// Receives one datagram: what `recvmmsg` costs before it looks for a second one is saved.
    pub(super) fn receive_single(socket: &Socket, batch: &mut DatagramBatch, max: usize) -> io::Result<()> {
        let mut name = MaybeUninit::<libc::sockaddr_storage>::uninit();
        let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        let room = &mut batch.rooms[..max];
        // SAFETY: the room may be written, as far as its length says; so may the name and its length.
        let received = unsafe {
            libc::recvfrom(
                socket.as_raw_fd(),
                room.as_mut_ptr().cast(),
                room.len(),
                // The real length is returned, also if there is less room.
                libc::MSG_DONTWAIT | libc::MSG_TRUNC,
                name.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let Ok(received) = usize::try_from(received) else { return Err(io::Error::last_os_error()) };
        // SAFETY: the kernel wrote so many bytes of an address there.
        if let Some(from) = unsafe { decode(name.as_ptr(), length as usize, &mut batch.known) } {
            let truncated = received > max;
            batch.entries.push(Entry { room: 0, length: received.min(max), from, truncated });
        }
        Ok(())
    }

    /// Sends the first of the queue with one call; how many went.
    pub(super) fn send_many(socket: &Socket, queue: &DatagramQueue<Address>) -> io::Result<usize> {
        let mut names = [const { MaybeUninit::<SockAddr>::uninit() }; BATCH];
        let mut slices = [const { MaybeUninit::<libc::iovec>::uninit() }; BATCH];
        let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH];
        let mut count = 0;
        for (to, data) in queue.iter().take(BATCH) {
            let (name, length) = match to {
                Some(to) => {
                    let name = names[count].write(match sock_addr(to) {
                        Ok(name) => name,
                        // Told when it is the first.
                        Err(_) if count > 0 => break,
                        Err(error) => return Err(error),
                    });
                    (name.as_ptr().cast_mut().cast(), name.len())
                }
                None => (std::ptr::null_mut(), 0),
            };
            let base = data.as_ptr().cast_mut().cast();
            let slice = slices[count].write(libc::iovec { iov_base: base, iov_len: data.len() });
            headers[count].write(header(name, length, slice));
            count += 1;
        }
        // SAFETY: `count` headers were written above; the names, slices and data that they point to live
        // until this function returns, and are only read.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr().cast(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Reads an address where it stands.
    ///
    /// # Safety
    ///
    /// The first `length` bytes behind `name` are initialised.
    unsafe fn decode(
        name: *const libc::sockaddr_storage,
        length: usize,
        known: &mut UnixAddress,
    ) -> Option<Address> {
        if length < size_of::<libc::sa_family_t>() {
            // Only Unix sockets can be without an address.
            return Some(UnixAddress::unnamed().into());
        }
        // SAFETY: the family is what an address begins with, and is there.
        let family = unsafe { (&raw const (*name).ss_family).read() };
        let address = match libc::c_int::from(family) {
            libc::AF_INET if length >= size_of::<libc::sockaddr_in>() => {
                // SAFETY: all of it is there, and a storage is aligned for it.
                let v4 = unsafe { name.cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                SocketAddr::from((ip, u16::from_be(v4.sin_port)))
            }
            libc::AF_INET6 if length >= size_of::<libc::sockaddr_in6>() => {
                // SAFETY: as above.
                let v6 = unsafe { name.cast::<libc::sockaddr_in6>().read() };
                let (ip, port) = (v6.sin6_addr.s6_addr.into(), u16::from_be(v6.sin6_port));
                SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into()
            }
            libc::AF_UNIX => {
                let length = length.min(size_of::<libc::sockaddr_storage>()) - OFFSET_OF_NAME;
                // SAFETY: so many bytes are there, and nobody writes to them while the slice lives.
                let name =
                    unsafe { std::slice::from_raw_parts(name.cast::<u8>().add(OFFSET_OF_NAME), length) };
                if !unix::is_name_of(name, known) {
                    *known = unix::read_name(name);
                }
                return Some(known.clone().into());
            }
            _ => return None,
        };
        Some(unmapped(address).into())
    }

    fn header(name: *mut libc::c_void, length: libc::socklen_t, slice: *mut libc::iovec) -> libc::mmsghdr {
        // SAFETY: all of these are numbers and pointers, for which zero is a value.
        let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        header.msg_hdr.msg_name = name;
        header.msg_hdr.msg_namelen = length;
        header.msg_hdr.msg_iov = slice;
        header.msg_hdr.msg_iovlen = 1;
        header
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::{Address, DatagramBatch, DatagramQueue, Socket, io};

    pub(super) fn receive_many(_: &Socket, _: &mut DatagramBatch, _: usize, _: usize) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn receive_single(_: &Socket, _: &mut DatagramBatch, _: usize) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn send_many(_: &Socket, _: &DatagramQueue<Address>) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> Socket {
        let spec = DatagramSpec {
            local: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()),
            remote: None,
            reuse_address: false,
            reuse_port: false,
            v6only: None,
            broadcast: false,
            recv_buffer: Some(50_000),
            send_buffer: Some(40_000),
            bind_device: None,
        };
        open(&spec).unwrap().0
    }

    #[test]
    fn options_reach_the_system() {
        let socket = opened();
        assert!(!socket.broadcast().unwrap());
        set_option(&socket, DatagramOption::Broadcast(true)).unwrap();
        assert!(socket.broadcast().unwrap());
        set_option(&socket, DatagramOption::MulticastLoop(false)).unwrap();
        assert!(!socket.multicast_loop_v4().unwrap());
        set_option(&socket, DatagramOption::MulticastTtl(7)).unwrap();
        assert_eq!(socket.multicast_ttl_v4().unwrap(), 7);
        set_option(&socket, DatagramOption::Ttl(9)).unwrap();
        assert_eq!(socket.ttl_v4().unwrap(), 9);
        let own = MulticastInterface::Address(Ipv4Addr::LOCALHOST);
        set_option(&socket, DatagramOption::MulticastInterface(own)).unwrap();
        assert_eq!(socket.multicast_if_v4().unwrap(), Ipv4Addr::LOCALHOST);
        #[cfg(target_os = "linux")]
        {
            // Linux doubles what it is asked for.
            assert_eq!(socket.recv_buffer_size().unwrap(), 100_000);
            assert_eq!(socket.send_buffer_size().unwrap(), 80_000);
        }
    }

    /// Sends and receives with both ways that a driver has.
    fn exchange(in_batches: bool) {
        let (one, other) = (opened(), opened());
        let to = Address::from(other.local_addr().unwrap().as_socket().unwrap());
        let from = Address::from(one.local_addr().unwrap().as_socket().unwrap());
        let mut stats = DriverStats::default();
        let mut queue = DatagramQueue::new();
        for length in 0..100_usize {
            queue.push(Some(to.clone()), &vec![length as u8; length]);
        }
        let sent = send(&one, &mut queue, usize::MAX, in_batches, &mut stats).unwrap();
        assert_eq!((sent, queue.len()), (DatagramsSent::All, 0));
        let mut batch = DatagramBatch::new();
        let mut length = 0;
        while length < 100 {
            receive(&other, &mut batch, BATCH, 50, in_batches, &mut stats).unwrap();
            for datagram in (0..batch.len()).map(|index| batch.get(index).unwrap()) {
                assert_eq!(datagram.data, vec![length as u8; length.min(50)]);
                assert_eq!((datagram.from, datagram.truncated), (&from, length > 50));
                length += 1;
            }
        }
        let error = receive(&other, &mut batch, BATCH, 50, in_batches, &mut stats).unwrap_err();
        assert_eq!((error.kind(), batch.len()), (io::ErrorKind::WouldBlock, 0));
        assert_eq!(stats.bytes_sent, 4950);
    }

    #[test]
    fn datagrams_go_many_at_a_time() {
        exchange(cfg!(target_os = "linux"));
    }

    #[test]
    fn a_single_datagram_is_received_as_one_of_many() {
        let (one, other) = (opened(), opened());
        let to = other.local_addr().unwrap();
        let from = Address::from(one.local_addr().unwrap().as_socket().unwrap());
        for in_batches in [cfg!(target_os = "linux"), false] {
            for length in [0, 1, 50, 51, 5000] {
                one.send_to(&vec![9; length], &to).unwrap();
                let mut batch = DatagramBatch::new();
                receive(&other, &mut batch, 1, 50, in_batches, &mut DriverStats::default()).unwrap();
                let datagram = batch.get(0).unwrap();
                assert_eq!(datagram.data, vec![9; length.min(50)]);
                assert_eq!((datagram.from, datagram.truncated), (&from, length > 50));
            }
        }
    }

    #[test]
    fn datagrams_go_one_by_one() {
        exchange(false);
    }

    #[test]
    fn a_budget_ends_a_flush() {
        let (one, other) = (opened(), opened());
        let to = Address::from(other.local_addr().unwrap().as_socket().unwrap());
        let mut queue = DatagramQueue::new();
        for _ in 0..100 {
            queue.push(Some(to.clone()), &[0; 100]);
        }
        let sent = send(&one, &mut queue, 1000, false, &mut DriverStats::default()).unwrap();
        assert_eq!((sent, queue.len()), (DatagramsSent::Blocked, 90));
    }
}
