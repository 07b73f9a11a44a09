//! Operators' calls.
//!
//! A host with a placement replica answers from its applied state, once that misses nothing that was committed before the
//! call; another passes the call on to one that has. What changes something goes through the placement log, wherever its
//! leader is.

use std::time::Duration;

use bytes::Bytes;
use client::proto::admin_client::AdminClient;
use client::proto::admin_server::{Admin, AdminServer};
use client::proto::{
    CancelReply, CancelRequest, ChangeAdmissionReply, ChangeAdmissionRequest, ChangeLimitsReply,
    ChangeLimitsRequest, ChangeModelReply, ChangeModelRequest, ChangeWindowsReply, ChangeWindowsRequest,
    CloseWindowReply, CloseWindowRequest, DepartureReply, DepartureRequest, DryRunReply, DryRunRequest,
    ExplainReply, ExplainRequest, HistoryEvent, HistoryReply, HistoryRequest, HostAffinity, HostsReply,
    HostsRequest, InitReply, InitRequest, JoinReply, JoinRequest, LimitsReply, LimitsRequest, LoadReply,
    LoadRequest, MergeShardRequest, MigrationReply, MigrationStatus, MigrationsReply, MigrationsRequest,
    ModelsReply, ModelsRequest, MoveHomeRequest, MoveReplicaRequest, RecoverShardReply, RecoverShardRequest,
    Replica, ReplicaStatesReply, ReplicaStatesRequest, RestoreTrustReply, RestoreTrustRequest, ScrubReply,
    ScrubRequest, SetBalancerReply, SetBalancerRequest, ShardStatus, ShardsReply, ShardsRequest,
    SplitShardRequest, StatusReply, StatusRequest, Total, TrustReply, TrustRequest, UsageReply, UsageRequest,
    WindowsReply, WindowsRequest,
};
use placement::{
    Accepted, Command, HostId, MigrationId, NewHost, Origin, Placement, Proposal, ProposalKind, Reasons,
    Region, Response as Applied, Role, ShardId, WindowId, Zone,
};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::{carry_out, explain, hosts, limits, models, replica_states, trust, windows};
use crate::config::UnknownPolicy;
use crate::controller::{BalanceError, middle_key};
use crate::host::{Host, ProposeFailure, ShardMap};

/// A manual proposal that could not start after this long is rejected.
const PROPOSAL_LIFE_MS: u64 = 60_000;
const FORWARD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call waits for a majority's word that this host's placement replica misses nothing. With the
/// default settings an election is shorter.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause between two askings, while leadership changes.
const CATCH_UP_PAUSE: Duration = Duration::from_millis(20);
const LIMIT_DEFAULT: u32 = 100;
/// Marks a call that was passed on already, so that it is not passed on again.
const FORWARDED: &str = "godwit-forwarded";

/// Serves the admin protocol.
#[derive(Clone)]
pub(crate) struct AdminService {
    host: Host,
}

/// Passes a call on unless this host can answer it.
macro_rules! answer_or_forward {
    ($self:ident, $request:ident, $method:ident) => {
        if $self.host.placement().is_none() {
            let mut admin = $self.next_host(&$request)?;
            let mut passed = Request::new($request.into_inner());
            passed.set_timeout(FORWARD_TIMEOUT);
            passed
                .metadata_mut()
                .insert(FORWARDED, tonic::metadata::MetadataValue::from_static("1"));
            return admin.$method(passed).await;
        }
        $self.catch_up().await;
    };
}

impl AdminService {
    pub(crate) fn server(host: Host) -> AdminServer<Self> {
        AdminServer::new(Self { host })
    }

    fn next_host<T>(&self, request: &Request<T>) -> Result<AdminClient<Channel>, Status> {
        if request.metadata().contains_key(FORWARDED) {
            return Err(Status::unavailable(
                "this host has no placement replica any more; ask again",
            ));
        }
        let map = self.host.map();
        let known = map.placement.values().find_map(|host| map.hosts.get(host));
        let known = known.ok_or_else(|| Status::unavailable("this host knows no placement replica yet"))?;
        let channel = self.host.channels().channel(&known.address);
        Ok(AdminClient::new(
            channel.map_err(|e| Status::unavailable(e.to_string()))?,
        ))
    }

