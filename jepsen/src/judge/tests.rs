//! Good runs pass; every way of being no good is found.

use std::collections::BTreeMap;

use super::*;
use crate::events::{Event, Happening};
use crate::history::Operation;
use crate::record::Recorded;
use crate::testing::{cas, get, put, put_failed, put_unknown};
use crate::workload::WorkloadName;

const KEY: &str = "A/register-1";

/// Puts and gets that take turns, 100 ns each, from `from_ns`.
fn turns(key: &str, from_ns: u64, count: u64) -> Vec<Operation> {
    let turn = |at: u64| {
        let (call_ns, value) = (from_ns + 200 * at, format!("v{from_ns}.{at}"));
        [
            put(key, &value, call_ns, call_ns + 99),
            get(key, Some(&value), call_ns + 100, call_ns + 199),
        ]
    };
    (0..count).flat_map(turn).collect()
}

fn good() -> Evidence {
    let mut operations = turns(KEY, 0, 100);
    operations.push(get(KEY, Some("v0.99"), 60_000, 60_010));
    let fault = || "kill".to_owned();
    let start = Happening::FaultStart {
        fault: fault(),
        targets: vec!["h1".to_owned()],
    };
    let stop = Happening::FaultStop { fault: fault() };
    let events = [(1_000, start), (2_000, stop), (50_000, Happening::Healed)];
    let facts = Facts {
        seed: 7,
        workloads: vec![WorkloadName::Register],
        nemeses: vec![fault()],
        faults_wanted: true,
        tally: BTreeMap::from([(fault(), 1)]),
        recovery: Some(Recovery {
            homes_ms: Some(900),
            migrations_ms: Some(5_000),
            failure: None,
        }),
        ..Facts::default()
    };
    Evidence {
        recorded: Recorded {
            operations,
            events: events.map(|(at_ns, what)| Event { at_ns, what }).to_vec(),
            watches: Vec::new(),
        },
        facts: Some(facts),
        ..Evidence::default()
    }
}

/// The judgement on a good run that was changed; `check` is the one that must have noticed.
fn judged(change: impl FnOnce(&mut Evidence), check: &str) -> Finding {
    let mut evidence = good();
    change(&mut evidence);
    let judgement = judge(&evidence);
    let found = judgement.check(check).map(|check| check.verdict);
    assert_eq!(found, Some(judgement.verdict), "{judgement}");
    judgement.verdict
}

fn facts(evidence: &mut Evidence) -> &mut Facts {
    evidence.facts.as_mut().unwrap()
}

#[test]
fn a_good_run_is_ok() {
    let judgement = judge(&good());
    assert!(judgement.is_ok(), "{judgement}");
    assert_eq!(judgement.counts.operations, 201);
    assert_eq!(judgement.counts.faults["kill"], 1);
    assert!(judgement.to_string().contains("1 x kill"));
}

#[test]
fn a_dead_cluster_is_a_violation() {
    let dead = |evidence: &mut Evidence| {
        let failed = (0..500).map(|at| put_failed(KEY, &format!("v{at}"), at, at + 1));
        evidence.recorded.operations = failed.collect();
    };
    assert_eq!(judged(dead, "ok_operations"), Finding::Violation);
    assert_eq!(judged(dead, "final_reads"), Finding::Violation);
    let silent = |evidence: &mut Evidence| evidence.recorded.operations.clear();
    assert_eq!(judged(silent, "ok_operations"), Finding::Violation);
}

#[test]
fn a_kind_that_is_hardly_ever_acknowledged_is_a_violation() {
    let starved = |evidence: &mut Evidence| {
        let failed = (0..2_000).map(|at| put_failed(KEY, &format!("f{at}"), at, at + 1));
        evidence.recorded.operations.extend(failed);
    };
    assert_eq!(judged(starved, "ok_operations"), Finding::Violation);
    let absent = |evidence: &mut Evidence| facts(evidence).workloads.push(WorkloadName::Append);
    assert_eq!(judged(absent, "ok_operations"), Finding::Violation);
}

#[test]
fn a_key_that_nobody_read_at_the_end_is_a_violation() {
    let unread = |evidence: &mut Evidence| {
        evidence.recorded.operations.extend(turns("B/register-2", 0, 3));
    };
    assert_eq!(judged(unread, "final_reads"), Finding::Violation);
    let told = |evidence: &mut Evidence| facts(evidence).unread.push(KEY.to_owned());
    assert_eq!(judged(told, "final_reads"), Finding::Violation);
}

#[test]
fn a_stale_store_is_a_violation() {
    let stale = |evidence: &mut Evidence| {
        evidence
            .recorded
            .operations
            .push(get(KEY, Some("v0.3"), 60_100, 60_110));
    };
    assert_eq!(judged(stale, "linearizability"), Finding::Violation);
}

#[test]
fn a_checker_without_an_answer_is_unknown() {
    let hurried = |evidence: &mut Evidence| {
        evidence.demands.bounds.states_max = 1;
        let unknown = (0..30).map(|at| put_unknown(KEY, &format!("u{at}"), 1 + at));
        evidence.recorded.operations.extend(unknown);
        let reads = (0..30).map(|at| get(KEY, Some(&format!("u{}", 29 - at)), 70_000 + at, 80_000 + at));
        evidence.recorded.operations.extend(reads);
    };
    assert_eq!(judged(hurried, "linearizability"), Finding::Unknown);
}

