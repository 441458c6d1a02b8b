//! What a driver needs to know to open a socket: plain data, one struct per way of opening.
//!
//! The typed builders above the driver convert into these and have checked the values by then;
//! [`socket`](super::socket) turns them into system calls. Invariant: nothing here does anything, so every
//! driver, also one without a kernel, can read it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::core::address::{Address, UnixAddress};
use crate::core::multicast::MulticastInterface;

/// How to open a listening TCP socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListenSpec {
    /// Where to listen; port 0 lets the kernel choose.
    pub(crate) address: SocketAddr,
    /// How many connections may wait to be accepted; the kernel may cap it.
    pub(crate) backlog: u32,
    /// Listen although connections of an earlier listener linger.
    pub(crate) reuse_address: bool,
    /// Share the port with other sockets that ask for the same.
    pub(crate) reuse_port: bool,
    /// Whether an IPv6 socket refuses IPv4 peers; `None` is "both" for `[::]` and of no meaning elsewhere.
    pub(crate) v6only: Option<bool>,
    /// Report a connection only once it has sent something, at the latest after this time.
    pub(crate) defer_accept: Option<Duration>,
    /// How many TCP Fast Open connections may wait for the end of their handshake.
    pub(crate) fast_open: Option<u32>,
    /// What accepted connections inherit.
    pub(crate) tcp: TcpOptions,
}

/// How to open a TCP connection. Its time-out is kept by the layers above: a driver has no deadlines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConnectSpec {
    /// Where to connect to.
    pub(crate) address: SocketAddr,
    /// The local address to bind first; port 0 lets the kernel choose.
    pub(crate) local_address: Option<SocketAddr>,
    /// Options of the connection.
    pub(crate) tcp: TcpOptions,
}

/// How to open a listening Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnixListenSpec {
    /// Where to listen; never unnamed.
    pub(crate) address: UnixAddress,
    /// Who may connect, as the permission bits of the socket file; `None` leaves it to the umask.
    pub(crate) mode: Option<u32>,
    /// How many connections may wait to be accepted; the kernel may cap it.
    pub(crate) backlog: u32,
    /// What accepted connections are like.
    pub(crate) options: UnixOptions,
}

/// How to open a connection to a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnixConnectSpec {
    /// Where to connect to; never unnamed.
    pub(crate) address: UnixAddress,
    /// The address to bind first.
    pub(crate) local_address: Option<UnixAddress>,
    /// What the connection is like.
    pub(crate) options: UnixOptions,
}

/// Options of a connection through a Unix socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct UnixOptions {
    /// Take descriptors that the peer passes; else the kernel closes them.
    pub(crate) descriptors: bool,
    /// The kernel's receive buffer in bytes; `None` leaves it to the kernel.
    pub(crate) recv_buffer: Option<usize>,
    /// The kernel's send buffer in bytes; `None` leaves it to the kernel.
    pub(crate) send_buffer: Option<usize>,
}

/// The descriptors of a stream that stands on a pipe, a terminal or a file; one may be missing.
#[cfg(unix)]
#[derive(Debug)]
pub(crate) struct PipeEnds {
    pub(crate) input: Option<std::os::fd::OwnedFd>,
    pub(crate) output: Option<std::os::fd::OwnedFd>,
    /// Other processes may have the same open files: their flags are left alone as far as possible.
    pub(crate) is_shared: bool,
}

/// Options of a connection, set on its socket or on the listener that it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TcpOptions {
    /// Send small segments at once (TCP_NODELAY) instead of waiting for acknowledgements.
    pub(crate) nodelay: bool,
    /// Probe an idle peer; `None` does not.
    pub(crate) keep_alive: Option<KeepAliveSpec>,
    /// The kernel's receive buffer in bytes; `None` leaves it to the kernel's own tuning.
    pub(crate) recv_buffer: Option<usize>,
    /// The kernel's send buffer in bytes; `None` leaves it to the kernel's own tuning.
    pub(crate) send_buffer: Option<usize>,
    /// The network device that the traffic has to use.
    pub(crate) bind_device: Option<String>,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self { nodelay: true, keep_alive: None, recv_buffer: None, send_buffer: None, bind_device: None }
    }
}

/// When the kernel probes an idle peer, and when it gives it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeepAliveSpec {
    /// Silence before the first probe.
    pub(crate) idle: Duration,
    /// Time between two probes.
    pub(crate) interval: Duration,
    /// Unanswered probes before the connection is lost.
    pub(crate) count: u32,
}

/// How to open a socket for datagrams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DatagramSpec {
    /// The address to bind; port 0 lets the kernel choose. `None` leaves all of it to the kernel.
    pub(crate) local: Option<Address>,
    /// The only peer, if there is to be only one.
    pub(crate) remote: Option<Address>,
    /// Share the address with other sockets that ask for the same, as multicast needs it.
    pub(crate) reuse_address: bool,
    /// Share the port with other sockets that ask for the same; the kernel spreads datagrams over them.
    pub(crate) reuse_port: bool,
    /// Whether an IPv6 socket refuses IPv4 peers; `None` is "both" for `[::]` and of no meaning elsewhere.
    pub(crate) v6only: Option<bool>,
    /// May send to broadcast addresses.
    pub(crate) broadcast: bool,
    /// The kernel's receive buffer in bytes; `None` leaves it to the kernel.
    pub(crate) recv_buffer: Option<usize>,
    /// The kernel's send buffer in bytes; `None` leaves it to the kernel.
    pub(crate) send_buffer: Option<usize>,
    /// The network device that the traffic has to use.
    pub(crate) bind_device: Option<String>,
}

/// How to open a Unix socket for datagrams; at least one of its addresses is there, none of them unnamed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnixDatagramSpec {
    /// The address to bind.
    pub(crate) local: Option<UnixAddress>,
    /// The only peer, if there is to be only one.
    pub(crate) remote: Option<UnixAddress>,
    /// Without an address to bind, let the kernel choose an abstract name.
    pub(crate) autobind: bool,
    /// Who may send to it, as the permission bits of the socket file; `None` leaves it to the umask.
    pub(crate) mode: Option<u32>,
    /// What the socket is like.
    pub(crate) options: UnixOptions,
}

/// Something to change about an open socket for datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DatagramOption {
    JoinGroup(IpAddr, MulticastInterface),
    LeaveGroup(IpAddr, MulticastInterface),
    /// Through which interface multicast is sent.
    MulticastInterface(MulticastInterface),
    /// How many routers multicast passes.
    MulticastTtl(u32),
    /// Whether this host gets what it sends to groups that it has joined.
    MulticastLoop(bool),
    /// How many routers everything else passes.
    Ttl(u32),
    Broadcast(bool),
}
