//! `godwit admin`: looks at a cluster, moves shards and takes hosts out of service.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use client::{
    AdminClient,
    proto::{
        HistoryRequest, HostStatus, MergeShardRequest, MigrationReply, MigrationsRequest, MoveHomeRequest,
        MoveReplicaRequest, ShardsRequest, SplitShardRequest, UsageReply,
    },
};

use futures_util::future::join_all;
use storage::clock::Clock;

use super::{
    Exit, VerbError, connect,
    leaving::Wish,
    listing::{Listing, SilentHost},
};
use crate::cli::{
    AdminArgs, AdminVerb, ConnectArgs, HistoryArgs, HostsArgs, MergeArgs, MigrationsArgs, MoveArgs,
    MoveHomeArgs, ReplicasArgs, ScrubArgs, ShardsArgs, SplitArgs,
};
use crate::serve::SystemClock;

/// Shows what a change that was not confirmed came to.
const LOOK: &str = "godwit admin migrations --all";
const LOOK_AT_HOSTS: &str = "godwit admin hosts";

/// Makes the call and prints its answer.
pub async fn admin(connect: &ConnectArgs, args: AdminArgs, out: &mut dyn Write) -> Result<Exit, VerbError> {
    let operator = Operator {
        connect,
        calls: connect::operator(connect)?,
    };
    // A script reads one document; people want to see how far a host is.
    let listing = match args.json {
        true => operator.ask(args.verb, &mut std::io::sink()).await?,
        false => operator.ask(args.verb, out).await?,
    };
    match args.json {
        true => writeln!(out, "{}", listing.document())?,
        false => writeln!(out, "{}", listing.text())?,
    }
    Ok(Exit::Ok)
}

pub(super) struct Operator<'a> {
    pub(super) connect: &'a ConnectArgs,
    pub(super) calls: AdminClient,
}

