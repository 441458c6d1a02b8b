//! The protocols that are shipped, in a simulated network: what they hand out does not depend on the pieces
//! in which it came, and what they build keeps its word in bad weather.

mod simulation_support;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::num::TryFromIntError;
use std::rc::Rc;

use simulation_support::{millis, pattern, secs};
use twistor::testing::{Faults, Link, Pieces, ProtocolTest, Simulation, check};
use twistor::{Eof, Handle, Protocol, Reason, Timeouts, Transport};
use twistor_protocols::{
    Codec, Decoded, FrameError, FrameHandler, Framed, FramedProtocol, LineCodec, LineProtocol, LineReceiver,
    Lines, Output,
};

/// What a handler was told, in order.
type Told = Rc<RefCell<Vec<String>>>;

/// Feeds the input in pieces of this length, lets the peer finish, and says what the handler was told and
/// what was written.
fn fed<P: Protocol>(protocol: P, told: &Told, input: &[u8], length: usize) -> (Vec<String>, Vec<u8>) {
    let mut test = ProtocolTest::new(protocol);
    for piece in input.chunks(length) {
        if test.is_closing() {
            break;
        }
        test.feed(piece);
    }
    test.finish();
    let written = test.written();
    drop(test);
    (told.take(), written)
}

/// The same over a simulated link.
fn sent<P: Protocol>(
    seed: u64,
    pieces: Pieces,
    protocol: P,
    told: &Told,
    input: &[u8],
) -> (Vec<String>, Vec<u8>) {
    let sim = Simulation::new(seed);
    sim.set_default_link(Link::new().pieces(pieces));
    let mut protocol = Some(protocol);
    let server = sim.host("server", |_| {});
    server.reactor().listen("tcp:80", move |_| protocol.take()).expect("a port");
    let client = sim.host("client", |_| {}).connect_raw(server.address(80)).expect("a socket");
    sim.run_until("it is connected", || client.is_connected());
    assert_eq!(client.send(input).expect("room"), input.len());
    client.finish().expect("open");
    let (mut written, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        sim.run_for(secs(1));
        match client.receive(&mut buffer) {
            Ok(0) => break,
            Ok(count) => written.extend_from_slice(&buffer[..count]),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    (told.take(), written)
}

/// Whatever the pieces, the outcome is the same.
fn is_the_same_in_all_pieces<P: Protocol>(make: impl Fn(Told) -> P, input: &[u8]) -> (Vec<String>, Vec<u8>) {
    let told = Told::default();
    let expected = fed(make(Rc::clone(&told)), &told, input, 64 * 1024);
    for length in [1, 2, 3, 7, 100, 1460] {
        let outcome = fed(make(Rc::clone(&told)), &told, input, length);
        assert_eq!(outcome, expected, "in pieces of {length} bytes");
    }
    for pieces in
        [Pieces::Exactly(1), Pieces::UpTo(5), Pieces::UpTo(500), Pieces::Exactly(64 * 1024), Pieces::Whole]
    {
        for seed in 0..5 {
            let outcome = sent(seed, pieces, make(Rc::clone(&told)), &told, input);
            assert_eq!(outcome, expected, "in pieces of {pieces:?} with seed {seed}");
        }
    }
    expected
}

/// Notes all it is told; answers lines; `raw N` is followed by N raw bytes; `pause` stops reading for a
/// second; `back TEXT` gives a line back; `quit` closes.
struct Clerk {
    told: Told,
    missing: usize,
}

impl Clerk {
    fn new(told: Told) -> LineProtocol<Self> {
        LineProtocol::with_codec(LineCodec::new().max_length(20), Self { told, missing: 0 })
    }

    fn note(&self, text: impl Into<String>) {
        self.told.borrow_mut().push(text.into());
    }
}

impl LineReceiver for Clerk {
    fn line_received(&mut self, io: &Lines, line: &[u8]) {
        let line = String::from_utf8_lossy(line).into_owned();
        self.note(format!("line {line:?}"));
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("raw", length) => {
                self.missing = length.parse().expect("a number");
                io.set_raw_mode();
            }
            ("pause", _) => {
                io.pause_reading();
                let transport = io.transport().clone();
                io.reactor().call_soon(move |_| transport.resume_reading());
            }
            ("back", text) => io.unread(format!("{text}\n").into_bytes()),
            ("quit", _) => io.lose_connection(),
            _ => io.send_line(format!("{} bytes", line.len())),
        }
    }

    fn raw_data_received(&mut self, io: &Lines, data: &[u8]) {
        let (body, rest) = data.split_at(self.missing.min(data.len()));
        self.missing -= body.len();
        for byte in body {
            self.note(format!("raw {byte}"));
        }
        if self.missing == 0 {
            io.set_line_mode(rest);
        }
    }

    fn line_length_exceeded(&mut self, io: &Lines, start: &[u8]) {
        self.note(format!("too long {:?}", String::from_utf8_lossy(start)));
        io.send_line("too long");
    }

    fn eof_received(&mut self, _: &Lines, rest: &[u8]) -> Eof {
        self.note(format!("end behind {:?}", String::from_utf8_lossy(rest)));
        Eof::Close
    }

    fn connection_lost(&mut self, _: &Lines, reason: &Reason) {
        self.note(reason.to_string());
    }
}

#[test]
fn lines_are_the_same_in_all_pieces() {
    let input = b"one\r\ntwo\n\n\r\n\rthree\r\r\nfour\0\xff\nexactly twenty bytes\r\nincomplete";
    let (told, written) = is_the_same_in_all_pieces(Clerk::new, input);
    assert_eq!(
        told,
        [
            "line \"one\"",
            "line \"two\"",
            "line \"\"",
            "line \"\"",
            "line \"\\rthree\\r\"",
            "line \"four\\0\u{fffd}\"",
            "line \"exactly twenty bytes\"",
            "end behind \"incomplete\"",
            "closed"
        ]
    );
    assert!(written.starts_with(b"3 bytes\r\n3 bytes\r\n0 bytes\r\n"));
}

#[test]
fn lines_that_are_too_long_are_the_same_in_all_pieces() {
    let input = b"short\nthis line has more than twenty bytes\r\nshort\nand this one ends with the stream";
    let (told, _) = is_the_same_in_all_pieces(Clerk::new, input);
    assert_eq!(
        told,
        [
            "line \"short\"",
            "too long \"this line has more t\"",
            "line \"short\"",
            "too long \"and this one ends wi\"",
            "end behind \"\"",
            "closed"
        ]
    );
}

#[test]
fn raw_bytes_pauses_and_lines_given_back_are_the_same_in_all_pieces() {
    let input = b"raw 5\n1\n2\r3line\r\npause\nback again\nraw 1\n!pause\nback pause\nlast\n";
    let (told, _) = is_the_same_in_all_pieces(Clerk::new, input);
    let lines: Vec<&String> = told.iter().filter(|text| !text.starts_with("raw")).collect();
    assert_eq!(told.len() - lines.len(), 6);
    assert_eq!(
        lines.iter().map(|text| text.trim_start_matches("line ").trim_matches('"')).collect::<Vec<_>>(),
        [
            "raw 5",
            "line",
            "pause",
            "back again",
            "again",
            "raw 1",
            "pause",
            "back pause",
            "pause",
            "last",
            "end behind ",
            "closed"
        ]
    );
}

#[test]
fn nothing_behind_a_close_is_delivered_in_any_pieces() {
    let (told, written) = is_the_same_in_all_pieces(Clerk::new, b"one\nquit\ntwo\n");
    assert_eq!(told, ["line \"one\"", "line \"quit\"", "closed"]);
    assert_eq!(written, b"3 bytes\r\n");
}

/// Frames of one length byte and as many bytes of content; 255 is no length.
struct Short;

impl Codec for Short {
    type Frame<'a> = &'a [u8];
    type Out<'a> = &'a [u8];
    type Error = TryFromIntError;

    fn decode<'a>(&mut self, input: &'a [u8], _: usize) -> Result<Decoded<&'a [u8]>, TryFromIntError> {
        let Some((&length, rest)) = input.split_first() else { return Ok(Decoded::Incomplete) };
        if length == u8::MAX {
            u8::try_from(usize::MAX)?;
        }
        let length = usize::from(length);
        Ok(rest.get(..length).map_or(Decoded::Incomplete, |frame| Decoded::Frame(frame, 1 + length)))
    }

    fn encode(&mut self, frame: &[u8], out: &mut dyn Output) -> Result<(), TryFromIntError> {
        out.put(&[u8::try_from(frame.len())?]);
        out.put(frame);
        Ok(())
    }

    fn limit(&self) -> usize {
        256
    }
}

