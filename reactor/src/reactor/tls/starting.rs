//! How TLS begins on a connection that is there: [`Transport::start_tls_server`],
//! [`Transport::start_tls_client`].

use std::time::Instant;

use rustls::pki_types::ServerName;

use crate::net::connection::End;
use crate::net::reason::Reason;
use crate::net::tls::Tls;
use crate::reactor::deferred::Deferred;
use crate::reactor::inner::Inner;
use crate::reactor::stats::Counters;
use crate::reactor::timers::deadline;
use crate::reactor::transport::Transport;
use crate::tls::TlsError;
use crate::tls::{TlsClient, TlsInfo, TlsServer};

impl Transport {
    /// Goes on with TLS, as its server: what was written before leaves as it is, what is written from now on
    /// is sealed, and waits for the handshake. When that is complete,
    /// [`tls_started`](crate::Protocol::tls_started) is called and the Deferred fires.
    ///
    /// The peer must have sent nothing behind its request to begin: plain bytes that were received already,
    /// and that the protocol [gives back](Self::unread) because it cannot use them, are an injection, and end
    /// the connection with [`TlsError::Injected`]. A protocol must do that with whatever stands behind the
    /// request in the same chunk, and never keep it for later.
    ///
    /// ```
    /// use twistor::tls::TlsServer;
    /// use twistor::{Protocol, Transport};
    ///
    /// struct Chat {
    ///     tls: TlsServer,
    /// }
    ///
    /// impl Protocol for Chat {
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
    ///         if let Some(behind) = data.strip_prefix(b"STARTTLS\r\n") {
    ///             transport.write(b"220 go ahead\r\n");
    ///             drop(transport.start_tls_server(&self.tls));
    ///             transport.unread(behind.to_vec());
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// The Deferred fails with the reason of the loss if the handshake fails or the connection ends before;
    /// at once if it has TLS already, is closing, or is relayed.
    #[track_caller]
    pub fn start_tls_server(&self, server: &TlsServer) -> Deferred<TlsInfo, Reason> {
        self.start_tls(|transport| transport.begin_tls_server(server))
    }

    /// Goes on with TLS, as its client, to a server that has to prove that it is `name`: a host name or an IP
    /// address. Otherwise as [`start_tls_server`](Self::start_tls_server).
    ///
    /// # Errors
    ///
    /// As there; and at once if `name` is neither.
    #[track_caller]
    pub fn start_tls_client(&self, client: &TlsClient, name: &str) -> Deferred<TlsInfo, Reason> {
        self.start_tls(|transport| {
            let name = ServerName::try_from(name.to_owned())
                .map_err(|error| Reason::failed(format!("cannot verify a server named {name:?}: {error}")))?;
            transport.begin_tls_client(client, name, None)
        })
    }

    #[track_caller]
    fn start_tls(&self, begin: impl FnOnce(&Self) -> Result<(), Reason>) -> Deferred<TlsInfo, Reason> {
        let (resolver, deferred) = Deferred::new(self.reactor());
        let deferred = deferred.hushed();
        match begin(self) {
            Ok(()) => self.with_extra(|extra| extra.secured = Some(resolver)),
            Err(reason) => {
                resolver.resolve(Err(reason));
            }
        }
        deferred
    }

    pub(super) fn begin_tls_server(&self, server: &TlsServer) -> Result<(), Reason> {
        self.begin_tls(|inner| {
            let limit = deadline(inner.read_clock(), server.handshake_timeout());
            Ok(Tls::server(server.clone(), Some(limit)))
        })
    }

    /// `limit` is when the handshake has to be complete at the latest.
    pub(super) fn begin_tls_client(
        &self,
        client: &TlsClient,
        name: ServerName<'static>,
        limit: Option<Instant>,
    ) -> Result<(), Reason> {
        self.begin_tls(|inner| {
            let own = deadline(inner.read_clock(), client.handshake_timeout());
            let limit = limit.map_or(own, |limit| limit.min(own));
            let text = name.to_str().into();
            Tls::client(client.session(name)?, text, Some(limit))
        })
    }

    fn begin_tls(&self, make: impl FnOnce(&Inner) -> Result<Tls, TlsError>) -> Result<(), Reason> {
        let Some(inner) = self.inner() else { return Err(Reason::Shutdown) };
        let is_relayed = self.is_relayed();
        let begun = {
            let mut machine = self.0.machine.borrow_mut();
            if !machine.is_open() || machine.is_finishing() {
                return Err(machine.reason().cloned().unwrap_or(Reason::Closed));
            }
            if machine.tls().is_some() {
                return Err(Reason::failed("the connection has TLS already"));
            }
            if is_relayed {
                return Err(Reason::failed("a connection that is relayed cannot begin TLS"));
            }
            if machine.has_unread() {
                Err(TlsError::Injected)
            } else if machine.peer_has_ended() {
                // Nobody would say so again.
                Err(TlsError::HandshakeEnded)
            } else {
                make(&inner).map(|tls| machine.secure(tls))
            }
        };
        if let Err(error) = begun {
            Counters::bump(&inner.counters.tls_failures);
            self.end(Reason::Tls(error.clone()), End::Abrupt);
            return Err(Reason::Tls(error));
        }
        inner.watch(self);
        self.attend();
        Ok(())
    }

    fn is_relayed(&self) -> bool {
        let extra = self.0.extra.borrow();
        extra.as_ref().is_some_and(|extra| extra.relay_out.is_some() || extra.relay_from.is_some())
    }

    /// What the handshake has agreed on; `None` without TLS, and before it is complete.
    #[must_use]
    pub fn tls(&self) -> Option<TlsInfo> {
        self.0.machine.borrow().tls()?.info()
    }
}
