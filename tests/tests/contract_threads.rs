//! The contract, line 66: calls and messages from other threads.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use twistor::{Handle, SendError};
use twistor_tests::{Log, PATIENCE, Script, World, becomes_readable, contract, kernel_contract};

contract! {
    // Line 66.
    fn calls_and_messages_of_one_thread_arrive_in_order(driver) {
        let world = World::new(driver);
        let remote = world.reactor.remote();
        let order = Rc::new(RefCell::new(Vec::new()));
        let heard = Rc::clone(&order);
        let sender = world.reactor.channel(1000, move |_, n: u32| heard.borrow_mut().push(n)).expect("a channel");
        thread_local!(static CALLED: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) });
        CALLED.with_borrow_mut(Vec::clear);
        thread::spawn(move || {
            for n in 0..500 {
                if n % 2 == 0 {
                    sender.send(n).expect("room");
                } else {
                    remote.call(move |_| CALLED.with_borrow_mut(|called| called.push(n))).expect("room");
                }
            }
        })
        .join()
        .expect("the thread ends");
        world.until("all of them", || order.borrow().len() == 250);
        assert!(order.borrow().is_sorted());
        assert!(CALLED.with_borrow(|called| called.len() == 250 && called.is_sorted()));
    }

    // Line 66.
    fn at_the_inbox_limit_the_value_comes_back(driver) {
        let world = World::with(driver, |builder| builder.inbox_limit(4));
        let remote = world.reactor.remote();
        let count = Arc::new(AtomicUsize::new(0));
        let call = || {
            let count = Arc::clone(&count);
            move |_: &Handle| { count.fetch_add(1, Ordering::SeqCst); }
        };
        for _ in 0..4 {
            remote.call(call()).expect("room");
        }
        let refused = remote.call(call()).expect_err("the inbox is full");
        assert!(refused.is_full());
        let sender = world.reactor.channel(8, |_, _: String| {}).expect("a channel");
        assert_eq!(sender.send("value".into()), Err(SendError::Full("value".into())));
        world.turns(1);
        assert_eq!(count.load(Ordering::SeqCst), 4);
        // What came back can be sent again.
        remote.call(refused.into_inner()).expect("room again");
        sender.send("value".into()).expect("room again");
        world.turns(1);
        assert_eq!(count.load(Ordering::SeqCst), 5);
    }

    // Line 66.
    fn a_channel_takes_as_many_values_as_its_capacity(driver) {
        let world = World::new(driver);
        let heard = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&heard);
        let sender = world.reactor.channel(2, move |_, n: u32| seen.borrow_mut().push(n)).expect("a channel");
        let other = sender.clone();
        assert_eq!((sender.send(1), other.send(2)), (Ok(()), Ok(())));
        assert_eq!((sender.send(3), other.send(4)), (Err(SendError::Full(3)), Err(SendError::Full(4))));
        // Another channel has its own.
        let separate = world.reactor.channel(1, |_, ()| {}).expect("a channel");
        separate.send(()).expect("room");
        world.turns(1);
        sender.send(5).expect("room again");
        world.turns(1);
        assert_eq!(*heard.borrow(), [1, 2, 5]);
    }

    // Line 66.
    fn a_reactor_that_is_gone_gives_the_value_back(driver) {
        let world = World::new(driver);
        let remote = world.reactor.remote();
        let sender = world.reactor.channel(2, |_, _: u32| {}).expect("a channel");
        assert!(remote.is_alive());
        drop(world);
        assert!(!remote.is_alive());
        let value = Arc::new(7);
        let held = Arc::clone(&value);
        let back = remote.call(move |_| drop(held)).expect_err("nobody is there");
        assert!(!back.is_full());
        assert_eq!(Arc::strong_count(&value), 2, "the closure came back");
        drop(back);
        assert_eq!(sender.send(3), Err(SendError::Gone(3)));
        assert_eq!(thread::spawn(move || sender.send(4)).join().expect("ends"), Err(SendError::Gone(4)));
    }

    // Line 66.
    fn what_is_called_by_a_call_runs_in_a_later_pass_and_does_not_starve_input(driver) {
        let world = World::new(driver);
        fn again(handle: &Handle) {
            handle.remote().call(again).expect("room");
        }
        world.reactor.remote().call(again).expect("room");
        let (_, peer) = world.pair(Script::new(&Log::new()).on_data(twistor::Transport::write));
        peer.send(b"x");
        assert_eq!(peer.receive(1), b"x");
    }
}

