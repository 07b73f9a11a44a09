//! Scrubbing shards: a replica's part, and the comparison by the shard's home.
//!
//! The home proposes an entry, at which each replica takes the fingerprint of its state and then reads all its rows beside
//! its other work ([`storage::shard::scrub`]). The home asks every member's host for the outcome until it has it, and
//! compares. A replica that differs from most of the others, or whose rows do not agree with its own index, raises the
//! alarm CORRUPT on the home's host. The alarm ends with the next scrub that finds the replica sound, or with the process:
//! whoever rebuilt the replica scrubs once more.
//!
//! What decides nothing is no finding: a replica that was overtaken, was brought to a later state by a snapshot, or did not
//! answer. Replicas scrub one after another on a host, and a shard has one scrub at a time.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use placement::{HostId, ReplicaId, ShardId};
use storage::shard::{ScrubError, encode_scrub};
use tokio::time::Instant;

use super::replicas::LocalShard;
use super::state::Host;
use crate::control::scrub_outcome::Outcome as Told;
use crate::control::{Checksum, ScrubOutcome, ScrubQuery};

/// How often the host looks for scrubs that entries have asked for.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// How often a replica is asked for its outcome.
const ASK_PAUSE: Duration = Duration::from_millis(250);
/// One such question.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// A host that has not answered for this long is left out.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How long the replicas of a shard may take to read all their rows.
const SCRUB_TIME_MAX: Duration = Duration::from_secs(3_600);
/// How long the entry may take.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a host knows of scrubs.
#[derive(Debug, Default)]
pub(crate) struct Scrubs {
    /// The newest scrub of each replica here; none of it outlives the process.
    here: Mutex<BTreeMap<ReplicaId, (u64, Finding)>>,
    /// Alarms that this host has raised, with what was found and since when, by the wall clock.
    corrupt: Mutex<BTreeMap<(ShardId, ReplicaId), Corrupt>>,
    /// One comparison at a time.
    comparing: tokio::sync::Mutex<()>,
}

/// An alarm CORRUPT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Corrupt {
    pub(crate) host: HostId,
    pub(crate) since_ms: u64,
    pub(crate) detail: String,
}

/// What a scrub came to on one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It is still at it.
    Pending,
    /// Its checksum, and how many keys there are.
    Sum { checksum: u64, keys: u64 },
    /// Its rows are damaged, or are not those that it applied.
    Damaged(String),
    /// Nothing is known, for this reason.
    Unknown(String),
}

/// One replica in a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scrubbed {
    pub(crate) replica: ReplicaId,
    pub(crate) host: HostId,
    pub(crate) finding: Finding,
    pub(crate) verdict: Verdict,
}

/// What a replica's finding means beside the others'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It holds what the others hold.
    Sound,
    /// It differs from most, is damaged by itself, or two differ and none can be told to be right.
    Corrupt,
    /// It has nothing to compare.
    Unknown,
}

/// What a scrub of one shard came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// The entry at which the replicas were compared.
    pub(crate) index: u64,
    pub(crate) replicas: Vec<Scrubbed>,
}

/// Why a shard was not scrubbed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScrubFailure {
    #[error("this host does not lead the shard")]
    NotHome,
    #[error("the scrub is not in the log: {0}")]
    NotProposed(String),
}

impl Scrubs {
    /// The alarms that this host has raised.
    pub(crate) fn alarms(&self) -> Vec<((ShardId, ReplicaId), Corrupt)> {
        let known = self.corrupt();
        known.iter().map(|(of, corrupt)| (*of, corrupt.clone())).collect()
    }

    fn note_here(&self, replica: ReplicaId, id: u64, finding: Finding) {
        self.here().insert(replica, (id, finding));
    }

    /// What this host knows of a scrub of a replica here; `None`: nothing yet.
    fn finding_here(&self, replica: ReplicaId, id: u64) -> Option<Finding> {
        let known = self.here();
        let (of, finding) = known.get(&replica)?;
        match *of == id {
            true => Some(finding.clone()),
            false => None,
        }
    }

