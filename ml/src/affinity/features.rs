//! What the model reads of a shard before a window: one row a (shard, origin) pair, and one row for the rate.
//!
//! Shares are given as logarithms, each smoothed towards a longer-lived one, so that a shard with no history reads
//! like the mean shard and no logarithm is infinite. A linear model over them is a product of the rules' opinions.
//!
//! Must hold: a row depends on windows before the one asked for, and on nothing else.

use placement::{ShardId, WindowId};

use crate::profile::{
    AccessProfile, Counts, DecayedCounts, HOUR_OF_DAY_ALPHA, HOUR_OF_WEEK_ALPHA, ShardHistory,
};
use crate::window::WindowCounts;

/// Names of the features of a pair, in order.
pub const PAIR_FEATURE_NAMES: [&str; PAIR_FEATURES] = [
    "last-window",
    "ewma-0.7",
    "ewma-0.1",
    "ewma-0.02",
    "all-history",
    "hour-of-day",
    "hour-of-week",
    "global-hour-of-week",
    "transition",
    "is-last",
    "age",
    "rate",
    "renewal-share",
    "renewal-count",
];
/// How many features a pair has.
pub(crate) const PAIR_FEATURES: usize = 14;

/// Names of the features of a shard's rate, in order.
pub const RATE_FEATURE_NAMES: [&str; RATE_FEATURES] = [
    "renewal",
    "ewma-0.2",
    "ewma-0.02",
    "hour-of-day",
    "global-hour-of-week",
];
/// How many features a shard's rate has.
pub(crate) const RATE_FEATURES: usize = 5;

/// Added to a rate before its logarithm, in accesses.
const RATE_FLOOR: f32 = 0.02;
/// The smallest share whose logarithm is told apart.
const SHARE_MIN: f32 = 1e-6;
/// Windows after which an origin counts as not seen.
const AGE_MAX: u64 = 48;

const EWMA_0_7: usize = 0;
const EWMA_0_2: usize = 2;
const EWMA_0_1: usize = 3;
const EWMA_0_02: usize = 5;

/// The rows of one shard before one window.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardFeatures {
    /// One number a feature for each origin, origin after origin; see [`crate::PAIR_FEATURE_NAMES`].
    pub pairs: Vec<f32>,
    /// The shard's own row.
    pub rate: [f32; RATE_FEATURES],
}

/// Reads the features of a shard before `window`; `None` for a shard without history.
pub(crate) fn features_of(
    profile: &AccessProfile,
    shard: ShardId,
    window: WindowId,
) -> Option<ShardFeatures> {
    let reader = Reader::new(profile, shard, window)?;
    Some(ShardFeatures {
        pairs: reader.pairs(),
        rate: reader.rate(),
    })
}

/// The features of a window's shards before it, with their accesses in it by the origin's number. Shards without
/// history are left out, and so are origins that are not known yet.
pub(crate) fn seen_in(profile: &AccessProfile, window: &WindowCounts) -> Vec<(ShardFeatures, Vec<f32>)> {
    let seen = window.shards.iter().filter_map(|(shard, by_zone)| {
        let accesses = |zone| by_zone.get(zone).map_or(0.0, |count| count.accesses() as f32);
        let counts = profile.zones().zones().iter().map(accesses).collect();
        Some((features_of(profile, *shard, window.window)?, counts))
    });
    seen.collect()
}

/// Reads the features of a shard's rate alone.
pub(crate) fn rate_features_of(
    profile: &AccessProfile,
    shard: ShardId,
    window: WindowId,
) -> Option<[f32; RATE_FEATURES]> {
    Some(Reader::new(profile, shard, window)?.rate())
}

struct Reader<'a> {
    profile: &'a AccessProfile,
    history: &'a ShardHistory,
    window: WindowId,
    expected: Counts,
}

impl<'a> Reader<'a> {
    fn new(profile: &'a AccessProfile, shard: ShardId, window: WindowId) -> Option<Self> {
        Some(Self {
            profile,
            history: profile.shards().get(&shard)?,
            window,
            expected: profile.expected_touches(shard, window),
        })
    }

    fn origins(&self) -> usize {
        self.profile.zones().len()
    }

    /// Column by column in the order of the names, then laid out row by row.
    fn pairs(&self) -> Vec<f32> {
        let columns = self.columns();
        let origins = 0..self.origins();
        origins
            .flat_map(|origin| columns.iter().map(move |column| column[origin]))
            .collect()
    }

    fn columns(&self) -> [Vec<f32>; PAIR_FEATURES] {
        let origins = self.origins();
        let history = self.history;
        let uniform = Shares::uniform(origins);
        let global = Shares::of(&self.profile.global().all, &uniform, 1.0);
        let all = Shares::of(&history.all, &global, 4.0);
        let (hour_of_day, hour_of_week) = self.profiles(&all);
        let each = |value: &dyn Fn(usize) -> f32| (0..origins).map(value).collect::<Vec<f32>>();
        let unseen = (AGE_MAX as f32).ln_1p();
        let rate = self.ewma_rate(EWMA_0_02).ln_1p();
        let age = |origin| match history.age_of(origin, self.window) {
            Some(age) if age < AGE_MAX => (age as f32).ln_1p(),
            _ => unseen,
        };
        let floor = RATE_FLOOR.ln();
        let renewals = |origin| match self.expected.at(origin) {
            0.0 => floor,
            expected => (expected + RATE_FLOOR).ln(),
        };
        [
            Shares::of(&history.last, &all, 0.5).logs,
            self.ewma(EWMA_0_7, &all),
            self.ewma(EWMA_0_1, &all),
            self.ewma(EWMA_0_02, &all),
            all.logs.clone(),
            hour_of_day.logs,
            hour_of_week.logs,
            self.global_hour_of_week(&global),
            self.transition(&all),
            each(&|origin| {
                if history.last_origin == Some(origin) {
                    1.0
                } else {
                    0.0
                }
            }),
            each(&age),
            vec![rate; origins],
            Shares::of(&self.expected, &all, 0.05).logs,
            each(&renewals),
        ]
    }

