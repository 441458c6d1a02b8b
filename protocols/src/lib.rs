//! Wire protocols for the [`twistor`] reactor.
//!
//! A stream delivers bytes, cut at no place that means anything. Every protocol here turns them into frames
//! in the same shape, of three parts:
//!
//! * a [`Codec`] knows the format: how bytes become frames and frames become bytes, and how long a frame may
//!   be. It does no I/O, holds no socket and no clock, and can be tested with slices;
//! * a [`FrameHandler`] is what you write: its hooks hear of frames;
//! * [`FramedProtocol`] joins the two and is a [`twistor::Protocol`]. [`Framed`] is what hooks get of it: the
//!   transport, and a way to send frames.
//!
//! Lines are the first of them: implement [`LineReceiver`] and listen with a [`LineProtocol`].
//!
//! ```
//! use twistor::Reactor;
//! use twistor_protocols::{LineProtocol, LineReceiver, Lines};
//!
//! struct Shout;
//!
//! impl LineReceiver for Shout {
//!     fn line_received(&mut self, io: &Lines, line: &[u8]) {
//!         io.send_line(line.to_ascii_uppercase());
//!     }
//! }
//!
//! # fn main() -> std::io::Result<()> {
//! let reactor = Reactor::new()?;
//! reactor.listen("tcp:0:interface=127.0.0.1", |_| LineProtocol::new(Shout))?;
//! # Ok(())
//! # }
//! ```
//!
//! [`KeyDecoder`] is for terminals: it makes keys, clicks and pasted texts of what one in raw mode sends.
//!
//! # Between two frames
//!
//! One chunk of bytes may hold many frames, and a hook may change its mind in the middle of them. Whatever a
//! hook asks for holds before the next frame: after `pause_reading` no frame comes until `resume_reading`,
//! after `lose_connection` none comes at all, and after [`Framed::switch_protocol`] the bytes behind the
//! frame go to the new protocol.

#![forbid(unsafe_code)]

mod buffer;
mod codec;
mod framed;
mod keys;
mod line;

pub use buffer::{FrameBuffer, FrameError};
pub use codec::{Codec, Decoded, Output};
pub use framed::{FrameHandler, Framed, FramedProtocol};
pub use keys::{Key, KeyCode, KeyDecoder, Modifiers, Mouse, MouseAction, MouseButton, TerminalInput};
pub use line::{LineCodec, LineFrame, LineProtocol, LineReceiver, LineTooLong, Lines};
