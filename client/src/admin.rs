//! Operators' calls: a thin layer over the `Admin` service, with the client's connector and fail-over.
//!
//! A call that only looks is asked of one endpoint after another until one answers. A call that changes something
//! goes to the next endpoint only while it is certain that it had no effect; once it may have been received, a lost
//! connection is reported as [`AdminError::UnknownOutcome`], because asking again could do it twice.

use std::{error::Error, future::Future, sync::Arc, time::Duration};

use tonic::{Code, Response, Status, transport::Channel};

use crate::{
    config::ClientConfig,
    error::AdminError,
    proto::{
        CancelReply, CancelRequest, ChangeAdmissionReply, ChangeAdmissionRequest, ChangeLimitsReply,
        ChangeLimitsRequest, ChangeModelReply, ChangeModelRequest, ChangeWindowsReply, ChangeWindowsRequest,
        CloseWindowReply, CloseWindowRequest, DepartureReply, DepartureRequest, DryRunReply, DryRunRequest,
        ExplainReply, ExplainRequest, HistoryReply, HistoryRequest, HostsReply, HostsRequest, InitReply,
        InitRequest, JoinReply, JoinRequest, LimitsReply, LimitsRequest, LoadReply, LoadRequest,
        MergeShardRequest, MigrationReply, MigrationsReply, MigrationsRequest, ModelsReply, ModelsRequest,
        MoveHomeRequest, MoveReplicaRequest, RecoverShardReply, RecoverShardRequest, ReplicaStatesReply,
        ReplicaStatesRequest, RestoreTrustReply, RestoreTrustRequest, ScrubReply, ScrubRequest,
        SetBalancerReply, SetBalancerRequest, ShardsReply, ShardsRequest, SplitShardRequest, StatusReply,
        StatusRequest, TrustReply, TrustRequest, UsageReply, UsageRequest, WindowsReply, WindowsRequest,
        admin_client,
    },
    seam::within,
    setback::Kind,
    shared::Shared,
    transport::{connected, describe},
};

type Admin = admin_client::AdminClient<Channel>;

/// A client of the operators' service. Connects anew for each call: operators call rarely, and from scripts.
#[derive(Clone)]
pub struct AdminClient {
    shared: Arc<Shared>,
}

/// Whether a call may be repeated when its outcome is not known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Looks,
    Changes,
}

impl AdminClient {
    /// A client that will use the configuration's endpoints in their order, and its deadline for each endpoint.
    pub fn new(config: ClientConfig) -> Result<Self, AdminError> {
        if config.endpoints.is_empty() {
            return Err(AdminError::Invalid {
                message: "no endpoints".into(),
            });
        }
        Ok(Self {
            shared: Shared::new(config),
        })
    }

    /// Makes the endpoint the first host of a new cluster.
    pub async fn init(&self, request: InitRequest) -> Result<InitReply, AdminError> {
        self.call(Effect::Changes, request, |mut admin, request| async move {
            admin.init(request).await
        })
        .await
    }

    /// Has a host join, or announce itself again.
    pub async fn join(&self, request: JoinRequest) -> Result<JoinReply, AdminError> {
        self.call(Effect::Changes, request, |mut admin, request| async move {
            admin.join(request).await
        })
        .await
    }

    /// How the host that answers, and the cluster as it sees it, are doing.
    pub async fn status(&self) -> Result<StatusReply, AdminError> {
        let request = StatusRequest {};
        self.call(Effect::Looks, request, |mut admin, request| async move {
            admin.status(request).await
        })
        .await
    }

    /// All hosts, but those that have left the cluster for good.
    pub async fn hosts(&self) -> Result<HostsReply, AdminError> {
        self.hosts_of(HostsRequest::default()).await
    }

    /// All hosts, and those that have left the cluster for good.
    pub async fn hosts_and_decommissioned(&self) -> Result<HostsReply, AdminError> {
        self.hosts_of(HostsRequest { decommissioned: true }).await
    }

    async fn hosts_of(&self, request: HostsRequest) -> Result<HostsReply, AdminError> {
        self.call(Effect::Looks, request, |mut admin, request| async move {
            admin.hosts(request).await
        })
        .await
    }

