//! Endpoints: where to listen and where to connect to, as a string from a configuration file or as a typed
//! builder.
//!
//! A string becomes a [`ListenEndpoint`] or a [`ConnectEndpoint`], as does a builder ([`TcpListen`],
//! [`TcpConnect`], [`UnixListen`], [`UnixConnect`]) or a plain [`SocketAddr`]; the traits
//! [`IntoListenEndpoint`] and [`IntoConnectEndpoint`] let a function take any of them. Values are checked in
//! that conversion, before the system is asked for anything: what comes out of it can only fail because of
//! the machine it runs on.
//!
//! ```
//! use std::net::{Ipv4Addr, SocketAddr};
//! use twistor::endpoint::{IntoListenEndpoint, ListenEndpoint, TcpListen};
//!
//! fn listen(endpoint: impl IntoListenEndpoint) -> std::io::Result<ListenEndpoint> {
//!     Ok(endpoint.into_listen_endpoint()?)
//! }
//!
//! let any = TcpListen::new(8000);
//! assert_eq!(listen("tcp:8000")?, ListenEndpoint::Tcp(any.clone()));
//! assert_eq!(listen(any)?, listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8000)))?);
//! # std::io::Result::Ok(())
//! ```
//!
//! # Endpoint strings
//!
//! A string is a kind, then arguments, then keyword arguments, all separated by colons, as in Twisted:
//!
//! ```text
//! endpoint = kind { ":" argument } { ":" keyword "=" value }
//! ```
//!
//! A backslash takes its meaning from the character behind it: `\:`, `\=`, `\\`, `\[` and `\]` stand for that
//! character. Colons between brackets at the beginning of an argument or value need no backslash, so that an
//! IPv6 address can be written as in a URL: `[::1]`. The first `=` of an argument ends the keyword; further
//! ones belong to the value.
//!
//! | kind | to listen | to connect |
//! |---|---|---|
//! | `tcp` | `tcp:PORT`, on all IPv4 addresses unless `interface` is given | `tcp:HOST:PORT`, a host by its name or IP address |
//! | `tcp6` | `tcp6:PORT`, on all addresses, IPv6 and IPv4, unless `interface` is given | |
//! | `host` | | `host:NAME:PORT`, the same as `tcp` |
//! | `ssl`, `tls` | `ssl:PORT:certificate=FILE`, TLS on `tcp:PORT` | `tls:HOST:PORT`, TLS through `tcp:HOST:PORT` |
//! | `ssl6`, `tls6` | `ssl6:PORT:certificate=FILE`, TLS on `tcp6:PORT` | |
//! | `unix` | `unix:PATH`, or `unix:@NAME` for Linux's abstract namespace | `unix:PATH`, `unix:@NAME` |
//! | `fd` | `fd:NUMBER`, a listening socket that the program inherited | `fd:NUMBER`, or `fd:INPUT:OUTPUT`, a connected socket, a terminal or pipes that it inherited |
//! | `systemd` | `systemd:name=NAME` or `systemd:index=N`, a socket that the service manager opened | |
//! | `stdio` | `stdio:`, the standard input and output as the one connection | `stdio:` |
//! | `process` | | `process:PROGRAM:ARGUMENT:…`, a program to start and talk to |
//!
//! Further kinds can be added: [`Handle::add_listen_kind`](crate::Handle::add_listen_kind),
//! [`Handle::add_connect_kind`](crate::Handle::add_connect_kind).
//!
//! Arguments can be given by keyword as well: `tcp:host=127.0.0.1:port=8000`. The keywords of `tcp` and
//! `tcp6`:
//!
//! | keyword | value | to listen | to connect | without it |
//! |---|---|---|---|---|
//! | `interface` | the IP address to listen on | yes | | all |
//! | `backlog` | connections that may wait to be accepted, 1 to 65535 | yes | | 1024 |
//! | `reuse_address` | yes or no | yes | | yes (on Windows no) |
//! | `reuse_port` | yes or no | yes | | no |
//! | `v6only` | yes or no; for IPv6 only | yes | | no |
//! | `defer_accept` | seconds to wait for the first data, 1 to 3600 | yes | | off |
//! | `fast_open` | length of the TCP Fast Open queue, 1 to 65535 | yes | | off |
//! | `bind_address` | the local IP address, possibly with `\:` and a port | | yes | the system's choice |
//! | `timeout` | seconds until the attempt is given up, above 0 and at most 86400 | | yes | 30 |
//! | `nodelay` | yes or no | yes | yes | yes |
//! | `keep_alive` | yes, no, or `IDLE/INTERVAL/COUNT` in seconds, as `60/10/5` | yes | yes | no |
//! | `recv_buffer` | bytes, 1 to 2147483647 | yes | yes | the system's choice |
//! | `send_buffer` | bytes, 1 to 2147483647 | yes | yes | the system's choice |
//! | `bind_device` | the name of a network device | yes | yes | any |
//!
//! The kinds `ssl` and `tls` are the same, and need the feature `tls` of this crate. They take the keywords
//! of `tcp` and:
//!
//! | keyword | value | to listen | to connect | without it |
//! |---|---|---|---|---|
//! | `certificate` | the file of the own certificate and its chain, in PEM | yes | yes | to connect: none; to listen it is needed |
//! | `key` | the file of its private key, in PEM | yes | yes | the file of the certificate |
//! | `chain` | a file of further certificates of the chain, in PEM | yes | yes | none |
//! | `alpn` | protocols of the application, the best first, with commas between: `h2,http/1.1` | yes | yes | none |
//! | `min_version` | the oldest version of TLS, 1.2 or 1.3 | yes | yes | 1.2 |
//! | `crl` | a file of lists of revoked certificates, in PEM or DER | of clients | of servers | none |
//! | `handshake_timeout` | seconds that a handshake may take, above 0 and at most 3600 | yes | yes | 10 |
//! | `key_log` | yes or no: secrets go to the file that `SSLKEYLOGFILE` names | yes | yes | no |
//! | `client_ca` | the file of the roots that issue clients' certificates, in PEM | yes | | none |
//! | `client_certificates` | `none`, `optional` or `required` | yes | | required with `client_ca`, else none |
//! | `strict_sni` | yes or no: refuse clients that ask for a name that the certificate lacks | yes | | no |
//! | `session_tickets` | yes or no | yes | | yes |
//! | `max_handshakes` | handshakes that may be under way, 1 to 1000000 | yes | | 10000 |
//! | `name` | the name or IP address that the server has to prove to have | | yes | the host |
//! | `roots` | the file of the roots to trust, in PEM | | yes | the system's |
//! | `system_roots` | yes or no: trust the system's as well | | yes | no with `roots`, else yes |
//!
//! Files are read when the string becomes an endpoint; in their names, too, a colon or backslash needs a
//! backslash in front, as in `C\:\\server.pem`. Servers are always verified: no keyword changes that. What
//! the keywords do stands at the methods of `TlsServerBuilder` and `TlsClientBuilder` in the module `tls`.
//! Each string makes a configuration of its own, with its own memory of sessions: parse one once if you
//! connect often.
//!
//! For datagrams there are endpoints of their own, [`DatagramEndpoint`] and [`DatagramConnectEndpoint`]:
//!
//! | kind | to receive and send | to connect |
//! |---|---|---|
//! | `udp` | `udp:PORT`, at all IPv4 addresses unless `interface` is given | `udp:ADDRESS:PORT`, an IP address |
//! | `udp6` | `udp6:PORT`, at all addresses, IPv6 and IPv4, unless `interface` is given | |
//! | `unix` | `unix:PATH`, or `unix:@NAME` for Linux's abstract namespace | `unix:PATH`, `unix:@NAME` |
//!
//! The keywords of `udp` and `udp6`:
//!
//! | keyword | value | to receive and send | to connect | without it |
//! |---|---|---|---|---|
//! | `interface` | the IP address to receive at | yes | | all |
//! | `reuse_address` | yes or no | yes | | no |
//! | `reuse_port` | yes or no | yes | | no |
//! | `v6only` | yes or no; for IPv6 only | yes | | no |
//! | `bind_address` | the local IP address, possibly with `\:` and a port | | yes | the system's choice |
//! | `broadcast` | yes or no | yes | yes | no |
//! | `recv_buffer`, `send_buffer` | bytes, 1 to 2147483647 | yes | yes | the system's choice |
//! | `bind_device` | the name of a network device | yes | yes | any |
//! | `queue` | datagrams that wait to be sent, 1 to 1048576 | yes | yes | 1024 |
//! | `queue_bytes` | bytes of those, 65535 to 1073741824 | yes | yes | 4194304 |
//! | `max_datagram` | bytes that are received of one datagram, 1 to 65535 | yes | yes | 65535 |
//!
//! Those of `unix`; the last five are as above:
//!
//! | keyword | value | to receive and send | to connect | without it |
//! |---|---|---|---|---|
//! | `mode` | who may send: the permission bits of the file, in octal | yes | | the umask decides |
//! | `bind_address` | the path or `@NAME` to send from, where the peer can answer | | yes | none |
//! | `autobind` | yes or no: the system chooses an abstract name to send from | | yes | no |
//! | `recv_buffer`, `send_buffer`, `queue`, `queue_bytes`, `max_datagram` | | yes | yes | |
//!
//! The keywords of `unix` for streams:
//!
//! | keyword | value | to listen | to connect | without it |
//! |---|---|---|---|---|
//! | `mode` | who may connect: the permission bits of the file, in octal | yes | | the umask decides |
//! | `backlog` | connections that may wait to be accepted, 1 to 65535 | yes | | 1024 |
//! | `descriptors` | yes or no: take descriptors that the peer passes | yes | yes | no |
//! | `bind_address` | the path or `@NAME` to connect from | | yes | none |
//! | `timeout` | seconds until the attempt is given up, above 0 and at most 86400 | | yes | 30 |
//! | `recv_buffer` | bytes, 1 to 2147483647 | yes | yes | the system's choice |
//! | `send_buffer` | bytes, 1 to 2147483647 | yes | yes | the system's choice |
//!
//! Yes can be written `yes`, `true`, `on` or `1`, no `no`, `false`, `off` or `0`. Seconds can have a
//! fraction. What the options do, and which systems have them, stands at the methods of [`TcpListen`],
//! [`TcpConnect`], [`UdpBind`], [`UdpConnect`], [`UnixDatagramBind`] and [`UnixDatagramConnect`].
//!
//! ```
//! use std::time::Duration;
//! use twistor::endpoint::{ConnectEndpoint, KeepAlive, ListenEndpoint, TcpConnect, TcpListen};
//!
//! let server: ListenEndpoint = "tcp:8000:interface=127.0.0.1:backlog=128:reuse_port=yes".parse()?;
//! let same = TcpListen::new(8000).interface([127, 0, 0, 1]).backlog(128).reuse_port(true);
//! assert_eq!(server, ListenEndpoint::Tcp(same));
//!
//! // An IPv6 address, escaped and in brackets.
//! let escaped: ListenEndpoint = r"tcp6:8000:interface=\:\:1".parse()?;
//! assert_eq!(escaped, "tcp6:8000:interface=[::1]".parse()?);
//!
//! let client: ConnectEndpoint = "tcp:[::1]:8000:timeout=2.5:keep_alive=60/10/5".parse()?;
//! let address = "[::1]:8000".parse().unwrap();
//! let same = TcpConnect::new(address).timeout(Duration::from_millis(2500)).keep_alive(KeepAlive::new());
//! assert_eq!(client, ConnectEndpoint::Tcp(same));
//! # Ok::<(), twistor::endpoint::EndpointError>(())
//! ```
//!
//! An error points at what is wrong and says what would be right:
//!
//! ```
//! # use twistor::endpoint::ListenEndpoint;
//! let error = "tcp:80x".parse::<ListenEndpoint>().unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     r#"bad endpoint "tcp:80x": port "80x" (column 5) is not a number from 0 to 65535"#
//! );
//! ```

