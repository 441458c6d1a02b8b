//! The outbox: what a connection has written and the kernel has not taken yet.
//!
//! Bytes come in through [`Outbox::write`] (copied behind the last), [`Outbox::write_bytes`] (large ones by
//! reference) and [`Outbox::write_file`]; they leave through [`Outbox::front`] and [`Outbox::consume`], which
//! the driver calls. An empty outbox is one null pointer: every buffer belongs to the [`Pool`].

use std::collections::VecDeque;
use std::fs::File;
use std::io::IoSlice;
#[cfg(unix)]
use std::os::fd::OwnedFd;

use bytes::Bytes;

use super::pool::{Pool, SEGMENT};

/// Capacity of the small segment that travels with a backlog: an answer of this size costs one buffer.
const FIRST_SEGMENT: usize = 4096;
/// A `Bytes` of at least this length is queued by reference; below it a copy is cheaper than the bookkeeping.
pub(crate) const SHARE_FROM: usize = 4096;
/// Buffers handed to the kernel at once.
pub(crate) const MAX_SLICES: usize = 64;

/// A range of a file in the outbox.
#[derive(Debug)]
pub(crate) struct FileRange {
    pub(crate) file: File,
    pub(crate) offset: u64,
    pub(crate) remaining: u64,
}

enum Chunk {
    Copied(Vec<u8>),
    Shared(Bytes),
    File(FileRange),
    /// Bytes with a descriptor on the first of them.
    #[cfg(unix)]
    Passed(OwnedFd, Bytes),
}

impl Chunk {
    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Copied(segment) => Some(segment),
            Self::Shared(bytes) => Some(bytes),
            Self::File(_) => None,
            #[cfg(unix)]
            Self::Passed(..) => None,
        }
    }
}

/// The queue of an outbox that is not empty.
pub(crate) struct Backlog {
    /// Comes before `rest`; keeps its memory when the backlog returns to the pool.
    first: Vec<u8>,
    rest: VecDeque<Chunk>,
    /// Bytes of the front buffer that were sent already.
    sent_of_front: usize,
    /// Bytes in memory in `rest`.
    rest_in_memory: usize,
    /// Bytes queued in files.
    in_files: u64,
}

impl Backlog {
    pub(super) fn boxed() -> Box<Self> {
        Box::new(Self {
            first: Vec::with_capacity(FIRST_SEGMENT),
            rest: VecDeque::new(),
            sent_of_front: 0,
            rest_in_memory: 0,
            in_files: 0,
        })
    }

    /// Bytes queued in memory.
    fn in_memory(&self) -> usize {
        self.first.len() + self.rest_in_memory - self.sent_of_front
    }

    fn copy(&mut self, mut data: &[u8], pool: &Pool) {
        if self.rest.is_empty() && data.len() <= self.first.capacity() - self.first.len() {
            self.first.extend_from_slice(data);
            return;
        }
        self.rest_in_memory += data.len();
        if let Some(Chunk::Copied(last)) = self.rest.back_mut() {
            let (fits, more) = data.split_at(data.len().min(last.capacity() - last.len()));
            last.extend_from_slice(fits);
            data = more;
        }
        while !data.is_empty() {
            let (fits, more) = data.split_at(data.len().min(SEGMENT));
            let mut segment = pool.segment();
            segment.extend_from_slice(fits);
            self.rest.push_back(Chunk::Copied(segment));
            data = more;
        }
    }

    fn is_empty(&self) -> bool {
        self.in_memory() == 0 && self.in_files == 0
    }

    fn retire(&mut self, chunk: Chunk, pool: &Pool) {
        match chunk {
            Chunk::Copied(segment) => pool.give_back_segment(segment),
            Chunk::Shared(bytes) => pool.spend(bytes),
            Chunk::File(_) => {}
            #[cfg(unix)]
            Chunk::Passed(_, bytes) => pool.spend(bytes),
        }
    }
}

