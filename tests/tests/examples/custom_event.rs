//! `custom_event`.

use crate::support::{ANY_PORT, Client, Program};

#[test]
fn all_who_wait_go_when_the_last_one_has_come() {
    let (program, address) = Program::serve("custom_event", &[ANY_PORT, "3", "3600"]);
    let mut first = Client::connect(address);
    assert_eq!(first.lines.next().as_deref(), Some("waiting for 2 more"));
    let second = Client::connect(address);
    assert_eq!(second.lines.next().as_deref(), Some("waiting for 1 more"));
    let third = Client::connect(address);
    for client in [&first, &second, &third] {
        assert_eq!(client.lines.next().as_deref(), Some("go!"));
    }
    program.output.until("the latch is open");
    first.say("here");
    program.output.until(" answers: here");
    // It stays open.
    assert_eq!(Client::connect(address).lines.next().as_deref(), Some("go!"));
}

#[test]
fn who_has_come_goes_when_time_is_up() {
    let (program, address) = Program::serve("custom_event", &[ANY_PORT, "1000", "1"]);
    let client = Client::connect(address);
    client.lines.until("go!");
    program.output.until("the latch is open");
}
