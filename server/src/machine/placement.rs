//! The placement state behind [`raft::Machine`].
//!
//! The state is small (a shard is a few hundred bytes), so a checkpoint is the whole state in one file, replaced
//! atomically: a header, the replicator's mark, the state, and a checksum over all of it. Readers share the applied
//! state under a lock that is held for no I/O, and may wait for it to change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use placement::Placement;
use raft::{Captured, Imported, Machine, MachineFault, Position, Response, SnapshotSink, SnapshotSource};
use storage::disk::Disk;
use tokio::sync::watch;

const MAGIC: &[u8; 8] = b"godwitPL";
const FORMAT: u8 = 1;
const FRAME_BYTES: usize = 1 << 20;
/// A state larger than this is not accepted from a peer.
const STATE_BYTES_MAX: usize = 1 << 30;

/// Why the placement state cannot be opened. The file is left as it is.
#[derive(Debug, thiserror::Error)]
pub enum OpenPlacementError {
    /// The disk failed.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is damaged.
    #[error("{path} is corrupt: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file was written by a newer godwit.
    #[error("{path} has format {found}; this godwit reads format {FORMAT}")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u8,
    },
}

/// The placement group's machine on this host.
#[derive(Clone)]
pub struct PlacementMachine {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    state: RwLock<Placement>,
    mark: Mutex<Option<Bytes>>,
    applied: watch::Sender<u64>,
    dirty_bytes: Mutex<u64>,
}

impl PlacementMachine {
    /// Opens the state in `path`, empty when there is no file.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, OpenPlacementError> {
        let io = |source| OpenPlacementError::Io {
            path: path.to_owned(),
            source,
        };
        let (mark, state) = match disk.exists(path).map_err(io)? {
            true => {
                let (mark, state) = unseal(path, disk.read(path).map_err(io)?.into())?;
                (Some(mark), state)
            }
            false => (None, Placement::default()),
        };
        let applied = watch::Sender::new(state.applied_index());
        let shared = Shared {
            disk,
            path: path.to_owned(),
            state: RwLock::new(state),
            mark: Mutex::new(mark),
            applied,
            dirty_bytes: Mutex::new(0),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The applied state. Hold it briefly: applying waits for it.
    pub fn state(&self) -> RwLockReadGuard<'_, Placement> {
        self.shared.state.read().expect("apply does not panic")
    }

    /// The index of the last applied command and a fingerprint of the state there, of one moment.
    pub fn state_hash_at(&self) -> (u64, u64) {
        let state = self.state();
        let encoded = placement::encode_state(&state).unwrap_or_default();
        let hash = (encoded.len() as u64) << 32 | u64::from(crc32c::crc32c(&encoded));
        (state.applied_index(), hash)
    }

    /// Follows the index of the last applied command.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    fn sealed(&self, mark: &Bytes) -> Result<Bytes, MachineFault> {
        let state =
            placement::encode_state(&self.state()).map_err(|e| MachineFault::Storage(e.to_string()))?;
        Ok(seal(mark, &state))
    }
}

impl Machine for PlacementMachine {
    /// Answers with a [`placement::Response`].
    fn apply(&self, at: Position, command: Option<&Bytes>) -> Result<Response, MachineFault> {
        let Some(command) = command else {
            return Ok(Response::default());
        };
        let decoded = placement::decode(command).map_err(|e| MachineFault::UnknownEntry(e.to_string()))?;
        let response = self
            .shared
            .state
            .write()
            .expect("apply does not panic")
            .apply(at.index, decoded);
        *self.shared.dirty_bytes.lock().expect("no panic under this lock") += command.len() as u64;
        self.shared.applied.send_replace(at.index);
        Ok(Response::new(response))
    }

    fn mark(&self) -> Option<Bytes> {
        self.shared.mark.lock().expect("no panic under this lock").clone()
    }

