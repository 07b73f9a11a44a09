//! A short run of the default mix against real processes, judged as any other run is.

#![allow(clippy::unwrap_used)]

use std::hash::{BuildHasher, Hasher, RandomState};
use std::process::Command;

/// How long faults go on: most classes of the mix strike within it.
const SECONDS: &str = "40";

#[test]
fn a_short_run_of_the_default_mix_is_ok() {
    let seed = RandomState::new().build_hasher().finish();
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_jepsen"))
        .args(["run", "--seconds", SECONDS, "--seed", &seed.to_string(), "--out"])
        .arg(folder.path().join("run"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    if !output.status.success() {
        let kept = folder.keep();
        panic!(
            "seed {seed}, {}, files in {}: {said}{}",
            output.status,
            kept.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert!(said.contains("ok"), "{said}");
}
