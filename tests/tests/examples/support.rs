//! Running an example as a program, and talking to it.

use std::fmt;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Any free port; the program prints which.
pub(crate) const ANY_PORT: &str = "tcp:0:interface=127.0.0.1";

/// The examples that need features.
const FEATURED: [&str; 7] = [
    "protocol_unit_test",
    "lease_simulation",
    "embed_calloop",
    "embed_tokio",
    "tls_echo",
    "starttls_chat",
    "https_get",
];

/// Builds the examples, once, and finds one. Those that need features are built by themselves, with all of
/// them: the rest has to be what a user gets, without.
pub(crate) fn example(name: &str) -> PathBuf {
    static PLAIN: OnceLock<Vec<PathBuf>> = OnceLock::new();
    static WITH_FEATURES: OnceLock<Vec<PathBuf>> = OnceLock::new();
    let paths = if FEATURED.contains(&name) {
        let mut which = vec!["--features", "testing,hosts,tls"];
        which.extend(FEATURED.iter().flat_map(|name| ["--example", name]));
        WITH_FEATURES.get_or_init(|| build(&which))
    } else {
        PLAIN.get_or_init(|| build(&["--examples"]))
    };
    let found = paths.iter().find(|path| path.file_stem().is_some_and(|stem| stem == name));
    found.expect("an example of that name").clone()
}

/// Builds examples with the profile of this test; where they are then. They are built even if they are there
/// already: they could be old.
fn build(which: &[&str]) -> Vec<PathBuf> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--package", "twistor-examples", "--message-format", "json"]).args(which);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo.stderr(Stdio::inherit()).output().expect("cargo");
    assert!(output.status.success(), "the examples do not compile");
    let messages = String::from_utf8(output.stdout).expect("JSON");
    let executables =
        messages.lines().filter_map(|line| line.split_once("\"executable\":\"")?.1.split_once('"'));
    executables.map(|(path, _)| PathBuf::from(path)).collect()
}

/// Lines that somebody prints or sends, each waited for with a time-out.
pub(crate) struct Lines(Receiver<String>);

impl Lines {
    pub(crate) fn of(stream: impl Read + Send + 'static) -> Self {
        let (sender, lines) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(stream).lines();
            lines.map_while(Result::ok).take_while(|line| sender.send(line.clone()).is_ok()).count()
        });
        Self(lines)
    }

    /// The next line; `None` at the end.
    pub(crate) fn next(&self) -> Option<String> {
        match self.0.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line comes"),
        }
    }

    /// Reads up to a line that contains `text`.
    pub(crate) fn until(&self, text: &str) -> String {
        std::iter::from_fn(|| self.next())
            .find(|line| line.contains(text))
            .unwrap_or_else(|| panic!("there is no line with {text:?}"))
    }

    pub(crate) fn rest(&self) -> Vec<String> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

/// A running example. Killed when the test is over.
pub(crate) struct Program {
    pub(crate) child: Child,
    pub(crate) output: Lines,
    pub(crate) errors: Lines,
}

impl Program {
    pub(crate) fn start(name: &str, arguments: &[impl AsRef<str>]) -> Self {
        Self::start_reading(name, arguments, Stdio::null())
    }

    /// With this as its standard input.
    pub(crate) fn start_reading(name: &str, arguments: &[impl AsRef<str>], input: impl Into<Stdio>) -> Self {
        let mut child = Command::new(example(name))
            .args(arguments.iter().map(AsRef::as_ref))
            .env_remove("RUST_LOG")
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the example starts");
        let output = Lines::of(child.stdout.take().expect("piped"));
        let errors = Lines::of(child.stderr.take().expect("piped"));
        Self { child, output, errors }
    }

    /// A server, and where it says that it listens.
    pub(crate) fn serve(name: &str, arguments: &[impl AsRef<str>]) -> (Self, SocketAddr) {
        let program = Self::start(name, arguments);
        let line = program.output.until("listening on ");
        let (_, address) = line.rsplit_once(' ').expect("an address");
        (program, address.parse().expect("an address"))
    }

    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(status.expect("kill").success());
    }

    /// Its status, once it has ended; what it still printed is dropped.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.output.rest();
        self.child.wait().expect("a child")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection to an example.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) lines: Lines,
}

impl Client {
    pub(crate) fn new(stream: TcpStream) -> Self {
        let lines = Lines::of(stream.try_clone().expect("a second handle"));
        Self { stream, lines }
    }

    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::new(connect(address))
    }

    pub(crate) fn say(&mut self, line: impl fmt::Display) {
        self.stream.write_all(format!("{line}\r\n").as_bytes()).expect("the server reads");
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}

/// Sends all of `data`, ends that direction, and returns what comes back.
pub(crate) fn exchange(stream: &TcpStream, data: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    thread::scope(|scope| {
        let (mut writer, mut reader) = (stream, stream);
        scope.spawn(move || {
            writer.write_all(data).expect("the server reads");
            writer.shutdown(Shutdown::Write).expect("an end");
        });
        reader.read_to_end(&mut answer).expect("an answer");
    });
    answer
}

pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

/// Starts another program, with its input and output piped; `None`, and a message, if this machine does not
/// have it.
pub(crate) fn peer(program: &str, arguments: &[impl AsRef<str>]) -> Option<OtherProgram> {
    let mut command = Command::new(program);
    command.args(arguments.iter().map(AsRef::as_ref));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            println!("skipped: there is no {program} on this machine");
            return None;
        }
        child => child.expect("the other program starts"),
    };
    let input = child.stdin.take();
    let output = Lines::of(child.stdout.take().expect("piped"));
    let errors = Lines::of(child.stderr.take().expect("piped"));
    Some(OtherProgram { child, input, output, errors })
}

/// Another program than ours. Killed when the test is over.
pub(crate) struct OtherProgram {
    pub(crate) child: Child,
    input: Option<ChildStdin>,
    pub(crate) output: Lines,
    pub(crate) errors: Lines,
}

impl OtherProgram {
    pub(crate) fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it was not finished");
        input.write_all(format!("{line}\n").as_bytes()).expect("it reads");
    }

    /// Ends its input.
    pub(crate) fn finish(&mut self) {
        self.input = None;
    }

    /// Waits for its end, which `finish` may have to bring about; whether it calls that a success.
    pub(crate) fn succeeds(&mut self) -> bool {
        self.output.rest();
        self.child.wait().expect("a child").success()
    }
}

impl Drop for OtherProgram {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
