//! The small tools of the testing kit: a clock that is moved, a protocol by itself, two protocols, and
//! recorders.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use twistor::testing::{
    AccumulatingProtocol, Clock, Ending, Fault, Link, Pair, Pieces, ProtocolTest, RecordedLog,
    RecordingFactory, Simulation,
};
use twistor::{Deferred, Eof, Handle, OnTimeout, Protocol, Reactor, Reason, Timeout, Timeouts, Transport};

const SECOND: Duration = Duration::from_secs(1);

/// What hooks noted, in order.
#[derive(Clone, Default)]
struct Notes(Rc<RefCell<Vec<String>>>);

impl Notes {
    fn add(&self, text: impl Into<String>) {
        self.0.borrow_mut().push(text.into());
    }

    fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

// Clock.

#[test]
fn due_timers_run_in_order_each_at_its_time() {
    let (clock, notes) = (Clock::new(), Notes::default());
    for seconds in [3, 1, 2, 1, 30] {
        let (notes, begin) = (notes.clone(), clock.now());
        clock.call_later(seconds * SECOND, move |reactor| {
            notes.add(format!("{seconds} at {:?}", reactor.now() - begin));
        });
    }
    clock.advance(10 * SECOND);
    assert_eq!(notes.take(), ["1 at 1s", "1 at 1s", "2 at 2s", "3 at 3s"]);
    assert_eq!(clock.elapsed(), 10 * SECOND);
    clock.advance(20 * SECOND);
    assert_eq!(notes.take(), ["30 at 30s"]);
}

#[test]
fn nothing_is_early_by_a_nanosecond() {
    let (clock, notes) = (Clock::new(), Notes::default());
    let note = notes.clone();
    clock.call_later(SECOND, move |_| note.add("rang"));
    clock.advance(SECOND - Duration::from_nanos(1));
    assert!(notes.take().is_empty());
    clock.advance(Duration::from_nanos(1));
    assert_eq!(notes.take(), ["rang"]);
}

#[test]
fn what_due_timers_schedule_runs_as_well_if_it_is_due() {
    fn ring(reactor: &Handle, notes: &Notes, begin: std::time::Instant) {
        let notes = notes.clone();
        reactor.call_later(SECOND, move |reactor| {
            notes.add(format!("{:?}", reactor.now() - begin));
            ring(reactor, &notes, begin);
        });
    }
    let (clock, notes) = (Clock::new(), Notes::default());
    ring(&clock, &notes, clock.now());
    clock.advance(3 * SECOND + SECOND / 2);
    assert_eq!(notes.take(), ["1s", "2s", "3s"]);
    clock.advance(SECOND / 2);
    assert_eq!(notes.take(), ["4s"]);
}

#[test]
fn calls_run_without_time_passing() {
    let (clock, notes) = (Clock::new(), Notes::default());
    let note = notes.clone();
    clock.call_soon(move |reactor| {
        note.add("one");
        let note = note.clone();
        reactor.call_soon(move |reactor| {
            note.add("two");
            reactor.call_later(Duration::ZERO, move |_| note.add("three"));
        });
    });
    assert!(notes.take().is_empty());
    clock.run_due();
    assert_eq!(notes.take(), ["one", "two", "three"]);
    assert_eq!(clock.elapsed(), Duration::ZERO);
}

#[test]
fn time_moves_in_one_go_when_nothing_is_due() {
    let clock = Clock::new();
    let passes = clock.stats().passes;
    clock.advance(100 * 365 * 24 * 3600 * SECOND);
    assert!(clock.stats().passes - passes < 10);
}

#[test]
fn a_cancelled_timer_does_not_ring_and_a_moved_one_rings_then() {
    let (clock, notes) = (Clock::new(), Notes::default());
    let timers: Vec<_> = (1..=3)
        .map(|number| {
            let notes = notes.clone();
            clock.call_later(number * SECOND, move |_| notes.add(number.to_string()))
        })
        .collect();
    assert!(timers[0].cancel());
    assert!(timers[1].delay(5 * SECOND));
    clock.advance(4 * SECOND);
    assert_eq!(notes.take(), ["3"]);
    clock.advance(3 * SECOND);
    assert_eq!(notes.take(), ["2"]);
}

#[test]
fn a_looping_call_is_called_at_each_of_its_times() {
    let (clock, notes) = (Clock::new(), Notes::default());
    let (note, begin) = (notes.clone(), clock.now());
    let looping = clock.every(10 * SECOND, move |reactor, skipped| {
        note.add(format!("{:?} {skipped}", reactor.now() - begin));
    });
    clock.advance(35 * SECOND);
    assert_eq!(notes.take(), ["10s 0", "20s 0", "30s 0"]);
    assert!(looping.stop());
    clock.advance(100 * SECOND);
    assert!(notes.take().is_empty());
}

#[test]
fn a_looping_call_that_computes_for_long_skips_what_it_misses() {
    let (clock, notes) = (Clock::new(), Notes::default());
    let (note, host, begin) = (notes.clone(), clock.host().clone(), clock.now());
    clock.every(10 * SECOND, move |reactor, skipped| {
        note.add(format!("{:?} {skipped}", reactor.now() - begin));
        if skipped == 0 {
            host.compute(25 * SECOND);
        }
    });
    clock.advance(45 * SECOND);
    // From 10 s to 35 s it computes, and misses 20 s and 30 s.
    assert_eq!(notes.take(), ["10s 0", "40s 2"]);
}

#[test]
fn a_looping_call_waits_for_the_deferred_that_it_returns() {
    let (clock, notes) = (Clock::new(), Notes::default());
    let (note, begin) = (notes.clone(), clock.now());
    clock.every(10 * SECOND, move |reactor, skipped| {
        note.add(format!("{:?} {skipped}", reactor.now() - begin));
        let (resolver, deferred) = Deferred::<(), String>::new(reactor);
        reactor.call_later(15 * SECOND, move |_| {
            resolver.resolve(Ok(()));
        });
        deferred
    });
    clock.advance(60 * SECOND);
    assert_eq!(notes.take(), ["10s 0", "30s 1", "50s 1"]);
}

#[test]
fn a_reactor_that_stops_inside_an_advance_lets_time_stand_still() {
    let (clock, notes) = (Clock::new(), Notes::default());
    let note = notes.clone();
    clock.call_later(SECOND, Handle::stop);
    clock.call_later(2 * SECOND, move |_| note.add("after the stop"));
    clock.advance(10 * SECOND);
    assert!(notes.take().is_empty());
    assert_eq!(clock.elapsed(), SECOND);
    assert_eq!(clock.stats().timers, 0, "what was pending is dropped");
}

#[test]
fn connections_of_a_clock_s_reactor_with_itself_move_without_time() {
    let (clock, factory) = (Clock::new(), RecordingFactory::new());
    let port = clock.listen("tcp:0:interface=127.0.0.1", factory.clone()).expect("a port");
    let (protocol, log) = AccumulatingProtocol::new();
    clock.connect_protocol(format!("tcp:{}", port.local_addr()), protocol).on_done(|_, connection| {
        connection.expect("a connection").write(b"hello");
    });
    clock.run_due();
    let server = factory.logs()[0].clone();
    assert_eq!(server.data(), b"hello");
    server.transport().expect("a transport").write(b"and to you");
    clock.run_due();
    assert_eq!(log.data(), b"and to you");
    assert_eq!(clock.elapsed(), Duration::ZERO);
}

// ProtocolTest.

#[test]
fn pieces_are_delivered_as_they_are_fed() {
    let (protocol, log) = AccumulatingProtocol::new();
    let mut test = ProtocolTest::new(protocol);
    test.feed(b"hello ");
    test.feed_in_pieces(b"world, how are you?", 5);
    assert_eq!(log.data(), b"hello world, how are you?");
    assert_eq!(log.chunks(), [6, 5, 5, 5, 4]);
    test.feed(b"");
    assert_eq!(log.chunks().len(), 5);
}

#[test]
fn what_is_written_is_read_once() {
    let mut test = ProtocolTest::new(Echo);
    assert_eq!(test.written(), b"");
    test.feed(b"one");
    test.feed(b"two");
    assert_eq!(test.written(), b"onetwo");
    assert_eq!(test.written(), b"");
    test.transport().write(b"from outside");
    assert_eq!(test.written(), b"from outside");
}

#[test]
fn a_large_answer_comes_whole() {
    let mut test = ProtocolTest::new(Echo);
    let large: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    test.feed(&large);
    assert!(test.written() == large);
}

/// Pauses at every `p` that it gets, and gives back what comes behind it.
struct Pauser(Notes);

impl Protocol for Pauser {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        match data.iter().position(|byte| *byte == b'p') {
            Some(place) => {
                self.0.add(String::from_utf8_lossy(&data[..=place]));
                transport.pause_reading();
                transport.unread(data[place + 1..].to_vec());
            }
            None => self.0.add(String::from_utf8_lossy(data)),
        }
    }
}

