//! Merges: a shard takes over the range of the next one.
//!
//! Two logs cannot apply one entry, so it is two. First the shard that goes is frozen, by an entry of its own log: from
//! there on nothing in it changes, and its replicas hold the same, whatever is still logged. Then an entry in the log of
//! the shard that stays absorbs it: each replica takes the state from the replica of the frozen shard on its host. A
//! frozen shard that is not absorbed after all is thawed, and its range has another version then, so that a freeze that
//! arrives late is refused.
//!
//! Sessions and leases are united: a mutation that was sent to either shard is known here. Revisions were counted apart,
//! so the merged shard goes on after the greater of the two, and each part of the range keeps its own past (see
//! `retention`). The rows are copied into the file before the entry is applied ([`ShardStore::prepare_absorb`]), where
//! nobody sees them: they lie outside the range. The entry itself changes memory only. After a crash in between they are
//! removed and copied again, so the frozen replica is needed until a checkpoint covers the entry.

use bytes::Bytes;
use prost::Message;

use super::checkpoint::CaptureError;
use super::command::{decode_batch, is_merge_step};
use super::estate::{Estate, remove_rows};
use super::file::{OpenShardError, ROWS};
use super::machine::{Outcome, OutcomeKind, Refusal, State};
use super::store::{Activity, CreateShardError, Inner, ShardStore};
use crate::engine::{Engine, TableView};
use crate::failpoint;

/// One step of a merge, as an entry of a shard's log asks for it.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum MergeStep {
    /// The shard changes no more.
    #[prost(message, tag = "2")]
    Freeze(Freeze),
    /// The shard goes on.
    #[prost(message, tag = "3")]
    Thaw(Thaw),
    /// The shard takes over the range of the next one.
    #[prost(message, tag = "4")]
    Absorb(Absorb),
}

/// Nothing in the shard changes from here on.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Freeze {
    /// The range's version that the merge was decided on; of another version, the shard refuses it. The frozen range has
    /// the next one.
    #[prost(uint64, tag = "1")]
    pub r#gen: u64,
}

/// A shard that was to be absorbed goes on. Its range is two versions further than before the merge, whether it was
/// frozen or not.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Thaw {
    /// The range's version that the merge was decided on.
    #[prost(uint64, tag = "1")]
    pub r#gen: u64,
}

/// Takes over the state of the next shard, which is frozen.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Absorb {
    /// The range's version that the merge was decided on; of another version, the shard refuses it.
    #[prost(uint64, tag = "1")]
    pub r#gen: u64,
    /// The shard that is absorbed.
    #[prost(uint64, tag = "2")]
    pub shard: u64,
    /// The version of its range, frozen.
    #[prost(uint64, tag = "3")]
    pub shard_gen: u64,
}

