//! The configuration of one host, with its defaults.
//!
//! Units stand last in every name (`_ms`, `_bytes`, `_ppm`) and ceilings end in `_max`. The type is
//! what `godwit serve --print-config` prints and what the file holds; the two round-trip. What a
//! value may be is checked by [`load`](super::load) (rules in `validate.rs`), not by the types, so that
//! an error can name the field and its source.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::PolicyName;
use crate::memory;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// Everything `godwit serve` can be told. Addresses are `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostConfig {
    /// The folder that holds this host's log, shards and identity. Created when absent.
    pub data_dir: PathBuf,
    /// The address to listen on. Port 0 takes a free one.
    pub listen: String,
    /// The address other hosts and clients are told to use. Unset: the bound listen address.
    pub advertise: Option<String>,
    /// The locality label of the zone (a fault domain) this host stands in.
    pub zone: String,
    /// The locality label of the region the zone lies in.
    pub region: String,
    /// Hosts of the cluster to join, tried in order. Empty: wait for `godwit init`.
    pub join: Vec<String>,
    /// Bytes of shard data the planner may place here.
    pub capacity_bytes: u64,
    /// How much nicer than the process the threads are that copy, scrub and rewrite shards, 0 to 19 (Linux): the higher, the
    /// less of a busy processor they take from requests.
    pub background_nice: u32,
    /// Whether memory may come in huge pages (Linux). Reads of many clients are up to a tenth faster with them, and an idle
    /// replica takes two mebibytes instead of a quarter of one.
    pub huge_pages: bool,
    /// Ceilings on what one client, request or connection may use.
    pub limits: Limits,
    /// How large shards may become.
    pub shards: ShardsConfig,
    /// What watches may use.
    pub watch: WatchConfig,
    /// The clocks of the Raft groups.
    pub raft: RaftTimings,
    /// What snapshots may take from the host.
    pub snapshot: SnapshotConfig,
    /// The host's shared Raft log.
    pub log: LogConfig,
    /// How much of the disk the host may take.
    pub storage: StorageConfig,
    /// When shard state is made durable.
    pub checkpoint: CheckpointConfig,
    /// When replicas are compared.
    pub scrub: ScrubConfig,
    /// How accesses are counted and sampled.
    pub profiler: ProfilerConfig,
    /// How placements are proposed.
    pub balancer: BalancerConfig,
    /// Emulated network distance, for demonstrations on one machine.
    pub emulation: EmulationConfig,
    /// What the host writes about itself.
    pub tracing: TracingConfig,
    /// What monitoring systems are told.
    pub monitoring: MonitoringConfig,
}

impl Default for HostConfig {
    fn default() -> Self {
        HostConfig {
            data_dir: PathBuf::from("godwit-data"),
            listen: "127.0.0.1:7420".to_owned(),
            advertise: None,
            zone: "local".to_owned(),
            region: "local".to_owned(),
            join: Vec::new(),
            capacity_bytes: 100 * GIB,
            background_nice: 10,
            huge_pages: false,
            limits: Limits::default(),
            shards: ShardsConfig::default(),
            watch: WatchConfig::default(),
            raft: RaftTimings::default(),
            snapshot: SnapshotConfig::default(),
            log: LogConfig::default(),
            storage: StorageConfig::default(),
            checkpoint: CheckpointConfig::default(),
            scrub: ScrubConfig::default(),
            profiler: ProfilerConfig::default(),
            balancer: BalancerConfig::default(),
            emulation: EmulationConfig::default(),
            tracing: TracingConfig::default(),
            monitoring: MonitoringConfig::default(),
        }
    }
}

