//! A daemon whose loop runs: signals, readiness, reloading, and the end. [`DaemonHandle`] is what hooks get
//! of it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use super::log::Logger;
use super::restart::{Line, Program, Successor};
use super::{DaemonError, Times};
use crate::reactor::handle::Handle;
use crate::reactor::listening::Port;
use crate::reactor::shutdown::ShutdownPhase;
use crate::reactor::signals::Signal;
use crate::service::tree::{Progress, ServiceGroup};
use crate::sys::notify::{self, Notifier};
use crate::sys::pidfile::PidFile;

pub(super) type Setup = Box<dyn FnOnce(&DaemonHandle) -> io::Result<()>>;
pub(super) type Hook = Box<dyn FnMut(&DaemonHandle) -> Progress>;

/// How a daemon stands to the processes before and after it.
pub(super) enum Stage {
    /// It is to take over from another process, and has not started everything yet.
    Heir(Line),
    /// It has said that it is ready, and waits for the other one to let go.
    TakingOver(Line),
    /// It is the one. (Also while it starts, if there was none before it.)
    Serving,
    /// Another process is starting, to take over.
    Restarting(Successor),
    /// Another process has taken over, which may still be there.
    Retired(Option<Successor>),
    /// Between two of these; or it was to take over and does not.
    Neither,
}

impl Stage {
    pub(super) fn why_no_restart(&self) -> &'static str {
        match self {
            Self::Heir(_) | Self::TakingOver(_) => "it has not taken over from the last one yet",
            Self::Restarting(_) => "one is under way",
            Self::Retired(_) => "another process has taken over",
            Self::Serving | Self::Neither => "it is starting or stopping",
        }
    }
}

/// What a running daemon is made of.
pub(super) struct Parts {
    pub(super) name: String,
    pub(super) handle: Handle,
    pub(super) program: Program,
    pub(super) logger: Arc<Logger>,
    pub(super) notifier: Option<Notifier>,
    pub(super) watchdog: Option<Duration>,
    pub(super) services: ServiceGroup,
    pub(super) ports: Vec<Port>,
    pub(super) pidfile: Option<PidFile>,
    pub(super) predecessor: Option<UnixStream>,
    pub(super) times: Times,
    pub(super) setup: Vec<Setup>,
    pub(super) reload: Vec<Hook>,
    pub(super) retired: Vec<Hook>,
}

pub(super) struct Running {
    pub(super) name: String,
    pub(super) handle: Handle,
    pub(super) program: Program,
    logger: Arc<Logger>,
    notifier: Option<Notifier>,
    watchdog: Option<Duration>,
    services: ServiceGroup,
    ports: Vec<Port>,
    pub(super) pidfile: RefCell<Option<PidFile>>,
    /// The process that is to hand over, until it was met.
    pub(super) predecessor: RefCell<Option<UnixStream>>,
    /// To it, after it has handed over: closed with this process.
    pub(super) line: RefCell<Option<Line>>,
    pub(super) times: Times,
    pub(super) stage: RefCell<Stage>,
    setup: RefCell<Vec<Setup>>,
    /// Not here while they are called.
    reload: RefCell<Vec<Hook>>,
    retired: RefCell<Vec<Hook>>,
    /// The service manager was told so.
    pub(super) is_ready: Cell<bool>,
    /// Why it ends by itself.
    failure: RefCell<Option<DaemonError>>,
}

/// A running daemon, for its hooks: it derefs to the reactor's [`Handle`].
///
/// As everywhere, no method calls a hook: what they ask for is done by the loop.
#[derive(Clone)]
pub struct DaemonHandle {
    running: Rc<Running>,
}

/// As [`DaemonHandle`], for what the reactor keeps.
pub(super) struct WeakDaemon(Weak<Running>);

impl WeakDaemon {
    pub(super) fn upgrade(&self) -> Option<DaemonHandle> {
        self.0.upgrade().map(|running| DaemonHandle { running })
    }
}

impl Deref for DaemonHandle {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.running.handle
    }
}

impl fmt::Debug for DaemonHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DaemonHandle").field("name", &self.running.name).finish_non_exhaustive()
    }
}

impl DaemonHandle {
    /// Opens the log file again and calls the reload hooks, as at SIGHUP.
    pub fn reload(&self) {
        self.soon(Self::begin_reload);
    }

    /// Has a new process take over, as at SIGUSR2; see [`Daemon`](crate::Daemon#restart).
    pub fn restart(&self) {
        self.soon(Self::begin_restart);
    }

    /// Logs what the reactor has counted, as at SIGUSR1.
    pub fn log_stats(&self) {
        let running = &self.running;
        let (stats, lag) = (running.handle.stats(), running.handle.lag());
        let (median, last_percent) = (lag.quantile(0.5), lag.quantile(0.99));
        log::info!(
            "{}: {stats}; half of the passes took less than {median:?}, 99 of 100 less than {last_percent:?}",
            running.name
        );
    }

