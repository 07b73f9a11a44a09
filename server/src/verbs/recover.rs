//! `godwit admin recover`: what is left of a shard that lost its majority, and, where the loss is accepted, the order to
//! go on from it.
//!
//! Without `--unsafe` nothing changes: every host that is not dead is asked what it has of the shard.

use client::proto::{HostStatus, RecoverShardRequest, Replica, ReplicaState, ShardsRequest};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::VerbError;
use super::admin::Operator;
use super::documents;
use super::listing::{Listing, SilentHost};
use super::text::{self, escaped, numbers, words};
use crate::cli::RecoverArgs;

/// What is left of a shard.
#[derive(Debug)]
pub(super) struct Survey {
    shard: u64,
    /// The voters on dead hosts.
    lost: Vec<Replica>,
    /// What the hosts that answered have, the best first.
    left: Vec<ReplicaState>,
    silent: Vec<SilentHost>,
    /// Why it would be refused; empty: it would not.
    refused: String,
}

impl Operator<'_> {
    pub(super) async fn recover(&self, args: RecoverArgs) -> Result<Listing, VerbError> {
        match args.accept_loss {
            true => self.recover_by_force(args).await,
            false => self.survey(args.shard).await.map(Listing::Survey),
        }
    }

    async fn recover_by_force(&self, args: RecoverArgs) -> Result<Listing, VerbError> {
        let request = RecoverShardRequest {
            shard_id: args.shard,
            accept_loss: true,
            reason: args.reason,
        };
        let reply = self.calls.recover_shard(request).await.map_err(self.failed())?;
        match reply.refused.is_empty() {
            true => Ok(Listing::Accepted(reply.migration_id)),
            false => Err(VerbError::Refused {
                message: reply.refused,
            }),
        }
    }

    async fn survey(&self, shard_id: u64) -> Result<Survey, VerbError> {
        let request = ShardsRequest {
            shard_id,
            placement_group: shard_id == 0,
        };
        let shards = self.calls.shards(request).await.map_err(self.failed())?.shards;
        let shard = shards.into_iter().next().ok_or(VerbError::NoShard(shard_id))?;
        let hosts = self.calls.hosts().await.map_err(self.failed())?.hosts;
        let (dead, present): (Vec<HostStatus>, _) = hosts.into_iter().partition(|host| host.state == "dead");
        let is_lost = |replica: &Replica| dead.iter().any(|host| host.host_id == replica.host_id);
        let voters = shard
            .replicas
            .into_iter()
            .filter(|replica| replica.role == "voter");
        let judged = RecoverShardRequest {
            shard_id,
            ..RecoverShardRequest::default()
        };
        let judged = self.calls.recover_shard(judged).await.map_err(self.failed())?;
        let (left, silent) = self.ask_all(&present, shard_id).await;
        Ok(Survey {
            shard: shard_id,
            lost: voters.filter(is_lost).collect(),
            left,
            silent,
            refused: judged.refused,
        })
    }

    async fn ask_all(&self, hosts: &[HostStatus], shard: u64) -> (Vec<ReplicaState>, Vec<SilentHost>) {
        let asking = hosts
            .iter()
            .map(|host| async move { (host, self.calls.replica_ends_of(&host.address, shard).await) });
        let (mut left, mut silent) = (Vec::new(), Vec::new());
        for (host, reply) in join_all(asking).await {
            match reply {
                Ok(reply) => left.extend(reply.replicas),
                Err(error) => silent.push(SilentHost {
                    host_id: host.host_id,
                    cause: error.to_string(),
                }),
            }
        }
        left.retain(|replica| replica.shard_id == shard);
        left.sort_by_key(|replica| std::cmp::Reverse((replica.last_term, replica.last_index)));
        (left, silent)
    }
}

