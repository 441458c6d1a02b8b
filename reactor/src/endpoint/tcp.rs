//! TCP endpoints as typed builders: [`TcpListen`] and [`TcpConnect`].
//!
//! A builder takes any value; what is out of range or contradicts itself is told when the builder becomes an
//! endpoint. Invariant: past that check the driver's specs inside hold only what a kernel can be asked for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::error::EndpointError;
use super::keep_alive::{self, KeepAlive};
use super::limits;
use super::parse;
use crate::driver::options::{ConnectSpec, ListenSpec, TcpOptions};

/// A TCP port to listen on, with the options of its socket and of the connections it accepts.
///
/// All options are set before the socket is bound, so that no connection exists without them.
///
/// ```
/// use std::net::Ipv4Addr;
/// use std::time::Duration;
/// use twistor::endpoint::{KeepAlive, TcpListen};
///
/// let endpoint = TcpListen::new(8000)
///     .interface(Ipv4Addr::LOCALHOST)
///     .backlog(4096)
///     .keep_alive(KeepAlive::new().idle(Duration::from_secs(30)));
/// assert_eq!(endpoint.address().to_string(), "127.0.0.1:8000");
/// ```
///
/// # Portability
///
/// [`defer_accept`](Self::defer_accept), [`fast_open`](Self::fast_open) and
/// [`bind_device`](Self::bind_device) exist on Linux only, [`reuse_port`](Self::reuse_port) on Unix.
/// Elsewhere listening with one of them fails with an error of kind
/// [`Unsupported`](std::io::ErrorKind::Unsupported).
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a builder does nothing until it is listened on"]
pub struct TcpListen {
    spec: ListenSpec,
}

impl TcpListen {
    /// Listens on all IPv4 addresses of this machine. Port 0 lets the system choose a free one.
    pub fn new(port: u16) -> Self {
        Self::on((Ipv4Addr::UNSPECIFIED, port).into())
    }

    /// Listens on all addresses of this machine, IPv6 and IPv4 (see [`v6only`](Self::v6only)).
    pub fn v6(port: u16) -> Self {
        Self::on((Ipv6Addr::UNSPECIFIED, port).into())
    }

    /// Listens on one address.
    pub fn on(address: SocketAddr) -> Self {
        Self {
            spec: ListenSpec {
                address,
                backlog: 1024,
                reuse_address: cfg!(unix),
                reuse_port: false,
                v6only: None,
                defer_accept: None,
                fast_open: None,
                tcp: TcpOptions::default(),
            },
        }
    }

    /// Listens on this IP address only, with the port as it is.
    pub fn interface(mut self, interface: impl Into<IpAddr>) -> Self {
        self.spec.address = SocketAddr::new(interface.into(), self.spec.address.port());
        self
    }

    /// How many connections may wait to be accepted: 1 to 65535, 1024 by default. The system may cap it
    /// (Linux at `net.core.somaxconn`).
    pub fn backlog(mut self, connections: u32) -> Self {
        self.spec.backlog = connections;
        self
    }

    /// Whether to listen although connections of an earlier listener on this address linger (`SO_REUSEADDR`).
    /// On by default, so that a server can be restarted; off on Windows, where it would take the port from
    /// another program.
    pub fn reuse_address(mut self, on: bool) -> Self {
        self.spec.reuse_address = on;
        self
    }

    /// Whether to share the port with other sockets that ask for the same (`SO_REUSEPORT`): one listener per
    /// thread or process. Linux and FreeBSD spread the connections over them. Off by default.
    pub fn reuse_port(mut self, on: bool) -> Self {
        self.spec.reuse_port = on;
        self
    }

    /// Whether an IPv6 listener refuses IPv4 peers. Off by default: `[::]` takes both (but on OpenBSD, which
    /// has no such sockets).
    pub fn v6only(mut self, on: bool) -> Self {
        self.spec.v6only = Some(on);
        self
    }

    /// Reports a connection only once the peer has sent something, at the latest after `wait`: 1 second to 1
    /// hour, rounded up to whole seconds. For protocols in which the client speaks first. Off by default.
    pub fn defer_accept(mut self, wait: Duration) -> Self {
        self.spec.defer_accept = Some(wait);
        self
    }

