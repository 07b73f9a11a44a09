//! A host's data folder.
//!
//! ```text
//! lock                 held while a process uses the folder
//! identity             which cluster and host this is; written once, when it joins
//! orders               the highest controller term obeyed, and the replicas destroyed or fenced here
//! peers                the newest shard map seen: how to find the others after a restart
//! log/                 the Raft log of all groups
//! replicas/s7-r21      the state of replica 21 of shard 7; s0-* is the placement group's
//! ```
//!
//! The small files are JSON with a checksum, replaced atomically and durably. A folder of a newer format, or one whose
//! files do not agree with their checksums, is refused and left as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use placement::{ReplicaId, ShardId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use storage::disk::Disk;
use storage::failpoint::HostFailpoints;
use storage::shard::ShardStore;

/// The folder format this build reads and writes.
pub(super) const FORMAT: u32 = 1;

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The disk failed.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process uses it.
    #[error("{0} is in use by another godwit process")]
    InUse(PathBuf),
    /// A file is damaged.
    #[error("{path} is corrupt: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It was written by a newer godwit.
    #[error("{path} has format {found}; this godwit reads format {FORMAT}. Nothing was changed")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

/// Which host this folder belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The folder's format.
    pub format: u32,
    /// Drawn when the folder was made; the placement group tells a lost folder from a returning one by it.
    pub token: String,
    /// The cluster, once it is known.
    pub cluster_id: Option<String>,
    /// The host, once it is known; 0 before.
    pub host_id: u64,
    /// On the first host, until the cluster is bootstrapped: the encoded first command of the placement log.
    pub bootstrap: Option<Vec<u8>>,
}

/// What this host has been told by controllers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// The highest controller term seen; older ones are refused.
    pub controller_term: u64,
    /// Replicas destroyed here; they are never created again.
    pub tombstones: BTreeSet<u64>,
    /// Replicas that were taken out of their groups for good, and wait to be destroyed.
    #[serde(default)]
    pub fenced: BTreeMap<u64, FencedBy>,
}

/// What a replica was fenced for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FencedBy {
    /// Its shard.
    pub shard: u64,
    /// The recovery.
    pub migration: u64,
}

/// A locked data folder.
pub struct DataFolder {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    _lock: Box<dyn Send + Sync>,
}

