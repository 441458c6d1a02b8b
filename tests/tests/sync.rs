//! Locks, semaphores, queues, events and one-shot channels: order, cancellation, and what is left at the end.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::{Debug, Display};
use std::rc::Rc;
use std::time::{Duration, Instant};

use twistor::sync::{Event, GetError, Lock, LockGuard, Permit, PutError, Queue, Semaphore, oneshot};
use twistor::{Canceller, Deferred, Interruption, Reactor, Task, task};
use twistor_tests::{World, contract};

type Words = Rc<RefCell<Vec<String>>>;

fn words(words: &Words) -> Vec<String> {
    words.take()
}

/// Writes the outcome down, after a name.
fn note<T: Debug + 'static, E: Debug + 'static>(words: &Words, name: impl Display, deferred: Deferred<T, E>) {
    let (words, name) = (Rc::clone(words), name.to_string());
    deferred.on_done(move |_, outcome| words.borrow_mut().push(format!("{name}: {outcome:?}")));
}

/// Keeps what was handed out.
struct Kept<T>(Rc<RefCell<VecDeque<T>>>);

impl<T: 'static> Kept<T> {
    fn new() -> Self {
        Self(Rc::default())
    }

    fn keep<E: Debug + 'static>(&self, deferred: Deferred<T, E>) {
        let kept = Rc::clone(&self.0);
        deferred.on_done(move |_, outcome| {
            if let Ok(value) = outcome {
                kept.borrow_mut().push_back(value);
            }
        });
    }

    fn len(&self) -> usize {
        self.0.borrow().len()
    }

    fn drop_first(&self) -> bool {
        let first = self.0.borrow_mut().pop_front();
        first.is_some()
    }
}

/// Counts how often it was dropped, and does something else as well.
struct Tracked<F: FnMut()>(u32, F);

impl<F: FnMut()> Drop for Tracked<F> {
    fn drop(&mut self) {
        (self.1)();
    }
}

