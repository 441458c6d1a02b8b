//! Unix socket endpoints as typed builders: [`UnixListen`] and [`UnixConnect`].

use std::path::Path;
use std::time::Duration;

use super::error::EndpointError;
use super::limits;
use crate::core::address::UnixAddress;
use crate::driver::options::{UnixConnectSpec, UnixListenSpec, UnixOptions};

/// A Unix socket to listen on.
///
/// A socket file that is there already is replaced if nobody listens on it, as after a crash; a live one is
/// an error, and a file that is no socket is never touched. When the port is stopped its file is removed, if
/// it still is its own.
///
/// ```
/// use twistor::endpoint::UnixListen;
///
/// let endpoint = UnixListen::new("/run/echo.sock").mode(0o660);
/// assert_eq!(endpoint.address().to_string(), "/run/echo.sock");
/// ```
///
/// # Portability
///
/// Unix sockets are for Unix, [abstract names](Self::abstract_name) for Linux. Elsewhere listening fails with
/// an error of kind [`Unsupported`](std::io::ErrorKind::Unsupported).
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a builder does nothing until it is listened on"]
pub struct UnixListen {
    spec: UnixListenSpec,
}

impl UnixListen {
    /// Listens on a socket file.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self::on(UnixAddress::from_path(path))
    }

    /// Listens on a name of Linux's abstract namespace.
    pub fn abstract_name(name: impl AsRef<[u8]>) -> Self {
        Self::on(UnixAddress::from_abstract_name(name))
    }

    /// Listens on an address.
    pub fn on(address: UnixAddress) -> Self {
        Self { spec: UnixListenSpec { address, mode: None, backlog: 1024, options: UnixOptions::default() } }
    }

    /// The permission bits of the socket file: who may connect. Writing is what counts; `0o666` lets
    /// everybody, `0o660` the group. By default the umask decides.
    pub fn mode(mut self, mode: u32) -> Self {
        self.spec.mode = Some(mode);
        self
    }

    /// How many connections may wait to be accepted: 1 to 65535, 1024 by default. The system may cap it
    /// (Linux at `net.core.somaxconn`).
    pub fn backlog(mut self, connections: u32) -> Self {
        self.spec.backlog = connections;
        self
    }

    /// Whether peers may pass descriptors, which
    /// [`Protocol::descriptor_received`](crate::Protocol::descriptor_received) is given. Off by default: then
    /// the system closes what they pass.
    pub fn descriptors(mut self, on: bool) -> Self {
        self.spec.options.descriptors = on;
        self
    }

    /// The system's receive buffer per connection in bytes. By default the system's choice.
    pub fn recv_buffer(mut self, bytes: usize) -> Self {
        self.spec.options.recv_buffer = Some(bytes);
        self
    }

    /// The system's send buffer per connection in bytes. By default the system's choice.
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.spec.options.send_buffer = Some(bytes);
        self
    }

    /// The address.
    #[must_use]
    pub fn address(&self) -> &UnixAddress {
        &self.spec.address
    }

    /// All options at once.
    pub(super) fn options(mut self, options: UnixOptions) -> Self {
        self.spec.options = options;
        self
    }

    pub(crate) fn spec(&self) -> &UnixListenSpec {
        &self.spec
    }

    pub(super) fn check(&self) -> Result<(), EndpointError> {
        self.check_values().map_err(|complaint| EndpointError::in_builder(&self.spec.address, complaint))
    }

    pub(super) fn check_values(&self) -> Result<(), String> {
        check_address(&self.spec.address)?;
        limits::BACKLOG.check("backlog", self.spec.backlog)?;
        check_mode(self.spec.mode, &self.spec.address)?;
        check_options(&self.spec.options)
    }
}

/// A Unix socket to connect to.
///
/// ```
/// use twistor::endpoint::UnixConnect;
///
/// let endpoint = UnixConnect::new("/run/echo.sock");
/// assert_eq!(endpoint.address().to_string(), "/run/echo.sock");
/// ```
///
/// # Portability
///
/// As [`UnixListen`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a builder does nothing until it is connected"]
pub struct UnixConnect {
    spec: UnixConnectSpec,
    timeout: Duration,
}

impl UnixConnect {
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
        let spec = UnixConnectSpec { address, local_address: None, options: UnixOptions::default() };
        Self { spec, timeout: Duration::from_secs(30) }
    }

    /// The address to connect from. By default there is none: servers see an unnamed peer. The file of a path
    /// is left behind.
    pub fn local_addr(mut self, address: UnixAddress) -> Self {
        self.spec.local_address = Some(address);
        self
    }

    /// When the attempt is given up: above 0 and at most 24 hours, 30 seconds by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Whether the peer may pass descriptors, which
    /// [`Protocol::descriptor_received`](crate::Protocol::descriptor_received) is given. Off by default: then
    /// the system closes what it passes.
    pub fn descriptors(mut self, on: bool) -> Self {
        self.spec.options.descriptors = on;
        self
    }

    /// The system's receive buffer in bytes. By default the system's choice.
    pub fn recv_buffer(mut self, bytes: usize) -> Self {
        self.spec.options.recv_buffer = Some(bytes);
        self
    }

    /// The system's send buffer in bytes. By default the system's choice.
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.spec.options.send_buffer = Some(bytes);
        self
    }

    /// The address to connect to.
    #[must_use]
    pub fn address(&self) -> &UnixAddress {
        &self.spec.address
    }

    /// All options at once.
    pub(super) fn options(mut self, options: UnixOptions) -> Self {
        self.spec.options = options;
        self
    }

    pub(crate) fn spec(&self) -> &UnixConnectSpec {
        &self.spec
    }

    /// When the attempt is to be given up: the layers above the driver keep the time.
    pub(crate) fn time_limit(&self) -> Duration {
        self.timeout
    }

    pub(super) fn check(&self) -> Result<(), EndpointError> {
        self.check_values().map_err(|complaint| EndpointError::in_builder(&self.spec.address, complaint))
    }

    pub(super) fn check_values(&self) -> Result<(), String> {
        check_address(&self.spec.address)?;
        if let Some(local) = &self.spec.local_address {
            check_address(local)?;
        }
        limits::CONNECT_TIMEOUT.check_time("timeout", self.timeout)?;
        check_options(&self.spec.options)
    }
}

/// The shortest limit there is among systems is not the same everywhere; the system's own is told when it is
/// met.
pub(super) fn check_address(address: &UnixAddress) -> Result<(), String> {
    let is_empty = address.path().is_some_and(|path| path.as_os_str().is_empty());
    if address.is_unnamed() || is_empty {
        return Err("the path is empty".to_owned());
    }
    Ok(())
}

pub(super) fn check_mode(mode: Option<u32>, address: &UnixAddress) -> Result<(), String> {
    match mode {
        Some(mode) if mode > 0o777 => Err(format!("mode {mode:o} is not from 0 to 777 (octal)")),
        Some(_) if address.abstract_name().is_some() => {
            Err("mode is given for an abstract name, which has none".to_owned())
        }
        _ => Ok(()),
    }
}

pub(super) fn check_options(options: &UnixOptions) -> Result<(), String> {
    if let Some(size) = options.recv_buffer {
        limits::BUFFER.check("recv_buffer", size)?;
    }
    if let Some(size) = options.send_buffer {
        limits::BUFFER.check("send_buffer", size)?;
    }
    Ok(())
}
