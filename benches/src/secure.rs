//! What TLS is configured like, the same for all servers and all clients: version 1.3, one cipher suite, X25519, a
//! certificate for a key on P-256, cryptography by `ring`.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, SignatureScheme, StreamOwned,
};

/// A client's end of a connection with TLS.
pub type Secured = StreamOwned<ClientConnection, TcpStream>;

fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![ring::kx_group::X25519],
        ..ring::default_provider()
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

/// A server that signs its own certificate.
///
/// # Errors
/// The certificate cannot be made.
pub fn server_config() -> io::Result<Arc<ServerConfig>> {
    let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).map_err(failed)?;
    let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der()).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(failed)?
        .with_no_client_auth()
        .with_single_cert(vec![identity.cert.der().clone()], key)
        .map_err(failed)?;
    Ok(Arc::new(config))
}

/// A client of any such server.
///
/// # Errors
/// rustls refuses the configuration.
pub fn client_config(resumption: Resumption) -> io::Result<Arc<ClientConfig>> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider())))
        .with_no_client_auth();
    config.resumption = resumption;
    Ok(Arc::new(config))
}

/// Begins TLS on a connected, blocking socket; the handshake comes with the first bytes.
///
/// # Errors
/// rustls refuses the configuration.
pub fn client(config: &Arc<ClientConfig>, socket: TcpStream) -> io::Result<Secured> {
    let name = ServerName::try_from("localhost").map_err(failed)?;
    Ok(StreamOwned::new(ClientConnection::new(Arc::clone(config), name).map_err(failed)?, socket))
}

/// Checks signatures, but not whose they are: every server here has made its certificate a moment ago.
#[derive(Debug)]
struct AnyServer(CryptoProvider);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
