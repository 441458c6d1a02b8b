//! The two directions of a stream, for two owners.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_io::{AsyncBufRead, AsyncRead, AsyncWrite};

use super::Stream;
use super::shared::{InputEnd, Shared};
use crate::core::intake::Intake;
use crate::net::reason::Reason;
use crate::reactor::transport::Transport;

/// The reading direction of a [`Stream`] that was [split](Stream::split).
///
/// When it is dropped before the [`WriteHalf`], the rest of the input is thrown away as it comes; when it is
/// dropped last, the connection ends as that of a dropped stream does.
pub struct ReadHalf {
    shared: Rc<Shared>,
    /// What `poll_fill_buf` has lent.
    lent: RefCell<Intake>,
}

/// The writing direction of a [`Stream`] that was [split](Stream::split).
///
/// When it is dropped before the [`ReadHalf`], our side of the stream ends once what was written is flushed,
/// and the peer reads an end; when it is dropped last, the connection ends as that of a dropped stream does.
pub struct WriteHalf {
    shared: Rc<Shared>,
}

fn unexpected_end(shared: &Shared, wanted: usize, came: usize) -> io::Error {
    let cause = match shared.input_end() {
        InputEnd::Stopping => "the reactor is stopping",
        _ => "the stream has ended",
    };
    let text = format!("{cause}: {came} of {wanted} bytes came");
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}

impl ReadHalf {
    pub(super) fn new(shared: &Rc<Shared>) -> Self {
        Self { shared: Rc::clone(shared), lent: RefCell::default() }
    }

    /// As [`Stream::read`].
    ///
    /// # Errors
    ///
    /// As there.
    #[inline]
    pub fn read(&self, buffer: &mut [u8]) -> impl Future<Output = io::Result<usize>> {
        poll_fn(|cx| self.poll_read_ref(cx, buffer))
    }

    #[inline]
    fn poll_read_ref(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let read = self.shared.poll_input(cx, 0, &self.lent, |input, pool| Some(input.read(buffer, pool)));
        Poll::Ready(match ready!(read) {
            Some(count) => Ok(count),
            None => self.shared.input_outcome().map(|()| 0),
        })
    }

    /// As [`Stream::read_exact`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn read_exact(&self, buffer: &mut [u8]) -> io::Result<()> {
        let wanted = buffer.len();
        if wanted == 0 {
            return Ok(());
        }
        let read = poll_fn(|cx| {
            self.shared.poll_input(cx, wanted, &self.lent, |input, pool| {
                (input.len() >= wanted).then(|| input.read(buffer, pool))
            })
        });
        match read.await {
            Some(_) => Ok(()),
            None => {
                self.shared.input_outcome()?;
                Err(unexpected_end(&self.shared, wanted, self.buffered()))
            }
        }
    }

    /// As [`Stream::read_chunk`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn read_chunk(&self, limit: usize) -> io::Result<Option<Bytes>> {
        let limit = limit.max(1);
        let read = poll_fn(|cx| {
            self.shared.poll_input(cx, 0, &self.lent, |input, pool| Some(input.take(limit, pool)))
        });
        match read.await {
            Some(chunk) => Ok(Some(chunk)),
            None => self.shared.input_outcome().map(|()| None),
        }
    }

    /// As [`Stream::read_until`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn read_until(&self, delimiter: u8, limit: usize) -> io::Result<Option<Bytes>> {
        // Bytes that were looked at before do not have to be looked at again, unless another reader has taken
        // some.
        let (mut seen, mut takes) = (0, self.shared.takes.get());
        let read = poll_fn(|cx| {
            self.shared.poll_input(cx, limit.saturating_add(1), &self.lent, |input, pool| {
                let bytes = input.as_slice();
                if std::mem::replace(&mut takes, self.shared.takes.get()) != takes {
                    seen = 0;
                }
                let new = bytes.get(seen..).unwrap_or_default();
                let end = new.iter().position(|byte| *byte == delimiter).map(|at| seen + at + 1);
                seen = bytes.len();
                match end {
                    Some(end) if end <= limit => Some(Ok(input.take(end, pool))),
                    None if bytes.len() < limit => None,
                    _ => {
                        let text = format!("no delimiter within the limit of {limit} bytes");
                        Some(Err(io::Error::new(io::ErrorKind::InvalidData, text)))
                    }
                }
            })
        });
        match read.await {
            Some(line) => line.map(Some),
            None => {
                self.shared.input_outcome()?;
                // What is there is the last, unfinished line.
                let rest = self.take_all();
                Ok((!rest.is_empty()).then_some(rest))
            }
        }
    }

    /// As [`Stream::read_line`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn read_line(&self, limit: usize) -> io::Result<Option<String>> {
        let Some(line) = self.read_until(b'\n', limit).await? else { return Ok(None) };
        let line = line.strip_suffix(b"\n").map_or(&*line, |line| line.strip_suffix(b"\r").unwrap_or(line));
        match std::str::from_utf8(line) {
            Ok(line) => Ok(Some(line.to_owned())),
            Err(error) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, format!("a line is no text: {error}")))
            }
        }
    }

    /// As [`Stream::read_to_end`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn read_to_end(&self, limit: usize) -> io::Result<Bytes> {
        let too_much = poll_fn(|cx| {
            self.shared.poll_input(cx, limit.saturating_add(1), &self.lent, |input, _| {
                (input.len() > limit).then_some(())
            })
        });
        if too_much.await.is_some() {
            let text = format!("more than the limit of {limit} bytes came");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.shared.input_outcome()?;
        if self.shared.input_end() == InputEnd::Stopping {
            let text = "the reactor is stopping: more may have been to come";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        Ok(self.take_all())
    }

    fn take_all(&self) -> Bytes {
        self.shared.input.borrow_mut().take(usize::MAX, self.transport().pool())
    }

    /// As [`Stream::buffered`].
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.shared.input.borrow().len() + self.shared.lent.get()
    }

    /// As [`Stream::transport`].
    #[must_use]
    pub fn transport(&self) -> &Transport {
        self.shared.transport()
    }

    /// As [`Stream::reason`].
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.shared.reason()
    }

    /// As [`Stream::closed`].
    pub async fn closed(&self) -> Reason {
        poll_fn(|cx| self.shared.poll_closed(cx)).await
    }

    /// The stream again.
    ///
    /// # Errors
    ///
    /// The halves are not those of one stream; they are given back.
    pub fn unite(self, writer: WriteHalf) -> Result<Stream, (Self, WriteHalf)> {
        if Rc::ptr_eq(&self.shared, &writer.shared) {
            Ok(Stream { reader: self, writer })
        } else {
            Err((self, writer))
        }
    }

    pub(super) fn shared(&self) -> &Rc<Shared> {
        &self.shared
    }

    /// What was lent is in its place again.
    pub(super) fn take_back(&self) {
        if self.shared.lent.get() > 0 {
            self.shared.take_back(&self.lent);
        }
    }
}

