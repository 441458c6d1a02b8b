//! Handlers for keys and clicks: who hears of an event does not know where it comes from.
//!
//! Run it:      cargo run --release --example event_handlers
//! Talk to it:  press keys, click, scroll, paste something. `q` ends it, and so does Ctrl-C.
//! A pipe:      printf 'a\033[A\033[<0;7;3Mq' | cargo run --release --example event_handlers
//!
//! What it shows: `RawMode`, which has the terminal send each key as it is pressed, and its clicks, until the
//! program ends in whatever way; `KeyDecoder`, which makes events of the bytes; and `Events`, to which handlers
//! are registered.

// Where it cannot work, it only says so.
#![cfg_attr(not(unix), allow(dead_code))]

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::rc::Rc;
use std::time::Duration;

use twistor::{DelayedCall, Events, Handle};
use twistor_protocols::{Key, KeyDecoder, Mouse, MouseAction, TerminalInput};

/// Esc is the beginning of every other special key: it is itself if nothing follows for so long.
const ESC_DELAY: Duration = Duration::from_millis(50);

/// Makes events of what is typed.
struct Keyboard {
    source: File,
    decoder: KeyDecoder,
    events: Events<TerminalInput>,
    timer: Option<DelayedCall>,
}

impl Keyboard {
    /// Reads once; says whether there can be more.
    fn read(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 1024];
        let count = match self.source.read(&mut bytes) {
            // Somebody who shares the input was faster, or a signal came; the loop calls again.
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
                return Ok(true);
            }
            outcome => outcome?,
        };
        self.decoder.feed(&bytes[..count], |input| self.events.emit(input));
        if let Some(timer) = self.timer.take() {
            timer.cancel();
        }
        Ok(count > 0)
    }

    fn flush(&mut self) {
        self.decoder.flush(|input| self.events.emit(input));
    }
}

/// Reads when there is something to read, and sees to Esc.
fn ready(reactor: &Handle, keyboard: &Rc<RefCell<Keyboard>>) {
    let outcome = keyboard.borrow_mut().read();
    match outcome {
        Ok(true) if keyboard.borrow().decoder.is_waiting() => {
            let waiting = Rc::clone(keyboard);
            let timer = reactor.call_later(ESC_DELAY, move |_| waiting.borrow_mut().flush());
            keyboard.borrow_mut().timer = Some(timer);
        }
        Ok(true) => {}
        Ok(false) => {
            // What has been emitted is heard before the loop ends.
            keyboard.borrow_mut().flush();
            reactor.call_soon(Handle::stop);
        }
        Err(error) => {
            eprintln!("event_handlers: cannot read standard input: {error}");
            reactor.stop();
        }
    }
}

/// The handlers. Each hears of what it asked for; none knows of the terminal.
fn register(events: &Events<TerminalInput>) {
    events.on(|_, input| {
        if let TerminalInput::Key(key) = input {
            println!("key: {key}");
        }
    });
    events.on(|_, input| {
        if let TerminalInput::Mouse(Mouse { action, column, row, modifiers }) = input {
            match action {
                MouseAction::Press(button) => println!("click: {modifiers}{button:?} at {column}, {row}"),
                MouseAction::Release(button) => println!("released: {button:?} at {column}, {row}"),
                other => println!("mouse: {other:?} at {column}, {row}"),
            }
        }
    });
    events.on(|_, input| {
        if let TerminalInput::Paste { text, .. } = input {
            println!("pasted: {text:?}");
        }
    });
    // One event may have several handlers.
    let quit = |input: &TerminalInput| *input == TerminalInput::Key(Key::from('q'));
    events.on_matching(quit, |reactor, _| {
        println!("bye");
        reactor.stop();
    });
}

#[cfg(unix)]
fn main() -> Result<(), twistor_examples::Failure> {
    use std::os::fd::AsFd;

    let [] = twistor_examples::arguments("event_handlers", "Prints keys and clicks until you press q.", []);
    twistor_examples::init_logging();
    let reactor = twistor::Reactor::new()?;
    let events = Events::new(&reactor);
    register(&events);

    // Ends when this is dropped, also where an error ends `main`. Without a terminal bytes come as they are.
    let _raw = if io::stdin().is_terminal() {
        let mode = twistor::RawMode::builder().keep_signals().bracketed_paste();
        Some(mode.mouse(twistor::MouseReports::Clicks).enter()?)
    } else {
        None
    };
    // `io::stdin` itself would not do: it reads ahead into a buffer of its own, which no poller knows of.
    let source = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let keyboard = Keyboard { source, decoder: KeyDecoder::new(), events, timer: None };
    let keyboard = Rc::new(RefCell::new(keyboard));
    reactor.add_reader(&io::stdin(), move |reactor| ready(reactor, &keyboard))?;
    println!("press keys and click; q ends it");
    Ok(reactor.run()?)
}

#[cfg(not(unix))]
fn main() {
    eprintln!("event_handlers: this system cannot wait for standard input as for a socket");
    std::process::exit(1);
}
