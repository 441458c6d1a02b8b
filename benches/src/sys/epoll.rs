//! An epoll instance. Tokens are whatever the caller likes; events come back as the kernel's own structure.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Readable.
pub const IN: u32 = libc::EPOLLIN as u32;
/// Writable.
pub const OUT: u32 = libc::EPOLLOUT as u32;
/// The peer has ended its writing.
pub const RDHUP: u32 = libc::EPOLLRDHUP as u32;
/// Report changes only.
pub const EDGE: u32 = libc::EPOLLET as u32;

/// What the kernel reports: flags and token.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Event(libc::epoll_event);

impl Event {
    /// Room for a report.
    pub const EMPTY: Self = Self(libc::epoll_event { events: 0, u64: 0 });

    /// The flags: [`IN`], [`OUT`], …, and errors, which are always reported.
    #[inline]
    pub fn flags(&self) -> u32 {
        self.0.events
    }

    /// The token given at registration.
    #[inline]
    pub fn token(&self) -> u64 {
        self.0.u64
    }
}

/// An epoll descriptor.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// A new, empty instance.
    ///
    /// # Errors
    /// What `epoll_create1` reports.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Registers `fd`.
    ///
    /// # Errors
    /// What `epoll_ctl` reports.
    pub fn add(&self, fd: RawFd, flags: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, flags, token)
    }

    /// Changes the interest of a registered `fd`.
    ///
    /// # Errors
    /// What `epoll_ctl` reports.
    pub fn modify(&self, fd: RawFd, flags: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, flags, token)
    }

    /// Waits at most `timeout` milliseconds (-1: for ever) and returns how many events were filled in.
    /// A signal counts as no events.
    ///
    /// # Errors
    /// What `epoll_wait` reports, but for `EINTR`.
    #[inline]
    pub fn wait(&self, events: &mut [Event], timeout: i32) -> io::Result<usize> {
        let room = i32::try_from(events.len()).unwrap_or(i32::MAX);
        // SAFETY: `Event` is a transparent `epoll_event`, and `room` of them may be written.
        let count =
            unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr().cast(), room, timeout) };
        if count >= 0 {
            return Ok(count as usize);
        }
        let error = io::Error::last_os_error();
        if error.kind() == io::ErrorKind::Interrupted { Ok(0) } else { Err(error) }
    }

    fn control(&self, operation: i32, fd: RawFd, flags: u32, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: flags, u64: token };
        // SAFETY: `event` lives through the call.
        let result = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, &raw mut event) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
