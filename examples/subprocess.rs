//! A child process whose output is printed line by line, as it comes.
//!
//! Run it:      cargo run --release --example subprocess
//! Another one: cargo run --release --example subprocess -- ping -c 3 127.0.0.1
//! Talk to it:  what the command asks for, you are asked for: its standard input is yours.
//!
//! What it shows: `command` and `ProcessProtocol`. The hooks hear of the child's output when there is some, and of its
//! end; the loop could serve a thousand connections beside it. This program ends with the command's exit code.

#[cfg(unix)]
use std::io::Write;

#[cfg(unix)]
use twistor::{ExitStatus, Process, ProcessProtocol};

/// Prints what the command writes, and remembers how it ended.
#[cfg(unix)]
struct Printer {
    name: String,
    /// The line that is not complete yet.
    line: Vec<u8>,
    outcome: std::rc::Rc<std::cell::Cell<Option<ExitStatus>>>,
}

#[cfg(unix)]
impl Printer {
    /// A longer line is printed in pieces, so that an output without any newline cannot fill the memory.
    const LONGEST: usize = 64 * 1024;

    fn print(&mut self, process: &Process) {
        let line = String::from_utf8_lossy(&self.line);
        // Who read our output may be gone, as in `subprocess ls | head -1`: then there is nothing more to do.
        if writeln!(std::io::stdout(), "{}", line.trim_end_matches(['\r', '\n'])).is_err() {
            // It may have ended by itself.
            let _ = process.kill();
        }
        self.line.clear();
    }
}

#[cfg(unix)]
impl ProcessProtocol for Printer {
    fn out_received(&mut self, process: &Process, data: &[u8]) {
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.line.len() >= Self::LONGEST {
                self.print(process);
            }
        }
    }

    fn process_ended(&mut self, process: &Process, status: ExitStatus) {
        if !self.line.is_empty() {
            // The last line need not end with a newline.
            self.print(process);
        }
        let _ = writeln!(std::io::stdout(), "subprocess: {}: {status}", self.name);
        self.outcome.set(Some(status));
    }
}

#[cfg(unix)]
fn main() -> Result<(), twistor_examples::Failure> {
    use std::{cell::Cell, rc::Rc};
    use twistor::{Fd, Reactor};

    let about = "Runs a command and prints its output line by line.";
    let words = twistor_examples::words("subprocess", about, "COMMAND", &["ls", "-la"]);
    twistor_examples::init_logging();

    let reactor = Reactor::new()?;
    let outcome = Rc::new(Cell::new(None));
    let printer = Printer { name: words[0].clone(), line: Vec::new(), outcome: Rc::clone(&outcome) };
    let command = reactor.command(&words[0]).args(&words[1..]);
    command.stdin(Fd::Inherit).stderr(Fd::Inherit).spawn(printer)?;
    reactor.run_until_idle()?;
    match outcome.get().map(|status| status.code()) {
        Some(Some(0)) => Ok(()),
        Some(Some(code)) => std::process::exit(code),
        _ => std::process::exit(1),
    }
}

#[cfg(not(unix))]
fn main() {
    let about = "Runs a command and prints its output line by line.";
    let _ = twistor_examples::words("subprocess", about, "COMMAND", &[]);
    eprintln!("subprocess: the reactor has no child processes on this system");
}
