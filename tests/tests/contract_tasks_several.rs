//! The contract, section 13: several futures at a time, time-outs, shields and scopes.

#![allow(clippy::unwrap_used, reason = "in a test that is what is asserted")]

use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use twistor::{Interruption, task};
use twistor_tests::{World, contract};

type Words = Rc<RefCell<Vec<&'static str>>>;

/// Says something when it is dropped.
struct Farewell(Words, &'static str);

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.borrow_mut().push(self.1);
    }
}

/// Says something when it is dropped, and never ends otherwise.
async fn never_ends(words: Words, word: &'static str) {
    let _farewell = Farewell(words, word);
    pending::<()>().await;
}

async fn after<T>(milliseconds: u64, value: T) -> T {
    task::sleep(Duration::from_millis(milliseconds)).await;
    value
}

/// Runs a future to its end on a world that is turned, and returns its output.
fn run<T: 'static>(world: &World, future: impl Future<Output = T> + 'static) -> T {
    let place = Rc::new(RefCell::new(None));
    let noted = Rc::clone(&place);
    world.reactor.spawn(future).on_done(move |_, outcome| *noted.borrow_mut() = Some(outcome));
    world.until("the end of the future", || place.borrow().is_some());
    place.take().unwrap().unwrap()
}

fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

contract! {
    // Line 74.
    fn gather_gives_all_outputs_in_the_order_of_its_input(driver) {
        let world = World::new(driver);
        let outputs = run(&world, task::gather([after(3, 'a'), after(1, 'b'), after(2, 'c')]));
        assert_eq!(outputs, ['a', 'b', 'c']);
        let outputs = run(&world, async { task::gather((after(2, 1), async { "text" }, after(1, 'c'))).await });
        assert_eq!(outputs, (1, "text", 'c'));
        let spawned = (0..5_u64).map(|n| world.reactor.spawn(after(5 - n, n))).collect::<Vec<_>>();
        let outputs = run(&world, task::gather(spawned));
        assert_eq!(outputs, [Ok(0), Ok(1), Ok(2), Ok(3), Ok(4)]);
    }

    // Line 74.
    fn the_first_error_is_the_outcome_of_try_gather_and_drops_the_rest(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let rest = never_ends(Rc::clone(&words), "dropped");
        let outcome = run(&world, async {
            task::try_gather((
                async { rest.await; Ok::<_, &str>(1) },
                async { Err::<u8, _>(after(1, "failed").await) },
            )).await
        });
        assert_eq!(outcome, Err("failed"));
        assert_eq!(*words.borrow(), ["dropped"]);
        let all = run(&world, task::try_gather((0..3).map(async |n| Ok::<_, ()>(after(3 - n, n).await))));
        assert_eq!(all, Ok(vec![0, 1, 2]));
        let words = Words::default();
        let futures = (0..3).map(|n| {
            let farewell = Farewell(Rc::clone(&words), "dropped");
            async move {
                after(n, ()).await;
                drop(farewell);
                if n == 1 { Err(n) } else { Ok(n) }
            }
        });
        assert_eq!(run(&world, task::try_gather(futures.collect::<Vec<_>>())), Err(1));
        assert_eq!(words.borrow().len(), 3);
        assert_eq!(world.reactor.stats().timers, 0);
    }

    // Line 74.
    fn a_race_polls_all_its_runners_names_the_first_and_drops_the_losers(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let loser = never_ends(Rc::clone(&words), "dropped");
        let started = Rc::new(Cell::new(0));
        let (one, two) = (Rc::clone(&started), Rc::clone(&started));
        let winner = run(&world, async {
            task::race((
                async move { one.set(one.get() + 1); loser.await; "loser" },
                async { "winner" },
                async move { two.set(two.get() + 1); "also at once" },
            )).await
        });
        assert_eq!(winner, Ok((1, "winner")));
        assert_eq!(started.get(), 2);
        assert_eq!(*words.borrow(), ["dropped"]);
        assert_eq!(run(&world, task::race([after(3, 'a'), after(1, 'b')])), Ok((1, 'b')));
        assert_eq!(world.reactor.stats().timers, 0);
    }

    // Line 74.
    fn a_race_cancels_the_tasks_that_lose(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let slow = world.reactor.spawn(never_ends(Rc::clone(&words), "cancelled"));
        let quick = world.reactor.spawn(async {});
        assert_eq!(run(&world, task::race([slow, quick])), Ok((1, Ok(()))));
        world.turns(2);
        assert_eq!(*words.borrow(), ["cancelled"]);
        assert_eq!(world.reactor.stats().tasks, 0);
    }

    // Line 74.
    fn any_takes_the_first_success_or_all_errors(driver) {
        let world = World::new(driver);
        let answers = [(3, Ok("late")), (1, Err("failed")), (2, Ok("first"))];
        let attempts = answers.map(|(time, answer)| after(time, answer));
        assert_eq!(run(&world, task::any(attempts)), Ok((2, "first")));
        let attempts = [(2, Err::<(), _>("a")), (1, Err("b"))].map(|(time, answer)| after(time, answer));
        assert_eq!(run(&world, task::any(attempts)), Err(vec!["a", "b"]));
        assert_eq!(world.reactor.stats().timers, 0);
    }

    // Line 74.
    fn nothing_to_wait_for_is_decided_at_once(driver) {
        let world = World::new(driver);
        type Nothing = Vec<std::future::Ready<Result<(), ()>>>;
        assert_eq!(run(&world, task::gather(Nothing::new())), []);
        assert_eq!(run(&world, task::try_gather(Nothing::new())), Ok(vec![]));
        assert_eq!(run(&world, task::race(Nothing::new())), Err(Interruption::Empty));
        assert_eq!(run(&world, task::any(Nothing::new())), Err(vec![]));
        assert_eq!(run(&world, async { task::as_completed(Nothing::new()).next().await }), None);
        let nothing = task::scope(async |_: task::Scope<'_, io::Error>| Ok(()));
        assert!(run(&world, nothing).is_ok());
    }

    // Line 74.
    fn as_completed_yields_in_the_order_of_the_ends(driver) {
        let world = World::new(driver);
        let order = run(&world, async {
            let mut naps = task::as_completed([5, 1, 3].map(|length| after(length, length)));
            let mut order = Vec::new();
            assert_eq!(naps.left(), 3);
            while let Some(nap) = naps.next().await {
                order.push(nap);
            }
            order
        });
        assert_eq!(order, [(1, 1), (2, 3), (0, 5)]);
    }

    // Line 74.
    fn a_hundred_thousand_children_are_polled_only_when_they_are_woken(driver) {
        let world = World::new(driver);
        const COUNT: usize = 100_000;
        let (wakers, polls) = (Rc::new(RefCell::new(Vec::with_capacity(COUNT))), Rc::new(Cell::new(0)));
        let children = (0..COUNT).map(|number| {
            let (given, counted) = (Rc::clone(&wakers), Rc::clone(&polls));
            let mut asked = false;
            poll_fn(move |cx: &mut Context<'_>| {
                counted.set(counted.get() + 1);
                if std::mem::replace(&mut asked, true) {
                    return Poll::Ready(number);
                }
                given.borrow_mut().push(cx.waker().clone());
                Poll::Pending
            })
        }).collect::<Vec<_>>();
        let outputs = Rc::new(RefCell::new(None));
        let noted = Rc::clone(&outputs);
        world.reactor.spawn(task::gather(children)).on_done(move |_, all| *noted.borrow_mut() = Some(all));
        world.until("the first round", || wakers.borrow().len() == COUNT);
        // One at a time, last first: quadratic polling would take hours.
        for waker in wakers.borrow_mut().drain(..).rev().enumerate().map(|(n, waker)| (n % 100 == 0, waker)) {
            waker.1.wake();
            if waker.0 {
                world.turns(1);
            }
        }
        world.until("all outputs", || outputs.borrow().is_some());
        assert!(outputs.take().unwrap().unwrap().into_iter().eq(0..COUNT));
        assert_eq!(polls.get(), 2 * COUNT);
    }

    // Line 73.
    fn a_timeout_drops_its_future_when_the_time_is_up_and_not_before(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let never = never_ends(Rc::clone(&words), "dropped");
        let before = world.now();
        let outcome = run(&world, async move {
            let mut pinned = Box::pin(task::timeout(Duration::from_millis(20), never));
            let outcome = (&mut pinned).await;
            // Dropped by the time-out itself, not with it.
            (outcome, pinned)
        });
        assert!(world.since(before) >= Duration::from_millis(20));
        assert_eq!(outcome.0, Err(Interruption::TimedOut));
        assert_eq!(*words.borrow(), ["dropped"]);
        assert_eq!(run(&world, async { task::timeout(Duration::from_secs(60), async { 42 }).await }), Ok(42));
        assert_eq!(world.reactor.stats().timers, 0);
    }

    // Lines 73 and 75.
    fn a_future_that_always_finds_something_to_do_times_out_all_the_same(driver) {
        let world = World::new(driver);
        let machine = world.machine();
        let outcome = run(&world, async move {
            task::timeout(Duration::from_millis(5), async move {
                loop {
                    task::sleep(Duration::ZERO).await;
                    machine.spend(Duration::from_micros(10));
                }
            }).await.map(|(): ()| ())
        });
        assert_eq!(outcome, Err(Interruption::TimedOut));
    }

    // Line 75.
    fn a_shielded_task_goes_on_when_its_waiter_is_cancelled(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let said = Rc::clone(&words);
        let outcome = run(&world, async move {
            let saving = task::shield(async move {
                task::sleep(Duration::from_millis(10)).await;
                said.borrow_mut().push("saved");
            });
            task::timeout(Duration::from_millis(1), saving).await
        });
        assert_eq!(outcome, Err(Interruption::TimedOut));
        assert!(words.borrow().is_empty());
        world.until("the shielded task ends", || !words.borrow().is_empty());
        assert_eq!(run(&world, async { task::shield(async { 42 }).await }), Ok(42));
    }

    // Line 75.
    fn a_scope_ends_after_its_children(driver) {
        let world = World::new(driver);
        let ended = Rc::new(Cell::new(0));
        let counted = Rc::clone(&ended);
        let outcome: Result<_, Interruption> = run(&world, async move {
            // Children borrow from outside of the scope.
            let counted = &*counted;
            task::scope(async |scope| {
                for length in 1..=3 {
                    scope.spawn(async move {
                        after(length, ()).await;
                        counted.set(counted.get() + 1);
                        Ok(())
                    });
                }
                let value = scope.spawn(async { Ok(after(1, "value").await) });
                // A child that has a child.
                let inner = scope.clone();
                scope.spawn(async move {
                    after(4, ()).await;
                    inner.spawn(async move {
                        after(1, ()).await;
                        counted.set(counted.get() + 1);
                        Ok(())
                    });
                    Ok(())
                });
                value.await
            }).await
        });
        assert_eq!(outcome, Ok("value"));
        assert_eq!(ended.get(), 4);
        assert_eq!(world.reactor.stats().timers, 0);
    }

    // Line 75.
    fn the_first_error_of_a_scope_drops_the_rest_before_the_scope_ends(driver) {
        let world = World::new(driver);
        let words = Words::default();
        for by_body in [false, true] {
            let (one, two, seen) = (Rc::clone(&words), Rc::clone(&words), Rc::clone(&words));
            let dropped = run(&world, async move {
                let outcome: Result<(), io::Error> = task::scope(async move |scope| {
                    scope.spawn(async move { never_ends(one, "child").await; Ok(()) });
                    if by_body {
                        // Of these the scope has not even heard.
                        scope.spawn(async { Ok(()) });
                        return Err(io::Error::other("failed"));
                    }
                    scope.spawn(async { after(1, ()).await; Err::<(), _>(io::Error::other("failed")) });
                    never_ends(two, "body").await;
                    Ok(())
                }).await;
                assert_eq!(outcome.unwrap_err().to_string(), "failed");
                seen.take()
            });
            assert_eq!(dropped, if by_body { vec![] } else { vec!["body", "child"] });
            words.take();
        }
    }

    // Line 75.
    fn dropping_a_scope_drops_its_children_at_once(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let (said, kept) = (Rc::clone(&words), Rc::new(RefCell::new(None)));
        let keep = Rc::clone(&kept);
        let mut scope = Box::pin(task::scope(async move |scope: task::Scope<'_, Interruption>| {
            scope.spawn(async { never_ends(said, "child").await; Ok(()) });
            *keep.borrow_mut() = Some(scope);
            pending::<Result<(), _>>().await
        }));
        assert!(poll_once(&mut scope).is_pending());
        drop(scope);
        assert_eq!(*words.borrow(), ["child"]);
        // What is spawned after the end is dropped too.
        let scope = kept.take().unwrap();
        let late = Farewell(Rc::clone(&words), "late");
        let mut child = scope.spawn(async move {
            drop(late);
            Ok(())
        });
        assert_eq!(*words.borrow(), ["child", "late"]);
        assert_eq!(poll_once(&mut child), Poll::Ready(Err(Interruption::Cancelled)));
        drop(world);
    }

    // Lines 5 and 75.
    fn a_panic_of_a_child_is_an_error_of_its_scope(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let said = Rc::clone(&words);
        let outcome: Result<(), Interruption> = run(&world, task::scope(async move |scope| {
            scope.spawn(async { never_ends(said, "dropped").await; Ok(()) });
            scope.spawn(async { if true { panic!("a child") } Ok(()) });
            Ok(())
        }));
        assert_eq!(outcome, Err(Interruption::Panicked("a child".to_owned())));
        assert_eq!(*words.borrow(), ["dropped"]);
        assert_eq!(world.reactor.stats().panics, 1);
    }

    // Line 75.
    fn a_scope_can_be_added_to_from_a_callback(driver) {
        let world = World::new(driver);
        let outcome: Result<u8, Interruption> = run(&world, task::scope(async |scope: task::Scope<'static, _>| {
            let (waker, heard) = (Rc::new(RefCell::new(None)), Rc::new(Cell::new(false)));
            let (woken, said) = (Rc::clone(&waker), Rc::clone(&heard));
            twistor::Handle::current().unwrap().call_later(Duration::from_millis(1), move |_| {
                scope.spawn(async move {
                    said.set(true);
                    let waker: Waker = RefCell::take(&woken).unwrap();
                    waker.wake();
                    Ok(())
                });
            });
            poll_fn(move |cx| {
                *waker.borrow_mut() = Some(cx.waker().clone());
                if heard.get() { Poll::Ready(Ok(7)) } else { Poll::Pending }
            }).await
        }));
        assert_eq!(outcome, Ok(7));
    }

    // Line 5.
    fn a_panic_in_one_of_several_leaves_through_the_whole(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let rest = never_ends(Rc::clone(&words), "dropped");
        let task = world.reactor.spawn(async { task::gather((rest, async { panic!("one of them") })).await });
        world.turns(2);
        assert_eq!(*words.borrow(), ["dropped"]);
        drop(task);
    }
}

#[test]
fn several_futures_need_no_reactor() {
    let mut gathered = Box::pin(task::gather([std::future::ready(1), std::future::ready(2)]));
    assert_eq!(poll_once(&mut gathered), Poll::Ready(vec![1, 2]));
    let mut failing = Box::pin(task::gather([poll_fn(|_| -> Poll<()> { panic!("polled") })]));
    assert!(catch_unwind(AssertUnwindSafe(|| poll_once(&mut failing))).is_err());
}
