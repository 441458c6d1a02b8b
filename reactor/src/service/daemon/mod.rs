//! A program as a Unix service: [`Daemon`].
//!
//! What it does at the start is in an order that matters: everything that needs root's rights (the log, the
//! pidfile, the ports), then they are given up, then the loop begins, and only when all services run are
//! connections accepted and the service manager told. [`running`] has what happens from then on, [`restart`]
//! how a new process takes over.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ::log::LevelFilter;

use crate::endpoint::{EndpointError, IntoListenEndpoint, ListenEndpoint};
use crate::protocol::{ErasedFactory, Factory, SharedFactory};
use crate::reactor::Reactor;
use crate::reactor::builder::ReactorBuilder;
use crate::reactor::listening::Port;
use crate::reactor::signals::Signal;
use crate::service::tree::{Progress, Service, ServiceGroup};
use crate::sys::notify::{self, Notifier};
use crate::sys::pidfile::PidFile;
use crate::sys::privileges::{self, Identity};
use log::{Log, Logger};
use restart::{Heritage, Program};
use running::{DaemonHandle, Hook, Parts, Setup};

pub(crate) mod log;
mod restart;
pub(crate) mod running;

/// What a program exits with: `sysexits.h`.
mod exit {
    pub(super) const UNAVAILABLE: u8 = 69;
    pub(super) const SOFTWARE: u8 = 70;
    pub(super) const NO_PERMISSION: u8 = 77;
    pub(super) const CONFIGURATION: u8 = 78;
}

/// A program as a Unix service.
///
/// ```no_run
/// use std::process::ExitCode;
/// use twistor::{Daemon, Protocol, Transport};
///
/// struct Echo;
/// impl Protocol for Echo {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         transport.write(data);
///     }
/// }
///
/// fn main() -> ExitCode {
///     Daemon::new("echo")
///         .listen("tcp:7", |_| Echo)
///         .pidfile("/run/echo.pid")
///         .user("nobody")
///         .run()
/// }
/// ```
///
/// It stays in the foreground, as service managers want it; there is no fork into the background.
///
/// | signal | effect |
/// |---|---|
/// | SIGTERM, SIGINT | stops: services in reverse, then ports, then connections until [`drain_timeout`](Self::drain_timeout); a second one stops waiting |
/// | SIGHUP | opens the log file again, reads the certificates of ports with TLS again, and calls [`on_reload`](Self::on_reload) |
/// | SIGUSR1 | logs what the reactor has counted |
/// | SIGUSR2 | restarts without downtime, see [below](#restart) |
///
/// A service manager that speaks the protocol of `sd_notify(3)` (systemd with `Type=notify`) is told when the
/// daemon is ready, reloads and stops, and gets its sign of life from the loop: a hook that hangs is a
/// watchdog time-out.
///
/// # Restart
///
/// At SIGUSR2 or [`DaemonHandle::restart`] the program file is started again, with the same arguments, and
/// inherits the listening sockets and the lock of the pidfile. Once everything in the new process has
/// started, it accepts connections and says so; only then does the old one stop accepting, stop its services,
/// and end when its last connection does (or after [`retire_timeout`](Self::retire_timeout)). No connection
/// is refused and none is broken. If the new process ends or says nothing in time
/// ([`restart_timeout`](Self::restart_timeout)), it is killed, and the old one goes on as before.
///
/// Connections that are still waiting to be accepted are not lost: both processes take them from the same
/// queue. The new process has the rights of the old one, so that it cannot open new ports that need root.
///
/// # Exit codes
///
/// As in `sysexits.h`: 0 after a stop, 69 if a port or the pidfile is taken or a service cannot start, 70 if
/// the loop fails, 77 if rights are missing, 78 if a setting makes no sense.
#[must_use = "a daemon does nothing until it is run"]
pub struct Daemon {
    name: String,
    reactor: ReactorBuilder,
    listeners: Vec<Listener>,
    pidfile: Option<PathBuf>,
    user: Option<String>,
    group: Option<String>,
    umask: Option<u32>,
    directory: Option<PathBuf>,
    log: Log,
    level: LevelFilter,
    restart_signal: Option<Signal>,
    times: Times,
    services: ServiceGroup,
    setup: Vec<Setup>,
    reload: Vec<Hook>,
    retired: Vec<Hook>,
}

