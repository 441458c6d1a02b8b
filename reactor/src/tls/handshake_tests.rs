//! Handshakes in memory between a [`TlsServer`] and a [`TlsClient`], each with certificates made for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::client::UnbufferedClientConnection;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{PrivateKeyDer, ServerName, UnixTime};
use rustls::server::UnbufferedServerConnection;
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, RootCertStore, SignatureScheme};

use super::*;

/// A certificate and its key, in PEM.
#[derive(Clone)]
struct Pem {
    certificate: String,
    key: String,
    serial: u64,
}

impl Pem {
    fn server(&self) -> TlsServerBuilder {
        self.add_to(TlsServer::builder())
    }

    fn add_to(&self, builder: TlsServerBuilder) -> TlsServerBuilder {
        builder.certificate_pem(self.certificate.as_bytes(), self.key.as_bytes())
    }
}

/// Who issues certificates.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    next_serial: AtomicUsize,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, next_serial: AtomicUsize::new(1) }
    }

    fn pem(&self) -> String {
        self.issuer.pem()
    }

    fn issue(&self, names: &[&str]) -> Pem {
        self.issue_with(names, |_| {}, &KeyPair::generate().unwrap())
    }

    fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams), key: &KeyPair) -> Pem {
        let serial = self.next_serial.fetch_add(1, Ordering::Relaxed) as u64;
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        change(&mut params);
        let certificate = params.signed_by(key, &self.issuer).unwrap().pem();
        Pem { certificate, key: key.serialize_pem(), serial }
    }

    fn revoke(&self, serials: &[u64], next_update_year: i32) -> rcgen::CertificateRevocationList {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(next_update_year, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap()
    }

    fn client(&self) -> TlsClientBuilder {
        TlsClient::builder().roots_pem(self.pem().as_bytes())
    }
}

/// What both sides say after a handshake.
#[derive(Debug)]
struct Outcome {
    client: Result<TlsInfo, Error>,
    server: Result<TlsInfo, Error>,
}

impl Outcome {
    /// The names of the certificate that the client was shown.
    fn names(&self) -> Vec<String> {
        self.client.as_ref().unwrap().peer_dns_names()
    }

    fn is_complete(&self) -> bool {
        self.client.is_ok() && self.server.is_ok()
    }

    /// Why the client did not like the server's certificate.
    fn certificate_error(&self) -> &CertificateError {
        match &self.client {
            Err(Error::InvalidCertificate(error)) => error,
            other => panic!("the client says {other:?}, the server {:?}", self.server),
        }
    }

    /// Why the server did not like the client's certificate.
    fn client_certificate_error(&self) -> &CertificateError {
        match &self.server {
            Err(Error::InvalidCertificate(error)) => error,
            other => panic!("the server says {other:?}, the client {:?}", self.client),
        }
    }
}

/// Works on what has come until there is no more to do; what is to be sent is appended.
macro_rules! work {
    ($connection:expr, $incoming:expr, $outgoing:expr) => {{
        let mut failed = None;
        loop {
            let UnbufferedStatus { discard, state } = $connection.process_tls_records(&mut $incoming);
            let is_idle = match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else { panic!() };
                    let at = $outgoing.len();
                    $outgoing.resize(at + size.required_size, 0);
                    data.encode(&mut $outgoing[at..]).unwrap();
                    false
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    false
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => true,
                Ok(other) => panic!("{other:?}"),
                // Once more, for the alert.
                Err(error) => failed.replace(error).is_some(),
            };
            $incoming.drain(..discard);
            if is_idle {
                break failed.map_or(Ok(()), Err);
            }
        }
    }};
}

fn shake(server: &TlsServer, client: &TlsClient, name: &str) -> Outcome {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client: UnbufferedClientConnection = client.session(name).unwrap();
    let (mut server, tap): (UnbufferedServerConnection, _) = server.session().unwrap();
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    let (mut client_failed, mut server_failed) = (None, None);
    for _ in 0..8 {
        if client_failed.is_none() {
            client_failed = work!(client, to_client, to_server).err();
        }
        if server_failed.is_none() {
            server_failed = work!(server, to_server, to_client).err();
        }
    }
    let server_name = tap.take();
    let info = |failed: Option<Error>, info: Option<TlsInfo>| match failed {
        Some(error) => Err(error),
        None => info.ok_or(Error::HandshakeNotComplete),
    };
    let outcome = Outcome {
        client: info(client_failed, TlsInfo::of(&client, None)),
        server: info(server_failed, TlsInfo::of(&server, server_name.as_deref())),
    };
    if outcome.is_complete() {
        assert!(!client.is_handshaking() && !server.is_handshaking(), "there was more to do");
    }
    outcome
}

