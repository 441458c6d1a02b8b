//! Waiting for what a Deferred or a future comes to.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

use twistor::Deferred;

use crate::World;

/// Where an outcome will be.
pub type Outcome<T, E> = Rc<RefCell<Option<Result<T, E>>>>;

/// Has the outcome noted when it comes.
pub fn watch<T: 'static, E: 'static>(deferred: Deferred<T, E>) -> Outcome<T, E> {
    let slot = Outcome::default();
    let filled = Rc::clone(&slot);
    deferred.on_done(move |_, outcome| *filled.borrow_mut() = Some(outcome));
    slot
}

/// Turns the world until the outcome has come.
///
/// # Errors
///
/// The Deferred's.
///
/// # Panics
///
/// It does not come.
pub fn outcome<T: 'static, E: 'static>(world: &World, deferred: Deferred<T, E>) -> Result<T, E> {
    let slot = watch(deferred);
    world.until("the outcome comes", || slot.borrow().is_some());
    slot.take().expect("it came")
}

/// Runs a future as a task until it has ended.
///
/// # Panics
///
/// It does not end, or not by itself.
pub fn complete<T: 'static>(world: &World, future: impl Future<Output = T> + 'static) -> T {
    let place = Rc::new(RefCell::new(None));
    let noted = Rc::clone(&place);
    world.reactor.spawn(future).on_done(move |_, outcome| *noted.borrow_mut() = Some(outcome));
    world.until("the task ends", || place.borrow().is_some());
    place.take().expect("it is there").expect("it ended by itself")
}
