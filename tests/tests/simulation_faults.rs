//! Every fault of a simulation really happens, protocols notice it as they would notice a real one, nobody
//! else is disturbed, and when it is over everything goes on.

mod simulation_support;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use simulation_support::*;
use twistor::endpoint::{KeepAlive, TcpConnect};
use twistor::testing::{Fault, Link};
use twistor::{ConnectErrorKind, Timeouts};

const QUARTER_OF_AN_HOUR: Duration = secs(15 * 60);

// Partitions and cuts.

#[test]
fn a_partition_holds_everything_up_until_it_heals() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, ECHO);
    let bystander = net.connect(&net.c, &net.a, ECHO);
    net.sim.inject(Fault::partition(["b"]));
    client.write(b"anybody there?");
    net.sim.run_for(secs(10));
    assert_eq!(client.log.data(), b"");
    assert!(net.exchange(&bystander, b"undisturbed") < millis(10));

    net.sim.inject(Fault::heal());
    net.sim.run_until("the echo is there", || client.log.data() == b"anybody there?");
    assert!(net.exchange(&client, b" good") < millis(10));
    assert_eq!(client.lost(), None);
}

#[test]
fn hosts_on_one_side_of_a_partition_talk_to_each_other() {
    let net = Network::new();
    let inside = net.connect(&net.b, &net.c, ECHO);
    let across = net.connect(&net.b, &net.a, ECHO);
    net.sim.inject(Fault::partition(["b", "c"]).lasting(secs(5)));
    across.write(b"across");
    net.exchange(&inside, b"inside");
    net.sim.run_for(secs(4));
    assert_eq!(across.log.data(), b"");
    // What got lost is sent again at intervals that have grown with the silence.
    net.sim.run_for(secs(7));
    assert_eq!(across.log.data(), b"across");
}

#[test]
fn a_cut_from_the_client_lets_the_server_speak() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, DISCARD);
    net.sim.run_for(millis(10));
    let server = net.discarded_at_a()[0].transport().expect("a transport");
    net.sim.inject(Fault::cut("b", "a"));
    client.write(b"unheard");
    server.write(b"heard");
    net.sim.run_for(secs(60));
    assert_eq!(client.log.data(), b"heard");
    assert_eq!(net.discarded_at_a()[0].data(), b"");

    net.sim.inject(Fault::heal());
    net.sim.run_for(secs(60));
    assert_eq!(net.discarded_at_a()[0].data(), b"unheard");
    assert_eq!(client.log.data(), b"heard");
}

#[test]
fn a_cut_from_the_server_delivers_once_what_was_never_acknowledged() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, ECHO);
    net.sim.inject(Fault::cut("a", "b"));
    client.write(b"one");
    net.sim.run_for(secs(30));
    client.write(b"two");
    net.sim.run_for(secs(30));
    assert_eq!(client.log.data(), b"");
    net.sim.inject(Fault::heal());
    net.sim.run_for(secs(120));
    assert_eq!(client.log.data(), b"onetwo");
}

#[test]
fn room_taken_by_the_unacknowledged_is_given_back() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, DISCARD);
    let total = 3 * 256 * 1024;
    for _ in 0..3 {
        net.sim.inject(Fault::cut("a", "b"));
        // As much as the peer's buffer holds, so that it announces its room again.
        client.write(&pattern(256 * 1024));
        net.sim.run_for(secs(1));
        net.sim.inject(Fault::heal());
        net.sim.run_for(secs(30));
    }
    assert_eq!(net.discarded_at_a()[0].data().len(), total);
    assert_eq!(client.connection.queued(), 0);
    net.exchange(&net.connect(&net.b, &net.a, ECHO), &pattern(1_000_000));
}

