//! A terminal for programs under test, with the test in the place of the user.

#![allow(unsafe_code, reason = "the standard library knows no terminals")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::PATIENCE;

/// A pseudo-terminal.
#[derive(Debug)]
pub struct Pty {
    user: File,
    program: OwnedFd,
    /// What was shown and not looked at.
    shown: Vec<u8>,
}

/// How a terminal is set. Equal if nothing differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Modes {
    flags: [libc::tcflag_t; 4],
    characters: Vec<libc::cc_t>,
}

impl Modes {
    /// Whether keys come one by one and are not shown.
    #[must_use]
    pub fn are_raw(&self) -> bool {
        self.flags[3] & (libc::ICANON | libc::ECHO) == 0
    }

    /// Whether Ctrl-C interrupts.
    #[must_use]
    pub fn have_signals(&self) -> bool {
        self.flags[3] & libc::ISIG != 0
    }
}

/// Whose terminal it is for a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Session {
    /// It controls the program, which has a session of its own: Ctrl-C interrupts it, and it hears of a
    /// resize.
    Own,
    /// It is only read and written, and the program can be stopped as a job of the test.
    OfTheTest,
}

impl Pty {
    /// A new one of 80 columns and 24 rows.
    ///
    /// # Panics
    ///
    /// The system has none.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: the calls get a valid descriptor and room for a name; the descriptors are new and ours.
        let (user, program) = unsafe {
            let user = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
            assert!(user >= 0, "{}", std::io::Error::last_os_error());
            let mut name = [0; 128];
            assert_eq!(libc::grantpt(user), 0);
            assert_eq!(libc::unlockpt(user), 0);
            assert_eq!(libc::ptsname_r(user, name.as_mut_ptr(), name.len()), 0);
            let program = libc::open(name.as_ptr(), libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
            assert!(program >= 0, "{}", std::io::Error::last_os_error());
            (File::from_raw_fd(user), OwnedFd::from_raw_fd(program))
        };
        let pty = Self { user, program, shown: Vec::new() };
        pty.resize(80, 24);
        pty
    }

    /// The program's side.
    #[must_use]
    pub fn program(&self) -> &OwnedFd {
        &self.program
    }

    /// Starts a program with this as its input, output and errors, as far as `redirect` changes nothing.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub fn start(
        &self,
        mut command: Command,
        session: Session,
        redirect: impl FnOnce(&mut Command),
    ) -> Running {
        let side = || Stdio::from(self.program.try_clone().expect("a clone"));
        command.stdin(side()).stdout(side()).stderr(side());
        redirect(&mut command);
        // Whoever started the tests may ignore signals, as `nohup` does.
        let signals = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGTSTP];
        // SAFETY: only system calls.
        unsafe {
            command.pre_exec(move || {
                for signal in signals {
                    libc::signal(signal, libc::SIG_DFL);
                }
                Ok(())
            });
        }
        match session {
            Session::OfTheTest => {
                command.process_group(0);
            }
            Session::Own => {
                let program = self.program.as_raw_fd();
                // SAFETY: only system calls; the descriptor is open until `spawn` is over.
                unsafe {
                    command.pre_exec(move || {
                        if libc::setsid() == -1 || libc::ioctl(program, libc::TIOCSCTTY as _, 0) == -1 {
                            return Err(std::io::Error::last_os_error());
                        }
                        Ok(())
                    });
                }
            }
        }
        Running(command.spawn().expect("the program starts"))
    }

    /// Types something.
    ///
    /// # Panics
    ///
    /// The terminal is gone.
    pub fn press(&mut self, keys: impl AsRef<[u8]>) {
        self.user.write_all(keys.as_ref()).expect("a terminal");
    }

    /// Changes the size of the window.
    ///
    /// # Panics
    ///
    /// The terminal is gone.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the request reads a winsize.
        let status = unsafe { libc::ioctl(self.user.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
    }

    /// How it is set now.
    ///
    /// # Panics
    ///
    /// The terminal is gone.
    #[must_use]
    pub fn modes(&self) -> Modes {
        // SAFETY: a termios of zeros is a valid one, and there is room for the answer.
        let (status, modes) = unsafe {
            let mut modes: libc::termios = std::mem::zeroed();
            (libc::tcgetattr(self.program.as_fd().as_raw_fd(), &raw mut modes), modes)
        };
        assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
        let flags = [modes.c_iflag, modes.c_oflag, modes.c_cflag, modes.c_lflag];
        Modes { flags, characters: modes.c_cc.to_vec() }
    }

    /// Waits until the terminal is set so.
    ///
    /// # Panics
    ///
    /// It is not in time.
    pub fn until_modes(&self, what: &str, wanted: impl Fn(&Modes) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !wanted(&self.modes()) {
            assert!(Instant::now() < deadline, "still waiting: {what}: {:?}", self.modes());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What was shown up to this text, and the text.
    ///
    /// # Panics
    ///
    /// It is not shown in time.
    pub fn until(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let place = self.shown.windows(text.len()).position(|shown| shown == text.as_bytes());
            if let Some(place) = place {
                let seen: Vec<u8> = self.shown.drain(..place + text.len()).collect();
                return String::from_utf8_lossy(&seen).into_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.read(left) {
                panic!("{text:?} is not shown, but {:?}", String::from_utf8_lossy(&self.shown));
            }
        }
    }

    /// Whatever else is shown until now.
    pub fn rest(&mut self) -> String {
        while self.read(Duration::ZERO) {}
        String::from_utf8_lossy(&std::mem::take(&mut self.shown)).into_owned()
    }

    fn read(&mut self, wait: Duration) -> bool {
        let mut ready = libc::pollfd { fd: self.user.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let milliseconds = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one pollfd.
        if unsafe { libc::poll(&raw mut ready, 1, milliseconds) } <= 0 {
            return false;
        }
        let mut piece = [0; 4096];
        let count = self.user.read(&mut piece).expect("a terminal");
        self.shown.extend_from_slice(&piece[..count]);
        true
    }
}

impl Default for Pty {
    fn default() -> Self {
        Self::new()
    }
}

/// A program in a terminal. It is killed when dropped.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// The child itself.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// It is gone.
    pub fn signal(&self, signal: i32) {
        let pid = libc::pid_t::try_from(self.0.id()).expect("a process id");
        // SAFETY: kill touches no memory; the child is not reaped yet, so that the number is still its own.
        let status = unsafe { libc::kill(pid, signal) };
        assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
    }

    /// Waits until the system says so of its state: `T` is stopped.
    ///
    /// # Panics
    ///
    /// It does not come to that.
    pub fn until_state(&self, wanted: char) {
        let deadline = Instant::now() + PATIENCE;
        let state = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("a process");
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).expect("a state")
        };
        while state() != wanted {
            assert!(Instant::now() < deadline, "the program is not {wanted} but {}", state());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Its status, once it has ended.
    ///
    /// # Panics
    ///
    /// It does not end.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "the program does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
