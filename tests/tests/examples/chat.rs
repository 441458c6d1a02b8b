//! `chat`.

use std::io::Write;
use std::net::SocketAddr;

use socket2::SockRef;

use crate::support::{ANY_PORT, Client, Program, connect};

fn join(address: SocketAddr, name: &str) -> Client {
    let mut member = Client::connect(address);
    member.lines.until("your nickname?");
    member.say(name);
    member.lines.until("* here: ");
    member
}

#[test]
fn members_hear_each_other_and_whispers_only_their_target() {
    let (_server, address) = Program::serve("chat", &[ANY_PORT]);
    let mut alice = join(address, "alice");
    let mut bob = join(address, "bob");
    let mut carol = join(address, "carol");
    alice.lines.until("* carol joined");

    alice.say("hello, all");
    for member in [&alice, &bob, &carol] {
        member.lines.until("<alice> hello, all");
    }
    bob.say("/msg alice only for you");
    alice.lines.until("[bob] only for you");
    bob.lines.until("* alice was told");
    bob.say("/msg nobody hm");
    bob.lines.until("* nobody is not here");
    carol.say("/who");
    // What carol hears next is the answer: she did not hear the whisper.
    assert_eq!(carol.lines.next().as_deref(), Some("* here: alice, bob, carol"));
    carol.say("/quit");
    assert_eq!(carol.lines.next(), None);
    drop(carol);
    alice.lines.until("* carol left (closed)");
}

#[test]
fn a_nickname_is_given_once() {
    let (_server, address) = Program::serve("chat", &[ANY_PORT]);
    let _alice = join(address, "alice");
    let mut other = Client::connect(address);
    other.say("alice");
    other.lines.until("* alice is taken");
    other.say("not/a/name");
    other.lines.until("letters and digits");
    other.say("alicia");
    other.lines.until("* here: alice");
}

#[test]
fn a_member_can_be_kicked() {
    let (_server, address) = Program::serve("chat", &[ANY_PORT]);
    let mut alice = join(address, "alice");
    let bob = join(address, "bob");
    alice.say("/kick nobody");
    alice.lines.until("* nobody is not here");
    alice.say("/kick bob");
    bob.lines.until("* alice kicked bob");
    assert_eq!(bob.lines.next(), None);
    drop(bob);
    alice.lines.until("* bob left (closed)");
}

#[test]
fn a_member_that_never_reads_misses_messages_and_slows_nobody() {
    // Small buffers of the kernel, so that a little makes them full.
    let (_server, address) = Program::serve("chat", &["tcp:0:interface=127.0.0.1:send_buffer=8192"]);
    let mut alice = join(address, "alice");
    let mut deaf = connect(address);
    SockRef::from(&deaf).set_recv_buffer_size(8192).expect("a buffer size");
    deaf.write_all(b"deaf\n").expect("the server reads");
    alice.lines.until("* deaf joined");

    let long = "x".repeat(8000);
    let noticed = (0..10_000).any(|_| {
        alice.say(&long);
        alice.lines.next().is_some_and(|line| line.contains("* deaf does not read"))
    });
    assert!(noticed);
    alice.say("still quick");
    alice.lines.until("<alice> still quick");

    let deaf = Client::new(deaf);
    deaf.lines.until("* you did not read: ");
    alice.say("welcome back");
    deaf.lines.until("<alice> welcome back");
}
