//! Simulated streams keep the rules of TCP: what a close, a reset or half a close does to the other end, and
//! to whom goes what.

mod simulation_support;

use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;

use simulation_support::*;
use twistor::endpoint::{TcpConnect, TcpListen};
use twistor::testing::{
    AccumulatingProtocol, Host, Link, RawListener, RawStream, RecordingFactory, Simulation,
};
use twistor::{ConnectErrorKind, Eof, Protocol, Reason, Transport};

/// Two raw sockets on two hosts, connected.
struct Wire {
    sim: Simulation,
    near: RawStream,
    far: RawStream,
}

fn wire(link: &Link) -> Wire {
    let sim = Simulation::new(1);
    let (one, other) = (sim.host("one", |_| {}), sim.host("other", |_| {}));
    sim.set_link("one", "other", link);
    let (listener, near) = raw_attempt(&one, &other);
    sim.run_until("it is connected", || near.is_connected());
    let far = accept(&sim, &listener);
    Wire { sim, near, far }
}

fn raw_attempt(from: &Host, to: &Host) -> (RawListener, RawStream) {
    let listener = to.listen_raw(to.address(80), 5).expect("a listener");
    let stream = from.connect_raw(listener.local_addr()).expect("a socket");
    (listener, stream)
}

fn receive(stream: &RawStream) -> Result<Vec<u8>, ErrorKind> {
    let mut buffer = vec![0; 1_000_000];
    let count = stream.receive(&mut buffer).map_err(|error| error.kind())?;
    buffer.truncate(count);
    Ok(buffer)
}

fn send(stream: &RawStream, data: &[u8]) -> Result<usize, ErrorKind> {
    stream.send(data).map_err(|error| error.kind())
}

#[test]
fn an_attempt_takes_a_round_trip_and_can_be_used_only_then() {
    let sim = Simulation::new(1);
    let (one, other) = (sim.host("one", |_| {}), sim.host("other", |_| {}));
    sim.set_default_link(Link::instant().latency(millis(100)));
    let (listener, stream) = raw_attempt(&one, &other);
    assert_eq!(send(&stream, b"early"), Err(ErrorKind::WouldBlock));
    assert_eq!(receive(&stream), Err(ErrorKind::WouldBlock));
    assert!(listener.accept().is_none());
    sim.run_for(millis(199));
    assert!(!stream.is_connected());
    sim.run_for(millis(1));
    assert!(stream.is_connected());
    assert_eq!(send(&stream, b"now"), Ok(3));
}

#[test]
fn a_refused_attempt_says_so() {
    let sim = Simulation::new(1);
    let host = sim.host("one", |_| {});
    let stream = host.connect_raw(host.address(1)).expect("a socket");
    sim.run_for(millis(1));
    assert!(!stream.is_connected());
    assert_eq!(send(&stream, b"hello"), Err(ErrorKind::ConnectionRefused));
    assert_eq!(send(&stream, b"hello"), Err(ErrorKind::BrokenPipe));
}

#[test]
fn the_end_comes_behind_the_data() {
    let Wire { sim, near, far } = wire(&Link::new());
    assert_eq!(send(&near, b"last words"), Ok(10));
    near.finish().expect("open");
    assert_eq!(receive(&far), Err(ErrorKind::WouldBlock));
    sim.run_for(secs(1));
    assert_eq!(receive(&far).as_deref(), Ok(&b"last words"[..]));
    assert_eq!(receive(&far).as_deref(), Ok(&b""[..]));
    assert_eq!(receive(&far).as_deref(), Ok(&b""[..]));
    assert_eq!(send(&near, b"more"), Err(ErrorKind::BrokenPipe));
}

#[test]
fn the_end_waits_behind_data_that_has_no_room_yet() {
    let Wire { sim, near, far } = wire(&Link::new().buffers(10_000, 1_000));
    let sent = pattern(10_000);
    assert_eq!(send(&near, &sent), Ok(10_000));
    drop(near);
    let mut got = Vec::new();
    loop {
        sim.run_for(secs(1));
        match receive(&far).expect("data or the end") {
            piece if piece.is_empty() => break,
            piece => {
                assert!(piece.len() <= 1_000, "{} bytes did not fit", piece.len());
                got.extend(piece);
            }
        }
    }
    assert!(got == sent);
}

