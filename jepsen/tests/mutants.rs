//! Some seeded bugs, each of which must be found. All of them: `jepsen mutants`.

#![allow(clippy::unwrap_used)]

use jepsen::mutants::Hunting;

/// Bugs of the log, of reads, of sessions, of migrations and of the machine.
const SOME: [&str; 5] = ["B4", "B5", "B9", "B10", "B26"];

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
