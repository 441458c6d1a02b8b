//! The bytes that clients send and expect back: a stream without short repetition, different for every connection,
//! so that lost, doubled, reordered or foreign bytes are seen.

use std::io;
use std::sync::OnceLock;

/// The longest slice that can be asked for.
pub const LONGEST: usize = 256 * 1024;

/// A prime, so that the period never lines up with a message or buffer size.
const PERIOD: usize = 65_521;

/// `len` bytes of stream number `stream`, from `position` on.
pub fn slice(stream: usize, position: u64, len: usize) -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(generate);
    let start = (position % PERIOD as u64) as usize;
    let start = (start + stream.wrapping_mul(7919)) % PERIOD;
    &bytes[start..start + len]
}

/// Checks what came back on stream number `stream` at `position`.
///
/// # Errors
/// Names the first wrong byte.
pub fn verify(stream: usize, position: u64, received: &[u8]) -> io::Result<()> {
    let expected = slice(stream, position, received.len());
    if received == expected {
        return Ok(());
    }
    let wrong = received.iter().zip(expected).position(|(a, b)| a != b).unwrap_or_default();
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "connection {stream}: byte {} came back as {:#04x}, sent was {:#04x}",
            position + wrong as u64,
            received[wrong],
            expected[wrong]
        ),
    ))
}

fn generate() -> Vec<u8> {
    // xorshift64: any generator without a short period does.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let period: Vec<u8> = (0..PERIOD)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect();
    period.iter().copied().cycle().take(PERIOD + LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_goes_on_where_its_last_slice_ended() {
        let whole = slice(3, 65_000, 2000);
        assert_eq!([slice(3, 65_000, 700), slice(3, 65_700, 1300)].concat(), whole);
    }

    #[test]
    fn a_wrong_byte_is_named() {
        let mut received = slice(1, 10, 50).to_vec();
        verify(1, 10, &received).unwrap();
        received[7] ^= 1;
        assert!(verify(1, 10, &received).unwrap_err().to_string().contains("byte 17"));
        assert!(verify(2, 10, slice(1, 10, 50)).is_err());
    }
}
