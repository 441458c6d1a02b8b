//! Tasks on the executor of `smol`: `LocalExecutor`. Unlike the others it has no I/O: when it has nothing to do, its
//! thread is parked.

use std::future::Future;
use std::rc::Rc;

use async_executor::{LocalExecutor, Task};
use futures_lite::future::block_on;
use twistor_benches::tasks::{self, Spawn};

#[derive(Clone)]
struct Smol(Rc<LocalExecutor<'static>>);

impl Spawn for Smol {
    type Task = Task<u64>;

    fn spawn(&self, future: impl Future<Output = u64> + 'static) -> Self::Task {
        self.0.spawn(future)
    }

    fn detach(&self, future: impl Future<Output = u64> + 'static) {
        self.0.spawn(future).detach();
    }
}

fn main() {
    let executor = Rc::new(LocalExecutor::new());
    let root = executor.spawn(tasks::main(Smol(Rc::clone(&executor))));
    block_on(executor.run(root));
}
