//! From names of hosts to addresses: [`Handle::resolve`], and what connecting to a name begins with.
//!
//! A name that was found is known for a while. One that is not known is asked for once, however many wait for
//! it: a *query*, made from the loop by the resolver that the builder was given, or by a blocking one on
//! threads of their own. Invariants: a query has an id, and an answer that comes for another id is for
//! nobody; whatever becomes of a resolver, a query that somebody waits for is answered.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::core::cache::Cache;
use crate::core::interruption::Interruption;
use crate::reactor::deferred::{Canceller, Deferred, Resolver};
use crate::reactor::handle::Handle;
use crate::reactor::inner::{Inner, panic_text};
use crate::reactor::remote::Inbox;
use crate::reactor::stats::Counters;
use crate::reactor::timers;
use crate::sys::thread_pool::{Job, JobId, ThreadPool};

type Addresses = io::Result<Vec<IpAddr>>;
type Ask = Arc<dyn Fn(&Handle, &str) -> Deferred<Vec<IpAddr>, io::Error> + Send + Sync>;
type AskBlocking = Arc<dyn Fn(&str) -> Addresses + Send + Sync>;

/// What finds the addresses of a host.
#[derive(Clone, Default)]
pub(crate) enum Source {
    /// The driver where it knows names; the system's resolver elsewhere.
    #[default]
    System,
    /// Called by the loop.
    Loop(Ask),
    /// Called on a thread.
    Blocking(AskBlocking),
}

/// How names are looked up.
#[derive(Clone)]
pub(crate) struct NameConfig {
    pub(crate) source: Source,
    /// Threads for resolvers that block, at most. A name server that does not answer holds one for each name
    /// that it was asked for, and must not hold up others.
    pub(crate) threads: usize,
    /// Names that are kept; 0 keeps none.
    pub(crate) cached: usize,
    /// How long addresses are kept.
    pub(crate) known_for: Duration,
    /// How long it is kept that a name has none.
    pub(crate) unknown_for: Duration,
}

impl Default for NameConfig {
    fn default() -> Self {
        Self {
            source: Source::System,
            threads: 16,
            cached: 1024,
            known_for: Duration::from_secs(60),
            unknown_for: Duration::from_secs(1),
        }
    }
}

/// The answer of a resolver in a form that can be handed out many times.
#[derive(Clone)]
enum Known {
    Addresses(Vec<IpAddr>),
    Error(io::ErrorKind, String),
}

impl Known {
    fn of(answer: Addresses) -> Self {
        match answer {
            Ok(addresses) => Self::Addresses(addresses),
            Err(error) => Self::Error(error.kind(), error.to_string()),
        }
    }

    fn into_result(self) -> Addresses {
        match self {
            Self::Addresses(addresses) => Ok(addresses),
            Self::Error(kind, text) => Err(io::Error::new(kind, text)),
        }
    }
}

/// A name that is being looked up.
struct Query {
    id: u64,
    stage: Stage,
    /// Nobody, if all have gone while a thread asks: its answer is still worth keeping.
    waiting: Vec<(u64, Resolver<Vec<IpAddr>, io::Error>)>,
}

enum Stage {
    /// The loop is about to ask.
    Queued,
    /// The resolver has answered with a Deferred.
    Asked(Canceller),
    /// A thread asks, or will.
    OnThread(JobId),
}

/// The names that a reactor knows, and those that it is asking for.
pub(crate) struct Names {
    cache: Cache<Known>,
    queries: HashMap<Box<str>, Query>,
    next_id: u64,
    pool: Option<ThreadPool>,
}

impl Names {
    pub(crate) fn new(cached: usize) -> Self {
        Self { cache: Cache::new(cached), queries: HashMap::new(), next_id: 0, pool: None }
    }

    /// Whether an answer would call a hook.
    pub(crate) fn are_waited_for(&self) -> bool {
        self.queries.values().any(|query| !query.waiting.is_empty())
    }

    /// Forgets everything; what waited for an answer is returned to be dropped.
    pub(crate) fn take_queries(&mut self) -> impl Sized + use<> {
        self.cache.clear();
        std::mem::take(&mut self.queries)
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The query for a name, if it is this one.
    fn query(&mut self, name: &str, id: u64) -> Option<&mut Query> {
        self.queries.get_mut(name).filter(|query| query.id == id)
    }
}

/// The answer to a query on its way to the loop, from whatever thread. Dropped, it arrives.
struct Answer {
    /// `None` once it need not arrive any more.
    inbox: Option<Arc<Inbox>>,
    name: Box<str>,
    id: u64,
    outcome: Addresses,
    /// It is the resolver's own: worth keeping.
    is_resolved: bool,
}

impl Answer {
    fn fail(&mut self, text: impl Into<Box<dyn std::error::Error + Send + Sync>>) {
        self.outcome = Err(io::Error::other(text));
    }

    fn set(&mut self, outcome: Addresses) {
        self.outcome = outcome;
        self.is_resolved = true;
    }

