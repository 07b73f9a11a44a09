//! The balancer: profile, forecast, plan, propose; once a window.
//!
//! It runs where the controller runs. At the end of a window every host hands in what it counted; the policy's
//! forecaster takes that in and forecasts the next window; the planner turns the forecast into moves; each move is
//! proposed through the placement log with its reasons, where limits, rules and epochs are checked again. A new
//! controller starts its forecaster from the configured history.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

use client::proto::{CloseWindowReply, PlanOutcome};
use futures_util::future::join_all;
use ml::{Forecaster, WindowLength};
use placement::planner::{Forecast, Mode, PlacementView, PlanInput, PlanMemory, plan};
use placement::{
    Accepted, Command, Host, HostAffinityScores, HostId, HostState, MigrationId, MigrationState, Proposal,
    ProposalKind, Reasons, Response, ShardId, WindowId, Zone,
};

use super::forecast::{self, PolicyError};
use super::stand_in::StandIn;
use super::{Controller, write};
use crate::config::PolicyName;
use crate::control::TakeWindowRequest;
use crate::net::DistanceError;
use crate::profiler::{ClusterWindow, WindowReport};

/// A proposal that could not start after this long is void: its forecast is stale.
pub(super) const PROPOSAL_LIFE_MS: u64 = 20_000;
/// How long a host may take to hand in its counts; later ones fall into the next window.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long replica moves of an explicit plan may take.
const REPLICAS_SETTLE: Duration = Duration::from_secs(120);
const HOMES_SETTLE: Duration = Duration::from_secs(20);

/// Why the balancer did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BalanceError {
    #[error("this host no longer controls the cluster")]
    Deposed,
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("window {asked} is over; the open window is {open}")]
    StaleWindow { asked: u64, open: u64 },
    #[error(transparent)]
    Distance(#[from] DistanceError),
}

/// The policy in force and what it has learnt.
#[derive(Default)]
pub(crate) struct Balancer {
    pub(super) policy: Option<PolicyName>,
    pub(super) forecaster: Option<Box<dyn Forecaster + Send + Sync>>,
    pub(super) memory: PlanMemory,
    /// The version of the placement log's model that it forecasts with, if it does with one.
    model: Option<String>,
    /// Who proposes while the policy may not.
    pub(super) reserve: Option<StandIn>,
    /// The share of reads by lease in the last window that had reads.
    lease_reads_ppm: Option<u32>,
}

/// The version of the placement log's model, and the forecaster of a policy that has one.
type Loaded = (Option<String>, Option<Box<dyn Forecaster + Send + Sync>>);

/// What became of one plan's proposals.
#[derive(Default)]
struct Proposed {
    migrations: Vec<MigrationId>,
    refused: u32,
    shadowed: u32,
}

impl Controller {
    /// Starts the configured policy, and ends windows by the clock unless they are driven from outside.
    pub(super) async fn balance(self) {
        let config = self.host.config();
        if !config.balancer.enabled || config.balancer.external_windows {
            return;
        }
        let window_ms = config.profiler.window_ms;
        let open = |now_ms: u64| WindowId(now_ms / window_ms);
        if let Err(e) = self
            .set_balancer(Some(config.balancer.policy), open(self.clock.now_ms()), false)
            .await
        {
            tracing::error!(error = %e, "the balancer did not start; nothing will be proposed");
            return;
        }
        loop {
            let now_ms = self.clock.now_ms();
            tokio::time::sleep(Duration::from_millis(window_ms - now_ms % window_ms)).await;
            let ended = open(now_ms);
            if let Err(e) = self.close_window(ended, Duration::ZERO).await {
                tracing::warn!(window = ended.0, error = %e, "a window was not planned");
            }
        }
    }

