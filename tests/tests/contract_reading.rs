//! The contract, section 3: reading.

use twistor_tests::{Event, Log, Script, World, contract};

contract! {
    // Line 18.
    fn hooks_come_in_order_and_the_loss_once_and_last(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (_, peer) = world.pair(Script::new(&log).on_data(|transport, data| transport.write(data)));
        peer.send(b"abc");
        assert_eq!(peer.receive(3), b"abc");
        peer.finish();
        let _ = peer.receive_to_end();
        world.until("the loss", || log.lost().is_some());
        let events = log.events();
        assert_eq!(events.first(), Some(&Event::Made));
        assert_eq!(log.data(), b"abc");
        assert_eq!(log.lost().as_deref(), Some("closed"));
    }
}
