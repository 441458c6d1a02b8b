//! A reactor inside a loop that knows no descriptors, only its own queue: as of some user interfaces, or of another
//! language's runtime.
//!
//! Run it:      cargo run --example embed_wake_hook
//! Elsewhere:   cargo run --example embed_wake_hook -- tcp:9000:interface=127.0.0.1
//! More idle:   cargo run --example embed_wake_hook -- tcp:8000 100
//! Talk to it:  nc 127.0.0.1 8000; and type timer, stats or quit
//!
//! What it shows: `wake_hook`. The host sleeps on a condition variable. It is woken at once by what is typed, and by what
//! is scheduled in the reactor by anybody; it wakes by itself for the reactor's next timer. Of sockets nobody can tell it,
//! so it looks after them every PACE milliseconds: that is how long they may have to wait.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use twistor::Reactor;
use twistor_examples::{Failure, arguments, guest, init_logging};

/// What has happened to the host.
#[derive(Default)]
struct Happened {
    typed: VecDeque<String>,
    /// The reactor wants a turn: one, however often it said so.
    turn: bool,
}

/// The host's own queue, for every thread.
#[derive(Clone, Default)]
struct Events {
    inside: Arc<(Mutex<Happened>, Condvar)>,
}

impl Events {
    fn add(&self, happen: impl FnOnce(&mut Happened)) {
        let (happened, bell) = &*self.inside;
        happen(&mut happened.lock().unwrap_or_else(PoisonError::into_inner));
        bell.notify_one();
    }

    /// What has happened, as soon as something has or the time is over.
    fn wait(&self, patience: Duration) -> Happened {
        let (happened, bell) = &*self.inside;
        let happened = happened.lock().unwrap_or_else(PoisonError::into_inner);
        let is_quiet = |happened: &mut Happened| happened.typed.is_empty() && !happened.turn;
        let waited = bell.wait_timeout_while(happened, patience, is_quiet);
        std::mem::take(&mut waited.unwrap_or_else(PoisonError::into_inner).0)
    }
}

fn main() -> Result<(), Failure> {
    let [endpoint, pace] =
        arguments("embed_wake_hook", guest::COMMANDS, [("ENDPOINT", Some("tcp:8000")), ("PACE", Some("10"))]);
    init_logging();
    let pace =
        pace.parse().map_err(|error| format!("PACE {pace:?} is no number of milliseconds: {error}"))?;
    let pace = Duration::from_millis(pace);

    let events = Events::default();
    let waking = events.clone();
    // It may be called on any thread, and in the middle of anything: it only tells.
    let reactor =
        Reactor::builder().wake_hook(move || waking.add(|happened| happened.turn = true)).build()?;
    guest::serve(&reactor, "embed_wake_hook", &endpoint)?;
    let typing = events.clone();
    guest::each_typed_line(move |line| {
        typing.add(|happened| happened.typed.push_back(line));
        true
    });

    let mut sockets_at = Instant::now();
    loop {
        let at = reactor.next_deadline().map_or(sockets_at, |timer| timer.min(sockets_at));
        let happened = events.wait(at.saturating_duration_since(Instant::now()));
        for line in happened.typed {
            // What this schedules, the hook tells.
            guest::command(&reactor, &line);
        }
        if happened.turn || at <= Instant::now() {
            if !reactor.turn(Some(Duration::ZERO))? {
                break;
            }
            sockets_at = Instant::now() + pace;
        }
    }
    println!("embed_wake_hook: {}", reactor.stats());
    Ok(())
}
