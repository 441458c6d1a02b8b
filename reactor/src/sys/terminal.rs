//! [`RawMode`]: a terminal that gives its keys one by one, and what brings it back to its senses.
//!
//! A terminal belongs to the shell as well, which finds it as the program leaves it. So what has to be undone
//! stands in a process-wide table, where whatever ends the program finds it: a destructor, the panic hook,
//! `exit`, a signal.
//!
//! The invariant: signal handlers read the table without a lock. They count themselves in `USERS` before they
//! look; an entry is freed only after it was taken out and the count has been zero.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::panic;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::SeqCst};
use std::thread;

use libc::c_int;

use crate::sys::signal::{errno, set_errno};

/// How many terminals can be in raw mode at a time.
const MAX_TERMINALS: usize = 8;
/// What ends or stops a program for which it does nothing else.
const ENDING: [c_int; 5] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGABRT];
/// How long a terminal that takes no output is waited for.
const PATIENCE_MS: c_int = 200;

static TABLE: [AtomicPtr<Entry>; MAX_TERMINALS] = [const { AtomicPtr::new(ptr::null_mut()) }; MAX_TERMINALS];
/// Who looks at entries of the table now.
static USERS: AtomicUsize = AtomicUsize::new(0);
/// How many reasons there are for no terminal to be in raw mode now: a stop, a message of a panic, the end.
static SUSPENSIONS: AtomicUsize = AtomicUsize::new(0);

/// What a terminal tells of the mouse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MouseReports {
    /// Buttons and the wheel.
    Clicks,
    /// The same, and movements while a button is down.
    Drags,
    /// The same, and all other movements.
    Movements,
}

/// How many characters a terminal shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WindowSize {
    /// In a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// A terminal in raw mode: keys are not collected to lines, not shown and have no effect of their own. It
/// ends when this is dropped.
///
/// What else was switched on with it ([mouse reports](RawModeBuilder::mouse), the
/// [other screen](RawModeBuilder::alternate_screen), …) is switched off with it.
///
/// # When it is not dropped
///
/// The terminal is restored as well
///
/// * when the program ends with [`std::process::exit`], which drops nothing;
/// * when a thread panics, before the message is printed, so that it can be read. Where panics unwind, raw
///   mode then goes on until this is dropped: a program that catches the panic needs it. It should redraw its
///   screen;
/// * when it is ended by SIGHUP, SIGINT, SIGQUIT, SIGTERM or SIGABRT ([`std::process::abort`]), if these had
///   their default effect when the first terminal was set to raw mode. SIGTSTP, which stops the program
///   (Ctrl-Z, where [`keep_signals`](RawModeBuilder::keep_signals) leaves that key its meaning), restores it
///   until the program goes on. Hooks of [`on_signal`](crate::Handle::on_signal) come before all this.
///
/// Nothing helps against SIGKILL, SIGSTOP, a fault such as SIGSEGV, and `_exit`. The user's way out then is
/// to type `reset` and to press Ctrl-J.
///
/// ```no_run
/// use std::fs::File;
/// use std::io::{Read, stdin};
/// use std::os::fd::AsFd;
/// use twistor::{RawMode, Reactor};
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// let _raw = RawMode::enter()?;
/// // `stdin` itself would read ahead.
/// let mut keys = File::from(stdin().as_fd().try_clone_to_owned()?);
/// reactor.add_reader(&stdin(), move |reactor| {
///     let mut bytes = [0; 64];
///     let count = keys.read(&mut bytes).unwrap_or(0);
///     if count == 0 || bytes[..count].contains(&b'q') {
///         reactor.stop();
///     }
/// })?;
/// reactor.run()
/// # }
/// ```
///
/// The bytes that keys send are decoded by `KeyDecoder` in the crate `twistor-protocols`. The size of the
/// window changes with a signal, [`Signal::WINCH`](crate::Signal::WINCH): a hook of it asks for
/// [`size`](Self::size).
#[must_use = "raw mode ends when this is dropped"]
pub struct RawMode {
    place: usize,
    entry: *mut Entry,
}