#[test]
fn a_one_way_cut_ends_the_sender_after_a_quarter_of_an_hour() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, DISCARD);
    net.sim.inject(Fault::cut("a", "b"));
    let begin = net.sim.now();
    client.write(b"never acknowledged");
    net.sim.run_for(secs(60));
    client.write(b"nor this");
    assert_eq!(net.run_until_lost(&client), RESET);
    let after = net.sim.now() - begin;
    assert!((QUARTER_OF_AN_HOUR..QUARTER_OF_AN_HOUR + secs(1)).contains(&after), "{after:?}");
}

#[test]
fn an_attempt_outlives_a_partition_that_heals() {
    let net = Network::new();
    net.sim.inject(Fault::partition(["a"]).lasting(secs(5)));
    let client = net.connect(&net.b, &net.a, ECHO);
    // SYNs go out after 0, 1, 3 and 7 seconds.
    assert!((secs(7)..secs(7) + millis(10)).contains(&net.sim.now()), "{:?}", net.sim.now());
    net.exchange(&client, b"hello");
}

#[test]
fn an_attempt_over_a_partition_times_out() {
    let net = Network::new();
    net.sim.inject(Fault::partition(["a"]));
    let (kind, after) = net.failure(&net.b, net.a.address(ECHO));
    assert_eq!((kind, after), (ConnectErrorKind::TimedOut, secs(30)));
    // Left to the kernel, it takes as long as six more SYNs do.
    let (kind, after) = net.failure(&net.b, patient(net.a.address(ECHO)));
    assert_eq!(kind, ConnectErrorKind::TimedOut);
    assert!((secs(127)..secs(128)).contains(&after), "{after:?}");

    net.sim.inject(Fault::heal());
    net.exchange(&net.connect(&net.b, &net.a, ECHO), b"hello");
}

#[test]
fn a_partition_in_mid_handshake_only_delays_the_connection() {
    for cut_after in [100, 600] {
        let net = Network::new();
        net.sim
            .at(Duration::from_micros(cut_after), |sim| sim.inject(Fault::partition(["a"]).lasting(secs(2))));
        let client = net.connect(&net.b, &net.a, ECHO);
        assert!(net.sim.now() > secs(2), "connected through a partition, at {:?}", net.sim.now());
        net.exchange(&client, b"hello");
        assert_eq!(net.a.reactor().stats().accepted, 1);
    }
}

#[test]
fn after_a_long_partition_everything_arrives_exactly_once() {
    for minutes in [1, 5, 14] {
        let net = Network::new();
        net.sim.set_link("a", "b", &Link::new().latency(millis(50)).bandwidth(1_000_000));
        let client = net.connect(&net.b, &net.a, ECHO);
        let sent = pattern(2_000_000);
        client.write(&sent);
        net.sim.run_for(secs(1));
        net.sim.inject(Fault::partition(["a"]).lasting(secs(minutes * 60)));
        net.sim.run_for(secs(minutes * 60));
        assert!(client.log.data().len() < sent.len());
        net.sim.run_until("all is echoed", || client.log.data().len() >= sent.len());
        net.sim.run_for(secs(60));
        assert!(client.log.data() == sent);
    }
}

#[test]
fn a_partition_longer_than_a_quarter_of_an_hour_ends_the_one_who_has_sent() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, DISCARD);
    net.sim.run_for(secs(1));
    let server = net.discarded_at_a()[0].clone();
    net.sim.inject(Fault::partition(["a"]));
    let begin = net.sim.now();
    client.write(b"unheard");
    assert_eq!(net.run_until_lost(&client), RESET);
    assert!((QUARTER_OF_AN_HOUR..QUARTER_OF_AN_HOUR + secs(1)).contains(&(net.sim.now() - begin)));
    // The other end has sent nothing, so it knows of nothing, even now …
    net.sim.inject(Fault::heal());
    net.sim.run_for(secs(3600));
    assert_eq!(server.lost(), None);
    assert_eq!(server.data(), b"");
    // … until it sends, and is told that there is no such connection.
    server.transport().expect("a transport").write(b"still there?");
    net.sim.run_for(secs(1));
    assert_eq!(server.lost().as_deref(), Some(RESET));
}

