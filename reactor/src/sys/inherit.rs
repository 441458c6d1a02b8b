//! Descriptors that one process passes on to the next through `exec`, each with a name.
//!
//! The child finds their names and numbers in an environment variable. That outlives its meaning: children of
//! the child have it as well, but not the descriptors. So it also says what each descriptor is, by device and
//! inode, and one that is not that is left alone.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};

/// One line a descriptor: its number, device, inode and name.
const VARIABLE: &str = "TWISTOR_INHERITED";

/// Starts a program that has these descriptors open beside what it would have, and can [`take`] them.
pub(crate) fn spawn(command: &mut Command, passed: &[(String, OwnedFd)]) -> io::Result<Child> {
    let mut lines = String::new();
    for (name, descriptor) in passed {
        let (device, inode) = identity(descriptor.as_raw_fd())?;
        lines += &format!("{} {device} {inode} {}\n", descriptor.as_raw_fd(), escape(name));
    }
    command.env(VARIABLE, lines);
    let numbers: Vec<RawFd> = passed.iter().map(|(_, descriptor)| descriptor.as_raw_fd()).collect();
    // SAFETY: between fork and exec the closure only calls fcntl, which is safe there, and allocates nothing.
    unsafe {
        command.pre_exec(move || numbers.iter().try_for_each(|number| keep_on_exec(*number)));
    }
    command.spawn()
}

/// Takes what this process was given by [`spawn`]: once, every later call finds nothing.
pub(crate) fn take() -> Vec<(String, OwnedFd)> {
    /// Descriptors have one owner, so that they can be taken out of the environment only once.
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let text = std::env::var_os(VARIABLE);
    let lines = text.as_deref().and_then(OsStr::to_str).unwrap_or_default().lines();
    lines.filter_map(take_one).collect()
}

fn take_one(line: &str) -> Option<(String, OwnedFd)> {
    let mut fields = line.splitn(4, ' ');
    let number: RawFd = fields.next()?.parse().ok()?;
    let said = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let name = unescape(fields.next()?);
    // 0 to 2 are never passed.
    if number <= 2 || identity(number).ok()? != said {
        return None;
    }
    // SAFETY: open, as `identity` has found; what the parent has opened for this process and named to it
    // belongs to nobody else here, and is taken once.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    set_close_on_exec(number, true).ok()?;
    Some((name, descriptor))
}

/// What an open file is; an error if the number is not open.
fn identity(number: RawFd) -> io::Result<(u64, u64)> {
    let mut status = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `status` is room for the answer; a number that is not open is an error.
    let result = unsafe { libc::fstat(number, status.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled in by the call, which succeeded.
    let status = unsafe { status.assume_init() };
    #[allow(clippy::unnecessary_cast, reason = "their types differ between systems")]
    Ok((status.st_dev as u64, status.st_ino as u64))
}

fn keep_on_exec(number: RawFd) -> io::Result<()> {
    set_close_on_exec(number, false)
}

fn set_close_on_exec(number: RawFd, on: bool) -> io::Result<()> {
    // SAFETY: F_SETFD takes an int, and touches no memory.
    let result = unsafe { libc::fcntl(number, libc::F_SETFD, if on { libc::FD_CLOEXEC } else { 0 }) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn escape(name: &str) -> String {
    name.replace('\\', "\\\\").replace('\n', "\\n")
}

fn unescape(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    let mut characters = name.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => text.extend(characters.next().map(|next| if next == 'n' { '\n' } else { next })),
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_environment() {
        for name in ["tcp 0.0.0.0:80", "a\nb", "back\\slash\\n", "", "ümlaut"] {
            let escaped = escape(name);
            assert!(!escaped.contains('\n'));
            assert_eq!(unescape(&escaped), name);
        }
    }

    #[test]
    fn a_descriptor_is_not_taken_for_another() {
        let (ours, theirs) = io::pipe().unwrap();
        let (device, inode) = identity(ours.as_raw_fd()).unwrap();
        assert!(take_one(&format!("{} {device} {} name", ours.as_raw_fd(), inode + 1)).is_none());
        assert!(take_one(&format!("{} {device} {inode}", ours.as_raw_fd())).is_none());
        assert!(take_one("1000000 1 1 name").is_none());
        assert!(take_one("0 1 1 name").is_none());
        assert!(take_one("garbage").is_none());
        drop(theirs);
    }
}
