//! What jobs on files do with them. Everything here blocks, and runs on a thread that may.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

/// A buffer starts with this much and doubles, so that nobody gets memory for a file by asking for more than
/// it has.
const FIRST_STEP: usize = 64 * 1024;

/// The most that one read at the file's place is given room for.
const LARGEST_READ: usize = 16 << 20;

/// A file that is open.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: File,
    /// Where the next `read` or `write` is: with this system's positioned calls the file's own place moves.
    #[cfg(windows)]
    place: AtomicU64,
}

impl Opened {
    pub(crate) fn new(file: File) -> Self {
        Self {
            file,
            #[cfg(windows)]
            place: AtomicU64::new(0),
        }
    }

    /// Reads `length` bytes from `offset` on; fewer only at the end of the file.
    pub(crate) fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut data = Vec::new();
        while data.len() < length {
            let have = data.len();
            let step = (length - have).min(have.max(FIRST_STEP));
            data.resize(have + step, 0);
            let count = retried(|| self.some_at(offset.saturating_add(have as u64), &mut data[have..]))?;
            data.truncate(have + count);
            if count == 0 {
                break;
            }
        }
        Ok(data)
    }

    /// Writes all of `data` at `offset`.
    pub(crate) fn write_at(&self, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let count = retried(|| self.put_at(offset, data))?;
            if count == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
            data = &data[count..];
            offset += count as u64;
        }
        Ok(())
    }

    /// Reads once at the file's place; nothing means the end.
    pub(crate) fn read(&self, length: usize) -> io::Result<Vec<u8>> {
        let mut data = vec![0; length.min(LARGEST_READ)];
        let count = retried(|| self.read_here(&mut data))?;
        data.truncate(count);
        Ok(data)
    }

    #[cfg(not(windows))]
    fn read_here(&self, data: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(data)
    }

    /// Writes all of `data` at the file's place.
    #[cfg(not(windows))]
    pub(crate) fn write(&self, data: &[u8]) -> io::Result<()> {
        (&self.file).write_all(data)
    }

    #[cfg(not(windows))]
    fn some_at(&self, offset: u64, data: &mut [u8]) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.file, data, offset)
    }

    #[cfg(not(windows))]
    fn put_at(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(&self.file, data, offset)
    }

    #[cfg(windows)]
    fn read_here(&self, data: &mut [u8]) -> io::Result<usize> {
        // Calls at the file's place come one after the other.
        let count = self.some_at(self.place.load(Ordering::Relaxed), data)?;
        self.place.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    /// Writes all of `data` at the file's place.
    #[cfg(windows)]
    pub(crate) fn write(&self, data: &[u8]) -> io::Result<()> {
        self.write_at(self.place.load(Ordering::Relaxed), data)?;
        self.place.fetch_add(data.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    #[cfg(windows)]
    fn some_at(&self, offset: u64, data: &mut [u8]) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(&self.file, data, offset)
    }

    #[cfg(windows)]
    fn put_at(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_write(&self.file, data, offset)
    }
}

fn retried(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// The content of a file, if it has at most `limit` bytes.
pub(crate) fn read_whole(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    // One more than allowed shows that there is more; the length that the system tells need not be true.
    let count = File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut data)?;
    if count as u64 > limit {
        let text = format!("it has more than the {limit} bytes that are allowed");
        return Err(io::Error::new(ErrorKind::FileTooLarge, text));
    }
    Ok(data)
}

/// Makes `data` the content of the file at `path`, in one step: whoever looks finds the old content or the
/// new.
pub(crate) fn replace(path: &Path, data: &[u8]) -> io::Result<()> {
    let target = behind_links(path)?;
    let permissions = match fs::metadata(&target) {
        Ok(metadata) if metadata.is_file() => Some(metadata.permissions()),
        Ok(_) => {
            return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file, and stays"));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let directory = match target.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let (mut file, temporary) = create_beside(directory, permissions.is_some())?;
    let written = (|| {
        // Before there is anything to read in it.
        if let Some(permissions) = permissions {
            file.set_permissions(permissions)?;
        }
        file.write_all(data)?;
        file.sync_all()?;
        fs::rename(&temporary, &target)
    })();
    if let Err(error) = written {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_directory(directory)
}

/// What a link points to is replaced, or made, not the link.
fn behind_links(path: &Path) -> io::Result<PathBuf> {
    match (fs::canonicalize(path), fs::read_link(path)) {
        // Links in a circle are another error, so that this comes to an end.
        (Err(error), Ok(next)) if error.kind() == ErrorKind::NotFound => {
            behind_links(&path.parent().unwrap_or(Path::new("")).join(next))
        }
        (Err(error), Err(_)) if error.kind() == ErrorKind::NotFound => Ok(path.to_owned()),
        (outcome, _) => outcome,
    }
}

/// A new file of a name that nobody else uses; for nobody else to open, if it is yet to get its permissions.
fn create_beside(directory: &Path, is_private: bool) -> io::Result<(File, PathBuf)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if is_private {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    #[cfg(not(unix))]
    let _ = is_private;
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!(".twistor-{}-{count}.tmp", process::id()));
        match options.open(&path) {
            // Left over from a process of the same number that was killed.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            outcome => return outcome.map(|file| (file, path)),
        }
    }
}

/// Makes sure that a new name survives the loss of power.
#[cfg(unix)]
fn sync_directory(directory: &Path) -> io::Result<()> {
    match File::open(directory)?.sync_all() {
        // Not every file system knows how.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        outcome => outcome,
    }
}

#[cfg(not(unix))]
fn sync_directory(_directory: &Path) -> io::Result<()> {
    Ok(())
}
