//! The Raft groups of a host, its log, and its snapshots.

use raft::SnapshotCounts;
use storage::log::LogStats;

use super::families::Families;
use super::metrics::seconds;
use crate::host::Host;

pub(super) fn collect(host: &Host, into: &mut Families) {
    groups(host, into);
    log(&host.shared.log.stats(), into);
    into.gauge(
        "godwit_raft_log_live_max_bytes",
        "log.live_bytes_max: above it the log is shortened.",
        &[],
        host.config().log.live_bytes_max as f64,
    );
    if let Some(raft) = host.raft() {
        snapshots(&raft.snapshot_counts(), into);
    }
}

fn groups(host: &Host, into: &mut Families) {
    let [mut leaders, mut voters, mut learners] = [0_u32; 3];
    let (mut leaderless, mut lag) = (0_u32, 0);
    for group in host.shards().into_iter().map(|local| local.group) {
        let status = group.status();
        let is_leader = status.leader == Some(group.replica());
        match (is_leader, group.is_voter()) {
            (true, _) => leaders += 1,
            (false, true) => voters += 1,
            (false, false) => learners += 1,
        }
        leaderless += u32::from(status.leader.is_none());
        let last = status.last_index.map_or(0, |last| last + 1);
        let behind = status.progress.values();
        let behind = behind.map(|progress| last.saturating_sub(progress.matched.map_or(0, |at| at + 1)));
        lag = lag.max(behind.max().unwrap_or(0));
    }
    for (role, count) in [("leader", leaders), ("voter", voters), ("learner", learners)] {
        into.gauge(
            "godwit_raft_groups",
            "Shards with a replica on this host, by the replica's role; of those with the role leader it is the home.",
            &[("role", role)],
            f64::from(count),
        );
    }
    into.gauge(
        "godwit_raft_groups_without_leader",
        "Shards with a replica on this host of which the replica knows no leader.",
        &[],
        f64::from(leaderless),
    );
    into.gauge(
        "godwit_raft_replication_lag_entries",
        "Entries that the replica furthest behind still lacks, over the shards that this host leads.",
        &[],
        lag as f64,
    );
}

fn log(stats: &LogStats, into: &mut Families) {
    let counters = [
        (
            "godwit_raft_log_records_total",
            "Records written to the log since it began.",
            stats.records,
        ),
        (
            "godwit_raft_log_commits_total",
            "Synced commits of the log since the host was started.",
            stats.commits,
        ),
    ];
    for (name, help, value) in counters {
        into.counter(name, help, &[], value as f64);
    }
    let gauges = [
        (
            "godwit_raft_log_bytes",
            "Bytes of the records in all segments of the log.",
            stats.bytes,
        ),
        (
            "godwit_raft_log_live_bytes",
            "Bytes of the entries in the log that are still needed.",
            stats.live_bytes,
        ),
        (
            "godwit_raft_log_segments",
            "Files of the log.",
            stats.segments as u64,
        ),
        (
            "godwit_raft_log_queued_records",
            "Records that wait for the log's writer.",
            stats.queued as u64,
        ),
        (
            "godwit_raft_log_cached_bytes",
            "Bytes of recent entries in memory.",
            stats.cached_bytes as u64,
        ),
    ];
    for (name, help, value) in gauges {
        into.gauge(name, help, &[], value as f64);
    }
}

fn snapshots(counts: &SnapshotCounts, into: &mut Families) {
    let states = [
        ("sending", counts.sending),
        ("waiting", counts.waiting),
        ("receiving", counts.receiving),
    ];
    for (state, count) in states {
        into.gauge(
            "godwit_snapshots",
            "Snapshots under way to and from this host.",
            &[("state", state)],
            count as f64,
        );
    }
    let counters = [
        (
            "godwit_snapshot_sent_bytes_total",
            "Bytes of snapshots sent.",
            counts.sent_bytes as f64,
        ),
        (
            "godwit_snapshot_received_bytes_total",
            "Bytes of snapshots received.",
            counts.received_bytes as f64,
        ),
        (
            "godwit_snapshots_turned_away_total",
            "Snapshots that were told to come again.",
            counts.turned_away as f64,
        ),
        (
            "godwit_snapshot_held_back_seconds_total",
            "For how long snapshots, and the log behind them, were held back by their rate.",
            seconds(counts.held_back_ms),
        ),
    ];
    for (name, help, value) in counters {
        into.counter(name, help, &[], value);
    }
}