mod arguments;
mod error;
mod keep_alive;
mod limits;
mod other;
mod parse;
mod tcp;
mod tcp_string;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
mod tls_string;
mod udp;
mod udp_string;
mod unix;
mod unix_datagram;
mod unix_datagram_string;
mod unix_string;

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use parse::EndpointString;

pub use arguments::Arguments;
pub use error::EndpointError;
pub use keep_alive::KeepAlive;
#[cfg(unix)]
pub(crate) use other::Which;
pub use other::{Activated, Inherited, ProcessConnect};
pub(crate) use tcp::Target;
pub use tcp::{TcpConnect, TcpListen};
#[cfg(feature = "tls")]
pub use tls::{TlsConnect, TlsListen};
pub(crate) use udp::DatagramLimits;
pub use udp::{UdpBind, UdpConnect};
pub use unix::{UnixConnect, UnixListen};
pub use unix_datagram::{UnixDatagramBind, UnixDatagramConnect};

/// Where to listen: one variant per kind of transport.
///
/// Made from a string with [`str::parse`] (see the [module](self)) or from a builder.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListenEndpoint {
    /// A TCP port.
    Tcp(TcpListen),
    /// A Unix socket.
    Unix(UnixListen),
    /// A listening socket that the program was started with.
    Inherited(Inherited),
    /// A listening socket that the service manager passed.
    Activated(Activated),
    /// The standard input and output, as the only connection.
    Stdio,
    /// TLS on another one.
    #[cfg(feature = "tls")]
    Tls(TlsListen),
    /// An endpoint of a kind that was [added](crate::Handle::add_listen_kind).
    Added(Arguments),
}