/// Ceilings on what one client, request or connection may use. A request above one is refused before
/// it is executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Longest key, in bytes.
    pub key_bytes_max: u64,
    /// Longest value, in bytes.
    pub value_bytes_max: u64,
    /// Most bytes of requests in one frame of a client's stream.
    pub batch_bytes_max: u64,
    /// Most pairs one page of a scan returns.
    pub scan_pairs_max: u64,
    /// Most bytes of keys and values one page of a scan returns.
    pub scan_bytes_max: u64,
    /// Most comparisons and actions of a transaction. As the limits of keys and values it holds for shards made from
    /// then on.
    pub transaction_actions_max: u64,
    /// Most pairs one scan within a transaction returns.
    pub transaction_pairs_max: u64,
    /// Most bytes of keys and values a transaction returns.
    pub transaction_bytes_max: u64,
    /// Most leases of a shard. For shards made from then on.
    pub leases_max: u64,
    /// Most keys that hang on one lease. For shards made from then on.
    pub lease_keys_max: u64,
    /// How long superseded versions and deletions stay readable, in the leaders' time: how far back a read at a revision, a
    /// watch or an incremental backup can begin, and what a full backup may take for one piece of a minute. For shards made
    /// from then on.
    pub retention_ms: u64,
    /// Most bytes of requests accepted and not yet answered, over all connections of the host.
    pub in_flight_bytes_max: u64,
    /// Most connections (clients and peers together); further ones wait in the kernel's backlog.
    pub connections_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            key_bytes_max: 4 * KIB,
            value_bytes_max: MIB,
            batch_bytes_max: 4 * MIB,
            scan_pairs_max: 1_000,
            scan_bytes_max: 4 * MIB,
            transaction_actions_max: 128,
            transaction_pairs_max: 1_000,
            transaction_bytes_max: 4 * MIB,
            leases_max: 10_000,
            lease_keys_max: 10_000,
            retention_ms: 300_000,
            in_flight_bytes_max: 64 * MIB,
            connections_max: 1_024,
        }
    }
}

/// How large shards may become. What counts is the configuration of the host that leads the placement group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShardsConfig {
    /// A shard whose keys and newest values take more bytes is split where its data has two halves; 0: never.
    pub bytes_max: u64,
    /// No more shards than this are made by splits that nobody asked for.
    pub count_max: u64,
    /// A shard that is accessed more often than this in a second, over a window of the profiler, is split where its load
    /// has two parts, if no single key has most of it; 0: never.
    pub accesses_max_per_s: u64,
    /// A shard is split where its sides are accessed from different places, if homes of their own bring at least this
    /// part of its accesses home, in parts per million; 0: never.
    pub affinity_gain_min_ppm: u32,
    /// Neighbours on the same hosts that hold less than this together are merged; 0: never. Shards that were made empty,
    /// to be filled, are merged as well.
    pub bytes_min: u64,
}

impl Default for ShardsConfig {
    fn default() -> Self {
        ShardsConfig {
            bytes_max: 512 * MIB,
            count_max: 1_024,
            accesses_max_per_s: 50_000,
            affinity_gain_min_ppm: 250_000,
            bytes_min: 0,
        }
    }
}

/// What watches may use. A client that reads its events too slowly loses none, as long as its shards remember them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WatchConfig {
    /// Most watches of one stream.
    pub watches_max: u64,
    /// Bytes of events that wait for one client, over all its watches; what is above stays in the shards.
    pub queue_bytes_max: u64,
    /// Most changes that are looked at in one step.
    pub page_rows_max: u64,
    /// Most bytes of keys and values that are told in one step; a single revision may have more.
    pub page_bytes_max: u64,
    /// Pause between two notes of progress to a watch without events. Shorter than shards remember what is past, or a
    /// quiet watch could not be resumed.
    pub progress_interval_ms: u64,
}

impl Default for WatchConfig {
    fn default() -> Self {
        WatchConfig {
            watches_max: 100_000,
            queue_bytes_max: 4 * MIB,
            page_rows_max: 4_096,
            page_bytes_max: MIB,
            progress_interval_ms: 10_000,
        }
    }
}

/// The clocks of the Raft groups, and how long their logs get. The same on every host of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RaftTimings {
    /// Pause between a leader's heartbeats.
    pub heartbeat_ms: u64,
    /// Shortest silence after which a voter campaigns.
    pub election_min_ms: u64,
    /// Longest silence after which a voter campaigns; each draws between the two.
    pub election_max_ms: u64,
    /// Entries after which a group takes a snapshot and purges its log.
    pub snapshot_entries: u64,
    /// Entries kept behind a snapshot; a replica further behind is sent the snapshot.
    pub keep_entries: u64,
}

impl Default for RaftTimings {
    fn default() -> Self {
        RaftTimings {
            heartbeat_ms: 250,
            election_min_ms: 1_000,
            election_max_ms: 1_500,
            snapshot_entries: 10_000,
            keep_entries: 10_000,
        }
    }
}

