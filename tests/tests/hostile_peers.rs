//! Peers that mean harm, or that are merely broken: they do not read, they reset at the worst moment, they
//! come in thousands, they are stopped, they send garbage. Each time: no crash, bounded memory and work,
//! another client served meanwhile, and at the end everything is given back. ‡
//!
//! Descriptors, limits and processor time belong to a process, so that each test has one of its own.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};
use twistor::{Port, Protocol, Reason, Transport};
use twistor_tests::allocations::{self, Counting, counts};
use twistor_tests::process::{self, Listener, open_descriptors, processor_time};
use twistor_tests::{Event, Log, Peer, Script, World, in_child, kernel_contract};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MIB: usize = 1 << 20;

/// Answers whatever comes, as naively as can be.
struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// Stops reading while its peer does not.
struct PoliteEcho;

impl Protocol for PoliteEcho {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }

    fn pause_writing(&mut self, transport: &Transport) {
        transport.pause_reading();
    }

    fn resume_writing(&mut self, transport: &Transport) {
        transport.resume_reading();
    }
}

fn address_of(port: &Port) -> SocketAddr {
    port.local_addr().socket_addr().expect("an IP port")
}

/// A well-behaved client beside the hostile ones.
struct Bystander<'w>(Peer<'w>);

impl<'w> Bystander<'w> {
    fn new(world: &'w World, port: &Port) -> Self {
        let bystander = Self(world.connect(port));
        bystander.is_served();
        bystander
    }

    fn is_served(&self) {
        self.0.send(b"still there?");
        assert_eq!(self.0.receive(12), b"still there?");
    }
}

/// What has to be as it was when the hostile peers are gone.
struct Balance {
    descriptors: usize,
    allocations: i64,
    connections: usize,
}

impl Balance {
    fn of(world: &World) -> Self {
        world.turns(3);
        let connections = world.reactor.stats().connections;
        Self { descriptors: open_descriptors(), allocations: counts().live, connections }
    }

    /// Spare buffers and grown tables may stay: no more than `spare` allocations, however many peers there
    /// were.
    fn is_restored(&self, world: &World, spare: i64) {
        world.until("all connections are gone", || world.reactor.stats().connections == self.connections);
        world.turns(3);
        let stats = world.reactor.stats();
        assert_eq!(stats.queued_bytes, 0);
        assert_eq!(stats.panics, 0);
        assert_eq!(open_descriptors(), self.descriptors, "descriptors are left over");
        let more = counts().live - self.allocations;
        assert!(more <= spare, "{more} allocations are left over");
    }
}

/// A connected client with a small receive buffer that never reads.
fn deaf(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&address.into()).unwrap();
    socket
}

fn reset(socket: &impl std::os::fd::AsFd) {
    SockRef::from(socket).set_linger(Some(Duration::ZERO)).unwrap();
}