/// Why a state was not made ready to be absorbed. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum AbsorbError {
    /// The other replica is not frozen, or another shard's, or not the next one.
    #[error("the shard to be absorbed is not as the entry has it: {0}")]
    NotReady(String),
    /// The file is in use.
    #[error(transparent)]
    Busy(#[from] CaptureError),
    /// Rows could not be copied.
    #[error(transparent)]
    Copy(#[from] CreateShardError),
}

/// A frozen shard's state whose rows are in this replica's file.
pub(super) struct Dowry {
    state: State,
    rows: TableView,
    live_bytes: u64,
    shard: u64,
}

impl Absorb {
    /// The version of the range after it.
    pub fn gen_after(&self) -> u64 {
        self.r#gen.max(self.shard_gen) + 1
    }
}

impl ShardStore {
    /// Whether the shard takes part in a merge in which it goes: it changes no more, and serves nobody.
    pub fn is_frozen(&self) -> bool {
        self.shared.read().state.is_frozen
    }

    /// Whether it is frozen, with a range of this version, and a restart would find it so.
    pub fn is_durably_frozen_at(&self, generation: u64) -> bool {
        let inner = self.shared.read();
        inner.state.is_frozen && inner.durable.is_frozen && inner.state.range.r#gen == generation
    }

    /// Whether it is frozen and a restart would find it as it was before.
    pub fn must_keep_frozen(&self) -> bool {
        let inner = self.shared.read();
        inner.state.is_frozen && !inner.durable.is_frozen
    }

    /// Whether requests that believe the range to have this version are served.
    pub fn serves(&self, generation: u64) -> bool {
        let inner = self.shared.read();
        !inner.state.is_frozen && inner.state.range.r#gen == generation
    }

    /// What the entry with this payload would absorb; `None`: nothing, or it will be refused.
    pub fn absorbs(&self, payload: &Bytes) -> Option<Absorb> {
        if !is_merge_step(payload) {
            return None;
        }
        match decode_batch(payload.clone()).ok()?.merge? {
            MergeStep::Absorb(absorb) => {
                let accepted = self.shared.read().state.check_absorb(&absorb).is_ok();
                accepted.then_some(absorb)
            }
            MergeStep::Freeze(_) | MergeStep::Thaw(_) => None,
        }
    }

    /// Copies what the next entry absorbs into this replica's file. Takes as long as the disk does. Until the entry is
    /// applied the file is not written by anything else.
    ///
    /// The newest checkpoint must cover all entries before this one: rows are told apart by the range that it has.
    pub fn prepare_absorb(&self, absorb: &Absorb, other: &ShardStore) -> Result<(), AbsorbError> {
        let _file = self.shared.file();
        let (state, frozen, rows, engine, live_bytes) = {
            let inner = other.shared.read();
            let frozen_bytes = inner.frozen.as_ref().map_or(0, |rows| rows.bytes());
            (
                inner.state.clone(),
                inner.frozen.clone(),
                inner.rows.clone(),
                inner.engine.clone(),
                inner.live_bytes + inner.state.fresh.bytes() + frozen_bytes,
            )
        };
        let estate = Estate {
            state,
            frozen,
            rows,
            _engine: engine,
        };
        let own = {
            let mut inner = self.shared.write();
            inner.check_absorbs(absorb, other.shared.owner.shard_id, &estate.state)?;
            inner.begin(Activity::Absorb)?;
            inner.engine.clone()
        };
        match self.take_rows(&estate, &own) {
            Ok(rows) => {
                self.shared.write().dowry = Some(Dowry {
                    state: estate.state,
                    rows,
                    live_bytes,
                    shard: absorb.shard,
                });
                Ok(())
            }
            Err(error) => {
                self.shared.write().activity = Activity::Idle;
                Err(error.into())
            }
        }
    }

    /// Puts the rows of another shard in the place of whatever the file holds outside the range.
    fn take_rows(&self, estate: &Estate, own: &Engine) -> Result<TableView, CreateShardError> {
        let points = &self.shared.failpoints;
        self.purge(own)?;
        failpoint!(points, "shard.absorb.before_copy").map_err(OpenShardError::Io)?;
        estate.write_rows(own, points)?;
        failpoint!(points, "shard.absorb.after_copy").map_err(OpenShardError::Io)?;
        let view = own.read().map_err(OpenShardError::from)?;
        Ok(view.table(ROWS).map_err(OpenShardError::from)?)
    }

    /// Removes the rows outside the range: what a split has left behind, or a merge that did not happen.
    fn purge(&self, engine: &Engine) -> Result<(), CreateShardError> {
        let (range, versions) = {
            let inner = self.shared.read();
            (inner.state.range.clone(), inner.state.keys.versions())
        };
        let view = engine.read().map_err(OpenShardError::from)?;
        let rows = view.table(ROWS).map_err(OpenShardError::from)?;
        if rows.count().map_err(OpenShardError::from)? == versions {
            return Ok(());
        }
        remove_rows(engine, |_, key| !range.contains(key))
    }
}

impl Inner {
    fn check_absorbs(&self, absorb: &Absorb, shard: u64, other: &State) -> Result<(), AbsorbError> {
        let is_next = self.state.range.end.as_ref() == Some(&other.range.start);
        if shard == absorb.shard && is_next && other.is_frozen && other.range.r#gen == absorb.shard_gen {
            return Ok(());
        }
        let found = format!(
            "shard {shard} with the range {:?}, {}frozen, for {absorb:?}",
            other.range,
            if other.is_frozen { "" } else { "not " }
        );
        Err(AbsorbError::NotReady(found))
    }

    /// Whether all is ready for an entry that absorbs, or nothing needs to be: it will be refused.
    pub(super) fn is_prepared_for(&self, step: &MergeStep) -> bool {
        match step {
            MergeStep::Absorb(absorb) if self.state.check_absorb(absorb).is_ok() => self
                .dowry
                .as_ref()
                .is_some_and(|dowry| dowry.shard == absorb.shard),
            _ => true,
        }
    }

    /// Takes in what was made ready.
    pub(super) fn absorb(&mut self) {
        let Some(dowry) = self.dowry.take() else { return };
        self.state.absorb(dowry.state);
        self.rows = std::sync::Arc::new(dowry.rows);
        self.live_bytes += dowry.live_bytes;
        self.reclaimed = self.reclaimed.min(self.state.retention.floor());
        self.activity = Activity::Idle;
    }
}

