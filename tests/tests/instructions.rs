//! The budget of the hot path in user-space instructions, counted by `valgrind --tool=callgrind`.
//!
//! Instructions are counted on the release build of the echo example, as the difference of two runs that
//! differ only in their number of messages, so that starting and stopping cancel out. Clocks have no part in
//! it: the counts are the same on a busy machine.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

const MESSAGE: [u8; 64] = [b'x'; 64];
const SHORT: usize = 32 * 50;
const LONG: usize = 32 * 250;

#[test]
fn an_echoed_message_keeps_to_its_budget_of_instructions() {
    keeps_to("echo_server", [(1, 400), (32, 320)]);
}

/// The same server, with a task for each connection: what waking and polling it costs, and the way of the
/// bytes through its stream. A message costs the kernel some 20 000 instructions more, the same in both.
#[test]
fn an_echo_by_a_task_keeps_to_its_budget_of_instructions() {
    keeps_to("echo_async", [(1, 1180), (32, 1010)]);
}

fn keeps_to(example: &str, budgets: [(usize, u64); 2]) {
    if !cfg!(target_arch = "x86_64") || Command::new("valgrind").arg("--version").output().is_err() {
        println!("not counted: the budget is for x86-64, and needs valgrind");
        return;
    }
    let server = build(example);
    for (connections, budget) in budgets {
        let difference = instructions(&server, connections, LONG) - instructions(&server, connections, SHORT);
        let each = difference / (LONG - SHORT) as u64;
        println!("{example}, {connections} connections: {each} instructions per message");
        assert!(
            each <= budget,
            "{each} instructions per message among {connections}, the budget is {budget}"
        );
        assert!(each > 50, "{each} instructions cannot echo anything: the measurement is broken");
    }
}

/// The release build of the example. Whichever test comes first has all of them built, at once.
fn build(example: &str) -> PathBuf {
    static BUILT: OnceLock<Vec<PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(build_all);
    built.iter().find(|path| path.ends_with(example)).expect("an executable").clone()
}

fn build_all() -> Vec<PathBuf> {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--package", "twistor-examples"])
        .args(["--example", "echo_server", "--example", "echo_async", "--message-format", "json"])
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo");
    assert!(built.status.success(), "the examples do not compile");
    let messages = String::from_utf8(built.stdout).expect("JSON");
    let paths = messages.lines().filter_map(|line| line.split_once("\"executable\":\"")?.1.split_once('"'));
    paths.map(|(path, _)| PathBuf::from(path)).collect()
}

/// Instructions of the whole life of a server that echoes so many messages, each connection in turn.
fn instructions(server: &Path, connections: usize, messages: usize) -> u64 {
    let mut valgrind = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(server)
        .arg("tcp:0:interface=127.0.0.1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("valgrind");
    let mut errors = valgrind.stderr.take().expect("a pipe");
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        errors.read_to_string(&mut text).map(|_| text)
    });
    let output = BufReader::new(valgrind.stdout.take().expect("a pipe"));
    let mut lines = output.lines().map_while(Result::ok);
    let address = lines.find_map(|line| Some(line.split_once("listening on ")?.1.to_owned()));
    let address: SocketAddr = address.expect("the server listens").parse().expect("an address");

    let mut streams: Vec<TcpStream> =
        (0..connections).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    for stream in &streams {
        stream.set_nodelay(true).expect("nodelay");
    }
    for _ in 0..messages / connections {
        for stream in &mut streams {
            stream.write_all(&MESSAGE).expect("sent");
        }
        for stream in &mut streams {
            let mut echo = [0; MESSAGE.len()];
            stream.read_exact(&mut echo).expect("echoed");
            assert_eq!(echo, MESSAGE);
        }
    }
    drop(streams);
    let asked = Command::new("kill").arg(valgrind.id().to_string()).status().expect("kill");
    assert!(asked.success(), "the server is gone already");
    lines.for_each(drop);
    assert!(valgrind.wait().expect("an end").success(), "the server ended badly");
    let text = errors.join().expect("a thread").expect("text");
    let collected = text.split("Collected : ").nth(1).expect("callgrind's count");
    collected.split_whitespace().next().and_then(|count| count.parse().ok()).expect("a number")
}
