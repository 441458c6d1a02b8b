//! Unix sockets in a simulated network: ports of a host's own that have names.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use super::network::{HostId, Network, Owner, SocketId};
use crate::core::address::UnixAddress;
use crate::driver::options::{ListenSpec, TcpOptions, UnixListenSpec};

impl Network {
    /// Listens on a Unix socket: a port of the host's own that has a name.
    pub(super) fn listen_unix(
        &mut self,
        host: HostId,
        spec: &UnixListenSpec,
        owner: Owner,
    ) -> io::Result<SocketId> {
        if spec.address.is_unnamed() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if let Ok(address) = self.unix_target(host, &spec.address) {
            if self.listener_for(host, address).is_some() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            // Its host crashed meanwhile: nobody listens there.
            self.forget_unix_name(host, address);
        }
        if self.unix_mailbox(host, &spec.address).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let tcp = ListenSpec {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            backlog: spec.backlog,
            reuse_address: true,
            reuse_port: false,
            v6only: None,
            defer_accept: None,
            fast_open: None,
            tcp: TcpOptions::default(),
        };
        let (id, address) = self.listen(host, &tcp, owner)?;
        self.hosts[host.0].unix_names.push((spec.address.clone(), address));
        Ok(id)
    }

    /// Where the Unix socket of this name is.
    pub(super) fn unix_target(&self, host: HostId, name: &UnixAddress) -> io::Result<SocketAddr> {
        let mut names = self.hosts[host.0].unix_names.iter();
        let found = names.find(|(known, _)| known == name).map(|(_, address)| *address);
        // An abstract name that nobody has is refused, as a dead socket file is.
        let missing =
            if name.path().is_some() { io::ErrorKind::NotFound } else { io::ErrorKind::ConnectionRefused };
        found.ok_or_else(|| missing.into())
    }

    /// The name of the Unix socket that is there.
    pub(super) fn unix_name(&self, host: HostId, address: SocketAddr) -> Option<&UnixAddress> {
        let mut names = self.hosts[host.0].unix_names.iter();
        names.find(|(_, known)| *known == address).map(|(name, _)| name)
    }

    pub(super) fn forget_unix_name(&mut self, host: HostId, address: SocketAddr) {
        self.hosts[host.0].unix_names.retain(|(_, known)| *known != address);
    }
}
