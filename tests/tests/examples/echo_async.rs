//! `echo_async`: the same server as `echo_server`.

use std::io::{Read, Write};

use crate::support::{ANY_PORT, Program, connect, exchange, pattern};

#[test]
fn returns_every_byte() {
    let (_server, address) = Program::serve("echo_async", &[ANY_PORT]);
    let data = pattern(1 << 20);
    assert!(exchange(&connect(address), &data) == data);
}

#[test]
fn stops_cleanly_on_a_signal_and_says_what_it_served() {
    for signal in ["-TERM", "-INT"] {
        let (mut server, address) = Program::serve("echo_async", &[ANY_PORT]);
        let mut open = connect(address);
        open.write_all(b"twelve bytes").expect("the server reads");
        open.read_exact(&mut [0; 12]).expect("an answer");
        server.signal(signal);
        assert_eq!(open.read(&mut [0]).expect("an orderly end"), 0);
        drop(open);
        let served = server.output.until("echo_async: ");
        assert!(served.contains("1 accepted") && served.contains("12 bytes"), "{served}");
        assert!(server.wait().success());
        assert_eq!(server.errors.rest(), [""; 0]);
    }
}
