//! One simulated file: what a reader sees, what is durable, and the unsynced changes between.

use crate::seed::SplitMix64;

/// The unit in which an interrupted write is torn.
pub const SECTOR_BYTES: usize = 512;

/// A file's content, now and at the last sync.
#[derive(Debug, Default)]
pub(super) struct Image {
    pub(super) durable: Vec<u8>,
    pub(super) current: Vec<u8>,
    pending: Vec<Change>,
}

/// A change that no sync has covered yet.
#[derive(Debug)]
pub(super) enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

impl Image {
    /// A file whose content is durable.
    pub(super) fn durable(content: Vec<u8>) -> Image {
        Image {
            durable: content.clone(),
            current: content,
            pending: Vec::new(),
        }
    }

    pub(super) fn change(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// A failed sync: what did not reach the disk is no longer dirty, so no later sync writes it.
    pub(super) fn fail_sync(&mut self, chance: &mut SplitMix64) {
        for change in std::mem::take(&mut self.pending) {
            change.survive(&mut self.durable, chance);
        }
    }

    pub(super) fn lose_power(&mut self, chance: &mut SplitMix64) {
        self.fail_sync(chance);
        self.current = self.durable.clone();
    }
}

impl Change {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Change::SetLen(len) => image.resize(*len, 0),
            Change::Write { offset, bytes } => overwrite(image, *offset, bytes),
        }
    }

    /// Applies the part of an unsynced change that reached the disk: half of the changes whole, a
    /// quarter in some of their sectors, the rest not at all.
    fn survive(&self, image: &mut Vec<u8>, chance: &mut SplitMix64) {
        match (chance.below(4), self) {
            (0 | 1, _) => self.apply(image),
            (2, Change::Write { offset, bytes }) => {
                for (at, sector) in sectors(*offset, bytes) {
                    if chance.one_in(2) {
                        overwrite(image, at, sector);
                    }
                }
            }
            _ => {}
        }
    }
}

fn overwrite(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[offset..end].copy_from_slice(bytes);
}

/// Splits a write at the disk's sector boundaries.
fn sectors(offset: usize, bytes: &[u8]) -> Vec<(usize, &[u8])> {
    let mut split = Vec::new();
    let (mut at, mut rest) = (offset, bytes);
    while !rest.is_empty() {
        let (sector, tail) = rest.split_at(rest.len().min(SECTOR_BYTES - at % SECTOR_BYTES));
        split.push((at, sector));
        at += sector.len();
        rest = tail;
    }
    split
}

/// A length or offset of a simulated file.
pub(super) fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a simulated file fits into memory")
}
