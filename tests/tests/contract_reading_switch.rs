//! The contract, section 3: handing a connection from one protocol to another.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use twistor::{Eof, Protocol, Transport};
use twistor_tests::{Ending, Event, Log, Script, World, stream_contract};

stream_contract! {
    // Line 22.
    fn a_switch_takes_effect_when_the_hook_returns(driver) {
        let world = World::new(driver);
        let (old, new) = (Log::new(), Log::new());
        let (transport, peer) = {
            let (during, new) = (old.clone(), new.clone());
            world.pair(Script::new(&old).on_data(move |transport, _| {
                transport.switch_protocol(Script::new(&new));
                transport.write(b"old,");
                // Still the old protocol's hook: the new one has heard nothing yet.
                assert_eq!(new.events(), []);
                during.push(Event::Pause);
            }))
        };
        peer.send(b"first");
        world.until("the new protocol", || new.has(&Event::Made));
        assert_eq!(old.events(), [Event::Made, Event::Data(b"first".to_vec()), Event::Pause]);
        assert_eq!(peer.receive(4), b"old,");
        peer.send(b"second");
        world.until("more data", || new.data() == b"second");
        transport.abort_connection();
        world.until("the loss", || new.lost().is_some());
        assert_eq!(old.events().len(), 3, "the old protocol is told nothing more: {:?}", old.events());
        assert_eq!(new.lost().as_deref(), Some("aborted"));
    }

    // Line 22.
    fn a_switch_from_elsewhere_takes_effect_before_the_next_hook(driver) {
        let world = World::new(driver);
        let (old, new) = (Log::new(), Log::new());
        let (transport, peer) = world.pair(Script::new(&old));
        assert_eq!(peer.try_send(b"data"), 4);
        transport.switch_protocol(Script::new(&new));
        assert_eq!(new.events(), [], "no method calls a hook");
        world.until("the data", || !new.data().is_empty());
        assert_eq!(old.events(), [Event::Made]);
        assert_eq!(new.events(), [Event::Made, Event::Data(b"data".to_vec())]);
    }

    // Line 22.
    fn a_switch_from_elsewhere_needs_no_event_to_take_effect(driver) {
        let world = World::new(driver);
        let (old, new) = (Log::new(), Log::new());
        let (transport, peer) = world.pair(Script::new(&old));
        transport.switch_protocol(Script::new(&new).on_made(|transport| transport.write(b"hello")));
        assert_eq!(peer.receive(5), b"hello");
        assert_eq!(new.events(), [Event::Made]);
    }

    // Line 22.
    fn unread_bytes_go_to_the_new_protocol_before_anything_newer(driver) {
        let world = World::new(driver);
        let (old, new) = (Log::new(), Log::new());
        let (_transport, peer) = {
            let new = new.clone();
            world.pair(Script::new(&old).on_data(move |transport, data| {
                let (ours, theirs) = data.split_at(5);
                assert_eq!(ours, b"SWTCH");
                transport.unread(theirs.to_vec());
                transport.switch_protocol(Script::new(&new));
            }))
        };
        peer.send(b"SWTCHfor the new one");
        world.until("the switch", || new.has(&Event::Made));
        peer.send(b", newer");
        world.until("all data", || new.data().len() == 22);
        assert_eq!(new.data(), b"for the new one, newer");
        assert_eq!(new.events()[..2], [Event::Made, Event::Data(b"for the new one".to_vec())]);
        assert_eq!(old.events().len(), 2);
    }

    // Line 22.
    fn the_old_protocol_is_dropped_where_its_destructor_may_do_anything(driver) {
        let world = World::new(driver);
        let new = Log::new();
        let dropped = Rc::new(Cell::new(0));
        let (transport, peer) = world.pair(Busybody { transport: None, dropped: Rc::clone(&dropped) });
        peer.send(b"greet");
        world.until("the echo", || peer.try_receive().is_some_and(|data| data == b"greet"));
        transport.switch_protocol(Script::new(&new));
        world.until("the old protocol is dropped", || dropped.get() == 1);
        assert_eq!(peer.receive(7), b"dropped");
        peer.send(b"data");
        world.until("data for the new protocol", || new.data() == b"data");
        assert_eq!(world.reactor.stats().panics, 0);
    }

    // Line 22.
    fn the_last_switch_in_one_hook_wins_and_the_others_are_dropped_unused(driver) {
        let world = World::new(driver);
        let logs = [Log::new(), Log::new(), Log::new(), Log::new()];
        let dropped = Rc::new(Cell::new(0));
        let (transport, peer) = {
            let (logs, dropped) = (logs.clone(), Rc::clone(&dropped));
            world.pair(Script::new(&logs[0].clone()).on_data(move |transport, _| {
                for log in &logs[1..3] {
                    transport.switch_protocol(Counted(Script::new(log), Rc::clone(&dropped)));
                }
                assert_eq!(dropped.get(), 1);
                transport.switch_protocol(Script::new(&logs[3]));
                assert_eq!(dropped.get(), 2);
            }))
        };
        peer.send(b"x");
        world.until("the switch", || logs[3].has(&Event::Made));
        assert_eq!((logs[1].events(), logs[2].events()), (vec![], vec![]));
        transport.abort_connection();
        world.until("the loss", || logs[3].lost().is_some());
        assert_eq!(logs[0].lost(), None);
        assert_eq!((logs[1].events(), logs[2].events()), (vec![], vec![]));
    }

    // Line 22.
    fn on_a_closing_transport_the_new_protocol_is_dropped_unused(driver) {
        let world = World::new(driver);
        let (old, new) = (Log::new(), Log::new());
        let dropped = Rc::new(Cell::new(0));
        let (transport, peer) = world.pair(Script::new(&old));
        transport.lose_connection();
        transport.switch_protocol(Counted(Script::new(&new), Rc::clone(&dropped)));
        assert_eq!(dropped.get(), 1);
        peer.finish();
        world.until("the loss", || old.lost().is_some());
        transport.switch_protocol(Counted(Script::new(&new), Rc::clone(&dropped)));
        assert_eq!(dropped.get(), 2, "nor on a lost one");
        world.turns(3);
        assert_eq!(new.events(), []);
        assert_eq!(old.lost().as_deref(), Some("closed"));
    }

    // Line 22.
    fn a_switch_and_a_close_in_one_hook_leave_the_old_protocol_to_hear_of_the_loss(driver) {
        for abort in [false, true] {
            let world = World::new(driver);
            let (old, new) = (Log::new(), Log::new());
            let dropped = Rc::new(Cell::new(0));
            let (_transport, peer) = {
                let (new, dropped) = (new.clone(), Rc::clone(&dropped));
                world.pair(Script::new(&old).on_data(move |transport, _| {
                    transport.switch_protocol(Counted(Script::new(&new), Rc::clone(&dropped)));
                    if abort { transport.abort_connection() } else { transport.lose_connection() }
                }))
            };
            peer.send(b"x");
            let ending = peer.receive_to_end().1;
            assert_eq!(ending, if abort { Ending::Reset } else { Ending::Fin });
            if !abort {
                peer.finish();
            }
            world.until("the loss", || old.lost().is_some());
            world.turns(2);
            assert_eq!(new.events(), []);
            assert_eq!(dropped.get(), 1);
        }
    }

    // Line 22.
    fn switches_in_connection_made_follow_each_other(driver) {
        let world = World::new(driver);
        let (first, second, third) = (Log::new(), Log::new(), Log::new());
        let port = {
            let (first, second, third) = (first.clone(), second.clone(), third.clone());
            world.listen(move |_| {
                let (second, third) = (second.clone(), third.clone());
                Script::new(&first).on_made(move |transport| {
                    let third = third.clone();
                    transport.switch_protocol(Script::new(&second).on_made(move |transport| {
                        transport.switch_protocol(Script::new(&third));
                    }));
                })
            })
        };
        let peer = world.connect(&port);
        peer.send(b"data");
        peer.finish();
        world.until("the loss", || third.lost().is_some());
        assert_eq!((first.events(), second.events()), (vec![Event::Made], vec![Event::Made]));
        assert_eq!(third.data(), b"data");
    }

    // Line 22.
    fn a_switch_in_eof_received_leaves_the_answer_in_force(driver) {
        let world = World::new(driver);
        let (old, new) = (Log::new(), Log::new());
        let (transport, peer) = {
            let new = new.clone();
            world.pair(Script::new(&old).on_eof(move |transport| {
                transport.switch_protocol(Script::new(&new));
                Eof::KeepOpen
            }))
        };
        peer.finish();
        world.until("the switch", || new.has(&Event::Made));
        world.turns(3);
        assert_eq!(new.events(), [Event::Made], "the end is reported once");
        transport.write(b"on");
        assert_eq!(peer.receive(2), b"on");
        transport.lose_connection();
        world.until("the loss", || new.lost().is_some());
        assert_eq!(new.lost().as_deref(), Some("closed"));
    }

    // Line 22.
    fn a_switch_while_paused_keeps_the_pause(driver) {
        let world = World::new(driver);
        let (old, new) = (Log::new(), Log::new());
        let (transport, peer) = world.pair(Script::new(&old));
        transport.pause_reading();
        transport.unread(&b"un"[..]);
        peer.send(b"read");
        transport.switch_protocol(Script::new(&new));
        world.until("the switch", || new.has(&Event::Made));
        world.assert_sleeps("still paused");
        assert_eq!(new.events(), [Event::Made]);
        transport.resume_reading();
        world.until("the data", || new.data() == b"unread");
    }

    // Lines 5 and 22.
    fn a_new_protocol_that_panics_in_connection_made_ends_the_connection(driver) {
        let world = World::new(driver);
        let (old, new) = (Log::new(), Log::new());
        let (transport, peer) = world.pair(Script::new(&old));
        transport.switch_protocol(Script::new(&new).on_made(|_| panic!("on purpose")));
        world.until("the loss", || new.lost().is_some());
        assert_eq!(new.lost().as_deref(), Some("a hook panicked"));
        assert_eq!(old.events(), [Event::Made]);
        assert_eq!(peer.receive_to_end().1, Ending::Reset);
    }

    // Line 22.
    fn switching_in_a_hook_with_more_data_behind_it_loses_and_reorders_nothing(driver) {
        let world = World::new(driver);
        let received = Rc::new(RefCell::new(Vec::new()));
        let hops = Rc::new(Cell::new(0));
        let hopper = Hopper { received: Rc::clone(&received), hops: Rc::clone(&hops) };
        let (_transport, peer) = world.pair(hopper);
        let data = twistor_tests::pattern(600_000);
        peer.send(&data);
        world.until("all data", || received.borrow().len() == data.len());
        assert!(*received.borrow() == data);
        assert!(hops.get() > 5, "{} switches", hops.get());
    }
}

