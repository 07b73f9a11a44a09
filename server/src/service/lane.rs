//! Work for one shard that waits for its turn.
//!
//! A shard has few turns at a time. Work that comes while all are taken waits, and the first turn that comes free takes
//! all of it at once: batches form under load, across connections, and nothing waits without it.
//!
//! What must hold: while work waits, some turn is under way. A turn therefore ends under the lock under which it finds
//! that nothing waits.

use std::sync::{Arc, Mutex, MutexGuard};

/// A queue and the turns that work it off.
#[derive(Debug)]
pub(crate) struct Lane<T>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T> {
    waiting: Vec<T>,
    turns: usize,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self(Mutex::new(State {
            waiting: Vec::new(),
            turns: 0,
        }))
    }
}

impl<T> Lane<T> {
    /// Adds work; a turn to be taken by the caller, unless `turns_max` are under way.
    pub(crate) fn push(self: &Arc<Self>, work: T, turns_max: usize) -> Option<Turn<T>> {
        let mut state = self.lock();
        state.waiting.push(work);
        if state.turns >= turns_max {
            return None;
        }
        state.turns += 1;
        Some(Turn(Some(self.clone())))
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().expect("no holder of a lane's state panics")
    }
}

/// The right to work.
#[derive(Debug)]
pub(crate) struct Turn<T>(Option<Arc<Lane<T>>>);

impl<T> Turn<T> {
    /// What has waited, in the order of its coming: as much as weighs no more than `weight_max`, but one at least.
    /// `None` when nothing waits; the turn has ended then.
    pub(crate) fn take(&mut self, weight_max: u64, weight: impl Fn(&T) -> u64) -> Option<Vec<T>> {
        let lane = self.0.as_ref()?;
        let mut state = lane.lock();
        if state.waiting.is_empty() {
            state.turns -= 1;
            drop(state);
            self.0 = None;
            return None;
        }
        let mut left = weight_max;
        let fit = state.waiting.iter().take_while(|work| {
            let fits = weight(work) <= left;
            left = left.saturating_sub(weight(work));
            fits
        });
        let count = fit.count().max(1);
        if count == state.waiting.len() {
            return Some(std::mem::take(&mut state.waiting));
        }
        Some(state.waiting.drain(..count).collect())
    }
}

/// A turn that is broken off leaves its place to the next.
impl<T> Drop for Turn<T> {
    fn drop(&mut self) {
        if let Some(lane) = self.0.take() {
            lane.lock().turns -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: u64 = u64::MAX;

    fn weightless(_: &u64) -> u64 {
        0
    }

    #[test]
    fn a_turn_takes_what_came_while_all_were_taken() {
        let lane = Arc::new(Lane::default());
        let mut first = lane.push(1, 2).expect("a free turn");
        assert_eq!(first.take(ANY, weightless), Some(vec![1]));
        let mut second = lane.push(2, 2).expect("another");
        assert!(lane.push(3, 2).is_none() && lane.push(4, 2).is_none());
        assert_eq!(second.take(ANY, weightless), Some(vec![2, 3, 4]));
        assert_eq!(first.take(ANY, weightless), None);
        // The place of the first is free; it is not worked off twice.
        assert_eq!(first.take(ANY, weightless), None);
        let mut third = lane.push(5, 2).expect("the place of the first");
        assert!(lane.push(6, 2).is_none());
        assert!(lane.push(7, 3).is_some(), "where there are more turns");
        assert_eq!(third.take(ANY, weightless), Some(vec![5, 6, 7]));
    }

    #[test]
    fn a_turn_takes_no_more_than_may_be_and_one_at_least() {
        let lane = Arc::new(Lane::default());
        let mut turn = lane.push(30, 1).expect("a free turn");
        for work in [4, 5, 6, 1] {
            assert!(lane.push(work, 1).is_none());
        }
        let mut take = || turn.take(10, |work| *work);
        assert_eq!(take(), Some(vec![30]));
        assert_eq!(take(), Some(vec![4, 5]));
        assert_eq!(take(), Some(vec![6, 1]));
        assert_eq!(take(), None);
    }

    #[test]
    fn a_turn_that_is_broken_off_blocks_nobody() {
        let lane = Arc::new(Lane::default());
        let broken = lane.push(1, 1).expect("a free turn");
        drop(broken);
        let mut next = lane.push(2, 1).expect("its place");
        assert_eq!(next.take(ANY, weightless), Some(vec![1, 2]));
    }

    /// Work is taken once, and none is left when everybody has gone.
    #[test]
    fn nothing_is_left_waiting() {
        let lane = Arc::new(Lane::default());
        let taken = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for worker in 0..4_u64 {
                let (lane, taken) = (lane.clone(), &taken);
                scope.spawn(move || {
                    for number in 0..5_000 {
                        let Some(mut turn) = lane.push(worker * 5_000 + number, 2) else {
                            continue;
                        };
                        while let Some(work) = turn.take(7, |_| 1) {
                            taken.lock().expect("no panic").extend(work);
                        }
                    }
                });
            }
        });
        let mut taken = taken.into_inner().expect("no panic");
        taken.sort_unstable();
        assert!(taken.into_iter().eq(0..20_000));
    }
}
