//! Sending what an outbox holds, buffers and files, to whatever takes bytes.

use std::io::{self, IoSlice};

#[cfg(any(feature = "testing", feature = "tls"))]
use super::ops;
use super::ops::Sink;
use super::{DriverStats, Sent};
#[cfg(any(feature = "testing", feature = "tls"))]
use crate::core::outbox::FileRange;
use crate::core::outbox::{Front, MAX_SLICES, Outbox};
use crate::core::pool::Pool;

/// Sends buffers and files until the kernel takes no more, the budget is used up or nothing is left.
pub(super) fn send_backlog(
    sink: &impl Sink,
    outbox: &mut Outbox,
    pool: &Pool,
    budget: usize,
    stats: &mut DriverStats,
) -> io::Result<Sent> {
    let mut left = budget;
    while left > 0 {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let front = outbox.front(&mut slices);
        stats.sends += 1;
        let (result, offered) = match front {
            Front::Nothing => {
                stats.sends -= 1;
                return Ok(Sent::All);
            }
            Front::One(data) => (sink.send(data), data.len()),
            Front::Many(list) => (sink.send_many(list), list.iter().map(|slice| slice.len()).sum()),
            Front::File(range) => match sink.send_file(range, left) {
                Ok(0) => return Err(file_too_short()),
                Ok(sent) => {
                    outbox.consume_file(sent, pool);
                    stats.bytes_sent += sent;
                    left = left.saturating_sub(sent as usize);
                    continue;
                }
                Err(error) if !is_about_the_stream(&error) => {
                    return Err(file_unreadable(&error));
                }
                Err(error) => (Err(error), 0),
            },
            #[cfg(unix)]
            Front::Passed(descriptor, data) => match sink.send_passed(data, descriptor) {
                Ok(sent) => {
                    outbox.consume_passed(sent, pool);
                    stats.bytes_sent += sent as u64;
                    left = left.saturating_sub(sent);
                    continue;
                }
                Err(error) => (Err(error), 0),
            },
        };
        match result {
            Ok(sent) => {
                outbox.consume(sent, pool);
                stats.bytes_sent += sent as u64;
                left = left.saturating_sub(sent);
                if sent < offered {
                    return Ok(Sent::Blocked);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Sent::Blocked),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(if outbox.is_empty() { Sent::All } else { Sent::Blocked })
}

/// Reads what comes next of a queued file, at most `limit` bytes, where the kernel does not do it while it
/// sends.
#[cfg(any(feature = "testing", feature = "tls"))]
pub(crate) fn read_queued_file(range: &FileRange, limit: usize) -> io::Result<Vec<u8>> {
    let piece = ops::read_piece(range, limit).map_err(|error| file_unreadable(&error))?;
    if piece.is_empty() { Err(file_too_short()) } else { Ok(piece) }
}

pub(super) fn file_too_short() -> io::Error {
    let text = "the file became shorter than the range that was to be sent";
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}

pub(super) fn file_unreadable(error: &io::Error) -> io::Error {
    let text = format!("the file that was to be sent cannot be read: {error}");
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}

/// Whether sending a file failed because of the stream, not of the file.
fn is_about_the_stream(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::WouldBlock
            | Kind::Interrupted
            | Kind::BrokenPipe
            | Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::NotConnected
            | Kind::TimedOut
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
    )
}