    /// Chooses the policy and makes its first plan, for the window that is open.
    pub(crate) async fn set_balancer(
        &self,
        policy: Option<PolicyName>,
        open: WindowId,
        replicas: bool,
    ) -> Result<PlanOutcome, BalanceError> {
        let mut balancer = self.balancer.lock().await;
        let lease_reads_ppm = balancer.lease_reads_ppm;
        let Some(policy) = policy else {
            *balancer = Balancer {
                lease_reads_ppm,
                ..Balancer::default()
            };
            return Ok(PlanOutcome::default());
        };
        let (model, forecaster) = self.load_forecaster(policy, open).await?;
        *balancer = Balancer {
            policy: Some(policy),
            forecaster,
            memory: PlanMemory::default(),
            model,
            reserve: StandIn::of(policy, &self.zones()),
            lease_reads_ppm,
        };
        let mode = if replicas {
            Mode::HomesAndReplicas
        } else {
            Mode::Homes
        };
        let settle = if replicas { REPLICAS_SETTLE } else { HOMES_SETTLE };
        let forecast = balancer
            .forecaster
            .as_ref()
            .map(|forecaster| forecaster.forecast(open));
        let proposals = match forecast {
            Some(forecast) => self.plan(&mut balancer, policy, &forecast, open, mode)?,
            None => self.spread_by_number(self.logged_window(open)),
        };
        let model = balancer
            .forecaster
            .as_ref()
            .map_or("", |forecaster| forecaster.name())
            .to_owned();
        Ok(self.carry_through(model, proposals, settle).await)
    }

    /// A policy's forecaster, which has learnt from the configured history and from the windows that were kept here, and
    /// the version of the model that is active in the placement log.
    async fn load_forecaster(&self, policy: PolicyName, open: WindowId) -> Result<Loaded, BalanceError> {
        let length = self.window_length();
        let (host, ranges, zones) = (self.host.clone(), self.ranges(), self.zones());
        let version = self.active_version();
        let active = self.active_model(length);
        let loading = move || {
            let config = &host.config().balancer;
            let mut forecaster = forecast::forecaster(policy, config, &zones, length, open, active)?;
            if let Some(forecaster) = forecaster.as_mut() {
                let last = forecast::learn(forecaster.as_mut(), config, ranges, length, open)?;
                if !config.external_windows && config.archive_bytes_max > 0 {
                    forecast::learn_kept(forecaster.as_mut(), &host, last, open);
                }
            }
            Ok::<_, PolicyError>(forecaster)
        };
        Ok((version, self.host.blocking(loading).await?))
    }

    /// Forecasts with another model, if another is active by now.
    async fn follow_model(&self, balancer: &mut Balancer, open: WindowId) -> Result<(), BalanceError> {
        let Some(policy @ PolicyName::BurnModel) = balancer.policy else {
            return Ok(());
        };
        if self.active_version() == balancer.model {
            return Ok(());
        }
        let (model, forecaster) = self.load_forecaster(policy, open).await?;
        tracing::info!(
            version = model.as_deref().unwrap_or_default(),
            "another model forecasts"
        );
        (balancer.model, balancer.forecaster) = (model, forecaster);
        Ok(())
    }

    /// Ends a window and places the next one.
    pub(crate) async fn close_window(
        &self,
        window: WindowId,
        settle: Duration,
    ) -> Result<CloseWindowReply, BalanceError> {
        let mut balancer = self.balancer.lock().await;
        let logged = self.logged_window(window);
        let open = self.local.machine.state().window();
        if logged < open {
            return Err(BalanceError::StaleWindow {
                asked: window.0,
                open: open.0,
            });
        }
        let (counted, local_accesses) = self.collect(window).await;
        self.note_loads(&counted);
        let closed = Command::CloseWindow {
            window: logged,
            now_ms: self.clock.now_ms(),
        };
        write(&self.local, self.raft_term, &closed)
            .await
            .ok_or(BalanceError::Deposed)?;
        let counts = counted.counts(self.window_length().start_ms(window));
        let accesses = counts.accesses();
        balancer.lease_reads_ppm = counted.lease_reads_ppm().or(balancer.lease_reads_ppm);
        let lease_reads = self.lease_reads_ppm(&balancer);
        self.record_gains(logged, &counted, lease_reads).await;
        self.follow_model(&mut balancer, window).await?;
        self.archive_window(&counts).await;
        let next = WindowId(window.0 + 1);
        let mut outcome = PlanOutcome::default();
        if let (Some(policy), Some(forecaster)) = (balancer.policy, balancer.forecaster.as_mut()) {
            self.inherit_histories(forecaster.as_mut());
            forecaster.observe(&counts);
            let (model, forecast) = (forecaster.name().to_owned(), forecaster.forecast(next));
            self.retrain_if_due(policy, &model);
            let mut proposals = match forecast::follows_windows(policy) {
                true => self.plan(&mut balancer, policy, &forecast, next, Mode::Homes)?,
                false => Vec::new(),
            };
            proposals.extend(self.stand_in(&mut balancer, policy, &counts, next)?);
            let recording = self.record_affinities(&forecast, next, &counted);
            ((), outcome) = tokio::join!(recording, self.carry_through(model, proposals, settle));
        }
        Ok(CloseWindowReply {
            accesses,
            local_accesses,
            outcome: Some(outcome),
        })
    }

