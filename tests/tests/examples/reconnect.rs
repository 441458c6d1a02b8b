//! `reconnect`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use crate::support::Program;

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
