//! The contract, section 3: out-of-band data, which nobody asked for, does not make the loop spin.

use socket2::SockRef;
use twistor::Eof;
use twistor_tests::{Event, Log, Peer, Script, World, kernel_contract};

fn send_urgent(peer: &Peer<'_>, data: &[u8]) {
    assert_eq!(
        SockRef::from(peer.socket().kernel()).send_out_of_band(data).expect("urgent data"),
        data.len()
    );
}

// A simulated network has no urgent data.
kernel_contract! {
    // Line 24.
    fn urgent_data_alone_does_not_make_the_loop_spin(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (_transport, peer) = world.pair(Script::new(&log));
        send_urgent(&peer, b"!");
        world.assert_sleeps("the urgent byte was seen");
        assert_eq!(log.events(), [Event::Made], "an urgent byte is not part of the stream");
        peer.send(b"normal");
        world.until("the data", || log.data() == b"normal");
        world.assert_sleeps("everything was read");
    }

    // Line 24.
    fn urgent_data_in_the_middle_of_the_stream_stops_nothing(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (_transport, peer) = world.pair(Script::new(&log));
        for _ in 0..5 {
            assert_eq!(peer.try_send(b"before"), 6);
            send_urgent(&peer, b"!");
            assert_eq!(peer.try_send(b"behind"), 6);
        }
        // A second urgent byte makes the first an ordinary one, so that up to four of them are in the stream.
        let letters = || log.data().iter().filter(|byte| **byte != b'!').copied().collect::<Vec<_>>();
        world.until("the data", || letters().len() == 60);
        assert_eq!(letters(), b"beforebehind".repeat(5));
        world.assert_sleeps("everything was read");
    }

    // Lines 20 and 24.
    fn urgent_data_does_not_wake_a_paused_connection(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log));
        transport.pause_reading();
        world.turns(2);
        send_urgent(&peer, b"!");
        world.assert_sleeps("paused");
        assert_eq!(peer.try_send(b"data"), 4);
        world.assert_sleeps("paused");
        transport.resume_reading();
        world.until("the data", || log.data() == b"data");
        world.assert_sleeps("everything was read");
    }

    // Line 24.
    fn urgent_data_right_before_a_fin_does_not_hide_it(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (_transport, peer) = world.pair(Script::new(&log).on_eof(|_| Eof::KeepOpen));
        assert_eq!(peer.try_send(b"data"), 4);
        send_urgent(&peer, b"!");
        peer.finish();
        world.until("the end", || log.has(&Event::Eof));
        world.assert_sleeps("the end was reported");
        assert_eq!(log.data(), b"data");
    }

    // Lines 24 and 37.
    fn urgent_data_does_not_make_a_lingering_connection_spin(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log));
        transport.lose_connection();
        let _ = peer.receive_to_end();
        send_urgent(&peer, b"!");
        world.assert_sleeps("our side is closed, the peer's is not");
        peer.finish();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.events(), [Event::Made, Event::Lost("closed".to_owned())]);
    }

    // Lines 24 and 34.
    fn urgent_data_on_a_piped_connection_neither_spins_nor_stops_the_relay(driver) {
        let world = World::new(driver);
        let (source, from) = world.pair(Script::new(&Log::new()));
        let (target, to) = world.pair(Script::new(&Log::new()));
        drop(source.pipe(&target));
        from.send(b"before");
        assert_eq!(to.receive(6), b"before");
        send_urgent(&from, b"!");
        world.assert_sleeps("the urgent byte was seen");
        from.send(b"behind");
        assert_eq!(to.receive(6), b"behind");
        world.assert_sleeps("everything was relayed");
    }
}
