//! UDP endpoints as typed builders: [`UdpBind`] and [`UdpConnect`].
//!
//! A builder takes any value; what is out of range or contradicts itself is told when the builder becomes an
//! endpoint. Invariant: past that check the driver's spec inside holds only what a kernel can be asked for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::error::EndpointError;
use super::limits;
use crate::driver::options::DatagramSpec;

/// What a socket for datagrams keeps and takes at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DatagramLimits {
    /// Datagrams that wait for the system to take them.
    pub(crate) queue: usize,
    /// Bytes of those.
    pub(crate) queue_bytes: usize,
    /// Bytes of a received datagram.
    pub(crate) max_datagram: usize,
}

impl Default for DatagramLimits {
    fn default() -> Self {
        Self { queue: 1024, queue_bytes: 4 << 20, max_datagram: 65_535 }
    }
}

impl DatagramLimits {
    pub(super) fn check(&self) -> Result<(), String> {
        limits::DATAGRAM_QUEUE.check("queue", self.queue)?;
        limits::DATAGRAM_QUEUE_BYTES.check("queue_bytes", self.queue_bytes)?;
        limits::MAX_DATAGRAM.check("max_datagram", self.max_datagram)
    }
}

fn spec(local: Option<SocketAddr>, remote: Option<SocketAddr>) -> DatagramSpec {
    DatagramSpec {
        local: local.map(Into::into),
        remote: remote.map(Into::into),
        reuse_address: false,
        reuse_port: false,
        v6only: None,
        broadcast: false,
        recv_buffer: None,
        send_buffer: None,
        bind_device: None,
    }
}

fn check_options(spec: &DatagramSpec) -> Result<(), String> {
    if let Some(size) = spec.recv_buffer {
        limits::BUFFER.check("recv_buffer", size)?;
    }
    if let Some(size) = spec.send_buffer {
        limits::BUFFER.check("send_buffer", size)?;
    }
    if let Some(device) = &spec.bind_device {
        limits::check_device(device).map_err(|complaint| format!("bind_device {device:?} {complaint}"))?;
    }
    Ok(())
}

/// The options that both kinds of sockets have.
macro_rules! common_options {
    () => {
        /// Whether it may send to broadcast addresses (`SO_BROADCAST`). Off by default: sending to one is an
        /// error then.
        pub fn broadcast(mut self, on: bool) -> Self {
            self.spec.broadcast = on;
            self
        }

        /// The system's receive buffer in bytes: datagrams that find it full are lost. By default the system
        /// chooses. Systems change the number to their liking: Linux doubles it and caps it at
        /// `net.core.rmem_max`.
        pub fn recv_buffer(mut self, bytes: usize) -> Self {
            self.spec.recv_buffer = Some(bytes);
            self
        }

        /// The system's send buffer in bytes. By default the system chooses. Systems change the number to
        /// their liking: Linux doubles it and caps it at `net.core.wmem_max`.
        pub fn send_buffer(mut self, bytes: usize) -> Self {
            self.spec.send_buffer = Some(bytes);
            self
        }

        /// Sends and receives only through this network device, such as `eth0`.
        pub fn bind_device(mut self, device: impl Into<String>) -> Self {
            self.spec.bind_device = Some(device.into());
            self
        }

        /// How many datagrams, and how many bytes of them, wait at most while the system takes no more: 1 to
        /// 1048576, and 65535 to 1073741824. What is sent beyond is dropped and counted. Default: 1024
        /// datagrams, 4 MiB.
        pub fn queue_limit(mut self, datagrams: usize, bytes: usize) -> Self {
            (self.limits.queue, self.limits.queue_bytes) = (datagrams, bytes);
            self
        }

        /// The longest datagram that is received whole: 1 to 65535 bytes. A longer one is reported as
        /// truncated. By default every datagram that UDP can carry is received whole.
        pub fn max_datagram(mut self, bytes: usize) -> Self {
            self.limits.max_datagram = bytes;
            self
        }

        /// All limits at once.
        pub(super) fn limited(self, limits: DatagramLimits) -> Self {
            Self { limits, ..self }
        }

        pub(crate) fn spec(&self) -> &DatagramSpec {
            &self.spec
        }

        pub(crate) fn limits(&self) -> DatagramLimits {
            self.limits
        }

        pub(super) fn check(&self) -> Result<(), EndpointError> {
            self.check_values().map_err(|complaint| EndpointError::in_builder(self.address(), complaint))
        }
    };
}

