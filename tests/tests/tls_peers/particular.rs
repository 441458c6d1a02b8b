//! What only one of the programs can do.

use std::process::Command;

use twistor::Eof;
use twistor::tls::{ClientCertificates, TlsVersion};
use twistor_tests::tls::NAME;
use twistor_tests::{Driver, Event, Log, Script, World};

use super::programs::{Wish, is_there, openssl_client, openssl_server};
use super::support::{BOTH, Files, Host, OTHER_NAME, Program, dial, echo, echo_of, end, free_port, text};

const MIB: usize = 1 << 20;

// OpenSSL.

#[test]
fn openssl_resumes_its_sessions() {
    if !is_there("openssl") {
        return;
    }
    for version in BOTH {
        let files = Files::new();
        let host = Host::new(files.server(|server| server), echo);
        let session = files.path("session.pem");
        for (option, is_resumed) in [("-sess_out", false), ("-sess_in", true)] {
            let mut command = openssl_client(&files, host.port(), Wish::new(version));
            command.args([option, &session]);
            let mut program = Program::start(command, None);
            program.say(b"hello\n");
            host.world.until("the echo comes", || program.has_said(b"hello\n"));
            drop(program.child.stdin.take());
            host.end(program).went_well();
            let info = host.info();
            assert_eq!((info.version, info.is_resumed), (version, is_resumed));
            assert_eq!(info.server_name.as_deref(), Some(NAME), "resumed: {is_resumed}");
        }
        host.ended_well();
    }
}

#[test]
fn a_session_keeps_who_the_client_is() {
    if !is_there("openssl") {
        return;
    }
    for version in BOTH {
        let files = Files::new();
        let server = files.server(|server| {
            server.client_certificates(ClientCertificates::Required).client_roots_file(files.path("ca.pem"))
        });
        let host = Host::new(server, echo);
        let session = files.path("session.pem");
        for (option, shows) in [("-sess_out", Some("client")), ("-sess_in", None)] {
            let mut command = openssl_client(&files, host.port(), Wish { shows, ..Wish::new(version) });
            command.args([option, &session]);
            let mut program = Program::start(command, None);
            program.say(b"hello\n");
            host.world.until("the echo comes", || program.has_said(b"hello\n"));
            drop(program.child.stdin.take());
            host.end(program).went_well();
            assert_eq!(host.info().peer_dns_names(), ["somebody"]);
        }
        assert!(host.info().is_resumed);
        host.ended_well();
    }
}

#[test]
fn early_data_is_not_taken() {
    if !is_there("openssl") {
        return;
    }
    let files = Files::new();
    files.write("early", "early data\n");
    // Tickets of one who takes early data, as a man in the middle might hand them out.
    let port = free_port();
    let mut command = openssl_server(&files, port, Wish::new(TlsVersion::Tls13));
    command.args(["-quiet", "-max_early_data", "1000"]);
    let mut theirs = Program::start(command, None);
    let session = files.path("session.pem");
    let world = World::new(Driver::Direct);
    let deadline = std::time::Instant::now() + twistor_tests::PATIENCE;
    loop {
        let mut command = openssl_client(&files, port, Wish::new(TlsVersion::Tls13));
        command.args(["-sess_out", &session]);
        let mut program = Program::start(command, None);
        let _ = std::io::Write::write_all(program.child.stdin.as_mut().unwrap(), b"hello\n");
        theirs.say(b"hello\n");
        world.run_for(std::time::Duration::from_millis(100));
        drop(program.child.stdin.take());
        if end(&world, program).status.success() {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "no session comes about");
    }
    let host = Host::new(files.server(|server| server), echo);
    let mut command = openssl_client(&files, host.port(), Wish::new(TlsVersion::Tls13));
    command.args(["-sess_in", &session, "-early_data", &files.path("early")]);
    let mut program = Program::start(command, None);
    program.say(b"hello\n");
    host.world.until("the echo comes", || program.has_said(b"hello\n"));
    assert!(program.has_said(b"Early data was rejected"));
    drop(program.child.stdin.take());
    host.end(program).went_well();
    assert_eq!(host.log.data(), b"hello\n");
    host.ended_well();
}

