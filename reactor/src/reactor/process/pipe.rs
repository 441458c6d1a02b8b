//! The pipes of a child: ordinary connections, whose protocol passes everything on to the child's.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use bytes::Bytes;

use super::{Pipe, Process, State};
use crate::core::address::Address;
use crate::driver::options::PipeEnds;
use crate::net::reason::Reason;
use crate::protocol::{Eof, Protocol};
use crate::reactor::adopting::Adopted;
use crate::reactor::inner::Inner;
use crate::reactor::transport::Transport;

/// Our end of something whose other end the child has.
pub(super) enum OurEnd {
    Read(OwnedFd),
    Write(OwnedFd),
    Socket(OwnedFd),
    Terminal(OwnedFd),
}

/// Makes connections of all pipes. What was opened when one fails is the caller's to abort.
pub(super) fn adopt_all(
    inner: &Inner,
    state: &Rc<State>,
    ends: Vec<(i32, OurEnd)>,
    mut input: Option<Bytes>,
) -> io::Result<()> {
    for (fd, end) in ends {
        let is_input = fd == 0 || matches!(end, OurEnd::Terminal(_)) && state.is_terminal(0);
        let is_two_way = matches!(end, OurEnd::Socket(_));
        let is_terminal = matches!(end, OurEnd::Terminal(_));
        let input = if is_input { input.take() } else { None };
        let protocol =
            PipeProtocol { state: Rc::clone(state), fd, is_terminal, input, is_over: false, is_lost: false };
        let transport = adopt(inner, state, fd, end, Box::new(protocol))?;
        state.pipes.borrow_mut().insert(fd, Pipe { transport, is_two_way });
    }
    Ok(())
}

/// Makes a connection of one pipe.
pub(super) fn adopt(
    inner: &Inner,
    state: &State,
    fd: i32,
    end: OurEnd,
    protocol: Box<dyn Protocol>,
) -> io::Result<Transport> {
    let (input, output) = match end {
        OurEnd::Socket(socket) => return inner.adopt(Adopted::Socket(socket), protocol),
        OurEnd::Read(input) => (Some(input), None),
        OurEnd::Write(output) => (None, Some(output)),
        OurEnd::Terminal(master) => (Some(master.try_clone()?), Some(master)),
    };
    let name = Address::other(format_args!("descriptor {fd} of {state}"));
    inner.adopt(Adopted::Pipe(PipeEnds { input, output, is_shared: false }, name), protocol)
}

/// What a child's pipe tells the child's protocol.
struct PipeProtocol {
    state: Rc<State>,
    fd: i32,
    is_terminal: bool,
    /// To be written, and nothing after it.
    input: Option<Bytes>,
    /// The child has closed its end.
    is_over: bool,
    is_lost: bool,
}

impl PipeProtocol {
    fn inner(&self) -> Option<Rc<Inner>> {
        self.state.handle.inner()
    }
}

impl Protocol for PipeProtocol {
    fn connection_made(&mut self, transport: &Transport) {
        if let Some(input) = self.input.take() {
            transport.write_bytes(input);
            Process(Rc::clone(&self.state)).close_stdin();
        }
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        let Some(inner) = self.inner() else { return };
        self.state.tell(&inner, "child_data_received", |protocol, process| {
            protocol.child_data_received(process, self.fd, data);
        });
    }

    fn eof_received(&mut self, _: &Transport) -> Eof {
        self.is_over = true;
        Eof::Close
    }

    fn pause_writing(&mut self, _: &Transport) {
        let Some(inner) = self.inner() else { return };
        self.state.tell(&inner, "pause_writing", |protocol, process| {
            protocol.pause_writing(process, self.fd);
        });
    }

    fn resume_writing(&mut self, _: &Transport) {
        let Some(inner) = self.inner() else { return };
        self.state.tell(&inner, "resume_writing", |protocol, process| {
            protocol.resume_writing(process, self.fd);
        });
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        self.is_lost = true;
        let Some(inner) = self.inner() else { return };
        // Reading from a terminal that nobody has open any more is an error, on Linux.
        let is_end = self.is_terminal && matches!(reason, Reason::Reset);
        let reason = if is_end { &Reason::Closed } else { reason };
        let by_child = is_end || self.is_over;
        self.state.tell(&inner, "child_connection_lost", |protocol, process| {
            protocol.child_connection_lost(process, self.fd, reason);
        });
        self.state.pipe_closed(&inner, self.fd, by_child);
    }
}

/// A pipe that was switched to another protocol is still the child's: its end is waited for.
impl Drop for PipeProtocol {
    fn drop(&mut self) {
        if self.is_lost {
            return;
        }
        let transport = self.state.pipes.borrow().get(&self.fd).map(|pipe| pipe.transport.clone());
        let (state, fd) = (Rc::clone(&self.state), self.fd);
        if let Some(transport) = transport {
            transport.lost().on_done(move |handle, _| {
                if let Some(inner) = handle.inner() {
                    // Who closed it, only its own protocol knows; the careful way is right for both.
                    state.pipe_closed(&inner, fd, true);
                }
            });
        }
    }
}
