//! Connecting: from a `connect` call to its connection or its error.
//!
//! An attempt may have several addresses to choose from, those of a host's name. They are raced as RFC 8305
//! describes: families take turns, the next address is tried when one has failed, or has not answered for a
//! quarter of a second, and the first connection that comes about is the one; the others are given up.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use crate::core::address::Address;
use crate::core::slots::Token;
use crate::core::wheel::TimerId;
use crate::driver::options::{ConnectSpec, UnixConnectSpec};
use crate::endpoint::{Arguments, ConnectEndpoint, EndpointError, Target};
use crate::net::reason::Reason;
use crate::protocol::{ErasedFactory, Factory, Peer, Protocol};
use crate::reactor::connect_error::{ConnectError, ConnectErrorKind};
use crate::reactor::deferred::{Canceller, Deferred};
use crate::reactor::handle::Handle;
use crate::reactor::inner::{Inner, Slot};
use crate::reactor::stats::Counters;
use crate::reactor::timers::Timer;
use crate::reactor::transport::Transport;
use crate::reactor::typed::Connection;
use crate::reactor::watchdog::Hook;

pub(crate) type Finish = Box<dyn FnOnce(Result<Transport, ConnectError>)>;

/// How long an address may be silent before the next one is tried as well (RFC 8305, section 5).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Names an attempt.
pub(crate) type AttemptId = Token;

/// The options of each socket of an attempt; the address is set for each.
#[derive(Clone)]
enum Spec {
    Tcp(ConnectSpec),
    Unix(UnixConnectSpec),
}

/// How far an attempt of an added kind has come.
enum Added {
    /// The loop has not come to it.
    Waiting,
    Connecting(Canceller),
    Cancelled,
}

/// An attempt under way.
pub(crate) struct Attempt {
    /// What it was asked to connect to, as text.
    target: String,
    spec: Spec,
    /// Addresses that were not tried yet.
    waiting: VecDeque<Address>,
    /// Those that are being tried, by what the driver calls them.
    running: Vec<(Token, Address)>,
    failures: Vec<ConnectError>,
    /// `None` while it is told that it has started.
    factory: Option<Box<dyn ErasedFactory>>,
    factory_started: bool,
    finish: Finish,
    time_limit: Option<TimerId>,
    /// When the next address is tried.
    next_address: Option<TimerId>,
    /// The name whose addresses these are, once they were found.
    name: Option<Box<str>>,
    /// Ends the search for the addresses.
    lookup: Option<Canceller>,
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
    #[track_caller]
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
#[track_caller]
pub(crate) fn connect<F: Factory>(
    handle: &Handle,
    endpoint: Result<ConnectEndpoint, EndpointError>,
    factory: F,
) -> Deferred<Connection<F::Protocol>, ConnectError> {
    connect_erased(handle, endpoint, Box::new(factory), Connection::new)
}

/// The same without the type of the protocol; `as_wanted` makes of the transport what the caller wants.
#[track_caller]
pub(crate) fn connect_erased<T: 'static>(
    handle: &Handle,
    endpoint: Result<ConnectEndpoint, EndpointError>,
    factory: Box<dyn ErasedFactory>,
    as_wanted: impl FnOnce(Transport) -> T + 'static,
) -> Deferred<T, ConnectError> {
    let (resolver, deferred) = Deferred::new(handle);
    let begun = match (handle.inner(), endpoint) {
        (None, _) => Err(ConnectError::new("anywhere", ConnectErrorKind::Cancelled)),
        (_, Err(error)) => Err(ConnectError::of_endpoint(error)),
        (Some(inner), Ok(endpoint)) => inner.may_begin(&endpoint).map(|()| (inner, endpoint)),
    };
    match begun {
        Ok((inner, endpoint)) => {
            let finish: Finish = Box::new(move |outcome| {
                resolver.resolve(outcome.map(as_wanted));
            });
            if let Some(cancel) = inner.begin(&endpoint, factory, finish) {
                deferred.on_cancel(cancel);
            }
        }
        Err(error) => {
            resolver.resolve(Err(error));
        }
    }
    deferred
}

