//! A reactor as a guest: the same of every host.

use std::io::{PipeWriter, Read, Write, pipe};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{ANY_PORT, PATIENCE, Program, connect, exchange, pattern};

/// A host that something can be typed into, and where it listens.
struct Host {
    program: Program,
    typing: PipeWriter,
    address: SocketAddr,
}

impl Host {
    fn start(name: &str, more: &[&str]) -> Self {
        let (input, typing) = pipe().expect("a pipe");
        let arguments: Vec<&str> = [ANY_PORT].iter().chain(more).copied().collect();
        let program = Program::start_reading(name, &arguments, input);
        let line = program.output.until("listening on ");
        let address = line.rsplit_once(' ').and_then(|(_, address)| address.parse().ok());
        Self { program, typing, address: address.expect("an address") }
    }

    fn type_in(&mut self, line: &str) {
        self.typing.write_all(format!("{line}\n").as_bytes()).expect("it reads");
    }

    /// How often the reactor was turned, and its connections.
    fn stats(&mut self) -> (u64, u64) {
        self.type_in("stats");
        let line = self.program.output.until(" turns, ");
        let mut numbers = line.split(' ').filter_map(|word| word.parse().ok());
        (numbers.next().expect("turns"), numbers.next().expect("connections"))
    }

    /// Milliseconds that a timer of 100 took.
    fn timer(&mut self) -> u64 {
        self.type_in("timer");
        let line = self.program.output.until("the timer of 100 ms");
        line.split(' ').filter_map(|word| word.parse().ok()).nth(1).expect("milliseconds")
    }

    /// Waits until it has so many connections.
    fn until_connected(&mut self, connections: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.stats().1 != connections {
            assert!(Instant::now() < deadline, "{connections} connections do not come about");
        }
    }
}

fn echoes_more_than_one_turn_reads(name: &str) {
    let host = Host::start(name, &[]);
    let data = pattern(4 << 20);
    assert!(exchange(&connect(host.address), &data) == data);
}

fn serves_many_at_once(name: &str) {
    let mut host = Host::start(name, &[]);
    let address = host.address;
    thread::scope(|scope| {
        for n in 0..20 {
            scope.spawn(move || {
                let data = pattern(100_000 + n);
                assert!(exchange(&connect(address), &data) == data);
            });
        }
    });
    host.until_connected(0);
}

fn calls_timers_on_time(name: &str) {
    let mut host = Host::start(name, &[]);
    for _ in 0..3 {
        let took = host.timer();
        // Late by a frame, or by what a busy machine adds; not by the next thing that happens.
        assert!((100..1000).contains(&took), "{took} ms");
    }
}

fn sleeps_while_nothing_happens(name: &str, turns_per_second: u64) {
    let mut host = Host::start(name, &[]);
    let mut client = connect(host.address);
    client.write_all(b"x").expect("the server reads");
    client.read_exact(&mut [0]).expect("an echo");
    host.until_connected(1);
    let (before, began) = (host.stats().0, Instant::now());
    thread::sleep(Duration::from_millis(300));
    let (after, millis) = (host.stats().0, began.elapsed().as_millis() as u64);
    let most = 5 + turns_per_second * millis / 1000;
    assert!(after - before <= most, "{} turns in {millis} ms, expected {most}", after - before);
    client.write_all(b"y").expect("the server reads");
    client.read_exact(&mut [0]).expect("an echo");
}

/// Hundredths of a second that it has computed.
fn processor_time(program: &Program) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", program.child.id())).expect("its state");
    let (_, fields) = text.rsplit_once(") ").expect("its fields");
    fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

fn goes_on_quietly_when_the_input_ends(name: &str) {
    let mut host = Host::start(name, &[]);
    host.type_in("stats");
    let Host { program, typing, address } = host;
    drop(typing);
    program.output.until(" turns, ");
    let before = processor_time(&program);
    thread::sleep(Duration::from_millis(300));
    let took = processor_time(&program) - before;
    assert!(took < 10, "{took} of 30 hundredths of a second");
    assert_eq!(exchange(&connect(address), b"still here"), b"still here");
}

fn ends_when_it_is_told(name: &str) {
    let mut host = Host::start(name, &[]);
    let mut client = connect(host.address);
    host.until_connected(1);
    host.type_in("nonsense");
    host.program.output.until("\"nonsense\" is none of timer, stats, quit");
    host.type_in("quit");
    assert_eq!(client.read(&mut [0]).expect("an orderly end"), 0);
    drop(client);
    drop(host.typing);
    host.program.output.until("1 accepted, 0 connected, 1 lost");
    assert!(host.program.wait().success());
    assert_eq!(host.program.errors.rest(), [""; 0]);
}

fn says_why_it_cannot_serve(name: &str) {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let number = taken.local_addr().expect("an address").port();
    let mut program = Program::start(name, &[format!("tcp:{number}:interface=127.0.0.1")]);
    program.errors.until(&format!("cannot listen on 127.0.0.1:{number}"));
    assert!(!program.wait().success());
}

/// A module of tests for each host, with the turns that it makes in a second while nothing happens.
macro_rules! hosts {
    ($($name:ident: $turns:literal,)*) => {
        $(mod $name {
            const NAME: &str = stringify!($name);

            #[test]
            fn echoes_more_than_one_turn_reads() {
                super::echoes_more_than_one_turn_reads(NAME);
            }

            #[test]
            fn serves_many_at_once() {
                super::serves_many_at_once(NAME);
            }

            #[test]
            fn calls_timers_on_time() {
                super::calls_timers_on_time(NAME);
            }

            #[test]
            fn sleeps_while_nothing_happens() {
                super::sleeps_while_nothing_happens(NAME, $turns);
            }

            #[cfg(target_os = "linux")]
            #[test]
            fn goes_on_quietly_when_the_input_ends() {
                super::goes_on_quietly_when_the_input_ends(NAME);
            }

            #[test]
            fn ends_when_it_is_told() {
                super::ends_when_it_is_told(NAME);
            }

            #[test]
            fn says_why_it_cannot_serve() {
                super::says_why_it_cannot_serve(NAME);
            }
        })*
    };
}

hosts! {
    embed_poll: 0,
    embed_calloop: 0,
    embed_tokio: 0,
    // One each ten milliseconds.
    embed_wake_hook: 100,
    // One a frame.
    game_tick: 60,
    background_thread: 0,
}

#[test]
fn the_wake_hook_makes_the_pace_matter_to_sockets_only() {
    let mut host = Host::start("embed_wake_hook", &["600000"]);
    let took = host.timer();
    assert!((100..1000).contains(&took), "{took} ms");
    let (before, began) = (host.stats().0, Instant::now());
    thread::sleep(Duration::from_millis(100));
    assert!(host.stats().0 - before <= 5, "it sleeps {:?}", began.elapsed());
    host.type_in("quit");
    assert!(host.program.wait().success());
}

#[test]
fn a_game_says_what_its_frames_were_spent_on() {
    let mut host = Host::start("game_tick", &[]);
    let line = host.program.output.until("60 frames: game up to ");
    assert!(line.contains("network up to ") && line.contains(" of 4ms in "), "{line}");
    // A flood takes no more than its share: the game goes on.
    let address = host.address;
    let flood = thread::spawn(move || {
        let data = pattern(32 << 20);
        assert!(exchange(&connect(address), &data) == data);
    });
    let began = Instant::now();
    assert!(host.timer() >= 100);
    host.program.output.until("60 frames: ");
    assert!(began.elapsed() < PATIENCE / 2);
    flood.join().expect("all came back");
}
