//! Tasks that wait for something of a stream to change.
//!
//! Nearly always there is none or one, and it is the same one again and again. So its waker is kept from one
//! time to the next, and neither cloned nor dropped while a message goes through. Wakers are foreign code:
//! each is cloned, woken and dropped with nothing borrowed.

use std::cell::{Cell, RefCell};
use std::task::Waker;

/// As many may wait at once; above that the longest waiting is woken, and may wait again. (Those whose future
/// was dropped stay on the list until then.)
const LIMIT: usize = 16;

/// Who waits.
#[derive(Default)]
pub(super) struct Waiters {
    /// Whether somebody waits now.
    waiting: Cell<bool>,
    /// The one that waits, or waited last.
    first: Cell<Option<Waker>>,
    /// The others that wait now.
    others: RefCell<Vec<Waker>>,
}

impl Waiters {
    /// Has `waker` woken by the next [`wake`](Self::wake).
    #[inline]
    pub(super) fn register(&self, waker: &Waker) {
        match self.first.take() {
            Some(known) if known.will_wake(waker) => self.first.set(Some(known)),
            other => self.register_another(other, waker),
        }
        self.waiting.set(true);
    }

    fn register_another(&self, first: Option<Waker>, waker: &Waker) {
        let waker = waker.clone();
        match first {
            Some(first) if self.waiting.get() => {
                self.first.set(Some(first));
                let is_known = self.others.borrow().iter().any(|other| other.will_wake(&waker));
                if is_known {
                    return;
                }
                let mut others = self.others.borrow_mut();
                let oldest = (others.len() >= LIMIT).then(|| others.remove(0));
                others.push(waker);
                drop(others);
                if let Some(oldest) = oldest {
                    oldest.wake();
                }
            }
            _ => self.first.set(Some(waker)),
        }
    }

    /// Wakes whoever waits.
    #[inline]
    pub(super) fn wake(&self) {
        if self.waiting.replace(false) {
            self.wake_all();
        }
    }

    #[inline(always)]
    fn wake_all(&self) {
        if let Some(first) = self.first.take() {
            first.wake_by_ref();
            // Being woken it may have come back already.
            let newer = self.first.take();
            self.first.set(Some(newer.unwrap_or(first)));
        }
        if !self.others.borrow().is_empty() {
            self.others.take().into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Counter {
        fn new() -> (Arc<Self>, Waker) {
            let counter = Arc::new(Self::default());
            (Arc::clone(&counter), counter.into())
        }

        fn count(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn everybody_who_waits_is_woken_once() {
        let waiters = Waiters::default();
        let (one, first) = Counter::new();
        let (two, second) = Counter::new();
        waiters.register(&first);
        waiters.register(&second);
        waiters.register(&first);
        waiters.register(&second);
        waiters.wake();
        waiters.wake();
        assert_eq!((one.count(), two.count()), (1, 1));
        waiters.register(&second);
        waiters.wake();
        assert_eq!((one.count(), two.count()), (1, 2));
    }

    #[test]
    fn a_waker_is_kept_and_not_cloned_again() {
        let waiters = Waiters::default();
        let (counter, waker) = Counter::new();
        waiters.register(&waker);
        let held = Arc::strong_count(&counter);
        for _ in 0..10 {
            waiters.wake();
            waiters.register(&waker);
        }
        assert_eq!(Arc::strong_count(&counter), held);
        assert_eq!(counter.count(), 10);
    }

    #[test]
    fn those_who_wait_no_more_do_not_pile_up() {
        let waiters = Waiters::default();
        let counters: Vec<_> = (0..100).map(|_| Counter::new()).collect();
        for (_, waker) in &counters {
            waiters.register(waker);
        }
        assert!(waiters.others.borrow().len() <= LIMIT);
        waiters.wake();
        assert!(counters.iter().all(|(counter, _)| counter.count() == 1), "nobody is forgotten");
    }
}