/// A folder of its own, which goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("twistor-tls-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A client that is made by rustls itself, for one version of the protocol.
fn old_client(authority: &Authority, version: &'static rustls::SupportedProtocolVersion) -> TlsClient {
    let mut roots = RootCertStore::empty();
    roots.add(authority.issuer.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(provider::ring())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsClient::from_config(Arc::new(config))
}

#[test]
fn a_handshake_tells_what_was_agreed_on() {
    let authority = Authority::new("root");
    let pem = authority.issue(&["a.example"]);
    let server = pem.server().alpn(["h2", "http/1.1"]).build().unwrap();
    let client = authority.client().alpn(["http/1.1", "h2"]).build().unwrap();
    let outcome = shake(&server, &client, "a.example");
    let (ours, theirs) = (outcome.server.unwrap(), outcome.client.unwrap());
    assert_eq!(ours.version, TlsVersion::Tls13);
    assert_eq!(ours.cipher_suite, "TLS13_AES_256_GCM_SHA384");
    assert_eq!(ours.server_name.as_deref(), Some("a.example"));
    assert_eq!(ours.peer_certificate(), None);
    assert!(!ours.is_resumed);
    // The server's preference counts.
    assert_eq!(ours.alpn_text(), Some("h2"));
    assert_eq!(theirs.alpn_text(), Some("h2"));
    assert_eq!(theirs.peer_dns_names(), ["a.example"]);
}

#[test]
fn a_client_gets_the_certificate_of_the_name_that_it_asks_for() {
    let authority = Authority::new("root");
    let mut server = authority.issue(&["a.example", "www.a.example", "127.0.0.1"]).server();
    for names in [&["B.example"][..], &["*.c.example"], &["x.c.example"]] {
        server = authority.issue(names).add_to(server);
    }
    let client = authority.client().build().unwrap();
    let lax = server.clone().build().unwrap();
    let strict = server.strict_sni(true).build().unwrap();
    for (name, first_of_certificate) in [
        ("a.example", "a.example"),
        ("www.a.example", "a.example"),
        ("b.example", "b.example"),
        ("y.c.example", "*.c.example"),
        ("x.c.example", "x.c.example"),
        ("X.C.EXAMPLE", "x.c.example"),
    ] {
        assert_eq!(shake(&lax, &client, name).names()[0], first_of_certificate, "{name}");
        assert_eq!(shake(&strict, &client, name).names()[0], first_of_certificate, "{name}");
    }
    // A client does not name an IP address, and gets the first.
    assert_eq!(shake(&lax, &client, "127.0.0.1").names()[0], "a.example");
    assert!(!shake(&strict, &client, "127.0.0.1").is_complete());
    let silent = authority.client().server_name_indication(false).build().unwrap();
    assert_eq!(shake(&lax, &silent, "a.example").server.unwrap().server_name, None);
    // A wildcard stands for one label, and for one only.
    for unknown in ["c.example", "x.y.c.example", "d.example"] {
        let refused = shake(&lax, &client, unknown);
        assert!(
            matches!(refused.certificate_error(), CertificateError::NotValidForNameContext { .. }),
            "{unknown}"
        );
        let refused = shake(&strict, &client, unknown);
        assert!(matches!(refused.client, Err(Error::AlertReceived(_))), "{refused:?}");
        assert!(refused.server.is_err());
    }
}

#[test]
fn of_several_certificates_for_a_name_a_client_gets_one_that_it_can_verify() {
    let authority = Authority::new("root");
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let server = authority.issue_with(&["a.example"], |_| {}, &ed25519).server();
    let server = authority.issue(&["a.example"]).add_to(server).build().unwrap();
    let scheme = |outcome: Outcome| {
        let parsed = outcome.client.unwrap().peer_certificates[0].to_vec();
        // The object identifier of Ed25519 keys, 1.3.101.112.
        parsed.windows(5).any(|window| window == [0x06, 0x03, 0x2b, 0x65, 0x70])
    };
    let modern = authority.client().build().unwrap();
    assert!(scheme(shake(&server, &modern, "a.example")), "the first is preferred");
    let mut only_ecdsa = rustls::crypto::ring::default_provider();
    let known = only_ecdsa.signature_verification_algorithms;
    let mapping = known.mapping.iter().filter(|(scheme, _)| *scheme != SignatureScheme::ED25519).copied();
    only_ecdsa.signature_verification_algorithms =
        WebPkiSupportedAlgorithms { all: known.all, mapping: mapping.collect::<Vec<_>>().leak() };
    let older = authority.client().provider(Arc::new(only_ecdsa)).build().unwrap();
    assert!(!scheme(shake(&server, &older, "a.example")));
    assert!(!scheme(shake(&server, &older, "a.example")), "also as the default");
}

#[test]
fn without_a_common_protocol_of_the_application_there_is_no_connection() {
    let authority = Authority::new("root");
    let server = authority.issue(&["a.example"]).server().alpn(["h2"]).build().unwrap();
    let client = authority.client().alpn(["smtp"]).build().unwrap();
    let outcome = shake(&server, &client, "a.example");
    assert_eq!(outcome.server.unwrap_err(), Error::NoApplicationProtocol);
    let alert = Error::AlertReceived(AlertDescription::NoApplicationProtocol);
    assert_eq!(outcome.client.unwrap_err(), alert);
    let silent = authority.client().build().unwrap();
    assert_eq!(shake(&server, &silent, "a.example").server.unwrap().alpn, None);
}

#[test]
fn a_server_is_refused_whose_certificate_is_not_right() {
    let authority = Authority::new("root");
    let client = authority.client().build().unwrap();
    let error = |pem: &Pem, name: &str| {
        shake(&pem.server().build().unwrap(), &client, name).certificate_error().clone()
    };

    let good = authority.issue(&["a.example"]);
    assert!(shake(&good.server().build().unwrap(), &client, "a.example").is_complete());
    assert!(matches!(error(&good, "b.example"), CertificateError::NotValidForNameContext { .. }));
    assert!(matches!(error(&good, "127.0.0.1"), CertificateError::NotValidForNameContext { .. }));

    let key = || KeyPair::generate().unwrap();
    let expired = authority.issue_with(&["a.example"], |it| it.not_after = date_time_ymd(2020, 1, 1), &key());
    assert!(matches!(error(&expired, "a.example"), CertificateError::ExpiredContext { .. }));
    let early = authority.issue_with(&["a.example"], |it| it.not_before = date_time_ymd(4000, 1, 1), &key());
    assert!(matches!(error(&early, "a.example"), CertificateError::NotValidYetContext { .. }));

    let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let self_signed = Pem { certificate: made.cert.pem(), key: made.signing_key.serialize_pem(), serial: 0 };
    assert_eq!(error(&self_signed, "a.example"), CertificateError::UnknownIssuer);
    let stranger = Authority::new("root").issue(&["a.example"]);
    assert!(matches!(
        error(&stranger, "a.example"),
        CertificateError::BadSignature | CertificateError::UnknownIssuer
    ));
    let for_clients = authority.issue_with(
        &["a.example"],
        |it| it.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth],
        &key(),
    );
    assert!(matches!(error(&for_clients, "a.example"), CertificateError::InvalidPurposeContext { .. }));
}

