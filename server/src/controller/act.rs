//! One step of one migration: look, decide, act.

use std::time::Duration;

use placement::{
    Action, Command, FirstRange, HostId, Migration, MigrationId, MigrationState, Pacer, Placed, ReplicaId,
    ShardId,
};
use storage::seeded_bug;

use super::{Controller, write};
use crate::control::change_members_order::Change;
use crate::control::{
    Absorber, ChangeMembersOrder, CreateReplicaOrder, DestroyReplicaOrder, Order, OrderReply,
    PlacementMember, SuccessorOf, Switch, TransferHomeOrder,
};

/// An order without visible effect is given again after this long.
const REPEAT_MS: u64 = 1_000;
/// How long an order may take before it is looked at again.
const ORDER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the target of a transfer may take to lead.
const TRANSFER_TIMEOUT_MS: u64 = 3_000;
/// The longest rest between two looks at a migration under way.
const REST_MAX: Duration = Duration::from_millis(100);

impl Controller {
    /// Does what is due for a migration and says how long to rest; `None` when it has ended.
    pub(super) async fn step(&self, migration: MigrationId, pacer: &mut Pacer) -> Option<Duration> {
        let (known, actions, decided_on) = self.decide(migration)?;
        let mut rest = Duration::ZERO;
        for action in actions {
            let now_ms = self.clock.now_ms();
            if let Action::Wait { until_ms } = &action {
                rest = Duration::from_millis(until_ms.saturating_sub(now_ms)).min(REST_MAX);
            } else if pacer.is_due(migration, &action, now_ms, REPEAT_MS) {
                self.act(&known, action, decided_on).await;
            } else {
                rest = REST_MAX;
            }
        }
        Some(rest)
    }

    /// What to do, and the membership that it was decided on.
    fn decide(&self, migration: MigrationId) -> Option<(Migration, Vec<Action>, u64)> {
        let state = self.local.machine.state();
        let known = state
            .migration(migration)
            .filter(|known| !known.state.is_terminal())?
            .clone();
        let mut observation = self.observer.observation(known.shard);
        if let Some(other) = known.other_shard() {
            observation.add_other(self.observer.observation(other));
        }
        let actions = placement::next_actions(&state, &known, &observation, self.term, self.clock.now_ms());
        tracing::trace!(%migration, ?actions, ?observation, "decided");
        Some((known, actions, observation.membership_index().unwrap_or(0)))
    }

