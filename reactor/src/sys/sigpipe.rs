//! SIGPIPE around the system calls that cannot be told not to raise it.
//!
//! `send` has MSG_NOSIGNAL; `splice`, `sendfile` and `write` have nothing of the kind, and to a stream whose
//! peer is gone they raise SIGPIPE as well as failing with EPIPE. A library must not set the process's
//! disposition for that, so the signal is blocked for the thread and the one that was raised is taken back.

use std::mem::MaybeUninit;
use std::ptr;

/// Runs `f`, which may write to a stream whose peer is gone; the SIGPIPE that this raises is never delivered.
///
/// Costs one system call where SIGPIPE is ignored anyway, as Rust programs do unless they choose otherwise;
/// else four, and one more if the signal was raised. A SIGPIPE that was pending before stays pending. The
/// mask is restored also when `f` panics.
pub(crate) fn without_sigpipe<R>(f: impl FnOnce() -> R) -> R {
    if is_ignored() {
        return f();
    }
    let _blocked = Blocked::new();
    f()
}

/// SIGPIPE is blocked for this thread while this lives.
struct Blocked {
    previous: libc::sigset_t,
    was_pending: bool,
}

impl Blocked {
    fn new() -> Self {
        let mut previous = empty_set();
        // SAFETY: both sets are initialised. SIG_BLOCK with valid pointers cannot fail, and it changes this
        // thread only.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &only_sigpipe(), &mut previous) };
        // Asked after blocking: what was pending then did not come through `f`.
        Blocked { previous, was_pending: is_pending() }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        if !self.was_pending && is_pending() {
            take_pending();
        }
        // SAFETY: `previous` was filled in by the call in `new`; no answer is asked for.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.previous, ptr::null_mut()) };
    }
}

/// Takes the pending SIGPIPE away; it must be blocked. (It was raised for the thread that wrote; only one
/// that was sent to the whole process could be taken by another thread first.)
#[cfg(any(target_vendor = "apple", target_os = "openbsd"))]
fn take_pending() {
    let mut signal = 0;
    // SAFETY: valid pointers to an initialised set and to room for the answer.
    unsafe { libc::sigwait(&only_sigpipe(), &mut signal) };
}

/// Takes the pending SIGPIPE away, if there is one; it must be blocked.
#[cfg(not(any(target_vendor = "apple", target_os = "openbsd")))]
fn take_pending() {
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: valid pointers to an initialised set and a time; a null pointer means that no details are asked
    // for.
    unsafe { libc::sigtimedwait(&only_sigpipe(), ptr::null_mut(), &at_once) };
}

fn is_ignored() -> bool {
    let mut current = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asks only, into a place of the right size; zeroed is a valid value, should the call fail.
    let current = unsafe {
        libc::sigaction(libc::SIGPIPE, ptr::null(), current.as_mut_ptr());
        current.assume_init()
    };
    current.sa_sigaction == libc::SIG_IGN
}

/// Whether SIGPIPE is pending for this thread or the process.
fn is_pending() -> bool {
    let mut pending = empty_set();
    // SAFETY: a valid set to fill in, a valid signal to look for.
    unsafe { libc::sigpending(&mut pending) == 0 && libc::sigismember(&pending, libc::SIGPIPE) == 1 }
}

fn only_sigpipe() -> libc::sigset_t {
    let mut set = empty_set();
    // SAFETY: an initialised set and a valid signal.
    unsafe { libc::sigaddset(&mut set, libc::SIGPIPE) };
    set
}

