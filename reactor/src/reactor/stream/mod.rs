//! [`Stream`]: a connection for a task, which reads and writes it where a protocol would be called.
//!
//! Behind it is a [protocol](StreamProtocol) like any other: it keeps what comes in a buffer, pauses reading
//! while nobody takes it, and wakes whoever waits. What is written goes straight into the connection's
//! outbox. So everything that holds for connections holds for streams: limits, time-outs, the ways to end,
//! the order of bytes.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_io::{AsyncBufRead, AsyncRead};

use crate::core::address::Address;
use crate::net::reason::Reason;
use crate::protocol::Protocol;
use crate::reactor::handle::Handle;
use crate::reactor::transport::Transport;

mod halves;
mod protocol;
mod serve;
mod shared;
mod waiters;

pub use halves::{ReadHalf, WriteHalf};
pub use protocol::StreamProtocol;
pub use serve::{ServeOptions, Served};

use shared::Shared;

/// A connection to read from and write to in a task.
///
/// It comes from [`Handle::serve`](crate::Handle::serve),
/// [`Handle::connect_stream`](crate::Handle::connect_stream), or, when a protocol has done its part, from
/// [`Stream::take_over`]. It has its own methods for what tasks do, and implements the traits of the crate
/// `futures-io` for the crates written for those. All take `&self`, so that one future can read while another
/// writes; for two tasks there is [`split`](Self::split).
///
/// ```no_run
/// use twistor::{Reactor, Stream};
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// reactor.serve("tcp:8000", async |stream: Stream| {
///     while let Some(line) = stream.read_line(1024).await? {
///         stream.write_all(line.to_uppercase().as_bytes()).await?;
///         stream.write_all(b"\r\n").await?;
///     }
///     Ok::<_, std::io::Error>(())
/// })?;
/// reactor.run()
/// # }
/// ```
///
/// # Back-pressure
///
/// While 64 KiB wait to be read, the connection is not read, and its peer has to wait. While the output
/// stands above the [high mark](Transport::set_watermarks), writing waits until the peer has taken it down to
/// the low mark. What is written goes out at the end of the pass, or by [`flush`](Self::flush).
///
/// # Ends
///
/// When the peer has finished, reading returns what came before, then says that there is no more; writing
/// goes on. When the connection is lost, reading still returns what came before. Then an orderly end looks
/// the same, and any other is an error whose kind tells the cause: `ConnectionReset`, `ConnectionAborted`
/// (here, or the reactor stopped), `TimedOut` (a [time-out](Transport::set_timeouts) of the connection),
/// `QuotaExceeded` (the write limit), `Other`. Writing to a lost connection is an error in any case.
/// [`reason`](Self::reason) has the cause itself.
///
/// When the reactor stops, input ends as if the peer had finished, so that a task which serves until the end
/// can end. What it writes before that is still sent, up to the drain time-out. A task with work to finish
/// says [`outlast_stop`](Self::outlast_stop).
///
/// Dropping a stream [loses the connection](Transport::lose_connection) in good order: what was written is
/// flushed, then our side is ended. If the drop is part of a panic, the connection is aborted with
/// [`Reason::Panicked`].
///
/// # Cancellation
///
/// Dropping a future of a stream that is not finished cancels it, and loses no input: each read either takes
/// all that it returns or leaves everything where it was. What a dropped write had queued is sent: that is
/// nothing for [`write`](Self::write) and [`write_bytes`](Self::write_bytes), and may be a part for
/// [`write_all`](Self::write_all).
pub struct Stream {
    // In this order they are dropped.
    reader: ReadHalf,
    writer: WriteHalf,
}

impl Stream {
    fn of(shared: &Rc<Shared>) -> Self {
        Self { reader: ReadHalf::new(shared), writer: WriteHalf::new(shared) }
    }