    /// Opens, cordons, drains or decommissions a host. Answers once the decision is logged.
    pub async fn change_admission(
        &self,
        request: ChangeAdmissionRequest,
    ) -> Result<ChangeAdmissionReply, AdminError> {
        self.call(Effect::Changes, request, |mut admin, request| async move {
            admin.change_admission(request).await
        })
        .await
    }

    /// Has a shard that lost its majority go on from one survivor, or only asks whether it would be refused. Answers
    /// once it is logged.
    pub async fn recover_shard(&self, request: RecoverShardRequest) -> Result<RecoverShardReply, AdminError> {
        self.call(Effect::Changes, request, |mut admin, request| async move {
            admin.recover_shard(request).await
        })
        .await
    }

    /// What a host still holds, and what each part of it waits for.
    pub async fn departure(&self, request: DepartureRequest) -> Result<DepartureReply, AdminError> {
        self.call(Effect::Looks, request, |mut admin, request| async move {
            admin.departure(request).await
        })
        .await
    }

    /// One shard, or all.
    pub async fn shards(&self, request: ShardsRequest) -> Result<ShardsReply, AdminError> {
        self.call(Effect::Looks, request, |mut admin, request| async move {
            admin.shards(request).await
        })
        .await
    }

    /// What the replicas on one host have applied. Asks the host at `address` and no other; it need not be among the
    /// configured endpoints.
    pub async fn replica_states_of(&self, address: &str) -> Result<ReplicaStatesReply, AdminError> {
        self.replica_states(address, ReplicaStatesRequest::default())
            .await
    }

    /// How far the log and the state of one shard's replicas on a host are, without fingerprints. Asks the host at
    /// `address` and no other.
    pub async fn replica_ends_of(
        &self,
        address: &str,
        shard_id: u64,
    ) -> Result<ReplicaStatesReply, AdminError> {
        let request = ReplicaStatesRequest {
            shard_id,
            brief: true,
        };
        self.replica_states(address, request).await
    }

    async fn replica_states(
        &self,
        address: &str,
        request: ReplicaStatesRequest,
    ) -> Result<ReplicaStatesReply, AdminError> {
        let ask = |mut admin: Admin| async move { admin.replica_states(request).await };
        self.ask_one(address, self.shared.config.deadline, Effect::Looks, ask)
            .await
    }

    /// What one host takes of its disk, and its alarms. Asks the host at `address` and no other; it need not be among the
    /// configured endpoints.
    pub async fn usage_of(&self, address: &str) -> Result<UsageReply, AdminError> {
        let ask = |mut admin: Admin| async move { admin.usage(UsageRequest {}).await };
        self.ask_one(address, self.shared.config.deadline, Effect::Looks, ask)
            .await
    }

    /// What one host has served since it was started. Asks the host at `address` and no other; it need not be among the
    /// configured endpoints.
    pub async fn load_of(&self, address: &str) -> Result<LoadReply, AdminError> {
        let ask = |mut admin: Admin| async move { admin.load(LoadRequest {}).await };
        self.ask_one(address, self.shared.config.deadline, Effect::Looks, ask)
            .await
    }

    /// Has the replicas of a shard compared. Asks the host at `address`, which must be the shard's home, and no other, and
    /// waits for at most `limit`; the scrub goes on when nobody waits for it any more.
    pub async fn scrub_at(
        &self,
        address: &str,
        shard_id: u64,
        limit: Duration,
    ) -> Result<ScrubReply, AdminError> {
        let ask = |mut admin: Admin| async move { admin.scrub(ScrubRequest { shard_id }).await };
        self.ask_one(address, limit, Effect::Looks, ask).await
    }

    /// The migrations under way, and those that have ended if asked for.
    pub async fn migrations(&self, request: MigrationsRequest) -> Result<MigrationsReply, AdminError> {
        self.call(Effect::Looks, request, |mut admin, request| async move {
            admin.migrations(request).await
        })
        .await
    }

    /// Moves a replica of a shard to another host. Answers once the migration is logged.
    pub async fn move_replica(&self, request: MoveReplicaRequest) -> Result<MigrationReply, AdminError> {
        self.call(Effect::Changes, request, |mut admin, request| async move {
            admin.move_replica(request).await
        })
        .await
    }

