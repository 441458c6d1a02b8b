//! [`FramedProtocol`]: a codec and a handler, joined to a protocol of the reactor.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::{ControlFlow, Deref, DerefMut};
use std::rc::Rc;

use twistor::bytes::Bytes;
use twistor::{Eof, OnTimeout, Protocol, Reason, Timeout, Transport};

use crate::buffer::{FrameBuffer, FrameError};
use crate::codec::Codec;

/// What one connection does with frames: the hooks of a [`Protocol`], with frames in place of bytes.
///
/// The order of calls and all rules are those of [`Protocol`]. [`FramedProtocol`] has an example.
pub trait FrameHandler<C: Codec>: 'static {
    /// The connection is there.
    fn made(&mut self, io: &Framed<C>) {
        let _ = io;
    }

    /// A frame arrived.
    fn frame(&mut self, io: &Framed<C>, frame: C::Frame<'_>);

    /// What arrived is no frame. There may be a last word to say; then the connection is closed. The default
    /// [fails](Transport::fail) it with the error.
    fn malformed(&mut self, io: &Framed<C>, error: FrameError<C::Error>) {
        io.fail(error);
    }

    /// See [`Protocol::tls_started`].
    #[cfg(feature = "tls")]
    fn tls_started(&mut self, io: &Framed<C>, tls: &twistor::tls::TlsInfo) {
        let _ = (io, tls);
    }

    /// The peer has finished sending; `rest` is the beginning of a frame that it did not complete, usually
    /// empty.
    fn eof(&mut self, io: &Framed<C>, rest: &[u8]) -> Eof {
        let _ = (io, rest);
        Eof::Close
    }

    /// See [`Protocol::pause_writing`].
    fn pause_writing(&mut self, io: &Framed<C>) {
        let _ = io;
    }

    /// See [`Protocol::resume_writing`].
    fn resume_writing(&mut self, io: &Framed<C>) {
        let _ = io;
    }

    /// See [`Protocol::timed_out`].
    fn timed_out(&mut self, io: &Framed<C>, which: Timeout) -> OnTimeout {
        let _ = (io, which);
        OnTimeout::Abort
    }

    /// See [`Protocol::shutting_down`].
    fn shutting_down(&mut self, io: &Framed<C>) {
        io.lose_connection();
    }

    /// The connection is over.
    fn lost(&mut self, io: &Framed<C>, reason: &Reason) {
        let _ = (io, reason);
    }
}

/// Where the connection is between bytes and frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nothing is being decoded: an incomplete frame, if there is one, is in the buffer.
    Waiting,
    /// The frames of a chunk are being handed to the handler.
    Decoding,
    /// The connection has been given to another protocol.
    HandedOver,
}

/// What a framed protocol and its handles share.
struct State<C> {
    codec: RefCell<C>,
    buffer: RefCell<FrameBuffer>,
    stage: Cell<Stage>,
    /// Given back by the hook that runs; goes before the rest of its chunk.
    given_back: RefCell<Vec<Bytes>>,
    /// Whether what is in the buffer came protected by TLS.
    is_secure: Cell<bool>,
}

/// A connection that speaks in frames: what hooks get, and what a clone can be kept of to send from
/// elsewhere.
///
/// It derefs to its [`Transport`], so that everything a transport does is done with it as well.
pub struct Framed<C> {
    transport: Transport,
    state: Rc<State<C>>,
}

impl<C: Codec> Framed<C> {
    /// Queues a frame. Dropped when the connection is closing or lost.
    ///
    /// # Errors
    ///
    /// The codec cannot express it; nothing is written.
    pub fn send(&self, frame: C::Out<'_>) -> Result<(), C::Error> {
        self.state.codec.borrow_mut().encode(frame, &mut &self.transport)
    }

    /// Calls `f` with the codec, to ask or to change its settings. What changes holds from the next frame on.
    ///
    /// # Panics
    ///
    /// `f` itself uses the codec, by sending for instance.
    pub fn with_codec<R>(&self, f: impl FnOnce(&mut C) -> R) -> R {
        self.state.buffer.borrow_mut().look_again();
        f(&mut self.state.codec.borrow_mut())
    }

    /// Gives back bytes that belong to what follows: they are decoded again, before anything that arrived
    /// behind them.
    pub fn unread(&self, bytes: impl Into<Bytes>) {
        if self.state.stage.get() == Stage::Decoding {
            self.state.given_back.borrow_mut().push(bytes.into());
        } else {
            self.decode_again();
            self.transport.unread(bytes);
        }
    }

    /// Replaces the protocol of the connection, as [`Transport::switch_protocol`]. No further frame is
    /// decoded: the bytes behind the current one, and an incomplete frame, go to the new protocol. Called on
    /// the transport itself from outside a frame hook, an incomplete frame would be dropped with this
    /// protocol.
    pub fn switch_protocol(&self, protocol: impl Protocol) {
        self.switch_boxed(Box::new(protocol));
    }

    /// The same for a protocol that is boxed already.
    pub fn switch_boxed(&self, protocol: Box<dyn Protocol>) {
        self.decode_again();
        self.state.stage.set(Stage::HandedOver);
        self.transport.switch_boxed(protocol);
    }

    /// Has an incomplete frame delivered once more. In a hook for a frame there is none.
    pub(crate) fn decode_again(&self) {
        self.transport.unread(self.state.buffer.borrow_mut().take());
    }

