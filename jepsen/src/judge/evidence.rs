//! What is known of a run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::demands::Demands;
use crate::placement::PlacementLine;
use crate::record::Recorded;
use crate::workload::{ReadAll, Used, WorkloadName};

/// How the cluster came back after the last fault.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// Milliseconds until every shard had a home that answered.
    pub homes_ms: Option<u64>,
    /// Milliseconds until no migration was active.
    pub migrations_ms: Option<u64>,
    /// What went wrong, if it did not come back.
    pub failure: Option<String>,
}

/// What is known of a run beside its history: kept with the verdict, so that a history can be judged again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// What all choices came from.
    pub seed: u64,
    /// The workloads that were asked for.
    pub workloads: Vec<WorkloadName>,
    /// The nemeses that were asked for by name.
    pub nemeses: Vec<String>,
    /// Whether faults were to happen at all.
    pub faults_wanted: bool,
    /// How often each fault happened.
    pub tally: BTreeMap<String, u64>,
    /// The recovery, where it was measured.
    pub recovery: Option<Recovery>,
    /// Keys that the last look could not read.
    pub unread: Vec<String>,
    /// Scans out of order, in words.
    pub disorder: Vec<String>,
    /// Old versions that were not what had been written, in words.
    #[serde(default)]
    pub changed_past: Vec<String>,
    /// Banks whose accounts did not add up, in words.
    #[serde(default)]
    pub unbalanced: Vec<String>,
    /// Locks that nobody kept and that did not go.
    #[serde(default)]
    pub lingering: Vec<String>,
    /// Differences between replicas of one shard.
    pub replica_differences: Vec<String>,
    /// Lines of hosts' logs that tell of a panic or a broken assertion.
    pub complaints: Vec<String>,
    /// What an observer inside the cluster saw broken: only a simulation has one.
    #[serde(default)]
    pub invariants: Vec<String>,
    /// What the run set out to show and did not, in words.
    #[serde(default)]
    pub shortfalls: Vec<String>,
    /// What this machine could not do, and why: judged by nobody, but to be read with the verdict.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// Processes, namespaces and mounts that were still there after the end.
    pub leaks: Vec<String>,
}

impl Facts {
    /// The facts that clients know. The rest is as of a run without faults in which all was well.
    pub fn new(seed: u64, workloads: &[WorkloadName], used: &Used, read_all: &ReadAll) -> Self {
        Self {
            seed,
            workloads: workloads.to_vec(),
            unread: read_all.unread.clone(),
            disorder: used.disorder.iter().chain(&read_all.disorder).cloned().collect(),
            changed_past: used.changed_past.clone(),
            unbalanced: used
                .unbalanced
                .iter()
                .chain(&read_all.unbalanced)
                .cloned()
                .collect(),
            lingering: read_all.lingering.clone(),
            ..Self::default()
        }
    }
}

/// What is judged.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Operations and events.
    pub recorded: Recorded,
    /// What the placement log decided; empty: not judged.
    pub placement: Vec<PlacementLine>,
    /// The rest; `None`: there is nothing but lines, and what needs more is not judged.
    pub facts: Option<Facts>,
    /// What is asked of the run.
    pub demands: Demands,
}