impl Operator<'_> {
    async fn ask(&self, verb: AdminVerb, progress: &mut dyn Write) -> Result<Listing, VerbError> {
        match verb {
            AdminVerb::Status => self.status().await,
            AdminVerb::Hosts(args) => self.hosts(args).await,
            AdminVerb::Cordon(args) => self.change_admission(Wish::cordon(args), progress).await,
            AdminVerb::Uncordon(args) => self.change_admission(Wish::uncordon(args), progress).await,
            AdminVerb::Drain(args) => self.change_admission(Wish::drain(args), progress).await,
            AdminVerb::Decommission(args) => self.change_admission(Wish::decommission(args), progress).await,
            AdminVerb::Explain(args) => self.explain(args).await,
            AdminVerb::Plan(args) => self.plan(args).await,
            AdminVerb::Pause(args) => self.pause(args).await,
            AdminVerb::Resume(args) => self.resume(args).await,
            AdminVerb::Limits(args) => self.limits(args).await,
            AdminVerb::Shadow(args) => self.shadow(args).await,
            AdminVerb::Unshadow(args) => self.unshadow(args).await,
            AdminVerb::Window(args) => self.windows(args).await,
            AdminVerb::Trust(args) => self.trust(args).await,
            AdminVerb::Cancel(args) => self.cancel(args).await,
            AdminVerb::Recover(args) => self.recover(args).await,
            AdminVerb::Shards(args) => self.shards(args).await,
            AdminVerb::Replicas(args) => self.replicas(args).await,
            AdminVerb::Alarms => self.alarms().await,
            AdminVerb::Scrub(args) => self.scrub(args).await,
            AdminVerb::Migrations(args) => self.migrations(args).await,
            AdminVerb::Move(args) => self.move_replica(args).await,
            AdminVerb::Home(args) => self.move_home(args).await,
            AdminVerb::Split(args) => self.split_shard(args).await,
            AdminVerb::Merge(args) => self.merge_shard(args).await,
            AdminVerb::History(args) => self.history(args).await,
        }
    }

    async fn status(&self) -> Result<Listing, VerbError> {
        let status = self.calls.status().await.map_err(self.failed())?;
        // A host without a cluster has a status, too.
        let limits = self.calls.limits().await.ok().and_then(|reply| reply.limits);
        Ok(Listing::Status(status, limits))
    }

    async fn hosts(&self, args: HostsArgs) -> Result<Listing, VerbError> {
        let reply = match args.all {
            true => self.calls.hosts_and_decommissioned().await,
            false => self.calls.hosts().await,
        };
        let hosts = reply.map_err(self.failed())?.hosts;
        let (usage, _) = self.usage_of(&hosts).await;
        Ok(Listing::Hosts { hosts, usage })
    }

    async fn shards(&self, args: ShardsArgs) -> Result<Listing, VerbError> {
        let shard_id = id_or_all("shard", args.shard)?;
        let reply = self
            .calls
            .shards(ShardsRequest {
                shard_id,
                placement_group: false,
            })
            .await;
        let shards = reply.map_err(self.failed())?.shards;
        match args.shard {
            Some(shard) if shards.is_empty() => Err(VerbError::NoShard(shard)),
            _ => Ok(Listing::Shards(shards)),
        }
    }

    /// Asks every host that is not gone for good; one that does not answer is listed as silent.
    async fn replicas(&self, args: ReplicasArgs) -> Result<Listing, VerbError> {
        let hosts = self.calls.hosts().await.map_err(self.failed())?.hosts;
        let asking = hosts
            .iter()
            .map(|host| async move { (host, self.calls.replica_states_of(&host.address).await) });
        let (mut replicas, mut silent) = (Vec::new(), Vec::new());
        for (host, reply) in join_all(asking).await {
            match reply {
                Ok(reply) => replicas.extend(reply.replicas),
                Err(error) => silent.push(SilentHost {
                    host_id: host.host_id,
                    cause: error.to_string(),
                }),
            }
        }
        replicas.retain(|replica| args.shard.is_none_or(|shard| replica.shard_id == shard));
        replicas.sort_by_key(|replica| (replica.shard_id, replica.replica_id));
        match args.shard {
            Some(shard) if replicas.is_empty() && silent.is_empty() => Err(VerbError::NoShard(shard)),
            _ => Ok(Listing::Replicas { replicas, silent }),
        }
    }

    async fn alarms(&self) -> Result<Listing, VerbError> {
        let hosts = self.calls.hosts().await.map_err(self.failed())?.hosts;
        let (usage, silent) = self.usage_of(&hosts).await;
        let alarms = usage.into_values().flat_map(|usage| usage.alarms).collect();
        Ok(Listing::Alarms { alarms, silent })
    }

    /// Has each shard scrubbed by its home, one after another: they would be in each other's way.
    async fn scrub(&self, args: ScrubArgs) -> Result<Listing, VerbError> {
        let request = ShardsRequest {
            shard_id: id_or_all("shard", args.shard)?,
            placement_group: false,
        };
        let shards = self.calls.shards(request).await.map_err(self.failed())?.shards;
        if let Some(shard) = args.shard.filter(|_| shards.is_empty()) {
            return Err(VerbError::NoShard(shard));
        }
        let hosts = self.calls.hosts().await.map_err(self.failed())?.hosts;
        let mut scrubbed = Vec::new();
        for shard in shards {
            let home = hosts.iter().find(|host| host.host_id == shard.home);
            let reply = match home {
                Some(home) => {
                    let limit = Duration::from_secs(args.timeout);
                    let scrubbing = self.calls.scrub_at(&home.address, shard.shard_id, limit);
                    scrubbing.await.map_err(|error| error.to_string())
                }
                None => Err("it has no home".to_owned()),
            };
            scrubbed.push((shard.shard_id, reply));
        }
        Ok(Listing::Scrubbed(scrubbed))
    }

    /// Asks each of these hosts that has not left for good what it uses: what they said, and who did not answer.
    async fn usage_of(&self, hosts: &[HostStatus]) -> (BTreeMap<u64, UsageReply>, Vec<SilentHost>) {
        let present = hosts.iter().filter(|host| host.state != "decommissioned");
        let asking =
            present.map(|host| async move { (host.host_id, self.calls.usage_of(&host.address).await) });
        let (mut usage, mut silent) = (BTreeMap::new(), Vec::new());
        for (host_id, reply) in join_all(asking).await {
            match reply {
                Ok(reply) => drop(usage.insert(host_id, reply)),
                Err(error) => silent.push(SilentHost {
                    host_id,
                    cause: error.to_string(),
                }),
            }
        }
        (usage, silent)
    }

    async fn migrations(&self, args: MigrationsArgs) -> Result<Listing, VerbError> {
        let request = MigrationsRequest {
            include_ended: args.all,
            limit: args.limit,
        };
        let reply = self.calls.migrations(request).await;
        Ok(Listing::Migrations(reply.map_err(self.failed())?.migrations))
    }

    async fn move_replica(&self, args: MoveArgs) -> Result<Listing, VerbError> {
        let request = MoveReplicaRequest {
            shard_id: args.shard,
            from_host: args.from,
            to_host: args.to,
            reason: args.reason,
        };
        let reply = self.calls.move_replica(request).await;
        accepted(reply.map_err(self.failed())?)
    }

    async fn move_home(&self, args: MoveHomeArgs) -> Result<Listing, VerbError> {
        let request = MoveHomeRequest {
            shard_id: args.shard,
            to_host: args.to,
            reason: args.reason,
        };
        let reply = self.calls.move_home(request).await;
        accepted(reply.map_err(self.failed())?)
    }

    async fn split_shard(&self, args: SplitArgs) -> Result<Listing, VerbError> {
        let request = SplitShardRequest {
            shard_id: args.shard,
            at: args.at.unwrap_or_default().into(),
            reason: args.reason,
        };
        let reply = self.calls.split_shard(request).await;
        accepted(reply.map_err(self.failed())?)
    }

    async fn merge_shard(&self, args: MergeArgs) -> Result<Listing, VerbError> {
        let request = MergeShardRequest {
            shard_id: args.shard,
            reason: args.reason,
        };
        let reply = self.calls.merge_shard(request).await;
        accepted(reply.map_err(self.failed())?)
    }

    async fn history(&self, args: HistoryArgs) -> Result<Listing, VerbError> {
        let now_ms = SystemClock.now_ms();
        let request = HistoryRequest {
            shard_id: id_or_all("shard", args.shard)?,
            host_id: id_or_all("host", args.host)?,
            migration_id: id_or_all("migration", args.migration)?,
            limit: args.limit,
            since_ms: args.since.map_or(0, |since| since.at_ms(now_ms)),
            until_ms: args.until.map_or(0, |until| until.at_ms(now_ms)),
        };
        let reply = self.calls.history(request).await;
        let history = reply.map_err(self.failed())?;
        match args.totals {
            true => Ok(Listing::Totals(history)),
            false => Ok(Listing::History(history)),
        }
    }

    pub(super) fn failed(&self) -> impl FnOnce(client::AdminError) -> VerbError {
        connect::failed(self.connect, LOOK)
    }

    /// What asking for a change of a host failed with.
    pub(super) fn changing_failed(&self) -> impl FnOnce(client::AdminError) -> VerbError {
        connect::failed(self.connect, LOOK_AT_HOSTS)
    }
}