#[test]
fn openssl_cannot_renegotiate() {
    if !is_there("openssl") {
        return;
    }
    let files = Files::new();
    let host = Host::new(files.server(|server| server), echo);
    let mut program = Program::start(openssl_client(&files, host.port(), Wish::new(TlsVersion::Tls12)), None);
    program.say(b"hello\n");
    host.world.until("the echo comes", || program.has_said(b"hello\n"));
    program.say(b"R\n");
    let ended = host.end(program);
    assert!(ended.errors.contains("RENEGOTIATING"));
    assert!(ended.errors.contains("no renegotiation"), "{}", ended.errors);
    host.world.until("the connection ends", || host.log.lost().is_some());
    assert_eq!(host.log.data(), b"hello\n");
    assert_eq!(host.infos.borrow().len(), 1);
}

#[test]
fn openssl_changes_its_keys_and_has_us_change_ours() {
    if !is_there("openssl") {
        return;
    }
    let files = Files::new();
    let host = Host::new(files.server(|server| server), echo);
    let mut program = Program::start(openssl_client(&files, host.port(), Wish::new(TlsVersion::Tls13)), None);
    for (changes, (request, word)) in
        [("k\n", "first\n"), ("K\n", "second\n"), ("K\n", "third\n")].into_iter().enumerate()
    {
        // A command is one only if it comes alone.
        program.say(request.as_bytes());
        host.world.until("the keys are changed", || program.errors().matches("KEYUPDATE").count() > changes);
        program.say(word.as_bytes());
        host.world.until("the echo comes", || program.has_said(word.as_bytes()));
    }
    assert_eq!(host.log.data(), b"first\nsecond\nthird\n");
    drop(program.child.stdin.take());
    host.end(program).went_well();
    host.ended_well();
}

#[test]
// Line 57.
fn openssl_cannot_speak_an_older_version() {
    if !is_there("openssl") {
        return;
    }
    let files = Files::new();
    for version in ["-tls1", "-tls1_1"] {
        let host = Host::new(files.server(|server| server), echo);
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &format!("127.0.0.1:{}", host.port()), version]);
        command.args(["-cipher", "ALL:@SECLEVEL=0"]);
        let ended = host.run(command, b"hello\n");
        ended.went_wrong();
        assert!(ended.errors.contains(" alert "), "{}", ended.errors);
        host.refused_all();
    }
    let host = Host::new(files.server(|server| server.min_version(TlsVersion::Tls13)), echo);
    host.run(openssl_client(&files, host.port(), Wish::new(TlsVersion::Tls12)), b"hello\n").went_wrong();
    host.refused_all();
}

#[test]
// Line 56.
fn openssl_hangs_up_and_we_do_not_take_that_for_an_end() {
    if !is_there("openssl") {
        return;
    }
    for version in BOTH {
        let (files, world, port) = (Files::new(), World::new(Driver::Direct), free_port());
        let mut command = openssl_server(&files, port, Wish::new(version));
        command.args(["-naccept", "1"]);
        let mut program = Program::start(command, None);
        let client = files.client(|client| client);
        let dialled = dial(&world, &client, port, NAME, Script::new).unwrap();
        program.say(b"hello\n");
        world.until("their word comes", || dialled.log.data() == b"hello\n");
        program.say(b"q\n");
        world.until("the connection ends", || dialled.log.lost().is_some());
        let _ = end(&world, program);
        // It closes its socket, and says nothing in TLS.
        let lost = dialled.log.lost().unwrap();
        assert!(lost.contains("cut off") || lost == "connection reset by the peer", "{lost}");
        assert!(!dialled.log.has(&Event::Eof));
    }
}

#[test]
fn openssl_serves_a_page() {
    if !is_there("openssl") {
        return;
    }
    for version in BOTH {
        let (files, world, port) = (Files::new(), World::new(Driver::Direct), free_port());
        let mut command = openssl_server(&files, port, Wish::new(version));
        command.arg("-www");
        let program = Program::start(command, None);
        let client = files.client(|client| client);
        let get =
            |log: &Log| Script::new(log).on_made(|transport| transport.write(b"GET / HTTP/1.0\r\n\r\n"));
        let dialled = dial(&world, &client, port, NAME, get).unwrap();
        world.until("the connection ends", || dialled.log.lost().is_some());
        let page = String::from_utf8(dialled.log.data()).unwrap();
        assert!(page.starts_with("HTTP/1.0 200 ok\r\n"), "{page}");
        assert!(page.contains("s_server -accept"), "{page}");
        assert_eq!(dialled.log.lost().unwrap(), "closed");
        assert!(dialled.log.has(&Event::Eof));
        drop(program);
    }
}

