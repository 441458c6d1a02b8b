//! The example programs, run as programs and talked to as a user would.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, PipeWriter, Read, Write, pipe};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// Any free port; the program prints which.
const ANY_PORT: &str = "tcp:0:interface=127.0.0.1";

/// The examples that simulate.
const SIMULATING: [&str; 2] = ["protocol_unit_test", "lease_simulation"];

/// The examples inside the loops of other crates.
const HOSTED: [&str; 2] = ["embed_calloop", "embed_tokio"];

/// Builds the examples, once, and finds one. Those that simulate are built by themselves, as are those that need other
/// crates: the rest has to be what a user gets, without the features.
fn example(name: &str) -> PathBuf {
    static SERVING: OnceLock<Vec<PathBuf>> = OnceLock::new();
    static SIMULATED: OnceLock<Vec<PathBuf>> = OnceLock::new();
    static WITH_HOSTS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    let paths = if SIMULATING.contains(&name) {
        let [one, other] = SIMULATING;
        SIMULATED.get_or_init(|| build(&["--features", "testing", "--example", one, "--example", other]))
    } else if HOSTED.contains(&name) {
        let [one, other] = HOSTED;
        WITH_HOSTS.get_or_init(|| build(&["--features", "hosts", "--example", one, "--example", other]))
    } else {
        SERVING.get_or_init(|| build(&["--examples"]))
    };
    let found = paths.iter().find(|path| path.file_stem().is_some_and(|stem| stem == name));
    found.expect("an example of that name").clone()
}

/// Builds examples with the profile of this test; where they are then. They are built even if they are there already:
/// they could be old.
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
struct Lines(Receiver<String>);

impl Lines {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let (sender, lines) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(stream).lines();
            lines.map_while(Result::ok).take_while(|line| sender.send(line.clone()).is_ok()).count()
        });
        Self(lines)
    }

    /// The next line; `None` at the end.
    fn next(&self) -> Option<String> {
        match self.0.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line comes"),
        }
    }

    /// Reads up to a line that contains `text`.
    fn until(&self, text: &str) -> String {
        std::iter::from_fn(|| self.next())
            .find(|line| line.contains(text))
            .unwrap_or_else(|| panic!("there is no line with {text:?}"))
    }

    fn rest(&self) -> Vec<String> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

/// A running example. Killed when the test is over.
struct Program {
    child: Child,
    output: Lines,
    errors: Lines,
}

impl Program {
    fn start(name: &str, arguments: &[impl AsRef<str>]) -> Self {
        Self::start_reading(name, arguments, Stdio::null())
    }

    /// With this as its standard input.
    fn start_reading(name: &str, arguments: &[impl AsRef<str>], input: impl Into<Stdio>) -> Self {
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
    fn serve(name: &str, arguments: &[impl AsRef<str>]) -> (Self, SocketAddr) {
        let program = Self::start(name, arguments);
        let line = program.output.until("listening on ");
        let (_, address) = line.rsplit_once(' ').expect("an address");
        (program, address.parse().expect("an address"))
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(status.expect("kill").success());
    }

    /// Its status, once it has ended; what it still printed is dropped.
    fn wait(&mut self) -> ExitStatus {
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
struct Client {
    stream: TcpStream,
    lines: Lines,
}

impl Client {
    fn new(stream: TcpStream) -> Self {
        let lines = Lines::of(stream.try_clone().expect("a second handle"));
        Self { stream, lines }
    }

    fn connect(address: SocketAddr) -> Self {
        Self::new(connect(address))
    }

    fn say(&mut self, line: impl fmt::Display) {
        self.stream.write_all(format!("{line}\r\n").as_bytes()).expect("the server reads");
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}

/// Sends all of `data`, ends that direction, and returns what comes back.
fn exchange(stream: &TcpStream, data: &[u8]) -> Vec<u8> {
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

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

mod all {
    use super::*;

    const ALL: [&str; 23] = [
        "echo_server",
        "chat",
        "port_forward",
        "timers",
        "stdin_and_timer",
        "heavy_function",
        "file_and_network",
        "event_handlers",
        "unix_echo",
        "subprocess",
        "process_supervisor",
        "reconnect",
        "daemon",
        "udp_echo",
        "multicast_discovery",
        "embed_poll",
        "embed_calloop",
        "embed_tokio",
        "embed_wake_hook",
        "game_tick",
        "background_thread",
        "protocol_unit_test",
        "lease_simulation",
    ];

    #[test]
    fn explain_themselves() {
        for name in ALL {
            let mut program = Program::start(name, &["--help"]);
            let help = program.output.rest().join("\n");
            assert!(help.contains(&format!("Usage: {name}")), "{help}");
            assert!(program.wait().success());
        }
    }

    #[test]
    fn explain_endpoints_only_where_they_take_one() {
        for (name, takes_one) in [("udp_echo", true), ("multicast_discovery", false), ("subprocess", false)] {
            let help = Program::start(name, &["--help"]).output.rest().join("\n");
            assert_eq!(help.contains("An ENDPOINT is"), takes_one, "{help}");
        }
    }

    #[test]
    fn refuse_arguments_they_do_not_know() {
        for name in ALL {
            let mut program = Program::start(name, &["--nonsense"]);
            program.errors.until("--nonsense");
            assert!(!program.wait().success());
        }
    }
}

mod echo_server {
    use super::*;

    #[test]
    fn returns_every_byte() {
        let (_server, address) = Program::serve("echo_server", &[ANY_PORT]);
        let data = pattern(1 << 20);
        assert!(exchange(&connect(address), &data) == data);
    }

    #[test]
    fn can_be_talked_to_with_nc() {
        let (_server, address) = Program::serve("echo_server", &[ANY_PORT]);
        let mut nc = Command::new("nc");
        nc.args([address.ip().to_string(), address.port().to_string()]);
        let mut nc = match nc.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                println!("skipped: there is no nc on this machine");
                return;
            }
            nc => nc.expect("nc"),
        };
        let mut input = nc.stdin.take().expect("piped");
        input.write_all(b"hello\n").expect("nc reads");
        let answer = Lines::of(nc.stdout.take().expect("piped")).next();
        let _ = nc.kill();
        let _ = nc.wait();
        assert_eq!(answer.as_deref(), Some("hello"));
    }

    #[test]
    fn stops_cleanly_on_a_signal_and_says_what_it_served() {
        for signal in ["-TERM", "-INT"] {
            let (mut server, address) = Program::serve("echo_server", &[ANY_PORT]);
            let mut open = connect(address);
            open.write_all(b"twelve bytes").expect("the server reads");
            open.read_exact(&mut [0; 12]).expect("an answer");
            server.signal(signal);
            assert_eq!(open.read(&mut [0]).expect("an orderly end"), 0);
            drop(open);
            let served = server.output.until("echo_server: ");
            assert!(served.contains("1 accepted") && served.contains("12 bytes"), "{served}");
            assert!(server.wait().success());
            assert_eq!(server.errors.rest(), [""; 0]);
        }
    }

    #[test]
    fn names_the_address_that_is_in_use() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("an address");
        let endpoint = format!("tcp:{}:interface=127.0.0.1", address.port());
        let mut server = Program::start("echo_server", &[endpoint]);
        let complaint = server.errors.until(&address.to_string());
        assert!(complaint.contains("in use"), "{complaint}");
        assert!(!server.wait().success());
    }
}

mod udp_echo {
    use super::*;

    const ANY_PORT: &str = "udp:0:interface=127.0.0.1";

    fn client(address: SocketAddr) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        socket.connect(address).expect("a peer");
        socket
    }

    #[test]
    fn does_not_answer_its_own_port_so_that_no_two_echo_for_ever() {
        let (mut server, address) = Program::serve("udp_echo", &[ANY_PORT]);
        let other = UdpSocket::bind(("127.0.0.2", address.port())).expect("another host's port");
        other.send_to(b"echo", address).expect("it goes");
        let client = client(address);
        client.send(b"hello").expect("it goes");
        let mut answer = [0; 10];
        assert_eq!(client.recv(&mut answer).expect("an answer"), 5);
        server.signal("-TERM");
        let served = server.output.until("udp_echo: ");
        assert!(served.contains("2 datagrams received, 1 sent"), "{served}");
        assert!(server.wait().success());
    }

    #[test]
    fn returns_every_datagram_and_says_how_many() {
        let (mut server, address) = Program::serve("udp_echo", &[ANY_PORT]);
        let client = client(address);
        for length in [5, 0, 1, 9000, 65_507] {
            let data = pattern(length);
            client.send(&data).expect("it goes");
            let mut answer = vec![0; 70_000];
            let count = client.recv(&mut answer).expect("an answer");
            assert!(answer[..count] == data);
        }
        server.signal("-TERM");
        let served = server.output.until("udp_echo: ");
        assert!(served.contains("5 datagrams received, 5 sent"), "{served}");
        assert!(server.wait().success());
        assert_eq!(server.errors.rest(), [""; 0]);
    }

    #[test]
    fn can_be_talked_to_with_nc() {
        let (_server, address) = Program::serve("udp_echo", &[ANY_PORT]);
        let mut nc = Command::new("nc");
        nc.args(["-u", &address.ip().to_string(), &address.port().to_string()]);
        let mut nc = match nc.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                println!("skipped: there is no nc on this machine");
                return;
            }
            nc => nc.expect("nc"),
        };
        let mut input = nc.stdin.take().expect("piped");
        input.write_all(b"hello\n").expect("nc reads");
        let answer = Lines::of(nc.stdout.take().expect("piped")).next();
        let _ = nc.kill();
        let _ = nc.wait();
        assert_eq!(answer.as_deref(), Some("hello"));
    }
}

