//! The budget of the hot path, counted: system calls, allocations, memory, wake-ups. No clock decides here.
//!
//! The reactor counts its system calls itself; one test compares these counts with what `strace` sees.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use twistor::bytes::Bytes;
use twistor::{Eof, Handle, Port, Protocol, Stats, SystemCalls, Transport};
use twistor_tests::allocations::{Counting, counts};
use twistor_tests::process::{self, Listener};
use twistor_tests::{Driver, Peer, World, in_child, kernel_contract};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ROUNDS: u64 = 500;

/// Has no size of its own.
struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// Answers each byte with a write of its own.
struct Pipelined;

impl Protocol for Pipelined {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        for byte in data {
            transport.write(&[*byte]);
        }
    }
}

/// The system calls between two looks.
fn between(before: &Stats, after: &Stats) -> SystemCalls {
    let (before, mut calls) = (before.system_calls, after.system_calls);
    calls.waits -= before.waits;
    calls.receives -= before.receives;
    calls.sends -= before.sends;
    calls.accepts -= before.accepts;
    calls.controls -= before.controls;
    calls.others -= before.others;
    calls
}

/// `[waits, receives, sends, accepts, controls, others]`
fn list(calls: &SystemCalls) -> [u64; 6] {
    [calls.waits, calls.receives, calls.sends, calls.accepts, calls.controls, calls.others]
}

/// Runs `work` and tells the system calls that the reactor made for it.
fn calls_of(world: &World, work: impl FnOnce()) -> SystemCalls {
    let before = world.reactor.stats();
    work();
    between(&before, &world.reactor.stats())
}

fn send(mut peer: &TcpStream, data: &[u8]) {
    assert_eq!(peer.write(data).unwrap(), data.len(), "the kernel has no room");
}

/// Receives what one pass has brought, without an allocation.
fn receive(mut peer: &TcpStream, count: usize) {
    let mut buffer = [0; 8192];
    assert_eq!(peer.read(&mut buffer).unwrap(), count, "one pass did not bring the echo");
}

/// One message there and back, in one pass.
fn round(world: &World, peers: &[Peer<'_>], message: &[u8]) {
    peers.iter().for_each(|peer| send(peer.socket().kernel(), message));
    world.turns(1);
    peers.iter().for_each(|peer| receive(peer.socket().kernel(), message.len()));
}

/// Connections that have been used a little, so that all that is made once is made.
fn warm<'w>(world: &'w World, count: usize) -> (Port, Vec<Peer<'w>>) {
    let port = world.listen(|_| Echo);
    let peers: Vec<_> = (0..count).map(|_| world.connect(&port)).collect();
    world.until("all are accepted", || world.reactor.stats().connections == count);
    for _ in 0..20 {
        round(world, &peers, &[b'x'; 4096]);
        round(world, &peers, b"hello");
    }
    world.turns(2);
    (port, peers)
}

/// Turns the reactor once, for as long as nothing happens, at most this long. Nothing may happen.
fn sleeps_undisturbed(world: &World, time: Duration) {
    let began = Instant::now();
    let before = world.reactor.stats();
    world.reactor.turn(Some(time)).unwrap();
    let after = world.reactor.stats();
    assert!(began.elapsed() >= time, "woken after {:?}", began.elapsed());
    assert_eq!((after.passes - before.passes, list(&between(&before, &after))), (1, [1, 0, 0, 0, 0, 0]));
}

