//! Child processes: starting one with exactly the descriptors, signals and rights that it is to have,
//! signalling it, and learning of its end.
//!
//! The standard library forks and executes; what it does not offer happens in between, in the child
//! ([`Arrange`]). The invariant there: between fork and exec nothing allocates, locks or panics, because the
//! child is a copy of one thread of a program with many. Everything is laid out before.
//!
//! # Portability
//!
//! On Linux from 5.3 on a child has a descriptor (pidfd), which says when the child ends and takes signals
//! for it and for nobody else. Elsewhere it has only its number; that stays its own until the child is
//! reaped, which happens nowhere but here.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::c_int;

#[cfg(test)]
mod tests;

/// Descriptors up to here are closed one by one where the system cannot close a range.
const CLOSED_ONE_BY_ONE: RawFd = 65_536;

/// Children that were alive when their reactor ended: tried again whenever a child is started or a reactor
/// ends, so that no zombie stays for long.
static ORPHANS: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// What a child is to be.
pub(crate) struct Plan {
    /// Program, arguments, environment, directory. Its standard streams are left alone.
    pub(crate) command: Command,
    /// The child's descriptors: the number that each has there, and the one that it has here.
    pub(crate) descriptors: Vec<(RawFd, RawFd)>,
    /// Those of them that exist only for the child.
    pub(crate) owned: Vec<OwnedFd>,
    pub(crate) session: Session,
    pub(crate) rights: Rights,
}

/// Whom the child belongs to at the terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Session {
    /// To our session and process group.
    Ours,
    /// To one of its own, without a terminal.
    Own,
    /// To one of its own, with this descriptor of the child as its terminal.
    Terminal(RawFd),
}

/// As whom the child runs; `None` leaves things as they are.
#[derive(Clone, Default, Debug)]
pub(crate) struct Rights {
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
    pub(crate) groups: Option<Vec<u32>>,
}

/// How a child ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Exited(i32),
    Killed {
        signal: i32,
        core: bool,
    },
    /// Somebody else has reaped it.
    Unknown,
}

/// A child that was started.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    /// Linux's descriptor of the process.
    descriptor: Option<OwnedFd>,
}

/// Starts a child. Returns when its program runs.
///
/// # Errors
///
/// It cannot be forked, a descriptor cannot be put into its place, or the program cannot be executed. Nothing
/// is left of the child then.
pub(crate) fn spawn(plan: Plan, with_descriptor: bool) -> io::Result<Running> {
    reap_orphans();
    let Plan { mut command, descriptors, owned, session, rights } = plan;
    let _reserved = reserve(&descriptors)?;
    let mut arrange = Arrange::new(descriptors, session, rights);
    // SAFETY: `Arrange::in_child` keeps the invariant of this module: it makes system calls and nothing else.
    unsafe { command.pre_exec(move || arrange.in_child()) };
    let child = command.spawn()?;
    drop(owned);
    let descriptor = if with_descriptor { open_descriptor(&child) } else { None };
    Ok(Running { child, descriptor })
}

impl Running {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Readable when the child has ended; `None` where there is no such thing.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.descriptor.as_ref().map(AsFd::as_fd)
    }

    /// Reaps the child, and no other, if it has ended.
    pub(crate) fn reap(&mut self) -> Option<End> {
        match self.child.try_wait() {
            Ok(status) => status.map(|status| match (status.code(), status.signal()) {
                (Some(code), _) => End::Exited(code),
                (None, Some(signal)) => End::Killed { signal, core: status.core_dumped() },
                (None, None) => End::Unknown,
            }),
            Err(error) => {
                log::warn!("the end of process {} is not known: {error}", self.id());
                Some(End::Unknown)
            }
        }
    }

    /// Sends a signal to the child, which must not be reaped yet.
    ///
    /// # Errors
    ///
    /// There is no such signal, or the child runs as somebody else.
    pub(crate) fn signal(&self, signal: c_int) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if let Some(descriptor) = &self.descriptor {
            // SAFETY: the descriptor is open; a null pointer stands for the usual information about the
            // sender.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_pidfd_send_signal,
                    descriptor.as_raw_fd(),
                    signal,
                    ptr::null::<libc::siginfo_t>(),
                    0,
                )
            };
            return check(result as c_int);
        }
        // SAFETY: touches no memory. The child is not reaped, so that its number is its own.
        check(unsafe { libc::kill(self.child.id().cast_signed(), signal) })
    }

    /// Gives up a child that may still run; it is reaped when there is an occasion.
    pub(crate) fn abandon(mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        orphans().push(self.child);
    }
}

/// Reaps those abandoned children that have ended.
pub(crate) fn reap_orphans() {
    orphans().retain_mut(|child| matches!(child.try_wait(), Ok(None)));
}

fn orphans() -> MutexGuard<'static, Vec<Child>> {
    // Nothing that can panic runs under the lock.
    ORPHANS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(target_os = "linux")]
