//! Lines 63 and 64, and the rules for all hooks: what is heard of a child, in which order, and what the end
//! of the reactor is to it.

use std::cell::{Cell, RefCell};
use std::io::{self, Write, pipe};
use std::rc::Rc;
use std::time::{Duration, Instant};

use twistor::{
    Deferred, ExitStatus, Fd, Handle, Process, ProcessProtocol, PtySize, ShutdownPhase, Signal, Transport,
};
use twistor_tests::{PATIENCE, World, in_child, kernel_contract, process};

use crate::{Recorder, SUCCESS, Told, children, killed, outcome, shell, sigchld_is_usual, text};

kernel_contract! {
    // Line 63.
    fn the_hooks_come_in_their_order(driver) {
        let world = World::new(driver);
        let recorder = Recorder::new();
        let process = shell(&world.reactor, "read line; echo out; echo err >&2; exit 3")
            .spawn(recorder.clone())
            .expect("a child");
        assert!(process.is_running() && process.status().is_none());
        assert!(recorder.told.borrow().is_empty(), "no call runs a hook");
        process.write(b"go on\n");
        world.until("the child ended", || recorder.ended().is_some());
        let told = recorder.told.borrow().clone();
        assert_eq!(told[0], Told::Started);
        assert_eq!(told.last(), Some(&Told::Ended(ExitStatus::Code(3))));
        for one in [
            Told::Started,
            Told::Data(1, b"out\n".to_vec()),
            Told::Data(2, b"err\n".to_vec()),
            Told::Lost(1, "closed".to_owned()),
            Told::Lost(2, "closed".to_owned()),
            Told::Exited(ExitStatus::Code(3)),
        ] {
            assert_eq!(told.iter().filter(|told| **told == one).count(), 1, "{one:?} in {told:?}");
        }
        assert_eq!(told.len(), 8, "{told:?}");
        assert_eq!(process.status(), Some(ExitStatus::Code(3)));
        world.assert_sleeps("nothing is left");
    }

    // Line 63.
    fn standard_output_and_error_have_hooks_of_their_own(driver) {
        #[derive(Default)]
        struct Both(Rc<RefCell<(String, String, bool)>>);
        impl ProcessProtocol for Both {
            fn out_received(&mut self, _: &Process, data: &[u8]) {
                self.0.borrow_mut().0.push_str(text(data));
            }
            fn err_received(&mut self, _: &Process, data: &[u8]) {
                self.0.borrow_mut().1.push_str(text(data));
            }
            fn process_ended(&mut self, _: &Process, _: ExitStatus) {
                self.0.borrow_mut().2 = true;
            }
        }
        let world = World::new(driver);
        let heard = Rc::new(RefCell::default());
        shell(&world.reactor, "echo one; echo two >&2").spawn(Both(Rc::clone(&heard))).expect("a child");
        world.until("the child ended", || heard.borrow().2);
        assert_eq!(*heard.borrow(), ("one\n".to_owned(), "two\n".to_owned(), true));
    }

    // Line 63.
    fn a_grandchild_that_holds_a_pipe_delays_the_end_but_not_the_exit(driver) {
        let world = World::new(driver);
        let recorder = Recorder::new();
        let (gate, mut opener) = pipe().expect("a pipe");
        let command =
            shell(&world.reactor, "(read line <&3; echo late) & exit 7").fd(3, Fd::Descriptor(gate.into()));
        command.spawn(recorder.clone()).expect("a child");
        world.until("the child exited", || recorder.exited().is_some());
        assert_eq!(recorder.exited(), Some(ExitStatus::Code(7)));
        world.run_for(Duration::from_millis(30));
        assert_eq!(recorder.ended(), None, "the grandchild still has the pipes");
        opener.write_all(b"\n").expect("it reads");
        world.until("all ended", || recorder.ended().is_some());
        assert_eq!(recorder.text(1), "late\n");
        assert_eq!(recorder.told.borrow().last(), Some(&Told::Ended(ExitStatus::Code(7))));
    }

    // Line 63.
    fn a_child_can_close_its_pipes_and_live_on(driver) {
        let world = World::new(driver);
        let recorder = Recorder::new();
        let script = "exec 0<&- 1>&- 2>&-; read line <&3";
        let (gate, mut opener) = pipe().expect("a pipe");
        let process = shell(&world.reactor, script)
            .fd(3, Fd::Descriptor(gate.into()))
            .spawn(recorder.clone())
            .expect("a child");
        let closed =
            |fd| recorder.told.borrow().iter().any(|told| matches!(told, Told::Lost(lost, _) if *lost == fd));
        world.until("the pipes are closed", || closed(0) && closed(1) && closed(2));
        assert!(process.is_running());
        assert_eq!(recorder.exited(), None);
        opener.write_all(b"\n").expect("it reads");
        world.until("the child ended", || recorder.ended() == Some(SUCCESS));
    }

    // Lines 5 and 63.
    fn a_hook_that_panics_kills_its_child_and_is_told_of_the_end_only(driver) {
        let world = World::new(driver);
        for at in ["started", "data", "lost", "paused"] {
            let recorder = Recorder::new().on(move |_, told| {
                let is_it = match told {
                    Told::Started => at == "started",
                    Told::Data(..) => at == "data",
                    Told::Lost(..) => at == "lost",
                    Told::Paused(_) => at == "paused",
                    _ => false,
                };
                assert!(!is_it, "on purpose");
            });
            let panics = world.reactor.stats().panics;
            let script = "echo out; exec 2>&-; exec sleep 100";
            let process = shell(&world.reactor, script).spawn(recorder.clone()).expect("a child");
            if at == "paused" {
                process.write(&vec![0; 1 << 20]);
            }
            world.until("the child ended", || recorder.ended().is_some());
            assert_eq!(recorder.ended(), Some(killed(Signal::KILL)), "{at}");
            assert_eq!(world.reactor.stats().panics, panics + 1, "{at}");
            let told = recorder.told.borrow();
            let [.., exited, ended] = told.as_slice() else { panic!("{told:?}") };
            assert!(matches!((exited, ended), (Told::Exited(_), Told::Ended(_))), "{told:?}");
            let lost = told.iter().filter(|told| matches!(told, Told::Lost(..))).count();
            assert_eq!(lost, usize::from(at == "lost"), "{told:?}");
        }
        world.assert_sleeps("nothing is left");
    }

    // Lines 5 and 63.
    fn the_last_hooks_may_panic_as_well(driver) {
        let world = World::new(driver);
        let dropped = Rc::new(());
        let kept = Rc::clone(&dropped);
        let recorder = Recorder::new().on(move |_, told| {
            let _ = &kept;
            assert!(!matches!(told, Told::Exited(_) | Told::Ended(_)), "on purpose");
        });
        let told = Rc::clone(&recorder.told);
        let process = shell(&world.reactor, "exit 3").spawn(recorder).expect("a child");
        world.until("the child ended", || told.borrow().iter().any(|told| matches!(told, Told::Ended(_))));
        assert_eq!(world.reactor.stats().panics, 2);
        assert_eq!(process.status(), Some(ExitStatus::Code(3)));
        world.turns(2);
        assert_eq!(Rc::strong_count(&dropped), 1, "the protocol is gone");
    }

    // Line 63.
    fn the_exit_can_be_waited_for(driver) {
        let world = World::new(driver);
        let recorder = Recorder::new();
        let process = shell(&world.reactor, "exit 21").spawn(recorder.clone()).expect("a child");
        let (first, second) = (process.exited(), process.exited());
        assert_eq!(outcome(&world, first), Ok(ExitStatus::Code(21)));
        assert_eq!(outcome(&world, second), Ok(ExitStatus::Code(21)));
        assert_eq!(outcome(&world, process.exited()), Ok(ExitStatus::Code(21)), "also afterwards");
    }

    // Line 6.
    fn running_until_idle_waits_for_children(driver) {
        let world = World::new(driver);
        let recorder = Recorder::new();
        let command =
            world.reactor.command("sleep").arg("0.05").stdin(Fd::Null).stdout(Fd::Null).stderr(Fd::Null);
        command.spawn(recorder.clone()).expect("a child");
        world.reactor.run_until_idle().expect("a run");
        assert_eq!(recorder.ended(), Some(SUCCESS));

        let command =
            world.reactor.command("sleep").arg("100").stdin(Fd::Null).stdout(Fd::Null).stderr(Fd::Null);
        let process = command.spawn(Recorder::new()).expect("a child");
        process.unref();
        process.unref();
        world.reactor.run_until_idle().expect("a run");
        assert!(process.is_running());
        process.kill().expect("it runs");
        outcome(&world, process.exited()).expect("it cannot fail");
        world.reactor.run_until_idle().expect("a run");
    }

    // Line 7: a stop closes the pipes of children; it does not wait for the children.
    fn a_stop_ends_the_pipes_and_leaves_the_child(driver) {
        let world = World::new(driver);
        let recorder = Recorder::new();
        let process = shell(&world.reactor, "exec sleep 100").spawn(recorder.clone()).expect("a child");
        world.until("it runs", || recorder.has(&Told::Started));
        world.reactor.stop();
        while world.turn(Duration::from_millis(10)) {}
        assert!(process.is_running() && recorder.exited().is_none());
        let lost = recorder.told.borrow().iter().filter(|told| matches!(told, Told::Lost(..))).count();
        assert_eq!(lost, 3);
        process.kill().expect("it runs");
        world.until("it is reaped when the reactor runs again", || recorder.ended().is_some());
    }

    // Line 7.
    fn a_shutdown_trigger_can_wait_for_a_child(driver) {
        let world = World::new(driver);
        let recorder = Recorder::new();
        let process = shell(&world.reactor, "exec sleep 100").spawn(recorder.clone()).expect("a child");
        world.reactor.on_shutdown(ShutdownPhase::Before, move |handle| {
            process.signal(Signal::TERM).expect("it runs");
            let (resolver, done) = Deferred::<(), String>::new(handle);
            process.exited().on_done(move |_, _| {
                resolver.resolve(Ok(()));
            });
            done
        });
        world.reactor.stop();
        while world.turn(Duration::from_millis(10)) {}
        assert_eq!(recorder.exited(), Some(killed(Signal::TERM)));
    }

    // Line 9.
    fn children_outlive_their_reactor_and_leave_nothing_in_it(driver) {
        in_child(module_path!(), driver, || {
            let open = process::open_descriptors();
            let (kept, held) = {
                let one = Rc::new(());
                (Rc::clone(&one), one)
            };
            let world = World::new(driver);
            let recorder = Recorder::new().on(move |_, _| {
                let _ = &held;
            });
            let told = Rc::clone(&recorder.told);
            let own = Rc::new(RefCell::new(None));
            let process = world.reactor.command("cat").spawn(recorder).expect("a child");
            *own.borrow_mut() = Some(process.clone());
            let id = process.id();
            world.until("it runs", || told.borrow().contains(&Told::Started));
            let seen = told.borrow().len();
            drop(world);
            assert_eq!(Rc::strong_count(&kept), 1, "the protocol is gone");
            assert_eq!(told.borrow().len(), seen, "and was told nothing");
            assert_eq!(process::open_descriptors(), open);
            assert!(sigchld_is_usual());
            assert!(!process.is_running() && process.kill().is_err() && process.pipe(0).is_none());
            process.write(b"nowhere");
            process.close_stdin();
            process.unref();
            // Its pipes are closed, which ends it; whoever comes next reaps it.
            let ended = Instant::now() + PATIENCE;
            while children().contains(&(id, 'S')) || children().contains(&(id, 'R')) {
                assert!(Instant::now() < ended, "cat sees the end of its input");
                std::thread::sleep(Duration::from_millis(1));
            }
            drop(World::new(driver));
            assert_eq!(children(), []);
        });
    }

    // Line 9.
    fn a_reactor_that_is_gone_starts_nothing(driver) {
        let world = World::new(driver);
        let command = world.reactor.command("true");
        let other = world.reactor.command("true");
        drop(world);
        assert_eq!(
            command.spawn(Recorder::new()).expect_err("no reactor").kind(),
            io::ErrorKind::NotConnected
        );
        drop(other.output());
    }

    // Lines 4 and 64.
    fn children_are_started_from_hooks_of_others(driver) {
        struct Chain {
            left: usize,
            done: Rc<Cell<bool>>,
        }
        impl ProcessProtocol for Chain {
            fn process_exited(&mut self, process: &Process, status: ExitStatus) {
                assert_eq!(status, ExitStatus::Code(self.left as i32));
                if self.left == 0 {
                    return self.done.set(true);
                }
                let next = Chain { left: self.left - 1, done: Rc::clone(&self.done) };
                shell(process.reactor(), &format!("exit {}", next.left)).spawn(next).expect("a child");
            }
        }
        let world = World::new(driver);
        let done = Rc::new(Cell::new(false));
        shell(&world.reactor, "exit 50").spawn(Chain { left: 50, done: Rc::clone(&done) }).expect("a child");
        world.until("the last one ended", || done.get());
    }

    // Lines 3, 5 and 63.
    fn every_call_can_be_made_in_every_hook(driver) {
        type Call = (&'static str, fn(&Process));
        const CALLS: [Call; 12] = [
            ("kill", |process| drop(process.kill())),
            ("signal", |process| drop(process.signal(Signal::CONT))),
            ("write", |process| process.write(b"more\n")),
            ("close_stdin", Process::close_stdin),
            ("pipe, lose", |process| process.pipe(1).iter().for_each(Transport::lose_connection)),
            ("pipe, abort", |process| process.pipe(2).iter().for_each(Transport::abort_connection)),
            ("window", |process| drop(process.set_window_size(PtySize::default()))),
            ("exited", |process| process.exited().on_done(|_, _| {})),
            ("unref", Process::unref),
            ("spawn", |process| drop(shell(process.reactor(), "exit 1").spawn(Recorder::new()))),
            ("output", |process| drop(shell(process.reactor(), "exit 1").output())),
            ("stop", |process| process.reactor().stop()),
        ];
        for (name, call) in CALLS {
            for at in ["started", "data", "lost", "exited", "ended"] {
                for panics in [false, true] {
                    let world =
                        World::with(driver, |builder| builder.drain_timeout(Duration::from_millis(1)));
                    let reached = Rc::new(Cell::new(false));
                    let flag = Rc::clone(&reached);
                    let recorder = Recorder::new().on(move |process, told| {
                        let here = match told {
                            Told::Started => "started",
                            Told::Data(..) => "data",
                            Told::Lost(..) => "lost",
                            Told::Exited(_) => "exited",
                            Told::Ended(_) => "ended",
                            _ => "elsewhere",
                        };
                        if here == at && !flag.replace(true) {
                            call(process);
                            assert!(!panics, "on purpose");
                        }
                    });
                    let process =
                        shell(&world.reactor, "echo data; exit 3").spawn(recorder.clone()).expect("a child");
                    world.until("the child ended", || recorder.ended().is_some());
                    let what = format!("{name} at {at}, panics: {panics}");
                    // After a stop nothing more may be heard of output.
                    assert!(reached.get() || name == "stop", "{what}");
                    assert_eq!(world.reactor.stats().panics, u64::from(panics && reached.get()), "{what}");
                    assert_eq!(
                        recorder.told.borrow().last(),
                        process.status().map(Told::Ended).as_ref(),
                        "{what}"
                    );
                }
            }
        }
    }

    // Line 5.
    fn a_destructor_may_panic_also_when_nothing_was_started(driver) {
        struct Last;
        impl Drop for Last {
            fn drop(&mut self) {
                panic!("on purpose");
            }
        }
        impl ProcessProtocol for Last {}
        let world = World::new(driver);
        let error = world.reactor.command("/no/such/program").spawn(Last).expect_err("an error");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    // Lines 5 and 9: the destructor of a protocol may do anything, also when the reactor goes.
    fn a_destructor_can_make_calls(driver) {
        in_child(module_path!(), driver, || {
            struct Last(Handle, Rc<Cell<usize>>);
            impl Drop for Last {
                fn drop(&mut self) {
                    self.1.set(self.1.get() + 1);
                    drop(shell(&self.0, "exit 1").spawn(Recorder::new()));
                    self.0.stop();
                    assert_eq!(self.1.get(), 0, "on purpose");
                }
            }
            impl ProcessProtocol for Last {}
            let open = process::open_descriptors();
            let dropped = Rc::new(Cell::new(0));
            let world = World::new(driver);
            let last = || Last(Handle::clone(&world.reactor), Rc::clone(&dropped));
            shell(&world.reactor, "exit 0").spawn(last()).expect("a child");
            world.until("it is dropped", || dropped.get() == 1);
            shell(&world.reactor, "sleep 0.01").spawn(last()).expect("a child");
            drop(world);
            assert_eq!(dropped.get(), 2);
            assert_eq!(process::open_descriptors(), open);
            assert!(sigchld_is_usual());
        });
    }
}
