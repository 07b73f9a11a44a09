//! The demo's figures.
//!
//! The JSON form is a contract for scripts: `ops`, `lost_writes`, `errors` and, under `policies`, one
//! object a policy, in the order they were measured. What the plots need besides lies under `details`.
//! Latencies are microseconds, ratios lie between 0 and 1.

use serde::{Deserialize, Serialize};

use crate::config::PolicyName;

/// Everything the demo measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DemoReport {
    /// Operations completed, over all policies.
    pub ops: u64,
    /// Acknowledged writes that could not be read back. Anything but 0 is a failure.
    pub lost_writes: u64,
    /// Operations that failed although retries within the deadline were possible.
    pub errors: u64,
    /// The policies, in the order they were measured.
    pub policies: Catalogue<PolicyResult>,
    /// How it was measured, and figures window by window.
    pub details: Details,
}

/// What one policy achieved on the slice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyResult {
    /// Share of accesses whose shard's home stood in the client's zone.
    pub local_access_ratio: f64,
    /// Mean emulated round trip between client and home.
    pub rtt_mean_us: f64,
    /// Mean latency of all operations, as clients saw it: what the planner minimises.
    pub latency_mean_us: f64,
    /// Median latency of reads, as clients saw it.
    pub read_p50_us: u64,
    /// 99th percentile of the latency of reads.
    pub read_p99_us: u64,
    /// 99th percentile of the latency of writes.
    pub write_p99_us: u64,
    /// Migrations that ended in `Done`.
    pub migrations_done: u64,
    /// Homes that moved.
    pub home_moves: u64,
    /// Bytes of shard data sent to new replicas.
    pub bytes_moved: u64,
}

/// How it was measured, and figures window by window.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Details {
    /// What was replayed on what.
    pub settings: Settings,
    /// What policies can gain on this slice, computed from the trace alone.
    pub head_room: Vec<HeadRoom>,
    /// Each policy's windows, in order of time.
    pub windows: Catalogue<Vec<WindowPoint>>,
    /// How long home moves held up the writes of their shard.
    pub home_move_pauses: Option<WritePauses>,
    /// What replica moves did to the latency of their shard.
    pub replica_moves: Option<ReplicaMoves>,
    /// What a reader must know to judge the figures.
    pub notes: Vec<String>,
}

/// What was replayed on what.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The trace's name.
    pub trace: String,
    /// Days measured.
    pub days: u32,
    /// Length of a window in workload time.
    pub window_ms: u64,
    /// Key ranges.
    pub shards: u32,
    /// Host processes.
    pub hosts: u32,
    /// Replicas of each shard.
    pub replication_factor: u32,
    /// The seed of everything drawn by chance.
    pub seed: u64,
    /// Workload time for each unit of wall time.
    pub time_compression: f64,
}

/// A rule's score on the trace alone, without a cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeadRoom {
    /// The rule.
    pub name: String,
    /// The share of accesses it would serve from the client's zone.
    pub local_access_ratio: f64,
    /// The mean round trip it would give.
    pub rtt_mean_us: f64,
    /// Whether it knows the future: a bound, not a rival.
    pub is_optimum: bool,
}

/// One policy in one window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct WindowPoint {
    /// The window's start in workload time, in milliseconds since the Unix epoch.
    pub starts_at_ms: u64,
    /// Accesses replayed.
    pub accesses: u64,
    /// Those whose shard's home stood in the client's zone.
    pub local_accesses: u64,
    /// Median latency of reads.
    pub read_p50_us: u64,
    /// 99th percentile of the latency of reads.
    pub read_p99_us: u64,
    /// Median latency of writes.
    pub write_p50_us: u64,
    /// 99th percentile of the latency of writes.
    pub write_p99_us: u64,
    /// Homes that moved.
    pub home_moves: u64,
    /// Migrations that began.
    pub migrations_started: u64,
    /// Migrations that ended in `Done`.
    pub migrations_done: u64,
    /// Migrations that ended otherwise.
    pub migrations_aborted: u64,
}

/// How long home moves held up the writes of their shard, beyond the emulated round trip.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WritePauses {
    /// Home moves measured.
    pub count: u64,
    /// Median pause.
    pub p50_us: u64,
    /// The longest.
    pub max_us: u64,
}

/// What replica moves did to the latency of their shard.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ReplicaMoves {
    /// Replica moves measured.
    pub count: u64,
    /// 99th percentile while they ran, as a multiple of the one before.
    pub p99_ratio: f64,
}

/// Values by policy, in the order they were measured. A JSON object.
#[derive(Debug, Clone, PartialEq)]
pub struct Catalogue<T>(Vec<(PolicyName, T)>);

impl<T> Catalogue<T> {
    /// Adds a policy after the others, or replaces what it had.
    pub fn insert(&mut self, policy: PolicyName, value: T) {
        match self.0.iter_mut().find(|(known, _)| *known == policy) {
            Some((_, known)) => *known = value,
            None => self.0.push((policy, value)),
        }
    }

