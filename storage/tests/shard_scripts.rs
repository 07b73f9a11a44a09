//! The key-value machine's semantics as golden scripts: `testscripts/shard/*`.
//!
//! Commands: `open`, `put KEY VALUE`, `delete KEY`, `cas KEY VALUE absent|value=V|revision=N`,
//! `compact KEY REVISION`, `transaction [if/PROPERTY/KEY/RELATION/OPERAND]... [then/ACT]... [else/ACT]...` with
//! `put/KEY/VALUE`, `delete/KEY`, `delete_range/START/END`, `get/KEY` and `scan/START/END/LIMIT` as acts (a capital asks
//! for the value before),
//! each with `session=`, `seq=`, `low=` and `gen=`; `get KEY`, `history KEY`,
//! `versions KEY` with `limit=`, `bytes=` and `before=`, `scan START END` with `limit=`, `bytes=` and `at=`,
//! `time MS`, `checkpoint`, `reopen`, `stats`. Regenerate with UPDATE_GOLDENFILES=1 and read the diff.

// In a test's own functions, too, an unwrap is an assertion.
#![allow(clippy::unwrap_used)]

mod shard_support;

use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use goldenscript::{ArgumentConsumer, Command, Context};
use shard_support::*;
use storage::disk::RealDisk;
use storage::shard::command::{
    Act, Action, Compare, Delete, DeleteRange, Expectation, Get, Mutation, Operand, Operation, Put, Relation,
    Scan, Transaction,
};
use storage::shard::{KeyValue, ShardStore};

struct Story {
    dir: tempfile::TempDir,
    store: Option<ShardStore>,
    clock_ms: u64,
}

impl Story {
    fn new() -> Story {
        let dir = tempfile::tempdir().unwrap();
        let store = create(Arc::new(RealDisk), &dir.path().join("shard"));
        Story {
            dir,
            store: Some(store),
            clock_ms: 1_000,
        }
    }

    fn store(&self) -> &ShardStore {
        self.store.as_ref().unwrap()
    }

