//! Operators' calls: fail-over where that is safe, and an honest error where it is not.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use client::{
    AdminClient, AdminError, ClientConfig,
    proto::{
        CancelReply, CancelRequest, ChangeAdmissionReply, ChangeAdmissionRequest, ChangeLimitsReply,
        ChangeLimitsRequest, ChangeModelReply, ChangeModelRequest, ChangeWindowsReply, ChangeWindowsRequest,
        CloseWindowReply, CloseWindowRequest, DepartureReply, DepartureRequest, DryRunReply, DryRunRequest,
        ExplainReply, ExplainRequest, HistoryReply, HistoryRequest, HostStatus, HostsReply, HostsRequest,
        InitReply, InitRequest, JoinReply, JoinRequest, LimitsReply, LimitsRequest, LoadReply, LoadRequest,
        MergeShardRequest, MigrationReply, MigrationsReply, MigrationsRequest, ModelsReply, ModelsRequest,
        MoveHomeRequest, MoveReplicaRequest, RecoverShardReply, RecoverShardRequest, ReplicaStatesReply,
        ReplicaStatesRequest, RestoreTrustReply, RestoreTrustRequest, ScrubReply, ScrubRequest,
        SetBalancerReply, SetBalancerRequest, ShardsReply, ShardsRequest, SplitShardRequest, StatusReply,
        StatusRequest, TrustReply, TrustRequest, UsageReply, UsageRequest, WindowsReply, WindowsRequest,
        admin_server::{Admin, AdminServer},
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// How a fake host treats a call.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Answers,
    Declines,
    Refuses,
    /// Takes the call, and drops the connection without an answer.
    Dies,
}

struct Host {
    manner: Manner,
    calls: Arc<AtomicUsize>,
    die: watch::Sender<bool>,
}

impl Host {
    async fn answer<T>(&self, reply: T) -> Result<Response<T>, Status> {
        self.calls.fetch_add(1, SeqCst);
        match self.manner {
            Manner::Answers => Ok(Response::new(reply)),
            Manner::Declines => Err(Status::unavailable("no quorum")),
            Manner::Refuses => Err(Status::failed_precondition("shard 7 is being moved")),
            Manner::Dies => {
                self.die.send_replace(true);
                std::future::pending().await
            }
        }
    }
}

#[tonic::async_trait]
impl Admin for Host {
    async fn explain(&self, _: Request<ExplainRequest>) -> Result<Response<ExplainReply>, Status> {
        self.answer(ExplainReply::default()).await
    }

    async fn dry_run(&self, _: Request<DryRunRequest>) -> Result<Response<DryRunReply>, Status> {
        self.answer(DryRunReply::default()).await
    }

    async fn limits(&self, _: Request<LimitsRequest>) -> Result<Response<LimitsReply>, Status> {
        self.answer(LimitsReply::default()).await
    }

    async fn change_limits(
        &self,
        _: Request<ChangeLimitsRequest>,
    ) -> Result<Response<ChangeLimitsReply>, Status> {
        self.answer(ChangeLimitsReply::default()).await
    }

    async fn models(&self, _: Request<ModelsRequest>) -> Result<Response<ModelsReply>, Status> {
        self.answer(ModelsReply::default()).await
    }

    async fn change_model(
        &self,
        _: Request<ChangeModelRequest>,
    ) -> Result<Response<ChangeModelReply>, Status> {
        self.answer(ChangeModelReply::default()).await
    }

    async fn windows(&self, _: Request<WindowsRequest>) -> Result<Response<WindowsReply>, Status> {
        self.answer(WindowsReply::default()).await
    }

    async fn change_windows(
        &self,
        _: Request<ChangeWindowsRequest>,
    ) -> Result<Response<ChangeWindowsReply>, Status> {
        self.answer(ChangeWindowsReply::default()).await
    }

    async fn load(&self, _: Request<LoadRequest>) -> Result<Response<LoadReply>, Status> {
        self.answer(LoadReply::default()).await
    }

    async fn trust(&self, _: Request<TrustRequest>) -> Result<Response<TrustReply>, Status> {
        self.answer(TrustReply::default()).await
    }

    async fn restore_trust(
        &self,
        _: Request<RestoreTrustRequest>,
    ) -> Result<Response<RestoreTrustReply>, Status> {
        self.answer(RestoreTrustReply::default()).await
    }

    async fn cancel(&self, _: Request<CancelRequest>) -> Result<Response<CancelReply>, Status> {
        self.answer(CancelReply::default()).await
    }

