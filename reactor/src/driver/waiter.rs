//! How the driver sleeps and how it is woken: two ways behind one type.
//!
//! *Direct* (Linux): `epoll_wait` on the poller's own descriptor, one system call a wait; an eventfd of our own,
//! registered edge-triggered and never read, ends a wait from another thread or a signal handler.
//! *Portable*: `Poller::wait` and `Poller::notify`, on every system that `polling` knows.

use std::io;
#[cfg(unix)]
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use polling::{Event, PollMode, Poller};
#[cfg(target_os = "linux")]
use rustix::{
    buffer::spare_capacity,
    event::{EventfdFlags, Timespec, epoll, eventfd},
    fd::OwnedFd,
};

/// The key of our own wake-up descriptor; no token has it.
pub(super) const WAKE_KEY: usize = usize::MAX - 1;
/// Events fetched by one wait.
const EVENTS: usize = 1024;
/// A longer sleep is cut: systems count milliseconds in 32 bits, and a pass a day costs nothing.
const LONGEST_SLEEP: Duration = Duration::from_secs(24 * 60 * 60);

/// What one event says about its source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Readiness {
    pub(super) key: usize,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The source failed.
    pub(super) error: bool,
    /// Both directions have ended.
    pub(super) hung_up: bool,
    /// Out-of-band data is there.
    pub(super) urgent: bool,
}

enum Path {
    #[cfg(target_os = "linux")]
    Direct { events: Vec<epoll::Event>, wake: Arc<OwnedFd> },
    Portable {
        events: polling::Events,
        ready: Vec<Readiness>,
        /// Written to by signal handlers, made when the first signal is watched.
        #[cfg(unix)]
        signals: Option<(std::os::unix::net::UnixStream, std::os::unix::net::UnixStream)>,
    },
}

/// The sleeping half of the poll driver.
pub(super) struct Waiter {
    pub(super) poller: Arc<Poller>,
    path: Path,
    cursor: usize,
}

