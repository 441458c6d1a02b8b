//! What a reactor counts, always.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

/// The counters of a running reactor: plain cells, one addition each.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) passes: Cell<u64>,
    pub(crate) hooks: Cell<u64>,
    pub(crate) panics: Cell<u64>,
    pub(crate) accepted: Cell<u64>,
    pub(crate) connected: Cell<u64>,
    pub(crate) adopted: Cell<u64>,
    pub(crate) lost: Cell<u64>,
    pub(crate) refused: Cell<u64>,
    pub(crate) accept_errors: Cell<u64>,
    pub(crate) shed: Cell<u64>,
    pub(crate) stale: Cell<u64>,
    pub(crate) dropped_posts: Cell<u64>,
    pub(crate) dropped_events: Cell<u64>,
    pub(crate) write_limit_hits: Cell<u64>,
    pub(crate) linger_timeouts: Cell<u64>,
    pub(crate) timeouts: Cell<u64>,
    pub(crate) timer_calls: Cell<u64>,
    pub(crate) calls: Cell<u64>,
    pub(crate) polls: Cell<u64>,
    pub(crate) slow_hooks: Cell<u64>,
    pub(crate) datagrams_received: Cell<u64>,
    pub(crate) datagrams_sent: Cell<u64>,
    pub(crate) datagrams_dropped: Cell<u64>,
    pub(crate) datagrams_truncated: Cell<u64>,
    pub(crate) name_queries: Cell<u64>,
    pub(crate) name_hits: Cell<u64>,
    pub(crate) handshakes: Cell<u64>,
    pub(crate) tls_failures: Cell<u64>,
}

impl Counters {
    #[inline]
    pub(crate) fn bump(counter: &Cell<u64>) {
        counter.set(counter.get() + 1);
    }

    pub(crate) fn add(counter: &Cell<u64>, count: u64) {
        counter.set(counter.get() + count);
    }
}

/// A snapshot of what the reactor has counted since it was made. See [`Handle::stats`](crate::Handle::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Turns of the loop.
    pub passes: u64,
    /// Calls of protocol hooks.
    pub hooks: u64,
    /// Hooks and destructors that panicked.
    pub panics: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections made from here.
    pub connected: u64,
    /// Connections made of descriptors from elsewhere: adopted sockets and pipes, the standard streams, pipes
    /// of child processes.
    pub adopted: u64,
    /// Connections lost, for whatever reason.
    pub lost: u64,
    /// Connections that no factory wanted.
    pub refused: u64,
    /// Accepts that failed.
    pub accept_errors: u64,
    /// Connections closed unseen because no descriptor was left.
    pub shed: u64,
    /// Events and completions for something that was gone already.
    pub stale_events: u64,
    /// Posts and timers dropped because their connection had ended or changed its protocol.
    pub dropped_posts: u64,
    /// Events dropped because an [async handler](crate::Events::on_async) was too far behind.
    pub dropped_events: u64,
    /// Connections aborted because their peer did not read.
    pub write_limit_hits: u64,
    /// Connections aborted because their peer did not take the last bytes.
    pub linger_timeouts: u64,
    /// Time-outs of connections that passed.
    pub timeouts: u64,
    /// Timers that fired.
    pub timer_calls: u64,
    /// Queued callbacks that ran.
    pub calls: u64,
    /// Times that a task was polled.
    pub polls: u64,
    /// Times that hooks held the loop longer than the threshold.
    pub slow_hooks: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Datagrams that the system took.
    pub datagrams_sent: u64,
    /// Datagrams dropped because the system did not take them.
    pub datagrams_dropped: u64,
    /// Datagrams that were longer than their socket takes.
    pub datagrams_truncated: u64,
    /// Names that a resolver was asked for.
    pub name_queries: u64,
    /// Names whose addresses were known already.
    pub name_hits: u64,
    /// TLS handshakes that were completed.
    pub handshakes: u64,
    /// Connections on which TLS failed: in a handshake, by what was received, or by an end that was not
    /// announced.
    pub tls_failures: u64,
    /// Connections that are open now.
    pub connections: usize,
    /// Attempts to connect that are under way now.
    pub attempts: usize,
    /// Timers that are pending now.
    pub timers: usize,
    /// Tasks that have not ended.
    pub tasks: usize,
    /// Bytes queued in all outboxes now.
    pub queued_bytes: usize,
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes that the kernel took.
    pub bytes_sent: u64,
    /// System calls made, by kind.
    pub system_calls: SystemCalls,
}

