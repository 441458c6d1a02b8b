//! Notices hooks that hold the loop, at the price of a clock reading now and then.
//!
//! The clock is read once a pass and after every sixteenth hook. When too much time has passed since the last
//! reading, the log names the hooks that ran in between: the slow one is among them.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use crate::core::slots::Token;
use crate::reactor::inner::Inner;
use crate::reactor::stats::{Counters, LagHistogram};

/// Hooks between two readings of the clock.
const EVERY: u64 = 16;

/// Which hook ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hook {
    ConnectionMade,
    DataReceived,
    EofReceived,
    PauseWriting,
    ResumeWriting,
    TimedOut,
    ShuttingDown,
    ConnectionLost,
    Post,
    Timer,
    Callback,
    BuildProtocol,
}

impl Hook {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ConnectionMade => "connection_made",
            Self::DataReceived => "data_received",
            Self::EofReceived => "eof_received",
            Self::PauseWriting => "pause_writing",
            Self::ResumeWriting => "resume_writing",
            Self::TimedOut => "timed_out",
            Self::ShuttingDown => "shutting_down",
            Self::ConnectionLost => "connection_lost",
            Self::Post => "posted closure",
            Self::Timer => "timer",
            Self::Callback => "callback",
            Self::BuildProtocol => "build_protocol",
        }
    }
}

/// The watch over slow hooks, and the histogram of lags.
pub(crate) struct Watchdog {
    threshold: Option<Duration>,
    hooks: Cell<u64>,
    recent: [Cell<(Option<Token>, Hook)>; EVERY as usize],
    last_reading: Cell<Instant>,
    lag: RefCell<LagHistogram>,
}

impl Watchdog {
    pub(crate) fn new(threshold: Option<Duration>, now: Instant) -> Self {
        Self {
            threshold,
            hooks: Cell::new(0),
            recent: [const { Cell::new((None, Hook::Callback)) }; EVERY as usize],
            last_reading: Cell::new(now),
            lag: RefCell::new(LagHistogram::new()),
        }
    }

    pub(crate) fn lag(&self) -> LagHistogram {
        *self.lag.borrow()
    }

    /// The wait has returned at `now`: time starts to count.
    #[inline]
    pub(crate) fn pass_began(&self, now: Instant) {
        self.last_reading.set(now);
        self.hooks.set(0);
    }
}

impl Inner {
    /// Notes that a hook has run.
    #[inline]
    pub(crate) fn hook_ran(&self, token: Option<Token>, hook: Hook) {
        let count = self.watchdog.hooks.get();
        self.watchdog.recent[(count % EVERY) as usize].set((token, hook));
        self.watchdog.hooks.set(count + 1);
        Counters::bump(&self.counters.hooks);
        if (count + 1).is_multiple_of(EVERY) {
            self.check_slow_hooks();
        }
    }

    /// The pass is over but for the wait.
    pub(crate) fn pass_ended(&self) {
        if self.watchdog.hooks.get() == 0 {
            return;
        }
        self.check_slow_hooks();
        let lag = self.watchdog.last_reading.get().saturating_duration_since(self.now.get());
        self.watchdog.lag.borrow_mut().record(lag);
    }

    #[cold]
    fn check_slow_hooks(&self) {
        let now = self.read_clock();
        let took = now.saturating_duration_since(self.watchdog.last_reading.replace(now));
        if self.watchdog.threshold.is_none_or(|threshold| took < threshold) {
            return;
        }
        Counters::bump(&self.counters.slow_hooks);
        let ran = self.watchdog.hooks.get();
        let since = match ran % EVERY {
            0 => EVERY.min(ran),
            rest => rest,
        };
        let names: Vec<String> = (ran - since..ran)
            .map(|n| {
                let (token, hook) = self.watchdog.recent[(n % EVERY) as usize].get();
                match token.and_then(|token| self.transport(token)) {
                    Some(transport) => format!("{} of {}", hook.name(), transport.peer_addr()),
                    None => hook.name().to_owned(),
                }
            })
            .collect();
        log::warn!("the loop was held for {took:?} by {}", names.join(", "));
    }
}