    /// Keeps what splits by load look at. Windows that are driven from outside are no measure of time.
    fn note_loads(&self, counted: &ClusterWindow) {
        let config = self.host.config();
        if !config.balancer.external_windows {
            let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
            loads.observe(counted, config.profiler.window_ms);
        }
    }

    /// Shards that splits made begin with the history of those they were cut from, and a shard that had none itself with
    /// that of the one it absorbed.
    fn inherit_histories(&self, forecaster: &mut (dyn Forecaster + Send + Sync)) {
        let state = self.local.machine.state();
        let done = state
            .migrations()
            .values()
            .filter(|migration| migration.state == MigrationState::Done);
        for migration in done {
            if let Some(plan) = &migration.split {
                forecaster.inherit(migration.shard, plan.shard);
            }
            if let Some(plan) = &migration.merge {
                forecaster.inherit(plan.shard, migration.shard);
            }
        }
    }

    /// Has every host hand in its counts. Returns them with the number of accesses served in their own zone.
    async fn collect(&self, window: WindowId) -> (ClusterWindow, u64) {
        let hosts: Vec<(HostId, Zone, String)> = {
            let state = self.local.machine.state();
            let up = state.hosts().values().filter(|host| host.state == HostState::Up);
            up.map(|host| (host.id, host.zone.clone(), host.address.clone()))
                .collect()
        };
        let asking = hosts
            .iter()
            .map(|(host, _, address)| self.take_window(*host, address, window));
        let reports = join_all(asking).await;
        let mut merged = ClusterWindow::empty(window);
        let mut local = 0;
        for ((host, zone, _), report) in hosts.iter().zip(reports) {
            let report = match report {
                Ok(report) => report,
                Err(reason) => {
                    tracing::warn!(%host, window = window.0, reason, "a host's counts are missing");
                    continue;
                }
            };
            local += accesses_from(&report, zone);
            if let Err(e) = merged.merge(report) {
                tracing::warn!(%host, error = %e, "a host's counts do not fit");
            }
        }
        (merged, local)
    }

    async fn take_window(
        &self,
        host: HostId,
        address: &str,
        window: WindowId,
    ) -> Result<WindowReport, String> {
        let mut control = self.host.channels().control(address).map_err(|e| e.to_string())?;
        let cluster_id = self.host.cluster_id().unwrap_or_default();
        let request = TakeWindowRequest {
            cluster_id,
            to_host: host.0,
            window: window.0,
        };
        let reply = tokio::time::timeout(REPORT_TIMEOUT, control.take_window(request)).await;
        let reply = reply
            .map_err(|_| "no answer")?
            .map_err(|status| status.message().to_owned())?;
        serde_json::from_slice(&reply.into_inner().report).map_err(|e| e.to_string())
    }

    /// Plans for a window that was forecast.
    fn plan(
        &self,
        balancer: &mut Balancer,
        policy: PolicyName,
        forecast: &Forecast,
        window: WindowId,
        mode: Mode,
    ) -> Result<Vec<Proposal>, BalanceError> {
        let planned = self.judge(balancer, policy, forecast, mode, plan)?;
        balancer.memory = planned.memory;
        let now_ms = self.clock.now_ms();
        // Explicit replica plans may have to wait for slots for as long as they are given to settle.
        let life_ms = match mode {
            Mode::Homes => PROPOSAL_LIFE_MS,
            Mode::HomesAndReplicas => REPLICAS_SETTLE.as_millis() as u64,
        };
        let proposals = planned.proposals.iter();
        let logged = self.logged_window(window);
        Ok(proposals
            .map(|planned| planned.proposal(policy.as_str(), logged, now_ms, now_ms + life_ms))
            .collect())
    }

