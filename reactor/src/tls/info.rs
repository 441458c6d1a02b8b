//! [`TlsInfo`]: what a handshake has agreed on.

use std::fmt;

use rustls::CommonState;
use rustls::pki_types::CertificateDer;
use rustls::{HandshakeKind, ProtocolVersion};

use super::material;

/// A version of the protocol.
///
/// ```
/// use twistor::tls::TlsVersion;
///
/// assert!(TlsVersion::Tls12 < TlsVersion::Tls13);
/// assert_eq!(TlsVersion::Tls13.to_string(), "TLS 1.3");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "TLS 1.2",
            Self::Tls13 => "TLS 1.3",
        })
    }
}

/// What the handshake of a connection has agreed on. It is a copy that stays as it is when the connection
/// ends.
///
/// ```
/// use twistor::tls::{TlsInfo, TlsVersion};
///
/// fn describe(info: &TlsInfo) -> String {
///     let alpn = info.alpn_text().unwrap_or("no protocol");
///     format!("{} with {}, {alpn}", info.version, info.cipher_suite)
/// }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The version of the protocol.
    pub version: TlsVersion,
    /// The cipher suite, by its IANA name but for TLS 1.3, where rustls says `TLS13_AES_128_GCM_SHA256`.
    pub cipher_suite: &'static str,
    /// The application's protocol (ALPN, RFC 7301), if one was agreed on. See [`alpn_text`](Self::alpn_text).
    pub alpn: Option<Vec<u8>>,
    /// The name that the client asked for (SNI, RFC 6066 section 3), if it did. On a server: what the client
    /// says, in lower case, whether or not there is a certificate for it.
    pub server_name: Option<String>,
    /// The peer's certificates, its own first, in DER; none from a client that was not asked for one or had
    /// none. They are verified, unless a `dangerous_` method says otherwise. In a resumed session those of
    /// the first one.
    pub peer_certificates: Vec<CertificateDer<'static>>,
    /// Whether an earlier session was resumed, so that no certificate was verified now.
    pub is_resumed: bool,
}

impl TlsInfo {
    /// `None` before the handshake is complete.
    pub(crate) fn of(state: &CommonState, server_name: Option<&str>) -> Option<Self> {
        let version = match state.protocol_version()? {
            ProtocolVersion::TLSv1_2 => TlsVersion::Tls12,
            ProtocolVersion::TLSv1_3 => TlsVersion::Tls13,
            _ => return None,
        };
        Some(Self {
            version,
            cipher_suite: state.negotiated_cipher_suite()?.suite().as_str().unwrap_or("unknown"),
            alpn: state.alpn_protocol().map(<[u8]>::to_vec),
            server_name: server_name.map(str::to_owned),
            peer_certificates: state.peer_certificates().map(<[_]>::to_vec).unwrap_or_default(),
            is_resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
        })
    }

    /// The application's protocol as text, as `h2` or `http/1.1`: all registered ones but a few reserved are.
    /// `None` if none was agreed on or it is not UTF-8.
    #[must_use]
    pub fn alpn_text(&self) -> Option<&str> {
        std::str::from_utf8(self.alpn.as_deref()?).ok()
    }

    /// The peer's own certificate, in DER.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.peer_certificates.first()
    }

    /// The DNS names in the peer's own certificate (its subject alternative names), in lower case; a wildcard
    /// as `*.example.org`. For a server to tell clients apart; that a server has the right name is verified
    /// already.
    #[must_use]
    pub fn peer_dns_names(&self) -> Vec<String> {
        self.peer_certificate().map(material::dns_names).unwrap_or_default()
    }
}
