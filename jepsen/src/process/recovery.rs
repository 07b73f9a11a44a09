//! After the last fault: is the cluster whole again?

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use client::Client;
use client::proto::{MigrationStatus, MigrationsRequest, ShardStatus};
use tokio::time::Instant;

use super::cluster::Cluster;
use super::compare::{self, ReplicaState, differences};
use super::layout::Layout;
use crate::ranges::first_gap;

const PAUSE: Duration = Duration::from_millis(100);
/// Looks that replicas have to be equally far.
const LEVEL_LOOKS: usize = 50;
/// Looks in a row that must find no migration: one may follow another.
const QUIET_LOOKS: usize = 3;

impl Cluster {
    /// Waits until every shard has a home and answers, then until no migration is active: how long each took.
    ///
    /// # Errors
    /// When it takes longer than the limit given for it.
    pub async fn recover(
        &self,
        homes: Duration,
        migrations: Duration,
    ) -> anyhow::Result<(Duration, Duration)> {
        let started = Instant::now();
        until(homes, || self.every_shard_answers())
            .await
            .context("not every shard answers")?;
        let homes_took = started.elapsed();
        let started = Instant::now();
        until(migrations, || self.is_quiet())
            .await
            .context("migrations are still under way")?;
        Ok((homes_took, started.elapsed()))
    }

    async fn every_shard_answers(&self) -> anyhow::Result<()> {
        let layout = self.layout().await?;
        if let Some(gap) = first_gap(&layout.shards) {
            bail!(
                "of the {} known shards none begins at {gap:?}",
                layout.shards.len()
            );
        }
        if let Some(shard) = layout.shards.iter().find(|shard| shard.home == 0) {
            bail!("shard {} has no home", shard.shard_id);
        }
        let client = self.connect().await?;
        for shard in &layout.shards {
            let read = client.get(first_key(shard)).await;
            read.with_context(|| format!("shard {} does not answer", shard.shard_id))?;
        }
        Ok(())
    }

    /// Whether a migration waits to clean up on a host that lost its disk: its shard can change no more before that
    /// host is declared dead.
    pub(crate) async fn has_debris(&self) -> anyhow::Result<bool> {
        let layout = self.layout().await?;
        let active = self.active_migrations().await?;
        Ok(active
            .iter()
            .any(|migration| waits_for_the_lost(&layout, migration)))
    }

    async fn active_migrations(&self) -> anyhow::Result<Vec<MigrationStatus>> {
        let request = MigrationsRequest {
            include_ended: false,
            limit: 100,
        };
        Ok(self.admin()?.migrations(request).await?.migrations)
    }

    async fn is_quiet(&self) -> anyhow::Result<()> {
        for _ in 0..QUIET_LOOKS {
            let active = self.active_migrations().await?;
            if let Some(first) = active.first() {
                bail!("{} active, among them {first:?}", active.len());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Connects a client of its own to the cluster.
    ///
    /// # Errors
    /// When no host answers.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(self.client_config()).await?)
    }

    /// Compares what the replicas of every shard hold: a line for each difference, and for each shard of which no two
    /// replicas could be compared.
    ///
    /// # Errors
    /// When a host cannot be asked.
    pub async fn compare_replicas(&self) -> anyhow::Result<Vec<String>> {
        let shards = self.layout().await?.shards.len();
        let mut states = self.replica_states().await?;
        // The last entries reach a follower a heartbeat after the leader has answered.
        for _ in 0..LEVEL_LOOKS {
            if compare::shards_level(&states) >= shards {
                break;
            }
            tokio::time::sleep(PAUSE).await;
            states = self.replica_states().await?;
        }
        let mut lines = differences(&states);
        let compared = compare::shards_compared(&states);
        if compared < shards {
            lines.push(format!(
                "replicas of {compared} of {shards} shards could be compared"
            ));
        }
        Ok(lines)
    }

    /// What every replica of every host that runs says of itself.
    async fn replica_states(&self) -> anyhow::Result<Vec<ReplicaState>> {
        let mut states = Vec::new();
        for number in self.running() {
            let address = self.address_of(number);
            let reply = self.admin_of_host(number)?.replica_states_of(&address).await?;
            states.extend(reply.replicas.into_iter().map(|state| ReplicaState {
                host: number,
                shard: state.shard_id,
                replica: state.replica_id,
                applied: state.applied_index,
                hash: state.state_hash,
            }));
        }
        Ok(states)
    }
}

/// Whether only the debris on a host that lost its disk is left to clear. The cluster waits for such a host until it
/// has been down for so long that it is declared dead; the new voter is at work already.
fn waits_for_the_lost(layout: &Layout, migration: &MigrationStatus) -> bool {
    migration.state == "Cleaning" && layout.number_of(migration.from_host).is_none()
}

/// A key that lies in the shard.
fn first_key(shard: &ShardStatus) -> Bytes {
    if shard.start.is_empty() {
        Bytes::from_static(b"\0")
    } else {
        Bytes::from(shard.start.to_vec())
    }
}

/// Tries until it succeeds or `limit` is over; then fails with the last reason.
pub(super) async fn until<T>(
    limit: Duration,
    mut attempt: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let started = Instant::now();
    loop {
        let left = limit.saturating_sub(started.elapsed()).max(PAUSE);
        let reason = match tokio::time::timeout(left, attempt()).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(reason)) => reason,
            Err(_) => anyhow::anyhow!("no answer"),
        };
        if started.elapsed() + PAUSE >= limit {
            return Err(reason.context(format!("not within {limit:?}")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
