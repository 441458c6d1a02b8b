//! Pseudoterminals: a pair of descriptors, one of which looks like a terminal to whoever holds it.
//!
//! The *master* is our end; what a program on the *slave* writes can be read from it. Both are close-on-exec
//! and blocking.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// The two ends of a new pseudoterminal with a window of that size: master and slave.
///
/// # Errors
///
/// The system has no more of them, or no descriptor is left.
pub(crate) fn open(rows: u16, columns: u16) -> io::Result<(OwnedFd, OwnedFd)> {
    let (master, slave) = open_pair()?;
    set_size(borrow(&master), rows, columns)?;
    Ok((master, slave))
}

/// Changes the size of the window, in characters. The programs in it get SIGWINCH.
///
/// # Errors
///
/// It is no terminal.
pub(crate) fn set_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `size` outlives the call, which only reads it.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ as _, ptr::from_ref(&size)) })
}

fn borrow(descriptor: &OwnedFd) -> BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(descriptor)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(target_os = "linux")]
fn open_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    const FLAGS: libc::c_int = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: touches no memory.
    let master = unsafe { libc::posix_openpt(FLAGS) };
    check(master)?;
    // SAFETY: the call has just opened it for us.
    let master = unsafe { OwnedFd::from_raw_fd(master) };
    // SAFETY: both touch no memory of ours.
    unsafe {
        check(libc::grantpt(master.as_raw_fd()))?;
        check(libc::unlockpt(master.as_raw_fd()))?;
    }
    // Without a path, which another mount namespace might have in another place.
    // SAFETY: touches no memory.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER as _, FLAGS) };
    check(slave)?;
    // SAFETY: the call has just opened it for us.
    Ok((master, unsafe { OwnedFd::from_raw_fd(slave) }))
}

#[cfg(not(target_os = "linux"))]
fn open_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: the two integers outlive the call; null pointers stand for no name and the usual settings.
    check(unsafe {
        libc::openpty(&mut master, &mut slave, ptr::null_mut(), ptr::null_mut(), ptr::null_mut())
    })?;
    // SAFETY: the call has just opened them for us.
    let pair = unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
    for descriptor in [&pair.0, &pair.1] {
        // SAFETY: touches no memory.
        check(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) })?;
    }
    Ok(pair)
}
