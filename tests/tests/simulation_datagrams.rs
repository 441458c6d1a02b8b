//! Datagrams in a simulated network: what links and hosts do to them, and that a seed decides it.

mod simulation_support;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;

use simulation_support::*;
use twistor::testing::{Fault, Host, Link, Simulation};
use twistor::{Address, DatagramSocket};
use twistor_tests::{Heard, Mail, Post};

const PORT: u16 = 5000;

/// A sender and a receiver, with this link between them.
struct Pair {
    sim: Simulation,
    sender: Host,
    receiver: Host,
    socket: DatagramSocket,
    mail: Mail,
}

impl Pair {
    fn new(seed: u64, link: &Link) -> Self {
        let sim = Simulation::new(seed);
        let (sender, receiver) = (sim.host("sender", |_| {}), sim.host("receiver", |_| {}));
        sim.set_link("sender", "receiver", link);
        let (post, mail) = Post::new();
        receiver.reactor().listen_datagram(format!("udp:{PORT}").as_str(), post).expect("a socket");
        let socket = sender.reactor().listen_datagram("udp:0", Post::new().0).expect("a socket");
        Self { sim, sender, receiver, socket, mail }
    }

    /// Sends numbered datagrams, a microsecond apart.
    fn send(&self, count: u32) {
        for number in 0..count {
            let (socket, to) = (self.socket.clone(), self.receiver.address(PORT));
            let after = std::time::Duration::from_micros(u64::from(number));
            self.sender.reactor().call_later(after, move |_| {
                socket.send_to(&number.to_be_bytes(), to).expect("it is queued");
            });
        }
    }

    fn numbers(&self) -> Vec<u32> {
        let number = |data: Vec<u8>| u32::from_be_bytes(data.try_into().expect("four bytes"));
        self.mail.datagrams().into_iter().map(number).collect()
    }
}

#[test]
fn a_datagram_takes_the_latency_and_tells_its_sender() {
    let pair = Pair::new(1, &Link::instant().latency(millis(250)));
    pair.socket.send_to(b"hello", pair.receiver.address(PORT)).expect("it is queued");
    pair.sim.run_until("it arrives", || !pair.mail.datagrams().is_empty());
    assert_eq!(pair.sim.now(), millis(250));
    let from = SocketAddr::new(pair.sender.ip(), pair.socket.local_addr().port());
    assert_eq!(pair.mail.senders(), [Address::from(from)]);
    let trace = pair.sim.trace();
    assert!(trace.contains("sends a datagram, 5 B") && trace.contains("gets a datagram, 5 B"), "{trace}");
}

#[test]
fn jitter_alone_changes_no_order() {
    let pair = Pair::new(1, &Link::new().latency(millis(10)).jitter(millis(10)));
    pair.send(1000);
    pair.sim.run_for(secs(1));
    assert_eq!(pair.numbers(), (0..1000).collect::<Vec<_>>());
}

#[test]
fn a_lossy_link_loses_about_as_many_as_it_says() {
    let pair = Pair::new(1, &Link::new().loss(0.2));
    pair.send(1000);
    pair.sim.run_for(secs(1));
    let numbers = pair.numbers();
    assert!((750..850).contains(&numbers.len()), "{}", numbers.len());
    assert!(numbers.is_sorted());
    assert!(pair.sim.trace().contains("loses a datagram"));
}

#[test]
fn a_link_that_reorders_loses_nothing() {
    let pair = Pair::new(1, &Link::new().reorder(0.1));
    pair.send(1000);
    pair.sim.run_for(secs(1));
    let numbers = pair.numbers();
    assert_eq!(numbers.iter().copied().collect::<BTreeSet<_>>().len(), 1000);
    let late = numbers.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!((50..150).contains(&late), "{late}");
}

#[test]
fn a_link_that_duplicates_delivers_some_twice() {
    let pair = Pair::new(1, &Link::new().duplicate(0.1));
    pair.send(1000);
    pair.sim.run_for(secs(1));
    let numbers = pair.numbers();
    assert!((1050..1150).contains(&numbers.len()), "{}", numbers.len());
    assert_eq!(numbers.into_iter().collect::<BTreeSet<_>>().len(), 1000);
}

