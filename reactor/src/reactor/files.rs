//! Files, on threads of their own: [`Handle::read_file`], [`Handle::write_file`], [`Handle::open_file`].
//!
//! Regular files cannot be waited for, only read, and a disk may take its time. So every call is a job for a
//! pool that has nothing else to do; its outcome comes back through the loop. The pool is made at the first
//! call.

use std::error::Error;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::reactor::async_file::AsyncFile;
use crate::reactor::deferred::Deferred;
use crate::reactor::handle::Handle;
use crate::reactor::inner::Inner;
use crate::reactor::threads::{self, JobError};
use crate::sys::file;
use crate::sys::sequence::Sequence;
use crate::sys::thread_pool::ThreadPool;

/// The largest file that [`Handle::read_file`] reads.
const READ_LIMIT: u64 = 1 << 30;

/// # Files
///
/// These run on threads of their own, [`ReactorBuilder::file_threads`](crate::ReactorBuilder::file_threads)
/// of them, so that a slow disk delays neither the loop nor [`defer_to_thread`](Self::defer_to_thread) nor
/// the look-up of names. Of several calls, each may be done before the others.
///
/// The errors name the path and what was to be done with it. Their [`source`](Error::source) is the error of
/// the system, or the [`JobError`]: [`Full`](JobError::Full) when too many calls wait,
/// [`Cancelled`](JobError::Cancelled) after [`Deferred::cancel`], which keeps a call from being made that has
/// not begun; one that has begun goes on.
///
/// In a simulation the files are real ones, but there are no threads: the loop makes the calls, one at a time
/// and up to a millisecond later.
impl Handle {
    /// The content of the file at `path`, which may have up to 1 GiB. For more, see
    /// [`read_file_up_to`](Self::read_file_up_to) and [`open_file`](Self::open_file).
    ///
    /// ```
    /// use twistor::Reactor;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// reactor.read_file("Cargo.toml").on_done(|reactor, content| {
    ///     match content {
    ///         Ok(content) => println!("{} bytes", content.len()),
    ///         Err(error) => eprintln!("{error}"), // cannot read "Cargo.toml": ...
    ///     }
    ///     reactor.stop();
    /// });
    /// reactor.run()
    /// # }
    /// ```
    #[track_caller]
    pub fn read_file(&self, path: impl AsRef<Path>) -> Deferred<Vec<u8>, io::Error> {
        self.read_file_up_to(path, READ_LIMIT)
    }

    /// The content of the file at `path`; an error of the kind [`FileTooLarge`](io::ErrorKind::FileTooLarge)
    /// if that is more than so many bytes.
    #[track_caller]
    pub fn read_file_up_to(&self, path: impl AsRef<Path>, limit: u64) -> Deferred<Vec<u8>, io::Error> {
        let path = path.as_ref().to_owned();
        let what = Doing::new("read", &path);
        self.file_job(what, None, move || file::read_whole(&path, limit), |_, data| data)
    }

    /// Makes `data` the content of the file at `path`, which is created if there is none.
    ///
    /// Not in one step: whoever looks meanwhile finds part of it, and so does everybody after a crash.
    /// [`replace_file`](Self::replace_file) is for what must be whole.
    #[track_caller]
    pub fn write_file(&self, path: impl AsRef<Path>, data: impl Into<Bytes>) -> Deferred<(), io::Error> {
        let (path, data) = (path.as_ref().to_owned(), data.into());
        let what = Doing::new("write", &path);
        self.file_job(what, None, move || fs::write(&path, &data), |_, ()| ())
    }

    /// Makes `data` the content of the file at `path` in one step: whoever looks, also after a crash, finds
    /// the old content or the new. When it is done the new content is on the disk.
    ///
    /// It is written to a temporary file in the same directory (`.twistor-*.tmp`, which a program that is
    /// killed meanwhile leaves there) that gets the permissions of the old file and then takes its place.
    /// Where `path` is a symbolic link, the file that it points to is replaced. What is there and no regular
    /// file is left alone.
    ///
    /// ```
    /// use twistor::Reactor;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let path = std::env::temp_dir().join("twistor-doc-state.json");
    /// let reactor = Reactor::new()?;
    /// let saved = reactor.replace_file(&path, "{}");
    /// saved.on_done(|reactor, outcome| {
    ///     assert!(outcome.is_ok());
    ///     reactor.stop();
    /// });
    /// reactor.run()?;
    /// std::fs::remove_file(path)
    /// # }
    /// ```
    #[track_caller]
    pub fn replace_file(&self, path: impl AsRef<Path>, data: impl Into<Bytes>) -> Deferred<(), io::Error> {
        let (path, data) = (path.as_ref().to_owned(), data.into());
        let what = Doing::new("replace", &path);
        self.file_job(what, None, move || file::replace(&path, &data), |_, ()| ())
    }

