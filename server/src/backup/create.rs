//! Making a backup.
//!
//! A shard forgets versions after some minutes, so a large shard cannot be read at one revision. It is read in pieces: from
//! its first key at its present revision, for as long as [`Order::piece`] says; then what has changed since in the keys
//! already read is written behind them, up to the shard's revision by then; and from there it goes on at that revision. At
//! every such step, and at the end, the file leads to what the shard held at exactly one revision. Each step looks back no
//! further than a piece lasts, so a shard of any size can be read, as long as its changes can be read faster than they are
//! made. A small shard is one piece: all of it at one revision.
//!
//! An incremental has the changes after the base's revision alone. A shard is begun again where it has forgotten what was
//! still to be read; an incremental is not, since the base's revision does not come back.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use client::{Client, KeyRange, ReadError, WatchError};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    Progress, SHARDS_AT_ONCE,
    chain::Backup,
    changes::{ChangesError, Span, write_changes},
    format::{FrameWriter, Written},
    manifest::{Manifest, Shard, file_name, sync_folder},
};

/// How often a full backup of a shard is begun, at most.
const ATTEMPTS_MAX: u32 = 3;
/// After so many pairs it is asked whether the piece is over.
const PAIRS_BETWEEN_LOOKS: u64 = 256;

/// The cluster to back up.
pub struct Source {
    /// Reads it.
    pub client: Client,
    /// Its id.
    pub cluster_id: String,
    /// Its shards' ids and keys, in key order.
    pub shards: Vec<(u64, KeyRange)>,
}

/// What backup to make.
pub struct Order {
    /// A folder that does not exist, or is empty.
    pub folder: PathBuf,
    /// What to go on from; `None`: a full backup is made.
    pub base: Option<Backup>,
    /// A name nobody else has.
    pub id: String,
    /// The time, in milliseconds since the Unix epoch.
    pub begun_ms: u64,
    /// How long a shard is read at one revision; less than the shards keep old versions.
    pub piece: Duration,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The folder, or a file in it.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder is not empty.
    #[error("{} is not empty: name a new folder, or remove what an interrupted backup left there", folder.display())]
    NotEmpty {
        /// Which.
        folder: PathBuf,
    },
    /// The base is of another cluster.
    #[error("the base is a backup of cluster {base}, and this is {cluster}")]
    AnotherCluster {
        /// The base's.
        base: String,
        /// The one that answered.
        cluster: String,
    },
    /// The cluster's shards are not those of the base.
    #[error("the shards have other ids or keys than in the base: make a full backup")]
    OtherShards,
    /// A shard has not come to the base's revision.
    #[error(
        "shard {shard_id} is at revision {revision}, and in the base it was at {base}: this is not what it was"
    )]
    Behind {
        /// Which.
        shard_id: u64,
        /// Its revision.
        revision: u64,
        /// The base's.
        base: u64,
    },
    /// An incremental cannot be made: its changes are forgotten.
    #[error(
        "shard {shard_id} has forgotten changes after revision {after}, where the base ends; the oldest to go on from is \
         {oldest}. Make a full backup; to make incrementals, make them more often than shards forget \
         (limits.retention_ms, 5 minutes unless set)"
    )]
    Forgotten {
        /// Which.
        shard_id: u64,
        /// The base's revision.
        after: u64,
        /// The oldest revision whose changes are all there.
        oldest: u64,
    },
    /// A shard forgot what was being read, again and again.
    #[error(
        "shard {shard_id} forgot what was being read, {ATTEMPTS_MAX} times; the last: {cause}. Shards keep old versions \
         for limits.retention_ms (5 minutes unless set), or until `kv compact`: lower --piece-ms, and do not compact \
         during a backup"
    )]
    Overtaken {
        /// Which.
        shard_id: u64,
        /// What was forgotten.
        cause: String,
    },
    /// A shard cannot be read.
    #[error("cannot read shard {shard_id}: {source}")]
    Read {
        /// Which.
        shard_id: u64,
        /// Why.
        source: ReadError,
    },
    /// A shard's changes cannot be read.
    #[error("cannot read the changes of shard {shard_id}: {cause}")]
    Changes {
        /// Which.
        shard_id: u64,
        /// Why.
        cause: String,
    },
}

