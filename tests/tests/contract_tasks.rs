//! The contract, section 13: tasks, how they are polled, woken, awaited, cancelled and dropped.

#![allow(clippy::unwrap_used, reason = "in a test that is what is asserted")]

use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use twistor::sync::{Event, Lock, Queue, Semaphore};
use twistor::{Canceller, Deferred, Handle, Interruption, PanicPolicy, Reactor, Task, task};
use twistor_tests::{Driver, World, contract, kernel_contract};

type Words = Rc<RefCell<Vec<String>>>;

#[allow(clippy::needless_pass_by_value, reason = "for literals")]
fn say(words: &Words, word: impl ToString) {
    words.borrow_mut().push(word.to_string());
}

/// Says something when it is dropped.
struct Farewell(Words, &'static str);

impl Drop for Farewell {
    fn drop(&mut self) {
        say(&self.0, self.1);
    }
}

/// Does something when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Writes down the outcome of a task.
fn note<T: 'static>(task: Task<T>) -> Rc<RefCell<Option<Result<T, Interruption>>>> {
    let place = Rc::new(RefCell::new(None));
    let noted = Rc::clone(&place);
    task.on_done(move |_, outcome| *noted.borrow_mut() = Some(outcome));
    place
}

/// Is pending until its waker, which it gives away, is used.
fn gate() -> (Rc<RefCell<Option<Waker>>>, impl Future<Output = ()>) {
    let place = Rc::new(RefCell::new(None::<Waker>));
    let given = Rc::clone(&place);
    let mut asked = false;
    let future = poll_fn(move |cx: &mut Context<'_>| {
        if std::mem::replace(&mut asked, true) {
            return Poll::Ready(());
        }
        *given.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    });
    (place, future)
}

