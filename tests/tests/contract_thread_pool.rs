//! The contract, section 12: jobs on other threads, and answers from the loop for other threads.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use twistor::{CallError, Deferred, JobError, ThreadPool};
use twistor_tests::{World, contract, in_child, kernel_contract, process};

/// Where an outcome will be.
type Outcome<T> = Rc<RefCell<Option<Result<T, JobError>>>>;

fn watch<T: 'static>(deferred: Deferred<T, JobError>) -> Outcome<T> {
    let outcome = Rc::new(RefCell::new(None));
    let place = Rc::clone(&outcome);
    deferred.on_done(move |_, result| *place.borrow_mut() = Some(result));
    outcome
}

fn await_outcome<T: 'static>(world: &World, deferred: Deferred<T, JobError>) -> Result<T, JobError> {
    let outcome = watch(deferred);
    world.until("the job is done", || outcome.borrow().is_some());
    outcome.take().expect("just seen")
}

contract! {
    // Line 67.
    fn the_result_of_a_job_comes_back_on_the_loops_thread(driver) {
        let world = World::new(driver);
        let main = thread::current().id();
        let heard = Rc::new(Cell::new(None));
        let place = Rc::clone(&heard);
        world.reactor.defer_to_thread(|| 6 * 7).on_done(move |_, result| {
            place.set(Some((result == Ok(42), thread::current().id() == main)));
        });
        assert_eq!(heard.get(), None, "no call runs a hook");
        world.until("the job is done", || heard.get().is_some());
        assert_eq!(heard.get(), Some((true, true)));
    }

    // Line 67.
    fn a_panic_in_a_job_is_its_outcome_and_the_pool_goes_on(driver) {
        let world = World::new(driver);
        let outcome = await_outcome(&world, world.reactor.defer_to_thread(|| -> u8 { panic!("no luck") }));
        assert_eq!(outcome, Err(JobError::Panicked("no luck".to_owned())));
        assert_eq!(await_outcome(&world, world.reactor.defer_to_thread(|| 1)), Ok(1));
    }

    // Line 67.
    fn a_cancelled_job_says_so_and_its_late_result_is_swallowed(driver) {
        let world = World::new(driver);
        let deferred = world.reactor.defer_to_thread(|| 1);
        let canceller = deferred.canceller();
        let outcome = watch(deferred);
        assert!(canceller.cancel());
        assert!(!canceller.cancel(), "twice is an ordinary false");
        assert!(outcome.borrow().is_none(), "no call runs a hook");
        world.until("the outcome", || outcome.borrow().is_some());
        assert_eq!(outcome.take(), Some(Err(JobError::Cancelled)));
        world.run_for(Duration::from_millis(10));
        assert!(outcome.borrow().is_none());
    }

    // Lines 6 and 67.
    fn running_until_idle_waits_for_jobs(driver) {
        let world = World::new(driver);
        let outcome = watch(world.reactor.defer_to_thread(|| 1));
        world.reactor.run_until_idle().expect("a run");
        assert_eq!(outcome.take(), Some(Ok(1)));
    }

    // Line 67.
    fn jobs_of_a_pool_of_one_run_one_after_the_other(driver) {
        let world = World::new(driver);
        let pool = ThreadPool::new(1);
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let outcomes: Vec<_> = (0..8)
            .map(|n| {
                let order = Arc::clone(&order);
                watch(pool.defer(&world.reactor, move || order.lock().expect("not poisoned").push(n)))
            })
            .collect();
        world.until("all are done", || outcomes.iter().all(|outcome| outcome.borrow().is_some()));
        assert_eq!(*order.lock().expect("not poisoned"), (0..8).collect::<Vec<_>>());
    }

    // Line 67.
    fn a_stop_does_not_leave_a_job_unanswered(driver) {
        let world = World::new(driver);
        let outcome = watch(world.reactor.defer_to_thread(|| 1));
        world.reactor.stop();
        world.reactor.run().expect("a run");
        world.reactor.run_until_idle().expect("and another");
        let outcome = outcome.take();
        assert!(matches!(outcome, None | Some(Ok(1) | Err(JobError::Gone))), "{outcome:?}");
    }

    // Line 67.
    fn a_kept_deferred_does_not_keep_the_pool(driver) {
        let world = World::new(driver);
        let pool = ThreadPool::new(1);
        let weak = Arc::new(());
        let held = Arc::clone(&weak);
        let deferred = pool.defer(&world.reactor, move || drop(held));
        drop(pool);
        drop(world);
        assert_eq!(Arc::strong_count(&weak), 1, "the job has run, or was dropped");
        drop(deferred);
    }

    // Lines 5 and 67.
    fn a_cancelled_job_whose_destructor_panics_is_cancelled_all_the_same(driver) {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                if !thread::panicking() {
                    panic!("in a destructor");
                }
            }
        }
        let world = World::new(driver);
        let pool = ThreadPool::new(1);
        let busy = pool.defer(&world.reactor, || thread::sleep(Duration::from_millis(20)));
        let bomb = Bomb;
        let deferred = pool.defer(&world.reactor, move || {
            let _bomb = &bomb;
        });
        let canceller = deferred.canceller();
        let outcome = watch(deferred);
        assert!(canceller.cancel());
        busy.on_done(|_, _| {});
        world.reactor.run_until_idle().expect("a run");
        assert_eq!(outcome.take(), Some(Err(JobError::Cancelled)));
    }

    // Lines 9 and 67.
    fn what_waits_for_a_job_is_dropped_with_the_reactor(driver) {
        let world = World::new(driver);
        let kept = Rc::new(());
        let held = Rc::clone(&kept);
        world.reactor.defer_to_thread(|| 1).on_done(move |_, _| drop(held));
        let handle = twistor::Handle::clone(&world.reactor);
        drop(world);
        assert_eq!(Rc::strong_count(&kept), 1);
        // Afterwards nothing is started, and nobody is there to hear of it.
        handle.defer_to_thread(|| unreachable!("the reactor is gone")).on_done(|_, _: Result<(), _>| {
            unreachable!("nor is there a loop")
        });
    }
}

