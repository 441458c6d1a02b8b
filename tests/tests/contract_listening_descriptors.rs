//! The contract, section 6, line 46: what a listener does when no descriptor is left.
//!
//! The limit belongs to the process, so that every test here has one of its own. It connects its peers first
//! and then lets no further descriptor be opened; what is open above the limit stays open.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use twistor::{Port, Protocol, Transport};
use twistor_tests::process::processor_time;
use twistor_tests::{Peer, Socket, World, contract, in_child, kernel_contract};

/// One accept budget.
const BUDGET: u64 = 64;

struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// Peers that wait to be accepted.
fn waiting(world: &World, port: &Port, count: usize) -> Vec<Socket> {
    let (machine, address) = (world.machine(), port.local_addr().socket_addr().unwrap());
    (0..count).map(|_| machine.connect(address).unwrap()).collect()
}

fn echoes(peer: &Peer<'_>) {
    peer.send(b"hello");
    assert_eq!(peer.receive(5), b"hello");
}

/// How long the port rests, as far as the only timer of the reactor tells.
fn rest(world: &World) -> Duration {
    let deadline = world.reactor.next_deadline().expect("a timer that ends the rest");
    deadline.saturating_duration_since(world.now())
}

/// Turns the reactor until the descriptors have run out once more.
fn until_exhausted_again(world: &World) {
    let before = world.reactor.stats().accept_errors;
    world.until("the descriptors run out", || world.reactor.stats().accept_errors > before);
}