    /// The transport.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Whether the handler is to get the next frame now.
    fn goes_on(&self) -> bool {
        self.state.stage.get() == Stage::Decoding
            && self.state.given_back.borrow().is_empty()
            && self.transport.is_reading()
            && !self.transport.is_switching()
            && !self.transport.is_closing()
    }
}

impl<C> Clone for Framed<C> {
    fn clone(&self) -> Self {
        Self { transport: self.transport.clone(), state: Rc::clone(&self.state) }
    }
}

impl<C> Deref for Framed<C> {
    type Target = Transport;

    fn deref(&self) -> &Transport {
        &self.transport
    }
}

impl<C> fmt::Debug for Framed<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Framed").field(&self.transport).finish()
    }
}

/// A [`Protocol`] that decodes frames with a [`Codec`] and hands them to a [`FrameHandler`].
///
/// It derefs to the handler, so that a closure [posted](twistor::Connection::post) to the connection finds
/// the handler's own fields and methods.
///
/// ```
/// use twistor::Reactor;
/// use twistor_protocols::{FrameHandler, Framed, FramedProtocol, LineCodec, LineFrame};
///
/// struct Count(usize);
///
/// impl FrameHandler<LineCodec> for Count {
///     fn frame(&mut self, io: &Framed<LineCodec>, frame: LineFrame<'_>) {
///         if let LineFrame::Line(_) = frame {
///             self.0 += 1;
///             io.send_line(format!("{} so far", self.0));
///         }
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// reactor.listen("tcp:0:interface=127.0.0.1", |_| FramedProtocol::with_codec(LineCodec::new(), Count(0)))?;
/// # Ok(())
/// # }
/// ```
pub struct FramedProtocol<C, H> {
    handler: H,
    state: Rc<State<C>>,
}

impl<C: Codec, H: FrameHandler<C>> FramedProtocol<C, H> {
    /// Hands frames to `handler`, with the codec's default settings.
    pub fn new(handler: H) -> Self
    where
        C: Default,
    {
        Self::with_codec(C::default(), handler)
    }

    /// Hands the frames of `codec` to `handler`.
    pub fn with_codec(codec: C, handler: H) -> Self {
        let state = State {
            codec: RefCell::new(codec),
            buffer: RefCell::default(),
            stage: Cell::new(Stage::Waiting),
            given_back: RefCell::default(),
            is_secure: Cell::new(false),
        };
        Self { handler, state: Rc::new(state) }
    }

    /// What the hooks of the handler are given, for closures that come to the protocol with its transport.
    #[must_use]
    pub fn io(&self, transport: &Transport) -> Framed<C> {
        Framed { transport: transport.clone(), state: Rc::clone(&self.state) }
    }
}

impl<C: Codec, H: FrameHandler<C>> Protocol for FramedProtocol<C, H> {
    fn connection_made(&mut self, transport: &Transport) {
        let io = self.io(transport);
        self.handler.made(&io);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let io = self.io(transport);
        let state = &*self.state;
        // Moved out: hooks may ask for it.
        let mut buffer = state.buffer.take();
        let is_secure = transport.is_secure();
        if state.is_secure.replace(is_secure) != is_secure && !buffer.is_empty() {
            // Somebody may have put the beginning of a frame there in the clear, for the peer to complete.
            transport.fail("TLS began in the middle of a frame");
            return;
        }
        state.stage.set(Stage::Decoding);
        let outcome = buffer.feed(&state.codec, data, |frame| {
            self.handler.frame(&io, frame);
            if io.goes_on() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        if state.stage.get() == Stage::Decoding {
            state.stage.set(Stage::Waiting);
        }
        match outcome {
            Ok(rest) => {
                state.buffer.replace(buffer);
                transport.unread(rest);
                for bytes in state.given_back.take() {
                    transport.unread(bytes);
                }
            }
            Err(error) => {
                self.handler.malformed(&io, error);
                // Where the next frame would begin is unknown.
                transport.lose_connection();
            }
        }
    }

    #[cfg(feature = "tls")]
    fn tls_started(&mut self, transport: &Transport, tls: &twistor::tls::TlsInfo) {
        let io = self.io(transport);
        self.handler.tls_started(&io, tls);
    }

    fn eof_received(&mut self, transport: &Transport) -> Eof {
        let io = self.io(transport);
        let rest = self.state.buffer.borrow_mut().take();
        self.handler.eof(&io, &rest)
    }

    fn pause_writing(&mut self, transport: &Transport) {
        let io = self.io(transport);
        self.handler.pause_writing(&io);
    }

    fn resume_writing(&mut self, transport: &Transport) {
        let io = self.io(transport);
        self.handler.resume_writing(&io);
    }

    fn timed_out(&mut self, transport: &Transport, which: Timeout) -> OnTimeout {
        let io = self.io(transport);
        self.handler.timed_out(&io, which)
    }

    fn shutting_down(&mut self, transport: &Transport) {
        let io = self.io(transport);
        self.handler.shutting_down(&io);
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        let io = self.io(transport);
        self.handler.lost(&io, reason);
    }
}

impl<C, H> Deref for FramedProtocol<C, H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.handler
    }
}

impl<C, H> DerefMut for FramedProtocol<C, H> {
    fn deref_mut(&mut self) -> &mut H {
        &mut self.handler
    }
}

impl<C, H: fmt::Debug> fmt::Debug for FramedProtocol<C, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FramedProtocol").field("handler", &self.handler).finish_non_exhaustive()
    }
}
