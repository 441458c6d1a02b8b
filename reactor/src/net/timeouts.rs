//! Time-outs of a connection: what is watched, and when which of them has passed.
//!
//! Refreshing a time-out is writing down a time (a *stamp*); nothing is scheduled again. One timer stands at
//! the earliest deadline; when it fires, the stamps tell whether something really passed or when to look
//! again.

use std::fmt;
use std::time::{Duration, Instant};

/// Which time-out passed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Timeout {
    /// Nothing was received and nothing was sent for a while.
    Idle,
    /// Nothing was received for a while.
    Read,
    /// Output is queued and the peer took none of it for a while.
    WriteStall,
    /// Less was received than the minimum rate asks for.
    MinimumRate,
    /// The connection has lived as long as it may.
    Total,
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Read => "read",
            Self::WriteStall => "write stall",
            Self::MinimumRate => "minimum rate",
            Self::Total => "total",
        })
    }
}

/// The time-outs of a connection, all off at first. Set with
/// [`Transport::set_timeouts`](crate::Transport::set_timeouts).
///
/// ```
/// use std::time::Duration;
/// use twistor::Timeouts;
///
/// let timeouts = Timeouts::new()
///     .idle(Duration::from_secs(60))
///     .minimum_rate(100, Duration::from_secs(10))
///     .total(Duration::from_secs(3600));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Timeouts {
    idle: Option<Duration>,
    read: Option<Duration>,
    write_stall: Option<Duration>,
    minimum_rate: Option<(u64, Duration)>,
    total: Option<Duration>,
}

impl Timeouts {
    /// None at all.
    pub const fn new() -> Self {
        Self { idle: None, read: None, write_stall: None, minimum_rate: None, total: None }
    }

    /// Passes when nothing was received and nothing was sent for this long.
    pub fn idle(mut self, after: Duration) -> Self {
        self.idle = Some(after);
        self
    }

    /// Passes when nothing was received for this long.
    pub fn read(mut self, after: Duration) -> Self {
        self.read = Some(after);
        self
    }

    /// Passes when output is queued and the peer took nothing of it for this long.
    pub fn write_stall(mut self, after: Duration) -> Self {
        self.write_stall = Some(after);
        self
    }

    /// Passes when fewer than `bytes_per_second` were received on average over a window of this length. A
    /// peer that drips a byte now and then refreshes a read time-out, but not this one.
    pub fn minimum_rate(mut self, bytes_per_second: u64, window: Duration) -> Self {
        self.minimum_rate = Some((bytes_per_second, window.max(Duration::from_millis(1))));
        self
    }

    /// Passes this long after it was set, whatever happens.
    pub fn total(mut self, after: Duration) -> Self {
        self.total = Some(after);
        self
    }

    /// Whether no time-out is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::new()
    }
}

/// The stamps of a watched connection.
#[derive(Debug)]
pub(crate) struct Watch {
    timeouts: Timeouts,
    received_at: Instant,
    sent_at: Instant,
    /// When the protocol last chose to keep the connection: each of these time-outs starts over alone.
    idle_from: Instant,
    read_from: Instant,
    stall_from: Instant,
    /// Start of the rate window and the bytes received by then.
    window: (Instant, u64),
    since: Instant,
}

impl Watch {
    pub(crate) fn new(timeouts: Timeouts, now: Instant, received: u64) -> Self {
        Self {
            timeouts,
            received_at: now,
            sent_at: now,
            idle_from: now,
            read_from: now,
            stall_from: now,
            window: (now, received),
            since: now,
        }
    }

    pub(crate) fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    pub(crate) fn received(&mut self, now: Instant) {
        self.received_at = now;
    }

    /// The kernel took bytes, or the first ones were queued.
    pub(crate) fn sent(&mut self, now: Instant) {
        self.sent_at = now;
    }

    /// Starts the passed time-out over, because the protocol chose to keep the connection.
    pub(crate) fn restart(&mut self, which: Timeout, now: Instant, received: u64) {
        match which {
            Timeout::Idle => self.idle_from = now,
            Timeout::Read => self.read_from = now,
            Timeout::WriteStall => self.stall_from = now,
            Timeout::MinimumRate => self.window = (now, received),
            Timeout::Total => self.since = now,
        }
    }

