//! The contract, section 4: files in the queue.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::RefCell;
use std::fs::File;
use std::io::Write;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use twistor::{Deferred, Reason};
use twistor_tests::{Buffers, Ending, Event, Log, Script, World, pattern, stream_contract};

/// An open file without a name.
fn file(data: &[u8]) -> File {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("twistor-send-file-{}-{number}", std::process::id()));
    let mut options = File::options();
    let mut file = options.read(true).write(true).create_new(true).open(&path).expect("a file");
    file.write_all(data).expect("content");
    std::fs::remove_file(&path).expect("the name is not needed");
    file
}

type Outcome = Rc<RefCell<Option<Result<(), String>>>>;

fn outcome(deferred: Deferred<(), Reason>) -> Outcome {
    let outcome = Outcome::default();
    let seen = Rc::clone(&outcome);
    deferred.on_done(move |_, result| {
        *seen.borrow_mut() = Some(result.map_err(|reason| reason.to_string()));
    });
    outcome
}

stream_contract! {
    // Line 35.
    fn files_keep_their_place_among_other_writes(driver) {
        let world = World::new(driver);
        let (transport, peer) = world.pair(Script::new(&Log::new()));
        let content = pattern(10_000);
        transport.write(b"<a>");
        drop(transport.send_file(file(&content), 0..10_000));
        transport.write(b"<b>");
        drop(transport.send_file(file(&content), 5000..5100));
        drop(transport.send_file(file(&content), 1..2));
        transport.write_bytes(vec![b'c'; 6000]);
        drop(transport.send_file(file(&content), 9999..10_000));
        transport.write(b"<d>");
        let expected = [
            b"<a>",
            &content[..],
            b"<b>",
            &content[5000..5100],
            &content[1..2],
            &[b'c'; 6000],
            &content[9999..],
            b"<d>",
        ]
        .concat();
        assert!(peer.receive(expected.len()) == expected);
    }

    // Line 35.
    fn a_file_through_tiny_buffers_arrives_whole(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair_with(Buffers::TIGHT, Script::new(&log));
        let content = pattern(400_000);
        transport.write(&content[..1000]);
        let done = outcome(transport.send_file(file(&content), 1000..400_000));
        world.turns(5);
        assert_eq!(*done.borrow(), None, "the kernel cannot have taken it");
        assert!(peer.receive(content.len()) == content);
        world.until("the outcome", || done.borrow().is_some());
        assert_eq!(done.take(), Some(Ok(())));
        assert_eq!(transport.stats().bytes_sent, 400_000);
    }

    // Lines 29, 30 and 35.
    fn a_file_counts_towards_no_mark_and_no_limit(driver) {
        let world = World::with(driver, |builder| builder.write_limit(1000).watermarks(100, 10));
        let log = Log::new();
        let (transport, peer) = world.pair_with(Buffers::TIGHT, Script::new(&log));
        let content = pattern(200_000);
        for _ in 0..3 {
            drop(transport.send_file(file(&content), 0..200_000));
        }
        assert_eq!(transport.queued(), 0);
        world.turns(5);
        assert_eq!(log.events(), [Event::Made]);
        assert!(peer.receive(600_000) == content.repeat(3));
        assert_eq!(log.events(), [Event::Made]);
    }

    // Line 35.
    fn empty_ranges_send_nothing(driver) {
        let world = World::new(driver);
        let (transport, peer) = world.pair(Script::new(&Log::new()));
        let content = pattern(100);
        #[allow(clippy::reversed_empty_ranges, reason = "nobody checks ranges that are computed")]
        let ranges = [0..0, 50..50, 100..100, 60..50, 1000..1000];
        for range in ranges {
            let done = outcome(transport.send_file(file(&content), range));
            world.until("the outcome", || done.borrow().is_some());
            assert_eq!(done.take(), Some(Ok(())));
        }
        transport.write(b"x");
        assert_eq!(peer.receive(1), b"x");
        world.assert_sleeps("nothing is queued");
    }

    // Line 35.
    fn a_range_beyond_the_end_of_the_file_is_an_error(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log));
        let done = outcome(transport.send_file(file(&pattern(100)), 50..200));
        world.until("the loss", || log.lost().is_some());
        let text = log.lost().unwrap();
        assert!(text.starts_with("failed: ") && text.contains("shorter"), "{text}");
        assert_eq!(peer.receive_to_end().1, Ending::Reset, "a cut file must not look complete");
        world.until("the outcome", || done.borrow().is_some());
        assert_eq!(done.take(), Some(Err(text)));
    }

    // Line 35.
    fn a_file_that_shrinks_while_it_is_sent_is_an_error(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair_with(Buffers::TIGHT, Script::new(&log));
        let file = file(&pattern(300_000));
        let done = outcome(transport.send_file(file.try_clone().unwrap(), 0..300_000));
        let mut received = peer.receive(10_000).len();
        file.set_len(150_000).unwrap();
        world.until("the loss", || {
            received += peer.try_receive().map_or(0, |data| data.len());
            log.lost().is_some()
        });
        assert!(received <= 150_000);
        let text = log.lost().unwrap();
        assert!(text.starts_with("failed: ") && text.contains("shorter"), "{text}");
        assert_eq!(peer.receive_to_end().1, Ending::Reset);
        world.until("the outcome", || done.borrow().is_some());
        assert_eq!(done.take(), Some(Err(text)));
    }

    // Line 35.
    fn what_cannot_be_read_is_an_error(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, _peer) = world.pair(Script::new(&log));
        let write_only = {
            let name = format!("twistor-write-only-{}-{driver:?}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let mut file = File::create(&path).unwrap();
            file.write_all(&[1; 100]).unwrap();
            std::fs::remove_file(&path).unwrap();
            file
        };
        let done = outcome(transport.send_file(write_only, 0..100));
        world.until("the loss", || log.lost().is_some());
        world.until("the outcome", || done.borrow().is_some());
        assert!(done.take().unwrap().is_err());
        assert!(log.lost().unwrap().starts_with("failed: "), "the peer is not to blame: {:?}", log.lost());
    }

    // Lines 35 and 37.
    fn closing_flushes_files_too(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair_with(Buffers::TIGHT, Script::new(&log));
        let content = pattern(200_000);
        let done = outcome(transport.send_file(file(&content), 0..200_000));
        transport.lose_connection();
        let (data, ending) = peer.receive_to_end();
        assert!(data == content);
        assert_eq!(ending, Ending::Fin);
        peer.finish();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.lost().as_deref(), Some("closed"));
        assert_eq!(done.take(), Some(Ok(())));
    }

    // Lines 31 and 35.
    fn the_outcome_fails_with_the_loss(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, _peer) = world.pair_with(Buffers::TIGHT, Script::new(&log));
        let done = outcome(transport.send_file(file(&pattern(200_000)), 0..200_000));
        world.turns(3);
        transport.abort_connection();
        world.until("the outcome", || done.borrow().is_some());
        assert_eq!(done.take(), Some(Err("aborted".to_owned())));
        let late = outcome(transport.send_file(file(b"x"), 0..1));
        world.until("a late outcome", || late.borrow().is_some());
        assert_eq!(late.take(), Some(Err("aborted".to_owned())));
    }

    // Line 35.
    fn a_large_file_arrives_whole(driver) {
        let world = World::new(driver);
        let (transport, peer) = world.pair(Script::new(&Log::new()));
        let content = pattern(20_000_000);
        let done = outcome(transport.send_file(file(&content), 0..20_000_000));
        assert!(peer.receive(content.len()) == content);
        world.until("the outcome", || done.borrow().is_some());
        world.assert_sleeps("everything was sent");
    }
}
