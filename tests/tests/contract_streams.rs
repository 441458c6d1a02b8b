//! Streams for tasks: what the contract promises a protocol, seen from a task that reads and writes.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_io::AsyncWrite;
use twistor::{Protocol, Reason, ServeOptions, Stream, StreamProtocol, Timeouts, Transport};
use twistor_tests::{Buffers, Ending, Event, Log, Peer, Script, World, contract, logged, pattern};

/// Runs a task to its end.
fn run<T: 'static>(world: &World, what: &str, future: impl Future<Output = T> + 'static) -> T {
    let started = start(world, future);
    world.until(what, || started.borrow().is_some());
    started.take().unwrap()
}

/// Starts a task, whose output comes into the cell.
fn start<T: 'static>(world: &World, future: impl Future<Output = T> + 'static) -> Rc<RefCell<Option<T>>> {
    let output = Rc::new(RefCell::new(None));
    let place = Rc::clone(&output);
    world.reactor.spawn(async move {
        let value = future.await;
        *place.borrow_mut() = Some(value);
    });
    output
}

/// A stream and its peer.
fn pair(world: &World) -> (Stream, Peer<'_>) {
    pair_with(world, Buffers::default())
}

fn pair_with(world: &World, buffers: Buffers) -> (Stream, Peer<'_>) {
    let made = Rc::new(RefCell::new(None));
    let place = Rc::clone(&made);
    let port = world.listen_with(buffers, move |_| {
        let place = Rc::clone(&place);
        StreamProtocol::new(move |stream| *place.borrow_mut() = Some(stream))
    });
    let address = port.local_addr().socket_addr().unwrap();
    let peer = Peer::connect_with(world, address, buffers);
    world.until("there is a stream", || made.borrow().is_some());
    let stream = made.take().unwrap();
    (stream, peer)
}

/// Reads to the end, a few bytes at a time.
async fn drain(stream: &Stream, step: usize) -> io::Result<Vec<u8>> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; step]);
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(all),
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
}

fn kind<T: std::fmt::Debug>(outcome: io::Result<T>) -> ErrorKind {
    outcome.unwrap_err().kind()
}

