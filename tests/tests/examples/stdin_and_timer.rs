//! `stdin_and_timer`.

use std::fs::File;
use std::io::{Write, pipe};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::support::Program;

/// Prints these lines, then the timer's, and ends.
fn prints(program: &mut Program, expected: &[&str]) {
    let mut expected: Vec<String> = expected.iter().map(|line| format!("stdin: {line}")).collect();
    expected.push("timer".to_owned());
    assert_eq!(program.output.rest(), expected);
    assert!(program.wait().success());
    assert_eq!(program.errors.rest(), [""; 0]);
}

#[test]
fn prints_lines_that_come_in_pieces_and_does_not_wait_for_the_end_of_the_input() {
    let (input, mut typing) = pipe().expect("a pipe");
    let shared = input.try_clone().expect("a second handle");
    let started = Instant::now();
    let mut program = Program::start_reading("stdin_and_timer", &[""; 0], input);
    typing.write_all(b"one\nhalf a li").expect("it reads");
    assert_eq!(program.output.next().as_deref(), Some("stdin: one"));
    typing.write_all(b"ne\r\n\nthree").expect("it reads");
    assert_eq!(program.output.next().as_deref(), Some("stdin: half a line"));
    assert_eq!(program.output.next().as_deref(), Some("stdin: "));
    // The shell, say, that goes on reading afterwards.
    assert!(!SockRef::from(&shared).nonblocking().expect("a mode"));
    prints(&mut program, &[]);
    assert!(started.elapsed() >= Duration::from_secs(5));
    assert!(!SockRef::from(&shared).nonblocking().expect("a mode"));
}

#[test]
fn the_end_of_the_input_completes_the_last_line_and_the_timer_is_still_waited_for() {
    let (input, mut typing) = pipe().expect("a pipe");
    let started = Instant::now();
    let mut program = Program::start_reading("stdin_and_timer", &[""; 0], input);
    typing.write_all(b"one\ntwo, with no newline").expect("it reads");
    drop(typing);
    prints(&mut program, &["one", "two, with no newline"]);
    assert!(started.elapsed() >= Duration::from_secs(5));
}

#[test]
fn reads_a_regular_file_and_no_input_at_all() {
    let path = std::env::temp_dir().join(format!("twistor-stdin-{}", std::process::id()));
    let lines: Vec<String> = (0..2000).map(|number| format!("line {number}")).collect();
    std::fs::write(&path, lines.join("\n")).expect("a file");
    let file = File::open(&path);
    let _ = std::fs::remove_file(&path);
    let mut reading = Program::start_reading("stdin_and_timer", &[""; 0], file.expect("a file"));
    let mut idle = Program::start("stdin_and_timer", &[""; 0]);
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    prints(&mut reading, &lines);
    prints(&mut idle, &[]);
}
