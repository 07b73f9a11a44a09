//! One operation of one logical client, and its record.

use std::collections::{BTreeMap, BTreeSet};

use client::{Client, Expect, KeyRange, KeyValue, MutationError, Previous, ReadError, Written};

use super::lease::Held;
use super::name::WorkloadName;
use super::used::Outcomes;
use crate::history::{Action, Deleted, Operation, OperationKind, Outcome, Read, Swapped, Wrote};
use crate::record::Recorder;

/// Compare-and-sets that one append may lose against others before it gives up.
const APPEND_TRIES_MAX: usize = 8;
/// One in so many acknowledged changes is looked at again, as of its revision.
const LOOKED_BACK_AT: u64 = 8;
/// Pairs of one scan: more than the clients ever put into a range.
const SCAN_PAIRS_MAX: usize = 100_000;

/// How an operation ended that was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missed {
    /// Certainly without effect.
    Failed,
    /// Nobody knows.
    Unknown,
}

/// A client that takes down what it does.
pub(super) struct RecordingClient {
    client: Client,
    recorder: Recorder,
    process: u64,
    /// How operations ended, by kind.
    pub(super) outcomes: BTreeMap<OperationKind, Outcomes>,
    /// Scans that gave a key twice or out of order, in words.
    pub(super) disorder: Vec<String>,
    /// Old versions that were not what had been written, in words.
    pub(super) changed_past: Vec<String>,
    /// Banks whose accounts did not add up, in words.
    pub(super) unbalanced: Vec<String>,
    /// Locks that nobody kept and that did not go.
    pub(super) lingering: Vec<String>,
    /// Locks that this client holds.
    pub(super) held: BTreeMap<String, Held>,
}

impl RecordingClient {
    pub(super) fn new(client: Client, recorder: Recorder) -> Self {
        let process = recorder.next_process();
        Self {
            client,
            recorder,
            process,
            outcomes: BTreeMap::new(),
            disorder: Vec::new(),
            changed_past: Vec::new(),
            unbalanced: Vec::new(),
            lingering: Vec::new(),
            held: BTreeMap::new(),
        }
    }

    /// Where the shard of `key` ends, as far as the client knows, if that is text.
    pub(super) fn end_of(&self, key: &str) -> Option<String> {
        let end = self.client.locate(key.as_bytes()).range.end;
        String::from_utf8(end.to_vec()).ok().filter(|end| !end.is_empty())
    }

    /// The value; `None`: absent.
    pub(super) async fn get(&mut self, key: &str) -> Result<Option<String>, Missed> {
        let call_ns = self.recorder.now_ns();
        let outcome = match self.client.get(key.to_owned()).await {
            Ok(fetched) => Outcome::Ok(read(fetched.pair.as_ref())),
            Err(_) => Outcome::Fail,
        };
        let value = match &outcome {
            Outcome::Ok(reply) => Ok(reply.value.clone()),
            _ => Err(Missed::Failed),
        };
        self.record(key, call_ns, Action::Get(outcome))?;
        value
    }

    /// Puts, and has the store say what it says of the value before.
    pub(super) async fn put(&mut self, key: &str, value: String, previous: Previous) -> Result<(), Missed> {
        let call_ns = self.recorder.now_ns();
        let reply = self
            .client
            .put_with(key.to_owned(), value.clone(), previous)
            .await;
        let outcome = outcome_of(reply, |written| Wrote {
            prev: before(&written),
            version: Some(written.revision),
        });
        let revision = match &outcome {
            Outcome::Ok(wrote) => wrote.version,
            Outcome::Fail | Outcome::Info => None,
        };
        let action = Action::Put {
            value: value.clone(),
            outcome,
        };
        self.record(key, call_ns, action)?;
        self.look_back(key, revision, Some(value)).await;
        Ok(())
    }

