//! `godwit kv`: one operation on keys.
//!
//! Keys and values are the bytes of the argument. A value may also come from a file or, with `-`,
//! from standard input.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Flags shared by the key verbs, and the verb.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct KvArgs {
    /// User id to count the access under
    #[arg(long, global = true, value_name = "ID", default_value = "")]
    pub user: String,
    /// Zone the access comes from [default: the zone of the host reached first]
    #[arg(long, global = true, value_name = "ZONE", default_value = "")]
    pub origin: String,
    /// Give up after this long
    #[arg(long, global = true, value_name = "MS", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub deadline_ms: u64,
    /// How reads make sure that they miss nothing
    #[arg(long, global = true, value_enum, default_value_t = ReadChoice::Index)]
    pub read: ReadChoice,
    /// How old what is read may be, with --read stale
    #[arg(long, global = true, value_name = "MS", default_value_t = 5_000)]
    pub staleness_ms: u32,
    /// Answer as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// The operation.
    #[command(subcommand)]
    pub verb: KvVerb,
}

/// Who serves a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ReadChoice {
    /// The home, once a quorum has confirmed that it leads
    Index,
    /// The home, on the strength of its lease: clocks may differ by 10 % in rate
    Lease,
    /// A replica in the caller's zone, which asks the home
    Follower,
    /// A replica in the caller's zone, from what it knew --staleness-ms ago at most: not linearizable
    Stale,
}

/// The key verbs. All are linearizable, but for --read stale; a retried write is applied once.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum KvVerb {
    /// Write a key
    Put(PutArgs),
    /// Read a key; exits with 2 when it is absent
    Get(GetArgs),
    /// Delete a key
    Delete(DeleteArgs),
    /// Read the keys in [START, END) in order
    Scan(ScanArgs),
    /// Write a key if it still holds what you expect; exits with 2 when it does not
    Cas(CasArgs),
    /// List a key's versions, the newest first; exits with 2 when none can be read
    History(KeyHistoryArgs),
    /// Make a transaction of a JSON document; exits with 2 when its comparisons do not hold
    Txn(TxnArgs),
    /// Make, keep, end or look at a lease of a shard; exits with 2 when there is none
    Lease(LeaseArgs),
    /// Print changes as they are made, until interrupted or --count is reached
    Watch(WatchArgs),
    /// Forget what was superseded at or before a revision, in the whole shard that holds the key
    Compact(CompactArgs),
}

/// Flags of `kv put`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct PutArgs {
    /// The key
    pub key: String,
    /// The value
    #[arg(required_unless_present = "value_file")]
    pub value: Option<String>,
    /// Read the value from FILE; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "value")]
    pub value_file: Option<PathBuf>,
    /// Also print the value that was replaced
    #[arg(long)]
    pub previous: bool,
    /// The key is to hang on this lease of its shard
    #[arg(long, value_name = "ID", conflicts_with = "previous", value_parser = clap::value_parser!(u64).range(1..))]
    pub lease: Option<u64>,
}

/// Flags of `kv get`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct GetArgs {
    /// The key
    pub key: String,
    /// The key as it was at this revision of its shard
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    pub revision: Option<u64>,
}

/// Flags of `kv history`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct KeyHistoryArgs {
    /// The key
    pub key: String,
    /// At most this many versions
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// Only versions older than this revision
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    pub before: Option<u64>,
}

/// Flags of `kv txn`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct TxnArgs {
    /// The document, as {"if": [{"key": "a", "exists": true}], "then": [{"put": "a", "value": "1"}], "else":
    /// [{"get": "a"}]}; - is standard input. All keys lie in one shard
    pub file: PathBuf,
}

/// Flags of `kv lease`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct LeaseArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: LeaseVerb,
}

/// What can be done with leases. Each is of the shard that holds KEY, and only keys of that shard can hang on it.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum LeaseVerb {
    /// Make a lease, and print its id
    Grant {
        /// Any key of the shard
        key: String,
        /// How long it lasts without being kept, in milliseconds
        #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
        ttl_ms: u64,
        /// Its id [default: drawn at random]
        #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        id: Option<u64>,
    },
    /// Begin its length anew
    Keep(LeaseOf),
    /// End it, and delete the keys that hang on it
    Revoke(LeaseOf),
    /// Print its length, what is left of it, and its keys
    Status(LeaseOf),
}

/// A lease of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct LeaseOf {
    /// Any key of the shard
    pub key: String,
    /// The lease
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub id: u64,
}

/// Flags of `kv watch`. The deadline is that of its beginning.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct WatchArgs {
    /// The key, or the first of a range [default: all keys]
    #[arg(default_value = "", hide_default_value = true)]
    pub key: String,
    /// Key to stop before, to watch a range
    #[arg(conflicts_with = "prefix")]
    pub end: Option<String>,
    /// All keys that begin with KEY
    #[arg(long)]
    pub prefix: bool,
    /// Begin with the changes after this revision; the keys must lie in one shard [default: with what comes]
    #[arg(long, value_name = "REVISION")]
    pub after: Option<u64>,
    /// Also print what each key held before
    #[arg(long)]
    pub previous: bool,
    /// Also print how far the watch has come when there is nothing to tell
    #[arg(long)]
    pub progress: bool,
    /// End after this many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

/// Flags of `kv compact`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CompactArgs {
    /// Any key of the shard
    pub key: String,
    /// The oldest revision that can be read afterwards
    pub revision: u64,
}

/// Flags of `kv delete`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct DeleteArgs {
    /// The key
    pub key: String,
    /// Also print the value that was deleted
    #[arg(long)]
    pub previous: bool,
}

