//! What all peers share: the command line (`ADDR:PORT [--buffer BYTES] [--bulk]`), the listener and the line that says
//! where it listens. The listener's options (backlog, TCP_NODELAY, which accepted sockets inherit on Linux) are
//! the same for all, so that only the loops differ.

use std::fmt::Display;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::ExitCode;

use socket2::{Domain, Socket, Type};

/// What every echo peer receives into, unless told otherwise.
pub const BUFFER: usize = 64 * 1024;

/// Connections that may wait to be accepted.
pub const BACKLOG: i32 = 4096;

/// A peer's command line.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Where to listen; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// Size of a receive buffer.
    pub buffer: usize,
    /// Whether [requests](crate::bulk) are served rather than an echo, by a peer that knows both.
    pub bulk: bool,
}

/// `main` of a peer: reads the command line, runs `serve`, and reports its error.
pub fn peer_main(serve: impl FnOnce(Options) -> io::Result<()>) -> ExitCode {
    match options(std::env::args().skip(1)).and_then(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A non-blocking listener with everything set that accepted sockets are to inherit.
///
/// # Errors
/// The address cannot be listened on.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(|error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })
}

/// A non-blocking socket for datagrams.
///
/// # Errors
/// The address cannot be bound.
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot bind {address}: {error}")))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Tells whoever started this peer that it is ready.
///
/// # Errors
/// Standard output cannot be written.
pub fn announce(address: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "listening on {address}")?;
    out.flush()
}

fn options(mut arguments: impl Iterator<Item = String>) -> io::Result<Options> {
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, "usage: ADDR:PORT [--buffer BYTES] [--bulk]");
    let address = arguments.next().and_then(|text| text.parse().ok()).ok_or_else(usage)?;
    let mut options = Options { address, buffer: BUFFER, bulk: false };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bulk" => options.bulk = true,
            "--buffer" => {
                options.buffer = arguments
                    .next()
                    .and_then(|text| text.parse().ok())
                    .filter(|&n| n > 0)
                    .ok_or_else(usage)?;
            }
            _ => return Err(usage()),
        }
    }
    Ok(options)
}
