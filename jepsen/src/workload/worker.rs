//! One logical process: it draws a workload and a key, does one thing, waits for its turn, and so on until stopped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::{Client, Previous};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::keys::{Keys, Place};
use super::name::WorkloadName;
use super::plan::{Connect, WorkloadPlan};
use super::recording::{Missed, RecordingClient};
use super::used::Used;
use crate::generate::Chance;
use crate::record::Recorder;

/// After an operation that failed, and between attempts to connect: so as not to spin where nothing answers.
const REST: Duration = Duration::from_millis(50);
/// Keys whose last seen values a client remembers.
const SEEN_MAX: usize = 256;

/// What all workers share.
pub(super) struct Shared {
    pub(super) plan: WorkloadPlan,
    pub(super) recorder: Recorder,
    pub(super) connect: Connect,
    pub(super) stop: CancellationToken,
    keys: Mutex<Keys>,
}

impl Shared {
    pub(super) fn new(
        plan: WorkloadPlan,
        recorder: Recorder,
        connect: Connect,
        stop: CancellationToken,
    ) -> Self {
        let keys = Mutex::new(Keys::new(&plan));
        Self {
            plan,
            recorder,
            connect,
            stop,
            keys,
        }
    }

    pub(super) fn into_used(self) -> Used {
        self.keys
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .into_used()
    }

    pub(super) fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One logical process.
struct Worker {
    shared: Arc<Shared>,
    number: u64,
    chance: Chance,
    client: RecordingClient,
    written: u64,
    /// Values last seen, to compare with: `None` in it is absence.
    seen: BTreeMap<String, Option<String>>,
}

/// Works as client `number` until stopped. An operation under way is finished first.
pub(super) async fn work(shared: Arc<Shared>, number: u64) {
    let mut chance = Chance::new(shared.plan.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let interval = shared.plan.interval();
    let mut turn = Instant::now() + interval.mul_f64(chance.below(1_000) as f64 / 1_000.0);
    let Some(client) = connected(&shared, number).await else {
        return;
    };
    let mut worker = Worker {
        client: RecordingClient::new(client, shared.recorder.clone()),
        shared: shared.clone(),
        number,
        chance,
        written: 0,
        seen: BTreeMap::new(),
    };
    while !rests(&shared.stop, turn).await {
        turn = (turn + interval).max(Instant::now());
        if worker.step().await.is_err() {
            turn = turn.max(Instant::now() + REST);
        }
    }
    worker.leave();
}

/// Waits until `until`, at least for a breath; whether it is time to stop.
async fn rests(stop: &CancellationToken, until: Instant) -> bool {
    tokio::task::yield_now().await;
    tokio::select! {
        biased;
        () = stop.cancelled() => true,
        () = tokio::time::sleep_until(until) => false,
    }
}

pub(super) async fn connected(shared: &Shared, number: u64) -> Option<Client> {
    loop {
        let attempt = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return None,
            attempt = (shared.connect)(number) => attempt,
        };
        match attempt {
            Ok(client) => return Some(client.with_read_mode(shared.plan.read_mode)),
            Err(e) => tracing::debug!("client {number} cannot connect: {e}"),
        }
        if rests(&shared.stop, Instant::now() + REST).await {
            return None;
        }
    }
}

impl Worker {
    async fn step(&mut self) -> Result<(), Missed> {
        let names = &self.shared.plan.names;
        let drawn = self.chance.below(names.len() as u64);
        let Some(workload) = usize::try_from(drawn).ok().and_then(|at| names.get(at).copied()) else {
            return Err(Missed::Failed);
        };
        let place = {
            let client = &self.client;
            self.shared
                .keys()
                .draw(workload, &mut self.chance, |key| client.end_of(key))
        };
        let done = match workload {
            WorkloadName::Register => self.register(&place.name).await,
            WorkloadName::Append => self.append(&place.name).await,
            WorkloadName::Set => self.set(&place).await,
            WorkloadName::Counter => self.counter(&place.name).await,
            WorkloadName::Scan => self.scan(&place).await,
            WorkloadName::Bank => {
                let tag = self.value();
                self.client.bank(&place.name, &mut self.chance, &tag).await
            }
            WorkloadName::Lease => {
                let value = self.value();
                self.client.lock(&place.name, &mut self.chance, value).await
            }
        };
        if done == Err(Missed::Unknown) {
            self.shared.keys().count_unknown(workload, &place.name);
        }
        done
    }

