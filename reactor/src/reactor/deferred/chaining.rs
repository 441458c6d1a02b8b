//! Links: `map`, `and_then`, `or_else` and the others.

use std::panic::Location;

use super::link::{Outcome, Split, link};
use super::{Deferred, Failure};
use crate::reactor::handle::Handle;

/// Chaining. Each of these makes one link: the loop calls its closure when the outcome before it is there,
/// and what the closure returns is the outcome of the Deferred that comes out. A closure that returns a
/// Deferred has the links after it wait for that one. One that panics fails with
/// [`Panicked`](crate::Interruption::Panicked); it is logged.
///
/// ```
/// use twistor::{Deferred, Reactor};
///
/// # fn main() -> std::io::Result<()> {
/// let reactor = Reactor::new()?;
/// let (resolver, line) = Deferred::<&str, String>::new(&reactor);
/// line.map(|line| line.len())
///     .and_then(|reactor, length| {
///         let (resolver, later) = Deferred::<usize, String>::new(reactor);
///         reactor.call_soon(move |_| { resolver.callback(length * 2); });
///         later
///     })
///     .and_then(|_, length| if length > 5 { Err(format!("{length} is too long")) } else { Ok(length) })
///     .or_else(|_, error| if error.ends_with("too long") { Ok(0) } else { Err(error) })
///     .on_done(|reactor, outcome| {
///         assert_eq!(outcome, Ok(0));
///         reactor.stop();
///     });
/// resolver.callback("four");
/// reactor.run()
/// # }
/// ```
impl<T: 'static, E: 'static> Deferred<T, E> {
    /// Makes another value of the value. An error passes by.
    #[track_caller]
    pub fn map<U: 'static>(self, f: impl FnOnce(T) -> U + 'static) -> Deferred<U, E>
    where
        E: Failure,
    {
        link(self, Location::caller(), move |_, outcome| Split::Now(outcome.map(f)))
    }

    /// Makes another error of the error. A value passes by.
    #[track_caller]
    pub fn map_err<G: Failure>(self, f: impl FnOnce(E) -> G + 'static) -> Deferred<T, G> {
        link(self, Location::caller(), move |_, outcome| Split::Now(outcome.map_err(f)))
    }

    /// Goes on with the value: to a `Result`, or to another Deferred, which is waited for. An error passes
    /// by.
    #[track_caller]
    pub fn and_then<R>(self, f: impl FnOnce(&Handle, T) -> R + 'static) -> Deferred<R::Value, E>
    where
        R: Outcome<Error = E>,
        R::Value: 'static,
        E: Failure,
    {
        link(self, Location::caller(), move |handle, outcome| match outcome {
            Ok(value) => f(handle, value).split(),
            Err(error) => Split::Now(Err(error)),
        })
    }

    /// Goes on with the error: to a `Result`, or to another Deferred, which is waited for. A value passes by.
    #[track_caller]
    pub fn or_else<R>(self, f: impl FnOnce(&Handle, E) -> R + 'static) -> Deferred<T, R::Error>
    where
        R: Outcome<Value = T>,
        R::Error: Failure,
    {
        link(self, Location::caller(), move |handle, outcome| match outcome {
            Ok(value) => Split::Now(Ok(value)),
            Err(error) => f(handle, error).split(),
        })
    }

    /// Goes on in any case, with either: to a `Result`, or to another Deferred, which is waited for.
    #[track_caller]
    pub fn then<R>(self, f: impl FnOnce(&Handle, Result<T, E>) -> R + 'static) -> Deferred<R::Value, R::Error>
    where
        R: Outcome,
        R::Value: 'static,
        R::Error: Failure,
    {
        link(self, Location::caller(), move |handle, outcome| f(handle, outcome).split())
    }
}
