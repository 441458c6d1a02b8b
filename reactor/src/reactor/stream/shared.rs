//! What the handles of a stream and its protocol share: the bytes that nobody has read yet, how each
//! direction ended, who waits.
//!
//! Input is counted wherever it is, in the buffer here or lent to a reader, and reading is paused while there
//! is too much. Output is not here at all: it goes into the outbox of the connection, whose marks say whether
//! a writer waits.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::waiters::Waiters;
use crate::core::intake::Intake;
use crate::core::pool::Pool;
use crate::net::connection::{End, Room};
use crate::net::reason::Reason;
use crate::reactor::task::budget;
use crate::reactor::transport::{AT_ONCE_FROM, Transport};
#[cfg(feature = "tls")]
use crate::tls::TlsError;

/// Reading pauses when so many bytes wait for a reader, and goes on when fewer than half of them do.
const INPUT_LIMIT: usize = 64 * 1024;
/// What a writer below the high mark may write at least, so that the last bytes below it do not go one by
/// one.
const LEAST_ROOM: usize = 4 * 1024;

/// How input ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum InputEnd {
    /// It did not.
    Open,
    /// The peer has finished.
    Peer,
    /// The reactor is stopping.
    Stopping,
}

/// See the module.
pub(super) struct Shared {
    /// Set before anybody holds a stream.
    transport: OnceCell<Transport>,
    pub(super) input: RefCell<Intake>,
    /// Bytes that a reader holds and has not consumed.
    pub(super) lent: Cell<usize>,
    /// Whether reading is paused because of them.
    is_paused: Cell<bool>,
    /// Whether what was there when TLS began has ended the connection.
    was_injected: Cell<bool>,
    /// How many bytes a reader waits for at once, when that is more than the limit.
    wanted: Cell<usize>,
    /// How often some of the input was taken.
    pub(super) takes: Cell<usize>,
    input_end: Cell<InputEnd>,
    loss: RefCell<Option<Reason>>,
    /// Whether there is a loss.
    is_lost: Cell<bool>,
    pub(super) readers: Waiters,
    pub(super) writers: Waiters,
    pub(super) flushers: Waiters,
    pub(super) closers: Waiters,
    /// Whether the connection will say when all is flushed.
    awaits_flush: Cell<bool>,
    pub(super) has_reader: Cell<bool>,
    pub(super) has_writer: Cell<bool>,
    /// Whether input goes on when the reactor stops.
    pub(super) outlasts_stop: Cell<bool>,
}

