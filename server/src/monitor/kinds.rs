//! What a request asks for, and how it ended, as two labels with a fixed number of values.

use bytes::Buf;
use client::proto::request::Op;
use client::proto::{Code, Reply, Request, reply};
use prost::encoding::{DecodeContext, decode_key, skip_field};

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Get,
    Scan,
    History,
    LeaseStatus,
    Put,
    Delete,
    CompareAndSet,
    Transaction,
    Compact,
    OpenSession,
    GrantLease,
    KeepLease,
    RevokeLease,
    Unknown,
}

impl Kind {
    /// Every kind, at the place of its number.
    pub(super) const ALL: [Kind; 14] = [
        Kind::Get,
        Kind::Scan,
        Kind::History,
        Kind::LeaseStatus,
        Kind::Put,
        Kind::Delete,
        Kind::CompareAndSet,
        Kind::Transaction,
        Kind::Compact,
        Kind::OpenSession,
        Kind::GrantLease,
        Kind::KeepLease,
        Kind::RevokeLease,
        Kind::Unknown,
    ];

    pub(super) fn of(request: &Request) -> Kind {
        match &request.op {
            Some(Op::Get(_)) => Kind::Get,
            Some(Op::Scan(_)) => Kind::Scan,
            Some(Op::History(_)) => Kind::History,
            Some(Op::LeaseStatus(_)) => Kind::LeaseStatus,
            Some(Op::Mutation(encoded)) => of_mutation(encoded),
            None => Kind::Unknown,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Kind::Get => "get",
            Kind::Scan => "scan",
            Kind::History => "history",
            Kind::LeaseStatus => "lease_status",
            Kind::Put => "put",
            Kind::Delete => "delete",
            Kind::CompareAndSet => "compare_and_set",
            Kind::Transaction => "transaction",
            Kind::Compact => "compact",
            Kind::OpenSession => "open_session",
            Kind::GrantLease => "grant_lease",
            Kind::KeepLease => "keep_lease",
            Kind::RevokeLease => "revoke_lease",
            Kind::Unknown => "unknown",
        }
    }
}

/// The kind of an encoded mutation: by the number of its field alone, without decoding keys and values.
fn of_mutation(mut encoded: &[u8]) -> Kind {
    while encoded.has_remaining() {
        let Ok((field, wire)) = decode_key(&mut encoded) else {
            return Kind::Unknown;
        };
        let kind = match field {
            5 => Kind::Put,
            6 => Kind::Delete,
            7 => Kind::CompareAndSet,
            8 => Kind::OpenSession,
            9 => Kind::Compact,
            10 => Kind::Transaction,
            11 => Kind::GrantLease,
            12 => Kind::KeepLease,
            13 => Kind::RevokeLease,
            _ => match skip_field(wire, field, &mut encoded, DecodeContext::default()) {
                Ok(()) => continue,
                Err(_) => return Kind::Unknown,
            },
        };
        return kind;
    }
    Kind::Unknown
}

/// The names of all outcomes: "ok" for [`Code::Unspecified`], and the codes of errors.
pub(super) fn outcomes() -> impl Iterator<Item = String> {
    let codes = (0..).map_while(|number| Code::try_from(number).ok());
    codes.map(|code| match code {
        Code::Unspecified => "ok".to_owned(),
        code => code.as_str_name().trim_start_matches("CODE_").to_lowercase(),
    })
}

/// The place of a reply's outcome among [`outcomes`]. A comparison that failed is an answer, not an error.
pub(super) fn outcome_of(reply: &Reply) -> usize {
    match &reply.result {
        Some(reply::Result::Error(error)) => usize::try_from(error.code).unwrap_or_default(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use client::proto::mutation::Op as Change;
    use client::proto::{
        Compact, CompareAndSet, Delete, Error, Get, GrantLease, KeepLease, Mutation, OpenSession, Put,
        RevokeLease, Transaction,
    };
    use prost::Message;

    use super::*;

    fn kind_of(change: Option<Change>) -> Kind {
        let mutation = Mutation {
            session: 7,
            sequence: 300,
            op: change,
            ..Mutation::default()
        };
        Kind::of(&Request {
            op: Some(Op::Mutation(mutation.encode_to_vec().into())),
            ..Request::default()
        })
    }

    #[test]
    fn a_mutations_kind_is_read_off_its_encoding() {
        let changes = [
            (Change::Put(Put::default()), Kind::Put),
            (Change::Delete(Delete::default()), Kind::Delete),
            (
                Change::CompareAndSet(CompareAndSet::default()),
                Kind::CompareAndSet,
            ),
            (Change::OpenSession(OpenSession {}), Kind::OpenSession),
            (Change::Compact(Compact::default()), Kind::Compact),
            (Change::Transaction(Transaction::default()), Kind::Transaction),
            (Change::GrantLease(GrantLease::default()), Kind::GrantLease),
            (Change::KeepLease(KeepLease::default()), Kind::KeepLease),
            (Change::RevokeLease(RevokeLease::default()), Kind::RevokeLease),
        ];
        for (change, kind) in changes {
            assert_eq!(kind_of(Some(change)), kind);
        }
        assert_eq!(kind_of(None), Kind::Unknown);
    }

    #[test]
    fn what_cannot_be_read_is_of_no_kind() {
        let request = |encoded: &'static [u8]| Request {
            op: Some(Op::Mutation(encoded.into())),
            ..Request::default()
        };
        assert_eq!(Kind::of(&request(b"\xff\xff")), Kind::Unknown);
        assert_eq!(Kind::of(&request(b"\x22\x7f")), Kind::Unknown);
        assert_eq!(Kind::of(&Request::default()), Kind::Unknown);
        let get = Request {
            op: Some(Op::Get(Get::default())),
            ..Request::default()
        };
        assert_eq!(Kind::of(&get), Kind::Get);
    }

    #[test]
    fn each_kind_is_at_its_number_and_each_code_has_an_outcome() {
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
        }
        let outcomes: Vec<String> = outcomes().collect();
        let error = Reply {
            result: Some(reply::Result::Error(Error {
                code: Code::NoSpace.into(),
                ..Error::default()
            })),
            ..Reply::default()
        };
        assert_eq!(outcomes[outcome_of(&error)], "no_space");
        assert_eq!(outcomes[outcome_of(&Reply::default())], "ok");
    }
}
