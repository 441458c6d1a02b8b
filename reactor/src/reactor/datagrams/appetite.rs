//! How many datagrams a socket asks for at a time: it learns from what came.

use crate::driver::BATCH;

/// Datagrams that are received singly before the next batch is tried.
const MOST_SINGLES: u32 = 16;
/// The smallest batch: the room for one more tells whether there is one more.
const SMALLEST_BATCH: usize = 2;

/// How many datagrams the next receive should ask for.
///
/// To ask for many costs more than to ask for one, and one is what most sockets have most of the time. So
/// after a batch of one, some datagrams are received singly before a batch is tried again: one, then two,
/// then four, …
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Appetite {
    batch: usize,
    /// Datagrams still to be received singly.
    singles: u32,
    /// How many there were to be, when that began.
    span: u32,
}

impl Appetite {
    pub(super) const NEW: Self = Self { batch: SMALLEST_BATCH, singles: 0, span: 0 };

    pub(super) fn wanted(self) -> usize {
        if self.singles > 0 { 1 } else { self.batch }
    }

    /// After a receive that brought `count` of `wanted`.
    pub(super) fn after(self, wanted: usize, count: usize) -> Self {
        if wanted == 1 {
            return Self { singles: self.singles.saturating_sub(1), ..self };
        }
        if count > 1 {
            return Self { batch: (2 * count).clamp(SMALLEST_BATCH, BATCH), ..Self::NEW };
        }
        let span = (2 * self.span).clamp(1, MOST_SINGLES);
        Self { batch: SMALLEST_BATCH, singles: span, span }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_tried_less_and_less_while_there_is_only_one() {
        let mut appetite = Appetite::NEW;
        let mut wanted = Vec::new();
        for _ in 0..100 {
            wanted.push(appetite.wanted());
            appetite = appetite.after(appetite.wanted(), 1);
        }
        assert_eq!(wanted[..10], [2, 1, 2, 1, 1, 2, 1, 1, 1, 1]);
        let tries = wanted.iter().filter(|wanted| **wanted > 1).count();
        assert_eq!(tries, 9);
    }

    #[test]
    fn a_batch_of_many_makes_the_next_one_larger() {
        let mut appetite = Appetite { singles: 3, span: 16, ..Appetite::NEW };
        let mut wanted = Vec::new();
        for _ in 0..9 {
            wanted.push(appetite.wanted());
            appetite = appetite.after(appetite.wanted(), appetite.wanted());
        }
        assert_eq!(wanted, [1, 1, 1, 2, 4, 8, 16, 32, 32]);
        appetite = appetite.after(32, 5);
        assert_eq!(appetite.wanted(), 10);
        // Everything read: the socket rests, and begins with a few.
        appetite = appetite.after(10, 1);
        assert_eq!((appetite.wanted(), appetite.span), (1, 1));
    }
}
