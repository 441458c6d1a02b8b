//! Endpoints that are there already (inherited descriptors, the service manager's, the standard streams), and
//! kinds that a program adds.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use twistor::endpoint::Arguments;
use twistor::{AnyFactory, Canceller, ConnectErrorKind, Deferred, Handle, Protocol, Transport};
use twistor_tests::{Event, Log, PATIENCE, Script, World, contract, in_child, kernel_contract, process};

fn echo(log: &Log) -> impl FnMut(twistor::Peer) -> Script + use<> {
    let log = log.clone();
    move |_| Script::new(&log).on_data(Transport::write)
}

/// Has the command inherit a descriptor as number 3, as a service manager would pass it.
fn pass(command: &mut Command, descriptor: impl Into<OwnedFd>) {
    let descriptor = descriptor.into();
    // SAFETY: dup2 and fcntl may be called between fork and exec.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || {
            let done = if descriptor.as_raw_fd() == 3 {
                libc::fcntl(3, libc::F_SETFD, 0)
            } else {
                libc::dup2(descriptor.as_raw_fd(), 3)
            };
            if done < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        });
    }
}

/// Listens at the endpoint that the role names, and echoes until its peers are done.
fn serve(world: &World, endpoint: &str) {
    let log = Log::new();
    match world.reactor.listen(endpoint, echo(&log)) {
        Ok(port) => process::say("listens", port.local_addr()),
        Err(error) => return process::say("failed", error),
    }
    world.until("the connection came and went", || log.lost().is_some());
}

/// Ends a child at the latest with the test.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Exchanges bytes with an echo server.
fn assert_echoes(mut stream: impl Read + Write) {
    stream.write_all(b"hello").expect("sent");
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).expect("the echo");
    assert_eq!(&answer, b"hello");
}

