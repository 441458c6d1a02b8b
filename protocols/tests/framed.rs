//! Lines on a reactor: what hooks ask for holds before the next frame.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use twistor::{Connection, Eof, Protocol, Reactor, Reason, Transport};
use twistor_protocols::{Codec, Decoded, FrameError, FrameHandler, Framed, FramedProtocol, Output};
use twistor_protocols::{LineCodec, LineProtocol, LineReceiver, Lines};

type Events = Rc<RefCell<Vec<String>>>;
type OnLine = Box<dyn FnMut(&Lines, &str)>;

/// Writes down what it is told, and does with each line what the test says.
struct Recorder {
    events: Events,
    on_line: OnLine,
}

impl Recorder {
    fn note(&self, event: impl Into<String>) {
        self.events.borrow_mut().push(event.into());
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl LineReceiver for Recorder {
    fn line_received(&mut self, io: &Lines, line: &[u8]) {
        let line = text(line);
        self.note(&line);
        (self.on_line)(io, &line);
    }

    fn raw_data_received(&mut self, io: &Lines, data: &[u8]) {
        let (body, rest) = data.split_at(data.iter().position(|byte| *byte == b'.').unwrap_or(data.len()));
        self.note(format!("raw {}", text(body)));
        if let Some(rest) = rest.strip_prefix(b".") {
            io.set_line_mode(rest);
        }
    }

    fn eof_received(&mut self, _: &Lines, rest: &[u8]) -> Eof {
        self.note(format!("eof after {}", text(rest)));
        Eof::Close
    }

    fn connection_lost(&mut self, _: &Lines, reason: &Reason) {
        self.note(format!("lost: {reason}"));
    }
}

/// Takes over a connection.
struct Successor(Events);

impl Protocol for Successor {
    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.0.borrow_mut().push(format!("successor {}", text(data)));
    }
}

/// A reactor with one connection that speaks in lines, and the peer at its other end.
struct Pair {
    reactor: Reactor,
    events: Events,
    peer: TcpStream,
    connection: Connection<LineProtocol<Recorder>>,
}

impl Pair {
    fn new(codec: LineCodec, on_line: impl FnMut(&Lines, &str) + 'static) -> Self {
        let reactor = Reactor::new().unwrap();
        let events = Events::default();
        let recorder = Recorder { events: Rc::clone(&events), on_line: Box::new(on_line) };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let made = Rc::new(RefCell::new(None));
        let outcome = Rc::clone(&made);
        reactor
            .connect_protocol(listener.local_addr().unwrap(), LineProtocol::with_codec(codec, recorder))
            .on_done(move |_, connection| *outcome.borrow_mut() = Some(connection.unwrap()));
        until(&reactor, || made.borrow().is_some());
        let connection = made.take().unwrap();
        Self { reactor, events, peer: listener.accept().unwrap().0, connection }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.peer.write_all(bytes).unwrap();
    }

    /// Turns the reactor until this has happened, all of it and nothing else.
    fn expect(&self, events: &[&str]) {
        until(&self.reactor, || self.events.borrow().len() >= events.len());
        for _ in 0..5 {
            self.reactor.turn(Some(Duration::ZERO)).unwrap();
        }
        assert_eq!(*self.events.borrow(), events);
    }
}

fn until(reactor: &Reactor, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "it does not happen");
        reactor.turn(Some(Duration::from_millis(1))).unwrap();
    }
}

#[test]
fn no_line_comes_between_pause_and_resume() {
    let mut pair = Pair::new(LineCodec::new(), |io, line| {
        if line == "pause" {
            io.pause_reading();
        }
    });
    pair.send(b"one\r\npause\r\ntwo\r\npause\r\nthree\r\nfo");
    pair.expect(&["one", "pause"]);
    pair.connection.resume_reading();
    pair.expect(&["one", "pause", "two", "pause"]);
    pair.send(b"ur\r\n");
    pair.expect(&["one", "pause", "two", "pause"]);
    pair.connection.resume_reading();
    pair.expect(&["one", "pause", "two", "pause", "three", "four"]);
}

#[test]
fn no_line_comes_after_the_connection_is_closed() {
    let mut pair = Pair::new(LineCodec::new(), |io, line| {
        if line == "quit" {
            io.send_line("bye");
            io.lose_connection();
        }
    });
    pair.send(b"one\r\nquit\r\ntwo\r\nthr");
    pair.expect(&["one", "quit"]);
    pair.peer.shutdown(Shutdown::Write).unwrap();
    pair.expect(&["one", "quit", "lost: closed"]);
    let mut farewell = String::new();
    pair.peer.read_to_string(&mut farewell).unwrap();
    assert_eq!(farewell, "bye\r\n");
}