#[test]
// Line 57.
fn a_revoked_certificate_of_openssl_is_refused() {
    if !is_there("openssl") {
        return;
    }
    for version in BOTH {
        let (files, world, port) = (Files::new(), World::new(Driver::Direct), free_port());
        let revoked = rcgen::SerialNumber::from(77_u64);
        let bad = files.authority.issue(&[NAME], |params| params.serial_number = Some(revoked.clone()));
        files.write("server.pem", &bad.chain_pem);
        files.write("server.key", &bad.key_pem);
        let program = Program::start(openssl_server(&files, port, Wish::new(version)), None);
        let list = files.authority.revoke(&[revoked]);
        let client = files.client(|client| client.crl_pem(list.as_bytes()));
        let error = dial(&world, &client, port, NAME, Script::new).err().unwrap();
        assert!(error.contains("Revoked"), "{error}");
        drop(program);
    }
}

// GnuTLS.

#[test]
fn gnutls_resumes_its_sessions() {
    if !is_there("gnutls-cli") {
        return;
    }
    for version in BOTH {
        let files = Files::new();
        let host = Host::new(files.server(|server| server), echo);
        let mut command = super::programs::Tool::GnuTls.client(&files, host.port(), Wish::new(version));
        command.args(["--resume", "--waitresumption"]);
        let mut program = Program::start(command, None);
        program.say(b"hello\n");
        host.world.until("the echo comes", || program.has_said(b"hello\n"));
        drop(program.child.stdin.take());
        host.end(program).went_well();
        let resumed: Vec<bool> = host.infos.borrow().iter().map(|info| info.is_resumed).collect();
        assert_eq!(resumed, [false, true], "{version}");
        host.ended_well();
    }
}

// curl.

