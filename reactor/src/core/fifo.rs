//! Who waits, first come first served, and may leave from anywhere in constant time.
//!
//! A doubly linked list in [`Slots`]: a token finds its entry, and an entry that leaves has its neighbours
//! take each other's hand. Nothing is left behind, so that a queue whose first entry waits for ever does not
//! grow by those who come and go behind it.

use crate::core::slots::{Slots, Token};

struct Node<T> {
    before: Token,
    after: Token,
    value: T,
}

/// The list.
pub(crate) struct Fifo<T> {
    nodes: Slots<Node<T>>,
    first: Token,
    last: Token,
}

impl<T> Fifo<T> {
    pub(crate) const fn new() -> Self {
        Self { nodes: Slots::new(), first: Token::NOBODY, last: Token::NOBODY }
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds an entry at the end.
    pub(crate) fn push(&mut self, value: T) -> Token {
        let node = Node { before: self.last, after: Token::NOBODY, value };
        let token = self.nodes.insert(node).expect("two thousand million entries do not fit the memory");
        match self.nodes.get_mut(self.last) {
            Some(last) => last.after = token,
            None => self.first = token,
        }
        self.last = token;
        token
    }

    /// The entry that has waited longest.
    pub(crate) fn front(&self) -> Option<&T> {
        self.nodes.get(self.first).map(|node| &node.value)
    }

    /// Takes the entry that has waited longest.
    pub(crate) fn pop(&mut self) -> Option<T> {
        self.remove(self.first)
    }

    /// Takes an entry from wherever it is; `None` when it has left.
    pub(crate) fn remove(&mut self, token: Token) -> Option<T> {
        let Node { before, after, value } = self.nodes.remove(token)?;
        match self.nodes.get_mut(before) {
            Some(node) => node.after = after,
            None => self.first = after,
        }
        match self.nodes.get_mut(after) {
            Some(node) => node.before = before,
            None => self.last = before,
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(fifo: &mut Fifo<u32>) -> Vec<u32> {
        std::iter::from_fn(|| fifo.pop()).collect()
    }

    #[test]
    fn entries_leave_in_the_order_they_came() {
        let mut fifo = Fifo::new();
        for n in 0..4 {
            fifo.push(n);
        }
        assert_eq!((fifo.len(), fifo.front()), (4, Some(&0)));
        assert_eq!(drain(&mut fifo), [0, 1, 2, 3]);
        assert!(fifo.is_empty() && fifo.front().is_none() && fifo.pop().is_none());
    }

    #[test]
    fn an_entry_leaves_from_anywhere_and_only_once() {
        for gone in 0..4 {
            let mut fifo = Fifo::new();
            let tokens: Vec<_> = (0..4).map(|n| fifo.push(n)).collect();
            assert_eq!(fifo.remove(tokens[gone as usize]), Some(gone));
            assert_eq!(fifo.remove(tokens[gone as usize]), None);
            fifo.push(4);
            let left: Vec<_> = (0..5).filter(|n| *n != gone).collect();
            assert_eq!(drain(&mut fifo), left);
            fifo.push(5);
            assert_eq!(fifo.remove(tokens[0]), None, "the token of an earlier tenant");
            assert_eq!(drain(&mut fifo), [5]);
        }
    }

    #[test]
    fn those_who_come_and_go_behind_one_that_waits_leave_nothing() {
        let mut fifo = Fifo::new();
        fifo.push(0);
        for n in 1..if cfg!(miri) { 500 } else { 10_000 } {
            let token = fifo.push(n);
            assert_eq!(fifo.remove(token), Some(n));
        }
        assert_eq!(fifo.nodes.iter().count(), 1);
        assert_eq!(fifo.push(1).index(), 1, "the second slot was used again and again");
    }
}
