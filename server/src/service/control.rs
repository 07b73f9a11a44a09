//! The control service: the placement log's front door, the shard map, and a controller's orders.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use placement::{HostId, KeyRange, ReplicaId, ShardId, WindowId};
use raft::{ChangeError, ConfStamp, Group, MemberChange, SnapshotProgress};
use tonic::{Request, Response, Status};

use crate::control::change_members_order::Change;
use crate::control::control_server::{Control, ControlServer};
use crate::control::{
    ChangeMembersOrder, CreateReplicaOrder, DestroyReplicaOrder, FenceReplicaOrder, GroupView,
    InitializeGroupOrder, MapUpdate, MiddleKeyReply, MiddleKeyRequest, ObserveReply, ObserveRequest, Order,
    OrderReply, Progress, ProposeReply, ProposeRequest, ReopenReplicaOrder, ScrubOutcome, ScrubQuery,
    SnapshotOnItsWay, SpaceNotice, SpaceNoticeReply, SplitShardOrder, StageSplitOrder, StageSplitReply,
    StepMergeOrder, TakeWindowReply, TakeWindowRequest, TransferHomeOrder, Voters, WatchMapRequest,
};
use crate::host::{Absorber, Host, Predecessor};

/// The largest control message.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// A map is sent this often even when nothing changed, so that a follower notices a dead stream.
const MAP_PERIOD: Duration = Duration::from_secs(2);

/// Serves the control protocol.
#[derive(Clone)]
pub(crate) struct ControlService {
    pub(super) host: Host,
}

