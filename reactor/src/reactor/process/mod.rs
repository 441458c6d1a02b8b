//! Child processes: [`ProcessProtocol`], what one is to the program, and [`Process`], the handle on it.
//!
//! A child is a table entry with what hears of it, its pipes and whatever tells of its end. Its pipes are
//! ordinary connections, whose protocol ([`pipe`]) passes everything on to the `ProcessProtocol`; its end
//! comes through a descriptor or a signal ([`reaping`]). The invariant: hooks are called by the pass alone,
//! through [`State::tell`], which sees to it that `process_started` is the first of them and `process_ended`
//! the last.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use crate::core::interruption::Interruption;
use crate::core::slots::{Slots, Token};
use crate::net::reason::Reason;
use crate::reactor::deferred::{Deferred, Resolver};
use crate::reactor::handle::Handle;
use crate::reactor::inner::Inner;
use crate::reactor::signals::Signal;
use crate::reactor::transport::Transport;
use crate::reactor::watchdog::Hook;
use crate::sys::process::Running;
use crate::sys::pty;

mod capture;
pub(crate) mod command;
mod pipe;
mod reaping;
pub(crate) mod status;

use command::PtySize;
use reaping::Watch;
use status::ExitStatus;

/// The children of a reactor.
pub(crate) type Processes = Slots<Rc<State>>;

/// What a child process is to the program: its hooks are called by the reactor, one at a time, never from
/// inside another call.
///
/// The order is: [`process_started`](Self::process_started) once; then any of the others;
/// [`process_exited`](Self::process_exited) once, when the child itself has ended; and
/// [`process_ended`](Self::process_ended) once and last, when its pipes have ended as well. Data that the
/// child wrote before its end may come after `process_exited`, never after `process_ended`.
///
/// A hook that panics ends the matter: the child is killed and its pipes are aborted. Of the hooks only
/// `process_exited` and `process_ended` are called after that.
///
/// ```
/// use twistor::{ExitStatus, Process, ProcessProtocol, Reactor};
///
/// struct Listing;
///
/// impl ProcessProtocol for Listing {
///     fn out_received(&mut self, _: &Process, data: &[u8]) {
///         print!("{}", String::from_utf8_lossy(data));
///     }
///
///     fn process_ended(&mut self, process: &Process, status: ExitStatus) {
///         println!("{status}");
///         process.reactor().stop();
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// reactor.command("ls").arg("-la").spawn(Listing)?;
/// reactor.run()
/// # }
/// ```
pub trait ProcessProtocol: 'static {
    /// The child runs.
    fn process_started(&mut self, process: &Process) {
        let _ = process;
    }

    /// The child wrote this to its standard output, or to its terminal.
    fn out_received(&mut self, process: &Process, data: &[u8]) {
        let _ = (process, data);
    }

    /// The child wrote this to its standard error.
    fn err_received(&mut self, process: &Process, data: &[u8]) {
        let _ = (process, data);
    }

    /// The child wrote this to its descriptor `fd`. By default `out_received` hears of 1, `err_received` of
    /// 2.
    fn child_data_received(&mut self, process: &Process, fd: i32, data: &[u8]) {
        match fd {
            1 => self.out_received(process, data),
            2 => self.err_received(process, data),
            _ => {}
        }
    }

    /// More is queued for the child's descriptor `fd` than the high mark; see
    /// [`Protocol::pause_writing`](crate::Protocol::pause_writing).
    fn pause_writing(&mut self, process: &Process, fd: i32) {
        let _ = (process, fd);
    }

    /// The queue has fallen to the low mark.
    fn resume_writing(&mut self, process: &Process, fd: i32) {
        let _ = (process, fd);
    }

    /// The pipe to the child's descriptor `fd` is over: the child, and whoever else had it, has closed it, or
    /// we have.
    fn child_connection_lost(&mut self, process: &Process, fd: i32, reason: &Reason) {
        let _ = (process, fd, reason);
    }

    /// The child has ended and is reaped. Its pipes may still be open: a child of its own can hold them.
    fn process_exited(&mut self, process: &Process, status: ExitStatus) {
        let _ = (process, status);
    }

    /// The child has ended and all its pipes have. The last call.
    fn process_ended(&mut self, process: &Process, status: ExitStatus) {
        let _ = (process, status);
    }
}

