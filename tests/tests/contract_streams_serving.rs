//! Ports that serve with tasks: limits, time-outs, panics, and the stop of the reactor.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::RefCell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use twistor::{ServeOptions, Stream, Timeouts};
use twistor_tests::streams::{kind, pair, start};
use twistor_tests::{Ending, Peer, World, contract, logged};

contract! {
    // Lines 4, 43.
    fn a_thousand_connections_are_served_by_as_many_tasks(driver) {
        const COUNT: usize = 1000;
        let world = World::new(driver);
        let port = world.reactor.serve("tcp:0:interface=127.0.0.1:backlog=2000", async |stream: Stream| {
            let mut name = [0; 4];
            stream.read_exact(&mut name).await?;
            stream.write_all(&name).await?;
            stream.read_exact(&mut name).await?;
            stream.write_all(&name).await
        }).unwrap();
        let peers: Vec<_> = (0..COUNT)
            .map(|index| {
                let peer = world.connect(&port);
                if index % 50 == 0 {
                    world.turn(Duration::ZERO);
                }
                peer
            })
            .collect();
        for round in 0..2 {
            for (index, peer) in peers.iter().enumerate() {
                peer.send(&(index as u32 + round).to_be_bytes());
            }
            for (index, peer) in peers.iter().enumerate() {
                assert_eq!(peer.receive(4), (index as u32 + round).to_be_bytes());
            }
        }
        drop(peers);
        world.until("all are gone", || world.reactor.stats().connections == 0);
        world.turns(3);
        assert!(world.reactor.tasks().is_empty());
    }

    // Line 47.
    fn a_port_serves_so_many_at_a_time_and_goes_on_when_one_leaves(driver) {
        let world = World::new(driver);
        let options = ServeOptions::new().max_connections(2);
        let port = world.reactor.serve_with(options, "tcp:0:interface=127.0.0.1", async |stream: Stream| {
            stream.write_all(b"in").await.unwrap();
            let _ = stream.read_line(100).await;
        }).unwrap();
        let peers: Vec<_> = (0..5).map(|_| world.connect(&port)).collect();
        world.run_for(Duration::from_millis(30));
        let served = |peer: &Peer<'_>| peer.try_receive() == Some(b"in".to_vec());
        assert_eq!(peers.iter().filter(|peer| served(peer)).count(), 2);
        assert_eq!(world.reactor.stats().connections, 2);
        assert!(!port.is_accepting());
        drop(peers);
        let late = world.connect(&port);
        assert_eq!(late.receive(2), b"in");
        world.until("it accepts again", || port.is_accepting());
    }

    // Line 47.
    fn a_connection_counts_until_it_is_lost_also_when_its_task_has_ended(driver) {
        let world = World::new(driver);
        let options = ServeOptions::new().max_connections(2);
        let port = world.reactor.serve_with(options, "tcp:0:interface=127.0.0.1", async |stream: Stream| {
            stream.write_all(b"in").await.unwrap();
        }).unwrap();
        // They are served and told the end, but keep their side open.
        let peers: Vec<_> = (0..5).map(|_| world.connect(&port)).collect();
        world.run_for(Duration::from_millis(30));
        assert_eq!((world.reactor.stats().tasks, world.reactor.stats().connections), (0, 2));
        assert!(!port.is_accepting());
        drop(peers);
        world.until("it accepts again", || port.is_accepting());
        world.until("all are gone", || world.reactor.stats().connections == 0);
    }

    fn time_outs_of_all_connections_are_set_at_once(driver) {
        let world = World::new(driver);
        let options = ServeOptions::new().timeouts(Timeouts::new().idle(Duration::from_millis(30)));
        let seen = Rc::new(RefCell::new(None));
        let place = Rc::clone(&seen);
        let port = world.reactor.serve_with(options, "tcp:0:interface=127.0.0.1", async move |stream: Stream| {
            *place.borrow_mut() = stream.read(&mut [0]).await.err();
        }).unwrap();
        let peer = world.connect(&port);
        assert_eq!(peer.receive_to_end().1, Ending::Reset);
        world.until("the task ends", || seen.borrow().is_some());
        assert_eq!(seen.take().unwrap().kind(), ErrorKind::TimedOut);
    }

    // Line 5.
    fn a_task_that_panics_resets_its_own_connection_only(driver) {
        let world = World::new(driver);
        let port = world.reactor.serve("tcp:0:interface=127.0.0.1", async |stream: Stream| {
            let word = stream.read_line(100).await.unwrap().unwrap();
            assert!(word != "panic", "as wanted");
            stream.write_all(word.as_bytes()).await.unwrap();
        }).unwrap();
        let (one, two) = (world.connect(&port), world.connect(&port));
        one.send(b"panic\n");
        assert_eq!(one.receive_to_end().1, Ending::Reset);
        two.send(b"good\n");
        assert_eq!(two.receive_to_end(), (b"good".to_vec(), Ending::Fin));
    }

    // Line 5.
    fn a_task_that_panics_is_logged_with_where_it_was_asked_for(driver) {
        logged::keep();
        let world = World::new(driver);
        let line = line!() + 1;
        let port = world.reactor.serve("tcp:0:interface=127.0.0.1", async |stream: Stream| {
            assert!(stream.peer_addr() == stream.local_addr(), "a mistake in the handler");
        }).unwrap();
        let peer = world.connect(&port);
        assert_eq!(peer.receive_to_end().1, Ending::Reset);
        let lines = logged::take();
        let wanted = format!("contract_streams_serving.rs:{line}:");
        assert!(lines.len() == 1 && lines[0].contains(&wanted), "{lines:?}");
    }

    // Line 7.
    fn input_ends_when_the_reactor_stops_and_the_last_words_are_sent(driver) {
        let world = World::new(driver);
        let port = world.reactor.serve("tcp:0:interface=127.0.0.1", async |stream: Stream| {
            while let Some(line) = stream.read_line(100).await? {
                stream.write_all(line.as_bytes()).await?;
            }
            // Not at once.
            twistor::task::sleep(Duration::from_millis(20)).await;
            stream.write_all(b" goodbye").await
        }).unwrap();
        let peer = world.connect(&port);
        peer.send(b"hello\n");
        assert_eq!(peer.receive(5), b"hello");
        world.reactor.stop();
        while world.turn(Duration::from_millis(1)) {
            // What comes now is not served any more.
            if world.reactor.is_stopping() && peer.socket().write(b"late\n").is_err() {
                break;
            }
        }
        assert_eq!(peer.receive_to_end().0, b" goodbye");
    }

    // Line 7.
    fn a_task_can_outlast_a_stop_until_the_drain_time_out(driver) {
        let world = World::with(driver, |builder| builder.drain_timeout(Duration::from_millis(200)));
        let (stream, peer) = pair(&world);
        stream.outlast_stop();
        let heard = start(&world, async move {
            let line = stream.read_line(100).await.unwrap().unwrap();
            (line, kind(stream.read_line(100).await), stream.reason().unwrap().to_string())
        });
        world.reactor.stop();
        for _ in 0..5 {
            world.turn(Duration::from_millis(1));
        }
        let _ = peer.try_send(b"after the stop\n");
        let mut goes_on = true;
        while goes_on {
            goes_on = world.turn(Duration::from_millis(1));
        }
        let (line, kind, reason) = heard.take().expect("the task has ended");
        assert_eq!(line, "after the stop");
        assert_eq!((kind, &*reason), (ErrorKind::ConnectionAborted, "the reactor stopped"));
    }

    // Line 7.
    fn a_stop_is_no_proof_that_everything_came(driver) {
        let world = World::new(driver);
        let (stream, peer) = pair(&world);
        peer.send(b"half of it");
        world.until("it came", || stream.buffered() == 10);
        let outcome = start(&world, async move {
            let all = stream.read_to_end(1000).await.map_err(|error| error.to_string());
            let exact = stream.read_exact(&mut [0; 20]).await.map_err(|error| error.to_string());
            let mut rest = [0; 20];
            (all, exact, stream.read(&mut rest).await.unwrap(), stream.read(&mut rest).await.unwrap())
        });
        world.turns(3);
        world.reactor.stop();
        while world.turn(Duration::from_millis(1)) {}
        let (all, exact, rest, end) = outcome.take().expect("the task has ended");
        assert_eq!(all, Err("the reactor is stopping: more may have been to come".to_owned()));
        assert_eq!(exact, Err("the reactor is stopping: 10 of 20 bytes came".to_owned()));
        assert_eq!((rest, end), (10, 0));
    }

    // Line 47.
    fn a_port_that_is_paused_stays_so_when_a_place_becomes_free(driver) {
        let world = World::new(driver);
        let options = ServeOptions::new().max_connections(1);
        let port = world.reactor.serve_with(options, "tcp:0:interface=127.0.0.1", async |stream: Stream| {
            stream.write_all(b"in").await.unwrap();
            let _ = stream.read_line(100).await;
        }).unwrap();
        let mut peer = world.connect(&port);
        // Whichever comes first, the pause or the limit, and whichever ends first.
        for is_resumed_first in [false, true, false, true] {
            assert_eq!(peer.receive(2), b"in");
            assert!(!port.is_accepting(), "it is full");
            port.pause_accepting();
            let next = world.connect(&port);
            if is_resumed_first {
                port.resume_accepting();
                world.run_for(Duration::from_millis(20));
                assert!(!port.is_accepting(), "it is full");
                drop(peer);
            } else {
                drop(peer);
                world.until("the first is gone", || world.reactor.stats().connections == 0);
                world.run_for(Duration::from_millis(20));
                assert!(!port.is_accepting(), "it is paused");
                assert!(next.try_receive().unwrap_or_default().is_empty());
                port.resume_accepting();
                assert!(port.is_accepting());
            }
            peer = next;
        }
        assert_eq!(peer.receive(2), b"in");
        drop(peer);
        world.until("it accepts again", || port.is_accepting());
        // Paused before it is full, and not full when it is resumed.
        port.pause_accepting();
        port.resume_accepting();
        assert!(port.is_accepting());
        port.pause_accepting();
        port.stop_listening().on_done(|_, _| ());
        port.resume_accepting();
        assert!(!port.is_accepting());
    }
}