/// The kinds that are there without being added.
pub(crate) const LISTEN_KINDS: [&str; 10] =
    ["tcp", "tcp6", "ssl", "ssl6", "tls", "tls6", "unix", "fd", "systemd", "stdio"];
pub(crate) const CONNECT_KINDS: [&str; 8] = ["tcp", "host", "ssl", "tls", "unix", "fd", "stdio", "process"];

impl FromStr for ListenEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        Self::parse(text, &|_| false)
    }
}

impl ListenEndpoint {
    /// Reads a string; `is_added` says which kinds were added.
    fn parse(text: &str, is_added: &dyn Fn(&str) -> bool) -> Result<Self, EndpointError> {
        let endpoint = EndpointString::parse(text)?;
        match endpoint.kind() {
            "tcp" => tcp_string::listen(endpoint).map(Self::Tcp),
            "tcp6" => tcp_string::listen_v6(endpoint).map(Self::Tcp),
            #[cfg(feature = "tls")]
            "ssl" | "ssl6" | "tls" | "tls6" => tls_string::listen(endpoint).map(Self::Tls),
            #[cfg(not(feature = "tls"))]
            "ssl" | "ssl6" | "tls" | "tls6" => Err(endpoint.without_feature("tls")),
            "unix" => unix_string::listen(endpoint).map(Self::Unix),
            "fd" => other::listen_descriptor(endpoint).map(Self::Inherited),
            "systemd" => other::listen_activated(endpoint).map(Self::Activated),
            "stdio" => other::stdio(endpoint).map(|()| Self::Stdio),
            kind if is_added(kind) => Ok(Self::Added(Arguments::of(&endpoint))),
            _ => Err(endpoint.unknown_kind("listening", &LISTEN_KINDS)),
        }
    }
}