/// How far the protocol of a child has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// It has heard nothing yet.
    New,
    Started,
    /// A hook of its has panicked: it hears only of the end.
    Panicked,
    Over,
}

/// What all handles of one child share.
pub(crate) struct State {
    handle: Handle,
    program: String,
    id: u32,
    /// The child, until it is reaped.
    child: RefCell<Option<Running>>,
    token: Cell<Token>,
    status: Cell<Option<ExitStatus>>,
    /// Not here while one of its hooks runs, and after the end.
    protocol: Cell<Option<Box<dyn ProcessProtocol>>>,
    phase: Cell<Phase>,
    /// The open pipes, by the child's descriptor.
    pipes: RefCell<BTreeMap<i32, Pipe>>,
    /// As long as its pipe is open, or the child has not ended.
    terminal: RefCell<Option<Terminal>>,
    watch: RefCell<Watch>,
    referenced: Cell<bool>,
    /// Who waits for the child to be reaped.
    exited: RefCell<Vec<Resolver<ExitStatus, Interruption>>>,
}

/// The connection to one of a child's descriptors.
struct Pipe {
    transport: Transport,
    /// Each direction can be closed for itself.
    is_two_way: bool,
}

/// The terminal that a child runs in.
struct Terminal {
    master: OwnedFd,
    /// The child's descriptors that are the terminal.
    numbers: Vec<i32>,
    /// The one of them under which its pipe is reported.
    reported: i32,
}

/// A child process: signal it, write to it, ask about it. Cheap to clone; dropping it changes nothing, the
/// child least of all.
///
/// A child outlives its reactor: when that is dropped, the child's pipes are closed and it is left to itself.
/// What became of it nobody hears; it is reaped when the program next starts a child or ends another reactor.
///
/// Whoever else waits for children in this program must wait for theirs by number: a `waitpid(-1, …)` takes
/// away the status of ours, which is then [`ExitStatus::Unknown`].
#[derive(Clone)]
pub struct Process(Rc<State>);

