//! `unix_echo`.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::Program;

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
    // Whoever answers has begun to handle signals.
    let client = UnixStream::connect(&path).expect("connected");
    BufReader::new(client).lines().next().expect("a greeting").expect("text");
    program.signal("-INT");
    assert!(program.wait().success());
    assert!(!path.exists());
}
