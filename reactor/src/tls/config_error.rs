//! [`TlsConfigError`]: what is wrong with a configuration, made where it is found.
//!
//! The complaint continues the name of what it is about, so that an endpoint string can put its keyword and
//! column in front instead.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A configuration that cannot be used: a file that cannot be read or has not what is needed, or settings
/// that contradict each other.
///
/// The text names the file, what is wrong with it and, where there is something to do, what to do. It
/// converts into an [`io::Error`], of the kind that the system gave or
/// [`InvalidInput`](io::ErrorKind::InvalidInput), and into an
/// [`EndpointError`](crate::endpoint::EndpointError).
///
/// ```
/// use twistor::tls::TlsServer;
///
/// let error = TlsServer::builder().certificate_pem(b"what is this?", b"").build().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "certificate has no certificate in it; a PEM text with \"-----BEGIN CERTIFICATE-----\" is needed"
/// );
/// ```
#[derive(Clone, Debug)]
pub struct TlsConfigError {
    part: Part,
    path: Option<PathBuf>,
    complaint: String,
    cause: Option<Cause>,
}

#[derive(Clone, Debug)]
enum Cause {
    System(Arc<io::Error>),
    Tls(rustls::Error),
}

/// What a configuration consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Certificate,
    Chain,
    Key,
    Roots,
    ClientRoots,
    Crl,
    Alpn,
    /// How several of them go together.
    Whole,
}

impl Part {
    /// The keyword in endpoint strings.
    pub(crate) fn keyword(self) -> Option<&'static str> {
        Some(match self {
            Self::Certificate => "certificate",
            Self::Chain => "chain",
            Self::Key => "key",
            Self::Roots => "roots",
            Self::ClientRoots => "client_ca",
            Self::Crl => "crl",
            Self::Alpn => "alpn",
            Self::Whole => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Chain => "chain",
            Self::Key => "private key",
            Self::Roots => "roots",
            Self::ClientRoots => "roots of client certificates",
            Self::Crl => "revocation list",
            Self::Alpn => "ALPN list",
            Self::Whole => "TLS configuration",
        }
    }
}

impl TlsConfigError {
    /// `complaint` continues the name of the part.
    pub(crate) fn new(part: Part, path: Option<&Path>, complaint: impl Into<String>) -> Self {
        Self { part, path: path.map(Path::to_owned), complaint: complaint.into(), cause: None }
    }

    /// Settings that do not go together.
    pub(super) fn whole(complaint: impl Into<String>) -> Self {
        Self::new(Part::Whole, None, complaint)
    }

    pub(super) fn because_of_system(mut self, cause: io::Error) -> Self {
        self.cause = Some(Cause::System(Arc::new(cause)));
        self
    }

    pub(super) fn because_of(mut self, cause: rustls::Error) -> Self {
        self.cause = Some(Cause::Tls(cause));
        self
    }

    /// The file in question, if it is about one.
    ///
    /// ```
    /// use std::path::Path;
    /// use twistor::tls::TlsServer;
    ///
    /// let error = TlsServer::from_pem_files("missing.crt", "missing.key").unwrap_err();
    /// assert_eq!(error.path(), Some(Path::new("missing.crt")));
    /// ```
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    pub(crate) fn part(&self) -> Part {
        self.part
    }

    /// The complaint without the name in front of it.
    pub(crate) fn complaint(&self) -> &str {
        &self.complaint
    }
}

impl fmt::Display for TlsConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.part.name())?;
        if let Some(path) = &self.path {
            write!(f, " file {path:?}")?;
        }
        write!(f, " {}", self.complaint)
    }
}

impl Error for TlsConfigError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self.cause.as_ref()? {
            Cause::System(error) => Some(&**error),
            Cause::Tls(error) => Some(error),
        }
    }
}

impl From<TlsConfigError> for io::Error {
    fn from(error: TlsConfigError) -> Self {
        let kind = match &error.cause {
            Some(Cause::System(cause)) => cause.kind(),
            _ => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}