    /// Looks, now and then, whether a key held at a revision what was written there.
    async fn look_back(&mut self, key: &str, revision: Option<u64>, value: Option<String>) {
        let Some(revision) = revision.filter(|revision| revision.is_multiple_of(LOOKED_BACK_AT)) else {
            return;
        };
        let found = match self.client.get_at(key.to_owned(), revision).await {
            Ok(found) => found.pair.map(|pair| text(&pair.value)),
            // Whoever was told of the revision may read it at once.
            Err(e @ ReadError::FutureRevision { .. }) => {
                return self.changed_past.push(format!("{key} at {revision}: {e}"));
            }
            // Nobody serves it now, or it was compacted.
            Err(_) => return,
        };
        if found != value {
            let change = format!("{key} at {revision} was set to {value:?} and held {found:?}");
            self.changed_past.push(change);
        }
    }

    /// Deletes, and has the store say what it says of the value before.
    pub(super) async fn delete(&mut self, key: &str, previous: Previous) -> Result<(), Missed> {
        let call_ns = self.recorder.now_ns();
        let reply = self.client.delete_with(key.to_owned(), previous).await;
        let outcome = outcome_of(reply, |written| Deleted {
            existed: Some(written.existed),
            prev: before(&written),
            version: written.existed.then_some(written.revision),
        });
        let revision = match &outcome {
            Outcome::Ok(deleted) => deleted.version,
            Outcome::Fail | Outcome::Info => None,
        };
        self.record(key, call_ns, Action::Delete(outcome))?;
        self.look_back(key, revision, None).await;
        Ok(())
    }

    /// Sets the key if it has the value expected; whether it had.
    pub(super) async fn compare_and_set(
        &mut self,
        key: &str,
        expect: Option<String>,
        value: String,
    ) -> Result<bool, Missed> {
        let call_ns = self.recorder.now_ns();
        let wanted = expect
            .clone()
            .map_or(Expect::Absent, |expect| Expect::Value(expect.into()));
        let reply = self
            .client
            .compare_and_set(key.to_owned(), wanted, value.clone())
            .await;
        let outcome = outcome_of(reply, |swapped| Swapped {
            succeeded: swapped.applied,
            prev: found_instead(&swapped),
            version: swapped.applied.then_some(swapped.revision),
        });
        let succeeded = matches!(&outcome, Outcome::Ok(reply) if reply.succeeded);
        let action = Action::Cas {
            expect,
            value,
            outcome,
        };
        self.record(key, call_ns, action).map(|()| succeeded)
    }

    /// Appends to the list at `key` by reading it and comparing its revision, again while others are faster: one
    /// operation in the history, from the first read to the last answer. A lost comparison had no effect, so only an
    /// unanswered one leaves the outcome open.
    pub(super) async fn append(&mut self, key: &str, element: String) -> Result<(), Missed> {
        let call_ns = self.recorder.now_ns();
        let outcome = self.try_append(key, &element).await;
        self.record(key, call_ns, Action::Append { element, outcome })
    }

    async fn try_append(&self, key: &str, element: &str) -> Outcome<Wrote> {
        for _ in 0..APPEND_TRIES_MAX {
            let Ok(fetched) = self.client.get(key.to_owned()).await else {
                return Outcome::Fail;
            };
            let (expect, list) = match fetched.pair {
                None => (Expect::Absent, element.to_owned()),
                Some(pair) => (
                    Expect::Revision(pair.mod_revision),
                    format!("{},{element}", text(&pair.value)),
                ),
            };
            let reply = self.client.compare_and_set(key.to_owned(), expect, list).await;
            match outcome_of(reply, |swapped| swapped) {
                Outcome::Ok(swapped) if swapped.applied => {
                    return Outcome::Ok(Wrote {
                        prev: None,
                        version: Some(swapped.revision),
                    });
                }
                Outcome::Ok(_) => {}
                Outcome::Fail => return Outcome::Fail,
                Outcome::Info => return Outcome::Info,
            }
        }
        Outcome::Fail
    }

