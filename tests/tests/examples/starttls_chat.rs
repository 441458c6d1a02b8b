//! `starttls_chat`.

use std::net::SocketAddr;
use std::process::Command;

use crate::support::{ANY_PORT, Client, Program, peer};

/// The server, where it listens, and the file of its certificate.
fn serve() -> (Program, SocketAddr, String) {
    let program = Program::start("starttls_chat", &[ANY_PORT]);
    let line = program.output.until("a self-signed certificate, in ");
    let (_, file) = line.split_once(", in ").expect("a file");
    let line = program.output.until("listening on ");
    let (_, address) = line.rsplit_once(' ').expect("an address");
    (program, address.parse().expect("an address"), file.to_owned())
}

#[test]
fn members_in_the_clear_and_with_tls_hear_each_other() {
    let (_server, address, file) = serve();
    let connect = format!("localhost:{}", address.port());
    let mut arguments = vec!["s_client", "-quiet", "-verify_return_error", "-verify_hostname", "localhost"];
    arguments.extend(["-CAfile", &file, "-starttls", "pop3", "-connect", &connect]);
    let Some(mut alice) = peer("openssl", &arguments) else { return };
    alice.output.until("* TLS 1.3, ");
    alice.say("alice");
    alice.output.until("* alice joined");
    let mut bob = Client::connect(address);
    bob.say("bob");
    alice.output.until("* bob joined");
    alice.say("a secret, as far as bob can keep it");
    bob.lines.until("<alice> a secret");
    bob.say("/who");
    bob.lines.until("* here: alice (with TLS), bob (in the clear)");
    alice.say("STARTTLS");
    alice.output.until("* this connection has TLS already");
    alice.say("/quit");
    bob.lines.until("* alice left (closed)");
}

#[test]
fn a_name_that_was_given_in_the_clear_is_forgotten() {
    let (server, address, file) = serve();
    let port = address.port().to_string();
    let arguments = ["--starttls", "--x509cafile", &file, "-p", &port, "localhost"];
    let Some(mut client) = peer("gnutls-cli", &arguments) else { return };
    client.output.until("+OK your nickname, or STARTTLS?");
    client.say("mallory");
    client.output.until("* mallory joined");
    client.say("STARTTLS");
    client.output.until("+OK begin with TLS now");
    server.output.until("* mallory left (to come back with TLS)");
    // What Ctrl-D would do at a terminal.
    let begin = Command::new("kill").args(["-ALRM", &client.child.id().to_string()]).status();
    assert!(begin.expect("kill").success());
    client.output.until("* TLS 1.3, ");
    client.say("/who");
    assert_eq!(client.output.next().as_deref(), Some("* here: "));
    client.say("alice");
    client.output.until("* alice joined");
}

#[test]
fn what_stands_behind_the_request_is_refused() {
    let (server, address, _file) = serve();
    let mut client = Client::connect(address);
    client.say("STARTTLS\r\nmallory\r\nI never said this");
    server.output.until("TLS: plain text came behind the request to begin with TLS");
    // Nothing of it was taken for a name or a message.
    let mut bob = Client::connect(address);
    bob.say("bob");
    assert_eq!(server.output.next().as_deref(), Some("starttls_chat: * bob joined"));
}
