//! [`FrameBuffer`]: from chunks of bytes to frames.
//!
//! Frames that lie whole in a chunk are decoded where they are. Only a frame that the end of a chunk cuts is
//! copied here, and of the next chunk about as much as completes it.

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::ops::ControlFlow;

use crate::codec::{Codec, Decoded};

/// How much of a chunk is tried first behind an incomplete frame; doubled until the frame is complete.
const FIRST_TRY: usize = 512;

/// The beginning of a frame whose end has not arrived. Empty, and without memory, between frames.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    incomplete: Vec<u8>,
    /// So much of it the codec has looked at.
    seen: usize,
}

/// Why a chunk could not be decoded.
#[derive(Debug)]
pub enum FrameError<E> {
    /// The codec says that these bytes are no frame.
    Codec(E),
    /// More bytes than [`Codec::limit`] allows, and still no frame.
    TooLong {
        /// The limit.
        limit: usize,
    },
}

impl<E: fmt::Display> fmt::Display for FrameError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Codec(error) => error.fmt(f),
            Self::TooLong { limit } => write!(f, "a frame of the peer is longer than {limit} bytes"),
        }
    }
}

impl<E: Error + 'static> Error for FrameError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Codec(error) => error.source(),
            Self::TooLong { .. } => None,
        }
    }
}

/// What one call of the codec came to.
enum Step {
    /// Bytes that are done with.
    Took(usize),
    /// Bytes that are done with, and the receiver wants no further frame now.
    Stopped(usize),
    Incomplete,
}

impl FrameBuffer {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether no frame has begun and not ended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.incomplete.is_empty()
    }

    /// Decodes `chunk`, the bytes that follow those fed before, and calls `receive` with each frame.
    ///
    /// What is left of the chunk is kept when it is an incomplete frame. When `receive` breaks, everything
    /// behind its frame is returned instead, and nothing is kept. The codec is not borrowed while `receive`
    /// runs.
    ///
    /// # Errors
    ///
    /// The bytes are no frame, or an incomplete frame is longer than the codec's limit.
    pub fn feed<C: Codec>(
        &mut self,
        codec: &RefCell<C>,
        mut chunk: &[u8],
        mut receive: impl FnMut(C::Frame<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<u8>, FrameError<C::Error>> {
        while !self.incomplete.is_empty() {
            let before = self.incomplete.len();
            let (more, _) = chunk.split_at(chunk.len().min(before.max(FIRST_TRY)));
            self.incomplete.extend_from_slice(more);
            let step = step(codec, &self.incomplete, self.seen, &mut receive)?;
            self.seen = 0;
            match step {
                Step::Incomplete => {
                    self.seen = self.incomplete.len();
                    chunk = &chunk[more.len()..];
                    if chunk.is_empty() {
                        return Ok(Vec::new());
                    }
                }
                // What was copied of the chunk and not used is still there.
                Step::Took(length) | Step::Stopped(length) if length >= before => {
                    chunk = &chunk[length - before..];
                    self.incomplete = Vec::new();
                }
                Step::Took(length) | Step::Stopped(length) => {
                    self.incomplete.truncate(before);
                    self.incomplete.drain(..length);
                }
            }
            if let Step::Stopped(_) = step {
                let mut rest = self.take();
                rest.extend_from_slice(chunk);
                return Ok(rest);
            }
        }
        while !chunk.is_empty() {
            match step(codec, chunk, 0, &mut receive)? {
                Step::Took(length) => chunk = &chunk[length..],
                Step::Stopped(length) => return Ok(chunk[length..].to_vec()),
                Step::Incomplete => {
                    self.incomplete = chunk.to_vec();
                    self.seen = chunk.len();
                    break;
                }
            }
        }
        Ok(Vec::new())
    }

    /// The incomplete frame, which is no longer kept.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        self.seen = 0;
        std::mem::take(&mut self.incomplete)
    }

    /// Has the codec look at the incomplete frame from its beginning: the codec's settings have changed.
    pub fn look_again(&mut self) {
        self.seen = 0;
    }
}

fn step<C: Codec>(
    codec: &RefCell<C>,
    input: &[u8],
    seen: usize,
    receive: &mut impl FnMut(C::Frame<'_>) -> ControlFlow<()>,
) -> Result<Step, FrameError<C::Error>> {
    let decoded = codec.borrow_mut().decode(input, seen).map_err(FrameError::Codec)?;
    match decoded {
        Decoded::Frame(frame, length) => Ok(match receive(frame) {
            ControlFlow::Continue(()) => Step::Took(length),
            ControlFlow::Break(()) => Step::Stopped(length),
        }),
        Decoded::Skip(length) if length > 0 => Ok(Step::Took(length)),
        Decoded::Skip(_) | Decoded::Incomplete => {
            let limit = codec.borrow().limit();
            if input.len() > limit { Err(FrameError::TooLong { limit }) } else { Ok(Step::Incomplete) }
        }
    }
}
