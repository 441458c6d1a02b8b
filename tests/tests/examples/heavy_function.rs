//! `heavy_function`.

use crate::support::Program;

#[test]
fn shows_that_the_loop_ticks_on_while_a_thread_computes() {
    let mut program = Program::start("heavy_function", &["400000"]);
    let lines = program.output.rest();
    assert!(program.wait().success());
    // Its numbers: primes, milliseconds, ticks, the longest gap.
    let numbers = |line: &str, place: &str| -> Vec<u64> {
        assert!(line.starts_with(place), "{line}");
        line.split([' ', ':', ';']).filter_map(|word| word.parse().ok()).collect()
    };
    let [thread, inside] = &*lines else { panic!("{lines:#?}") };
    let [33_860, _, ticks, _] = *numbers(thread, "on a thread: ") else { panic!("{thread}") };
    assert!(ticks >= 2, "{thread}");
    let [33_860, time, ticks, gap] = *numbers(inside, "in the loop: ") else { panic!("{inside}") };
    // A tick may come before the computation; none comes during it.
    assert!(ticks <= 1 && gap > time / 2, "{inside}");
}

#[test]
fn refuses_a_limit_that_is_no_number() {
    let mut program = Program::start("heavy_function", &["many"]);
    program.errors.until("LIMIT \"many\" is no number");
    assert!(!program.wait().success());
}
