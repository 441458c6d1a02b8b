//! The contract, line 52: what is known of names, who is asked for them, and resolvers that get stuck.

use std::cell::{Cell, RefCell};
use std::io::{Error, ErrorKind};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use twistor::testing::Simulation;
use twistor::{Deferred, Handle, Protocol, Reactor, ReactorBuilder, Resolver, Transport};
use twistor_tests::{Driver, PATIENCE, World, contract, in_child, kernel_contract, process};

struct Quiet;

impl Protocol for Quiet {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

type Addresses = Result<Vec<IpAddr>, Error>;
type Outcome = Rc<RefCell<Option<Result<Vec<IpAddr>, (ErrorKind, String)>>>>;

fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|text| text.parse().expect("an address")).collect()
}

fn watch(deferred: Deferred<Vec<IpAddr>, Error>) -> Outcome {
    let outcome = Rc::new(RefCell::new(None));
    let place = Rc::clone(&outcome);
    deferred.on_done(move |_, result| {
        *place.borrow_mut() = Some(result.map_err(|error| (error.kind(), error.to_string())));
    });
    outcome
}

/// The questions that a resolver was asked.
#[derive(Clone, Default)]
struct Questions(Arc<Mutex<Vec<String>>>);

impl Questions {
    fn all(&self) -> Vec<String> {
        self.0.lock().expect("not poisoned").clone()
    }

    fn count(&self) -> usize {
        self.all().len()
    }

    /// A resolver that answers at once and writes the questions down.
    fn answered(&self, builder: ReactorBuilder, answer: fn(&str) -> Addresses) -> ReactorBuilder {
        let questions = self.clone();
        builder.resolver(move |handle, name| {
            questions.0.lock().expect("not poisoned").push(name.to_owned());
            let (resolver, deferred) = Deferred::new(handle);
            resolver.resolve(answer(name));
            deferred
        })
    }
}

fn ten(_: &str) -> Addresses {
    Ok(addresses(&["10.0.0.1"]))
}

fn never_heard(_: &str) -> Addresses {
    Err(Error::new(ErrorKind::NotFound, "never heard of it"))
}

thread_local! {
    /// Answers that a test has yet to give.
    static OPEN: RefCell<Vec<Resolver<Vec<IpAddr>, Error>>> = const { RefCell::new(Vec::new()) };
}

/// A resolver whose answers the test gives.
fn open(builder: ReactorBuilder) -> ReactorBuilder {
    OPEN.take();
    builder.resolver(|handle, _| {
        let (resolver, deferred) = Deferred::new(handle);
        OPEN.with_borrow_mut(|open| open.push(resolver));
        deferred
    })
}

fn asked() -> usize {
    OPEN.with_borrow(Vec::len)
}

/// Blocks whoever passes until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn pass(&self) {
        let (open, bell) = &*self.0;
        let open = open.lock().expect("not poisoned");
        // The 30 seconds of a resolver that is stuck, unless the test is over.
        let _ = bell.wait_timeout_while(open, Duration::from_secs(30), |open| !*open).expect("not poisoned");
    }

    fn open(&self) {
        *self.0.0.lock().expect("not poisoned") = true;
        self.0.1.notify_all();
    }
}

/// Opened also when the test fails.
struct Opens(Gate);

