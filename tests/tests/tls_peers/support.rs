//! Certificates as files, ports and clients of ours, and programs that run while the reactor turns.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use socket2::{Domain, Socket, Type};
use twistor::endpoint::{ConnectEndpoint, ListenEndpoint, TlsConnect, TlsListen};
use twistor::tls::{TlsClient, TlsInfo, TlsServer, TlsVersion};
use twistor::{Peer, Port, Transport};
use twistor_tests::tls::{Authority, Identity, NAME};
use twistor_tests::{Driver, Event, Log, Script, World};

/// Another name that the port has a certificate for.
pub(crate) const OTHER_NAME: &str = "example.org";
pub(crate) const BOTH: [TlsVersion; 2] = [TlsVersion::Tls12, TlsVersion::Tls13];

/// Certificates and keys in files, which go with the test.
pub(crate) struct Files {
    folder: PathBuf,
    pub(crate) authority: Authority,
}

impl Files {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name =
            format!("twistor-tls-peers-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let files = Self { folder, authority: Authority::common() };
        files.write("ca.pem", &files.authority.pem());
        for (file, name) in [("server", NAME), ("other", OTHER_NAME), ("client", "somebody")] {
            files.keep(file, &files.authority.issue(&[name], |_| {}));
        }
        let stranger = Authority::common();
        files.write("stranger-ca.pem", &stranger.pem());
        files.keep("stranger", &stranger.issue(&["somebody"], |_| {}));
        files
    }

    fn keep(&self, name: &str, identity: &Identity) {
        self.write(&format!("{name}.pem"), &identity.chain_pem);
        self.write(&format!("{name}.key"), &identity.key_pem);
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.join(name), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    /// Ours, with certificates for both names; `set` asks for more.
    pub(crate) fn server(
        &self,
        set: impl FnOnce(twistor::tls::TlsServerBuilder) -> twistor::tls::TlsServerBuilder,
    ) -> TlsServer {
        let builder = TlsServer::builder()
            .certificate_files(self.path("server.pem"), self.path("server.key"))
            .certificate_files(self.path("other.pem"), self.path("other.key"));
        set(builder).build().unwrap()
    }

    pub(crate) fn client(
        &self,
        set: impl FnOnce(twistor::tls::TlsClientBuilder) -> twistor::tls::TlsClientBuilder,
    ) -> TlsClient {
        set(TlsClient::builder().roots_file(self.path("ca.pem"))).build().unwrap()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A port of ours, and what it was told.
pub(crate) struct Host {
    pub(crate) world: World,
    port: Port,
    pub(crate) log: Log,
    pub(crate) infos: Rc<RefCell<Vec<TlsInfo>>>,
}

impl Host {
    pub(crate) fn new(server: TlsServer, protocol: impl Fn(&Log) -> Script + 'static) -> Self {
        let (world, log) = (World::new(Driver::Direct), Log::new());
        let infos = Rc::<RefCell<Vec<TlsInfo>>>::default();
        let endpoint = TlsListen::new("tcp:0:interface=127.0.0.1", server).unwrap();
        let port = {
            let (log, infos) = (log.clone(), Rc::clone(&infos));
            let build = move |peer: Peer| {
                infos.borrow_mut().extend(peer.tls);
                protocol(&log)
            };
            world.reactor.listen(ListenEndpoint::Tls(endpoint), build).unwrap()
        };
        Self { world, port, log, infos }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.local_addr().socket_addr().unwrap().port()
    }

    /// What the last handshake has agreed on.
    pub(crate) fn info(&self) -> TlsInfo {
        self.infos.borrow().last().expect("a handshake was completed").clone()
    }

    /// Runs a program to its end.
    pub(crate) fn run(&self, command: Command, input: &[u8]) -> Ended {
        self.end(Program::start(command, Some(input)))
    }

    pub(crate) fn end(&self, program: Program) -> Ended {
        end(&self.world, program)
    }

    pub(crate) fn refused_all(&self) {
        assert_eq!(self.log.events(), [], "a protocol heard of a connection that should have been refused");
        assert!(self.world.reactor.stats().tls_failures > 0);
    }

    /// All connections have ended, with nothing wrong.
    pub(crate) fn ended_well(&self) {
        self.world.until("the connections end", || self.world.reactor.stats().connections == 0);
        for event in self.log.events() {
            if let Event::Lost(reason) = event {
                assert_eq!(reason, "closed");
            }
        }
        assert_eq!(self.world.reactor.stats().tls_failures, 0);
    }
}

/// Echoes, and ends the connection behind so many bytes.
pub(crate) fn echo_of(count: usize) -> impl Fn(&Log) -> Script {
    move |log| {
        let mut left = count;
        Script::new(log).on_data(move |transport, data| {
            transport.write(data);
            left = left.saturating_sub(data.len());
            if left == 0 {
                transport.lose_connection();
            }
        })
    }
}

/// Echoes to the end.
pub(crate) fn echo(log: &Log) -> Script {
    Script::new(log).on_data(Transport::write)
}

/// What became of an attempt to connect.
pub(crate) struct Dialled {
    pub(crate) log: Log,
    pub(crate) info: TlsInfo,
    pub(crate) transport: Transport,
}

/// Connects to a program that listens on `port`, or soon will.
pub(crate) fn dial(
    world: &World,
    client: &TlsClient,
    port: u16,
    name: &str,
    protocol: impl Fn(&Log) -> Script + Clone + 'static,
) -> Result<Dialled, String> {
    let deadline = std::time::Instant::now() + twistor_tests::PATIENCE;
    loop {
        let log = Log::new();
        let name = name.to_owned().try_into().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let endpoint = TlsConnect::new(address, client.clone(), name).unwrap();
        let connecting = world.reactor.connect(ConnectEndpoint::Tls(endpoint), {
            let (log, protocol) = (log.clone(), protocol.clone());
            move |_| protocol(&log)
        });
        match twistor_tests::outcome::outcome(world, connecting) {
            Ok(connection) => {
                let transport = connection.transport().clone();
                let info = transport.tls().expect("the connection has TLS");
                return Ok(Dialled { log, info, transport });
            }
            // It has not come so far.
            Err(error) if error.to_string().contains("refused") && std::time::Instant::now() < deadline => {
                world.run_for(std::time::Duration::from_millis(10));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// A port that nobody listens on just now, and that is free also for those who do not ask to reuse one. Each
/// is given once, and is none that the system would give to somebody else, or to whoever connects.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id() as u16);
        let port = 12_000 + number % 18_000;
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        if socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into()).is_ok() {
            return port;
        }
    }
}

/// Bytes without end of lines that would be commands to some programs.
pub(crate) fn text(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut text = Vec::with_capacity(length);
    while text.len() < length {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let is_end = text.len() % 64 == 63 || text.len() == length - 1;
        text.push(if is_end { b'\n' } else { b'a' + (state >> 24) as u8 % 16 });
    }
    text
}

type Collected = Arc<Mutex<Vec<u8>>>;

fn collect(stream: Option<impl Read + Send + 'static>) -> (Collected, thread::JoinHandle<()>) {
    let collected = Collected::default();
    let (place, mut stream) = (Arc::clone(&collected), stream.unwrap());
    let thread = thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            place.lock().unwrap().extend(&buffer[..count]);
        }
    });
    (collected, thread)
}

/// A program that runs. Killed when the test is over.
pub(crate) struct Program {
    pub(crate) child: Child,
    output: Collected,
    errors: Collected,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Program {
    /// With this as its input, which ends then if it is given.
    pub(crate) fn start(mut command: Command, input: Option<&[u8]>) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (output, first) = collect(child.stdout.take());
        let (errors, second) = collect(child.stderr.take());
        let mut program = Self { child, output, errors, threads: vec![first, second] };
        if let Some(input) = input {
            let (mut stdin, input) = (program.child.stdin.take().unwrap(), input.to_vec());
            thread::spawn(move || drop(stdin.write_all(&input)));
        }
        program
    }

