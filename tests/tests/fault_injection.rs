//! Real sockets under fire: what a kernel may do at any time, done often; and the tracer that sees it all.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use twistor::testing::{AccumulatingProtocol, Injection, Simulation};
use twistor::{Protocol, Reactor, ReactorBuilder, Reason, Transport};
use twistor_tests::pattern;

struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

fn builder(portable: bool, injection: Injection) -> ReactorBuilder {
    Reactor::builder().portable_polling(portable).fault_injection(injection)
}

/// A blocking client that sends `data`, reads as much back and then the end.
fn client(address: SocketAddr, data: Vec<u8>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut socket = TcpStream::connect(address).expect("a connection");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
        let mut sender = socket.try_clone().expect("a clone");
        let length = data.len();
        let sending = thread::spawn(move || {
            sender.write_all(&data).expect("sent");
            sender.shutdown(std::net::Shutdown::Write).expect("a FIN");
        });
        let mut echoed = Vec::with_capacity(length);
        socket.read_to_end(&mut echoed).expect("an orderly end");
        sending.join().expect("no panic");
        echoed
    })
}

#[test]
fn a_disturbed_kernel_changes_no_byte_and_loses_none() {
    for portable in [false, true] {
        for seed in 0..6 {
            let reactor = builder(portable, Injection::harmless(seed)).build().expect("a reactor");
            let port = reactor.listen("tcp:0:interface=127.0.0.1", |_| Echo).expect("a port");
            let address = port.local_addr().socket_addr().expect("IP");
            let data = pattern(100_000 + seed as usize);
            let clients: Vec<_> = (0..3).map(|_| client(address, data.clone())).collect();
            while !clients.iter().all(JoinHandle::is_finished) {
                reactor.turn(Some(Duration::from_millis(1))).expect("a turn");
            }
            for client in clients {
                assert!(client.join().expect("no panic") == data, "seed {seed}");
            }
        }
    }
}

#[test]
fn delays_only_delay() {
    let injection = Injection::harmless(3).delays(0.5, Duration::from_micros(300));
    let reactor = builder(false, injection).build().expect("a reactor");
    let port = reactor.listen("tcp:0:interface=127.0.0.1", |_| Echo).expect("a port");
    let data = pattern(20_000);
    let client = client(port.local_addr().socket_addr().expect("IP"), data.clone());
    while !client.is_finished() {
        reactor.turn(Some(Duration::from_millis(1))).expect("a turn");
    }
    assert!(client.join().expect("no panic") == data);
}

#[test]
fn timers_are_not_early_and_calls_of_threads_not_lost_under_spurious_wakeups() {
    for portable in [false, true] {
        let injection = Injection::new(5).spurious_wakeups(0.9).would_block(0.9);
        let reactor = builder(portable, injection).handle_signals(false).build().expect("a reactor");
        let remote = reactor.remote();
        let early = Rc::new(Cell::new(false));
        let flag = Rc::clone(&early);
        let due = reactor.now() + Duration::from_millis(30);
        reactor.call_at(due, move |reactor| flag.set(reactor.now() < due));
        let sender = thread::spawn(move || {
            for _ in 0..100 {
                remote.call(|_| {}).expect("the loop takes it");
                thread::yield_now();
            }
            thread::sleep(Duration::from_millis(60));
            remote.stop();
        });
        reactor.run().expect("a run");
        sender.join().expect("no panic");
        assert!(!early.get());
        assert!(reactor.stats().calls >= 100);
    }
}

#[test]
fn a_signal_stops_a_reactor_whose_events_get_lost() {
    for portable in [false, true] {
        for seed in 0..20 {
            let injection = Injection::new(seed).would_block(0.99);
            let reactor = builder(portable, injection).build().expect("a reactor");
            reactor.call_later(Duration::from_millis(1), |_| {
                // SAFETY: raises a signal that this process handles as long as the reactor runs.
                #[allow(unsafe_code)]
                let status = unsafe { libc::raise(libc::SIGTERM) };
                assert_eq!(status, 0);
            });
            reactor.run().expect("a run");
        }
    }
}

#[test]
fn an_aborted_accept_is_counted_and_the_next_one_is_served() {
    let reactor = builder(false, Injection::new(1).aborted_accepts(0.5)).build().expect("a reactor");
    let port = reactor.listen("tcp:0:interface=127.0.0.1", |_| Echo).expect("a port");
    let address = port.local_addr().socket_addr().expect("IP");
    let peers: Vec<_> = (0..50).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    let handled = || reactor.stats().accepted + reactor.stats().accept_errors;
    while handled() < 50 {
        reactor.turn(Some(Duration::from_millis(1))).expect("a turn");
    }
    assert!((10..40).contains(&reactor.stats().accepted), "{}", reactor.stats());
    drop(peers);
}

#[test]
fn a_reset_out_of_the_blue_is_a_loss_with_that_reason() {
    struct Watched(Rc<RefCell<Vec<String>>>);
    impl Protocol for Watched {
        fn data_received(&mut self, _: &Transport, _: &[u8]) {}
        fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
            self.0.borrow_mut().push(reason.to_string());
        }
    }
    let reactor = builder(false, Injection::new(1).resets(1.0)).build().expect("a reactor");
    let lost = Rc::new(RefCell::new(Vec::new()));
    let log = Rc::clone(&lost);
    let port =
        reactor.listen("tcp:0:interface=127.0.0.1", move |_| Watched(Rc::clone(&log))).expect("a port");
    let mut peer = TcpStream::connect(port.local_addr().socket_addr().expect("IP")).expect("a connection");
    peer.write_all(b"hello").expect("sent");
    while lost.borrow().is_empty() {
        reactor.turn(Some(Duration::from_millis(1))).expect("a turn");
    }
    assert_eq!(*lost.borrow(), [Reason::Reset.to_string()]);
}

#[test]
fn the_tracer_sees_what_happens_in_its_order() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&lines);
    let reactor = Reactor::builder()
        .trace(move |event| log.lock().expect("not poisoned").push((event.what, event.bytes)))
        .build()
        .expect("a reactor");
    let port = reactor.listen("tcp:0:interface=127.0.0.1", |_| Echo).expect("a port");
    let client = client(port.local_addr().socket_addr().expect("IP"), b"hello".to_vec());
    while !client.is_finished() {
        reactor.turn(Some(Duration::from_millis(1))).expect("a turn");
    }
    assert_eq!(client.join().expect("no panic"), b"hello");
    let expected =
        [("listens", 0), ("accepts", 0), ("receives", 5), ("sends", 5), ("gets the end", 0), ("closes", 0)];
    assert_eq!(*lines.lock().expect("not poisoned"), expected);
}

#[test]
fn simulated_hosts_can_be_disturbed_as_well_and_repeatably() {
    let run = || {
        let sim = Simulation::new(4);
        let builder = || Reactor::builder().fault_injection(Injection::harmless(9));
        let server = sim.host_with("server", builder(), |reactor| {
            reactor.listen("tcp:7", |_| Echo).expect("a port");
        });
        let client = sim.host_with("client", builder(), |_| {});
        let (protocol, log) = AccumulatingProtocol::new();
        let data = pattern(50_000);
        let written = data.clone();
        client.reactor().connect_protocol(server.address(7), protocol).on_done(move |_, connection| {
            connection.expect("connected").write(&written);
        });
        sim.run_until("the echo is complete", || log.data().len() == data.len());
        assert!(log.data() == data);
        assert!(log.chunks().len() > 3, "{} pieces", log.chunks().len());
        sim.fingerprint()
    };
    assert_eq!(run(), run());
}
