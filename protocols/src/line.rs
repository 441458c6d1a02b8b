//! Lines: [`LineCodec`] finds them, [`LineReceiver`] hears of them.
//!
//! A connection that speaks in lines can switch to *raw mode*, in which it gets bytes as they come, and back:
//! for protocols that announce a body of so many bytes in a line.

use std::borrow::Cow;
use std::convert::Infallible;
use std::error::Error;
use std::fmt;

use memchr::memchr;
use twistor::bytes::Bytes;
use twistor::{Eof, OnTimeout, Reason, Timeout};

use crate::codec::{Codec, Decoded, Output};
use crate::framed::{FrameHandler, Framed, FramedProtocol};

/// The most bytes of a line, unless [`LineCodec::max_length`] says otherwise.
const MAX_LENGTH: usize = 16 * 1024;

/// The protocol of a connection whose lines go to a [`LineReceiver`].
///
/// `LineProtocol::new(receiver)` has the default settings; `LineProtocol::with_codec(codec, receiver)` those
/// of a [`LineCodec`].
pub type LineProtocol<R> = FramedProtocol<LineCodec, R>;

/// A connection that speaks in lines, as the hooks of a [`LineReceiver`] get it.
pub type Lines = Framed<LineCodec>;

/// What one connection does with lines.
///
/// Use it with a [`LineProtocol`]. The hooks are those of [`twistor::Protocol`], but that lines come in place
/// of chunks. Here is one that reads a number, then as many bytes:
///
/// ```
/// use twistor_protocols::{LineReceiver, Lines};
///
/// #[derive(Default)]
/// struct Upload {
///     missing: usize,
/// }
///
/// impl LineReceiver for Upload {
///     fn line_received(&mut self, io: &Lines, line: &[u8]) {
///         let length = std::str::from_utf8(line).ok().and_then(|text| text.parse().ok());
///         self.missing = io.check(length.ok_or("a length is expected")).unwrap_or(0);
///         io.set_raw_mode();
///     }
///
///     fn raw_data_received(&mut self, io: &Lines, data: &[u8]) {
///         let (body, rest) = data.split_at(self.missing.min(data.len()));
///         self.missing -= body.len();
///         if self.missing == 0 {
///             io.send_line("thanks");
///             io.set_line_mode(rest);
///         }
///     }
/// }
/// ```
pub trait LineReceiver: 'static {
    /// The connection is there.
    fn connection_made(&mut self, io: &Lines) {
        let _ = io;
    }

    /// A line arrived, here without its delimiter.
    fn line_received(&mut self, io: &Lines, line: &[u8]);

    /// Bytes arrived in raw mode: at least one, cut at no place that means anything.
    fn raw_data_received(&mut self, io: &Lines, data: &[u8]) {
        let _ = (io, data);
    }

    /// A line is longer than the limit; `start` is as much of it as the limit allows. The default fails the
    /// connection with [`LineTooLong`]. Where the connection goes on, the rest of the line is skipped.
    fn line_length_exceeded(&mut self, io: &Lines, start: &[u8]) {
        io.fail(LineTooLong { limit: start.len() });
    }

    /// See [`Protocol::tls_started`](twistor::Protocol::tls_started).
    #[cfg(feature = "tls")]
    fn tls_started(&mut self, io: &Lines, tls: &twistor::tls::TlsInfo) {
        let _ = (io, tls);
    }

    /// The peer has finished sending; `rest` is the line that it did not complete, usually empty.
    fn eof_received(&mut self, io: &Lines, rest: &[u8]) -> Eof {
        let _ = (io, rest);
        Eof::Close
    }

    /// See [`Protocol::pause_writing`](twistor::Protocol::pause_writing).
    fn pause_writing(&mut self, io: &Lines) {
        let _ = io;
    }

    /// See [`Protocol::resume_writing`](twistor::Protocol::resume_writing).
    fn resume_writing(&mut self, io: &Lines) {
        let _ = io;
    }

    /// See [`Protocol::timed_out`](twistor::Protocol::timed_out).
    fn timed_out(&mut self, io: &Lines, which: Timeout) -> OnTimeout {
        let _ = (io, which);
        OnTimeout::Abort
    }

    /// See [`Protocol::shutting_down`](twistor::Protocol::shutting_down).
    fn shutting_down(&mut self, io: &Lines) {
        io.lose_connection();
    }

    /// The connection is over.
    fn connection_lost(&mut self, io: &Lines, reason: &Reason) {
        let _ = (io, reason);
    }
}