    fn capture(&self, mark: Bytes) -> Result<Box<dyn Captured>, MachineFault> {
        let sealed = self.sealed(&mark)?;
        let dirty_bytes = *self.shared.dirty_bytes.lock().expect("no panic under this lock");
        Ok(Box::new(PlacementCaptured {
            shared: self.shared.clone(),
            sealed,
            mark,
            dirty_bytes,
        }))
    }

    fn dirty_bytes(&self) -> u64 {
        *self.shared.dirty_bytes.lock().expect("no panic under this lock")
    }

    fn export(&self) -> Result<Box<dyn SnapshotSource>, MachineFault> {
        let storage = |e: io::Error| MachineFault::Storage(e.to_string());
        let sealed: Bytes = self.shared.disk.read(&self.shared.path).map_err(storage)?.into();
        let (mark, _) = unseal(&self.shared.path, sealed.clone()).map_err(corrupt)?;
        Ok(Box::new(PlacementSource { mark, rest: sealed }))
    }

    fn begin_import(&self) -> Result<Box<dyn SnapshotSink>, MachineFault> {
        Ok(Box::new(PlacementSink {
            path: self.shared.path.clone(),
            received: BytesMut::new(),
        }))
    }

    fn install(&self, imported: Imported, mark: Bytes) -> Result<(), MachineFault> {
        let state = imported.0.downcast::<Placement>();
        let state = *state.map_err(|_| MachineFault::Storage("the import is another machine's".into()))?;
        let encoded = placement::encode_state(&state).map_err(|e| MachineFault::Storage(e.to_string()))?;
        let written = self
            .shared
            .disk
            .replace(&self.shared.path, &seal(&mark, &encoded));
        written.map_err(|e| MachineFault::Storage(e.to_string()))?;
        let index = state.applied_index();
        *self.shared.state.write().expect("apply does not panic") = state;
        *self.shared.mark.lock().expect("no panic under this lock") = Some(mark);
        self.shared.applied.send_replace(index);
        Ok(())
    }
}

struct PlacementCaptured {
    shared: Arc<Shared>,
    sealed: Bytes,
    mark: Bytes,
    dirty_bytes: u64,
}

impl Captured for PlacementCaptured {
    fn write(self: Box<Self>) -> Result<(), MachineFault> {
        let written = self.shared.disk.replace(&self.shared.path, &self.sealed);
        written.map_err(|e| MachineFault::Storage(e.to_string()))?;
        *self.shared.mark.lock().expect("no panic under this lock") = Some(self.mark);
        *self.shared.dirty_bytes.lock().expect("no panic under this lock") -= self.dirty_bytes;
        Ok(())
    }
}

struct PlacementSource {
    mark: Bytes,
    rest: Bytes,
}

impl SnapshotSource for PlacementSource {
    fn mark(&self) -> Bytes {
        self.mark.clone()
    }

    fn next_frame(&mut self) -> Result<Option<Bytes>, MachineFault> {
        let frame = self.rest.split_to(self.rest.len().min(FRAME_BYTES));
        Ok((!frame.is_empty()).then_some(frame))
    }
}

struct PlacementSink {
    path: PathBuf,
    received: BytesMut,
}

