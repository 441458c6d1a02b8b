//! [`Command`]: says what a child process is to be, and starts it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;

use super::capture::{self, Unheard};
use super::pipe::{self, OurEnd};
use super::reaping::ByWhat;
use super::status::ExitStatus;
use super::{Phase, Process, ProcessProtocol, State, Terminal};
use crate::core::slots::Token;
use crate::protocol::Protocol;
use crate::reactor::deferred::Deferred;
use crate::reactor::handle::Handle;
use crate::reactor::inner::Inner;
use crate::reactor::transport::Transport;
use crate::sys::process::{self, Plan, Rights, Session};
use crate::sys::pty;

/// Bytes of output that are kept for [`Command::output`] unless it is said otherwise.
const OUTPUT_LIMIT: usize = 16 << 20;

/// What a descriptor of a child process is.
#[derive(Debug)]
#[non_exhaustive]
pub enum Fd {
    /// A pipe: the child writes, the reactor reads.
    ReadPipe,
    /// A pipe: the reactor writes, the child reads.
    WritePipe,
    /// A pair of Unix stream sockets: both write and read.
    SocketPair,
    /// The descriptor of that number of this program.
    Inherit,
    /// `/dev/null`: empty, and takes everything.
    Null,
    /// This one. Ours is closed when the child runs, or cannot be started.
    Descriptor(OwnedFd),
    /// The same as the child's descriptor of this number: `fd(2, Fd::Same(1))` is the shell's `2>&1`.
    Same(i32),
}

impl From<OwnedFd> for Fd {
    fn from(descriptor: OwnedFd) -> Self {
        Self::Descriptor(descriptor)
    }
}

impl From<File> for Fd {
    fn from(file: File) -> Self {
        Self::Descriptor(file.into())
    }
}

/// The size of a terminal's window, in characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PtySize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

impl Default for PtySize {
    /// 24 lines of 80 characters.
    fn default() -> Self {
        Self { rows: 24, columns: 80 }
    }
}

/// What a child brought that ran to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error.
    pub stderr: Vec<u8>,
}

/// A program to run as a child process. [`Handle::command`] makes one.
///
/// The child has the descriptors that are said here and no others, standard input, output and error among
/// them; the usual effect of every signal, and none held back; and, unless it is said otherwise, the
/// environment, the directory, the user and the process group of this program.
///
/// Starting takes place in the call, and takes as long as the system needs to load the program.
///
/// ```
/// use twistor::Reactor;
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// reactor.command("sort").input("pear\napple\n").output().on_done(|reactor, output| {
///     assert_eq!(output.unwrap().stdout, b"apple\npear\n");
///     reactor.stop();
/// });
/// reactor.run()
/// # }
/// ```
#[must_use = "nothing runs yet"]
pub struct Command {
    handle: Handle,
    program: String,
    command: std::process::Command,
    descriptors: BTreeMap<i32, Fd>,
    terminal: Option<PtySize>,
    own_session: bool,
    rights: Rights,
    input: Option<Bytes>,
    output_limit: usize,
}

impl Handle {
    /// A command to run `program`: a path, or a name to be looked up in the `PATH`.
    ///
    /// ```
    /// use twistor::Reactor;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// reactor.command("uname").arg("-s").output().on_done(|reactor, output| {
    ///     println!("{}", String::from_utf8_lossy(&output.unwrap().stdout));
    ///     reactor.stop();
    /// });
    /// reactor.run()
    /// # }
    /// ```
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let program = program.as_ref();
        Command {
            handle: self.clone(),
            program: program.to_string_lossy().into_owned(),
            command: std::process::Command::new(program),
            descriptors: BTreeMap::new(),
            terminal: None,
            own_session: false,
            rights: Rights::default(),
            input: None,
            output_limit: OUTPUT_LIMIT,
        }
    }
}

impl Command {
    /// Adds an argument. No shell looks at it.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds several arguments.
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    /// What the program is told as its own name, in place of the one by which it is found.
    pub fn arg0(mut self, name: impl AsRef<OsStr>) -> Self {
        self.command.arg0(name);
        self
    }

    /// Sets a variable of the child's environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Leaves a variable out of the child's environment.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Begins with an empty environment.
    pub fn env_clear(mut self) -> Self {
        self.command.env_clear();
        self
    }

    /// The directory that the child runs in.
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Runs it as this user, by number. Unless [`groups`](Self::groups) says otherwise, it keeps no further
    /// groups.
    pub fn uid(mut self, user: u32) -> Self {
        self.rights.user = Some(user);
        self
    }