#[test]
fn a_reset_that_gets_lost_in_a_partition_is_not_sent_again() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, DISCARD);
    net.sim.run_for(secs(1));
    let server = net.discarded_at_a()[0].clone();
    net.sim.inject(Fault::partition(["a"]).lasting(secs(10)));
    client.connection.abort_connection();
    assert_eq!(net.run_until_lost(&client), "aborted");
    net.sim.run_for(secs(3600));
    assert_eq!(server.lost(), None);
    server.transport().expect("a transport").write(b"still there?");
    net.sim.run_for(secs(1));
    assert_eq!(server.lost().as_deref(), Some(RESET));
}

// Hosts.

#[test]
fn a_crash_says_nothing_and_a_restart_answers_with_a_reset() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, ECHO);
    let bystander = net.connect(&net.c, &net.b, ECHO);
    net.sim.inject(Fault::crash("a").lasting(secs(5)));
    assert!(!net.a.is_running());
    net.sim.run_for(secs(4));
    assert_eq!(client.lost(), None);
    net.exchange(&bystander, b"undisturbed");
    net.sim.run_for(secs(2));
    assert!(net.a.is_running());
    assert_eq!(client.lost(), None);
    client.write(b"do you know me?");
    assert_eq!(net.run_until_lost(&client), RESET);
    net.exchange(&net.connect(&net.b, &net.a, ECHO), b"hello again");
}

#[test]
fn what_was_sent_to_a_crashed_host_ends_in_a_reset_when_it_is_back() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, ECHO);
    net.sim.inject(Fault::crash("a"));
    client.write(b"are you there?");
    net.sim.run_for(secs(60));
    assert_eq!(client.lost(), None);
    net.sim.inject(Fault::restart("a"));
    assert_eq!(net.run_until_lost(&client), RESET);
    // At the latest when it is sent again for the next time.
    assert!(net.sim.now() < secs(61 + 61));
    assert_eq!(client.log.data(), b"");
}

#[test]
fn a_crash_with_data_in_flight_loses_it_and_nothing_of_it_reaches_the_next_life() {
    let net = Network::new();
    net.sim.set_link("a", "b", &Link::new().latency(millis(100)).bandwidth(1_000_000));
    let client = net.connect(&net.b, &net.a, DISCARD);
    client.write(&pattern(2_000_000));
    net.sim.run_for(secs(1));
    let before = net.discarded_at_a()[0].data();
    assert!(!before.is_empty() && before.len() < 2_000_000);
    net.sim.inject(Fault::crash("a").lasting(secs(2)));
    assert_eq!(net.run_until_lost(&client), RESET);
    net.sim.run_for(secs(60));
    assert_eq!(net.discarded_at_a().len(), 1);
    assert!(net.discarded_at_a()[0].data() == before);
    assert_eq!(net.discarded_at_a()[0].lost(), None, "a crashed program hears of nothing");
    let again = net.connect(&net.b, &net.a, DISCARD);
    again.write(b"fresh");
    net.sim.run_for(secs(1));
    assert_eq!(net.discarded_at_a()[1].data(), b"fresh");
}

#[test]
fn a_restart_runs_the_program_again_with_nothing_left_of_its_last_life() {
    let net = Network::new();
    let starts = Rc::new(Cell::new(0));
    let rings = Rc::new(RefCell::new(Vec::new()));
    let (count, notes) = (Rc::clone(&starts), Rc::clone(&rings));
    let host = net.sim.host("d", move |reactor| {
        count.set(count.get() + 1);
        let (life, notes) = (count.get(), Rc::clone(&notes));
        reactor.call_later(secs(10), move |_| notes.borrow_mut().push(life));
    });
    assert_eq!(starts.get(), 1);
    net.sim.run_for(secs(8));
    net.sim.inject(Fault::crash("d"));
    assert_eq!(starts.get(), 1);
    net.sim.run_for(secs(8));
    net.sim.inject(Fault::restart("d"));
    assert_eq!(starts.get(), 2);
    assert_eq!(host.reactor().stats().timers, 1);
    net.sim.run_for(secs(60));
    assert_eq!(*rings.borrow(), [2], "the timer of the first life has to be gone");
}

