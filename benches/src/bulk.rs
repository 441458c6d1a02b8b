//! What a client asks of a server in the scenarios where bytes flow one way: to receive so many, and then to send so
//! many, and [`DONE`] behind them.

use crate::pattern;

/// What the server says when it is through.
pub const DONE: [u8; 4] = *b"done";

/// Bytes that are written at a time.
pub const PIECE: usize = 64 * 1024;

/// A request, or what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Bytes for the server to receive.
    pub to_receive: u64,
    /// Bytes for the server to send, of [stream](pattern) 0.
    pub to_send: u64,
    sent: u64,
}

impl Request {
    /// Bytes of a request.
    pub const LENGTH: usize = 16;

    /// One that nothing was done for.
    pub fn new(to_receive: u64, to_send: u64) -> Self {
        Self { to_receive, to_send, sent: 0 }
    }

    /// As it is sent.
    pub fn to_bytes(&self) -> [u8; Self::LENGTH] {
        (u128::from(self.to_receive) << 64 | u128::from(self.to_send)).to_be_bytes()
    }

    /// As it was received.
    pub fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        let both = u128::from_be_bytes(bytes);
        Self::new((both >> 64) as u64, both as u64)
    }

    /// What the server sends next.
    pub fn next_piece(&mut self) -> Option<&'static [u8]> {
        let length = (self.to_send - self.sent).min(PIECE as u64);
        let piece = (length > 0).then(|| pattern::slice(0, self.sent, length as usize));
        self.sent += length;
        piece
    }
}
