//! [`TlsServerBuilder`]: from files and settings to what rustls is given.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    NoServerSessionStorage, ProducesTickets, ServerSessionMemoryCache, StoresServerSessions,
    WebPkiClientVerifier,
};
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig};

use super::by_name::{ByName, Unknown};
use super::common::{self, Common};
use super::config_error::{Part, TlsConfigError};
use super::info::TlsVersion;
use super::material::{self, Identity, Source};
use super::server::{HANDSHAKE_TIMEOUT, MAX_HANDSHAKES, TlsServer};
use super::verify::{Check, CheckedClient};

/// Sessions in memory are for clients that take no tickets, which are few.
const SESSION_CACHE: usize = 1024;

/// Whether clients have to show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ClientCertificates {
    /// They are not asked for one.
    #[default]
    None,
    /// They are asked for one. Who shows one that is not right is refused; who shows none is not.
    Optional,
    /// Who shows none, or one that is not right, is refused.
    Required,
}

/// What a [`TlsServer`] is made of. A certificate is all it needs; the rest has defaults that suit a server
/// on the internet: TLS 1.2 and 1.3, sessions that can be resumed, no client certificates.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let one = rcgen::generate_simple_self_signed(["example.org".to_owned()])?;
/// # let (certificate, key) = (one.cert.pem(), one.signing_key.serialize_pem());
/// # let other = rcgen::generate_simple_self_signed(["*.example.com".to_owned()])?;
/// # let (other_certificate, other_key) = (other.cert.pem(), other.signing_key.serialize_pem());
/// # let roots = certificate.clone();
/// use twistor::tls::{ClientCertificates, TlsServer, TlsVersion};
///
/// let server = TlsServer::builder()
///     .certificate_pem(certificate.as_bytes(), key.as_bytes())
///     .certificate_pem(other_certificate.as_bytes(), other_key.as_bytes())
///     .alpn(["h2", "http/1.1"])
///     .min_version(TlsVersion::Tls13)
///     .client_roots_pem(roots.as_bytes())
///     .client_certificates(ClientCertificates::Optional)
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct TlsServerBuilder {
    common: Common,
    identities: Vec<Identity>,
    /// Chains that came before any certificate.
    stray_chain: bool,
    unknown: Unknown,
    client_certificates: Option<ClientCertificates>,
    client_roots: Vec<Source>,
    crls: Vec<Source>,
    checks: Vec<Check>,
    tickets: bool,
    session_cache: usize,
    pub(super) handshake_timeout: Duration,
    pub(super) max_handshakes: usize,
}

impl TlsServerBuilder {
    pub(super) fn new() -> Self {
        Self {
            common: Common::new(),
            identities: Vec::new(),
            stray_chain: false,
            unknown: Unknown::GetsFirst,
            client_certificates: None,
            client_roots: Vec::new(),
            crls: Vec::new(),
            checks: Vec::new(),
            tickets: true,
            session_cache: SESSION_CACHE,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            max_handshakes: MAX_HANDSHAKES,
        }
    }

    /// Adds a certificate, from two files in PEM: one with the certificate, followed by those that lead from
    /// it to its root, and one with its private key. Both can be the same file.
    ///
    /// With several, a client gets the one for the name that it asks for (SNI), by the DNS names in the
    /// certificate's subject alternative names; `*.example.org` stands for any one label. Of several for a
    /// name it gets the first whose kind of key it knows. Who asks for no name, or for an unknown one, gets
    /// the first certificate unless [`strict_sni`](Self::strict_sni) is on.
    pub fn certificate_files(mut self, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        self.identities.push(Identity::new(Source::file(certificate), Source::file(key)));
        self
    }

    /// The same with PEM texts in the place of files.
    pub fn certificate_pem(mut self, certificate: &[u8], key: &[u8]) -> Self {
        self.identities.push(Identity::new(Source::given(certificate), Source::given(key)));
        self
    }

    /// A further file in PEM with certificates that lead from the certificate that was added last to its
    /// root, where they do not stand behind it in its file.
    pub fn chain_file(self, chain: impl AsRef<Path>) -> Self {
        self.chain(Source::file(chain))
    }

    /// The same with a PEM text in the place of a file.
    pub fn chain_pem(self, chain: &[u8]) -> Self {
        self.chain(Source::given(chain))
    }

    fn chain(mut self, source: Source) -> Self {
        match self.identities.last_mut() {
            Some(identity) => identity.chain.push(source),
            None => self.stray_chain = true,
        }
        self
    }