// SAFETY: the entry is changed by nobody but through its atomics, system calls can be made from any thread,
// and it lives until this is dropped.
unsafe impl Send for RawMode {}
// SAFETY: as above.
unsafe impl Sync for RawMode {}

/// What raw mode is to be. See [`RawMode::builder`].
#[derive(Clone, Default, Debug)]
#[must_use = "a builder does nothing until `enter`"]
pub struct RawModeBuilder {
    keeps_signals: bool,
    /// What switches each on and off.
    switches: Vec<(&'static str, &'static str)>,
}

/// A terminal, and how it is and was.
struct Entry {
    terminal: OwnedFd,
    screen: OwnedFd,
    before: libc::termios,
    raw: libc::termios,
    on: Vec<u8>,
    off: Vec<u8>,
    /// Raw mode is asked for by its user.
    is_wanted: AtomicBool,
    /// Raw mode is in effect, or about to be.
    is_entered: AtomicBool,
    /// A forked child must not restore the terminal of its parent.
    process: libc::pid_t,
}

impl RawMode {
    /// Sets the terminal at standard input to raw mode.
    ///
    /// # Errors
    ///
    /// As [`RawModeBuilder::enter`].
    pub fn enter() -> io::Result<Self> {
        Self::builder().enter()
    }

    /// Raw mode with more than that.
    ///
    /// ```no_run
    /// use twistor::{MouseReports, RawMode};
    ///
    /// let raw = RawMode::builder().mouse(MouseReports::Clicks).alternate_screen().enter()?;
    /// let size = raw.size()?;
    /// print!("\x1b[{};1Hthe last line\r\n", size.rows);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn builder() -> RawModeBuilder {
        RawModeBuilder::default()
    }

    /// Puts the terminal back for a while: for another program, such as an editor.
    ///
    /// # Errors
    ///
    /// The terminal is gone.
    pub fn pause(&self) -> io::Result<()> {
        self.entry().leave()
    }

    /// Sets the terminal to raw mode again, also if something else than [`pause`](Self::pause) has ended it:
    /// a hook of SIGCONT, say, after a SIGSTOP.
    ///
    /// # Errors
    ///
    /// The terminal is gone.
    pub fn resume(&self) -> io::Result<()> {
        self.entry().enter()
    }

    /// Stops the program, as Ctrl-Z does with others, until the shell lets it go on. The terminal is as it
    /// was meanwhile.
    ///
    /// # Errors
    ///
    /// The terminal is gone.
    pub fn suspend(&self) -> io::Result<()> {
        self.pause()?;
        stop_process_group();
        self.resume()
    }

    /// The size of its window.
    ///
    /// # Errors
    ///
    /// The terminal is gone, or has no size.
    pub fn size(&self) -> io::Result<WindowSize> {
        let mut size = MaybeUninit::<libc::winsize>::zeroed();
        // SAFETY: the request fills in a winsize, for which there is room.
        let size = unsafe {
            check(libc::ioctl(self.entry().terminal.as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr()))?;
            size.assume_init()
        };
        Ok(WindowSize { columns: size.ws_col, rows: size.ws_row })
    }

    fn entry(&self) -> &Entry {
        // SAFETY: freed by `drop` alone.
        unsafe { &*self.entry }
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = self.entry().leave();
        TABLE[self.place].store(ptr::null_mut(), SeqCst);
        // A handler in another thread may have found the entry before.
        while USERS.load(SeqCst) > 0 {
            thread::yield_now();
        }
        // SAFETY: it came from a box, and nobody can find it any more.
        drop(unsafe { Box::from_raw(self.entry) });
    }
}

impl fmt::Debug for RawMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawMode").field("is_entered", &self.entry().is_entered.load(SeqCst)).finish()
    }
}

