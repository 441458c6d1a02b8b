//! The contract, section 13: very many tasks, and tasks in the hands of several threads.
//!
//! Memory is counted by the allocator of this test binary, for the test's own thread.

#![allow(clippy::unwrap_used, reason = "in a test that is what is asserted")]

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use twistor::{Handle, Interruption, Reactor, Task, task};
use twistor_tests::allocations::{Counting, counts};
use twistor_tests::{Driver, World, contract, kernel_contract};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MANY: usize = 1_000_000;
/// What a task may cost beside its future, with its timer if it sleeps.
const BYTES: i64 = 200;

/// A source of numbers that is always the same.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn reactor() -> Reactor {
    World::new(Driver::Direct).reactor
}

#[test]
// Line 75.
fn a_million_waiting_tasks_are_small() {
    let reactor = reactor();
    let before = counts().bytes;
    for _ in 0..MANY {
        reactor.spawn(pending::<()>()).detach();
    }
    reactor.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(reactor.stats().tasks, MANY);
    let each = (counts().bytes - before) / MANY as i64;
    println!("{each} bytes each");
    assert!(each <= BYTES, "{each} bytes");
    drop(reactor);
    assert!(counts().bytes <= before, "nothing is left");
}

#[test]
// Line 75.
fn a_million_sleeping_tasks_are_small() {
    let reactor = reactor();
    let future = size_of_val(&reactor.sleep(Duration::ZERO)) as i64;
    let before = counts().bytes;
    for n in 0..MANY {
        let length = Duration::from_secs(3600) + Duration::from_micros((n as u64 * 7919) % 100_000);
        reactor.spawn(reactor.sleep(length)).detach();
    }
    reactor.turn(Some(Duration::ZERO)).unwrap();
    let stats = reactor.stats();
    assert_eq!((stats.tasks, stats.timers), (MANY, MANY));
    let each = (counts().bytes - before) / MANY as i64 - future;
    println!("{each} bytes each");
    assert!(each <= BYTES, "{each} bytes");
    drop(reactor);
    assert!(counts().bytes <= before, "nothing is left");
}

#[test]
// Line 75.
fn a_million_sleeping_tasks_wake_in_time() {
    let reactor = reactor();
    for n in 0..MANY {
        let length = Duration::from_micros(100_000 + (n as u64 * 7919) % 100_000);
        reactor.spawn(reactor.sleep(length)).detach();
    }
    let patience = Instant::now() + Duration::from_secs(20);
    while reactor.stats().tasks > 0 {
        assert!(Instant::now() < patience);
        reactor.turn(Some(Duration::from_millis(10))).unwrap();
    }
    assert_eq!(reactor.stats().timers, 0);
}

#[test]
// Line 75.
fn a_short_task_allocates_nothing_but_its_future() {
    let reactor = reactor();
    let run = || {
        for _ in 0..100 {
            reactor.spawn(async {}).detach();
        }
        reactor.turn(Some(Duration::ZERO)).unwrap();
    };
    run();
    run();
    let before = counts();
    run();
    assert_eq!(counts().calls - before.calls, 100);
    assert_eq!(counts().live, before.live);
}

#[test]
// Line 75.
fn a_long_chain_of_tasks_needs_no_stack() {
    const LINKS: usize = MANY / 4;
    let reactor = reactor();
    let mut last: Task<u64> = reactor.spawn(async { 0 });
    for _ in 0..LINKS {
        last = reactor.spawn(async { last.await.unwrap() + 1 });
    }
    assert_eq!(reactor.run_until_complete(last).unwrap(), Ok(LINKS as u64));
    // Dropping the last of a chain cancels them all, one after the other.
    let mut last: Task<u64> = reactor.spawn(pending());
    for _ in 0..LINKS {
        last = reactor.spawn(async { last.await.unwrap() + 1 });
    }
    reactor.turn(Some(Duration::ZERO)).unwrap();
    last.cancel();
    let patience = Instant::now() + Duration::from_secs(20);
    while reactor.stats().tasks > 0 {
        assert!(Instant::now() < patience);
        reactor.turn(Some(Duration::ZERO)).unwrap();
    }
    drop(last);
    // As does the end of the reactor.
    let mut last: Task<u64> = reactor.spawn(pending());
    for _ in 0..LINKS {
        last = reactor.spawn(async { last.await.unwrap() + 1 });
    }
    last.detach();
    reactor.turn(Some(Duration::ZERO)).unwrap();
    drop(reactor);
}