impl Process {
    /// The number that the system has given it. It may be another process's once this one has
    /// [exited](Self::status).
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id
    }

    /// How it ended; `None` until it is reaped.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        self.0.status.get()
    }

    /// Whether it is not reaped yet.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.0.child.borrow().is_some()
    }

    /// Fires when the child is reaped, after `process_exited`, with its status.
    #[track_caller]
    pub fn exited(&self) -> Deferred<ExitStatus, Interruption> {
        let (resolver, deferred) = Deferred::new(&self.0.handle);
        match self.status() {
            Some(status) => drop(resolver.resolve(Ok(status))),
            None => self.0.exited.borrow_mut().push(resolver),
        }
        deferred
    }

    /// Sends it a signal. It reaches this child or nobody.
    ///
    /// # Errors
    ///
    /// It is reaped already, there is no such signal, or the child runs as another user.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let outcome = match &*self.0.child.borrow() {
            Some(child) => child.signal(signal.as_raw()),
            None => Err(io::Error::new(io::ErrorKind::NotFound, "it has ended")),
        };
        outcome.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot send {signal} to {}: {error}", self.0))
        })
    }

    /// Kills it: no program can refuse.
    ///
    /// # Errors
    ///
    /// As [`signal`](Self::signal).
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// Queues `data` for its standard input, or its terminal. Dropped when there is no such pipe, or it is
    /// closing.
    pub fn write(&self, data: &[u8]) {
        if let Some(input) = self.pipe(0) {
            input.write(data);
        }
    }

    /// Ends its standard input, after what is queued. A terminal gets its end-of-file character (Ctrl-D)
    /// instead, because it cannot be closed in one direction.
    pub fn close_stdin(&self) {
        /// Ctrl-D.
        const END_OF_FILE: u8 = 4;
        let Some(input) = self.pipe(0) else { return };
        if self.0.is_terminal(0) {
            input.write(&[END_OF_FILE]);
        } else if self.0.pipes.borrow().get(&0).is_some_and(|pipe| pipe.is_two_way) {
            input.lose_write_connection();
        } else {
            input.lose_connection();
        }
    }

    /// The connection to the child's descriptor `fd`, as long as it is open: to write to it, to pause it, to
    /// [pipe](Transport::pipe) it on, or to [switch](Transport::switch_protocol) it to a protocol of its own,
    /// which then hears of its data instead.
    ///
    /// A terminal's connection is that of all descriptors that are the terminal: usually 0, 1 and 2.
    #[must_use]
    pub fn pipe(&self, fd: i32) -> Option<Transport> {
        let terminal = self.0.terminal.borrow();
        let terminal = terminal.as_ref().filter(|terminal| terminal.numbers.contains(&fd));
        let fd = terminal.map_or(fd, |terminal| terminal.reported);
        self.0.pipes.borrow().get(&fd).map(|pipe| pipe.transport.clone())
    }

    /// Changes the size of the child's terminal; the programs in it get SIGWINCH.
    ///
    /// # Errors
    ///
    /// The child has no terminal, or it is closed.
    pub fn set_window_size(&self, size: PtySize) -> io::Result<()> {
        match &*self.0.terminal.borrow() {
            Some(terminal) => pty::set_size(terminal.master.as_fd(), size.rows, size.columns),
            None => Err(io::Error::new(io::ErrorKind::NotConnected, format!("{} has no terminal", self.0))),
        }
    }

    /// Does not let [`Reactor::run_until_idle`](crate::Reactor::run_until_idle) wait for the child's end. Its
    /// open pipes count all the same.
    pub fn unref(&self) {
        self.0.unreference();
    }

    /// The reactor.
    #[must_use]
    pub fn reactor(&self) -> &Handle {
        &self.0.handle
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State { program, id, status, .. } = &*self.0;
        let mut debug = f.debug_struct("Process");
        debug.field("id", id).field("program", program).field("status", &status.get()).finish_non_exhaustive()
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.id, self.program)
    }
}

impl State {
    fn new(
        handle: &Handle,
        program: String,
        child: Running,
        terminal: Option<Terminal>,
        protocol: Box<dyn ProcessProtocol>,
    ) -> Rc<Self> {
        Rc::new(Self {
            handle: handle.clone(),
            program,
            id: child.id(),
            child: RefCell::new(Some(child)),
            token: Cell::new(Token::NOBODY),
            status: Cell::new(None),
            protocol: Cell::new(Some(protocol)),
            phase: Cell::new(Phase::New),
            pipes: RefCell::default(),
            terminal: RefCell::new(terminal),
            watch: RefCell::default(),
            referenced: Cell::new(true),
            exited: RefCell::default(),
        })
    }

    fn is_terminal(&self, fd: i32) -> bool {
        self.terminal.borrow().as_ref().is_some_and(|terminal| terminal.numbers.contains(&fd))
    }

    /// The child runs: its protocol hears so, unless it has heard of more already.
    fn start(self: &Rc<Self>, inner: &Inner) {
        self.tell(inner, "process_started", |_, _| {});
        inner.hook_ran(Token::NOBODY, Hook::Callback);
    }

    /// Calls a hook, after `process_started` if that is still to come. Only the pass calls this.
    fn tell(self: &Rc<Self>, inner: &Inner, hook: &str, f: impl FnOnce(&mut dyn ProcessProtocol, &Process)) {
        if self.phase.get() == Phase::New {
            self.phase.set(Phase::Started);
            self.call(inner, "process_started", ProcessProtocol::process_started);
        }
        if self.phase.get() == Phase::Started {
            self.call(inner, hook, f);
        }
    }