    /// What a policy has.
    pub fn get(&self, policy: PolicyName) -> Option<&T> {
        self.iter()
            .find(|(known, _)| *known == policy)
            .map(|(_, value)| value)
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = (PolicyName, &T)> {
        self.0.iter().map(|(policy, value)| (*policy, value))
    }
}

impl<T> Default for Catalogue<T> {
    fn default() -> Self {
        Catalogue(Vec::new())
    }
}

impl<T> FromIterator<(PolicyName, T)> for Catalogue<T> {
    fn from_iter<I: IntoIterator<Item = (PolicyName, T)>>(values: I) -> Self {
        let mut catalogue = Catalogue::default();
        values
            .into_iter()
            .for_each(|(policy, value)| catalogue.insert(policy, value));
        catalogue
    }
}

mod catalogue_json {
    use std::fmt;
    use std::marker::PhantomData;

    use serde::de::{MapAccess, Visitor};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Catalogue, PolicyName};

    impl<T: Serialize> Serialize for Catalogue<T> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map(self.iter())
        }
    }

    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Catalogue<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_map(InOrder(PhantomData))
        }
    }

    struct InOrder<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
        type Value = Catalogue<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object with a policy's name for each key")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut catalogue = Catalogue::default();
            while let Some((policy, value)) = map.next_entry::<PolicyName, T>()? {
                catalogue.insert(policy, value);
            }
            Ok(catalogue)
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A report with every part filled, for the renderers' tests.
    pub(in super::super) fn sample() -> DemoReport {
        let result = |rank: u64| PolicyResult {
            local_access_ratio: 0.5 + 0.03 * rank as f64,
            rtt_mean_us: 14_000.0 - 900.0 * rank as f64,
            latency_mean_us: 30_000.0 - 900.0 * rank as f64,
            read_p50_us: 9_000 - 500 * rank,
            read_p99_us: 61_000,
            write_p99_us: 83_000,
            migrations_done: 3 * rank,
            home_moves: 40 * rank,
            bytes_moved: 1_500_000 * rank,
        };
        let point = |rank: u64, hour: u64| {
            let accesses = 40 + 60 * (hour % 24) / 12;
            WindowPoint {
                starts_at_ms: 1_370_000_000_000 + hour * 3_600_000,
                accesses,
                local_accesses: accesses * (50 + 3 * rank + 7 * ((hour * (rank + 2)) % 5)) / 100,
                read_p50_us: 9_000 - 500 * rank + 300 * (hour % 7),
                read_p99_us: 55_000 + 1_000 * ((hour + rank) % 9),
                write_p50_us: 20_000,
                write_p99_us: 80_000,
                home_moves: if rank < 2 { 0 } else { (hour * rank) % 6 },
                migrations_started: 1,
                migrations_done: 1,
                migrations_aborted: 0,
            }
        };
        let ranked = || PolicyName::ALL.into_iter().zip(0_u64..);
        DemoReport {
            ops: 123_456,
            lost_writes: 0,
            errors: 0,
            policies: ranked().map(|(policy, rank)| (policy, result(rank))).collect(),
            details: Details {
                settings: Settings {
                    trace: "flights-nyc13".into(),
                    days: 2,
                    window_ms: 3_600_000,
                    shards: 128,
                    hosts: 6,
                    replication_factor: 3,
                    seed: 1,
                    time_compression: 4_000.0,
                },
                head_room: vec![
                    HeadRoom {
                        name: "static majority".into(),
                        local_access_ratio: 0.52,
                        rtt_mean_us: 13_100.0,
                        is_optimum: false,
                    },
                    HeadRoom {
                        name: "per-window oracle".into(),
                        local_access_ratio: 0.84,
                        rtt_mean_us: 4_100.0,
                        is_optimum: true,
                    },
                ],
                windows: ranked()
                    .map(|(policy, rank)| (policy, (0..48).map(|hour| point(rank, hour)).collect()))
                    .collect(),
                home_move_pauses: Some(WritePauses {
                    count: 410,
                    p50_us: 31_000,
                    max_us: 164_000,
                }),
                replica_moves: Some(ReplicaMoves {
                    count: 18,
                    p99_ratio: 1.31,
                }),
                notes: vec!["Round-trip times between zones are emulated in the network layer.".into()],
            },
        }
    }

    #[test]
    fn the_json_has_the_agreed_names_and_order() {
        let json = serde_json::to_string(&sample()).unwrap();
        let expected = "{\"ops\":123456,\"lost_writes\":0,\"errors\":0,\"policies\":{\"static-hash\":\
                        {\"local_access_ratio\":0.5,\"rtt_mean_us\":14000.0,\"latency_mean_us\":30000.0,\"read_p50_us\":9000,\
                        \"read_p99_us\":61000,\"write_p99_us\":83000,\"migrations_done\":0,\"home_moves\":0,\
                        \"bytes_moved\":0},\"static-majority\":{";
        assert!(json.starts_with(expected), "{json}");
    }

    #[test]
    fn a_report_survives_its_json() {
        let mut report = sample();
        report.policies = [PolicyName::BurnModel, PolicyName::StaticHash]
            .into_iter()
            .map(|policy| (policy, PolicyResult::default()))
            .collect();
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<DemoReport>(&json).unwrap(), report);
        assert!(serde_json::from_str::<Catalogue<u8>>("{\"best\":1}").is_err());
    }
}
