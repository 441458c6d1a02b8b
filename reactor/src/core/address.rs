//! Addresses of streams, listeners and datagrams: plain data that every layer speaks of.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

/// Where one end of a stream, a listener or a datagram socket is.
///
/// Cheap to clone. An IPv4 peer of a dual-stack listener is reported as IPv4.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Address {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// A Unix socket.
    Unix(UnixAddress),
    /// Something else that bytes come from or go to, by what it is: `stdio`, `fd 7`, `process 4711`.
    Other(Arc<str>),
}

impl Address {
    /// The socket address, for IP streams.
    ///
    /// ```
    /// let address = twistor::Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], 80)));
    /// assert_eq!(address.socket_addr().map(|a| a.port()), Some(80));
    /// ```
    #[must_use]
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            _ => None,
        }
    }

    /// The IP address, for IP streams.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.socket_addr().map(|address| address.ip())
    }

    /// The port number; 0 where there is none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.socket_addr().map_or(0, |address| address.port())
    }

    /// The address of a Unix socket.
    #[must_use]
    pub fn unix(&self) -> Option<&UnixAddress> {
        match self {
            Self::Unix(address) => Some(address),
            _ => None,
        }
    }

    #[cfg_attr(not(unix), allow(dead_code, reason = "there are no descriptors"))]
    pub(crate) fn other(what: impl fmt::Display) -> Self {
        Self::Other(what.to_string().into())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(address) => address.fmt(f),
            Self::Other(what) => f.write_str(what),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl From<&Address> for Address {
    fn from(address: &Address) -> Self {
        address.clone()
    }
}

impl From<UnixAddress> for Address {
    fn from(address: UnixAddress) -> Self {
        Self::Unix(address)
    }
}

/// The address of a Unix socket: a path, a name of Linux's abstract namespace, or none, as clients usually
/// have.
///
/// ```
/// use std::path::Path;
/// use twistor::UnixAddress;
///
/// let file = UnixAddress::from_path("/run/echo.sock");
/// assert_eq!(file.path(), Some(Path::new("/run/echo.sock")));
/// assert_eq!(UnixAddress::from_abstract_name(b"echo").to_string(), "@echo");
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct UnixAddress(Name);

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Name {
    Unnamed,
    Path(Arc<Path>),
    Abstract(Arc<[u8]>),
}

impl UnixAddress {
    /// The address of a socket file.
    pub fn from_path(path: impl AsRef<Path>) -> Self {
        Self(Name::Path(path.as_ref().into()))
    }

    /// A name of the abstract namespace, which only Linux has: bound to no file, gone with its last socket.
    pub fn from_abstract_name(name: impl AsRef<[u8]>) -> Self {
        Self(Name::Abstract(name.as_ref().into()))
    }

    /// The address of a socket that was not bound.
    #[must_use]
    pub fn unnamed() -> Self {
        Self(Name::Unnamed)
    }

    /// The path of the socket file.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Name::Path(path) => Some(path),
            _ => None,
        }
    }

    /// The name in the abstract namespace, without the zero byte that the system puts in front.
    #[must_use]
    pub fn abstract_name(&self) -> Option<&[u8]> {
        match &self.0 {
            Name::Abstract(name) => Some(name),
            _ => None,
        }
    }

    /// Whether the socket has no address.
    #[must_use]
    pub fn is_unnamed(&self) -> bool {
        self.0 == Name::Unnamed
    }
}

impl fmt::Display for UnixAddress {
    /// The path, `@` and the abstract name, or `unnamed`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Name::Unnamed => f.write_str("unnamed"),
            Name::Path(path) => path.display().fmt(f),
            Name::Abstract(name) => write!(f, "@{}", name.escape_ascii()),
        }
    }
}
