//! Contract, section 9: datagrams.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;

use twistor::endpoint::{UdpBind, UdpConnect};
use twistor::testing::Injection;
use twistor::{Address, DatagramSocket};
use twistor_tests::{Heard, Mail, Mailbox, Post, World, contract, in_child};

const LOCAL: &str = "udp:0:interface=127.0.0.1";

/// A socket of the reactor whose protocol writes down what it hears.
fn listen(world: &World) -> (DatagramSocket, Mail) {
    listen_with(world, |_, _| {})
}

fn listen_with(world: &World, hook: impl FnMut(&DatagramSocket, &Heard) + 'static) -> (DatagramSocket, Mail) {
    let (post, mail) = Post::with(hook);
    let socket = world.reactor.listen_datagram(LOCAL, post).unwrap();
    (socket, mail)
}

fn receive(world: &World, mailbox: &Mailbox) -> (Vec<u8>, SocketAddr) {
    let mut received = None;
    world.until("a datagram arrives", || {
        received = mailbox.receive();
        received.is_some()
    });
    received.unwrap()
}

contract! {
    // Line 58.
    fn a_datagram_arrives_as_it_was_sent_and_tells_its_sender(driver) {
        let world = World::new(driver);
        let (socket, mail) = listen(&world);
        let peer = world.machine().mailbox();
        let sent: Vec<Vec<u8>> = [1, 0, 1000, 0, 9000, 65_507].iter().map(|length| vec![7; *length]).collect();
        for datagram in &sent {
            peer.send(datagram, &socket.local_addr());
        }
        world.until("all arrive", || mail.datagrams().len() == sent.len());
        assert_eq!(mail.datagrams(), sent);
        assert!(mail.senders().iter().all(|from| *from == Address::from(peer.local_addr())));
        assert_eq!(mail.all()[0], Heard::Started);
        assert_eq!(socket.stats().received, sent.len() as u64);
    }

    // Line 58.
    fn datagrams_go_out_as_they_were_sent(driver) {
        let world = World::new(driver);
        let (socket, _) = listen(&world);
        let peer = world.machine().mailbox();
        let sent: Vec<Vec<u8>> = [1, 0, 1000, 0, 9000, 65_507].iter().map(|length| vec![7; *length]).collect();
        for datagram in &sent {
            socket.send_to(datagram, peer.local_addr()).unwrap();
        }
        for datagram in &sent {
            let (received, from) = receive(&world, &peer);
            assert_eq!(received.len(), datagram.len());
            assert_eq!(Address::from(from), socket.local_addr());
        }
        assert_eq!(socket.stats().sent, sent.len() as u64);
        assert_eq!(socket.queued(), (0, 0));
    }

    // Line 58.
    fn an_oversized_datagram_is_reported_as_truncated(driver) {
        let world = World::new(driver);
        let (post, mail) = Post::new();
        let endpoint = UdpBind::new(0).interface([127, 0, 0, 1]).max_datagram(100);
        let socket = world.reactor.listen_datagram(endpoint, post).unwrap();
        let peer = world.machine().mailbox();
        for length in [100, 101, 0, 5000, 1] {
            peer.send(&vec![5; length], &socket.local_addr());
        }
        world.until("all arrive", || mail.all().len() == 6);
        let expected = [
            Heard::Started,
            Heard::Datagram(vec![5; 100]),
            Heard::Truncated(vec![5; 100]),
            Heard::Datagram(vec![]),
            Heard::Truncated(vec![5; 100]),
            Heard::Datagram(vec![5]),
        ];
        assert_eq!(mail.all(), expected);
        assert_eq!((socket.stats().received, socket.stats().truncated), (5, 2));
        assert_eq!(world.reactor.stats().datagrams_truncated, 2);
    }

    // Line 58.
    fn a_datagram_that_can_never_go_is_an_error_at_once(driver) {
        let world = World::new(driver);
        let (socket, mail) = listen(&world);
        let peer = world.machine().mailbox();
        let kind = |result: std::io::Result<()>| result.unwrap_err().kind();
        let error = socket.send_to(&[0; 65_508], peer.local_addr()).unwrap_err();
        assert_eq!(error.to_string(), "a datagram of 65508 bytes is too long: 65507 are the most");
        assert_eq!(kind(socket.send(b"to whom?")), ErrorKind::NotConnected);
        let v6 = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 9));
        assert_eq!(kind(socket.send_to(b"another family", v6)), ErrorKind::InvalidInput);
        let no_port = SocketAddr::from(([127, 0, 0, 1], 0));
        assert_eq!(kind(socket.send_to(b"no port", no_port)), ErrorKind::InvalidInput);
        let (post, _) = Post::new();
        let connected = world.reactor.connect_datagram(peer.local_addr(), post).unwrap();
        let other = socket.local_addr().socket_addr().unwrap();
        assert_eq!(kind(connected.send_to(b"not the peer", other)), ErrorKind::InvalidInput);
        connected.send_to(b"the peer", peer.local_addr()).unwrap();
        assert_eq!(receive(&world, &peer).0, b"the peer");
        drop(socket.close());
        assert_eq!(kind(socket.send_to(b"closed", peer.local_addr())), ErrorKind::NotConnected);
        world.turns(3);
        assert_eq!(mail.datagrams().len(), 0);
        assert!(peer.receive().is_none());
    }

    // Line 58.
    fn a_busy_socket_leaves_the_others_their_turn(driver) {
        let world = World::with(driver, |builder| builder.datagram_budget(16));
        let turn = Rc::new(RefCell::new(Vec::new()));
        let sockets: Vec<_> = (0..2)
            .map(|number| {
                let turn = Rc::clone(&turn);
                listen_with(&world, move |_, heard| {
                    if matches!(heard, Heard::Datagram(_)) {
                        turn.borrow_mut().push(number);
                    }
                })
            })
            .collect();
        world.turns(2);
        let peer = world.machine().mailbox();
        for _ in 0..100 {
            for (socket, _) in &sockets {
                peer.send(b"x", &socket.local_addr());
            }
        }
        let mut left = 200;
        while left > 0 {
            world.turn(std::time::Duration::from_secs(1));
            let turns = turn.take();
            for number in 0..2 {
                let count = turns.iter().filter(|one| **one == number).count();
                assert!(count <= 16, "{count} datagrams of one socket in one pass");
            }
            left -= turns.len();
        }
    }

    // Line 59.
    fn what_the_system_refuses_waits_up_to_a_limit_and_is_then_dropped_and_counted(driver) {
        let world = World::with(driver, |builder| builder.fault_injection(Injection::new(1).would_block(0.9)));
        let (post, _) = Post::new();
        let endpoint = UdpBind::new(0).interface([127, 0, 0, 1]).queue_limit(4, 1 << 20);
        let socket = world.reactor.listen_datagram(endpoint, post).unwrap();
        let peer = world.machine().mailbox();
        let mut refused = 0;
        for number in 0..200_u32 {
            match socket.send_to(&number.to_ne_bytes(), peer.local_addr()) {
                Ok(()) => {}
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    refused += 1;
                }
            }
            assert!(socket.queued().0 <= 4, "{:?}", socket.queued());
        }
        assert!(refused > 0, "nothing was ever refused");
        assert_eq!(socket.stats().dropped, refused);
        assert_eq!(world.reactor.stats().datagrams_dropped, refused);
        world.until("the rest goes out", || socket.queued() == (0, 0));
        assert_eq!(socket.stats().sent, 200 - refused);
        let mut numbers = Vec::new();
        while numbers.len() < (200 - refused) as usize {
            numbers.push(u32::from_ne_bytes(receive(&world, &peer).0.try_into().unwrap()));
        }
        assert!(numbers.is_sorted(), "out of order: {numbers:?}");
    }

    // Line 59.
    fn the_bytes_of_a_queue_are_limited_as_well(driver) {
        let world = World::with(driver, |builder| builder.fault_injection(Injection::new(1).would_block(0.999)));
        let (post, _) = Post::new();
        let endpoint = UdpBind::new(0).interface([127, 0, 0, 1]).queue_limit(1000, 65_535);
        let socket = world.reactor.listen_datagram(endpoint, post).unwrap();
        let peer = world.machine().mailbox();
        let sent = (0..10).filter(|_| socket.send_to(&[0; 20_000], peer.local_addr()).is_ok()).count();
        assert!(sent < 10, "everything was taken");
        assert!(socket.queued().1 <= 65_535, "{:?}", socket.queued());
        drop(socket.close());
        assert_eq!(socket.stats().sent + socket.stats().dropped, 10);
    }

    // Line 59.
    fn many_more_datagrams_than_the_limit_go_out_of_one_hook_if_the_system_takes_them(driver) {
        let world = World::new(driver);
        let (post, _) = Post::new();
        let endpoint = UdpBind::new(0).interface([127, 0, 0, 1]).queue_limit(3, 1 << 20);
        let socket = world.reactor.listen_datagram(endpoint, post).unwrap();
        let peer = world.machine().mailbox();
        for _ in 0..100 {
            socket.send_to(b"x", peer.local_addr()).unwrap();
        }
        world.turns(2);
        assert_eq!((socket.stats().sent, socket.stats().dropped), (100, 0));
    }

    // Line 60.
    fn a_refusal_is_heard_of_by_a_connected_socket(driver) {
        let world = World::new(driver);
        let (post, mail) = Post::new();
        let socket = world.reactor.connect_datagram(world.machine().vacant_for_datagrams(), post).unwrap();
        socket.send(b"hello?").unwrap();
        world.until("the refusal is there", || mail.count(&Heard::Refused) == 1);
        world.assert_sleeps("a refusal was told");
        socket.send(b"hello?").unwrap();
        world.until("it comes again", || mail.count(&Heard::Refused) == 2);
        assert_eq!(socket.stats().refused, 2);
    }

    // Line 60.
    fn a_refusal_is_heard_of_while_nothing_is_read(driver) {
        let world = World::new(driver);
        let (post, mail) = Post::new();
        let socket = world.reactor.connect_datagram(world.machine().vacant_for_datagrams(), post).unwrap();
        world.turns(2);
        socket.pause_reading();
        world.turns(2);
        for round in 1..=3 {
            socket.send(b"hello?").unwrap();
            world.until("the refusal is there", || mail.count(&Heard::Refused) == round);
            world.assert_sleeps("a refusal was told to a paused socket");
        }
    }

    // Line 60.
    fn a_burst_into_the_void_ends_in_refusals_and_not_in_a_spin(driver) {
        let world = World::new(driver);
        let (post, mail) = Post::new();
        let socket = world.reactor.connect_datagram(world.machine().vacant_for_datagrams(), post).unwrap();
        for _ in 0..100 {
            socket.send(b"hello?").unwrap();
        }
        world.until("a refusal is there", || mail.count(&Heard::Refused) > 0);
        world.until("all is sent", || socket.queued() == (0, 0));
        world.assert_sleeps("everything was refused");
        assert_eq!(socket.stats().sent, 100);
    }

    // Line 60.
    fn a_socket_without_a_peer_hears_of_no_refusal(driver) {
        let world = World::new(driver);
        let (socket, mail) = listen(&world);
        socket.send_to(b"hello?", world.machine().vacant_for_datagrams()).unwrap();
        world.assert_sleeps("a datagram went nowhere");
        assert_eq!(mail.all(), [Heard::Started]);
    }

    // Line 60.
    fn a_panic_in_the_hook_leaves_the_port_alive(driver) {
        let world = World::new(driver);
        let (socket, mail) = listen_with(&world, |socket, heard| {
            assert!(!matches!(heard, Heard::Datagram(data) if data == b"bad"), "as the test wants it");
            if matches!(heard, Heard::Datagram(_)) {
                socket.send_to(b"alive", SocketAddr::from(([127, 0, 0, 1], 9))).unwrap();
            }
        });
        let peer = world.machine().mailbox();
        for text in ["good", "bad", "good", "bad", "bad", "good"] {
            peer.send(text.as_bytes(), &socket.local_addr());
        }
        world.until("all arrive", || mail.datagrams().len() == 6);
        assert!(socket.is_open());
        assert_eq!(world.reactor.stats().panics, 3);
        peer.send(b"good", &socket.local_addr());
        world.until("one more arrives", || mail.datagrams().len() == 7);
        world.turns(1);
        assert_eq!(socket.stats().sent, 4);
    }

    // Line 60.
    fn closing_in_mid_batch_stops_delivery(driver) {
        let world = World::new(driver);
        let (socket, mail) = listen_with(&world, |socket, heard| {
            if *heard == Heard::Datagram(b"3".to_vec()) {
                drop(socket.close());
            }
        });
        world.turns(2);
        let peer = world.machine().mailbox();
        for number in 0..20_u32 {
            peer.send(number.to_string().as_bytes(), &socket.local_addr());
        }
        world.until("it is stopped", || mail.count(&Heard::Stopped) == 1);
        world.turns(3);
        assert_eq!(mail.datagrams(), [b"0", b"1", b"2", b"3"]);
        assert_eq!(mail.all().last(), Some(&Heard::Stopped));
        assert_eq!(socket.stats().received, 4);
    }

    // Lines 20 and 60.
    fn pausing_in_mid_batch_stops_delivery_and_loses_nothing(driver) {
        let world = World::new(driver);
        let (socket, mail) = listen_with(&world, |socket, heard| {
            if matches!(heard, Heard::Datagram(_)) {
                socket.pause_reading();
            }
        });
        world.turns(2);
        let peer = world.machine().mailbox();
        for number in 0..20_u32 {
            peer.send(number.to_string().as_bytes(), &socket.local_addr());
        }
        for count in 1..=20 {
            world.until("one arrives", || mail.datagrams().len() == count);
            world.assert_sleeps("the socket is paused");
            assert!(!socket.is_reading());
            socket.resume_reading();
        }
        let expected: Vec<Vec<u8>> = (0..20_u32).map(|number| number.to_string().into_bytes()).collect();
        assert_eq!(mail.datagrams(), expected);
    }

    // Line 60.
    fn what_was_sent_before_a_close_goes_out(driver) {
        let world = World::new(driver);
        let (socket, mail) = listen(&world);
        let peer = world.machine().mailbox();
        let to = peer.local_addr();
        let closing = socket.clone();
        world.reactor.call_soon(move |_| {
            closing.send_to(b"one", to).unwrap();
            closing.send_to(b"two", to).unwrap();
            drop(closing.close());
            drop(closing.close());
        });
        assert_eq!(receive(&world, &peer).0, b"one");
        assert_eq!(receive(&world, &peer).0, b"two");
        world.turns(2);
        assert_eq!(mail.all(), [Heard::Started, Heard::Stopped]);
    }

    fn the_port_is_free_after_a_close(driver) {
        let world = World::new(driver);
        let (socket, _) = listen(&world);
        let address = socket.local_addr().socket_addr().unwrap();
        let error = world.reactor.listen_datagram(address, Post::new().0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().starts_with(&format!("cannot bind {address}: address in use")), "{error}");
        drop(socket.close());
        world.reactor.listen_datagram(address, Post::new().0).unwrap();
    }

    fn without_a_descriptor_there_is_an_error_and_nothing_is_left(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let (socket, mail) = listen(&world);
            let peer = world.machine().mailbox();
            let limit = world.leave_descriptors(0);
            for _ in 0..100 {
                let error = world.reactor.listen_datagram(LOCAL, Post::new().0).unwrap_err();
                assert!(error.to_string().starts_with("cannot bind 127.0.0.1:0: "), "{error}");
            }
            // Those that are open do not need one.
            peer.send(b"hello", &socket.local_addr());
            world.until("it arrives", || mail.datagrams() == [b"hello"]);
            world.limit_descriptors(limit);
            world.reactor.listen_datagram(LOCAL, Post::new().0).unwrap();
        });
    }

    fn a_flood_costs_no_more_than_the_limits(driver) {
        let world = World::new(driver);
        let answer = |socket: &DatagramSocket, data: &[u8], _: &Address| {
            // Ten for one, to somebody who does not look.
            for _ in 0..10 {
                let _ = socket.send_to(data, SocketAddr::from(([127, 0, 0, 1], 9)));
            }
        };
        let socket = world.reactor.listen_datagram(LOCAL, answer).unwrap();
        let peer = world.machine().mailbox();
        let (mut rounds, mut most) = (0, 0);
        while rounds < 200 {
            for _ in 0..50 {
                peer.send(&[0; 500], &socket.local_addr());
            }
            world.turn(std::time::Duration::from_millis(1));
            most = most.max(socket.queued().0);
            rounds += 1;
        }
        assert!(most <= 1024, "{most} are queued");
        assert!(socket.stats().received > 1000, "{:?}", socket.stats());
    }

    fn a_connected_socket_hears_its_peer_only(driver) {
        let world = World::new(driver);
        let (peer, stranger) = (world.machine().mailbox(), world.machine().mailbox());
        let (post, mail) = Post::new();
        let socket = world.reactor.connect_datagram(UdpConnect::new(peer.local_addr()), post).unwrap();
        assert_eq!(socket.peer_addr(), Some(peer.local_addr().into()));
        stranger.send(b"stranger", &socket.local_addr());
        peer.send(b"peer", &socket.local_addr());
        world.until("one arrives", || !mail.datagrams().is_empty());
        world.turns(2);
        assert_eq!(mail.datagrams(), [b"peer"]);
    }

    fn what_is_sent_when_it_starts_goes_out(driver) {
        let world = World::new(driver);
        let peer = world.machine().mailbox();
        let to = peer.local_addr();
        let (_socket, _) = listen_with(&world, move |socket, heard| {
            if *heard == Heard::Started {
                socket.send_to(b"here I am", to).unwrap();
            }
        });
        assert_eq!(receive(&world, &peer).0, b"here I am");
    }

    fn a_stopping_reactor_closes_the_sockets(driver) {
        let world = World::new(driver);
        let (socket, mail) = listen(&world);
        world.turns(2);
        world.reactor.stop();
        while world.turn(std::time::Duration::ZERO) {}
        assert!(!socket.is_open());
        assert_eq!(mail.all(), [Heard::Started, Heard::Stopped]);
    }

    fn a_dropped_reactor_drops_the_protocol_that_holds_its_own_socket(driver) {
        let world = World::new(driver);
        let held: Rc<RefCell<Option<DatagramSocket>>> = Rc::default();
        let alive = Rc::new(Cell::new(()));
        let (inside, marker) = (Rc::clone(&held), Rc::clone(&alive));
        let (socket, _) = listen_with(&world, move |_, _| {
            let _ = (&inside, &marker);
        });
        *held.borrow_mut() = Some(socket.clone());
        drop(held);
        world.turns(2);
        let _simulation = world.end();
        assert_eq!(Rc::strong_count(&alive), 1);
        assert!(!socket.is_open());
        assert_eq!(socket.send_to(b"x", SocketAddr::from(([127, 0, 0, 1], 9))).unwrap_err().kind(), ErrorKind::NotConnected);
    }

    fn an_idle_socket_costs_no_wake_up(driver) {
        let world = World::new(driver);
        let (socket, mail) = listen(&world);
        let peer = world.machine().mailbox();
        peer.send(b"x", &socket.local_addr());
        world.until("it arrives", || !mail.datagrams().is_empty());
        world.assert_sleeps("nothing is sent");
        socket.pause_reading();
        world.turns(2);
        for _ in 0..50 {
            peer.send(b"x", &socket.local_addr());
        }
        world.assert_sleeps("the socket is paused");
        socket.resume_reading();
        world.until("they arrive", || mail.datagrams().len() == 51);
    }

    fn run_until_idle_waits_for_a_socket_unless_told_not_to(driver) {
        let world = World::new(driver);
        let (socket, _) = listen(&world);
        let closing = socket.clone();
        world.reactor.call_later(std::time::Duration::from_millis(20), move |_| drop(closing.close())).unref();
        world.reactor.run_until_idle().unwrap();
        assert!(!socket.is_open());
        let (other, _) = listen(&world);
        other.unref();
        world.reactor.run_until_idle().unwrap();
        assert!(other.is_open());
    }

    fn an_ipv6_socket_for_both_families_shows_ipv4_peers_as_such(driver) {
        let world = World::new(driver);
        let (post, mail) = Post::with(|socket, heard| {
            if let Heard::Datagram(data) = heard {
                let to = SocketAddr::from(([127, 0, 0, 1], u16::from_ne_bytes(data[..2].try_into().unwrap())));
                socket.send_to(b"answer", to).unwrap();
            }
        });
        let Ok(socket) = world.reactor.listen_datagram(UdpBind::v6(0), post) else {
            return; // a machine without IPv6
        };
        let peer = world.machine().mailbox();
        let to = SocketAddr::from(([127, 0, 0, 1], socket.local_addr().port()));
        peer.send(&peer.local_addr().port().to_ne_bytes(), &to.into());
        assert_eq!(receive(&world, &peer).0, b"answer");
        assert_eq!(mail.senders(), [Address::from(peer.local_addr())]);
    }

    fn faults_of_the_system_lose_nothing_within_the_limits(driver) {
        let world = World::with(driver, |builder| builder.fault_injection(Injection::harmless(5)));
        let (socket, mail) = listen_with(&world, |_, _| {});
        let (post, answers) = Post::new();
        let client = world.reactor.connect_datagram(socket.local_addr().socket_addr().unwrap(), post).unwrap();
        for number in 0..100_u32 {
            client.send(&number.to_ne_bytes()).unwrap();
            if number % 10 == 0 {
                world.turns(3);
            }
        }
        world.until("all arrive", || mail.datagrams().len() == 100);
        let numbers: Vec<Vec<u8>> = (0..100_u32).map(|number| number.to_ne_bytes().to_vec()).collect();
        assert_eq!(mail.datagrams(), numbers);
        assert_eq!(answers.all(), [Heard::Started]);
    }
}