    /// Rests until something new is seen or written, or the time is over.
    pub(super) async fn rest(&self, wait: Duration) {
        if wait.is_zero() {
            return;
        }
        let mut looks = self.observer.looks();
        let mut changes = self.local.machine.changes();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = looks.changed() => {}
            _ = changes.changed() => {}
        }
    }

    /// Carries out one action. A failure is only logged: the next step looks again and decides anew.
    async fn act(&self, migration: &Migration, action: Action, decided_on: u64) {
        if let Action::Propose(command) = action {
            self.advance(migration, &command).await;
            return;
        }
        if seeded_bug::is_on("B13")
            && let (Action::Switch { .. }, Some(source)) = (&action, migration.src)
        {
            // Seeded bug B13: the source goes once this controller means to switch; no log knows that it has.
            drop(
                self.destroy(migration.shard, source.host, source.replica, None)
                    .await,
            );
        }
        let order = self.carry_out(migration.shard, Some(migration), &action, decided_on);
        match tokio::time::timeout(ORDER_TIMEOUT, order).await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => {
                tracing::debug!(migration = %migration.id, ?action, reason, "an order was not obeyed")
            }
            Err(_) => tracing::debug!(migration = %migration.id, ?action, "an order is taking long"),
        }
    }

    async fn advance(&self, migration: &Migration, command: &Command) {
        self.pass_failpoint(points_of(migration.state).0);
        let response = write(&self.local, self.raft_term, command).await;
        self.pass_failpoint(points_of(migration.state).1);
        tracing::debug!(migration = %migration.id, state = ?migration.state, ?response, "advanced");
    }

    /// Ends the process where a test armed the point. An error makes no sense here and is ignored.
    fn pass_failpoint(&self, point: &'static str) {
        if cfg!(debug_assertions) {
            drop(self.host.failpoints().pass(point));
        }
    }

    /// Gives the order that an action stands for.
    pub(super) async fn carry_out(
        &self,
        shard: ShardId,
        migration: Option<&Migration>,
        action: &Action,
        decided_on: u64,
    ) -> Result<(), String> {
        let wish = |conf_ver: Option<u64>| Wish {
            shard,
            migration,
            conf_ver,
            decided_on,
        };
        match *action {
            Action::CreateReplica { host, replica } => self.create(shard, host, replica).await,
            Action::CreateSuccessor { of, made } => self.create_successor(migration, of, made).await,
            Action::Split { generation, ref plan } => self.split(shard, generation, plan, migration).await,
            Action::DestroyReplica { host, replica } => self.destroy(shard, host, replica, None).await,
            Action::StepMerge { shard, step } => self.step_merge(shard, step).await,
            Action::DestroyAbsorbed {
                shard: absorbed,
                doomed,
                by,
                generation,
            } => {
                let by = Absorber {
                    shard_id: shard.0,
                    replica_id: by.0,
                    r#gen: generation,
                };
                self.destroy(absorbed, doomed.host, doomed.replica, Some(by))
                    .await
            }
            Action::TransferLeader { to } => self.transfer(shard, to).await,
            Action::AddLearner { replica, host } => {
                let member = PlacementMember {
                    replica_id: replica.0,
                    host_id: host.0,
                };
                self.change(wish(None), Change::AddLearner(member)).await
            }
            Action::RemoveReplica { replica } => self.change(wish(None), Change::Remove(replica.0)).await,
            Action::Switch {
                add,
                demote,
                conf_ver,
                ..
            } => {
                let switch = Switch {
                    promote: add.map(|id| id.0),
                    demote: demote.map(|id| id.0),
                };
                self.change(wish(Some(conf_ver)), Change::Switch(switch)).await
            }
            Action::FenceReplica {
                host,
                replica,
                migration,
            } => self.fence(shard, host, replica, migration).await,
            Action::ReopenReplica { .. } => self.reopen(shard, action).await,
            Action::Propose(_) | Action::Wait { .. } => Ok(()),
        }
    }

    pub(super) fn order(&self, host: HostId) -> Option<Order> {
        Some(Order {
            cluster_id: self.host.cluster_id()?,
            to_host: host.0,
            controller_term: self.term.0,
        })
    }

    pub(super) fn address(&self, host: HostId) -> Result<String, String> {
        let state = self.local.machine.state();
        state
            .host(host)
            .map(|known| known.address.clone())
            .ok_or_else(|| format!("no host {host}"))
    }

    pub(super) fn control(&self, host: HostId) -> Result<ControlAt, String> {
        self.host
            .channels()
            .control(&self.address(host)?)
            .map_err(|e| e.to_string())
    }

    /// Looks at the reply of an order.
    pub(super) fn obeyed(
        &self,
        host: HostId,
        reply: Result<tonic::Response<OrderReply>, tonic::Status>,
    ) -> Result<(), String> {
        let reply = reply.map_err(|status| status.message().to_owned())?.into_inner();
        if !reply.refused.is_empty() {
            return Err(reply.refused);
        }
        if let Some(view) = reply.view {
            self.observer.absorb(host, view);
        }
        Ok(())
    }

    pub(super) async fn create(
        &self,
        shard: ShardId,
        host: HostId,
        replica: ReplicaId,
    ) -> Result<(), String> {
        let order = {
            let state = self.local.machine.state();
            let known = state.shard(shard).ok_or_else(|| format!("no shard {shard}"))?;
            let FirstRange { range, generation } = known.first_range();
            CreateReplicaOrder {
                order: self.order(host),
                shard_id: shard.0,
                replica_id: replica.0,
                start: range.start.into(),
                end: range.end.map(Into::into),
                r#gen: generation,
                successor_of: None,
            }
        };
        let reply = self.control(host)?.create_replica(order).await;
        self.obeyed(host, reply)
    }

    async fn create_successor(
        &self,
        migration: Option<&Migration>,
        of: ReplicaId,
        made: Placed,
    ) -> Result<(), String> {
        let planned = migration.and_then(|migration| Some((migration, migration.split.as_ref()?)));
        let (migration, plan) = planned.ok_or("a successor without a split")?;
        let order = {
            let state = self.local.machine.state();
            let known = state.shard(plan.shard);
            let known = known.ok_or_else(|| format!("no shard {}", plan.shard))?;
            CreateReplicaOrder {
                order: self.order(made.host),
                shard_id: plan.shard.0,
                replica_id: made.replica.0,
                start: known.range.start.clone().into(),
                end: known.range.end.clone().map(Into::into),
                r#gen: known.epoch.generation,
                successor_of: Some(SuccessorOf {
                    shard_id: migration.shard.0,
                    replica_id: of.0,
                    r#gen: migration.basis.generation + 1,
                }),
            }
        };
        let reply = self.control(made.host)?.create_replica(order).await;
        self.obeyed(made.host, reply)
    }

    async fn destroy(
        &self,
        shard: ShardId,
        host: HostId,
        replica: ReplicaId,
        absorbed_by: Option<Absorber>,
    ) -> Result<(), String> {
        let order = DestroyReplicaOrder {
            absorbed_by,
            order: self.order(host),
            shard_id: shard.0,
            replica_id: replica.0,
        };
        let reply = self.control(host)?.destroy_replica(order).await;
        self.obeyed(host, reply)?;
        self.observer.absorb_tombstone(host, shard, replica);
        Ok(())
    }

    async fn transfer(&self, shard: ShardId, to: ReplicaId) -> Result<(), String> {
        let host = self.leader_host(shard)?;
        let order = TransferHomeOrder {
            order: self.order(host),
            shard_id: shard.0,
            to_replica: to.0,
            timeout_ms: TRANSFER_TIMEOUT_MS,
        };
        let reply = self.control(host)?.transfer_home(order).await;
        let obeyed = self.obeyed(host, reply);
        self.look_at_new_leader(shard, to).await;
        obeyed
    }

    /// The new leader itself is the evidence of a transfer; it is asked at once rather than at the next round.
    async fn look_at_new_leader(&self, shard: ShardId, to: ReplicaId) {
        let target = {
            let state = self.local.machine.state();
            state
                .shard(shard)
                .and_then(|known| known.replicas.get(&to))
                .map(|replica| replica.host)
        };
        if let Some(host) = target
            && let Ok(address) = self.address(host)
        {
            self.observer.look(host, address).await;
        }
    }

    async fn change(&self, wish: Wish<'_>, change: Change) -> Result<(), String> {
        let leader = self.observer.observation(wish.shard).leader;
        let leader = leader.ok_or_else(|| format!("shard {} has no known leader", wish.shard))?;
        let order = ChangeMembersOrder {
            order: self.order(leader.host),
            shard_id: wish.shard.0,
            conf_ver: wish.conf_ver.unwrap_or(leader.membership.conf_ver),
            migration: wish.migration.map_or(0, |known| known.id.0),
            decided_on: wish.decided_on,
            change: Some(change),
        };
        let reply = self.control(leader.host)?.change_members(order).await;
        self.obeyed(leader.host, reply)
    }

    pub(super) fn leader_host(&self, shard: ShardId) -> Result<HostId, String> {
        self.observer
            .leader_host(shard)
            .ok_or_else(|| format!("shard {shard} has no known leader"))
    }
}

