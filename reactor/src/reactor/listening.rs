//! Listening: from a `listen` call to the connections it brings, and the [`Port`] to steer it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;

use crate::core::address::Address;
use crate::core::slots::Token;
use crate::driver::{Driver, Interest, NewStream};
use crate::endpoint::ListenEndpoint;
use crate::net::backoff::AcceptBackoff;
use crate::net::reason::Reason;
use crate::protocol::{ErasedFactory, Peer, Protocol};
use crate::reactor::deferred::Deferred;
use crate::reactor::handle::Handle;
use crate::reactor::inner::{Inner, Slot};
#[cfg(unix)]
use crate::reactor::passing::PassedPort;
use crate::reactor::stats::Counters;
use crate::reactor::timers::{Timer, deadline};
use crate::reactor::transport::Transport;
use crate::reactor::watchdog::Hook;
#[cfg(feature = "tls")]
use crate::tls::TlsServer;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Accepting,
    /// For at least one reason.
    Paused(Holds),
    /// No descriptor was left; a timer will end the rest.
    Resting,
    Stopped,
}

/// Why a port leaves new connections to the kernel. One reason knows nothing of the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hold {
    /// The user's wish.
    User = 1,
    /// As many connections are there as are allowed.
    Full = 2,
    /// The process that had the port before still accepts.
    #[cfg(unix)]
    Predecessor = 4,
}

/// A set of reasons.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Holds(u8);

impl Holds {
    const fn with(self, hold: Hold) -> Self {
        Self(self.0 | hold as u8)
    }

    const fn without(self, hold: Hold) -> Self {
        Self(self.0 & !(hold as u8))
    }
}

impl fmt::Debug for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            Hold::User,
            Hold::Full,
            #[cfg(unix)]
            Hold::Predecessor,
        ];
        f.debug_set().entries(all.iter().filter(|&&hold| self.without(hold) != *self)).finish()
    }
}

const NO_HOLDS: Holds = Holds(0);

/// A listening port inside the reactor.
pub(crate) struct Listening {
    token: Token,
    address: Address,
    /// Whether accepted connections may have another local address than the port.
    any_address: bool,
    state: Cell<State>,
    backoff: RefCell<AcceptBackoff>,
    /// `None` while it builds a protocol, and after the end.
    factory: RefCell<Option<Box<dyn ErasedFactory>>>,
    factory_started: Cell<bool>,
    referenced: Cell<bool>,
    #[cfg(feature = "tls")]
    tls: RefCell<Option<TlsServer>>,
    /// How it is passed on to another process, if it can be.
    #[cfg(unix)]
    passing: RefCell<Option<PassedPort>>,
}

/// A listening port: ask where it is, pause it, stop it. Dropping it changes nothing.
#[derive(Clone)]
pub struct Port {
    handle: Handle,
    listening: Rc<Listening>,
}

