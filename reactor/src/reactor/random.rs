//! Random numbers that a simulation can repeat: [`Random`].

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use crate::core::random::Generator;
use crate::reactor::handle::Handle;

/// The random numbers of a reactor; see [`Handle::random`].
///
/// For jitter, choices and games, not for secrets: whoever sees a few of them can tell the next.
pub struct Random<'h> {
    handle: &'h Handle,
}

impl Random<'_> {
    fn draw<R>(&self, draw: impl FnOnce(&mut Generator) -> R) -> R {
        match self.handle.inner() {
            Some(inner) => draw(&mut inner.random.borrow_mut()),
            // The reactor is gone, and whatever is drawn serves nothing any more.
            None => draw(&mut Generator::new(0)),
        }
    }

    /// Any 64-bit number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.draw(Generator::next)
    }

    /// A number below `limit`, each with the same probability; 0 when `limit` is 0.
    #[must_use]
    pub fn below(&self, limit: u64) -> u64 {
        self.draw(|generator| generator.below(limit))
    }

    /// A number from 0 to below 1.
    #[must_use]
    pub fn unit(&self) -> f64 {
        self.draw(Generator::unit)
    }

    /// True with this probability.
    #[must_use]
    pub fn chance(&self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// A time within the range; its start if it is empty.
    #[must_use]
    pub fn duration(&self, range: Range<Duration>) -> Duration {
        let length = range.end.saturating_sub(range.start);
        range.start + Duration::from_nanos(self.below(u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Fills a buffer.
    pub fn fill(&self, buffer: &mut [u8]) {
        for piece in buffer.chunks_mut(8) {
            piece.copy_from_slice(&self.number().to_le_bytes()[..piece.len()]);
        }
    }
}

impl fmt::Debug for Random<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random")
    }
}

impl Handle {
    /// Random numbers: in production nobody can foretell them, in a simulation they follow from its seed.
    ///
    /// ```
    /// # fn example(handle: &twistor::Handle) {
    /// use std::time::Duration;
    ///
    /// // Half a second, give or take a fifth.
    /// let pause = handle.random().duration(Duration::from_millis(400)..Duration::from_millis(600));
    /// handle.call_later(pause, |_| println!("again"));
    /// # }
    /// ```
    #[must_use]
    pub fn random(&self) -> Random<'_> {
        Random { handle: self }
    }
}
