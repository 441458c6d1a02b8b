//! [`Resolver`], and the node at the beginning of a chain that it decides.

use std::cell::Cell;
use std::fmt;
use std::panic::Location;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::node::{Cancel, Consumer, Node, Output, Runnable, Source, Step, discard, run_soon};
use super::undecided::{list, unlist};
use super::{Deferred, Failure};
use crate::core::interruption::Interruption;
use crate::core::slots::Token;
use crate::reactor::endings::Ending;
use crate::reactor::handle::Handle;
use crate::reactor::inner::Inner;
use crate::reactor::watchdog::Hook;

/// What `cancel` does.
enum Cancelling<T, E> {
    /// There is no canceller: the outcome is `Cancelled`.
    Plain,
    /// The crate's own, called at once. It says whether the outcome will be a cancelled one.
    Own(Box<dyn FnOnce() -> bool>),
    /// A user's, called from the loop.
    Hook(UserCanceller<T, E>),
    /// A user's, which is queued.
    Queued(UserCanceller<T, E>),
    /// The canceller was called, and the outcome is its affair.
    Called,
    /// The crate's own has refused, or is running.
    Spent,
    /// Nothing any more: it is decided. If nobody looks at the value, this takes it back.
    Return(Box<dyn FnOnce(T)>),
}

type UserCanceller<T, E> = Box<dyn FnOnce(&Handle, Resolver<T, E>)>;

/// The first node of a chain.
pub(super) struct Origin<T, E> {
    handle: Handle,
    made_at: &'static Location<'static>,
    cancelling: Cell<Cancelling<T, E>>,
    output: Output<T, E>,
    /// Names it in the list of those that the reactor has to end; `NOBODY` if it is not there.
    listed: Cell<Token>,
}

/// Who holds a resolver.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// What was started.
    Maker,
    /// The canceller: the other one is not heard any more.
    Canceller,
}

/// Where a resolver's decision goes to.
trait Decide<T, E> {
    fn decide(&self, role: Role, outcome: Result<T, E>) -> bool;

    fn dropped(&self, role: Role);

    fn is_wanted(&self, role: Role) -> bool;

    /// Whether there is an outcome that nobody has taken yet.
    fn is_unread(&self) -> bool;

    fn set_return(&self, give_back: Box<dyn FnOnce(T)>);

    fn set_canceller(&self, canceller: Box<dyn FnOnce() -> bool>);
}

impl<T: 'static, E: Failure> Origin<T, E> {
    /// A new one, which a resolver decides.
    pub(super) fn pair(
        handle: &Handle,
        made_at: &'static Location<'static>,
        canceller: Option<UserCanceller<T, E>>,
    ) -> (Resolver<T, E>, Deferred<T, E>) {
        let is_hooked = canceller.is_some();
        let cancelling = canceller.map_or(Cancelling::Plain, Cancelling::Hook);
        let origin = Rc::new(Self {
            handle: handle.clone(),
            made_at,
            cancelling: Cell::new(cancelling),
            output: Output::new(),
            listed: Cell::new(Token::NOBODY),
        });
        if is_hooked {
            origin.list();
        }
        (Resolver { origin: Some(origin.clone()), role: Role::Maker }, Deferred::of(origin))
    }

    /// One that is decided.
    pub(super) fn ready(
        handle: &Handle,
        made_at: &'static Location<'static>,
        outcome: Result<T, E>,
    ) -> Deferred<T, E> {
        let output = Output::fired(outcome);
        let cancelling = Cell::new(Cancelling::Spent);
        let listed = Cell::new(Token::NOBODY);
        Deferred::of(Rc::new(Self { handle: handle.clone(), made_at, cancelling, output, listed }))
    }

    /// It holds closures, which may own its resolver.
    fn list(self: &Rc<Self>) {
        if self.listed.get() == Token::NOBODY {
            self.listed.set(list(&self.handle, self));
        }
    }

    /// Whether somebody with that role is heard.
    fn hears(&self, role: Role) -> bool {
        let cancelling = self.cancelling.replace(Cancelling::Spent);
        let is_with_canceller = matches!(cancelling, Cancelling::Queued(_) | Cancelling::Called);
        self.cancelling.set(cancelling);
        self.output.is_pending() && is_with_canceller == (role == Role::Canceller)
    }

    fn fire(&self, outcome: Result<T, E>) {
        // Taken first and dropped last: a canceller is user data.
        let canceller = self.cancelling.replace(Cancelling::Spent);
        unlist(&self.handle, self.listed.replace(Token::NOBODY));
        run_soon(&self.handle, self.output.emit(outcome, &self.handle, self.made_at));
        discard(&self.handle, canceller);
    }
}

