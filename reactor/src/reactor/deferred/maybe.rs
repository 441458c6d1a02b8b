//! [`MaybeDeferred`]: what a hook may return that can take its time.

use std::error::Error;

use super::Deferred;
use crate::reactor::handle::Handle;

/// What a hook may return that can take its time: `()`, a `Result`, or a [`Deferred`] that is waited for.
pub trait MaybeDeferred {
    /// Calls `done` when it is over: at once if there is nothing to wait for.
    #[doc(hidden)]
    fn when_done(self, done: impl Done) -> Option<Completed>;
}

/// What hears of the end.
#[doc(hidden)]
pub trait Done: FnOnce(&Handle, Result<(), Box<dyn Error>>) + 'static {}

impl<F: FnOnce(&Handle, Result<(), Box<dyn Error>>) + 'static> Done for F {}

/// Says that there is nothing to wait for.
#[doc(hidden)]
#[derive(Debug)]
pub struct Completed;

impl MaybeDeferred for () {
    fn when_done(self, _: impl Done) -> Option<Completed> {
        Some(Completed)
    }
}

impl<E: Into<Box<dyn Error>> + 'static> MaybeDeferred for Result<(), E> {
    fn when_done(self, done: impl Done) -> Option<Completed> {
        let Err(error) = self else { return Some(Completed) };
        // Heard from the loop, as an error that comes later.
        if let Some(handle) = Handle::current() {
            handle.call_soon(move |handle| done(handle, Err(error.into())));
        }
        None
    }
}

impl<E: Into<Box<dyn Error>> + 'static> MaybeDeferred for Deferred<(), E> {
    fn when_done(self, done: impl Done) -> Option<Completed> {
        self.on_done(move |handle, outcome| done(handle, outcome.map_err(Into::into)));
        None
    }
}