impl Drop for Opens {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// A resolver for which names that begin with "stuck" are stuck; and how many of its calls are.
fn stuck(builder: ReactorBuilder, gate: &Gate, inside: &Arc<AtomicUsize>) -> ReactorBuilder {
    let (gate, inside) = (gate.clone(), Arc::clone(inside));
    builder.blocking_resolver(move |name| {
        if name.starts_with("stuck") {
            inside.fetch_add(1, Ordering::SeqCst);
            gate.pass();
            inside.fetch_sub(1, Ordering::SeqCst);
        }
        Ok(addresses(&["127.0.0.1"]))
    })
}

contract! {
    // Line 52.
    fn a_name_that_was_found_is_not_asked_for_again(driver) {
        let questions = Questions::default();
        let world = World::with(driver, |builder| questions.answered(builder, ten));
        for name in ["here", "here", "HERE", "hErE", "there"] {
            let outcome = watch(world.reactor.resolve(name));
            assert!(outcome.borrow().is_none(), "no call runs a hook");
            world.until("it is answered", || outcome.borrow().is_some());
            assert_eq!(outcome.take(), Some(Ok(addresses(&["10.0.0.1"]))));
        }
        assert_eq!(questions.all(), ["here", "there"]);
        let stats = world.reactor.stats();
        assert_eq!((stats.name_queries, stats.name_hits), (2, 3));
    }

    // Line 52.
    fn no_call_runs_the_resolver(driver) {
        let questions = Questions::default();
        let world = World::with(driver, |builder| questions.answered(builder, ten));
        let outcome = watch(world.reactor.resolve("here"));
        let connecting = world.reactor.connect("tcp:there:80", |_| Quiet);
        assert_eq!(questions.count(), 0);
        world.until("it is answered", || outcome.borrow().is_some());
        connecting.cancel();
        connecting.on_done(|_, _| {});
    }

    // Line 52.
    fn the_text_of_an_address_is_that_address(driver) {
        let questions = Questions::default();
        let world = World::with(driver, |builder| questions.answered(builder, never_heard));
        for text in ["127.0.0.1", "::1"] {
            let outcome = watch(world.reactor.resolve(text));
            world.until("it is answered", || outcome.borrow().is_some());
            assert_eq!(outcome.take(), Some(Ok(addresses(&[text]))));
        }
        assert_eq!(questions.count(), 0);
    }

    // Line 52.
    fn many_who_ask_at_the_same_time_are_one_question(driver) {
        let world = World::with(driver, open);
        let outcomes: Vec<_> = (0..1000).map(|_| watch(world.reactor.resolve("here"))).collect();
        world.until("the resolver is asked", || asked() > 0);
        let late = watch(world.reactor.resolve("Here"));
        world.turns(3);
        assert_eq!(asked(), 1);
        OPEN.take().remove(0).resolve(ten(""));
        world.until("the last is answered", || late.borrow().is_some());
        for outcome in outcomes {
            assert_eq!(outcome.take(), Some(Ok(addresses(&["10.0.0.1"]))));
        }
    }

    // Line 52.
    fn an_error_reaches_all_who_asked(driver) {
        let world = World::with(driver, open);
        let outcomes: Vec<_> = (0..3).map(|_| watch(world.reactor.resolve("here"))).collect();
        world.until("the resolver is asked", || asked() == 1);
        OPEN.take().remove(0).resolve(never_heard(""));
        world.until("all are answered", || outcomes.iter().all(|outcome| outcome.borrow().is_some()));
        for outcome in outcomes {
            assert_eq!(outcome.take(), Some(Err((ErrorKind::NotFound, "never heard of it".to_owned()))));
        }
    }

    // Line 52.
    fn who_cancels_does_not_cancel_for_others(driver) {
        let world = World::with(driver, open);
        let deferred = world.reactor.resolve("here");
        let canceller = deferred.canceller();
        let (first, second) = (watch(deferred), watch(world.reactor.resolve("here")));
        world.until("the resolver is asked", || asked() == 1);
        assert!(canceller.cancel());
        assert!(!canceller.cancel(), "twice is an ordinary false");
        world.until("it is heard", || first.borrow().is_some());
        assert_eq!(first.take().expect("heard").expect_err("cancelled").0, ErrorKind::Interrupted);
        assert!(second.borrow().is_none());
        OPEN.take().remove(0).resolve(ten(""));
        world.until("the other is answered", || second.borrow().is_some());
        assert_eq!(second.take(), Some(Ok(addresses(&["10.0.0.1"]))));
    }

    // Line 52.
    fn when_all_have_cancelled_the_question_is_asked_anew(driver) {
        let world = World::with(driver, open);
        for _ in 0..2 {
            let deferred = world.reactor.resolve("here");
            let canceller = deferred.canceller();
            let outcome = watch(deferred);
            let before = asked();
            world.until("the resolver is asked", || asked() > before);
            canceller.cancel();
            world.until("it is heard", || outcome.borrow().is_some());
        }
        let outcome = watch(world.reactor.resolve("here"));
        world.until("the resolver is asked", || asked() == 3);
        let mut open = OPEN.take();
        // Answers to questions that nobody asks any more change nothing.
        open.remove(0).resolve(never_heard(""));
        world.turns(3);
        assert!(outcome.borrow().is_none());
        open.pop().expect("the third").resolve(ten(""));
        world.until("it is answered", || outcome.borrow().is_some());
        assert_eq!(outcome.take(), Some(Ok(addresses(&["10.0.0.1"]))));
        // Cancelled before the resolver was asked, it never is.
        let deferred = world.reactor.resolve("there");
        deferred.cancel();
        deferred.on_done(|_, _| {});
        world.turns(3);
        assert_eq!(asked(), 0);
    }

    // Line 52.
    fn a_resolver_that_panics_or_gives_up_is_an_error_and_nothing_is_kept(driver) {
        for (how, text) in [("panics", "the resolver panicked"), ("drops", "the resolver gave no answer")] {
            let world = World::with(driver, |builder| {
                builder.resolver(|handle, name| {
                    assert_ne!(name, "panics");
                    Deferred::new(handle).1
                })
            });
            for _ in 0..2 {
                let outcome = watch(world.reactor.resolve(how));
                world.until("it fails", || outcome.borrow().is_some());
                assert_eq!(outcome.take(), Some(Err((ErrorKind::Other, text.to_owned()))));
            }
            assert_eq!(world.reactor.stats().name_queries, 2);
        }
    }

    // Line 52.
    fn a_blocking_resolver_is_asked_and_its_panic_is_an_error(driver) {
        let world = World::with(driver, |builder| {
            builder.blocking_resolver(|name| {
                assert_ne!(name, "bad", "no luck");
                Ok(addresses(&["10.0.0.7"]))
            })
        });
        let bad = watch(world.reactor.resolve("bad"));
        let good = watch(world.reactor.resolve("good"));
        world.until("both are answered", || bad.borrow().is_some() && good.borrow().is_some());
        assert_eq!(good.take(), Some(Ok(addresses(&["10.0.0.7"]))));
        let (kind, text) = bad.take().expect("heard").expect_err("it panicked");
        assert_eq!(kind, ErrorKind::Other);
        assert!(text.starts_with("the resolver panicked: ") && text.contains("no luck"), "{text}");
    }

    // Line 52.
    fn running_until_idle_waits_for_names(driver) {
        let world = World::with(driver, |builder| builder.blocking_resolver(ten));
        let outcome = watch(world.reactor.resolve("here"));
        world.reactor.run_until_idle().expect("a run");
        assert_eq!(outcome.take(), Some(Ok(addresses(&["10.0.0.1"]))));
    }

    // Line 52.
    fn what_waits_for_a_name_is_dropped_with_the_reactor(driver) {
        let world = World::with(driver, open);
        let kept = Rc::new(());
        for name in ["here", "here", "there"] {
            let held = Rc::clone(&kept);
            world.reactor.resolve(name).on_done(move |_, _| drop(held));
        }
        world.turns(2);
        let handle = Handle::clone(&world.reactor);
        drop(world);
        assert_eq!(Rc::strong_count(&kept), 1);
        for resolver in OPEN.take() {
            resolver.resolve(ten(""));
        }
        // Afterwards nobody is there to ask, or to hear of it.
        handle.resolve("here").on_done(|_, _| unreachable!("there is no loop"));
    }

    // Line 52.
    fn a_look_up_that_a_stop_cuts_short_does_not_block_the_name_for_ever(driver) {
        let questions = Questions::default();
        let world = World::with(driver, |builder| questions.answered(builder, ten));
        let outcome = watch(world.reactor.resolve("here"));
        world.reactor.stop();
        world.reactor.run().expect("a run");
        // Not heard at all, if it was to be heard while the loop ended.
        world.turns(3);
        assert!(matches!(outcome.take(), None | Some(Err((ErrorKind::Other, _)))));
        let again = watch(world.reactor.resolve("here"));
        world.until("it is answered", || again.borrow().is_some());
        assert_eq!(again.take(), Some(Ok(addresses(&["10.0.0.1"]))));
    }

    // Line 52.
    fn an_attempt_that_reaches_no_address_has_the_name_looked_up_anew(driver) {
        let questions = Questions::default();
        let world = World::with(driver, |builder| {
            questions.answered(builder, |_| Ok(addresses(&["127.0.0.2", "127.0.0.1"])))
        });
        let port = world.listen(|_| Quiet);
        let number = port.local_addr().port();
        let connect = || {
            let outcome = Rc::new(Cell::new(None));
            let place = Rc::clone(&outcome);
            let done = world.reactor.connect(format!("tcp:here:{number}"), |_| Quiet);
            done.on_done(move |_, result| place.set(Some(result.is_ok())));
            world.until("the attempt has ended", || outcome.get().is_some());
            outcome.get() == Some(true)
        };
        assert!(connect() && connect());
        assert_eq!(questions.count(), 1);
        port.stop_listening().on_done(|_, _| {});
        world.turns(3);
        assert!(!connect(), "nobody listens any more");
        assert!(!connect());
        assert_eq!(questions.count(), 2);
        drop(world.reactor.resolve("here"));
        world.turns(3);
        assert_eq!(questions.count(), 3);
    }

    // Line 52.
    fn a_silent_address_costs_a_quarter_of_a_second(driver) {
        let list = Arc::new(Mutex::new(addresses(&["127.0.0.2"])));
        let answer = Arc::clone(&list);
        let world = World::with(driver, |builder| {
            builder.blocking_resolver(move |_| Ok(answer.lock().expect("not poisoned").clone()))
        });
        let silent = world.machine().silent();
        list.lock().expect("not poisoned").insert(0, silent.address.ip());
        let number = silent.address.port();
        let port = world.reactor.listen(format!("tcp:{number}:interface=127.0.0.2"), |_| Quiet);
        let port = port.expect("that port of another address");
        let reached = Rc::new(RefCell::new(None));
        let place = Rc::clone(&reached);
        let began = world.now();
        world.reactor.connect(format!("tcp:several:{number}"), |_| Quiet).on_done(move |_, result| {
            *place.borrow_mut() = Some(result.map(|connection| connection.peer_addr().to_string()));
        });
        world.until("it is connected", || reached.borrow().is_some());
        let took = world.since(began);
        println!("connected after {took:?}");
        assert_eq!(reached.take().expect("seen").expect("connected"), port.local_addr().to_string());
        assert!(took >= Duration::from_millis(250), "{took:?}");
        // A machine that has much to do adds to it.
        let limit = if driver == Driver::Simulated { 300 } else { 2000 };
        assert!(took <= Duration::from_millis(limit), "{took:?}");
    }

    // Line 52.
    fn threads_of_the_resolver_cannot_be_none(driver) {
        assert!(!driver.name().is_empty());
        let error = Reactor::builder().resolver_threads(0).build().expect_err("nothing could be found");
        assert!(error.to_string().contains("resolver_threads is 0"), "{error}");
    }
}

// Only a kernel has threads and silence.
kernel_contract! {
    // Line 52.
    fn a_stuck_resolver_delays_neither_other_names_nor_other_jobs(driver) {
        let (gate, inside) = (Gate::default(), Arc::default());
        let _opens = Opens(gate.clone());
        let world = World::with(driver, |builder| stuck(builder, &gate, &inside));
        let port = world.listen(|_| Quiet);
        let began = Instant::now();
        let stuck = watch(world.reactor.resolve("stuck"));
        world.until("it is stuck", || inside.load(Ordering::SeqCst) == 1);
        for n in 0..50 {
            let name = watch(world.reactor.resolve(&format!("name{n}")));
            world.until("another name is found", || name.borrow().is_some());
        }
        let job = Rc::new(Cell::new(false));
        let done = Rc::clone(&job);
        world.reactor.defer_to_thread(|| ()).on_done(move |_, result| done.set(result.is_ok()));
        world.until("a job is done", || job.get());
        let connected = Rc::new(Cell::new(false));
        let done = Rc::clone(&connected);
        let endpoint = format!("tcp:elsewhere:{}", port.local_addr().port());
        world.reactor.connect(endpoint, |_| Quiet).on_done(move |_, result| done.set(result.is_ok()));
        world.until("a connection is made", || connected.get());
        assert!(stuck.borrow().is_none(), "it is stuck all the while");
        assert!(began.elapsed() < PATIENCE / 2);
        gate.open();
        world.until("it is answered", || stuck.borrow().is_some());
    }

    // Line 52.
    fn fifteen_names_that_are_stuck_leave_a_thread_for_others(driver) {
        let (gate, inside) = (Gate::default(), Arc::default());
        let _opens = Opens(gate.clone());
        let world = World::with(driver, |builder| stuck(builder, &gate, &inside));
        let all: Vec<_> = (0..15).map(|n| watch(world.reactor.resolve(&format!("stuck{n}")))).collect();
        world.until("all are stuck", || inside.load(Ordering::SeqCst) == 15);
        // However often, and whether or not anybody still waits: a name holds one thread.
        for _ in 0..100 {
            let deferred = world.reactor.resolve("stuck3");
            deferred.cancel();
            deferred.on_done(|_, _| {});
        }
        let name = watch(world.reactor.resolve("name"));
        world.until("another name is found", || name.borrow().is_some());
        assert_eq!(inside.load(Ordering::SeqCst), 15);
        gate.open();
        world.until("all are answered", || all.iter().all(|outcome| outcome.borrow().is_some()));
    }

    // Line 52.
    fn a_name_that_was_given_up_while_it_was_stuck_is_known_when_it_comes(driver) {
        let (gate, inside) = (Gate::default(), Arc::default());
        let _opens = Opens(gate.clone());
        let world = World::with(driver, |builder| stuck(builder, &gate, &inside));
        let deferred = world.reactor.resolve("stuck");
        world.until("it is stuck", || inside.load(Ordering::SeqCst) == 1);
        deferred.cancel();
        deferred.on_done(|_, _| {});
        // Nobody waits: this does not either.
        world.reactor.run_until_idle().expect("a run");
        let again = watch(world.reactor.resolve("stuck"));
        gate.open();
        world.until("it is answered", || again.borrow().is_some());
        assert_eq!(again.take(), Some(Ok(addresses(&["127.0.0.1"]))));
        assert_eq!(world.reactor.stats().name_queries, 1);
    }

    // Line 52.
    fn when_all_threads_are_stuck_the_time_limit_ends_the_attempt(driver) {
        let (gate, inside) = (Gate::default(), Arc::default());
        let _opens = Opens(gate.clone());
        let world = World::with(driver, |builder| stuck(builder, &gate, &inside).resolver_threads(1));
        let held = watch(world.reactor.resolve("stuck"));
        world.until("it is stuck", || inside.load(Ordering::SeqCst) == 1);
        let outcome = Rc::new(RefCell::new(None));
        let place = Rc::clone(&outcome);
        let endpoint = twistor::endpoint::TcpConnect::host("name", 80).timeout(Duration::from_millis(50));
        world.reactor.connect(endpoint, |_| Quiet).on_done(move |_, result| {
            *place.borrow_mut() = Some(result.map(|_| ()).map_err(|error| error.to_string()));
        });
        world.until("the attempt has ended", || outcome.borrow().is_some());
        assert_eq!(outcome.take(), Some(Err("cannot connect to name:80: timed out".to_owned())));
        gate.open();
        world.until("it is answered", || held.borrow().is_some());
        // The other was taken back before its turn came.
        let name = watch(world.reactor.resolve("name"));
        world.until("it is answered", || name.borrow().is_some());
        assert_eq!(world.reactor.stats().name_queries, 3);
    }

    // Line 52.
    fn more_names_at_once_than_can_wait_are_refused_and_asked_for_again(driver) {
        let (gate, inside) = (Gate::default(), Arc::default());
        let _opens = Opens(gate.clone());
        let world = World::with(driver, |builder| stuck(builder, &gate, &inside).resolver_threads(1));
        let all: Vec<_> = (0..1100).map(|n| watch(world.reactor.resolve(&format!("stuck{n}")))).collect();
        world.until("the last is refused", || all[1099].borrow().is_some());
        let (kind, text) = all[1099].take().expect("seen").expect_err("no room");
        assert_eq!(kind, ErrorKind::Other);
        assert!(text.contains("try again later"), "{text}");
        gate.open();
        world.until("one that waited is found", || all[1000].borrow().is_some());
        assert!(all[1000].take().expect("seen").is_ok());
        let again = watch(world.reactor.resolve("stuck1099"));
        world.until("there is room again", || again.borrow().is_some());
        assert!(again.take().expect("seen").is_ok());
    }

    // Line 9.
    fn the_end_does_not_wait_for_a_stuck_resolver_but_joins_others(driver) {
        in_child(module_path!(), driver, || {
            let before = process::threads();
            let (gate, inside) = (Gate::default(), Arc::new(AtomicUsize::new(0)));
            let world = World::with(driver, |builder| stuck(builder, &gate, &inside));
            let name = watch(world.reactor.resolve("name"));
            world.until("it is answered", || name.borrow().is_some());
            assert_eq!(process::threads(), before + 1);
            drop(world);
            assert_eq!(process::threads(), before);

            let descriptors = process::open_descriptors();
            let world = World::with(driver, |builder| stuck(builder, &gate, &inside));
            drop(world.reactor.resolve("stuck"));
            world.until("it is stuck", || inside.load(Ordering::SeqCst) == 1);
            let began = Instant::now();
            drop(world);
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
            assert_eq!(process::open_descriptors(), descriptors, "the thread holds none");
            gate.open();
            let patience = Instant::now() + PATIENCE;
            while process::threads() > before {
                assert!(Instant::now() < patience, "the thread does not end");
                thread::yield_now();
            }
        });
    }
}

/// A simulated host, and what its resolver is asked.
fn simulated(
    answer: fn(&str) -> Addresses,
    build: fn(ReactorBuilder) -> ReactorBuilder,
) -> (Simulation, Questions) {
    let (sim, questions) = (Simulation::new(3), Questions::default());
    sim.host_with("client", build(questions.answered(Reactor::builder(), answer)), |_| {});
    (sim, questions)
}

/// Has each of these names looked up.
fn look_up(sim: &Simulation, names: &[&str]) {
    for name in names {
        let outcome = watch(sim.find("client").reactor().resolve(name));
        sim.run_until("it is answered", || outcome.borrow().is_some());
    }
}

// Line 52.
#[test]
fn addresses_are_known_for_a_minute() {
    let (sim, questions) = simulated(ten, |builder| builder);
    look_up(&sim, &["here"]);
    sim.run_for(Duration::from_secs(59));
    look_up(&sim, &["here"]);
    assert_eq!(questions.count(), 1);
    sim.run_for(Duration::from_secs(1));
    look_up(&sim, &["here"]);
    assert_eq!(questions.count(), 2, "a use does not make it newer");
}

// Line 52.
#[test]
fn that_a_name_has_no_address_is_known_for_a_second() {
    let nothing: fn(&str) -> Addresses = |_| Ok(Vec::new());
    for answer in [never_heard, nothing] {
        let (sim, questions) = simulated(answer, |builder| builder);
        look_up(&sim, &["here", "here"]);
        assert_eq!(questions.count(), 1);
        sim.run_for(Duration::from_secs(1));
        look_up(&sim, &["here"]);
        assert_eq!(questions.count(), 2);
    }
}

// Line 52.
#[test]
fn the_builder_says_for_how_long() {
    let (sim, questions) =
        simulated(ten, |builder| builder.name_cache_times(Duration::from_secs(3600), Duration::ZERO));
    look_up(&sim, &["here"]);
    sim.run_for(Duration::from_secs(3599));
    look_up(&sim, &["here"]);
    assert_eq!(questions.count(), 1);
    let (sim, questions) =
        simulated(never_heard, |builder| builder.name_cache_times(Duration::from_secs(3600), Duration::ZERO));
    look_up(&sim, &["here", "here"]);
    assert_eq!(questions.count(), 2);
}

// Line 52.
#[test]
fn no_more_names_are_known_than_the_builder_allows() {
    let (sim, questions) = simulated(ten, |builder| builder.name_cache(2));
    look_up(&sim, &["one", "two", "one", "three", "one", "two"]);
    assert_eq!(questions.all(), ["one", "two", "three", "two"], "the one not used for longest went");
    let (sim, questions) = simulated(ten, |builder| builder.name_cache(0));
    look_up(&sim, &["one", "one"]);
    assert_eq!(questions.count(), 2);
}

// Line 52.
#[test]
fn by_default_a_thousand_names_are_known() {
    let (sim, questions) = simulated(ten, |builder| builder);
    let names: Vec<String> = (0..1100).map(|n| format!("name{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    look_up(&sim, &names);
    look_up(&sim, &names[1100 - 1024..]);
    assert_eq!(questions.count(), 1100);
    look_up(&sim, &names[..1]);
    assert_eq!(questions.count(), 1101);
}