fn empty_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the whole set.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::os::fd::AsRawFd;
    #[cfg(target_os = "linux")]
    use std::os::unix::net::UnixStream;

    /// Runs `test` in a child process with the default disposition of SIGPIPE, which the test harness
    /// ignores, and says how the child ended: its exit code, or the signal that killed it.
    fn in_child(test: fn() -> i32) -> Result<i32, i32> {
        // SAFETY: the child only makes system calls until it ends: it allocates nothing and takes no lock.
        unsafe {
            let child = libc::fork();
            assert!(child >= 0, "{}", io::Error::last_os_error());
            if child == 0 {
                libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                libc::_exit(test());
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &mut status, 0), child);
            if libc::WIFSIGNALED(status) {
                Err(libc::WTERMSIG(status))
            } else {
                Ok(libc::WEXITSTATUS(status))
            }
        }
    }

    /// `write(2)` to a pipe that nobody reads; 0 if it failed with EPIPE.
    fn write_to_nobody() -> i32 {
        let Ok((reader, writer)) = io::pipe() else { return 1 };
        drop(reader);
        // SAFETY: one readable byte, an open descriptor.
        let written = unsafe { libc::write(writer.as_raw_fd(), [0_u8].as_ptr().cast(), 1) };
        let error = io::Error::last_os_error();
        if written == -1 && error.raw_os_error() == Some(libc::EPIPE) { 0 } else { 2 }
    }

    #[cfg(target_os = "linux")]
    fn splice_to_nobody() -> i32 {
        let Ok((ours, theirs)) = UnixStream::pair() else { return 1 };
        drop(theirs);
        let mut pipe = [0; 2];
        // SAFETY: room for two descriptors, one readable byte, null offsets as pipes and sockets want them.
        let moved = unsafe {
            if libc::pipe(pipe.as_mut_ptr()) != 0 || libc::write(pipe[1], [0_u8].as_ptr().cast(), 1) != 1 {
                return 1;
            }
            libc::splice(pipe[0], ptr::null_mut(), ours.as_raw_fd(), ptr::null_mut(), 1, 0)
        };
        let error = io::Error::last_os_error();
        if moved == -1 && error.raw_os_error() == Some(libc::EPIPE) { 0 } else { 2 }
    }

    #[cfg(target_os = "linux")]
    fn sendfile_to_nobody() -> i32 {
        let Ok((ours, theirs)) = UnixStream::pair() else { return 1 };
        drop(theirs);
        // SAFETY: a name that ends with a zero, one readable byte, a valid place for the offset.
        let moved = unsafe {
            let file = libc::memfd_create(c"source".as_ptr(), 0);
            if file < 0 || libc::write(file, [0_u8].as_ptr().cast(), 1) != 1 {
                return 1;
            }
            let mut offset = 0;
            libc::sendfile(ours.as_raw_fd(), file, &mut offset, 1)
        };
        let error = io::Error::last_os_error();
        if moved == -1 && error.raw_os_error() == Some(libc::EPIPE) { 0 } else { 2 }
    }

    #[test]
    fn a_write_to_nobody_kills_without_it_and_fails_with_it() {
        assert_eq!(in_child(write_to_nobody), Err(libc::SIGPIPE));
        assert_eq!(in_child(|| without_sigpipe(write_to_nobody)), Ok(0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn splice_and_sendfile_to_nobody_fail_with_it() {
        assert_eq!(in_child(|| without_sigpipe(splice_to_nobody)), Ok(0));
        assert_eq!(in_child(|| without_sigpipe(sendfile_to_nobody)), Ok(0));
    }

    #[test]
    fn afterwards_the_signal_works_as_before() {
        assert_eq!(
            in_child(|| {
                without_sigpipe(write_to_nobody);
                write_to_nobody()
            }),
            Err(libc::SIGPIPE)
        );
    }

    #[test]
    fn a_signal_that_was_pending_before_stays_pending() {
        assert_eq!(
            in_child(|| {
                // SAFETY: an initialised set.
                unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &only_sigpipe(), ptr::null_mut()) };
                write_to_nobody();
                without_sigpipe(write_to_nobody);
                i32::from(!is_pending())
            }),
            Ok(0)
        );
    }

    #[test]
    fn one_that_was_blocked_but_not_pending_is_taken_back() {
        assert_eq!(
            in_child(|| {
                // SAFETY: an initialised set.
                unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &only_sigpipe(), ptr::null_mut()) };
                without_sigpipe(write_to_nobody);
                i32::from(is_pending())
            }),
            Ok(0)
        );
    }

    #[test]
    fn the_result_is_passed_through_where_the_signal_is_ignored() {
        assert_eq!(without_sigpipe(|| 7), 7);
    }
}
