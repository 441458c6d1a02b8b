//! Endpoint strings of the kinds `ssl` and `tls`, with `ssl6` and `tls6`: TLS on TCP. What is not TCP's goes
//! to the builder method of its name.
//!
//! Files are read here, so that what is wrong with one is told with the column of its name. No keyword makes
//! the verification of a server weaker.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use rustls::pki_types::ServerName;

use super::ConnectEndpoint;
use super::error::EndpointError;
use super::limits::Limit;
use super::parse::{EndpointString, Fields, Form, Word};
use super::tcp::TcpListen;
use super::tcp_string;
use super::tls::{self, TlsConnect, TlsListen};
use crate::tls::{ClientCertificates, Part, TlsClient, TlsConfigError, TlsServer, TlsVersion};

const LISTEN_KEYWORDS: [&str; 13] = [
    "certificate",
    "key",
    "chain",
    "strict_sni",
    "alpn",
    "client_ca",
    "client_certificates",
    "crl",
    "min_version",
    "session_tickets",
    "handshake_timeout",
    "max_handshakes",
    "key_log",
];

const CONNECT_KEYWORDS: [&str; 11] = [
    "name",
    "roots",
    "system_roots",
    "certificate",
    "key",
    "chain",
    "alpn",
    "crl",
    "min_version",
    "handshake_timeout",
    "key_log",
];

const ALL_LISTEN_KEYWORDS: [&str; 25] = joined(&LISTEN_KEYWORDS, &tcp_string::LISTEN_KEYWORDS);
const ALL_CONNECT_KEYWORDS: [&str; 18] = joined(&CONNECT_KEYWORDS, &tcp_string::CONNECT_KEYWORDS);

const LISTEN: Form =
    Form { args: &["port"], keywords: &ALL_LISTEN_KEYWORDS, example: "ssl:443:certificate=server.pem" };

const CONNECT: Form =
    Form { args: &["host", "port"], keywords: &ALL_CONNECT_KEYWORDS, example: "tls:example.org:443" };

const HANDSHAKE_TIMEOUT: Limit<Duration> =
    Limit { min: Duration::from_nanos(1), max: Duration::from_secs(3600), advice: "10 suits most" };

/// Each takes memory; millions of strangers are an attack.
const MAX_HANDSHAKES: Limit<usize> = Limit { min: 1, max: 1_000_000, advice: "10000 suits most servers" };

const fn joined<const N: usize>(first: &[&'static str], second: &[&'static str]) -> [&'static str; N] {
    assert!(first.len() + second.len() == N, "the length is the sum");
    let mut all = [""; N];
    let mut at = 0;
    while at < N {
        all[at] = if at < first.len() { first[at] } else { second[at - first.len()] };
        at += 1;
    }
    all
}

/// `ssl:PORT:certificate=FILE`.
pub(super) fn listen(endpoint: EndpointString<'_>) -> Result<TlsListen, EndpointError> {
    let is_v6 = endpoint.kind().ends_with('6');
    let v4_kind = endpoint.kind().trim_end_matches('6').to_owned();
    let any = if is_v6 { (Ipv6Addr::UNSPECIFIED, 0).into() } else { (Ipv4Addr::UNSPECIFIED, 0).into() };
    let (address, mut fields) = tcp_string::listen_address(endpoint, &LISTEN, any, &v4_kind)?;
    let tcp = tcp_string::listen_options(TcpListen::on(address), &mut fields)?;
    let server = server(&mut fields)?;
    TlsListen::new(tcp, server)
}

/// `tls:HOST:PORT`.
pub(super) fn connect(endpoint: EndpointString<'_>) -> Result<TlsConnect, EndpointError> {
    let mut fields = endpoint.into_fields(&CONNECT)?;
    let name: Option<ServerName<'static>> = fields.read("name", tls::server_name)?;
    // As it stands in the string, for the error about the name in it.
    let host = fields.peek("host").cloned();
    let tcp = tcp_string::connect_fields(&mut fields)?;
    let name = match (name, host) {
        (Some(name), _) => name,
        (None, host) => tls::server_name_of(&tcp).map_err(|complaint| {
            let host = host.map(|word| word.to_string()).unwrap_or_default();
            fields.error(format!(
                "host {host} {complaint}; if its certificate has another name, give it: name=NAME"
            ))
        })?,
    };
    let client = client(&mut fields)?;
    TlsConnect::new(ConnectEndpoint::Tcp(tcp), client, name)
}

