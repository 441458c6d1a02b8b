//! Deferreds that only the reactor can bring to an end when it is dropped.
//!
//! Whoever will decide a chain owns it, so that a chain goes with its resolver. That fails where what owns
//! goes round in a circle: a closure in the chain owns its resolver, or links wait for each other. Every such
//! circle has one of two nodes in it: an origin that holds a user's closures, its canceller or those of the
//! nodes that wait for it; or a link whose closure has returned another link. Those are listed from then on
//! until they are decided or dropped.

use std::rc::{Rc, Weak};

use crate::core::slots::{Slots, Token};
use crate::reactor::endings::Ending;
use crate::reactor::handle::Handle;
use crate::reactor::inner::Inner;

/// Those of one reactor.
#[derive(Default)]
pub(crate) struct Undecided(Slots<Weak<dyn Ending>>);

/// Lists a node. What is returned takes it off the list; it is [`NOBODY`](Token::NOBODY) if there is no list
/// any more.
pub(super) fn list(handle: &Handle, node: &Rc<impl Ending + 'static>) -> Token {
    let Some(inner) = handle.inner() else { return Token::NOBODY };
    let node: Rc<dyn Ending> = node.clone();
    let listed = inner.undecided.borrow_mut().0.insert(Rc::downgrade(&node));
    listed.unwrap_or(Token::NOBODY)
}

/// Takes a node off the list.
pub(super) fn unlist(handle: &Handle, listed: Token) {
    if listed != Token::NOBODY
        && let Some(inner) = handle.inner()
    {
        inner.undecided.borrow_mut().0.remove(listed);
    }
}

impl Inner {
    /// Ends all that are listed, and with them who waits for them, calling no hook. False when there were
    /// none.
    pub(crate) fn end_undecided(&self) -> bool {
        let listed = self.undecided.borrow().0.tokens();
        for &token in &listed {
            let node = self.undecided.borrow_mut().0.remove(token);
            if let Some(node) = node.and_then(|node| node.upgrade()) {
                self.contain("a destructor", || node.end(self));
                self.discard(node);
            }
        }
        !listed.is_empty()
    }
}