impl Waiter {
    pub(super) fn new(portable: bool) -> io::Result<Self> {
        let poller = Arc::new(Poller::new()?);
        if !poller.supports_level() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this system has no level-triggered poller",
            ));
        }
        #[cfg(target_os = "linux")]
        if !portable {
            let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
            // SAFETY: the eventfd lives as long as the path beside the poller, and epoll forgets a closed
            // descriptor by itself.
            unsafe { poller.add_with_mode(&*wake, Event::readable(WAKE_KEY), PollMode::Edge)? };
            let events = Vec::with_capacity(EVENTS);
            return Ok(Self { poller, path: Path::Direct { events, wake }, cursor: 0 });
        }
        let _ = portable;
        let path = Path::Portable {
            events: polling::Events::with_capacity(EVENTS.try_into().map_err(io::Error::other)?),
            ready: Vec::with_capacity(EVENTS),
            #[cfg(unix)]
            signals: None,
        };
        Ok(Self { poller, path, cursor: 0 })
    }

    /// Sleeps until there are events, the time has passed, a wake-up, or a signal; true after a signal.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        self.cursor = 0;
        let timeout = timeout.map(|timeout| timeout.min(LONGEST_SLEEP));
        match &mut self.path {
            #[cfg(target_os = "linux")]
            Path::Direct { events, .. } => {
                events.clear();
                // epoll counts milliseconds; rounded up, so that no timer is early.
                let timeout = timeout.map(|timeout| {
                    let millis = timeout.as_nanos().div_ceil(1_000_000) as i64;
                    Timespec { tv_sec: millis / 1000, tv_nsec: (millis % 1000) * 1_000_000 }
                });
                match epoll::wait(self.poller.as_fd(), spare_capacity(events), timeout.as_ref()) {
                    Ok(_) => Ok(false),
                    Err(rustix::io::Errno::INTR) => Ok(true),
                    Err(error) => Err(error.into()),
                }
            }
            Path::Portable { events, ready, .. } => {
                events.clear();
                ready.clear();
                self.poller.wait(events, timeout)?;
                ready.extend(events.iter().map(|event| Readiness {
                    key: event.key,
                    readable: event.readable,
                    writable: event.writable,
                    error: event.is_err().unwrap_or(false),
                    hung_up: event.is_interrupt(),
                    urgent: event.is_priority(),
                }));
                Ok(false)
            }
        }
    }

    /// The next event of the last wait.
    #[inline]
    pub(super) fn next(&mut self) -> Option<Readiness> {
        let at = self.cursor;
        match &self.path {
            #[cfg(target_os = "linux")]
            Path::Direct { events, .. } => {
                let event = events.get(at)?;
                self.cursor = at + 1;
                let (flags, data) = (event.flags, event.data);
                let broken = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
                Some(Readiness {
                    key: data.u64() as usize,
                    readable: flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::PRI | broken),
                    writable: flags.intersects(epoll::EventFlags::OUT | broken),
                    error: flags.contains(epoll::EventFlags::ERR),
                    hung_up: flags.contains(epoll::EventFlags::HUP),
                    urgent: flags.contains(epoll::EventFlags::PRI),
                })
            }
            Path::Portable { ready, .. } => {
                let event = *ready.get(at)?;
                self.cursor = at + 1;
                Some(event)
            }
        }
    }

    /// Clears what woke us, where that is needed.
    pub(super) fn drain_wake(&mut self) {
        #[cfg(unix)]
        if let Path::Portable { signals: Some((_, read)), .. } = &self.path {
            let mut bytes = [0; 64];
            while matches!(io::Read::read(&mut &*read, &mut bytes), Ok(n) if n == bytes.len()) {}
        }
    }

    pub(super) fn waker(&self) -> Waker {
        match &self.path {
            #[cfg(target_os = "linux")]
            Path::Direct { wake, .. } => Waker::Eventfd(Arc::clone(wake)),
            Path::Portable { .. } => Waker::Poller(Arc::clone(&self.poller)),
        }
    }

    #[cfg(unix)]
    pub(super) fn signal_fd(&mut self) -> io::Result<RawFd> {
        match &mut self.path {
            #[cfg(target_os = "linux")]
            Path::Direct { wake, .. } => Ok(wake.as_raw_fd()),
            Path::Portable { signals, .. } => {
                if signals.is_none() {
                    let (write, read) = std::os::unix::net::UnixStream::pair()?;
                    write.set_nonblocking(true)?;
                    read.set_nonblocking(true)?;
                    // SAFETY: removed from the poller in `drop` below, before it is closed.
                    unsafe { self.poller.add_with_mode(&read, Event::readable(WAKE_KEY), PollMode::Level)? };
                    *signals = Some((write, read));
                }
                let write = signals.as_ref().map(|(write, _)| write.as_raw_fd());
                write.ok_or_else(|| io::Error::other("no signal descriptor"))
            }
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Path::Portable { signals: Some((_, read)), .. } = &self.path {
            let _ = self.poller.delete(read);
        }
    }
}

/// Ends the current or the next wait, from any thread.
#[derive(Clone, Debug)]
pub(crate) enum Waker {
    #[cfg(target_os = "linux")]
    Eventfd(Arc<OwnedFd>),
    Poller(Arc<Poller>),
    /// There is no wait any more.
    Nobody,
}

impl Waker {
    pub(crate) fn wake(&self) {
        let result = match self {
            #[cfg(target_os = "linux")]
            Self::Eventfd(fd) => match rustix::io::write(fd, &1_u64.to_ne_bytes()) {
                // A full counter has an edge pending already.
                Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
                Err(error) => Err(error.into()),
            },
            Self::Poller(poller) => poller.notify(),
            Self::Nobody => Ok(()),
        };
        if let Err(error) = result {
            log::error!("cannot wake the reactor: {error}");
        }
    }
}