/// What snapshots may take from the host: the states of whole shards, on their way to new replicas and to those that were
/// away for long. The placement group's is small and not counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotConfig {
    /// Bytes a second of all snapshots that leave the host, together; 0: as many as go.
    pub bytes_per_s: u64,
    /// Bytes a second of those that are part of a move, together and within `bytes_per_s`; 0: no less. Voters that fell behind
    /// and replicas that replace lost ones are not held to it. The log behind such a snapshot may take twice that, or twice what
    /// it grows by.
    pub move_bytes_per_s: u64,
    /// Snapshots that leave the host at once; further ones wait.
    pub sends_max: u32,
    /// Snapshots that the host receives at once; further ones come again until there is room.
    pub receives_max: u32,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        SnapshotConfig {
            bytes_per_s: 64 * MIB,
            move_bytes_per_s: 8 * MIB,
            sends_max: 2,
            receives_max: 2,
        }
    }
}

/// The host's shared Raft log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// A segment is closed once it holds this many bytes; it takes as many of the disk from its beginning.
    pub segment_bytes: u64,
    /// Above this many live bytes the groups that pin the oldest segments are checkpointed and purged.
    pub live_bytes_max: u64,
    /// Recent entries held in memory, in bytes; what is not durable yet comes on top.
    pub tail_bytes: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            segment_bytes: 32 * MIB,
            live_bytes_max: 1024 * MIB,
            tail_bytes: 32 * MIB,
        }
    }
}

/// How much of the disk the host may take. Beyond it the host raises the alarm NOSPACE, and what adds data to a shard of
/// which it has a voter is refused, wherever the shard's home is. Reads, deletions, compaction and moves away go on; the
/// alarm ends by itself a twentieth below the limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageConfig {
    /// Bytes that the shards' files and the log may take; 0: no limit.
    pub quota_bytes: u64,
    /// Bytes that are to stay free on the disk; 0: no limit. Enough for what may still be written before the alarm is
    /// heard, and for the file of a shard that is rewritten: a log that meets a full disk stops the host.
    pub free_bytes_min: u64,
}

impl Default for StorageConfig {
    fn default() -> Self {
        StorageConfig {
            quota_bytes: 0,
            free_bytes_min: 256 * MIB,
        }
    }
}

/// When shard state is made durable. Until then the Raft log is what survives a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Longest time between two checkpoints of a shard that changed.
    pub interval_ms: u64,
    /// A shard with this many unsaved bytes is checkpointed at once.
    pub dirty_bytes_max: u64,
    /// Memory for cached pages of each shard's file, in bytes.
    pub cache_bytes: u64,
    /// Memory for rows that were written to shards' files or read from them lately, of all shards of the host together, in
    /// bytes; 0: none. Where nothing is said, `godwit serve` takes a quarter of what it may count on (the machine's memory, or its
    /// container's), 256 MiB at least.
    pub row_cache_bytes: u64,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        CheckpointConfig {
            interval_ms: 2_000,
            dirty_bytes_max: 64 * MIB,
            cache_bytes: MIB,
            row_cache_bytes: memory::CACHE_BYTES_MIN,
        }
    }
}

/// When replicas are compared. A scrub reads everything that a shard holds, on each of its hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScrubConfig {
    /// Pause between two scrubs of the shards that the host leads; 0: only when an operator asks.
    pub interval_s: u64,
}

/// How accesses are counted and sampled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProfilerConfig {
    /// Length of a counting window, in workload time. The balancer acts once a window.
    pub window_ms: u64,
    /// Most bytes of sampled accesses kept on disk; the oldest file goes first.
    pub access_log_bytes_max: u64,
    /// Accesses sampled into the access log, per million. 0: none.
    pub access_log_sample_ppm: u32,
}

impl Default for ProfilerConfig {
    fn default() -> Self {
        ProfilerConfig {
            window_ms: 300_000,
            access_log_bytes_max: 64 * MIB,
            access_log_sample_ppm: 10_000,
        }
    }
}

