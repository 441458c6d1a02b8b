//! `protocol_unit_test`.

use crate::support::Program;

#[test]
fn passes_and_says_what_it_has_tested() {
    let mut program = Program::start("protocol_unit_test", &[""; 0]);
    let lines = program.output.rest();
    assert!(program.wait().success(), "{lines:#?}");
    assert!(lines.len() >= 8 && lines.iter().all(|line| line.starts_with("ok ")), "{lines:#?}");
}