    /// Accepts data that comes with the first packet of a known peer (TCP Fast Open, RFC 7413), with at most
    /// `queue` such connections waiting: 1 to 65535. The system has to allow it (on Linux
    /// `net.ipv4.tcp_fastopen` with bit 2). A request sent so may arrive twice. Off by default.
    pub fn fast_open(mut self, queue: u32) -> Self {
        self.spec.fast_open = Some(queue);
        self
    }

    /// Whether connections send small segments at once (`TCP_NODELAY`). On by default.
    pub fn nodelay(mut self, on: bool) -> Self {
        self.spec.tcp.nodelay = on;
        self
    }

    /// Probes silent peers. Off by default.
    pub fn keep_alive(mut self, keep_alive: KeepAlive) -> Self {
        self.spec.tcp.keep_alive = Some(keep_alive.spec());
        self
    }

    /// The system's receive buffer per connection in bytes. By default the system tunes it; a size of one's
    /// own ends that. Systems change the number to their liking: Linux doubles it and caps it at
    /// `net.core.rmem_max`.
    pub fn recv_buffer(mut self, bytes: usize) -> Self {
        self.spec.tcp.recv_buffer = Some(bytes);
        self
    }

    /// The system's send buffer per connection in bytes. By default the system tunes it; a size of one's own
    /// ends that. Systems change the number to their liking: Linux doubles it and caps it at
    /// `net.core.wmem_max`.
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.spec.tcp.send_buffer = Some(bytes);
        self
    }

    /// Accepts connections only over this network device, such as `eth0`.
    pub fn bind_device(mut self, device: impl Into<String>) -> Self {
        self.spec.tcp.bind_device = Some(device.into());
        self
    }

    /// The address as asked for: port 0 stays 0.
    pub fn address(&self) -> SocketAddr {
        self.spec.address
    }

    pub(crate) fn spec(&self) -> &ListenSpec {
        &self.spec
    }

    pub(super) fn check(&self) -> Result<(), EndpointError> {
        self.check_values().map_err(|complaint| EndpointError::in_builder(self.spec.address, complaint))
    }

    pub(super) fn check_values(&self) -> Result<(), String> {
        let spec = &self.spec;
        limits::BACKLOG.check("backlog", spec.backlog)?;
        if let Some(wait) = spec.defer_accept {
            limits::DEFER_ACCEPT.check_time("defer_accept", wait)?;
        }
        if let Some(queue) = spec.fast_open {
            limits::FAST_OPEN.check("fast_open", queue)?;
        }
        if spec.v6only == Some(true) && spec.address.is_ipv4() {
            return Err(format!(
                "v6only is asked for with the IPv4 address {}; listen on an IPv6 address or leave it out",
                spec.address.ip()
            ));
        }
        check_options(&spec.tcp)
    }
}

/// A TCP address or host to connect to, with the options of the connection.
///
/// ```
/// use std::net::Ipv4Addr;
/// use std::time::Duration;
/// use twistor::endpoint::TcpConnect;
///
/// let endpoint = TcpConnect::new((Ipv4Addr::LOCALHOST, 8000).into()).timeout(Duration::from_secs(5));
/// assert_eq!(endpoint.address().unwrap().to_string(), "127.0.0.1:8000");
/// ```
///
/// # Portability
///
/// [`bind_device`](Self::bind_device) exists on Linux only; elsewhere connecting with it fails with an error
/// of kind [`Unsupported`](std::io::ErrorKind::Unsupported).
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a builder does nothing until it is connected"]
pub struct TcpConnect {
    target: Target,
    /// With the address of the target, as far as it is known.
    spec: ConnectSpec,
    timeout: Duration,
}

/// What to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Address(SocketAddr),
    /// A host by its name, and a port.
    Name(String, u16),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

impl TcpConnect {
    /// Connects to this address.
    pub fn new(address: SocketAddr) -> Self {
        let spec = ConnectSpec { address, local_address: None, tcp: TcpOptions::default() };
        Self { target: Target::Address(address), spec, timeout: Duration::from_secs(30) }
    }

    /// Connects to a host by its name, or by its IP address as text.
    ///
    /// A name is looked up when the attempt begins. If it has several addresses they are raced as RFC 8305
    /// describes: the families take turns, the next address is tried when one fails or is silent for 250 ms,
    /// and the first connection is the one.
    ///
    /// ```
    /// use twistor::endpoint::TcpConnect;
    ///
    /// let endpoint = TcpConnect::host("example.org", 80);
    /// assert_eq!(endpoint.address(), None);
    /// ```
    pub fn host(name: &str, port: u16) -> Self {
        match parse::ip_address(name, port) {
            Some(address) => Self::new(address),
            None => {
                let unknown = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
                Self { target: Target::Name(name.to_owned(), port), ..Self::new(unknown) }
            }
        }
    }