mod multicast_discovery {
    use super::*;

    /// A port that nobody else has now.
    fn free_port() -> String {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.local_addr().expect("an address").port().to_string()
    }

    #[test]
    fn two_find_each_other_and_notice_when_one_leaves() {
        let port = free_port();
        let alice = Program::start("multicast_discovery", &["alice", &port]);
        alice.output.until("alice: listening");
        let mut bob = Program::start("multicast_discovery", &["bob", &port]);
        alice.output.until("found bob at 127.0.0.1:");
        bob.output.until("found alice at 127.0.0.1:");
        bob.signal("-TERM");
        alice.output.until("bob left");
        assert!(bob.wait().success());
    }

    #[test]
    fn one_that_dies_without_a_word_is_missed() {
        let port = free_port();
        let alice = Program::start("multicast_discovery", &["alice", &port]);
        let bob = Program::start("multicast_discovery", &["bob", &port]);
        alice.output.until("found bob at ");
        bob.signal("-KILL");
        alice.output.until("bob is silent");
    }

    #[test]
    fn an_argument_that_makes_no_sense_is_named() {
        for (arguments, text) in [
            (&["", "4299"][..], "NAME \"\""),
            (&["alice", "bob"], "PORT \"bob\""),
            (&["alice", "4299", "here"], "INTERFACE \"here\""),
        ] {
            let mut program = Program::start("multicast_discovery", arguments);
            program.errors.until(text);
            assert!(!program.wait().success());
        }
    }

    #[test]
    fn what_is_no_announcement_is_ignored() {
        let port = free_port();
        let alice = Program::start("multicast_discovery", &["alice", &port]);
        alice.output.until("alice: listening");
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let to = format!("127.0.0.1:{port}");
        for garbage in [&b""[..], b"\xff\xff", b"hello", b"here", b"here ", b"left nobody", &[b'x'; 60_000]] {
            socket.send_to(garbage, &to).expect("it goes");
        }
        socket.send_to(b"here eve", &to).expect("it goes");
        assert!(alice.output.until("found ").starts_with("alice: found eve at 127.0.0.1:"));
    }
}

mod chat {
    use super::*;

    fn join(address: SocketAddr, name: &str) -> Client {
        let mut member = Client::connect(address);
        member.lines.until("your nickname?");
        member.say(name);
        member.lines.until("* here: ");
        member
    }

    #[test]
    fn members_hear_each_other_and_whispers_only_their_target() {
        let (_server, address) = Program::serve("chat", &[ANY_PORT]);
        let mut alice = join(address, "alice");
        let mut bob = join(address, "bob");
        let mut carol = join(address, "carol");
        alice.lines.until("* carol joined");

        alice.say("hello, all");
        for member in [&alice, &bob, &carol] {
            member.lines.until("<alice> hello, all");
        }
        bob.say("/msg alice only for you");
        alice.lines.until("[bob] only for you");
        bob.lines.until("* alice was told");
        bob.say("/msg nobody hm");
        bob.lines.until("* nobody is not here");
        carol.say("/who");
        // What carol hears next is the answer: she did not hear the whisper.
        assert_eq!(carol.lines.next().as_deref(), Some("* here: alice, bob, carol"));
        carol.say("/quit");
        assert_eq!(carol.lines.next(), None);
        drop(carol);
        alice.lines.until("* carol left (closed)");
    }