    fn take(&mut self) -> (Box<str>, u64, Addresses, bool) {
        self.inbox = None;
        let outcome = std::mem::replace(&mut self.outcome, Ok(Vec::new()));
        (std::mem::take(&mut self.name), self.id, outcome, self.is_resolved)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(inbox) = self.inbox.take() {
            let (name, id, outcome, is_resolved) = self.take();
            inbox.push_always(Box::new(move |handle| {
                if let Some(inner) = handle.inner() {
                    inner.answered(name, id, outcome, is_resolved);
                }
            }));
        }
    }
}

impl Handle {
    /// Looks up the addresses of a host by its name, best first, as [`connect`](Self::connect) does: with the
    /// resolver that the [builder](crate::ReactorBuilder::resolver) was given, else with the system's. What
    /// was found is known for a while (see [`name_cache`](crate::ReactorBuilder::name_cache)); look-ups of
    /// one name at the same time are one question. The text of an address is that address.
    ///
    /// There is no time-out but the resolver's own. [`Deferred::cancel`] ends this look-up, and not that of
    /// others who wait for the same name.
    ///
    /// ```
    /// use twistor::Reactor;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// reactor.resolve("localhost").on_done(|reactor, addresses| {
    ///     assert!(addresses.unwrap().iter().all(|address| address.is_loopback()));
    ///     reactor.stop();
    /// });
    /// reactor.run()
    /// # }
    /// ```
    #[track_caller]
    pub fn resolve(&self, name: &str) -> Deferred<Vec<IpAddr>, io::Error> {
        let literal = name.parse().ok();
        match (self.inner(), literal) {
            (Some(inner), None) => inner.resolve(name),
            (inner, literal) => {
                let (resolver, deferred) = Deferred::new(self);
                let gone = || io::Error::new(io::ErrorKind::NotConnected, "the reactor is gone");
                resolver.resolve(
                    literal.filter(|_| inner.is_some()).map(|address| vec![address]).ok_or_else(gone),
                );
                deferred
            }
        }
    }
}

impl Inner {
    /// The addresses of a host by its name.
    #[track_caller]
    pub(crate) fn resolve(&self, name: &str) -> Deferred<Vec<IpAddr>, io::Error> {
        let (resolver, deferred) = Deferred::new(&self.handle);
        let by_driver = match self.config.names.source {
            Source::System => self.driver.borrow().resolve(name),
            Source::Loop(_) | Source::Blocking(_) => None,
        };
        if let Some(answer) = by_driver {
            resolver.resolve(answer);
            return deferred;
        }
        // Names do not differ by the case of their letters (RFC 4343).
        let name = name.to_ascii_lowercase().into_boxed_str();
        let now = self.read_clock();
        let known = self.names.borrow_mut().cache.get(&name, now).cloned();
        if let Some(known) = known {
            Counters::bump(&self.counters.name_hits);
            resolver.resolve(known.into_result());
            return deferred;
        }
        let waiter = self.names.borrow_mut().new_id();
        let (handle, cancelled) = (self.handle.clone(), name.clone());
        resolver
            .on_cancel(move || handle.inner().is_some_and(|inner| inner.stop_waiting(&cancelled, waiter)));
        self.wait_for(name, waiter, resolver);
        deferred
    }

    /// Waits for the answer to a query, which begins if there is none for this name.
    fn wait_for(&self, name: Box<str>, waiter: u64, resolver: Resolver<Vec<IpAddr>, io::Error>) {
        let mut names = self.names.borrow_mut();
        if let Some(query) = names.queries.get_mut(&name) {
            query.waiting.push((waiter, resolver));
            return;
        }
        let id = names.new_id();
        let query = Query { id, stage: Stage::Queued, waiting: vec![(waiter, resolver)] };
        names.queries.insert(name.clone(), query);
        drop(names);
        let inbox = Some(self.handle.remote().inbox);
        let mut answer = Answer { inbox, name, id, outcome: Ok(Vec::new()), is_resolved: false };
        answer.fail("the resolver gave no answer");
        // From the loop: a resolver is user code.
        self.handle.call_soon(move |handle| {
            if let Some(inner) = handle.inner() {
                inner.ask(answer);
            }
        });
    }

    /// Asks the resolver.
    fn ask(&self, mut answer: Answer) {
        let id = answer.id;
        if self.names.borrow_mut().query(&answer.name, id).is_none() {
            // All who waited have gone.
            answer.inbox = None;
            return;
        }
        Counters::bump(&self.counters.name_queries);
        let name = answer.name.clone();
        let stage = match &self.config.names.source {
            Source::Loop(ask) => match self.contain("the resolver", || ask(&self.handle, &name)) {
                Some(deferred) => {
                    let canceller = deferred.canceller();
                    deferred.on_done(move |handle, outcome| {
                        // Else it gave no answer, which is no news about the name.
                        if !outcome.as_ref().is_err_and(is_interrupted) {
                            answer.set(outcome);
                        }
                        let (name, id, outcome, is_resolved) = answer.take();
                        if let Some(inner) = handle.inner() {
                            inner.answered(name, id, outcome, is_resolved);
                        }
                    });
                    Stage::Asked(canceller)
                }
                None => {
                    answer.fail("the resolver panicked");
                    return;
                }
            },
            Source::Blocking(ask) => match self.ask_on_thread(Arc::clone(ask), answer) {
                Some(job) => Stage::OnThread(job),
                None => return,
            },
            Source::System => match self.ask_on_thread(Arc::new(ask_system), answer) {
                Some(job) => Stage::OnThread(job),
                None => return,
            },
        };
        match self.names.borrow_mut().query(&name, id) {
            Some(query) => query.stage = stage,
            // Cancelled by the resolver itself: nobody can cancel it any more.
            None => log::debug!("the search for {name} was cancelled while it began"),
        }
    }

