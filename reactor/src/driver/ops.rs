//! The system calls on sockets that the poll driver makes while it runs.
//!
//! On Linux they go through `rustix`, which enters the kernel without the detour through `errno`; elsewhere
//! through `socket2`.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
#[cfg(unix)]
use std::os::fd::OwnedFd;

#[cfg(unix)]
use socket2::SockRef;
use socket2::{SockAddr, Socket};

use crate::core::address::Address;
#[cfg(unix)]
use crate::core::address::UnixAddress;
use crate::core::outbox::FileRange;

/// The address without the IPv4-in-IPv6 mapping of a dual-stack socket.
pub(super) fn unmapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// What an outbox is sent to.
pub(super) trait Sink {
    fn send(&self, data: &[u8]) -> io::Result<usize>;
    fn send_many(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Sends at most `limit` bytes of the range; 0 means that the file is shorter than the range.
    fn send_file(&self, range: &FileRange, limit: usize) -> io::Result<u64>;
    /// Sends bytes with a descriptor on the first of them.
    #[cfg(unix)]
    fn send_passed(&self, data: &[u8], descriptor: &OwnedFd) -> io::Result<usize>;
}

impl Sink for Socket {
    #[inline]
    fn send(&self, data: &[u8]) -> io::Result<usize> {
        send(self, data)
    }

    fn send_many(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        send_many(self, slices)
    }

    fn send_file(&self, range: &FileRange, limit: usize) -> io::Result<u64> {
        send_file(self, range, limit)
    }

    #[cfg(unix)]
    fn send_passed(&self, data: &[u8], descriptor: &OwnedFd) -> io::Result<usize> {
        super::rights::send(self, data, descriptor)
    }
}

/// Reads from a socket that may be a blocking one, without waiting.
#[cfg(unix)]
pub(super) fn receive_at_once(socket: &SockRef<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: bytes that are initialised may be seen as bytes that may not be, as long as nobody makes them
    // so; the call only writes what it received.
    let buffer = unsafe { &mut *(std::ptr::from_mut(buffer) as *mut [std::mem::MaybeUninit<u8>]) };
    socket.recv_with_flags(buffer, libc::MSG_DONTWAIT)
}

/// Sends to a socket that may be a blocking one, without waiting.
#[cfg(unix)]
pub(super) fn send_at_once(socket: &SockRef<'_>, data: &[u8]) -> io::Result<usize> {
    #[cfg(not(target_vendor = "apple"))]
    const FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    #[cfg(target_vendor = "apple")]
    const FLAGS: libc::c_int = libc::MSG_DONTWAIT;
    crate::sys::sigpipe::without_sigpipe(|| socket.send_with_flags(data, FLAGS))
}

/// An address as the system tells it.
pub(super) fn address(address: &SockAddr) -> Address {
    if let Some(address) = address.as_socket() {
        return Address::Ip(unmapped(address));
    }
    #[cfg(unix)]
    if address.is_unix() {
        return Address::Unix(unix_address(address));
    }
    Address::other("unknown")
}

#[cfg(unix)]
pub(super) fn unix_address(address: &SockAddr) -> UnixAddress {
    if let Some(path) = address.as_pathname() {
        return UnixAddress::from_path(path);
    }
    #[cfg(target_os = "linux")]
    if let Some(name) = address.as_abstract_namespace() {
        return UnixAddress::from_abstract_name(name);
    }
    UnixAddress::unnamed()
}

/// Nanoseconds of a monotonic clock: the cheapest way to see real time pass.
pub(crate) use system::ticks;
pub(super) use system::{accept, discard_urgent, receive, send, send_file, send_many};

/// Bytes of a file sent at once where the system cannot send files, and the room they need.
const FILE_PIECE: usize = 64 * 1024;

/// Reads what comes next of a range, at most `limit` bytes; nothing if the file has become shorter than the
/// range.
pub(super) fn read_piece(range: &FileRange, limit: usize) -> io::Result<Vec<u8>> {
    use std::io::{Read, Seek, SeekFrom};

    let count = usize::try_from(range.remaining).unwrap_or(usize::MAX).min(limit).min(FILE_PIECE);
    let mut piece = vec![0; count];
    let mut file = &range.file;
    file.seek(SeekFrom::Start(range.offset))?;
    let read = file.read(&mut piece)?;
    piece.truncate(read);
    Ok(piece)
}

#[cfg(target_os = "linux")]
mod system {
    use std::io::IoSlice;

    use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags};

    use socket2::SockRef;

    use super::{Address, FileRange, Socket, SocketAddr, io, unmapped};
    use crate::sys::sigpipe::without_sigpipe;