impl DataFolder {
    /// Makes the folder if there is none, and locks it.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, FolderError> {
        let failed = |source| FolderError::Io {
            path: path.to_owned(),
            source,
        };
        disk.create_dir_all(&path.join("replicas")).map_err(failed)?;
        disk.create_dir_all(&path.join("log")).map_err(failed)?;
        let lock = disk
            .lock_exclusive(&path.join("lock"))
            .map_err(|source| match source.kind() {
                io::ErrorKind::WouldBlock => FolderError::InUse(path.to_owned()),
                _ => failed(source),
            })?;
        Ok(Self {
            disk,
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// The folder of the Raft log.
    pub fn log(&self) -> PathBuf {
        Self::log_in(&self.path)
    }

    /// The folder of the Raft log in a data folder that is not open.
    pub(crate) fn log_in(path: &Path) -> PathBuf {
        path.join("log")
    }

    /// The folder of windows that were collected here.
    pub fn windows(&self) -> PathBuf {
        self.path.join("windows")
    }

    /// Where retraining works.
    pub fn retraining(&self) -> PathBuf {
        self.path.join("retraining")
    }

    /// The folder of sampled accesses.
    pub fn access_log(&self) -> PathBuf {
        self.path.join("access")
    }

    /// Bytes that the replicas' files and the log take on the disk, with what lies beside them for a while.
    pub fn taken_bytes(&self) -> io::Result<u64> {
        let mut taken = 0;
        for folder in [self.log(), self.path.join("replicas")] {
            for file in self.disk.list(&folder)? {
                match self.disk.taken_bytes(&file) {
                    Ok(bytes) => taken += bytes,
                    // Removed since it was listed.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(taken)
    }

    /// Bytes that the disk still takes.
    pub fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes(&self.path)
    }

    /// The file of a replica's state.
    pub fn replica(&self, shard: ShardId, replica: ReplicaId) -> PathBuf {
        self.path
            .join("replicas")
            .join(format!("s{}-r{}", shard.0, replica.0))
    }

    /// The replicas whose state is here.
    pub fn replicas(&self) -> Result<Vec<(ShardId, ReplicaId)>, FolderError> {
        let folder = self.path.join("replicas");
        let files = self
            .disk
            .list(&folder)
            .map_err(|source| FolderError::Io { path: folder, source })?;
        Ok(files
            .iter()
            .filter_map(|file| parse_replica(file.file_name()?.to_str()?))
            .collect())
    }

    /// Deletes a replica's state, if it is there, and what lies beside it.
    pub fn remove_replica(
        &self,
        shard: ShardId,
        replica: ReplicaId,
        failpoints: &HostFailpoints,
    ) -> Result<(), FolderError> {
        let path = self.replica(shard, replica);
        let removed = ShardStore::destroy(self.disk.as_ref(), &path, failpoints);
        removed.map_err(|source| FolderError::Io { path, source })
    }

    /// The host's identity; `None` in a new folder.
    pub fn identity(&self) -> Result<Option<Identity>, FolderError> {
        let Some(identity) = self.read::<Identity>("identity")? else {
            return Ok(None);
        };
        if identity.format > FORMAT {
            return Err(FolderError::NewerFormat {
                path: self.path.join("identity"),
                found: identity.format,
            });
        }
        Ok(Some(identity))
    }

    /// Replaces the identity.
    pub fn write_identity(&self, identity: &Identity) -> Result<(), FolderError> {
        self.write("identity", identity)
    }

    /// What controllers have ordered.
    pub fn orders(&self) -> Result<Orders, FolderError> {
        Ok(self.read("orders")?.unwrap_or_default())
    }

    /// Replaces the orders, durably.
    pub fn write_orders(&self, orders: &Orders) -> Result<(), FolderError> {
        self.write("orders", orders)
    }

    /// The newest map seen before the last stop, encoded.
    pub fn peers(&self) -> Result<Option<Vec<u8>>, FolderError> {
        self.read("peers")
    }

    /// Remembers a map.
    pub fn write_peers(&self, map: &Vec<u8>) -> Result<(), FolderError> {
        self.write("peers", map)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, FolderError> {
        let path = self.path.join(name);
        let failed = |source| FolderError::Io {
            path: path.clone(),
            source,
        };
        if !self.disk.exists(&path).map_err(failed)? {
            return Ok(None);
        }
        let content = self.disk.read(&path).map_err(failed)?;
        let corrupt = |reason: &str| FolderError::Corrupt {
            path: path.clone(),
            reason: reason.to_owned(),
        };
        let text = std::str::from_utf8(&content).map_err(|_| corrupt("not text"))?;
        let (body, checksum) = text
            .trim_end()
            .rsplit_once('\n')
            .ok_or_else(|| corrupt("no checksum"))?;
        if checksum != checksum_of(body) {
            return Err(corrupt("its checksum does not match"));
        }
        serde_json::from_str(body)
            .map(Some)
            .map_err(|e| corrupt(&e.to_string()))
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), FolderError> {
        let path = self.path.join(name);
        let body = serde_json::to_string(value).map_err(|e| FolderError::Corrupt {
            path: path.clone(),
            reason: e.to_string(),
        })?;
        let content = format!("{body}\n{}\n", checksum_of(&body));
        self.disk
            .replace(&path, content.as_bytes())
            .map_err(|source| FolderError::Io { path, source })
    }
}

fn checksum_of(body: &str) -> String {
    format!("crc32c {:08x}", crc32c::crc32c(body.as_bytes()))
}

fn parse_replica(name: &str) -> Option<(ShardId, ReplicaId)> {
    let (shard, replica) = name.strip_prefix('s')?.split_once("-r")?;
    Some((ShardId(shard.parse().ok()?), ReplicaId(replica.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::disk::RealDisk;

    fn folder(path: &Path) -> Result<DataFolder, FolderError> {
        DataFolder::open(Arc::new(RealDisk), path)
    }

    fn identity(format: u32) -> Identity {
        Identity {
            format,
            token: "t".into(),
            cluster_id: Some("c".into()),
            host_id: 3,
            bootstrap: None,
        }
    }

    #[test]
    fn a_folder_has_one_user() {
        let temp = tempfile::tempdir().unwrap();
        let first = folder(temp.path()).unwrap();
        assert!(matches!(folder(temp.path()), Err(FolderError::InUse(_))));
        drop(first);
        folder(temp.path()).unwrap();
    }

    #[test]
    fn what_was_written_reads_back() {
        let temp = tempfile::tempdir().unwrap();
        let folder = folder(temp.path()).unwrap();
        assert_eq!(folder.identity().unwrap(), None);
        folder.write_identity(&identity(FORMAT)).unwrap();
        assert_eq!(folder.identity().unwrap(), Some(identity(FORMAT)));
        let orders = Orders {
            controller_term: 4,
            tombstones: BTreeSet::from([7, 9]),
            fenced: BTreeMap::from([(
                8,
                FencedBy {
                    shard: 2,
                    migration: 5,
                },
            )]),
        };
        folder.write_orders(&orders).unwrap();
        assert_eq!(folder.orders().unwrap(), orders);
    }

    #[test]
    fn a_newer_folder_is_refused_and_a_damaged_one_detected() {
        let temp = tempfile::tempdir().unwrap();
        let folder = folder(temp.path()).unwrap();
        folder.write_identity(&identity(FORMAT + 1)).unwrap();
        assert!(matches!(
            folder.identity(),
            Err(FolderError::NewerFormat { found: 2, .. })
        ));
        let path = temp.path().join("identity");
        let damaged = std::fs::read_to_string(&path)
            .unwrap()
            .replace("\"host_id\":3", "\"host_id\":4");
        std::fs::write(&path, damaged).unwrap();
        assert!(matches!(folder.identity(), Err(FolderError::Corrupt { .. })));
    }

    #[test]
    fn replicas_are_found_by_name() {
        assert_eq!(parse_replica("s7-r21"), Some((ShardId(7), ReplicaId(21))));
        for other in ["s7-r21.new", "x7-r21", "s7", "s-r1"] {
            assert_eq!(parse_replica(other), None, "{other}");
        }
    }
}
