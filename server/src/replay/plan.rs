//! Which rows are replayed in which window.
//!
//! Windows are numbered by workload time divided by their length, as the forecasters number them, and
//! follow each other without gaps: a window in which nothing happened is planned too, or a policy would
//! not notice the night. What lies before the slice is for training; what lies after it is not used.

use std::ops::Range;

use placement::WindowId;

use super::{Row, Trace};

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// A stretch of workload time, in milliseconds since the Unix epoch; the end is not part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Its first millisecond.
    pub from_ms: u64,
    /// The millisecond after its last.
    pub until_ms: u64,
}

/// Why a slice cannot be planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A slice or window without length.
    #[error("a slice of {days} days in windows of {window_ms} ms has no windows")]
    Nothing {
        /// Days asked for.
        days: u32,
        /// Window length asked for.
        window_ms: u64,
    },
    /// Windows that do not fill a day.
    #[error("windows of {window_ms} ms do not divide a day")]
    Ragged {
        /// Window length asked for.
        window_ms: u64,
    },
    /// The trace ends before the slice does.
    #[error("the trace ends at {ends_ms} ms, before a slice of {days} days from {from_ms} ms does")]
    TooShort {
        /// Days asked for.
        days: u32,
        /// Where the slice would begin.
        from_ms: u64,
        /// The trace's last access.
        ends_ms: u64,
    },
}

/// One window: its number, its start in workload time, its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedWindow {
    /// Workload time divided by the window's length.
    pub window: WindowId,
    /// Its first millisecond.
    pub starts_at_ms: u64,
    /// Its rows, as indices into [`Trace::rows`].
    pub rows: Range<usize>,
}

/// What is trained on and what is replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayPlan {
    /// The replayed stretch.
    pub slice: Slice,
    /// Length of a window.
    pub window_ms: u64,
    /// The rows before the slice, as indices into [`Trace::rows`].
    pub training: Range<usize>,
    /// The slice's windows, without gaps.
    pub windows: Vec<PlannedWindow>,
}

impl ReplayPlan {
    /// Plans `days` whole days from the first midnight (UTC) after the middle of the trace's time.
    pub fn from_the_middle(trace: &Trace, days: u32, window_ms: u64) -> Result<Self, PlanError> {
        let rows = trace.rows();
        let (first, last) = (
            rows.first().map_or(0, |row| row.at_ms),
            rows.last().map_or(0, |row| row.at_ms),
        );
        let from_ms = (first + (last - first) / 2).next_multiple_of(DAY_MS);
        let until_ms = from_ms + u64::from(days) * DAY_MS;
        if days == 0 || window_ms == 0 {
            return Err(PlanError::Nothing { days, window_ms });
        }
        if !DAY_MS.is_multiple_of(window_ms) {
            return Err(PlanError::Ragged { window_ms });
        }
        if last + window_ms < until_ms {
            return Err(PlanError::TooShort {
                days,
                from_ms,
                ends_ms: last,
            });
        }
        Ok(ReplayPlan::of_slice(rows, Slice { from_ms, until_ms }, window_ms))
    }

    /// The caller has checked that the slice's ends are multiples of the window's length.
    fn of_slice(rows: &[Row], slice: Slice, window_ms: u64) -> Self {
        let before = |at_ms: u64| rows.partition_point(|row| row.at_ms < at_ms);
        let window = |starts_at_ms: u64| PlannedWindow {
            window: WindowId(starts_at_ms / window_ms),
            starts_at_ms,
            rows: before(starts_at_ms)..before(starts_at_ms + window_ms),
        };
        let starts = (slice.from_ms..slice.until_ms).step_by(window_ms as usize);
        let windows = starts.map(window).collect();
        ReplayPlan {
            slice,
            window_ms,
            training: 0..before(slice.from_ms),
            windows,
        }
    }

