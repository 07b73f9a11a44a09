//! [`ShardStore`]: the key-value machine over a file.
//!
//! Where a version's value lies, newest first: fresh rows in memory, the frozen rows of a checkpoint
//! that is being written, the file. Readers look through one view of the file, opened after each
//! checkpoint, and rows leave memory in the same step that installs the view, so every version in
//! the index is in exactly one of the three.
//!
//! What must hold:
//! - `apply` changes memory only, and all of an entry or nothing; values it needs from the file are
//!   read before the lock is taken, so no reader ever waits for a disk that an entry waits for;
//! - entries are applied one at a time, in the order of the log;
//! - a checkpoint must not be captured before the log is durable up to the applied position (the
//!   caller's duty: else a restart finds a state ahead of its log);
//! - the file is written by one at a time: a checkpoint, an import's end or a rewrite.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use bytes::Bytes;

use super::command::{Batch, DecodeError, decode_batch};
use super::file::{Loaded, OpenShardError, checkpoint_body, engine_options, load, load_born, write_meta};
use super::fresh::FreshRows;
use super::key::Key;
use super::limits::Limits;
use super::machine::{
    Outcome, OutcomeKind, Position, ShardRange, State, StoredValues, apply_batch, values_needed,
};
use super::merge::{Dowry, MergeStep};
use super::read::ReadError;
use super::record::IdentityBody;
use super::rewrite::{FileSize, RewriteLimits};
use super::row_cache::RowCache;
use super::scrub::ScrubPoint;
use super::split::Heir;
use super::stage::Staged;
use crate::disk::{Disk, OpenMode};
use crate::engine::{Durability, Engine, TableView, WriteEngineError};
use crate::failpoint;
use crate::failpoint::HostFailpoints;

const PANICKED: &str = "a panic while the state was being changed leaves nothing to serve";

/// Which replica of which shard a store is, and the range the shard was created with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardIdentity {
    /// The cluster.
    pub cluster_id: String,
    /// The shard.
    pub shard_id: u64,
    /// The replica; never used twice.
    pub replica_id: u64,
    /// The range's first key.
    pub start: Bytes,
    /// The first key beyond the range; `None`: to the end of the key space.
    pub end: Option<Bytes>,
    /// The range's version.
    pub r#gen: u64,
}

/// How a store is run.
#[derive(Debug, Clone)]
pub struct ShardOptions {
    /// The host's fail points.
    pub failpoints: HostFailpoints,
    /// Memory for cached pages of the file, in bytes.
    pub cache_bytes: usize,
    /// Rows that were read from files, the host's other shards' too.
    pub row_cache: RowCache,
    /// When [`ShardStore::rewrite_if_sparse`] rewrites the file.
    pub rewrite: RewriteLimits,
    /// What a shard that is being created accepts. An existing shard keeps its own.
    pub limits: Limits,
}

impl Default for ShardOptions {
    fn default() -> ShardOptions {
        ShardOptions {
            failpoints: HostFailpoints::disarmed(),
            cache_bytes: 1 << 20,
            row_cache: RowCache::default(),
            rewrite: RewriteLimits::default(),
            limits: Limits::default(),
        }
    }
}

/// Why a shard's file was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateShardError {
    /// There is a file already.
    #[error("the shard's file exists")]
    Exists,
    /// The file could not be written; there is none.
    #[error("the shard's file cannot be written: {0}")]
    Write(#[from] WriteEngineError),
    /// The file could not be written or opened.
    #[error(transparent)]
    Open(#[from] OpenShardError),
}

/// Why an entry was not applied. The state is as it was; the replica stops.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The entry is not above the applied position.
    #[error("entry {at:?} does not follow the applied position {applied:?}")]
    OutOfOrder {
        /// The entry's position.
        at: Position,
        /// The position applied last.
        applied: Position,
    },
    /// The payload is damaged, or of a newer program.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The entry absorbs another shard, and [`ShardStore::prepare_absorb`] was not called for it.
    #[error("the shard to be absorbed was not made ready")]
    Unprepared,
    /// A value that the entry looks at could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The state of one shard replica, in memory and in its file.
#[derive(Debug, Clone)]
pub struct ShardStore {
    pub(crate) shared: Arc<Shared>,
}

/// What the handles of a store share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) failpoints: HostFailpoints,
    pub(crate) path: PathBuf,
    pub(crate) owner: IdentityBody,
    pub(crate) cache_bytes: usize,
    pub(crate) row_cache: RowCache,
    /// Whether readers are to find what checkpoints write in the cache.
    pub(crate) keeps_written: AtomicBool,
    pub(crate) rewrite: RewriteLimits,
    /// Held by whoever writes the file. Taken before `inner`.
    file: Mutex<()>,
    /// Held by whoever changes the state: entries and installations, one at a time.
    turn: Mutex<()>,
    inner: RwLock<Inner>,
    /// Held by whoever copies ahead.
    stage: Mutex<()>,
    /// Asked for by an entry, and not taken yet.
    scrub: Mutex<Option<ScrubPoint>>,
}

