//! The contract, section 6: descriptors from elsewhere as connections and ports; streams on pipes, terminals
//! and files.

use std::fs::File;
use std::io::{Read, Seek, Write, pipe};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use twistor::{Connection, Reason, Transport};
use twistor_tests::{Event, Log, PATIENCE, Script, World, in_child, kernel_contract, pattern, process};

/// A file of its own for one test.
fn scratch_file(module: &str) -> (PathBuf, File) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("twistor-{}-{number}-{}", std::process::id(), module.replace("::", "-"));
    let path = std::env::temp_dir().join(name);
    let file =
        File::options().create(true).truncate(true).read(true).write(true).open(&path).expect("a file");
    (path, file)
}

/// Both sides of a new terminal.
fn a_terminal() -> (OwnedFd, OwnedFd) {
    let (mut master, mut slave) = (0, 0);
    let none = std::ptr::null_mut::<libc::c_char>;
    // SAFETY: the first two pointers are to locals, the others may be null; the descriptors are new.
    #[allow(unsafe_code)]
    unsafe {
        assert_eq!(libc::openpty(&mut master, &mut slave, none(), std::ptr::null(), std::ptr::null()), 0);
        (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
    }
}

fn write_all(mut target: impl Write, data: &[u8]) {
    target.write_all(data).expect("written");
}

kernel_contract! {
    // Line 49.
    fn a_connected_socket_becomes_a_connection(driver) {
        let world = World::new(driver);
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let log = Log::new();
        let echo = Script::new(&log).on_data(Transport::write);
        let connection = world.reactor.adopt_connection(ours, echo).expect("a connection");
        assert_eq!(log.events(), [], "no hook is called inside the call");
        write_all(&theirs, b"hello");
        world.until("it was received", || log.data() == b"hello");
        assert_eq!(log.events()[0], Event::Made);
        let mut answer = [0; 5];
        theirs.read_exact(&mut answer).expect("the echo");
        assert_eq!(&answer, b"hello");
        connection.lose_connection();
        drop(theirs);
        world.until("it is lost", || log.lost().is_some());
        assert_eq!(log.lost(), Some(Reason::Closed.to_string()));
    }

    // Line 49.
    fn a_tcp_socket_keeps_its_addresses(driver) {
        let world = World::new(driver);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let theirs = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let (ours, peer) = listener.accept().expect("accepted");
        let log = Log::new();
        let connection = world.reactor.adopt_connection(ours, Script::new(&log)).expect("a connection");
        assert_eq!(connection.peer_addr().socket_addr(), Some(peer));
        assert_eq!(connection.local_addr().socket_addr(), listener.local_addr().ok());
        drop(theirs);
        world.until("it is lost", || log.lost().is_some());
    }

    // Line 49.
    fn a_listening_socket_becomes_a_port(driver) {
        let world = World::new(driver);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let log = Log::new();
        let told = log.clone();
        let port = world.reactor.adopt_listener(listener, move |_| Script::new(&told)).expect("a port");
        assert_eq!(port.local_addr().socket_addr(), Some(address));
        write_all(TcpStream::connect(address).expect("connected"), b"hello");
        world.until("the connection came and went", || log.lost().is_some());
        assert_eq!(log.data(), b"hello");
        drop(port.stop_listening());
        assert!(TcpStream::connect(address).is_err(), "the port is closed");
    }

    // Line 49.
    fn what_is_not_what_it_is_said_to_be_is_a_clear_error(driver) {
        let world = World::new(driver);
        let reactor = &world.reactor;
        let connection = |descriptor: OwnedFd| {
            let log = Log::new();
            let error = reactor.adopt_connection(descriptor, Script::new(&log)).expect_err("an error");
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
            assert_eq!(log.events(), []);
            error.to_string()
        };
        let port = |descriptor: OwnedFd| {
            let adopted = reactor.adopt_listener(descriptor, |_| Script::new(&Log::new()));
            adopted.expect_err("an error").to_string()
        };
        let udp = || OwnedFd::from(UdpSocket::bind("127.0.0.1:0").expect("a socket"));
        let listener = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let (reader, _writer) = pipe().expect("a pipe");
        assert_eq!(
            connection(reader.into()),
            "the descriptor is not a socket: it is a file, a pipe or a device"
        );
        assert_eq!(
            connection(udp()),
            "the descriptor is not a stream socket: it is a datagram or a raw socket"
        );
        assert_eq!(
            connection(listener().into()),
            "the descriptor is not a connection: it is a listening socket"
        );
        let unconnected = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("one");
        assert_eq!(
            connection(unconnected.try_clone().expect("a clone").into()),
            "the descriptor is not a connection: it is a socket that is not connected"
        );
        assert_eq!(
            port(unconnected.into()),
            "the descriptor is not a listening socket: it is a socket on which nobody listens"
        );
        assert_eq!(
            port(udp()),
            "the descriptor is not a stream socket: it is a datagram or a raw socket"
        );
        assert_eq!(
            port(UnixDatagram::unbound().expect("a socket").into()),
            "the descriptor is not a stream socket: it is a datagram or a raw socket"
        );
        world.turns(2);
        assert_eq!(world.reactor.stats().connections, 0);
    }

    // Line 49.
    fn what_is_refused_leaks_nothing(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let before = process::open_descriptors();
            for _ in 0..20 {
                let (reader, _writer) = pipe().expect("a pipe");
                assert!(world.reactor.adopt_connection(reader, Script::new(&Log::new())).is_err());
                assert!(world.reactor.adopt_pipe(None, None, Script::new(&Log::new())).is_err());
            }
            assert_eq!(process::open_descriptors(), before);
        });
    }

    // Line 18.
    fn a_connection_given_up_before_the_loop_came_to_it_is_made_and_lost(driver) {
        let world = World::new(driver);
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let log = Log::new();
        let connection = world.reactor.adopt_connection(ours, Script::new(&log)).expect("a connection");
        connection.abort_connection();
        world.until("it is lost", || log.lost().is_some());
        assert_eq!(log.events(), [Event::Made, Event::Lost(Reason::Aborted.to_string())]);
    }

    // Lines 19, 25.
    fn a_pipe_to_read_from_ends_with_its_writer(driver) {
        let world = World::new(driver);
        let (reader, writer) = pipe().expect("a pipe");
        let log = Log::new();
        world.reactor.adopt_pipe(Some(reader.into()), None, Script::new(&log)).expect("a stream");
        world.assert_sleeps("nothing was written");
        let data = pattern(300_000);
        let sent = data.clone();
        let sender = std::thread::spawn(move || write_all(writer, &sent));
        world.until("it is lost", || log.lost().is_some());
        sender.join().expect("sent");
        assert_eq!(log.data(), data);
        assert_eq!(log.lost(), Some(Reason::Closed.to_string()));
        assert!(log.has(&Event::Eof));
    }

    // Lines 20, 23.
    fn a_paused_pipe_costs_nothing_and_loses_nothing(driver) {
        let world = World::new(driver);
        let (reader, writer) = pipe().expect("a pipe");
        let log = Log::new();
        let paused = Script::new(&log).on_made(Transport::pause_reading);
        let stream = world.reactor.adopt_pipe(Some(reader.into()), None, paused).expect("a stream");
        write_all(&writer, b"early");
        drop(writer);
        world.assert_sleeps("it is paused, though its writer is gone");
        assert_eq!(log.events(), [Event::Made]);
        stream.resume_reading();
        world.until("it is lost", || log.lost().is_some());
        assert_eq!(log.data(), b"early");
    }

    // Lines 27, 29, 37.
    fn a_pipe_to_write_to_takes_everything_before_it_is_closed(driver) {
        let world = World::new(driver);
        let (mut reader, writer) = pipe().expect("a pipe");
        let log = Log::new();
        let stream = world.reactor.adopt_pipe(None, Some(writer.into()), Script::new(&log)).expect("a stream");
        world.turns(1);
        let data = pattern(1 << 20);
        stream.write(&data);
        stream.lose_connection();
        let collector = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        world.until("it is lost", || log.lost().is_some());
        assert_eq!(collector.join().expect("joined").expect("read"), data);
        assert_eq!(log.lost(), Some(Reason::Closed.to_string()));
    }

    // Lines 29, 30.
    fn a_pipe_that_nobody_empties_pauses_its_writer(driver) {
        let world = World::new(driver);
        let (mut reader, writer) = pipe().expect("a pipe");
        let log = Log::new();
        let stream = world.reactor.adopt_pipe(None, Some(writer.into()), Script::new(&log)).expect("a stream");
        world.turns(1);
        stream.write(&pattern(300_000));
        world.until("it is paused", || log.has(&Event::Pause));
        world.assert_sleeps("the pipe is full");
        let mut received = 0;
        world.until("it goes on", || {
            received += reader.read(&mut [0; 65_536]).expect("read");
            log.has(&Event::Resume)
        });
        assert!(received > 0 && log.count(&Event::Pause) == 1);
    }

    // Lines 12, 41.
    fn a_pipe_without_a_reader_is_a_loss_and_no_signal(driver) {
        in_child(module_path!(), driver, || {
            process::become_ordinary();
            let world = World::new(driver);
            let (reader, writer) = pipe().expect("a pipe");
            let log = Log::new();
            let script = Script::new(&log);
            let stream = world.reactor.adopt_pipe(None, Some(writer.into()), script).expect("a stream");
            world.turns(2);
            stream.write(b"unread");
            drop(reader);
            world.until("it is lost", || log.lost().is_some());
            assert_eq!(log.lost(), Some(Reason::Reset.to_string()));

            // The same when it is found by writing.
            let (reader, writer) = pipe().expect("a pipe");
            let log = Log::new();
            drop(reader);
            let script = Script::new(&log).on_made(|transport| transport.write(b"to nobody"));
            world.reactor.adopt_pipe(None, Some(writer.into()), script).expect("a stream");
            world.until("it is lost", || log.lost().is_some());
            assert_eq!(log.lost(), Some(Reason::Reset.to_string()));
        });
    }

    fn two_pipes_make_a_stream_of_both_ways(driver) {
        let world = World::new(driver);
        let (reader, their_writer) = pipe().expect("a pipe");
        let (mut their_reader, writer) = pipe().expect("a pipe");
        let log = Log::new();
        let echo = Script::new(&log)
            .on_data(Transport::write)
            .on_eof(|transport| {
                transport.write(b"!");
                twistor::Eof::Close
            });
        let ends = (Some(reader.into()), Some(writer.into()));
        world.reactor.adopt_pipe(ends.0, ends.1, echo).expect("a stream");
        write_all(&their_writer, b"hello");
        drop(their_writer);
        world.until("it is lost", || log.lost().is_some());
        let mut answer = String::new();
        their_reader.read_to_string(&mut answer).expect("the answer");
        assert_eq!(answer, "hello!");
        assert_eq!(log.lost(), Some(Reason::Closed.to_string()));
    }

    // Line 40.
    fn one_side_of_two_pipes_can_be_ended(driver) {
        let world = World::new(driver);
        let (reader, their_writer) = pipe().expect("a pipe");
        let (mut their_reader, writer) = pipe().expect("a pipe");
        let log = Log::new();
        let ends = (Some(reader.into()), Some(writer.into()));
        let stream = world.reactor.adopt_pipe(ends.0, ends.1, Script::new(&log)).expect("a stream");
        stream.write(b"all");
        stream.lose_write_connection();
        let mut answer = String::new();
        world.turns(3);
        their_reader.read_to_string(&mut answer).expect("to its end");
        assert_eq!(answer, "all");
        write_all(&their_writer, b"still read");
        world.until("it was received", || log.data() == b"still read");
        assert_eq!(log.lost(), None);
        drop(their_writer);
        world.until("both sides have ended", || log.lost().is_some());
    }

    // Lines 24, 41: what came from the other side may still be read.
    fn input_outlives_a_broken_output(driver) {
        let world = World::new(driver);
        let (reader, their_writer) = pipe().expect("a pipe");
        let (their_reader, writer) = pipe().expect("a pipe");
        let log = Log::new();
        let ends = (Some(reader.into()), Some(writer.into()));
        world.reactor.adopt_pipe(ends.0, ends.1, Script::new(&log)).expect("a stream");
        drop(their_reader);
        world.assert_sleeps("nobody has written anything");
        write_all(&their_writer, b"still read");
        world.until("it was received", || log.data() == b"still read");
        assert_eq!(log.lost(), None);
    }

    // Line 69: a regular file counts as always ready.
    fn a_file_is_read_to_its_end_and_written_at_once(driver) {
        let world = World::new(driver);
        let (path, mut source) = scratch_file(module_path!());
        let data = pattern(500_000);
        source.write_all(&data).expect("written");
        source.rewind().expect("rewound");
        let log = Log::new();
        world.reactor.adopt_pipe(Some(source.into()), None, Script::new(&log)).expect("a stream");
        world.until("it is read", || log.lost().is_some());
        assert_eq!(log.data(), data);

        let target = File::create(&path).expect("the file");
        let log = Log::new();
        let stream = world.reactor.adopt_pipe(None, Some(target.into()), Script::new(&log)).expect("a stream");
        stream.write(&data);
        stream.lose_connection();
        world.until("it is written", || log.lost().is_some());
        assert_eq!(std::fs::read(&path).expect("the file"), data);
        std::fs::remove_file(path).expect("removed");
    }

    // Line 27.
    fn a_file_takes_more_than_one_turn_may_send(driver) {
        let world = World::new(driver);
        let data = pattern(3_000_000);
        let (source, mut file) = scratch_file(module_path!());
        file.write_all(&data).expect("written");
        for by_file in [false, true] {
            let (path, file) = scratch_file(module_path!());
            let log = Log::new();
            let connection =
                world.reactor.adopt_pipe(None, Some(file.into()), Script::new(&log)).expect("a connection");
            if by_file {
                drop(connection.send_file(File::open(&source).expect("a file"), 0..3_000_000));
            } else {
                connection.write(&data);
            }
            connection.lose_connection();
            world.until("it is lost", || log.lost().is_some());
            assert_eq!(log.lost(), Some(Reason::Closed.to_string()));
            assert!(std::fs::read(&path).expect("the file") == data);
            std::fs::remove_file(path).expect("removed");
        }
        std::fs::remove_file(source).expect("removed");
    }

    // Line 49.
    fn a_descriptor_that_is_not_open_for_its_direction_is_a_clear_error(driver) {
        let world = World::new(driver);
        let (reader, writer) = pipe().expect("a pipe");
        let log = Log::new();
        let refused = |input: Option<OwnedFd>, output: Option<OwnedFd>| {
            let error = world.reactor.adopt_pipe(input, output, Script::new(&log)).expect_err("an error");
            error.to_string()
        };
        let clone = reader.try_clone().expect("a clone");
        assert_eq!(refused(Some(writer.into()), None), "the input is not open for reading");
        assert_eq!(refused(Some(clone.into()), Some(reader.into())), "the output is not open for writing");
        world.turns(2);
        assert_eq!(log.events(), []);
        assert_eq!(world.reactor.stats().connections, 0);
    }

    // Lines 11, 23.
    fn a_paused_stream_whose_input_has_ended_still_writes_and_sleeps(driver) {
        let world = World::new(driver);
        let (input, input_writer) = pipe().expect("a pipe");
        let (mut output_reader, output) = pipe().expect("a pipe");
        let log = Log::new();
        let paused = Script::new(&log).on_made(Transport::pause_reading);
        let connection = world.reactor.adopt_pipe(Some(input.into()), Some(output.into()), paused);
        let connection = connection.expect("a connection");
        drop(input_writer);
        world.turns(3);
        world.assert_sleeps("it is paused");
        let data = pattern(300_000);
        connection.write(&data);
        world.turns(3);
        world.assert_sleeps("nobody reads");
        let length = data.len();
        let reading = std::thread::spawn(move || {
            let mut read = vec![0; length];
            output_reader.read_exact(&mut read).expect("all of it");
            (read, output_reader)
        });
        world.until("it is flushed", || reading.is_finished());
        world.assert_sleeps("all was taken");
        connection.resume_reading();
        world.until("it is lost", || log.lost().is_some());
        assert!(reading.join().expect("no panic").0 == data);
        assert_eq!(log.events(), [Event::Made, Event::Pause, Event::Resume, Event::Eof, log.events()[4].clone()]);
    }

    // Line 9.
    fn nothing_is_left_of_streams_that_the_loop_never_came_to(driver) {
        in_child(module_path!(), driver, || {
            let open = process::open_descriptors();
            let world = World::new(driver);
            let alive = Rc::new(());
            let adopt = || {
                let kept = Rc::clone(&alive);
                let (input, _) = pipe().expect("a pipe");
                let script = Script::new(&Log::new()).on_data(move |_, _| assert!(Rc::strong_count(&kept) > 0));
                world.reactor.adopt_pipe(Some(input.into()), None, script).expect("a connection")
            };
            let (one, other) = (adopt(), adopt());
            drop(one.pipe(&other));
            drop(world);
            drop((one, other));
            assert_eq!(Rc::strong_count(&alive), 1);
            assert_eq!(process::open_descriptors(), open);
        });
    }

    // Lines 20, 11.
    fn a_paused_file_lets_the_loop_sleep(driver) {
        let world = World::new(driver);
        let (path, mut source) = scratch_file(module_path!());
        source.write_all(&pattern(200_000)).expect("written");
        source.rewind().expect("rewound");
        let log = Log::new();
        let script = Script::new(&log).on_data(|transport, _| transport.pause_reading());
        let stream = world.reactor.adopt_pipe(Some(source.into()), None, script).expect("a stream");
        world.until("it began", || !log.data().is_empty());
        world.assert_sleeps("it is paused");
        world.until("it is read in pieces", || {
            stream.resume_reading();
            world.turns(2);
            log.lost().is_some()
        });
        assert_eq!(log.data(), pattern(200_000));
        std::fs::remove_file(path).expect("removed");
    }

    fn devices_that_no_poller_takes_are_streams(driver) {
        let world = World::new(driver);
        let null = || File::options().read(true).write(true).open("/dev/null").expect("the null device");
        let log = Log::new();
        let ends = (Some(null().into()), Some(null().into()));
        let stream = world.reactor.adopt_pipe(ends.0, ends.1, Script::new(&log)).expect("a stream");
        stream.write(b"into nothing");
        world.until("it has ended", || log.lost().is_some());
        assert_eq!(log.events(), [Event::Made, Event::Eof, Event::Lost(Reason::Closed.to_string())]);
    }

    fn a_terminal_is_a_stream(driver) {
        let world = World::new(driver);
        let (master, slave) = a_terminal();
        let log = Log::new();
        let echo = Script::new(&log).on_data(Transport::write);
        let input = slave.try_clone().expect("a clone");
        world.reactor.adopt_pipe(Some(input), Some(slave), echo).expect("a stream");
        let mut user = File::from(master);
        user.write_all(b"typed\n").expect("typed");
        world.until("the line was received", || log.data() == b"typed\n");
        world.turns(2);
        let mut shown = [0; 14];
        user.read_exact(&mut shown).expect("the terminal's echo and the program's");
        assert_eq!(&shown, b"typed\r\ntyped\r\n");
        drop(user);
        world.until("the terminal hung up", || log.lost().is_some());
    }

    // Line 33.
    fn a_pipe_relays_into_a_socket_and_a_file_into_a_pipe(driver) {
        let world = World::new(driver);
        let (reader, writer) = pipe().expect("a pipe");
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let source: Connection<Script> =
            world.reactor.adopt_pipe(Some(reader.into()), None, Script::new(&Log::new())).expect("a stream");
        let target = world.reactor.adopt_connection(ours, Script::new(&Log::new())).expect("a connection");
        let relayed = Rc::new(std::cell::Cell::new(0));
        let result = Rc::clone(&relayed);
        source.pipe(&target).on_done(move |_, outcome| result.set(outcome.expect("relayed")));
        let data = pattern(400_000);
        let sent = data.clone();
        let sender = std::thread::spawn(move || write_all(writer, &sent));
        let collector = std::thread::spawn(move || {
            let mut all = Vec::new();
            theirs.set_read_timeout(Some(PATIENCE)).expect("a time-out");
            theirs.read_to_end(&mut all).map(|_| all)
        });
        world.until("all is relayed", || relayed.get() == 400_000);
        world.until("the target has ended", || target.is_closing() || collector.is_finished());
        sender.join().expect("sent");
        assert_eq!(collector.join().expect("joined").expect("read"), data);
    }

    // Line 35.
    fn a_file_is_sent_through_a_pipe(driver) {
        let world = World::new(driver);
        let (path, mut file) = scratch_file(module_path!());
        let data = pattern(200_000);
        file.write_all(&data).expect("written");
        let (mut reader, writer) = pipe().expect("a pipe");
        let log = Log::new();
        let stream = world.reactor.adopt_pipe(None, Some(writer.into()), Script::new(&log)).expect("a stream");
        stream.write(b"head");
        drop(stream.send_file(file, 0..200_000));
        stream.write(b"tail");
        stream.lose_connection();
        let collector = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        world.until("it is lost", || log.lost().is_some());
        let expected = [b"head".as_slice(), &data, b"tail"].concat();
        assert_eq!(collector.join().expect("joined").expect("read"), expected);
        std::fs::remove_file(path).expect("removed");
    }

    // Line 9.
    fn nothing_is_left_of_pipes_after_the_reactor(driver) {
        in_child(module_path!(), driver, || {
            let before = process::open_descriptors();
            let world = World::new(driver);
            let (reader, writer) = pipe().expect("a pipe");
            let log = Log::new();
            world.reactor.adopt_pipe(Some(reader.into()), None, Script::new(&log)).expect("a stream");
            world.reactor.adopt_pipe(None, Some(writer.into()), Script::new(&log)).expect("a stream");
            world.turns(2);
            // And one that the loop has not come to.
            let (reader, _writer) = pipe().expect("a pipe");
            world.reactor.adopt_pipe(Some(reader.into()), None, Script::new(&log)).expect("a stream");
            drop(world);
            drop(_writer);
            assert_eq!(process::open_descriptors(), before);
        });
    }

    // Line 5.
    fn a_panic_in_the_first_hook_of_a_pipe_ends_it(driver) {
        let world = World::new(driver);
        let (reader, _writer) = pipe().expect("a pipe");
        let log = Log::new();
        let script = Script::new(&log).on_made(|_| panic!("as intended"));
        world.reactor.adopt_pipe(Some(reader.into()), None, script).expect("a stream");
        world.until("it is lost", || log.lost().is_some());
        assert_eq!(log.lost(), Some(Reason::Panicked.to_string()));
    }

    // Line 62: the file of an adopted Unix listener is somebody else's.
    fn the_file_of_an_adopted_unix_listener_stays(driver) {
        let world = World::new(driver);
        let (path, file) = scratch_file(module_path!());
        drop(file);
        std::fs::remove_file(&path).expect("removed");
        let listener = UnixListener::bind(&path).expect("a listener");
        let log = Log::new();
        let told = log.clone();
        let port = world.reactor.adopt_listener(listener, move |_| Script::new(&told)).expect("a port");
        assert_eq!(port.local_addr().unix().and_then(|address| address.path()), Some(&*path));
        write_all(UnixStream::connect(&path).expect("connected"), b"hello");
        world.until("the connection came and went", || log.lost().is_some());
        assert_eq!(log.data(), b"hello");
        drop(port.stop_listening());
        assert!(path.exists());
        std::fs::remove_file(path).expect("removed");
    }
}
