//! Streams for tasks: what the contract promises a protocol, seen from a task: both directions, writing, how
//! it ends, and handing over between tasks and protocols.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{ErrorKind, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_io::AsyncWrite;
use twistor::{Protocol, Reason, Stream, Timeouts, Transport};
use twistor_tests::streams::{kind, pair, pair_with, run, start};
use twistor_tests::{Buffers, Ending, Event, Log, Script, World, contract, pattern};

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
}
