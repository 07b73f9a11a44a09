//! Locks: keys that hang on leases, taken if they are free, kept for a while, and let go in one of three ways.
//!
//! In the history the end of a lease is a delete with an open outcome, called when the lease may end at the earliest: its
//! length after the last keeping that was acknowledged was sent. So a lock that goes before that is a violation of
//! linearizability, and one that goes later is none. That it goes at all is looked at in the end.

use std::time::Duration;

use client::{Expect, MutationError};

use super::recording::{Missed, RecordingClient, outcome_of};
use crate::generate::Chance;
use crate::history::{Action, Deleted, Outcome, Swapped, Wrote};

/// How long a lock is held without being kept.
const TTL: Duration = Duration::from_secs(2);
const TTL_NS: u64 = 2_000_000_000;

/// In the end locks are looked at so often, with a pause between: a lease may last an eighth longer than it says, and once
/// more after a change of leader.
const LOOKS_MAX: u32 = 60;
const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// A lock that this client holds, as far as it knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    lease: u64,
    /// When the last keeping that was acknowledged was sent, or the granting.
    kept_ns: u64,
}

impl Held {
    fn ends_ns(self) -> u64 {
        self.kept_ns.saturating_add(TTL_NS)
    }
}

impl RecordingClient {
    /// Takes the lock `key` or does something to it; `value` is this client's own.
    pub(super) async fn lock(&mut self, key: &str, chance: &mut Chance, value: String) -> Result<(), Missed> {
        let Some(held) = self.held.get(key).copied() else {
            return match chance.permille(400) {
                true => self.get(key).await.map(drop),
                false => self.take(key, value).await,
            };
        };
        match chance.below(100) {
            0..55 => self.keep(key, held).await,
            55..70 => self.write(key, held, value).await,
            70..80 => self.revoke(key, held).await,
            80..90 => {
                self.let_go(key, held);
                Ok(())
            }
            _ => self.get(key).await.map(drop),
        }
    }

    /// Lets go of all locks: they end by themselves.
    pub(super) fn let_all_go(&mut self) {
        for (key, held) in std::mem::take(&mut self.held) {
            self.let_go(&key, held);
        }
    }

    /// Reads a lock that nobody keeps until it has gone, or complains of it.
    pub(super) async fn see_it_go(&mut self, key: &str) -> Result<(), Missed> {
        for _ in 0..LOOKS_MAX {
            if self.get(key).await?.is_none() {
                return Ok(());
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        self.lingering.push(key.to_owned());
        Ok(())
    }

    async fn take(&mut self, key: &str, value: String) -> Result<(), Missed> {
        let lease = self.client().lease(TTL).id();
        let held = Held {
            lease,
            kept_ns: self.now_ns(),
        };
        if !matches!(
            self.client().grant_lease(key.to_owned(), lease, TTL).await,
            Ok(true)
        ) {
            // Nothing hangs on it, whether there is one or not.
            return Err(Missed::Failed);
        }
        let call_ns = self.now_ns();
        let taking =
            self.client()
                .compare_and_set_leased(key.to_owned(), Expect::Absent, value.clone(), lease);
        let outcome = outcome_of(taking.await, |swapped| Swapped {
            succeeded: swapped.applied,
            prev: None,
            version: swapped.applied.then_some(swapped.revision),
        });
        match &outcome {
            Outcome::Ok(swapped) if swapped.succeeded => drop(self.held.insert(key.to_owned(), held)),
            Outcome::Info => self.let_go(key, held),
            Outcome::Ok(_) | Outcome::Fail => {}
        }
        let action = Action::Cas {
            expect: None,
            value,
            outcome,
        };
        self.record(key, call_ns, action)
    }

    async fn keep(&mut self, key: &str, held: Held) -> Result<(), Missed> {
        let kept_ns = self.now_ns();
        match self.client().keep_lease(key.to_owned(), held.lease).await {
            Ok(()) => {
                self.held.insert(key.to_owned(), Held { kept_ns, ..held });
                Ok(())
            }
            Err(MutationError::NoLease { .. }) => {
                self.let_go(key, held);
                self.get(key).await.map(drop)
            }
            Err(_) => Err(Missed::Failed),
        }
    }

    async fn write(&mut self, key: &str, held: Held, value: String) -> Result<(), Missed> {
        let call_ns = self.now_ns();
        let reply = self
            .client()
            .put_leased(key.to_owned(), value.clone(), held.lease)
            .await;
        if matches!(reply, Err(MutationError::NoLease { .. })) {
            self.let_go(key, held);
        }
        let outcome = outcome_of(reply, |written| Wrote {
            prev: None,
            version: Some(written.revision),
        });
        self.record(key, call_ns, Action::Put { value, outcome })
    }

    async fn revoke(&mut self, key: &str, held: Held) -> Result<(), Missed> {
        let call_ns = self.now_ns();
        let reply = self.client().revoke_lease(key.to_owned(), held.lease).await;
        match outcome_of(reply, |_| Deleted::default()) {
            Outcome::Ok(deleted) => {
                self.held.remove(key);
                self.record(key, call_ns, Action::Delete(Outcome::Ok(deleted)))
            }
            Outcome::Info => {
                self.held.remove(key);
                self.record_open(key, held.ends_ns().min(call_ns), Action::Delete(Outcome::Info));
                Err(Missed::Unknown)
            }
            // It had ended, or nobody could be asked.
            Outcome::Fail => {
                self.let_go(key, held);
                Err(Missed::Failed)
            }
        }
    }

    fn let_go(&mut self, key: &str, held: Held) {
        self.held.remove(key);
        self.record_open(key, held.ends_ns(), Action::Delete(Outcome::Info));
    }
}
