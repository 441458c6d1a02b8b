//! Handshakes with a mistake in them: bits flipped, bytes left out, put in, repeated, or the rest cut off, in
//! every place and both directions. Whatever it is: nothing crashes, nothing leaks, and what a protocol gets
//! is what its peer has said.
//!
//! `TWISTOR_TLS_MUTATIONS` is how many of each kind there are.

use std::io::Write;
use std::time::Duration;

use twistor_tests::{Driver, Event, Log};

use super::support::{Dial, Other, Site, Version, client_config, server_config};

const WORDS: &[u8] = b"hello to the other side";
const DEFAULT: usize = 500;

fn mutations() -> usize {
    std::env::var("TWISTOR_TLS_MUTATIONS").map_or(DEFAULT, |count| count.parse().unwrap())
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        value ^ (value >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Flip,
    Replace,
    Insert,
    Delete,
    Repeat,
    Swap,
    Cut,
}

const KINDS: [Kind; 7] =
    [Kind::Flip, Kind::Replace, Kind::Insert, Kind::Delete, Kind::Repeat, Kind::Swap, Kind::Cut];

/// A mistake in one direction.
#[derive(Clone, Copy, Debug)]
struct Mistake {
    kind: Kind,
    to_twistor: bool,
    /// So many bytes are right.
    at: usize,
    /// How much is wrong.
    length: usize,
    seed: u64,
}

/// A direction, with the mistake that is made in it.
struct Line {
    mistake: Option<Mistake>,
    passed: usize,
    is_cut: bool,
}

impl Line {
    /// What arrives of this.
    fn pass(&mut self, mut data: Vec<u8>) -> Vec<u8> {
        if self.is_cut {
            return Vec::new();
        }
        let here =
            self.mistake.filter(|mistake| (self.passed..self.passed + data.len()).contains(&mistake.at));
        let Some(Mistake { kind, at, length, seed, .. }) = here else {
            self.passed += data.len();
            return data;
        };
        self.mistake = None;
        let from = at - self.passed;
        self.passed += data.len();
        let to = (from + length).min(data.len());
        let mut random = Random(seed);
        match kind {
            Kind::Flip => data[from] ^= 1 << random.below(8),
            Kind::Replace => data[from..to].fill_with(|| random.next() as u8),
            Kind::Insert => drop(data.splice(from..from, (0..length).map(|_| random.next() as u8))),
            Kind::Delete => drop(data.drain(from..to)),
            Kind::Repeat => {
                let part = data[from..to].to_vec();
                data.splice(from..from, part);
            }
            Kind::Swap => data[from..to].reverse(),
            Kind::Cut => {
                data.truncate(from);
                self.is_cut = true;
            }
        }
        data
    }
}

/// Passes everything on between twistor and the other end until nothing moves any more. Returns how much went
/// to twistor and from it.
fn converse(
    world: &twistor_tests::World,
    other: &mut Other<'_>,
    mistake: Option<Mistake>,
    mut is_done: impl FnMut() -> bool,
) -> (usize, usize) {
    let of = |to_twistor| mistake.filter(|mistake| mistake.to_twistor == to_twistor);
    let mut there = Line { mistake: of(true), passed: 0, is_cut: false };
    let mut back = Line { mistake: of(false), passed: 0, is_cut: false };
    other.tls.writer().write_all(WORDS).unwrap();
    let mut still = 0;
    let mut has_finished = false;
    while still < 3 && !is_done() {
        still += 1;
        let heard = back.pass(other.fetch());
        if !heard.is_empty() {
            still = 0;
            other.feed(&heard);
        }
        let out = there.pass(other.take_output());
        if !out.is_empty() && !other.has_ended {
            still = 0;
            let _ = other.peer.socket().write(&out);
        }
        if there.is_cut && !has_finished {
            has_finished = true;
            let _ = other.peer.socket().finish();
        }
        world.turn(Duration::from_millis(1));
    }
    (there.passed, back.passed)
}

/// What a log got from some moment on.
struct Since<'l>(&'l Log, usize);

impl<'l> Since<'l> {
    fn now(log: &'l Log) -> Self {
        Self(log, log.events().len())
    }