#[test]
fn the_bytes_behind_a_switch_go_to_the_new_protocol() {
    let events = Rc::new(RefCell::new(None));
    let successor = Rc::clone(&events);
    let mut pair = Pair::new(LineCodec::new(), move |io, line| {
        if line == "switch" {
            io.switch_protocol(Successor(successor.take().unwrap()));
        }
    });
    *events.borrow_mut() = Some(Rc::clone(&pair.events));
    pair.send(b"one\r\nswitch\r\ntwo\r\nthr");
    pair.expect(&["one", "switch", "successor two\r\nthr"]);
}

#[test]
fn an_incomplete_line_goes_to_a_protocol_switched_to_from_elsewhere() {
    let mut pair = Pair::new(LineCodec::new(), |_, _| {});
    pair.send(b"one\r\nhal");
    pair.expect(&["one"]);
    let successor = Successor(Rc::clone(&pair.events));
    pair.connection.post(|protocol, transport| protocol.io(transport).switch_protocol(successor));
    pair.expect(&["one", "successor hal"]);
}

#[test]
fn raw_mode_and_back_within_one_chunk() {
    let mut pair = Pair::new(LineCodec::new(), |io, line| {
        if line == "body" {
            io.set_raw_mode();
        }
    });
    pair.send(b"one\r\nbody\r\nr\na\rw.two\r\nbody\r\n.three\r\n");
    pair.expect(&["one", "body", "raw r\na\rw", "two", "body", "raw ", "three"]);
}

#[test]
fn an_incomplete_line_is_raw_when_raw_mode_is_set_from_elsewhere() {
    let mut pair = Pair::new(LineCodec::new(), |_, _| {});
    pair.send(b"one\r\nhal");
    pair.expect(&["one"]);
    pair.connection.post(|protocol, transport| protocol.io(transport).set_raw_mode());
    pair.expect(&["one", "raw hal"]);
    pair.send(b"f.two\n");
    pair.expect(&["one", "raw hal", "raw f", "two"]);
}

#[test]
fn bytes_given_back_in_a_hook_come_before_the_rest_of_its_chunk() {
    let mut pair = Pair::new(LineCodec::new(), |io, line| {
        if line == "again" {
            io.unread(&b"first\r\n"[..]);
        }
    });
    pair.send(b"again\r\nsecond\r\nthi");
    pair.expect(&["again", "first", "second"]);
    pair.send(b"rd\n");
    pair.expect(&["again", "first", "second", "third"]);
}

#[test]
fn a_line_that_is_too_long_fails_the_connection() {
    let mut pair = Pair::new(LineCodec::new().max_length(5), |_, _| {});
    pair.send(b"12345\r\n123456\r\nnever\r\n");
    pair.expect(&["12345"]);
    pair.peer.shutdown(Shutdown::Write).unwrap();
    pair.expect(&["12345", "lost: failed: a line of the peer is longer than 5 bytes"]);
}

/// Digits are frames, anything else is an error.
struct Digits;

impl Codec for Digits {
    type Frame<'a> = u8;
    type Out<'a> = u8;
    type Error = std::num::ParseIntError;

    fn decode(&mut self, input: &[u8], _: usize) -> Result<Decoded<u8>, Self::Error> {
        text(&input[..1]).parse().map(|digit| Decoded::Frame(digit, 1))
    }

    fn encode(&mut self, digit: u8, out: &mut dyn Output) -> Result<(), Self::Error> {
        out.put(digit.to_string().as_bytes());
        Ok(())
    }

    fn limit(&self) -> usize {
        1
    }
}

/// Adds up digits; says a last word when it gets something else.
struct Sum(u8);

impl FrameHandler<Digits> for Sum {
    fn frame(&mut self, _: &Framed<Digits>, digit: u8) {
        self.0 += digit;
    }

    fn malformed(&mut self, io: &Framed<Digits>, _: FrameError<std::num::ParseIntError>) {
        io.send(self.0).unwrap();
    }
}

#[test]
fn what_is_no_frame_ends_the_connection_after_a_last_word() {
    let reactor = Reactor::new().unwrap();
    let listen = reactor.listen("tcp:0:interface=127.0.0.1", |_| FramedProtocol::with_codec(Digits, Sum(0)));
    let mut peer = TcpStream::connect(listen.unwrap().local_addr().socket_addr().unwrap()).unwrap();
    peer.write_all(b"1234x5").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    until(&reactor, || reactor.stats().lost == 1);
    let mut answer = String::new();
    peer.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "10");
}

#[test]
fn the_end_of_the_stream_tells_the_line_that_was_not_completed() {
    let mut pair = Pair::new(LineCodec::new(), |_, _| {});
    pair.send(b"one\r\nhal");
    pair.peer.shutdown(Shutdown::Write).unwrap();
    pair.expect(&["one", "eof after hal", "lost: closed"]);
}

#[test]
fn a_posted_closure_finds_the_receiver() {
    let mut pair = Pair::new(LineCodec::new(), |_, _| {});
    pair.connection.post(|recorder, transport| {
        recorder.note("posted");
        recorder.io(transport).send_line("hello");
    });
    pair.expect(&["posted"]);
    let mut hello = [0; 7];
    pair.peer.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello\r\n");
}
