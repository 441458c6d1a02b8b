//! An event of one's own that tasks wait for: a latch, which opens once enough clients have come, or time is up.
//!
//! Run it:      cargo run --release --example custom_event
//! Elsewhere:   cargo run --release --example custom_event -- tcp:9000 3 60
//! Talk to it:  nc 127.0.0.1 8000, in two terminals. Both are told to go at the same moment; type an answer.
//!
//! What it shows: a future by hand, a few lines of it. Whoever awaits the latch leaves its waker there; whoever opens
//! it, be it a timer's callback or the task of a connection, wakes them all. Ctrl-C ends it.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use twistor::{Reactor, Stream};
use twistor_examples::{Failure, arguments, init_logging};

/// Opens when it was counted down to nothing, and stays open. Clones are the same latch.
#[derive(Clone)]
struct Latch(Rc<RefCell<State>>);

struct State {
    left: usize,
    /// Of those who wait.
    wakers: Vec<Waker>,
}

impl Latch {
    fn new(count: usize) -> Self {
        Self(Rc::new(RefCell::new(State { left: count, wakers: Vec::new() })))
    }

    /// Returns how many are still missing.
    fn count_down(&self) -> usize {
        let left = self.0.borrow().left.saturating_sub(1);
        if left == 0 {
            self.open();
        } else {
            self.0.borrow_mut().left = left;
        }
        left
    }

    fn open(&self) {
        let wakers = {
            let mut state = self.0.borrow_mut();
            state.left = 0;
            std::mem::take(&mut state.wakers)
        };
        // With nothing borrowed: a waker is somebody else's code.
        wakers.into_iter().for_each(Waker::wake);
    }

    fn opened(&self) -> Opened {
        Opened { latch: self.clone(), place: None }
    }
}

/// Ready when the latch is open.
struct Opened {
    latch: Latch,
    /// Where its waker is, once it waits.
    place: Option<usize>,
}

impl Future for Opened {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let latch = self.latch.clone();
        let mut state = latch.0.borrow_mut();
        if state.left == 0 {
            return Poll::Ready(());
        }
        match self.place {
            // Polled again: by another task, perhaps, which is the one to wake now.
            Some(place) => state.wakers[place].clone_from(context.waker()),
            None => {
                self.place = Some(state.wakers.len());
                state.wakers.push(context.waker().clone());
            }
        }
        Poll::Pending
    }
}

/// Has the client wait for the others, and prints what it answers.
async fn play(stream: Stream, latch: Latch) -> io::Result<()> {
    let left = latch.count_down();
    if left > 0 {
        stream.write_all(format!("waiting for {left} more\r\n").as_bytes()).await?;
    }
    latch.opened().await;
    stream.write_all(b"go!\r\n").await?;
    if let Some(answer) = stream.read_line(200).await? {
        println!("{} answers: {answer}", stream.peer_addr());
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let [endpoint, clients, seconds] = arguments(
        "custom_event",
        "Has clients wait until enough of them have come, or time is up.",
        [("ENDPOINT", Some("tcp:8000")), ("CLIENTS", Some("2")), ("SECONDS", Some("30"))],
    );
    init_logging();

    let reactor = Reactor::new()?;
    let latch = Latch::new(clients.parse()?);
    let players = latch.clone();
    let port = reactor.serve(endpoint, async move |stream: Stream| play(stream, players.clone()).await)?;
    println!("custom_event: listening on {}", port.local_addr());

    let opens = latch.clone();
    reactor.call_later(Duration::from_secs(seconds.parse()?), move |_| opens.open());
    reactor.spawn(async move {
        latch.opened().await;
        println!("the latch is open");
    });
    reactor.run()?;
    Ok(())
}
