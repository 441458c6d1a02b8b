//! How peers are verified beyond what rustls does by itself: by the system, with checks in addition, or not
//! at all.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use rustls_platform_verifier::Verifier;

/// A check of a peer that is verified already.
pub(super) type Check =
    Arc<dyn Fn(&CertificateDer<'_>, &[CertificateDer<'_>]) -> Result<(), String> + Send + Sync>;

/// Signatures are verified as `$inner` does it.
macro_rules! signatures_as {
    ($inner:ident) => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.$inner.verify_tls12_signature(message, certificate, signed)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.$inner.verify_tls13_signature(message, certificate, signed)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.$inner.supported_verify_schemes()
        }

        fn requires_raw_public_keys(&self) -> bool {
            self.$inner.requires_raw_public_keys()
        }
    };
}

/// Signatures are verified by the provider.
macro_rules! signatures_by_provider {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls12_signature(message, certificate, signed, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls13_signature(message, certificate, signed, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

/// Verifies as the system does. Its roots are read when they are first needed, which takes milliseconds.
pub(super) struct BySystem {
    provider: Arc<CryptoProvider>,
    verifier: OnceLock<Verifier>,
}

impl BySystem {
    pub(super) fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { provider, verifier: OnceLock::new() }
    }

    /// What fails is tried again with the next connection.
    pub(super) fn verifier(&self) -> Result<&Verifier, Error> {
        if let Some(verifier) = self.verifier.get() {
            return Ok(verifier);
        }
        let verifier = Verifier::new(Arc::clone(&self.provider))?;
        Ok(self.verifier.get_or_init(|| verifier))
    }
}

impl fmt::Debug for BySystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BySystem").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for BySystem {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verifier()?.verify_server_cert(end_entity, intermediates, name, ocsp, now)
    }

    signatures_by_provider!();
}

/// Verifies with given roots, and asks the system about what none of them has issued.
#[derive(Debug)]
pub(super) struct ByRootsOrSystem {
    pub(super) roots: Arc<WebPkiServerVerifier>,
    pub(super) system: Arc<BySystem>,
}

impl ServerCertVerifier for ByRootsOrSystem {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.roots.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                self.system.verify_server_cert(end_entity, intermediates, name, ocsp, now)
            }
            answer => answer,
        }
    }

    signatures_as!(system);
}

/// Verifies nothing but that the peer has the key of whatever certificate it shows.
#[derive(Debug)]
pub(super) struct NotAtAll {
    pub(super) provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for NotAtAll {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    signatures_by_provider!();
}

/// What a check said against a peer.
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Refused {
    /// The text alone, as rustls shows it so in its errors.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// Runs all checks. One that panics has not let anyone in.
fn run(
    checks: &[Check],
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<(), Error> {
    for check in checks {
        // What the check shares with the program is the program's business; nothing of ours is half changed.
        let answer = catch_unwind(AssertUnwindSafe(|| check(end_entity, intermediates)));
        let complaint = match answer {
            Ok(Ok(())) => continue,
            Ok(Err(complaint)) => complaint,
            Err(payload) => {
                // Its destructor could panic in turn.
                std::mem::forget(payload);
                "the check panicked".to_owned()
            }
        };
        let refused = OtherError(Arc::new(Refused(complaint)));
        return Err(Error::InvalidCertificate(CertificateError::Other(refused)));
    }
    Ok(())
}

/// A server is verified by `inner`, and then by checks.
pub(super) struct CheckedServer {
    pub(super) inner: Arc<dyn ServerCertVerifier>,
    pub(super) checks: Vec<Check>,
}

impl fmt::Debug for CheckedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckedServer").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for CheckedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(end_entity, intermediates, name, ocsp, now)?;
        run(&self.checks, end_entity, intermediates)?;
        Ok(verified)
    }

    signatures_as!(inner);

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.inner.root_hint_subjects()
    }
}

/// A client is verified by `inner`, and then by checks.
pub(super) struct CheckedClient {
    pub(super) inner: Arc<dyn ClientCertVerifier>,
    pub(super) checks: Vec<Check>,
}

impl fmt::Debug for CheckedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckedClient").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for CheckedClient {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        run(&self.checks, end_entity, intermediates)?;
        Ok(verified)
    }

    signatures_as!(inner);
}