/// How placements are proposed. Applies on the host that leads the placement group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BalancerConfig {
    /// Whether forecasts become proposals. Repair, drain, rules and manual moves work either way.
    pub enabled: bool,
    /// What forecasts the next window.
    pub policy: PolicyName,
    /// The trained model, for [`PolicyName::BurnModel`] alone.
    pub model_file: Option<PathBuf>,
    /// Windows a shard's home stays before the balancer may move it again. Taken over by `init`.
    pub dwell_windows: u32,
    /// Replicas on their way to a host, and from it, at most; half of them on a forecast. Taken over by `init`.
    pub host_moves_max: u32,
    /// Windows a shard's replicas stay before the balancer may move one again. Taken over by `init`.
    pub replica_dwell_windows: u32,
    /// A host that has not answered for this long is dead: its replicas are replaced. Taken over by `init`.
    pub dead_after_ms: u64,
    /// Moves on a forecast that are judged together, by what they were predicted to save and what they saved; 0: nobody
    /// loses the right to propose. Taken over by `init`, as the next two; `admin limits` changes them.
    pub trust_moves: u32,
    /// What they must have saved together, in parts per million of what was predicted.
    pub trust_share_ppm: u32,
    /// Windows over which a move is measured.
    pub trust_windows: u32,
    /// The share of reads expected to rely on a leader's lease, in parts per million, until a window has shown it.
    pub lease_reads_ppm: u32,
    /// Round-trip times between zones: CSV `zone,zone,micros` or JSON. Unset: those that are emulated, or else assumed
    /// by whether zone or region are shared (0.5, 2 and 40 ms).
    pub rtt_matrix: Option<PathBuf>,
    /// An access log (CSV, or CSV compressed with zstd) that a policy learns from before its first forecast.
    pub history: Option<PathBuf>,
    /// The zone of each origin in `history`: CSV with the columns origin, zone, region, lat, lon.
    pub history_zones: Option<PathBuf>,
    /// Only accesses before this time of `history` count, in milliseconds since the Unix epoch; 0: all do.
    pub history_until_ms: u64,
    /// Windows are ended from outside, through the admin service, instead of by the clock: for replays.
    pub external_windows: bool,
    /// The host that controls the cluster keeps the windows it collects in this many bytes; 0: none.
    pub archive_bytes_max: u64,
    /// The model is trained anew on those windows this long after it was made active, at the lowest priority and in a
    /// process of its own; it serves if it passes the gate. 0: never. For [`PolicyName::BurnModel`] alone.
    pub retrain_interval_ms: u64,
    /// Windows that there must be before a model is trained.
    pub retrain_windows_min: u64,
    /// Training that takes longer is given up.
    pub retrain_timeout_ms: u64,
}

impl Default for BalancerConfig {
    fn default() -> Self {
        BalancerConfig {
            enabled: true,
            policy: PolicyName::EwmaHysteresis,
            model_file: None,
            dwell_windows: 2,
            host_moves_max: 2,
            replica_dwell_windows: 4,
            dead_after_ms: 300_000,
            trust_moves: 32,
            trust_share_ppm: 250_000,
            trust_windows: 3,
            lease_reads_ppm: 0,
            rtt_matrix: None,
            history: None,
            history_zones: None,
            history_until_ms: 0,
            external_windows: false,
            archive_bytes_max: 256 * MIB,
            retrain_interval_ms: 86_400_000,
            retrain_windows_min: 576,
            retrain_timeout_ms: 1_800_000,
        }
    }
}

/// Emulated network distance. Both files are set or neither; unset, connections are plain TCP.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmulationConfig {
    /// Round-trip times between zones: CSV `zone,zone,micros` or JSON.
    pub rtt_matrix: Option<PathBuf>,
    /// The zone each address stands in: CSV `address,zone`.
    pub addresses: Option<PathBuf>,
}

/// What the host writes about itself, to standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracingConfig {
    /// Lines for people or JSON for machines.
    pub format: TracingFormat,
    /// Which events: `info`, or directives such as `info,raft=debug`.
    pub filter: String,
    /// Also writes when each request passes each layer, a line a step, into the file `steps.csv` of the data folder. For
    /// profiles: it costs time, and the file grows without bound.
    pub steps: bool,
}

impl Default for TracingConfig {
    fn default() -> Self {
        TracingConfig {
            format: TracingFormat::Text,
            filter: "info".to_owned(),
            steps: false,
        }
    }
}

/// What monitoring systems are told over HTTP, by whoever can reach the address: `/metrics`, `/healthz`, `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MonitoringConfig {
    /// The address to listen on. Port 0 takes a free one; unset: none is listened on.
    pub listen: Option<String>,
    /// Most shards with series of their own; what is told of all of them together does not depend on it. 0: none.
    pub shards_max: u64,
    /// Most connections at once; further ones wait.
    pub connections_max: u64,
}

impl Default for MonitoringConfig {
    fn default() -> Self {
        MonitoringConfig {
            listen: None,
            shards_max: 256,
            connections_max: 16,
        }
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TracingFormat {
    /// One human-readable line an event.
    Text,
    /// One JSON object an event.
    Json,
}