    /// Whether clients are refused that ask for no name or for one that no certificate has. Off by default:
    /// they get the first certificate, and may not like it.
    pub fn strict_sni(mut self, on: bool) -> Self {
        self.unknown = if on { Unknown::IsRefused } else { Unknown::GetsFirst };
        self
    }

    /// The application's protocols, the best first (ALPN, RFC 7301), 1 to 255 bytes each. A client that
    /// offers some, but none of these, is refused. None by default.
    pub fn alpn<I>(mut self, protocols: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<Vec<u8>>,
    {
        self.common.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Whether clients have to show a certificate. By default they have to if there are
    /// [roots](Self::client_roots_file) to verify it with, and are not asked otherwise.
    pub fn client_certificates(mut self, which: ClientCertificates) -> Self {
        self.client_certificates = Some(which);
        self
    }

    /// A file in PEM with roots that issue the certificates of clients.
    pub fn client_roots_file(mut self, roots: impl AsRef<Path>) -> Self {
        self.client_roots.push(Source::file(roots));
        self
    }

    /// The same with a PEM text in the place of a file.
    pub fn client_roots_pem(mut self, roots: &[u8]) -> Self {
        self.client_roots.push(Source::given(roots));
        self
    }

    /// A file with lists of revoked certificates (RFC 5280), in PEM or DER, that clients' certificates are
    /// looked up in.
    ///
    /// As soon as there is one, there has to be one for every certificate of a client's chain, issued by its
    /// issuer and not out of date: what cannot be looked up is refused. See [`TlsServer::reload`].
    pub fn crl_file(mut self, list: impl AsRef<Path>) -> Self {
        self.crls.push(Source::file(list));
        self
    }

    /// The same with a PEM text, or DER, in the place of a file.
    pub fn crl_pem(mut self, list: &[u8]) -> Self {
        self.crls.push(Source::given(list));
        self
    }

    /// A check of clients' certificates in addition: it gets the client's certificate and those that the
    /// client sent with it, both verified already, in DER. What it says against them goes into the error of
    /// the connection; the client only learns that it is refused. Several checks all have to agree; one that
    /// panics refuses.
    ///
    /// It runs once per full handshake, on the thread of the reactor; a resumed session was checked when it
    /// began.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let made = rcgen::generate_simple_self_signed(["example.org".to_owned()])?;
    /// # let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    /// # let roots = certificate.clone();
    /// use twistor::tls::TlsServer;
    ///
    /// let known: Vec<Vec<u8>> = Vec::new();
    /// let server = TlsServer::builder()
    ///     .certificate_pem(certificate.as_bytes(), key.as_bytes())
    ///     .client_roots_pem(roots.as_bytes())
    ///     .also_verify(move |end_entity, _intermediates| {
    ///         if known.iter().any(|known| known == &**end_entity) {
    ///             return Ok(());
    ///         }
    ///         Err("the client is not on our list".to_owned())
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

    /// Whether clients get tickets to resume their session with (RFC 5077, RFC 8446 section 4.6.1), encrypted
    /// with keys that are made here and changed every six hours. On by default.
    pub fn session_tickets(mut self, on: bool) -> Self {
        self.tickets = on;
        self
    }

    /// How many sessions are kept in memory to be resumed without a ticket; 1024 by default, 0 for none.
    /// Without tickets as well nothing is resumed.
    pub fn session_cache(mut self, sessions: usize) -> Self {
        self.session_cache = sessions;
        self
    }

    /// The oldest version to speak. TLS 1.2 by default.
    pub fn min_version(mut self, version: TlsVersion) -> Self {
        self.common.min_version = version;
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

    /// How many handshakes of one port may be under way, at least 1; 10 000 by default. With one more, the
    /// one that has waited longest ends.
    pub fn max_handshakes(mut self, handshakes: usize) -> Self {
        self.max_handshakes = handshakes;
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

    /// Reads all files and checks that everything goes together.
    ///
    /// A certificate that is out of date, or not valid yet, is a warning in the log only.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or lacks what is needed, a key does not belong to its certificate, or
    /// settings contradict each other.
    pub fn build(self) -> Result<TlsServer, TlsConfigError> {
        self.check()?;
        let config = self.config(None)?;
        Ok(TlsServer::from_builder(self, config))
    }

    fn wanted(&self) -> ClientCertificates {
        self.client_certificates.unwrap_or(if self.client_roots.is_empty() {
            ClientCertificates::None
        } else {
            ClientCertificates::Required
        })
    }

    /// What can be said without reading a file.
    fn check(&self) -> Result<(), TlsConfigError> {
        if self.stray_chain {
            return Err(TlsConfigError::whole(
                "has a chain before the first certificate; add it after its own",
            ));
        }
        if self.identities.is_empty() {
            return Err(TlsConfigError::whole("of a server needs a certificate"));
        }
        common::check_handshake_timeout(self.handshake_timeout)?;
        if self.max_handshakes == 0 {
            return Err(TlsConfigError::whole("has a max_handshakes of 0; 10000 suits most servers"));
        }
        self.common.check_alpn()?;
        let asked = self.wanted() != ClientCertificates::None;
        if asked && self.client_roots.is_empty() {
            return Err(TlsConfigError::new(
                Part::ClientRoots,
                None,
                "are needed to verify the certificates of clients that are asked for",
            ));
        }
        let useless = match (asked, &self.client_roots[..], &self.crls[..], &self.checks[..]) {
            (true, ..) | (false, [], [], []) => return Ok(()),
            (false, [_, ..], ..) => "roots of client certificates",
            (false, [], [_, ..], _) => "a revocation list",
            (false, [], [], [_, ..]) => "a check of client certificates (also_verify)",
        };
        Err(TlsConfigError::whole(format!(
            "has {useless}, but clients are not asked for certificates; ask for them, and give roots"
        )))
    }

    fn client_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, TlsConfigError> {
        let wanted = self.wanted();
        if wanted == ClientCertificates::None {
            return Ok(WebPkiClientVerifier::no_client_auth());
        }
        let mut roots = RootCertStore::empty();
        material::roots(Part::ClientRoots, &self.client_roots, &mut roots)?;
        let provider = Arc::clone(&self.common.provider);
        let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        if !self.crls.is_empty() {
            verifier =
                verifier.with_crls(material::revocation_lists(&self.crls)?).enforce_revocation_expiration();
        }
        if wanted == ClientCertificates::Optional {
            verifier = verifier.allow_unauthenticated();
        }
        let verifier = verifier.build().map_err(|error| common::verifier_error(Part::ClientRoots, &error))?;
        if self.checks.is_empty() {
            return Ok(verifier);
        }
        Ok(Arc::new(CheckedClient { inner: verifier, checks: self.checks.clone() }))
    }

    /// Reads everything. `current` is the configuration that this one replaces.
    pub(super) fn config(&self, current: Option<&ServerConfig>) -> Result<ServerConfig, TlsConfigError> {
        let now = self.common.time.current_time().unwrap_or_else(UnixTime::now);
        let certificates = self
            .identities
            .iter()
            .map(|identity| identity.load(&self.common.provider, now))
            .collect::<Result<Vec<_>, _>>()?;
        let verifier = self.client_verifier()?;
        let provider = Arc::clone(&self.common.provider);
        let mut config = ServerConfig::builder_with_details(provider, Arc::clone(&self.common.time))
            .with_protocol_versions(self.common.versions())
            .map_err(Common::unusable)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(ByName::new(certificates, self.unknown)));
        config.alpn_protocols.clone_from(&self.common.alpn);
        config.key_log = self.common.key_log();
        match current {
            // A session of a client remembers that its certificate was right, which may be what has changed.
            Some(current) if self.wanted() == ClientCertificates::None => {
                config.session_storage = Arc::clone(&current.session_storage);
                config.ticketer = Arc::clone(&current.ticketer);
            }
            _ => {
                config.session_storage = self.session_storage();
                if let Some(ticketer) = self.ticketer()? {
                    config.ticketer = ticketer;
                }
            }
        }
        if !self.tickets && self.session_cache == 0 {
            config.send_tls13_tickets = 0;
        }
        Ok(config)
    }

    fn session_storage(&self) -> Arc<dyn StoresServerSessions> {
        match self.session_cache {
            0 => Arc::new(NoServerSessionStorage {}),
            sessions => ServerSessionMemoryCache::new(sessions),
        }
    }

    fn ticketer(&self) -> Result<Option<Arc<dyn ProducesTickets>>, TlsConfigError> {
        if !self.tickets {
            return Ok(None);
        }
        rustls::crypto::ring::Ticketer::new().map(Some).map_err(Common::unusable)
    }
}

impl fmt::Debug for TlsServerBuilder {
    /// What it is made of, without contents.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServerBuilder")
            .field("identities", &self.identities)
            .field("client_certificates", &self.wanted())
            .field("client_roots", &self.client_roots)
            .field("crls", &self.crls)
            .field("min_version", &self.common.min_version)
            .finish_non_exhaustive()
    }
}
