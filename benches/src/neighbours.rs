//! How much of the machine others used while something was measured. Figures taken beside a busy neighbour, above all
//! latencies, are the neighbour's.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use crate::sys;

/// Begins to watch.
#[derive(Debug)]
pub struct Watch {
    started: Instant,
    busy: Duration,
    own: Duration,
}

impl Watch {
    /// From now on.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn start() -> io::Result<Self> {
        Ok(Self { started: Instant::now(), busy: busy()?, own: sys::own_cpu()? })
    }

    /// The share of one CPU (so up to their number) that processes other than this one and its ended children used.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn foreign(&self) -> io::Result<f64> {
        let busy = busy()?.saturating_sub(self.busy);
        let own = sys::own_cpu()?.saturating_sub(self.own);
        Ok(busy.saturating_sub(own).as_secs_f64() / self.started.elapsed().as_secs_f64())
    }
}

/// Time of all CPUs that was neither idle nor waiting for a disk, time stolen by the host included. Interrupts count:
/// most of them are our own packets, and the kernel counts them as ours too.
fn busy() -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let ticks: Option<Vec<u64>> = text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("cpu "))
        .and_then(|rest| rest.split_whitespace().map(|word| word.parse().ok()).collect());
    // user nice system idle iowait irq softirq steal …
    let Some([user, nice, system, _, _, irq, softirq, steal, ..]) = ticks.as_deref() else {
        return Err(io::Error::other("/proc/stat does not begin with the times of all CPUs"));
    };
    // USER_HZ is 100 on every Linux that Rust runs on.
    Ok(Duration::from_millis((user + nice + system + irq + softirq + steal) * 10))
}
