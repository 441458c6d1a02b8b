//! `port_forward`.

use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::thread;

use crate::support::{ANY_PORT, Program, connect, exchange, pattern};

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
