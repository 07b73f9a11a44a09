//! What the model reads of a shard before a window: one row a (shard, origin) pair, and one row for the rate.
//!
//! Shares are given as logarithms, each smoothed towards a longer-lived one, so that a shard with no history reads
//! like the mean shard and no logarithm is infinite. A linear model over them is a product of the rules' opinions.
//!
//! Must hold: a row depends on windows before the one asked for, and on nothing else.

use std::sync::LazyLock;

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
/// The logarithm of one more than each age; the last is that of origins which were not seen.
static AGE_LOGS: LazyLock<[f32; AGE_MAX as usize + 1]> =
    LazyLock::new(|| std::array::from_fn(|age| (age as f32).ln_1p()));

const EWMA_0_7: usize = 0;
const EWMA_0_2: usize = 2;
const EWMA_0_1: usize = 3;
const EWMA_0_02: usize = 5;

/// The rows of one shard before one window.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardFeatures {
    /// A row for each origin; see [`crate::PAIR_FEATURE_NAMES`].
    pub pairs: PairFeatures,
    /// The shard's own row.
    pub rate: [f32; RATE_FEATURES],
}

/// A number for each feature of each origin: feature after feature, so that what computes with them takes many origins at
/// once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairFeatures {
    origins: usize,
    columns: Vec<f32>,
}

impl PairFeatures {
    fn with_room_for(origins: usize) -> Self {
        Self {
            origins,
            columns: Vec::with_capacity(origins * PAIR_FEATURES),
        }
    }

    /// How many origins there are.
    pub fn origins(&self) -> usize {
        self.origins
    }

    /// One feature, by the origin's number.
    pub fn column(&self, feature: usize) -> &[f32] {
        &self.columns[feature * self.origins..][..self.origins]
    }

    /// The features of each origin.
    pub(crate) fn rows(&self) -> impl Iterator<Item = [f32; PAIR_FEATURES]> {
        let row = |origin| std::array::from_fn(|feature| self.columns[feature * self.origins + origin]);
        (0..self.origins).map(row)
    }

    #[cfg(test)]
    pub(crate) fn from_rows(rows: &[[f32; PAIR_FEATURES]]) -> Self {
        let mut pairs = Self::with_room_for(rows.len());
        for feature in 0..PAIR_FEATURES {
            pairs.columns.extend(rows.iter().map(|row| row[feature]));
        }
        pairs
    }
}

/// The features of a window's shards before it, with their accesses in it by the origin's number. Shards without
/// history are left out, and so are origins that are not known yet.
pub(crate) fn seen_in(profile: &AccessProfile, window: &WindowCounts) -> Vec<(ShardFeatures, Vec<f32>)> {
    let reader = FeatureReader::new(profile, window.window);
    let seen = window.shards.iter().filter_map(|(shard, by_zone)| {
        let accesses = |zone| by_zone.get(zone).map_or(0.0, |count| count.accesses() as f32);
        let counts = profile.zones().zones().iter().map(accesses).collect();
        Some((reader.features(*shard)?, counts))
    });
    seen.collect()
}

/// Reads features before one window, of any shard: what is the same for all of them is worked out once.
pub(crate) struct FeatureReader<'a> {
    profile: &'a AccessProfile,
    window: WindowId,
    /// The shares of all shards together.
    global: Shares,
    /// Logarithms of those at this hour of the week.
    global_hour_of_week: Vec<f32>,
}

impl<'a> FeatureReader<'a> {
    pub(crate) fn new(profile: &'a AccessProfile, window: WindowId) -> Self {
        let uniform = Shares::uniform(profile.zones().len());
        let global = Shares::of(&profile.global().all, &uniform, 1.0);
        let hour = profile.length().hour_of_week(window);
        let counts = profile.global().hour_of_week[hour].counts();
        Self {
            global_hour_of_week: Shares::of(counts, &global, 10.0 * HOUR_OF_WEEK_ALPHA).logs,
            profile,
            window,
            global,
        }
    }