fn server(fields: &mut Fields<'_>) -> Result<TlsServer, EndpointError> {
    let files = Files::take(fields, &["certificate", "key", "chain", "client_ca", "crl"]);
    let certificate = fields.required("certificate", files.path("certificate"))?;
    let key = files.path("key").unwrap_or(certificate);
    let mut builder = TlsServer::builder().certificate_files(certificate, key);
    if let Some(chain) = files.path("chain") {
        builder = builder.chain_file(chain);
    }
    if let Some(roots) = files.path("client_ca") {
        builder = builder.client_roots_file(roots);
    }
    if let Some(list) = files.path("crl") {
        builder = builder.crl_file(list);
    }
    if let Some(on) = fields.yes_no("strict_sni")? {
        builder = builder.strict_sni(on);
    }
    if let Some(protocols) = fields.read("alpn", alpn)? {
        builder = builder.alpn(protocols);
    }
    if let Some(which) = fields.read("client_certificates", client_certificates)? {
        builder = builder.client_certificates(which);
    }
    if let Some(version) = fields.read("min_version", version)? {
        builder = builder.min_version(version);
    }
    if let Some(on) = fields.yes_no("session_tickets")? {
        builder = builder.session_tickets(on);
    }
    if let Some(time) = fields.seconds("handshake_timeout", &HANDSHAKE_TIMEOUT)? {
        builder = builder.handshake_timeout(time);
    }
    if let Some(handshakes) = fields.number("max_handshakes", &MAX_HANDSHAKES)? {
        builder = builder.max_handshakes(handshakes);
    }
    if let Some(on) = fields.yes_no("key_log")? {
        builder = builder.key_log(on);
    }
    builder.build().map_err(|error| files.complain(fields, &error))
}

fn client(fields: &mut Fields<'_>) -> Result<TlsClient, EndpointError> {
    let files = Files::take(fields, &["roots", "certificate", "key", "chain", "crl"]);
    let mut builder = TlsClient::builder();
    if let Some(roots) = files.path("roots") {
        builder = builder.roots_file(roots);
    }
    if let Some(on) = fields.yes_no("system_roots")? {
        builder = builder.system_roots(on);
    }
    if let Some(certificate) = files.path("certificate") {
        builder = builder.certificate_files(certificate, files.path("key").unwrap_or(certificate));
    } else if let Some((name, word)) = files.first_of(&["key", "chain"]) {
        return Err(fields.error(format!("{name} {word} needs a certificate beside it: certificate=FILE")));
    }
    if let Some(chain) = files.path("chain") {
        builder = builder.chain_file(chain);
    }
    if let Some(list) = files.path("crl") {
        builder = builder.crl_file(list);
    }
    if let Some(protocols) = fields.read("alpn", alpn)? {
        builder = builder.alpn(protocols);
    }
    if let Some(version) = fields.read("min_version", version)? {
        builder = builder.min_version(version);
    }
    if let Some(time) = fields.seconds("handshake_timeout", &HANDSHAKE_TIMEOUT)? {
        builder = builder.handshake_timeout(time);
    }
    if let Some(on) = fields.yes_no("key_log")? {
        builder = builder.key_log(on);
    }
    builder.build().map_err(|error| files.complain(fields, &error))
}

/// The names of files, with their places.
struct Files {
    words: Vec<(&'static str, Word)>,
}

impl Files {
    fn take(fields: &mut Fields<'_>, keywords: &[&'static str]) -> Self {
        let words = keywords.iter().filter_map(|name| Some((*name, fields.word(name)?))).collect();
        Self { words }
    }

    fn path(&self, keyword: &str) -> Option<&str> {
        self.words.iter().find(|(name, _)| *name == keyword).map(|(_, word)| &*word.text)
    }

    fn first_of(&self, keywords: &[&str]) -> Option<&(&'static str, Word)> {
        self.words.iter().find(|(name, _)| keywords.contains(name))
    }

    /// The error of a configuration, at the place in the string that it is about.
    fn complain(&self, fields: &Fields<'_>, error: &TlsConfigError) -> EndpointError {
        let word = error.part().keyword().and_then(|keyword| self.first_of(&[keyword]));
        // The key is in the file of the certificate if nothing else is said.
        let in_certificate =
            || (error.part() == Part::Key).then(|| self.first_of(&["certificate"])).flatten();
        match word.or_else(in_certificate) {
            Some((name, word)) => fields.error(format!("{name} {word} {}", error.complaint())),
            None => fields.error(error),
        }
    }
}

