//! TLS that begins in the middle of a stream of lines, with Python at the other end, or a program that knows
//! such a protocol.

use std::process::Command;

use twistor::tls::TlsVersion;
use twistor_tests::tls::NAME;
use twistor_tests::{Driver, Event, Log, Script, World};

use super::programs::is_there;
use super::support::{BOTH, Files, Program, end, free_port};

const SCRIPT: &str = r"
import socket, ssl, sys
role, port, version, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if role == 'client' else ssl.PROTOCOL_TLS_SERVER)
context.minimum_version = context.maximum_version = (
    ssl.TLSVersion.TLSv1_2 if version == 'TLS 1.2' else ssl.TLSVersion.TLSv1_3)
context.load_verify_locations(folder + 'ca.pem')
def line(stream):
    line = b''
    while not line.endswith(b'\n'):
        part = stream.recv(1)
        assert part, line
        line += part
    return line.decode().strip()
if role == 'client':
    plain = socket.create_connection(('127.0.0.1', port), timeout=20)
    print(line(plain))
    plain.sendall(b'STARTTLS\r\n')
    print(line(plain))
    stream = context.wrap_socket(plain, server_hostname='localhost', suppress_ragged_eofs=False)
    stream.sendall(b'secret\r\n')
    print(line(stream))
    stream.unwrap()
else:
    context.load_cert_chain(folder + 'server.pem', folder + 'server.key')
    listener = socket.socket()
    listener.bind(('127.0.0.1', port))
    listener.listen()
    plain = listener.accept()[0]
    plain.settimeout(20)
    plain.sendall(b'220 hello\r\n')
    print(line(plain))
    plain.sendall(b'220 go ahead\r\n')
    stream = context.wrap_socket(plain, server_side=True, suppress_ragged_eofs=False)
    print(line(stream))
    stream.sendall(b'250 secret\r\n')
    assert stream.recv(1) == b''
    stream.unwrap()
";

fn python(role: &str, files: &Files, port: u16, version: TlsVersion) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", SCRIPT, role, &port.to_string(), &version.to_string(), &files.path("")]);
    command
}

/// A server that begins with TLS when it is asked to.
fn server(files: &Files, log: &Log) -> Script {
    let tls = files.server(|server| server);
    Script::new(log).on_made(|transport| transport.write(b"220 hello\r\n")).on_data(move |transport, data| {
        if let Some(behind) = data.strip_prefix(b"STARTTLS\r\n") {
            transport.write(b"220 go ahead\r\n");
            drop(transport.start_tls_server(&tls));
            transport.unread(behind.to_vec());
        } else if data.starts_with(b"EHLO") {
            transport.write(b"250-here\r\n250 STARTTLS\r\n");
        } else {
            transport.write(&[b"250 ", data].concat());
        }
    })
}

#[test]
// Line 55.
fn python_begins_with_tls_in_the_middle() {
    if !is_there("python3") {
        return;
    }
    for version in BOTH {
        let (files, world, log) = (Files::new(), World::new(Driver::Direct), Log::new());
        let port = world.listen({
            let protocol = std::cell::RefCell::new(Some(server(&files, &log)));
            move |_| protocol.take().expect("there is one connection")
        });
        let port = port.local_addr().socket_addr().unwrap().port();
        let ended = end(&world, Program::start(python("client", &files, port, version), Some(b"")));
        ended.went_well();
        assert_eq!(ended.text(), "220 hello\n220 go ahead\n250 secret\n");
        world.until("the connection ends", || log.lost().is_some());
        assert_eq!(log.data(), b"STARTTLS\r\nsecret\r\n");
        assert!(log.has(&Event::Eof));
        assert_eq!(log.lost().unwrap(), "closed");
    }
}

#[test]
// Line 55.
fn we_begin_with_tls_in_the_middle_of_a_conversation_with_python() {
    if !is_there("python3") {
        return;
    }
    for version in BOTH {
        let (files, world, log) = (Files::new(), World::new(Driver::Direct), Log::new());
        let port = free_port();
        let program = Program::start(python("server", &files, port, version), None);
        let client = files.client(|client| client);
        let connect = || {
            let (log, client) = (log.clone(), client.clone());
            world.reactor.connect(format!("tcp:127.0.0.1:{port}"), move |_| {
                let client = client.clone();
                Script::new(&log).on_data(move |transport, data| match data {
                    b"220 hello\r\n" => transport.write(b"STARTTLS\r\n"),
                    b"220 go ahead\r\n" => {
                        drop(transport.start_tls_client(&client, NAME));
                        // It waits for the handshake.
                        transport.write(b"secret\r\n");
                    }
                    _ => transport.lose_connection(),
                })
            })
        };
        let deadline = std::time::Instant::now() + twistor_tests::PATIENCE;
        while let Err(error) = twistor_tests::outcome::outcome(&world, connect()) {
            assert!(std::time::Instant::now() < deadline, "{error}");
            world.run_for(std::time::Duration::from_millis(10));
        }
        world.until("the connection ends", || log.lost().is_some());
        let ended = end(&world, program);
        ended.went_well();
        assert_eq!(ended.text(), "STARTTLS\nsecret\n");
        assert_eq!(log.data(), b"220 hello\r\n220 go ahead\r\n250 secret\r\n");
        assert_eq!(log.lost().unwrap(), "closed");
    }
}

#[test]
// Line 55.
fn openssl_begins_with_tls_in_the_middle() {
    if !is_there("openssl") {
        return;
    }
    let (files, world, log) = (Files::new(), World::new(Driver::Direct), Log::new());
    let port = world.listen({
        let protocol = std::cell::RefCell::new(Some(server(&files, &log)));
        move |_| protocol.take().expect("there is one connection")
    });
    let port = port.local_addr().socket_addr().unwrap().port();
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-starttls", "smtp"]);
    command.args(["-CAfile", &files.path("ca.pem"), "-verify_return_error", "-verify_hostname", NAME]);
    command.args(["-servername", NAME]);
    let mut program = Program::start(command, None);
    program.say(b"secret\n");
    world.until("the answer comes", || program.has_said(b"250 secret\n"));
    drop(program.child.stdin.take());
    end(&world, program).went_well();
    world.until("the connection ends", || log.lost().is_some());
    assert_eq!(log.lost().unwrap(), "closed");
}
