//! Rules (what every replica set must look like) and limits (how much may be under way at once).
//!
//! Both are replicated settings: the same command is accepted or refused by the same numbers on every replica.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::history::{EVENTS_MAX, HistoryLimits};
use crate::trust::{TRUST_MOVES_MAX, TrustLimits};

/// The largest replication factor accepted.
pub const REPLICATION_FACTOR_MAX: u32 = 7;

/// The largest number accepted as a limit or timeout: 31 years in milliseconds.
const SETTING_MAX: u64 = 1_000_000_000_000;

/// The lowest rate of snapshots accepted, in bytes a second.
const SNAPSHOT_RATE_MIN: u64 = 64 * 1024;

/// Which fault domain the voters of a shard are spread over. One replica a host holds in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spread {
    /// Distinct hosts only.
    Host,
    /// As evenly over zones as the hosts allow.
    Zone,
    /// As evenly over regions as the hosts allow.
    Region,
}

/// What a shard's replica set must look like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Voters a shard, 1 to [`REPLICATION_FACTOR_MAX`].
    pub replication_factor: u32,
    /// What they are spread over.
    pub spread: Spread,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            replication_factor: 3,
            spread: Spread::Zone,
        }
    }
}

/// Who asks for a change, most urgent first: the order of the variants is the priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Origin {
    /// A voter is lost or missing.
    Repair,
    /// A host is being emptied.
    Drain,
    /// A rule does not hold.
    Rule,
    /// An operator asked.
    Manual,
    /// Load is uneven, judged by what was.
    Balance,
    /// A forecast says so.
    Model,
}

impl Origin {
    /// Every origin, most urgent first.
    pub const ALL: [Origin; 6] = [
        Origin::Repair,
        Origin::Drain,
        Origin::Rule,
        Origin::Manual,
        Origin::Balance,
        Origin::Model,
    ];

    /// Its name, as operators write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Origin::Repair => "repair",
            Origin::Drain => "drain",
            Origin::Rule => "rule",
            Origin::Manual => "manual",
            Origin::Balance => "balance",
            Origin::Model => "model",
        }
    }

    /// The origin of a name.
    pub fn named(name: &str) -> Option<Origin> {
        Self::ALL.into_iter().find(|origin| origin.as_str() == name)
    }

    /// Whether the change is a bet on the future: dwell applies, and half of the slots are kept from it.
    pub fn is_speculative(self) -> bool {
        matches!(self, Origin::Balance | Origin::Model)
    }
}

/// How long a migration may stay in a state before its controller gives up, in milliseconds of mechanism time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// Adding: until the new replica is a learner.
    pub adding_ms: u64,
    /// Catching up, in all; doubled after each catch-up of the same shard that took longer.
    pub catching_up_ms: u64,
    /// Catching up without any progress of the new replica.
    pub no_progress_ms: u64,
    /// Handing leadership over.
    pub transferring_ms: u64,
    /// Changing the voters.
    pub switching_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            adding_ms: 30_000,
            catching_up_ms: 600_000,
            no_progress_ms: 60_000,
            transferring_ms: 15_000,
            switching_ms: 30_000,
        }
    }
}

