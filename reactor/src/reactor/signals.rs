//! Signals as the loop hears them: hooks for any of them, and SIGINT and SIGTERM that stop a running reactor,
//! the second one its drain.

use std::io;

use crate::reactor::inner::Inner;

#[cfg(unix)]
mod watching {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::fmt;
    use std::rc::Rc;

    use super::{Inner, io};
    use crate::core::slots::Token;
    use crate::reactor::handle::Handle;
    use crate::reactor::shutdown::Stage;
    use crate::reactor::watchdog::Hook;
    use crate::sys::signal::SignalWatch;

    /// What stops a running reactor, unless somebody has a hook for it.
    const STOPPING: [i32; 2] = [libc::SIGINT, libc::SIGTERM];

    type SignalFn = Rc<RefCell<dyn FnMut(&Handle)>>;

    /// A hook of a user's.
    struct Registered {
        number: u64,
        signal: i32,
        hook: SignalFn,
    }

    /// What the reactor watches for, and for whom.
    #[derive(Default)]
    pub(crate) struct Signals {
        /// Exists as long as a signal is watched.
        watch: Option<SignalWatch>,
        /// How often each signal is wanted.
        wanted: BTreeMap<i32, usize>,
        /// SIGINT and SIGTERM stop the reactor.
        stops: bool,
        hooks: Vec<Registered>,
        next_number: u64,
    }

    impl Inner {
        pub(crate) fn want_signal(&self, signal: i32) -> io::Result<()> {
            #[cfg(feature = "testing")]
            if self.driver.borrow().is_simulated() {
                // It comes from nowhere but `deliver_signal`.
                return crate::sys::signal::check(signal);
            }
            let mut signals = self.signals.borrow_mut();
            match &mut signals.watch {
                Some(watch) => watch.add(signal)?,
                none => {
                    let descriptor = self.driver.borrow_mut().signal_fd()?;
                    *none = Some(SignalWatch::new(&[signal], descriptor)?);
                }
            }
            *signals.wanted.entry(signal).or_default() += 1;
            Ok(())
        }

        pub(crate) fn unwant_signal(&self, signal: i32) {
            let mut signals = self.signals.borrow_mut();
            let Some(count) = signals.wanted.get_mut(&signal) else { return };
            *count -= 1;
            if *count > 0 {
                return;
            }
            signals.wanted.remove(&signal);
            if let Some(watch) = &mut signals.watch {
                watch.remove(signal);
                if watch.is_empty() {
                    signals.watch = None;
                }
            }
        }

        pub(super) fn stops_at_signals(&self) -> bool {
            self.signals.borrow().stops
        }

        pub(super) fn begin_stopping_at_signals(&self) -> io::Result<()> {
            self.want_signal(STOPPING[0])?;
            if let Err(error) = self.want_signal(STOPPING[1]) {
                self.unwant_signal(STOPPING[0]);
                return Err(error);
            }
            self.signals.borrow_mut().stops = true;
            Ok(())
        }

        pub(super) fn end_stopping_at_signals(&self) {
            self.signals.borrow_mut().stops = false;
            STOPPING.iter().for_each(|signal| self.unwant_signal(*signal));
        }

        /// Does what the signals since the last look ask for.
        pub(crate) fn look_for_signals(&self) {
            let (caught, stops) = {
                let signals = self.signals.borrow();
                let Some(watch) = &signals.watch else { return };
                (watch.take(), signals.stops)
            };
            for signal in caught {
                if signal == libc::SIGCHLD {
                    self.reap_children();
                }
                if !self.call_signal_hooks(signal) && stops && STOPPING.contains(&signal) {
                    self.stop_at_signal();
                }
            }
        }

        /// A simulated signal: it has the effect of a real one.
        #[cfg(feature = "testing")]
        pub(crate) fn deliver_signal(&self, signal: Signal) {
            if !self.call_signal_hooks(signal.0) && STOPPING.contains(&signal.0) {
                self.stop_at_signal();
            }
        }

        /// Calls the hooks of a signal; false if it has none.
        fn call_signal_hooks(&self, signal: i32) -> bool {
            let hooks: Vec<(u64, SignalFn)> = {
                let signals = self.signals.borrow();
                let of_it = signals.hooks.iter().filter(|registered| registered.signal == signal);
                of_it.map(|registered| (registered.number, Rc::clone(&registered.hook))).collect()
            };
            for (number, hook) in &hooks {
                let is_there = |signals: &Signals| signals.hooks.iter().any(|one| one.number == *number);
                if is_there(&self.signals.borrow()) {
                    let what = format_args!("a hook of {}", Signal(signal));
                    self.contain(what, || (hook.borrow_mut())(&self.handle));
                    self.hook_ran(Token::NOBODY, Hook::Callback);
                }
            }
            let any = !hooks.is_empty();
            self.discard(hooks);
            any
        }

        fn stop_at_signal(&self) {
            if self.stage() == Stage::Running {
                log::info!("stopping, because a signal asks for it");
                self.ask_to_stop();
            } else {
                log::info!("a second signal: not waiting for the connections any longer");
                self.hurry();
            }
        }
    }

    /// A signal of the operating system.
    ///
    /// ```
    /// use twistor::Signal;
    ///
    /// assert_eq!(Signal::HUP.to_string(), "SIGHUP");
    /// ```
    #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub struct Signal(i32);

