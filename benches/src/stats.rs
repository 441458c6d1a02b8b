//! Medians and spreads of a handful of samples.

/// The value below which `share` (0 to 1) of the samples lie, interpolated between neighbours. NaN without samples.
pub fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// The middle sample.
pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// How far samples lie apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The smallest.
    pub min: f64,
    /// A quarter lies below.
    pub low: f64,
    /// The middle.
    pub median: f64,
    /// A quarter lies above.
    pub high: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of at least one sample.
    pub fn of(samples: &[f64]) -> Option<Self> {
        (!samples.is_empty()).then(|| Self {
            min: quantile(samples, 0.0),
            low: quantile(samples, 0.25),
            median: median(samples),
            high: quantile(samples, 0.75),
            max: quantile(samples, 1.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_interpolated() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(spread, Spread { min: 1.0, low: 1.75, median: 2.5, high: 3.25, max: 4.0 });
        assert_eq!(Spread::of(&[]), None);
    }
}