impl ControlService {
    pub(crate) fn server(host: Host) -> ControlServer<Self> {
        ControlServer::new(Self { host })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn check_cluster(&self, cluster_id: &str) -> Result<(), Status> {
        match self.host.cluster_id() {
            Some(known) if known == cluster_id => Ok(()),
            Some(_) => Err(Status::permission_denied("this host belongs to another cluster")),
            None => Err(Status::unavailable("this host belongs to no cluster yet")),
        }
    }

    fn check_host(&self, meant: u64) -> Result<(), Status> {
        match self.host.id().0 {
            here if here == meant => Ok(()),
            here => Err(Status::permission_denied(format!(
                "this is host {here}, not host {meant}"
            ))),
        }
    }

    fn group(&self, shard: u64) -> Option<Group> {
        self.host.raft()?.group(ShardId(shard))
    }

    /// Only who obeys tells of its group: one who refuses may be of another cluster, whose shards have the same ids.
    fn reply(&self, shard: u64, refused: Option<String>) -> Response<OrderReply> {
        let group = self.group(shard).filter(|_| refused.is_none());
        let view = group.map(|group| view(&self.host, &group));
        Response::new(OrderReply {
            refused: refused.unwrap_or_default(),
            view,
        })
    }

    /// Has an order about a whole replica carried out, whether or not the controller is still there at the end: a replica
    /// that is half made, or half gone, would be what the next order comes upon.
    async fn carry_out(
        &self,
        shard: u64,
        order: impl Future<Output = Result<(), String>> + Send + 'static,
    ) -> Result<Response<OrderReply>, Status> {
        let obeyed = super::carry_out(&self.host, order).await?;
        Ok(self.reply(shard, obeyed.err()))
    }

    /// Admits an order for a group that must be here.
    pub(super) fn admit(&self, order: Option<&Order>, shard: u64) -> Result<(u64, Group), String> {
        let term = self.host.admit(order).map_err(|e| e.to_string())?;
        let group = self
            .group(shard)
            .ok_or_else(|| format!("shard {shard} has no replica here"))?;
        Ok((term, group))
    }

    async fn create(&self, order: CreateReplicaOrder) -> Result<(), String> {
        self.host.admit(order.order.as_ref()).map_err(|e| e.to_string())?;
        let range = KeyRange {
            start: order.start.to_vec(),
            end: order.end.map(|end| end.to_vec()),
        };
        let (shard, replica) = (ShardId(order.shard_id), ReplicaId(order.replica_id));
        let created = match order.successor_of {
            None => self.host.create_replica(shard, replica, range, order.r#gen).await,
            Some(of) => {
                let of = Predecessor {
                    shard: ShardId(of.shard_id),
                    replica: ReplicaId(of.replica_id),
                    generation: of.r#gen,
                };
                self.host
                    .create_successor(shard, replica, range, order.r#gen, of)
                    .await
            }
        };
        created.map_err(|e| e.to_string())
    }

    async fn initialize(&self, order: InitializeGroupOrder) -> Result<(), String> {
        let (_, group) = self.admit(order.order.as_ref(), order.shard_id)?;
        let members: BTreeMap<ReplicaId, HostId> = order
            .members
            .into_iter()
            .map(|member| (ReplicaId(member.replica_id), HostId(member.host_id)))
            .collect();
        group.initialize(&members).await.map_err(|e| e.to_string())
    }

    async fn change(&self, order: ChangeMembersOrder) -> Result<(), String> {
        let (controller_term, group) = self.admit(order.order.as_ref(), order.shard_id)?;
        let stamp = ConfStamp {
            conf_ver: order.conf_ver,
            migration: order.migration,
            controller_term,
        };
        let joint = group.status().voters.len() > 1;
        let change = match order.change.ok_or("no change was named")? {
            Change::AddLearner(member) => MemberChange::AddLearner {
                replica: ReplicaId(member.replica_id),
                host: HostId(member.host_id),
            },
            Change::Switch(_) if joint => MemberChange::FinishJoint,
            Change::Switch(switch) => MemberChange::Switch {
                promote: switch.promote.map(ReplicaId),
                demote: switch.demote.map(ReplicaId),
            },
            Change::Remove(replica) => MemberChange::Remove {
                replica: ReplicaId(replica),
            },
        };
        group
            .change_members(change, stamp, order.decided_on)
            .await
            .map_err(|e: ChangeError| e.to_string())
    }

    async fn transfer(&self, order: TransferHomeOrder) -> Result<(), String> {
        let (_, group) = self.admit(order.order.as_ref(), order.shard_id)?;
        let timeout = Duration::from_millis(order.timeout_ms);
        group
            .transfer(ReplicaId(order.to_replica), timeout)
            .await
            .map_err(|e| e.to_string())
    }

    async fn fence(&self, order: FenceReplicaOrder) -> Result<(), String> {
        self.host.admit(order.order.as_ref()).map_err(|e| e.to_string())?;
        let (shard, replica) = (ShardId(order.shard_id), ReplicaId(order.replica_id));
        self.host
            .fence_replica(shard, replica, order.migration)
            .await
            .map_err(|e| e.to_string())
    }

    async fn reopen(&self, order: ReopenReplicaOrder) -> Result<(), String> {
        let term = self.host.admit(order.order.as_ref()).map_err(|e| e.to_string())?;
        self.host
            .reopen_replica(&order, term)
            .await
            .map_err(|e| e.to_string())
    }

    async fn destroy(&self, order: DestroyReplicaOrder) -> Result<(), String> {
        self.host.admit(order.order.as_ref()).map_err(|e| e.to_string())?;
        let (shard, replica) = (ShardId(order.shard_id), ReplicaId(order.replica_id));
        let destroyed = match order.absorbed_by {
            None => self.host.destroy_replica(shard, replica).await,
            Some(by) => {
                let by = Absorber {
                    shard: ShardId(by.shard_id),
                    replica: ReplicaId(by.replica_id),
                    generation: by.r#gen,
                };
                self.host.destroy_absorbed(shard, replica, by).await
            }
        };
        destroyed.map_err(|e| e.to_string())
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    type WatchMapStream = Pin<Box<dyn Stream<Item = Result<MapUpdate, Status>> + Send>>;

    async fn propose(&self, request: Request<ProposeRequest>) -> Result<Response<ProposeReply>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        placement::decode(&request.command).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let proposed = self.host.propose_here(request.command).await;
        let leader = || {
            let leader = self.host.placement()?.group.leader_host()?;
            Some(self.host.map().hosts.get(&leader)?.address.clone())
        };
        let reply = match proposed.map_err(|e| Status::unknown(e.to_string()))? {
            Some(response) => {
                let response = serde_json::to_vec(&response).map_err(|e| Status::internal(e.to_string()))?;
                ProposeReply {
                    response: response.into(),
                    leader: String::new(),
                }
            }
            None => ProposeReply {
                response: Default::default(),
                leader: leader().unwrap_or_default(),
            },
        };
        Ok(Response::new(reply))
    }

    async fn watch_map(
        &self,
        request: Request<WatchMapRequest>,
    ) -> Result<Response<Self::WatchMapStream>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        if self.host.placement().is_none() {
            return Err(Status::unavailable("this host has no placement replica"));
        }
        let maps = self.host.shared.map.subscribe();
        let updates = stream::unfold((maps, true), |(mut maps, first)| async move {
            if !first {
                drop(tokio::time::timeout(MAP_PERIOD, maps.changed()).await);
            }
            let update = maps.borrow_and_update().update();
            Some((Ok(update), (maps, false)))
        });
        let stop = self.host.stop().clone().cancelled_owned();
        Ok(Response::new(updates.take_until(stop).boxed()))
    }

    async fn observe(&self, request: Request<ObserveRequest>) -> Result<Response<ObserveReply>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        self.check_host(request.to_host)?;
        self.host.follow_snapshot_pace(&request);
        let groups = self.host.groups();
        let tombstones = self
            .host
            .shared
            .orders
            .lock()
            .expect("no panic under this lock")
            .tombstones
            .clone();
        Ok(Response::new(ObserveReply {
            groups: groups.iter().map(|group| view(&self.host, group)).collect(),
            tombstones: tombstones.into_iter().collect(),
            fenced: self.host.fenced_replicas(),
        }))
    }

    async fn create_replica(
        &self,
        request: Request<CreateReplicaOrder>,
    ) -> Result<Response<OrderReply>, Status> {
        let order = request.into_inner();
        let shard = order.shard_id;
        let service = self.clone();
        self.carry_out(shard, async move { service.create(order).await })
            .await
    }

    async fn initialize_group(
        &self,
        request: Request<InitializeGroupOrder>,
    ) -> Result<Response<OrderReply>, Status> {
        let order = request.into_inner();
        let shard = order.shard_id;
        Ok(self.reply(shard, self.initialize(order).await.err()))
    }

    async fn change_members(
        &self,
        request: Request<ChangeMembersOrder>,
    ) -> Result<Response<OrderReply>, Status> {
        let order = request.into_inner();
        let shard = order.shard_id;
        Ok(self.reply(shard, self.change(order).await.err()))
    }

    async fn transfer_home(
        &self,
        request: Request<TransferHomeOrder>,
    ) -> Result<Response<OrderReply>, Status> {
        let order = request.into_inner();
        let shard = order.shard_id;
        Ok(self.reply(shard, self.transfer(order).await.err()))
    }

    async fn destroy_replica(
        &self,
        request: Request<DestroyReplicaOrder>,
    ) -> Result<Response<OrderReply>, Status> {
        let order = request.into_inner();
        let shard = order.shard_id;
        let service = self.clone();
        self.carry_out(shard, async move { service.destroy(order).await })
            .await
    }

    async fn stage_split(
        &self,
        request: Request<StageSplitOrder>,
    ) -> Result<Response<StageSplitReply>, Status> {
        let staged = self.stage(request.into_inner()).await;
        Ok(Response::new(StageSplitReply {
            staged: matches!(staged, Ok(true)),
            refused: staged.err().unwrap_or_default(),
        }))
    }

    async fn split_shard(&self, request: Request<SplitShardOrder>) -> Result<Response<OrderReply>, Status> {
        let order = request.into_inner();
        let shard = order.shard_id;
        Ok(self.reply(shard, self.split(order).await.err()))
    }

    async fn step_merge(&self, request: Request<StepMergeOrder>) -> Result<Response<OrderReply>, Status> {
        let order = request.into_inner();
        let shard = order.shard_id;
        Ok(self.reply(shard, self.step_merge(order).await.err()))
    }

    async fn middle_key(
        &self,
        request: Request<MiddleKeyRequest>,
    ) -> Result<Response<MiddleKeyReply>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        self.check_host(request.to_host)?;
        let local = self.host.shard(ShardId(request.shard_id));
        let local = local.ok_or_else(|| Status::unavailable("the shard has no replica here"))?;
        let key = self.host.blocking(move || local.store.middle_key()).await;
        Ok(Response::new(MiddleKeyReply {
            key: key.unwrap_or_default(),
        }))
    }

