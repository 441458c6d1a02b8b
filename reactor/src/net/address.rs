//! Addresses of streams and listeners.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};

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

/// The addresses of both ends of a stream, in as little memory as idle connections deserve: the usual ones fit
/// into two words, others stand in a box.
#[derive(Debug)]
pub(crate) enum Ends {
    V4 { peer: SocketAddrV4, local: SocketAddrV4 },
    Other(Box<(Address, Address)>),
}

impl Ends {
    pub(crate) fn new(peer: Address, local: Address) -> Self {
        match (peer, local) {
            (Address::Ip(SocketAddr::V4(peer)), Address::Ip(SocketAddr::V4(local))) => {
                Self::V4 { peer, local }
            }
            _ => Self::Other(Box::new((peer, local))),
        }
    }

    pub(crate) fn peer(&self) -> Address {
        match self {
            Self::V4 { peer, .. } => Address::Ip(SocketAddr::V4(*peer)),
            Self::Other(ends) => ends.0,
        }
    }

    pub(crate) fn local(&self) -> Address {
        match self {
            Self::V4 { local, .. } => Address::Ip(SocketAddr::V4(*local)),
            Self::Other(ends) => ends.1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_are_given_back_as_they_were() {
        let addresses: Vec<Address> = ["1.2.3.4:5", "[::1]:6", "127.0.0.1:0"]
            .iter()
            .map(|text| Address::Ip(text.parse().unwrap()))
            .collect();
        for peer in &addresses {
            for local in &addresses {
                let ends = Ends::new(*peer, *local);
                assert_eq!((ends.peer(), ends.local()), (*peer, *local));
            }
        }
        assert_eq!(size_of::<Ends>(), 16);
    }
}