    /// The address to connect from; port 0 lets the system choose one. By default the system chooses both.
    pub fn local_addr(mut self, address: SocketAddr) -> Self {
        self.spec.local_address = Some(address);
        self
    }

    /// When the attempt is given up: above 0 and at most 24 hours, 30 seconds by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Whether the connection sends small segments at once (`TCP_NODELAY`). On by default.
    pub fn nodelay(mut self, on: bool) -> Self {
        self.spec.tcp.nodelay = on;
        self
    }

    /// Probes a silent peer. Off by default.
    pub fn keep_alive(mut self, keep_alive: KeepAlive) -> Self {
        self.spec.tcp.keep_alive = Some(keep_alive.spec());
        self
    }

    /// The system's receive buffer in bytes. By default the system tunes it; a size of one's own ends that.
    /// Systems change the number to their liking: Linux doubles it and caps it at `net.core.rmem_max`.
    pub fn recv_buffer(mut self, bytes: usize) -> Self {
        self.spec.tcp.recv_buffer = Some(bytes);
        self
    }

    /// The system's send buffer in bytes. By default the system tunes it; a size of one's own ends that.
    /// Systems change the number to their liking: Linux doubles it and caps it at `net.core.wmem_max`.
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.spec.tcp.send_buffer = Some(bytes);
        self
    }

    /// Connects over this network device, such as `eth0`, whatever the routes say.
    pub fn bind_device(mut self, device: impl Into<String>) -> Self {
        self.spec.tcp.bind_device = Some(device.into());
        self
    }

    /// The address to connect to; `None` for a name, whose addresses are looked up.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.target {
            Target::Address(address) => Some(*address),
            Target::Name(..) => None,
        }
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    pub(crate) fn spec(&self) -> &ConnectSpec {
        &self.spec
    }

    /// When the attempt is to be given up: the layers above the driver keep the time.
    pub(crate) fn time_limit(&self) -> Duration {
        self.timeout
    }

    pub(super) fn check(&self) -> Result<(), EndpointError> {
        self.check_values().map_err(|complaint| EndpointError::in_builder(&self.target, complaint))
    }

    pub(super) fn check_values(&self) -> Result<(), String> {
        if let Target::Name(name, _) = &self.target {
            parse::check_host_name(name).map_err(|complaint| format!("the host {name:?} {complaint}"))?;
        }
        limits::CONNECT_PORT.check("port", self.spec.address.port())?;
        limits::CONNECT_TIMEOUT.check_time("timeout", self.timeout)?;
        let is_other_family =
            |local: &SocketAddr| self.address().is_some_and(|address| local.is_ipv4() != address.is_ipv4());
        if let Some(local) = self.spec.local_address.filter(is_other_family) {
            let families =
                if local.is_ipv4() { "IPv4 and the peer's IPv6" } else { "IPv6 and the peer's IPv4" };
            return Err(format!(
                "the local address {} is {families}; both have to be of one family",
                local.ip()
            ));
        }
        check_options(&self.spec.tcp)
    }
}

