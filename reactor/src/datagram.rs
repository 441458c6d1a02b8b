//! The trait that users implement for datagrams: [`DatagramProtocol`].

use std::io;

use crate::core::address::Address;
use crate::reactor::datagrams::DatagramSocket;

/// What a socket for datagrams does: its hooks are called by the reactor, one at a time, never from inside
/// another call.
///
/// The order is: [`started`](Self::started) once, then any of the others, then [`stopped`](Self::stopped)
/// once and last. What hooks send goes out when they return: many datagrams with one system call, where the
/// system can do that.
///
/// A hook that panics changes nothing about the socket: the next datagram is delivered as ever.
///
/// A closure that takes the socket, the data and the sender is a protocol that only receives:
///
/// ```
/// use twistor::{Address, DatagramSocket, Reactor};
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// let echo = |socket: &DatagramSocket, data: &[u8], from: &Address| {
///     let _ = socket.send_to(data, from);
/// };
/// let socket = reactor.listen_datagram("udp:0:interface=127.0.0.1", echo)?;
/// # let address = socket.local_addr().socket_addr().unwrap();
/// # let peer = std::net::UdpSocket::bind("127.0.0.1:0")?;
/// # peer.send_to(b"hello", address)?;
/// # let mut buffer = [0; 10];
/// # reactor.turn(Some(std::time::Duration::from_secs(5)))?;
/// # assert_eq!(peer.recv(&mut buffer)?, 5);
/// # Ok(())
/// # }
/// ```
pub trait DatagramProtocol: 'static {
    /// The socket is open.
    fn started(&mut self, socket: &DatagramSocket) {
        let _ = socket;
    }

    /// A datagram arrived, as it was sent; it may be empty.
    fn datagram_received(&mut self, socket: &DatagramSocket, data: &[u8], from: &Address);

    /// A datagram arrived that is longer than the socket takes: `data` is its beginning. It is counted, and
    /// unless this hook says otherwise dropped.
    fn datagram_truncated(&mut self, socket: &DatagramSocket, data: &[u8], from: &Address) {
        log::debug!(
            "{}: dropped a datagram from {from} that is longer than {} bytes",
            socket.local_addr(),
            data.len()
        );
    }

    /// A datagram that a connected socket sent came back: nobody takes datagrams there (ICMP "port
    /// unreachable"). The socket is as usable as before. A socket that is not connected never hears of it.
    ///
    /// On a Unix socket it is called once for all that was queued, which is gone and counted as failed. What
    /// is sent later goes to whoever has the peer's address by then.
    fn connection_refused(&mut self, socket: &DatagramSocket) {
        let _ = socket;
    }

    /// A datagram could not be sent, and is gone: no route, a firewall rule, a broadcast address without
    /// leave to use one. `to` is `None` on a connected socket.
    fn send_failed(&mut self, socket: &DatagramSocket, to: Option<&Address>, error: &io::Error) {
        let _ = (socket, to, error);
    }

    /// The socket is closed. Its addresses can still be read.
    fn stopped(&mut self, socket: &DatagramSocket) {
        let _ = socket;
    }

    /// The type's name, for the log.
    #[doc(hidden)]
    fn type_name(&self) -> &'static str {
        std::any::type_name::<Self>()
    }
}

impl<F: FnMut(&DatagramSocket, &[u8], &Address) + 'static> DatagramProtocol for F {
    fn datagram_received(&mut self, socket: &DatagramSocket, data: &[u8], from: &Address) {
        self(socket, data, from);
    }
}
