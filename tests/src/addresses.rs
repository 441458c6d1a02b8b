//! Addresses that a test needs: one where nobody listens, one where nobody answers.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Type};

use crate::{Machine, Socket, process};

/// A listener whose backlog is full: it answers no further attempt.
#[derive(Debug)]
pub struct Silent {
    /// Where it listens.
    pub address: SocketAddr,
    _listener: Box<dyn std::fmt::Debug>,
    _waiting: Vec<Socket>,
}

impl Machine {
    /// An address where nobody listens.
    ///
    /// # Panics
    ///
    /// The kernel has none.
    #[must_use]
    pub fn vacant(&self) -> SocketAddr {
        // Bound and never listened on: nobody else gets the number meanwhile.
        thread_local! {
            static HELD: RefCell<Vec<socket2::Socket>> = const { RefCell::new(Vec::new()) };
        }
        match self {
            Self::Real => {
                let (socket, address) = bound();
                HELD.with_borrow_mut(|held| held.push(socket));
                address
            }
            Self::Simulated(_) => ([127, 0, 0, 1], 1).into(),
        }
    }

    /// An address where nobody takes datagrams.
    ///
    /// # Panics
    ///
    /// The kernel has none.
    #[must_use]
    pub fn vacant_for_datagrams(&self) -> SocketAddr {
        // Held, so that nobody else gets the number meanwhile, and deaf to everybody but a peer that never
        // sends.
        thread_local! {
            static DEAF: std::net::UdpSocket = {
                let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).expect("a free port");
                socket.connect(("127.0.0.2", 9)).expect("a peer");
                socket
            };
        }
        match self {
            Self::Real => DEAF.with(|socket| socket.local_addr().expect("an address")),
            Self::Simulated(_) => ([127, 0, 0, 1], 1).into(),
        }
    }

    /// A listener that answers no attempt.
    ///
    /// # Panics
    ///
    /// Its backlog has no end.
    #[must_use]
    pub fn silent(&self) -> Silent {
        let (listener, address): (Box<dyn std::fmt::Debug>, _) = match self {
            Self::Real => {
                let (listener, address) = bound();
                listener.listen(1).expect("a listener");
                (Box::new(listener), address)
            }
            Self::Simulated(host) => {
                let listener = host.listen_raw(([127, 0, 0, 1], 0).into(), 1).expect("a listener");
                let address = listener.local_addr();
                (Box::new(listener), address)
            }
        };
        let mut waiting = Vec::new();
        loop {
            let attempt = match self {
                Self::Real => TcpStream::connect_timeout(&address, Duration::from_millis(100))
                    .map(|socket| Socket::real(socket).expect("a socket")),
                Self::Simulated(_) => self.connect(address),
            };
            match attempt {
                Ok(socket) => waiting.push(socket),
                Err(error) if error.kind() == ErrorKind::TimedOut => break,
                Err(error) => panic!("cannot fill the backlog: {error}"),
            }
            assert!(waiting.len() < 50, "the backlog has no end");
        }
        Silent { address, _listener: listener, _waiting: waiting }
    }

    /// Whether a socket listens at exactly this IPv4 address. (To connect would not tell: a parallel test
    /// that listens at all addresses may have been given the same port number.)
    ///
    /// # Panics
    ///
    /// The system does not tell.
    #[must_use]
    pub fn is_listened_on(&self, address: SocketAddr) -> bool {
        let host = match self {
            Self::Real => return is_in_table(address),
            Self::Simulated(host) => host,
        };
        match host.listen_raw(address, 1) {
            Ok(_) => false,
            Err(error) if error.kind() == ErrorKind::AddrInUse => true,
            Err(error) => panic!("{address}: {error}"),
        }
    }
}

fn is_in_table(address: SocketAddr) -> bool {
    let SocketAddr::V4(v4) = address else { panic!("not asked for {address}") };
    let place = format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table of sockets");
    // Columns: number, local address, remote address, state; 0A is "listening".
    table.lines().any(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        matches!(columns[..], [_, local, _, "0A", ..] if local == place)
    })
}

/// A socket with an address of its own.
fn bound() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((process::own_address(), 0)).into()).expect("a free port");
    let address = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
    (socket, address)
}