/// How many of these have been told that it is over.
fn ended(peers: &[Socket]) -> u64 {
    let is_over =
        |peer: &Socket| !matches!(peer.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
    peers.iter().filter(|peer| is_over(peer)).count() as u64
}

/// Everything that was logged as an error, and when.
#[derive(Default)]
struct Errors(Mutex<Vec<String>>);

impl log::Log for Errors {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.level() == log::Level::Error {
            self.0.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

contract! {
    fn one_accept_budget_is_refused_and_then_accepting_rests(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let port = world.listen(|_| Echo);
            let peers = waiting(&world, &port, 300);
            world.leave_descriptors(10);
            until_exhausted_again(&world);
            let stats = world.reactor.stats();
            assert_eq!((stats.accepted, stats.accept_errors, stats.shed), (10, 1, BUDGET));
            assert_eq!(ended(&peers), BUDGET, "the refused ones are not told");
            assert!(port.is_listening());
            assert!(rest(&world) <= Duration::from_millis(5));
            // Nothing happens until the rest is over.
            let deadline = world.reactor.next_deadline().unwrap();
            until_exhausted_again(&world);
            assert!(world.now() >= deadline);
            assert_eq!(world.reactor.stats().shed, 2 * BUDGET);
        });
    }

    fn the_rest_doubles_and_a_success_starts_over(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let port = world.listen(|_| Echo);
            let _peers = waiting(&world, &port, 700);
            let limit = world.leave_descriptors(0);
            let mut earliest = world.now();
            for length in [5, 10, 20, 40, 80].map(Duration::from_millis) {
                until_exhausted_again(&world);
                assert!(rest(&world) <= length, "{:?} instead of {length:?}", rest(&world));
                let end = world.reactor.next_deadline().unwrap();
                assert!(end - earliest >= length, "{:?} instead of {length:?}", end - earliest);
                earliest = end;
            }
            // A while later there are descriptors again, and then none.
            world.limit_descriptors(limit);
            world.until("the others are accepted", || world.reactor.stats().accepted == 700 - 5 * BUDGET);
            let _more = waiting(&world, &port, 100);
            world.leave_descriptors(0);
            until_exhausted_again(&world);
            assert!(rest(&world) <= Duration::from_millis(5));
        });
    }

    fn connections_that_exist_go_on(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let port = world.listen(|_| Echo);
            let peer = world.connect(&port);
            echoes(&peer);
            let _peers = waiting(&world, &port, 300);
            world.leave_descriptors(0);
            for _ in 0..4 {
                until_exhausted_again(&world);
                echoes(&peer);
            }
            assert_eq!(world.reactor.stats().lost, 0);
        });
    }

    fn the_loop_is_not_busy_with_it(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let port = world.listen(|_| Echo);
            // More than the rests of this test can refuse.
            let _peers = waiting(&world, &port, 1000);
            world.leave_descriptors(0);
            // Past the first, short rests.
            for _ in 0..6 {
                until_exhausted_again(&world);
            }
            let (passes, errors, used) =
                (world.reactor.stats().passes, world.reactor.stats().accept_errors, processor_time());
            let time = Duration::from_millis(1500);
            world.run_for(time);
            // Rests of 160, 320, 640 and 1000 ms.
            let stats = world.reactor.stats();
            let errors = stats.accept_errors - errors;
            assert!((1..=4).contains(&errors), "{errors} times in {time:?}");
            assert!(stats.passes - passes <= 16, "{} passes", stats.passes - passes);
            let used = processor_time() - used;
            assert!(used < time / 100, "{used:?} of {time:?}");
        });
    }

    fn it_recovers_by_itself(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let port = world.listen(|_| Echo);
            let peers = waiting(&world, &port, 100);
            let limit = world.leave_descriptors(0);
            until_exhausted_again(&world);
            world.limit_descriptors(limit);
            world.until("those who still wait are accepted", || {
                world.reactor.stats().accepted == 100 - BUDGET
            });
            assert_eq!(world.reactor.stats().shed, BUDGET);
            assert_eq!(ended(&peers), BUDGET);
            assert!(port.is_accepting());
            echoes(&world.connect(&port));
        });
    }

    fn descriptors_freed_by_connections_are_used_again(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let port = world.listen(|_| Echo);
            let first = waiting(&world, &port, 8);
            let _others = waiting(&world, &port, BUDGET as usize + 8);
            world.leave_descriptors(8);
            until_exhausted_again(&world);
            assert_eq!((world.reactor.stats().accepted, world.reactor.stats().shed), (8, BUDGET));
            // The peers' own descriptors are below the limit: each end of a connection makes room for one
            // more.
            drop(first);
            world.until("the waiting ones are accepted", || world.reactor.stats().accepted == 16);
        });
    }

    fn a_paused_or_stopped_port_stays_so_when_its_rest_is_over(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let ports = [world.listen(|_| Echo), world.listen(|_| Echo)];
            let _peers = [waiting(&world, &ports[0], 200), waiting(&world, &ports[1], 200)];
            let limit = world.leave_descriptors(0);
            world.until("both rest", || world.reactor.stats().accept_errors == 2);
            ports[0].pause_accepting();
            drop(ports[1].stop_listening());
            world.limit_descriptors(limit);
            world.run_for(Duration::from_millis(20));
            assert_eq!(world.reactor.stats().accepted, 0);
            ports[0].resume_accepting();
            world.until("the resumed one accepts", || world.reactor.stats().accepted == 200 - BUDGET);
        });
    }

    fn it_is_logged_at_most_once_a_second_with_the_remedy(driver) {
        in_child(module_path!(), driver, || {
            let errors: &'static Errors = Box::leak(Box::default());
            log::set_logger(errors).unwrap();
            log::set_max_level(log::LevelFilter::Info);
            let world = World::new(driver);
            let port = world.listen(|_| Echo);
            let _peers = waiting(&world, &port, 600);
            world.leave_descriptors(0);
            let began = world.now();
            for _ in 0..7 {
                until_exhausted_again(&world);
            }
            let most = 1 + world.since(began).as_secs() as usize;
            let lines = errors.0.lock().unwrap();
            assert!((1..=most).contains(&lines.len()), "{lines:?}");
            let address = port.local_addr().to_string();
            assert!(lines[0].contains(&address) && lines[0].contains("ulimit -n"), "{}", lines[0]);
        });
    }
}

// Other threads of the process.
kernel_contract! {
    fn it_recovers_while_other_threads_open_and_close_descriptors(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let port = world.listen(|_| Echo);
            let peers = waiting(&world, &port, 600);
            let limit = world.leave_descriptors(3);
            let over = Arc::new(AtomicBool::new(false));
            let threads: Vec<_> = (0..3)
                .map(|_| {
                    let over = Arc::clone(&over);
                    thread::spawn(move || {
                        while !over.load(Ordering::Relaxed) {
                            // Takes whatever is free, also the reserve in the moment when it is given up.
                            let _files: Vec<_> =
                                (0..3).map_while(|_| std::fs::File::open("/dev/null").ok()).collect();
                            thread::yield_now();
                        }
                    })
                })
                .collect();
            for _ in 0..4 {
                until_exhausted_again(&world);
            }
            over.store(true, Ordering::Relaxed);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            world.limit_descriptors(limit);
            world.until("everybody is accepted or refused", || {
                let stats = world.reactor.stats();
                stats.accepted + stats.shed == peers.len() as u64
            });
            echoes(&world.connect(&port));
            // The reserve is there for the next time.
            let _more = waiting(&world, &port, 100);
            let shed = world.reactor.stats().shed;
            world.leave_descriptors(0);
            until_exhausted_again(&world);
            assert_eq!(world.reactor.stats().shed - shed, BUDGET);
        });
    }
}
