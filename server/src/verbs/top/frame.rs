//! One frame of `godwit top`: what two looks at a cluster come to, as text.

use std::collections::BTreeMap;

use client::proto::{
    HostStatus, KindLoad, LoadReply, MigrationStatus, PlacementLimits, ShardStatus, StatusReply, UsageReply,
};

use super::super::text::{self, escaped, id, numbers, utc, words};

/// How wide the bar of the busiest zone is, in characters.
const BAR: u64 = 30;

/// What was seen at one look. Hosts that did not answer are missing from `loads` and `usage`.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub(super) at_ms: u64,
    pub(super) status: StatusReply,
    pub(super) hosts: Vec<HostStatus>,
    pub(super) shards: Vec<ShardStatus>,
    pub(super) migrations: Vec<MigrationStatus>,
    pub(super) limits: PlacementLimits,
    pub(super) usage: BTreeMap<u64, UsageReply>,
    pub(super) loads: BTreeMap<u64, LoadReply>,
}

/// What a host served between two looks.
#[derive(Clone, Debug, Default, PartialEq)]
struct Served {
    /// Milliseconds between the looks, by the host's own clock.
    ms: u64,
    origins: BTreeMap<String, u64>,
    requests: u64,
    sum_micros: u64,
    /// Requests by the upper bound of their duration in microseconds; not cumulative.
    buckets: BTreeMap<u64, u64>,
}

impl Served {
    /// `None` for a host that was started again in between: what it counts began anew.
    fn between(before: &LoadReply, after: &LoadReply) -> Option<Self> {
        let ms = after.at_ms.checked_sub(before.at_ms).filter(|ms| *ms > 0)?;
        let mut served = Served {
            ms,
            ..Served::default()
        };
        let earlier: BTreeMap<&str, u64> = before
            .origins
            .iter()
            .map(|origin| (origin.zone.as_str(), origin.accesses))
            .collect();
        for origin in &after.origins {
            let since = earlier.get(origin.zone.as_str()).copied().unwrap_or(0);
            let accesses = origin.accesses.checked_sub(since)?;
            served.origins.insert(origin.zone.clone(), accesses);
        }
        for kind in &after.kinds {
            let since = before.kinds.iter().find(|known| known.kind == kind.kind);
            served.add(since.unwrap_or(&KindLoad::default()), kind)?;
        }
        Some(served)
    }

    fn add(&mut self, before: &KindLoad, after: &KindLoad) -> Option<()> {
        self.requests += after.requests.checked_sub(before.requests)?;
        self.sum_micros += after.sum_micros.saturating_sub(before.sum_micros);
        let mut below = 0;
        for bucket in &after.buckets {
            let since = before
                .buckets
                .iter()
                .find(|known| known.up_to_micros == bucket.up_to_micros);
            let up_to = bucket
                .requests
                .checked_sub(since.map_or(0, |known| known.requests))?;
            *self.buckets.entry(bucket.up_to_micros).or_default() += up_to.saturating_sub(below);
            below = up_to;
        }
        Some(())
    }

    fn per_s(&self, count: u64) -> f64 {
        count as f64 * 1_000.0 / self.ms.max(1) as f64
    }

    fn accesses(&self) -> u64 {
        self.origins.values().sum()
    }

    fn mean(&self) -> String {
        match self.sum_micros.checked_div(self.requests) {
            Some(micros) => millis(micros),
            None => String::new(),
        }
    }

    /// The bucket that holds the request which one in a hundred is slower than.
    fn p99(&self) -> String {
        let rank = self.requests - self.requests / 100;
        let mut seen = 0;
        for (up_to_micros, requests) in &self.buckets {
            seen += requests;
            if seen >= rank && rank > 0 {
                return millis(*up_to_micros);
            }
        }
        match rank {
            0 => String::new(),
            _ => "more".to_owned(),
        }
    }
}

fn millis(micros: u64) -> String {
    format!("{}.{:02} ms", micros / 1_000, micros % 1_000 / 10)
}

/// The frame; without a line feed at its end.
pub(super) fn frame(before: &Look, now: &Look) -> String {
    let served: BTreeMap<u64, Served> = now
        .loads
        .iter()
        .filter_map(|(host, after)| Some((*host, Served::between(before.loads.get(host)?, after)?)))
        .collect();
    [
        head(now),
        hosts(now, &served),
        zones(now, &served),
        migrations(now),
    ]
    .join("\n\n")
}

