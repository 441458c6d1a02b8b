//! Streams for tasks: bytes, lines and ends that are read.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use twistor::Stream;
use twistor_tests::streams::{kind, pair, pair_with, run, start};
use twistor_tests::{Buffers, Ending, World, contract, pattern};

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

contract! {
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
}