impl RawModeBuilder {
    /// Leaves Ctrl-C, Ctrl-\ and Ctrl-Z their effect, and the output its newlines (cbreak mode). Otherwise
    /// these are keys like any other, and a line has to end with `\r\n`.
    pub fn keep_signals(mut self) -> Self {
        self.keeps_signals = true;
        self
    }

    /// Has the terminal report the mouse, in the form of xterm's mode 1006.
    pub fn mouse(mut self, reports: MouseReports) -> Self {
        self.switches.push(match reports {
            MouseReports::Clicks => ("\x1b[?1000h\x1b[?1006h", "\x1b[?1006l\x1b[?1000l"),
            MouseReports::Drags => ("\x1b[?1002h\x1b[?1006h", "\x1b[?1006l\x1b[?1002l"),
            MouseReports::Movements => ("\x1b[?1003h\x1b[?1006h", "\x1b[?1006l\x1b[?1003l"),
        });
        self
    }

    /// Has the terminal mark what is pasted (mode 2004), so that it is not taken for typed.
    pub fn bracketed_paste(mut self) -> Self {
        self.switches.push(("\x1b[?2004h", "\x1b[?2004l"));
        self
    }

    /// Switches to the other screen (mode 1049), so that afterwards the first one is as it was.
    pub fn alternate_screen(mut self) -> Self {
        self.switches.push(("\x1b[?1049h", "\x1b[?1049l"));
        self
    }

    /// Hides the cursor.
    pub fn hide_cursor(mut self) -> Self {
        self.switches.push(("\x1b[?25l", "\x1b[?25h"));
        self
    }

    /// Sets the terminal at standard input to raw mode. Where standard output is something else, the rest is
    /// asked of that terminal, too.
    ///
    /// # Errors
    ///
    /// Standard input is no terminal, or eight are in raw mode already.
    pub fn enter(&self) -> io::Result<RawMode> {
        self.enter_on(&io::stdin(), &io::stdout())
    }

    /// The same, with the descriptors that keys are read from and that the screen is written to.
    ///
    /// # Errors
    ///
    /// `terminal` is none, or eight are in raw mode already.
    pub fn enter_on(&self, terminal: &impl AsFd, screen: &impl AsFd) -> io::Result<RawMode> {
        let terminal = terminal.as_fd();
        let before = attributes(terminal).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("no raw mode: this is no terminal: {error}"))
        })?;
        let screen = if attributes(screen.as_fd()).is_ok() { screen.as_fd() } else { terminal };
        let entry = Box::into_raw(Box::new(Entry {
            terminal: terminal.try_clone_to_owned()?,
            screen: screen.try_clone_to_owned()?,
            before,
            raw: self.made_raw(before),
            on: self.switches.iter().flat_map(|(on, _)| on.bytes()).collect(),
            off: self.switches.iter().rev().flat_map(|(_, off)| off.bytes()).collect(),
            is_wanted: AtomicBool::new(false),
            is_entered: AtomicBool::new(false),
            // SAFETY: no memory is touched.
            process: unsafe { libc::getpid() },
        }));
        let is_free =
            |place: &AtomicPtr<Entry>| place.compare_exchange(ptr::null_mut(), entry, SeqCst, SeqCst).is_ok();
        let Some(place) = TABLE.iter().position(is_free) else {
            // SAFETY: it came from a box, and nobody has seen it.
            drop(unsafe { Box::from_raw(entry) });
            let text = format!("no raw mode: {MAX_TERMINALS} terminals have it already");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
        };
        prepare_for_the_end();
        // Dropped, it undoes what a failure leaves.
        let raw = RawMode { place, entry };
        raw.entry().enter()?;
        Ok(raw)
    }

    fn made_raw(&self, mut modes: libc::termios) -> libc::termios {
        let (signals, output) = (modes.c_lflag & libc::ISIG, modes.c_oflag);
        // SAFETY: a termios that the system has filled in.
        unsafe { libc::cfmakeraw(&mut modes) };
        modes.c_cc[libc::VMIN] = 1;
        modes.c_cc[libc::VTIME] = 0;
        if self.keeps_signals {
            modes.c_lflag |= signals;
            modes.c_oflag = output;
        }
        modes
    }
}

