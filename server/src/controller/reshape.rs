//! Orders that change a shard's range: what a split parts with is copied ahead, then the split is ordered; a merge is made
//! in steps.

use futures_util::future::join_all;
use placement::{HostId, HostState, MergeStep, Migration, ShardId, SplitPlan};

use super::Controller;
use crate::control::step_merge_order::Step;
use crate::control::{AbsorbedShard, SplitShardOrder, StageSplitOrder, StepMergeOrder, Successor};

/// How long hosts may copy ahead before a split is ordered all the same: then the new shard waits for what is missing.
const STAGE_PATIENCE_MS: u64 = 120_000;

impl Controller {
    /// Orders a split, once what it parts with is copied ahead on every host that answers.
    pub(super) async fn split(
        &self,
        shard: ShardId,
        generation: u64,
        plan: &SplitPlan,
        migration: Option<&Migration>,
    ) -> Result<(), String> {
        let since_ms = migration.map_or(0, |migration| migration.since_ms);
        let has_patience = self.clock.now_ms() < since_ms.saturating_add(STAGE_PATIENCE_MS);
        if has_patience && !self.is_staged(shard, generation, plan).await {
            return Err("what the split parts with is still being copied ahead".to_owned());
        }
        let host = self.leader_host(shard)?;
        let successors = plan.successors.iter().map(|(of, made)| Successor {
            of: of.0,
            replica_id: made.replica.0,
            host_id: made.host.0,
        });
        let order = SplitShardOrder {
            order: self.order(host),
            shard_id: shard.0,
            r#gen: generation,
            at: plan.at.clone().into(),
            new_shard_id: plan.shard.0,
            successors: successors.collect(),
        };
        let reply = self.control(host)?.split_shard(order).await;
        self.obeyed(host, reply)
    }

    /// Whether no host is still copying ahead. One that is down or cannot is not waited for.
    async fn is_staged(&self, shard: ShardId, generation: u64, plan: &SplitPlan) -> bool {
        let hosts: Vec<HostId> = {
            let state = self.local.machine.state();
            let hosts = plan.successors.values().map(|made| made.host);
            let is_up = |host: &HostId| {
                state
                    .host(*host)
                    .is_some_and(|known| known.state == HostState::Up)
            };
            hosts.filter(is_up).collect()
        };
        let staging = hosts
            .into_iter()
            .map(|host| self.stage(shard, generation, plan, host));
        join_all(staging).await.into_iter().all(|is_done| is_done)
    }

    async fn stage(&self, shard: ShardId, generation: u64, plan: &SplitPlan, host: HostId) -> bool {
        let Ok(mut control) = self.control(host) else {
            return true;
        };
        let order = StageSplitOrder {
            order: self.order(host),
            shard_id: shard.0,
            r#gen: generation,
            at: plan.at.clone().into(),
        };
        match control.stage_split(order).await.map(tonic::Response::into_inner) {
            Ok(reply) if reply.refused.is_empty() => reply.staged,
            Ok(reply) => {
                tracing::info!(%shard, %host, reason = reply.refused, "nothing is copied ahead for a split");
                true
            }
            Err(status) => {
                tracing::info!(%shard, %host, reason = status.message(), "nothing is copied ahead for a split");
                true
            }
        }
    }

    /// Orders a step of a merge.
    pub(super) async fn step_merge(&self, shard: ShardId, step: MergeStep) -> Result<(), String> {
        let host = self.leader_host(shard)?;
        let (generation, step) = match step {
            MergeStep::Freeze { generation } => (generation, Step::Freeze(true)),
            MergeStep::Thaw { generation } => (generation, Step::Thaw(true)),
            MergeStep::Absorb {
                generation,
                absorbed,
                absorbed_generation,
            } => {
                let absorbed = AbsorbedShard {
                    shard_id: absorbed.0,
                    r#gen: absorbed_generation,
                };
                (generation, Step::Absorb(absorbed))
            }
        };
        let order = StepMergeOrder {
            order: self.order(host),
            shard_id: shard.0,
            r#gen: generation,
            step: Some(step),
        };
        let reply = self.control(host)?.step_merge(order).await;
        self.obeyed(host, reply)
    }
}