impl Inner {
    fn may_begin(&self, endpoint: &ConnectEndpoint) -> Result<(), ConnectError> {
        if self.is_past_connections() {
            return Err(ConnectError::new(endpoint, ConnectErrorKind::Cancelled));
        }
        if self.attempts.borrow().len() >= self.config.pending_connects {
            return Err(ConnectError::new(endpoint, ConnectErrorKind::TooMany));
        }
        Ok(())
    }

    /// Starts what the endpoint asks for; returns what cancels it.
    pub(crate) fn begin(
        &self,
        endpoint: &ConnectEndpoint,
        factory: Box<dyn ErasedFactory>,
        finish: Finish,
    ) -> Option<Box<dyn FnOnce() -> bool>> {
        let spec = match endpoint {
            ConnectEndpoint::Tcp(tcp) => Spec::Tcp(tcp.spec().clone()),
            ConnectEndpoint::Unix(unix) => Spec::Unix(unix.spec().clone()),
            ConnectEndpoint::Added(arguments) => return self.begin_added(arguments, factory, finish),
            #[cfg(feature = "tls")]
            ConnectEndpoint::Tls(tls) => return self.begin_tls(tls, factory, finish),
            #[cfg(unix)]
            ConnectEndpoint::Inherited(_) | ConnectEndpoint::Stdio | ConnectEndpoint::Process(_) => {
                return self.begin_adoption(endpoint, factory, finish);
            }
            #[cfg(not(unix))]
            ConnectEndpoint::Inherited(_) | ConnectEndpoint::Stdio | ConnectEndpoint::Process(_) => {
                let text = "this system has no such streams";
                let error = io::Error::new(io::ErrorKind::Unsupported, text);
                finish(Err(ConnectError::from_io(endpoint, error)));
                return None;
            }
        };
        let attempt = Attempt {
            target: endpoint.to_string(),
            spec,
            waiting: VecDeque::new(),
            running: Vec::new(),
            failures: Vec::new(),
            factory: Some(factory),
            factory_started: false,
            finish,
            time_limit: None,
            next_address: None,
            name: None,
            lookup: None,
        };
        let id = self.attempts.borrow_mut().insert(attempt)?;
        self.connections.set(self.connections.get() + 1);
        self.begin_attempt(id, endpoint);
        let handle = self.handle.clone();
        Some(Box::new(move || {
            handle.inner().is_some_and(|inner| inner.abandon_attempt(id, ConnectErrorKind::Cancelled))
        }))
    }

    /// Has the loop hand the attempt to a kind that was added, which is user code.
    fn begin_added(
        &self,
        arguments: &Arguments,
        factory: Box<dyn ErasedFactory>,
        finish: Finish,
    ) -> Option<Box<dyn FnOnce() -> bool>> {
        let progress = Rc::new(RefCell::new(Added::Waiting));
        let (arguments, seen) = (arguments.clone(), Rc::clone(&progress));
        self.handle.call_soon(move |handle| {
            let Some(inner) = handle.inner() else { return };
            if matches!(*seen.borrow(), Added::Cancelled) {
                return finish(Err(ConnectError::new(&arguments, ConnectErrorKind::Cancelled)));
            }
            match inner.connect_added(&arguments, factory) {
                Ok(connecting) => {
                    if matches!(*seen.borrow(), Added::Cancelled) {
                        // By what has just begun it, which may be done already: nobody wants what it has
                        // made.
                        connecting.cancel();
                        connecting.on_done(|_, outcome| drop(outcome.map(|made| made.abort_connection())));
                        return finish(Err(ConnectError::new(&arguments, ConnectErrorKind::Cancelled)));
                    }
                    *seen.borrow_mut() = Added::Connecting(connecting.canceller());
                    connecting.on_done(move |_, outcome| finish(outcome));
                }
                Err(error) => finish(Err(ConnectError::from_io(&arguments, error))),
            }
        });
        Some(Box::new(move || {
            let before = std::mem::replace(&mut *progress.borrow_mut(), Added::Cancelled);
            match before {
                Added::Connecting(canceller) => canceller.cancel(),
                Added::Waiting => true,
                Added::Cancelled => false,
            }
        }))
    }

