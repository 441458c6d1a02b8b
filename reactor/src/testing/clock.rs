//! A reactor on a clock that the test moves: [`Clock`].

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use super::simulation::{Host, Simulation, strict};
use crate::reactor::Reactor;
use crate::reactor::builder::ReactorBuilder;
use crate::reactor::handle::Handle;

/// A reactor whose time stands still until the test moves it. It derefs to its [`Handle`].
///
/// ```
/// use std::cell::Cell;
/// use std::rc::Rc;
/// use std::time::Duration;
/// use twistor::testing::Clock;
///
/// let clock = Clock::new();
/// let rings = Rc::new(Cell::new(0));
/// let count = Rc::clone(&rings);
/// clock.call_later(Duration::from_secs(60), move |_| count.set(count.get() + 1));
///
/// clock.advance(Duration::from_secs(59));
/// assert_eq!(rings.get(), 0);
/// clock.advance(Duration::from_secs(1));
/// assert_eq!(rings.get(), 1);
/// ```
pub struct Clock {
    reactor: Reactor,
    host: Host,
    sim: Simulation,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// A reactor with default settings, but for one: a panic of what it calls fails the test.
    #[must_use]
    pub fn new() -> Self {
        Self::with(strict())
    }

    /// A reactor with these settings.
    ///
    /// # Panics
    ///
    /// They make no sense.
    #[must_use]
    pub fn with(builder: ReactorBuilder) -> Self {
        let sim = Simulation::new(0);
        let (host, reactor) =
            sim.lone_reactor("clock", builder).unwrap_or_else(|error| panic!("no reactor: {error}"));
        Self { reactor, host, sim }
    }

    /// Moves the time on, and runs everything that is due until then, in order, each at its time; also what
    /// that schedules, if it is due too.
    ///
    /// # Panics
    ///
    /// Something is always due: the time cannot move on.
    pub fn advance(&self, time: Duration) {
        let end = self.sim.now().saturating_add(time);
        loop {
            let left = end.saturating_sub(self.sim.now());
            if !self.turn(left) {
                return;
            }
            self.sim.count_turn("of the clock's reactor");
            if left.is_zero() && !self.is_due() {
                return;
            }
        }
    }

    /// Runs what is due now, without time passing.
    pub fn run_due(&self) {
        self.advance(Duration::ZERO);
    }

    /// Time since the clock was made.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.sim.now()
    }

    /// The host that the reactor is on: for raw sockets.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    fn is_due(&self) -> bool {
        let now = self.reactor.now();
        self.reactor.wants_turn_at(now).is_some_and(|at| at <= now) || self.sim.has_events_now()
    }

    /// One pass; false once the reactor has stopped.
    fn turn(&self, longest: Duration) -> bool {
        match self.reactor.turn(Some(longest)) {
            Ok(goes_on) => goes_on,
            Err(error) => panic!("the clock cannot be moved from a hook: {error}"),
        }
    }
}

impl Deref for Clock {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.reactor
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("elapsed", &self.elapsed()).finish_non_exhaustive()
    }
}