fn open_descriptor(child: &Child) -> Option<OwnedFd> {
    // SAFETY: touches no memory. The child is not reaped, so that its number is its own.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id().cast_signed(), 0) };
    let descriptor = RawFd::try_from(descriptor).ok().filter(|descriptor| *descriptor >= 0)?;
    // SAFETY: the call has just opened it for us.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[cfg(not(target_os = "linux"))]
fn open_descriptor(_: &Child) -> Option<OwnedFd> {
    None
}

/// Occupies the numbers that the child's descriptors will get, where they are free here. The standard library
/// is about to open a pipe, through which the child tells why it could not execute: it must not stand on one
/// of them.
fn reserve(descriptors: &[(RawFd, RawFd)]) -> io::Result<Vec<OwnedFd>> {
    let named = |number: RawFd, result: c_int| {
        check(result)
            .map_err(|error| io::Error::new(error.kind(), format!("its descriptor {number}: {error}")))
    };
    let mut beyond = Vec::new();
    for (number, source) in descriptors {
        if number == source {
            // That pipe must not be what is inherited, either.
            // SAFETY: touches no memory.
            named(*number, unsafe { libc::fcntl(*source, libc::F_GETFD) })?;
        } else if *number > libc::STDERR_FILENO {
            beyond.push(*number);
        }
    }
    let mut reserved = Vec::new();
    if beyond.is_empty() {
        return Ok(reserved);
    }
    let null = std::fs::File::open("/dev/null")?;
    for number in beyond {
        // SAFETY: touches no memory.
        let descriptor = unsafe { libc::fcntl(null.as_raw_fd(), libc::F_DUPFD_CLOEXEC, number) };
        named(number, descriptor)?;
        // SAFETY: the call has just opened it for us. If it got another number, the wanted one is in use
        // already.
        reserved.push(unsafe { OwnedFd::from_raw_fd(descriptor) });
    }
    Ok(reserved)
}

/// What is done in the child before it becomes another program.
struct Arrange {
    descriptors: Vec<(RawFd, RawFd)>,
    /// Numbers from, and up to: those that the child is not to have.
    gaps: Vec<(RawFd, RawFd)>,
    highest: RawFd,
    session: Session,
    rights: Rights,
    /// A superuser who becomes somebody else must not keep the groups.
    drops_groups: bool,
    most_descriptors: RawFd,
}

impl Arrange {
    fn new(descriptors: Vec<(RawFd, RawFd)>, session: Session, rights: Rights) -> Self {
        let mut numbers: Vec<RawFd> = descriptors.iter().map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        let mut gaps = Vec::new();
        let mut next = 0;
        for number in &numbers {
            if *number > next {
                gaps.push((next, number - 1));
            }
            next = number.saturating_add(1);
        }
        gaps.push((next, RawFd::MAX));
        // SAFETY: neither touches memory.
        let (is_superuser, most) = unsafe { (libc::geteuid() == 0, libc::sysconf(libc::_SC_OPEN_MAX)) };
        Self {
            highest: numbers.last().copied().unwrap_or(libc::STDERR_FILENO),
            gaps,
            drops_groups: is_superuser && rights.user.is_some() && rights.groups.is_none(),
            most_descriptors: RawFd::try_from(most).unwrap_or(RawFd::MAX),
            descriptors,
            session,
            rights,
        }
    }

    /// Runs between fork and exec: nothing here allocates, also no error does.
    fn in_child(&mut self) -> io::Result<()> {
        reset_signals();
        if self.session != Session::Ours {
            // SAFETY: touches no memory.
            check(unsafe { libc::setsid() })?;
        }
        self.place_descriptors()?;
        if let Session::Terminal(terminal) = self.session {
            // SAFETY: touches no memory.
            check(unsafe { libc::ioctl(terminal, libc::TIOCSCTTY as _, 0) })?;
        }
        for (first, last) in &self.gaps {
            close_on_exec(*first, *last, self.most_descriptors);
        }
        self.take_rights()
    }

    fn place_descriptors(&mut self) -> io::Result<()> {
        // First out of the way of each other: 1 may have to go where 2 is, and 2 where 1 is.
        for (_, source) in &mut self.descriptors {
            if *source <= self.highest {
                // SAFETY: touches no memory.
                let moved = unsafe { libc::fcntl(*source, libc::F_DUPFD_CLOEXEC, self.highest + 1) };
                check(moved)?;
                *source = moved;
            }
        }
        for (number, source) in &self.descriptors {
            // The two differ, so that the copy stays open in the new program.
            // SAFETY: touches no memory.
            check(unsafe { libc::dup2(*source, *number) })?;
        }
        Ok(())
    }

    fn take_rights(&self) -> io::Result<()> {
        let groups: Option<&[u32]> =
            if self.drops_groups { Some(&[]) } else { self.rights.groups.as_deref() };
        // SAFETY: the list of groups is alive, and as long as is said.
        unsafe {
            if let Some(groups) = groups {
                check(libc::setgroups(groups.len() as _, groups.as_ptr().cast()))?;
            }
            if let Some(group) = self.rights.group {
                check(libc::setgid(group))?;
            }
            if let Some(user) = self.rights.user {
                check(libc::setuid(user))?;
            }
        }
        Ok(())
    }
}

/// Gives every signal its usual effect, and holds none back.
fn reset_signals() {
    /// More than any system has.
    const SIGNALS: c_int = 128;
    for signal in 1..=SIGNALS {
        // An error means that there is no such signal, or none whose effect can be changed.
        // SAFETY: touches no memory; the usual effect is no function of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the first call fills the set in, which the second one reads.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
    }
}

/// Marks a range of descriptors to be closed by exec, not at once: the pipe for the child's last words is
/// among them.
fn close_on_exec(first: RawFd, last: RawFd, limit: RawFd) {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: touches no memory, and closes nothing yet.
        let result =
            unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC as c_int) };
        if result == 0 {
            return;
        }
    }
    close_each_on_exec(first, last.min(limit.min(CLOSED_ONE_BY_ONE)));
}

fn close_each_on_exec(first: RawFd, last: RawFd) {
    for number in first..=last {
        // An error means that it is not open.
        // SAFETY: touches no memory.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}
