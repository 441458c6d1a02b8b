//! The process-wide signal table: several reactors, in any threads, hear of the same signals.
//!
//! The kernel calls `on_signal`, which marks the signal in the slot of every watch that wants it and writes
//! to the watch's descriptor; the reactor wakes up and asks [`SignalWatch::take`]. The handler that was
//! installed before the first watch of a signal comes back when the last one ends.
//!
//! The invariant to know: the handler takes no lock and allocates nothing. It touches a slot's descriptor
//! only while it is counted in the slot's `handlers` and has seen the signal in `watched` after it was
//! counted; a watch that ends clears `watched` and waits until none is counted. So no descriptor is written
//! to after its watch is dropped, though its number may be in use again by then.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::c_int;

/// How many watches can exist at a time in one process.
pub(crate) const MAX_WATCHES: usize = 64;
/// Signals 1 to 64 fit into the sets; Linux has no others.
const MAX_SIGNAL: c_int = 64;

static SLOTS: [Slot; MAX_WATCHES] = [const { Slot::new() }; MAX_WATCHES];
static TABLE: Mutex<Table> = Mutex::new(Table { slots: 0, signals: [const { None }; MAX_SIGNAL as usize] });

/// The registration of one reactor: while it exists, the signals do not have their usual effect but are
/// reported by [`take`](Self::take). Every watch of a signal hears of it. Dropping the last one restores the
/// handler that was there before the first, unless someone else has replaced ours meanwhile: then theirs
/// stays.
#[derive(Debug)]
#[must_use = "dropping it ends the watch"]
pub(crate) struct SignalWatch {
    slot: usize,
    signals: SignalSet,
}

/// Whether a signal can be watched.
///
/// # Errors
///
/// As [`SignalWatch::new`].
#[cfg(feature = "testing")]
pub(crate) fn check(signal: c_int) -> io::Result<()> {
    SignalSet::watchable(&[signal]).map(|_| ())
}

/// Whether the system itself buries the children of this process, so that nobody hears of their ends: SIGCHLD
/// is ignored, which a program may have inherited.
pub(crate) fn buries_children() -> bool {
    disposition(libc::SIGCHLD)
        .is_ok_and(|action| action.sa_sigaction == libc::SIG_IGN || action.sa_flags & libc::SA_NOCLDWAIT != 0)
}

/// A set of signals; iterates from the lowest number to the highest.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct SignalSet(u64);

impl SignalWatch {
    /// Starts watching `signals`.
    ///
    /// When one arrives, a `u64` of 1 is written to `wake_fd`: an eventfd or the writing end of a pipe,
    /// non-blocking, which must stay open, with its reader, until the watch is dropped. Of several
    /// signals before one `take`, only the first of a kind need cause a write.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a signal that cannot be watched (unknown, uncatchable, or a fault such as SIGSEGV,
    /// which would be raised again as soon as its handler returns) and for a descriptor that may block;
    /// `QuotaExceeded` when [`MAX_WATCHES`] exist already. Nothing has changed then.
    pub(crate) fn new(signals: &[c_int], wake_fd: RawFd) -> io::Result<SignalWatch> {
        let set = SignalSet::watchable(signals)?;
        require_nonblocking(wake_fd)?;
        let mut table = lock();
        let slot = table.claim_slot()?;
        // The watch is complete before the first handler is installed, so no signal falls between; and
        // dropping it is the way back from a failure.
        SLOTS[slot].open(set, wake_fd);
        let mut watch = SignalWatch { slot, signals: SignalSet::default() };
        for signal in set {
            if let Err(error) = table.add_watcher(signal) {
                drop(table);
                let text = format!("cannot watch signal {signal}: {error}");
                return Err(io::Error::new(error.kind(), text));
            }
            watch.signals.insert(signal);
        }
        Ok(watch)
    }