    #[test]
    fn a_nickname_is_given_once() {
        let (_server, address) = Program::serve("chat", &[ANY_PORT]);
        let _alice = join(address, "alice");
        let mut other = Client::connect(address);
        other.say("alice");
        other.lines.until("* alice is taken");
        other.say("not/a/name");
        other.lines.until("letters and digits");
        other.say("alicia");
        other.lines.until("* here: alice");
    }

    #[test]
    fn a_member_can_be_kicked() {
        let (_server, address) = Program::serve("chat", &[ANY_PORT]);
        let mut alice = join(address, "alice");
        let bob = join(address, "bob");
        alice.say("/kick nobody");
        alice.lines.until("* nobody is not here");
        alice.say("/kick bob");
        bob.lines.until("* alice kicked bob");
        assert_eq!(bob.lines.next(), None);
        drop(bob);
        alice.lines.until("* bob left (closed)");
    }

    #[test]
    fn a_member_that_never_reads_misses_messages_and_slows_nobody() {
        // Small buffers of the kernel, so that a little makes them full.
        let (_server, address) = Program::serve("chat", &["tcp:0:interface=127.0.0.1:send_buffer=8192"]);
        let mut alice = join(address, "alice");
        let mut deaf = connect(address);
        SockRef::from(&deaf).set_recv_buffer_size(8192).expect("a buffer size");
        deaf.write_all(b"deaf\n").expect("the server reads");
        alice.lines.until("* deaf joined");

        let long = "x".repeat(8000);
        let noticed = (0..10_000).any(|_| {
            alice.say(&long);
            alice.lines.next().is_some_and(|line| line.contains("* deaf does not read"))
        });
        assert!(noticed);
        alice.say("still quick");
        alice.lines.until("<alice> still quick");

        let deaf = Client::new(deaf);
        deaf.lines.until("* you did not read: ");
        alice.say("welcome back");
        deaf.lines.until("<alice> welcome back");
    }
}

mod port_forward {
    use super::*;

    #[test]
    fn relays_every_byte_in_both_directions() {
        let (_echo, target) = Program::serve("echo_server", &[ANY_PORT]);
        let (forwarder, address) =
            Program::serve("port_forward", &[ANY_PORT.to_owned(), format!("tcp:{target}")]);
        let data = pattern(1 << 20);
        assert!(exchange(&connect(address), &data) == data);
        forwarder.output.until("1048576 bytes to the target");
        forwarder.output.until("1048576 bytes to the client");
    }

    #[test]
    fn keeps_a_half_closed_connection_half_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = listener.local_addr().expect("an address");
        // It answers only when it has seen the end of what it was asked.
        let answering = thread::spawn(move || {
            let mut stream = listener.accept().expect("the forwarder connects").0;
            let mut question = Vec::new();
            stream.read_to_end(&mut question).expect("a question");
            write!(stream, "{} bytes", question.len()).expect("the forwarder reads");
        });
        let (_forwarder, address) =
            Program::serve("port_forward", &[ANY_PORT.to_owned(), format!("tcp:{target}")]);
        let answer = exchange(&connect(address), &pattern(5000));
        assert_eq!(String::from_utf8_lossy(&answer), "5000 bytes");
        answering.join().expect("the target is well");
    }

    #[test]
    fn closes_the_client_of_a_target_that_refuses() {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = free.local_addr().expect("an address");
        drop(free);
        let (forwarder, address) =
            Program::serve("port_forward", &[ANY_PORT.to_owned(), format!("tcp:{target}")]);
        let mut client = connect(address);
        assert_eq!(client.read(&mut [0]).expect("an orderly end"), 0);
        let complaint = forwarder.output.until(&format!("cannot connect to {target}"));
        assert!(complaint.contains("refused"), "{complaint}");
    }

    #[test]
    fn refuses_a_target_that_makes_no_sense() {
        let mut forwarder = Program::start("port_forward", &[ANY_PORT, "tcp:nonsense"]);
        forwarder.errors.until("bad endpoint \"tcp:nonsense\"");
        assert!(!forwarder.wait().success());
    }
}

mod timers {
    use super::*;

    #[test]
    fn happen_in_order_and_the_program_ends_by_itself() {
        let mut program = Program::start("timers", &[""; 0]);
        let lines = program.output.rest();
        assert!(program.wait().success());
        let position = |text: &str| {
            let found = lines.iter().position(|line| line.contains(text));
            found.unwrap_or_else(|| panic!("no {text:?} in {lines:#?}"))
        };
        let order = [
            "first",
            "second",
            "third, set by the first",
            "one call cancelled, two moved",
            "moved by reset",
            "moved by delay",
            "no more ticks",
            "nothing is left to do",
        ];
        assert!(order.map(position).is_sorted(), "{lines:#?}");
        assert!(position("tick 1") < position("tick 2"), "{lines:#?}");
        assert!(!lines.iter().any(|line| line.contains("never")), "{lines:#?}");
        // Never early.
        for (what, time) in
            [("first", 100), ("second", 200), ("moved by reset", 800), ("moved by delay", 900)]
        {
            let line = &lines[position(what)];
            let printed: u64 = line.split_whitespace().next().and_then(|ms| ms.parse().ok()).expect("a time");
            assert!(printed >= time, "{line}");
        }
    }
}

mod stdin_and_timer {
    use super::*;

    /// Prints these lines, then the timer's, and ends.
    fn prints(program: &mut Program, expected: &[&str]) {
        let mut expected: Vec<String> = expected.iter().map(|line| format!("stdin: {line}")).collect();
        expected.push("timer".to_owned());
        assert_eq!(program.output.rest(), expected);
        assert!(program.wait().success());
        assert_eq!(program.errors.rest(), [""; 0]);
    }

