//! Serving and connecting with tasks: [`Handle::serve`] and [`Handle::open`].

use std::any::Any;
use std::cell::{Cell, OnceCell};
use std::fmt;
use std::io;
use std::panic::Location;
use std::rc::Rc;

use super::shared::Shared;
use super::{Stream, StreamProtocol};
use crate::core::address::Address;
use crate::endpoint::{IntoConnectEndpoint, IntoListenEndpoint};
use crate::net::timeouts::Timeouts;
use crate::protocol::{Factory, Peer};
use crate::reactor::connect_error::ConnectError;
use crate::reactor::connecting;
use crate::reactor::deferred::Deferred;
use crate::reactor::handle::Handle;
use crate::reactor::listening::{Hold, Port};

/// Limits of a port that [serves with tasks](Handle::serve_with).
///
/// ```
/// use std::time::Duration;
/// use twistor::{Reactor, ServeOptions, Stream, Timeouts};
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// let options = ServeOptions::new()
///     .max_connections(100)
///     .timeouts(Timeouts::new().idle(Duration::from_secs(60)));
/// reactor.serve_with(options, "tcp:0:interface=127.0.0.1", async |stream: Stream| {
///     let _ = stream.write_all(b"welcome\r\n").await;
/// })?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct ServeOptions {
    max_connections: usize,
    timeouts: Timeouts,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ServeOptions {
    /// As many connections as there are descriptors, and no time-outs.
    pub fn new() -> Self {
        Self { max_connections: usize::MAX, timeouts: Timeouts::new() }
    }

    /// At most so many connections at a time, at least one. While there are, nothing is accepted: further
    /// connections wait in the kernel. One counts until its task has ended and it is lost itself: also while
    /// its last output is on the way.
    pub fn max_connections(mut self, count: usize) -> Self {
        self.max_connections = count.max(1);
        self
    }

    /// The time-outs of each connection.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }
}

/// What the task of a connection may return: nothing, or whether it went well.
///
/// A task that loops for ever has to say which: `async |stream: Stream| -> io::Result<()> { loop { … } }`.
#[diagnostic::on_unimplemented(
    message = "the task of a connection returns `()` or `Result<(), E>` with an error that can be displayed, not `{Self}`",
    label = "returns `{Self}`",
    note = "where `?` is used, end the task with `Ok::<_, std::io::Error>(())`",
    note = "a task that loops for ever says which: `async |stream: Stream| -> std::io::Result<()> {{ loop {{ … }} }}`"
)]
pub trait Served {
    /// Writes down what went wrong.
    #[doc(hidden)]
    fn log(self, peer: &Address);
}

impl Served for () {
    fn log(self, _: &Address) {}
}

impl<E: fmt::Display> Served for Result<(), E> {
    fn log(self, peer: &Address) {
        if let Err(error) = self {
            log::debug!("{peer}: the task that served it failed: {error}");
        }
    }
}

/// The connections of one port.
struct Admission {
    limit: usize,
    count: Cell<usize>,
    port: OnceCell<Port>,
}

/// One of them; there is room for another when its task and its protocol have dropped it.
struct Admitted(Rc<Admission>);

impl Admitted {
    fn new(admission: &Rc<Admission>) -> Self {
        admission.count.set(admission.count.get() + 1);
        if admission.count.get() >= admission.limit
            && let Some(port) = admission.port.get()
        {
            port.hold(Hold::Full);
        }
        Self(Rc::clone(admission))
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let count = self.0.count.get();
        self.0.count.set(count - 1);
        if count == self.0.limit
            && let Some(port) = self.0.port.get()
        {
            port.release(Hold::Full);
        }
    }
}

/// Makes the protocol that starts a task for each connection.
struct Serving<F> {
    handler: Rc<F>,
    timeouts: Timeouts,
    /// Without a limit nobody counts.
    admission: Option<Rc<Admission>>,
    served_at: &'static Location<'static>,
}

impl<R: Served + 'static, F: AsyncFn(Stream) -> R + 'static> Factory for Serving<F> {
    type Protocol = StreamProtocol;

