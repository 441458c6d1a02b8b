//! Bytes that were received and wait for a reader: appended at one end, taken from the other.
//!
//! The memory comes from the [pool](Pool) with the first byte and returns to it with the last, so that whoever waits for
//! input owns none. What is there is always one slice. Bytes are moved within the buffer only when at least as many have
//! been taken since, so that a byte is moved once on the average, however it is read.

use bytes::{Buf, Bytes};

use super::pool::Pool;

/// A buffer between who receives and who reads.
#[derive(Default)]
pub(crate) struct Intake {
    bytes: Vec<u8>,
    /// How many of them were taken.
    start: usize,
}

impl Intake {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// What is there.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Copies `data` behind what is there.
    #[inline]
    pub(crate) fn append(&mut self, data: &[u8], pool: &Pool) {
        if self.bytes.capacity() - self.bytes.len() < data.len() {
            self.make_room(data.len(), pool);
        }
        self.bytes.extend_from_slice(data);
    }

    fn make_room(&mut self, length: usize, pool: &Pool) {
        if self.bytes.capacity() == 0 {
            self.bytes = pool.input_buffer(length);
        } else if self.start >= self.len() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
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
        self.start = self.bytes.len().min(self.start + count);
        if self.is_empty() {
            self.clear(pool);
        }
    }

    /// Moves as many of the first bytes as there are and fit into `buffer`; returns how many.
    #[inline]
    pub(crate) fn read(&mut self, buffer: &mut [u8], pool: &Pool) -> usize {
        let count = self.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.as_slice()[..count]);
        self.consume(count, pool);
        count
    }

    /// Takes the first `count` bytes, or all if there are fewer: as they are when they are most of the buffer, else as a
    /// copy.
    pub(crate) fn take(&mut self, count: usize, pool: &Pool) -> Bytes {
        let count = count.min(self.len());
        if count == self.len() && count >= self.bytes.capacity() / 2 {
            let mut all = Bytes::from(std::mem::take(&mut self.bytes));
            all.advance(std::mem::take(&mut self.start));
            return all;
        }
        let bytes = Bytes::copy_from_slice(&self.as_slice()[..count]);
        self.consume(count, pool);
        bytes
    }

    /// Forgets everything and gives the memory back.
    pub(crate) fn clear(&mut self, pool: &Pool) {
        self.start = 0;
        pool.give_back_input_buffer(std::mem::take(&mut self.bytes));
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
        assert_eq!(intake.bytes.capacity(), 0);
        let spare = pool.input_buffer(1);
        assert!(spare.capacity() > 0 && spare.is_empty(), "the pool has it");
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