    /// Runs it with this group, by number.
    pub fn gid(mut self, group: u32) -> Self {
        self.rights.group = Some(group);
        self
    }

    /// Runs it with these further groups, by number.
    pub fn groups(mut self, groups: impl IntoIterator<Item = u32>) -> Self {
        self.rights.groups = Some(groups.into_iter().collect());
        self
    }

    /// Runs it in a session and process group of its own, so that the keys of our terminal (Ctrl-C) do not
    /// reach it.
    pub fn own_session(mut self) -> Self {
        self.own_session = true;
        self
    }

    /// What the child's descriptor of that number is. The later one of two counts.
    pub fn fd(mut self, number: i32, is: impl Into<Fd>) -> Self {
        self.descriptors.insert(number, is.into());
        self
    }

    /// What its standard input is: [`fd`](Self::fd) 0. A pipe to be written to, if nothing is said;
    /// [`Fd::Null`] for `output`, ours for `status`.
    pub fn stdin(self, is: impl Into<Fd>) -> Self {
        self.fd(0, is)
    }

    /// What its standard output is: [`fd`](Self::fd) 1. A pipe to be read from, if nothing is said; ours for
    /// `status`.
    pub fn stdout(self, is: impl Into<Fd>) -> Self {
        self.fd(1, is)
    }

    /// What its standard error is: [`fd`](Self::fd) 2. A pipe to be read from, if nothing is said; ours for
    /// `status` and `connect`.
    pub fn stderr(self, is: impl Into<Fd>) -> Self {
        self.fd(2, is)
    }

    /// Writes these bytes to the child's standard input, a pipe, and closes it.
    pub fn input(mut self, bytes: impl Into<Bytes>) -> Self {
        self.input = Some(bytes.into());
        self.stdin(Fd::WritePipe)
    }

    /// Runs it in a terminal with a window of that size: its standard input, output and error, as far as
    /// nothing else is said of them. What it writes there is reported as its standard output.
    ///
    /// The child has a session of its own, and the terminal is its controlling one: closing it sends SIGHUP.
    pub fn pty(mut self, size: PtySize) -> Self {
        self.terminal = Some(size);
        self
    }

