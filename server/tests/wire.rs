//! The client's encoded mutation goes into a shard's log unchanged, so the SDK and the storage must mean the same bytes.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use client::proto::{self, compare_and_set, mutation};
use prost::Message;
use storage::shard::command::{Expectation, Operation};
use storage::shard::{decode_batch, encode_batch, encoded_mutations};

fn through(op: mutation::Op) -> storage::shard::command::Mutation {
    let sent = proto::Mutation {
        session: 1,
        sequence: 2,
        low_water: 3,
        r#gen: 4,
        op: Some(op),
        trace: Bytes::from_static(&[7; 24]),
    };
    let encoded = Bytes::from(sent.encode_to_vec());
    let payload = encode_batch(99, [encoded.clone()]);
    // What traces is in the log as it was sent, and means nothing to the state.
    assert_eq!(encoded_mutations(&payload).unwrap(), [encoded]);
    let batch = decode_batch(payload).unwrap();
    assert_eq!(batch.stamped_ms, 99);
    let read = batch.mutations.into_iter().next().unwrap().unwrap();
    assert_eq!(
        (read.session, read.sequence, read.low_water, read.r#gen),
        (1, 2, 3, 4)
    );
    read
}

#[test]
fn a_put_and_a_delete_arrive_as_sent() {
    let put = proto::Put {
        key: "k".into(),
        value: "v".into(),
        return_previous: true,
        lease: 0,
    };
    let Some(Operation::Put(read)) = through(mutation::Op::Put(put)).operation else {
        panic!("not a put")
    };
    assert_eq!(
        (&read.key[..], &read.value[..], read.return_previous),
        (&b"k"[..], &b"v"[..], true)
    );
    let delete = proto::Delete {
        key: "k".into(),
        return_previous: true,
    };
    let Some(Operation::Delete(read)) = through(mutation::Op::Delete(delete)).operation else {
        panic!("not a delete")
    };
    assert_eq!((&read.key[..], read.return_previous), (&b"k"[..], true));
}

#[test]
fn every_expectation_of_a_compare_and_set_arrives_as_sent() {
    let cases = [
        (compare_and_set::Expect::Absent(true), Expectation::Absent(true)),
        (
            compare_and_set::Expect::Value("v".into()),
            Expectation::Value("v".into()),
        ),
        (compare_and_set::Expect::Revision(7), Expectation::Revision(7)),
    ];
    for (sent, expected) in cases {
        let cas = proto::CompareAndSet {
            key: "k".into(),
            new_value: "n".into(),
            expect: Some(sent),
            lease: 0,
        };
        let Some(Operation::CompareAndSet(read)) = through(mutation::Op::CompareAndSet(cas)).operation else {
            panic!("not a compare-and-set")
        };
        assert_eq!(read.expect, Some(expected));
        assert_eq!((&read.key[..], &read.new_value[..]), (&b"k"[..], &b"n"[..]));
    }
}

#[test]
fn opening_a_session_arrives_as_sent() {
    let read = through(mutation::Op::OpenSession(proto::OpenSession {}));
    assert!(matches!(read.operation, Some(Operation::OpenSession(_))));
}

#[test]
fn a_compaction_arrives_as_sent() {
    let read = through(mutation::Op::Compact(proto::Compact {
        key: Bytes::from_static(b"k"),
        revision: 9,
    }));
    let Some(Operation::Compact(read)) = read.operation else {
        panic!("not a compaction")
    };
    assert_eq!((&read.key[..], read.revision), (&b"k"[..], 9));
}

#[test]
fn leases_arrive_as_sent() {
    let key = || Bytes::from_static(b"k");
    let grant = proto::GrantLease {
        key: key(),
        lease: 5,
        ttl_ms: 300,
        on: Some(proto::KeyRun {
            start: "j".into(),
            end: "m".into(),
        }),
    };
    let Some(Operation::GrantLease(read)) = through(mutation::Op::GrantLease(grant)).operation else {
        panic!("not a grant")
    };
    let run = read.on.unwrap();
    assert_eq!((&run.start[..], &run.end[..]), (&b"j"[..], &b"m"[..]));
    assert_eq!((&read.key[..], read.lease, read.ttl_ms), (&b"k"[..], 5, 300));
    let keep = proto::KeepLease {
        key: key(),
        lease: 6,
        until: Some(Bytes::new()),
    };
    let Some(Operation::KeepLease(read)) = through(mutation::Op::KeepLease(keep)).operation else {
        panic!("not a keeping")
    };
    assert_eq!((&read.key[..], read.lease), (&b"k"[..], 6));
    assert_eq!(read.until, Some(Bytes::new()));
    let revoke = proto::RevokeLease { key: key(), lease: 7 };
    let Some(Operation::RevokeLease(read)) = through(mutation::Op::RevokeLease(revoke)).operation else {
        panic!("not a revocation")
    };
    assert_eq!((&read.key[..], read.lease), (&b"k"[..], 7));
    let put = proto::Put {
        key: key(),
        value: "v".into(),
        return_previous: false,
        lease: 8,
    };
    let Some(Operation::Put(read)) = through(mutation::Op::Put(put)).operation else {
        panic!("not a put")
    };
    assert_eq!(read.lease, 8);
    let swap = proto::CompareAndSet {
        key: key(),
        new_value: "v".into(),
        expect: Some(compare_and_set::Expect::Absent(true)),
        lease: 9,
    };
    let Some(Operation::CompareAndSet(read)) = through(mutation::Op::CompareAndSet(swap)).operation else {
        panic!("not a compare-and-set")
    };
    assert_eq!(read.lease, 9);
}

#[test]
fn a_transaction_arrives_as_sent() {
    use client::proto::{Action, Compare, action, compare};
    use storage::shard::command::{Act, Operand, Relation};
    let act = |act| Action { act: Some(act) };
    let key = Bytes::from_static(b"k");
    let sent = proto::Transaction {
        compares: vec![
            Compare {
                key: key.clone(),
                relation: proto::Relation::Less.into(),
                operand: Some(compare::Operand::CreateRevision(7)),
            },
            Compare {
                key: key.clone(),
                relation: proto::Relation::NotEqual.into(),
                operand: Some(compare::Operand::Exists(true)),
            },
        ],
        then: vec![
            act(action::Act::Put(proto::Put {
                key: key.clone(),
                value: "v".into(),
                return_previous: true,
                lease: 0,
            })),
            act(action::Act::Scan(proto::Scan {
                start: "a".into(),
                end: "z".into(),
                limit: 3,
                revision: 4,
            })),
        ],
        otherwise: vec![
            act(action::Act::Get(proto::Get {
                key: key.clone(),
                revision: 5,
            })),
            act(action::Act::Delete(proto::Delete {
                key,
                return_previous: true,
            })),
        ],
    };
    let read = through(mutation::Op::Transaction(sent));
    let Some(Operation::Transaction(read)) = read.operation else {
        panic!("not a transaction")
    };
    assert_eq!(read.compares[0].relation(), Relation::Less);
    assert_eq!(read.compares[0].operand, Some(Operand::CreateRevision(7)));
    assert_eq!(read.compares[1].relation(), Relation::NotEqual);
    assert_eq!(read.compares[1].operand, Some(Operand::Exists(true)));
    let [Some(Act::Put(put)), Some(Act::Scan(scan))] = [&read.then[0].act, &read.then[1].act] else {
        panic!("{:?}", read.then)
    };
    assert_eq!(
        (&put.key[..], &put.value[..], put.return_previous),
        (&b"k"[..], &b"v"[..], true)
    );
    assert_eq!(
        (&scan.start[..], &scan.end[..], scan.limit, scan.revision),
        (&b"a"[..], &b"z"[..], 3, 4)
    );
    let [Some(Act::Get(get)), Some(Act::Delete(delete))] = [&read.otherwise[0].act, &read.otherwise[1].act]
    else {
        panic!("{:?}", read.otherwise)
    };
    assert_eq!((&get.key[..], get.revision), (&b"k"[..], 5));
    assert!(delete.return_previous);
}