    /// Moves a shard's home to a host that has a voting replica. Answers once the move is logged.
    pub async fn move_home(&self, request: MoveHomeRequest) -> Result<MigrationReply, AdminError> {
        self.call(Effect::Changes, request, |mut admin, request| async move {
            admin.move_home(request).await
        })
        .await
    }

    /// Gives the upper part of a shard's range to a new shard. Answers once the split is logged.
    pub async fn split_shard(&self, request: SplitShardRequest) -> Result<MigrationReply, AdminError> {
        self.call(Effect::Changes, request, |mut admin, request| async move {
            admin.split_shard(request).await
        })
        .await
    }

    /// Has a shard take over the keys of the next one. Answers once the merge is logged.
    pub async fn merge_shard(&self, request: MergeShardRequest) -> Result<MigrationReply, AdminError> {
        self.call(Effect::Changes, request, |mut admin, request| async move {
            admin.merge_shard(request).await
        })
        .await
    }

    /// What happened to a shard, a host or a migration.
    pub async fn history(&self, request: HistoryRequest) -> Result<HistoryReply, AdminError> {
        self.call(Effect::Looks, request, |mut admin, request| async move {
            admin.history(request).await
        })
        .await
    }

    /// How much may be under way at once, and whose proposals are paused.
    pub async fn limits(&self) -> Result<LimitsReply, AdminError> {
        let request = LimitsRequest {};
        self.call(Effect::Looks, request, |mut admin, request| async move {
            admin.limits(request).await
        })
        .await
    }

    /// Pauses or resumes origins, or changes single limits. Answers once the change is logged.
    pub async fn change_limits(&self, request: ChangeLimitsRequest) -> Result<ChangeLimitsReply, AdminError> {
        self.call(Effect::Changes, request, |mut admin, request| async move {
            admin.change_limits(request).await
        })
        .await
    }

    /// What each place is worth for a shard, and what forbids it.
    pub async fn explain(&self, shard_id: u64) -> Result<ExplainReply, AdminError> {
        let request = ExplainRequest { shard_id };
        self.call(Effect::Looks, request, |mut admin, request| async move {
            admin.explain(request).await
        })
        .await
    }

    /// What would be proposed now: of homes, or of replica sets as well.
    pub async fn dry_run(&self, replicas: bool) -> Result<DryRunReply, AdminError> {
        let request = DryRunRequest { replicas };
        self.call(Effect::Looks, request, |mut admin, request| async move {
            admin.dry_run(request).await
        })
        .await
    }

    /// The models that may forecast, with the file of one of them.
    pub async fn models(&self, with_file: &str) -> Result<ModelsReply, AdminError> {
        let with_file = with_file.to_owned();
        self.call(
            Effect::Looks,
            ModelsRequest { with_file },
            |mut admin, request| async move { admin.models(request).await },
        )
        .await
    }

    /// Keeps a model, lets another one forecast, or goes back to the one before. Answers once that is logged.
    pub async fn change_model(&self, request: ChangeModelRequest) -> Result<ChangeModelReply, AdminError> {
        self.call(Effect::Changes, request, |mut admin, request| async move {
            admin.change_model(request).await
        })
        .await
    }

    /// The maintenance windows.
    pub async fn windows(&self) -> Result<WindowsReply, AdminError> {
        let request = WindowsRequest {};
        self.call(Effect::Looks, request, |mut admin, request| async move {
            admin.windows(request).await
        })
        .await
    }

    /// Adds or removes a maintenance window. Answers once that is logged.
    pub async fn change_windows(
        &self,
        request: ChangeWindowsRequest,
    ) -> Result<ChangeWindowsReply, AdminError> {
        self.call(Effect::Changes, request, |mut admin, request| async move {
            admin.change_windows(request).await
        })
        .await
    }

    /// What moves were predicted to save and what they saved: records, trials, and at most `limit` verdicts.
    pub async fn trust(&self, limit: u32) -> Result<TrustReply, AdminError> {
        let request = TrustRequest { limit };
        self.call(Effect::Looks, request, |mut admin, request| async move {
            admin.trust(request).await
        })
        .await
    }

