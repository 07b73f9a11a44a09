//! Which keys are in use: a few of each workload at a time, given up for fresh ones after so many operations or
//! unknown outcomes, because the cost of checking a key grows with both.
//!
//! First bytes go round the printable characters, so that keys fall on as many shards as such keys can reach. A range
//! for scans lies around the end of a shard: half of its keys sort just before it, half just after. Of two ranges at
//! one place the younger lies within the elder, so that a scan meets those few that are younger, never all that were.

use std::collections::BTreeMap;

use client::KeyRange;

use super::name::WorkloadName;
use super::plan::WorkloadPlan;
use super::used::{Used, UsedRange};
use crate::generate::Chance;

const LETTER_MIN: u8 = b'!';
const LETTERS: u64 = 94;
/// What keys begin with.
pub(super) fn letters() -> impl Iterator<Item = String> {
    let letters = (u64::from(LETTER_MIN)..u64::from(LETTER_MIN) + LETTERS)
        .filter_map(|letter| u8::try_from(letter).ok());
    letters.map(|letter| char::from(letter).to_string())
}

/// Elements of a set.
const ELEMENTS_MAX: usize = 48;
/// Keys on each side of a shard's end.
const SIDE_KEYS: usize = 12;

/// A key, a set or a scanned range in use.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) workload: WorkloadName,
    /// The key; of a set the prefix of its elements; of a scanned range its number.
    pub(super) name: String,
    /// What a scan is asked for; `None`: not scanned.
    pub(super) range: Option<KeyRange>,
    /// The keys of a range.
    pub(super) members: Vec<String>,
    operations: usize,
    unknown: usize,
}

/// All keys in use.
#[derive(Debug)]
pub(super) struct Keys {
    operations_max: usize,
    unknown_max: usize,
    live_max: usize,
    live: BTreeMap<WorkloadName, Vec<Place>>,
    made: u64,
    used: Used,
}

impl Keys {
    pub(super) fn new(plan: &WorkloadPlan) -> Self {
        Self {
            operations_max: plan.key_operations_max.max(1),
            unknown_max: plan.key_unknown_max.max(1),
            live_max: plan.keys_live.max(1),
            live: BTreeMap::new(),
            made: 0,
            used: Used::default(),
        }
    }

    /// Draws a place for one operation of `workload`, and counts that. `end_of` tells where the shard of a key ends.
    pub(super) fn draw(
        &mut self,
        workload: WorkloadName,
        chance: &mut Chance,
        end_of: impl Fn(&str) -> Option<String>,
    ) -> Place {
        let live = u64::try_from(self.live_max).unwrap_or(u64::MAX);
        let at = usize::try_from(chance.below(live)).unwrap_or(0);
        let count = self.live.get(&workload).map_or(0, Vec::len);
        if at >= count {
            let place = self.fresh(workload, end_of);
            self.live.entry(workload).or_default().push(place);
        } else if self.is_worn(&self.live[&workload][at]) {
            let place = self.fresh(workload, end_of);
            let worn = self
                .live
                .get_mut(&workload)
                .map(|live| std::mem::replace(&mut live[at], place));
            worn.into_iter().for_each(|worn| self.give_up(worn));
        }
        let places = self.live.entry(workload).or_default();
        let last = places.len() - 1;
        let place = &mut places[at.min(last)];
        place.operations += 1;
        place.clone()
    }

    /// A new element of the set `name`; `None`: it is full, or was given up.
    pub(super) fn add_element(&mut self, name: &str) -> Option<String> {
        let sets = self.live.get_mut(&WorkloadName::Set)?;
        let set = sets.iter_mut().find(|set| set.name == name)?;
        if set.members.len() >= ELEMENTS_MAX {
            return None;
        }
        let element = format!("{name}{:03}", set.members.len());
        set.members.push(element.clone());
        Some(element)
    }

    /// Counts an unknown outcome at the place `name`.
    pub(super) fn count_unknown(&mut self, workload: WorkloadName, name: &str) {
        let places = self.live.entry(workload).or_default();
        if let Some(place) = places.iter_mut().find(|place| place.name == name) {
            place.unknown += 1;
        }
    }

    pub(super) fn used(&mut self) -> &mut Used {
        &mut self.used
    }

    /// All that was touched, those in use included.
    pub(super) fn into_used(mut self) -> Used {
        for place in std::mem::take(&mut self.live).into_values().flatten() {
            let live = place.range.clone();
            self.give_up(place);
            if live.is_some()
                && let Some(range) = self.used.ranges.last_mut()
            {
                range.live = true;
            }
        }
        self.used
    }

    fn is_worn(&self, place: &Place) -> bool {
        place.operations >= self.operations_max
            || place.unknown >= self.unknown_max
            || (place.workload == WorkloadName::Set && place.members.len() >= ELEMENTS_MAX)
    }

    fn give_up(&mut self, place: Place) {
        let Place {
            workload,
            name,
            range,
            members,
            ..
        } = place;
        match range {
            Some(range) => self.used.ranges.push(UsedRange {
                workload,
                range,
                keys: members,
                live: false,
            }),
            None if workload == WorkloadName::Bank => {
                self.used.banks.insert(name);
            }
            None => {
                self.used.keys.entry(workload).or_default().insert(name);
            }
        }
    }

