//! Hand-made histories of one or two keys, good and bad; each bad one for one reason.

use std::time::Duration;

use super::{Bounds, check};
use crate::history::{Action, Operation, Outcome, Swapped, Wrote};
use crate::testing::{
    append, append_unknown, cas, delete, get, get_at, put, put_at, put_failed, put_unknown, read_list,
};
use crate::verdict::{Anomaly, Verdict};

fn good(history: &[Operation]) {
    let verdict = check(history, Bounds::default());
    assert!(verdict.is_ok(), "{verdict}");
}

/// Bad, for this reason, shown by this many operations.
fn bad(history: &[Operation], anomaly: Anomaly, shown: usize) {
    let verdict = check(history, Bounds::default());
    let [violation] = verdict.violations() else {
        panic!("{verdict}")
    };
    assert_eq!(
        (violation.anomaly, violation.operations.len()),
        (anomaly, shown),
        "{violation}"
    );
}

fn cas_unknown(key: &str, expect: &str, value: &str, call_ns: u64) -> Operation {
    let (expect, value) = (Some(expect.to_owned()), value.to_owned());
    let action = Action::Cas {
        expect,
        value,
        outcome: Outcome::Info,
    };
    Operation::new(call_ns, key, call_ns, None, action).unwrap()
}

#[test]
fn one_after_another() {
    good(&[
        get("k", None, 0, 1),
        put("k", "a", 2, 3),
        cas("k", ("a", "b"), true, 4, 5),
        cas("k", ("a", "c"), false, 6, 7),
        get("k", Some("b"), 8, 9),
        delete("k", Some(true), 10, 11),
        delete("k", Some(false), 12, 13),
        append("k", "x", 14, 15),
        append("k", "y", 16, 17),
        get("k", Some("x,y"), 18, 19),
    ]);
}

#[test]
fn what_overlaps_may_come_in_any_order() {
    good(&[
        put("k", "a", 0, 9),
        put("k", "b", 0, 9),
        get("k", Some("b"), 1, 2),
        get("k", Some("a"), 3, 4),
    ]);
    good(&[put("k", "a", 0, 5), get("k", None, 5, 6)]);
}

#[test]
fn a_stale_read() {
    let stale = [
        put("k", "a", 0, 1),
        put("k", "b", 2, 3),
        get("k", Some("a"), 4, 5),
        get("j", None, 0, 9),
    ];
    bad(&stale, Anomaly::NotLinearizable, 3);
}

#[test]
fn a_read_goes_back_while_a_write_is_under_way() {
    let back = [
        put("k", "a", 0, 9),
        get("k", Some("a"), 1, 2),
        get("k", None, 3, 4),
    ];
    bad(&back, Anomaly::NotLinearizable, 3);
}

#[test]
fn a_lost_write_is_shown_without_the_noise_around_it() {
    let mut history: Vec<Operation> = (0..200u64)
        .flat_map(|at| {
            [
                put("k", &format!("n{at}"), at * 4, at * 4 + 1),
                get("k", Some(&format!("n{at}")), at * 4 + 2, at * 4 + 3),
            ]
        })
        .collect();
    history.push(put("k", "last", 1_000, 1_001));
    history.push(get("k", Some("n199"), 1_002, 1_003));
    bad(&history, Anomaly::NotLinearizable, 3);
}

#[test]
fn two_cas_from_one_value() {
    let both = [
        put("k", "a", 0, 1),
        cas("k", ("a", "b"), true, 2, 9),
        cas("k", ("a", "c"), true, 2, 9),
    ];
    bad(&both, Anomaly::NotLinearizable, 3);
}

#[test]
fn a_cas_that_was_refused_though_it_had_to_succeed() {
    bad(
        &[put("k", "a", 0, 1), cas("k", ("a", "b"), false, 2, 3)],
        Anomaly::NotLinearizable,
        2,
    );
    good(&[
        put("k", "a", 0, 1),
        put_unknown("k", "z", 0),
        cas("k", ("a", "b"), false, 2, 3),
    ]);
}

/// A write that nobody reads still explains why a compare-and-set was refused: it must not be tidied away.
#[test]
fn an_unread_write_can_be_what_a_refusal_needs() {
    let absent = Action::Cas {
        expect: None,
        value: "c".to_owned(),
        outcome: Outcome::Ok(Swapped {
            succeeded: false,
            prev: None,
            version: None,
        }),
    };
    let refused = Operation::new(9, "k", 2, Some(9), absent).unwrap();
    good(&[
        put("k", "a", 0, 8),
        delete("k", None, 3, 4),
        delete("k", None, 5, 6),
        refused,
    ]);
}

