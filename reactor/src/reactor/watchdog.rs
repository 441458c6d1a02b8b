//! Notices hooks that hold the loop, at the price of a clock reading now and then.
//!
//! The clock is read once a pass and after every sixteenth hook. When too much time has passed since the last
//! reading, the log names the hooks that ran in between: the slow one is among them.

use std::cell::Cell;
use std::panic::Location;
use std::time::Duration;

use crate::core::slots::Token;
use crate::driver::ticks;
use crate::reactor::inner::Inner;
use crate::reactor::stats::{Counters, LagHistogram};

/// Hooks between two readings of the clock.
const EVERY: u64 = 16;

/// Which hook ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hook {
    ConnectionMade,
    DataReceived,
    #[cfg(unix)]
    DescriptorReceived,
    #[cfg(feature = "tls")]
    TlsStarted,
    EofReceived,
    PauseWriting,
    ResumeWriting,
    TimedOut,
    ShuttingDown,
    ConnectionLost,
    Post,
    Timer,
    Callback,
    Step,
    Task,
    BuildProtocol,
    Started,
    DatagramReceived,
    DatagramTruncated,
    ConnectionRefused,
    SendFailed,
}

impl Hook {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ConnectionMade => "connection_made",
            Self::DataReceived => "data_received",
            #[cfg(unix)]
            Self::DescriptorReceived => "descriptor_received",
            #[cfg(feature = "tls")]
            Self::TlsStarted => "tls_started",
            Self::EofReceived => "eof_received",
            Self::PauseWriting => "pause_writing",
            Self::ResumeWriting => "resume_writing",
            Self::TimedOut => "timed_out",
            Self::ShuttingDown => "shutting_down",
            Self::ConnectionLost => "connection_lost",
            Self::Post => "posted closure",
            Self::Timer => "timer",
            Self::Callback => "callback",
            Self::Step => "step of a cooperation",
            Self::Task => "task",
            Self::BuildProtocol => "build_protocol",
            Self::Started => "started",
            Self::DatagramReceived => "datagram_received",
            Self::DatagramTruncated => "datagram_truncated",
            Self::ConnectionRefused => "connection_refused",
            Self::SendFailed => "send_failed",
        }
    }
}

/// The watch over slow hooks, and the histogram of lags. Times are the driver's ticks.
pub(crate) struct Watchdog {
    threshold: u64,
    /// A pass below this is no news: it counts in the first bucket and had no slow hook.
    floor: u64,
    /// Hooks of this pass.
    hooks: Cell<u64>,
    /// The last hooks, and whose they were.
    recent: [Cell<(Token, Hook)>; EVERY as usize],
    /// Where those of them that are tasks were spawned: they may be gone by the time that they are to be
    /// named.
    tasks: [Cell<Option<&'static Location<'static>>>; EVERY as usize],
    pass_began: Cell<u64>,
    last_reading: Cell<u64>,
    lag: [Cell<u64>; LagHistogram::BUCKETS],
}

impl Watchdog {
    pub(crate) fn new(threshold: Option<Duration>) -> Self {
        let threshold = threshold.map_or(u64::MAX, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        Self {
            threshold,
            floor: threshold.min(LagHistogram::FIRST),
            hooks: Cell::new(0),
            recent: [const { Cell::new((Token::NOBODY, Hook::Callback)) }; EVERY as usize],
            tasks: [const { Cell::new(None) }; EVERY as usize],
            pass_began: Cell::new(0),
            last_reading: Cell::new(0),
            lag: [const { Cell::new(0) }; LagHistogram::BUCKETS],
        }
    }

    pub(crate) fn hooks_of_pass(&self) -> u64 {
        self.hooks.get()
    }

    /// The histogram after so many passes, of which those above the floor were counted.
    pub(crate) fn lag(&self, passes: u64) -> LagHistogram {
        let mut buckets = std::array::from_fn(|n| self.lag[n].get());
        buckets[0] = passes.saturating_sub(buckets[1..].iter().sum());
        LagHistogram { buckets }
    }
}

impl Inner {
    /// The wait is over: time starts to count.
    #[inline]
    pub(crate) fn pass_began(&self) {
        let now = ticks();
        self.watchdog.pass_began.set(now);
        self.watchdog.last_reading.set(now);
        self.watchdog.hooks.set(0);
    }

    /// Notes that a hook has run.
    #[inline]
    pub(crate) fn hook_ran(&self, token: Token, hook: Hook) {
        let count = self.watchdog.hooks.get();
        self.watchdog.recent[(count % EVERY) as usize].set((token, hook));
        self.watchdog.hooks.set(count + 1);
        if (count + 1).is_multiple_of(EVERY) {
            self.check_slow_hooks();
        }
    }

    /// Notes that a task was polled.
    pub(crate) fn task_ran(&self, task: Token, spawned_at: &'static Location<'static>) {
        let place = (self.watchdog.hooks.get() % EVERY) as usize;
        self.watchdog.tasks[place].set(Some(spawned_at));
        self.hook_ran(task, Hook::Task);
    }

    /// The pass is over but for the wait.
    #[inline]
    pub(crate) fn pass_ended(&self) {
        let hooks = self.watchdog.hooks.get();
        if hooks == 0 {
            return;
        }
        Counters::add(&self.counters.hooks, hooks);
        let took = ticks() - self.watchdog.pass_began.get();
        if took >= self.watchdog.floor {
            self.pass_was_long(took);
        }
    }

    #[cold]
    fn pass_was_long(&self, took: u64) {
        self.check_slow_hooks();
        Counters::bump(&self.watchdog.lag[LagHistogram::bucket_of(took)]);
    }

    fn check_slow_hooks(&self) {
        let now = ticks();
        let took = now - self.watchdog.last_reading.replace(now);
        if took >= self.watchdog.threshold {
            self.report_slow_hooks(Duration::from_nanos(took));
        }
    }

    #[cold]
    fn report_slow_hooks(&self, took: Duration) {
        Counters::bump(&self.counters.slow_hooks);
        let ran = self.watchdog.hooks.get();
        let since = match ran % EVERY {
            0 => EVERY.min(ran),
            rest => rest,
        };
        let names: Vec<String> = (ran - since..ran)
            .map(|n| {
                let place = (n % EVERY) as usize;
                let (token, hook) = self.watchdog.recent[place].get();
                if let (Hook::Task, Some(spawned_at)) = (hook, self.watchdog.tasks[place].get()) {
                    return self
                        .task_label(token)
                        .unwrap_or_else(|| format!("the task spawned at {spawned_at}"));
                }
                match self.transport(token) {
                    Some(transport) => format!("{} of {}", hook.name(), transport.peer_addr()),
                    None => hook.name().to_owned(),
                }
            })
            .collect();
        log::warn!("the loop was held for {took:?} by {}", names.join(", "));
    }
}