contract! {
    fn permits_are_handed_out_in_the_order_in_which_they_were_asked_for_and_from_the_loop(driver) {
        let world = World::new(driver);
        let semaphore = Semaphore::new(&world.reactor, 2);
        let (log, kept) = (Words::default(), Kept::<Permit>::new());
        for n in 0..5 {
            let (log, kept) = (Rc::clone(&log), Rc::clone(&kept.0));
            semaphore.acquire().on_done(move |_, permit| {
                log.borrow_mut().push(format!("{n}"));
                kept.borrow_mut().push_back(permit.expect("a permit"));
            });
        }
        assert!(log.borrow().is_empty(), "no hook is called from inside a call");
        assert_eq!((semaphore.available(), semaphore.waiting()), (0, 3));
        world.turns(2);
        assert_eq!(words(&log), ["0", "1"]);
        assert!(kept.drop_first());
        assert!(log.borrow().is_empty() && semaphore.waiting() == 2 && semaphore.available() == 0);
        world.turns(1);
        assert_eq!(words(&log), ["2"]);
        while kept.drop_first() {
            world.turns(1);
        }
        assert_eq!(words(&log), ["3", "4"]);
        assert_eq!((semaphore.available(), semaphore.waiting(), semaphore.permits()), (2, 0, 2));
    }

    fn a_newcomer_does_not_overtake_one_that_waits_for_more(driver) {
        let world = World::new(driver);
        let semaphore = Semaphore::new(&world.reactor, 3);
        let kept = Kept::new();
        let first = semaphore.try_acquire().expect("it is free");
        let many = semaphore.acquire_many(3);
        let canceller = many.canceller();
        kept.keep(many);
        assert_eq!(semaphore.available(), 2);
        assert!(semaphore.try_acquire().is_none(), "two are free, but somebody waits");
        kept.keep(semaphore.acquire());
        kept.keep(semaphore.acquire_many(2));
        world.turns(2);
        assert_eq!((kept.len(), semaphore.waiting()), (0, 3));
        assert!(canceller.cancel(), "now those behind have enough");
        world.turns(2);
        assert_eq!((kept.len(), semaphore.waiting(), semaphore.available()), (1, 1, 1));
        drop(first);
        world.turns(2);
        assert_eq!((kept.len(), semaphore.available()), (2, 0));
        assert_eq!(kept.0.borrow().iter().map(Permit::count).collect::<Vec<_>>(), [1, 2]);
        while kept.drop_first() {}
        assert_eq!(semaphore.available(), 3);
    }

    fn more_permits_than_there_are_is_a_mistake_and_not_a_deadlock(driver) {
        let world = World::new(driver);
        let semaphore = Semaphore::new(&world.reactor, 2);
        let asked = semaphore.clone();
        world.reactor.call_soon(move |_| drop(asked.acquire_many(3)));
        world.turns(1);
        assert_eq!((world.reactor.stats().panics, semaphore.waiting()), (1, 0));
        assert_eq!(semaphore.try_acquire_many(0).expect("it is free").count(), 0);
    }

    fn a_cancelled_waiter_leaves_the_line_at_once_and_takes_no_permit_along(driver) {
        let world = World::new(driver);
        let semaphore = Semaphore::new(&world.reactor, 1);
        let (log, first) = (Words::default(), semaphore.try_acquire());
        let waiting = [semaphore.acquire(), semaphore.acquire(), semaphore.acquire()];
        let cancellers: Vec<Canceller> = waiting.iter().map(Deferred::canceller).collect();
        for (n, deferred) in waiting.into_iter().enumerate() {
            note(&log, n, deferred);
        }
        assert!(cancellers[0].cancel() && !cancellers[0].cancel());
        assert_eq!(semaphore.waiting(), 2);
        drop(first);
        assert!(!cancellers[1].cancel(), "it has its permit");
        world.turns(2);
        assert_eq!(words(&log), ["0: Err(Cancelled)", "1: Ok(Permit { count: 1 })", "2: Ok(Permit { count: 1 })"]);
        assert!(!cancellers[2].cancel());
        assert_eq!((semaphore.available(), semaphore.waiting()), (1, 0));
    }

    fn a_permit_of_a_deferred_that_nobody_kept_goes_on_to_the_next(driver) {
        let world = World::new(driver);
        let semaphore = Semaphore::new(&world.reactor, 1);
        let (log, first) = (Words::default(), semaphore.try_acquire());
        drop(semaphore.acquire());
        let unread = semaphore.acquire();
        note(&log, "last", semaphore.acquire());
        assert_eq!(semaphore.waiting(), 3, "dropping one that was never asked changes nothing");
        drop(first);
        world.turns(2);
        assert_eq!(semaphore.waiting(), 1, "the second has it");
        assert!(log.borrow().is_empty());
        drop(unread);
        world.turns(2);
        assert_eq!(words(&log), ["last: Ok(Permit { count: 1 })"]);
        assert_eq!(semaphore.available(), 1);
    }

    fn a_lock_gives_its_value_to_one_at_a_time_in_order(driver) {
        let world = World::new(driver);
        let lock = Lock::new(&world.reactor, Vec::new());
        for n in 0..4_u32 {
            let again = lock.clone();
            lock.lock().on_done(move |reactor, guard| {
                let mut guard = guard.expect("the lock");
                assert!(again.is_locked() && again.try_lock().is_none());
                guard.push(n);
                reactor.call_later(Duration::from_millis(1), move |_| guard.push(n + 10));
            });
        }
        assert_eq!(lock.waiting(), 3);
        world.until("all of them", || !lock.is_locked());
        assert_eq!(*lock.try_lock().expect("it is free"), [0, 10, 1, 11, 2, 12, 3, 13]);
    }

    fn a_lock_comes_back_from_a_panic_a_cancellation_and_a_deferred_that_nobody_kept(driver) {
        let world = World::new(driver);
        let (lock, log) = (Lock::new(&world.reactor, 7), Words::default());
        lock.lock().on_done(|_, guard| {
            let mut guard = guard.expect("the lock");
            *guard += 1;
            panic!("with the lock");
        });
        let given_up = lock.lock();
        let unread = lock.lock();
        note(&log, "next", lock.lock());
        assert!(given_up.cancel());
        note(&log, "given up", given_up);
        world.turns(2);
        assert_eq!(words(&log), ["given up: Err(Cancelled)"]);
        drop(unread);
        world.turns(2);
        assert_eq!(words(&log), ["next: Ok(8)"]);
        assert!(!lock.is_locked());
        assert_eq!(world.reactor.stats().panics, 1);
    }

    fn a_queue_has_room_for_so_many_and_whoever_puts_more_waits_in_line(driver) {
        let world = World::new(driver);
        let (queue, log) = (Queue::new(&world.reactor, 2), Words::default());
        for n in 0..4 {
            note(&log, format!("put {n}"), queue.put(n));
        }
        assert_eq!((queue.len(), queue.putters(), queue.capacity()), (2, 2, 2));
        assert_eq!(queue.try_put(9), Err(PutError::Full(9)));
        world.turns(2);
        assert_eq!(words(&log), ["put 0: Ok(())", "put 1: Ok(())"]);
        assert_eq!(queue.try_get(), Ok(0));
        assert_eq!((queue.len(), queue.putters()), (2, 1), "the next putter's value moved up");
        assert_eq!(queue.try_put(9), Err(PutError::Full(9)), "a newcomer does not overtake");
        for _ in 0..4 {
            note(&log, "get", queue.get());
        }
        world.turns(2);
        assert_eq!(words(&log), ["put 2: Ok(())", "put 3: Ok(())", "get: Ok(1)", "get: Ok(2)", "get: Ok(3)"]);
        assert_eq!((queue.len(), queue.getters(), queue.is_empty()), (0, 1, true));
        assert_eq!(queue.try_get(), Err(GetError::Empty));
        assert_eq!(queue.try_put(4), Ok(()));
        world.turns(2);
        assert_eq!(words(&log), ["get: Ok(4)"]);
    }

    fn without_capacity_each_put_meets_its_get(driver) {
        let world = World::new(driver);
        let (queue, log) = (Queue::new(&world.reactor, 0), Words::default());
        assert_eq!(queue.try_put(0), Err(PutError::Full(0)));
        note(&log, "put 1", queue.put(1));
        note(&log, "put 2", queue.put(2));
        world.turns(2);
        assert!(log.borrow().is_empty() && queue.is_empty());
        note(&log, "get", queue.get());
        assert_eq!(queue.try_get(), Ok(2));
        world.turns(2);
        assert_eq!(words(&log).len(), 3);
        note(&log, "get", queue.get());
        drop(queue.get());
        assert_eq!(queue.try_put(3), Ok(()), "somebody waits for it");
        assert_eq!(queue.try_put(4), Err(PutError::Full(4)), "who waited second is gone");
        world.turns(2);
        assert_eq!(words(&log), ["get: Ok(3)"]);
    }

    fn a_cancelled_put_has_its_value_back_and_a_cancelled_get_loses_none(driver) {
        let world = World::new(driver);
        let (queue, log) = (Queue::new(&world.reactor, 1), Words::default());
        queue.try_put("a").expect("there is room");
        let put = queue.put("b");
        note(&log, "c", queue.put("c"));
        assert!(put.cancel() && !put.cancel());
        put.on_done({
            let log = Rc::clone(&log);
            move |_, outcome| {
                let error = outcome.expect_err("it was cancelled");
                assert!(matches!(error, PutError::Interrupted(Interruption::Cancelled, Some(_))));
                log.borrow_mut().push(format!("back: {:?}", error.into_value()));
            }
        });
        assert_eq!(queue.try_get(), Ok("a"));
        assert_eq!(queue.try_get(), Ok("c"));
        let get = queue.get();
        note(&log, "second", queue.get());
        assert!(get.cancel());
        note(&log, "first", get);
        queue.try_put("d").expect("there is room");
        world.turns(2);
        let said = words(&log);
        for one in ["back: Some(\"b\")", "c: Ok(())", "second: Ok(\"d\")", "first: Err(Interrupted(Cancelled))"] {
            assert!(said.contains(&one.to_owned()), "{one} in {said:?}");
        }
        assert_eq!(said.len(), 4);
    }

    fn an_item_that_nobody_looked_at_goes_back_to_the_front(driver) {
        let world = World::new(driver);
        let (queue, log) = (Queue::new(&world.reactor, 4), Words::default());
        let got = queue.get();
        drop(queue.get());
        for n in 0..3 {
            queue.try_put(n).expect("there is room");
        }
        assert_eq!(queue.len(), 2, "the first is on its way");
        drop(got);
        assert_eq!(queue.len(), 3);
        for _ in 0..3 {
            note(&log, "get", queue.get());
        }
        world.turns(2);
        assert_eq!(words(&log), ["get: Ok(0)", "get: Ok(1)", "get: Ok(2)"]);
    }

    fn a_closed_queue_gives_what_is_left_and_takes_nothing(driver) {
        let world = World::new(driver);
        let (queue, log) = (Queue::new(&world.reactor, 1), Words::default());
        queue.try_put(0).expect("there is room");
        note(&log, "put", queue.put(1));
        queue.close();
        queue.close();
        assert!(queue.is_closed());
        note(&log, "late put", queue.put(2));
        assert_eq!(queue.try_put(3), Err(PutError::Closed(3)));
        note(&log, "get", queue.get());
        note(&log, "late get", queue.get());
        assert_eq!(queue.try_get(), Err(GetError::Closed));
        world.turns(2);
        assert_eq!(
            words(&log),
            ["put: Err(Closed(..))", "late put: Err(Closed(..))", "get: Ok(0)", "late get: Err(Closed)"]
        );
        let empty = Queue::<u8>::new(&world.reactor, 1);
        note(&log, "waited", empty.get());
        empty.close();
        world.turns(2);
        assert_eq!(words(&log), ["waited: Err(Closed)"]);
    }

    fn an_event_wakes_all_who_wait_when_it_is_set_also_if_it_is_cleared_right_after(driver) {
        let world = World::new(driver);
        let (event, log) = (Event::new(&world.reactor), Words::default());
        let gone = event.wait();
        note(&log, "a", event.wait());
        note(&log, "b", event.wait());
        assert_eq!(event.waiting(), 3);
        assert!(gone.cancel());
        note(&log, "gone", gone);
        event.set();
        event.set();
        assert!(event.is_set());
        event.clear();
        event.clear();
        assert!(!event.is_set());
        note(&log, "late", event.wait());
        assert!(log.borrow().is_empty());
        world.turns(2);
        assert_eq!(words(&log), ["gone: Err(Cancelled)", "a: Ok(())", "b: Ok(())"]);
        event.clone().set();
        note(&log, "at once", event.wait());
        world.turns(2);
        assert_eq!(words(&log), ["late: Ok(())", "at once: Ok(())"]);
    }

    fn a_one_shot_value_arrives_or_comes_back(driver) {
        let world = World::new(driver);
        let log = Words::default();
        let (sender, value) = oneshot(&world.reactor);
        assert!(sender.is_wanted());
        note(&log, "hooked", value);
        assert_eq!(sender.send(1), Ok(()));
        let (sender, value) = oneshot(&world.reactor);
        assert_eq!(sender.send(2), Ok(()));
        note(&log, "later", value);
        let (sender, value) = oneshot::<u8>(&world.reactor);
        drop(value);
        assert!(!sender.is_wanted());
        assert_eq!(sender.send(3), Err(3));
        world.turns(2);
        assert_eq!(words(&log), ["hooked: Ok(1)", "later: Ok(2)"]);
    }

    fn destructors_may_use_what_drops_them(driver) {
        let world = World::new(driver);
        let queue = Queue::new(&world.reactor, 1);
        let dropped = Rc::new(Cell::new(0));
        let value = |n| {
            let (queue, dropped): (Queue<_>, _) = (queue.clone(), Rc::clone(&dropped));
            let drop_hook: Box<dyn FnMut()> = Box::new(move || {
                dropped.set(dropped.get() + 1);
                // Whatever it calls finds nothing borrowed.
                let _ = (queue.len(), queue.is_closed(), queue.try_get().is_ok(), queue.get().cancel());
                queue.close();
            });
            Tracked(n, drop_hook)
        };
        assert!(queue.try_put(value(0)).is_ok());
        let put = queue.put(value(1));
        assert!(put.cancel());
        drop(put);
        assert_eq!(dropped.get(), 2, "the cancelled one, and what its destructor got and dropped");
        assert!(queue.is_closed());
        let lock = Lock::new(&world.reactor, Tracked(0, Box::new(|| {}) as Box<dyn FnMut()>));
        let guard = lock.try_lock().expect("it is free");
        let inside = lock.clone();
        drop(Tracked(guard.0, || drop(inside.lock())));
        drop(guard);
        assert!(!lock.is_locked());
    }

    fn at_the_end_of_the_reactor_nothing_is_left_although_hooks_hold_what_they_wait_for(driver) {
        let world = World::new(driver);
        let kept = Rc::new(());
        let semaphore = Semaphore::new(&world.reactor, 1);
        let lock = Lock::new(&world.reactor, ());
        let queue = Queue::new(&world.reactor, 0);
        let event = Event::new(&world.reactor);
        let (permit, guard) = (semaphore.try_acquire(), lock.try_lock());
        for _ in 0..20 {
            let (held, me) = (Rc::clone(&kept), semaphore.clone());
            semaphore.acquire().on_done(move |_, _| drop((held, me)));
            let (held, me) = (Rc::clone(&kept), lock.clone());
            lock.lock().on_done(move |_, _| drop((held, me)));
            let (held, me) = (Rc::clone(&kept), event.clone());
            event.wait().on_done(move |_, _| drop((held, me)));
            let (held, me) = (Rc::clone(&kept), queue.clone());
            queue.put(Rc::clone(&kept)).on_done(move |_, _| drop((held, me)));
        }
        // These have got theirs, and their hooks are queued.
        drop((permit, guard));
        event.set();
        let _simulation = world.end();
        assert_eq!(Rc::strong_count(&kept), 1);
        assert_eq!((semaphore.available(), semaphore.waiting(), lock.is_locked()), (1, 0, false));
        assert!(!semaphore.acquire().cancel() && !lock.lock().cancel() && !queue.get().cancel());
        event.clear();
        assert!(!event.wait().cancel());
        assert_eq!(event.waiting() + semaphore.waiting() + queue.getters() + lock.waiting(), 0);
    }

    fn a_stopped_reactor_that_runs_again_serves_who_waited(driver) {
        let world = World::new(driver);
        let (event, log) = (Event::new(&world.reactor), Words::default());
        note(&log, "waited", event.wait());
        world.reactor.stop();
        while world.turn(Duration::ZERO) {}
        event.set();
        world.turns(2);
        assert_eq!(words(&log), ["waited: Ok(())"]);
    }
}

