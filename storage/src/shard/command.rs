//! What an entry of a shard's log carries: a batch of clients' mutations under the leader's stamp.
//!
//! The messages here are wire-identical to those of the public protocol (`godwit.v1.Mutation` and
//! what it holds), and a client's encoded mutation goes into the log unchanged. Keys and values are
//! slices of the payload, not copies.
//!
//! Two kinds of the unknown, treated differently:
//! - a payload whose version or kind is unknown was proposed by a newer program: decoding fails and
//!   the replica stops, because skipping it would make the replica differ from the others;
//! - a mutation that does not parse, or names no operation known here, comes from a client: it is
//!   refused, equally on every replica of this version, since stopping would let one client stop
//!   the shard for ever. A new operation therefore needs a new batch version.

use bytes::Bytes;
use prost::Message;

use super::merge::MergeStep;
use super::record::{
    BatchBody, EndedLeasesBody, Kind, MergeBody, ScrubBody, SplitBody, UnsealError, kind_of, seal, unseal,
};
use super::split::Split;

/// A change to a shard's data. Applied at most once for each (session, sequence).
#[derive(Clone, PartialEq, Message)]
pub struct Mutation {
    /// The client's identity for deduplication; never 0.
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// 1, 2, 3, ... within the session and shard; 0 opens the session.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// Every sequence below this has been answered: its outcome may be forgotten.
    #[prost(uint64, tag = "3")]
    pub low_water: u64,
    /// The range version in the client's map; 0: not known, only the key is checked.
    #[prost(uint64, tag = "4")]
    pub r#gen: u64,
    /// What to do. `None`: an operation that this program does not know.
    #[prost(oneof = "Operation", tags = "5, 6, 7, 8, 9, 10, 11, 12, 13")]
    pub operation: Option<Operation>,
}

/// What a [`Mutation`] does.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Operation {
    /// Sets a key's value.
    #[prost(message, tag = "5")]
    Put(Put),
    /// Removes a key.
    #[prost(message, tag = "6")]
    Delete(Delete),
    /// Sets a key's value if it is what the client expects.
    #[prost(message, tag = "7")]
    CompareAndSet(CompareAndSet),
    /// Opens the session; no effect on data.
    #[prost(message, tag = "8")]
    OpenSession(OpenSession),
    /// Forgets old versions of all keys of the shard.
    #[prost(message, tag = "9")]
    Compact(Compact),
    /// Does one thing or another to several keys, at one revision.
    #[prost(message, tag = "10")]
    Transaction(Transaction),
    /// Makes a lease.
    #[prost(message, tag = "11")]
    GrantLease(GrantLease),
    /// Begins a lease's length anew.
    #[prost(message, tag = "12")]
    KeepLease(KeepLease),
    /// Ends a lease, with the keys that hang on it.
    #[prost(message, tag = "13")]
    RevokeLease(RevokeLease),
}

/// Sets a key's value.
#[derive(Clone, PartialEq, Message)]
pub struct Put {
    /// The key; not empty.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// Whether the answer brings what the key held before.
    #[prost(bool, tag = "3")]
    pub return_previous: bool,
    /// The lease that the key is to hang on, instead of what it hung on; 0: on none.
    #[prost(uint64, tag = "4")]
    pub lease: u64,
}

/// Removes a key.
#[derive(Clone, PartialEq, Message)]
pub struct Delete {
    /// The key; not empty.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Whether the answer brings what the key held before.
    #[prost(bool, tag = "2")]
    pub return_previous: bool,
}

/// Sets a key's value if it is what the client expects.
#[derive(Clone, PartialEq, Message)]
pub struct CompareAndSet {
    /// The key; not empty.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// What must hold; without it the mutation is invalid.
    #[prost(oneof = "Expectation", tags = "2, 3, 4")]
    pub expect: Option<Expectation>,
    /// The value to set.
    #[prost(bytes = "bytes", tag = "5")]
    pub new_value: Bytes,
    /// As in [`Put`].
    #[prost(uint64, tag = "6")]
    pub lease: u64,
}

/// What a [`CompareAndSet`] expects of its key.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Expectation {
    /// The key must not exist. `false` is invalid.
    #[prost(bool, tag = "2")]
    Absent(bool),
    /// The key must hold this value.
    #[prost(bytes = "bytes", tag = "3")]
    Value(Bytes),
    /// The key's last change must have this revision.
    #[prost(uint64, tag = "4")]
    Revision(u64),
}

/// Opens the session.
#[derive(Clone, PartialEq, Message)]
pub struct OpenSession {}