#[test]
// Line 75.
fn wakes_from_another_thread_allocate_nothing_and_wake_the_loop_once_per_sleep() {
    let reactor = reactor();
    let (send, wakers) = mpsc::channel::<Waker>();
    let waking = thread::spawn(move || {
        for waker in wakers {
            for _ in 0..3 {
                waker.wake_by_ref();
            }
        }
    });
    let rounds = move |count: usize| {
        let send = send.clone();
        async move {
            for _ in 0..count {
                let mut asked = false;
                poll_fn(|cx| {
                    if std::mem::replace(&mut asked, true) {
                        return Poll::Ready(());
                    }
                    send.send(cx.waker().clone()).unwrap();
                    Poll::Pending
                })
                .await;
            }
        }
    };
    reactor.run_until_complete(rounds(100)).unwrap();
    let (before, polls) = (counts(), reactor.stats().polls);
    reactor.run_until_complete(rounds(1000)).unwrap();
    // The channel of the test takes a block for every 31 messages.
    assert!(counts().calls - before.calls < 50, "{} allocations", counts().calls - before.calls);
    assert!(reactor.stats().polls - polls <= 3100);
    drop(rounds);
    waking.join().unwrap();
}

#[test]
// Lines 26 and 75.
fn tasks_that_wake_each_other_for_ever_keep_nobody_else_waiting() {
    let reactor = reactor();
    let heard = Rc::new(Cell::new(0));
    let port = reactor
        .listen("tcp:0:interface=127.0.0.1", {
            let heard = Rc::clone(&heard);
            move |_| {
                heard.set(heard.get() + 1);
                None::<twistor_tests::Script>
            }
        })
        .unwrap();
    let timed = Rc::new(Cell::new(false));
    let seen = Rc::clone(&timed);
    reactor.call_later(Duration::from_millis(5), move |_| seen.set(true));
    for _ in 0..2 {
        reactor
            .spawn(async {
                loop {
                    task::yield_now().await;
                }
            })
            .detach();
    }
    let address = port.local_addr().socket_addr().unwrap();
    let connecting = thread::spawn(move || std::net::TcpStream::connect(address).unwrap());
    let patience = Instant::now() + Duration::from_secs(20);
    reactor
        .run_until_complete(async move {
            while heard.get() == 0 || !timed.get() {
                assert!(Instant::now() < patience, "starved");
                task::yield_now().await;
            }
        })
        .unwrap();
    connecting.join().unwrap();
    // And it pays: most of the passes made no system call.
    let stats = reactor.stats();
    assert!(stats.system_calls.waits * 2 < stats.passes, "{stats:?}");
}

/// What the tasks of the hammer share.
#[derive(Default)]
struct Anvil {
    tasks: RefCell<Vec<Task<u64>>>,
    dropped: Cell<usize>,
    made: Cell<usize>,
}

struct Alive(Rc<Anvil>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.dropped.set(self.0.dropped.get() + 1);
    }
}

async fn hammered(anvil: Rc<Anvil>, wakers: mpsc::Sender<Waker>, seed: u64) -> u64 {
    let _alive = Alive(Rc::clone(&anvil));
    let mut numbers = Numbers(seed);
    for _ in 0..numbers.below(8) {
        match numbers.below(10) {
            0 => task::yield_now().await,
            1 => task::sleep(Duration::from_micros(numbers.below(300))).await,
            2 | 3 => {
                let mut asked = false;
                poll_fn(|cx| {
                    if std::mem::replace(&mut asked, true) {
                        return Poll::Ready(());
                    }
                    for _ in 0..2 {
                        wakers.send(cx.waker().clone()).unwrap();
                    }
                    Poll::Pending
                })
                .await;
            }
            4 => spawn(&anvil, &wakers, numbers.below(u64::MAX) + 1),
            5 => {
                let tasks = anvil.tasks.borrow();
                if !tasks.is_empty() {
                    tasks[numbers.below(tasks.len() as u64) as usize].cancel();
                }
            }
            6 => {
                let taken = take(&anvil, &mut numbers);
                if let Some(task) = taken {
                    let _ = task.await;
                }
            }
            7 => {
                let taken = take(&anvil, &mut numbers);
                if let Some(task) = taken {
                    let _ = task::timeout(Duration::from_micros(numbers.below(200)), task).await;
                }
            }
            8 => drop(take(&anvil, &mut numbers)),
            _ => assert!(numbers.below(20) > 0, "a panic of the hammer"),
        }
    }
    seed
}

fn take(anvil: &Anvil, numbers: &mut Numbers) -> Option<Task<u64>> {
    let mut tasks = anvil.tasks.borrow_mut();
    let count = tasks.len() as u64;
    (count > 0).then(|| tasks.swap_remove(numbers.below(count) as usize))
}