impl Shared {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            transport: OnceCell::new(),
            input: RefCell::default(),
            lent: Cell::new(0),
            is_paused: Cell::new(false),
            was_injected: Cell::new(false),
            wanted: Cell::new(0),
            takes: Cell::new(0),
            input_end: Cell::new(InputEnd::Open),
            loss: RefCell::new(None),
            is_lost: Cell::new(false),
            readers: Waiters::default(),
            writers: Waiters::default(),
            flushers: Waiters::default(),
            closers: Waiters::default(),
            awaits_flush: Cell::new(false),
            has_reader: Cell::new(true),
            has_writer: Cell::new(true),
            outlasts_stop: Cell::new(false),
        })
    }

    /// The connection is known; the first one counts.
    pub(super) fn attach(&self, transport: &Transport) {
        self.transport.get_or_init(|| transport.clone());
    }

    pub(super) fn known_transport(&self) -> Option<&Transport> {
        self.transport.get()
    }

    #[inline]
    pub(super) fn transport(&self) -> &Transport {
        self.transport.get().expect("a stream is handed out with its connection")
    }

    fn pool(&self) -> &Pool {
        self.transport().pool()
    }

    pub(super) fn reason(&self) -> Option<Reason> {
        self.loss.borrow().clone()
    }

    pub(super) fn input_end(&self) -> InputEnd {
        self.input_end.get()
    }

    /// Waits its turn: a task that never has to wait for its stream does not keep the loop from others.
    #[inline]
    fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<()> {
        budget::poll_turn(cx)
    }

    // What the protocol hears.

    /// Bytes have come.
    #[inline]
    pub(super) fn received(&self, transport: &Transport, data: &[u8]) {
        if !self.has_reader.get() || self.input_end.get() != InputEnd::Open {
            return;
        }
        let waiting = {
            let mut input = self.input.borrow_mut();
            input.append(data, transport.pool());
            input.len() + self.lent.get()
        };
        if waiting >= INPUT_LIMIT && waiting >= self.wanted.get() {
            self.is_paused.set(true);
            transport.pause_reading();
        }
        self.readers.wake();
    }

    /// Drops what nobody has read; whether there was something. What is lent to a reader is dropped when it
    /// is given back.
    #[cfg(feature = "tls")]
    pub(super) fn drop_injected(&self) -> bool {
        let was_injected = self.input.borrow().len() + self.lent.get() > 0;
        self.input.borrow_mut().clear(self.pool());
        self.was_injected.set(was_injected);
        was_injected
    }

    /// No more input will come, or be looked at.
    pub(super) fn end_input(&self, end: InputEnd) {
        if self.input_end.get() == InputEnd::Open {
            self.input_end.set(end);
            self.readers.wake();
        }
    }

    /// The connection is over, for this stream at least.
    pub(super) fn lose(&self, reason: &Reason) {
        if self.is_lost.replace(true) {
            return;
        }
        *self.loss.borrow_mut() = Some(reason.clone());
        for waiters in [&self.readers, &self.writers, &self.flushers, &self.closers] {
            waiters.wake();
        }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.get()
    }

    // Reading.

    /// Waits until `enough`, which is shown what is there and says how much of it is taken, is satisfied, or
    /// no more comes: then it is `None`. What `lent` holds comes first.
    ///
    /// `wanted` is how many bytes may have to be there for that.
    #[inline]
    pub(super) fn poll_input<R>(
        &self,
        cx: &mut Context<'_>,
        wanted: usize,
        lent: &RefCell<Intake>,
        enough: impl FnOnce(&mut Intake, &Pool) -> Option<R>,
    ) -> Poll<Option<R>> {
        if self.lent.get() > 0 {
            self.take_back(lent);
        }
        if !self.input.borrow().is_empty() {
            ready!(self.poll_turn(cx));
        }
        if let Some(result) = self.try_input(enough) {
            return Poll::Ready(Some(result));
        }
        if self.is_at_end() {
            return Poll::Ready(None);
        }
        if wanted > 0 {
            self.wanted.set(wanted);
            self.resume_below(wanted);
        }
        self.readers.register(cx.waker());
        Poll::Pending
    }

    #[inline]
    fn try_input<R>(&self, enough: impl FnOnce(&mut Intake, &Pool) -> Option<R>) -> Option<R> {
        let result = {
            let mut input = self.input.borrow_mut();
            if input.is_empty() {
                return None;
            }
            enough(&mut input, self.pool())
        };
        if result.is_some() {
            self.wanted.set(0);
            self.takes.set(self.takes.get().wrapping_add(1));
            self.consumed();
        }
        result
    }

    /// Lends everything that is there to a reader, once there is something; false: nothing will come.
    pub(super) fn poll_lend(&self, cx: &mut Context<'_>, lent: &mut Intake) -> Poll<bool> {
        if !self.input.borrow().is_empty() {
            ready!(self.poll_turn(cx));
            let mut input = self.input.borrow_mut();
            self.lent.set(input.len());
            *lent = std::mem::take(&mut *input);
            return Poll::Ready(true);
        }
        if self.is_at_end() {
            return Poll::Ready(false);
        }
        self.readers.register(cx.waker());
        Poll::Pending
    }

    /// A reader is done with some of what was lent to it.
    pub(super) fn consume_lent(&self, lent: &mut Intake, count: usize) {
        lent.consume(count, self.pool());
        self.lent.set(lent.len());
        self.consumed();
    }

    /// Takes back what was lent.
    #[cold]
    pub(super) fn take_back(&self, lent: &RefCell<Intake>) {
        let mut lent = lent.take();
        self.lent.set(0);
        if self.was_injected.get() {
            lent.clear(self.pool());
        }
        self.input.borrow_mut().prepend(lent, self.pool());
    }

    /// Fewer bytes wait: more may come.
    #[inline]
    fn consumed(&self) {
        if self.is_paused.get() {
            self.resume_below(INPUT_LIMIT / 2);
        }
    }

    #[cold]
    fn resume_below(&self, limit: usize) {
        let waiting = self.input.borrow().len() + self.lent.get();
        if waiting < limit && self.is_paused.get() && !self.is_lost() {
            self.is_paused.set(false);
            self.transport().resume_reading();
        }
    }

    /// Whether nothing will come behind what is there.
    fn is_at_end(&self) -> bool {
        self.input_end.get() != InputEnd::Open || self.is_lost()
    }

    /// How input ended: in good order, or why not.
    pub(super) fn input_outcome(&self) -> io::Result<()> {
        if self.input_end.get() != InputEnd::Open {
            return Ok(());
        }
        match &*self.loss.borrow() {
            Some(Reason::Closed) | None => Ok(()),
            Some(reason) => Err(error_of(reason)),
        }
    }

    // Writing.

    #[inline]
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_turn(cx));
        if !self.is_lost() && self.transport().write_below_mark(data) {
            return Poll::Ready(Ok(data.len()));
        }
        self.poll_write_some(cx, data)
    }

    #[inline(never)]
    fn poll_write_some(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let transport = self.transport();
        let room = ready!(self.poll_room(cx))?;
        if data.len() >= AT_ONCE_FROM {
            let sent = transport.send_at_once(data);
            if sent > 0 {
                return Poll::Ready(Ok(sent));
            }
        }
        let count = data.len().min(room);
        transport.write(&data[..count]);
        Poll::Ready(Ok(count))
    }

    pub(super) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let room = ready!(self.poll_room(cx))?;
        let transport = self.transport();
        let mut left = room;
        for buffer in buffers {
            if buffer.len() >= AT_ONCE_FROM && left > 0 {
                if left < room {
                    // What stands before it goes first.
                    transport.send_now();
                }
                let sent = transport.send_at_once(buffer);
                if sent > 0 {
                    return Poll::Ready(Ok(room - left + sent));
                }
            }
            let count = buffer.len().min(left);
            transport.write(&buffer[..count]);
            left -= count;
        }
        Poll::Ready(Ok(room - left))
    }

    /// Waits until the connection takes output; how much then.
    #[inline]
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self.transport().room() {
            Room::Bytes(count) if !self.is_lost() => {
                ready!(self.poll_turn(cx));
                Poll::Ready(Ok(count.max(LEAST_ROOM)))
            }
            room => self.poll_more_room(cx, room),
        }
    }

    #[cold]
    fn poll_more_room(&self, cx: &mut Context<'_>, room: Room) -> Poll<io::Result<usize>> {
        let room = if room == Room::Full {
            self.transport().send_now();
            self.transport().room()
        } else {
            room
        };
        match room {
            // The connection may go on without this stream.
            _ if self.is_lost() => Poll::Ready(Err(self.output_error())),
            Room::Bytes(count) => Poll::Ready(Ok(count.max(LEAST_ROOM))),
            Room::Ended => Poll::Ready(Err(self.output_error())),
            Room::Paused => {
                self.writers.register(cx.waker());
                Poll::Pending
            }
            // At the end of this pass the protocol is told, or all is sent; which of both, nobody says.
            Room::Full => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    /// Waits until the kernel has taken all that is queued.
    pub(super) fn poll_flush(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_turn(cx));
        if let Some(reason) = self.reason() {
            return Poll::Ready(if reason.is_clean() { Ok(()) } else { Err(error_of(&reason)) });
        }
        let transport = self.transport();
        if !transport.has_unsent_output() {
            return Poll::Ready(Ok(()));
        }
        transport.send_now();
        if !transport.has_unsent_output() && !transport.is_lost() {
            return Poll::Ready(Ok(()));
        }
        self.flushers.register(cx.waker());
        if !self.awaits_flush.replace(true) {
            // The connection keeps this until then, and the stream keeps the connection.
            let shared = Rc::downgrade(self);
            transport.flushed().on_done(move |_, _| {
                if let Some(shared) = shared.upgrade() {
                    shared.awaits_flush.set(false);
                    shared.flushers.wake();
                }
            });
        }
        Poll::Pending
    }

    /// Ends our direction, and waits until the kernel has taken all of it.
    pub(super) fn poll_close(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let transport = self.transport();
        if !self.is_lost() {
            transport.lose_write_connection();
            transport.send_now();
        }
        self.poll_flush(cx)
    }

    /// Why output is not taken.
    pub(super) fn output_error(&self) -> io::Error {
        let transport = self.transport();
        // The loss may be decided and not reported, or on its way behind input that was not read.
        match self.reason().or_else(|| transport.loss()) {
            Some(reason) => error_of(&reason),
            None if transport.sending_has_failed() => error_of(&Reason::Reset),
            None => io::Error::new(io::ErrorKind::BrokenPipe, "our side of the stream has ended"),
        }
    }

    pub(super) fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<Reason> {
        match self.reason() {
            Some(reason) => Poll::Ready(reason),
            None => {
                self.closers.register(cx.waker());
                Poll::Pending
            }
        }
    }

    // Letting go.

    /// There is no reader any more: what was received, and what will be, is dropped.
    pub(super) fn drop_reader(&self, lent: &mut Intake) {
        self.has_reader.set(false);
        lent.clear(self.pool());
        self.lent.set(0);
        self.input.borrow_mut().clear(self.pool());
        self.let_go();
    }

    /// There is no writer any more.
    pub(super) fn drop_writer(&self) {
        self.has_writer.set(false);
        self.let_go();
    }

    fn let_go(&self) {
        if self.is_lost() {
            return;
        }
        let transport = self.transport();
        if std::thread::panicking() {
            // What unwinds is the task that this stream belongs to.
            transport.end(Reason::Panicked, End::Abrupt);
        } else if !self.has_reader.get() && !self.has_writer.get() {
            transport.lose_connection();
        } else if !self.has_writer.get() {
            transport.lose_write_connection();
        } else {
            // A paused connection would not notice its end.
            self.resume_below(usize::MAX);
        }
    }
}

