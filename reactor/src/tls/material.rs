//! What a configuration is made of, read from PEM: certificates, private keys, roots, revocation lists.
//!
//! A [`Source`] is remembered rather than its contents, so that files can be read again. Contents of keys do
//! not get into any text.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};

use super::config_error::{Part, TlsConfigError};

/// More than any bundle or revocation list; a device in the place of a file must not fill the memory.
const LARGEST_FILE: u64 = 256 << 20;

const BEGIN_CERTIFICATE: &str = "a PEM text with \"-----BEGIN CERTIFICATE-----\" is needed";

/// Where something comes from.
#[derive(Clone)]
pub(super) enum Source {
    File(PathBuf),
    Given(Arc<[u8]>),
}

impl Source {
    pub(super) fn file(path: impl AsRef<Path>) -> Self {
        Self::File(path.as_ref().to_owned())
    }

    pub(super) fn given(bytes: &[u8]) -> Self {
        Self::Given(bytes.into())
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Given(_) => None,
        }
    }

    fn error(&self, part: Part, complaint: impl Into<String>) -> TlsConfigError {
        TlsConfigError::new(part, self.path(), complaint)
    }

    fn read(&self, part: Part) -> Result<Arc<[u8]>, TlsConfigError> {
        match self {
            Self::Given(bytes) => Ok(Arc::clone(bytes)),
            Self::File(path) => read_file(path).map(Into::into).map_err(|error| {
                self.error(part, format!("cannot be read: {error}")).because_of_system(error)
            }),
        }
    }
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {LARGEST_FILE} bytes"),
        ));
    }
    Ok(bytes)
}

impl fmt::Debug for Source {
    /// Never the contents: they may be a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.fmt(f),
            Self::Given(bytes) => write!(f, "{} bytes", bytes.len()),
        }
    }
}

/// All sections of a kind that a text has. An empty result is for the caller to judge.
fn sections<T: PemObject>(part: Part, source: &Source, bytes: &[u8]) -> Result<Vec<T>, TlsConfigError> {
    T::pem_slice_iter(bytes)
        .collect::<Result<Vec<T>, pem::Error>>()
        .map_err(|error| source.error(part, format!("is not PEM as it should be: {}", in_words(&error))))
}

fn in_words(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            let marker = String::from_utf8_lossy(end_marker);
            let section = marker.trim_matches('-').trim_start_matches("END ");
            format!("the line \"-----END {section}-----\" is missing")
        }
        pem::Error::IllegalSectionStart { .. } => "a line with \"-----BEGIN\" is not complete".to_owned(),
        other => other.to_string(),
    }
}

/// Whether it begins as every structure in DER does (a SEQUENCE with a length in two or three bytes).
fn looks_like_der(bytes: &[u8]) -> bool {
    matches!(bytes, [0x30, 0x81..=0x84, ..])
}

fn certificates(part: Part, source: &Source) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let bytes = source.read(part)?;
    let found = sections::<CertificateDer<'static>>(part, source, &bytes)?;
    if found.is_empty() {
        let hint = if looks_like_der(&bytes) {
            "it looks like DER; make PEM of it: openssl x509 -inform der -in FILE"
        } else {
            BEGIN_CERTIFICATE
        };
        return Err(source.error(part, format!("has no certificate in it; {hint}")));
    }
    Ok(found)
}

fn private_key(source: &Source) -> Result<PrivateKeyDer<'static>, TlsConfigError> {
    let bytes = source.read(Part::Key)?;
    let contains = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    if contains("BEGIN ENCRYPTED PRIVATE KEY") || contains("Proc-Type: 4,ENCRYPTED") {
        let complaint = "has a private key that is encrypted; decrypt it: openssl pkey -in FILE -out NEW";
        return Err(source.error(Part::Key, complaint));
    }
    let mut found = sections::<PrivateKeyDer<'static>>(Part::Key, source, &bytes)?;
    match (found.pop(), found.is_empty()) {
        (Some(key), true) => Ok(key),
        (Some(_), false) => Err(source.error(Part::Key, "has several private keys in it; leave one")),
        (None, _) => {
            let hint = if looks_like_der(&bytes) {
                "it looks like DER; make PEM of it: openssl pkey -inform der -in FILE"
            } else {
                "a PEM text with \"-----BEGIN PRIVATE KEY-----\" is needed"
            };
            Err(source.error(Part::Key, format!("has no private key in it; {hint}")))
        }
    }
}

/// All roots of all sources; one that makes no sense is an error rather than less to trust.
pub(super) fn roots(part: Part, sources: &[Source], store: &mut RootCertStore) -> Result<(), TlsConfigError> {
    for source in sources {
        for (index, root) in certificates(part, source)?.into_iter().enumerate() {
            store.add(root).map_err(|error| {
                let complaint = format!("has no certificate of a root at place {}: {error}", index + 1);
                source.error(part, complaint).because_of(error)
            })?;
        }
    }
    Ok(())
}