    #[test]
    fn prints_lines_that_come_in_pieces_and_does_not_wait_for_the_end_of_the_input() {
        let (input, mut typing) = pipe().expect("a pipe");
        let shared = input.try_clone().expect("a second handle");
        let started = Instant::now();
        let mut program = Program::start_reading("stdin_and_timer", &[""; 0], input);
        typing.write_all(b"one\nhalf a li").expect("it reads");
        assert_eq!(program.output.next().as_deref(), Some("stdin: one"));
        typing.write_all(b"ne\r\n\nthree").expect("it reads");
        assert_eq!(program.output.next().as_deref(), Some("stdin: half a line"));
        assert_eq!(program.output.next().as_deref(), Some("stdin: "));
        // The shell, say, that goes on reading afterwards.
        assert!(!SockRef::from(&shared).nonblocking().expect("a mode"));
        prints(&mut program, &[]);
        assert!(started.elapsed() >= Duration::from_secs(5));
        assert!(!SockRef::from(&shared).nonblocking().expect("a mode"));
    }

    #[test]
    fn the_end_of_the_input_completes_the_last_line_and_the_timer_is_still_waited_for() {
        let (input, mut typing) = pipe().expect("a pipe");
        let started = Instant::now();
        let mut program = Program::start_reading("stdin_and_timer", &[""; 0], input);
        typing.write_all(b"one\ntwo, with no newline").expect("it reads");
        drop(typing);
        prints(&mut program, &["one", "two, with no newline"]);
        assert!(started.elapsed() >= Duration::from_secs(5));
    }

    #[test]
    fn reads_a_regular_file_and_no_input_at_all() {
        let path = std::env::temp_dir().join(format!("twistor-stdin-{}", std::process::id()));
        let lines: Vec<String> = (0..2000).map(|number| format!("line {number}")).collect();
        std::fs::write(&path, lines.join("\n")).expect("a file");
        let file = File::open(&path);
        let _ = std::fs::remove_file(&path);
        let mut reading = Program::start_reading("stdin_and_timer", &[""; 0], file.expect("a file"));
        let mut idle = Program::start("stdin_and_timer", &[""; 0]);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        prints(&mut reading, &lines);
        prints(&mut idle, &[]);
    }
}

mod heavy_function {
    use super::*;

    #[test]
    fn shows_that_the_loop_ticks_on_while_a_thread_computes() {
        let mut program = Program::start("heavy_function", &["400000"]);
        let lines = program.output.rest();
        assert!(program.wait().success());
        // Its numbers: primes, milliseconds, ticks, the longest gap.
        let numbers = |line: &str, place: &str| -> Vec<u64> {
            assert!(line.starts_with(place), "{line}");
            line.split([' ', ':', ';']).filter_map(|word| word.parse().ok()).collect()
        };
        let [thread, inside] = &*lines else { panic!("{lines:#?}") };
        let [33_860, _, ticks, _] = *numbers(thread, "on a thread: ") else { panic!("{thread}") };
        assert!(ticks >= 2, "{thread}");
        let [33_860, time, ticks, gap] = *numbers(inside, "in the loop: ") else { panic!("{inside}") };
        // A tick may come before the computation; none comes during it.
        assert!(ticks <= 1 && gap > time / 2, "{inside}");
    }

    #[test]
    fn refuses_a_limit_that_is_no_number() {
        let mut program = Program::start("heavy_function", &["many"]);
        program.errors.until("LIMIT \"many\" is no number");
        assert!(!program.wait().success());
    }
}

mod subprocess {
    use super::*;

    #[test]
    fn lists_the_directory_it_runs_in() {
        let mut program = Program::start("subprocess", &[""; 0]);
        let lines = program.output.rest();
        assert!(program.wait().success());
        assert!(lines[0].starts_with("total "), "{lines:#?}");
        assert!(lines.iter().any(|line| line.ends_with(" Cargo.toml")), "{lines:#?}");
        assert_eq!(lines.last().map(String::as_str), Some("subprocess: ls: exit code 0"));
    }

    #[test]
    fn prints_lines_as_they_come_and_ends_as_the_command_does() {
        let (input, mut typed) = pipe().expect("a pipe");
        let script =
            "echo first; read line; echo \"$line\"; echo no newline | tr -d '\\n'; echo error >&2; exit 3";
        let mut program = Program::start_reading("subprocess", &["sh", "-c", script], input);
        assert_eq!(program.output.next().as_deref(), Some("first"));
        typed.write_all(b"second\n").expect("it reads");
        assert_eq!(program.output.rest(), ["second", "no newline", "subprocess: sh: exit code 3"]);
        assert_eq!(program.errors.next().as_deref(), Some("error"));
        assert_eq!(program.wait().code(), Some(3));
    }

    #[test]
    fn ends_quietly_with_who_reads_its_output() {
        let mut program = Program::start("subprocess", &["sh", "-c", "while echo line; do :; done"]);
        program.output.until("line");
        program.output = Lines::of(std::io::empty());
        assert!(!program.wait().success());
        assert_eq!(program.errors.rest(), [""; 0]);
    }

    #[test]
    fn says_what_cannot_be_run() {
        let mut program = Program::start("subprocess", &["/no/such/program"]);
        program.errors.until("cannot run /no/such/program: ");
        assert!(!program.wait().success());
    }
}

mod process_supervisor {
    use super::*;

    #[test]
    fn starts_again_what_ends_and_stops_what_runs() {
        let mut program = Program::start("process_supervisor", &["sh -c exit", "sleep 1000"]);
        program.output.until("sleep 1000: started as process ");
        program.output.until("sh -c exit: exit code 0; again in 100 ms");
        program.output.until("sh -c exit: exit code 0; again in 200 ms");
        program.output.until("sh -c exit: exit code 0; again in 400 ms");
        program.signal("-TERM");
        let lines = program.output.rest();
        assert!(lines.contains(&"sleep 1000: killed by SIGTERM".to_owned()), "{lines:#?}");
        assert_eq!(lines.last().map(String::as_str), Some("process_supervisor: nothing runs any more"));
        assert!(program.wait().success());
    }

    #[test]
    fn kills_what_does_not_go_by_itself() {
        let script = std::env::temp_dir().join(format!("twistor-stubborn-{}", std::process::id()));
        std::fs::write(&script, "trap '' TERM\necho stubborn\nwhile :; do sleep 1; done\n")
            .expect("a script");
        let mut program = Program::start("process_supervisor", &[format!("sh {}", script.display())]);
        program.output.until("stubborn");
        program.signal("-INT");
        program.output.until("killed by SIGKILL");
        assert!(program.wait().success());
        std::fs::remove_file(script).expect("it is there");
    }