/// The protocol reads 0 as "all": asking for id 0 would show everything as if it belonged to that id.
fn id_or_all(what: &'static str, id: Option<u64>) -> Result<u64, VerbError> {
    match id {
        Some(0) => Err(VerbError::ZeroId { what }),
        id => Ok(id.unwrap_or_default()),
    }
}

fn accepted(reply: MigrationReply) -> Result<Listing, VerbError> {
    match reply.refused.is_empty() {
        true => Ok(Listing::Accepted(reply.migration_id)),
        false => Err(VerbError::Refused {
            message: reply.refused,
        }),
    }
}

#[cfg(test)]
mod tests {
    use client::AdminError;

    use super::*;

    fn at(address: &str) -> ConnectArgs {
        ConnectArgs {
            connect: vec![address.to_owned()],
        }
    }

    #[test]
    fn id_0_is_not_taken_for_all() {
        assert_eq!(id_or_all("shard", None).unwrap(), 0);
        assert_eq!(id_or_all("shard", Some(7)).unwrap(), 7);
        let text = id_or_all("shard", Some(0)).unwrap_err().to_string();
        assert!(text.starts_with("shard 0 cannot be asked for"), "{text}");
    }

    #[test]
    fn a_refusal_is_an_error() {
        let reply = |migration_id, refused: &str| MigrationReply {
            migration_id,
            refused: refused.to_owned(),
        };
        assert!(matches!(accepted(reply(17, "")), Ok(Listing::Accepted(17))));
        let error = accepted(reply(0, "no shard 7")).unwrap_err();
        assert_eq!(error.to_string(), "refused: no shard 7");
    }

    #[test]
    fn errors_name_the_address_or_the_next_step() {
        let text = |error| connect::failed(&at("a:1"), LOOK)(error).to_string();
        let refused = AdminError::Refused {
            message: "no quorum".into(),
        };
        assert_eq!(text(refused), "a:1: refused: no quorum");
        let lost = text(AdminError::UnknownOutcome {
            cause: "a:1: reset".into(),
        });
        assert!(
            lost.contains("a:1: reset") && lost.contains("`godwit admin migrations --all`"),
            "{lost}"
        );
    }

    #[tokio::test]
    async fn a_host_that_does_not_answer_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let args = AdminArgs {
            json: true,
            verb: AdminVerb::Status,
        };
        let mut out = Vec::new();
        let error = admin(&at(&address), args, &mut out).await.unwrap_err();
        assert!(matches!(error, VerbError::Unreachable { .. }), "{error}");
        assert!(
            error
                .to_string()
                .starts_with(&format!("no answer from {address}: ")),
            "{error}"
        );
        assert!(out.is_empty(), "nothing is printed of no answer");
    }
}