#[test]
fn a_pause_holds_input_back_and_what_was_given_back_comes_first() {
    let notes = Notes::default();
    let mut test = ProtocolTest::new(Pauser(notes.clone()));
    test.feed(b"abpcd");
    assert_eq!(notes.take(), ["abp"]);
    assert!(!test.is_reading());
    test.feed(b"ef");
    assert!(notes.take().is_empty());
    test.with_protocol(|_, transport| transport.resume_reading());
    assert!(test.is_reading());
    assert_eq!(notes.take().concat(), "cdef");
}

#[test]
fn a_protocol_s_own_state_can_be_looked_at_and_changed() {
    struct Counter(usize);
    impl Protocol for Counter {
        fn data_received(&mut self, transport: &Transport, data: &[u8]) {
            self.0 += data.len();
            transport.write(self.0.to_string().as_bytes());
        }
    }
    let mut test = ProtocolTest::new(Counter(0));
    test.feed(b"12345");
    assert_eq!(test.with_protocol(|counter, _| counter.0), 5);
    test.with_protocol(|counter, transport| {
        counter.0 = 100;
        transport.write(b"!");
    });
    test.feed(b"1");
    assert_eq!(test.written(), b"5!101");
}

/// Notes how its connection ends.
struct Ends {
    notes: Notes,
    eof: Eof,
}