fn spawn(anvil: &Rc<Anvil>, wakers: &mpsc::Sender<Waker>, seed: u64) {
    anvil.made.set(anvil.made.get() + 1);
    let task = Handle::current().unwrap().spawn(hammered(Rc::clone(anvil), wakers.clone(), seed));
    anvil.tasks.borrow_mut().push(task);
}

kernel_contract! {
    // Line 75.
    fn a_hammer_of_spawns_cancels_wakes_and_drops_leaves_nothing(driver) {
        for seed in 1..=20 {
            let reactor = World::new(driver).reactor;
            let (send, wakers) = mpsc::channel::<Waker>();
            // Wakes late, and more than once; some of the wakers outlive the reactor.
            let late = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&late);
            let waking = thread::spawn(move || {
                let mut kept = Vec::new();
                for waker in wakers {
                    waker.wake_by_ref();
                    kept.push(waker);
                    if kept.len() > 50 {
                        kept.swap_remove(7).wake();
                    }
                }
                for waker in kept {
                    counted.fetch_add(1, Ordering::SeqCst);
                    waker.wake();
                }
            });
            let anvil = Rc::new(Anvil::default());
            let shared = Rc::clone(&anvil);
            let rounds = reactor.run_until_complete(async move {
                let mut numbers = Numbers(seed);
                for _ in 0..300 {
                    for _ in 0..numbers.below(8) {
                        spawn(&shared, &send, numbers.below(u64::MAX) + 1);
                    }
                    task::sleep(Duration::from_micros(20)).await;
                }
            });
            rounds.unwrap();
            drop(reactor);
            waking.join().unwrap();
            anvil.tasks.take();
            assert!(anvil.made.get() > 500, "{}", anvil.made.get());
            assert_eq!(Rc::strong_count(&anvil), 1, "nothing holds what tasks hold");
        }
    }

    // Line 75.
    fn wakes_race_with_the_polls_of_their_task_and_none_is_lost(driver) {
        let reactor = World::new(driver).reactor;
        let flag = Arc::new(AtomicBool::new(false));
        let (send, wakers) = mpsc::channel::<Waker>();
        let raised = Arc::clone(&flag);
        let waking = thread::spawn(move || {
            for waker in wakers {
                raised.store(true, Ordering::SeqCst);
                waker.wake();
            }
        });
        let done = reactor.run_until_complete(async move {
            for _ in 0..20_000 {
                let mut asked = false;
                poll_fn(|cx| {
                    if flag.swap(false, Ordering::SeqCst) {
                        return Poll::Ready(());
                    }
                    if !std::mem::replace(&mut asked, true) {
                        send.send(cx.waker().clone()).unwrap();
                    }
                    Poll::Pending
                }).await;
            }
        });
        done.unwrap();
        waking.join().unwrap();
    }
}

contract! {
    // Line 75.
    fn cancelling_at_every_pass_of_a_task_leaves_nothing(driver) {
        for pass in 0..12 {
            let world = World::new(driver);
            let alive = Rc::new(());
            let held = Rc::clone(&alive);
            let chain = world.reactor.spawn(async move {
                let _held = Rc::clone(&held);
                task::yield_now().await;
                let one = task::spawn(async move {
                    let _held = held;
                    task::sleep(Duration::from_micros(50)).await;
                    7
                });
                let two = task::timeout(Duration::from_millis(1), task::yield_now());
                let (one, two) = task::gather((one, two)).await;
                two.unwrap();
                let naps = (0..3).map(|n| task::spawn(task::sleep(Duration::from_micros(n * 100))));
                task::race(naps).await.unwrap().1.unwrap();
                one.unwrap()
            });
            for _ in 0..pass {
                world.turn(Duration::ZERO);
            }
            let cancelled = chain.cancel();
            let outcome = Rc::new(RefCell::new(None));
            let noted = Rc::clone(&outcome);
            chain.on_done(move |_, outcome| *noted.borrow_mut() = Some(outcome));
            world.until("the outcome", || outcome.borrow().is_some());
            let expected = if cancelled { Err(Interruption::Cancelled) } else { Ok(7) };
            assert_eq!(outcome.take(), Some(expected), "cancelled at pass {pass}");
            world.until("everything has ended", || world.reactor.stats().tasks == 0);
            assert_eq!(Rc::strong_count(&alive), 1, "cancelled at pass {pass}");
            assert_eq!(world.reactor.stats().timers, 0, "cancelled at pass {pass}");
        }
    }
}
