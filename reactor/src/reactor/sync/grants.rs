//! Handing out, one after the other, without recursion.
//!
//! An outcome that nobody takes is dropped where it is handed out, and a permit that is dropped is handed to
//! the next: for a million waiters that are gone this would be a million calls deep. So whoever hands out
//! does it in a loop, and whatever comes back meanwhile is seen by that loop.

use std::cell::Cell;

/// Whether somebody is handing out.
#[derive(Default)]
pub(super) struct Grants(Cell<bool>);

impl Grants {
    /// Calls `next` until it has nothing more to hand out, unless that is being done further up the stack.
    /// `next` takes one decision and delivers it, with nothing borrowed.
    pub(super) fn run(&self, mut next: impl FnMut() -> bool) {
        if self.0.replace(true) {
            return;
        }
        let _done = Done(&self.0);
        while next() {}
    }
}

struct Done<'g>(&'g Cell<bool>);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}
