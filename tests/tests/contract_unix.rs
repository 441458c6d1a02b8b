//! The contract, section 10: Unix stream sockets.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{ErrorKind, IoSlice, Read, Write, pipe};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use twistor::endpoint::{UnixConnect, UnixListen};
use twistor::{ConnectError, ConnectErrorKind, Connection, Protocol, Reason, Transport, UnixAddress};
use twistor_tests::{Event, Log, Script, World, contract, in_child, kernel_contract, pattern, process};

/// A directory of its own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("twistor-unix-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("s")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An abstract name of its own.
fn a_name() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("twistor-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

type Outcome<P> = Rc<RefCell<Option<Result<Connection<P>, ConnectError>>>>;

fn connect<P: Protocol>(world: &World, endpoint: UnixConnect, protocol: P) -> Outcome<P> {
    let outcome = Rc::new(RefCell::new(None));
    let place = Rc::clone(&outcome);
    let mut protocol = Some(protocol);
    let connecting = world.reactor.connect(endpoint, move |_| protocol.take());
    connecting.on_done(move |_, result| *place.borrow_mut() = Some(result));
    outcome
}

fn connected<P: Protocol>(world: &World, endpoint: UnixConnect, protocol: P) -> Connection<P> {
    let outcome = connect(world, endpoint, protocol);
    world.until("it is connected", || outcome.borrow().is_some());
    outcome.take().expect("just seen").expect("a connection")
}

fn refused(world: &World, endpoint: UnixConnect) -> ConnectError {
    let outcome = connect(world, endpoint, Script::new(&Log::new()));
    world.until("the attempt has ended", || outcome.borrow().is_some());
    outcome.take().expect("just seen").expect_err("an error")
}

fn echo(log: &Log) -> impl FnMut(twistor::Peer) -> Script + use<> {
    let log = log.clone();
    move |_| Script::new(&log).on_data(Transport::write)
}

/// A protocol that keeps the descriptors that it is given, and writes down in which order things came.
struct Keeper {
    kept: Rc<RefCell<Vec<File>>>,
    log: Log,
}

impl Protocol for Keeper {
    fn descriptor_received(&mut self, _: &Transport, descriptor: OwnedFd) {
        self.log.push(Event::Data(b"[fd]".to_vec()));
        self.kept.borrow_mut().push(File::from(descriptor));
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.log.push(Event::Data(data.to_vec()));
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        self.log.push(Event::Lost(reason.to_string()));
    }
}

/// Sends bytes and descriptors from a plain socket.
fn pass(socket: &UnixStream, data: &[u8], descriptors: &[&dyn AsRawFd]) {
    let numbers: Vec<i32> = descriptors.iter().map(|one| one.as_raw_fd()).collect();
    let bytes = size_of_val(&numbers[..]) as u32;
    let part = [IoSlice::new(data)];
    // SAFETY: the message points to buffers that outlive the call; the control buffer has room for the
    // numbers.
    #[allow(unsafe_code)]
    unsafe {
        let mut control = vec![0_u64; libc::CMSG_SPACE(bytes) as usize / 8 + 1];
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = part.as_ptr() as *mut libc::iovec;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(bytes) as usize;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(bytes) as usize;
        std::ptr::copy_nonoverlapping(numbers.as_ptr(), libc::CMSG_DATA(header).cast(), numbers.len());
        assert_eq!(libc::sendmsg(socket.as_raw_fd(), &message, 0), data.len() as isize);
    }
}

contract! {
    // Line 62.
    fn a_client_and_a_server_meet_at_a_path(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (server, client) = (Log::new(), Log::new());
        let port = world.reactor.listen(UnixListen::new(directory.socket()), echo(&server)).expect("a port");
        assert_eq!(port.local_addr().to_string(), directory.socket().display().to_string());
        let connection = connected(&world, UnixConnect::new(directory.socket()), Script::new(&client));
        assert_eq!(connection.peer_addr(), port.local_addr());
        assert!(connection.local_addr().unix().is_some_and(UnixAddress::is_unnamed));
        let data = pattern(100_000);
        connection.write(&data);
        world.until("the echo came back", || client.data().len() == data.len());
        assert_eq!(client.data(), data);
        connection.lose_connection();
        world.until("both are lost", || client.lost().is_some() && server.lost().is_some());
        assert_eq!(server.lost(), Some(Reason::Closed.to_string()));
        assert_eq!(client.lost(), Some(Reason::Closed.to_string()));
    }

    // Line 62.
    fn an_abstract_name_is_an_address(driver) {
        let (world, name) = (World::new(driver), a_name());
        let (server, client) = (Log::new(), Log::new());
        let port = world.reactor.listen(format!("unix:@{name}"), echo(&server)).expect("a port");
        assert_eq!(port.local_addr().to_string(), format!("@{name}"));
        let connection = connected(&world, UnixConnect::abstract_name(&name), Script::new(&client));
        connection.write(b"hello");
        world.until("the echo came back", || client.data() == b"hello");
        let error = world.reactor.listen(format!("unix:@{name}"), echo(&server)).expect_err("in use");
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        drop(port.stop_listening());
        world.reactor.listen(format!("unix:@{name}"), echo(&server)).expect("free again");
    }

    // Lines 43, 62.
    fn a_live_socket_is_an_error_that_names_it(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let log = Log::new();
        let port = world.reactor.listen(UnixListen::new(directory.socket()), echo(&log)).expect("a port");
        let error = world.reactor.listen(UnixListen::new(directory.socket()), echo(&log)).expect_err("in use");
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        let start = format!("cannot listen on {}: ", directory.socket().display());
        assert!(error.to_string().starts_with(&start), "{error}");
        let client = connected(&world, UnixConnect::new(directory.socket()), Script::new(&Log::new()));
        assert!(!client.is_closing(), "the first one goes on");
        drop(port.stop_listening());
        world.reactor.listen(UnixListen::new(directory.socket()), echo(&log)).expect("free again");
    }

    // Lines 47, 62.
    fn a_path_nobody_listens_on_is_an_error_that_names_it(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let error = refused(&world, UnixConnect::new(directory.socket()));
        let path = directory.socket().display().to_string();
        let text = format!("cannot connect to {path}: there is no such socket file");
        assert_eq!(error.to_string(), text);
        let port =
            world.reactor.listen(UnixListen::new(directory.socket()), echo(&Log::new())).expect("a port");
        drop(port.stop_listening());
        assert_eq!(refused(&world, UnixConnect::new(directory.socket())).to_string(), text);
        let error = refused(&world, UnixConnect::abstract_name(a_name()));
        assert_eq!(error.kind(), ConnectErrorKind::Refused);
    }

    // Line 51.
    fn an_attempt_can_be_cancelled(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let server = Log::new();
        world.reactor.listen(UnixListen::new(directory.socket()), echo(&server)).expect("a port");
        let client = Log::new();
        let mut protocol = Some(Script::new(&client));
        let connecting =
            world.reactor.connect(UnixConnect::new(directory.socket()), move |_| protocol.take());
        let canceller = connecting.canceller();
        let kind = Rc::new(Cell::new(None));
        let place = Rc::clone(&kind);
        connecting.on_done(move |_, outcome| place.set(outcome.err().map(|error| error.kind())));
        canceller.cancel();
        world.until("it has ended", || kind.get().is_some());
        assert_eq!(kind.get(), Some(ConnectErrorKind::Cancelled));
        world.turns(3);
        assert_eq!(client.events(), []);
    }
}

kernel_contract! {
    // Line 62.
    fn the_file_has_the_mode_that_was_asked_for(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        for mode in [0o600, 0o660, 0o777] {
            let endpoint = UnixListen::new(directory.socket()).mode(mode);
            let port = world.reactor.listen(endpoint, echo(&Log::new())).expect("a port");
            let metadata = std::fs::metadata(directory.socket()).expect("the file");
            assert_eq!(metadata.permissions().mode() & 0o777, mode);
            drop(port.stop_listening());
        }
    }

    // Line 62.
    fn the_file_goes_with_the_port_and_with_the_reactor(driver) {
        let directory = Directory::new();
        let world = World::new(driver);
        let listen = |world: &World| {
            world.reactor.listen(UnixListen::new(directory.socket()), echo(&Log::new())).expect("a port")
        };
        let port = listen(&world);
        assert!(std::fs::metadata(directory.socket()).expect("a file").file_type().is_socket());
        drop(port.stop_listening());
        assert!(!directory.socket().exists());
        listen(&world);
        assert!(directory.socket().exists());
        drop(world);
        assert!(!directory.socket().exists());
    }

    // Line 62.
    fn a_file_that_is_not_ours_any_more_stays(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let endpoint = UnixListen::new(directory.socket());
        let port = world.reactor.listen(endpoint, echo(&Log::new())).expect("a port");
        std::fs::remove_file(directory.socket()).expect("removed");
        let _other = UnixListener::bind(directory.socket()).expect("another listener");
        drop(port.stop_listening());
        assert!(UnixStream::connect(directory.socket()).is_ok(), "the other one's file is there");
    }

    // Line 62.
    fn a_dead_socket_file_is_replaced(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        drop(UnixListener::bind(directory.socket()).expect("a listener"));
        assert!(directory.socket().exists(), "the standard library leaves it behind");
        let log = Log::new();
        world.reactor.listen(UnixListen::new(directory.socket()), echo(&log)).expect("a port");
        UnixStream::connect(directory.socket()).expect("connected").write_all(b"hello").expect("sent");
        world.until("it was received", || log.data() == b"hello");
    }

    // Line 62.
    fn what_is_no_socket_is_never_touched(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let endpoint = || UnixListen::new(directory.socket());
        std::fs::write(directory.socket(), "precious").expect("a file");
        let error = world.reactor.listen(endpoint(), echo(&Log::new())).expect_err("not a socket");
        assert!(error.to_string().ends_with("there is a file of that name, and it is not a socket"), "{error}");
        assert_eq!(std::fs::read_to_string(directory.socket()).expect("the file"), "precious");
        std::fs::remove_file(directory.socket()).expect("removed");
        std::fs::create_dir(directory.socket()).expect("a directory");
        assert!(world.reactor.listen(endpoint(), echo(&Log::new())).is_err());
        assert!(directory.socket().is_dir());
        std::fs::remove_dir(directory.socket()).expect("removed");
        // Neither is what a link points to.
        let target = directory.0.join("target");
        drop(UnixListener::bind(&target).expect("a listener"));
        std::os::unix::fs::symlink(&target, directory.socket()).expect("a link");
        assert!(world.reactor.listen(endpoint(), echo(&Log::new())).is_err());
        assert!(target.exists());
    }

    // Line 62.
    fn paths_that_are_too_long_or_strange_are_refused(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let listen = |path: &Path| {
            let error = world.reactor.listen(UnixListen::new(path), echo(&Log::new())).expect_err("an error");
            (error.kind(), error.to_string())
        };
        let long = directory.0.join("x".repeat(120));
        let (kind, text) = listen(&long);
        assert_eq!(kind, ErrorKind::InvalidInput);
        let length = long.as_os_str().len();
        assert!(text.ends_with(&format!("the path has {length} bytes; that of a Unix socket may have 107")), "{text}");
        assert_eq!(listen(Path::new("")).0, ErrorKind::InvalidInput);
        assert_eq!(listen(Path::new("/tmp/a\0b")).0, ErrorKind::InvalidInput);
        let (kind, text) = listen(&directory.0.join("missing/s"));
        assert_eq!(kind, ErrorKind::NotFound);
        assert!(text.ends_with("the directory does not exist"), "{text}");
        let fits = directory.0.join("x".repeat(107 - directory.0.as_os_str().len() - 1));
        world.reactor.listen(UnixListen::new(&fits), echo(&Log::new())).expect("just short enough");
        connected(&world, UnixConnect::new(&fits), Script::new(&Log::new()));
    }

    // Line 62: programs that start at once do not remove each other's sockets.
    fn of_many_that_start_at_once_exactly_one_listens(driver) {
        let directory = Directory::new();
        for _ in 0..20 {
            drop(UnixListener::bind(directory.socket()).expect("a dead socket"));
            let all_have_tried = Arc::new(Barrier::new(8));
            let starters: Vec<_> = (0..8)
                .map(|_| {
                    let (path, all_have_tried) = (directory.socket(), Arc::clone(&all_have_tried));
                    std::thread::spawn(move || {
                        let world = World::new(driver);
                        let port = world.reactor.listen(UnixListen::new(&path), echo(&Log::new()));
                        all_have_tried.wait();
                        let reached = port.is_ok().then(|| UnixStream::connect(&path).is_ok());
                        all_have_tried.wait();
                        reached
                    })
                })
                .collect();
            let reached: Vec<_> = starters.into_iter().map(|one| one.join().expect("no panic")).collect();
            assert_eq!(reached.iter().flatten().collect::<Vec<_>>(), [&true], "{reached:?}");
            let _ = std::fs::remove_file(directory.socket());
        }
    }

    // Line 62.
    fn the_kernel_vouches_for_the_peer(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let seen = Rc::new(Cell::new(None));
        let place = Rc::clone(&seen);
        let factory = move |_| {
            let place = Rc::clone(&place);
            Script::new(&Log::new()).on_made(move |transport| place.set(transport.peer_credentials().ok()))
        };
        world.reactor.listen(UnixListen::new(directory.socket()), factory).expect("a port");
        let client = connected(&world, UnixConnect::new(directory.socket()), Script::new(&Log::new()));
        world.until("it is accepted", || seen.get().is_some());
        // SAFETY: these calls cannot fail.
        #[allow(unsafe_code)]
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        for credentials in [seen.get().expect("just seen"), client.peer_credentials().expect("credentials")] {
            assert_eq!(credentials.pid, Some(std::process::id()));
            assert_eq!((credentials.uid, credentials.gid), (uid, gid));
        }
        let (transport, _peer) = world.pair(Script::new(&Log::new()));
        assert_eq!(transport.peer_credentials().expect_err("TCP").kind(), ErrorKind::Unsupported);
    }

    // Line 62.
    fn a_descriptor_comes_before_the_bytes_it_rode_on(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (kept, log) = (Rc::new(RefCell::new(Vec::new())), Log::new());
        let (files, told) = (Rc::clone(&kept), log.clone());
        let factory = move |_| Keeper { kept: Rc::clone(&files), log: told.clone() };
        world.reactor.listen(UnixListen::new(directory.socket()).descriptors(true), factory).expect("a port");
        let client = connected(&world, UnixConnect::new(directory.socket()), Script::new(&Log::new()));
        let (mut reader, writer) = pipe().expect("a pipe");
        client.write(b"before ");
        client.send_descriptor(writer, b"with").expect("queued");
        client.write(b" after");
        world.until("all was received", || log.data().ends_with(b" after"));
        let text = String::from_utf8(log.data()).expect("text");
        assert!(text == "before [fd]with after" || text == "[fd]before with after", "{text}");
        kept.borrow_mut().remove(0).write_all(b"through the descriptor").expect("written");
        let mut received = String::new();
        reader.read_to_string(&mut received).expect("read");
        assert_eq!(received, "through the descriptor");
    }

    // Line 62.
    fn several_descriptors_of_one_message_all_come(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (kept, log) = (Rc::new(RefCell::new(Vec::new())), Log::new());
        let (files, told) = (Rc::clone(&kept), log.clone());
        let factory = move |_| Keeper { kept: Rc::clone(&files), log: told.clone() };
        world.reactor.listen(UnixListen::new(directory.socket()).descriptors(true), factory).expect("a port");
        let client = UnixStream::connect(directory.socket()).expect("connected");
        let null = File::open("/dev/null").expect("a file");
        let ten: Vec<&dyn AsRawFd> = (0..10).map(|_| &null as &dyn AsRawFd).collect();
        pass(&client, b"x", &ten);
        pass(&client, b"y", &ten[..3]);
        world.until("all was received", || log.data().ends_with(b"y"));
        assert_eq!(kept.borrow().len(), 13);
        drop(client);
        world.until("it is lost", || log.lost().is_some());
    }

    // Line 62.
    fn descriptors_that_nobody_takes_are_closed(driver) {
        in_child(module_path!(), driver, || {
            let (world, directory) = (World::new(driver), Directory::new());
            let log = Log::new();
            // One listener that did not ask for any, and one whose protocol does not keep them.
            let (deaf, careless) = (directory.0.join("deaf"), directory.0.join("careless"));
            world.reactor.listen(UnixListen::new(&deaf), echo(&log)).expect("a port");
            let endpoint = UnixListen::new(&careless).descriptors(true);
            world.reactor.listen(endpoint, echo(&log)).expect("a port");
            let null = File::open("/dev/null").expect("a file");
            let clients = [&deaf, &careless].map(|path| UnixStream::connect(path).expect("connected"));
            world.until("both are accepted", || log.count(&Event::Made) == 2);
            let before = process::open_descriptors();
            for client in &clients {
                for _ in 0..50 {
                    pass(client, b"x", &[&null, &null]);
                }
            }
            world.until("all was received", || log.data().len() == 100);
            assert_eq!(process::open_descriptors(), before);
        });
    }

    // Line 62.
    fn descriptors_on_their_way_to_a_lost_connection_are_closed(driver) {
        in_child(module_path!(), driver, || {
            let (world, directory) = (World::new(driver), Directory::new());
            let log = Log::new();
            let told = log.clone();
            let factory = move |_| Script::new(&told).on_made(Transport::abort_connection);
            let endpoint = UnixListen::new(directory.socket()).descriptors(true);
            world.reactor.listen(endpoint, factory).expect("a port");
            let before = process::open_descriptors();
            let client = UnixStream::connect(directory.socket()).expect("connected");
            pass(&client, b"x", &[&client]);
            world.until("it is lost", || log.lost().is_some());
            drop(client);
            // And what we wanted to send, to a peer that is gone.
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            let lost = Log::new();
            let connection = world.reactor.adopt_connection(ours, Script::new(&lost)).expect("a connection");
            drop(theirs);
            connection.send_descriptor(File::open("/dev/null").expect("a file"), b"x").expect("queued");
            world.until("it is lost", || lost.lost().is_some());
            connection.send_descriptor(File::open("/dev/null").expect("a file"), b"x").expect("dropped");
            drop(connection);
            world.turns(2);
            assert_eq!(process::open_descriptors(), before);
        });
    }

    // Line 62.
    fn a_panic_in_the_hook_closes_the_descriptor(driver) {
        struct Panicking;
        impl Protocol for Panicking {
            fn descriptor_received(&mut self, _: &Transport, _: OwnedFd) {
                panic!("as intended");
            }
            fn data_received(&mut self, _: &Transport, _: &[u8]) {
                unreachable!("the connection is lost");
            }
        }
        in_child(module_path!(), driver, || {
            let (world, directory) = (World::new(driver), Directory::new());
            let endpoint = UnixListen::new(directory.socket()).descriptors(true);
            world.reactor.listen(endpoint, |_| Panicking).expect("a port");
            let before = process::open_descriptors();
            let client = UnixStream::connect(directory.socket()).expect("connected");
            pass(&client, b"x", &[&client, &client]);
            world.until("it is lost", || world.reactor.stats().lost == 1);
            drop(client);
            assert_eq!(process::open_descriptors(), before);
        });
    }

    // Line 62.
    fn only_unix_sockets_pass_descriptors(driver) {
        let world = World::new(driver);
        let (transport, _peer) = world.pair(Script::new(&Log::new()));
        let null = || File::open("/dev/null").expect("a file");
        let error = transport.send_descriptor(null(), b"x").expect_err("TCP");
        assert_eq!(error.to_string(), "only Unix sockets without TLS pass descriptors");
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let unix = world.reactor.adopt_connection(ours, Script::new(&Log::new())).expect("a connection");
        let error = unix.send_descriptor(null(), b"").expect_err("nothing to ride on");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }

    // Lines 29, 33.
    fn much_goes_through_a_unix_socket_either_way(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (server, client) = (Log::new(), Log::new());
        let endpoint = UnixListen::new(directory.socket()).descriptors(true);
        world.reactor.listen(endpoint, echo(&server)).expect("a port");
        let connection = connected(&world, UnixConnect::new(directory.socket()), Script::new(&client));
        let data = pattern(8 << 20);
        connection.write_bytes(data.clone());
        connection.lose_write_connection();
        world.until("the echo came back", || client.lost().is_some());
        assert_eq!(client.data(), data);
    }

    // Line 50.
    fn a_full_backlog_is_an_error_that_says_so(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).expect("one");
        socket.bind(&socket2::SockAddr::unix(directory.socket()).expect("an address")).expect("bound");
        socket.listen(0).expect("listening");
        let outcomes: Vec<_> = (0..3)
            .map(|_| connect(&world, UnixConnect::new(directory.socket()), Script::new(&Log::new())))
            .collect();
        world.until("all have ended", || outcomes.iter().all(|one| one.borrow().is_some()));
        let errors: Vec<String> = outcomes
            .iter()
            .filter_map(|one| one.borrow().as_ref()?.as_ref().err().map(ToString::to_string))
            .collect();
        assert!(!errors.is_empty());
        assert!(errors.iter().all(|text| text.contains("its backlog is full")), "{errors:?}");
    }

    // Line 46.
    fn a_unix_listener_survives_the_lack_of_descriptors(driver) {
        in_child(module_path!(), driver, || {
            let (world, directory) = (World::new(driver), Directory::new());
            let log = Log::new();
            world.reactor.listen(UnixListen::new(directory.socket()), echo(&log)).expect("a port");
            let clients: Vec<_> =
                (0..5).map(|_| UnixStream::connect(directory.socket()).expect("connected")).collect();
            let old = world.leave_descriptors(2);
            world.until("some were refused", || world.reactor.stats().accept_errors > 0);
            world.limit_descriptors(old);
            drop(clients);
            let mut late = UnixStream::connect(directory.socket()).expect("connected");
            late.write_all(b"late").expect("sent");
            world.until("it is served again", || log.data().ends_with(b"late"));
        });
    }

    // Line 62: what a killed process leaves behind does not stop the next one.
    fn what_a_killed_server_leaves_behind_does_not_stop_the_next(driver) {
        if let Some(path) = process::role() {
            let world = World::new(driver);
            world.reactor.listen(UnixListen::new(path), echo(&Log::new())).expect("a port");
            process::say("listens", "yes");
            world.run_for(twistor_tests::PATIENCE);
            return;
        }
        let (world, directory) = (World::new(driver), Directory::new());
        let path = directory.socket();
        for _ in 0..5 {
            let command = process::again(module_path!(), driver, &path.display().to_string());
            let mut server = process::Listener::start(command);
            server.hear("listens");
            assert!(world.reactor.listen(UnixListen::new(&path), echo(&Log::new())).is_err());
            server.signal(libc::SIGKILL);
            drop(server);
            assert!(path.exists());
            let port = world.reactor.listen(UnixListen::new(&path), echo(&Log::new())).expect("a port");
            // Left behind as it is by a kill.
            drop(port.stop_listening());
        }
    }
}

/// Keeps the helper of the control messages honest.
#[test]
fn descriptors_can_be_passed_by_hand() {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    pass(&ours, b"x", &[&ours]);
    // SAFETY: dup of an open descriptor, which is owned from then on.
    #[allow(unsafe_code)]
    let duplicate = unsafe { OwnedFd::from_raw_fd(libc::dup(theirs.as_raw_fd())) };
    let mut byte = [0];
    UnixStream::from(duplicate).read_exact(&mut byte).expect("received");
    assert_eq!(&byte, b"x");
}