#[test]
fn who_trusts_a_self_signed_certificate_can_use_it() {
    let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let server = TlsServer::builder()
        .certificate_pem(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes())
        .build()
        .unwrap();
    let client = TlsClient::builder().roots_pem(made.cert.pem().as_bytes()).build().unwrap();
    assert!(shake(&server, &client, "a.example").is_complete());
}

#[test]
fn dates_are_compared_with_the_clock_that_was_given() {
    #[derive(Debug)]
    struct At(u64);
    impl TimeProvider for At {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
        }
    }
    let authority = Authority::new("root");
    let pem = authority.issue_with(
        &["a.example"],
        |it| it.not_after = date_time_ymd(2020, 1, 1),
        &KeyPair::generate().unwrap(),
    );
    let server = pem.server().build().unwrap();
    let in_2010 = authority.client().time_provider(Arc::new(At(1_262_304_000))).build().unwrap();
    assert!(shake(&server, &in_2010, "a.example").is_complete());
    let in_2021 = authority.client().time_provider(Arc::new(At(1_609_459_200))).build().unwrap();
    let refused = shake(&server, &in_2021, "a.example");
    assert!(matches!(refused.certificate_error(), CertificateError::ExpiredContext { .. }));
}

#[test]
fn nothing_said_means_that_the_system_verifies() {
    let authority = Authority::new("root");
    let server = authority.issue(&["a.example"]).server().build().unwrap();
    let refused = |client: &TlsClient| shake(&server, client, "a.example").client.is_err();
    assert!(refused(&TlsClient::new()));
    assert!(refused(&TlsClient::default()));
    assert!(refused(&TlsClient::builder().build().unwrap()));
    assert!(refused(&TlsClient::builder().system_roots(true).build().unwrap()));
    // What it has can be looked at before, and is not where it is not needed.
    if let Err(error) = TlsClient::new().prepare() {
        assert!(error.to_string().starts_with("roots of the system cannot be used: "), "{error}");
    }
    authority.client().build().unwrap().prepare().unwrap();
    // Own roots beside it are enough for what they have issued, and only for that.
    let both = authority.client().system_roots(true).build().unwrap();
    assert!(shake(&server, &both, "a.example").is_complete());
    let other = Authority::new("other").client().system_roots(true).build().unwrap();
    assert!(refused(&other));
}

#[test]
fn a_server_wants_the_certificates_of_clients_that_it_was_told_to() {
    let authority = Authority::new("root");
    let clients = Authority::new("clients");
    let roots = clients.pem();
    let server = authority.issue(&["a.example"]).server().client_roots_pem(roots.as_bytes());
    let required = server.clone().build().unwrap();
    let optional = server.client_certificates(ClientCertificates::Optional).build().unwrap();
    let mine = clients.issue(&["client.example"]);
    let client = |pem: &Pem| {
        authority.client().certificate_pem(pem.certificate.as_bytes(), pem.key.as_bytes()).build().unwrap()
    };

    let known = client(&mine);
    for server in [&required, &optional] {
        let ours = shake(server, &known, "a.example").server.unwrap();
        assert_eq!(ours.peer_dns_names(), ["client.example"]);
    }
    let nobody = authority.client().build().unwrap();
    assert_eq!(shake(&required, &nobody, "a.example").server.unwrap_err(), Error::NoCertificatesPresented);
    assert_eq!(shake(&optional, &nobody, "a.example").server.unwrap().peer_certificate(), None);
    // A wrong one is worse than none.
    let stranger = client(&authority.issue(&["client.example"]));
    let key = KeyPair::generate().unwrap();
    let late = clients.issue_with(&["client.example"], |it| it.not_after = date_time_ymd(2020, 1, 1), &key);
    let late = client(&late);
    for server in [&required, &optional] {
        let refused = shake(server, &stranger, "a.example");
        assert_eq!(*refused.client_certificate_error(), CertificateError::UnknownIssuer);
        let refused = shake(server, &late, "a.example");
        assert!(matches!(refused.client_certificate_error(), CertificateError::ExpiredContext { .. }));
    }
}

