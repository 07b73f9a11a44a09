//! The controller: on the leader of the placement group, it turns what the placement log says into what is.
//!
//! It takes control by an entry of the log, which numbers it; every order it gives carries that number. It keeps
//! nothing that matters between ticks: it observes, asks [`placement::next_actions`] what to do for each active
//! migration, does it, and writes the evidence. A controller that dies is replaced by one that knows the log.
//!
//! `observe` looks at the hosts, `act` gives orders, those that change ranges in `reshape`, `tend` starts shards, repairs and
//! declares hosts down; `splits` parts what has become too large or is asked for too much, as `loads` knows, `merges` joins
//! what holds little; `balance` turns access counts into proposals, `gains` measures what came of them, `stand_in` proposes
//! for a policy that may not, `models` keeps windows and has models trained on them.

mod act;
mod balance;
mod clock;
mod explain;
mod forecast;
mod gains;
mod geography;
mod loads;
mod merges;
mod models;
mod observe;
mod recover;
mod reshape;
mod splits;
mod stand_in;
mod tend;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use placement::{Accepted, Command, ControllerTerm, MigrationId, Pacer, Response};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::host::{Host, LocalPlacement};
pub(crate) use balance::{BalanceError, Balancer};
use clock::LogClock;
pub(crate) use explain::Outlook;
pub(crate) use forecast::{plan_costs, plan_options, slow_average};
use loads::ShardLoads;
use models::ModelKeeper;
pub(crate) use models::record_of;
use observe::Observer;
pub(crate) use splits::middle_key;

/// How often the controller looks when nothing changes.
const TICK: Duration = Duration::from_millis(50);
/// How often a host that does not lead the placement group looks whether it does.
const IDLE: Duration = Duration::from_millis(50);

/// Controls the cluster whenever this host leads the placement group.
pub(crate) async fn run(host: Host) {
    loop {
        if let Some(local) = host.placement()
            && let Some(raft_term) = local.group.leading_term()
            && let Some(term) = take_control(&host, &local, raft_term).await
        {
            tracing::info!(host = %host.id(), controller = term.0, "controls the cluster");
            let controller = Controller::new(host.clone(), local, raft_term, term);
            host.set_controller(Some(controller.clone()));
            controller.run().await;
            host.set_controller(None);
            tracing::info!(host = %host.id(), controller = term.0, "controls the cluster no longer");
        }
        tokio::time::sleep(IDLE).await;
    }
}

async fn take_control(host: &Host, local: &LocalPlacement, raft_term: u64) -> Option<ControllerTerm> {
    local.machine.state().cluster_id()?;
    let command = Command::TakeControl {
        host: host.id(),
        now_ms: host.now_ms(),
    };
    match write(local, raft_term, &command).await? {
        Response::Accepted(Accepted::Control(term)) => Some(term),
        other => {
            tracing::warn!(?other, "control was not granted");
            None
        }
    }
}

/// Writes a command, if this replica still leads in `raft_term`.
async fn write(local: &LocalPlacement, raft_term: u64, command: &Command) -> Option<Response> {
    let encoded = placement::encode(command).ok()?;
    match local.group.propose_in_term(encoded.into(), raft_term).await {
        Ok((_, answer)) => answer.take(),
        Err(e) => {
            tracing::debug!(error = %e, "a command did not reach the placement log");
            None
        }
    }
}

/// One term of control.
#[derive(Clone)]
pub(crate) struct Controller {
    host: Host,
    local: LocalPlacement,
    raft_term: u64,
    term: ControllerTerm,
    clock: LogClock,
    observer: Observer,
    balancer: Arc<tokio::sync::Mutex<Balancer>>,
    loads: Arc<Mutex<ShardLoads>>,
    models: Arc<Mutex<ModelKeeper>>,
}

impl Controller {
    fn new(host: Host, local: LocalPlacement, raft_term: u64, term: ControllerTerm) -> Self {
        let clock = LogClock::new(host.clock(), local.machine.state().now_ms());
        let observer = Observer::new(host.clone(), clock.clone());
        Self {
            host,
            local,
            raft_term,
            term,
            clock,
            observer,
            balancer: Arc::default(),
            loads: Arc::default(),
            models: Arc::default(),
        }
    }

    fn in_control(&self) -> bool {
        self.local.group.leading_term() == Some(self.raft_term)
            && self.local.machine.state().controller_term() == self.term
    }

    async fn run(self) {
        let deposed = CancellationToken::new();
        let _guard = deposed.clone().drop_guard();
        self.spawn_until(&deposed, self.clone().observe_hosts());
        self.spawn_until(&deposed, self.clone().tend());
        self.spawn_until(&deposed, self.clone().balance());
        let mut changes = self.local.machine.changes();
        let mut working = Workers::default();
        while self.in_control() {
            changes.borrow_and_update();
            self.clock.follow(self.local.machine.state().now_ms());
            working.forget_ended();
            for migration in self.due(&working) {
                let ended = working.add(migration);
                let driving = self.clone().drive(migration);
                self.spawn_until(&deposed, async move {
                    let _ended = ended;
                    driving.await;
                });
            }
            drop(tokio::time::timeout(TICK, changes.changed()).await);
        }
    }

    /// Spawns a task that ends with this term of control.
    fn spawn_until(&self, deposed: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
        let deposed = deposed.clone();
        self.host.spawn(async move {
            deposed.run_until_cancelled(task).await;
        });
    }

    /// Active migrations that nobody works on.
    fn due(&self, working: &Workers) -> Vec<MigrationId> {
        let state = self.local.machine.state();
        let active = state.active_migrations().map(|migration| migration.id);
        active.filter(|migration| !working.has(*migration)).collect()
    }

    /// Works on one migration until it ends or this controller is deposed.
    async fn drive(self, migration: MigrationId) {
        let mut pacer = Pacer::default();
        while self.in_control() {
            let Some(wait) = self.step(migration, &mut pacer).await else {
                return;
            };
            self.rest(wait).await;
        }
    }
}

/// The migrations that are being worked on; each has a token that is cancelled when its worker ends.
#[derive(Default)]
struct Workers(BTreeMap<MigrationId, CancellationToken>);

impl Workers {
    fn add(&mut self, migration: MigrationId) -> DropGuard {
        let ended = CancellationToken::new();
        self.0.insert(migration, ended.clone());
        ended.drop_guard()
    }

    fn has(&self, migration: MigrationId) -> bool {
        self.0.contains_key(&migration)
    }

    fn forget_ended(&mut self) {
        self.0.retain(|_, ended| !ended.is_cancelled());
    }
}
