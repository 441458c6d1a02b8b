//! Where a world runs: on this machine, with its kernel and its clock, or on a simulated host. Offers what a
//! test does beside the reactor, so that it is written once for both.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use socket2::SockRef;
use twistor::testing::{Host, RawDatagrams, RawListener, RawStream};

use crate::PATIENCE;

/// The machine of a [`World`](crate::World). Clones stand for the same one, and can be moved into hooks.
#[derive(Clone, Debug)]
pub enum Machine {
    /// This one.
    Real,
    /// A host of a simulated network.
    Simulated(Host),
}

impl Machine {
    /// What its clock shows.
    #[must_use]
    pub fn now(&self) -> Instant {
        match self {
            Self::Real => Instant::now(),
            Self::Simulated(host) => host.clock(),
        }
    }

    /// The time since an earlier moment.
    #[must_use]
    pub fn since(&self, moment: Instant) -> Duration {
        self.now().saturating_duration_since(moment)
    }

    /// Does nothing else for a while: for hooks that take their time.
    pub fn spend(&self, time: Duration) {
        match self {
            Self::Real => {
                let end = Instant::now() + time;
                while Instant::now() < end {
                    std::hint::spin_loop();
                }
            }
            Self::Simulated(host) => host.compute(time),
        }
    }

    /// A socket that is connected to an address of this machine.
    ///
    /// # Errors
    ///
    /// Nobody takes it, for example because the backlog is full.
    pub fn connect(&self, address: SocketAddr) -> io::Result<Socket> {
        match self {
            Self::Real => {
                // With room in the backlog the kernel connects at once.
                let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
                Socket::real(socket)
            }
            Self::Simulated(host) => {
                let socket = host.connect_raw(address)?;
                if socket.is_connected() {
                    return Ok(Socket::Simulated(socket));
                }
                Err(match socket.receive(&mut [0]) {
                    Err(error) if error.kind() != ErrorKind::WouldBlock => error,
                    _ => ErrorKind::TimedOut.into(),
                })
            }
        }
    }

    /// A listener that is nothing to the reactor.
    ///
    /// # Errors
    ///
    /// The address is in use.
    pub fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        match self {
            Self::Real => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(Listener::Real(listener))
            }
            Self::Simulated(host) => host.listen_raw(address, 128).map(Listener::Simulated),
        }
    }

    /// A listener on a free port of 127.0.0.1.
    ///
    /// # Panics
    ///
    /// There is none.
    #[must_use]
    pub fn listen_somewhere(&self) -> Listener {
        self.listen(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port")
    }

    /// A socket for datagrams on a free port of 127.0.0.1, which is nothing to the reactor.
    ///
    /// # Panics
    ///
    /// There is none.
    #[must_use]
    pub fn mailbox(&self) -> Mailbox {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        match self {
            Self::Real => {
                let socket = UdpSocket::bind(any).expect("a free port");
                socket.set_nonblocking(true).expect("a socket that does not block");
                Mailbox::Real(socket)
            }
            Self::Simulated(host) => Mailbox::Simulated(host.datagrams_raw(any).expect("a free port")),
        }
    }

    /// How many descriptors its process has open; in a simulation those of the reactor alone.
    #[must_use]
    pub fn open_descriptors(&self) -> usize {
        match self {
            Self::Real => crate::process::open_descriptors(),
            Self::Simulated(host) => host.open_descriptors(),
        }
    }
}

/// A socket that does not block, for a test to drive by hand.
#[derive(Debug)]
pub enum Socket {
    /// Of the kernel.
    Real(TcpStream),
    /// Of a simulated network.
    Simulated(RawStream),
}

impl Socket {
    /// Takes a socket of the kernel.
    ///
    /// # Errors
    ///
    /// It is broken.
    pub fn real(socket: TcpStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        Ok(Self::Real(socket))
    }

    /// The kernel's socket, in tests that run on the drivers that have one.
    ///
    /// # Panics
    ///
    /// It is a simulated one.
    #[must_use]
    pub fn kernel(&self) -> &TcpStream {
        match self {
            Self::Real(socket) => socket,
            Self::Simulated(_) => panic!("a simulated socket has no descriptor"),
        }
    }

