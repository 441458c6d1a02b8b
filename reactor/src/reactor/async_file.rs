//! [`AsyncFile`]: an open file whose calls are made by other threads.
//!
//! Invariant: what waits for an outcome waits in the reactor's table of jobs and nowhere else, so that a file
//! that is kept by its own hooks goes with the reactor.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use bytes::Bytes;

use crate::reactor::deferred::{Canceller, Completed, Deferred, MaybeDeferred, Resolver};
use crate::reactor::files::Doing;
use crate::reactor::handle::Handle;
use crate::reactor::threads::JobError;
use crate::sys::file::Opened;
use crate::sys::sequence::Sequence;

/// An open file. Reading and writing are done by the threads for files, their outcomes come back through the
/// loop; see [`Handle::read_file`] for errors and cancelling. Clones are the same file.
///
/// There are two kinds of calls. Those that name their place ([`read_at`](Self::read_at),
/// [`write_at`](Self::write_at), [`read_chunks`](Self::read_chunks)) may be done at the same time, in any
/// order. All others are done one after the other, in the order in which they were made.
///
/// The file is closed by [`close`](Self::close), or when the last clone is dropped and nothing is under way;
/// on the loop's thread then, which is a matter of microseconds but for some network file systems.
///
/// ```
/// use std::fs::OpenOptions;
/// use twistor::Reactor;
///
/// # fn main() -> std::io::Result<()> {
/// let path = std::env::temp_dir().join("twistor-doc-log");
/// let reactor = Reactor::new()?;
/// let log = reactor.open_file(&path, OpenOptions::new().append(true).create(true));
/// log.on_done(|reactor, log| {
///     let Ok(log) = log else { return reactor.stop() };
///     // In this order, though nobody waits for the first before the second is asked for.
///     log.write("one\n").on_done(|_, outcome| outcome.unwrap());
///     log.write("two\n").on_done(|_, outcome| outcome.unwrap());
///     log.close().on_done(|reactor, _| reactor.stop());
/// });
/// reactor.run()?;
/// assert_eq!(std::fs::read_to_string(&path)?, "one\ntwo\n");
/// std::fs::remove_file(path)
/// # }
/// ```
#[derive(Clone)]
pub struct AsyncFile {
    shared: Rc<Shared>,
}

struct Shared {
    handle: Handle,
    name: PathBuf,
    /// `None` when the reactor is gone.
    sequence: Option<Sequence>,
    /// `None` once it is closed.
    opened: RefCell<Option<Arc<Opened>>>,
}

impl AsyncFile {
    /// A file that was opened elsewhere; `name` stands for it in errors.
    #[must_use]
    pub fn new(reactor: &Handle, file: File, name: impl AsRef<Path>) -> Self {
        let sequence = reactor.inner().map(|inner| Sequence::new(inner.file_pool()));
        let shared = Shared {
            handle: reactor.clone(),
            name: name.as_ref().to_owned(),
            sequence,
            opened: RefCell::new(Some(Arc::new(Opened::new(file)))),
        };
        Self { shared: Rc::new(shared) }
    }

    /// What it is called in errors: the path that it was opened with.
    #[must_use]
    pub fn name(&self) -> &Path {
        &self.shared.name
    }

    /// Reads `length` bytes from `offset` on; fewer only where the file ends.
    #[track_caller]
    pub fn read_at(&self, offset: u64, length: usize) -> Deferred<Vec<u8>, io::Error> {
        self.job("read", None, move |opened| opened.read_at(offset, length))
    }

    /// Writes all of `data` at `offset`.
    #[track_caller]
    pub fn write_at(&self, offset: u64, data: impl Into<Bytes>) -> Deferred<(), io::Error> {
        let data = data.into();
        self.job("write", None, move |opened| opened.write_at(offset, &data))
    }

    /// Reads on from where the last `read` or `write` has ended: what there is, at most `length` bytes.
    /// Nothing means the end of the file.
    #[track_caller]
    pub fn read(&self, length: usize) -> Deferred<Vec<u8>, io::Error> {
        self.job("read", self.shared.sequence.as_ref(), move |opened| opened.read(length))
    }

    /// Writes all of `data` where the last `read` or `write` has ended, or at the end of a file that is
    /// opened for appending. What the file makes of it after an error, nobody knows.
    #[track_caller]
    pub fn write(&self, data: impl Into<Bytes>) -> Deferred<(), io::Error> {
        let data = data.into();
        self.job("write", self.shared.sequence.as_ref(), move |opened| opened.write(&data))
    }

    /// How many bytes it has.
    #[track_caller]
    pub fn len(&self) -> Deferred<u64, io::Error> {
        self.job("measure", self.shared.sequence.as_ref(), |opened| Ok(opened.file.metadata()?.len()))
    }