kernel_contract! {
    fn a_thousand_peers_that_never_read_are_dropped_at_the_write_limit(driver) {
        const PEERS: usize = 1000;
        const LIMIT: usize = 64 * 1024;
        const PIECE: usize = 16 * 1024;
        in_child(module_path!(), driver, || {
            process::allow_all_descriptors();
            let world = World::with(driver, |builder| builder.write_limit(LIMIT));
            let echo = world.listen(|_| Echo);
            let bystander = Bystander::new(&world, &echo);
            let members: Rc<RefCell<Vec<Transport>>> = Rc::default();
            let reasons = Rc::new(Cell::new(0));
            let (join, count) = (Rc::clone(&members), Rc::clone(&reasons));
            let port = world
                .reactor
                .listen("tcp:0:interface=127.0.0.1:send_buffer=4096", move |_| {
                    let (join, count) = (Rc::clone(&join), Rc::clone(&count));
                    Script::new(&Log::new())
                        .on_made(move |transport| join.borrow_mut().push(transport.clone()))
                        .on_lost(move |_, reason| {
                            assert!(matches!(reason, Reason::WriteLimit), "{reason}");
                            count.set(count.get() + 1);
                        })
                })
                .unwrap();
            let piece = vec![b'x'; PIECE];
            let attack = || {
                let mut peers = Vec::new();
                while peers.len() < PEERS {
                    (0..100).for_each(|_| peers.push(deaf(address_of(&port))));
                    world.until("they are accepted", || members.borrow().len() == peers.len());
                }
                let before = allocations::restart_peak();
                let mut rounds = 0;
                while reasons.get() < PEERS {
                    members.borrow().iter().for_each(|member| member.write(&piece));
                    world.turns(1);
                    bystander.is_served();
                    let queued = world.reactor.stats().queued_bytes;
                    assert!(queued <= PEERS * (LIMIT + PIECE), "{queued} bytes are queued");
                    rounds += 1;
                    assert!(rounds < 100, "{} of them are still there", PEERS - reasons.get());
                }
                // The last segment of each is filled only in part.
                let peak = counts().peak - before;
                assert!(peak <= (PEERS * 2 * (LIMIT + PIECE)) as i64, "{peak} bytes at most");
                members.take();
                reasons.set(0);
            };
            // Spare buffers are kept after the first time, and used the second.
            attack();
            let balance = Balance::of(&world);
            attack();
            assert_eq!(world.reactor.stats().write_limit_hits, 2 * PEERS as u64);
            bystander.is_served();
            balance.is_restored(&world, 20);
        });
    }

    fn four_hundred_megabytes_at_an_echo_server_cost_the_write_limit(driver) {
        const ALL: usize = 400 * MIB;
        const LIMIT: usize = 16 * MIB;
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let port = world.listen(|_| Echo);
            let bystander = Bystander::new(&world, &port);
            let balance = Balance::of(&world);
            let piece = vec![b'x'; MIB];
            let before = allocations::restart_peak();
            let (mut pushed, mut most) = (0, 0);
            while pushed < ALL {
                // Each time it is thrown out it comes again.
                let peer = TcpStream::connect(address_of(&port)).unwrap();
                peer.set_nonblocking(true).unwrap();
                let losses = world.reactor.stats().lost;
                while pushed < ALL && world.reactor.stats().lost == losses {
                    match (&peer).write(&piece) {
                        Ok(count) => pushed += count,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(_) => break,
                    }
                    world.turns(1);
                    most = most.max(world.reactor.stats().queued_bytes);
                }
                bystander.is_served();
            }
            let peak = usize::try_from(counts().peak - before).unwrap();
            assert!(most > LIMIT / 2, "only {most} bytes were ever queued: the test does not test");
            assert!(most <= LIMIT + MIB, "{most} bytes were queued");
            assert!(peak <= LIMIT + MIB, "{peak} bytes were held");
            assert!(world.reactor.stats().write_limit_hits >= (ALL / (64 * MIB)) as u64);
            balance.is_restored(&world, 60);
        });
    }

    fn four_hundred_megabytes_at_a_polite_echo_server_cost_its_marks(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let port = world.listen(|_| PoliteEcho);
            let bystander = Bystander::new(&world, &port);
            let balance = Balance::of(&world);
            let piece = vec![b'x'; MIB];
            let before = allocations::restart_peak();
            let peer = TcpStream::connect(address_of(&port)).unwrap();
            peer.set_nonblocking(true).unwrap();
            // It would push 400 MB; after some the server does not listen any more.
            let (mut pushed, mut stalled) = (0, 0);
            while pushed < 400 * MIB && stalled < 200 {
                match (&peer).write(&piece) {
                    Ok(count) => (pushed, stalled) = (pushed + count, 0),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => stalled += 1,
                    Err(error) => panic!("a polite server does not throw anybody out: {error}"),
                }
                world.turns(1);
            }
            assert!(pushed < 400 * MIB, "everything was taken");
            let queued = world.reactor.stats().queued_bytes;
            assert!(queued > 0 && queued <= MIB, "{queued} bytes are queued");
            let peak = counts().peak - before;
            assert!(peak <= MIB as i64, "{peak} bytes were held");
            // The stalled connection costs nothing while others are served.
            let passes = world.reactor.stats().passes;
            world.run_for(Duration::from_millis(100));
            assert!(world.reactor.stats().passes - passes <= 3, "it keeps the loop busy");
            bystander.is_served();
            reset(&peer);
            drop(peer);
            balance.is_restored(&world, 60);
        });
    }

    fn a_reset_at_every_moment_of_a_conversation_is_one_loss(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let echo = world.listen(|_| Echo);
            let bystander = Bystander::new(&world, &echo);
            let current: Rc<RefCell<Log>> = Rc::default();
            let script = Rc::clone(&current);
            let port = world.listen(move |_| {
                // Greets; answers a request with a lot; says goodbye when its peer has finished.
                Script::new(&script.borrow())
                    .on_made(|transport| {
                        transport.write(b"welcome");
                        transport.call_later(Duration::from_secs(1000), |_: &mut Script, _| {});
                        transport.flushed().deliver(transport, |_: &mut Script, _, _| {});
                    })
                    .on_data(|transport, data| {
                        if data.ends_with(b"!") {
                            transport.write(&vec![b'x'; 6 * MIB]);
                        }
                    })
                    .on_eof(|transport| {
                        transport.write(b"goodbye");
                        twistor::Eof::Close
                    })
            });
            // Each step, and whether the server gets turns in between.
            let steps: [fn(&TcpStream); 9] = [
                |_| {},
                |mut peer| drop(peer.read(&mut [0; 3])),
                |mut peer| peer.write_all(b"give me").unwrap(),
                |mut peer| peer.write_all(b" all of it!").unwrap(),
                |mut peer| drop(peer.read(&mut [0; 1])),
                |mut peer| drop(peer.read(&mut vec![0; MIB])),
                |peer| peer.shutdown(std::net::Shutdown::Write).unwrap(),
                |mut peer| drop(peer.read(&mut vec![0; MIB])),
                |mut peer| while peer.read(&mut vec![0; MIB]).is_ok_and(|count| count > 0) {},
            ];
            let balance = Balance::of(&world);
            let timers = world.reactor.stats().timers;
            for moment in 0..=steps.len() {
                for turns in 0..4 {
                    let log = Log::new();
                    *current.borrow_mut() = log.clone();
                    let peer = TcpStream::connect(address_of(&port)).unwrap();
                    peer.set_nonblocking(true).unwrap();
                    for step in &steps[..moment] {
                        world.turns(turns);
                        step(&peer);
                    }
                    world.turns(turns);
                    // Every other time it is left to the kernel: a close is a reset when something is unread.
                    if turns % 2 == 0 {
                        reset(&peer);
                    }
                    drop(peer);
                    world.until("the loss", || log.events().iter().any(is_loss));
                    world.turns(2);
                    let events = log.events();
                    let losses = events.iter().filter(|event| is_loss(event)).count();
                    assert_eq!(losses, 1, "moment {moment}, {turns} turns: {events:?}");
                    assert!(is_loss(events.last().unwrap()), "moment {moment}, {turns} turns: {events:?}");
                    assert_eq!(events[0], Event::Made);
                }
                bystander.is_served();
            }
            assert_eq!(world.reactor.stats().timers, timers, "timers of lost connections are left over");
            current.take();
            balance.is_restored(&world, 60);
        });
    }

    fn twenty_thousand_connects_at_a_limit_of_256_descriptors_cost_nothing(driver) {
        match process::role().as_deref() {
            Some("short") => return short_of_descriptors(driver),
            Some(_) => unreachable!("no such role"),
            None => {}
        }
        process::allow_all_descriptors();
        let mut server = Listener::start(process::again(module_path!(), driver, "short"));
        let address: SocketAddr = server.hear("address").parse().unwrap();
        let mut control = Control::new(address);
        // Far more than there are descriptors: they come, and stay.
        let held: Vec<_> = (0..400).map(|_| attempt(address)).collect();
        while control.ask().shed == 0 {}
        let before = control.ask();
        let began = Instant::now();
        let time = Duration::from_secs(3);
        let mut connects = held.len();
        while connects < 20_000 || began.elapsed() < time {
            if connects < 20_000 {
                for _ in 0..1000 {
                    reset(&attempt(address));
                }
                connects += 1000;
            } else {
                // Nothing is waited for: the server is looked at while this time passes.
                std::thread::sleep(Duration::from_millis(100));
            }
            // And somebody is served.
            control.ask();
        }
        let after = control.ask();
        let time = began.elapsed();
        let used = after.used - before.used;
        println!("{used:?} of {time:?}, {} passes, {} shed", after.passes - before.passes, after.shed);
        assert!(after.connections >= 200, "it is not full: {}", after.connections);
        assert!(used < time / 100, "{used:?} of {time:?}");
        assert!(after.passes - before.passes < 500, "{} passes", after.passes - before.passes);
        // When they go it recovers by itself.
        held.iter().for_each(reset);
        drop(held);
        let began = Instant::now();
        while Control::try_new(address).is_none_or(|mut other| other.try_ask().is_none()) {
            assert!(began.elapsed() < twistor_tests::PATIENCE, "it does not recover");
        }
        control.0.get_mut().write_all(b"stop\n").unwrap();
        server.finish();
    }

    fn a_stopped_client_stops_only_itself(driver) {
        const ALL: u64 = 64 << 20;
        if process::role().as_deref() == Some("reader") {
            return reader();
        }
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let echo = world.listen(|_| Echo);
            let bystander = Bystander::new(&world, &echo);
            let balance = Balance::of(&world);
            let log = Log::new();
            let script = log.clone();
            // A source without end, which heeds `pause_writing`.
            let made: Rc<RefCell<Option<Transport>>> = Rc::default();
            let place = Rc::clone(&made);
            let port = world.listen(move |_| {
                let place = Rc::clone(&place);
                Script::new(&script).on_made(move |transport| *place.borrow_mut() = Some(transport.clone()))
            });
            let piece = vec![b'x'; 256 * 1024];
            let written = Cell::new(0);
            let feed = |flowing: bool| {
                let transport = made.borrow();
                let Some(transport) = &*transport else { return };
                if flowing && written.get() < ALL {
                    transport.write(&piece);
                    written.set(written.get() + piece.len() as u64);
                }
                if written.get() == ALL {
                    transport.lose_connection();
                }
            };
            let is_paused = || log.count(&Event::Pause) > log.count(&Event::Resume);
            let mut command = process::again(module_path!(), driver, "reader");
            command.env("TWISTOR_TEST_ADDRESS", address_of(&port).to_string());
            let mut client = Listener::start(command);
            world.until("some of it flows", || {
                feed(!is_paused());
                written.get() > ALL / 8
            });
            client.signal(libc::SIGSTOP);
            // The kernel takes more for a while: what is on its way, and what it makes room for.
            let queued = || world.reactor.stats().queued_bytes;
            world.until("it stalls", || {
                feed(!is_paused());
                let before = queued();
                if is_paused() {
                    world.run_for(Duration::from_millis(50));
                }
                is_paused() && before > 0 && queued() == before
            });
            let (passes, used) = (world.reactor.stats().passes, processor_time());
            let before = queued();
            let time = Duration::from_millis(300);
            world.run_for(time);
            // A kernel that probes the closed window may still take something.
            assert!(world.reactor.stats().passes - passes <= 10, "a stopped peer keeps the loop busy");
            assert!(processor_time() - used < time / 10);
            assert!(queued() <= before);
            bystander.is_served();
            client.signal(libc::SIGCONT);
            world.until("the rest has flowed", || {
                feed(!is_paused());
                log.lost().is_some()
            });
            assert_eq!(log.lost().as_deref(), Some("closed"));
            assert_eq!(client.hear("received"), ALL.to_string());
            client.finish();
            made.borrow_mut().take();
            drop(port.stop_listening());
            bystander.is_served();
            balance.is_restored(&world, 100);
        });
    }

    fn garbage_ends_at_most_the_connection_it_comes_from(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let echo = world.listen(|_| Echo);
            let bystander = Bystander::new(&world, &echo);
            let reasons: Rc<RefCell<Vec<String>>> = Rc::default();
            let list = Rc::clone(&reasons);
            let port = world.listen(move |_| {
                let list = Rc::clone(&list);
                Script::new(&Log::new())
                    .on_data(|transport, data| {
                        if let Some(text) = transport.check(std::str::from_utf8(data)) {
                            transport.write(text.to_uppercase().as_bytes());
                        }
                    })
                    .on_lost(move |_, reason| list.borrow_mut().push(reason.to_string()))
            });
            let balance = Balance::of(&world);
            let mut noise = 0x2545_F491_4F6C_DD1D_u64;
            let mut random = move || {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                noise
            };
            for round in 0..200 {
                let peer = TcpStream::connect(address_of(&port)).unwrap();
                peer.set_nonblocking(true).unwrap();
                let length = 1 + random() as usize % 5000;
                let garbage: Vec<u8> = (0..length).map(|_| random() as u8 | 0x80).collect();
                let _ = (&peer).write(&garbage);
                if round % 3 == 0 {
                    // Urgent data, which nobody asked for.
                    let _ = SockRef::from(&peer).send_out_of_band(&garbage[..1]);
                }
                if round % 5 == 0 {
                    world.turns(1);
                    let _ = (&peer).write(&garbage);
                }
                if round % 7 == 0 {
                    let _ = peer.shutdown(std::net::Shutdown::Write);
                }
                world.turns(1);
                if round % 50 == 0 {
                    bystander.is_served();
                }
            }
            world.until("all are lost", || reasons.borrow().len() == 200);
            let allowed = |reason: &String| reason.starts_with("failed: ") || reason.starts_with("reset");
            assert!(reasons.borrow().iter().all(allowed), "{:?}", reasons.borrow());
            assert!(reasons.borrow().iter().any(|reason| reason.starts_with("failed: ")));
            reasons.borrow_mut().clear();
            bystander.is_served();
            balance.is_restored(&world, 60);
        });
    }
}

