//! What is asked of, or done to, a process: CPU clock, affinity, limits, signals.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// The CPU time (user and system, all threads) of another process, in nanoseconds: /proc/PID/stat counts in
/// ticks of 10 ms, which is too coarse for runs of a second.
#[derive(Debug, Clone, Copy)]
pub struct CpuClock(libc::clockid_t);

impl CpuClock {
    /// The clock of process `pid`.
    ///
    /// # Errors
    /// No such process, or not ours to look at.
    pub fn of(pid: u32) -> io::Result<Self> {
        let mut clock = 0;
        // SAFETY: `clock` may be written; the call returns an error number rather than setting errno.
        match unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) } {
            0 => Ok(Self(clock)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// CPU time used so far.
    ///
    /// # Errors
    /// The process has gone.
    pub fn now(self) -> io::Result<Duration> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` may be written.
        if unsafe { libc::clock_gettime(self.0, &raw mut time) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32))
    }
}

/// Pins the calling thread, and what it starts from now on, to one CPU. Async-signal-safe.
///
/// # Errors
/// There is no such CPU, or it is not allowed to this process.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    // SAFETY: all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: `cpu` is inside the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: `set` may be read in its whole size.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Pins what `command` will start to one CPU, and has the kernel kill it when this process ends, so that an
/// interrupted run leaves no servers.
pub fn prepare_child(command: &mut Command, cpu: usize) {
    let prepare = move || {
        pin_to_cpu(cpu)?;
        die_with_parent()
    };
    // SAFETY: between fork and exec, `prepare` only makes two system calls: no allocation, no lock.
    unsafe { command.pre_exec(prepare) };
}

fn die_with_parent() -> io::Result<()> {
    // SAFETY: no pointers are passed.
    let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Raises the number of descriptors to `wanted`, as far as allowed: the hard limit too, where privileges permit.
/// Children inherit it. Returns the limit now in force.
///
/// # Errors
/// What `getrlimit` reports. A refusal to raise is not an error: the returned number tells.
pub fn raise_open_file_limit(wanted: u64) -> io::Result<u64> {
    let now = limits()?;
    if now.rlim_cur >= wanted {
        return Ok(now.rlim_cur);
    }
    let all = libc::rlimit { rlim_cur: wanted, rlim_max: now.rlim_max.max(wanted) };
    let allowed = libc::rlimit { rlim_cur: wanted.min(now.rlim_max), rlim_max: now.rlim_max };
    for attempt in [all, allowed] {
        // SAFETY: `attempt` may be read.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const attempt) } == 0 {
            break;
        }
    }
    Ok(limits()?.rlim_cur)
}

/// Asks process `pid` to end (SIGTERM).
///
/// # Errors
/// No such process, or not ours.
pub fn terminate(pid: u32) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    let result = unsafe { libc::kill(pid.cast_signed(), libc::SIGTERM) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Kills the process group that `leader` leads.
///
/// # Errors
/// No such group, or not ours.
pub fn kill_group(leader: u32) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    let result = unsafe { libc::kill(-leader.cast_signed(), libc::SIGKILL) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits until `fd` can be read or has ended; `false` after `timeout`.
///
/// # Errors
/// What `poll` reports.
pub fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: exactly one entry may be written.
    match unsafe { libc::poll(&raw mut entry, 1, milliseconds) } {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(io::Error::last_os_error()),
    }
}

/// CPU time of this process and of its children that have ended.
///
/// # Errors
/// What `getrusage` reports.
pub fn own_cpu() -> io::Result<Duration> {
    let mut sum = Duration::ZERO;
    for who in [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN] {
        // SAFETY: all zeroes is a valid `rusage`.
        let mut usage: libc::rusage = unsafe { mem::zeroed() };
        // SAFETY: `usage` may be written.
        if unsafe { libc::getrusage(who, &raw mut usage) } < 0 {
            return Err(io::Error::last_os_error());
        }
        for time in [usage.ru_utime, usage.ru_stime] {
            sum += Duration::new(time.tv_sec.cast_unsigned(), time.tv_usec as u32 * 1000);
        }
    }
    Ok(sum)
}

fn limits() -> io::Result<libc::rlimit> {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limits` may be written.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limits) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(limits) }
}
