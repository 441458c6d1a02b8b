//! Bugs that were found by reading or in use, each with its story. A test here is named after what is right
//! now.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use twistor::{Deferred, PanicPolicy, Protocol, ShutdownPhase, Timeouts, Transport};
use twistor_tests::{
    Buffers, Event, Log, Script, World, becomes_readable, contract, in_child, kernel_contract,
};

/// Runs a closure when dropped.
struct OnDrop(Option<Box<dyn FnOnce()>>);

impl OnDrop {
    fn new(f: impl FnOnce() + 'static) -> Self {
        Self(Some(Box::new(f)))
    }
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        if let Some(f) = self.0.take() {
            f();
        }
    }
}

/// An error with a destructor of its own.
struct Failure(#[allow(dead_code, reason = "it is there to be dropped")] OnDrop);

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Failure")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a failure")
    }
}

impl std::error::Error for Failure {}

/// An error that looks at its connection when it is dropped.
fn curious(transport: &Transport, drops: &Rc<Cell<u32>>) -> Failure {
    let (transport, drops) = (transport.clone(), Rc::clone(drops));
    Failure(OnDrop::new(move || {
        transport.pause_reading();
        drops.set(drops.get() + 1);
    }))
}

fn panic_of<R>(f: impl FnOnce() -> R) -> Option<String> {
    let payload = catch_unwind(AssertUnwindSafe(f)).err()?;
    Some(payload.downcast_ref::<&str>().map_or_else(|| "something".to_owned(), |text| (*text).to_owned()))
}

extern "C" fn ignore(_: libc::c_int) {}