/// What the driver is to send next.
#[derive(Debug)]
pub(crate) enum Front<'a, 's> {
    Nothing,
    /// One buffer: the usual case.
    One(&'a [u8]),
    /// Several, in order.
    Many(&'s [IoSlice<'a>]),
    /// A range of a file.
    File(&'a mut FileRange),
    /// Bytes with a descriptor on the first of them. Once any were taken, [`Outbox::consume_passed`].
    #[cfg(unix)]
    Passed(&'a OwnedFd, &'a [u8]),
}

/// The queue of written bytes; see the module.
#[derive(Default)]
pub(crate) struct Outbox {
    backlog: Option<Box<Backlog>>,
}

impl Outbox {
    /// Whether nothing waits to be sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.backlog.is_none()
    }

    /// Bytes queued in memory. Files are not counted: they cost none.
    pub(crate) fn queued(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.in_memory())
    }

    /// Bytes queued in memory and in files.
    pub(crate) fn pending(&self) -> u64 {
        self.backlog.as_ref().map_or(0, |backlog| backlog.in_files.saturating_add(backlog.in_memory() as u64))
    }

    /// Copies `data` behind what is queued.
    pub(crate) fn write(&mut self, data: &[u8], pool: &Pool) {
        if data.is_empty() {
            return;
        }
        let backlog = self.backlog.get_or_insert_with(|| pool.backlog());
        backlog.copy(data, pool);
        pool.grow(data.len());
    }

    /// Copies `data` into the first small segment, if that is all there is, it fits and no limit is near.
    #[inline]
    pub(crate) fn append(&mut self, data: &[u8], pool: &Pool) -> bool {
        let backlog = match &mut self.backlog {
            Some(backlog) => backlog,
            empty => {
                if data.is_empty() {
                    return false;
                }
                let Some(backlog) = pool.spare_backlog() else { return false };
                empty.insert(backlog)
            }
        };
        let limits = pool.limits();
        let fits = data.len() <= backlog.first.capacity() - backlog.first.len()
            && backlog.rest.is_empty()
            && backlog.first.len() <= limits.write
            && pool.total() + data.len() <= limits.total;
        if fits {
            backlog.first.extend_from_slice(data);
            pool.grow(data.len());
        } else if backlog.is_empty() {
            self.give_back(pool);
        }
        fits
    }

    /// Queues `bytes`, by reference when they are large. Gives them back when they were copied, so that the
    /// caller drops them with nothing borrowed.
    #[must_use = "the destructor of shared bytes may be user code"]
    pub(crate) fn write_bytes(&mut self, bytes: Bytes, pool: &Pool) -> Option<Bytes> {
        if bytes.len() < SHARE_FROM {
            self.write(&bytes, pool);
            return Some(bytes);
        }
        let backlog = self.backlog.get_or_insert_with(|| pool.backlog());
        backlog.rest_in_memory += bytes.len();
        pool.grow(bytes.len());
        backlog.rest.push_back(Chunk::Shared(bytes));
        None
    }

    /// Queues a range of a file.
    pub(crate) fn write_file(&mut self, range: FileRange, pool: &Pool) {
        if range.remaining == 0 {
            return;
        }
        let backlog = self.backlog.get_or_insert_with(|| pool.backlog());
        // No file is that long: a range without a real end fails long before the count is wrong.
        backlog.in_files = backlog.in_files.saturating_add(range.remaining);
        backlog.rest.push_back(Chunk::File(range));
    }

    /// Queues bytes with a descriptor on the first of them.
    #[cfg(unix)]
    pub(crate) fn write_passed(&mut self, descriptor: OwnedFd, bytes: Bytes, pool: &Pool) {
        let backlog = self.backlog.get_or_insert_with(|| pool.backlog());
        backlog.rest_in_memory += bytes.len();
        pool.grow(bytes.len());
        backlog.rest.push_back(Chunk::Passed(descriptor, bytes));
    }

    /// Removes `sent` bytes of those at the front, and the descriptor, which went with the first of them.
    #[cfg(unix)]
    pub(crate) fn consume_passed(&mut self, sent: usize, pool: &Pool) {
        let Some(backlog) = self.backlog.as_deref_mut() else { return };
        if let Some(Chunk::Passed(_, bytes)) = backlog.rest.front_mut() {
            let bytes = std::mem::take(bytes);
            backlog.rest[0] = Chunk::Shared(bytes);
        }
        self.consume(sent, pool);
    }

    /// What is queued, if it is one small buffer of which nothing was sent yet: the usual case, made cheap.
    #[inline]
    pub(crate) fn only(&self) -> Option<&[u8]> {
        let backlog = self.backlog.as_deref()?;
        (backlog.rest.is_empty() && backlog.sent_of_front == 0).then_some(&backlog.first[..])
    }

    /// What is to be sent next; `slices` is room for several buffers.
    pub(crate) fn front<'a, 's>(&'a mut self, slices: &'s mut [IoSlice<'a>; MAX_SLICES]) -> Front<'a, 's> {
        let Some(backlog) = self.backlog.as_deref_mut() else { return Front::Nothing };
        let skip = backlog.sent_of_front;
        if backlog.rest.is_empty() {
            return Front::One(&backlog.first[skip..]);
        }
        if backlog.first.is_empty() {
            if let Some(Chunk::File(_)) = backlog.rest.front() {
                let Some(Chunk::File(range)) = backlog.rest.front_mut() else { unreachable!("just seen") };
                return Front::File(range);
            }
            #[cfg(unix)]
            if let Some(Chunk::Passed(descriptor, bytes)) = backlog.rest.front() {
                return Front::Passed(descriptor, bytes);
            }
            if let (1, Some(Some(only))) = (backlog.rest.len(), backlog.rest.front().map(Chunk::bytes)) {
                return Front::One(&only[skip..]);
            }
        }
        let first = (!backlog.first.is_empty()).then_some(backlog.first.as_slice());
        let buffers = first.into_iter().chain(backlog.rest.iter().map_while(Chunk::bytes));
        let mut count = 0;
        for (slice, buffer) in slices.iter_mut().zip(buffers) {
            *slice = IoSlice::new(if count == 0 { &buffer[skip..] } else { buffer });
            count += 1;
        }
        Front::Many(&slices[..count])
    }

    /// Removes `sent` bytes from the front.
    pub(crate) fn consume(&mut self, sent: usize, pool: &Pool) {
        let Some(backlog) = self.backlog.as_deref_mut() else { return };
        pool.shrink(sent);
        let mut left = sent + backlog.sent_of_front;
        backlog.sent_of_front = 0;
        if left >= backlog.first.len() {
            left -= backlog.first.len();
            backlog.first.clear();
            while let Some(length) = backlog.rest.front().and_then(Chunk::bytes).map(<[u8]>::len) {
                if left < length {
                    break;
                }
                left -= length;
                backlog.rest_in_memory -= length;
                if let Some(chunk) = backlog.rest.pop_front() {
                    backlog.retire(chunk, pool);
                }
            }
        }
        backlog.sent_of_front = left;
        if backlog.is_empty() {
            self.give_back(pool);
        }
    }

    /// The one small buffer was taken whole.
    #[inline(always)]
    pub(crate) fn drained(&mut self, pool: &Pool) {
        let Some(mut backlog) = self.backlog.take() else { return };
        pool.shrink(backlog.first.len());
        backlog.first.clear();
        pool.give_back_backlog(backlog);
    }

    /// Removes `sent` bytes from the file at the front.
    pub(crate) fn consume_file(&mut self, sent: u64, pool: &Pool) {
        let Some(backlog) = self.backlog.as_deref_mut() else { return };
        let Some(Chunk::File(range)) = backlog.rest.front_mut() else { return };
        range.offset += sent;
        range.remaining -= sent;
        let finished = range.remaining == 0;
        backlog.in_files -= sent;
        if finished {
            backlog.rest.pop_front();
        }
        if backlog.is_empty() {
            self.give_back(pool);
        }
    }

    /// Drops everything that is queued.
    pub(crate) fn clear(&mut self, pool: &Pool) {
        if let Some(backlog) = &mut self.backlog {
            pool.shrink(backlog.in_memory());
            backlog.in_files = 0;
            self.give_back(pool);
        }
    }

    /// Returns the buffers of a drained or dropped backlog to the pool.
    fn give_back(&mut self, pool: &Pool) {
        let Some(mut backlog) = self.backlog.take() else { return };
        while let Some(chunk) = backlog.rest.pop_front() {
            backlog.retire(chunk, pool);
        }
        if backlog.rest.capacity() > 4 * MAX_SLICES {
            backlog.rest = VecDeque::new();
        }
        backlog.first.clear();
        backlog.rest_in_memory = 0;
        backlog.sent_of_front = 0;
        pool.give_back_backlog(backlog);
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool::OutputLimits;
    use super::*;

    /// Sends everything in steps of `step` bytes, as a kernel with small buffers would.
    fn drain(outbox: &mut Outbox, pool: &Pool, step: usize) -> Vec<u8> {
        let mut sent = Vec::new();
        loop {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let part: Vec<u8> = match outbox.front(&mut slices) {
                Front::Nothing => return sent,
                Front::One(data) => data.iter().copied().take(step).collect(),
                Front::Many(list) => list.iter().flat_map(|s| s.iter().copied()).take(step).collect(),
                #[cfg(unix)]
                Front::Passed(..) => unreachable!("no descriptor was queued"),
                Front::File(_) => unreachable!("no file in this test"),
            };
            assert!(!part.is_empty(), "a front is never empty");
            sent.extend_from_slice(&part);
            outbox.consume(part.len(), pool);
        }
    }

    #[test]
    fn bytes_leave_in_the_order_they_were_written_whatever_the_kernel_takes() {
        let smallest = if cfg!(miri) { 97 } else { 1 };
        for step in [smallest, 7 * smallest, 4095, 4096, 65_536, usize::MAX] {
            let pool = Pool::new(OutputLimits::default());
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            let mut state = 7_u32;
            for _ in 0..if cfg!(miri) { 12 } else { 60 } {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let sizes = [0_usize, 1, 100, 4096, 5000];
                let data: Vec<u8> =
                    (0..sizes[state as usize % 5]).map(|n| (n as u32 ^ state) as u8).collect();
                expected.extend_from_slice(&data);
                if state & 0x1000 == 0 {
                    outbox.write(&data, &pool);
                } else {
                    drop(outbox.write_bytes(Bytes::from(data), &pool));
                }
            }
            assert_eq!(pool.total(), expected.len());
            assert!(drain(&mut outbox, &pool, step) == expected, "step {step}");
            assert!(outbox.is_empty() && pool.total() == 0);
        }
    }

    #[test]
    fn a_drained_outbox_owns_nothing_and_its_buffers_are_reused() {
        let pool = Pool::new(OutputLimits::default());
        let mut outbox = Outbox::default();
        outbox.write(b"one", &pool);
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let Front::One(before) = outbox.front(&mut slices) else { panic!("one buffer") };
        let address = before.as_ptr();
        outbox.consume(3, &pool);
        assert!(outbox.is_empty());
        outbox.write(b"two", &pool);
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let Front::One(after) = outbox.front(&mut slices) else { panic!("one buffer") };
        assert_eq!(address, after.as_ptr());
    }

    #[test]
    fn a_large_shared_buffer_is_not_copied_and_is_handed_back_after_sending() {
        let pool = Pool::new(OutputLimits::default());
        let mut outbox = Outbox::default();
        let bytes = Bytes::from(vec![1; 100_000]);
        let address = bytes.as_ptr();
        assert!(outbox.write_bytes(bytes, &pool).is_none());
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let Front::One(data) = outbox.front(&mut slices) else { panic!("one buffer") };
        assert_eq!(data.as_ptr(), address);
        outbox.consume(100_000, &pool);
        assert_eq!(pool.take_spent().len(), 1);
    }

    #[test]
    fn clearing_returns_everything() {
        let pool = Pool::new(OutputLimits::default());
        let mut outbox = Outbox::default();
        outbox.write(&[0; 200_000], &pool);
        assert!(outbox.write_bytes(Bytes::from(vec![1; 10_000]), &pool).is_none());
        assert_eq!((outbox.queued(), outbox.pending()), (210_000, 210_000));
        outbox.clear(&pool);
        assert!(outbox.is_empty() && pool.total() == 0 && pool.has_spent());
    }

    #[test]
    fn an_outbox_costs_one_pointer() {
        assert_eq!(size_of::<Outbox>(), size_of::<usize>());
    }
}
