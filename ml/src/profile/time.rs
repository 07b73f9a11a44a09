//! Workload time in windows: which hour of the day and of the week a window lies in, in UTC.

use placement::WindowId;

const HOUR_MS: u64 = 3_600_000;
/// The Unix epoch was a Thursday; with this shift hour 0 of a week is Monday's first.
const EPOCH_HOUR_OF_WEEK: u64 = 3 * 24;

/// How long a window is, in milliseconds of workload time; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowLength(u64);

impl WindowLength {
    /// One hour, the length that the demo uses.
    pub const HOUR: Self = Self(HOUR_MS);

    /// Panics if `window_ms` is zero.
    pub fn from_ms(window_ms: u64) -> Self {
        assert!(window_ms > 0, "a window has a length");
        Self(window_ms)
    }

    /// The length in milliseconds.
    pub fn as_ms(self) -> u64 {
        self.0
    }

    /// When a window begins, in milliseconds since the Unix epoch.
    pub fn start_ms(self, window: WindowId) -> u64 {
        window.0 * self.0
    }

    /// 0 to 23.
    pub fn hour_of_day(self, window: WindowId) -> usize {
        (self.start_ms(window) / HOUR_MS % 24) as usize
    }

    /// 0 to 167, from Monday.
    pub fn hour_of_week(self, window: WindowId) -> usize {
        ((self.start_ms(window) / HOUR_MS + EPOCH_HOUR_OF_WEEK) % 168) as usize
    }

    /// Days since the Unix epoch.
    pub fn day(self, window: WindowId) -> u64 {
        self.start_ms(window) / (24 * HOUR_MS)
    }

    /// How many windows a span of hours has, at least one.
    pub fn windows_in_hours(self, hours: u64) -> u64 {
        (hours * HOUR_MS / self.0).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_those_of_the_calendar() {
        // 2013-07-01 was a Monday; 15:00 UTC.
        let window = WindowId(1_372_690_800_000 / 3_600_000);
        assert_eq!(WindowLength::HOUR.hour_of_day(window), 15);
        assert_eq!(WindowLength::HOUR.hour_of_week(window), 15);
        assert_eq!(WindowLength::from_ms(600_000).windows_in_hours(24), 144);
    }
}