    /// Calls one of the hooks that come also after a panic.
    fn tell_end(
        self: &Rc<Self>,
        inner: &Inner,
        hook: &str,
        f: impl FnOnce(&mut dyn ProcessProtocol, &Process),
    ) {
        if self.phase.get() == Phase::Panicked {
            self.call(inner, hook, f);
        } else {
            self.tell(inner, hook, f);
        }
    }

    fn call(self: &Rc<Self>, inner: &Inner, hook: &str, f: impl FnOnce(&mut dyn ProcessProtocol, &Process)) {
        let Some(mut protocol) = self.protocol.take() else { return };
        let process = Process(Rc::clone(self));
        let outcome = inner.contain(format_args!("{hook} of {self}"), || f(&mut *protocol, &process));
        self.protocol.set(Some(protocol));
        if outcome.is_none() && self.phase.get() != Phase::Panicked {
            self.phase.set(Phase::Panicked);
            self.give_up(&process);
        }
    }

    /// Kills the child and drops what was on its way to and from it.
    fn give_up(&self, process: &Process) {
        if process.is_running()
            && let Err(error) = process.kill()
        {
            log::warn!("{error}");
        }
        self.abort_pipes();
    }

    fn abort_pipes(&self) {
        let pipes: Vec<Transport> = self.pipes.borrow().values().map(|pipe| pipe.transport.clone()).collect();
        pipes.iter().for_each(Transport::abort_connection);
    }

    /// A pipe has ended, and nothing more comes from it. A terminal that the child has let go of is kept
    /// until the child has ended as well: closing it would send SIGHUP to a child that is just about to exit.
    fn pipe_closed(self: &Rc<Self>, inner: &Inner, fd: i32, by_child: bool) {
        let closed = self.pipes.borrow_mut().remove(&fd);
        drop(closed);
        if !by_child || self.status.get().is_some() {
            self.close_terminal();
        }
        self.end_if_complete(inner);
    }

    /// Lets go of the terminal, unless its pipe is still open.
    fn close_terminal(&self) {
        let pipes = self.pipes.borrow();
        let terminal = self.terminal.borrow_mut().take_if(|terminal| !pipes.contains_key(&terminal.reported));
        drop(terminal);
    }

    /// The last hook, once the child and all its pipes have ended.
    fn end_if_complete(self: &Rc<Self>, inner: &Inner) {
        let Some(status) = self.status.get() else { return };
        if !self.pipes.borrow().is_empty() {
            return;
        }
        self.tell_end(inner, "process_ended", |protocol, process| protocol.process_ended(process, status));
        self.forget(inner);
    }

    /// Lets go of the protocol, and of the place in the table.
    fn forget(&self, inner: &Inner) {
        self.phase.set(Phase::Over);
        let entry = inner.processes.borrow_mut().remove(self.token.get());
        drop(entry);
        inner.discard(self.protocol.take());
    }

    fn unreference(&self) {
        if self.referenced.replace(false)
            && let Some(inner) = self.handle.inner()
        {
            inner.referenced_ports.set(inner.referenced_ports.get() - 1);
        }
    }
}

impl Inner {
    /// At the end of the reactor: lets go of all children, which live on.
    pub(crate) fn abandon_processes(&self) {
        let tokens = self.processes.borrow().tokens();
        for token in tokens {
            let Some(state) = self.processes.borrow_mut().remove(token) else { continue };
            state.phase.set(Phase::Over);
            let child = state.child.take();
            if let Some(child) = child {
                child.abandon();
            }
            let (pipes, terminal, watch) = (state.pipes.take(), state.terminal.take(), state.watch.take());
            drop((pipes, terminal, watch));
            self.discard(state.protocol.take());
            self.discard(state.exited.take());
        }
        crate::sys::process::reap_orphans();
    }
}
