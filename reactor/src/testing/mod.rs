//! Testing without a socket, a sleep or a port: protocols by themselves, programs on a clock that you move,
//! and whole systems in a simulated network.
//!
//! Everything here runs the real reactor, the real transports and the real state machine of connections; only
//! the driver at the bottom is another one, which has no kernel and owns the time. So what passes here fails
//! elsewhere only where a kernel is different.
//!
//! | to test | use |
//! |---|---|
//! | one protocol: what it answers, how it closes, its timers | [`ProtocolTest`] |
//! | two protocols that talk to each other | [`Pair`] |
//! | a program with timers and callbacks | [`Clock`] |
//! | several programs on several hosts, with slow links, crashes and partitions | [`Simulation`] |
//! | the same with many seeds, and the shortest way to a failure | [`check`](check()) |
//! | real sockets under fire | [`ReactorBuilder::fault_injection`](crate::ReactorBuilder::fault_injection) |
//!
//! The module exists with the feature `testing`; a program that is shipped does without:
//!
//! ```toml
//! [dependencies]
//! twistor = "0.1"
//!
//! [dev-dependencies]
//! twistor = { version = "0.1", features = ["testing"] }
//! ```
//!
//! # Misuse
//!
//! These are tools for tests: what makes no sense (a host that does not exist, time that goes backwards, a
//! wait for something that can never happen) is a panic with a sentence, never a hang.

mod check;
mod clock;
mod fault;
mod harness;
mod recording;
mod simulation;

pub use crate::driver::middleware::{Injection, TraceEvent};
pub use crate::driver::simulated::link::{Link, Pieces};
pub use crate::driver::simulated::raw::{RawDatagrams, RawListener, RawStream};
pub use check::{check, find_failure};
pub use clock::Clock;
pub use fault::{Fault, Faults};
pub use harness::{Ending, Pair, ProtocolTest};
pub use recording::{AccumulatingProtocol, RecordedLog, RecordingFactory};
pub use simulation::{Host, Simulation};

use crate::reactor::transport::TransportId;

impl TraceEvent {
    /// The connection that it was about, if it was about one. A listener and an attempt to connect have such
    /// a name too.
    #[must_use]
    pub fn connection(&self) -> Option<TransportId> {
        self.token.map(TransportId)
    }
}
