//! `file_and_network`.

use std::fs::File;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;

use crate::support::{Client, Program};

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
        assert_eq!(program.output.next(), Some(format!("network: answer {request}: answer to {request}")));
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
    assert_eq!(lines.iter().filter(|line| line.starts_with("network: answer ")).count(), 10, "{lines:#?}");
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
