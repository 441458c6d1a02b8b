//! The file that says which process a daemon is.
//!
//! What keeps a second instance away is a lock on the file (`flock`), which ends with its holder however that
//! ends: a file that was left behind stops nobody. The lock belongs to the open file, so that a process that
//! inherits the descriptor holds it as well.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// How long a process that is about to end, or to say who it is, may hold the lock.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);
/// How long a pidfile can be, in bytes. A longer file is something else.
const MOST: usize = 32;

/// A locked pidfile. Dropping it removes the file, if it is this process's, and gives up the lock.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    file: File,
    owner: Cell<Owner>,
}

/// Whose the file is. The lock may have several holders.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    This,
    /// The process before this one, or the one after it.
    Other,
}

impl PidFile {
    /// Locks the file, which is made if there is none. What it says is not changed yet.
    ///
    /// # Errors
    ///
    /// Another process holds it, or it cannot be opened; or what is there is no pidfile, and is left alone.
    pub(crate) fn lock(path: &Path) -> io::Result<Self> {
        let fail = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot lock the pidfile {}: {error}", path.display()))
        };
        let begun = Instant::now();
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                // A link here may have been laid by somebody who may not write where it leads.
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
                .open(path)
                .map_err(|error| match error.raw_os_error() {
                    Some(libc::ELOOP) => fail(foreign("it is a symbolic link, which is not followed")),
                    _ => fail(error),
                })?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Its holder may have removed it just before.
                Ok(()) if is_at(&file, path) => {
                    // It would be written to, and removed at the end.
                    check_contents(&file).map_err(fail)?;
                    return Ok(Self { path: path.to_owned(), file, owner: Cell::new(Owner::This) });
                }
                Ok(()) | Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => {
                    let holder = read_pid(&file);
                    let is_alive = holder.is_some_and(is_alive);
                    if is_alive || begun.elapsed() > PATIENCE {
                        return Err(in_use(path, holder.filter(|_| is_alive)));
                    }
                    // The heir of one that was killed, which is about to end, or one that has not written
                    // yet.
                    thread::sleep(PAUSE);
                }
                Err(error) => return Err(fail(error.into())),
            }
        }
    }

    /// A lock that was inherited; `None` if it is on another file. The file is not this process's yet.
    pub(crate) fn inherited(path: &Path, descriptor: OwnedFd) -> Option<Self> {
        let file = File::from(descriptor);
        is_at(&file, path).then(|| Self { path: path.to_owned(), file, owner: Cell::new(Owner::Other) })
    }

    /// Says that this process is the one. The file is this process's from now on.
    pub(crate) fn write_own_pid(&self) -> io::Result<()> {
        self.owner.set(Owner::This);
        self.write_pid(std::process::id())
    }

    /// Says which process is the one.
    pub(crate) fn write_pid(&self, pid: u32) -> io::Result<()> {
        let text = format!("{pid}\n");
        // In this order a reader never finds an empty file, nor half a number.
        let written = self.file.write_all_at(text.as_bytes(), 0);
        written.and_then(|()| self.file.set_len(text.len() as u64)).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot write the pidfile {}: {error}", self.path.display()))
        })
    }

    /// Whether it says that this process is the one.
    pub(crate) fn names_this_process(&self) -> bool {
        read_pid(&self.file) == Some(std::process::id())
    }

    /// A descriptor that holds the lock as well.
    pub(crate) fn share(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// Leaves the file and the lock to the process that holds it as well.
    pub(crate) fn leave(self) {
        self.owner.set(Owner::Other);
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.owner.get() == Owner::Other || !is_at(&self.file, &self.path) {
            return;
        }
        // Another process that has just opened it notices: see `lock`.
        if let Err(error) = fs::remove_file(&self.path) {
            log::debug!("cannot remove the pidfile {}: {error}", self.path.display());
            let _ = self.file.set_len(0);
        }
    }
}

fn in_use(path: &Path, holder: Option<u32>) -> io::Error {
    let path = path.display();
    let text = match holder {
        Some(pid) => format!("it is running already: process {pid} holds the pidfile {path}"),
        None => format!("it is running already: a process that is not named in it holds the pidfile {path}"),
    };
    io::Error::new(ErrorKind::AddrInUse, text)
}

