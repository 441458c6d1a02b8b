//! A peer as a running process: started on a CPU of its own, watched through the kernel's accounts, and ended with
//! its owner.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::sys::{self, CpuClock};

/// Where servers run.
pub const SERVER_CPU: usize = 0;
/// Where the load generator runs.
pub const CLIENT_CPU: usize = 1;

/// How long a server may take to start (under valgrind too) or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    clock: CpuClock,
    /// Kept open: a server that prints later must not fail.
    _output: BufReader<ChildStdout>,
}

impl Server {
    /// Starts `command` and waits until it says where it listens.
    ///
    /// # Errors
    /// It cannot be started, or ends or stays silent instead.
    pub fn start(command: &[OsString]) -> io::Result<Self> {
        let [program, arguments @ ..] = command else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an empty command"));
        };
        let name = program.display();
        let mut command = Command::new(program);
        // A group of its own: under a tool, the server is a child of our child.
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        sys::prepare_child(&mut command, SERVER_CPU);
        let mut child = command
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("cannot start {name}: {error}")))?;
        match listening(&mut child) {
            Ok((address, output)) => {
                let clock = CpuClock::of(child.id())?;
                Ok(Self { child, address, clock, _output: output })
            }
            Err(error) => {
                end(&mut child)?;
                Err(io::Error::new(error.kind(), format!("{name}: {error}")))
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// CPU time it has used so far, user and system.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu(&self) -> io::Result<Duration> {
        self.clock.now()
    }

    /// Memory it has resident, in bytes.
    ///
    /// # Errors
    /// It has ended.
    pub fn resident(&self) -> io::Result<u64> {
        // Exact, where VmRSS of /proc/PID/status may lag behind by a batch of pages per CPU.
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        Ok(number_after(&text, "Rss:")? * 1024)
    }

    /// How often its threads have gone to sleep by themselves so far.
    ///
    /// # Errors
    /// It has ended.
    pub fn sleeps(&self) -> io::Result<u64> {
        let mut sum = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(thread?.path().join("status"))?;
            sum += number_after(&text, "voluntary_ctxt_switches:")?;
        }
        Ok(sum)
    }

    /// Asks it to end (SIGTERM), and waits until it has.
    ///
    /// # Errors
    /// It did not end and had to be killed, or failed instead of ending.
    pub fn stop(mut self) -> io::Result<()> {
        sys::terminate(self.child.id())?;
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the server did not end when asked"));
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        // Most peers leave the signal to the kernel; some handle it and end by themselves.
        if status.success() || status.signal() == Some(libc::SIGTERM) {
            return Ok(());
        }
        Err(io::Error::other(format!("when asked to end, the server failed: {status}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = end(&mut self.child);
    }
}

fn end(child: &mut Child) -> io::Result<()> {
    if child.try_wait()?.is_none() {
        sys::kill_group(child.id())?;
    }
    child.wait().map(drop)
}

fn listening(child: &mut Child) -> io::Result<(SocketAddr, BufReader<ChildStdout>)> {
    let output = child.stdout.take().ok_or_else(|| io::Error::other("has no standard output"))?;
    if !sys::wait_readable(output.as_fd(), PATIENCE)? {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "did not say where it listens"));
    }
    let mut output = BufReader::new(output);
    let mut line = String::new();
    output.read_line(&mut line)?;
    let address = line.trim_end().strip_prefix("listening on ").and_then(|text| text.parse().ok());
    let address =
        address.ok_or_else(|| io::Error::other(format!("said {line:?} instead of where it listens")))?;
    Ok((address, output))
}

fn number_after(text: &str, key: &str) -> io::Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| io::Error::other(format!("/proc does not tell {key}")))
}
