//! The contract, section 4: large amounts arrive whole.
//!
//! A gibibyte is never compared byte by byte: stamps stand in it at regular places, and zeros between them.

use std::cell::Cell;
use std::io::{ErrorKind, IoSlice};
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard};

use twistor::bytes::Bytes;
use twistor::{Protocol, Transport};
use twistor_tests::{Buffers, Ending, Log, Peer, Script, World, pattern, stream_contract};

const GIB: usize = 1 << 30;
/// Distance of the stamps; no multiple of any buffer.
const STEP: usize = 1_000_003;

/// One gibibyte at a time is enough for a machine.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn stamp_at(position: usize) -> u8 {
    (position / STEP % 250) as u8 + 1
}

/// The bytes from `from` on, with the stamps in their places.
fn stamped(from: usize, count: usize) -> Vec<u8> {
    // Pages that nobody touches cost nothing.
    let mut data = vec![0; count];
    for position in (from.next_multiple_of(STEP)..from + count).step_by(STEP) {
        data[position - from] = stamp_at(position);
    }
    data
}

/// Checks the stamps, and the bytes beside them, of what arrived at `from`.
fn check(from: usize, data: &[u8]) {
    for position in (from.next_multiple_of(STEP)..from + data.len()).step_by(STEP) {
        let at = position - from;
        assert_eq!(data[at], stamp_at(position), "at {position}");
        assert!(data[at + 1..data.len().min(at + 50)].iter().all(|byte| *byte == 0), "behind {position}");
    }
}

