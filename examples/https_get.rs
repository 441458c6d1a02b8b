//! Fetches a page by HTTPS: a minimal HTTP/1.1 GET over an endpoint `tls:HOST:PORT`.
//!
//! Run it:      cargo run --release --features tls --example https_get -- example.org
//! Elsewhere:   cargo run --release --features tls --example https_get -- localhost 8443 /page roots.pem
//! Talk to it:  openssl s_server -www -accept 8443 -cert server.pem -key server.key     (and roots.pem is server.pem)
//!
//! What it shows: a task that reads and writes a connection with TLS as any other. The server is verified: for the name
//! in the endpoint, by the roots that are given, or else as the system does it; if that fails there is no connection, and
//! the error says which check failed. What was agreed on and the header go to the standard error, the page to the
//! standard output. A page that was cut off is an error, never a shorter page.

use std::io::{self, Write};

use twistor::{Handle, Stream};
use twistor_examples::{Failure, arguments, init_logging};

const SYSTEM: &str = "those of the system";
/// No line of a header is longer.
const LINE: usize = 16 * 1024;
const CHUNK: usize = 64 * 1024;

/// Where the page ends.
enum Body {
    Length(u64),
    Chunked,
    /// With the connection.
    UntilEnd,
}

/// A line without its end.
async fn line(stream: &Stream) -> io::Result<String> {
    let line = stream.read_line(LINE).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(line.trim_end().to_owned())
}

fn not_http(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server does not speak HTTP/1.1: {what:?}"))
}

/// Reads and prints status and header.
async fn read_header(stream: &Stream) -> io::Result<Body> {
    let status = line(stream).await?;
    if !status.starts_with("HTTP/1.") {
        return Err(not_http(&status));
    }
    eprintln!("{status}");
    let mut body = Body::UntilEnd;
    loop {
        let field = line(stream).await?;
        if field.is_empty() {
            eprintln!();
            return Ok(body);
        }
        eprintln!("{field}");
        let Some((name, value)) = field.split_once(':') else { return Err(not_http(&field)) };
        match (name.to_ascii_lowercase().as_str(), value.trim()) {
            ("transfer-encoding", value) if value.eq_ignore_ascii_case("chunked") => body = Body::Chunked,
            ("content-length", value) if !matches!(body, Body::Chunked) => {
                body = Body::Length(value.parse().map_err(|_| not_http(&field))?);
            }
            _ => {}
        }
    }
}

/// Prints so much of the page.
async fn copy(stream: &Stream, mut length: u64) -> io::Result<()> {
    while length > 0 {
        let limit = usize::try_from(length).unwrap_or(CHUNK).min(CHUNK);
        let chunk = stream.read_chunk(limit).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        io::stdout().write_all(&chunk)?;
        length -= chunk.len() as u64;
    }
    Ok(())
}

async fn copy_body(stream: &Stream, body: Body) -> io::Result<()> {
    match body {
        Body::Length(length) => copy(stream, length).await?,
        Body::Chunked => loop {
            let head = line(stream).await?;
            let size = head.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(|_| not_http(&head))?;
            copy(stream, size).await?;
            if size == 0 {
                break;
            }
            line(stream).await?;
        },
        // An end that TLS does not announce is an error here: somebody may have cut the page off.
        Body::UntilEnd => {
            while let Some(chunk) = stream.read_chunk(CHUNK).await? {
                io::stdout().write_all(&chunk)?;
            }
        }
    }
    io::stdout().flush()
}

/// Colons in a value have a backslash in front of them.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace(':', r"\:")
}

async fn get(reactor: Handle, [host, port, path, roots]: [String; 4]) -> Result<(), Failure> {
    let mut endpoint = format!("tls:{host}:{port}:alpn=http/1.1");
    if roots != SYSTEM {
        endpoint += &format!(":roots={}", escaped(&roots));
    }
    let stream = reactor.connect_stream(&*endpoint).await?;
    if let Some(tls) = stream.transport().tls() {
        let alpn = tls.alpn_text().unwrap_or("not agreed on");
        eprintln!("{}, {}, ALPN: {alpn}", tls.version, tls.cipher_suite);
    }
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let body = read_header(&stream).await?;
    Ok(copy_body(&stream, body).await?)
}

fn main() -> Result<(), Failure> {
    let expected = [("HOST", None), ("PORT", Some("443")), ("PATH", Some("/")), ("ROOTS", Some(SYSTEM))];
    let arguments = arguments("https_get", "Fetches a page by HTTPS; ROOTS is a file in PEM.", expected);
    init_logging();
    twistor::run(async |reactor| get(reactor, arguments).await)?
}