    /// Makes a stream of a connection that has a protocol, which is dropped when its current hook returns,
    /// or, called from elsewhere, before its next hook. Bytes that it [gave back](Transport::unread) are the
    /// first that the stream reads.
    ///
    /// ```
    /// use twistor::{Protocol, Stream, Transport};
    ///
    /// /// Reads one byte that says what follows.
    /// struct Choose;
    ///
    /// impl Protocol for Choose {
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
    ///         transport.unread(data[1..].to_vec());
    ///         let stream = Stream::take_over(transport);
    ///         transport.reactor().spawn(async move {
    ///             let text = stream.read_to_end(1 << 20).await?;
    ///             stream.write_all(&text).await
    ///         });
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn take_over(transport: &Transport) -> Self {
        let shared = Shared::new();
        shared.attach(transport);
        transport.switch_protocol(StreamProtocol::of(&shared));
        Self::of(&shared)
    }

    /// Hands the connection over to a protocol: what was received and not read is the first that it hears.
    ///
    /// ```
    /// # use twistor::{Protocol, Stream, Transport};
    /// # struct Talk;
    /// # impl Protocol for Talk {
    /// #     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    /// # }
    /// async fn greet(stream: Stream) -> std::io::Result<()> {
    ///     let mut version = [0];
    ///     stream.read_exact(&mut version).await?;
    ///     stream.switch_protocol(Talk);
    ///     Ok(())
    /// }
    /// ```
    pub fn switch_protocol(self, protocol: impl Protocol) {
        let transport = self.transport().clone();
        self.reader.take_back();
        let shared = self.reader.shared();
        let rest = shared.input.borrow_mut().take(usize::MAX, transport.pool());
        transport.unread(rest);
        transport.tell_end_again();
        transport.resume_reading();
        transport.switch_protocol(protocol);
        // Dropping the stream does not touch the connection any more.
        shared.lose(&Reason::failed("another protocol has taken the connection over"));
    }