    fn data(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for event in &self.0.events()[self.1..] {
            if let Event::Data(data) = event {
                all.extend(data);
            }
        }
        all
    }

    fn has(&self, event: &Event) -> bool {
        self.0.events()[self.1..].contains(event)
    }
}

fn mistake(random: &mut Random, lengths: (usize, usize), number: usize) -> Mistake {
    // What comes to us is what can hurt.
    let to_twistor = random.below(8) > 0;
    let length = if to_twistor { lengths.0 } else { lengths.1 };
    // Every place in turn.
    let at = if to_twistor { number % length } else { random.below(length) };
    let long = if random.below(8) == 0 { 400 } else { 8 };
    Mistake {
        kind: KINDS[random.below(KINDS.len())],
        to_twistor,
        at,
        length: 1 + random.below(long),
        seed: random.next(),
    }
}

fn mutate_clients(version: Version) {
    let mut random = Random(version as u64);
    let mut site = None;
    let mut lengths = None;
    let (mut refused, mut unharmed) = (0, 0);
    for number in 0..mutations() {
        // What a simulation remembers is dropped now and then.
        if number % 100 == 0 {
            site = None;
        }
        let site = site.get_or_insert_with(|| Site::new(Driver::Simulated));
        let config = client_config(&site.authority, &[version]);
        let mistake = lengths.map(|lengths| mistake(&mut random, lengths, number));
        let mut client = site.client(config);
        let log = Since::now(&site.log);
        let seen = converse(&site.world, &mut client, mistake, || log.data().len() >= WORDS.len());
        let data = log.data();
        assert!(WORDS.starts_with(&data), "{mistake:?}: the port got {data:?}");
        assert!(data.is_empty() || data == WORDS, "{mistake:?}: a part of a record was delivered");
        assert!(!log.has(&Event::Eof), "{mistake:?}");
        if mistake.is_none() {
            assert_eq!(data, WORDS);
            lengths = Some(seen);
        } else if data.is_empty() {
            refused += 1;
        } else {
            unharmed += 1;
        }
        client.peer.reset();
        site.is_clean();
    }
    println!("{version:?}: of a server's handshakes {refused} were refused, {unharmed} unharmed");
}

fn mutate_servers(version: Version) {
    let mut random = Random(2 + version as u64);
    let mut dial = None;
    let mut lengths = None;
    let (mut refused, mut unharmed) = (0, 0);
    for number in 0..mutations() {
        if number % 100 == 0 {
            dial = None;
        }
        let dial: &Dial = dial.get_or_insert_with(|| Dial::new(Driver::Simulated));
        let config = server_config(&dial.authority, &[version]);
        let mistake = lengths.map(|lengths| mistake(&mut random, lengths, number));
        let mut server = dial.server(config);
        let log = Since::now(&dial.log);
        let seen = converse(&dial.world, &mut server, mistake, || log.data().len() >= WORDS.len());
        let data = log.data();
        assert!(data.is_empty() || data == WORDS, "{mistake:?}: the client got {data:?}");
        assert!(!log.has(&Event::Eof), "{mistake:?}");
        if mistake.is_none() {
            assert_eq!(data, WORDS);
            lengths = Some(seen);
        } else if data.is_empty() {
            refused += 1;
        } else {
            unharmed += 1;
        }
        server.peer.reset();
        dial.world.until("the attempt is told", || dial.outcomes.borrow().len() == 1);
        dial.is_clean();
    }
    println!("{version:?}: of a client's handshakes {refused} were refused, {unharmed} unharmed");
}

#[test]
fn mistakes_in_handshakes_of_tls_1_2_do_a_server_no_harm() {
    mutate_clients(Version::Tls12);
}

#[test]
fn mistakes_in_handshakes_of_tls_1_3_do_a_server_no_harm() {
    mutate_clients(Version::Tls13);
}

#[test]
fn mistakes_in_handshakes_of_tls_1_2_do_a_client_no_harm() {
    mutate_servers(Version::Tls12);
}

#[test]
fn mistakes_in_handshakes_of_tls_1_3_do_a_client_no_harm() {
    mutate_servers(Version::Tls13);
}
