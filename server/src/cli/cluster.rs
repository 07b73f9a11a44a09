//! The root of the command line, how verbs find a cluster, and `godwit init`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::{
    AdminArgs, BackupArgs, DemoArgs, KvArgs, ModelArgs, OfflinePlanArgs, PartitionArgs, ServeArgs, TopArgs,
};

/// A strongly consistent, sharded key-value store that moves its data to where it will be read.
#[derive(Debug, Clone, PartialEq, Parser)]
#[command(name = "godwit", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// Which hosts to talk to.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where a cluster can be found.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ConnectArgs {
    /// Addresses (host:port) of any hosts of the cluster, tried in order
    #[arg(
        long,
        global = true,
        env = "GODWIT_CONNECT",
        value_name = "ADDR,ADDR",
        value_delimiter = ',',
        value_parser = parse_address,
        default_value = "127.0.0.1:7420"
    )]
    pub connect: Vec<String>,
}

/// The verbs.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum Command {
    /// Run one host of a cluster until SIGTERM or Ctrl-C
    Serve(Box<ServeArgs>),
    /// Make a fresh host the first of a new cluster and cut the key space into shards
    Init(InitArgs),
    /// Read and write keys
    Kv(KvArgs),
    /// Look at a cluster and move shards
    Admin(AdminArgs),
    /// A live view: hosts, heat by zone, homes, migrations in flight, latency
    Top(TopArgs),
    /// Back a cluster up to a folder, check a backup and restore it
    Backup(BackupArgs),
    /// Propose where to cut the key space, from access logs or traces
    Partition(PartitionArgs),
    /// What placement would do, from files alone
    Plan(OfflinePlanArgs),
    /// Train placement models on logs, judge them and look at them
    Model(ModelArgs),
    /// Replay a real access trace on a cluster of six local hosts under every placement policy
    Demo(DemoArgs),
    /// Print what a shell needs to complete godwit's verbs and flags
    Completions(CompletionsArgs),
    /// Write a manual page for each verb into a folder
    Man(ManArgs),
}

/// Flags of `godwit completions`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CompletionsArgs {
    /// Which shell
    pub shell: clap_complete::Shell,
}

/// Flags of `godwit man`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ManArgs {
    /// The folder, e.g. ~/.local/share/man/man1; made where it is missing
    pub dir: PathBuf,
}

/// Flags of `godwit init`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    after_help = "Shards are contiguous key ranges, never hashes of keys. Where keys share a \
                        prefix, equal slices of the key space leave most shards empty: cut them with \
                        --split-at."
)]
pub struct InitArgs {
    /// How the key space is cut.
    #[command(flatten)]
    pub ranges: InitRanges,
    /// Replicas of each shard
    #[arg(long, value_name = "R", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=7))]
    pub replication_factor: u32,
    /// Create the shards once this many hosts have joined; 0: at once
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub hosts: u32,
}

/// At most one of the two. With neither there is one shard, which is split by itself once it is large, or much is asked of it.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[group(multiple = false)]
pub struct InitRanges {
    /// Cut the key space into N equal slices; without it, and without --split-at, there is one shard to begin with, which is
    /// split by itself as it grows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub shards: Option<u32>,
    /// Cut at the keys in FILE: one a line, in order, each the first key of a shard
    #[arg(long, value_name = "FILE")]
    pub split_at: Option<PathBuf>,
}

pub(super) fn parse_address(text: &str) -> Result<String, String> {
    let port = text
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty())
        .map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(1..)) => Ok(text.to_owned()),
        _ => Err("an address is host:port".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn refused(line: &[&str]) -> ErrorKind {
        Cli::try_parse_from(line).unwrap_err().kind()
    }

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn connect_is_global_and_a_list() {
        for line in [
            ["godwit", "--connect", "a:1,b:2", "admin", "hosts"],
            ["godwit", "admin", "hosts", "--connect", "a:1,b:2"],
        ] {
            assert_eq!(Cli::try_parse_from(line).unwrap().connect.connect, ["a:1", "b:2"]);
        }
        assert_eq!(
            refused(&["godwit", "--connect", "a", "admin", "hosts"]),
            ErrorKind::ValueValidation
        );
        assert_eq!(
            refused(&["godwit", "--connect", "a:0", "admin", "hosts"]),
            ErrorKind::ValueValidation
        );
    }

    #[test]
    fn init_takes_one_way_to_cut_at_most() {
        let init = |line: &[&str]| match Cli::try_parse_from(line).map(|cli| cli.command) {
            Ok(Command::Init(args)) => args,
            other => panic!("{other:?}"),
        };
        let args = init(&["godwit", "init", "--shards", "64", "--hosts", "3"]);
        assert_eq!(
            (args.ranges.shards, args.replication_factor, args.hosts),
            (Some(64), 3, 3)
        );
        let args = init(&[
            "godwit",
            "init",
            "--split-at",
            "keys",
            "--replication-factor",
            "5",
        ]);
        assert_eq!(
            (args.ranges.split_at, args.replication_factor),
            (Some("keys".into()), 5)
        );
        let args = init(&["godwit", "init"]);
        assert_eq!((args.ranges.shards, args.ranges.split_at), (None, None));
        assert_eq!(
            refused(&["godwit", "init", "--shards", "2", "--split-at", "keys"]),
            ErrorKind::ArgumentConflict
        );
        assert_eq!(
            refused(&["godwit", "init", "--shards", "0"]),
            ErrorKind::ValueValidation
        );
    }

    #[test]
    fn unknown_flags_and_verbs_are_refused() {
        for verb in [
            &["serve"][..],
            &["init"],
            &["kv", "get"],
            &["admin", "status"],
            &["backup", "verify", "d"],
            &["demo"],
            &["partition", "--log", "d"],
            &["model", "status", "m"],
        ] {
            let line: Vec<&str> = [&["godwit"], verb, &["--no-such-flag"]].concat();
            assert_eq!(refused(&line), ErrorKind::UnknownArgument, "{line:?}");
        }
        assert_eq!(refused(&["godwit", "frobnicate"]), ErrorKind::InvalidSubcommand);
    }
}