impl SnapshotSink for PlacementSink {
    fn push(&mut self, frame: Bytes) -> Result<(), MachineFault> {
        if self.received.len() + frame.len() > STATE_BYTES_MAX {
            return Err(MachineFault::Storage(format!(
                "a placement state above {STATE_BYTES_MAX} bytes"
            )));
        }
        self.received.extend_from_slice(&frame);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Imported, MachineFault> {
        let (_, state) = unseal(&self.path, self.received.freeze()).map_err(corrupt)?;
        Ok(Imported(Box::new(state)))
    }
}

fn corrupt(error: OpenPlacementError) -> MachineFault {
    MachineFault::Corrupt(error.to_string())
}

/// `magic, format, length of mark, mark, state, crc32c of all before`.
fn seal(mark: &Bytes, state: &[u8]) -> Bytes {
    let mut sealed = BytesMut::with_capacity(MAGIC.len() + 9 + mark.len() + state.len());
    sealed.put_slice(MAGIC);
    sealed.put_u8(FORMAT);
    sealed.put_u32(u32::try_from(mark.len()).expect("a mark is small"));
    sealed.put_slice(mark);
    sealed.put_slice(state);
    sealed.put_u32(crc32c::crc32c(&sealed));
    sealed.freeze()
}

fn unseal(path: &Path, mut sealed: Bytes) -> Result<(Bytes, Placement), OpenPlacementError> {
    let corrupt = |reason: &str| OpenPlacementError::Corrupt {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    if sealed.len() < MAGIC.len() + 9 || !sealed.starts_with(MAGIC) {
        return Err(corrupt("it is not a placement state"));
    }
    let found = sealed[MAGIC.len()];
    if found > FORMAT {
        return Err(OpenPlacementError::NewerFormat {
            path: path.to_owned(),
            found,
        });
    }
    let mut crc = sealed.split_off(sealed.len() - 4);
    if crc32c::crc32c(&sealed) != crc.get_u32() {
        return Err(corrupt("its checksum does not match"));
    }
    sealed.advance(MAGIC.len() + 1);
    let mark_bytes = sealed.get_u32() as usize;
    if mark_bytes > sealed.len() {
        return Err(corrupt("its mark is longer than the file"));
    }
    let mark = sealed.split_to(mark_bytes);
    let state = placement::decode_state(&sealed).map_err(|e| corrupt(&e.to_string()))?;
    Ok((mark, state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::disk::RealDisk;

    fn machine(folder: &Path) -> Result<PlacementMachine, OpenPlacementError> {
        PlacementMachine::open(Arc::new(RealDisk), &folder.join("placement"))
    }

    fn checkpointed(folder: &Path) -> PlacementMachine {
        let machine = machine(folder).unwrap();
        machine
            .capture(Bytes::from_static(b"mark"))
            .unwrap()
            .write()
            .unwrap();
        machine
    }

    #[test]
    fn a_checkpoint_reads_back_with_its_mark() {
        let folder = tempfile::tempdir().unwrap();
        assert!(machine(folder.path()).unwrap().mark().is_none());
        drop(checkpointed(folder.path()));
        assert_eq!(machine(folder.path()).unwrap().mark().unwrap(), "mark");
    }

    #[test]
    fn a_flipped_bit_is_never_served() {
        let folder = tempfile::tempdir().unwrap();
        drop(checkpointed(folder.path()));
        let path = folder.path().join("placement");
        let sealed = std::fs::read(&path).unwrap();
        for at in [9, 14, sealed.len() / 2, sealed.len() - 1] {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, &flipped).unwrap();
            let refused = machine(folder.path()).err().unwrap();
            assert!(matches!(refused, OpenPlacementError::Corrupt { .. }), "{refused}");
        }
    }

    #[test]
    fn a_newer_format_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        drop(checkpointed(folder.path()));
        let path = folder.path().join("placement");
        let mut sealed = std::fs::read(&path).unwrap();
        sealed[MAGIC.len()] = FORMAT + 1;
        std::fs::write(&path, &sealed).unwrap();
        let refused = machine(folder.path()).err().unwrap();
        assert!(
            matches!(refused, OpenPlacementError::NewerFormat { found: 2, .. }),
            "{refused}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), sealed);
    }

    #[test]
    fn a_snapshot_brings_another_replica_to_the_same_state() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut source = checkpointed(from.path()).export().unwrap();
        let target = machine(to.path()).unwrap();
        let mut sink = target.begin_import().unwrap();
        while let Some(frame) = source.next_frame().unwrap() {
            sink.push(frame).unwrap();
        }
        target.install(sink.finish().unwrap(), source.mark()).unwrap();
        assert_eq!(machine(to.path()).unwrap().mark().unwrap(), "mark");
    }
}
