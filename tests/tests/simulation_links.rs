//! Links of a simulation are what they are said to be: latency, jitter, bandwidth, loss, pieces and buffers.

mod simulation_support;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use simulation_support::*;
use twistor::endpoint::{TcpConnect, TcpListen};
use twistor::testing::{Link, Pieces, RawStream, RecordedLog};
use twistor::{Protocol, Transport};

/// Three hosts, of which `a` and `b` have this link, and a client at `b` whose server at `a` discards.
fn linked(seed: u64, link: &Link) -> (Network, Client, RecordedLog) {
    let net = Network::with_seed(seed);
    net.sim.set_link("a", "b", link);
    let client = net.connect(&net.b, &net.a, DISCARD);
    net.sim.run_until("it is accepted", || net.discarded_at_a().len() == 1);
    let log = net.discarded_at_a()[0].clone();
    (net, client, log)
}

/// How long it takes until all has arrived.
fn transfer(net: &Network, client: &Client, log: &RecordedLog, data: &[u8]) -> Duration {
    let (before, had) = (net.sim.now(), log.data().len());
    client.write(data);
    net.sim.run_until("all has arrived", || log.data().len() >= had + data.len());
    assert!(&log.data()[had..] == data, "it has to arrive as it was sent");
    net.sim.now() - before
}

#[test]
fn everything_takes_the_latency_one_way() {
    let (net, client, log) = linked(1, &Link::instant().latency(millis(250)));
    // A SYN there, its answer back, and what completes the handshake there again.
    assert_eq!(net.sim.now(), millis(750));
    for size in [1, 1_000, 100_000] {
        assert_eq!(transfer(&net, &client, &log, &pattern(size)), millis(250));
    }
}

#[test]
fn jitter_comes_on_top_and_keeps_a_stream_in_order() {
    let (net, client, log) = linked(1, &Link::new().latency(millis(10)).jitter(millis(10)));
    let mut times = BTreeSet::new();
    for _ in 0..100 {
        let took = transfer(&net, &client, &log, b"hello");
        assert!((millis(10)..=millis(20)).contains(&took), "{took:?}");
        times.insert(took);
    }
    assert!(times.len() > 90, "they differ");
    assert!(*times.first().expect("one") < millis(12) && *times.last().expect("one") > millis(18));
    // A thousand writes, all on the way at once.
    let had = log.data().len();
    let sent = pattern(4_000);
    for (number, piece) in sent.chunks(4).enumerate() {
        let (connection, piece) = (client.connection.clone(), piece.to_vec());
        let after = Duration::from_micros(number as u64);
        net.b.reactor().call_later(after, move |_| connection.write(&piece));
    }
    net.sim.run_for(secs(1));
    assert!(log.data()[had..] == sent);
}

#[test]
fn a_megabyte_over_a_hundred_kilobytes_per_second_takes_ten_seconds() {
    let (net, client, log) = linked(1, &Link::new().bandwidth(100_000));
    let took = transfer(&net, &client, &log, &pattern(1_000_000));
    assert!((millis(10_000)..millis(10_100)).contains(&took), "{took:?}");
    // A byte waits for nobody.
    assert!(transfer(&net, &client, &log, b"!") < millis(1));
}

#[test]
fn what_comes_late_over_a_narrow_link_comes_bit_by_bit() {
    let (net, client, log) = linked(1, &Link::new().bandwidth(100_000).pieces(Pieces::Exactly(1_000)));
    client.write(&pattern(200_000));
    for tenths in 1..20 {
        net.sim.run_for(millis(100));
        let arrived = log.data().len();
        let expected = tenths * 10_000;
        assert!((expected - 2_000..=expected).contains(&arrived), "{arrived} after {tenths}00 ms");
    }
}

#[test]
fn streams_share_the_bandwidth_of_their_direction() {
    let link = Link::new().bandwidth(100_000).pieces(Pieces::Exactly(1_000)).buffers(8_000, 8_000);
    let (net, client, log) = linked(1, &link);
    let second = net.connect(&net.b, &net.a, DISCARD);
    net.sim.run_for(secs(1));
    let second_log = net.discarded_at_a()[1].clone();
    let back = log.transport().expect("a transport");
    let begin = net.sim.now();
    for writer in [&client, &second] {
        writer.write(&pattern(500_000));
    }
    back.write(&pattern(500_000));
    net.sim.run_for(secs(5));
    // The way back is as wide again.
    assert_eq!(client.log.data().len() / 10_000, 49, "{}", client.log.data().len());
    let arrived = [log.data().len(), second_log.data().len()];
    assert!(arrived.iter().all(|count| (200_000..300_000).contains(count)), "{arrived:?}");
    net.sim.run_until("all is there", || log.data().len() + second_log.data().len() == 1_000_000);
    let took = net.sim.now() - begin;
    assert!((millis(10_000)..millis(10_500)).contains(&took), "{took:?}");
}

