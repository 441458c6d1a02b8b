//! Standard input and a timer, side by side on one thread: the smallest loop that waits for two things.
//!
//! Run it:      cargo run --release --example stdin_and_timer
//! Talk to it:  type lines; after five seconds it ends. Ctrl-D ends the input, and it still waits for its timer.
//! A pipe:      (echo now; sleep 2; echo later) | cargo run --release --example stdin_and_timer
//! A file:      cargo run --release --example stdin_and_timer < README.md
//!
//! What it shows: `add_reader`, which watches any descriptor. The hook is called when there is something to read, so
//! one `read` does not block. Whatever is left is reported again. Nothing has to be made non-blocking for that, and
//! should not be: a terminal is shared with the shell, which would find it changed.

// Where it cannot work, it only says so.
#![cfg_attr(not(unix), allow(dead_code))]

use std::io::{self, Read};

/// A longer line is printed in pieces, so that an input without any newline cannot fill the memory.
const LONGEST: usize = 64 * 1024;

/// What has been read, up to the line that is not complete yet.
struct Input<R> {
    source: R,
    line: Vec<u8>,
}

impl<R: Read> Input<R> {
    /// Reads once, prints the lines that are complete with that, and says whether there can be more.
    fn read(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 4096];
        let count = match self.source.read(&mut chunk) {
            // Somebody who shares the input was faster, or a signal came; the loop calls again.
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
                return Ok(true);
            }
            outcome => outcome?,
        };
        for piece in chunk[..count].split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.line.len() >= LONGEST {
                self.print();
            }
        }
        if count == 0 && !self.line.is_empty() {
            // The last line need not end with a newline.
            self.print();
        }
        Ok(count > 0)
    }

    fn print(&mut self) {
        println!("stdin: {}", String::from_utf8_lossy(&self.line).trim_end_matches(['\r', '\n']));
        self.line.clear();
    }
}

#[cfg(unix)]
fn main() -> Result<(), twistor_examples::Failure> {
    use std::{cell::OnceCell, fs::File, os::fd::AsFd, rc::Rc, time::Duration};

    let [] = twistor_examples::arguments("stdin_and_timer", "Prints what you type for five seconds.", []);
    twistor_examples::init_logging();
    let reactor = twistor::Reactor::new()?;

    // `io::stdin` itself would not do: it reads ahead into a buffer of its own, which no poller knows of.
    let source = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut input = Input { source, line: Vec::new() };
    let watch = Rc::new(OnceCell::<twistor::DescriptorWatch>::new());
    let own = Rc::clone(&watch);
    let reader = reactor.add_reader(&io::stdin(), move |_| {
        let goes_on = input.read().unwrap_or_else(|error| {
            eprintln!("stdin_and_timer: cannot read standard input: {error}");
            false
        });
        // At its end an input is ready for ever.
        if !goes_on && let Some(watch) = own.get() {
            watch.remove();
        }
    })?;
    watch.get_or_init(|| reader);

    reactor.call_later(Duration::from_secs(5), |reactor| {
        println!("timer");
        reactor.stop();
    });
    Ok(reactor.run()?)
}

#[cfg(not(unix))]
fn main() {
    eprintln!("stdin_and_timer: this system cannot wait for standard input as for a socket");
    std::process::exit(1);
}
