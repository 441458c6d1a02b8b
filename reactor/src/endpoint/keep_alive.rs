//! TCP keep-alive: the kernel's own probes of a silent peer.

use std::time::Duration;

use super::limits;
use crate::driver::options::KeepAliveSpec;

/// When the kernel probes a peer that has been silent, and when it gives the connection up.
///
/// A peer that is gone without a word (its power or network failed) is noticed after `idle + interval *
/// count`: with the defaults after 110 seconds. Probes carry no data, and the protocols on both sides do not
/// see them; whether the
/// *program* on the other side still answers only a protocol's own ping can tell.
///
/// ```
/// use std::time::Duration;
/// use twistor::endpoint::{KeepAlive, TcpListen};
///
/// let patient = KeepAlive::new().idle(Duration::from_secs(600)).count(9);
/// let endpoint = TcpListen::new(8000).keep_alive(patient);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    idle: Duration,
    interval: Duration,
    count: u32,
}

impl KeepAlive {
    /// A first probe after 60 seconds of silence, then one every 10 seconds; the connection is lost when 5
    /// were not answered.
    pub const fn new() -> Self {
        Self { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 5 }
    }

    /// The silence before the first probe: 1 to 32767 seconds, rounded up to whole ones.
    #[must_use]
    pub const fn idle(self, idle: Duration) -> Self {
        Self { idle, ..self }
    }

    /// The time between two probes: 1 to 32767 seconds, rounded up to whole ones.
    #[must_use]
    pub const fn interval(self, interval: Duration) -> Self {
        Self { interval, ..self }
    }

    /// How many unanswered probes end the connection: 1 to 127.
    #[must_use]
    pub const fn count(self, count: u32) -> Self {
        Self { count, ..self }
    }

    /// The checked values.
    pub(crate) fn checked_spec(self) -> std::io::Result<KeepAliveSpec> {
        let spec = self.spec();
        check(&spec).map_err(|text| std::io::Error::new(std::io::ErrorKind::InvalidInput, text))?;
        Ok(spec)
    }

    pub(super) fn spec(self) -> KeepAliveSpec {
        KeepAliveSpec { idle: self.idle, interval: self.interval, count: self.count }
    }
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self::new()
    }
}

/// Complains about what the kernel would refuse.
pub(super) fn check(spec: &KeepAliveSpec) -> Result<(), String> {
    limits::KEEP_ALIVE_TIME.check_time("keep-alive idle time", spec.idle)?;
    limits::KEEP_ALIVE_TIME.check_time("keep-alive interval", spec.interval)?;
    limits::KEEP_ALIVE_COUNT.check("keep-alive count", spec.count)
}