/// How long a restart may take.
#[derive(Clone, Copy, Debug)]
struct Times {
    restart: Duration,
    retire: Duration,
}

struct Listener {
    endpoint: Result<ListenEndpoint, EndpointError>,
    factory: MakeFactory,
}

/// Makes another share of a factory: opening a port may take several attempts.
type MakeFactory = Box<dyn Fn() -> Box<dyn ErasedFactory>>;

/// How long the last process may take to close its ports after it has given up its lock.
const LAST_PROCESS: Duration = Duration::from_secs(1);

impl Daemon {
    /// A daemon of this name, which is that of its log and its errors.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            services: ServiceGroup::new(name.clone()),
            name,
            reactor: ReactorBuilder::default().drain_timeout(Duration::from_secs(10)),
            listeners: Vec::new(),
            pidfile: None,
            user: None,
            group: None,
            umask: None,
            directory: None,
            log: Log::default(),
            level: LevelFilter::Info,
            restart_signal: Some(Signal::USR2),
            times: Times { restart: Duration::from_secs(60), retire: Duration::from_secs(3600) },
            setup: Vec::new(),
            reload: Vec::new(),
            retired: Vec::new(),
        }
    }

    /// Listens at an endpoint: before root's rights are given up, and accepts once all services run. A new
    /// process inherits the port at a restart. May be called several times.
    pub fn listen(self, endpoint: impl IntoListenEndpoint, factory: impl Factory) -> Self {
        self.listen_all([endpoint], factory)
    }

    /// Listens at several endpoints with one factory: those of a configuration or of the command line.
    pub fn listen_all<E: IntoListenEndpoint>(
        mut self,
        endpoints: impl IntoIterator<Item = E>,
        factory: impl Factory,
    ) -> Self {
        let factory = SharedFactory::new(factory);
        for endpoint in endpoints {
            let (endpoint, factory) = (endpoint.into_listen_endpoint(), factory.clone());
            let factory: MakeFactory = Box::new(move || Box::new(factory.clone()));
            self.listeners.push(Listener { endpoint, factory });
        }
        self
    }

    /// Writes the process id to this file, and locks it, so that there is only one such daemon. The lock ends
    /// with the process, however that ends: a file that was left behind stops nobody. Removed at the end,
    /// where the daemon may do that by then.
    ///
    /// What is there and is no pidfile (a device, a link, a file with something else in it) is left alone,
    /// and the daemon does not start.
    pub fn pidfile(mut self, path: impl Into<PathBuf>) -> Self {
        self.pidfile = Some(path.into());
        self
    }

    /// The user to be once the ports are open, by name or number. Without [`group`](Self::group) it is that
    /// user's group, and those that it is a member of.
    ///
    /// Running fails if the program was not started as root, unless it was as that user.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The group to be in once the ports are open, by name or number.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// The permission bits that new files are born without, such as `0o027`. By default as the program was
    /// started.
    pub fn umask(mut self, mask: u32) -> Self {
        self.umask = Some(mask);
        self
    }

    /// The directory to work in. Relative paths, also those of the other settings, are understood from there.
    pub fn working_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Where the log goes, which comes through the crate [`log`](crate::log). By default to the standard
    /// error.
    ///
    /// A program that has set another logger (`env_logger`) before it runs the daemon keeps that; this and
    /// [`log_level`](Self::log_level) have no effect then, which is said in the log.
    pub fn log(mut self, log: Log) -> Self {
        self.log = log;
        self
    }

    /// What is logged. By default all but debugging.
    pub fn log_level(mut self, level: LevelFilter) -> Self {
        self.level = level;
        self
    }

    /// How long connections have to end after a stop; then they are aborted. Default 10 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.reactor = self.reactor.drain_timeout(timeout);
        self
    }

    /// The settings of the reactor, all of them: [`drain_timeout`](Self::drain_timeout) has to be called
    /// after this.
    pub fn reactor(mut self, builder: ReactorBuilder) -> Self {
        self.reactor = builder;
        self
    }

    /// Adds a service. They are started in order when the ports are open, and stopped in reverse; one that
    /// cannot start ends the daemon.
    pub fn service(self, service: impl Service) -> Self {
        self.services.add(service);
        self
    }

    /// Called when the loop has begun, before the services start. An error ends the daemon.
    pub fn setup(mut self, setup: impl FnOnce(&DaemonHandle) -> io::Result<()> + 'static) -> Self {
        self.setup.push(Box::new(setup));
        self
    }

    /// Called at SIGHUP and [`DaemonHandle::reload`]: to read the configuration again. What it returns may be
    /// waited for. A failure is logged, and changes nothing.
    pub fn on_reload<R: Into<Progress>>(
        mut self,
        mut reload: impl FnMut(&DaemonHandle) -> R + 'static,
    ) -> Self {
        self.reload.push(Box::new(move |daemon| reload(daemon).into()));
        self
    }

    /// Called when another process has taken over: to close connections that nobody would end, politely. The
    /// others are waited for until [`retire_timeout`](Self::retire_timeout).
    pub fn on_retired<R: Into<Progress>>(
        mut self,
        mut retired: impl FnMut(&DaemonHandle) -> R + 'static,
    ) -> Self {
        self.retired.push(Box::new(move |daemon| retired(daemon).into()));
        self
    }

    /// The signal that restarts; `None` for none. Default SIGUSR2.
    pub fn restart_signal(mut self, signal: Option<Signal>) -> Self {
        self.restart_signal = signal;
        self
    }

    /// How long a new process may take until it is ready. Then it is killed. Default 60 s.
    pub fn restart_timeout(mut self, timeout: Duration) -> Self {
        self.times.restart = timeout;
        self
    }

    /// How long connections may go on after another process has taken over; then the old one stops like at
    /// SIGTERM. Default one hour.
    pub fn retire_timeout(mut self, timeout: Duration) -> Self {
        self.times.retire = timeout;
        self
    }

    /// Runs it until it is stopped. An error is logged, and decides the [exit code](Self#exit-codes).
    pub fn run(self) -> ExitCode {
        match self.try_run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => ExitCode::from(error.code),
        }
    }

    /// As [`run`](Self::run), for those who decide themselves what becomes of an error. It has been logged.
    ///
    /// # Errors
    ///
    /// A setting makes no sense or is refused by the system, a service cannot start, or the loop fails.
    pub fn try_run(self) -> Result<(), DaemonError> {
        let name = self.name.clone();
        let mut log_is_seen = false;
        self.run_logged(&mut log_is_seen).inspect_err(|error| {
            ::log::error!("{name}: {error}");
            if !log_is_seen {
                eprintln!("{name}: {error}");
            }
        })
    }

    fn run_logged(self, log_is_seen: &mut bool) -> Result<(), DaemonError> {
        let program = Program::of_this_process(self.directory.is_some());
        let mut heritage = Heritage::take();
        if let Some(mask) = self.umask {
            privileges::set_umask(mask);
        }
        if let Some(directory) = &self.directory {
            std::env::set_current_dir(directory).map_err(|error| {
                let text = format!("cannot work in {}: {error}", directory.display());
                DaemonError::new(io::Error::new(error.kind(), text), exit::CONFIGURATION)
            })?;
        }
        let identity = match (&self.user, &self.group) {
            (None, None) => None,
            (user, group) => {
                let found = Identity::find(user.as_deref(), group.as_deref());
                Some(found.map_err(|error| DaemonError::new(error, exit::CONFIGURATION))?)
            }
        };
        let logger = Logger::open(&self.log, self.level, identity.clone())?;
        if logger.install() {
            *log_is_seen = !logger.is_file();
        } else {
            ::log::info!("{}: the program has set a logger of its own, which is used", self.name);
        }
        let pidfile = match &self.pidfile {
            Some(path) => Some(hold(path, &mut heritage)?),
            None => None,
        };
        let notifier = Notifier::from_environment().unwrap_or_else(|error| {
            ::log::warn!("{}: {error}", self.name);
            None
        });
        let reactor = self.reactor.build()?;
        reactor.alive()?.begin_passing(heritage.take_listeners());
        let mut ports = Vec::new();
        for listener in self.listeners {
            ports.push(open(&reactor, listener, pidfile.is_some())?);
        }
        if let Some(identity) = &identity {
            identity.assume()?;
            ::log::info!("{}: running as user {} and group {}", self.name, identity.uid(), identity.gid());
        }
        let daemon = DaemonHandle::new(Parts {
            name: self.name,
            handle: (*reactor).clone(),
            program,
            logger,
            notifier,
            watchdog: notify::watchdog(),
            services: self.services,
            ports,
            pidfile,
            predecessor: heritage.take_predecessor(),
            times: self.times,
            setup: self.setup,
            reload: self.reload,
            retired: self.retired,
        });
        daemon.watch_signals(self.restart_signal)?;
        daemon.begin_soon()?;
        let ran = reactor.run();
        // Ports are closed, and their socket files gone, before the lock on the pidfile is.
        drop(reactor);
        daemon.finish()?;
        ran.map_err(|error| DaemonError::new(error, exit::SOFTWARE))
    }
}

