//! Services that most programs need: a port, a client, a timer, closures.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use crate::endpoint::{EndpointError, IntoListenEndpoint, ListenEndpoint};
use crate::protocol::{Factory, SharedFactory};
use crate::reactor::deferred::MaybeDeferred;
use crate::reactor::handle::Handle;
use crate::reactor::listening::Port;
use crate::reactor::looping::LoopingCall;
use crate::service::reconnecting::{ReconnectingClient, ReconnectingClientBuilder};
use crate::service::tree::{Progress, Service};

/// A service that listens while it runs. Connections outlive it, until they end or the reactor does.
///
/// ```
/// use twistor::{ListenService, Protocol, ServiceGroup, Transport};
///
/// struct Echo;
/// impl Protocol for Echo {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         transport.write(data);
///     }
/// }
///
/// let group = ServiceGroup::new("program");
/// group.add(ListenService::new("echo", "tcp:8000", |_| Echo));
/// ```
pub struct ListenService<F: Factory> {
    name: String,
    endpoint: Result<ListenEndpoint, EndpointError>,
    factory: SharedFactory<F>,
    port: Option<Port>,
}

impl<F: Factory> ListenService<F> {
    /// One that listens at this endpoint. One that makes no sense is reported by the start.
    pub fn new(name: impl Into<String>, endpoint: impl IntoListenEndpoint, factory: F) -> Self {
        let endpoint = endpoint.into_listen_endpoint();
        Self { name: name.into(), endpoint, factory: SharedFactory::new(factory), port: None }
    }
}

impl<F: Factory> Service for ListenService<F> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn start(&mut self, reactor: &Handle) -> Progress {
        let endpoint = match &self.endpoint {
            Ok(endpoint) => endpoint.clone(),
            Err(error) => return Progress::failed(error.to_string()),
        };
        match reactor.listen(endpoint, self.factory.clone()) {
            Ok(port) => {
                self.port = Some(port);
                Progress::done()
            }
            Err(error) => Progress::failed(error),
        }
    }

    fn stop(&mut self, _: &Handle) -> Progress {
        self.port.take().map_or_else(Progress::done, |port| port.stop_listening().into())
    }
}

impl<F: Factory> fmt::Debug for ListenService<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenService").field("name", &self.name).field("port", &self.port).finish()
    }
}

/// A service that keeps a client connected while it runs. Its stop closes the connection and waits for the
/// loss.
///
/// ```
/// use twistor::{ClientService, Protocol, ReconnectingClient, ServiceGroup, Transport};
///
/// struct Feed;
/// impl Protocol for Feed {
///     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
/// }
///
/// let group = ServiceGroup::new("program");
/// group.add(ClientService::new("feed", || {
///     ReconnectingClient::builder("tcp:feed.example:7000", |_| Feed)
/// }));
/// ```
pub struct ClientService<F: Factory> {
    name: String,
    make: Box<dyn FnMut() -> ReconnectingClientBuilder<F>>,
    started: Option<Box<dyn FnMut(&ReconnectingClient<F>)>>,
    client: Option<ReconnectingClient<F>>,
}

impl<F: Factory> ClientService<F> {
    /// One whose client `make` sets up, at each start. It counts as started when the first attempt begins.
    pub fn new(
        name: impl Into<String>,
        make: impl FnMut() -> ReconnectingClientBuilder<F> + 'static,
    ) -> Self {
        Self { name: name.into(), make: Box::new(make), started: None, client: None }
    }

    /// Called with each client that was started: to keep it, to send through it.
    #[must_use]
    pub fn on_started(mut self, hook: impl FnMut(&ReconnectingClient<F>) + 'static) -> Self {
        self.started = Some(Box::new(hook));
        self
    }
}

