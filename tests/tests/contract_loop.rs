//! The contract, section 1: the pass, its order, running and sleeping.

#![allow(unsafe_code, reason = "signals are sent to threads through libc")]

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use twistor::{Deferred, Factory, Handle, Peer, Reactor, ShutdownPhase, Timeouts, Transport};
use twistor_tests::{Driver, Log, PATIENCE, Script, World, contract, kernel_contract};

type Words = Rc<RefCell<Vec<&'static str>>>;

fn say(words: &Words, word: &'static str) -> impl FnMut() + Clone + 'static {
    let words = Rc::clone(words);
    move || words.borrow_mut().push(word)
}

/// A reactor that can be put into hooks.
fn shared(driver: Driver) -> Rc<Reactor> {
    Rc::new(World::new(driver).reactor)
}

/// Has `f` called again and again, once a pass.
fn call_for_ever(handle: &Handle, f: Rc<dyn Fn()>) {
    handle.call_soon(move |handle| {
        f();
        call_for_ever(handle, f);
    });
}

fn time_for_ever(handle: &Handle, f: Rc<dyn Fn()>) {
    handle.call_later(Duration::ZERO, move |handle| {
        f();
        time_for_ever(handle, f);
    });
}

contract! {
    // Line 1.
    fn a_pass_goes_through_its_phases_in_order(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let (mut input, mut loss) = (say(&words, "input"), say(&words, "loss"));
        let (_reader, peer) = world.pair(Script::new(&Log::new()).on_data(move |_, _| input()));
        let (victim, _other) = world.pair(Script::new(&Log::new()).on_lost(move |_, _| loss()));
        world.turns(3);
        assert_eq!(peer.try_send(b"x"), 1);
        assert!(world.becomes_ready());

        let mut before_wait = say(&words, "before wait");
        world.reactor.before_wait(move |_| before_wait());
        let mut trigger = say(&words, "trigger");
        world.reactor.on_shutdown(ShutdownPhase::Before, move |_| trigger());
        let (mut callback, mut timer) = (say(&words, "callback"), say(&words, "timer"));
        victim.abort_connection();
        world.reactor.stop();
        world.reactor.call_soon(move |_| callback());
        world.reactor.call_later(Duration::ZERO, move |_| timer());
        world.turns(1);
        assert_eq!(*words.borrow(), ["before wait", "input", "timer", "callback", "trigger", "loss"]);
    }

    // Line 1.
    fn all_timers_of_a_pass_are_due_at_one_time(driver) {
        let world = World::new(driver);
        // A try counts only if the first timer ran before the second was due.
        for _ in 0..100 {
            let passes = Rc::new(RefCell::new(Vec::new()));
            let second = world.reactor.now() + Duration::from_millis(20);
            let in_time = Rc::new(Cell::new(false));
            let (noted, seen, machine) = (Rc::clone(&passes), Rc::clone(&in_time), world.machine());
            world.reactor.call_later(Duration::ZERO, move |handle| {
                seen.set(handle.now() < second);
                noted.borrow_mut().push(handle.stats().passes);
                machine.spend(second.saturating_duration_since(handle.now()));
            });
            let noted = Rc::clone(&passes);
            world.reactor.call_at(second, move |handle| noted.borrow_mut().push(handle.stats().passes));
            world.until("both timers", || passes.borrow().len() == 2);
            if in_time.get() {
                assert!(passes.borrow()[0] < passes.borrow()[1], "a timer was taken in late");
                return;
            }
        }
        panic!("this machine is too slow to tell");
    }

    // Line 1.
    fn what_a_timer_queues_runs_in_the_queue_of_the_same_pass(driver) {
        let world = World::new(driver);
        let passes = Rc::new(RefCell::new(Vec::new()));
        let noted = Rc::clone(&passes);
        world.reactor.call_later(Duration::ZERO, move |handle| {
            noted.borrow_mut().push(handle.stats().passes);
            handle.call_soon(move |handle| noted.borrow_mut().push(handle.stats().passes));
        });
        world.until("the timer and its callback", || passes.borrow().len() == 2);
        assert_eq!(passes.borrow()[0], passes.borrow()[1]);
    }

    // Line 1.
    fn what_is_written_from_elsewhere_goes_out_in_the_same_pass(driver) {
        let world = World::new(driver);
        let (transport, peer) = world.pair(Script::new(&Log::new()));
        world.turns(3);
        world.reactor.call_soon(move |_| transport.write(b"at settle"));
        world.turns(1);
        assert!(peer.socket().becomes_readable());
        assert_eq!(peer.try_receive().as_deref(), Some(&b"at settle"[..]));
    }

    // Line 2.
    fn a_callback_queued_by_a_callback_runs_in_a_later_pass(driver) {
        let world = World::new(driver);
        let passes = Rc::new(RefCell::new(Vec::new()));
        let noted = Rc::clone(&passes);
        call_for_ever(&world.reactor, Rc::new({
            let handle = Handle::clone(&world.reactor);
            move || noted.borrow_mut().push(handle.stats().passes)
        }));
        world.turns(5);
        let passes = passes.borrow();
        assert_eq!(passes.len(), 5);
        assert!(passes.windows(2).all(|pair| pair[0] < pair[1]), "{passes:?}");
    }

    // Line 2.
    fn a_timer_without_delay_set_by_a_timer_runs_in_a_later_pass(driver) {
        let world = World::new(driver);
        let passes = Rc::new(RefCell::new(Vec::new()));
        let noted = Rc::clone(&passes);
        time_for_ever(&world.reactor, Rc::new({
            let handle = Handle::clone(&world.reactor);
            move || noted.borrow_mut().push(handle.stats().passes)
        }));
        world.turns(5);
        let passes = passes.borrow();
        assert!(passes.len() <= 5 && passes.windows(2).all(|pair| pair[0] < pair[1]), "{passes:?}");
    }

    // Line 2.
    fn callbacks_and_timers_without_end_do_not_starve_input(driver) {
        let world = World::new(driver);
        let (_, peer) = world.pair(Script::new(&Log::new()).on_data(Transport::write));
        call_for_ever(&world.reactor, Rc::new(|| {}));
        time_for_ever(&world.reactor, Rc::new(|| {}));
        for n in 0..20_u8 {
            peer.send(&[n]);
            assert_eq!(peer.receive(1), [n]);
        }
    }

    // Line 2.
    fn a_pass_does_not_wait_while_something_is_queued(driver) {
        let world = World::new(driver);
        let (transport, peer) = world.pair(Script::new(&Log::new()));
        let long = Some(Duration::from_secs(60));
        let began = world.now();
        // Queued by a callback, for the next pass.
        let ran = Rc::new(Cell::new(false));
        let seen = Rc::clone(&ran);
        world.reactor.call_soon(move |handle| {
            handle.call_soon(move |_| seen.set(true));
        });
        world.turns(1);
        world.reactor.turn(long).expect("a turn");
        assert!(ran.get());
        // Written from outside.
        transport.write(b"x");
        world.reactor.turn(long).expect("a turn");
        assert_eq!(peer.receive(1), b"x");
        // A call through `Remote`, made by the loop itself after its queue has run.
        let (other, _peer) = world.pair(Script::new(&Log::new()).on_lost({
            let ran = Rc::clone(&ran);
            ran.set(false);
            move |transport, _| {
                let flag = Arc::new(AtomicBool::new(false));
                let set = Arc::clone(&flag);
                transport.reactor().remote().call(move |_| set.store(true, Ordering::SeqCst)).expect("a call");
                let ran = Rc::clone(&ran);
                transport.reactor().call_soon(move |handle| {
                    handle.call_soon(move |_| ran.set(flag.load(Ordering::SeqCst)));
                });
            }
        }));
        other.abort_connection();
        for _ in 0..3 {
            world.reactor.turn(long).expect("a turn");
        }
        assert!(ran.get(), "the call of the settle phase did not run");
        assert!(world.since(began) < Duration::from_secs(30), "a turn waited");
    }

    // Line 3.
    fn no_call_runs_a_hook(driver) {
        let world = World::new(driver);
        let inside = Rc::new(Cell::new(false));
        let (heard, wrong) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(Vec::new())));
        let hook = {
            let (inside, heard, wrong) = (Rc::clone(&inside), Rc::clone(&heard), Rc::clone(&wrong));
            move |name: &'static str| {
                heard.set(heard.get() + 1);
                if inside.get() {
                    wrong.borrow_mut().push(name);
                }
            }
        };
        let script = {
            let hook = hook.clone();
            move || {
                let (made, data, lost, pause, resume) =
                    (hook.clone(), hook.clone(), hook.clone(), hook.clone(), hook.clone());
                Script::new(&Log::new())
                    .on_made(move |_| made("connection_made"))
                    .on_data(move |_, _| data("data_received"))
                    .on_pause(move |_| pause("pause_writing"))
                    .on_resume(move |_| resume("resume_writing"))
                    .on_lost(move |_, _| lost("connection_lost"))
            }
        };
        let everything = {
            let (hook, script) = (hook.clone(), script.clone());
            move |handle: &Handle, transport: &Transport, address: String| {
                let h = hook.clone();
                handle.call_soon(move |_| h("callback"));
                let h = hook.clone();
                handle.call_later(Duration::ZERO, move |_| h("timer"));
                let h = hook.clone();
                let ticking = handle.every(Duration::from_nanos(1), move |_, _| h("looping call"));
                let h = hook.clone();
                ticking.finished().on_done(move |_, _| h("looping call's end"));
                let h = hook.clone();
                handle.call_later(Duration::from_millis(5), move |_| {
                    ticking.stop();
                    h("timer");
                });
                let h = hook.clone();
                handle.connect_protocol(address, script()).on_done(move |_, _| h("connected"));
                let h = hook.clone();
                handle.connect_protocol("nonsense", script()).on_done(move |_, _| h("not connected"));
                let h = hook.clone();
                let (resolver, deferred) = Deferred::<(), String>::new(handle);
                deferred.on_done(move |_, _| h("deferred"));
                resolver.resolve(Ok(()));
                let h = hook.clone();
                let (resolver, deferred) = Deferred::<(), String>::new(handle);
                resolver.resolve(Ok(()));
                deferred.on_done(move |_, _| h("fired deferred"));
                let h = hook.clone();
                let fresh = handle.listen("tcp:0:interface=127.0.0.1", {
                    let script = script.clone();
                    move |_| script()
                });
                fresh.expect("a port").stop_listening().on_done(move |_, _| h("stopped listening"));
                transport.write(b"written");
                transport.set_watermarks(4, 2);
                transport.write_bytes(vec![0; 1 << 17]);
                let h = hook.clone();
                transport.flushed().on_done(move |_, _| h("flushed"));
                transport.pause_reading();
                transport.unread(&b"back"[..]);
                transport.resume_reading();
                let h = hook.clone();
                transport.call_later(Duration::ZERO, move |_: &mut Script, _| h("timer of a connection"));
                let h = hook.clone();
                transport.connection::<Script>().map(|to| to.post(move |_, _| h("post")));
                transport.set_timeouts(Timeouts::default());
                transport.switch_protocol(script());
            }
        };
        let port = world.listen({
            let script = script.clone();
            move |_| script()
        });
        let address = format!("tcp:{}", port.local_addr());

        let (first, _peer) = world.pair(script());
        inside.set(true);
        everything(&world.reactor, &first, address.clone());
        inside.set(false);
        let before = heard.get();
        world.until("what was asked for outside the loop", || heard.get() >= before + 12);

        // The same from inside a hook.
        let (second, _peer) = world.pair(script());
        let (flag, done) = (Rc::clone(&inside), Rc::new(Cell::new(false)));
        let seen = Rc::clone(&done);
        let ending = [first, second.clone()];
        world.reactor.call_soon(move |handle| {
            flag.set(true);
            everything(handle, &second, address);
            flag.set(false);
            seen.set(true);
        });
        world.until("the hook", || done.get());
        world.run_for(Duration::from_millis(20));

        inside.set(true);
        ending[0].lose_connection();
        ending[1].abort_connection();
        world.reactor.stop();
        inside.set(false);
        let before = heard.get();
        world.until("a loss", || heard.get() > before);
        assert!(wrong.borrow().is_empty(), "called from inside a call: {:?}", wrong.borrow());
    }

    // Line 4.
    fn callbacks_run_in_the_order_they_were_queued(driver) {
        let world = World::new(driver);
        let order = Rc::new(RefCell::new(Vec::new()));
        for n in 0..1000 {
            let order = Rc::clone(&order);
            world.reactor.call_soon(move |_| order.borrow_mut().push(n));
        }
        world.until("all of them", || order.borrow().len() == 1000);
        assert!(order.borrow().is_sorted());
    }

    // Line 4.
    fn a_cancelled_callback_is_dropped_and_does_not_run(driver) {
        let world = World::new(driver);
        let value = Rc::new(());
        let held = Rc::clone(&value);
        let call = world.reactor.call_soon(move |_| panic!("called with {held:?}"));
        assert!(call.is_active());
        assert!(call.cancel());
        assert_eq!(Rc::strong_count(&value), 1);
        assert!(!call.is_active() && !call.cancel());
        world.turns(2);
        assert_eq!(world.reactor.stats().panics, 0);
    }

    // Line 4.
    fn a_callback_can_cancel_the_one_behind_it(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let behind = Rc::new(RefCell::new(None));
        let (mut first, victim) = (say(&words, "first"), Rc::clone(&behind));
        let call = world.reactor.call_soon(move |_| {
            first();
            let victim: Option<twistor::CallHandle> = victim.borrow_mut().take();
            assert!(victim.expect("it was queued").cancel());
        });
        let (mut second, mut third) = (say(&words, "second"), say(&words, "third"));
        *behind.borrow_mut() = Some(world.reactor.call_soon(move |_| second()));
        world.reactor.call_soon(move |_| third());
        world.turns(2);
        assert_eq!(*words.borrow(), ["first", "third"]);
        assert!(!call.is_active() && !call.cancel(), "it has run");
        assert_eq!(world.reactor.stats().panics, 0);
    }

    // Line 6.
    fn run_until_idle_returns_at_once_when_there_is_nothing(driver) {
        World::new(driver).reactor.run_until_idle().expect("a run");
    }

    // Line 6.
    fn run_until_idle_waits_for_callbacks_timers_and_connections(driver) {
        let world = World::new(driver);
        let words = Words::default();
        let (mut callback, mut timer, mut lost) =
            (say(&words, "callback"), say(&words, "timer"), say(&words, "lost"));
        world.reactor.call_soon(move |handle| {
            callback();
            handle.call_later(Duration::from_millis(1), move |handle| {
                timer();
                let port = handle.listen("tcp:0:interface=127.0.0.1", |_| Script::new(&Log::new()));
                let port = port.expect("a port");
                let client = Script::new(&Log::new())
                    .on_made(Transport::lose_connection)
                    .on_lost(move |_, _| lost());
                handle.connect_protocol(format!("tcp:{}", port.local_addr()), client).on_done(move |_, _| {
                    drop(port.stop_listening());
                });
            });
        });
        world.reactor.run_until_idle().expect("a run");
        assert_eq!(*words.borrow(), ["callback", "timer", "lost"]);
        assert_eq!(world.reactor.stats().connections, 0);
    }

    // Line 6.
    fn run_until_idle_does_not_wait_for_what_is_unreferenced(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Script::new(&Log::new()));
        port.unref();
        world.reactor.call_later(Duration::from_secs(3600), |_| {}).unref();
        let ran = Rc::new(Cell::new(false));
        let seen = Rc::clone(&ran);
        world.reactor.call_later(Duration::from_millis(1), move |_| seen.set(true)).unref();
        let ticks = Rc::new(Cell::new(0));
        let seen = Rc::clone(&ticks);
        world.reactor.every(Duration::from_millis(1), move |_, _| seen.set(seen.get() + 1)).unref();
        world.reactor.call_later(Duration::from_millis(50), |_| {});
        let began = world.now();
        world.reactor.run_until_idle().expect("a run");
        assert!(world.since(began) < Duration::from_secs(60));
        assert!(ran.get(), "what is unreferenced still happens while the loop runs");
        assert!(ticks.get() > 1, "a looping call stays unreferenced from call to call");
        assert!(port.is_listening());
    }

    // Line 6.
    fn running_inside_a_hook_is_an_error(driver) {
        let reactor = shared(driver);
        let errors = Rc::new(RefCell::new(Vec::new()));
        let attempt = {
            let (reactor, errors) = (Rc::clone(&reactor), Rc::clone(&errors));
            move || {
                for result in [
                    reactor.run(),
                    reactor.run_until_idle(),
                    reactor.turn(Some(Duration::ZERO)).map(|_| ()),
                ] {
                    errors.borrow_mut().push(result.expect_err("it runs already"));
                }
            }
        };
        let (in_callback, in_timer, in_hook) = (attempt.clone(), attempt.clone(), attempt);
        reactor.call_soon(move |_| in_callback());
        reactor.call_later(Duration::ZERO, move |_| in_timer());
        let port = reactor
            .listen("tcp:0:interface=127.0.0.1", |_| Script::new(&Log::new()))
            .expect("a port");
        let client = Script::new(&Log::new()).on_made(move |transport| {
            in_hook();
            transport.reactor().stop();
        });
        reactor.connect_protocol(format!("tcp:{}", port.local_addr()), client).on_done(|_, _| {});
        reactor.run().expect("the outer run is not disturbed");
        assert_eq!(errors.borrow().len(), 9);
        assert!(errors.borrow().iter().all(|error| error.kind() == ErrorKind::ResourceBusy));
        assert!(errors.borrow()[0].to_string().contains("hook"), "{}", errors.borrow()[0]);
    }

    // Line 6.
    fn after_a_finished_stop_it_runs_again(driver) {
        let world = World::new(driver);
        for _ in 0..3 {
            let log = Log::new();
            let port = world.listen({
                let log = log.clone();
                move |_| Script::new(&log).on_data(|transport, _| transport.reactor().stop())
            });
            let client = Script::new(&Log::new()).on_made(|transport| transport.write(b"stop"));
            world.reactor.connect_protocol(format!("tcp:{}", port.local_addr()), client).on_done(|_, _| {});
            world.reactor.run().expect("a run");
            assert_eq!(log.data(), b"stop");
            assert!(log.lost().is_some() && !port.is_listening());
            assert!(!world.reactor.is_stopping());
        }
    }

    // Lines 6 and 7.
    fn a_stop_before_the_run_ends_it_at_once(driver) {
        let world = World::new(driver);
        world.reactor.stop();
        assert!(world.reactor.is_stopping());
        world.reactor.run().expect("a run");
        assert!(!world.reactor.is_stopping());
    }

    // Line 10.
    fn posts_and_timers_work_from_any_hook(driver) {
        in_every_hook(driver, |handle| {
            let count = Rc::new(Cell::new(0));
            let done = move |handle: &Handle| {
                count.set(count.get() + 1);
                if count.get() == 2 {
                    handle.stop();
                }
            };
            handle.call_soon(done.clone());
            handle.call_later(Duration::ZERO, done);
        });
    }

    // Line 10.
    fn stop_works_from_any_hook(driver) {
        in_every_hook(driver, Handle::stop);
    }

    // Line 10.
    fn stop_works_from_any_hook_through_the_remote(driver) {
        in_every_hook(driver, |handle| handle.remote().stop());
    }

    // Line 10.
    fn a_call_through_the_remote_works_from_any_hook(driver) {
        in_every_hook(driver, |handle| handle.remote().call(Handle::stop).expect("a call"));
    }
}