    /// Watches one more signal. Whoever asks for it twice has to give it up only once.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new). Nothing has changed then.
    pub(crate) fn add(&mut self, signal: c_int) -> io::Result<()> {
        SignalSet::watchable(&[signal])?;
        if self.signals.contains(signal) {
            return Ok(());
        }
        let mut table = lock();
        let watched = &SLOTS[self.slot].watched;
        watched.fetch_or(bit(signal), SeqCst);
        if let Err(error) = table.add_watcher(signal) {
            watched.fetch_and(!bit(signal), SeqCst);
            return Err(io::Error::new(error.kind(), format!("cannot watch signal {signal}: {error}")));
        }
        self.signals.insert(signal);
        Ok(())
    }

    /// Gives one signal up. What was delivered of it and not taken is forgotten.
    pub(crate) fn remove(&mut self, signal: c_int) {
        if self.signals.contains(signal) {
            let mut table = lock();
            self.signals.0 &= !bit(signal);
            let slot = &SLOTS[self.slot];
            slot.watched.fetch_and(!bit(signal), SeqCst);
            table.remove_watcher(signal);
            // A handler in another thread may have seen the signal as watched.
            slot.wait_for_handlers();
            slot.pending.fetch_and(!bit(signal), SeqCst);
        }
    }

    /// Whether no signal is watched.
    pub(crate) fn is_empty(&self) -> bool {
        self.signals.is_empty()
    }

    /// The watched signals that were delivered since the last call: after the last delivery of a signal it is
    /// reported at least once; how often it was delivered is not counted. One atomic load when there is
    /// none.
    pub(crate) fn take(&self) -> SignalSet {
        let pending = &SLOTS[self.slot].pending;
        if pending.load(SeqCst) == 0 { SignalSet::default() } else { SignalSet(pending.swap(0, SeqCst)) }
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        let mut table = lock();
        for signal in self.signals {
            table.remove_watcher(signal);
        }
        SLOTS[self.slot].close();
        table.slots &= !(1 << self.slot);
    }
}

impl SignalSet {
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn contains(self, signal: c_int) -> bool {
        (1..=MAX_SIGNAL).contains(&signal) && self.0 & bit(signal) != 0
    }

    fn insert(&mut self, signal: c_int) {
        self.0 |= bit(signal);
    }

    fn watchable(signals: &[c_int]) -> io::Result<SignalSet> {
        let mut set = SignalSet::default();
        for &signal in signals {
            let reason = match signal {
                libc::SIGKILL | libc::SIGSTOP => "it cannot be caught",
                libc::SIGSEGV | libc::SIGBUS | libc::SIGFPE | libc::SIGILL => {
                    "it reports a fault of the running code"
                }
                1..=MAX_SIGNAL => {
                    set.insert(signal);
                    continue;
                }
                _ => "there is no such signal",
            };
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("cannot watch signal {signal}: {reason}"),
            ));
        }
        Ok(set)
    }
}

impl Iterator for SignalSet {
    type Item = c_int;

    fn next(&mut self) -> Option<c_int> {
        if self.is_empty() {
            return None;
        }
        let signal = self.0.trailing_zeros() as c_int + 1;
        self.0 &= self.0 - 1;
        Some(signal)
    }
}

fn bit(signal: c_int) -> u64 {
    1 << (signal - 1)
}

/// What the handler sees of a watch.
struct Slot {
    /// The signals that the watch wants; none while the slot is free.
    watched: AtomicU64,
    /// Those delivered since the last `take`.
    pending: AtomicU64,
    wake_fd: AtomicI32,
    /// How many handlers are at work on this slot.
    handlers: AtomicUsize,
}

impl Slot {
    const fn new() -> Self {
        Slot {
            watched: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            wake_fd: AtomicI32::new(-1),
            handlers: AtomicUsize::new(0),
        }
    }

    fn open(&self, signals: SignalSet, wake_fd: RawFd) {
        self.pending.store(0, SeqCst);
        self.wake_fd.store(wake_fd, SeqCst);
        self.watched.store(signals.0, SeqCst);
    }

    fn close(&self) {
        self.watched.store(0, SeqCst);
        self.wait_for_handlers();
        self.wake_fd.store(-1, SeqCst);
    }

    fn wait_for_handlers(&self) {
        // A handler that comes now sees that the slot is closed before it counts itself, so this ends also in
        // a storm. The handlers waited for are in other threads: one that interrupts this thread is
        // finished when we go on.
        while self.handlers.load(SeqCst) != 0 {
            std::thread::yield_now();
        }
    }