    async fn register(&mut self, key: &str) -> Result<(), Missed> {
        match self.chance.below(100) {
            0..45 => self.look(key).await,
            45..70 => {
                let (value, previous) = (self.value(), self.previous());
                self.seen.insert(key.to_owned(), Some(value.clone()));
                self.client.put(key, value, previous).await
            }
            70..92 => match self.seen.get(key).cloned() {
                None => self.look(key).await,
                Some(expect) => {
                    let value = self.value();
                    self.seen.remove(key);
                    let swapped = self.client.compare_and_set(key, expect, value.clone()).await?;
                    if swapped {
                        self.seen.insert(key.to_owned(), Some(value));
                    }
                    Ok(())
                }
            },
            _ => {
                let previous = self.previous();
                self.seen.insert(key.to_owned(), None);
                self.client.delete(key, previous).await
            }
        }
    }

    /// Reads, and remembers for a later compare-and-set.
    async fn look(&mut self, key: &str) -> Result<(), Missed> {
        let value = self.client.get(key).await?;
        if self.seen.len() >= SEEN_MAX {
            self.seen.clear();
        }
        self.seen.insert(key.to_owned(), value);
        Ok(())
    }

    async fn append(&mut self, key: &str) -> Result<(), Missed> {
        if self.chance.permille(400) {
            return self.client.get(key).await.map(drop);
        }
        let element = self.value();
        self.client.append(key, element).await
    }

    async fn counter(&mut self, key: &str) -> Result<(), Missed> {
        let now = self.client.get(key).await?;
        if self.chance.permille(200) {
            return Ok(());
        }
        // What is no number is for the judge to see; counting goes on from it as from nothing.
        let count: u64 = now
            .as_deref()
            .and_then(|now| now.parse().ok())
            .unwrap_or_default();
        let next = (count + 1).to_string();
        self.client.compare_and_set(key, now, next).await.map(drop)
    }

    async fn set(&mut self, place: &Place) -> Result<(), Missed> {
        if self.chance.permille(850) {
            let element = self.shared.keys().add_element(&place.name);
            if let Some(element) = element {
                let value = self.value();
                return self.client.put(&element, value, Previous::Existence).await;
            }
        }
        self.scan_of(place).await
    }

    async fn scan(&mut self, place: &Place) -> Result<(), Missed> {
        let drawn = self.chance.below(place.members.len() as u64);
        let member = usize::try_from(drawn).ok().and_then(|at| place.members.get(at));
        let Some(member) = member else {
            return self.scan_of(place).await;
        };
        match self.chance.below(100) {
            0..70 => {
                let value = self.value();
                self.client.put(member, value, Previous::Existence).await
            }
            70..85 => self.client.delete(member, Previous::Existence).await,
            _ => self.scan_of(place).await,
        }
    }

    async fn scan_of(&mut self, place: &Place) -> Result<(), Missed> {
        let range = place.range.clone().unwrap_or_default();
        self.client.scan(place.workload, range, &place.members).await
    }

    /// A value that nobody else writes.
    fn value(&mut self) -> String {
        self.written += 1;
        format!("{}.{}", self.number, self.written)
    }

    fn previous(&mut self) -> Previous {
        if self.chance.permille(300) {
            Previous::Value
        } else {
            Previous::Existence
        }
    }

    /// Hands in what it counted.
    fn leave(mut self) {
        self.client.let_all_go();
        let mut keys = self.shared.keys();
        let used = keys.used();
        for (kind, outcomes) in self.client.outcomes {
            *used.outcomes.entry(kind).or_default() += outcomes;
        }
        used.disorder.extend(self.client.disorder);
        used.changed_past.extend(self.client.changed_past);
        used.unbalanced.extend(self.client.unbalanced);
    }
}
