//! Tests that need a process of their own: because they count its descriptors and threads, or change what
//! signals do to it.

use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::Driver;

/// Says to the test program that it is the child.
const CHILD: &str = "TWISTOR_TEST_CHILD";
/// A child that takes longer ends itself.
const LIFE: Duration = Duration::from_secs(300);

/// Runs `body` in a new process, in which it is the only test, and fails when that fails or is killed.
///
/// For use as the whole of a test made by [`contract!`](crate::contract): `module` is `module_path!()`.
///
/// ```text
/// fn a_signal_stops_the_reactor(driver) {
///     in_child(module_path!(), driver, || { … });
/// }
/// ```
///
/// # Panics
///
/// The child failed.
pub fn in_child(module: &str, driver: Driver, body: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        let (alive, watchdog) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            if watchdog.recv_timeout(LIFE) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("the child hangs");
                std::process::abort();
            }
        });
        body();
        drop(alive);
        return;
    }
    let (_, test) = module.split_once("::").expect("a module inside the test program");
    let output = Command::new(std::env::current_exe().expect("the test program"))
        .args([&*format!("{test}::{}", driver.name()), "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .env("TWISTOR_SEEDS", crate::this_seed())
        .stdin(Stdio::null())
        .output()
        .expect("the test program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "the child: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}
