//! Everything the model reads: histories per shard, the history of all, the keys at rest.

use std::collections::BTreeMap;

use placement::{ShardId, WindowId, Zone};

use super::counts::{Counts, ZoneIndex};
use super::history::{GlobalHistory, ShardHistory};
use super::renewal::{NumberedTouch, RenewalBook};
use super::time::WindowLength;
use crate::window::{OriginCount, WindowCounts};

const MINUTE_MS: u64 = 60_000;

/// What is remembered of all windows that have ended.
#[derive(Clone, Debug)]
pub(crate) struct AccessProfile {
    length: WindowLength,
    zones: ZoneIndex,
    shards: BTreeMap<ShardId, ShardHistory>,
    global: GlobalHistory,
    renewal: RenewalBook,
    ended: Option<WindowId>,
}

impl AccessProfile {
    /// Nothing seen yet; the zones get their numbers in the order given.
    pub(crate) fn new(zones: &[Zone], length: WindowLength) -> Self {
        Self {
            length,
            zones: ZoneIndex::new(zones),
            shards: BTreeMap::new(),
            global: GlobalHistory::default(),
            renewal: RenewalBook::default(),
            ended: None,
        }
    }

    /// Takes in a window that has ended. Windows come in order; one that does not is ignored.
    pub(crate) fn observe(&mut self, window: &WindowCounts) {
        if self.ended.is_some_and(|ended| window.window <= ended) {
            return;
        }
        let mut last_origins: BTreeMap<ShardId, usize> = BTreeMap::new();
        for touch in &window.trail {
            last_origins.insert(touch.shard, self.zones.intern(&touch.origin));
        }
        for (shard, by_zone) in &window.shards {
            self.observe_shard(window.window, *shard, by_zone, last_origins.get(shard).copied());
        }
        self.follow(window);
        self.ended = Some(window.window);
    }

    fn observe_shard(
        &mut self,
        window: WindowId,
        shard: ShardId,
        by_zone: &BTreeMap<Zone, OriginCount>,
        last_origin: Option<usize>,
    ) {
        let counts = numbered(by_zone, &mut self.zones);
        let history = self.shards.entry(shard).or_default();
        self.global
            .observe(window, &counts, history.last_origin, self.length);
        history.observe(window, &counts, self.zones.len(), self.length);
        history.last_origin = last_origin.or(history.last_origin);
        history.reads += by_zone.values().map(|count| count.reads as f32).sum::<f32>();
    }

    fn follow(&mut self, window: &WindowCounts) {
        let start_ms = self.length.start_ms(window.window);
        for touch in &window.trail {
            let origin = self.zones.intern(&touch.origin);
            let minute = (start_ms + touch.offset_ms) / MINUTE_MS;
            let (shard, key, user) = (touch.shard, touch.key, touch.user);
            self.renewal.touch(NumberedTouch {
                shard,
                key,
                user,
                origin,
                minute,
            });
        }
        self.renewal.forget((start_ms + self.length.as_ms()) / MINUTE_MS);
    }

    /// Lets a shard that was not seen yet begin with the history of another.
    pub(crate) fn inherit(&mut self, from: ShardId, to: ShardId) {
        inherit(&mut self.shards, from, to);
        self.renewal.inherit(from, to);
    }

    /// The expected touches of a shard in `window` by single keys; none before a first window has ended.
    pub(crate) fn expected_touches(&self, shard: ShardId, window: WindowId) -> Counts {
        let Some(ended) = self.ended else {
            return Counts::default();
        };
        let minute = |at: u64| at * self.length.as_ms() / MINUTE_MS;
        let span = (minute(ended.0 + 1), minute(window.0), minute(window.0 + 1));
        self.renewal.expect(shard, span, self.zones.len())
    }

    /// The shards seen, with their histories.
    pub(crate) fn shards(&self) -> &BTreeMap<ShardId, ShardHistory> {
        &self.shards
    }

    /// The history of all shards together.
    pub(crate) fn global(&self) -> &GlobalHistory {
        &self.global
    }

    /// The zones by number.
    pub(crate) fn zones(&self) -> &ZoneIndex {
        &self.zones
    }

    /// How long a window is.
    pub(crate) fn length(&self) -> WindowLength {
        self.length
    }
}

/// Accesses by the origins' numbers.
pub(crate) fn numbered(by_zone: &BTreeMap<Zone, OriginCount>, zones: &mut ZoneIndex) -> Counts {
    let mut counts = Counts::default();
    for (zone, count) in by_zone {
        counts.add(zones.intern(zone), count.accesses() as f32);
    }
    counts
}

/// Copies what is known of one shard to another that nothing is known of.
pub(crate) fn inherit<T: Clone>(known: &mut BTreeMap<ShardId, T>, from: ShardId, to: ShardId) {
    if let (Some(history), false) = (known.get(&from).cloned(), known.contains_key(&to)) {
        known.insert(to, history);
    }
}
