//! The end of a chain: a hook that hears the outcome.

use std::cell::Cell;
use std::panic::Location;
use std::rc::Rc;

use super::node::{Next, Node, Runnable};
use crate::core::slots::Token;
use crate::reactor::handle::Handle;
use crate::reactor::inner::Inner;
use crate::reactor::watchdog;

/// A hook that waits for an outcome.
pub(super) struct Hook<T, E, F> {
    made_at: &'static Location<'static>,
    state: Cell<State<T, E, F>>,
}

enum State<T, E, F> {
    Waiting(F),
    Due(F, Result<T, E>),
    Over,
}

impl<T, E, F> Hook<T, E, F> {
    pub(super) fn new(made_at: &'static Location<'static>, hook: F) -> Self {
        Self { made_at, state: Cell::new(State::Waiting(hook)) }
    }
}

impl<T, E, F> Node for Hook<T, E, F> {}

impl<T: 'static, E: 'static, F: FnOnce(&Handle, Result<T, E>) + 'static> Next<T, E> for Hook<T, E, F> {
    fn accept(self: Rc<Self>, outcome: Result<T, E>) -> Rc<dyn Runnable> {
        if let State::Waiting(hook) = self.state.replace(State::Over) {
            self.state.set(State::Due(hook, outcome));
        }
        self
    }
}

impl<T: 'static, E: 'static, F: FnOnce(&Handle, Result<T, E>) + 'static> Runnable for Hook<T, E, F> {
    fn run(self: Rc<Self>, inner: &Inner) -> Option<Rc<dyn Runnable>> {
        if let State::Due(hook, outcome) = self.state.replace(State::Over) {
            inner.contain(format_args!("a callback queued at {}", self.made_at), || {
                hook(&inner.handle, outcome);
            });
            inner.hook_ran(Token::NOBODY, watchdog::Hook::Callback);
        }
        None
    }

    fn forget(self: Rc<Self>, inner: &Inner) -> Option<Rc<dyn Runnable>> {
        let state = self.state.replace(State::Over);
        inner.discard(state);
        None
    }
}