impl Port {
    /// Where it listens; with the real port number when 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> Address {
        self.listening.address.clone()
    }

    /// Closes the port at once; connections accepted through it live on. The Deferred fires when the port
    /// number is free.
    #[track_caller]
    pub fn stop_listening(&self) -> Deferred<(), Reason> {
        let (resolver, deferred) = Deferred::new(&self.handle);
        if let Some(inner) = self.handle.inner() {
            inner.stop_listening(&self.listening);
        }
        resolver.resolve(Ok(()));
        deferred
    }

    /// Leaves new connections to the kernel's backlog until [`resume_accepting`](Self::resume_accepting).
    pub fn pause_accepting(&self) {
        self.hold(Hold::User);
    }

    /// Accepts again; if there is a [limit](crate::ServeOptions::max_connections) that is reached, as soon as
    /// there is room.
    pub fn resume_accepting(&self) {
        self.release(Hold::User);
    }

    /// There is a reason not to accept.
    pub(crate) fn hold(&self, hold: Hold) {
        match self.listening.state.get() {
            State::Accepting | State::Resting => {
                self.set_state(State::Paused(NO_HOLDS.with(hold)), Interest::NONE);
            }
            State::Paused(holds) => self.listening.state.set(State::Paused(holds.with(hold))),
            State::Stopped => {}
        }
    }

    /// That reason is gone.
    pub(crate) fn release(&self, hold: Hold) {
        if let State::Paused(holds) = self.listening.state.get() {
            match holds.without(hold) {
                NO_HOLDS => self.set_state(State::Accepting, Interest::READ),
                left => self.listening.state.set(State::Paused(left)),
            }
        }
    }

    fn set_state(&self, state: State, interest: Interest) {
        self.listening.state.set(state);
        if let Some(inner) = self.handle.inner() {
            inner.set_interest(self.listening.token, interest);
        }
    }

    /// Whether the port is open.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.listening.state.get() != State::Stopped
    }

    /// Whether it takes new connections now.
    #[must_use]
    pub fn is_accepting(&self) -> bool {
        self.listening.state.get() == State::Accepting
    }

    /// What it does TLS with, if it does; to [reload](TlsServer::reload) its certificates, for instance.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(&self) -> Option<TlsServer> {
        self.listening.tls.borrow().clone()
    }

    /// Does not let [`Reactor::run_until_idle`](crate::Reactor::run_until_idle) wait for this port.
    pub fn unref(&self) {
        if self.listening.referenced.replace(false)
            && let Some(inner) = self.handle.inner()
        {
            inner.referenced_ports.set(inner.referenced_ports.get() - 1);
        }
    }

    #[cfg(unix)]
    pub(crate) fn of(handle: Handle, listening: Rc<Listening>) -> Self {
        Self { handle, listening }
    }

    #[cfg(unix)]
    pub(crate) fn listening(&self) -> &Listening {
        &self.listening
    }

    /// The reactor.
    #[must_use]
    pub fn reactor(&self) -> &Handle {
        &self.handle
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port")
            .field("local_addr", &self.listening.address)
            .field("state", &self.listening.state.get())
            .finish()
    }
}

impl Listening {
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls(&self) -> Option<TlsServer> {
        self.tls.borrow().clone()
    }

    #[cfg(unix)]
    pub(crate) fn token(&self) -> Token {
        self.token
    }

    /// How it is passed on to another process, if it can be.
    #[cfg(unix)]
    pub(crate) fn passing(&self) -> &RefCell<Option<PassedPort>> {
        &self.passing
    }

    /// Takes the factory out at the end of the port or of the reactor.
    pub(crate) fn end(&self) -> Option<Box<dyn ErasedFactory>> {
        self.state.set(State::Stopped);
        self.factory.borrow_mut().take()
    }
}

impl Inner {
    pub(crate) fn listen(
        &self,
        endpoint: &ListenEndpoint,
        factory: Box<dyn ErasedFactory>,
    ) -> io::Result<Port> {
        #[cfg(feature = "tls")]
        if let ListenEndpoint::Tls(tls) = endpoint {
            // Also on a port that another process has passed on: that knows nothing of TLS.
            let port = self.listen(tls.under(), self.with_tls(factory, tls.server()))?;
            *port.listening.tls.borrow_mut() = Some(tls.server().clone());
            return Ok(port);
        }
        #[cfg(unix)]
        return self.listen_as_passed(endpoint, factory);
        #[cfg(not(unix))]
        self.open_port(endpoint, factory)
    }

    /// Opens a port.
    pub(crate) fn open_port(
        &self,
        endpoint: &ListenEndpoint,
        factory: Box<dyn ErasedFactory>,
    ) -> io::Result<Port> {
        match endpoint {
            ListenEndpoint::Tcp(tcp) => {
                self.listen_with(factory, |driver, token| Ok(driver.listen(token, tcp.spec())?.into()))
            }
            ListenEndpoint::Unix(unix) => self.listen_with(factory, |driver, token| {
                driver.listen_unix(token, unix.spec())?;
                Ok(unix.address().clone().into())
            }),
            ListenEndpoint::Added(arguments) => self.listen_added(arguments, factory),
            #[cfg(feature = "tls")]
            ListenEndpoint::Tls(_) => self.listen(endpoint, factory),
            #[cfg(unix)]
            ListenEndpoint::Inherited(inherited) => self.listen_inherited(inherited, factory),
            #[cfg(unix)]
            ListenEndpoint::Activated(activated) => self.listen_activated(activated, factory),
            #[cfg(unix)]
            ListenEndpoint::Stdio => self.listen_stdio(factory),
            #[cfg(not(unix))]
            ListenEndpoint::Inherited(_) | ListenEndpoint::Activated(_) | ListenEndpoint::Stdio => {
                Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no descriptors to inherit"))
            }
        }
    }