fn head(now: &Look) -> String {
    let paused = match now.limits.paused.is_empty() {
        true => "nothing".to_owned(),
        false => now.limits.paused.join(", "),
    };
    let homeless = now.shards.iter().filter(|shard| shard.home == 0).count();
    format!(
        "godwit top  {}  cluster {}  controller host {}  shards {} ({homeless} without a home)  migrations {}  paused {}",
        utc(now.at_ms),
        escaped(now.status.cluster_id.as_bytes()),
        id(now.status.placement_leader),
        now.shards.len(),
        now.migrations.len(),
        escaped(paused.as_bytes()),
    )
}

fn hosts(now: &Look, served: &BTreeMap<u64, Served>) -> String {
    let columns = [
        numbers("host"),
        words("zone"),
        words("state"),
        numbers("homes"),
        numbers("replicas"),
        numbers("disk"),
        numbers("requests/s"),
        numbers("mean"),
        numbers("p99"),
        words("alarms"),
    ];
    let row = |host: &HostStatus| {
        let usage = now.usage.get(&host.host_id);
        let served = served.get(&host.host_id);
        let alarms = usage.map(|usage| {
            let kinds = usage.alarms.iter().map(|alarm| alarm.kind.as_str());
            kinds.collect::<Vec<_>>().join(",")
        });
        [
            host.host_id.to_string(),
            escaped(host.zone.as_bytes()),
            escaped(host.state.as_bytes()),
            host.homes.to_string(),
            host.replicas.to_string(),
            usage
                .map(|usage| text::bytes(usage.used_bytes))
                .unwrap_or_default(),
            served
                .map(|served| format!("{:.1}", served.per_s(served.requests)))
                .unwrap_or_default(),
            served.map(Served::mean).unwrap_or_default(),
            served.map(Served::p99).unwrap_or_default(),
            alarms.unwrap_or_else(|| "silent".to_owned()),
        ]
    };
    text::table(columns, now.hosts.iter().map(row))
}

/// What comes from a zone, and what is there.
#[derive(Default)]
struct Zone {
    per_s: f64,
    local_per_s: f64,
    hosts: u64,
    homes: u64,
}

fn zones(now: &Look, served: &BTreeMap<u64, Served>) -> String {
    let mut zones: BTreeMap<&str, Zone> = BTreeMap::new();
    for host in &now.hosts {
        let zone = zones.entry(&host.zone).or_default();
        zone.hosts += 1;
        zone.homes += host.homes;
    }
    for (host, served) in served {
        let own = now.hosts.iter().find(|known| known.host_id == *host);
        for (origin, accesses) in &served.origins {
            let zone = zones.entry(origin).or_default();
            zone.per_s += served.per_s(*accesses);
            if own.is_some_and(|own| own.zone == *origin) {
                zone.local_per_s += served.per_s(*accesses);
            }
        }
    }
    let all: f64 = served
        .values()
        .map(|served| served.per_s(served.accesses()))
        .sum();
    let local: f64 = zones.values().map(|zone| zone.local_per_s).sum();
    let hottest = zones.values().map(|zone| zone.per_s).fold(0.0, f64::max);
    let columns = [
        words("zone"),
        numbers("hosts"),
        numbers("homes"),
        numbers("accesses/s from it"),
        numbers("served in it"),
        words("heat"),
    ];
    let row = |(name, zone): (&&str, &Zone)| {
        [
            escaped(name.as_bytes()),
            zone.hosts.to_string(),
            zone.homes.to_string(),
            format!("{:.1}", zone.per_s),
            share(zone.local_per_s, zone.per_s),
            bar(zone.per_s, hottest),
        ]
    };
    let local = share(local, all);
    let summary = match local.is_empty() {
        true => "no accesses between the looks".to_owned(),
        false => format!("{all:.1} accesses/s, {local} served in the zone they came from"),
    };
    format!("{}\n{summary}", text::table(columns, zones.iter().map(row)))
}

fn share(part: f64, whole: f64) -> String {
    if whole > 0.0 {
        format!("{:.1} %", part / whole * 100.0)
    } else {
        String::new()
    }
}

fn bar(part: f64, most: f64) -> String {
    if most <= 0.0 {
        return String::new();
    }
    let filled = (part / most * BAR as f64).ceil() as usize;
    "█".repeat(filled)
}