#[test]
fn half_a_stream_goes_on_when_the_other_half_has_ended() {
    let Wire { sim, near, far } = wire(&Link::new());
    near.finish().expect("open");
    sim.run_for(secs(1));
    assert_eq!(receive(&far).as_deref(), Ok(&b""[..]));
    for text in [&b"still"[..], b"talking"] {
        assert_eq!(send(&far, text), Ok(text.len()));
        sim.run_for(secs(1));
        assert_eq!(receive(&near).as_deref(), Ok(text));
    }
    far.finish().expect("open");
    sim.run_for(secs(1));
    assert_eq!(receive(&near).as_deref(), Ok(&b""[..]));
}

#[test]
fn both_may_finish_at_once() {
    let Wire { sim, near, far } = wire(&Link::new());
    near.finish().expect("open");
    far.finish().expect("open");
    sim.run_for(secs(1));
    assert_eq!(receive(&near).as_deref(), Ok(&b""[..]));
    assert_eq!(receive(&far).as_deref(), Ok(&b""[..]));
}

#[test]
fn who_finishes_after_its_peer_has_closed_hears_of_no_reset() {
    let Wire { sim, near, far } = wire(&Link::new());
    drop(near);
    sim.run_for(secs(1));
    assert_eq!(receive(&far).as_deref(), Ok(&b""[..]));
    far.finish().expect("open");
    sim.run_for(secs(1));
    assert!(far.is_connected());
    assert_eq!(receive(&far).as_deref(), Ok(&b""[..]));
}

#[test]
fn a_close_with_unread_input_is_a_reset() {
    let Wire { sim, near, far } = wire(&Link::new());
    assert_eq!(send(&near, b"never read"), Ok(10));
    sim.run_for(secs(1));
    drop(far);
    sim.run_for(secs(1));
    assert_eq!(receive(&near), Err(ErrorKind::ConnectionReset));
    assert_eq!(receive(&near).as_deref(), Ok(&b""[..]), "an error is told once");
    assert!(!near.is_connected());
}

#[test]
fn data_for_a_closed_socket_is_answered_with_a_reset() {
    let Wire { sim, near, far } = wire(&Link::new());
    drop(far);
    sim.run_for(secs(1));
    assert_eq!(receive(&near).as_deref(), Ok(&b""[..]));
    assert_eq!(send(&near, b"anybody?"), Ok(8));
    assert!(near.is_connected());
    sim.run_for(secs(1));
    assert_eq!(send(&near, b"anybody?"), Err(ErrorKind::ConnectionReset));
    assert_eq!(send(&near, b"anybody?"), Err(ErrorKind::BrokenPipe));
}

#[test]
fn data_that_crosses_a_close_is_answered_with_a_reset() {
    let Wire { sim, near, far } = wire(&Link::instant().latency(millis(100)));
    assert_eq!(send(&near, b"crossing"), Ok(8));
    drop(far);
    sim.run_for(millis(150));
    assert_eq!(receive(&near).as_deref(), Ok(&b""[..]));
    sim.run_for(millis(50));
    assert_eq!(receive(&near), Err(ErrorKind::ConnectionReset));
}

#[test]
fn what_a_closed_socket_has_queued_is_dropped_when_data_comes_for_it() {
    // The closed end cannot send all: there is no room at its peer, who then sends.
    let Wire { sim, near, far } = wire(&Link::new().buffers(10_000, 100));
    assert_eq!(send(&far, &pattern(10_000)), Ok(10_000));
    drop(far);
    sim.run_for(secs(1));
    assert_eq!(send(&near, b"unwelcome"), Ok(9));
    sim.run_for(secs(1));
    assert_eq!(receive(&near).as_deref(), Ok(&pattern(100)[..]));
    assert_eq!(receive(&near), Err(ErrorKind::ConnectionReset));
    // Nothing is left of it that a simulation would go on with.
    drop(near);
    sim.run_for(secs(10));
    let text = panic_of(|| sim.run_until("the end of time", || false));
    assert!(!text.contains("was closed"), "{text}");
}

