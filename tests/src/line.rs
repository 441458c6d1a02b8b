//! What a [`Peer`](crate::Peer) talks through: its socket, and TLS on it in a world whose ports have TLS.
//!
//! TLS gives a peer no more room than the socket has: it takes one more record only when the last has left.
//! What is left of that one leaves while the world [turns](crate::World::turn), as if the kernel had it.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, Read, Write};
use std::rc::Rc;

use rustls::Connection;
use twistor::endpoint::{ListenEndpoint, TlsListen};

use crate::{Peer, Socket, World, tls};

thread_local! {
    static SECURED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a test in worlds whose ports have TLS, and whose peers do.
pub fn with_tls(test: impl FnOnce()) {
    SECURED.set(true);
    test();
    SECURED.set(false);
}

/// Whether the worlds of this thread have TLS.
pub(crate) fn is_secured() -> bool {
    SECURED.get()
}

impl World {
    /// Whether its ports have TLS.
    #[must_use]
    pub fn is_secured(&self) -> bool {
        self.secured.get()
    }

    /// Decides whether the ports and peers that come have TLS.
    pub fn set_secured(&self, secured: bool) {
        self.secured.set(secured);
    }

    /// `plain` bytes, or about the hundredth part of them with TLS: for tests that move so many that it takes
    /// a while.
    #[must_use]
    pub fn volume(&self, plain: usize) -> usize {
        if self.is_secured() { plain / 100 } else { plain }
    }

    /// The endpoint with TLS if this world has it.
    pub(crate) fn secure_endpoint(&self, endpoint: &str) -> ListenEndpoint {
        if self.is_secured() {
            let server = tls::common().server.clone();
            return ListenEndpoint::Tls(TlsListen::new(endpoint, server).expect("an endpoint"));
        }
        endpoint.parse().expect("an endpoint")
    }

    /// Has peers send what their sockets have room for now.
    pub(crate) fn pump_peers(&self) {
        self.lines.borrow_mut().retain(|line| line.upgrade().map(|line| line.pump()).is_some());
        self.leaving.borrow_mut().retain(|line| line.pump());
    }
}

impl<'w> Peer<'w> {
    /// Does its side of a handshake, on a socket that is connected; turns the world meanwhile.
    ///
    /// # Panics
    ///
    /// The handshake fails.
    #[must_use]
    pub fn secure(world: &'w World, socket: Socket, tls: impl Into<Connection>) -> Self {
        Self::of(world, socket).upgrade(tls)
    }

    /// Goes on with TLS; turns the world until the handshake is complete.
    ///
    /// # Panics
    ///
    /// The handshake fails.
    #[must_use]
    pub fn upgrade(self, tls: impl Into<Connection>) -> Self {
        let peer = self.begin_tls(tls);
        peer.world.until("the handshake", || peer.line().shake_hands());
        peer
    }

    /// Goes on with TLS, whose handshake goes on whenever something is received.
    ///
    /// # Panics
    ///
    /// The socket is closed.
    #[must_use]
    pub fn begin_tls(mut self, tls: impl Into<Connection>) -> Self {
        let socket = self.line.take().and_then(Rc::into_inner).and_then(|mut line| line.socket.take());
        let line = Rc::new(Line::secured(socket.expect("a socket"), tls));
        self.world.lines.borrow_mut().push(Rc::downgrade(&line));
        self.line = Some(line);
        self
    }

    /// The peer's side of TLS.
    ///
    /// # Panics
    ///
    /// It has none.
    pub fn with_tls<R>(&self, f: impl FnOnce(&mut Connection) -> R) -> R {
        f(&mut self.line().session.as_ref().expect("it has TLS").borrow_mut().tls)
    }
}

/// Closes a socket, behind what waits to leave.
pub(crate) fn close(world: &World, line: Rc<Line>) {
    if line.pump() {
        world.leaving.borrow_mut().push(line);
    }
}

/// Whether our direction is to be ended once everything has left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Finish {
    Not,
    Asked,
    Done,
}

#[derive(Debug)]
struct Session {
    tls: Connection,
    finishing: Finish,
}

/// A record's worth of bytes.
const PIECE: usize = 16 << 10;

/// The socket of a peer, with TLS or without.
#[derive(Debug)]
pub struct Line {
    /// `None` after a reset.
    socket: Option<Socket>,
    /// Boxed: those who measure what a plain connection takes do not want to measure this.
    session: Option<Box<RefCell<Session>>>,
}

impl Line {
    /// Without TLS.
    #[must_use]
    pub fn plain(socket: Socket) -> Self {
        Self { socket: Some(socket), session: None }
    }

