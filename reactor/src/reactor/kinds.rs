//! Kinds of endpoints that a program or a library adds to a reactor.

use std::fmt;
use std::io;
use std::rc::Rc;

use crate::endpoint::{Arguments, CONNECT_KINDS, IntoConnectEndpoint, IntoListenEndpoint, LISTEN_KINDS};
use crate::protocol::{ErasedFactory, Factory, Peer, Protocol};
use crate::reactor::connect_error::ConnectError;
use crate::reactor::connecting;
use crate::reactor::deferred::Deferred;
use crate::reactor::handle::Handle;
use crate::reactor::inner::Inner;
use crate::reactor::listening::Port;
use crate::reactor::transport::Transport;

type ListenKind = Rc<dyn Fn(&Handle, &Arguments, AnyFactory) -> io::Result<Port>>;
type ConnectKind = Rc<dyn Fn(&Handle, &Arguments, AnyFactory) -> Deferred<Transport, ConnectError>>;

/// The kinds that were added.
#[derive(Default)]
pub(crate) struct Kinds {
    listen: Vec<(String, ListenKind)>,
    connect: Vec<(String, ConnectKind)>,
}

/// A [`Factory`] whose protocol type is forgotten: what a kind of endpoint is given, to be passed on or
/// [wrapped](Self::wrap).
pub struct AnyFactory(Box<dyn ErasedFactory>);

impl AnyFactory {
    /// Forgets the type.
    pub fn new(factory: impl Factory) -> Self {
        Self(Box::new(factory))
    }

    pub(crate) fn of(factory: Box<dyn ErasedFactory>) -> Self {
        Self(factory)
    }

    pub(crate) fn into_inner(self) -> Box<dyn ErasedFactory> {
        self.0
    }

    /// Puts a protocol in front of each that the factory builds. The one in front passes the connection on
    /// with [`Transport::switch_boxed`] when it has done its part.
    #[must_use]
    pub fn wrap<P: Protocol>(self, wrap: impl FnMut(Box<dyn Protocol>, &Peer) -> P + 'static) -> Self {
        Self(Box::new(Wrapped { factory: self.0, wrap: Box::new(wrap) }))
    }
}

impl fmt::Debug for AnyFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyFactory")
    }
}

struct Wrapped<P> {
    factory: Box<dyn ErasedFactory>,
    wrap: Box<dyn FnMut(Box<dyn Protocol>, &Peer) -> P>,
}

impl<P: Protocol> Factory for Wrapped<P> {
    type Protocol = P;

    fn build_protocol(&mut self, peer: Peer) -> Option<P> {
        let protocol = self.factory.build(peer.clone())?;
        Some((self.wrap)(protocol, &peer))
    }

    fn started(&mut self) {
        self.factory.started();
    }

    fn stopped(&mut self) {
        self.factory.stopped();
    }
}

impl Handle {
    /// Adds a kind of endpoint to listen on: strings that begin with `kind:` are handed to `listen`.
    ///
    /// The closure is called inside the call of [`listen`](Self::listen), whose result it makes: the one
    /// place where a method runs a user's code. It must not borrow what its callers may have borrowed.
    ///
    /// ```
    /// use twistor::endpoint::Arguments;
    /// use twistor::{AnyFactory, Handle, Protocol, Reactor, Transport};
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
    /// // "local:PORT" is short for the TCP port on the loopback address.
    /// reactor.add_listen_kind("local", |reactor, arguments, factory| {
    ///     let port = arguments.argument(0).unwrap_or("0");
    ///     reactor.listen_any(format!("tcp:{port}:interface=127.0.0.1"), factory)
    /// })?;
    /// let port = reactor.listen("local:0", |_| Echo)?;
    /// assert!(port.local_addr().ip().unwrap().is_loopback());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// There is such a kind already, or the name is empty or has a character in it that is no letter, digit,
    /// `_`, `-`, `+` or `.`; the reactor is gone.
    pub fn add_listen_kind(
        &self,
        kind: &str,
        listen: impl Fn(&Self, &Arguments, AnyFactory) -> io::Result<Port> + 'static,
    ) -> io::Result<()> {
        let inner = self.alive()?;
        let mut kinds = inner.kinds.borrow_mut();
        check(kind, &LISTEN_KINDS, kinds.listen.iter().map(|(known, _)| known))?;
        kinds.listen.push((kind.to_owned(), Rc::new(listen)));
        Ok(())
    }

