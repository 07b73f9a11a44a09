//! What happened, in order, for `admin history`: a bounded list of events, totals that outlive it, and alarms.
//!
//! The list is replicated state, so every replica tells the same history. The oldest events are dropped at a fixed
//! number; the totals never are.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::check::Invariant;
use crate::ids::{HostId, MigrationId, ShardId};
use crate::migration::{MigrationKind, MigrationState};

/// Events kept.
pub const EVENTS_MAX: usize = 4_096;

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

    pub(crate) fn record(&mut self, event: HistoryEvent) {
        *self.totals.events.entry(event.what).or_default() += 1;
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    pub(crate) fn count_end(&mut self, kind: MigrationKind, state: MigrationState) {
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