    /// The features of a shard; `None` if it has no history.
    pub(crate) fn features(&self, shard: ShardId) -> Option<ShardFeatures> {
        let reader = self.shard(shard)?;
        Some(ShardFeatures {
            pairs: reader.pairs(),
            rate: reader.rate(),
        })
    }

    /// The features of a shard's rate alone.
    pub(crate) fn rate_features(&self, shard: ShardId) -> Option<[f32; RATE_FEATURES]> {
        Some(self.shard(shard)?.rate())
    }

    fn shard(&self, shard: ShardId) -> Option<ShardReader<'_>> {
        Some(ShardReader {
            reader: self,
            history: self.profile.shards().get(&shard)?,
            expected: self.profile.expected_touches(shard, self.window),
        })
    }
}

struct ShardReader<'a> {
    reader: &'a FeatureReader<'a>,
    history: &'a ShardHistory,
    expected: Counts,
}

impl ShardReader<'_> {
    fn origins(&self) -> usize {
        self.reader.profile.zones().len()
    }

    /// Column by column, in the order of the names.
    fn pairs(&self) -> PairFeatures {
        let mut pairs = PairFeatures::with_room_for(self.origins());
        let columns = &mut pairs.columns;
        let history = self.history;
        let all = Shares::of(&history.all, &self.reader.global, 4.0);
        let day = Shares::of(self.hour_of_day().counts(), &all, 2.0 * HOUR_OF_DAY_ALPHA);
        let hour = self.reader.profile.length().hour_of_week(self.reader.window);
        let week = history.hour_of_week[hour].counts();
        all.push_logs(columns, &history.last, 0.5);
        for ewma in [EWMA_0_7, EWMA_0_1, EWMA_0_02] {
            self.push_ewma(columns, ewma, &all);
        }
        columns.extend(&all.logs);
        columns.extend(&day.logs);
        day.push_logs(columns, week, HOUR_OF_WEEK_ALPHA);
        columns.extend(&self.reader.global_hour_of_week);
        self.push_transition(columns, &all);
        self.push_is_last(columns);
        self.push_ages(columns);
        let rate = self.ewma_rate(EWMA_0_02).ln_1p();
        columns.extend(std::iter::repeat_n(rate, pairs.origins));
        all.push_logs(columns, &self.expected, 0.05);
        self.push_renewals(columns);
        pairs
    }

    fn push_ewma(&self, columns: &mut Vec<f32>, at: usize, prior: &Shares) {
        let ewma = &self.history.ewma[at];
        let weight = crate::profile::EWMA_ALPHAS[at] / ewma.fade_to(self.reader.window.0).max(1e-6);
        prior.push_logs(columns, ewma.counts(), weight);
    }

    fn ewma_rate(&self, at: usize) -> f32 {
        self.history.ewma[at].total_at(self.reader.window.0)
    }

    fn hour_of_day(&self) -> &DecayedCounts {
        &self.history.hour_of_day[self.reader.profile.length().hour_of_day(self.reader.window)]
    }

    fn push_transition(&self, columns: &mut Vec<f32>, prior: &Shares) {
        let hour = self.reader.profile.length().hour_of_day(self.reader.window);
        let last = self.history.last_origin;
        match last.and_then(|from| self.reader.profile.global().next_from(from, hour)) {
            Some(counts) => prior.push_logs(columns, counts, 5.0),
            None => columns.extend(&prior.logs),
        }
    }

    fn push_is_last(&self, columns: &mut Vec<f32>) {
        let begin = columns.len();
        columns.resize(begin + self.origins(), 0.0);
        if let Some(last) = self.history.last_origin {
            columns[begin + last] = 1.0;
        }
    }

    fn push_ages(&self, columns: &mut Vec<f32>) {
        let age = |origin| match self.history.age_of(origin, self.reader.window) {
            Some(age) => AGE_LOGS[age.min(AGE_MAX) as usize],
            None => AGE_LOGS[AGE_MAX as usize],
        };
        columns.extend((0..self.origins()).map(age));
    }

    fn push_renewals(&self, columns: &mut Vec<f32>) {
        let begin = columns.len();
        columns.resize(begin + self.origins(), RATE_FLOOR.ln());
        for (origin, expected) in self.expected.each() {
            columns[begin + origin] = (expected + RATE_FLOOR).ln();
        }
    }

    fn rate(&self) -> [f32; RATE_FEATURES] {
        let (length, window) = (self.reader.profile.length(), self.reader.window);
        let week = length.day(window) / 7;
        let everywhere = &self.reader.profile.global().hour_of_week[length.hour_of_week(window)];
        [
            self.expected.total(),
            self.ewma_rate(EWMA_0_2),
            self.ewma_rate(EWMA_0_02),
            self.hour_of_day().total_at(length.day(window)),
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

    /// Shares of counts with `weight` accesses' worth of a prior.
    fn of(counts: &Counts, prior: &Self, weight: f32) -> Self {
        let mixed = Mixed::new(counts, weight);
        let mut shares: Vec<f32> = prior.shares.iter().map(|share| mixed.part * share).collect();
        for (origin, count) in counts.each() {
            shares[origin] += count / mixed.total;
        }
        let mut logs = Vec::with_capacity(shares.len());
        mixed.push_logs(&mut logs, prior);
        Self { shares, logs }
    }

    /// Adds the logarithms of the shares of counts, with `weight` accesses' worth of these as the prior.
    fn push_logs(&self, logs: &mut Vec<f32>, counts: &Counts, weight: f32) {
        Mixed::new(counts, weight).push_logs(logs, self);
    }
}

/// Counts with some accesses' worth of a prior.
struct Mixed<'a> {
    counts: &'a Counts,
    total: f32,
    /// What the prior is of the total, 0 to 1.
    part: f32,
}