    /// Adds a kind of endpoint to connect to: strings that begin with `kind:` are handed to `connect`, by the
    /// loop. Cancelling what the caller got cancels the Deferred that `connect` returned.
    ///
    /// ```
    /// use twistor::{Protocol, Reactor, Transport};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// reactor.add_connect_kind("local", |reactor, arguments, factory| {
    ///     let port = arguments.argument(0).unwrap_or("0");
    ///     reactor.connect_any(format!("tcp:127.0.0.1:{port}"), factory)
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`add_listen_kind`](Self::add_listen_kind).
    pub fn add_connect_kind(
        &self,
        kind: &str,
        connect: impl Fn(&Self, &Arguments, AnyFactory) -> Deferred<Transport, ConnectError> + 'static,
    ) -> io::Result<()> {
        let inner = self.alive()?;
        let mut kinds = inner.kinds.borrow_mut();
        check(kind, &CONNECT_KINDS, kinds.connect.iter().map(|(known, _)| known))?;
        kinds.connect.push((kind.to_owned(), Rc::new(connect)));
        Ok(())
    }

    /// As [`listen`](Self::listen), with a factory whose type is forgotten.
    ///
    /// # Errors
    ///
    /// As [`listen`](Self::listen).
    pub fn listen_any(&self, endpoint: impl IntoListenEndpoint, factory: AnyFactory) -> io::Result<Port> {
        let inner = self.alive()?;
        let endpoint = inner.listen_endpoint(endpoint)?;
        inner.listen(&endpoint, factory.into_inner())
    }

    /// As [`connect`](Self::connect), with a factory whose type is forgotten.
    pub fn connect_any(
        &self,
        endpoint: impl IntoConnectEndpoint,
        factory: AnyFactory,
    ) -> Deferred<Transport, ConnectError> {
        connecting::connect_erased(self, self.connect_endpoint(endpoint), factory.into_inner(), |it| it)
    }

    /// The endpoint, which may be of an added kind.
    pub(crate) fn connect_endpoint(
        &self,
        endpoint: impl IntoConnectEndpoint,
    ) -> Result<crate::endpoint::ConnectEndpoint, crate::endpoint::EndpointError> {
        match self.inner() {
            Some(inner) => endpoint.of_added_kinds(&|kind| inner.kinds.borrow().connects(kind).is_some()),
            None => endpoint.into_connect_endpoint(),
        }
    }
}

fn check<'a>(kind: &str, known: &[&str], mut added: impl Iterator<Item = &'a String>) -> io::Result<()> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_-+.".contains(c);
    if kind.is_empty() || !kind.chars().all(is_allowed) {
        let text = format!("{kind:?} cannot be a kind of endpoint: it needs letters, digits, or one of _-+.");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    if known.contains(&kind) || added.any(|other| other == kind) {
        let text = format!("there is a kind of endpoint {kind:?} already");
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    Ok(())
}

impl Kinds {
    fn listens(&self, kind: &str) -> Option<ListenKind> {
        self.listen.iter().find(|(known, _)| known == kind).map(|(_, listen)| Rc::clone(listen))
    }

    fn connects(&self, kind: &str) -> Option<ConnectKind> {
        self.connect.iter().find(|(known, _)| known == kind).map(|(_, connect)| Rc::clone(connect))
    }
}

impl Inner {
    /// The endpoint, which may be of an added kind.
    pub(crate) fn listen_endpoint(
        &self,
        endpoint: impl IntoListenEndpoint,
    ) -> Result<crate::endpoint::ListenEndpoint, crate::endpoint::EndpointError> {
        endpoint.of_added_kinds(&|kind| self.kinds.borrow().listens(kind).is_some())
    }

    /// Has an added kind listen: the user's code, with nothing borrowed.
    pub(crate) fn listen_added(
        &self,
        arguments: &Arguments,
        factory: Box<dyn ErasedFactory>,
    ) -> io::Result<Port> {
        let kind = self.kinds.borrow().listens(arguments.kind());
        let kind = kind.ok_or_else(|| unknown(arguments))?;
        kind(&self.handle, arguments, AnyFactory::of(factory))
    }

    /// Has an added kind connect.
    pub(crate) fn connect_added(
        &self,
        arguments: &Arguments,
        factory: Box<dyn ErasedFactory>,
    ) -> io::Result<Deferred<Transport, ConnectError>> {
        let kind = self.kinds.borrow().connects(arguments.kind());
        let kind = kind.ok_or_else(|| unknown(arguments))?;
        let what = format!("the kind of endpoint {:?}", arguments.kind());
        let connecting = self.contain(&what, || kind(&self.handle, arguments, AnyFactory::of(factory)));
        connecting.ok_or_else(|| io::Error::other(format!("{what} panicked")))
    }
}

/// An endpoint of another reactor's kind.
fn unknown(arguments: &Arguments) -> io::Error {
    let text = arguments.error(format!("this reactor has no kind {:?}", arguments.kind()));
    io::Error::new(io::ErrorKind::InvalidInput, text)
}