#[test]
fn revoked_servers_are_refused() {
    let authority = Authority::new("root");
    let (good, bad) = (authority.issue(&["a.example"]), authority.issue(&["a.example"]));
    let (good_server, bad_server) = (good.server().build().unwrap(), bad.server().build().unwrap());
    let list = authority.revoke(&[bad.serial], 4000);
    for list in [list.pem().unwrap().into_bytes(), list.der().to_vec()] {
        let client = authority.client().crl_pem(&list).build().unwrap();
        assert!(shake(&good_server, &client, "a.example").is_complete());
        assert_eq!(*shake(&bad_server, &client, "a.example").certificate_error(), CertificateError::Revoked);
    }
    // What cannot be looked up is refused: a list of another issuer, one that is out of date.
    let other = Authority::new("other").revoke(&[], 4000).pem().unwrap();
    let client = authority.client().crl_pem(other.as_bytes()).build().unwrap();
    let refused = shake(&good_server, &client, "a.example");
    assert_eq!(*refused.certificate_error(), CertificateError::UnknownRevocationStatus);
    let old = authority.revoke(&[], 2021).pem().unwrap();
    let client = authority.client().crl_pem(old.as_bytes()).build().unwrap();
    let refused = shake(&good_server, &client, "a.example");
    assert!(matches!(refused.certificate_error(), CertificateError::ExpiredRevocationListContext { .. }));
}

#[test]
fn revoked_clients_are_refused_as_soon_as_the_list_was_reloaded() {
    let authority = Authority::new("root");
    let folder = Folder::new();
    let client = authority.issue(&["client.example"]);
    let list = folder.write("crl.pem", authority.revoke(&[], 4000).pem().unwrap());
    let server = authority
        .issue(&["a.example"])
        .server()
        .client_roots_file(folder.write("roots.pem", authority.pem()))
        .crl_file(&list)
        .build()
        .unwrap();
    let client_config = authority
        .client()
        .certificate_pem(client.certificate.as_bytes(), client.key.as_bytes())
        .build()
        .unwrap();
    assert!(!shake(&server, &client_config, "a.example").server.unwrap().is_resumed);
    assert!(shake(&server, &client_config, "a.example").server.unwrap().is_resumed);
    folder.write("crl.pem", authority.revoke(&[client.serial], 4000).pem().unwrap());
    server.reload().unwrap();
    // Not even by going on with the session from before.
    let refused = shake(&server, &client_config, "a.example");
    assert_eq!(*refused.client_certificate_error(), CertificateError::Revoked);
}

#[test]
fn an_old_version_is_refused_by_whoever_does_not_want_it() {
    let authority = Authority::new("root");
    let pem = authority.issue(&["a.example"]);
    let lax = pem.server().build().unwrap();
    let strict = pem.server().min_version(TlsVersion::Tls13).build().unwrap();
    let old = old_client(&authority, &rustls::version::TLS12);
    assert_eq!(shake(&lax, &old, "a.example").server.unwrap().version, TlsVersion::Tls12);
    let refused = shake(&strict, &old, "a.example");
    assert!(matches!(refused.server, Err(Error::PeerIncompatible(_))), "{refused:?}");
    assert_eq!(refused.client.unwrap_err(), Error::AlertReceived(AlertDescription::ProtocolVersion));
    // The same in the other direction: a server that speaks 1.2 only.
    let mut chain = Vec::new();
    let key = {
        use rustls::pki_types::pem::PemObject;
        chain.extend(rustls::pki_types::CertificateDer::from_pem_slice(pem.certificate.as_bytes()));
        PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).unwrap()
    };
    let config = rustls::ServerConfig::builder_with_provider(provider::ring())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let old_server = TlsServer::from_config(Arc::new(config));
    let lax = authority.client().build().unwrap();
    assert!(shake(&old_server, &lax, "a.example").is_complete());
    let strict = authority.client().min_version(TlsVersion::Tls13).build().unwrap();
    assert!(shake(&old_server, &strict, "a.example").client.is_err());
    assert!(old_server.reload().unwrap_err().to_string().contains("no files to read again"));
}