impl<'a> Mixed<'a> {
    fn new(counts: &'a Counts, weight: f32) -> Self {
        let total = counts.total() + weight;
        Self {
            counts,
            total,
            part: weight / total,
        }
    }

    /// Adds the logarithms of the shares. Most origins have no count, and their share is a part of the prior's, which a
    /// logarithm of the part tells: it is what most of a forecast's time would go to otherwise.
    fn push_logs(&self, logs: &mut Vec<f32>, prior: &Shares) {
        let (log_part, log_min) = (self.part.ln(), SHARE_MIN.ln());
        let begin = logs.len();
        logs.extend(prior.logs.iter().map(|log| (log + log_part).max(log_min)));
        for (origin, count) in self.counts.each() {
            let share = count / self.total + self.part * prior.shares[origin];
            logs[begin + origin] = share.max(SHARE_MIN).ln();
        }
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
        let reader = FeatureReader::new(&profile, WindowId(12));
        let features = reader.features(ShardId(1)).unwrap();
        assert_eq!(features.pairs.rows().count(), 2);
        let pair = |origin: usize, name: &str| {
            let at = PAIR_FEATURE_NAMES
                .iter()
                .position(|known| *known == name)
                .unwrap();
            features.pairs.column(at)[origin]
        };
        assert_eq!((pair(0, "is-last"), pair(1, "is-last")), (0.0, 1.0));
        assert!(pair(1, "last-window") > pair(0, "last-window"));
        assert!(pair(1, "age") < pair(0, "age"));
        let rows: Vec<_> = features.pairs.rows().collect();
        let mut numbers = rows.iter().flatten().chain(&features.rate);
        assert!(numbers.all(|value| value.is_finite()));
        assert_eq!(PairFeatures::from_rows(&rows), features.pairs);
    }

    #[test]
    fn a_shard_never_seen_has_no_features() {
        let profile = profile(&[(1, "a")]);
        let reader = FeatureReader::new(&profile, WindowId(2));
        assert_eq!(reader.features(ShardId(9)), None);
    }
}
