//! Streams that stand on descriptors of any kind: pipes, terminals, files, or a socket for one direction
//! alone.
//!
//! A [`Pipe`] has a descriptor for each direction that it has at all. The poller knows the input by the key
//! of the stream's token and the output by a key beside it. A socket keeps its flags, because somebody else
//! may hold it as well: it is asked not to wait by each call. Invariant: a half that no poller takes (a
//! regular file) is never registered and counts as always ready: the driver's list of what is ready has it by
//! its key.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use polling::{Event, PollMode, Poller};
use socket2::SockRef;

use super::super::backlog::send_backlog;
use super::super::ops::{self, Sink};
use super::super::options::PipeEnds;
use super::super::waiter::Readiness;
use super::{Completion, Interest, Kind, PollDriver, ReadOutcome, Sent, Source, Turn};
use crate::core::outbox::{FileRange, Outbox};
use crate::core::pool::Pool;
use crate::core::slots::Token;
use crate::sys::descriptor::{self, Nature, SharedFlags};
use crate::sys::sigpipe::without_sigpipe;

/// A stream without a socket.
pub(super) struct Pipe {
    input: Option<Half>,
    output: Option<Half>,
}

/// One direction of a pipe.
struct Half {
    file: File,
    how: How,
    key: usize,
    /// Whether the poller knows it, and whether it watches it.
    registered: Option<bool>,
    /// Puts back the flags of a descriptor that others hold as well.
    _flags: Option<SharedFlags>,
}

/// How it is read or written without waiting.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    NonBlocking,
    Socket,
    /// A regular file, whose system calls always come back soon.
    AlwaysReady,
    /// Nobody is at the other side any more. A terminal would still take output, until it is full.
    HungUp,
}

