//! How far zones are apart, and which address stands in which zone: the files behind the emulated
//! network.
//!
//! Distances are CSV lines `zone,zone,micros` (a header, blank lines and `#` comments are passed over)
//! or JSON `{"zone": {"zone": micros}}`. A pair may be given in either order or in both with the same
//! figure; every pair of zones must be given, or an unknown distance would silently count as none. A
//! zone's distance to itself is 0 unless given. Zones of addresses are CSV lines `address,zone`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use placement::Zone;
use placement::planner::RttMatrix;

/// Why a file of distances or addresses cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DistanceError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line makes no sense.
    #[error("{}, line {line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// Two zones of the file have no distance.
    #[error("{}: no round-trip time between {one} and {other}", path.display())]
    MissingPair {
        /// The file.
        path: PathBuf,
        /// A zone.
        one: Zone,
        /// Another.
        other: Zone,
    },
}

/// A distance with the line that gave it.
struct Given {
    line: u64,
    micros: u32,
}

type GivenPairs = BTreeMap<(Zone, Zone), Given>;

/// Reads round-trip times between zones; JSON if the file's name ends in `.json`, CSV otherwise.
pub fn read_rtt_matrix(path: &Path) -> Result<RttMatrix, DistanceError> {
    let text = read(path)?;
    let pairs = if path.extension().is_some_and(|end| end == "json") {
        parse_json(path, &text)?
    } else {
        parse_csv(path, &text)?
    };
    complete(path, pairs)
}

fn parse_csv(path: &Path, text: &str) -> Result<GivenPairs, DistanceError> {
    let mut pairs = GivenPairs::new();
    for (line, content) in content_lines(text) {
        let fail = |problem: String| DistanceError::Line {
            path: path.to_owned(),
            line,
            problem,
        };
        let fields: Vec<&str> = content.split(',').map(str::trim).collect();
        let [one, other, micros] = fields[..] else {
            return Err(fail(format!("expected zone,zone,micros, found {content:?}")));
        };
        if line == 1 && micros.starts_with("micros") {
            continue;
        }
        let micros = micros
            .parse()
            .map_err(|_| fail(format!("{micros:?} is no count of microseconds")))?;
        insert(&mut pairs, one, other, Given { line, micros }).map_err(fail)?;
    }
    Ok(pairs)
}

fn parse_json(path: &Path, text: &str) -> Result<GivenPairs, DistanceError> {
    let fail = |line: u64, problem: String| DistanceError::Line {
        path: path.to_owned(),
        line,
        problem,
    };
    let rows: BTreeMap<String, BTreeMap<String, u32>> =
        serde_json::from_str(text).map_err(|error| fail(error.line() as u64, error.to_string()))?;
    let mut pairs = GivenPairs::new();
    for (one, row) in &rows {
        for (other, micros) in row {
            insert(
                &mut pairs,
                one,
                other,
                Given {
                    line: 1,
                    micros: *micros,
                },
            )
            .map_err(|problem| fail(1, problem))?;
        }
    }
    Ok(pairs)
}

fn insert(pairs: &mut GivenPairs, one: &str, other: &str, given: Given) -> Result<(), String> {
    if one.is_empty() || other.is_empty() {
        return Err("a zone has no name".to_owned());
    }
    let (low, high) = if one <= other { (one, other) } else { (other, one) };
    let before = pairs
        .entry((Zone::from(low), Zone::from(high)))
        .or_insert(Given { ..given });
    if before.micros == given.micros {
        return Ok(());
    }
    let (first, line, second) = (before.micros, before.line, given.micros);
    Err(format!(
        "{low} and {high} are {second} us apart here, and {first} us on line {line}"
    ))
}

fn complete(path: &Path, pairs: GivenPairs) -> Result<RttMatrix, DistanceError> {
    let zones: BTreeSet<&Zone> = pairs.keys().flat_map(|(one, other)| [one, other]).collect();
    let mut matrix = RttMatrix::default();
    for one in &zones {
        for other in zones.iter().filter(|other| *other >= one) {
            let pair = (Zone::clone(one), Zone::clone(other));
            let micros = match pairs.get(&pair) {
                Some(given) => given.micros,
                None if one == other => 0,
                None => {
                    let (one, other) = pair;
                    return Err(DistanceError::MissingPair {
                        path: path.to_owned(),
                        one,
                        other,
                    });
                }
            };
            matrix.insert_both(pair.0, pair.1, micros);
        }
    }
    Ok(matrix)
}

/// The zone of each address. Grows as hosts become known.
#[derive(Debug, Default)]
pub struct AddressZones {
    zones: RwLock<BTreeMap<String, Zone>>,
}

