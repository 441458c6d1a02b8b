//! `echo_server`, and `echo_async`, which does the same.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use crate::support::{ANY_PORT, Lines, Program, connect, exchange, pattern};

const BOTH: [&str; 2] = ["echo_server", "echo_async"];

#[test]
fn returns_every_byte() {
    for name in BOTH {
        let (_server, address) = Program::serve(name, &[ANY_PORT]);
        let data = pattern(1 << 20);
        assert!(exchange(&connect(address), &data) == data);
    }
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
    for (name, signal) in BOTH.iter().flat_map(|name| [(name, "-TERM"), (name, "-INT")]) {
        let (mut server, address) = Program::serve(name, &[ANY_PORT]);
        let mut open = connect(address);
        open.write_all(b"twelve bytes").expect("the server reads");
        open.read_exact(&mut [0; 12]).expect("an answer");
        server.signal(signal);
        assert_eq!(open.read(&mut [0]).expect("an orderly end"), 0);
        drop(open);
        let served = server.output.until(&format!("{name}: "));
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
