//! What datagrams cost: system calls, allocations, wake-ups, all counted. No clock decides here.
//!
//! System calls are those of the reactor, as it counts them itself: waits, receives, sends and all others.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use twistor::{Address, DatagramSocket, SystemCalls};
use twistor_tests::allocations::{Counting, counts};
use twistor_tests::{Driver, World, in_child, kernel_contract};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ROUNDS: u64 = 200;

fn echo(world: &World) -> DatagramSocket {
    let echo = |socket: &DatagramSocket, data: &[u8], from: &Address| socket.send_to(data, from).unwrap();
    world.reactor.listen_datagram("udp:0:interface=127.0.0.1", echo).unwrap()
}

fn peer(of: &DatagramSocket) -> UdpSocket {
    let peer = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    peer.connect(of.local_addr().socket_addr().unwrap()).unwrap();
    peer.set_nonblocking(true).unwrap();
    peer
}

/// Has `count` datagrams echoed at once; they are all there when the reactor looks.
fn burst(world: &World, peer: &UdpSocket, count: u64) {
    for _ in 0..count {
        assert_eq!(peer.send(b"hello").unwrap(), 5);
    }
    let mut left = count;
    while left > 0 {
        world.reactor.turn(Some(Duration::from_secs(1))).unwrap();
        while peer.recv(&mut [0; 10]).is_ok() {
            left -= 1;
        }
    }
}

/// `[waits, receives, sends, all others]` of so many bursts, after a few to warm up.
fn calls(driver: Driver, count: u64) -> [u64; 4] {
    let world = World::new(driver);
    let socket = echo(&world);
    let peer = peer(&socket);
    for _ in 0..20 {
        burst(&world, &peer, count);
    }
    world.turns(2);
    let before = world.reactor.stats().system_calls;
    for _ in 0..ROUNDS {
        burst(&world, &peer, count);
    }
    let after = world.reactor.stats().system_calls;
    let rest = |calls: &SystemCalls| calls.accepts + calls.controls + calls.others;
    [
        after.waits - before.waits,
        after.receives - before.receives,
        after.sends - before.sends,
        rest(&after) - rest(&before),
    ]
}

kernel_contract! {
    fn a_single_datagram_costs_one_receive_and_one_send(driver) {
        let [waits, receives, sends, others] = calls(driver, 1);
        assert_eq!([waits, sends, others], [ROUNDS, ROUNDS, 0]);
        if driver == Driver::Portable {
            // One by one, a receive that finds nothing tells that there is nothing more; it is tried now and
            // then.
            assert!((ROUNDS..ROUNDS + ROUNDS / 10).contains(&receives), "{receives} receives");
        } else {
            assert_eq!(receives, ROUNDS);
        }
    }

    fn a_datagram_in_a_burst_costs_a_fraction_of_a_system_call(driver) {
        let [waits, receives, sends, others] = calls(driver, 32);
        let datagrams = 32 * ROUNDS;
        if driver == Driver::Portable {
            assert!(receives + sends <= 2 * datagrams + 2 * ROUNDS, "{receives} receives, {sends} sends");
        } else {
            let all = waits + receives + sends + others;
            assert!(10 * all <= 3 * datagrams, "{all} system calls for {datagrams} datagrams");
            // A wait, a receive that brings them, one that brings nothing, a send.
            assert_eq!([waits, receives, sends, others], [ROUNDS, 2 * ROUNDS, ROUNDS, 0]);
        }
    }

    fn an_echoed_datagram_costs_no_allocation(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let socket = echo(&world);
            let peer = peer(&socket);
            for _ in 0..50 {
                burst(&world, &peer, 32);
            }
            let before = counts().calls;
            for _ in 0..20 {
                burst(&world, &peer, 32);
                burst(&world, &peer, 1);
            }
            assert_eq!(counts().calls - before, 0);
        });
    }

    #[cfg(target_os = "linux")]
    fn an_echoed_datagram_of_a_unix_socket_costs_no_allocation(driver) {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::{SocketAddr, UnixDatagram};

        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let name = format!("twistor-counting-{}", std::process::id());
            let echo = |socket: &DatagramSocket, data: &[u8], from: &Address| socket.send_to(data, from).unwrap();
            world.reactor.listen_datagram(format!("unix:@{name}"), echo).unwrap();
            let to = SocketAddr::from_abstract_name(&name).unwrap();
            let peer = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(format!("{name}-peer")).unwrap());
            let peer = peer.unwrap();
            peer.set_nonblocking(true).unwrap();
            // Both have room for so many.
            let burst = |count: u64| {
                (0..count).for_each(|_| assert_eq!(peer.send_to_addr(b"hello", &to).unwrap(), 5));
                let mut left = count;
                while left > 0 {
                    world.reactor.turn(Some(Duration::from_secs(1))).unwrap();
                    while peer.recv(&mut [0; 10]).is_ok() {
                        left -= 1;
                    }
                }
            };
            (0..50).for_each(|_| burst(10));
            let before = counts().calls;
            for _ in 0..20 {
                burst(10);
                burst(1);
            }
            assert_eq!(counts().calls - before, 0);
        });
    }

    fn sends_from_elsewhere_leave_together(driver) {
        let world = World::new(driver);
        let socket = echo(&world);
        let peer = peer(&socket);
        let to = peer.local_addr().unwrap();
        world.turns(2);
        let before = world.reactor.stats().system_calls;
        for _ in 0..32 {
            socket.send_to(b"hello", to).unwrap();
        }
        assert_eq!(world.reactor.stats().system_calls, before, "a call sent by itself");
        world.turns(1);
        let sends = world.reactor.stats().system_calls.sends - before.sends;
        assert_eq!(sends, if driver == Driver::Portable { 32 } else { 1 });
    }

    fn a_mixture_of_singles_and_bursts_stays_within_two_calls_and_a_wait_each(driver) {
        if driver == Driver::Portable {
            return;
        }
        let world = World::new(driver);
        let socket = echo(&world);
        let peer = peer(&socket);
        let mut datagrams = 0;
        let before = world.reactor.stats().system_calls.total();
        for round in 0..500 {
            let count = [1, 1, 5, 1, 32, 2, 1][round % 7];
            burst(&world, &peer, count);
            datagrams += count;
        }
        let calls = world.reactor.stats().system_calls.total() - before;
        assert!(calls <= 3 * datagrams, "{calls} calls for {datagrams} datagrams");
    }
}