impl Stats {
    /// Adds what another reactor has counted.
    pub fn add(&mut self, other: &Self) {
        self.passes += other.passes;
        self.hooks += other.hooks;
        self.panics += other.panics;
        self.accepted += other.accepted;
        self.connected += other.connected;
        self.adopted += other.adopted;
        self.lost += other.lost;
        self.refused += other.refused;
        self.accept_errors += other.accept_errors;
        self.shed += other.shed;
        self.stale_events += other.stale_events;
        self.dropped_posts += other.dropped_posts;
        self.dropped_events += other.dropped_events;
        self.write_limit_hits += other.write_limit_hits;
        self.linger_timeouts += other.linger_timeouts;
        self.timeouts += other.timeouts;
        self.timer_calls += other.timer_calls;
        self.calls += other.calls;
        self.polls += other.polls;
        self.slow_hooks += other.slow_hooks;
        self.datagrams_received += other.datagrams_received;
        self.datagrams_sent += other.datagrams_sent;
        self.datagrams_dropped += other.datagrams_dropped;
        self.datagrams_truncated += other.datagrams_truncated;
        self.name_queries += other.name_queries;
        self.name_hits += other.name_hits;
        self.handshakes += other.handshakes;
        self.tls_failures += other.tls_failures;
        self.connections += other.connections;
        self.attempts += other.attempts;
        self.timers += other.timers;
        self.tasks += other.tasks;
        self.queued_bytes += other.queued_bytes;
        self.bytes_received += other.bytes_received;
        self.bytes_sent += other.bytes_sent;
        self.system_calls.add(&other.system_calls);
    }
}

/// System calls made by the driver, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SystemCalls {
    /// Waits for events.
    pub waits: u64,
    /// Receives.
    pub receives: u64,
    /// Sends.
    pub sends: u64,
    /// Accepts.
    pub accepts: u64,
    /// Registrations with the poller and changes of them.
    pub controls: u64,
    /// Everything else: opening, closing, options, relaying.
    pub others: u64,
}

impl SystemCalls {
    fn add(&mut self, other: &Self) {
        self.waits += other.waits;
        self.receives += other.receives;
        self.sends += other.sends;
        self.accepts += other.accepts;
        self.controls += other.controls;
        self.others += other.others;
    }
}

impl SystemCalls {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.waits + self.receives + self.sends + self.accepts + self.controls + self.others
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} connections ({} accepted, {} connected, {} lost), {} bytes in, {} bytes out, {} hooks in {} passes",
            self.connections,
            self.accepted,
            self.connected,
            self.lost,
            self.bytes_received,
            self.bytes_sent,
            self.hooks,
            self.passes
        )
    }
}

/// How long passes took, apart from waiting: what a timer or a connection had to wait at worst.
///
/// Buckets double: the first counts passes under about 65 µs (2^16 ns), the second those under twice that,
/// and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LagHistogram {
    pub(crate) buckets: [u64; Self::BUCKETS],
}

impl LagHistogram {
    pub(crate) const BUCKETS: usize = 32;
    /// Nanoseconds from which a pass counts in another than the first bucket.
    pub(crate) const FIRST: u64 = 1 << 16;

    pub(crate) const fn new() -> Self {
        Self { buckets: [0; Self::BUCKETS] }
    }

    /// The bucket that counts a pass of so many nanoseconds.
    pub(crate) fn bucket_of(nanos: u64) -> usize {
        let multiple = nanos / Self::FIRST;
        ((u64::BITS - multiple.leading_zeros()) as usize).min(Self::BUCKETS - 1)
    }

    fn bound(bucket: usize) -> Duration {
        Duration::from_nanos(Self::FIRST << bucket)
    }

    /// Upper bound of each bucket and the passes counted in it; the last has no bound but that one.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        self.buckets.iter().enumerate().map(|(bucket, count)| (Self::bound(bucket), *count))
    }

    /// Passes counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// An upper bound of the lag that `share` (0 to 1) of the passes stayed below.
    ///
    /// ```
    /// let reactor = twistor::Reactor::new()?;
    /// reactor.turn(Some(std::time::Duration::ZERO))?;
    /// assert!(reactor.lag().quantile(0.5) < std::time::Duration::from_secs(1));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = (self.count() as f64 * share.clamp(0.0, 1.0)).ceil() as u64;
        let mut seen = 0;
        for (bound, count) in self.buckets() {
            seen += count;
            if seen >= wanted {
                return bound;
            }
        }
        Self::bound(Self::BUCKETS - 1)
    }
}
