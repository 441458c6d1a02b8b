//! [`TlsInfo`]: what a handshake has agreed on.

use rustls::CommonState;
use rustls::pki_types::CertificateDer;
use rustls::{HandshakeKind, ProtocolVersion};

/// A version of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// What the handshake of a connection has agreed on.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The version of the protocol.
    pub version: TlsVersion,
    /// The cipher suite, by its IANA name, as `TLS13_AES_128_GCM_SHA256`.
    pub cipher_suite: &'static str,
    /// The application's protocol (ALPN, RFC 7301), if one was agreed on.
    pub alpn: Option<Vec<u8>>,
    /// The name that the client asked for (SNI, RFC 6066 section 3), if it did.
    pub server_name: Option<String>,
    /// The peer's certificates, its own first, in DER; none from a client that was not asked for one.
    pub peer_certificates: Vec<CertificateDer<'static>>,
    /// Whether an earlier session was resumed.
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
            cipher_suite: state.negotiated_cipher_suite()?.suite().as_str()?,
            alpn: state.alpn_protocol().map(<[u8]>::to_vec),
            server_name: server_name.map(str::to_owned),
            peer_certificates: state.peer_certificates().map(<[_]>::to_vec).unwrap_or_default(),
            is_resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
        })
    }
}
