//! Opening client sockets.
//!
//! A loopback server sees each client come from another address of 127.1.0.0/16. Closed connections stay in
//! TIME_WAIT for a minute, and tens of thousands of runs would otherwise use up the ports of 127.0.0.1.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::{Domain, Socket, Type};

use super::PATIENCE;

/// A connected, blocking stream with TCP_NODELAY and time-outs.
pub(super) fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let socket = open(server)?;
    socket.connect(&server.into()).map_err(|error| named(server, &error))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

/// A non-blocking stream that may not be connected yet.
pub(super) fn start_connect(server: SocketAddr) -> io::Result<TcpStream> {
    let socket = open(server)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&server.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(named(server, &error)),
        _ => Ok(socket.into()),
    }
}

fn open(server: SocketAddr) -> io::Result<Socket> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?;
    if server.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let source = Ipv4Addr::new(127, 1, (number / 250 % 250) as u8, (number % 250 + 1) as u8);
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    Ok(socket)
}

fn named(server: SocketAddr, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot connect to {server}: {error}"))
}
