//! Events of the application's own.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use twistor::{Events, Subscription};
use twistor_tests::{World, contract};

type Log = Rc<RefCell<Vec<String>>>;

fn record(log: &Log, name: &'static str) -> impl FnMut(&twistor::Handle, &u32) + 'static {
    let log = Rc::clone(log);
    move |_, event| log.borrow_mut().push(format!("{name}{event}"))
}

contract! {
    fn events_are_told_in_order_to_each_who_is_interested(driver) {
        let world = World::new(driver);
        let (log, events) = (Log::default(), Events::new(&world.reactor));
        events.on(record(&log, "a"));
        events.emit(1);
        events.clone().on(record(&log, "b"));
        events.emit(2);
        assert!(log.borrow().is_empty(), "nobody is called from inside a call");
        world.turns(1);
        assert_eq!(log.take(), ["a1", "b1", "a2", "b2"]);
        assert_eq!(events.subscribers(), 2);
        world.assert_sleeps("nothing is emitted");
    }

    fn what_a_hook_emits_comes_in_a_later_pass(driver) {
        let world = World::new(driver);
        let (log, events) = (Log::default(), Events::new(&world.reactor));
        events.on(record(&log, "a"));
        let again = events.clone();
        events.on_matching(|event| *event < 3, move |_, event| again.emit(event + 1));
        events.emit(1);
        world.turns(1);
        assert_eq!(*log.borrow(), ["a1"]);
        world.turns(5);
        assert_eq!(*log.borrow(), ["a1", "a2", "a3"]);
    }

    fn events_and_callbacks_share_one_queue(driver) {
        let world = World::new(driver);
        let (log, events) = (Log::default(), Events::new(&world.reactor));
        events.on(record(&log, "e"));
        let between = Rc::clone(&log);
        events.emit(1);
        let _ = world.reactor.call_soon(move |_| between.borrow_mut().push("call".to_owned()));
        events.emit(2);
        world.turns(1);
        assert_eq!(*log.borrow(), ["e1", "call", "e2"]);
    }

    fn a_cancelled_subscription_hears_nothing_more_not_even_in_the_same_event(driver) {
        let world = World::new(driver);
        let (log, events) = (Log::default(), Events::new(&world.reactor));
        let second: Rc<RefCell<Option<Subscription>>> = Rc::default();
        let victim = Rc::clone(&second);
        let first = events.on(move |_, _| {
            victim.take().map(|victim| victim.cancel());
        });
        *second.borrow_mut() = Some(events.on(record(&log, "b")));
        events.emit(1);
        world.turns(1);
        assert!(log.borrow().is_empty());
        assert!(first.is_active() && first.cancel() && !first.cancel() && !first.is_active());
        events.emit(2);
        world.turns(1);
        assert_eq!(events.subscribers(), 0);
    }

    fn a_hook_may_cancel_itself_and_panic(driver) {
        let world = World::new(driver);
        let events = Events::new(&world.reactor);
        let (calls, own): (_, Rc<RefCell<Option<Subscription>>>) = (Rc::new(Cell::new(0)), Rc::default());
        let (count, me) = (Rc::clone(&calls), Rc::clone(&own));
        let subscription = events.on(move |_, _: &u32| {
            count.set(count.get() + 1);
            assert!(me.take().is_some_and(|me| me.cancel()));
            panic!("in a hook");
        });
        *own.borrow_mut() = Some(subscription);
        let count = Rc::clone(&calls);
        events.on(move |_, _| count.set(count.get() + 10));
        events.emit(1);
        events.emit(2);
        world.turns(2);
        assert_eq!((calls.get(), world.reactor.stats().panics), (21, 1));
    }

    fn events_do_not_keep_a_reactor_alive_nor_the_other_way_round(driver) {
        let world = World::new(driver);
        let events = Events::new(&world.reactor);
        let kept = Rc::new(());
        let held = Rc::clone(&kept);
        let subscription = events.on(move |_, _: &u32| {
            let _ = &held;
        });
        events.emit(1);
        drop(world);
        assert_eq!(Rc::strong_count(&kept), 1);
        assert!(!subscription.is_active() && !subscription.cancel());
        events.emit(2);
        assert_eq!(events.subscribers(), 0);
    }
}
