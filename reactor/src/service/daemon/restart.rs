//! Restart without downtime: the two ends of a handover.
//!
//! The old process starts the new one with the listening sockets, the lock of the pidfile and one end of a
//! socket pair. The new one starts everything, accepts, and says `R` (ready). The old one writes the new
//! one's number into the pidfile, leaves the ports, their files and the lock to it, and says `A` (all yours).
//! From then on the line only shows whether the other one lives.
//!
//! At any moment one of them is the program: the old one, until it has written the new one's number. If the
//! new one dies or says nothing in time, nothing has changed for the old one. If the old one is killed while
//! it is the program, the new one ends as well, so that nothing is left that would be in the way of the next
//! start.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use super::running::{DaemonHandle, Stage};
use crate::reactor::descriptor::DescriptorWatch;
use crate::reactor::handle::Handle;
use crate::reactor::passing::Passed;
use crate::reactor::timers::DelayedCall;
use crate::sys::inherit;
use crate::sys::pidfile::PidFile;

const READY: u8 = b'R';
const ALL_YOURS: u8 = b'A';

/// Names of what is inherited beside listeners.
const CONTROL: &str = "control";
const PIDFILE: &str = "pidfile";
const LISTENER: &str = "listener ";
const LISTENER_WITH_FILE: &str = "listener+file ";

/// What the environment says of this process alone: the new one has another number, and no such descriptors.
const OF_THIS_PROCESS: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// How this program is started again.
pub(crate) struct Program {
    path: io::Result<PathBuf>,
    arguments: Vec<OsString>,
    /// Where the program was started, if it works somewhere else.
    directory: Option<PathBuf>,
}

impl Program {
    /// Has to be asked before the working directory changes and the program file is replaced.
    pub(crate) fn of_this_process(changes_directory: bool) -> Self {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        let directory = if changes_directory { std::env::current_dir().ok() } else { None };
        Self { path: program_path(arguments.first()), arguments, directory }
    }

    fn command(&self) -> io::Result<Command> {
        let path = self.path.as_ref().map_err(|error| {
            io::Error::new(error.kind(), format!("it is not known where the program is: {error}"))
        })?;
        let mut command = Command::new(path);
        let mut arguments = self.arguments.iter();
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        command.args(arguments);
        // It may be closed to the user that this process is by now.
        if let Some(directory) = self.directory.as_ref().filter(|directory| directory.metadata().is_ok()) {
            command.current_dir(directory);
        }
        for name in OF_THIS_PROCESS {
            command.env_remove(name);
        }
        Ok(command)
    }
}

/// The path that the program was called by, if it is one: where that is a link, it may point to a newer
/// program by then. Else where the system says that the program is.
fn program_path(name: Option<&OsString>) -> io::Result<PathBuf> {
    let real = std::env::current_exe()?;
    let called = name.map(Path::new).filter(|path| path.components().count() > 1);
    let called = called.and_then(|path| std::path::absolute(path).ok());
    let is_it =
        |path: &PathBuf| path.canonicalize().is_ok_and(|target| Some(target) == real.canonicalize().ok());
    Ok(called.filter(is_it).unwrap_or(real))
}

/// What this process was given by the one before it.
#[derive(Default)]
pub(crate) struct Heritage {
    predecessor: Option<UnixStream>,
    pidfile: Option<OwnedFd>,
    listeners: Vec<Passed>,
}

impl Heritage {
    pub(crate) fn take() -> Self {
        let mut heritage = Self::default();
        for (name, descriptor) in inherit::take() {
            let listener =
                |name: &str, descriptor, has_file| Passed { name: name.to_owned(), descriptor, has_file };
            if name == CONTROL {
                heritage.predecessor = Some(descriptor.into());
            } else if name == PIDFILE {
                heritage.pidfile = Some(descriptor);
            } else if let Some(name) = name.strip_prefix(LISTENER) {
                heritage.listeners.push(listener(name, descriptor, false));
            } else if let Some(name) = name.strip_prefix(LISTENER_WITH_FILE) {
                heritage.listeners.push(listener(name, descriptor, true));
            }
        }
        heritage
    }

    pub(crate) fn take_pidfile(&mut self, path: &Path) -> Option<PidFile> {
        PidFile::inherited(path, self.pidfile.take()?)
    }

    pub(crate) fn take_listeners(&mut self) -> Vec<Passed> {
        mem::take(&mut self.listeners)
    }

    pub(crate) fn take_predecessor(&mut self) -> Option<UnixStream> {
        self.predecessor.take()
    }
}

