//! A controller's orders that change a shard's range.

use std::time::Duration;

use placement::{HostId, ReplicaId};
use raft::founding_mark;
use storage::shard::{
    Absorb, Freeze, MergeStep, Outcome, OutcomeKind, Split, Thaw, encode_merge_step, encode_split,
};

use super::control::ControlService;
use crate::control::step_merge_order::Step;
use crate::control::{SplitShardOrder, StageSplitOrder, StepMergeOrder};

/// How long an order to copy ahead waits for that to be done; a small shard is ready at once.
const STAGE_WAIT: Duration = Duration::from_secs(2);

impl ControlService {
    /// Has the shard's log part its range; nothing to do if it has.
    pub(super) async fn split(&self, order: SplitShardOrder) -> Result<(), String> {
        let (_, group) = self.admit(order.order.as_ref(), order.shard_id)?;
        let local = self.host.shard(group.id()).ok_or("a shard without a range")?;
        if local.store.generation() > order.r#gen {
            return Ok(());
        }
        let members = order.successors.iter();
        let members = members.map(|made| (ReplicaId(made.replica_id), HostId(made.host_id)));
        let split = Split {
            r#gen: order.r#gen,
            key: order.at,
            shard: order.new_shard_id,
            mark: founding_mark(&members.collect()),
            successors: order
                .successors
                .iter()
                .map(|made| storage::shard::Successor {
                    of: made.of,
                    replica: made.replica_id,
                })
                .collect(),
        };
        let entry = encode_split(self.host.now_ms(), split);
        let (_, answer) = group.propose(entry).await.map_err(|e| e.to_string())?;
        let outcomes: Vec<Outcome> = answer.take().ok_or("a split without an outcome")?;
        match outcomes.first().map(|outcome| &outcome.kind) {
            Some(OutcomeKind::Split) => Ok(()),
            other => Err(format!("the shard does not split: {other:?}")),
        }
    }

    /// Copies ahead what this host's replica will part with. Whether that is done; if not, it goes on.
    pub(super) async fn stage(&self, order: StageSplitOrder) -> Result<bool, String> {
        let (_, group) = self.admit(order.order.as_ref(), order.shard_id)?;
        let local = self.host.shard(group.id()).ok_or("a shard without a range")?;
        if local.store.generation() > order.r#gen {
            return Ok(true);
        }
        let (tell, told) = tokio::sync::oneshot::channel();
        let host = self.host.clone();
        self.host.spawn(async move {
            let staging = host.background(move || local.store.stage_split(order.r#gen, &order.at));
            // Nobody may be waiting any more.
            drop(tell.send(staging.await));
        });
        match tokio::time::timeout(STAGE_WAIT, told).await {
            Ok(Ok(staged)) => staged.map(|()| true).map_err(|e| e.to_string()),
            Ok(Err(_)) => Err("the host stops".to_owned()),
            Err(_) => Ok(false),
        }
    }

    /// Has the shard's log make its step of a merge; nothing to do if it has.
    pub(super) async fn step_merge(&self, order: StepMergeOrder) -> Result<(), String> {
        let (_, group) = self.admit(order.order.as_ref(), order.shard_id)?;
        let local = self.host.shard(group.id()).ok_or("a shard without a range")?;
        let (step, after) = match order.step.ok_or("no step was named")? {
            Step::Freeze(_) => (MergeStep::Freeze(Freeze { r#gen: order.r#gen }), order.r#gen + 1),
            Step::Thaw(_) => (MergeStep::Thaw(Thaw { r#gen: order.r#gen }), order.r#gen + 2),
            Step::Absorb(other) => {
                let absorb = Absorb {
                    r#gen: order.r#gen,
                    shard: other.shard_id,
                    shard_gen: other.r#gen,
                };
                (MergeStep::Absorb(absorb), absorb.gen_after())
            }
        };
        if local.store.generation() >= after {
            return Ok(());
        }
        let entry = encode_merge_step(self.host.now_ms(), step);
        let (_, answer) = group.propose(entry).await.map_err(|e| e.to_string())?;
        let outcomes: Vec<Outcome> = answer.take().ok_or("a step without an outcome")?;
        match outcomes.first().map(|outcome| &outcome.kind) {
            Some(OutcomeKind::MergeStep) => Ok(()),
            other => Err(format!("the shard does not merge: {other:?}")),
        }
    }
}