#[test]
fn a_reset_comes_behind_what_is_on_its_way_and_drops_the_rest() {
    let Wire { sim, near, far } = wire(&Link::new().buffers(10_000, 1_000));
    assert_eq!(send(&near, &pattern(10_000)), Ok(10_000));
    near.reset();
    sim.run_for(secs(1));
    assert_eq!(receive(&far).as_deref(), Ok(&pattern(1_000)[..]));
    assert_eq!(receive(&far), Err(ErrorKind::ConnectionReset));
    assert_eq!(receive(&far).as_deref(), Ok(&b""[..]));
    assert_eq!(send(&far, b"oh"), Err(ErrorKind::BrokenPipe));
}

#[test]
fn a_stream_that_has_ended_can_be_accepted() {
    let sim = Simulation::new(1);
    let (one, other) = (sim.host("one", |_| {}), sim.host("other", |_| {}));
    let (listener, stream) = raw_attempt(&one, &other);
    sim.run_until("it is connected", || stream.is_connected());
    stream.send(b"hello").expect("room");
    drop(stream);
    sim.run_for(secs(10));
    let accepted = listener.accept().expect("a stream");
    assert_eq!(receive(&accepted).as_deref(), Ok(&b"hello"[..]));
    assert_eq!(receive(&accepted).as_deref(), Ok(&b""[..]));
}

#[test]
fn a_listener_that_closes_resets_those_who_wait() {
    let sim = Simulation::new(1);
    let (one, other) = (sim.host("one", |_| {}), sim.host("other", |_| {}));
    let (listener, stream) = raw_attempt(&one, &other);
    sim.run_until("it is connected", || stream.is_connected());
    drop(listener);
    sim.run_for(secs(1));
    assert_eq!(receive(&stream), Err(ErrorKind::ConnectionReset));
}

#[test]
fn an_attempt_that_is_given_up_leaves_nothing_in_the_backlog() {
    let sim = Simulation::new(1);
    let (one, other) = (sim.host("one", |_| {}), sim.host("other", |_| {}));
    sim.set_default_link(Link::instant().latency(millis(100)));
    let (listener, stream) = raw_attempt(&one, &other);
    sim.run_for(millis(150));
    drop(stream);
    sim.run_for(millis(150));
    assert!(listener.accept().is_none());
}

// The same as protocols see it.

#[test]
fn a_protocol_gets_the_data_before_the_end_and_closes_cleanly() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, DISCARD);
    client.write(b"last words");
    client.connection.lose_connection();
    assert_eq!(net.run_until_lost(&client), "closed");
    net.sim.run_for(secs(1));
    let log = net.discarded_at_a()[0].clone();
    assert_eq!(
        (log.data(), log.has_ended(), log.lost().as_deref()),
        (b"last words".to_vec(), true, Some("closed"))
    );
}

#[test]
fn an_abort_is_a_reset_for_the_other() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, DISCARD);
    client.connection.abort_connection();
    assert_eq!(net.run_until_lost(&client), "aborted");
    net.sim.run_for(secs(1));
    assert_eq!(net.discarded_at_a()[0].lost().as_deref(), Some(RESET));
}

#[test]
fn writes_after_a_reset_are_dropped() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, DISCARD);
    net.sim.run_for(secs(1));
    let server = net.discarded_at_a()[0].transport().expect("a transport");
    server.abort_connection();
    net.sim.run_for(secs(1));
    assert_eq!(client.lost().as_deref(), Some(RESET));
    client.write(b"too late");
    net.sim.run_for(secs(1));
    assert_eq!(client.connection.queued(), 0);
}

#[test]
fn a_write_that_meets_a_reset_loses_the_connection() {
    let net = Network::new();
    let listener = net.a.listen_raw(net.a.address(80), 5).expect("a listener");
    let client = net.connect(&net.b, &net.a, 80);
    let far = accept(&net.sim, &listener);
    client.connection.pause_reading();
    net.sim.run_for(secs(1));
    far.reset();
    client.write(b"crossing the reset");
    assert_eq!(net.run_until_lost(&client), RESET);
}

