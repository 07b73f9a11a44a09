//! The placement group, told by every host that has a replica of it, each as far as it has applied the log: to be looked at
//! with `max`, never summed over hosts.

use std::collections::BTreeMap;
use std::fmt::Debug;

use placement::{HostState, MigrationKind, MigrationState, Placement};

use super::families::Families;
use crate::host::Host;

/// Told from the beginning, so that a rate has a zero to begin with.
const KINDS: [MigrationKind; 7] = [
    MigrationKind::Move,
    MigrationKind::Add,
    MigrationKind::Remove,
    MigrationKind::Home,
    MigrationKind::Split,
    MigrationKind::Merge,
    MigrationKind::Recover,
];
const OUTCOMES: [MigrationState; 4] = [
    MigrationState::Done,
    MigrationState::Aborted,
    MigrationState::Rejected,
    MigrationState::Superseded,
];

pub(super) fn collect(host: &Host, into: &mut Families) {
    let controls = host.controller().is_some();
    into.gauge(
        "godwit_controller",
        "1 on the host that controls the cluster.",
        &[],
        f64::from(u8::from(controls)),
    );
    host.look_at_placement(|state| {
        log(state, into);
        members(state, into);
        migrations(state, into);
        forecast(state, into);
        super::trust::collect(state, into);
        into.gauge(
            "godwit_maintenance_open",
            "1 where balancing and forecasts may start moves at this hour.",
            &[],
            f64::from(u8::from(state.in_hours(host.now_ms()))),
        );
    });
}

fn log(state: &Placement, into: &mut Families) {
    into.gauge(
        "godwit_placement_applied_index",
        "The last entry of the placement log that is applied here.",
        &[],
        state.applied_index() as f64,
    );
    let totals = state.history().totals();
    into.counter(
        "godwit_placement_refused_total",
        "Commands that the placement log refused.",
        &[],
        totals.refused as f64,
    );
    into.counter(
        "godwit_placement_invariant_refusals_total",
        "Commands among them that would have broken an invariant: each is a fault in the program.",
        &[],
        totals.alarms.values().sum::<u64>() as f64,
    );
}

fn members(state: &Placement, into: &mut Families) {
    let mut hosts: BTreeMap<String, u32> = [HostState::Up, HostState::Down, HostState::Dead]
        .map(|known| (word(&known), 0))
        .into();
    for host in state
        .hosts()
        .values()
        .filter(|host| host.state != HostState::Removed)
    {
        *hosts.entry(word(&host.state)).or_default() += 1;
    }
    for (known, count) in hosts {
        into.gauge(
            "godwit_hosts",
            "Hosts of the cluster, by state.",
            &[("state", &known)],
            f64::from(count),
        );
    }
    let wanted = state.rules().replication_factor as usize;
    let lacking = state
        .data_shards()
        .filter(|shard| voters_up(state, shard) < wanted)
        .count();
    let homeless = state.data_shards().filter(|shard| shard.home_host().is_none());
    let gauges = [
        (
            "godwit_shards",
            "Shards of the cluster.",
            state.data_shards().count(),
        ),
        (
            "godwit_shards_under_replicated",
            "Shards with fewer voters on hosts that are up than the rules ask for.",
            lacking,
        ),
        (
            "godwit_shards_without_home",
            "Shards that nobody is known to lead.",
            homeless.count(),
        ),
    ];
    for (name, help, value) in gauges {
        into.gauge(name, help, &[], value as f64);
    }
}

fn voters_up(state: &Placement, shard: &placement::Shard) -> usize {
    let is_up = |host| state.host(host).is_some_and(|host| host.state == HostState::Up);
    shard.voters().filter(|(_, host)| is_up(*host)).count()
}

fn migrations(state: &Placement, into: &mut Families) {
    let totals = state.history().totals();
    for kind in KINDS {
        let active = state.active_migrations().filter(|known| known.kind == kind);
        into.gauge(
            "godwit_migrations_active",
            "Migrations that have not ended, by kind.",
            &[("kind", &word(&kind))],
            active.count() as f64,
        );
        for outcome in OUTCOMES {
            into.counter(
                "godwit_migrations_ended_total",
                "Migrations that ended, by kind and outcome; homes moved are those of kind home that are done.",
                &[("kind", &word(&kind)), ("outcome", &word(&outcome))],
                totals.ended(kind, outcome) as f64,
            );
        }
    }
}

fn forecast(state: &Placement, into: &mut Families) {
    into.gauge(
        "godwit_placement_window",
        "The window of workload time that is open.",
        &[],
        state.window().0 as f64,
    );
    let scored = state.data_shards().filter_map(|shard| state.affinity(shard.id));
    let Some(newest) = scored.max_by_key(|affinity| affinity.window) else {
        return;
    };
    into.gauge(
        "godwit_forecast_window",
        "The newest window that shards were scored for.",
        &[],
        newest.window.0 as f64,
    );
    into.gauge(
        "godwit_forecast_info",
        "The version of the model that the newest affinity scores are of: always 1.",
        &[("model", &newest.model)],
        1.0,
    );
}

/// A variant's name as a label's value.
fn word(variant: &impl Debug) -> String {
    format!("{variant:?}").to_lowercase()
}
