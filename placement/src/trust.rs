//! Whether what was predicted came true: moves on trial, their verdicts, and who may still propose.
//!
//! A speculative move carries the gain that was forecast for one window. Once it is done it is on trial: for some windows
//! whoever counts the accesses reckons what they would have cost where the shard was and what they cost where it is, and
//! the difference is its measured gain. A proposal in shadow is on trial from the moment it is made, against the
//! place that the shard had then. Both are judged by one rule ([`TrustLimits`]), for each policy of an origin: together, the last
//! moves must have saved a part of what was predicted. A policy that falls short loses its right to propose: what it
//! proposes from then on is shadowed, and when its shadows do better it has the right again.
//!
//! All of it is replicated state, changed by `apply` alone, so it outlives restarts and controllers. It cannot tell
//! whether a measurement is true: whoever counts must report only what was counted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::ids::{HostId, MigrationId, ShardId, WindowId};
use crate::model::Shard;
use crate::rules::Origin;

/// Moves on trial at once; the oldest is let go without a verdict.
pub const TRIALS_MAX: usize = 4_096;

/// Verdicts kept; older ones live on in the totals.
pub const VERDICTS_MAX: usize = 1_024;

/// Policies of an origin that are remembered; the one judged longest ago is forgotten first.
pub const POLICIES_MAX: usize = 16;

/// The most moves that may be judged together.
pub const TRUST_MOVES_MAX: u32 = 1_024;

/// A trial that was not measured for this many times its windows ends without a verdict.
const PATIENCE: u64 = 8;

/// By which rule an origin's policies keep their right to propose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustLimits {
    /// How many moves are judged together, at most [`TRUST_MOVES_MAX`]; 0: nobody loses the right.
    pub moves: u32,
    /// What they must have saved together, in parts per million of what was predicted.
    pub share_ppm: u32,
    /// Windows over which a move is measured, at least 1.
    pub windows: u32,
}

impl Default for TrustLimits {
    fn default() -> Self {
        Self {
            moves: 32,
            share_ppm: 250_000,
            windows: 3,
        }
    }
}

/// Where a shard is served from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The host that leads it.
    pub home: HostId,
    /// The hosts of its voters, the home among them.
    pub voters: BTreeSet<HostId>,
}

impl Layout {
    /// Where a shard is served from now; `None` while its home is not known.
    pub fn of(shard: &Shard) -> Option<Self> {
        Some(Self {
            home: shard.home_host()?,
            voters: shard.voters().map(|(_, host)| host).collect(),
        })
    }
}

/// What one window's accesses say of a move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasuredGain {
    /// What the accesses would have cost before the move less what they cost after it, in microseconds summed over them.
    pub gain_micros: i64,
    /// How many there were.
    pub accesses: u64,
    /// How many of them came from the zone of the home before the move.
    pub local_before: u64,
    /// How many of them came from the zone of the home after it.
    pub local_after: u64,
}

impl MeasuredGain {
    fn add(&mut self, more: &MeasuredGain) {
        self.gain_micros = self.gain_micros.saturating_add(more.gain_micros);
        self.accesses = self.accesses.saturating_add(more.accesses);
        self.local_before = self.local_before.saturating_add(more.local_before);
        self.local_after = self.local_after.saturating_add(more.local_after);
    }
}

/// A move whose gain is being measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The shard.
    pub shard: ShardId,
    /// The migration that made the move; `None` for one in shadow.
    pub migration: Option<MigrationId>,
    /// Who proposed it.
    pub origin: Origin,
    /// The policy that decided.
    pub policy: String,
    /// The version of the model it used, empty without one.
    pub model: String,
    /// Where the shard was served from.
    pub before: Layout,
    /// Where it is served from, or would be.
    pub after: Layout,
    /// What was predicted to be saved in a window, in microseconds summed over its accesses.
    pub predicted_micros: i64,
    /// The first window that counts.
    pub from_window: WindowId,
    /// Windows measured so far.
    pub windows: u32,
    /// The sum of what they say.
    pub measured: MeasuredGain,
}