    /// Called by the handler: async-signal-safe.
    fn notify(&self, signal: c_int) {
        if self.watched.load(SeqCst) & bit(signal) == 0 {
            return;
        }
        self.handlers.fetch_add(1, SeqCst);
        // Looked at once more, because the watch may have ended before we were counted.
        if self.watched.load(SeqCst) & bit(signal) != 0 {
            // If the signal was pending already, its handler has written or is about to, after that was
            // visible.
            let already = self.pending.fetch_or(bit(signal), SeqCst) & bit(signal) != 0;
            if !already {
                let one = 1_u64;
                // SAFETY: `one` is 8 readable bytes. The descriptor is that of a live watch, which cannot end
                // before we are no longer counted, and `write` is async-signal-safe. A
                // failure means that the pipe is full, so that the reader has something to
                // wake up for anyway.
                unsafe {
                    libc::write(self.wake_fd.load(SeqCst), ptr::from_ref(&one).cast(), size_of::<u64>())
                };
            }
        }
        self.handlers.fetch_sub(1, SeqCst);
    }
}

/// Installed for every watched signal. Takes no lock, allocates nothing, leaves `errno` as it was.
extern "C" fn on_signal(signal: c_int) {
    let saved = errno();
    for slot in &SLOTS {
        slot.notify(signal);
    }
    set_errno(saved);
}

/// What only those see who come and go.
struct Table {
    /// The slots in use, one bit each.
    slots: u64,
    /// By signal number less one: those that are watched.
    signals: [Option<Watched>; MAX_SIGNAL as usize],
}

struct Watched {
    watchers: usize,
    previous: libc::sigaction,
}

impl Table {
    fn claim_slot(&mut self) -> io::Result<usize> {
        let slot = (!self.slots).trailing_zeros() as usize;
        if slot >= MAX_WATCHES {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                format!("cannot watch signals: {MAX_WATCHES} reactors of this process do so already"),
            ));
        }
        self.slots |= 1 << slot;
        Ok(slot)
    }

    fn add_watcher(&mut self, signal: c_int) -> io::Result<()> {
        let entry = &mut self.signals[signal as usize - 1];
        // Also when others watch the signal: someone may have replaced our handler, and this watch must work.
        let current = disposition(signal)?;
        if is_ours(&current) {
            if let Some(watched) = entry {
                watched.watchers += 1;
            }
            return Ok(());
        }
        let previous = install(signal)?;
        match entry {
            Some(watched) => {
                watched.watchers += 1;
                watched.previous = previous;
            }
            None => *entry = Some(Watched { watchers: 1, previous }),
        }
        Ok(())
    }

    fn remove_watcher(&mut self, signal: c_int) {
        let entry = &mut self.signals[signal as usize - 1];
        let Some(watched) = entry else { return };
        watched.watchers -= 1;
        if watched.watchers > 0 {
            return;
        }
        // A handler that is not ours belongs to someone who came after us.
        if disposition(signal).is_ok_and(|current| is_ours(&current)) {
            // SAFETY: `previous` is what `sigaction` has given for this signal.
            unsafe { libc::sigaction(signal, &watched.previous, ptr::null_mut()) };
        }
        *entry = None;
    }
}

/// A panic while it was held has left no half-done change, because each is one assignment.
fn lock() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_ours(action: &libc::sigaction) -> bool {
    action.sa_sigaction == handler_address()
}

// One function, so that the address is taken in one place only: two places might see different copies of
// `on_signal`.
#[inline(never)]
fn handler_address() -> libc::sighandler_t {
    on_signal as *const () as libc::sighandler_t
}