    fn begin_attempt(&self, id: AttemptId, endpoint: &ConnectEndpoint) {
        let time_limit = endpoint.time_limit();
        let timer = self.add_timer(time_limit, Timer::ConnectTimeout(id)).id();
        self.with_attempt(id, |attempt| attempt.time_limit = Some(timer));
        let address = match endpoint {
            ConnectEndpoint::Tcp(tcp) => match tcp.target() {
                Target::Address(address) => Some(Address::from(*address)),
                Target::Name(name, port) => {
                    self.look_up(id, name, *port);
                    None
                }
            },
            ConnectEndpoint::Unix(unix) => Some(unix.address().clone().into()),
            _ => None,
        };
        if let Some(address) = address {
            self.with_attempt(id, |attempt| attempt.waiting.push_back(address));
            self.try_next_address(id);
        }
        // It may have failed already, and its factory is gone.
        if self.with_attempt(id, |_| ()).is_some() {
            self.handle.call_soon(move |handle| {
                if let Some(inner) = handle.inner() {
                    inner.start_factory(id);
                }
            });
        }
    }

    fn with_attempt<R>(&self, id: AttemptId, f: impl FnOnce(&mut Attempt) -> R) -> Option<R> {
        self.attempts.borrow_mut().get_mut(id).map(f)
    }

    fn look_up(&self, id: AttemptId, name: &str, port: u16) {
        let lookup = self.resolve(name);
        let canceller = lookup.canceller();
        self.with_attempt(id, |attempt| attempt.lookup = Some(canceller));
        let name = name.into();
        lookup.on_done(move |handle, outcome| {
            if let Some(inner) = handle.inner() {
                inner.looked_up(id, name, port, outcome);
            }
        });
    }

    /// The addresses of the host are known, or nobody knows any.
    fn looked_up(&self, id: AttemptId, name: Box<str>, port: u16, outcome: io::Result<Vec<IpAddr>>) {
        let known = self.with_attempt(id, |attempt| {
            attempt.lookup = None;
            let addresses = match outcome {
                Ok(addresses) if addresses.is_empty() => {
                    Err(io::Error::new(io::ErrorKind::NotFound, "it has no address"))
                }
                other => other,
            };
            match addresses {
                Ok(addresses) => {
                    attempt.name = Some(name);
                    let local = match &attempt.spec {
                        Spec::Tcp(spec) => spec.local_address,
                        Spec::Unix(_) => None,
                    };
                    let fits = |address: &IpAddr| local.is_none_or(|it| it.is_ipv4() == address.is_ipv4());
                    let addresses: Vec<IpAddr> = addresses.into_iter().filter(fits).collect();
                    attempt.waiting = alternating(&addresses)
                        .into_iter()
                        .map(|address| SocketAddr::new(address, port).into())
                        .collect();
                }
                Err(error) => attempt.failures.push(ConnectError::unresolved(&attempt.target, &error)),
            }
        });
        if known.is_some() {
            self.try_next_address(id);
        }
    }

    /// Tries the next address of an attempt; ends the attempt when none is left and none is being tried.
    pub(crate) fn try_next_address(&self, id: AttemptId) {
        loop {
            let next = self.with_attempt(id, |attempt| {
                let timer = attempt.next_address.take();
                (attempt.waiting.pop_front(), attempt.spec.clone(), timer, attempt.running.is_empty())
            });
            let Some((address, mut spec, timer, nothing_runs)) = next else { return };
            self.drop_timer(timer);
            let Some(address) = address else {
                if nothing_runs {
                    self.end_attempt(id, None);
                }
                return;
            };
            match self.try_address(id, &address, &mut spec) {
                Ok(token) => {
                    let more = self.with_attempt(id, |attempt| {
                        attempt.running.push((token, address));
                        !attempt.waiting.is_empty()
                    });
                    if more == Some(true) {
                        let timer = self.add_timer(NEXT_ADDRESS_AFTER, Timer::NextAddress(id)).id();
                        self.with_attempt(id, |attempt| attempt.next_address = Some(timer));
                    }
                    return;
                }
                Err(error) => {
                    self.with_attempt(id, |attempt| attempt.failures.push(error));
                }
            }
        }
    }

