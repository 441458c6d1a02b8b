//! Timers: calls that come later, again and again, not at all, or at another time.
//!
//! Run it:      cargo run --release --example timers
//! Talk to it:  there is nothing to say; watch it for two seconds. It ends when no timer is left.
//!
//! What it shows: `call_later`, `every`, and what can be done with a call that was not made yet: `cancel`, `reset`
//! and `delay`. Closures are given the reactor, so that they can schedule more.

use std::time::{Duration, Instant};

use twistor::{Handle, Reactor};
use twistor_examples::{Failure, arguments, init_logging};

/// Prints what happens, and when.
#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn say(self, reactor: &Handle, what: &str) {
        let time = reactor.now() - self.0;
        println!("{:5} ms  {what}", time.as_millis());
    }
}

fn main() -> Result<(), Failure> {
    let [] = arguments("timers", "Shows timers for two seconds.", []);
    init_logging();

    let reactor = Reactor::new()?;
    let clock = Clock(reactor.now());
    let after = Duration::from_millis;

    // Never early; in the order of their times, whatever the order they were asked for.
    reactor.call_later(after(200), move |reactor| clock.say(reactor, "second"));
    reactor.call_later(after(100), move |reactor| {
        clock.say(reactor, "first");
        // From within a call to the next one.
        reactor.call_later(after(200), move |reactor| clock.say(reactor, "third, set by the first"));
    });

    // A call can be taken back: dropping the handle would not do that.
    let cancelled = reactor.call_later(after(400), move |reactor| clock.say(reactor, "never"));
    // Or moved: `reset` counts from now, `delay` from when it was planned.
    let moved = reactor.call_later(after(5_000), move |reactor| clock.say(reactor, "moved by reset"));
    let delayed = reactor.call_later(after(500), move |reactor| clock.say(reactor, "moved by delay"));
    reactor.call_later(after(350), move |reactor| {
        cancelled.cancel();
        moved.reset(after(450));
        delayed.delay(after(400));
        clock.say(reactor, "one call cancelled, two moved");
        assert!(!cancelled.cancel(), "once is enough");
    });

    // Again and again, on a fixed grid that a late call does not shift; it says how many it had to skip.
    let mut ticks = 0;
    let ticking = reactor.every(after(250), move |reactor, skipped| {
        ticks += 1;
        clock.say(reactor, &format!("tick {ticks}, skipped {skipped}"));
        if ticks == 5 {
            // Too busy for the slots at 1500 and 1750 ms; the log complains that the loop was held.
            std::thread::sleep(after(550));
        }
    });
    reactor.call_later(after(2_100), move |reactor| {
        ticking.stop();
        clock.say(reactor, "no more ticks");
    });

    reactor.run_until_idle()?;
    println!("nothing is left to do");
    Ok(())
}