fn check_options(options: &TcpOptions) -> Result<(), String> {
    if let Some(size) = options.recv_buffer {
        limits::BUFFER.check("recv_buffer", size)?;
    }
    if let Some(size) = options.send_buffer {
        limits::BUFFER.check("send_buffer", size)?;
    }
    if let Some(spec) = &options.keep_alive {
        keep_alive::check(spec)?;
    }
    if let Some(device) = &options.bind_device {
        limits::check_device(device).map_err(|complaint| format!("bind_device {device:?} {complaint}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen_complaint(endpoint: &TcpListen) -> String {
        endpoint.check().unwrap_err().to_string().split_off("bad endpoint 0.0.0.0:80: ".len())
    }

    fn connect_complaint(change: impl FnOnce(TcpConnect) -> TcpConnect) -> String {
        let endpoint = change(TcpConnect::new((Ipv4Addr::LOCALHOST, 80).into()));
        endpoint.check().unwrap_err().to_string().split_off("bad endpoint 127.0.0.1:80: ".len())
    }

    #[test]
    fn the_defaults_are_those_of_a_server() {
        let spec = TcpListen::new(80).spec;
        assert_eq!(spec.address.to_string(), "0.0.0.0:80");
        assert_eq!(spec.backlog, 1024);
        assert_eq!(spec.reuse_address, cfg!(unix));
        assert!(!spec.reuse_port);
        assert!(spec.tcp.nodelay);
        assert_eq!(TcpListen::v6(80).spec.address.to_string(), "[::]:80");
        assert_eq!(TcpListen::v6(80).spec.v6only, None);
    }

    #[test]
    fn a_listener_with_a_value_out_of_range_is_refused() {
        let new = || TcpListen::new(80);
        let max = i32::MAX as usize;
        assert_eq!(
            listen_complaint(&new().backlog(0)),
            "backlog 0 is not from 1 to 65535; 1024 suits most servers"
        );
        assert_eq!(
            listen_complaint(&new().backlog(65_536)),
            "backlog 65536 is not from 1 to 65535; 1024 suits most servers"
        );
        assert_eq!(
            listen_complaint(&new().recv_buffer(0)),
            "recv_buffer 0 is not from 1 to 2147483647; leave it out for the system's own choice"
        );
        assert_eq!(
            listen_complaint(&new().send_buffer(max + 1)),
            "send_buffer 2147483648 is not from 1 to 2147483647; leave it out for the system's own choice"
        );
        assert_eq!(
            listen_complaint(&new().defer_accept(Duration::ZERO)),
            "defer_accept of 0ns is not from 1 to 3600 seconds; leave it out to accept connections at once"
        );
        assert_eq!(
            listen_complaint(&new().fast_open(0)),
            "fast_open 0 is not from 1 to 65535; leave it out to switch it off"
        );
        assert_eq!(
            listen_complaint(&new().keep_alive(KeepAlive::new().interval(Duration::from_millis(10)))),
            "keep-alive interval of 10ms is not from 1 to 32767 seconds; 60 and 10 suit most servers"
        );
        assert_eq!(
            listen_complaint(&new().keep_alive(KeepAlive::new().count(128))),
            "keep-alive count 128 is not from 1 to 127; 5 suits most servers"
        );
        assert_eq!(
            listen_complaint(&new().bind_device("")),
            r#"bind_device "" is empty; give a device like eth0 or leave it out"#
        );
        assert_eq!(
            listen_complaint(&new().v6only(true)),
            "v6only is asked for with the IPv4 address 0.0.0.0; listen on an IPv6 address or leave it out"
        );
    }

    #[test]
    fn the_ends_of_the_ranges_are_allowed() {
        let keep_alive =
            KeepAlive::new().idle(Duration::from_secs(32_767)).interval(Duration::from_secs(1)).count(127);
        let endpoint = TcpListen::v6(0)
            .backlog(65_535)
            .recv_buffer(1)
            .send_buffer(i32::MAX as usize)
            .defer_accept(Duration::from_secs(3600))
            .fast_open(1)
            .keep_alive(keep_alive)
            .bind_device("fifteen-letters")
            .v6only(true);
        endpoint.check().unwrap();
    }

    #[test]
    fn a_client_with_a_value_out_of_range_is_refused() {
        assert_eq!(
            connect_complaint(|c| c.timeout(Duration::ZERO)),
            "timeout of 0ns is not above 0 and at most 86400 seconds; 30 suits most clients"
        );
        assert_eq!(
            connect_complaint(|c| c.timeout(Duration::MAX))
                .split_off("timeout of 18446744073709551615.".len()),
            "999999999s is not above 0 and at most 86400 seconds; 30 suits most clients"
        );
        assert_eq!(
            connect_complaint(|c| c.local_addr((Ipv6Addr::LOCALHOST, 0).into())),
            "the local address ::1 is IPv6 and the peer's IPv4; both have to be of one family"
        );
        let error = TcpConnect::new((Ipv4Addr::LOCALHOST, 0).into()).check().unwrap_err();
        assert_eq!(error.to_string(), "bad endpoint 127.0.0.1:0: port 0 is not from 1 to 65535");
    }

    #[test]
    fn an_interface_keeps_the_port() {
        assert_eq!(TcpListen::new(80).interface(Ipv6Addr::LOCALHOST).address().to_string(), "[::1]:80");
    }
}
