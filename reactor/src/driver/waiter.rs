//! How the driver sleeps and how it is woken: two ways behind one type.
//!
//! *Direct* (Linux): `epoll_wait` on the poller's own descriptor, one system call a wait; an eventfd of our
//! own, registered edge-triggered and never read, ends a wait from another thread or a signal handler.
//! *Portable*: `Poller::wait` and `Poller::notify`, on every system that `polling` knows.

use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::AsFd;
#[cfg(unix)]
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

#[cfg(unix)]
use polling::PollMode;
use polling::{Event, Poller};
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
    bits: u32,
}

impl Readiness {
    // The values are those of epoll, so that the direct path takes them as they are.
    const IN: u32 = 0x001;
    const PRI: u32 = 0x002;
    const OUT: u32 = 0x004;
    const ERR: u32 = 0x008;
    const HUP: u32 = 0x010;

    /// There is input and nothing else: the usual event.
    #[inline]
    pub(super) fn is_just_input(self) -> bool {
        self.bits == Self::IN
    }

    #[inline]
    pub(super) fn readable(self) -> bool {
        self.bits & (Self::IN | Self::PRI | Self::ERR | Self::HUP) != 0
    }

    #[inline]
    pub(super) fn writable(self) -> bool {
        self.bits & (Self::OUT | Self::ERR | Self::HUP) != 0
    }

    /// The source failed.
    pub(super) fn error(self) -> bool {
        self.bits & Self::ERR != 0
    }

    /// Both directions have ended.
    pub(super) fn hung_up(self) -> bool {
        self.bits & Self::HUP != 0
    }

    /// Out-of-band data is there.
    pub(super) fn urgent(self) -> bool {
        self.bits & Self::PRI != 0
    }

    #[cfg(target_os = "linux")]
    #[inline]
    fn of(event: &RawEvent) -> Self {
        let (flags, data) = (event.flags, event.data);
        Self { key: data.u64() as usize, bits: flags.bits() }
    }

    #[cfg(not(target_os = "linux"))]
    fn of(event: &RawEvent) -> Self {
        *event
    }

    #[cfg(target_os = "linux")]
    fn raw(self) -> RawEvent {
        epoll::Event {
            flags: epoll::EventFlags::from_bits_retain(self.bits),
            data: epoll::EventData::new_u64(self.key as u64),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn raw(self) -> RawEvent {
        self
    }

    fn portable(event: &Event) -> Self {
        let flags = [
            (event.readable, Self::IN),
            (event.writable, Self::OUT),
            (event.is_priority(), Self::PRI),
            (event.is_err().unwrap_or(false), Self::ERR),
            (event.is_interrupt(), Self::HUP),
        ];
        let bits = flags.iter().filter(|(is, _)| *is).fold(0, |bits, (_, bit)| bits | bit);
        Self { key: event.key, bits }
    }
}

/// An event as the system writes it where that is possible, so that nothing is copied.
#[cfg(target_os = "linux")]
type RawEvent = epoll::Event;
#[cfg(not(target_os = "linux"))]
type RawEvent = Readiness;

enum Way {
    #[cfg(target_os = "linux")]
    Direct {
        wake: Arc<OwnedFd>,
    },
    Portable(Box<Portable>),
}

struct Portable {
    events: polling::Events,
    /// Written to by signal handlers, made when the first signal is watched.
    #[cfg(unix)]
    signals: Option<(std::os::unix::net::UnixStream, std::os::unix::net::UnixStream)>,
}

/// The sleeping half of the poll driver.
pub(super) struct Waiter {
    pub(super) poller: Arc<Poller>,
    way: Way,
    events: Vec<RawEvent>,
    cursor: usize,
    interrupted: bool,
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
        let way = Self::choose(&poller, portable)?;
        Ok(Self { poller, way, events: Vec::with_capacity(EVENTS), cursor: 0, interrupted: false })
    }

    #[cfg(target_os = "linux")]
    fn choose(poller: &Poller, portable: bool) -> io::Result<Way> {
        if portable {
            return Self::portable();
        }
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        // SAFETY: the eventfd lives as long as the way beside the poller, and epoll forgets a closed
        // descriptor by itself.
        unsafe { poller.add_with_mode(&*wake, Event::readable(WAKE_KEY), PollMode::Edge)? };
        Ok(Way::Direct { wake })
    }

    #[cfg(not(target_os = "linux"))]
    fn choose(_: &Poller, _: bool) -> io::Result<Way> {
        Self::portable()
    }

    fn portable() -> io::Result<Way> {
        Ok(Way::Portable(Box::new(Portable {
            events: polling::Events::with_capacity(EVENTS.try_into().map_err(io::Error::other)?),
            #[cfg(unix)]
            signals: None,
        })))
    }

    /// Sleeps until there are events, the time has passed, a wake-up, or a signal.
    #[inline(always)]
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.cursor = 0;
        self.events.clear();
        match &mut self.way {
            #[cfg(target_os = "linux")]
            Way::Direct { .. } => {
                let timeout = timeout.map(in_whole_milliseconds);
                match epoll::wait(self.poller.as_fd(), spare_capacity(&mut self.events), timeout.as_ref()) {
                    Ok(_) => Ok(()),
                    Err(error) => self.not_waited(error.into()),
                }
            }
            Way::Portable(portable) => {
                let events = &mut portable.events;
                events.clear();
                self.poller.wait(events, timeout.map(|timeout| timeout.min(LONGEST_SLEEP)))?;
                self.events.extend(events.iter().map(|event| Readiness::portable(&event).raw()));
                Ok(())
            }
        }
    }

