//! `udp_echo`.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};

use crate::support::{Lines, PATIENCE, Program, pattern};

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