    macro_rules! signals {
        ($($(#[$doc:meta])* $name:ident = $number:ident)*) => {
            impl Signal {
                $($(#[$doc])* pub const $name: Self = Self(libc::$number);)*
            }

            impl fmt::Display for Signal {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    match self.0 {
                        $(libc::$number => f.write_str(stringify!($number)),)*
                        number => write!(f, "signal {number}"),
                    }
                }
            }
        };
    }

    signals! {
        /// The terminal is gone, or, for daemons: read the configuration again.
        HUP = SIGHUP
        /// Ctrl-C.
        INT = SIGINT
        /// Ctrl-\.
        QUIT = SIGQUIT
        /// A write to a pipe that nobody reads.
        PIPE = SIGPIPE
        /// An alarm of the system's.
        ALRM = SIGALRM
        /// A polite request to end.
        TERM = SIGTERM
        /// For the program to define.
        USR1 = SIGUSR1
        /// For the program to define.
        USR2 = SIGUSR2
        /// A child has ended, or was stopped.
        CHLD = SIGCHLD
        /// Goes on after a stop.
        CONT = SIGCONT
        /// Ctrl-Z.
        TSTP = SIGTSTP
        /// The window of the terminal has changed its size.
        WINCH = SIGWINCH
        /// Cannot be caught: for sending only.
        KILL = SIGKILL
        /// Cannot be caught: for sending only.
        STOP = SIGSTOP
    }

    impl Signal {
        /// The signal of this number, which need not exist.
        #[must_use]
        pub const fn from_raw(number: i32) -> Self {
            Self(number)
        }

        /// Its number.
        #[must_use]
        pub const fn as_raw(self) -> i32 {
            self.0
        }
    }

    impl fmt::Debug for Signal {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            fmt::Display::fmt(self, f)
        }
    }

    /// A hook of a signal. Dropping it changes nothing.
    #[derive(Clone)]
    pub struct SignalHook {
        handle: Handle,
        signal: Signal,
        number: u64,
    }

    impl SignalHook {
        /// Takes the hook back. After the last one of a signal that has again the effect that it had before.
        /// False when it was taken back already.
        pub fn remove(&self) -> bool {
            let Some(inner) = self.handle.inner() else { return false };
            let removed = {
                let mut signals = inner.signals.borrow_mut();
                let place = signals.hooks.iter().position(|one| one.number == self.number);
                place.map(|place| signals.hooks.remove(place))
            };
            let Some(removed) = removed else { return false };
            inner.unwant_signal(removed.signal);
            inner.discard(removed.hook);
            true
        }

        /// The signal.
        #[must_use]
        pub fn signal(&self) -> Signal {
            self.signal
        }
    }

    impl fmt::Debug for SignalHook {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("SignalHook").field("signal", &self.signal).finish_non_exhaustive()
        }
    }

    impl Handle {
        /// Has the loop call `hook` after `signal` was delivered to the process: at least once after the last
        /// delivery, however often that was. The signal's usual effect ends with its first hook and comes
        /// back after its last.
        ///
        /// There may be several hooks, and several reactors that have some; each is called. A hook of SIGINT
        /// or SIGTERM takes the place of stopping: call [`stop`](Self::stop) in it.
        ///
        /// ```no_run
        /// use twistor::{Reactor, Signal};
        ///
        /// let reactor = Reactor::new()?;
        /// reactor.on_signal(Signal::HUP, |_| println!("reading the configuration again"))?;
        /// reactor.run()
        /// # ; Ok::<(), std::io::Error>(())
        /// ```
        ///
        /// # Errors
        ///
        /// The signal cannot be caught, or there is none of that number; or too many reactors of this process
        /// handle signals.
        pub fn on_signal(&self, signal: Signal, hook: impl FnMut(&Self) + 'static) -> io::Result<SignalHook> {
            let inner = self.alive()?;
            inner.want_signal(signal.0)?;
            let mut signals = inner.signals.borrow_mut();
            let number = signals.next_number;
            signals.next_number += 1;
            signals.hooks.push(Registered { number, signal: signal.0, hook: Rc::new(RefCell::new(hook)) });
            Ok(SignalHook { handle: self.clone(), signal, number })
        }
    }
}

#[cfg(not(unix))]
mod watching {
    use super::{Inner, io};

    /// There are no such signals here.
    #[derive(Debug, Default)]
    pub(crate) struct Signals {
        stops: bool,
    }

    impl Inner {
        pub(super) fn stops_at_signals(&self) -> bool {
            self.signals.borrow().stops
        }

        pub(super) fn begin_stopping_at_signals(&self) -> io::Result<()> {
            self.signals.borrow_mut().stops = true;
            Ok(())
        }

        pub(super) fn end_stopping_at_signals(&self) {
            self.signals.borrow_mut().stops = false;
        }

        pub(crate) fn look_for_signals(&self) {}
    }
}

pub(crate) use watching::Signals;
#[cfg(unix)]
pub use watching::{Signal, SignalHook};

/// Ends the watch when `run` returns.
pub(crate) struct Watching<'i>(&'i Inner);

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.0.end_stopping_at_signals();
    }
}

impl Inner {
    /// Watches for signals while `run` runs, if that is wanted.
    pub(crate) fn watch_signals(&self, by_default: bool) -> io::Result<Option<Watching<'_>>> {
        if !self.config.signals.unwrap_or(by_default) || self.stops_at_signals() {
            return Ok(None);
        }
        self.begin_stopping_at_signals()?;
        Ok(Some(Watching(self)))
    }

    /// Watches for signals from the first `turn` on, if the builder asked for it.
    pub(crate) fn keep_watching_signals(&self) -> io::Result<()> {
        if self.config.signals == Some(true) && !self.stops_at_signals() {
            self.begin_stopping_at_signals()?;
        }
        Ok(())
    }
}
