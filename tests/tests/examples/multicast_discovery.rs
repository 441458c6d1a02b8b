//! `multicast_discovery`.

use std::net::UdpSocket;

use crate::support::Program;

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