    /// The admin service of the placement leader's host.
    fn leader<T>(&self, request: &Request<T>) -> Result<AdminClient<Channel>, Status> {
        let leader = self.host.placement().and_then(|local| local.group.leader_host());
        let Some(leader) = leader.filter(|leader| *leader != self.host.id()) else {
            return self.next_host(request);
        };
        if request.metadata().contains_key(FORWARDED) {
            return Err(Status::unavailable("the placement leader is changing; ask again"));
        }
        let address = self
            .host
            .map()
            .hosts
            .get(&leader)
            .map(|known| known.address.clone());
        let address =
            address.ok_or_else(|| Status::unavailable("the placement leader's address is not known"))?;
        let channel = self.host.channels().channel(&address);
        Ok(AdminClient::new(
            channel.map_err(|e| Status::unavailable(e.to_string()))?,
        ))
    }

    /// Waits until this host's placement state misses nothing that was committed before the call, as that of one that has
    /// just started may. Without a majority it is read as it is: operators need it most when hosts are gone.
    async fn catch_up(&self) {
        let Some(local) = self.host.placement() else {
            return;
        };
        let caught_up = async {
            while local.group.read_index_here().await.is_err() {
                tokio::time::sleep(CATCH_UP_PAUSE).await;
            }
        };
        if tokio::time::timeout(CATCH_UP_TIMEOUT, caught_up).await.is_err() {
            tracing::warn!(
                "no majority of the placement group answers: an admin call is answered from what this host knows"
            );
        }
    }

    /// Reads the placement state of this host.
    fn look<T>(&self, read: impl FnOnce(&Placement) -> T) -> Result<T, Status> {
        let local = self
            .host
            .placement()
            .ok_or_else(|| Status::unavailable("no placement replica here"))?;
        let state = local.machine.state();
        if state.cluster_id().is_none() {
            return Err(Status::unavailable("the placement group is still starting"));
        }
        Ok(read(&state))
    }

    async fn write(&self, command: Command) -> Result<Applied, Status> {
        let proposed = self.host.propose(&command).await;
        proposed.map_err(|failure| match failure {
            // The caller may ask another host.
            ProposeFailure::NoLeader(_) => Status::unavailable(failure.to_string()),
            ProposeFailure::Unknown(_) => Status::unknown(failure.to_string()),
        })
    }

    /// Writes a change that is accepted, then empty, or refused, and why.
    async fn change(&self, command: Command) -> Result<String, Status> {
        Ok(match self.write(command).await? {
            Applied::Accepted(_) => String::new(),
            Applied::Refused(refusal) => refusal.to_string(),
        })
    }

    /// Where the data of a shard parts in two halves, as its home says; empty: nowhere.
    async fn middle_key(&self, shard: ShardId) -> Result<Bytes, Status> {
        let home = self.look(|state| {
            let home = state.shard(shard)?.home_host()?;
            Some((home, state.host(home)?.address.clone()))
        })?;
        match home {
            Some((home, address)) => middle_key(&self.host, shard, home, &address).await,
            None => Ok(Bytes::new()),
        }
    }