impl WriteHalf {
    pub(super) fn new(shared: &Rc<Shared>) -> Self {
        Self { shared: Rc::clone(shared) }
    }

    /// As [`Stream::write`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn write(&self, data: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| self.shared.poll_write(cx, data)).await
    }

    /// As [`Stream::write_all`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn write_all(&self, data: &[u8]) -> impl Future<Output = io::Result<()>> {
        let mut left = data;
        poll_fn(move |cx| {
            while !left.is_empty() {
                let count = ready!(self.shared.poll_write(cx, left))?;
                left = &left[count..];
            }
            Poll::Ready(Ok(()))
        })
    }

    /// As [`Stream::write_bytes`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn write_bytes(&self, bytes: impl Into<Bytes>) -> io::Result<()> {
        let bytes = bytes.into();
        poll_fn(|cx| self.shared.poll_room(cx)).await?;
        self.transport().write_bytes(bytes);
        Ok(())
    }

    /// As [`Stream::flush`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn flush(&self) -> io::Result<()> {
        poll_fn(|cx| self.shared.poll_flush(cx)).await
    }

    /// As [`Stream::shutdown`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn shutdown(&self) -> io::Result<()> {
        poll_fn(|cx| self.shared.poll_close(cx)).await
    }

    /// As [`Stream::transport`].
    #[must_use]
    pub fn transport(&self) -> &Transport {
        self.shared.transport()
    }

    /// As [`Stream::reason`].
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.shared.reason()
    }

    /// As [`Stream::closed`].
    pub async fn closed(&self) -> Reason {
        poll_fn(|cx| self.shared.poll_closed(cx)).await
    }
}

impl Drop for ReadHalf {
    fn drop(&mut self) {
        self.shared.drop_reader(self.lent.get_mut());
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        self.shared.drop_writer();
    }
}

impl fmt::Debug for ReadHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ReadHalf");
        debug.field("peer", &self.transport().peer_addr()).field("buffered", &self.buffered()).finish()
    }
}

impl fmt::Debug for WriteHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = self.transport();
        let mut debug = f.debug_struct("WriteHalf");
        debug.field("peer", &transport.peer_addr()).field("queued", &transport.queued()).finish()
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_read_ref(cx, buffer)
    }
}

impl AsyncRead for &ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_read_ref(cx, buffer)
    }
}

impl AsyncBufRead for ReadHalf {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let Self { shared, lent } = self.get_mut();
        let lent = lent.get_mut();
        if lent.is_empty() && !ready!(shared.poll_lend(cx, lent)) {
            return Poll::Ready(shared.input_outcome().map(|()| &[][..]));
        }
        Poll::Ready(Ok(lent.as_slice()))
    }

    fn consume(self: Pin<&mut Self>, count: usize) {
        let Self { shared, lent } = self.get_mut();
        shared.consume_lent(lent.get_mut(), count);
    }
}

/// Implements `AsyncWrite` by what is behind `$shared`.
macro_rules! async_write {
    ($writer:ty, $($shared:ident).+) => {
        impl AsyncWrite for $writer {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
                self.$($shared).+.poll_write(cx, data)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffers: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                self.$($shared).+.poll_write_vectored(cx, buffers)
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.$($shared).+.poll_flush(cx)
            }

            fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.$($shared).+.poll_close(cx)
            }
        }
    };
}

async_write!(WriteHalf, shared);
async_write!(&WriteHalf, shared);
async_write!(Stream, writer.shared);
async_write!(&Stream, writer.shared);
