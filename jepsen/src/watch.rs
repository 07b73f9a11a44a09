//! Watches: every change once, in order, with no gap, from the moment a watch was made to its end.
//!
//! Judged are the lines that watchers wrote, against the writes that clients recorded. Of a part, revisions only rise; of
//! a key, each event names what it replaced, which is what the event before it made; and every acknowledged write that was
//! called after the watch was made is among the events, with its value. A write with an unknown outcome may be, an event
//! that nobody wrote may not. It knows nothing of shards but the number that came with an event, so it judges watches over
//! shards that move.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::history::{Action, Operation, Outcome};
use crate::verdict::{Anomaly, Verdict, Violation};

/// A change that was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The first key of the part of the watched range that it is in.
    #[serde(default)]
    pub part: String,
    /// The shard.
    pub shard: u64,
    /// The shard's revision that it made.
    pub version: u64,
    /// The key.
    pub key: String,
    /// The value; `None`: deleted.
    pub value: Option<String>,
    /// The revision of what the key held before; `None`: it did not exist.
    pub replaced: Option<u64>,
}

/// What happened to a watcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "watch", rename_all = "snake_case", deny_unknown_fields)]
pub enum WatchStep {
    /// It watches: it is to be told of every write that is called from now on.
    Made,
    /// It began again where it had come to.
    Resumed,
    /// A change was told.
    Event(Change),
    /// It ended by itself; what it was not told it never will be.
    Broken {
        /// What it was told instead.
        why: String,
    },
    /// It has been told of every write that is acknowledged, or did not get there in time.
    Ended {
        /// Which of the two.
        complete: bool,
    },
}

/// One line of a watcher's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchLine {
    /// The watcher.
    pub watcher: u64,
    /// When, on the clock of the history.
    pub at_ns: u64,
    /// What happened.
    #[serde(flatten)]
    pub step: WatchStep,
}

/// Judges every watcher; its lines must be in order, and it watches all keys of the history.
pub fn check(lines: &[WatchLine], history: &[Operation]) -> Verdict {
    let writes = Writes::of(history);
    let mut watchers: BTreeMap<u64, Watcher> = BTreeMap::new();
    for line in lines {
        let watcher = watchers
            .entry(line.watcher)
            .or_insert_with(|| Watcher::new(line.watcher));
        watcher.step(line, &writes);
    }
    let verdicts = watchers.into_values().map(|watcher| watcher.verdict(&writes));
    verdicts.fold(Verdict::Ok, Verdict::and)
}

/// The writes of a history.
struct Writes<'a> {
    /// Those that are acknowledged with a version, by key and version.
    acknowledged: HashMap<(&'a str, u64), &'a Operation>,
    /// Values that may be written to a key; of a list, its elements.
    values: HashMap<&'a str, BTreeSet<&'a str>>,
}

impl<'a> Writes<'a> {
    fn of(history: &'a [Operation]) -> Self {
        let mut writes = Self {
            acknowledged: HashMap::new(),
            values: HashMap::new(),
        };
        for operation in history {
            if let Some(value) = written(operation.action()) {
                writes.values.entry(operation.key()).or_default().insert(value);
            }
            if let Some(version) = version_made(operation.action()) {
                writes.acknowledged.insert((operation.key(), version), operation);
            }
        }
        writes
    }

    /// Whether a value may have come to a key: one of an acknowledged write at its version, or one that was tried.
    fn allow(&self, change: &Change) -> bool {
        let known = self.acknowledged.get(&(change.key.as_str(), change.version));
        match (known.map(|operation| operation.action()), &change.value) {
            (Some(Action::Delete(_)), value) => value.is_none(),
            (Some(action), Some(value)) => {
                written(action).is_some_and(|written| last_of(value) == last_of(written))
            }
            (Some(_), None) => false,
            (None, None) => true,
            (None, Some(value)) => {
                let tried = self.values.get(change.key.as_str());
                tried.is_some_and(|tried| tried.contains(value.as_str()) || tried.contains(last_of(value)))
            }
        }
    }
}

fn written(action: &Action) -> Option<&str> {
    match action {
        Action::Put { value, .. } | Action::Cas { value, .. } => Some(value),
        Action::Append { element, .. } => Some(element),
        Action::Get(_) | Action::Delete(_) => None,
    }
}

/// Of a list, its last element.
fn last_of(value: &str) -> &str {
    value.rsplit(',').next().unwrap_or(value)
}