    /// Gives the policies of an origin their right to propose back. Answers once that is logged.
    pub async fn restore_trust(&self, request: RestoreTrustRequest) -> Result<RestoreTrustReply, AdminError> {
        self.call(Effect::Changes, request, |mut admin, request| async move {
            admin.restore_trust(request).await
        })
        .await
    }

    /// Gives a migration up before the point of no return. Answers once that is logged.
    pub async fn cancel(&self, request: CancelRequest) -> Result<CancelReply, AdminError> {
        self.call(Effect::Changes, request, |mut admin, request| async move {
            admin.cancel(request).await
        })
        .await
    }

    /// Chooses what proposes placements, and starts it afresh.
    pub async fn set_balancer(&self, request: SetBalancerRequest) -> Result<SetBalancerReply, AdminError> {
        self.call(Effect::Changes, request, |mut admin, request| async move {
            admin.set_balancer(request).await
        })
        .await
    }

    /// Ends a window of workload time. The answer may take the request's `settle_ms` longer than the deadline.
    pub async fn close_window(&self, request: CloseWindowRequest) -> Result<CloseWindowReply, AdminError> {
        let limit = self.shared.config.deadline + Duration::from_millis(request.settle_ms.into());
        let ask = |mut admin: Admin, request| async move { admin.close_window(request).await };
        self.call_within(limit, Effect::Changes, request, ask).await
    }

    async fn call<Q, R, F>(
        &self,
        effect: Effect,
        request: Q,
        ask: impl Fn(Admin, Q) -> F,
    ) -> Result<R, AdminError>
    where
        Q: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        self.call_within(self.shared.config.deadline, effect, request, ask)
            .await
    }

    /// Asks the endpoints in turn, each for at most `limit`.
    async fn call_within<Q, R, F>(
        &self,
        limit: Duration,
        effect: Effect,
        request: Q,
        ask: impl Fn(Admin, Q) -> F,
    ) -> Result<R, AdminError>
    where
        Q: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let mut cause = String::new();
        for endpoint in &self.shared.config.endpoints {
            let asking = |admin| ask(admin, request.clone());
            match self.ask_one(endpoint, limit, effect, asking).await {
                Ok(reply) => return Ok(reply),
                Err(AdminError::Unreachable { cause: next }) => cause = next,
                Err(error) => return Err(error),
            }
        }
        Err(AdminError::Unreachable { cause })
    }

    /// `Unreachable`: the next endpoint may be asked.
    async fn ask_one<R, F>(
        &self,
        endpoint: &str,
        limit: Duration,
        effect: Effect,
        ask: impl FnOnce(Admin) -> F,
    ) -> Result<R, AdminError>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let config = &self.shared.config;
        let channel = connected(endpoint, &self.shared)
            .await
            .map_err(|setback| match setback.kind {
                Kind::Refused(_) => AdminError::Invalid {
                    message: setback.cause,
                },
                _ => AdminError::Unreachable { cause: setback.cause },
            })?;
        let admin = Admin::new(channel).max_decoding_message_size(config.limits.reply_bytes_max);
        match within(&config.clock, limit, ask(admin)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(failure_of(endpoint, effect, &status)),
            Err(_) => Err(lost(effect, format!("{endpoint}: no answer before the deadline"))),
        }
    }
}

impl std::fmt::Debug for AdminClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminClient")
            .field("endpoints", &self.shared.config.endpoints)
            .finish()
    }
}

/// A status that a host sent is its word; one that the connection made up leaves the outcome open.
fn failure_of(endpoint: &str, effect: Effect, status: &Status) -> AdminError {
    let cause = format!("{endpoint}: {}", describe(status));
    match status.code() {
        _ if status.source().is_some() => lost(effect, cause),
        Code::Unavailable => AdminError::Unreachable { cause },
        Code::Unimplemented => AdminError::Incompatible { message: cause },
        Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::Internal => lost(effect, cause),
        _ => AdminError::Refused {
            message: status.message().to_owned(),
        },
    }
}

fn lost(effect: Effect, cause: String) -> AdminError {
    match effect {
        Effect::Looks => AdminError::Unreachable { cause },
        Effect::Changes => AdminError::UnknownOutcome { cause },
    }
}