    fn build_protocol(&mut self, peer: Peer) -> Option<StreamProtocol> {
        let handler = Rc::clone(&self.handler);
        let timeouts = self.timeouts;
        let served_at = self.served_at;
        let admitted = self.admission.as_ref().map(|admission| Rc::new(Admitted::new(admission)));
        let kept = admitted.clone().map(|admitted| admitted as Rc<dyn Any>);
        let protocol = StreamProtocol::new(move |stream| {
            if !timeouts.is_empty() {
                stream.transport().set_timeouts(timeouts);
            }
            let handle = peer.reactor.clone();
            let serving = async move {
                let _admitted = admitted;
                handler(stream).await.log(&peer.address);
            };
            handle.spawn_at(served_at, serving).detach();
        });
        Some(protocol.keeping(kept))
    }
}

impl Handle {
    /// Listens at `endpoint`, and runs a task for each connection: the future that `handler` makes of its
    /// stream.
    ///
    /// The endpoint is whatever [`listen`](Self::listen) takes. When the task ends, the connection does, in
    /// good order (unless it gave the stream to somebody else). An error that it returns is logged at the
    /// level debug, with the peer: that a peer goes away is no news. A task that panics ends only its own
    /// connection.
    ///
    /// ```
    /// use twistor::{Reactor, Stream};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let port = reactor.serve("tcp:0:interface=127.0.0.1", async |stream: Stream| {
    ///     stream.write_all(b"hello\r\n").await
    /// })?;
    /// let address = port.local_addr();
    /// let handle = reactor.clone();
    /// reactor.spawn(async move {
    ///     let stream = handle.connect_stream(format!("tcp:{address}")).await.expect("a connection");
    ///     assert_eq!(stream.read_line(80).await.expect("a line").as_deref(), Some("hello"));
    ///     handle.stop();
    /// });
    /// reactor.run()
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`listen`](Self::listen).
    #[track_caller]
    pub fn serve<R: Served + 'static>(
        &self,
        endpoint: impl IntoListenEndpoint,
        handler: impl AsyncFn(Stream) -> R + 'static,
    ) -> io::Result<Port> {
        self.serve_with(ServeOptions::new(), endpoint, handler)
    }

    /// As [`serve`](Self::serve), with limits.
    ///
    /// # Errors
    ///
    /// As [`listen`](Self::listen).
    #[track_caller]
    pub fn serve_with<R: Served + 'static>(
        &self,
        options: ServeOptions,
        endpoint: impl IntoListenEndpoint,
        handler: impl AsyncFn(Stream) -> R + 'static,
    ) -> io::Result<Port> {
        let limit = options.max_connections;
        let admission = (limit < usize::MAX)
            .then(|| Rc::new(Admission { limit, count: Cell::new(0), port: OnceCell::new() }));
        let serving = Serving {
            handler: Rc::new(handler),
            timeouts: options.timeouts,
            admission: admission.clone(),
            served_at: Location::caller(),
        };
        let port = self.listen(endpoint, serving)?;
        if let Some(admission) = admission {
            admission.port.get_or_init(|| port.clone());
        }
        Ok(port)
    }

    /// Connects to `endpoint`, which is whatever [`connect`](Self::connect) takes. The outcome is the stream,
    /// or why there is none. Cancelling the Deferred ends the attempt.
    ///
    /// ```no_run
    /// # async fn fetch(reactor: &twistor::Handle) -> Result<(), Box<dyn std::error::Error>> {
    /// let stream = reactor.connect_stream("tcp:example.com:80").await?;
    /// stream.write_all(b"GET / HTTP/1.0\r\nHost: example.com\r\n\r\n").await?;
    /// let answer = stream.read_to_end(1 << 20).await?;
    /// println!("{} bytes", answer.len());
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn connect_stream(&self, endpoint: impl IntoConnectEndpoint) -> Deferred<Stream, ConnectError> {
        let shared = Shared::new();
        let mut protocol = Some(StreamProtocol::of(&shared));
        let factory = move |_: Peer| protocol.take();
        connecting::connect_erased(
            self,
            self.connect_endpoint(endpoint),
            Box::new(factory),
            move |transport| {
                shared.attach(&transport);
                Stream::of(&shared)
            },
        )
    }
}
