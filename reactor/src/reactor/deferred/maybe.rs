//! [`MaybeDeferred`]: what a hook may return that can take its time.

use std::error::Error;

use super::Deferred;
use crate::reactor::handle::Handle;

/// What a hook may return that can take its time: `()`, or a [`Deferred`] that is waited for.
pub trait MaybeDeferred {
    /// Calls `done` when it is over: at once for `()`.
    #[doc(hidden)]
    fn when_done(self, done: impl FnOnce(&Handle, Result<(), Box<dyn Error>>) + 'static)
    -> Option<Completed>;
}

/// Says that there is nothing to wait for.
#[doc(hidden)]
#[derive(Debug)]
pub struct Completed;

impl MaybeDeferred for () {
    fn when_done(self, _: impl FnOnce(&Handle, Result<(), Box<dyn Error>>) + 'static) -> Option<Completed> {
        Some(Completed)
    }
}

impl<E: Into<Box<dyn Error>> + 'static> MaybeDeferred for Deferred<(), E> {
    fn when_done(
        self,
        done: impl FnOnce(&Handle, Result<(), Box<dyn Error>>) + 'static,
    ) -> Option<Completed> {
        self.on_done(move |handle, outcome| done(handle, outcome.map_err(Into::into)));
        None
    }
}