/// Holds the pidfile. It does not say yet that this is the process: first signals have to be watched for.
fn hold(path: &Path, heritage: &mut Heritage) -> io::Result<PidFile> {
    match heritage.take_pidfile(path) {
        Some(inherited) => Ok(inherited),
        None => PidFile::lock(path),
    }
}

/// Opens a port, or takes that of the last process.
fn open(reactor: &Reactor, listener: Listener, is_the_only_one: bool) -> Result<Port, DaemonError> {
    let endpoint = listener.endpoint.map_err(|error| {
        DaemonError::new(io::Error::new(ErrorKind::InvalidInput, error), exit::CONFIGURATION)
    })?;
    // What had the lock on the pidfile until just now may still be closing its ports.
    let patience = if is_the_only_one { LAST_PROCESS } else { Duration::ZERO };
    let begun = Instant::now();
    let inner = reactor.alive()?;
    loop {
        match inner.listen(&endpoint, (listener.factory)()) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && begun.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return Ok(result?),
        }
    }
}

/// Why a daemon did not run, or not until it was stopped.
pub struct DaemonError {
    error: io::Error,
    code: u8,
}

impl DaemonError {
    fn new(error: io::Error, code: u8) -> Self {
        Self { error, code }
    }

    /// What the program should [exit](Daemon#exit-codes) with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl From<io::Error> for DaemonError {
    fn from(error: io::Error) -> Self {
        let code = match error.kind() {
            ErrorKind::InvalidInput => exit::CONFIGURATION,
            ErrorKind::PermissionDenied => exit::NO_PERMISSION,
            _ => exit::UNAVAILABLE,
        };
        Self { error, code }
    }
}

impl From<DaemonError> for io::Error {
    fn from(error: DaemonError) -> Self {
        error.error
    }
}

impl fmt::Display for DaemonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

/// As the error of `main` it is shown as its text.
impl fmt::Debug for DaemonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for DaemonError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").field("name", &self.name).finish_non_exhaustive()
    }
}
