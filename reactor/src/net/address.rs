//! Addresses of streams and listeners.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Where one end of a stream or a listener is.
///
/// An IPv4 peer of a dual-stack listener is reported as IPv4.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Address {
    /// An IP address and a port.
    Ip(SocketAddr),
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
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}
