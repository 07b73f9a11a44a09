//! Answers to operators, as tables for people or as [`documents`].
//!
//! Where the protocol writes 0 for an id or a time that is not there, a table leaves the cell empty. Texts that come
//! from operators and hosts are escaped, as keys are.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use client::proto::{
    Affinity, Alarm, DepartureReply, DryRunReply, ExplainReply, HistoryReply, HostAffinity, HostStatus,
    MigrationStatus, PlacementLimits, Replica, ReplicaState, ScrubReply, ShardStatus, StatusReply,
    TrustReply, UsageReply, WindowsReply,
};
use serde_json::{Value, json};

use super::{
    departure::{counts, host_state},
    documents,
    explain::{explained_document, explained_text, planned_document, planned_text},
    health::{alarm_kinds, alarms_text, scrubbed_text, with_silent},
    history::{history_document, history_text, totals_document, totals_text},
    limits::{limits_document, limits_text, paused_text},
    recover::Survey,
    text::{self, escaped, id, numbers, percent, utc, words},
    trust::{trust_document, trust_text},
    windows::{windows_document, windows_text},
};

/// Scores in one cell of a table.
const SCORES_MAX: usize = 4;

/// The answer to a verb of `godwit admin`.
#[derive(Debug)]
pub(super) enum Listing {
    /// The cluster, and the limits of placement where they are known.
    Status(StatusReply, Option<PlacementLimits>),
    Limits(PlacementLimits),
    Explained(ExplainReply),
    Planned(DryRunReply),
    Trust(TrustReply),
    Windows(WindowsReply),
    /// A migration that was given up, and what it has entered.
    Cancelled {
        migration: u64,
        state: String,
    },
    /// The hosts, and what those that answered use.
    Hosts {
        hosts: Vec<HostStatus>,
        usage: BTreeMap<u64, UsageReply>,
    },
    /// What the hosts that answered said, and those that did not.
    Alarms {
        alarms: Vec<Alarm>,
        silent: Vec<SilentHost>,
    },
    Shards(Vec<ShardStatus>),
    /// What the hosts that answered said, and those that did not.
    Replicas {
        replicas: Vec<ReplicaState>,
        silent: Vec<SilentHost>,
    },
    /// What the scrub of each shard came to, or why there was none.
    Scrubbed(Vec<(u64, Result<ScrubReply, String>)>),
    Migrations(Vec<MigrationStatus>),
    History(HistoryReply),
    /// What happened, counted.
    Totals(HistoryReply),
    /// The id of a migration that is in the placement log now.
    Accepted(u64),
    /// A host whose admission was changed, and what it holds.
    Departure(DepartureReply),
    /// What is left of a shard.
    Survey(Survey),
}

/// A host that was asked and did not answer.
#[derive(Debug)]
pub(super) struct SilentHost {
    pub(super) host_id: u64,
    pub(super) cause: String,
}

