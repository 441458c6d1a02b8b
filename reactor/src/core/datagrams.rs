//! Datagrams on their way out: a first-in-first-out queue that keeps boundaries and addresses.
//!
//! The bytes of all of them stand in one buffer, so that queueing one allocates nothing once the buffer has
//! grown. Invariant: the lengths of `entries` add up to what stands in `bytes` from `start` on.

use std::collections::VecDeque;

/// Memory that a drained queue keeps for the next datagrams.
const KEPT: usize = 64 * 1024;

struct Entry<A> {
    /// `None`: to whom the socket is connected.
    to: Option<A>,
    len: usize,
}

/// The queue. `A` is an address.
pub(crate) struct DatagramQueue<A> {
    bytes: Vec<u8>,
    start: usize,
    entries: VecDeque<Entry<A>>,
}

impl<A> DatagramQueue<A> {
    pub(crate) const fn new() -> Self {
        Self { bytes: Vec::new(), start: 0, entries: VecDeque::new() }
    }

    pub(crate) fn push(&mut self, to: Option<A>, data: &[u8]) {
        if self.start > KEPT && self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(data);
        self.entries.push_back(Entry { to, len: data.len() });
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all of them.
    pub(crate) fn byte_count(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// The oldest.
    pub(crate) fn front(&self) -> Option<(Option<&A>, &[u8])> {
        self.iter().next()
    }

    /// All of them, the oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Option<&A>, &[u8])> {
        let mut at = self.start;
        self.entries.iter().map(move |entry| {
            let data = &self.bytes[at..at + entry.len];
            at += entry.len;
            (entry.to.as_ref(), data)
        })
    }

    /// Takes the oldest away; its address, and how long it was.
    pub(crate) fn pop(&mut self) -> Option<(Option<A>, usize)> {
        let entry = self.entries.pop_front()?;
        self.start += entry.len;
        if self.entries.is_empty() {
            self.start = 0;
            self.bytes.clear();
            self.bytes.shrink_to(KEPT);
        }
        Some((entry.to, entry.len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_come_out_as_they_went_in() {
        let mut queue = DatagramQueue::new();
        let texts: [&[u8]; 4] = [b"one", b"", b"three", b""];
        for (number, text) in texts.iter().enumerate() {
            queue.push(Some(number), text);
        }
        assert_eq!((queue.len(), queue.byte_count()), (4, 8));
        let seen: Vec<_> = queue.iter().map(|(to, data)| (to.copied(), data.to_vec())).collect();
        assert_eq!(seen[2], (Some(2), b"three".to_vec()));
        for (number, text) in texts.iter().enumerate() {
            assert_eq!(queue.front(), Some((Some(&number), *text)));
            assert_eq!(queue.pop(), Some((Some(number), text.len())));
        }
        assert!(queue.is_empty());
        assert_eq!(queue.pop(), None);
        assert_eq!(queue.byte_count(), 0);
    }

    #[test]
    fn a_queue_that_never_drains_does_not_grow_for_ever() {
        let mut queue = DatagramQueue::<()>::new();
        queue.push(None, &[1; 1000]);
        let rounds = if cfg!(miri) { 3_000 } else { 10_000_u32 };
        for round in 0..rounds {
            queue.push(None, &round.to_ne_bytes().repeat(250));
            queue.pop();
        }
        assert!(queue.bytes.capacity() < 1 << 20, "{}", queue.bytes.capacity());
        let (_, data) = queue.front().unwrap();
        assert_eq!(data[..4], (rounds - 1).to_ne_bytes());
    }

    #[test]
    fn a_drained_queue_gives_its_memory_back() {
        let mut queue = DatagramQueue::<()>::new();
        for _ in 0..100 {
            queue.push(None, &[0; 60_000]);
        }
        while queue.pop().is_some() {}
        assert!(queue.bytes.capacity() <= KEPT, "{}", queue.bytes.capacity());
    }
}
