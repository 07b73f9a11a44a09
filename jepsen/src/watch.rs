//! Watches: every committed change of a shard once, in order, with no gap across a resume.
//!
//! Input are the lines that a watcher's client wrote (JSON lines, `WatchLine`) and the committed changes. Versions are
//! a shard's revisions; a watcher over several shards is judged for each apart. A watcher starts from a version, gets
//! events, may lose its stream and resume from a version, and says at its end up to where it should have seen all.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::verdict::{Anomaly, Verdict, Violation};

/// One committed change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The shard.
    pub shard: u64,
    /// The shard's revision that it made.
    pub version: u64,
    /// The key.
    pub key: String,
    /// The value; `None`: deleted.
    pub value: Option<String>,
}

/// What is known of the committed changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// All of them, as from a shard's log.
    All(Vec<Change>),
    /// At least these, as from acknowledged writes: others may have been committed too.
    AtLeast(Vec<Change>),
}

/// What happened to a watcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "watch", rename_all = "snake_case", deny_unknown_fields)]
pub enum WatchStep {
    /// It asked for everything from this version on, included; also after its stream was lost.
    From {
        /// The shard.
        shard: u64,
        /// The first version wanted.
        version: u64,
    },
    /// A change was delivered.
    Event(Change),
    /// It stopped, and should have been told of everything up to this version, included.
    Until {
        /// The shard.
        shard: u64,
        /// The last version that it must have.
        version: u64,
    },
}

/// One line of a watcher's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchLine {
    /// The watcher.
    pub watcher: u64,
    /// The prefix of the keys it watches.
    #[serde(default)]
    pub prefix: String,
    /// When, on the clock of the history.
    pub at_ns: u64,
    /// What happened.
    #[serde(flatten)]
    pub step: WatchStep,
}

/// Judges every watcher; its lines must be in order.
pub fn check(lines: &[WatchLine], committed: &Committed) -> Verdict {
    let (changes, all) = match committed {
        Committed::All(changes) => (changes, true),
        Committed::AtLeast(changes) => (changes, false),
    };
    let mut by_shard: BTreeMap<u64, BTreeMap<u64, &Change>> = BTreeMap::new();
    for change in changes {
        if by_shard
            .entry(change.shard)
            .or_default()
            .insert(change.version, change)
            .is_some()
        {
            return Verdict::Unknown(format!(
                "shard {}: two changes at version {}",
                change.shard, change.version
            ));
        }
    }
    let nothing = BTreeMap::new();
    let mut watchers: BTreeMap<(u64, u64), Watcher> = BTreeMap::new();
    let mut found = Vec::new();
    for line in lines {
        let shard = line.step.shard();
        let changes = by_shard.get(&shard).unwrap_or(&nothing);
        let watcher = watchers.entry((line.watcher, shard)).or_insert_with(|| Watcher {
            about: format!("watcher {} on shard {shard}", line.watcher),
            prefix: &line.prefix,
            changes,
            all,
            next: None,
            seen: BTreeSet::new(),
            ended: false,
        });
        found.extend(watcher.step(line));
    }
    let open = watchers.values().find(|watcher| !watcher.ended);
    let unknown = open.map(|watcher| Verdict::Unknown(format!("{} has no end", watcher.about)));
    Verdict::of(found).and(unknown.unwrap_or(Verdict::Ok))
}

impl WatchStep {
    fn shard(&self) -> u64 {
        match self {
            Self::From { shard, .. } | Self::Until { shard, .. } => *shard,
            Self::Event(change) => change.shard,
        }
    }
}

struct Watcher<'a> {
    about: String,
    prefix: &'a str,
    changes: &'a BTreeMap<u64, &'a Change>,
    all: bool,
    /// The first version not yet delivered or passed; `None` before the start.
    next: Option<u64>,
    seen: BTreeSet<u64>,
    ended: bool,
}