#[test]
fn a_million_waiters_are_cancelled_or_served_without_a_deep_stack_or_a_quadratic_step() {
    const MANY: usize = 1_000_000;
    let reactor = Reactor::new().unwrap();
    let semaphore = Semaphore::new(&reactor, 1);
    let began = Instant::now();
    let first = semaphore.try_acquire();
    let waiting: Vec<_> = (0..MANY).map(|_| semaphore.acquire()).collect();
    // From everywhere.
    for n in 0..MANY {
        assert!(waiting[(n * 7919) % MANY].cancel(), "{n}");
    }
    assert_eq!(semaphore.waiting(), 0);
    drop(waiting);
    for _ in 0..MANY {
        drop(semaphore.acquire());
    }
    drop(first);
    assert_eq!((semaphore.available(), semaphore.waiting()), (1, 0), "each was handed on at once");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

contract! {
    fn tasks_and_callbacks_stand_in_one_line(driver) {
        let world = World::new(driver);
        let (lock, log) = (Lock::new(&world.reactor, ()), Words::default());
        let first = lock.try_lock();
        for n in 0..6 {
            let (lock, log) = (lock.clone(), Rc::clone(&log));
            if n % 2 == 0 {
                world.reactor.spawn(async move {
                    let _guard = lock.lock().await.expect("the reactor is there");
                    log.borrow_mut().push(format!("task {n}"));
                    task::yield_now().await;
                });
            } else {
                lock.lock().on_done(move |_, _| log.borrow_mut().push(format!("hook {n}")));
            }
            world.turns(1);
        }
        assert_eq!(lock.waiting(), 6);
        drop(first);
        world.until("all of them", || !lock.is_locked());
        assert_eq!(words(&log), ["task 0", "hook 1", "task 2", "hook 3", "task 4", "hook 5"]);
    }

    fn a_cancelled_task_leaves_every_line_it_stands_in(driver) {
        let world = World::new(driver);
        let semaphore = Semaphore::new(&world.reactor, 1);
        let (queue, full) = (Queue::<u8>::new(&world.reactor, 1), Queue::new(&world.reactor, 1));
        let (event, lock) = (Event::new(&world.reactor), Lock::new(&world.reactor, ()));
        let taken = (semaphore.try_acquire(), lock.try_lock(), full.try_put(0));
        let (a, b, c, d, e) = (semaphore.clone(), lock.clone(), queue.clone(), full.clone(), event.clone());
        let waiting = move || {
            (a.waiting(), b.waiting(), c.getters(), d.putters(), e.waiting())
        };
        let (a, b, c, d, e) = (semaphore.clone(), lock.clone(), queue.clone(), full.clone(), event.clone());
        let tasks = [
            world.reactor.spawn(async move { drop(a.acquire().await) }),
            world.reactor.spawn(async move { drop(b.lock().await) }),
            world.reactor.spawn(async move { drop(c.get().await) }),
            world.reactor.spawn(async move { drop(d.put(1).await) }),
            world.reactor.spawn(async move { drop(e.wait().await) }),
        ];
        world.turns(1);
        assert_eq!(waiting(), (1, 1, 1, 1, 1));
        for task in &tasks {
            assert!(task.cancel());
        }
        world.turns(1);
        assert_eq!(waiting(), (0, 0, 0, 0, 0));
        drop(taken);
        assert_eq!((semaphore.available(), lock.is_locked()), (1, false));
        assert_eq!((full.try_get(), full.try_get()), (Ok(0), Err(GetError::Empty)), "its value went with it");
    }

    fn what_a_task_was_given_but_did_not_live_to_see_goes_to_the_next(driver) {
        let world = World::new(driver);
        let (queue, semaphore) = (Queue::new(&world.reactor, 1), Semaphore::new(&world.reactor, 1));
        let (seen, permit) = (Words::default(), semaphore.try_acquire());
        let spawn = |name: &'static str| {
            let (queue, semaphore, seen) = (queue.clone(), semaphore.clone(), Rc::clone(&seen));
            world.reactor.spawn(async move {
                let (item, permit) = (queue.get().await, semaphore.acquire().await);
                seen.borrow_mut().push(format!("{name}: {item:?} {permit:?}"));
            })
        };
        let (first, second) = (spawn("first"), spawn("second"));
        world.turns(1);
        queue.try_put("item").expect("there is room");
        assert!(first.cancel(), "the item is on its way to it");
        world.turns(2);
        assert_eq!(semaphore.waiting(), 1, "the second has the item");
        drop(permit);
        let third = semaphore.acquire();
        assert!(second.cancel(), "the permit is on its way to it");
        note(&seen, "third", third);
        world.turns(3);
        assert_eq!(words(&seen), ["third: Ok(Permit { count: 1 })"]);
        assert_eq!(semaphore.available(), 1);
    }

    fn a_time_out_takes_neither_an_item_nor_a_permit_along(driver) {
        let world = World::new(driver);
        let (queue, semaphore) = (Queue::new(&world.reactor, 1), Semaphore::new(&world.reactor, 1));
        let (log, hour) = (Words::default(), Duration::from_millis(20));
        let permit = semaphore.try_acquire();
        let (said, items, permits) = (Rc::clone(&log), queue.clone(), semaphore.clone());
        world.reactor.spawn(async move {
            let got = task::timeout(hour, items.get()).await;
            let acquired = task::timeout(hour, permits.acquire()).await;
            said.borrow_mut().push(format!("{} {}", got.is_err(), acquired.is_err()));
        });
        note(&log, "chain", semaphore.acquire().timeout(hour));
        world.until("the time-outs", || log.borrow().len() == 2);
        assert_eq!((queue.getters(), semaphore.waiting()), (0, 0));
        assert!(log.borrow().contains(&"true true".to_owned()), "{log:?}");
        assert!(log.borrow().contains(&"chain: Err(TimedOut)".to_owned()), "{log:?}");
        queue.try_put(1).expect("there is room");
        drop(permit);
        assert_eq!((queue.try_get(), semaphore.available()), (Ok(1), 1));
    }

    fn a_value_whose_destructor_panics_stops_nobody_else(driver) {
        let world = World::new(driver);
        let queue = Queue::new(&world.reactor, 0);
        let (log, semaphore) = (Words::default(), Semaphore::new(&world.reactor, 1));
        let items = queue.clone();
        for n in 0..3 {
            let bomb: Box<dyn FnMut()> = Box::new(|| panic!("in a destructor"));
            let put = items.put(Tracked(n, bomb));
            if n == 1 {
                // Its value goes back to nobody, who drops it.
                drop(put);
            } else {
                put.on_done(|_, outcome| assert!(outcome.is_err()));
            }
        }
        note(&log, "the end", semaphore.acquire());
        let closes = queue.clone();
        world.reactor.call_soon(move |_| closes.close());
        world.turns(3);
        assert_eq!(queue.putters(), 0);
        assert_eq!(words(&log), ["the end: Ok(Permit { count: 1 })"]);
        assert_eq!(world.reactor.stats().panics, 3);
        let tracked = Tracked(0, || {});
        assert_eq!(tracked.0, 0);
    }

    // Line 75.
    fn a_task_may_be_cancelled_at_any_pass_and_nothing_is_lost(driver) {
        for doomed_at in 0..14 {
            let world = World::new(driver);
            let queue = Queue::new(&world.reactor, 0);
            let (semaphore, lock) = (Semaphore::new(&world.reactor, 2), Lock::new(&world.reactor, Vec::new()));
            let go = Event::new(&world.reactor);
            let mut workers = Vec::new();
            for n in 0..3 {
                let (queue, semaphore, lock, go) = (queue.clone(), semaphore.clone(), lock.clone(), go.clone());
                workers.push(world.reactor.spawn(async move {
                    go.wait().await.expect("the reactor is there");
                    while let Ok(item) = queue.get().await {
                        // From here on the item is this task's affair: it writes it down, whatever happens.
                        struct Write(Lock<Vec<u32>>, u32);
                        impl Drop for Write {
                            fn drop(&mut self) {
                                let item = self.1;
                                self.0.lock().on_done(move |_, list| list.expect("the lock").push(item));
                            }
                        }
                        let _write = Write(lock.clone(), item);
                        let _permit = semaphore.acquire_many(1 + n % 2).await.expect("the reactor is there");
                        let mut list = lock.lock().await.expect("the reactor is there");
                        task::yield_now().await;
                        list.push(item + 100);
                    }
                }));
            }
            let items = queue.clone();
            let producer = world.reactor.spawn(async move {
                for item in 0..8 {
                    items.put(item).await.expect("the reactor is there");
                }
                items.close();
            });
            world.reactor.call_soon(move |_| go.set());
            for pass in 0..200 {
                if pass == doomed_at {
                    workers[doomed_at % 3].cancel();
                }
                world.turns(1);
            }
            assert!(producer.is_finished() && workers.iter().all(Task::is_finished), "cancelled at {doomed_at}");
            assert_eq!((semaphore.available(), semaphore.waiting()), (2, 0), "cancelled at {doomed_at}");
            assert_eq!((queue.getters(), queue.putters(), queue.len()), (0, 0, 0), "cancelled at {doomed_at}");
            let mut list = lock.try_lock().expect("nobody has it");
            list.retain(|item| *item < 100);
            list.sort_unstable();
            assert_eq!(*list, [0, 1, 2, 3, 4, 5, 6, 7], "cancelled at {doomed_at}");
        }
    }

    fn a_task_whose_waits_are_all_over_at_once_lets_the_loop_go_on(driver) {
        let world = World::new(driver);
        let semaphore = Semaphore::new(&world.reactor, 1);
        let ticks = Rc::new(Cell::new(0));
        let task = world.reactor.spawn(async move {
            loop {
                drop(semaphore.acquire().await);
            }
        });
        for _ in 0..5 {
            let ticks = Rc::clone(&ticks);
            world.reactor.call_soon(move |_| ticks.set(ticks.get() + 1));
            world.turns(1);
        }
        assert_eq!(ticks.get(), 5);
        task.cancel();
    }
}

