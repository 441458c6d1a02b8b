//! Random numbers for everything that is random in a reactor: jitter, choices, and what programs ask for.
//!
//! The generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
//! 2014): one word of state, any seed is good, and the same seed gives the same numbers everywhere. It is not
//! for secrets.

/// The generator.
#[derive(Clone, Debug)]
pub(crate) struct Generator {
    state: u64,
}

impl Generator {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// One whose seed nobody knows.
    pub(crate) fn unpredictable() -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self::new(RandomState::new().hash_one(0_u8))
    }

    /// Another generator, whose numbers have nothing to do with the ones still to come from here.
    #[cfg(feature = "testing")]
    pub(crate) fn split(&mut self) -> Self {
        Self::new(self.next().rotate_left(32) ^ 0x6a09_e667_f3bc_c909)
    }

    /// A generator for one of many purposes, which differ in these two numbers. What is drawn for one does
    /// not change what is drawn for another.
    #[cfg(feature = "testing")]
    pub(crate) fn for_purpose(seed: u64, one: u64, other: u64) -> Self {
        let mixed = Self::new(seed ^ one.rotate_left(24)).next();
        Self::new(mixed ^ other.rotate_left(48))
    }

    /// The next number, of all 64-bit ones.
    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, all equally likely; 0 when `limit` is 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 {
            return 0;
        }
        // The high half of the product; the few numbers that would make it uneven are drawn again (Lemire,
        // "Fast random integer generation in an interval", 2019).
        let uneven = limit.wrapping_neg() % limit;
        loop {
            let product = u128::from(self.next()) * u128::from(limit);
            if product as u64 >= uneven {
                return (product >> 64) as u64;
            }
        }
    }

    /// True with this probability.
    #[cfg(feature = "testing")]
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.unit() < probability
    }

    /// A number from 0 to below 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Puts a list into a random order.
    #[cfg(feature = "testing")]
    pub(crate) fn shuffle<T>(&mut self, list: &mut [T]) {
        for end in (1..list.len()).rev() {
            list.swap(end, self.below(end as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_published_algorithm() {
        // The first outputs for the seed 1234567, as other implementations give them.
        let mut generator = Generator::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| generator.next()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn a_limit_is_kept_and_every_number_below_it_comes() {
        let mut generator = Generator::new(1);
        let mut seen = [0_u32; 7];
        for _ in 0..7000 {
            seen[generator.below(7) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (850..1150).contains(count)), "{seen:?}");
        assert_eq!(generator.below(0), 0);
        assert_eq!(generator.below(1), 0);
        assert!((0..1000).map(|_| generator.unit()).all(|unit| (0.0..1.0).contains(&unit)));
    }
}