/// Names of registered protocols are printable ASCII; a space after a comma is a mistake.
fn alpn(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let is_right =
        |name: &str| (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    if !text.split(',').all(is_right) {
        return Err("is not a list of names of protocols with only commas between, as h2,http/1.1".to_owned());
    }
    Ok(text.split(',').map(|name| name.as_bytes().to_vec()).collect())
}

fn client_certificates(text: &str) -> Result<ClientCertificates, String> {
    match text {
        "none" => Ok(ClientCertificates::None),
        "optional" => Ok(ClientCertificates::Optional),
        "required" => Ok(ClientCertificates::Required),
        _ => Err("is neither none, optional nor required".to_owned()),
    }
}

fn version(text: &str) -> Result<TlsVersion, String> {
    match text {
        "1.2" => Ok(TlsVersion::Tls12),
        "1.3" => Ok(TlsVersion::Tls13),
        _ => Err("is neither 1.2 nor 1.3".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::{IntoConnectEndpoint, IntoListenEndpoint, KeepAlive, ListenEndpoint, TcpConnect};
    use super::*;

    /// Files of a self-signed certificate and its key, which go with the test.
    struct Files {
        folder: PathBuf,
        both: String,
        certificate: String,
        key: String,
    }

    impl Files {
        fn new() -> Self {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let name = format!("twistor-ssl-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let folder = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            let made = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
            let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
            let write = |name: &str, text: &str| {
                let path = folder.join(name);
                std::fs::write(&path, text).unwrap();
                // Windows has colons and backslashes in its paths.
                path.to_str().unwrap().replace('\\', r"\\").replace(':', r"\:")
            };
            let both = write("both.pem", &(key.clone() + &certificate));
            Self { both, certificate: write("crt.pem", &certificate), key: write("key.pem", &key), folder }
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    fn listen(source: &str) -> TlsListen {
        match source.parse() {
            Ok(ListenEndpoint::Tls(tls)) => tls,
            other => panic!("{other:?}"),
        }
    }

    fn connect(source: &str) -> TlsConnect {
        match source.parse() {
            Ok(ConnectEndpoint::Tls(tls)) => tls,
            other => panic!("{other:?}"),
        }
    }

    fn listen_error(source: &str) -> String {
        strip(source, &source.parse::<ListenEndpoint>().unwrap_err())
    }

    fn connect_error(source: &str) -> String {
        strip(source, &source.parse::<ConnectEndpoint>().unwrap_err())
    }

    fn strip(source: &str, error: &EndpointError) -> String {
        let error = error.to_string();
        let start = format!("bad endpoint \"{source}\": ");
        error.strip_prefix(&start).unwrap_or_else(|| panic!("{error}")).to_owned()
    }

    #[test]
    fn one_file_is_enough_to_listen() {
        let files = Files::new();
        for (kind, tcp) in [
            ("ssl", TcpListen::new(443)),
            ("tls", TcpListen::new(443)),
            ("ssl6", TcpListen::v6(443)),
            ("tls6", TcpListen::v6(443)),
        ] {
            let tls = listen(&format!("{kind}:443:certificate={}", files.both));
            assert_eq!(*tls.under(), ListenEndpoint::Tcp(tcp));
            assert_eq!(tls.server().handshake_timeout(), Duration::from_secs(10));
            assert_eq!(tls.server().max_handshakes(), 10_000);
        }
    }

    #[test]
    fn every_keyword_of_a_listener_reaches_its_option() {
        let files = Files::new();
        let tls = listen(&format!(
            "ssl:port=443:certificate={0}:key={1}:chain={0}:interface=127.0.0.1:backlog=9:keep_alive=yes:\
             strict_sni=yes:alpn=h2,http/1.1:client_ca={0}:client_certificates=optional:min_version=1.3:\
             session_tickets=no:handshake_timeout=2.5:max_handshakes=7:key_log=no",
            files.certificate, files.key
        ));
        let tcp = TcpListen::new(443).interface([127, 0, 0, 1]).backlog(9).keep_alive(KeepAlive::new());
        assert_eq!(*tls.under(), ListenEndpoint::Tcp(tcp));
        assert_eq!(tls.server().handshake_timeout(), Duration::from_millis(2500));
        assert_eq!(tls.server().max_handshakes(), 7);
        let shown = format!("{:?}", tls.server());
        assert!(shown.contains("client_certificates: Optional") && shown.contains("Tls13"), "{shown}");
    }

    #[test]
    fn every_keyword_of_a_client_reaches_its_option() {
        let files = Files::new();
        let tls = connect(&format!(
            "tls:[::1]:443:name=example.org:roots={0}:system_roots=no:certificate={0}:key={1}:chain={0}:\
             alpn=h2:min_version=1.3:handshake_timeout=1:key_log=no:timeout=5",
            files.certificate, files.key
        ));
        let tcp = TcpConnect::new((Ipv6Addr::LOCALHOST, 443).into()).timeout(Duration::from_secs(5));
        assert_eq!(*tls.under(), ConnectEndpoint::Tcp(tcp));
        assert_eq!(tls.name().to_str(), "example.org");
        assert_eq!(tls.client().handshake_timeout(), Duration::from_secs(1));
        let shown = format!("{:?}", tls.client());
        assert!(shown.contains("asks_system: false") && shown.contains("Tls13"), "{shown}");
    }

    #[test]
    fn no_keyword_is_ignored_and_none_is_dangerous() {
        let files = Files::new();
        // A value that none of them can have.
        let value = "\u{1F980}\0";
        for keyword in ALL_LISTEN_KEYWORDS {
            let certificate =
                if keyword == "certificate" { "" } else { &format!(":certificate={}", files.both) };
            let source = format!("ssl:1{certificate}:{keyword}={value}");
            assert!(source.parse::<ListenEndpoint>().is_err(), "the value of {keyword} is not looked at");
        }
        for keyword in ALL_CONNECT_KEYWORDS {
            let source = format!("tls:[::1]:1:{keyword}={value}");
            assert!(source.parse::<ConnectEndpoint>().is_err(), "the value of {keyword} is not looked at");
            assert!(!keyword.contains("verify") && !keyword.contains("dangerous"));
        }
    }

    #[test]
    fn the_host_is_what_the_server_has_to_prove() {
        let name = |source: &str| connect(source).name().to_str().into_owned();
        assert_eq!(name("tls:example.org:443"), "example.org");
        assert_eq!(name("ssl:host=example.org.:port=443"), "example.org");
        assert_eq!(name("tls:127.0.0.1:443"), "127.0.0.1");
        assert_eq!(name("tls:[fe80::1%3]:443"), "fe80::1");
        assert_eq!(name(r"tls:example.org:443:name=\:\:1"), "::1");
        assert_eq!(name("tls:bücher.example:443:name=xn--bcher-kva.example"), "xn--bcher-kva.example");
        assert_eq!("tls:example.org:443".into_connect_endpoint().unwrap().to_string(), "example.org:443");
        assert_eq!(
            connect_error("tls:bücher.example:443"),
            "host \"bücher.example\" (column 5) is not in ASCII; write the name as certificates have it (xn--…); \
             if its certificate has another name, give it: name=NAME"
        );
        assert_eq!(
            connect_error("tls:example.org:443:name=a b"),
            "name \"a b\" (column 26) is not a name that a certificate can have"
        );
    }

    #[test]
    fn what_is_wrong_with_a_listener_is_pointed_at() {
        let files = Files::new();
        let (certificate, key, both) = (&files.certificate, &files.key, &files.both);
        assert_eq!(
            listen_error("ssl:443"),
            r#"the certificate is missing; write something like "ssl:443:certificate=server.pem""#
        );
        let missing = listen_error("ssl:443:certificate=/nowhere/at/all");
        assert!(
            missing.starts_with(r#"certificate "/nowhere/at/all" (column 21) cannot be read: "#),
            "{missing}"
        );
        let no_key = listen_error(&format!("ssl:443:certificate={certificate}"));
        assert!(
            no_key.starts_with("certificate ") && no_key.contains("(column 21) has no private key in it; "),
            "{no_key}"
        );
        let other = Files::new();
        let mismatch = listen_error(&format!("ssl:443:key={}:certificate={certificate}", other.key));
        assert!(
            mismatch.starts_with("key ")
                && mismatch.contains("(column 13) does not belong to the certificate")
        );
        let no_certificate = listen_error(&format!("ssl:443:certificate={key}"));
        assert!(no_certificate.contains("(column 21) has no certificate in it; "), "{no_certificate}");
        let no_roots = listen_error(&format!("ssl:443:client_ca={key}:certificate={both}"));
        assert!(
            no_roots.starts_with("client_ca ") && no_roots.contains("(column 19) has no certificate in it; ")
        );
        let end = |what: &str| listen_error(&format!("ssl:443:{what}:certificate={both}"));
        assert_eq!(end("min_version=1.1"), r#"min_version "1.1" (column 21) is neither 1.2 nor 1.3"#);
        assert_eq!(
            end("client_certificates=yes"),
            r#"client_certificates "yes" (column 29) is neither none, optional nor required"#
        );
        assert_eq!(
            end("alpn=h2,"),
            r#"alpn "h2," (column 14) is not a list of names of protocols with only commas between, as h2,http/1.1"#
        );
        assert_eq!(
            end("handshake_timeout=0"),
            r#"handshake_timeout "0" (column 27) is not above 0 and at most 3600 seconds; 10 suits most"#
        );
        assert_eq!(
            end("client_certificates=required"),
            "roots of client certificates are needed to verify the certificates of clients that are asked for"
        );
        assert_eq!(
            listen_error("tls:127.0.0.1:443"),
            "\"127.0.0.1\" (column 5) is an address where the port is expected; \
             write \"tls:443:interface=127.0.0.1\""
        );
        assert_eq!(
            listen_error("ssl6:443:interface=127.0.0.1"),
            r#"interface "127.0.0.1" (column 20) is an IPv4 address; its kind is ssl"#
        );
        assert!(listen_error("ssl:443:verify=no").starts_with(r#"unknown keyword "verify" (column 9)"#));
    }

    #[test]
    fn what_is_wrong_with_a_client_is_pointed_at() {
        let files = Files::new();
        assert_eq!(
            connect_error("tls:example.org"),
            r#"the port is missing; write something like "tls:example.org:443""#
        );
        let missing = connect_error("tls:example.org:443:roots=/nowhere/at/all");
        assert!(missing.starts_with(r#"roots "/nowhere/at/all" (column 27) cannot be read: "#), "{missing}");
        assert_eq!(
            connect_error("tls:example.org:443:key=x"),
            r#"key "x" (column 25) needs a certificate beside it: certificate=FILE"#
        );
        let crl = connect_error("tls:example.org:443:crl=x");
        assert!(
            crl.starts_with(r#"crl "x" (column 25) is given, but the system verifies without it"#),
            "{crl}"
        );
        let crl =
            connect_error(&format!("tls:example.org:443:roots={}:crl={}", files.certificate, files.key));
        assert!(crl.starts_with("crl ") && crl.contains(") has no revocation list in it; "), "{crl}");
        assert!(
            connect_error("tls:example.org:443:verify=no")
                .starts_with(r#"unknown keyword "verify" (column 21)"#)
        );
        assert!(connect_error("tls6:example.org:443").starts_with(r#"unknown kind "tls6" (column 1)"#));
    }

    #[test]
    fn two_strings_are_two_configurations_and_a_clone_is_one() {
        let one = "tls:example.org:443".into_connect_endpoint().unwrap();
        assert_ne!(one, "tls:example.org:443".into_connect_endpoint().unwrap());
        assert_eq!(one, one.clone());
        let files = Files::new();
        let source = format!("ssl:443:certificate={}", files.both);
        let one = (&source).into_listen_endpoint().unwrap();
        assert_ne!(one, source.into_listen_endpoint().unwrap());
        assert_eq!(one, one.clone());
    }

    /// A generator of its own (xorshift): a string has to end with an answer whatever it is.
    #[test]
    fn any_string_is_read_or_refused() {
        let mut words: Vec<&str> = ALL_LISTEN_KEYWORDS.into_iter().chain(ALL_CONNECT_KEYWORDS).collect();
        words.extend([
            "yes",
            "1.3",
            "h2,",
            "none",
            "required",
            "443",
            "example.org",
            "::1",
            r"\:",
            "=",
            ":",
            "ä",
            "",
            "/",
        ]);
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        for _ in 0..5000 {
            let mut source = String::from("tls:443");
            for index in 0..6 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                source.push(if index % 2 == 0 { ':' } else { '=' });
                source.push_str(words[(state % words.len() as u64) as usize]);
            }
            for error in [source.parse::<ListenEndpoint>().err(), source.parse::<ConnectEndpoint>().err()] {
                let text = error.map(|error| error.to_string()).unwrap_or_default();
                assert!(text.is_empty() || text.starts_with("bad endpoint \"tls:443"), "{text}");
            }
        }
    }
}
