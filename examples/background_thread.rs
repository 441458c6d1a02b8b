//! A reactor in a thread of its own, beside a program that does other things.
//!
//! Run it:      cargo run --example background_thread
//! Elsewhere:   cargo run --example background_thread -- tcp:9000:interface=127.0.0.1
//! Talk to it:  nc 127.0.0.1 8000; and type timer, stats or quit
//!
//! What it shows: `Remote`, the way in from other threads. The main thread reads what is typed, blocked as any program
//! is; `call` has the loop do something, `blocking_call` waits for its answer, `stop` ends it. Whatever the thread ends
//! with, the main thread hears.

use std::io::{self, BufRead};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use twistor::{Handle, Reactor, Remote};
use twistor_examples::{Failure, arguments, guest, init_logging};

/// The life of the reactor, from its making to its end, on its own thread.
fn serve(endpoint: &str, started: &Sender<Remote>) -> io::Result<()> {
    // Ctrl-C ends the whole program, not this thread alone.
    let reactor = Reactor::builder().handle_signals(false).build()?;
    guest::serve(&reactor, "background_thread", endpoint)?;
    // Only now, so that who has a `Remote` has a server.
    started.send(reactor.remote()).ok();
    reactor.run()?;
    println!("background_thread: {}", reactor.stats());
    Ok(())
}

fn main() -> Result<(), Failure> {
    let [endpoint] = arguments("background_thread", guest::COMMANDS, [("ENDPOINT", Some("tcp:8000"))]);
    init_logging();

    let (sender, started) = channel();
    let thread =
        thread::Builder::new().name("network".to_owned()).spawn(move || serve(&endpoint, &sender))?;
    // Without one, the thread has ended: its error is below.
    if let Ok(remote) = started.recv() {
        for line in io::stdin().lock().lines() {
            match &*line? {
                "stats" => {
                    let stats = remote.blocking_call(Handle::stats)?;
                    println!("{} turns, {} connections", stats.passes, stats.connections);
                }
                "quit" => remote.stop(),
                other => {
                    let other = other.to_owned();
                    remote.call(move |reactor| guest::command(reactor, &other))?;
                }
            }
            if !remote.is_alive() {
                break;
            }
        }
    }
    thread.join().map_err(|_| "the network thread panicked")??;
    Ok(())
}
