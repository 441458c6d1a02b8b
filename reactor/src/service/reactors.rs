//! One reactor for each core: [`Reactors`].

use std::fmt;
use std::io;
use std::num::NonZero;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use crate::reactor::Reactor;
use crate::reactor::builder::ReactorBuilder;
use crate::reactor::handle::Handle;
use crate::reactor::remote::Remote;
use crate::reactor::stats::Stats;

/// Several reactors that serve together, each on a thread of its own.
///
/// Nothing is shared between them but what the program shares: each has its own connections, timers and
/// protocols, and so needs no lock. Ports with `reuse_port` are opened by all of them, and the kernel shares
/// the connections out. They end together: when one stops, fails or panics, all stop.
///
/// ```no_run
/// use twistor::{Protocol, Reactors, Transport};
///
/// struct Echo;
/// impl Protocol for Echo {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         transport.write(data);
///     }
/// }
///
/// fn main() -> std::io::Result<()> {
///     let reactors = Reactors::builder().pinned(true).start(|reactor, _| {
///         reactor.listen("tcp:8000:reuse_port=yes", |_| Echo)?;
///         Ok(())
///     })?;
///     reactors.join()
/// }
/// ```
///
/// Dropping it changes nothing: the reactors go on.
pub struct Reactors {
    threads: Vec<JoinHandle<io::Result<()>>>,
    all: Everybody,
}

/// The ways in to all reactors, as they come into being.
#[derive(Clone, Default)]
struct Everybody {
    inside: Arc<Mutex<Inside>>,
}

#[derive(Default)]
struct Inside {
    remotes: Vec<Remote>,
    /// Whoever comes now stops at once.
    is_stopping: bool,
}

impl Everybody {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, remote: Remote) {
        let mut inside = self.lock();
        if inside.is_stopping {
            remote.stop();
        }
        inside.remotes.push(remote);
    }

    fn list(&self) -> Vec<Remote> {
        self.lock().remotes.clone()
    }

    fn stop(&self) {
        let mut inside = self.lock();
        inside.is_stopping = true;
        inside.remotes.iter().for_each(Remote::stop);
    }
}

/// Stops all when it is dropped: also by a panic.
struct StopsAll(Everybody);

impl Drop for StopsAll {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Sets [`Reactors`] up.
#[derive(Clone, Debug, Default)]
#[must_use = "a builder starts nothing until `start`"]
pub struct ReactorsBuilder {
    count: Option<usize>,
    pinned: bool,
    reactor: ReactorBuilder,
}

impl ReactorsBuilder {
    /// How many reactors there are. Default: as many as there are processors.
    pub fn count(mut self, reactors: usize) -> Self {
        self.count = Some(reactors);
        self
    }

    /// Whether each thread stays on one processor. Default: the system decides. Linux only; elsewhere it
    /// changes nothing.
    pub fn pinned(mut self, on: bool) -> Self {
        self.pinned = on;
        self
    }

    /// The settings of each reactor.
    pub fn reactor(mut self, builder: ReactorBuilder) -> Self {
        self.reactor = builder;
        self
    }

    /// Starts them. `setup` is called for each on its own thread, before it runs, with its number from 0 on.
    ///
    /// # Errors
    ///
    /// No reactor is wanted, one cannot be made, its `setup` fails, or no thread can be started. None runs
    /// then.
    pub fn start(
        self,
        setup: impl Fn(&Handle, usize) -> io::Result<()> + Send + Sync + 'static,
    ) -> io::Result<Reactors> {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let count = self.count.unwrap_or(processors);
        if count == 0 {
            let text = "0 reactors would serve nobody; use at least 1";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let setup = Arc::new(setup);
        let mut reactors = Reactors { threads: Vec::new(), all: Everybody::default() };
        let (ready, readies) = mpsc::channel();
        for number in 0..count {
            let (setup, all, ready) = (Arc::clone(&setup), reactors.all.clone(), ready.clone());
            let (builder, processor) = (self.reactor.clone(), self.pinned.then_some(number % processors));
            let thread = thread::Builder::new().name(format!("reactor-{number}")).spawn(move || {
                let begun = begin(builder, processor, &all, |handle| setup(handle, number));
                match begun {
                    Ok(reactor) => {
                        let _stops_all = StopsAll(all);
                        let _ = ready.send(Ok(()));
                        // So that the end of all senders shows that somebody's setup panicked.
                        drop(ready);
                        reactor.run()
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                        Ok(())
                    }
                }
            });
            match thread {
                Ok(thread) => reactors.threads.push(thread),
                Err(error) => return Err(reactors.give_up(error)),
            }
        }
        drop(ready);
        for _ in 0..count {
            match readies.recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(reactors.give_up(error)),
                Err(_) => return Err(reactors.give_up(io::Error::other("a reactor's setup panicked"))),
            }
        }
        Ok(reactors)
    }
}

/// Makes a reactor on its own thread and sets it up.
fn begin(
    builder: ReactorBuilder,
    processor: Option<usize>,
    all: &Everybody,
    setup: impl FnOnce(&Handle) -> io::Result<()>,
) -> io::Result<Reactor> {
    if let Some(processor) = processor {
        crate::sys::affinity::stay_on(processor)?;
    }
    let reactor = builder.build()?;
    setup(&reactor)?;
    all.join(reactor.remote());
    Ok(reactor)
}

impl Reactors {
    /// To set them up.
    pub fn builder() -> ReactorsBuilder {
        ReactorsBuilder::default()
    }

    /// Asks all of them to stop; see [`Handle::stop`].
    pub fn stop(&self) {
        self.all.stop();
    }

    /// The ways in to each, in no particular order: to have something done by all, or by one.
    #[must_use]
    pub fn remotes(&self) -> Vec<Remote> {
        self.all.list()
    }

    /// The sums of what those that run have counted. Waits for each to answer, so that it must not be called
    /// from one of them.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for remote in self.all.list() {
            if let Ok(stats) = remote.blocking_call(Handle::stats) {
                sum.add(&stats);
            }
        }
        sum
    }

    /// Waits until all have ended.
    ///
    /// # Errors
    ///
    /// One of them failed, or panicked: the first of those.
    pub fn join(self) -> io::Result<()> {
        let mut result = Ok(());
        for thread in self.threads {
            let outcome = thread.join().unwrap_or_else(|_| Err(io::Error::other("a reactor panicked")));
            result = result.and(outcome);
        }
        result
    }

    fn give_up(self, error: io::Error) -> io::Error {
        self.stop();
        for thread in self.threads {
            // What else goes wrong is less than what went wrong first.
            let _ = thread.join();
        }
        error
    }
}

impl fmt::Debug for Reactors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactors").field("count", &self.threads.len()).finish_non_exhaustive()
    }
}