#[test]
fn sessions_are_resumed_in_both_versions_unless_it_is_switched_off() {
    let authority = Authority::new("root");
    let pem = authority.issue(&["a.example"]);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for (server, expected) in [
            (pem.server(), true),
            (pem.server().session_tickets(false), true),
            (pem.server().session_cache(0), true),
            (pem.server().session_tickets(false).session_cache(0), false),
        ] {
            let server = server.build().unwrap();
            let client = old_client(&authority, version);
            let first = shake(&server, &client, "a.example");
            assert!(!first.server.unwrap().is_resumed);
            let second = shake(&server, &client, "a.example");
            assert_eq!(second.client.unwrap().is_resumed, expected, "{version:?}");
            assert_eq!(second.server.unwrap().is_resumed, expected, "{version:?}");
            // Sessions are of a configuration, not of the program.
            let other = old_client(&authority, version);
            assert!(!shake(&server, &other, "a.example").server.unwrap().is_resumed);
        }
    }
    let server = pem.server().build().unwrap();
    let forgetful = authority.client().session_cache(0).build().unwrap();
    let resumed = |client: &TlsClient| shake(&server, client, "a.example").client.unwrap().is_resumed;
    assert!(!resumed(&forgetful) && !resumed(&forgetful));
    let client = authority.client().build().unwrap();
    let clone = client.clone();
    assert!(!resumed(&client) && resumed(&clone));
    server.reload().unwrap();
    assert!(resumed(&client), "a reloaded server still knows its sessions");
    client.reload().unwrap();
    assert!(!resumed(&client), "a reloaded client verifies anew");
}

#[test]
fn reloaded_files_count_for_the_handshakes_after_it() {
    let authority = Authority::new("root");
    let folder = Folder::new();
    let old = authority.issue(&["a.example", "old.example"]);
    let (certificate, key) = (folder.write("crt", &old.certificate), folder.write("key", &old.key));
    let server = TlsServer::from_pem_files(&certificate, &key).unwrap();
    let clone = server.clone();
    // A session that was resumed would not show the certificate.
    let client = authority.client().session_cache(0).build().unwrap();
    let second_name = |server: &TlsServer| shake(server, &client, "a.example").names()[1].clone();
    assert_eq!(second_name(&server), "old.example");

    let new = authority.issue(&["a.example", "new.example"]);
    folder.write("crt", &new.certificate);
    let error = server.reload().unwrap_err();
    assert_eq!(error.path(), Some(&*key));
    assert!(
        error.to_string().ends_with(&format!("does not belong to the certificate in {certificate:?}")),
        "{error}"
    );
    assert_eq!(second_name(&server), "old.example", "half of a change is none");
    for broken in ["", "garbage", "-----BEGIN PRIVATE KEY-----\nAAAA", &new.certificate] {
        folder.write("key", broken);
        assert!(server.reload().is_err(), "{broken}");
    }
    std::fs::remove_file(&key).unwrap();
    assert_eq!(std::io::Error::from(server.reload().unwrap_err()).kind(), std::io::ErrorKind::NotFound);
    assert_eq!(second_name(&clone), "old.example");

    folder.write("key", &new.key);
    server.reload().unwrap();
    assert_eq!(second_name(&server), "new.example");
    assert_eq!(second_name(&clone), "new.example");
}

#[test]
fn a_client_reloads_its_roots() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let folder = Folder::new();
    let roots = folder.write("roots", old.pem());
    let client = TlsClient::builder().roots_file(&roots).build().unwrap();
    let server = new.issue(&["a.example"]).server().build().unwrap();
    assert!(!shake(&server, &client, "a.example").is_complete());
    folder.write("roots", "garbage");
    assert!(client.reload().unwrap_err().to_string().contains("has no certificate in it"));
    folder.write("roots", old.pem() + &new.pem());
    client.reload().unwrap();
    assert!(shake(&server, &client, "a.example").is_complete());
}

#[test]
fn a_check_in_addition_refuses_whom_it_does_not_like_and_lets_nobody_else_in() {
    let authority = Authority::new("root");
    let server = authority.issue(&["a.example"]).server().build().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let client = |answer: Result<(), String>| {
        let calls = Arc::clone(&calls);
        authority.client().also_verify(move |end_entity, _| {
            calls.fetch_add(1, Ordering::Relaxed);
            assert_eq!(material::dns_names(end_entity), ["a.example"]);
            answer.clone()
        })
    };
    assert!(shake(&server, &client(Ok(())).build().unwrap(), "a.example").is_complete());
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    let refused = shake(&server, &client(Err("not this one".to_owned())).build().unwrap(), "a.example");
    assert!(refused.client.unwrap_err().to_string().contains("not this one"));
    // Whom the verification refuses the check does not see.
    let good = client(Ok(())).build().unwrap();
    assert!(!shake(&server, &good, "b.example").is_complete());
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    // All of several have to agree, and one that panics does not.
    let both = client(Ok(())).also_verify(|_, _| Err("the second".to_owned())).build().unwrap();
    assert!(shake(&server, &both, "a.example").client.unwrap_err().to_string().contains("the second"));
    let panicking = authority.client().also_verify(|_, _| panic!("on purpose")).build().unwrap();
    let refused = shake(&server, &panicking, "a.example");
    assert!(refused.client.unwrap_err().to_string().contains("the check panicked"));
    assert!(refused.server.is_err());
}

