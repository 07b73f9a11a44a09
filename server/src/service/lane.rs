//! Work for one shard that waits for its turn.
//!
//! A shard has few turns at a time. Work that comes while all are taken waits, and the first turn that comes free takes
//! all of it at once: batches form under load, across connections, and nothing waits without it.
//!
//! How many turns there are follows from how long the shortest of late ones took: as many as begin [`APART`] from each
//! other within it. Hosts on one machine or in one rack have one; where a quorum is far away nothing has to wait for an
//! answer that takes long to come. The shortest, for the longer ones tell of load, not of distance.
//!
//! What must hold: while work waits, some turn is under way. A turn therefore ends under the lock under which it finds
//! that nothing waits.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

/// Work that waits for a turn waits about as long at most, if turns take their time.
const APART: Duration = Duration::from_millis(2);
/// Turns of one lane.
const TURNS_MAX: u128 = 64;
/// The shortest turn is forgotten by this part of it a turn.
const FORGOTTEN_PART: u32 = 64;

/// A queue and the turns that work it off.
#[derive(Debug)]
pub(crate) struct Lane<T>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T> {
    waiting: Vec<T>,
    turns: u128,
    /// How long the shortest of late turns took.
    shortest: Duration,
}

impl<T> State<T> {
    fn turns_max(&self) -> u128 {
        (1 + self.shortest.as_micros() / APART.as_micros()).min(TURNS_MAX)
    }

    fn took(&mut self, time: Duration) {
        let longer = self.shortest + self.shortest / FORGOTTEN_PART + Duration::from_micros(1);
        self.shortest = time.min(longer);
    }
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self(Mutex::new(State {
            waiting: Vec::new(),
            turns: 0,
            shortest: Duration::ZERO,
        }))
    }
}

impl<T> Lane<T> {
    /// Adds work; a turn to be taken by the caller, unless all are taken. Work that is `refused` takes no time and never
    /// waits.
    pub(crate) fn push(self: &Arc<Self>, work: T, refused: bool) -> Option<Turn<T>> {
        let mut state = self.lock();
        state.waiting.push(work);
        if state.turns >= state.turns_max() && !refused {
            return None;
        }
        state.turns += 1;
        Some(Turn {
            lane: Some(self.clone()),
            began: None,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().expect("no holder of a lane's state panics")
    }
}

/// The right to work.
#[derive(Debug)]
pub(crate) struct Turn<T> {
    /// None once it has ended.
    lane: Option<Arc<Lane<T>>>,
    began: Option<Instant>,
}

impl<T> Turn<T> {
    /// What has waited, in the order of its coming: as much as weighs no more than `weight_max`, but one at least.
    /// `None` when nothing waits; the turn has ended then.
    pub(crate) fn take(&mut self, weight_max: u64, weight: impl Fn(&T) -> u64) -> Option<Vec<T>> {
        let lane = self.lane.as_ref()?;
        let now = Instant::now();
        let mut state = lane.lock();
        if let Some(began) = self.began.replace(now) {
            state.took(now - began);
        }
        if state.waiting.is_empty() {
            state.turns -= 1;
            drop(state);
            self.lane = None;
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
        if let Some(lane) = self.lane.take() {
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

    /// A lane whose turns take so long.
    fn lane(shortest: Duration) -> Arc<Lane<u64>> {
        let lane = Arc::new(Lane::default());
        lane.lock().shortest = shortest;
        lane
    }

    #[test]
    fn a_turn_takes_what_came_while_all_were_taken() {
        let lane = lane(APART);
        let mut first = lane.push(1, false).expect("a free turn");
        assert_eq!(first.take(ANY, weightless), Some(vec![1]));
        let mut second = lane.push(2, false).expect("another");
        assert!(lane.push(3, false).is_none() && lane.push(4, false).is_none());
        assert_eq!(second.take(ANY, weightless), Some(vec![2, 3, 4]));
        assert_eq!(first.take(ANY, weightless), None);
        // The place of the first is free; it is not worked off twice.
        assert_eq!(first.take(ANY, weightless), None);
        lane.lock().shortest = APART;
        let mut third = lane.push(5, false).expect("the place of the first");
        assert!(lane.push(6, false).is_none());
        assert!(lane.push(7, true).is_some(), "what is refused never waits");
        assert_eq!(third.take(ANY, weightless), Some(vec![5, 6, 7]));
    }

    #[test]
    fn a_turn_takes_no_more_than_may_be_and_one_at_least() {
        let lane = lane(Duration::ZERO);
        let mut turn = lane.push(30, false).expect("a free turn");
        for work in [4, 5, 6, 1] {
            assert!(lane.push(work, false).is_none());
        }
        let mut take = || turn.take(10, |work| *work);
        assert_eq!(take(), Some(vec![30]));
        assert_eq!(take(), Some(vec![4, 5]));
        assert_eq!(take(), Some(vec![6, 1]));
        assert_eq!(take(), None);
    }

    #[test]
    fn a_turn_that_is_broken_off_blocks_nobody() {
        let lane = lane(Duration::ZERO);
        let broken = lane.push(1, false).expect("a free turn");
        drop(broken);
        let mut next = lane.push(2, false).expect("its place");
        assert_eq!(next.take(ANY, weightless), Some(vec![1, 2]));
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_as_many_turns_as_fit_into_the_shortest() {
        let lane = lane(Duration::ZERO);
        for (millis, turns) in [(40, 1), (40, 1), (1, 1)] {
            let mut turn = lane.push(0, false).expect("a free turn");
            assert_eq!(lane.lock().turns_max(), turns);
            turn.take(ANY, weightless);
            tokio::time::advance(Duration::from_millis(millis)).await;
            turn.take(ANY, weightless);
        }
        // Far away: once no turn is short any more, there are more of them, after some time.
        for _ in 0..2_000 {
            lane.lock().took(Duration::from_millis(40));
        }
        assert_eq!(lane.lock().turns_max(), 21);
        lane.lock().took(Duration::from_millis(3));
        assert_eq!(lane.lock().turns_max(), 2);
    }

    /// Work is taken once, and none is left when everybody has gone.
    #[test]
    fn nothing_is_left_waiting() {
        let lane = lane(APART);
        let taken = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for worker in 0..4_u64 {
                let (lane, taken) = (lane.clone(), &taken);
                scope.spawn(move || {
                    for number in 0..5_000 {
                        let Some(mut turn) = lane.push(worker * 5_000 + number, false) else {
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