// Threads that wake a sleeping reactor, and signals.
kernel_contract! {
    // Line 11.
    fn an_idle_reactor_makes_no_passes(driver) {
        let world = World::new(driver);
        let (_connection, _peer) = world.pair(Script::new(&Log::new()));
        let _port = world.listen(|_| Script::new(&Log::new()));
        world.reactor.call_later(Duration::from_secs(3600), |_| {});
        world.turns(5);
        let remote = world.reactor.remote();
        let (sent, stats) = mpsc::channel();
        let observer = thread::spawn(move || {
            let report = |sent: mpsc::Sender<_>| move |handle: &Handle| sent.send(handle.stats()).expect("heard");
            remote.call(report(sent.clone())).expect("a call");
            let before = stats.recv().expect("the first report");
            // Nothing comes meanwhile.
            let _ = stats.recv_timeout(Duration::from_millis(300));
            remote.call(report(sent)).expect("a call");
            let after: twistor::Stats = stats.recv().expect("the second report");
            remote.stop();
            (before, after)
        });
        world.reactor.run().expect("a run");
        let (before, after) = observer.join().expect("the observer ends");
        assert!(after.passes - before.passes <= 2, "{} passes", after.passes - before.passes);
        assert!(after.system_calls.waits - before.system_calls.waits <= 2);
    }

    // Line 11.
    fn a_storm_of_signals_does_not_end_a_wait_early(driver) {
        let world = World::new(driver);
        let storm = Storm::on_this_thread();
        let began = Instant::now();
        world.reactor.turn(Some(Duration::from_millis(200))).expect("a turn");
        assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
        assert!(storm.end() > 0, "no signal came");
    }

    // Line 11.
    fn a_storm_of_signals_does_not_delay_a_timer(driver) {
        let world = World::new(driver);
        let storm = Storm::on_this_thread();
        let began = Instant::now();
        let (fired, seen) = (Rc::new(Cell::new(None)), Instant::now());
        let set = Rc::clone(&fired);
        world.reactor.call_later(Duration::from_millis(100), move |handle| {
            set.set(Some(seen.elapsed()));
            handle.stop();
        });
        world.reactor.run().expect("signals are no error");
        assert!(storm.end() > 0, "no signal came");
        let fired = fired.get().expect("the timer has fired");
        assert!(fired >= Duration::from_millis(100), "{fired:?}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }

    // Line 6.
    fn run_waits_for_stop_also_when_nothing_is_registered(driver) {
        let world = World::new(driver);
        let remote = world.reactor.remote();
        let asked = Arc::new(AtomicBool::new(false));
        let (sent, flag) = mpsc::channel::<()>();
        let stopper = {
            let asked = Arc::clone(&asked);
            thread::spawn(move || {
                let _ = flag.recv_timeout(Duration::from_millis(100));
                asked.store(true, Ordering::SeqCst);
                remote.stop();
            })
        };
        world.reactor.run().expect("a run");
        assert!(asked.load(Ordering::SeqCst), "it returned before it was stopped");
        drop(sent);
        stopper.join().expect("the thread ends");
    }
}

/// Signals for the thread that made it, as fast as they go.
struct Storm {
    over: Arc<AtomicBool>,
    sender: thread::JoinHandle<u32>,
}

extern "C" fn on_signal(_: libc::c_int) {}

impl Storm {
    fn on_this_thread() -> Self {
        // SAFETY: a zeroed sigaction is a valid one; the handler does nothing, so it may interrupt anything.
        // Without SA_RESTART every system call that can be interrupted is.
        let target = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
            libc::pthread_self()
        };
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let (begun, waiting) = mpsc::channel();
        let sender = thread::spawn(move || {
            let mut count = 0;
            while !ended.load(Ordering::SeqCst) {
                // SAFETY: the target joins this thread before it ends.
                unsafe { libc::pthread_kill(target, libc::SIGUSR1) };
                count += 1;
                let _ = begun.send(());
                thread::park_timeout(Duration::from_micros(200));
            }
            count
        });
        waiting.recv().expect("the storm begins");
        Self { over, sender }
    }

    fn end(self) -> u32 {
        self.over.store(true, Ordering::SeqCst);
        self.sender.join().expect("the storm ends")
    }
}

/// A factory whose `started` does something.
struct Starting(Option<Box<dyn FnOnce()>>);

impl Factory for Starting {
    type Protocol = Script;

    fn build_protocol(&mut self, _: Peer) -> Option<Script> {
        None
    }

    fn started(&mut self) {
        if let Some(f) = self.0.take() {
            f();
        }
    }
}

/// Runs a reactor for every kind of hook, which does `act`; fails if that does not make the run end.
fn in_every_hook(driver: Driver, act: fn(&Handle)) {
    let quiet = || Script::new(&Log::new());
    let on = |f: fn(&Transport)| Script::new(&Log::new()).on_made(f);
    let talk: fn(&Transport) = |transport| transport.write(b"x");
    let nothing: fn(&Transport) = |_| {};

    // Hooks of a server's connection, and what the client does when it is connected.
    let mut served: Vec<(&str, Box<dyn Fn() -> Script>, fn(&Transport))> = Vec::new();
    served.push(("connection_made", Box::new(move || quiet().on_made(move |t| act(t.reactor()))), nothing));
    served.push(("data_received", Box::new(move || quiet().on_data(move |t, _| act(t.reactor()))), talk));
    served.push((
        "eof_received",
        Box::new(move || {
            quiet().on_eof(move |transport| {
                act(transport.reactor());
                twistor::Eof::KeepOpen
            })
        }),
        Transport::lose_write_connection,
    ));
    let flood: fn(&Transport) = |transport| transport.write_bytes(vec![0; 32 << 20]);
    let drain_later: fn(&Transport) = |transport| {
        transport.pause_reading();
        let transport = transport.clone();
        transport.reactor().clone().call_later(Duration::from_millis(5), move |_| transport.resume_reading());
    };
    served.push((
        "pause_writing",
        Box::new(move || on(flood).on_pause(move |t| act(t.reactor()))),
        Transport::pause_reading,
    ));
    served.push((
        "resume_writing",
        Box::new(move || on(flood).on_resume(move |t| act(t.reactor()))),
        drain_later,
    ));
    let hurry: fn(&Transport) =
        |transport| transport.set_timeouts(Timeouts::default().idle(Duration::from_millis(1)));
    served.push((
        "timed_out",
        Box::new(move || {
            on(hurry).on_timed_out(move |transport, _| {
                act(transport.reactor());
                twistor::OnTimeout::Keep
            })
        }),
        nothing,
    ));
    served.push((
        "connection_lost",
        Box::new(move || quiet().on_lost(move |t, _| act(t.reactor()))),
        Transport::abort_connection,
    ));
    served.push((
        "a switched connection_made",
        Box::new(move || {
            quiet().on_made(move |transport| {
                transport.switch_protocol(quiet().on_made(move |t| act(t.reactor())));
            })
        }),
        nothing,
    ));
    served.push((
        "a post",
        Box::new(move || {
            quiet().on_made(move |transport| {
                let me = transport.connection::<Script>().expect("its type");
                me.post(move |_, transport| act(transport.reactor()));
            })
        }),
        nothing,
    ));
    served.push((
        "a connection's timer",
        Box::new(move || {
            quiet().on_made(move |transport| {
                transport.call_later(Duration::ZERO, move |_: &mut Script, t| act(t.reactor()));
            })
        }),
        nothing,
    ));
    for (name, server, client) in served {
        check(driver, name, |reactor| {
            let port = reactor.listen("tcp:0:interface=127.0.0.1", move |_| server()).expect("a port");
            let client = Script::new(&Log::new()).on_made(client);
            reactor.connect_protocol(format!("tcp:{}", port.local_addr()), client).on_done(|_, _| {});
        });
    }

    check(driver, "a callback", |reactor| drop(reactor.call_soon(act)));
    check(driver, "a timer", |reactor| drop(reactor.call_later(Duration::ZERO, act)));
    check(driver, "a looping call", |reactor| {
        reactor.every(Duration::from_millis(1), move |handle, _| act(handle));
    });
    check(driver, "before_wait", |reactor| {
        let mut first = true;
        reactor.before_wait(move |handle| {
            if std::mem::take(&mut first) {
                act(handle);
            }
        });
    });
    check(driver, "a call of another thread", |reactor| {
        let remote = reactor.remote();
        thread::spawn(move || remote.call(act).is_ok()).join().expect("the thread ends");
    });
    check(driver, "a channel", |reactor| {
        let sender = reactor.channel(1, move |handle, ()| act(handle)).expect("a channel");
        sender.send(()).expect("room for one");
    });
    check(driver, "a deferred", |reactor| {
        let (resolver, deferred) = Deferred::<(), String>::new(reactor);
        deferred.on_done(move |handle, _| act(handle));
        resolver.resolve(Ok(()));
    });
    check(driver, "build_protocol", |reactor| {
        let port = reactor.listen("tcp:0:interface=127.0.0.1", move |peer: Peer| {
            act(&peer.reactor);
            None::<Script>
        });
        let address = format!("tcp:{}", port.expect("a port").local_addr());
        reactor.connect_protocol(address, Script::new(&Log::new())).on_done(|_, _| {});
    });
    check(driver, "Factory::started", |reactor| {
        let handle = Handle::clone(reactor);
        let factory = Starting(Some(Box::new(move || act(&handle))));
        reactor.listen("tcp:0:interface=127.0.0.1", factory).expect("a port");
    });
}

fn check(driver: Driver, hook: &str, arrange: impl FnOnce(&Reactor)) {
    let world = World::with(driver, |builder| builder.drain_timeout(Duration::from_millis(1)));
    arrange(&world.reactor);
    // What would hang is stopped, and found out.
    let late = Rc::new(Cell::new(false));
    let set = Rc::clone(&late);
    let guard = world.reactor.call_later(PATIENCE, move |handle| {
        set.set(true);
        handle.stop();
    });
    world.reactor.run().expect("a run");
    assert!(!late.get(), "nothing came of {hook}");
    assert!(!guard.is_active());
    assert_eq!(world.reactor.stats().panics, 0, "{hook}");
}
