//! Contract, section 9: multicast and broadcast, which take a kernel.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};

use twistor::endpoint::UdpBind;
use twistor::{DatagramSocket, MulticastInterface};
use twistor_tests::{Heard, Mail, Post, World, kernel_contract};

/// Groups for private use (RFC 2365), one per test: they run in parallel.
fn group() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    Ipv4Addr::new(239, 255, std::process::id() as u8, NEXT.fetch_add(1, Ordering::Relaxed))
}

fn group_v6() -> Ipv6Addr {
    // Of the interface only: it never leaves the machine.
    Ipv6Addr::new(0xff01, 0, 0, 0, 0, 0, std::process::id() as u16, u16::from(group().octets()[3]))
}

fn member(world: &World, endpoint: UdpBind) -> std::io::Result<(DatagramSocket, Mail)> {
    let (post, mail) = Post::new();
    let socket = world.reactor.listen_datagram(endpoint, post)?;
    Ok((socket, mail))
}

/// The number of a device with multicast. What the tests send stays on this machine all the same: the scope
/// of the IPv6 groups is the interface.
fn multicast_interface() -> Option<u32> {
    const UP_WITH_MULTICAST: u32 = 0x1001;
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).ok();
    std::fs::read_dir("/sys/class/net").ok()?.filter_map(Result::ok).find_map(|device| {
        let flags = read(device.path().join("flags"))?;
        let flags = u32::from_str_radix(flags.trim().strip_prefix("0x")?, 16).ok()?;
        let index = read(device.path().join("ifindex"))?.trim().parse().ok()?;
        (flags & UP_WITH_MULTICAST == UP_WITH_MULTICAST).then_some(index)
    })
}

/// The number of the loopback device.
fn loopback() -> u32 {
    let index = std::fs::read_to_string("/sys/class/net/lo/ifindex").expect("a loopback device");
    index.trim().parse().expect("a number")
}