impl Listing {
    /// For people; without a line feed at the end.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Status(status, limits) => status_text(status, limits.as_ref()),
            Self::Limits(limits) => limits_text(limits),
            Self::Explained(told) => explained_text(told),
            Self::Planned(plan) => planned_text(plan),
            Self::Trust(told) => trust_text(told),
            Self::Windows(told) => windows_text(told),
            Self::Cancelled { migration, state } => {
                format!("migration {migration} is given up: {}", escaped(state.as_bytes()))
            }
            Self::Hosts { hosts, .. } if hosts.is_empty() => "no hosts".to_owned(),
            Self::Hosts { hosts, usage } => hosts_text(hosts, usage),
            Self::Alarms { alarms, silent } => alarms_text(alarms, silent),
            Self::Shards(shards) if shards.is_empty() => "no shards yet".to_owned(),
            Self::Shards(shards) => shards_text(shards),
            Self::Replicas { replicas, silent } => replicas_text(replicas, silent),
            Self::Scrubbed(shards) if shards.is_empty() => "no shards yet".to_owned(),
            Self::Scrubbed(shards) => scrubbed_text(shards),
            Self::Migrations(migrations) if migrations.is_empty() => "no migrations".to_owned(),
            Self::Migrations(migrations) => migrations_text(migrations),
            Self::History(history) => history_text(history),
            Self::Totals(history) => totals_text(&history.totals),
            Self::Departure(departure) => counts(departure),
            Self::Survey(survey) => survey.text(),
            Self::Accepted(migration) => {
                format!(
                    "migration {migration} is in the log; `godwit admin history --migration {migration}` follows it"
                )
            }
        }
    }

    /// For scripts.
    pub(super) fn document(&self) -> Value {
        match self {
            Self::Status(status, limits) => {
                let mut document = documents::status(status);
                document["paused"] = json!(limits.as_ref().map(|limits| &limits.paused));
                document
            }
            Self::Limits(limits) => limits_document(limits),
            Self::Explained(told) => explained_document(told),
            Self::Planned(plan) => planned_document(plan),
            Self::Trust(told) => trust_document(told),
            Self::Windows(told) => windows_document(told),
            Self::Cancelled { migration, state } => json!({ "migration_id": migration, "state": state }),
            Self::Hosts { hosts, usage } => {
                let host = |host: &HostStatus| documents::used_host(host, usage.get(&host.host_id));
                json!({ "hosts": documents::each(hosts, host) })
            }
            Self::Alarms { alarms, silent } => json!({
                "alarms": documents::each(alarms, documents::alarm),
                "silent_hosts": documents::each(silent, documents::silent_host),
            }),
            Self::Shards(shards) => json!({ "shards": documents::each(shards, documents::shard) }),
            Self::Replicas { replicas, silent } => json!({
                "replicas": documents::each(replicas, documents::replica_state),
                "silent_hosts": documents::each(silent, documents::silent_host),
            }),
            Self::Scrubbed(shards) => {
                json!({ "shards": documents::each(shards, documents::scrubbed) })
            }
            Self::Migrations(migrations) => {
                json!({ "migrations": documents::each(migrations, documents::migration) })
            }
            Self::History(history) => history_document(history),
            Self::Totals(history) => totals_document(&history.totals),
            Self::Accepted(migration) => json!({ "migration_id": migration }),
            Self::Departure(departure) => documents::departure(departure),
            Self::Survey(survey) => survey.document(),
        }
    }
}

fn status_text(status: &StatusReply, limits: Option<&PlacementLimits>) -> String {
    let paused = limits.map_or_else(|| "not known to this host".to_owned(), paused_text);
    let cluster = match status.cluster_id.as_str() {
        "" => "none yet".to_owned(),
        id => escaped(id.as_bytes()),
    };
    let leader = match status.placement_leader {
        0 => "not known to this host".to_owned(),
        host => format!("host {host}"),
    };
    text::facts([
        ("cluster", cluster),
        (
            "answered by",
            format!(
                "host {} at {}",
                status.host_id,
                escaped(status.address.as_bytes())
            ),
        ),
        ("version", escaped(status.version.as_bytes())),
        ("placement leader", leader),
        ("placement applied", status.placement_applied.to_string()),
        ("shard map version", status.map_version.to_string()),
        (
            "shards",
            format!(
                "{}, {} led by this host",
                status.shards_total, status.shards_led_here
            ),
        ),
        ("active migrations", status.migrations_active.to_string()),
        ("paused", paused),
    ])
}

fn hosts_text(hosts: &[HostStatus], usage: &BTreeMap<u64, UsageReply>) -> String {
    let columns = [
        numbers("host"),
        words("address"),
        words("zone"),
        words("region"),
        words("state"),
        numbers("replicas"),
        numbers("homes"),
        numbers("capacity"),
        numbers("used"),
        numbers("free"),
        words("alarms"),
        words("highest affinity (shard: score)"),
    ];
    let row = |host: &HostStatus| {
        let used = usage.get(&host.host_id);
        [
            host.host_id.to_string(),
            escaped(host.address.as_bytes()),
            escaped(host.zone.as_bytes()),
            escaped(host.region.as_bytes()),
            host_state(host),
            host.replicas.to_string(),
            host.homes.to_string(),
            text::bytes(host.capacity_bytes),
            used.map(|used| text::bytes(used.used_bytes)).unwrap_or_default(),
            used.map(|used| text::bytes(used.free_bytes)).unwrap_or_default(),
            used.map(alarm_kinds).unwrap_or_default(),
            scores(
                host.affinities
                    .iter()
                    .map(|Affinity { shard_id, score_ppm }| (*shard_id, *score_ppm)),
            ),
        ]
    };
    text::table(columns, hosts.iter().map(row))
}