contract! {
    // A panic that was to leave `run` was looked for only after a wait that something had ended: one from a
    // hook ahead of the wait lay there until then, for ever on an idle reactor.
    fn a_panic_ahead_of_the_wait_leaves_the_turn_at_once(driver) {
        let world = World::with(driver, |builder| builder.panic_policy(PanicPolicy::Propagate));
        world.reactor.before_wait(|_| panic!("ahead of the wait"));
        let start = world.now();
        let left = panic_of(|| world.reactor.turn(Some(Duration::from_secs(5))));
        assert_eq!(left.as_deref(), Some("ahead of the wait"));
        assert!(world.since(start) < Duration::from_secs(4), "it waited");
    }

    // A looping call into a protocol that panicked said that it had ended well.
    fn a_typed_looping_call_that_panics_fails(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, _peer) = world.pair(Script::new(&log));
        let outcome = Rc::new(RefCell::new(None));
        let heard = Rc::clone(&outcome);
        let call = transport.every(Duration::from_millis(1), |_: &mut Script, _| panic!("in the loop"));
        call.finished().on_done(move |_, outcome| *heard.borrow_mut() = Some(outcome.map_err(|e| e.to_string())));
        world.until("the end of the loop", || outcome.borrow().is_some());
        assert_eq!(*outcome.borrow(), Some(Err("the looping call panicked".to_owned())));
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.lost().as_deref(), Some("a hook panicked"));
        assert!(!call.is_running());
    }

    // A port opened while the reactor was shutting down was never closed, and a connection that came through
    // it after the last ones had been aborted kept the loop turning for ever.
    fn a_port_opened_during_the_shutdown_does_not_hold_it(driver) {
        let world = World::with(driver, |builder| builder.drain_timeout(Duration::from_millis(20)));
        let opened = Rc::new(RefCell::new(None));
        let open = Rc::clone(&opened);
        let script = Script::new(&Log::new()).on_shutting_down(move |transport| {
            let made = || Script::new(&Log::new()).on_shutting_down(|_| {});
            *open.borrow_mut() = transport.reactor().listen("tcp:0:interface=127.0.0.1", move |_| made()).ok();
        });
        let last = Rc::new(RefCell::new(None));
        let open = Rc::clone(&last);
        world.reactor.on_shutdown(ShutdownPhase::During, move |handle| {
            let keep = || Script::new(&Log::new()).on_shutting_down(|_| {});
            *open.borrow_mut() = handle.listen("tcp:0:interface=127.0.0.1", move |_| keep()).ok();
            let (resolver, deferred) = Deferred::<(), String>::new(handle);
            handle.call_later(Duration::from_millis(20), move |_| {
                resolver.resolve(Ok(()));
            });
            deferred
        });
        let (_transport, _peer) = world.pair(script);
        world.reactor.stop();
        let (start, mut clients) = (world.now(), Vec::new());
        while world.turn(Duration::from_millis(1)) {
            assert!(world.since(start) < Duration::from_secs(5), "the shutdown does not end");
            for port in [&opened, &last].iter().filter_map(|port| port.borrow().clone()) {
                let address = port.local_addr().socket_addr().expect("an IP port");
                if port.is_listening() && clients.len() < 150 {
                    clients.extend(world.machine().connect(address));
                }
            }
        }
        assert!(!opened.borrow().as_ref().is_some_and(twistor::Port::is_listening), "it is still open");
        assert_eq!(world.reactor.stats().connections, 0);
    }

    // The error given to `fail` is a user's value, but its destructor ran under a borrow of the connection
    // when the error was not wanted, because the connection was closing already or was then aborted.
    fn the_error_of_a_failed_connection_may_do_anything_when_dropped(driver) {
        let world = World::new(driver);
        let (drops, log) = (Rc::new(Cell::new(0)), Log::new());
        let count = Rc::clone(&drops);
        let (transport, peer) = world.pair(Script::new(&log).on_data(move |transport, _| {
            transport.fail(curious(transport, &count));
            transport.fail(curious(transport, &count));
            transport.abort_connection();
            transport.fail(curious(transport, &count));
        }));
        peer.send(b"x");
        drop(transport);
        world.until("the loss", || log.lost().is_some());
        world.turns(2);
        assert_eq!(log.lost().as_deref(), Some("aborted"));
        assert!(drops.get() >= 2);
        assert_eq!(world.reactor.stats().panics, 0);
    }

    // An error whose destructor panics took the whole loop with it: it was dropped with the state of the
    // connection, outside of everything that contains panics.
    fn an_error_that_panics_when_dropped_ends_nothing_but_its_connection(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, mut peer) = world.pair(Script::new(&log).on_data(|transport, _| {
            transport.fail(Failure(OnDrop::new(|| panic!("in a destructor"))));
        }));
        drop(transport);
        peer.send(b"x");
        let left = panic_of(|| {
            world.turns(5);
            peer.close();
            world.until("the loss", || log.lost().is_some());
        });
        assert_eq!(left, None, "it left the turn");
        assert_eq!(world.reactor.stats().panics, 1);
    }

    // The receiver of a channel stayed until the reactor ended, also when nobody could send any more.
    fn a_channel_without_senders_lets_go_of_its_receiver(driver) {
        let world = World::new(driver);
        let held = Rc::new(Cell::new(0));
        let count = Rc::clone(&held);
        let sender = world.reactor.channel(4, move |_, value: u32| count.set(value)).expect("a channel");
        let other = sender.clone();
        sender.send(7).expect("room");
        drop(sender);
        world.turns(3);
        assert_eq!((held.get(), Rc::strong_count(&held)), (7, 2), "one sender is left");
        other.send(8).expect("room");
        std::thread::spawn(move || drop(other)).join().expect("no panic");
        world.until("the receiver is dropped", || Rc::strong_count(&held) == 1);
        assert_eq!(held.get(), 8, "what was sent before is heard");
    }

    // What the kernel relayed to a connection did not count as sent: a download through a proxy timed out as
    // idle.
    fn relayed_output_refreshes_the_idle_time_out(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (source, from) = world.pair(Script::new(&Log::new()));
        let (target, to) = world.pair(Script::new(&log));
        let _outcome = source.pipe(&target);
        target.set_timeouts(Timeouts::new().idle(Duration::from_millis(150)));
        for _ in 0..20 {
            from.send(b"more");
            assert_eq!(to.receive(4), b"more");
            world.run_for(Duration::from_millis(20));
        }
        assert_eq!(log.events(), [Event::Made]);
    }

    // A peer that took nothing of what the kernel relayed to it did not stall anything: the bytes waited in a
    // pipe and not in the queue.
    fn a_relay_that_its_target_does_not_take_is_a_write_stall(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (source, from) = world.pair_with(Buffers::TIGHT, Script::new(&Log::new()));
        let (target, _to) = world.pair_with(Buffers::TIGHT, Script::new(&log));
        let _outcome = source.pipe(&target);
        target.set_timeouts(Timeouts::new().write_stall(Duration::from_millis(50)));
        let data = vec![7; 1 << 16];
        let start = world.now();
        while log.lost().is_none() {
            assert!(world.since(start) < Duration::from_secs(5), "no stall is noticed");
            if world.since(start) < Duration::from_millis(100) {
                from.try_send(&data);
            }
            world.turn(Duration::from_millis(1));
        }
        assert_eq!(log.lost().as_deref(), Some("timed out (write stall)"));
    }

    // A relay that waited for its target went on reading from a source that had been paused meanwhile.
    fn a_source_paused_while_its_target_is_full_relays_nothing_more(driver) {
        let world = World::new(driver);
        let (source, from) = world.pair_with(Buffers::TIGHT, Script::new(&Log::new()));
        let (target, to) = world.pair_with(Buffers::TIGHT, Script::new(&Log::new()));
        let _outcome = source.pipe(&target);
        let data = vec![7; 1 << 20];
        let (mut sent, mut quiet) = (0, 0);
        while quiet < 50 {
            let taken = from.try_send(&data);
            (sent, quiet) = (sent + taken, if taken == 0 { quiet + 1 } else { 0 });
            world.reactor.turn(Some(Duration::from_millis(1))).expect("a turn");
        }
        source.pause_reading();
        world.turns(1);
        let before = source.stats().bytes_received;
        let (mut received, mut quiet) = (0, 0);
        while quiet < 50 {
            let part = to.try_receive().expect("open").len();
            (received, quiet) = (received + part, if part == 0 { quiet + 1 } else { 0 });
            sent += from.try_send(&data);
            world.reactor.turn(Some(Duration::from_millis(1))).expect("a turn");
        }
        let read = source.stats().bytes_received - before;
        assert!(read <= 1 << 16, "{read} bytes were read after the pause, of which at most a pipe was on its way");
        source.resume_reading();
        let mut quiet = 0;
        while quiet < 50 {
            let part = to.try_receive().expect("open").len();
            (received, quiet) = (received + part, if part == 0 { quiet + 1 } else { 0 });
            world.reactor.turn(Some(Duration::from_millis(1))).expect("a turn");
        }
        assert_eq!(received, sent, "the rest comes after the resume");
    }

    // "The whole file", asked for with the largest number there is, overflowed the count of what is queued.
    fn a_range_without_end_is_an_error_like_any_other_too_long_one(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (_transport, peer) = world.pair(Script::new(&log).on_data(|transport, _| {
            let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
            let open = || std::fs::File::open(file).expect("it exists");
            transport.write(b"head");
            for _ in 0..3 {
                drop(transport.send_file(open(), 0..u64::MAX));
            }
        }));
        peer.send(b"x");
        world.until("the loss", || log.lost().is_some());
        let lost = log.lost().expect("just seen");
        assert!(lost.contains("shorter"), "{lost}");
    }

    // Any panic that was contained while `connection_made` ran counted as one of the protocol: a connection
    // lived, but whoever had asked for it was told that there was none.
    fn a_destructor_that_panics_in_connection_made_does_not_fail_the_connect(driver) {
        struct First(#[allow(dead_code, reason = "it is there to be dropped")] OnDrop);
        impl Protocol for First {
            fn connection_made(&mut self, transport: &Transport) {
                transport.switch_protocol(Script::new(&Log::new()));
            }
            fn data_received(&mut self, _: &Transport, _: &[u8]) {}
        }
        let world = World::new(driver);
        let port = world.listen(|_| Script::new(&Log::new()));
        let outcome = Rc::new(RefCell::new(None));
        let told = Rc::clone(&outcome);
        let first = First(OnDrop::new(|| panic!("in a destructor")));
        let connecting = world.reactor.connect_protocol(format!("tcp:{}", port.local_addr()), first);
        connecting.on_done(move |_, outcome| *told.borrow_mut() = Some(outcome.map(|it| it.is_closing())));
        world.until("an outcome", || outcome.borrow().is_some());
        let outcome = outcome.borrow_mut().take().expect("just seen");
        assert!(matches!(outcome, Ok(false)), "{outcome:?}");
        assert_eq!(world.reactor.stats().panics, 1);
    }

    // A port that was paused or resumed between two turns did not tell the host, which slept on with it.
    fn the_wake_hook_tells_of_a_resumed_port(driver) {
        let wakes = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&wakes);
        let world = World::with(driver, |builder| {
            builder.wake_hook(move || {
                count.fetch_add(1, Ordering::SeqCst);
            })
        });
        let port = world.listen(|_| Script::new(&Log::new()));
        world.turns(3);
        port.pause_accepting();
        world.turns(3);
        let before = wakes.load(Ordering::SeqCst);
        port.resume_accepting();
        assert!(wakes.load(Ordering::SeqCst) > before);
    }

    // A closure that was cancelled was dropped without what contains panics of destructors. In a guard,
    // dropped while another panic was on its way, that ended the program.
    fn a_cancelled_closure_that_panics_when_dropped_is_contained(driver) {
        let world = World::new(driver);
        let bomb = || OnDrop::new(|| panic!("in a destructor"));
        let held = bomb();
        let timer = world.reactor.call_later(Duration::from_secs(60), move |_| drop(held));
        let held = bomb();
        let call = world.reactor.call_soon(move |_| drop(held));
        assert_eq!(panic_of(|| (timer.cancel(), call.cancel())), None);
        assert_eq!(world.reactor.stats().panics, 2);
        let held = bomb();
        let guard = world.reactor.call_later(Duration::from_secs(60), move |_| drop(held)).cancel_on_drop();
        world.reactor.call_soon(move |_| {
            let _guard = guard;
            panic!("on its way");
        });
        world.turns(2);
        assert_eq!(world.reactor.stats().panics, 4);
    }
}

