//! How long a listener rests when no descriptor is left.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(1);
/// The log hears of it at most this often.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Rests of a listener: 5 ms, doubling to 1 s; a success starts over.
#[derive(Debug, Default)]
pub(crate) struct AcceptBackoff {
    next: Option<Duration>,
    last_logged: Option<std::time::Instant>,
}

impl AcceptBackoff {
    /// Accepting failed: how long to rest.
    pub(crate) fn failed(&mut self) -> Duration {
        let rest = self.next.unwrap_or(FIRST);
        self.next = Some((rest * 2).min(LONGEST));
        rest
    }

    /// A connection was accepted.
    pub(crate) fn succeeded(&mut self) {
        self.next = None;
    }

    /// Whether the failure at `now` is one for the log.
    pub(crate) fn is_worth_logging(&mut self, now: std::time::Instant) -> bool {
        let due = self.last_logged.is_none_or(|last| now.saturating_duration_since(last) >= LOG_EVERY);
        if due {
            self.last_logged = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_double_up_to_a_second_and_a_success_starts_over() {
        let mut backoff = AcceptBackoff::default();
        let rests: Vec<_> = (0..10).map(|_| backoff.failed().as_millis()).collect();
        assert_eq!(rests, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        backoff.succeeded();
        assert_eq!(backoff.failed().as_millis(), 5);
    }
}
