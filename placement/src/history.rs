//! What happened, in order, for `admin history`: a bounded list of events, totals that outlive it, and alarms.
//!
//! The list is replicated state, so every replica tells the same history. Events are dropped by age, counted against the
//! time of the entry that is being applied, and the oldest ones beyond a number ([`HistoryLimits`]); the totals never are.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::check::Invariant;
use crate::ids::{HostId, MigrationId, ShardId};
use crate::migration::{MigrationKind, MigrationState};
use crate::rules::Origin;

/// The most events that may be kept.
pub const EVENTS_MAX: u32 = 65_536;

/// How much of the past is kept event by event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryLimits {
    /// How old an event, or a migration that has ended, may get, in milliseconds of mechanism time; 0: any age.
    pub age_ms: u64,
    /// Events at most, whatever their age: 1 to [`EVENTS_MAX`]. One takes some 200 bytes of the state.
    pub events: u32,
}

impl Default for HistoryLimits {
    /// Thirty days, and 4,096 events.
    fn default() -> Self {
        Self {
            age_ms: 30 * 24 * 3_600_000,
            events: 4_096,
        }
    }
}

impl HistoryLimits {
    /// Whether what happened at `at_ms` is too old at `now_ms`.
    pub(crate) fn is_old(&self, at_ms: u64, now_ms: u64) -> bool {
        self.age_ms > 0 && now_ms.saturating_sub(at_ms) > self.age_ms
    }
}

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EventKind {
    /// The cluster began.
    Bootstrapped,
    /// A host joined.
    HostJoined,
    /// A host came back.
    HostRejoined,
    /// A host's state changed.
    HostState,
    /// What a host takes on changed.
    Admission,
    /// A host delivered on a tombstone.
    TombstoneAcked,
    /// Shards were created.
    ShardsCreated,
    /// A shard's group was initialised.
    ShardReady,
    /// Another replica leads a shard.
    HomeObserved,
    /// A controller took over.
    ControlTaken,
    /// A change was proposed.
    Proposed,
    /// A migration made a step.
    Step,
    /// The rules changed.
    RulesSet,
    /// The limits changed.
    LimitsSet,
    /// Affinity scores were stored.
    AffinitiesRecorded,
    /// A window of workload time ended.
    WindowClosed,
    /// A command that would have broken an invariant was refused.
    Alarm,
    /// A host left the cluster for good.
    HostDecommissioned,
    /// A shard that lost its majority is recovered by force: what that rests on, and what is lost.
    ForcedRecovery,
    /// A shard ended: another has absorbed it.
    ShardMerged,
    /// What a move has saved was measured, and compared with what was predicted.
    GainMeasured,
    /// A proposal was written down and not carried out.
    Shadowed,
    /// A policy lost its right to propose, or has it again.
    TrustChanged,
    /// The windows in which bets on the future may start changed.
    HoursChanged,
    /// A model was kept, or another one forecasts.
    ModelChanged,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEvent {
    /// Placement log index of the entry.
    pub index: u64,
    /// Mechanism time of the entry.
    pub at_ms: u64,
    /// What kind of thing happened.
    pub what: EventKind,
    /// The shard concerned.
    pub shard: Option<ShardId>,
    /// The host concerned.
    pub host: Option<HostId>,
    /// The migration concerned.
    pub migration: Option<MigrationId>,
    /// In words.
    pub detail: String,
}

/// Numbers that are never dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Events ever recorded, by kind.
    pub events: BTreeMap<EventKind, u64>,
    /// Migrations ended, by kind and end state.
    pub ended: BTreeMap<MigrationKind, BTreeMap<MigrationState, u64>>,
    /// Commands refused.
    pub refused: u64,
    /// Refused commands that would have broken an invariant.
    pub alarms: BTreeMap<Invariant, u64>,
    /// Migrations ended, by who asked and end state.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ended_by: BTreeMap<Origin, BTreeMap<MigrationState, u64>>,
    /// What is no longer kept event by event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Dropped>,
}

/// Events that are only counted any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// How many.
    pub events: u64,
    /// Mechanism time of the newest of them: what happened later is all there.
    pub until_ms: u64,
}

impl Totals {
    /// Migrations of `kind` that ended in `state`.
    pub fn ended(&self, kind: MigrationKind, state: MigrationState) -> u64 {
        self.ended
            .get(&kind)
            .and_then(|states| states.get(&state))
            .copied()
            .unwrap_or(0)
    }
}

/// The events kept and the totals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    events: VecDeque<HistoryEvent>,
    totals: Totals,
}

impl History {
    /// The events kept, oldest first.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &HistoryEvent> {
        self.events.iter()
    }

    /// The totals.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    pub(crate) fn record(&mut self, event: HistoryEvent, limits: &HistoryLimits) {
        let now_ms = event.at_ms;
        *self.totals.events.entry(event.what).or_default() += 1;
        self.events.push_back(event);
        self.compact(now_ms, limits);
    }

    /// Drops what is too old at `now_ms`, or too much.
    pub(crate) fn compact(&mut self, now_ms: u64, limits: &HistoryLimits) {
        let events_max = usize::try_from(limits.events).unwrap_or(usize::MAX);
        let goes =
            |event: &HistoryEvent, kept: usize| kept > events_max || limits.is_old(event.at_ms, now_ms);
        while self
            .events
            .front()
            .is_some_and(|event| goes(event, self.events.len()))
        {
            let Some(event) = self.events.pop_front() else {
                return;
            };
            let dropped = self.totals.dropped.get_or_insert_default();
            dropped.events += 1;
            dropped.until_ms = event.at_ms;
        }
    }

    pub(crate) fn count_end(&mut self, kind: MigrationKind, origin: Origin, state: MigrationState) {
        let ended_by = self.totals.ended_by.entry(origin).or_default();
        *ended_by.entry(state).or_default() += 1;
        *self
            .totals
            .ended
            .entry(kind)
            .or_default()
            .entry(state)
            .or_default() += 1;
    }

    pub(crate) fn count_refusal(&mut self, broken: Option<Invariant>) {
        self.totals.refused += 1;
        if let Some(invariant) = broken {
            *self.totals.alarms.entry(invariant).or_default() += 1;
        }
    }
}
