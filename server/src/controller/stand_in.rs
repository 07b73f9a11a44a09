//! Who proposes while the policy may not: a slow average, which moves a home once staying has cost as much as the move.
//!
//! A policy that is in shadow, by an operator's word or because its gains did not come true, goes on planning, and its
//! proposals are written down. Meanwhile homes are moved by what was, with the origin balance: it can be paused by its own
//! name, and is judged by its own gains.

use ml::{Ewma, Forecaster, RuleForecaster, WindowCounts};
use placement::planner::{Mode, PlanMemory, plan};
use placement::{Origin, Proposal, WindowId, Zone};

use super::Controller;
use super::balance::{BalanceError, Balancer, PROPOSAL_LIFE_MS};
use super::forecast;
use crate::config::PolicyName;

/// What stands in for every policy that forecasts each window, but itself.
const STAND_IN: PolicyName = PolicyName::EwmaHysteresis;

/// The slow average and what it remembers. It learns all the time, and plans when it is needed.
pub(crate) struct StandIn {
    forecaster: RuleForecaster<Ewma>,
    memory: PlanMemory,
}

impl StandIn {
    /// The one for a policy, if it has any.
    pub(super) fn of(policy: PolicyName, zones: &[Zone]) -> Option<Self> {
        (forecast::follows_windows(policy) && policy != STAND_IN).then(|| Self {
            forecaster: forecast::slow_average(zones),
            memory: PlanMemory::default(),
        })
    }
}

impl Controller {
    /// Shows the stand-in a window, and has it plan the next one if the policy's own proposals are not carried out.
    pub(super) fn stand_in(
        &self,
        balancer: &mut Balancer,
        policy: PolicyName,
        counts: &WindowCounts,
        next: WindowId,
    ) -> Result<Vec<Proposal>, BalanceError> {
        let lease_reads_ppm = self.lease_reads_ppm(balancer);
        let Some(reserve) = balancer.reserve.as_mut() else {
            return Ok(Vec::new());
        };
        reserve.forecaster.observe(counts);
        let shadowed = self
            .local
            .machine
            .state()
            .is_shadowed(Origin::Model, policy.as_str());
        if !shadowed {
            return Ok(Vec::new());
        }
        let forecast = reserve.forecaster.forecast(next);
        let planned = self.judge_with(
            lease_reads_ppm,
            &reserve.memory,
            STAND_IN,
            &forecast,
            Mode::Homes,
            plan,
        )?;
        reserve.memory = planned.memory;
        let now_ms = self.clock.now_ms();
        let window = self.logged_window(next);
        let moves = planned.proposals.iter().map(|planned| {
            let proposal = planned.proposal(STAND_IN.as_str(), window, now_ms, now_ms + PROPOSAL_LIFE_MS);
            match proposal.origin {
                Origin::Model => Proposal {
                    origin: Origin::Balance,
                    ..proposal
                },
                _ => proposal,
            }
        });
        Ok(moves.collect())
    }
}