#[test]
fn a_server_checks_clients_in_addition() {
    let authority = Authority::new("root");
    let roots = authority.pem();
    let server = authority
        .issue(&["a.example"])
        .server()
        .client_roots_pem(roots.as_bytes())
        .client_certificates(ClientCertificates::Optional)
        .also_verify(|end_entity, _| match &*material::dns_names(end_entity) {
            [name] if name == "good.example" => Ok(()),
            names => Err(format!("{names:?} is not on the list")),
        })
        .build()
        .unwrap();
    let client = |name: &str| {
        let pem = authority.issue(&[name]);
        authority.client().certificate_pem(pem.certificate.as_bytes(), pem.key.as_bytes()).build().unwrap()
    };
    assert!(shake(&server, &client("good.example"), "a.example").is_complete());
    let refused = shake(&server, &client("bad.example"), "a.example");
    assert!(refused.server.unwrap_err().to_string().contains("[\"bad.example\"] is not on the list"));
    // Who shows none is not checked.
    assert!(shake(&server, &authority.client().build().unwrap(), "a.example").is_complete());
}

#[test]
fn a_provider_that_was_given_is_the_one_that_is_used() {
    let authority = Authority::new("root");
    let pem = authority.issue(&["a.example"]);
    let mut only = rustls::crypto::ring::default_provider();
    only.cipher_suites.retain(|suite| suite.suite() == rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    let only: Arc<CryptoProvider> = Arc::new(only);
    let server = pem.server().min_version(TlsVersion::Tls13).provider(Arc::clone(&only)).build().unwrap();
    let client = authority.client().build().unwrap();
    let outcome = shake(&server, &client, "a.example");
    assert_eq!(outcome.client.unwrap().cipher_suite, "TLS13_CHACHA20_POLY1305_SHA256");
    // One that lacks what is wanted is told at once.
    let mut only = rustls::crypto::ring::default_provider();
    only.cipher_suites.retain(|suite| suite.version() == &rustls::version::TLS12);
    let only: Arc<CryptoProvider> = Arc::new(only);
    let error = pem.server().min_version(TlsVersion::Tls13).provider(Arc::clone(&only)).build();
    let error = error.map(drop).unwrap_err().to_string();
    assert!(error.starts_with("TLS configuration cannot be used with this provider: "), "{error}");
    assert!(authority.client().min_version(TlsVersion::Tls13).provider(only).build().is_err());
}

#[cfg(feature = "tls-aws-lc-rs")]
#[test]
fn both_providers_understand_each_other() {
    let authority = Authority::new("root");
    let pem = authority.issue(&["a.example"]);
    let (by_ring, by_aws) =
        (pem.server().build().unwrap(), pem.server().provider(provider::aws_lc_rs()).build().unwrap());
    let client = authority.client().build().unwrap();
    let aws_client = authority.client().provider(provider::aws_lc_rs()).build().unwrap();
    for server in [&by_ring, &by_aws] {
        assert!(shake(server, &client, "a.example").is_complete());
        assert!(shake(server, &aws_client, "a.example").is_complete());
        assert!(shake(server, &aws_client, "a.example").client.unwrap().is_resumed);
    }
}

#[cfg(feature = "tls-webpki-roots")]
#[test]
fn the_roots_of_mozilla_have_not_issued_everything() {
    let authority = Authority::new("root");
    let server = authority.issue(&["a.example"]).server().build().unwrap();
    let client = TlsClient::builder().webpki_roots().build().unwrap();
    assert_eq!(*shake(&server, &client, "a.example").certificate_error(), CertificateError::UnknownIssuer);
    let both = authority.client().webpki_roots().build().unwrap();
    assert!(shake(&server, &both, "a.example").is_complete());
}

#[test]
fn dangerous_clients_still_want_the_key_of_the_certificate() {
    let authority = Authority::new("root");
    let server = Authority::new("stranger").issue(&["b.example"]).server().build().unwrap();
    let client = TlsClient::builder().dangerous_accept_any_certificate().build().unwrap();
    assert!(shake(&server, &client, "a.example").is_complete());
    let picky = TlsClient::builder()
        .dangerous_accept_any_certificate()
        .also_verify(|_, _| Err("not even so".to_owned()))
        .build()
        .unwrap();
    assert!(!shake(&server, &picky, "a.example").is_complete());
    let verifier = Arc::new(verify::NotAtAll { provider: provider::ring() });
    let client = TlsClient::builder().dangerous_verify_with(verifier).build().unwrap();
    assert!(shake(&server, &client, "a.example").is_complete());

    // Somebody else's certificate with a key of one's own.
    #[derive(Debug)]
    struct Stolen(Arc<CertifiedKey>);
    impl rustls::server::ResolvesServerCert for Stolen {
        fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }
    use rustls::pki_types::pem::PemObject;
    let (theirs, ours) = (authority.issue(&["a.example"]), authority.issue(&["a.example"]));
    let key = PrivateKeyDer::from_pem_slice(ours.key.as_bytes()).unwrap();
    let chain =
        vec![rustls::pki_types::CertificateDer::from_pem_slice(theirs.certificate.as_bytes()).unwrap()];
    let key = provider::ring().key_provider.load_private_key(key).unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = rustls::ServerConfig::builder_with_provider(provider::ring())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Stolen(Arc::new(CertifiedKey::new(
                chain.clone(),
                Arc::clone(&key),
            )))));
        let thief = TlsServer::from_config(Arc::new(config));
        let refused = shake(&thief, &client, "a.example");
        assert_eq!(*refused.certificate_error(), CertificateError::BadSignature);
    }
}