    /// How many bytes of output [`output`](Self::output) keeps: 16 MiB if nothing is said.
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.output_limit = bytes;
        self
    }

    /// Starts it, and has `protocol` hear of it.
    ///
    /// # Errors
    ///
    /// The program cannot be executed, a descriptor cannot be put into its place, the system has no more
    /// processes or descriptors; or the reactor is stopping or gone. Nothing is left of the child then.
    pub fn spawn(self, protocol: impl ProcessProtocol) -> io::Result<Process> {
        self.start([Fd::WritePipe, Fd::ReadPipe, Fd::ReadPipe], Box::new(protocol))
    }

    /// Runs it to its end, and keeps what it writes. The outcome comes when the child has ended and its pipes
    /// have. Cancelling it kills the child.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn); or the child writes more than the [limit](Self::output_limit), and is
    /// killed for it; or it was cancelled (`Interrupted`). A child that ends with an error code is no error.
    #[track_caller]
    pub fn output(mut self) -> Deferred<Output, io::Error> {
        self.input.get_or_insert_default();
        let (handle, program, limit) = (self.handle.clone(), self.program.clone(), self.output_limit);
        capture::output(&handle, program, limit, |protocol| {
            self.start([Fd::Null, Fd::ReadPipe, Fd::ReadPipe], protocol)
        })
    }

    /// Runs it to its end. What it says goes where ours goes. Cancelling it kills the child.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn), or it was cancelled (`Interrupted`).
    #[track_caller]
    pub fn status(mut self) -> Deferred<ExitStatus, io::Error> {
        self.input.get_or_insert_default();
        let (handle, program) = (self.handle.clone(), self.program.clone());
        capture::status(&handle, program, |protocol| {
            self.start([Fd::Inherit, Fd::Inherit, Fd::Inherit], protocol)
        })
    }

    /// Starts it with one end of a pair of sockets as its standard input and output; `protocol` gets the
    /// other end as an ordinary connection. The child's standard error is ours, unless it is said otherwise.
    ///
    /// ```
    /// use twistor::{Protocol, Reactor, Reason, Transport};
    ///
    /// struct Talk;
    ///
    /// impl Protocol for Talk {
    ///     fn connection_made(&mut self, transport: &Transport) {
    ///         transport.write(b"hello\n");
    ///         transport.lose_write_connection();
    ///     }
    ///     fn data_received(&mut self, _: &Transport, data: &[u8]) {
    ///         assert_eq!(data, b"hello\n");
    ///     }
    ///     fn connection_lost(&mut self, transport: &Transport, _: &Reason) {
    ///         transport.reactor().stop();
    ///     }
    /// }
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let (_process, _transport) = reactor.command("cat").connect(Talk)?;
    /// reactor.run()
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    pub fn connect(self, protocol: impl Protocol) -> io::Result<(Process, Transport)> {
        let (context, handle) = (self.context(), self.handle.clone());
        let (process, ours) = self.start_with_socket()?;
        let adopted = handle
            .alive()
            .and_then(|inner| pipe::adopt(&inner, &process.0, 0, OurEnd::Socket(ours), Box::new(protocol)));
        match adopted {
            Ok(transport) => Ok((process, transport)),
            Err(error) => {
                process.0.give_up(&process);
                Err(io::Error::new(error.kind(), format!("{context}: {error}")))
            }
        }
    }

    /// Starts it with one end of a pair of sockets as its standard input and output; returns the other end.
    pub(crate) fn start_with_socket(self) -> io::Result<(Process, OwnedFd)> {
        let context = self.context();
        if self.terminal.is_some() {
            return Err(invalid(format!("{context}: it cannot talk through sockets and a terminal at once")));
        }
        let pair = UnixStream::pair();
        let (ours, theirs) =
            pair.map_err(|error| io::Error::new(error.kind(), format!("{context}: {error}")))?;
        let socket = Fd::Descriptor(theirs.into());
        let process = self.start([socket, Fd::Same(0), Fd::Inherit], Box::new(Unheard))?;
        Ok((process, ours.into()))
    }

    fn context(&self) -> String {
        match self.command.get_current_dir() {
            Some(directory) => format!("cannot run {} in {}", self.program, directory.display()),
            None => format!("cannot run {}", self.program),
        }
    }

    fn start(mut self, usual: [Fd; 3], protocol: Box<dyn ProcessProtocol>) -> io::Result<Process> {
        let context = self.context();
        for (number, is) in (0..).zip(usual) {
            if self.terminal.is_none() {
                self.descriptors.entry(number).or_insert(is);
            }
        }
        let outcome = self.handle.alive().and_then(|inner| inner.start_child(self, protocol));
        outcome.map_err(|error| io::Error::new(error.kind(), format!("{context}: {error}")))
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Command");
        debug.field("command", &self.command).field("descriptors", &self.descriptors);
        debug.field("terminal", &self.terminal).finish_non_exhaustive()
    }
}

/// The descriptors of a child, laid out.
struct Layout {
    /// The child's numbers, and what stands there, by our numbers.
    map: Vec<(RawFd, RawFd)>,
    /// What exists only for the child.
    theirs: Vec<OwnedFd>,
    /// Our ends of its pipes, by the child's numbers.
    ours: Vec<(RawFd, OurEnd)>,
    terminal: Option<Terminal>,
}

impl Layout {
    fn new(wanted: BTreeMap<i32, Fd>, size: Option<PtySize>) -> io::Result<Self> {
        let mut layout = Self { map: Vec::new(), theirs: Vec::new(), ours: Vec::new(), terminal: None };
        if let Some(size) = size {
            layout.open_terminal(&wanted, size)?;
        }
        let mut same = Vec::new();
        for (number, is) in wanted {
            if number < 0 {
                return Err(invalid(format!("there is no descriptor {number}")));
            }
            match is {
                Fd::ReadPipe => {
                    let (ours, theirs) = io::pipe()?;
                    layout.place(number, theirs.into(), Some(OurEnd::Read(ours.into())));
                }
                Fd::WritePipe => {
                    let (theirs, ours) = io::pipe()?;
                    layout.place(number, theirs.into(), Some(OurEnd::Write(ours.into())));
                }
                Fd::SocketPair => {
                    let (ours, theirs) = UnixStream::pair()?;
                    layout.place(number, theirs.into(), Some(OurEnd::Socket(ours.into())));
                }
                Fd::Inherit => layout.map.push((number, number)),
                Fd::Null => {
                    let null = File::options().read(true).write(true).open("/dev/null")?;
                    layout.place(number, null.into(), None);
                }
                Fd::Descriptor(descriptor) => layout.place(number, descriptor, None),
                Fd::Same(other) => same.push((number, other)),
            }
        }
        layout.resolve(same)?;
        Ok(layout)
    }