/// Answers each frame with itself, backwards.
struct Mirror(Told);

impl FrameHandler<Short> for Mirror {
    fn frame(&mut self, io: &Framed<Short>, frame: &[u8]) {
        self.0.borrow_mut().push(format!("{frame:?}"));
        let backwards: Vec<u8> = frame.iter().rev().copied().collect();
        io.send(&backwards).expect("a frame");
    }

    fn malformed(&mut self, io: &Framed<Short>, error: FrameError<TryFromIntError>) {
        self.0.borrow_mut().push(error.to_string());
        io.send(b"what?").expect("a frame");
    }

    fn eof(&mut self, _: &Framed<Short>, rest: &[u8]) -> Eof {
        self.0.borrow_mut().push(format!("end behind {rest:?}"));
        Eof::Close
    }

    fn lost(&mut self, _: &Framed<Short>, reason: &Reason) {
        self.0.borrow_mut().push(reason.to_string());
    }
}

fn frames(count: usize) -> Vec<u8> {
    let mut input = Vec::new();
    for length in 0..count {
        Short.encode(&pattern(length), &mut input).expect("a frame");
    }
    input
}

#[test]
fn frames_are_the_same_in_all_pieces() {
    let mut input = frames(100);
    input.extend([10, 1, 2, 3]);
    let make = |told| FramedProtocol::with_codec(Short, Mirror(told));
    let (told, written) = is_the_same_in_all_pieces(make, &input);
    assert_eq!(told.len(), 102);
    assert_eq!(told[100..], ["end behind [10, 1, 2, 3]", "closed"]);
    assert_eq!(written.len(), frames(100).len());
}

