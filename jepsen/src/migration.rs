//! No acknowledged write is missing after any step of a migration (I9).
//!
//! A quick necessary condition, linear but for sorting, that names the step: every read called after a step must have
//! a value whose write was not certainly over before a later acknowledged write began, itself acknowledged before the
//! read was called. Keys that are appended to must have every element that was acknowledged before the read. The
//! linearizability checker judges all of it; this one says after which step it went wrong, and refuses to be content
//! with a run in which nobody looked after the last step.

use std::collections::{BTreeMap, HashSet};

use crate::events::{Event, Happening};
use crate::history::{Action, Operation, Outcome};
use crate::verdict::{Anomaly, Verdict, Violation};

/// Judges `history` by the migration steps among `events`. Unknown without a step; if a key with acknowledged writes
/// was not read after both its last write and the last step; and for keys that mix appends with other writes.
pub fn check(history: &[Operation], events: &[Event]) -> Verdict {
    let mut steps: Vec<&Event> = events.iter().filter(|event| is_step(event)).collect();
    steps.sort_by_key(|event| event.at_ns);
    let Some(last_step) = steps.last() else {
        return Verdict::Unknown("no migration made a step".to_owned());
    };
    let mut by_key: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        by_key.entry(operation.key()).or_default().push(operation);
    }
    let mut verdict = Verdict::Ok;
    for (key, operations) in &by_key {
        let key = Key::new(key, operations);
        verdict = verdict
            .and(key.check(&steps))
            .and(key.is_read_after(last_step.at_ns));
    }
    verdict
}

fn is_step(event: &Event) -> bool {
    matches!(event.what, Happening::MigrationStep { .. })
}

/// One key's operations.
struct Key<'a> {
    name: &'a str,
    reads: Vec<(&'a Operation, Option<&'a str>)>,
    /// Acknowledged writes with the time of their return, in its order; with the latest call up to each.
    acked: Vec<(u64, &'a Operation)>,
    latest_call: Vec<&'a Operation>,
    /// Everything that may have written a value (`None`: absence).
    makers: BTreeMap<Option<&'a str>, Vec<&'a Operation>>,
    appends: bool,
    overwrites: bool,
}

