//! Process-wide and per-thread state of the operating system: signals and child processes, which no safe
//! crate covers, and threads.
//!
//! Together with `driver` the only place that talks to the kernel, and the only place with `unsafe` code.
//! Everything here has a safe interface and undoes what it changed: handlers, masks and registrations end
//! with the value that stands for them.

// Signal handlers, signal masks and what happens between fork and exec exist only as raw system calls, and a
// waker can be lent only by a second hand on its count; each block says why it is sound.
#![allow(unsafe_code)]

pub(crate) mod affinity;
#[cfg(unix)]
pub(crate) mod descriptor;
pub(crate) mod file;
#[cfg(unix)]
pub(crate) mod inherit;
#[cfg(unix)]
pub(crate) mod inherited;
#[cfg(unix)]
pub(crate) mod log_file;
#[cfg(unix)]
pub(crate) mod notify;
#[cfg(unix)]
pub(crate) mod pidfile;
#[cfg(unix)]
pub(crate) mod privileges;
#[cfg(unix)]
pub(crate) mod process;
#[cfg(unix)]
pub(crate) mod pty;
pub(crate) mod sequence;
#[cfg(unix)]
pub(crate) mod signal;
#[cfg(unix)]
pub(crate) mod sigpipe;
#[cfg(unix)]
pub(crate) mod terminal;
pub(crate) mod thread_pool;
pub(crate) mod waker;