/// Makes a backup: when this ends without an error, all of it is durable.
pub async fn create(source: &Source, order: Order, progress: Progress<'_>) -> Result<Manifest, CreateError> {
    let base = order.base.as_ref().map(|base| &base.manifest);
    if let Some(base) = base {
        check_base(source, base)?;
    }
    make_folder(&order.folder)?;
    let jobs = source
        .shards
        .iter()
        .enumerate()
        .map(|(at, (shard_id, range))| Job {
            client: &source.client,
            shard_id: *shard_id,
            range,
            path: order.folder.join(file_name(*shard_id)),
            after: base.map(|base| base.shards[at].revision),
            piece: order.piece,
            progress,
        });
    let shards = stream::iter(jobs).map(|job| async move { job.run().await });
    let shards: Vec<Shard> = shards.buffered(SHARDS_AT_ONCE).try_collect().await?;
    let base = base.map(Manifest::as_base);
    let mut manifest = Manifest::new(order.id, source.cluster_id.clone(), order.begun_ms, base);
    manifest.shards = shards;
    let written = manifest.write(&order.folder);
    let written = written.map_err(|source| failed(&order.folder, source))?;
    let parent = order
        .folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    sync_folder(parent).map_err(|source| failed(parent, source))?;
    Ok(written)
}

fn check_base(source: &Source, base: &Manifest) -> Result<(), CreateError> {
    if base.cluster_id != source.cluster_id {
        return Err(CreateError::AnotherCluster {
            base: base.cluster_id.clone(),
            cluster: source.cluster_id.clone(),
        });
    }
    let shards = base.shards.iter().map(|shard| (shard.shard_id, shard.range()));
    match shards.eq(source.shards.iter().cloned()) {
        true => Ok(()),
        false => Err(CreateError::OtherShards),
    }
}

fn make_folder(folder: &Path) -> Result<(), CreateError> {
    let made = std::fs::create_dir_all(folder).and_then(|()| std::fs::read_dir(folder));
    let mut names = made.map_err(|source| failed(folder, source))?;
    match names.next() {
        None => Ok(()),
        Some(_) => Err(CreateError::NotEmpty {
            folder: folder.to_owned(),
        }),
    }
}

fn failed(path: &Path, source: io::Error) -> CreateError {
    CreateError::File {
        path: path.to_owned(),
        source,
    }
}

/// One shard's part.
struct Job<'a> {
    client: &'a Client,
    shard_id: u64,
    range: &'a KeyRange,
    path: PathBuf,
    /// The base's revision.
    after: Option<u64>,
    piece: Duration,
    progress: Progress<'a>,
}

