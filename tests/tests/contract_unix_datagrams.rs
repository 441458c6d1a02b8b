//! Contract, sections 9 and 10: Unix sockets for datagrams.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use twistor::endpoint::{UnixDatagramBind, UnixDatagramConnect, UnixListen};
use twistor::testing::Injection;
use twistor::{Address, DatagramSocket, UnixAddress};
use twistor_tests::{
    Driver, Heard, Log, Mail, Post, Script, World, contract, in_child, kernel_contract, process,
};

/// A directory of its own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("twistor-unixdg-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("s")
    }

    fn named(&self, name: &str) -> UnixAddress {
        UnixAddress::from_path(self.0.join(name))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An abstract name of its own.
fn a_name() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("twistor-dg-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A socket of the reactor whose protocol writes down what it hears.
fn bind(world: &World, endpoint: UnixDatagramBind) -> (DatagramSocket, Mail) {
    let (post, mail) = Post::new();
    (world.reactor.listen_datagram(endpoint, post).unwrap(), mail)
}

fn bind_with(
    world: &World,
    endpoint: UnixDatagramBind,
    hook: impl FnMut(&DatagramSocket, &Heard) + 'static,
) -> (DatagramSocket, Mail) {
    let (post, mail) = Post::with(hook);
    (world.reactor.listen_datagram(endpoint, post).unwrap(), mail)
}

fn connect(world: &World, endpoint: UnixDatagramConnect) -> (DatagramSocket, Mail) {
    let (post, mail) = Post::new();
    (world.reactor.connect_datagram(endpoint, post).unwrap(), mail)
}

/// A plain socket that does not block.
fn plain(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn numbers(range: std::ops::Range<u32>) -> Vec<Vec<u8>> {
    range.map(|number| number.to_string().into_bytes()).collect()
}

contract! {
    // Line 58.
    fn a_datagram_arrives_as_it_was_sent_and_its_sender_can_be_answered(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let echo = |socket: &DatagramSocket, data: &[u8], from: &Address| socket.send_to(data, from).unwrap();
        let server = world.reactor.listen_datagram(UnixDatagramBind::new(directory.socket()), echo).unwrap();
        assert_eq!(server.local_addr(), directory.named("s").into());
        let local = directory.named("c");
        let (client, mail) = connect(&world, UnixDatagramConnect::new(directory.socket()).local_addr(local.clone()));
        assert_eq!(client.local_addr(), local.into());
        assert_eq!(client.peer_addr(), Some(server.local_addr()));
        let sent: Vec<Vec<u8>> = [1, 0, 1000, 0, 9000, 65_535].iter().map(|length| vec![7; *length]).collect();
        for datagram in &sent {
            client.send(datagram).unwrap();
        }
        world.until("all are echoed", || mail.datagrams().len() == sent.len());
        assert_eq!(mail.datagrams(), sent);
        assert!(mail.senders().iter().all(|from| *from == server.local_addr()));
        assert_eq!((server.stats().received, server.stats().sent), (6, 6));
        assert_eq!((client.stats().received, client.stats().sent), (6, 6));
    }

    // Lines 58 and 62.
    fn abstract_names_are_addresses_in_strings_and_of_senders(driver) {
        let (world, name) = (World::new(driver), a_name());
        let (post, mail) = Post::new();
        let server = world.reactor.listen_datagram(format!("unix:@{name}"), post).unwrap();
        assert_eq!(server.local_addr().to_string(), format!("@{name}"));
        let (post, answers) = Post::new();
        let endpoint = format!("unix:@{name}:bind_address=@{name}-client");
        let client = world.reactor.connect_datagram(endpoint, post).unwrap();
        client.send(b"hello").unwrap();
        world.until("it arrives", || mail.datagrams() == [b"hello"]);
        let sender = mail.senders()[0].clone();
        assert_eq!(sender, UnixAddress::from_abstract_name(format!("{name}-client")).into());
        server.send_to(b"hello yourself", sender).unwrap();
        world.until("the answer arrives", || answers.datagrams() == [b"hello yourself"]);
        let error = world.reactor.listen_datagram(format!("unix:@{name}"), Post::new().0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().starts_with(&format!("cannot bind @{name}: address in use")), "{error}");
        drop(server.close());
        world.reactor.listen_datagram(format!("unix:@{name}"), Post::new().0).unwrap();
    }

    // Line 58.
    fn an_autobound_client_can_be_answered(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let echo = |socket: &DatagramSocket, data: &[u8], from: &Address| socket.send_to(data, from).unwrap();
        world.reactor.listen_datagram(UnixDatagramBind::new(directory.socket()), echo).unwrap();
        let endpoint = || UnixDatagramConnect::new(directory.socket()).autobind(true);
        let (first, second) = (connect(&world, endpoint()), connect(&world, endpoint()));
        assert!(first.0.local_addr().unix().unwrap().abstract_name().is_some(), "{first:?}");
        assert_ne!(first.0.local_addr(), second.0.local_addr());
        first.0.send(b"first").unwrap();
        second.0.send(b"second").unwrap();
        world.until("the echoes arrive", || first.1.datagrams().len() + second.1.datagrams().len() == 2);
        assert_eq!((first.1.datagrams(), second.1.datagrams()), (vec![b"first".to_vec()], vec![b"second".to_vec()]));
    }

    // Line 58.
    fn an_unnamed_sender_cannot_be_answered(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (server, mail) = bind(&world, UnixDatagramBind::new(directory.socket()));
        let (client, _) = connect(&world, UnixDatagramConnect::new(directory.socket()));
        assert!(client.local_addr().unix().is_some_and(UnixAddress::is_unnamed));
        client.send(b"").unwrap();
        client.send(b"hello").unwrap();
        world.until("both arrive", || mail.datagrams() == [&b""[..], b"hello"]);
        let sender = mail.senders()[0].clone();
        assert!(sender.unix().is_some_and(UnixAddress::is_unnamed), "{sender}");
        let error = server.send_to(b"who are you?", sender).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let path = directory.socket().display().to_string();
        let text = "who has not bound its socket to an address cannot be answered";
        assert_eq!(error.to_string(), format!("cannot send to unnamed from {path}: {text}"));
    }

    // Line 58.
    fn an_oversized_datagram_is_reported_as_truncated(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (server, mail) = bind(&world, UnixDatagramBind::new(directory.socket()).max_datagram(100));
        let (client, _) = connect(&world, UnixDatagramConnect::new(directory.socket()));
        for length in [100, 101, 0, 5000, 1] {
            client.send(&vec![5; length]).unwrap();
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
        assert_eq!((server.stats().received, server.stats().truncated), (5, 2));
        // Longer than anything that is received whole.
        client.send(&[5; 100_000]).unwrap();
        world.until("it arrives", || mail.count(&Heard::Truncated(vec![5; 100])) == 3);
    }

    // Line 58.
    fn a_datagram_that_can_never_go_is_an_error_at_once(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (server, mail) = bind(&world, UnixDatagramBind::new(directory.socket()));
        let (client, _) = connect(&world, UnixDatagramConnect::new(directory.socket()));
        let kind = |result: std::io::Result<()>| result.unwrap_err().kind();
        let error = client.send(&vec![0; 10 << 20]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().starts_with("a datagram of 10485760 bytes is too long: "), "{error}");
        let udp = SocketAddr::from(([127, 0, 0, 1], 9));
        let error = server.send_to(b"another family", udp).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().ends_with(": the socket is a Unix one"), "{error}");
        let long = UnixAddress::from_path("x".repeat(300));
        let error = server.send_to(b"over-long", long).unwrap_err();
        assert!(error.to_string().contains("the path has 300 bytes"), "{error}");
        assert_eq!(kind(server.send(b"to whom?")), ErrorKind::NotConnected);
        assert_eq!(kind(client.send_to(b"not the peer", directory.named("other"))), ErrorKind::InvalidInput);
        client.send_to(b"the peer", directory.named("s")).unwrap();
        world.until("it arrives", || mail.datagrams() == [b"the peer"]);
        let udp = world.reactor.listen_datagram("udp:0:interface=127.0.0.1", Post::new().0).unwrap();
        assert_eq!(kind(udp.send_to(b"another family", server.local_addr())), ErrorKind::InvalidInput);
        drop(server.close());
        assert_eq!(kind(server.send_to(b"closed", directory.named("s"))), ErrorKind::NotConnected);
        assert_eq!(server.stats().sent + server.stats().failed, 0);
    }

    // Line 58: the longest that is not refused at once really goes.
    fn the_longest_datagram_goes(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (_server, mail) = bind(&world, UnixDatagramBind::new(directory.socket()));
        let (client, heard) = connect(&world, UnixDatagramConnect::new(directory.socket()));
        let error = client.send(&vec![0; 10 << 20]).unwrap_err().to_string();
        let longest: usize = error.split_whitespace().rev().nth(3).unwrap().parse().unwrap();
        assert!(client.send(&vec![1; longest + 1]).is_err());
        client.send(&vec![1; longest]).unwrap();
        world.until("it arrives", || mail.all().len() == 2);
        assert_eq!(mail.all()[1], Heard::Truncated(vec![1; 65_535]));
        assert_eq!(heard.all(), [Heard::Started]);
    }

    // Line 61: what only the internet has is no silent no-op.
    fn multicast_broadcast_and_hops_are_errors_that_say_so(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (socket, _) = bind(&world, UnixDatagramBind::new(directory.socket()));
        let group = Ipv4Addr::new(239, 255, 0, 1);
        for result in [
            socket.join_multicast(group, Ipv4Addr::LOCALHOST),
            socket.leave_multicast(group, Ipv4Addr::LOCALHOST),
            socket.set_multicast_interface(Ipv4Addr::LOCALHOST),
            socket.set_multicast_ttl(1),
            socket.set_multicast_loop(true),
            socket.set_ttl(1),
            socket.set_broadcast(true),
        ] {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("is a Unix socket, which knows no routers and no groups"), "{error}");
        }
        let error = socket.set_ttl(1).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot set ttl: {}", directory.socket().display())), "{error}");
    }

    // Line 59.
    fn what_goes_to_nobody_is_told_to_the_sender(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (socket, mail) = bind(&world, UnixDatagramBind::new(directory.socket()));
        socket.send_to(b"x", directory.named("nobody")).unwrap();
        world.until("it failed", || mail.count(&Heard::Failed(ErrorKind::NotFound)) == 1);
        socket.send_to(b"x", UnixAddress::from_abstract_name(a_name())).unwrap();
        world.until("it failed", || mail.count(&Heard::Failed(ErrorKind::ConnectionRefused)) == 1);
        assert_eq!((socket.stats().failed, socket.stats().sent, socket.stats().refused), (2, 0, 0));
        world.assert_sleeps("everything has failed");
        let error = world.reactor.connect_datagram(UnixDatagramConnect::new(directory.0.join("no")), Post::new().0);
        let path = directory.0.join("no").display().to_string();
        let text = format!("cannot connect to {path}: there is no such socket file");
        assert_eq!(error.unwrap_err().to_string(), text);
    }

    // Line 60.
    fn a_connected_socket_hears_that_its_peer_is_gone(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (server, mail) = bind(&world, UnixDatagramBind::new(directory.socket()));
        let (client, heard) = connect(&world, UnixDatagramConnect::new(directory.socket()));
        client.send(b"hello").unwrap();
        world.until("it arrives", || mail.datagrams().len() == 1);
        drop(server.close());
        world.assert_sleeps("a peer is gone");
        for round in 1..=3 {
            for _ in 0..100 {
                client.send(b"hello?").unwrap();
            }
            world.until("the refusal is there", || heard.count(&Heard::Refused) == round);
            assert_eq!(client.queued(), (0, 0));
            world.assert_sleeps("a refusal was told");
        }
        assert_eq!((client.stats().sent, client.stats().refused, client.stats().failed), (1, 3, 300));
        assert_eq!(heard.all().len(), 4, "one refusal for all that was queued");
        // Another one takes its place.
        let (_server, mail) = bind(&world, UnixDatagramBind::new(directory.socket()));
        client.send(b"hello again").unwrap();
        world.until("it arrives", || mail.datagrams() == [b"hello again"]);
        assert_eq!(heard.count(&Heard::Refused), 3);
    }

    // Line 60: nothing is lost when a server is replaced between two datagrams.
    fn a_peer_that_was_replaced_is_found_again(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (server, _) = bind(&world, UnixDatagramBind::new(directory.socket()));
        let (client, heard) = connect(&world, UnixDatagramConnect::new(directory.socket()));
        world.turns(2);
        drop(server.close());
        let (_server, mail) = bind(&world, UnixDatagramBind::new(directory.socket()));
        for number in numbers(0..5) {
            client.send(&number).unwrap();
        }
        world.until("all arrive", || mail.datagrams().len() == 5);
        assert_eq!(mail.datagrams(), numbers(0..5));
        assert_eq!(heard.all(), [Heard::Started]);
    }

    // Line 59: one burst that is longer than what the receiver has room for.
    fn a_burst_to_a_connected_peer_arrives_whole_and_in_order(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (_server, mail) = bind(&world, UnixDatagramBind::new(directory.socket()));
        let (client, _) = connect(&world, UnixDatagramConnect::new(directory.socket()));
        for number in numbers(0..500) {
            client.send(&number).unwrap();
        }
        world.until("all arrive", || mail.datagrams().len() == 500);
        assert_eq!(mail.datagrams(), numbers(0..500));
        assert_eq!((client.stats().sent, client.stats().dropped), (500, 0));
        world.assert_sleeps("everything has arrived");
    }

    // Line 59: as above, and nobody says when there is room.
    fn a_burst_without_a_connection_arrives_whole_and_in_order(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (_server, mail) = bind(&world, UnixDatagramBind::new(directory.socket()));
        let (client, _) = bind(&world, UnixDatagramBind::on(directory.named("c")));
        for number in numbers(0..200) {
            client.send_to(&number, directory.named("s")).unwrap();
        }
        world.until("all arrive", || mail.datagrams().len() == 200);
        assert_eq!(mail.datagrams(), numbers(0..200));
        assert_eq!((client.stats().sent, client.stats().dropped), (200, 0));
        world.assert_sleeps("everything has arrived");
    }

    // Line 59.
    fn a_receiver_that_takes_nothing_costs_no_spin_and_holds_up_nobody(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (stuck, late) = bind(&world, UnixDatagramBind::on(directory.named("stuck")));
        let (_quick, mail) = bind(&world, UnixDatagramBind::on(directory.named("quick")));
        world.turns(2);
        stuck.pause_reading();
        world.turns(2);
        let (sender, _) = bind(&world, UnixDatagramBind::new(directory.socket()).queue_limit(100, 1 << 20));
        let mut refused = 0;
        for number in numbers(0..500) {
            // To one and the other in turn, so that both stand in the same batch.
            if let Err(error) = sender.send_to(&number, directory.named("stuck")) {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                refused += 1;
            }
            sender.send_to(&number, directory.named("quick")).unwrap();
            if number.ends_with(b"9") {
                world.turns(2);
            }
        }
        world.until("the other one has all", || mail.datagrams().len() == 500);
        assert_eq!(mail.datagrams(), numbers(0..500));
        assert!(refused >= 380, "{refused} refused");
        assert_eq!(sender.stats().dropped, refused);
        assert_eq!(world.reactor.stats().datagrams_dropped, refused);
        assert_eq!(sender.queued().0, 100);
        // Tried now and then, and less and less.
        world.run_for(Duration::from_millis(200));
        let (passes, calls) = (world.reactor.stats().passes, world.reactor.stats().system_calls.sends);
        world.run_for(Duration::from_millis(500));
        let (passes, calls) =
            (world.reactor.stats().passes - passes, world.reactor.stats().system_calls.sends - calls);
        assert!(passes <= 40 && calls <= 20, "{passes} passes, {calls} sends while nothing happens");
        // And not forgotten.
        stuck.resume_reading();
        world.until("the rest arrives", || sender.queued() == (0, 0));
        world.until("all of it", || late.datagrams().len() as u64 == 500 - refused);
        let order: Vec<u32> =
            late.datagrams().iter().map(|one| String::from_utf8_lossy(one).parse().unwrap()).collect();
        assert!(order.is_sorted(), "{order:?}");
        world.assert_sleeps("everything has arrived");
    }

    // Line 59: a connected sender is told by the system, and waits without a timer.
    fn a_connected_sender_waits_for_a_slow_receiver_without_a_spin(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (slow, mail) = bind(&world, UnixDatagramBind::new(directory.socket()));
        world.turns(2);
        slow.pause_reading();
        world.turns(2);
        let (sender, _) =
            connect(&world, UnixDatagramConnect::new(directory.socket()).queue_limit(50, 1 << 20));
        let refused = numbers(0..200).iter().filter(|number| sender.send(number).is_err()).count();
        assert!((100..150).contains(&refused), "{refused}");
        assert_eq!(sender.queued().0, 50);
        world.assert_sleeps("the receiver has no room");
        slow.resume_reading();
        world.until("all arrive", || mail.datagrams().len() == 200 - refused);
        assert_eq!(sender.queued(), (0, 0));
    }

    // Line 60.
    fn a_panic_in_the_hook_leaves_the_socket_alive(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (server, mail) = bind_with(&world, UnixDatagramBind::new(directory.socket()), |_, heard| {
            assert!(!matches!(heard, Heard::Datagram(data) if data == b"bad"), "as the test wants it");
        });
        let (client, _) = connect(&world, UnixDatagramConnect::new(directory.socket()));
        for text in ["good", "bad", "good", "bad", "bad", "good"] {
            client.send(text.as_bytes()).unwrap();
        }
        world.until("all arrive", || mail.datagrams().len() == 6);
        assert!(server.is_open());
        assert_eq!(world.reactor.stats().panics, 3);
        client.send(b"good").unwrap();
        world.until("one more arrives", || mail.datagrams().len() == 7);
    }

    // Line 60.
    fn closing_in_mid_batch_stops_delivery(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (server, mail) = bind_with(&world, UnixDatagramBind::new(directory.socket()), |socket, heard| {
            if *heard == Heard::Datagram(b"3".to_vec()) {
                drop(socket.close());
            }
        });
        world.turns(2);
        let (client, heard) = connect(&world, UnixDatagramConnect::new(directory.socket()));
        for number in numbers(0..10) {
            client.send(&number).unwrap();
        }
        world.until("it is stopped", || mail.count(&Heard::Stopped) == 1);
        world.turns(3);
        assert_eq!(mail.datagrams(), numbers(0..4));
        assert_eq!(mail.all().last(), Some(&Heard::Stopped));
        assert_eq!(server.stats().received, 4);
        client.send(b"?").unwrap();
        world.until("the refusal is there", || heard.count(&Heard::Refused) == 1);
    }

    // Lines 59 and 60.
    fn closing_drops_what_waits_and_counts_it(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (stuck, _) = bind(&world, UnixDatagramBind::on(directory.named("stuck")));
        world.turns(2);
        stuck.pause_reading();
        let (sender, mail) = bind(&world, UnixDatagramBind::new(directory.socket()));
        for number in numbers(0..50) {
            sender.send_to(&number, directory.named("stuck")).unwrap();
        }
        world.turns(3);
        let waiting = sender.queued().0 as u64;
        assert!(waiting > 30, "{waiting}");
        drop(sender.close());
        assert_eq!((sender.queued(), sender.stats().dropped), ((0, 0), waiting));
        world.until("it is stopped", || mail.count(&Heard::Stopped) == 1);
        world.assert_sleeps("it is closed");
        // The name is free at once.
        bind(&world, UnixDatagramBind::new(directory.socket()));
    }

    // Line 60: a receiver that ends while datagrams wait for it.
    fn what_waits_for_a_receiver_that_ends_is_told_as_failed(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (stuck, _) = bind(&world, UnixDatagramBind::on(directory.named("stuck")));
        world.turns(2);
        stuck.pause_reading();
        let (sender, mail) = bind(&world, UnixDatagramBind::new(directory.socket()));
        for number in numbers(0..30) {
            sender.send_to(&number, directory.named("stuck")).unwrap();
        }
        world.turns(3);
        let waiting = sender.queued().0;
        assert!(waiting > 10, "{waiting}");
        drop(stuck.close());
        world.until("all have failed", || mail.count(&Heard::Failed(ErrorKind::NotFound)) == waiting);
        assert_eq!(sender.queued(), (0, 0));
        world.assert_sleeps("all have failed");
    }

    // Line 59.
    fn what_the_system_refuses_waits_in_order(driver) {
        let world = World::with(driver, |builder| builder.fault_injection(Injection::new(1).would_block(0.7)));
        let directory = Directory::new();
        let (_server, mail) = bind(&world, UnixDatagramBind::new(directory.socket()));
        let (other, heard) = bind(&world, UnixDatagramBind::on(directory.named("other")));
        let (client, _) = bind(&world, UnixDatagramBind::on(directory.named("c")));
        for number in numbers(0..300) {
            client.send_to(&number, directory.named("s")).unwrap();
            client.send_to(&number, other.local_addr()).unwrap();
            world.turns(1);
        }
        world.until("all arrive", || mail.datagrams().len() + heard.datagrams().len() == 600);
        assert_eq!(mail.datagrams(), numbers(0..300));
        assert_eq!(heard.datagrams(), numbers(0..300));
    }

    // Line 62.
    fn a_live_socket_is_an_error_that_names_it(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let endpoint = || UnixDatagramBind::new(directory.socket());
        let (socket, mail) = bind(&world, endpoint());
        let error = world.reactor.listen_datagram(endpoint(), Post::new().0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        let start = format!("cannot bind {}: ", directory.socket().display());
        assert!(error.to_string().starts_with(&start), "{error}");
        let listen = || world.reactor.listen(UnixListen::new(directory.socket()), |_| Script::new(&Log::new()));
        assert_eq!(listen().unwrap_err().kind(), ErrorKind::AddrInUse, "streams do not take it either");
        let (client, _) = connect(&world, UnixDatagramConnect::new(directory.socket()));
        client.send(b"still there").unwrap();
        world.until("it arrives", || mail.datagrams().len() == 1);
        drop(socket.close());
        let port = listen().unwrap();
        let error = world.reactor.listen_datagram(endpoint(), Post::new().0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse, "nor that of a stream");
        drop(port.stop_listening());
        bind(&world, endpoint());
    }

    fn without_a_descriptor_there_is_an_error_and_nothing_is_left(driver) {
        in_child(module_path!(), driver, || {
            let (world, directory) = (World::new(driver), Directory::new());
            let (server, mail) = bind(&world, UnixDatagramBind::new(directory.socket()));
            let (client, _) = connect(&world, UnixDatagramConnect::new(directory.socket()));
            let limit = world.leave_descriptors(0);
            let other = UnixDatagramBind::on(directory.named("other"));
            for _ in 0..100 {
                let error = world.reactor.listen_datagram(other.clone(), Post::new().0).unwrap_err();
                assert!(error.to_string().starts_with("cannot bind "), "{error}");
                let endpoint = UnixDatagramConnect::new(directory.socket());
                assert!(world.reactor.connect_datagram(endpoint, Post::new().0).is_err());
            }
            client.send(b"hello").unwrap();
            world.until("it arrives", || mail.datagrams() == [b"hello"]);
            world.limit_descriptors(limit);
            assert!(!directory.0.join("other").exists());
            bind(&world, other);
            drop(server.close());
        });
    }

    // Line 58: a connected socket is not to be reached by others.
    fn a_connected_socket_hears_its_peer_only(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (server, _) = bind(&world, UnixDatagramBind::new(directory.socket()));
        let client = UnixDatagramConnect::new(directory.socket()).local_addr(directory.named("c"));
        let (_client, mail) = connect(&world, client);
        let (stranger, heard) = bind(&world, UnixDatagramBind::on(directory.named("stranger")));
        stranger.send_to(b"psst", directory.named("c")).unwrap();
        world.until("the system refuses", || heard.count(&Heard::Failed(ErrorKind::PermissionDenied)) == 1);
        server.send_to(b"hello", directory.named("c")).unwrap();
        world.until("the peer is heard", || mail.datagrams() == [b"hello"]);
    }
}

kernel_contract! {
    // Line 62.
    fn the_file_has_the_mode_that_was_asked_for(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        for mode in [0o600, 0o666, 0o777] {
            let endpoint = format!("unix:{}:mode={mode:o}", directory.socket().display());
            let socket = world.reactor.listen_datagram(endpoint, Post::new().0).unwrap();
            let metadata = std::fs::metadata(directory.socket()).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, mode);
            drop(socket.close());
        }
    }

    // Line 62.
    fn the_files_go_with_the_sockets_and_with_the_reactor(driver) {
        let directory = Directory::new();
        let world = World::new(driver);
        let server = || bind(&world, UnixDatagramBind::new(directory.socket())).0;
        let client = || {
            let local = directory.named("c");
            connect(&world, UnixDatagramConnect::new(directory.socket()).local_addr(local)).0
        };
        let (one, other) = (server(), client());
        assert!(std::fs::metadata(directory.socket()).unwrap().file_type().is_socket());
        assert!(directory.0.join("c").exists());
        drop((one.close(), other.close()));
        assert!(!directory.socket().exists() && !directory.0.join("c").exists());
        server();
        client();
        assert!(directory.socket().exists() && directory.0.join("c").exists());
        drop(world);
        assert!(!directory.socket().exists() && !directory.0.join("c").exists());
    }

    // Line 62.
    fn a_file_that_is_not_ours_any_more_stays(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (socket, _) = bind(&world, UnixDatagramBind::new(directory.socket()));
        std::fs::remove_file(directory.socket()).unwrap();
        let other = plain(&directory.socket());
        drop(socket.close());
        UnixDatagram::unbound().unwrap().send_to(b"hello", directory.socket()).unwrap();
        assert_eq!(other.recv(&mut [0; 10]).unwrap(), 5);
    }

    // Line 62.
    fn a_dead_socket_file_is_replaced_also_for_the_answers_of_a_client(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        for name in ["s", "c"] {
            drop(UnixDatagram::bind(directory.0.join(name)).unwrap());
        }
        let refused = world.reactor.connect_datagram(UnixDatagramConnect::new(directory.socket()), Post::new().0);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let (_server, mail) = bind(&world, UnixDatagramBind::new(directory.socket()));
        let client = UnixDatagramConnect::new(directory.socket()).local_addr(directory.named("c"));
        let (client, _) = connect(&world, client);
        client.send(b"hello").unwrap();
        world.until("it arrives", || mail.datagrams() == [b"hello"]);
    }

    // Line 62.
    fn what_is_no_socket_is_never_touched(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let endpoint = || UnixDatagramBind::new(directory.socket());
        std::fs::write(directory.socket(), b"precious").unwrap();
        let error = world.reactor.listen_datagram(endpoint(), Post::new().0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains("it is not a socket"), "{error}");
        assert_eq!(std::fs::read(directory.socket()).unwrap(), b"precious");
        std::fs::remove_file(directory.socket()).unwrap();
        std::os::unix::fs::symlink(directory.0.join("elsewhere"), directory.socket()).unwrap();
        world.reactor.listen_datagram(endpoint(), Post::new().0).unwrap_err();
        assert!(std::fs::symlink_metadata(directory.socket()).unwrap().is_symlink());
    }

    // Line 62.
    fn over_long_paths_and_missing_directories_are_refused(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let long = directory.0.join("x".repeat(200));
        let error = world.reactor.listen_datagram(UnixDatagramBind::new(&long), Post::new().0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("that of a Unix socket may have 107"), "{error}");
        assert!(world.reactor.connect_datagram(UnixDatagramConnect::new(&long), Post::new().0).is_err());
        let nowhere = directory.0.join("no").join("s");
        let error = world.reactor.listen_datagram(UnixDatagramBind::new(nowhere), Post::new().0).unwrap_err();
        assert!(error.to_string().ends_with("the directory does not exist"), "{error}");
    }

    // Line 62.
    fn a_socket_of_the_other_kind_is_an_error_that_says_so(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        world.reactor.listen(UnixListen::new(directory.socket()), |_| Script::new(&Log::new())).unwrap();
        let endpoint = UnixDatagramConnect::new(directory.socket());
        let error = world.reactor.connect_datagram(endpoint, Post::new().0).unwrap_err();
        assert!(error.to_string().ends_with("one takes datagrams, the other connections"), "{error}");
    }

    // Line 62: of those who start at once one gets the address.
    fn of_many_that_bind_at_once_one_gets_the_address(driver) {
        let directory = Directory::new();
        for _ in 0..5 {
            drop(UnixDatagram::bind(directory.socket()).unwrap());
            let barrier = Arc::new(Barrier::new(4));
            let done = Arc::new(Barrier::new(4));
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let (barrier, done, path) = (Arc::clone(&barrier), Arc::clone(&done), directory.socket());
                    std::thread::spawn(move || {
                        let world = World::new(driver);
                        barrier.wait();
                        let bound = world.reactor.listen_datagram(UnixDatagramBind::new(path), Post::new().0);
                        done.wait();
                        bound.is_ok()
                    })
                })
                .collect();
            let winners = threads.into_iter().map(|one| one.join().unwrap()).filter(|won| *won);
            assert_eq!(winners.count(), 1);
            assert!(!directory.socket().exists());
        }
    }

    // Line 62: what a killed process leaves behind does not stop the next one.
    fn what_a_killed_server_leaves_behind_does_not_stop_the_next(driver) {
        if let Some(path) = process::role() {
            let world = World::new(driver);
            bind(&world, UnixDatagramBind::new(path));
            process::say("listens", "yes");
            world.run_for(twistor_tests::PATIENCE);
            return;
        }
        let (world, directory) = (World::new(driver), Directory::new());
        let path = directory.socket();
        for _ in 0..3 {
            let command = process::again(module_path!(), driver, &path.display().to_string());
            let mut server = process::Listener::start(command);
            server.hear("listens");
            assert!(world.reactor.listen_datagram(UnixDatagramBind::new(&path), Post::new().0).is_err());
            server.signal(libc::SIGKILL);
            drop(server);
            assert!(path.exists());
            let (socket, mail) = bind(&world, UnixDatagramBind::new(&path));
            UnixDatagram::unbound().unwrap().send_to(b"hello", &path).unwrap();
            world.until("it arrives", || mail.datagrams() == [b"hello"]);
            drop(socket.close());
        }
    }

    // Line 58: with sockets of the standard library at the other end.
    fn plain_sockets_are_heard_and_answered(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (server, mail) = bind(&world, UnixDatagramBind::new(directory.socket()));
        let peer = plain(&directory.0.join("peer"));
        let sent: Vec<Vec<u8>> = [1, 0, 1000, 0, 9000, 65_535].iter().map(|length| vec![7; *length]).collect();
        for datagram in &sent {
            peer.send_to(datagram, directory.socket()).unwrap();
        }
        world.until("all arrive", || mail.datagrams().len() == sent.len());
        assert_eq!(mail.datagrams(), sent);
        assert!(mail.senders().iter().all(|from| *from == directory.named("peer").into()));
        for datagram in &sent {
            server.send_to(datagram, &mail.senders()[0]).unwrap();
        }
        world.turns(2);
        let mut buffer = vec![0; 70_000];
        for datagram in &sent {
            let (length, from) = peer.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], datagram);
            assert_eq!(from.as_pathname(), Some(&*directory.socket()));
        }
        // Senders of all kinds in one batch.
        let unnamed = UnixDatagram::unbound().unwrap();
        let other = plain(&directory.0.join("other"));
        for socket in [&peer, &unnamed, &other, &peer, &peer, &unnamed] {
            socket.send_to(b"x", directory.socket()).unwrap();
        }
        world.until("all arrive", || mail.datagrams().len() == sent.len() + 6);
        let senders: Vec<String> = mail.senders()[sent.len()..].iter().map(ToString::to_string).collect();
        let path = |name: &str| directory.0.join(name).display().to_string();
        let (peer, other) = (path("peer"), path("other"));
        assert_eq!(senders, [&peer, "unnamed", &other, &peer, &peer, "unnamed"]);
    }

    // Line 58: a program that knows nothing of this library.
    fn logger_reaches_a_socket_as_if_it_were_dev_log(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (_server, mail) = bind(&world, UnixDatagramBind::new(directory.socket()).mode(0o666));
        let logger = Command::new("logger")
            .args(["--tag", "twistor", "--socket"])
            .arg(directory.socket())
            .args(["--socket-errors=on", "--", "hello from logger"])
            .spawn();
        let Ok(mut logger) = logger else { return };
        world.until("the line arrives", || mail.datagrams().len() == 1);
        assert!(logger.wait().unwrap().success());
        let line = String::from_utf8(mail.datagrams()[0].clone()).unwrap();
        assert!(line.starts_with("<13>") && line.trim_end().ends_with("hello from logger"), "{line:?}");
    }

    // Line 59: a flood from many.
    fn a_flood_from_many_threads_is_received_whole(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let (server, mail) = bind(&world, UnixDatagramBind::new(directory.socket()));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let path = directory.socket();
                std::thread::spawn(move || {
                    let socket = UnixDatagram::unbound().unwrap();
                    socket.connect(path).unwrap();
                    for number in 0..1000_u32 {
                        // Blocks while the receiver has no room.
                        socket.send(&number.to_ne_bytes()).unwrap();
                    }
                })
            })
            .collect();
        world.until("all arrive", || mail.datagrams().len() == 4000);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(server.stats().received, 4000);
    }

    // Line 59: those who ask and never listen take nothing away from the others.
    fn many_stuck_clients_do_not_stop_the_answers_to_others(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let echo = |socket: &DatagramSocket, data: &[u8], from: &Address| {
            let _ = socket.send_to(data, from);
        };
        let endpoint = UnixDatagramBind::new(directory.socket()).queue_limit(64, 1 << 20);
        let server = world.reactor.listen_datagram(endpoint, echo).unwrap();
        let stuck: Vec<_> = (0..20).map(|number| plain(&directory.0.join(format!("stuck{number}")))).collect();
        let good = plain(&directory.0.join("good"));
        let mut buffer = [0; 10];
        for round in 0..50_u32 {
            for socket in &stuck {
                socket.send_to(b"?", directory.socket()).unwrap();
                world.turns(1);
            }
            good.send_to(&round.to_ne_bytes(), directory.socket()).unwrap();
            let mut answered = false;
            world.until("the good one is answered", || {
                answered = answered || good.recv(&mut buffer).is_ok();
                answered
            });
            assert_eq!(buffer[..4], round.to_ne_bytes());
        }
        assert!(server.queued().0 <= 64, "{:?}", server.queued());
        assert!(server.stats().dropped > 0);
    }

    // Line 62: descriptors that somebody passes are closed by the system.
    fn descriptors_that_come_unasked_are_not_kept(driver) {
        in_child(module_path!(), driver, || {
            let (world, directory) = (World::new(driver), Directory::new());
            let (_server, mail) = bind(&world, UnixDatagramBind::new(directory.socket()));
            let socket = UnixDatagram::unbound().unwrap();
            socket.connect(directory.socket()).unwrap();
            let before = process::open_descriptors();
            for _ in 0..5 {
                pass(&socket, b"x");
            }
            world.until("all arrive", || mail.datagrams().len() == 5);
            assert_eq!(process::open_descriptors(), before);
        });
    }

    // Line 26: one pass is not all for one socket.
    fn a_busy_socket_leaves_the_others_their_turn(driver) {
        let (world, directory) =
            (World::with(driver, |builder| builder.datagram_budget(4)), Directory::new());
        let most = Rc::new(Cell::new(0));
        let seen = Rc::new(RefCell::new(0));
        let count = Rc::clone(&seen);
        let (_server, mail) = bind_with(&world, UnixDatagramBind::new(directory.socket()), move |_, _| {
            *count.borrow_mut() += 1;
        });
        world.turns(2);
        let peer = UnixDatagram::unbound().unwrap();
        for _ in 0..10 {
            peer.send_to(b"x", directory.socket()).unwrap();
        }
        while mail.datagrams().len() < 10 {
            *seen.borrow_mut() = 0;
            world.turns(1);
            most.set(most.get().max(*seen.borrow()));
        }
        assert!(most.get() <= 4, "{} datagrams in one pass", most.get());
    }

    // Line 58: what is received in a batch costs few system calls.
    fn a_datagram_in_a_burst_costs_a_fraction_of_a_system_call(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let peer = plain(&directory.socket());
        let echo = |socket: &DatagramSocket, data: &[u8], _: &Address| socket.send(data).unwrap();
        let endpoint = UnixDatagramConnect::new(directory.socket()).local_addr(directory.named("c"));
        world.reactor.connect_datagram(endpoint, echo).unwrap();
        // Two that are connected to each other are limited by memory only.
        peer.connect(directory.0.join("c")).unwrap();
        let burst = || {
            for _ in 0..32 {
                peer.send(b"hello").unwrap();
            }
            let mut left = 32;
            while left > 0 {
                world.reactor.turn(Some(Duration::from_secs(1))).unwrap();
                while peer.recv(&mut [0; 10]).is_ok() {
                    left -= 1;
                }
            }
        };
        (0..20).for_each(|_| burst());
        let before = world.reactor.stats().system_calls.total();
        (0..100).for_each(|_| burst());
        let calls = world.reactor.stats().system_calls.total() - before;
        let limit = if driver == Driver::Portable { 2 * 3200 + 300 } else { 3 * 3200 / 10 };
        assert!(calls <= limit, "{calls} system calls for 3200 datagrams");
    }
}

/// Sends a byte and a descriptor from a plain socket.
fn pass(socket: &UnixDatagram, data: &[u8]) {
    let numbers = [socket.as_raw_fd()];
    let bytes = size_of_val(&numbers) as u32;
    let part = [IoSlice::new(data)];
    // SAFETY: the message points to buffers that outlive the call; the control buffer has room for the
    // number.
    #[allow(unsafe_code)]
    unsafe {
        let mut control = [0_u64; 8];
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = part.as_ptr() as *mut libc::iovec;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(bytes) as usize;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(bytes) as usize;
        std::ptr::copy_nonoverlapping(numbers.as_ptr(), libc::CMSG_DATA(header).cast(), 1);
        assert_eq!(libc::sendmsg(socket.as_raw_fd(), &message, 0), data.len() as isize);
    }
}
