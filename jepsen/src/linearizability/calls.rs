//! The calls and returns of one key's certain operations, as a linked list: taking an operation out and putting it back
//! is one step each, as long as what was taken out last is put back first.

use super::model::Step;

/// The list. An entry is a position + 1; 0 is the head.
pub(super) struct Calls {
    next: Vec<u32>,
    prev: Vec<u32>,
    /// The operation of an entry, and whether the entry is its call.
    owner: Vec<(u32, bool)>,
}

impl Calls {
    /// Links the calls and returns of `certain`, among `positions`.
    pub(super) fn new(certain: &[Step], positions: u32) -> Self {
        let entries = positions as usize + 1;
        let mut owner = vec![None; entries];
        for (index, step) in (0u32..).zip(certain) {
            owner[step.call as usize + 1] = Some((index, true));
            owner[step.end as usize + 1] = Some((index, false));
        }
        let (mut next, mut prev) = (vec![0; entries], vec![0; entries]);
        let mut last = 0u32;
        for (entry, _) in (0u32..).zip(&owner).filter(|(_, owner)| owner.is_some()) {
            next[last as usize] = entry;
            prev[entry as usize] = last;
            last = entry;
        }
        prev[0] = last;
        Self {
            next,
            prev,
            owner: owner.into_iter().map(Option::unwrap_or_default).collect(),
        }
    }

    /// The first entry.
    pub(super) fn first(&self) -> usize {
        self.next[0] as usize
    }

    /// The entry after `entry`.
    pub(super) fn after(&self, entry: usize) -> usize {
        self.next[entry] as usize
    }

    /// The operation whose call is at `entry`; `None` at a return, and at the end.
    pub(super) fn callable(&self, entry: usize) -> Option<usize> {
        let (index, is_call) = self.owner[entry];
        is_call.then_some(index as usize)
    }

    /// The position of the first return. There is one while there is anything.
    pub(super) fn first_return(&self) -> usize {
        let mut entry = self.first();
        while self.callable(entry).is_some() {
            entry = self.after(entry);
        }
        entry.wrapping_sub(1)
    }

    /// Takes an operation out.
    pub(super) fn take(&mut self, step: &Step) {
        for entry in [step.call + 1, step.end + 1] {
            let (before, after) = (self.prev[entry as usize], self.next[entry as usize]);
            self.next[before as usize] = after;
            self.prev[after as usize] = before;
        }
    }

    /// Puts the operation back that was taken out last.
    pub(super) fn put_back(&mut self, step: &Step) {
        for entry in [step.end + 1, step.call + 1] {
            let (before, after) = (self.prev[entry as usize], self.next[entry as usize]);
            self.next[before as usize] = entry;
            self.prev[after as usize] = entry;
        }
    }
}
