//! Long work in small steps between the I/O.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use twistor::{Cooperation, CooperationError, Deferred, Interruption, Protocol, Resolver, Transport};
use twistor_tests::{World, contract, logged};

struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

type End = Rc<RefCell<Option<Result<(), CooperationError>>>>;

fn end_of(cooperation: &Cooperation) -> End {
    let end = End::default();
    let noted = Rc::clone(&end);
    cooperation.when_done().on_done(move |_, outcome| *noted.borrow_mut() = Some(outcome));
    end
}

/// Counts the steps that are made.
fn counter() -> (Rc<Cell<usize>>, impl FnMut()) {
    let count = Rc::new(Cell::new(0));
    let counted = Rc::clone(&count);
    (count, move || counted.set(counted.get() + 1))
}

contract! {
    fn an_echo_keeps_answering_while_a_million_steps_are_made(driver) {
        const STEPS: usize = 1_000_000;
        let world = World::new(driver);
        let (_server, peer) = world.pair(Echo);
        let (made, mut step) = counter();
        let work = world.reactor.cooperate((0..STEPS).map(move |_| step()));
        let end = end_of(&work);
        assert_eq!(made.get(), 0, "no step is made inside the call");
        let mut answers = 0;
        while made.get() < STEPS {
            let before = made.get();
            peer.send(b"x");
            assert_eq!(peer.receive(1), b"x");
            answers += 1;
            world.turns(1);
            assert!(made.get() > before || made.get() == STEPS, "the steps go on as well");
        }
        assert!(answers >= 20, "{answers} answers during the work");
        world.until("the end", || end.borrow().is_some());
        assert!(matches!(&*end.borrow(), Some(Ok(()))));
        assert!(!work.is_running() && !work.stop() && !work.pause() && !work.resume());
        world.assert_sleeps("nothing is left to do");
    }

    fn a_pass_makes_steps_for_about_ten_milliseconds_and_at_least_one(driver) {
        let world = World::new(driver);
        let (made, mut step) = counter();
        let machine = world.machine();
        let _work = world.reactor.cooperate(std::iter::repeat_with(move || {
            step();
            machine.spend(Duration::from_millis(3));
        }));
        world.turns(1);
        let first = made.get();
        assert!((1..=4).contains(&first), "{first} steps of 3 ms");
        world.turns(1);
        assert!(made.get() > first);
    }

    fn a_clock_that_stands_still_does_not_make_a_pass_endless(driver) {
        let world = World::new(driver);
        let (made, step) = counter();
        let work = world.reactor.cooperate(std::iter::repeat_with(step));
        world.turns(1);
        assert!((1..=4096).contains(&made.get()), "{}", made.get());
        assert!(work.stop());
    }

    fn all_take_turns_a_step_each(driver) {
        let world = World::new(driver);
        let order = Rc::new(RefCell::new(String::new()));
        for name in ['a', 'b', 'c'] {
            let order = Rc::clone(&order);
            let count = if name == 'b' { 2 } else { 4 };
            let _work = world.reactor.cooperate((0..count).map(move |_| order.borrow_mut().push(name)));
        }
        world.until("all", || order.borrow().len() == 10);
        assert_eq!(*order.borrow(), "abcabcacac");
    }

    fn a_slice_that_ends_early_goes_on_where_it_stopped(driver) {
        let world = World::new(driver);
        let order = Rc::new(RefCell::new(String::new()));
        for name in ['a', 'b', 'c'] {
            let (order, machine) = (Rc::clone(&order), world.machine());
            let _work = world.reactor.cooperate((0..3).map(move |_| {
                order.borrow_mut().push(name);
                machine.spend(Duration::from_millis(11));
            }));
        }
        for made in 1..=9 {
            world.turns(1);
            assert_eq!(order.borrow().len(), made, "one step, which took the whole time");
        }
        assert_eq!(*order.borrow(), "abcabcabc");
    }

    fn a_step_that_returns_a_deferred_is_waited_for_while_others_go_on(driver) {
        let world = World::new(driver);
        let order = Rc::new(RefCell::new(String::new()));
        let resolver: Rc<RefCell<Option<Resolver<(), String>>>> = Rc::default();
        let (said, place, handle) = (Rc::clone(&order), Rc::clone(&resolver), (*world.reactor).clone());
        let waits = world.reactor.cooperate((0..2).map(move |_| {
            said.borrow_mut().push('w');
            let (resolver, deferred) = Deferred::new(&handle);
            *place.borrow_mut() = Some(resolver);
            deferred
        }));
        let end = end_of(&waits);
        let said = Rc::clone(&order);
        let _other = world.reactor.cooperate((0..3).map(move |_| said.borrow_mut().push('o')));
        world.turns(5);
        assert_eq!(*order.borrow(), "wooo");
        world.assert_sleeps("it waits, and nobody else has anything to do");
        resolver.take().expect("it waits").resolve(Ok(()));
        world.turns(5);
        assert_eq!(*order.borrow(), "wooow");
        assert!(end.borrow().is_none());
        resolver.take().expect("it waits").resolve(Err("broken".to_owned()));
        world.turns(5);
        match &*end.borrow() {
            Some(Err(CooperationError::Failed(error))) => assert_eq!(error.to_string(), "broken"),
            other => panic!("{other:?}"),
        }
        assert!(!waits.is_running());
    }

    fn pauses_count_and_a_paused_one_makes_no_step_and_costs_nothing(driver) {
        let world = World::new(driver);
        let (made, step) = counter();
        let work = world.reactor.cooperate(std::iter::repeat_with(step));
        assert!(work.pause() && work.pause() && work.is_paused());
        world.turns(3);
        world.assert_sleeps("it is paused");
        assert_eq!(made.get(), 0);
        assert!(work.resume() && work.is_paused());
        world.turns(3);
        assert_eq!(made.get(), 0, "paused twice, resumed once");
        assert!(work.resume() && !work.is_paused() && !work.resume());
        world.turns(2);
        assert!(made.get() > 0);
        // Within one pass its place in line is kept, and it stands there once.
        assert!(work.pause() && work.resume());
        let before = made.get();
        world.turns(1);
        assert!(made.get() - before <= 4096);
        work.stop();
    }

    fn it_may_pause_resume_and_stop_from_within(driver) {
        let world = World::new(driver);
        let (made, mut step) = counter();
        let (kept, me) = (Rc::new(()), Rc::new(RefCell::new(None::<Cooperation>)));
        let (held, inside, count) = (Rc::clone(&kept), Rc::clone(&me), Rc::clone(&made));
        let work = world.reactor.cooperate(std::iter::repeat_with(move || {
            step();
            let work = inside.borrow().clone().expect("itself");
            match count.get() {
                1 => assert!(work.pause() && work.resume() && work.is_running()),
                2 => assert!(work.pause()),
                3 => assert!(work.stop() && !work.stop() && !work.is_running()),
                _ => unreachable!("{held:?}"),
            }
        }));
        *me.borrow_mut() = Some(work.clone());
        let end = end_of(&work);
        world.turns(3);
        assert_eq!(made.get(), 2);
        assert!(work.resume());
        world.turns(3);
        assert_eq!((made.get(), Rc::strong_count(&kept)), (3, 1));
        assert!(matches!(&*end.borrow(), Some(Err(CooperationError::Stopped))));
        assert_eq!(world.reactor.stats().panics, 0);
        // Asked afterwards, the answer is the same.
        let late = end_of(&work);
        world.turns(2);
        assert!(matches!(&*late.borrow(), Some(Err(CooperationError::Stopped))));
    }

    fn why_a_step_failed_is_logged_if_nobody_waits_for_the_end(driver) {
        logged::keep();
        let world = World::new(driver);
        let _failing = world.reactor.cooperate([Err("no disk")]);
        world.turns(3);
        let lines = logged::take();
        assert!(lines.len() == 1 && lines[0].ends_with("failed: no disk"), "{lines:?}");
        // Also when it was stopped meanwhile.
        let (resolver, deferred) = Deferred::<(), String>::new(&world.reactor);
        let stopped = world.reactor.cooperate([deferred]);
        world.turns(2);
        assert!(stopped.stop());
        resolver.errback("too late".to_owned());
        world.turns(2);
        let lines = logged::take();
        assert!(lines.len() == 1 && lines[0].ends_with("failed: too late"), "{lines:?}");
    }

    fn a_panic_ends_the_one_whose_step_it_was(driver) {
        let world = World::new(driver);
        let (made, step) = counter();
        let bad = world.reactor.cooperate((0..5).map(|n| assert!(n < 3, "at {n}")));
        let good = world.reactor.cooperate(std::iter::repeat_with(step).take(100));
        let (bad_end, good_end) = (end_of(&bad), end_of(&good));
        world.turns(3);
        assert_eq!((made.get(), world.reactor.stats().panics), (100, 1));
        assert!(matches!(&*good_end.borrow(), Some(Ok(()))));
        match &*bad_end.borrow() {
            Some(Err(CooperationError::Interrupted(Interruption::Panicked(text)))) => assert_eq!(text, "at 3"),
            other => panic!("{other:?}"),
        }
    }

    fn a_cancelled_wait_for_the_end_ends_nothing_else(driver) {
        let world = World::new(driver);
        let (made, step) = counter();
        let work = world.reactor.cooperate(std::iter::repeat_with(step).take(10_000));
        for _ in 0..1000 {
            let wait = work.when_done();
            assert!(wait.cancel());
            drop(wait);
        }
        let end = end_of(&work);
        world.until("the end", || end.borrow().is_some());
        assert_eq!(made.get(), 10_000);
    }

    fn steps_may_begin_others_and_drop_what_begins_others(driver) {
        struct Begins(twistor::Handle, Rc<Cell<usize>>);
        impl Drop for Begins {
            fn drop(&mut self) {
                let count = Rc::clone(&self.1);
                let _late = self.0.cooperate((0..2).map(move |_| count.set(count.get() + 1)));
            }
        }
        let world = World::new(driver);
        let count = Rc::new(Cell::new(0));
        let guard = Begins((*world.reactor).clone(), Rc::clone(&count));
        let work = world.reactor.cooperate(std::iter::repeat_with(move || {
            let _ = &guard;
        }));
        world.turns(2);
        assert!(work.stop());
        world.turns(2);
        assert_eq!(count.get(), 2);
    }

    fn a_stop_of_the_reactor_ends_all_and_drops_what_they_hold(driver) {
        let world = World::new(driver);
        let kept = Rc::new(());
        let begin = |paused: bool| {
            let held = Rc::clone(&kept);
            let work = world.reactor.cooperate(std::iter::repeat_with(move || {
                let _ = &held;
            }));
            if paused {
                work.pause();
            }
            let (held, me) = (Rc::clone(&kept), work.clone());
            work.when_done().on_done(move |_, _| drop((held, me)));
            work
        };
        let (runs, paused) = (begin(false), begin(true));
        world.turns(2);
        world.reactor.stop();
        while world.turn(Duration::ZERO) {}
        assert_eq!(Rc::strong_count(&kept), 1);
        assert!(!runs.is_running() && !paused.is_running() && !paused.resume());
        // The reactor can run again, and cooperate.
        let (made, step) = counter();
        let _again = world.reactor.cooperate(std::iter::repeat_with(step).take(5));
        world.turns(2);
        assert_eq!(made.get(), 5);
        let held = Rc::clone(&kept);
        let last = world.reactor.cooperate(std::iter::repeat_with(move || {
            let _ = &held;
        }));
        let _simulation = world.end();
        assert_eq!(Rc::strong_count(&kept), 1);
        assert!(!last.is_running() && !last.stop());
        let _dead = last.when_done();
    }
}
