//! [`TlsClientBuilder`]: from files and settings to what rustls is given.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};

use super::client::TlsClient;
use super::common::{self, Common};
use super::config_error::{Part, TlsConfigError};
use super::info::TlsVersion;
use super::material::{self, Identity, Source};
use super::server::HANDSHAKE_TIMEOUT;
use super::verify::{ByRootsOrSystem, BySystem, Check, CheckedServer, NotAtAll};

/// Servers whose sessions are remembered.
const SESSION_CACHE: usize = 256;

/// What a [`TlsClient`] is made of. Without anything said it trusts whom the system trusts, speaks TLS 1.2
/// and 1.3, resumes sessions and shows no certificate.
///
/// What it verifies can be made stricter by the methods here; it is made weaker only by those with
/// `dangerous` in their names.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let made = rcgen::generate_simple_self_signed(["example.org".to_owned()])?;
/// # let (certificate, key, roots) = (made.cert.pem(), made.signing_key.serialize_pem(), made.cert.pem());
/// use twistor::tls::{TlsClient, TlsVersion};
///
/// let client = TlsClient::builder()
///     .roots_pem(roots.as_bytes())
///     .certificate_pem(certificate.as_bytes(), key.as_bytes())
///     .alpn(["h2"])
///     .min_version(TlsVersion::Tls13)
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct TlsClientBuilder {
    common: Common,
    trust: Trust,
    roots: Vec<Source>,
    webpki_roots: bool,
    /// Whether the system is asked; by default it is if there are no roots.
    system: Option<bool>,
    crls: Vec<Source>,
    checks: Vec<Check>,
    identity: Option<Identity>,
    stray_chain: bool,
    sessions: usize,
    name_indication: bool,
    pub(super) handshake_timeout: Duration,
}

#[derive(Clone)]
enum Trust {
    /// By roots, the system, or both.
    Verified,
    Dangerous(Danger),
}

#[derive(Clone)]
enum Danger {
    Anyone,
    Verifier(Arc<dyn ServerCertVerifier>),
}

/// A configuration, and what in it reads the system's roots.
pub(super) struct Made {
    pub(super) config: ClientConfig,
    pub(super) system: Option<Arc<BySystem>>,
}

impl TlsClientBuilder {
    pub(super) fn new() -> Self {
        Self {
            common: Common::new(),
            trust: Trust::Verified,
            roots: Vec::new(),
            webpki_roots: false,
            system: None,
            crls: Vec::new(),
            checks: Vec::new(),
            identity: None,
            stray_chain: false,
            sessions: SESSION_CACHE,
            name_indication: true,
            handshake_timeout: HANDSHAKE_TIMEOUT,
        }
    }

    /// A file in PEM with roots to trust, in the place of the system's (see
    /// [`system_roots`](Self::system_roots)).
    pub fn roots_file(mut self, roots: impl AsRef<Path>) -> Self {
        self.roots.push(Source::file(roots));
        self
    }

    /// The same with a PEM text in the place of a file.
    pub fn roots_pem(mut self, roots: &[u8]) -> Self {
        self.roots.push(Source::given(roots));
        self
    }

    /// Mozilla's roots, as they were when this program was built, in the place of the system's. Needs the
    /// feature `tls-webpki-roots`.
    #[cfg(feature = "tls-webpki-roots")]
    pub fn webpki_roots(mut self) -> Self {
        self.webpki_roots = true;
        self
    }

    /// Whether to trust whom the system trusts. By default it is asked if no other roots are given; with yes
    /// it is asked about what those have not issued.
    pub fn system_roots(mut self, on: bool) -> Self {
        self.system = Some(on);
        self
    }

    /// A file with lists of revoked certificates (RFC 5280), in PEM or DER, that servers' certificates are
    /// looked up in. It needs roots given here; the system's verifier has its own ways, or none.
    ///
    /// As soon as there is one, there has to be one for every certificate of a server's chain, issued by its
    /// issuer and not out of date: what cannot be looked up is refused. See [`TlsClient::reload`].
    pub fn crl_file(mut self, list: impl AsRef<Path>) -> Self {
        self.crls.push(Source::file(list));
        self
    }

    /// The same with a PEM text, or DER, in the place of a file.
    pub fn crl_pem(mut self, list: &[u8]) -> Self {
        self.crls.push(Source::given(list));
        self
    }

