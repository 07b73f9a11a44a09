//! A mean over seeds with its 95 % confidence interval.

use serde::Serialize;

/// Student's t at 97.5 %, by degrees of freedom from 1; beyond these the normal distribution's.
const STUDENT: [f64; 10] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
];
const NORMAL: f64 = 1.96;

/// A mean, and how far the interval reaches to each side: zero where nothing is random or only one seed ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Interval {
    /// Over the seeds.
    pub mean: f64,
    /// Half the interval's width.
    pub half_width: f64,
}

impl Interval {
    /// Of one value a seed.
    pub fn of(values: &[f64]) -> Self {
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count.max(1) as f64;
        if count < 2 {
            return Self {
                mean,
                half_width: 0.0,
            };
        }
        let square: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
        let deviation = (square / (count - 1) as f64).sqrt();
        let student = STUDENT.get(count - 2).copied().unwrap_or(NORMAL);
        Self {
            mean,
            half_width: student * deviation / (count as f64).sqrt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_student_s() {
        let interval = Interval::of(&[1.0, 2.0, 3.0]);
        assert_eq!(interval.mean, 2.0);
        assert!((interval.half_width - 4.303 / 3f64.sqrt()).abs() < 1e-9);
        assert_eq!(
            Interval::of(&[5.0]),
            Interval {
                mean: 5.0,
                half_width: 0.0
            }
        );
    }
}
