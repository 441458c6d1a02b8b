//! How the programs are told what to do. All of them pass on what they read to the other end, and print what
//! comes from there.

use std::process::{Command, Stdio};

use twistor::tls::TlsVersion;

use super::support::{Files, OTHER_NAME};
use twistor_tests::tls::NAME;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tool {
    OpenSsl,
    GnuTls,
    Python,
}

pub(crate) const TOOLS: [Tool; 3] = [Tool::OpenSsl, Tool::GnuTls, Tool::Python];

/// What a program is asked for beside a connection.
#[derive(Clone, Copy)]
pub(crate) struct Wish<'a> {
    pub(crate) version: TlsVersion,
    /// The name that is asked for, and that the server has to prove.
    pub(crate) name: &'a str,
    /// The roots.
    pub(crate) roots: &'a str,
    /// The files of an own certificate, without their ends.
    pub(crate) shows: Option<&'a str>,
    pub(crate) alpn: Option<&'a str>,
    /// Whether a server asks for certificates.
    pub(crate) asks: bool,
}

impl Wish<'_> {
    pub(crate) fn new(version: TlsVersion) -> Self {
        Self { version, name: NAME, roots: "ca.pem", shows: None, alpn: None, asks: false }
    }
}

/// Whether a program is there.
pub(crate) fn is_there(program: &str) -> bool {
    let version = if program == "openssl" { "version" } else { "--version" };
    let status = Command::new(program)
        .arg(version)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let is_there = status.is_ok_and(|status| status.success());
    if !is_there {
        println!("skipped: there is no {program} on this machine");
    }
    is_there
}

const PYTHON: &str = r"
import os, select, socket, ssl, sys
role, port, version, name, roots, shows, alpn, asks, other = sys.argv[1:10]
version = {'1.2': ssl.TLSVersion.TLSv1_2, '1.3': ssl.TLSVersion.TLSv1_3}[version]
def settings(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if role == 'client' else ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    context.load_verify_locations(roots)
    if certificate:
        context.load_cert_chain(certificate + '.pem', certificate + '.key')
    if alpn:
        context.set_alpn_protocols(alpn.split(','))
    if asks:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
context = settings(shows)
plain = socket.socket()
plain.settimeout(20)
if role == 'client':
    plain.connect(('127.0.0.1', int(port)))
    stream = context.wrap_socket(plain, server_hostname=name, suppress_ragged_eofs=False)
else:
    if other:
        second = settings(other)
        def choose(stream, name, first):
            if name == 'example.org':
                stream.context = second
        context.sni_callback = choose
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    plain.bind(('127.0.0.1', int(port)))
    plain.listen()
    stream = context.wrap_socket(plain.accept()[0], server_side=True, suppress_ragged_eofs=False)
# One thread: a connection of OpenSSL is not made for two.
stream.setblocking(False)
waiting, reads = b'', True
while True:
    wants_write = False
    if waiting:
        try:
            waiting = waiting[stream.send(waiting):]
        except ssl.SSLWantWriteError:
            wants_write = True
        except ssl.SSLWantReadError:
            pass
    try:
        data = stream.recv(65536)
        if not data:
            break
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        continue
    except ssl.SSLWantReadError:
        pass
    if waiting and not wants_write:
        continue
    sources = [stream, 0] if reads and not waiting else [stream]
    ready, _, _ = select.select(sources, [stream] if wants_write else [], [], 20)
    if 0 in ready:
        waiting = os.read(0, 65536)
        reads = len(waiting) > 0
stream.setblocking(True)
stream.unwrap()
";

fn number(version: TlsVersion) -> &'static str {
    if version == TlsVersion::Tls12 { "1.2" } else { "1.3" }
}

impl Tool {
    pub(crate) fn is_there(self) -> bool {
        match self {
            Self::OpenSsl => is_there("openssl"),
            Self::GnuTls => is_there("gnutls-cli") && is_there("gnutls-serv"),
            Self::Python => is_there("python3"),
        }
    }

    fn python(role: &str, files: &Files, port: u16, wish: Wish<'_>) -> Command {
        let shows = wish.shows.map(|name| files.path(name)).unwrap_or_default();
        let other = if role == "server" { files.path("other") } else { String::new() };
        let mut command = Command::new("python3");
        command.args(["-c", PYTHON, role, &port.to_string(), number(wish.version), wish.name]);
        command.args([&files.path(wish.roots), &shows, wish.alpn.unwrap_or_default()]);
        command.args([if wish.asks { "yes" } else { "" }, &other]);
        command
    }

