//! What needs no migration under way: starting new shards, noticing hosts that come and go, proposing repairs, letting go
//! of emptied hosts, clearing debris, and keeping the placement group itself at its size.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use placement::{Action, Command, HostId, HostState, Migration, Origin, Shard, ShardId};

use super::{Controller, write};
use crate::control::{InitializeGroupOrder, PlacementMember};

const ROUND_PAUSE: Duration = Duration::from_millis(200);
/// A host that has not answered for this long counts as down.
const DOWN_AFTER: Duration = Duration::from_secs(3);
/// Debris is looked for in one round of so many.
const STRAYS_EVERY: u64 = 25;
/// How long the start of a shard may take before it is tried again.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// Shards that are started at once.
const STARTS_MAX: usize = 8;

impl Controller {
    /// Tends the cluster for as long as this controller is in control.
    pub(super) async fn tend(self) {
        // Beside each other: shards that cannot start wait for a host to be noticed as lost.
        tokio::join!(self.tend_hosts(), self.tend_starts());
    }

    async fn tend_hosts(&self) {
        let mut round = 0_u64;
        loop {
            self.notice_hosts().await;
            self.propose_repairs().await;
            self.remove_emptied().await;
            if round % STRAYS_EVERY == STRAYS_EVERY - 1 {
                self.clear_strays().await;
                self.split_large().await;
                self.split_by_access().await;
                self.merge_small().await;
            }
            round += 1;
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }

    async fn tend_starts(&self) {
        loop {
            self.start_shards().await;
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }

    pub(super) async fn write(&self, command: &Command) {
        write(&self.local, self.raft_term, command).await;
    }

    /// Marks hosts up and down, and declares dead what was down for too long.
    async fn notice_hosts(&self) {
        let now_ms = self.clock.now_ms();
        let hosts: Vec<(HostId, HostState)> = self
            .local
            .machine
            .state()
            .hosts()
            .values()
            .map(|host| (host.id, host.state))
            .collect();
        for (host, known) in hosts {
            let Some(silence) = self.observer.silence(host) else {
                continue;
            };
            // Only an answer shows that a host is back: a new controller has not asked for long, whoever is silent.
            let answered_ago = self.observer.answered_ago(host);
            let state = match known {
                HostState::Up if silence >= DOWN_AFTER => HostState::Down,
                HostState::Down if answered_ago.is_some_and(|ago| ago < DOWN_AFTER) => HostState::Up,
                _ => continue,
            };
            tracing::info!(%host, ?state, silent_ms = silence.as_millis() as u64, "a host's state changed");
            self.write(&Command::SetHostState { host, state, now_ms }).await;
        }
        let overdue = placement::overdue_hosts(&self.local.machine.state(), now_ms);
        for host in overdue {
            self.write(&Command::DeclareDead { host, now_ms }).await;
        }
    }

    /// Makes the replicas of new shards and initialises their groups; tries each once.
    async fn start_shards(&self) {
        let waiting: Vec<Shard> = {
            let state = self.local.machine.state();
            state
                .data_shards()
                .filter(|shard| !shard.ready)
                .cloned()
                .collect()
        };
        for some in waiting.chunks(STARTS_MAX) {
            // One silent host must not keep the others' shards waiting.
            let starts = some
                .iter()
                .map(|shard| tokio::time::timeout(START_TIMEOUT, self.start_shard(shard)));
            join_all(starts).await;
        }
    }

    async fn start_shard(&self, shard: &Shard) {
        match self.begin_group(shard).await {
            Ok(()) => {
                self.write(&Command::ShardReady {
                    shard: shard.id,
                    now_ms: self.clock.now_ms(),
                })
                .await
            }
            Err(reason) => tracing::info!(shard = %shard.id, reason, "a shard is not started yet"),
        }
    }

    /// Has every founder make its replica and write down the first members, the home first: it is likely to lead first
    /// then.
    ///
    /// Each of them writes, not the home alone: what only one host knows goes with its disk, and the others could never
    /// elect anyone. They all write the same entry, so the group is the same whoever begins it.
    async fn begin_group(&self, shard: &Shard) -> Result<(), String> {
        let founders = {
            let state = self.local.machine.state();
            shard.founders(|host| state.host_is_lost(host))
        };
        let founders = founders.ok_or("most of its first hosts are dead")?;
        for (replica, host) in &founders {
            let made = self.create(shard.id, *host, *replica).await;
            made.map_err(|reason| format!("no first replica on host {host}: {reason}"))?;
        }
        for (_, host) in &founders {
            let begun = self.initialize(shard, *host).await;
            begun.map_err(|reason| format!("no first members on host {host}: {reason}"))?;
        }
        Ok(())
    }

    async fn initialize(&self, shard: &Shard, host: HostId) -> Result<(), String> {
        let members = shard.replicas.iter();
        let order = InitializeGroupOrder {
            order: self.order(host),
            shard_id: shard.id.0,
            members: members
                .map(|(replica, at)| PlacementMember {
                    replica_id: replica.0,
                    host_id: at.host.0,
                })
                .collect(),
        };
        let reply = self.control(host)?.initialize_group(order).await;
        self.obeyed(host, reply)
    }

    /// Proposes what the rules ask for, the placement group first.
    async fn propose_repairs(&self) {
        let now_ms = self.clock.now_ms();
        let proposals = {
            let state = self.local.machine.state();
            let group = placement::placement_group_target(&state, now_ms);
            group
                .into_iter()
                .chain(placement::repairs(&state, now_ms))
                .collect::<Vec<_>>()
        };
        for proposal in proposals {
            self.write(&Command::Propose(proposal)).await;
        }
        let expired = {
            let state = self.local.machine.state();
            let mut waiting = state.active_migrations();
            waiting.any(|migration| {
                migration.state == placement::MigrationState::Proposed && migration.expires_ms < now_ms
            })
        };
        if expired {
            self.write(&Command::Expire { now_ms }).await;
        }
    }

    /// Lets go of the decommissioned hosts that hold nothing any more.
    async fn remove_emptied(&self) {
        let emptied = placement::emptied_hosts(&self.local.machine.state());
        for host in emptied {
            tracing::info!(%host, "a decommissioned host leaves the cluster");
            self.write(&Command::RemoveHost {
                host,
                origin: Origin::Drain,
                reason: "decommissioned, and it holds nothing any more".to_owned(),
                now_ms: self.clock.now_ms(),
            })
            .await;
        }
    }

    /// Removes what no migration owns.
    async fn clear_strays(&self) {
        let shards: BTreeSet<ShardId> = self.local.machine.state().shards().keys().copied().collect();
        for shard in shards {
            let observation = self.observer.observation(shard);
            let actions = placement::strays(&self.local.machine.state(), &observation);
            let decided_on = observation.membership_index().unwrap_or(0);
            for action in actions {
                tracing::info!(%shard, ?action, "clearing debris");
                let split = self.split_behind(shard, &action);
                if let Err(reason) = self.carry_out(shard, split.as_ref(), &action, decided_on).await {
                    tracing::debug!(%shard, reason, "debris is still there");
                }
            }
        }
    }

    /// The split that a late replica of a new shard comes from.
    fn split_behind(&self, shard: ShardId, action: &Action) -> Option<Migration> {
        let is_late = matches!(action, Action::CreateSuccessor { .. });
        let state = self.local.machine.state();
        let mut splits = state.migrations().values().filter(|_| is_late);
        let made = |migration: &&Migration| migration.split.as_ref().is_some_and(|plan| plan.shard == shard);
        splits.find(made).cloned()
    }
}