fn is_loss(event: &Event) -> bool {
    matches!(event, Event::Lost(_))
}

/// A client in a process of its own that reads to the end.
fn reader() {
    let address = std::env::var("TWISTOR_TEST_ADDRESS").expect("an address");
    let mut stream = TcpStream::connect(address).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let mut received = 0;
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => break,
            count => received += count as u64,
        }
    }
    process::say("received", received);
}

/// Starts to connect and does not wait for the outcome.
fn attempt(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    // It is under way, or there is no room for it: both are fine.
    let _ = socket.connect(&address.into());
    socket
}

/// A server that has 256 descriptors and tells how it is to those who ask.
fn short_of_descriptors(driver: twistor_tests::Driver) {
    process::limit_descriptors(256);
    let world = World::new(driver);
    let port = world.listen(|_| {
        Script::new(&Log::new()).on_data(|transport, data| {
            if data == b"stop\n" {
                transport.reactor().stop();
            }
            let stats = transport.reactor().stats();
            let used = processor_time().as_nanos();
            writeln!(transport, "{used} {} {} {}", stats.passes, stats.shed, stats.connections);
        })
    });
    process::say("address", port.local_addr());
    world.reactor.run().unwrap();
}

/// How the server is.
struct State {
    used: Duration,
    passes: u64,
    shed: u64,
    connections: usize,
}

/// A connection to ask the server how it is.
struct Control(BufReader<TcpStream>);

impl Control {
    fn new(address: SocketAddr) -> Self {
        Self::try_new(address).expect("a connection")
    }

    fn try_new(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        Some(Self(BufReader::new(stream)))
    }

    fn ask(&mut self) -> State {
        self.try_ask().expect("an answer")
    }

    fn try_ask(&mut self) -> Option<State> {
        self.0.get_mut().write_all(b"?\n").ok()?;
        let mut line = String::new();
        self.0.read_line(&mut line).ok()?;
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let [used, passes, shed, connections] = numbers[..] else { return None };
        let connections = usize::try_from(connections).ok()?;
        Some(State { used: Duration::from_nanos(used), passes, shed, connections })
    }
}
