//! A counting allocator: what the current thread has allocated and still holds.
//!
//! A test binary that wants to count installs it:
//!
//! ```
//! # use twistor_tests::allocations::{Counting, counts};
//! #[global_allocator]
//! static ALLOCATOR: Counting = Counting;
//!
//! fn main() {
//!     let before = counts();
//!     let memory = vec![0_u8; 1000];
//!     assert_eq!(counts().calls - before.calls, 1);
//!     assert_eq!(counts().bytes - before.bytes, 1000);
//!     drop(memory);
//! }
//! ```
//!
//! Each thread has its own counts, so that tests of one binary can run side by side. A reactor lives on one
//! thread; what it allocates is counted there.

#![allow(unsafe_code, reason = "an allocator is made of unsafe functions")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, counted.
#[derive(Clone, Copy, Debug)]
pub struct Counting;

/// What the current thread has allocated so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Calls that took memory from the allocator: allocations and changes of size.
    pub calls: i64,
    /// Allocations that are held.
    pub live: i64,
    /// Bytes that are held.
    pub bytes: i64,
    /// The most bytes held since [`restart_peak`].
    pub peak: i64,
}

thread_local! {
    static COUNTS: Cell<Counts> = const { Cell::new(Counts { calls: 0, live: 0, bytes: 0, peak: 0 }) };
}

/// The counts of this thread.
#[must_use]
pub fn counts() -> Counts {
    COUNTS.get()
}

/// Lets the peak count from the bytes held now, which are returned.
pub fn restart_peak() -> i64 {
    let counts = COUNTS.get();
    COUNTS.set(Counts { peak: counts.bytes, ..counts });
    counts.bytes
}

fn count(calls: i64, live: i64, bytes: i64) {
    // A thread that is ending has no counts any more.
    let _ = COUNTS.try_with(|counts| {
        let old = counts.get();
        let bytes = old.bytes + bytes;
        let peak = old.peak.max(bytes);
        counts.set(Counts { calls: old.calls + calls, live: old.live + live, bytes, peak });
    });
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, 1, layout.size() as i64);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, 1, layout.size() as i64);
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(0, -1, -(layout.size() as i64));
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(memory, layout) };
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, 0, size as i64 - layout.size() as i64);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(memory, layout, size) }
    }
}
