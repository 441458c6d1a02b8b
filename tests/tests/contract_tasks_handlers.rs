//! The contract, sections 2 and 13: async closures as handlers, tasks as Deferreds and as what hooks return.

#![allow(clippy::unwrap_used, reason = "in a test that is what is asserted")]

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use twistor::sync::Event;
use twistor::{Deferred, Events, Interruption, ShutdownPhase, Signal, Task, task};
use twistor_tests::{World, contract, kernel_contract, logged};

type Words = Rc<RefCell<Vec<String>>>;

#[allow(clippy::needless_pass_by_value, reason = "for literals")]
fn say(words: &Words, word: impl ToString) {
    words.borrow_mut().push(word.to_string());
}

fn note<T: 'static, E: 'static>(deferred: Deferred<T, E>) -> Rc<RefCell<Option<Result<T, E>>>> {
    let place = Rc::new(RefCell::new(None));
    let noted = Rc::clone(&place);
    deferred.on_done(move |_, outcome| *noted.borrow_mut() = Some(outcome));
    place
}

contract! {
    // Line 75.
    fn a_task_becomes_a_deferred_and_any_future_does(driver) {
        let world = World::new(driver);
        let answer = note(world.reactor.spawn(async { 42 }).into_deferred().map(|answer| answer + 1));
        let failed = note(Deferred::<(), String>::from_future(&world.reactor, async {
            task::sleep(Duration::from_millis(1)).await;
            Err("failed".to_owned())
        }));
        let panicked = note(Deferred::<(), String>::from_future(&world.reactor, async { panic!("lost") }));
        world.until("all outcomes", || failed.borrow().is_some() && panicked.borrow().is_some());
        assert_eq!(answer.take(), Some(Ok(43)));
        assert_eq!(failed.take(), Some(Err("failed".to_owned())));
        assert_eq!(panicked.take(), Some(Err("panicked: lost".to_owned())));
    }

    // Lines 73 and 75.
    fn cancelling_the_deferred_of_a_future_drops_the_future(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let alive = Rc::clone(&words);
        let deferred = Deferred::<(), Interruption>::from_future(&world.reactor, async move {
            let _alive = alive;
            pending().await
        });
        world.turns(1);
        assert!(deferred.cancel());
        let outcome = note(deferred);
        world.turns(3);
        assert_eq!(outcome.take(), Some(Err(Interruption::Cancelled)));
        assert_eq!(Rc::strong_count(&words), 1);
    }

    // Line 75.
    fn a_task_awaits_a_deferred_and_cancels_it_when_it_is_cancelled(driver) {
        let world = World::new(driver);
        let (resolver, deferred) = Deferred::<u8, Interruption>::new(&world.reactor);
        let task = world.reactor.spawn(async { deferred.await.unwrap() + 1 });
        world.turns(1);
        resolver.resolve(Ok(41));
        let outcome = note(task.into_deferred());
        world.turns(3);
        assert_eq!(outcome.take(), Some(Ok(42)));
        let cancelled = Rc::new(Cell::new(false));
        let noted = Rc::clone(&cancelled);
        let (_resolver, deferred) = Deferred::<u8, Interruption>::with_canceller(&world.reactor, move |_, _| noted.set(true));
        let task = world.reactor.spawn(deferred);
        world.turns(1);
        task.cancel();
        world.turns(3);
        assert!(cancelled.get());
    }

    // Line 17.
    fn a_looping_call_waits_for_the_task_that_it_returns(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let said = Rc::clone(&words);
        let looping = world.reactor.every(Duration::from_millis(10), move |reactor, skipped| {
            let said = Rc::clone(&said);
            reactor.spawn(async move {
                say(&said, skipped);
                task::sleep(Duration::from_millis(25)).await;
                if said.borrow().len() == 3 { Err("enough") } else { Ok(()) }
            })
        });
        let ended = note(looping.finished());
        world.until("the end of the loop", || ended.borrow().is_some());
        assert_eq!(ended.take().unwrap().unwrap_err().to_string(), "enough");
        assert_eq!(words.borrow()[0], "0");
        assert!(words.borrow()[1].parse::<u64>().unwrap() >= 2);
    }

    // Line 17.
    fn every_async_stays_on_its_grid_and_says_what_it_skipped(driver) {
        let world = World::new(driver);
        let began = world.now();
        let calls = Rc::new(RefCell::new(Vec::new()));
        let noted = Rc::clone(&calls);
        let ticking = world.reactor.every_async(Duration::from_millis(20), async move |reactor, skipped| {
            noted.borrow_mut().push((reactor.now(), skipped));
            if noted.borrow().len() == 1 {
                reactor.sleep(Duration::from_millis(30)).await;
            }
        });
        world.until("three calls", || calls.borrow().len() == 3);
        assert!(ticking.cancel());
        let (first, second, third) = (calls.borrow()[0], calls.borrow()[1], calls.borrow()[2]);
        assert!(first.1 == 0 && second.1 >= 1, "{} {}", first.1, second.1);
        let slots = 2 + second.1;
        assert!(second.0 - began >= Duration::from_millis(20) * u32::try_from(slots).unwrap());
        assert!(third.0 > second.0);
        world.turns(2);
        assert_eq!(world.reactor.stats().timers, 0);
    }

    // Line 14.
    fn call_later_async_counts_from_its_call_and_is_taken_back(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let (one, two) = (Rc::clone(&words), Rc::clone(&words));
        let before = world.now();
        let value = world.reactor.call_later_async(Duration::from_millis(5), async move |reactor| {
            say(&one, "called");
            reactor.sleep(Duration::ZERO).await;
            "value"
        });
        let never = world.reactor.call_later_async(Duration::from_millis(1), async move |_| say(&two, "never"));
        let soon = world.reactor.call_soon_async(async |reactor| reactor.stats().passes);
        never.cancel();
        let (value, soon) = (note(value.into_deferred()), note(soon.into_deferred()));
        world.until("the value", || value.borrow().is_some());
        assert!(world.since(before) >= Duration::from_millis(5));
        assert_eq!(value.take(), Some(Ok("value")));
        assert!(soon.take().unwrap().unwrap() >= 1);
        assert_eq!(*words.borrow(), ["called"]);
    }

    // Line 75.
    fn events_are_handled_one_after_the_other_in_their_order(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let events = Events::new(&world.reactor);
        let said = Rc::clone(&words);
        let handling = events.on_async(async move |reactor, event: u8| {
            say(&said, format!("begin {event}"));
            assert!(event != 1, "this one is bad");
            reactor.sleep(Duration::from_millis(2)).await;
            say(&said, format!("end {event}"));
        });
        for event in 0..3 {
            events.emit(event);
        }
        world.until("all events", || words.borrow().len() == 5);
        assert_eq!(*words.borrow(), ["begin 0", "end 0", "begin 1", "begin 2", "end 2"]);
        assert_eq!(world.reactor.stats().panics, 1);
        assert_eq!(events.subscribers(), 1);
        handling.cancel();
        world.turns(1);
        assert_eq!(events.subscribers(), 0);
        // One that nobody will feed any more ends by itself.
        let handling = events.on_async(async |_, _| {});
        events.emit(3);
        drop(events);
        let ended = note(handling.into_deferred());
        world.until("the end", || ended.borrow().is_some());
        assert_eq!(ended.take(), Some(Ok(())));
    }

    // Line 75.
    fn events_beyond_the_backlog_of_a_handler_are_dropped_and_counted(driver) {
        logged::keep();
        let world = World::new(driver);
        let events = Events::new(&world.reactor);
        let numbers = || Rc::new(RefCell::new(Vec::new()));
        let (handled, heard) = (numbers(), numbers());
        let (place, other) = (Rc::clone(&handled), Rc::clone(&heard));
        let may_go_on = Event::new(&world.reactor);
        let gate = may_go_on.clone();
        let line = line!() + 1;
        events.on_async(async move |_, event: u32| {
            gate.wait().await.unwrap();
            place.borrow_mut().push(event);
            assert!(event != 2, "a handler may panic meanwhile");
        });
        events.on(move |_, event| other.borrow_mut().push(*event));
        let emit = |range: std::ops::Range<u32>| {
            range.for_each(|event| events.emit(event));
            world.turns(3);
        };
        emit(0..1);
        events.clone().set_backlog_limit(3);
        // One is being handled, and three wait.
        emit(1..10);
        assert_eq!(world.reactor.stats().dropped_events, 6);
        emit(10..12);
        assert_eq!(world.reactor.stats().dropped_events, 8);
        // A smaller limit takes back none; nought is one.
        events.set_backlog_limit(0);
        emit(12..13);
        assert_eq!(world.reactor.stats().dropped_events, 9);
        may_go_on.set();
        world.until("it has caught up", || handled.borrow().len() == 4);
        emit(13..14);
        emit(14..15);
        assert_eq!(*handled.borrow(), [0, 1, 2, 3, 13, 14]);
        assert_eq!(*heard.borrow(), (0..15).collect::<Vec<_>>(), "others hear everything");
        // Once for each time that it was behind, and the panic.
        emit(15..20);
        let lines = logged::take();
        let behind: Vec<_> = lines.iter().filter(|line| line.contains("behind")).collect();
        assert_eq!(behind.len(), 2, "{lines:?}");
        assert!(behind[0].contains(&format!("contract_tasks_handlers.rs:{line}:")), "{behind:?}");
        assert!(behind[0].contains("3 events behind") && behind[1].contains("1 events behind"), "{behind:?}");
        assert_eq!(world.reactor.stats().dropped_events, 13);
    }

    // Lines 7 and 75.
    fn a_shutdown_waits_for_the_task_of_a_trigger(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let said = Rc::clone(&words);
        world.reactor.on_shutdown(ShutdownPhase::Before, move |reactor| -> Task<()> {
            reactor.spawn(async move {
                task::sleep(Duration::from_millis(3)).await;
                say(&said, "saved");
            })
        });
        world.reactor.stop();
        while world.turn(Duration::from_millis(1)) {}
        assert_eq!(*words.borrow(), ["saved"]);
    }
}

