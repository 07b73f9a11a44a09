//! Placement histories, good and bad. Each is written as its lines, so that they show the format too.

use jepsen::history::LineReader;
use jepsen::placement::{PlacementLine, check};
use jepsen::{Anomaly, Verdict};

const START: [&str; 6] = [
    r#""shows":"rules","replication_factor":3,"out_max":2,"in_max":2"#,
    r#""shows":"host","host":1,"eligible":true"#,
    r#""shows":"host","host":2,"eligible":true"#,
    r#""shows":"host","host":3,"eligible":true"#,
    r#""shows":"committed","shard":7,"conf_ver":1,"replicas":[11,12,13]"#,
    r#""shows":"shard","shard":7,"conf_ver":1,"voters":[{"replica":11,"host":1},{"replica":12,"host":2},{"replica":13,"host":3}]"#,
];

/// The move of replica 13 from host 3 to host 4, as replica 14.
const MOVE: [&str; 12] = [
    r#""shows":"host","host":4,"eligible":true"#,
    r#""shows":"step","migration":5,"shard":7,"kind":"Move","state":"Proposed","src":{"replica":13,"host":3},"dst":{"replica":14,"host":4}"#,
    r#""shows":"step","migration":5,"shard":7,"kind":"Move","state":"Adding""#,
    r#""shows":"step","migration":5,"shard":7,"kind":"Move","state":"CatchingUp""#,
    r#""shows":"step","migration":5,"shard":7,"kind":"Move","state":"Switching""#,
    r#""shows":"committed","shard":7,"conf_ver":2,"replicas":[11,12,13,14]"#,
    r#""shows":"shard","shard":7,"conf_ver":2,"voters":[{"replica":11,"host":1},{"replica":12,"host":2},{"replica":14,"host":4}]"#,
    r#""shows":"step","migration":5,"shard":7,"kind":"Move","state":"Removing""#,
    r#""shows":"committed","shard":7,"conf_ver":2,"replicas":[11,12,14]"#,
    r#""shows":"step","migration":5,"shard":7,"kind":"Move","state":"Cleaning""#,
    r#""shows":"destroyed","shard":7,"replica":13"#,
    r#""shows":"step","migration":5,"shard":7,"kind":"Move","state":"Done""#,
];

const SETTLED: &str = r#""shows":"settled""#;

fn judge(lines: &[&str]) -> Verdict {
    let text: String = lines
        .iter()
        .enumerate()
        .map(|(index, line)| format!("{{\"index\":{index},{line}}}\n"))
        .collect();
    let lines: Result<Vec<PlacementLine>, _> = LineReader::new(text.as_bytes()).collect();
    check(&lines.expect("the test's lines are good"))
}

fn broken(lines: &[&str]) -> Vec<u8> {
    let verdict = judge(lines);
    let number = |violation: &jepsen::Violation| match violation.anomaly {
        Anomaly::Placement(number) => number,
        other => panic!("{other:?}"),
    };
    verdict.violations().iter().map(number).collect()
}

fn after_start<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    [&START, lines].concat()
}

#[test]
fn a_move_is_good() {
    let lines = [&START[..], &MOVE, &[SETTLED]].concat();
    let verdict = judge(&lines);
    assert!(verdict.is_ok(), "{verdict}");
}

#[test]
fn an_open_migration_is_unknown_until_all_has_settled() {
    let open = after_start(&MOVE[..5]);
    assert!(matches!(judge(&open), Verdict::Unknown(_)));
    assert_eq!(broken(&[&open[..], &[SETTLED]].concat()), [10]);
}

#[test]
fn i1_two_migrations_of_one_shard() {
    let second = [
        r#""shows":"step","migration":6,"shard":7,"kind":"Home","state":"Proposed""#,
        r#""shows":"step","migration":6,"shard":7,"kind":"Home","state":"Transferring""#,
    ];
    assert_eq!(broken(&[&after_start(&MOVE[..3])[..], &second].concat()), [1]);
}

#[test]
fn i2_a_replica_id_comes_back() {
    let reborn = r#""shows":"shard","shard":7,"conf_ver":2,"voters":[{"replica":11,"host":1},{"replica":12,"host":2},{"replica":13,"host":3}]"#;
    assert_eq!(broken(&[&after_start(&MOVE)[..], &[reborn]].concat()), [2]);
    let elsewhere = r#""shows":"shard","shard":8,"conf_ver":1,"voters":[{"replica":11,"host":2}]"#;
    assert_eq!(broken(&after_start(&[elsewhere])), [2]);
    let member = r#""shows":"committed","shard":7,"conf_ver":3,"replicas":[11,12,13]"#;
    assert_eq!(broken(&[&after_start(&MOVE)[..], &[member]].concat()), [2]);
}

#[test]
fn i3_a_voter_is_missing_unless_recovery_was_forced() {
    let fewer = r#""shows":"shard","shard":7,"conf_ver":1,"voters":[{"replica":11,"host":1},{"replica":12,"host":2}]"#;
    assert_eq!(broken(&after_start(&[fewer])), [3]);
    assert!(judge(&after_start(&[r#""shows":"forced_recovery","shard":7"#, fewer])).is_ok());
}

#[test]
fn i4_two_voters_on_one_host() {
    let line = r#""shows":"shard","shard":7,"conf_ver":1,"voters":[{"replica":11,"host":1},{"replica":12,"host":2},{"replica":15,"host":2}]"#;
    assert_eq!(broken(&after_start(&[line])), [4]);
}

#[test]
fn i5_destroyed_while_a_member() {
    let mut early = after_start(&MOVE[..8]);
    early.push(MOVE[10]);
    assert_eq!(broken(&early), [5]);
}

#[test]
fn i6_states_move_along_edges() {
    let skips = [MOVE[1], MOVE[2], MOVE[4]];
    assert_eq!(broken(&after_start(&skips)), [6]);
    let back = [&MOVE[..], &[MOVE[9]]].concat();
    assert_eq!(broken(&after_start(&back)), [6]);
    assert_eq!(broken(&after_start(&[MOVE[3]])), [6]);
}

#[test]
fn i7_conf_ver_grows_and_is_never_ahead() {
    let ahead = r#""shows":"shard","shard":7,"conf_ver":2,"voters":[{"replica":11,"host":1},{"replica":12,"host":2},{"replica":13,"host":3}]"#;
    assert_eq!(broken(&after_start(&[ahead])), [7]);
    let back = r#""shows":"committed","shard":7,"conf_ver":0,"replicas":[11,12,13]"#;
    assert_eq!(broken(&after_start(&[back])), [7]);
}

#[test]
fn i8_three_migrations_out_of_one_host() {
    let mut lines: Vec<String> = Vec::new();
    for (migration, shard) in [(21, 31), (22, 32), (23, 33)] {
        for state in ["Proposed", "Adding"] {
            let (replica, host) = (migration + 100, migration);
            lines.push(format!(
                r#""shows":"step","migration":{migration},"shard":{shard},"kind":"Move","state":"{state}","src":{{"replica":{shard},"host":3}},"dst":{{"replica":{replica},"host":{host}}}"#
            ));
        }
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(broken(&after_start(&lines)), [8]);
}
