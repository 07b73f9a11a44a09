//! The rules themselves: none looks further than a count by origin.

use std::collections::{BTreeMap, VecDeque};

use placement::{ShardId, WindowId};

use super::rule::Rule;
use crate::profile::{Counts, DecayedCounts, HOUR_OF_DAY_ALPHA, WindowLength, inherit};

/// A prior's weight in an hour's profile, in accesses a day.
const PROFILE_PRIOR: f32 = 2.0;

/// Spreads shards over origins by their number, whatever is seen.
#[derive(Clone, Debug, Default)]
pub struct StaticHash;

impl Rule for StaticHash {
    fn observe(&mut self, _: ShardId, _: WindowId, _: &Counts, _: Option<usize>) {}

    fn inherit(&mut self, _: ShardId, _: ShardId) {}

    fn expect(&self, shard: ShardId, _: WindowId, origins: usize) -> Option<Counts> {
        let mut counts = Counts::default();
        counts.add((shard.0 % origins.max(1) as u64) as usize, 1.0);
        Some(counts)
    }
}

/// The mean of all windows before `until`, for ever.
#[derive(Clone, Debug)]
pub struct StaticMajority {
    until: WindowId,
    since: Option<WindowId>,
    shards: BTreeMap<ShardId, Counts>,
}

impl StaticMajority {
    /// Learns from the windows before `until`.
    pub fn new(until: WindowId) -> Self {
        Self {
            until,
            since: None,
            shards: BTreeMap::new(),
        }
    }
}

impl Rule for StaticMajority {
    fn observe(&mut self, shard: ShardId, window: WindowId, counts: &Counts, _: Option<usize>) {
        if window < self.until {
            self.since.get_or_insert(window);
            self.shards.entry(shard).or_default().add_all(counts);
        }
    }

    fn inherit(&mut self, from: ShardId, to: ShardId) {
        inherit(&mut self.shards, from, to);
    }

    fn expect(&self, shard: ShardId, _: WindowId, _: usize) -> Option<Counts> {
        let mut counts = self.shards.get(&shard)?.clone();
        let windows = self.until.0.saturating_sub(self.since?.0).max(1);
        counts.scale(1.0 / windows as f32);
        Some(counts)
    }
}

/// The last window that had accesses, again.
#[derive(Clone, Debug, Default)]
pub struct LastWindow(BTreeMap<ShardId, Counts>);

impl Rule for LastWindow {
    fn observe(&mut self, shard: ShardId, _: WindowId, counts: &Counts, _: Option<usize>) {
        self.0.insert(shard, counts.clone());
    }

    fn inherit(&mut self, from: ShardId, to: ShardId) {
        inherit(&mut self.0, from, to);
    }

    fn expect(&self, shard: ShardId, _: WindowId, _: usize) -> Option<Counts> {
        self.0.get(&shard).cloned()
    }
}

/// All accesses from where the last one came from.
#[derive(Clone, Debug, Default)]
pub struct LastAccess(BTreeMap<ShardId, Counts>);

impl Rule for LastAccess {
    fn observe(&mut self, shard: ShardId, _: WindowId, counts: &Counts, last_origin: Option<usize>) {
        if let Some(origin) = last_origin {
            let mut expected = Counts::default();
            expected.add(origin, counts.total());
            self.0.insert(shard, expected);
        }
    }

    fn inherit(&mut self, from: ShardId, to: ShardId) {
        inherit(&mut self.0, from, to);
    }

    fn expect(&self, shard: ShardId, _: WindowId, _: usize) -> Option<Counts> {
        self.0.get(&shard).cloned()
    }
}

/// An exponentially weighted mean over windows.
#[derive(Clone, Debug)]
pub struct Ewma {
    alpha: f32,
    shards: BTreeMap<ShardId, DecayedCounts>,
}

impl Ewma {
    /// `alpha` is the weight of the newest window, 0 to 1.
    pub fn new(alpha: f32) -> Self {
        Self {
            alpha,
            shards: BTreeMap::new(),
        }
    }
}

impl Rule for Ewma {
    fn observe(&mut self, shard: ShardId, window: WindowId, counts: &Counts, _: Option<usize>) {
        let mean = self
            .shards
            .entry(shard)
            .or_insert_with(|| DecayedCounts::new(self.alpha));
        counts
            .each()
            .for_each(|(origin, amount)| mean.add(window.0, origin, amount));
    }

