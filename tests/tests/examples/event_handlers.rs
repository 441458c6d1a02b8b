//! `event_handlers`.

use std::fs::File;
use std::io::{Write, pipe};
use std::process::Command;

use twistor_tests::pty::{Modes, Pty, Running, Session};

use crate::support::{Program, example};

fn start(pty: &mut Pty) -> Running {
    let mut command = Command::new(example("event_handlers"));
    command.env_remove("RUST_LOG");
    let running = pty.start(command, Session::Own, |_| {});
    pty.until("\x1b[?2004h\x1b[?1000h\x1b[?1006h");
    pty.until("q ends it\r\n");
    running
}

#[test]
fn hears_of_keys_and_clicks_in_a_terminal_and_leaves_it_as_it_was() {
    let mut pty = Pty::new();
    let before = pty.modes();
    let mut program = start(&mut pty);
    pty.until_modes("raw mode", Modes::are_raw);
    let mut expect = |typed: &[u8], shown: &[&str]| {
        pty.press(typed);
        for line in shown {
            assert_eq!(pty.until("\r\n"), format!("{line}\r\n"));
        }
    };
    expect(b"a", &["key: a"]);
    expect(b"\x01", &["key: Ctrl-a"]);
    expect("é".as_bytes(), &["key: é"]);
    expect(b"\x1bx", &["key: Alt-x"]);
    expect(b"\x1b[A\x1b[1;5C\x1bOP", &["key: Up", "key: Ctrl-Right", "key: F1"]);
    expect(b"\x1b[<0;12;5M\x1b[<0;12;5m", &["click: Left at 12, 5", "released: Left at 12, 5"]);
    expect(b"\x1b[<18;1;2M\x1b[<64;3;4M", &["click: Ctrl-Right at 1, 2", "mouse: ScrollUp at 3, 4"]);
    expect(b"\x1b[200~q\x1b[201~", &["pasted: \"q\""]);
    // Nothing follows.
    expect(b"\x1b", &["key: Esc"]);
    expect(b"\r\t\x7f", &["key: Enter", "key: Tab", "key: Backspace"]);
    expect(b"q", &["key: q", "bye"]);
    assert!(program.wait().success());
    assert_eq!(pty.modes(), before);
    assert_eq!(pty.rest(), "\x1b[?1006l\x1b[?1000l\x1b[?2004l");
}

#[test]
fn leaves_the_terminal_as_it_was_when_it_is_interrupted_or_ended() {
    for key in [Some(b"\x03"), None] {
        let mut pty = Pty::new();
        let before = pty.modes();
        let mut program = start(&mut pty);
        match key {
            Some(key) => pty.press(key),
            None => program.signal(libc::SIGTERM),
        }
        program.wait();
        assert_eq!(pty.modes(), before);
        pty.until("\x1b[?1006l\x1b[?1000l\x1b[?2004l");
    }
}

#[test]
fn reads_a_pipe_and_a_file() {
    let (input, mut typing) = pipe().expect("a pipe");
    let mut program = Program::start_reading("event_handlers", &[""; 0], input);
    program.output.until("q ends it");
    typing.write_all(b"a\x1b[").expect("it reads");
    assert_eq!(program.output.next().as_deref(), Some("key: a"));
    // Time tells that this is no more than it is.
    assert_eq!(program.output.next().as_deref(), Some("key: Alt-["));
    typing.write_all(b"\x1b[<2;7;3Mqxyz").expect("it reads");
    assert_eq!(program.output.next().as_deref(), Some("click: Right at 7, 3"));
    program.output.until("bye");
    assert!(program.wait().success());

    let path = std::env::temp_dir().join(format!("twistor-keys-{}", std::process::id()));
    std::fs::write(&path, "xy\x1b").expect("a file");
    let mut program = Program::start_reading("event_handlers", &[""; 0], File::open(&path).expect("a file"));
    let lines = program.output.rest();
    assert!(program.wait().success());
    std::fs::remove_file(path).expect("a file");
    assert_eq!(lines[1..], ["key: x", "key: y", "key: Esc"], "its end ends it");
}