/// All revocation lists of all sources, in PEM or DER.
pub(super) fn revocation_lists(
    sources: &[Source],
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsConfigError> {
    let mut all = Vec::new();
    for source in sources {
        let bytes = source.read(Part::Crl)?;
        let found = if looks_like_der(&bytes) {
            vec![CertificateRevocationListDer::from(bytes.to_vec())]
        } else {
            sections(Part::Crl, source, &bytes)?
        };
        if found.is_empty() {
            let hint = "DER, or a PEM text with \"-----BEGIN X509 CRL-----\", is needed";
            return Err(source.error(Part::Crl, format!("has no revocation list in it; {hint}")));
        }
        for list in &found {
            webpki::BorrowedCertRevocationList::from_der(list).map_err(|error| {
                source.error(Part::Crl, format!("has a revocation list that cannot be read: {error}"))
            })?;
        }
        all.extend(found);
    }
    Ok(all)
}

/// A certificate, what leads from it to its root, and its private key.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) certificate: Source,
    pub(super) chain: Vec<Source>,
    pub(super) key: Source,
}

impl Identity {
    pub(super) fn new(certificate: Source, key: Source) -> Self {
        Self { certificate, chain: Vec::new(), key }
    }

    /// Reads it and checks that it belongs together. That it is out of date is only worth a warning: the
    /// clock may be wrong, and other certificates may be right.
    pub(super) fn load(
        &self,
        provider: &CryptoProvider,
        now: UnixTime,
    ) -> Result<CertifiedKey, TlsConfigError> {
        let mut chain = certificates(Part::Certificate, &self.certificate)?;
        for source in &self.chain {
            chain.extend(certificates(Part::Chain, source)?);
        }
        let end_entity = &chain[0];
        ParsedCertificate::try_from(end_entity).map_err(|error| {
            let complaint = format!("has a certificate that cannot be read: {error}");
            self.certificate.error(Part::Certificate, complaint).because_of(error)
        })?;
        if let Some(doubt) = doubt(end_entity, now) {
            log::warn!("{}", self.certificate.error(Part::Certificate, doubt));
        }
        let key = private_key(&self.key)?;
        CertifiedKey::from_der(chain, key, provider).map_err(|error| {
            let complaint = match &error {
                Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => match self.certificate.path() {
                    Some(path) => format!("does not belong to the certificate in {path:?}"),
                    None => "does not belong to the certificate".to_owned(),
                },
                _ => format!("has a private key that cannot be used: {error}"),
            };
            self.key.error(Part::Key, complaint).because_of(error)
        })
    }
}

/// What peers may have against a certificate, as far as it can be seen from here; it continues the name of
/// the certificate.
fn doubt(certificate: &CertificateDer<'_>, now: UnixTime) -> Option<String> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    // Without any root the answer is always an error, but the certificate itself is looked at first.
    let usage = webpki::KeyUsage::server_auth();
    let days = |from: UnixTime, to: UnixTime| to.as_secs().saturating_sub(from.as_secs()) / 86_400;
    match parsed.verify_for_usage(&[], &[], &[], now, usage, None, None).err()? {
        webpki::Error::CertExpired { time, not_after } => {
            Some(format!("expired {} days ago; peers will refuse it", days(not_after, time)))
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            Some(format!("is not valid for another {} days; peers will refuse it", days(time, not_before)))
        }
        webpki::Error::CaUsedAsEndEntity => Some(
            "is that of an authority (CA:TRUE), which some peers will refuse; \
             make it with: openssl req -x509 -addext basicConstraints=critical,CA:FALSE"
                .to_owned(),
        ),
        _ => None,
    }
}

/// The DNS names that a certificate is for, in lower case, wildcards as `*.example.org`.
pub(super) fn dns_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    webpki::EndEntityCert::try_from(certificate)
        .map(|parsed| parsed.valid_dns_names().map(str::to_ascii_lowercase).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn what_peers_may_have_against_a_certificate_is_said() {
        // The first day of 2021.
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_609_459_200));
        let doubt_about = |change: &dyn Fn(&mut CertificateParams)| {
            let mut params = CertificateParams::new(["example.org".to_owned()]).unwrap();
            change(&mut params);
            doubt(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der(), now)
        };
        assert_eq!(doubt_about(&|_| {}), None);
        let expired = doubt_about(&|it| it.not_after = date_time_ymd(2020, 12, 22));
        assert_eq!(expired.as_deref(), Some("expired 10 days ago; peers will refuse it"));
        let early = doubt_about(&|it| it.not_before = date_time_ymd(2021, 1, 11));
        assert_eq!(early.as_deref(), Some("is not valid for another 10 days; peers will refuse it"));
        let authority = doubt_about(&|it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
        assert!(authority.unwrap().starts_with("is that of an authority (CA:TRUE)"));
    }
}
