//! The summary of a set of samples.

use serde::Serialize;

/// Order statistics, in the unit of the samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) n: usize,
    pub(crate) min: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// `None` without samples.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let at = |percent| nearest_rank(&sorted, percent);
        Some(Self { n: sorted.len(), min, p50: at(50), p90: at(90), p99: at(99), max })
    }
}

/// The smallest sample that at least `percent` of all are not above.
fn nearest_rank(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted[rank.max(1) - 1]
}

/// The median of the ratios of samples taken one after the other, which a slow minute of the
/// machine does not move. `None` without pairs.
pub(crate) fn median_ratio(samples: &[f64], anchor: &[f64]) -> Option<f64> {
    if samples.len() == anchor.len() {
        let ratios: Vec<f64> =
            samples.iter().zip(anchor).map(|(sample, anchor)| sample / anchor).collect();
        return Summary::of(&ratios).map(|summary| summary.p50);
    }
    Some(Summary::of(samples)?.p50 / Summary::of(anchor)?.p50)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let summary = Summary::of(&samples).unwrap();
        assert_eq!(
            summary,
            Summary { n: 200, min: 1.0, p50: 100.0, p90: 180.0, p99: 198.0, max: 200.0 }
        );
        let one = Summary::of(&[7.0]).unwrap();
        assert_eq!((one.min, one.p50, one.p99, one.max), (7.0, 7.0, 7.0, 7.0));
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn pairs_are_compared_pair_by_pair() {
        assert_eq!(median_ratio(&[2.0, 40.0, 6.0], &[1.0, 10.0, 3.0]), Some(2.0));
        assert_eq!(median_ratio(&[3.0, 6.0, 9.0], &[2.0]), Some(3.0));
        assert_eq!(median_ratio(&[], &[]), None);
    }
}