impl Half {
    fn new(descriptor: OwnedFd, is_input: bool, key: usize, is_shared: bool) -> io::Result<Self> {
        let (reads, writes) = descriptor::directions(descriptor.as_fd())?;
        if !(if is_input { reads } else { writes }) {
            let text = if is_input {
                "the input is not open for reading"
            } else {
                "the output is not open for writing"
            };
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let (how, descriptor, flags) = match descriptor::nature(descriptor.as_fd())? {
            Nature::Socket => (How::Socket, descriptor, None),
            Nature::File => (How::AlwaysReady, descriptor, None),
            Nature::Stream if is_shared => {
                let (descriptor, flags) = descriptor::unblock_shared(descriptor, is_input)?;
                (How::NonBlocking, descriptor, flags)
            }
            Nature::Stream => {
                descriptor::unblock(descriptor.as_fd())?;
                (How::NonBlocking, descriptor, None)
            }
        };
        Ok(Self { file: File::from(descriptor), how, key, registered: None, _flags: flags })
    }

    /// Has the poller watch it or not. Errors and hang-ups are reported either way.
    fn watch(&mut self, poller: &Poller, is_input: bool, wanted: bool) -> io::Result<()> {
        if matches!(self.how, How::AlwaysReady | How::HungUp) || self.registered == Some(wanted) {
            return Ok(());
        }
        let event = Event::new(self.key, is_input && wanted, !is_input && wanted);
        let result = match self.registered {
            // SAFETY: `forget` removes it from the poller before it is closed; see `PollDriver::close_pipe`.
            None => unsafe { poller.add_with_mode(&self.file, event, PollMode::Level) },
            Some(_) => poller.modify_with_mode(&self.file, event, PollMode::Level),
        };
        match result {
            Ok(()) => self.registered = Some(wanted),
            // What epoll says of regular files, and of devices like /dev/null.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => self.how = How::AlwaysReady,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn forget(&mut self, poller: &Poller) {
        if self.registered.take().is_some()
            && let Err(error) = poller.delete(&self.file)
        {
            log::warn!("cannot deregister a descriptor: {error}");
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.how == How::Socket {
            return ops::receive_at_once(&SockRef::from(&self.file), buffer);
        }
        match (&self.file).read(buffer) {
            // A terminal whose other side has been closed.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
            result => result,
        }
    }
}

impl Sink for Half {
    fn send(&self, data: &[u8]) -> io::Result<usize> {
        match self.how {
            How::Socket => ops::send_at_once(&SockRef::from(&self.file), data),
            How::HungUp => Err(io::ErrorKind::BrokenPipe.into()),
            How::NonBlocking | How::AlwaysReady => without_sigpipe(|| (&self.file).write(data)),
        }
    }

    fn send_many(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if matches!(self.how, How::Socket | How::HungUp) {
            return self.send(slices.first().map_or(&[], |slice| slice));
        }
        without_sigpipe(|| (&self.file).write_vectored(slices))
    }

    fn send_file(&self, range: &FileRange, limit: usize) -> io::Result<u64> {
        let piece = ops::read_piece(range, limit)?;
        if piece.is_empty() { Ok(0) } else { Ok(self.send(&piece)? as u64) }
    }

    fn send_passed(&self, _: &[u8], _: &OwnedFd) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl AsFd for Half {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Pipe {
    fn halves(&mut self) -> impl Iterator<Item = &mut Half> {
        self.input.iter_mut().chain(self.output.iter_mut())
    }

    /// The keys of those halves that no poller takes.
    fn always_ready(&self) -> impl Iterator<Item = Token> {
        let halves = self.input.iter().chain(&self.output);
        halves.filter(|half| half.how == How::AlwaysReady).map(|half| Token::from_key(half.key))
    }
}

impl PollDriver {
    /// Takes descriptors in as a stream, which is watched for nothing as yet.
    pub(in super::super) fn adopt_pipe(&mut self, token: Token, ends: PipeEnds) -> io::Result<()> {
        let PipeEnds { input, output, is_shared } = ends;
        let input = input.map(|end| Half::new(end, true, token.key(), is_shared)).transpose()?;
        let output = output.map(|end| Half::new(end, false, token.output_key(), is_shared)).transpose()?;
        let mut pipe = Pipe { input, output };
        let poller = Arc::clone(&self.waiter.poller);
        let watched = pipe.input.as_mut().map_or(Ok(()), |half| half.watch(&poller, true, false));
        let watched = watched
            .and_then(|()| pipe.output.as_mut().map_or(Ok(()), |half| half.watch(&poller, false, false)));
        self.stats.controls += 2;
        if let Err(error) = watched {
            pipe.halves().for_each(|half| half.forget(&poller));
            return Err(error);
        }
        self.always_ready.extend(pipe.always_ready());
        self.unix.pipes.insert(token, pipe);
        self.place_source(
            token,
            Source { kind: Kind::Pipe, registered: Some(Interest::NONE), ..Source::VACANT },
        );
        Ok(())
    }

    /// Tells the poller what a pipe is wanted for.
    pub(super) fn register_pipe(&mut self, token: Token) -> io::Result<()> {
        let poller = Arc::clone(&self.waiter.poller);
        let Some(source) = self.source(token) else { return Ok(()) };
        let wanted = source.wanted;
        source.registered = Some(wanted);
        let Some(pipe) = self.unix.pipes.get_mut(&token) else { return Ok(()) };
        // A half that was forgotten has ended, which would be reported again.
        if let Some(input) = pipe.input.as_mut().filter(|half| wanted.reads() || half.registered.is_some()) {
            input.watch(&poller, true, wanted.reads())?;
        }
        if let Some(output) = pipe.output.as_mut().filter(|half| wanted.writes() || half.registered.is_some())
        {
            output.watch(&poller, false, wanted.writes())?;
        }
        Ok(())
    }

    /// An event of a pipe's input.
    pub(super) fn pipe_input_event<'b>(
        &mut self,
        token: Token,
        event: Readiness,
        wanted: Interest,
    ) -> Option<Completion<'b>> {
        if wanted.reads() {
            self.turn = Some(Turn::Read(token, self.budgets.read));
        } else if (event.error() || event.hung_up())
            && let Some(input) = self.unix.pipes.get_mut(&token).and_then(|pipe| pipe.input.as_mut())
        {
            // The end waits until somebody wants to read again; watched on, it would be reported forever.
            input.forget(&self.waiter.poller);
            let source = self.source(token)?;
            // The output is watched on.
            source.registered = source.registered.map(|registered| Interest::new(false, registered.writes()));
        }
        None
    }

    /// An event of a pipe's output.
    pub(super) fn pipe_output_event<'b>(&mut self, token: Token, event: Readiness) -> Option<Completion<'b>> {
        let Some(source) = self.source(token).filter(|source| source.kind == Kind::Pipe) else {
            self.stats.stale_events += 1;
            return None;
        };
        let wanted = source.wanted;
        let pipe = self.unix.pipes.get_mut(&token)?;
        let output = pipe.output.as_mut()?;
        if event.error() || event.hung_up() {
            // Nobody reads it any more.
            if pipe.input.is_none() {
                // Said again until the stream is closed: the loop may not have come to it yet.
                return Some(Completion::Failed { stream: token, error: io::ErrorKind::BrokenPipe.into() });
            }
            output.forget(&self.waiter.poller);
            if event.hung_up() {
                output.how = How::HungUp;
            }
            // What comes from the other side may still be read; a send will find out about this one.
        }
        wanted.writes().then_some(Completion::Writable { stream: token })
    }

    pub(super) fn read_pipe(&mut self, token: Token, budget: usize, scratch: &mut [u8]) -> ReadOutcome {
        let limit = budget.min(scratch.len());
        let input = self.unix.pipes.get(&token).and_then(|pipe| pipe.input.as_ref());
        let Some(input) = input else { return Err((token, io::ErrorKind::WouldBlock.into())) };
        let is_polled = input.how != How::AlwaysReady;
        let result = input.receive(&mut scratch[..limit]);
        self.stats.receives += 1;
        let count = result.map_err(|error| (token, error))?;
        self.stats.bytes_received += count as u64;
        if count >= limit && limit < budget && is_polled {
            self.turn = Some(Turn::Read(token, budget - limit));
        }
        Ok((token, count))
    }

    /// Whether the token names a pipe that is to be read.
    pub(super) fn reads_pipe(&mut self, token: Token) -> bool {
        self.source(token).is_some_and(|source| source.kind == Kind::Pipe && source.wanted.reads())
    }

    pub(super) fn send_to_pipe(
        &mut self,
        token: Token,
        outbox: &mut Outbox,
        pool: &Pool,
    ) -> io::Result<Sent> {
        let output = self.unix.pipes.get(&token).and_then(|pipe| pipe.output.as_ref());
        let output = output.ok_or(io::ErrorKind::NotConnected)?;
        send_backlog(output, outbox, pool, self.budgets.write, &mut self.stats)
    }

    /// Closes the output.
    pub(super) fn finish_pipe(&mut self, token: Token) -> io::Result<()> {
        let pipe = self.unix.pipes.get_mut(&token).ok_or(io::ErrorKind::NotConnected)?;
        if let Some(mut output) = pipe.output.take() {
            output.forget(&self.waiter.poller);
            self.not_always_ready(Token::from_key(output.key));
            if output.how == How::Socket {
                return SockRef::from(&output.file).shutdown(std::net::Shutdown::Write);
            }
        }
        Ok(())
    }

    pub(super) fn close_pipe(&mut self, token: Token) {
        if let Some(mut pipe) = self.unix.pipes.remove(&token) {
            let poller = &self.waiter.poller;
            pipe.halves().for_each(|half| half.forget(poller));
            pipe.always_ready().for_each(|key| self.not_always_ready(key));
        }
    }
}