#[test]
fn a_loss_is_a_delay_and_nothing_gets_lost() {
    let mut delayed = 0;
    for seed in 0..20 {
        let link = Link::instant().latency(millis(1)).loss(0.1);
        let (net, client, log) = linked(seed, &link);
        for _ in 0..20 {
            let took = transfer(&net, &client, &log, b"hello");
            // One loss, two or three in a row.
            let is_possible = [0, 200, 600, 1_400, 3_000, 6_200].map(|more| millis(1 + more)).contains(&took);
            assert!(is_possible, "{took:?}");
            delayed += u32::from(took > millis(1));
        }
    }
    assert!((20..60).contains(&delayed), "{delayed} of 400 were lost at a tenth");
}

#[test]
fn what_comes_behind_a_lost_segment_waits_for_it() {
    let link = Link::instant().latency(millis(1)).loss(0.3).pieces(Pieces::UpTo(1_000));
    let (net, client, log) = linked(3, &link);
    let took = transfer(&net, &client, &log, &pattern(100_000));
    assert!(took > millis(201), "{took:?}");
    assert_eq!(client.lost(), None);
}

#[test]
fn pieces_of_one_byte_are_delivered_byte_by_byte() {
    let (net, client, log) = linked(1, &Link::new().pieces(Pieces::Exactly(1)));
    transfer(&net, &client, &log, &pattern(5_000));
    assert_eq!(log.chunks(), vec![1; 5_000]);
}

#[test]
fn pieces_of_a_length_have_it_but_for_the_last() {
    let (net, client, log) = linked(1, &Link::new().pieces(Pieces::Exactly(300)));
    transfer(&net, &client, &log, &pattern(1_000));
    assert_eq!(log.chunks(), [300, 300, 300, 100]);
}

#[test]
fn pieces_up_to_a_length_have_every_length() {
    let (net, client, log) = linked(1, &Link::new().pieces(Pieces::UpTo(10)));
    transfer(&net, &client, &log, &pattern(10_000));
    let lengths: BTreeSet<usize> = log.chunks().into_iter().collect();
    assert_eq!(lengths, (1..=10).collect());
}

#[test]
fn a_whole_piece_comes_whole() {
    let (net, client, log) = linked(1, &Link::instant());
    transfer(&net, &client, &log, &pattern(60_000));
    assert_eq!(log.chunks(), [60_000]);
}

#[test]
fn boundaries_differ_between_seeds_and_not_between_runs() {
    let chunks = |seed| {
        let (net, client, log) = linked(seed, &Link::new().pieces(Pieces::UpTo(100)));
        transfer(&net, &client, &log, &pattern(10_000));
        log.chunks()
    };
    assert_eq!(chunks(1), chunks(1));
    assert_ne!(chunks(1), chunks(2));
}

// Buffers.

/// A raw stream from `b` to a listener at `a`, and the stream there.
fn raw_wire(net: &Network) -> (RawStream, RawStream) {
    let listener = net.a.listen_raw(net.a.address(80), 5).expect("a listener");
    let near = net.b.connect_raw(net.a.address(80)).expect("a socket");
    net.sim.run_until("it is connected", || near.is_connected());
    let far = accept(&net.sim, &listener);
    (near, far)
}

#[test]
fn a_full_buffer_takes_a_part_and_then_nothing() {
    let net = Network::new();
    net.sim.set_link("a", "b", &Link::new().buffers(1_000, 500));
    let (near, far) = raw_wire(&net);
    assert_eq!(near.send(&pattern(700)).expect("room"), 700);
    assert_eq!(near.send(&pattern(700)).expect("room"), 300);
    let error = near.send(b"x").expect_err("full");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    net.sim.run_for(secs(1));
    // As much as the other end has room for has left.
    assert_eq!(far.available(), 500);
    assert_eq!(near.send(&pattern(700)).expect("room"), 500);
    net.sim.run_for(secs(1));
    assert!(near.send(b"x").is_err());
}

#[test]
fn a_window_opens_again_when_its_reader_reads() {
    let net = Network::new();
    net.sim.set_link("a", "b", &Link::instant().latency(millis(10)).buffers(10_000, 1_000));
    let (near, far) = raw_wire(&net);
    let sent = pattern(10_000);
    assert_eq!(near.send(&sent).expect("room"), 10_000);
    net.sim.run_for(secs(10));
    assert_eq!(far.available(), 1_000);
    let mut got = vec![0; 400];
    assert_eq!(far.receive(&mut got).expect("data"), 400);
    // The announcement there, and the data back.
    net.sim.run_for(millis(19));
    assert_eq!(far.available(), 600);
    net.sim.run_for(millis(1));
    assert_eq!(far.available(), 1_000);
    let mut rest = vec![0; 1_000];
    while got.len() < sent.len() {
        net.sim.run_for(millis(20));
        let count = far.receive(&mut rest).expect("data");
        got.extend_from_slice(&rest[..count]);
    }
    assert!(got == sent);
}

