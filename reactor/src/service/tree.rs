//! Parts of a program that are started in order and stopped in reverse: [`Service`] and [`ServiceGroup`].
//!
//! A group knows what it is to be (running or stopped) and how far each child is, and takes one step at a
//! time towards it: every start and stop of a child is finished before the next begins. So whatever is asked
//! for meanwhile (stop while it starts, children that come and go) only changes where the steps lead.

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::rc::Rc;

use crate::core::interruption::Interruption;
use crate::reactor::deferred::{Canceller, Deferred, MaybeDeferred, Resolver};
use crate::reactor::handle::Handle;

/// A part of a program that can be started and stopped, and started again.
///
/// Both hooks are called from the loop, never at once; one that takes its time returns a [`Deferred`].
/// Closures make a service with [`ServiceFn`](crate::ServiceFn).
///
/// ```
/// use twistor::{Handle, Progress, Service};
///
/// struct Cache { entries: Vec<String> }
///
/// impl Service for Cache {
///     fn name(&self) -> String {
///         "cache".to_owned()
///     }
///     fn start(&mut self, _: &Handle) -> Progress {
///         self.entries.push("warmed up".to_owned());
///         Progress::done()
///     }
///     fn stop(&mut self, _: &Handle) -> Progress {
///         self.entries.clear();
///         Progress::done()
///     }
/// }
/// ```
pub trait Service: 'static {
    /// What it is called in errors and in the log.
    fn name(&self) -> String;

    /// Starts it. What is returned may be a failure, or a Deferred that is waited for.
    fn start(&mut self, reactor: &Handle) -> Progress;

    /// Stops it. It may come while a start has not finished: then that has been cancelled, if it can be. Not
    /// called after a start that has failed, nor for what was not started.
    fn stop(&mut self, reactor: &Handle) -> Progress {
        let _ = reactor;
        Progress::done()
    }
}

type Done = Box<dyn FnOnce(&Handle, Result<(), Box<dyn Error>>)>;

/// What a start or a stop comes to: done, failed, or to be waited for.
///
/// ```
/// use twistor::{Deferred, Progress, Reactor};
///
/// let reactor = Reactor::new()?;
/// let done = Progress::done();
/// let failed: Progress = Err::<(), _>("the disk is full").into();
/// let (resolver, deferred) = Deferred::<(), String>::new(&reactor);
/// let later: Progress = deferred.into();
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "it says whether it went well"]
pub struct Progress(Outcome);

enum Outcome {
    Done,
    Failed(Box<dyn Error>),
    Later(Box<dyn FnOnce(Done)>, Canceller),
}

impl Progress {
    /// Nothing to wait for.
    pub fn done() -> Self {
        Self(Outcome::Done)
    }

    /// It did not work.
    pub fn failed(error: impl Into<Box<dyn Error>>) -> Self {
        Self(Outcome::Failed(error.into()))
    }

    /// Calls `done` with the outcome: from the loop if it is to be waited for, else at once.
    pub(crate) fn when_done(
        self,
        handle: &Handle,
        done: impl FnOnce(&Handle, Result<(), Box<dyn Error>>) + 'static,
    ) {
        match self.0 {
            Outcome::Done => done(handle, Ok(())),
            Outcome::Failed(error) => done(handle, Err(error)),
            Outcome::Later(wait, _) => wait(Box::new(done)),
        }
    }
}

impl From<()> for Progress {
    fn from((): ()) -> Self {
        Self::done()
    }
}

impl<E: Into<Box<dyn Error>>> From<Result<(), E>> for Progress {
    fn from(result: Result<(), E>) -> Self {
        result.map_or_else(Self::failed, |()| Self::done())
    }
}

impl<E: Into<Box<dyn Error>> + 'static> From<Deferred<(), E>> for Progress {
    fn from(deferred: Deferred<(), E>) -> Self {
        let canceller = deferred.canceller();
        let wait = |done: Done| {
            // A Deferred is never done at once.
            let _ = deferred.when_done(done);
        };
        Self(Outcome::Later(Box::new(wait), canceller))
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Outcome::Done => f.write_str("Progress::Done"),
            Outcome::Failed(error) => write!(f, "Progress::Failed({error})"),
            Outcome::Later(..) => f.write_str("Progress::Later"),
        }
    }
}

