//! Settings and clocks: control, rules, limits, affinities, windows of workload time.

use std::collections::BTreeMap;

use super::{Cause, Outcome, check_texts};
use crate::history::EventKind;
use crate::hours::{HOURS_MAX, HoursChange};
use crate::ids::{ControllerTerm, HostId, ShardId, WindowId};
use crate::model::{AFFINITY_TOTAL_PPM, Affinity, HostAffinityScores};
use crate::response::{Accepted, Refusal};
use crate::rules::{Limits, LimitsChange, Rules};
use crate::state::{About, Controller, Placement, Stamp};

impl Placement {
    pub(super) fn take_control(&mut self, stamp: Stamp, host: HostId) -> Outcome {
        if !self.hosts.contains_key(&host) {
            return Err(Refusal::UnknownHost(host));
        }
        let term = ControllerTerm(self.controller_term().0 + 1);
        self.controller = Some(Controller { host, term });
        self.record(
            stamp,
            EventKind::ControlTaken,
            About::host(host),
            format!("term {term}"),
        );
        Ok(Accepted::Control(term))
    }

    pub(super) fn set_rules(&mut self, stamp: Stamp, rules: Rules) -> Outcome {
        if let Some(fault) = rules.fault() {
            return Err(Refusal::Invalid(fault));
        }
        if self.rules == rules {
            return Ok(Accepted::Unchanged);
        }
        self.record(stamp, EventKind::RulesSet, About::default(), format!("{rules:?}"));
        self.rules = rules;
        Ok(Accepted::Applied)
    }

    pub(super) fn set_limits(&mut self, stamp: Stamp, limits: Limits) -> Outcome {
        let detail = format!("{limits:?}");
        self.take_limits(stamp, limits, detail)
    }

    /// A change names what it changes, so that of two operators' changes none undoes the other.
    pub(super) fn change_limits(&mut self, stamp: Stamp, change: &LimitsChange, cause: &Cause) -> Outcome {
        check_texts([&cause.reason])?;
        if let Some(origin) = change.pause.intersection(&change.resume).next() {
            let fault = format!("{} is to be paused and to go on", origin.as_str());
            return Err(Refusal::Invalid(fault));
        }
        if let Some(origin) = change.shadow.intersection(&change.unshadow).next() {
            let fault = format!("{} is to be in shadow and out of it", origin.as_str());
            return Err(Refusal::Invalid(fault));
        }
        let limits = self.limits.changed(change);
        let named = serde_json::to_string(change).unwrap_or_default();
        self.take_limits(stamp, limits, format!("{named} {cause}"))
    }

    pub(super) fn change_hours(&mut self, stamp: Stamp, change: HoursChange, cause: &Cause) -> Outcome {
        check_texts([&cause.reason])?;
        let (accepted, detail) = match change {
            HoursChange::Add(hours) => {
                let fault = hours.fault();
                let full = self.hours.len() == HOURS_MAX;
                let fault = fault.or_else(|| full.then(|| format!("there are {HOURS_MAX} windows already")));
                if let Some(fault) = fault {
                    return Err(Refusal::Invalid(fault));
                }
                let (id, detail) = (stamp.index, format!("window {}: {hours}", stamp.index));
                self.hours.insert(id, hours);
                (Accepted::HoursAdded { id }, detail)
            }
            HoursChange::Remove(id) => {
                let removed = self.hours.remove(&id).ok_or(Refusal::UnknownHours(id))?;
                (Accepted::Applied, format!("no window {id} any more: {removed}"))
            }
        };
        let about = About::default();
        self.record(stamp, EventKind::HoursChanged, about, format!("{detail} {cause}"));
        Ok(accepted)
    }

    fn take_limits(&mut self, stamp: Stamp, limits: Limits, detail: String) -> Outcome {
        if let Some(fault) = limits.fault() {
            return Err(Refusal::Invalid(fault));
        }
        if self.limits == limits {
            return Ok(Accepted::Unchanged);
        }
        self.record(stamp, EventKind::LimitsSet, About::default(), detail);
        self.limits = limits;
        self.limits_version += 1;
        self.history.compact(stamp.now_ms, &self.limits.history);
        self.compact_ended(stamp.now_ms);
        Ok(Accepted::Applied)
    }

    pub(super) fn record_affinities(
        &mut self,
        stamp: Stamp,
        window: WindowId,
        model: &str,
        scores: BTreeMap<ShardId, HostAffinityScores>,
    ) -> Outcome {
        for (shard, scores) in &scores {
            self.check_scores(*shard, scores)?;
        }
        let detail = format!("{} shards, {model}, {window}", scores.len());
        for (shard, scores) in scores {
            let model = model.to_owned();
            self.affinities.insert(
                shard,
                Affinity {
                    window,
                    model,
                    scores,
                },
            );
        }
        self.record(stamp, EventKind::AffinitiesRecorded, About::default(), detail);
        Ok(Accepted::Applied)
    }

    fn check_scores(&self, shard: ShardId, scores: &HostAffinityScores) -> Result<(), Refusal> {
        if !self.shards.contains_key(&shard) {
            return Err(Refusal::UnknownShard(shard));
        }
        if let Some(host) = scores.0.keys().find(|host| !self.hosts.contains_key(host)) {
            return Err(Refusal::UnknownHost(*host));
        }
        if !scores.is_whole() {
            return Err(Refusal::Invalid(format!(
                "the scores of {shard} do not sum to {AFFINITY_TOTAL_PPM}"
            )));
        }
        Ok(())
    }

    pub(super) fn close_window(&mut self, stamp: Stamp, window: WindowId) -> Outcome {
        if window < self.window {
            return Err(Refusal::StaleWindow { current: self.window });
        }
        let next = window
            .0
            .checked_add(1)
            .ok_or_else(|| Refusal::Invalid("no window after it".to_owned()))?;
        self.window = WindowId(next);
        // Nothing else ends where nothing happens.
        self.compact_ended(stamp.now_ms);
        self.record(
            stamp,
            EventKind::WindowClosed,
            About::default(),
            format!("{window}"),
        );
        Ok(Accepted::Applied)
    }
}
