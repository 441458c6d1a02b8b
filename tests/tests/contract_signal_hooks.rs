//! The contract, section 12: hooks for signals.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use twistor::{Reactor, Signal};
use twistor_tests::{World, in_child, kernel_contract};

/// Sends a signal to this process, from this thread: its handler has run when this returns.
fn raise(signal: Signal) {
    // SAFETY: takes no pointer. The tests run in a process of their own, and have a hook for what they raise.
    #[allow(unsafe_code)]
    let status = unsafe { libc::raise(signal.as_raw()) };
    assert_eq!(status, 0);
}

/// Who handles a signal now.
fn handler(signal: Signal) -> usize {
    // SAFETY: asks only; zeroed is a valid value of that struct, and there is room for the answer.
    #[allow(unsafe_code)]
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        assert_eq!(libc::sigaction(signal.as_raw(), std::ptr::null(), &raw mut action), 0);
        action.sa_sigaction
    }
}

kernel_contract! {
    // Line 68.
    fn each_hook_of_a_signal_runs_in_the_loop(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let log = Rc::new(RefCell::new(Vec::new()));
            for (name, signal) in [("a", Signal::USR1), ("b", Signal::USR2), ("c", Signal::USR1)] {
                let log = Rc::clone(&log);
                world.reactor.on_signal(signal, move |_| log.borrow_mut().push(name)).expect("a hook");
            }
            raise(Signal::USR1);
            assert!(log.borrow().is_empty(), "not in the signal handler");
            world.until("the hooks ran", || log.borrow().len() == 2);
            assert_eq!(log.take(), ["a", "c"]);
            raise(Signal::USR2);
            world.until("the hook ran", || log.borrow().len() == 1);
            assert_eq!(log.take(), ["b"]);
            world.assert_sleeps("no signal comes");
        });
    }

    // Line 68.
    fn a_hook_runs_after_the_last_of_many_deliveries(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let (sent, seen) = (Rc::new(Cell::new(0)), Rc::new(Cell::new((0, 0))));
            let (count, place) = (Rc::clone(&sent), Rc::clone(&seen));
            let hook = move |_: &twistor::Handle| place.set((place.get().0 + 1, count.get()));
            world.reactor.on_signal(Signal::USR1, hook).expect("a hook");
            for n in 1..=100_000 {
                raise(Signal::USR1);
                sent.set(n);
                if n % 1000 == 0 {
                    world.turns(1);
                }
            }
            world.until("the last was seen", || seen.get().1 == 100_000);
            assert!((1..=101).contains(&seen.get().0), "{} calls: they are coalesced", seen.get().0);
        });
    }

    // Line 68.
    fn a_signal_wakes_a_sleeping_loop(driver) {
        in_child(module_path!(), driver, || {
            let world = World::with(driver, |builder| builder.handle_signals(false));
            world.reactor.on_signal(Signal::HUP, twistor::Handle::stop).expect("a hook");
            let raiser = std::thread::spawn(|| {
                std::thread::sleep(Duration::from_millis(30));
                raise(Signal::HUP);
            });
            world.reactor.run().expect("a run");
            raiser.join().expect("no panic");
            assert!(world.reactor.stats().passes < 20);
        });
    }

    // Line 68.
    fn a_signal_that_came_before_the_loop_ran_is_not_lost(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            world.reactor.on_signal(Signal::USR1, twistor::Handle::stop).expect("a hook");
            raise(Signal::USR1);
            world.reactor.run().expect("a run");
        });
    }

    // Lines 8 and 68.
    fn a_hook_takes_the_place_of_stopping_and_gives_it_back(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let calls = Rc::new(Cell::new(0));
            let count = Rc::clone(&calls);
            let hook = world
                .reactor
                .on_signal(Signal::TERM, move |_| count.set(count.get() + 1))
                .expect("a hook");
            let _ = world.reactor.call_soon(|_| raise(Signal::TERM));
            let seen = Rc::clone(&calls);
            world.reactor.call_later(Duration::from_millis(20), move |_| {
                assert_eq!(seen.get(), 1, "it was called, and the loop goes on");
                assert!(hook.remove());
                assert!(!hook.remove(), "twice is an ordinary false");
                raise(Signal::TERM);
            });
            world.reactor.run().expect("a run");
            assert_eq!((calls.get(), world.reactor.stats().panics), (1, 0));
        });
    }

    // Lines 8 and 68.
    fn the_last_hook_restores_the_handler_that_was_there(driver) {
        in_child(module_path!(), driver, || {
            let before = handler(Signal::USR1);
            let world = World::new(driver);
            let first = world.reactor.on_signal(Signal::USR1, |_| {}).expect("a hook");
            let second = world.reactor.on_signal(Signal::USR1, |_| {}).expect("a hook");
            assert_ne!(handler(Signal::USR1), before);
            first.remove();
            assert_ne!(handler(Signal::USR1), before);
            second.remove();
            assert_eq!(handler(Signal::USR1), before);
            world.reactor.on_signal(Signal::USR1, |_| {}).expect("a hook");
            assert_ne!(handler(Signal::USR1), before);
            drop(world);
            assert_eq!(handler(Signal::USR1), before, "and so does the end of the reactor");
        });
    }

    // Lines 5 and 68.
    fn a_hook_may_do_anything_and_panic(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let (log, own) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(None)));
            world.reactor.on_signal(Signal::USR1, |_| panic!("in a hook")).expect("a hook");
            let (count, me) = (Rc::clone(&log), Rc::clone(&own));
            let hook = world
                .reactor
                .on_signal(Signal::USR1, move |reactor| {
                    count.set(count.get() + 1);
                    // Its own end, and another's beginning.
                    let me: Option<twistor::SignalHook> = me.take();
                    assert!(me.is_some_and(|me| me.remove()));
                    let count = Rc::clone(&count);
                    reactor.on_signal(Signal::USR2, move |_| count.set(count.get() + 10)).expect("a hook");
                })
                .expect("a hook");
            *own.borrow_mut() = Some(hook);
            raise(Signal::USR1);
            world.until("the hooks ran", || log.get() == 1);
            assert_eq!(world.reactor.stats().panics, 1);
            raise(Signal::USR1);
            raise(Signal::USR2);
            world.until("the new hook ran", || log.get() == 11);
            assert_eq!(world.reactor.stats().panics, 2, "the one that panicked is still there");
        });
    }

    // Line 68.
    fn several_reactors_hear_of_the_same_signal(driver) {
        in_child(module_path!(), driver, || {
            let worlds: Vec<_> = (0..3).map(|_| World::new(driver)).collect();
            let heard = Rc::new(Cell::new(0));
            for (n, world) in worlds.iter().enumerate() {
                let heard = Rc::clone(&heard);
                let hook = move |_: &twistor::Handle| heard.set(heard.get() | 1 << n);
                world.reactor.on_signal(Signal::HUP, hook).expect("a hook");
            }
            raise(Signal::HUP);
            for (n, world) in worlds.iter().enumerate() {
                world.until("this one heard", || heard.get() & 1 << n != 0);
            }
        });
    }

    // Line 68.
    fn a_signal_that_cannot_be_caught_is_an_error(driver) {
        let world = World::new(driver);
        for signal in [Signal::KILL, Signal::STOP, Signal::from_raw(libc::SIGSEGV), Signal::from_raw(0)] {
            let error = world.reactor.on_signal(signal, |_| {}).expect_err("not this one");
            assert!(error.to_string().contains(&signal.as_raw().to_string()), "{error}");
        }
        assert!(Reactor::new().is_ok());
    }
}