#[test]
fn what_is_no_frame_is_found_out_in_all_pieces() {
    let mut input = frames(20);
    input.push(u8::MAX);
    input.extend(frames(5));
    let make = |told| FramedProtocol::with_codec(Short, Mirror(told));
    let (told, written) = is_the_same_in_all_pieces(make, &input);
    assert_eq!(told.len(), 22, "{told:?}");
    assert_eq!(told[21], "closed");
    assert!(written.ends_with(b"\x05what?"));
}

// A journal, in bad weather.

/// What a server writes down, and what outlives its crashes.
#[derive(Clone, Default)]
struct Disk(Rc<RefCell<Vec<String>>>);

/// Answers `ok LINE` once a line is on the disk; one that is there already is not written again.
struct Scribe(Disk);

impl LineReceiver for Scribe {
    fn connection_made(&mut self, io: &Lines) {
        io.set_timeouts(Timeouts::new().read(secs(10)));
    }

    fn line_received(&mut self, io: &Lines, line: &[u8]) {
        let line = String::from_utf8(line.to_vec()).expect("text");
        let is_new = !self.0.0.borrow().contains(&line);
        if is_new {
            self.0.0.borrow_mut().push(line.clone());
        }
        io.send_line(format!("ok {line}"));
    }
}

const ENTRIES: usize = 20;

