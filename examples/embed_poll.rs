//! A reactor inside a plain `poll(2)` loop, which has a source of its own: what is typed.
//!
//! Run it:      cargo run --example embed_poll
//! Elsewhere:   cargo run --example embed_poll -- tcp:9000:interface=127.0.0.1
//! Talk to it:  nc 127.0.0.1 8000; and type timer, stats or quit
//!
//! What it shows: the three things that a host needs. The reactor's descriptor is readable when a turn would find
//! something; `next_deadline` says how long the host may sleep all the same; `turn(Some(Duration::ZERO))` does what there
//! is to do and waits for nothing. While nothing happens, neither loop runs: `stats` shows it.

#[cfg(unix)]
mod host {
    use std::io::{self, BufRead, stdin};
    use std::time::{Duration, Instant};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;
    use twistor::Reactor;
    use twistor_examples::{Failure, arguments, guest, init_logging};

    /// Waits until one of the two has something, but no longer than until then; whether it is the input.
    fn wait(reactor: &Reactor, input: Option<&io::Stdin>, until: Option<Instant>) -> io::Result<bool> {
        // In nanoseconds: a time rounded down would make the loop spin ahead of each timer.
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut sources = vec![PollFd::new(reactor, PollFlags::IN)];
        sources.extend(input.map(|input| PollFd::new(input, PollFlags::IN)));
        match poll(&mut sources, left.as_ref()) {
            Ok(_) => Ok(sources.get(1).is_some_and(|input| !input.revents().is_empty())),
            // A wait that ends for nothing does no harm.
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes what was typed, and keeps the beginning of a line in `text`. False at the end of the input.
    fn read(input: &io::Stdin, text: &mut Vec<u8>, mut line: impl FnMut(&str)) -> io::Result<bool> {
        let mut input = input.lock();
        // All of it: what stayed in this buffer, `poll` would not see.
        let bytes = input.fill_buf()?;
        let count = bytes.len();
        text.extend_from_slice(bytes);
        input.consume(count);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            line(&String::from_utf8_lossy(&text[..end]));
            text.drain(..=end);
        }
        Ok(count > 0)
    }

    pub(crate) fn main() -> Result<(), Failure> {
        let [endpoint] = arguments("embed_poll", guest::COMMANDS, [("ENDPOINT", Some("tcp:8000"))]);
        init_logging();

        let reactor = Reactor::new()?;
        guest::serve(&reactor, "embed_poll", &endpoint)?;
        let (mut input, mut text) = (Some(stdin()), Vec::new());
        loop {
            // Asked for after the turn: it is "now" while something is queued.
            let until = reactor.next_deadline();
            let is_typed = wait(&reactor, input.as_ref(), until)?;
            if let Some(typed) = input.as_ref().filter(|_| is_typed)
                && !read(typed, &mut text, |line| guest::command(&reactor, line))?
            {
                // At its end it would be readable for ever.
                input = None;
            }
            if !reactor.turn(Some(Duration::ZERO))? {
                break;
            }
        }
        println!("embed_poll: {}", reactor.stats());
        Ok(())
    }
}

#[cfg(unix)]
use host::main;

#[cfg(not(unix))]
fn main() {
    eprintln!("embed_poll: this system has no poll(2)");
}
