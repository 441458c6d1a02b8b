//! A reactor inside a game: turned in each of 60 frames a second, within a budget.
//!
//! Run it:      cargo run --release --example game_tick
//! Elsewhere:   cargo run --release --example game_tick -- tcp:9000:interface=127.0.0.1
//! Talk to it:  nc 127.0.0.1 8000; and type timer, stats or quit
//!
//! What it shows: `turn(Some(Duration::ZERO))` at the host's pace. A frame is 16.7 ms: the game has its share, then the
//! network has turns as long as they find something and 4 ms are not over, then the frame waits for the screen (here it
//! sleeps). What one turn may do at most is said to the builder. Each second it prints how long the parts took.

use std::sync::mpsc::{Receiver, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use twistor::Reactor;
use twistor_examples::{Failure, arguments, guest, init_logging};

const FRAMES_PER_SECOND: u32 = 60;
/// What the network may take of a frame.
const NETWORK: Duration = Duration::from_millis(4);

/// The parts of the frames of a second, each at its longest.
#[derive(Default)]
struct Second {
    frames: u32,
    turns: u32,
    game: Duration,
    network: Duration,
    late: Duration,
}

impl Second {
    fn report(&self) {
        println!(
            "{} frames: game up to {:?}, network up to {:?} of {NETWORK:?} in {} turns, frames up to {:?} late",
            self.frames, self.game, self.network, self.turns, self.late
        );
    }
}

/// The game: a millisecond of work, and the keys.
fn play(reactor: &Reactor, typed: &Receiver<String>) {
    sleep(Duration::from_millis(1));
    for line in typed.try_iter() {
        guest::command(reactor, &line);
    }
}

/// Turns the reactor until there is nothing to do, or the budget is used up: the rest comes in the next frame. The number
/// of turns; `None` when the reactor has stopped.
fn network(reactor: &Reactor, began: Instant) -> std::io::Result<Option<u32>> {
    let mut turns = 0;
    loop {
        let before = reactor.stats();
        if !reactor.turn(Some(Duration::ZERO))? {
            return Ok(None);
        }
        turns += 1;
        let after = reactor.stats();
        let was_idle =
            (after.hooks, after.calls, after.accepted) == (before.hooks, before.calls, before.accepted);
        if was_idle || began.elapsed() >= NETWORK {
            return Ok(Some(turns));
        }
    }
}

fn main() -> Result<(), Failure> {
    let [endpoint] = arguments("game_tick", guest::COMMANDS, [("ENDPOINT", Some("tcp:8000"))]);
    init_logging();

    // Small steps, so that the budget of a frame is kept to.
    let reactor = Reactor::builder().read_budget(64 << 10).accept_budget(8).build()?;
    guest::serve(&reactor, "game_tick", &endpoint)?;
    let (sender, typed) = channel();
    guest::each_typed_line(move |line| sender.send(line).is_ok());

    let frame = Duration::from_secs(1) / FRAMES_PER_SECOND;
    let (mut next, mut second) = (Instant::now(), Second::default());
    loop {
        let begun = Instant::now();
        second.late = second.late.max(begun - next.min(begun));
        play(&reactor, &typed);
        let played = Instant::now();
        let Some(turns) = network(&reactor, played)? else { break };
        second.frames += 1;
        second.turns += turns;
        second.game = second.game.max(played - begun);
        second.network = second.network.max(played.elapsed());
        if second.frames == FRAMES_PER_SECOND {
            std::mem::take(&mut second).report();
        }
        // Frames that were missed are not made up for.
        next = (next + frame).max(Instant::now());
        sleep(next.saturating_duration_since(Instant::now()));
    }
    println!("game_tick: {}", reactor.stats());
    Ok(())
}
