//! A task that connects, shakes hands, asks and hears an answer is cancelled at every pass of its life, and
//! given up after every so many microseconds. Wherever that is, nothing is left of it: no connection,
//! attempt, timer, task or byte. And nothing of it is heard afterwards.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use twistor::{Handle, Port, Stream, task};
use twistor_tests::{Driver, World, contract, pattern};

/// More than a connection takes at once.
const QUESTION: usize = 200_000;
const ANSWER: usize = 300_000;

/// What was begun and has not ended.
#[derive(Clone, Default)]
struct Alive(Rc<Cell<usize>>);

impl Alive {
    fn begin(&self) -> Self {
        self.0.set(self.0.get() + 1);
        self.clone()
    }
}

/// Counts a future for as long as it exists.
struct Guard(Alive);

impl Drop for Guard {
    fn drop(&mut self) {
        let alive = &self.0.0;
        alive.set(alive.get() - 1);
    }
}

async fn answer(stream: Stream) -> io::Result<()> {
    let hello = stream.read_line(100).await?.unwrap_or_default();
    task::sleep(Duration::from_micros(300)).await;
    stream.write_all(format!("{hello} yourself\n").as_bytes()).await?;
    let mut question = vec![0; QUESTION];
    stream.read_exact(&mut question).await?;
    for chunk in pattern(ANSWER).chunks(10_000) {
        stream.write_all(chunk).await?;
        task::yield_now().await;
    }
    stream.shutdown().await?;
    stream.read_to_end(0).await.map(drop)
}

async fn ask(handle: Handle, address: String, steps: Rc<Cell<usize>>) -> io::Result<()> {
    let step = || steps.set(steps.get() + 1);
    let stream = handle.connect_stream(address).await.map_err(io::Error::other)?;
    step();
    stream.write_all(b"hello\n").await?;
    stream.flush().await?;
    assert_eq!(stream.read_line(100).await?.as_deref(), Some("hello yourself"));
    step();
    let (reader, writer) = stream.split();
    let writing = task::spawn(async move {
        writer.write_all(&pattern(QUESTION)).await?;
        writer.flush().await.map(|()| writer)
    });
    let whole = reader.read_to_end(ANSWER).await?;
    assert!(whole == pattern(ANSWER), "{} bytes came", whole.len());
    step();
    let writer = writing.await.map_err(io::Error::other)??;
    writer.shutdown().await?;
    step();
    let _ = reader.closed().await;
    step();
    Ok(())
}

struct Stage {
    world: World,
    port: Port,
    alive: Alive,
}

impl Stage {
    fn new(driver: Driver) -> Self {
        let world = World::new(driver);
        let alive = Alive::default();
        let counted = alive.clone();
        let port = world.reactor.serve("tcp:0:interface=127.0.0.1", async move |stream: Stream| {
            let _guard = Guard(counted.begin());
            // A client that goes away is no surprise here.
            let _ = answer(stream).await;
        });
        Self { port: port.unwrap(), world, alive }
    }

    fn ask(&self, steps: &Rc<Cell<usize>>) -> impl Future<Output = io::Result<()>> + 'static {
        let address = format!("tcp:{}", self.port.local_addr());
        let asking = ask((*self.world.reactor).clone(), address, Rc::clone(steps));
        let guard = Guard(self.alive.begin());
        async move {
            let _guard = guard;
            asking.await
        }
    }

    /// Nothing is left, and stays so.
    fn assert_clean(&self, when: &str) {
        let reactor = &self.world.reactor;
        let is_clean = || {
            let stats = reactor.stats();
            let left = stats.connections + stats.attempts + stats.timers + stats.queued_bytes;
            left == 0 && reactor.tasks().is_empty() && self.alive.0.get() == 0
        };
        let deadline = self.world.now() + Duration::from_secs(5);
        while !is_clean() {
            self.world.turn(Duration::from_millis(1));
            let (stats, tasks) = (reactor.stats(), reactor.tasks());
            assert!(self.world.now() < deadline, "left when {when}: {stats} {tasks:?}");
        }
        self.world.turns(2);
        let before = reactor.stats();
        self.world.turns(3);
        let after = reactor.stats();
        assert_eq!((after.hooks, after.panics), (before.hooks, 0), "something is heard of it when {when}");
    }
}

contract! {
    // Lines 51, 73, and 75.
    fn cancelled_at_any_pass_nothing_is_left(driver) {
        let stage = Stage::new(driver);
        let mut reached = [false; 6];
        for passes in 0.. {
            let steps = Rc::new(Cell::new(0));
            let task = stage.world.reactor.spawn(stage.ask(&steps));
            for _ in 0..passes {
                stage.world.turn(Duration::from_millis(1));
            }
            reached[steps.get()] = true;
            let is_over = task.is_finished();
            assert_eq!(task.cancel(), !is_over);
            let heard = Rc::new(RefCell::new(None));
            let place = Rc::clone(&heard);
            task.on_done(move |_, outcome| *place.borrow_mut() = Some(outcome));
            let seen = steps.get();
            stage.assert_clean(&format!("cancelled after {passes} passes"));
            let outcome = heard.take().expect("the outcome is told");
            if is_over {
                outcome.unwrap().unwrap();
                break;
            }
            // Cancelled where it waits, it does not go on.
            assert_eq!(outcome.unwrap_err(), twistor::Interruption::Cancelled);
            assert_eq!(steps.get(), seen);
            assert!(passes < 2000, "it never ends");
        }
        assert!(reached[0] && reached[1] && reached[2] && reached[5], "{reached:?}");
    }
}

/// The same by the clock, as whoever waits for a task gives it up: in steps shorter than anything takes.
// Lines 51, 73, and 75.
#[test]
fn given_up_at_any_time_nothing_is_left() {
    let stage = Stage::new(Driver::Simulated);
    for step in 0.. {
        let patience = Duration::from_micros(25) * step;
        let steps = Rc::new(Cell::new(0));
        let asking = stage.ask(&steps);
        let outcome = Rc::new(RefCell::new(None));
        let place = Rc::clone(&outcome);
        stage
            .world
            .reactor
            .spawn(async move {
                let timed = task::timeout(patience, asking).await;
                *place.borrow_mut() = Some(timed.is_ok());
            })
            .detach();
        stage.assert_clean(&format!("given up after {patience:?}"));
        if outcome.take().expect("the task has ended") {
            assert!(step > 10, "the steps are too long");
            return;
        }
        assert!(step < 4000, "it never ends");
    }
}