impl From<UnixListen> for ListenEndpoint {
    fn from(unix: UnixListen) -> Self {
        Self::Unix(unix)
    }
}

impl From<TcpListen> for ListenEndpoint {
    fn from(tcp: TcpListen) -> Self {
        Self::Tcp(tcp)
    }
}

/// Where to connect to: one variant per kind of transport.
///
/// Made from a string with [`str::parse`] (see the [module](self)) or from a builder.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectEndpoint {
    /// A TCP address.
    Tcp(TcpConnect),
    /// A Unix socket.
    Unix(UnixConnect),
    /// A connected socket, a terminal or a pipe that the program was started with.
    Inherited(Inherited),
    /// The standard input and output.
    Stdio,
    /// A program to start.
    Process(ProcessConnect),
    /// TLS through another one.
    #[cfg(feature = "tls")]
    Tls(TlsConnect),
    /// An endpoint of a kind that was [added](crate::Handle::add_connect_kind).
    Added(Arguments),
}

impl FromStr for ConnectEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        Self::parse(text, &|_| false)
    }
}

impl ConnectEndpoint {
    /// Reads a string; `is_added` says which kinds were added.
    fn parse(text: &str, is_added: &dyn Fn(&str) -> bool) -> Result<Self, EndpointError> {
        let endpoint = EndpointString::parse(text)?;
        match endpoint.kind() {
            "tcp" | "host" => tcp_string::connect(endpoint).map(Self::Tcp),
            #[cfg(feature = "tls")]
            "ssl" | "tls" => tls_string::connect(endpoint).map(Self::Tls),
            #[cfg(not(feature = "tls"))]
            "ssl" | "tls" => Err(endpoint.without_feature("tls")),
            "unix" => unix_string::connect(endpoint).map(Self::Unix),
            "process" => other::connect_process(&endpoint).map(Self::Process),
            "fd" => other::connect_descriptor(endpoint).map(Self::Inherited),
            "stdio" => other::stdio(endpoint).map(|()| Self::Stdio),
            kind if is_added(kind) => Ok(Self::Added(Arguments::of(&endpoint))),
            _ => Err(endpoint.unknown_kind("connecting", &CONNECT_KINDS)),
        }
    }
}

