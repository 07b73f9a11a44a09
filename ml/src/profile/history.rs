//! What one shard's accesses looked like over several spans of time, and all shards' together.
//!
//! Spans: the last active window; fading sums over windows, fast to slow; all of history; the same hour of the day and
//! of the week. A fading sum stands for exponentially weighted means: their shares are the same.
//!
//! Must hold: only windows that have ended are in it; memory per shard is fixed by the number of origins.

use placement::WindowId;

use super::counts::{Counts, DecayedCounts};
use super::time::WindowLength;

/// How fast the fading sums forget, per window.
pub(crate) const EWMA_ALPHAS: [f32; 6] = [0.7, 0.4, 0.2, 0.1, 0.05, 0.02];

/// How fast an hour of the day forgets, per day.
pub(crate) const HOUR_OF_DAY_ALPHA: f32 = 0.05;
/// How fast an hour of the week forgets, per week.
pub(crate) const HOUR_OF_WEEK_ALPHA: f32 = 0.15;

/// The history of one shard.
#[derive(Clone, Debug)]
pub(crate) struct ShardHistory {
    /// Accesses of the last window that had any.
    pub(crate) last: Counts,
    /// Which window that was.
    pub(crate) last_window: Option<WindowId>,
    /// The origin of the last access then; the one with most accesses where no trail tells which came last.
    pub(crate) last_origin: Option<usize>,
    /// When each origin was last seen.
    pub(crate) seen: Vec<Option<WindowId>>,
    /// Fading sums, by [`EWMA_ALPHAS`].
    pub(crate) ewma: Vec<DecayedCounts>,
    /// Everything since the beginning.
    pub(crate) all: Counts,
    /// Fading sums over days, by hour of the day.
    pub(crate) hour_of_day: Vec<DecayedCounts>,
    /// Fading sums over weeks, by hour of the week.
    pub(crate) hour_of_week: Vec<DecayedCounts>,
    /// Reads, of `all`.
    pub(crate) reads: f32,
}

impl Default for ShardHistory {
    fn default() -> Self {
        Self {
            last: Counts::default(),
            last_window: None,
            last_origin: None,
            seen: Vec::new(),
            ewma: EWMA_ALPHAS
                .iter()
                .map(|alpha| DecayedCounts::new(*alpha))
                .collect(),
            all: Counts::default(),
            hour_of_day: vec![DecayedCounts::new(HOUR_OF_DAY_ALPHA); 24],
            hour_of_week: vec![DecayedCounts::new(HOUR_OF_WEEK_ALPHA); 168],
            reads: 0.0,
        }
    }
}

impl ShardHistory {
    /// Adds a window that has ended, with accesses by origin.
    pub(crate) fn observe(
        &mut self,
        window: WindowId,
        counts: &Counts,
        origins: usize,
        length: WindowLength,
    ) {
        self.seen.resize(self.seen.len().max(origins), None);
        for (origin, amount) in counts.each() {
            self.observe_origin(window, origin, amount, length);
        }
        self.last_origin =
            (0..origins).reduce(|best, at| if counts.at(at) > counts.at(best) { at } else { best });
        self.last = counts.clone();
        self.last_window = Some(window);
    }

    fn observe_origin(&mut self, window: WindowId, origin: usize, amount: f32, length: WindowLength) {
        self.seen[origin] = Some(window);
        self.all.add(origin, amount);
        self.ewma
            .iter_mut()
            .for_each(|ewma| ewma.add(window.0, origin, amount));
        let day = length.day(window);
        self.hour_of_day[length.hour_of_day(window)].add(day, origin, amount);
        self.hour_of_week[length.hour_of_week(window)].add(day / 7, origin, amount);
    }

    /// Windows since an origin was last seen; `None` if it never was.
    pub(crate) fn age_of(&self, origin: usize, window: WindowId) -> Option<u64> {
        self.seen
            .get(origin)
            .copied()
            .flatten()
            .map(|seen| window.0.saturating_sub(seen.0))
    }

    /// The share of reads among accesses; a half before there are any.
    pub(crate) fn read_share(&self) -> f32 {
        let total = self.all.total();
        if total > 0.0 {
            (self.reads / total).clamp(0.0, 1.0)
        } else {
            0.5
        }
    }
}

/// The history of all shards together: what is expected of a shard that has none of its own.
#[derive(Clone, Debug)]
pub(crate) struct GlobalHistory {
    /// Everything since the beginning.
    pub(crate) all: Counts,
    /// Fading sums over weeks, by hour of the week.
    pub(crate) hour_of_week: Vec<DecayedCounts>,
    /// By hour of the day and last origin: where a shard's next active window came from.
    transitions: Vec<Vec<Counts>>,
}

impl Default for GlobalHistory {
    fn default() -> Self {
        Self {
            all: Counts::default(),
            hour_of_week: vec![DecayedCounts::new(HOUR_OF_WEEK_ALPHA); 168],
            transitions: vec![Vec::new(); 24],
        }
    }
}

impl GlobalHistory {
    /// Adds one shard's window that has ended, given the origin it was at before.
    pub(crate) fn observe(
        &mut self,
        window: WindowId,
        counts: &Counts,
        from: Option<usize>,
        length: WindowLength,
    ) {
        self.all.add_all(counts);
        let week = length.day(window) / 7;
        let profile = &mut self.hour_of_week[length.hour_of_week(window)];
        counts
            .each()
            .for_each(|(origin, amount)| profile.add(week, origin, amount));
        if let Some(from) = from {
            let by_origin = &mut self.transitions[length.hour_of_day(window)];
            by_origin.resize(by_origin.len().max(from + 1), Counts::default());
            by_origin[from].add_all(counts);
        }
    }

    /// Where shards that were last at `from` were seen next, at this hour of the day.
    pub(crate) fn next_from(&self, from: usize, hour_of_day: usize) -> Option<&Counts> {
        self.transitions[hour_of_day].get(from)
    }
}
