//! The arrows between the crates, read from their manifests. A new one needs a line here and in DESIGN.md.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

fn allowed() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    BTreeMap::from([
        ("storage", BTreeSet::new()),
        ("placement", BTreeSet::new()),
        ("client", BTreeSet::new()),
        ("raft", BTreeSet::from(["storage", "placement"])),
        ("ml", BTreeSet::from(["placement"])),
        (
            "server",
            BTreeSet::from(["storage", "placement", "raft", "ml", "client"]),
        ),
        (
            "jepsen",
            BTreeSet::from(["storage", "placement", "raft", "client", "server"]),
        ),
        ("bench", BTreeSet::from(["client", "server", "ml", "placement"])),
    ])
}

/// Our crates among the normal dependencies of a manifest.
fn dependencies(manifest: &str, ours: &BTreeSet<&str>) -> BTreeSet<String> {
    let table: toml::Table = manifest.parse().expect("a manifest is TOML");
    let names = table
        .get("dependencies")
        .and_then(toml::Value::as_table)
        .into_iter()
        .flat_map(toml::Table::keys);
    names
        .filter(|name| ours.contains(name.as_str()))
        .cloned()
        .collect()
}

#[test]
fn no_arrow_turns() {
    let allowed = allowed();
    let ours: BTreeSet<&str> = allowed.keys().copied().collect();
    for (name, may) in &allowed {
        let path = format!("{}/../{name}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
        let manifest = std::fs::read_to_string(&path).unwrap();
        for found in dependencies(&manifest, &ours) {
            assert!(may.contains(found.as_str()), "{name} must not depend on {found}");
        }
    }
}

#[test]
fn a_turned_arrow_would_be_noticed() {
    let ours = BTreeSet::from(["storage", "server"]);
    let manifest = "[dependencies]\nserver.workspace = true\nbytes = \"1\"\n";
    assert_eq!(
        dependencies(manifest, &ours),
        BTreeSet::from(["server".to_owned()])
    );
}

/// The one file of a crate that may name a library.
fn names_only_in(krate: &str, library: &str, file: &str) {
    let folder = format!("{}/../{krate}/src", env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![std::path::PathBuf::from(folder)];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with(file) {
                let source = std::fs::read_to_string(&path).unwrap();
                let used = source.lines().any(|line| {
                    let code = line.split("//").next().unwrap_or_default();
                    code.contains(&format!("{library}::"))
                });
                assert!(!used, "{} names {library}", path.display());
            }
        }
    }
}

#[test]
fn redb_is_named_in_one_file() {
    names_only_in("storage", "redb", "engine.rs");
}

#[test]
fn openraft_is_named_in_one_crate() {
    for krate in ["storage", "placement", "ml", "client", "server"] {
        names_only_in(krate, "openraft", "none");
    }
}
