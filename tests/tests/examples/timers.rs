//! `timers`.

use crate::support::Program;

#[test]
fn happen_in_order_and_the_program_ends_by_itself() {
    let mut program = Program::start("timers", &[""; 0]);
    let lines = program.output.rest();
    assert!(program.wait().success());
    let position = |text: &str| {
        let found = lines.iter().position(|line| line.contains(text));
        found.unwrap_or_else(|| panic!("no {text:?} in {lines:#?}"))
    };
    let order = [
        "first",
        "second",
        "third, set by the first",
        "one call cancelled, two moved",
        "moved by reset",
        "moved by delay",
        "no more ticks",
        "nothing is left to do",
    ];
    assert!(order.map(position).is_sorted(), "{lines:#?}");
    assert!(position("tick 1") < position("tick 2"), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("never")), "{lines:#?}");
    // Never early.
    for (what, time) in [("first", 100), ("second", 200), ("moved by reset", 800), ("moved by delay", 900)] {
        let line = &lines[position(what)];
        let printed: u64 = line.split_whitespace().next().and_then(|ms| ms.parse().ok()).expect("a time");
        assert!(printed >= time, "{line}");
    }
}