impl<T, E> Node for Origin<T, E> {}

impl<T: 'static, E: Failure> Ending for Origin<T, E> {
    fn end(&self, inner: &Inner) {
        self.listed.set(Token::NOBODY);
        let canceller = self.cancelling.replace(Cancelling::Spent);
        let why = match canceller {
            Cancelling::Queued(_) | Cancelling::Called => Interruption::Cancelled,
            _ => Interruption::Dropped,
        };
        self.output.end(why, inner, &self.handle, self.made_at);
        inner.discard(canceller);
    }
}

impl<T, E> Drop for Origin<T, E> {
    fn drop(&mut self) {
        unlist(&self.handle, self.listed.get());
    }
}

impl<T: 'static, E: Failure> Decide<T, E> for Origin<T, E> {
    fn decide(&self, role: Role, outcome: Result<T, E>) -> bool {
        let is_heard = self.hears(role);
        if is_heard {
            self.fire(outcome);
        } else {
            discard(&self.handle, outcome);
        }
        is_heard
    }

    fn dropped(&self, role: Role) {
        if !self.hears(role) {
            return;
        }
        match role {
            Role::Canceller => self.fire(Err(Interruption::Cancelled.into())),
            Role::Maker => {
                let is_end = self.handle.inner().is_some_and(|inner| inner.is_torn_down.get());
                if is_end || !self.output.is_wanted() {
                    // Nobody waits, or the tasks that do end as well: nothing has failed.
                    self.output.mark_cancelled(true);
                }
                self.fire(Err(Interruption::Dropped.into()));
            }
        }
    }

    fn is_wanted(&self, role: Role) -> bool {
        self.hears(role) && self.output.is_wanted()
    }

    fn is_unread(&self) -> bool {
        self.output.is_unread()
    }

    fn set_return(&self, give_back: Box<dyn FnOnce(T)>) {
        self.cancelling.set(Cancelling::Return(give_back));
    }

    fn set_canceller(&self, canceller: Box<dyn FnOnce() -> bool>) {
        let old = if self.output.is_pending() {
            self.cancelling.replace(Cancelling::Own(canceller))
        } else {
            Cancelling::Own(canceller)
        };
        drop(old);
    }
}

impl<T: 'static, E: Failure> Cancel for Origin<T, E> {
    fn cancel_step(self: Rc<Self>) -> Step {
        if !self.output.is_pending() {
            return Step::Over(false);
        }
        Step::Over(match self.cancelling.replace(Cancelling::Spent) {
            Cancelling::Plain => {
                self.fire(Err(Interruption::Cancelled.into()));
                true
            }
            Cancelling::Own(canceller) => canceller(),
            Cancelling::Hook(canceller) => {
                self.cancelling.set(Cancelling::Queued(canceller));
                run_soon(&self.handle, Some(self.clone()));
                true
            }
            refused @ (Cancelling::Queued(_)
            | Cancelling::Called
            | Cancelling::Spent
            | Cancelling::Return(_)) => {
                self.cancelling.set(refused);
                false
            }
        })
    }

    fn mark_cancelled(&self, is_cancelled: bool) -> bool {
        self.output.mark_cancelled(is_cancelled)
    }
}