#[test]
fn connecting_to_a_crashed_host_gets_no_answer() {
    let net = Network::new();
    net.sim.inject(Fault::crash("a"));
    assert_eq!(net.failure(&net.b, net.a.address(ECHO)), (ConnectErrorKind::TimedOut, secs(30)));
}

#[test]
fn an_address_without_a_host_is_unreachable() {
    let net = Network::new();
    let (kind, after) = net.failure(&net.b, "tcp:10.9.9.9:7");
    assert_eq!(kind, ConnectErrorKind::Unreachable);
    assert!(after < secs(5));
    let error = net.try_connect(&net.b, "tcp:10.9.9.9:7").err().expect("an error");
    assert!(error.to_string().contains("10.9.9.9:7"), "{error}");
    net.exchange(&net.connect(&net.b, &net.a, ECHO), b"undisturbed");
}

#[test]
fn a_frozen_program_answers_late_but_its_kernel_goes_on() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, ECHO);
    let bystander = net.connect(&net.b, &net.c, ECHO);
    let accepted = net.a.reactor().stats().accepted;
    net.sim.inject(Fault::freeze("a").lasting(secs(3)));
    let begin = net.sim.now();
    // The kernel of a frozen host accepts connections and takes data.
    let late = net.connect(&net.c, &net.a, ECHO);
    assert!(net.sim.now() - begin < millis(10));
    assert_eq!(net.a.reactor().stats().accepted, accepted);
    late.write(b"taken by the kernel");
    net.exchange(&bystander, b"undisturbed");
    let answer = net.exchange(&client, b"wake up");
    assert!((secs(3) - millis(20)..secs(3) + millis(20)).contains(&answer), "{answer:?}");
    net.sim.run_for(millis(10));
    assert_eq!(late.log.data(), b"taken by the kernel");
    assert!(net.exchange(&client, b"good morning") < millis(10));
}

#[test]
fn a_freeze_lasts_a_second_unless_it_lasts_otherwise() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, ECHO);
    net.sim.inject(Fault::freeze("a"));
    let answer = net.exchange(&client, b"wake up");
    assert!((millis(990)..millis(1010)).contains(&answer), "{answer:?}");
}

#[test]
fn timers_of_a_frozen_host_are_late() {
    let net = Network::new();
    let rang = Rc::new(Cell::new(Duration::ZERO));
    let (when, sim) = (Rc::clone(&rang), net.b.clone());
    let begin = net.b.clock();
    net.b.reactor().call_later(secs(1), move |_| when.set(sim.clock() - begin));
    net.sim.inject_at(millis(500), Fault::freeze("b").lasting(secs(10)));
    net.sim.run_for(secs(20));
    assert_eq!(rang.get(), millis(10_500));
}

#[test]
fn a_slow_reader_holds_its_peer_up_and_nobody_else() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, DISCARD);
    let bystander = net.connect(&net.b, &net.c, ECHO);
    net.sim.run_for(secs(1));
    net.sim.inject(Fault::slow_reader("a", 1000).lasting(secs(10)));
    let sent = pattern(1_000_000);
    client.write(&sent);
    net.sim.run_for(secs(5));
    let read = net.discarded_at_a()[0].data().len();
    assert!((4900..5100).contains(&read), "{read} bytes were read in 5 s");
    assert!(client.connection.queued() > 0, "the buffers of the kernels hold no more");
    assert!(net.exchange(&bystander, b"undisturbed") < millis(10));
    // A slow reader does not turn in circles.
    assert!(net.a.reactor().stats().passes < 5_000, "{:?}", net.a.reactor().stats());

    net.sim.run_for(secs(6));
    assert!(net.discarded_at_a()[0].data() == sent);
    assert_eq!(client.connection.queued(), 0);
}

