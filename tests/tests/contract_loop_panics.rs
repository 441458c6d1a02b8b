//! The contract, section 1, line 5: a panic ends only what it belongs to.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use twistor::{
    ConnectErrorKind, Deferred, Eof, Factory, OnTimeout, PanicPolicy, Peer as Address, Protocol, Reason,
    ShutdownPhase, Timeouts, Transport,
};
use twistor_tests::{Ending, Event, Log, Script, World, contract, logged};

/// Panics when dropped, but not while another panic is on its way.
struct Bomb(Rc<Cell<u32>>);

impl Drop for Bomb {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
        if !std::thread::panicking() {
            panic!("a destructor that panics");
        }
    }
}

/// A protocol with such a destructor.
struct Explosive(#[allow(dead_code, reason = "it is there to be dropped")] Bomb);

impl Protocol for Explosive {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// Whether the loop still runs callbacks and serves a connection.
fn goes_on(world: &World) {
    let (_, peer) = world.pair(Script::new(&Log::new()).on_data(Transport::write));
    peer.send(b"still there?");
    assert_eq!(peer.receive(12), b"still there?");
}

/// A connection whose hook panics is aborted and told so, once; the others live.
fn ends_only_its_connection(
    driver: twistor_tests::Driver,
    script: fn(Script) -> Script,
    provoke: fn(&Transport),
) {
    let world = World::new(driver);
    let (_, bystander) = world.pair(Script::new(&Log::new()).on_data(Transport::write));
    let log = Log::new();
    let port = {
        let log = log.clone();
        world.listen(move |_| script(Script::new(&log)))
    };
    let client_log = Log::new();
    let client = Script::new(&client_log).on_made(move |transport| {
        transport.pause_reading();
        provoke(transport);
    });
    world.reactor.connect_protocol(format!("tcp:{}", port.local_addr()), client).on_done(|_, _| {});
    world.until("the loss", || log.lost().is_some());
    assert_eq!(log.lost().as_deref(), Some("a hook panicked"));
    assert_eq!(world.reactor.stats().panics, 1);
    world.until("the peer's loss", || client_log.lost().is_some());
    assert_eq!(client_log.lost().as_deref(), Some("reset by the peer or the network"));
    world.turns(3);
    assert_eq!(log.lost().as_deref(), Some("a hook panicked"), "told once");
    bystander.send(b"x");
    assert_eq!(bystander.receive(1), b"x");
    goes_on(&world);
}

fn talk(transport: &Transport) {
    transport.write(b"x");
}

fn nothing(_: &Transport) {}

contract! {
    // Line 5.
    fn a_panic_in_connection_made_ends_only_the_connection(driver) {
        ends_only_its_connection(driver, |script| script.on_made(|_| panic!("made")), nothing);
    }

    // Line 5.
    fn a_panic_in_data_received_ends_only_the_connection(driver) {
        ends_only_its_connection(driver, |script| script.on_data(|_, _| panic!("data")), talk);
    }

    // Line 5.
    fn a_panic_in_eof_received_ends_only_the_connection(driver) {
        ends_only_its_connection(
            driver,
            |script| script.on_eof(|_| -> Eof { panic!("eof") }),
            Transport::lose_write_connection,
        );
    }

    // Line 5.
    fn a_panic_in_pause_writing_ends_only_the_connection(driver) {
        let script = |script: Script| {
            script
                .on_made(|transport| transport.write_bytes(vec![0; 32 << 20]))
                .on_pause(|_| panic!("pause"))
        };
        ends_only_its_connection(driver, script, nothing);
    }

    // Line 5.
    fn a_panic_in_resume_writing_ends_only_the_connection(driver) {
        let script = |script: Script| {
            script
                .on_made(|transport| transport.write_bytes(vec![0; 32 << 20]))
                .on_resume(|_| panic!("resume"))
        };
        ends_only_its_connection(driver, script, |transport| {
            let transport = transport.clone();
            transport.reactor().clone().call_soon(move |_| transport.resume_reading());
        });
    }

    // Line 5.
    fn a_panic_in_timed_out_ends_only_the_connection(driver) {
        let script = |script: Script| {
            script
                .on_made(|transport| {
                    transport.set_timeouts(Timeouts::default().idle(Duration::from_millis(1)));
                })
                .on_timed_out(|_, _| -> OnTimeout { panic!("timed out") })
        };
        ends_only_its_connection(driver, script, nothing);
    }

    // Line 5.
    fn a_panic_in_a_post_ends_only_the_connection(driver) {
        let script = |script: Script| {
            script.on_made(|transport| {
                let me = transport.connection::<Script>().expect("its type");
                me.post(|_, _| panic!("post"));
            })
        };
        ends_only_its_connection(driver, script, nothing);
    }

    // Line 5.
    fn a_panic_in_a_timer_of_a_connection_ends_only_the_connection(driver) {
        let script = |script: Script| {
            script.on_made(|transport| {
                transport.call_later(Duration::ZERO, |_: &mut Script, _| panic!("timer"));
            })
        };
        ends_only_its_connection(driver, script, nothing);
    }

    // Line 5.
    fn a_panic_in_a_looping_call_of_a_connection_ends_only_the_connection(driver) {
        let script = |script: Script| {
            script.on_made(|transport| {
                transport.every(Duration::from_millis(1), |_: &mut Script, _| panic!("tick"));
            })
        };
        ends_only_its_connection(driver, script, nothing);
    }

    // Line 5.
    fn a_panic_in_a_delivery_ends_only_the_connection(driver) {
        let script = |script: Script| {
            script.on_made(|transport| {
                let (resolver, deferred) = Deferred::<(), String>::new(transport.reactor());
                deferred.deliver(transport, |_: &mut Script, _, _| panic!("delivery"));
                resolver.resolve(Ok(()));
            })
        };
        ends_only_its_connection(driver, script, nothing);
    }

    // Line 5.
    fn a_panic_in_the_connection_made_of_a_switched_protocol_ends_only_the_connection(driver) {
        let world = World::new(driver);
        let (old, new) = (Log::new(), Log::new());
        let (transport, peer) = world.pair(Script::new(&old));
        world.turns(2);
        transport.switch_protocol(Script::new(&new).on_made(|_| panic!("made")));
        world.until("the loss", || new.lost().is_some());
        assert_eq!(new.events(), [Event::Made, Event::Lost("a hook panicked".into())]);
        assert_eq!(old.events(), [Event::Made]);
        assert_eq!(peer.receive_to_end().1, Ending::Reset);
        goes_on(&world);
    }

    // Line 5.
    fn a_panic_in_shutting_down_does_not_stop_the_shutdown(driver) {
        let world = World::with(driver, |builder| builder.drain_timeout(Duration::from_secs(60)));
        let log = Log::new();
        let (_transport, peer) =
            world.pair(Script::new(&log).on_shutting_down(|_| panic!("shutting down")));
        world.reactor.stop();
        world.reactor.run().expect("a run");
        assert_eq!(log.lost().as_deref(), Some("a hook panicked"));
        assert_eq!(peer.receive_to_end().1, Ending::Reset);
    }

    // Line 5.
    fn a_panic_in_connection_lost_is_only_logged(driver) {
        logged::keep();
        let world = World::new(driver);
        let log = Log::new();
        let (transport, _peer) = world.pair(Script::new(&log).on_lost(|_, _| panic!("the last word")));
        transport.abort_connection();
        world.until("the loss", || log.lost().is_some());
        world.turns(3);
        assert_eq!(log.lost().as_deref(), Some("aborted"), "told once");
        assert_eq!((world.reactor.stats().panics, world.reactor.stats().connections), (1, 0));
        let lines = logged::take();
        assert!(lines.iter().any(|line| line.contains("the last word")), "{lines:?}");
        goes_on(&world);
    }

    // Line 5.
    fn a_connection_that_panics_again_when_it_is_lost_is_lost_once(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let script = Script::new(&log).on_data(|_, _| panic!("first")).on_lost(|_, reason| {
            assert!(matches!(reason, Reason::Panicked));
            panic!("second");
        });
        let (_, peer) = world.pair(script);
        peer.send(b"x");
        world.until("the loss", || log.lost().is_some());
        assert_eq!(peer.receive_to_end().1, Ending::Reset);
        assert_eq!(log.lost().as_deref(), Some("a hook panicked"));
        assert_eq!(world.reactor.stats().panics, 2);
        goes_on(&world);
    }

    // Line 5.
    fn a_panic_is_logged_with_where_it_happened(driver) {
        logged::keep();
        let world = World::new(driver);
        let log = Log::new();
        let (_, peer) = world.pair(Script::new(&log).on_data(|_, _| panic!("words to find")));
        peer.send(b"x");
        world.until("the loss", || log.lost().is_some());
        let lines = logged::take();
        let line = lines.iter().find(|line| line.contains("words to find"));
        let line = line.unwrap_or_else(|| panic!("not logged: {lines:?}"));
        assert!(line.contains("Script::data_received"), "{line}");
        assert!(line.contains(&peer.local_addr().to_string()), "{line}");
    }

    // Line 5.
    fn the_same_holds_for_clients(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Script::new(&Log::new()).on_made(talk));
        let address = format!("tcp:{}", port.local_addr());
        let log = Log::new();
        let client = Script::new(&log).on_data(|_, _| panic!("data"));
        world.reactor.connect_protocol(&*address, client).on_done(|_, outcome| {
            outcome.expect("connected");
        });
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.lost().as_deref(), Some("a hook panicked"));
        // In `connection_made`: there is no connection, and whoever asked for it hears so.
        let outcome = Rc::new(RefCell::new(None));
        let (log, heard) = (Log::new(), Rc::clone(&outcome));
        let client = Script::new(&log).on_made(|_| panic!("made"));
        world.reactor.connect_protocol(&*address, client).on_done(move |_, outcome| {
            *heard.borrow_mut() = Some(outcome.expect_err("it panicked").kind());
        });
        world.until("the outcome", || outcome.borrow().is_some());
        assert_eq!(*outcome.borrow(), Some(ConnectErrorKind::Declined));
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.lost().as_deref(), Some("a hook panicked"));
        goes_on(&world);
    }

    // Line 5.
    fn a_panic_in_build_protocol_drops_only_that_socket(driver) {
        let world = World::new(driver);
        let mut first = true;
        let port = world.listen(move |_| {
            assert!(!std::mem::take(&mut first), "not the first");
            Script::new(&Log::new()).on_data(Transport::write)
        });
        let refused = world.connect(&port);
        let _ = refused.receive_to_end();
        let peer = world.connect(&port);
        peer.send(b"x");
        assert_eq!(peer.receive(1), b"x");
        assert!(port.is_listening());
        assert_eq!(world.reactor.stats().panics, 1);
    }

    // Line 5.
    fn panics_in_started_and_stopped_leave_the_port_alive_and_the_loop_running(driver) {
        struct Nervous;
        impl Factory for Nervous {
            type Protocol = Script;
            fn build_protocol(&mut self, _: Address) -> Option<Script> {
                Some(Script::new(&Log::new()).on_data(Transport::write))
            }
            fn started(&mut self) {
                panic!("started");
            }
            fn stopped(&mut self) {
                panic!("stopped");
            }
        }
        let world = World::new(driver);
        let port = world.listen(Nervous);
        let peer = world.connect(&port);
        peer.send(b"x");
        assert_eq!(peer.receive(1), b"x");
        drop(port.stop_listening());
        world.until("both panics", || world.reactor.stats().panics == 2);
        goes_on(&world);
    }

    // Line 5.
    fn a_panicking_callback_or_timer_is_dropped_and_the_next_ones_run(driver) {
        let world = World::new(driver);
        let ran = Rc::new(Cell::new(0));
        for _ in 0..2 {
            let seen = Rc::clone(&ran);
            world.reactor.call_soon(|_| panic!("callback"));
            world.reactor.call_soon(move |_| seen.set(seen.get() + 1));
            let seen = Rc::clone(&ran);
            world.reactor.call_later(Duration::ZERO, |_| panic!("timer"));
            world.reactor.call_later(Duration::ZERO, move |_| seen.set(seen.get() + 1));
        }
        world.until("the others", || ran.get() == 4);
        assert_eq!(world.reactor.stats().panics, 4);
        assert_eq!(Rc::strong_count(&ran), 1);
        goes_on(&world);
    }

    // Lines 5 and 17.
    fn a_panicking_looping_call_ends_with_an_error(driver) {
        let world = World::new(driver);
        let (calls, error) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(None)));
        let (count, heard) = (Rc::clone(&calls), Rc::clone(&error));
        let looping = world.reactor.every(Duration::from_millis(1), move |_, _| {
            count.set(count.get() + 1);
            if count.get() == 2 {
                panic!("second tick");
            }
        });
        looping.finished().on_done(move |_, outcome| {
            *heard.borrow_mut() = Some(outcome.expect_err("it panicked").to_string());
        });
        world.until("the end of the looping call", || error.borrow().is_some());
        assert!(!looping.is_running());
        world.run_for(Duration::from_millis(10));
        assert_eq!(calls.get(), 2);
        assert_eq!(Rc::strong_count(&calls), 1, "what it held is dropped");
    }

    // Line 5.
    fn panics_in_other_hooks_of_the_reactor_stay_there(driver) {
        let world = World::new(driver);
        let mut calls = 0;
        world.reactor.before_wait(move |_| {
            calls += 1;
            assert!(calls != 1, "before_wait");
        });
        let received = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&received);
        let sender = world.reactor.channel(8, move |_, value: u32| {
            seen.borrow_mut().push(value);
            assert!(value != 1, "channel");
        });
        let sender = sender.expect("a channel");
        for value in 0..3 {
            sender.send(value).expect("room");
        }
        world.reactor.remote().call(|_| panic!("remote call")).expect("a call");
        let (resolver, deferred) = Deferred::<(), String>::new(&world.reactor);
        deferred.on_done(|_, _| panic!("deferred"));
        resolver.resolve(Ok(()));
        world.until("four panics", || world.reactor.stats().panics == 4);
        world.until("all values", || *received.borrow() == [0, 1, 2]);
        goes_on(&world);
    }

    // Line 5.
    fn panics_of_destructors_are_contained(driver) {
        let world = World::new(driver);
        let drops = Rc::new(Cell::new(0));
        let bomb = || Bomb(Rc::clone(&drops));
        // Of a protocol.
        let (transport, _peer) = world.pair(Explosive(bomb()));
        transport.abort_connection();
        world.until("the protocol is dropped", || drops.get() == 1);
        // Of a protocol that is replaced.
        let (transport, _peer) = world.pair(Explosive(bomb()));
        world.turns(2);
        transport.switch_protocol(Script::new(&Log::new()));
        world.until("the old protocol is dropped", || drops.get() == 2);
        // Of a factory.
        let held = bomb();
        let port = world.listen(move |_| {
            let _ = &held;
            None::<Script>
        });
        drop(port.stop_listening());
        world.until("the factory is dropped", || drops.get() == 3);
        // Of closures that ran.
        let (one, other) = (bomb(), bomb());
        world.reactor.call_soon(move |_| drop(one));
        world.reactor.call_later(Duration::ZERO, move |_| {
            let _ = &other;
        });
        world.until("both closures are dropped", || drops.get() == 5);
        // Of a closure for a connection that ended.
        let (transport, _peer) = world.pair(Script::new(&Log::new()));
        let (posted, later) = (bomb(), bomb());
        let me = transport.connection::<Script>().expect("its type");
        assert!(me.post(move |_, _| drop(posted)));
        transport.call_later(Duration::from_secs(60), move |_: &mut Script, _| drop(later));
        transport.abort_connection();
        world.until("post and timer are dropped", || drops.get() == 7);
        // Of a payload.
        let panics = world.reactor.stats().panics;
        world.reactor.call_soon(|_| panic_any(SendBomb));
        world.until("the payload is caught", || world.reactor.stats().panics > panics);
        goes_on(&world);
    }

    // Line 5.
    fn a_panicking_destructor_of_written_bytes_is_contained(driver) {
        struct Owner(Vec<u8>, #[allow(dead_code, reason = "it is there to be dropped")] SendBomb);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        let world = World::new(driver);
        let (transport, peer) = world.pair(Script::new(&Log::new()));
        transport.write_bytes(Bytes::from_owner(Owner(vec![7; 100_000], SendBomb)));
        assert_eq!(peer.receive(100_000), vec![7; 100_000]);
        world.until("the panic", || world.reactor.stats().panics == 1);
        // Not yet sent when the connection ends.
        let (transport, _peer) = world.pair(Script::new(&Log::new()));
        transport.write_bytes(Bytes::from_owner(Owner(vec![7; 64 << 20], SendBomb)));
        world.turns(2);
        transport.abort_connection();
        world.until("the panic", || world.reactor.stats().panics == 2);
        goes_on(&world);
    }

    // Line 5.
    fn panics_of_destructors_do_not_leave_the_end_of_the_reactor(driver) {
        let drops = Rc::new(Cell::new(0));
        let bomb = || Bomb(Rc::clone(&drops));
        let world = World::new(driver);
        let (_transport, peer) = world.pair(Explosive(bomb()));
        let held = bomb();
        world.listen(move |_| {
            let _ = &held;
            None::<Script>
        });
        let (one, two, three, four) = (bomb(), bomb(), bomb(), bomb());
        world.reactor.call_soon(move |_| drop(one));
        world.reactor.call_later(Duration::from_secs(60), move |_| drop(two));
        world.reactor.before_wait(move |_| {
            let _ = &three;
        });
        world.reactor.on_shutdown(ShutdownPhase::Before, move |_| drop(four));
        let five = bomb();
        world.reactor.every(Duration::from_secs(60), move |_, _| {
            let _ = &five;
        });
        let six = bomb();
        let sender = world.reactor.channel(1, move |_, ()| {
            let _ = &six;
        });
        drop(peer);
        drop(world);
        drop(sender);
        assert_eq!(drops.get(), 8);
    }

    // Line 5.
    fn with_propagate_a_panic_leaves_run_and_the_reactor_stays_usable(driver) {
        let world = World::with(driver, |builder| builder.panic_policy(PanicPolicy::Propagate));
        let log = Log::new();
        let port = {
            let log = log.clone();
            world.listen(move |_| Script::new(&log).on_data(|_, _| panic_any(42_u32)))
        };
        let client = Script::new(&Log::new()).on_made(talk);
        world.reactor.connect_protocol(format!("tcp:{}", port.local_addr()), client).on_done(|_, _| {});
        let payload = catch_unwind(AssertUnwindSafe(|| world.reactor.run())).expect_err("the panic");
        assert_eq!(payload.downcast_ref::<u32>(), Some(&42));
        assert!(twistor::Handle::current().is_none());
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.lost().as_deref(), Some("a hook panicked"));
        assert_eq!(log.count(&Event::Made), 1);
        goes_on(&world);
        world.reactor.call_soon(|_| panic!("in a turn"));
        catch_unwind(AssertUnwindSafe(|| world.turns(1))).expect_err("the panic");
        world.reactor.call_soon(twistor::Handle::stop);
        world.reactor.run().expect("a run");
    }

    // Line 5.
    fn with_propagate_a_panic_of_the_last_trigger_does_not_disturb_the_next_run(driver) {
        let world = World::with(driver, |builder| builder.panic_policy(PanicPolicy::Propagate));
        world.reactor.on_shutdown(ShutdownPhase::After, |_| -> () { panic!("after") });
        world.reactor.stop();
        catch_unwind(AssertUnwindSafe(|| world.reactor.run())).expect_err("the panic");
        let ran = Rc::new(Cell::new(false));
        let seen = Rc::clone(&ran);
        world.reactor.call_soon(|_| {});
        world.reactor.call_later(Duration::from_millis(20), move |handle| {
            seen.set(true);
            handle.stop();
        });
        world.reactor.run().expect("a run");
        assert!(ran.get(), "the run after it was none");
    }
}

/// Panics when dropped; can be sent.
struct SendBomb;

impl Drop for SendBomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("a destructor that panics");
        }
    }
}
