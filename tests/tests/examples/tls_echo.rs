//! `tls_echo`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::support::{OtherProgram, Program, peer};

const ANY_PORT: &str = "ssl:0:interface=127.0.0.1";

/// The server, where it listens, and the file of its certificate.
fn serve() -> (Program, SocketAddr, String) {
    let program = Program::start("tls_echo", &[ANY_PORT]);
    let line = program.output.until("a self-signed certificate, in ");
    let (_, file) = line.split_once(", in ").expect("a file");
    let address = listening(&program);
    (program, address, file.to_owned())
}

fn listening(program: &Program) -> SocketAddr {
    let line = program.output.until("listening on ");
    let (_, address) = line.rsplit_once(' ').expect("an address");
    address.parse().expect("an address")
}

/// `openssl s_client`, which verifies.
fn openssl(address: SocketAddr, more: &[&str]) -> Option<OtherProgram> {
    let address = address.to_string();
    let mut arguments =
        vec!["s_client", "-quiet", "-verify_return_error", "-verify_ip", "127.0.0.1", "-connect", &address];
    arguments.extend(more);
    peer("openssl", &arguments)
}

/// Makes a certificate and its key, in one file that is removed when the test is over.
struct Own(PathBuf);

impl Own {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let file = std::env::temp_dir().join(format!("twistor-tls-echo-{}.pem", std::process::id()));
        fs::write(&file, made.cert.pem() + &made.signing_key.serialize_pem()).expect("a file");
        Self(file)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path")
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn echoes_to_openssl_and_says_what_was_agreed_on() {
    let (mut server, address, file) = serve();
    for (option, version) in [("-tls1_3", "TLS 1.3"), ("-tls1_2", "TLS 1.2")] {
        let Some(mut client) = openssl(address, &["-CAfile", &file, option]) else { return };
        client.say("hello");
        assert_eq!(client.output.next().as_deref(), Some("hello"));
        let line = server.output.next().expect("a line");
        assert!(line.contains(version) && line.contains("AES_256_GCM_SHA384"), "{line}");
    }
    server.signal("-TERM");
    let served = server.output.until("tls_echo: 0 connections");
    assert!(served.contains("2 accepted"), "{served}");
    assert!(server.wait().success());
    assert_eq!(server.errors.rest(), [""; 0]);
    assert!(!Path::new(&file).exists());
}

#[test]
fn echoes_to_gnutls() {
    let (_server, address, file) = serve();
    let port = address.port().to_string();
    let Some(mut client) = peer("gnutls-cli", &["--x509cafile", &file, "-p", &port, "127.0.0.1"]) else {
        return;
    };
    client.output.until("Simple Client Mode");
    client.say("hello");
    client.output.until("hello");
    client.finish();
    assert!(client.succeeds());
}

#[test]
fn a_client_that_does_not_trust_it_is_told_so_and_hurts_nobody() {
    let (_server, address, file) = serve();
    let Some(mut stranger) = openssl(address, &[]) else { return };
    stranger.errors.until("verify error");
    assert!(!stranger.succeeds());
    let Some(mut client) = openssl(address, &["-CAfile", &file]) else { return };
    client.say("still there");
    assert_eq!(client.output.next().as_deref(), Some("still there"));
}

#[test]
fn shows_the_certificate_that_its_endpoint_names() {
    let own = Own::new();
    let endpoint = format!("{ANY_PORT}:certificate={}", own.path());
    let program = Program::start("tls_echo", &[endpoint]);
    // Nothing was made for it.
    let first = program.output.next().expect("a line");
    let (text, address) = first.rsplit_once(' ').expect("an address");
    assert_eq!(text, "tls_echo: listening on");
    let address = address.parse().expect("an address");
    let Some(mut client) = openssl(address, &["-CAfile", own.path()]) else { return };
    client.say("hello");
    assert_eq!(client.output.next().as_deref(), Some("hello"));
}

#[test]
fn names_the_file_that_is_missing() {
    let mut program = Program::start("tls_echo", &["ssl:0:certificate=missing.pem"]);
    program.errors.until("certificate \"missing.pem\" (column 19) cannot be read");
    assert!(!program.wait().success());
}