/// How much may be under way at once, and how cautiously.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Replicas on their way to one host.
    pub moves_in_max: u32,
    /// Replicas on their way from one host.
    pub moves_out_max: u32,
    /// Home moves in the cluster: they move no bytes, so they have their own, wider limit.
    pub homes_max: u32,
    /// Windows between two speculative replica moves of a shard.
    pub move_dwell_windows: u64,
    /// Windows between two speculative home moves of a shard; 1 = at most one a window.
    pub home_dwell_windows: u64,
    /// Largest lag that counts as caught up, in log entries.
    pub catch_up_lag_max: u64,
    /// Least time between the two samples that show it.
    pub catch_up_gap_ms: u64,
    /// Largest lag of a replica that leadership is handed to, in flushed log entries: a failed transfer costs an
    /// election.
    pub transfer_lag_max: u64,
    /// A host that is down this long is declared dead.
    pub dead_after_ms: u64,
    /// Deadlines of the states.
    pub timeouts: Timeouts,
    /// Origins whose proposals are refused for now, and whose migrations do not start; what has started goes on.
    pub paused: BTreeSet<Origin>,
    /// Bytes a second of all snapshots that leave a host, together, instead of what each host is configured with; 0: as
    /// many as go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_bytes_per_s: Option<u64>,
    /// The same of those that are part of a move, within that: not of voters that fell behind, nor of replicas that replace
    /// lost ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub move_bytes_per_s: Option<u64>,
    /// Speculative origins whose proposals are written down and measured, and not carried out.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub shadow: BTreeSet<Origin>,
    /// By which rule policies keep their right to propose.
    #[serde(default, skip_serializing_if = "is_default")]
    pub trust: TrustLimits,
    /// How much of the past is kept event by event.
    #[serde(default, skip_serializing_if = "is_default")]
    pub history: HistoryLimits,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A change of some limits; what it does not name stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsChange {
    /// Origins to pause.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub pause: BTreeSet<Origin>,
    /// Origins that are to go on.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub resume: BTreeSet<Origin>,
    /// As [`Limits::moves_in_max`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moves_in_max: Option<u32>,
    /// As [`Limits::moves_out_max`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moves_out_max: Option<u32>,
    /// As [`Limits::homes_max`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub homes_max: Option<u32>,
    /// As [`Limits::move_dwell_windows`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub move_dwell_windows: Option<u64>,
    /// As [`Limits::home_dwell_windows`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home_dwell_windows: Option<u64>,
    /// As [`Limits::dead_after_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_after_ms: Option<u64>,
    /// The rate of snapshots of all hosts, or each host's own again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_rate: Option<SnapshotRate>,
    /// The same of those that are part of a move.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub move_rate: Option<SnapshotRate>,
    /// Origins to put in shadow.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub shadow: BTreeSet<Origin>,
    /// Origins to take out of it.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub unshadow: BTreeSet<Origin>,
    /// As [`TrustLimits::moves`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_moves: Option<u32>,
    /// As [`TrustLimits::share_ppm`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_share_ppm: Option<u32>,
    /// As [`TrustLimits::windows`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_windows: Option<u32>,
    /// As [`HistoryLimits::age_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_age_ms: Option<u64>,
    /// As [`HistoryLimits::events`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_events: Option<u32>,
}

/// The rate of the snapshots that leave a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotRate {
    /// What each host is configured with.
    AsConfigured,
    /// Bytes a second, on every host; 0: as many as go.
    BytesPerS(u64),
}

impl SnapshotRate {
    /// The limit, in bytes a second; `None`: each host's own.
    fn limit(self) -> Option<u64> {
        match self {
            SnapshotRate::AsConfigured => None,
            SnapshotRate::BytesPerS(bytes) => Some(bytes),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            moves_in_max: 2,
            moves_out_max: 2,
            homes_max: 64,
            move_dwell_windows: 4,
            home_dwell_windows: 1,
            catch_up_lag_max: 256,
            catch_up_gap_ms: 1_000,
            transfer_lag_max: 64,
            dead_after_ms: 300_000,
            timeouts: Timeouts::default(),
            paused: BTreeSet::new(),
            snapshot_bytes_per_s: None,
            move_bytes_per_s: None,
            shadow: BTreeSet::new(),
            trust: TrustLimits::default(),
            history: HistoryLimits::default(),
        }
    }
}

impl Limits {
    /// How many of `slots` an origin may fill: speculative ones get half, but at least one.
    pub fn slots_for(origin: Origin, slots: u32) -> u32 {
        if origin.is_speculative() {
            (slots / 2).max(slots.min(1))
        } else {
            slots
        }
    }