impl Job<'_> {
    async fn run(self) -> Result<Shard, CreateError> {
        let (revision, written) = match self.after {
            Some(after) => self.incremental(after).await?,
            None => self.full().await?,
        };
        self.tell(format!(
            "{} versions, {} bytes, up to revision {revision}",
            written.versions, written.data_bytes
        ));
        let revisions = (self.after.unwrap_or(0), revision);
        Ok(Shard::new(self.shard_id, self.range, revisions, written))
    }

    async fn incremental(&self, after: u64) -> Result<(u64, Written), CreateError> {
        let mut writer = self.writer()?;
        let revision = self.revision().await?;
        if revision < after {
            return Err(CreateError::Behind {
                shard_id: self.shard_id,
                revision,
                base: after,
            });
        }
        let changes = self.changes(self.range.clone(), (after, revision), &mut writer);
        changes.await.map_err(|error| match error {
            ChangesError::Watch(WatchError::Compacted { oldest, .. }) => CreateError::Forgotten {
                shard_id: self.shard_id,
                after,
                oldest,
            },
            error => self.unchanged(error),
        })?;
        Ok((revision, self.finish(writer, revision)?))
    }

    async fn full(&self) -> Result<(u64, Written), CreateError> {
        let mut attempt = 1;
        loop {
            match self.pieces().await {
                Err(CreateError::Overtaken { cause, .. }) if attempt < ATTEMPTS_MAX => {
                    self.tell(format!("is begun again: {cause}"));
                    attempt += 1;
                }
                ended => return ended,
            }
        }
    }

    /// The shard in pieces, each at its own revision, with the changes between them.
    async fn pieces(&self) -> Result<(u64, Written), CreateError> {
        let mut writer = self.writer()?;
        let mut revision = self.revision().await?;
        let mut rest = self.range.clone();
        while let Some(next) = self.piece(rest, revision, &mut writer).await? {
            let now = self.revision().await?;
            self.tell(format!(
                "{} versions so far, goes on at revision {now}",
                writer.versions()
            ));
            let read = KeyRange {
                start: self.range.start.clone(),
                end: next.clone(),
            };
            let changes = self.changes(read, (revision, now), &mut writer);
            changes.await.map_err(|error| match error {
                ChangesError::Watch(WatchError::Compacted { message, .. }) => self.overtaken(message),
                error => self.unchanged(error),
            })?;
            revision = now;
            rest = KeyRange {
                start: next,
                end: self.range.end.clone(),
            };
        }
        Ok((revision, self.finish(writer, revision)?))
    }

    /// Writes pairs as of a revision until the piece is over, and answers with the key to go on from.
    async fn piece(
        &self,
        rest: KeyRange,
        revision: u64,
        writer: &mut FrameWriter,
    ) -> Result<Option<Bytes>, CreateError> {
        self.written(writer.begin_run())?;
        if revision == 0 {
            // Before its first change a shard has no keys.
            return Ok(None);
        }
        let began = Instant::now();
        let scan = self.client.scan_at(rest, usize::MAX, revision);
        let mut scan = scan.map_err(|error| self.unread(error))?;
        let mut pairs = 0;
        while let Some(pair) = scan.next().await.map_err(|error| self.unread(error))? {
            let key = pair.key.clone();
            self.written(writer.push(pair))?;
            pairs += 1;
            if pairs % PAIRS_BETWEEN_LOOKS == 0 && began.elapsed() >= self.piece {
                return Ok(Some([&key[..], &[0]].concat().into()));
            }
        }
        Ok(None)
    }

    async fn changes(
        &self,
        keys: KeyRange,
        (after, through): (u64, u64),
        writer: &mut FrameWriter,
    ) -> Result<(), ChangesError> {
        let span = Span {
            shard: self.range.clone(),
            keys,
            after,
            through,
        };
        write_changes(self.client, span, writer).await
    }

    /// The shard's present revision, as a read of its first key tells it.
    async fn revision(&self) -> Result<u64, CreateError> {
        // No key is empty.
        let first = match self.range.start.is_empty() {
            true => Bytes::from_static(b"\0"),
            false => self.range.start.clone(),
        };
        if !self.range.contains(&first) {
            return Ok(0);
        }
        let fetched = self.client.get(first).await;
        fetched
            .map(|fetched| fetched.revision)
            .map_err(|error| self.unread(error))
    }

    fn writer(&self) -> Result<FrameWriter, CreateError> {
        self.written(FrameWriter::create(&self.path))
    }

    fn finish(&self, writer: FrameWriter, revision: u64) -> Result<Written, CreateError> {
        self.written(writer.finish(revision))
    }

    fn written<T>(&self, outcome: io::Result<T>) -> Result<T, CreateError> {
        outcome.map_err(|source| failed(&self.path, source))
    }

    fn unread(&self, source: ReadError) -> CreateError {
        match source {
            ReadError::Compacted { message } => self.overtaken(message),
            source => CreateError::Read {
                shard_id: self.shard_id,
                source,
            },
        }
    }

    fn unchanged(&self, error: ChangesError) -> CreateError {
        match error {
            ChangesError::Write(source) => failed(&self.path, source),
            error => CreateError::Changes {
                shard_id: self.shard_id,
                cause: error.to_string(),
            },
        }
    }

    fn overtaken(&self, cause: String) -> CreateError {
        CreateError::Overtaken {
            shard_id: self.shard_id,
            cause,
        }
    }

    fn tell(&self, what: String) {
        (self.progress)(format!("shard {}: {what}", self.shard_id));
    }
}