/// A service that did not start or stop.
#[derive(Debug)]
pub struct ServiceError {
    service: String,
    what: &'static str,
    cause: Box<dyn Error>,
}

impl ServiceError {
    fn new(service: &str, what: &'static str, cause: impl Into<Box<dyn Error>>) -> Self {
        Self { service: service.to_owned(), what, cause: cause.into() }
    }

    /// The name of the service.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// What the service said.
    #[must_use]
    pub fn cause(&self) -> &(dyn Error + 'static) {
        &*self.cause
    }
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service {:?} {}: {}", self.service, self.what, self.cause)
    }
}

impl Error for ServiceError {}

impl From<Interruption> for ServiceError {
    fn from(interruption: Interruption) -> Self {
        Self::new("", "was interrupted", interruption)
    }
}

/// A child of a group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ServiceId(u64);

/// Services that are one: started in the order in which they were added, stopped in reverse, each waited for.
///
/// When one cannot start, those before it are stopped again, in reverse, and the group has failed with an
/// error that names it. A failure to stop is logged, and does not keep the others from stopping. A panic
/// counts as a failure. A group is a service itself, so that groups make a tree. Clones are the same group.
///
/// ```
/// use twistor::{Reactor, ServiceFn, ServiceGroup};
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// let group = ServiceGroup::new("program");
/// group.add(ServiceFn::new("database").on_start(|_| println!("connected")).on_stop(|_| println!("closed")));
/// group.add(ServiceFn::new("reports").on_start(|_| Err::<(), _>("no printer")));
/// group.start(&reactor).on_done(|reactor, outcome| {
///     assert_eq!(outcome.unwrap_err().to_string(), r#"service "reports" cannot start: no printer"#);
///     reactor.stop();
/// });
/// reactor.run()
/// # }
/// ```
#[derive(Clone)]
pub struct ServiceGroup {
    group: Rc<Group>,
}

struct Group {
    name: String,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    handle: Option<Handle>,
    goal: Goal,
    children: Vec<Child>,
    next_id: u64,
    /// What is being waited for. A late answer to an earlier step has another number.
    step: Option<Step>,
    steps: u64,
    /// A look at what is to be done is queued.
    is_scheduled: bool,
    starting: Vec<Resolver<(), ServiceError>>,
    stopping: Vec<Resolver<(), ServiceError>>,
    /// Why the group stops although it was to start.
    failure: Option<ServiceError>,
    /// The first thing that went wrong while stopping.
    stop_failure: Option<ServiceError>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Goal {
    #[default]
    Stopped,
    Starting,
    /// All had started.
    Running,
}

struct Step {
    number: u64,
    child: u64,
    /// Of a start that takes its time.
    canceller: Option<Canceller>,
}

struct Child {
    id: u64,
    name: String,
    /// Not here while it is called.
    service: Option<Box<dyn Service>>,
    phase: Phase,
    is_leaving: bool,
    waiting: Vec<Resolver<(), ServiceError>>,
    removed: Vec<Resolver<(), ServiceError>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Idle,
    Starting,
    Running,
    Stopping,
}

/// What is to be done next.
enum Next {
    Start(u64),
    Stop(u64),
    Drop(usize),
    Nothing,
}

impl ServiceGroup {
    /// An empty group, stopped.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { group: Rc::new(Group { name: name.into(), state: RefCell::default() }) }
    }

    /// Adds a service behind the others. It is started with the group, or soon if that runs.
    ///
    /// One that cannot start in a running group is logged and removed; the others go on. See
    /// [`when_running`](Self::when_running).
    pub fn add(&self, service: impl Service) -> ServiceId {
        let mut state = self.group.state.borrow_mut();
        let id = state.next_id;
        state.next_id += 1;
        state.children.push(Child {
            id,
            name: format!("#{id}"),
            service: Some(Box::new(service)),
            phase: Phase::Idle,
            is_leaving: false,
            waiting: Vec::new(),
            removed: Vec::new(),
        });
        drop(state);
        self.group.look_soon();
        ServiceId(id)
    }