impl fmt::Display for ConnectEndpoint {
    /// Where it leads, without options.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(tcp) => tcp.target().fmt(f),
            Self::Unix(unix) => unix.address().fmt(f),
            Self::Inherited(inherited) => inherited.fmt(f),
            Self::Stdio => f.write_str("stdio"),
            Self::Process(process) => process.fmt(f),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.under().fmt(f),
            Self::Added(arguments) => arguments.fmt(f),
        }
    }
}

impl ConnectEndpoint {
    /// When an attempt is to be given up.
    pub(crate) fn time_limit(&self) -> Duration {
        match self {
            Self::Tcp(tcp) => tcp.time_limit(),
            Self::Unix(unix) => unix.time_limit(),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.under().time_limit(),
            // There already, or their own business.
            Self::Inherited(_) | Self::Stdio | Self::Process(_) | Self::Added(_) => Duration::MAX,
        }
    }
}

impl From<UnixConnect> for ConnectEndpoint {
    fn from(unix: UnixConnect) -> Self {
        Self::Unix(unix)
    }
}

impl From<TcpConnect> for ConnectEndpoint {
    fn from(tcp: TcpConnect) -> Self {
        Self::Tcp(tcp)
    }
}

/// What can be listened on: an endpoint, its builder, an endpoint string, or a [`SocketAddr`] (which means
/// TCP).
pub trait IntoListenEndpoint {
    /// The endpoint, with all its values checked.
    ///
    /// # Errors
    ///
    /// If a string cannot be read, or a value is out of its range or contradicts another.
    fn into_listen_endpoint(self) -> Result<ListenEndpoint, EndpointError>;

    /// The same, where `is_added` says which further kinds a string may have.
    #[doc(hidden)]
    fn of_added_kinds(self, is_added: &dyn Fn(&str) -> bool) -> Result<ListenEndpoint, EndpointError>
    where
        Self: Sized,
    {
        let _ = is_added;
        self.into_listen_endpoint()
    }
}

impl IntoListenEndpoint for ListenEndpoint {
    fn into_listen_endpoint(self) -> Result<ListenEndpoint, EndpointError> {
        match &self {
            Self::Tcp(tcp) => tcp.check()?,
            Self::Unix(unix) => unix.check()?,
            Self::Inherited(_) | Self::Activated(_) | Self::Stdio | Self::Added(_) => {}
            // It was checked when TLS was put on it.
            #[cfg(feature = "tls")]
            Self::Tls(_) => {}
        }
        Ok(self)
    }
}

impl IntoListenEndpoint for Activated {
    fn into_listen_endpoint(self) -> Result<ListenEndpoint, EndpointError> {
        Ok(ListenEndpoint::Activated(self))
    }
}

impl IntoListenEndpoint for Inherited {
    fn into_listen_endpoint(self) -> Result<ListenEndpoint, EndpointError> {
        Ok(ListenEndpoint::Inherited(self))
    }
}

impl IntoListenEndpoint for UnixListen {
    fn into_listen_endpoint(self) -> Result<ListenEndpoint, EndpointError> {
        ListenEndpoint::Unix(self).into_listen_endpoint()
    }
}

impl IntoListenEndpoint for TcpListen {
    fn into_listen_endpoint(self) -> Result<ListenEndpoint, EndpointError> {
        ListenEndpoint::Tcp(self).into_listen_endpoint()
    }
}

impl IntoListenEndpoint for SocketAddr {
    fn into_listen_endpoint(self) -> Result<ListenEndpoint, EndpointError> {
        TcpListen::on(self).into_listen_endpoint()
    }
}

impl IntoListenEndpoint for &str {
    fn into_listen_endpoint(self) -> Result<ListenEndpoint, EndpointError> {
        self.parse()
    }

    fn of_added_kinds(self, is_added: &dyn Fn(&str) -> bool) -> Result<ListenEndpoint, EndpointError> {
        ListenEndpoint::parse(self, is_added)
    }
}

impl IntoListenEndpoint for &String {
    fn into_listen_endpoint(self) -> Result<ListenEndpoint, EndpointError> {
        self.parse()
    }

    fn of_added_kinds(self, is_added: &dyn Fn(&str) -> bool) -> Result<ListenEndpoint, EndpointError> {
        ListenEndpoint::parse(self, is_added)
    }
}

impl IntoListenEndpoint for String {
    fn into_listen_endpoint(self) -> Result<ListenEndpoint, EndpointError> {
        self.parse()
    }

