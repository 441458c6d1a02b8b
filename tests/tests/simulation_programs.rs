//! The example programs in a simulated network: they give the same output in whatever pieces it travels, and
//! in bad weather they lose nothing that was acknowledged, and leave nothing behind.

mod simulation_support;

#[path = "../../examples/chat.rs"]
#[allow(dead_code, reason = "its main is for the example")]
mod chat;
#[path = "../../examples/echo_server.rs"]
#[allow(dead_code, reason = "its main is for the example")]
mod echo_server;
#[path = "../../examples/port_forward.rs"]
#[allow(dead_code, reason = "its main is for the example")]
mod port_forward;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use simulation_support::{Client, millis, pattern, secs};
use twistor::endpoint::IntoConnectEndpoint;
use twistor::testing::{AccumulatingProtocol, Faults, Host, Link, Pieces, Simulation, check};
use twistor::{Connection, Handle, Protocol, Reason, Timeouts, Transport};
use twistor_protocols::{LineProtocol, LineReceiver, Lines};

/// The peer may vanish without a word, and these programs have no time-outs of their own: the kernel finds
/// out.
const ENDPOINT: &str = "tcp:8000:keep_alive=5/2/3";

/// One byte at a time, and as much as a read takes.
const SMALL: Pieces = Pieces::Exactly(1);
const LARGE: Pieces = Pieces::Exactly(64 * 1024);

fn echo(reactor: &Handle) {
    echo_server::serve(reactor, ENDPOINT).expect("a port");
}

fn room(reactor: &Handle) {
    chat::serve(reactor, ENDPOINT).expect("a port");
}

/// Forwards to the host that was added first.
fn forward(reactor: &Handle) {
    let target = "tcp:10.0.0.1:8000:timeout=5:keep_alive=5/2/3".into_connect_endpoint().expect("an endpoint");
    port_forward::serve(reactor, ENDPOINT, target).expect("a port");
}

fn connect(sim: &Simulation, from: &Host, to: &Host) -> Client {
    let (protocol, log) = AccumulatingProtocol::new();
    let made = Rc::new(RefCell::new(None));
    let place = Rc::clone(&made);
    from.reactor().connect_protocol(to.address(8000), protocol).on_done(move |_, outcome| {
        *place.borrow_mut() = outcome.ok();
    });
    sim.run_until("the client is connected", || made.borrow().is_some());
    Client { connection: made.take().expect("it was made"), log }
}

// The same output in all pieces.

/// A simulation in which streams travel, and are received, in pieces.
fn in_pieces(seed: u64, pieces: Pieces) -> Simulation {
    let sim = Simulation::new(seed);
    sim.set_default_link(Link::new().pieces(pieces));
    sim
}

/// Runs a dialogue over links of all kinds of pieces; it has to say the same each time.
fn say_the_same(dialogue: impl Fn(Simulation) -> Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let expected = dialogue(in_pieces(1, LARGE));
    for pieces in [SMALL, Pieces::UpTo(7), Pieces::UpTo(1400), Pieces::Whole] {
        for seed in 1..4 {
            assert!(
                dialogue(in_pieces(seed, pieces)) == expected,
                "in pieces of {pieces:?} it is something else"
            );
        }
    }
    expected
}

#[test]
fn an_echo_is_the_same_in_all_pieces() {
    let sent = pattern(20_000);
    let heard = say_the_same(|sim| {
        let server = sim.host("server", echo);
        let client = connect(&sim, &sim.host("client", |_| {}), &server);
        client.write(&pattern(20_000));
        client.connection.lose_write_connection();
        sim.run_until("the client is lost", || client.lost().is_some());
        assert_eq!(client.lost().as_deref(), Some("closed"));
        vec![client.log.data()]
    });
    assert!(heard == [sent]);
}

#[test]
fn a_chat_is_the_same_in_all_pieces() {
    let heard = say_the_same(|sim| {
        let server = sim.host("server", room);
        let host = sim.host("clients", |_| {});
        let [ann, bob, cat] = [(); 3].map(|()| connect(&sim, &host, &server));
        let say = |who: &Client, text: &str| {
            who.write(text.as_bytes());
            sim.run_for(secs(1));
        };
        sim.run_for(secs(1));
        say(&ann, "ann\r\n");
        say(&bob, "ann\nbob\n");
        say(&cat, "not a name\r\ncat\n/who\n");
        say(&ann, "hello\r\nhow are you?\r\n");
        say(&bob, "/msg cat psst\n/msg nobody hello\n/nonsense\n");
        say(&ann, "/kick bob\n");
        say(&cat, "bye\n/quit\n");
        vec![ann.log.data(), bob.log.data(), cat.log.data()]
    });
    let [ann, bob, cat] = [0, 1, 2].map(|number| String::from_utf8(heard[number].clone()).expect("text"));
    assert!(
        ann.ends_with("* ann kicked bob\r\n* bob left (closed)\r\n<cat> bye\r\n* cat left (closed)\r\n"),
        "{ann}"
    );
    assert!(
        bob.contains("* ann is taken. Your nickname?\r\n") && bob.ends_with("* ann kicked bob\r\n"),
        "{bob}"
    );
    assert!(
        cat.contains("* here: ann, bob, cat\r\n<ann> hello\r\n<ann> how are you?\r\n[bob] psst\r\n"),
        "{cat}"
    );
}

