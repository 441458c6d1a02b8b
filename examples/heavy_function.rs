//! A heavy computation, on another thread and then inside the loop: what the loop can do meanwhile.
//!
//! Run it:      cargo run --release --example heavy_function
//! Longer:      cargo run --release --example heavy_function -- 20000000
//! Talk to it:  there is nothing to say; watch it for a few seconds. It ends by itself.
//!
//! What it shows: `defer_to_thread`. A ticker is to be called every ten milliseconds. It is while the thread pool
//! computes; while the loop itself does, it is not, nor would any connection be served. The log names the call that
//! held the loop up.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use twistor::{Handle, LoopingCall, Reactor};
use twistor_examples::{Failure, arguments, init_logging};

/// How many primes there are below `limit`, found the slow way.
fn primes_below(limit: u64) -> usize {
    let has_factor =
        |number: u64| (2..).take_while(|f| f * f <= number).any(|factor| number.is_multiple_of(factor));
    (2..limit).filter(|number| !has_factor(*number)).count()
}

/// What the ticker has seen: how often it was called, when last, and the longest time between two calls.
#[derive(Clone, Copy)]
struct Seen {
    ticks: u32,
    last: Instant,
    longest: Duration,
}

/// Ticks every ten milliseconds, from its start until it reports.
struct Ticker {
    started: Instant,
    seen: Rc<Cell<Seen>>,
    call: LoopingCall,
}

impl Ticker {
    fn start(reactor: &Handle) -> Self {
        let started = reactor.now();
        let seen = Rc::new(Cell::new(Seen { ticks: 0, last: started, longest: Duration::ZERO }));
        let tick = Rc::clone(&seen);
        let call = reactor.every(Duration::from_millis(10), move |reactor, _| {
            let Seen { ticks, last, longest } = tick.get();
            let now = reactor.now();
            tick.set(Seen { ticks: ticks + 1, last: now, longest: longest.max(now - last) });
        });
        Self { started, seen, call }
    }

    /// Says how it went until now; the gap that is open now counts.
    fn report(self, reactor: &Handle, place: &str, count: usize) {
        self.call.stop();
        let Seen { ticks, last, longest } = self.seen.get();
        let now = reactor.now();
        let (time, gap) = ((now - self.started).as_millis(), longest.max(now - last).as_millis());
        println!("{place}: {count} primes in {time} ms; {ticks} ticks meanwhile, longest gap {gap} ms");
    }
}

/// Has the computation made by the thread pool; then by the loop.
fn compare(reactor: &Handle, limit: u64) {
    let ticker = Ticker::start(reactor);
    reactor.defer_to_thread(move || primes_below(limit)).on_done(move |reactor, outcome| match outcome {
        Ok(count) => {
            ticker.report(reactor, "on a thread", count);
            let ticker = Ticker::start(reactor);
            reactor.call_soon(move |reactor| {
                ticker.report(reactor, "in the loop", primes_below(limit));
            });
        }
        Err(error) => eprintln!("heavy_function: {error}"),
    });
}

fn main() -> Result<(), Failure> {
    let about = "Counts the primes below LIMIT, on a thread and then in the loop.";
    let [limit] = arguments("heavy_function", about, [("LIMIT", Some("4000000"))]);
    init_logging();
    let limit = limit.parse().map_err(|error| format!("LIMIT {limit:?} is no number: {error}"))?;

    let reactor = Reactor::new()?;
    compare(&reactor, limit);
    Ok(reactor.run_until_idle()?)
}
