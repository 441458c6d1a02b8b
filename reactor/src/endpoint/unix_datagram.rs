//! Unix sockets for datagrams as typed builders: [`UnixDatagramBind`] and [`UnixDatagramConnect`].

use std::path::Path;

use super::error::EndpointError;
use super::udp::DatagramLimits;
use super::unix::{check_address, check_mode, check_options};
use crate::core::address::UnixAddress;
use crate::driver::options::{UnixDatagramSpec, UnixOptions};

/// The options that both kinds of sockets have.
macro_rules! common_options {
    () => {
        /// The system's receive buffer in bytes. By default the system's choice. How many datagrams it holds
        /// is another limit: on Linux `net.unix.max_dgram_qlen`.
        pub fn recv_buffer(mut self, bytes: usize) -> Self {
            self.spec.options.recv_buffer = Some(bytes);
            self
        }

        /// The system's send buffer in bytes, which a datagram has to fit into. By default the system's
        /// choice. Systems change the number to their liking: Linux doubles it and caps it at
        /// `net.core.wmem_max`.
        pub fn send_buffer(mut self, bytes: usize) -> Self {
            self.spec.options.send_buffer = Some(bytes);
            self
        }

        /// How many datagrams, and how many bytes of them, wait at most while the system takes no more: 1 to
        /// 1048576, and 65535 to 1073741824. What is sent beyond is dropped and counted. As many again may
        /// wait for receivers that have no room, so that those hold up nobody else. Default: 1024 datagrams,
        /// 4 MiB.
        pub fn queue_limit(mut self, datagrams: usize, bytes: usize) -> Self {
            (self.limits.queue, self.limits.queue_bytes) = (datagrams, bytes);
            self
        }

        /// The longest datagram that is received whole: 1 to 65535 bytes, which is the default. A longer one
        /// is reported as truncated.
        pub fn max_datagram(mut self, bytes: usize) -> Self {
            self.limits.max_datagram = bytes;
            self
        }

        /// All limits at once.
        pub(super) fn limited(self, limits: DatagramLimits) -> Self {
            Self { limits, ..self }
        }

        pub(crate) fn spec(&self) -> &UnixDatagramSpec {
            &self.spec
        }

        pub(crate) fn limits(&self) -> DatagramLimits {
            self.limits
        }

        /// The address to bind or to connect to.
        #[must_use]
        pub fn address(&self) -> &UnixAddress {
            &self.address
        }

        pub(super) fn check(&self) -> Result<(), EndpointError> {
            self.check_values().map_err(|complaint| EndpointError::in_builder(&self.address, complaint))
        }
    };
}

/// A Unix socket to receive datagrams at and to send them from.
///
/// A socket file that is there already is replaced if nobody has it open, as after a crash; a live one is an
/// error, and a file that is no socket is never touched. When the socket is closed its file is removed, if it
/// still is its own.
///
/// ```
/// use twistor::endpoint::UnixDatagramBind;
///
/// let endpoint = UnixDatagramBind::new("/run/log.sock").mode(0o666);
/// assert_eq!(endpoint.address().to_string(), "/run/log.sock");
/// ```
///
/// # Portability
///
/// Unix sockets are for Unix, [abstract names](Self::abstract_name) for Linux. Elsewhere opening one fails
/// with an error of kind [`Unsupported`](std::io::ErrorKind::Unsupported).
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a builder does nothing until it is listened on"]
pub struct UnixDatagramBind {
    spec: UnixDatagramSpec,
    limits: DatagramLimits,
    address: UnixAddress,
}

impl UnixDatagramBind {
    /// At a socket file.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self::on(UnixAddress::from_path(path))
    }

    /// At a name of Linux's abstract namespace.
    pub fn abstract_name(name: impl AsRef<[u8]>) -> Self {
        Self::on(UnixAddress::from_abstract_name(name))
    }

    /// At an address.
    pub fn on(address: UnixAddress) -> Self {
        let spec = UnixDatagramSpec {
            local: Some(address.clone()),
            remote: None,
            autobind: false,
            mode: None,
            options: UnixOptions::default(),
        };
        Self { spec, limits: DatagramLimits::default(), address }
    }

    /// The permission bits of the socket file: who may send. Writing is what counts; `0o666` lets everybody,
    /// `0o660` the group. By default the umask decides.
    pub fn mode(mut self, mode: u32) -> Self {
        self.spec.mode = Some(mode);
        self
    }

    common_options!();

    pub(super) fn check_values(&self) -> Result<(), String> {
        check_address(&self.address)?;
        check_mode(self.spec.mode, &self.address)?;
        self.limits.check()?;
        check_options(&self.spec.options)
    }
}