/// Uses its transport in its destructor.
struct Busybody {
    transport: Option<Transport>,
    dropped: Rc<Cell<u32>>,
}

impl Protocol for Busybody {
    fn connection_made(&mut self, transport: &Transport) {
        self.transport = Some(transport.clone());
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

impl Drop for Busybody {
    fn drop(&mut self) {
        self.dropped.set(self.dropped.get() + 1);
        if let Some(transport) = &self.transport {
            transport.write(b"dropped");
            transport.pause_reading();
            transport.resume_reading();
            transport.set_watermarks(1000, 10);
            let _ = (transport.stats(), transport.timeouts(), transport.flushed());
            let _ = transport.set_nodelay(true);
            let _ = (transport.reactor().stats(), transport.reactor().transport(transport.id()));
            transport.reactor().call_soon(|_| {});
        }
    }
}

/// A script whose drop is counted.
struct Counted(Script, Rc<Cell<u32>>);

impl Protocol for Counted {
    fn connection_made(&mut self, transport: &Transport) {
        self.0.connection_made(transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.0.data_received(transport, data);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.set(self.1.get() + 1);
    }
}

/// Takes half of each chunk, gives the rest back and hands over to the next of its kind.
struct Hopper {
    received: Rc<RefCell<Vec<u8>>>,
    hops: Rc<Cell<u32>>,
}

impl Protocol for Hopper {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let (ours, theirs) = data.split_at(data.len().div_ceil(2));
        self.received.borrow_mut().extend_from_slice(ours);
        transport.unread(theirs.to_vec());
        self.hops.set(self.hops.get() + 1);
        transport
            .switch_protocol(Hopper { received: Rc::clone(&self.received), hops: Rc::clone(&self.hops) });
    }
}
