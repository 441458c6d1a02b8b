//! The addresses of both ends of a stream, as a connection keeps them.

use std::net::{SocketAddr, SocketAddrV4};

use crate::core::address::Address;

/// The addresses of both ends of a stream, in as little memory as idle connections deserve: the usual ones
/// fit into two words, others stand in a box.
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
            ends => Self::Other(Box::new(ends)),
        }
    }

    pub(crate) fn peer(&self) -> Address {
        match self {
            Self::V4 { peer, .. } => Address::Ip(SocketAddr::V4(*peer)),
            Self::Other(ends) => ends.0.clone(),
        }
    }

    pub(crate) fn local(&self) -> Address {
        match self {
            Self::V4 { local, .. } => Address::Ip(SocketAddr::V4(*local)),
            Self::Other(ends) => ends.1.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::address::UnixAddress;

    #[test]
    fn both_ends_are_given_back_as_they_were() {
        let addresses: Vec<Address> = ["1.2.3.4:5", "[::1]:6", "127.0.0.1:0"]
            .iter()
            .map(|text| Address::Ip(text.parse().unwrap()))
            .chain([UnixAddress::unnamed().into(), Address::other("stdio")])
            .collect();
        for peer in &addresses {
            for local in &addresses {
                let ends = Ends::new(peer.clone(), local.clone());
                assert_eq!((ends.peer(), ends.local()), (peer.clone(), local.clone()));
            }
        }
        assert_eq!(size_of::<Ends>(), 16);
    }
}
