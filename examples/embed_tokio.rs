//! A reactor inside tokio: a task of its single-threaded runtime.
//!
//! Run it:      cargo run --example embed_tokio --features hosts
//! Elsewhere:   cargo run --example embed_tokio --features hosts -- tcp:9000:interface=127.0.0.1
//! Talk to it:  nc 127.0.0.1 8000; and type timer, stats or quit
//!
//! What it shows: `AsyncFd` around the reactor's descriptor. Tokio hears of it edge-triggered: once, when it becomes
//! readable. So its word is not enough after a turn that left something over; the task asks the descriptor itself, and
//! lets tokio forget the readiness only when there is none. What other tasks schedule between two turns is not seen in
//! the descriptor: the wake hook tells the task.

#[cfg(unix)]
mod host {
    use std::io::{self, ErrorKind};
    use std::os::fd::{AsFd, BorrowedFd};
    use std::rc::Rc;
    use std::sync::Arc;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;
    use tokio::sync::{Notify, mpsc};
    use tokio::task::{LocalSet, spawn_local, yield_now};
    use tokio::time::{Instant, sleep_until};
    use twistor::Reactor;
    use twistor_examples::{Failure, arguments, guest, init_logging};

    /// Fails with `WouldBlock` if the descriptor is not readable now.
    fn is_readable(descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let mut sources = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
        match poll(&mut sources, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? {
            0 => Err(ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    }

    /// The task that the reactor lives in; ends when the reactor has stopped.
    async fn drive(reactor: Rc<Reactor>, wake: Arc<Notify>) -> io::Result<()> {
        #[allow(
            deprecated,
            reason = "its successor is unsafe: it wants a descriptor that stays open, as this borrow does"
        )]
        let descriptor = AsyncFd::with_interest(reactor.as_fd(), Interest::READABLE)?;
        while reactor.turn(Some(Duration::ZERO))? {
            // The turn may have been a long one: other tasks are next, also when this one is ready again.
            yield_now().await;
            let until = reactor.next_deadline().map(Instant::from_std);
            let deadline = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let readable = async {
                loop {
                    let mut guard = descriptor.readable().await?;
                    if let Ok(answer) = guard.try_io(|descriptor| is_readable(*descriptor.get_ref())) {
                        return answer;
                    }
                }
            };
            tokio::select! {
                outcome = readable => outcome?,
                () = deadline => {}
                () = wake.notified() => {}
            }
        }
        Ok(())
    }

    pub(crate) fn main() -> Result<(), Failure> {
        let [endpoint] = arguments("embed_tokio", guest::COMMANDS, [("ENDPOINT", Some("tcp:8000"))]);
        init_logging();

        let wake = Arc::new(Notify::new());
        let waking = Arc::clone(&wake);
        let reactor = Rc::new(Reactor::builder().wake_hook(move || waking.notify_one()).build()?);
        guest::serve(&reactor, "embed_tokio", &endpoint)?;

        let (sender, mut typed) = mpsc::unbounded_channel();
        guest::each_typed_line(move |line| sender.send(line).is_ok());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        runtime.block_on(LocalSet::new().run_until(async {
            let commanded = Rc::clone(&reactor);
            // Another task of the same thread: it uses the reactor directly.
            spawn_local(async move {
                while let Some(line) = typed.recv().await {
                    guest::command(&commanded, &line);
                }
            });
            drive(Rc::clone(&reactor), wake).await
        }))?;
        println!("embed_tokio: {}", reactor.stats());
        Ok(())
    }
}

#[cfg(unix)]
use host::main;

#[cfg(not(unix))]
fn main() {
    eprintln!("embed_tokio: a reactor has no descriptor on this system");
}