/// Receives a stamped stream of `total` bytes and checks it; `between` is called before each turn.
fn receive_stamped(world: &World, peer: &Peer<'_>, total: usize, mut between: impl FnMut()) {
    let mut buffer = vec![0; 1 << 20];
    let mut received = 0;
    world.until("the whole stream", || {
        between();
        // A piece at a time, so that both sides of the kernel's buffers keep moving.
        for _ in 0..16 {
            match peer.read(&mut buffer) {
                Ok(0) => panic!("the stream ended after {received} bytes"),
                Ok(count) => {
                    check(received, &buffer[..count]);
                    received += count;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("after {received} bytes: {error}"),
            }
        }
        received >= total
    });
    assert_eq!(received, total);
}

stream_contract! {
    // Line 33.
    fn a_gibibyte_in_one_write_arrives_whole(driver) {
        let _alone = alone();
        let world = World::new(driver);
        let total = world.volume(GIB);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log));
        transport.write_bytes(stamped(0, total));
        receive_stamped(&world, &peer, total, || {});
        assert_eq!(world.reactor.stats().queued_bytes, 0);
        assert_eq!(log.lost(), None);
    }

    // Line 33.
    fn a_gibibyte_in_many_writes_arrives_whole(driver) {
        let _alone = alone();
        let world = World::new(driver);
        let total = world.volume(GIB);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log));
        let mut written = 0;
        let piece = 300_000;
        receive_stamped(&world, &peer, total, || {
            while written < total && transport.queued() < 2_000_000 {
                let count = piece.min(total - written);
                let data = stamped(written, count);
                if written / piece % 2 == 0 { transport.write(&data) } else { transport.write_bytes(data) }
                written += count;
            }
        });
        assert_eq!(log.lost(), None);
    }

    // Lines 33 and 34.
    fn a_gibibyte_through_a_pipe_arrives_whole(driver) {
        let _alone = alone();
        let world = World::new(driver);
        let total = world.volume(GIB);
        let (source, from) = world.pair(Script::new(&Log::new()));
        let (target, to) = world.pair(Script::new(&Log::new()));
        let outcome = Rc::new(Cell::new(None));
        {
            let outcome = Rc::clone(&outcome);
            source.pipe(&target).on_done(move |_, moved| outcome.set(moved.ok()));
        }
        let piece = stamped(0, STEP * 250);
        let mut sent = 0;
        receive_stamped(&world, &to, total, || {
            while sent < total {
                let at = sent % piece.len();
                let count = (piece.len() - at).min(total - sent).min(1 << 20);
                match from.try_send(&piece[at..at + count]) {
                    0 => break,
                    more => sent += more,
                }
            }
        });
        from.finish();
        assert_eq!(to.receive_to_end(), (Vec::new(), Ending::Fin));
        world.until("the outcome", || outcome.get().is_some());
        assert_eq!(outcome.get(), Some(total as u64));
        assert!(world.reactor.stats().queued_bytes == 0);
    }

    // Line 33.
    fn one_write_arrives_whole_whatever_the_socket_buffers(driver) {
        let world = World::new(driver);
        let data = pattern(1_000_000);
        for send in [4096, 9001, 65_536, 1 << 20] {
            for peer_receive in [4096, 50_000] {
                let buffers = Buffers { send: Some(send), peer_receive: Some(peer_receive), receive: None };
                let (transport, peer) = world.pair_with(buffers, Script::new(&Log::new()));
                transport.write(&data[..500_000]);
                transport.write_bytes(Bytes::copy_from_slice(&data[500_000..]));
                assert!(peer.receive(data.len()) == data, "buffers of {send} and {peer_receive}");
            }
        }
    }

    // Line 33.
    fn more_queued_buffers_than_the_kernel_takes_at_once_arrive_in_order(driver) {
        let world = World::new(driver);
        let (transport, peer) = world.pair(Script::new(&Log::new()));
        transport.set_write_limit(usize::MAX);
        let buffers = 5000;
        for n in 0..buffers {
            let mut data = vec![0; 4096];
            data[..4].copy_from_slice(&u32::to_le_bytes(n));
            data[4092..].copy_from_slice(&u32::to_le_bytes(!n));
            transport.write_bytes(data);
        }
        let data = peer.receive(buffers as usize * 4096);
        for (n, piece) in (0..).zip(data.chunks(4096)) {
            assert_eq!(piece[..4], u32::to_le_bytes(n));
            assert_eq!(piece[4092..], u32::to_le_bytes(!n));
        }
    }

    // Line 33.
    fn large_and_small_buffers_alternating_arrive_in_order(driver) {
        let world = World::new(driver);
        let (transport, peer) = world.pair_with(Buffers::TIGHT, Script::new(&Log::new()));
        let mut expected = Vec::new();
        for n in 0..60_usize {
            let data = pattern(n * 137 % 9000);
            expected.extend_from_slice(&data);
            if n % 3 == 0 { transport.write(&data) } else { transport.write_bytes(data) }
        }
        assert!(peer.receive(expected.len()) == expected);
    }

    // Line 33.
    fn empty_buffers_and_lists_are_fine(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log).on_data(|transport, _| {
            transport.write(b"");
            transport.write_bytes(Bytes::new());
            transport.write_vectored(&[]);
            transport.write_vectored(&[IoSlice::new(b""), IoSlice::new(b"")]);
            assert!(transport.try_write(b""));
        }));
        let before = world.reactor.stats().system_calls.sends;
        peer.send(b"?");
        world.until("the hook", || log.data() == b"?");
        world.turns(3);
        assert_eq!(world.reactor.stats().system_calls.sends, before, "there was nothing to send");
        assert_eq!(transport.queued(), 0);
        for _ in 0..5000 {
            transport.write_bytes(Bytes::new());
        }
        transport.write(b"a");
        transport.write(b"");
        transport.write_bytes(vec![b'b'; 5000]);
        transport.write_bytes(Bytes::new());
        transport.write(b"c");
        let data = peer.receive(5002);
        assert_eq!((data[0], data[5001]), (b'a', b'c'));
        world.assert_sleeps("everything was sent");
    }

    // Lines 19 and 33.
    fn megabytes_through_an_echo_come_back_whole(driver) {
        let world = World::new(driver);
        echo(&world, Buffers::default(), 10_000_000);
        echo(&world, Buffers::TIGHT, 200_000);
    }
}

/// Writes what it reads, and stops reading while its peer does not.
struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }

    fn pause_writing(&mut self, transport: &Transport) {
        transport.pause_reading();
    }

    fn resume_writing(&mut self, transport: &Transport) {
        transport.resume_reading();
    }
}

fn echo(world: &World, buffers: Buffers, total: usize) {
    let (transport, peer) = world.pair_with(buffers, Echo);
    let data = pattern(total);
    let (mut sent, mut received) = (0, Vec::new());
    world.until("the echo", || {
        sent += peer.try_send(&data[sent..]);
        assert!(transport.queued() < 1 << 20, "back-pressure does not reach the peer");
        received.extend_from_slice(&peer.try_receive().expect("the stream goes on"));
        received.len() == total
    });
    assert!(received == data);
}
