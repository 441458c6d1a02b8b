//! The way back into a protocol: typed connections, posts, timers, delivered outcomes, hooks that can fail.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::{Cell, RefCell};
use std::num::ParseIntError;
use std::rc::Rc;
use std::time::Duration;

use twistor::{
    Connection, Deferred, Eof, Fallible, OnTimeout, Protocol, Reason, Timeout, Timeouts, Transport,
    TryProtocol,
};
use twistor_tests::{Ending, Log, Peer, Script, World, stream_contract};

/// Counts, and says its count when told to.
#[derive(Default)]
struct Counter {
    count: u32,
    lost: Rc<Cell<bool>>,
}

impl Protocol for Counter {
    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.count += data.len() as u32;
    }

    fn connection_lost(&mut self, _: &Transport, _: &Reason) {
        self.lost.set(true);
    }
}

struct Other;

impl Protocol for Other {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

/// A typed connection, its peer, and whether it is lost.
fn counter(world: &World) -> (Connection<Counter>, Peer<'_>, Rc<Cell<bool>>) {
    let lost = Rc::new(Cell::new(false));
    let (transport, peer) = world.pair(Counter { count: 0, lost: Rc::clone(&lost) });
    let connection = transport.connection::<Counter>().expect("that is its type");
    (connection, peer, lost)
}

stream_contract! {
    fn a_transport_knows_the_type_of_its_protocol(driver) {
        let world = World::new(driver);
        let (connection, _peer, lost) = counter(&world);
        let transport = connection.transport().clone();
        assert!(transport.connection::<Other>().is_none());
        assert!(transport.connection::<Script>().is_none());
        transport.switch_protocol(Other);
        world.turns(2);
        assert!(transport.connection::<Counter>().is_none());
        assert!(transport.connection::<Other>().is_some());
        transport.lose_connection();
        assert!(transport.connection::<Other>().is_none(), "it has ended");
        transport.abort_connection();
        world.turns(3);
        assert!(transport.connection::<Other>().is_none());
        assert!(!lost.get(), "the old protocol hears nothing");
    }

    fn the_type_is_known_inside_the_first_hook(driver) {
        let world = World::new(driver);
        let known = Rc::new(Cell::new(false));
        let seen = Rc::clone(&known);
        let script = Script::new(&Log::new()).on_made(move |transport| {
            seen.set(transport.connection::<Script>().is_some());
        });
        let (_transport, _peer) = world.pair(script);
        assert!(known.get());
    }

    fn a_post_is_called_later_with_the_protocol_and_its_writes_go_out(driver) {
        let world = World::new(driver);
        let (connection, peer, _) = counter(&world);
        peer.send(b"12345");
        world.turns(5);
        let called = Rc::new(Cell::new(0));
        let seen = Rc::clone(&called);
        assert!(connection.post(move |counter, transport| {
            seen.set(counter.count);
            counter.count = 100;
            write!(transport, "count {}", counter.count);
        }));
        assert_eq!(called.get(), 0, "no method calls a hook");
        assert_eq!(peer.receive(9), b"count 100");
        assert_eq!(called.get(), 5);
    }

    fn posts_run_in_order_among_other_callbacks(driver) {
        let world = World::new(driver);
        let (connection, _peer, _) = counter(&world);
        let order = Rc::new(RefCell::new(Vec::new()));
        for n in 0..3 {
            let (posted, called) = (Rc::clone(&order), Rc::clone(&order));
            connection.post(move |_, _| posted.borrow_mut().push(2 * n));
            world.reactor.call_soon(move |_| called.borrow_mut().push(2 * n + 1));
        }
        world.turns(1);
        assert_eq!(*order.borrow(), [0, 1, 2, 3, 4, 5]);
    }

    fn a_post_from_its_own_hook_runs_after_it(driver) {
        let world = World::new(driver);
        let (connection, _peer, _) = counter(&world);
        let depth = Rc::new(Cell::new(0));
        let seen = Rc::clone(&depth);
        let again = connection.clone();
        connection.post(move |counter, _| {
            counter.count = 1;
            let seen = Rc::clone(&seen);
            assert!(again.post(move |counter, _| seen.set(counter.count)));
            counter.count = 2;
        });
        world.until("the second post", || depth.get() != 0);
        assert_eq!(depth.get(), 2);
    }

    fn a_post_to_an_ended_connection_is_refused_or_dropped_and_counted(driver) {
        let world = World::new(driver);
        let (connection, _peer, lost) = counter(&world);
        let kept = Rc::new(());
        let inside = Rc::clone(&kept);
        assert!(connection.post(move |_, _| drop(inside)));
        let inside = Rc::clone(&kept);
        assert!(connection.post(move |_, _| unreachable!("{inside:?}")));
        let before = world.reactor.stats().dropped_posts;
        connection.abort_connection();
        let inside = Rc::clone(&kept);
        assert!(!connection.post(move |_, _| unreachable!("{inside:?}")), "refused");
        world.until("the loss", || lost.get());
        world.turns(2);
        assert_eq!(Rc::strong_count(&kept), 1, "what is not called is dropped");
        assert_eq!(world.reactor.stats().dropped_posts - before, 2);
    }

    fn a_post_that_meets_another_protocol_is_dropped_and_counted(driver) {
        let world = World::new(driver);
        let (connection, _peer, _) = counter(&world);
        let before = world.reactor.stats().dropped_posts;
        connection.switch_protocol(Other);
        assert!(connection.post(|_, _| unreachable!("it is another's now")));
        world.turns(3);
        assert!(connection.post(|_, _| unreachable!("it is another's now")));
        world.turns(3);
        assert_eq!(world.reactor.stats().dropped_posts - before, 2);
        assert!(!connection.is_closing());
    }

    fn a_panicking_post_ends_the_connection(driver) {
        let world = World::new(driver);
        let (connection, peer, lost) = counter(&world);
        connection.post(|_, _| panic!("on purpose"));
        world.until("the loss", || lost.get());
        assert_eq!(peer.receive_to_end().1, Ending::Reset);
    }

    fn a_typed_timer_reaches_the_protocol_never_early(driver) {
        let world = World::new(driver);
        let (connection, _peer, _) = counter(&world);
        let after = Duration::from_millis(20);
        let fired = Rc::new(Cell::new(None));
        let seen = Rc::clone(&fired);
        let start = world.now();
        let call = connection.transport().call_later(after, move |counter: &mut Counter, transport| {
            counter.count += 1;
            seen.set(Some((transport.reactor().now(), counter.count)));
        });
        assert!(call.is_active());
        let cancelled = connection.call_later(after, |_: &mut Counter, _| unreachable!("cancelled"));
        assert!(cancelled.cancel());
        world.until("the timer", || fired.get().is_some());
        let (at, count) = fired.get().unwrap();
        assert!(at - start >= after);
        assert_eq!(count, 1);
        assert!(!call.is_active());
    }

    fn typed_timers_end_with_the_connection(driver) {
        let world = World::new(driver);
        let timers = world.reactor.stats().timers;
        let (connection, _peer, lost) = counter(&world);
        let transport = connection.transport().clone();
        let kept = Rc::new(());
        let (once, often) = (Rc::clone(&kept), Rc::clone(&kept));
        let call = transport.call_later(Duration::ZERO, move |_: &mut Counter, _| unreachable!("{once:?}"));
        let every = transport.every(Duration::from_nanos(1), move |_: &mut Counter, _| {
            unreachable!("{often:?}");
        });
        transport.abort_connection();
        world.until("the loss", || lost.get());
        world.turns(3);
        assert!(!call.is_active());
        assert!(!every.stop(), "it has stopped by itself");
        drop(every);
        assert_eq!(Rc::strong_count(&kept), 1, "their closures are dropped");
        assert_eq!(world.reactor.stats().timers, timers);
        let late = transport.call_later(Duration::ZERO, |_: &mut Counter, _| unreachable!("lost"));
        assert!(!late.is_active());
        let never = transport.every(Duration::ZERO, |_: &mut Counter, _| unreachable!("lost"));
        world.turns(3);
        assert!(!never.stop());
    }

    fn every_calls_the_protocol_again_and_again_until_stopped(driver) {
        let world = World::new(driver);
        let (connection, peer, _) = counter(&world);
        let call = connection.transport().every(Duration::from_millis(1), |counter: &mut Counter, transport| {
            counter.count += 1;
            write!(transport, "{}", counter.count % 10);
        });
        assert_eq!(peer.receive(5), b"12345");
        assert!(call.stop());
        assert!(!call.stop());
        world.turns(2);
        let _ = peer.try_receive();
        world.assert_sleeps("it was stopped");
    }

    fn typed_timers_that_meet_another_protocol_are_dropped_and_counted(driver) {
        let world = World::new(driver);
        let (connection, _peer, _) = counter(&world);
        let before = world.reactor.stats().dropped_posts;
        let transport = connection.transport().clone();
        let _ = transport.call_later(Duration::ZERO, |_: &mut Counter, _| unreachable!("another's"));
        let every = transport.every(Duration::from_millis(1), |_: &mut Counter, _| unreachable!("another's"));
        // Before the timers are due, in the same pass.
        transport.switch_protocol(Other);
        world.until("both are counted", || world.reactor.stats().dropped_posts - before == 2);
        assert!(!every.stop(), "it ends when the protocol has another type");
        world.assert_sleeps("no timer is left");
    }

    fn a_timer_may_stop_itself_and_the_connection(driver) {
        let world = World::new(driver);
        let (connection, peer, lost) = counter(&world);
        let _ = connection.transport().every(Duration::from_millis(1), |counter: &mut Counter, transport| {
            counter.count += 1;
            if counter.count == 3 {
                transport.lose_connection();
            }
            assert!(counter.count <= 3, "called on a closing transport");
        });
        assert_eq!(peer.receive_to_end().1, Ending::Fin);
        peer.finish();
        world.until("the loss", || lost.get());
        assert_eq!(world.reactor.stats().panics, 0);
    }

    fn an_outcome_is_delivered_to_the_protocol(driver) {
        let world = World::new(driver);
        let (connection, peer, _) = counter(&world);
        let (resolver, deferred) = Deferred::<u32, String>::new(&world.reactor);
        deferred.deliver(connection.transport(), |counter: &mut Counter, transport, outcome| {
            counter.count = outcome.unwrap();
            write!(transport, "got {}", counter.count);
        });
        assert!(resolver.resolve(Ok(42)));
        assert_eq!(peer.receive(6), b"got 42");
        let (resolver, deferred) = Deferred::<u32, String>::new(&world.reactor);
        resolver.resolve(Err("no answer".to_owned()));
        deferred.deliver(connection.transport(), |_: &mut Counter, transport, outcome| {
            write!(transport, "{}", outcome.unwrap_err());
        });
        assert_eq!(peer.receive(9), b"no answer");
    }

    fn an_outcome_that_meets_another_protocol_is_dropped_and_counted(driver) {
        let world = World::new(driver);
        let (connection, _peer, _) = counter(&world);
        let before = world.reactor.stats().dropped_posts;
        let (resolver, deferred) = Deferred::<u32, String>::new(&world.reactor);
        deferred.deliver(connection.transport(), |_: &mut Counter, _, _| unreachable!("another's"));
        connection.switch_protocol(Other);
        world.turns(2);
        resolver.resolve(Ok(1));
        world.turns(3);
        assert_eq!(world.reactor.stats().dropped_posts - before, 1);
    }

    fn an_outcome_for_an_ended_connection_is_dropped_and_counted(driver) {
        let world = World::new(driver);
        let (connection, _peer, lost) = counter(&world);
        let before = world.reactor.stats().dropped_posts;
        let (resolver, deferred) = Deferred::<u32, String>::new(&world.reactor);
        deferred.deliver(connection.transport(), |_: &mut Counter, _, _| unreachable!("it has ended"));
        connection.abort_connection();
        world.until("the loss", || lost.get());
        resolver.resolve(Ok(1));
        world.turns(3);
        assert_eq!(world.reactor.stats().dropped_posts - before, 1);
    }

    fn a_fallible_protocol_answers_until_it_fails_and_the_loss_names_the_error(driver) {
        let world = World::new(driver);
        let told = Rc::new(RefCell::new(None));
        let (_transport, peer) = world.pair(Fallible(Sum { total: 0, told: Rc::clone(&told) }));
        peer.send(b"40");
        assert_eq!(peer.receive(3), b"40\n");
        peer.send(b"2");
        assert_eq!(peer.receive(3), b"42\n");
        peer.send(b"two");
        // It fails in good order: what was written before goes out, the end is a FIN.
        assert_eq!(peer.receive_to_end(), (b"bad:".to_vec(), Ending::Fin));
        peer.finish();
        world.until("the loss", || told.borrow().is_some());
        let (text, is_parse_error) = told.take().unwrap();
        assert_eq!(text, "failed: invalid digit found in string");
        assert!(is_parse_error, "the error itself can be had");
    }

    fn every_fallible_hook_may_fail(driver) {
        for hook in ["made", "eof", "timed_out", "pause"] {
            let world = World::new(driver);
            let told = Rc::new(RefCell::new(None));
            let fails = Fallible(Fails { hook, told: Rc::clone(&told) });
            let (transport, peer) = world.pair_with(twistor_tests::Buffers::TIGHT, fails);
            match hook {
                "eof" => peer.finish(),
                "timed_out" => transport.set_timeouts(Timeouts::new().idle(Duration::from_millis(5))),
                "pause" => transport.write(&[0; 200_000]),
                _ => {}
            }
            let _ = peer.receive_to_end();
            let _ = peer.try_finish();
            world.until("the loss", || told.borrow().is_some());
            assert_eq!(told.take(), Some(format!("failed: {hook} failed")));
        }
    }
}

struct Sum {
    total: i64,
    told: Rc<RefCell<Option<(String, bool)>>>,
}

impl TryProtocol for Sum {
    type Error = ParseIntError;

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> Result<(), ParseIntError> {
        let text = String::from_utf8_lossy(data);
        if text.starts_with(|letter: char| !letter.is_ascii_digit()) {
            transport.write(b"bad:");
        }
        self.total += text.parse::<i64>()?;
        writeln!(transport, "{}", self.total);
        Ok(())
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        let is_parse_error = matches!(reason, Reason::Failed(error) if error.is::<ParseIntError>());
        *self.told.borrow_mut() = Some((reason.to_string(), is_parse_error));
    }
}

/// Fails in one of its hooks.
struct Fails {
    hook: &'static str,
    told: Rc<RefCell<Option<String>>>,
}

impl Fails {
    fn outcome<T>(&self, hook: &str, value: T) -> Result<T, String> {
        if hook == self.hook { Err(format!("{hook} failed")) } else { Ok(value) }
    }
}

impl TryProtocol for Fails {
    type Error = String;

    fn connection_made(&mut self, _: &Transport) -> Result<(), String> {
        self.outcome("made", ())
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn eof_received(&mut self, _: &Transport) -> Result<Eof, String> {
        self.outcome("eof", Eof::KeepOpen)
    }

    fn pause_writing(&mut self, _: &Transport) -> Result<(), String> {
        self.outcome("pause", ())
    }

    fn timed_out(&mut self, _: &Transport, _: Timeout) -> Result<OnTimeout, String> {
        self.outcome("timed_out", OnTimeout::Abort)
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        *self.told.borrow_mut() = Some(reason.to_string());
    }
}
