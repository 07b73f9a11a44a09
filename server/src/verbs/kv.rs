//! `godwit kv`: one operation on keys.
//!
//! A value read alone is printed as its bytes and a line feed, so that it can be piped on; wherever a value stands
//! beside something else it is escaped. The deadline covers the whole verb, connecting included.

use std::{
    io::{self, Read, Write},
    path::Path,
    time::Duration,
};

use client::{Expect, KeyRange, MutationError, Previous, ReadError, ReadMode};

use super::{
    Exit, VerbError,
    connect::{Caller, Connected},
    lease,
    pairs::{self, Page},
    text, transaction,
    watch::{self, Form},
};
use crate::cli::{
    CasArgs, CasExpect, CompactArgs, ConnectArgs, DeleteArgs, GetArgs, KeyHistoryArgs, KvArgs, KvVerb,
    LeaseArgs, PutArgs, ReadChoice, ScanArgs, TxnArgs, WatchArgs,
};
use crate::trace;

/// Stands for standard input.
const STDIN: &str = "-";

/// Makes the operation and prints its answer. [`Exit::NotFound`]: a get found no key, or a compare-and-set not what
/// it expected.
pub async fn kv(connect: &ConnectArgs, args: KvArgs, out: &mut dyn Write) -> Result<Exit, VerbError> {
    let caller = Caller {
        user: args.user,
        origin: args.origin,
        deadline: Duration::from_millis(args.deadline_ms),
        read_mode: read_mode(args.read, args.staleness_ms),
        trace: None,
    };
    let mut verb = Verb {
        connect,
        caller,
        json: args.json,
        out,
    };
    match args.verb {
        KvVerb::Put(put) => verb.traced_put(put).await,
        KvVerb::Get(get) => verb.get(get).await,
        KvVerb::Delete(delete) => verb.delete(delete).await,
        KvVerb::Scan(scan) => verb.scan(scan).await,
        KvVerb::Cas(cas) => verb.compare_and_set(cas).await,
        KvVerb::History(history) => verb.history(history).await,
        KvVerb::Txn(txn) => verb.transact(txn).await,
        KvVerb::Lease(lease) => verb.lease(lease).await,
        KvVerb::Watch(watch) => verb.watch(watch).await,
        KvVerb::Compact(compact) => verb.compact(compact).await,
    }
}

/// A verb under way.
struct Verb<'a> {
    connect: &'a ConnectArgs,
    caller: Caller,
    json: bool,
    out: &'a mut dyn Write,
}

