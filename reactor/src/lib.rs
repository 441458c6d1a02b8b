//! A callback-style reactor framework: you implement [`Protocol`] and [`Factory`], the [`Reactor`] owns the
//! poller, the callback queue and the timers, and calls you when something happens.
//!
//! ```no_run
//! use twistor::{Protocol, Reactor, Transport};
//!
//! struct Echo;
//!
//! impl Protocol for Echo {
//!     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
//!         transport.write(data);
//!     }
//! }
//!
//! fn main() -> std::io::Result<()> {
//!     let reactor = Reactor::new()?;
//!     reactor.listen("tcp:8000", |_| Echo)?;
//!     reactor.run()
//! }
//! ```
//!
//! # What happens when
//!
//! One turn of the loop is a *pass*:
//!
//! 1. **wait** for events, not at all if anything is queued, else until the next timer;
//! 2. **I/O**: for each thing that happened, call the hook, then send what it wrote;
//! 3. **timers** that are due;
//! 4. **queue**: callbacks, posts and calls from other threads that are there now;
//! 5. **stop**, if somebody asked for it: the phases of shutdown;
//! 6. **settle**: send what was written from elsewhere, call `pause_writing` and `resume_writing`, report
//!    losses, tell the poller what to watch for.
//!
//! Nobody is called from inside a call: every method but [`Reactor::run`] and [`Reactor::turn`] only edits
//! buffers, flags and queues. So a hook may do anything (close its own connection, stop the reactor, write to
//! others), and state that protocols share in an `Rc<RefCell<_>>` is never borrowed twice by surprise.
//!
//! # Getting about
//!
//! * [`Protocol`]: the hooks of a connection. [`Factory`] makes one per connection; a closure is a factory.
//! * [`Transport`]: what a protocol does with its connection. [`Connection`] knows the protocol's type as
//!   well, so that closures can be [posted](Connection::post) into it from anywhere.
//! * [`Handle`]: the reactor for everybody: listen, connect, call later, stop. [`Remote`] and [`Sender`] are
//!   the ways in from other threads.
//! * [`Deferred`]: what comes later, to chain, to combine, to `.await`.
//! * [`task`]: futures that the loop runs, [`spawn`](Handle::spawn)ed or as a whole program in [`run`].
//!   [`Stream`] is a connection for a task, from [`serve`](Handle::serve) and
//!   [`connect_stream`](Handle::connect_stream); [`sync`] has locks and queues.
//! * [`DatagramProtocol`]: the hooks of a socket for datagrams, [`DatagramSocket`].
//! * [`endpoint`]: where to listen and to connect, as strings or builders.
//! * [`ReactorBuilder`]: limits, time-outs and policies.
//!
//! # Features
//!
//! None is on by default.
//!
//! * `testing`: the module `testing`, with a deterministic simulated network.
//! * `tokio`: `Handle::with_tokio`, for futures that need a tokio runtime.
//! * `hyper`: hyper (version 1) on this loop: `Stream` is its I/O, `HyperTimer` its timer, `HyperExecutor`
//!   its executor.
//! * `tls`: TLS as a layer of the same [`Transport`]: the module `tls`, endpoints `ssl:` and `tls:`.
//!   `tls-aws-lc-rs` adds another provider of cryptography, `tls-webpki-roots` roots that are part of the
//!   program.
//!
//! # Panics in hooks
//!
//! A hook that panics ends only what it belongs to. That needs `panic = "unwind"`, the default of Cargo's
//! profiles; with `panic = "abort"` any panic ends the program.
//!
//! # Systems
//!
//! Developed and tested on Linux, where waiting, receiving and sending cost what hand-written `epoll` costs.
//! macOS, FreeBSD and Windows are type-checked; they wait through the portable interface of the crate
//! `polling`, which is tested on Linux as well.

mod core;
mod datagram;
mod driver;
pub mod endpoint;
mod net;
mod protocol;
mod reactor;
mod service;
mod sys;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "tls")]
pub mod tls;
mod try_protocol;

pub use bytes;
pub use log;

pub use core::address::{Address, UnixAddress};
#[cfg(unix)]
pub use core::credentials::Credentials;
pub use core::interruption::Interruption;
pub use core::multicast::MulticastInterface;
pub use datagram::DatagramProtocol;
pub use net::reason::Reason;
pub use net::timeouts::{Timeout, Timeouts};
pub use protocol::{Eof, Factory, IntoProtocol, OnTimeout, Peer, Protocol, SharedFactory};
pub use reactor::Reactor;
pub use reactor::async_file::AsyncFile;
pub use reactor::builder::{PanicPolicy, ReactorBuilder};
pub use reactor::channel::Sender;
pub use reactor::connect_error::{ConnectError, ConnectErrorKind};
pub use reactor::connecting::Connector;
pub use reactor::cooperate::{Cooperation, CooperationError};
pub use reactor::datagrams::{DatagramSocket, DatagramStats};
pub use reactor::deferred::{
    AsCompleted, Canceller, Deferred, Failure, MaybeDeferred, Outcome, Pause, Resolver,
};
#[cfg(unix)]
pub use reactor::descriptor::DescriptorWatch;
pub use reactor::events::{Events, Subscription};
pub use reactor::handle::{CallHandle, Handle};
pub use reactor::kinds::AnyFactory;
pub use reactor::listening::Port;
pub use reactor::looping::LoopingCall;
#[cfg(unix)]
pub use reactor::process::command::{Command, Fd, Output, PtySize};
#[cfg(unix)]
pub use reactor::process::status::ExitStatus;
#[cfg(unix)]
pub use reactor::process::{Process, ProcessProtocol};
pub use reactor::random::Random;
pub use reactor::remote::{CallError, Remote, SendError};
pub use reactor::shutdown::ShutdownPhase;
#[cfg(unix)]
pub use reactor::signals::{Signal, SignalHook};
pub use reactor::stats::{LagHistogram, Stats, SystemCalls};
pub use reactor::stream::{ReadHalf, ServeOptions, Served, Stream, StreamProtocol, WriteHalf};
pub use reactor::sync;
pub use reactor::task::{self, Task, run};
pub use reactor::threads::JobError;
pub use reactor::timers::{CancelOnDrop, DelayedCall};
pub use reactor::transport::{Transport, TransportId, TransportStats};
pub use reactor::typed::Connection;
#[cfg(feature = "hyper")]
pub use reactor::with_hyper::{HyperExecutor, HyperTimer};
#[cfg(feature = "tokio")]
pub use reactor::with_tokio::WithTokio;
#[cfg(unix)]
pub use service::daemon::log::Log;
#[cfg(unix)]
pub use service::daemon::running::DaemonHandle;
#[cfg(unix)]
pub use service::daemon::{Daemon, DaemonError};
pub use service::reactors::{Reactors, ReactorsBuilder};
pub use service::ready_made::{ClientService, ListenService, ServiceFn, TimerService};
pub use service::reconnecting::{Backoff, ReconnectingClient, ReconnectingClientBuilder};
pub use service::tree::{Progress, Service, ServiceError, ServiceGroup, ServiceId};
#[cfg(unix)]
pub use sys::terminal::{MouseReports, RawMode, RawModeBuilder, WindowSize};
pub use sys::thread_pool::ThreadPool;
pub use try_protocol::{Fallible, TryProtocol};
