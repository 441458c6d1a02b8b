//! The traits that users implement: [`Protocol`], what a connection does; [`Factory`], what makes one.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use crate::core::address::Address;
use crate::net::reason::Reason;
use crate::net::timeouts::Timeout;
use crate::reactor::handle::Handle;
use crate::reactor::transport::Transport;

/// What one connection does: its hooks are called by the reactor, one at a time, never from inside another
/// call.
///
/// The order is: [`connection_made`](Self::connection_made) once, then any of the others, then
/// [`connection_lost`](Self::connection_lost) once and last. Nothing but `connection_lost` is called after
/// the transport was told to close.
///
/// Everything a hook writes goes out when it returns. State that belongs to the connection lives in `self`;
/// [`Transport::call_later`], [`Transport::connection`] and [`Connection::post`](crate::Connection::post)
/// lead back to it from timers and from other connections.
///
/// ```
/// use twistor::{Protocol, Transport};
///
/// struct Greeter {
///     name: String,
/// }
///
/// impl Protocol for Greeter {
///     fn connection_made(&mut self, transport: &Transport) {
///         write!(transport, "hello, this is {}\r\n", self.name);
///     }
///
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         transport.write(data);
///         transport.lose_connection();
///     }
/// }
/// ```
pub trait Protocol: Any {
    /// The connection is there.
    fn connection_made(&mut self, transport: &Transport) {
        let _ = transport;
    }

    /// Bytes arrived: at least one, in order, cut at no place that means anything.
    fn data_received(&mut self, transport: &Transport, data: &[u8]);

    /// A descriptor arrived that the peer passed, before the bytes that it rode on. Only Unix sockets whose
    /// endpoint [asks for them](crate::endpoint::UnixListen::descriptors) bring any. What is not kept is
    /// closed.
    #[cfg(unix)]
    fn descriptor_received(&mut self, transport: &Transport, descriptor: std::os::fd::OwnedFd) {
        let _ = (transport, descriptor);
    }

    /// The handshake that [`Transport::start_tls_server`] or [`Transport::start_tls_client`] began is
    /// complete, and the peer has proved what was asked of it: what is received and written from here on is
    /// protected. On a connection that has TLS from its beginning this is over before `connection_made`.
    #[cfg(feature = "tls")]
    fn tls_started(&mut self, transport: &Transport, tls: &crate::tls::TlsInfo) {
        let _ = (transport, tls);
    }

    /// The peer has finished sending. What is returned decides about our direction.
    fn eof_received(&mut self, transport: &Transport) -> Eof {
        let _ = transport;
        Eof::Close
    }

    /// More is queued than the high mark, after the kernel took what it would: whoever produces should stop
    /// until [`resume_writing`](Self::resume_writing). While the kernel takes everything at once neither is
    /// called; a producer that wants to be called again in any case asks for [`Transport::flushed`].
    fn pause_writing(&mut self, transport: &Transport) {
        let _ = transport;
    }

    /// The queue has fallen to the low mark: producing may go on.
    fn resume_writing(&mut self, transport: &Transport) {
        let _ = transport;
    }

    /// A time-out set with [`Transport::set_timeouts`] has passed.
    fn timed_out(&mut self, transport: &Transport, which: Timeout) -> OnTimeout {
        let _ = (transport, which);
        OnTimeout::Abort
    }

    /// The reactor is stopping. A protocol with work to finish may keep the connection up to the drain
    /// time-out.
    fn shutting_down(&mut self, transport: &Transport) {
        transport.lose_connection();
    }

    /// The connection is over. Its descriptor is closed; its addresses can still be read.
    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        let _ = (transport, reason);
    }

    /// The type's name, for the log.
    #[doc(hidden)]
    fn type_name(&self) -> &'static str {
        std::any::type_name::<Self>()
    }
}

impl fmt::Debug for dyn Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.type_name())
    }
}

/// What to do with our direction of a connection whose peer has finished sending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Eof {
    /// Flush what is written, then close.
    Close,
    /// Keep writing. The connection ends when our side does.
    KeepOpen,
}

/// What to do with a connection whose time-out passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnTimeout {
    /// Abort it: what is queued is dropped.
    Abort,
    /// Flush what is written (a last word, perhaps), then close.
    Close,
    /// Keep it; this time-out starts over.
    Keep,
}

/// Who is at the other end of a connection that is about to get its protocol.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Peer {
    /// The address of the other end.
    pub address: Address,
    /// Our own address of this connection.
    pub local: Address,
    /// The listening port it came through; `None` for a connection made from here.
    pub port: Option<Address>,
    /// What the handshake has agreed on, on a connection with TLS.
    #[cfg(feature = "tls")]
    pub tls: Option<crate::tls::TlsInfo>,
    /// The reactor.
    pub reactor: Handle,
}

