//! The guard: a small file beside the log that remembers what the log must still contain.
//!
//! It holds the newest flushed sequence and each group's last durable vote (its ordinal and
//! checksum). A log that is behind was restored, rolled back, or lost a synced write; for Raft that
//! is amnesia, and the host must not come back with it.
//!
//! The file has two slots of [`SLOT_BYTES`], written in turn, each with a counter and a checksum. A
//! power cut can tear the slot being written, never the other one, so one slot always verifies; a
//! file in which none does is damaged. The guard is written after the log's sync returned. It may
//! lag (at most [`INTERVAL_MS`], nothing for votes), so it detects rolled-back files, not the last
//! moments on a disk that lies about syncs.
//!
//! A slot, integers big-endian: magic (8 bytes), format u16, zero u16, votes u32, counter u64,
//! flushed sequence u64, then per vote group u64, ordinal u64, checksum u32, and CRC-32C of it all.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::error::OpenLogError;
use super::index::LogGroup;
use crate::disk::{BlockFile, Disk, OpenMode};

/// The longest time between a commit and the guard's write while the writer runs, in milliseconds.
pub(super) const INTERVAL_MS: u64 = 100;

/// The format this program writes, and the newest it reads. It speaks for the whole log folder: it
/// is read before the log file is touched.
pub(super) const FORMAT: u16 = 1;

const MAGIC: &[u8; 8] = b"GDWGUARD";
const HEAD_BYTES: usize = 32;
const VOTE_BYTES: usize = 20;
const CRC_BYTES: usize = 4;

/// A slot's length in bytes, with room for [`VOTES_MAX`] votes.
const SLOT_BYTES: usize = 256 << 10;

/// Votes of more groups than this are not guarded by themselves; the flushed sequence, which was
/// flushed after them, still is.
const VOTES_MAX: usize = (SLOT_BYTES - HEAD_BYTES - CRC_BYTES) / VOTE_BYTES;

/// Each group's vote as (ordinal, CRC-32C).
pub(super) type Votes = BTreeMap<LogGroup, (u64, u32)>;

/// What a guard remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Guarded {
    /// Sequences up to and with this one were flushed.
    pub(super) flushed_sequence: u64,
    pub(super) votes: Votes,
}

/// The open guard file.
#[derive(Debug)]
pub(super) struct Guard {
    file: Box<dyn BlockFile>,
    /// Grows with each write; its parity is the slot.
    counter: u64,
}

impl Guard {
    /// Creates the guard of an empty log.
    pub(super) fn create(disk: &dyn Disk, path: &Path) -> io::Result<()> {
        disk.replace(path, &encode(0, &Guarded::default()))
    }

    /// Opens the guard and reads what it remembers.
    pub(super) fn open(disk: &dyn Disk, path: &Path) -> Result<(Guard, Guarded), OpenLogError> {
        let file = disk.open(path, OpenMode::Existing)?;
        let mut newest: Option<(u64, Guarded)> = None;
        for slot in 0..2 {
            let read = read_slot(file.as_ref(), slot)?;
            if read.as_ref().map(|(counter, _)| *counter) > newest.as_ref().map(|(counter, _)| *counter) {
                newest = read;
            }
        }
        let (counter, guarded) = newest.ok_or(OpenLogError::GuardLost)?;
        Ok((Guard { file, counter }, guarded))
    }

    /// Remembers `guarded`, durably. After an error the guard's state is unknown: do not retry.
    pub(super) fn write(&mut self, guarded: &Guarded) -> io::Result<()> {
        self.counter += 1;
        let at = (self.counter % 2) * SLOT_BYTES as u64;
        self.file.write(at, &encode(self.counter, guarded))?;
        self.file.sync_data()
    }
}

fn encode(counter: u64, guarded: &Guarded) -> Vec<u8> {
    let count = guarded.votes.len().min(VOTES_MAX);
    let mut slot = Vec::with_capacity(HEAD_BYTES + count * VOTE_BYTES + CRC_BYTES);
    slot.extend_from_slice(MAGIC);
    slot.extend_from_slice(&FORMAT.to_be_bytes());
    slot.extend_from_slice(&[0; 2]);
    slot.extend_from_slice(&(count as u32).to_be_bytes());
    slot.extend_from_slice(&counter.to_be_bytes());
    slot.extend_from_slice(&guarded.flushed_sequence.to_be_bytes());
    for (group, (ordinal, crc)) in guarded.votes.iter().take(count) {
        slot.extend_from_slice(&group.0.to_be_bytes());
        slot.extend_from_slice(&ordinal.to_be_bytes());
        slot.extend_from_slice(&crc.to_be_bytes());
    }
    let crc = crc32c::crc32c(&slot);
    slot.extend_from_slice(&crc.to_be_bytes());
    slot
}

