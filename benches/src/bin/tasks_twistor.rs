//! Tasks on `twistor`, as its users spawn them.

use std::future::Future;
use std::io;

use twistor::{Handle, Reactor, Task};
use twistor_benches::tasks::{self, Spawn};

#[derive(Clone)]
struct Twistor(Handle);

impl Spawn for Twistor {
    type Task = Task<u64>;

    fn spawn(&self, future: impl Future<Output = u64> + 'static) -> Self::Task {
        self.0.spawn(future)
    }

    fn detach(&self, future: impl Future<Output = u64> + 'static) {
        drop(self.0.spawn(future));
    }
}

fn main() -> io::Result<()> {
    let reactor = Reactor::new()?;
    let handle = Handle::clone(&reactor);
    drop(reactor.spawn(async move {
        tasks::main(Twistor(handle.clone())).await;
        handle.stop();
    }));
    reactor.run()
}
