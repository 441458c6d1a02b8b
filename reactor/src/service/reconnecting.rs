//! A client that stays connected: [`ReconnectingClient`].

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use crate::core::interruption::Interruption;
use crate::endpoint::{ConnectEndpoint, EndpointError, IntoConnectEndpoint};
use crate::net::reason::Reason;
use crate::protocol::{Factory, SharedFactory};
use crate::reactor::connect_error::{ConnectError, ConnectErrorKind};
use crate::reactor::connecting::connect;
use crate::reactor::deferred::{Canceller, Deferred, MaybeDeferred, Resolver};
use crate::reactor::handle::Handle;
use crate::reactor::timers::DelayedCall;
use crate::reactor::typed::Connection;

/// How long to wait before an attempt: longer after each failure, up to a limit, and never quite the same, so
/// that many clients of one server do not come back all at once.
///
/// ```
/// use std::time::Duration;
/// use twistor::Backoff;
///
/// let patient = Backoff::new().first(Duration::from_secs(5)).longest(Duration::from_secs(600));
/// ```
#[derive(Clone, Copy, PartialEq, Debug)]
#[must_use = "a back-off does nothing until a client uses it"]
pub struct Backoff {
    first: Duration,
    factor: f64,
    longest: Duration,
    jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

impl Backoff {
    /// A second, then half as long again each time, up to a minute, each a fifth more or less.
    pub const fn new() -> Self {
        Self { first: Duration::from_secs(1), factor: 1.5, longest: Duration::from_secs(60), jitter: 0.2 }
    }

    /// The wait after a first failure, and after a connection was lost.
    pub const fn first(mut self, wait: Duration) -> Self {
        self.first = wait;
        self
    }

    /// How many times longer each further wait is.
    ///
    /// # Panics
    ///
    /// Below 1: the waits would become shorter.
    pub const fn factor(mut self, factor: f64) -> Self {
        assert!(factor >= 1.0, "a factor below 1 would make the waits shorter");
        self.factor = factor;
        self
    }

    /// No wait is longer, but for the jitter.
    pub const fn longest(mut self, wait: Duration) -> Self {
        self.longest = wait;
        self
    }

    /// The part by which a wait may be longer or shorter, at random.
    ///
    /// # Panics
    ///
    /// Below 0 or above 1.
    pub const fn jitter(mut self, part: f64) -> Self {
        assert!(part >= 0.0 && part <= 1.0, "a jitter is a part from 0 to 1");
        self.jitter = part;
        self
    }

    /// The wait after so many failures in a row; `chance` from 0 to below 1.
    fn wait(&self, failures: u32, chance: f64) -> Duration {
        let longest = self.longest.as_secs_f64();
        let times = self.factor.powi(i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX));
        let wait = (self.first.as_secs_f64() * times).min(longest);
        let jitter = 1.0 + self.jitter * (2.0 * chance - 1.0);
        Duration::try_from_secs_f64(wait * jitter).unwrap_or(self.longest)
    }
}

impl<F: Factory> fmt::Debug for ReconnectingClient<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &*self.shared.state.borrow() {
            State::Connecting(_) => "connecting",
            State::Preparing(_) => "preparing",
            State::Connected(_) => "connected",
            State::Pausing(_) => "pausing",
            State::Stopping => "stopping",
            State::Stopped => "stopped",
            State::Failed(_) => "failed",
        };
        let endpoint = self.shared.endpoint.to_string();
        f.debug_struct("ReconnectingClient").field("endpoint", &endpoint).field("state", &state).finish()
    }
}

impl<F: Factory> fmt::Debug for ReconnectingClientBuilder<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReconnectingClientBuilder").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl<F: Factory> Clone for ReconnectingClient<F> {
    /// Another name for the same client.
    fn clone(&self) -> Self {
        Self { shared: Rc::clone(&self.shared) }
    }
}

type Prepare<P> = Rc<dyn Fn(&Connection<P>) -> Deferred<(), Box<dyn Error>>>;

