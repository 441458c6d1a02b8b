//! Tasks on `tokio`: `spawn_local` on a current-thread runtime with its I/O and timers.

use std::future::Future;
use std::io;

use tokio::task::{JoinHandle, LocalSet, spawn_local};
use twistor_benches::tasks::{self, Spawn};

#[derive(Clone)]
struct Tokio;

impl Spawn for Tokio {
    type Task = JoinHandle<u64>;

    fn spawn(&self, future: impl Future<Output = u64> + 'static) -> Self::Task {
        spawn_local(future)
    }

    fn detach(&self, future: impl Future<Output = u64> + 'static) {
        drop(spawn_local(future));
    }
}

fn main() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let root = LocalSet::new().block_on(&runtime, async { spawn_local(tasks::main(Tokio)).await });
    root.map_err(io::Error::other)
}