#[test]
fn a_half_closed_protocol_goes_on_hearing() {
    struct Report(Rc<RefCell<Vec<u8>>>);
    impl Protocol for Report {
        fn data_received(&mut self, _: &Transport, data: &[u8]) {
            self.0.borrow_mut().extend_from_slice(data);
        }
        fn eof_received(&mut self, transport: &Transport) -> Eof {
            transport.write(format!("{} bytes", self.0.borrow().len()).as_bytes());
            transport.lose_write_connection();
            Eof::KeepOpen
        }
        fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
            assert!(reason.is_clean());
            self.0.borrow_mut().clear();
        }
    }
    let net = Network::new();
    let got = Rc::new(RefCell::new(Vec::new()));
    let place = Rc::clone(&got);
    net.a.reactor().listen("tcp:80", move |_| Report(Rc::clone(&place))).expect("a port");
    let client = net.connect(&net.b, &net.a, 80);
    client.write(b"hello");
    client.connection.lose_write_connection();
    assert_eq!(net.run_until_lost(&client), "closed");
    assert_eq!(client.log.data(), b"5 bytes");
    net.sim.run_for(secs(1));
    assert!(got.borrow().is_empty());
}

// Addresses.

fn listen(host: &Host, endpoint: TcpListen) -> RecordingFactory {
    let factory = RecordingFactory::new();
    host.reactor().listen(endpoint, factory.clone()).expect("a port");
    factory
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn hosts_have_ipv6_addresses_as_well() {
    let net = Network::new();
    let factory = listen(&net.a, TcpListen::v6(80).v6only(true));
    let client = net.try_connect(&net.b, SocketAddr::new(net.a.ip6(), 80)).expect("a connection");
    assert_eq!(client.connection.local_addr().ip(), Some(net.b.ip6()));
    net.sim.run_for(secs(1));
    assert_eq!(factory.peers()[0].address, client.connection.local_addr());
    // Nobody listens there for IPv4.
    assert_eq!(net.failure(&net.b, net.a.address(80)).0, ConnectErrorKind::Refused);
    listen(&net.a, TcpListen::new(80));
    net.connect(&net.b, &net.a, 80);
}

#[test]
fn a_dual_stack_listener_takes_both_and_reports_ipv4_as_such() {
    let net = Network::new();
    let factory = listen(&net.a, TcpListen::v6(80));
    let six = net.try_connect(&net.b, SocketAddr::new(net.a.ip6(), 80)).expect("a connection");
    let four = net.connect(&net.b, &net.a, 80);
    net.sim.run_for(secs(1));
    let peers: Vec<_> = factory.peers().iter().map(|peer| peer.address.clone()).collect();
    assert_eq!(peers, [six.connection.local_addr(), four.connection.local_addr()]);
    assert_eq!(peers[1].ip(), Some(net.b.ip()));
    let error = net.a.reactor().listen("tcp:80", |_| Echo).expect_err("in use");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains("0.0.0.0:80"), "{error}");
}

#[test]
fn the_loopback_address_is_each_host_s_own() {
    let net = Network::new();
    listen(&net.a, TcpListen::new(80).interface([127, 0, 0, 1]));
    assert_eq!(net.failure(&net.b, net.a.address(80)).0, ConnectErrorKind::Refused);
    assert_eq!(net.failure(&net.b, "tcp:127.0.0.1:80").0, ConnectErrorKind::Refused);
    let begin = net.sim.now();
    let client = net.try_connect(&net.a, "tcp:127.0.0.1:80").expect("a connection");
    assert_eq!(net.sim.now(), begin, "within a host everything is at once");
    assert_eq!(client.connection.local_addr().ip(), Some([127, 0, 0, 1].into()));
    let client = net.try_connect(&net.a, address("127.0.0.1:7")).expect("all addresses");
    net.exchange(&client, b"hello");
}