/// What connects this process to another version of the daemon.
pub(crate) struct Line {
    stream: UnixStream,
    watch: DescriptorWatch,
}

impl Line {
    /// `heard` is called with each byte that comes, and with `None` when the other end is gone.
    fn open(handle: &Handle, stream: UnixStream, heard: impl Fn(Option<u8>) + 'static) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let mut reader = stream.try_clone()?;
        let watch = handle.add_reader(&stream, move |_| {
            let mut buffer = [0];
            match reader.read(&mut buffer) {
                Ok(0) => heard(None),
                Ok(_) => heard(Some(buffer[0])),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => heard(None),
            }
        })?;
        watch.unref();
        Ok(Self { stream, watch })
    }

    fn say(&self, word: u8) {
        // The other end may be gone: then it is of no interest to it, and the watch says so.
        if let Err(error) = (&self.stream).write_all(&[word]) {
            log::debug!("cannot speak to the other process: {error}");
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.watch.remove();
    }
}

/// A new process.
pub(crate) struct Successor {
    child: Child,
    line: Line,
    /// Until it has taken over.
    deadline: Option<DelayedCall>,
}

impl Successor {
    /// Ends it, if it has not ended.
    fn end(mut self) -> String {
        if let Some(deadline) = self.deadline.take() {
            deadline.cancel();
        }
        let kill = self.child.kill();
        // After a SIGKILL it is not waited for long.
        match (kill, self.child.wait()) {
            (_, Ok(status)) => status.to_string(),
            (Err(error), _) | (_, Err(error)) => error.to_string(),
        }
    }
}

/// A process that has taken over ends: in its own time, but its parent has to hear of it.
fn bury(mut child: Child, handle: &Handle) {
    match child.try_wait() {
        Ok(None) => drop(handle.call_later(Duration::from_secs(1), move |handle| bury(child, handle))),
        Ok(Some(status)) => log::debug!("the process that took over has ended: {status}"),
        Err(error) => log::debug!("the process that took over has ended: {error}"),
    }
}

impl DaemonHandle {
    /// Has a new process take over; see [`Daemon`](crate::Daemon#restart). Called from the loop.
    pub(super) fn begin_restart(&self) {
        let running = self.running();
        let stage = running.stage.replace(Stage::Neither);
        match stage {
            Stage::Serving if running.is_ready.get() && !running.handle.is_stopping() => {}
            other => {
                log::warn!("{}: no restart now: {}", running.name, other.why_no_restart());
                *running.stage.borrow_mut() = other;
                return;
            }
        }
        let next = match self.start_successor() {
            Ok(successor) => {
                log::info!("{}: restarting: process {} is to take over", running.name, successor.child.id());
                Stage::Restarting(successor)
            }
            Err(error) => {
                log::error!("{}: cannot restart: {error}", running.name);
                Stage::Serving
            }
        };
        *running.stage.borrow_mut() = next;
    }

    fn start_successor(&self) -> io::Result<Successor> {
        let running = self.running();
        let (ours, theirs) = UnixStream::pair()?;
        let mut passed: Vec<(String, OwnedFd)> = vec![(CONTROL.to_owned(), theirs.into())];
        if let Some(pidfile) = &*running.pidfile.borrow() {
            passed.push((PIDFILE.to_owned(), pidfile.share()?));
        }
        for Passed { name, descriptor, has_file } in running.handle.alive()?.share_ports()? {
            let kind = if has_file { LISTENER_WITH_FILE } else { LISTENER };
            passed.push((format!("{kind}{name}"), descriptor));
        }
        let mut command = running.program.command()?;
        let daemon = self.downgrade();
        // Before there is a child, so that nothing can fail once there is one.
        let line = Line::open(&running.handle, ours, move |word| {
            if let Some(daemon) = daemon.upgrade() {
                daemon.successor_says(word);
            }
        })?;
        let child = inherit::spawn(&mut command, &passed)?;
        let daemon = self.downgrade();
        let timeout = running.times.restart;
        let deadline = running.handle.call_later(timeout, move |_| {
            if let Some(daemon) = daemon.upgrade() {
                daemon.restart_failed(&format!("it was not ready after {timeout:?}"));
            }
        });
        Ok(Successor { child, line, deadline: Some(deadline) })
    }

    fn successor_says(&self, word: Option<u8>) {
        let running = self.running();
        let stage = running.stage.replace(Stage::Neither);
        match (stage, word) {
            (Stage::Restarting(successor), Some(READY)) if !running.handle.is_stopping() => {
                self.hand_over(successor);
            }
            (Stage::Restarting(successor), None) => {
                *running.stage.borrow_mut() = Stage::Restarting(successor);
                self.restart_failed("it ended before it was ready");
            }
            (Stage::Retired(Some(successor)), None) => {
                *running.stage.borrow_mut() = Stage::Retired(None);
                bury(successor.child, &running.handle);
            }
            (other, _) => *running.stage.borrow_mut() = other,
        }
    }

