//! The contract, section 5: closing.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use twistor::{Eof, Protocol, Reason, Timeout, Timeouts, Transport};
use twistor_tests::{Buffers, Ending, Event, Log, Script, World, kernel_contract, pattern, stream_contract};

const SHORT: Duration = Duration::from_millis(60);

stream_contract! {
    // Line 37.
    fn closing_flushes_then_ends_with_a_fin(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair_with(Buffers::TIGHT, Script::new(&log));
        let data = pattern(300_000);
        transport.write(&data);
        transport.lose_connection();
        assert!(transport.is_closing());
        let (received, ending) = peer.receive_to_end();
        assert!(received == data, "{} bytes arrived", received.len());
        assert_eq!(ending, Ending::Fin);
        world.assert_sleeps("the peer has not ended its side");
        assert_eq!(log.lost(), None, "input is discarded until the peer's FIN");
        peer.finish();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.lost().as_deref(), Some("closed"));
    }

    // Line 37.
    fn unread_input_does_not_turn_the_end_into_a_reset(driver) {
        for paused in [false, true] {
            let world = World::new(driver);
            let log = Log::new();
            let (transport, peer) = world.pair(Script::new(&log));
            if paused {
                transport.pause_reading();
                world.turns(2);
            }
            peer.send(&[1; 100_000]);
            transport.write(b"answer");
            transport.lose_connection();
            peer.send(&[2; 100_000]);
            assert_eq!(peer.receive_to_end(), (b"answer".to_vec(), Ending::Fin));
            peer.send(&[3; 100_000]);
            peer.finish();
            world.until("the loss", || log.lost().is_some());
            assert_eq!(log.lost().as_deref(), Some("closed"));
            assert_eq!(log.count(&Event::Eof), 0);
            assert_eq!(peer.try_receive(), None);
        }
    }

    // Line 37.
    fn a_peer_that_takes_nothing_is_given_the_linger_time_out(driver) {
        let world = World::with(driver, |builder| builder.linger_timeout(SHORT));
        let log = Log::new();
        let (transport, peer) = world.pair_with(Buffers::TIGHT, Script::new(&log));
        transport.write(&[0; 100_000]);
        world.turns(3);
        let start = world.now();
        transport.lose_connection();
        world.until("the loss", || log.lost().is_some());
        assert!(world.since(start) >= SHORT, "after {:?}", world.since(start));
        assert_eq!(log.lost().as_deref(), Some("the peer did not take the last bytes in time"));
        assert_eq!(world.reactor.stats().linger_timeouts, 1);
        assert_eq!(peer.receive_to_end().1, Ending::Reset);
    }

    // Line 37.
    fn while_flushing_the_linger_time_out_counts_from_the_last_byte_taken(driver) {
        let world = World::with(driver, |builder| builder.linger_timeout(4 * SHORT));
        let log = Log::new();
        let (transport, peer) = world.pair_with(Buffers::TIGHT, Script::new(&log));
        transport.write(&vec![0; 3_000_000]);
        transport.lose_connection();
        let start = world.now();
        // When the turn began in which the kernel last took something.
        let (mut taken, mut last, mut turn) = (0, start, start);
        world.until("the loss", || {
            if transport.stats().bytes_sent > taken {
                taken = transport.stats().bytes_sent;
                last = turn;
            }
            if world.since(start) < 6 * SHORT {
                let _ = peer.read(&mut [0; 500]);
            }
            turn = world.now();
            log.lost().is_some()
        });
        assert_eq!(log.lost().as_deref(), Some("the peer did not take the last bytes in time"));
        assert!(last > start, "it was slow, but it took something");
        assert!(world.since(last) >= 4 * SHORT, "{:?} after the last byte", world.since(last));
    }

    // Line 37.
    fn after_the_fin_a_silent_peer_is_given_the_linger_time_out(driver) {
        let world = World::with(driver, |builder| builder.linger_timeout(SHORT));
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log));
        transport.write(b"bye");
        let start = world.now();
        transport.lose_connection();
        assert_eq!(peer.receive_to_end(), (b"bye".to_vec(), Ending::Fin));
        world.until("the loss", || log.lost().is_some());
        assert!(world.since(start) >= SHORT, "after {:?}", world.since(start));
        assert_eq!(log.lost().as_deref(), Some("closed"), "the peer got everything");
        assert_eq!(world.reactor.stats().linger_timeouts, 0);
    }

    // Line 37.
    fn input_does_not_extend_the_linger_time_out_after_the_fin(driver) {
        let world = World::with(driver, |builder| builder.linger_timeout(SHORT));
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log));
        transport.lose_connection();
        let _ = peer.receive_to_end();
        world.until("the loss", || {
            if log.lost().is_none() {
                let _ = peer.write(b"drip");
            }
            log.lost().is_some()
        });
        assert_eq!(log.lost().as_deref(), Some("closed"));
    }

    // Line 37.
    fn discarding_is_limited_to_the_linger_bytes(driver) {
        let world = World::with(driver, |builder| builder.linger_bytes(100_000));
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log));
        transport.lose_connection();
        let _ = peer.receive_to_end();
        // With TLS, what is thrown away is counted as it is.
        let most = if world.is_secured() { 49_500 } else { 50_000 };
        assert_eq!(peer.try_send(&vec![0; most]), most);
        assert_eq!(peer.try_send(&vec![0; most]), most);
        world.turns(10);
        assert_eq!(log.lost(), None, "that much is discarded");
        assert_eq!(peer.try_send(&vec![0; 100_001 - 2 * most]), 100_001 - 2 * most);
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.lost().as_deref(), Some("closed"));
    }

    // Line 37.
    fn when_the_fin_of_the_peer_was_seen_already_we_close_at_once(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log).on_eof(|_| Eof::KeepOpen));
        peer.finish();
        world.until("the end", || log.has(&Event::Eof));
        transport.write(b"bye");
        transport.lose_connection();
        world.turns(2);
        assert_eq!(log.lost().as_deref(), Some("closed"));
        assert_eq!(peer.receive_to_end(), (b"bye".to_vec(), Ending::Fin));
    }

    // Lines 37 and 41.
    fn a_reset_while_flushing_is_told(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, mut peer) = world.pair_with(Buffers::TIGHT, Script::new(&log));
        transport.write(&[0; 100_000]);
        transport.lose_connection();
        world.turns(3);
        peer.reset();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.lost().as_deref(), Some("reset by the peer or the network"));
    }

    // Line 38.
    fn after_closing_only_the_loss_is_told(driver) {
        for abort in [true, false] {
            let world = World::with(driver, |builder| builder.linger_timeout(2 * SHORT));
            let log = Log::new();
            let (transport, peer) = world.pair_with(Buffers::TIGHT, Script::new(&log));
            transport.set_timeouts(Timeouts::new().idle(SHORT / 4).total(SHORT / 4));
            transport.unread(&b"given back"[..]);
            transport.write(&[0; 100_000]);
            transport.set_watermarks(10, 5);
            let connection = transport.connection::<Script>().unwrap();
            assert!(connection.post(|_, _| unreachable!("a post")));
            let _ = transport.call_later(Duration::ZERO, |_: &mut Script, _| unreachable!("a timer"));
            let _ = transport.every(SHORT / 8, |_: &mut Script, _| unreachable!("a looping call"));
            let _ = peer.try_send(b"data");
            let _ = peer.try_finish();
            if abort { transport.abort_connection() } else { transport.lose_connection() }
            assert!(!connection.post(|_, _| unreachable!("a late post")));
            world.until("the loss", || log.lost().is_some());
            world.run_for(SHORT);
            assert_eq!(log.events().len(), 2, "{:?}", log.events());
            assert_eq!(log.events()[0], Event::Made);
            drop(peer);
        }
    }

    // Line 38.
    fn closing_in_data_received_stops_the_rest_of_the_input(driver) {
        for abort in [true, false] {
            let world = World::new(driver);
            let log = Log::new();
            let (transport, peer) = world.pair(Script::new(&log).on_data(move |transport, _| {
                if abort { transport.abort_connection() } else { transport.lose_connection() }
                transport.unread(&b"too late"[..]);
            }));
            let _ = peer.fill();
            world.until("the first data", || log.events().len() > 1);
            world.turns(10);
            let _ = peer.try_finish();
            world.until("the loss", || log.lost().is_some());
            assert_eq!(log.events().len(), 3);
            assert!(transport.is_closing());
        }
    }

    // Lines 7 and 38.
    fn a_closing_connection_is_not_told_of_the_shutdown(driver) {
        let world = World::with(driver, |builder| builder.drain_timeout(Duration::from_millis(20)));
        let log = Log::new();
        let (transport, _peer) = world.pair(Script::new(&log));
        transport.lose_connection();
        world.turns(2);
        world.reactor.stop();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.events().len(), 2, "{:?}", log.events());
    }

    // Line 39.
    fn aborting_drops_the_queue_and_the_peer_sees_a_reset(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log));
        transport.write(b"never sent");
        transport.abort_connection();
        assert_eq!(transport.queued(), 0);
        world.turns(2);
        assert_eq!(log.lost().as_deref(), Some("aborted"), "at the next settle");
        assert_eq!(peer.receive_to_end(), (Vec::new(), Ending::Reset));
    }

    // Line 39.
    fn aborting_works_with_full_buffers_and_a_stalled_peer(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair_with(Buffers::TIGHT, Script::new(&log));
        transport.pause_reading();
        let _ = peer.fill();
        transport.write(&[0; 200_000]);
        world.turns(3);
        transport.abort_connection();
        world.turns(2);
        assert_eq!(log.lost().as_deref(), Some("aborted"));
        assert_eq!(peer.receive_to_end().1, Ending::Reset);
        assert_eq!(world.reactor.stats().queued_bytes, 0);
    }

    // Line 39.
    fn closing_repeatedly_in_any_order_is_one_loss(driver) {
        let calls: [fn(&Transport); 4] = [
            Transport::lose_connection,
            Transport::abort_connection,
            Transport::lose_write_connection,
            |transport| transport.fail("on purpose"),
        ];
        for first in calls {
            for second in calls {
                let world = World::new(driver);
                let log = Log::new();
                let (transport, peer) =
                    world.pair(Script::new(&log).on_lost(move |transport, _| {
                        first(transport);
                        second(transport);
                    }));
                first(&transport);
                second(&transport);
                first(&transport);
                let _ = peer.receive_to_end();
                let _ = peer.try_finish();
                world.until("the loss", || log.lost().is_some());
                second(&transport);
                world.turns(3);
                assert_eq!(log.events().iter().filter(|event| matches!(event, Event::Lost(_))).count(), 1);
                assert_eq!(world.reactor.stats().connections, 0);
            }
        }
    }

    // Line 39.
    fn aborting_while_closing_ends_it_at_once(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair_with(Buffers::TIGHT, Script::new(&log));
        transport.write(&[0; 100_000]);
        transport.lose_connection();
        world.turns(3);
        transport.abort_connection();
        world.turns(2);
        assert_eq!(log.lost().as_deref(), Some("aborted"));
        assert_eq!(peer.receive_to_end().1, Ending::Reset);
    }

    // Line 39.
    fn every_hook_may_close(driver) {
        for abort in [true, false] {
            let end = move |transport: &Transport| {
                if abort { transport.abort_connection() } else { transport.lose_connection() }
            };
            for hook in ["made", "data", "eof", "pause", "timed out"] {
                let world = World::new(driver);
                let log = Log::new();
                let script = Script::new(&log);
                let script = match hook {
                    "made" => script.on_made(end),
                    "data" => script.on_data(move |transport, _| end(transport)),
                    "eof" => script.on_eof(move |transport| {
                        end(transport);
                        Eof::KeepOpen
                    }),
                    "pause" => script.on_pause(end),
                    _ => script.on_timed_out(move |transport, _| {
                        end(transport);
                        twistor::OnTimeout::Keep
                    }),
                };
                let (transport, peer) = world.pair_with(Buffers::TIGHT, script);
                match hook {
                    "data" => drop(peer.try_send(b"x")),
                    "eof" => peer.finish(),
                    "pause" => transport.write(&[0; 100_000]),
                    "timed out" => transport.set_timeouts(Timeouts::new().idle(Duration::from_millis(5))),
                    _ => {}
                }
                let ending = peer.receive_to_end().1;
                assert_eq!(ending, if abort { Ending::Reset } else { Ending::Fin }, "in {hook}");
                let _ = peer.try_finish();
                world.until("the loss", || log.lost().is_some());
                assert_eq!(log.lost().as_deref(), Some(if abort { "aborted" } else { "closed" }));
            }
        }
    }

    // Line 40.
    fn ending_our_side_flushes_and_goes_on_reading(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair_with(Buffers::TIGHT, Script::new(&log));
        let data = pattern(100_000);
        transport.write(&data);
        transport.lose_write_connection();
        transport.write(b"dropped");
        assert!(!transport.is_closing());
        let (received, ending) = peer.receive_to_end();
        assert!(received == data);
        assert_eq!(ending, Ending::Fin);
        peer.send(b"still read");
        world.until("the data", || log.data() == b"still read");
        assert_eq!(log.lost(), None);
        peer.finish();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.lost().as_deref(), Some("closed"));
    }

    // Lines 37 and 40.
    fn closing_after_ending_our_side_waits_for_the_peer_only(driver) {
        let world = World::with(driver, |builder| builder.linger_timeout(SHORT));
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log));
        transport.lose_write_connection();
        assert_eq!(peer.receive_to_end().1, Ending::Fin);
        world.run_for(2 * SHORT);
        assert_eq!(log.lost(), None, "half-closed may last");
        let start = world.now();
        transport.lose_connection();
        world.until("the loss", || log.lost().is_some());
        assert!(world.since(start) >= SHORT);
        assert_eq!(log.lost().as_deref(), Some("closed"));
    }

    // Line 41.
    fn the_reason_tells_the_truth(driver) {
        let kind = |end: &dyn Fn(&World, &Transport, &mut twistor_tests::Peer<'_>)| {
            let world = World::with(driver, |builder| {
                builder.linger_timeout(SHORT).drain_timeout(Duration::from_millis(10)).write_limit(1000)
            });
            let seen = Rc::new(RefCell::new(None));
            let script = Script::new(&Log::new()).on_data(|_, _| panic!("on purpose")).on_lost({
                let seen = Rc::clone(&seen);
                move |_, reason| *seen.borrow_mut() = Some(reason.clone())
            }).on_shutting_down(|_| ());
            let (transport, mut peer) = world.pair_with(Buffers::TIGHT, script);
            end(&world, &transport, &mut peer);
            world.until("the loss", || seen.borrow().is_some());
            seen.take().unwrap()
        };
        assert!(matches!(kind(&|_, _, peer| peer.finish()), Reason::Closed));
        assert!(matches!(kind(&|_, _, peer| peer.reset()), Reason::Reset));
        assert!(matches!(kind(&|_, transport, _| transport.abort_connection()), Reason::Aborted));
        let idle = Timeouts::new().idle(Duration::from_millis(5));
        let timed_out = kind(&|_, transport, _| transport.set_timeouts(idle));
        assert!(matches!(timed_out, Reason::TimedOut(Timeout::Idle)));
        let write_limit = kind(&|world, transport, _| {
            transport.write(&[0; 100_000]);
            world.turns(2);
            transport.write(b"x");
        });
        assert!(matches!(write_limit, Reason::WriteLimit));
        let linger = kind(&|_, transport, _| {
            transport.write(&[0; 100_000]);
            transport.lose_connection();
        });
        assert!(matches!(linger, Reason::LingerTimeout));
        assert!(matches!(kind(&|_, _, peer| peer.send(b"x")), Reason::Panicked));
        assert!(matches!(kind(&|world, _, _| world.reactor.stop()), Reason::Shutdown));
        let failed = kind(&|_, transport, peer| {
            transport.fail("on purpose");
            peer.finish();
        });
        assert!(matches!(&failed, Reason::Failed(error) if error.to_string() == "on purpose"));
        assert!(!failed.is_clean() && Reason::Closed.is_clean());
    }

    // Line 41.
    fn fail_and_check_close_in_good_order_with_their_error(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let seen = Rc::new(RefCell::new(None));
        let script = Script::new(&log).on_data(|transport, data| {
            if let Some(text) = transport.check(std::str::from_utf8(data)) {
                write!(transport, "{} letters", text.len());
            } else {
                transport.write(b"dropped: it is closing");
            }
        });
        let (_transport, peer) = {
            let seen = Rc::clone(&seen);
            world.pair(script.on_lost(move |_, reason| *seen.borrow_mut() = Some(reason.clone())))
        };
        peer.send(b"abc");
        assert_eq!(peer.receive(9), b"3 letters");
        peer.send(b"\xff");
        assert_eq!(peer.receive_to_end(), (Vec::new(), Ending::Fin));
        peer.finish();
        world.until("the loss", || log.lost().is_some());
        match seen.take() {
            Some(Reason::Failed(error)) => assert!(error.is::<std::str::Utf8Error>(), "{error}"),
            other => panic!("{other:?}"),
        }
    }

    // Line 41.
    fn the_first_reason_stays(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let (transport, peer) = world.pair(Script::new(&log));
        transport.fail("the first");
        transport.fail("the second");
        transport.lose_connection();
        let _ = peer.receive_to_end();
        peer.finish();
        world.until("the loss", || log.lost().is_some());
        assert_eq!(log.lost().as_deref(), Some("failed: the first"));
    }

    // Line 41.
    fn addresses_stay_readable_in_the_loss_and_after(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let seen = Rc::new(RefCell::new(None));
        let (transport, mut peer) = {
            let seen = Rc::clone(&seen);
            world.pair(Script::new(&log).on_lost(move |transport, _| {
                *seen.borrow_mut() = Some((transport.peer_addr(), transport.local_addr()));
            }))
        };
        let ours = peer.socket().peer_addr();
        let theirs = peer.local_addr();
        peer.reset();
        world.until("the loss", || log.lost().is_some());
        for (peer, local) in [seen.take().unwrap(), (transport.peer_addr(), transport.local_addr())] {
            assert_eq!((peer.socket_addr(), local.socket_addr()), (Some(theirs), Some(ours)));
        }
        assert!(transport.set_nodelay(true).is_err());
        drop(world);
        assert_eq!(transport.peer_addr().socket_addr(), Some(theirs), "also without a reactor");
    }

    // Line 42.
    fn a_reused_slot_gets_none_of_its_predecessors_posts_and_timers(driver) {
        let world = World::new(driver);
        let made = Rc::new(RefCell::new(Vec::<Transport>::new()));
        let port = {
            let made = Rc::clone(&made);
            world.listen(move |_| {
                let made = Rc::clone(&made);
                Script::new(&Log::new()).on_made(move |transport| made.borrow_mut().push(transport.clone()))
            })
        };
        let mut ids = std::collections::HashSet::new();
        for _ in 0..20 {
            let old_peer = world.connect(&port);
            world.until("the old one", || !made.borrow().is_empty());
            let old = made.borrow_mut().pop().unwrap();
            assert!(ids.insert(old.id()), "a name is never used again");
            let connection = old.connection::<Script>().unwrap();
            let _ = old.call_later(Duration::from_millis(1), |_: &mut Script, _| unreachable!("a timer"));
            let _ = old.every(Duration::from_millis(1), |_: &mut Script, _| unreachable!("a looping call"));
            assert!(connection.post(|_, _| unreachable!("a post")));
            old.write(b"for the old peer only");
            old.abort_connection();
            // Waits to be accepted in the pass in which the slot is free again and the old post is due.
            let new_peer = world.connect(&port);
            world.until("the new one", || !made.borrow().is_empty());
            let new = made.borrow_mut().pop().unwrap();
            old.write(b"too late");
            old.pause_reading();
            old.lose_connection();
            old.set_timeouts(Timeouts::new().total(Duration::ZERO));
            old.switch_protocol(Script::new(&Log::new()).on_made(|_| unreachable!("a switch")));
            old.unread(&b"too late"[..]);
            world.run_for(Duration::from_millis(3));
            assert!(!new.is_closing() && new.is_reading());
            assert_eq!(new_peer.try_receive(), Some(Vec::new()));
            assert!(world.reactor.transport(old.id()).is_none());
            assert_eq!(world.reactor.transport(new.id()).map(|found| found.id()), Some(new.id()));
            new.abort_connection();
            drop(old_peer);
            world.turns(2);
        }
    }

    // Line 42.
    fn a_reused_descriptor_gets_none_of_its_predecessors_events(driver) {
        let world = World::new(driver);
        let open = Rc::new(RefCell::new(HashMap::<u16, Transport>::new()));
        let received = Rc::new(Cell::new(0));
        let port = {
            let (open, received) = (Rc::clone(&open), Rc::clone(&received));
            world.listen(move |peer: twistor::Peer| {
                let port = peer.address.socket_addr().unwrap().port();
                Identity { port, open: Rc::clone(&open), received: Rc::clone(&received) }
            })
        };
        let mut peers = Vec::new();
        let mut seed = 7_u32;
        for round in 0..300 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let peer = world.connect(&port);
            let name = peer.local_addr().port().to_le_bytes();
            for _ in 0..=seed >> 30 {
                let _ = peer.try_send(&name);
            }
            peers.push(peer);
            if peers.len() > 8 {
                // What it has just sent waits in the socket while a hook closes it.
                let mut victim = peers.swap_remove(seed as usize % 8);
                let name = victim.local_addr().port().to_le_bytes();
                let _ = victim.write(&name);
                match seed >> 8 & 3 {
                    0 => victim.reset(),
                    1 => victim.close(),
                    _ => {}
                }
            }
            if round % 3 == 0 {
                world.turns(1);
            }
        }
        world.turns(5);
        assert!(received.get() > 300, "{} bytes", received.get());
        assert_eq!(world.reactor.stats().panics, 0);
    }
}