kernel_contract! {
    // Lines 1, 10 and 75.
    fn a_task_that_is_always_awake_delays_events_by_a_few_polls_and_the_rest_by_one_pass(driver) {
        let world = World::new(driver);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        // What was asked for, until it is heard.
        let [event, timer, call, remote] = [(); 4].map(|()| Rc::new(Cell::new(false)));
        let (reading, heard) = (ours.try_clone().unwrap(), Rc::clone(&event));
        world.reactor.add_reader(&ours, move |_| {
            let _ = (&reading).read(&mut [0; 8]);
            heard.set(false);
        }).unwrap();
        let heard = Rc::clone(&remote);
        let sender = world.reactor.channel(10, move |_, ()| heard.set(false)).unwrap();
        world.reactor.run_until_complete(async move {
            let handle = twistor::Handle::current().unwrap();
            for _ in 0..20 {
                for asked in [&event, &timer, &call, &remote] {
                    asked.set(true);
                }
                theirs.write_all(b"x").unwrap();
                let (at_timer, at_call) = (Rc::clone(&timer), Rc::clone(&call));
                handle.call_later(Duration::ZERO, move |_| at_timer.set(false));
                sender.send(()).unwrap();
                for polls in 0..200 {
                    task::yield_now().await;
                    if polls == 50 {
                        // Not before: a callback ends the passes without a look.
                        let at_call = Rc::clone(&at_call);
                        handle.call_soon(move |_| at_call.set(false));
                    }
                    assert!(polls < 2 || !(timer.get() || remote.get()), "late");
                    assert!(polls < 52 || !(event.get() || call.get()), "a callback comes late, or the look after it");
                }
                event.set(true);
                theirs.write_all(b"x").unwrap();
                for polls in 0..200 {
                    task::yield_now().await;
                    assert!(polls < 63 || !event.get(), "no look for events");
                }
            }
        }).unwrap();
        // And so is the end.
        let polls = Rc::new(Cell::new(0));
        let counted = Rc::clone(&polls);
        let ended = world.reactor.run_until_complete(async move {
            let handle = twistor::Handle::current().unwrap();
            handle.remote().stop();
            loop {
                task::yield_now().await;
                counted.set(counted.get() + 1);
            }
        });
        assert!(ended.is_err() && polls.get() < 64, "{} polls", polls.get());
    }

    // Line 75.
    fn readiness_is_handled_by_one_call_at_a_time(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let said = Rc::clone(&words);
        let mut reading = ours.try_clone().unwrap();
        let busy = Rc::new(Cell::new(false));
        let handling = world.reactor.add_reader_async(&ours, async move |reactor| {
            assert!(!busy.replace(true), "one call at a time");
            // The level is high meanwhile: nobody is called for it.
            let polls = reactor.stats().polls;
            reactor.sleep(Duration::from_millis(5)).await;
            assert_eq!(reactor.stats().polls, polls + 1);
            let mut byte = [0];
            reading.read_exact(&mut byte).unwrap();
            say(&said, char::from(byte[0]));
            busy.set(false);
        }).unwrap();
        let mut writable = world.reactor.add_writer_async(&ours, async |_| pending().await).unwrap();
        theirs.write_all(b"abc").unwrap();
        world.until("all bytes", || words.borrow().len() == 3);
        assert_eq!(*words.borrow(), ["a", "b", "c"]);
        assert!(!handling.is_finished());
        handling.cancel();
        writable.cancel();
        world.turns(2);
        assert!(writable.is_finished());
        writable = world.reactor.add_reader_async(&ours, async |_| panic!("a handler")).unwrap();
        theirs.write_all(b"d").unwrap();
        world.until("the panic", || writable.is_finished());
        assert_eq!(world.reactor.stats().panics, 1);
        world.assert_sleeps("nothing is watched any more");
    }

    // Lines 8 and 75.
    fn a_signal_is_handled_by_an_async_closure(driver) {
        let world = World::new(driver);
        let seen = Rc::new(Cell::new(0));
        let noted = Rc::clone(&seen);
        let handling = world.reactor.on_signal_async(Signal::USR2, async move |reactor| {
            reactor.sleep(Duration::from_millis(1)).await;
            noted.set(noted.get() + 1);
        }).unwrap();
        let sent = Command::new("kill").args(["-USR2", &std::process::id().to_string()]).status();
        assert!(sent.unwrap().success());
        world.until("the signal", || seen.get() >= 1);
        handling.cancel();
        world.turns(1);
    }
}