    fn ewma(&self, at: usize, prior: &Shares) -> Vec<f32> {
        let ewma = &self.history.ewma[at];
        let weight = crate::profile::EWMA_ALPHAS[at] / ewma.fade_to(self.window.0).max(1e-6);
        Shares::of(ewma.counts(), prior, weight).logs
    }

    fn ewma_rate(&self, at: usize) -> f32 {
        self.history.ewma[at].total_at(self.window.0)
    }

    /// The shares of this hour of the day, and of this hour of the week smoothed towards them.
    fn profiles(&self, all: &Shares) -> (Shares, Shares) {
        let day = Shares::of(self.hour_of_day().counts(), all, 2.0 * HOUR_OF_DAY_ALPHA);
        let hour = self.profile.length().hour_of_week(self.window);
        let week = Shares::of(self.history.hour_of_week[hour].counts(), &day, HOUR_OF_WEEK_ALPHA);
        (day, week)
    }

    fn hour_of_day(&self) -> &DecayedCounts {
        &self.history.hour_of_day[self.profile.length().hour_of_day(self.window)]
    }

    fn global_hour_of_week(&self, prior: &Shares) -> Vec<f32> {
        let hour = self.profile.length().hour_of_week(self.window);
        let counts = self.profile.global().hour_of_week[hour].counts();
        Shares::of(counts, prior, 10.0 * HOUR_OF_WEEK_ALPHA).logs
    }

    fn transition(&self, prior: &Shares) -> Vec<f32> {
        let hour = self.profile.length().hour_of_day(self.window);
        let next = self
            .history
            .last_origin
            .and_then(|from| self.profile.global().next_from(from, hour));
        next.map_or_else(
            || prior.logs.clone(),
            |counts| Shares::of(counts, prior, 5.0).logs,
        )
    }

    fn rate(&self) -> [f32; RATE_FEATURES] {
        let length = self.profile.length();
        let week = length.day(self.window) / 7;
        let everywhere = &self.profile.global().hour_of_week[length.hour_of_week(self.window)];
        [
            self.expected.total(),
            self.ewma_rate(EWMA_0_2),
            self.ewma_rate(EWMA_0_02),
            self.hour_of_day().total_at(length.day(self.window)),
            everywhere.total_at(week),
        ]
        .map(|rate| (rate + RATE_FLOOR).ln())
    }
}

/// Smoothed shares by origin, and their logarithms, never below that of [`SHARE_MIN`].
struct Shares {
    shares: Vec<f32>,
    logs: Vec<f32>,
}

impl Shares {
    fn uniform(origins: usize) -> Self {
        let share = 1.0 / origins.max(1) as f32;
        Self {
            shares: vec![share; origins],
            logs: vec![share.ln(); origins],
        }
    }

    /// Shares of counts with `weight` accesses' worth of a prior. Most origins have no count, and their share is a part
    /// of the prior's, which a logarithm of the part tells: it is what most of a forecast's time would go to otherwise.
    fn of(counts: &Counts, prior: &Self, weight: f32) -> Self {
        let total = counts.total() + weight;
        let (part, log_part, log_min) = (weight / total, (weight / total).ln(), SHARE_MIN.ln());
        let origins = prior.shares.len();
        let (mut shares, mut logs) = (Vec::with_capacity(origins), Vec::with_capacity(origins));
        for (origin, (of_prior, log_prior)) in prior.shares.iter().zip(&prior.logs).enumerate() {
            let count = counts.at(origin);
            let share = count / total + part * of_prior;
            shares.push(share);
            logs.push(match count {
                0.0 => (log_prior + log_part).max(log_min),
                _ => share.max(SHARE_MIN).ln(),
            });
        }
        Self { shares, logs }
    }
}

#[cfg(test)]
mod tests {
    use placement::Zone;

    use super::*;
    use crate::profile::WindowLength;
    use crate::window::WindowCounts;

    fn profile(windows: &[(u64, &str)]) -> AccessProfile {
        let mut profile = AccessProfile::new(&[Zone::from("a"), Zone::from("b")], WindowLength::HOUR);
        for (window, zone) in windows {
            let mut counts = WindowCounts::empty(WindowId(*window));
            counts.count(ShardId(1), &Zone::from(*zone), 2, 2);
            profile.observe(&counts);
        }
        profile
    }

    #[test]
    fn features_name_the_origin_that_was_seen() {
        let profile = profile(&[(10, "a"), (11, "b")]);
        let features = features_of(&profile, ShardId(1), WindowId(12)).unwrap();
        assert_eq!(features.pairs.len(), 2 * PAIR_FEATURES);
        let pair = |origin: usize, name: &str| {
            let at = PAIR_FEATURE_NAMES
                .iter()
                .position(|known| *known == name)
                .unwrap();
            features.pairs[origin * PAIR_FEATURES + at]
        };
        assert_eq!((pair(0, "is-last"), pair(1, "is-last")), (0.0, 1.0));
        assert!(pair(1, "last-window") > pair(0, "last-window"));
        assert!(pair(1, "age") < pair(0, "age"));
        assert!(
            features
                .pairs
                .iter()
                .chain(&features.rate)
                .all(|value| value.is_finite())
        );
    }

    #[test]
    fn a_shard_never_seen_has_no_features() {
        assert_eq!(features_of(&profile(&[(1, "a")]), ShardId(9), WindowId(2)), None);
    }
}
