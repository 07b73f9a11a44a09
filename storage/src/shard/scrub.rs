//! Scrubbing: what a replica holds, in one number, to be compared with that of its peers at one position of the log.
//!
//! An entry of the log asks for it. Where it is applied, the state's fingerprint is taken ([`ScrubPoint`]), which costs
//! little: it is kept up to date with each change. Everything else happens beside the entries that follow:
//! [`ShardStore::scrub`] reads every row that was visible there, past the cache of rows, so from the disk if it lies there;
//! verifies it; and adds it to the checksum. Equal checksums mean equal keys, values, versions, sessions and leases, but for
//! accidents of 64 bits.
//!
//! Before that is compared with anyone's, a replica's rows must agree with its own index, whose fingerprint comes from when
//! they were applied. A file that has lost or changed a row shows without any peer.
//!
//! What must hold: the entry changes nothing but the clock, as any entry does. A scrub that is overtaken by what changes the
//! visible past, a compaction or another range, says so and is no finding.

use super::fingerprint::Fingerprint;
use super::index::{Head, head_fingerprint};
use super::machine::Position;
use super::read::{Located, ReadError};
use super::store::{Inner, ShardStore};

/// Keys that are taken from the index under one lock.
const PIECE: usize = 256;

/// Where a scrub was asked for, and the state there but for the values of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubPoint {
    /// Which scrub.
    pub id: u64,
    /// The entry that asked for it.
    pub at: Position,
    revision: u64,
    generation: u64,
    /// [`super::machine::State::fingerprint`].
    state: u64,
    /// The index's sum over its rows.
    rows: u64,
}

/// What a scrub came to on one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scrubbed {
    /// Of everything that the shard holds at the point.
    pub checksum: u64,
    /// Rows that were read.
    pub keys: u64,
}

/// Why a replica has no checksum.
#[derive(Debug, thiserror::Error)]
pub enum ScrubError {
    /// The past at the point cannot be seen any more: it was forgotten, or the shard has another range. Scrub again.
    #[error("overtaken: {0}")]
    Overtaken(String),
    /// A row could not be read, or is damaged.
    #[error(transparent)]
    Unreadable(ReadError),
    /// The rows are sound one by one and not those that were applied.
    #[error(
        "the rows of {keys} keys are not those that were applied (sum {found:016x} instead of {expected:016x})"
    )]
    Differs {
        /// Rows that were read.
        keys: u64,
        /// Their sum.
        found: u64,
        /// The sum from when they were applied.
        expected: u64,
    },
}

impl Inner {
    pub(crate) fn scrub_point(&self, id: u64, at: Position) -> ScrubPoint {
        ScrubPoint {
            id,
            at,
            revision: self.state.revision,
            generation: self.state.range.r#gen,
            state: self.state.fingerprint(),
            rows: self.state.keys.rows_sum(),
        }
    }

    /// The next rows of the keys from `start` on, as of the point; none: that was all.
    fn scrub_piece(&self, start: &[u8], point: &ScrubPoint) -> Result<Vec<Located>, ScrubError> {
        if self.state.range.r#gen != point.generation {
            return Err(ScrubError::Overtaken("the shard has another range".to_owned()));
        }
        self.check_readable(&[], None, point.revision)
            .map_err(|e| ScrubError::Overtaken(e.to_string()))?;
        let keys = self.state.keys.range_at(start, None, point.revision);
        Ok(keys
            .take(PIECE)
            .map(|(key, revision)| self.locate(key, revision))
            .collect())
    }
}

impl ShardStore {
    /// The newest scrub that an entry has asked for and that nobody has taken yet.
    pub fn take_scrub(&self) -> Option<ScrubPoint> {
        self.shared.scrub().take()
    }

    /// Which scrub [`ShardStore::take_scrub`] would take.
    pub fn pending_scrub(&self) -> Option<u64> {
        self.shared.scrub().as_ref().map(|point| point.id)
    }

    /// Reads everything that was visible at the point. Takes as long as reading all rows; entries are applied meanwhile.
    pub fn scrub(&self, point: &ScrubPoint) -> Result<Scrubbed, ScrubError> {
        let (mut start, mut keys, mut sum) = (Vec::new(), 0_u64, 0_u64);
        loop {
            let piece = self.shared.read().scrub_piece(&start, point)?;
            let is_last = piece.len() < PIECE;
            for located in piece {
                let (key, revision) = (located.key.clone(), located.revision);
                let row = located.read_stored().map_err(ScrubError::Unreadable)?;
                let head = Head::new(revision, &row);
                if head.is_live() {
                    keys += 1;
                    sum = sum.wrapping_add(head_fingerprint(&key, &head));
                }
                start = [&key[..], &[0]].concat();
            }
            if is_last {
                break;
            }
        }
        if sum != point.rows {
            return Err(ScrubError::Differs {
                keys,
                found: sum,
                expected: point.rows,
            });
        }
        let checksum = Fingerprint::new().number(point.state).number(sum).finish();
        Ok(Scrubbed { checksum, keys })
    }

    /// Changes a value behind the machine's back, in memory and with the next checkpoint in the file, as a fault of the
    /// hardware would; false if there is no such key. For tests.
    #[cfg(debug_assertions)]
    #[doc(hidden)]
    pub fn spoil(&self, key: &[u8]) -> bool {
        let Some(pair) = self.get(key).ok().flatten() else {
            return false;
        };
        let mut inner = self.shared.write();
        let Some(own) = inner.state.keys.own_key(key) else {
            return false;
        };
        let row = super::record::Row {
            create_revision: pair.create_revision,
            version: pair.version,
            value: [&pair.value[..], b"?"].concat().into(),
            lease: pair.lease,
        };
        inner.state.fresh.remove(pair.mod_revision, key);
        let spoilt = super::fresh::FreshRow { key: own, row };
        inner.state.fresh.insert(pair.mod_revision, spoilt);
        true
    }
}