    /// Sends what there is room for.
    ///
    /// # Errors
    ///
    /// There is no room, or the stream is broken.
    pub fn write(&self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Real(socket) => (&*socket).write(data),
            Self::Simulated(socket) => socket.send(data),
        }
    }

    /// Receives what has arrived; 0 at the end of the stream.
    ///
    /// # Errors
    ///
    /// Nothing has arrived, or the stream is broken.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Real(socket) => (&*socket).read(buffer),
            Self::Simulated(socket) => socket.receive(buffer),
        }
    }

    /// Ends our direction with a FIN.
    ///
    /// # Errors
    ///
    /// The stream is broken.
    pub fn finish(&self) -> io::Result<()> {
        match self {
            Self::Real(socket) => socket.shutdown(std::net::Shutdown::Write),
            Self::Simulated(socket) => socket.finish(),
        }
    }

    /// Breaks the stream with a reset.
    ///
    /// # Panics
    ///
    /// The kernel refuses.
    pub fn reset(self) {
        match self {
            Self::Real(socket) => {
                SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("linger");
            }
            Self::Simulated(socket) => socket.reset(),
        }
    }

    /// Our address.
    ///
    /// # Panics
    ///
    /// The kernel does not tell.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        match self {
            Self::Real(socket) => socket.local_addr().expect("an address"),
            Self::Simulated(socket) => socket.local_addr(),
        }
    }

    /// The other end's address.
    ///
    /// # Panics
    ///
    /// The kernel does not tell.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        match self {
            Self::Real(socket) => socket.peer_addr().expect("an address"),
            Self::Simulated(socket) => socket.peer_addr(),
        }
    }

    /// Whether something can be read, without anybody doing anything more for it; a kernel is given some time
    /// to bring it.
    #[must_use]
    pub fn becomes_readable(&self) -> bool {
        match self {
            Self::Real(socket) => crate::becomes_readable(socket, PATIENCE),
            Self::Simulated(socket) => socket.is_readable(),
        }
    }
}

impl Read for &Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Socket::read(self, buffer)
    }
}

impl Write for &Socket {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Socket::write(self, data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A listener that does not block, for a test to drive by hand.
#[derive(Debug)]
pub enum Listener {
    /// Of the kernel.
    Real(TcpListener),
    /// Of a simulated network.
    Simulated(RawListener),
}

impl Listener {
    /// Where it listens.
    ///
    /// # Panics
    ///
    /// The kernel does not tell.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        match self {
            Self::Real(listener) => listener.local_addr().expect("an address"),
            Self::Simulated(listener) => listener.local_addr(),
        }
    }

    /// A connection that waits, if one does.
    ///
    /// # Panics
    ///
    /// The kernel refuses.
    #[must_use]
    pub fn accept(&self) -> Option<Socket> {
        match self {
            Self::Real(listener) => match listener.accept() {
                Ok((socket, _)) => Some(Socket::real(socket).expect("a socket")),
                Err(error) if error.kind() == ErrorKind::WouldBlock => None,
                Err(error) => panic!("cannot accept: {error}"),
            },
            Self::Simulated(listener) => listener.accept().map(Socket::Simulated),
        }
    }
}

/// A socket for datagrams that does not block, for a test to drive by hand.
#[derive(Debug)]
pub enum Mailbox {
    /// Of the kernel.
    Real(UdpSocket),
    /// Of a simulated network.
    Simulated(RawDatagrams),
}

impl Mailbox {
    /// Our address.
    ///
    /// # Panics
    ///
    /// The kernel does not tell.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        match self {
            Self::Real(socket) => socket.local_addr().expect("an address"),
            Self::Simulated(socket) => socket.local_addr(),
        }
    }

    /// Sends a datagram.
    ///
    /// # Panics
    ///
    /// It does not go.
    pub fn send(&self, data: &[u8], to: &twistor::Address) {
        let to = to.socket_addr().expect("an IP address");
        match self {
            Self::Real(socket) => drop(socket.send_to(data, to).expect("it goes")),
            Self::Simulated(socket) => socket.send_to(data, to).expect("it goes"),
        }
    }

    /// The next datagram that has arrived, and from whom it is.
    ///
    /// # Panics
    ///
    /// The socket is broken.
    #[must_use]
    pub fn receive(&self) -> Option<(Vec<u8>, SocketAddr)> {
        let received = match self {
            Self::Real(socket) => {
                let mut buffer = vec![0; 1 << 16];
                socket.recv_from(&mut buffer).map(|(count, from)| {
                    buffer.truncate(count);
                    (buffer, from)
                })
            }
            Self::Simulated(socket) => socket.receive_from(),
        };
        match received {
            Ok(datagram) => Some(datagram),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("cannot receive: {error}"),
        }
    }
}