    /// Waits until what was written, and all about the file, is on the disk. The outcomes of `write_at` have
    /// to be awaited before.
    #[track_caller]
    pub fn sync(&self) -> Deferred<(), io::Error> {
        self.job("sync", self.shared.sequence.as_ref(), |opened| opened.file.sync_all())
    }

    /// Does something else with it: its metadata, its length, a lock.
    ///
    /// ```
    /// use std::fs::OpenOptions;
    /// use twistor::Reactor;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// reactor.open_file("Cargo.toml", OpenOptions::new().read(true)).on_done(|_, file| {
    ///     let changed = file.unwrap().with(|file| file.metadata()?.modified());
    ///     changed.on_done(|reactor, when| {
    ///         assert!(when.is_ok());
    ///         reactor.stop();
    ///     });
    /// });
    /// reactor.run()
    /// # }
    /// ```
    #[track_caller]
    pub fn with<T: Send + 'static>(
        &self,
        job: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
    ) -> Deferred<T, io::Error> {
        self.job("use", self.shared.sequence.as_ref(), move |opened| job(&opened.file))
    }

    /// Closes it, when what was asked for before is done. Whoever asks for anything afterwards gets an error.
    /// What the system has to say about the last writes is told by [`sync`](Self::sync), not by this.
    #[track_caller]
    pub fn close(&self) -> Deferred<(), io::Error> {
        let closing = self.job("close", self.shared.sequence.as_ref(), |opened| {
            drop(opened);
            Ok(())
        });
        // The job has it by now.
        drop(self.shared.opened.take());
        closing
    }

    /// Reads a range of bytes, and calls `hook` with one piece after the other, of `size` bytes but for the
    /// last. The outcome is how many bytes there were.
    ///
    /// Where `hook` returns a [`Deferred`], the next call waits for it, so a file goes out no faster than a
    /// peer reads; only one more piece is read meanwhile. If that fails, so does all of this. Cancelling it,
    /// or a panic of `hook`, ends it, too.
    ///
    /// ```
    /// use std::fs::OpenOptions;
    /// use twistor::{Protocol, Reactor, Transport};
    ///
    /// /// Sends a file to whoever connects.
    /// struct Download;
    ///
    /// impl Protocol for Download {
    ///     fn connection_made(&mut self, transport: &Transport) {
    ///         let reactor = transport.reactor();
    ///         reactor.open_file("Cargo.toml", OpenOptions::new().read(true)).deliver(
    ///             transport,
    ///             |_: &mut Self, transport, file| {
    ///                 let Some(file) = transport.check(file) else { return };
    ///                 let to = transport.clone();
    ///                 let sent = file.read_chunks(.., 64 * 1024, move |_, piece| {
    ///                     to.write_bytes(piece);
    ///                     to.flushed()
    ///                 });
    ///                 sent.deliver(transport, |_: &mut Self, transport, outcome| {
    ///                     transport.check(outcome);
    ///                     transport.lose_connection();
    ///                 });
    ///             },
    ///         );
    ///     }
    ///
    ///     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    /// }
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// reactor.listen("tcp:0:interface=127.0.0.1", |_| Download)?;
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn read_chunks<R: MaybeDeferred + 'static>(
        &self,
        range: impl RangeBounds<u64>,
        size: usize,
        hook: impl FnMut(&Handle, Bytes) -> R + 'static,
    ) -> Deferred<u64, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let (resolver, deferred) = Deferred::new(&self.shared.handle);
        let reading = Rc::new_cyclic(|weak: &Weak<Reading<R>>| {
            let weak = Weak::clone(weak);
            resolver.on_cancel(move || {
                let Some(reading) = weak.upgrade() else { return false };
                let what = Doing::new("read", &reading.file.shared.name);
                reading.finish(Err(what.failed(io::ErrorKind::Other, JobError::Cancelled)))
            });
            Reading {
                file: self.clone(),
                next: Cell::new(start),
                end,
                size: size.max(1),
                hook: RefCell::new(Some(Box::new(hook))),
                resolver: RefCell::new(Some(resolver)),
                ahead: RefCell::new(Ahead::End),
                reader: RefCell::new(None),
                is_held: Cell::new(false),
                delivered: Cell::new(0),
            }
        });
        reading.fetch();
        deferred
    }

    #[track_caller]
    fn job<T: Send + 'static>(
        &self,
        verb: &'static str,
        sequence: Option<&Sequence>,
        job: impl FnOnce(Arc<Opened>) -> io::Result<T> + Send + 'static,
    ) -> Deferred<T, io::Error> {
        let what = Doing::new(verb, &self.shared.name);
        let opened = self.shared.opened.borrow().clone();
        match opened {
            Some(opened) => {
                self.shared.handle.file_job(what, sequence, move || job(opened), |_, value| value)
            }
            None => {
                let (resolver, deferred) = Deferred::new(&self.shared.handle);
                resolver.resolve(Err(what.failed(io::ErrorKind::Other, "it is closed")));
                deferred
            }
        }
    }
}