impl<T: 'static, E: Failure> Source<T, E> for Origin<T, E> {
    fn attach(self: Rc<Self>, consumer: Consumer<T, E>) -> Option<Rc<dyn Runnable>> {
        let next = self.output.attach(consumer);
        if next.is_none() {
            self.list();
        }
        next
    }

    fn poll(&self, context: &Context<'_>) -> Poll<Result<T, E>> {
        self.output.poll(context)
    }

    fn abandon(&self) {
        match self.cancelling.replace(Cancelling::Spent) {
            Cancelling::Return(give_back) => {
                if let Some(value) = self.output.take_value() {
                    return give_back(value);
                }
            }
            other => self.cancelling.set(other),
        }
        self.output.abandon(&self.handle, self.made_at);
    }

    fn is_pending(&self) -> bool {
        self.output.is_pending()
    }

    fn handle(&self) -> &Handle {
        &self.handle
    }

    fn hush(&self) {
        self.output.hush();
    }

    fn on_cancel(&self, canceller: Box<dyn FnOnce() -> bool>) {
        self.set_canceller(canceller);
    }
}

/// Its canceller is due.
impl<T: 'static, E: Failure> Runnable for Origin<T, E> {
    fn run(self: Rc<Self>, inner: &Inner) -> Option<Rc<dyn Runnable>> {
        let before = self.cancelling.replace(Cancelling::Called);
        if let Cancelling::Queued(canceller) = before {
            // Dropped by a canceller that decides nothing, or that panics: then it was cancelled.
            let resolver = Resolver { origin: Some(self.clone()), role: Role::Canceller };
            inner.contain(format_args!("the canceller of a Deferred made at {}", self.made_at), || {
                canceller(&inner.handle, resolver);
            });
            inner.hook_ran(Token::NOBODY, Hook::Callback);
        }
        None
    }

    fn forget(self: Rc<Self>, inner: &Inner) -> Option<Rc<dyn Runnable>> {
        let canceller = self.cancelling.replace(Cancelling::Called);
        inner.discard(canceller);
        self.dropped(Role::Canceller);
        None
    }
}

/// The side that decides a [`Deferred`]. Dropped unused, it fails the Deferred with
/// [`Interruption::Dropped`].
pub struct Resolver<T, E> {
    /// `None` once it has decided.
    origin: Option<Rc<dyn Decide<T, E>>>,
    role: Role,
}

impl<T: 'static, E: 'static> Resolver<T, E> {
    /// Decides the outcome. False, with the outcome dropped, when it was decided before or cancelled.
    pub fn resolve(mut self, outcome: Result<T, E>) -> bool {
        let role = self.role;
        self.origin.take().is_some_and(|origin| origin.decide(role, outcome))
    }

    /// Decides it with a value. Returns what [`resolve`](Self::resolve) does.
    pub fn callback(self, value: T) -> bool {
        self.resolve(Ok(value))
    }

    /// Decides it with an error. Returns what [`resolve`](Self::resolve) does.
    pub fn errback(self, error: E) -> bool {
        self.resolve(Err(error))
    }

    /// Whether somebody still waits: it is neither decided nor cancelled, and the Deferred was not dropped.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.origin.as_ref().is_some_and(|origin| origin.is_wanted(self.role))
    }

    /// Decides it with a value that must not be lost: if the Deferred is dropped before anybody has taken the
    /// value, which may be now, `give_back` is called with it.
    pub(crate) fn resolve_or_return(mut self, value: T, give_back: impl FnOnce(T) + 'static) {
        let role = self.role;
        match self.origin.take() {
            Some(origin) if origin.is_wanted(role) => {
                origin.decide(role, Ok(value));
                if origin.is_unread() {
                    origin.set_return(Box::new(give_back));
                }
            }
            _ => give_back(value),
        }
    }

    /// What [`Deferred::cancel`] calls, at once; it returns whether the outcome will be a cancelled one.
    pub(crate) fn on_cancel(&self, canceller: impl FnOnce() -> bool + 'static) {
        if let Some(origin) = &self.origin {
            origin.set_canceller(Box::new(canceller));
        }
    }
}

impl<T, E> Drop for Resolver<T, E> {
    fn drop(&mut self) {
        if let Some(origin) = self.origin.take() {
            origin.dropped(self.role);
        }
    }
}

impl<T, E> fmt::Debug for Resolver<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}
