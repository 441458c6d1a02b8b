//! [`TlsServer`]: what a server shows its clients and wants of them.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;

/// What a server shows its clients and wants of them. Cheap to clone; clones are the same configuration.
#[derive(Clone)]
pub struct TlsServer(Arc<Shared>);

struct Shared {
    config: Mutex<Arc<ServerConfig>>,
    handshake_timeout: Duration,
    max_handshakes: usize,
}

impl TlsServer {
    /// A configuration that was made with rustls itself, taken as it is.
    #[must_use]
    pub fn from_config(config: Arc<ServerConfig>) -> Self {
        Self(Arc::new(Shared {
            config: Mutex::new(config),
            handshake_timeout: Duration::from_secs(10),
            max_handshakes: 10_000,
        }))
    }

    /// How long a handshake may take.
    pub(crate) fn handshake_timeout(&self) -> Duration {
        self.0.handshake_timeout
    }

    /// How many handshakes of a port may be under way.
    pub(crate) fn max_handshakes(&self) -> usize {
        self.0.max_handshakes
    }

    /// The protocol's side of a new connection, and what will hear which name the client asks for.
    pub(crate) fn session(&self) -> Result<(UnbufferedServerConnection, Arc<ServerNameTap>), rustls::Error> {
        let config = Arc::clone(&self.0.config.lock().unwrap_or_else(PoisonError::into_inner));
        let mut config = (*config).clone();
        let tap = Arc::new(ServerNameTap { resolver: config.cert_resolver, name: Mutex::default() });
        config.cert_resolver = Arc::clone(&tap) as Arc<dyn ResolvesServerCert>;
        Ok((UnbufferedServerConnection::new(Arc::new(config))?, tap))
    }
}

impl PartialEq for TlsServer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for TlsServer {}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer").finish_non_exhaustive()
    }
}

/// Hears the name that one client asks for, which the connection itself does not tell, and passes the question on.
#[derive(Debug)]
pub(crate) struct ServerNameTap {
    resolver: Arc<dyn ResolvesServerCert>,
    name: Mutex<Option<Box<str>>>,
}

impl ServerNameTap {
    pub(crate) fn take(&self) -> Option<Box<str>> {
        self.name.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ResolvesServerCert for ServerNameTap {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        *self.name.lock().unwrap_or_else(PoisonError::into_inner) = hello.server_name().map(Into::into);
        self.resolver.resolve(hello)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.resolver.only_raw_public_keys()
    }
}
