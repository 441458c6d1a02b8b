//! What has to end with the reactor although it belongs to the user.
//!
//! A hook that waits for an event may hold the event, and the event holds the hook. Nobody but the reactor
//! can untie that, so it knows of everything that holds hooks.

use std::rc::{Rc, Weak};

use crate::core::pruned;
use crate::reactor::inner::Inner;

/// Something that holds users' hooks.
pub(crate) trait Ending {
    /// Lets go of them. What is left can be used, but the reactor will not call.
    fn end(&self, inner: &Inner);
}

/// All that are alive, and some that were.
#[derive(Default)]
pub(crate) struct Endings(Vec<Weak<dyn Ending>>);

impl Endings {
    /// Adds one, in amortised constant time.
    pub(crate) fn add(&mut self, one: &Rc<impl Ending + 'static>) {
        let one: Rc<dyn Ending> = one.clone();
        pruned::push(&mut self.0, Rc::downgrade(&one), |one| one.strong_count() > 0);
    }

    /// Those that are alive.
    pub(crate) fn alive(&self) -> Vec<Rc<dyn Ending>> {
        self.0.iter().filter_map(Weak::upgrade).collect()
    }
}

impl Inner {
    /// Ends all of them that are alive, with nothing borrowed.
    pub(crate) fn end_all(&self) {
        let endings = self.endings.borrow().alive();
        for one in endings {
            one.end(self);
            self.discard(one);
        }
    }
}
