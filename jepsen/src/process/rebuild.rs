//! A host that lost its disk: it joins again as another, and takes the place of what it was.
//!
//! This is what an operator does. The empty folder gets a new token, so the cluster gives it a new id once the old one
//! counts as down; the replicas of the old id are then moved to living hosts. Left alone, the cluster does the same after
//! it has declared the old host dead, some ten seconds later here; asked in time, it is done before. The new replica
//! votes in the old one's place at once; that nobody can clean up on the lost disk keeps the migration listed until the
//! old host is declared dead.

use std::time::Duration;

use anyhow::{Context, bail};
use client::proto::{MoveReplicaRequest, ShardStatus};

use super::cluster::Cluster;
use super::layout::{Layout, has_replica};
use super::recovery::until;

impl Cluster {
    /// Remembers that the disk of host `number` is not to be trusted any more; `id` is who it was.
    pub(crate) fn spoil(&self, number: usize, id: u64) {
        self.with_host(number, |host| {
            host.spoiled = Some(id);
            host.may_end = true;
        });
    }

    /// Kills a spoiled host, deletes its data, starts it anew and waits until it has replaced what it was. Does
    /// nothing to a host that is sound.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub async fn rebuild(&self, number: usize, limit: Duration) -> anyhow::Result<()> {
        let Some(old) = self.with_host(number, |host| host.spoiled) else {
            return Ok(());
        };
        let renewed = self.with_host(number, |host| host.renewed);
        if !renewed {
            self.kill(number)?;
            self.delete_data(number)?;
            self.with_host(number, |host| {
                host.renewed = true;
                host.may_end = false;
            });
        }
        self.start_host(number)?;
        until(limit, || self.replace(number, old))
            .await
            .with_context(|| format!("host {number} does not take the place of id {old}"))?;
        self.with_host(number, |host| {
            host.spoiled = None;
            host.doubted = None;
            host.renewed = false;
        });
        Ok(())
    }

    fn delete_data(&self, number: usize) -> anyhow::Result<()> {
        let data = self.data_folder(number);
        if data.exists() {
            std::fs::remove_dir_all(&data).with_context(|| format!("{}", data.display()))?;
        }
        // Only the host that makes a cluster starts without one to join.
        let others = self.other_addresses(number);
        self.with_host(number, |host| host.join = others);
        Ok(())
    }

    /// One round: asks for the moves that are still missing. An error says what is.
    async fn replace(&self, number: usize, old: u64) -> anyhow::Result<()> {
        let layout = self.layout().await?;
        let new = layout.id_of(number).filter(|id| *id != old);
        let new = new.with_context(|| format!("host {number} has not joined again"))?;
        let left: Vec<&ShardStatus> = layout.groups().filter(|group| has_replica(group, old)).collect();
        let mut refusals = Vec::new();
        for group in left.iter().filter(|group| group.migration_id == 0) {
            if let Some(refused) = self.move_off(&layout, group, old, new).await? {
                refusals.push(refused);
            }
        }
        if !left.is_empty() {
            let shards: Vec<u64> = left.iter().map(|group| group.shard_id).collect();
            bail!("shards {shards:?} have replicas on id {old}; refused: {refusals:?}");
        }
        Ok(())
    }

    async fn move_off(
        &self,
        layout: &Layout,
        group: &ShardStatus,
        old: u64,
        new: u64,
    ) -> anyhow::Result<Option<String>> {
        let candidates = std::iter::once(new).chain(layout.up());
        let Some(to) = candidates
            .into_iter()
            .find(|id| *id != old && !has_replica(group, *id))
        else {
            return Ok(Some(format!("no host for shard {}", group.shard_id)));
        };
        let request = MoveReplicaRequest {
            shard_id: group.shard_id,
            from_host: old,
            to_host: to,
            reason: "its disk is lost".into(),
        };
        let reply = self.admin()?.move_replica(request).await?;
        let refused = (!reply.refused.is_empty()).then_some(reply.refused);
        Ok(refused.map(|refused| format!("shard {}: {refused}", group.shard_id)))
    }
}
