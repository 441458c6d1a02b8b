//! What happened in a simulated network, in order: for people to read, and as one number to compare runs by.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Something that happened.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    /// To a stream or a listener, as seen from `local`.
    Stream { verb: &'static str, local: SocketAddr, remote: Option<SocketAddr>, bytes: usize },
    /// To a host, or what somebody noted.
    Text(String),
}

struct Entry {
    at: u64,
    /// The name of the host is looked up when the trace is read.
    host: Option<usize>,
    happening: Happening,
}

/// The last things that happened, and a number that stands for all of them.
pub(super) struct Trace {
    entries: VecDeque<Entry>,
    limit: usize,
    forgotten: u64,
    fingerprint: u64,
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

impl Trace {
    pub(super) fn new(limit: usize) -> Self {
        Self { entries: VecDeque::new(), limit, forgotten: 0, fingerprint: FNV_OFFSET }
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.shorten();
    }

    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    pub(super) fn add(&mut self, at: u64, host: Option<usize>, happening: Happening) {
        self.mix(at);
        self.mix(host.map_or(u64::MAX, |host| host as u64));
        match &happening {
            Happening::Stream { verb, local, remote, bytes } => {
                self.mix_text(verb);
                self.mix(u64::from(local.port()) | remote.map_or(0, |remote| u64::from(remote.port()) << 16));
                self.mix(*bytes as u64);
            }
            Happening::Text(text) => self.mix_text(text),
        }
        self.entries.push_back(Entry { at, host, happening });
        self.shorten();
    }

    fn shorten(&mut self) {
        while self.entries.len() > self.limit {
            self.entries.pop_front();
            self.forgotten += 1;
        }
    }

    /// One round of FNV-1a over a word instead of a byte: enough to tell runs apart.
    fn mix(&mut self, word: u64) {
        self.fingerprint = (self.fingerprint ^ word).wrapping_mul(FNV_PRIME).rotate_left(23);
    }

    fn mix_text(&mut self, text: &str) {
        for byte in text.bytes() {
            self.fingerprint = (self.fingerprint ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        }
    }

    /// The last `count` lines.
    pub(super) fn text(&self, count: usize, host_name: impl Fn(usize) -> String) -> String {
        let skipped = self.entries.len().saturating_sub(count);
        let left_out = self.forgotten + skipped as u64;
        let mut out = String::new();
        if left_out > 0 {
            out = format!("({left_out} earlier lines left out)\n");
        }
        write_lines(&mut out, self.entries.iter().skip(skipped), host_name);
        out
    }

    /// The lines that are not about a single stream.
    pub(super) fn notes(&self, host_name: impl Fn(usize) -> String) -> String {
        let mut out = String::new();
        let notes = self.entries.iter().filter(|entry| matches!(entry.happening, Happening::Text(_)));
        write_lines(&mut out, notes, host_name);
        out
    }
}

fn write_lines<'e>(
    out: &mut String,
    entries: impl Iterator<Item = &'e Entry>,
    host_name: impl Fn(usize) -> String,
) {
    use fmt::Write;
    for entry in entries {
        let host = entry.host.map(&host_name).unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{} {host:<10} {}", Time(entry.at), entry.happening);
    }
}

impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Stream { verb, local, remote, bytes } => {
                write!(f, "{local}")?;
                if let Some(remote) = remote {
                    write!(f, " - {remote}")?;
                }
                write!(f, " {verb}")?;
                if *bytes > 0 {
                    write!(f, " {bytes} B")?;
                }
                Ok(())
            }
        }
    }
}

/// Seconds of simulated time, to the nanosecond where it matters.
pub(super) struct Time(pub(super) u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = Duration::from_nanos(self.0);
        write!(f, "{:>5}.{:09}", time.as_secs(), time.subsec_nanos())
    }
}
