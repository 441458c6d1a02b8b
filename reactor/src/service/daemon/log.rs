//! Where a daemon's log goes: [`Log`], and the small logger behind it.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Metadata, Record};

use crate::sys::log_file;
use crate::sys::privileges::Identity;

/// Where a daemon's log goes.
///
/// Lines look like `2026-03-01T09:30:00.250Z WARN echo::store: no space left`, with the place that logged it
/// (`log::Record::target`); for the journal, which has times of its own, like `<4>echo::store: no space
/// left`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Log {
    /// To the standard error. If that is the systemd journal, as the environment variable `JOURNAL_STREAM`
    /// says, lines begin with their priority (see `sd-daemon(3)`), so that the journal knows what is an
    /// error.
    #[default]
    Stderr,
    /// Appended to a file, which is opened again at SIGHUP and at
    /// [`DaemonHandle::reload`](crate::DaemonHandle::reload): so it can be moved away, as `logrotate` does.
    ///
    /// Where root opens it for [`Daemon::user`](crate::Daemon::user) it is given to that user, and a symbolic
    /// link is followed only if nobody but root can have made it.
    File(PathBuf),
    /// To the standard error, always with priorities.
    Journal,
}

impl Log {
    /// A log in a file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File(path.into())
    }
}

/// The logger of a daemon. The log crate keeps one share, the daemon the other, to open the file again.
pub(crate) struct Logger {
    level: LevelFilter,
    target: Target,
    owner: Option<Identity>,
}

enum Target {
    Stderr,
    Journal,
    File(PathBuf, Mutex<File>),
}

struct Shared(Arc<Logger>);

impl Logger {
    /// Opens the log. A file is given to `owner`, who has to be able to open it again.
    pub(crate) fn open(log: &Log, level: LevelFilter, owner: Option<Identity>) -> io::Result<Arc<Self>> {
        let target = match log {
            Log::Stderr if stderr_is_the_journal() => Target::Journal,
            Log::Stderr => Target::Stderr,
            Log::Journal => Target::Journal,
            Log::File(path) => Target::File(path.clone(), Mutex::new(open(path, owner.as_ref())?)),
        };
        Ok(Arc::new(Self { level, target, owner }))
    }

    /// Has the log crate use it; false if the program has another logger already.
    pub(crate) fn install(self: &Arc<Self>) -> bool {
        let installed = log::set_boxed_logger(Box::new(Shared(Arc::clone(self)))).is_ok();
        if installed {
            log::set_max_level(self.level);
        }
        installed
    }

    /// Whether what it logs is not seen on the standard error.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.target, Target::File(..))
    }

    /// Opens the file again. If that fails the old one goes on.
    pub(crate) fn reopen(&self) -> io::Result<()> {
        if let Target::File(path, file) = &self.target {
            let new = open(path, self.owner.as_ref())?;
            *file.lock().unwrap_or_else(PoisonError::into_inner) = new;
        }
        Ok(())
    }

    fn write(&self, record: &Record<'_>) {
        match &self.target {
            Target::Stderr => print(&line(record, SystemTime::now())),
            Target::Journal => print(&journal_lines(record)),
            Target::File(_, file) => {
                let text = line(record, SystemTime::now());
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                // In one piece, so that lines of two processes stay whole. There is nobody to tell of an
                // error.
                let _ = file.write_all(text.as_bytes());
            }
        }
    }
}

impl log::Log for Shared {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.0.level
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.write(record);
        }
    }

    fn flush(&self) {}
}

fn print(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

fn open(path: &Path, owner: Option<&Identity>) -> io::Result<File> {
    let fail = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot open the log file {}: {error}", path.display()))
    };
    log_file::open(path, owner).map_err(fail)
}

fn line(record: &Record<'_>, now: SystemTime) -> String {
    let time = Utc(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    format!("{time} {} {}: {}\n", record.level(), record.target(), record.args())
}

/// Each line of the message gets the priority: the journal takes lines, not messages.
fn journal_lines(record: &Record<'_>) -> String {
    let priority = match record.level() {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    let message = format!("{}: {}", record.target(), record.args());
    message.lines().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "<{priority}>{line}");
        text
    })
}

/// Whether what is written to the standard error goes to the journal: `systemd.exec(5)`, `JOURNAL_STREAM`.
fn stderr_is_the_journal() -> bool {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Some((device, inode)) = stream.split_once(':') else { return false };
    let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() else { return false };
    File::from(stderr)
        .metadata()
        .is_ok_and(|metadata| device.parse() == Ok(metadata.dev()) && inode.parse() == Ok(metadata.ino()))
}

/// A time since 1970, shown as RFC 3339 has it, with milliseconds.
struct Utc(Duration);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        // Years that begin in March end with the odd day; 400 of them are an era of 146 097 days.
        let days = days + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
        let milliseconds = self.0.subsec_millis();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let text = |seconds| Utc(Duration::from_secs(seconds)).to_string();
        assert_eq!(text(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(text(951_782_399), "2000-02-28T23:59:59.000Z");
        assert_eq!(text(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(text(951_868_800), "2000-03-01T00:00:00.000Z");
        assert_eq!(text(1_772_357_400), "2026-03-01T09:30:00.000Z");
        assert_eq!(text(4_107_542_400), "2100-03-01T00:00:00.000Z");
        assert_eq!(Utc(Duration::from_millis(1)).to_string(), "1970-01-01T00:00:00.001Z");
    }

    #[test]
    fn every_line_for_the_journal_has_its_priority() {
        let record = |level| {
            let arguments = format_args!("one\ntwo");
            journal_lines(&Record::builder().level(level).target("echo").args(arguments).build())
        };
        assert_eq!(record(Level::Error), "<3>echo: one\n<3>two\n");
        assert_eq!(record(Level::Info), "<6>echo: one\n<6>two\n");
    }
}