    fn inherit(&mut self, from: ShardId, to: ShardId) {
        inherit(&mut self.shards, from, to);
    }

    fn expect(&self, shard: ShardId, window: WindowId, _: usize) -> Option<Counts> {
        let mean = self.shards.get(&shard)?;
        let mut counts = mean.counts().clone();
        // Never to nothing: of a shard idle for weeks, the rate fades and the shares stay.
        counts.scale(mean.fade_to(window.0).max(1e-6));
        Some(counts)
    }
}

/// The window one season ago, or the mean of all windows where that had no accesses.
#[derive(Clone, Debug)]
pub struct SeasonalNaive {
    season: u64,
    since: Option<WindowId>,
    recent: BTreeMap<ShardId, VecDeque<(WindowId, Counts)>>,
    all: BTreeMap<ShardId, Counts>,
}

impl SeasonalNaive {
    /// A season of this many windows, at least one.
    pub fn new(season: u64) -> Self {
        Self {
            season: season.max(1),
            since: None,
            recent: BTreeMap::new(),
            all: BTreeMap::new(),
        }
    }

    fn mean(&self, shard: ShardId, window: WindowId) -> Option<Counts> {
        let mut counts = self.all.get(&shard)?.clone();
        counts.scale(1.0 / window.0.saturating_sub(self.since?.0).max(1) as f32);
        Some(counts)
    }
}

impl Rule for SeasonalNaive {
    fn observe(&mut self, shard: ShardId, window: WindowId, counts: &Counts, _: Option<usize>) {
        self.since.get_or_insert(window);
        self.all.entry(shard).or_default().add_all(counts);
        let recent = self.recent.entry(shard).or_default();
        recent.push_back((window, counts.clone()));
        while recent
            .front()
            .is_some_and(|(at, _)| at.0 + self.season < window.0)
        {
            recent.pop_front();
        }
    }

    fn inherit(&mut self, from: ShardId, to: ShardId) {
        inherit(&mut self.recent, from, to);
        inherit(&mut self.all, from, to);
    }

    fn expect(&self, shard: ShardId, window: WindowId, _: usize) -> Option<Counts> {
        let wanted = WindowId(window.0.saturating_sub(self.season));
        let recent = self.recent.get(&shard)?;
        let before = recent
            .binary_search_by_key(&wanted, |(at, _)| *at)
            .ok()
            .map(|at| recent[at].1.clone());
        before.or_else(|| self.mean(shard, window))
    }
}

/// A fading mean for each hour of the day, with the mean of all windows mixed in while it has seen little.
#[derive(Clone, Debug)]
pub struct HourOfDay {
    length: WindowLength,
    shards: BTreeMap<ShardId, HourProfile>,
}

#[derive(Clone, Debug)]
struct HourProfile {
    hours: Vec<DecayedCounts>,
    all: Counts,
}

impl HourOfDay {
    /// For windows of this length.
    pub fn new(length: WindowLength) -> Self {
        Self {
            length,
            shards: BTreeMap::new(),
        }
    }
}

impl Rule for HourOfDay {
    fn observe(&mut self, shard: ShardId, window: WindowId, counts: &Counts, _: Option<usize>) {
        let profile = self.shards.entry(shard).or_insert_with(|| HourProfile {
            hours: vec![DecayedCounts::new(HOUR_OF_DAY_ALPHA); 24],
            all: Counts::default(),
        });
        profile.all.add_all(counts);
        let (hour, day) = (self.length.hour_of_day(window), self.length.day(window));
        counts
            .each()
            .for_each(|(origin, amount)| profile.hours[hour].add(day, origin, amount));
    }

    fn inherit(&mut self, from: ShardId, to: ShardId) {
        inherit(&mut self.shards, from, to);
    }