#[test]
fn a_forwarded_port_is_the_same_in_all_pieces() {
    let sent = pattern(20_000);
    let heard = say_the_same(|sim| {
        sim.host("target", echo);
        let forwarder = sim.host("forwarder", forward);
        let client = connect(&sim, &sim.host("client", |_| {}), &forwarder);
        client.write(&pattern(20_000));
        client.connection.lose_write_connection();
        sim.run_until("the client is lost", || client.lost().is_some());
        assert_eq!(client.lost().as_deref(), Some("closed"));
        vec![client.log.data()]
    });
    assert!(heard == [sent]);
}

// Bad weather.

/// Faults of every kind, for so long.
const WEATHER: std::time::Duration = secs(10);
/// Rounds that a client wants to play.
const ROUNDS: usize = 10;

/// Runs a scenario with a thousand seeds, each over another kind of bad links.
fn storms(scenario: impl Fn(&Simulation)) {
    check(0..1000, |sim| {
        let pieces = [Pieces::Whole, SMALL, Pieces::UpTo(20), LARGE][sim.seed() as usize % 4];
        sim.set_default_link(Link::new().latency(millis(5)).loss(0.01).pieces(pieces));
        scenario(sim);
    });
}

/// Nothing is left on any host once everybody is gone, at the latest when keep-alive and the kernels have
/// given up.
fn assert_nothing_is_left(sim: &Simulation, hosts: &[&Host]) {
    sim.run_for(secs(3600));
    for host in hosts {
        let stats = host.reactor().stats();
        let left = (stats.connections, stats.attempts, stats.timers, stats.queued_bytes);
        assert_eq!(left, (0, 0, 0, 0), "left on {}: {stats:?}", host.name());
    }
}

/// Says something and waits for its echo, round by round; when it is lost it begins again.
struct Player {
    rounds: Rc<Cell<usize>>,
    server: String,
    sent: Vec<u8>,
    heard: usize,
}

impl Player {
    fn join(reactor: &Handle, server: String, rounds: Rc<Cell<usize>>) {
        if rounds.get() == ROUNDS {
            return;
        }
        let player = Self { rounds: Rc::clone(&rounds), server: server.clone(), sent: Vec::new(), heard: 0 };
        reactor.connect_protocol(format!("tcp:{server}:timeout=2"), player).on_done(
            move |reactor, outcome| {
                if outcome.is_err() {
                    reactor.call_later(millis(300), move |reactor| Self::join(reactor, server, rounds));
                }
            },
        );
    }

    fn say(&mut self, transport: &Transport) {
        let length = 1 + transport.reactor().random().below(60) as usize;
        let text: Vec<u8> = pattern(self.sent.len() + length).split_off(self.sent.len());
        transport.write(&text);
        self.sent.extend(text);
    }
}