/// A change of members, and what it rests on.
struct Wish<'a> {
    shard: ShardId,
    migration: Option<&'a Migration>,
    /// The version of the new configuration; `None` leaves it as it is.
    conf_ver: Option<u64>,
    /// The membership that was seen.
    decided_on: u64,
}

type ControlAt = crate::control::control_client::ControlClient<tonic::transport::Channel>;

/// The fail points before and after the entry that leaves a state.
fn points_of(state: MigrationState) -> (&'static str, &'static str) {
    match state {
        MigrationState::Proposed => (
            "controller.leave_proposed.before",
            "controller.leave_proposed.after",
        ),
        MigrationState::Adding => ("controller.leave_adding.before", "controller.leave_adding.after"),
        MigrationState::CatchingUp => (
            "controller.leave_catching_up.before",
            "controller.leave_catching_up.after",
        ),
        MigrationState::Transferring => (
            "controller.leave_transferring.before",
            "controller.leave_transferring.after",
        ),
        MigrationState::Switching => (
            "controller.leave_switching.before",
            "controller.leave_switching.after",
        ),
        MigrationState::Removing => (
            "controller.leave_removing.before",
            "controller.leave_removing.after",
        ),
        MigrationState::Cleaning => (
            "controller.leave_cleaning.before",
            "controller.leave_cleaning.after",
        ),
        MigrationState::Splitting => (
            "controller.leave_splitting.before",
            "controller.leave_splitting.after",
        ),
        MigrationState::Settling => (
            "controller.leave_settling.before",
            "controller.leave_settling.after",
        ),
        MigrationState::Freezing => (
            "controller.leave_freezing.before",
            "controller.leave_freezing.after",
        ),
        MigrationState::Absorbing => (
            "controller.leave_absorbing.before",
            "controller.leave_absorbing.after",
        ),
        MigrationState::Dissolving => (
            "controller.leave_dissolving.before",
            "controller.leave_dissolving.after",
        ),
        MigrationState::Thawing => (
            "controller.leave_thawing.before",
            "controller.leave_thawing.after",
        ),
        MigrationState::Aborting => (
            "controller.leave_aborting.before",
            "controller.leave_aborting.after",
        ),
        MigrationState::CleaningDst => (
            "controller.leave_cleaning_dst.before",
            "controller.leave_cleaning_dst.after",
        ),
        MigrationState::Collecting => (
            "controller.leave_collecting.before",
            "controller.leave_collecting.after",
        ),
        MigrationState::Reopening => (
            "controller.leave_reopening.before",
            "controller.leave_reopening.after",
        ),
        MigrationState::Done
        | MigrationState::Aborted
        | MigrationState::Rejected
        | MigrationState::Superseded => ("controller.ended.before", "controller.ended.after"),
    }
}