impl Survey {
    /// For people.
    pub(super) fn text(&self) -> String {
        let silent = self
            .silent
            .iter()
            .map(|host| format!("host {}: {}", host.host_id, escaped(host.cause.as_bytes())));
        let told = [self.table()]
            .into_iter()
            .chain(silent)
            .chain([self.loss(), self.next()]);
        told.collect::<Vec<_>>().join("\n")
    }

    fn table(&self) -> String {
        let columns = [
            numbers("replica"),
            numbers("host"),
            words("role"),
            numbers("last term"),
            numbers("last entry"),
            numbers("applied"),
            numbers("revision"),
        ];
        let row = |replica: &ReplicaState| {
            [
                replica.replica_id.to_string(),
                replica.host_id.to_string(),
                escaped(replica.role.as_bytes()),
                replica.last_term.to_string(),
                replica.last_index.to_string(),
                replica.applied_index.to_string(),
                text::id(replica.revision),
            ]
        };
        match self.left.is_empty() {
            true => format!("no host that answers has a replica of shard {}", self.shard),
            false => text::table(columns, self.left.iter().map(row)),
        }
    }

    fn loss(&self) -> String {
        let name = |replica: &Replica| format!("replica {} on host {}", replica.replica_id, replica.host_id);
        let lost: Vec<String> = self.lost.iter().map(name).collect();
        match lost.is_empty() {
            true => "no voter is on a dead host".to_owned(),
            false => format!(
                "voters on dead hosts: {}. What only they had is lost, though it was acknowledged; nobody who is left \
                 knows how much that is",
                lost.join(", ")
            ),
        }
    }

    fn next(&self) -> String {
        match (self.refused.as_str(), self.left.first()) {
            ("", Some(best)) => format!(
                "nothing was changed; `godwit admin recover {} --unsafe` goes on from replica {} on host {}, or from a \
                 better one that answers until then",
                self.shard, best.replica_id, best.host_id
            ),
            ("", None) => "nothing was changed".to_owned(),
            (refused, _) => format!("a forced recovery is refused: {}", escaped(refused.as_bytes())),
        }
    }

    /// For scripts.
    pub(super) fn document(&self) -> Value {
        let lost =
            |replica: &Replica| json!({ "replica_id": replica.replica_id, "host_id": replica.host_id });
        json!({
            "shard_id": self.shard,
            "left": documents::each(&self.left, documents::replica_state),
            "lost": documents::each(&self.lost, lost),
            "silent_hosts": documents::each(&self.silent, documents::silent_host),
            "refused": (!self.refused.is_empty()).then_some(&self.refused),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(refused: &str) -> Survey {
        let replica = |replica_id, host_id, last_index| ReplicaState {
            shard_id: 7,
            replica_id,
            host_id,
            last_term: 3,
            last_index,
            role: "voter".into(),
            ..ReplicaState::default()
        };
        Survey {
            shard: 7,
            lost: vec![Replica {
                replica_id: 5,
                host_id: 2,
                role: "voter".into(),
            }],
            left: vec![replica(4, 1, 120), replica(6, 3, 118)],
            silent: vec![SilentHost {
                host_id: 9,
                cause: "no answer".into(),
            }],
            refused: refused.into(),
        }
    }

    #[test]
    fn a_survey_says_what_is_left_what_is_lost_and_what_to_do() {
        let text = survey("").text();
        for words in [
            "120",
            "host 9: no answer",
            "voters on dead hosts: replica 5 on host 2.",
            "`godwit admin recover 7 --unsafe` goes on from replica 4 on host 1",
        ] {
            assert!(text.contains(words), "{words} is not in {text}");
        }
        let text = survey("1 of 3").text();
        assert!(text.ends_with("a forced recovery is refused: 1 of 3"), "{text}");
        assert!(!text.contains("--unsafe"), "{text}");
        let document = survey("").document();
        assert_eq!(document["left"][0]["last_index"], 120);
        assert_eq!(document["lost"][0]["host_id"], 2);
        assert_eq!(document["refused"], Value::Null);
    }
}
