//! Keeps commands running: starts each again when it ends, and stops all of them in good order.
//!
//! Run it:      cargo run --release --example process_supervisor -- "sleep 3" "ping 127.0.0.1"
//! Talk to it:  kill one of its children; its number is printed. Ctrl-C or SIGTERM stops it.
//!
//! What it shows: children without threads and without polling. `process_exited` is the place to decide what happens
//! next; a command that ends soon after its start waits twice as long each time, up to ten seconds. At the end a
//! trigger of the shutdown sends SIGTERM, two seconds later SIGKILL, and has the reactor wait for the last one.

#[cfg(unix)]
mod supervisor {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;
    use std::time::{Duration, Instant};

    use twistor::{Deferred, ExitStatus, Fd, Handle, Interruption, Process, ProcessProtocol, Signal};

    const FIRST_WAIT: Duration = Duration::from_millis(100);
    const LONGEST_WAIT: Duration = Duration::from_secs(10);
    /// How long after SIGTERM a child is killed.
    const GRACE: Duration = Duration::from_secs(2);

    /// A command that is kept running.
    pub(super) struct Job {
        command: String,
        process: RefCell<Option<Process>>,
        wait: Cell<Duration>,
        is_wanted: Cell<bool>,
    }

    impl Job {
        pub(super) fn new(command: String) -> Rc<Self> {
            let (process, wait, is_wanted) = (RefCell::new(None), Cell::new(FIRST_WAIT), Cell::new(true));
            Rc::new(Self { command, process, wait, is_wanted })
        }

        pub(super) fn start(self: &Rc<Self>, reactor: &Handle) {
            if !self.is_wanted.get() {
                return;
            }
            // No shell stands between us and the command: signals reach it, not its parent.
            let mut words = self.command.split_whitespace();
            let command = reactor.command(words.next().unwrap_or_default()).args(words);
            // Ctrl-C is for us: we tell the children in our own way.
            let command = command.own_session().stdin(Fd::Null).stdout(Fd::Inherit).stderr(Fd::Inherit);
            match command.spawn(Watcher { job: Rc::clone(self), started: reactor.now() }) {
                Ok(process) => {
                    println!("{}: started as process {}", self.command, process.id());
                    *self.process.borrow_mut() = Some(process);
                }
                Err(error) => self.start_later(reactor, &error.to_string()),
            }
        }

        fn start_later(self: &Rc<Self>, reactor: &Handle, why: &str) {
            let wait = self.wait.get();
            println!("{}: {why}; again in {} ms", self.command, wait.as_millis());
            self.wait.set((wait * 2).min(LONGEST_WAIT));
            let job = Rc::clone(self);
            reactor.call_later(wait, move |reactor| job.start(reactor));
        }

        /// Ends the command for good; fires when it has.
        fn stop(&self, reactor: &Handle) -> Option<Deferred<ExitStatus, Interruption>> {
            self.is_wanted.set(false);
            let process = self.process.take().filter(Process::is_running)?;
            if let Err(error) = process.signal(Signal::TERM) {
                eprintln!("process_supervisor: {error}");
            }
            let stubborn = process.clone();
            let last_word = reactor.call_later(GRACE, move |_| drop(stubborn.kill()));
            // It keeps nobody waiting once the process is gone.
            last_word.unref();
            Some(process.exited())
        }
    }

    struct Watcher {
        job: Rc<Job>,
        started: Instant,
    }

    impl ProcessProtocol for Watcher {
        fn process_exited(&mut self, process: &Process, status: ExitStatus) {
            if !self.job.is_wanted.get() {
                println!("{}: {status}", self.job.command);
                return;
            }
            let reactor = process.reactor();
            if reactor.now() - self.started > LONGEST_WAIT {
                self.job.wait.set(FIRST_WAIT);
            }
            self.job.start_later(reactor, &status.to_string());
        }
    }

    /// Stops all; fires when the last one is gone.
    pub(super) fn stop_all(jobs: &[Rc<Job>], reactor: &Handle) -> Deferred<(), Interruption> {
        let (resolver, done) = Deferred::new(reactor);
        let resolver = Rc::new(Cell::new(Some(resolver)));
        let running: Vec<_> = jobs.iter().filter_map(|job| job.stop(reactor)).collect();
        let left = Rc::new(Cell::new(running.len()));
        let one_less = move |count: usize| {
            left.set(left.get() - count);
            if left.get() == 0
                && let Some(resolver) = resolver.take()
            {
                println!("process_supervisor: nothing runs any more");
                resolver.resolve(Ok(()));
            }
        };
        one_less(0);
        for exited in running {
            let one_less = one_less.clone();
            exited.on_done(move |_, _| one_less(1));
        }
        done
    }
}

#[cfg(unix)]
fn main() -> Result<(), twistor_examples::Failure> {
    use twistor::{Reactor, ShutdownPhase};

    let about = "Keeps each COMMAND running; one with arguments is given in quotes.";
    let commands = twistor_examples::words("process_supervisor", about, "COMMAND", &["sleep 5"]);
    twistor_examples::init_logging();

    let reactor = Reactor::new()?;
    let jobs: Vec<_> = commands.into_iter().map(supervisor::Job::new).collect();
    let first = jobs.clone();
    // Not before the loop runs, which is when Ctrl-C and SIGTERM stop it in good order.
    reactor.call_soon(move |reactor| first.iter().for_each(|job| job.start(reactor)));
    reactor.on_shutdown(ShutdownPhase::Before, move |reactor| supervisor::stop_all(&jobs, reactor));
    Ok(reactor.run()?)
}

#[cfg(not(unix))]
fn main() {
    let about = "Keeps each COMMAND running; one with arguments is given in quotes.";
    let _ = twistor_examples::words("process_supervisor", about, "COMMAND", &[]);
    eprintln!("process_supervisor: the reactor has no child processes on this system");
}
