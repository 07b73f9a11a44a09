//! Moments as operators write them: so long ago, or a date and time in UTC as the listings show it.

use std::time::Duration;

const DAY_S: u64 = 86_400;

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// So long before now.
    Ago(Duration),
    /// Milliseconds since 1970.
    At(u64),
}

impl Moment {
    /// In milliseconds since 1970, if it is `now_ms`.
    pub fn at_ms(self, now_ms: u64) -> u64 {
        match self {
            Moment::Ago(ago) => now_ms.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
            Moment::At(at_ms) => at_ms,
        }
    }
}

/// Reads `90s`, `30m`, `2h`, `7d`, or `2026-03-01T12:00:00Z`.
pub(super) fn parse_moment(text: &str) -> Result<Moment, String> {
    let moment = ago(text)
        .map(Moment::Ago)
        .or_else(|| Some(Moment::At(utc_s(text)?.checked_mul(1_000)?)));
    moment.ok_or_else(|| "must be like 90s, 30m, 2h, 7d or 2026-03-01T12:00:00Z".to_owned())
}

fn ago(text: &str) -> Option<Duration> {
    let (count, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => DAY_S,
        _ => return None,
    };
    Some(Duration::from_secs(
        count.parse::<u64>().ok()?.checked_mul(seconds)?,
    ))
}

/// Seconds since 1970 of a date and time; between them stands a T or a blank.
fn utc_s(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once(['T', ' '])?;
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let is_date = year >= 1970 && (1..=12).contains(&month) && (1..=31).contains(&day);
    let is_time = hour < 24 && minute < 60 && second < 60;
    (is_date && is_time && year < 10_000)
        .then(|| days_of(year, month, day) * DAY_S + hour * 3_600 + minute * 60 + second)
}

fn numbers(text: &str, separator: char) -> Option<[u64; 3]> {
    let numbers: Option<Vec<u64>> = text.split(separator).map(|part| part.parse().ok()).collect();
    numbers?.try_into().ok()
}

/// Days from 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms", `days_from_civil`).
fn days_of(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let march_month = (month + 9) % 12;
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read() {
        assert_eq!(parse_moment("2h"), Ok(Moment::Ago(Duration::from_secs(7_200))));
        assert_eq!(parse_moment("1970-01-01T00:00:00Z"), Ok(Moment::At(0)));
        let leap_day = Ok(Moment::At(1_709_210_096_000));
        assert_eq!(parse_moment("2024-02-29T12:34:56Z"), leap_day);
        assert_eq!(parse_moment("2024-02-29 12:34:56Z"), leap_day);
        assert_eq!(Moment::Ago(Duration::from_secs(5)).at_ms(7_000), 2_000);
        assert_eq!(Moment::Ago(Duration::from_secs(5)).at_ms(3_000), 0);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "h",
            "2",
            "2w",
            "-2h",
            "2024-13-01T00:00:00Z",
            "2024-01-01",
            "1969-01-01T00:00:00Z",
            "é",
        ] {
            assert!(parse_moment(text).is_err(), "{text}");
        }
        assert!(parse_moment(&format!("{}d", u64::MAX)).is_err());
    }
}
