//! Somebody between a client and a server with TLS changes, cuts, repeats or withholds what they send, at
//! every place of a conversation, from the first byte of the handshake to the announced end.
//!
//! Whatever that is, both reactors go on, no hook hears anything that the other side has not said, and no end
//! looks complete that was not. In simulated time, for it is a conversation per place.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use twistor::endpoint::{ConnectEndpoint, TlsConnect};
use twistor::tls::TlsClient;
use twistor::tls::rustls::pki_types::ServerName;
use twistor::tls::rustls::{SupportedProtocolVersion, version};
use twistor::{Port, Transport};
use twistor_tests::outcome::watch;
use twistor_tests::tls::{self, NAME};
use twistor_tests::{Driver, Event, Log, Script, Socket, World, pattern};

/// What happens to the byte at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Deed {
    /// It comes late: nothing is wrong with that.
    Withhold,
    Flip(u8),
    Repeat,
    LeaveOut,
    /// Something comes before it.
    Insert(u8),
    /// It is the last one.
    Cut,
    Reset,
}

impl Deed {
    fn of(number: usize) -> Self {
        let byte = (number * 151 % 251) as u8;
        match number % 8 {
            0 => Self::Withhold,
            1 | 2 => Self::Flip(1 << (number / 8 % 8)),
            3 => Self::Repeat,
            4 => Self::LeaveOut,
            5 => Self::Insert(byte),
            6 => Self::Cut,
            _ => Self::Reset,
        }
    }
}

/// One direction, as it passes.
struct Way {
    from: Rc<Socket>,
    to: Rc<Socket>,
    passed: usize,
    deed: Option<(usize, Deed)>,
    is_over: bool,
}

impl Way {
    /// Moves what has come. False when everybody is to be cut off.
    fn pass(&mut self, world: &World) -> bool {
        let mut buffer = vec![0; 1 << 16];
        while !self.is_over {
            let Ok(count) = self.from.read(&mut buffer) else { return true };
            if count == 0 {
                self.is_over = true;
                let _ = self.to.finish();
                return true;
            }
            let mut data = buffer[..count].to_vec();
            if let Some((place, deed)) = self.deed.take_if(|(place, _)| *place < self.passed + count) {
                let at = place - self.passed;
                match deed {
                    Deed::Withhold => {
                        let _ = self.to.write(&data[..at]);
                        world.turns(4);
                        data.drain(..at);
                    }
                    Deed::Flip(bit) => data[at] ^= bit,
                    Deed::Repeat => data.insert(at, data[at]),
                    Deed::LeaveOut => drop(data.remove(at)),
                    Deed::Insert(byte) => data.insert(at, byte),
                    Deed::Cut => {
                        let _ = self.to.write(&data[..at]);
                        let _ = self.to.finish();
                        self.is_over = true;
                        return true;
                    }
                    Deed::Reset => return false,
                }
            }
            self.passed += count;
            let _ = self.to.write(&data);
        }
        true
    }
}

/// What a conversation came to: bytes that passed each way, and whether it went well.
struct Outcome {
    passed: [usize; 2],
    went_well: bool,
}

/// A server that answers everything, and what it has heard; a client with a question; somebody between them.
struct Scene<'w> {
    world: &'w World,
    client: TlsClient,
    port: Port,
    heard: Rc<RefCell<Log>>,
}

const QUESTION: usize = 700;

impl<'w> Scene<'w> {
    fn new(world: &'w World, client: TlsClient) -> Self {
        let heard = Rc::new(RefCell::new(Log::new()));
        let log = Rc::clone(&heard);
        let port = world.listen(move |_| Script::new(&log.borrow()).on_data(Transport::write));
        Self { world, client, port, heard }
    }

