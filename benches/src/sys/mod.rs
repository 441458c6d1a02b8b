//! The only module with `unsafe`: thin, safe names for the system calls that the raw peers, the load generator
//! and the clocks need. Linux only. Everything is `#[inline]`, so that a raw peer is what it would be with the
//! calls written out in its loop.

mod epoll;
mod process;
mod socket;

pub use epoll::{EDGE, Epoll, Event, IN, OUT, RDHUP};
pub use process::{
    CpuClock, kill_group, own_cpu, pin_to_cpu, prepare_child, raise_open_file_limit, terminate, wait_readable,
};
pub use socket::{accept, recv, send, send_many};