impl<F: Factory> Service for ClientService<F> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn start(&mut self, reactor: &Handle) -> Progress {
        match (self.make)().start(reactor) {
            Ok(client) => {
                if let Some(started) = &mut self.started {
                    started(&client);
                }
                self.client = Some(client);
                Progress::done()
            }
            Err(error) => Progress::failed(error),
        }
    }

    fn stop(&mut self, _: &Handle) -> Progress {
        self.client.take().map_or_else(Progress::done, |client| client.stop().into())
    }
}

impl<F: Factory> fmt::Debug for ClientService<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientService").field("name", &self.name).field("client", &self.client).finish()
    }
}

type Tick<R> = Rc<RefCell<dyn FnMut(&Handle, u64) -> R>>;

/// A service that calls something at regular intervals while it runs; see [`Handle::every`].
///
/// ```
/// use std::time::Duration;
/// use twistor::{ServiceGroup, TimerService};
///
/// let group = ServiceGroup::new("program");
/// group.add(TimerService::new("clean-up", Duration::from_secs(60), |_, _| println!("cleaning up")));
/// ```
pub struct TimerService<R> {
    name: String,
    interval: Duration,
    tick: Tick<R>,
    calls: Option<LoopingCall>,
}

impl<R: MaybeDeferred + 'static> TimerService<R> {
    /// One that calls `tick`, the first time after one interval.
    pub fn new(
        name: impl Into<String>,
        interval: Duration,
        tick: impl FnMut(&Handle, u64) -> R + 'static,
    ) -> Self {
        Self { name: name.into(), interval, tick: Rc::new(RefCell::new(tick)), calls: None }
    }
}

impl<R: MaybeDeferred + 'static> Service for TimerService<R> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn start(&mut self, reactor: &Handle) -> Progress {
        let tick = Rc::clone(&self.tick);
        self.calls =
            Some(reactor.every(self.interval, move |handle, skipped| (tick.borrow_mut())(handle, skipped)));
        Progress::done()
    }

    fn stop(&mut self, _: &Handle) -> Progress {
        if let Some(calls) = self.calls.take() {
            calls.stop();
        }
        Progress::done()
    }
}

impl<R> fmt::Debug for TimerService<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimerService").field("name", &self.name).field("calls", &self.calls).finish()
    }
}

type ServiceHook = Box<dyn FnMut(&Handle) -> Progress>;

/// A service made of closures.
///
/// ```
/// use twistor::{ServiceFn, ServiceGroup};
///
/// let group = ServiceGroup::new("program");
/// group.add(
///     ServiceFn::new("cache")
///         .on_start(|_| std::fs::create_dir_all("/var/cache/echo"))
///         .on_stop(|_| println!("the cache stays where it is")),
/// );
/// ```
#[must_use = "a service does nothing until a group starts it"]
pub struct ServiceFn {
    name: String,
    start: Option<ServiceHook>,
    stop: Option<ServiceHook>,
}

impl ServiceFn {
    /// One that does nothing yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), start: None, stop: None }
    }

    /// Starts it: returns nothing, a `Result`, or a [`Deferred`](crate::Deferred).
    pub fn on_start<R: Into<Progress>>(mut self, mut start: impl FnMut(&Handle) -> R + 'static) -> Self {
        self.start = Some(Box::new(move |handle| start(handle).into()));
        self
    }

    /// Stops it.
    pub fn on_stop<R: Into<Progress>>(mut self, mut stop: impl FnMut(&Handle) -> R + 'static) -> Self {
        self.stop = Some(Box::new(move |handle| stop(handle).into()));
        self
    }
}

impl Service for ServiceFn {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn start(&mut self, reactor: &Handle) -> Progress {
        self.start.as_mut().map_or_else(Progress::done, |start| start(reactor))
    }

    fn stop(&mut self, reactor: &Handle) -> Progress {
        self.stop.as_mut().map_or_else(Progress::done, |stop| stop(reactor))
    }
}

impl fmt::Debug for ServiceFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceFn").field("name", &self.name).finish_non_exhaustive()
    }
}
