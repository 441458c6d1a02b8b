//! Measures twistor beside hand-written epoll loops and other event loops.
//!
//! - [`peer`]: which servers there are. Each is a program of its own in `src/bin`, built on [`serve`] (and [`chat`]);
//!   those of [`libuv`] are in C.
//! - [`secure`]: the configuration of TLS, the same for all; [`bulk`]: what is asked of servers when bytes flow one way.
//! - [`server`]: starting one, pinned, and asking the kernel about it.
//! - [`load`]: the clients. They verify every byte that comes back.
//! - [`scenario`]: which load, how much of it, and what is measured.
//! - [`compare`]: paired, interleaved rounds of CPU time and latency; [`count`]: system calls and instructions.
//! - [`tasks`]: the same for what tasks cost beside tokio's and smol's; no server, no load.
//! - [`neighbours`]: whether the machine was ours while we measured.
//! - [`stats`], [`report`], [`svg`]: from samples to tables and charts.
//! - [`sys`]: the system calls; the only module with `unsafe`.

pub mod args;
pub mod bulk;
pub mod chat;
pub mod compare;
pub mod count;
pub mod libuv;
pub mod load;
pub mod neighbours;
pub mod pattern;
pub mod peer;
pub mod report;
pub mod scenario;
pub mod secure;
pub mod serve;
pub mod server;
pub mod stats;
pub mod svg;
pub mod sys;
pub mod tasks;
