//! The JSON documents of `godwit admin --json`.
//!
//! Field names are an interface: they are the protocol's, and only grow. Where the protocol writes 0 for an id or a
//! time that is not there, a document says null.

use client::proto::{
    Affinity, Alarm, DepartureReply, HistoryEvent, HostAffinity, HostStatus, MigrationStatus, Remnant,
    Replica, ReplicaState, ScrubReply, ScrubbedReplica, ShardStatus, StatusReply, UsageReply,
};
use serde_json::{Value, json};

use super::listing::SilentHost;
use super::text::{hash, nonzero, octets};

/// The documents of a list, in its order.
pub(super) fn each<T>(items: &[T], document: impl Fn(&T) -> Value) -> Vec<Value> {
    items.iter().map(document).collect()
}

pub(super) fn status(status: &StatusReply) -> Value {
    json!({
        "cluster_id": status.cluster_id,
        "host_id": status.host_id,
        "address": status.address,
        "version": status.version,
        "placement_leader": nonzero(status.placement_leader),
        "placement_applied": status.placement_applied,
        "map_version": status.map_version,
        "shards_total": status.shards_total,
        "shards_led_here": status.shards_led_here,
        "migrations_active": status.migrations_active,
    })
}

pub(super) fn host(host: &HostStatus) -> Value {
    let affinity =
        |affinity: &Affinity| json!({ "shard_id": affinity.shard_id, "score_ppm": affinity.score_ppm });
    json!({
        "host_id": host.host_id,
        "address": host.address,
        "zone": host.zone,
        "region": host.region,
        "state": host.state,
        "replicas": host.replicas,
        "homes": host.homes,
        "capacity_bytes": host.capacity_bytes,
        "affinities": each(&host.affinities, affinity),
        "admission": host.admission,
    })
}

/// A host with what it uses; null where it did not answer.
pub(super) fn used_host(status: &HostStatus, usage: Option<&UsageReply>) -> Value {
    let mut document = host(status);
    document["usage"] = json!(usage.map(usage_of));
    document
}

fn usage_of(usage: &UsageReply) -> Value {
    let snapshots = usage.snapshots.unwrap_or_default();
    json!({
        "used_bytes": usage.used_bytes,
        "quota_bytes": usage.quota_bytes,
        "free_bytes": usage.free_bytes,
        "free_bytes_min": usage.free_bytes_min,
        "snapshots": {
            "sending": snapshots.sending,
            "waiting": snapshots.waiting,
            "receiving": snapshots.receiving,
            "sent_bytes": snapshots.sent_bytes,
            "received_bytes": snapshots.received_bytes,
            "turned_away": snapshots.turned_away,
            "held_back_ms": snapshots.held_back_ms,
        },
        "alarms": each(&usage.alarms, alarm),
    })
}

/// The scrub of a shard. The checksum is text, as a hash is; null where there is none.
pub(super) fn scrubbed((shard_id, reply): &(u64, Result<ScrubReply, String>)) -> Value {
    let replica = |replica: &ScrubbedReplica| {
        json!({
            "replica_id": replica.replica_id,
            "host_id": replica.host_id,
            "verdict": replica.verdict,
            "checksum": nonzero(replica.checksum).map(hash),
            "keys": replica.keys,
            "detail": replica.detail,
        })
    };
    let reply_of = reply.as_ref().ok();
    json!({
        "shard_id": shard_id,
        "index": reply_of.map(|reply| reply.index),
        "replicas": reply_of.map(|reply| each(&reply.replicas, replica)).unwrap_or_default(),
        "error": reply.as_ref().err(),
    })
}

pub(super) fn alarm(alarm: &Alarm) -> Value {
    json!({
        "kind": alarm.kind,
        "host_id": alarm.host_id,
        "shard_id": nonzero(alarm.shard_id),
        "replica_id": nonzero(alarm.replica_id),
        "since_ms": alarm.since_ms,
        "detail": alarm.detail,
    })
}

/// Shard 0 is the placement group.
pub(super) fn departure(departure: &DepartureReply) -> Value {
    let remnant = |remnant: &Remnant| {
        json!({
            "shard_id": remnant.shard_id,
            "replica_id": nonzero(remnant.replica_id),
            "is_home": remnant.is_home,
            "waits_for": remnant.waits_for,
        })
    };
    json!({
        "host": departure.host.as_ref().map(host),
        "remnants": each(&departure.remnants, remnant),
    })
}

/// An empty `start` or `end` is that end of the key space.
pub(super) fn shard(shard: &ShardStatus) -> Value {
    let affinity =
        |affinity: &HostAffinity| json!({ "host_id": affinity.host_id, "score_ppm": affinity.score_ppm });
    let replica = |replica: &Replica| json!({ "replica_id": replica.replica_id, "host_id": replica.host_id, "role": replica.role });
    json!({
        "shard_id": shard.shard_id,
        "start": octets(&shard.start),
        "end": octets(&shard.end),
        "gen": shard.r#gen,
        "conf_ver": shard.conf_ver,
        "home": nonzero(shard.home),
        "replicas": each(&shard.replicas, replica),
        "migration_id": nonzero(shard.migration_id),
        "affinities": each(&shard.affinities, affinity),
    })
}