    async fn fence_replica(
        &self,
        request: Request<FenceReplicaOrder>,
    ) -> Result<Response<OrderReply>, Status> {
        let order = request.into_inner();
        let shard = order.shard_id;
        let service = self.clone();
        self.carry_out(shard, async move { service.fence(order).await })
            .await
    }

    async fn reopen_replica(
        &self,
        request: Request<ReopenReplicaOrder>,
    ) -> Result<Response<OrderReply>, Status> {
        let order = request.into_inner();
        let shard = order.shard_id;
        let service = self.clone();
        self.carry_out(shard, async move { service.reopen(order).await })
            .await
    }

    async fn tell_space(&self, request: Request<SpaceNotice>) -> Result<Response<SpaceNoticeReply>, Status> {
        let notice = request.into_inner();
        self.check_cluster(&notice.cluster_id)?;
        self.check_host(notice.to_host)?;
        let from = HostId(notice.from_host);
        self.host
            .space()
            .note_other(from, notice.is_short, self.host.uptime());
        Ok(Response::new(SpaceNoticeReply {}))
    }

    async fn scrub_outcome(&self, request: Request<ScrubQuery>) -> Result<Response<ScrubOutcome>, Status> {
        let query = request.into_inner();
        self.check_cluster(&query.cluster_id)?;
        self.check_host(query.to_host)?;
        Ok(Response::new(self.host.scrub_finding(&query).into()))
    }