    pub(crate) fn say(&mut self, words: &[u8]) {
        self.child.stdin.as_mut().unwrap().write_all(words).unwrap();
    }

    /// What it has said so far.
    pub(crate) fn output(&self) -> Vec<u8> {
        self.output.lock().unwrap().clone()
    }

    pub(crate) fn has_said(&self, words: &[u8]) -> bool {
        self.output().windows(words.len()).any(|part| part == words)
    }

    pub(crate) fn errors(&self) -> String {
        String::from_utf8_lossy(&self.errors.lock().unwrap()).into_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let output = self.output();
            let last = &output[output.len().saturating_sub(4096)..];
            eprintln!("{} bytes\n{}\n{}", output.len(), String::from_utf8_lossy(last), self.errors());
        }
    }
}

/// A program that has run.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) output: Vec<u8>,
    pub(crate) errors: String,
}

pub(crate) fn end(world: &World, mut program: Program) -> Ended {
    let mut status = None;
    world.until("the program ends", || {
        status = program.child.try_wait().unwrap();
        status.is_some()
    });
    for thread in program.threads.drain(..) {
        thread.join().unwrap();
    }
    Ended { status: status.unwrap(), output: program.output(), errors: program.errors() }
}

impl Ended {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    #[track_caller]
    pub(crate) fn went_well(&self) {
        assert!(self.status.success(), "{}: {}\n{}", self.status, self.text(), self.errors);
        assert!(!self.errors.contains("unexpected eof"), "{}", self.errors);
    }

    #[track_caller]
    pub(crate) fn went_wrong(&self) {
        assert!(!self.status.success(), "it succeeded: {}\n{}", self.text(), self.errors);
    }
}

impl Host {
    /// Runs a program whose input does not end.
    pub(crate) fn run_open(&self, command: Command, input: &[u8]) -> Ended {
        let mut program = Program::start(command, None);
        let mut stdin = program.child.stdin.take().unwrap();
        // It may be gone already.
        let _ = stdin.write_all(input);
        let ended = self.end(program);
        drop(stdin);
        ended
    }
}
