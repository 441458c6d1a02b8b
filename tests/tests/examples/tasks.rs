//! The examples of coroutines, tasks and Deferreds.

use std::io::{Write, pipe};
use std::time::{Duration, Instant};

use crate::support::Program;

/// What an example prints, whole.
fn printed(name: &str, arguments: &[&str]) -> Vec<String> {
    let mut program = Program::start(name, arguments);
    let lines = program.output.rest();
    assert!(program.child.wait().expect("a child").success());
    lines
}

#[test]
fn two_fetches_take_as_long_as_the_longer_one() {
    let lines = printed("two_fetches", &[]);
    let (last, lines) = lines.split_last().expect("lines");
    assert_eq!(
        *lines,
        [
            "fetch 2: begins",
            "fetch 3: begins",
            "fetch 2: done",
            "an answer that took 2 s",
            "fetch 3: done",
            "an answer that took 3 s",
        ]
    );
    // 3.0 unless the machine is busy.
    assert!(last.starts_with("both after 3."), "{last}");
}

#[test]
fn two_fetches_tell_of_an_answer_that_does_not_come() {
    let mut program = Program::start("two_fetches", &["0.1", "soon"]);
    program.errors.until("the server has closed the connection");
    assert!(!program.wait().success());
}

#[test]
fn coroutines_side_by_side_take_less_than_one_after_the_other() {
    let lines = printed("coroutines", &[]);
    let times = lines.iter().filter_map(|line| line.strip_prefix("  10 letters in ")?.strip_suffix(" s"));
    let times: Vec<f64> = times.map(|seconds| seconds.parse().expect("a number")).collect();
    assert!(times.len() == 2 && times[0] >= 1.5 && times[1] >= 1.0 && times[1] < times[0], "{lines:?}");
    assert!(lines.last().is_some_and(|line| line.contains("100 coroutines bring 5050")), "{lines:?}");
}

#[test]
fn a_cancelled_task_leaves_everything_in_order() {
    let lines = printed("cancel_task", &[]);
    let end = lines.iter().position(|line| line == "main: cancel, which is true").expect("a cancel");
    assert_eq!(
        lines[end..],
        [
            "main: cancel, which is true",
            "main: cancel again, which is false",
            "worker: put in order",
            "helper: put in order",
            "main: the outcome is Err(Cancelled)",
        ]
    );
}

#[test]
fn several_things_at_a_time_end_as_the_text_says() {
    let lines = printed("gather_race_timeout", &[]);
    for expected in [
        "  [\"Oslo\", \"Rome\", \"Lima\"]",
        "  Ok((1, \"Rome\")) was first",
        "  Ok(\"Rome\")",
        "  Err(TimedOut)",
        "  number 1 of the list: Rome",
        "  Err(\"one child has failed\") after 0.",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(expected)), "{expected:?} is not in {lines:?}");
    }
    // Three answers are waited for twice; of a race and of a time-out only the fast one is heard.
    assert_eq!(lines.iter().filter(|line| line.ends_with("has answered")).count(), 8, "{lines:?}");
}

#[test]
fn a_chain_goes_its_way_with_a_value_and_with_an_error() {
    let lines = printed("deferred_chain", &["10"]);
    assert_eq!(lines[1..], ["looked up: 10", "the sum is 55", "and then: Err(TimedOut)"], "{lines:?}");
    let lines = printed("deferred_chain", &["ten"]);
    assert!(lines[1].starts_with("an error passes by: \"ten\" is no number"), "{lines:?}");
    assert_eq!(lines[2..], ["there is no sum", "and then: Err(TimedOut)"]);
}

#[test]
fn events_of_lines_and_of_a_timer_reach_one_handler() {
    let (input, mut typing) = pipe().expect("a pipe");
    let begin = Instant::now();
    let mut program = Program::start_reading("event_driven", &[] as &[&str], input);
    typing.write_all(b"one\n").expect("it reads");
    program.output.until("Received event: stdin");
    assert!(begin.elapsed() < Duration::from_secs(5));
    program.output.until("Received event: timer");
    assert!(begin.elapsed() >= Duration::from_secs(5));
    typing.write_all(b"two\n").expect("it reads");
    program.output.until("Received event: stdin");
    drop(typing);
    program.output.until("Ends.");
    assert!(begin.elapsed() >= Duration::from_secs(10));
    assert!(program.wait().success());
}