kernel_contract! {
    fn one_busy_connection_costs_three_system_calls_a_message(driver) {
        let world = World::new(driver);
        let (_port, peers) = warm(&world, 1);
        let calls = calls_of(&world, || (0..ROUNDS).for_each(|_| round(&world, &peers, b"hello")));
        assert_eq!(list(&calls), [ROUNDS, ROUNDS, ROUNDS, 0, 0, 0]);
        assert_eq!(calls.total(), 3 * ROUNDS);
    }

    fn n_busy_connections_cost_two_and_an_nth_system_call_a_message(driver) {
        const N: u64 = 32;
        let world = World::new(driver);
        let (_port, peers) = warm(&world, N as usize);
        let rounds = ROUNDS / 5;
        let calls = calls_of(&world, || (0..rounds).for_each(|_| round(&world, &peers, b"hello")));
        assert_eq!(list(&calls), [rounds, N * rounds, N * rounds, 0, 0, 0]);
        assert_eq!(calls.total(), (2 * N + 1) * rounds);
    }

    fn idle_connections_beside_them_cost_nothing(driver) {
        let world = World::new(driver);
        let (_port, peers) = warm(&world, 300);
        let calls = calls_of(&world, || (0..ROUNDS).for_each(|_| round(&world, &peers[7..8], b"hello")));
        assert_eq!(list(&calls), [ROUNDS, ROUNDS, ROUNDS, 0, 0, 0]);
    }

    fn a_connection_is_registered_once(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Echo);
        let calls = calls_of(&world, || {
            let peers: Vec<_> = (0..20).map(|_| world.connect(&port)).collect();
            world.until("all are accepted", || world.reactor.stats().connections == 20);
            (0..5).for_each(|_| round(&world, &peers, b"hello"));
        });
        assert_eq!((calls.controls, calls.others), (20, 0));
        // The last accept of a pass finds that nobody waits.
        assert!(calls.accepts >= 21, "{calls:?}");
    }

    /// Accept (and see that nobody else waits), receive, send, end; and nothing of it stays behind to be
    /// looked at.
    fn a_short_lived_connection_costs_three_passes_and_one_allocation(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Echo);
        // Returns what it took, without the peer's own.
        let visit = || {
            let peer = world.connect(&port);
            let before = counts().calls;
            world.turns(1);
            round(&world, std::slice::from_ref(&peer), b"hello");
            drop(peer);
            world.turns(1);
            assert_eq!(world.reactor.stats().connections, 0);
            counts().calls - before
        };
        for _ in 0..20 {
            visit();
        }
        let before = world.reactor.stats();
        let allocated: i64 = (0..50).map(|_| visit()).sum();
        let after = world.reactor.stats();
        assert_eq!(allocated, 50, "one for the state of each connection");
        assert_eq!(after.passes - before.passes, 3 * 50);
        let calls = between(&before, &after);
        assert_eq!([calls.waits, calls.receives, calls.sends, calls.accepts], [150, 100, 50, 100]);
        // Nothing is left to do but to wait.
        sleeps_undisturbed(&world, Duration::from_millis(20));
    }

    fn no_registration_changes_while_output_flows(driver) {
        let world = World::new(driver);
        let made = Rc::new(RefCell::new(None));
        let place = Rc::clone(&made);
        let port = world.listen(move |_| {
            let place = Rc::clone(&place);
            twistor_tests::Script::new(&twistor_tests::Log::new())
                .on_made(move |transport| *place.borrow_mut() = Some(transport.clone()))
        });
        let peer = world.connect(&port);
        world.until("it is accepted", || made.borrow().is_some());
        let transport = made.take().unwrap();
        let data = Bytes::from(vec![b'x'; 100_000]);
        let mut buffer = vec![0; 200_000];
        let calls = calls_of(&world, || {
            for _ in 0..100 {
                transport.write(b"small");
                transport.write_bytes(data.clone());
                let mut left = 100_005;
                world.until("the peer has it all", || {
                    left -= peer.socket().read(&mut buffer).unwrap_or(0);
                    left == 0
                });
            }
        });
        assert_eq!((calls.controls, calls.others, calls.receives), (0, 0, 0));
        // The small and the large piece leave together.
        assert_eq!(calls.sends, 100);
    }

    fn pausing_and_resuming_in_one_pass_costs_nothing(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| {
            twistor_tests::Script::new(&twistor_tests::Log::new()).on_data(|transport, data| {
                transport.pause_reading();
                transport.write(data);
                transport.resume_reading();
            })
        });
        let peers = [world.connect(&port)];
        world.until("it is accepted", || world.reactor.stats().connections == 1);
        round(&world, &peers, b"hello");
        let calls = calls_of(&world, || (0..100).for_each(|_| round(&world, &peers, b"hello")));
        assert_eq!((calls.receives, calls.sends, calls.controls), (100, 100, 0));
    }

    fn pipelined_messages_are_answered_with_one_send_a_read(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Pipelined);
        let peers = [world.connect(&port)];
        world.until("it is accepted", || world.reactor.stats().connections == 1);
        let hundred = [b'x'; 100];
        round(&world, &peers, &hundred);
        let calls = calls_of(&world, || (0..ROUNDS).for_each(|_| round(&world, &peers, &hundred)));
        assert_eq!(list(&calls), [ROUNDS, ROUNDS, ROUNDS, 0, 0, 0]);
    }

    fn writes_from_elsewhere_cost_one_send_a_pass(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Echo);
        let made = Rc::new(RefCell::new(Vec::new()));
        let attempt = world.reactor.connect(port.local_addr().socket_addr().unwrap(), |_| Echo);
        let place = Rc::clone(&made);
        attempt.on_done(move |_, outcome| place.borrow_mut().push(outcome.unwrap()));
        world.until("it is connected", || made.borrow().len() == 1);
        port.pause_accepting();
        world.turns(3);
        let connection = made.borrow()[0].transport().clone();
        let calls = calls_of(&world, || {
            (0..100).for_each(|_| connection.write(b"piece"));
            // What is written between two passes leaves at the end of the next.
            world.turns(1);
        });
        assert_eq!((calls.waits, calls.sends, calls.controls), (1, 1, 0));
    }

    fn an_echoed_message_costs_no_allocation(driver) {
        let world = World::new(driver);
        for count in [1, 32] {
            let (port, peers) = warm(&world, count);
            for message in [&[b'x'; 1][..], &[b'x'; 64], &[b'x'; 4096]] {
                let before = counts();
                (0..ROUNDS / 5).for_each(|_| round(&world, &peers, message));
                let after = counts();
                assert_eq!(after.calls - before.calls, 0, "{count} connections, {} bytes", message.len());
                assert_eq!(after.bytes, before.bytes);
            }
            drop(port.stop_listening());
            drop(peers);
            world.until("all are gone", || world.reactor.stats().connections == 0);
        }
    }

    fn a_pipelined_answer_costs_no_allocation(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Pipelined);
        let peers = [world.connect(&port)];
        world.until("it is accepted", || world.reactor.stats().connections == 1);
        let many = [b'x'; 1000];
        (0..20).for_each(|_| round(&world, &peers, &many));
        let before = counts();
        (0..100).for_each(|_| round(&world, &peers, &many));
        assert_eq!(counts().calls - before.calls, 0);
    }

    fn an_idle_connection_costs_at_most_256_bytes(driver) {
        in_child(module_path!(), driver, || {
            let descriptors = process::allow_all_descriptors();
            let n = 10_000.min((descriptors - 100) / 2);
            let world = World::new(driver);
            let port = world.listen(|_| Echo);
            let address = port.local_addr().socket_addr().unwrap();
            let mut peers: Vec<TcpStream> = Vec::with_capacity(n);
            world.turns(2);
            let before = counts();
            while peers.len() < n {
                // Within the backlog.
                (0..500.min(n - peers.len())).for_each(|_| peers.push(TcpStream::connect(address).unwrap()));
                world.until("all are accepted", || world.reactor.stats().connections == peers.len());
            }
            let fresh = counts();
            println!("{} bytes in {} allocations each, {n} connections",
                (fresh.bytes - before.bytes) as f64 / n as f64,
                (fresh.live - before.live) as f64 / n as f64);
            assert!(fresh.bytes - before.bytes <= 256 * n as i64);
            // One allocation each, and the few tables of all.
            assert!(fresh.live - before.live <= n as i64 + 50);
            // Each says something once, and is idle again.
            for some in peers.chunks(100) {
                some.iter().for_each(|peer| send(peer, b"hello"));
                world.turns(1);
                some.iter().for_each(|peer| receive(peer, 5));
            }
            world.turns(1);
            assert!(counts().bytes - before.bytes <= 256 * n as i64, "more is kept after use");
            sleeps_undisturbed(&world, Duration::from_millis(50));
            // All that was theirs comes back, but for the tables.
            for peer in &peers {
                socket2::SockRef::from(peer).set_linger(Some(Duration::ZERO)).unwrap();
            }
            peers.clear();
            world.until("all are gone", || world.reactor.stats().connections == 0);
            assert!(counts().live - before.live <= 50, "{:?} {:?}", before, counts());
        });
    }

    fn an_idle_server_is_not_woken(driver) {
        let world = World::new(driver);
        let mut turn = 0;
        let port = world.listen(move |_| {
            turn += 1;
            let log = twistor_tests::Log::new();
            let script = twistor_tests::Script::new(&log).on_data(Transport::write);
            match turn {
                // Paused, while its peer has sent something.
                1 => script.on_made(Transport::pause_reading),
                // Its peer has finished, and it has not.
                2 => script.on_eof(|_| Eof::KeepOpen),
                // Paused after its peer has finished.
                3 => script.on_eof(|transport| {
                    transport.pause_reading();
                    Eof::KeepOpen
                }),
                // Cannot write, because its peer does not read.
                4 => script.on_made(|transport| transport.write(&vec![b'x'; 12 << 20])),
                _ => script,
            }
        });
        let paused = world.connect(&port);
        let finished = [world.connect(&port), world.connect(&port)];
        let deaf = world.connect(&port);
        let others: Vec<_> = (0..50).map(|_| world.connect(&port)).collect();
        world.until("all are accepted", || world.reactor.stats().connections == 54);
        assert_eq!(paused.try_send(b"nobody listens"), 14);
        finished.iter().for_each(Peer::finish);
        others.iter().for_each(|peer| peer.send(b"hello"));
        for peer in &others {
            assert_eq!(peer.receive(5), b"hello");
        }
        world.until("all is quiet", || {
            let before = world.reactor.stats();
            world.turns(1);
            list(&between(&before, &world.reactor.stats())) == [1, 0, 0, 0, 0, 0]
        });
        sleeps_undisturbed(&world, Duration::from_millis(200));
        assert_eq!(world.reactor.stats().connections, 54);
        drop(deaf);
    }

    fn posting_from_the_loops_own_thread_costs_no_system_call(driver) {
        let wakes = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&wakes);
        let world = World::with(driver, |builder| {
            builder.wake_hook(move || {
                count.fetch_add(1, Ordering::SeqCst);
            })
        });
        let remote = world.reactor.remote();
        let heard = Rc::new(Cell::new(0));
        let count = Rc::clone(&heard);
        // In the middle of a pass, through everything that queues.
        world.reactor.call_soon(move |handle: &Handle| {
            for _ in 0..1000 {
                let count = Rc::clone(&count);
                handle.call_soon(move |_| count.set(count.get() + 1));
                remote.call(|_| {}).unwrap();
            }
        });
        // Scheduling that from outside of a pass is one message to the host.
        assert_eq!(wakes.swap(0, Ordering::SeqCst), 1);
        let calls = calls_of(&world, || world.turns(2));
        assert_eq!(heard.get(), 1000);
        assert_eq!(list(&calls), [2, 0, 0, 0, 0, 0]);
        assert_eq!(wakes.load(Ordering::SeqCst), 0, "the loop woke itself");
    }

    fn posting_from_another_thread_wakes_the_loop_once_a_sleep(driver) {
        let wakes = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&wakes);
        let world = World::with(driver, |builder| {
            builder.wake_hook(move || {
                count.fetch_add(1, Ordering::SeqCst);
            })
        });
        let heard = Arc::new(AtomicU64::new(0));
        let post = |messages: u64| {
            let (remote, heard) = (world.reactor.remote(), Arc::clone(&heard));
            let posting = thread::spawn(move || {
                for _ in 0..messages {
                    let heard = Arc::clone(&heard);
                    let call = move |_: &Handle| {
                        heard.fetch_add(1, Ordering::SeqCst);
                    };
                    remote.call(call).map_err(|error| error.to_string()).unwrap();
                }
            });
            posting.join().unwrap();
        };
        world.turns(1);
        for sleep in 1..=5 {
            // The loop sleeps: it is between two turns.
            post(1000);
            assert_eq!(wakes.load(Ordering::SeqCst), sleep);
            let calls = calls_of(&world, || world.turns(1));
            assert_eq!(heard.load(Ordering::SeqCst), sleep * 1000);
            assert_eq!((calls.waits, calls.total()), (1, 1));
        }
        // The loop is at work: it will look by itself.
        let remote = world.reactor.remote();
        world.reactor.call_soon(move |_| {
            thread::spawn(move || (0..1000).for_each(|_| remote.call(|_| {}).map_err(drop).unwrap()))
                .join()
                .unwrap();
        });
        let before = wakes.load(Ordering::SeqCst);
        world.turns(2);
        assert_eq!(wakes.load(Ordering::SeqCst), before);
    }

    fn the_reactor_counts_what_strace_counts(driver) {
        if process::role().as_deref() == Some("traced") {
            traced_server(driver);
            return;
        }
        let works = Command::new("strace").args(["-f", "-c", "-o", "/dev/null", "true"]).output();
        if !works.is_ok_and(|output| output.status.success()) {
            println!("skipped: there is no strace here, or it may not trace");
            return;
        }
        let report = format!("{}/strace-{driver:?}-{}", env!("CARGO_TARGET_TMPDIR"), std::process::id());
        let server = process::again(module_path!(), driver, "traced");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-c", "-o", &report]).arg(server.get_program()).args(server.get_args());
        for (name, value) in server.get_envs() {
            strace.env(name, value.unwrap_or_default());
        }
        let mut server = Listener::start(strace);
        let address: SocketAddr = server.hear("address").parse().unwrap();
        talk_to_traced_server(address);
        let own: Vec<u64> = server.hear("counts").split(' ').map(|n| n.parse().unwrap()).collect();
        server.finish();
        let seen = std::fs::read_to_string(&report).unwrap();
        std::fs::remove_file(&report).unwrap();
        let calls = |names: &[&str]| -> u64 { names.iter().map(|name| in_report(&seen, name)).sum() };
        let [waits, receives, sends, accepts, controls, _] = own[..] else { panic!("{own:?}") };
        assert_eq!(waits, calls(&["epoll_wait", "epoll_pwait", "epoll_pwait2"]), "waits\n{seen}");
        assert_eq!(receives, calls(&["recvfrom", "recvmsg"]), "receives\n{seen}");
        assert_eq!(sends, calls(&["sendto", "sendmsg"]), "sends\n{seen}");
        assert_eq!(accepts, calls(&["accept", "accept4"]), "accepts\n{seen}");
        if driver == Driver::Direct {
            // A poller registers three descriptors of its own when it is made, and removes two at its end.
            let registered = calls(&["epoll_ctl"]) - controls;
            assert!(registered <= 5, "{registered} more than {controls}\n{seen}");
        }
        assert!(receives > 200 && sends > 200 && controls > 20, "{own:?}");
    }
}

