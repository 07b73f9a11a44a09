//! Trials: what begins one, what a measured window does to them, who loses the right to propose and who gets it back.

use std::collections::BTreeMap;

use super::{Cause, Outcome, check_texts};
use crate::history::EventKind;
use crate::ids::WindowId;
use crate::migration::{Migration, MigrationKind, Proposal, ProposalKind};
use crate::model::Shard;
use crate::response::{Accepted, Refusal};
use crate::rules::Origin;
use crate::state::{About, Placement, Stamp};
use crate::trust::{Layout, MeasuredGain, Trial, Verdict};

impl Placement {
    /// Whether proposals of a policy of this origin are written down and not carried out: an operator wishes so, or what
    /// it predicted did not come true.
    pub fn is_shadowed(&self, origin: Origin, policy: &str) -> bool {
        self.limits.shadow.contains(&origin) || self.is_distrusted(origin, policy)
    }

    /// Whether a policy of this origin has lost its right to propose.
    pub fn is_distrusted(&self, origin: Origin, policy: &str) -> bool {
        let record = self.trust.record(origin, policy);
        self.limits.trust.moves > 0 && record.is_some_and(|record| record.distrusted_since_ms.is_some())
    }

    /// Writes down what would have been done, and has it measured if anything was to be gained by it.
    pub(super) fn shadow(&mut self, stamp: Stamp, proposal: &Proposal) -> Outcome {
        let imagined = self.imagined(proposal);
        if imagined
            .as_ref()
            .is_some_and(|trial| self.trust.has_shadow(trial))
        {
            return Ok(Accepted::Unchanged);
        }
        let about = About {
            host: proposal.kind.destination(),
            ..About::shard(proposal.shard)
        };
        let Proposal { origin, reasons, .. } = proposal;
        let detail = format!("by {origin:?}, not carried out: {}", reasons.text);
        self.record(stamp, EventKind::Shadowed, about, detail);
        if let Some(trial) = imagined {
            self.trust.begin(stamp.index, trial);
        }
        Ok(Accepted::Shadowed)
    }

    fn imagined(&self, proposal: &Proposal) -> Option<Trial> {
        let before = Layout::of(self.shards.get(&proposal.shard)?)?;
        let after = after(&before, self.shards.get(&proposal.shard)?, &proposal.kind)?;
        let reasons = &proposal.reasons;
        (reasons.gain_micros > 0).then(|| Trial {
            shard: proposal.shard,
            migration: None,
            origin: proposal.origin,
            policy: reasons.policy.clone(),
            model: reasons.model.clone(),
            before,
            after,
            predicted_micros: reasons.gain_micros,
            from_window: self.window.max(proposal.window),
            windows: 0,
            measured: MeasuredGain::default(),
        })
    }

    /// Where a shard is served from before a move that is to be measured.
    pub(super) fn footing_of(&self, proposal: &Proposal, kind: MigrationKind) -> Option<Layout> {
        let moves = matches!(kind, MigrationKind::Move | MigrationKind::Home);
        let is_bet = proposal.origin.is_speculative() && proposal.reasons.gain_micros > 0;
        let shard = self.shards.get(&proposal.shard).filter(|_| moves && is_bet)?;
        Layout::of(shard)
    }

    /// A move that is done goes on trial.
    pub(super) fn try_move(&mut self, stamp: Stamp, migration: &Migration) {
        let after = self.shards.get(&migration.shard).and_then(Layout::of);
        let (Some(before), Some(after)) = (migration.before.clone(), after) else {
            return;
        };
        let reasons = &migration.reasons;
        let trial = Trial {
            shard: migration.shard,
            migration: Some(migration.id),
            origin: migration.origin,
            policy: reasons.policy.clone(),
            model: reasons.model.clone(),
            before,
            after,
            predicted_micros: reasons.gain_micros,
            from_window: self.window.max(migration.window),
            windows: 0,
            measured: MeasuredGain::default(),
        };
        self.trust.begin(stamp.index, trial);
    }

    /// Takes in what one window's accesses say of the moves on trial. A trial ends when it has all its windows, or when
    /// the shard is served from elsewhere; one that was never measured ends without a verdict.
    pub(super) fn record_gains(
        &mut self,
        stamp: Stamp,
        window: WindowId,
        gains: &BTreeMap<u64, MeasuredGain>,
    ) -> Outcome {
        if let Some(measured) = self.trust.measured.filter(|measured| *measured >= window) {
            return Err(Refusal::StaleWindow {
                current: WindowId(measured.0.saturating_add(1)),
            });
        }
        self.trust.measured = Some(window);
        let limits = self.limits.trust;
        let mut ended = Vec::new();
        for (id, trial) in &mut self.trust.trials {
            let stands = trial.stands(self.shards.get(&trial.shard));
            if let Some(gain) = gains.get(id).filter(|_| stands && trial.from_window <= window) {
                trial.measure(gain);
            }
            if !stands || trial.windows >= limits.windows || trial.is_overdue(window, &limits) {
                ended.push(*id);
            }
        }
        let ended: Vec<Trial> = ended
            .iter()
            .filter_map(|id| self.trust.trials.remove(id))
            .collect();
        for trial in ended.into_iter().filter(|trial| trial.windows > 0) {
            self.give_verdict(stamp, trial);
        }
        Ok(Accepted::Applied)
    }

    fn give_verdict(&mut self, stamp: Stamp, trial: Trial) {
        let (origin, policy) = (trial.origin, trial.policy.clone());
        let about = About {
            shard: Some(trial.shard),
            host: Some(trial.after.home),
            migration: trial.migration,
        };
        let verdict = Verdict {
            trial,
            index: stamp.index,
            at_ms: stamp.now_ms,
        };
        self.record(stamp, EventKind::GainMeasured, about, verdict.text());
        let limits = self.limits.trust;
        if !self.trust.judge(verdict, &limits) {
            return;
        }
        let rule = format!(
            "its last {} moves against {} ppm of what was predicted",
            limits.moves, limits.share_ppm
        );
        let detail = match self.is_distrusted(origin, &policy) {
            true => format!("{policy} of {origin:?} loses its right to propose: {rule}"),
            false => format!("{policy} of {origin:?} may propose again: {rule}"),
        };
        self.record(stamp, EventKind::TrustChanged, About::default(), detail);
    }

    /// Gives all policies of an origin their right back, as if they had never been judged.
    pub(super) fn restore_trust(&mut self, stamp: Stamp, restored: Origin, cause: &Cause) -> Outcome {
        check_texts([&cause.reason])?;
        let Some(records) = self.trust.records.remove(&restored) else {
            return Ok(Accepted::Unchanged);
        };
        let names: Vec<String> = records.into_keys().collect();
        let detail = format!(
            "{} of {restored:?} may propose, whatever came of it {cause}",
            names.join(", ")
        );
        self.record(stamp, EventKind::TrustChanged, About::default(), detail);
        Ok(Accepted::Applied)
    }
}

/// Where a shard would be served from.
fn after(before: &Layout, shard: &Shard, kind: &ProposalKind) -> Option<Layout> {
    let mut after = before.clone();
    match kind {
        ProposalKind::Home { to } => after.home = *to,
        ProposalKind::Move { from, to, take_home } => {
            let from = shard.replicas.get(from)?.host;
            after.voters.remove(&from);
            if *take_home {
                after.home = *to;
            } else if after.home == from {
                // Somebody that stays leads; who, is decided by an election.
                after.home = *after.voters.first()?;
            }
            after.voters.insert(*to);
        }
        _ => return None,
    }
    Some(after)
}