    /// Gives up a new process, and goes on.
    pub(super) fn restart_failed(&self, why: &str) {
        let running = self.running();
        let stage = running.stage.replace(Stage::Serving);
        let Stage::Restarting(successor) = stage else {
            *running.stage.borrow_mut() = stage;
            return;
        };
        let pid = successor.child.id();
        let status = successor.end();
        log::error!("{}: not restarted: process {pid}: {why} ({status})", running.name);
        self.status(&format!("not restarted: {why}"));
    }

    fn hand_over(&self, mut successor: Successor) {
        let running = self.running();
        if let Some(deadline) = successor.deadline.take() {
            deadline.cancel();
        }
        let pid = successor.child.id();
        if let Some(pidfile) = &*running.pidfile.borrow()
            && let Err(error) = pidfile.write_pid(pid)
        {
            log::error!("{}: cannot write the pidfile: {error}", running.name);
        }
        // Said by this process, which is the one that the service manager listens to.
        self.notify(&format!("MAINPID={pid}"));
        if let Some(inner) = running.handle.inner() {
            inner.leave_ports();
        }
        // The lock stays with the new process.
        if let Some(pidfile) = running.pidfile.take() {
            pidfile.leave();
        }
        successor.line.say(ALL_YOURS);
        *running.stage.borrow_mut() = Stage::Retired(Some(successor));
        log::info!("{}: process {pid} has taken over; waiting for the last connections", running.name);
        self.retire();
    }

    /// Ends a new process that has not taken over: the daemon is to stop.
    pub(super) fn cancel_restart(&self) {
        if matches!(&*self.running().stage.borrow(), Stage::Restarting(_)) {
            self.restart_failed("the daemon is stopping");
        }
    }

    /// Listens to the process before this one, if there is one that hands over.
    pub(super) fn meet_predecessor(&self) -> io::Result<()> {
        let running = self.running();
        let Some(stream) = running.predecessor.take() else { return Ok(()) };
        let daemon = self.downgrade();
        let line = Line::open(&running.handle, stream, move |word| {
            if let Some(daemon) = daemon.upgrade() {
                daemon.predecessor_says(word);
            }
        })?;
        *running.stage.borrow_mut() = Stage::Heir(line);
        Ok(())
    }

    fn predecessor_says(&self, word: Option<u8>) {
        let running = self.running();
        let stage = running.stage.replace(Stage::Neither);
        match (stage, word) {
            (Stage::TakingOver(line), Some(ALL_YOURS)) => self.take_over(Some(line)),
            (Stage::TakingOver(_), None) if self.is_in_pidfile() => {
                // Nobody else can tell the service manager.
                self.notify(&format!("MAINPID={}", std::process::id()));
                self.take_over(None);
            }
            (Stage::Heir(_) | Stage::TakingOver(_), None) => {
                self.fail(io::Error::other("the process that was to hand over has ended").into());
            }
            (other, word) => {
                *running.stage.borrow_mut() = other;
                if word.is_none() {
                    // It has ended; its end of the line would be readable for ever.
                    drop(running.line.take());
                }
            }
        }
    }

    fn is_in_pidfile(&self) -> bool {
        self.running().pidfile.borrow().as_ref().is_some_and(PidFile::names_this_process)
    }

    /// Everything has started: this process can take over.
    pub(super) fn claim(&self, line: Line) {
        line.say(READY);
        *self.running().stage.borrow_mut() = Stage::TakingOver(line);
    }

    fn take_over(&self, line: Option<Line>) {
        let running = self.running();
        if let Some(pidfile) = &*running.pidfile.borrow()
            && let Err(error) = pidfile.write_own_pid()
        {
            log::error!("{}: cannot write the pidfile: {error}", running.name);
        }
        let unwanted = running.handle.inner().map(|inner| inner.own_ports()).unwrap_or_default();
        for port in unwanted {
            log::info!("{}: not listening any more: {}", running.name, port.name);
            if let Some(path) = port.file()
                && let Err(error) = std::fs::remove_file(path)
            {
                log::warn!("{}: cannot remove the socket file {path}: {error}", running.name);
            }
        }
        *running.line.borrow_mut() = line;
        *running.stage.borrow_mut() = Stage::Serving;
        log::info!("{}: has taken over", running.name);
        self.announce();
    }
}
