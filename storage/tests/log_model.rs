//! Random operations on a few groups against the simplest model of a log: a vector of entries.
//!
//! After each operation the handles must show what the model shows; after a graceful stop and a
//! reopening so must the disk.

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod log_support;

use std::collections::BTreeMap;

use bytes::Bytes;
use log_support::*;
use proptest::prelude::*;
use storage::log::{GroupLog, LogGroup, LogHub, LogRecord, LogWriter};
use storage::sim_disk::SimDisk;

const GROUPS: u64 = 4;

#[derive(Debug, Clone)]
enum Operation {
    Append {
        group: u64,
        count: u64,
        payload_bytes: usize,
    },
    Truncate {
        group: u64,
        kept: u64,
    },
    Purge {
        group: u64,
        upto: u64,
    },
    Vote {
        group: u64,
        vote: u8,
    },
    Committed {
        group: u64,
        mark: u8,
    },
    Destroy {
        group: u64,
    },
    Step,
    Reopen,
}

fn operation() -> impl Strategy<Value = Operation> {
    let group = 0..GROUPS;
    prop_oneof![
        6 => (group.clone(), 0..9u64, 0..400usize)
            .prop_map(|(group, count, payload_bytes)| Operation::Append { group, count, payload_bytes }),
        2 => (group.clone(), 0..12u64).prop_map(|(group, kept)| Operation::Truncate { group, kept }),
        2 => (group.clone(), 0..14u64).prop_map(|(group, upto)| Operation::Purge { group, upto }),
        1 => (group.clone(), any::<u8>()).prop_map(|(group, vote)| Operation::Vote { group, vote }),
        1 => (group.clone(), any::<u8>()).prop_map(|(group, mark)| Operation::Committed { group, mark }),
        1 => group.prop_map(|group| Operation::Destroy { group }),
        5 => Just(Operation::Step),
        1 => Just(Operation::Reopen),
    ]
}

/// One group as a vector.
#[derive(Debug, Default, Clone)]
struct Model {
    entries: Vec<LogRecord>,
    vote: Option<Bytes>,
    committed: Option<Bytes>,
    purged: Option<(u64, Bytes)>,
}

impl Model {
    fn next_index(&self) -> u64 {
        let last = self.entries.last().map(|entry| entry.index);
        last.or(self.purged.as_ref().map(|(upto, _)| *upto))
            .map_or(1, |last| last + 1)
    }

    /// An index `steps` after the purged ones: where truncations and purges aim.
    fn index_at(&self, steps: u64) -> u64 {
        self.purged.as_ref().map_or(0, |(upto, _)| *upto) + steps
    }

    fn check(&self, log: &GroupLog) {
        assert_eq!(all(log), self.entries);
        assert_eq!(log.last().unwrap(), self.entries.last().cloned());
        assert_eq!(log.first_index(), self.entries.first().map(|entry| entry.index));
        assert_eq!((log.vote(), log.committed(), log.purged()), {
            let Model {
                vote,
                committed,
                purged,
                ..
            } = self.clone();
            (vote, committed, purged)
        });
    }
}

/// The log under test beside its models.
struct Run {
    disk: SimDisk,
    hub: LogHub,
    writer: LogWriter,
    models: BTreeMap<u64, Model>,
    told: Vec<Told>,
    tag: u64,
}

impl Run {
    fn new() -> Run {
        let disk = SimDisk::new(1);
        let (hub, writer) = open_small(&disk);
        Run {
            disk,
            hub,
            writer,
            models: BTreeMap::new(),
            told: Vec::new(),
            tag: 0,
        }
    }

    fn done(&mut self) -> storage::log::Done {
        let told = Told::default();
        self.told.push(told.clone());
        told.done()
    }

    fn perform(self, operation: &Operation) -> Run {
        match *operation {
            Operation::Step => self.stepped(),
            Operation::Reopen => self.reopened(),
            Operation::Append { group, .. }
            | Operation::Truncate { group, .. }
            | Operation::Purge { group, .. }
            | Operation::Vote { group, .. }
            | Operation::Committed { group, .. }
            | Operation::Destroy { group } => self.changed(group, operation),
        }
    }

    fn stepped(mut self) -> Run {
        self.writer.step();
        self
    }

    fn reopened(self) -> Run {
        let Run {
            disk,
            hub,
            writer,
            models,
            told,
            tag,
        } = self;
        shut(hub, writer);
        assert!(
            told.iter().all(Told::is_ok),
            "a graceful stop makes everything durable"
        );
        let (hub, writer) = open_small(&disk);
        // A group that holds nothing has no record, so it is not found again.
        let found: Vec<u64> = hub.groups().iter().map(|group| group.0).collect();
        assert!(found.iter().all(|group| models.contains_key(group)), "{found:?}");
        Run {
            disk,
            hub,
            writer,
            models,
            told: Vec::new(),
            tag,
        }
    }

    fn changed(mut self, group: u64, operation: &Operation) -> Run {
        let log = self.hub.group(LogGroup(group));
        self.tag += 1;
        let (tag, done) = (self.tag, self.done());
        let model = self.models.entry(group).or_default();
        match *operation {
            Operation::Append {
                count, payload_bytes, ..
            } => {
                let first = model.next_index();
                let payload = format!("{tag}:{}", "y".repeat(payload_bytes));
                let appended: Vec<_> = (first..first + count)
                    .map(|at| entry(at, payload.clone()))
                    .collect();
                model.entries.extend(appended.clone());
                log.append(appended, done);
            }
            Operation::Truncate { kept, .. } => {
                let kept = (kept > 0).then(|| model.index_at(kept));
                model
                    .entries
                    .retain(|entry| kept.is_some_and(|kept| entry.index <= kept));
                log.truncate_after(kept, done);
            }
            Operation::Purge { upto, .. } => {
                // Also below the purged ones, where it must change nothing.
                let upto = model.index_at(upto).saturating_sub(2);
                if model.purged.as_ref().is_none_or(|(earlier, _)| *earlier <= upto) {
                    model.entries.retain(|entry| entry.index > upto);
                    model.purged = Some((upto, Bytes::from(format!("mark {tag}"))));
                }
                log.purge(upto, Bytes::from(format!("mark {tag}")), done);
            }
            Operation::Vote { vote, .. } => {
                model.vote = Some(Bytes::copy_from_slice(&[vote]));
                log.save_vote(Bytes::copy_from_slice(&[vote]), done);
            }
            Operation::Committed { mark, .. } => {
                model.committed = Some(Bytes::copy_from_slice(&[mark]));
                log.save_committed(Bytes::copy_from_slice(&[mark]));
                self.told.pop();
            }
            Operation::Destroy { .. } => {
                self.models.remove(&group);
                log.destroy(done);
            }
            Operation::Step | Operation::Reopen => {}
        }
        self
    }

    fn check(&self) {
        for (group, model) in &self.models {
            model.check(&self.hub.group(LogGroup(*group)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_shows_what_the_model_shows(operations in prop::collection::vec(operation(), 1..120)) {
        let mut run = Run::new();
        for operation in &operations {
            run = run.perform(operation);
            run.check();
        }
        run.reopened().check();
    }
}