impl Entry {
    fn enter(&self) -> io::Result<()> {
        self.is_wanted.store(true, SeqCst);
        self.apply()
    }

    fn leave(&self) -> io::Result<()> {
        self.is_wanted.store(false, SeqCst);
        self.apply()
    }

    fn is_due(&self) -> bool {
        self.is_wanted.load(SeqCst) && SUSPENSIONS.load(SeqCst) == 0
    }

    /// Makes the terminal what it is to be. Safe in a signal handler.
    ///
    /// Two threads, or a handler and what it interrupts, may do so at a time. Each looks again after it has
    /// set the modes, so the last one to set them leaves them right.
    fn apply(&self) -> io::Result<()> {
        let mut is_raw = self.is_due();
        // Raw mode is set also where it is in effect already: something else may have ended it.
        if !self.is_entered.swap(is_raw, SeqCst) && !is_raw {
            return Ok(());
        }
        loop {
            let result = if is_raw { self.set_raw() } else { self.set_back() };
            if self.is_due() == is_raw {
                return result;
            }
            is_raw = !is_raw;
            self.is_entered.store(is_raw, SeqCst);
        }
    }

    fn set_raw(&self) -> io::Result<()> {
        self.set(&self.raw)?;
        self.write(&self.on)
    }

    fn set_back(&self) -> io::Result<()> {
        let written = self.write(&self.off);
        // Reports that nobody has read would be typed into the shell.
        // SAFETY: no memory is touched.
        unsafe { libc::tcflush(self.terminal.as_raw_fd(), libc::TCIFLUSH) };
        self.set(&self.before)?;
        written
    }

    fn set(&self, modes: &libc::termios) -> io::Result<()> {
        // Not TCSADRAIN: a terminal whose output is held (Ctrl-S) would hold this, too.
        // SAFETY: a termios that was filled in.
        unsafe { check(libc::tcsetattr(self.terminal.as_raw_fd(), libc::TCSANOW, modes)) }
    }

    fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        let screen = self.screen.as_raw_fd();
        while !bytes.is_empty() {
            // SAFETY: as many readable bytes as it says.
            let count = unsafe { libc::write(screen, bytes.as_ptr().cast(), bytes.len()) };
            if let Ok(count) = usize::try_from(count) {
                bytes = &bytes[count.min(bytes.len())..];
                continue;
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                // Somebody made it non-blocking.
                io::ErrorKind::WouldBlock => {
                    let mut ready = libc::pollfd { fd: screen, events: libc::POLLOUT, revents: 0 };
                    // SAFETY: one pollfd.
                    if unsafe { libc::poll(&mut ready, 1, PATIENCE_MS) } <= 0 {
                        return Err(error);
                    }
                }
                _ => return Err(error),
            }
        }
        Ok(())
    }
}

fn attributes(terminal: BorrowedFd<'_>) -> io::Result<libc::termios> {
    let mut modes = MaybeUninit::uninit();
    // SAFETY: there is room for the answer, which is there if the call succeeds.
    unsafe {
        check(libc::tcgetattr(terminal.as_raw_fd(), modes.as_mut_ptr()))?;
        Ok(modes.assume_init())
    }
}

