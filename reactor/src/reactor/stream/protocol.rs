//! [`StreamProtocol`]: the protocol behind a stream, which takes part in everything that takes protocols.

use std::any::Any;
use std::fmt;
use std::rc::Rc;

use super::Stream;
use super::shared::{InputEnd, Shared};
#[cfg(feature = "tls")]
use crate::net::connection::End;
use crate::net::reason::Reason;
use crate::protocol::{Eof, Protocol};
use crate::reactor::transport::Transport;
#[cfg(feature = "tls")]
use crate::tls::TlsError;
#[cfg(feature = "tls")]
use crate::tls::TlsInfo;

/// A protocol that makes a [`Stream`] of its connection and hands it out when the connection is made.
///
/// [`Handle::connect_stream`](crate::Handle::connect_stream) and [`Handle::serve`](crate::Handle::serve) are
/// made of it. It is for whatever else takes a protocol: a reconnecting client, an adopted descriptor, a kind
/// of endpoint of one's own.
///
/// ```no_run
/// use twistor::{Reactor, Stream, StreamProtocol};
///
/// async fn talk(stream: Stream) {
///     if let Ok(Some(line)) = stream.read_line(1024).await {
///         println!("{line:?}");
///     }
/// }
///
/// # #[cfg(unix)]
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// let handle = reactor.clone();
/// reactor.stdio(StreamProtocol::new(move |stream| drop(handle.spawn(talk(stream)))))?;
/// # Ok(())
/// # }
/// # #[cfg(not(unix))]
/// # fn main() {}
/// ```
pub struct StreamProtocol {
    shared: Rc<Shared>,
    /// Until the connection is made.
    hand_out: Option<Box<dyn FnOnce(Stream)>>,
    /// Dropped with it.
    kept: Option<Rc<dyn Any>>,
}

impl StreamProtocol {
    /// Calls `hand_out` with the stream in `connection_made`.
    pub fn new(hand_out: impl FnOnce(Stream) + 'static) -> Self {
        Self { shared: Shared::new(), hand_out: Some(Box::new(hand_out)), kept: None }
    }

    /// Keeps something as long as the connection is there.
    pub(super) fn keeping(mut self, kept: Option<Rc<dyn Any>>) -> Self {
        self.kept = kept;
        self
    }

    /// The protocol of a stream that exists already.
    pub(super) fn of(shared: &Rc<Shared>) -> Self {
        Self { shared: Rc::clone(shared), hand_out: None, kept: None }
    }
}

impl fmt::Debug for StreamProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamProtocol").field("handed_out", &self.hand_out.is_none()).finish_non_exhaustive()
    }
}

impl Protocol for StreamProtocol {
    fn connection_made(&mut self, transport: &Transport) {
        self.shared.attach(transport);
        if transport.has_ended() {
            self.shared.end_input(InputEnd::Peer);
        }
        if !transport.is_reading() {
            // As the protocol left it that was here before.
            transport.resume_reading();
        }
        if let Some(hand_out) = self.hand_out.take() {
            hand_out(Stream::of(&self.shared));
        }
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.shared.received(transport, data);
    }

    #[cfg(feature = "tls")]
    fn tls_started(&mut self, transport: &Transport, _: &TlsInfo) {
        // What nobody has read yet came in the clear, and would be taken for the peer's from now on.
        if self.shared.drop_injected() {
            transport.end(Reason::Tls(TlsError::Injected), End::Abrupt);
        }
    }

    fn eof_received(&mut self, _: &Transport) -> Eof {
        self.shared.end_input(InputEnd::Peer);
        // Whoever holds the stream ends our side by dropping it.
        Eof::KeepOpen
    }

    fn resume_writing(&mut self, _: &Transport) {
        self.shared.writers.wake();
    }

    fn shutting_down(&mut self, _: &Transport) {
        if !self.shared.outlasts_stop.get() {
            self.shared.end_input(InputEnd::Stopping);
        }
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        self.shared.lose(reason);
    }
}

impl Drop for StreamProtocol {
    /// Without a loss: another protocol has taken its place, or the reactor is gone.
    fn drop(&mut self) {
        if !self.shared.is_lost() {
            let lost = self.shared.known_transport().and_then(Transport::loss);
            let reason =
                lost.unwrap_or_else(|| Reason::failed("another protocol has taken the connection over"));
            self.shared.lose(&reason);
        }
    }
}