    fn run_one(&mut self, command: &Command) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let output = match command.name.as_str() {
            "time" => {
                self.clock_ms = required(&mut args)?.parse()?;
                String::new()
            }
            "get" => format_pair(&self.store().get(required(&mut args)?.as_bytes())?),
            "history" => self.history(required(&mut args)?.as_bytes())?,
            "versions" => self.versions(&mut args)?,
            "scan" => self.scan(&mut args)?,
            "checkpoint" => {
                let report = self.store().capture(mark(self.store()))?.write()?;
                let (written, removed) = (report.rows_written, report.rows_removed);
                format!(
                    "rows written {written}, removed {removed}, sessions {}",
                    report.sessions_written
                )
            }
            "reopen" => {
                self.store = None;
                self.store = Some(reopen(Arc::new(RealDisk), &self.dir.path().join("shard")));
                format!("applied {:?}", self.store().applied().map(|at| at.index))
            }
            "stats" => self.stats(),
            name => {
                let mutation = parse_mutation(name, &mut args)?;
                let outcomes = apply(self.store(), self.clock_ms, &[mutation]);
                describe(&outcomes[0])
            }
        };
        args.reject_next()?;
        Ok(output)
    }

    fn stats(&self) -> String {
        let stats = self.store().stats();
        let (keys, versions, sessions) = (stats.keys, stats.versions, stats.sessions);
        format!(
            "{keys} keys, {} bytes, {versions} versions, {sessions} sessions",
            stats.bytes
        )
    }

    fn history(&self, key: &[u8]) -> Result<String, Box<dyn Error>> {
        let store = self.store();
        let mut output = format!("readable from revision {}", store.oldest_revision(b"", None));
        for revision in store.oldest_revision(b"", None)..=store.revision() {
            let pair = format_pair(&store.get_at(key, revision)?);
            write!(output, "\nat {revision}: {pair}")?;
        }
        Ok(output)
    }

    fn versions(&self, args: &mut ArgumentConsumer<'_>) -> Result<String, Box<dyn Error>> {
        let limit = parsed(args, "limit")?.unwrap_or(usize::MAX);
        let bytes_max = parsed(args, "bytes")?.unwrap_or(usize::MAX);
        let before = parsed(args, "before")?;
        let found = self
            .store()
            .history(required(args)?.as_bytes(), before, limit, bytes_max)?;
        let Some(found) = found else {
            return Ok("out of range".to_owned());
        };
        let lines = found.versions.into_iter().map(|version| match version.version {
            0 => format!("deleted (changed {})", version.mod_revision),
            revision => format!("version {revision}: {}", format_pair(&Some(version))),
        });
        let rest = format!("more {}, readable from revision {}", found.more, found.oldest);
        Ok(lines.chain([rest]).collect::<Vec<_>>().join("\n"))
    }

    fn scan(&self, args: &mut ArgumentConsumer<'_>) -> Result<String, Box<dyn Error>> {
        let limit = parsed(args, "limit")?.unwrap_or(usize::MAX);
        let bytes_max = parsed(args, "bytes")?.unwrap_or(usize::MAX);
        let revision = parsed(args, "at")?;
        let start = required(args)?;
        let end = args.next_pos();
        let (start, end) = (start.as_bytes(), end.map(str::as_bytes));
        let page = match revision {
            Some(revision) => self.store().scan_at(start, end, limit, bytes_max, revision)?,
            None => self.store().scan(start, end, limit, bytes_max)?,
        };
        let next = page.next.map(|next| String::from_utf8_lossy(&next).into_owned());
        let pairs = page.pairs.into_iter().map(|pair| format_pair(&Some(pair)));
        let lines: Vec<_> = pairs.chain([format!("next {next:?}")]).collect();
        Ok(lines.join("\n"))
    }
}

impl goldenscript::Runner for Story {
    type Command = Command;

    fn run(&mut self, command: &Command, _context: &Context) -> Result<String, Box<dyn Error>> {
        self.run_one(command)
    }
}

fn required<'a>(args: &mut ArgumentConsumer<'a>) -> Result<&'a str, Box<dyn Error>> {
    Ok(args.next_pos().ok_or("an argument is missing")?)
}

