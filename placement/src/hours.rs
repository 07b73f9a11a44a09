//! Maintenance windows: the hours of the week, in UTC, in which bets on the future may start.
//!
//! Without any, they start at all hours. With some, balancing and forecasts start inside them alone; what has started goes
//! on when a window ends, and repair, draining, rules and operators never wait for one: those put right what is wrong. Time
//! is mechanism time as it is stamped into entries, so every replica judges an entry alike, whenever it applies it.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Windows at most.
pub const HOURS_MAX: usize = 64;

/// Minutes of a day.
pub const DAY_MINUTES: u32 = 24 * 60;

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = DAY_MINUTES as u64 * MINUTE_MS;

/// A day of the week, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Weekday {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

impl Weekday {
    /// The week, from Monday.
    pub const ALL: [Weekday; 7] = [
        Weekday::Mon,
        Weekday::Tue,
        Weekday::Wed,
        Weekday::Thu,
        Weekday::Fri,
        Weekday::Sat,
        Weekday::Sun,
    ];

    /// The day of a moment, in milliseconds since the Unix epoch, which was a Thursday.
    pub fn of_ms(at_ms: u64) -> Self {
        let day = (at_ms / DAY_MS + 3) % 7;
        Self::ALL[usize::try_from(day).unwrap_or(0)]
    }

    /// Its name, as operators write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Weekday::Mon => "mon",
            Weekday::Tue => "tue",
            Weekday::Wed => "wed",
            Weekday::Thu => "thu",
            Weekday::Fri => "fri",
            Weekday::Sat => "sat",
            Weekday::Sun => "sun",
        }
    }

    /// The day of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|day| day.as_str() == name)
    }
}

/// A span of some days of each week.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hours {
    /// The days on which it begins.
    pub days: BTreeSet<Weekday>,
    /// When it begins, in minutes after midnight UTC.
    pub start_minute: u32,
    /// How long it lasts, in minutes: at most a day; past midnight it goes on into the next day.
    pub minutes: u32,
}

impl Hours {
    /// What is wrong with it, if anything.
    pub fn fault(&self) -> Option<String> {
        if self.days.is_empty() {
            return Some("a window needs a day on which it begins".to_owned());
        }
        if self.start_minute >= DAY_MINUTES {
            return Some("a window begins between 00:00 and 23:59".to_owned());
        }
        (!(1..=DAY_MINUTES).contains(&self.minutes))
            .then(|| format!("a window lasts 1 to {DAY_MINUTES} minutes"))
    }

    /// Whether a moment lies in it, in milliseconds since the Unix epoch: the begin does, the end does not.
    pub fn contains(&self, at_ms: u64) -> bool {
        let since_midnight_ms = at_ms % DAY_MS;
        let (start_ms, length_ms) = (
            u64::from(self.start_minute) * MINUTE_MS,
            u64::from(self.minutes) * MINUTE_MS,
        );
        let began_today = self.days.contains(&Weekday::of_ms(at_ms))
            && (start_ms..start_ms + length_ms).contains(&since_midnight_ms);
        let yesterday = at_ms.checked_sub(DAY_MS).map(Weekday::of_ms);
        let began_yesterday = yesterday.is_some_and(|day| self.days.contains(&day))
            && since_midnight_ms + DAY_MS < start_ms + length_ms;
        began_today || began_yesterday
    }
}

/// For people: `mon,tue 22:00 for 360 min`.
impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days: Vec<&str> = self.days.iter().map(|day| day.as_str()).collect();
        let (hour, minute) = (self.start_minute / 60, self.start_minute % 60);
        write!(
            f,
            "{} {hour:02}:{minute:02} UTC for {} min",
            days.join(","),
            self.minutes
        )
    }
}

/// A change of the windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum HoursChange {
    /// One more; answers with its id.
    Add(Hours),
    /// The window of this id ends to be one.
    Remove(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn at(days: u64, hours: u64) -> u64 {
        days * DAY_MS + hours * HOUR_MS
    }

    #[test]
    fn the_epoch_began_on_a_thursday() {
        assert_eq!(Weekday::of_ms(0), Weekday::Thu);
        assert_eq!(Weekday::of_ms(at(3, 23)), Weekday::Sun);
        assert_eq!(Weekday::of_ms(at(4, 0)), Weekday::Mon);
        // 2026-11-27 was a Friday.
        assert_eq!(Weekday::of_ms(1_795_737_600_000), Weekday::Fri);
    }

    #[test]
    fn a_window_goes_on_past_midnight() {
        let night = Hours {
            days: [Weekday::Thu].into(),
            start_minute: 22 * 60,
            minutes: 6 * 60,
        };
        for (day, hour, inside) in [
            (0, 21, false),
            (0, 22, true),
            (1, 0, true),
            (1, 3, true),
            (1, 4, false),
            (1, 22, false),
            (7, 23, true),
        ] {
            assert_eq!(night.contains(at(day, hour)), inside, "day {day}, {hour}:00");
        }
        let whole = Hours {
            days: Weekday::ALL.into(),
            start_minute: 60,
            minutes: DAY_MINUTES,
        };
        assert!((0..48).all(|hour| hour == 0 || whole.contains(at(0, hour))));
        assert_eq!(night.to_string(), "thu 22:00 UTC for 360 min");
        assert_eq!(night.fault(), None);
        let faults = [
            Hours {
                days: BTreeSet::new(),
                ..night.clone()
            },
            Hours {
                start_minute: DAY_MINUTES,
                ..night.clone()
            },
            Hours {
                minutes: 0,
                ..night.clone()
            },
            Hours {
                minutes: DAY_MINUTES + 1,
                ..night
            },
        ];
        assert!(faults.iter().all(|hours| hours.fault().is_some()));
    }
}