kernel_contract! {
    // Line 61.
    fn members_of_a_group_get_what_is_sent_to_it(driver) {
        let world = World::new(driver);
        let group = group();
        let (first, first_mail) = member(&world, UdpBind::new(0).reuse_address(true)).unwrap();
        let port = first.local_addr().port();
        let (second, second_mail) = member(&world, UdpBind::new(port).reuse_address(true)).unwrap();
        let (stranger, stranger_mail) = member(&world, UdpBind::new(port).reuse_address(true)).unwrap();
        first.join_multicast(group, Ipv4Addr::LOCALHOST).unwrap();
        second.join_multicast(group, MulticastInterface::Index(loopback())).unwrap();
        stranger.join_multicast(Ipv4Addr::new(239, 254, 0, 1), Ipv4Addr::LOCALHOST).unwrap();
        let (sender, _) = member(&world, UdpBind::new(0)).unwrap();
        sender.set_multicast_interface(Ipv4Addr::LOCALHOST).unwrap();
        sender.set_multicast_ttl(0).unwrap();
        sender.send_to(b"hello", SocketAddr::from((group, port))).unwrap();
        world.until("both hear it", || {
            !first_mail.datagrams().is_empty() && !second_mail.datagrams().is_empty()
        });
        assert_eq!(first_mail.datagrams(), [b"hello"]);
        assert_eq!(second_mail.datagrams(), [b"hello"]);

        first.leave_multicast(group, Ipv4Addr::LOCALHOST).unwrap();
        sender.send_to(b"again", SocketAddr::from((group, port))).unwrap();
        world.until("who is left hears it", || second_mail.datagrams().len() == 2);
        world.turns(2);
        assert_eq!(first_mail.datagrams().len(), 1, "who has left hears nothing");
        assert_eq!(stranger_mail.datagrams().len(), 0, "a member of another group hears nothing");
    }

    // Line 61.
    fn members_of_an_ipv6_group_get_what_is_sent_to_it(driver) {
        let world = World::new(driver);
        let group = group_v6();
        let Some(interface) = multicast_interface() else {
            println!("skipped: no device but the loopback, which has no IPv6 multicast");
            return;
        };
        let (receiver, mail) = member(&world, UdpBind::v6(0).v6only(true)).unwrap();
        let to = SocketAddr::from((group, receiver.local_addr().port()));
        receiver.join_multicast(group, interface).unwrap();
        let (sender, sent) = member(&world, UdpBind::v6(0).v6only(true)).unwrap();
        sender.set_multicast_interface(interface).unwrap();
        sender.set_multicast_ttl(0).unwrap();
        sender.send_to(b"one", to).unwrap();
        world.until("it is heard", || !mail.datagrams().is_empty() || sent.all().len() > 1);
        if sent.count(&Heard::Failed(ErrorKind::NetworkUnreachable)) > 0 {
            println!("skipped: the device has no IPv6");
            return;
        }
        assert_eq!(mail.datagrams(), [b"one"]);

        // This machine hears itself only if it wants to.
        sender.set_multicast_loop(false).unwrap();
        sender.send_to(b"two", to).unwrap();
        world.turns(2);
        sender.set_multicast_loop(true).unwrap();
        sender.send_to(b"three", to).unwrap();
        world.until("it is heard again", || mail.datagrams().len() > 1);
        assert_eq!(mail.datagrams()[1..], [b"three"]);

        receiver.leave_multicast(group, interface).unwrap();
        sender.send_to(b"four", to).unwrap();
        world.turns(3);
        assert_eq!(mail.datagrams().len(), 2, "who has left hears nothing");
        assert_eq!(receiver.leave_multicast(group, interface).unwrap_err().kind(), ErrorKind::AddrNotAvailable);
    }

    // Line 61.
    fn mistakes_with_groups_are_named(driver) {
        let world = World::new(driver);
        let (socket, _) = member(&world, UdpBind::new(0)).unwrap();
        let any = MulticastInterface::Any;
        let text = |result: std::io::Result<()>| result.unwrap_err().to_string();
        let no_group = Ipv4Addr::new(10, 0, 0, 1);
        assert_eq!(
            text(socket.join_multicast(no_group, any)),
            "cannot join or leave 10.0.0.1: it is no multicast address (224.0.0.0/4 or ff00::/8)"
        );
        assert_eq!(
            text(socket.join_multicast(group_v6(), any)).rsplit_once(": ").unwrap().1,
            "the socket is an IPv4 one"
        );
        let group = group();
        assert_eq!(
            text(socket.leave_multicast(group, Ipv4Addr::LOCALHOST)),
            format!("cannot leave {group} through 127.0.0.1: the socket has not joined it")
        );
        socket.join_multicast(group, Ipv4Addr::LOCALHOST).unwrap();
        assert_eq!(
            text(socket.join_multicast(group, Ipv4Addr::LOCALHOST)),
            format!("cannot join {group} through 127.0.0.1: the socket has joined it already")
        );
        assert!(socket.set_multicast_ttl(256).is_err());
        assert!(socket.set_multicast_interface(loopback()).is_err());
        drop(socket.close());
        assert_eq!(socket.join_multicast(group, any).unwrap_err().kind(), ErrorKind::NotConnected);
    }

    // Line 61.
    fn broadcast_is_off_unless_asked_for(driver) {
        let world = World::new(driver);
        // What Linux takes for the broadcast address of the loopback device.
        let to = |port| SocketAddr::from(([127, 255, 255, 255], port));
        let (receiver, heard) = member(&world, UdpBind::new(0)).unwrap();
        let port = receiver.local_addr().port();
        let (socket, mail) = member(&world, UdpBind::new(0)).unwrap();
        socket.send_to(b"may I?", to(port)).unwrap();
        world.until("it fails", || mail.count(&Heard::Failed(ErrorKind::PermissionDenied)) == 1);
        assert_eq!(socket.stats().failed, 1);
        socket.set_broadcast(true).unwrap();
        socket.send_to(b"now", to(port)).unwrap();
        world.until("it arrives", || heard.datagrams() == [b"now"]);
        socket.set_broadcast(false).unwrap();
        socket.send_to(b"and now?", to(port)).unwrap();
        world.until("it fails again", || mail.count(&Heard::Failed(ErrorKind::PermissionDenied)) == 2);
        let (allowed, _) = member(&world, UdpBind::new(0).broadcast(true)).unwrap();
        allowed.send_to(b"of course", to(port)).unwrap();
        world.until("it arrives", || heard.datagrams().len() == 2);
    }

    // Line 58.
    fn one_datagram_that_fails_does_not_hold_up_the_others(driver) {
        let world = World::new(driver);
        let (socket, mail) = member(&world, UdpBind::new(0)).unwrap();
        let (receiver, heard) = member(&world, UdpBind::new(0).interface([127, 0, 0, 1])).unwrap();
        let good = receiver.local_addr().socket_addr().unwrap();
        for number in 0..100_u8 {
            if number % 3 == 0 {
                socket.send_to(&[number], SocketAddr::from(([127, 255, 255, 255], 9))).unwrap();
            } else {
                socket.send_to(&[number], good).unwrap();
            }
        }
        world.until("the good ones arrive", || heard.datagrams().len() == 66);
        assert_eq!(mail.count(&Heard::Failed(ErrorKind::PermissionDenied)), 34);
        assert_eq!((socket.stats().sent, socket.stats().failed), (66, 34));
        world.assert_sleeps("all is sent");
    }
}