impl Ends {
    fn test(eof: Eof) -> (ProtocolTest<Self>, Notes) {
        let notes = Notes::default();
        (ProtocolTest::new(Self { notes: notes.clone(), eof }), notes)
    }
}

impl Protocol for Ends {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn eof_received(&mut self, _: &Transport) -> Eof {
        self.notes.add("eof");
        self.eof
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        self.notes.add(reason.to_string());
    }
}

#[test]
fn the_end_of_the_peer_closes() {
    let (mut test, notes) = Ends::test(Eof::Close);
    assert_eq!((test.is_closing(), test.ending(), test.lost()), (false, Ending::Open, None));
    test.finish();
    assert_eq!(notes.take(), ["eof", "closed"]);
    assert_eq!(
        (test.is_closing(), test.ending(), test.lost().as_deref()),
        (true, Ending::Finished, Some("closed"))
    );
}

#[test]
fn the_end_of_the_peer_may_leave_our_direction_open() {
    let (mut test, notes) = Ends::test(Eof::KeepOpen);
    test.finish();
    assert_eq!(notes.take(), ["eof"]);
    assert_eq!((test.is_closing(), test.ending()), (false, Ending::Open));
    test.transport().write(b"still here");
    assert_eq!(test.written(), b"still here");
    test.transport().lose_write_connection();
    assert_eq!(test.written(), b"");
    assert_eq!(notes.take(), ["closed"]);
    assert_eq!(test.ending(), Ending::Finished);
}

#[test]
fn a_close_says_its_last_words_and_waits_for_the_peer() {
    let (mut test, notes) = Ends::test(Eof::Close);
    test.transport().write(b"bye");
    test.transport().lose_connection();
    assert_eq!(test.written(), b"bye");
    assert_eq!((test.is_closing(), test.ending(), test.lost()), (true, Ending::Finished, None));
    // Nothing more reaches it.
    test.feed(b"too late");
    test.finish();
    assert_eq!(notes.take(), ["closed"]);
}

#[test]
fn a_close_that_the_peer_ignores_ends_after_the_linger_time() {
    let notes = Notes::default();
    let builder = Reactor::builder().linger_timeout(5 * SECOND);
    let mut test = ProtocolTest::with(builder, Ends { notes: notes.clone(), eof: Eof::Close });
    test.transport().lose_connection();
    test.advance(4 * SECOND);
    assert!(notes.take().is_empty());
    test.advance(2 * SECOND);
    assert_eq!(notes.take(), ["closed"]);
}

