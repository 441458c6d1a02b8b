//! Descriptors that the program was started with.

use std::env;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// The first descriptor that a service manager passes (sd_listen_fds(3)).
const FIRST_PASSED: RawFd = 3;

/// Takes a descriptor over that was inherited: it gets another number, and its own is closed (but for the
/// standard streams, whose numbers are everybody's).
pub(crate) fn take(number: u32) -> io::Result<OwnedFd> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
    let number = RawFd::try_from(number).map_err(|_| invalid(format!("fd {number} cannot exist")))?;
    // SAFETY: F_GETFD takes no argument and fails for a number that is not open.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        return Err(invalid(format!("fd {number} is not open")));
    }
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(invalid(format!(
            "fd {number} was not inherited: this program opened it itself, or took it before"
        )));
    }
    // SAFETY: F_DUPFD_CLOEXEC takes an int; what it returns is new.
    let duplicate = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, FIRST_PASSED) };
    if duplicate < 0 {
        return Err(io::Error::last_os_error());
    }
    if number >= FIRST_PASSED {
        // SAFETY: an inherited descriptor has no owner in this program: all that are opened in it are
        // close-on-exec.
        unsafe { libc::close(number) };
    }
    // SAFETY: open, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}

/// The numbers and names of the sockets that the service manager passed to this process.
pub(crate) fn activated() -> io::Result<Vec<(u32, String)>> {
    let missing = |text: &str| Err(io::Error::new(io::ErrorKind::NotFound, text.to_owned()));
    let (Ok(pid), Ok(count)) = (env::var("LISTEN_PID"), env::var("LISTEN_FDS")) else {
        return missing("the service manager passed no sockets (LISTEN_FDS is not set)");
    };
    if pid.parse() != Ok(std::process::id()) {
        return missing("the sockets of the service manager are for another process (LISTEN_PID)");
    }
    let Ok(count) = count.parse::<u16>() else {
        let text = format!("LISTEN_FDS is {count:?}, which is no number of sockets");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    };
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let numbers = (FIRST_PASSED as u32..).take(usize::from(count));
    Ok(numbers.map(|number| (number, names.next().unwrap_or_default().to_owned())).collect())
}