    async fn propose(
        &self,
        shard: ShardId,
        kind: impl FnOnce(&Placement) -> Result<ProposalKind, String>,
        reason: String,
    ) -> Result<Response<MigrationReply>, Status> {
        let now_ms = self.host.now_ms();
        let planned = self.look(|state| {
            let known = state
                .shard(shard)
                .ok_or_else(|| format!("no shard {}", shard.0))?;
            let reasons = Reasons {
                policy: "manual".into(),
                text: reason,
                ..Reasons::default()
            };
            Ok::<_, String>(Proposal {
                shard,
                kind: kind(state)?,
                basis: known.epoch,
                origin: Origin::Manual,
                expires_ms: now_ms + PROPOSAL_LIFE_MS,
                reasons,
                window: state.window(),
                now_ms,
            })
        })?;
        let refused = |refused: String| {
            Ok(Response::new(MigrationReply {
                migration_id: 0,
                refused,
            }))
        };
        let proposal = match planned {
            Ok(proposal) => proposal,
            Err(reason) => return refused(reason),
        };
        match self.write(Command::Propose(proposal)).await? {
            Applied::Accepted(Accepted::Proposed(migration)) => Ok(Response::new(MigrationReply {
                migration_id: migration.0,
                refused: String::new(),
            })),
            Applied::Accepted(other) => Err(Status::internal(format!("an unexpected answer: {other:?}"))),
            Applied::Refused(refusal) => refused(refusal.to_string()),
        }
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn init(&self, request: Request<InitRequest>) -> Result<Response<InitReply>, Status> {
        // Nobody else would finish it before a restart.
        let host = self.host.clone();
        let made = carry_out(&self.host, async move { host.init(request.into_inner()).await }).await?;
        let cluster_id = made.map_err(|e| Status::failed_precondition(e.to_string()))?;
        Ok(Response::new(InitReply { cluster_id }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let request = request.into_inner();
        let cluster_id = self
            .host
            .cluster_id()
            .ok_or_else(|| Status::unavailable("this host belongs to no cluster yet"))?;
        if !request.cluster_id.is_empty() && request.cluster_id != cluster_id {
            return Err(Status::permission_denied("this host belongs to another cluster"));
        }
        let host = NewHost {
            address: request.address,
            zone: Zone(request.zone),
            region: Region(request.region),
            capacity_bytes: request.capacity_bytes,
            token: request.token,
        };
        let command = Command::JoinHost {
            host_id: HostId(request.host_id),
            host,
            now_ms: self.host.now_ms(),
        };
        match self.write(command).await? {
            Applied::Accepted(Accepted::Joined { host, .. }) => Ok(Response::new(JoinReply {
                cluster_id,
                host_id: host.0,
                peers: self.newest_map().encode().into(),
            })),
            Applied::Accepted(other) => Err(Status::internal(format!("an unexpected answer: {other:?}"))),
            Applied::Refused(refusal) => Err(hosts::not_joined(&refusal)),
        }
    }

    async fn status(&self, _request: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        let map = self.host.map();
        let placement = self.host.placement();
        let (applied, active) = placement.as_ref().map_or((0, 0), |local| {
            let state = local.machine.state();
            (state.applied_index(), state.active_migrations().count() as u64)
        });
        let led_here = self
            .host
            .shards()
            .iter()
            .filter(|local| local.group.is_leader())
            .count();
        Ok(Response::new(StatusReply {
            cluster_id: self.host.cluster_id().unwrap_or_default(),
            host_id: self.host.id().0,
            address: self.host.address().to_owned(),
            placement_leader: placement
                .and_then(|local| local.group.leader_host())
                .map_or(0, |host| host.0),
            placement_applied: applied,
            map_version: map.version,
            shards_total: map.shards.len() as u64,
            shards_led_here: led_here as u64,
            migrations_active: active,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn hosts(&self, request: Request<HostsRequest>) -> Result<Response<HostsReply>, Status> {
        answer_or_forward!(self, request, hosts);
        let decommissioned = request.into_inner().decommissioned;
        let hosts = self.look(|state| hosts::hosts(state, decommissioned))?;
        Ok(Response::new(HostsReply { hosts }))
    }

    async fn shards(&self, request: Request<ShardsRequest>) -> Result<Response<ShardsReply>, Status> {
        answer_or_forward!(self, request, shards);
        let request = request.into_inner();
        let shards = self.look(|state| {
            let shards = state.shards().values().filter(|shard| match request.shard_id {
                _ if request.placement_group => shard.id == ShardId::PLACEMENT,
                0 => shard.id != ShardId::PLACEMENT,
                id => shard.id.0 == id,
            });
            shards.map(|shard| shard_status(state, shard)).collect()
        })?;
        Ok(Response::new(ShardsReply { shards }))
    }

    async fn replica_states(
        &self,
        request: Request<ReplicaStatesRequest>,
    ) -> Result<Response<ReplicaStatesReply>, Status> {
        let request = request.into_inner();
        let host = self.host.clone();
        let replicas = self
            .host
            .blocking(move || replica_states::of(&host, &request))
            .await;
        Ok(Response::new(ReplicaStatesReply { replicas }))
    }

    async fn usage(&self, _request: Request<UsageRequest>) -> Result<Response<UsageReply>, Status> {
        Ok(Response::new(super::usage::usage(&self.host)))
    }

    async fn load(&self, _request: Request<LoadRequest>) -> Result<Response<LoadReply>, Status> {
        Ok(Response::new(super::load::load(&self.host)))
    }

    async fn scrub(&self, request: Request<ScrubRequest>) -> Result<Response<ScrubReply>, Status> {
        let shard = ShardId(request.into_inner().shard_id);
        let local = self
            .host
            .shard(shard)
            .ok_or_else(|| Status::failed_precondition(format!("this host has no replica of {shard}")))?;
        // What it finds raises alarms, whoever asked.
        let host = self.host.clone();
        let scrubbed = carry_out(&self.host, async move { host.scrub_shard(&local).await }).await?;
        let report = scrubbed.map_err(|e| Status::failed_precondition(e.to_string()))?;
        Ok(Response::new(super::usage::scrub_reply(shard, report)))
    }

    async fn migrations(
        &self,
        request: Request<MigrationsRequest>,
    ) -> Result<Response<MigrationsReply>, Status> {
        answer_or_forward!(self, request, migrations);
        let request = request.into_inner();
        let migrations = self.look(|state| {
            let known = state.migrations().values().rev();
            let wanted = known.filter(|migration| request.include_ended || !migration.state.is_terminal());
            wanted.take(limit(request.limit)).map(migration_status).collect()
        })?;
        Ok(Response::new(MigrationsReply { migrations }))
    }

    async fn move_replica(
        &self,
        request: Request<MoveReplicaRequest>,
    ) -> Result<Response<MigrationReply>, Status> {
        answer_or_forward!(self, request, move_replica);
        let request = request.into_inner();
        let (shard, from, to) = (
            ShardId(request.shard_id),
            HostId(request.from_host),
            HostId(request.to_host),
        );
        let kind = |state: &Placement| {
            let known = state
                .shard(shard)
                .ok_or_else(|| format!("no shard {}", shard.0))?;
            let from = known
                .replica_on(from)
                .ok_or_else(|| format!("host {} has no replica of it", from.0))?;
            Ok(ProposalKind::Move {
                from,
                to,
                take_home: known.route_home() == Some(from),
            })
        };
        self.propose(shard, kind, request.reason).await
    }

    async fn move_home(&self, request: Request<MoveHomeRequest>) -> Result<Response<MigrationReply>, Status> {
        answer_or_forward!(self, request, move_home);
        let request = request.into_inner();
        let to = HostId(request.to_host);
        self.propose(
            ShardId(request.shard_id),
            |_| Ok(ProposalKind::Home { to }),
            request.reason,
        )
        .await
    }

    async fn split_shard(
        &self,
        request: Request<SplitShardRequest>,
    ) -> Result<Response<MigrationReply>, Status> {
        answer_or_forward!(self, request, split_shard);
        let request = request.into_inner();
        let shard = ShardId(request.shard_id);
        let at = match request.at.is_empty() {
            true => self.middle_key(shard).await?,
            false => request.at,
        };
        let at = match at.is_empty() {
            true => Err("there is no key to split it at: it holds fewer than two".to_owned()),
            false => Ok(ProposalKind::Split { at: at.to_vec() }),
        };
        self.propose(shard, |_| at, request.reason).await
    }

    async fn merge_shard(
        &self,
        request: Request<MergeShardRequest>,
    ) -> Result<Response<MigrationReply>, Status> {
        answer_or_forward!(self, request, merge_shard);
        let request = request.into_inner();
        let shard = ShardId(request.shard_id);
        let next = self.look(|state| {
            let end = state.shard(shard).and_then(|known| known.range.end.as_deref());
            let mut others = state.data_shards();
            let next = end.and_then(|end| others.find(|other| other.range.start == end));
            next.map(|next| next.id)
        })?;
        let kind = match next {
            Some(next) => Ok(ProposalKind::Merge { next }),
            None => Err("there is no shard after it".to_owned()),
        };
        self.propose(shard, |_| kind, request.reason).await
    }

    async fn history(&self, request: Request<HistoryRequest>) -> Result<Response<HistoryReply>, Status> {
        answer_or_forward!(self, request, history);
        let request = request.into_inner();
        let reply = self.look(|state| {
            let newest = state
                .history()
                .events()
                .rev()
                .filter(|event| concerns(state, event, &request));
            let mut events: Vec<HistoryEvent> =
                newest.take(limit(request.limit)).map(history_event).collect();
            events.reverse();
            history_reply(state, events)
        })?;
        Ok(Response::new(reply))
    }

    async fn change_admission(
        &self,
        request: Request<ChangeAdmissionRequest>,
    ) -> Result<Response<ChangeAdmissionReply>, Status> {
        answer_or_forward!(self, request, change_admission);
        let request = request.into_inner();
        let admission = hosts::admission_named(&request.admission).ok_or_else(|| {
            Status::invalid_argument(format!("no admission is called {:?}", request.admission))
        })?;
        let command = Command::ChangeAdmission {
            host: HostId(request.host_id),
            admission,
            origin: Origin::Manual,
            reason: request.reason,
            now_ms: self.host.now_ms(),
        };
        let refused = self.change(command).await?;
        Ok(Response::new(ChangeAdmissionReply { refused }))
    }

    async fn recover_shard(
        &self,
        request: Request<RecoverShardRequest>,
    ) -> Result<Response<RecoverShardReply>, Status> {
        answer_or_forward!(self, request, recover_shard);
        let request = request.into_inner();
        let shard = ShardId(request.shard_id);
        if !request.accept_loss {
            let refusal = self.look(|state| placement::recovery_refusal(state, shard))?;
            return Ok(Response::new(RecoverShardReply {
                refused: refusal.map(|refusal| refusal.to_string()).unwrap_or_default(),
                migration_id: 0,
            }));
        }
        let command = Command::RecoverShard {
            shard,
            origin: Origin::Manual,
            reason: request.reason,
            now_ms: self.host.now_ms(),
        };
        let (migration_id, refused) = match self.write(command).await? {
            Applied::Accepted(Accepted::Proposed(migration)) => (migration.0, String::new()),
            Applied::Accepted(other) => {
                return Err(Status::internal(format!("an unexpected answer: {other:?}")));
            }
            Applied::Refused(refusal) => (0, refusal.to_string()),
        };
        Ok(Response::new(RecoverShardReply {
            refused,
            migration_id,
        }))
    }

    async fn departure(
        &self,
        request: Request<DepartureRequest>,
    ) -> Result<Response<DepartureReply>, Status> {
        answer_or_forward!(self, request, departure);
        let host = HostId(request.into_inner().host_id);
        let now_ms = self.host.now_ms();
        let departure = self.look(|state| hosts::departure(state, host, now_ms))?;
        Ok(Response::new(departure))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainReply>, Status> {
        let Some(controller) = self.host.controller() else {
            return self.leader(&request)?.explain(passed_on(request)).await;
        };
        let shard = ShardId(request.into_inner().shard_id);
        let outlook = controller.explain(shard).await.map_err(balance_status)?;
        let explained = self.look(|state| explain::explained(&outlook, state))?;
        let unknown = || Status::not_found(format!("no shard {}, or its home is not known", shard.0));
        Ok(Response::new(explained.ok_or_else(unknown)?))
    }

    async fn dry_run(&self, request: Request<DryRunRequest>) -> Result<Response<DryRunReply>, Status> {
        let Some(controller) = self.host.controller() else {
            return self.leader(&request)?.dry_run(passed_on(request)).await;
        };
        let replicas = request.into_inner().replicas;
        let outlook = controller.dry_run(replicas).await.map_err(balance_status)?;
        let planned = self.look(|state| explain::dry_run(&outlook, state.limits()))?;
        Ok(Response::new(planned))
    }

    async fn limits(&self, request: Request<LimitsRequest>) -> Result<Response<LimitsReply>, Status> {
        answer_or_forward!(self, request, limits);
        let limits = self.look(|state| limits::of(state.limits()))?;
        Ok(Response::new(LimitsReply { limits: Some(limits) }))
    }

    async fn change_limits(
        &self,
        request: Request<ChangeLimitsRequest>,
    ) -> Result<Response<ChangeLimitsReply>, Status> {
        answer_or_forward!(self, request, change_limits);
        let request = request.into_inner();
        let change = limits::change(&request).map_err(Status::invalid_argument)?;
        let after = self.look(|state| limits::of(&state.limits().changed(&change)))?;
        let command = Command::ChangeLimits {
            change,
            origin: Origin::Manual,
            reason: request.reason,
            now_ms: self.host.now_ms(),
        };
        let refused = self.change(command).await?;
        let limits = refused.is_empty().then_some(after);
        Ok(Response::new(ChangeLimitsReply { refused, limits }))
    }

    async fn models(&self, request: Request<ModelsRequest>) -> Result<Response<ModelsReply>, Status> {
        answer_or_forward!(self, request, models);
        let request = request.into_inner();
        Ok(Response::new(self.look(|state| models::told(state, &request))?))
    }

    async fn change_model(
        &self,
        request: Request<ChangeModelRequest>,
    ) -> Result<Response<ChangeModelReply>, Status> {
        answer_or_forward!(self, request, change_model);
        let request = request.into_inner();
        let (change, version) = models::change(&request).map_err(Status::invalid_argument)?;
        let command = Command::ChangeModel {
            change,
            origin: Origin::Manual,
            reason: request.reason,
            now_ms: self.host.now_ms(),
        };
        let refused = self.change(command).await?;
        Ok(Response::new(ChangeModelReply { refused, version }))
    }

    async fn windows(&self, request: Request<WindowsRequest>) -> Result<Response<WindowsReply>, Status> {
        answer_or_forward!(self, request, windows);
        let now_ms = self.host.now_ms();
        Ok(Response::new(self.look(|state| windows::told(state, now_ms))?))
    }

    async fn change_windows(
        &self,
        request: Request<ChangeWindowsRequest>,
    ) -> Result<Response<ChangeWindowsReply>, Status> {
        answer_or_forward!(self, request, change_windows);
        let request = request.into_inner();
        let command = Command::ChangeHours {
            change: windows::change(&request).map_err(Status::invalid_argument)?,
            origin: Origin::Manual,
            reason: request.reason,
            now_ms: self.host.now_ms(),
        };
        let (refused, window_id) = match self.write(command).await? {
            Applied::Accepted(Accepted::HoursAdded { id }) => (String::new(), id),
            Applied::Accepted(_) => (String::new(), request.remove),
            Applied::Refused(refusal) => (refusal.to_string(), 0),
        };
        Ok(Response::new(ChangeWindowsReply { refused, window_id }))
    }

    async fn trust(&self, request: Request<TrustRequest>) -> Result<Response<TrustReply>, Status> {
        answer_or_forward!(self, request, trust);
        let limit = request.into_inner().limit;
        Ok(Response::new(self.look(|state| trust::told(state, limit))?))
    }

    async fn restore_trust(
        &self,
        request: Request<RestoreTrustRequest>,
    ) -> Result<Response<RestoreTrustReply>, Status> {
        answer_or_forward!(self, request, restore_trust);
        let request = request.into_inner();
        let restored = Origin::named(&request.origin)
            .ok_or_else(|| Status::invalid_argument(format!("no origin is called {:?}", request.origin)))?;
        let command = Command::RestoreTrust {
            restored,
            origin: Origin::Manual,
            reason: request.reason,
            now_ms: self.host.now_ms(),
        };
        let refused = self.change(command).await?;
        Ok(Response::new(RestoreTrustReply { refused }))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<CancelReply>, Status> {
        answer_or_forward!(self, request, cancel);
        let command = Command::Cancel {
            migration: MigrationId(request.into_inner().migration_id),
            now_ms: self.host.now_ms(),
        };
        let (refused, state) = match self.write(command).await? {
            Applied::Accepted(Accepted::Entered(state)) => (String::new(), format!("{state:?}")),
            Applied::Accepted(other) => {
                return Err(Status::internal(format!("an unexpected answer: {other:?}")));
            }
            Applied::Refused(refusal) => (refusal.to_string(), String::new()),
        };
        Ok(Response::new(CancelReply { refused, state }))
    }

    async fn set_balancer(
        &self,
        request: Request<SetBalancerRequest>,
    ) -> Result<Response<SetBalancerReply>, Status> {
        let Some(controller) = self.host.controller() else {
            return self.leader(&request)?.set_balancer(passed_on(request)).await;
        };
        let request = request.into_inner();
        let policy = match request.policy.as_str() {
            "" => None,
            name => Some(
                name.parse()
                    .map_err(|e: UnknownPolicy| Status::invalid_argument(e.to_string()))?,
            ),
        };
        let window = WindowId(request.window);
        let outcome = controller
            .set_balancer(policy, window, request.replicas)
            .await
            .map_err(balance_status)?;
        Ok(Response::new(SetBalancerReply {
            outcome: Some(outcome),
        }))
    }

    async fn close_window(
        &self,
        request: Request<CloseWindowRequest>,
    ) -> Result<Response<CloseWindowReply>, Status> {
        let Some(controller) = self.host.controller() else {
            return self.leader(&request)?.close_window(passed_on(request)).await;
        };
        let request = request.into_inner();
        let settle = Duration::from_millis(u64::from(request.settle_ms));
        let closed = controller
            .close_window(WindowId(request.window), settle)
            .await
            .map_err(balance_status)?;
        Ok(Response::new(closed))
    }
}

fn passed_on<T>(request: Request<T>) -> Request<T> {
    let mut passed = Request::new(request.into_inner());
    passed
        .metadata_mut()
        .insert(FORWARDED, tonic::metadata::MetadataValue::from_static("1"));
    passed
}

fn balance_status(error: BalanceError) -> Status {
    match error {
        BalanceError::Deposed => Status::unavailable(error.to_string()),
        _ => Status::failed_precondition(error.to_string()),
    }
}

impl AdminService {
    /// The map with the host that has just joined in it.
    fn newest_map(&self) -> ShardMap {
        match self.host.placement() {
            Some(local) => ShardMap::of(&local.machine.state()),
            None => (*self.host.map()).clone(),
        }
    }
}

fn limit(asked: u32) -> usize {
    let limit = if asked == 0 { LIMIT_DEFAULT } else { asked };
    usize::try_from(limit).unwrap_or(usize::MAX)
}

fn shard_status(state: &Placement, shard: &placement::Shard) -> ShardStatus {
    let role = |role: Role| match role {
        Role::Voter => "voter".to_owned(),
        Role::Learner => "learner".to_owned(),
    };
    let scores = state
        .affinity(shard.id)
        .map(|affinity| affinity.scores.0.clone())
        .unwrap_or_default();
    ShardStatus {
        shard_id: shard.id.0,
        start: shard.range.start.clone().into(),
        end: shard.range.end.clone().unwrap_or_default().into(),
        r#gen: shard.epoch.generation,
        conf_ver: shard.epoch.conf_ver,
        home: shard.home_host().map_or(0, |host| host.0),
        replicas: shard
            .replicas
            .iter()
            .map(|(id, replica)| Replica {
                replica_id: id.0,
                host_id: replica.host.0,
                role: role(replica.role),
            })
            .collect(),
        migration_id: shard.active.map_or(0, |migration| migration.0),
        affinities: scores
            .into_iter()
            .map(|(host, score_ppm)| HostAffinity {
                host_id: host.0,
                score_ppm,
            })
            .collect(),
    }
}

fn migration_status(migration: &placement::Migration) -> MigrationStatus {
    let started_ms = migration
        .steps
        .first()
        .map_or(migration.since_ms, |step| step.at_ms);
    let reasons = &migration.reasons;
    let model = if reasons.model.is_empty() {
        String::new()
    } else {
        format!(" ({})", reasons.model)
    };
    let outcome = migration
        .abort_reason
        .map(|why| format!("; given up: {why:?}"))
        .unwrap_or_default();
    MigrationStatus {
        migration_id: migration.id.0,
        shard_id: migration.shard.0,
        kind: format!("{:?}", migration.kind).to_lowercase(),
        state: format!("{:?}", migration.state),
        origin: format!("{:?}", migration.origin).to_lowercase(),
        from_host: migration.src.map_or(0, |placed| placed.host.0),
        to_host: migration.dst.map_or(0, |placed| placed.host.0),
        started_ms,
        ended_ms: if migration.state.is_terminal() {
            migration.since_ms
        } else {
            0
        },
        reason: format!("{}{model}: {}{outcome}", reasons.policy, reasons.text),
    }
}

fn concerns(state: &Placement, event: &placement::HistoryEvent, request: &HistoryRequest) -> bool {
    let is = |wanted: u64, found: Option<u64>| wanted == 0 || found == Some(wanted);
    // An event names where a migration leads; it concerns the host that it leads away from as well.
    let migration = event.migration.and_then(|id| state.migration(id));
    let source = migration
        .and_then(|migration| migration.src)
        .map(|src| src.host.0);
    let until_ms = match request.until_ms {
        0 => u64::MAX,
        until_ms => until_ms,
    };
    (request.since_ms..until_ms).contains(&event.at_ms)
        && is(request.shard_id, event.shard.map(|shard| shard.0))
        && (is(request.host_id, event.host.map(|host| host.0)) || is(request.host_id, source))
        && is(request.migration_id, event.migration.map(|MigrationId(id)| id))
}

/// Events, with what is left of those that were dropped.
fn history_reply(state: &Placement, events: Vec<HistoryEvent>) -> HistoryReply {
    let totals = state.history().totals();
    let dropped = totals.dropped.unwrap_or_default();
    let kinds = totals.events.iter().map(|(what, count)| Total {
        what: format!("{what:?}"),
        count: *count,
    });
    let ended = totals.ended_by.iter().flat_map(|(origin, states)| {
        states.iter().map(|(state, count)| Total {
            what: format!("{} migrations {state:?}", origin.as_str()),
            count: *count,
        })
    });
    HistoryReply {
        events,
        dropped: dropped.events,
        dropped_until_ms: dropped.until_ms,
        totals: kinds.chain(ended).collect(),
    }
}

fn history_event(event: &placement::HistoryEvent) -> HistoryEvent {
    HistoryEvent {
        index: event.index,
        at_ms: event.at_ms,
        what: format!("{:?}", event.what),
        shard_id: event.shard.map_or(0, |shard| shard.0),
        migration_id: event.migration.map_or(0, |migration| migration.0),
        detail: event.detail.clone(),
    }
}