impl Protocol for Player {
    fn connection_made(&mut self, transport: &Transport) {
        transport.set_timeouts(Timeouts::new().read(secs(3)));
        self.say(transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let expected = self.sent.get(self.heard..self.heard + data.len());
        assert_eq!(Some(data), expected, "an echo is complete and in order");
        self.heard += data.len();
        if self.heard < self.sent.len() {
            return;
        }
        self.rounds.set((self.rounds.get() + 1).min(ROUNDS));
        if self.rounds.get() == ROUNDS {
            transport.lose_connection();
        } else {
            transport.call_later(millis(200), Self::say);
        }
    }

    fn connection_lost(&mut self, transport: &Transport, _: &Reason) {
        let (server, rounds) = (self.server.clone(), Rc::clone(&self.rounds));
        transport.reactor().call_later(millis(100), move |reactor| Self::join(reactor, server, rounds));
    }
}

/// A host on which a player plays until it has had enough, however often the host crashes.
fn player(sim: &Simulation, name: &str, server: &Host) -> (Host, Rc<Cell<usize>>) {
    let rounds = Rc::new(Cell::new(0));
    let (own, server) = (Rc::clone(&rounds), server.address(8000).to_string());
    let host = sim.host(name, move |reactor| Player::join(reactor, server.clone(), Rc::clone(&own)));
    (host, rounds)
}

#[test]
fn an_echo_server_stands_a_thousand_storms() {
    storms(|sim| {
        let server = sim.host("server", echo);
        let (ann, rounds_of_ann) = player(sim, "ann", &server);
        let (bob, rounds_of_bob) = player(sim, "bob", &server);
        sim.random_faults(&Faults::all(WEATHER));
        sim.run_until("all rounds are played", || rounds_of_ann.get() + rounds_of_bob.get() == 2 * ROUNDS);
        assert_nothing_is_left(sim, &[&server, &ann, &bob]);
    });
}

#[test]
fn a_forwarder_stands_a_thousand_storms() {
    storms(|sim| {
        let target = sim.host("target", echo);
        let forwarder = sim.host("forwarder", forward);
        let (ann, rounds) = player(sim, "ann", &forwarder);
        sim.random_faults(&Faults::all(WEATHER));
        sim.run_until("all rounds are played", || rounds.get() == ROUNDS);
        assert_nothing_is_left(sim, &[&target, &forwarder, &ann]);
    });
}

/// A guest of the chat: says numbers until all are said, each once it has heard the last, and hears the
/// others.
struct Guest {
    guest: Visit,
    nickname: String,
    /// Of each speaker, the last number heard in this connection.
    heard: Vec<(String, usize)>,
}

/// What outlives a connection, and a crash.
#[derive(Clone)]
struct Visit {
    name: &'static str,
    visits: Rc<Cell<usize>>,
    said: Rc<Cell<usize>>,
}

impl Visit {
    fn begin(self, reactor: &Handle) {
        if self.said.get() == ROUNDS {
            return;
        }
        // An old connection may still hold the old nickname.
        self.visits.set(self.visits.get() + 1);
        let nickname = format!("{}{}", self.name, self.visits.get());
        let guest = LineProtocol::new(Guest { guest: self.clone(), nickname, heard: Vec::new() });
        reactor.connect_protocol("tcp:10.0.0.1:8000:timeout=2", guest).on_done(move |reactor, outcome| {
            if outcome.is_err() {
                reactor.call_later(millis(300), move |reactor| self.begin(reactor));
            }
        });
    }
}

impl LineReceiver for Guest {
    fn connection_made(&mut self, io: &Lines) {
        io.set_timeouts(Timeouts::new().read(secs(3)));
        io.send_line(&self.nickname);
        io.send_line(self.guest.said.get().to_string());
    }

    fn line_received(&mut self, io: &Lines, line: &[u8]) {
        let line = std::str::from_utf8(line).expect("text");
        let Some((speaker, number)) = line.strip_prefix('<').and_then(|line| line.split_once("> ")) else {
            return;
        };
        let number: usize = number.parse().expect("a number");
        match self.heard.iter_mut().find(|(name, _)| name == speaker) {
            Some((_, last)) => assert_eq!(number, std::mem::replace(last, number) + 1, "nothing is skipped"),
            None => self.heard.push((speaker.to_owned(), number)),
        }
        if speaker != self.nickname {
            return;
        }
        assert_eq!(number, self.guest.said.get());
        self.guest.said.set(number + 1);
        if number + 1 == ROUNDS {
            io.lose_connection();
        } else {
            let connection: Connection<LineProtocol<Self>> = io.connection().expect("it is open");
            io.reactor().call_later(millis(200), move |_| {
                connection
                    .post(move |guest, transport| guest.io(transport).send_line((number + 1).to_string()));
            });
        }
    }

    fn connection_lost(&mut self, io: &Lines, _: &Reason) {
        let guest = self.guest.clone();
        io.reactor().call_later(millis(100), move |reactor| guest.begin(reactor));
    }
}

fn guest(sim: &Simulation, name: &'static str) -> (Host, Rc<Cell<usize>>) {
    let visit = Visit { name, visits: Rc::default(), said: Rc::default() };
    let said = Rc::clone(&visit.said);
    (sim.host(name, move |reactor| visit.clone().begin(reactor)), said)
}

#[test]
fn a_chat_stands_a_thousand_storms() {
    storms(|sim| {
        let server = sim.host("server", room);
        let (ann, said_by_ann) = guest(sim, "ann");
        let (bob, said_by_bob) = guest(sim, "bob");
        sim.random_faults(&Faults::all(WEATHER));
        sim.run_until("all is said", || said_by_ann.get() + said_by_bob.get() == 2 * ROUNDS);
        assert_nothing_is_left(sim, &[&server, &ann, &bob]);
        // Nobody is left in the room.
        let last = connect(sim, &ann, &server);
        last.write(b"last\n/who\n");
        sim.run_for(secs(2));
        let heard = String::from_utf8(last.log.data()).expect("text");
        assert!(heard.ends_with("* here: last\r\n"), "{heard}");
    });
}