/// Numbers that look random, and the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).expect("below a usize")
    }
}

/// What a waiter of the model has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Waits,
    Has,
    Over,
}

/// Random requests, cancellations, drops and releases, against a list that knows what must come of them.
#[test]
fn permits_are_conserved_and_fair_whatever_happens() {
    for seed in 1..40 {
        let reactor = Reactor::new().unwrap();
        let mut dice = Dice(seed * 0x9E37_79B9);
        let total = 1 + dice.below(5);
        let semaphore = Semaphore::new(&reactor, total);
        let served: Rc<RefCell<Vec<usize>>> = Rc::default();
        let held: Rc<RefCell<Vec<(usize, Permit)>>> = Rc::default();
        let mut cancellers: Vec<Canceller> = Vec::new();
        // Of the model.
        let (mut free, mut line) = (total, VecDeque::<(usize, usize)>::new());
        let mut fates: Vec<Fate> = Vec::new();
        let mut expected: Vec<usize> = Vec::new();
        for _ in 0..600 {
            match dice.below(10) {
                0..=3 => {
                    let (n, wanted) = (fates.len(), 1 + dice.below(total));
                    let deferred = semaphore.acquire_many(wanted);
                    cancellers.push(deferred.canceller());
                    let (served, held) = (Rc::clone(&served), Rc::clone(&held));
                    deferred.on_done(move |_, permit| {
                        if let Ok(permit) = permit {
                            served.borrow_mut().push(n);
                            held.borrow_mut().push((n, permit));
                        }
                    });
                    fates.push(Fate::Waits);
                    line.push_back((n, wanted));
                }
                4 | 5 if !fates.is_empty() => {
                    let n = dice.below(fates.len());
                    let was_waiting = fates[n] == Fate::Waits;
                    assert_eq!(cancellers[n].cancel(), was_waiting, "{n}: {:?}", fates[n]);
                    if was_waiting {
                        fates[n] = Fate::Over;
                        line.retain(|(other, _)| *other != n);
                    }
                }
                6 => {
                    let wanted = 1 + dice.below(total);
                    let permit = semaphore.try_acquire_many(wanted);
                    assert_eq!(permit.is_some(), line.is_empty() && wanted <= free);
                }
                7 | 8 => {
                    let count = held.borrow().len();
                    if count > 0 {
                        let (n, permit) = held.borrow_mut().swap_remove(dice.below(count));
                        free += permit.count();
                        fates[n] = Fate::Over;
                        drop(permit);
                    }
                }
                _ => {
                    reactor.turn(Some(Duration::ZERO)).unwrap();
                    assert_eq!(*served.borrow(), expected, "seed {seed}");
                }
            }
            while let Some((n, wanted)) = line.front().copied().filter(|(_, wanted)| *wanted <= free) {
                line.pop_front();
                free -= wanted;
                fates[n] = Fate::Has;
                expected.push(n);
            }
            assert_eq!((semaphore.available(), semaphore.waiting()), (free, line.len()), "seed {seed}");
        }
        drop(reactor);
        held.take();
        assert_eq!((semaphore.available(), semaphore.waiting()), (total, 0), "seed {seed}");
    }
}