    /// Rows to replay, over all windows.
    pub fn rows(&self) -> usize {
        self.windows.iter().map(|window| window.rows.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ml::ZoneMap;

    use super::*;
    use crate::replay::{RowKind, TraceLimits};

    const HOUR_MS: u64 = DAY_MS / 24;

    fn trace(times_ms: &[u64]) -> Trace {
        let file = tempfile::NamedTempFile::new().unwrap();
        let rows: String = times_ms.iter().map(|at| format!("{at},u,k,o,dep,1\n")).collect();
        std::fs::write(
            file.path(),
            format!("timestamp_ms,user_id,data_id,origin,op,size\n{rows}"),
        )
        .unwrap();
        let zones = ZoneMap::read("origin,zone,region,lat,lon\no,z,r,0,0\n".as_bytes()).unwrap();
        let limits = TraceLimits {
            key_bytes_max: 10,
            value_bytes_max: 10,
        };
        Trace::read(file.path(), &zones, limits).unwrap()
    }

    /// One access every half hour for ten days, but none in two early hours of the slice.
    fn ten_days() -> Trace {
        let times: Vec<u64> = (0..480).map(|i| 7 * DAY_MS + i * HOUR_MS / 2).collect();
        let gap = 12 * DAY_MS + 2 * HOUR_MS..12 * DAY_MS + 4 * HOUR_MS;
        trace(
            &times
                .into_iter()
                .filter(|at| !gap.contains(at))
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn windows_follow_each_other_and_hold_their_rows() {
        let trace = ten_days();
        let plan = ReplayPlan::from_the_middle(&trace, 2, HOUR_MS).unwrap();
        assert_eq!(
            plan.slice,
            Slice {
                from_ms: 12 * DAY_MS,
                until_ms: 14 * DAY_MS
            }
        );
        assert_eq!(plan.windows.len(), 48);
        let mut next = plan.training.end;
        for (i, window) in plan.windows.iter().enumerate() {
            assert_eq!(window.window, WindowId(12 * 24 + i as u64));
            assert_eq!(window.rows.start, next, "rows are replayed once and in order");
            next = window.rows.end;
            for row in &trace.rows()[window.rows.clone()] {
                assert_eq!(row.at_ms / HOUR_MS, window.window.0);
            }
        }
        let lengths: Vec<usize> = plan.windows[..6].iter().map(|window| window.rows.len()).collect();
        assert_eq!(lengths, [2, 2, 0, 0, 2, 2]);
        assert_eq!(plan.rows(), 96 - 4);
    }

    #[test]
    fn training_ends_where_the_slice_begins() {
        let trace = ten_days();
        let plan = ReplayPlan::from_the_middle(&trace, 1, HOUR_MS).unwrap();
        assert!(
            trace.rows()[plan.training.clone()]
                .iter()
                .all(|row| row.at_ms < plan.slice.from_ms)
        );
        assert_eq!(plan.training, 0..240);
    }

    #[test]
    fn the_trace_of_the_demo_can_be_planned() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../traces/flights-nyc13");
        let zones = ZoneMap::open(&folder.join("zones.csv")).unwrap();
        let limits = TraceLimits {
            key_bytes_max: 4_096,
            value_bytes_max: 1 << 20,
        };
        let trace = Trace::read(&folder.join("trace.csv.zst"), &zones, limits).unwrap();
        assert_eq!(
            (trace.rows().len(), trace.keys().len(), zones.zones().len()),
            (435_933, 3_917, 6)
        );
        assert!(trace.rows().iter().all(|row| row.kind == RowKind::Session));
        let plan = ReplayPlan::from_the_middle(&trace, 7, HOUR_MS).unwrap();
        assert_eq!(plan.windows.len(), 7 * 24);
        assert!(
            plan.rows() > 10_000 && plan.training.len() > 200_000,
            "{} rows",
            plan.rows()
        );
    }

    #[test]
    fn slices_that_do_not_fit_are_refused() {
        let trace = ten_days();
        let plan = |days, window_ms| ReplayPlan::from_the_middle(&trace, days, window_ms);
        assert!(plan(5, HOUR_MS).is_ok());
        assert!(matches!(
            plan(6, HOUR_MS),
            Err(PlanError::TooShort { days: 6, .. })
        ));
        assert!(matches!(plan(0, HOUR_MS), Err(PlanError::Nothing { .. })));
        assert!(matches!(plan(1, 0), Err(PlanError::Nothing { .. })));
        assert!(matches!(plan(1, 7 * HOUR_MS), Err(PlanError::Ragged { .. })));
    }
}
