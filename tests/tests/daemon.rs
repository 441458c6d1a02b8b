//! Daemons, run as programs: this test binary starts copies of itself that serve, and talks to them as users,
//! service managers and administrators do.

#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr as UnixName, UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use log::LevelFilter;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use twistor::{Daemon, Deferred, ListenService, Log, Protocol, Reactor, ServiceFn, TimerService, Transport};
use twistor_tests::process::{again, own_address, role};
use twistor_tests::tls::{Authority, NAME};
use twistor_tests::{Driver, PATIENCE, kernel_contract};

// What the copies do.

/// Echoes; one word makes it hang.
struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        if data == b"hang\n" {
            thread::sleep(Duration::from_millis(1200));
        }
        transport.write(data);
    }
}

fn setting(name: &str) -> Option<String> {
    std::env::var(format!("DAEMON_{name}")).ok()
}

fn milliseconds(name: &str) -> Option<Duration> {
    setting(name).map(|text| Duration::from_millis(text.parse().expect("a number")))
}

/// Serves as the environment says; ends the process.
fn serve(driver: Driver) -> ! {
    if setting("LOGGER").is_some() {
        struct Own;
        impl log::Log for Own {
            fn enabled(&self, _: &log::Metadata<'_>) -> bool {
                true
            }
            fn log(&self, record: &log::Record<'_>) {
                eprintln!("own: {}", record.args());
            }
            fn flush(&self) {}
        }
        log::set_logger(&Own).expect("the first logger");
        log::set_max_level(LevelFilter::Info);
    }
    let mut daemon = Daemon::new("echo")
        .reactor(Reactor::builder().portable_polling(driver == Driver::Portable))
        .drain_timeout(milliseconds("DRAIN").unwrap_or(Duration::from_secs(10)))
        .listen_all(setting("LISTEN").unwrap_or_default().split_whitespace(), |_| Echo)
        .on_reload(|_| log::info!("reload hook"))
        .on_retired(|daemon| {
            assert!(daemon.is_retired());
            setting("RETIRED").map_or(Ok(()), |path| fs::write(path, std::process::id().to_string()))
        });
    if let Some(path) = setting("PIDFILE") {
        daemon = daemon.pidfile(path);
    }
    if let Some(path) = setting("LOG") {
        daemon = daemon.log(Log::file(path));
    }
    if let Some(user) = setting("USER") {
        daemon = daemon.user(user);
    }
    if let Some(group) = setting("GROUP") {
        daemon = daemon.group(group);
    }
    if let Some(mask) = setting("UMASK") {
        daemon = daemon.umask(u32::from_str_radix(&mask, 8).expect("octal"));
    }
    if let Some(directory) = setting("DIRECTORY") {
        daemon = daemon.working_directory(directory);
    }
    if let Some(timeout) = milliseconds("RETIRE") {
        daemon = daemon.retire_timeout(timeout);
    }
    if let Some(timeout) = milliseconds("RESTART") {
        daemon = daemon.restart_timeout(timeout);
    }
    if setting("JOURNAL").is_some() {
        daemon = daemon.log(Log::Journal);
    }
    // What a new version of the program does is said by a file.
    let next = setting("NEXT").and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    match &*next {
        "" => {}
        "setup fails" => daemon = daemon.setup(|_| Err(std::io::Error::other("a bad setup"))),
        "setup panics" => daemon = daemon.setup(|_| panic!("a bad setup")),
        "service fails" => {
            daemon = daemon
                .service(ServiceFn::new("first").on_stop(|_| log::info!("first stops")))
                .service(ServiceFn::new("second").on_start(|_| Err::<(), _>("no database")));
        }
        "hangs" => {
            daemon = daemon.service(ServiceFn::new("slow").on_start(|reactor| {
                let (resolver, never) = Deferred::<(), String>::new(reactor);
                std::mem::forget(resolver);
                log::info!("hanging, process {}", std::process::id());
                never
            }));
        }
        "dies" => std::process::abort(),
        "ticks" => {
            daemon = daemon.service(TimerService::new("ticks", Duration::from_millis(10), |_, _| {
                log::info!("tick of {}", std::process::id());
            }));
        }
        "listens" => {
            let endpoint = setting("MORE").expect("an endpoint");
            daemon = daemon.service(ListenService::new("more", &*endpoint, |_| Echo)).setup(move |daemon| {
                daemon.listen(&*format!("unix:{}", setting("SOCKET").expect("a path")), |_| Echo).map(drop)
            });
        }
        "reload panics" => daemon = daemon.on_reload(|_| -> () { panic!("a bad reload") }),
        "restarts itself" => {
            daemon = daemon.setup(|daemon| {
                let own = daemon.clone();
                daemon.call_later(Duration::from_millis(20), move |_| {
                    own.restart();
                    own.restart();
                });
                Ok(())
            });
        }
        other => panic!("{other}"),
    }
    match daemon.try_run() {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            let code = format!("{:?}", error.exit_code());
            let digits: String = code.chars().filter(char::is_ascii_digit).collect();
            std::process::exit(digits.parse().expect("a code"));
        }
    }
}

// What the tests do.

/// A place for the files of one test; gone afterwards, and with it every process that was started for it.
struct Place {
    path: PathBuf,
    started: std::cell::RefCell<BTreeSet<u32>>,
}

