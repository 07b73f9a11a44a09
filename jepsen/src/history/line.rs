//! The wire form of an operation: one flat object, whose optional fields depend on the operation and its outcome.
//!
//! `null` and "not there" differ: `"value":null` is an absent key, `"prev":null` says that the key was absent before,
//! a missing `prev` says nothing.

use serde::{Deserialize, Deserializer, Serialize};

use super::operation::{Action, Deleted, Invalid, Operation, OperationKind, Outcome, Read, Swapped, Wrote};

type Nullable = Option<Option<String>>;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    process: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    txn: Option<u64>,
    op: OperationKind,
    key: String,
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Option::is_none"
    )]
    value: Nullable,
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Option::is_none"
    )]
    expect: Nullable,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    succeeded: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    existed: Option<bool>,
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Option::is_none"
    )]
    prev: Nullable,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    call_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    return_ns: Option<u64>,
    outcome: OutcomeName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OutcomeName {
    Ok,
    Fail,
    Info,
}

/// A field that is there: its value or null.
fn nullable<'de, D: Deserializer<'de>>(input: D) -> Result<Nullable, D::Error> {
    Option::<String>::deserialize(input).map(Some)
}

impl TryFrom<Line> for Operation {
    type Error = Invalid;

    fn try_from(line: Line) -> Result<Self, Invalid> {
        line.refuse_misplaced()?;
        let action = line.action()?;
        let operation = Self::new(line.process, line.key, line.call_ns, line.return_ns, action)?;
        Ok(operation.in_txn(line.txn))
    }
}

impl Line {
    /// Every field that is there must mean something: a mistyped history is better refused than half understood.
    fn refuse_misplaced(&self) -> Result<(), Invalid> {
        use OperationKind::{Cas, Delete, Get};
        let ok = self.outcome == OutcomeName::Ok;
        let fields = [
            (
                "value",
                matches!(self.value, Some(Some(_))),
                self.op != Delete && (ok || self.op != Get),
            ),
            ("expect", matches!(self.expect, Some(Some(_))), self.op == Cas),
            ("succeeded", self.succeeded.is_some(), ok && self.op == Cas),
            ("existed", self.existed.is_some(), ok && self.op == Delete),
            ("prev", self.prev.is_some(), ok && self.op != Get),
            ("version", self.version.is_some(), ok),
        ];
        match fields.iter().find(|(_, there, may)| *there && !may) {
            Some((name, ..)) => Err(Invalid::Misplaced(name)),
            None => Ok(()),
        }
    }

    fn action(&self) -> Result<Action, Invalid> {
        Ok(match self.op {
            OperationKind::Get => Action::Get(self.read()?),
            OperationKind::Put => Action::Put {
                value: self.written()?,
                outcome: self.outcome(self.wrote()),
            },
            OperationKind::Append => Action::Append {
                element: self.written()?,
                outcome: self.outcome(self.wrote()),
            },
            OperationKind::Delete => Action::Delete(self.outcome(Deleted {
                existed: self.existed,
                prev: self.prev.clone(),
                version: self.version,
            })),
            OperationKind::Cas => Action::Cas {
                expect: self.expect.clone().ok_or(Invalid::Missing("expect"))?,
                value: self.written()?,
                outcome: self.swapped()?,
            },
        })
    }

    fn outcome<T>(&self, reply: T) -> Outcome<T> {
        match self.outcome {
            OutcomeName::Ok => Outcome::Ok(reply),
            OutcomeName::Fail => Outcome::Fail,
            OutcomeName::Info => Outcome::Info,
        }
    }

    fn written(&self) -> Result<String, Invalid> {
        self.value.clone().flatten().ok_or(Invalid::Missing("value"))
    }

    fn wrote(&self) -> Wrote {
        Wrote {
            prev: self.prev.clone(),
            version: self.version,
        }
    }

    fn read(&self) -> Result<Outcome<Read>, Invalid> {
        let value = match (&self.value, self.outcome) {
            (None, OutcomeName::Ok) => return Err(Invalid::Missing("value")),
            (value, _) => value.clone().flatten(),
        };
        Ok(self.outcome(Read {
            value,
            version: self.version,
        }))
    }

    fn swapped(&self) -> Result<Outcome<Swapped>, Invalid> {
        let succeeded = match (self.succeeded, self.outcome) {
            (None, OutcomeName::Ok) => return Err(Invalid::Missing("succeeded")),
            (succeeded, _) => succeeded.unwrap_or_default(),
        };
        Ok(self.outcome(Swapped {
            succeeded,
            prev: self.prev.clone(),
            version: self.version,
        }))
    }

    fn set_outcome<T>(&mut self, outcome: Outcome<T>, set_reply: impl FnOnce(&mut Self, T)) {
        self.outcome = match outcome {
            Outcome::Ok(reply) => {
                set_reply(self, reply);
                OutcomeName::Ok
            }
            Outcome::Fail => OutcomeName::Fail,
            Outcome::Info => OutcomeName::Info,
        };
    }