    #[test]
    fn goes_on_when_one_command_cannot_be_run() {
        let program = Program::start("process_supervisor", &["/no/such/program", "sleep 1000"]);
        let mut seen = [false; 2];
        while seen != [true; 2] {
            let line = program.output.next().expect("it goes on");
            seen[0] |= line.contains("cannot run /no/such/program") && line.contains("again in 200 ms");
            seen[1] |= line.starts_with("sleep 1000: started");
        }
    }
}

mod reconnect {
    use super::*;

    fn listen(address: SocketAddr) -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind(address).expect("a port");
        let address = listener.local_addr().expect("an address");
        (listener, address)
    }

    #[test]
    fn prints_what_a_server_says_that_goes_away_and_comes_back() {
        let (listener, address) = listen(([127, 0, 0, 1], 0).into());
        let mut program = Program::start("reconnect", &[format!("tcp:{address}")]);
        let mut peer = listener.accept().expect("it connects").0;
        drop(listener);
        let connected = format!("reconnect: connected to {address}");
        assert_eq!(program.output.next(), Some(connected.clone()));
        peer.write_all(b"hello\r\nin pie").expect("it reads");
        assert_eq!(program.output.next().as_deref(), Some("hello"));
        peer.write_all(b"ces\nthe rest").expect("it reads");
        assert_eq!(program.output.next().as_deref(), Some("in pieces"));
        drop(peer);
        assert_eq!(program.output.next().as_deref(), Some("the rest"));
        assert_eq!(program.output.next().as_deref(), Some("reconnect: connection lost: closed"));
        let failure = program.output.until("trying again");
        assert!(failure.contains(&address.to_string()) && failure.contains("refused"), "{failure}");

        let (listener, _) = listen(address);
        let mut peer = listener.accept().expect("it connects again").0;
        program.output.until(&connected);
        peer.write_all(b"back\n").expect("it reads");
        assert_eq!(program.output.next().as_deref(), Some("back"));
        program.signal("-INT");
        assert_eq!(peer.read(&mut [0]).expect("an orderly end"), 0);
        drop(peer);
        assert_eq!(program.output.rest(), ["reconnect: connection lost: closed", "reconnect: stopped"]);
        assert!(program.wait().success());
        assert_eq!(program.errors.rest(), [""; 0]);
    }

    #[test]
    fn stops_at_once_while_it_waits() {
        let (listener, address) = listen(([127, 0, 0, 1], 0).into());
        drop(listener);
        let mut program = Program::start("reconnect", &[format!("tcp:{address}")]);
        program.output.until("trying again");
        program.signal("-TERM");
        program.output.until("reconnect: stopped");
        assert!(program.wait().success());
    }

    #[test]
    fn needs_an_endpoint_that_makes_sense() {
        let mut program = Program::start("reconnect", &["tcp:nonsense"]);
        program.errors.until("bad endpoint \"tcp:nonsense\"");
        assert!(!program.wait().success());
        let mut program = Program::start("reconnect", &[""; 0]);
        program.errors.until("ENDPOINT is missing");
        assert!(!program.wait().success());
    }
}

mod unix_echo {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("twistor-{name}-{}.sock", std::process::id()))
    }

    fn start(path: &Path) -> Program {
        let program = Program::start("unix_echo", &[format!("unix:{}:mode=600", path.display())]);
        program.output.until("listening on ");
        program
    }

    #[test]
    fn knows_its_peer_and_removes_its_file() {
        let path = path("knows");
        let mut program = start(&path);
        let client = UnixStream::connect(&path).expect("connected");
        let mut lines = BufReader::new(client.try_clone().expect("a clone")).lines();
        let greeting = lines.next().expect("a line").expect("text");
        assert_eq!(greeting, format!("hello process {}", std::process::id()));
        (&client).write_all(b"over and out\n").expect("sent");
        assert_eq!(lines.next().expect("a line").expect("text"), "over and out");
        program.output.until(&format!("process {} of user ", std::process::id()));
        client.shutdown(Shutdown::Both).expect("ended");
        program.output.until("closed");
        program.signal("-INT");
        assert!(program.wait().success());
        assert!(!path.exists());
    }

    #[test]
    fn can_be_talked_to_with_nc() {
        let path = path("nc");
        let _program = start(&path);
        let mut command = Command::new("nc");
        command.args(["-N", "-U"]).arg(&path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut nc) = command.spawn() else {
            println!("nc is not installed: not talked to with it");
            return;
        };
        nc.stdin.take().expect("a pipe").write_all(b"from nc\n").expect("sent");
        let output = nc.wait_with_output().expect("its output");
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(text.starts_with("hello process ") && text.ends_with("\nfrom nc\n"), "{text:?}");
    }

    #[test]
    fn starts_again_after_it_was_killed() {
        let path = path("killed");
        for _ in 0..3 {
            let mut program = start(&path);
            program.child.kill().expect("killed");
            program.child.wait().expect("its end");
            assert!(path.exists());
        }
        let mut program = start(&path);
        program.signal("-INT");
        assert!(program.wait().success());
        assert!(!path.exists());
    }
}

/// A reactor as a guest: the same of every host.
mod hosts {
    use super::*;

    /// A host that something can be typed into, and where it listens.
    struct Host {
        program: Program,
        typing: PipeWriter,
        address: SocketAddr,
    }

    impl Host {
        fn start(name: &str, more: &[&str]) -> Self {
            let (input, typing) = pipe().expect("a pipe");
            let arguments: Vec<&str> = [ANY_PORT].iter().chain(more).copied().collect();
            let program = Program::start_reading(name, &arguments, input);
            let line = program.output.until("listening on ");
            let address = line.rsplit_once(' ').and_then(|(_, address)| address.parse().ok());
            Self { program, typing, address: address.expect("an address") }
        }

        fn type_in(&mut self, line: &str) {
            self.typing.write_all(format!("{line}\n").as_bytes()).expect("it reads");
        }

        /// How often the reactor was turned, and its connections.
        fn stats(&mut self) -> (u64, u64) {
            self.type_in("stats");
            let line = self.program.output.until(" turns, ");
            let mut numbers = line.split(' ').filter_map(|word| word.parse().ok());
            (numbers.next().expect("turns"), numbers.next().expect("connections"))
        }

        /// Milliseconds that a timer of 100 took.
        fn timer(&mut self) -> u64 {
            self.type_in("timer");
            let line = self.program.output.until("the timer of 100 ms");
            line.split(' ').filter_map(|word| word.parse().ok()).nth(1).expect("milliseconds")
        }