    /// Listens on what `open` opens.
    pub(crate) fn listen_with(
        &self,
        factory: Box<dyn ErasedFactory>,
        open: impl FnOnce(&mut Driver, Token) -> io::Result<Address>,
    ) -> io::Result<Port> {
        let opened = self.reserve().and_then(|token| {
            let opened = open(&mut self.driver.borrow_mut(), token);
            if opened.is_err() {
                self.slots.borrow_mut().remove(token);
            }
            Ok((token, opened?))
        });
        let (token, address) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.discard(factory);
                return Err(error);
            }
        };
        log::debug!("listening on {address}");
        let listening = Rc::new(Listening {
            token,
            any_address: address.ip().is_some_and(|ip| ip.is_unspecified()),
            address,
            state: Cell::new(State::Accepting),
            backoff: RefCell::new(AcceptBackoff::default()),
            factory: RefCell::new(Some(factory)),
            factory_started: Cell::new(false),
            referenced: Cell::new(true),
            #[cfg(feature = "tls")]
            tls: RefCell::default(),
            #[cfg(unix)]
            passing: RefCell::default(),
        });
        if let Some(slot) = self.slots.borrow_mut().get_mut(token) {
            *slot = Slot::Listener(Rc::clone(&listening));
        }
        self.referenced_ports.set(self.referenced_ports.get() + 1);
        let starting = Rc::clone(&listening);
        self.handle.call_soon(move |handle| {
            if let Some(inner) = handle.inner() {
                inner.with_factory(&starting, |_| {});
            }
        });
        Ok(Port { handle: self.handle.clone(), listening })
    }

    /// A token for something about to be opened.
    pub(crate) fn reserve(&self) -> io::Result<Token> {
        self.slots.borrow_mut().insert(Slot::Reserved).ok_or_else(|| {
            io::Error::other("the reactor has no slot left: too many connections and ports are open")
        })
    }

    pub(crate) fn stop_listening(&self, listening: &Rc<Listening>) {
        if listening.state.get() == State::Stopped {
            return;
        }
        let factory = listening.end();
        self.driver.borrow_mut().close(listening.token);
        let slot = self.slots.borrow_mut().remove(listening.token);
        drop(slot);
        if listening.referenced.replace(false) {
            self.referenced_ports.set(self.referenced_ports.get() - 1);
        }
        log::debug!("stopped listening on {}", listening.address);
        // While the factory builds a protocol it is not here; then `with_factory` ends it.
        if let Some(factory) = factory {
            self.end_factory(factory, listening.factory_started.get());
        }
    }

    /// Has the loop call `stopped` and drop the factory.
    pub(crate) fn end_factory(&self, mut factory: Box<dyn ErasedFactory>, started: bool) {
        self.handle.call_soon(move |_| {
            if started {
                factory.stopped();
            }
        });
    }

    /// Calls the factory, started if it was not, with nothing borrowed.
    fn with_factory<R>(
        &self,
        listening: &Rc<Listening>,
        f: impl FnOnce(&mut dyn ErasedFactory) -> R,
    ) -> Option<R> {
        let mut factory = listening.factory.borrow_mut().take()?;
        if !listening.factory_started.replace(true) {
            self.contain("Factory::started", || factory.started());
        }
        let what = "Factory::build_protocol";
        let result = self.contain(what, || f(&mut *factory));
        if listening.state.get() == State::Stopped {
            self.end_factory(factory, true);
        } else {
            *listening.factory.borrow_mut() = Some(factory);
        }
        result
    }

    /// Has a port's factory build a protocol.
    #[cfg(unix)]
    pub(crate) fn build_for(&self, port: &Port, mut peer: Peer) -> Option<Box<dyn Protocol>> {
        let listening = &port.listening;
        peer.port = Some(listening.address.clone());
        let built = self.with_factory(listening, |factory| factory.build(peer));
        self.hook_ran(Token::NOBODY, Hook::BuildProtocol);
        built.flatten()
    }

    /// A listener has brought a stream.
    pub(crate) fn accepted(&self, listener: Token, stream: NewStream) {
        let Some(listening) = self.listener(listener) else {
            Counters::bump(&self.counters.stale);
            return;
        };
        listening.backoff.borrow_mut().succeeded();
        if self.is_past_connections() {
            // Its port was opened by what runs last in a shutdown, which no connection may hold up.
            return;
        }
        let local = if listening.any_address {
            match self.driver.borrow_mut().local_addr(&stream) {
                Ok(local) => local,
                Err(error) => {
                    log::debug!("{}: lost before it was accepted: {error}", stream.peer);
                    return;
                }
            }
        } else {
            listening.address.clone()
        };
        let port = Some(listening.address.clone());
        let peer = Peer::new(stream.peer.clone(), local.clone(), port, self.handle.clone());
        let built = self.with_factory(&listening, |factory| factory.build(peer));
        self.hook_ran(Token::NOBODY, Hook::BuildProtocol);
        match built {
            Some(Some(protocol)) => self.establish(stream, protocol, &local),
            Some(None) => {
                Counters::bump(&self.counters.refused);
                drop(stream);
            }
            // It panicked, or the port was stopped.
            None => drop(stream),
        }
    }

    /// Makes a connection of an accepted stream.
    fn establish(&self, stream: NewStream, protocol: Box<dyn Protocol>, local: &Address) {
        let peer = stream.peer.clone();
        let mut protocol = Some(protocol);
        let inserted = self.slots.borrow_mut().insert_with(|token| match protocol.take() {
            Some(protocol) => {
                Slot::Connection(Transport::new(self, token, peer.clone(), local.clone(), protocol))
            }
            None => Slot::Reserved,
        });
        let adopted = match inserted {
            Some(token) => self.driver.borrow_mut().adopt(token, stream).map(|()| token),
            None => Err(io::Error::other("no slot left")),
        };
        match adopted {
            Ok(token) => {
                Counters::bump(&self.counters.accepted);
                self.connection_made(token);
            }
            Err(error) => {
                log::error!("cannot take {peer} in: {error}");
                let slot = inserted.and_then(|token| self.slots.borrow_mut().remove(token));
                if let Some(slot) = slot {
                    self.drop_slot(slot);
                }
                self.discard(protocol);
            }
        }
    }

    /// The first hook of a connection; false when it panicked.
    pub(crate) fn connection_made(&self, token: Token) -> bool {
        self.connections.set(self.connections.get() + 1);
        let made = self.call_hook(token, Hook::ConnectionMade, |protocol, transport| {
            protocol.connection_made(transport);
        });
        made.is_some()
    }

    pub(crate) fn accept_failed(&self, listener: Token, error: &io::Error) {
        Counters::bump(&self.counters.accept_errors);
        let Some(listening) = self.listener(listener) else { return };
        if listening.backoff.borrow_mut().is_worth_logging(self.now()) {
            log::warn!("{}: a connection was lost before it was accepted: {error}", listening.address);
        }
    }

    /// No descriptor is left: the listener rests.
    pub(crate) fn accept_exhausted(&self, listener: Token, error: &io::Error, shed: u32) {
        Counters::bump(&self.counters.accept_errors);
        Counters::add(&self.counters.shed, u64::from(shed));
        let Some(listening) = self.listener(listener) else { return };
        if listening.state.get() != State::Accepting {
            return;
        }
        let rest = listening.backoff.borrow_mut().failed();
        if listening.backoff.borrow_mut().is_worth_logging(self.now()) {
            log::error!(
                "{}: cannot accept: {error}; {shed} connections refused, accepting rests for {rest:?}. \
                 Raise the limit of open files (ulimit -n)",
                listening.address
            );
        }
        listening.state.set(State::Resting);
        self.set_interest(listener, Interest::NONE);
        let at = deadline(self.now(), rest);
        let timer = self.add_timer_at(at, Timer::AcceptAgain(listener));
        timer.unref();
    }

    /// A rest is over.
    pub(crate) fn accept_again(&self, listener: Token) {
        if let Some(listening) = self.listener(listener)
            && listening.state.get() == State::Resting
        {
            listening.state.set(State::Accepting);
            self.set_interest(listener, Interest::READ);
        }
    }
}