#[test]
fn an_abort_is_a_reset_for_the_peer_and_stays_one() {
    let (mut test, notes) = Ends::test(Eof::Close);
    test.transport().write(b"never sent");
    test.transport().abort_connection();
    assert_eq!(test.written(), b"");
    assert_eq!((test.ending(), test.lost().as_deref()), (Ending::Reset, Some("aborted")));
    assert_eq!(notes.take(), ["aborted"]);
    test.advance(SECOND);
    assert_eq!(test.written(), b"");
    assert_eq!(test.ending(), Ending::Reset);
}

#[test]
fn a_reset_of_the_peer_is_a_loss() {
    let (mut test, notes) = Ends::test(Eof::Close);
    test.reset();
    assert_eq!(notes.take(), ["reset by the peer or the network"]);
    assert_eq!(test.lost().as_deref(), Some("reset by the peer or the network"));
    test.finish();
    test.advance(SECOND);
}

struct Bomb;

impl Protocol for Bomb {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {
        panic!("as planned");
    }
}

#[test]
#[should_panic(expected = "as planned")]
fn a_panic_in_a_hook_fails_the_test() {
    ProtocolTest::new(Bomb).feed(b"light");
}

#[test]
fn a_panic_in_a_hook_ends_the_connection_if_the_test_wants_it_so() {
    let mut test = ProtocolTest::with(Reactor::builder(), Bomb);
    test.feed(b"light");
    assert_eq!(test.lost().as_deref(), Some("a hook panicked"));
    assert_eq!(test.ending(), Ending::Reset);
}

/// Asks whether anybody is there when nobody says anything, and gives up the second time.
struct Ping(Cell<bool>);

