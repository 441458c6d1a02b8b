//! The contract, section 1, lines 8 and 12: SIGINT and SIGTERM, SIGPIPE. Each test is a process of its own.

#![allow(unsafe_code, reason = "dispositions are set and signals sent through libc")]

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use twistor::{Deferred, PanicPolicy, Reactor, ShutdownPhase};
use twistor_tests::{Driver, Event, Log, Script, World, in_child, kernel_contract};

/// How often our own handler was called.
static CAUGHT: AtomicU32 = AtomicU32::new(0);

extern "C" fn catch(_: libc::c_int) {
    CAUGHT.fetch_add(1, Ordering::SeqCst);
}

/// Installs a disposition.
fn set_disposition(signal: libc::c_int, disposition: libc::sighandler_t) {
    // SAFETY: the handler, if it is one, only adds to an atomic number.
    assert_ne!(unsafe { libc::signal(signal, disposition) }, libc::SIG_ERR);
}

fn disposition(signal: libc::c_int) -> libc::sighandler_t {
    // SAFETY: asks only, into a zeroed sigaction, which is a valid one.
    unsafe {
        let mut current: libc::sigaction = std::mem::zeroed();
        assert_eq!(libc::sigaction(signal, std::ptr::null(), &mut current), 0);
        current.sa_sigaction
    }
}

fn handler() -> libc::sighandler_t {
    catch as *const () as libc::sighandler_t
}

/// Sends this process a signal, as another process would.
fn send(signal: libc::c_int) {
    // SAFETY: our own process, a valid signal.
    assert_eq!(unsafe { libc::kill(libc::getpid(), signal) }, 0);
}

/// Sends it from another thread, after a while, so that the loop sleeps by then.
fn send_later(signal: libc::c_int) {
    thread::spawn(move || {
        thread::park_timeout(Duration::from_millis(50));
        send(signal);
    });
}

fn stops_a_run(driver: Driver, signal: libc::c_int) {
    let world = World::new(driver);
    let ended = Rc::new(Cell::new(false));
    let seen = Rc::clone(&ended);
    world.reactor.on_shutdown(ShutdownPhase::After, move |_| seen.set(true));
    send_later(signal);
    world.reactor.run().expect("a run");
    assert!(ended.get(), "it went through its shutdown");
    // And again.
    world.reactor.call_soon(move |_| send(signal));
    world.reactor.run().expect("a run");
}

