//! SIGINT and SIGTERM stop a running reactor; a second one ends its drain.

use std::io;

use crate::reactor::inner::Inner;

#[cfg(unix)]
mod watching {
    use super::{Inner, io};
    use crate::reactor::shutdown::Stage;
    use crate::sys::signal::SignalWatch;

    /// The registration of a reactor with the process-wide signal table.
    pub(crate) type Watch = SignalWatch;

    impl Inner {
        pub(super) fn begin_watch(&self) -> io::Result<Watch> {
            let descriptor = self.driver.borrow_mut().signal_fd()?;
            SignalWatch::new(&[libc::SIGINT, libc::SIGTERM], descriptor)
        }

        /// Does what the signals since the last look ask for.
        pub(crate) fn look_for_signals(&self) {
            let caught = match &*self.signals.borrow() {
                Some(watch) => watch.take(),
                None => return,
            };
            if caught.is_empty() {
                return;
            }
            if self.stage() == Stage::Running {
                log::info!("stopping, because a signal asks for it");
                self.ask_to_stop();
            } else {
                log::info!("a second signal: not waiting for the connections any longer");
                self.hurry();
            }
        }
    }
}

#[cfg(not(unix))]
mod watching {
    use super::{Inner, io};

    /// There are no such signals here.
    #[derive(Debug)]
    pub(crate) struct Watch;

    impl Inner {
        pub(super) fn begin_watch(&self) -> io::Result<Watch> {
            Ok(Watch)
        }

        pub(crate) fn look_for_signals(&self) {}
    }
}

pub(crate) use watching::Watch;

/// Ends the watch when `run` returns.
pub(crate) struct Watching<'i>(&'i Inner);

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        let watch = self.0.signals.borrow_mut().take();
        drop(watch);
    }
}

impl Inner {
    /// Watches for signals while `run` runs, if that is wanted.
    pub(crate) fn watch_signals(&self, by_default: bool) -> io::Result<Option<Watching<'_>>> {
        if !self.config.signals.unwrap_or(by_default) || self.signals.borrow().is_some() {
            return Ok(None);
        }
        let watch = self.begin_watch()?;
        *self.signals.borrow_mut() = Some(watch);
        Ok(Some(Watching(self)))
    }

    /// Watches for signals from the first `turn` on, if the builder asked for it.
    pub(crate) fn keep_watching_signals(&self) -> io::Result<()> {
        if self.config.signals == Some(true) && self.signals.borrow().is_none() {
            let watch = self.begin_watch()?;
            *self.signals.borrow_mut() = Some(watch);
        }
        Ok(())
    }
}
