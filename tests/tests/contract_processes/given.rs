//! Line 65: what a child is given: descriptors, signals, arguments, rights, a terminal.

use std::fs::File;
use std::io::{self, Read, Write, pipe};
use std::os::fd::{AsRawFd, OwnedFd};

use twistor::{Command, ExitStatus, Fd, PtySize, Signal};
use twistor_tests::{World, in_child, kernel_contract, process};

use crate::{Recorder, SUCCESS, Told, children, killed, outcome, output, run, run_shell, shell, text};

kernel_contract! {
    // Line 65.
    fn what_cannot_be_executed_is_an_error_that_names_it(driver) {
        let world = World::new(driver);
        let recorder = Recorder::new();
        let spawn =
            |program: &str| world.reactor.command(program).spawn(recorder.clone()).expect_err("an error");
        let error = spawn("/no/such/program");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().starts_with("cannot run /no/such/program: "), "{error}");
        assert_eq!(spawn("/dev/null").kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(spawn("no-such-program-anywhere").kind(), io::ErrorKind::NotFound);
        assert_eq!(spawn("a\0b").kind(), io::ErrorKind::InvalidInput);
        let error = world
            .reactor
            .command("cat")
            .current_dir("/no/such/place")
            .spawn(recorder.clone())
            .expect_err("an error");
        assert!(error.to_string().contains("cat in /no/such/place"), "{error}");
        let error =
            outcome(&world, world.reactor.command("/no/such/program").output()).expect_err("an error");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let error =
            outcome(&world, world.reactor.command("/no/such/program").status()).expect_err("an error");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        world.assert_sleeps("nothing runs");
        assert!(recorder.told.borrow().is_empty(), "nobody is told of what never was");
    }

    // Line 65.
    fn arguments_environment_and_directory_are_exact(driver) {
        let world = World::new(driver);
        let reactor = &world.reactor;
        let odd = ["", " two  words ", "$HOME", "`x`", "\"'\\", "new\nline", "é"];
        let words = output(&world, reactor.command("printf").arg("<%s>").args(odd));
        assert_eq!(text(&words.stdout), odd.map(|word| format!("<{word}>")).concat());

        let env = |command: Command| text(&output(&world, command).stdout).to_owned();
        let variables = env(reactor.command("/usr/bin/env").env_clear().env("A", "1 = 2").env("B", ""));
        assert_eq!(variables, "A=1 = 2\nB=\n");
        let variables = env(reactor.command("/usr/bin/env").env("TWISTOR_X", "y").env_remove("PATH"));
        assert!(variables.contains("TWISTOR_X=y\n") && !variables.contains("\nPATH="), "{variables}");

        assert_eq!(env(reactor.command("/bin/pwd").current_dir("/usr/bin/..")), "/usr\n");
        assert_eq!(env(shell(reactor, "echo \"$0\"").arg("name")), "name\n");
        let named = reactor.command("/bin/sh").arg0("another").args(["-c", "cat /proc/$$/cmdline"]);
        assert!(env(named).starts_with("another\0-c\0"));
    }

    // Line 65.
    fn only_the_mapped_descriptors_are_open_in_the_child(driver) {
        let world = World::new(driver);
        let inheritable = File::open("/dev/null").expect("there");
        // SAFETY: touches no memory.
        #[allow(unsafe_code)]
        let status = unsafe { libc::fcntl(inheritable.as_raw_fd(), libc::F_SETFD, 0) };
        assert_eq!(status, 0);
        // The list itself is open as 3, or the lowest free number.
        let list = |command: Command| output(&world, command.arg("/proc/self/fd")).stdout;
        assert_eq!(text(&list(world.reactor.command("ls"))), "0\n1\n2\n3\n");
        let more = world.reactor.command("ls").fd(3, Fd::Null).fd(7, Fd::SocketPair).fd(20, Fd::ReadPipe);
        assert_eq!(text(&list(more)), "0\n1\n2\n20\n3\n4\n7\n");
    }

    // Line 65.
    fn descriptors_are_mapped_to_any_numbers(driver) {
        let world = World::new(driver);
        let recorder = Recorder::new();
        let script = "cat <&5 >&6; echo seven >&7; echo nine >&9; cat <&8; echo both >&1 >&4";
        let file = File::open("/proc/self/cmdline").expect("there");
        let process = shell(&world.reactor, script)
            .fd(5, Fd::WritePipe)
            .fd(6, Fd::ReadPipe)
            .fd(7, Fd::Same(9))
            .fd(9, Fd::ReadPipe)
            .fd(8, file)
            .fd(4, Fd::Same(1))
            .spawn(recorder.clone())
            .expect("a child");
        process.pipe(5).expect("a pipe").write(b"through five and six");
        process.pipe(5).expect("a pipe").lose_connection();
        assert!(process.pipe(7).is_none() && process.pipe(8).is_none() && process.pipe(3).is_none());
        world.until("the child ended", || recorder.ended() == Some(SUCCESS));
        assert_eq!(recorder.text(6), "through five and six");
        assert_eq!(recorder.text(9), "seven\nnine\n");
        assert!(recorder.text(1).contains("contract_processes") && recorder.text(1).ends_with("both\n"));
        assert_eq!(recorder.text(2), "");
        assert!(process.pipe(5).is_none(), "it is over");
    }

    // Line 65.
    fn a_layout_that_makes_no_sense_is_an_error(driver) {
        let world = World::new(driver);
        let try_it = |command: Command| command.spawn(Recorder::new()).expect_err("no sense");
        let cat = || world.reactor.command("cat");
        for command in [
            cat().fd(5, Fd::Same(6)).fd(6, Fd::Same(5)),
            cat().fd(5, Fd::Same(9)),
            cat().fd(-1, Fd::Null),
            cat().stdin(Fd::Null).stdout(Fd::Null).stderr(Fd::Null).pty(PtySize::default()),
        ] {
            assert_eq!(try_it(command).kind(), io::ErrorKind::InvalidInput);
        }
        let error = try_it(cat().fd(1_000_000_000, Fd::Null));
        assert!(error.to_string().contains("descriptor 1000000000"), "{error}");
        // One that this program does not have.
        assert!(try_it(cat().fd(987, Fd::Inherit)).to_string().starts_with("cannot run cat: "));
    }

    // Line 65.
    fn a_child_begins_with_the_usual_signals(driver) {
        in_child(module_path!(), driver, || {
            // SAFETY: an ignored signal runs no code, and the mask is this thread's own.
            #[allow(unsafe_code)]
            unsafe {
                libc::signal(libc::SIGHUP, libc::SIG_IGN);
                let mut set = std::mem::zeroed();
                libc::sigaddset(&mut set, libc::SIGUSR1);
                libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            }
            let world = World::new(driver);
            let _hook = world.reactor.on_signal(Signal::USR2, |_| {}).expect("a hook");
            let status = output(&world, world.reactor.command("cat").arg("/proc/self/status"));
            for line in text(&status.stdout).lines().filter(|line| line.starts_with("Sig")) {
                let (name, set) = line.split_once(':').expect("a set");
                // 32 and 33 are the C library's own, which nobody else can change.
                let set = u64::from_str_radix(set.trim(), 16).unwrap_or_default() & !(0b11 << 31);
                assert!(set == 0 || name == "SigQ", "{line}");
            }
        });
    }

    // Line 65.
    fn user_and_groups_are_exact(driver) {
        let world = World::new(driver);
        let id = |command: Command| text(&output(&world, command).stdout).to_owned();
        let command = || world.reactor.command("/usr/bin/id");
        // SAFETY: touches no memory.
        #[allow(unsafe_code)]
        let is_root = unsafe { libc::geteuid() } == 0;
        if !is_root {
            let refused = command().uid(0).spawn(Recorder::new()).expect_err("only root may");
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
            return;
        }
        let all = id(command().uid(65_534).gid(65_533));
        assert!(all.starts_with("uid=65534") && all.contains(" gid=65533"), "{all}");
        assert_eq!(id(command().arg("-G").uid(65_534).gid(65_533)), "65533\n", "root's groups are not kept");
        assert_eq!(id(command().arg("-G").uid(65_534).gid(65_533).groups([7, 8])), "65533 7 8\n");
        assert_eq!(id(command().arg("-u").uid(65_534)), "65534\n");
    }

    // Line 65.
    fn a_session_of_its_own_keeps_the_terminals_keys_away(driver) {
        let world = World::new(driver);
        let script = "cut -d' ' -f1,5,6 /proc/self/stat; echo $$";
        let ids = |command: Command| -> Vec<String> {
            text(&output(&world, command).stdout).split_whitespace().map(str::to_owned).collect()
        };
        let [_, group, session, shell_id] = &*ids(shell(&world.reactor, script).own_session()) else {
            panic!("four numbers")
        };
        assert_eq!((group, session), (shell_id, shell_id));
        let [_, group, _, shell_id] = &*ids(shell(&world.reactor, script)) else { panic!("four numbers") };
        assert_ne!(group, shell_id);
    }

    // Line 9: descriptors that were meant for a child are not kept.
    fn a_failed_start_closes_everything(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            run_shell(&world, "exit 0");
            let open = process::open_descriptors();
            for _ in 0..50 {
                let (given, _other) = pipe().expect("a pipe");
                let given: OwnedFd = given.into();
                let command = world
                    .reactor
                    .command("/no/such")
                    .fd(3, given)
                    .fd(4, Fd::SocketPair)
                    .pty(PtySize::default());
                command.spawn(Recorder::new()).expect_err("no such program");
            }
            assert_eq!(process::open_descriptors(), open);
            assert_eq!(children(), []);
        });
    }

    // Line 65: what a child was given is not kept open here, so that others see its end.
    fn given_descriptors_are_closed_here_once_the_child_runs(driver) {
        let world = World::new(driver);
        let (mut reader, writer) = pipe().expect("a pipe");
        let command = shell(&world.reactor, "echo to the test >&5").fd(5, Fd::Descriptor(writer.into()));
        run(&world, command);
        let mut heard = String::new();
        reader.read_to_string(&mut heard).expect("an end");
        assert_eq!(heard, "to the test\n");
    }

    // Line 65.
    fn a_terminal_has_the_size_that_was_said_and_a_later_one(driver) {
        let world = World::new(driver);
        let recorder = Recorder::new();
        let script = "tty >/dev/null && stty size; trap 'stty size; exit 2' WINCH; echo ready; \
                      while :; do sleep 0.01; done";
        let size = PtySize { rows: 40, columns: 132 };
        let process = shell(&world.reactor, script).pty(size).spawn(recorder.clone()).expect("a child");
        world.until("it is ready", || recorder.text(1).contains("ready"));
        assert_eq!(recorder.text(1), "40 132\r\nready\r\n");
        process.set_window_size(PtySize { rows: 10, columns: 20 }).expect("a terminal");
        world.until("the child ended", || recorder.ended().is_some());
        assert_eq!(recorder.ended(), Some(ExitStatus::Code(2)));
        assert_eq!(recorder.text(1), "40 132\r\nready\r\n10 20\r\n");
        assert!(recorder.has(&Told::Lost(1, "closed".to_owned())), "{:?}", recorder.told);
        assert!(process.set_window_size(size).is_err(), "the terminal is gone");
        let without = world.reactor.command("true").spawn(Recorder::new()).expect("a child");
        assert!(without.set_window_size(size).is_err(), "it never had one");
    }

    // Line 63: what the child never read holds nothing up.
    fn a_terminal_ends_with_its_child_also_when_it_is_full_of_input(driver) {
        let world = World::new(driver);
        let recorder = Recorder::new();
        let command = shell(&world.reactor, "stty raw -echo; echo ready; sleep 0.05").pty(PtySize::default());
        let process = command.spawn(recorder.clone()).expect("a child");
        world.until("it runs", || recorder.text(1).contains("ready"));
        process.write(&[b'x'; 1_000_000]);
        world.until("the child ended", || recorder.ended().is_some());
        assert_eq!(recorder.ended(), Some(SUCCESS));
    }

    // Line 65.
    fn a_terminal_echoes_obeys_its_keys_and_ends(driver) {
        let world = World::new(driver);
        let recorder = Recorder::new();
        let process =
            world.reactor.command("cat").pty(PtySize::default()).spawn(recorder.clone()).expect("a child");
        process.write(b"hello\n");
        // Once echoed by the terminal, once written by cat.
        world.until("both came", || recorder.text(1) == "hello\r\nhello\r\n");
        process.close_stdin();
        world.until("the child ended", || recorder.ended().is_some());
        assert_eq!(recorder.ended(), Some(SUCCESS));

        let recorder = Recorder::new();
        let process =
            world.reactor.command("cat").pty(PtySize::default()).spawn(recorder.clone()).expect("a child");
        process.write(b"\n");
        world.until("it runs", || recorder.text(1).contains("\r\n\r\n"));
        process.write(b"\x03");
        world.until("the child ended", || recorder.ended().is_some());
        assert_eq!(recorder.ended(), Some(killed(Signal::INT)), "Ctrl-C");

        let recorder = Recorder::new();
        let process =
            world.reactor.command("cat").pty(PtySize::default()).spawn(recorder.clone()).expect("a child");
        world.until("it runs", || recorder.has(&Told::Started));
        process.pipe(0).expect("the terminal").lose_connection();
        world.until("the child ended", || recorder.ended().is_some());
        assert_eq!(recorder.ended(), Some(killed(Signal::HUP)), "a closed terminal hangs up");
    }

    // Line 65: closing our side would send SIGHUP to a child that is on its way out.
    fn a_child_that_closes_its_terminal_first_still_ends_by_itself(driver) {
        let world = World::new(driver);
        let recorder = Recorder::new();
        let script = "exec 0<&- 1>&- 2>&-; read line <&3; exit 3";
        let (gate, mut opener) = pipe().expect("a pipe");
        let command =
            shell(&world.reactor, script).pty(PtySize::default()).fd(3, Fd::Descriptor(gate.into()));
        let process = command.spawn(recorder.clone()).expect("a child");
        world.until("the terminal is over", || recorder.has(&Told::Lost(1, "closed".to_owned())));
        assert!(process.is_running() && process.pipe(0).is_none());
        opener.write_all(b"\n").expect("it reads");
        world.until("the child ended", || recorder.ended().is_some());
        assert_eq!(recorder.ended(), Some(ExitStatus::Code(3)));
        assert!(process.set_window_size(PtySize::default()).is_err(), "the terminal is gone");
    }

    // Line 65.
    fn a_terminal_can_be_part_of_the_standard_streams(driver) {
        let world = World::new(driver);
        let recorder = Recorder::new();
        let script = "test -t 0 || echo 'no tty'; test -t 1 && echo tty; cat; echo err >&2";
        let process = shell(&world.reactor, script)
            .stdin(Fd::WritePipe)
            .stderr(Fd::ReadPipe)
            .pty(PtySize::default())
            .spawn(recorder.clone())
            .expect("a child");
        process.write(b"by pipe\n");
        process.close_stdin();
        world.until("the child ended", || recorder.ended() == Some(SUCCESS));
        assert_eq!(recorder.text(1), "no tty\r\ntty\r\nby pipe\r\n");
        assert_eq!(recorder.text(2), "err\n");
    }
}
