//! The bytes of log entries and of whole-state snapshots.
//!
//! ```text
//! | format version: u8 | kind: u8 | crc32c of the body: u32, little endian | body: JSON |
//! ```
//!
//! The checksum is ours because the store below does not verify ordinary reads. A version, kind, variant or field that
//! this program does not know is an error and the replica stops: applying half of an entry would part it from its
//! peers for ever.

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::command::Command;
use crate::state::Placement;

/// The format this program writes; it reads this and older ones.
pub const FORMAT_VERSION: u8 = 1;

const KIND_COMMAND: u8 = 1;
const KIND_STATE: u8 = 2;
const HEADER_BYTES: usize = 6;

/// Why bytes could not be read. The replica that meets it stops.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// Shorter than a header.
    #[error("placement record of {bytes} bytes is shorter than its header")]
    Truncated {
        /// How many bytes there are.
        bytes: usize,
    },
    /// Written by a newer program.
    #[error("placement record has format version {found}; this program reads up to {FORMAT_VERSION}")]
    UnknownVersion {
        /// The version found.
        found: u8,
    },
    /// Something else than expected.
    #[error("placement record is of kind {found}, not {expected}")]
    WrongKind {
        /// The kind found.
        found: u8,
        /// The kind expected.
        expected: u8,
    },
    /// The body is not what was written.
    #[error("placement record is corrupt: crc32c is {computed:08x}, the header says {stored:08x}")]
    Corrupt {
        /// What the header says.
        stored: u32,
        /// What the body gives.
        computed: u32,
    },
    /// The body does not parse: an unknown variant or field, or not JSON.
    #[error("placement record cannot be understood")]
    Body(#[from] serde_json::Error),
}

/// Encodes a log entry.
///
/// # Errors
/// Only if JSON cannot be written, which the types rule out.
pub fn encode(command: &Command) -> Result<Vec<u8>, serde_json::Error> {
    frame(KIND_COMMAND, command)
}

/// Decodes a log entry.
///
/// # Errors
/// See [`DecodeError`]; the replica must stop.
pub fn decode(bytes: &[u8]) -> Result<Command, DecodeError> {
    unframe(KIND_COMMAND, bytes)
}

/// Encodes the whole state.
///
/// # Errors
/// Only if JSON cannot be written, which the types rule out.
pub fn encode_state(placement: &Placement) -> Result<Vec<u8>, serde_json::Error> {
    frame(KIND_STATE, placement)
}

/// Decodes a whole state.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_state(bytes: &[u8]) -> Result<Placement, DecodeError> {
    unframe(KIND_STATE, bytes)
}

fn frame(kind: u8, value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let body = serde_json::to_vec(value)?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&[FORMAT_VERSION, kind]);
    bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

