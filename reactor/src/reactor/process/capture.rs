//! Children that are run to their end: [`Command::output`](super::command::Command::output) and `status`.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use super::command::Output;
use super::status::ExitStatus;
use super::{Process, ProcessProtocol};
use crate::reactor::deferred::{Deferred, Resolver};
use crate::reactor::handle::Handle;

/// Hears of a child that nobody wants to hear of.
pub(super) struct Unheard;

impl ProcessProtocol for Unheard {}

type Start = Box<dyn ProcessProtocol>;

/// Whoever comes first decides the outcome: the child's end, the limit, or a cancellation.
type Shared<T> = Rc<RefCell<Option<Resolver<T, io::Error>>>>;

fn take<T>(resolver: &Shared<T>) -> Option<Resolver<T, io::Error>> {
    resolver.borrow_mut().take()
}

#[track_caller]
pub(super) fn output(
    handle: &Handle,
    program: String,
    limit: usize,
    start: impl FnOnce(Start) -> io::Result<Process>,
) -> Deferred<Output, io::Error> {
    run(handle, program.clone(), |resolver| {
        start(Box::new(Capture { resolver, program, limit, stdout: Vec::new(), stderr: Vec::new() }))
    })
}

#[track_caller]
pub(super) fn status(
    handle: &Handle,
    program: String,
    start: impl FnOnce(Start) -> io::Result<Process>,
) -> Deferred<ExitStatus, io::Error> {
    run(handle, program, |resolver| start(Box::new(UntilExit { resolver })))
}

#[track_caller]
fn run<T: 'static>(
    handle: &Handle,
    program: String,
    start: impl FnOnce(Shared<T>) -> io::Result<Process>,
) -> Deferred<T, io::Error> {
    let (resolver, deferred) = Deferred::new(handle);
    let shared: Shared<T> = Rc::new(RefCell::new(None));
    match start(Rc::clone(&shared)) {
        Err(error) => drop(resolver.resolve(Err(error))),
        Ok(process) => {
            let cancelled = Rc::downgrade(&shared);
            resolver.on_cancel(move || {
                let Some(resolver) = cancelled.upgrade().and_then(|shared| take(&shared)) else {
                    return false;
                };
                process.0.give_up(&process);
                let text = format!("{program} was cancelled");
                resolver.resolve(Err(io::Error::new(io::ErrorKind::Interrupted, text)))
            });
            *shared.borrow_mut() = Some(resolver);
        }
    }
    deferred
}

/// Collects what a child writes.
struct Capture {
    resolver: Shared<Output>,
    program: String,
    limit: usize,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Capture {
    fn keep(&mut self, process: &Process, data: &[u8], of: fn(&mut Self) -> &mut Vec<u8>) {
        if self.stdout.len() + self.stderr.len() + data.len() <= self.limit {
            of(self).extend_from_slice(data);
        } else if let Some(resolver) = take(&self.resolver) {
            process.0.give_up(process);
            let text = format!("{} wrote more than {} bytes and was killed", self.program, self.limit);
            resolver.resolve(Err(io::Error::new(io::ErrorKind::FileTooLarge, text)));
        }
    }
}

impl ProcessProtocol for Capture {
    fn out_received(&mut self, process: &Process, data: &[u8]) {
        self.keep(process, data, |capture| &mut capture.stdout);
    }

    fn err_received(&mut self, process: &Process, data: &[u8]) {
        self.keep(process, data, |capture| &mut capture.stderr);
    }

    fn process_ended(&mut self, _: &Process, status: ExitStatus) {
        let (stdout, stderr) = (std::mem::take(&mut self.stdout), std::mem::take(&mut self.stderr));
        if let Some(resolver) = take(&self.resolver) {
            resolver.resolve(Ok(Output { status, stdout, stderr }));
        }
    }
}

/// Waits for a child's end and for nothing else.
struct UntilExit {
    resolver: Shared<ExitStatus>,
}

impl ProcessProtocol for UntilExit {
    fn process_exited(&mut self, _: &Process, status: ExitStatus) {
        if let Some(resolver) = take(&self.resolver) {
            resolver.resolve(Ok(status));
        }
    }
}
