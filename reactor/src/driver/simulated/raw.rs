//! Sockets without a reactor: the peers that a test drives by hand.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use super::SharedNetwork;
use super::network::{HostId, Owner, SocketId};
use super::stream::Stage;
use crate::core::address::Address;
use crate::driver::options::{DatagramSpec, ListenSpec, TcpOptions};

/// A stream in a simulated network without a reactor at its end: a peer that does exactly what the test tells
/// it.
///
/// It behaves like a non-blocking socket: what cannot be done now is
/// [`WouldBlock`](io::ErrorKind::WouldBlock). Dropping it closes it, with a reset if something was left
/// unread, as a kernel does.
pub struct RawStream {
    network: SharedNetwork,
    socket: SocketId,
    local: SocketAddr,
    peer: SocketAddr,
}

impl RawStream {
    pub(crate) fn connect(network: &SharedNetwork, host: HostId, to: SocketAddr) -> io::Result<Self> {
        let mut state = network.borrow_mut();
        let socket = state.connect(host, to, None, &TcpOptions::default(), Owner::Raw)?;
        let local = state.ends.get(socket).map_or(to, |end| end.local);
        let now = state.now();
        state.advance(now);
        drop(state);
        Ok(Self { network: Rc::clone(network), socket, local, peer: to })
    }

    /// Our address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The peer's address.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// Whether the connection exists: the attempt has succeeded, and nothing has broken it.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        let network = self.network.borrow();
        network.ends.get(self.socket).is_some_and(|end| end.stage == Stage::Open)
    }

    /// Sends as much of `data` as there is room for.
    ///
    /// # Errors
    ///
    /// There is no room ([`WouldBlock`](io::ErrorKind::WouldBlock)), or the stream is broken.
    pub fn send(&self, data: &[u8]) -> io::Result<usize> {
        self.up_to_now().send(self.socket, data)
    }

    /// Receives what has arrived; 0 at the end of the stream.
    ///
    /// # Errors
    ///
    /// Nothing has arrived ([`WouldBlock`](io::ErrorKind::WouldBlock)), or the stream is broken.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.up_to_now().receive(self.socket, buffer)
    }

    /// Bytes that have arrived and were not received.
    #[must_use]
    pub fn available(&self) -> usize {
        self.up_to_now().readable_bytes(self.socket)
    }

    /// Whether [`receive`](Self::receive) has something to say: bytes, the end, or an error.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.up_to_now().ends.get(self.socket).is_some_and(super::stream::End::is_readable)
    }

    /// From now on it takes this many bytes from the peer that nobody has received, as with `SO_RCVBUF`.
    ///
    /// # Panics
    ///
    /// With 0: nothing could ever arrive.
    pub fn set_receive_buffer(&self, size: usize) {
        assert!(size > 0, "a buffer of 0 bytes would carry nothing");
        self.up_to_now().set_receive_buffer(self.socket, size);
    }

    /// Ends our direction, behind everything that was sent.
    ///
    /// # Errors
    ///
    /// The stream is not connected.
    pub fn finish(&self) -> io::Result<()> {
        self.up_to_now().shut_down(self.socket)
    }

    /// Breaks the stream: the peer gets a reset.
    pub fn reset(self) {
        self.network.borrow_mut().reset(self.socket);
    }

    /// The network, with everything done that is due.
    fn up_to_now(&self) -> std::cell::RefMut<'_, super::network::Network> {
        let mut network = self.network.borrow_mut();
        let now = network.now();
        network.advance(now);
        network
    }
}

impl io::Read for RawStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.receive(buffer)
    }
}

impl io::Write for RawStream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.send(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for RawStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawStream").field("local", &self.local).field("peer", &self.peer).finish()
    }
}

impl Drop for RawStream {
    fn drop(&mut self) {
        self.network.borrow_mut().close(self.socket);
    }
}

/// A listening socket in a simulated network without a reactor.
pub struct RawListener {
    network: SharedNetwork,
    socket: SocketId,
    address: SocketAddr,
}

impl RawListener {
    pub(crate) fn bind(
        network: &SharedNetwork,
        host: HostId,
        address: SocketAddr,
        backlog: u32,
    ) -> io::Result<Self> {
        let spec = ListenSpec {
            address,
            backlog,
            reuse_address: true,
            reuse_port: false,
            v6only: None,
            defer_accept: None,
            fast_open: None,
            tcp: TcpOptions::default(),
        };
        let (socket, address) = network.borrow_mut().listen(host, &spec, Owner::Raw)?;
        Ok(Self { network: Rc::clone(network), socket, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The next stream that waits, if one does.
    #[must_use]
    pub fn accept(&self) -> Option<RawStream> {
        let mut network = self.network.borrow_mut();
        let now = network.now();
        network.advance(now);
        let socket = network.take_waiting(self.socket)?;
        let end = network.ends.get_mut(socket)?;
        end.owner = Owner::Raw;
        let (local, peer) = (end.local, end.remote);
        drop(network);
        Some(RawStream { network: Rc::clone(&self.network), socket, local, peer })
    }
}

impl fmt::Debug for RawListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawListener").field("address", &self.address).finish()
    }
}

impl Drop for RawListener {
    fn drop(&mut self) {
        self.network.borrow_mut().close_listener(self.socket);
    }
}

/// A socket for datagrams in a simulated network without a reactor.
pub struct RawDatagrams {
    network: SharedNetwork,
    socket: SocketId,
    address: SocketAddr,
}

impl RawDatagrams {
    pub(crate) fn open(
        network: &SharedNetwork,
        host: HostId,
        local: Option<SocketAddr>,
        remote: Option<SocketAddr>,
    ) -> io::Result<Self> {
        let spec = DatagramSpec {
            local: local.map(Address::from),
            remote: remote.map(Address::from),
            reuse_address: false,
            reuse_port: false,
            v6only: None,
            broadcast: true,
            recv_buffer: Some(1 << 20),
            send_buffer: None,
            bind_device: None,
        };
        let (socket, address) = network.borrow_mut().bind_datagram(host, &spec, Owner::Raw)?;
        let address = address.socket_addr().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { network: Rc::clone(network), socket, address })
    }

    /// Our address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Sends a datagram, which may get lost on its way.
    ///
    /// # Errors
    ///
    /// An earlier one was refused, or the link takes no more now ([`WouldBlock`](io::ErrorKind::WouldBlock)).
    pub fn send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<()> {
        self.up_to_now().send_datagram(self.socket, Some(to), data)
    }

    /// Receives the next datagram that has arrived, and from whom it is.
    ///
    /// # Errors
    ///
    /// None has arrived ([`WouldBlock`](io::ErrorKind::WouldBlock)), or one of ours was refused.
    pub fn receive_from(&self) -> io::Result<(Vec<u8>, SocketAddr)> {
        let packet = self.up_to_now().receive_datagram(self.socket)?;
        Ok((packet.data, packet.from))
    }

    /// The network, with everything done that is due.
    fn up_to_now(&self) -> std::cell::RefMut<'_, super::network::Network> {
        let mut network = self.network.borrow_mut();
        let now = network.now();
        network.advance(now);
        network
    }
}

impl fmt::Debug for RawDatagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawDatagrams").field("address", &self.address).finish()
    }
}

impl Drop for RawDatagrams {
    fn drop(&mut self) {
        self.network.borrow_mut().close_mailbox(self.socket);
    }
}
