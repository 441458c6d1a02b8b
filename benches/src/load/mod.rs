//! The clients: one thread, raw epoll, on another CPU than the server. Every load is bounded by a count, gives up
//! when the server has been silent for [`PATIENCE`], and verifies every byte that comes back.

mod bulk;
mod bystander;
mod channel;
mod churn;
mod connect;
mod datagrams;
mod echo;
mod fan_out;

use std::time::Duration;

pub use bulk::Bulk;
pub use bystander::{Latencies, Probe, connect_storm, flood};
pub use channel::Wire;
pub use churn::churn;
pub use datagrams::Datagrams;
pub use echo::{Echo, EchoClients, Pace};
pub use fan_out::FanOut;

/// How long a server may be silent while an answer is due.
pub const PATIENCE: Duration = Duration::from_secs(10);
