//! Bytes that were received and wait for a reader: appended at one end, taken from the other.
//!
//! The memory comes from the [pool](Pool) with the first byte and returns to it with the last, so that
//! whoever waits for input owns none. What is there is always one slice. Bytes are moved within the buffer
//! only when at least as many have been taken since, so that a byte is moved once on the average, however it
//! is read.

use bytes::{Buf, Bytes};

use super::pool::Pool;

/// A buffer between who receives and who reads. Its memory is one pointer, so that it changes hands in no
/// time.
#[derive(Default)]
pub(crate) struct Intake {
    /// There is one as long as there is something in it.
    buffer: Option<Box<InputBuffer>>,
}

/// The memory of an [`Intake`] with something in it, or a spare one in the [pool](Pool).
#[derive(Default)]
pub(super) struct InputBuffer {
    bytes: Vec<u8>,
    /// How many of them were taken.
    start: usize,
}

impl InputBuffer {
    pub(super) fn with_capacity(capacity: usize) -> Box<Self> {
        Box::new(Self { bytes: Vec::with_capacity(capacity), start: 0 })
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    #[inline]
    fn as_slice(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    fn make_room(&mut self) {
        if self.start >= self.bytes.len() - self.start {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}

impl Intake {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.is_none()
    }

    /// What is there.
    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| buffer.as_slice())
    }

    /// Copies `data` behind what is there.
    #[inline(always)]
    pub(crate) fn append(&mut self, data: &[u8], pool: &Pool) {
        if data.is_empty() {
            return;
        }
        let buffer = match &mut self.buffer {
            Some(buffer) => buffer,
            none => none.insert(pool.input_buffer(data.len())),
        };
        if buffer.bytes.capacity() - buffer.bytes.len() < data.len() {
            buffer.make_room();
        }
        buffer.bytes.extend_from_slice(data);
    }

    /// Puts `data` before what is there.
    pub(crate) fn prepend(&mut self, mut data: Self, pool: &Pool) {
        data.append(self.as_slice(), pool);
        self.clear(pool);
        *self = data;
    }

    /// Takes the first `count` bytes away, or all if there are fewer.
    #[inline]
    pub(crate) fn consume(&mut self, count: usize, pool: &Pool) {
        match &mut self.buffer {
            Some(buffer) if count < buffer.bytes.len() - buffer.start => buffer.start += count,
            _ => self.clear(pool),
        }
    }

    /// Moves as many of the first bytes as there are and fit into `buffer`; returns how many.
    #[inline]
    pub(crate) fn read(&mut self, buffer: &mut [u8], pool: &Pool) -> usize {
        let Some(input) = &mut self.buffer else { return 0 };
        let there = input.as_slice();
        let (all, count) = (there.len(), there.len().min(buffer.len()));
        buffer[..count].copy_from_slice(&there[..count]);
        if count < all {
            input.start += count;
        } else {
            self.clear(pool);
        }
        count
    }

    /// Takes the first `count` bytes, or all if there are fewer: as they are when they are most of the
    /// buffer, else as a copy.
    pub(crate) fn take(&mut self, count: usize, pool: &Pool) -> Bytes {
        let count = count.min(self.len());
        if let Some(buffer) = &mut self.buffer
            && count == buffer.as_slice().len()
            && count >= buffer.capacity() / 2
        {
            let mut all = Bytes::from(std::mem::take(&mut buffer.bytes));
            all.advance(buffer.start);
            self.buffer = None;
            return all;
        }
        let bytes = Bytes::copy_from_slice(&self.as_slice()[..count]);
        self.consume(count, pool);
        bytes
    }

    /// Forgets everything and gives the memory back.
    #[inline]
    pub(crate) fn clear(&mut self, pool: &Pool) {
        if let Some(buffer) = self.buffer.take() {
            pool.give_back_input_buffer(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool::OutputLimits;
    use super::*;

    #[test]
    fn what_goes_in_comes_out_however_it_is_cut() {
        let pool = Pool::new(OutputLimits::default());
        let length: u32 = if cfg!(miri) { 300 } else { 20_000 };
        let data: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        for (put, get) in [(1, 1), (1, 7), (700, 3), (4096, 4095), (5000, 20_000)] {
            let (mut intake, mut seen) = (Intake::default(), Vec::new());
            let mut buffer = vec![0; get];
            for (turn, chunk) in data.chunks(put).enumerate() {
                intake.append(chunk, &pool);
                if turn % 3 != 0 {
                    let count = intake.read(&mut buffer, &pool);
                    seen.extend_from_slice(&buffer[..count]);
                }
            }
            seen.extend_from_slice(&intake.take(usize::MAX, &pool));
            assert_eq!(seen, data, "{put} in, {get} out");
            assert!(intake.is_empty());
        }
    }

    #[test]
    fn an_empty_buffer_owns_no_memory() {
        let pool = Pool::new(OutputLimits::default());
        let mut intake = Intake::default();
        intake.append(b"some", &pool);
        intake.consume(4, &pool);
        assert!(intake.buffer.is_none());
        let spare = pool.input_buffer(1);
        assert!(spare.capacity() > 0 && spare.as_slice().is_empty(), "the pool has it");
    }

    #[test]
    fn what_is_put_back_comes_first() {
        let pool = Pool::new(OutputLimits::default());
        let (mut first, mut then) = (Intake::default(), Intake::default());
        first.append(b"xone ", &pool);
        first.consume(1, &pool);
        then.append(b"two", &pool);
        then.prepend(first, &pool);
        assert_eq!(then.as_slice(), b"one two");
        assert_eq!(then.take(4, &pool), &b"one "[..]);
        assert_eq!(then.take(9, &pool), &b"two"[..]);
    }
}
