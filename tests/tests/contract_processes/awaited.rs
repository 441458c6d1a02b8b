//! Children that are run to their end, and children over a pair of sockets.

use std::io;

use twistor::{ExitStatus, Fd, PtySize, Transport};
use twistor_tests::{Log, Script, World, in_child, kernel_contract};

use crate::{SUCCESS, children, outcome, output, shell, text};

kernel_contract! {
    // Issue's awaited forms.
    fn output_brings_both_streams_and_the_status(driver) {
        let world = World::new(driver);
        let both = output(&world, shell(&world.reactor, "echo out; echo err >&2; exit 2"));
        assert_eq!((text(&both.stdout), text(&both.stderr)), ("out\n", "err\n"));
        assert_eq!(both.status, ExitStatus::Code(2));
        let nothing = output(&world, world.reactor.command("cat"));
        assert_eq!((nothing.status, nothing.stdout.len()), (SUCCESS, 0), "its input is empty");
        let piped = output(&world, world.reactor.command("cat").stdin(Fd::WritePipe));
        assert_eq!(piped.status, SUCCESS, "nobody could write to that pipe");
        let much = output(&world, shell(&world.reactor, "head -c 5000000 /dev/zero"));
        assert_eq!(much.stdout.len(), 5_000_000);
        let in_terminal =
            output(&world, world.reactor.command("stty").arg("size").pty(PtySize { rows: 7, columns: 9 }));
        assert_eq!((text(&in_terminal.stdout), in_terminal.status), ("7 9\r\n", SUCCESS));
        let merged = output(&world, shell(&world.reactor, "echo out; echo err >&2").stderr(Fd::Same(1)));
        assert_eq!((text(&merged.stdout), text(&merged.stderr)), ("out\nerr\n", ""));
    }

    // Issue's awaited forms: what a child writes is not kept without limit.
    fn output_beyond_the_limit_is_an_error_and_kills_the_child(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let endless = world.reactor.command("yes").output_limit(100_000).output();
            let error = outcome(&world, endless).expect_err("too much");
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
            assert!(error.to_string().contains("yes wrote more than 100000 bytes"), "{error}");
            world.until("the child is gone", || children().is_empty());
            let exact =
                outcome(&world, shell(&world.reactor, "head -c 1000 /dev/zero").output_limit(1000).output());
            assert_eq!(exact.expect("it fits").stdout.len(), 1000);
        });
    }

    // Issue's awaited forms.
    fn status_waits_for_the_child_alone(driver) {
        let world = World::new(driver);
        let quiet = |script: &str| shell(&world.reactor, script).stdout(Fd::Null).stderr(Fd::Null);
        assert_eq!(outcome(&world, quiet("exit 12").status()).expect("a status"), ExitStatus::Code(12));
        assert_eq!(outcome(&world, quiet("sleep 5 & exit 0").status()).expect("a status"), SUCCESS);
    }

    // Line 73.
    fn cancelling_kills_the_child(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let sleeper = || world.reactor.command("sleep").arg("100");
            let (status, output) = (sleeper().status(), sleeper().output());
            world.turns(2);
            assert_eq!(children().len(), 2);
            assert!(status.cancel() && output.cancel());
            assert!(!status.cancel(), "twice is an ordinary false");
            assert_eq!(outcome(&world, status).expect_err("cancelled").kind(), io::ErrorKind::Interrupted);
            let error = outcome(&world, output).expect_err("cancelled");
            assert!(error.to_string().contains("sleep was cancelled"), "{error}");
            world.until("both are reaped", || children().is_empty());
            let done = world.reactor.command("true").status();
            let canceller = done.canceller();
            assert_eq!(outcome(&world, done).expect("a status"), SUCCESS);
            assert!(!canceller.cancel());
        });
    }

    // Issue: a child over a socket pair.
    fn a_child_over_a_socket_pair_is_an_ordinary_connection(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let script = Script::new(&log).on_made(|transport: &Transport| {
            transport.write(b"hello\n");
            transport.lose_write_connection();
        });
        let command = shell(&world.reactor, "cat; ls -l /proc/self/fd/0 /proc/self/fd/1").stderr(Fd::Null);
        let (process, transport) = command.connect(script).expect("a child");
        let status = outcome(&world, process.exited()).expect("it cannot fail");
        assert_eq!(status, SUCCESS);
        world.until("the connection ended", || log.lost().is_some());
        let heard = log.data();
        assert!(
            text(&heard).starts_with("hello\n") && text(&heard).matches("socket:").count() == 2,
            "{}",
            text(&heard)
        );
        assert!(transport.is_closing());
        let error =
            world.reactor.command("/no/such").connect(Script::new(&Log::new())).expect_err("an error");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