#[test]
fn phantoms_and_failed_writes() {
    bad(
        &[put("k", "a", 0, 1), get("k", Some("z"), 2, 3)],
        Anomaly::Phantom,
        1,
    );
    bad(
        &[put_failed("k", "a", 0, 1), get("k", Some("a"), 2, 3)],
        Anomaly::G1a,
        1,
    );
}

#[test]
fn an_unknown_write_may_be_late_or_never() {
    let late = [
        put_unknown("k", "u", 0),
        put("k", "a", 1, 2),
        get("k", Some("a"), 3, 4),
        get("k", Some("u"), 500, 501),
    ];
    good(&late);
    good(&late[..3]);
    let twice = [
        &late[..],
        &[put("k", "b", 600, 601), get("k", Some("u"), 700, 701)],
    ]
    .concat();
    bad(&twice, Anomaly::NotLinearizable, 4);
    bad(
        &[get("k", Some("u"), 0, 1), put_unknown("k", "u", 2)],
        Anomaly::NotLinearizable,
        2,
    );
}

#[test]
fn unknown_writes_can_build_on_one_another() {
    good(&[
        put("k", "a", 0, 1),
        cas_unknown("k", "b", "c", 2),
        cas_unknown("k", "a", "b", 3),
        get("k", Some("c"), 4, 5),
    ]);
    bad(
        &[
            put("k", "a", 0, 1),
            cas_unknown("k", "b", "c", 2),
            get("k", Some("c"), 4, 5),
        ],
        Anomaly::NotLinearizable,
        2,
    );
}

#[test]
fn lists_grow_at_the_end() {
    good(&[
        append_unknown("l", "u", 0),
        append("l", "1", 1, 2),
        append("l", "2", 1, 3),
        read_list("l", &["2", "u", "1"], 9, 10),
    ]);
    good(&[
        append("l", "1", 0, 1),
        append_unknown("l", "u", 0),
        append("l", "2", 2, 3),
        read_list("l", &["1", "2"], 9, 10),
    ]);
    let twice = [append("l", "1", 0, 1), read_list("l", &["1", "1"], 2, 3)];
    bad(&twice, Anomaly::NotLinearizable, 2);
    let swapped = [
        append("l", "1", 0, 1),
        append("l", "2", 2, 3),
        read_list("l", &["2", "1"], 9, 10),
    ];
    bad(&swapped, Anomaly::NotLinearizable, 3);
}

#[test]
fn versions_decide_where_values_cannot() {
    let history = [
        put_at("k", "a", 1, 0, 1),
        put_at("k", "a", 2, 2, 3),
        get_at("k", "a", 1, 4, 5),
    ];
    bad(&history, Anomaly::NotLinearizable, 3);
    good(&[
        put_at("k", "a", 2, 0, 9),
        put_at("k", "b", 1, 0, 9),
        get_at("k", "b", 1, 1, 2),
        get("k", Some("a"), 10, 11),
    ]);
}

#[test]
fn previous_values_are_believed() {
    let wrote = |prev: &str| {
        Outcome::Ok(Wrote {
            prev: Some(Some(prev.to_owned())),
            version: None,
        })
    };
    let second = |prev| {
        Operation::new(
            5,
            "k",
            2,
            Some(3),
            Action::Put {
                value: "b".to_owned(),
                outcome: wrote(prev),
            },
        )
        .unwrap()
    };
    good(&[put("k", "a", 0, 1), second("a")]);
    bad(&[put("k", "a", 0, 1), second("z")], Anomaly::NotLinearizable, 1);
}

#[test]
fn a_bound_makes_it_unknown_and_never_ok() {
    let history: Vec<Operation> = (0..40u64)
        .map(|at| put("k", &format!("v{}", at % 3), 0, 100 + at))
        .collect();
    let reads = (0..3u64).map(|at| get("k", Some(&format!("v{at}")), 1, 200));
    let history: Vec<Operation> = history.into_iter().chain(reads).collect();
    let few = Bounds {
        states_max: 1,
        ..Bounds::default()
    };
    assert!(matches!(check(&history, few), Verdict::Unknown(_)));
    let big = crate::generate::generate(
        crate::generate::Recipe {
            operations: 50_000,
            keys: 1,
            ..Default::default()
        },
        3,
    );
    let short = Bounds {
        time_max: Duration::ZERO,
        ..Bounds::default()
    };
    assert!(matches!(check(&big, short), Verdict::Unknown(_)));
}

#[test]
fn one_bad_key_among_many_is_named() {
    let mut history = crate::generate::generate(crate::generate::Recipe::default(), 5);
    history.extend([put("odd", "a", 0, 1), get("odd", None, 2, 3)]);
    let verdict = check(&history, Bounds::default());
    assert_eq!(verdict.violations().len(), 1);
    assert_eq!(verdict.violations()[0].about, "key odd");
}