    fn place(&mut self, number: RawFd, theirs: OwnedFd, ours: Option<OurEnd>) {
        self.map.push((number, theirs.as_raw_fd()));
        self.theirs.push(theirs);
        self.ours.extend(ours.map(|ours| (number, ours)));
    }

    fn open_terminal(&mut self, wanted: &BTreeMap<i32, Fd>, size: PtySize) -> io::Result<()> {
        let numbers: Vec<RawFd> = (0..=2).filter(|number| !wanted.contains_key(number)).collect();
        // Output is what most is read of it.
        let reported = numbers.iter().find(|number| **number > 0).or(numbers.first()).copied();
        let Some(reported) = reported else {
            return Err(invalid(
                "0, 1 and 2 are other things, which leaves nothing for the terminal".to_owned(),
            ));
        };
        let (master, slave) = pty::open(size.rows, size.columns)?;
        self.map.extend(numbers.iter().map(|number| (*number, slave.as_raw_fd())));
        self.theirs.push(slave);
        self.ours.push((reported, OurEnd::Terminal(master.try_clone()?)));
        self.terminal = Some(Terminal { master, numbers, reported });
        Ok(())
    }

    /// Puts those into their places that are the same as others, which may be the same as others again.
    fn resolve(&mut self, mut same: Vec<(RawFd, RawFd)>) -> io::Result<()> {
        while !same.is_empty() {
            let before = same.len();
            same.retain(|(number, other)| {
                let source = self.map.iter().find(|(placed, _)| placed == other).map(|(_, source)| *source);
                self.map.extend(source.map(|source| (*number, source)));
                source.is_none()
            });
            if same.len() == before {
                let (number, other) = same[0];
                let text = format!("its descriptor {number} is to be the same as {other}, which it has not");
                return Err(invalid(text));
            }
        }
        Ok(())
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

impl Inner {
    fn may_start_child(&self) -> io::Result<()> {
        if self.driver.borrow().is_simulated() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "a simulation has no processes"));
        }
        if self.is_past_connections() {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the reactor is stopping"));
        }
        Ok(())
    }

    fn start_child(&self, mut command: Command, protocol: Box<dyn ProcessProtocol>) -> io::Result<Process> {
        let (program, input) = (std::mem::take(&mut command.program), command.input.take());
        let Executed { child, by, terminal, ours } = match self.execute(command) {
            Ok(executed) => executed,
            Err(error) => {
                self.discard(protocol);
                return Err(error);
            }
        };
        let state = State::new(&self.handle, program, child, terminal, protocol);
        let process = Process(Rc::clone(&state));
        let token = self.processes.borrow_mut().insert(Rc::clone(&state));
        state.token.set(token.unwrap_or(Token::NOBODY));
        self.referenced_ports.set(self.referenced_ports.get() + 1);
        let begun = self.watch_child(by, &state).and_then(|()| pipe::adopt_all(self, &state, ours, input));
        if let Err(error) = begun {
            // The child runs already: it has to go, and nobody is to hear of it.
            state.phase.set(Phase::Over);
            state.give_up(&process);
            self.discard(state.protocol.take());
            self.abandon_unwatched(&state);
            return Err(error);
        }
        self.handle.call_soon(move |handle| {
            if let Some(inner) = handle.inner() {
                state.start(&inner);
            }
        });
        Ok(process)
    }

    /// Has the child run; nobody hears of it yet.
    fn execute(&self, command: Command) -> io::Result<Executed> {
        self.may_start_child()?;
        let Command { command, descriptors, terminal, own_session, rights, .. } = command;
        let layout = Layout::new(descriptors, terminal)?;
        let session = match (&layout.terminal, own_session) {
            (Some(terminal), _) => Session::Terminal(terminal.reported),
            (None, true) => Session::Own,
            (None, false) => Session::Ours,
        };
        let by = self.prepare_for_child()?;
        let plan = Plan { command, descriptors: layout.map, owned: layout.theirs, session, rights };
        let child =
            process::spawn(plan, by == ByWhat::Descriptor).inspect_err(|_| self.unprepare_for_child(by))?;
        Ok(Executed { child, by, terminal: layout.terminal, ours: layout.ours })
    }
}

/// A child that runs.
struct Executed {
    child: process::Running,
    by: ByWhat,
    terminal: Option<Terminal>,
    /// Our ends of its pipes, by the child's numbers.
    ours: Vec<(RawFd, OurEnd)>,
}