/// Flags of `kv scan`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ScanArgs {
    /// First key [default: the first of all]
    #[arg(default_value = "", hide_default_value = true)]
    pub start: String,
    /// Key to stop before [default: to the end]
    #[arg(default_value = "", hide_default_value = true)]
    pub end: String,
    /// All keys that begin with PREFIX
    #[arg(long, conflicts_with_all = ["start", "end"])]
    pub prefix: Option<String>,
    /// At most this many pairs
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// Print keys without values
    #[arg(long)]
    pub keys_only: bool,
    /// The range as it was at this revision; it must lie in one shard
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    pub revision: Option<u64>,
}

/// Flags of `kv cas`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CasArgs {
    /// The key
    pub key: String,
    /// The value to write
    pub value: String,
    /// What the key must hold.
    #[command(flatten)]
    pub expect: CasExpect,
}

/// What a compare-and-set expects; exactly one.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[group(required = true, multiple = false)]
pub struct CasExpect {
    /// The key must not exist
    #[arg(long)]
    pub if_absent: bool,
    /// The key must hold this value
    #[arg(long, value_name = "VALUE")]
    pub if_value: Option<String>,
    /// The key's last change must have this revision
    #[arg(long, value_name = "REVISION")]
    pub if_revision: Option<u64>,
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use clap::error::ErrorKind;

    use super::*;
    use crate::cli::{Cli, Command};

    fn kv(line: &[&str]) -> Result<KvArgs, ErrorKind> {
        match Cli::try_parse_from([&["godwit", "kv"], line].concat()) {
            Ok(Cli {
                command: Command::Kv(args),
                ..
            }) => Ok(args),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.kind()),
        }
    }

    fn verb(line: &[&str]) -> KvVerb {
        kv(line).unwrap().verb
    }

    #[test]
    fn put_takes_its_value_from_one_place() {
        let put = PutArgs {
            key: "k".into(),
            value: Some("v".into()),
            value_file: None,
            previous: false,
            lease: None,
        };
        assert_eq!(verb(&["put", "k", "v"]), KvVerb::Put(put.clone()));
        let from_file = PutArgs {
            value: None,
            value_file: Some("-".into()),
            previous: true,
            ..put
        };
        assert_eq!(
            verb(&["put", "k", "--value-file", "-", "--previous"]),
            KvVerb::Put(from_file)
        );
        assert_eq!(kv(&["put", "k"]), Err(ErrorKind::MissingRequiredArgument));
        assert_eq!(
            kv(&["put", "k", "v", "--value-file", "f"]),
            Err(ErrorKind::ArgumentConflict)
        );
    }

    #[test]
    fn shared_flags_follow_the_verb() {
        let args = kv(&[
            "get",
            "k",
            "--user",
            "u",
            "--origin",
            "z",
            "--deadline-ms",
            "5",
            "--json",
        ])
        .unwrap();
        assert_eq!(
            args.verb,
            KvVerb::Get(GetArgs {
                key: "k".into(),
                revision: None
            })
        );
        assert_eq!(
            (
                args.user.as_str(),
                args.origin.as_str(),
                args.deadline_ms,
                args.json
            ),
            ("u", "z", 5, true)
        );
        assert_eq!(
            kv(&["get", "k", "--deadline-ms", "0"]),
            Err(ErrorKind::ValueValidation)
        );
        assert_eq!(
            verb(&["delete", "k"]),
            KvVerb::Delete(DeleteArgs {
                key: "k".into(),
                previous: false
            })
        );
    }

    #[test]
    fn scan_takes_a_range_or_a_prefix() {
        let all = ScanArgs {
            start: String::new(),
            end: String::new(),
            prefix: None,
            limit: 100,
            keys_only: false,
            revision: None,
        };
        assert_eq!(verb(&["scan"]), KvVerb::Scan(all.clone()));
        let range = ScanArgs {
            start: "a".into(),
            end: "b".into(),
            limit: 7,
            ..all.clone()
        };
        assert_eq!(verb(&["scan", "a", "b", "--limit", "7"]), KvVerb::Scan(range));
        let prefix = ScanArgs {
            prefix: Some("p/".into()),
            keys_only: true,
            ..all
        };
        assert_eq!(
            verb(&["scan", "--prefix", "p/", "--keys-only"]),
            KvVerb::Scan(prefix)
        );
        assert_eq!(
            kv(&["scan", "a", "--prefix", "p"]),
            Err(ErrorKind::ArgumentConflict)
        );
    }

    #[test]
    fn cas_expects_exactly_one_thing() {
        let expect = |line: &[&str]| match verb(line) {
            KvVerb::Cas(args) => args.expect,
            other => panic!("{other:?}"),
        };
        let none = CasExpect {
            if_absent: false,
            if_value: None,
            if_revision: None,
        };
        assert_eq!(
            expect(&["cas", "k", "v", "--if-absent"]),
            CasExpect {
                if_absent: true,
                ..none.clone()
            }
        );
        let value = CasExpect {
            if_value: Some("old".into()),
            ..none.clone()
        };
        assert_eq!(expect(&["cas", "k", "v", "--if-value", "old"]), value);
        assert_eq!(
            expect(&["cas", "k", "v", "--if-revision", "9"]),
            CasExpect {
                if_revision: Some(9),
                ..none
            }
        );
        assert_eq!(kv(&["cas", "k", "v"]), Err(ErrorKind::MissingRequiredArgument));
        let two = kv(&["cas", "k", "v", "--if-absent", "--if-revision", "1"]);
        assert_eq!(two, Err(ErrorKind::ArgumentConflict));
    }
}
