//! Splits: a shard gives the upper part of its range to a new shard.
//!
//! The split is an entry of the shard's log. Applying it divides what is in memory: the parent keeps what lies below the
//! key, and what lies above becomes an [`Heir`], with copies of the sessions and leases and at the same revision, so that
//! revisions, watches and retried mutations mean the same to the new shard as to the old one. No disk is waited for.
//!
//! The heir's rows still lie in the parent's file, and [`Heir::write`] copies them into a file of the new replica's own.
//! Until it has, or the heir was renounced, the parent takes no checkpoint and no snapshot: after a crash it stands before
//! the split again, and applies it again. So the new replica exists once its file does, and what is not yet durable of
//! it is still durable in the parent.
//!
//! Most of the rows may have been copied ahead (see `stage`).
//!
//! The heir's rows stay in the parent's file, outside its range, until the file is rewritten; whoever reads rows from a
//! file passes over those.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use prost::Message;

use super::estate::Estate;
use super::file::{OpenShardError, SESSIONS, checkpoint_body, write_meta};
use super::fresh::FreshRows;
use super::machine::{Position, Refusal, ShardRange, State};
use super::record::{IdentityBody, Kind, seal};
use super::stage::Staged;
use super::store::{
    CreateShardError, Inner, ShardIdentity, ShardStore, beside, create_engine, move_into_place, owner,
    remove_leftover,
};
use crate::disk::Disk;
use crate::engine::{Durability, Engine};
use crate::failpoint;
use crate::failpoint::HostFailpoints;

/// Where the log of a shard that came from a split begins: its first replicas all stand here, with the same state.
pub const SPLIT_BASE: Position = Position { term: 0, index: 0 };

/// Gives the keys from `key` on to a new shard.
#[derive(Clone, PartialEq, Message)]
pub struct Split {
    /// The range's version that the split was decided on; of another version, the shard refuses it.
    #[prost(uint64, tag = "1")]
    pub r#gen: u64,
    /// The new shard's first key: within the range, and not its first.
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    /// The new shard.
    #[prost(uint64, tag = "3")]
    pub shard: u64,
    /// The replicas of the shard, with those of the new one that take over from them.
    #[prost(message, repeated, tag = "4")]
    pub successors: Vec<Successor>,
    /// The caller's mark of the new shard's first checkpoint.
    #[prost(bytes = "bytes", tag = "5")]
    pub mark: Bytes,
}

/// A replica, and the one of the new shard that its host makes of it.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Successor {
    /// The replica of the shard that is split.
    #[prost(uint64, tag = "1")]
    pub of: u64,
    /// The replica of the new shard.
    #[prost(uint64, tag = "2")]
    pub replica: u64,
}

/// What a replica holds for the replica of a new shard that does not exist yet.
#[derive(Debug)]
pub struct Heir {
    /// The new shard.
    pub shard_id: u64,
    /// Its replica on this host.
    pub replica_id: u64,
    mark: Bytes,
    estate: Mutex<Option<Estate>>,
    /// Rows of it that were copied ahead.
    staged: Mutex<Option<Staged>>,
    /// Of the bytes that the parent's file held, the part of the rows that go; about.
    live_bytes: u64,
    /// What was written, for whoever opens the file now: reading it back from there takes as long as there are rows.
    born: Mutex<Option<Born>>,
    settled: AtomicBool,
}

/// A state that is in a file, as it is in memory.
pub(super) struct Born {
    pub(super) state: State,
    pub(super) live_bytes: u64,
}

impl Heir {
    /// Whether nothing is held any more: it was written, or renounced.
    pub fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// Gives up what is held: the replica exists already, or was destroyed, or nobody opens it now.
    pub fn renounce(&self) {
        let held = self
            .estate
            .lock()
            .expect("no panic while an estate is held")
            .take();
        // Letting a large state go takes time.
        drop((held, self.take_staged(), self.take_born()));
        self.settled.store(true, Ordering::Release);
    }

    fn take_staged(&self) -> Option<Staged> {
        self.staged.lock().expect("no panic under this lock").take()
    }

    /// Writes the file of the new replica, durably; it can be opened afterwards. A crash leaves the file or none. Of
    /// `identity` only the cluster counts: shard, replica and range are the heir's own.
    ///
    /// # Errors
    /// [`CreateShardError::Exists`] where there is a file already. After another error it can be tried again.
    pub fn write(
        &self,
        disk: &dyn Disk,
        path: &Path,
        identity: &ShardIdentity,
        cache_bytes: usize,
        failpoints: &HostFailpoints,
    ) -> Result<(), CreateShardError> {
        if disk.exists(path).map_err(OpenShardError::Io)? {
            return Err(CreateShardError::Exists);
        }
        let mut held = self.estate.lock().expect("no panic while an estate is held");
        let Some(estate) = &*held else { return Ok(()) };
        failpoint!(failpoints, "shard.split.before_write").map_err(OpenShardError::Io)?;
        // Tried once: what was copied ahead is gone after an error.
        let staged = self
            .take_staged()
            .map(|staged| staged.complete(estate, failpoints));
        let owner = owner(&ShardIdentity {
            shard_id: self.shard_id,
            replica_id: self.replica_id,
            ..identity.clone()
        });
        if let Some(complete) = staged.transpose()?.flatten() {
            self.write_rest(complete.engine(), estate, &owner)?;
            self.put_into_place(disk, complete.close().as_ref(), path, failpoints)?;
        } else {
            let temporary = beside(path, "new");
            remove_leftover(disk, &temporary).map_err(OpenShardError::Io)?;
            let engine = create_engine(disk, &temporary, cache_bytes)?;
            estate.write_rows(&engine, failpoints)?;
            self.write_rest(&engine, estate, &owner)?;
            drop(engine);
            self.put_into_place(disk, &temporary, path, failpoints)?;
        }
        let born = held.take().map(|estate| Born {
            // Whatever waited to be written is in the file now.
            state: State {
                fresh: FreshRows::default(),
                ..estate.state
            },
            live_bytes: self.live_bytes,
        });
        *self.born.lock().expect("no panic under this lock") = born;
        self.settled.store(true, Ordering::Release);
        Ok(())
    }