        /// Waits until it has so many connections.
        fn until_connected(&mut self, connections: u64) {
            let deadline = Instant::now() + PATIENCE;
            while self.stats().1 != connections {
                assert!(Instant::now() < deadline, "{connections} connections do not come about");
            }
        }
    }

    fn echoes_more_than_one_turn_reads(name: &str) {
        let host = Host::start(name, &[]);
        let data = pattern(4 << 20);
        assert!(exchange(&connect(host.address), &data) == data);
    }

    fn serves_many_at_once(name: &str) {
        let mut host = Host::start(name, &[]);
        let address = host.address;
        thread::scope(|scope| {
            for n in 0..20 {
                scope.spawn(move || {
                    let data = pattern(100_000 + n);
                    assert!(exchange(&connect(address), &data) == data);
                });
            }
        });
        host.until_connected(0);
    }

    fn calls_timers_on_time(name: &str) {
        let mut host = Host::start(name, &[]);
        for _ in 0..3 {
            let took = host.timer();
            // Late by a frame, or by what a busy machine adds; not by the next thing that happens.
            assert!((100..1000).contains(&took), "{took} ms");
        }
    }

    fn sleeps_while_nothing_happens(name: &str, turns_per_second: u64) {
        let mut host = Host::start(name, &[]);
        let mut client = connect(host.address);
        client.write_all(b"x").expect("the server reads");
        client.read_exact(&mut [0]).expect("an echo");
        host.until_connected(1);
        let (before, began) = (host.stats().0, Instant::now());
        thread::sleep(Duration::from_millis(300));
        let (after, millis) = (host.stats().0, began.elapsed().as_millis() as u64);
        let most = 5 + turns_per_second * millis / 1000;
        assert!(after - before <= most, "{} turns in {millis} ms, expected {most}", after - before);
        client.write_all(b"y").expect("the server reads");
        client.read_exact(&mut [0]).expect("an echo");
    }

    /// Hundredths of a second that it has computed.
    fn processor_time(program: &Program) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", program.child.id())).expect("its state");
        let (_, fields) = text.rsplit_once(") ").expect("its fields");
        fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
    }

    fn goes_on_quietly_when_the_input_ends(name: &str) {
        let mut host = Host::start(name, &[]);
        host.type_in("stats");
        let Host { program, typing, address } = host;
        drop(typing);
        program.output.until(" turns, ");
        let before = processor_time(&program);
        thread::sleep(Duration::from_millis(300));
        let took = processor_time(&program) - before;
        assert!(took < 10, "{took} of 30 hundredths of a second");
        assert_eq!(exchange(&connect(address), b"still here"), b"still here");
    }

    fn ends_when_it_is_told(name: &str) {
        let mut host = Host::start(name, &[]);
        let mut client = connect(host.address);
        host.until_connected(1);
        host.type_in("nonsense");
        host.program.output.until("\"nonsense\" is none of timer, stats, quit");
        host.type_in("quit");
        assert_eq!(client.read(&mut [0]).expect("an orderly end"), 0);
        drop(client);
        drop(host.typing);
        host.program.output.until("1 accepted, 0 connected, 1 lost");
        assert!(host.program.wait().success());
        assert_eq!(host.program.errors.rest(), [""; 0]);
    }

    fn says_why_it_cannot_serve(name: &str) {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let number = taken.local_addr().expect("an address").port();
        let mut program = Program::start(name, &[format!("tcp:{number}:interface=127.0.0.1")]);
        program.errors.until(&format!("cannot listen on 127.0.0.1:{number}"));
        assert!(!program.wait().success());
    }

    /// A module of tests for each host, with the turns that it makes in a second while nothing happens.
    macro_rules! hosts {
        ($($name:ident: $turns:literal,)*) => {
            $(mod $name {
                const NAME: &str = stringify!($name);

                #[test]
                fn echoes_more_than_one_turn_reads() {
                    super::echoes_more_than_one_turn_reads(NAME);
                }

                #[test]
                fn serves_many_at_once() {
                    super::serves_many_at_once(NAME);
                }

                #[test]
                fn calls_timers_on_time() {
                    super::calls_timers_on_time(NAME);
                }

                #[test]
                fn sleeps_while_nothing_happens() {
                    super::sleeps_while_nothing_happens(NAME, $turns);
                }

                #[cfg(target_os = "linux")]
                #[test]
                fn goes_on_quietly_when_the_input_ends() {
                    super::goes_on_quietly_when_the_input_ends(NAME);
                }

                #[test]
                fn ends_when_it_is_told() {
                    super::ends_when_it_is_told(NAME);
                }

                #[test]
                fn says_why_it_cannot_serve() {
                    super::says_why_it_cannot_serve(NAME);
                }
            })*
        };
    }

    hosts! {
        embed_poll: 0,
        embed_calloop: 0,
        embed_tokio: 0,
        // One each ten milliseconds.
        embed_wake_hook: 100,
        // One a frame.
        game_tick: 60,
        background_thread: 0,
    }

    #[test]
    fn the_wake_hook_makes_the_pace_matter_to_sockets_only() {
        let mut host = Host::start("embed_wake_hook", &["600000"]);
        let took = host.timer();
        assert!((100..1000).contains(&took), "{took} ms");
        let (before, began) = (host.stats().0, Instant::now());
        thread::sleep(Duration::from_millis(100));
        assert!(host.stats().0 - before <= 5, "it sleeps {:?}", began.elapsed());
        host.type_in("quit");
        assert!(host.program.wait().success());
    }

    #[test]
    fn a_game_says_what_its_frames_were_spent_on() {
        let mut host = Host::start("game_tick", &[]);
        let line = host.program.output.until("60 frames: game up to ");
        assert!(line.contains("network up to ") && line.contains(" of 4ms in "), "{line}");
        // A flood takes no more than its share: the game goes on.
        let address = host.address;
        let flood = thread::spawn(move || {
            let data = pattern(32 << 20);
            assert!(exchange(&connect(address), &data) == data);
        });
        let began = Instant::now();
        assert!(host.timer() >= 100);
        host.program.output.until("60 frames: ");
        assert!(began.elapsed() < PATIENCE / 2);
        flood.join().expect("all came back");
    }
}

mod file_and_network {
    use super::*;

    /// A file that is removed when the test is over.
    struct Large(PathBuf);