impl Trial {
    /// Whether the move is only imagined.
    pub fn is_shadow(&self) -> bool {
        self.migration.is_none()
    }

    /// Whether what is measured still is what was decided. A move in shadow is imagined on both sides, so it does not
    /// matter where the shard goes meanwhile; it only must not end.
    pub(crate) fn stands(&self, shard: Option<&Shard>) -> bool {
        shard.is_some_and(|shard| self.is_shadow() || Layout::of(shard).as_ref() == Some(&self.after))
    }

    /// Whether no window will come any more that measures it.
    pub(crate) fn is_overdue(&self, window: WindowId, limits: &TrustLimits) -> bool {
        let patience = u64::from(limits.windows).saturating_mul(PATIENCE);
        window.0 > self.from_window.0.saturating_add(patience)
    }

    /// Takes one window's measure in.
    pub(crate) fn measure(&mut self, gain: &MeasuredGain) {
        self.windows = self.windows.saturating_add(1);
        self.measured.add(gain);
    }
}

/// What a trial came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The trial as it ended, with the windows it was measured over.
    pub trial: Trial,
    /// Placement log index of the entry that ended it.
    pub index: u64,
    /// Mechanism time of that entry.
    pub at_ms: u64,
}

impl Verdict {
    /// What was predicted for the windows that were measured, in microseconds.
    pub fn predicted_micros(&self) -> i64 {
        self.trial
            .predicted_micros
            .saturating_mul(i64::from(self.trial.windows))
    }

    /// One line for people.
    pub fn text(&self) -> String {
        let Trial {
            policy,
            model,
            windows,
            measured,
            ..
        } = &self.trial;
        let percent = |part: u64| match measured.accesses {
            0 => 0,
            all => u128::from(part) * 100 / u128::from(all),
        };
        let shadow = if self.trial.is_shadow() { "in shadow: " } else { "" };
        let model = if model.is_empty() { "none" } else { model };
        format!(
            "{shadow}home {} -> {}: predicted {} us, measured {} us in {windows} windows of {} accesses; local {}% -> {}% \
             ({policy}, model {model})",
            self.trial.before.home,
            self.trial.after.home,
            self.predicted_micros(),
            measured.gain_micros,
            measured.accesses,
            percent(measured.local_before),
            percent(measured.local_after),
        )
    }
}

/// Sums over moves that were judged; never dropped while their policy is remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GainTotals {
    /// Moves that were made.
    pub moves: u64,
    /// Moves in shadow.
    pub shadows: u64,
    /// What was predicted of them, in microseconds.
    pub predicted_micros: i64,
    /// What was measured, in microseconds.
    pub measured_micros: i64,
}

/// How one policy of an origin has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackRecord {
    /// Since when its proposals are shadowed, mechanism time; `None`: they are carried out.
    pub distrusted_since_ms: Option<u64>,
    /// The moves that are judged together next, oldest first: predicted and measured, in microseconds.
    pub recent: VecDeque<(i64, i64)>,
    /// Over all its moves.
    pub totals: GainTotals,
    /// Placement log index of the last verdict.
    pub judged_index: u64,
}

impl TrackRecord {
    /// Sums of the moves that are judged together next: predicted and measured, in microseconds.
    pub fn recent_sums(&self) -> (i128, i128) {
        let sum = |pick: fn(&(i64, i64)) -> i64| self.recent.iter().map(|one| i128::from(pick(one))).sum();
        (sum(|one| one.0), sum(|one| one.1))
    }