#[test]
fn a_partition_swallows_datagrams_also_those_on_their_way() {
    let pair = Pair::new(1, &Link::instant().latency(millis(100)));
    pair.socket.send_to(&0_u32.to_be_bytes(), pair.receiver.address(PORT)).expect("it is queued");
    pair.sim.run_for(millis(50));
    pair.sim.inject(Fault::partition(["sender"]).lasting(secs(1)));
    pair.sim.run_for(millis(500));
    pair.socket.send_to(&1_u32.to_be_bytes(), pair.receiver.address(PORT)).expect("it is queued");
    pair.sim.run_for(secs(1));
    pair.socket.send_to(&2_u32.to_be_bytes(), pair.receiver.address(PORT)).expect("it is queued");
    pair.sim.run_for(secs(1));
    assert_eq!(pair.numbers(), [2]);
    assert_eq!(pair.socket.stats().sent, 3);
}

#[test]
fn a_crashed_host_takes_nothing_and_its_ports_are_free_afterwards() {
    let pair = Pair::new(1, &Link::new());
    pair.sim.inject(Fault::crash("receiver"));
    pair.socket.send_to(b"lost", pair.receiver.address(PORT)).expect("it is queued");
    pair.sim.run_for(secs(1));
    pair.sim.inject(Fault::restart("receiver"));
    let (post, mail) = Post::new();
    pair.receiver.reactor().listen_datagram(format!("udp:{PORT}").as_str(), post).expect("the port is free");
    pair.socket.send_to(b"found", pair.receiver.address(PORT)).expect("it is queued");
    pair.sim.run_until("it arrives", || mail.datagrams() == [b"found"]);
}

#[test]
fn a_connected_socket_hears_across_the_link_that_nobody_is_there() {
    let pair = Pair::new(1, &Link::instant().latency(millis(100)));
    let (post, mail) = Post::new();
    let nobody = pair.receiver.address(PORT + 1);
    let socket = pair.sender.reactor().connect_datagram(nobody, post).expect("a socket");
    let before = pair.sim.now();
    socket.send(b"hello?").expect("it is queued");
    pair.sim.run_until("the refusal is there", || mail.count(&Heard::Refused) == 1);
    assert_eq!(pair.sim.now() - before, millis(200));
    // Without a peer nobody hears of anything.
    pair.socket.send_to(b"hello?", nobody).expect("it is queued");
    pair.sim.run_for(secs(1));
    assert_eq!(pair.socket.stats().refused, 0);
}

#[test]
fn a_narrow_link_holds_datagrams_up_and_then_the_queue_fills() {
    let sim = Simulation::new(1);
    let (sender, receiver) = (sim.host("sender", |_| {}), sim.host("receiver", |_| {}));
    sim.set_link("sender", "receiver", &Link::instant().bandwidth(100_000));
    let (post, mail) = Post::new();
    receiver.reactor().listen_datagram("udp:5000:recv_buffer=4000000", post).expect("a socket");
    let endpoint = "udp:0:send_buffer=10000:queue=50";
    let socket = sender.reactor().listen_datagram(endpoint, Post::new().0).expect("a socket");
    let mut refused = 0;
    for _ in 0..100 {
        match socket.send_to(&[0; 1000], receiver.address(PORT)) {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                refused += 1;
            }
        }
    }
    assert!((35..45).contains(&refused), "{refused}: the send buffer takes about ten, the queue fifty");
    sim.run_until("the rest arrives", || mail.datagrams().len() == 100 - refused);
    assert!(sim.now() >= millis(10 * (100 - refused as u64)), "{:?}", sim.now());
    assert_eq!(socket.stats().dropped, refused as u64);
    assert_eq!(socket.queued(), (0, 0));
}

#[test]
fn a_receiver_that_does_not_read_loses_what_its_buffer_does_not_hold() {
    let pair = Pair::new(1, &Link::instant());
    pair.sim.run_for(millis(1));
    pair.receiver.compute(secs(1));
    pair.send(1000);
    pair.sim.run_for(secs(2));
    let count = pair.numbers().len();
    assert!((300..500).contains(&count), "{count}");
    assert!(pair.sim.trace().contains("has no room for a datagram"));
}

