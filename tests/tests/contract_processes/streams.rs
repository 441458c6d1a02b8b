//! Line 65: the standard input obeys section 4, the standard output sections 3 and 29.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use twistor::{ExitStatus, Process, ProcessProtocol, Reason};
use twistor_tests::{Log, Script, World, in_child, kernel_contract, pattern};

use crate::{Recorder, SUCCESS, Told, outcome, output, run, shell, text};

kernel_contract! {
    // Lines 29 and 65: the standard input obeys section 4.
    fn a_child_that_does_not_read_pauses_its_writer(driver) {
        let world = World::new(driver);
        let recorder = Recorder::new();
        let process = shell(&world.reactor, "read line; cat").spawn(recorder.clone()).expect("a child");
        let block = pattern(1 << 20);
        let mut sent = 0;
        while sent < 8 << 20 && !recorder.has(&Told::Paused(0)) {
            process.write(&block);
            sent += block.len();
            world.turns(3);
        }
        assert!(recorder.has(&Told::Paused(0)));
        // No line so far: the pattern may have had one, and then it flows.
        process.write(b"\n");
        world.until("the writer may go on", || recorder.has(&Told::Resumed(0)));
        process.close_stdin();
        world.until("the child ended", || recorder.ended().is_some());
        let told = recorder.told.borrow();
        let count = |what: &Told| told.iter().filter(|told| *told == what).count();
        assert_eq!(count(&Told::Paused(0)), count(&Told::Resumed(0)));
    }

    // Lines 30 and 65.
    fn the_write_limit_holds_for_a_childs_input(driver) {
        let world = World::new(driver);
        let recorder = Recorder::new();
        let process = world.reactor.command("sleep").arg("100").spawn(recorder.clone()).expect("a child");
        let input = process.pipe(0).expect("a pipe");
        input.set_write_limit(1 << 20);
        for _ in 0..4 {
            process.write(&vec![0; 1 << 20]);
        }
        world.until("the pipe is aborted", || {
            recorder.told.borrow().iter().any(|told| matches!(told, Told::Lost(0, _)))
        });
        let reason = Told::Lost(0, Reason::WriteLimit.to_string());
        assert!(recorder.has(&reason), "{:?}", recorder.told);
        process.write(b"dropped");
        process.kill().expect("it runs");
        world.until("the child ended", || recorder.ended().is_some());
    }

    // Lines 20 and 65: the standard output obeys section 3.
    fn paused_output_waits_and_nothing_of_it_is_lost(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let recorder = Recorder::new().on(|process, told| {
                if let Told::Started = told {
                    process.pipe(1).expect("a pipe").pause_reading();
                }
            });
            let process =
                shell(&world.reactor, "head -c 1000000 /dev/zero").spawn(recorder.clone()).expect("a child");
            world.until("it runs", || recorder.has(&Told::Started));
            world.run_for(Duration::from_millis(20));
            world.assert_sleeps("its output is not wanted");
            assert_eq!(recorder.data(1).len(), 0);
            process.pipe(1).expect("a pipe").resume_reading();
            world.until("the child ended", || recorder.ended() == Some(SUCCESS));
            assert_eq!(recorder.data(1).len(), 1_000_000);
        });
    }

    // Lines 23 and 65: the end waits behind data that is not wanted yet.
    fn the_end_of_paused_output_waits_until_it_is_resumed(driver) {
        let world = World::new(driver);
        let recorder = Recorder::new().on(|process, told| {
            if let Told::Started = told {
                process.pipe(1).expect("a pipe").pause_reading();
            }
        });
        let process = shell(&world.reactor, "echo last words").spawn(recorder.clone()).expect("a child");
        world.until("all but that is over", || {
            let lost = |fd| recorder.has(&Told::Lost(fd, "closed".to_owned()));
            recorder.exited().is_some() && lost(2) && process.pipe(0).is_none()
        });
        world.assert_sleeps("what it wrote is not wanted");
        assert_eq!((recorder.ended(), recorder.text(1)), (None, String::new()));
        process.pipe(1).expect("a pipe").resume_reading();
        world.until("the child ended", || recorder.ended().is_some());
        assert_eq!(recorder.text(1), "last words\n");
    }

    // Line 33: much through both pipes of a child at once.
    fn sixty_four_mebibytes_pass_through_a_child(driver) {
        const TOTAL: usize = 64 << 20;
        const BLOCK: usize = 1 << 20;
        const PERIOD: usize = 251;
        struct Through {
            sent: usize,
            received: usize,
            /// What repeats itself after so many bytes; any block of it is a slice of this.
            bytes: Vec<u8>,
            done: Rc<Cell<Option<usize>>>,
        }
        impl Through {
            fn send(&mut self, process: &Process) {
                let input = process.pipe(0).expect("a pipe");
                while self.sent < TOTAL && input.queued() < 2 * BLOCK {
                    input.write(&self.bytes[self.sent % PERIOD..][..BLOCK]);
                    self.sent += BLOCK;
                }
                if self.sent == TOTAL {
                    process.close_stdin();
                }
            }
        }
        impl ProcessProtocol for Through {
            fn process_started(&mut self, process: &Process) {
                self.send(process);
            }
            fn out_received(&mut self, _: &Process, data: &[u8]) {
                assert!(data == &self.bytes[self.received % PERIOD..][..data.len()], "at {}", self.received);
                self.received += data.len();
            }
            fn resume_writing(&mut self, process: &Process, _: i32) {
                self.send(process);
            }
            fn process_ended(&mut self, _: &Process, status: ExitStatus) {
                assert!(status.success());
                self.done.set(Some(self.received));
            }
        }
        let world = World::new(driver);
        let done = Rc::new(Cell::new(None));
        let bytes = (0..BLOCK + PERIOD).map(|place| (place % PERIOD) as u8).collect();
        let through = Through { sent: 0, received: 0, bytes, done: Rc::clone(&done) };
        world.reactor.command("cat").spawn(through).expect("a child");
        world.until("all came back", || done.get().is_some());
        assert_eq!(done.get(), Some(TOTAL));
    }

    // Line 34: pipes of children are piped like any other connection.
    fn one_childs_output_is_piped_into_another(driver) {
        let world = World::new(driver);
        let sink = Recorder::new();
        let second = world.reactor.command("wc").arg("-c").spawn(sink.clone()).expect("a child");
        let source = Recorder::new();
        let first =
            shell(&world.reactor, "head -c 3000000 /dev/zero").spawn(source.clone()).expect("a child");
        let relayed = first.pipe(1).expect("a pipe").pipe(&second.pipe(0).expect("a pipe"));
        assert_eq!(outcome(&world, relayed).expect("all of it"), 3_000_000);
        world.until("both ended", || source.ended().is_some() && sink.ended().is_some());
        assert_eq!(sink.text(1).trim(), "3000000");
        assert_eq!(source.data(1).len(), 0, "it went elsewhere");
    }

    // Line 22: a pipe's data can go to a protocol of its own; its end is waited for all the same.
    fn a_pipe_can_be_switched_to_another_protocol(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let script = Script::new(&log);
        let slot = Rc::new(RefCell::new(Some(script)));
        let recorder = Recorder::new().on(move |process, told| {
            if let Told::Started = told {
                process.pipe(1).expect("a pipe").switch_protocol(slot.take().expect("once"));
            }
        });
        let process = shell(&world.reactor, "echo to the script; echo err >&2")
            .spawn(recorder.clone())
            .expect("a child");
        world.until("the child ended", || recorder.ended().is_some());
        assert_eq!(log.data(), b"to the script\n");
        assert_eq!(log.lost().as_deref(), Some("closed"));
        assert_eq!((recorder.text(1), recorder.text(2)), (String::new(), "err\n".to_owned()));
        assert!(process.pipe(1).is_none());
    }

    // Lines 4 and 65: input that is written and closed at once.
    fn what_is_written_before_the_loop_runs_arrives(driver) {
        let world = World::new(driver);
        let recorder = Recorder::new();
        let process = world.reactor.command("cat").spawn(recorder.clone()).expect("a child");
        process.write(b"early");
        process.close_stdin();
        process.write(b"too late");
        world.until("the child ended", || recorder.ended() == Some(SUCCESS));
        assert_eq!(recorder.text(1), "early");
        assert!(recorder.has(&Told::Lost(0, "closed".to_owned())));
        let sorted = output(&world, world.reactor.command("sort").input("b\na\n"));
        assert_eq!(text(&sorted.stdout), "a\nb\n");
        let recorder = run(&world, world.reactor.command("cat").input("spawned"));
        assert_eq!(recorder.text(1), "spawned");
    }

    // Line 65: a reader that goes away is a loss of the pipe, and no signal to us.
    fn input_that_nobody_reads_is_lost_with_a_reset(driver) {
        let world = World::new(driver);
        let recorder = Recorder::new();
        let process = shell(&world.reactor, "exec 0<&-; echo closed; sleep 100")
            .spawn(recorder.clone())
            .expect("a child");
        world.until("it has closed its input", || recorder.text(1) == "closed\n");
        process.write(b"to nobody");
        world.until("that is told", || recorder.has(&Told::Lost(0, Reason::Reset.to_string())));
        assert!(process.is_running());
        process.kill().expect("it runs");
        world.until("the child was reaped", || recorder.exited().is_some());
    }

    // Line 26.
    fn a_child_that_writes_without_end_does_not_starve_others(driver) {
        let world = World::new(driver);
        let flood = Recorder::new().on(|process, _| {
            let _ = process.id();
        });
        let process = world.reactor.command("yes").spawn(flood.clone()).expect("a child");
        world.until("it writes", || flood.told.borrow().len() > 2);
        let ticks = Rc::new(Cell::new(0));
        let tick = Rc::clone(&ticks);
        let timer = world.reactor.every(Duration::from_millis(1), move |_, _| tick.set(tick.get() + 1));
        let echo = output(&world, world.reactor.command("cat").input("through"));
        assert_eq!(echo.stdout, b"through");
        world.until("the timer runs", || ticks.get() > 3);
        timer.stop();
        process.kill().expect("it runs");
        world.until("the child ended", || flood.ended().is_some());
    }
}