    /// What was just written, once: for [`ShardStore::open_heir`].
    pub(super) fn take_born(&self) -> Option<Born> {
        self.born.lock().expect("no panic under this lock").take()
    }

    /// Sessions, and what the file says of itself; durably, with all that was written before.
    fn write_rest(
        &self,
        engine: &Engine,
        estate: &Estate,
        owner: &IdentityBody,
    ) -> Result<(), CreateShardError> {
        let checkpoint = checkpoint_body(&estate.state, Some(self.mark.clone()));
        Ok(engine.write(Durability::Synced, |tx| {
            for (id, body) in estate.state.sessions.bodies() {
                let key = id.to_be_bytes();
                tx.put(SESSIONS, &key, &seal(Kind::Session, &key, &body))?;
            }
            write_meta(tx, owner, &checkpoint)
        })?)
    }

    fn put_into_place(
        &self,
        disk: &dyn Disk,
        from: &Path,
        path: &Path,
        failpoints: &HostFailpoints,
    ) -> Result<(), CreateShardError> {
        failpoint!(failpoints, "shard.split.before_rename").map_err(OpenShardError::Io)?;
        move_into_place(disk, from, path).map_err(OpenShardError::Io)?;
        failpoint!(failpoints, "shard.split.after_rename").map_err(OpenShardError::Io)?;
        Ok(())
    }
}

impl ShardStore {
    /// What this replica holds for replicas that do not exist yet.
    pub fn heirs(&self) -> Vec<Arc<Heir>> {
        self.shared.read().unsettled_heirs().cloned().collect()
    }

    /// Whether no checkpoint can be captured now, and nothing installed, because heirs are held.
    pub fn holds_heirs(&self) -> bool {
        self.shared.read().unsettled_heirs().next().is_some()
    }

    /// A key that parts what the shard holds in two halves of about the same bytes; `None` where there is none: of fewer
    /// than two keys.
    pub fn middle_key(&self) -> Option<Bytes> {
        self.shared.read().state.keys.middle_key()
    }
}

impl Inner {
    /// Divides the state, and keeps the upper part for the replica that succeeds this one.
    pub(super) fn split(&mut self, split: &Split, replica_id: u64) {
        let versions_before = self.state.keys.versions().max(1);
        let live_before = self.live_bytes;
        let state = self.state.split_off(split);
        let kept = self.state.keys.versions();
        self.live_bytes = (u128::from(live_before) * u128::from(kept) / u128::from(versions_before)) as u64;
        let staged = self.staged.take().filter(|staged| staged.is_for(split));
        let successor = split
            .successors
            .iter()
            .find(|successor| successor.of == replica_id);
        let Some(successor) = successor else { return };
        let heir = Heir {
            shard_id: split.shard,
            replica_id: successor.replica,
            mark: split.mark.clone(),
            estate: Mutex::new(Some(Estate {
                state,
                frozen: self.frozen.clone(),
                rows: self.rows.clone(),
                _engine: self.engine.clone(),
            })),
            staged: Mutex::new(staged),
            live_bytes: live_before - self.live_bytes,
            born: Mutex::default(),
            settled: AtomicBool::new(false),
        };
        self.heirs.push(Arc::new(heir));
    }

    pub(super) fn unsettled_heirs(&self) -> impl Iterator<Item = &Arc<Heir>> {
        self.heirs.iter().filter(|heir| !heir.is_settled())
    }
}

impl std::fmt::Debug for Born {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Born").finish_non_exhaustive()
    }
}

impl State {
    /// Whether the shard can be split so.
    pub(super) fn check_split(&self, split: &Split) -> Result<(), Refusal> {
        if split.r#gen != self.range.r#gen {
            return Err(Refusal::StaleRange);
        }
        match self.range.start < split.key && self.range.contains(&split.key) {
            true => Ok(()),
            false => Err(Refusal::OutOfRange),
        }
    }

    /// Takes out the part of the state that the new shard begins with.
    fn split_off(&mut self, split: &Split) -> State {
        let range = ShardRange {
            start: split.key.clone(),
            end: self.range.end.replace(split.key.clone()),
            r#gen: split.r#gen + 1,
        };
        self.range.r#gen = split.r#gen + 1;
        State {
            keys: self.keys.split_off(&split.key),
            sessions: self.sessions.clone(),
            leases: self.leases.split_off(&split.key),
            retention: self.retention.clone(),
            fresh: self.fresh.split_off(&split.key),
            revision: self.revision,
            clock_ms: self.clock_ms,
            applied: Some(SPLIT_BASE),
            ..State::new(range, self.limits)
        }
    }
}
