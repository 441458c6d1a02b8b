//! Streams over what only a kernel has: Unix sockets, pipes, adopted descriptors, children.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread;

use twistor::{ProcessProtocol, Stream, StreamProtocol};
use twistor_tests::outcome::complete;
use twistor_tests::{World, kernel_contract, pattern};

struct Quiet;

impl ProcessProtocol for Quiet {}

kernel_contract! {
    // Line 62.
    fn a_unix_socket_is_a_stream_like_another(driver) {
        let world = World::new(driver);
        let path = std::env::temp_dir().join(format!("twistor-streams-{}-{}", std::process::id(), driver.name()));
        let endpoint = format!("unix:{}", path.display());
        let _port = world.reactor.serve(endpoint.as_str(), async |stream: Stream| {
            while let Some(chunk) = stream.read_chunk(1 << 16).await? {
                stream.write_bytes(chunk).await?;
            }
            Ok::<_, io::Error>(())
        }).unwrap();
        let handle = (*world.reactor).clone();
        let (answer, data) = (pattern(1 << 20), pattern(1 << 20));
        let echoed = complete(&world, async move {
            let (reader, writer) = handle.connect_stream(endpoint.as_str()).await.unwrap().split();
            let writing = handle.spawn(async move {
                writer.write_all(&data).await.unwrap();
                writer.shutdown().await.unwrap();
            });
            let all = reader.read_to_end(2 << 20).await.unwrap();
            writing.await.unwrap();
            all
        });
        assert!(echoed == answer);
    }

    // Line 49.
    fn an_adopted_descriptor_becomes_a_stream(driver) {
        let world = World::new(driver);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let made = Rc::new(RefCell::new(None));
        let place = Rc::clone(&made);
        let protocol = StreamProtocol::new(move |stream| *place.borrow_mut() = Some(stream));
        world.reactor.adopt_connection(ours, protocol).unwrap();
        world.until("it is made", || made.borrow().is_some());
        let stream = made.take().unwrap();
        let peer = thread::spawn(move || {
            theirs.write_all(b"name?\n").unwrap();
            let mut answer = String::new();
            theirs.read_to_string(&mut answer).unwrap();
            answer
        });
        complete(&world, async move {
            assert_eq!(stream.read_line(20).await.unwrap().as_deref(), Some("name?"));
            stream.write_all(b"stream").await.unwrap();
        });
        world.until("the peer has read", || peer.is_finished());
        assert_eq!(peer.join().unwrap(), "stream");
    }

    // Line 65.
    fn the_pipes_of_a_child_are_streams(driver) {
        let world = World::new(driver);
        let process = world.reactor.command("cat").spawn(Quiet).unwrap();
        let input = Stream::take_over(&process.pipe(0).unwrap());
        let output = Stream::take_over(&process.pipe(1).unwrap());
        let data = pattern(1 << 20);
        let sent = data.clone();
        let handle = (*world.reactor).clone();
        let came = complete(&world, async move {
            handle.spawn(async move { input.write_all(&sent).await.unwrap() }).detach();
            let came = output.read_to_end(2 << 20).await.unwrap();
            // The direction that a pipe does not have.
            assert_eq!(output.write_all(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
            came
        });
        assert!(came == data);
        world.until("the child has ended", || process.status().is_some());
        assert!(process.status().unwrap().success());
    }

    // Lines 24, 65.
    fn one_way_pipes_are_read_to_their_end_and_written_until_nobody_reads(driver) {
        let world = World::new(driver);
        let streams = Rc::new(RefCell::new(Vec::new()));
        let collect = || {
            let streams = Rc::clone(&streams);
            StreamProtocol::new(move |stream| streams.borrow_mut().push(stream))
        };
        let (reader, mut writer) = io::pipe().unwrap();
        world.reactor.adopt_pipe(Some(reader.into()), None, collect()).unwrap();
        let (far_reader, far_writer) = io::pipe().unwrap();
        world.reactor.adopt_pipe(None, Some(far_writer.into()), collect()).unwrap();
        world.until("both are made", || streams.borrow().len() == 2);
        let [input, output] = <[Stream; 2]>::try_from(streams.take()).unwrap();
        writer.write_all(b"all there is").unwrap();
        drop(writer);
        let all = complete(&world, async move { input.read_to_end(100).await.unwrap() });
        assert_eq!(all, "all there is");
        drop(far_reader);
        let outcome = complete(&world, async move {
            loop {
                if let Err(error) = output.write_all(&[1; 1000]).await {
                    return error.kind();
                }
                twistor::task::yield_now().await;
            }
        });
        assert_eq!(outcome, ErrorKind::ConnectionReset);
    }
}