    /// Fires when a child runs, now if it does; fails if it cannot start, or is no child of the group's any
    /// more.
    #[track_caller]
    pub fn when_running(&self, reactor: &Handle, id: ServiceId) -> Deferred<(), ServiceError> {
        let (resolver, deferred) = Deferred::new(reactor);
        let mut state = self.group.state.borrow_mut();
        match state.child(id.0) {
            Some(child) if child.is_leaving => {
                resolver.resolve(Err(gone(id)));
            }
            Some(child) if child.phase == Phase::Running => {
                resolver.resolve(Ok(()));
            }
            Some(child) => child.waiting.push(resolver),
            None => {
                resolver.resolve(Err(gone(id)));
            }
        }
        deferred
    }

    /// Stops a child and drops it. Fires when that is done; fails if it did not stop as it should, or was
    /// none.
    #[track_caller]
    pub fn remove(&self, reactor: &Handle, id: ServiceId) -> Deferred<(), ServiceError> {
        let (resolver, deferred) = Deferred::new(reactor);
        let mut state = self.group.state.borrow_mut();
        match state.child(id.0) {
            Some(child) => {
                child.is_leaving = true;
                child.removed.push(resolver);
            }
            None => {
                resolver.resolve(Err(gone(id)));
            }
        }
        state.handle.get_or_insert_with(|| reactor.clone());
        drop(state);
        self.group.look_soon();
        deferred
    }

    /// Starts all, in order. Fires when all run, or fails when one cannot start and those before it have
    /// stopped again.
    #[track_caller]
    pub fn start(&self, reactor: &Handle) -> Deferred<(), ServiceError> {
        let (resolver, deferred) = Deferred::new(reactor);
        let mut state = self.group.state.borrow_mut();
        state.handle = Some(reactor.clone());
        if state.goal == Goal::Stopped && state.failure.is_none() {
            state.goal = Goal::Starting;
        }
        state.starting.push(resolver);
        let overtaken = std::mem::take(&mut state.stopping);
        drop(state);
        self.group.overtake(overtaken, "cannot stop", "it was started again");
        self.group.look_soon();
        deferred
    }

    /// Stops all, in reverse. Fires when all have stopped; fails when one could not, and all others have. A
    /// start that is under way is given up.
    #[track_caller]
    pub fn stop(&self, reactor: &Handle) -> Deferred<(), ServiceError> {
        let (resolver, deferred) = Deferred::new(reactor);
        let mut state = self.group.state.borrow_mut();
        state.handle = Some(reactor.clone());
        state.goal = Goal::Stopped;
        state.stopping.push(resolver);
        let overtaken =
            if state.failure.is_none() { std::mem::take(&mut state.starting) } else { Vec::new() };
        drop(state);
        self.group.overtake(overtaken, "cannot start", "it was stopped again");
        self.group.look_soon();
        deferred
    }

    /// Drops all services, after the reactor.
    #[cfg(unix)]
    pub(crate) fn clear(&self) {
        let children = std::mem::take(&mut self.group.state.borrow_mut().children);
        drop(children);
    }

    /// Whether all have started, and none was told to stop.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.group.state.borrow().goal == Goal::Running
    }

    /// How many services it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.group.state.borrow().children.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Service for ServiceGroup {
    fn name(&self) -> String {
        self.group.name.clone()
    }

    fn start(&mut self, reactor: &Handle) -> Progress {
        Self::start(self, reactor).into()
    }

    fn stop(&mut self, reactor: &Handle) -> Progress {
        Self::stop(self, reactor).into()
    }
}

impl fmt::Debug for ServiceGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.group.state.borrow();
        f.debug_struct("ServiceGroup")
            .field("name", &self.group.name)
            .field("goal", &state.goal)
            .field("services", &state.children.len())
            .finish()
    }
}