fn parsed<T>(args: &mut ArgumentConsumer<'_>, key: &str) -> Result<Option<T>, Box<dyn Error>>
where
    T: std::str::FromStr<Err: Error + 'static>,
{
    Ok(args.take_key(key).map(str::parse).transpose()?)
}

fn parse_mutation(name: &str, args: &mut ArgumentConsumer<'_>) -> Result<Mutation, Box<dyn Error>> {
    let session = parsed(args, "session")?.unwrap_or(1);
    let sequence: Option<u64> = parsed(args, "seq")?;
    let low_water = parsed(args, "low")?.unwrap_or(0);
    let range_version = parsed(args, "gen")?.unwrap_or(3);
    let value_expected: Option<String> = args.take_key("value").map(str::to_owned);
    let revision_expected: Option<u64> = parsed(args, "revision")?;
    let mut mutation = match name {
        "open" => open_session(session),
        "nothing" => Mutation {
            operation: None,
            ..open_session(session)
        },
        "put" => put(session, 0, required(args)?, required(args)?.as_bytes()),
        "delete" => delete(session, 0, required(args)?),
        "transaction" => {
            let mut transaction = Transaction::default();
            while let Some(part) = args.next_pos() {
                match part.split_once('/') {
                    Some(("if", compare)) => transaction.compares.push(parse_compare(compare)?),
                    Some(("then", act)) => transaction.then.push(parse_act(act)?),
                    Some(("else", act)) => transaction.otherwise.push(parse_act(act)?),
                    _ => return Err(format!("unknown part {part}").into()),
                }
            }
            Mutation {
                operation: Some(Operation::Transaction(transaction)),
                ..open_session(session)
            }
        }
        "compact" => compact(session, 0, required(args)?, required(args)?.parse()?),
        "cas" => {
            let (key, value) = (required(args)?, required(args)?);
            let expect = match (value_expected, revision_expected) {
                (Some(value), _) => Expectation::Value(Bytes::from(value)),
                (_, Some(revision)) => Expectation::Revision(revision),
                _ => Expectation::Absent(required(args)? == "absent"),
            };
            compare_and_set(session, 0, key, expect, value.as_bytes())
        }
        unknown => return Err(format!("unknown command {unknown}").into()),
    };
    mutation.sequence = sequence.unwrap_or(mutation.sequence);
    mutation.low_water = low_water;
    mutation.r#gen = range_version;
    Ok(mutation)
}

fn parse_compare(text: &str) -> Result<Compare, Box<dyn Error>> {
    let parts: Vec<&str> = text.split('/').collect();
    let [property, key, relation, operand] = parts[..] else {
        return Err(format!("not a comparison: {text}").into());
    };
    let relation = match relation {
        "eq" => Relation::Equal.into(),
        "ne" => Relation::NotEqual.into(),
        "gt" => Relation::Greater.into(),
        "lt" => Relation::Less.into(),
        _ => 9,
    };
    let operand = match property {
        "value" => Operand::Value(operand.to_owned().into()),
        "version" => Operand::Version(operand.parse()?),
        "created" => Operand::CreateRevision(operand.parse()?),
        "changed" => Operand::ModRevision(operand.parse()?),
        "exists" => Operand::Exists(operand.parse()?),
        "lease" => Operand::Lease(operand.parse()?),
        other => return Err(format!("unknown property {other}").into()),
    };
    Ok(Compare {
        key: key.to_owned().into(),
        relation,
        operand: Some(operand),
    })
}

fn parse_act(text: &str) -> Result<Action, Box<dyn Error>> {
    let parts: Vec<String> = text.split('/').map(str::to_owned).collect();
    let act = match parts.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [kind @ ("put" | "Put"), key, value] => Act::Put(Put {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            return_previous: kind == "Put",
            lease: 0,
        }),
        [kind @ ("delete" | "Delete"), key] => Act::Delete(Delete {
            key: key.to_owned().into(),
            return_previous: kind == "Delete",
        }),
        ["get", key] => Act::Get(Get {
            key: key.to_owned().into(),
            revision: 0,
        }),
        ["scan", start, end, limit] => Act::Scan(Scan {
            start: start.to_owned().into(),
            end: end.to_owned().into(),
            limit: limit.parse()?,
            revision: 0,
        }),
        ["delete_range", start, end] => Act::DeleteRange(DeleteRange {
            start: start.to_owned().into(),
            end: end.to_owned().into(),
        }),
        ["nothing"] => return Ok(Action::default()),
        _ => return Err(format!("not an act: {text}").into()),
    };
    Ok(Action { act: Some(act) })
}

fn format_pair(pair: &Option<KeyValue>) -> String {
    match pair {
        None => "absent".to_owned(),
        Some(pair) => format!(
            "{}={} (created {}, changed {}, version {})",
            String::from_utf8_lossy(&pair.key),
            String::from_utf8_lossy(&pair.value),
            pair.create_revision,
            pair.mod_revision,
            pair.version
        ),
    }
}

fn run(script: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts/shard");
    goldenscript::run(&mut Story::new(), path.join(script)).unwrap();
}

#[test]
fn sessions() {
    run("sessions");
}

#[test]
fn compare_and_set_story() {
    run("compare_and_set");
}

#[test]
fn refusals() {
    run("refusals");
}

#[test]
fn history() {
    run("history");
}

#[test]
fn transactions() {
    run("transactions");
}

#[test]
fn compaction() {
    run("compaction");
}