    /// The limits with a change made to them.
    pub fn changed(&self, change: &LimitsChange) -> Limits {
        let merged = |now: &BTreeSet<Origin>, more: &BTreeSet<Origin>, less: &BTreeSet<Origin>| {
            let all = now.union(more).copied();
            all.filter(|origin| !less.contains(origin))
                .collect::<BTreeSet<_>>()
        };
        Limits {
            moves_in_max: change.moves_in_max.unwrap_or(self.moves_in_max),
            moves_out_max: change.moves_out_max.unwrap_or(self.moves_out_max),
            homes_max: change.homes_max.unwrap_or(self.homes_max),
            move_dwell_windows: change.move_dwell_windows.unwrap_or(self.move_dwell_windows),
            home_dwell_windows: change.home_dwell_windows.unwrap_or(self.home_dwell_windows),
            dead_after_ms: change.dead_after_ms.unwrap_or(self.dead_after_ms),
            snapshot_bytes_per_s: change
                .snapshot_rate
                .map_or(self.snapshot_bytes_per_s, SnapshotRate::limit),
            move_bytes_per_s: change
                .move_rate
                .map_or(self.move_bytes_per_s, SnapshotRate::limit),
            paused: merged(&self.paused, &change.pause, &change.resume),
            shadow: merged(&self.shadow, &change.shadow, &change.unshadow),
            trust: TrustLimits {
                moves: change.trust_moves.unwrap_or(self.trust.moves),
                share_ppm: change.trust_share_ppm.unwrap_or(self.trust.share_ppm),
                windows: change.trust_windows.unwrap_or(self.trust.windows),
            },
            history: HistoryLimits {
                age_ms: change.history_age_ms.unwrap_or(self.history.age_ms),
                events: change.history_events.unwrap_or(self.history.events),
            },
            ..self.clone()
        }
    }
}

impl Rules {
    /// What is wrong with the rules, if anything.
    pub fn fault(&self) -> Option<String> {
        let within = (1..=REPLICATION_FACTOR_MAX).contains(&self.replication_factor);
        (!within).then(|| format!("replication_factor must be 1 to {REPLICATION_FACTOR_MAX}"))
    }
}

impl Limits {
    /// What is wrong with the limits, if anything.
    pub fn fault(&self) -> Option<String> {
        let at_least_one = [
            ("moves_in_max", u64::from(self.moves_in_max)),
            ("moves_out_max", u64::from(self.moves_out_max)),
            ("homes_max", u64::from(self.homes_max)),
            ("timeouts.adding_ms", self.timeouts.adding_ms),
            ("timeouts.catching_up_ms", self.timeouts.catching_up_ms),
            ("timeouts.no_progress_ms", self.timeouts.no_progress_ms),
            ("timeouts.transferring_ms", self.timeouts.transferring_ms),
            ("timeouts.switching_ms", self.timeouts.switching_ms),
            ("dead_after_ms", self.dead_after_ms),
            ("trust.windows", u64::from(self.trust.windows)),
            ("history.events", u64::from(self.history.events)),
        ];
        let too_long = at_least_one.iter().find(|(_, value)| *value > SETTING_MAX);
        if let Some((name, _)) = too_long {
            return Some(format!("{name} must be at most {SETTING_MAX}"));
        }
        if let Some(origin) = self.shadow.iter().find(|origin| !origin.is_speculative()) {
            return Some(format!(
                "only balance and model can be in shadow, not {}",
                origin.as_str()
            ));
        }
        if self.history.events > EVENTS_MAX {
            return Some(format!("history.events must be at most {EVENTS_MAX}"));
        }
        if self.trust.moves > TRUST_MOVES_MAX {
            return Some(format!("trust.moves must be at most {TRUST_MOVES_MAX}"));
        }
        // A frame is a mebibyte: one that takes longer than a minute would pass for a transfer that stands still.
        let mut rates = [self.snapshot_bytes_per_s, self.move_bytes_per_s]
            .into_iter()
            .flatten();
        if rates.any(|rate| (1..SNAPSHOT_RATE_MIN).contains(&rate)) {
            return Some(format!(
                "a rate of snapshots must be 0 or at least {SNAPSHOT_RATE_MIN} bytes a second"
            ));
        }
        let zero = at_least_one.into_iter().find(|(_, value)| *value == 0);
        zero.map(|(name, _)| format!("{name} must be at least 1"))
    }
}