/// The state and where its rows lie.
pub(crate) struct Inner {
    pub(crate) state: State,
    /// Rows that a checkpoint is writing.
    pub(crate) frozen: Option<Arc<FreshRows>>,
    /// Versions superseded at or before this revision have left the index; never above the retention's floor.
    pub(crate) reclaimed: u64,
    /// Rows that left the index and are still in the file.
    pub(crate) unremoved: Vec<(u64, Key)>,
    /// The file's rows as of the newest checkpoint.
    pub(crate) rows: Arc<TableView>,
    pub(crate) engine: Arc<Engine>,
    /// Bytes of the file's rows and sessions and their keys, as of the newest checkpoint.
    pub(crate) live_bytes: u64,
    /// The size right after the last rewrite.
    pub(crate) rewritten: Option<FileSize>,
    pub(crate) durable: Durable,
    pub(crate) activity: Activity,
    pub(crate) importing: bool,
    /// What is held for replicas that do not exist yet.
    pub(crate) heirs: Vec<Arc<Heir>>,
    /// What the next entry absorbs.
    pub(super) dowry: Option<Dowry>,
    /// What was copied ahead for a split.
    pub(super) staged: Option<Staged>,
}

/// What the newest checkpoint says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Durable {
    pub(crate) applied: Option<Position>,
    /// The shard is frozen there.
    pub(crate) is_frozen: bool,
    pub(crate) mark: Option<Bytes>,
}

/// What is being done to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activity {
    Idle,
    Checkpoint,
    Install,
    /// Another shard's rows are in the file, and the entry that takes them in is not applied yet.
    Absorb,
    /// A commit or an installation has an unknown outcome: the file must be opened anew.
    Stopped,
}

impl ShardStore {
    /// Creates the file of a new replica, empty, and opens it. A crash leaves the file or none.
    pub fn create(
        disk: Arc<dyn Disk>,
        path: &Path,
        identity: ShardIdentity,
        options: ShardOptions,
    ) -> Result<ShardStore, CreateShardError> {
        if disk.exists(path).map_err(OpenShardError::Io)? {
            return Err(CreateShardError::Exists);
        }
        let temporary = beside(path, "new");
        remove_leftover(&*disk, &temporary).map_err(OpenShardError::Io)?;
        let engine = create_engine(&*disk, &temporary, options.cache_bytes)?;
        failpoint!(options.failpoints, "shard.create.before_write").map_err(OpenShardError::Io)?;
        let range = ShardRange {
            start: identity.start.clone(),
            end: identity.end.clone(),
            r#gen: identity.r#gen,
        };
        let checkpoint = checkpoint_body(&State::new(range, options.limits), None);
        engine.write(Durability::Synced, |tx| {
            write_meta(tx, &owner(&identity), &checkpoint)
        })?;
        drop(engine);
        failpoint!(options.failpoints, "shard.create.before_rename").map_err(OpenShardError::Io)?;
        move_into_place(&*disk, &temporary, path).map_err(OpenShardError::Io)?;
        failpoint!(options.failpoints, "shard.create.after_rename").map_err(OpenShardError::Io)?;
        Ok(ShardStore::open(disk, path, &identity, options)?)
    }

