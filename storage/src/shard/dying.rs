//! The versions that nobody will see any more once the floor has come so far, in the order in which that happens.
//!
//! There is one for each superseded version that is still retained, so what one takes counts. It names its key and the
//! revision at which it died, and not its own: that is the key's last before. They lie in pieces: a queue that doubles
//! would hold room for as many again.

use std::collections::VecDeque;

use super::key::Key;

/// Entries in one piece.
const PIECE: usize = 1_024;

/// A version that nobody sees once the floor reaches `died_at`: the key's last before that revision, or the deletion at that
/// revision where there is none before it any more.
#[derive(Debug, Clone)]
pub(super) struct Dying {
    pub(super) died_at: u64,
    pub(super) key: Key,
}

/// The dying, ascending in `died_at`.
#[derive(Debug, Clone, Default)]
pub(super) struct DyingQueue {
    /// None of them is empty.
    pieces: VecDeque<VecDeque<Dying>>,
}

impl DyingQueue {
    pub(super) fn push(&mut self, dying: Dying) {
        match self.pieces.back_mut() {
            Some(piece) if piece.len() < PIECE => piece.push_back(dying),
            _ => self.pieces.push_back(VecDeque::from([dying])),
        }
    }

    /// The next one that is dead at `floor`.
    pub(super) fn pop_dead(&mut self, floor: u64) -> Option<Dying> {
        let piece = self.pieces.front_mut()?;
        let dead = piece.pop_front_if(|dying| dying.died_at <= floor);
        if piece.is_empty() {
            self.pieces.pop_front();
        }
        dead
    }

    /// Whether [`DyingQueue::pop_dead`] would give one.
    pub(super) fn has_dead(&self, floor: u64) -> bool {
        let first = self.pieces.front().and_then(VecDeque::front);
        first.is_some_and(|dying| dying.died_at <= floor)
    }

    /// Those of the keys from `key` on, which are taken out.
    pub(super) fn split_off(&mut self, key: &[u8]) -> DyingQueue {
        let (mut upper, mut lower) = (DyingQueue::default(), DyingQueue::default());
        for dying in std::mem::take(&mut self.pieces).into_iter().flatten() {
            match *dying.key >= *key {
                true => upper.push(dying),
                false => lower.push(dying),
            }
        }
        *self = lower;
        upper
    }

    /// Takes in those of another queue, each in its place.
    pub(super) fn absorb(&mut self, other: DyingQueue) {
        let own = std::mem::take(&mut self.pieces).into_iter().flatten();
        let (mut own, mut other) = (own.peekable(), other.pieces.into_iter().flatten().peekable());
        while let (Some(one), Some(another)) = (own.peek(), other.peek()) {
            let next = match one.died_at <= another.died_at {
                true => own.next(),
                false => other.next(),
            };
            next.into_iter().for_each(|dying| self.push(dying));
        }
        own.chain(other).for_each(|dying| self.push(dying));
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dying(died_at: u64) -> Dying {
        let name = if died_at.is_multiple_of(3) { "b" } else { "a" };
        Dying {
            died_at,
            key: Key::from(name.as_bytes()),
        }
    }

    fn drained(mut queue: DyingQueue) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop_dead(u64::MAX))
            .map(|dying| dying.died_at)
            .collect()
    }

    #[test]
    fn the_dead_come_out_in_order_over_pieces() {
        let mut queue = DyingQueue::default();
        let count = PIECE as u64 * 3 + 7;
        (1..=count).for_each(|died_at| queue.push(dying(died_at)));
        assert!(!queue.has_dead(0) && queue.has_dead(1));
        assert!(queue.pop_dead(0).is_none());
        let early = PIECE as u64 + 5;
        for died_at in 1..=early {
            assert_eq!(queue.pop_dead(early).map(|dying| dying.died_at), Some(died_at));
        }
        assert!(queue.pop_dead(early).is_none() && !queue.has_dead(early));
        queue.push(dying(count + 1));
        assert!(drained(queue).into_iter().eq(early + 1..=count + 1));
    }

    #[test]
    fn a_split_parts_the_keys_and_keeps_the_order() {
        let mut queue = DyingQueue::default();
        (1..=10).for_each(|died_at| queue.push(dying(died_at)));
        let upper = queue.split_off(b"b");
        assert_eq!(drained(upper), [3, 6, 9]);
        assert_eq!(drained(queue), [1, 2, 4, 5, 7, 8, 10]);
        assert!(DyingQueue::default().is_empty());
    }

    #[test]
    fn two_queues_become_one_in_order() {
        let of = |numbers: &[u64]| {
            let mut queue = DyingQueue::default();
            numbers.iter().for_each(|died_at| queue.push(dying(*died_at)));
            queue
        };
        let mut queue = of(&[1, 5, 9]);
        queue.absorb(of(&[2, 5, 6, 11, 12]));
        assert_eq!(drained(queue), [1, 2, 5, 5, 6, 9, 11, 12]);
    }
}
