//! The contract, section 11: child processes, what they are given, what is heard of them, and how they end.
//!
//! One module per question. The ends of children are told by descriptors on the direct driver and by SIGCHLD
//! on the portable one.

#![cfg(unix)]

use std::cell::RefCell;
use std::rc::Rc;

use twistor::{Command, Deferred, ExitStatus, Handle, Output, Process, ProcessProtocol, Reason, Signal};
use twistor_tests::World;

mod awaited;
mod given;
mod life;
mod status;
mod streams;

/// What a protocol was told.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Told {
    Started,
    Data(i32, Vec<u8>),
    Paused(i32),
    Resumed(i32),
    Lost(i32, String),
    Exited(ExitStatus),
    Ended(ExitStatus),
}

type Hook = Box<dyn FnMut(&Process, &Told)>;

/// Writes down what it is told, and does what the test wants done then.
#[derive(Clone, Default)]
struct Recorder {
    told: Rc<RefCell<Vec<Told>>>,
    hook: Rc<RefCell<Option<Hook>>>,
}

impl Recorder {
    fn new() -> Self {
        Self::default()
    }

    fn on(self, hook: impl FnMut(&Process, &Told) + 'static) -> Self {
        *self.hook.borrow_mut() = Some(Box::new(hook));
        self
    }

    fn hear(&self, process: &Process, what: &Told) {
        self.told.borrow_mut().push(what.clone());
        if let Some(hook) = &mut *self.hook.borrow_mut() {
            hook(process, what);
        }
    }

    fn has(&self, what: &Told) -> bool {
        self.told.borrow().contains(what)
    }

    fn ended(&self) -> Option<ExitStatus> {
        self.told.borrow().iter().find_map(|told| match told {
            Told::Ended(status) => Some(*status),
            _ => None,
        })
    }

    fn exited(&self) -> Option<ExitStatus> {
        self.told.borrow().iter().find_map(|told| match told {
            Told::Exited(status) => Some(*status),
            _ => None,
        })
    }

    /// What the child wrote to its descriptor.
    fn data(&self, fd: i32) -> Vec<u8> {
        let told = self.told.borrow();
        let data = told.iter().filter_map(|told| match told {
            Told::Data(from, data) if *from == fd => Some(data.as_slice()),
            _ => None,
        });
        data.collect::<Vec<_>>().concat()
    }

    fn text(&self, fd: i32) -> String {
        String::from_utf8(self.data(fd)).expect("text")
    }
}

impl ProcessProtocol for Recorder {
    fn process_started(&mut self, process: &Process) {
        self.hear(process, &Told::Started);
    }

    fn child_data_received(&mut self, process: &Process, fd: i32, data: &[u8]) {
        assert!(!data.is_empty());
        self.hear(process, &Told::Data(fd, data.to_vec()));
    }

    fn pause_writing(&mut self, process: &Process, fd: i32) {
        self.hear(process, &Told::Paused(fd));
    }

    fn resume_writing(&mut self, process: &Process, fd: i32) {
        self.hear(process, &Told::Resumed(fd));
    }

    fn child_connection_lost(&mut self, process: &Process, fd: i32, reason: &Reason) {
        self.hear(process, &Told::Lost(fd, reason.to_string()));
    }

    fn process_exited(&mut self, process: &Process, status: ExitStatus) {
        assert_eq!(process.status(), Some(status));
        assert!(!process.is_running());
        self.hear(process, &Told::Exited(status));
    }

    fn process_ended(&mut self, process: &Process, status: ExitStatus) {
        self.hear(process, &Told::Ended(status));
    }
}

/// A shell that is to do that.
fn shell(reactor: &Handle, script: &str) -> Command {
    reactor.command("/bin/sh").args(["-c", script])
}

/// Runs a command to its end and returns what was heard.
fn run(world: &World, command: Command) -> Recorder {
    let recorder = Recorder::new();
    command.spawn(recorder.clone()).expect("a child");
    world.until("the child ended", || recorder.ended().is_some());
    recorder
}

fn run_shell(world: &World, script: &str) -> Recorder {
    run(world, shell(&world.reactor, script))
}

/// The outcome of a Deferred, which is waited for.
fn outcome<T: 'static, E: 'static>(world: &World, deferred: Deferred<T, E>) -> Result<T, E> {
    let slot = Rc::new(RefCell::new(None));
    let place = Rc::clone(&slot);
    deferred.on_done(move |_, outcome| *place.borrow_mut() = Some(outcome));
    world.until("the outcome is there", || slot.borrow().is_some());
    slot.take().expect("just seen")
}

fn output(world: &World, command: Command) -> Output {
    outcome(world, command.output()).expect("output")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// The children of this process, dead ones too.
fn children() -> Vec<(u32, char)> {
    let me = std::process::id().to_string();
    let all = std::fs::read_dir("/proc").expect("a list of processes");
    let stats = all.filter_map(|entry| {
        let id: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?.chars().next()?;
        (fields.next()? == me).then_some((id, state))
    });
    stats.collect()
}

/// Whether SIGCHLD has its usual effect.
fn sigchld_is_usual() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let bit = 1_u64 << (libc::SIGCHLD - 1);
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a set of signals");
        u64::from_str_radix(line.trim(), 16).expect("a number")
    };
    (set("SigIgn:") | set("SigCgt:")) & bit == 0
}

const SUCCESS: ExitStatus = ExitStatus::Code(0);

fn killed(signal: Signal) -> ExitStatus {
    ExitStatus::Signal { signal, core_dumped: false }
}