    /// Nanoseconds of the monotonic clock.
    #[inline]
    pub(crate) fn ticks() -> u64 {
        let mut time = std::mem::MaybeUninit::<libc::timespec>::uninit();
        // SAFETY: `time` is a valid place for the answer, and the call fills it: it fails only for a bad
        // address or a clock that does not exist, and every Linux has this one.
        let time = unsafe {
            libc::clock_gettime(libc::CLOCK_MONOTONIC, time.as_mut_ptr());
            time.assume_init()
        };
        (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
    }

    #[inline]
    pub(in super::super) fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(socket, buffer, RecvFlags::empty())?.0)
    }

    #[inline]
    pub(in super::super) fn send(socket: &Socket, data: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(socket, data, SendFlags::NOSIGNAL)?)
    }

    pub(in super::super) fn send_many(socket: &Socket, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut control = SendAncillaryBuffer::default();
        Ok(rustix::net::sendmsg(socket, slices, &mut control, SendFlags::NOSIGNAL)?)
    }

    pub(in super::super) fn accept(listener: &Socket) -> io::Result<(Socket, Address)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (fd, address) = rustix::net::acceptfrom_with(listener, flags)?;
        let address = match address.map(SocketAddr::try_from) {
            Some(Ok(address)) => Address::Ip(unmapped(address)),
            // Clients of Unix sockets seldom have one.
            Some(Err(_)) => super::address(&SockRef::from(&fd).peer_addr()?),
            None => return Err(io::ErrorKind::ConnectionAborted.into()),
        };
        Ok((Socket::from(fd), address))
    }

    /// Throws urgent data away: nobody asked for it, and it would be reported forever.
    pub(in super::super) fn discard_urgent(socket: &Socket) {
        let _ = rustix::net::recv(socket, &mut [0_u8; 16][..], RecvFlags::OOB);
    }

    /// Sends at most `limit` bytes of the range; 0 means that the file is shorter than the range.
    pub(in super::super) fn send_file(socket: &Socket, range: &FileRange, limit: usize) -> io::Result<u64> {
        let mut offset = range.offset;
        let count = usize::try_from(range.remaining).unwrap_or(usize::MAX).min(limit);
        let sent = without_sigpipe(|| rustix::fs::sendfile(socket, &range.file, Some(&mut offset), count))?;
        Ok(sent as u64)
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io::{IoSlice, Read};
    use std::mem::MaybeUninit;

    use super::{Address, FileRange, Socket, io};

    /// Suppresses SIGPIPE per call where the system has a flag for it.
    #[cfg(all(unix, not(target_vendor = "apple")))]
    const NO_SIGNAL: i32 = libc::MSG_NOSIGNAL;
    /// Apple's systems suppress it per socket (`SO_NOSIGPIPE`, set by `socket2`); Windows has no such signal.
    #[cfg(not(all(unix, not(target_vendor = "apple"))))]
    const NO_SIGNAL: i32 = 0;

    #[cfg(unix)]
    const OUT_OF_BAND: i32 = libc::MSG_OOB;
    #[cfg(not(unix))]
    const OUT_OF_BAND: i32 = 1;

    /// Nanoseconds since the first call.
    pub(crate) fn ticks() -> u64 {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed().as_nanos() as u64
    }

    pub(in super::super) fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
        (&*socket).read(buffer)
    }

    pub(in super::super) fn send(socket: &Socket, data: &[u8]) -> io::Result<usize> {
        socket.send_with_flags(data, NO_SIGNAL)
    }

    pub(in super::super) fn send_many(socket: &Socket, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        socket.send_vectored_with_flags(slices, NO_SIGNAL)
    }

    pub(in super::super) fn accept(listener: &Socket) -> io::Result<(Socket, Address)> {
        let (socket, address) = listener.accept()?;
        socket.set_nonblocking(true)?;
        let address = super::address(&address);
        if address.socket_addr().is_some() {
            socket.set_tcp_nodelay(listener.tcp_nodelay()?)?;
        }
        Ok((socket, address))
    }

    pub(in super::super) fn discard_urgent(socket: &Socket) {
        let _ = socket.recv_with_flags(&mut [MaybeUninit::uninit(); 16], OUT_OF_BAND);
    }

    pub(in super::super) fn send_file(socket: &Socket, range: &FileRange, limit: usize) -> io::Result<u64> {
        let piece = super::read_piece(range, limit)?;
        if piece.is_empty() {
            return Ok(0);
        }
        Ok(send(socket, &piece)? as u64)
    }
}