    async fn init(&self, _: Request<InitRequest>) -> Result<Response<InitReply>, Status> {
        self.answer(InitReply {
            cluster_id: "c".into(),
        })
        .await
    }
    async fn join(&self, _: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        Err(Status::unimplemented("not in this version"))
    }
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        self.answer(StatusReply {
            host_id: 1,
            ..StatusReply::default()
        })
        .await
    }
    async fn hosts(&self, _: Request<HostsRequest>) -> Result<Response<HostsReply>, Status> {
        self.answer(HostsReply {
            hosts: vec![HostStatus {
                host_id: 1,
                ..HostStatus::default()
            }],
        })
        .await
    }
    async fn shards(&self, request: Request<ShardsRequest>) -> Result<Response<ShardsReply>, Status> {
        assert_eq!(
            request.into_inner().shard_id,
            9,
            "the request arrives as it was made"
        );
        self.answer(ShardsReply::default()).await
    }
    async fn replica_states(
        &self,
        _: Request<ReplicaStatesRequest>,
    ) -> Result<Response<ReplicaStatesReply>, Status> {
        self.answer(ReplicaStatesReply::default()).await
    }
    async fn usage(&self, _: Request<UsageRequest>) -> Result<Response<UsageReply>, Status> {
        self.answer(UsageReply::default()).await
    }
    async fn scrub(&self, _: Request<ScrubRequest>) -> Result<Response<ScrubReply>, Status> {
        self.answer(ScrubReply::default()).await
    }
    async fn migrations(&self, _: Request<MigrationsRequest>) -> Result<Response<MigrationsReply>, Status> {
        self.answer(MigrationsReply::default()).await
    }
    async fn move_replica(&self, _: Request<MoveReplicaRequest>) -> Result<Response<MigrationReply>, Status> {
        self.answer(MigrationReply {
            migration_id: 5,
            ..MigrationReply::default()
        })
        .await
    }
    async fn move_home(&self, _: Request<MoveHomeRequest>) -> Result<Response<MigrationReply>, Status> {
        self.answer(MigrationReply {
            migration_id: 6,
            ..MigrationReply::default()
        })
        .await
    }
    async fn split_shard(&self, _: Request<SplitShardRequest>) -> Result<Response<MigrationReply>, Status> {
        self.answer(MigrationReply {
            migration_id: 7,
            ..MigrationReply::default()
        })
        .await
    }

    async fn merge_shard(&self, _: Request<MergeShardRequest>) -> Result<Response<MigrationReply>, Status> {
        self.answer(MigrationReply {
            migration_id: 7,
            ..MigrationReply::default()
        })
        .await
    }
    async fn recover_shard(
        &self,
        _: Request<RecoverShardRequest>,
    ) -> Result<Response<RecoverShardReply>, Status> {
        self.answer(RecoverShardReply {
            migration_id: 7,
            ..RecoverShardReply::default()
        })
        .await
    }
    async fn set_balancer(
        &self,
        _: Request<SetBalancerRequest>,
    ) -> Result<Response<SetBalancerReply>, Status> {
        self.answer(SetBalancerReply::default()).await
    }
    async fn close_window(
        &self,
        _: Request<CloseWindowRequest>,
    ) -> Result<Response<CloseWindowReply>, Status> {
        self.answer(CloseWindowReply {
            accesses: 3,
            ..CloseWindowReply::default()
        })
        .await
    }
    async fn change_admission(
        &self,
        _: Request<ChangeAdmissionRequest>,
    ) -> Result<Response<ChangeAdmissionReply>, Status> {
        self.answer(ChangeAdmissionReply::default()).await
    }
    async fn departure(
        &self,
        request: Request<DepartureRequest>,
    ) -> Result<Response<DepartureReply>, Status> {
        let host = HostStatus {
            host_id: request.into_inner().host_id,
            ..HostStatus::default()
        };
        self.answer(DepartureReply {
            host: Some(host),
            remnants: Vec::new(),
        })
        .await
    }
    async fn history(&self, _: Request<HistoryRequest>) -> Result<Response<HistoryReply>, Status> {
        self.answer(HistoryReply::default()).await
    }
}

/// Starts a host; its address, and how many calls it has had.
async fn start(manner: Manner) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let calls = Arc::new(AtomicUsize::new(0));
    let die = watch::Sender::new(false);
    let dead = die.subscribe();
    let server = Server::builder().add_service(AdminServer::new(Host {
        manner,
        calls: Arc::clone(&calls),
        die,
    }));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (mortal(address, dead).await, calls)
}

/// A port that forwards one connection to `address`, until it dies.
async fn mortal(address: String, mut dead: watch::Receiver<bool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut host = TcpStream::connect(address).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut client, &mut host) => {}
            _ = dead.wait_for(|dead| *dead) => {}
        }
    });
    front
}

/// An address where nobody listens.
async fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string()
}

