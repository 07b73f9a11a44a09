//! Standardised features: zero mean, unit deviation, and no further from the mean than training can answer for.

use super::features::PAIR_FEATURE_NAMES;

/// Standard deviations beyond which a feature counts as this far only: what training never saw must not decide alone.
const DEVIATIONS_MAX: f32 = 4.0;

/// A feature as the network takes it.
#[inline(always)]
pub(crate) fn standardise(value: f32, mean: f32, scale: f32) -> f32 {
    ((value - mean) * scale).clamp(-DEVIATIONS_MAX, DEVIATIONS_MAX)
}

/// Mean and one over the standard deviation, by feature.
pub(crate) struct Standard {
    pub(crate) mean: Vec<f32>,
    pub(crate) scale: Vec<f32>,
}

impl Standard {
    pub(crate) fn of<const N: usize>(rows: impl Iterator<Item = [f32; N]>) -> Self {
        let (mut sum, mut square, mut rows_seen) = ([0f64; N], [0f64; N], 0f64);
        for row in rows {
            rows_seen += 1.0;
            for (at, value) in row.iter().enumerate() {
                sum[at] += f64::from(*value);
                square[at] += f64::from(*value) * f64::from(*value);
            }
        }
        let mean: Vec<f64> = sum.iter().map(|sum| sum / rows_seen.max(1.0)).collect();
        let deviation = |at: usize| {
            (square[at] / rows_seen.max(1.0) - mean[at] * mean[at])
                .max(0.0)
                .sqrt()
        };
        // A feature that never varied says nothing: its scale of 1 keeps it at zero.
        let scale = |at: usize| {
            if deviation(at) > 1e-4 {
                (1.0 / deviation(at)) as f32
            } else {
                1.0
            }
        };
        Self {
            mean: mean.iter().map(|mean| *mean as f32).collect(),
            scale: (0..N).map(scale).collect(),
        }
    }

    /// A scale of zero hides a feature, in training and in serving.
    pub(crate) fn hide(&mut self, names: &[String]) {
        for (scale, name) in self.scale.iter_mut().zip(PAIR_FEATURE_NAMES) {
            if names.iter().any(|hidden| hidden == name) {
                *scale = 0.0;
            }
        }
    }

    pub(crate) fn apply<'a>(&'a self, row: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
        row.iter()
            .enumerate()
            .map(|(at, value)| standardise(*value, self.mean[at], self.scale[at]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_gets_zero_mean_and_unit_deviation() {
        let rows = [[1.0, 7.0], [3.0, 7.0]];
        let standard = Standard::of(rows.iter().copied());
        let applied: Vec<Vec<f32>> = rows.iter().map(|row| standard.apply(row).collect()).collect();
        assert_eq!(applied, [[-1.0, 0.0], [1.0, 0.0]]);
    }

    #[test]
    fn what_training_never_saw_is_cut_off() {
        assert_eq!(
            (standardise(1e9, 0.0, 1.0), standardise(-1e9, 0.0, 1.0)),
            (4.0, -4.0)
        );
    }
}