    fn play(&self, deeds: [Option<(usize, Deed)>; 2]) -> Outcome {
        let world = self.world;
        let (theirs, ours) = (Log::new(), Log::new());
        *self.heard.borrow_mut() = theirs.clone();
        let between = world.machine().listen_somewhere();
        let name = ServerName::try_from(NAME).unwrap();
        let endpoint = TlsConnect::new(between.local_addr(), self.client.clone(), name).unwrap();
        let mut left = QUESTION;
        let script = Script::new(&ours).on_made(|transport| transport.write(&pattern(QUESTION))).on_data(
            move |transport, data| {
                left -= data.len().min(left);
                if left == 0 {
                    transport.lose_connection();
                }
            },
        );
        let attempt = watch(world.reactor.connect_protocol(ConnectEndpoint::Tls(endpoint), script));
        let mut accepted = None;
        world.until("the client connects", || {
            accepted = between.accept();
            accepted.is_some()
        });
        let client = Rc::new(accepted.unwrap());
        let server = Rc::new(world.machine().connect(self.port.local_addr().socket_addr().unwrap()).unwrap());
        let [there, back] = deeds;
        let mut ways = [
            Way { from: Rc::clone(&client), to: Rc::clone(&server), passed: 0, deed: there, is_over: false },
            Way { from: server, to: client, passed: 0, deed: back, is_over: false },
        ];
        let mut quiet = 0;
        let mut last = (0, 0);
        // Until nothing happens any more: somebody may wait for what was left out.
        while quiet < 20 && (last.0 == 0 || world.reactor.stats().connections > 0) {
            world.turn(Duration::ZERO);
            let goes_on = ways.iter_mut().all(|way| way.pass(world));
            let now = (ways[0].passed + ways[1].passed, world.reactor.stats().connections);
            quiet = if now == last { quiet + 1 } else { 0 };
            last = now;
            if !goes_on {
                break;
            }
        }
        let passed = [ways[0].passed, ways[1].passed];
        drop(ways);
        world.until("both ends are over", || world.reactor.stats().connections == 0);
        world.until("the attempt is over", || attempt.borrow().is_some());
        for log in [&theirs, &ours] {
            assert!(
                pattern(QUESTION).starts_with(&log.data()),
                "something was heard that nobody said: {deeds:?}"
            );
            if log.has(&Event::Eof) {
                let all = log.data().len() == QUESTION;
                assert!(all, "{} bytes looked complete: {deeds:?}", log.data().len());
            }
        }
        let went_well = [&theirs, &ours].iter().all(|log| log.lost().as_deref() == Some("closed"));
        Outcome { passed, went_well }
    }
}

/// Interferes at every place, or at every so-manieth, counted from `offset`.
fn interfere(version: &'static SupportedProtocolVersion, offset: usize, step: usize) {
    let world =
        World::secured(Driver::Simulated, |builder| builder.linger_timeout(Duration::from_millis(50)));
    let config = tls::common().authority.client_config_of(&[version]);
    let scene = Scene::new(&world, TlsClient::from_config(Arc::new(config)));
    let whole = scene.play([None, None]);
    assert!(whole.went_well && whole.passed[0] > QUESTION + 200 && whole.passed[1] > QUESTION + 200);
    for way in 0..2 {
        for place in (offset..whole.passed[way]).step_by(step) {
            let deed = Deed::of(place / step + place);
            let mut deeds = [None, None];
            deeds[way] = Some((place, deed));
            let outcome = scene.play(deeds);
            assert!(outcome.went_well || deed != Deed::Withhold, "{deeds:?}");
        }
    }
    assert_eq!(world.reactor.stats().panics, 0);
    assert_eq!(world.reactor.stats().queued_bytes, 0);
}

/// With `TWISTOR_PLACES` set this does something at every place, several times.
fn interfere_everywhere(version: &'static SupportedProtocolVersion) {
    if std::env::var_os("TWISTOR_PLACES").is_some() {
        for step in 1..=8 {
            interfere(version, 0, step);
        }
    } else {
        interfere(version, 0, 11);
    }
}

#[test]
fn whatever_is_done_to_a_conversation_nothing_false_is_heard() {
    interfere_everywhere(&version::TLS13);
}

#[test]
fn nor_in_the_version_before() {
    interfere_everywhere(&version::TLS12);
}
