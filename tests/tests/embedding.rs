//! The reactor as a guest in another loop: `turn`, `next_deadline`, the descriptor, the wake hook.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use twistor::{Deferred, Handle, Interruption};
use twistor_tests::{Driver, Log, PATIENCE, Script, World, becomes_readable, kernel_contract};

/// A reactor and how often its wake hook was called.
fn with_wakes(driver: Driver) -> (World, Arc<AtomicUsize>) {
    let wakes = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&wakes);
    let world = World::with(driver, |builder| {
        builder.wake_hook(move || {
            count.fetch_add(1, Ordering::SeqCst);
        })
    });
    (world, wakes)
}

/// Drives a guest as its documentation says, until `done`.
fn host(world: &World, done: impl Fn() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < patience, "the guest does not get on");
        let deadline = world.reactor.next_deadline().unwrap_or(patience).min(patience);
        let _ = becomes_readable(&world.reactor, deadline.saturating_duration_since(Instant::now()));
        world.reactor.turn(Some(Duration::ZERO)).expect("a turn");
    }
}

kernel_contract! {
    fn a_host_that_watches_descriptor_and_deadline_misses_nothing(driver) {
        let world = World::new(driver);
        let done = Rc::new(RefCell::new(Vec::new()));
        let port = world.listen(|_| {
            Script::new(&Log::new()).on_data(twistor::Transport::write)
        });
        let heard = Rc::clone(&done);
        let client = Script::new(&Log::new())
            .on_made(|transport| transport.write(b"hello"))
            .on_data(move |_, data| heard.borrow_mut().push(String::from_utf8_lossy(data).into_owned()));
        world.reactor.connect_protocol(format!("tcp:{}", port.local_addr()), client).on_done(|_, _| {});
        host(&world, || !done.borrow().is_empty());
        let heard = Rc::clone(&done);
        world.reactor.call_later(Duration::from_millis(20), move |handle| {
            handle.call_soon(move |_| heard.borrow_mut().push("timer".into()));
        });
        host(&world, || done.borrow().len() == 2);
        let (remote, count) = (world.reactor.remote(), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::clone(&count);
        let caller = thread::spawn(move || {
            thread::park_timeout(Duration::from_millis(20));
            remote.call(move |_| { seen.fetch_add(1, Ordering::SeqCst); }).expect("a call");
        });
        let began = Instant::now();
        host(&world, || count.load(Ordering::SeqCst) == 1);
        assert!(began.elapsed() < PATIENCE / 2, "the host slept through the call");
        caller.join().expect("the caller ends");
        assert_eq!(*done.borrow(), ["hello", "timer"]);
    }

    fn a_call_of_another_thread_during_a_turn_is_not_slept_through(driver) {
        let world = World::new(driver);
        let stopped = Rc::new(Cell::new(false));
        let seen = Rc::clone(&stopped);
        world.reactor.on_shutdown(twistor::ShutdownPhase::After, move |_| seen.set(true));
        // The last phase of a pass: nothing looks at the inbox after it.
        let (transport, _peer) = world.pair(Script::new(&Log::new()).on_lost(|transport, _| {
            let remote = transport.reactor().remote();
            thread::spawn(move || remote.stop()).join().expect("the thread ends");
        }));
        transport.abort_connection();
        let began = Instant::now();
        host(&world, || stopped.get());
        assert!(began.elapsed() < PATIENCE / 2, "the host slept through the stop");
    }

    fn next_deadline_is_now_while_something_is_queued_then_the_earliest_timer_then_none(driver) {
        let world = World::new(driver);
        world.turns(2);
        assert_eq!(world.reactor.next_deadline(), None);
        let far = world.reactor.call_later(Duration::from_secs(60), |_| {});
        let near = world.reactor.call_later(Duration::from_secs(30), |_| {});
        assert_eq!(world.reactor.next_deadline(), near.deadline());
        assert!(near.cancel());
        assert_eq!(world.reactor.next_deadline(), far.deadline());
        world.reactor.call_soon(|_| {});
        assert!(world.reactor.next_deadline().expect("at once") <= Instant::now());
        world.turns(1);
        assert_eq!(world.reactor.next_deadline(), far.deadline());
        assert!(far.cancel());
        assert_eq!(world.reactor.next_deadline(), None);
        let (transport, _peer) = world.pair(Script::new(&Log::new()));
        world.turns(2);
        transport.write(b"x");
        assert!(world.reactor.next_deadline().expect("at once") <= Instant::now());
        world.turns(1);
        world.reactor.stop();
        assert!(world.reactor.next_deadline().expect("at once") <= Instant::now());
    }

    fn a_turn_waits_as_long_as_it_is_told_and_no_longer(driver) {
        let world = World::new(driver);
        let began = Instant::now();
        world.turns(100);
        assert!(began.elapsed() < Duration::from_secs(5));
        let (began, passes) = (Instant::now(), world.reactor.stats().passes);
        assert!(world.reactor.turn(Some(Duration::from_millis(30))).expect("a turn"));
        assert!(began.elapsed() >= Duration::from_millis(30), "{:?}", began.elapsed());
        assert_eq!(world.reactor.stats().passes, passes + 1);
        // A timer ends the wait.
        world.reactor.call_later(Duration::from_millis(5), |_| {});
        let began = Instant::now();
        world.reactor.turn(None).expect("a turn");
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    fn before_wait_hooks_run_ahead_of_every_wait_in_order(driver) {
        let world = World::new(driver);
        let order = Rc::new(RefCell::new(Vec::new()));
        for n in 0..2 {
            let order = Rc::clone(&order);
            world.reactor.before_wait(move |_| order.borrow_mut().push(n));
        }
        world.turns(3);
        assert_eq!(*order.borrow(), [0, 1, 0, 1, 0, 1]);
    }

    fn what_a_before_wait_hook_queues_keeps_the_pass_from_waiting(driver) {
        let world = World::new(driver);
        let ran = Rc::new(Cell::new(false));
        let seen = Rc::clone(&ran);
        world.reactor.before_wait(move |handle| {
            let seen = Rc::clone(&seen);
            handle.call_soon(move |_| seen.set(true));
        });
        let began = Instant::now();
        world.reactor.turn(Some(Duration::from_secs(60))).expect("a turn");
        assert!(began.elapsed() < Duration::from_secs(30));
        assert!(ran.get());
    }

    fn current_is_the_reactor_whose_hook_runs(driver) {
        let (outer, inner) = (World::new(driver), Rc::new(World::new(driver).reactor));
        assert!(Handle::current().is_none());
        let ran = Rc::new(Cell::new(0));
        let (guest, count) = (Rc::clone(&inner), Rc::clone(&ran));
        outer.reactor.call_soon(move |_| {
            let seen = Rc::clone(&count);
            guest.call_soon(move |_| {
                seen.set(seen.get() + 1);
                Handle::current().expect("the inner one").stop();
            });
            // Another reactor can be turned inside a hook.
            guest.turn(Some(Duration::ZERO)).expect("a turn of the other reactor");
            let current = Handle::current().expect("the outer one again");
            let seen = Rc::clone(&count);
            current.call_soon(move |_| seen.set(seen.get() + 1));
        });
        outer.turns(2);
        assert_eq!(ran.get(), 2);
        assert!(Handle::current().is_none());
        assert!(!outer.reactor.is_stopping(), "the inner one was stopped");
    }

    fn the_wake_hook_tells_of_everything_scheduled_outside_a_turn(driver) {
        let (world, wakes) = with_wakes(driver);
        let (transport, _peer) = world.pair(Script::new(&Log::new()));
        let timer = world.reactor.call_later(Duration::from_secs(60), |_| {});
        world.turns(3);
        let told = |what: &str, f: &dyn Fn()| {
            let before = wakes.load(Ordering::SeqCst);
            f();
            assert!(wakes.load(Ordering::SeqCst) > before, "not told of {what}");
            world.turns(2);
        };
        told("a callback", &|| drop(world.reactor.call_soon(|_| {})));
        told("a timer", &|| drop(world.reactor.call_later(Duration::from_secs(50), |_| {})));
        told("a timer that is moved", &|| assert!(timer.reset(Duration::from_secs(1))));
        told("a looping call", &|| drop(world.reactor.every(Duration::from_secs(50), |_, _| {})));
        let (resolver, deferred) = Deferred::<(), Interruption>::new(&world.reactor);
        let waits = RefCell::new(None);
        let deferred = Cell::new(Some(deferred));
        told("a task", &|| *waits.borrow_mut() = Some(world.reactor.spawn(deferred.take().expect("it is there"))));
        let resolver = Cell::new(Some(resolver));
        told("a task that a Deferred wakes", &|| assert!(resolver.take().expect("it is there").callback(())));
        assert!(waits.borrow().as_ref().expect("it is there").is_finished());
        let waker = Rc::new(Cell::new(None));
        let given = Rc::clone(&waker);
        let waits = world.reactor.spawn(poll_fn(move |cx| {
            given.set(Some(cx.waker().clone()));
            Poll::<()>::Pending
        }));
        world.turns(2);
        told("a task that its waker wakes", &|| waker.take().expect("it is there").wake());
        told("a task that another thread wakes", &|| {
            let waker = waker.take().expect("it is there");
            thread::spawn(move || waker.wake()).join().expect("it ends");
        });
        told("a task that is cancelled", &|| assert!(waits.cancel()));
        assert!(waits.is_finished());
        told("a cancelled Deferred", &|| {
            let (_resolver, deferred) = Deferred::<(), Interruption>::new(&world.reactor);
            let canceller = deferred.canceller();
            deferred.on_done(|_, _| ());
            canceller.cancel();
        });
        told("a write", &|| transport.write(b"x"));
        told("a pause", &|| transport.pause_reading());
        told("a call of another thread", &|| world.reactor.remote().call(|_| {}).expect("a call"));
        told("a port", &|| drop(world.listen(|_| Script::new(&Log::new()))));
        told("a close", &|| transport.lose_connection());
        told("a stop", &|| world.reactor.stop());
    }

    fn the_wake_hook_is_not_called_for_what_is_scheduled_in_a_turn(driver) {
        let (world, wakes) = with_wakes(driver);
        world.reactor.call_soon(|handle| {
            handle.call_soon(|_| {});
            handle.call_later(Duration::from_secs(60), |_| {});
        });
        let before = wakes.load(Ordering::SeqCst);
        world.turns(3);
        assert_eq!(wakes.load(Ordering::SeqCst), before);
    }
}