    impl Large {
        fn new(name: &str, size: u64) -> Self {
            let path = std::env::temp_dir().join(format!("twistor-{name}-{}", std::process::id()));
            File::create(&path).and_then(|file| file.set_len(size)).expect("a file");
            Self(path)
        }
    }

    impl Drop for Large {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn server() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        (listener, address)
    }

    #[test]
    fn reads_its_file_while_a_server_does_not_answer_and_is_served_while_it_reads() {
        let file = Large::new("slow-server", 8 << 20);
        let (listener, address) = server();
        let path = file.0.to_str().expect("a path").to_owned();
        let mut program = Program::start("file_and_network", &[path, format!("tcp:{address}")]);
        let mut peer = Client::new(listener.accept().expect("it connects").0);
        assert_eq!(peer.lines.next().as_deref(), Some("request 1"));
        // Nobody has answered, and all of the file comes.
        program.output.until("file: 50 % read");
        assert_eq!(program.output.until("bytes read"), format!("file: all {} bytes read", 8 << 20));
        for request in 1..=10 {
            if request > 1 {
                assert_eq!(peer.lines.next(), Some(format!("request {request}")));
            }
            peer.say(format!("answer to {request}"));
            assert_eq!(
                program.output.next(),
                Some(format!("network: answer {request}: answer to {request}"))
            );
        }
        peer.stream.shutdown(Shutdown::Write).expect("an end");
        assert_eq!(program.output.rest(), ["network: connection lost: closed"]);
        assert!(program.wait().success());
        assert_eq!(program.errors.rest(), [""; 0]);
    }

    #[test]
    fn a_file_that_is_stuck_does_not_hold_the_network_up() {
        let path = std::env::temp_dir().join(format!("twistor-fifo-{}", std::process::id()));
        let fifo = Large(path);
        assert!(Command::new("mkfifo").arg(&fifo.0).status().expect("mkfifo").success());
        let (listener, address) = server();
        let path = fifo.0.to_str().expect("a path").to_owned();
        let mut program = Program::start("file_and_network", &[path, format!("tcp:{address}")]);
        let mut peer = Client::new(listener.accept().expect("it connects").0);
        for request in 1..=10 {
            assert_eq!(peer.lines.next(), Some(format!("request {request}")));
            peer.say("yes");
            assert_eq!(program.output.next(), Some(format!("network: answer {request}: yes")));
        }
        peer.stream.shutdown(Shutdown::Write).expect("an end");
        assert_eq!(program.output.next().as_deref(), Some("network: connection lost: closed"));
        // Now somebody writes; a FIFO has no length, and cannot be read at a place.
        drop(std::fs::OpenOptions::new().write(true).open(&fifo.0).expect("it is being opened"));
        let error = program.errors.until("cannot read");
        assert!(error.contains("twistor-fifo-"), "{error}");
        program.wait();
    }

    #[test]
    fn shows_both_with_what_it_makes_itself() {
        let mut program = Program::start("file_and_network", &[""; 0]);
        let lines = program.output.rest();
        assert!(program.wait().success());
        assert_eq!(
            lines.iter().filter(|line| line.starts_with("network: answer ")).count(),
            10,
            "{lines:#?}"
        );
        assert!(lines.iter().any(|line| line.starts_with("file: all 67108864 bytes")), "{lines:#?}");
        assert_eq!(program.errors.rest(), [""; 0]);
    }

    #[test]
    fn says_what_is_missing() {
        let (listener, address) = server();
        drop(listener);
        let mut program = Program::start("file_and_network", &["/no/such/file", &format!("tcp:{address}")]);
        let errors = program.errors.rest();
        assert!(errors.iter().any(|line| line.contains("cannot open \"/no/such/file\"")), "{errors:#?}");
        assert!(errors.iter().any(|line| line.contains("refused")), "{errors:#?}");
        assert!(!program.wait().success());
    }
}

mod event_handlers {
    use super::*;
    use twistor_tests::pty::{Modes, Pty, Running, Session};

    fn start(pty: &mut Pty) -> Running {
        let mut command = Command::new(example("event_handlers"));
        command.env_remove("RUST_LOG");
        let running = pty.start(command, Session::Own, |_| {});
        pty.until("\x1b[?2004h\x1b[?1000h\x1b[?1006h");
        pty.until("q ends it\r\n");
        running
    }

    #[test]
    fn hears_of_keys_and_clicks_in_a_terminal_and_leaves_it_as_it_was() {
        let mut pty = Pty::new();
        let before = pty.modes();
        let mut program = start(&mut pty);
        pty.until_modes("raw mode", Modes::are_raw);
        let mut expect = |typed: &[u8], shown: &[&str]| {
            pty.press(typed);
            for line in shown {
                assert_eq!(pty.until("\r\n"), format!("{line}\r\n"));
            }
        };
        expect(b"a", &["key: a"]);
        expect(b"\x01", &["key: Ctrl-a"]);
        expect("é".as_bytes(), &["key: é"]);
        expect(b"\x1bx", &["key: Alt-x"]);
        expect(b"\x1b[A\x1b[1;5C\x1bOP", &["key: Up", "key: Ctrl-Right", "key: F1"]);
        expect(b"\x1b[<0;12;5M\x1b[<0;12;5m", &["click: Left at 12, 5", "released: Left at 12, 5"]);
        expect(b"\x1b[<18;1;2M\x1b[<64;3;4M", &["click: Ctrl-Right at 1, 2", "mouse: ScrollUp at 3, 4"]);
        expect(b"\x1b[200~q\x1b[201~", &["pasted: \"q\""]);
        // Nothing follows.
        expect(b"\x1b", &["key: Esc"]);
        expect(b"\r\t\x7f", &["key: Enter", "key: Tab", "key: Backspace"]);
        expect(b"q", &["key: q", "bye"]);
        assert!(program.wait().success());
        assert_eq!(pty.modes(), before);
        assert_eq!(pty.rest(), "\x1b[?1006l\x1b[?1000l\x1b[?2004l");
    }

    #[test]
    fn leaves_the_terminal_as_it_was_when_it_is_interrupted_or_ended() {
        for key in [Some(b"\x03"), None] {
            let mut pty = Pty::new();
            let before = pty.modes();
            let mut program = start(&mut pty);
            match key {
                Some(key) => pty.press(key),
                None => program.signal(libc::SIGTERM),
            }
            program.wait();
            assert_eq!(pty.modes(), before);
            pty.until("\x1b[?1006l\x1b[?1000l\x1b[?2004l");
        }
    }

