//! Connections whose socket buffers have a chosen size, so that "the kernel takes no more" comes when a test
//! wants it, and bytes that are easy to check at any place of a long stream.

use std::any::Any;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use socket2::{Domain, Type};
use twistor::{Port, Protocol, Transport};

use crate::{Announce, Machine, Peer, Script, Socket, World, tls};

/// How large the kernel's buffers of a connection are; `None` leaves them to the kernel.
#[derive(Clone, Copy, Default, Debug)]
pub struct Buffers {
    /// For what the reactor sends.
    pub send: Option<usize>,
    /// For what the reactor receives.
    pub receive: Option<usize>,
    /// For what the peer receives.
    pub peer_receive: Option<usize>,
}

impl Buffers {
    /// As small as they get: a few kilobytes on the way.
    pub const TIGHT: Self = Self { send: Some(4096), receive: Some(4096), peer_receive: Some(4096) };
    /// Megabytes for what the reactor sends: the kernel takes some hundred kilobytes at once.
    pub const WIDE: Self = Self { send: Some(4 << 20), receive: None, peer_receive: Some(4 << 20) };
}

impl World {
    /// Listens on a free port whose connections have these buffers.
    pub fn listen_with(&self, buffers: Buffers, factory: impl twistor::Factory) -> Port {
        let mut endpoint = "tcp:0:interface=127.0.0.1".to_owned();
        for (name, size) in [("send_buffer", buffers.send), ("recv_buffer", buffers.receive)] {
            if let Some(size) = size {
                endpoint += &format!(":{name}={size}");
            }
        }
        self.reactor.listen(self.secure_endpoint(&endpoint), factory).expect("a port")
    }

    /// Like [`World::pair`], with these buffers.
    pub fn pair_with(&self, buffers: Buffers, protocol: impl Protocol) -> (Transport, Peer<'_>) {
        let made = Rc::new(RefCell::new(None));
        let mut protocol = Some(protocol);
        let script =
            protocol.as_mut().and_then(|protocol| (protocol as &mut dyn Any).downcast_mut::<Script>());
        let port = if let Some(script) = script {
            script.announce = Some(Rc::clone(&made));
            self.listen_with(buffers, move |_: twistor::Peer| protocol.take())
        } else {
            let made = Rc::clone(&made);
            self.listen_with(buffers, move |peer: twistor::Peer| {
                let (made, reactor) = (Rc::clone(&made), peer.reactor);
                Some(Announce { protocol: Some(protocol.take()?), made, reactor })
            })
        };
        let peer = Peer::connect_with(self, port.local_addr().socket_addr().expect("an IP port"), buffers);
        self.until("the connection is accepted", || made.borrow().is_some());
        drop(port.stop_listening());
        let transport: Transport = made.borrow_mut().take().expect("just seen");
        (transport, peer)
    }
}

impl<'w> Peer<'w> {
    /// Connects with a receive buffer of a chosen size.
    #[must_use]
    pub fn connect_with(world: &'w World, address: SocketAddr, buffers: Buffers) -> Self {
        let socket = match &world.machine {
            Machine::Real => {
                let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, None);
                let socket = socket.expect("a socket");
                if let Some(size) = buffers.peer_receive {
                    socket.set_recv_buffer_size(size).expect("a receive buffer");
                }
                socket.connect(&address.into()).expect("the port takes connections");
                Socket::real(socket.into()).expect("a socket")
            }
            Machine::Simulated(_) => {
                let socket = world.machine.connect(address).expect("the port takes connections");
                if let (Socket::Simulated(raw), Some(size)) = (&socket, buffers.peer_receive) {
                    raw.set_receive_buffer(size);
                }
                socket
            }
        };
        if world.is_secured() {
            return Self::secure(world, socket, tls::common().session());
        }
        Self::of(world, socket)
    }

    /// Sends what the kernel takes until it takes no more, without turning the reactor. Returns how much it
    /// was.
    pub fn fill(&self) -> usize {
        let piece = vec![b'f'; 1 << 16];
        let mut sent = 0;
        loop {
            match self.try_send(&piece) {
                0 => return sent,
                count => sent += count,
            }
        }
    }
}

/// `count` bytes of a pattern that does not repeat at any usual size of a buffer.
#[must_use]
pub fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8).collect()
}
