//! Streams on a bad network: whatever is lost, late or broken off, a task reads what its peer wrote, in
//! order, or an error that tells the cause. Each world follows from a seed.

mod simulation_support;

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::rc::Rc;

use simulation_support::*;
use twistor::testing::{Fault, Host, Link, Simulation};
use twistor::{Handle, Stream, Timeouts, task};

const PORT: u16 = 80;

/// What the client wants: so many bytes of the pattern.
async fn serve(stream: Stream) -> io::Result<()> {
    while let Some(line) = stream.read_line(20).await? {
        let count = line.parse().map_err(io::Error::other)?;
        stream.write_all(&pattern(count)).await?;
    }
    Ok(())
}

async fn fetch(stream: &Stream, count: usize) -> io::Result<()> {
    stream.write_all(format!("{count}\n").as_bytes()).await?;
    let mut answer = vec![0; count];
    stream.read_exact(&mut answer).await?;
    assert!(answer == pattern(count), "bytes were changed on the way");
    Ok(())
}

struct Net {
    sim: Simulation,
    server: Host,
    client: Host,
}

impl Net {
    fn new(seed: u64) -> Self {
        let sim = Simulation::new(seed);
        let server = sim.host("server", |reactor| {
            reactor.serve(format!("tcp:{PORT}"), serve).expect("a port");
        });
        let client = sim.host("client", |_| {});
        Self { sim, server, client }
    }

    fn start<T: 'static>(
        &self,
        task: impl AsyncFnOnce(Handle, Stream) -> T + 'static,
    ) -> Rc<RefCell<Option<T>>> {
        let output = Rc::new(RefCell::new(None));
        let place = Rc::clone(&output);
        let (handle, to) = (self.client.reactor(), self.server.address(PORT));
        let client = handle.clone();
        handle
            .spawn(async move {
                let stream = client.connect_stream(patient(to)).await.expect("a connection");
                let value = task(client.clone(), stream).await;
                *place.borrow_mut() = Some(value);
            })
            .detach();
        output
    }

    fn assert_clean(&self) {
        for host in [&self.server, &self.client] {
            self.sim.run_until("nothing is left", || {
                let stats = host.reactor().stats();
                stats.connections + stats.attempts + stats.queued_bytes == 0
                    && host.reactor().tasks().is_empty()
            });
        }
    }
}

#[test]
fn every_byte_comes_in_order_over_a_link_that_loses_and_delays() {
    for seed in 1..=20 {
        let net = Net::new(seed);
        net.sim.set_link("client", "server", &Link::new().latency(millis(30)).jitter(millis(40)).loss(0.05));
        let done = net.start(async |_, stream| {
            for count in [1, 1000, 100_000, 7, 300_000] {
                fetch(&stream, count).await?;
            }
            io::Result::Ok(())
        });
        net.sim.run_until("all is fetched", || done.borrow().is_some());
        done.take().expect("it ended").unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        net.assert_clean();
    }
}

#[test]
fn a_reset_in_the_middle_is_an_error_behind_what_came() {
    for seed in 1..=20 {
        let net = Net::new(seed);
        net.sim.set_link("client", "server", &Link::new().bandwidth(10_000_000));
        let came = Rc::new(Cell::new(0));
        let counted = Rc::clone(&came);
        let outcome = net.start(async move |_, stream| {
            stream.write_all(b"3000000\n").await?;
            let mut buffer = [0; 1000];
            loop {
                let count = stream.read(&mut buffer).await?;
                counted.set(counted.get() + count);
                if count == 0 {
                    return io::Result::Ok(());
                }
            }
        });
        net.sim.run_until("the answer begins", || came.get() > 0);
        net.sim.run_for(millis(seed));
        net.sim.inject(Fault::reset("server"));
        net.sim.run_until("the client knows", || outcome.borrow().is_some());
        let error = outcome.take().expect("it ended").expect_err("not the end that was wanted");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "seed {seed}");
        assert!(came.get() > 0 && came.get() < 3_000_000, "seed {seed}: {}", came.get());
    }
}

#[test]
fn a_partition_is_a_time_out_for_whoever_set_one_and_a_pause_for_others() {
    let net = Net::new(3);
    let timed = net.start(async |_, stream| {
        stream.transport().set_timeouts(Timeouts::new().idle(secs(5)));
        loop {
            fetch(&stream, 1000).await?;
            task::sleep(secs(1)).await;
        }
        #[allow(unreachable_code, reason = "says what the error is of")]
        io::Result::Ok(())
    });
    let fetched = Rc::new(Cell::new(0));
    let counted = Rc::clone(&fetched);
    let patient = net.start(async move |_, stream| {
        for _ in 0..100 {
            fetch(&stream, 1000).await?;
            counted.set(counted.get() + 1);
            task::sleep(secs(1)).await;
        }
        io::Result::Ok(())
    });
    net.sim.run_for(secs(20));
    assert!(timed.borrow().is_none());
    net.sim.inject(Fault::partition(["client"]).lasting(secs(20)));
    net.sim.run_until("the time-out passes", || timed.borrow().is_some());
    assert_eq!(timed.take().expect("it ended").expect_err("a time-out").kind(), ErrorKind::TimedOut);
    let before = fetched.get();
    net.sim.run_until("the other is done", || patient.borrow().is_some());
    patient.take().expect("it ended").expect("nothing was lost");
    assert!(before < 30 && fetched.get() == 100);
    // The server has not heard of the end of the first, and set no time-out of its own.
    net.sim.run_until("the client has nothing left", || {
        let stats = net.client.reactor().stats();
        stats.connections + stats.timers == 0
    });
}

#[test]
fn time_outs_of_a_task_end_what_waits_and_its_connection_with_it() {
    let net = Net::new(4);
    let outcome = net.start(async |_, stream| {
        // Nothing was asked: nothing will come, for an hour.
        let waited = task::timeout(secs(3600), stream.read(&mut [0])).await;
        let still_works = fetch(&stream, 10).await.is_ok();
        (waited.is_err(), still_works)
    });
    net.sim.run_until("an hour has passed", || outcome.borrow().is_some());
    assert_eq!(outcome.take(), Some((true, true)));
    net.assert_clean();
}

#[test]
fn the_same_seed_gives_the_same_story() {
    let story = |seed| {
        let net = Net::new(seed);
        net.sim.set_link("client", "server", &Link::new().latency(millis(10)).jitter(millis(30)).loss(0.1));
        let done = net.start(async |handle: Handle, stream| {
            let mut times = Vec::new();
            for count in [10, 20_000, 30, 40_000] {
                let before = handle.now();
                fetch(&stream, count).await.expect("fetched");
                times.push(handle.now() - before);
            }
            times
        });
        net.sim.run_until("all is fetched", || done.borrow().is_some());
        done.take().expect("it ended")
    };
    assert_eq!(story(7), story(7));
    assert_ne!(story(7), story(8));
}