impl fmt::Debug for AsyncFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncFile")
            .field("name", &self.shared.name)
            .field("is_open", &self.shared.opened.borrow().is_some())
            .finish()
    }
}

type ChunkHook<R> = Box<dyn FnMut(&Handle, Bytes) -> R>;

/// A file on its way to a hook, piece by piece. Kept by what it waits for: the next piece, or the hook's
/// Deferred.
struct Reading<R> {
    file: AsyncFile,
    /// Where the next piece begins.
    next: Cell<u64>,
    end: u64,
    size: usize,
    /// Not here while it runs, and after the end.
    hook: RefCell<Option<ChunkHook<R>>>,
    /// `None` after the end.
    resolver: RefCell<Option<Resolver<u64, io::Error>>>,
    ahead: RefCell<Ahead>,
    /// Cancels the read that is under way.
    reader: RefCell<Option<Canceller>>,
    /// The hook wants no more for now.
    is_held: Cell<bool>,
    delivered: Cell<u64>,
}

/// The piece after the one that the hook has.
enum Ahead {
    /// It is being read.
    Awaited,
    There(io::Result<Vec<u8>>),
    /// There is none.
    End,
}

impl<R: MaybeDeferred + 'static> Reading<R> {
    fn wanted(&self) -> usize {
        usize::try_from(self.end.saturating_sub(self.next.get()))
            .map_or(self.size, |left| left.min(self.size))
    }

    /// Begins to read the next piece.
    fn fetch(self: &Rc<Self>) {
        let read = self.file.read_at(self.next.get(), self.wanted());
        *self.ahead.borrow_mut() = Ahead::Awaited;
        *self.reader.borrow_mut() = Some(read.canceller());
        let reading = Rc::clone(self);
        read.on_done(move |handle, piece| {
            *reading.ahead.borrow_mut() = Ahead::There(piece);
            if !reading.is_held.get() {
                reading.deliver(handle);
            }
        });
    }

    /// Hands the piece that is there to the hook, or ends.
    fn deliver(self: &Rc<Self>, handle: &Handle) {
        let ahead = std::mem::replace(&mut *self.ahead.borrow_mut(), Ahead::End);
        let piece = match ahead {
            Ahead::Awaited => return *self.ahead.borrow_mut() = Ahead::Awaited,
            Ahead::There(Ok(piece)) if !piece.is_empty() => piece,
            Ahead::There(Ok(_)) | Ahead::End => {
                self.finish(Ok(self.delivered.get()));
                return;
            }
            Ahead::There(Err(error)) => {
                self.finish(Err(error));
                return;
            }
        };
        let (Some(inner), Some(mut hook)) = (handle.inner(), self.hook.take()) else { return };
        // Fewer bytes than asked for are the last ones.
        let may_have_more = piece.len() == self.wanted();
        self.next.set(self.next.get() + piece.len() as u64);
        self.delivered.set(self.delivered.get() + piece.len() as u64);
        if may_have_more && self.wanted() > 0 {
            self.fetch();
        }
        self.is_held.set(true);
        let answer = inner.contain("a hook of a file", || hook(handle, Bytes::from(piece)));
        if self.resolver.borrow().is_some() {
            *self.hook.borrow_mut() = Some(hook);
        } else {
            inner.discard(hook);
        }
        let reading = Rc::clone(self);
        match answer.map(|answer| answer.when_done(move |handle, outcome| reading.hook_done(handle, outcome)))
        {
            Some(Some(Completed)) => self.hook_done(handle, Ok(())),
            Some(None) => {}
            None => self.failed(io::ErrorKind::Other, "a hook panicked".into()),
        }
    }

    fn hook_done(self: &Rc<Self>, handle: &Handle, outcome: Result<(), Box<dyn Error>>) {
        self.is_held.set(false);
        match outcome {
            Ok(()) => self.deliver(handle),
            Err(error) => self.failed(io::ErrorKind::Other, error.to_string().into()),
        }
    }

    fn failed(&self, kind: io::ErrorKind, cause: Box<dyn Error + Send + Sync>) {
        let what = Doing::new("hand on", &self.file.shared.name);
        self.finish(Err(what.failed(kind, cause)));
    }
}

impl<R> Reading<R> {
    /// Ends it. False when it had ended.
    fn finish(&self, outcome: io::Result<u64>) -> bool {
        let Some(resolver) = self.resolver.take() else { return false };
        if let Some(reader) = self.reader.take() {
            reader.cancel();
        }
        let hook = self.hook.take();
        if let Some(inner) = self.file.shared.handle.inner() {
            inner.discard(hook);
        }
        resolver.resolve(outcome)
    }
}
