//! [`Codec`]: a format on the wire, apart from all I/O.

use std::error::Error;

use twistor::Transport;
use twistor::bytes::Bytes;

/// How bytes become frames and frames become bytes.
///
/// A codec is called with what has arrived and not yet been used, always from the beginning of a frame on. It
/// never waits and keeps no bytes: what it cannot use yet it is shown again, with more behind it.
///
/// ```
/// use std::convert::Infallible;
/// use twistor_protocols::{Codec, Decoded, Output};
///
/// /// Frames of one length byte and as many bytes of content.
/// struct Short;
///
/// impl Codec for Short {
///     type Frame<'a> = &'a [u8];
///     type Out<'a> = &'a [u8];
///     type Error = std::num::TryFromIntError;
///
///     fn decode<'a>(&mut self, input: &'a [u8], _: usize) -> Result<Decoded<&'a [u8]>, Self::Error> {
///         let Some((&length, rest)) = input.split_first() else { return Ok(Decoded::Incomplete) };
///         let length = usize::from(length);
///         Ok(rest.get(..length).map_or(Decoded::Incomplete, |frame| Decoded::Frame(frame, 1 + length)))
///     }
///
///     fn encode(&mut self, frame: &[u8], out: &mut dyn Output) -> Result<(), Self::Error> {
///         out.put(&[u8::try_from(frame.len())?]);
///         out.put(frame);
///         Ok(())
///     }
///
///     fn limit(&self) -> usize {
///         1 + 255
///     }
/// }
///
/// let mut wire = Vec::new();
/// Short.encode(b"hello", &mut wire)?;
/// assert_eq!(Short.decode(&wire, 0)?, Decoded::Frame(&b"hello"[..], 6));
/// # Ok::<(), std::num::TryFromIntError>(())
/// ```
pub trait Codec: 'static {
    /// What comes in. It borrows the bytes it was made of: a frame that lies whole in a chunk is never
    /// copied.
    type Frame<'a>;
    /// What goes out.
    type Out<'a>;
    /// Why bytes are no frame, or a frame cannot be written.
    type Error: Error + 'static;

    /// Looks for the first frame in `input`.
    ///
    /// The first `seen` bytes are those of the last call, which called them
    /// [`Incomplete`](Decoded::Incomplete): a search need not look at them again. At the beginning of a frame
    /// `seen` is 0.
    ///
    /// # Errors
    ///
    /// The input can never become a frame. The codec is not called again for this connection.
    fn decode<'a>(&mut self, input: &'a [u8], seen: usize) -> Result<Decoded<Self::Frame<'a>>, Self::Error>;

    /// Writes a frame.
    ///
    /// # Errors
    ///
    /// The format cannot express the frame. Then nothing must have been put out.
    fn encode(&mut self, frame: Self::Out<'_>, out: &mut dyn Output) -> Result<(), Self::Error>;

    /// The most bytes that an incomplete frame may have. A peer that sends more without completing it is cut
    /// off, whatever `decode` makes of it: memory per connection is bounded by this.
    fn limit(&self) -> usize;
}

/// What [`Codec::decode`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decoded<F> {
    /// A frame, and how many bytes of the input are done with.
    Frame(F, usize),
    /// No frame, but so many bytes of the input are done with.
    Skip(usize),
    /// The beginning of a frame: more bytes are needed.
    Incomplete,
}

/// Where a codec writes to: a transport, or a buffer.
pub trait Output {
    /// Appends a copy of `bytes`.
    fn put(&mut self, bytes: &[u8]);

    /// Appends `bytes`, by reference where that is possible.
    fn put_bytes(&mut self, bytes: Bytes) {
        self.put(&bytes);
    }
}

impl Output for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Output for &Transport {
    fn put(&mut self, bytes: &[u8]) {
        self.write(bytes);
    }

    fn put_bytes(&mut self, bytes: Bytes) {
        self.write_bytes(bytes);
    }
}