/// How often a system call stands in a report of `strace -c`.
fn in_report(report: &str, name: &str) -> u64 {
    let line = report.lines().find(|line| line.split_whitespace().last() == Some(name));
    line.map_or(0, |line| line.split_whitespace().nth(3).unwrap().parse().unwrap())
}

/// Echoes; floods who asks for it; stops at a word.
struct Traced;

const FLOOD: usize = 24 << 20;

impl Protocol for Traced {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        match data {
            b"flood" => {
                transport.set_write_limit(2 * FLOOD);
                let piece = Bytes::from(vec![b'x'; 64 * 1024]);
                (0..FLOOD / piece.len()).for_each(|_| transport.write_bytes(piece.clone()));
            }
            b"stop" => transport.reactor().stop(),
            data => transport.write(data),
        }
    }
}

fn traced_server(driver: Driver) {
    let world = World::with(driver, |builder| builder.drain_timeout(Duration::ZERO));
    let port = world.listen(|_| Traced);
    process::say("address", port.local_addr());
    world.reactor.run().unwrap();
    let numbers = list(&world.reactor.stats().system_calls).map(|number| number.to_string());
    process::say("counts", numbers.join(" "));
}

fn talk_to_traced_server(address: SocketAddr) {
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(twistor_tests::PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    };
    let mut buffer = vec![0; 1 << 16];
    let mut first = connect();
    for _ in 0..200 {
        first.write_all(b"hello").unwrap();
        first.read_exact(&mut buffer[..5]).unwrap();
    }
    let others: Vec<_> = (0..20).map(|_| connect()).collect();
    for mut other in &others {
        other.write_all(b"hello").unwrap();
        other.read_exact(&mut buffer[..5]).unwrap();
    }
    drop(others);
    // More than the kernel takes: sends fail for want of room and go on later.
    first.write_all(b"flood").unwrap();
    let mut left = FLOOD;
    while left > 0 {
        match first.read(&mut buffer) {
            Ok(count) => left -= count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}"),
        }
    }
    first.write_all(b"stop").unwrap();
    let _ = first.read(&mut buffer);
}