    /// With TLS. The handshake goes on whenever something is done.
    #[must_use]
    pub fn secured(socket: Socket, tls: impl Into<Connection>) -> Self {
        let mut tls = tls.into();
        tls.set_buffer_limit(None);
        let session = Session { tls, finishing: Finish::Not };
        Self { socket: Some(socket), session: Some(Box::new(RefCell::new(session))) }
    }

    /// The socket.
    ///
    /// # Panics
    ///
    /// It was reset.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        self.socket.as_ref().expect("it was not reset")
    }

    /// Breaks the stream with a reset.
    pub fn reset(mut self) {
        if let Some(socket) = self.socket.take() {
            socket.reset();
        }
    }

    fn shake_hands(&self) -> bool {
        let session = self.session.as_ref().expect("it has TLS");
        let session = &mut *session.borrow_mut();
        session.flush(self.socket()).expect("the port talks TLS");
        match session.fetch(self.socket()) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            fetched => assert_ne!(fetched.expect("the handshake goes well"), 0, "the handshake goes on"),
        }
        session.flush(self.socket()).expect("the port talks TLS");
        !session.tls.is_handshaking() && !session.tls.wants_write()
    }

    /// Whether something is left to send.
    fn pump(&self) -> bool {
        let (Some(session), Some(socket)) = (&self.session, &self.socket) else { return false };
        let session = &mut *session.borrow_mut();
        // If the stream is broken, whoever uses it next will hear that.
        session.pump(socket).is_ok() && session.tls.wants_write()
    }

    /// Sends what there is room for.
    ///
    /// # Errors
    ///
    /// There is no room, or the stream is broken, or its handshake is not complete.
    pub fn write(&self, data: &[u8]) -> io::Result<usize> {
        match &self.session {
            Some(session) => session.borrow_mut().write(self.socket(), data),
            None => self.socket().write(data),
        }
    }

    /// Receives what has arrived; 0 at the end of the stream, which TLS has to have announced.
    ///
    /// # Errors
    ///
    /// Nothing has arrived, or the stream is broken, or its end was not announced.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.session {
            Some(session) => session.borrow_mut().read(self.socket(), buffer),
            None => self.socket().read(buffer),
        }
    }

    /// Ends our direction, behind what waits to leave.
    ///
    /// # Errors
    ///
    /// The stream is broken.
    pub fn finish(&self) -> io::Result<()> {
        match &self.session {
            Some(session) => session.borrow_mut().finish(self.socket()),
            None => self.socket().finish(),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let (Some(session), Some(socket)) = (&self.session, &self.socket) {
            let session = &mut *session.borrow_mut();
            session.tls.send_close_notify();
            let _ = session.flush(socket);
        }
    }
}

impl Session {
    /// Sends what is sealed, as far as there is room.
    fn flush(&mut self, socket: &Socket) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut &*socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn pump(&mut self, socket: &Socket) -> io::Result<()> {
        self.flush(socket)?;
        if self.finishing == Finish::Asked && !self.tls.wants_write() {
            self.finishing = Finish::Done;
            socket.finish()?;
        }
        Ok(())
    }

    /// Opens what has arrived; 0 at the end of the stream below.
    fn fetch(&mut self, socket: &Socket) -> io::Result<usize> {
        let count = self.tls.read_tls(&mut &*socket)?;
        self.tls.process_new_packets().map_err(io::Error::other)?;
        Ok(count)
    }

    fn write(&mut self, socket: &Socket, data: &[u8]) -> io::Result<usize> {
        if self.tls.is_handshaking() {
            self.flush(socket)?;
            self.fetch(socket)?;
            self.flush(socket)?;
        }
        let mut taken = 0;
        if self.tls.is_handshaking() {
            return Err(ErrorKind::WouldBlock.into());
        }
        for piece in data.chunks(PIECE) {
            self.flush(socket)?;
            if self.tls.wants_write() {
                break;
            }
            taken += self.tls.writer().write(piece)?;
        }
        self.flush(socket)?;
        if taken == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    fn read(&mut self, socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
        // What this does not tell, reading does.
        let _ = self.pump(socket);
        let mut filled = 0;
        while filled < buffer.len() {
            match self.tls.reader().read(&mut buffer[filled..]) {
                // The announced end. That of the stream below follows.
                Ok(0) if filled == 0 => return socket.read(&mut [0]).inspect(|count| assert_eq!(*count, 0)),
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => match self.fetch(socket) {
                    Ok(_) => {}
                    Err(_) if filled > 0 => break,
                    Err(error) => return Err(error),
                },
                Err(_) if filled > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn finish(&mut self, socket: &Socket) -> io::Result<()> {
        if self.finishing == Finish::Not {
            self.finishing = Finish::Asked;
            self.tls.send_close_notify();
        }
        self.pump(socket)
    }
}