kernel_contract! {
    // Line 67. Real threads: a simulated reactor runs jobs itself.
    fn a_job_does_not_hold_the_loop(driver) {
        let world = World::new(driver);
        let (release, released) = mpsc::channel::<()>();
        let outcome = watch(world.reactor.defer_to_thread(move || released.recv().is_ok()));
        let ticks = Rc::new(Cell::new(0));
        let count = Rc::clone(&ticks);
        let ticking = world.reactor.every(Duration::from_millis(1), move |_, _| count.set(count.get() + 1));
        world.until("the loop goes on", || ticks.get() == 5);
        assert!(outcome.borrow().is_none());
        release.send(()).expect("the job waits");
        world.until("the job is done", || outcome.borrow().is_some());
        ticking.stop();
        assert_eq!(outcome.take(), Some(Ok(true)));
    }

    // Line 67.
    fn a_finished_job_wakes_a_sleeping_loop(driver) {
        let world = World::new(driver);
        world.reactor.defer_to_thread(|| thread::sleep(Duration::from_millis(30))).on_done(|reactor, _| {
            reactor.stop();
        });
        world.reactor.run().expect("a run");
        assert!(world.reactor.stats().passes < 20, "{}", world.reactor.stats());
    }

    // Line 67.
    fn threads_start_on_demand_and_no_more_than_the_pool_has(driver) {
        let world = World::new(driver);
        let pool = ThreadPool::new(3);
        assert_eq!(pool.threads(), 0);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let job = || {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(2));
                running.fetch_sub(1, Ordering::SeqCst);
            }
        };
        assert_eq!(await_outcome(&world, pool.defer(&world.reactor, job())), Ok(()));
        assert_eq!(pool.threads(), 1);
        let outcomes: Vec<_> = (0..50).map(|_| watch(pool.defer(&world.reactor, job()))).collect();
        world.until("all are done", || outcomes.iter().all(|outcome| outcome.borrow().is_some()));
        assert_eq!(pool.threads(), 3);
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    // Line 67.
    fn a_full_pool_refuses_and_recovers(driver) {
        let world = World::new(driver);
        let pool = ThreadPool::with_queue(1, 2);
        let barrier = Arc::new(Barrier::new(2));
        let (started, begun) = (Arc::clone(&barrier), Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&begun);
        let first = watch(pool.defer(&world.reactor, move || {
            flag.store(true, Ordering::SeqCst);
            started.wait();
        }));
        world.until("the only thread is busy", || begun.load(Ordering::SeqCst));
        let waiting: Vec<_> = (0..2).map(|n| watch(pool.defer(&world.reactor, move || n))).collect();
        assert_eq!(pool.waiting(), 2);
        let refused = await_outcome(&world, pool.defer(&world.reactor, || unreachable!("no room")));
        assert_eq!(refused, Err::<(), _>(JobError::Full));
        barrier.wait();
        world.until("the others are done", || waiting.iter().all(|outcome| outcome.borrow().is_some()));
        assert_eq!(first.take(), Some(Ok(())));
        assert_eq!([waiting[0].take(), waiting[1].take()], [Some(Ok(0)), Some(Ok(1))]);
        assert_eq!(await_outcome(&world, pool.defer(&world.reactor, || 3)), Ok(3));
    }

    // Line 67.
    fn a_job_that_has_not_begun_is_taken_back_when_it_is_cancelled(driver) {
        let world = World::new(driver);
        let pool = ThreadPool::new(1);
        let (release, released) = mpsc::channel::<()>();
        let busy = watch(pool.defer(&world.reactor, move || released.recv().is_ok()));
        let ran = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ran);
        let deferred = pool.defer(&world.reactor, move || flag.store(true, Ordering::SeqCst));
        let canceller = deferred.canceller();
        let outcome = watch(deferred);
        assert!(canceller.cancel());
        assert_eq!(Arc::strong_count(&ran), 1, "the job is dropped at once");
        release.send(()).expect("the first job waits");
        world.until("both are done", || outcome.borrow().is_some() && busy.borrow().is_some());
        assert_eq!(outcome.take(), Some(Err(JobError::Cancelled)));
        assert!(!ran.load(Ordering::SeqCst));
    }

    // Line 67.
    fn an_own_pool_does_not_wait_behind_the_default_one(driver) {
        let world = World::with(driver, |builder| builder.threads(1));
        let (release, released) = mpsc::channel::<()>();
        let busy = watch(world.reactor.defer_to_thread(move || released.recv().is_ok()));
        let pool = ThreadPool::new(1);
        assert_eq!(await_outcome(&world, pool.defer(&world.reactor, || 2)), Ok(2));
        assert!(busy.borrow().is_none());
        release.send(()).expect("the job waits");
        world.until("the first is done", || busy.borrow().is_some());
    }

    // Lines 9 and 67.
    fn threads_are_joined_at_the_end(driver) {
        in_child(module_path!(), driver, || {
            let before = process::threads();
            let (begun, finished) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let pool = ThreadPool::new(2);
            let world = World::new(driver);
            for n in 0..4 {
                let (begun, finished) = (Arc::clone(&begun), Arc::clone(&finished));
                let job = move || {
                    begun.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(20));
                    finished.fetch_add(1, Ordering::SeqCst);
                };
                if n % 2 == 0 {
                    world.reactor.defer_to_thread(job).on_done(|_, _| {});
                } else {
                    pool.defer(&world.reactor, job).on_done(|_, _| {});
                }
            }
            while begun.load(Ordering::SeqCst) < 4 {
                thread::yield_now();
            }
            assert_eq!(process::threads(), before + 4);
            drop(world);
            drop(pool);
            assert_eq!(process::threads(), before);
            assert_eq!(finished.load(Ordering::SeqCst), 4, "what has begun is not cut short");
        });
    }

    // Line 67.
    fn a_pool_that_is_dropped_in_its_own_job_does_not_wait_for_itself(driver) {
        let world = World::new(driver);
        let pool = ThreadPool::new(1);
        let clone = pool.clone();
        let (release, released) = mpsc::channel::<()>();
        let deferred = pool.defer(&world.reactor, move || {
            let _ = released.recv();
            drop(clone);
        });
        drop(pool);
        release.send(()).expect("the job waits");
        assert_eq!(await_outcome(&world, deferred), Ok(()));
    }

    // Line 66.
    fn a_blocking_call_brings_an_answer_from_the_loop(driver) {
        let world = World::new(driver);
        let remote = world.reactor.remote();
        let asking = thread::spawn(move || {
            let answers: Vec<_> = (0..100).map(|n| remote.blocking_call(move |_| n)).collect();
            assert_eq!(remote.blocking_call(|_| panic!("in the loop")), Err::<(), _>(CallError::Unanswered));
            remote.stop();
            (answers, remote)
        });
        world.reactor.run().expect("a run");
        let (answers, remote) = asking.join().expect("no panic");
        assert_eq!(answers, (0..100).map(Ok).collect::<Vec<_>>());
        drop(world);
        assert_eq!(remote.blocking_call(|_| ()), Err(CallError::Gone));
    }

    // Line 66.
    fn a_blocking_call_from_the_loop_itself_is_an_error(driver) {
        let world = World::new(driver);
        let remote = world.reactor.remote();
        assert_eq!(remote.blocking_call(|_| ()), Err(CallError::OwnThread), "also when it does not run");
        let answer = Rc::new(Cell::new(None));
        let place = Rc::clone(&answer);
        let _ = world.reactor.call_soon(move |_| place.set(Some(remote.blocking_call(|_| ()))));
        world.until("it was refused", || answer.get().is_some());
        assert_eq!(answer.get(), Some(Err(CallError::OwnThread)));
    }

    // Line 66.
    fn a_blocking_call_that_the_reactor_does_not_come_to_is_unanswered(driver) {
        let world = World::new(driver);
        let remote = world.reactor.remote();
        let (sent, waits) = mpsc::channel();
        let asking = thread::spawn(move || {
            sent.send(()).expect("the test waits");
            remote.blocking_call(|_| ())
        });
        waits.recv().expect("the thread has begun");
        thread::sleep(Duration::from_millis(20));
        drop(world);
        let answer = asking.join().expect("no panic");
        assert!(matches!(answer, Err(CallError::Unanswered | CallError::Gone)), "{answer:?}");
    }
}