    fn of_added_kinds(self, is_added: &dyn Fn(&str) -> bool) -> Result<ListenEndpoint, EndpointError> {
        ListenEndpoint::parse(&self, is_added)
    }
}

/// What can be connected to: an endpoint, its builder, an endpoint string, or a [`SocketAddr`] (which means
/// TCP).
pub trait IntoConnectEndpoint {
    /// The endpoint, with all its values checked.
    ///
    /// # Errors
    ///
    /// If a string cannot be read, or a value is out of its range or contradicts another.
    fn into_connect_endpoint(self) -> Result<ConnectEndpoint, EndpointError>;

    /// The same, where `is_added` says which further kinds a string may have.
    #[doc(hidden)]
    fn of_added_kinds(self, is_added: &dyn Fn(&str) -> bool) -> Result<ConnectEndpoint, EndpointError>
    where
        Self: Sized,
    {
        let _ = is_added;
        self.into_connect_endpoint()
    }
}

impl IntoConnectEndpoint for ConnectEndpoint {
    fn into_connect_endpoint(self) -> Result<ConnectEndpoint, EndpointError> {
        match &self {
            Self::Tcp(tcp) => tcp.check()?,
            Self::Unix(unix) => unix.check()?,
            Self::Inherited(_) | Self::Stdio | Self::Process(_) | Self::Added(_) => {}
            // It was checked when TLS was put on it.
            #[cfg(feature = "tls")]
            Self::Tls(_) => {}
        }
        Ok(self)
    }
}

impl IntoConnectEndpoint for ProcessConnect {
    fn into_connect_endpoint(self) -> Result<ConnectEndpoint, EndpointError> {
        Ok(ConnectEndpoint::Process(self))
    }
}

impl IntoConnectEndpoint for Inherited {
    fn into_connect_endpoint(self) -> Result<ConnectEndpoint, EndpointError> {
        Ok(ConnectEndpoint::Inherited(self))
    }
}

impl IntoConnectEndpoint for UnixConnect {
    fn into_connect_endpoint(self) -> Result<ConnectEndpoint, EndpointError> {
        ConnectEndpoint::Unix(self).into_connect_endpoint()
    }
}

impl IntoConnectEndpoint for TcpConnect {
    fn into_connect_endpoint(self) -> Result<ConnectEndpoint, EndpointError> {
        ConnectEndpoint::Tcp(self).into_connect_endpoint()
    }
}

impl IntoConnectEndpoint for SocketAddr {
    fn into_connect_endpoint(self) -> Result<ConnectEndpoint, EndpointError> {
        TcpConnect::new(self).into_connect_endpoint()
    }
}

impl IntoConnectEndpoint for &str {
    fn into_connect_endpoint(self) -> Result<ConnectEndpoint, EndpointError> {
        self.parse()
    }

    fn of_added_kinds(self, is_added: &dyn Fn(&str) -> bool) -> Result<ConnectEndpoint, EndpointError> {
        ConnectEndpoint::parse(self, is_added)
    }
}

impl IntoConnectEndpoint for &String {
    fn into_connect_endpoint(self) -> Result<ConnectEndpoint, EndpointError> {
        self.parse()
    }

    fn of_added_kinds(self, is_added: &dyn Fn(&str) -> bool) -> Result<ConnectEndpoint, EndpointError> {
        ConnectEndpoint::parse(self, is_added)
    }
}

impl IntoConnectEndpoint for String {
    fn into_connect_endpoint(self) -> Result<ConnectEndpoint, EndpointError> {
        self.parse()
    }

    fn of_added_kinds(self, is_added: &dyn Fn(&str) -> bool) -> Result<ConnectEndpoint, EndpointError> {
        ConnectEndpoint::parse(&self, is_added)
    }
}

/// Where to receive datagrams, and to send them from: one variant per kind of socket.
///
/// Made from a string with [`str::parse`] (see the [module](self)) or from a builder.
///
/// ```
/// use twistor::endpoint::{DatagramEndpoint, UdpBind};
///
/// let endpoint: DatagramEndpoint = "udp:8000:interface=127.0.0.1:broadcast=yes".parse()?;
/// assert_eq!(endpoint, UdpBind::new(8000).interface([127, 0, 0, 1]).broadcast(true).into());
/// # Ok::<(), twistor::endpoint::EndpointError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DatagramEndpoint {
    /// A UDP port.
    Udp(UdpBind),
    /// A Unix socket.
    Unix(UnixDatagramBind),
}