impl Protocol for Ping {
    fn connection_made(&mut self, transport: &Transport) {
        transport.set_timeouts(Timeouts::new().read(10 * SECOND));
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {
        self.0.set(false);
    }

    fn timed_out(&mut self, transport: &Transport, _: Timeout) -> OnTimeout {
        if self.0.replace(true) {
            return OnTimeout::Abort;
        }
        transport.write(b"ping");
        OnTimeout::Keep
    }
}

#[test]
fn time_outs_pass_when_time_does() {
    let mut test = ProtocolTest::new(Ping(Cell::new(false)));
    test.advance(9 * SECOND);
    assert_eq!(test.written(), b"");
    test.advance(SECOND);
    assert_eq!(test.written(), b"ping");
    test.feed(b"pong");
    test.advance(10 * SECOND);
    assert_eq!(test.written(), b"ping");
    test.advance(9 * SECOND);
    assert_eq!(test.lost(), None);
    test.advance(SECOND);
    assert_eq!(test.lost().as_deref(), Some("timed out (read)"));
    assert_eq!(test.clock().elapsed(), 30 * SECOND);
}

#[test]
fn timers_of_a_protocol_fire_in_a_test() {
    struct Tick;
    impl Protocol for Tick {
        fn connection_made(&mut self, transport: &Transport) {
            transport.every(SECOND, |_: &mut Self, transport: &Transport| transport.write(b"tick "));
        }
        fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    }
    let mut test = ProtocolTest::new(Tick);
    test.advance(3 * SECOND + SECOND / 2);
    assert_eq!(test.written(), b"tick tick tick ");
    test.transport().abort_connection();
    test.advance(3 * SECOND);
    assert_eq!(test.written(), b"");
}

#[test]
fn a_protocol_may_be_replaced() {
    struct Upgrade;
    impl Protocol for Upgrade {
        fn data_received(&mut self, transport: &Transport, data: &[u8]) {
            transport.write(b"upgraded ");
            transport.unread(data[1..].to_vec());
            transport.switch_protocol(Echo);
        }
    }
    let mut test = ProtocolTest::new(Upgrade);
    test.feed(b"uhello");
    test.feed(b" world");
    assert_eq!(test.written(), b"upgraded hello world");
}

// Pair.

#[test]
fn a_pair_talks_until_both_are_content() {
    /// Says a number less one, down to 0.
    struct Down;
    impl Protocol for Down {
        fn data_received(&mut self, transport: &Transport, data: &[u8]) {
            if let Some(number) = data[0].checked_sub(1) {
                transport.write(&[number]);
            }
        }
    }
    let mut pair = Pair::new(Down, Down);
    pair.client().write(&[100]);
    pair.pump();
    let stats = [pair.client().stats(), pair.server().stats()];
    assert_eq!(stats.map(|stats| stats.bytes_received), [50, 51]);
    assert_eq!(pair.simulation().now(), Duration::ZERO);
}

#[test]
fn a_pair_goes_over_a_link_of_choice() {
    let (protocol, log) = AccumulatingProtocol::new();
    let link = Link::instant().latency(SECOND).pieces(Pieces::Exactly(1));
    let mut pair = Pair::over(&link, protocol, Echo);
    let begin = pair.simulation().now();
    pair.client().write(b"hello");
    pair.pump();
    assert_eq!((log.data(), log.chunks()), (b"hello".to_vec(), vec![1; 5]));
    assert_eq!(pair.simulation().now() - begin, 2 * SECOND);
}

#[test]
fn a_pair_is_pumped_without_waiting_for_timers() {
    let notes = Notes::default();
    let mut pair = Pair::new(Echo, Pauser(notes.clone()));
    let (note, begin) = (notes.clone(), pair.simulation().now());
    pair.client().reactor().call_later(SECOND, move |_| note.add("rang"));
    let probing = twistor::endpoint::KeepAlive::new();
    pair.client().set_keep_alive(Some(probing)).expect("keep-alive");
    pair.client().write(b"hello");
    pair.pump();
    assert_eq!(notes.take(), ["hello"]);
    assert_eq!(pair.simulation().now(), begin);
    pair.advance(SECOND);
    assert_eq!(notes.take(), ["rang"]);
}

#[test]
fn a_pair_closes_in_good_order() {
    let ends = || Ends { notes: Notes::default(), eof: Eof::Close };
    let (client, server) = (ends(), ends());
    let notes = [client.notes.clone(), server.notes.clone()];
    let mut pair = Pair::new(client, server);
    pair.client().lose_connection();
    pair.pump();
    assert_eq!(notes.each_ref().map(Notes::take), [vec!["closed"], vec!["eof", "closed"]]);
}

#[test]
fn a_pair_lives_in_a_simulation_with_all_its_faults() {
    let ends = || Ends { notes: Notes::default(), eof: Eof::Close };
    let (client, server) = (ends(), ends());
    let notes = [client.notes.clone(), server.notes.clone()];
    let mut pair = Pair::new(client, server);
    pair.simulation().inject(Fault::reset("client"));
    pair.pump();
    assert_eq!(notes.each_ref().map(|notes| notes.take().concat()), ["reset by the peer or the network"; 2]);
}

// Recorders.

#[test]
fn an_accumulating_protocol_records_everything() {
    let (protocol, log) = AccumulatingProtocol::new();
    assert!(log.transport().is_none());
    let mut test = ProtocolTest::new(protocol);
    assert_eq!(log.transport().as_ref().map(Transport::id), Some(test.transport().id()));
    test.feed(b"ab");
    test.feed(b"c");
    assert_eq!((log.data(), log.chunks()), (b"abc".to_vec(), vec![2, 1]));
    assert_eq!((log.has_ended(), log.lost()), (false, None));
    test.finish();
    assert_eq!((log.has_ended(), log.lost().as_deref()), (true, Some("closed")));
}

#[test]
fn a_recording_factory_remembers_whom_it_served() {
    let (sim, factory) = (Simulation::new(1), RecordingFactory::new());
    let server = sim.host("server", |_| {});
    let client = sim.host("client", |_| {});
    assert_eq!(factory.started_and_stopped(), (0, 0));
    let port = server.reactor().listen("tcp:80", factory.clone()).expect("a port");
    let mut connections = Vec::new();
    for text in [b"one", b"two"] {
        let stream = client.connect_raw(server.address(80)).expect("a socket");
        sim.run_until("it is connected", || stream.is_connected());
        stream.send(text).expect("room");
        connections.push(stream);
    }
    sim.run_for(SECOND);
    let logs: Vec<Vec<u8>> = factory.logs().iter().map(RecordedLog::data).collect();
    assert_eq!(logs, [b"one", b"two"]);
    let peers: Vec<_> = factory.peers().iter().map(|peer| peer.address.socket_addr()).collect();
    assert_eq!(peers, connections.iter().map(|stream| Some(stream.local_addr())).collect::<Vec<_>>());
    drop(port.stop_listening());
    sim.run_for(SECOND);
    assert_eq!(factory.started_and_stopped(), (1, 1));
}