impl<R: LineReceiver> FrameHandler<LineCodec> for R {
    fn made(&mut self, io: &Lines) {
        self.connection_made(io);
    }

    fn frame(&mut self, io: &Lines, frame: LineFrame<'_>) {
        match frame {
            LineFrame::Line(line) => self.line_received(io, line),
            LineFrame::TooLong(start) => self.line_length_exceeded(io, start),
            LineFrame::Raw(data) => self.raw_data_received(io, data),
        }
    }

    #[cfg(feature = "tls")]
    fn tls_started(&mut self, io: &Lines, tls: &twistor::tls::TlsInfo) {
        LineReceiver::tls_started(self, io, tls);
    }

    fn eof(&mut self, io: &Lines, rest: &[u8]) -> Eof {
        // The end of a line that is skipped is no line of its own.
        let skipping = io.with_codec(|codec| codec.mode == Mode::Skip);
        self.eof_received(io, if skipping { &[] } else { rest })
    }

    fn pause_writing(&mut self, io: &Lines) {
        LineReceiver::pause_writing(self, io);
    }

    fn resume_writing(&mut self, io: &Lines) {
        LineReceiver::resume_writing(self, io);
    }

    fn timed_out(&mut self, io: &Lines, which: Timeout) -> OnTimeout {
        LineReceiver::timed_out(self, io, which)
    }

    fn shutting_down(&mut self, io: &Lines) {
        LineReceiver::shutting_down(self, io);
    }

    fn lost(&mut self, io: &Lines, reason: &Reason) {
        self.connection_lost(io, reason);
    }
}

impl Lines {
    /// Queues a line: `line` and the delimiter. A delimiter inside it makes two lines of it.
    pub fn send_line(&self, line: impl AsRef<[u8]>) {
        let Ok(()) = self.send(line.as_ref());
    }

    /// From here on bytes are delivered as they come, to [`LineReceiver::raw_data_received`].
    pub fn set_raw_mode(&self) {
        self.with_codec(|codec| codec.mode = Mode::Raw);
        self.decode_again();
    }

    /// Back to lines. `rest` is the end of the raw data that belongs to them.
    pub fn set_line_mode(&self, rest: impl AsRef<[u8]>) {
        self.with_codec(|codec| codec.mode = Mode::Line);
        let rest = rest.as_ref();
        if !rest.is_empty() {
            self.unread(Bytes::copy_from_slice(rest));
        }
    }
}

