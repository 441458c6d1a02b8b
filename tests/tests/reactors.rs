//! Several reactors that serve together.

use std::cell::Cell;
use std::io::{Error, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use twistor::{Handle, PanicPolicy, Protocol, Reactor, Reactors, Sender, Transport};

struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// A free port of this machine's. It may be taken by somebody else meanwhile, which then fails the test.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address")
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "still waiting: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn connections_are_shared_out_and_counted_together() {
    let address = free_address();
    let served = Arc::new(Mutex::new([0; 4]));
    let counts = Arc::clone(&served);
    let reactors = Reactors::builder()
        .count(4)
        .start(move |reactor, number| {
            let counts = Arc::clone(&counts);
            let factory = move |_| {
                counts.lock().expect("not poisoned")[number] += 1;
                Echo
            };
            let endpoint = format!("tcp:{}:interface=127.0.0.1:reuse_port=yes", address.port());
            reactor.listen(endpoint, factory).map(|_| ())
        })
        .expect("reactors");
    let mut peers: Vec<_> = (0..200).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    for peer in &mut peers {
        peer.write_all(b"hello").expect("sent");
        let mut echo = [0; 5];
        peer.read_exact(&mut echo).expect("echoed");
        assert_eq!(&echo, b"hello");
    }
    let stats = reactors.stats();
    assert_eq!((stats.accepted, stats.connections, stats.bytes_received), (200, 200, 1000));
    let served = *served.lock().expect("not poisoned");
    assert_eq!(served.iter().sum::<i32>(), 200);
    assert!(served.iter().all(|count| *count > 10), "{served:?}");
    drop(peers);
    until("all are gone", || reactors.stats().connections == 0);
    reactors.stop();
    reactors.join().expect("all end in good order");
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_failing_setup_is_the_error_and_none_runs() {
    let begun = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&begun);
    let outcome = Reactors::builder().count(3).start(move |_, number| {
        count.fetch_add(1, Ordering::SeqCst);
        if number == 1 { Err(Error::other("no luck")) } else { Ok(()) }
    });
    assert_eq!(outcome.expect_err("one fails").to_string(), "no luck");
    assert_eq!(begun.load(Ordering::SeqCst), 3);
    let outcome = Reactors::builder().count(3).start(|_, number| {
        assert_ne!(number, 2, "in a setup");
        Ok(())
    });
    assert_eq!(outcome.expect_err("one panics").to_string(), "a reactor's setup panicked");
    assert!(Reactors::builder().count(0).start(|_, _| Ok(())).is_err());
}

#[test]
fn when_one_stops_all_stop_and_when_one_panics_too() {
    let reactors = Reactors::builder()
        .count(3)
        .start(|reactor, number| {
            if number == 1 {
                reactor.call_later(Duration::from_millis(10), Handle::stop);
            }
            Ok(())
        })
        .expect("reactors");
    reactors.join().expect("all end in good order");

    let builder = Reactor::builder().panic_policy(PanicPolicy::Propagate);
    let reactors = Reactors::builder()
        .count(3)
        .reactor(builder)
        .start(|reactor, number| {
            if number == 1 {
                reactor.call_later(Duration::from_millis(10), |_| panic!("in a hook"));
            }
            Ok(())
        })
        .expect("reactors");
    assert_eq!(reactors.join().expect_err("one panicked").to_string(), "a reactor panicked");
}

#[test]
fn each_can_be_asked_from_outside_until_it_has_ended() {
    let reactors = Reactors::builder().count(2).pinned(true).start(|_, _| Ok(())).expect("reactors");
    let remotes = reactors.remotes();
    assert_eq!(remotes.len(), 2);
    for remote in &remotes {
        let processors = remote.blocking_call(|_| {
            // SAFETY: the set is a plain value that the call fills; its size is given.
            #[allow(unsafe_code)]
            unsafe {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                assert_eq!(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set), 0);
                libc::CPU_COUNT(&set)
            }
        });
        assert_eq!(processors, Ok(1), "pinned to one");
    }
    reactors.stop();
    reactors.join().expect("all end in good order");
    assert!(remotes.iter().all(|remote| !remote.is_alive()));
}

#[test]
fn they_talk_to_each_other_through_channels() {
    const COUNT: usize = 3;
    const LAST: usize = 3000;
    let senders: Arc<Mutex<[Option<Sender<usize>>; COUNT]>> = Arc::default();
    let all = Arc::clone(&senders);
    let reactors = Reactors::builder()
        .count(COUNT)
        .start(move |reactor, number| {
            let others = Arc::clone(&all);
            // State of this reactor alone: not `Send`, and without a lock.
            let heard = Rc::new(Cell::new(0));
            let receive = move |handle: &Handle, n: usize| {
                assert_eq!(n, heard.get() * COUNT + number, "in order, and nobody else's");
                heard.set(heard.get() + 1);
                if n == LAST {
                    handle.stop();
                } else if let Some(next) = &others.lock().expect("not poisoned")[(number + 1) % COUNT] {
                    next.send(n + 1).expect("room for one");
                }
            };
            all.lock().expect("not poisoned")[number] = Some(reactor.channel(1, receive)?);
            Ok(())
        })
        .expect("reactors");
    let first = senders.lock().expect("not poisoned")[0].clone();
    first.expect("a channel").send(0).expect("room for one");
    let remotes = reactors.remotes();
    reactors.join().expect("all end in good order");
    assert!(remotes.iter().all(|remote| !remote.is_alive()));
    let mut last = senders.lock().expect("not poisoned");
    assert!(last.iter_mut().all(|sender| sender.take().is_some_and(|sender| sender.send(0).is_err())));
}
