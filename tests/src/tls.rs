//! Certificates for a test, and TLS configurations of both ends that trust them.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ED25519};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use twistor::tls::{TlsClient, TlsServer};

/// The name that the server's certificate is for.
pub const NAME: &str = "localhost";

/// An authority made for one test. Its signatures are of one length each, so that nothing in a simulation depends on them.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

/// A certificate and its key.
#[derive(Debug)]
pub struct Identity {
    /// The certificate, with that of its authority behind it.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
    /// The certificates, as a file holds them.
    pub certificate_pem: String,
    /// The key, as a file holds it.
    pub key_pem: String,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// A new one.
    ///
    /// # Panics
    ///
    /// The crate that makes certificates fails.
    #[must_use]
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    /// Signs a certificate for these names; `set` may change what stands in it.
    ///
    /// # Panics
    ///
    /// The crate that makes certificates fails.
    #[must_use]
    pub fn issue(&self, names: &[&str], set: impl FnOnce(&mut CertificateParams)) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("parameters");
        set(&mut params);
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Identity {
            chain: vec![certificate.der().clone(), self.0.der().clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
            certificate_pem: certificate.pem() + &self.0.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    /// The roots of somebody who trusts it.
    ///
    /// # Panics
    ///
    /// It is no certificate.
    #[must_use]
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("a root");
        roots
    }

    /// A server named [`NAME`].
    ///
    /// # Panics
    ///
    /// The configuration is refused.
    #[must_use]
    pub fn server_config(&self) -> ServerConfig {
        let identity = self.issue(&[NAME], |_| {});
        ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(identity.chain, identity.key)
            .expect("a configuration")
    }

    /// A client that trusts it.
    ///
    /// # Panics
    ///
    /// The configuration is refused.
    #[must_use]
    pub fn client_config(&self) -> ClientConfig {
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
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
