//! On which processors a thread runs.

use std::io;

/// Keeps this thread on one of the processors that it may run on, counted from 0.
#[cfg(target_os = "linux")]
pub(crate) fn stay_on(number: usize) -> io::Result<()> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    let allowed = sched_getaffinity(None)?;
    let mut processors = (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor)).cycle();
    if let Some(processor) = processors.nth(number) {
        let mut set = CpuSet::new();
        set.set(processor);
        sched_setaffinity(None, &set)?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn stay_on(_number: usize) -> io::Result<()> {
    Ok(())
}