contract! {
    // Line 3.
    fn spawning_and_waking_run_nothing_inside_the_call(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let (waker, opened) = gate();
        let said = Rc::clone(&words);
        world.reactor.spawn(async move {
            say(&said, "began");
            opened.await;
            say(&said, "went on");
        });
        assert!(words.borrow().is_empty());
        world.turns(1);
        assert_eq!(*words.borrow(), ["began"]);
        waker.borrow().as_ref().unwrap().wake_by_ref();
        assert_eq!(*words.borrow(), ["began"]);
        world.turns(1);
        assert_eq!(*words.borrow(), ["began", "went on"]);
        assert_eq!(world.reactor.stats().tasks, 0);
    }

    // Lines 2 and 4.
    fn tasks_take_their_turn_in_the_order_of_callbacks(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let (one, two, three) = (Rc::clone(&words), Rc::clone(&words), Rc::clone(&words));
        world.reactor.call_soon(move |_| say(&one, 1));
        world.reactor.spawn(async move {
            say(&two, 2);
            let inside = Rc::clone(&two);
            task::spawn(async move { say(&inside, "next pass") });
            task::yield_now().await;
            say(&two, "next pass too");
        });
        world.reactor.call_soon(move |_| say(&three, 3));
        world.turns(1);
        assert_eq!(*words.borrow(), ["1", "2", "3"]);
        world.turns(1);
        assert_eq!(words.borrow()[3..], ["next pass", "next pass too"]);
    }

    // Line 75.
    fn a_task_gives_its_output_to_who_awaits_it_and_to_on_done(driver) {
        let world = World::new(driver);
        let outer = world.reactor.spawn(async {
            let inner = task::spawn(async {
                task::yield_now().await;
                Box::new(20)
            });
            let done = task::spawn(async { 22 });
            task::yield_now().await;
            task::yield_now().await;
            assert!(done.is_finished());
            *inner.await.unwrap() + done.await.unwrap()
        });
        let outcome = note(outer);
        world.until("the outcome", || outcome.borrow().is_some());
        assert_eq!(outcome.take(), Some(Ok(42)));
    }

    // Line 75.
    fn on_done_of_a_task_that_has_ended_is_called_by_the_loop(driver) {
        let world = World::new(driver);
        let task = world.reactor.spawn(async { "early" });
        world.turns(1);
        assert!(task.is_finished());
        let outcome = note(task);
        assert!(outcome.borrow().is_none());
        world.turns(1);
        assert_eq!(outcome.take(), Some(Ok("early")));
    }

    // Line 75.
    fn dropping_the_handle_of_a_task_lets_it_go_on(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let said = Rc::clone(&words);
        drop(world.reactor.spawn(async move {
            task::sleep(Duration::from_millis(1)).await;
            say(&said, "ended");
            Farewell(said, "output dropped")
        }));
        world.until("the end", || words.borrow().len() == 2);
        assert_eq!(*words.borrow(), ["ended", "output dropped"]);
        assert_eq!(world.reactor.stats().tasks, 0);
    }

    // Line 75.
    fn an_output_that_nobody_takes_is_dropped_with_its_handle(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let kept = Farewell(Rc::clone(&words), "output dropped");
        let task = world.reactor.spawn(async move { kept });
        world.turns(2);
        assert!(words.borrow().is_empty());
        drop(task);
        assert_eq!(*words.borrow(), ["output dropped"]);
    }

    // Line 75.
    fn cancelling_only_marks_and_the_loop_drops_the_future_where_it_waits(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let kept = Farewell(Rc::clone(&words), "future dropped");
        let task = world.reactor.spawn(async move {
            pending::<()>().await;
            drop(kept);
        });
        world.turns(1);
        assert!(task.cancel());
        assert!(!task.cancel(), "cancelling twice is ordinary");
        assert!(words.borrow().is_empty());
        let outcome = note(task);
        world.turns(1);
        assert_eq!(*words.borrow(), ["future dropped"]);
        assert_eq!(outcome.take(), Some(Err(Interruption::Cancelled)));
    }

    // Line 75.
    fn a_task_that_is_cancelled_before_its_first_poll_is_never_polled(driver) {
        let world = World::new(driver);
        let task = world.reactor.spawn(async { unreachable!("it was cancelled") });
        assert!(task.cancel());
        let outcome = note(task);
        world.turns(2);
        assert_eq!(outcome.take(), Some(Err(Interruption::Cancelled)));
        assert_eq!(world.reactor.stats().polls, 0);
    }

    // Line 75.
    fn a_woken_task_that_is_cancelled_is_not_polled_again(driver) {
        let world = World::new(driver);
        let (waker, opened) = gate();
        let task = world.reactor.spawn(async move {
            opened.await;
            unreachable!("it was cancelled");
        });
        world.turns(1);
        waker.borrow().as_ref().unwrap().wake_by_ref();
        assert!(task.cancel());
        let outcome = note(task);
        world.turns(2);
        assert_eq!(outcome.take(), Some(Err(Interruption::Cancelled)));
        assert_eq!(world.reactor.stats().polls, 1);
    }

    // Line 75.
    fn a_task_that_cancels_itself_ends_at_its_next_suspension(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let said = Rc::clone(&words);
        let own = Rc::new(RefCell::new(None));
        let canceller = Rc::clone(&own);
        let task = world.reactor.spawn(async move {
            task::yield_now().await;
            let canceller: task::TaskCanceller = canceller.borrow_mut().take().unwrap();
            assert!(canceller.cancel());
            assert!(!canceller.cancel());
            say(&said, "still here");
            task::yield_now().await;
            say(&said, "not here");
        });
        *own.borrow_mut() = Some(task.canceller());
        let outcome = note(task);
        world.turns(4);
        assert_eq!(*words.borrow(), ["still here"]);
        assert_eq!(outcome.take(), Some(Err(Interruption::Cancelled)));
    }

    // Lines 73 and 75.
    fn a_task_that_cancels_itself_in_its_last_poll_is_cancelled_all_the_same(driver) {
        let world = World::new(driver);
        let own = Rc::new(RefCell::new(None));
        let canceller = Rc::clone(&own);
        let task = world.reactor.spawn(async move {
            let canceller: task::TaskCanceller = canceller.borrow_mut().take().unwrap();
            assert!(canceller.cancel());
            "ended"
        });
        *own.borrow_mut() = Some(task.canceller());
        let outcome = note(task);
        world.turns(2);
        assert_eq!(outcome.take(), Some(Err(Interruption::Cancelled)));

        let own = Rc::new(RefCell::new(None::<Canceller>));
        let canceller = Rc::clone(&own);
        let deferred = world.reactor.spawn(async move { canceller.borrow().as_ref().unwrap().cancel() });
        let deferred = deferred.into_deferred();
        *own.borrow_mut() = Some(deferred.canceller());
        assert_eq!(twistor_tests::outcome::outcome(&world, deferred), Err(Interruption::Cancelled));
    }

    // Line 75.
    fn cancelling_from_the_destructor_of_the_future_is_too_late(driver) {
        let world = World::new(driver);
        let own = Rc::new(RefCell::new(None::<task::TaskCanceller>));
        let answers = Rc::new(RefCell::new(Vec::new()));
        let (canceller, noted) = (Rc::clone(&own), Rc::clone(&answers));
        let guard = OnDrop(move || noted.borrow_mut().push(canceller.borrow().as_ref().unwrap().cancel()));
        let task = world.reactor.spawn(async move {
            let _guard = guard;
            pending::<()>().await;
        });
        *own.borrow_mut() = Some(task.canceller());
        world.turns(1);
        task.cancel();
        let outcome = note(task);
        world.turns(2);
        assert_eq!(*answers.borrow(), [false]);
        assert_eq!(outcome.take(), Some(Err(Interruption::Cancelled)));
    }

    // Line 75.
    fn dropping_what_waits_for_a_task_cancels_that_task_too(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let kept = Farewell(Rc::clone(&words), "the awaited one");
        let outer = world.reactor.spawn(async move {
            let inner = task::spawn(async move {
                let _kept = kept;
                pending::<()>().await;
            });
            inner.await.unwrap();
        });
        world.turns(3);
        outer.cancel();
        world.turns(3);
        assert_eq!(*words.borrow(), ["the awaited one"]);
        assert_eq!(world.reactor.stats().tasks, 0);
    }

    // Lines 5 and 75.
    fn a_panic_ends_its_task_alone_and_says_why(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let kept = Farewell(Rc::clone(&words), "future dropped");
        let task = world.reactor.spawn(async move {
            let _kept = kept;
            task::yield_now().await;
            panic!("out of cheese");
        });
        let outcome: Rc<RefCell<Option<Result<(), _>>>> = note(task);
        let said = Rc::clone(&words);
        world.reactor.spawn(async move {
            task::yield_now().await;
            task::yield_now().await;
            say(&said, "the other");
        });
        world.turns(4);
        assert_eq!(outcome.take(), Some(Err(Interruption::Panicked("out of cheese".to_owned()))));
        assert_eq!(*words.borrow(), ["future dropped", "the other"]);
        assert_eq!(world.reactor.stats().panics, 1);
    }

    // Line 5.
    fn panics_of_destructors_and_of_done_hooks_are_contained(driver) {
        let world = World::new(driver);
        let bad = || OnDrop(|| panic!("a destructor"));
        let (one, two, three) = (bad(), bad(), bad());
        // The future's destructor, after its end, when it is cancelled, and that of an output.
        let ended = world.reactor.spawn(async move {
            task::yield_now().await;
            let _one = one;
            "ended"
        });
        let cancelled = world.reactor.spawn(async move {
            let _two = two;
            pending::<()>().await;
        });
        drop(world.reactor.spawn(async move { three }));
        world.reactor.spawn(async {}).on_done(|_, _| panic!("a hook"));
        world.turns(1);
        cancelled.cancel();
        let (ended, cancelled) = (note(ended), note(cancelled));
        world.turns(3);
        assert_eq!(cancelled.take(), Some(Err(Interruption::Cancelled)));
        // That one panicked while it was polled: its local was dropped at the end of the poll.
        assert_eq!(ended.take(), Some(Err(Interruption::Panicked("a destructor".to_owned()))));
        assert_eq!(world.reactor.stats().panics, 4);
        assert_eq!(world.reactor.stats().tasks, 0);
    }

    // Line 5.
    fn a_panic_of_a_task_can_be_let_out_of_run(driver) {
        let world = World::with(driver, |builder| builder.panic_policy(PanicPolicy::Propagate));
        world.reactor.spawn(async { panic!("let out") }).detach();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.turns(1)));
        assert_eq!(*caught.unwrap_err().downcast::<&str>().unwrap(), "let out");
    }

    // Line 75.
    fn a_waker_that_outlives_its_task_wakes_nobody_else(driver) {
        let world = World::new(driver);
        let (waker, opened) = gate();
        world.reactor.spawn(opened).detach();
        world.turns(1);
        let waker = waker.take().unwrap();
        waker.wake_by_ref();
        world.turns(1);
        assert_eq!(world.reactor.stats().tasks, 0);
        let polls = Rc::new(Cell::new(0));
        let counted = Rc::clone(&polls);
        world.reactor.spawn(poll_fn(move |_| {
            counted.set(counted.get() + 1);
            Poll::<()>::Pending
        })).detach();
        world.turns(1);
        waker.wake_by_ref();
        world.turns(2);
        assert_eq!(polls.get(), 1, "the next tenant of the slot was polled once");
        let stats = world.end();
        waker.wake();
        drop(stats);
    }

    // Line 75.
    fn a_task_that_is_woken_many_times_is_polled_once(driver) {
        let world = World::new(driver);
        let (waker, opened) = gate();
        world.reactor.spawn(opened).detach();
        world.turns(1);
        let waker = waker.take().unwrap();
        for _ in 0..10 {
            waker.wake_by_ref();
        }
        world.turns(3);
        assert_eq!(world.reactor.stats().polls, 2);
    }

    // Line 75.
    fn a_busy_task_does_not_keep_the_others_from_their_turn(driver) {
        let world = World::new(driver);
        let handle = Handle::clone(&world.reactor);
        let sum = Rc::new(Cell::new(0_u64));
        let counted = Rc::clone(&sum);
        world.reactor.spawn(async move {
            loop {
                handle.sleep(Duration::ZERO).await;
                counted.set(counted.get() + 1);
            }
        }).detach();
        world.turns(1);
        assert_eq!(sum.get(), 128);
        world.turns(1);
        assert_eq!(sum.get(), 256);
    }

    // Lines 9 and 75.
    fn tasks_that_wait_for_whatever_there_is_go_down_with_their_reactor(driver) {
        let world = World::new(driver);
        let handle = Handle::clone(&world.reactor);
        let silent = world.machine().silent();
        let words = Words::default();
        let held = Rc::new(());
        let wakers = Rc::new(RefCell::new(Vec::new()));
        let (lock, queue) = (Lock::new(&handle, 1), Queue::<u32>::new(&handle, 1));
        let (event, permits) = (Event::new(&handle), Semaphore::new(&handle, 1));
        let guard = lock.try_lock().unwrap();
        let permit = permits.try_acquire().unwrap();
        let (resolver, deferred) = Deferred::<u32, Interruption>::new(&handle);
        let (_kept, cancellable) = Deferred::<u32, Interruption>::with_canceller(&handle, |_, _| unreachable!());
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let mut kept = Vec::new();
        let mut spawn = |word: &'static str, future: Pin<Box<dyn Future<Output = ()>>>| {
            let (farewell, held) = (Farewell(Rc::clone(&words), word), Rc::clone(&held));
            let wakers = Rc::clone(&wakers);
            kept.push(handle.spawn(async move {
                let (_held, _farewell) = (held, farewell);
                poll_fn(|cx| {
                    wakers.borrow_mut().push(cx.waker().clone());
                    Poll::Ready(())
                })
                .await;
                future.await;
            }));
        };
        let connecting = handle.connect_stream(silent.address);
        spawn("connect", Box::pin(async { drop(connecting.await) }));
        spawn("sleep", Box::pin(handle.sleep(Duration::from_secs(3600))));
        if driver != Driver::Simulated {
            let job = handle.defer_to_thread(move || blocked.recv().is_ok());
            spawn("thread", Box::pin(async { drop(job.await) }));
        }
        let (waiting, ours) = (lock.lock(), lock.clone());
        spawn("lock", Box::pin(async move { drop((waiting.await, ours)) }));
        let (waiting, ours) = (queue.get(), queue.clone());
        spawn("queue", Box::pin(async move { drop((waiting.await, ours)) }));
        let (waiting, ours) = (event.wait(), event.clone());
        spawn("event", Box::pin(async move { drop((waiting.await, ours)) }));
        let (waiting, ours) = (permits.acquire(), permits.clone());
        spawn("permit", Box::pin(async move { drop((waiting.await, ours, permit, guard)) }));
        spawn("deferred", Box::pin(async { drop(deferred.map(|value| value + 1).await) }));
        spawn("cancellable", Box::pin(async { drop(cancellable.await) }));
        let (spawner, spawned) = (handle.clone(), Farewell(Rc::clone(&words), "spawned by a destructor"));
        let mut spawned = Some(spawned);
        let spawns = OnDrop(move || {
            let spawned = spawned.take();
            spawner.spawn(async move { drop(spawned) }).detach();
        });
        spawn("spawns", Box::pin(async move {
            let _spawns = spawns;
            pending::<()>().await;
        }));
        let panics = OnDrop(|| panic!("on purpose"));
        spawn("panics", Box::pin(async move {
            let _panics = panics;
            pending::<()>().await;
        }));
        let own = Rc::new(RefCell::new(None::<Task<()>>));
        let mine = Rc::clone(&own);
        spawn("itself", Box::pin(async move {
            pending::<()>().await;
            drop(mine);
        }));
        *own.borrow_mut() = kept.pop();
        drop(own);
        world.turns(3);
        release.send(()).unwrap_or_default();
        drop(world);
        assert_eq!(Rc::strong_count(&held), 1, "{:?}", words.borrow());
        assert!(words.borrow().iter().any(|word| word == "spawned by a destructor"));
        assert!(words.borrow().len() >= 12);
        // What survives does nothing.
        for mut task in kept {
            assert!(!task.cancel() && task.is_finished());
            let polled = Pin::new(&mut task).poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!(polled, Poll::Ready(Err(Interruption::Dropped)));
        }
        assert!(wakers.borrow().len() >= 11);
        let wakers = wakers.take();
        wakers.iter().for_each(Waker::wake_by_ref);
        std::thread::spawn(move || wakers.into_iter().for_each(Waker::wake)).join().unwrap();
        assert!(!resolver.callback(1));
        queue.try_put(1).unwrap();
        event.set();
        drop(lock.lock());
        assert!(handle.spawn(async {}).is_finished());
    }

    // Line 14.
    fn a_sleep_is_never_early_and_counts_from_its_call(driver) {
        let world = World::new(driver);
        let machine = world.machine();
        let task = world.reactor.spawn(async move {
            let handle = Handle::current().unwrap();
            let called = handle.now();
            let sleep = handle.sleep(Duration::from_millis(10));
            machine.spend(Duration::from_millis(6));
            sleep.await;
            handle.now() - called
        });
        let outcome = note(task);
        world.until("the end of the sleep", || outcome.borrow().is_some());
        let slept = outcome.take().unwrap().unwrap();
        assert!(slept >= Duration::from_millis(10), "{slept:?}");
        assert_eq!(world.reactor.stats().timers, 0);
    }

    // Line 15.
    fn a_sleep_that_is_dropped_leaves_no_timer(driver) {
        let world = World::new(driver);
        let task = world.reactor.spawn(async { task::sleep(Duration::from_secs(3600)).await });
        world.turns(2);
        assert_eq!(world.reactor.stats().timers, 1);
        task.cancel();
        world.turns(1);
        assert_eq!(world.reactor.stats().timers, 0);
    }

    // Line 15.
    fn a_sleep_can_be_moved_while_somebody_waits_for_it(driver) {
        let world = World::new(driver);
        let sleep = Rc::new(RefCell::new(world.reactor.sleep(Duration::from_secs(3600))));
        let awaited = Rc::clone(&sleep);
        let task = world.reactor.spawn(poll_fn(move |cx| Pin::new(&mut *awaited.borrow_mut()).poll(cx)));
        world.turns(2);
        sleep.borrow_mut().reset(Duration::from_millis(1));
        let outcome = note(task);
        world.until("the end of the sleep", || outcome.borrow().is_some());
        assert!(sleep.borrow().is_over());
    }

    // Lines 7 and 75.
    fn a_stop_drops_the_tasks_that_are_left_and_calls_nobody(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let (said, kept) = (Rc::clone(&words), Farewell(Rc::clone(&words), "future dropped"));
        world.reactor.spawn(async move {
            let _kept = kept;
            pending::<()>().await;
        }).on_done(move |_, _| say(&said, "hook called"));
        let held = world.reactor.spawn(pending::<()>());
        world.turns(1);
        world.reactor.stop();
        while world.turn(Duration::ZERO) {}
        assert_eq!(*words.borrow(), ["future dropped"]);
        assert_eq!(world.reactor.stats().tasks, 0);
        // It can run again, and what was held says what became of it.
        let outcome = note(held);
        world.turns(1);
        assert_eq!(outcome.take(), Some(Err(Interruption::Cancelled)));
    }

    // Line 9.
    fn the_end_of_the_reactor_drops_tasks_outcomes_and_what_their_destructors_make(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let handle = Handle::clone(&world.reactor);
        let (said, kept) = (Rc::clone(&words), Farewell(Rc::clone(&words), "outcome"));
        let finished = world.reactor.spawn(async move { kept });
        let (waker, opened) = gate();
        let other = world.reactor.spawn(opened);
        let canceller = other.canceller();
        let guard = OnDrop(move || {
            canceller.cancel();
            if let Some(waker) = waker.take() {
                waker.wake();
            }
            let kept = Farewell(Rc::clone(&said), "spawned by a destructor");
            handle.spawn(async move { drop(kept) }).detach();
        });
        world.reactor.spawn(async move {
            let _guard = guard;
            pending::<()>().await;
        }).detach();
        world.turns(1);
        let rest = world.end();
        assert_eq!(*words.borrow(), ["spawned by a destructor", "outcome"]);
        assert!(finished.is_finished() && !finished.cancel() && !other.cancel());
        drop(rest);
    }

    // Line 6.
    fn a_task_that_waits_for_nothing_does_not_keep_run_until_idle(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let said = Rc::clone(&words);
        world.reactor.spawn(pending::<()>()).detach();
        world.reactor.spawn(async move {
            task::sleep(Duration::from_millis(2)).await;
            say(&said, "slept");
        }).detach();
        world.reactor.run_until_idle().unwrap();
        assert_eq!(*words.borrow(), ["slept"]);
        assert_eq!(world.reactor.stats().tasks, 1);
    }

    // Line 75.
    fn a_future_can_be_run_to_its_end(driver) {
        let world = World::new(driver);
        let output = world.reactor.run_until_complete(async {
            task::sleep(Duration::from_millis(1)).await;
            "output".to_owned()
        });
        assert_eq!(output.unwrap(), "output");
        // Again, with a panic, and with a stop before its end.
        let error = world.reactor.run_until_complete(async { if true { panic!("no output") } }).unwrap_err();
        assert!(error.to_string().contains("no output"), "{error}");
        let error = world.reactor.run_until_complete(async {
            Handle::current().unwrap().stop();
            pending::<()>().await;
        }).unwrap_err();
        let why = error.get_ref().and_then(|why| why.downcast_ref::<Interruption>());
        assert_eq!(why, Some(&Interruption::Cancelled));
        let output = world.reactor.run_until_complete(async {
            Handle::current().unwrap().stop();
            "ended while it stops"
        });
        assert_eq!(output.unwrap(), "ended while it stops");
        assert!(!world.reactor.is_stopping());
    }

    // Lines 6 and 75.
    fn running_a_future_from_a_hook_is_an_error(driver) {
        let reactor = Rc::new(World::new(driver).reactor);
        let inner = Rc::clone(&reactor);
        let kind = reactor.run_until_complete(async move {
            inner.run_until_complete(pending::<()>()).unwrap_err().kind()
        });
        assert_eq!(kind.unwrap(), std::io::ErrorKind::ResourceBusy);
        reactor.turn(Some(Duration::ZERO)).unwrap();
        assert_eq!(reactor.stats().tasks, 0, "what was not run is dropped");
    }

    // Line 75.
    fn names_tell_tasks_apart(driver) {
        let world = World::new(driver);
        let task = world.reactor.spawn_named("the reader", pending::<()>());
        world.reactor.spawn(pending::<()>()).detach();
        assert_eq!(task.name().as_deref(), Some("the reader"));
        let tasks = world.reactor.tasks();
        assert_eq!(tasks.len(), 2);
        assert_eq!(tasks[0].name.as_deref(), Some("the reader"));
        assert!(tasks[1].spawned_at.file().ends_with("contract_tasks.rs"));
        task.set_name("another");
        assert_eq!(world.reactor.tasks()[0].name.as_deref(), Some("another"));
    }

    // Line 9.
    fn a_task_on_a_reactor_that_is_gone_is_dropped_at_once(driver) {
        let handle = Handle::clone(&World::new(driver).reactor);
        let words = Words::default();
        let kept = Farewell(Rc::clone(&words), "future dropped");
        let mut task = handle.spawn(async move { drop(kept) });
        assert_eq!(*words.borrow(), ["future dropped"]);
        assert!(task.is_finished() && !task.cancel());
        let polled = Pin::new(&mut task).poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(polled, Poll::Ready(Err(Interruption::Dropped)));
    }
}

