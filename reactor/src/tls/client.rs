//! [`TlsClient`]: whom a client trusts and what it shows.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;

use super::client_builder::{Made, TlsClientBuilder};
use super::config_error::{Part, TlsConfigError};
use super::verify::BySystem;

/// Whom a client trusts, and what it shows if it is asked who it is. Cheap to clone; clones share their
/// sessions, so that one who connects often should keep one. Two that were made separately are never equal.
///
/// ```
/// use twistor::endpoint::TlsConnect;
/// use twistor::tls::TlsClient;
///
/// let client = TlsClient::new();
/// let endpoint = TlsConnect::host("example.org", 443, client.clone())?;
/// let other = TlsConnect::host("example.com", 443, client)?;
/// # Ok::<(), twistor::endpoint::EndpointError>(())
/// ```
#[derive(Clone)]
pub struct TlsClient(Arc<Shared>);

struct Shared {
    config: Mutex<Arc<ClientConfig>>,
    origin: Origin,
    handshake_timeout: Duration,
}

/// Where the configuration comes from.
enum Origin {
    Builder { builder: Box<TlsClientBuilder>, system: Option<Arc<BySystem>> },
    Ready,
}

impl TlsClient {
    /// Trusts whom the system trusts: on Linux and BSD the system's roots (or those in `SSL_CERT_FILE` and
    /// `SSL_CERT_DIR`), on macOS, iOS, Windows and Android the system's own verifier. They are looked up when
    /// the first connection needs them; see [`prepare`](Self::prepare).
    #[must_use]
    pub fn new() -> Self {
        let builder = Self::builder();
        let made = builder.config().expect("the defaults go together and read no file");
        Self::from_builder(builder, made)
    }

    /// Begins a configuration; without further ado it is that of [`new`](Self::new).
    pub fn builder() -> TlsClientBuilder {
        TlsClientBuilder::new()
    }

    /// A configuration that was made with rustls itself, taken as it is. A handshake may take 10 seconds.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::Arc;
    /// use twistor::tls::{TlsClient, provider, rustls};
    ///
    /// let config = rustls::ClientConfig::builder_with_provider(provider::ring())
    ///     .with_safe_default_protocol_versions()?
    ///     .with_root_certificates(rustls::RootCertStore::empty())
    ///     .with_no_client_auth();
    /// let client = TlsClient::from_config(Arc::new(config));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn from_config(config: Arc<ClientConfig>) -> Self {
        Self(Arc::new(Shared {
            config: Mutex::new(config),
            origin: Origin::Ready,
            handshake_timeout: super::server::HANDSHAKE_TIMEOUT,
        }))
    }

    pub(super) fn from_builder(builder: TlsClientBuilder, made: Made) -> Self {
        Self(Arc::new(Shared {
            config: Mutex::new(Arc::new(made.config)),
            handshake_timeout: builder.handshake_timeout,
            origin: Origin::Builder { builder: Box::new(builder), system: made.system },
        }))
    }

    /// Looks up now what the first connection would look up: the system's roots. On Linux that reads some
    /// hundred kilobytes, which takes milliseconds. Does nothing if the system is not asked.
    ///
    /// # Errors
    ///
    /// If the system has no roots. Connections would fail for the same reason.
    pub fn prepare(&self) -> Result<(), TlsConfigError> {
        let Origin::Builder { system: Some(system), .. } = &self.0.origin else {
            return Ok(());
        };
        system.verifier().map(drop).map_err(|error| {
            let complaint = format!("of the system cannot be used: {error}; give roots of your own");
            TlsConfigError::new(Part::Roots, None, complaint).because_of(error)
        })
    }

    /// Reads all files again that the configuration was made of: roots, revocation lists, the own
    /// certificate. New connections use what they say now, and begin new sessions; connections stay as they
    /// are.
    ///
    /// The system's roots are read once per program run and configuration: not here.
    ///
    /// # Errors
    ///
    /// If anything is wrong, the configuration stays as it was. One that was made
    /// [with rustls itself](Self::from_config) has no files to read.
    pub fn reload(&self) -> Result<(), TlsConfigError> {
        let Origin::Builder { builder, system } = &self.0.origin else {
            return Err(TlsConfigError::whole("was made with rustls itself and has no files to read again"));
        };
        let renewed = Arc::new(builder.config_with(system.clone())?);
        let replaced =
            std::mem::replace(&mut *self.0.config.lock().unwrap_or_else(PoisonError::into_inner), renewed);
        // What it holds may be a user's; it goes with the lock released.
        drop(replaced);
        Ok(())
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
        let config = Arc::clone(&self.0.config.lock().unwrap_or_else(PoisonError::into_inner));
        UnbufferedClientConnection::new(config, name)
    }
}

impl Default for TlsClient {
    fn default() -> Self {
        Self::new()
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
        let mut debug = f.debug_struct("TlsClient");
        if let Origin::Builder { builder, .. } = &self.0.origin {
            debug.field("builder", builder);
        }
        debug.finish_non_exhaustive()
    }
}