fn gone(child: ServiceId) -> ServiceError {
    ServiceError::new(&format!("#{}", child.0), "is not there", "it was removed, or could not start")
}

impl State {
    fn child(&mut self, id: u64) -> Option<&mut Child> {
        self.children.iter_mut().find(|child| child.id == id)
    }

    fn next(&self) -> Next {
        let mut leaving = self.children.iter().enumerate().filter(|(_, child)| child.is_leaving);
        if let Some((place, child)) = leaving.next() {
            return match child.phase {
                Phase::Idle => Next::Drop(place),
                _ => Next::Stop(child.id),
            };
        }
        let next = match self.goal {
            Goal::Starting | Goal::Running => self
                .children
                .iter()
                .find(|child| child.phase == Phase::Idle)
                .map(|child| Next::Start(child.id)),
            Goal::Stopped => self
                .children
                .iter()
                .rev()
                .find(|child| child.phase != Phase::Idle)
                .map(|child| Next::Stop(child.id)),
        };
        next.unwrap_or(Next::Nothing)
    }

    /// Gives up waiting for a start that is not wanted any more. Its canceller is to be called.
    fn give_up_start(&mut self) -> Option<Canceller> {
        let step = self.step.as_ref()?;
        let (id, goal) = (step.child, self.goal);
        let child = self.children.iter_mut().find(|child| child.id == id)?;
        if child.phase != Phase::Starting || (goal != Goal::Stopped && !child.is_leaving) {
            return None;
        }
        child.phase = Phase::Running;
        self.step.take()?.canceller
    }
}

impl Group {
    /// Has the loop look at what is to be done.
    fn look_soon(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        let Some(handle) = state.handle.clone() else { return };
        if std::mem::replace(&mut state.is_scheduled, true) {
            return;
        }
        drop(state);
        let group = Rc::clone(self);
        handle.call_soon(move |handle| {
            group.state.borrow_mut().is_scheduled = false;
            group.look(handle);
        });
    }

    /// Takes the steps that can be taken without waiting.
    fn look(self: &Rc<Self>, handle: &Handle) {
        let given_up = self.state.borrow_mut().give_up_start();
        if let Some(canceller) = given_up {
            // What it does is a user's.
            self.contain(handle, || canceller.cancel());
        }
        while self.state.borrow().step.is_none() {
            let next = self.state.borrow().next();
            match next {
                Next::Start(id) => self.call(handle, id, Phase::Starting),
                Next::Stop(id) => self.call(handle, id, Phase::Stopping),
                Next::Drop(place) => self.drop_child(handle, place),
                Next::Nothing => return self.settle(),
            }
        }
    }

    /// Calls a child's `start` or `stop`.
    fn call(self: &Rc<Self>, handle: &Handle, id: u64, phase: Phase) {
        let mut state = self.state.borrow_mut();
        state.steps += 1;
        let number = state.steps;
        state.step = Some(Step { number, child: id, canceller: None });
        let service = state.child(id).and_then(|child| {
            child.phase = phase;
            child.service.take()
        });
        drop(state);
        let Some(mut service) = service else { return };
        let name = self.contain(handle, || service.name());
        let progress = self.contain(handle, || match phase {
            Phase::Starting => service.start(handle),
            _ => service.stop(handle),
        });
        let progress = progress.unwrap_or_else(|| Progress::failed("it panicked"));
        let mut state = self.state.borrow_mut();
        if let Some(child) = state.child(id) {
            child.service = Some(service);
            if let Some(name) = name {
                child.name = name;
            }
        }
        if let (Outcome::Later(_, canceller), Some(step)) = (&progress.0, &mut state.step) {
            step.canceller = Some(canceller.clone());
        }
        drop(state);
        let group = Rc::clone(self);
        let waits = matches!(progress.0, Outcome::Later(..));
        progress.when_done(handle, move |handle, outcome| {
            group.finished(number, outcome);
            if waits {
                group.look(handle);
            }
        });
        if waits {
            // It may have been told to stop in the meantime.
            self.look_soon();
        }
    }

