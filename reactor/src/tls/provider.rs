//! The cryptography below TLS: what computes the keys, ciphers and signatures.
//!
//! A configuration uses [`ring`] unless another provider is given to its builder; which features of this
//! crate other crates switch on changes nothing about that, and the process-wide default of rustls is never
//! asked.

use std::sync::Arc;

pub use rustls::crypto::CryptoProvider;

/// The cryptography of the crate `ring`: small, and built without further tools. The default.
///
/// ```
/// # fn main() -> Result<(), twistor::tls::TlsConfigError> {
/// use twistor::tls::{TlsClient, provider};
///
/// let client = TlsClient::builder().provider(provider::ring()).build()?;
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn ring() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The cryptography of AWS-LC, with the key exchange X25519MLKEM768, which quantum computers do not break.
/// Needs the feature `tls-aws-lc-rs`, and a C compiler to build it.
///
/// ```
/// # fn main() -> Result<(), twistor::tls::TlsConfigError> {
/// use twistor::tls::{TlsClient, provider};
///
/// let client = TlsClient::builder().provider(provider::aws_lc_rs()).build()?;
/// # Ok(())
/// # }
/// ```
#[cfg(feature = "tls-aws-lc-rs")]
#[must_use]
pub fn aws_lc_rs() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