    /// Opens the file at `path`.
    ///
    /// ```
    /// use std::fs::OpenOptions;
    /// use twistor::Reactor;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// reactor.open_file("Cargo.toml", OpenOptions::new().read(true)).on_done(|reactor, file| {
    ///     let Ok(file) = file else { return reactor.stop() };
    ///     file.read_at(0, 9).on_done(|reactor, start| {
    ///         assert_eq!(start.unwrap(), b"[package]");
    ///         reactor.stop();
    ///     });
    /// });
    /// reactor.run()
    /// # }
    /// ```
    #[track_caller]
    pub fn open_file(&self, path: impl AsRef<Path>, options: &OpenOptions) -> Deferred<AsyncFile, io::Error> {
        let (path, options) = (path.as_ref().to_owned(), options.clone());
        let what = Doing::new("open", &path);
        let name = path.clone();
        self.file_job(
            what,
            None,
            move || options.open(&path),
            move |handle, file| AsyncFile::new(handle, file, name),
        )
    }

    /// Runs `job` on one of the threads for files: whatever else is to be done with a file system.
    ///
    /// ```
    /// use twistor::Reactor;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let names = reactor.defer_to_file_thread(|| -> std::io::Result<Vec<_>> {
    ///     std::fs::read_dir(".")?.map(|entry| Ok(entry?.file_name())).collect()
    /// });
    /// names.on_done(|reactor, names| {
    ///     assert!(names.is_ok_and(|names| !names.is_empty()));
    ///     reactor.stop();
    /// });
    /// reactor.run()
    /// # }
    /// ```
    #[track_caller]
    pub fn defer_to_file_thread<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Deferred<T, io::Error> {
        self.file_job(Doing { verb: "run a job on a file", path: None }, None, job, |_, value| value)
    }

    /// Runs a job on the threads for files; `finish` makes the outcome of it, on the loop's thread.
    #[track_caller]
    pub(crate) fn file_job<T: Send + 'static, U: 'static>(
        &self,
        what: Doing,
        sequence: Option<&Sequence>,
        job: impl FnOnce() -> io::Result<T> + Send + 'static,
        finish: impl FnOnce(&Self, T) -> U + 'static,
    ) -> Deferred<U, io::Error> {
        let Some(inner) = self.inner() else {
            return Deferred::ready(self, Err(what.failed(kind(&JobError::Gone), JobError::Gone)));
        };
        let running = threads::defer(&inner, inner.file_pool(), sequence, job);
        running.then(move |handle, outcome| match outcome {
            Ok(Ok(value)) => Ok(finish(handle, value)),
            // The job's own words, where nothing is known that could be added.
            Ok(Err(error)) if what.path.is_none() => Err(error),
            Ok(Err(error)) => Err(what.failed(error.kind(), error)),
            Err(error) => Err(what.failed(kind(&error), error)),
        })
    }
}

fn kind(error: &JobError) -> io::ErrorKind {
    match error {
        JobError::Full => io::ErrorKind::ResourceBusy,
        JobError::Gone => io::ErrorKind::NotConnected,
        JobError::Cancelled | JobError::Panicked(_) | JobError::Interrupted(_) => io::ErrorKind::Other,
    }
}

/// What is done with which file, for an error.
#[derive(Clone, Debug)]
pub(crate) struct Doing {
    verb: &'static str,
    path: Option<PathBuf>,
}

impl Doing {
    pub(crate) fn new(verb: &'static str, path: &Path) -> Self {
        Self { verb, path: Some(path.to_owned()) }
    }

    pub(crate) fn failed(
        &self,
        kind: io::ErrorKind,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> io::Error {
        io::Error::new(kind, Failed { doing: self.clone(), cause: cause.into() })
    }
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "cannot {} {path:?}", self.verb),
            None => write!(f, "cannot {}", self.verb),
        }
    }
}

/// The inside of an error: what could not be done, and why.
#[derive(Debug)]
struct Failed {
    doing: Doing,
    cause: Box<dyn Error + Send + Sync>,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.doing, self.cause)
    }
}

impl Error for Failed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.cause)
    }
}

impl Inner {
    pub(crate) fn file_pool(&self) -> &ThreadPool {
        let config = &self.config;
        self.file_pool.get_or_init(|| ThreadPool::with_queue(config.file_threads, config.file_queue))
    }
}