    async fn take_window(
        &self,
        request: Request<TakeWindowRequest>,
    ) -> Result<Response<TakeWindowReply>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        self.check_host(request.to_host)?;
        let profiler = self
            .host
            .profiler()
            .ok_or_else(|| Status::unavailable("this host counts nothing yet"))?;
        let report = profiler.take_window(WindowId(request.window));
        let report = serde_json::to_vec(&report).map_err(|e| Status::internal(e.to_string()))?;
        Ok(Response::new(TakeWindowReply {
            report: report.into(),
        }))
    }
}

fn snapshot_on_its_way(progress: SnapshotProgress) -> SnapshotOnItsWay {
    match progress {
        SnapshotProgress::Waiting => SnapshotOnItsWay {
            waits: true,
            sent_bytes: 0,
        },
        SnapshotProgress::Sending { bytes } => SnapshotOnItsWay {
            waits: false,
            sent_bytes: bytes,
        },
    }
}

/// What this host knows of a group. Counts of entries, so that an empty log is 0.
fn view(host: &Host, group: &Group) -> GroupView {
    let (status, local) = (group.status(), host.shard(group.id()));
    let entries = |last: Option<u64>| last.map_or(0, |index| index + 1);
    let progress = status.progress.iter().map(|(replica, progress)| Progress {
        replica_id: replica.0,
        matched: entries(progress.matched),
        acknowledged_ms_ago: progress
            .acknowledged_ago
            .map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
        snapshot: progress.snapshot.map(snapshot_on_its_way),
    });
    GroupView {
        shard_id: group.id().0,
        replica_id: status.replica.0,
        raft_term: status.term,
        leader: status.leader.map_or(0, |leader| leader.0),
        voters: status
            .voters
            .iter()
            .map(|voters| Voters {
                replicas: voters.iter().map(|voter| voter.0).collect(),
            })
            .collect(),
        learners: status.learners.iter().map(|learner| learner.0).collect(),
        membership_index: status.membership_index.unwrap_or(0),
        conf_ver: status.stamp.conf_ver,
        migration: status.stamp.migration,
        last_index: entries(status.last_index),
        progress: progress.collect(),
        purged: entries(status.purged_index),
        bytes: local.as_ref().map_or(0, |local| local.store.stats().bytes),
        r#gen: local.as_ref().map_or(0, |local| local.store.generation()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;
    use storage::disk::Disk;
    use storage::sim_disk::SimDisk;

    use super::*;
    use crate::control::control_client::ControlClient;
    use crate::host::testing::{Served, eventually};

    /// A controller would take what it says of its own shards for theirs.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_host_of_another_cluster_says_nothing_of_its_groups() {
        let served = Served::start(&Arc::new(SimDisk::new(1)), |_, _| {}).await;
        served.init().await;
        let mut control = ControlClient::connect(served.endpoint.clone()).await.unwrap();
        let shard = served
            .host
            .groups()
            .iter()
            .map(|group| group.id().0)
            .max()
            .unwrap();
        let mut transfer = async |cluster_id: &str| {
            let order = TransferHomeOrder {
                order: Some(Order {
                    cluster_id: cluster_id.to_owned(),
                    to_host: served.host.id().0,
                    controller_term: 1_000,
                }),
                shard_id: shard,
                ..TransferHomeOrder::default()
            };
            control.transfer_home(order).await.unwrap().into_inner()
        };
        let stranger = transfer("another").await;
        assert!(!stranger.refused.is_empty());
        assert_eq!(stranger.view, None);
        served.stop().await;
    }

    /// Its replica would be neither here nor gone, and the next order would come upon it.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_order_is_carried_out_although_its_controller_goes_away() {
        let disk = Arc::new(SimDisk::new(1));
        let served = Served::start(&disk, |_, _| {}).await;
        served.init().await;
        let host = &served.host;
        let group = host
            .groups()
            .into_iter()
            .find(|group| group.id() != ShardId::PLACEMENT);
        let (shard, replica) = group.map(|group| (group.id(), group.replica())).unwrap();
        let order = DestroyReplicaOrder {
            order: Some(Order {
                cluster_id: host.cluster_id().unwrap(),
                to_host: host.id().0,
                controller_term: 1_000,
            }),
            shard_id: shard.0,
            replica_id: replica.0,
            absorbed_by: None,
        };
        let service = ControlService { host: host.clone() };
        let file = host.replica_file(shard, replica);
        let asked = service.destroy_replica(Request::new(order)).now_or_never();
        assert!(asked.is_none(), "it takes a while");
        eventually(|| !disk.exists(&file).unwrap()).await;
        served.stop().await;
    }
}
