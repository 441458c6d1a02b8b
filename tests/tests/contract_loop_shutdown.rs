//! The contract, section 1, line 7: the phases of a shutdown.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use twistor::{ConnectErrorKind, Deferred, Handle, Protocol, Reason, Resolver, ShutdownPhase, Transport};
use twistor_tests::{Ending, Event, Log, Script, World, contract};

type Words = Rc<RefCell<Vec<&'static str>>>;

fn say(words: &Words, word: &'static str) -> impl FnMut() + Clone + 'static {
    let words = Rc::clone(words);
    move || words.borrow_mut().push(word)
}

/// Turns the reactor until its stop is complete.
fn turn_to_the_end(world: &World) {
    let deadline = world.now() + twistor_tests::PATIENCE;
    while world.turn(Duration::from_millis(1)) {
        assert!(world.now() < deadline, "the reactor does not stop");
    }
}

/// Connects again whenever it is lost.
struct Persistent {
    address: String,
    losses: Rc<Cell<u32>>,
}

impl Protocol for Persistent {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn shutting_down(&mut self, _: &Transport) {}

    fn connection_lost(&mut self, transport: &Transport, _: &Reason) {
        self.losses.set(self.losses.get() + 1);
        let again = Self { address: self.address.clone(), losses: Rc::clone(&self.losses) };
        transport.reactor().connect_protocol(&*self.address, again).on_done(|_, _| {});
    }
}

contract! {
    // Line 7.
    fn a_trigger_that_is_added_while_its_phase_waits_runs_in_this_shutdown(driver) {
        let world = World::new(driver);
        for phase in [ShutdownPhase::Before, ShutdownPhase::During, ShutdownPhase::After] {
            let log = Rc::new(RefCell::new(Vec::new()));
            let (first, second) = (Rc::clone(&log), Rc::clone(&log));
            world.reactor.on_shutdown(phase, move |reactor| {
                let (resolver, deferred) = Deferred::<(), String>::new(reactor);
                first.borrow_mut().push("waits");
                reactor.call_later(Duration::from_millis(5), move |reactor| {
                    reactor.on_shutdown(phase, move |_| second.borrow_mut().push("added"));
                    resolver.resolve(Ok(()));
                });
                deferred
            });
            let _ = world.reactor.call_soon(Handle::stop);
            world.reactor.run().expect("a run");
            assert_eq!(*log.borrow(), ["waits", "added"], "{phase:?}");
        }
    }

    // Line 7.
    fn the_phases_come_in_order(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let port = world.listen(|_| Script::new(&Log::new()));
        let (mut down, mut lost) = (say(&words, "shutting down"), say(&words, "lost"));
        let listening = port.clone();
        let (transport, _peer) = world.pair(Script::new(&Log::new())
            .on_shutting_down(move |transport| {
                assert!(!listening.is_listening(), "listeners are closed first");
                down();
                transport.abort_connection();
            })
            .on_lost(move |_, _| lost()));
        // Registered in another order than they run in.
        for (phase, word) in [
            (ShutdownPhase::After, "after"),
            (ShutdownPhase::During, "during"),
            (ShutdownPhase::Before, "before"),
        ] {
            let mut word = say(&words, word);
            let (port, transport) = (port.clone(), transport.clone());
            world.reactor.on_shutdown(phase, move |handle| {
                let live = phase == ShutdownPhase::Before;
                assert_eq!(port.is_listening(), live);
                assert_eq!(!transport.is_closing(), live);
                assert_eq!(handle.stats().connections, usize::from(live));
                word();
            });
        }
        world.reactor.stop();
        assert!(words.borrow().is_empty(), "stop only marks");
        assert!(port.is_listening());
        world.reactor.run().expect("a run");
        assert_eq!(*words.borrow(), ["before", "shutting down", "lost", "during", "after"]);
        assert_eq!(world.reactor.stats().panics, 0);
    }

    // Line 7.
    fn triggers_of_a_phase_run_in_the_order_they_were_added_and_once_each(driver) {
        let world = World::new(driver);
        let order = Rc::new(RefCell::new(Vec::new()));
        for n in 0..9 {
            let phase = [ShutdownPhase::After, ShutdownPhase::Before, ShutdownPhase::During][n % 3];
            let order = Rc::clone(&order);
            world.reactor.on_shutdown(phase, move |_| order.borrow_mut().push(n));
        }
        for _ in 0..2 {
            world.reactor.stop();
            world.reactor.stop();
            world.reactor.run().expect("a run");
        }
        assert_eq!(*order.borrow(), [1, 4, 7, 2, 5, 8, 0, 3, 6]);
    }

    // Line 7.
    fn a_trigger_added_by_a_trigger_of_its_phase_runs_too(driver) {
        let world = World::new(driver);
        let words = Words::default();
        for phase in [ShutdownPhase::Before, ShutdownPhase::During, ShutdownPhase::After] {
            let mut added = say(&words, "added");
            world.reactor.on_shutdown(phase, move |handle| handle.on_shutdown(phase, move |_| added()));
        }
        world.reactor.stop();
        world.reactor.run().expect("a run");
        assert_eq!(*words.borrow(), ["added", "added", "added"]);
    }

    // Line 7.
    fn a_panicking_trigger_does_not_keep_the_others_from_running(driver) {
        let world = World::new(driver);
        let words = Words::default();
        for phase in [ShutdownPhase::Before, ShutdownPhase::During, ShutdownPhase::After] {
            world.reactor.on_shutdown(phase, |_| -> () { panic!("a trigger") });
            let mut word = say(&words, "ran");
            world.reactor.on_shutdown(phase, move |_| word());
        }
        world.reactor.stop();
        world.reactor.run().expect("a run");
        assert_eq!(words.borrow().len(), 3);
        assert_eq!(world.reactor.stats().panics, 3);
    }

    // Line 7.
    fn connections_live_until_the_deferred_of_a_before_trigger_fires(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (_, peer) = world.pair(Script::new(&log).on_data(Transport::write));
        let slot: Rc<RefCell<Option<Resolver<(), String>>>> = Rc::default();
        let keep = Rc::clone(&slot);
        world.reactor.on_shutdown(ShutdownPhase::Before, move |handle| {
            let (resolver, deferred) = Deferred::<(), String>::new(handle);
            *keep.borrow_mut() = Some(resolver);
            deferred
        });
        world.reactor.stop();
        world.turns(5);
        peer.send(b"alive");
        assert_eq!(peer.receive(5), b"alive");
        let ran = Rc::new(Cell::new(false));
        let seen = Rc::clone(&ran);
        world.reactor.call_later(Duration::from_millis(1), move |_| seen.set(true));
        world.until("a timer meanwhile", || ran.get());
        assert!(!log.has(&Event::ShuttingDown));
        slot.borrow_mut().take().expect("the trigger ran").resolve(Ok(()));
        world.until("the next phase", || log.has(&Event::ShuttingDown));
        drop(peer);
        turn_to_the_end(&world);
    }

    // Line 7.
    fn deferreds_of_later_phases_are_waited_for_and_may_fail(driver) {
        let world = World::new(driver);
        let words = Words::default();
        for (phase, word) in [
            (ShutdownPhase::Before, "before"),
            (ShutdownPhase::During, "during"),
            (ShutdownPhase::After, "after"),
        ] {
            let mut word = say(&words, word);
            world.reactor.on_shutdown(phase, move |handle| {
                let (resolver, deferred) = Deferred::<(), String>::new(handle);
                handle.call_later(Duration::from_millis(2), move |_| {
                    word();
                    resolver.resolve(Err("it went wrong".into()));
                });
                deferred
            });
        }
        world.reactor.stop();
        world.reactor.run().expect("a run");
        assert_eq!(*words.borrow(), ["before", "during", "after"]);
    }

    // Line 7.
    fn by_default_a_connection_is_flushed_and_ends_in_good_order(driver) {
        let world = World::with(driver, |builder| builder.drain_timeout(Duration::from_secs(60)));
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log));
        transport.write(b"last words");
        world.reactor.stop();
        assert_eq!(peer.receive_to_end(), (b"last words".to_vec(), Ending::Fin));
        peer.finish();
        turn_to_the_end(&world);
        assert_eq!(log.events(), [Event::Made, Event::ShuttingDown, Event::Lost("closed".into())]);
    }

    // Line 7.
    fn a_connection_that_stays_is_served_and_aborted_after_the_drain_timeout(driver) {
        let drain = Duration::from_millis(300);
        let world = World::with(driver, |builder| builder.drain_timeout(drain));
        let log = Log::new();
        let (_, peer) = world.pair(Script::new(&log)
            .on_data(Transport::write)
            .on_shutting_down(|transport| transport.write(b"one moment")));
        let began = world.now();
        world.reactor.stop();
        assert_eq!(peer.receive(10), b"one moment");
        turn_to_the_end(&world);
        assert!(world.since(began) >= drain, "{:?}", world.since(began));
        assert_eq!(log.lost().as_deref(), Some("the reactor stopped"));
        assert_eq!(peer.receive_to_end().1, Ending::Reset);
    }

    // Line 7.
    fn the_drain_takes_a_second_unless_told_otherwise(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (_transport, _peer) = world.pair(Script::new(&log));
        let began = world.now();
        world.reactor.stop();
        // The peer never ends its side.
        world.reactor.run().expect("a run");
        assert!(world.since(began) >= Duration::from_secs(1), "{:?}", world.since(began));
        assert!(world.since(began) < Duration::from_secs(15), "{:?}", world.since(began));
        assert_eq!(log.lost().as_deref(), Some("the reactor stopped"));
    }

    // Line 7.
    fn without_time_to_drain_there_is_still_one_flush(driver) {
        let world = World::with(driver, |builder| builder.drain_timeout(Duration::ZERO));
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log).on_shutting_down(|_| {}));
        world.turns(2);
        world.reactor.on_shutdown(ShutdownPhase::Before, move |_| transport.write(b"flushed"));
        world.reactor.stop();
        world.reactor.run().expect("a run");
        assert_eq!(log.lost().as_deref(), Some("the reactor stopped"));
        assert_eq!(peer.receive(7), b"flushed");
    }

    // Line 7.
    fn pending_timers_and_callbacks_are_dropped_uncalled(driver) {
        let world = World::new(driver);
        let (value, called) = (Rc::new(()), Rc::new(Cell::new(false)));
        let hook = || {
            let (value, called) = (Rc::clone(&value), Rc::clone(&called));
            move |_: &Handle| {
                let _ = &value;
                called.set(true);
            }
        };
        let later = world.reactor.call_later(Duration::from_secs(60), hook());
        let tick = hook();
        let looping = {
            let handle = Handle::clone(&world.reactor);
            world.reactor.every(Duration::from_secs(60), move |_, _| tick(&handle))
        };
        let soon = hook();
        world.reactor.on_shutdown(ShutdownPhase::After, move |handle| drop(handle.call_soon(soon)));
        world.reactor.stop();
        world.reactor.run().expect("a run");
        assert!(!later.is_active(), "a timer survived");
        assert!(!looping.is_running(), "a looping call survived");
        assert_eq!(Rc::strong_count(&value), 1);
        world.turns(3);
        assert!(!called.get());
    }

    // Line 7.
    fn callbacks_behind_a_stop_still_run_in_that_pass(driver) {
        let world = World::new(driver);
        let ran = Rc::new(Cell::new(false));
        let seen = Rc::clone(&ran);
        world.reactor.call_soon(Handle::stop);
        world.reactor.call_soon(move |handle| {
            assert!(handle.is_stopping());
            seen.set(true);
        });
        world.reactor.run().expect("a run");
        assert!(ran.get());
    }

    // Line 7.
    fn turn_says_when_the_stop_is_complete(driver) {
        let world = World::new(driver);
        assert!(world.reactor.turn(Some(Duration::ZERO)).expect("a turn"));
        world.reactor.stop();
        turn_to_the_end(&world);
        assert!(world.reactor.turn(Some(Duration::ZERO)).expect("a turn"), "it can run again");
    }

    // Line 7.
    fn clients_that_always_connect_again_cannot_hold_it(driver) {
        let world = World::with(driver, |builder| builder.drain_timeout(Duration::from_millis(20)));
        let elsewhere = world.machine().listen_somewhere();
        let address = format!("tcp:{}", elsewhere.local_addr());
        let losses = Rc::new(Cell::new(0));
        let made = Rc::new(Cell::new(false));
        let (seen, client) = (Rc::clone(&made), Persistent { address: address.clone(), losses: Rc::clone(&losses) });
        world.reactor.connect_protocol(&*address, client).on_done(move |_, outcome| {
            outcome.expect("connected");
            seen.set(true);
        });
        world.until("the connection", || made.get());
        world.reactor.stop();
        turn_to_the_end(&world);
        assert_eq!(world.reactor.stats().connections, 0);
        assert!(losses.get() >= 1);
    }

    // Line 7.
    fn an_attempt_to_connect_is_cancelled_by_the_shutdown(driver) {
        let world = World::new(driver);
        let elsewhere = world.machine().listen_somewhere();
        let address = format!("tcp:{}", elsewhere.local_addr());
        let outcome = Rc::new(RefCell::new(None));
        let heard = Rc::clone(&outcome);
        world.reactor.stop();
        world.reactor.on_shutdown(ShutdownPhase::Before, move |handle| {
            handle.connect_protocol(address, Script::new(&Log::new())).on_done(move |_, result| {
                *heard.borrow_mut() = Some(result.map(|_| ()).map_err(|error| error.kind()));
            });
        });
        world.reactor.run().expect("a run");
        assert_eq!(*outcome.borrow(), Some(Err(ConnectErrorKind::Cancelled)));
    }
}