    fn fresh(&mut self, workload: WorkloadName, end_of: impl Fn(&str) -> Option<String>) -> Place {
        let number = self.made;
        self.made += 1;
        let letter = letter(number);
        let mut place = Place {
            workload,
            name: format!("{letter}/{workload}-{number}"),
            range: None,
            members: Vec::new(),
            operations: 0,
            unknown: 0,
        };
        match workload {
            WorkloadName::Set => {
                place.name.push('.');
                place.range = Some(KeyRange::prefix(place.name.clone()));
            }
            WorkloadName::Scan => {
                let key = letter.to_string();
                let end = end_of(&key).filter(|end| can_surround(end)).unwrap_or(key);
                (place.members, place.range) = surround(&end, number);
            }
            // The accounts' keys begin with it.
            WorkloadName::Bank => place.name.push('.'),
            WorkloadName::Register | WorkloadName::Append | WorkloadName::Counter | WorkloadName::Lease => {}
        }
        place
    }
}

/// First characters in an order that soon visits all parts of the key space. The very first is left out: nothing
/// printable sorts before it.
fn letter(number: u64) -> char {
    let step = u8::try_from(1 + number * 37 % (LETTERS - 1)).unwrap_or(1);
    char::from(LETTER_MIN + step)
}

fn can_surround(end: &str) -> bool {
    end.bytes().all(|byte| byte.is_ascii_graphic())
        && end.bytes().last().is_some_and(|last| last > LETTER_MIN)
}

/// Keys just before and just after `end`, and the range that has them.
fn surround(end: &str, number: u64) -> (Vec<String>, Option<KeyRange>) {
    let (stem, last) = end.split_at(end.len() - 1);
    let before = last.bytes().next().map_or(LETTER_MIN, |last| last - 1);
    let low = format!("{stem}{}~/scan-{number:08}-", char::from(before));
    let high = format!("{end}!/scan-{:08}-", 99_999_999 - number.min(99_999_999));
    let side = |prefix: &str| {
        let prefix = prefix.to_owned();
        (0..SIDE_KEYS).map(move |at| format!("{prefix}{at:02}"))
    };
    let members = side(&low).chain(side(&high)).collect();
    let range = KeyRange {
        start: low.into(),
        end: format!("{high}~").into(),
    };
    (members, Some(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(plan: &WorkloadPlan) -> (Keys, Chance) {
        (Keys::new(plan), Chance::new(7))
    }

    #[test]
    fn keys_reach_every_printable_letter() {
        let letters: std::collections::BTreeSet<char> = (0..93).map(letter).collect();
        assert_eq!(letters.len(), 93);
        assert_eq!((letters.first(), letters.last()), (Some(&'"'), Some(&'~')));
    }

    #[test]
    fn a_key_is_given_up_after_so_many_operations_or_unknowns() {
        let plan = WorkloadPlan {
            keys_live: 1,
            key_operations_max: 10,
            key_unknown_max: 2,
            ..WorkloadPlan::default()
        };
        let (mut keys, mut chance) = keys(&plan);
        let mut draw = |keys: &mut Keys| keys.draw(WorkloadName::Register, &mut chance, |_| None).name;
        let first = draw(&mut keys);
        assert!((1..10).all(|_| draw(&mut keys) == first));
        let second = draw(&mut keys);
        assert_ne!(second, first);
        keys.count_unknown(WorkloadName::Register, &second);
        assert_eq!(draw(&mut keys), second);
        keys.count_unknown(WorkloadName::Register, &second);
        assert_ne!(draw(&mut keys), second);
        assert_eq!(keys.into_used().keys[&WorkloadName::Register].len(), 3);
    }

    #[test]
    fn a_scanned_range_lies_around_the_end_of_a_shard() {
        let (mut keys, mut chance) = keys(&WorkloadPlan::default());
        let end = "K/register-3".to_owned();
        let place = keys.draw(WorkloadName::Scan, &mut chance, |_| Some(end.clone()));
        let before = place.members.iter().filter(|key| **key < end).count();
        assert_eq!((before, place.members.len()), (SIDE_KEYS, 2 * SIDE_KEYS));
        let range = place.range.clone().unwrap();
        let within = |key: &String| *key.as_bytes() >= range.start[..] && *key.as_bytes() < range.end[..];
        assert!(place.members.iter().all(within), "{place:?}");
        let (younger, _) = surround(&end, 9);
        assert!(younger.iter().all(within), "{younger:?}");
        assert!(
            !surround(&end, 0)
                .0
                .iter()
                .any(|elder| within(elder) && place.name.ends_with("-1"))
        );
    }

    #[test]
    fn a_set_is_given_up_when_it_is_full() {
        let plan = WorkloadPlan {
            keys_live: 1,
            ..WorkloadPlan::default()
        };
        let (mut keys, mut chance) = keys(&plan);
        let set = keys.draw(WorkloadName::Set, &mut chance, |_| None).name;
        let elements: Vec<String> = std::iter::from_fn(|| keys.add_element(&set)).collect();
        assert_eq!(elements.len(), ELEMENTS_MAX);
        assert!(elements.iter().all(|element| element.starts_with(&set)));
        assert_ne!(keys.draw(WorkloadName::Set, &mut chance, |_| None).name, set);
        let used = keys.into_used();
        assert_eq!(used.ranges[0].keys.len(), ELEMENTS_MAX);
        assert_eq!((used.ranges[0].live, used.ranges[1].live), (false, true));
    }
}