/// Every item that was accepted is got once, in order, or is still there; every other one comes back.
#[test]
fn items_are_conserved_and_in_order_whatever_happens() {
    for seed in 1..40 {
        let reactor = Reactor::new().unwrap();
        let mut dice = Dice(seed * 0x9E37_79B9);
        let capacity = dice.below(4);
        let queue = Queue::new(&reactor, capacity);
        let got: Rc<RefCell<Vec<usize>>> = Rc::default();
        let refused: Rc<RefCell<Vec<usize>>> = Rc::default();
        let accepted: Rc<RefCell<Vec<usize>>> = Rc::default();
        let mut cancellers: Vec<Canceller> = Vec::new();
        let mut unread = Vec::new();
        let mut puts = 0;
        for _ in 0..600 {
            match dice.below(12) {
                0..=2 => {
                    let (n, deferred) = (puts, queue.put(puts));
                    puts += 1;
                    cancellers.push(deferred.canceller());
                    let (accepted, refused) = (Rc::clone(&accepted), Rc::clone(&refused));
                    deferred.on_done(move |_, outcome| match outcome {
                        Ok(()) => accepted.borrow_mut().push(n),
                        Err(error) => refused.borrow_mut().push(error.into_value().expect("its value")),
                    });
                }
                3..=5 => {
                    let deferred = queue.get();
                    cancellers.push(deferred.canceller());
                    let got = Rc::clone(&got);
                    deferred.on_done(move |_, outcome| got.borrow_mut().extend(outcome.ok()));
                }
                6 => {
                    if let Ok(()) = queue.try_put(puts) {
                        accepted.borrow_mut().push(puts);
                        puts += 1;
                    }
                }
                // In the order of the others: what is queued for hooks comes first.
                7 => {
                    reactor.turn(Some(Duration::ZERO)).unwrap();
                    got.borrow_mut().extend(queue.try_get().ok());
                }
                8 | 9 if !cancellers.is_empty() => {
                    cancellers[dice.below(cancellers.len())].cancel();
                }
                // What goes back to the front is out of order.
                10 if seed % 2 == 0 => {
                    unread.push(queue.get());
                    if dice.below(3) == 0 {
                        drop(unread.swap_remove(0));
                    }
                }
                _ => {
                    reactor.turn(Some(Duration::ZERO)).unwrap();
                }
            }
            assert!(
                queue.is_empty() || queue.getters() == 0,
                "seed {seed}: an item and one that waits for it"
            );
            assert!(
                queue.putters() == 0 || queue.len() >= capacity,
                "seed {seed}: room, and one that waits for it"
            );
        }
        drop(unread);
        queue.close();
        reactor.turn(Some(Duration::ZERO)).unwrap();
        while let Ok(item) = queue.try_get() {
            got.borrow_mut().push(item);
        }
        reactor.turn(Some(Duration::ZERO)).unwrap();
        let (mut all, mut accepted) = (got.take(), accepted.take());
        assert!(seed % 2 == 0 || all.is_sorted(), "seed {seed}: {all:?}");
        all.sort_unstable();
        accepted.sort_unstable();
        assert_eq!(all, accepted, "seed {seed}: what was got is what was put");
        all.extend(refused.take());
        all.sort_unstable();
        assert_eq!(all, (0..puts).collect::<Vec<_>>(), "seed {seed}: nothing is lost or doubled");
    }
}

/// What the types promise to be.
#[test]
fn guards_show_their_value_and_errors_say_what_happened() {
    let reactor = Reactor::new().unwrap();
    let lock = Lock::new(&reactor, 5);
    let guard: LockGuard<u32> = lock.try_lock().expect("it is free");
    assert_eq!(format!("{guard} {guard:?} {lock:?}"), "5 5 Lock { is_locked: true, waiting: 0, .. }");
    assert_eq!(PutError::Full(()).to_string(), "the queue is full");
    assert_eq!(PutError::from(Interruption::TimedOut).into_value(), None::<u8>);
    assert_eq!(
        GetError::from(Interruption::Dropped).to_string(),
        "waiting for an item of a queue: dropped by what should have decided it"
    );
}
