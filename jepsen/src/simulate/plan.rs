//! What a seed stands for: the cluster, its clocks, its load and its faults, all drawn before anything runs.
//!
//! Swarm testing: each class of fault is on in about half of the plans, so that a bug that shows only while another
//! fault is absent is found too. Migrations are never off.

use std::time::Duration;

use client::ReadMode;

use crate::generate::Chance;

/// A class of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultClass {
    /// A host dies, with the usual fate of what it had not synced, and comes back.
    Crash,
    /// Every host dies at one moment.
    CrashAll,
    /// The power goes off in the middle of a write.
    PowerCut,
    /// Messages between two sides are lost, in both directions.
    Partition,
    /// Messages from some hosts to others are lost, and arrive the other way.
    OneWay,
    /// Messages between two sides arrive after the fault is over.
    Hold,
    /// The host that leads some shard is cut off from the other hosts, but not from the clients.
    IsolateLeader,
    /// Links are slow.
    Slow,
    /// A sync fails once.
    SyncError,
    /// A disk is full for a while.
    DiskFull,
    /// A host loses its disk, once, and joins with an empty one.
    Wipe,
    /// Bits flip on one host's disk while it is down, once.
    BitRot,
    /// The hosts' clocks run apart, by 10 % at most: what reads by lease bear.
    ClockRates,
    /// The hosts' clocks run apart, the fastest up to twice as fast as the slowest, and reads rely on leases: more than
    /// they bear. Only when it is asked for.
    WildClockRates,
    /// Homes move in bursts.
    TransferStorm,
    /// The power goes off at a named step of a host: a fail point. Builds with debug assertions only.
    StepCrash,
    /// A dead host's address is taken by a host of another cluster, which has shards and replicas of the same ids.
    Stranger,
}

impl FaultClass {
    /// Those that a seed draws from: what a cluster must bear.
    pub const ALL: [Self; 16] = [
        Self::Crash,
        Self::CrashAll,
        Self::PowerCut,
        Self::Partition,
        Self::OneWay,
        Self::Hold,
        Self::IsolateLeader,
        Self::Slow,
        Self::SyncError,
        Self::DiskFull,
        Self::Wipe,
        Self::BitRot,
        Self::ClockRates,
        Self::TransferStorm,
        Self::StepCrash,
        Self::Stranger,
    ];

    /// The class of this name.
    ///
    /// # Errors
    /// When there is none; says which there are.
    pub fn named(name: &str) -> Result<Self, String> {
        let all = || Self::ALL.into_iter().chain([Self::WildClockRates]);
        all().find(|class| class.name() == name).ok_or_else(|| {
            let known: Vec<&str> = all().map(Self::name).collect();
            format!("no such class of fault; there are {}", known.join(", "))
        })
    }

    /// Its name in events, tallies and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::CrashAll => "crash-all",
            Self::PowerCut => "power-cut",
            Self::Partition => "partition",
            Self::OneWay => "one-way",
            Self::Hold => "hold",
            Self::IsolateLeader => "isolate-leader",
            Self::Slow => "slow",
            Self::SyncError => "sync-error",
            Self::DiskFull => "disk-full",
            Self::Wipe => "wipe",
            Self::BitRot => "bit-rot",
            Self::ClockRates => "clock-rates",
            Self::WildClockRates => "wild-clock-rates",
            Self::TransferStorm => "transfer-storm",
            Self::StepCrash => "step-crash",
            Self::Stranger => "stranger",
        }
    }
}

/// Everything that follows from a seed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Hosts.
    pub hosts: usize,
    /// Shards.
    pub shards: u32,
    /// Clients.
    pub clients: usize,
    /// Operations that they begin in a second, together.
    pub operations_per_s: u64,
    /// Who serves reads, and on the strength of what.
    pub read_mode: ReadMode,
    /// Pause between heartbeats.
    pub heartbeat_ms: u64,
    /// Shortest election timeout; the longest is half as long again.
    pub election_min_ms: u64,
    /// Entries after which a group takes a snapshot: few, so that snapshots are sent.
    pub snapshot_entries: u64,
    /// Entries kept behind a snapshot.
    pub keep_entries: u64,
    /// Bytes after which a segment of the log is closed.
    pub segment_bytes: u64,
    /// Live bytes of the log above which groups are purged.
    pub live_bytes_max: u64,
    /// Longest time between checkpoints.
    pub checkpoint_ms: u64,
    /// The slowest message, without a fault.
    pub latency_max: Duration,
    /// The slowest sync.
    pub sync_max: Duration,
    /// The classes of fault that are on.
    pub faults: Vec<FaultClass>,
    /// Mean pause between two faults.
    pub fault_pause: Duration,
    /// Mean pause between two migrations asked for.
    pub move_pause: Duration,
    /// How long faults go on.
    pub faults_for: Duration,
}

impl Plan {
    /// Classes that can strike any cluster at any time.
    const STEADY: [FaultClass; 5] = [
        FaultClass::Crash,
        FaultClass::PowerCut,
        FaultClass::Partition,
        FaultClass::Hold,
        FaultClass::IsolateLeader,
    ];

    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut chance = Chance::new(seed ^ 0x05ee_d0fa_91a9);
        let mut faults: Vec<FaultClass> = FaultClass::ALL
            .into_iter()
            .filter(|_| chance.permille(500))
            .collect();
        // Two classes that always find something to strike, or a schedule says little.
        while faults.iter().filter(|class| Self::STEADY.contains(class)).count() < 2 {
            let class = Self::STEADY[pick(&mut chance, Self::STEADY.len())];
            if !faults.contains(&class) {
                faults.push(class);
            }
        }
        let millis =
            |chance: &mut Chance, from: u64, to: u64| Duration::from_millis(from + chance.below(to - from));
        Self {
            seed,
            hosts: [3, 4, 5, 5, 6][pick(&mut chance, 5)],
            shards: 2 + chance.below(4) as u32,
            clients: 5 + pick(&mut chance, 6),
            operations_per_s: 40 + chance.below(80),
            read_mode: match chance.below(1_000) {
                0..300 => ReadMode::Lease,
                300..600 => ReadMode::Follower,
                _ => ReadMode::Index,
            },
            heartbeat_ms: 50 + chance.below(50),
            election_min_ms: 300 + chance.below(500),
            snapshot_entries: 20 + chance.below(200),
            keep_entries: chance.below(20),
            segment_bytes: 16 << 10 << chance.below(3),
            live_bytes_max: 64 << 10 << chance.below(3),
            checkpoint_ms: 200 + chance.below(1_500),
            latency_max: millis(&mut chance, 2, 40),
            sync_max: millis(&mut chance, 1, 12),
            faults,
            fault_pause: millis(&mut chance, 300, 2_500),
            move_pause: millis(&mut chance, 500, 3_000),
            faults_for: Duration::from_secs(20 + chance.below(6)),
        }
    }

    /// The same, but for its faults: these, if there are any.
    #[must_use]
    pub fn with_faults(self, faults: &[FaultClass]) -> Self {
        match faults {
            [] => self,
            _ => Self {
                faults: faults.to_vec(),
                read_mode: match faults.contains(&FaultClass::WildClockRates) {
                    true => ReadMode::Lease,
                    false => self.read_mode,
                },
                ..self
            },
        }
    }
}

/// An index below `len`.
pub(super) fn pick(chance: &mut Chance, len: usize) -> usize {
    usize::try_from(chance.below(len as u64)).unwrap_or(0)
}