/// A client that connects, and connects again whenever its connection is lost or an attempt fails.
///
/// ```no_run
/// use twistor::{Protocol, Reactor, ReconnectingClient, Transport};
///
/// struct Feed;
/// impl Protocol for Feed {
///     fn data_received(&mut self, _: &Transport, data: &[u8]) {
///         println!("{}", String::from_utf8_lossy(data));
///     }
/// }
///
/// fn main() -> std::io::Result<()> {
///     let reactor = Reactor::new()?;
///     let client = ReconnectingClient::builder("tcp:feed.example:7000", |_| Feed)
///         .fail_after(20)
///         .start(&reactor)?;
///     client.when_connected().on_done(|reactor, outcome| match outcome {
///         Ok(connection) => println!("connected to {}", connection.peer_addr()),
///         Err(error) => {
///             eprintln!("giving up: {error}");
///             reactor.stop();
///         }
///     });
///     reactor.run()
/// }
/// ```
///
/// Dropping it changes nothing; [`stop`](Self::stop) ends it.
pub struct ReconnectingClient<F: Factory> {
    shared: Rc<Shared<F>>,
}

/// Sets a [`ReconnectingClient`] up.
#[must_use = "a client does nothing until it is started"]
pub struct ReconnectingClientBuilder<F: Factory> {
    endpoint: Result<ConnectEndpoint, EndpointError>,
    factory: F,
    settings: Settings<F>,
}

struct Settings<F: Factory> {
    backoff: Backoff,
    fail_after: Option<u32>,
    retry_if: Rc<dyn Fn(&ConnectError) -> bool>,
    prepare: Option<Prepare<F::Protocol>>,
}

struct Shared<F: Factory> {
    handle: Handle,
    endpoint: ConnectEndpoint,
    factory: SharedFactory<F>,
    settings: Settings<F>,
    state: RefCell<State<F>>,
    failures: RefCell<u32>,
    waiting: RefCell<Vec<Resolver<Connection<F::Protocol>, ConnectError>>>,
    stopped: RefCell<Vec<Resolver<(), Interruption>>>,
}

enum State<F: Factory> {
    Connecting(Canceller),
    /// Connected, but not ready yet.
    Preparing(Connection<F::Protocol>),
    Connected(Connection<F::Protocol>),
    /// Until the next attempt.
    Pausing(DelayedCall),
    /// [`ReconnectingClient::stop`] was called, and the connection is on its way out.
    Stopping,
    Stopped,
    /// It has given up.
    Failed(ConnectError),
}

/// What the loss of a connection means.
enum Lost {
    /// It was ready: the next one is to be made.
    Connection,
    /// It was not ready yet: the attempt has failed.
    Attempt,
    /// It was the last one.
    Last,
}

impl<F: Factory> ReconnectingClient<F> {
    /// A client for this endpoint, whose protocols this factory makes.
    pub fn builder(endpoint: impl IntoConnectEndpoint, factory: F) -> ReconnectingClientBuilder<F> {
        ReconnectingClientBuilder {
            endpoint: endpoint.into_connect_endpoint(),
            factory,
            settings: Settings {
                backoff: Backoff::new(),
                fail_after: None,
                retry_if: Rc::new(|_| true),
                prepare: None,
            },
        }
    }

    /// The connection: now if there is one that is ready, else the next that is. An error if the client gives
    /// up or is stopped.
    #[track_caller]
    pub fn when_connected(&self) -> Deferred<Connection<F::Protocol>, ConnectError> {
        let (resolver, deferred) = Deferred::new(&self.shared.handle);
        match &*self.shared.state.borrow() {
            State::Connected(connection) => drop(resolver.resolve(Ok(connection.clone()))),
            State::Failed(error) => drop(resolver.resolve(Err(error.again()))),
            State::Stopping | State::Stopped => drop(resolver.resolve(Err(self.shared.cancelled()))),
            State::Connecting(_) | State::Preparing(_) | State::Pausing(_) => {
                self.shared.waiting.borrow_mut().push(resolver);
            }
        }
        deferred
    }

    /// The connection, if there is one that is ready.
    #[must_use]
    pub fn connection(&self) -> Option<Connection<F::Protocol>> {
        match &*self.shared.state.borrow() {
            State::Connected(connection) => Some(connection.clone()),
            _ => None,
        }
    }

    /// How many attempts have failed since the last connection that was ready.
    #[must_use]
    pub fn failures(&self) -> u32 {
        *self.shared.failures.borrow()
    }