/// The version that an acknowledged write made.
fn version_made(action: &Action) -> Option<u64> {
    match action {
        Action::Put {
            outcome: Outcome::Ok(reply),
            ..
        }
        | Action::Append {
            outcome: Outcome::Ok(reply),
            ..
        } => reply.version,
        Action::Cas {
            outcome: Outcome::Ok(reply),
            ..
        } if reply.succeeded => reply.version,
        Action::Delete(Outcome::Ok(reply)) if reply.existed == Some(true) => reply.version,
        _ => None,
    }
}

struct Watcher {
    about: String,
    /// Since when it is told everything.
    made_ns: Option<u64>,
    /// The last revision of each part.
    revisions: BTreeMap<String, u64>,
    /// What each key holds, as far as it was told: the version, none after a deletion.
    held: BTreeMap<String, Option<u64>>,
    told: BTreeSet<(String, u64)>,
    found: Vec<Violation>,
    ended: Option<bool>,
}

impl Watcher {
    fn new(number: u64) -> Self {
        Self {
            about: format!("watcher {number}"),
            made_ns: None,
            revisions: BTreeMap::new(),
            held: BTreeMap::new(),
            told: BTreeSet::new(),
            found: Vec::new(),
            ended: None,
        }
    }

    fn step(&mut self, line: &WatchLine, writes: &Writes<'_>) {
        match &line.step {
            WatchStep::Made => self.made_ns = Some(line.at_ns),
            WatchStep::Resumed => {}
            WatchStep::Event(change) => self.event(change, line.at_ns, writes),
            WatchStep::Broken { why } => self.find(Anomaly::WatchGap, format!("it broke: {why}"), line.at_ns),
            WatchStep::Ended { complete } => self.ended = Some(*complete),
        }
    }

    fn event(&mut self, change: &Change, at_ns: u64, writes: &Writes<'_>) {
        let Change {
            part,
            shard,
            version,
            key,
            replaced,
            ..
        } = change;
        if !self.told.insert((key.clone(), *version)) {
            let what = format!("version {version} of {key} was told twice");
            return self.find(Anomaly::WatchDuplicate, what, at_ns);
        }
        let last = self.revisions.entry(part.clone()).or_default();
        if *version < *last {
            let what = format!("version {version} of shard {shard} was told after {last}");
            return self.find(Anomaly::WatchOutOfOrder, what, at_ns);
        }
        *last = *version;
        if !writes.allow(change) {
            self.find(Anomaly::WatchPhantom, format!("nobody wrote {change:?}"), at_ns);
        }
        let now = change.value.is_some().then_some(*version);
        if let Some(held) = self.held.insert(key.clone(), now)
            && held != *replaced
        {
            let what =
                format!("version {version} of {key} replaced {replaced:?}, what was told last is {held:?}");
            self.find(Anomaly::WatchGap, what, at_ns);
        }
    }

    fn find(&mut self, anomaly: Anomaly, what: String, at_ns: u64) {
        let what = format!("{what} (at {at_ns} ns)");
        self.found.push(Violation::new(anomaly, self.about.clone(), what));
    }

