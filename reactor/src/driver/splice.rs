//! Relaying between two sockets through a kernel pipe, without the bytes entering the process.

use std::io;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use socket2::Socket;

use super::{RelayState, Relayed};
use crate::sys::sigpipe::without_sigpipe;

/// Bytes asked for at once; what fits a pipe of the usual size.
const PIECE: usize = 64 * 1024;

/// The kernel pipe of one direction.
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Bytes that left the source and did not reach the target yet.
    held: usize,
    /// The source has ended; only `held` is left.
    ended: bool,
    /// The source may stand at a mark of urgent data, which a splice does not pass: it finds nothing there,
    /// or an end that is none.
    at_mark: bool,
}

impl Pipe {
    pub(super) fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self { read, write, held: 0, ended: false, at_mark: false })
    }

    /// Moves at most about `budget` bytes; counts each system call in `calls`. `urgent`: urgent data was
    /// seen.
    pub(super) fn relay(
        &mut self,
        source: &Socket,
        target: &Socket,
        urgent: bool,
        budget: usize,
        calls: &mut u64,
    ) -> Relayed {
        let mut moved = 0;
        self.at_mark |= urgent;
        let state = without_sigpipe(|| {
            loop {
                while self.held > 0 {
                    *calls += 1;
                    match splice_now(&self.read, target, self.held) {
                        Ok(0) | Err(Errno::AGAIN) => return RelayState::TargetFull,
                        Ok(count) => {
                            self.held -= count;
                            moved += count as u64;
                        }
                        Err(Errno::INTR) => {}
                        Err(error) => return RelayState::TargetFailed(error.into()),
                    }
                }
                if self.ended {
                    return RelayState::Ended;
                }
                if moved >= budget as u64 {
                    return RelayState::SourceDry;
                }
                *calls += 1;
                let mut taken = splice_now(source, &self.write, PIECE);
                if taken == Ok(0) || (taken == Err(Errno::AGAIN) && self.at_mark) {
                    *calls += 1;
                    taken = self.read_past_mark(source);
                }
                match taken {
                    Ok(0) => self.ended = true,
                    Ok(count) => self.held += count,
                    Err(Errno::AGAIN) => return RelayState::SourceDry,
                    Err(Errno::INTR) => {}
                    Err(error) => return RelayState::SourceFailed(error.into()),
                }
            }
        });
        Relayed { moved, state }
    }

    /// Reads a little the ordinary way into the empty pipe; nothing is at the end of the stream or at its
    /// edge.
    fn read_past_mark(&mut self, source: &Socket) -> Result<usize, Errno> {
        let mut buffer = [0; 1024];
        let received = rustix::net::recv(source, &mut buffer, RecvFlags::DONTWAIT).map(|(count, _)| count);
        self.at_mark = matches!(received, Ok(1..));
        rustix::io::write(&self.write, &buffer[..received?])
    }
}

fn splice_now(from: impl rustix::fd::AsFd, to: impl rustix::fd::AsFd, count: usize) -> Result<usize, Errno> {
    splice(from, None, to, None, count, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)
}