    /// A child's start or stop has ended.
    fn finished(&self, number: u64, outcome: Result<(), Box<dyn Error>>) {
        let mut state = self.state.borrow_mut();
        // Otherwise nobody waits for it any more.
        let Some(step) = state.step.take_if(|step| step.number == number) else { return };
        let goal = state.goal;
        let Some(child) = state.child(step.child) else { return };
        let phase = child.phase;
        match (phase, outcome) {
            (Phase::Starting, Ok(())) => {
                child.phase = Phase::Running;
                log::debug!("service {:?} runs", child.name);
                let waiting = std::mem::take(&mut child.waiting);
                drop(state);
                for resolver in waiting {
                    resolver.resolve(Ok(()));
                }
            }
            (Phase::Starting, Err(cause)) => {
                child.phase = Phase::Idle;
                let text = cause.to_string();
                let error = ServiceError::new(&child.name, "cannot start", cause);
                let waiting = std::mem::take(&mut child.waiting);
                let name = child.name.clone();
                match goal {
                    Goal::Starting => {
                        state.goal = Goal::Stopped;
                        state.failure = Some(error);
                    }
                    Goal::Running | Goal::Stopped => {
                        log::error!("{error}");
                        if let Some(child) = state.child(step.child) {
                            child.is_leaving = true;
                        }
                    }
                }
                drop(state);
                for resolver in waiting {
                    resolver.resolve(Err(ServiceError::new(&name, "cannot start", text.clone())));
                }
            }
            (_, outcome) => {
                child.phase = Phase::Idle;
                if let Err(cause) = outcome {
                    let text = cause.to_string();
                    let error = ServiceError::new(&child.name, "cannot stop", cause);
                    log::error!("{error}");
                    let removed = std::mem::take(&mut child.removed);
                    let name = child.name.clone();
                    if !child.is_leaving {
                        state.stop_failure.get_or_insert(error);
                    }
                    drop(state);
                    for resolver in removed {
                        resolver.resolve(Err(ServiceError::new(&name, "cannot stop", text.clone())));
                    }
                }
            }
        }
    }

    fn drop_child(&self, handle: &Handle, place: usize) {
        let child = self.state.borrow_mut().children.remove(place);
        let Child { id, service, waiting, removed, .. } = child;
        self.contain(handle, || drop(service));
        for resolver in waiting {
            resolver.resolve(Err(gone(ServiceId(id))));
        }
        for resolver in removed {
            resolver.resolve(Ok(()));
        }
    }

    /// There is nothing left to do: whoever waits for that hears of it.
    fn settle(&self) {
        let mut state = self.state.borrow_mut();
        match state.goal {
            Goal::Starting | Goal::Running => {
                state.goal = Goal::Running;
                let starting = std::mem::take(&mut state.starting);
                drop(state);
                for resolver in starting {
                    resolver.resolve(Ok(()));
                }
            }
            Goal::Stopped => {
                let failure = state.failure.take();
                let stop_failure = state.stop_failure.take();
                let (starting, stopping) =
                    (std::mem::take(&mut state.starting), std::mem::take(&mut state.stopping));
                drop(state);
                let again = |error: &ServiceError| {
                    ServiceError::new(&error.service, error.what, error.cause.to_string())
                };
                for resolver in starting {
                    resolver.resolve(failure.as_ref().map_or(Ok(()), |error| Err(again(error))));
                }
                for resolver in stopping {
                    resolver.resolve(stop_failure.as_ref().map_or(Ok(()), |error| Err(again(error))));
                }
            }
        }
    }

    fn overtake(&self, resolvers: Vec<Resolver<(), ServiceError>>, what: &'static str, why: &str) {
        for resolver in resolvers {
            resolver.resolve(Err(ServiceError::new(&self.name, what, why)));
        }
    }

    fn contain<R>(&self, handle: &Handle, f: impl FnOnce() -> R) -> Option<R> {
        handle.inner()?.contain(format_args!("a service of {:?}", self.name), f)
    }
}