fn disposition(signal: c_int) -> io::Result<libc::sigaction> {
    let mut current = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null pointer for the new action means to ask only; `current` has room for the answer.
    let result = unsafe { libc::sigaction(signal, ptr::null(), current.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed is a valid value (integers and an optional function), and the call has filled it in.
    Ok(unsafe { current.assume_init() })
}

/// Installs our handler and returns what was there.
fn install(signal: c_int) -> io::Result<libc::sigaction> {
    // SAFETY: a valid value, see `disposition`.
    let mut action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    action.sa_sigaction = handler_address();
    // System calls go on after the handler, and a thread with an alternate stack runs it there: libraries
    // whose threads have small stacks depend on that.
    action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
    let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: `sa_mask` is a valid place for a set. All signals wait while the handler runs, so handlers do
    // not nest and need little stack. `on_signal` has the signature that the absence of SA_SIGINFO asks
    // for and is async-signal-safe.
    let result = unsafe {
        libc::sigfillset(&mut action.sa_mask);
        libc::sigaction(signal, &action, previous.as_mut_ptr())
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as in `disposition`.
    Ok(unsafe { previous.assume_init() })
}

/// The handler must not block, whatever is not being read.
fn require_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_GETFL takes no pointer; a bad descriptor is an error.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if flags == -1 {
        let error = io::Error::last_os_error();
        return Err(io::Error::new(
            error.kind(),
            format!("cannot wake through descriptor {fd} on a signal: {error}"),
        ));
    }
    if flags & libc::O_NONBLOCK == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("cannot wake through descriptor {fd} on a signal: it is not non-blocking"),
        ));
    }
    Ok(())
}

fn errno_location() -> *mut c_int {
    // SAFETY: these functions have no preconditions and are async-signal-safe.
    unsafe {
        #[cfg(any(target_os = "linux", target_os = "emscripten", target_os = "dragonfly"))]
        return libc::__errno_location();
        #[cfg(any(target_os = "android", target_os = "netbsd", target_os = "openbsd"))]
        return libc::__errno();
        #[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
        return libc::__error();
        #[cfg(any(target_os = "illumos", target_os = "solaris"))]
        return libc::___errno();
    }
}

pub(crate) fn errno() -> c_int {
    // SAFETY: the location is valid for the life of this thread.
    unsafe { *errno_location() }
}