/// Counts what it is told about its output.
struct Marks(Rc<RefCell<Vec<&'static str>>>);

impl Protocol for Marks {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn pause_writing(&mut self, _: &Transport) {
        self.0.borrow_mut().push("pause");
    }

    fn resume_writing(&mut self, transport: &Transport) {
        assert!(transport.queued() <= 16 * 1024);
        self.0.borrow_mut().push("resume");
    }
}

#[test]
fn back_pressure_reaches_the_protocol() {
    let net = Network::new();
    net.sim.set_link("a", "b", &Link::new().buffers(20_000, 20_000));
    let listener = net.a.listen_raw(net.a.address(80), 5).expect("a listener");
    let marks = Rc::new(RefCell::new(Vec::new()));
    let connection = Rc::new(RefCell::new(None));
    let place = Rc::clone(&connection);
    net.b
        .reactor()
        .connect_protocol(net.a.address(80), Marks(Rc::clone(&marks)))
        .on_done(move |_, done| *place.borrow_mut() = done.ok());
    net.sim.run_until("it is connected", || connection.borrow().is_some());
    let (near, far) = (connection.take().expect("connected"), accept(&net.sim, &listener));

    // What the kernels take does not count.
    near.write(&pattern(40_000));
    net.sim.run_for(secs(1));
    assert!(marks.borrow().is_empty());
    near.write(&pattern(200_000));
    net.sim.run_for(secs(10));
    assert_eq!(*marks.borrow(), ["pause"]);
    assert_eq!(near.queued(), 200_000);
    let mut left = 240_000;
    let mut buffer = vec![0; 64 * 1024];
    while left > 0 {
        left -= far.receive(&mut buffer).expect("data");
        net.sim.run_for(millis(10));
    }
    assert_eq!(*marks.borrow(), ["pause", "resume"]);
    assert_eq!(near.queued(), 0);
}

#[test]
fn an_endpoint_may_ask_for_buffers_of_its_own() {
    let net = Network::new();
    let port = TcpListen::new(80).recv_buffer(3_000);
    let port = net.a.reactor().listen(port, |_| Echo).expect("a port");
    port.pause_accepting();
    let client =
        net.try_connect(&net.b, TcpConnect::new(net.a.address(80)).send_buffer(2_000)).expect("a connection");
    net.sim.run_for(secs(1));
    client.write(&pattern(100_000));
    net.sim.run_for(secs(1));
    assert_eq!(client.connection.queued(), 100_000 - 3_000 - 2_000);
    port.resume_accepting();
    net.sim.run_until("all is echoed", || client.log.data().len() == 100_000);
}

#[test]
fn one_byte_buffers_carry_everything() {
    let (net, client, log) = linked(1, &Link::new().buffers(1, 1));
    transfer(&net, &client, &log, &pattern(2_000));
    assert_eq!(log.chunks(), vec![1; 2_000]);
}

#[test]
fn a_link_is_the_same_in_both_directions() {
    let net = Network::new();
    net.sim.set_link("b", "a", &Link::instant().latency(millis(30)));
    let there = net.connect(&net.a, &net.b, ECHO);
    let back = net.connect(&net.b, &net.a, ECHO);
    assert_eq!(net.exchange(&there, b"hello"), millis(60));
    assert_eq!(net.exchange(&back, b"hello"), millis(60));
    // Other links are as before.
    assert!(net.exchange(&net.connect(&net.c, &net.a, ECHO), b"hello") < millis(2));
}

#[test]
fn the_default_link_is_that_of_hosts_that_have_not_talked_yet() {
    let net = Network::new();
    let old = net.connect(&net.b, &net.a, ECHO);
    net.sim.set_default_link(Link::instant().latency(millis(30)));
    assert!(net.exchange(&old, b"hello") < millis(2));
    assert_eq!(net.exchange(&net.connect(&net.c, &net.a, ECHO), b"hello"), millis(60));
}

#[test]
fn a_host_s_own_loopback_can_be_slow_as_well() {
    let net = Network::new();
    let client = net.connect(&net.a, &net.a, ECHO);
    assert_eq!(net.exchange(&client, b"hello"), Duration::ZERO);
    net.sim.set_link("a", "a", &Link::instant().latency(millis(5)));
    assert_eq!(net.exchange(&client, b"hello"), millis(10));
}

#[test]
fn a_slow_link_costs_no_real_time() {
    let begin = std::time::Instant::now();
    let (net, client, log) = linked(1, &Link::instant().latency(secs(14)));
    for _ in 0..1_000 {
        transfer(&net, &client, &log, b"slow boat");
    }
    assert_eq!(net.sim.now(), secs(14 * 1_003));
    assert!(begin.elapsed() < secs(60));
}
