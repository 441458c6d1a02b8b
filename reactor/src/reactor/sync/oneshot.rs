//! [`oneshot`]: one value, from one who has it to one who waits for it.

use std::fmt;

use crate::core::interruption::Interruption;
use crate::reactor::deferred::{Deferred, Resolver};
use crate::reactor::handle::Handle;

/// A channel for one value on this loop.
///
/// It is [`Deferred::new`] for a value that cannot fail to be, and the value comes back if nobody wants it
/// any more. Dropping the sender unused makes the outcome [`Interruption::Dropped`].
///
/// ```
/// use twistor::Reactor;
/// use twistor::sync::oneshot;
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// let (sender, answer) = oneshot(&reactor);
/// answer.on_done(|reactor, answer| {
///     assert_eq!(answer, Ok(42));
///     reactor.stop();
/// });
/// sender.send(42).expect("somebody waits for it");
///
/// let (sender, answer) = oneshot(&reactor);
/// drop(answer);
/// assert_eq!(sender.send("lost"), Err("lost"));
/// reactor.run()
/// # }
/// ```
#[track_caller]
pub fn oneshot<T: 'static>(handle: &Handle) -> (OneshotSender<T>, Deferred<T, Interruption>) {
    let (resolver, deferred) = Deferred::new(handle);
    (OneshotSender { resolver }, deferred)
}

/// The sending end of a [`oneshot`].
pub struct OneshotSender<T: 'static> {
    resolver: Resolver<T, Interruption>,
}

impl<T: 'static> OneshotSender<T> {
    /// Sends the value.
    ///
    /// # Errors
    ///
    /// Nobody wants it: the Deferred was cancelled, or dropped without a hook. The value comes back.
    pub fn send(self, value: T) -> Result<(), T> {
        if !self.is_wanted() {
            return Err(value);
        }
        self.resolver.resolve(Ok(value));
        Ok(())
    }

    /// Whether somebody waits for the value, or still may.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.resolver.is_wanted()
    }
}

impl<T> fmt::Debug for OneshotSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OneshotSender").field("is_wanted", &self.is_wanted()).finish()
    }
}