/// What comes in on a connection that speaks in lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LineFrame<'a> {
    /// A line, without its delimiter.
    Line(&'a [u8]),
    /// The beginning of a line that is longer than the limit: as many bytes as the limit. The rest is
    /// skipped.
    TooLong(&'a [u8]),
    /// Bytes in raw mode.
    Raw(&'a [u8]),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// The input begins with a line.
    Line,
    /// The input begins in a line that was too long.
    Skip,
    Raw,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Delimiter {
    /// `"\r\n"`, but a bare `"\n"` will do.
    Newline,
    Exactly(Cow<'static, [u8]>),
}

impl Delimiter {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Newline => b"\r\n",
            Self::Exactly(bytes) => bytes,
        }
    }

    /// The first delimiter in `input` that does not end within the first `seen` bytes: where it begins and
    /// ends.
    fn find(&self, input: &[u8], mut seen: usize) -> Option<(usize, usize)> {
        let bytes = self.bytes();
        let last = *bytes.last()?;
        // The last byte is searched for, at memory speed; in "\r\n" it is the one that means something.
        while let Some(distance) = memchr(last, &input[seen..]) {
            let end = seen + distance + 1;
            if input[..end].ends_with(bytes) {
                return Some((end - bytes.len(), end));
            }
            if *self == Self::Newline {
                return Some((end - 1, end));
            }
            seen = end;
        }
        None
    }
}

/// Lines on the wire: content, then a delimiter.
///
/// At first the delimiter is `"\r\n"` for what is sent, and a bare `"\n"` is accepted for what is received:
/// it is what people type into `nc`. A line has at most 16 KiB.
///
/// ```
/// use twistor_protocols::{Codec, Decoded, LineCodec, LineFrame};
///
/// let mut codec = LineCodec::new();
/// assert_eq!(codec.decode(b"one\r\ntwo", 0)?, Decoded::Frame(LineFrame::Line(b"one"), 5));
/// assert_eq!(codec.decode(b"two", 0)?, Decoded::Incomplete);
/// assert_eq!(codec.decode(b"two\n", 3)?, Decoded::Frame(LineFrame::Line(b"two"), 4));
/// # Ok::<(), std::convert::Infallible>(())
/// ```
#[derive(Clone, Debug)]
pub struct LineCodec {
    delimiter: Delimiter,
    max_length: usize,
    mode: Mode,
}

impl LineCodec {
    /// Lines that end with `"\r\n"` or `"\n"`, of at most 16 KiB.
    #[must_use]
    pub fn new() -> Self {
        Self { delimiter: Delimiter::Newline, max_length: MAX_LENGTH, mode: Mode::Line }
    }

    /// Lines end with exactly these bytes. With `"\r\n"` a bare `"\n"` is part of a line then.
    ///
    /// # Panics
    ///
    /// The delimiter is empty.
    #[must_use]
    pub fn delimiter(mut self, delimiter: impl Into<Cow<'static, [u8]>>) -> Self {
        let delimiter = delimiter.into();
        assert!(!delimiter.is_empty(), "the delimiter of lines is empty");
        self.delimiter = Delimiter::Exactly(delimiter);
        self
    }

    /// The most bytes that a line may have, its delimiter not counted.
    #[must_use]
    pub fn max_length(mut self, bytes: usize) -> Self {
        self.max_length = bytes;
        self
    }
}

impl Default for LineCodec {
    fn default() -> Self {
        Self::new()
    }
}

impl Codec for LineCodec {
    type Frame<'a> = LineFrame<'a>;
    type Out<'a> = &'a [u8];
    type Error = Infallible;

    fn decode<'a>(&mut self, input: &'a [u8], seen: usize) -> Result<Decoded<LineFrame<'a>>, Infallible> {
        Ok(match self.mode {
            Mode::Line => self.decode_line(input, seen),
            Mode::Skip => self.skip(input, seen),
            Mode::Raw if input.is_empty() => Decoded::Incomplete,
            Mode::Raw => Decoded::Frame(LineFrame::Raw(input), input.len()),
        })
    }

    fn encode(&mut self, line: &[u8], out: &mut dyn Output) -> Result<(), Infallible> {
        out.put(line);
        out.put(self.delimiter.bytes());
        Ok(())
    }

    fn limit(&self) -> usize {
        self.max_length.saturating_add(self.delimiter.bytes().len())
    }
}

impl LineCodec {
    /// What counts is only how the line goes on, not how much of it is there: so the answer does not depend
    /// on where chunks are cut.
    fn decode_line<'a>(&mut self, input: &'a [u8], seen: usize) -> Decoded<LineFrame<'a>> {
        let window = &input[..input.len().min(self.limit())];
        match self.delimiter.find(window, seen.min(window.len())) {
            Some((end, next)) if end <= self.max_length => {
                Decoded::Frame(LineFrame::Line(&input[..end]), next)
            }
            None if window.len() < self.limit() => Decoded::Incomplete,
            _ => {
                self.mode = Mode::Skip;
                Decoded::Frame(LineFrame::TooLong(&input[..self.max_length]), self.max_length)
            }
        }
    }

    fn skip<'a>(&mut self, input: &'a [u8], seen: usize) -> Decoded<LineFrame<'a>> {
        match self.delimiter.find(input, seen) {
            Some((_, next)) => {
                self.mode = Mode::Line;
                Decoded::Skip(next)
            }
            // The delimiter may have begun.
            None => Decoded::Skip(input.len().saturating_sub(self.delimiter.bytes().len() - 1)),
        }
    }
}

/// A line was longer than the limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LineTooLong {
    /// The most bytes that a line may have.
    pub limit: usize,
}

impl fmt::Display for LineTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a line of the peer is longer than {} bytes", self.limit)
    }
}

impl Error for LineTooLong {}
