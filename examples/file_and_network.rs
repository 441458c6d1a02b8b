//! Reading a large file and talking to a server, side by side on one thread: neither waits for the other.
//!
//! Run it:      cargo run --release --example file_and_network
//! Your file:   cargo run --release --example file_and_network -- /var/log/syslog
//! A server:    nc -lk 127.0.0.1 8000, and then
//!              cargo run --release --example file_and_network -- /var/log/syslog tcp:127.0.0.1:8000
//! Talk to it:  the server gets ten lines, "request 1" and so on; each is sent when a line has come back.
//!
//! What it shows: `open_file` and `read_chunks`, which read on threads of their own, and a protocol on the
//! loop. Both tell of their progress, in the order in which it happens. Without arguments it makes a file of
//! 64 MiB and a server that answers, in this program.

use std::cell::Cell;
use std::fmt::Display;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use twistor::{AsyncFile, Handle, Protocol, Reactor, Reason, Transport};
use twistor_examples::{Failure, arguments, init_logging};
use twistor_protocols::{LineProtocol, LineReceiver, Lines};

/// Requests that are made, one after the other.
const REQUESTS: u32 = 10;
/// How much of the file is read at a time.
const PIECE: usize = 256 * 1024;
/// The file that is made where none is given.
const SIZE: usize = 64 << 20;

thread_local! {
    /// Something went wrong, and the program says so at its end.
    static FAILED: Cell<bool> = const { Cell::new(false) };
}

fn complain(error: &dyn Display) {
    eprintln!("file_and_network: {error}");
    FAILED.set(true);
}

/// Task A: reads a file from its beginning to its end, and tells of every tenth of it.
fn read(file: &AsyncFile, size: u64) {
    let mut done = 0_u64;
    let reading = file.read_chunks(.., PIECE, move |_, piece| {
        let tenth = |count: u64| count * 10 / size.max(1);
        let before = tenth(done);
        done += piece.len() as u64;
        if tenth(done) > before {
            println!("file: {} % read", tenth(done) * 10);
        }
    });
    reading.on_done(|_, outcome| match outcome {
        Ok(count) => println!("file: all {count} bytes read"),
        Err(error) => complain(&error),
    });
}

/// Opens the file and asks for its length.
fn read_path(reactor: &Handle, path: &Path) {
    reactor.open_file(path, OpenOptions::new().read(true)).on_done(|_, file| match file {
        Ok(file) => file.len().on_done(move |_, size| match size {
            Ok(size) => read(&file, size),
            Err(error) => complain(&error),
        }),
        Err(error) => complain(&error),
    });
}

/// Task B: sends a request, waits for its answer, sends the next.
struct Client {
    request: u32,
}

impl LineReceiver for Client {
    fn connection_made(&mut self, io: &Lines) {
        io.send_line("request 1");
    }

    fn line_received(&mut self, io: &Lines, line: &[u8]) {
        println!("network: answer {}: {}", self.request, String::from_utf8_lossy(line));
        if self.request == REQUESTS {
            return io.lose_connection();
        }
        self.request += 1;
        io.send_line(format!("request {}", self.request));
    }

    fn connection_lost(&mut self, _: &Lines, reason: &Reason) {
        println!("network: connection lost: {reason}");
    }
}

/// Begins both. They are over when the loop has nothing more to do.
fn start(reactor: &Handle, path: &Path, endpoint: &str) {
    read_path(reactor, path);
    let client = LineProtocol::new(Client { request: 1 });
    reactor.connect_protocol(endpoint, client).on_done(|_, outcome| {
        if let Err(error) = outcome {
            complain(&error);
        }
    });
}

/// The server where none is given: it thinks for a while and says the same.
struct Slow;

impl Protocol for Slow {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let answer = data.to_vec();
        transport
            .call_later(Duration::from_millis(5), move |_: &mut Self, transport| transport.write(&answer));
    }
}

/// A file that is removed at the end.
struct Made(PathBuf);

impl Drop for Made {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn main() -> Result<ExitCode, Failure> {
    let about = "Reads FILE and makes requests at ENDPOINT, both at the same time.";
    let defaults = [("FILE", Some("made")), ("ENDPOINT", Some("built-in"))];
    let [file, endpoint] = arguments("file_and_network", about, defaults);
    init_logging();
    let reactor = Reactor::new()?;

    let endpoint = if endpoint == "built-in" {
        let port = reactor.listen("tcp:0:interface=127.0.0.1", |_| Slow)?;
        port.unref();
        format!("tcp:{}", port.local_addr())
    } else {
        endpoint
    };
    let _made = if file == "made" {
        let path = std::env::temp_dir().join(format!("twistor-example-{}", std::process::id()));
        let made = Made(path.clone());
        reactor.write_file(&path, vec![7; SIZE]).on_done(move |reactor, outcome| match outcome {
            Ok(()) => start(reactor, &path, &endpoint),
            Err(error) => complain(&error),
        });
        Some(made)
    } else {
        start(&reactor, Path::new(&file), &endpoint);
        None
    };
    // Until the file is read, and the connection is over.
    reactor.run_until_idle()?;
    Ok(if FAILED.get() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