/// Answers a request of HTTP with its own body and ends the connection.
fn http(log: &Log) -> Script {
    let mut request = Vec::new();
    Script::new(log).on_data(move |transport, data| {
        request.extend(data);
        let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else { return };
        let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        let body = &request[end + 4..];
        if head.contains("expect: 100-continue") && body.is_empty() {
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if body.len() == length {
            // Its end is that of the connection: a cut would be an error of curl's.
            transport.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            transport.write(body);
            transport.lose_connection();
        }
    })
}

fn curl(files: &Files, host: &Host, name: &str, version: TlsVersion) -> Command {
    let mut command = Command::new("curl");
    let port = host.port();
    command.args(["--silent", "--show-error", "--fail", "--http1.1", "--max-time", "20", "--noproxy", "*"]);
    command.args(["--cacert", &files.path("ca.pem"), "--resolve", &format!("{name}:{port}:127.0.0.1")]);
    match version {
        TlsVersion::Tls12 => command.args(["--tlsv1.2", "--tls-max", "1.2"]),
        _ => command.args(["--tlsv1.3"]),
    };
    command.arg(format!("https://{name}:{port}/"));
    command
}

#[test]
fn curl_posts_a_mebibyte_and_gets_it_back() {
    if !is_there("curl") {
        return;
    }
    for version in BOTH {
        let files = Files::new();
        let server = files.server(|server| {
            let roots = files.path("ca.pem");
            server
                .alpn(["http/1.1"])
                .client_certificates(ClientCertificates::Optional)
                .client_roots_file(roots)
        });
        let host = Host::new(server, http);
        let data = text(MIB);
        for (name, certificate) in [(NAME, None), (OTHER_NAME, Some("client"))] {
            let mut command = curl(&files, &host, name, version);
            command.args(["--data-binary", "@-"]);
            if let Some(certificate) = certificate {
                command.args(["--cert", &files.path(&format!("{certificate}.pem"))]);
                command.args(["--key", &files.path(&format!("{certificate}.key"))]);
            }
            let ended = host.run(command, &data);
            ended.went_well();
            assert!(ended.output == data, "{} bytes came back", ended.output.len());
            let info = host.info();
            assert_eq!((info.version, info.alpn_text()), (version, Some("http/1.1")));
            assert_eq!(info.server_name.as_deref(), Some(name));
            assert_eq!(info.peer_certificate().is_some(), certificate.is_some());
        }
        host.ended_well();
    }
}

#[test]
// Line 57.
fn curl_does_not_talk_to_one_it_cannot_verify() {
    if !is_there("curl") {
        return;
    }
    let files = Files::new();
    let host = Host::new(files.server(|server| server), http);
    let ended = host.run(curl(&files, &host, "unknown.example", TlsVersion::Tls13), b"");
    assert_eq!(ended.status.code(), Some(60), "{}", ended.errors);
    assert_eq!(host.log.data(), b"");
    // And we say so when it is the other way round.
    let host = Host::new(
        files.server(|server| {
            server.client_certificates(ClientCertificates::Required).client_roots_file(files.path("ca.pem"))
        }),
        http,
    );
    let ended = host.run(curl(&files, &host, NAME, TlsVersion::Tls13), b"");
    assert!(ended.errors.contains("certificate required"), "{}", ended.errors);
    host.refused_all();
}

// Python.

/// The beginning of all scripts: a context of this version that trusts our authority.
const CONTEXT: &str = r"
import hashlib, socket, ssl, sys
port, version, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
def context(role):
    context = ssl.SSLContext(role)
    context.minimum_version = context.maximum_version = (
        ssl.TLSVersion.TLSv1_2 if version == 'TLS 1.2' else ssl.TLSVersion.TLSv1_3)
    context.load_verify_locations(folder + 'ca.pem')
    return context
def connect(context, session=None):
    plain = socket.create_connection(('127.0.0.1', port), timeout=20)
    return context.wrap_socket(plain, server_hostname='localhost', suppress_ragged_eofs=False, session=session)
def accept(context):
    listener = socket.socket()
    listener.bind(('127.0.0.1', port))
    listener.listen()
    plain = listener.accept()[0]
    plain.settimeout(20)
    return context.wrap_socket(plain, server_side=True, suppress_ragged_eofs=False)
def read_all(stream):
    data = b''
    while part := stream.read(65536):
        data += part
    return data
";

fn python(files: &Files, port: u16, version: TlsVersion, script: &str) -> Command {
    let mut command = Command::new("python3");
    command.args([
        "-c",
        &format!("{CONTEXT}\n{script}"),
        &port.to_string(),
        &version.to_string(),
        &files.path(""),
    ]);
    command
}

#[test]
// Line 56.
fn python_sees_a_clean_end_and_we_see_its() {
    if !is_there("python3") {
        return;
    }
    for version in BOTH {
        let files = Files::new();
        let host = Host::new(files.server(|server| server), echo);
        let ended = host.run(
            python(
                &files,
                host.port(),
                version,
                r"
stream = connect(context(ssl.PROTOCOL_TLS_CLIENT))
assert stream.version() == version.replace(' ', 'v'), stream.version()
data = bytes(range(256)) * 4096
import threading
threading.Thread(target=stream.sendall, args=(data,), daemon=True).start()
back = b''
while len(back) < len(data):
    back += stream.recv(65536)
print(hashlib.sha256(back).hexdigest() == hashlib.sha256(data).hexdigest())
# Waits for the other's end; one that is not announced is an error.
plain = stream.unwrap()
assert plain.recv(10) == b''
print('ended')
",
            ),
            b"",
        );
        ended.went_well();
        assert_eq!(ended.text(), "True\nended\n");
        assert_eq!(host.log.data().len(), MIB);
        assert!(host.log.has(&Event::Eof));
        host.ended_well();
    }
}

#[test]
// Line 56.
fn python_notices_when_we_do_not_end_in_good_order() {
    if !is_there("python3") {
        return;
    }
    for version in BOTH {
        let files = Files::new();
        let host = Host::new(files.server(|server| server), |log| {
            Script::new(log).on_data(|transport, data| {
                transport.write(data);
                transport.abort_connection();
            })
        });
        let script =
            "stream = connect(context(ssl.PROTOCOL_TLS_CLIENT))\nstream.sendall(b'!')\nread_all(stream)\n";
        host.run(python(&files, host.port(), version, script), b"").went_wrong();
    }
}

#[test]
// Lines 26 and 54.
fn python_ends_its_direction_and_hears_what_we_say_behind_that() {
    if !is_there("python3") {
        return;
    }
    for version in BOTH {
        let files = Files::new();
        let host = Host::new(files.server(|server| server), |log| {
            Script::new(log).on_eof(|transport| {
                transport.write(&text(MIB));
                transport.lose_write_connection();
                Eof::KeepOpen
            })
        });
        let script = r"
settings = context(ssl.PROTOCOL_TLS_CLIENT)
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
plain = socket.create_connection(('127.0.0.1', port), timeout=20)
stream = settings.wrap_bio(incoming, outgoing, server_hostname='localhost')
def step(action, *arguments):
    while True:
        try:
            return action(*arguments)
        except ssl.SSLWantReadError:
            plain.sendall(outgoing.read())
            data = plain.recv(65536)
            if data:
                incoming.write(data)
            else:
                incoming.write_eof()
step(stream.do_handshake)
stream.write(b'a question')
try:
    stream.unwrap()
except ssl.SSLWantReadError:
    pass
plain.sendall(outgoing.read())
data = b''
try:
    while part := step(stream.read, 65536):
        data += part
except ssl.SSLZeroReturnError:
    pass
print(len(data))
";
        let ended = host.run(python(&files, host.port(), version, script), b"");
        ended.went_well();
        assert_eq!(ended.text(), format!("{MIB}\n"));
        assert_eq!(host.log.data(), b"a question");
        host.ended_well();
    }
}

#[test]
// Lines 26 and 54.
fn we_end_our_direction_and_hear_what_python_says_behind_that() {
    if !is_there("python3") {
        return;
    }
    for version in BOTH {
        let (files, world, port) = (Files::new(), World::new(Driver::Direct), free_port());
        let script = r"
settings = context(ssl.PROTOCOL_TLS_SERVER)
settings.load_cert_chain(folder + 'server.pem', folder + 'server.key')
stream = accept(settings)
question = read_all(stream)
print(question)
stream.sendall(b'x' * 1048576)
stream.unwrap()
print('ended')
";
        let program = Program::start(python(&files, port, version, script), None);
        let client = files.client(|client| client);
        let ask = |log: &Log| {
            Script::new(log).on_made(|transport| {
                transport.write(b"a question");
                transport.lose_write_connection();
            })
        };
        let dialled = dial(&world, &client, port, NAME, ask).unwrap();
        world.until("the connection ends", || dialled.log.lost().is_some());
        let ended = end(&world, program);
        ended.went_well();
        assert_eq!(ended.text(), "b'a question'\nended\n");
        assert_eq!(dialled.log.data(), vec![b'x'; MIB]);
        assert!(dialled.log.has(&Event::Eof));
        assert_eq!(dialled.log.lost().unwrap(), "closed");
    }
}

#[test]
fn python_resumes_its_sessions() {
    if !is_there("python3") {
        return;
    }
    for version in BOTH {
        let files = Files::new();
        let host = Host::new(files.server(|server| server), echo_of(1));
        let script = r"
settings = context(ssl.PROTOCOL_TLS_CLIENT)
session = None
for _ in range(3):
    stream = connect(settings, session)
    stream.sendall(b'!')
    read_all(stream)
    print(stream.session_reused)
    session = stream.session
    stream.close()
";
        let ended = host.run(python(&files, host.port(), version, script), b"");
        ended.went_well();
        assert_eq!(ended.text(), "False\nTrue\nTrue\n", "{version}");
        let resumed: Vec<bool> = host.infos.borrow().iter().map(|info| info.is_resumed).collect();
        assert_eq!(resumed, [false, true, true]);
    }
}

#[test]
fn we_resume_sessions_with_python() {
    if !is_there("python3") {
        return;
    }
    for version in BOTH {
        let (files, world, port) = (Files::new(), World::new(Driver::Direct), free_port());
        let script = r"
settings = context(ssl.PROTOCOL_TLS_SERVER)
settings.load_cert_chain(folder + 'server.pem', folder + 'server.key')
listener = socket.socket()
listener.bind(('127.0.0.1', port))
listener.listen()
for _ in range(3):
    stream = settings.wrap_socket(listener.accept()[0], server_side=True, suppress_ragged_eofs=False)
    stream.sendall(stream.recv(10))
    read_all(stream)
    print(stream.session_reused)
    stream.unwrap()
    stream.close()
";
        let program = Program::start(python(&files, port, version, script), None);
        let client = files.client(|client| client);
        let mut resumed = Vec::new();
        for _ in 0..3 {
            let ask = |log: &Log| Script::new(log).on_made(|transport| transport.write(b"!"));
            let dialled = dial(&world, &client, port, NAME, ask).unwrap();
            world.until("the answer comes", || dialled.log.data() == b"!");
            resumed.push(dialled.info.is_resumed);
            dialled.transport.lose_connection();
            world.until("the connection ends", || dialled.log.lost().is_some());
        }
        let ended = end(&world, program);
        ended.went_well();
        assert_eq!(ended.text(), "False\nTrue\nTrue\n", "{version}");
        assert_eq!(resumed, [false, true, true], "{version}");
    }
}
