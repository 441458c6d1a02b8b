//! What the builders of both sides share: versions, ALPN, limits.

use std::sync::Arc;
use std::time::Duration;

use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use rustls::server::VerifierBuilderError;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::version::{TLS12, TLS13};
use rustls::{KeyLog, KeyLogFile, NoKeyLog};

use super::config_error::{Part, TlsConfigError};
use super::info::TlsVersion;
use super::provider;

/// Longer is a mistake in the unit.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(3600);

static FROM_12: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
static FROM_13: [&SupportedProtocolVersion; 1] = [&TLS13];

/// What both sides agree on, and with what.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) time: Arc<dyn TimeProvider>,
    pub(super) alpn: Vec<Vec<u8>>,
    pub(super) min_version: TlsVersion,
    pub(super) key_log: bool,
}

impl Common {
    pub(super) fn new() -> Self {
        Self {
            provider: provider::ring(),
            time: Arc::new(DefaultTimeProvider),
            alpn: Vec::new(),
            min_version: TlsVersion::Tls12,
            key_log: false,
        }
    }

    pub(super) fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        match self.min_version {
            TlsVersion::Tls12 => &FROM_12,
            TlsVersion::Tls13 => &FROM_13,
        }
    }

    pub(super) fn key_log(&self) -> Arc<dyn KeyLog> {
        if self.key_log { Arc::new(KeyLogFile::new()) } else { Arc::new(NoKeyLog) }
    }

    pub(super) fn check_alpn(&self) -> Result<(), TlsConfigError> {
        match self.alpn.iter().find(|protocol| protocol.is_empty() || protocol.len() > 255) {
            Some(wrong) => Err(TlsConfigError::new(
                Part::Alpn,
                None,
                format!("has a protocol of {} bytes; it has to be 1 to 255", wrong.len()),
            )),
            None => Ok(()),
        }
    }

    /// The provider may lack what a version needs.
    pub(super) fn unusable(error: rustls::Error) -> TlsConfigError {
        TlsConfigError::whole(format!("cannot be used with this provider: {error}")).because_of(error)
    }
}

pub(super) fn check_handshake_timeout(time: Duration) -> Result<(), TlsConfigError> {
    if time.is_zero() || time > LONGEST_HANDSHAKE {
        return Err(TlsConfigError::whole(format!(
            "has a handshake_timeout of {time:?}, which is not above 0 and at most 3600 seconds; 10 suits most"
        )));
    }
    Ok(())
}

/// An error of rustls's builders of verifiers, about the part that it is about.
pub(super) fn verifier_error(roots: Part, error: &VerifierBuilderError) -> TlsConfigError {
    let part = match error {
        VerifierBuilderError::InvalidCrl(_) => Part::Crl,
        _ => roots,
    };
    TlsConfigError::new(part, None, format!("cannot be used: {error}"))
}
