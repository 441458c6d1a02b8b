//! Services and groups of them: started in order, stopped in reverse, each waited for.

use std::cell::{Cell, RefCell};

use std::rc::Rc;
use std::time::Duration;

use twistor::{
    Backoff, ClientService, Deferred, Handle, Interruption, ListenService, Progress, Protocol,
    ReconnectingClient, Resolver, Service, ServiceError, ServiceFn, ServiceGroup, ServiceId, TimerService,
    Transport,
};
use twistor_tests::{World, contract};

/// What happened, in order.
#[derive(Clone, Default)]
struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    fn say(&self, text: impl Into<String>) {
        self.0.borrow_mut().push(text.into());
    }

    fn take(&self) -> Vec<String> {
        self.0.take()
    }

    fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

/// What a hook of a service does.
#[derive(Clone, Copy)]
enum Does {
    Nothing,
    Fails,
    Panics,
    /// It is done when the test says so.
    Waits,
    /// It is done after a while.
    TakesTime,
}

type Waiting = Rc<RefCell<Vec<Resolver<(), String>>>>;

struct Part {
    name: &'static str,
    log: Log,
    waiting: Waiting,
    start: Does,
    stop: Does,
}

impl Part {
    fn act(&self, does: Does, reactor: &Handle) -> Progress {
        match does {
            Does::Nothing => Progress::done(),
            Does::Fails => Progress::failed("no luck"),
            Does::Panics => panic!("in a service"),
            Does::Waits => {
                let (resolver, deferred) = Deferred::new(reactor);
                self.waiting.borrow_mut().push(resolver);
                deferred.into()
            }
            Does::TakesTime => {
                let (resolver, deferred) = Deferred::<(), String>::new(reactor);
                let (log, name) = (self.log.clone(), self.name);
                reactor.call_later(Duration::from_millis(2), move |_| {
                    log.say(format!("{name} done"));
                    resolver.resolve(Ok(()));
                });
                deferred.into()
            }
        }
    }
}

impl Service for Part {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn start(&mut self, reactor: &Handle) -> Progress {
        self.log.say(format!("start {}", self.name));
        self.act(self.start, reactor)
    }

    fn stop(&mut self, reactor: &Handle) -> Progress {
        self.log.say(format!("stop {}", self.name));
        self.act(self.stop, reactor)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.log.say(format!("drop {}", self.name));
    }
}

/// A group to try things with.
struct Trial {
    group: ServiceGroup,
    log: Log,
    waiting: Waiting,
}

impl Trial {
    fn new() -> Self {
        Self { group: ServiceGroup::new("trial"), log: Log::default(), waiting: Rc::default() }
    }

    fn part(&self, name: &'static str, start: Does, stop: Does) -> Part {
        Part { name, log: self.log.clone(), waiting: Rc::clone(&self.waiting), start, stop }
    }

    fn add(&self, name: &'static str, start: Does, stop: Does) -> ServiceId {
        self.group.add(self.part(name, start, stop))
    }

    /// Decides the hook that has waited longest.
    fn decide(&self, outcome: Result<(), String>) {
        let resolver = self.waiting.borrow_mut().remove(0);
        resolver.resolve(outcome);
    }
}

/// The outcome of something, once there is one.
type Outcome = Rc<RefCell<Option<Result<(), String>>>>;

fn outcome(deferred: Deferred<(), ServiceError>) -> Outcome {
    let outcome = Outcome::default();
    let there = Rc::clone(&outcome);
    deferred.on_done(move |_, result| {
        *there.borrow_mut() = Some(result.map_err(|error| error.to_string()));
    });
    outcome
}

fn wait(world: &World, what: &str, deferred: Deferred<(), ServiceError>) -> Result<(), String> {
    let outcome = outcome(deferred);
    world.until(what, || outcome.borrow().is_some());
    outcome.take().expect("an outcome")
}