    /// Raises and ends alarms by a report.
    fn judge(&self, shard: ShardId, report: &Report, now_ms: u64) {
        let mut corrupt = self.corrupt();
        // A replica that is none any more has no alarm.
        let is_member = |replica: ReplicaId| report.replicas.iter().any(|of| of.replica == replica);
        corrupt.retain(|(of, replica), _| *of != shard || is_member(*replica));
        for of in &report.replicas {
            let name = (shard, of.replica);
            match of.verdict {
                Verdict::Unknown => {}
                Verdict::Sound => drop(corrupt.remove(&name)),
                Verdict::Corrupt => {
                    let detail = format!("at entry {}: {}", report.index, describe(&of.finding));
                    tracing::error!(%shard, replica = %of.replica, host = %of.host, detail, "a replica is corrupt");
                    let since_ms = corrupt.get(&name).map_or(now_ms, |known| known.since_ms);
                    corrupt.insert(
                        name,
                        Corrupt {
                            host: of.host,
                            since_ms,
                            detail,
                        },
                    );
                }
            }
        }
    }

    fn here(&self) -> MutexGuard<'_, BTreeMap<ReplicaId, (u64, Finding)>> {
        self.here.lock().expect("no panic under this lock")
    }

    fn corrupt(&self) -> MutexGuard<'_, BTreeMap<(ShardId, ReplicaId), Corrupt>> {
        self.corrupt.lock().expect("no panic under this lock")
    }
}

/// A finding in words.
pub(crate) fn describe(finding: &Finding) -> String {
    match finding {
        Finding::Pending => "not ready in time".to_owned(),
        Finding::Sum { checksum, keys } => {
            format!("checksum {checksum:016x} of {keys} keys, which others do not share")
        }
        Finding::Damaged(why) | Finding::Unknown(why) => why.clone(),
    }
}

/// The checksum that counts as right: what more than half of those that have one share.
fn right_one(findings: &[Finding]) -> Option<u64> {
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for finding in findings {
        if let Finding::Sum { checksum, .. } = finding {
            *counts.entry(*checksum).or_default() += 1;
        }
    }
    let total: usize = counts.values().sum();
    let most = counts.into_iter().max_by_key(|(_, count)| *count)?;
    (most.1 * 2 > total).then_some(most.0)
}

/// What each finding means beside the others.
fn verdicts(findings: &[Finding]) -> Vec<Verdict> {
    let right = right_one(findings);
    let verdict = |finding: &Finding| match finding {
        Finding::Sum { checksum, .. } if Some(*checksum) == right => Verdict::Sound,
        Finding::Sum { .. } | Finding::Damaged(_) => Verdict::Corrupt,
        Finding::Pending | Finding::Unknown(_) => Verdict::Unknown,
    };
    findings.iter().map(verdict).collect()
}

impl Host {
    /// Carries out the scrubs that entries ask of the replicas here.
    pub(crate) async fn run_scrubs(self) {
        loop {
            tokio::time::sleep(LOOK_PAUSE).await;
            for local in self.shards() {
                let replica = local.group.replica();
                // Noted before it is taken: who asks meanwhile is to find the one or the other.
                if let Some(id) = local.store.pending_scrub() {
                    self.scrubs().note_here(replica, id, Finding::Pending);
                }
                let Some(point) = local.store.take_scrub() else {
                    continue;
                };
                let (id, store) = (point.id, local.store.clone());
                let scrubbed = self.background(move || store.scrub(&point)).await;
                let finding = match scrubbed {
                    Ok(scrubbed) => Finding::Sum {
                        checksum: scrubbed.checksum,
                        keys: scrubbed.keys,
                    },
                    Err(ScrubError::Overtaken(why)) => Finding::Unknown(format!("overtaken: {why}")),
                    Err(damage) => Finding::Damaged(damage.to_string()),
                };
                self.scrubs().note_here(replica, id, finding);
            }
        }
    }