/// Shard 0 is the placement group. The hash is text: a JSON number does not hold 64 bits everywhere.
pub(super) fn replica_state(replica: &ReplicaState) -> Value {
    json!({
        "shard_id": replica.shard_id,
        "replica_id": replica.replica_id,
        "host_id": replica.host_id,
        "role": replica.role,
        "term": replica.term,
        "applied_index": replica.applied_index,
        "state_hash": hash(replica.state_hash),
        "last_term": replica.last_term,
        "last_index": replica.last_index,
        "revision": replica.revision,
    })
}

pub(super) fn silent_host(host: &SilentHost) -> Value {
    json!({ "host_id": host.host_id, "cause": host.cause })
}

/// Shard 0 is the placement group.
pub(super) fn migration(migration: &MigrationStatus) -> Value {
    json!({
        "migration_id": migration.migration_id,
        "shard_id": migration.shard_id,
        "kind": migration.kind,
        "state": migration.state,
        "origin": migration.origin,
        "from_host": nonzero(migration.from_host),
        "to_host": nonzero(migration.to_host),
        "started_ms": migration.started_ms,
        "ended_ms": nonzero(migration.ended_ms),
        "reason": migration.reason,
    })
}

pub(super) fn event(event: &HistoryEvent) -> Value {
    json!({
        "index": event.index,
        "at_ms": event.at_ms,
        "what": event.what,
        "shard_id": nonzero(event.shard_id),
        "migration_id": nonzero(event.migration_id),
        "detail": event.detail,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_has_no_leader_0() {
        let mut reply = StatusReply {
            cluster_id: "0a1b".into(),
            host_id: 2,
            address: "b:7420".into(),
            placement_leader: 1,
            placement_applied: 40,
            map_version: 12,
            shards_total: 8,
            shards_led_here: 3,
            migrations_active: 1,
            version: "0.1.0".into(),
        };
        let expected = json!({
            "cluster_id": "0a1b", "host_id": 2, "address": "b:7420", "version": "0.1.0",
            "placement_leader": 1, "placement_applied": 40, "map_version": 12,
            "shards_total": 8, "shards_led_here": 3, "migrations_active": 1,
        });
        assert_eq!(status(&reply), expected);
        reply.placement_leader = 0;
        assert_eq!(status(&reply)["placement_leader"], Value::Null);
    }

    #[test]
    fn a_host_has_its_scores() {
        let found = HostStatus {
            host_id: 1,
            address: "a:7420".into(),
            zone: "n1".into(),
            region: "north".into(),
            state: "up".into(),
            replicas: 4,
            homes: 0,
            capacity_bytes: 5,
            admission: "cordoned".into(),
            affinities: vec![Affinity {
                shard_id: 7,
                score_ppm: 812_345,
            }],
        };
        let expected = json!({
            "host_id": 1, "address": "a:7420", "zone": "n1", "region": "north", "state": "up",
            "replicas": 4, "homes": 0, "capacity_bytes": 5, "admission": "cordoned",
            "affinities": [{ "shard_id": 7, "score_ppm": 812_345 }],
        });
        assert_eq!(host(&found), expected);
    }

    #[test]
    fn a_shard_has_its_range_as_bytes() {
        let found = ShardStatus {
            shard_id: 7,
            start: (&b"\xff"[..]).into(),
            end: "".into(),
            r#gen: 2,
            conf_ver: 5,
            home: 0,
            replicas: vec![Replica {
                replica_id: 31,
                host_id: 1,
                role: "voter".into(),
            }],
            migration_id: 9,
            affinities: vec![HostAffinity {
                host_id: 1,
                score_ppm: 1_000_000,
            }],
        };
        let expected = json!({
            "shard_id": 7, "start": { "hex": "ff" }, "end": "", "gen": 2, "conf_ver": 5,
            "home": null, "migration_id": 9,
            "replicas": [{ "replica_id": 31, "host_id": 1, "role": "voter" }],
            "affinities": [{ "host_id": 1, "score_ppm": 1_000_000 }],
        });
        assert_eq!(shard(&found), expected);
    }

    #[test]
    fn what_has_not_happened_is_null() {
        let running = MigrationStatus {
            migration_id: 9,
            shard_id: 0,
            kind: "add".into(),
            state: "CatchingUp".into(),
            origin: "repair".into(),
            from_host: 0,
            to_host: 4,
            started_ms: 1_000,
            ended_ms: 0,
            reason: "repair: host 2 is dead".into(),
        };
        let expected = json!({
            "migration_id": 9, "shard_id": 0, "kind": "add", "state": "CatchingUp", "origin": "repair",
            "from_host": null, "to_host": 4, "started_ms": 1_000, "ended_ms": null,
            "reason": "repair: host 2 is dead",
        });
        assert_eq!(migration(&running), expected);
        let joined = HistoryEvent {
            index: 3,
            at_ms: 1_000,
            what: "HostJoined".into(),
            detail: "host 2".into(),
            ..HistoryEvent::default()
        };
        let expected = json!({
            "index": 3, "at_ms": 1_000, "what": "HostJoined", "shard_id": null, "migration_id": null,
            "detail": "host 2",
        });
        assert_eq!(event(&joined), expected);
    }
}
