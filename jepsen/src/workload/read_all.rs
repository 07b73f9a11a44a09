//! The last look: after all faults are over and all clients have stopped, everything that was used is read once more.
//!
//! A read that fails is tried again, for the cluster is to be judged after it had its time to recover; one that fails
//! every time leaves its key unread. When that has happened so often that the cluster is plainly dead, the rest is
//! given up.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use client::{Client, KeyRange};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::bank::accounts;
use super::name::WorkloadName;
use super::recording::RecordingClient;
use super::used::Used;
use crate::record::Recorder;

const READERS: u64 = 8;
const TRIES_MAX: usize = 4;
const REST: Duration = Duration::from_millis(250);
/// Keys unread after which the rest is not tried any more.
const UNREAD_MAX: usize = 16;

/// What the last look came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadAll {
    /// Keys that were read.
    pub read: usize,
    /// Keys that were not, in order.
    pub unread: Vec<String>,
    /// Scans that gave a key twice or out of order, in words.
    pub disorder: Vec<String>,
    /// Banks whose accounts did not add up, in words.
    #[serde(default)]
    pub unbalanced: Vec<String>,
    /// Locks that nobody kept and that did not go, in order.
    #[serde(default)]
    pub lingering: Vec<String>,
}

/// One thing to be read.
enum Look {
    Key(String),
    /// A lock, which is to go.
    Lock(String),
    Range(WorkloadName, KeyRange, Vec<String>),
    Bank(String),
}

/// Reads every key of `used` that is read alone, and scans its ranges: every set, and those of the scan workload that
/// were last in use; keys of other ranges are read one by one. All of it is recorded.
pub async fn read_all(used: &Used, client: &Client, recorder: &Recorder) -> ReadAll {
    let left = Mutex::new(looks(used).into_iter());
    let result = Mutex::new(ReadAll::default());
    let reader = |_| async {
        let mut client = RecordingClient::new(client.clone(), recorder.clone());
        // A guard lives to the end of its statement: none is held while reading.
        loop {
            let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(look) = next else { break };
            let gave_up = result.lock().unwrap_or_else(PoisonError::into_inner).unread.len() >= UNREAD_MAX;
            let was_read = !gave_up && reads(&mut client, &look).await;
            result
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .count(look, was_read);
        }
        let disorder = std::mem::take(&mut client.disorder);
        let unbalanced = std::mem::take(&mut client.unbalanced);
        let lingering = std::mem::take(&mut client.lingering);
        let mut result = result.lock().unwrap_or_else(PoisonError::into_inner);
        result.lingering.extend(lingering);
        result.disorder.extend(disorder);
        result.unbalanced.extend(unbalanced);
    };
    join_all((0..READERS).map(reader)).await;
    let mut result = result.into_inner().unwrap_or_else(PoisonError::into_inner);
    result.unread.sort();
    result
}

fn looks(used: &Used) -> Vec<Look> {
    let mut looks = Vec::new();
    for (workload, keys) in &used.keys {
        let look = match workload {
            WorkloadName::Lease => Look::Lock,
            _ => Look::Key,
        };
        looks.extend(keys.iter().cloned().map(look));
    }
    looks.extend(used.banks.iter().cloned().map(Look::Bank));
    for range in &used.ranges {
        if range.workload == WorkloadName::Set || range.live {
            looks.push(Look::Range(
                range.workload,
                range.range.clone(),
                range.keys.clone(),
            ));
        } else {
            looks.extend(range.keys.iter().cloned().map(Look::Key));
        }
    }
    looks
}

async fn reads(client: &mut RecordingClient, look: &Look) -> bool {
    for _ in 0..TRIES_MAX {
        let read = match look {
            Look::Key(key) => client.get(key).await.map(drop),
            Look::Lock(key) => client.see_it_go(key).await,
            Look::Bank(name) => client.look_at_bank(name).await.map(drop),
            Look::Range(workload, range, keys) => client.scan(*workload, range.clone(), keys).await,
        };
        if read.is_ok() {
            return true;
        }
        tokio::time::sleep(REST).await;
    }
    false
}

impl ReadAll {
    fn count(&mut self, look: Look, was_read: bool) {
        let keys = match look {
            Look::Key(key) | Look::Lock(key) => vec![key],
            Look::Bank(name) => accounts(&name).collect(),
            Look::Range(_, _, keys) => keys,
        };
        if was_read {
            self.read += keys.len();
        } else {
            self.unread.extend(keys);
        }
    }
}