/// A UDP port to receive at and to send from, with the options of its socket.
///
/// ```
/// use std::net::Ipv4Addr;
/// use twistor::endpoint::UdpBind;
///
/// let endpoint = UdpBind::new(8000).interface(Ipv4Addr::LOCALHOST).recv_buffer(1 << 20);
/// assert_eq!(endpoint.address().to_string(), "127.0.0.1:8000");
/// ```
///
/// # Portability
///
/// [`bind_device`](Self::bind_device) exists on Linux only, [`reuse_port`](Self::reuse_port) on Unix.
/// Elsewhere opening a socket with one of them fails with an error of kind
/// [`Unsupported`](std::io::ErrorKind::Unsupported).
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a builder does nothing until it is listened on"]
pub struct UdpBind {
    spec: DatagramSpec,
    limits: DatagramLimits,
    address: SocketAddr,
}

impl UdpBind {
    /// At all IPv4 addresses of this machine. Port 0 lets the system choose a free one.
    pub fn new(port: u16) -> Self {
        Self::on((Ipv4Addr::UNSPECIFIED, port).into())
    }

    /// At all addresses of this machine, IPv6 and IPv4 (see [`v6only`](Self::v6only)).
    pub fn v6(port: u16) -> Self {
        Self::on((Ipv6Addr::UNSPECIFIED, port).into())
    }

    /// At one address.
    pub fn on(address: SocketAddr) -> Self {
        Self { spec: spec(Some(address), None), limits: DatagramLimits::default(), address }
    }

    /// At this IP address only, with the port as it is.
    pub fn interface(self, interface: impl Into<IpAddr>) -> Self {
        let address = SocketAddr::new(interface.into(), self.address.port());
        Self { spec: DatagramSpec { local: Some(address.into()), ..self.spec }, address, ..self }
    }

    /// Whether to share the address with other sockets that ask for the same (`SO_REUSEADDR`), as several
    /// receivers of one multicast group on one machine have to. Off by default: of unicast datagrams only one
    /// of them gets each.
    pub fn reuse_address(mut self, on: bool) -> Self {
        self.spec.reuse_address = on;
        self
    }

    /// Whether to share the port with other sockets that ask for the same (`SO_REUSEPORT`): one socket per
    /// thread or process. Linux and FreeBSD spread the senders over them. Off by default.
    pub fn reuse_port(mut self, on: bool) -> Self {
        self.spec.reuse_port = on;
        self
    }

    /// Whether an IPv6 socket refuses IPv4 peers. Off by default: `[::]` takes both (but on OpenBSD, which
    /// has no such sockets).
    pub fn v6only(mut self, on: bool) -> Self {
        self.spec.v6only = Some(on);
        self
    }

    common_options!();

    /// The address as asked for: port 0 stays 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn check_values(&self) -> Result<(), String> {
        if self.spec.v6only == Some(true) && self.address.is_ipv4() {
            return Err(format!(
                "v6only is asked for with the IPv4 address {}; use an IPv6 address or leave it out",
                self.address.ip()
            ));
        }
        self.limits.check()?;
        check_options(&self.spec)
    }
}