    #[test]
    fn reads_a_pipe_and_a_file() {
        let (input, mut typing) = pipe().expect("a pipe");
        let mut program = Program::start_reading("event_handlers", &[""; 0], input);
        program.output.until("q ends it");
        typing.write_all(b"a\x1b[").expect("it reads");
        assert_eq!(program.output.next().as_deref(), Some("key: a"));
        // Time tells that this is no more than it is.
        assert_eq!(program.output.next().as_deref(), Some("key: Alt-["));
        typing.write_all(b"\x1b[<2;7;3Mqxyz").expect("it reads");
        assert_eq!(program.output.next().as_deref(), Some("click: Right at 7, 3"));
        program.output.until("bye");
        assert!(program.wait().success());

        let path = std::env::temp_dir().join(format!("twistor-keys-{}", std::process::id()));
        std::fs::write(&path, "xy\x1b").expect("a file");
        let mut program =
            Program::start_reading("event_handlers", &[""; 0], File::open(&path).expect("a file"));
        let lines = program.output.rest();
        assert!(program.wait().success());
        std::fs::remove_file(path).expect("a file");
        assert_eq!(lines[1..], ["key: x", "key: y", "key: Esc"], "its end ends it");
    }
}

mod protocol_unit_test {
    use super::*;

    #[test]
    fn passes_and_says_what_it_has_tested() {
        let mut program = Program::start("protocol_unit_test", &[""; 0]);
        let lines = program.output.rest();
        assert!(program.wait().success(), "{lines:#?}");
        assert!(lines.len() >= 8 && lines.iter().all(|line| line.starts_with("ok ")), "{lines:#?}");
    }
}

mod lease_simulation {
    use super::*;

    #[test]
    fn finds_nothing_wrong() {
        let mut program = Program::start("lease_simulation", &["--search", "50"]);
        program.output.until("50 seeds");
        assert!(program.wait().success());
    }

    #[test]
    fn finds_the_planted_mistake_and_names_its_seed_and_fewer_faults() {
        let mut program = Program::start("lease_simulation", &["--search", "200", "--buggy"]);
        let seed = program.output.until("lead at the same time");
        let seed = seed.split(' ').nth(1).expect("a seed").to_owned();
        let count = program.output.until("random faults:");
        let numbers: Vec<usize> = count.split(' ').filter_map(|word| word.parse().ok()).collect();
        assert!(matches!(*numbers, [left, all] if left < all), "{count}");
        assert!(!program.wait().success());

        // Replayed, it fails in the same way.
        let mut program = Program::start("lease_simulation", &["--seed", &seed, "--buggy"]);
        program.errors.until("lead at the same time");
        assert!(!program.wait().success());
    }

    #[test]
    fn tells_the_same_story_for_the_same_seed() {
        let story = |seed: &str| {
            let mut program = Program::start("lease_simulation", &["--seed", seed]);
            let lines = program.output.rest();
            assert!(program.wait().success());
            lines
        };
        let first = story("7");
        assert!(first.iter().any(|line| line.ends_with(" leads")), "{first:#?}");
        assert_eq!(first, story("7"));
        assert_ne!(first, story("8"));
    }
}

mod daemon {
    use super::*;

    /// Where it says that it listens, and which process it is.
    fn ready(program: &Program) -> (SocketAddr, String) {
        let listening = program.errors.until("listening on 127");
        let ready = program.errors.until("ready, process ");
        let last = |line: &str| line.rsplit_once(' ').expect("words").1.to_owned();
        (last(&listening).parse().expect("an address"), last(&ready))
    }

    fn kill(signal: &str, pid: &str) {
        assert!(Command::new("kill").args([signal, pid]).status().expect("kill").success());
    }

    #[test]
    fn serves_restarts_and_stops_as_its_text_says() {
        let directory = std::env::temp_dir().join(format!("twistor-example-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let file = |name: &str| directory.join(name);
        let pidfile = format!("pidfile={}", file("pid").display());
        let socket = format!("unix:{}", file("socket").display());
        let mut program = Program::start("daemon", &[&*pidfile, ANY_PORT, &*socket]);
        let (address, first) = ready(&program);
        let mut open = connect(address);
        let mut echo = |text: &[u8]| {
            open.write_all(text).expect("it reads");
            let mut answer = vec![0; text.len()];
            open.read_exact(&mut answer).expect("an answer");
            assert_eq!(answer, text);
        };
        echo(b"before");
        kill("-USR1", &first);
        program.errors.until("1 accepted");
        kill("-USR2", &first);
        let (_, second) = ready(&program);
        assert_ne!(first, second);
        assert_eq!(std::fs::read_to_string(file("pid")).expect("a pidfile"), format!("{second}\n"));
        echo(b"after");
        let mut unix = std::os::unix::net::UnixStream::connect(file("socket")).expect("somebody listens");
        unix.write_all(b"new").expect("it reads");
        unix.read_exact(&mut [0; 3]).expect("an answer");
        drop((open, unix));
        // The new process has the standard streams, too.
        assert!(program.child.wait().expect("a child").success());
        kill("-TERM", &second);
        program.errors.until(&format!("ended, process {second}"));
        assert!(!file("pid").exists() && !file("socket").exists());
        std::fs::remove_dir_all(directory).expect("removed");
    }

    #[test]
    fn says_what_is_wrong_with_its_settings() {
        let mut program = Program::start("daemon", &["user=no-such-user", ANY_PORT]);
        program.errors.until("there is no user \"no-such-user\"");
        assert_eq!(program.wait().code(), Some(78));
    }

    #[test]
    fn its_unit_is_one_that_systemd_takes() {
        let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/daemon.service");
        let text = std::fs::read_to_string(unit).expect("a unit");
        let name = "/usr/local/bin/echo-daemon";
        assert!(text.contains(name));
        let program = example("daemon");
        let directory = std::env::temp_dir().join(format!("twistor-unit-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let copy = directory.join("daemon.service");
        std::fs::write(
            &copy,
            text.replace(&format!("ExecStart={name}"), &format!("ExecStart={}", program.display())),
        )
        .expect("a file");
        match Command::new("systemd-analyze").args(["--recursive-errors=no", "verify"]).arg(&copy).output() {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success() && !said.contains("daemon.service:"), "{said}");
            }
            Err(error) => println!("not run: systemd-analyze: {error}"),
        }
        std::fs::remove_dir_all(directory).expect("removed");
    }
}