impl State {
    /// Makes a step, but for what an absorption takes in.
    pub(super) fn merge_step(&mut self, step: &MergeStep) -> Outcome {
        let made = match step {
            MergeStep::Freeze(freeze) => self.freeze(freeze),
            MergeStep::Thaw(thaw) => self.thaw(thaw),
            MergeStep::Absorb(absorb) => self.check_absorb(absorb),
        };
        match made {
            Ok(()) => self.executed(OutcomeKind::MergeStep),
            Err(refusal) => self.refused(refusal),
        }
    }

    /// Whether a batch has an effect on a frozen shard.
    pub(super) fn is_thawed_by(&self, batch: &super::command::Batch) -> bool {
        matches!(&batch.merge, Some(MergeStep::Thaw(thaw)) if thaw.r#gen + 1 == self.range.r#gen)
    }

    /// Applies an entry to a frozen shard: nothing but the position changes, so that all replicas hold the same whatever
    /// they have applied since.
    pub(super) fn stay_frozen(
        &mut self,
        at: super::machine::Position,
        batch: &super::command::Batch,
    ) -> Vec<Outcome> {
        self.applied = Some(at);
        let others = [
            !batch.ended_leases.is_empty(),
            batch.split.is_some(),
            batch.merge.is_some(),
            batch.new_group.is_some(),
        ];
        let count = batch.mutations.len() + others.into_iter().filter(|is_there| *is_there).count();
        vec![self.refused(Refusal::StaleRange); count]
    }

    fn freeze(&mut self, freeze: &Freeze) -> Result<(), Refusal> {
        if freeze.r#gen != self.range.r#gen {
            return Err(Refusal::StaleRange);
        }
        self.is_frozen = true;
        self.range.r#gen += 1;
        Ok(())
    }

    fn thaw(&mut self, thaw: &Thaw) -> Result<(), Refusal> {
        let since = self.range.r#gen.checked_sub(thaw.r#gen);
        if since != Some(u64::from(self.is_frozen)) {
            return Err(Refusal::StaleRange);
        }
        self.is_frozen = false;
        self.range.r#gen = thaw.r#gen + 2;
        Ok(())
    }

    fn check_absorb(&self, absorb: &Absorb) -> Result<(), Refusal> {
        match absorb.r#gen == self.range.r#gen && !self.is_frozen {
            true => Ok(()),
            false => Err(Refusal::StaleRange),
        }
    }

    fn absorb(&mut self, other: State) {
        self.retention
            .absorb(&self.range.start, &other.range.start, &other.retention);
        self.keys.absorb(other.keys);
        self.sessions.absorb(other.sessions);
        self.leases.absorb(&self.range, other.leases, &other.range);
        self.revision = self.revision.max(other.revision);
        self.clock_ms = self.clock_ms.max(other.clock_ms);
        self.range.end = other.range.end;
        self.range.r#gen = self.range.r#gen.max(other.range.r#gen) + 1;
        self.retention.observe(self.clock_ms, self.revision);
    }
}

impl std::fmt::Debug for Dowry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dowry")
            .field("shard", &self.shard)
            .finish_non_exhaustive()
    }
}
