//! Protocols whose hooks return a `Result`: an error ends the connection.

use std::error::Error;

use crate::net::reason::Reason;
use crate::net::timeouts::Timeout;
use crate::protocol::{Eof, OnTimeout, Protocol};
use crate::reactor::transport::Transport;

/// A protocol that may use `?`: an `Err` ends the connection with [`Reason::Failed`].
///
/// Wrap it in [`Fallible`] where a [`Protocol`] is wanted.
///
/// ```
/// use twistor::{Fallible, Reactor, Transport, TryProtocol};
///
/// struct Sum(i64);
///
/// impl TryProtocol for Sum {
///     type Error = std::num::ParseIntError;
///
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) -> Result<(), Self::Error> {
///         self.0 += String::from_utf8_lossy(data).trim().parse::<i64>()?;
///         writeln!(transport, "{}", self.0);
///         Ok(())
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// reactor.listen("tcp:0:interface=127.0.0.1", |_| Fallible(Sum(0)))?;
/// # Ok(())
/// # }
/// ```
#[allow(
    clippy::missing_errors_doc,
    reason = "the error is the implementor's own; the trait says what it does"
)]
pub trait TryProtocol: 'static {
    /// What may go wrong.
    type Error: Into<Box<dyn Error>>;

    /// See [`Protocol::connection_made`].
    fn connection_made(&mut self, transport: &Transport) -> Result<(), Self::Error> {
        let _ = transport;
        Ok(())
    }

    /// See [`Protocol::data_received`].
    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> Result<(), Self::Error>;

    /// See [`Protocol::descriptor_received`].
    #[cfg(unix)]
    fn descriptor_received(
        &mut self,
        transport: &Transport,
        descriptor: std::os::fd::OwnedFd,
    ) -> Result<(), Self::Error> {
        let _ = (transport, descriptor);
        Ok(())
    }

    /// See [`Protocol::tls_started`].
    #[cfg(feature = "tls")]
    fn tls_started(&mut self, transport: &Transport, tls: &crate::tls::TlsInfo) -> Result<(), Self::Error> {
        let _ = (transport, tls);
        Ok(())
    }

    /// See [`Protocol::eof_received`].
    fn eof_received(&mut self, transport: &Transport) -> Result<Eof, Self::Error> {
        let _ = transport;
        Ok(Eof::Close)
    }

    /// See [`Protocol::pause_writing`].
    fn pause_writing(&mut self, transport: &Transport) -> Result<(), Self::Error> {
        let _ = transport;
        Ok(())
    }

    /// See [`Protocol::resume_writing`].
    fn resume_writing(&mut self, transport: &Transport) -> Result<(), Self::Error> {
        let _ = transport;
        Ok(())
    }

    /// See [`Protocol::timed_out`].
    fn timed_out(&mut self, transport: &Transport, which: Timeout) -> Result<OnTimeout, Self::Error> {
        let _ = (transport, which);
        Ok(OnTimeout::Abort)
    }

    /// See [`Protocol::shutting_down`].
    fn shutting_down(&mut self, transport: &Transport) -> Result<(), Self::Error> {
        transport.lose_connection();
        Ok(())
    }

    /// See [`Protocol::connection_lost`].
    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        let _ = (transport, reason);
    }
}

/// Makes a [`Protocol`] of a [`TryProtocol`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Fallible<P>(pub P);

impl<P: TryProtocol> Protocol for Fallible<P> {
    fn connection_made(&mut self, transport: &Transport) {
        let result = self.0.connection_made(transport);
        transport.check(result);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let result = self.0.data_received(transport, data);
        transport.check(result);
    }

    #[cfg(feature = "tls")]
    fn tls_started(&mut self, transport: &Transport, tls: &crate::tls::TlsInfo) {
        transport.check(self.0.tls_started(transport, tls));
    }

    fn eof_received(&mut self, transport: &Transport) -> Eof {
        let result = self.0.eof_received(transport);
        transport.check(result).unwrap_or(Eof::Close)
    }

    fn pause_writing(&mut self, transport: &Transport) {
        let result = self.0.pause_writing(transport);
        transport.check(result);
    }

    fn resume_writing(&mut self, transport: &Transport) {
        let result = self.0.resume_writing(transport);
        transport.check(result);
    }

    fn timed_out(&mut self, transport: &Transport, which: Timeout) -> OnTimeout {
        let result = self.0.timed_out(transport, which);
        // A failed connection is closing by its own reason already.
        transport.check(result).unwrap_or(OnTimeout::Keep)
    }

    #[cfg(unix)]
    fn descriptor_received(&mut self, transport: &Transport, descriptor: std::os::fd::OwnedFd) {
        transport.check(self.0.descriptor_received(transport, descriptor));
    }

    fn shutting_down(&mut self, transport: &Transport) {
        let result = self.0.shutting_down(transport);
        transport.check(result);
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        self.0.connection_lost(transport, reason);
    }
}