    fn expect(&self, shard: ShardId, window: WindowId, origins: usize) -> Option<Counts> {
        let profile = self.shards.get(&shard)?;
        let hour = &profile.hours[self.length.hour_of_day(window)];
        let uniform = vec![1.0 / origins.max(1) as f32; origins];
        let mean = profile.all.shares(origins, &uniform, 1.0);
        let rate = hour.total_at(self.length.day(window));
        let shares = hour
            .counts()
            .shares(origins, &mean, PROFILE_PRIOR * HOUR_OF_DAY_ALPHA);
        let mut expected = Counts::default();
        shares
            .iter()
            .enumerate()
            .for_each(|(origin, share)| expected.add(origin, share * rate.max(1e-6)));
        Some(expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(1);

    fn at(origin: usize, amount: f32) -> Counts {
        let mut counts = Counts::default();
        counts.add(origin, amount);
        counts
    }

    fn likeliest(rule: &impl Rule, window: u64) -> Option<usize> {
        let counts = rule.expect(SHARD, WindowId(window), 2)?;
        Some(usize::from(counts.at(1) > counts.at(0)))
    }

    /// Origin 1 by night, origin 0 by day.
    fn follow_the_sun(rule: &mut impl Rule, days: u64) {
        for window in 0..days * 24 {
            rule.observe(
                SHARD,
                WindowId(window),
                &at(usize::from(window % 24 >= 12), 2.0),
                None,
            );
        }
    }

    #[test]
    fn the_static_rule_learns_until_its_end_only() {
        let mut rule = StaticMajority::new(WindowId(10));
        rule.observe(SHARD, WindowId(1), &at(0, 1.0), None);
        rule.observe(SHARD, WindowId(10), &at(1, 9.0), None);
        assert_eq!(likeliest(&rule, 11), Some(0));
    }

    #[test]
    fn the_last_window_and_the_last_access_follow() {
        let mut counts = at(0, 3.0);
        counts.add(1, 1.0);
        let (mut window, mut access) = (LastWindow::default(), LastAccess::default());
        window.observe(SHARD, WindowId(1), &counts, Some(1));
        access.observe(SHARD, WindowId(1), &counts, Some(1));
        assert_eq!((likeliest(&window, 2), likeliest(&access, 2)), (Some(0), Some(1)));
    }

    #[test]
    fn a_fast_mean_follows_and_a_slow_one_stays() {
        let (mut fast, mut slow) = (Ewma::new(0.7), Ewma::new(0.02));
        for window in 0..50 {
            fast.observe(SHARD, WindowId(window), &at(0, 1.0), None);
            slow.observe(SHARD, WindowId(window), &at(0, 1.0), None);
        }
        fast.observe(SHARD, WindowId(50), &at(1, 1.0), None);
        slow.observe(SHARD, WindowId(50), &at(1, 1.0), None);
        assert_eq!((likeliest(&fast, 51), likeliest(&slow, 51)), (Some(1), Some(0)));
    }

    #[test]
    fn seasonal_rules_know_the_time_of_day() {
        let (mut naive, mut profile) = (SeasonalNaive::new(24), HourOfDay::new(WindowLength::HOUR));
        follow_the_sun(&mut naive, 20);
        follow_the_sun(&mut profile, 20);
        for hour in 0..24 {
            let expected = Some(usize::from(hour >= 12));
            assert_eq!(likeliest(&naive, 480 + hour), expected, "hour {hour}");
            assert_eq!(likeliest(&profile, 480 + hour), expected, "hour {hour}");
        }
    }

    #[test]
    fn a_new_shard_begins_with_the_history_of_the_one_it_was_cut_from() {
        const NEW: ShardId = ShardId(2);
        fn begins(mut rule: impl Rule) {
            follow_the_sun(&mut rule, 8);
            rule.inherit(SHARD, NEW);
            let shares = |rule: &dyn Rule, shard| rule.expect(shard, WindowId(200), 2);
            let known = shares(&rule, SHARD);
            assert!(known.is_some() && shares(&rule, NEW) == known);
            // What it has seen itself is not overwritten.
            rule.observe(NEW, WindowId(200), &at(0, 500.0), Some(0));
            let own = rule.expect(NEW, WindowId(224), 2);
            rule.inherit(SHARD, NEW);
            assert_eq!(rule.expect(NEW, WindowId(224), 2), own);
        }
        begins(StaticMajority::new(WindowId(100)));
        begins(LastWindow::default());
        begins(Ewma::new(0.1));
        begins(SeasonalNaive::new(24));
        begins(HourOfDay::new(WindowLength::HOUR));
    }

    #[test]
    fn an_unknown_shard_is_not_expected() {
        assert_eq!(likeliest(&LastWindow::default(), 1), None);
        assert_eq!(likeliest(&SeasonalNaive::new(24), 1), None);
    }
}