fn unframe<T: DeserializeOwned>(expected: u8, bytes: &[u8]) -> Result<T, DecodeError> {
    let [version, kind, c0, c1, c2, c3, body @ ..] = bytes else {
        return Err(DecodeError::Truncated { bytes: bytes.len() });
    };
    if *version == 0 || *version > FORMAT_VERSION {
        return Err(DecodeError::UnknownVersion { found: *version });
    }
    if *kind != expected {
        return Err(DecodeError::WrongKind {
            found: *kind,
            expected,
        });
    }
    let stored = u32::from_le_bytes([*c0, *c1, *c2, *c3]);
    let computed = crc32c::crc32c(body);
    if stored != computed {
        return Err(DecodeError::Corrupt { stored, computed });
    }
    Ok(serde_json::from_slice(body)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Advance;
    use crate::ids::{ControllerTerm, HostId, MigrationId, ReplicaId, ShardId};
    use crate::migration::{Evidence, MigrationState};
    use crate::model::Admission;
    use crate::recovery::LogEnd;
    use crate::rules::{Limits, LimitsChange, Origin, SnapshotRate};

    fn expire() -> Vec<u8> {
        encode(&Command::Expire { now_ms: 7 }).unwrap()
    }

    #[test]
    fn a_command_comes_back() {
        assert_eq!(decode(&expire()).unwrap(), Command::Expire { now_ms: 7 });
    }

    #[test]
    fn the_layout_is_fixed() {
        let body = br#"{"Expire":{"now_ms":7}}"#;
        let mut bytes = vec![1, 1];
        bytes.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
        bytes.extend_from_slice(body);
        assert_eq!(expire(), bytes);
    }

    #[test]
    fn a_change_of_limits_names_what_it_changes() {
        let changed = |change| Command::ChangeLimits {
            change,
            origin: Origin::Manual,
            reason: "night".to_owned(),
            now_ms: 7,
        };
        let golden = [
            (
                changed(LimitsChange {
                    pause: [Origin::Model, Origin::Balance].into(),
                    ..LimitsChange::default()
                }),
                r#"{"ChangeLimits":{"change":{"pause":["Balance","Model"]},"origin":"Manual","reason":"night","now_ms":7}}"#,
            ),
            (
                changed(LimitsChange {
                    resume: [Origin::Repair].into(),
                    homes_max: Some(3),
                    snapshot_rate: Some(SnapshotRate::BytesPerS(0)),
                    ..LimitsChange::default()
                }),
                r#"{"ChangeLimits":{"change":{"resume":["Repair"],"homes_max":3,"snapshot_rate":{"BytesPerS":0}},"origin":"Manual","reason":"night","now_ms":7}}"#,
            ),
        ];
        for (command, body) in golden {
            let bytes = encode(&command).unwrap();
            assert_eq!(std::str::from_utf8(&bytes[HEADER_BYTES..]).unwrap(), body);
            assert_eq!(decode(&bytes).unwrap(), command);
        }
        // What was written before there was a rate in it is read as it was meant.
        let before = serde_json::to_value(Limits::default()).unwrap();
        assert!(before.get("snapshot_bytes_per_s").is_none());
        assert_eq!(
            serde_json::from_value::<Limits>(before).unwrap(),
            Limits::default()
        );
    }

    #[test]
    fn the_commands_of_hosts_that_leave_are_fixed() {
        let host = HostId(4);
        let changed = |admission, reason: &str| Command::ChangeAdmission {
            host,
            admission,
            origin: Origin::Manual,
            reason: reason.to_owned(),
            now_ms: 7,
        };
        let golden = [
            (
                Command::SetAdmission {
                    host,
                    admission: Admission::Draining,
                    now_ms: 7,
                },
                r#"{"SetAdmission":{"host":4,"admission":"Draining","now_ms":7}}"#,
            ),
            (
                changed(Admission::Cordoned, "a bad disk"),
                r#"{"ChangeAdmission":{"host":4,"admission":"Cordoned","origin":"Manual","reason":"a bad disk","now_ms":7}}"#,
            ),
            (
                changed(Admission::Decommissioning, ""),
                r#"{"ChangeAdmission":{"host":4,"admission":"Decommissioning","origin":"Manual","reason":"","now_ms":7}}"#,
            ),
            (
                Command::RemoveHost {
                    host,
                    origin: Origin::Drain,
                    reason: "empty".to_owned(),
                    now_ms: 7,
                },
                r#"{"RemoveHost":{"host":4,"origin":"Drain","reason":"empty","now_ms":7}}"#,
            ),
        ];
        for (command, body) in golden {
            let bytes = encode(&command).unwrap();
            assert_eq!(std::str::from_utf8(&bytes[HEADER_BYTES..]).unwrap(), body);
            assert_eq!(decode(&bytes).unwrap(), command);
        }
    }

    #[test]
    fn what_a_forced_recovery_writes_keeps_its_form() {
        let step = |expect_state, next, evidence| {
            Command::Advance(Advance {
                migration: MigrationId(3),
                expect_state,
                next,
                controller_term: ControllerTerm(2),
                evidence,
                now_ms: 7,
            })
        };
        let (host, replica) = (HostId(4), ReplicaId(5));
        let end = LogEnd {
            raft_term: 6,
            leader: ReplicaId(8),
            index: 9,
        };
        use MigrationState::{Collecting, Reopening};
        let golden = [
            (
                Command::RecoverShard {
                    shard: ShardId(1),
                    origin: Origin::Manual,
                    reason: "fire".to_owned(),
                    now_ms: 7,
                },
                r#"{"RecoverShard":{"shard":1,"origin":"Manual","reason":"fire","now_ms":7}}"#,
            ),
            (
                step(Collecting, Collecting, Evidence::Fenced { host, replica, end }),
                r#"{"Advance":{"migration":3,"expect_state":"Collecting","next":"Collecting","controller_term":2,"evidence":{"Fenced":{"host":4,"replica":5,"end":{"raft_term":6,"leader":8,"index":9}}},"now_ms":7}}"#,
            ),
            (
                step(Collecting, Reopening, Evidence::Chosen { replica }),
                r#"{"Advance":{"migration":3,"expect_state":"Collecting","next":"Reopening","controller_term":2,"evidence":{"Chosen":{"replica":5}},"now_ms":7}}"#,
            ),
        ];
        for (command, body) in golden {
            let bytes = encode(&command).unwrap();
            assert_eq!(std::str::from_utf8(&bytes[HEADER_BYTES..]).unwrap(), body);
            assert_eq!(decode(&bytes).unwrap(), command);
        }
    }

    #[test]
    fn every_flipped_bit_is_an_error() {
        let good = expire();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err(), "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn unknown_variants_and_fields_stop_the_reader() {
        for body in [
            r#"{"Teleport":{"now_ms":7}}"#,
            r#"{"Expire":{"now_ms":7,"gently":true}}"#,
        ] {
            let mut bytes = vec![FORMAT_VERSION, KIND_COMMAND];
            bytes.extend_from_slice(&crc32c::crc32c(body.as_bytes()).to_le_bytes());
            bytes.extend_from_slice(body.as_bytes());
            assert!(matches!(decode(&bytes), Err(DecodeError::Body(_))), "{body}");
        }
    }

    #[test]
    fn foreign_records_are_named() {
        let state = encode_state(&Placement::default()).unwrap();
        assert!(matches!(
            decode(&state),
            Err(DecodeError::WrongKind {
                found: 2,
                expected: 1
            })
        ));
        assert!(matches!(
            decode(&[1, 1]),
            Err(DecodeError::Truncated { bytes: 2 })
        ));
        let mut newer = expire();
        newer[0] = 2;
        assert!(matches!(
            decode(&newer),
            Err(DecodeError::UnknownVersion { found: 2 })
        ));
    }
}