    fn try_address(&self, id: AttemptId, address: &Address, spec: &mut Spec) -> Result<Token, ConnectError> {
        let token = self.reserve().map_err(|error| ConnectError::from_io(address, error))?;
        let started = match (spec, address) {
            (Spec::Tcp(spec), Address::Ip(ip)) => {
                spec.address = *ip;
                self.driver.borrow_mut().connect(token, spec)
            }
            (Spec::Unix(spec), _) => self.driver.borrow_mut().connect_unix(token, spec),
            (Spec::Tcp(_), _) => Err(io::ErrorKind::Unsupported.into()),
        };
        if let Err(error) = started {
            self.slots.borrow_mut().remove(token);
            return Err(ConnectError::from_io(address, error));
        }
        if let Some(slot) = self.slots.borrow_mut().get_mut(token) {
            *slot = Slot::Attempt(id);
        }
        Ok(token)
    }

    /// Tells the factory of an attempt that it is used, unless the attempt is over already.
    fn start_factory(&self, id: AttemptId) {
        let factory = self.with_attempt(id, |attempt| {
            attempt.factory_started = true;
            attempt.factory.take()
        });
        let Some(Some(mut factory)) = factory else { return };
        self.contain("Factory::started", || factory.started());
        let mut factory = Some(factory);
        self.with_attempt(id, |attempt| attempt.factory = factory.take());
        if let Some(factory) = factory {
            // It has cancelled its own attempt.
            self.end_factory(factory, true);
        }
    }

    /// The attempt that the driver knows by this token.
    fn attempt_of(&self, token: Token) -> Option<AttemptId> {
        match self.slots.borrow().get(token) {
            Some(Slot::Attempt(id)) => Some(*id),
            _ => None,
        }
    }

    /// Takes an attempt off the list, with everything that is under way for it ended but `except`.
    fn take_attempt(&self, id: AttemptId, except: Option<Token>) -> Option<Attempt> {
        let mut attempt = self.attempts.borrow_mut().remove(id)?;
        self.connections.set(self.connections.get() - 1);
        for (token, _) in attempt.running.drain(..).filter(|(token, _)| Some(*token) != except) {
            self.close_try(token);
        }
        self.drop_timer(attempt.time_limit.take());
        self.drop_timer(attempt.next_address.take());
        if let Some(lookup) = attempt.lookup.take() {
            lookup.cancel();
        }
        Some(attempt)
    }

    fn close_try(&self, token: Token) {
        self.driver.borrow_mut().close(token);
        let slot = self.slots.borrow_mut().remove(token);
        drop(slot);
    }

    fn drop_timer(&self, timer: Option<TimerId>) {
        let timer = timer.and_then(|timer| self.timers.borrow_mut().remove(timer));
        drop(timer);
    }

    /// Ends an attempt that brought nothing: for this reason, or for those for which its addresses failed.
    fn end_attempt(&self, id: AttemptId, error: Option<ConnectError>) {
        if let Some(attempt) = self.take_attempt(id, None) {
            self.report_failure(attempt, error);
        }
    }

    fn report_failure(&self, mut attempt: Attempt, error: Option<ConnectError>) {
        let failures = std::mem::take(&mut attempt.failures);
        let error = error.unwrap_or_else(|| ConnectError::of_all(&attempt.target, failures));
        let unreached = !matches!(error.kind(), ConnectErrorKind::Cancelled | ConnectErrorKind::Declined);
        if let Some(name) = attempt.name.take().filter(|_| unreached) {
            // The host may have moved: the next attempt asks anew.
            self.forget_name(&name);
        }
        log::debug!("{error}");
        if let Some(factory) = attempt.factory {
            self.end_factory(factory, attempt.factory_started);
        }
        (attempt.finish)(Err(error));
    }

    /// Whether the token named a try of an attempt, which has failed then; the error if not.
    pub(crate) fn attempt_failed(&self, token: Token, error: io::Error) -> Option<io::Error> {
        let Some(id) = self.attempt_of(token) else { return Some(error) };
        self.close_try(token);
        self.with_attempt(id, |attempt| {
            let place = attempt.running.iter().position(|(running, _)| *running == token);
            if let Some(place) = place {
                let (_, address) = attempt.running.remove(place);
                attempt.failures.push(ConnectError::from_io(&address, error));
            }
        });
        self.try_next_address(id);
        None
    }

    /// Ends an attempt for that reason. False when it has ended.
    pub(crate) fn abandon_attempt(&self, id: AttemptId, kind: ConnectErrorKind) -> bool {
        let target = self.with_attempt(id, |attempt| attempt.target.clone());
        let is_under_way = target.is_some();
        if let Some(target) = target {
            self.end_attempt(id, Some(ConnectError::new(target, kind)));
        }
        is_under_way
    }

