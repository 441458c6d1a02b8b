//! What a test's thread logs as an error.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.level() == log::Level::Error {
            LINES.with_borrow_mut(|lines| lines.push(record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

/// Keeps what is logged from now on, for the thread that logs it.
///
/// # Panics
///
/// Somebody else has set a logger for this process.
pub fn keep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Logger).expect("the only logger");
        log::set_max_level(log::LevelFilter::Error);
    });
    LINES.take();
}

/// The errors that this thread has logged since it last asked.
#[must_use]
pub fn take() -> Vec<String> {
    LINES.take()
}
