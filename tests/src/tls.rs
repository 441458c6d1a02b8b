//! Certificates for a test, and TLS configurations of both ends that trust them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    DnType, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
    RevokedCertParams, SerialNumber, SignatureAlgorithm, date_time_ymd,
};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ALL_VERSIONS, ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion, version,
};
use twistor::tls::{TlsClient, TlsServer};

/// The name that the server's certificate is for.
pub const NAME: &str = "localhost";

/// An authority made for one test. Its signatures are of one length each, so that nothing in a simulation
/// depends on them.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    keys: &'static SignatureAlgorithm,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

/// What the tests of a program have in common: keys and certificates take their time.
#[derive(Debug)]
pub struct Common {
    /// Who vouches for the server.
    pub authority: Authority,
    /// A server of the reactor's, named [`NAME`].
    pub server: TlsServer,
    /// A client of the reactor's that trusts the authority.
    pub client: TlsClient,
    server_config: Arc<ServerConfig>,
    client_config: Arc<ClientConfig>,
}

/// Whether the tests are to talk TLS 1.2, for those that show what only the version after it has.
#[must_use]
pub fn talks_old_version() -> bool {
    std::env::var("TWISTOR_TLS").is_ok_and(|version| version == "1.2")
}

/// What the tests of this program have in common. With `TWISTOR_TLS=1.2` they talk that version.
pub fn common() -> &'static Common {
    static COMMON: OnceLock<Common> = OnceLock::new();
    COMMON.get_or_init(|| {
        let authority = Authority::new();
        let mut server = authority.server_config();
        // A peer that closes without having read its ticket would break the stream: that is not what tests
        // are about.
        server.send_tls13_tickets = 0;
        let versions = if talks_old_version() { &[&version::TLS12][..] } else { ALL_VERSIONS };
        let (server, client) = (Arc::new(server), Arc::new(authority.client_config_of(versions)));
        Common {
            authority,
            server: TlsServer::from_config(Arc::clone(&server)),
            client: TlsClient::from_config(Arc::clone(&client)),
            server_config: server,
            client_config: client,
        }
    })
}

impl Common {
    /// The side of a client that is no reactor.
    ///
    /// # Panics
    ///
    /// There is no such client.
    #[must_use]
    pub fn session(&self) -> ClientConnection {
        self.session_for(NAME)
    }

    /// The same for a server of another name.
    ///
    /// # Panics
    ///
    /// There is no such client.
    #[must_use]
    pub fn session_for(&self, name: &str) -> ClientConnection {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        ClientConnection::new(Arc::clone(&self.client_config), name).expect("a client")
    }

    /// The side of a server that is no reactor.
    ///
    /// # Panics
    ///
    /// There is no such server.
    #[must_use]
    pub fn server_session(&self) -> ServerConnection {
        ServerConnection::new(Arc::clone(&self.server_config)).expect("a server")
    }

    /// What a client says first.
    ///
    /// # Panics
    ///
    /// It says nothing.
    #[must_use]
    pub fn hello(&self) -> Vec<u8> {
        let mut hello = Vec::new();
        self.session().write_tls(&mut hello).expect("memory takes it");
        hello
    }
}

/// Has a certificate be of the year 2000.
pub fn make_expired(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(2001, 1, 1);
}

/// A server with this certificate.
///
/// # Panics
///
/// The configuration is refused.
#[must_use]
pub fn server_config_of(identity: Identity) -> ServerConfig {
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(identity.chain, identity.key)
        .expect("a configuration")
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

/// A certificate and its key.
#[derive(Debug)]
pub struct Identity {
    /// The certificate, with that of its authority behind it.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
    /// The chain in PEM.
    pub chain_pem: String,
    /// The key in PEM.
    pub key_pem: String,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// A new one.
    #[must_use]
    pub fn new() -> Self {
        Self::named("the authority of a test")
    }

    /// A new one of that name.
    ///
    /// # Panics
    ///
    /// The crate that makes certificates fails.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self::with_keys(&PKCS_ED25519, name)
    }

    /// One whose keys any program can read. The length of its signatures varies.
    ///
    /// # Panics
    ///
    /// The crate that makes certificates fails.
    #[must_use]
    pub fn common() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::with_keys(&PKCS_ECDSA_P256_SHA256, &format!("Authority {number}"))
    }

    fn with_keys(keys: &'static SignatureAlgorithm, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate_for(keys).expect("a key");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("a certificate"), keys }
    }

    /// Signs a certificate for these names; `set` may change what stands in it.
    ///
    /// # Panics
    ///
    /// The crate that makes certificates fails.
    #[must_use]
    pub fn issue(&self, names: &[&str], set: impl FnOnce(&mut CertificateParams)) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let name = names.first().cloned().unwrap_or_default();
        let mut params = CertificateParams::new(names).expect("parameters");
        params.distinguished_name = named(&name);
        set(&mut params);
        let key = KeyPair::generate_for(self.keys).expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity {
            chain: vec![certificate.der().clone(), self.issuer.der().clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
            chain_pem: certificate.pem() + &self.issuer.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    /// Its certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A list of certificates that it has revoked, by their serial numbers, in PEM.
    ///
    /// # Panics
    ///
    /// The crate that makes certificates fails.
    #[must_use]
    pub fn revoke(&self, serials: &[SerialNumber]) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: serial.clone(),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(4000, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("a list").pem().expect("PEM")
    }

    /// The roots of somebody who trusts it.
    ///
    /// # Panics
    ///
    /// It is no certificate.
    #[must_use]
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a root");
        roots
    }

    /// A server named [`NAME`].
    ///
    /// # Panics
    ///
    /// The configuration is refused.
    #[must_use]
    pub fn server_config(&self) -> ServerConfig {
        server_config_of(self.issue(&[NAME], |_| {}))
    }

    /// A client that trusts it.
    ///
    /// # Panics
    ///
    /// The configuration is refused.
    #[must_use]
    pub fn client_config(&self) -> ClientConfig {
        self.client_config_of(ALL_VERSIONS)
    }

    /// The same, that talks these versions only.
    ///
    /// # Panics
    ///
    /// The configuration is refused.
    #[must_use]
    pub fn client_config_of(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(self.roots())
            .with_no_client_auth()
    }

    /// [`server_config`](Self::server_config) for the reactor.
    #[must_use]
    pub fn server(&self) -> TlsServer {
        TlsServer::from_config(Arc::new(self.server_config()))
    }

    /// [`client_config`](Self::client_config) for the reactor.
    #[must_use]
    pub fn client(&self) -> TlsClient {
        TlsClient::from_config(Arc::new(self.client_config()))
    }
}