    /// Opens the file of a replica at its newest checkpoint. Of `identity` only the ids count: the
    /// range is the shard's own affair.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        identity: &ShardIdentity,
        options: ShardOptions,
    ) -> Result<ShardStore, OpenShardError> {
        Self::open_with(disk, path, identity, options, load)
    }

    /// Opens the file that an heir has just written, with what the heir holds in memory instead of what the file says;
    /// from the file where it holds nothing any more.
    pub fn open_heir(
        disk: Arc<dyn Disk>,
        path: &Path,
        identity: &ShardIdentity,
        options: ShardOptions,
        heir: &Heir,
    ) -> Result<ShardStore, OpenShardError> {
        match heir.take_born() {
            Some(born) => Self::open_with(disk, path, identity, options, |engine, owner| {
                load_born(engine, owner, born)
            }),
            None => Self::open(disk, path, identity, options),
        }
    }

    fn open_with(
        disk: Arc<dyn Disk>,
        path: &Path,
        identity: &ShardIdentity,
        options: ShardOptions,
        load: impl FnOnce(&Engine, &IdentityBody) -> Result<Loaded, OpenShardError>,
    ) -> Result<ShardStore, OpenShardError> {
        let owner = owner(identity);
        let engine = open_engine(&*disk, path, options.cache_bytes)?;
        let loaded = load(&engine, &owner)?;
        remove_leftovers(&*disk, path).map_err(OpenShardError::Io)?;
        let shared = Shared {
            disk,
            failpoints: options.failpoints,
            path: path.to_owned(),
            owner,
            cache_bytes: options.cache_bytes,
            row_cache: options.row_cache,
            keeps_written: AtomicBool::new(false),
            rewrite: options.rewrite,
            file: Mutex::new(()),
            turn: Mutex::new(()),
            inner: RwLock::new(Inner::new(engine, loaded)),
            stage: Mutex::default(),
            scrub: Mutex::default(),
        };
        Ok(ShardStore {
            shared: Arc::new(shared),
        })
    }

    /// Removes a replica's file and what lies beside it, the file last: where it is gone, all is. No
    /// store may be open on it. The caller has written down that the replica is not to come back.
    pub fn destroy(disk: &dyn Disk, path: &Path, failpoints: &HostFailpoints) -> io::Result<()> {
        remove_leftovers(disk, path)?;
        failpoint!(failpoints, "shard.destroy.before_remove")?;
        remove_leftover(disk, path)?;
        failpoint!(failpoints, "shard.destroy.after_remove")
    }

    /// Applies the entry at `at` and answers its mutations in order. `None`: an entry that is none
    /// of the machine's (blank, or a membership); the position advances.
    pub fn apply(&self, at: Position, payload: Option<&Bytes>) -> Result<Vec<Outcome>, ApplyError> {
        let _turn = self.shared.turn();
        if let Some(applied) = self.applied()
            && (at.index <= applied.index || at.term < applied.term)
        {
            return Err(ApplyError::OutOfOrder { at, applied });
        }
        let Some(payload) = payload else {
            self.shared.write().state.applied = Some(at);
            return Ok(Vec::new());
        };
        let batch = decode_batch(payload.clone())?;
        let stored = self.read_values(&batch)?;
        let mut inner = self.shared.write();
        if batch
            .merge
            .as_ref()
            .is_some_and(|step| !inner.is_prepared_for(step))
        {
            return Err(ApplyError::Unprepared);
        }
        let outcomes = apply_batch(&mut inner.state, at, &batch, &stored);
        if let Some(split) = &batch.split
            && outcomes.iter().any(|outcome| outcome.kind == OutcomeKind::Split)
        {
            inner.split(split, self.shared.owner.replica_id);
        }
        if matches!(batch.merge, Some(MergeStep::Absorb(_)))
            && outcomes
                .iter()
                .any(|outcome| outcome.kind == OutcomeKind::MergeStep)
        {
            inner.absorb();
        }
        if let Some(id) = batch.scrub {
            *self.shared.scrub() = Some(inner.scrub_point(id, at));
        }
        Ok(outcomes)
    }

    /// The position applied last; at open, the newest checkpoint's.
    pub fn applied(&self) -> Option<Position> {
        self.shared.read().state.applied
    }

    /// The applied position of the newest durable checkpoint: the log may be purged up to here.
    pub fn durable_applied(&self) -> Option<Position> {
        self.shared.read().durable.applied
    }

    /// The caller's mark in the newest durable checkpoint; `None` before the first.
    pub fn mark(&self) -> Option<Bytes> {
        self.shared.read().durable.mark.clone()
    }

    /// The shard's range as the applied entries left it.
    pub fn range(&self) -> ShardRange {
        self.shared.read().state.range.clone()
    }

    /// The version of the shard's range.
    pub fn generation(&self) -> u64 {
        self.shared.read().state.range.r#gen
    }

    /// What the shard accepts.
    pub fn limits(&self) -> Limits {
        self.shared.read().state.limits
    }

    /// A fingerprint of the data and the sessions. Equal on all replicas that applied the same
    /// entries, whenever their checkpoints were.
    pub fn state_hash(&self) -> u64 {
        self.shared.read().state.fingerprint()
    }

    /// The position applied last and the fingerprint of the state there, of one moment: no entry is applied between.
    /// Walks over all keys, so entries wait meanwhile.
    pub fn state_hash_at(&self) -> (Option<Position>, u64) {
        let inner = self.shared.read();
        (inner.state.applied, inner.state.fingerprint())
    }

    fn read_values(&self, batch: &Batch) -> Result<StoredValues, ReadError> {
        let located: Vec<_> = {
            let inner = self.shared.read();
            let needed = values_needed(&inner.state, batch).into_iter();
            needed
                .map(|(key, head)| inner.locate(&key, head.mod_revision))
                .collect()
        };
        let read = |located: super::read::Located| {
            let name = (located.key.clone(), located.revision);
            Ok((name, located.read(&self.shared)?.value))
        };
        located.into_iter().map(read).collect()
    }
}