kernel_contract! {
    // Line 8.
    fn sigint_stops_a_running_reactor(driver) {
        in_child(module_path!(), driver, || stops_a_run(driver, libc::SIGINT));
    }

    // Line 8.
    fn sigterm_stops_a_running_reactor(driver) {
        in_child(module_path!(), driver, || stops_a_run(driver, libc::SIGTERM));
    }

    // Line 8.
    fn a_second_signal_ends_the_drain(driver) {
        in_child(module_path!(), driver, || {
            let world = World::with(driver, |builder| builder.drain_timeout(Duration::from_secs(3600)));
            let log = Log::new();
            let (_transport, _peer) =
                world.pair(Script::new(&log).on_shutting_down(|_| send_later(libc::SIGTERM)));
            send_later(libc::SIGINT);
            let began = Instant::now();
            world.reactor.run().expect("a run");
            assert!(began.elapsed() < Duration::from_secs(30));
            assert_eq!(log.count(&Event::ShuttingDown), 1);
            assert_eq!(log.lost().as_deref(), Some("the reactor stopped"));
        });
    }

    // Line 8.
    fn a_second_signal_does_not_wait_for_a_trigger_any_longer(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let open = Rc::new(RefCell::new(None));
            let keep = Rc::clone(&open);
            world.reactor.on_shutdown(ShutdownPhase::Before, move |handle| {
                let (resolver, deferred) = Deferred::<(), String>::new(handle);
                *keep.borrow_mut() = Some(resolver);
                send_later(libc::SIGINT);
                deferred
            });
            send_later(libc::SIGINT);
            world.reactor.run().expect("a run");
            assert!(open.borrow().is_some());
        });
    }

    // Line 8.
    fn it_is_off_in_turn(driver) {
        in_child(module_path!(), driver, || {
            set_disposition(libc::SIGINT, handler());
            let world = World::new(driver);
            world.turns(2);
            assert_eq!(disposition(libc::SIGINT), handler());
            send(libc::SIGINT);
            world.until("our own handler", || CAUGHT.load(Ordering::SeqCst) == 1);
            world.turns(5);
            assert!(!world.reactor.is_stopping());
        });
    }

    // Line 8.
    fn the_builder_turns_it_off_in_run_and_on_in_turn(driver) {
        in_child(module_path!(), driver, || {
            set_disposition(libc::SIGTERM, handler());
            let world = World::with(driver, |builder| builder.handle_signals(false));
            world.reactor.call_soon(|handle| {
                send(libc::SIGTERM);
                handle.call_later(Duration::from_millis(20), |handle| {
                    assert!(!handle.is_stopping());
                    handle.stop();
                });
            });
            world.reactor.run().expect("a run");
            assert_eq!(CAUGHT.load(Ordering::SeqCst), 1);
            assert_eq!(world.reactor.stats().panics, 0);

            let world = World::with(driver, |builder| builder.handle_signals(true));
            world.turns(1);
            send(libc::SIGTERM);
            // The process kills itself if this never comes.
            while world.reactor.turn(Some(Duration::from_millis(1))).expect("a turn") {}
            assert_eq!(CAUGHT.load(Ordering::SeqCst), 1);
            drop(world);
            assert_eq!(disposition(libc::SIGTERM), handler());
        });
    }

    // Line 8.
    fn the_previous_handler_comes_back_after_the_run(driver) {
        in_child(module_path!(), driver, || {
            // As under nohup, and one of our own.
            set_disposition(libc::SIGINT, libc::SIG_IGN);
            set_disposition(libc::SIGTERM, handler());
            let world = World::new(driver);
            for _ in 0..2 {
                world.reactor.call_soon(|handle| {
                    assert_ne!(disposition(libc::SIGTERM), handler());
                    handle.stop();
                });
                world.reactor.run().expect("a run");
                assert_eq!(world.reactor.stats().panics, 0);
                assert_eq!(disposition(libc::SIGINT), libc::SIG_IGN);
                assert_eq!(disposition(libc::SIGTERM), handler());
            }
            send(libc::SIGTERM);
            world.until("our own handler", || CAUGHT.load(Ordering::SeqCst) == 1);
        });
    }

    // Line 8.
    fn the_previous_handler_comes_back_when_a_panic_leaves_run(driver) {
        in_child(module_path!(), driver, || {
            set_disposition(libc::SIGINT, handler());
            let world = World::with(driver, |builder| builder.panic_policy(PanicPolicy::Propagate));
            world.reactor.call_soon(|_| panic!("out of run"));
            catch_unwind(AssertUnwindSafe(|| world.reactor.run())).expect_err("the panic");
            assert_eq!(disposition(libc::SIGINT), handler());
        });
    }

    // Line 8.
    fn one_signal_stops_all_reactors_and_the_last_restores_the_handler(driver) {
        in_child(module_path!(), driver, || {
            set_disposition(libc::SIGINT, handler());
            let (running, started) = std::sync::mpsc::channel();
            let threads: Vec<_> = (0..3)
                .map(|_| {
                    let running = running.clone();
                    thread::spawn(move || {
                        let reactor: Reactor = World::new(driver).reactor;
                        reactor.call_soon(move |_| running.send(()).expect("heard"));
                        reactor.run().expect("a run");
                    })
                })
                .collect();
            for _ in 0..3 {
                started.recv().expect("a reactor runs");
            }
            // One that ends early leaves the watch of the others alone.
            let early = World::new(driver);
            early.reactor.stop();
            early.reactor.run().expect("a run");
            assert_ne!(disposition(libc::SIGINT), handler());
            send(libc::SIGINT);
            for thread in threads {
                thread.join().expect("a reactor ends");
            }
            assert_eq!(disposition(libc::SIGINT), handler());
            assert_eq!(CAUGHT.load(Ordering::SeqCst), 0);
        });
    }

    // Line 12.
    fn writing_to_a_peer_that_is_gone_does_not_kill_and_touches_no_signal_state(driver) {
        in_child(module_path!(), driver, || {
            set_disposition(libc::SIGPIPE, libc::SIG_DFL);
            let world = World::new(driver);
            let file = tempfile();
            for way in 0..4 {
                let log = Log::new();
                let (transport, mut peer) = world.pair(Script::new(&log).on_eof(|_| twistor::Eof::KeepOpen));
                world.turns(2);
                peer.close();
                for _ in 0..50 {
                    match way {
                        0 => transport.write(b"x"),
                        1 => transport.write_bytes(vec![0; 1 << 20]),
                        2 => drop(transport.send_file(file.try_clone().expect("a file"), 0..1 << 16)),
                        _ => {
                            transport.write(b"x");
                            transport.lose_write_connection();
                        }
                    }
                    world.turns(2);
                }
                transport.lose_connection();
                world.until("the loss", || log.lost().is_some());
            }
            assert_eq!(disposition(libc::SIGPIPE), libc::SIG_DFL);
        });
    }

    // Line 12.
    fn relaying_to_a_peer_that_is_gone_does_not_kill(driver) {
        in_child(module_path!(), driver, || {
            set_disposition(libc::SIGPIPE, libc::SIG_DFL);
            let world = World::new(driver);
            let (source_log, target_log) = (Log::new(), Log::new());
            let (source, from) = world.pair(Script::new(&source_log));
            let (target, mut to) = world.pair(Script::new(&target_log).on_eof(|_| twistor::Eof::KeepOpen));
            world.turns(2);
            drop(source.pipe(&target));
            from.send(b"through");
            assert_eq!(to.receive(7), b"through");
            to.close();
            world.until("the end of both", || {
                if source_log.lost().is_none() {
                    // An error: the reactor has closed it meanwhile.
                    let _ = std::io::Write::write(&mut from.socket(), &[0; 4096]);
                }
                source_log.lost().is_some() && target_log.lost().is_some()
            });
            assert_eq!(disposition(libc::SIGPIPE), libc::SIG_DFL);
        });
    }
}

/// A file of 64 KiB without a name.
fn tempfile() -> std::fs::File {
    let path = std::env::temp_dir().join(format!("twistor-signals-{}", std::process::id()));
    std::fs::write(&path, vec![7; 1 << 16]).expect("a file");
    let file = std::fs::File::open(&path).expect("a file");
    std::fs::remove_file(&path).expect("removed");
    file
}