// Hosts that sleep on the descriptor, signals, and threads that act while the reactor waits.
kernel_contract! {
    // After a panic had left `turn`, or after a `run`, the inbox believed the loop to be awake: a call from
    // another thread did not make the descriptor readable, and a host that slept on it slept on.
    fn a_host_hears_of_calls_after_a_panic_and_after_a_run(driver) {
        let world = World::with(driver, |builder| builder.panic_policy(PanicPolicy::Propagate));
        let heard = |world: &World| {
            while becomes_readable(&world.reactor, Duration::ZERO) && world.reactor.next_deadline().is_none() {
                world.turns(1);
            }
        };
        world.turns(2);
        world.reactor.call_soon(|_| panic!("out of turn"));
        assert!(panic_of(|| world.reactor.turn(Some(Duration::ZERO))).is_some());
        let remote = world.reactor.remote();
        remote.call(|_| {}).expect("a call");
        assert!(becomes_readable(&world.reactor, Duration::from_secs(5)), "after a panic");
        heard(&world);
        world.turns(2);
        world.reactor.call_soon(twistor::Handle::stop);
        world.reactor.run().expect("a run");
        remote.call(|_| {}).expect("a call");
        assert!(becomes_readable(&world.reactor, Duration::from_secs(5)), "after a run");
    }

    // A signal that cut a wait of `run` short was remembered, and the next `turn` waited a second time for
    // it.
    fn a_turn_after_an_interrupted_run_waits_once(driver) {
        in_child(module_path!(), driver, || {
            let world = World::with(driver, |builder| builder.handle_signals(false));
            let action = ignore as *const () as libc::sighandler_t;
            #[allow(unsafe_code, reason = "signals have no safe interface here")]
            // SAFETY: the handler does nothing; the thread that is signalled lives until the end of the test.
            let this = unsafe {
                assert_ne!(libc::signal(libc::SIGUSR1, action), libc::SIG_ERR);
                libc::pthread_self()
            };
            let remote = world.reactor.remote();
            let sender = std::thread::spawn(move || {
                for _ in 0..20 {
                    std::thread::sleep(Duration::from_millis(5));
                    #[allow(unsafe_code, reason = "as above")]
                    // SAFETY: as above.
                    unsafe { libc::pthread_kill(this, libc::SIGUSR1) };
                }
                remote.stop();
            });
            world.reactor.run().expect("a run");
            sender.join().expect("no panic");
            let remote = world.reactor.remote();
            world.reactor.call_soon(move |_| drop(remote));
            let start = Instant::now();
            world.reactor.turn(Some(Duration::from_secs(3))).expect("a turn");
            assert!(start.elapsed() < Duration::from_secs(2), "it waited once more");
        });
    }

    // The late outcome of a trigger, of which a second signal had ended the wait, counted for the triggers of
    // the same phase of the next shutdown.
    fn a_trigger_of_an_earlier_shutdown_does_not_end_the_wait_for_another(driver) {
        in_child(module_path!(), driver, || {
            let world = World::with(driver, |builder| builder.handle_signals(true));
            let raise = || {
                #[allow(unsafe_code, reason = "signals have no safe interface here")]
                // SAFETY: the reactor handles the signal.
                unsafe { libc::raise(libc::SIGINT) };
            };
            let (late, first) = Deferred::<(), String>::new(&world.reactor);
            world.turns(1);
            world.reactor.on_shutdown(ShutdownPhase::Before, move |_| first);
            world.reactor.stop();
            world.turns(2);
            raise();
            let start = Instant::now();
            while world.reactor.turn(Some(Duration::from_millis(1))).expect("a turn") {
                assert!(start.elapsed() < Duration::from_secs(5), "the second signal does not end it");
            }
            let (resolver, second) = Deferred::<(), String>::new(&world.reactor);
            world.reactor.on_shutdown(ShutdownPhase::Before, move |_| second);
            world.reactor.stop();
            world.turns(2);
            late.resolve(Ok(()));
            for _ in 0..10 {
                assert!(world.reactor.turn(Some(Duration::ZERO)).expect("a turn"), "it was not waited for");
            }
            resolver.resolve(Ok(()));
            let mut goes_on = true;
            world.until("the stop", || { goes_on &= world.reactor.is_stopping(); !goes_on });
        });
    }

    // While the reactor drained, the time of a pass was sampled ahead of its wait: input was stamped with the
    // time at which the wait for it had begun, and time-outs passed early.
    fn time_outs_are_refreshed_while_the_reactor_drains(driver) {
        let world = World::with(driver, |builder| builder.drain_timeout(Duration::from_secs(60)));
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log).on_shutting_down(|_| {}));
        transport.set_timeouts(Timeouts::new().read(Duration::from_millis(300)));
        world.reactor.stop();
        world.turns(3);
        for n in 1..=3 {
            let socket = peer.socket().kernel().try_clone().expect("a clone");
            let sender = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(200));
                std::io::Write::write(&mut &socket, b"x").expect("sent");
            });
            while log.data().len() < n && log.lost().is_none() {
                // Long waits, which the peer ends.
                world.reactor.turn(Some(Duration::from_secs(1))).expect("a turn");
            }
            sender.join().expect("no panic");
        }
        assert_eq!(log.lost(), None);
        transport.abort_connection();
        world.turns(3);
    }
}
