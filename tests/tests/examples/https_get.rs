//! `https_get`.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use rustls::crypto::ring;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::support::{Program, pattern, peer};

/// A self-signed certificate and its key, in one file that is removed when the test is over.
struct Identity {
    made: rcgen::CertifiedKey<rcgen::KeyPair>,
    file: PathBuf,
}

impl Identity {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("twistor-https-get-{}-{number}.pem", std::process::id());
        let file = std::env::temp_dir().join(name);
        fs::write(&file, made.cert.pem() + &made.signing_key.serialize_pem()).expect("a file");
        Self { made, file }
    }

    fn path(&self) -> String {
        self.file.to_str().expect("a path").to_owned()
    }

    /// Serves one connection, which `answer` gets behind the request; where.
    fn serve(
        &self,
        answer: impl FnOnce(&mut StreamOwned<ServerConnection, TcpStream>, &[String]) + Send + 'static,
    ) -> (SocketAddr, JoinHandle<()>) {
        let key = self.made.signing_key.serialize_der().try_into().expect("a key");
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.made.cert.der().clone()], key)
            .expect("a configuration");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let serving = thread::spawn(move || {
            let (stream, _) = listener.accept().expect("it connects");
            let session = ServerConnection::new(Arc::new(config)).expect("a session");
            let mut stream = BufReader::new(StreamOwned::new(session, stream));
            let mut request = Vec::new();
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).expect("a line");
                if line == "\r\n" {
                    break;
                }
                request.push(line.trim_end().to_owned());
            }
            answer(stream.get_mut(), &request);
        });
        (address, serving)
    }

    fn get(&self, port: u16, path: &str) -> Program {
        Program::start("https_get", &["localhost".to_owned(), port.to_string(), path.to_owned(), self.path()])
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

/// `openssl s_server`, which answers with a page about the connection.
fn openssl(identity: &Identity) -> Option<(crate::support::OtherProgram, u16)> {
    let file = identity.path();
    let arguments =
        ["s_server", "-www", "-accept", "127.0.0.1:0", "-cert", &file, "-key", &file, "-alpn", "http/1.1"];
    let server = peer("openssl", &arguments)?;
    let line = server.output.until("ACCEPT ");
    let (_, port) = line.rsplit_once(':').expect("a port");
    let port = port.parse().expect("a port");
    Some((server, port))
}

#[test]
fn fetches_a_page_from_openssl() {
    let identity = Identity::new();
    let Some((_server, port)) = openssl(&identity) else { return };
    let mut program = identity.get(port, "/");
    program.output.until("TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384");
    assert!(program.wait().success());
    assert_eq!(program.errors.next().as_deref(), Some("TLS 1.3, TLS13_AES_256_GCM_SHA384, ALPN: http/1.1"));
    assert!(program.errors.next().is_some_and(|status| status.to_lowercase().ends_with("200 ok")));
}

#[test]
fn says_which_check_of_the_server_failed() {
    let identity = Identity::new();
    let Some((_server, port)) = openssl(&identity) else { return };
    let other = Identity::new();
    for (host, roots, complaint) in [
        ("localhost", other.path(), "it was not signed by the one that it says has issued it"),
        ("127.0.0.1", identity.path(), "certificate not valid for name \"127.0.0.1\""),
        ("localhost", "missing.pem".to_owned(), "roots \"missing.pem\""),
    ] {
        let mut program =
            Program::start("https_get", &[host.to_owned(), port.to_string(), "/".to_owned(), roots]);
        program.errors.until(complaint);
        assert_eq!(program.output.rest(), [""; 0]);
        assert!(!program.wait().success());
    }
}

#[test]
fn a_page_comes_whole_by_its_length_in_chunks_or_to_the_end() {
    let page =
        String::from_utf8(pattern(100_000).iter().map(|byte| b'a' + byte % 26).collect()).expect("text");
    let length = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len());
    let (one, other) = page.split_at(70_000);
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x};x=1\r\n{one}\r\n{:X}\r\n{other}\r\n0\r\n\r\n",
        one.len(),
        other.len()
    );
    let to_the_end = format!("HTTP/1.1 200 OK\r\n\r\n{page}");
    for answer in [length, chunked, to_the_end] {
        let identity = Identity::new();
        let (address, serving) = identity.serve(move |stream, request| {
            assert_eq!(request[0], "GET /page?a=b HTTP/1.1");
            stream.write_all(answer.as_bytes()).expect("it reads");
            stream.conn.send_close_notify();
            stream.flush().expect("it reads");
        });
        let mut program = identity.get(address.port(), "/page?a=b");
        assert!(program.output.rest() == [&*page]);
        assert!(program.wait().success(), "{:?}", program.errors.rest());
        serving.join().expect("the server is content");
    }
}

#[test]
fn a_page_that_was_cut_off_is_an_error() {
    let identity = Identity::new();
    let (address, serving) = identity.serve(|stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nnot all").expect("it reads");
        stream.flush().expect("it reads");
        // The end of TCP only, as anybody on the way can make it.
        stream.sock.shutdown(std::net::Shutdown::Write).expect("an end");
        let _ = stream.sock.read_to_end(&mut Vec::new());
    });
    let mut program = identity.get(address.port(), "/");
    program.errors.until("TLS: the stream was cut off");
    assert_eq!(program.output.rest(), ["not all"]);
    assert!(!program.wait().success());
    serving.join().expect("the server is content");
}
