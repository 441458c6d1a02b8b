//! Cutting a chat member's bytes into lines. All chat peers use this, so that only the fan-out differs.

use bytes::{Bytes, BytesMut};

/// Keeps the beginning of a line until its end arrives.
#[derive(Debug, Default)]
pub struct LineCutter {
    partial: BytesMut,
}

impl LineCutter {
    /// A cutter with nothing kept.
    pub fn new() -> Self {
        Self::default()
    }

    /// All complete lines so far in one piece, their line feeds included; `None` while there is none.
    pub fn feed(&mut self, data: &[u8]) -> Option<Bytes> {
        let Some(last) = data.iter().rposition(|&byte| byte == b'\n') else {
            self.partial.extend_from_slice(data);
            return None;
        };
        let mut lines = std::mem::take(&mut self.partial);
        lines.extend_from_slice(&data[..=last]);
        self.partial.extend_from_slice(&data[last + 1..]);
        Some(lines.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_they_are_cut() {
        let mut cutter = LineCutter::new();
        assert_eq!(cutter.feed(b"on"), None);
        assert_eq!(cutter.feed(b"e\ntwo\nth").as_deref(), Some(&b"one\ntwo\n"[..]));
        assert_eq!(cutter.feed(b"ree\n").as_deref(), Some(&b"three\n"[..]));
    }
}