pub(crate) fn set_errno(value: c_int) {
    // SAFETY: as in `errno`; no other thread has access to it.
    unsafe { *errno_location() = value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::thread;
    use std::time::{Duration, Instant};

    /// Signals belong to the process, so one test at a time may use them.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    fn alone() -> MutexGuard<'static, ()> {
        ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The two ends of a non-blocking stream: what to read, what the handler writes to.
    fn wake_pair() -> (UnixStream, UnixStream) {
        let (reader, writer) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        reader.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (reader, writer)
    }

    fn raise(signal: c_int) {
        // SAFETY: takes no pointer; the tests raise only signals that they have a handler for.
        assert_eq!(unsafe { libc::raise(signal) }, 0);
    }

    fn wait_for_wake(reader: &UnixStream) -> u64 {
        let mut bytes = [0; 8];
        io::Read::read_exact(&mut &*reader, &mut bytes).unwrap();
        u64::from_ne_bytes(bytes)
    }

    fn handler_of(signal: c_int) -> libc::sighandler_t {
        disposition(signal).unwrap().sa_sigaction
    }

    fn set_handler(signal: c_int, handler: libc::sighandler_t) {
        // SAFETY: `handler` is SIG_DFL or the address of `foreign`, which does nothing.
        unsafe { libc::signal(signal, handler) };
    }

    extern "C" fn foreign(_: c_int) {}

    fn foreign_address() -> libc::sighandler_t {
        foreign as *const () as libc::sighandler_t
    }

    #[test]
    fn two_watches_both_hear_of_a_signal() {
        let _alone = alone();
        let (first_reader, first_writer) = wake_pair();
        let (second_reader, second_writer) = wake_pair();
        let first = SignalWatch::new(&[libc::SIGUSR1, libc::SIGUSR2], first_writer.as_raw_fd()).unwrap();
        let second = SignalWatch::new(&[libc::SIGUSR1], second_writer.as_raw_fd()).unwrap();
        assert!(first.take().is_empty());
        raise(libc::SIGUSR1);
        assert_eq!(wait_for_wake(&first_reader), 1);
        assert_eq!(wait_for_wake(&second_reader), 1);
        assert_eq!(first.take().collect::<Vec<_>>(), [libc::SIGUSR1]);
        assert!(second.take().contains(libc::SIGUSR1));
        raise(libc::SIGUSR2);
        raise(libc::SIGUSR1);
        let mut both = [libc::SIGUSR1, libc::SIGUSR2];
        both.sort_unstable();
        assert_eq!(first.take().collect::<Vec<_>>(), both);
        assert_eq!(second.take().collect::<Vec<_>>(), [libc::SIGUSR1]);
        assert!(first.take().is_empty());
        assert!(second.take().is_empty());
    }

    #[test]
    fn the_last_watch_restores_the_previous_handler() {
        let _alone = alone();
        let (_reader, writer) = wake_pair();
        set_handler(libc::SIGUSR1, foreign_address());
        let before = handler_of(libc::SIGUSR2);
        let first = SignalWatch::new(&[libc::SIGUSR1, libc::SIGUSR2], writer.as_raw_fd()).unwrap();
        let second = SignalWatch::new(&[libc::SIGUSR1], writer.as_raw_fd()).unwrap();
        assert_eq!(handler_of(libc::SIGUSR1), handler_address());
        drop(first);
        assert_eq!(handler_of(libc::SIGUSR2), before);
        assert_eq!(handler_of(libc::SIGUSR1), handler_address());
        raise(libc::SIGUSR1);
        assert!(second.take().contains(libc::SIGUSR1));
        drop(second);
        assert_eq!(handler_of(libc::SIGUSR1), foreign_address());
        set_handler(libc::SIGUSR1, libc::SIG_DFL);
    }

    #[test]
    fn a_handler_that_replaced_ours_is_left_alone() {
        let _alone = alone();
        let (_reader, writer) = wake_pair();
        let watch = SignalWatch::new(&[libc::SIGUSR1], writer.as_raw_fd()).unwrap();
        set_handler(libc::SIGUSR1, foreign_address());
        drop(watch);
        assert_eq!(handler_of(libc::SIGUSR1), foreign_address());
        set_handler(libc::SIGUSR1, libc::SIG_DFL);
    }

    #[test]
    fn a_new_watch_works_although_our_handler_was_replaced() {
        let _alone = alone();
        let (_reader, writer) = wake_pair();
        let first = SignalWatch::new(&[libc::SIGUSR1], writer.as_raw_fd()).unwrap();
        set_handler(libc::SIGUSR1, foreign_address());
        let second = SignalWatch::new(&[libc::SIGUSR1], writer.as_raw_fd()).unwrap();
        raise(libc::SIGUSR1);
        assert!(first.take().contains(libc::SIGUSR1));
        assert!(second.take().contains(libc::SIGUSR1));
        drop((first, second));
        assert_eq!(handler_of(libc::SIGUSR1), foreign_address());
        set_handler(libc::SIGUSR1, libc::SIG_DFL);
    }

    #[test]
    fn the_handler_keeps_errno() {
        let _alone = alone();
        let (reader, writer) = wake_pair();
        let watch = SignalWatch::new(&[libc::SIGUSR1], writer.as_raw_fd()).unwrap();
        // The write of the handler fails, which sets errno. (The test harness ignores SIGPIPE.)
        drop(reader);
        set_errno(libc::ENOTTY);
        raise(libc::SIGUSR1);
        assert_eq!(errno(), libc::ENOTTY);
        assert!(watch.take().contains(libc::SIGUSR1));
    }

    #[test]
    fn after_a_storm_the_last_delivery_is_seen() {
        let _alone = alone();
        let (reader, writer) = wake_pair();
        let watch = SignalWatch::new(&[libc::SIGUSR1, libc::SIGUSR2], writer.as_raw_fd()).unwrap();
        let storm = thread::spawn(|| {
            for _ in 0..10_000 {
                raise(libc::SIGUSR1);
            }
            raise(libc::SIGUSR2);
        });
        let mut heard = 0;
        loop {
            wait_for_wake(&reader);
            let signals = watch.take();
            heard += usize::from(signals.contains(libc::SIGUSR1));
            if signals.contains(libc::SIGUSR2) {
                break;
            }
        }
        storm.join().unwrap();
        // SIGUSR2 was last, so everything before it was delivered before it was seen.
        assert!(heard >= 1);
        assert!(watch.take().is_empty());
        for _ in 0..10_000 {
            raise(libc::SIGUSR1);
            assert!(watch.take().contains(libc::SIGUSR1));
        }
    }

    #[test]
    fn a_full_pipe_loses_no_signal() {
        let _alone = alone();
        let (_reader, writer) = wake_pair();
        while io::Write::write(&mut &writer, &[0; 4096]).is_ok() {}
        let watch = SignalWatch::new(&[libc::SIGUSR1], writer.as_raw_fd()).unwrap();
        raise(libc::SIGUSR1);
        assert!(watch.take().contains(libc::SIGUSR1));
    }

    #[test]
    fn no_descriptor_is_written_to_after_its_watch_is_dropped() {
        let _alone = alone();
        let (_reader, keeper) = wake_pair();
        // Keeps the handler installed, so that the storm never meets the default disposition.
        let _keeper = SignalWatch::new(&[libc::SIGUSR1], keeper.as_raw_fd()).unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let storms: Vec<_> = (0..3)
            .map(|_| {
                let ended = Arc::clone(&ended);
                thread::spawn(move || {
                    while !ended.load(SeqCst) {
                        raise(libc::SIGUSR1);
                    }
                })
            })
            .collect();
        let start = Instant::now();
        let mut rounds = 0;
        while rounds < 5000 && start.elapsed() < Duration::from_secs(1) {
            let (reader, writer) = wake_pair();
            let watch = SignalWatch::new(&[libc::SIGUSR1], writer.as_raw_fd()).unwrap();
            if rounds % 2 == 0 {
                wait_for_wake(&reader);
            }
            drop(watch);
            reader.set_nonblocking(true).unwrap();
            while io::Read::read(&mut &reader, &mut [0; 64]).is_ok_and(|count| count > 0) {}
            // What is written from here on comes from a handler that should be gone.
            thread::yield_now();
            let late = io::Read::read(&mut &reader, &mut [0; 64]).unwrap_err();
            assert_eq!(late.kind(), io::ErrorKind::WouldBlock);
            rounds += 1;
        }
        ended.store(true, SeqCst);
        for storm in storms {
            storm.join().unwrap();
        }
        assert!(rounds > 10);
    }

    #[test]
    fn a_full_table_is_an_error_and_has_room_again_later() {
        // A table of its own, so that no other test of this process finds the real one full.
        let mut table = Table { slots: 0, signals: [const { None }; MAX_SIGNAL as usize] };
        for slot in 0..MAX_WATCHES {
            assert_eq!(table.claim_slot().unwrap(), slot);
        }
        assert_eq!(table.claim_slot().unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
        table.slots &= !(1 << 7);
        assert_eq!(table.claim_slot().unwrap(), 7);
    }

    #[test]
    fn what_cannot_be_watched_is_refused_and_nothing_changes() {
        let _alone = alone();
        let (_reader, writer) = wake_pair();
        let before = handler_of(libc::SIGUSR1);
        for signal in [libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV, 0, -1, 65, i32::MAX] {
            let error = SignalWatch::new(&[libc::SIGUSR1, signal], writer.as_raw_fd()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
            assert!(error.to_string().contains(&signal.to_string()), "{error}");
        }
        // More often than there are slots: none may be lost.
        for _ in 0..if cfg!(all(target_os = "linux", target_env = "gnu")) { 2 * MAX_WATCHES } else { 0 } {
            // Reserved by the C library, which refuses it only when asked to install the handler.
            let error = SignalWatch::new(&[libc::SIGUSR1, 32], writer.as_raw_fd()).unwrap_err();
            assert!(error.to_string().contains("cannot watch signal 32"), "{error}");
        }
        assert_eq!(handler_of(libc::SIGUSR1), before);
    }

    #[test]
    fn a_descriptor_that_may_block_is_refused() {
        let (reader, _writer) = wake_pair();
        let error = SignalWatch::new(&[libc::SIGUSR1], reader.as_raw_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(SignalWatch::new(&[libc::SIGUSR1], -1).is_err());
    }
}