#[test]
fn an_address_of_another_host_cannot_be_used() {
    let net = Network::new();
    let error = net.a.reactor().listen(net.b.address(80), |_| Echo).expect_err("not local");
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    let endpoint = TcpConnect::new(net.b.address(ECHO)).local_addr(net.c.address(0));
    let error = net.try_connect(&net.a, endpoint).err().expect("not local");
    assert_eq!(error.kind(), ConnectErrorKind::Other);
}

#[test]
fn ports_are_given_out_once() {
    let net = Network::new();
    let mut ports = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let port = net.a.reactor().listen("tcp:0", |_| Echo).expect("a port").local_addr().port();
        assert!(port >= 1024 && ports.insert(port));
        let client = net.connect(&net.a, &net.b, ECHO);
        assert!(ports.insert(client.connection.local_addr().port()));
    }
}

#[test]
fn a_chosen_local_port_is_used_and_cannot_be_taken_twice() {
    let net = Network::new();
    let endpoint = TcpConnect::new(net.a.address(ECHO)).local_addr(net.b.address(4000));
    let client = net.try_connect(&net.b, endpoint.clone()).expect("a connection");
    assert_eq!(client.connection.local_addr().socket_addr(), Some(net.b.address(4000)));
    assert_eq!(
        net.try_connect(&net.b, endpoint.clone()).err().map(|error| error.kind()),
        Some(ConnectErrorKind::Other)
    );
    client.connection.abort_connection();
    net.sim.run_for(secs(1));
    net.try_connect(&net.b, endpoint).expect("it is free again");
}

#[test]
fn a_host_whose_ports_are_all_taken_says_so() {
    let sim = Simulation::new(1);
    let host = sim.host("one", |_| {});
    let mut taken = Vec::new();
    let error = loop {
        match host.connect_raw(host.address(1)) {
            Ok(stream) => taken.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    assert!(taken.len() > 20_000, "{}", taken.len());
    assert_eq!(host.listen_raw(host.address(0), 1).expect_err("no port").kind(), ErrorKind::AddrInUse);
    taken.pop();
    host.listen_raw(host.address(0), 1).expect("a port");
}

#[test]
fn a_port_can_be_listened_on_again_while_its_connections_live() {
    let net = Network::new();
    let port = net.a.reactor().listen("tcp:80", |_| Echo).expect("a port");
    let client = net.connect(&net.b, &net.a, 80);
    net.sim.run_for(secs(1));
    drop(port.stop_listening());
    net.sim.run_for(secs(1));
    assert_eq!(net.failure(&net.b, net.a.address(80)).0, ConnectErrorKind::Refused);
    net.exchange(&client, b"hello");
    net.a.reactor().listen("tcp:80", |_| Echo).expect("the same port");
    net.connect(&net.b, &net.a, 80);
    net.exchange(&client, b"hello");
}

#[test]
fn a_shared_port_spreads_connections() {
    let net = Network::new();
    let factories: Vec<RecordingFactory> =
        (0..3).map(|_| listen(&net.a, TcpListen::new(80).reuse_port(true))).collect();
    let error = net.a.reactor().listen("tcp:80", |_| Echo).expect_err("it does not share");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    for _ in 0..60 {
        net.connect(&net.b, &net.a, 80);
    }
    net.sim.run_for(secs(1));
    let counts: Vec<usize> = factories.iter().map(|factory| factory.logs().len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 60);
    assert!(counts.iter().all(|count| *count >= 5), "{counts:?}");
}

#[test]
fn peers_see_each_other_s_addresses() {
    let net = Network::new();
    let (protocol, log) = AccumulatingProtocol::new();
    let mut protocol = Some(protocol);
    net.a.reactor().listen("tcp:80", move |_| protocol.take()).expect("a port");
    let client = net.connect(&net.b, &net.a, 80);
    net.sim.run_for(secs(1));
    let server = log.transport().expect("a transport");
    assert_eq!(server.peer_addr(), client.connection.local_addr());
    assert_eq!(server.local_addr(), client.connection.peer_addr());
    assert_eq!(server.peer_addr().ip(), Some(net.b.ip()));
}
