//! Connecting: from a `connect` call to its connection or its error.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::core::slots::Token;
use crate::core::wheel::TimerId;
use crate::endpoint::ConnectEndpoint;
use crate::net::address::Address;
use crate::net::reason::Reason;
use crate::protocol::{ErasedFactory, Factory, Peer};
use crate::reactor::deferred::Deferred;
use crate::reactor::handle::Handle;
use crate::reactor::inner::{Inner, Slot};
use crate::reactor::stats::Counters;
use crate::reactor::timers::Timer;
use crate::reactor::transport::Transport;
use crate::reactor::typed::Connection;
use crate::reactor::watchdog::Hook;

type Finish = Box<dyn FnOnce(Result<Transport, ConnectError>)>;

/// An attempt under way.
pub(crate) struct Attempt {
    address: SocketAddr,
    /// `None` while it is told that it has started.
    factory: Option<Box<dyn ErasedFactory>>,
    factory_started: bool,
    finish: Finish,
    timer: Option<TimerId>,
}

/// Why a connection could not be made. The text names the address and the cause.
#[derive(Debug)]
pub struct ConnectError {
    address: String,
    kind: ConnectErrorKind,
    source: Option<io::Error>,
}

/// Kinds of [`ConnectError`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ConnectErrorKind {
    /// The endpoint makes no sense.
    Endpoint,
    /// Nobody listens there.
    Refused,
    /// There is no way there.
    Unreachable,
    /// It took too long.
    TimedOut,
    /// [`Deferred::cancel`] was called, or the reactor stopped.
    Cancelled,
    /// The factory did not want the connection, or a hook panicked before it was complete.
    Declined,
    /// As many attempts are under way as the limit allows.
    TooMany,
    /// Something else; see the source.
    Other,
}

impl ConnectError {
    fn new(address: impl fmt::Display, kind: ConnectErrorKind) -> Self {
        Self { address: address.to_string(), kind, source: None }
    }