/// A Unix socket for datagrams that is connected to one peer: it sends there, and receives from nobody else.
///
/// When the peer is gone and another socket has taken its address, what is sent goes there.
///
/// ```
/// use twistor::endpoint::UnixDatagramConnect;
///
/// let endpoint = UnixDatagramConnect::new("/dev/log");
/// assert_eq!(endpoint.address().to_string(), "/dev/log");
/// ```
///
/// # Portability
///
/// As [`UnixDatagramBind`]; [`autobind`](Self::autobind) is for Linux.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a builder does nothing until it is connected"]
pub struct UnixDatagramConnect {
    spec: UnixDatagramSpec,
    limits: DatagramLimits,
    address: UnixAddress,
}

impl UnixDatagramConnect {
    /// Connects to a socket file.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self::to(UnixAddress::from_path(path))
    }

    /// Connects to a name of Linux's abstract namespace.
    pub fn abstract_name(name: impl AsRef<[u8]>) -> Self {
        Self::to(UnixAddress::from_abstract_name(name))
    }

    /// Connects to an address.
    pub fn to(address: UnixAddress) -> Self {
        let spec = UnixDatagramSpec {
            local: None,
            remote: Some(address.clone()),
            autobind: false,
            mode: None,
            options: UnixOptions::default(),
        };
        Self { spec, limits: DatagramLimits::default(), address }
    }

    /// The address to send from, where the peer can answer. By default there is none: the peer sees an
    /// unnamed sender. A file is made and removed as [`UnixDatagramBind`] does it.
    pub fn local_addr(mut self, address: UnixAddress) -> Self {
        self.spec.local = Some(address);
        self
    }

    /// Whether the system chooses an abstract name to send from, so that the peer can answer. Off by default.
    pub fn autobind(mut self, on: bool) -> Self {
        self.spec.autobind = on;
        self
    }

    common_options!();

    pub(super) fn check_values(&self) -> Result<(), String> {
        check_address(&self.address)?;
        if let Some(local) = &self.spec.local {
            check_address(local)?;
            if self.spec.autobind {
                return Err(format!(
                    "autobind is asked for together with the local address {local}; leave one of them out"
                ));
            }
        }
        self.limits.check()?;
        check_options(&self.spec.options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_make_no_sense_are_refused() {
        let complaint = |endpoint: UnixDatagramBind| endpoint.check().unwrap_err().to_string();
        let new = || UnixDatagramBind::new("/a");
        assert_eq!(complaint(new().mode(0o1000)), "bad endpoint /a: mode 1000 is not from 0 to 777 (octal)");
        assert!(complaint(UnixDatagramBind::abstract_name("a").mode(0o600)).contains("abstract name"));
        assert!(complaint(new().queue_limit(0, 1 << 20)).contains("queue 0 is not from 1 to"));
        assert!(complaint(new().max_datagram(65_536)).contains("max_datagram 65536 is not from 1 to"));
        assert!(complaint(new().recv_buffer(0)).contains("recv_buffer 0"));
        assert!(complaint(UnixDatagramBind::new("")).contains("the path is empty"));
        assert!(complaint(UnixDatagramBind::on(UnixAddress::unnamed())).contains("the path is empty"));
        let both = UnixDatagramConnect::new("/a").local_addr(UnixAddress::from_path("/b")).autobind(true);
        assert_eq!(
            both.check().unwrap_err().to_string(),
            "bad endpoint /a: autobind is asked for together with the local address /b; leave one of them out"
        );
        new().mode(0o666).queue_limit(1, 65_535).check().unwrap();
    }
}
