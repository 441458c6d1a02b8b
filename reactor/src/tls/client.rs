//! [`TlsClient`]: whom a client trusts and what it shows.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;

/// Whom a client trusts, and what it shows if it is asked who it is. Cheap to clone; clones share their sessions.
#[derive(Clone)]
pub struct TlsClient(Arc<Shared>);

struct Shared {
    config: Arc<ClientConfig>,
    handshake_timeout: Duration,
}

impl TlsClient {
    /// A configuration that was made with rustls itself, taken as it is.
    #[must_use]
    pub fn from_config(config: Arc<ClientConfig>) -> Self {
        Self(Arc::new(Shared { config, handshake_timeout: Duration::from_secs(10) }))
    }

    /// How long a handshake may take.
    pub(crate) fn handshake_timeout(&self) -> Duration {
        self.0.handshake_timeout
    }

    /// The protocol's side of a new connection to the server of that name.
    pub(crate) fn session(
        &self,
        name: ServerName<'static>,
    ) -> Result<UnbufferedClientConnection, rustls::Error> {
        UnbufferedClientConnection::new(Arc::clone(&self.0.config), name)
    }
}

impl PartialEq for TlsClient {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for TlsClient {}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient").finish_non_exhaustive()
    }
}
