//! What can be wrong between two ends of the network.
//!
//! Conditions have names, so that two faults at a time can each be lifted without the other. What holds for one way is
//! the sum of all conditions on it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Who sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// The harness's clients, all of them.
    Clients,
    /// The host with this number; the first is 1.
    Host(usize),
}

/// From whom to whom.
pub type Way = (End, End);

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What happens to what is sent.
    pub effect: Effect,
    /// On which ways.
    pub ways: BTreeSet<Way>,
}

/// What happens to what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It disappears in silence.
    Block,
    /// Connections that carry it are reset, and new ones are refused.
    Reset,
    /// So many packets of 1,000 are lost.
    Lose {
        /// Of 1,000.
        permille: u32,
    },
    /// So many packets of 1,000 are held back until others overtook them.
    Reorder {
        /// Of 1,000.
        permille: u32,
    },
    /// It arrives late, by `delay` and up to `jitter` more.
    Delay {
        /// At least.
        delay: Duration,
        /// Drawn anew for each piece.
        jitter: Duration,
    },
    /// No more than so much arrives in a second.
    Limit {
        /// Bytes in a second.
        bytes_per_second: u64,
    },
}

/// Both ways between each of `left` and each of `right`.
pub fn both_ways(left: &[End], right: &[End]) -> BTreeSet<Way> {
    let mut ways = ways_between(left, right);
    ways.extend(ways_between(right, left));
    ways
}

/// From each of `senders` to each of `receivers`, but not to itself.
pub fn ways_between(senders: &[End], receivers: &[End]) -> BTreeSet<Way> {
    let pairs = senders
        .iter()
        .flat_map(|from| receivers.iter().map(move |to| (*from, *to)));
    pairs.filter(|(from, to)| from != to).collect()
}

/// Everything that is wrong at a time, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions(pub(super) BTreeMap<String, Condition>);

/// What all conditions together do to one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Treatment {
    pub(super) blocked: bool,
    pub(super) reset: bool,
    pub(super) lost_permille: u32,
    pub(super) reordered_permille: u32,
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
    pub(super) bytes_per_second: Option<u64>,
}

impl Conditions {
    /// The sum of the conditions on `way`.
    pub(super) fn on(&self, way: Way) -> Treatment {
        let mut sum = Treatment::default();
        for condition in self.0.values().filter(|known| known.ways.contains(&way)) {
            sum.add(condition.effect);
        }
        sum
    }

    /// The ways with an effect that `picks`.
    pub(super) fn ways_with(&self, picks: impl Fn(Effect) -> bool) -> BTreeSet<Way> {
        let picked = self.0.values().filter(|known| picks(known.effect));
        picked.flat_map(|known| known.ways.iter().copied()).collect()
    }
}

impl Treatment {
    fn add(&mut self, effect: Effect) {
        match effect {
            Effect::Block => self.blocked = true,
            Effect::Reset => self.reset = true,
            Effect::Lose { permille } => self.lost_permille = (self.lost_permille + permille).min(1_000),
            Effect::Reorder { permille } => {
                self.reordered_permille = (self.reordered_permille + permille).min(1_000);
            }
            Effect::Delay { delay, jitter } => {
                self.delay += delay;
                self.jitter += jitter;
            }
            Effect::Limit { bytes_per_second } => {
                let narrowest = self.bytes_per_second.unwrap_or(u64::MAX);
                self.bytes_per_second = Some(narrowest.min(bytes_per_second.max(1)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(numbers: &[usize]) -> Vec<End> {
        numbers.iter().map(|number| End::Host(*number)).collect()
    }

    #[test]
    fn conditions_add_up_on_a_way_and_leave_others_alone() {
        let late = Effect::Delay {
            delay: Duration::from_millis(5),
            jitter: Duration::from_millis(1),
        };
        let named = |name: &str, effect, ways| (name.to_owned(), Condition { effect, ways });
        let conditions = Conditions(BTreeMap::from([
            named("cut", Effect::Block, ways_between(&hosts(&[1]), &hosts(&[2]))),
            named("late", late, both_ways(&hosts(&[1]), &hosts(&[2]))),
            named("later", late, both_ways(&hosts(&[1]), &hosts(&[2]))),
        ]));
        let there = conditions.on((End::Host(1), End::Host(2)));
        assert!(there.blocked);
        assert_eq!(there.delay, Duration::from_millis(10));
        let back = conditions.on((End::Host(2), End::Host(1)));
        assert!(!back.blocked);
        assert_eq!(back.jitter, Duration::from_millis(2));
        assert_eq!(conditions.on((End::Clients, End::Host(2))), Treatment::default());
    }

    #[test]
    fn nobody_is_cut_off_from_itself() {
        assert_eq!(both_ways(&hosts(&[1, 2]), &hosts(&[2, 3])).len(), 6);
    }
}
