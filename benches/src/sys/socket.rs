//! accept4, recv and send on descriptors.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Accepts one connection: non-blocking, close-on-exec; other options are inherited from the listener.
///
/// # Errors
/// What `accept4` reports; `WouldBlock` when nobody is waiting.
#[inline]
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: null pointers say that the peer's address is not wanted.
    let fd =
        unsafe { libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Receives into `buffer`; 0 is the end of the stream.
///
/// # Errors
/// What `recv` reports; `WouldBlock` when there is nothing.
#[inline]
pub fn recv(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the whole of `buffer` may be written.
    let count = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
}

/// Sends what the kernel takes of `bytes`, without SIGPIPE.
///
/// # Errors
/// What `send` reports; `WouldBlock` when the socket buffer is full.
#[inline]
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the whole of `bytes` may be read.
    let count =
        unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
}

/// Sends datagrams of one length over a connected socket, all with one call.
///
/// # Errors
/// What `sendmmsg` reports, or that the kernel did not take all of them.
pub fn send_many<const N: usize>(socket: BorrowedFd<'_>, datagrams: &[[u8; N]]) -> io::Result<()> {
    let mut slices: Vec<libc::iovec> = datagrams
        .iter()
        .map(|data| libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: N })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = slices
        .iter_mut()
        .map(|slice| {
            // SAFETY: all of these are numbers and pointers, for which zero is a value.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_iov = slice;
            header.msg_hdr.msg_iovlen = 1;
            header
        })
        .collect();
    let count = headers.len() as libc::c_uint;
    // SAFETY: the headers, and what they point to, live through the call; the data is only read.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    if sent as usize == datagrams.len() { Ok(()) } else { Err(io::Error::other("the kernel took only some")) }
}