fn shards_text(shards: &[ShardStatus]) -> String {
    let columns = [
        numbers("shard"),
        words("range"),
        words("epoch"),
        numbers("home"),
        words("replicas on"),
        numbers("migration"),
        words("affinity (host: score)"),
    ];
    let row = |shard: &ShardStatus| {
        let affinities = shard.affinities.iter();
        [
            shard.shard_id.to_string(),
            text::range(&shard.start, &shard.end),
            format!("{}.{}", shard.r#gen, shard.conf_ver),
            id(shard.home),
            replicas(&shard.replicas),
            id(shard.migration_id),
            scores(affinities.map(|HostAffinity { host_id, score_ppm }| (*host_id, *score_ppm))),
        ]
    };
    text::table(columns, shards.iter().map(row))
}

fn replicas_text(replicas: &[ReplicaState], silent: &[SilentHost]) -> String {
    let columns = [
        words("shard"),
        numbers("replica"),
        numbers("host"),
        words("role"),
        numbers("term"),
        numbers("applied"),
        words("state hash"),
    ];
    let row = |replica: &ReplicaState| {
        [
            shard_name(replica.shard_id),
            replica.replica_id.to_string(),
            replica.host_id.to_string(),
            escaped(replica.role.as_bytes()),
            replica.term.to_string(),
            replica.applied_index.to_string(),
            text::hash(replica.state_hash),
        ]
    };
    let table = match replicas.is_empty() {
        true => "no replicas".to_owned(),
        false => text::table(columns, replicas.iter().map(row)),
    };
    with_silent(table, silent)
}

fn migrations_text(migrations: &[MigrationStatus]) -> String {
    let columns = [
        numbers("migration"),
        words("shard"),
        words("kind"),
        words("state"),
        words("origin"),
        numbers("from"),
        numbers("to"),
        words("started"),
        words("took"),
        words("reason"),
    ];
    let row = |migration: &MigrationStatus| {
        [
            migration.migration_id.to_string(),
            shard_name(migration.shard_id),
            escaped(migration.kind.as_bytes()),
            escaped(migration.state.as_bytes()),
            escaped(migration.origin.as_bytes()),
            id(migration.from_host),
            id(migration.to_host),
            utc(migration.started_ms),
            took(migration),
            escaped(migration.reason.as_bytes()),
        ]
    };
    text::table(columns, migrations.iter().map(row))
}

/// Host ids, those of learners marked.
fn replicas(replicas: &[Replica]) -> String {
    let name = |replica: &Replica| match replica.role.as_str() {
        "voter" => replica.host_id.to_string(),
        role => format!("{} ({})", replica.host_id, escaped(role.as_bytes())),
    };
    replicas.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// The highest scores, highest first, and how many there are besides.
pub(super) fn scores(scores: impl Iterator<Item = (u64, u32)>) -> String {
    let mut scores: Vec<(u64, u32)> = scores.collect();
    scores.sort_by_key(|(id, score_ppm)| (Reverse(*score_ppm), *id));
    let besides = scores.len().saturating_sub(SCORES_MAX);
    let shown = scores.iter().take(SCORES_MAX);
    let mut shown: Vec<String> = shown
        .map(|(id, score_ppm)| format!("{id}: {}", percent(*score_ppm)))
        .collect();
    if besides > 0 {
        shown.push(format!("{besides} more"));
    }
    shown.join(", ")
}

/// Shard 0 is the placement group, whose own moves are migrations too.
fn shard_name(shard_id: u64) -> String {
    match shard_id {
        0 => "placement".to_owned(),
        id => id.to_string(),
    }
}

fn took(migration: &MigrationStatus) -> String {
    match migration.ended_ms {
        0 => String::new(),
        ended_ms => text::length(Duration::from_millis(
            ended_ms.saturating_sub(migration.started_ms),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use super::super::health::tests::no_space;

    fn no_hosts() -> Listing {
        Listing::Hosts {
            hosts: Vec::new(),
            usage: BTreeMap::new(),
        }
    }

    fn shard() -> ShardStatus {
        let replica = |host_id, role: &str| Replica {
            replica_id: 10 + host_id,
            host_id,
            role: role.into(),
        };
        ShardStatus {
            shard_id: 7,
            start: "k\n".into(),
            end: "".into(),
            r#gen: 2,
            conf_ver: 5,
            home: 2,
            replicas: vec![replica(1, "voter"), replica(2, "voter"), replica(4, "learner")],
            migration_id: 9,
            affinities: vec![
                HostAffinity {
                    host_id: 1,
                    score_ppm: 187_655,
                },
                HostAffinity {
                    host_id: 2,
                    score_ppm: 812_345,
                },
            ],
        }
    }

    fn migration() -> MigrationStatus {
        MigrationStatus {
            migration_id: 9,
            shard_id: 7,
            kind: "move".into(),
            state: "Done".into(),
            origin: "manual".into(),
            from_host: 1,
            to_host: 4,
            started_ms: 1_709_210_096_000,
            ended_ms: 1_709_210_098_350,
            reason: "manual: drain\u{1b}[2J".into(),
        }
    }

    #[test]
    fn status_is_a_fact_a_line() {
        let status = StatusReply {
            cluster_id: "0a1b".into(),
            host_id: 2,
            address: "b:7420".into(),
            shards_total: 8,
            shards_led_here: 3,
            version: "0.1.0".into(),
            ..StatusReply::default()
        };
        let expected = [
            r" cluster            0a1b",
            r" answered by        host 2 at b:7420",
            r" version            0.1.0",
            r" placement leader   not known to this host",
            r" placement applied  0",
            r" shard map version  0",
            r" shards             8, 3 led by this host",
            r" active migrations  0",
            r" paused             not known to this host",
        ]
        .join("\n");
        assert_eq!(Listing::Status(status, None).text(), expected);
    }

    #[test]
    fn hosts_have_their_load_and_their_shards() {
        let host = HostStatus {
            host_id: 1,
            address: "a:7420".into(),
            zone: "n1".into(),
            region: "north".into(),
            state: "up".into(),
            replicas: 4,
            homes: 2,
            capacity_bytes: 64_000_000_000,
            admission: "open".into(),
            affinities: vec![
                Affinity {
                    shard_id: 7,
                    score_ppm: 812_345,
                },
                Affinity {
                    shard_id: 3,
                    score_ppm: 40_000,
                },
            ],
        };
        let expected = [
r" host  address  zone  region  state  replicas  homes  capacity     used     free  alarms   highest affinity (shard: score)",
r"───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────",
r"    1  a:7420   n1    north   up            4      2   64.0 GB  12.0 GB  30.0 GB  NOSPACE  7: 81.2 %, 3: 4.0 %"
]
.join("\n");
        let usage = UsageReply {
            host_id: 1,
            used_bytes: 12_000_000_000,
            free_bytes: 30_000_000_000,
            alarms: vec![no_space(), no_space()],
            ..UsageReply::default()
        };
        let listing = Listing::Hosts {
            hosts: vec![host],
            usage: BTreeMap::from([(1, usage)]),
        };
        assert_eq!(listing.text(), expected);
        let document = &listing.document()["hosts"][0];
        assert_eq!(document["usage"]["used_bytes"], 12_000_000_000_u64);
        assert_eq!(document["usage"]["alarms"][0]["kind"], "NOSPACE");
    }

    #[test]
    fn shards_have_ranges_and_their_highest_scores_first() {
        let first = ShardStatus {
            shard_id: 12,
            end: "k\n".into(),
            home: 0,
            migration_id: 0,
            affinities: vec![],
            ..ShardStatus {
                start: "".into(),
                ..shard()
            }
        };
        let expected = [
            r" shard  range    epoch  home  replicas on        migration  affinity (host: score)",
            r"───────────────────────────────────────────────────────────────────────────────────",
            r"    12  [, k\n)  2.5          1, 2, 4 (learner)",
            r"     7  [k\n, )  2.5       2  1, 2, 4 (learner)          9  2: 81.2 %, 1: 18.8 %",
        ]
        .join("\n");
        assert_eq!(Listing::Shards(vec![first, shard()]).text(), expected);
    }

    #[test]
    fn replicas_have_positions_and_hashes_and_silent_hosts_their_causes() {
        let replica = |shard_id, replica_id, role: &str| ReplicaState {
            shard_id,
            replica_id,
            host_id: 2,
            term: 4,
            applied_index: 1_234,
            state_hash: 0xbeef,
            role: role.into(),
            ..ReplicaState::default()
        };
        let silent = SilentHost {
            host_id: 3,
            cause: "no answer from c:7420".into(),
        };
        let listing = Listing::Replicas {
            replicas: vec![replica(0, 1, "leader"), replica(7, 31, "voter")],
            silent: vec![silent],
        };
        let expected = [
            r" shard      replica  host  role    term  applied  state hash",
            r"───────────────────────────────────────────────────────────────────",
            r" placement        1     2  leader     4     1234  000000000000beef",
            r" 7               31     2  voter      4     1234  000000000000beef",
            r" host 3: no answer from c:7420",
        ]
        .join("\n");
        assert_eq!(listing.text(), expected);
        let document = listing.document();
        assert_eq!(document["replicas"][1]["state_hash"], "000000000000beef");
        assert_eq!(document["silent_hosts"][0]["host_id"], 3);
    }

    #[test]
    fn migrations_have_times_and_reasons() {
        let running = MigrationStatus {
            migration_id: 10,
            shard_id: 0,
            kind: "add".into(),
            state: "CatchingUp".into(),
            from_host: 0,
            ended_ms: 0,
            ..migration()
        };
        let expected = [
r" migration  shard      kind  state       origin  from  to  started               took   reason",
r"─────────────────────────────────────────────────────────────────────────────────────────────────────────────",
r"        10  placement  add   CatchingUp  manual         4  2024-02-29 12:34:56Z         manual: drain\x1b[2J",
r"         9  7          move  Done        manual     1   4  2024-02-29 12:34:56Z  2.3 s  manual: drain\x1b[2J"
]
.join("\n");
        assert_eq!(Listing::Migrations(vec![running, migration()]).text(), expected);
    }

    #[test]
    fn many_scores_are_cut_to_the_highest() {
        let many = (1..=6).map(|host| (host, 100_000 * u32::try_from(host % 4).unwrap()));
        assert_eq!(scores(many), "3: 30.0 %, 2: 20.0 %, 6: 20.0 %, 1: 10.0 %, 2 more");
        assert_eq!(scores([].into_iter()), "");
    }

    #[test]
    fn nothing_to_list_is_said_in_words() {
        for (listing, text) in [
            (no_hosts(), "no hosts"),
            (Listing::Shards(vec![]), "no shards yet"),
            (Listing::Migrations(vec![]), "no migrations"),
            (Listing::History(HistoryReply::default()), "no events"),
        ] {
            assert_eq!(listing.text(), text);
        }
    }

    #[test]
    fn an_accepted_migration_is_named() {
        assert!(
            Listing::Accepted(17)
                .text()
                .starts_with("migration 17 is in the log")
        );
        assert_eq!(
            Listing::Accepted(17).document().to_string(),
            r#"{"migration_id":17}"#
        );
    }

    #[test]
    fn every_list_has_its_name_in_json() {
        assert_eq!(no_hosts().document().to_string(), r#"{"hosts":[]}"#);
        assert_eq!(
            Listing::History(HistoryReply::default()).document().to_string(),
            r#"{"dropped":0,"dropped_until_ms":null,"events":[]}"#
        );
        assert_eq!(
            Listing::Shards(vec![shard()]).document()["shards"][0]["shard_id"],
            7
        );
        assert_eq!(
            Listing::Migrations(vec![migration()]).document()["migrations"][0]["migration_id"],
            9
        );
    }
}