impl Shared {
    /// The right to write the file; waits for whoever writes it.
    pub(crate) fn file(&self) -> MutexGuard<'_, ()> {
        self.file.lock().expect(PANICKED)
    }

    /// The right to write the file, unless somebody is writing it.
    pub(crate) fn try_file(&self) -> Option<MutexGuard<'_, ()>> {
        match self.file.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => panic!("{PANICKED}"),
        }
    }

    /// The right to change the state.
    pub(crate) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().expect(PANICKED)
    }

    /// The right to copy ahead.
    pub(super) fn stage(&self) -> MutexGuard<'_, ()> {
        self.stage.lock().expect(PANICKED)
    }

    pub(crate) fn scrub(&self) -> MutexGuard<'_, Option<ScrubPoint>> {
        self.scrub.lock().expect(PANICKED)
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().expect(PANICKED)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().expect(PANICKED)
    }
}

impl Inner {
    pub(crate) fn new(engine: Engine, loaded: Loaded) -> Inner {
        Inner {
            durable: Durable {
                applied: loaded.state.applied,
                is_frozen: loaded.state.is_frozen,
                mark: loaded.mark,
            },
            // What the file lacks was forgotten up to its floor.
            reclaimed: loaded.state.retention.floor(),
            state: loaded.state,
            frozen: None,
            unremoved: Vec::new(),
            rows: Arc::new(loaded.rows),
            engine: Arc::new(engine),
            live_bytes: loaded.live_bytes,
            rewritten: None,
            activity: Activity::Idle,
            importing: false,
            heirs: Vec::new(),
            dowry: None,
            staged: None,
        }
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("applied", &self.state.applied)
            .field("revision", &self.state.revision)
            .field("durable", &self.durable)
            .field("activity", &self.activity)
            .finish_non_exhaustive()
    }
}

/// The path of a temporary file for `path`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Removes what interrupted creations, imports and rewrites left behind.
fn remove_leftovers(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let mut suffixes = ["new", "import", "rewrite", "survivor", "stage"].into_iter();
    suffixes.try_for_each(|suffix| remove_leftover(disk, &beside(path, suffix)))
}

/// Removes a file, if it is there.
pub(crate) fn remove_leftover(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    if disk.exists(path)? {
        disk.remove(path)
    } else {
        Ok(())
    }
}

pub(crate) fn create_engine(
    disk: &dyn Disk,
    path: &Path,
    cache_bytes: usize,
) -> Result<Engine, OpenShardError> {
    let file = disk.open(path, OpenMode::CreateNew).map_err(OpenShardError::Io)?;
    Ok(Engine::open(file, engine_options(cache_bytes))?)
}

pub(crate) fn open_engine(
    disk: &dyn Disk,
    path: &Path,
    cache_bytes: usize,
) -> Result<Engine, OpenShardError> {
    if !disk.exists(path).map_err(OpenShardError::Io)? {
        return Err(OpenShardError::Missing);
    }
    let file = disk.open(path, OpenMode::Existing).map_err(OpenShardError::Io)?;
    // The engine would make a database of an empty file.
    if file.is_empty().map_err(OpenShardError::Io)? {
        return Err(OpenShardError::Corrupt("the file is empty".into()));
    }
    Ok(Engine::open(file, engine_options(cache_bytes))?)
}

/// Puts a closed file in the place of another, durably and at once.
pub(crate) fn move_into_place(disk: &dyn Disk, from: &Path, to: &Path) -> io::Result<()> {
    // Closing an engine writes its header; a rename vouches for synced content only.
    disk.open(from, OpenMode::Existing)?.sync_data()?;
    disk.rename(from, to)
}

pub(crate) fn owner(identity: &ShardIdentity) -> IdentityBody {
    IdentityBody {
        cluster_id: identity.cluster_id.clone(),
        shard_id: identity.shard_id,
        replica_id: identity.replica_id,
    }
}
