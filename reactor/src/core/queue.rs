//! The callback queue: first in, first out, with cancellation in constant time.
//!
//! Entries are numbered in the order they were queued; the number finds the entry again as an offset from the
//! front. A cancelled entry leaves a hole that is skipped.
//!
//! A burst leaves memory for some thousands of entries; the rest is given back once the queue is empty.

use std::collections::VecDeque;

/// Memory for more entries than this is given back. Large enough that growing again costs little beside what
/// so many entries do. Small under Miri, whose time is dear.
const KEPT: usize = if cfg!(miri) { 64 } else { 16 * 1024 };

/// Names one queued entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ticket(u64);

/// The queue.
pub(crate) struct Queue<T> {
    entries: VecDeque<Option<T>>,
    /// The number of the entry at the front.
    front: u64,
    live: usize,
}

impl<T> Queue<T> {
    pub(crate) const fn new() -> Self {
        Self { entries: VecDeque::new(), front: 0, live: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// The number that the next entry will get: entries below it were there before.
    pub(crate) fn end(&self) -> u64 {
        self.front + self.entries.len() as u64
    }

    pub(crate) fn push(&mut self, value: T) -> Ticket {
        let ticket = Ticket(self.end());
        self.entries.push_back(Some(value));
        self.live += 1;
        ticket
    }

    /// Takes the first entry numbered below `end`.
    pub(crate) fn pop_before(&mut self, end: u64) -> Option<T> {
        while self.front < end
            && let Some(entry) = self.entries.pop_front()
        {
            self.front += 1;
            if let Some(value) = entry {
                self.live -= 1;
                return Some(value);
            }
        }
        if self.entries.capacity() > KEPT {
            self.give_back();
        }
        None
    }

    #[cold]
    fn give_back(&mut self) {
        if self.entries.is_empty() {
            self.entries.shrink_to(KEPT);
        }
    }

    /// Takes a queued entry out; `None` when it ran or was cancelled before.
    pub(crate) fn cancel(&mut self, ticket: Ticket) -> Option<T> {
        let value = self.position(ticket).and_then(|at| self.entries.get_mut(at)?.take())?;
        self.live -= 1;
        Some(value)
    }

    pub(crate) fn contains(&self, ticket: Ticket) -> bool {
        self.position(ticket).is_some_and(|at| matches!(self.entries.get(at), Some(Some(_))))
    }

    /// Takes everything, in order.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        let end = self.end();
        std::iter::from_fn(|| self.pop_before(end)).collect()
    }

    fn position(&self, ticket: Ticket) -> Option<usize> {
        ticket.0.checked_sub(self.front).map(|offset| offset as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_leave_in_the_order_they_came() {
        let mut queue = Queue::new();
        for n in 0..3 {
            queue.push(n);
        }
        assert_eq!(queue.drain(), [0, 1, 2]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_cancelled_entry_is_skipped_and_cancelling_twice_is_ordinary() {
        let mut queue = Queue::new();
        let tickets: Vec<_> = (0..4).map(|n| queue.push(n)).collect();
        assert_eq!(queue.cancel(tickets[1]), Some(1));
        assert_eq!(queue.cancel(tickets[1]), None);
        assert!(queue.contains(tickets[2]) && !queue.contains(tickets[1]));
        assert_eq!(queue.drain(), [0, 2, 3]);
        assert_eq!(queue.cancel(tickets[0]), None);
    }

    #[test]
    fn what_is_queued_while_running_waits_for_the_next_round() {
        let mut queue = Queue::new();
        queue.push(0);
        queue.push(1);
        let end = queue.end();
        let mut ran = Vec::new();
        while let Some(n) = queue.pop_before(end) {
            ran.push(n);
            queue.push(n + 10);
        }
        assert_eq!(ran, [0, 1]);
        assert_eq!(queue.drain(), [10, 11]);
    }

    #[test]
    fn the_memory_of_a_burst_is_given_back_and_that_of_ordinary_use_is_kept() {
        let mut queue = Queue::new();
        for n in 0..KEPT {
            queue.push(n);
        }
        let ordinary = queue.entries.capacity();
        queue.drain();
        assert_eq!(queue.entries.capacity(), ordinary);
        for n in 0..3 * KEPT {
            queue.push(n);
        }
        let end = queue.end();
        let late = queue.push(0);
        while queue.pop_before(end).is_some() {}
        assert!(queue.entries.capacity() > 3 * KEPT, "it is not empty yet");
        assert_eq!(queue.cancel(late), Some(0));
        assert_eq!(queue.pop_before(queue.end()), None);
        assert_eq!(queue.entries.capacity(), KEPT);
        assert_eq!(queue.push(0), Ticket(4 * KEPT as u64 + 1), "numbers go on");
    }
}