/// Forgets what was superseded at or before a revision.
#[derive(Clone, PartialEq, Message)]
pub struct Compact {
    /// Any key of the shard.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The oldest revision at which the shard can be read afterwards; not above the shard's.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
}

/// Makes a lease, if none of this id lives there. One that lives elsewhere in the shard lives here too from then on.
#[derive(Clone, PartialEq, Message)]
pub struct GrantLease {
    /// Any key of the shard.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The id; not 0.
    #[prost(uint64, tag = "2")]
    pub lease: u64,
    /// How long it lasts without being renewed, in milliseconds; not 0.
    #[prost(uint64, tag = "3")]
    pub ttl_ms: u64,
    /// On which keys of the shard, `key` among them; `None`: on all, if none lives at `key`.
    #[prost(message, optional, tag = "4")]
    pub on: Option<KeyRun>,
}

/// The keys of `[start, end)`; an empty end: to the last.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct KeyRun {
    /// The first.
    #[prost(bytes = "bytes", tag = "1")]
    pub start: Bytes,
    /// The first beyond.
    #[prost(bytes = "bytes", tag = "2")]
    pub end: Bytes,
}

/// Begins a lease's length anew.
#[derive(Clone, PartialEq, Message)]
pub struct KeepLease {
    /// A key of the shard at which the lease is to live.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The lease.
    #[prost(uint64, tag = "2")]
    pub lease: u64,
    /// It is to live on all keys of the shard from `key` to this one, which is above it; empty: to the shard's last; `None`:
    /// at `key` alone.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub until: Option<Bytes>,
}

/// Ends a lease, with the keys that hang on it.
#[derive(Clone, PartialEq, Message)]
pub struct RevokeLease {
    /// A key of the shard at which the lease lives.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The lease.
    #[prost(uint64, tag = "2")]
    pub lease: u64,
}

/// If all comparisons hold, the actions of one list, otherwise those of the other: in their order, at one revision.
#[derive(Clone, PartialEq, Message)]
pub struct Transaction {
    /// What must hold; without any, it does.
    #[prost(message, repeated, tag = "1")]
    pub compares: Vec<Compare>,
    /// What to do if it does. At most one change of each key.
    #[prost(message, repeated, tag = "2")]
    pub then: Vec<Action>,
    /// What to do if not.
    #[prost(message, repeated, tag = "3")]
    pub otherwise: Vec<Action>,
}

/// A comparison with a key's newest version. Of a key that does not exist all numbers are 0, and no value compares.
#[derive(Clone, PartialEq, Message)]
pub struct Compare {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// How the key's property must relate to the operand.
    #[prost(enumeration = "Relation", tag = "2")]
    pub relation: i32,
    /// The property, with the operand. `None`: one that this program does not know.
    #[prost(oneof = "Operand", tags = "3, 4, 5, 6, 7, 8")]
    pub operand: Option<Operand>,
}

/// How a property relates to an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Relation {
    /// It is the same.
    Equal = 0,
    /// It is not.
    NotEqual = 1,
    /// It is greater.
    Greater = 2,
    /// It is less.
    Less = 3,
}

/// What a [`Compare`] compares with.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Operand {
    /// With the value.
    #[prost(bytes = "bytes", tag = "3")]
    Value(Bytes),
    /// With the version.
    #[prost(uint64, tag = "4")]
    Version(u64),
    /// With the revision at which the key came into being.
    #[prost(uint64, tag = "5")]
    CreateRevision(u64),
    /// With the revision of its last change.
    #[prost(uint64, tag = "6")]
    ModRevision(u64),
    /// With whether it exists.
    #[prost(bool, tag = "7")]
    Exists(bool),
    /// With the lease that it hangs on; 0: on none.
    #[prost(uint64, tag = "8")]
    Lease(u64),
}

/// One action of a [`Transaction`].
#[derive(Clone, PartialEq, Message)]
pub struct Action {
    /// What to do. `None`: something that this program does not know.
    #[prost(oneof = "Act", tags = "1, 2, 3, 4, 5")]
    pub act: Option<Act>,
}

/// What an [`Action`] does.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Act {
    /// Sets a key's value.
    #[prost(message, tag = "1")]
    Put(Put),
    /// Removes a key.
    #[prost(message, tag = "2")]
    Delete(Delete),
    /// Reads a key, as the actions before it left it.
    #[prost(message, tag = "3")]
    Get(Get),
    /// Reads keys, as the actions before it left them.
    #[prost(message, tag = "4")]
    Scan(Scan),
    /// Removes all keys of a range.
    #[prost(message, tag = "5")]
    DeleteRange(DeleteRange),
}