    fn from_io(address: impl fmt::Display, error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused => ConnectErrorKind::Refused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                ConnectErrorKind::Unreachable
            }
            io::ErrorKind::TimedOut => ConnectErrorKind::TimedOut,
            _ => ConnectErrorKind::Other,
        };
        Self { address: address.to_string(), kind, source: Some(error) }
    }

    /// What kind of error it is.
    #[must_use]
    pub fn kind(&self) -> ConnectErrorKind {
        self.kind
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = &self.address;
        match (self.kind, &self.source) {
            // The driver's text names the address already.
            (_, Some(error)) if error.to_string().contains(address.as_str()) => error.fmt(f),
            (_, Some(error)) => write!(f, "cannot connect to {address}: {error}"),
            (ConnectErrorKind::TimedOut, None) => write!(f, "cannot connect to {address}: timed out"),
            (ConnectErrorKind::Cancelled, None) => write!(f, "cannot connect to {address}: cancelled"),
            (ConnectErrorKind::Declined, None) => {
                write!(f, "connected to {address}, but the protocol was not set up: see the log")
            }
            (ConnectErrorKind::TooMany, None) => {
                write!(f, "cannot connect to {address}: too many attempts are under way (pending_connects)")
            }
            (kind, None) => write!(f, "cannot connect to {address}: {kind:?}"),
        }
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|error| error as &(dyn Error + 'static))
    }
}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        let kind = match error.kind {
            ConnectErrorKind::Endpoint => io::ErrorKind::InvalidInput,
            ConnectErrorKind::Refused => io::ErrorKind::ConnectionRefused,
            ConnectErrorKind::Unreachable => io::ErrorKind::HostUnreachable,
            ConnectErrorKind::TimedOut => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// Where to connect, checked once and used as often as wanted. See
/// [`Handle::connector`](crate::Handle::connector).
#[derive(Clone, Debug)]
pub struct Connector {
    handle: Handle,
    endpoint: ConnectEndpoint,
}

impl Connector {
    pub(crate) fn new(handle: &Handle, endpoint: ConnectEndpoint) -> Self {
        Self { handle: handle.clone(), endpoint }
    }

    /// Starts an attempt; as [`Handle::connect`](crate::Handle::connect).
    pub fn connect<F: Factory>(&self, factory: F) -> Deferred<Connection<F::Protocol>, ConnectError> {
        connect(&self.handle, Ok(self.endpoint.clone()), factory)
    }

    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &ConnectEndpoint {
        &self.endpoint
    }
}

/// Starts an attempt; every error comes through the Deferred.
pub(crate) fn connect<F: Factory>(
    handle: &Handle,
    endpoint: Result<ConnectEndpoint, crate::endpoint::EndpointError>,
    factory: F,
) -> Deferred<Connection<F::Protocol>, ConnectError> {
    let (resolver, deferred) = Deferred::new(handle);
    let Some(inner) = handle.inner() else {
        resolver.resolve(Err(ConnectError::new("anywhere", ConnectErrorKind::Cancelled)));
        return deferred;
    };
    let endpoint = match endpoint {
        Ok(endpoint) => endpoint,
        Err(error) => {
            let text = error.to_string();
            let error = io::Error::from(error);
            resolver.resolve(Err(ConnectError {
                address: text,
                kind: ConnectErrorKind::Endpoint,
                source: Some(error),
            }));
            return deferred;
        }
    };
    match inner.begin_attempt(&endpoint) {
        Err(error) => {
            resolver.resolve(Err(error));
        }
        Ok((token, timer, address)) => {
            let cancelling = handle.clone();
            resolver.on_cancel(move || {
                if let Some(inner) = cancelling.inner() {
                    inner.abandon_attempt(token, ConnectErrorKind::Cancelled);
                }
            });
            let finish: Finish = Box::new(move |outcome| {
                resolver.resolve(outcome.map(Connection::new));
            });
            let factory: Box<dyn ErasedFactory> = Box::new(factory);
            let (factory, timer) = (Some(factory), Some(timer));
            let attempt = Attempt { address, factory, factory_started: false, finish, timer };
            if let Some(slot) = inner.slots.borrow_mut().get_mut(token) {
                *slot = Slot::Attempt(Box::new(attempt));
            }
            handle.call_soon(move |handle| {
                if let Some(inner) = handle.inner() {
                    inner.start_factory(token);
                }
            });
        }
    }
    deferred
}

impl Inner {
    fn begin_attempt(
        &self,
        endpoint: &ConnectEndpoint,
    ) -> Result<(Token, TimerId, SocketAddr), ConnectError> {
        let ConnectEndpoint::Tcp(tcp) = endpoint;
        let address = tcp.spec().address;
        if self.is_past_connections() {
            return Err(ConnectError::new(address, ConnectErrorKind::Cancelled));
        }
        if self.attempts.get() >= self.config.pending_connects {
            return Err(ConnectError::new(address, ConnectErrorKind::TooMany));
        }
        let token = self.reserve().map_err(|error| ConnectError::from_io(address, error))?;
        let started = self.driver.borrow_mut().connect(token, tcp.spec());
        if let Err(error) = started {
            self.slots.borrow_mut().remove(token);
            return Err(ConnectError::from_io(address, error));
        }
        self.connections.set(self.connections.get() + 1);
        self.attempts.set(self.attempts.get() + 1);
        let timer = self.add_timer(tcp.time_limit(), Timer::ConnectTimeout(token));
        Ok((token, timer.id(), address))
    }

    /// Tells the factory of an attempt that it is used, unless the attempt is over already.
    fn start_factory(&self, token: Token) {
        let factory = match self.slots.borrow_mut().get_mut(token) {
            Some(Slot::Attempt(attempt)) => {
                attempt.factory_started = true;
                attempt.factory.take()
            }
            _ => None,
        };
        let Some(mut factory) = factory else { return };
        self.contain("Factory::started", || factory.started());
        if let Some(Slot::Attempt(attempt)) = self.slots.borrow_mut().get_mut(token) {
            attempt.factory = Some(factory);
            return;
        }
        // It has cancelled its own attempt.
        self.end_factory(factory, true);
    }

    /// Takes an attempt out of its slot, which stays reserved.
    fn take_attempt(&self, token: Token) -> Option<Attempt> {
        let attempt = {
            let mut slots = self.slots.borrow_mut();
            let slot = slots.get_mut(token)?;
            match std::mem::replace(slot, Slot::Reserved) {
                Slot::Attempt(attempt) => attempt,
                other => {
                    *slot = other;
                    return None;
                }
            }
        };
        self.connections.set(self.connections.get() - 1);
        self.attempts.set(self.attempts.get() - 1);
        if let Some(timer) = attempt.timer {
            let timer = self.timers.borrow_mut().remove(timer);
            drop(timer);
        }
        Some(*attempt)
    }

    /// Ends an attempt that brought nothing.
    fn fail_attempt(&self, token: Token, attempt: Attempt, error: ConnectError) {
        self.driver.borrow_mut().close(token);
        let slot = self.slots.borrow_mut().remove(token);
        drop(slot);
        log::debug!("{error}");
        if let Some(factory) = attempt.factory {
            self.end_factory(factory, attempt.factory_started);
        }
        (attempt.finish)(Err(error));
    }

    /// Whether the token named an attempt; its failure is reported if so.
    pub(crate) fn attempt_failed(&self, token: Token, error: io::Error) -> Option<io::Error> {
        match self.take_attempt(token) {
            Some(attempt) => {
                let error = ConnectError::from_io(attempt.address, error);
                self.fail_attempt(token, attempt, error);
                None
            }
            None => Some(error),
        }
    }

    pub(crate) fn abandon_attempt(&self, token: Token, kind: ConnectErrorKind) {
        if let Some(attempt) = self.take_attempt(token) {
            let error = ConnectError::new(attempt.address, kind);
            self.fail_attempt(token, attempt, error);
        }
    }

    pub(crate) fn connect_timed_out(&self, token: Token) {
        self.abandon_attempt(token, ConnectErrorKind::TimedOut);
    }

    /// An attempt has succeeded: its connection gets a protocol.
    pub(crate) fn connected(&self, token: Token, local: SocketAddr) {
        let Some(mut attempt) = self.take_attempt(token) else {
            Counters::bump(&self.counters.stale);
            return;
        };
        let (address, local) = (Address::from(attempt.address), Address::from(local));
        let peer = Peer { address, local, port: None, reactor: self.handle.clone() };
        let started = std::mem::replace(&mut attempt.factory_started, true);
        let built = attempt.factory.as_mut().and_then(|factory| {
            self.contain("a factory", || {
                if !started {
                    factory.started();
                }
                factory.build(peer)
            })
        });
        self.hook_ran(Token::NOBODY, Hook::BuildProtocol);
        let Some(Some(protocol)) = built else {
            let error = ConnectError::new(address, ConnectErrorKind::Declined);
            self.fail_attempt(token, attempt, error);
            return;
        };
        let transport = Transport::new(self, token, address, local, protocol);
        if let Some(slot) = self.slots.borrow_mut().get_mut(token) {
            *slot = Slot::Connection(transport.clone());
        }
        Counters::bump(&self.counters.connected);
        // The driver watches for input instead of for the connection now.
        self.eventful.set(true);
        let made = self.connection_made(token);
        let panicked = !made || matches!(transport.0.machine.borrow().reason(), Some(Reason::Panicked));
        let outcome = if panicked {
            Err(ConnectError::new(address, ConnectErrorKind::Declined))
        } else {
            Ok(transport)
        };
        if let Some(factory) = attempt.factory {
            self.end_factory(factory, true);
        }
        (attempt.finish)(outcome);
    }

    /// Takes all attempts out at the end of the reactor.
    pub(crate) fn abandon_attempts(&self) {
        let tokens = self.slots.borrow().tokens();
        for token in tokens {
            self.abandon_attempt(token, ConnectErrorKind::Cancelled);
        }
    }
}