contract! {
    // Line 27.
    fn a_large_buffer_of_a_vectored_write_is_offered_to_the_kernel_and_not_copied(driver) {
        let world = World::new(driver);
        let (mut stream, peer) = pair(&world);
        let (head, body) = (pattern(100), pattern(40 * 1024));
        let mut expected = head.clone();
        expected.extend_from_slice(&body);
        let written = start(&world, async move {
            let (mut done, mut queued) = (0, 0);
            while done < head.len() + body.len() {
                let rest = &body[done.saturating_sub(head.len())..];
                let slices = [IoSlice::new(head.get(done..).unwrap_or_default()), IoSlice::new(rest)];
                done += poll_fn(|cx| Pin::new(&mut stream).poll_write_vectored(cx, &slices)).await.unwrap();
                queued = queued.max(stream.transport().queued());
            }
            (stream, queued)
        });
        assert_eq!(peer.receive(expected.len()), expected);
        world.until("it is written", || written.borrow().is_some());
        let (_stream, queued) = written.take().unwrap();
        assert!(queued < 32 * 1024, "{queued} bytes were copied");
    }

    // Line 19.
    fn a_task_reads_every_byte_in_order_however_it_is_cut(driver) {
        for step in [1, 7, 4096, 1 << 20] {
            let world = World::new(driver);
            let (stream, peer) = pair(&world);
            let data = pattern(if step == 1 { 20_000 } else { 1 << 20 });
            let read = start(&world, async move { drain(&stream, step).await });
            peer.send(&data);
            peer.finish();
            world.until("all is read", || read.borrow().is_some());
            assert!(read.take().unwrap().unwrap() == data);
        }
    }

    // Lines 19, 27.
    fn bytes_that_come_one_by_one_go_out_again(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        start(&world, async move {
            let mut byte = [0];
            while stream.read(&mut byte).await.unwrap() == 1 {
                stream.write_all(&byte).await.unwrap();
            }
        });
        for byte in b"one by one" {
            peer.send(&[*byte]);
            assert_eq!(peer.receive(1), [*byte]);
        }
        peer.finish();
        assert_eq!(peer.receive_to_end(), (Vec::new(), Ending::Fin));
        world.until("the connection is gone", || world.reactor.stats().connections == 0);
    }

    // Line 20.
    fn a_task_that_does_not_read_makes_its_peer_wait(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair_with(&world, Buffers::TIGHT);
        let data = pattern(4 << 20);
        let mut sent = 0;
        let deadline = world.now() + Duration::from_millis(300);
        while world.now() < deadline {
            sent += peer.try_send(&data[sent..]);
            world.turn(Duration::from_millis(1));
            assert!(stream.buffered() <= 64 * 1024 + 256 * 1024, "{} bytes are kept", stream.buffered());
        }
        assert!(sent < data.len(), "the peer never had to wait");
        assert!(stream.buffered() >= 64 * 1024, "{}", stream.buffered());
        world.assert_sleeps("nobody reads");
        let wanted = data.len();
        let read = start(&world, async move {
            let mut all = vec![0; wanted];
            stream.read_exact(&mut all).await.map(|()| all)
        });
        peer.send(&data[sent..]);
        world.until("all is read", || read.borrow().is_some());
        assert!(read.take().unwrap().unwrap() == data);
    }

    // Lines 20, 24.
    fn a_slow_reader_gets_everything_and_little_is_kept_for_it(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        let data = pattern(2 << 20);
        let most = Rc::new(Cell::new(0));
        let seen = Rc::clone(&most);
        let read = start(&world, async move {
            let (mut all, mut buffer) = (Vec::new(), vec![0; 10_000]);
            loop {
                seen.set(seen.get().max(stream.buffered()));
                match stream.read(&mut buffer).await.unwrap() {
                    0 => return all,
                    count => all.extend_from_slice(&buffer[..count]),
                }
                twistor::task::yield_now().await;
            }
        });
        peer.send(&data);
        peer.finish();
        world.until("all is read", || read.borrow().is_some());
        assert!(read.take().unwrap() == data);
        assert!(most.get() <= 64 * 1024 + 256 * 1024, "{}", most.get());
    }

    // Lines 24, 25, 40.
    fn each_direction_ends_by_itself(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        peer.send(b"the last words");
        peer.finish();
        let outcome = start(&world, async move {
            let text = stream.read_to_end(1000).await.unwrap();
            // The peer has finished; we have not.
            stream.write_all(b"you said: ").await.unwrap();
            twistor::task::sleep(Duration::from_millis(10)).await;
            stream.write_all(&text).await.unwrap();
            stream.shutdown().await.unwrap();
            (kind(stream.write_all(b"more").await), stream.closed().await.to_string())
        });
        assert_eq!(peer.receive_to_end(), (b"you said: the last words".to_vec(), Ending::Fin));
        world.until("the task ends", || outcome.borrow().is_some());
        assert_eq!(outcome.take().unwrap(), (ErrorKind::BrokenPipe, "closed".to_owned()));
    }

    // Lines 25, 40.
    fn our_side_can_end_first(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        let read = start(&world, async move {
            stream.write_all(b"question").await.unwrap();
            stream.shutdown().await.unwrap();
            let answer = stream.read_to_end(1000).await.unwrap();
            (answer, stream.closed().await.to_string())
        });
        assert_eq!(peer.receive_to_end(), (b"question".to_vec(), Ending::Fin));
        peer.send(b"answer");
        peer.finish();
        world.until("the task ends", || read.borrow().is_some());
        assert_eq!(read.take().unwrap(), (Bytes::from("answer"), "closed".to_owned()));
    }

    // Lines 23, 41.
    fn a_reset_is_an_error_behind_what_came_before(driver) {
        let world = World::new(driver);
        let (stream, mut peer) = pair(&world);
        peer.send(b"before");
        world.until("it came", || stream.buffered() == 6);
        peer.reset();
        let outcome = run(&world, "the task ends", async move {
            let reason = stream.closed().await;
            let mut buffer = [0; 100];
            let first = stream.read(&mut buffer).await.map(|count| buffer[..count].to_vec());
            let then = kind(stream.read(&mut buffer).await);
            let again = kind(stream.read_exact(&mut buffer).await);
            let write = kind(stream.write_all(b"more").await);
            let flush = kind(stream.flush().await);
            (matches!(reason, Reason::Reset), first.unwrap(), [then, again, write, flush])
        });
        assert_eq!(outcome, (true, b"before".to_vec(), [ErrorKind::ConnectionReset; 4]));
    }

    // Line 41.
    fn a_reset_ends_whatever_waits(driver) {
        let world = World::new(driver);
        let (stream, mut peer) = pair_with(&world, Buffers::TIGHT);
        let (reader, writer) = stream.split();
        let read = start(&world, async move { reader.read(&mut [0; 10]).await });
        let write = start(&world, async move { writer.write_all(&pattern(8 << 20)).await });
        world.turns(20);
        assert!(read.borrow().is_none() && write.borrow().is_none());
        peer.reset();
        world.until("both end", || read.borrow().is_some() && write.borrow().is_some());
        assert_eq!(kind(read.take().unwrap()), ErrorKind::ConnectionReset);
        assert_eq!(kind(write.take().unwrap()), ErrorKind::ConnectionReset);
    }

    // Line 29.
    fn a_task_that_writes_waits_for_a_peer_that_does_not_read(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair_with(&world, Buffers::TIGHT);
        let transport = stream.transport().clone();
        let data = pattern(4 << 20);
        let sent = data.clone();
        let done = start(&world, async move {
            stream.write_all(&sent).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        world.turns(50);
        assert!(done.borrow().is_none());
        assert!(transport.queued() <= 70 * 1024, "{} bytes are queued", transport.queued());
        world.assert_sleeps("the peer does not read");
        let (received, ending) = peer.receive_to_end();
        assert!(received == data);
        assert_eq!(ending, Ending::Fin);
        world.until("the task ends", || done.borrow().is_some());
    }

    // Lines 29, 33.
    fn much_goes_both_ways_at_once(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        let data = pattern(4 << 20);
        let (reader, writer) = stream.split();
        start(&world, async move {
            while let Some(chunk) = reader.read_chunk(1 << 20).await.unwrap() {
                writer.write_bytes(chunk).await.unwrap();
            }
        });
        let mut sent = 0;
        let mut back = Vec::new();
        world.until("all comes back", || {
            sent += peer.try_send(&data[sent..]);
            while let Some(more) = peer.try_receive() {
                if more.is_empty() {
                    break;
                }
                back.extend_from_slice(&more);
            }
            back.len() == data.len()
        });
        assert!(back == data);
    }

    // Line 29.
    fn marks_of_nothing_let_a_writer_go_on_bit_by_bit(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        stream.transport().set_watermarks(0, 0);
        let data = pattern(100_000);
        let sent = data.clone();
        start(&world, async move { stream.write_all(&sent).await });
        assert!(peer.receive(data.len()) == data);
    }

    // Line 28.
    fn large_bytes_are_written_whole(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair_with(&world, Buffers::TIGHT);
        let data = Bytes::from(pattern(1 << 20));
        let sent = data.clone();
        let transport = stream.transport().clone();
        let done = start(&world, async move {
            stream.write_bytes(sent).await.unwrap();
            stream.write_bytes("and more").await.unwrap();
        });
        world.turns(5);
        assert!(transport.queued() > 500_000 && done.borrow().is_none());
        assert!(peer.receive(data.len()) == data);
        assert_eq!(peer.receive(8), b"and more");
    }

    // Line 31.
    fn a_flush_waits_until_the_kernel_has_all(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair_with(&world, Buffers::TIGHT);
        let stream = Rc::new(stream);
        let writing = Rc::clone(&stream);
        let flushed = start(&world, async move {
            writing.write_bytes(pattern(1 << 20)).await.unwrap();
            writing.flush().await.unwrap();
            writing.transport().queued()
        });
        world.turns(20);
        assert!(flushed.borrow().is_none());
        world.assert_sleeps("the peer does not read");
        let _ = peer.receive(1 << 20);
        world.until("it is flushed", || flushed.borrow().is_some());
        assert_eq!(flushed.take(), Some(0));
        // What the kernel takes at once does not wait.
        let again = Rc::clone(&stream);
        let polls = Rc::new(Cell::new(0));
        let counted = Rc::clone(&polls);
        start(&world, async move {
            again.write_all(b"little").await.unwrap();
            let mut flush = std::pin::pin!(again.flush());
            poll_fn(|cx| {
                counted.set(counted.get() + 1);
                flush.as_mut().poll(cx)
            })
            .await
            .unwrap();
        });
        assert_eq!(peer.receive(6), b"little");
        assert_eq!(polls.get(), 1);
    }

    // Line 37.
    fn dropping_a_stream_flushes_what_was_written_and_ends_well(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair_with(&world, Buffers::TIGHT);
        let data = pattern(1 << 20);
        let sent = data.clone();
        start(&world, async move { stream.write_bytes(sent).await.unwrap() });
        // There is input that nobody will read: the peer gets a FIN all the same.
        let _ = peer.try_send(b"unread");
        let (received, ending) = peer.receive_to_end();
        assert!(received == data);
        assert_eq!(ending, Ending::Fin);
    }

    // Line 37.
    fn a_stream_that_is_dropped_while_it_writes_sends_what_was_queued(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair_with(&world, Buffers::TIGHT);
        let data = pattern(8 << 20);
        let all = data.clone();
        let task = world.reactor.spawn(async move { stream.write_all(&all).await });
        world.turns(20);
        assert!(!task.is_finished());
        task.cancel();
        let (received, ending) = peer.receive_to_end();
        assert!(!received.is_empty() && received.len() < data.len(), "{}", received.len());
        assert!(received == data[..received.len()]);
        assert_eq!(ending, Ending::Fin);
        drop(peer);
        world.until("the connection is gone", || world.reactor.stats().connections == 0);
    }

    // Line 39.
    fn an_abort_is_a_reset(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair_with(&world, Buffers::TIGHT);
        start(&world, async move {
            stream.write_bytes(pattern(1 << 20)).await.unwrap();
            stream.abort();
        });
        world.turns(5);
        let (received, ending) = peer.receive_to_end();
        assert!(received.len() < 1 << 20);
        assert_eq!(ending, Ending::Reset);
        world.until("the connection is gone", || world.reactor.stats().connections == 0);
    }

    // Line 5.
    fn a_task_that_panics_resets_its_own_connection_only(driver) {
        let world = World::new(driver);
        let port = world.reactor.serve("tcp:0:interface=127.0.0.1", async |stream: Stream| {
            let word = stream.read_line(100).await.unwrap().unwrap();
            assert!(word != "panic", "as wanted");
            stream.write_all(word.as_bytes()).await.unwrap();
        }).unwrap();
        let (one, two) = (world.connect(&port), world.connect(&port));
        one.send(b"panic\n");
        assert_eq!(one.receive_to_end().1, Ending::Reset);
        two.send(b"good\n");
        assert_eq!(two.receive_to_end(), (b"good".to_vec(), Ending::Fin));
    }

    // Line 7.
    fn input_ends_when_the_reactor_stops_and_the_last_words_are_sent(driver) {
        let world = World::new(driver);
        let port = world.reactor.serve("tcp:0:interface=127.0.0.1", async |stream: Stream| {
            while let Some(line) = stream.read_line(100).await? {
                stream.write_all(line.as_bytes()).await?;
            }
            // Not at once.
            twistor::task::sleep(Duration::from_millis(20)).await;
            stream.write_all(b" goodbye").await
        }).unwrap();
        let peer = world.connect(&port);
        peer.send(b"hello\n");
        assert_eq!(peer.receive(5), b"hello");
        world.reactor.stop();
        while world.turn(Duration::from_millis(1)) {
            // What comes now is not served any more.
            if world.reactor.is_stopping() && peer.socket().write(b"late\n").is_err() {
                break;
            }
        }
        assert_eq!(peer.receive_to_end().0, b" goodbye");
    }

    // Line 7.
    fn a_task_can_outlast_a_stop_until_the_drain_time_out(driver) {
        let world = World::with(driver, |builder| builder.drain_timeout(Duration::from_millis(200)));
        let (stream, peer) = pair(&world);
        stream.outlast_stop();
        let heard = start(&world, async move {
            let line = stream.read_line(100).await.unwrap().unwrap();
            (line, kind(stream.read_line(100).await), stream.reason().unwrap().to_string())
        });
        world.reactor.stop();
        for _ in 0..5 {
            world.turn(Duration::from_millis(1));
        }
        let _ = peer.try_send(b"after the stop\n");
        let mut goes_on = true;
        while goes_on {
            goes_on = world.turn(Duration::from_millis(1));
        }
        let (line, kind, reason) = heard.take().expect("the task has ended");
        assert_eq!(line, "after the stop");
        assert_eq!((kind, &*reason), (ErrorKind::ConnectionAborted, "the reactor stopped"));
    }

    // Line 7.
    fn a_stop_is_no_proof_that_everything_came(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        peer.send(b"half of it");
        world.until("it came", || stream.buffered() == 10);
        let outcome = start(&world, async move {
            let all = stream.read_to_end(1000).await.map_err(|error| error.to_string());
            let exact = stream.read_exact(&mut [0; 20]).await.map_err(|error| error.to_string());
            let mut rest = [0; 20];
            (all, exact, stream.read(&mut rest).await.unwrap(), stream.read(&mut rest).await.unwrap())
        });
        world.turns(3);
        world.reactor.stop();
        while world.turn(Duration::from_millis(1)) {}
        let (all, exact, rest, end) = outcome.take().expect("the task has ended");
        assert_eq!(all, Err("the reactor is stopping: more may have been to come".to_owned()));
        assert_eq!(exact, Err("the reactor is stopping: 10 of 20 bytes came".to_owned()));
        assert_eq!((rest, end), (10, 0));
    }

    // Lines 36, 41.
    fn a_time_out_of_the_connection_is_an_error_of_that_kind(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        stream.transport().set_timeouts(Timeouts::new().idle(Duration::from_millis(50)));
        let outcome = run(&world, "the time-out passes", async move {
            (kind(stream.read(&mut [0; 8]).await), stream.reason().unwrap())
        });
        assert_eq!(outcome.0, ErrorKind::TimedOut);
        assert!(matches!(outcome.1, Reason::TimedOut(_)));
        assert_eq!(peer.receive_to_end().1, Ending::Reset);
    }

    // Lines 30, 41.
    fn the_write_limit_is_an_error_that_says_so(driver) {
        let world = World::new(driver);
        let (stream, _peer) = pair_with(&world, Buffers::TIGHT);
        stream.transport().set_write_limit(100_000);
        let outcome = run(&world, "the limit is passed", async move {
            // A writer that does not keep to the marks.
            stream.transport().write(&vec![0; 1 << 20]);
            stream.transport().write(&vec![0; 1 << 20]);
            stream.transport().write(b"one too many");
            let reason = stream.closed().await.to_string();
            (kind(stream.write_all(b"more").await), kind(stream.read(&mut [0]).await), reason)
        });
        assert_eq!((outcome.0, outcome.1), (ErrorKind::QuotaExceeded, ErrorKind::QuotaExceeded));
        assert!(outcome.2.contains("write limit"), "{}", outcome.2);
    }

    // Line 19.
    fn exactly_so_many_bytes_or_none(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        let stream = Rc::new(stream);
        let reading = Rc::clone(&stream);
        let task = world.reactor.spawn(async move { reading.read_exact(&mut [0; 10]).await });
        peer.send(b"01234");
        world.until("it came", || stream.buffered() == 5);
        world.turns(3);
        // It takes nothing before it has all, so that nothing is lost with it.
        assert!(!task.is_finished());
        task.cancel();
        world.turns(3);
        let reading = Rc::clone(&stream);
        peer.send(b"56789");
        let outcome = run(&world, "all is there", async move {
            let mut buffer = [0; 10];
            reading.read_exact(&mut buffer).await.map(|()| buffer)
        });
        assert_eq!(outcome.unwrap(), *b"0123456789");
        peer.send(b"abc");
        peer.finish();
        let outcome = run(&world, "the end is there", async move {
            let error = stream.read_exact(&mut [0; 4]).await.unwrap_err();
            let rest = stream.read_to_end(10).await.unwrap();
            (error.kind(), error.to_string(), rest)
        });
        let text = "the stream has ended: 3 of 4 bytes came".to_owned();
        assert_eq!(outcome, (ErrorKind::UnexpectedEof, text, Bytes::from("abc")));
    }

    // Line 19.
    fn more_than_the_buffer_holds_can_be_read_exactly(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        let data = pattern(1 << 20);
        let read = start(&world, async move {
            let mut buffer = vec![0; 1 << 20];
            stream.read_exact(&mut buffer).await.unwrap();
            (buffer, stream)
        });
        peer.send(&data);
        world.until("all is there", || read.borrow().is_some());
        let (buffer, stream) = read.take().unwrap();
        assert!(buffer == data);
        assert_eq!(stream.buffered(), 0);
        // Afterwards the usual limit holds again.
        let more = pattern(4 << 20);
        let mut sent = 0;
        for _ in 0..200 {
            sent += peer.try_send(&more[sent..]);
            world.turn(Duration::ZERO);
        }
        assert!(stream.buffered() <= 64 * 1024 + 256 * 1024, "{}", stream.buffered());
    }

    // Line 19.
    fn lines_are_cut_at_their_ends_and_nowhere_else(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        let lines = start(&world, async move {
            let mut lines = Vec::new();
            while let Some(line) = stream.read_line(20).await.unwrap() {
                lines.push(line);
            }
            lines
        });
        for chunk in ["one\ntw", "o\r", "\n", "\nfour 4 4 4\nfi", "ve"] {
            peer.send(chunk.as_bytes());
            world.turns(3);
        }
        peer.finish();
        world.until("the task ends", || lines.borrow().is_some());
        assert_eq!(lines.take().unwrap(), ["one", "two", "", "four 4 4 4", "five"]);
    }

    fn a_line_above_the_limit_is_an_error_and_stays_where_it_is(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        peer.send(b"short\r\n\nexactly10\nlonger than that\nlast");
        peer.finish();
        let outcome = run(&world, "the task ends", async move {
            let mut lines = Vec::new();
            for _ in 0..3 {
                lines.push(stream.read_line(10).await.unwrap().unwrap());
            }
            let error = stream.read_line(10).await.unwrap_err();
            lines.push(error.to_string());
            lines.push(stream.read_line(100).await.unwrap().unwrap());
            lines.push(stream.read_line(100).await.unwrap().unwrap());
            assert_eq!(stream.read_line(100).await.unwrap(), None);
            lines
        });
        let error = "no delimiter within the limit of 10 bytes";
        assert_eq!(outcome, ["short", "", "exactly10", error, "longer than that", "last"]);
    }

    // Line 20.
    fn an_endless_line_is_not_kept(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        let outcome = start(&world, async move {
            let kind = kind(stream.read_line(100_000).await);
            (kind, stream.buffered())
        });
        let flood = vec![b'x'; 4 << 20];
        let mut sent = 0;
        world.until("the limit is reached", || {
            sent += if outcome.borrow().is_none() { peer.try_send(&flood[sent..]) } else { 0 };
            outcome.borrow().is_some()
        });
        let (kind, kept) = outcome.take().unwrap();
        assert_eq!(kind, ErrorKind::InvalidData);
        assert!(kept <= 100_000 + 256 * 1024, "{kept}");
    }

    fn reading_to_the_end_has_a_limit(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        peer.send(&[7; 1001]);
        peer.finish();
        let outcome = run(&world, "the task ends", async move {
            let error = stream.read_to_end(1000).await.unwrap_err();
            (error.kind(), error.to_string(), stream.read_to_end(1001).await.unwrap().len())
        });
        let text = "more than the limit of 1000 bytes came".to_owned();
        assert_eq!(outcome, (ErrorKind::InvalidData, text, 1001));
    }

    // Line 75.
    fn a_read_that_is_cancelled_anywhere_loses_nothing(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        let data = pattern(50_000);
        let read = start(&world, async move {
            let mut all = Vec::new();
            let mut buffer = [0; 999];
            let mut round = 0;
            loop {
                round += 1;
                let mut read = Box::pin(stream.read(&mut buffer));
                // Every other read is dropped when it has to wait.
                let mut patience = round % 2;
                let outcome = poll_fn(|cx| match read.as_mut().poll(cx) {
                    Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
                    Poll::Pending if patience == 0 => Poll::Ready(None),
                    Poll::Pending => {
                        patience = 0;
                        Poll::Pending
                    }
                })
                .await;
                drop(read);
                match outcome {
                    Some(Ok(0)) => return all,
                    Some(Ok(count)) => all.extend_from_slice(&buffer[..count]),
                    Some(Err(error)) => panic!("{error}"),
                    None => twistor::task::yield_now().await,
                }
            }
        });
        for chunk in data.chunks(777) {
            peer.send(chunk);
            world.turns(2);
        }
        peer.finish();
        world.until("all is read", || read.borrow().is_some());
        assert!(read.take().unwrap() == data);
    }

    fn two_tasks_can_wait_for_the_same_stream(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        let stream = Rc::new(stream);
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let stream = Rc::clone(&stream);
                start(&world, async move { stream.read_line(10).await.unwrap().unwrap() })
            })
            .collect();
        world.turns(3);
        world.assert_sleeps("nothing has come");
        peer.send(b"a\nb\nc\n");
        world.until("each has a line", || readers.iter().all(|reader| reader.borrow().is_some()));
        let mut lines: Vec<_> = readers.iter().map(|reader| reader.take().unwrap()).collect();
        lines.sort();
        assert_eq!(lines, ["a", "b", "c"]);
    }

    // Line 40.
    fn dropping_the_writing_half_ends_our_side(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        let (reader, writer) = stream.split();
        start(&world, async move { writer.write_all(b"all").await });
        assert_eq!(peer.receive_to_end(), (b"all".to_vec(), Ending::Fin));
        let rest = start(&world, async move { reader.read_to_end(100).await.unwrap() });
        peer.send(b"rest");
        peer.finish();
        world.until("it is read", || rest.borrow().is_some());
        assert_eq!(rest.take().unwrap(), "rest");
        world.until("the connection is gone", || world.reactor.stats().connections == 0);
    }

    fn dropping_the_reading_half_throws_input_away(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        // As full as it gets.
        let flood = pattern(3 << 20);
        let mut sent = 0;
        for _ in 0..200 {
            sent += peer.try_send(&flood[sent..]);
            world.turn(Duration::ZERO);
        }
        let (reader, writer) = stream.split();
        drop(reader);
        peer.send(&flood[sent..]);
        start(&world, async move { writer.write_all(b"still here").await });
        peer.finish();
        assert_eq!(peer.receive_to_end(), (b"still here".to_vec(), Ending::Fin));
        world.until("the connection is gone", || world.reactor.stats().connections == 0);
    }

    fn halves_of_one_stream_can_be_united(driver) {
        let world = World::new(driver);
        let (one, _peer) = pair(&world);
        let (two, peer) = pair(&world);
        let (first, second) = (one.split(), two.split());
        let (reader, writer) = first.0.unite(second.1).expect_err("of two streams");
        drop(first.1);
        let stream = second.0.unite(writer).expect("of one");
        drop(reader);
        start(&world, async move { stream.write_all(b"whole").await });
        assert_eq!(peer.receive_to_end().0, b"whole");
    }

    // Line 22.
    fn a_protocol_hands_over_to_a_task_with_what_it_did_not_use(driver) {
        struct Header;
        impl Protocol for Header {
            fn data_received(&mut self, transport: &Transport, data: &[u8]) {
                if data[0] == b'!' {
                    transport.unread(data[1..].to_vec());
                    transport.pause_reading();
                    let stream = Stream::take_over(transport);
                    transport.reactor().spawn(async move {
                        let text = stream.read_to_end(100).await.unwrap();
                        stream.write_all(&text).await.unwrap();
                    });
                }
            }
        }
        let world = World::new(driver);
        let (_transport, peer) = world.pair(Header);
        peer.send(b"!body ");
        world.turns(3);
        peer.send(b"and more");
        peer.finish();
        assert_eq!(peer.receive_to_end(), (b"body and more".to_vec(), Ending::Fin));
    }

    // Lines 22, 25.
    fn a_task_that_takes_over_after_the_end_sees_the_end(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let script = Script::new(&log).on_eof(|_| twistor::Eof::KeepOpen);
        let (transport, peer) = world.pair(script);
        peer.send(b"all");
        peer.finish();
        world.until("the protocol has heard it", || log.has(&Event::Eof));
        let stream = Stream::take_over(&transport);
        let outcome = run(&world, "the task ends", async move {
            let end = stream.read(&mut [0; 10]).await.unwrap();
            stream.write_all(b"bye").await.unwrap();
            end
        });
        assert_eq!(outcome, 0);
        assert_eq!(peer.receive_to_end(), (b"bye".to_vec(), Ending::Fin));
        assert_eq!(log.lost(), None, "it was replaced");
    }

    // Line 22.
    fn a_task_hands_over_to_a_protocol_with_what_it_did_not_read(driver) {
        for ends_first in [false, true] {
            let world = World::new(driver);
            let (stream, peer) = pair(&world);
            let log = Log::new();
            peer.send(b"task|protocol");
            world.until("it came", || stream.buffered() == 13);
            if ends_first {
                peer.finish();
                world.turns(20);
            }
            let script = Script::new(&log).on_eof(|transport| {
                transport.write(b"done");
                twistor::Eof::Close
            });
            run(&world, "the task ends", async move {
                let word = stream.read_until(b'|', 100).await.unwrap().unwrap();
                assert_eq!(word, "task|");
                let mut stream = stream;
                // Also what is lent to a reader by reference.
                let lent = poll_fn(|cx| {
                    let stream = Pin::new(&mut stream);
                    futures_io::AsyncBufRead::poll_fill_buf(stream, cx).map_ok(<[u8]>::len)
                });
                assert_eq!(lent.await.unwrap(), 8);
                stream.switch_protocol(script);
            });
            if !ends_first {
                peer.send(b"s");
                peer.finish();
            }
            assert_eq!(peer.receive_to_end(), (b"done".to_vec(), Ending::Fin));
            world.until("the loss is told", || log.lost().is_some());
            let told = if ends_first { b"protocol".to_vec() } else { b"protocols".to_vec() };
            assert_eq!(log.data(), told);
            assert_eq!(log.lost().as_deref(), Some("closed"));
        }
    }

    fn a_stream_whose_connection_is_taken_away_says_so(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        let log = Log::new();
        let transport = stream.transport().clone();
        let waiting = start(&world, async move {
            let error = stream.read(&mut [0]).await.unwrap_err();
            (error.to_string(), kind(stream.write_all(b"x").await))
        });
        world.turns(2);
        transport.switch_protocol(Script::new(&log));
        world.until("the task ends", || waiting.borrow().is_some());
        let (text, kind) = waiting.take().unwrap();
        assert!(text.contains("another protocol has taken the connection over"), "{text}");
        assert_eq!(kind, ErrorKind::Other);
        // The connection itself goes on.
        peer.send(b"hello");
        world.until("the protocol hears it", || log.data() == b"hello");
    }

    // Lines 4, 43.
    fn a_thousand_connections_are_served_by_as_many_tasks(driver) {
        const COUNT: usize = 1000;
        let world = World::new(driver);
        let port = world.reactor.serve("tcp:0:interface=127.0.0.1:backlog=2000", async |stream: Stream| {
            let mut name = [0; 4];
            stream.read_exact(&mut name).await?;
            stream.write_all(&name).await?;
            stream.read_exact(&mut name).await?;
            stream.write_all(&name).await
        }).unwrap();
        let peers: Vec<_> = (0..COUNT)
            .map(|index| {
                let peer = world.connect(&port);
                if index % 50 == 0 {
                    world.turn(Duration::ZERO);
                }
                peer
            })
            .collect();
        for round in 0..2 {
            for (index, peer) in peers.iter().enumerate() {
                peer.send(&(index as u32 + round).to_be_bytes());
            }
            for (index, peer) in peers.iter().enumerate() {
                assert_eq!(peer.receive(4), (index as u32 + round).to_be_bytes());
            }
        }
        drop(peers);
        world.until("all are gone", || world.reactor.stats().connections == 0);
        world.turns(3);
        assert!(world.reactor.tasks().is_empty());
    }

    // Line 47.
    fn a_port_serves_so_many_at_a_time_and_goes_on_when_one_leaves(driver) {
        let world = World::new(driver);
        let options = ServeOptions::new().max_connections(2);
        let port = world.reactor.serve_with(options, "tcp:0:interface=127.0.0.1", async |stream: Stream| {
            stream.write_all(b"in").await.unwrap();
            let _ = stream.read_line(100).await;
        }).unwrap();
        let peers: Vec<_> = (0..5).map(|_| world.connect(&port)).collect();
        world.run_for(Duration::from_millis(30));
        let served = |peer: &Peer<'_>| peer.try_receive() == Some(b"in".to_vec());
        assert_eq!(peers.iter().filter(|peer| served(peer)).count(), 2);
        assert_eq!(world.reactor.stats().connections, 2);
        assert!(!port.is_accepting());
        drop(peers);
        let late = world.connect(&port);
        assert_eq!(late.receive(2), b"in");
        world.until("it accepts again", || port.is_accepting());
    }

    // Line 19.
    fn a_line_is_found_also_when_another_task_has_taken_what_came_before_it(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        let (stream, other) = (Rc::new(stream), Rc::new(Cell::new(None)));
        let (reading, taking, taken) = (Rc::clone(&stream), Rc::clone(&stream), Rc::clone(&other));
        let line = start(&world, async move { reading.read_line(100).await });
        peer.send(b"abc");
        world.until("it came", || stream.buffered() == 3);
        world.turns(2);
        start(&world, async move { taken.set(taking.read(&mut [0; 3]).await.ok()) });
        world.until("it is taken", || other.get() == Some(3));
        peer.send(b"x\nyz");
        world.until("the line is read", || line.borrow().is_some());
        assert_eq!(line.take().unwrap().unwrap().as_deref(), Some("x"));
    }

    // Line 47.
    fn a_connection_counts_until_it_is_lost_also_when_its_task_has_ended(driver) {
        let world = World::new(driver);
        let options = ServeOptions::new().max_connections(2);
        let port = world.reactor.serve_with(options, "tcp:0:interface=127.0.0.1", async |stream: Stream| {
            stream.write_all(b"in").await.unwrap();
        }).unwrap();
        // They are served and told the end, but keep their side open.
        let peers: Vec<_> = (0..5).map(|_| world.connect(&port)).collect();
        world.run_for(Duration::from_millis(30));
        assert_eq!((world.reactor.stats().tasks, world.reactor.stats().connections), (0, 2));
        assert!(!port.is_accepting());
        drop(peers);
        world.until("it accepts again", || port.is_accepting());
        world.until("all are gone", || world.reactor.stats().connections == 0);
    }

    // Line 5.
    fn a_task_that_panics_is_logged_with_where_it_was_asked_for(driver) {
        logged::keep();
        let world = World::new(driver);
        let line = line!() + 1;
        let port = world.reactor.serve("tcp:0:interface=127.0.0.1", async |stream: Stream| {
            assert!(stream.peer_addr() == stream.local_addr(), "a mistake in the handler");
        }).unwrap();
        let peer = world.connect(&port);
        assert_eq!(peer.receive_to_end().1, Ending::Reset);
        let lines = logged::take();
        let wanted = format!("contract_streams.rs:{line}:");
        assert!(lines.len() == 1 && lines[0].contains(&wanted), "{lines:?}");
    }

    fn time_outs_of_all_connections_are_set_at_once(driver) {
        let world = World::new(driver);
        let options = ServeOptions::new().timeouts(Timeouts::new().idle(Duration::from_millis(30)));
        let seen = Rc::new(RefCell::new(None));
        let place = Rc::clone(&seen);
        let port = world.reactor.serve_with(options, "tcp:0:interface=127.0.0.1", async move |stream: Stream| {
            *place.borrow_mut() = stream.read(&mut [0]).await.err();
        }).unwrap();
        let peer = world.connect(&port);
        assert_eq!(peer.receive_to_end().1, Ending::Reset);
        world.until("the task ends", || seen.borrow().is_some());
        assert_eq!(seen.take().unwrap().kind(), ErrorKind::TimedOut);
    }

    // Line 9.
    fn streams_survive_their_reactor_and_do_nothing(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        peer.send(b"left over");
        world.until("it came", || stream.buffered() == 9);
        let pending = start(&world, async { std::future::pending::<()>().await });
        drop(peer);
        let simulation = world.end();
        assert!(pending.borrow().is_none());
        assert_eq!(stream.reason().unwrap().to_string(), "the reactor stopped");
        let mut read = Box::pin(async { (stream.read(&mut [0; 20]).await, stream.read(&mut [0]).await) });
        let polled = read.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        let Poll::Ready((first, then)) = polled else { panic!("a lost stream does not wait") };
        assert_eq!((first.unwrap(), kind(then)), (9, ErrorKind::ConnectionAborted));
        drop(read);
        drop(stream);
        drop(simulation);
    }

    // Line 4.
    fn a_task_that_always_finds_input_does_not_keep_others_waiting(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        peer.send(&[1; 60_000]);
        world.until("it came", || stream.buffered() == 60_000);
        let reads = Rc::new(Cell::new(0));
        let counted = Rc::clone(&reads);
        let stopped = start(&world, async move {
            while stream.read(&mut [0]).await.unwrap() == 1 {
                counted.set(counted.get() + 1);
                if counted.get() == 59_000 {
                    return;
                }
            }
        });
        world.turns(2);
        assert!(reads.get() > 0 && reads.get() < 1000, "{} reads in two passes", reads.get());
        world.until("it gets there", || stopped.borrow().is_some());
    }
}