/// Reads a slot; None when it does not verify.
fn read_slot(file: &dyn BlockFile, slot: u64) -> Result<Option<(u64, Guarded)>, OpenLogError> {
    let at = slot * SLOT_BYTES as u64;
    let available = file.len()?.saturating_sub(at).min(SLOT_BYTES as u64);
    let mut bytes = vec![0; available as usize];
    if available > 0 {
        file.read(at, &mut bytes)?;
    }
    let Some(head) = bytes.get(..HEAD_BYTES).filter(|head| head.starts_with(MAGIC)) else {
        return Ok(None);
    };
    let found = u16::from_be_bytes([head[8], head[9]]);
    if found > FORMAT {
        return Err(OpenLogError::NewerFormat { found, known: FORMAT });
    }
    let count = u32::from_be_bytes(field(head, 12)) as usize;
    let end = HEAD_BYTES + count.min(VOTES_MAX) * VOTE_BYTES;
    let Some(crc) = bytes.get(end..end + CRC_BYTES) else {
        return Ok(None);
    };
    if crc32c::crc32c(&bytes[..end]).to_be_bytes() != crc {
        return Ok(None);
    }
    let votes = bytes[HEAD_BYTES..end]
        .chunks_exact(VOTE_BYTES)
        .map(decode_vote)
        .collect();
    let guarded = Guarded {
        flushed_sequence: u64::from_be_bytes(field(head, 24)),
        votes,
    };
    Ok(Some((u64::from_be_bytes(field(head, 16)), guarded)))
}

fn decode_vote(bytes: &[u8]) -> (LogGroup, (u64, u32)) {
    let group = LogGroup(u64::from_be_bytes(field(bytes, 0)));
    (
        group,
        (
            u64::from_be_bytes(field(bytes, 8)),
            u32::from_be_bytes(field(bytes, 16)),
        ),
    )
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N]
        .try_into()
        .expect("the slice has the field's length")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim_disk::SimDisk;

    const PATH: &str = "/guard";

    fn guarded(flushed_sequence: u64) -> Guarded {
        let votes = (0..flushed_sequence % 7)
            .map(|group| (LogGroup(group), (flushed_sequence, 9)))
            .collect();
        Guarded {
            flushed_sequence,
            votes,
        }
    }

    #[test]
    fn a_power_cut_leaves_the_last_synced_guard_or_the_one_being_written() {
        for seed in 0..200 {
            let disk = SimDisk::new(seed);
            let path = Path::new(PATH);
            Guard::create(&disk, path).unwrap();
            let (mut guard, empty) = Guard::open(&disk, path).unwrap();
            assert_eq!(empty, Guarded::default());
            disk.cut_power_after(seed % 13);
            let synced = (1..20)
                .take_while(|n| guard.write(&guarded(*n)).is_ok())
                .last()
                .unwrap_or(0);
            disk.crash();
            let (_, found) = Guard::open(&disk, path).unwrap();
            let known = [guarded(synced), guarded(synced + 1)];
            assert!(known.contains(&found), "seed {seed}: {found:?} after {synced}");
        }
    }

    #[test]
    fn a_damaged_slot_falls_back_to_the_other_and_two_are_refused() {
        let disk = SimDisk::new(1);
        let path = Path::new(PATH);
        Guard::create(&disk, path).unwrap();
        let (mut guard, _) = Guard::open(&disk, path).unwrap();
        guard.write(&guarded(1)).unwrap();
        disk.flip(path, SLOT_BYTES as u64 + 30, 3).unwrap();
        assert_eq!(Guard::open(&disk, path).unwrap().1, Guarded::default());
        disk.flip(path, 30, 3).unwrap();
        assert!(matches!(Guard::open(&disk, path), Err(OpenLogError::GuardLost)));
    }

    #[test]
    fn a_newer_format_is_named() {
        let disk = SimDisk::new(1);
        let path = Path::new(PATH);
        Guard::create(&disk, path).unwrap();
        disk.flip(path, 9, 1).unwrap();
        let refused = Guard::open(&disk, path).unwrap_err();
        assert!(
            matches!(refused, OpenLogError::NewerFormat { found: 3, known: 1 }),
            "{refused}"
        );
    }

    #[test]
    fn more_votes_than_fit_keep_the_flushed_sequence() {
        let disk = SimDisk::new(1);
        let path = Path::new(PATH);
        Guard::create(&disk, path).unwrap();
        let (mut guard, _) = Guard::open(&disk, path).unwrap();
        let votes = (0..VOTES_MAX as u64 + 5)
            .map(|group| (LogGroup(group), (1, 1)))
            .collect();
        guard
            .write(&Guarded {
                flushed_sequence: 77,
                votes,
            })
            .unwrap();
        let (_, found) = Guard::open(&disk, path).unwrap();
        assert_eq!((found.flushed_sequence, found.votes.len()), (77, VOTES_MAX));
    }
}
