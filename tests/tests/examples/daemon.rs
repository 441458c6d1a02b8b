//! `daemon`.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;

use crate::support::{ANY_PORT, Program, connect, example};

/// Where it says that it listens, and which process it is.
fn ready(program: &Program) -> (SocketAddr, String) {
    let listening = program.errors.until("listening on 127");
    let ready = program.errors.until("ready, process ");
    let last = |line: &str| line.rsplit_once(' ').expect("words").1.to_owned();
    (last(&listening).parse().expect("an address"), last(&ready))
}

fn kill(signal: &str, pid: &str) {
    assert!(Command::new("kill").args([signal, pid]).status().expect("kill").success());
}

#[test]
fn serves_restarts_and_stops_as_its_text_says() {
    let directory = std::env::temp_dir().join(format!("twistor-example-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let file = |name: &str| directory.join(name);
    let pidfile = format!("pidfile={}", file("pid").display());
    let socket = format!("unix:{}", file("socket").display());
    let mut program = Program::start("daemon", &[&*pidfile, ANY_PORT, &*socket]);
    let (address, first) = ready(&program);
    let mut open = connect(address);
    let mut echo = |text: &[u8]| {
        open.write_all(text).expect("it reads");
        let mut answer = vec![0; text.len()];
        open.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, text);
    };
    echo(b"before");
    kill("-USR1", &first);
    program.errors.until("1 accepted");
    kill("-USR2", &first);
    let (_, second) = ready(&program);
    assert_ne!(first, second);
    assert_eq!(std::fs::read_to_string(file("pid")).expect("a pidfile"), format!("{second}\n"));
    echo(b"after");
    let mut unix = std::os::unix::net::UnixStream::connect(file("socket")).expect("somebody listens");
    unix.write_all(b"new").expect("it reads");
    unix.read_exact(&mut [0; 3]).expect("an answer");
    drop((open, unix));
    // The new process has the standard streams, too.
    assert!(program.child.wait().expect("a child").success());
    kill("-TERM", &second);
    program.errors.until(&format!("ended, process {second}"));
    assert!(!file("pid").exists() && !file("socket").exists());
    std::fs::remove_dir_all(directory).expect("removed");
}

#[test]
fn says_what_is_wrong_with_its_settings() {
    let mut program = Program::start("daemon", &["user=no-such-user", ANY_PORT]);
    program.errors.until("there is no user \"no-such-user\"");
    assert_eq!(program.wait().code(), Some(78));
}

#[test]
fn its_unit_is_one_that_systemd_takes() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/daemon.service");
    let text = std::fs::read_to_string(unit).expect("a unit");
    let name = "/usr/local/bin/echo-daemon";
    assert!(text.contains(name));
    let program = example("daemon");
    let directory = std::env::temp_dir().join(format!("twistor-unit-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let copy = directory.join("daemon.service");
    std::fs::write(
        &copy,
        text.replace(&format!("ExecStart={name}"), &format!("ExecStart={}", program.display())),
    )
    .expect("a file");
    match Command::new("systemd-analyze").args(["--recursive-errors=no", "verify"]).arg(&copy).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && !said.contains("daemon.service:"), "{said}");
        }
        Err(error) => println!("not run: systemd-analyze: {error}"),
    }
    std::fs::remove_dir_all(directory).expect("removed");
}