    /// Judges the placement as it stands, under a forecast and with the policy's options and memory.
    pub(super) fn judge<T>(
        &self,
        balancer: &Balancer,
        policy: PolicyName,
        forecast: &Forecast,
        mode: Mode,
        judge: impl FnOnce(&PlanInput<'_>, &PlanMemory) -> T,
    ) -> Result<T, BalanceError> {
        let lease_reads_ppm = self.lease_reads_ppm(balancer);
        self.judge_with(lease_reads_ppm, &balancer.memory, policy, forecast, mode, judge)
    }

    pub(super) fn lease_reads_ppm(&self, balancer: &Balancer) -> u32 {
        let expected = self.host.config().balancer.lease_reads_ppm;
        balancer.lease_reads_ppm.unwrap_or(expected)
    }

    /// As [`Controller::judge`], with a memory of one's own.
    pub(super) fn judge_with<T>(
        &self,
        lease_reads_ppm: u32,
        memory: &PlanMemory,
        policy: PolicyName,
        forecast: &Forecast,
        mode: Mode,
        judge: impl FnOnce(&PlanInput<'_>, &PlanMemory) -> T,
    ) -> Result<T, BalanceError> {
        let rtt = self.rtt()?;
        let state = self.local.machine.state();
        let view = PlacementView::of(
            state.hosts(),
            state.shards(),
            state.active_migrations(),
            &self.observer.shard_bytes(),
        );
        let input = PlanInput {
            placement: &view,
            forecast,
            replica_forecast: None,
            rtt: &rtt,
            rules: state.rules(),
            limits: state.limits(),
            costs: &forecast::plan_costs(),
            options: &forecast::plan_options(policy, mode, lease_reads_ppm),
        };
        Ok(judge(&input, memory))
    }

    /// The policy without a forecast: each shard's home is the voter that its number picks.
    fn spread_by_number(&self, window: WindowId) -> Vec<Proposal> {
        let now_ms = self.clock.now_ms();
        let state = self.local.machine.state();
        let picked = state.data_shards().filter_map(|shard| {
            let voters: Vec<HostId> = shard
                .voters()
                .map(|(_, host)| host)
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect();
            let to = *voters.get(usize::try_from(shard.id.0).ok()?.checked_rem(voters.len())?)?;
            (shard.home_host() != Some(to)).then(|| Proposal {
                shard: shard.id,
                kind: ProposalKind::Home { to },
                basis: shard.epoch,
                origin: placement::Origin::Balance,
                expires_ms: now_ms + PROPOSAL_LIFE_MS,
                reasons: Reasons {
                    policy: PolicyName::StaticHash.as_str().to_owned(),
                    text: "homes are spread by shard number".to_owned(),
                    ..Reasons::default()
                },
                window,
                now_ms,
            })
        });
        picked.collect()
    }

    /// Writes proposals and waits until their migrations have ended or the time is over.
    async fn carry_through(&self, model: String, proposals: Vec<Proposal>, settle: Duration) -> PlanOutcome {
        let bytes = self.observer.shard_bytes();
        let moved: BTreeMap<ShardId, u64> = proposals
            .iter()
            .filter(|proposal| {
                matches!(
                    proposal.kind,
                    ProposalKind::Move { .. } | ProposalKind::Add { .. }
                )
            })
            .map(|proposal| (proposal.shard, bytes.get(&proposal.shard).copied().unwrap_or(0)))
            .collect();
        let proposed = self.propose_all(proposals).await;
        let started = tokio::time::Instant::now();
        let mut changes = self.local.machine.changes();
        while self.unfinished(&proposed.migrations) > 0 && started.elapsed() < settle {
            let left = settle.saturating_sub(started.elapsed());
            drop(tokio::time::timeout(left, changes.changed()).await);
        }
        self.outcome(model, &proposed, &moved)
    }

    async fn propose_all(&self, proposals: Vec<Proposal>) -> Proposed {
        let writing = proposals.into_iter().map(|proposal| async move {
            write(&self.local, self.raft_term, &Command::Propose(proposal)).await
        });
        let mut proposed = Proposed::default();
        for response in join_all(writing).await {
            match response {
                Some(Response::Accepted(Accepted::Proposed(migration))) => {
                    proposed.migrations.push(migration)
                }
                // Unchanged: it was written down before.
                Some(Response::Accepted(Accepted::Shadowed | Accepted::Unchanged)) => proposed.shadowed += 1,
                Some(Response::Refused(refusal)) => {
                    tracing::debug!(%refusal, "a proposal was refused");
                    proposed.refused += 1;
                }
                _ => proposed.refused += 1,
            }
        }
        proposed
    }

    fn unfinished(&self, migrations: &[MigrationId]) -> usize {
        let state = self.local.machine.state();
        let known = migrations
            .iter()
            .filter_map(|migration| state.migration(*migration));
        known.filter(|migration| !migration.state.is_terminal()).count()
    }

    fn outcome(&self, model: String, proposed: &Proposed, moved: &BTreeMap<ShardId, u64>) -> PlanOutcome {
        let state = self.local.machine.state();
        let mut outcome = PlanOutcome {
            model,
            proposed: proposed.migrations.len() as u32,
            refused: proposed.refused,
            shadowed: proposed.shadowed,
            ..PlanOutcome::default()
        };
        for migration in proposed
            .migrations
            .iter()
            .filter_map(|migration| state.migration(*migration))
        {
            match migration.state {
                MigrationState::Done => {
                    outcome.done += 1;
                    outcome.bytes_moved += moved.get(&migration.shard).copied().unwrap_or(0);
                }
                MigrationState::Aborted | MigrationState::Rejected => outcome.aborted += 1,
                _ => outcome.unfinished += 1,
            }
        }
        outcome
    }

    /// Keeps the host affinity scores of the shards that were accessed, for operators to see.
    async fn record_affinities(&self, forecast: &Forecast, window: WindowId, counted: &ClusterWindow) {
        let scores = {
            let state = self.local.machine.state();
            host_scores(forecast, state.hosts().values(), counted.shards.keys())
        };
        if !scores.is_empty() {
            let window = self.logged_window(window);
            let command = Command::RecordAffinities {
                window,
                model: forecast.model.clone(),
                scores,
                now_ms: self.clock.now_ms(),
            };
            write(&self.local, self.raft_term, &command).await;
        }
    }

    /// The number of a window in the placement log, where windows only rise. By the clock it is the window's own; a
    /// replay that is driven from outside may begin again at an earlier hour, so there its windows are counted.
    pub(super) fn logged_window(&self, window: WindowId) -> WindowId {
        match self.host.config().balancer.external_windows {
            true => self.local.machine.state().window(),
            false => window,
        }
    }

    pub(super) fn window_length(&self) -> WindowLength {
        WindowLength::from_ms(self.host.config().profiler.window_ms)
    }
}

fn accesses_from(report: &WindowReport, zone: &Zone) -> u64 {
    let origins = report.shards.values().filter_map(|shard| shard.origins.get(zone));
    origins.map(|used| used.reads() + used.writes()).sum()
}

/// A zone's share goes to its hosts in equal parts; what comes from zones without a host goes to nobody.
fn host_scores<'a>(
    forecast: &Forecast,
    hosts: impl Iterator<Item = &'a Host>,
    shards: impl Iterator<Item = &'a ShardId>,
) -> BTreeMap<ShardId, HostAffinityScores> {
    let mut by_zone: BTreeMap<&Zone, Vec<HostId>> = BTreeMap::new();
    for host in hosts.filter(|host| host.state != HostState::Removed) {
        by_zone.entry(&host.zone).or_default().push(host.id);
    }
    let score = |shard: &ShardId| {
        let shares = &forecast.shards.get(shard)?.shares;
        let part = |host: &HostId| {
            let (zone, hosts) = by_zone.iter().find(|(_, hosts)| hosts.contains(host))?;
            Some(shares.of(zone) as f32 / hosts.len() as f32)
        };
        let hosts: Vec<HostId> = by_zone.values().flatten().copied().collect();
        let parts: Vec<f32> = hosts.iter().map(|host| part(host).unwrap_or(0.0)).collect();
        let whole = ml::shares_ppm(&parts)?;
        Some((*shard, HostAffinityScores(hosts.into_iter().zip(whole).collect())))
    };
    shards.filter_map(score).collect()
}