    /// Ends it: cancels the attempt or the wait, or closes the connection in good order. Fires when nothing
    /// of it is left.
    #[track_caller]
    pub fn stop(&self) -> Deferred<(), Interruption> {
        let shared = &self.shared;
        let (resolver, deferred) = Deferred::new(&shared.handle);
        shared.stopped.borrow_mut().push(resolver);
        let before = shared.state.replace(State::Stopping);
        match before {
            State::Preparing(connection) | State::Connected(connection) => connection.lose_connection(),
            State::Connecting(canceller) => drop(canceller.cancel()),
            State::Pausing(timer) => {
                timer.cancel();
                shared.end(State::Stopped);
            }
            State::Stopping => {}
            ended @ (State::Stopped | State::Failed(_)) => shared.end(ended),
        }
        shared.refuse_waiting(&shared.cancelled());
        deferred
    }
}

impl<F: Factory> ReconnectingClientBuilder<F> {
    /// How long to wait between attempts.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = backoff;
        self
    }

    /// Gives up after so many failures in a row, at least 1. By default it never does.
    pub fn fail_after(mut self, failures: u32) -> Self {
        self.settings.fail_after = Some(failures);
        self
    }

    /// Decides by the error whether to go on. By default it goes on after every one.
    pub fn retry_if(mut self, retry: impl Fn(&ConnectError) -> bool + 'static) -> Self {
        self.settings.retry_if = Rc::new(retry);
        self
    }

    /// Runs on each new connection before it counts as connected: to log in, to subscribe. When what it
    /// returns fails, the connection is closed, and the attempt has failed.
    pub fn prepare<R: MaybeDeferred>(
        mut self,
        prepare: impl Fn(&Connection<F::Protocol>) -> R + 'static,
    ) -> Self {
        self.settings.prepare = Some(Rc::new(move |connection| {
            let (resolver, deferred) = Deferred::new(connection.reactor());
            let resolver = Rc::new(RefCell::new(Some(resolver)));
            let later = Rc::clone(&resolver);
            let done = prepare(connection).when_done(move |_, outcome| {
                if let Some(resolver) = later.take() {
                    resolver.resolve(outcome);
                }
            });
            if done.is_some()
                && let Some(resolver) = resolver.take()
            {
                resolver.resolve(Ok(()));
            }
            deferred
        }));
        self
    }

    /// Begins with the first attempt.
    ///
    /// # Errors
    ///
    /// The endpoint makes no sense, or it is to give up after 0 failures.
    pub fn start(self, handle: &Handle) -> io::Result<ReconnectingClient<F>> {
        if self.settings.fail_after == Some(0) {
            let text = "fail_after is 0: the client would give up before it has tried; use at least 1";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let shared = Rc::new(Shared {
            handle: handle.clone(),
            endpoint: self.endpoint?,
            factory: SharedFactory::new(self.factory),
            settings: self.settings,
            state: RefCell::new(State::Stopped),
            failures: RefCell::new(0),
            waiting: RefCell::new(Vec::new()),
            stopped: RefCell::new(Vec::new()),
        });
        shared.attempt();
        Ok(ReconnectingClient { shared })
    }
}

impl<F: Factory> Shared<F> {
    fn attempt(self: &Rc<Self>) {
        let connecting = connect(&self.handle, Ok(self.endpoint.clone()), self.factory.clone());
        *self.state.borrow_mut() = State::Connecting(connecting.canceller());
        let shared = Rc::clone(self);
        connecting.on_done(move |_, outcome| match outcome {
            Ok(connection) => shared.connected(connection),
            Err(error) => shared.failed(error),
        });
    }

    fn connected(self: &Rc<Self>, connection: Connection<F::Protocol>) {
        let shared = Rc::clone(self);
        connection.lost().on_done(move |_, outcome| match outcome {
            Ok(reason) => shared.lost(&reason),
            // Only a reactor that goes takes its connections without a word.
            Err(_) => log::debug!("nobody says how the connection ended"),
        });
        if self.is_stopping() {
            connection.lose_connection();
            return;
        }
        // Until it is ready its loss is a failure of the attempt.
        *self.state.borrow_mut() = State::Preparing(connection.clone());
        let Some(prepare) = self.settings.prepare.clone() else { return self.ready(&connection) };
        let shared = Rc::clone(self);
        let Some(preparing) = self.contain("preparing a connection", || prepare(&connection)) else {
            // Its loss is the failure.
            connection.abort_connection();
            return;
        };
        preparing.on_done(move |_, outcome| match outcome {
            Ok(()) => shared.ready(&connection),
            Err(error) => {
                log::warn!("{}: cannot be prepared: {error}", connection.peer_addr());
                connection.lose_connection();
            }
        });
    }