fn admin(endpoints: &[&str]) -> AdminClient {
    AdminClient::new(ClientConfig::new(endpoints.iter().copied())).unwrap()
}

#[tokio::test]
async fn calls_reach_the_service_and_bring_its_answer() {
    let (host, _) = start(Manner::Answers).await;
    assert_eq!(admin(&[&host]).hosts().await.unwrap().hosts[0].host_id, 1);
    let (host, _) = start(Manner::Answers).await;
    admin(&[&host])
        .shards(ShardsRequest {
            shard_id: 9,
            placement_group: false,
        })
        .await
        .unwrap();
    let (host, _) = start(Manner::Answers).await;
    assert_eq!(
        admin(&[&host])
            .move_replica(MoveReplicaRequest::default())
            .await
            .unwrap()
            .migration_id,
        5
    );
}

#[tokio::test]
async fn a_host_is_drained_and_followed_and_a_shard_recovered() {
    let (host, _) = start(Manner::Answers).await;
    let drained = admin(&[&host])
        .change_admission(ChangeAdmissionRequest::default())
        .await;
    assert_eq!(drained.unwrap().refused, "");
    let (host, _) = start(Manner::Answers).await;
    let recovered = admin(&[&host])
        .recover_shard(RecoverShardRequest::default())
        .await;
    assert_eq!(recovered.unwrap().migration_id, 7);
    let (host, _) = start(Manner::Answers).await;
    let departure = admin(&[&host]).departure(DepartureRequest { host_id: 4 }).await;
    assert_eq!(departure.unwrap().host.unwrap().host_id, 4);
}

#[tokio::test]
async fn closing_a_window_may_take_the_time_to_settle() {
    let (host, calls) = start(Manner::Answers).await;
    let mut config = ClientConfig::new([host]);
    config.deadline = std::time::Duration::ZERO;
    let admin = AdminClient::new(config).unwrap();
    let request = CloseWindowRequest {
        window: 1,
        settle_ms: 60_000,
    };
    assert_eq!(admin.close_window(request).await.unwrap().accesses, 3);
    assert_eq!(calls.load(SeqCst), 1);
}

#[tokio::test]
async fn a_call_without_effect_goes_on_to_the_next_endpoint() {
    let (declining, declined) = start(Manner::Declines).await;
    let (answering, answered) = start(Manner::Answers).await;
    let admin = admin(&[&nobody().await, &declining, &answering]);
    assert_eq!(
        admin
            .move_home(MoveHomeRequest::default())
            .await
            .unwrap()
            .migration_id,
        6
    );
    assert_eq!((declined.load(SeqCst), answered.load(SeqCst)), (1, 1));
}

#[tokio::test]
async fn replica_states_are_asked_of_the_named_host_alone() {
    let (configured, asked) = start(Manner::Answers).await;
    let (named, answered) = start(Manner::Answers).await;
    let admin = admin(&[&configured]);
    admin.replica_states_of(&named).await.unwrap();
    let error = admin.replica_states_of(&nobody().await).await.unwrap_err();
    assert!(matches!(error, AdminError::Unreachable { .. }), "{error}");
    assert_eq!((asked.load(SeqCst), answered.load(SeqCst)), (0, 1));
}

#[tokio::test]
async fn a_look_is_repeated_after_a_lost_connection_and_a_change_is_not() {
    let (dying, _) = start(Manner::Dies).await;
    let (answering, _) = start(Manner::Answers).await;
    assert_eq!(admin(&[&dying, &answering]).status().await.unwrap().host_id, 1);

    let (dying, asked) = start(Manner::Dies).await;
    let (answering, answered) = start(Manner::Answers).await;
    let error = admin(&[&dying, &answering])
        .move_home(MoveHomeRequest::default())
        .await
        .unwrap_err();
    assert!(matches!(error, AdminError::UnknownOutcome { .. }), "{error}");
    assert_eq!((asked.load(SeqCst), answered.load(SeqCst)), (1, 0));
}

#[tokio::test]
async fn refusals_are_final_and_keep_their_words() {
    let (refusing, _) = start(Manner::Refuses).await;
    let (answering, answered) = start(Manner::Answers).await;
    let error = admin(&[&refusing, &answering])
        .move_home(MoveHomeRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        error,
        AdminError::Refused {
            message: "shard 7 is being moved".into()
        }
    );
    assert_eq!(answered.load(SeqCst), 0);
    let (old, _) = start(Manner::Answers).await;
    let error = admin(&[&old]).join(JoinRequest::default()).await.unwrap_err();
    assert!(matches!(error, AdminError::Incompatible { .. }), "{error}");
    let error = admin(&[&nobody().await]).status().await.unwrap_err();
    assert!(matches!(error, AdminError::Unreachable { .. }), "{error}");
}