/// Fails unless the file is one that a pidfile may take the place of: empty, or with a number in it.
fn check_contents(file: &File) -> io::Result<()> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(foreign("it is not a regular file"));
    }
    let mut buffer = [0; MOST];
    let length = file.read_at(&mut buffer, 0)?;
    // A zero is what a file may have where the power failed before its contents were on the disk.
    let is_expected = |byte: &u8| byte.is_ascii_digit() || byte.is_ascii_whitespace() || *byte == 0;
    if metadata.len() > MOST as u64 || !buffer[..length].iter().all(is_expected) {
        return Err(foreign("there is a file of that name, and it is not a pidfile"));
    }
    Ok(())
}

fn foreign(text: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, text)
}

fn read_pid(file: &File) -> Option<u32> {
    // Others who hold the lock share the position in the file.
    let mut buffer = [0; MOST];
    let length = file.read_at(&mut buffer, 0).ok()?;
    std::str::from_utf8(&buffer[..length]).ok()?.trim_end().parse().ok()
}

/// Whether there is a process of this number.
fn is_alive(pid: u32) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return false };
    // SAFETY: signal 0 is only asked for, not sent; the call touches no memory.
    let result = unsafe { if pid > 0 { libc::kill(pid, 0) } else { return false } };
    if result == 0 {
        return !is_zombie(pid);
    }
    io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// Whether the process has ended, and only its parent has not heard of it.
fn is_zombie(pid: libc::pid_t) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}

/// Whether the open file is the one at this path.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => open.dev() == named.dev() && open.ino() == named.ino(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("twistor-pidfile-{}-{name}", std::process::id()))
    }

    #[test]
    fn a_second_lock_names_the_holder() {
        let path = place("held");
        let held = PidFile::lock(&path).unwrap();
        held.write_own_pid().unwrap();
        let error = PidFile::lock(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("process {} holds", std::process::id())), "{error}");
        drop(held);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_was_left_behind_stops_nobody() {
        let path = place("stale");
        fs::write(&path, "1\n").unwrap();
        let held = PidFile::lock(&path).unwrap();
        held.write_own_pid().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(held);
    }

    #[test]
    fn who_inherits_the_lock_owns_the_file_once_it_says_so() {
        let path = place("inherited");
        let first = PidFile::lock(&path).unwrap();
        first.write_own_pid().unwrap();
        drop(PidFile::inherited(&path, first.share().unwrap()).unwrap());
        assert!(path.exists(), "it was the first one's");
        let second = PidFile::inherited(&path, first.share().unwrap()).unwrap();
        first.leave();
        assert!(path.exists() && PidFile::lock(&path).is_err(), "the lock is still held");
        second.write_own_pid().unwrap();
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_link_is_not_followed() {
        let (path, target) = (place("link"), place("target"));
        fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(PidFile::lock(&path).is_err());
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        fs::remove_file(&target).unwrap();
    }

    #[test]
    fn what_is_no_pidfile_is_neither_written_to_nor_removed() {
        let path = place("foreign");
        for contents in ["127.0.0.1 localhost\n", "[settings]", &"1".repeat(33)] {
            fs::write(&path, contents).unwrap();
            let error = PidFile::lock(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), contents);
        }
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_a_pidfile_can_have_been_is_taken_over() {
        let path = place("old");
        for contents in ["", "4711", " 4711 \n", "\0\0\0\0\0"] {
            fs::write(&path, contents).unwrap();
            PidFile::lock(&path).unwrap();
            assert!(!path.exists());
        }
    }

    /// Root's daemon with the wrong path had removed `/dev/null`.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_no_regular_file_is_left_alone() {
        let path = place("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let error = PidFile::lock(&path).unwrap_err().to_string();
        assert!(error.ends_with("it is not a regular file"), "{error}");
        assert!(path.exists());
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn another_file_of_that_name_is_left_alone() {
        let path = place("replaced");
        let held = PidFile::lock(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "somebody else's").unwrap();
        drop(held);
        assert_eq!(fs::read_to_string(&path).unwrap(), "somebody else's");
        fs::remove_file(&path).unwrap();
    }
}