    /// What this host's replica of a shard has come to in a scrub.
    pub(crate) fn scrub_finding(&self, query: &ScrubQuery) -> Finding {
        let replica = ReplicaId(query.replica_id);
        if let Some(finding) = self.scrubs().finding_here(replica, query.scrub_id) {
            return finding;
        }
        let local = self.shard(ShardId(query.shard_id));
        let Some(local) = local.filter(|local| local.group.replica() == replica) else {
            return Finding::Unknown("no such replica on its host".to_owned());
        };
        let applied = local.store.applied().map_or(0, |at| at.index);
        match applied < query.index || local.store.pending_scrub() == Some(query.scrub_id) {
            true => Finding::Pending,
            // A snapshot jumped over the entry, or what was known of it has ended with the process.
            false => {
                Finding::Unknown("a later state was brought to it, or its host was restarted".to_owned())
            }
        }
    }

    /// Scrubs every shard that is led here, again and again.
    pub(crate) async fn scrub_by_the_clock(self) {
        let interval = match self.config().scrub.interval_s {
            0 => return,
            seconds => Duration::from_secs(seconds),
        };
        loop {
            tokio::time::sleep(interval).await;
            for local in self.shards() {
                let shard = local.group.id();
                match self.scrub_shard(&local).await {
                    Ok(report) => tracing::info!(%shard, index = report.index, "scrubbed"),
                    Err(ScrubFailure::NotHome) => {}
                    Err(error) => tracing::warn!(%shard, %error, "not scrubbed"),
                }
            }
        }
    }

    /// Has all replicas of a shard that is led here scrubbed, and compares them.
    pub(crate) async fn scrub_shard(&self, local: &LocalShard) -> Result<Report, ScrubFailure> {
        let _one = self.scrubs().comparing.lock().await;
        let term = local.group.leading_term().ok_or(ScrubFailure::NotHome)?;
        let id = self.shared.env.raft.context.next_u64();
        let entry = encode_scrub(self.now_ms(), id);
        let proposing = local.group.propose_in_term(entry, term);
        let failed = ScrubFailure::NotProposed;
        let proposed = tokio::time::timeout(PROPOSE_TIMEOUT, proposing)
            .await
            .map_err(|_| failed("no quorum in time".to_owned()))?;
        let (at, _) = proposed.map_err(|e| failed(e.to_string()))?;
        let shard = local.group.id();
        let members = local.group.status().hosts;
        let asking = members
            .iter()
            .map(|(replica, host)| self.outcome_of(shard, *replica, *host, id, at.index));
        let findings = futures_util::future::join_all(asking).await;
        let verdicts = verdicts(&findings);
        let replicas = members.into_iter().zip(findings).zip(verdicts);
        let report = Report {
            index: at.index,
            replicas: replicas
                .map(|(((replica, host), finding), verdict)| Scrubbed {
                    replica,
                    host,
                    finding,
                    verdict,
                })
                .collect(),
        };
        self.scrubs().judge(shard, &report, self.now_ms());
        Ok(report)
    }

    /// Asks a replica's host until it has an outcome, or says nothing for too long.
    async fn outcome_of(
        &self,
        shard: ShardId,
        replica: ReplicaId,
        host: HostId,
        scrub_id: u64,
        index: u64,
    ) -> Finding {
        let query = ScrubQuery {
            cluster_id: self.cluster_id().unwrap_or_default(),
            to_host: host.0,
            shard_id: shard.0,
            replica_id: replica.0,
            scrub_id,
            index,
        };
        let (began, mut heard) = (Instant::now(), Instant::now());
        loop {
            let finding = match host == self.id() {
                true => Ok(self.scrub_finding(&query)),
                false => self.ask_for_outcome(host, query.clone()).await,
            };
            match finding {
                Ok(Finding::Pending) => heard = Instant::now(),
                Ok(finding) => return finding,
                Err(why) if heard.elapsed() > SILENCE_MAX => return Finding::Unknown(why),
                Err(_) => {}
            }
            if began.elapsed() > SCRUB_TIME_MAX {
                return Finding::Pending;
            }
            tokio::time::sleep(ASK_PAUSE).await;
        }
    }

    async fn ask_for_outcome(&self, host: HostId, query: ScrubQuery) -> Result<Finding, String> {
        let address = self.map().hosts.get(&host).map(|known| known.address.clone());
        let address = address.ok_or_else(|| format!("the address of {host} is not known"))?;
        let mut control = self.channels().control(&address).map_err(|e| e.to_string())?;
        let asked = tokio::time::timeout(ASK_TIMEOUT, control.scrub_outcome(query)).await;
        let reply = asked
            .map_err(|_| format!("{host} did not answer in time"))?
            .map_err(|status| format!("{host}: {}", status.message()))?;
        Ok(reply.into_inner().into())
    }
}