impl FromStr for DatagramEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let endpoint = EndpointString::parse(text)?;
        match endpoint.kind() {
            "udp" => udp_string::bind(endpoint).map(Self::Udp),
            "udp6" => udp_string::bind_v6(endpoint).map(Self::Udp),
            "unix" => unix_datagram_string::bind(endpoint).map(Self::Unix),
            _ => Err(endpoint.unknown_kind("datagrams", &["udp", "udp6", "unix"])),
        }
    }
}

impl From<UdpBind> for DatagramEndpoint {
    fn from(udp: UdpBind) -> Self {
        Self::Udp(udp)
    }
}

impl From<UnixDatagramBind> for DatagramEndpoint {
    fn from(unix: UnixDatagramBind) -> Self {
        Self::Unix(unix)
    }
}

/// To whom to connect a socket for datagrams: one variant per kind of socket.
///
/// Made from a string with [`str::parse`] (see the [module](self)) or from a builder.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DatagramConnectEndpoint {
    /// A UDP address.
    Udp(UdpConnect),
    /// A Unix socket.
    Unix(UnixDatagramConnect),
}

impl FromStr for DatagramConnectEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let endpoint = EndpointString::parse(text)?;
        match endpoint.kind() {
            "udp" => udp_string::connect(endpoint).map(Self::Udp),
            "unix" => unix_datagram_string::connect(endpoint).map(Self::Unix),
            _ => Err(endpoint.unknown_kind("connecting datagrams", &["udp", "unix"])),
        }
    }
}

impl From<UdpConnect> for DatagramConnectEndpoint {
    fn from(udp: UdpConnect) -> Self {
        Self::Udp(udp)
    }
}

impl From<UnixDatagramConnect> for DatagramConnectEndpoint {
    fn from(unix: UnixDatagramConnect) -> Self {
        Self::Unix(unix)
    }
}

/// Where datagrams can be received: an endpoint, its builder, an endpoint string, or a [`SocketAddr`] (which
/// means UDP).
pub trait IntoDatagramEndpoint {
    /// The endpoint, with all its values checked.
    ///
    /// # Errors
    ///
    /// If a string cannot be read, or a value is out of its range or contradicts another.
    fn into_datagram_endpoint(self) -> Result<DatagramEndpoint, EndpointError>;
}

/// To whom a socket for datagrams can be connected: an endpoint, its builder, an endpoint string, or a
/// [`SocketAddr`] (which means UDP).
pub trait IntoDatagramConnectEndpoint {
    /// The endpoint, with all its values checked.
    ///
    /// # Errors
    ///
    /// If a string cannot be read, or a value is out of its range or contradicts another.
    fn into_datagram_connect_endpoint(self) -> Result<DatagramConnectEndpoint, EndpointError>;
}

impl IntoDatagramEndpoint for DatagramEndpoint {
    fn into_datagram_endpoint(self) -> Result<DatagramEndpoint, EndpointError> {
        match &self {
            Self::Udp(udp) => udp.check()?,
            Self::Unix(unix) => unix.check()?,
        }
        Ok(self)
    }
}

impl IntoDatagramConnectEndpoint for DatagramConnectEndpoint {
    fn into_datagram_connect_endpoint(self) -> Result<DatagramConnectEndpoint, EndpointError> {
        match &self {
            Self::Udp(udp) => udp.check()?,
            Self::Unix(unix) => unix.check()?,
        }
        Ok(self)
    }
}

impl IntoDatagramEndpoint for UnixDatagramBind {
    fn into_datagram_endpoint(self) -> Result<DatagramEndpoint, EndpointError> {
        DatagramEndpoint::Unix(self).into_datagram_endpoint()
    }
}

impl IntoDatagramConnectEndpoint for UnixDatagramConnect {
    fn into_datagram_connect_endpoint(self) -> Result<DatagramConnectEndpoint, EndpointError> {
        DatagramConnectEndpoint::Unix(self).into_datagram_connect_endpoint()
    }
}

impl IntoDatagramEndpoint for UdpBind {
    fn into_datagram_endpoint(self) -> Result<DatagramEndpoint, EndpointError> {
        DatagramEndpoint::Udp(self).into_datagram_endpoint()
    }
}

impl IntoDatagramConnectEndpoint for UdpConnect {
    fn into_datagram_connect_endpoint(self) -> Result<DatagramConnectEndpoint, EndpointError> {
        DatagramConnectEndpoint::Udp(self).into_datagram_connect_endpoint()
    }
}