    fn verdict(mut self, writes: &Writes<'_>) -> Verdict {
        let Some(made_ns) = self.made_ns else {
            return Verdict::Unknown(format!("{} was never made", self.about));
        };
        let Some(complete) = self.ended else {
            return Verdict::Unknown(format!("{} has no end", self.about));
        };
        let missed = writes.acknowledged.iter().filter(|((key, version), operation)| {
            operation.call_ns() > made_ns && !self.told.contains(&((*key).to_owned(), *version))
        });
        let mut missed: Vec<(&str, u64, &Operation)> = missed
            .map(|((key, version), operation)| (*key, *version, *operation))
            .collect();
        missed.sort_by_key(|(_, _, operation)| operation.call_ns());
        if let Some((key, version, operation)) = missed.first() {
            let how = if complete {
                "and said to have come to the end"
            } else {
                "and did not come to the end"
            };
            let what = format!(
                "{} acknowledged writes were not told, the first is version {version} of {key}; {how}",
                missed.len()
            );
            let violation = Violation::new(Anomaly::WatchGap, self.about.clone(), what);
            self.found.push(violation.shown_by([*operation]));
        }
        match (self.found.is_empty(), complete) {
            (true, false) => Verdict::Unknown(format!("{} did not come to the end in time", self.about)),
            _ => Verdict::of(self.found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{LineReader, LineWriter};
    use crate::testing::put_at;

    fn event(key: &str, version: u64, replaced: Option<u64>) -> WatchStep {
        WatchStep::Event(Change {
            part: String::new(),
            shard: 1,
            version,
            key: key.to_owned(),
            value: Some(format!("v{version}")),
            replaced,
        })
    }

    /// Writes of versions 1, 2, 4 and 5; the first before the watch is made.
    fn history() -> Vec<Operation> {
        let put = |key: &str, version: u64| {
            put_at(
                key,
                &format!("v{version}"),
                version,
                version * 10,
                version * 10 + 5,
            )
        };
        vec![put("a", 1), put("a", 2), put("b", 4), put("a", 5)]
    }

    fn lines(steps: &[WatchStep]) -> Vec<WatchLine> {
        let line = |(at, step): (usize, &WatchStep)| WatchLine {
            watcher: 3,
            at_ns: 16 + at as u64,
            step: step.clone(),
        };
        steps.iter().enumerate().map(line).collect()
    }

    fn judge(steps: &[WatchStep]) -> Verdict {
        let all = [
            &[WatchStep::Made][..],
            steps,
            &[WatchStep::Ended { complete: true }],
        ]
        .concat();
        check(&lines(&all), &history())
    }

    fn anomalies(steps: &[WatchStep]) -> Vec<Anomaly> {
        let verdict = judge(steps);
        verdict
            .violations()
            .iter()
            .map(|violation| violation.anomaly)
            .collect()
    }

    fn all() -> [WatchStep; 3] {
        [
            event("a", 2, Some(1)),
            event("b", 4, None),
            event("a", 5, Some(2)),
        ]
    }

    #[test]
    fn all_once_in_order_is_good() {
        assert!(judge(&all()).is_ok());
        let [first, second, third] = all();
        assert!(judge(&[event("a", 1, None), first.clone(), second.clone(), third.clone()]).is_ok());
        assert!(judge(&[first, WatchStep::Resumed, second, third]).is_ok());
    }

    #[test]
    fn what_is_missing_is_found_by_the_writes_and_by_what_was_replaced() {
        let [first, second, third] = all();
        assert_eq!(anomalies(&[first.clone(), third.clone()]), [Anomaly::WatchGap]);
        assert_eq!(anomalies(&[first.clone(), second.clone()]), [Anomaly::WatchGap]);
        // Version 3 has an unknown outcome, but it is what the key's next change replaced.
        let told_of_it = event("a", 5, Some(3));
        assert_eq!(
            anomalies(&[first.clone(), second.clone(), told_of_it]),
            [Anomaly::WatchGap]
        );
        let broken = WatchStep::Broken {
            why: "compacted".into(),
        };
        assert_eq!(anomalies(&[first, second, third, broken]), [Anomaly::WatchGap]);
    }

    #[test]
    fn duplicates_and_disorder_are_told_apart() {
        let [first, second, third] = all();
        let twice = [first.clone(), second.clone(), third.clone(), second.clone()];
        assert_eq!(anomalies(&twice), [Anomaly::WatchDuplicate]);
        assert_eq!(anomalies(&[second, first, third]), [Anomaly::WatchOutOfOrder]);
    }

    #[test]
    fn nobody_wrote_a_phantom() {
        let [first, second, third] = all();
        let invented = WatchStep::Event(Change {
            part: String::new(),
            shard: 1,
            version: 3,
            key: "b".into(),
            value: Some("v9".into()),
            replaced: None,
        });
        let with_it = [first.clone(), invented, event("b", 4, Some(3)), third.clone()];
        assert_eq!(anomalies(&with_it), [Anomaly::WatchPhantom]);
        let other_value = WatchStep::Event(Change {
            part: String::new(),
            shard: 1,
            version: 4,
            key: "b".into(),
            value: Some("v2".into()),
            replaced: None,
        });
        assert_eq!(anomalies(&[first, other_value, third]), [Anomaly::WatchPhantom]);
        assert!(!matches!(second, WatchStep::Made));
    }

    #[test]
    fn a_watcher_that_does_not_come_to_the_end_is_unknown() {
        let mut steps = vec![WatchStep::Made];
        steps.extend(all());
        assert!(matches!(check(&lines(&steps), &history()), Verdict::Unknown(_)));
        steps.push(WatchStep::Ended { complete: false });
        assert!(matches!(check(&lines(&steps), &history()), Verdict::Unknown(_)));
    }

    #[test]
    fn lines_are_flat() {
        let text = concat!(
            r#"{"watcher":1,"at_ns":5,"watch":"made"}"#,
            "\n",
            r#"{"watcher":1,"at_ns":6,"watch":"event","part":"","shard":1,"version":3,"key":"ab","value":null,"replaced":2}"#,
            "\n",
            r#"{"watcher":1,"at_ns":7,"watch":"ended","complete":true}"#,
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