#[test]
fn broadcast_reaches_every_other_host_and_is_off_unless_asked_for() {
    let sim = Simulation::new(1);
    let mails: Vec<Mail> = ["a", "b", "c"]
        .iter()
        .map(|name| {
            let (post, mail) = Post::new();
            let host = sim.host(name, |_| {});
            host.reactor().listen_datagram("udp:5000", post).expect("a socket");
            mail
        })
        .collect();
    let (post, mail) = Post::new();
    let socket = sim.find("a").reactor().listen_datagram("udp:0", post).expect("a socket");
    let everybody = SocketAddr::from(([255, 255, 255, 255], PORT));
    socket.send_to(b"may I?", everybody).expect("it is queued");
    sim.run_until("it fails", || mail.count(&Heard::Failed(ErrorKind::PermissionDenied)) == 1);
    socket.set_broadcast(true).expect("leave");
    socket.send_to(b"hello", everybody).expect("it is queued");
    sim.run_for(secs(1));
    let heard: Vec<usize> = mails.iter().map(|mail| mail.datagrams().len()).collect();
    assert_eq!(heard, [0, 1, 1]);
    assert_eq!(
        socket.join_multicast(std::net::Ipv4Addr::new(239, 1, 1, 1), 0).expect_err("no multicast").kind(),
        ErrorKind::Unsupported
    );
}

#[test]
fn those_who_share_a_port_share_what_comes() {
    let sim = Simulation::new(1);
    let (sender, receiver) = (sim.host("sender", |_| {}), sim.host("receiver", |_| {}));
    let mails: Vec<Mail> = (0..2)
        .map(|_| {
            let (post, mail) = Post::new();
            receiver.reactor().listen_datagram("udp:5000:reuse_port=yes", post).expect("a socket");
            mail
        })
        .collect();
    assert!(receiver.reactor().listen_datagram("udp:5000", Post::new().0).is_err(), "it did not ask for it");
    let socket = sender.reactor().listen_datagram("udp:0", Post::new().0).expect("a socket");
    for _ in 0..100 {
        socket.send_to(b"x", receiver.address(PORT)).expect("it is queued");
    }
    sim.run_for(secs(1));
    let heard: Vec<usize> = mails.iter().map(|mail| mail.datagrams().len()).collect();
    assert_eq!(heard.iter().sum::<usize>(), 100);
    assert!(heard.iter().all(|count| *count > 20), "{heard:?}");
}

/// A run with everything that is random about datagrams; streams beside them, if wanted.
fn eventful(seed: u64, datagrams: bool) -> (u64, Vec<u32>, Vec<u8>) {
    let net = Network::with_seed(seed);
    let link = Link::new().loss(0.1).reorder(0.1).duplicate(0.1).jitter(millis(3));
    net.sim.set_link("a", "b", &link);
    let (post, mail) = Post::new();
    if datagrams {
        net.b.reactor().listen_datagram("udp:5000", post).expect("a socket");
        let socket = net.a.reactor().listen_datagram("udp:0", Post::new().0).expect("a socket");
        for number in 0..100_u32 {
            let (socket, to) = (socket.clone(), net.b.address(PORT));
            net.a.reactor().call_later(millis(u64::from(number)), move |_| {
                socket.send_to(&number.to_be_bytes(), to).expect("it is queued");
            });
        }
    }
    let client = net.connect(&net.a, &net.b, ECHO);
    let mut took = Vec::new();
    for _ in 0..20 {
        let time = net.exchange(&client, &pattern(3000));
        took.extend(time.as_nanos().to_be_bytes());
    }
    net.sim.run_for(secs(1));
    let number = |data: Vec<u8>| u32::from_be_bytes(data.try_into().expect("four bytes"));
    (net.sim.fingerprint(), mail.datagrams().into_iter().map(number).collect(), took)
}

#[test]
fn a_seed_decides_what_happens_to_datagrams() {
    let first = eventful(7, true);
    assert_eq!(first, eventful(7, true));
    assert_ne!(first.1, eventful(8, true).1);
}

#[test]
fn streams_go_as_they_would_without_datagrams() {
    assert_eq!(eventful(7, true).2, eventful(7, false).2);
}