    fn set_wrote(&mut self, reply: Wrote) {
        (self.prev, self.version) = (reply.prev, reply.version);
    }
}

impl From<Operation> for Line {
    fn from(operation: Operation) -> Self {
        let mut line = Self {
            process: operation.process(),
            txn: operation.txn(),
            op: operation.action().kind(),
            key: operation.key().to_owned(),
            value: None,
            expect: None,
            succeeded: None,
            existed: None,
            prev: None,
            version: None,
            call_ns: operation.call_ns(),
            return_ns: operation.return_ns(),
            outcome: OutcomeName::Ok,
        };
        match operation.action().clone() {
            Action::Get(outcome) => line.set_outcome(outcome, |line, reply| {
                (line.value, line.version) = (Some(reply.value), reply.version);
            }),
            Action::Put { value, outcome }
            | Action::Append {
                element: value,
                outcome,
            } => {
                line.value = Some(Some(value));
                line.set_outcome(outcome, Self::set_wrote);
            }
            Action::Cas {
                expect,
                value,
                outcome,
            } => {
                (line.expect, line.value) = (Some(expect), Some(Some(value)));
                line.set_outcome(outcome, |line, reply| {
                    line.succeeded = Some(reply.succeeded);
                    (line.prev, line.version) = (reply.prev, reply.version);
                });
            }
            Action::Delete(outcome) => line.set_outcome(outcome, |line, reply| {
                (line.existed, line.prev, line.version) = (reply.existed, reply.prev, reply.version);
            }),
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HistoryReader, HistoryWriter};
    use super::*;

    fn read_all(text: &str) -> Vec<Result<Operation, (u64, String)>> {
        let reader = HistoryReader::<&[u8]>::new(text.as_bytes());
        reader
            .map(|line| line.map_err(|error| (error.line(), error.to_string())))
            .collect()
    }

    #[test]
    fn lines_survive_a_round_trip() {
        let text = concat!(
            r#"{"process":3,"op":"put","key":"k","value":"v1","call_ns":10,"return_ns":20,"outcome":"ok"}"#,
            "\n",
            r#"{"process":1,"op":"get","key":"k","value":null,"call_ns":10,"return_ns":20,"outcome":"ok"}"#,
            "\n",
            r#"{"process":1,"op":"get","key":"k","call_ns":10,"return_ns":20,"outcome":"fail"}"#,
            "\n",
            r#"{"process":2,"op":"cas","key":"k","value":"b","expect":null,"succeeded":true,"prev":null,"#,
            r#""version":7,"call_ns":1,"return_ns":2,"outcome":"ok"}"#,
            "\n",
            r#"{"process":2,"txn":9,"op":"append","key":"l","value":"e","call_ns":1,"outcome":"info"}"#,
            "\n",
            r#"{"process":2,"op":"delete","key":"l","existed":true,"prev":"x","call_ns":1,"return_ns":1,"#,
            r#""outcome":"ok"}"#,
            "\n",
        );
        let mut writer = HistoryWriter::new(Vec::new());
        for line in read_all(text) {
            writer.write(&line.unwrap()).unwrap();
        }
        assert_eq!(String::from_utf8(writer.finish().unwrap()).unwrap(), text);
    }

    #[test]
    fn bad_lines_are_named() {
        let good =
            r#"{"process":3,"op":"get","key":"k","value":"v","call_ns":1,"return_ns":2,"outcome":"ok"}"#;
        let cases = [
            (
                r#"{"process":3,"op":"steal","key":"k","call_ns":1,"return_ns":2,"outcome":"ok"}"#,
                "steal",
            ),
            (
                r#"{"process":3,"op":"get","key":"k","call_ns":1,"return_ns":2,"outcome":"ok"}"#,
                "`value` is missing",
            ),
            (
                r#"{"process":3,"op":"put","key":"k","value":"v","call_ns":1,"outcome":"ok"}"#,
                "needs return_ns",
            ),
            (
                r#"{"process":3,"op":"put","key":"k","value":"v","call_ns":3,"return_ns":2,"outcome":"ok"}"#,
                "before",
            ),
            (
                r#"{"process":3,"op":"append","key":"k","value":"a,b","call_ns":3,"outcome":"info"}"#,
                "comma",
            ),
            (
                r#"{"process":3,"op":"put","key":"k","value":"v","version":3,"call_ns":3,"outcome":"info"}"#,
                "`version` does not belong",
            ),
            (
                r#"{"process":3,"op":"cas","key":"k","value":"v","call_ns":3,"outcome":"info"}"#,
                "`expect` is missing",
            ),
            ("{", "EOF"),
        ];
        for (bad, why) in cases {
            let lines = read_all(&format!("{good}\n\n{bad}\n{good}\n"));
            let (line, message) = lines[1].clone().unwrap_err();
            assert_eq!(line, 3, "{bad}");
            assert!(message.contains(why), "{message}");
            assert!(lines[0].is_ok() && lines[2].is_ok());
        }
    }
}
