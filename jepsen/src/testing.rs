//! Short names for operations in hand-made histories.

use crate::history::{Action, Deleted, Operation, Outcome, Read, Swapped, Wrote};

fn operation(key: &str, call_ns: u64, return_ns: u64, action: Action) -> Operation {
    Operation::new(call_ns, key, call_ns, Some(return_ns), action).unwrap()
}

pub(crate) fn put(key: &str, value: &str, call_ns: u64, return_ns: u64) -> Operation {
    let outcome = Outcome::Ok(Wrote::default());
    operation(
        key,
        call_ns,
        return_ns,
        Action::Put {
            value: value.to_owned(),
            outcome,
        },
    )
}

pub(crate) fn put_at(key: &str, value: &str, version: u64, call_ns: u64, return_ns: u64) -> Operation {
    let outcome = Outcome::Ok(Wrote {
        prev: None,
        version: Some(version),
    });
    operation(
        key,
        call_ns,
        return_ns,
        Action::Put {
            value: value.to_owned(),
            outcome,
        },
    )
}

pub(crate) fn put_unknown(key: &str, value: &str, call_ns: u64) -> Operation {
    operation(
        key,
        call_ns,
        call_ns,
        Action::Put {
            value: value.to_owned(),
            outcome: Outcome::Info,
        },
    )
}

pub(crate) fn put_failed(key: &str, value: &str, call_ns: u64, return_ns: u64) -> Operation {
    operation(
        key,
        call_ns,
        return_ns,
        Action::Put {
            value: value.to_owned(),
            outcome: Outcome::Fail,
        },
    )
}

pub(crate) fn get(key: &str, value: Option<&str>, call_ns: u64, return_ns: u64) -> Operation {
    let reply = Read {
        value: value.map(str::to_owned),
        version: None,
    };
    operation(key, call_ns, return_ns, Action::Get(Outcome::Ok(reply)))
}

pub(crate) fn get_at(key: &str, value: &str, version: u64, call_ns: u64, return_ns: u64) -> Operation {
    let reply = Read {
        value: Some(value.to_owned()),
        version: Some(version),
    };
    operation(key, call_ns, return_ns, Action::Get(Outcome::Ok(reply)))
}

pub(crate) fn cas(
    key: &str,
    change: (&str, &str),
    succeeded: bool,
    call_ns: u64,
    return_ns: u64,
) -> Operation {
    let (expect, value) = (Some(change.0.to_owned()), change.1.to_owned());
    let outcome = Outcome::Ok(Swapped {
        succeeded,
        prev: None,
        version: None,
    });
    operation(
        key,
        call_ns,
        return_ns,
        Action::Cas {
            expect,
            value,
            outcome,
        },
    )
}

pub(crate) fn delete(key: &str, existed: Option<bool>, call_ns: u64, return_ns: u64) -> Operation {
    let reply = Deleted {
        existed,
        ..Deleted::default()
    };
    operation(key, call_ns, return_ns, Action::Delete(Outcome::Ok(reply)))
}

pub(crate) fn append(key: &str, element: &str, call_ns: u64, return_ns: u64) -> Operation {
    let outcome = Outcome::Ok(Wrote::default());
    operation(
        key,
        call_ns,
        return_ns,
        Action::Append {
            element: element.to_owned(),
            outcome,
        },
    )
}

pub(crate) fn append_failed(key: &str, element: &str, call_ns: u64, return_ns: u64) -> Operation {
    operation(
        key,
        call_ns,
        return_ns,
        Action::Append {
            element: element.to_owned(),
            outcome: Outcome::Fail,
        },
    )
}

pub(crate) fn append_unknown(key: &str, element: &str, call_ns: u64) -> Operation {
    operation(
        key,
        call_ns,
        call_ns,
        Action::Append {
            element: element.to_owned(),
            outcome: Outcome::Info,
        },
    )
}

pub(crate) fn read_list(key: &str, elements: &[&str], call_ns: u64, return_ns: u64) -> Operation {
    let list = (!elements.is_empty()).then(|| elements.join(","));
    get(key, list.as_deref(), call_ns, return_ns)
}
