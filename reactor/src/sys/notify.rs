//! Telling the service manager how things stand: the protocol of `sd_notify(3)`.

use std::env;
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to the service manager.
#[derive(Debug)]
pub(crate) struct Notifier {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Notifier {
    /// The one that the environment names; `None` if nobody wants to know.
    pub(crate) fn from_environment() -> io::Result<Option<Self>> {
        match env::var_os("NOTIFY_SOCKET") {
            Some(name) if !name.is_empty() => Self::new(&name).map(Some),
            _ => Ok(None),
        }
    }

    fn new(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => abstract_address(name)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => {
                let text = format!("NOTIFY_SOCKET is {name:?}, which is neither a path nor an abstract name");
                return Err(io::Error::new(ErrorKind::InvalidInput, text));
            }
        };
        let socket = UnixDatagram::unbound()?;
        // A service manager that does not listen must not stop the loop.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address })
    }

    /// Sends lines such as `READY=1`.
    pub(crate) fn send(&self, text: &str) {
        if let Err(error) = self.socket.send_to_addr(text.as_bytes(), &self.address) {
            log::debug!("cannot tell the service manager {text:?}: {error}");
        }
    }
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt;

    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_: &[u8]) -> io::Result<SocketAddr> {
    Err(io::Error::new(ErrorKind::Unsupported, "NOTIFY_SOCKET: this system has no abstract names"))
}

/// How often the service manager wants a sign of life, at least, if it does of this process.
pub(crate) fn watchdog() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let is_other = number("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(std::process::id()));
    let period = number("WATCHDOG_USEC").filter(|period| *period > 0 && !is_other)?;
    Some(Duration::from_micros(period))
}

/// The system's monotonic clock, as service managers read it.
pub(crate) fn monotonic_microseconds() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local that outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    #[allow(clippy::unnecessary_cast, reason = "their types differ between systems")]
    {
        (time.tv_sec as u64).wrapping_mul(1_000_000).wrapping_add(time.tv_nsec as u64 / 1000)
    }
}
