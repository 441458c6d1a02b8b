//! What a descriptor is, and how it is kept from blocking.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use crate::core::credentials::Credentials;

/// What a descriptor is, as far as reading and writing go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Nature {
    Socket,
    /// A regular file, a directory or a disk: always ready, as far as a poller can say.
    File,
    /// A pipe, a terminal, another device.
    Stream,
}

/// Asks what a descriptor is.
pub(crate) fn nature(descriptor: BorrowedFd<'_>) -> io::Result<Nature> {
    Ok(match status(descriptor)?.st_mode & libc::S_IFMT {
        libc::S_IFSOCK => Nature::Socket,
        libc::S_IFREG | libc::S_IFDIR | libc::S_IFBLK => Nature::File,
        _ => Nature::Stream,
    })
}

/// Whether a descriptor is open for reading, and for writing.
pub(crate) fn directions(descriptor: BorrowedFd<'_>) -> io::Result<(bool, bool)> {
    let access = flags(descriptor)? & libc::O_ACCMODE;
    Ok((access != libc::O_WRONLY, access != libc::O_RDONLY))
}

fn status(descriptor: BorrowedFd<'_>) -> io::Result<libc::stat> {
    let mut status = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the descriptor is open while it is borrowed, and `status` is room for the answer.
    let result = unsafe { libc::fstat(descriptor.as_raw_fd(), status.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled in by the call, which succeeded.
    Ok(unsafe { status.assume_init() })
}

/// The flags of an open file that other processes hold as well, to be put back.
#[derive(Debug)]
pub(crate) struct SharedFlags {
    descriptor: OwnedFd,
    flags: libc::c_int,
}

impl Drop for SharedFlags {
    fn drop(&mut self) {
        let _ = set_flags(self.descriptor.as_raw_fd(), self.flags);
    }
}

/// Makes reads and writes return at once.
pub(crate) fn unblock(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let flags = flags(descriptor)?;
    if flags & libc::O_NONBLOCK == 0 {
        set_flags(descriptor.as_raw_fd(), flags | libc::O_NONBLOCK)?;
    }
    Ok(())
}

/// The same for a descriptor whose open file others hold as well, as a shell and all its children hold the
/// terminal. They must not find their own reads and writes failing, so the file is opened once more where
/// that is possible; elsewhere its flags are put back at the end.
pub(crate) fn unblock_shared(
    descriptor: OwnedFd,
    is_input: bool,
) -> io::Result<(OwnedFd, Option<SharedFlags>)> {
    if let Some(own) = reopen(descriptor.as_fd(), is_input) {
        return Ok((own, None));
    }
    let flags = flags(descriptor.as_fd())?;
    if flags & libc::O_NONBLOCK != 0 {
        return Ok((descriptor, None));
    }
    let duplicate = descriptor.try_clone()?;
    set_flags(descriptor.as_raw_fd(), flags | libc::O_NONBLOCK)?;
    Ok((descriptor, Some(SharedFlags { descriptor: duplicate, flags })))
}

/// Opens the same pipe or terminal again.
#[cfg(target_os = "linux")]
fn reopen(descriptor: BorrowedFd<'_>, is_input: bool) -> Option<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;

    // The master side of a terminal would be another terminal.
    const MASTER: libc::dev_t = libc::makedev(5, 2);
    let status = status(descriptor).ok()?;
    let is_pipe = status.st_mode & libc::S_IFMT == libc::S_IFIFO;
    if !is_pipe && (!is_terminal(descriptor) || status.st_rdev == MASTER) {
        return None;
    }
    let file = std::fs::OpenOptions::new()
        .read(is_input)
        .write(!is_input)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
        .ok()?;
    // Whoever opens a FIFO that no writer has open any more is not told of its end before another one has
    // come and gone.
    (!is_input || !has_hung_up(descriptor)).then(|| file.into())
}

#[cfg(target_os = "linux")]
fn has_hung_up(descriptor: BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};

    let mut asked = [PollFd::from_borrowed_fd(descriptor, PollFlags::empty())];
    let is_known = poll(&mut asked, Some(&rustix::event::Timespec::default()));
    is_known.is_ok() && asked[0].revents().contains(PollFlags::HUP)
}

#[cfg(not(target_os = "linux"))]
fn reopen(_: BorrowedFd<'_>, _: bool) -> Option<OwnedFd> {
    None
}

#[cfg(target_os = "linux")]
fn is_terminal(descriptor: BorrowedFd<'_>) -> bool {
    use std::io::IsTerminal;

    descriptor.is_terminal()
}

fn flags(descriptor: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    // SAFETY: F_GETFL takes no argument, and the descriptor is open while it is borrowed.
    let flags = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 { Err(io::Error::last_os_error()) } else { Ok(flags) }
}

fn set_flags(descriptor: RawFd, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: F_SETFL takes an int, and touches no memory.
    let result = unsafe { libc::fcntl(descriptor, libc::F_SETFL, flags) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Duplicates one of the descriptors that every process begins with; an error if it is not open.
pub(crate) fn standard(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes an int and fails for a number that is not open; what it returns is new.
    let duplicate = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if duplicate < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: open, and nobody else's.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(duplicate) })
}

/// Who connected the other end of a Unix stream.
#[cfg(target_os = "linux")]
pub(crate) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    let found = rustix::net::sockopt::socket_peercred(socket)?;
    let pid = u32::try_from(found.pid.as_raw_nonzero().get()).ok();
    Ok(Credentials::new(pid, found.uid.as_raw(), found.gid.as_raw()))
}

/// Who connected the other end of a Unix stream.
#[cfg(any(target_vendor = "apple", target_os = "freebsd", target_os = "openbsd", target_os = "netbsd"))]
pub(crate) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    let (mut uid, mut gid) = (0, 0);
    // SAFETY: the descriptor is open while it is borrowed, and both pointers are to locals.
    let result = unsafe { libc::getpeereid(socket.as_raw_fd(), &mut uid, &mut gid) };
    if result == 0 { Ok(Credentials::new(None, uid, gid)) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(any(
    target_os = "linux",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "openbsd",
    target_os = "netbsd"
)))]
pub(crate) fn peer_credentials(_: BorrowedFd<'_>) -> io::Result<Credentials> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system does not tell who the peer is"))
}