impl AddressZones {
    /// Reads CSV lines `address,zone`.
    pub fn read(path: &Path) -> Result<Self, DistanceError> {
        let text = read(path)?;
        let known = AddressZones::default();
        for (line, content) in content_lines(&text) {
            let fail = |problem: String| DistanceError::Line {
                path: path.to_owned(),
                line,
                problem,
            };
            let (address, zone) = content
                .split_once(',')
                .map(|(address, zone)| (address.trim(), zone.trim()))
                .filter(|(address, zone)| !address.is_empty() && !zone.is_empty() && !zone.contains(','))
                .ok_or_else(|| fail(format!("expected address,zone, found {content:?}")))?;
            if line == 1 && (address, zone) == ("address", "zone") {
                continue;
            }
            let before = known.insert(address, Zone::from(zone));
            if let Some(before) = before.filter(|before| before.0 != zone) {
                return Err(fail(format!(
                    "{address} stands in {before} on an earlier line, in {zone} here"
                )));
            }
        }
        Ok(known)
    }

    /// Notes the zone of an address and returns the one noted before.
    pub fn insert(&self, address: &str, zone: Zone) -> Option<Zone> {
        self.zones
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(address.to_owned(), zone)
    }

    /// The zone of an address, if it was ever noted.
    pub fn zone_of(&self, address: &str) -> Option<Zone> {
        self.zones
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(address)
            .cloned()
    }
}

fn read(path: &Path) -> Result<String, DistanceError> {
    fs::read_to_string(path).map_err(|source| DistanceError::Read {
        path: path.to_owned(),
        source,
    })
}

/// The lines that say something, with their numbers from 1.
fn content_lines(text: &str) -> impl Iterator<Item = (u64, &str)> {
    (1..)
        .zip(text.lines().map(str::trim))
        .filter(|(_, content)| !content.is_empty() && !content.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn matrix(name: &str, text: &str) -> Result<RttMatrix, String> {
        let (dir, path) = file(name, text);
        let folder = format!("{}/", dir.path().display());
        read_rtt_matrix(&path).map_err(|error| error.to_string().replace(&folder, ""))
    }

    #[test]
    fn csv_and_json_give_the_same_symmetric_matrix() {
        let csv = matrix(
            "rtt.csv",
            "zone,zone,micros\na,b,1000\n\n# far\na, c ,2000\nc,b,3000\na,a,500\n",
        )
        .unwrap();
        let json = matrix(
            "rtt.json",
            r#"{"a":{"b":1000,"c":2000,"a":500},"b":{"c":3000,"a":1000}}"#,
        )
        .unwrap();
        assert_eq!(csv, json);
        let micros = |from: &str, to: &str| csv.micros(&Zone::from(from), &Zone::from(to));
        assert_eq!(
            [
                micros("a", "c"),
                micros("c", "a"),
                micros("a", "a"),
                micros("b", "b")
            ],
            [2000, 2000, 500, 0]
        );
    }

    #[test]
    fn bad_lines_are_named() {
        for (text, expected) in [
            (
                "a,b,1\na,b\n",
                "rtt.csv, line 2: expected zone,zone,micros, found \"a,b\"",
            ),
            (
                "a,b,fast\n",
                "rtt.csv, line 1: \"fast\" is no count of microseconds",
            ),
            (
                "a,b,1\n\nb,a,2\n",
                "rtt.csv, line 3: a and b are 2 us apart here, and 1 us on line 1",
            ),
            (",b,1\n", "rtt.csv, line 1: a zone has no name"),
            ("a,b,1\nb,c,1\n", "rtt.csv: no round-trip time between a and c"),
        ] {
            assert_eq!(matrix("rtt.csv", text).unwrap_err(), expected);
        }
        let error = matrix("rtt.json", "{\"a\":\n{\"b\":-1}}").unwrap_err();
        assert!(error.starts_with("rtt.json, line 2: "), "{error}");
        assert!(matches!(
            read_rtt_matrix(Path::new("/nonexistent")),
            Err(DistanceError::Read { .. })
        ));
    }

    #[test]
    fn addresses_have_one_zone() {
        let (_dir, path) = file(
            "zones.csv",
            "address,zone\n127.0.0.1:1,a\n127.0.0.1:2, b\n127.0.0.1:1,a\n",
        );
        let zones = AddressZones::read(&path).unwrap();
        assert_eq!(zones.zone_of("127.0.0.1:2"), Some(Zone::from("b")));
        assert_eq!(zones.zone_of("127.0.0.1:3"), None);
        assert_eq!(zones.insert("127.0.0.1:3", Zone::from("c")), None);
        assert_eq!(zones.zone_of("127.0.0.1:3"), Some(Zone::from("c")));

        for text in ["127.0.0.1:1,a\n127.0.0.1:1,b\n", "\nx\n", "# c\nx,y,z\n"] {
            let (_dir, path) = file("zones.csv", text);
            assert!(
                matches!(
                    AddressZones::read(&path),
                    Err(DistanceError::Line { line: 2, .. })
                ),
                "{text:?}"
            );
        }
    }
}
