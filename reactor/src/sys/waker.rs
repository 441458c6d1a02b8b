//! A waker that is lent: most polls keep none, or compare the one they keep.

use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::Arc;
use std::task::{Wake, Waker};

/// Calls `run` with a waker of `shared`, without counting it: counted are the clones that `run` makes.
#[inline]
pub(crate) fn with_waker<W: Wake + Send + Sync + 'static, R>(
    shared: &Arc<W>,
    run: impl FnOnce(&Waker) -> R,
) -> R {
    // SAFETY: the copy of the `Arc` goes into the waker as it is, and that is never dropped; so the count is
    // left alone. It can be used within this call only, and `shared` is borrowed for as long.
    let waker = ManuallyDrop::new(Waker::from(unsafe { ptr::read(shared) }));
    run(&waker)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_lent_waker_wakes_and_counts_for_nothing_but_its_clones() {
        let shared = Arc::new(Counted::default());
        let kept = with_waker(&shared, |waker| {
            assert_eq!(Arc::strong_count(&shared), 1);
            waker.wake_by_ref();
            assert_eq!(Arc::strong_count(&shared), 1);
            waker.clone()
        });
        assert_eq!(Arc::strong_count(&shared), 2);
        // Miri gives the same table of functions several addresses.
        assert!(cfg!(miri) || with_waker(&shared, |waker| waker.will_wake(&kept)));
        kept.wake();
        assert_eq!(shared.0.load(Ordering::Relaxed), 2);
        assert_eq!(Arc::strong_count(&shared), 1);
    }

    #[test]
    fn a_panic_leaves_the_count_as_it_was() {
        let shared = Arc::new(Counted::default());
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            with_waker(&shared, |waker| {
                let _kept = waker.clone();
                panic!("while a waker is lent");
            });
        }));
        assert!(panicked.is_err());
        assert_eq!(Arc::strong_count(&shared), 1);
    }
}