/// Removes the keys in `[start, end)`.
#[derive(Clone, PartialEq, Message)]
pub struct DeleteRange {
    /// The first key.
    #[prost(bytes = "bytes", tag = "1")]
    pub start: Bytes,
    /// The first key beyond; empty: to the end of the shard.
    #[prost(bytes = "bytes", tag = "2")]
    pub end: Bytes,
}

/// Reads a key.
#[derive(Clone, PartialEq, Message)]
pub struct Get {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Must be 0: a transaction sees the present.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
}

/// Reads the keys in `[start, end)`, in order.
#[derive(Clone, PartialEq, Message)]
pub struct Scan {
    /// The first key.
    #[prost(bytes = "bytes", tag = "1")]
    pub start: Bytes,
    /// The first key beyond; empty: to the end of the shard.
    #[prost(bytes = "bytes", tag = "2")]
    pub end: Bytes,
    /// At most so many pairs; 0: as many as a transaction may read.
    #[prost(uint32, tag = "3")]
    pub limit: u32,
    /// Must be 0: a transaction sees the present.
    #[prost(uint64, tag = "4")]
    pub revision: u64,
}

/// A decoded log payload.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The leader's time when it proposed the batch, in milliseconds. Drives session expiry and
    /// retention.
    pub stamped_ms: u64,
    /// The mutations in order; `None`: bytes that are not a mutation, which will be refused.
    pub mutations: Vec<Option<Mutation>>,
    /// Leases that the leader saw come to their end. An entry has these or mutations.
    pub ended_leases: Vec<EndedLease>,
    /// The shard is split. Such an entry has nothing else.
    pub split: Option<Split>,
    /// A step of a merge. An entry has this alone.
    pub merge: Option<MergeStep>,
    /// The shard's group was begun anew from one replica. An entry has this alone.
    pub new_group: Option<NewGroup>,
    /// The replicas are to be compared here, by this id. An entry has this alone.
    pub scrub: Option<u64>,
}

/// The first entry of a group that was begun anew from what one replica had.
///
/// What the old group had beyond that is lost, and its revisions may have been seen: none of them may come again with
/// another meaning, and whoever follows changes has to read anew instead of going on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct NewGroup {
    /// The leader's time, in milliseconds.
    #[prost(uint64, tag = "1")]
    pub stamped_ms: u64,
    /// The version of the shard's range from here on; greater than before.
    #[prost(uint64, tag = "2")]
    pub r#gen: u64,
    /// Revisions that are left out: more than the old group can have given out unseen.
    #[prost(uint64, tag = "3")]
    pub revisions_skipped: u64,
}

/// A lease that came to its end, as its leader saw it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct EndedLease {
    /// The lease.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// How often it was renewed: if it has been renewed since, it goes on.
    #[prost(uint64, tag = "2")]
    pub renewals: u64,
}