/// A UDP peer: the socket sends to it, and receives from nobody else.
///
/// ```
/// use std::net::Ipv4Addr;
/// use twistor::endpoint::UdpConnect;
///
/// let endpoint = UdpConnect::new((Ipv4Addr::LOCALHOST, 53).into()).max_datagram(1232);
/// assert_eq!(endpoint.address().to_string(), "127.0.0.1:53");
/// ```
///
/// # Portability
///
/// [`bind_device`](Self::bind_device) exists on Linux only; elsewhere connecting with it fails with an error
/// of kind [`Unsupported`](std::io::ErrorKind::Unsupported).
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a builder does nothing until it is connected"]
pub struct UdpConnect {
    spec: DatagramSpec,
    limits: DatagramLimits,
    address: SocketAddr,
    local: Option<SocketAddr>,
}

impl UdpConnect {
    /// Connects to this address.
    pub fn new(address: SocketAddr) -> Self {
        Self { spec: spec(None, Some(address)), limits: DatagramLimits::default(), address, local: None }
    }

    /// The address to send from; port 0 lets the system choose one. By default the system chooses both.
    pub fn local_addr(mut self, address: SocketAddr) -> Self {
        self.spec.local = Some(address.into());
        self.local = Some(address);
        self
    }

    common_options!();

    /// The address of the peer.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn check_values(&self) -> Result<(), String> {
        limits::CONNECT_PORT.check("port", self.address.port())?;
        if let Some(local) = self.local.filter(|local| local.is_ipv4() != self.address.is_ipv4()) {
            let families =
                if local.is_ipv4() { "IPv4 and the peer's IPv6" } else { "IPv6 and the peer's IPv4" };
            return Err(format!(
                "the local address {} is {families}; both have to be of one family",
                local.ip()
            ));
        }
        self.limits.check()?;
        check_options(&self.spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(endpoint: &UdpBind) -> String {
        endpoint.check().unwrap_err().to_string().split_off("bad endpoint 0.0.0.0:80: ".len())
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let new = || UdpBind::new(80);
        assert_eq!(
            complaint(&new().queue_limit(0, 1 << 20)),
            "queue 0 is not from 1 to 1048576; 1024 suits most programs"
        );
        assert_eq!(
            complaint(&new().queue_limit(1, 1000)),
            "queue_bytes 1000 is not from 65535 to 1073741824; one datagram has to fit"
        );
        assert_eq!(
            complaint(&new().max_datagram(65_536)),
            "max_datagram 65536 is not from 1 to 65535; leave it out to receive every datagram whole"
        );
        assert_eq!(
            complaint(&new().v6only(true)),
            "v6only is asked for with the IPv4 address 0.0.0.0; use an IPv6 address or leave it out"
        );
        assert_eq!(
            complaint(&new().recv_buffer(0)),
            "recv_buffer 0 is not from 1 to 2147483647; leave it out for the system's own choice"
        );
        assert!(complaint(&new().bind_device("")).starts_with("bind_device \"\" is empty"));
        new().queue_limit(1, 65_535).max_datagram(1).check().unwrap();
    }

    #[test]
    fn a_peer_needs_a_port_and_one_family() {
        let error = UdpConnect::new((Ipv4Addr::LOCALHOST, 0).into()).check().unwrap_err();
        assert_eq!(error.to_string(), "bad endpoint 127.0.0.1:0: port 0 is not from 1 to 65535");
        let mixed =
            UdpConnect::new((Ipv4Addr::LOCALHOST, 9).into()).local_addr((Ipv6Addr::LOCALHOST, 0).into());
        assert_eq!(
            mixed.check().unwrap_err().to_string(),
            "bad endpoint 127.0.0.1:9: the local address ::1 is IPv6 and the peer's IPv4; both have to be of one family"
        );
    }

    #[test]
    fn broadcast_and_sharing_are_off_unless_asked_for() {
        let spec = UdpBind::new(80).spec;
        assert!(!spec.broadcast && !spec.reuse_address && !spec.reuse_port);
        assert!(UdpBind::new(80).broadcast(true).spec.broadcast);
    }
}
