//! A certificate for those who have none yet.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use twistor::tls::TlsServer;

use crate::Failure;

/// A server with a self-signed certificate for this machine, made for this run of the program.
///
/// The private key is only in memory. The certificate stands in a file as well, for clients to trust it; the file goes
/// with this value.
#[derive(Debug)]
pub struct SelfSigned {
    server: TlsServer,
    file: PathBuf,
}

impl SelfSigned {
    /// Makes it. `program` is for the name of the file.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn new(program: &str) -> Result<Self, Failure> {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names)?;
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let server = TlsServer::builder().certificate_pem(certificate.as_bytes(), key.as_bytes()).build()?;
        let file = std::env::temp_dir().join(format!("{program}-{}.pem", std::process::id()));
        // One of an earlier process with our number may be there. What is there after that is not ours to write to.
        let _ = fs::remove_file(&file);
        File::create_new(&file)?.write_all(certificate.as_bytes())?;
        Ok(Self { server, file })
    }

    /// The server that shows it.
    #[must_use]
    pub fn server(&self) -> &TlsServer {
        &self.server
    }

    /// The certificate in PEM.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }
}

impl Drop for SelfSigned {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}
