//! The placement leader dies while a migration stands in a chosen state.
//!
//! `controller-kill` watches a migration and kills from outside, so it is late by a look or two. `controller-failpoint`
//! has the host end itself exactly before or after it writes the next state; hosts have such points only in builds with
//! debug assertions.

use std::time::Duration;

use client::proto::{MigrationsRequest, MoveHomeRequest};
use tokio::time::Instant;

use super::fault::{Cure, Struck};
use super::field::{Field, host_name};
use super::shards;
use crate::process::Layout;

pub(super) const NAMES: [&str; 2] = ["controller-kill", "controller-failpoint"];

/// The states of a move, in order.
const MOVE_STATES: [&str; 7] = [
    "Proposed",
    "Adding",
    "CatchingUp",
    "Transferring",
    "Switching",
    "Removing",
    "Cleaning",
];
/// The points that a move passes, without `before` and `after`.
const POINTS: [&str; 6] = [
    "proposed",
    "adding",
    "catching_up",
    "switching",
    "removing",
    "cleaning",
];
const ABORT_AT: &str = "GODWIT_ABORT_AT";

const STATE_LIMIT: Duration = Duration::from_secs(6);
const CONTROL_LIMIT: Duration = Duration::from_secs(5);
const ABORT_LIMIT: Duration = Duration::from_secs(10);
const LOOK_PAUSE: Duration = Duration::from_millis(5);

pub(super) fn unavailable(name: &str) -> Option<String> {
    let absent = name == "controller-failpoint" && !cfg!(debug_assertions);
    absent.then(|| "this build has no fail points".to_owned())
}

pub(super) async fn strike(name: &str, field: &Field<'_>) -> anyhow::Result<Option<Struck>> {
    match name {
        "controller-kill" => kill(name, field).await,
        _ => abort(name, field).await,
    }
}

/// Begins a migration: of a replica, or of a home where no replica can go anywhere.
async fn begin_migration(field: &Field<'_>, layout: &Layout) -> Option<u64> {
    let moved = shards::move_replica("move-replica", field, layout).await;
    field.end("move-replica");
    if moved.is_some() {
        return moved;
    }
    let moved = shards::move_home("move-home", field, layout).await;
    field.end("move-home");
    moved
}

async fn kill(name: &str, field: &Field<'_>) -> anyhow::Result<Option<Struck>> {
    let Some(layout) = field.layout().await else {
        return Ok(None);
    };
    let Some(controller) = layout.number_of(layout.controller) else {
        return Ok(None);
    };
    let Some(migration) = begin_migration(field, &layout).await else {
        return Ok(None);
    };
    // One state after the other, so that a run that is long enough has them all.
    let turn = usize::try_from(field.counted(name)).unwrap_or(0) % MOVE_STATES.len();
    let seen = wait_for_state(field, controller, migration, turn).await;
    let taken = field.take(&[controller], 1);
    if taken.is_empty() {
        return Ok(None);
    }
    field.begin(
        name,
        vec![host_name(controller), format!("m{migration}"), seen.clone()],
    );
    if field.cluster.kill(controller)? {
        field.count(name);
        field.count(&format!("{name}/{seen}"));
    }
    let cure = Cure::Start(taken.clone());
    let name = name.to_owned();
    Ok(Some(Struck { name, taken, cure }))
}

/// Waits until the migration has come to this state, or past it; what was seen last.
async fn wait_for_state(field: &Field<'_>, controller: usize, migration: u64, state: usize) -> String {
    let started = Instant::now();
    let mut seen = "unseen".to_owned();
    let Ok(admin) = field.cluster.admin_of_host(controller) else {
        return seen;
    };
    let request = MigrationsRequest {
        include_ended: true,
        limit: 50,
    };
    while started.elapsed() < STATE_LIMIT {
        let Ok(reply) = admin.migrations(request).await else {
            return seen;
        };
        let known = reply
            .migrations
            .into_iter()
            .find(|known| known.migration_id == migration);
        if let Some(known) = known {
            seen = known.state;
            let position = MOVE_STATES.iter().position(|name| **name == *seen);
            if position.is_none_or(|position| position >= state) {
                return seen;
            }
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    seen
}

/// Has a host that is armed with a fail point take control, and gives it a migration to die of.
async fn abort(name: &str, field: &Field<'_>) -> anyhow::Result<Option<Struck>> {
    let cluster = field.cluster;
    let Some(layout) = field.layout().await else {
        return Ok(None);
    };
    let voters = layout
        .placement
        .replicas
        .iter()
        .filter(|replica| replica.host_id != layout.controller);
    let voters: Vec<usize> = voters
        .filter_map(|replica| layout.number_of(replica.host_id))
        .collect();
    let Some(armed) = field.take_one(&voters) else {
        return Ok(None);
    };
    let side = ["before", "after"][field.index(2)];
    let point = format!("controller.leave_{}.{side}", POINTS[field.index(POINTS.len())]);
    field.begin(name, vec![host_name(armed), point.clone()]);
    cluster.kill(armed)?;
    cluster.start_armed(armed, &[(ABORT_AT.to_owned(), point.clone())])?;
    if let Some(id) = layout.id_of(armed)
        && take_control(field, armed, id).await
        && let Some(layout) = field.layout().await
    {
        begin_migration(field, &layout).await;
        if cluster.wait_for_end(armed, ABORT_LIMIT).await {
            field.count(name);
            field.count(&format!("{name}/{point}"));
        }
    }
    let taken = vec![armed];
    let cure = Cure::StartAnew(taken.clone());
    let name = name.to_owned();
    Ok(Some(Struck { name, taken, cure }))
}

/// Moves the placement group's home to the host; whether it leads then.
async fn take_control(field: &Field<'_>, number: usize, id: u64) -> bool {
    let started = Instant::now();
    while started.elapsed() < CONTROL_LIMIT {
        let request = MoveHomeRequest {
            shard_id: 0,
            to_host: id,
            reason: "jepsen: an armed controller".into(),
        };
        if let Ok(admin) = field.cluster.admin() {
            admin.move_home(request).await.ok();
        }
        field.pause((200, 100)).await;
        let Ok(admin) = field.cluster.admin_of_host(number) else {
            return false;
        };
        if admin
            .status()
            .await
            .is_ok_and(|status| status.placement_leader == id)
        {
            return true;
        }
    }
    false
}