impl IntoDatagramEndpoint for SocketAddr {
    fn into_datagram_endpoint(self) -> Result<DatagramEndpoint, EndpointError> {
        UdpBind::on(self).into_datagram_endpoint()
    }
}

impl IntoDatagramConnectEndpoint for SocketAddr {
    fn into_datagram_connect_endpoint(self) -> Result<DatagramConnectEndpoint, EndpointError> {
        UdpConnect::new(self).into_datagram_connect_endpoint()
    }
}

/// Everything that is text is parsed.
macro_rules! from_text {
    ($($text:ty),*) => {
        $(
            impl IntoDatagramEndpoint for $text {
                fn into_datagram_endpoint(self) -> Result<DatagramEndpoint, EndpointError> {
                    self.parse()
                }
            }

            impl IntoDatagramConnectEndpoint for $text {
                fn into_datagram_connect_endpoint(self) -> Result<DatagramConnectEndpoint, EndpointError> {
                    self.parse()
                }
            }
        )*
    };
}

from_text!(&str, &String, String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_means_the_same_port_is_the_same_endpoint() {
        let address: SocketAddr = "0.0.0.0:8000".parse().unwrap();
        let expected = ListenEndpoint::Tcp(TcpListen::new(8000));
        assert_eq!("tcp:8000".into_listen_endpoint().unwrap(), expected);
        assert_eq!(String::from("tcp:8000").into_listen_endpoint().unwrap(), expected);
        assert_eq!((&String::from("tcp:8000")).into_listen_endpoint().unwrap(), expected);
        assert_eq!(TcpListen::on(address).into_listen_endpoint().unwrap(), expected);
        assert_eq!(address.into_listen_endpoint().unwrap(), expected);
        assert_eq!(expected.clone().into_listen_endpoint().unwrap(), expected);
    }

    #[test]
    fn everything_that_means_the_same_peer_is_the_same_endpoint() {
        let address: SocketAddr = "[::1]:8000".parse().unwrap();
        let expected = ConnectEndpoint::Tcp(TcpConnect::new(address));
        assert_eq!("tcp:[::1]:8000".into_connect_endpoint().unwrap(), expected);
        assert_eq!(String::from("tcp:[::1]:8000").into_connect_endpoint().unwrap(), expected);
        assert_eq!((&String::from("tcp:[::1]:8000")).into_connect_endpoint().unwrap(), expected);
        assert_eq!(TcpConnect::new(address).into_connect_endpoint().unwrap(), expected);
        assert_eq!(address.into_connect_endpoint().unwrap(), expected);
        assert_eq!(expected.clone().into_connect_endpoint().unwrap(), expected);
    }

    #[test]
    fn an_unknown_kind_lists_the_known_ones() {
        let error = "tpc:8000".parse::<ListenEndpoint>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "bad endpoint \"tpc:8000\": unknown kind \"tpc\" (column 1); \
             the kinds for listening are tcp, tcp6, ssl, ssl6, tls, tls6, unix, fd, systemd and stdio"
        );
        let error = "tcp6:[::1]:8000".parse::<ConnectEndpoint>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "bad endpoint \"tcp6:[::1]:8000\": unknown kind \"tcp6\" (column 1); \
             the kinds for connecting are tcp, host, ssl, tls, unix, fd, stdio and process"
        );
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn without_the_feature_the_kinds_of_tls_say_so() {
        for kind in ["ssl", "ssl6", "tls", "tls6"] {
            let error =
                format!("{kind}:443:certificate=x").parse::<ListenEndpoint>().unwrap_err().to_string();
            let expected = format!(
                "kind \"{kind}\" (column 1) needs the feature \"tls\" of twistor, \
                 which this program was built without"
            );
            assert!(error.ends_with(&expected), "{error}");
        }
        let error = "tls:example.org:443".parse::<ConnectEndpoint>().unwrap_err().to_string();
        assert!(error.contains("needs the feature \"tls\""), "{error}");
    }

    #[test]
    fn an_error_is_an_io_error_of_kind_invalid_input() {
        let error: std::io::Error = TcpListen::new(0).backlog(0).into_listen_endpoint().unwrap_err().into();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert_eq!(
            error.to_string(),
            "bad endpoint 0.0.0.0:0: backlog 0 is not from 1 to 65535; 1024 suits most servers"
        );
    }
}