    /// The time-out that has passed by `now`, if any.
    pub(crate) fn passed(&mut self, now: Instant, received: u64, output_queued: bool) -> Option<Timeout> {
        if let Some((rate, window)) = self.timeouts.minimum_rate
            && now.saturating_duration_since(self.window.0) >= window
        {
            let wanted = u128::from(rate) * window.as_millis() / 1000;
            if u128::from(received - self.window.1) >= wanted {
                self.window = (now, received);
            }
        }
        self.deadlines(output_queued).find(|(_, deadline)| *deadline <= now).map(|(which, _)| which)
    }

    /// When to look again.
    pub(crate) fn next_deadline(&self, output_queued: bool) -> Option<Instant> {
        self.deadlines(output_queued).map(|(_, deadline)| deadline).min()
    }

    fn deadlines(&self, output_queued: bool) -> impl Iterator<Item = (Timeout, Instant)> {
        let Timeouts { idle, read, write_stall, minimum_rate, total } = self.timeouts;
        let last = self.received_at.max(self.sent_at).max(self.idle_from);
        // A stall that has not begun is looked for again one time-out later.
        let stall_from = if output_queued { Some(self.sent_at.max(self.stall_from)) } else { None };
        [
            (Timeout::Total, total, Some(self.since)),
            (Timeout::MinimumRate, minimum_rate.map(|(_, window)| window), Some(self.window.0)),
            (Timeout::WriteStall, write_stall, stall_from),
            (Timeout::Read, read, Some(self.received_at.max(self.read_from))),
            (Timeout::Idle, idle, Some(last)),
        ]
        .into_iter()
        .filter_map(|(which, after, from)| Some((which, from?.checked_add(after?)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_stamp_moves_the_deadline() {
        let start = Instant::now();
        let mut watch = Watch::new(Timeouts::new().read(SECOND).idle(3 * SECOND), start, 0);
        assert_eq!(watch.next_deadline(false), Some(start + SECOND));
        watch.received(start + SECOND / 2);
        assert_eq!(watch.passed(start + SECOND, 10, false), None);
        assert_eq!(watch.passed(start + SECOND * 3 / 2, 10, false), Some(Timeout::Read));
    }

    #[test]
    fn a_write_stall_needs_queued_output() {
        let start = Instant::now();
        let mut watch = Watch::new(Timeouts::new().write_stall(SECOND), start, 0);
        assert_eq!(watch.passed(start + 10 * SECOND, 0, false), None);
        assert_eq!(watch.passed(start + 10 * SECOND, 0, true), Some(Timeout::WriteStall));
    }

    #[test]
    fn a_slow_drip_does_not_satisfy_the_minimum_rate() {
        let start = Instant::now();
        let mut watch = Watch::new(Timeouts::new().minimum_rate(100, 2 * SECOND), start, 0);
        watch.received(start + SECOND);
        assert_eq!(watch.passed(start + 2 * SECOND, 199, false), Some(Timeout::MinimumRate));
        assert_eq!(watch.passed(start + 2 * SECOND, 200, false), None);
        assert_eq!(watch.passed(start + 4 * SECOND, 201, false), Some(Timeout::MinimumRate));
    }

    #[test]
    fn a_restarted_time_out_passes_again_later() {
        let start = Instant::now();
        let mut watch = Watch::new(Timeouts::new().total(SECOND), start, 0);
        assert_eq!(watch.passed(start + SECOND, 0, false), Some(Timeout::Total));
        watch.restart(Timeout::Total, start + SECOND, 0);
        assert_eq!(watch.passed(start + SECOND, 0, false), None);
        assert_eq!(watch.next_deadline(false), Some(start + 2 * SECOND));
    }

    #[test]
    fn a_restarted_time_out_leaves_the_others_alone() {
        let start = Instant::now();
        let mut watch = Watch::new(Timeouts::new().idle(SECOND).read(2 * SECOND), start, 0);
        assert_eq!(watch.passed(start + SECOND, 0, false), Some(Timeout::Idle));
        watch.restart(Timeout::Idle, start + SECOND, 0);
        assert_eq!(watch.passed(start + 2 * SECOND, 0, false), Some(Timeout::Read));
    }

    #[test]
    fn centuries_do_not_overflow() {
        let mut watch = Watch::new(Timeouts::new().idle(Duration::MAX), Instant::now(), 0);
        assert_eq!(watch.next_deadline(true), None);
        assert_eq!(watch.passed(Instant::now(), 0, true), None);
    }
}