impl Verb<'_> {
    /// A put in a trace of its own, where the program tells spans.
    async fn traced_put(&mut self, put: PutArgs) -> Result<Exit, VerbError> {
        if let Err(reason) = trace::start("godwit-cli", "") {
            tracing::warn!(reason, "the put is not traced");
        }
        let root = trace::begin("kv put");
        self.caller.trace = root.as_ref().map(trace::Root::source);
        let written = self.put(put).await;
        if let Some(root) = root {
            root.end();
            trace::stop().await;
        }
        written
    }

    async fn put(&mut self, put: PutArgs) -> Result<Exit, VerbError> {
        let PutArgs {
            key,
            value,
            value_file,
            previous,
            lease,
        } = put;
        let value = match value_file {
            Some(path) => read_value(&path)?,
            None => value.unwrap_or_default().into_bytes(),
        };
        let wanted = wanted(previous);
        let client = self.open().await?.client;
        let written = match lease {
            Some(lease) => client.put_leased(key.clone(), value, lease).await,
            None => client.put_with(key.clone(), value, wanted).await,
        };
        let written = written.map_err(|error| unwritten(&key, error))?;
        if self.json {
            return self.print(&pairs::written_document(key.as_bytes(), &written).to_string());
        }
        self.print(&pairs::put_text(&written, wanted))
    }

    async fn get(&mut self, get: GetArgs) -> Result<Exit, VerbError> {
        let client = self.open().await?.client;
        let fetched = match get.revision {
            Some(revision) => client.get_at(get.key.clone(), revision).await,
            None => client.get(get.key.clone()).await,
        };
        let fetched = fetched.map_err(|source| unread(text::quoted(get.key.as_bytes()), source))?;
        if self.json {
            self.print(&pairs::fetched_document(get.key.as_bytes(), &fetched).to_string())?;
        } else if let Some(pair) = &fetched.pair {
            self.out.write_all(&pair.value)?;
            self.print("")?;
        }
        Ok(exit(fetched.pair.is_some()))
    }

    async fn delete(&mut self, delete: DeleteArgs) -> Result<Exit, VerbError> {
        let DeleteArgs { key, previous } = delete;
        let wanted = wanted(previous);
        let client = self.open().await?.client;
        let written = client.delete_with(key.clone(), wanted).await;
        let written = written.map_err(|error| unwritten(&key, error))?;
        if self.json {
            return self.print(&pairs::written_document(key.as_bytes(), &written).to_string());
        }
        self.print(&pairs::delete_text(&written, wanted))
    }

    async fn compare_and_set(&mut self, cas: CasArgs) -> Result<Exit, VerbError> {
        let CasArgs { key, value, expect } = cas;
        let client = self.open().await?.client;
        let swapped = client.compare_and_set(key.clone(), expected(expect), value).await;
        let swapped = swapped.map_err(|error| unwritten(&key, error))?;
        if self.json {
            self.print(&pairs::swapped_document(key.as_bytes(), &swapped).to_string())?;
        } else {
            self.print(&pairs::swapped_text(&swapped))?;
        }
        Ok(exit(swapped.applied))
    }

    async fn scan(&mut self, scan: ScanArgs) -> Result<Exit, VerbError> {
        let range = range_of(&scan);
        let limit = usize::try_from(scan.limit).unwrap_or(usize::MAX);
        let connected = self.open().await?;
        let unread = |source| unread(text::range(&range.start, &range.end), source);
        // One more than is shown, to know whether there are more.
        let wanted = limit.saturating_add(1);
        let found = match scan.revision {
            Some(revision) => connected
                .client
                .scan_at(range.clone(), wanted, revision)
                .map_err(unread)?,
            None => connected.client.scan(range.clone(), wanted),
        };
        let found = tokio::select! {
            biased;
            found = found.collect() => found,
            () = connected.deadline() => return Err(self.scan_deadline()),
        };
        let found = found.map_err(unread)?;
        let page = Page::new(found, limit, scan.keys_only);
        if self.json {
            return self.print(&page.document().to_string());
        }
        self.out.write_all(page.text().as_bytes())?;
        Ok(Exit::Ok)
    }

    async fn history(&mut self, history: KeyHistoryArgs) -> Result<Exit, VerbError> {
        let KeyHistoryArgs { key, limit, before } = history;
        let client = self.open().await?.client;
        let found = client.history(key.clone(), limit, before).await;
        let found = found.map_err(|source| unread(text::quoted(key.as_bytes()), source))?;
        if self.json {
            self.print(&pairs::versions_document(key.as_bytes(), &found).to_string())?;
        } else {
            self.out.write_all(pairs::versions_text(&found).as_bytes())?;
        }
        Ok(exit(!found.versions.is_empty()))
    }

    async fn transact(&mut self, txn: TxnArgs) -> Result<Exit, VerbError> {
        let document = read_value(&txn.file)?;
        let transaction = transaction::parse(&document).map_err(|reason| VerbError::Document {
            path: txn.file.clone(),
            reason,
        })?;
        let client = self.open().await?.client;
        let transacted = client.transact(transaction).await;
        let transacted = transacted.map_err(|error| failed_write("the transaction".to_owned(), error))?;
        if self.json {
            self.print(&pairs::transacted_document(&transacted).to_string())?;
        } else {
            self.out
                .write_all(pairs::transacted_text(&transacted).as_bytes())?;
        }
        Ok(exit(transacted.succeeded))
    }

    async fn lease(&mut self, lease: LeaseArgs) -> Result<Exit, VerbError> {
        let client = self.open().await?.client;
        let (exit, answer) = lease::answer(&client, lease.verb, self.json).await?;
        self.print(&answer)?;
        Ok(exit)
    }

    async fn watch(&mut self, watch: WatchArgs) -> Result<Exit, VerbError> {
        let client = self.open().await?.client;
        let form = Form {
            json: self.json,
            previous: watch.previous,
            progress: watch.progress,
        };
        watch::print(&client, watch, &form, self.out).await
    }

    async fn compact(&mut self, compact: CompactArgs) -> Result<Exit, VerbError> {
        let CompactArgs { key, revision } = compact;
        let client = self.open().await?.client;
        let written = client.compact(key.clone(), revision).await;
        let written = written.map_err(|error| unwritten(&key, error))?;
        if self.json {
            return self.print(&pairs::compacted_document(revision, written.revision).to_string());
        }
        self.print(&format!(
            "forgotten: what was superseded at or before revision {revision}, of {}",
            written.revision
        ))
    }

    async fn open(&self) -> Result<Connected, VerbError> {
        Connected::open(self.connect, &self.caller).await
    }

    fn print(&mut self, line: &str) -> Result<Exit, VerbError> {
        writeln!(self.out, "{line}")?;
        Ok(Exit::Ok)
    }

    fn scan_deadline(&self) -> VerbError {
        VerbError::ScanDeadline {
            deadline_ms: u64::try_from(self.caller.deadline.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

fn read_mode(choice: ReadChoice, staleness_ms: u32) -> ReadMode {
    match choice {
        ReadChoice::Index => ReadMode::Index,
        ReadChoice::Lease => ReadMode::Lease,
        ReadChoice::Follower => ReadMode::Follower,
        ReadChoice::Stale => ReadMode::Stale(Duration::from_millis(staleness_ms.into())),
    }
}

fn exit(found: bool) -> Exit {
    if found { Exit::Ok } else { Exit::NotFound }
}

fn wanted(previous: bool) -> Previous {
    match previous {
        true => Previous::Value,
        false => Previous::Existence,
    }
}

/// The parser lets exactly one of the three through.
fn expected(expect: CasExpect) -> Expect {
    match expect {
        CasExpect {
            if_value: Some(value),
            ..
        } => Expect::Value(value.into()),
        CasExpect {
            if_revision: Some(revision),
            ..
        } => Expect::Revision(revision),
        CasExpect { .. } => Expect::Absent,
    }
}

fn range_of(scan: &ScanArgs) -> KeyRange {
    match &scan.prefix {
        Some(prefix) => KeyRange::prefix(prefix.clone()),
        None => KeyRange {
            start: scan.start.clone().into(),
            end: scan.end.clone().into(),
        },
    }
}

fn read_value(path: &Path) -> Result<Vec<u8>, VerbError> {
    let read = if path == Path::new(STDIN) {
        let mut value = Vec::new();
        io::stdin().lock().read_to_end(&mut value).map(|_| value)
    } else {
        std::fs::read(path)
    };
    read.map_err(|source| VerbError::ValueFile {
        path: path.to_owned(),
        source,
    })
}

pub(super) fn unread(what: String, source: ReadError) -> VerbError {
    VerbError::Read { what, source }
}

pub(super) fn unwritten(key: &str, source: MutationError) -> VerbError {
    failed_write(text::quoted(key.as_bytes()), source)
}

fn failed_write(key: String, source: MutationError) -> VerbError {
    match source.is_outcome_unknown() {
        true => VerbError::UnknownOutcome { key, source },
        false => VerbError::Write { key, source },
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    /// Runs a command line to its end.
    async fn run(line: &[&str]) -> (Result<Exit, VerbError>, String) {
        let cli = Cli::try_parse_from([&["godwit", "kv"], line].concat()).unwrap();
        let Command::Kv(args) = cli.command else {
            panic!("{line:?}")
        };
        let mut out = Vec::new();
        let outcome = kv(&cli.connect, args, &mut out).await;
        (outcome, String::from_utf8(out).unwrap())
    }

    #[test]
    fn what_cas_expects_is_passed_on() {
        let expect = |if_value: Option<&str>, if_revision: Option<u64>| {
            expected(CasExpect {
                if_absent: if_value.is_none() && if_revision.is_none(),
                if_value: if_value.map(str::to_owned),
                if_revision,
            })
        };
        assert_eq!(expect(None, None), Expect::Absent);
        assert_eq!(
            expect(Some(""), None),
            Expect::Value("".into()),
            "an empty value is a value"
        );
        assert_eq!(expect(None, Some(0)), Expect::Revision(0));
    }

    #[test]
    fn a_prefix_is_a_range() {
        let scan = |start: &str, end: &str, prefix: Option<&str>| ScanArgs {
            start: start.into(),
            end: end.into(),
            prefix: prefix.map(str::to_owned),
            limit: 1,
            keys_only: false,
            revision: None,
        };
        assert_eq!(range_of(&scan("a", "c", None)), KeyRange::of("a".."c"));
        assert_eq!(range_of(&scan("", "", None)), KeyRange::all());
        assert_eq!(range_of(&scan("", "", Some("a/"))), KeyRange::of("a/".."a0"));
    }

    #[test]
    fn a_lost_write_says_to_look_first() {
        let lost = MutationError::UnknownOutcome {
            attempts: 2,
            cause: "a:1: connection reset".into(),
        };
        let text = unwritten("k\n", lost).to_string();
        assert!(
            text.contains(r#"whether "k\n" was written"#) && text.contains("Read it before"),
            "{text}"
        );
        let refused = MutationError::TooLarge {
            message: "5000 bytes of key, at most 4096".into(),
        };
        let text = unwritten("k", refused).to_string();
        assert_eq!(
            text,
            r#"cannot write "k": too large: 5000 bytes of key, at most 4096"#
        );
    }

    #[tokio::test]
    async fn an_unreadable_value_is_named_before_any_host_is_asked() {
        let line = [
            "put",
            "k",
            "--value-file",
            "no/such/file",
            "--connect",
            "127.0.0.1:1",
        ];
        let (outcome, out) = run(&line).await;
        let text = outcome.unwrap_err().to_string();
        assert!(
            text.starts_with("cannot read the value from no/such/file: "),
            "{text}"
        );
        assert_eq!(out, "");
    }

    #[tokio::test]
    async fn hosts_that_do_not_answer_are_named_within_the_deadline() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        for json in [&[][..], &["--json"]] {
            let line = [&["get", "k", "--deadline-ms", "50", "--connect", &address], json].concat();
            let (outcome, out) = run(&line).await;
            let text = outcome.unwrap_err().to_string();
            assert!(text.starts_with(&format!("no answer from {address}: ")), "{text}");
            assert_eq!(out, "", "nothing is printed of no answer");
        }
    }
}
