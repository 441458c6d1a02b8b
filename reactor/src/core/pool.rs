//! What all outboxes of a reactor share: spare buffers, the sum of queued bytes and the limits.
//!
//! Buffers come from here when output is queued and return when it is drained, so an idle connection owns
//! none and a busy one allocates none. The free lists are bounded.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;

use super::intake::InputBuffer;
use super::outbox::Backlog;

/// Capacity of a pooled segment.
pub(crate) const SEGMENT: usize = 64 * 1024;
/// Spare segments that are kept: 2 MiB.
const SPARE_SEGMENTS: usize = 32;
/// Capacity of a buffer for input that is not asked to hold more.
const INPUT: usize = 4 * 1024;
/// Spare bytes of buffers for input that are kept: 4 MiB.
const SPARE_INPUT: usize = 4 << 20;
/// Spare backlogs that are kept, each with its first small segment: about 4 MiB.
const SPARE_BACKLOGS: usize = 1024;

/// Limits of output that hold for every connection which has none of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutputLimits {
    /// Above this many queued bytes `pause_writing` is called.
    pub(crate) high: usize,
    /// At or below this many `resume_writing` is called.
    pub(crate) low: usize,
    /// A write made above this backlog aborts the connection.
    pub(crate) write: usize,
    /// A write that takes the sum of all outboxes above this aborts its connection.
    pub(crate) total: usize,
}

impl Default for OutputLimits {
    fn default() -> Self {
        Self { high: 64 * 1024, low: 16 * 1024, write: 16 << 20, total: 1 << 30 }
    }
}

/// The shared pool.
#[derive(Default)]
pub(crate) struct Pool {
    limits: OutputLimits,
    total: Cell<usize>,
    /// The backlog that the next small write takes: most are given back before another is wanted.
    quick: Cell<Option<Box<Backlog>>>,
    #[allow(clippy::vec_box, reason = "the box itself is what outboxes take and give back")]
    backlogs: RefCell<Vec<Box<Backlog>>>,
    segments: RefCell<Vec<Vec<u8>>>,
    /// The buffer that the next input takes.
    quick_input: Cell<Option<Box<InputBuffer>>>,
    #[allow(clippy::vec_box, reason = "the box itself is what is taken and given back")]
    inputs: RefCell<Vec<Box<InputBuffer>>>,
    /// The sum of the capacities of `inputs`.
    spare_input: Cell<usize>,
    /// Shared buffers that were sent: their owners' destructors are user code, so they wait for a moment in
    /// which nothing is borrowed.
    spent: RefCell<Vec<Bytes>>,
}

impl Pool {
    pub(crate) fn new(limits: OutputLimits) -> Rc<Self> {
        Rc::new(Self { limits, ..Self::default() })
    }

    pub(crate) fn limits(&self) -> &OutputLimits {
        &self.limits
    }

    /// Bytes queued in memory by all outboxes together.
    pub(crate) fn total(&self) -> usize {
        self.total.get()
    }

    pub(crate) fn grow(&self, bytes: usize) {
        self.total.set(self.total.get() + bytes);
    }

    pub(crate) fn shrink(&self, bytes: usize) {
        self.total.set(self.total.get() - bytes);
    }

    /// A spare backlog, if there is one: the one at hand first.
    #[inline]
    pub(super) fn spare_backlog(&self) -> Option<Box<Backlog>> {
        self.quick.take().or_else(|| self.backlogs.borrow_mut().pop())
    }

    pub(super) fn backlog(&self) -> Box<Backlog> {
        self.spare_backlog().unwrap_or_else(Backlog::boxed)
    }

    /// Takes an empty backlog back, and keeps it at hand.
    #[inline]
    pub(super) fn give_back_backlog(&self, backlog: Box<Backlog>) {
        if let Some(previous) = self.quick.replace(Some(backlog)) {
            self.store_backlog(previous);
        }
    }

    fn store_backlog(&self, backlog: Box<Backlog>) {
        let mut backlogs = self.backlogs.borrow_mut();
        if backlogs.len() < SPARE_BACKLOGS {
            backlogs.push(backlog);
        }
    }

    pub(super) fn segment(&self) -> Vec<u8> {
        self.segments.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(SEGMENT))
    }

    pub(super) fn give_back_segment(&self, mut segment: Vec<u8>) {
        let mut segments = self.segments.borrow_mut();
        if segments.len() < SPARE_SEGMENTS && segment.capacity() >= SEGMENT {
            segment.clear();
            segments.push(segment);
        }
    }

    /// An empty buffer for input, of at least `length` bytes if it has to be made.
    #[inline]
    pub(super) fn input_buffer(&self, length: usize) -> Box<InputBuffer> {
        self.quick_input.take().unwrap_or_else(|| self.stored_input_buffer(length))
    }

    #[inline]
    fn stored_input_buffer(&self, length: usize) -> Box<InputBuffer> {
        let Some(buffer) = self.inputs.borrow_mut().pop() else {
            return InputBuffer::with_capacity(length.max(INPUT));
        };
        self.spare_input.set(self.spare_input.get() - buffer.capacity());
        buffer
    }

    /// Takes a buffer for input back, and keeps it at hand unless it is huge.
    #[inline]
    pub(super) fn give_back_input_buffer(&self, mut buffer: Box<InputBuffer>) {
        if buffer.capacity() > 2 * SEGMENT {
            return;
        }
        buffer.clear();
        if let Some(previous) = self.quick_input.replace(Some(buffer)) {
            self.store_input_buffer(previous);
        }
    }

    #[inline]
    fn store_input_buffer(&self, buffer: Box<InputBuffer>) {
        let spare = self.spare_input.get() + buffer.capacity();
        if spare <= SPARE_INPUT {
            self.spare_input.set(spare);
            self.inputs.borrow_mut().push(buffer);
        }
    }

    pub(super) fn spend(&self, bytes: Bytes) {
        self.spent.borrow_mut().push(bytes);
    }

    pub(crate) fn has_spent(&self) -> bool {
        !self.spent.borrow().is_empty()
    }

    /// Shared buffers whose last bytes were sent, for the caller to drop while nothing is borrowed.
    #[must_use = "dropping them is the point, and the caller chooses the moment"]
    pub(crate) fn take_spent(&self) -> Vec<Bytes> {
        self.spent.take()
    }

    /// Lets go of all spare memory.
    pub(crate) fn release(&self) {
        self.quick.take();
        self.backlogs.take();
        self.segments.take();
        self.quick_input.take();
        self.inputs.take();
        self.spare_input.set(0);
    }
}