// Descriptors, as the kernel counts them.
kernel_contract! {
    // Line 42.
    fn the_descriptor_is_closed_when_the_loss_is_told(driver) {
        for orderly in [true, false] {
            let world = World::new(driver);
            let log = Log::new();
            let inode = Rc::new(RefCell::new(None));
            let (transport, peer) = {
                let inode = Rc::clone(&inode);
                world.pair(Script::new(&log).on_lost(move |_, _| {
                    let inode: String = inode.borrow_mut().take().expect("found before");
                    assert!(!has_socket(&inode), "still open in connection_lost");
                }))
            };
            let found = inode_of(transport.local_addr().socket_addr().unwrap(), peer.local_addr());
            assert!(has_socket(&found));
            *inode.borrow_mut() = Some(found);
            if orderly { peer.finish() } else { transport.abort_connection() }
            world.until("the loss", || log.lost().is_some());
            assert_eq!(inode.take(), None, "connection_lost has looked");
            assert_eq!(world.reactor.stats().panics, 0);
        }
    }
}

/// Checks that what it receives names its own peer, and closes others meanwhile.
struct Identity {
    port: u16,
    open: Rc<RefCell<HashMap<u16, Transport>>>,
    received: Rc<Cell<usize>>,
}

impl Protocol for Identity {
    fn connection_made(&mut self, transport: &Transport) {
        self.open.borrow_mut().insert(self.port, transport.clone());
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        for name in data.chunks(2) {
            assert_eq!(*name, self.port.to_le_bytes(), "bytes of another connection");
        }
        self.received.set(self.received.get() + data.len());
        let other =
            self.open.borrow().iter().find(|(port, _)| **port != self.port).map(|(_, other)| other.clone());
        if let Some(other) = other.filter(|_| self.received.get().is_multiple_of(3)) {
            other.abort_connection();
        }
    }

    fn connection_lost(&mut self, _: &Transport, _: &Reason) {
        self.open.borrow_mut().remove(&self.port);
    }
}

/// The number that the kernel knows the socket with these addresses by.
fn inode_of(local: SocketAddr, remote: SocketAddr) -> String {
    let hex = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port()),
        SocketAddr::V6(_) => unreachable!("the tests listen on IPv4"),
    };
    let (local, remote) = (hex(local), hex(remote));
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    let line = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    line.into_iter().find(|line| line[1] == local && line[2] == remote).expect("our socket")[9].to_owned()
}

/// Whether this process has that socket open.
fn has_socket(inode: &str) -> bool {
    let wanted = format!("socket:[{inode}]");
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("the descriptors");
    descriptors
        .flatten()
        .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy() == wanted))
}
