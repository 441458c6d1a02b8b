//! `process_supervisor`.

use crate::support::Program;

#[test]
fn starts_again_what_ends_and_stops_what_runs() {
    let mut program = Program::start("process_supervisor", &["sh -c exit", "sleep 1000"]);
    program.output.until("sleep 1000: started as process ");
    program.output.until("sh -c exit: exit code 0; again in 100 ms");
    program.output.until("sh -c exit: exit code 0; again in 200 ms");
    program.output.until("sh -c exit: exit code 0; again in 400 ms");
    program.signal("-TERM");
    let lines = program.output.rest();
    assert!(lines.contains(&"sleep 1000: killed by SIGTERM".to_owned()), "{lines:#?}");
    assert_eq!(lines.last().map(String::as_str), Some("process_supervisor: nothing runs any more"));
    assert!(program.wait().success());
}

#[test]
fn kills_what_does_not_go_by_itself() {
    let script = std::env::temp_dir().join(format!("twistor-stubborn-{}", std::process::id()));
    std::fs::write(&script, "trap '' TERM\necho stubborn\nwhile :; do sleep 1; done\n").expect("a script");
    let mut program = Program::start("process_supervisor", &[format!("sh {}", script.display())]);
    program.output.until("stubborn");
    program.signal("-INT");
    program.output.until("killed by SIGKILL");
    assert!(program.wait().success());
    std::fs::remove_file(script).expect("it is there");
}

#[test]
fn goes_on_when_one_command_cannot_be_run() {
    let program = Program::start("process_supervisor", &["/no/such/program", "sleep 1000"]);
    let mut seen = [false; 2];
    while seen != [true; 2] {
        let line = program.output.next().expect("it goes on");
        seen[0] |= line.contains("cannot run /no/such/program") && line.contains("again in 200 ms");
        seen[1] |= line.starts_with("sleep 1000: started");
    }
}