impl From<ScrubOutcome> for Finding {
    fn from(told: ScrubOutcome) -> Finding {
        match told.outcome {
            Some(Told::Sum(Checksum { checksum, keys })) => Finding::Sum { checksum, keys },
            Some(Told::Damaged(why)) => Finding::Damaged(why),
            Some(Told::Unknown(why)) => Finding::Unknown(why),
            Some(Told::Pending(_)) | None => Finding::Pending,
        }
    }
}

impl From<Finding> for ScrubOutcome {
    fn from(finding: Finding) -> ScrubOutcome {
        let outcome = match finding {
            Finding::Pending => Told::Pending(true),
            Finding::Sum { checksum, keys } => Told::Sum(Checksum { checksum, keys }),
            Finding::Damaged(why) => Told::Damaged(why),
            Finding::Unknown(why) => Told::Unknown(why),
        };
        ScrubOutcome {
            outcome: Some(outcome),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(checksum: u64) -> Finding {
        Finding::Sum { checksum, keys: 5 }
    }

    fn unknown() -> Finding {
        Finding::Unknown("down".to_owned())
    }

    #[test]
    fn the_odd_one_out_is_corrupt() {
        use Verdict::{Corrupt, Sound, Unknown};
        assert_eq!(verdicts(&[sum(1), sum(1), sum(1)]), [Sound, Sound, Sound]);
        assert_eq!(verdicts(&[sum(1), sum(2), sum(1)]), [Sound, Corrupt, Sound]);
        // Of two that differ, nobody can tell which is right.
        assert_eq!(verdicts(&[sum(1), sum(2)]), [Corrupt, Corrupt]);
        assert_eq!(
            verdicts(&[sum(1), unknown(), sum(2)]),
            [Corrupt, Unknown, Corrupt]
        );
        let damaged = Finding::Damaged("a row".to_owned());
        assert_eq!(
            verdicts(&[damaged, sum(1), Finding::Pending]),
            [Corrupt, Sound, Unknown]
        );
        assert_eq!(verdicts(&[unknown()]), [Unknown]);
    }

    fn report(findings: &[Finding]) -> Report {
        let replicas = findings.iter().zip(verdicts(findings)).zip(1..);
        let scrubbed = replicas.map(|((finding, verdict), number)| Scrubbed {
            replica: ReplicaId(number),
            host: HostId(10 + number),
            finding: finding.clone(),
            verdict,
        });
        Report {
            index: 9,
            replicas: scrubbed.collect(),
        }
    }

    #[test]
    fn an_alarm_stays_until_its_replica_is_found_sound_or_gone() {
        let (scrubs, shard) = (Scrubs::default(), ShardId(3));
        let replicas = |scrubs: &Scrubs| -> Vec<u64> {
            let alarms = scrubs.alarms().into_iter();
            alarms.map(|((_, replica), _)| replica.0).collect()
        };
        scrubs.judge(shard, &report(&[sum(1), sum(2), sum(1)]), 100);
        assert_eq!(replicas(&scrubs), [2]);
        scrubs.judge(shard, &report(&[sum(1), unknown(), sum(1)]), 200);
        assert_eq!(replicas(&scrubs), [2], "nothing is known");
        scrubs.judge(shard, &report(&[sum(1), sum(3), sum(1)]), 300);
        assert_eq!(scrubs.alarms()[0].1.since_ms, 100);
        scrubs.judge(ShardId(4), &report(&[sum(1), sum(1)]), 400);
        assert_eq!(replicas(&scrubs), [2], "another shard");
        scrubs.judge(shard, &report(&[sum(1)]), 500);
        assert_eq!(replicas(&scrubs), [0; 0], "a member no longer");
    }

    #[test]
    fn findings_travel() {
        for finding in [Finding::Pending, sum(7), unknown(), Finding::Damaged("x".into())] {
            assert_eq!(Finding::from(ScrubOutcome::from(finding.clone())), finding);
        }
    }
}
