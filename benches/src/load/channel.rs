//! A client's connection: plain, or with TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::{ClientConfig, HandshakeKind};

use super::connect::connect;
use crate::pattern;
use crate::secure::{self, Secured};
use crate::sys;

/// How clients speak to a server.
#[derive(Debug, Clone)]
pub enum Wire {
    /// As it is.
    Plain,
    /// With TLS, and a whole handshake for each connection.
    Tls(Arc<ClientConfig>),
    /// With TLS; connections go on with the session of those before them.
    ResumedTls(Arc<ClientConfig>),
}

impl Wire {
    /// TLS with a whole handshake for each connection.
    ///
    /// # Errors
    /// rustls refuses the configuration.
    pub fn tls() -> io::Result<Self> {
        Ok(Self::Tls(secure::client_config(Resumption::disabled())?))
    }

    /// TLS where connections go on with the session of those before them.
    ///
    /// # Errors
    /// rustls refuses the configuration.
    pub fn resumed_tls() -> io::Result<Self> {
        Ok(Self::ResumedTls(secure::client_config(Resumption::default())?))
    }
}

#[derive(Debug)]
pub(super) enum Channel {
    Plain(TcpStream),
    Tls(Box<Secured>),
}

impl Channel {
    /// Connects and has one message echoed; blocking until then, and afterwards.
    pub(super) fn greet(server: SocketAddr, wire: &Wire, number: usize, length: usize) -> io::Result<Self> {
        let mut channel = Self::connect(server, wire)?;
        channel.write_all(pattern::slice(number, 0, length))?;
        let mut answer = vec![0; length];
        channel.read_exact(&mut answer)?;
        pattern::verify(number, 0, &answer)?;
        Ok(channel)
    }

    pub(super) fn connect(server: SocketAddr, wire: &Wire) -> io::Result<Self> {
        let socket = connect(server)?;
        Ok(match wire {
            Wire::Plain => Self::Plain(socket),
            Wire::Tls(config) | Wire::ResumedTls(config) => {
                Self::Tls(Box::new(secure::client(config, socket)?))
            }
        })
    }

    pub(super) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(secured) => &secured.sock,
        }
    }

    pub(super) fn as_raw_fd(&self) -> RawFd {
        self.socket().as_raw_fd()
    }

    /// Whether the handshake went on with an earlier session.
    pub(super) fn is_resumed(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(secured) => secured.conn.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }

    /// Whether something stands here that the kernel did not take.
    pub(super) fn is_blocked(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(secured) => secured.conn.wants_write(),
        }
    }

    /// Whether there may be more to read although the kernel does not say so.
    pub(super) fn reads_on(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

impl Read for Channel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => sys::recv(socket.as_fd(), buffer),
            Self::Tls(secured) => secured.read(buffer),
        }
    }
}

impl Write for Channel {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => sys::send(socket.as_fd(), data),
            Self::Tls(secured) => match secured.write(data)? {
                0 => Err(ErrorKind::WouldBlock.into()),
                count => Ok(count),
            },
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(secured) => secured.flush(),
        }
    }
}
