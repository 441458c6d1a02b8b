//! What a test can do with a process: limits, descriptors, processor time, other processes.
//!
//! Limits and descriptors belong to a whole process, so that most of this is for tests that run [in a
//! child](crate::in_child). A test may also start copies of itself in other [roles](role): as a peer that can
//! be stopped, or as a server that is watched from outside.

#![allow(unsafe_code, reason = "the standard library has no limits, signals and usage of processes")]

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use socket2::SockRef;

use crate::Driver;

const ROLE: &str = "TWISTOR_TEST_ROLE";

/// What this process was started for by a test; `None` in the process that runs all tests.
#[must_use]
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// A command that runs one test of this binary in another process. `module` is the `module_path!()` of a test
/// made by [`contract!`](crate::contract).
///
/// # Panics
///
/// The binary is not known.
#[must_use]
pub fn again(module: &str, driver: Driver, role: &str) -> Command {
    let name = module.split_once("::").map_or(module, |(_, name)| name);
    let mut command = Command::new(std::env::current_exe().expect("the test binary"));
    command
        .arg(format!("{name}::{}", driver.name()))
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .stdin(Stdio::null());
    command
}

/// Tells the parent a value; [`Listener::hear`] finds it between what else is printed.
pub fn say(name: &str, value: impl std::fmt::Display) {
    println!("\n@{name} {value}");
}

/// A child process whose words are heard. It is killed when dropped.
#[derive(Debug)]
pub struct Listener {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Listener {
    /// Starts it.
    ///
    /// # Panics
    ///
    /// It cannot be started.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a child process");
        let lines = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, lines }
    }

    /// Waits for a value that the child [says](say).
    ///
    /// # Panics
    ///
    /// It ends without saying it.
    pub fn hear(&mut self, name: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let length = self.lines.read_line(&mut line).expect("text");
            assert!(length > 0, "the child has ended and not told its {name}");
            let said = line.trim_end().strip_prefix('@').and_then(|line| line.strip_prefix(name));
            if let Some(value) = said.and_then(|value| value.strip_prefix(' ')) {
                return value.to_owned();
            }
        }
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// It is gone.
    pub fn signal(&self, signal: i32) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a process id");
        // SAFETY: kill touches no memory; the child is not reaped yet, so that the number is still its own.
        let status = unsafe { libc::kill(pid, signal) };
        assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
    }

    /// Waits for its end, which has to be a success.
    ///
    /// # Panics
    ///
    /// It is not.
    pub fn finish(mut self) {
        let status = self.child.wait().expect("a child");
        assert!(status.success(), "the child failed: {status}");
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many threads this process has.
///
/// # Panics
///
/// The system does not tell.
#[must_use]
pub fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("the system's list of threads").count()
}

/// How many descriptors this process has open.
///
/// # Panics
///
/// The system does not tell.
#[must_use]
pub fn open_descriptors() -> usize {
    // One of them is that of the directory itself.
    std::fs::read_dir("/proc/self/fd").expect("a list of descriptors").count() - 1
}

/// Lets only descriptors below `limit` be opened from now on; those above stay open. Returns the old limit.
///
/// # Panics
///
/// The system refuses.
pub fn limit_descriptors(limit: u64) -> u64 {
    let mut limits = descriptor_limits();
    let old = limits.rlim_cur;
    limits.rlim_cur = limit.min(limits.rlim_max);
    // SAFETY: the pointer is to a local that outlives the call.
    let status = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limits) };
    assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
    old
}

/// Allows as many descriptors as the system lets us. Returns that number.
///
/// # Panics
///
/// The system refuses.
pub fn allow_all_descriptors() -> usize {
    let most = descriptor_limits().rlim_max;
    limit_descriptors(most);
    usize::try_from(most).unwrap_or(usize::MAX)
}

fn descriptor_limits() -> libc::rlimit {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a local that outlives the call.
    let status = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limits) };
    assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
    limits
}

/// The number that the next descriptor gets.
///
/// # Panics
///
/// None can be opened.
#[must_use]
pub fn next_descriptor() -> u64 {
    let file = std::fs::File::open("/dev/null").expect("a descriptor");
    u64::try_from(file.as_raw_fd()).expect("a number")
}