#[test]
fn a_host_that_refuses_is_noticed_by_newcomers_only() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, ECHO);
    net.sim.inject(Fault::refuse("a").lasting(secs(5)));
    let (kind, after) = net.failure(&net.b, net.a.address(ECHO));
    assert_eq!(kind, ConnectErrorKind::Refused);
    assert!(after < millis(10));
    net.exchange(&client, b"undisturbed");
    net.exchange(&net.connect(&net.b, &net.c, ECHO), b"undisturbed");
    net.sim.run_for(secs(5));
    net.exchange(&net.connect(&net.b, &net.a, ECHO), b"welcome");
}

#[test]
fn a_host_with_a_full_backlog_does_not_answer_newcomers() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, ECHO);
    net.sim.inject(Fault::backlog_full("a").lasting(secs(40)));
    assert_eq!(net.failure(&net.b, net.a.address(ECHO)), (ConnectErrorKind::TimedOut, secs(30)));
    net.exchange(&client, b"undisturbed");
    let begin = net.sim.now();
    net.connect(&net.b, &net.a, ECHO);
    assert!((secs(10)..secs(20)).contains(&(net.sim.now() - begin)));
}

#[test]
fn a_backlog_that_is_full_of_itself_ignores_the_next() {
    let net = Network::new();
    let port = net.a.reactor().listen("tcp:80:backlog=2", |_| Echo).expect("a port");
    port.pause_accepting();
    for _ in 0..2 {
        net.connect(&net.b, &net.a, 80);
    }
    net.sim.run_for(millis(10));
    let timeout = TcpConnect::new(net.a.address(80)).timeout(secs(10));
    assert_eq!(net.failure(&net.b, timeout).0, ConnectErrorKind::TimedOut);
    assert!(net.sim.trace().contains("has a full backlog"));
    port.resume_accepting();
    net.sim.run_for(secs(1));
    net.connect(&net.b, &net.a, 80);
    net.sim.run_for(millis(10));
    assert_eq!(net.a.reactor().stats().accepted, 3);
}

#[test]
fn a_listener_without_descriptors_sheds_newcomers_and_recovers() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, ECHO);
    // Two listeners and the connection.
    net.sim.inject(Fault::descriptor_limit("a", 3).lasting(secs(5)));
    let shed = net.connect(&net.b, &net.a, ECHO);
    assert_eq!(net.run_until_lost(&shed), RESET);
    assert_eq!(net.a.reactor().stats().shed, 1);
    net.exchange(&client, b"undisturbed");
    net.sim.run_for(secs(5));
    net.exchange(&net.connect(&net.b, &net.a, ECHO), b"welcome");
}

#[test]
fn a_host_without_descriptors_cannot_connect() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, ECHO);
    net.sim.inject(Fault::descriptor_limit("b", 0).lasting(secs(5)));
    let error = net.try_connect(&net.b, net.a.address(ECHO)).err().expect("an error");
    assert_eq!(error.kind(), ConnectErrorKind::Other);
    let source = std::error::Error::source(&error).expect("a source");
    assert!(source.to_string().to_lowercase().contains("too many open files"), "{source}");
    net.exchange(&client, b"undisturbed");
    net.sim.run_for(secs(5));
    net.exchange(&net.connect(&net.b, &net.a, ECHO), b"welcome");
}

#[test]
fn a_limit_of_descriptors_ends_with_the_process_that_had_it() {
    let net = Network::new();
    net.sim.inject(Fault::descriptor_limit("a", 0).lasting(secs(60)));
    net.sim.inject(Fault::slow_reader("a", 1).lasting(secs(60)));
    net.sim.inject(Fault::crash("a").lasting(secs(1)));
    net.sim.run_for(secs(2));
    assert!(net.exchange(&net.connect(&net.b, &net.a, ECHO), b"hello") < millis(10));
}