    /// A signal cuts a wait short; anything else is an error.
    #[cfg(target_os = "linux")]
    #[cold]
    fn not_waited(&mut self, error: io::Error) -> io::Result<()> {
        if error.kind() == io::ErrorKind::Interrupted {
            self.interrupted = true;
            return Ok(());
        }
        Err(error)
    }

    /// Whether a signal cut the last wait short; asked once.
    pub(super) fn take_interrupted(&mut self) -> bool {
        std::mem::take(&mut self.interrupted)
    }

    /// The next event of the last wait.
    #[inline]
    pub(super) fn next(&mut self) -> Option<Readiness> {
        let event = Readiness::of(self.events.get(self.cursor)?);
        self.cursor += 1;
        Some(event)
    }

    /// Clears what woke us, where that is needed.
    pub(super) fn drain_wake(&mut self) {
        #[cfg(unix)]
        if let Way::Portable(portable) = &self.way
            && let Some((_, read)) = &portable.signals
        {
            let mut bytes = [0; 64];
            while matches!(io::Read::read(&mut &*read, &mut bytes), Ok(n) if n == bytes.len()) {}
        }
    }

    pub(super) fn waker(&self) -> Waker {
        match &self.way {
            #[cfg(target_os = "linux")]
            Way::Direct { wake, .. } => Waker::Eventfd(Arc::clone(wake)),
            Way::Portable(_) => Waker::Poller(Arc::clone(&self.poller)),
        }
    }

    #[cfg(unix)]
    pub(super) fn signal_fd(&mut self) -> io::Result<RawFd> {
        match &mut self.way {
            #[cfg(target_os = "linux")]
            Way::Direct { wake, .. } => Ok(wake.as_raw_fd()),
            Way::Portable(portable) => {
                let signals = &mut portable.signals;
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
        if let Way::Portable(portable) = &self.way
            && let Some((_, read)) = &portable.signals
        {
            let _ = self.poller.delete(read);
        }
    }
}

/// epoll counts milliseconds; rounded up, so that no timer is early.
#[cfg(target_os = "linux")]
fn in_whole_milliseconds(timeout: Duration) -> Timespec {
    let millis = timeout.min(LONGEST_SLEEP).as_nanos().div_ceil(1_000_000) as i64;
    Timespec { tv_sec: millis / 1000, tv_nsec: (millis % 1000) * 1_000_000 }
}

/// Ends the current or the next wait, from any thread.
#[derive(Clone, Debug)]
pub(crate) enum Waker {
    #[cfg(target_os = "linux")]
    Eventfd(Arc<OwnedFd>),
    Poller(Arc<Poller>),
    /// Whoever runs the simulation looks at it.
    #[cfg(feature = "testing")]
    Flag(Arc<std::sync::atomic::AtomicBool>),
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
            #[cfg(feature = "testing")]
            Self::Flag(flag) => {
                flag.store(true, std::sync::atomic::Ordering::SeqCst);
                Ok(())
            }
            Self::Nobody => Ok(()),
        };
        if let Err(error) = result {
            log::error!("cannot wake the reactor: {error}");
        }
    }
}
