//! Waiting for a descriptor as a host of a guest reactor does.

#![allow(unsafe_code, reason = "poll(2) has no safe wrapper here")]

use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

/// Waits until `descriptor` is readable; false when it is not within `patience`.
///
/// # Panics
///
/// `poll` fails.
#[must_use]
pub fn becomes_readable(descriptor: impl AsFd, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let millis = libc::c_int::try_from(left.as_nanos().div_ceil(1_000_000)).expect("patience has limits");
        let mut entry = libc::pollfd { fd: descriptor.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one initialised entry, which the kernel fills in; its descriptor is open.
        match unsafe { libc::poll(&mut entry, 1, millis) } {
            0 if left.is_zero() => return false,
            0 => {}
            1 => return true,
            _ => {
                let error = std::io::Error::last_os_error();
                assert_eq!(error.kind(), std::io::ErrorKind::Interrupted, "{error}");
            }
        }
    }
}