#[test]
fn every_descriptor_comes_back() {
    let net = Network::new();
    // Two listeners, and one more.
    net.sim.inject(Fault::descriptor_limit("a", 3));
    net.sim.inject(Fault::descriptor_limit("b", 3));
    for _ in 0..20 {
        for aborts in [true, false] {
            let client = net.connect(&net.b, &net.a, ECHO);
            net.exchange(&client, b"hello");
            if aborts {
                client.connection.abort_connection();
            } else {
                client.connection.lose_connection();
            }
            net.sim.run_for(millis(10));
        }
        assert_eq!(net.failure(&net.b, net.a.address(1)).0, ConnectErrorKind::Refused);
    }
    assert_eq!(net.a.reactor().stats().shed, 0);
}

#[test]
fn a_clock_that_runs_wrong_moves_its_host_timers_only() {
    for (rate, expected) in [(2.0, secs(5)), (0.5, secs(20)), (1.1, Duration::from_nanos(9_090_909_091))] {
        let net = Network::new();
        net.sim.inject(Fault::clock_rate("b", rate));
        let rang = Rc::new(Cell::new([false; 2]));
        for (number, host) in [&net.b, &net.c].into_iter().enumerate() {
            let rang = Rc::clone(&rang);
            host.reactor().call_later(secs(10), move |_| {
                let mut all = rang.get();
                all[number] = true;
                rang.set(all);
            });
        }
        net.sim.run_until("the wrong clock has rung", || rang.get()[0]);
        assert_eq!(net.sim.now(), expected);
        net.sim.run_until("the right clock has rung", || rang.get()[1]);
        assert_eq!(net.sim.now(), expected.max(secs(10)));
    }
}

#[test]
fn a_clock_that_is_put_right_does_not_jump() {
    let net = Network::new();
    let begin = net.b.clock();
    net.sim.inject(Fault::clock_rate("b", 3.0).lasting(secs(10)));
    net.sim.run_for(secs(10));
    assert_eq!(net.b.clock() - begin, secs(30));
    net.sim.run_for(secs(10));
    assert_eq!(net.b.clock() - begin, secs(40));
}

#[test]
fn a_link_changes_under_an_open_stream() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, ECHO);
    let bystander = net.connect(&net.b, &net.c, ECHO);
    assert!(net.exchange(&client, b"near") < millis(2));
    net.sim.inject(Fault::link("a", "b", Link::new().latency(secs(1)).jitter(Duration::ZERO)));
    assert_eq!(net.exchange(&client, b"far"), secs(2));
    assert!(net.exchange(&bystander, b"undisturbed") < millis(2));
    net.sim.inject(Fault::link("a", "b", Link::new()));
    assert!(net.exchange(&client, b"near again") < millis(2));
}

// Streams.

#[test]
fn a_reset_ends_both_ends_of_one_stream() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, DISCARD);
    let bystander = net.connect(&net.c, &net.a, ECHO);
    net.sim.run_for(secs(1));
    net.sim.inject(Fault::reset("b"));
    net.sim.run_for(millis(10));
    assert_eq!(client.lost().as_deref(), Some(RESET));
    assert_eq!(net.discarded_at_a()[0].lost().as_deref(), Some(RESET));
    net.exchange(&bystander, b"undisturbed");
    net.exchange(&net.connect(&net.b, &net.a, ECHO), b"hello again");
}

#[test]
fn a_half_open_stream_is_noticed_by_nobody_who_is_silent() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, DISCARD);
    let bystander = net.connect(&net.c, &net.a, ECHO);
    net.sim.run_for(secs(1));
    net.sim.inject(Fault::half_open("b"));
    net.sim.run_for(secs(24 * 3600));
    assert_eq!(client.lost(), None);
    assert_eq!(net.discarded_at_a()[0].lost(), None);
    net.exchange(&bystander, b"undisturbed");

    let begin = net.sim.now();
    client.write(b"still there?");
    assert_eq!(net.run_until_lost(&client), RESET);
    let after = net.sim.now() - begin;
    assert!((QUARTER_OF_AN_HOUR..QUARTER_OF_AN_HOUR + secs(1)).contains(&after), "{after:?}");
    assert_eq!(net.discarded_at_a()[0].lost(), None);
}

