//! The values that options can have: one range each, used for strings and for builders alike.
//!
//! A range excludes what the kernel would refuse, silently change, or take for "off".

use std::fmt;
use std::time::Duration;

/// Where to listen; 0 lets the kernel choose.
pub(super) const LISTEN_PORT: Limit<u16> = Limit { min: 0, max: u16::MAX, advice: "" };

/// Where to connect to.
pub(super) const CONNECT_PORT: Limit<u16> = Limit { min: 1, max: u16::MAX, advice: "" };

/// The kernel caps it further (on Linux at `net.core.somaxconn`).
pub(super) const BACKLOG: Limit<u32> = Limit { min: 1, max: 65_535, advice: "1024 suits most servers" };

/// Zero would switch it off; the queue holds half-open connections, as the backlog does.
pub(super) const FAST_OPEN: Limit<u32> =
    Limit { min: 1, max: 65_535, advice: "leave it out to switch it off" };

/// The kernel takes the size as a C `int`.
pub(super) const BUFFER: Limit<usize> =
    Limit { min: 1, max: i32::MAX as usize, advice: "leave it out for the system's own choice" };

/// Linux refuses more than 32767 seconds.
pub(super) const KEEP_ALIVE_TIME: Limit<Duration> = Limit {
    min: Duration::from_secs(1),
    max: Duration::from_secs(32_767),
    advice: "60 and 10 suit most servers",
};

/// Linux refuses more than 127 probes.
pub(super) const KEEP_ALIVE_COUNT: Limit<u32> = Limit { min: 1, max: 127, advice: "5 suits most servers" };

/// The kernel counts in seconds; an hour without a byte is no client.
pub(super) const DEFER_ACCEPT: Limit<Duration> = Limit {
    min: Duration::from_secs(1),
    max: Duration::from_secs(3600),
    advice: "leave it out to accept connections at once",
};

/// A time-out of zero could never succeed; one above a day is a mistake in the unit.
pub(super) const CONNECT_TIMEOUT: Limit<Duration> =
    Limit { min: Duration::from_nanos(1), max: Duration::from_secs(86_400), advice: "30 suits most clients" };

/// A queue has to hold something; one of millions is a leak with a name.
pub(super) const DATAGRAM_QUEUE: Limit<usize> =
    Limit { min: 1, max: 1 << 20, advice: "1024 suits most programs" };

/// The longest datagram has to fit.
pub(super) const DATAGRAM_QUEUE_BYTES: Limit<usize> =
    Limit { min: 65_535, max: 1 << 30, advice: "one datagram has to fit" };

/// UDP has 16 bits for the length.
pub(super) const MAX_DATAGRAM: Limit<usize> =
    Limit { min: 1, max: 65_535, advice: "leave it out to receive every datagram whole" };

/// Smallest and largest value of an option, and what to do instead of leaving the range.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit<T> {
    pub(super) min: T,
    pub(super) max: T,
    pub(super) advice: &'static str,
}

impl<T: PartialOrd> Limit<T> {
    pub(super) fn contains(&self, value: &T) -> bool {
        (&self.min..=&self.max).contains(&value)
    }

    /// The advice as the end of a sentence, if there is any.
    pub(super) fn remedy(&self) -> String {
        if self.advice.is_empty() { String::new() } else { format!("; {}", self.advice) }
    }
}

impl<T: PartialOrd + fmt::Display + Copy> Limit<T> {
    /// Complains about a value of the named option that is outside.
    pub(super) fn check(&self, option: &str, value: T) -> Result<(), String> {
        if self.contains(&value) {
            return Ok(());
        }
        Err(format!("{option} {value} is not from {} to {}{}", self.min, self.max, self.remedy()))
    }
}

impl Limit<Duration> {
    /// Complains about a value of the named option that is outside.
    pub(super) fn check_time(&self, option: &str, value: Duration) -> Result<(), String> {
        if self.contains(&value) {
            return Ok(());
        }
        Err(format!("{option} of {value:?} is not {}{}", self.seconds(), self.remedy()))
    }

    /// The range in words.
    pub(super) fn seconds(&self) -> String {
        if self.min < Duration::from_secs(1) {
            format!("above 0 and at most {} seconds", self.max.as_secs())
        } else {
            format!("from {} to {} seconds", self.min.as_secs(), self.max.as_secs())
        }
    }
}

/// A device name is what fits the kernel's field: on Linux 15 bytes and a NUL.
pub(super) fn check_device(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("is empty; give a device like eth0 or leave it out");
    }
    if name.len() > 15 {
        return Err("is longer than the 15 bytes of a device name");
    }
    if name.contains(|c: char| c == '\0' || c == '/' || c.is_whitespace()) {
        return Err("has a character that no device name has");
    }
    Ok(())
}
