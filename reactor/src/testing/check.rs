//! Many seeds, and the shortest way to a failure: [`check`].

use std::any::Any;
use std::cell::Cell;
use std::fmt::Write;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use super::simulation::{LAST_LINES, RandomFault, Simulation};

/// Runs of one failing seed that are spent on leaving faults out.
const SHRINKING_RUNS: u32 = 300;

/// Runs a scenario with every seed. When one fails, it is run again with fewer and fewer of its [random
/// faults](Simulation::random_faults) for as long as it still fails; then this panics with the seed, the
/// faults that are left, the last events and the panic itself.
///
/// With `TWISTOR_SEED=17` in the environment it runs that seed alone.
///
/// ```
/// use std::time::Duration;
/// use twistor::testing::{Faults, check};
///
/// check(0..20, |sim| {
///     sim.host("a", |_| {});
///     sim.host("b", |_| {});
///     sim.random_faults(&Faults::all(Duration::from_secs(10)));
///     sim.run_for(Duration::from_secs(20));
/// });
/// ```
///
/// # Panics
///
/// The scenario fails with a seed, or `TWISTOR_SEED` is not a number.
pub fn check(seeds: impl IntoIterator<Item = u64>, scenario: impl Fn(&Simulation)) {
    match std::env::var("TWISTOR_SEED") {
        Ok(text) => match text.trim().parse() {
            Ok(seed) => check_all(std::iter::once(seed), &scenario),
            Err(_) => panic!("TWISTOR_SEED={text:?} is not a number"),
        },
        Err(_) => check_all(seeds.into_iter(), &scenario),
    }
}

fn check_all(seeds: impl Iterator<Item = u64>, scenario: &dyn Fn(&Simulation)) {
    for seed in seeds {
        if let Some(failure) = find_failure(seed, scenario) {
            panic!("{failure}Replay it with TWISTOR_SEED={seed}.");
        }
    }
}

/// Looks for a failure with this seed, and for the fewest random faults that it needs; its description if
/// there is one. For programs that search by themselves; tests [`check`](check()).
pub fn find_failure(seed: u64, scenario: impl Fn(&Simulation)) -> Option<String> {
    let mut failure = run(seed, None, &scenario)?;
    let found = failure.faults.len();
    failure = shrink(failure, &scenario);
    let mut text = format!("seed {seed} fails: {}\n", failure.panic);
    // Writing to a string cannot fail, here and below.
    let _ = match (found, failure.faults.len()) {
        (0, _) => Ok(()),
        (_, 0) => writeln!(text, "It needs none of its {found} random faults."),
        (found, left) => writeln!(text, "It needs {left} of its {found} random faults:"),
    };
    for RandomFault { time, fault, .. } in &failure.faults {
        let _ = writeln!(text, "  {time:?}: {fault}");
    }
    let _ = write!(text, "The last events:\n{}", failure.last_events);
    Some(text)
}

struct Failure {
    seed: u64,
    faults: Vec<RandomFault>,
    panic: String,
    last_events: String,
}

/// Runs the scenario once, with all its random faults or with these only.
fn run(seed: u64, faults: Option<&[RandomFault]>, scenario: &dyn Fn(&Simulation)) -> Option<Failure> {
    let sim = Simulation::new(seed);
    sim.keep_quiet();
    if let Some(faults) = faults {
        sim.keep_faults(faults.iter().map(|fault| fault.number));
    }
    let outcome = quietly(|| catch_unwind(AssertUnwindSafe(|| scenario(&sim))));
    let payload = outcome.err()?;
    Some(Failure {
        seed,
        faults: sim.random_faults_so_far(),
        panic: panic_text(&*payload),
        last_events: sim.last_events(LAST_LINES),
    })
}

/// Leaves out what the failure does not need: halves first, then one by one.
fn shrink(mut failure: Failure, scenario: &dyn Fn(&Simulation)) -> Failure {
    let mut runs = 0;
    let mut size = failure.faults.len();
    while size > 0 {
        let before = failure.faults.len();
        let mut start = 0;
        while start < failure.faults.len() && runs < SHRINKING_RUNS {
            let mut fewer = failure.faults.clone();
            fewer.drain(start..(start + size).min(failure.faults.len()));
            runs += 1;
            match run(failure.seed, Some(&fewer), scenario) {
                Some(smaller) => failure = smaller,
                None => start += size,
            }
        }
        // When one can go, others may that could not before.
        if size > 1 || failure.faults.len() == before {
            size /= 2;
        }
    }
    failure
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "(a panic without a text)".to_owned()
    }
}

thread_local! {
    /// This thread's panics are expected and will be described.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` without its panics being printed.
fn quietly<R>(f: impl FnOnce() -> R) -> R {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                previous(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = f();
    QUIET.set(before);
    result
}