fn check(status: c_int) -> io::Result<()> {
    if status == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes all terminals of this process what they are to be, the last first: what was entered inside another
/// is left before it.
fn apply_all() {
    USERS.fetch_add(1, SeqCst);
    // SAFETY: no memory is touched.
    let process = unsafe { libc::getpid() };
    for place in TABLE.iter().rev() {
        // SAFETY: what is in the table is not freed while somebody is counted.
        if let Some(entry) = unsafe { place.load(SeqCst).as_ref() }
            && entry.process == process
        {
            // There is nobody to be told.
            let _ = entry.apply();
        }
    }
    USERS.fetch_sub(1, SeqCst);
}

/// Puts all terminals back. Safe in a signal handler.
fn suspend_all() {
    SUSPENSIONS.fetch_add(1, SeqCst);
    apply_all();
}

/// Undoes `suspend_all`. Safe in a signal handler.
fn resume_all() {
    SUSPENSIONS.fetch_sub(1, SeqCst);
    apply_all();
}

/// Has every end of the program put the terminals back. What is set up here stays, and does nothing where no
/// terminal is in raw mode.
fn prepare_for_the_end() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Setting the hook while panicking would panic; what is dropped then is restored all the same.
        if !thread::panicking() {
            let previous = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                suspend_all();
                previous(info);
                if !cfg!(panic = "abort") {
                    resume_all();
                }
            }));
        }
        // SAFETY: the function has the right type and stays.
        unsafe { libc::atexit(at_exit) };
        for signal in ENDING {
            replace_default(signal, on_ending);
        }
        replace_default(libc::SIGTSTP, on_stopping);
    });
}

extern "C" fn at_exit() {
    suspend_all();
}

/// Installs `handler` if the signal has its default effect.
fn replace_default(signal: c_int, handler: extern "C" fn(c_int)) {
    let mut current = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: there is room for the answer. The handlers make only calls that are safe in one.
    unsafe {
        if libc::sigaction(signal, ptr::null(), current.as_mut_ptr()) == 0
            && current.assume_init().sa_sigaction == libc::SIG_DFL
        {
            install(signal, handler as *const () as libc::sighandler_t);
        }
    }
}

/// Stops all of the process group, as the terminal does. Returns when this process goes on.
fn stop_process_group() {
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: initialised actions, room for the old one; nothing else is touched. What is sent to the group
    // may reach any thread of this process, and this one would run on for a while: here it is ignored. What
    // is raised has its effect before the call returns.
    unsafe {
        if libc::sigaction(libc::SIGTSTP, ptr::null(), before.as_mut_ptr()) == 0 {
            install(libc::SIGTSTP, libc::SIG_IGN);
            libc::kill(0, libc::SIGTSTP);
            libc::sigaction(libc::SIGTSTP, before.as_ptr(), ptr::null_mut());
        }
        libc::raise(libc::SIGTSTP);
    }
}

fn install(signal: c_int, handler: libc::sighandler_t) {
    // SAFETY: a sigaction of zeros is a valid one; the handler is one of ours, or the default.
    unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = handler;
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(signal, &action, ptr::null_mut());
    }
}

/// Puts the terminals back, and lets the signal have its effect.
extern "C" fn on_ending(signal: c_int) {
    suspend_all();
    install(signal, libc::SIG_DFL);
    // Delivered when this returns.
    // SAFETY: no memory is touched.
    unsafe { libc::raise(signal) };
}

/// Puts the terminals back, stops, and sets them to raw mode when the program goes on.
extern "C" fn on_stopping(signal: c_int) {
    let error = errno();
    suspend_all();
    install(signal, libc::SIG_DFL);
    // SAFETY: an initialised set, room for the old one; these calls are safe in a handler.
    unsafe {
        let (mut only, mut old) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        libc::sigemptyset(only.as_mut_ptr());
        libc::sigaddset(only.as_mut_ptr(), signal);
        libc::raise(signal);
        // Stopped here, until it goes on.
        libc::pthread_sigmask(libc::SIG_UNBLOCK, only.as_ptr(), old.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), ptr::null_mut());
    }
    install(signal, on_stopping as *const () as libc::sighandler_t);
    resume_all();
    set_errno(error);
}