kernel_contract! {
    // Line 49.
    fn an_inherited_socket_is_listened_on_by_its_number(driver) {
        if let Some(endpoint) = process::role() {
            return serve(&World::new(driver), &endpoint);
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut command = process::again(module_path!(), driver, "fd:3");
        pass(&mut command, listener);
        let mut server = process::Listener::start(command);
        assert_eq!(server.hear("listens"), address.to_string());
        assert_echoes(TcpStream::connect(address).expect("connected"));
        server.finish();
    }

    // Line 49.
    fn a_socket_of_the_service_manager_is_found_by_name_and_by_index(driver) {
        if let Some(endpoint) = process::role() {
            // The number that its environment names is that of the shell that became this process.
            return serve(&World::new(driver), &endpoint);
        }
        for endpoint in ["systemd:name=http", "systemd:index=0", "systemd:"] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("an address");
            let test = process::again(module_path!(), driver, endpoint);
            // Only a shell can set LISTEN_PID to the number of the process that it turns into.
            let mut command = Command::new("sh");
            command.args(["-c", r#"export LISTEN_PID=$$; exec "$0" "$@""#]).arg(test.get_program()).args(test.get_args());
            for (name, value) in test.get_envs() {
                command.env(name, value.expect("a value"));
            }
            command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "http");
            pass(&mut command, listener);
            let mut server = process::Listener::start(command);
            assert_eq!(server.hear("listens"), address.to_string());
            assert_echoes(TcpStream::connect(address).expect("connected"));
            server.finish();
        }
    }

    // Line 49.
    fn what_was_not_passed_is_a_clear_error(driver) {
        if let Some(endpoint) = process::role() {
            return serve(&World::new(driver), &endpoint);
        }
        let failure = |endpoint: &str, set: &dyn Fn(&mut Command)| {
            let mut command = process::again(module_path!(), driver, endpoint);
            set(&mut command);
            let mut server = process::Listener::start(command);
            let text = server.hear("failed");
            server.finish();
            text
        };
        assert_eq!(failure("fd:99", &|_| {}), "cannot listen on fd 99: fd 99 is not open");
        let text = failure("fd:3", &|command| {
            let (ours, _theirs) = UnixStream::pair().expect("a pair");
            pass(command, ours);
        });
        assert_eq!(
            text,
            "cannot listen on fd 3: the descriptor is not a listening socket: it is a socket on which nobody listens"
        );
        assert_eq!(
            failure("systemd:", &|command| {
                command.env_remove("LISTEN_FDS").env_remove("LISTEN_PID");
            }),
            "cannot listen on systemd's socket 0: the service manager passed no sockets (LISTEN_FDS is not set)"
        );
        assert_eq!(
            failure("systemd:name=http", &|command| {
                command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
            }),
            "cannot listen on systemd's socket \"http\": the sockets of the service manager are for another process \
             (LISTEN_PID)"
        );
    }

    // Line 49: what this program opened itself is not taken from its owner.
    fn a_descriptor_of_the_program_itself_is_refused(driver) {
        let world = World::new(driver);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("fd:{}", listener.as_raw_fd());
        let error = world.reactor.listen(endpoint, echo(&Log::new())).expect_err("an error");
        assert!(error.to_string().contains("was not inherited"), "{error}");
        assert!(listener.local_addr().is_ok());
    }

    // Lines 18, 25, 37.
    fn the_standard_streams_are_a_connection(driver) {
        if let Some(role) = process::role() {
            let world = World::new(driver);
            let log = Log::new();
            let upper = Script::new(&log)
                .on_made(|transport| transport.write(b"\nready\n"))
                .on_data(|transport, data| transport.write(&data.to_ascii_uppercase()));
            match &*role {
                "listen" => {
                    let mut protocol = Some(upper);
                    world.reactor.listen("stdio:", move |_| protocol.take()).map(drop).expect("a port");
                }
                _ => drop(world.reactor.connect_protocol("stdio:", upper)),
            }
            world.until("the input has ended", || log.lost().is_some());
            assert_eq!(log.lost().as_deref(), Some("closed"), "{role}");
            return;
        }
        for role in ["listen", "connect"] {
            let mut command = process::again(module_path!(), driver, role);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = Guard(command.spawn().expect("a child"));
            let mut input = child.0.stdin.take().expect("a pipe");
            let mut output = BufReader::new(child.0.stdout.take().expect("a pipe"));
            let mut line = String::new();
            while line != "ready\n" {
                line.clear();
                assert!(output.read_line(&mut line).expect("text") > 0, "{role}: no greeting");
            }
            input.write_all(b"hello\n").expect("sent");
            line.clear();
            output.read_line(&mut line).expect("text");
            assert_eq!(line, "HELLO\n");
            drop(input);
            let status = child.0.wait().expect("its end");
            let mut rest = String::new();
            output.read_to_string(&mut rest).expect("text");
            assert!(status.success(), "{role}: {rest}");
        }
    }

    // The open file of a standard stream is shared with other programs, and stays as it was.
    fn the_standard_streams_of_others_stay_blocking(driver) {
        if process::role().is_some() {
            let world = World::new(driver);
            let log = Log::new();
            let quiet = Script::new(&log).on_made(|transport| transport.write(b"x"));
            world.reactor.connect_protocol("stdio:", quiet).on_done(|_, outcome| drop(outcome.expect("one")));
            world.until("the input has ended", || log.lost().is_some());
            return;
        }
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let (mut output, their_output) = std::io::pipe().expect("a pipe");
        let is_non_blocking = |descriptor: &dyn AsRawFd| {
            // SAFETY: F_GETFL takes no argument.
            #[allow(unsafe_code)]
            let flags = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFL) };
            flags & libc::O_NONBLOCK != 0
        };
        let mut command = process::again(module_path!(), driver, "any");
        command.stdin(reader.try_clone().expect("a clone")).stdout(their_output.try_clone().expect("a clone"));
        let mut child = Guard(command.spawn().expect("a child"));
        drop(command);
        let mut byte = [0];
        while byte != *b"x" {
            output.read_exact(&mut byte).expect("a greeting");
        }
        assert!(!is_non_blocking(&reader), "the input");
        assert!(!is_non_blocking(&their_output), "the output");
        drop((writer, reader));
        assert!(child.0.wait().expect("its end").success());
    }

    // Lines 24 and 49: opened again in the other direction, a pipe would never end, and eat what is meant for
    // others.
    fn an_inherited_pipe_goes_the_way_that_it_is_open(driver) {
        if let Some(endpoint) = process::role() {
            let world = World::new(driver);
            let log = Log::new();
            let script = Script::new(&log).on_made(|transport| transport.write(b"hello"));
            let script = script.on_data(|transport, _| transport.pause_reading());
            let connecting = world.reactor.connect_protocol(&*endpoint, script);
            connecting.on_done(|_, outcome| drop(outcome.expect("a connection")));
            world.until("it is made", || log.has(&Event::Made));
            process::say("made", "it");
            world.until("it is over, or data have come", || log.lost().is_some() || !log.data().is_empty());
            return process::say("heard", format!("{:?} {:?}", String::from_utf8(log.data()), log.lost()));
        }
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let mut command = process::again(module_path!(), driver, "fd:3");
        pass(&mut command, writer);
        let mut child = process::Listener::start(command);
        child.hear("made");
        let mut word = [0; 5];
        reader.read_exact(&mut word).expect("the word");
        assert_eq!(&word, b"hello");
        drop(reader);
        assert_eq!(child.hear("heard"), r#"Ok("") Some("reset by the peer or the network")"#);
        child.finish();

        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut command = process::again(module_path!(), driver, "fd:3");
        pass(&mut command, reader);
        let mut child = process::Listener::start(command);
        child.hear("made");
        drop(writer);
        assert_eq!(child.hear("heard"), r#"Ok("") Some("closed")"#);
        child.finish();
    }

    // Line 24.
    fn the_end_of_a_fifo_is_heard_of_also_when_all_writers_have_gone_before(driver) {
        if let Some(endpoint) = process::role() {
            let world = World::new(driver);
            let log = Log::new();
            drop(world.reactor.connect_protocol(&*endpoint, Script::new(&log)));
            world.until("the end has come", || log.lost().is_some());
            return process::say("heard", String::from_utf8_lossy(&log.data()));
        }
        let path = std::env::temp_dir().join(format!("twistor-fifo-{}-{}", std::process::id(), driver.name()));
        assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
        let place = path.clone();
        let writing = std::thread::spawn(move || std::fs::write(place, b"last words"));
        let reader = File::open(&path).expect("the FIFO");
        writing.join().expect("no panic").expect("written");
        let mut command = process::again(module_path!(), driver, "fd:3");
        pass(&mut command, reader);
        let mut child = process::Listener::start(command);
        assert_eq!(child.hear("heard"), "last words");
        child.finish();
        std::fs::remove_file(path).expect("removed");
    }

    // Line 50.
    fn a_program_is_talked_to_as_any_peer(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let script = Script::new(&log).on_made(|transport| {
            transport.write(b"hello\n");
            transport.lose_write_connection();
        });
        drop(world.reactor.connect_protocol(r"process:tr:a-z:A-Z", script));
        world.until("it has ended", || log.lost().is_some());
        assert_eq!(log.data(), b"HELLO\n");

        let error = Rc::new(RefCell::new(None));
        let place = Rc::clone(&error);
        let connecting = world.reactor.connect_protocol("process:/no/such/program", Script::new(&Log::new()));
        connecting.on_done(move |_, outcome| *place.borrow_mut() = outcome.err());
        world.until("it has failed", || error.borrow().is_some());
        let text = error.take().expect("just seen").to_string();
        assert!(text.contains("cannot run") && text.contains("/no/such/program"), "{text}");
    }

    // Line 9.
    fn nothing_is_left_of_an_attempt_that_the_loop_never_came_to(driver) {
        in_child(module_path!(), driver, || {
            let before = process::open_descriptors();
            let world = World::new(driver);
            drop(world.reactor.connect_protocol("process:cat", Script::new(&Log::new())));
            drop(world);
            assert_eq!(process::open_descriptors(), before);

            // The same when it is cancelled, or declined by its factory; the reactor goes on.
            let world = World::new(driver);
            let give_up = || {
                world.reactor.connect_protocol("process:cat", Script::new(&Log::new())).cancel();
                drop(world.reactor.connect("process:cat", |_| None::<Script>));
            };
            // The reactor keeps what it hears of signals with.
            let own = usize::from(driver == twistor_tests::Driver::Portable) * 2;
            let before = process::open_descriptors() + own;
            for _ in 0..3 {
                give_up();
                world.until("both children have ended", || process::open_descriptors() == before);
            }
            assert_eq!(world.reactor.stats().connections, 0);
        });
    }

    // Line 49.
    fn an_inherited_connection_is_connected_to(driver) {
        if let Some(endpoint) = process::role() {
            let world = World::new(driver);
            let log = Log::new();
            let script = Script::new(&log).on_data(Transport::write);
            let failed = Rc::new(Cell::new(false));
            let flag = Rc::clone(&failed);
            world.reactor.connect_protocol(endpoint, script).on_done(move |_, outcome| {
                if let Err(error) = outcome {
                    flag.set(true);
                    process::say("failed", error);
                }
            });
            return world.until("it is over", || failed.get() || log.lost().is_some());
        }
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let mut command = process::again(module_path!(), driver, "fd:3");
        pass(&mut command, theirs);
        let server = process::Listener::start(command);
        ours.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        assert_echoes(&ours);
        drop(ours);
        server.finish();

        let mut command = process::again(module_path!(), driver, "fd:3");
        pass(&mut command, TcpListener::bind("127.0.0.1:0").expect("a port"));
        let mut server = process::Listener::start(command);
        let text = server.hear("failed");
        assert!(text.contains("cannot connect to fd 3: the descriptor is not a connection"), "{text}");
        server.finish();
    }
}

contract! {
    // Lines 5 and 50.
    fn a_kind_that_panics_is_an_error_of_the_attempt(driver) {
        let world = World::new(driver);
        world.reactor.add_connect_kind("bad", |_, _, _| panic!("on purpose")).expect("a new kind");
        let outcome = Rc::new(RefCell::new(None));
        let place = Rc::clone(&outcome);
        let connecting = world.reactor.connect_protocol("bad:1", Script::new(&Log::new()));
        connecting.on_done(move |_, result| *place.borrow_mut() = result.err());
        world.until("it has failed", || outcome.borrow().is_some());
        let text = outcome.take().expect("just seen").to_string();
        assert_eq!(text, "cannot connect to bad:1: the kind of endpoint \"bad\" panicked");
    }

    // Line 51.
    fn a_kind_that_cancels_its_attempt_and_has_a_connection_all_the_same_has_cancelled_it(driver) {
        let world = World::new(driver);
        let canceller: Rc<RefCell<Option<Canceller>>> = Rc::default();
        let mine = Rc::clone(&canceller);
        let log = Log::new();
        let (transport, _peer) = world.pair(Script::new(&log));
        let kind = move |reactor: &Handle, _: &Arguments, _| {
            assert!(mine.take().expect("the canceller").cancel());
            Deferred::ready(reactor, Ok(transport.clone()))
        };
        world.reactor.add_connect_kind("fickle", kind).expect("a new kind");
        let connecting = world.reactor.connect_protocol("fickle:", Script::new(&Log::new()));
        *canceller.borrow_mut() = Some(connecting.canceller());
        let outcome = Rc::new(Cell::new(None));
        let place = Rc::clone(&outcome);
        connecting.on_done(move |_, result| place.set(Some(result.err().map(|error| error.kind()))));
        world.until("it has ended", || outcome.get().is_some());
        assert_eq!(outcome.get(), Some(Some(ConnectErrorKind::Cancelled)));
        world.until("nobody has the connection", || log.lost().is_some());
    }

    // Line 51.
    fn an_attempt_can_be_cancelled_by_the_kind_that_begins_it(driver) {
        let world = World::new(driver);
        let canceller: Rc<RefCell<Option<Canceller>>> = Rc::default();
        let mine = Rc::clone(&canceller);
        let kind = move |reactor: &Handle, _: &Arguments, factory| {
            assert!(mine.take().expect("the canceller").cancel());
            reactor.connect_any("tcp:127.0.0.1:1", factory)
        };
        world.reactor.add_connect_kind("fickle", kind).expect("a new kind");
        let connecting = world.reactor.connect_protocol("fickle:", Script::new(&Log::new()));
        *canceller.borrow_mut() = Some(connecting.canceller());
        let outcome = Rc::new(Cell::new(None));
        let place = Rc::clone(&outcome);
        connecting.on_done(move |_, result| place.set(result.err().map(|error| error.kind())));
        world.until("it has ended", || outcome.get().is_some());
        assert_eq!(outcome.get(), Some(ConnectErrorKind::Cancelled));
    }

    fn an_added_kind_listens_and_connects(driver) {
        let world = World::new(driver);
        let reactor = &world.reactor;
        reactor.add_listen_kind("local", |reactor, arguments, factory| {
            let port = arguments.argument(0).ok_or_else(|| arguments.error("the port is missing"))?;
            reactor.listen_any(format!("tcp:{port}:interface=127.0.0.1"), factory)
        }).expect("a new kind");
        reactor.add_connect_kind("local", |reactor, arguments, factory| {
            assert_eq!(arguments.kind(), "local");
            assert_eq!(arguments.keyword("timeout"), Some("5"));
            reactor.connect_any(format!("tcp:127.0.0.1:{}", arguments.rest()), factory)
        }).expect("a new kind");
        let (server, client) = (Log::new(), Log::new());
        let port = reactor.listen("local:0", echo(&server)).expect("a port");
        let script = Script::new(&client).on_made(|transport| transport.write(b"hello"));
        let endpoint = format!("local:{}:timeout=5", port.local_addr().port());
        let connection = Rc::new(RefCell::new(None));
        let place = Rc::clone(&connection);
        reactor.connect_protocol(endpoint, script).on_done(move |_, outcome| {
            *place.borrow_mut() = Some(outcome.expect("connected"));
        });
        world.until("the echo came back", || client.data() == b"hello");
        // It is typed as any other.
        let connection: twistor::Connection<Script> = connection.take().expect("a connection");
        let posted = Rc::new(Cell::new(false));
        let flag = Rc::clone(&posted);
        assert!(connection.post(move |_, _| flag.set(true)));
        world.until("the post was delivered", || posted.get());
        let error = reactor.listen("local", echo(&server)).expect_err("no port");
        assert_eq!(error.to_string(), r#"bad endpoint "local": the port is missing"#);
    }

    fn an_added_kind_can_put_a_protocol_in_front(driver) {
        /// Takes the first byte away, and makes way.
        struct Toll(Option<Box<dyn Protocol>>);
        impl Protocol for Toll {
            fn data_received(&mut self, transport: &Transport, data: &[u8]) {
                if let Some(next) = self.0.take() {
                    transport.switch_boxed(next);
                    transport.unread(data[1..].to_vec());
                }
            }
        }
        let world = World::new(driver);
        world.reactor.add_listen_kind("toll", |reactor, arguments, factory| {
            reactor.listen_any(arguments.rest(), factory.wrap(|protocol, _| Toll(Some(protocol))))
        }).expect("a new kind");
        let log = Log::new();
        let port = world.reactor.listen("toll:tcp:0:interface=127.0.0.1", echo(&log)).expect("a port");
        let peer = world.connect(&port);
        peer.send(b"1hello");
        assert_eq!(peer.receive(5), b"hello");
        assert_eq!(log.events()[0], Event::Made);
    }

    fn cancelling_reaches_an_added_kind(driver) {
        let world = World::new(driver);
        let cancelled = Rc::new(Cell::new(false));
        world.reactor.add_connect_kind("never", |reactor, _, factory: AnyFactory| {
            reactor.connect_any("tcp:192.0.2.1:9:timeout=3600", factory)
        }).expect("a new kind");
        let connecting = world.reactor.connect_protocol("never:", Script::new(&Log::new()));
        let canceller = connecting.canceller();
        let flag = Rc::clone(&cancelled);
        connecting.on_done(move |_, outcome| {
            flag.set(outcome.is_err_and(|error| {
                // Where there is no route the attempt has failed before.
                matches!(error.kind(), ConnectErrorKind::Cancelled | ConnectErrorKind::Unreachable)
            }));
        });
        canceller.cancel();
        world.until("it has ended", || cancelled.get());
    }

    fn kinds_have_names_of_their_own(driver) {
        let world = World::new(driver);
        let add = |kind: &str| {
            let listens = world.reactor.add_listen_kind(kind, |_, _, _| Err(ErrorKind::Other.into()));
            let connects = world.reactor.add_connect_kind(kind, |reactor, _, _| Deferred::new(reactor).1);
            assert_eq!(listens.is_ok(), connects.is_ok());
            listens.map_err(|error| (error.kind(), error.to_string()))
        };
        let exists = |kind: &str| Err((ErrorKind::AlreadyExists, format!("there is a kind of endpoint {kind:?} already")));
        assert_eq!(add("tcp"), exists("tcp"));
        assert_eq!(add("mine"), Ok(()));
        assert_eq!(add("mine"), exists("mine"));
        assert_eq!(add("").map_err(|(kind, _)| kind), Err(ErrorKind::InvalidInput));
        assert_eq!(add("a:b").map_err(|(kind, _)| kind), Err(ErrorKind::InvalidInput));
        let error = world.reactor.listen("theirs:80", echo(&Log::new())).expect_err("nobody's");
        assert!(error.to_string().contains("unknown kind \"theirs\" (column 1)"), "{error}");
    }
}