impl Place {
    fn new(name: &str, driver: Driver) -> Self {
        let name = format!("twistor-{}-{name}-{}", std::process::id(), driver.name());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a directory");
        Self { path, started: std::cell::RefCell::default() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    fn pid(&self) -> Option<u32> {
        self.read("pid").trim_end().parse().ok()
    }

    fn next(&self, what: &str) {
        fs::write(self.file("next"), what).expect("a file");
    }

    fn is_ours(&self, pid: u32) -> bool {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let name = self.path.to_str().expect("text").as_bytes();
        environment.windows(name.len()).any(|window| window == name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.started.borrow_mut().extend(self.pid());
        for pid in self.started.take() {
            if self.is_ours(pid) {
                kill(pid, libc::SIGKILL);
            }
        }
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[allow(unsafe_code, reason = "the standard library sends no signals")]
fn kill(pid: u32, signal: i32) {
    let pid = libc::pid_t::try_from(pid).expect("a process id");
    assert!(pid > 1);
    // SAFETY: kill touches no memory. The callers name processes that they have started.
    unsafe { libc::kill(pid, signal) };
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// A running daemon, with what it and its successors print.
struct Running<'p> {
    place: &'p Place,
    child: Child,
    lines: Receiver<String>,
}

impl<'p> Running<'p> {
    fn start(place: &'p Place, mut command: Command) -> Self {
        let mut child = command
            .env("DAEMON_PIDFILE", place.file("pid"))
            .env("DAEMON_NEXT", place.file("next"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the test binary");
        place.started.borrow_mut().insert(child.id());
        let (sender, lines) = channel();
        let errors = BufReader::new(child.stderr.take().expect("piped"));
        thread::spawn(move || {
            let _ = errors.lines().map_while(Result::ok).try_for_each(|line| sender.send(line));
        });
        Self { place, child, lines }
    }

    /// Reads up to a line with this text.
    fn until(&self, text: &str) -> String {
        self.until_one_of(&[text])
    }

    fn until_one_of(&self, texts: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some((_, pid)) = line.rsplit_once(", process ") {
                        self.place.started.borrow_mut().extend(pid.parse::<u32>());
                    }
                    if texts.iter().any(|text| line.contains(text)) {
                        return line;
                    }
                    seen += &line;
                    seen += "\n";
                }
                Err(RecvTimeoutError::Timeout) => panic!("there is no line with {texts:?}:\n{seen}"),
                Err(RecvTimeoutError::Disconnected) => panic!("ended without {texts:?}:\n{seen}"),
            }
        }
    }

    /// Waits until a process is ready; its number.
    fn ready(&self) -> u32 {
        pid_of(&self.until("ready, process "))
    }

    /// The address of the next port that it says it listens on.
    fn port(&self) -> SocketAddr {
        let line = self.until("listening on 127");
        line.rsplit_once(' ').and_then(|(_, address)| address.parse().ok()).expect("an address")
    }

    /// Waits for the end of the first process; its code.
    fn end(&mut self) -> i32 {
        self.child.wait().expect("a child").code().unwrap_or(-1)
    }

    fn signal(&self, signal: i32) {
        kill(self.child.id(), signal);
    }

    /// The rest of what is printed, after the last process has ended.
    fn rest(&self) -> String {
        let mut text = String::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            text += &line;
            text += "\n";
        }
        text
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pid_of(line: &str) -> u32 {
    line.rsplit_once(' ').and_then(|(_, pid)| pid.parse().ok()).expect("a process id")
}

fn any_port() -> String {
    "tcp:0:interface=127.0.0.1".to_owned()
}

fn command(module: &str, driver: Driver, listen: &str) -> Command {
    let mut command = again(module, driver, "daemon");
    command.env("DAEMON_LISTEN", listen);
    // The tests may themselves run under a service manager.
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM"] {
        command.env_remove(name);
    }
    command
}

fn echoes(mut stream: impl Read + Write, text: &[u8]) -> std::io::Result<()> {
    stream.write_all(text)?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer)?;
    if answer == text { Ok(()) } else { Err(std::io::Error::other("another text came back")) }
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Waits for something that only shows in the state of the system.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "still waiting: {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// Clients that never stop, and count what goes wrong.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<Vec<String>>>,
}

impl Load {
    fn new() -> Self {
        Self { stop: Arc::default(), done: Arc::default(), threads: Vec::new() }
    }

    fn add(&mut self, mut work: impl FnMut(u64) -> std::io::Result<()> + Send + 'static) {
        let (stop, done) = (Arc::clone(&self.stop), Arc::clone(&self.done));
        self.threads.push(thread::spawn(move || {
            let mut failures = Vec::new();
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) && failures.len() < 10 {
                number += 1;
                match work(number) {
                    Ok(()) => drop(done.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => failures.push(error.to_string()),
                }
            }
            failures
        }));
    }

    /// A connection for each message, ended in good order.
    fn add_short<S: Read + Write>(&mut self, connect: impl Fn() -> std::io::Result<S> + Send + 'static) {
        self.add(move |number| {
            let mut stream = connect()?;
            echoes(&mut stream, format!("message {number}\n").as_bytes())
        });
    }

    /// One connection for all messages.
    fn add_long(&mut self, address: SocketAddr) {
        let mut stream = connect(address).expect("a connection");
        self.add(move |number| {
            // Not all the processor's time is its own.
            thread::park_timeout(Duration::from_millis(1));
            echoes(&mut stream, format!("line {number}\n").as_bytes())
        });
    }

    fn finish(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.threads.into_iter().flat_map(|thread| thread.join().expect("a thread")).collect();
        (self.done.load(Ordering::Relaxed), failures)
    }
}

kernel_contract! {
    fn twenty_restarts_under_load_refuse_and_break_no_connection(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("restarts", driver);
        let socket = place.file("socket");
        let listen = format!("{} unix:{}", any_port(), socket.display());
        let mut first = Running::start(&place, command(module_path!(), driver, &listen));
        let address = first.port();
        let mut pid = first.ready();
        let mut load = Load::new();
        for _ in 0..2 {
            load.add_short(move || connect(address));
            let socket = socket.clone();
            load.add_short(move || UnixStream::connect(&socket));
        }
        for restart in 1..=20 {
            // Each process has a connection that goes on when it is not the one any more.
            load.add_long(address);
            let before = load.done.load(Ordering::Relaxed);
            kill(pid, libc::SIGUSR2);
            let next = first.ready();
            assert_ne!(next, pid);
            pid = next;
            assert_eq!(place.pid(), Some(pid), "restart {restart}");
            eventually("the load goes on", || load.done.load(Ordering::Relaxed) > before + 200);
        }
        let (done, failures) = load.finish();
        println!("{done} echoes during 20 restarts");
        assert_eq!(failures, [""; 0], "of {done}");
        assert_eq!(first.end(), 0);
        assert!(socket.exists());
        kill(pid, libc::SIGTERM);
        let rest = first.rest();
        assert!(rest.contains(&format!("ended, process {pid}")), "{rest}");
        assert!(!rest.contains("ERROR"), "{rest}");
        assert!(!socket.exists() && !place.file("pid").exists());
    }

    fn a_new_process_that_does_not_start_changes_nothing(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("failing", driver);
        let socket = place.file("socket");
        let listen = format!("{} unix:{}", any_port(), socket.display());
        let mut command = command(module_path!(), driver, &listen);
        command.env("DAEMON_RESTART", "3000");
        let mut daemon = Running::start(&place, command);
        let address = daemon.port();
        let pid = daemon.ready();
        let stream = connect(address).expect("a connection");
        for (next, why) in [
            ("setup fails", "it ended before it was ready"),
            ("setup panics", "it ended before it was ready"),
            ("service fails", "it ended before it was ready"),
            ("dies", "it ended before it was ready"),
            ("hangs", "it was not ready after 3s"),
        ] {
            place.next(next);
            daemon.signal(libc::SIGUSR2);
            let line = daemon.until("not restarted");
            assert!(line.contains(why), "{next}: {line}");
            assert_eq!(place.pid(), Some(pid), "{next}");
            echoes(&stream, b"as before").expect(next);
            echoes(connect(address).expect(next), b"as before").expect(next);
            echoes(UnixStream::connect(&socket).expect(next), b"as before").expect(next);
        }
        place.next("");
        daemon.signal(libc::SIGUSR2);
        let next = daemon.ready();
        echoes(connect(address).expect("a connection"), b"at last").expect("an echo");
        echoes(&stream, b"as before").expect("the old process serves its connection");
        drop(stream);
        assert_eq!(daemon.end(), 0);
        kill(next, libc::SIGTERM);
        daemon.until(&format!("ended, process {next}"));
        assert!(!socket.exists());
    }

    fn a_program_that_cannot_be_executed_any_more_goes_on(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("replaced", driver);
        let (program, version) = (place.file("program"), place.file("version-2"));
        let original = command(module_path!(), driver, &any_port());
        let link = |target: &std::path::Path| {
            let _ = fs::remove_file(&program);
            std::os::unix::fs::symlink(target, &program).expect("a link");
        };
        fs::copy(original.get_program(), &version).expect("a copy");
        link(original.get_program().as_ref());
        let mut called_by_link = Command::new(&program);
        called_by_link.args(original.get_args());
        for (name, value) in original.get_envs() {
            match value {
                Some(value) => called_by_link.env(name, value),
                None => called_by_link.env_remove(name),
            };
        }
        let daemon = Running::start(&place, called_by_link);
        let address = daemon.port();
        let pid = daemon.ready();
        fs::remove_file(&program).expect("removed");
        daemon.signal(libc::SIGUSR2);
        daemon.until("cannot restart");
        fs::write(&program, "no program").expect("written");
        daemon.signal(libc::SIGUSR2);
        daemon.until("cannot restart");
        // What is left to a shell.
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
        daemon.signal(libc::SIGUSR2);
        daemon.until_one_of(&["not restarted", "Text file busy"]);
        echoes(connect(address).expect("a connection"), b"still here").expect("an echo");
        // The link leads to a new version by now.
        link(&version);
        let next = loop {
            daemon.signal(libc::SIGUSR2);
            // Another thread's child may hold the file that was written, for a moment.
            let line = daemon.until_one_of(&["ready, process ", "Text file busy"]);
            if line.contains("ready") {
                break pid_of(&line);
            }
        };
        assert_ne!(next, pid);
        assert_eq!(fs::read_link(format!("/proc/{next}/exe")).expect("a link"), version);
        kill(next, libc::SIGTERM);
        daemon.until(&format!("ended, process {next}"));
    }

    fn a_storm_of_restarts_is_one_at_a_time(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("storm", driver);
        let daemon = Running::start(&place, command(module_path!(), driver, &format!("tcp:0:interface={}", own_address())));
        let address = daemon.port();
        let mut pid = daemon.ready();
        for _ in 0..5 {
            for _ in 0..50 {
                kill(pid, libc::SIGUSR2);
                thread::yield_now();
            }
            let next = daemon.ready();
            // Also one that has retired is asked again, and says no.
            kill(pid, libc::SIGUSR2);
            pid = next;
            echoes(connect(address).expect("a connection"), b"here").expect("an echo");
            assert_eq!(place.pid(), Some(pid));
        }
        kill(pid, libc::SIGTERM);
        daemon.until(&format!("ended, process {pid}"));
        assert!(connect(address).is_err(), "nobody is left behind");
    }

    fn only_one_process_works_after_a_restart_that_a_hook_asked_for(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("ticks", driver);
        place.next("restarts itself");
        let daemon = Running::start(&place, command(module_path!(), driver, &any_port()));
        let address = daemon.port();
        let pid = daemon.ready();
        let stream = connect(address).expect("a connection");
        echoes(&stream, b"served by the old one").expect("an echo");
        place.next("ticks");
        let next = daemon.ready();
        daemon.until(&format!("tick of {next}"));
        // The services of the old one stop, its connections do not.
        kill(next, libc::SIGUSR2);
        let last = daemon.ready();
        for _ in 0..20 {
            daemon.until(&format!("tick of {last}"));
        }
        assert_eq!(pid, daemon.child.id());
        echoes(&stream, b"served by the old one").expect("an echo");
        kill(last, libc::SIGTERM);
        let rest = { drop(stream); daemon.rest() };
        let after = rest.split_once(&format!("ended, process {last}")).expect("its end").1;
        assert!(!after.contains("tick of"), "{rest}");
    }

    // Line 11.
    fn a_process_that_has_taken_over_sleeps_and_has_nothing_open_that_is_not_its_own(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("sleeps", driver);
        let listen = format!("{} unix:{}", any_port(), place.file("socket").display());
        let mut daemon = Running::start(&place, command(module_path!(), driver, &listen));
        let mut pid = daemon.ready();
        let open = |pid: u32| fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").count();
        let first = open(pid);
        for _ in 0..5 {
            let old = pid;
            kill(pid, libc::SIGUSR2);
            pid = daemon.ready();
            eventually("the old one is gone", || !place.is_ours(old));
        }
        assert_eq!(daemon.end(), 0);
        eventually("the line to the old one is closed", || open(pid) == first);
        let time = || {
            let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("a time");
            text.split(' ').next().and_then(|time| time.parse::<u64>().ok()).expect("nanoseconds")
        };
        let before = time();
        thread::sleep(Duration::from_millis(100));
        let used = Duration::from_nanos(time() - before);
        assert!(used < Duration::from_millis(10), "{used:?} in 100 ms");
    }

    fn the_error_of_a_new_process_that_does_not_start_is_in_the_log(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("says-why", driver);
        let daemon = Running::start(&place, command(module_path!(), driver, &any_port()));
        let pid = daemon.ready();
        for _ in 0..5 {
            place.next("service fails");
            kill(pid, libc::SIGUSR2);
            daemon.until("first stops");
            daemon.until("echo: service \"second\" cannot start: no database");
            let line = daemon.until("not restarted");
            assert!(line.ends_with("it ended before it was ready (exit status: 69)"), "{line}");
        }
    }

    fn ports_of_services_and_hooks_are_inherited_and_those_not_wanted_are_closed(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("inherited", driver);
        let (more, socket) = (SocketAddr::from((own_address(), 7008)), place.file("socket"));
        let mut command = command(module_path!(), driver, &any_port());
        command.env("DAEMON_MORE", format!("tcp:7008:interface={}", more.ip())).env("DAEMON_SOCKET", &socket);
        place.next("listens");
        let daemon = Running::start(&place, command);
        let mut pid = daemon.ready();
        let mut load = Load::new();
        load.add_short(move || connect(more));
        let path = socket.clone();
        load.add_short(move || UnixStream::connect(&path));
        for _ in 0..5 {
            kill(pid, libc::SIGUSR2);
            pid = daemon.ready();
            let before = load.done.load(Ordering::Relaxed);
            eventually("the load goes on", || load.done.load(Ordering::Relaxed) > before + 50);
        }
        let (_, failures) = load.finish();
        assert_eq!(failures, [""; 0]);
        // The next version is without them.
        place.next("");
        kill(pid, libc::SIGUSR2);
        let next = daemon.ready();
        eventually("the old one is gone", || !place.is_ours(pid));
        assert!(connect(more).is_err());
        assert!(!socket.exists());
        kill(next, libc::SIGTERM);
        daemon.until(&format!("ended, process {next}"));
    }

    // Of systemd, whose part the test plays with a shell, which knows its own number.
    fn sockets_of_the_service_manager_are_inherited_at_a_restart(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("activated", driver);
        let listener = std::net::TcpListener::bind((own_address(), 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let original = command(module_path!(), driver, "systemd:index=0");
        let mut shell = Command::new("sh");
        shell.args(["-c", "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\" 3<&0 </dev/null"]);
        shell.arg(original.get_program()).args(original.get_args());
        for (name, value) in original.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell.stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
        let daemon = Running::start(&place, shell);
        let mut pid = daemon.ready();
        for _ in 0..3 {
            echoes(connect(address).expect("a connection"), b"activated").expect("an echo");
            kill(pid, libc::SIGUSR2);
            pid = daemon.ready();
        }
        echoes(connect(address).expect("a connection"), b"activated").expect("an echo");
        kill(pid, libc::SIGTERM);
        daemon.until(&format!("ended, process {pid}"));
    }

    fn a_retired_process_stops_at_its_deadline_although_connections_are_left(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("retire", driver);
        let mut command = command(module_path!(), driver, &any_port());
        command.env("DAEMON_RETIRE", "100").env("DAEMON_DRAIN", "100");
        command.env("DAEMON_RETIRED", place.file("retired"));
        let mut daemon = Running::start(&place, command);
        let address = daemon.port();
        daemon.ready();
        let mut stream = connect(address).expect("a connection");
        echoes(&stream, b"hello").expect("an echo");
        daemon.signal(libc::SIGUSR2);
        let next = daemon.ready();
        assert_eq!(daemon.end(), 0);
        assert_eq!(place.read("retired"), daemon.child.id().to_string(), "its hook was called");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert_eq!(rest, b"");
        assert_eq!(place.pid(), Some(next), "the pidfile is the new one's");
        kill(next, libc::SIGTERM);
        daemon.until(&format!("ended, process {next}"));
    }

    // Must hold: killing the program at any moment leaves nothing that stops the next start.
    fn a_program_that_is_killed_at_any_moment_starts_again(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("killed", driver);
        let socket = place.file("socket");
        let address = own_address();
        let listen = format!("tcp:7007:interface={address} unix:{}", socket.display());
        let address = SocketAddr::from((address, 7007));
        let mut random = 12345_u64;
        let mut refused = 0;
        for round in 0..40 {
            let mut daemon = Running::start(&place, command(module_path!(), driver, &listen));
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let moment = Duration::from_micros((random >> 33) % 12_000);
            if round % 2 == 0 {
                // While it starts.
                thread::sleep(moment);
                daemon.signal(libc::SIGKILL);
                daemon.end();
                continue;
            }
            // While it restarts; before that it had to start after being killed.
            let line = daemon.until_one_of(&["ready, process ", "running already"]);
            if line.contains("running already") {
                // Its heir had taken over when the last one was killed: it is the program, and is killed
                // next.
                refused += 1;
                let pid = place.pid().expect("a pid");
                assert!(place.is_ours(pid), "{line}");
                kill(pid, libc::SIGKILL);
                eventually("it is gone", || !place.is_ours(pid));
                continue;
            }
            assert_eq!(place.pid(), Some(daemon.child.id()));
            assert!(fs::symlink_metadata(&socket).expect("a file").file_type().is_socket());
            echoes(connect(address).expect("a connection"), b"started").expect("an echo");
            daemon.signal(libc::SIGUSR2);
            thread::sleep(moment);
            daemon.signal(libc::SIGKILL);
            daemon.end();
        }
        println!("{refused} of 20 kills came after the new process had taken over");
        if let Some(pid) = place.pid().filter(|pid| place.is_ours(*pid)) {
            kill(pid, libc::SIGKILL);
            eventually("it is gone", || !place.is_ours(pid));
        }
        let daemon = Running::start(&place, command(module_path!(), driver, &listen));
        let pid = daemon.ready();
        kill(pid, libc::SIGTERM);
        daemon.until("ended");
        assert!(!socket.exists() && !place.file("pid").exists());
    }

    fn a_new_process_ends_when_the_old_one_is_killed_before_it_is_ready(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("orphan", driver);
        let mut daemon = Running::start(&place, command(module_path!(), driver, &any_port()));
        daemon.ready();
        place.next("hangs");
        daemon.signal(libc::SIGUSR2);
        let heir = pid_of(&daemon.until("hanging"));
        daemon.signal(libc::SIGKILL);
        daemon.end();
        daemon.until("the process that was to hand over has ended");
        eventually("it is gone", || !place.is_ours(heir));
        place.next("");
        let again = Running::start(&place, command(module_path!(), driver, &any_port()));
        again.ready();
    }

    fn a_second_instance_is_told_who_the_first_is(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("second", driver);
        let first = Running::start(&place, command(module_path!(), driver, &any_port()));
        let pid = first.ready();
        let mut second = Running::start(&place, command(module_path!(), driver, &any_port()));
        let line = second.until("running already");
        let path = place.file("pid");
        assert!(
            line.ends_with(&format!("it is running already: process {pid} holds the pidfile {}", path.display())),
            "{line}"
        );
        assert_eq!(second.end(), 69);
        assert_eq!(place.pid(), Some(pid));
    }

    fn settings_that_make_no_sense_end_with_the_code_for_that(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("codes", driver);
        let code = |listen: &str, name: &str, value: &str, text: &str| {
            let mut command = command(module_path!(), driver, listen);
            let mut daemon = Running::start(&place, { command.env(name, value); command });
            daemon.until(text);
            daemon.end()
        };
        assert_eq!(code("tcp:80x", "X", "", "is not a number"), 78);
        assert_eq!(code(&any_port(), "DAEMON_USER", "no-such-user", "there is no user"), 78);
        assert_eq!(code(&any_port(), "DAEMON_DIRECTORY", "/no/such/place", "cannot work in"), 78);
        assert_eq!(code(&any_port(), "DAEMON_LOG", "/no/such/place/log", "cannot open the log file"), 69);
        place.next("service fails");
        assert_eq!(code(&any_port(), "X", "", "service \"second\" cannot start: no database"), 69);
        place.next("setup panics");
        assert_eq!(code(&any_port(), "X", "", "a setup hook panicked"), 69);
        assert!(!place.file("pid").exists());
    }

    fn the_service_manager_hears_how_things_stand(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("notify", driver);
        let name = format!("twistor-{}-{}", std::process::id(), driver.name());
        let abstract_name = UnixName::from_abstract_name(&name).expect("a name");
        let sockets = [
            (place.file("notify").to_str().expect("text").to_owned(), UnixDatagram::bind(place.file("notify"))),
            (format!("@{name}"), UnixDatagram::bind_addr(&abstract_name)),
        ];
        for (name, socket) in sockets {
            let socket = socket.expect("a socket");
            socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
            let hear = || {
                let mut buffer = [0; 500];
                let length = socket.recv(&mut buffer).expect("a message");
                String::from_utf8_lossy(&buffer[..length]).into_owned()
            };
            let mut command = command(module_path!(), driver, &any_port());
            let mut daemon = Running::start(&place, { command.env("NOTIFY_SOCKET", &name); command });
            let pid = daemon.ready();
            assert_eq!(hear(), "READY=1");
            kill(pid, libc::SIGHUP);
            let reloading = hear();
            let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("reloading");
            assert!(time.parse::<u64>().is_ok_and(|time| time > 0), "{time}");
            assert_eq!(hear(), "READY=1");
            place.next("setup fails");
            kill(pid, libc::SIGUSR2);
            assert_eq!(hear(), "STATUS=not restarted: it ended before it was ready");
            place.next("");
            kill(pid, libc::SIGUSR2);
            let next = daemon.ready();
            assert_eq!(hear(), format!("MAINPID={next}"));
            assert_eq!(hear(), "READY=1");
            assert_eq!(daemon.end(), 0);
            kill(next, libc::SIGTERM);
            assert_eq!(hear(), "STOPPING=1", "and nothing by the one that has retired");
            daemon.until(&format!("ended, process {next}"));
            socket.set_nonblocking(true).expect("a flag");
            assert!(socket.recv(&mut [0; 10]).is_err());
        }
    }

    fn signs_of_life_end_when_the_loop_hangs(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("watchdog", driver);
        let socket = UnixDatagram::bind(place.file("notify")).expect("a socket");
        let hear = |patience: Duration| {
            socket.set_read_timeout(Some(patience)).expect("a time-out");
            let mut buffer = [0; 500];
            let length = socket.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        let mut command = command(module_path!(), driver, &any_port());
        command.env("NOTIFY_SOCKET", place.file("notify")).env("WATCHDOG_USEC", "100000");
        let daemon = Running::start(&place, command);
        let address = daemon.port();
        daemon.ready();
        assert_eq!(hear(PATIENCE).as_deref(), Some("READY=1"));
        for _ in 0..3 {
            assert_eq!(hear(PATIENCE).as_deref(), Some("WATCHDOG=1"));
        }
        let mut stream = connect(address).expect("a connection");
        echoes(&stream, b"calm").expect("an echo");
        stream.write_all(b"hang\n").expect("sent");
        let begun = Instant::now();
        // Those that were on their way; then none until it is over.
        let mut silence = Duration::ZERO;
        while begun.elapsed() < Duration::from_millis(1200) {
            let before = Instant::now();
            hear(Duration::from_millis(1000));
            silence = silence.max(before.elapsed());
        }
        assert!(silence > Duration::from_millis(800), "{silence:?}");
        assert_eq!(hear(PATIENCE).as_deref(), Some("WATCHDOG=1"), "it lives again");
    }

    fn signs_of_life_for_another_process_are_not_sent(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("other-watchdog", driver);
        let socket = UnixDatagram::bind(place.file("notify")).expect("a socket");
        let mut command = command(module_path!(), driver, &any_port());
        command.env("NOTIFY_SOCKET", place.file("notify")).env("WATCHDOG_USEC", "2000").env("WATCHDOG_PID", "1");
        let mut daemon = Running::start(&place, command);
        daemon.ready();
        daemon.signal(libc::SIGTERM);
        daemon.end();
        socket.set_nonblocking(true).expect("a flag");
        let mut heard = Vec::new();
        let mut buffer = [0; 100];
        while let Ok(length) = socket.recv(&mut buffer) {
            heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        assert_eq!(heard, ["READY=1", "STOPPING=1"]);
    }

    fn root_gives_its_rights_up_for_good(driver) {
        if role().is_some() {
            serve(driver);
        }
        if !is_root() {
            println!("not run: it takes root to stop being root");
            return;
        }
        let place = Place::new("rights", driver);
        fs::set_permissions(&place.path, fs::Permissions::from_mode(0o777)).expect("a mode");
        let log = place.file("log");
        let mut command = command(module_path!(), driver, &any_port());
        command.env("DAEMON_USER", "nobody").env("DAEMON_LOG", &log);
        let daemon = Running::start(&place, command);
        eventually("it is ready", || place.read("log").contains("ready, process "));
        let of_status = |pid: u32, name: &str| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
            line.split_whitespace().map(|id| id.parse().expect("a number")).collect::<Vec<u32>>()
        };
        let pid = daemon.child.id();
        let nobody = fs::metadata(&log).expect("a log").uid();
        assert_ne!(nobody, 0);
        assert_eq!(of_status(pid, "Uid:"), [nobody; 4]);
        let groups = of_status(pid, "Gid:");
        assert!(groups.iter().all(|group| *group != 0), "{groups:?}");
        assert!(of_status(pid, "Groups:").iter().all(|group| *group != 0));
        for task in fs::read_dir(format!("/proc/{pid}/task")).expect("threads") {
            let status = fs::read_to_string(task.expect("a thread").path().join("status")).expect("a status");
            assert!(status.contains(&format!("Uid:\t{nobody}\t{nobody}\t{nobody}\t{nobody}")), "every thread");
        }
        // It can open its log again, and restart.
        fs::rename(&log, place.file("log.1")).expect("moved");
        kill(pid, libc::SIGHUP);
        eventually("it has a new log", || place.read("log").contains("reload hook"));
        kill(pid, libc::SIGUSR2);
        eventually("the new one is ready", || place.read("log").contains("ready, process "));
        let next = pid_of(place.read("log").lines().find(|line| line.contains("ready, process ")).expect("ready"));
        place.started.borrow_mut().insert(next);
        assert_eq!(of_status(next, "Uid:"), [nobody; 4]);
        assert_eq!(place.pid(), Some(next));
        kill(next, libc::SIGTERM);
        eventually("it has ended", || place.read("log").contains(&format!("ended, process {next}")));
        assert_eq!(place.pid(), None, "the pidfile is gone or empty");
    }

    fn who_is_not_root_cannot_become_somebody_else(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("no-rights", driver);
        fs::set_permissions(&place.path, fs::Permissions::from_mode(0o777)).expect("a mode");
        let mut command = command(module_path!(), driver, &any_port());
        if is_root() {
            use std::os::unix::process::CommandExt;
            command.uid(65_534).gid(65_534);
        }
        command.env("DAEMON_USER", "root");
        if is_root() && command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().is_err() {
            println!("not run: the test binary is not where everybody can run it");
            return;
        }
        let mut daemon = Running::start(&place, command);
        let line = daemon.until("cannot become user 0");
        assert!(line.ends_with("start it as root, or as that user"), "{line}");
        assert_eq!(daemon.end(), 77);
        assert!(!place.file("pid").exists());
    }

    fn certificates_are_read_again_and_a_restart_keeps_a_secure_port_secure(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("certificates", driver);
        let write = |authority: &Authority| {
            let identity = authority.issue(&[NAME], |_| {});
            fs::write(place.file("both.pem"), identity.chain_pem + &identity.key_pem).expect("written");
        };
        let secure = |authority: &Authority, address| -> std::io::Result<()> {
            let name = ServerName::try_from(NAME).expect("a name");
            let client = ClientConnection::new(Arc::new(authority.client_config()), name);
            let mut stream = StreamOwned::new(client.expect("a client"), connect(address)?);
            echoes(&mut stream, b"in secret")
        };
        let (first, second) = (Authority::new(), Authority::new());
        write(&first);
        let listen = format!("ssl:0:interface=127.0.0.1:certificate={}", place.file("both.pem").display());
        let mut daemon = Running::start(&place, command(module_path!(), driver, &listen));
        let address = daemon.port();
        let pid = daemon.ready();
        secure(&first, address).expect("an echo");
        write(&second);
        daemon.signal(libc::SIGHUP);
        daemon.until("the certificates were read again");
        secure(&second, address).expect("an echo");
        secure(&first, address).expect_err("another authority");
        fs::write(place.file("both.pem"), "nothing of use").expect("written");
        daemon.signal(libc::SIGHUP);
        daemon.until("the old certificates stay in use");
        secure(&second, address).expect("an echo");
        write(&first);
        daemon.signal(libc::SIGUSR2);
        let next = daemon.ready();
        assert_ne!(next, pid);
        assert_eq!(daemon.end(), 0);
        secure(&first, address).expect("an echo of the next process");
        echoes(connect(address).expect("a connection"), b"in the clear").expect_err("no plain port");
        kill(next, libc::SIGTERM);
        daemon.until(&format!("ended, process {next}"));
    }

    fn a_log_file_that_was_moved_away_is_opened_again(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("log", driver);
        let mut command = command(module_path!(), driver, &any_port());
        command.env("DAEMON_LOG", place.file("log"));
        let mut daemon = Running::start(&place, command);
        eventually("it is ready", || place.read("log").contains("ready, process "));
        fs::rename(place.file("log"), place.file("log.1")).expect("moved");
        daemon.signal(libc::SIGUSR1);
        eventually("the stats are in the old file", || place.read("log.1").contains("passes"));
        daemon.signal(libc::SIGHUP);
        eventually("the hook was called", || place.read("log").contains("reload hook"));
        daemon.signal(libc::SIGUSR1);
        eventually("the stats are in the new file", || place.read("log").contains("passes"));
        // A place where none can be opened: the last one is used.
        fs::rename(place.file("log"), place.file("log.2")).expect("moved");
        fs::create_dir(place.file("log")).expect("in the way");
        daemon.signal(libc::SIGHUP);
        eventually("it says so", || place.read("log.2").contains("the old one is used"));
        daemon.signal(libc::SIGTERM);
        assert_eq!(daemon.end(), 0);
        let log = place.read("log.2");
        let line = log.lines().find(|line| line.contains("ended, process")).expect("a last line");
        let (time, rest) = line.split_once(' ').expect("a time");
        assert!(time.len() == 24 && time.ends_with('Z') && rest.starts_with("INFO "), "{line}");
    }

    fn a_program_with_a_logger_of_its_own_keeps_it(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("logger", driver);
        let mut command = command(module_path!(), driver, &any_port());
        command.env("DAEMON_LOGGER", "1").env("DAEMON_LOG", place.file("log"));
        let mut daemon = Running::start(&place, command);
        daemon.until("own: echo: the program has set a logger of its own, which is used");
        daemon.until("own: echo: ready, process ");
        daemon.signal(libc::SIGTERM);
        assert_eq!(daemon.end(), 0);
        assert_eq!(place.read("log"), "");
    }

    fn lines_for_the_journal_begin_with_their_priority(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("journal", driver);
        let mut command = command(module_path!(), driver, &any_port());
        command.env("DAEMON_JOURNAL", "1");
        let mut daemon = Running::start(&place, command);
        let line = daemon.until("ready, process ");
        assert!(line.starts_with("<6>"), "{line}");
        place.next("dies");
        daemon.signal(libc::SIGUSR2);
        let line = daemon.until("not restarted");
        assert!(line.starts_with("<3>"), "{line}");
        daemon.signal(libc::SIGTERM);
        assert_eq!(daemon.end(), 0);
    }

    fn a_panic_in_a_reload_hook_ends_nothing(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("reload", driver);
        place.next("reload panics");
        let daemon = Running::start(&place, command(module_path!(), driver, &any_port()));
        let address = daemon.port();
        let pid = daemon.ready();
        for _ in 0..2 {
            kill(pid, libc::SIGHUP);
            daemon.until("reload hook");
            daemon.until("the reload hook failed: it panicked");
        }
        echoes(connect(address).expect("a connection"), b"here").expect("an echo");
    }

    fn a_drain_ends_at_its_deadline_and_a_second_signal_ends_it_at_once(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("drain", driver);
        for (drain, signals) in [("150", 1), ("60000", 2)] {
            let mut command = command(module_path!(), driver, &any_port());
            command.env("DAEMON_DRAIN", drain);
            let mut daemon = Running::start(&place, command);
            let address = daemon.port();
            daemon.ready();
            // It never ends its side, so that a polite close takes for ever.
            let mut stream = connect(address).expect("a connection");
            echoes(&stream, b"hello").expect("an echo");
            let begun = Instant::now();
            daemon.signal(libc::SIGTERM);
            daemon.until("stopping");
            assert_eq!(stream.read(&mut [0; 10]).expect("the end"), 0, "it is told to go");
            if signals == 2 {
                daemon.signal(libc::SIGTERM);
            } else {
                assert!(begun.elapsed() < PATIENCE);
            }
            assert_eq!(daemon.end(), 0);
            let took = begun.elapsed();
            assert!(took < Duration::from_secs(10), "{took:?}");
            assert!(signals == 2 || took >= Duration::from_millis(150), "{took:?}");
            assert!(!place.file("pid").exists());
        }
    }

    fn files_are_born_as_the_umask_says_in_the_working_directory(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("umask", driver);
        let mut command = command(module_path!(), driver, "unix:socket");
        command.env("DAEMON_UMASK", "077").env("DAEMON_DIRECTORY", &place.path).env("DAEMON_LOG", "log");
        let mut daemon = Running::start(&place, command);
        eventually("it is ready", || place.read("log").contains("ready, process "));
        let mode = |name: &str| fs::metadata(place.file(name)).expect("a file").mode() & 0o777;
        assert_eq!((mode("log"), mode("pid"), mode("socket")), (0o600, 0o600, 0o700));
        daemon.signal(libc::SIGUSR2);
        assert_eq!(daemon.end(), 0);
        let next = place.pid().expect("a pid");
        place.started.borrow_mut().insert(next);
        assert_ne!(next, daemon.child.id());
        eventually("it has taken over", || place.read("log").contains("has taken over\n"));
        echoes(UnixStream::connect(place.file("socket")).expect("a connection"), b"here").expect("an echo");
        kill(next, libc::SIGTERM);
        eventually("it has ended", || place.read("log").contains(&format!("ended, process {next}")));
        assert!(!place.file("socket").exists());
    }

    fn an_environment_that_lies_about_inherited_descriptors_is_not_believed(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("lies", driver);
        for lie in ["", "garbage", "3 1 1 control\n4 2 2 pidfile", "1 0 0 listener tcp 127.0.0.1:0", "\n\n -1 0 0 x"] {
            let mut command = command(module_path!(), driver, &any_port());
            let mut daemon = Running::start(&place, { command.env("TWISTOR_INHERITED", lie); command });
            let address = daemon.port();
            daemon.ready();
            echoes(connect(address).expect("a connection"), b"here").expect("an echo");
            daemon.signal(libc::SIGTERM);
            assert_eq!(daemon.end(), 0, "{lie:?}");
        }
    }

    fn a_restart_without_a_descriptor_left_is_an_error_and_no_end(driver) {
        if role().is_some() {
            serve(driver);
        }
        let place = Place::new("descriptors", driver);
        let daemon = Running::start(&place, command(module_path!(), driver, &any_port()));
        let address = daemon.port();
        let pid = daemon.ready();
        let stream = connect(address).expect("a connection");
        echoes(&stream, b"before").expect("an echo");
        limit_descriptors_of(pid, 3);
        kill(pid, libc::SIGUSR2);
        daemon.until("cannot restart");
        echoes(&stream, b"after").expect("an echo");
        limit_descriptors_of(pid, 1000);
        kill(pid, libc::SIGUSR2);
        assert_ne!(daemon.ready(), pid);
    }
}

#[allow(unsafe_code, reason = "the standard library sets no limits")]
fn limit_descriptors_of(pid: u32, limit: u64) {
    let limits = libc::rlimit { rlim_cur: limit, rlim_max: 1000 };
    let pid = libc::pid_t::try_from(pid).expect("a process id");
    // SAFETY: the pointer is to a local that outlives the call.
    let status = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limits, std::ptr::null_mut()) };
    assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
}
