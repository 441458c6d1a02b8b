//! Synchronisation of what runs on one loop: locks, semaphores, queues, events and one-shot channels.
//!
//! Nothing here is for threads. Two callbacks never run at once, so plain state needs no lock; these are for
//! work that takes more than one callback, or an `.await` in the middle: a conversation that must not be
//! interleaved with another, at most so many requests under way, a producer that must not run ahead of its
//! consumer.
//!
//! Whatever may have to wait returns a [`Deferred`](crate::Deferred), so that it serves callbacks (`on_done`)
//! and tasks (`.await`) alike, and can be cancelled. What all of them promise:
//!
//! * **First come, first served.** Who asks while others wait, waits behind them, even if what it asks for is
//!   free.
//! * **Cancelling is exact.** A waiter that is cancelled leaves the queue at once, whatever its length, and
//!   takes nothing with it: no permit, no item and no wake-up is lost.
//! * **Nobody's share goes on.** What was handed to a Deferred that was dropped is handed to the next.
//! * **No hook is called from inside a call**; outcomes are delivered by the loop.
//! * When the reactor is gone, outcomes are [`Interruption::Dropped`](crate::Interruption::Dropped).
//!
//! ```
//! use std::time::Duration;
//! use twistor::Reactor;
//! use twistor::sync::Semaphore;
//!
//! # fn main() -> std::io::Result<()> {
//! let reactor = Reactor::new()?;
//! let at_once = Semaphore::new(&reactor, 2);
//! for job in 0..5 {
//!     at_once.acquire().on_done(move |reactor, permit| {
//!         println!("job {job} begins");
//!         // Two jobs run at any time: the permit comes back when the closure that holds it is done.
//!         reactor.call_later(Duration::from_millis(1), move |_| drop(permit));
//!     });
//! }
//! reactor.run_until_idle()?;
//! assert_eq!(at_once.available(), 2);
//! # Ok(())
//! # }
//! ```

mod event;
mod grants;
mod lock;
mod oneshot;
mod queue;
mod semaphore;

pub use event::Event;
pub use lock::{Lock, LockGuard};
pub use oneshot::{OneshotSender, oneshot};
pub use queue::{GetError, PutError, Queue};
pub use semaphore::{Permit, Semaphore};