    /// Takes a verdict in; answers whether the policy has lost or regained its right by it.
    fn judge(&mut self, verdict: &Verdict, limits: &TrustLimits) -> bool {
        let (predicted, measured) = (verdict.predicted_micros(), verdict.trial.measured.gain_micros);
        self.totals.moves += u64::from(!verdict.trial.is_shadow());
        self.totals.shadows += u64::from(verdict.trial.is_shadow());
        self.totals.predicted_micros = self.totals.predicted_micros.saturating_add(predicted);
        self.totals.measured_micros = self.totals.measured_micros.saturating_add(measured);
        self.judged_index = verdict.index;
        self.recent.push_back((predicted, measured));
        let wanted = usize::try_from(limits.moves.max(1)).unwrap_or(usize::MAX);
        while self.recent.len() > wanted {
            self.recent.pop_front();
        }
        if limits.moves == 0 || self.recent.len() < wanted {
            return false;
        }
        let (predicted, measured) = self.recent_sums();
        let comes_true = measured * 1_000_000 >= predicted * i128::from(limits.share_ppm);
        if comes_true != self.distrusted_since_ms.is_some() {
            return false;
        }
        self.distrusted_since_ms = (!comes_true).then_some(verdict.at_ms);
        // Moves that were made and moves in shadow are not judged together: what changes now begins anew.
        self.recent.clear();
        true
    }
}

/// The moves on trial, the verdicts, and the records of all policies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// By placement log index of the entry that began it.
    pub(crate) trials: BTreeMap<u64, Trial>,
    pub(crate) verdicts: VecDeque<Verdict>,
    pub(crate) records: BTreeMap<Origin, BTreeMap<String, TrackRecord>>,
    /// The last window that was measured.
    pub(crate) measured: Option<WindowId>,
}

impl Trust {
    /// Whether nothing was ever tried.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The moves on trial, by the index of the entry that began each.
    pub fn trials(&self) -> &BTreeMap<u64, Trial> {
        &self.trials
    }

    /// The verdicts kept, oldest first.
    pub fn verdicts(&self) -> impl DoubleEndedIterator<Item = &Verdict> {
        self.verdicts.iter()
    }

    /// How each policy of each origin has done.
    pub fn records(&self) -> impl Iterator<Item = (Origin, &str, &TrackRecord)> {
        self.records.iter().flat_map(|(origin, policies)| {
            policies
                .iter()
                .map(|(policy, record)| (*origin, policy.as_str(), record))
        })
    }

    /// How a policy of an origin has done, if it was ever judged.
    pub fn record(&self, origin: Origin, policy: &str) -> Option<&TrackRecord> {
        self.records.get(&origin)?.get(policy)
    }

    /// Begins a trial; the oldest goes where there are too many.
    pub(crate) fn begin(&mut self, index: u64, trial: Trial) {
        if self.trials.len() == TRIALS_MAX {
            self.trials.pop_first();
        }
        self.trials.insert(index, trial);
    }

    /// Whether a move to the same place is on trial in shadow.
    pub(crate) fn has_shadow(&self, shadow: &Trial) -> bool {
        self.trials.values().any(|trial| {
            trial.is_shadow()
                && (trial.shard, trial.origin) == (shadow.shard, shadow.origin)
                && (&trial.policy, &trial.after) == (&shadow.policy, &shadow.after)
        })
    }

    /// Writes a verdict down; answers whether its policy has lost or regained its right.
    pub(crate) fn judge(&mut self, verdict: Verdict, limits: &TrustLimits) -> bool {
        let policies = self.records.entry(verdict.trial.origin).or_default();
        if !policies.contains_key(&verdict.trial.policy) && policies.len() == POLICIES_MAX {
            let oldest = policies
                .iter()
                .min_by_key(|(_, record)| record.judged_index)
                .map(|(policy, _)| policy.clone());
            oldest.map(|policy| policies.remove(&policy));
        }
        let record = policies.entry(verdict.trial.policy.clone()).or_default();
        let changed = record.judge(&verdict, limits);
        if self.verdicts.len() == VERDICTS_MAX {
            self.verdicts.pop_front();
        }
        self.verdicts.push_back(verdict);
        changed
    }
}
