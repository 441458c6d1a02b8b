//! [`TlsServer`]: what a server shows its clients and wants of them.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;

use super::config_error::TlsConfigError;
use super::server_builder::TlsServerBuilder;

/// How long a handshake may take unless something else is said.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How many handshakes may be under way unless something else is said.
pub(super) const MAX_HANDSHAKES: usize = 10_000;

/// What a server shows its clients and wants of them. Cheap to clone; clones are the same configuration, so
/// that one of them can [`reload`](Self::reload) what a listening port uses. Two that were made separately
/// are never equal.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let made = rcgen::generate_simple_self_signed(["example.org".to_owned()])?;
/// # let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
/// use twistor::endpoint::{IntoListenEndpoint, TcpListen, TlsListen};
/// use twistor::tls::TlsServer;
///
/// let server = TlsServer::builder()
///     .certificate_pem(certificate.as_bytes(), key.as_bytes())
///     .alpn(["h2", "http/1.1"])
///     .build()?;
/// let endpoint = TlsListen::new(TcpListen::new(8443), server)?;
/// # let _ = endpoint.into_listen_endpoint()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TlsServer(Arc<Shared>);

struct Shared {
    config: Mutex<Arc<ServerConfig>>,
    origin: Origin,
    handshake_timeout: Duration,
    max_handshakes: usize,
}

/// Where the configuration comes from.
enum Origin {
    Builder(Box<TlsServerBuilder>),
    Ready,
}

impl TlsServer {
    /// Begins a configuration; it needs a certificate.
    pub fn builder() -> TlsServerBuilder {
        TlsServerBuilder::new()
    }

    /// With one certificate and otherwise the defaults: the file of the certificate (and of what leads from
    /// it to its root) and the file of its private key, in PEM. They can be one file.
    ///
    /// ```no_run
    /// use twistor::tls::TlsServer;
    ///
    /// let server = TlsServer::from_pem_files("server.crt", "server.key")?;
    /// # Ok::<(), twistor::tls::TlsConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If a file cannot be read or lacks what is needed, or the key does not belong to the certificate.
    pub fn from_pem_files(
        certificate: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, TlsConfigError> {
        Self::builder().certificate_files(certificate, key).build()
    }

    /// A configuration that was made with rustls itself, taken as it is. A handshake may take 10 seconds, and
    /// 10 000 of them may be under way.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let made = rcgen::generate_simple_self_signed(["example.org".to_owned()])?;
    /// # let (certificate, key) = (made.cert.der().clone(), made.signing_key.serialize_der());
    /// use std::sync::Arc;
    /// use twistor::tls::{TlsServer, provider, rustls};
    ///
    /// let config = rustls::ServerConfig::builder_with_provider(provider::ring())
    ///     .with_safe_default_protocol_versions()?
    ///     .with_no_client_auth()
    ///     .with_single_cert(vec![certificate], key.try_into()?)?;
    /// let server = TlsServer::from_config(Arc::new(config));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn from_config(config: Arc<ServerConfig>) -> Self {
        Self(Arc::new(Shared {
            config: Mutex::new(config),
            origin: Origin::Ready,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            max_handshakes: MAX_HANDSHAKES,
        }))
    }

    pub(super) fn from_builder(builder: TlsServerBuilder, config: ServerConfig) -> Self {
        Self(Arc::new(Shared {
            config: Mutex::new(Arc::new(config)),
            handshake_timeout: builder.handshake_timeout,
            max_handshakes: builder.max_handshakes,
            origin: Origin::Builder(Box::new(builder)),
        }))
    }

    /// Reads all files again that the configuration was made of: certificates, keys, roots of client
    /// certificates, revocation lists. Handshakes that begin from now on use what they say now; connections
    /// stay as they are. It reads files, so it belongs into a time without much to do, or into a thread: a
    /// clone can be sent there.
    ///
    /// Clients can go on with sessions that began before. If clients show certificates they cannot: a new
    /// revocation list has to count for all of them.
    ///
    /// ```no_run
    /// use twistor::tls::TlsServer;
    ///
    /// let server = TlsServer::from_pem_files("server.crt", "server.key")?;
    /// if let Err(error) = server.reload() {
    ///     log::error!("the certificates stay as they were: {error}");
    /// }
    /// # Ok::<(), twistor::tls::TlsConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If anything is wrong, the configuration stays as it was. One that was made
    /// [with rustls itself](Self::from_config) has no files to read.
    pub fn reload(&self) -> Result<(), TlsConfigError> {
        let Origin::Builder(builder) = &self.0.origin else {
            return Err(TlsConfigError::whole(
                "was made with rustls itself and has no files to read again; give it a resolver that does",
            ));
        };
        let current = self.current();
        let renewed = Arc::new(builder.config(Some(&current))?);
        let replaced =
            std::mem::replace(&mut *self.0.config.lock().unwrap_or_else(PoisonError::into_inner), renewed);
        // What it holds may be a user's; it goes with the lock released.
        drop(replaced);
        Ok(())
    }

    fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.config.lock().unwrap_or_else(PoisonError::into_inner))
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
        let mut config = (*self.current()).clone();
        // Early data can be replayed (RFC 8446, section 8), and a protocol would not know which data that is.
        config.max_early_data_size = 0;
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
        let mut debug = f.debug_struct("TlsServer");
        if let Origin::Builder(builder) = &self.0.origin {
            debug.field("builder", builder);
        }
        debug.finish_non_exhaustive()
    }
}

/// Hears the name that one client asks for, which the connection itself does not tell, and passes the
/// question on.
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
