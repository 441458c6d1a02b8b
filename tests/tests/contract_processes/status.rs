//! Line 64: how children ended, and that each is reaped, by its reactor and without polling.

use std::cell::{Cell, RefCell};
use std::io::pipe;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use twistor::{ExitStatus, Fd, Signal};
use twistor_tests::{Driver, PATIENCE, World, in_child, kernel_contract, process};

use crate::{Recorder, SUCCESS, Told, children, killed, run, run_shell, shell, sigchld_is_usual};

kernel_contract! {
    // Line 64.
    fn the_status_is_exact(driver) {
        let world = World::new(driver);
        for (script, status) in [
            ("exit 0", SUCCESS),
            ("exit 1", ExitStatus::Code(1)),
            ("exit 255", ExitStatus::Code(255)),
            ("kill -TERM $$", killed(Signal::TERM)),
            ("kill -KILL $$", killed(Signal::KILL)),
            ("kill -USR1 $$", killed(Signal::USR1)),
        ] {
            let recorder = run_shell(&world, script);
            assert_eq!((recorder.exited(), recorder.ended()), (Some(status), Some(status)), "{script}");
        }
        assert_eq!(killed(Signal::TERM).code(), None);
        assert_eq!(killed(Signal::TERM).signal(), Some(Signal::TERM));
        assert!(SUCCESS.success() && !ExitStatus::Code(1).success());
    }

    // Line 64.
    fn a_core_dump_is_told(driver) {
        let world = World::new(driver);
        let directory = std::env::temp_dir();
        let script = "ulimit -c unlimited 2>/dev/null; kill -QUIT $$";
        let recorder = run(&world, shell(&world.reactor, script).current_dir(&directory));
        // Whether there is one depends on the system's settings; the signal does not.
        assert_eq!(recorder.ended().and_then(|status| status.signal()), Some(Signal::QUIT));
        for name in ["core".to_owned(), format!("core.{}", std::process::id())] {
            let _ = std::fs::remove_file(directory.join(name));
        }
    }

    // Line 64.
    fn children_that_end_before_the_loop_runs_are_reaped(driver) {
        let world = World::new(driver);
        let recorders: Vec<Recorder> = (0..20)
            .map(|code| {
                let recorder = Recorder::new();
                shell(&world.reactor, &format!("exit {code}")).spawn(recorder.clone()).expect("a child");
                recorder
            })
            .collect();
        std::thread::sleep(Duration::from_millis(100));
        for (code, recorder) in (0..).zip(&recorders) {
            world.until("it is reaped", || recorder.ended().is_some());
            assert_eq!(recorder.ended(), Some(ExitStatus::Code(code)));
        }
    }

    // Line 64, and the limit of the supervised children.
    fn a_thousand_short_lived_children_are_all_reaped_without_polling(driver) {
        in_child(module_path!(), driver, || {
            const CHILDREN: usize = 1000;
            const AT_ONCE: usize = 50;
            let world = World::new(driver);
            // Opens what is opened once.
            run_shell(&world, "exit 0");
            let open = process::open_descriptors();
            let statuses = Rc::new(RefCell::new(vec![None; CHILDREN]));
            let (mut started, running) = (0, Rc::new(Cell::new(0)));
            let before = world.reactor.stats();
            while started < CHILDREN || running.get() > 0 {
                while started < CHILDREN && running.get() < AT_ONCE {
                    let (all, left, number) = (Rc::clone(&statuses), Rc::clone(&running), started);
                    let command = if number % 10 == 0 {
                        shell(&world.reactor, &format!("exit {}", number % 256))
                    } else {
                        world.reactor.command("/bin/true")
                    };
                    let command = command.stdin(Fd::Null).stdout(Fd::Null).stderr(Fd::Null);
                    let recorder = Recorder::new().on(move |_, told| {
                        if let Told::Ended(status) = told {
                            assert_eq!(all.borrow_mut()[number].replace(*status), None, "reaped twice");
                            left.set(left.get() - 1);
                        }
                    });
                    command.spawn(recorder).expect("a child");
                    started += 1;
                    running.set(running.get() + 1);
                }
                world.reactor.turn(Some(PATIENCE)).expect("a turn");
            }
            for (number, status) in statuses.borrow().iter().enumerate() {
                let code = if number % 10 == 0 { number as i32 % 256 } else { 0 };
                assert_eq!(*status, Some(ExitStatus::Code(code)), "child {number}");
            }
            let passes = world.reactor.stats().passes - before.passes;
            assert!(passes <= 3 * CHILDREN as u64, "{passes} passes for {CHILDREN} children");
            assert_eq!(children(), [], "none is left, dead or alive");
            assert_eq!(process::open_descriptors(), open);
            assert!(sigchld_is_usual(), "the handler is gone");
            world.assert_sleeps("no child is left");
        });
    }

    // Line 64, and the limit of the supervised children: all alive, and all gone at once.
    fn a_thousand_children_that_end_at_once_are_all_reaped(driver) {
        in_child(module_path!(), driver, || {
            const CHILDREN: usize = 1000;
            if process::allow_all_descriptors() < 3 * CHILDREN {
                println!("not tested: this system allows too few descriptors");
                return;
            }
            let world = World::new(driver);
            run_shell(&world, "exit 0");
            let open = process::open_descriptors();
            let (gate, opener) = pipe().expect("a pipe");
            let ended = Rc::new(Cell::new(0));
            for _ in 0..CHILDREN {
                let count = Rc::clone(&ended);
                let recorder = Recorder::new().on(move |_, told| {
                    if let Told::Ended(status) = told {
                        assert!(status.success());
                        count.set(count.get() + 1);
                    }
                });
                let gate: OwnedFd = gate.try_clone().expect("a clone").into();
                let command = world.reactor.command("cat").stdin(gate).stdout(Fd::Null).stderr(Fd::Null);
                command.spawn(recorder).expect("a child");
            }
            drop(gate);
            world.turns(3);
            assert_eq!((ended.get(), children().len()), (0, CHILDREN));
            let before = world.reactor.stats();
            world.assert_sleeps("none of them ends");
            drop(opener);
            world.until("all are reaped", || ended.get() == CHILDREN);
            let passes = world.reactor.stats().passes - before.passes;
            assert!(passes <= 2 * CHILDREN as u64, "{passes} passes");
            assert_eq!(children(), []);
            assert_eq!(process::open_descriptors(), open);
        });
    }

    // Line 64: no polling.
    fn waiting_for_a_child_costs_no_wake_ups(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let recorder = Recorder::new();
            let process = world.reactor.command("cat").spawn(recorder.clone()).expect("a child");
            world.until("it runs", || recorder.has(&Told::Started));
            world.assert_sleeps("the child does nothing");
            process.close_stdin();
            world.until("the child ended", || recorder.ended() == Some(SUCCESS));
        });
    }

    // Line 64.
    fn children_of_others_are_not_reaped(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let mut others =
                std::process::Command::new("/bin/sh").args(["-c", "exit 5"]).spawn().expect("a child");
            for _ in 0..20 {
                run_shell(&world, "exit 0");
            }
            assert_eq!(others.wait().expect("it is still there").code(), Some(5));
        });
    }

    // Line 64.
    fn signalling_a_reaped_child_is_an_error(driver) {
        let world = World::new(driver);
        let recorder = Recorder::new();
        let process = world.reactor.command("cat").spawn(recorder.clone()).expect("a child");
        process.signal(Signal::TERM).expect("it runs");
        process.signal(Signal::TERM).expect("nobody has reaped it");
        assert!(process.signal(Signal::from_raw(200)).is_err());
        world.until("the child ended", || recorder.ended().is_some());
        assert_eq!(recorder.ended(), Some(killed(Signal::TERM)));
        let error = process.kill().expect_err("it is reaped");
        let text = error.to_string();
        assert!(text.contains("SIGKILL") && text.contains("cat") && text.contains("ended"), "{text}");
        assert!(process.signal(Signal::TERM).is_err());
    }

    // Line 64.
    fn a_child_can_be_killed_from_every_hook(driver) {
        let world = World::new(driver);
        for at in 0..3 {
            let recorder = Recorder::new().on(move |process, told| match (at, told) {
                (0, Told::Started) | (1, Told::Data(..)) => process.kill().expect("it runs"),
                (2, Told::Exited(_)) => assert!(process.kill().is_err()),
                _ => {}
            });
            let script = if at == 2 { "exit 0" } else { "echo x; sleep 100" };
            shell(&world.reactor, script).spawn(recorder.clone()).expect("a child");
            // The shell's own child may hold the pipes.
            world.until("the child is reaped", || recorder.exited().is_some());
            let status = if at == 2 { SUCCESS } else { killed(Signal::KILL) };
            assert_eq!(recorder.exited(), Some(status));
        }
    }

    // Line 64: a program that ignores SIGCHLD, as it may have inherited, loses no status.
    fn an_ignored_sigchld_takes_no_status_away(driver) {
        in_child(module_path!(), driver, || {
            // SAFETY: ignoring a signal runs no code of ours; this process is the test's own.
            #[allow(unsafe_code)]
            unsafe {
                libc::signal(libc::SIGCHLD, libc::SIG_IGN);
            }
            let world = World::new(driver);
            let recorder = run_shell(&world, "exit 9");
            assert_eq!(recorder.ended(), Some(ExitStatus::Code(9)));
            assert!(!sigchld_is_usual(), "it is ignored again");
        });
    }

    // Line 64: whoever waits for any child takes away the status of ours, which is said.
    fn a_stolen_status_is_not_known(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let recorder = Recorder::new();
            shell(&world.reactor, "exit 9").spawn(recorder.clone()).expect("a child");
            // SAFETY: a null pointer stands for a status that is not wanted.
            #[allow(unsafe_code)]
            let reaped = unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) };
            assert!(reaped > 0);
            world.until("the child ended", || recorder.ended().is_some());
            assert_eq!(recorder.ended(), Some(ExitStatus::Unknown));
        });
    }

    // Line 64.
    fn several_reactors_each_hear_of_their_own_children(driver) {
        let worlds = [World::new(driver), World::new(driver)];
        let recorders: Vec<Recorder> = (0..20)
            .map(|number| {
                let recorder = Recorder::new();
                let reactor = &worlds[number % 2].reactor;
                shell(reactor, &format!("exit {number}")).spawn(recorder.clone()).expect("a child");
                recorder
            })
            .collect();
        for (number, recorder) in recorders.iter().enumerate() {
            worlds[number % 2].until("it is reaped", || recorder.ended().is_some());
            assert_eq!(recorder.ended(), Some(ExitStatus::Code(number as i32)));
        }
    }

    // Line 64: a signal's handler is there only as long as it is needed.
    fn the_effect_of_sigchld_is_left_alone(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let recorder = Recorder::new();
            let process = world.reactor.command("cat").spawn(recorder.clone()).expect("a child");
            world.turns(2);
            assert_eq!(sigchld_is_usual(), driver == Driver::Direct);
            process.close_stdin();
            world.until("the child ended", || recorder.ended().is_some());
            assert!(sigchld_is_usual());
        });
    }

    // Lines 64 and 68: a hook of SIGCHLD and the children do not take it from each other.
    fn a_hook_of_sigchld_is_called_as_well(driver) {
        let world = World::new(driver);
        let called = Rc::new(Cell::new(false));
        let flag = Rc::clone(&called);
        let hook = world.reactor.on_signal(Signal::CHLD, move |_| flag.set(true)).expect("a hook");
        let recorder = run_shell(&world, "exit 4");
        assert_eq!(recorder.ended(), Some(ExitStatus::Code(4)));
        world.until("the hook was called", || called.get());
        assert!(hook.remove());
        assert_eq!(run_shell(&world, "exit 5").ended(), Some(ExitStatus::Code(5)));
    }

    // Line 64: without a descriptor left for the child itself, its end is heard of all the same.
    fn a_child_that_gets_the_last_descriptors_is_reaped(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            // The first child opens what is opened once.
            run_shell(&world, "exit 0");
            let open = process::open_descriptors();
            let (mut outcomes, mut failures) = (Vec::new(), 0);
            for spare in 0..12 {
                let limit = world.leave_descriptors(spare);
                let recorder = Recorder::new();
                let started = shell(&world.reactor, "exit 6").spawn(recorder.clone());
                process::limit_descriptors(limit);
                match started {
                    Ok(_) => outcomes.push(recorder),
                    Err(error) => {
                        let text = error.to_string();
                        assert!(
                            text.starts_with("cannot run /bin/sh: ") && text.contains("open files"),
                            "{text}"
                        );
                        assert!(recorder.told.borrow().is_empty());
                        failures += 1;
                    }
                }
            }
            assert!(failures >= 4 && !outcomes.is_empty(), "{failures} of 12 failed");
            for recorder in &outcomes {
                world.until("it is reaped", || recorder.ended().is_some());
                assert_eq!(recorder.ended(), Some(ExitStatus::Code(6)));
            }
            // What a failure left behind is reaped with the next child.
            run_shell(&world, "exit 0");
            world.turns(3);
            assert_eq!(children(), []);
            assert_eq!(process::open_descriptors(), open);
        });
    }
}