fn migrations(now: &Look) -> String {
    if now.migrations.is_empty() {
        return "no migrations in flight".to_owned();
    }
    let columns = [
        numbers("migration"),
        numbers("shard"),
        words("kind"),
        words("state"),
        words("origin"),
        numbers("from"),
        numbers("to"),
        numbers("for"),
        words("reason"),
    ];
    let row = |migration: &MigrationStatus| {
        let since_ms = now.at_ms.saturating_sub(migration.started_ms);
        [
            migration.migration_id.to_string(),
            migration.shard_id.to_string(),
            escaped(migration.kind.as_bytes()),
            escaped(migration.state.as_bytes()),
            escaped(migration.origin.as_bytes()),
            id(migration.from_host),
            id(migration.to_host),
            text::length(std::time::Duration::from_millis(since_ms)),
            escaped(migration.reason.as_bytes()),
        ]
    };
    text::table(columns, now.migrations.iter().map(row))
}

#[cfg(test)]
mod tests {
    use client::proto::{DurationBucket, OriginLoad};

    use super::*;

    fn load(at_ms: u64, from_a: u64, from_b: u64, requests: u64, slow: u64) -> LoadReply {
        let bucket = |up_to_micros, requests| DurationBucket {
            up_to_micros,
            requests,
        };
        let origin = |zone: &str, accesses| OriginLoad {
            zone: zone.to_owned(),
            accesses,
        };
        LoadReply {
            host_id: 1,
            at_ms,
            origins: vec![origin("a", from_a), origin("b", from_b)],
            kinds: vec![KindLoad {
                kind: "get".into(),
                requests,
                sum_micros: requests * 2_000,
                buckets: vec![bucket(1_000, requests - slow), bucket(50_000, requests)],
            }],
        }
    }

    fn look(loads: Option<LoadReply>) -> Look {
        let host = |host_id, zone: &str, homes| HostStatus {
            host_id,
            zone: zone.into(),
            state: "up".into(),
            homes,
            ..HostStatus::default()
        };
        Look {
            at_ms: 10_000,
            hosts: vec![host(1, "a", 2), host(2, "b", 0)],
            shards: vec![ShardStatus {
                home: 1,
                ..ShardStatus::default()
            }],
            migrations: vec![MigrationStatus {
                migration_id: 9,
                shard_id: 4,
                kind: "move".into(),
                state: "CatchingUp".into(),
                started_ms: 7_000,
                ..MigrationStatus::default()
            }],
            loads: loads.into_iter().map(|load| (load.host_id, load)).collect(),
            ..Look::default()
        }
    }

    #[test]
    fn a_frame_tells_rates_between_two_looks() {
        let before = look(Some(load(1_000, 100, 50, 10, 0)));
        let now = look(Some(load(3_000, 400, 150, 210, 10)));
        let shown = frame(&before, &now);
        let line = |part: &str| shown.lines().find(|line| line.contains(part)).unwrap_or_default();
        // 200 requests in two seconds, ten of them slow.
        for part in ["100.0", "2.00 ms", "50.00 ms"] {
            assert!(line(" a  ").contains(part), "{part}: {shown}");
        }
        assert!(
            shown.contains("200.0 accesses/s, 75.0 % served in the zone"),
            "{shown}"
        );
        assert!(
            shown.contains(&"█".repeat(30)) && shown.contains("silent"),
            "{shown}"
        );
        assert!(line("CatchingUp").contains("3.0 s"), "{shown}");
        assert!(shown.contains("(0 without a home)"), "{shown}");
    }

    #[test]
    fn a_host_that_was_started_again_has_no_rates() {
        let before = look(Some(load(1_000, 100, 50, 10, 0)));
        let now = look(Some(load(3_000, 4, 1, 2, 0)));
        let shown = frame(&before, &now);
        assert!(shown.contains("no accesses between the looks"), "{shown}");
        let silent = frame(&look(None), &look(None));
        assert!(silent.contains("no accesses between the looks"), "{silent}");
    }

    #[test]
    fn one_slow_request_in_a_hundred_is_beyond_the_p99() {
        let served = |slow| {
            let (before, after) = (load(0, 0, 0, 0, 0), load(1, 0, 0, 100, slow));
            Served::between(&before, &after).unwrap().p99()
        };
        assert_eq!(
            (served(1), served(2)),
            ("1.00 ms".to_owned(), "50.00 ms".to_owned())
        );
    }
}