/// Why a log payload was not accepted. The replica that meets one stops.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a log payload cannot be decoded: {0}")]
pub struct DecodeError(#[from] UnsealError);

/// A log payload of clients' encoded mutations. `stamped_ms` is the leader's time.
pub fn encode_batch(stamped_ms: u64, mutations: impl IntoIterator<Item = Bytes>) -> Bytes {
    let mutations = mutations.into_iter().collect();
    let body = BatchBody {
        stamped_ms,
        mutations,
    };
    seal(Kind::Batch, b"", &body)
}

/// A log payload that ends leases. `stamped_ms` is the leader's time.
pub fn encode_ended_leases(stamped_ms: u64, ended: Vec<EndedLease>) -> Bytes {
    let body = EndedLeasesBody { stamped_ms, ended };
    seal(Kind::EndedLeases, b"", &body)
}

/// A log payload that splits the shard. `stamped_ms` is the leader's time.
pub fn encode_split(stamped_ms: u64, split: Split) -> Bytes {
    seal(Kind::Split, b"", &SplitBody { stamped_ms, split })
}

/// A log payload with a step of a merge. `stamped_ms` is the leader's time.
pub fn encode_merge_step(stamped_ms: u64, step: MergeStep) -> Bytes {
    let step = Some(step);
    seal(Kind::Merge, b"", &MergeBody { stamped_ms, step })
}

/// A log payload that begins a group anew.
pub fn encode_new_group(new_group: NewGroup) -> Bytes {
    seal(Kind::NewGroup, b"", &new_group)
}

/// A log payload that asks for a scrub. `stamped_ms` is the leader's time.
pub fn encode_scrub(stamped_ms: u64, id: u64) -> Bytes {
    seal(Kind::Scrub, b"", &ScrubBody { stamped_ms, id })
}

/// Whether a log payload has a step of a merge. Looks at its kind alone.
pub(crate) fn is_merge_step(payload: &Bytes) -> bool {
    kind_of(payload) == Some(Kind::Merge as u8)
}

/// The batch in a log payload.
pub fn decode_batch(payload: Bytes) -> Result<Batch, DecodeError> {
    let kind = kind_of(&payload);
    if kind == Some(Kind::EndedLeases as u8) {
        let body: EndedLeasesBody = unseal(Kind::EndedLeases, b"", payload)?;
        return Ok(Batch {
            ended_leases: body.ended,
            ..Batch::empty(body.stamped_ms)
        });
    }
    if kind == Some(Kind::Split as u8) {
        let body: SplitBody = unseal(Kind::Split, b"", payload)?;
        return Ok(Batch {
            split: Some(body.split),
            ..Batch::empty(body.stamped_ms)
        });
    }
    if kind == Some(Kind::Merge as u8) {
        let body: MergeBody = unseal(Kind::Merge, b"", payload)?;
        let unknown = || UnsealError::Malformed("a merge without a known step".to_owned());
        return Ok(Batch {
            merge: Some(body.step.ok_or_else(unknown)?),
            ..Batch::empty(body.stamped_ms)
        });
    }
    if kind == Some(Kind::NewGroup as u8) {
        let new_group: NewGroup = unseal(Kind::NewGroup, b"", payload)?;
        return Ok(Batch {
            new_group: Some(new_group),
            ..Batch::empty(new_group.stamped_ms)
        });
    }
    if kind == Some(Kind::Scrub as u8) {
        let body: ScrubBody = unseal(Kind::Scrub, b"", payload)?;
        return Ok(Batch {
            scrub: Some(body.id),
            ..Batch::empty(body.stamped_ms)
        });
    }
    let body: BatchBody = unseal(Kind::Batch, b"", payload)?;
    let decode = |encoded: Bytes| Mutation::decode(encoded).ok();
    Ok(Batch {
        mutations: body.mutations.into_iter().map(decode).collect(),
        ..Batch::empty(body.stamped_ms)
    })
}

/// The encoded mutations in a log payload, as clients sent them; none in a payload of another kind.
///
/// # Errors
/// When the payload is not what was written.
pub fn encoded_mutations(payload: &Bytes) -> Result<Vec<Bytes>, DecodeError> {
    match kind_of(payload) == Some(Kind::Batch as u8) {
        true => Ok(unseal::<BatchBody>(Kind::Batch, b"", payload.clone())?.mutations),
        false => Ok(Vec::new()),
    }
}

impl Batch {
    fn empty(stamped_ms: u64) -> Batch {
        Batch {
            stamped_ms,
            mutations: Vec::new(),
            ended_leases: Vec::new(),
            split: None,
            merge: None,
            new_group: None,
            scrub: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutation(operation: Operation) -> Mutation {
        Mutation {
            session: 300,
            sequence: 2,
            low_water: 1,
            r#gen: 7,
            operation: Some(operation),
        }
    }

    fn golden(operation: Operation) -> String {
        let bytes = mutation(operation).encode_to_vec();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The bytes are those of `godwit.v1.Mutation`, worked out by hand from the protobuf encoding.
    #[test]
    fn the_wire_form_is_that_of_the_public_protocol() {
        let header = "08ac02100218012007";
        let (key, value) = (Bytes::from_static(b"k"), Bytes::from_static(b"v"));
        let put = Put {
            key: key.clone(),
            value: value.clone(),
            return_previous: true,
            lease: 5,
        };
        assert_eq!(
            golden(Operation::Put(put)),
            format!("{header}2a0a0a016b12017618012005")
        );
        let delete = Delete {
            key: key.clone(),
            return_previous: true,
        };
        assert_eq!(
            golden(Operation::Delete(delete)),
            format!("{header}32050a016b1001")
        );
        for (expect, encoded) in [
            (Expectation::Absent(true), "3a080a016b10012a0176"),
            (Expectation::Value(value.clone()), "3a090a016b1a01762a0176"),
            (Expectation::Revision(9), "3a080a016b20092a0176"),
        ] {
            let swap = CompareAndSet {
                key: key.clone(),
                expect: Some(expect),
                new_value: value.clone(),
                lease: 0,
            };
            assert_eq!(
                golden(Operation::CompareAndSet(swap)),
                format!("{header}{encoded}")
            );
        }
        assert_eq!(
            golden(Operation::OpenSession(OpenSession {})),
            format!("{header}4200")
        );
        let compact = Compact {
            key: key.clone(),
            revision: 9,
        };
        assert_eq!(
            golden(Operation::Compact(compact)),
            format!("{header}4a050a016b1009")
        );
        let act = |act| Action { act: Some(act) };
        let transaction = Transaction {
            compares: vec![Compare {
                key: key.clone(),
                relation: Relation::Greater.into(),
                operand: Some(Operand::ModRevision(9)),
            }],
            then: vec![act(Act::Delete(Delete {
                key: key.clone(),
                return_previous: false,
            }))],
            otherwise: vec![act(Act::Get(Get {
                key: key.clone(),
                revision: 0,
            }))],
        };
        assert_eq!(
            golden(Operation::Transaction(transaction)),
            format!("{header}52170a070a016b10023009120512030a016b1a051a030a016b")
        );
        let transaction = Transaction {
            compares: vec![Compare {
                key: key.clone(),
                relation: Relation::Equal.into(),
                operand: Some(Operand::Lease(9)),
            }],
            then: vec![act(Act::DeleteRange(DeleteRange {
                start: key.clone(),
                end: key,
            }))],
            otherwise: Vec::new(),
        };
        assert_eq!(
            golden(Operation::Transaction(transaction)),
            format!("{header}52110a050a016b400912082a060a016b12016b")
        );
    }

    #[test]
    fn leases_are_those_of_the_public_protocol() {
        let key = Bytes::from_static(b"k");
        let header = "08ac02100218012007";
        let grant = GrantLease {
            key: key.clone(),
            lease: 5,
            ttl_ms: 300,
            on: None,
        };
        assert_eq!(
            golden(Operation::GrantLease(grant.clone())),
            format!("{header}5a080a016b100518ac02")
        );
        let on = Some(KeyRun {
            start: key.clone(),
            end: Bytes::from_static(b"m"),
        });
        assert_eq!(
            golden(Operation::GrantLease(GrantLease { on, ..grant })),
            format!("{header}5a100a016b100518ac0222060a016b12016d")
        );
        let keep = KeepLease {
            key: key.clone(),
            lease: 5,
            until: None,
        };
        assert_eq!(
            golden(Operation::KeepLease(keep)),
            format!("{header}62050a016b1005")
        );
        let revoke = RevokeLease { key, lease: 5 };
        assert_eq!(
            golden(Operation::RevokeLease(revoke)),
            format!("{header}6a050a016b1005")
        );
    }

    #[test]
    fn ended_leases_are_entries_of_their_own_kind() {
        let ended = vec![EndedLease { id: 5, renewals: 2 }];
        let payload = encode_ended_leases(12, ended.clone());
        assert_eq!(payload[1], 6);
        let batch = decode_batch(payload).unwrap();
        assert_eq!((batch.stamped_ms, batch.mutations.len()), (12, 0));
        assert_eq!(batch.ended_leases, ended);
    }

    #[test]
    fn a_new_group_is_an_entry_of_its_own_kind() {
        let new_group = NewGroup {
            stamped_ms: 12,
            r#gen: 3,
            revisions_skipped: 1_000,
        };
        let payload = encode_new_group(new_group);
        assert_eq!(payload[1], 16);
        let batch = decode_batch(payload).unwrap();
        assert_eq!((batch.stamped_ms, batch.mutations.len()), (12, 0));
        assert_eq!(batch.new_group, Some(new_group));
    }

    #[test]
    fn a_batch_keeps_order_and_tells_what_is_no_mutation() {
        let open = mutation(Operation::OpenSession(OpenSession {}));
        let encoded = [
            Bytes::from(open.encode_to_vec()),
            Bytes::from_static(b"\xff\xff"),
            Bytes::new(),
        ];
        let batch = decode_batch(encode_batch(12, encoded)).unwrap();
        assert_eq!(batch.stamped_ms, 12);
        assert_eq!(batch.mutations, vec![Some(open), None, Some(Mutation::default())]);
    }

    #[test]
    fn an_unknown_version_or_kind_is_an_error() {
        let payload = encode_batch(1, []);
        let altered = |at: usize, to: u8| {
            let mut bytes = payload.to_vec();
            bytes[at] = to;
            decode_batch(bytes.into()).unwrap_err().0
        };
        assert_eq!(altered(0, 2), UnsealError::UnknownFormat { found: 2 });
        assert_eq!(
            altered(1, 9),
            UnsealError::UnknownKind {
                found: 9,
                expected: 1
            }
        );
        assert_eq!(altered(3, payload[3] ^ 1), UnsealError::Checksum);
    }
}
