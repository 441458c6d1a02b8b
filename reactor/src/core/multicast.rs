//! Through which network interface multicast goes.

use std::net::Ipv4Addr;

/// A network interface, as multicast options name one.
///
/// ```
/// use std::net::Ipv4Addr;
/// use twistor::MulticastInterface;
///
/// assert_eq!(MulticastInterface::from(Ipv4Addr::LOCALHOST), MulticastInterface::Address(Ipv4Addr::LOCALHOST));
/// assert_eq!(MulticastInterface::from(2), MulticastInterface::Index(2));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum MulticastInterface {
    /// The one that the system's routes choose.
    #[default]
    Any,
    /// The one that has this address. For IPv4 only.
    Address(Ipv4Addr),
    /// The one with this number, as `ip link` shows it.
    Index(u32),
}

impl From<Ipv4Addr> for MulticastInterface {
    fn from(address: Ipv4Addr) -> Self {
        if address.is_unspecified() { Self::Any } else { Self::Address(address) }
    }
}

impl From<u32> for MulticastInterface {
    fn from(index: u32) -> Self {
        if index == 0 { Self::Any } else { Self::Index(index) }
    }
}