    fn priority(version: TlsVersion) -> String {
        format!("--priority=NORMAL:-VERS-ALL:+VERS-TLS{}", number(version))
    }

    /// A client of the port on this machine.
    pub(crate) fn client(self, files: &Files, port: u16, wish: Wish<'_>) -> Command {
        match self {
            Self::OpenSsl => {
                let mut command = openssl_client(files, port, wish);
                command.arg("-quiet");
                command
            }
            Self::GnuTls => {
                let mut command = Command::new("gnutls-cli");
                command.args(["--port", &port.to_string(), "--x509cafile", &files.path(wish.roots)]);
                command.args(["--sni-hostname", wish.name, "--verify-hostname", wish.name]);
                command.args([&*Self::priority(wish.version), "--logfile", &files.path("gnutls.log")]);
                if let Some(name) = wish.shows {
                    command.args(["--x509certfile", &files.path(&format!("{name}.pem"))]);
                    command.args(["--x509keyfile", &files.path(&format!("{name}.key"))]);
                }
                for protocol in wish.alpn.iter().flat_map(|list| list.split(',')) {
                    command.args(["--alpn", protocol]);
                }
                command.arg("127.0.0.1");
                command
            }
            Self::Python => Self::python("client", files, port, wish),
        }
    }

    /// A server with certificates for both names. What it answers: see [`Tool::echoes`].
    pub(crate) fn server(self, files: &Files, port: u16, wish: Wish<'_>) -> Command {
        match self {
            Self::OpenSsl => {
                let mut command = openssl_server(files, port, wish);
                command.args(["-quiet", "-naccept", "1"]);
                command
            }
            Self::GnuTls => {
                let mut command = Command::new("gnutls-serv");
                command.args([
                    "--echo",
                    "--crlf",
                    "--port",
                    &port.to_string(),
                    &Self::priority(wish.version),
                ]);
                for name in ["server", "other"] {
                    command.args(["--x509certfile", &files.path(&format!("{name}.pem"))]);
                    command.args(["--x509keyfile", &files.path(&format!("{name}.key"))]);
                }
                if wish.asks {
                    command.args(["--require-client-cert", "--verify-client-cert"]);
                    command.args(["--x509cafile", &files.path(wish.roots)]);
                } else {
                    command.arg("--disable-client-cert");
                }
                for protocol in wish.alpn.iter().flat_map(|list| list.split(',')) {
                    command.args(["--alpn", protocol]);
                }
                command
            }
            Self::Python => Self::python("server", files, port, Wish { shows: Some("server"), ..wish }),
        }
    }

    /// Whether its server sends back what comes, and not what it reads from its input.
    pub(crate) fn echoes(self) -> bool {
        self == Self::GnuTls
    }
}

pub(crate) fn openssl_client(files: &Files, port: u16, wish: Wish<'_>) -> Command {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-servername", wish.name]);
    command.args(["-CAfile", &files.path(wish.roots), "-verify_return_error", "-verify_hostname", wish.name]);
    command.arg(if wish.version == TlsVersion::Tls12 { "-tls1_2" } else { "-tls1_3" });
    if let Some(name) = wish.shows {
        command.args([
            "-cert",
            &files.path(&format!("{name}.pem")),
            "-key",
            &files.path(&format!("{name}.key")),
        ]);
    }
    if let Some(alpn) = wish.alpn {
        command.args(["-alpn", alpn]);
    }
    command
}

pub(crate) fn openssl_server(files: &Files, port: u16, wish: Wish<'_>) -> Command {
    let mut command = Command::new("openssl");
    command.args(["s_server", "-accept", &format!("127.0.0.1:{port}")]);
    command.args(["-cert", &files.path("server.pem"), "-key", &files.path("server.key")]);
    command.args(["-servername", OTHER_NAME]);
    command.args(["-cert2", &files.path("other.pem"), "-key2", &files.path("other.key")]);
    command.arg(if wish.version == TlsVersion::Tls12 { "-tls1_2" } else { "-tls1_3" });
    if wish.asks {
        command.args(["-Verify", "2", "-verify_return_error", "-CAfile", &files.path(wish.roots)]);
    }
    if let Some(alpn) = wish.alpn {
        command.args(["-alpn", alpn]);
    }
    command
}