/// An address of this machine that no other test uses. A port number there is not taken by another test in
/// the moment when it becomes free.
#[must_use]
pub fn own_address() -> Ipv4Addr {
    static COUNT: AtomicU8 = AtomicU8::new(0);
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    Ipv4Addr::new(127, 1 + high % 250, low, 1 + COUNT.fetch_add(1, Ordering::Relaxed) % 250)
}

/// The processor time that this process has used.
///
/// # Panics
///
/// The system does not tell.
#[must_use]
pub fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local that outlives the call.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("nanoseconds"))
}

/// Gives up root's rights, if this process has them.
///
/// # Panics
///
/// The system refuses.
pub fn become_ordinary() {
    const NOBODY: libc::uid_t = 65_534;
    // SAFETY: these calls touch no memory.
    let status = unsafe { if libc::geteuid() == 0 { libc::setuid(NOBODY) } else { 0 } };
    assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
}

/// A socket of this process that somebody else owns, to ask it about its options.
#[derive(Clone, Copy, Debug)]
pub struct Socket(BorrowedFd<'static>);

impl Socket {
    /// The one between these two addresses; `None` as the peer means the listener there.
    ///
    /// # Panics
    ///
    /// There is none.
    #[must_use]
    pub fn between(local: SocketAddr, peer: Option<SocketAddr>) -> Self {
        let found = Self::all().find(|socket| {
            let socket = socket.options();
            let of = |address: std::io::Result<socket2::SockAddr>| {
                address.ok().and_then(|address| address.as_socket()).map(unmapped)
            };
            let listens = socket.is_listener().unwrap_or(false);
            of(socket.local_addr()) == Some(local)
                && of(socket.peer_addr()) == peer
                && listens == peer.is_none()
        });
        found.unwrap_or_else(|| panic!("no socket at {local} with the peer {peer:?}"))
    }

    fn all() -> impl Iterator<Item = Self> {
        let names = std::fs::read_dir("/proc/self/fd").expect("a list of descriptors");
        let numbers = names.filter_map(|name| name.ok()?.file_name().to_str()?.parse().ok());
        // SAFETY: the descriptor is only asked for options, which at worst fails with EBADF.
        numbers.map(|number| Self(unsafe { BorrowedFd::borrow_raw(number) }))
    }

    /// Its options.
    #[must_use]
    pub fn options(&self) -> SockRef<'_> {
        SockRef::from(&self.0)
    }

    /// Whether it closes when another program is executed.
    #[must_use]
    pub fn is_close_on_exec(&self) -> bool {
        // SAFETY: F_GETFD takes no argument.
        unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_GETFD) & libc::FD_CLOEXEC != 0 }
    }

    /// Whether its calls do not block.
    #[must_use]
    pub fn is_non_blocking(&self) -> bool {
        // SAFETY: F_GETFL takes no argument.
        unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_GETFL) & libc::O_NONBLOCK != 0 }
    }

    /// A numeric option of TCP.
    ///
    /// # Panics
    ///
    /// The system does not tell.
    #[must_use]
    pub fn tcp_option(&self, name: i32) -> i32 {
        let mut value = 0_i32;
        self.ask(name, &mut value);
        value
    }

    /// How many connections may wait at this listener.
    #[must_use]
    pub fn backlog(&self) -> u32 {
        // SAFETY: a tcp_info of zeros is a valid one.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        self.ask(libc::TCP_INFO, &mut info);
        // For a listener Linux puts it here.
        info.tcpi_sacked
    }

    fn ask<T>(&self, name: i32, value: &mut T) {
        let mut length = libc::socklen_t::try_from(size_of::<T>()).expect("a small value");
        // SAFETY: both pointers are to locals, and `length` is the size of `value`; the callers ask for
        // options of plain numbers.
        let status = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::IPPROTO_TCP,
                name,
                std::ptr::from_mut(value).cast(),
                std::ptr::from_mut(&mut length),
            )
        };
        assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
    }
}

fn unmapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}