#[test]
fn what_is_wrong_with_a_certificate_or_key_is_told() {
    let authority = Authority::new("root");
    let (one, other) = (authority.issue(&["a.example"]), authority.issue(&["b.example"]));
    let folder = Folder::new();
    let certificate = folder.write("crt", &one.certificate);
    let error = |key: &[u8]| {
        let key = folder.write("key", key);
        let error = TlsServer::from_pem_files(&certificate, &key).unwrap_err();
        let text = error.to_string();
        text.strip_prefix(&format!("private key file {key:?} "))
            .unwrap_or_else(|| panic!("{text}"))
            .to_owned()
    };
    assert_eq!(error(other.key.as_bytes()), format!("does not belong to the certificate in {certificate:?}"));
    assert_eq!(
        error(b"garbage \x00\xff"),
        "has no private key in it; a PEM text with \"-----BEGIN PRIVATE KEY-----\" is needed"
    );
    assert_eq!(
        error(one.certificate.as_bytes()),
        "has no private key in it; a PEM text with \"-----BEGIN PRIVATE KEY-----\" is needed"
    );
    assert_eq!(error((one.key.clone() + &other.key).as_bytes()), "has several private keys in it; leave one");
    assert_eq!(
        error(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"),
        "has a private key that is encrypted; decrypt it: openssl pkey -in FILE -out NEW"
    );
    assert_eq!(
        error(b"-----BEGIN PRIVATE KEY-----\nAAAA\n"),
        "is not PEM as it should be: the line \"-----END PRIVATE KEY-----\" is missing"
    );
    assert!(
        error(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
            .starts_with("has a private key that cannot be used: ")
    );
    assert!(error(&[0x30, 0x82, 1, 0, 0]).contains("it looks like DER"));

    let missing = TlsServer::from_pem_files("/nowhere/crt", "/nowhere/key").unwrap_err().to_string();
    assert!(missing.starts_with("certificate file \"/nowhere/crt\" cannot be read: "), "{missing}");
    let error = |certificate: &[u8]| {
        TlsServer::builder().certificate_pem(certificate, one.key.as_bytes()).build().unwrap_err().to_string()
    };
    assert!(error(one.key.as_bytes()).starts_with("certificate has no certificate in it; "));
    assert!(
        error(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
            .starts_with("certificate has a certificate that cannot be read: ")
    );
    assert!(
        error(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")
            .starts_with("certificate is not PEM as it should be: ")
    );
    // Out of date is worth a warning only.
    let key = KeyPair::generate().unwrap();
    let expired = authority.issue_with(&["a.example"], |it| it.not_after = date_time_ymd(2020, 1, 1), &key);
    assert!(expired.server().build().is_ok());
}

#[test]
fn settings_that_contradict_each_other_are_told() {
    let authority = Authority::new("root");
    let (roots, pem) = (authority.pem(), authority.issue(&["a.example"]));
    let list = authority.revoke(&[], 4000).pem().unwrap();
    let server = |change: &dyn Fn(TlsServerBuilder) -> TlsServerBuilder| {
        change(pem.server()).build().unwrap_err().to_string()
    };
    assert_eq!(
        TlsServer::builder().build().unwrap_err().to_string(),
        "TLS configuration of a server needs a certificate"
    );
    assert!(
        server(&|it| it.client_certificates(ClientCertificates::Optional))
            .starts_with("roots of client certificates are needed")
    );
    assert!(
        server(&|it| it.crl_pem(list.as_bytes())).contains("a revocation list, but clients are not asked")
    );
    assert!(server(&|it| it.also_verify(|_, _| Ok(()))).contains("also_verify"));
    let none = ClientCertificates::None;
    assert!(
        server(&|it| it.client_roots_pem(roots.as_bytes()).client_certificates(none))
            .contains("are not asked")
    );
    assert!(server(&|it| it.handshake_timeout(Duration::ZERO)).contains("handshake_timeout of 0ns"));
    assert!(server(&|it| it.max_handshakes(0)).contains("max_handshakes of 0"));
    assert_eq!(server(&|it| it.alpn([""])), "ALPN list has a protocol of 0 bytes; it has to be 1 to 255");
    assert!(
        server(&|it| it.client_roots_pem(b"garbage"))
            .starts_with("roots of client certificates has no certificate in it")
    );
    assert!(
        server(&|it| it.client_roots_pem(roots.as_bytes()).crl_pem(b"garbage"))
            .starts_with("revocation list has no revocation list in it")
    );
    assert!(
        server(&|it| it.client_roots_pem(roots.as_bytes()).crl_pem(&[0x30, 0x82, 0, 0]))
            .contains("cannot be read")
    );
    let early = TlsServer::builder().chain_pem(roots.as_bytes()).build().unwrap_err().to_string();
    assert!(early.contains("before the first certificate"), "{early}");

    let client = |builder: TlsClientBuilder| builder.build().unwrap_err().to_string();
    assert!(client(TlsClient::builder().crl_pem(list.as_bytes())).contains("the system verifies without it"));
    assert!(
        client(authority.client().system_roots(true).crl_pem(list.as_bytes()))
            .contains("the system verifies without it")
    );
    assert_eq!(
        client(TlsClient::builder().system_roots(false)),
        "roots are needed if the system's are not to be used"
    );
    assert!(client(authority.client().dangerous_accept_any_certificate()).contains("makes useless"));
    assert!(client(TlsClient::builder().roots_pem(b"")).starts_with("roots has no certificate in it"));
    assert!(
        client(authority.client().certificate_pem(pem.certificate.as_bytes(), b""))
            .starts_with("private key has no private key")
    );
    assert!(
        client(authority.client().handshake_timeout(Duration::from_secs(3601))).contains("handshake_timeout")
    );
}

#[test]
fn a_chain_can_stand_in_its_own_file() {
    let root = Authority::new("root");
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "between");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let between = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root.issuer).unwrap();
    let between = Authority { issuer: between, next_serial: AtomicUsize::new(1) };
    let pem = between.issue(&["a.example"]);
    let client = root.client().build().unwrap();
    let alone = pem.server().build().unwrap();
    assert_eq!(*shake(&alone, &client, "a.example").certificate_error(), CertificateError::UnknownIssuer);
    let folder = Folder::new();
    let whole = pem.server().chain_file(folder.write("chain", between.pem())).build().unwrap();
    assert_eq!(shake(&whole, &client, "a.example").client.unwrap().peer_certificates.len(), 2);
    let bundle = pem.certificate.clone() + &between.pem();
    let whole = TlsServer::builder().certificate_pem(bundle.as_bytes(), pem.key.as_bytes()).build().unwrap();
    assert!(shake(&whole, &client, "a.example").is_complete());
    // All in one file, in any order of key and certificates.
    let all = folder.write("all", pem.key.clone() + &bundle);
    assert!(shake(&TlsServer::from_pem_files(&all, &all).unwrap(), &client, "a.example").is_complete());
}

#[test]
fn configurations_are_shared_and_keep_their_secrets() {
    fn is_sent<T: Clone + Send + Sync + 'static>(_: &T) {}
    let authority = Authority::new("root");
    let pem = authority.issue(&["a.example"]);
    let server = pem.server().handshake_timeout(Duration::from_secs(3)).max_handshakes(7).build().unwrap();
    let client =
        authority.client().certificate_pem(pem.certificate.as_bytes(), pem.key.as_bytes()).build().unwrap();
    is_sent(&server);
    is_sent(&client);
    assert_eq!((server.handshake_timeout(), server.max_handshakes()), (Duration::from_secs(3), 7));
    assert_eq!(client.handshake_timeout(), Duration::from_secs(10));
    assert_eq!(server.clone(), server);
    assert_ne!(pem.server().build().unwrap(), server);
    assert_eq!(client.clone(), client);
    assert_ne!(TlsClient::new(), TlsClient::new());
    let shown = format!("{server:?} {client:?} {:?}", pem.server());
    assert!(shown.contains("TlsServer") && !shown.contains("PRIVATE") && shown.len() < 2000, "{shown}");
}

/// A generator of its own (xorshift): what is read has to end with an answer whatever it is given.
#[test]
fn damaged_files_are_read_or_refused() {
    let authority = Authority::new("root");
    let pem = authority.issue(&["a.example"]);
    let list = authority.revoke(&[1, 2], 4000).pem().unwrap();
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut damage = |text: &str| {
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..=next(3) {
            let at = next(bytes.len());
            match next(3) {
                0 => bytes[at] = b"A-=\n 0\xff"[next(7)],
                1 => bytes.truncate(at.max(1)),
                _ => drop(bytes.remove(at)),
            }
            if bytes.is_empty() {
                bytes.push(b'-');
            }
        }
        bytes
    };
    let mut refused = 0;
    for _ in 0..500 {
        let built = TlsServer::builder()
            .certificate_pem(&damage(&pem.certificate), pem.key.as_bytes())
            .client_roots_pem(&damage(&authority.pem()))
            .crl_pem(&damage(&list))
            .build();
        refused += usize::from(built.is_err());
        refused += usize::from(
            TlsServer::builder()
                .certificate_pem(pem.certificate.as_bytes(), &damage(&pem.key))
                .build()
                .is_err(),
        );
    }
    assert!(refused > 500, "{refused}");
}

/// Runs itself again, as the environment cannot be changed in a program with threads.
#[test]
fn secrets_are_logged_only_where_it_was_asked_for() {
    const WHO: &str = "TWISTOR_TEST_KEY_LOG";
    let authority = Authority::new("root");
    if let Ok(who) = std::env::var(WHO) {
        let server = authority.issue(&["a.example"]).server().key_log(who == "server").build().unwrap();
        let client = authority.client().key_log(who == "client").build().unwrap();
        assert!(shake(&server, &client, "a.example").is_complete());
        return;
    }
    let folder = Folder::new();
    for who in ["server", "client", "nobody"] {
        let path = folder.0.join(who);
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tls::handshake_tests::secrets_are_logged_only_where_it_was_asked_for"])
            .env("SSLKEYLOGFILE", &path)
            .env(WHO, who)
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{who}");
        let log = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(log.contains("CLIENT_TRAFFIC_SECRET_0"), who != "nobody", "{who}: {log}");
    }
}