    /// A check of servers' certificates in addition: it gets the server's certificate and those that the
    /// server sent with it, both verified already, in DER. What it says against them becomes the error of the
    /// attempt. Several checks all have to agree; one that panics refuses.
    ///
    /// It runs once per full handshake, on the thread of the reactor; a resumed session was checked when it
    /// began.
    ///
    /// ```
    /// # fn main() -> Result<(), twistor::tls::TlsConfigError> {
    /// use twistor::tls::TlsClient;
    ///
    /// let pinned: Vec<u8> = Vec::new();
    /// let client = TlsClient::builder()
    ///     .also_verify(move |end_entity, _intermediates| {
    ///         if **end_entity == pinned[..] { Ok(()) } else { Err("another certificate is pinned".to_owned()) }
    ///     })
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn also_verify(
        mut self,
        check: impl Fn(&CertificateDer<'_>, &[CertificateDer<'_>]) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.checks.push(Arc::new(check));
        self
    }

    /// The certificate to show to servers that ask for one, from two files in PEM: one with the certificate,
    /// followed by those that lead from it to its root, and one with its private key. Both can be the same
    /// file.
    pub fn certificate_files(mut self, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        self.identity = Some(Identity::new(Source::file(certificate), Source::file(key)));
        self
    }

    /// The same with PEM texts in the place of files.
    pub fn certificate_pem(mut self, certificate: &[u8], key: &[u8]) -> Self {
        self.identity = Some(Identity::new(Source::given(certificate), Source::given(key)));
        self
    }

    /// A further file in PEM with certificates that lead from the own one to its root, where they do not
    /// stand behind it in its file.
    pub fn chain_file(mut self, chain: impl AsRef<Path>) -> Self {
        match &mut self.identity {
            Some(identity) => identity.chain.push(Source::file(chain)),
            None => self.stray_chain = true,
        }
        self
    }

    /// The application's protocols to offer, the best first (ALPN, RFC 7301), 1 to 255 bytes each. None by
    /// default.
    pub fn alpn<I>(mut self, protocols: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<Vec<u8>>,
    {
        self.common.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// The oldest version to speak. TLS 1.2 by default.
    pub fn min_version(mut self, version: TlsVersion) -> Self {
        self.common.min_version = version;
        self
    }

    /// Of how many servers sessions are remembered, to be resumed; 256 by default, 0 for none.
    pub fn session_cache(mut self, servers: usize) -> Self {
        self.sessions = servers;
        self
    }

    /// Whether the server is told in the clear which name is meant (SNI). On by default; many servers need
    /// it.
    pub fn server_name_indication(mut self, on: bool) -> Self {
        self.name_indication = on;
        self
    }

    /// Whether secrets of connections are appended to the file that the environment variable `SSLKEYLOGFILE`
    /// names, from which Wireshark and others decrypt what was recorded. To find faults; off by default.
    pub fn key_log(mut self, on: bool) -> Self {
        self.common.key_log = on;
        self
    }

    /// How long a handshake may take: above 0 and at most an hour, 10 seconds by default.
    pub fn handshake_timeout(mut self, time: Duration) -> Self {
        self.handshake_timeout = time;
        self
    }

    /// The cryptography; [`provider::ring`](super::provider::ring) by default.
    pub fn provider(mut self, provider: Arc<CryptoProvider>) -> Self {
        self.common.provider = provider;
        self
    }

    /// What tells the time to compare dates of certificates with; the system's clock by default.
    pub fn time_provider(mut self, time: Arc<dyn TimeProvider>) -> Self {
        self.common.time = time;
        self
    }

    /// Takes **any** certificate, of whomever, for whatever name: anyone on the way can read and change
    /// everything. It is only verified that the server has the key of the certificate that it shows. For
    /// tests.
    pub fn dangerous_accept_any_certificate(mut self) -> Self {
        self.trust = Trust::Dangerous(Danger::Anyone);
        self
    }

    /// Verifies servers with `verifier` alone; what it lets pass, passes. To check something in addition to
    /// what is checked anyway, use [`also_verify`](Self::also_verify).
    pub fn dangerous_verify_with(mut self, verifier: Arc<dyn ServerCertVerifier>) -> Self {
        self.trust = Trust::Dangerous(Danger::Verifier(verifier));
        self
    }

    /// Reads all files and checks that everything goes together. The system's roots are not looked at before
    /// a connection needs them.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or lacks what is needed, the key does not belong to the certificate, or
    /// settings contradict each other.
    pub fn build(self) -> Result<TlsClient, TlsConfigError> {
        let made = self.config()?;
        Ok(TlsClient::from_builder(self, made))
    }

    fn has_roots(&self) -> bool {
        !self.roots.is_empty() || self.webpki_roots
    }

    fn asks_system(&self) -> bool {
        matches!(self.trust, Trust::Verified) && self.system.unwrap_or(!self.has_roots())
    }

    /// What can be said without reading a file.
    fn check(&self) -> Result<(), TlsConfigError> {
        if self.stray_chain {
            return Err(TlsConfigError::whole("has a chain before the certificate; add it afterwards"));
        }
        common::check_handshake_timeout(self.handshake_timeout)?;
        self.common.check_alpn()?;
        let is_dangerous = matches!(self.trust, Trust::Dangerous(_));
        if is_dangerous && (self.has_roots() || self.system.is_some() || !self.crls.is_empty()) {
            return Err(TlsConfigError::whole(
                "has roots or revocation lists that a dangerous_ method makes useless; leave one out",
            ));
        }
        if !is_dangerous && !self.has_roots() && !self.asks_system() {
            return Err(TlsConfigError::new(
                Part::Roots,
                None,
                "are needed if the system's are not to be used",
            ));
        }
        if !self.crls.is_empty() && self.asks_system() {
            return Err(TlsConfigError::new(
                Part::Crl,
                None,
                "is given, but the system verifies without it; give the roots of its issuer in the system's place",
            ));
        }
        Ok(())
    }

    fn by_roots(&self) -> Result<Arc<WebPkiServerVerifier>, TlsConfigError> {
        let mut store = RootCertStore::empty();
        #[cfg(feature = "tls-webpki-roots")]
        if self.webpki_roots {
            store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        material::roots(Part::Roots, &self.roots, &mut store)?;
        let provider = Arc::clone(&self.common.provider);
        let mut verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider);
        if !self.crls.is_empty() {
            verifier =
                verifier.with_crls(material::revocation_lists(&self.crls)?).enforce_revocation_expiration();
        }
        verifier.build().map_err(|error| common::verifier_error(Part::Roots, &error))
    }

    fn verifier(&self, system: Option<Arc<BySystem>>) -> Result<Arc<dyn ServerCertVerifier>, TlsConfigError> {
        let verifier: Arc<dyn ServerCertVerifier> = match (&self.trust, system) {
            (Trust::Dangerous(Danger::Anyone), _) => {
                Arc::new(NotAtAll { provider: Arc::clone(&self.common.provider) })
            }
            (Trust::Dangerous(Danger::Verifier(verifier)), _) => Arc::clone(verifier),
            (Trust::Verified, None) => self.by_roots()?,
            (Trust::Verified, Some(system)) if self.has_roots() => {
                Arc::new(ByRootsOrSystem { roots: self.by_roots()?, system })
            }
            (Trust::Verified, Some(system)) => system,
        };
        if self.checks.is_empty() {
            return Ok(verifier);
        }
        Ok(Arc::new(CheckedServer { inner: verifier, checks: self.checks.clone() }))
    }

    /// Reads everything.
    pub(super) fn config(&self) -> Result<Made, TlsConfigError> {
        self.check()?;
        let system = self.asks_system().then(|| Arc::new(BySystem::new(Arc::clone(&self.common.provider))));
        Ok(Made { config: self.config_with(system.clone())?, system })
    }

    /// The same, with the system as it was looked at before.
    pub(super) fn config_with(&self, system: Option<Arc<BySystem>>) -> Result<ClientConfig, TlsConfigError> {
        let provider = Arc::clone(&self.common.provider);
        let builder = ClientConfig::builder_with_details(provider, Arc::clone(&self.common.time))
            .with_protocol_versions(self.common.versions())
            .map_err(Common::unusable)?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier(system)?);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let now = self.common.time.current_time().unwrap_or_else(UnixTime::now);
                let key = identity.load(&self.common.provider, now)?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
            }
        };
        config.alpn_protocols.clone_from(&self.common.alpn);
        config.key_log = self.common.key_log();
        config.enable_sni = self.name_indication;
        config.resumption = match self.sessions {
            0 => Resumption::disabled(),
            servers => Resumption::in_memory_sessions(servers),
        };
        Ok(config)
    }
}

impl fmt::Debug for TlsClientBuilder {
    /// What it is made of, without contents.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClientBuilder")
            .field("verifies", &matches!(self.trust, Trust::Verified))
            .field("asks_system", &self.asks_system())
            .field("roots", &self.roots)
            .field("webpki_roots", &self.webpki_roots)
            .field("crls", &self.crls)
            .field("identity", &self.identity)
            .field("min_version", &self.common.min_version)
            .finish_non_exhaustive()
    }
}