impl<'a> Key<'a> {
    fn new(name: &'a str, operations: &[&'a Operation]) -> Self {
        let mut key = Self {
            name,
            reads: Vec::new(),
            acked: Vec::new(),
            latest_call: Vec::new(),
            makers: BTreeMap::new(),
            appends: false,
            overwrites: false,
        };
        for operation in operations {
            let action = operation.action();
            if let Action::Get(Outcome::Ok(reply)) = action {
                key.reads.push((operation, reply.value.as_deref()));
            }
            if !action.is_effective_write() && !action.is_info() {
                continue;
            }
            let made = match action {
                Action::Get(_) => continue,
                Action::Put { value, .. } | Action::Cas { value, .. } => Some(value.as_str()),
                Action::Append { element, .. } => Some(element.as_str()),
                Action::Delete(_) => None,
            };
            key.makers.entry(made).or_default().push(operation);
            let appends = matches!(action, Action::Append { .. });
            key.appends |= appends;
            key.overwrites |= !appends;
            if let Some(ended) = operation.ended_ns() {
                key.acked.push((ended, operation));
            }
        }
        key.acked.sort_by_key(|(ended, _)| *ended);
        for (_, write) in &key.acked {
            let latest = key
                .latest_call
                .last()
                .filter(|latest| latest.call_ns() >= write.call_ns());
            key.latest_call.push(latest.copied().unwrap_or(write));
        }
        key
    }

    fn check(&self, steps: &[&Event]) -> Verdict {
        if self.appends && self.overwrites {
            return Verdict::Unknown(format!("key {} mixes appends with other writes", self.name));
        }
        let mut found = Vec::new();
        for (read, value) in &self.reads {
            let Some(step) = steps[..steps.partition_point(|step| step.at_ns < read.call_ns())].last() else {
                continue;
            };
            let missing = if self.appends {
                self.missing_element(read, *value)
            } else {
                self.missing_write(read, *value)
            };
            if let Some(missing) = missing {
                found.push(self.violation(missing, read, step));
            }
        }
        Verdict::of(found)
    }

    /// How many acknowledged writes returned before `at_ns`.
    fn acked_before(&self, at_ns: u64) -> usize {
        self.acked.partition_point(|(ended, _)| *ended < at_ns)
    }

    /// An acknowledged write that `read` must have seen, or something after it, and did not.
    fn missing_write(&self, read: &Operation, value: Option<&str>) -> Option<&'a Operation> {
        let newest = self.latest_call[..self.acked_before(read.call_ns())].last()?;
        let mut makers = self.makers.get(&value).into_iter().flatten();
        let possible = |maker: &&&Operation| {
            maker.call_ns() <= read.return_ns().unwrap_or(u64::MAX)
                && maker.ended_ns().is_none_or(|ended| ended >= newest.call_ns())
        };
        makers.find(possible).is_none().then_some(*newest)
    }

    /// An acknowledged append whose element `read` does not have.
    fn missing_element(&self, read: &Operation, value: Option<&str>) -> Option<&'a Operation> {
        let elements: HashSet<&str> = value.into_iter().flat_map(|list| list.split(',')).collect();
        let due = &self.acked[..self.acked_before(read.call_ns())];
        let lacks = |append: &&Operation| match append.action() {
            Action::Append { element, .. } => !elements.contains(element.as_str()),
            _ => false,
        };
        due.iter().map(|(_, append)| *append).find(lacks)
    }

    fn violation(&self, missing: &Operation, read: &Operation, step: &Event) -> Violation {
        let after = match &step.what {
            Happening::MigrationStep {
                migration,
                shard,
                state,
            } => {
                format!(
                    "migration {migration} of shard {shard} entered {state:?} at {} ns",
                    step.at_ns
                )
            }
            _ => format!("the event at {} ns", step.at_ns),
        };
        let what = format!("an acknowledged write is missing from a read; the last step before was: {after}");
        Violation::new(Anomaly::LostInMigration, format!("key {}", self.name), what).shown_by([missing, read])
    }

    /// Whether somebody looked, late enough.
    fn is_read_after(&self, last_step_ns: u64) -> Verdict {
        let Some((last_ack, _)) = self.acked.last() else {
            return Verdict::Ok;
        };
        let due = last_step_ns.max(*last_ack);
        if self.reads.iter().any(|(read, _)| read.call_ns() > due) {
            return Verdict::Ok;
        }
        Verdict::Unknown(format!(
            "key {} was not read after the last step and its last write",
            self.name
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::MigrationState;
    use crate::generate::{Recipe, generate};
    use crate::testing::{append, delete, get, put, put_unknown, read_list};

    fn step(at_ns: u64, state: MigrationState) -> Event {
        Event {
            at_ns,
            what: Happening::MigrationStep {
                migration: 4,
                shard: 2,
                state,
            },
        }
    }

    fn events() -> [Event; 2] {
        [
            step(10, MigrationState::Switching),
            step(20, MigrationState::Removing),
        ]
    }

    #[test]
    fn generated_histories_are_good() {
        for seed in 0..50 {
            for mix in [[5, 3, 2, 1, 0], [5, 0, 0, 0, 5]] {
                let history = generate(
                    Recipe {
                        mix,
                        ..Recipe::default()
                    },
                    seed,
                );
                let verdict = check(&history, &events());
                assert!(verdict.violations().is_empty(), "seed {seed}: {verdict}");
            }
        }
    }

    #[test]
    fn an_acknowledged_write_is_there_after_every_step() {
        let history = [
            put("k", "a", 0, 5),
            get("k", Some("a"), 12, 13),
            get("k", Some("a"), 22, 23),
        ];
        assert!(check(&history, &events()).is_ok());
        let overwritten = [
            put("k", "a", 0, 5),
            put_unknown("k", "b", 6),
            get("k", Some("b"), 22, 23),
        ];
        assert!(check(&overwritten, &events()).is_ok());
        let deleted = [
            put("k", "a", 0, 5),
            delete("k", None, 4, 9),
            get("k", None, 22, 23),
        ];
        assert!(check(&deleted, &events()).is_ok());
    }

    #[test]
    fn a_lost_write_names_the_step() {
        let history = [
            put("k", "a", 0, 2),
            put("k", "b", 3, 5),
            get("k", Some("a"), 12, 13),
            get("k", Some("b"), 22, 23),
        ];
        let verdict = check(&history, &events());
        let [violation] = verdict.violations() else {
            panic!("{verdict}")
        };
        assert_eq!(violation.anomaly, Anomaly::LostInMigration);
        assert!(
            violation
                .what
                .contains("migration 4 of shard 2 entered Switching"),
            "{violation}"
        );
        assert_eq!(violation.operations.len(), 2);
        let gone = [put("k", "a", 0, 2), get("k", None, 22, 23)];
        assert!(check(&gone, &events()).violations()[0].what.contains("Removing"));
    }

    #[test]
    fn a_lost_element_is_found() {
        let history = [
            append("l", "1", 0, 2),
            append("l", "2", 3, 5),
            read_list("l", &["1"], 22, 23),
        ];
        assert_eq!(
            check(&history, &events()).violations()[0].anomaly,
            Anomaly::LostInMigration
        );
    }

    #[test]
    fn nobody_looked_is_unknown() {
        assert!(matches!(
            check(&[put("k", "a", 0, 5), get("k", Some("a"), 12, 13)], &events()),
            Verdict::Unknown(_)
        ));
        assert!(matches!(check(&[put("k", "a", 0, 5)], &[]), Verdict::Unknown(_)));
    }
}