kernel_contract! {
    // Line 75.
    fn a_waker_works_from_any_thread_and_wakes_a_sleeping_loop(driver) {
        let reactor = World::new(driver).reactor;
        let rounds = reactor.run_until_complete(async {
            for _ in 0..100 {
                let mut thread = None;
                poll_fn(|cx| {
                    if thread.is_some() {
                        return Poll::Ready(());
                    }
                    let waker = cx.waker().clone();
                    thread = Some(std::thread::spawn(move || waker.wake()));
                    Poll::Pending
                }).await;
                thread.unwrap().join().unwrap();
            }
        });
        rounds.unwrap();
    }
}

#[test]
fn a_program_runs_in_one_call() {
    let words = Words::default();
    let said = Rc::clone(&words);
    let output = twistor::run(async move |reactor| {
        let kept = Farewell(said, "left over");
        reactor
            .spawn(async move {
                let _kept = kept;
                pending::<()>().await;
            })
            .detach();
        reactor.sleep(Duration::from_millis(1)).await;
        "output"
    });
    assert_eq!(output.unwrap(), "output");
    assert_eq!(*words.borrow(), ["left over"]);
}

#[test]
#[should_panic(expected = "no reactor runs on this thread")]
fn the_functions_of_the_module_need_a_reactor() {
    let _reactor = Reactor::new().unwrap();
    drop(task::sleep(Duration::ZERO));
}