/// The error that a reader or a writer gets for a connection that ended like this.
pub(super) fn error_of(reason: &Reason) -> io::Error {
    use io::ErrorKind;
    let kind = match reason {
        Reason::Closed => ErrorKind::BrokenPipe,
        Reason::Reset => ErrorKind::ConnectionReset,
        Reason::Aborted | Reason::Shutdown => ErrorKind::ConnectionAborted,
        Reason::TimedOut(_) | Reason::LingerTimeout => ErrorKind::TimedOut,
        Reason::WriteLimit => ErrorKind::QuotaExceeded,
        Reason::Failed(error) => match error.downcast_ref::<io::Error>() {
            Some(error) => error.kind(),
            None => ErrorKind::Other,
        },
        Reason::Panicked => ErrorKind::Other,
        #[cfg(feature = "tls")]
        Reason::Tls(TlsError::Truncated | TlsError::HandshakeEnded) => ErrorKind::UnexpectedEof,
        #[cfg(feature = "tls")]
        Reason::Tls(TlsError::HandshakeTimeout) => ErrorKind::TimedOut,
        #[cfg(feature = "tls")]
        Reason::Tls(_) => ErrorKind::InvalidData,
    };
    // The reason itself stays on its thread.
    io::Error::new(kind, reason.to_string())
}
