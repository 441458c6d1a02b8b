//! `lease_simulation`.

use crate::support::Program;

#[test]
fn finds_nothing_wrong() {
    let mut program = Program::start("lease_simulation", &["--search", "50"]);
    program.output.until("50 seeds");
    assert!(program.wait().success());
}

#[test]
fn finds_the_planted_mistake_and_names_its_seed_and_fewer_faults() {
    let mut program = Program::start("lease_simulation", &["--search", "200", "--buggy"]);
    let seed = program.output.until("lead at the same time");
    let seed = seed.split(' ').nth(1).expect("a seed").to_owned();
    let count = program.output.until("random faults:");
    let numbers: Vec<usize> = count.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(matches!(*numbers, [left, all] if left < all), "{count}");
    assert!(!program.wait().success());

    // Replayed, it fails in the same way.
    let mut program = Program::start("lease_simulation", &["--seed", &seed, "--buggy"]);
    program.errors.until("lead at the same time");
    assert!(!program.wait().success());
}

#[test]
fn tells_the_same_story_for_the_same_seed() {
    let story = |seed: &str| {
        let mut program = Program::start("lease_simulation", &["--seed", seed]);
        let lines = program.output.rest();
        assert!(program.wait().success());
        lines
    };
    let first = story("7");
    assert!(first.iter().any(|line| line.ends_with(" leads")), "{first:#?}");
    assert_eq!(first, story("7"));
    assert_ne!(first, story("8"));
}