impl Watcher<'_> {
    fn step(&mut self, line: &WatchLine) -> Vec<Violation> {
        match &line.step {
            WatchStep::From { version, .. } => {
                let skipped = self.next.map_or(Vec::new(), |next| self.between(next, *version));
                // What is asked for again may come again.
                self.seen.retain(|seen| seen < version);
                self.next = Some(*version);
                self.gaps(
                    Anomaly::WatchResumeGap,
                    &skipped,
                    line.at_ns,
                    "the resume skipped",
                )
            }
            WatchStep::Event(change) => self.event(change, line.at_ns),
            WatchStep::Until { version, .. } => {
                self.ended = true;
                let skipped = self.between(self.next.unwrap_or(0), version + 1);
                self.gaps(
                    Anomaly::WatchGap,
                    &skipped,
                    line.at_ns,
                    "until its end the watcher was not told of",
                )
            }
        }
    }

    fn event(&mut self, change: &Change, at_ns: u64) -> Vec<Violation> {
        let version = change.version;
        let mut found = Vec::new();
        let violation = |anomaly, what: String| {
            Violation::new(anomaly, self.about.clone(), format!("{what} (at {at_ns} ns)"))
        };
        match self.changes.get(&version) {
            Some(known) if *known != change => {
                let (key, value) = (&known.key, &known.value);
                let what =
                    format!("version {version} was delivered as {change:?}, committed was {key} = {value:?}");
                found.push(violation(Anomaly::WatchPhantom, what));
            }
            None if self.all => {
                found.push(violation(
                    Anomaly::WatchPhantom,
                    format!("{change:?} was delivered and never committed"),
                ));
            }
            _ if !change.key.starts_with(self.prefix) => {
                found.push(violation(
                    Anomaly::WatchPhantom,
                    format!("key {} is not watched", change.key),
                ));
            }
            _ => {}
        }
        let next = self.next.unwrap_or(0);
        if self.seen.contains(&version) {
            found.push(violation(
                Anomaly::WatchDuplicate,
                format!("version {version} was delivered twice"),
            ));
        } else if version < next {
            let what = format!("version {version} was delivered when {next} was the first that could come");
            found.push(violation(Anomaly::WatchOutOfOrder, what));
        } else {
            let skipped = self.between(next, version);
            found.extend(self.gaps(Anomaly::WatchGap, &skipped, at_ns, "the stream skipped"));
        }
        self.seen.insert(version);
        self.next = Some(next.max(version + 1));
        found
    }

    /// Committed versions of watched keys from `from` up to `to`, excluded.
    fn between(&self, from: u64, to: u64) -> Vec<u64> {
        let range = self.changes.range(from..to.max(from));
        range
            .filter(|(_, change)| change.key.starts_with(self.prefix))
            .map(|(version, _)| *version)
            .collect()
    }

    fn gaps(&self, anomaly: Anomaly, skipped: &[u64], at_ns: u64, what: &str) -> Vec<Violation> {
        let Some(first) = skipped.first() else {
            return Vec::new();
        };
        let what = format!(
            "{what} {} committed changes, first version {first} (at {at_ns} ns)",
            skipped.len()
        );
        vec![Violation::new(anomaly, self.about.clone(), what)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{LineReader, LineWriter};

    fn change(version: u64) -> Change {
        Change {
            shard: 1,
            version,
            key: format!("k{version}"),
            value: Some(format!("v{version}")),
        }
    }

    fn committed() -> Committed {
        Committed::All([1, 2, 4, 5, 7].map(change).into())
    }

    fn from(version: u64) -> WatchStep {
        WatchStep::From { shard: 1, version }
    }

    fn until(version: u64) -> WatchStep {
        WatchStep::Until { shard: 1, version }
    }

    fn event(version: u64) -> WatchStep {
        WatchStep::Event(change(version))
    }

    fn judge(steps: &[WatchStep]) -> Verdict {
        let lines = steps.iter().map(|step| WatchLine {
            watcher: 3,
            prefix: "k".to_owned(),
            at_ns: 9,
            step: step.clone(),
        });
        check(&lines.collect::<Vec<_>>(), &committed())
    }

    fn anomalies(steps: &[WatchStep]) -> Vec<Anomaly> {
        judge(steps)
            .violations()
            .iter()
            .map(|violation| violation.anomaly)
            .collect()
    }

    #[test]
    fn all_once_in_order_is_good_with_and_without_a_resume() {
        assert!(judge(&[from(1), event(1), event(2), event(4), event(5), until(6)]).is_ok());
        assert!(judge(&[from(2), event(2), event(4), from(5), event(5), event(7), until(7)]).is_ok());
        let again = [
            from(2),
            event(2),
            event(4),
            from(4),
            event(4),
            event(5),
            event(7),
            until(7),
        ];
        assert!(judge(&again).is_ok(), "what is asked for again comes again");
    }

    #[test]
    fn gaps_are_found_in_the_stream_across_a_resume_and_at_the_end() {
        assert_eq!(
            anomalies(&[from(1), event(1), event(4), until(4)]),
            [Anomaly::WatchGap]
        );
        assert_eq!(
            anomalies(&[from(1), event(1), from(4), event(4), until(4)]),
            [Anomaly::WatchResumeGap]
        );
        assert_eq!(
            anomalies(&[from(1), event(1), event(2), from(3), event(5), until(5)]),
            [Anomaly::WatchGap]
        );
        assert_eq!(
            anomalies(&[from(1), event(1), event(2), until(5)]),
            [Anomaly::WatchGap]
        );
    }

    #[test]
    fn duplicates_and_disorder_are_told_apart() {
        assert_eq!(
            anomalies(&[from(1), event(1), event(2), event(2), until(2)]),
            [Anomaly::WatchDuplicate]
        );
        let disorder = [from(1), event(2), event(1), until(2)];
        assert_eq!(
            anomalies(&disorder),
            [Anomaly::WatchGap, Anomaly::WatchOutOfOrder]
        );
    }

    #[test]
    fn phantoms_are_found_only_where_all_commits_are_known() {
        let steps = [from(1), event(1), event(2), event(3), until(3)];
        assert_eq!(anomalies(&steps), [Anomaly::WatchPhantom]);
        let lines: Vec<WatchLine> = steps
            .map(|step| WatchLine {
                watcher: 1,
                prefix: String::new(),
                at_ns: 0,
                step,
            })
            .into();
        assert!(check(&lines, &Committed::AtLeast([1, 2, 4].map(change).into())).is_ok());
        let other = Change {
            value: None,
            ..change(2)
        };
        let wrong = [from(2), WatchStep::Event(other), until(2)];
        assert_eq!(anomalies(&wrong), [Anomaly::WatchPhantom]);
    }

    #[test]
    fn a_watcher_without_an_end_is_unknown() {
        assert!(matches!(judge(&[from(1), event(1)]), Verdict::Unknown(_)));
    }

    #[test]
    fn lines_are_flat() {
        let text = concat!(
            r#"{"watcher":1,"prefix":"a","at_ns":5,"watch":"from","shard":1,"version":3}"#,
            "\n",
            r#"{"watcher":1,"prefix":"a","at_ns":6,"watch":"event","shard":1,"version":3,"key":"ab","value":null}"#,
            "\n",
        );
        let lines: Vec<WatchLine> = LineReader::new(text.as_bytes())
            .collect::<Result<_, _>>()
            .unwrap();
        let mut writer = LineWriter::new(Vec::new());
        lines.iter().for_each(|line| writer.write(line).unwrap());
        assert_eq!(String::from_utf8(writer.finish().unwrap()).unwrap(), text);
    }
}