    /// A connection is prepared; it may be lost by now.
    fn ready(&self, connection: &Connection<F::Protocol>) {
        if self.is_stopping() || connection.is_closing() {
            return;
        }
        *self.failures.borrow_mut() = 0;
        *self.state.borrow_mut() = State::Connected(connection.clone());
        for resolver in self.waiting.take() {
            resolver.resolve(Ok(connection.clone()));
        }
    }

    /// The connection is lost.
    fn lost(self: &Rc<Self>, reason: &Reason) {
        let before = match &*self.state.borrow() {
            State::Connected(_) => Lost::Connection,
            State::Preparing(_) => Lost::Attempt,
            State::Stopping => Lost::Last,
            State::Connecting(_) | State::Pausing(_) | State::Stopped | State::Failed(_) => return,
        };
        match before {
            Lost::Connection => self.pause(),
            Lost::Attempt => self.failed(ConnectError::unprepared(&self.endpoint, reason)),
            Lost::Last => self.end(State::Stopped),
        }
    }

    fn failed(self: &Rc<Self>, error: ConnectError) {
        if self.is_stopping() {
            return self.end(State::Stopped);
        }
        let failures = {
            let mut failures = self.failures.borrow_mut();
            *failures += 1;
            *failures
        };
        let gives_up = self.settings.fail_after.is_some_and(|most| failures >= most);
        let retry_if = Rc::clone(&self.settings.retry_if);
        let goes_on = !gives_up && self.contain("retry_if", || retry_if(&error)).unwrap_or(false);
        if !goes_on {
            log::warn!("{error}: giving up after {failures} failures");
            self.refuse_waiting(&error);
            return self.end(State::Failed(error));
        }
        self.pause();
    }

    /// Waits, then tries again.
    fn pause(self: &Rc<Self>) {
        let failures = *self.failures.borrow();
        let wait = self.settings.backoff.wait(failures, self.handle.random().unit());
        log::debug!("{}: connecting again in {wait:?}", self.endpoint);
        let shared = Rc::clone(self);
        let timer = self.handle.call_later(wait, move |_| shared.attempt());
        *self.state.borrow_mut() = State::Pausing(timer);
    }

    fn contain<R>(&self, what: &str, f: impl FnOnce() -> R) -> Option<R> {
        self.handle.inner()?.contain(what, f)
    }

    fn is_stopping(&self) -> bool {
        matches!(&*self.state.borrow(), State::Stopping | State::Stopped)
    }

    fn end(&self, state: State<F>) {
        *self.state.borrow_mut() = state;
        for resolver in self.stopped.take() {
            resolver.resolve(Ok(()));
        }
    }

    fn refuse_waiting(&self, error: &ConnectError) {
        for resolver in self.waiting.take() {
            resolver.resolve(Err(error.again()));
        }
    }

    fn cancelled(&self) -> ConnectError {
        ConnectError::new(&self.endpoint, ConnectErrorKind::Cancelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_from_the_first_to_the_longest() {
        let backoff = Backoff::new()
            .first(Duration::from_secs(2))
            .factor(3.0)
            .longest(Duration::from_secs(20))
            .jitter(0.0);
        let waits: Vec<u64> = (0..6).map(|failures| backoff.wait(failures, 0.9).as_secs()).collect();
        assert_eq!(waits, [2, 2, 6, 18, 20, 20]);
        assert_eq!(backoff.wait(u32::MAX, 0.0), Duration::from_secs(20));
        assert_eq!(backoff.first(Duration::ZERO).wait(3, 0.5), Duration::ZERO);
        assert_eq!(backoff.longest(Duration::MAX).wait(u32::MAX, 0.5), Duration::MAX);
    }

    #[test]
    fn jitter_stays_within_its_part_of_the_wait() {
        let backoff = Backoff::new().first(Duration::from_secs(10)).jitter(0.2);
        assert_eq!(backoff.wait(1, 0.0), Duration::from_secs(8));
        assert_eq!(backoff.wait(1, 0.5), Duration::from_secs(10));
        let most = backoff.wait(1, 1.0 - f64::EPSILON);
        assert!(most > Duration::from_millis(11_999) && most <= Duration::from_secs(12));
    }
}
