//! A protocol and its unit tests: no socket, no port, no sleep.
//!
//! Run it:          cargo run --features testing --example protocol_unit_test
//! Or as tests:     cargo test --package twistor-examples --features testing --example protocol_unit_test
//!
//! The protocol is a tally behind a password, in lines: `login PASSWORD` within five seconds, then `add N`, `total` and
//! `quit`. To make guessing slow, nothing is read for a second after a wrong password.
//!
//! What it shows: `ProtocolTest` puts a protocol on a connection in memory and on a clock that stands still. The test
//! feeds it bytes, in pieces of any size, reads what it answers, asks whether it reads and whether it closes, and moves
//! the clock: an hour takes no time.

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::Duration;

use twistor::testing::{Ending, ProtocolTest};
use twistor::{DelayedCall, OnTimeout, Timeout, Timeouts};
use twistor_examples::arguments;
use twistor_protocols::{LineCodec, LineProtocol, LineReceiver, Lines};

/// To log in, from the beginning.
const LOGIN_TIME: Duration = Duration::from_secs(5);
/// Nothing is read for so long after a wrong password.
const PENALTY: Duration = Duration::from_secs(1);
/// A connection that says nothing for so long is closed.
const IDLE_TIME: Duration = Duration::from_secs(60);
const LONGEST_LINE: usize = 64;

// The protocol.

/// What one connection has added up.
struct Tally {
    total: u64,
    /// Hangs up; `None` once the password was right.
    login_limit: Option<DelayedCall>,
}

impl Tally {
    fn protocol() -> LineProtocol<Self> {
        let codec = LineCodec::new().max_length(LONGEST_LINE);
        LineProtocol::with_codec(codec, Self { total: 0, login_limit: None })
    }

    fn log_in(&mut self, io: &Lines, line: &str) {
        if line == "login friend" {
            self.login_limit.take().inspect(|limit| _ = limit.cancel());
            return io.send_line("welcome");
        }
        io.send_line("no");
        io.pause_reading();
        io.call_later(PENALTY, |_: &mut LineProtocol<Self>, transport| transport.resume_reading());
    }

    fn obey(&mut self, io: &Lines, line: &str) {
        match line.split_once(' ').map_or((line, None), |(verb, number)| (verb, number.parse::<u64>().ok())) {
            ("add", Some(number)) => match self.total.checked_add(number) {
                Some(total) => self.total = total,
                None => io.send_line("too much"),
            },
            ("total", None) => io.send_line(self.total.to_string()),
            ("quit", None) => {
                io.send_line("bye");
                io.lose_connection();
            }
            _ => io.send_line("what?"),
        }
    }
}

impl LineReceiver for Tally {
    fn connection_made(&mut self, io: &Lines) {
        io.set_timeouts(Timeouts::new().idle(IDLE_TIME));
        self.login_limit = Some(io.call_later(LOGIN_TIME, |tally: &mut LineProtocol<Self>, transport| {
            tally.io(transport).send_line("too late");
            transport.lose_connection();
        }));
    }

    fn line_received(&mut self, io: &Lines, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        if self.login_limit.is_some() { self.log_in(io, &line) } else { self.obey(io, &line) }
    }

    fn timed_out(&mut self, io: &Lines, _: Timeout) -> OnTimeout {
        io.send_line("are you asleep?");
        OnTimeout::Close
    }
}

// Its tests.

type Test = ProtocolTest<LineProtocol<Tally>>;

fn logged_in() -> Test {
    let mut test = ProtocolTest::new(Tally::protocol());
    test.feed(b"login friend\n");
    assert_eq!(test.written(), b"welcome\r\n");
    test
}

#[cfg_attr(test, test)]
fn adds_up_and_says_the_total() {
    let mut test = logged_in();
    test.feed(b"add 40\nadd 2\ntotal\n");
    assert_eq!(test.written(), b"42\r\n");
}

#[cfg_attr(test, test)]
fn answers_the_same_wherever_the_stream_is_cut() {
    let session = b"login friend\r\nadd 40\r\nnonsense\r\nadd 2\r\ntotal\r\nquit\r\n";
    for length in 1..=session.len() {
        let mut test = ProtocolTest::new(Tally::protocol());
        test.feed_in_pieces(session, length);
        assert_eq!(test.written(), b"welcome\r\nwhat?\r\n42\r\nbye\r\n", "in pieces of {length}");
    }
}

#[cfg_attr(test, test)]
fn reads_nothing_for_a_second_after_a_wrong_password() {
    let mut test = ProtocolTest::new(Tally::protocol());
    test.feed(b"login foe\nlogin friend\n");
    assert_eq!(test.written(), b"no\r\n");
    assert!(!test.is_reading());

    test.advance(PENALTY - Duration::from_nanos(1));
    assert_eq!(test.written(), b"");
    test.advance(Duration::from_nanos(1));
    assert_eq!(test.written(), b"welcome\r\n");
    assert!(test.is_reading());
}

#[cfg_attr(test, test)]
fn hangs_up_on_who_does_not_log_in_in_time() {
    let mut test = ProtocolTest::new(Tally::protocol());
    test.advance(LOGIN_TIME);
    assert_eq!(test.written(), b"too late\r\n");
    assert_eq!(test.ending(), Ending::Finished);
}

#[cfg_attr(test, test)]
fn does_not_hang_up_on_who_does() {
    let mut test = logged_in();
    test.advance(LOGIN_TIME);
    assert!(!test.is_closing());
}

#[cfg_attr(test, test)]
fn closes_a_connection_that_says_nothing_for_a_minute() {
    let mut test = logged_in();
    for _ in 0..60 {
        test.advance(IDLE_TIME - Duration::from_secs(1));
        test.feed(b"add 1\n");
    }
    assert_eq!(test.with_protocol(|tally, _| tally.total), 60);

    test.advance(IDLE_TIME);
    assert_eq!(test.written(), b"are you asleep?\r\n");
    assert_eq!(test.ending(), Ending::Finished);
}

#[cfg_attr(test, test)]
fn a_line_that_is_too_long_ends_the_connection() {
    let mut test = logged_in();
    test.feed(&[b'9'; LONGEST_LINE + 1]);
    test.feed(b"\n");
    test.finish();
    assert_eq!(test.lost().as_deref(), Some("failed: a line of the peer is longer than 64 bytes"));
}

#[cfg_attr(test, test)]
fn a_connection_that_breaks_is_lost_at_once() {
    let mut test = ProtocolTest::new(Tally::protocol());
    test.feed(b"login foe\n");
    test.reset();
    assert_eq!(test.lost().as_deref(), Some("reset by the peer or the network"));
}

/// A list of tests, with their names as sentences.
macro_rules! tests {
    ($($name:ident,)*) => { [$((stringify!($name).replace('_', " "), $name as fn())),*] };
}

fn main() -> ExitCode {
    let [] = arguments("protocol_unit_test", "Tests a protocol, and says what it has tested.", []);
    let tests = tests![
        adds_up_and_says_the_total,
        answers_the_same_wherever_the_stream_is_cut,
        reads_nothing_for_a_second_after_a_wrong_password,
        hangs_up_on_who_does_not_log_in_in_time,
        does_not_hang_up_on_who_does,
        closes_a_connection_that_says_nothing_for_a_minute,
        a_line_that_is_too_long_ends_the_connection,
        a_connection_that_breaks_is_lost_at_once,
    ];
    let mut status = ExitCode::SUCCESS;
    for (name, test) in tests {
        match catch_unwind(test) {
            Ok(()) => println!("ok      {name}"),
            Err(_) => {
                println!("FAILED  {name}");
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}