/// Has entries written down, several at a time; begins again behind the last acknowledged one when it is
/// lost.
#[derive(Clone)]
struct Author {
    name: &'static str,
    acknowledged: Rc<Cell<usize>>,
    sent: usize,
}

impl Author {
    fn begin(mut self, reactor: &Handle) {
        self.sent = self.acknowledged.get();
        if self.sent == ENTRIES {
            return;
        }
        let protocol = LineProtocol::new(self.clone());
        reactor.connect_protocol("tcp:10.0.0.1:80:timeout=2", protocol).on_done(move |reactor, outcome| {
            if outcome.is_err() {
                reactor.call_later(millis(300), move |reactor| self.begin(reactor));
            }
        });
    }

    fn write(&mut self, io: &Lines) {
        let ahead = self.acknowledged.get() + 1 + io.reactor().random().below(4) as usize;
        while self.sent < ahead.min(ENTRIES) {
            io.send_line(format!("{} {}", self.name, self.sent));
            self.sent += 1;
        }
    }
}

impl LineReceiver for Author {
    fn connection_made(&mut self, io: &Lines) {
        io.set_timeouts(Timeouts::new().read(secs(3)));
        self.write(io);
    }

    fn line_received(&mut self, io: &Lines, line: &[u8]) {
        let number = self.acknowledged.get();
        assert_eq!(line, format!("ok {} {number}", self.name).as_bytes());
        self.acknowledged.set(number + 1);
        if number + 1 == ENTRIES {
            return io.lose_connection();
        }
        let io = io.clone();
        let pause = io.reactor().random().duration(millis(1)..millis(300));
        io.transport().clone().call_later(
            pause,
            move |author: &mut LineProtocol<Self>, transport: &Transport| {
                let io = author.io(transport);
                author.write(&io);
            },
        );
    }

    fn connection_lost(&mut self, io: &Lines, _: &Reason) {
        let author = self.clone();
        io.reactor().call_later(millis(100), move |reactor| author.begin(reactor));
    }
}

#[test]
fn a_journal_of_lines_stands_a_thousand_storms() {
    check(0..1000, |sim| {
        let pieces = [Pieces::Whole, Pieces::Exactly(1), Pieces::UpTo(10)][sim.seed() as usize % 3];
        sim.set_default_link(Link::new().latency(millis(5)).loss(0.02).pieces(pieces));
        let disk = Disk::default();
        let place = disk.clone();
        let server = sim.host("server", move |reactor| {
            let place = place.clone();
            reactor.listen("tcp:80", move |_| LineProtocol::new(Scribe(place.clone()))).expect("a port");
        });
        let authors = ["ann", "bob"].map(|name| {
            let author = Author { name, acknowledged: Rc::default(), sent: 0 };
            let acknowledged = Rc::clone(&author.acknowledged);
            (sim.host(name, move |reactor| author.clone().begin(reactor)), acknowledged)
        });
        sim.random_faults(&Faults::all(secs(10)));
        sim.run_until("all is acknowledged", || authors.iter().all(|(_, count)| count.get() == ENTRIES));

        let written = disk.0.borrow();
        assert_eq!(
            written.iter().collect::<BTreeSet<_>>().len(),
            written.len(),
            "something was written twice"
        );
        for name in ["ann", "bob"] {
            let own: Vec<&String> = written.iter().filter(|line| line.starts_with(name)).collect();
            let expected: Vec<String> = (0..ENTRIES).map(|number| format!("{name} {number}")).collect();
            assert!(own.iter().copied().eq(&expected), "acknowledged, but not in order on the disk: {own:?}");
        }
        sim.run_for(secs(3600));
        for host in [&server, &authors[0].0, &authors[1].0] {
            let stats = host.reactor().stats();
            assert_eq!((stats.connections, stats.attempts, stats.timers, stats.queued_bytes), (0, 0, 0, 0));
        }
    });
}