    /// Tells the service manager in words how things stand: one line, as `systemctl status` shows it.
    pub fn status(&self, text: &str) {
        if self.is_main() {
            self.notify(&format!("STATUS={}", text.replace('\n', " ")));
        }
    }

    /// Whether another process has taken over, and this one only waits for its last connections.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        matches!(&*self.running.stage.borrow(), Stage::Retired(_))
    }

    /// The services, to add some, or to take them away.
    #[must_use]
    pub fn services(&self) -> &ServiceGroup {
        &self.running.services
    }

    pub(super) fn new(parts: Parts) -> Self {
        let running = Running {
            name: parts.name,
            handle: parts.handle,
            program: parts.program,
            logger: parts.logger,
            notifier: parts.notifier,
            watchdog: parts.watchdog,
            services: parts.services,
            ports: parts.ports,
            pidfile: RefCell::new(parts.pidfile),
            predecessor: RefCell::new(parts.predecessor),
            line: RefCell::default(),
            times: parts.times,
            stage: RefCell::new(Stage::Serving),
            setup: RefCell::new(parts.setup),
            reload: RefCell::new(parts.reload),
            retired: RefCell::new(parts.retired),
            is_ready: Cell::new(false),
            failure: RefCell::default(),
        };
        Self { running: Rc::new(running) }
    }

    pub(super) fn running(&self) -> &Rc<Running> {
        &self.running
    }

    pub(super) fn downgrade(&self) -> WeakDaemon {
        WeakDaemon(Rc::downgrade(&self.running))
    }

    fn soon(&self, f: impl FnOnce(&Self) + 'static) {
        let daemon = self.downgrade();
        self.running.handle.call_soon(move |_| {
            if let Some(daemon) = daemon.upgrade() {
                f(&daemon);
            }
        });
    }

    // The start.

    pub(super) fn watch_signals(&self, restart: Option<Signal>) -> io::Result<()> {
        self.on_signal_do(Signal::HUP, Self::begin_reload)?;
        self.on_signal_do(Signal::USR1, Self::log_stats)?;
        if let Some(restart) = restart {
            self.on_signal_do(restart, Self::begin_restart)?;
        }
        Ok(())
    }

    fn on_signal_do(&self, signal: Signal, f: fn(&Self)) -> io::Result<()> {
        let daemon = self.downgrade();
        self.running.handle.on_signal(signal, move |_| {
            if let Some(daemon) = daemon.upgrade() {
                f(&daemon);
            }
        })?;
        Ok(())
    }

    /// Has the loop start the services. From now on the pidfile names this process, unless there is another
    /// one that has to hand over first.
    pub(super) fn begin_soon(&self) -> io::Result<()> {
        let running = &self.running;
        if running.predecessor.borrow().is_none()
            && let Some(pidfile) = &*running.pidfile.borrow()
        {
            pidfile.write_own_pid()?;
        }
        let daemon = self.downgrade();
        self.running.handle.on_shutdown(ShutdownPhase::Before, move |handle| {
            let stopping = daemon.upgrade().map(|daemon| daemon.stop_services());
            stopping.unwrap_or_else(|| crate::reactor::deferred::Deferred::ready(handle, Ok(())))
        });
        self.soon(Self::begin);
        Ok(())
    }

    fn begin(&self) {
        let running = &self.running;
        if let Err(error) = self.meet_predecessor() {
            return self.fail(error.into());
        }
        for setup in running.setup.take() {
            match self.contain("a setup hook", || setup(self)) {
                Some(Ok(())) => {}
                Some(Err(error)) => return self.fail(error.into()),
                None => return self.fail(io::Error::other("a setup hook panicked").into()),
            }
        }
        let daemon = self.downgrade();
        running.services.start(&running.handle).on_done(move |_, outcome| {
            let Some(daemon) = daemon.upgrade() else { return };
            match outcome {
                Ok(()) => daemon.started(),
                Err(error) => daemon.fail(io::Error::other(error.to_string()).into()),
            }
        });
    }

    fn started(&self) {
        let running = &self.running;
        if running.handle.is_stopping() {
            return;
        }
        for port in &running.ports {
            log::info!("{}: listening on {}", running.name, port.local_addr());
        }
        if let Some(inner) = running.handle.inner() {
            inner.release_ports();
        }
        let stage = running.stage.replace(Stage::Serving);
        match stage {
            Stage::Heir(line) => self.claim(line),
            other => {
                *running.stage.borrow_mut() = other;
                self.announce();
            }
        }
    }

    /// This process is the one that serves, from now on.
    pub(super) fn announce(&self) {
        let running = &self.running;
        running.is_ready.set(true);
        self.notify("READY=1");
        log::info!("{}: ready, process {}", running.name, std::process::id());
        if let (Some(period), Some(_)) = (running.watchdog, &running.notifier) {
            let daemon = self.downgrade();
            // From the loop, so that it stops when the loop does.
            running.handle.every(period / 2, move |_, _| {
                if let Some(daemon) = daemon.upgrade()
                    && !daemon.is_retired()
                {
                    daemon.notify("WATCHDOG=1");
                }
            });
        }
    }

    pub(super) fn notify(&self, text: &str) {
        if let Some(notifier) = &self.running.notifier {
            notifier.send(text);
        }
    }

    /// Whether the service manager listens to this process.
    fn is_main(&self) -> bool {
        matches!(&*self.running.stage.borrow(), Stage::Serving | Stage::Restarting(_))
    }

    // Reloading.

    fn begin_reload(&self) {
        let running = &self.running;
        log::info!("{}: reloading", running.name);
        if let Err(error) = running.logger.reopen() {
            log::error!("{}: {error}; the old one is used", running.name);
        }
        #[cfg(feature = "tls")]
        running.handle.reload_tls();
        if self.is_main() && running.is_ready.get() {
            self.notify(&format!("RELOADING=1\nMONOTONIC_USEC={}", notify::monotonic_microseconds()));
        }
        let daemon = self.downgrade();
        self.call_hooks("reload", &running.reload, move || {
            if let Some(daemon) = daemon.upgrade()
                && daemon.is_main()
                && daemon.running.is_ready.get()
            {
                daemon.notify("READY=1");
            }
        });
    }

    /// Calls hooks one after the other, and `done` when all are done.
    fn call_hooks(&self, what: &'static str, hooks: &RefCell<Vec<Hook>>, done: impl FnOnce() + 'static) {
        let mut called = hooks.take();
        let pending = Rc::new(Cell::new(called.len()));
        let done = Rc::new(Cell::new(Some(done)));
        let finish = move |pending: &Cell<usize>| {
            if pending.get() == 0
                && let Some(done) = done.take()
            {
                done();
            }
        };
        finish(&pending);
        for hook in &mut called {
            let progress =
                self.contain(what, || hook(self)).unwrap_or_else(|| Progress::failed("it panicked"));
            let (pending, finish, name) = (Rc::clone(&pending), finish.clone(), self.running.name.clone());
            progress.when_done(&self.running.handle, move |_, outcome| {
                if let Err(error) = outcome {
                    log::error!("{name}: the {what} hook failed: {error}");
                }
                pending.set(pending.get() - 1);
                finish(&pending);
            });
        }
        // Nobody can have put others there.
        hooks.replace(called);
    }

    fn contain<R>(&self, what: &str, f: impl FnOnce() -> R) -> Option<R> {
        self.running.handle.inner()?.contain(what, f)
    }

    // The end.

    /// Another process serves: this one stops what is not connections, and ends with the last of them.
    pub(super) fn retire(&self) {
        let running = &self.running;
        let handle = running.handle.clone();
        let is_over = Rc::new(Cell::new(false));
        let stopped = Rc::clone(&is_over);
        running.services.stop(&handle).on_done(move |_, _| stopped.set(true));
        self.call_hooks("retired", &running.retired, || {});
        let name = running.name.clone();
        handle.call_later(running.times.retire, move |handle| {
            log::warn!("{name}: stopping, although there are connections left");
            handle.stop();
        });
        handle.before_wait(move |handle| {
            let is_alone = handle.inner().is_some_and(|inner| inner.connections.get() == 0);
            if is_over.get() && is_alone && !handle.is_stopping() {
                handle.call_soon(Handle::stop);
            }
        });
    }

    /// Ends the daemon with an error.
    pub(super) fn fail(&self, error: DaemonError) {
        self.running.failure.borrow_mut().get_or_insert(error);
        self.running.handle.stop();
    }

    fn stop_services(&self) -> crate::reactor::deferred::Deferred<(), crate::service::tree::ServiceError> {
        let running = &self.running;
        self.cancel_restart();
        if self.is_main() {
            log::info!("{}: stopping", running.name);
            self.notify("STOPPING=1");
        }
        running.services.stop(&running.handle)
    }

    /// After the loop: lets go of everything.
    pub(super) fn finish(self) -> Result<(), DaemonError> {
        let running = &self.running;
        drop(running.pidfile.take());
        if let Stage::Heir(line) | Stage::TakingOver(line) = running.stage.replace(Stage::Neither) {
            // Closed when the process ends: until then the old one lets it say why it does.
            std::mem::forget(line);
        }
        // Users' values may hold this.
        drop(running.reload.take());
        drop(running.retired.take());
        running.services.clear();
        log::info!("{}: ended, process {}", running.name, std::process::id());
        match running.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }
}
