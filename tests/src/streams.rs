//! Streams for tasks, and tasks that use them.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::rc::Rc;

use twistor::{Stream, StreamProtocol};

use crate::{Buffers, Peer, World};

/// Runs a task to its end, which `what` says.
///
/// # Panics
///
/// It does not end.
pub fn run<T: 'static>(world: &World, what: &str, future: impl Future<Output = T> + 'static) -> T {
    let started = start(world, future);
    world.until(what, || started.borrow().is_some());
    started.take().expect("it has ended")
}

/// Starts a task, whose output comes into the cell.
pub fn start<T: 'static>(world: &World, future: impl Future<Output = T> + 'static) -> Rc<RefCell<Option<T>>> {
    let output = Rc::new(RefCell::new(None));
    let place = Rc::clone(&output);
    world.reactor.spawn(async move {
        let value = future.await;
        *place.borrow_mut() = Some(value);
    });
    output
}

/// A stream and its peer.
///
/// # Panics
///
/// They do not come together.
#[must_use]
pub fn pair(world: &World) -> (Stream, Peer<'_>) {
    pair_with(world, Buffers::default())
}

/// The same, with buffers of these sizes.
///
/// # Panics
///
/// They do not come together.
#[must_use]
pub fn pair_with(world: &World, buffers: Buffers) -> (Stream, Peer<'_>) {
    let made = Rc::new(RefCell::new(None));
    let place = Rc::clone(&made);
    let port = world.listen_with(buffers, move |_| {
        let place = Rc::clone(&place);
        StreamProtocol::new(move |stream| *place.borrow_mut() = Some(stream))
    });
    let address = port.local_addr().socket_addr().expect("a TCP port");
    let peer = Peer::connect_with(world, address, buffers);
    world.until("there is a stream", || made.borrow().is_some());
    let stream = made.take().expect("it is there");
    (stream, peer)
}

/// The kind of an error.
///
/// # Panics
///
/// It is none.
pub fn kind<T: std::fmt::Debug>(outcome: io::Result<T>) -> ErrorKind {
    outcome.expect_err("an error").kind()
}
