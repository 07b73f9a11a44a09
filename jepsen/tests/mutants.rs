//! Some seeded bugs, each of which must be found. All of them: `jepsen mutants`.

#![allow(clippy::unwrap_used)]

use jepsen::mutants::Hunting;

/// Bugs of reads, of sessions, of homes, of migrations and of quorums: each found by one of the first schedules.
const SOME: [&str; 5] = ["B1", "B9", "B10", "B13", "B14"];

#[test]
fn some_seeded_bugs_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let program = Some(env!("CARGO_BIN_EXE_jepsen").into());
    let hunting = Hunting::new(program, folder.path().to_owned(), 2).unwrap();
    for bug in SOME {
        let hunt = hunting.hunt(bug).unwrap();
        println!("{hunt}");
        assert!(hunt.caught, "{hunt}");
    }
}