    /// Has a thread ask; `None` if none is needed, or none can be had. The answer comes in any case.
    fn ask_on_thread(&self, ask: AskBlocking, mut answer: Answer) -> Option<JobId> {
        // What is heard if the pool does not take it.
        answer.fail("as many names as may be are looked up already; try again later");
        let job: Job = Box::new(move || {
            let asked = catch_unwind(AssertUnwindSafe(|| ask(&answer.name)));
            match asked {
                Ok(outcome) => answer.set(outcome),
                Err(payload) => {
                    let text = format!("the resolver panicked: {}", panic_text(&*payload));
                    log::error!("{text}");
                    answer.fail(text);
                    // What somebody panicked with may panic again when it is dropped.
                    let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
                }
            }
        });
        if self.driver.borrow().is_simulated() {
            job();
            return None;
        }
        let threads = self.config.names.threads;
        let pool = {
            let mut names = self.names.borrow_mut();
            names.pool.get_or_insert_with(|| ThreadPool::leaving_stuck_threads(threads)).clone()
        };
        pool.push(job).ok()
    }

    /// Somebody does not want to know any more. False when they know.
    fn stop_waiting(&self, name: &str, waiter: u64) -> bool {
        let (resolver, abandoned) = {
            let mut names = self.names.borrow_mut();
            let Some(query) = names.queries.get_mut(name) else { return false };
            let Some(place) = query.waiting.iter().position(|(id, _)| *id == waiter) else { return false };
            let (_, resolver) = query.waiting.remove(place);
            let abandoned = query.waiting.is_empty().then(|| names.abandon(name)).flatten();
            (resolver, abandoned)
        };
        resolver.resolve(Err(io::Error::new(io::ErrorKind::Interrupted, "the look-up was cancelled")));
        match abandoned {
            Some(Abandoned::Asked(canceller)) => {
                canceller.cancel();
            }
            Some(Abandoned::Job(job)) => drop(job),
            None => {}
        }
        true
    }

    /// A query has its answer.
    fn answered(&self, name: Box<str>, id: u64, outcome: Addresses, is_resolved: bool) {
        let now = self.read_clock();
        let known = Known::of(outcome);
        let query = {
            let mut names = self.names.borrow_mut();
            if names.query(&name, id).is_none() {
                // All who waited had gone.
                return;
            }
            let query = names.queries.remove(&name);
            if is_resolved {
                let until = self.good_until(&known, now);
                names.cache.insert(name, known.clone(), until, now);
            }
            query
        };
        for (_, resolver) in query.into_iter().flat_map(|query| query.waiting) {
            resolver.resolve(known.clone().into_result());
        }
    }

    fn good_until(&self, known: &Known, now: Instant) -> Instant {
        let config = &self.config.names;
        timers::deadline(
            now,
            match known {
                Known::Addresses(addresses) if !addresses.is_empty() => config.known_for,
                Known::Addresses(_) | Known::Error(..) => config.unknown_for,
            },
        )
    }

    /// None of the addresses of this name can be reached: they are to be looked up anew.
    pub(crate) fn forget_name(&self, name: &str) {
        self.names.borrow_mut().cache.remove(&name.to_ascii_lowercase());
    }
}

/// What is left of a query that nobody waits for; dropped, or cancelled, with nothing borrowed.
enum Abandoned {
    Asked(Canceller),
    Job(Option<Job>),
}

impl Names {
    /// Ends a query that nobody waits for, unless a thread is asking already: then the answer will be kept,
    /// and asking again would only hold another thread.
    fn abandon(&mut self, name: &str) -> Option<Abandoned> {
        let abandoned = match &self.queries.get(name)?.stage {
            Stage::Queued => Abandoned::Job(None),
            Stage::Asked(canceller) => Abandoned::Asked(canceller.clone()),
            Stage::OnThread(id) => Abandoned::Job(Some(self.pool.as_ref()?.take_back(*id)?)),
        };
        self.queries.remove(name);
        Some(abandoned)
    }
}

/// Whether a resolver's Deferred ended without anybody deciding it.
fn is_interrupted(error: &io::Error) -> bool {
    matches!(error.get_ref(), Some(cause) if cause.is::<Interruption>())
}

/// The order of the addresses is that of RFC 6724, as far as the system keeps to it.
fn ask_system(name: &str) -> Addresses {
    Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}