    /// Splits the stream into its directions, for two owners.
    ///
    /// ```
    /// # use twistor::{Stream, task};
    /// async fn serve(stream: Stream) -> std::io::Result<()> {
    ///     let (reader, writer) = stream.split();
    ///     task::spawn(async move { writer.write_all(b"tick\r\n").await });
    ///     while let Some(line) = reader.read_line(1024).await? {
    ///         println!("{line}");
    ///     }
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        (self.reader, self.writer)
    }

    // Reading.

    /// Waits for input, and moves as much of it as there is and fits into `buffer`. Returns how many bytes
    /// that were; 0 at the end, or for an empty buffer.
    ///
    /// ```
    /// # use twistor::Stream;
    /// async fn count(stream: Stream) -> std::io::Result<usize> {
    ///     let (mut total, mut buffer) = (0, [0; 4096]);
    ///     loop {
    ///         match stream.read(&mut buffer).await? {
    ///             0 => return Ok(total),
    ///             count => total += count,
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// The connection broke; everything that came before was read.
    #[inline]
    pub fn read(&self, buffer: &mut [u8]) -> impl Future<Output = io::Result<usize>> {
        self.reader.read(buffer)
    }

    /// Waits until the whole `buffer` can be filled, and fills it. Until then nothing is taken: while it
    /// waits, the stream keeps as much as that, also above the 64 KiB of other reads.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof`: the stream ended before; what came is still there to be read. Else as
    /// [`read`](Self::read).
    pub async fn read_exact(&self, buffer: &mut [u8]) -> io::Result<()> {
        self.reader.read_exact(buffer).await
    }

    /// Waits for input and takes at most `limit` bytes of it; `None` at the end. Where all that is there is
    /// taken, it is not copied.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub async fn read_chunk(&self, limit: usize) -> io::Result<Option<Bytes>> {
        self.reader.read_chunk(limit).await
    }

    /// Waits for a `delimiter` and takes everything up to and with it; at the end of the stream, what there
    /// is without one, then `None`.
    ///
    /// # Errors
    ///
    /// `InvalidData`: there is none among the first `limit` bytes; nothing was taken. Else as
    /// [`read`](Self::read).
    pub async fn read_until(&self, delimiter: u8, limit: usize) -> io::Result<Option<Bytes>> {
        self.reader.read_until(delimiter, limit).await
    }

    /// Waits for a line of at most `limit` bytes, with its end (`\n` or `\r\n`), and takes it; returns it
    /// without. At the end of the stream, what there is without an end, then `None`.
    ///
    /// # Errors
    ///
    /// `InvalidData`: the line is longer, and nothing was taken; or it is not UTF-8. Else as
    /// [`read`](Self::read).
    pub async fn read_line(&self, limit: usize) -> io::Result<Option<String>> {
        self.reader.read_line(limit).await
    }

    /// Waits for the end of the stream, and takes everything before it.
    ///
    /// # Errors
    ///
    /// `InvalidData`: more than `limit` bytes came, and nothing was taken. `UnexpectedEof`: the reactor is
    /// stopping, and nobody knows whether that was all. Else as [`read`](Self::read).
    pub async fn read_to_end(&self, limit: usize) -> io::Result<Bytes> {
        self.reader.read_to_end(limit).await
    }

    /// How many bytes have come and were not read.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.reader.buffered()
    }

    // Writing.

    /// Waits until the connection takes output, and queues a copy of as much of `data` as it takes; returns
    /// how many bytes that were.
    ///
    /// # Errors
    ///
    /// The connection is lost, or our side of it was ended.
    pub async fn write(&self, data: &[u8]) -> io::Result<usize> {
        self.writer.write(data).await
    }

    /// Queues a copy of all of `data`, as the connection takes it.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write); a part may have been sent.
    pub fn write_all(&self, data: &[u8]) -> impl Future<Output = io::Result<()>> {
        self.writer.write_all(data)
    }

    /// Waits until the connection takes output, and queues all of `bytes`: by reference when they are many.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub async fn write_bytes(&self, bytes: impl Into<Bytes>) -> io::Result<()> {
        self.writer.write_bytes(bytes).await
    }

    /// Waits until the kernel has taken all that was written.
    ///
    /// # Errors
    ///
    /// The connection broke before.
    pub async fn flush(&self) -> io::Result<()> {
        self.writer.flush().await
    }

    /// Ends our side of the stream, and waits until the kernel has taken all that was written before. The
    /// peer reads that, and then the end. Reading goes on; writing is an error from now on.
    ///
    /// # Errors
    ///
    /// The connection broke before.
    pub async fn shutdown(&self) -> io::Result<()> {
        self.writer.shutdown().await
    }

    // Ends.

    /// Waits until the connection is lost, and says why. Input that nobody reads keeps the end of the peer
    /// from being seen.
    pub async fn closed(&self) -> Reason {
        self.writer.closed().await
    }

    /// Why the connection was lost, once it is.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.writer.reason()
    }

    /// Ends the connection at once, so that the peer sees a reset. What was written and not sent is dropped.
    pub fn abort(self) {
        self.transport().abort_connection();
    }

    /// Has input go on when the reactor stops: the task ends the stream by itself, before the drain time-out.
    pub fn outlast_stop(&self) {
        self.reader.shared().outlasts_stop.set(true);
    }

    // Questions.

    /// The connection, for whatever it has and a stream has not: time-outs, marks, options, counts, TLS
    /// (`stream.transport().start_tls_server(&tls).await`).
    #[must_use]
    pub fn transport(&self) -> &Transport {
        self.writer.transport()
    }

    /// The reactor.
    ///
    /// ```
    /// use std::io;
    /// use std::time::Duration;
    /// use twistor::{Reactor, Stream};
    ///
    /// # fn main() -> io::Result<()> {
    /// let reactor = Reactor::new()?;
    /// reactor.serve("tcp:0:interface=127.0.0.1", async |stream: Stream| {
    ///     stream.write_all(b"one moment\r\n").await?;
    ///     stream.reactor().sleep(Duration::from_secs(1)).await;
    ///     stream.write_all(b"here it is\r\n").await
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn reactor(&self) -> &Handle {
        self.transport().reactor()
    }

    /// Where the peer is.
    #[must_use]
    pub fn peer_addr(&self) -> Address {
        self.transport().peer_addr()
    }

    /// Where we are.
    #[must_use]
    pub fn local_addr(&self) -> Address {
        self.transport().local_addr()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("transport", self.transport())
            .field("buffered", &self.buffered())
            .finish_non_exhaustive()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.reader).poll_read(cx, buffer)
    }
}

impl AsyncBufRead for Stream {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        Pin::new(&mut self.get_mut().reader).poll_fill_buf(cx)
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        Pin::new(&mut self.reader).consume(count);
    }
}

impl AsyncRead for &Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut &self.reader).poll_read(cx, buffer)
    }
}