#[test]
fn a_nemesis_that_did_not_happen_is_invalid() {
    let other = |evidence: &mut Evidence| facts(evidence).nemeses.push("pause".to_owned());
    assert_eq!(judged(other, "nemeses"), Finding::Invalid);
    let never = |evidence: &mut Evidence| {
        facts(evidence).nemeses.clear();
        facts(evidence).tally.clear();
    };
    assert_eq!(judged(never, "nemeses"), Finding::Invalid);
}

#[test]
fn what_is_left_behind_is_invalid() {
    let leaked = |evidence: &mut Evidence| facts(evidence).leaks.push("process 7".to_owned());
    assert_eq!(judged(leaked, "leaks"), Finding::Invalid);
}

#[test]
fn differences_panics_and_disorder_are_violations() {
    let differ = |evidence: &mut Evidence| facts(evidence).replica_differences.push("shard 1".to_owned());
    assert_eq!(judged(differ, "replicas"), Finding::Violation);
    let panicked = |evidence: &mut Evidence| facts(evidence).complaints.push("h1: panicked".to_owned());
    assert_eq!(judged(panicked, "host_logs"), Finding::Violation);
    let disorder = |evidence: &mut Evidence| facts(evidence).disorder.push("b before a".to_owned());
    assert_eq!(judged(disorder, "scan_order"), Finding::Violation);
    let past = |evidence: &mut Evidence| facts(evidence).changed_past.push("k at 3".to_owned());
    assert_eq!(judged(past, "past"), Finding::Violation);
    let unbalanced = |evidence: &mut Evidence| facts(evidence).unbalanced.push("bank".to_owned());
    assert_eq!(judged(unbalanced, "bank"), Finding::Violation);
    let lingering = |evidence: &mut Evidence| facts(evidence).lingering.push("lock".to_owned());
    assert_eq!(judged(lingering, "leases"), Finding::Violation);
}

#[test]
fn a_recovery_that_took_too_long_is_a_violation() {
    let recovery = |homes_ms, migrations_ms, failure: Option<&str>| Recovery {
        homes_ms,
        migrations_ms,
        failure: failure.map(str::to_owned),
    };
    for recovery in [
        recovery(Some(10_001), Some(1), None),
        recovery(Some(1), Some(60_001), None),
        recovery(None, None, Some("shard 3 has no home")),
        recovery(Some(1), None, None),
    ] {
        let slow = |evidence: &mut Evidence| facts(evidence).recovery = Some(recovery.clone());
        assert_eq!(judged(slow, "recovery"), Finding::Violation, "{recovery:?}");
    }
}

#[test]
fn counters_count_what_was_acknowledged() {
    let counter = |last: &'static str| {
        move |evidence: &mut Evidence| {
            let key = "C/counter-3";
            evidence.recorded.operations.extend([
                put_nothing(key),
                cas(key, ("1", "2"), true, 100, 110),
                get(key, Some(last), 60_000, 60_010),
            ]);
        }
    };
    assert_eq!(judged(counter("2"), "counters"), Finding::Ok);
    assert_eq!(judged(counter("1"), "counters"), Finding::Violation);
    assert_eq!(judged(counter("3"), "counters"), Finding::Violation);
}

/// The first increment, from absence.
fn put_nothing(key: &str) -> Operation {
    use crate::history::{Action, Outcome, Swapped};
    let reply = Swapped {
        succeeded: true,
        prev: None,
        version: None,
    };
    let action = Action::Cas {
        expect: None,
        value: "1".to_owned(),
        outcome: Outcome::Ok(reply),
    };
    Operation::new(99, key, 0, Some(10), action).unwrap()
}

#[test]
fn an_element_that_a_scan_misses_is_a_violation() {
    let set = |found: Option<&'static str>| {
        move |evidence: &mut Evidence| {
            evidence.recorded.operations.extend([
                put("D/set-4.000", "a", 0, 10),
                put("D/set-4.001", "b", 20, 30),
                get("D/set-4.000", Some("a"), 60_000, 60_010),
                get("D/set-4.001", found, 60_000, 60_010),
            ]);
        }
    };
    assert_eq!(judged(set(Some("b")), "sets"), Finding::Ok);
    assert_eq!(judged(set(None), "sets"), Finding::Violation);
}

#[test]
fn a_folder_is_judged_as_the_run_was() {
    let folder = std::env::temp_dir().join(format!("jepsen-judge-{}", std::process::id()));
    let mut evidence = good();
    facts(&mut evidence).leaks.push("process 7".to_owned());
    let judgement = judge(&evidence);
    write_files(&folder, &evidence, &judgement).unwrap();
    let again = judge_files(&folder, Demands::default()).unwrap();
    assert_eq!(again, judgement);
    let page = std::fs::read_to_string(folder.join("timeline.html")).unwrap();
    assert!(page.contains("seed 7: invalid"));
    std::fs::remove_file(folder.join("verdict.json")).unwrap();
    let bare = judge_files(&folder, Demands::default()).unwrap();
    assert!(bare.is_ok() && bare.facts.is_none(), "{bare}");
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(judge_files(&folder, Demands::default()).is_err());
}