// Threads that wake a sleeping reactor: a simulated one never sleeps, and ends when nothing is ahead.
kernel_contract! {
    // Line 66.
    fn a_call_from_another_thread_wakes_a_sleeping_loop(driver) {
        let world = World::new(driver);
        let remote = world.reactor.remote();
        let main = thread::current().id();
        let (told, heard) = mpsc::channel();
        let caller = thread::spawn(move || {
            // Long enough for the loop to fall asleep.
            let _ = heard.recv_timeout(Duration::from_millis(50));
            remote.call(move |handle| {
                assert_eq!(thread::current().id(), main, "on the loop's thread");
                handle.stop();
            })
        });
        let began = Instant::now();
        world.reactor.run().expect("a run");
        assert!(began.elapsed() < PATIENCE);
        drop::<mpsc::Sender<()>>(told);
        caller.join().expect("the caller ends").expect("a call");
        assert_eq!(world.reactor.stats().panics, 0);
    }

    // Line 66.
    fn stop_from_another_thread_wakes_a_sleeping_loop(driver) {
        let world = World::new(driver);
        let remote = world.reactor.remote();
        let (told, heard) = mpsc::channel::<()>();
        let caller = thread::spawn(move || {
            let _ = heard.recv_timeout(Duration::from_millis(50));
            remote.stop();
        });
        world.reactor.run().expect("a run");
        drop(told);
        caller.join().expect("the caller ends");
    }

    // Line 66.
    fn a_call_before_a_stop_runs_before_the_loop_stops(driver) {
        let world = World::new(driver);
        for _ in 0..300 {
            let remote = world.reactor.remote();
            let count = Arc::new(AtomicUsize::new(0));
            let seen = Arc::clone(&count);
            let caller = thread::spawn(move || {
                remote.call(move |_| { seen.fetch_add(1, Ordering::SeqCst); }).expect("a call");
                remote.stop();
            });
            world.reactor.run().expect("a run");
            assert_eq!(count.load(Ordering::SeqCst), 1, "the stop overtook the call");
            caller.join().expect("the caller ends");
        }
    }

    // Line 66.
    fn four_threads_lose_nothing_and_keep_their_order(driver) {
        const EACH: usize = 50_000;
        const THREADS: usize = 4;
        let world = World::new(driver);
        let next = Rc::new(RefCell::new([0; THREADS]));
        let (counted, done) = (Rc::clone(&next), Rc::new(Cell::new(0)));
        let total = Rc::clone(&done);
        let sender = world.reactor.channel(1024, move |handle, (from, n): (usize, usize)| {
            let mut counted = counted.borrow_mut();
            assert_eq!(counted[from], n, "thread {from}");
            counted[from] += 1;
            total.set(total.get() + 1);
            if total.get() == THREADS * EACH {
                handle.stop();
            }
        });
        let sender = sender.expect("a channel");
        let late = Rc::new(Cell::new(false));
        let set = Rc::clone(&late);
        world.reactor.call_later(3 * PATIENCE, move |handle| {
            set.set(true);
            handle.stop();
        });
        let threads: Vec<_> = (0..THREADS)
            .map(|from| {
                let sender = sender.clone();
                thread::spawn(move || {
                    for n in 0..EACH {
                        let mut message = (from, n);
                        while let Err(error) = sender.send(message) {
                            assert!(error.is_full());
                            message = error.into_inner();
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        world.reactor.run().expect("a run");
        for thread in threads {
            thread.join().expect("a sender ends");
        }
        assert!(!late.get(), "only {:?} came", next.borrow());
        assert_eq!(*next.borrow(), [EACH; THREADS]);
    }

    // Line 66. A million of them.
    fn calls_and_values_of_eight_threads_are_all_heard_in_order_and_wake_once_per_sleep(driver) {
        const EACH: u32 = 125_000;
        const THREADS: usize = 8;
        thread_local! {
            /// The next number of each thread.
            static NEXT: Cell<[u32; THREADS]> = const { Cell::new([0; THREADS]) };
        }
        fn heard(handle: &Handle, from: usize, n: u32) {
            let mut next = NEXT.get();
            assert_eq!(next[from], n, "thread {from}");
            next[from] += 1;
            NEXT.set(next);
            if next == [EACH; THREADS] {
                handle.stop();
            }
        }
        NEXT.set([0; THREADS]);
        let wakes = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&wakes);
        let world = World::with(driver, |builder| {
            // Both limits are met, and got over by trying again.
            builder.inbox_limit(2000).wake_hook(move || { count.fetch_add(1, Ordering::SeqCst); })
        });
        let sender = world.reactor.channel(500, |handle, (from, n)| heard(handle, from, n)).expect("a channel");
        world.reactor.call_later(3 * PATIENCE, |handle| {
            eprintln!("only {:?} came", NEXT.get());
            handle.stop();
        });
        let (wakes_before, passes_before) = (wakes.load(Ordering::SeqCst), world.reactor.stats().passes);
        let threads: Vec<_> = (0..THREADS)
            .map(|from| {
                let (sender, remote) = (sender.clone(), world.reactor.remote());
                thread::spawn(move || {
                    let mut refusals = 0_u32;
                    for n in 0..EACH {
                        while if n % 2 == 0 {
                            match remote.call(move |handle| heard(handle, from, n)) {
                                Ok(()) => false,
                                Err(error) => error.is_full() || panic!("thread {from}: {error}"),
                            }
                        } else {
                            match sender.send((from, n)) {
                                Ok(()) => false,
                                Err(error) => error.is_full() || panic!("thread {from}: {error}"),
                            }
                        } {
                            refusals += 1;
                            thread::yield_now();
                        }
                    }
                    refusals
                })
            })
            .collect();
        let began = Instant::now();
        world.reactor.run().expect("a run");
        let took = began.elapsed();
        let refusals: u32 = threads.into_iter().map(|thread| thread.join().expect("a sender ends")).sum();
        assert_eq!(NEXT.get(), [EACH; THREADS]);
        assert_eq!(world.reactor.stats().panics, 0);
        let wakes = wakes.load(Ordering::SeqCst) - wakes_before;
        let passes = world.reactor.stats().passes - passes_before;
        println!("{wakes} wake-ups in {passes} passes, {refusals} refusals, {took:?}");
        // A pass sleeps once at most. The end of a run may tell the host once more.
        assert!(wakes as u64 <= passes + 1, "{wakes} wake-ups in {passes} passes");
    }

    // Line 66.
    fn eight_threads_wake_a_sleeping_loop_once(driver) {
        let wakes = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&wakes);
        let world = World::with(driver, |builder| {
            builder.wake_hook(move || { count.fetch_add(1, Ordering::SeqCst); })
        });
        world.turns(2);
        let sender = world.reactor.channel(10_000, |_, ()| {}).expect("a channel");
        for _ in 0..20 {
            world.turns(2);
            let (before, calls) = (wakes.load(Ordering::SeqCst), world.reactor.stats().calls);
            thread::scope(|scope| {
                for _ in 0..8 {
                    let (sender, remote) = (sender.clone(), world.reactor.remote());
                    scope.spawn(move || {
                        for _ in 0..100 {
                            remote.call(|_| {}).expect("room");
                            sender.send(()).expect("room");
                        }
                    });
                }
            });
            assert_eq!(wakes.load(Ordering::SeqCst), before + 1);
            world.turns(1);
            assert_eq!(world.reactor.stats().calls, calls + 1600, "one pass hears them all");
        }
    }

    // Line 66.
    fn a_batch_wakes_the_loop_once(driver) {
        let wakes = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&wakes);
        let world = World::with(driver, |builder| {
            builder.wake_hook(move || { count.fetch_add(1, Ordering::SeqCst); })
        });
        world.turns(2);
        let before = wakes.load(Ordering::SeqCst);
        let remote = world.reactor.remote();
        for batch in 1..=3 {
            for _ in 0..100 {
                remote.call(|_| {}).expect("room");
            }
            assert_eq!(wakes.load(Ordering::SeqCst), before + batch);
            assert!(becomes_readable(&world.reactor, PATIENCE), "a host that watches the descriptor is told");
            world.turns(2);
            assert!(!becomes_readable(&world.reactor, Duration::ZERO), "all is done");
        }
        assert_eq!(world.reactor.stats().calls, 300);
    }
}