impl Peer {
    pub(crate) fn new(address: Address, local: Address, port: Option<Address>, reactor: Handle) -> Self {
        Self {
            address,
            local,
            port,
            #[cfg(feature = "tls")]
            tls: None,
            reactor,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// Makes the protocol of each new connection.
///
/// A closure that takes a [`Peer`] and returns a protocol (or an `Option` of one) is a factory.
pub trait Factory: 'static {
    /// What it makes.
    type Protocol: Protocol;

    /// The protocol for a new connection; `None` closes it quietly.
    fn build_protocol(&mut self, peer: Peer) -> Option<Self::Protocol>;

    /// The first port or connector that uses this factory has started.
    fn started(&mut self) {}

    /// The last port or connector that used this factory has ended.
    fn stopped(&mut self) {}
}

/// What a closure may return to be a [`Factory`]: a protocol or an `Option` of one.
pub trait IntoProtocol {
    /// The protocol.
    type Protocol: Protocol;

    /// The protocol, if there is one.
    fn into_protocol(self) -> Option<Self::Protocol>;
}

impl<P: Protocol> IntoProtocol for P {
    type Protocol = P;

    fn into_protocol(self) -> Option<P> {
        Some(self)
    }
}

impl<P: Protocol> IntoProtocol for Option<P> {
    type Protocol = P;

    fn into_protocol(self) -> Option<P> {
        self
    }
}

impl<R: IntoProtocol, F: FnMut(Peer) -> R + 'static> Factory for F {
    type Protocol = R::Protocol;

    fn build_protocol(&mut self, peer: Peer) -> Option<R::Protocol> {
        self(peer).into_protocol()
    }
}

/// One factory for several ports and connectors: each clone counts as a use of the same factory.
///
/// [`Factory::started`] is called when the first of them starts and [`Factory::stopped`] when the last ends.
///
/// ```
/// use twistor::{Protocol, Reactor, SharedFactory, Transport};
///
/// struct Echo;
/// impl Protocol for Echo {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         transport.write(data);
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// let factory = SharedFactory::new(|_| Echo);
/// reactor.listen("tcp:0:interface=127.0.0.1", factory.clone())?;
/// reactor.listen("tcp:0:interface=127.0.0.1", factory)?;
/// # Ok(())
/// # }
/// ```
pub struct SharedFactory<F> {
    shared: Rc<Shared<F>>,
}

struct Shared<F> {
    factory: RefCell<F>,
    uses: Cell<usize>,
}

impl<F: Factory> SharedFactory<F> {
    /// Makes `factory` shareable.
    pub fn new(factory: F) -> Self {
        Self { shared: Rc::new(Shared { factory: RefCell::new(factory), uses: Cell::new(0) }) }
    }
}

impl<F> Clone for SharedFactory<F> {
    fn clone(&self) -> Self {
        Self { shared: Rc::clone(&self.shared) }
    }
}

impl<F> fmt::Debug for SharedFactory<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedFactory").field("uses", &self.shared.uses.get()).finish_non_exhaustive()
    }
}

impl<F: Factory> Factory for SharedFactory<F> {
    type Protocol = F::Protocol;

    fn build_protocol(&mut self, peer: Peer) -> Option<F::Protocol> {
        self.shared.factory.borrow_mut().build_protocol(peer)
    }

    fn started(&mut self) {
        self.shared.uses.set(self.shared.uses.get() + 1);
        if self.shared.uses.get() == 1 {
            self.shared.factory.borrow_mut().started();
        }
    }

    fn stopped(&mut self) {
        self.shared.uses.set(self.shared.uses.get() - 1);
        if self.shared.uses.get() == 0 {
            self.shared.factory.borrow_mut().stopped();
        }
    }
}

/// A factory whose protocol type is forgotten.
pub(crate) trait ErasedFactory {
    fn build(&mut self, peer: Peer) -> Option<Box<dyn Protocol>>;
    fn started(&mut self);
    fn stopped(&mut self);
}

impl<F: Factory> ErasedFactory for F {
    fn build(&mut self, peer: Peer) -> Option<Box<dyn Protocol>> {
        self.build_protocol(peer).map(|protocol| Box::new(protocol) as Box<dyn Protocol>)
    }

    fn started(&mut self) {
        Factory::started(self);
    }

    fn stopped(&mut self) {
        Factory::stopped(self);
    }
}
