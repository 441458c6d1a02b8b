//! What has to end with the reactor although it belongs to the user.
//!
//! A hook that waits for an event may hold the event, and the event holds the hook. Nobody but the reactor
//! can untie that, so it knows of everything that holds hooks.

use std::rc::{Rc, Weak};

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
        if self.0.len() == self.0.capacity() {
            self.0.retain(|one| one.strong_count() > 0);
            // Half of it is free from here on, or the next look over all would come too soon.
            self.0.reserve(self.0.len() + 4);
        }
        let one: Rc<dyn Ending> = one.clone();
        self.0.push(Rc::downgrade(&one));
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
