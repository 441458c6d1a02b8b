//! An echo server as a Unix service: a pidfile, a log that can be rotated, no rights that it does not need,
//! and restarts that no client notices.
//!
//! Run it:      cargo run --release --example daemon -- pidfile=/tmp/echo.pid tcp:8000 unix:/tmp/echo.sock
//! Talk to it:  nc 127.0.0.1 8000, or nc -U /tmp/echo.sock
//! Restart it:  kill -USR2 $(cat /tmp/echo.pid), while nc is connected
//! Others:      kill -HUP opens the log again, kill -USR1 logs counts, kill stops it
//! As a service: daemon.service beside this file
//!
//! Settings are KEY=VALUE: pidfile, log (a file), user, group. Everything else is an endpoint to listen at.

#[cfg(unix)]
fn main() -> std::process::ExitCode {
    use twistor::{Daemon, DaemonHandle, Log, Protocol, Transport};

    struct Echo;

    impl Protocol for Echo {
        fn data_received(&mut self, transport: &Transport, data: &[u8]) {
            transport.write(data);
        }
    }

    let mut endpoints = Vec::new();
    let mut daemon = Daemon::new("echo").on_reload(DaemonHandle::log_stats);
    for argument in std::env::args().skip(1) {
        if argument == "--help" {
            println!(
                "An echo service.\n\nUsage: daemon [pidfile=FILE] [log=FILE] [user=NAME] [group=NAME] [ENDPOINT]..."
            );
            return std::process::ExitCode::SUCCESS;
        }
        daemon = match argument.split_once('=') {
            Some(("pidfile", path)) => daemon.pidfile(path),
            Some(("log", path)) => daemon.log(Log::file(path)),
            Some(("user", user)) => daemon.user(user),
            Some(("group", group)) => daemon.group(group),
            _ => {
                endpoints.push(argument);
                daemon
            }
        };
    }
    if endpoints.is_empty() {
        endpoints.push("tcp:8000".to_owned());
    }
    daemon.listen_all(endpoints.iter().map(String::as_str), |_| Echo).run()
}

#[cfg(not(unix))]
fn main() {
    println!("daemon: this is about Unix");
}
