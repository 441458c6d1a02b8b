//! Datagrams whose receivers have no room for them: one queue per receiver, so that none holds up another.
//!
//! Nobody says when a receiver has room again, so each is tried after a pause of its own, which doubles as
//! long as it takes nothing. Invariants: no queue in here is empty, and `len` and `bytes` are the sums over
//! all of them.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use crate::core::datagrams::DatagramQueue;

/// The first pause.
const SHORTEST: Duration = Duration::from_millis(1);
/// The pause of a receiver that takes nothing for long.
const LONGEST: Duration = Duration::from_millis(64);

struct Receiver<A> {
    queue: DatagramQueue<A>,
    pause: Duration,
    due: Instant,
}

/// The queues. `A` is an address.
pub(crate) struct Stalled<A> {
    receivers: HashMap<A, Receiver<A>>,
    /// All of them in the order in which they stalled, which is the order in which they are tried.
    order: Vec<A>,
    len: usize,
    bytes: usize,
}

impl<A: Clone + Eq + Hash> Stalled<A> {
    pub(crate) fn new() -> Self {
        Self { receivers: HashMap::new(), order: Vec::new(), len: 0, bytes: 0 }
    }

    /// How many datagrams there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of all of them.
    pub(crate) fn byte_count(&self) -> usize {
        self.bytes
    }

    /// Whether datagrams to this receiver wait here, so that another one has to wait behind them.
    pub(crate) fn holds(&self, to: &A) -> bool {
        !self.is_empty() && self.receivers.contains_key(to)
    }

    pub(crate) fn push(&mut self, now: Instant, to: &A, data: &[u8]) {
        let order = &mut self.order;
        let receiver = self.receivers.entry(to.clone()).or_insert_with(|| {
            order.push(to.clone());
            Receiver { queue: DatagramQueue::new(), pause: SHORTEST, due: now + SHORTEST }
        });
        receiver.queue.push(Some(to.clone()), data);
        self.len += 1;
        self.bytes += data.len();
    }

    /// When the next receiver is to be tried.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.receivers.values().map(|receiver| receiver.due).min()
    }

    /// Tries each receiver that is due: `send` takes out of its queue what is over and done with.
    pub(crate) fn retry(&mut self, now: Instant, mut send: impl FnMut(&mut DatagramQueue<A>)) {
        let receivers = &mut self.receivers;
        self.order.retain(|address| {
            let Some(receiver) = receivers.get_mut(address) else { return false };
            if receiver.due > now {
                return true;
            }
            let before = receiver.queue.len();
            send(&mut receiver.queue);
            if receiver.queue.is_empty() {
                receivers.remove(address);
                return false;
            }
            let progress = receiver.queue.len() < before;
            receiver.pause = if progress { SHORTEST } else { (2 * receiver.pause).min(LONGEST) };
            receiver.due = now + receiver.pause;
            true
        });
        self.len = self.receivers.values().map(|receiver| receiver.queue.len()).sum();
        self.bytes = self.receivers.values().map(|receiver| receiver.queue.byte_count()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stalled(now: Instant) -> Stalled<char> {
        let mut stalled = Stalled::new();
        for (to, data) in [('a', "one"), ('b', "two"), ('a', "three")] {
            stalled.push(now, &to, data.as_bytes());
        }
        stalled
    }

    #[test]
    fn each_receiver_has_its_own_queue_in_order() {
        let now = Instant::now();
        let mut stalled = stalled(now);
        assert_eq!((stalled.len(), stalled.byte_count()), (3, 11));
        assert!(stalled.holds(&'a') && stalled.holds(&'b') && !stalled.holds(&'c'));
        let mut seen = Vec::new();
        stalled.retry(now + SHORTEST, |queue| {
            while let Some((to, data)) = queue.front().map(|(to, data)| (to.copied(), data.to_vec())) {
                seen.push((to.unwrap(), String::from_utf8(data).unwrap()));
                queue.pop();
            }
        });
        let seen: Vec<_> = seen.iter().map(|(to, data)| (*to, &**data)).collect();
        assert_eq!(seen, [('a', "one"), ('a', "three"), ('b', "two")]);
        assert!(stalled.is_empty() && !stalled.holds(&'a') && stalled.next_due().is_none());
        assert_eq!(stalled.byte_count(), 0);
    }

    #[test]
    fn who_takes_nothing_is_tried_less_and_less() {
        let mut now = Instant::now();
        let mut stalled = stalled(now);
        let mut tries = [0; 3];
        let end = now + Duration::from_secs(1);
        while now < end {
            now = stalled.next_due().unwrap();
            stalled.retry(now, |queue| {
                let is_a = queue.front().unwrap().0 == Some(&'a');
                tries[usize::from(is_a)] += 1;
            });
        }
        assert!(tries[0] == tries[1] && (15..30).contains(&tries[0]), "{tries:?}");
        // The first that takes one is tried soon again.
        stalled.retry(stalled.next_due().unwrap() + LONGEST, |queue| {
            if queue.len() == 2 {
                queue.pop();
            }
        });
        assert_eq!(stalled.len(), 2);
        let due = stalled.receivers[&'a'].due;
        assert_eq!(stalled.next_due(), Some(due));
        assert!(stalled.receivers[&'b'].due > due);
    }
}
