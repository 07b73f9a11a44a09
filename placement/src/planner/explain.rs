//! Why a move is proposed, in numbers and in one line.

use std::collections::BTreeMap;

use crate::ids::HostId;
use crate::model::HostAffinityScores;

use super::forecast::ShardForecast;
use super::input::PlanInput;
use super::output::{MoveCause, MoveKind};
use super::topology::Topology;

/// The forecast's shares by origin zone as scores by host: the share of a zone goes in equal parts to its own hosts,
/// or to those of the nearest zone that has hosts, as its clients do.
pub(super) fn host_scores(topology: &Topology, forecast: &ShardForecast) -> HostAffinityScores {
    let mut scores = BTreeMap::new();
    for (origin, share) in topology.numbered(forecast.shares.iter()) {
        divide(&mut scores, share, topology.nearest_hosts(origin));
    }
    HostAffinityScores(scores)
}

/// Adds `share` to the hosts in equal parts; the first ones get what does not divide.
fn divide(scores: &mut BTreeMap<HostId, u32>, share: u32, hosts: &[HostId]) {
    let count = u32::try_from(hosts.len()).unwrap_or(u32::MAX).max(1);
    for (number, host) in (0u32..).zip(hosts) {
        let part = share / count + u32::from(number < share % count);
        let score = scores.entry(*host).or_insert(0);
        *score = score.saturating_add(part);
    }
}

/// What a line of explanation is made of.
pub(super) struct Line<'a> {
    /// The forecast and the rest of the input.
    pub(super) input: &'a PlanInput<'a>,
    /// The shard's forecast, if it has one.
    pub(super) forecast: Option<&'a ShardForecast>,
    /// What moves.
    pub(super) kind: MoveKind,
    /// What it is for.
    pub(super) cause: MoveCause,
    /// From where.
    pub(super) from: HostId,
    /// To where.
    pub(super) to: HostId,
    /// Latency saved, in microseconds a window.
    pub(super) gain_micros: i64,
    /// What the move costs, in microseconds.
    pub(super) cost_micros: u64,
}

impl Line<'_> {
    /// The line.
    pub(super) fn text(&self) -> String {
        let what = match self.kind {
            MoveKind::Home { .. } => "home",
            MoveKind::Replica { .. } => "replica",
        };
        let why = match self.cause {
            MoveCause::Drain => "to empty the host",
            MoveCause::Rule => "to spread over fault domains",
            MoveCause::Capacity => "to keep within a host's part of the accesses",
            MoveCause::Latency => "to be nearer",
        };
        format!(
            "{what} {} -> {} {why}: saves {} us in {} for {} us{}",
            self.from,
            self.to,
            self.gain_micros,
            self.input.forecast.window,
            self.cost_micros,
            self.expected()
        )
    }

    fn expected(&self) -> String {
        let Some(forecast) = self.forecast else {
            return String::new();
        };
        let accesses = forecast.accesses_milli();
        let mut origins: Vec<_> = forecast.shares.iter().collect();
        origins.sort_by_key(|(zone, share)| (std::cmp::Reverse(*share), *zone));
        let shares = origins
            .iter()
            .take(3)
            .map(|(zone, ppm)| format!("{zone} {}.{}%", ppm / 10_000, ppm / 1_000 % 10));
        let shares: Vec<String> = shares.collect();
        format!(
            "; {}.{:03} accesses expected, {}",
            accesses / 1_000,
            accesses % 1_000,
            shares.join(", ")
        )
    }
}
