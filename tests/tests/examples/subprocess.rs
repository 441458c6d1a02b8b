//! `subprocess`.

use std::io::{Write, pipe};

use crate::support::{Lines, Program};

#[test]
fn lists_the_directory_it_runs_in() {
    let mut program = Program::start("subprocess", &[""; 0]);
    let lines = program.output.rest();
    assert!(program.wait().success());
    assert!(lines[0].starts_with("total "), "{lines:#?}");
    assert!(lines.iter().any(|line| line.ends_with(" Cargo.toml")), "{lines:#?}");
    assert_eq!(lines.last().map(String::as_str), Some("subprocess: ls: exit code 0"));
}

#[test]
fn prints_lines_as_they_come_and_ends_as_the_command_does() {
    let (input, mut typed) = pipe().expect("a pipe");
    let script =
        "echo first; read line; echo \"$line\"; echo no newline | tr -d '\\n'; echo error >&2; exit 3";
    let mut program = Program::start_reading("subprocess", &["sh", "-c", script], input);
    assert_eq!(program.output.next().as_deref(), Some("first"));
    typed.write_all(b"second\n").expect("it reads");
    assert_eq!(program.output.rest(), ["second", "no newline", "subprocess: sh: exit code 3"]);
    assert_eq!(program.errors.next().as_deref(), Some("error"));
    assert_eq!(program.wait().code(), Some(3));
}

#[test]
fn ends_quietly_with_who_reads_its_output() {
    let mut program = Program::start("subprocess", &["sh", "-c", "while echo line; do :; done"]);
    program.output.until("line");
    program.output = Lines::of(std::io::empty());
    assert!(!program.wait().success());
    assert_eq!(program.errors.rest(), [""; 0]);
}

#[test]
fn says_what_cannot_be_run() {
    let mut program = Program::start("subprocess", &["/no/such/program"]);
    program.errors.until("cannot run /no/such/program: ");
    assert!(!program.wait().success());
}