#[test]
fn keep_alive_notices_a_half_open_stream() {
    let net = Network::new();
    let probing = KeepAlive::new().idle(secs(10)).interval(secs(5)).count(3);
    let endpoint = TcpConnect::new(net.a.address(DISCARD)).keep_alive(probing);
    let client = net.try_connect(&net.b, endpoint).expect("a connection");
    net.sim.run_for(secs(1));
    net.sim.inject(Fault::half_open("b"));
    assert_eq!(net.run_until_lost(&client), RESET);
    // Counted from what was heard last.
    assert!((secs(25)..secs(26)).contains(&net.sim.now()), "{:?}", net.sim.now());
    net.sim.run_for(secs(3600));
    assert_eq!(net.discarded_at_a()[0].lost(), None, "that end has no keep-alive");
}

#[test]
fn keep_alive_can_be_set_on_a_stream_that_is_half_open_already() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, DISCARD);
    net.sim.run_for(secs(1));
    net.sim.inject(Fault::half_open("b"));
    let probing = KeepAlive::new().idle(secs(10)).interval(secs(5)).count(3);
    client.connection.set_keep_alive(Some(probing)).expect("keep-alive");
    assert_eq!(net.run_until_lost(&client), RESET);
    assert!(net.sim.now() <= secs(30), "{:?}", net.sim.now());
}

#[test]
fn keep_alive_leaves_a_stream_alone_whose_peer_answers() {
    let net = Network::new();
    let probing = KeepAlive::new().idle(secs(2)).interval(secs(3)).count(3);
    let endpoint = TcpConnect::new(net.a.address(ECHO)).keep_alive(probing);
    let client = net.try_connect(&net.b, endpoint).expect("a connection");
    for _ in 0..20 {
        // Never silent for long enough.
        net.sim.run_for(secs(3));
        net.sim.inject(Fault::partition(["a"]).lasting(secs(7)));
        net.sim.run_for(secs(7));
    }
    assert_eq!(client.lost(), None);
    net.exchange(&client, b"still there");
}

#[test]
fn keep_alive_notices_that_its_peer_has_restarted() {
    let net = Network::new();
    let probing = KeepAlive::new().idle(secs(10)).interval(secs(5)).count(3);
    let endpoint = TcpConnect::new(net.a.address(ECHO)).keep_alive(probing);
    let client = net.try_connect(&net.b, endpoint).expect("a connection");
    net.sim.inject(Fault::crash("a").lasting(secs(1)));
    assert_eq!(net.run_until_lost(&client), RESET);
    assert!(net.sim.now() <= secs(26), "{:?}", net.sim.now());
}

#[test]
fn an_idle_time_out_notices_a_half_open_stream() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, DISCARD);
    let bystander = net.connect(&net.c, &net.a, ECHO);
    net.sim.run_for(secs(1));
    let begin = net.sim.now();
    client.connection.set_timeouts(Timeouts::new().idle(secs(20)));
    net.sim.inject(Fault::half_open("b"));
    assert_eq!(net.run_until_lost(&client), "timed out (idle)");
    assert_eq!(net.sim.now() - begin, secs(20));
    net.exchange(&bystander, b"undisturbed");
}

#[test]
fn a_fault_injected_by_a_hook_happens_after_its_turn() {
    let net = Network::new();
    let client = net.connect(&net.b, &net.a, ECHO);
    let sim = Rc::new(net.sim);
    let (inside, ran_on) = (Rc::clone(&sim), Rc::new(Cell::new(false)));
    let went = Rc::clone(&ran_on);
    net.a.reactor().call_soon(move |_| {
        inside.inject(Fault::crash("a"));
        went.set(true);
    });
    sim.run_for(millis(1));
    assert!(ran_on.get());
    assert!(!net.a.is_running());
    assert_eq!(client.lost(), None);
    sim.run_for(secs(1));
}