contract! {
    fn services_start_in_order_and_stop_in_reverse_and_are_waited_for(driver) {
        let (world, trial) = (World::new(driver), Trial::new());
        trial.add("a", Does::TakesTime, Does::Nothing);
        trial.add("b", Does::Nothing, Does::TakesTime);
        trial.add("c", Does::TakesTime, Does::TakesTime);
        assert_eq!(wait(&world, "it runs", trial.group.start(&world.reactor)), Ok(()));
        assert!(trial.group.is_running());
        assert_eq!(trial.log.take(), ["start a", "a done", "start b", "start c", "c done"]);
        assert_eq!(wait(&world, "it has stopped", trial.group.stop(&world.reactor)), Ok(()));
        assert!(!trial.group.is_running());
        assert_eq!(trial.log.take(), ["stop c", "c done", "stop b", "b done", "stop a"]);
        // And again.
        assert_eq!(wait(&world, "it runs", trial.group.start(&world.reactor)), Ok(()));
        assert_eq!(trial.log.len(), 5);
    }

    // Line 3.
    fn no_call_calls_a_service(driver) {
        let (world, trial) = (World::new(driver), Trial::new());
        let id = trial.add("a", Does::Nothing, Does::Nothing);
        let started = outcome(trial.group.start(&world.reactor));
        let running = outcome(trial.group.when_running(&world.reactor, id));
        assert_eq!(trial.log.len(), 0);
        world.until("it runs", || started.borrow().is_some() && running.borrow().is_some());
        trial.log.take();
        let removed = outcome(trial.group.remove(&world.reactor, id));
        let stopped = outcome(trial.group.stop(&world.reactor));
        assert_eq!(trial.log.len(), 0);
        world.until("it is over", || removed.borrow().is_some() && stopped.borrow().is_some());
        assert_eq!(trial.log.take(), ["stop a", "drop a"]);
    }

    fn a_failing_start_stops_those_before_it_and_names_the_service(driver) {
        for (does, why) in [(Does::Fails, "no luck"), (Does::Panics, "it panicked")] {
            let (world, trial) = (World::new(driver), Trial::new());
            trial.add("a", Does::Nothing, Does::Nothing);
            trial.add("b", Does::TakesTime, Does::TakesTime);
            trial.add("c", does, Does::Nothing);
            trial.add("d", Does::Nothing, Does::Nothing);
            let result = wait(&world, "it has failed", trial.group.start(&world.reactor));
            assert_eq!(result, Err(format!("service \"c\" cannot start: {why}")));
            assert_eq!(
                trial.log.take(),
                ["start a", "start b", "b done", "start c", "stop b", "b done", "stop a"]
            );
            assert!(!trial.group.is_running());
            assert_eq!(trial.group.len(), 4);
        }
    }

    fn a_start_that_fails_later_is_a_failure_too(driver) {
        let (world, trial) = (World::new(driver), Trial::new());
        trial.add("a", Does::Nothing, Does::Nothing);
        trial.add("b", Does::Waits, Does::Nothing);
        let started = outcome(trial.group.start(&world.reactor));
        world.until("b waits", || trial.waiting.borrow().len() == 1);
        trial.decide(Err("too late".to_owned()));
        world.until("it has failed", || started.borrow().is_some());
        assert_eq!(started.take(), Some(Err("service \"b\" cannot start: too late".to_owned())));
        assert_eq!(trial.log.take(), ["start a", "start b", "stop a"]);
    }

    fn a_failing_stop_does_not_keep_the_others_from_stopping(driver) {
        for (does, why) in [(Does::Fails, "no luck"), (Does::Panics, "it panicked")] {
            let (world, trial) = (World::new(driver), Trial::new());
            trial.add("a", Does::Nothing, Does::Nothing);
            trial.add("b", Does::Nothing, does);
            trial.add("c", Does::Nothing, Does::Nothing);
            assert_eq!(wait(&world, "it runs", trial.group.start(&world.reactor)), Ok(()));
            trial.log.take();
            let result = wait(&world, "it has stopped", trial.group.stop(&world.reactor));
            assert_eq!(result, Err(format!("service \"b\" cannot stop: {why}")));
            assert_eq!(trial.log.take(), ["stop c", "stop b", "stop a"]);
            // The failure was that one's.
            assert_eq!(wait(&world, "it runs", trial.group.start(&world.reactor)), Ok(()));
        }
    }

    fn a_stop_gives_up_a_start_that_is_under_way(driver) {
        let (world, trial) = (World::new(driver), Trial::new());
        trial.add("a", Does::Nothing, Does::Nothing);
        trial.add("b", Does::Waits, Does::Nothing);
        trial.add("c", Does::Nothing, Does::Nothing);
        let started = outcome(trial.group.start(&world.reactor));
        world.until("b waits", || trial.waiting.borrow().len() == 1);
        assert_eq!(wait(&world, "it has stopped", trial.group.stop(&world.reactor)), Ok(()));
        assert_eq!(trial.log.take(), ["start a", "start b", "stop b", "stop a"]);
        world.until("the start is over", || started.borrow().is_some());
        assert_eq!(started.take(), Some(Err("service \"trial\" cannot start: it was stopped again".to_owned())));
        // A late answer changes nothing.
        trial.decide(Ok(()));
        world.turns(5);
        assert_eq!(trial.log.len(), 0);
        assert!(!trial.group.is_running());
    }

    fn a_start_while_it_stops_starts_it_again(driver) {
        let (world, trial) = (World::new(driver), Trial::new());
        trial.add("a", Does::Nothing, Does::Nothing);
        trial.add("b", Does::Nothing, Does::Waits);
        assert_eq!(wait(&world, "it runs", trial.group.start(&world.reactor)), Ok(()));
        trial.log.take();
        let stopped = outcome(trial.group.stop(&world.reactor));
        world.until("b stops", || trial.waiting.borrow().len() == 1);
        let started = outcome(trial.group.start(&world.reactor));
        trial.decide(Ok(()));
        world.until("it runs", || started.borrow().is_some());
        assert_eq!(started.take(), Some(Ok(())));
        assert_eq!(stopped.take(), Some(Err("service \"trial\" cannot stop: it was started again".to_owned())));
        assert_eq!(trial.log.take(), ["stop b", "start b"]);
    }

    fn children_come_and_go_while_it_runs(driver) {
        let (world, trial) = (World::new(driver), Trial::new());
        trial.add("a", Does::Nothing, Does::Nothing);
        assert_eq!(wait(&world, "it runs", trial.group.start(&world.reactor)), Ok(()));
        let b = trial.add("b", Does::TakesTime, Does::TakesTime);
        assert_eq!(wait(&world, "b runs", trial.group.when_running(&world.reactor, b)), Ok(()));
        assert_eq!(trial.log.take(), ["start a", "start b", "b done"]);
        assert_eq!(wait(&world, "b is gone", trial.group.remove(&world.reactor, b)), Ok(()));
        assert_eq!(trial.log.take(), ["stop b", "b done", "drop b"]);
        assert!(wait(&world, "no b", trial.group.remove(&world.reactor, b)).is_err());
        assert!(wait(&world, "no b", trial.group.when_running(&world.reactor, b)).is_err());
        assert_eq!(trial.group.len(), 1);
        assert!(trial.group.is_running());
    }

    fn a_child_that_cannot_start_in_a_running_group_is_dropped_alone(driver) {
        let (world, trial) = (World::new(driver), Trial::new());
        trial.add("a", Does::Nothing, Does::Nothing);
        assert_eq!(wait(&world, "it runs", trial.group.start(&world.reactor)), Ok(()));
        trial.log.take();
        for does in [Does::Fails, Does::Panics] {
            let b = trial.add("b", does, Does::Nothing);
            let result = wait(&world, "b fails", trial.group.when_running(&world.reactor, b));
            assert!(result.expect_err("it fails").starts_with("service \"b\" cannot start: "));
            world.until("b is gone", || trial.group.len() == 1);
            assert_eq!(trial.log.take(), ["start b", "drop b"]);
        }
        assert!(trial.group.is_running());
    }

    fn a_child_can_be_removed_while_it_starts_and_before(driver) {
        let (world, trial) = (World::new(driver), Trial::new());
        let never = trial.add("never", Does::Nothing, Does::Nothing);
        assert_eq!(wait(&world, "it is gone", trial.group.remove(&world.reactor, never)), Ok(()));
        assert_eq!(trial.log.take(), ["drop never"]);
        let slow = trial.add("slow", Does::Waits, Does::Nothing);
        trial.add("last", Does::Nothing, Does::Nothing);
        let started = outcome(trial.group.start(&world.reactor));
        world.until("it waits", || trial.waiting.borrow().len() == 1);
        assert_eq!(wait(&world, "it is gone", trial.group.remove(&world.reactor, slow)), Ok(()));
        world.until("the rest runs", || started.borrow().is_some());
        assert_eq!(started.take(), Some(Ok(())));
        assert_eq!(trial.log.take(), ["start slow", "stop slow", "drop slow", "start last"]);
    }

    fn groups_make_a_tree(driver) {
        let (world, trial) = (World::new(driver), Trial::new());
        let inner = ServiceGroup::new("inner");
        trial.add("a", Does::Nothing, Does::Nothing);
        trial.group.add(inner.clone());
        trial.add("z", Does::Nothing, Does::Nothing);
        inner.add(trial.part("b", Does::TakesTime, Does::TakesTime));
        inner.add(trial.part("c", Does::Nothing, Does::Nothing));
        assert_eq!(wait(&world, "it runs", trial.group.start(&world.reactor)), Ok(()));
        assert!(inner.is_running());
        assert_eq!(wait(&world, "it has stopped", trial.group.stop(&world.reactor)), Ok(()));
        assert_eq!(
            trial.log.take(),
            ["start a", "start b", "b done", "start c", "start z", "stop z", "stop c", "stop b", "b done", "stop a"]
        );
        inner.add(trial.part("d", Does::Fails, Does::Nothing));
        let result = wait(&world, "it fails", trial.group.start(&world.reactor));
        assert_eq!(
            result,
            Err("service \"inner\" cannot start: service \"d\" cannot start: no luck".to_owned())
        );
        assert_eq!(trial.log.take().last().map(String::as_str), Some("stop a"));
    }

    fn a_service_may_change_its_own_group(driver) {
        let (world, trial) = (World::new(driver), Trial::new());
        let (group, log) = (trial.group.clone(), trial.log.clone());
        let last = Rc::new(Cell::new(None));
        let id = Rc::clone(&last);
        trial.group.add(ServiceFn::new("meddler").on_start(move |reactor| {
            let added = group.add(ServiceFn::new("added").on_start({
                let log = log.clone();
                move |_| log.say("start added")
            }));
            drop(group.remove(reactor, id.take().expect("an id")));
            drop(group.when_running(reactor, added));
            drop(group.start(reactor));
        }));
        last.set(Some(trial.add("last", Does::Nothing, Does::Nothing)));
        assert_eq!(wait(&world, "it runs", trial.group.start(&world.reactor)), Ok(()));
        assert_eq!(trial.log.take(), ["drop last", "start added"]);
        // One that stops everything while it starts.
        let group = trial.group.clone();
        trial.group.add(ServiceFn::new("end").on_start(move |reactor| {
            drop(group.stop(reactor));
        }));
        world.until("it has stopped", || !trial.group.is_running());
    }

    // Line 5.
    fn destructors_and_names_that_panic_are_contained(driver) {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("in a destructor");
            }
        }
        impl Service for Bomb {
            fn name(&self) -> String {
                panic!("no name");
            }
            fn start(&mut self, _: &Handle) -> Progress {
                Progress::done()
            }
        }
        let (world, trial) = (World::new(driver), Trial::new());
        let bomb = trial.group.add(Bomb);
        trial.add("a", Does::Nothing, Does::Nothing);
        assert_eq!(wait(&world, "it runs", trial.group.start(&world.reactor)), Ok(()));
        assert_eq!(wait(&world, "it is gone", trial.group.remove(&world.reactor, bomb)), Ok(()));
        assert_eq!(trial.log.take(), ["start a"]);
    }

    // Line 71.
    fn many_services_use_bounded_stack(driver) {
        let world = World::new(driver);
        let group = ServiceGroup::new("many");
        let count = Rc::new(Cell::new(0));
        for _ in 0..2_000 {
            let (up, down) = (Rc::clone(&count), Rc::clone(&count));
            group.add(
                ServiceFn::new("one")
                    .on_start(move |_| up.set(up.get() + 1))
                    .on_stop(move |_| down.set(down.get() - 1)),
            );
        }
        assert_eq!(wait(&world, "it runs", group.start(&world.reactor)), Ok(()));
        assert_eq!(count.get(), 2_000);
        assert_eq!(wait(&world, "it has stopped", group.stop(&world.reactor)), Ok(()));
        assert_eq!(count.get(), 0);
    }

    fn a_listening_service_listens_while_it_runs(driver) {
        struct Echo;
        impl Protocol for Echo {
            fn data_received(&mut self, transport: &Transport, data: &[u8]) {
                transport.write(data);
            }
        }
        let world = World::new(driver);
        let group = ServiceGroup::new("group");
        group.add(ListenService::new("echo", "tcp:0:interface=127.0.0.1", |_| Echo));
        for _ in 0..2 {
            assert_eq!(wait(&world, "it runs", group.start(&world.reactor)), Ok(()));
            assert_eq!(world.reactor.ports().len(), 1);
            assert_eq!(wait(&world, "it has stopped", group.stop(&world.reactor)), Ok(()));
            assert_eq!(world.reactor.ports().len(), 0);
        }
        group.add(ListenService::new("bad", "tcp:80x", |_| Echo));
        let error = wait(&world, "it fails", group.start(&world.reactor)).expect_err("a bad endpoint");
        assert!(error.starts_with("service \"bad\" cannot start: bad endpoint"), "{error}");
        assert_eq!(world.reactor.ports().len(), 0);
    }

    fn a_client_service_stays_connected_while_it_runs(driver) {
        struct Quiet(Rc<Cell<i32>>);
        impl Protocol for Quiet {
            fn connection_made(&mut self, _: &Transport) {
                self.0.set(self.0.get() + 1);
            }
            fn data_received(&mut self, _: &Transport, _: &[u8]) {}
            fn connection_lost(&mut self, _: &Transport, _: &twistor::Reason) {
                self.0.set(self.0.get() - 1);
            }
        }
        let world = World::new(driver);
        let count = Rc::new(Cell::new(0));
        let counter = Rc::clone(&count);
        let port = world.listen(move |_| Quiet(Rc::clone(&counter)));
        let address = format!("tcp:{}", port.local_addr());
        let clients = Rc::new(Cell::new(0));
        let (mine, started) = (Rc::clone(&count), Rc::clone(&clients));
        let group = ServiceGroup::new("group");
        group.add(
            ClientService::new("client", move || {
                let count = Rc::clone(&mine);
                ReconnectingClient::builder(&*address, move |_| Quiet(Rc::clone(&count)))
                    .backoff(Backoff::new().first(Duration::from_millis(1)))
            })
            .on_started(move |_| started.set(started.get() + 1)),
        );
        for round in 1..=2 {
            assert_eq!(wait(&world, "it runs", group.start(&world.reactor)), Ok(()));
            world.until("both ends are there", || count.get() == 2);
            assert_eq!(clients.get(), round);
            assert_eq!(wait(&world, "it has stopped", group.stop(&world.reactor)), Ok(()));
            world.until("both ends are gone", || count.get() == 0);
        }
    }

    fn a_timer_service_ticks_while_it_runs(driver) {
        let world = World::new(driver);
        let group = ServiceGroup::new("group");
        let ticks = Rc::new(Cell::new(0));
        let count = Rc::clone(&ticks);
        group.add(TimerService::new("ticks", Duration::from_millis(2), move |_, _| count.set(count.get() + 1)));
        for _ in 0..2 {
            let before = ticks.get();
            assert_eq!(wait(&world, "it runs", group.start(&world.reactor)), Ok(()));
            world.until("it ticks", || ticks.get() >= before + 3);
            assert_eq!(wait(&world, "it has stopped", group.stop(&world.reactor)), Ok(()));
            let after = ticks.get();
            world.run_for(Duration::from_millis(10));
            assert_eq!(ticks.get(), after);
        }
    }

    fn whatever_a_hook_returns_can_be_progress(driver) {
        let world = World::new(driver);
        let group = ServiceGroup::new("group");
        group.add(ServiceFn::new("nothing"));
        group.add(ServiceFn::new("unit").on_start(|_| ()).on_stop(|_| ()));
        group.add(ServiceFn::new("result").on_start(|_| Ok::<(), std::io::Error>(())));
        group.add(ServiceFn::new("deferred").on_start(|reactor| {
            let (resolver, deferred) = Deferred::<(), Interruption>::new(reactor);
            resolver.resolve(Ok(()));
            deferred
        }));
        assert_eq!(wait(&world, "it runs", group.start(&world.reactor)), Ok(()));
        assert_eq!(wait(&world, "it has stopped", group.stop(&world.reactor)), Ok(()));
    }

    // Line 9.
    fn a_group_outlives_its_reactor_and_does_nothing_then(driver) {
        let (world, trial) = (World::new(driver), Trial::new());
        let id = trial.add("a", Does::Nothing, Does::Nothing);
        assert_eq!(wait(&world, "it runs", trial.group.start(&world.reactor)), Ok(()));
        let handle: Handle = (*world.reactor).clone();
        let rest = world.end();
        drop(trial.group.stop(&handle));
        drop(trial.group.remove(&handle, id));
        trial.add("b", Does::Nothing, Does::Nothing);
        assert_eq!(trial.log.take(), ["start a"]);
        let Trial { group, log, .. } = trial;
        drop(group);
        assert_eq!(log.take(), ["drop a", "drop b"], "nothing holds them");
        drop(rest);
    }
}