    pub(crate) fn connect_timed_out(&self, id: AttemptId) {
        self.abandon_attempt(id, ConnectErrorKind::TimedOut);
    }

    /// One of an attempt's addresses has answered: the connection gets a protocol.
    pub(crate) fn connected(&self, token: Token, local: Address) {
        let attempt = self.attempt_of(token).and_then(|id| {
            let address = self.with_attempt(id, |attempt| {
                let mut running = attempt.running.iter();
                running.find(|(running, _)| *running == token).map(|(_, address)| address.clone())
            });
            Some((address??, self.take_attempt(id, Some(token))?))
        });
        let Some((address, mut attempt)) = attempt else {
            Counters::bump(&self.counters.stale);
            return;
        };
        let peer = Peer::new(address.clone(), local.clone(), None, self.handle.clone());
        let started = std::mem::replace(&mut attempt.factory_started, true);
        let built = attempt.factory.as_mut().and_then(|factory| self.build(&mut **factory, started, peer));
        let Some(protocol) = built else {
            self.close_try(token);
            let error = ConnectError::new(&attempt.target, ConnectErrorKind::Declined);
            self.report_failure(attempt, Some(error));
            return;
        };
        let transport = Transport::new(self, token, address, local, protocol);
        if let Some(slot) = self.slots.borrow_mut().get_mut(token) {
            *slot = Slot::Connection(transport.clone());
        }
        // The driver watches for input instead of for the connection now.
        self.eventful.set(true);
        let made = self.connection_made(token);
        if let Some(factory) = attempt.factory {
            self.end_factory(factory, true);
        }
        (attempt.finish)(self.outcome_of(transport, made, &attempt.target));
    }

    /// Has a factory, which is told first that it is used if it was not, build the protocol of a new
    /// connection.
    pub(crate) fn build(
        &self,
        factory: &mut dyn ErasedFactory,
        started: bool,
        peer: Peer,
    ) -> Option<Box<dyn Protocol>> {
        let built = self.contain("a factory", || {
            if !started {
                factory.started();
            }
            factory.build(peer)
        });
        self.hook_ran(Token::NOBODY, Hook::BuildProtocol);
        built.flatten()
    }

    /// What a connect brought whose connection was made, or panicked in that.
    pub(crate) fn outcome_of(
        &self,
        transport: Transport,
        made: bool,
        target: &str,
    ) -> Result<Transport, ConnectError> {
        Counters::bump(&self.counters.connected);
        let panicked = !made || matches!(transport.0.machine.borrow().reason(), Some(Reason::Panicked));
        if panicked { Err(ConnectError::new(target, ConnectErrorKind::Declined)) } else { Ok(transport) }
    }

    /// Takes all attempts out at the end of the reactor.
    pub(crate) fn abandon_attempts(&self) {
        let ids = self.attempts.borrow().tokens();
        for id in ids {
            self.abandon_attempt(id, ConnectErrorKind::Cancelled);
        }
    }
}

/// The addresses with the families taking turns, beginning with that of the first (RFC 8305, section 4).
fn alternating(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let Some(first) = addresses.first() else { return Vec::new() };
    let (mut ones, mut others): (VecDeque<IpAddr>, VecDeque<IpAddr>) =
        addresses.iter().partition(|address| address.is_ipv4() == first.is_ipv4());
    let mut list = Vec::with_capacity(addresses.len());
    while !ones.is_empty() || !others.is_empty() {
        list.extend(ones.pop_front());
        list.extend(others.pop_front());
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_beginning_with_that_of_the_first_address() {
        let read = |text: &str| -> Vec<IpAddr> {
            text.split_whitespace().map(|address| address.parse().unwrap()).collect()
        };
        let turns = |text| alternating(&read(text));
        assert_eq!(turns("::1 ::2 1.1.1.1 2.2.2.2 ::3"), read("::1 1.1.1.1 ::2 2.2.2.2 ::3"));
        assert_eq!(turns("1.1.1.1 ::1"), read("1.1.1.1 ::1"));
        assert_eq!(turns("1.1.1.1 2.2.2.2"), read("1.1.1.1 2.2.2.2"));
        assert_eq!(turns(""), read(""));
    }
}