    /// Scans `range`, and takes down a get of every key of `workload` (or of none) that was found, and of every key
    /// in `known` that was not.
    pub(super) async fn scan(
        &mut self,
        workload: WorkloadName,
        range: KeyRange,
        known: &[String],
    ) -> Result<(), Missed> {
        let call_ns = self.recorder.now_ns();
        let Ok(pairs) = self.client.scan(range, SCAN_PAIRS_MAX).collect().await else {
            if let Some(key) = known.first() {
                self.record(key, call_ns, Action::Get(Outcome::Fail))?;
            }
            return Err(Missed::Failed);
        };
        let return_ns = self.recorder.now_ns();
        self.disorder.extend(out_of_order(&pairs));
        let mut missing: BTreeSet<&str> = known.iter().map(String::as_str).collect();
        for pair in &pairs {
            let key = text(&pair.key);
            missing.remove(key.as_str());
            if WorkloadName::of_key(&key).is_none_or(|of_key| of_key == workload) {
                self.record_until(
                    &key,
                    call_ns,
                    return_ns,
                    Action::Get(Outcome::Ok(read(Some(pair)))),
                );
            }
        }
        for key in missing {
            self.record_until(key, call_ns, return_ns, Action::Get(Outcome::Ok(Read::default())));
        }
        Ok(())
    }

    /// Takes down what ended now.
    pub(super) fn record(&mut self, key: &str, call_ns: u64, action: Action) -> Result<(), Missed> {
        let outcome = action.outcome();
        let return_ns = self.recorder.now_ns();
        self.record_until(key, call_ns, return_ns, action);
        self.end(&outcome)
    }

    /// How something ended. After an unknown outcome this client goes on as another process.
    pub(super) fn end<R>(&mut self, outcome: &Outcome<R>) -> Result<(), Missed> {
        match outcome {
            Outcome::Ok(_) => Ok(()),
            Outcome::Fail => Err(Missed::Failed),
            Outcome::Info => {
                self.process = self.recorder.next_process();
                Err(Missed::Unknown)
            }
        }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.recorder.now_ns()
    }

    /// Takes down what may take effect at any time from `call_ns` on.
    pub(super) fn record_open(&mut self, key: &str, call_ns: u64, action: Action) {
        self.outcomes.entry(action.kind()).or_default().add(&action);
        // Whatever this client does next does not wait for it.
        let process = self.recorder.next_process();
        let operation = Operation::new(process, key, call_ns, None, action);
        self.recorder
            .operation(operation.expect("an open outcome needs no end"));
    }

    pub(super) fn record_until(&mut self, key: &str, call_ns: u64, return_ns: u64, action: Action) {
        self.outcomes.entry(action.kind()).or_default().add(&action);
        let operation = Operation::new(self.process, key, call_ns, Some(return_ns), action);
        self.recorder
            .operation(operation.expect("the clock does not go back and elements have no commas"));
    }
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(super) fn read(pair: Option<&KeyValue>) -> Read {
    Read {
        value: pair.map(|pair| text(&pair.value)),
        version: pair.map(|pair| pair.mod_revision),
    }
}

pub(super) fn outcome_of<T, R>(reply: Result<T, MutationError>, ok: impl FnOnce(T) -> R) -> Outcome<R> {
    match reply {
        Ok(reply) => Outcome::Ok(ok(reply)),
        Err(e) if e.is_outcome_unknown() => Outcome::Info,
        Err(_) => Outcome::Fail,
    }
}

/// The value before, where the reply has it: a key that did not exist had none.
fn before(written: &Written) -> Option<Option<String>> {
    match &written.previous {
        Some(pair) => Some(Some(text(&pair.value))),
        None => (!written.existed).then_some(None),
    }
}

fn found_instead(swapped: &client::Swapped) -> Option<Option<String>> {
    match &swapped.current {
        Some(pair) => Some(Some(text(&pair.value))),
        None => (!swapped.existed).then_some(None),
    }
}

/// Keys must come in order, and once.
fn out_of_order(pairs: &[KeyValue]) -> Option<String> {
    let pair = pairs.windows(2).find(|pair| pair[0].key >= pair[1].key)?;
    Some(format!(
        "a scan gave {:?} after {:?}",
        text(&pair[1].key),
        text(&pair[0].key)
    ))
}
