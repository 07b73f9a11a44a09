//! `godwit backup`: make, check and bring back backups.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Flags shared by the backup verbs, and the verb.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct BackupArgs {
    /// Answer as JSON, for scripts
    #[arg(long, global = true)]
    pub json: bool,
    /// The verb.
    #[command(subcommand)]
    pub verb: BackupVerb,
}

/// The backup verbs.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum BackupVerb {
    /// Write what every shard holds, each as of one of its revisions, to a folder
    Create(BackupCreateArgs),
    /// Read a backup and say whether it is whole; needs no cluster
    Verify(BackupVerifyArgs),
    /// Write a backup's pairs into a cluster, of whatever size, and make sure that they are there
    Restore(BackupRestoreArgs),
}

/// Flags of `backup create`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    after_help = "A backup is consistent within each shard, not across shards: revisions are a shard's own."
)]
pub struct BackupCreateArgs {
    /// A folder that does not exist, or is empty
    pub folder: PathBuf,
    /// Write only what has changed since this backup, which may be an incremental itself
    #[arg(long, value_name = "DIR")]
    pub incremental_from: Option<PathBuf>,
    /// How long a shard is read at one revision before it goes on at a newer one; shards keep old versions for
    /// limits.retention_ms, 5 minutes unless set
    #[arg(long, value_name = "MS", default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(..=3_600_000))]
    pub piece_ms: u64,
}

/// Flags of `backup verify`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct BackupVerifyArgs {
    /// A full backup, then the incrementals upon it in their order
    #[arg(required = true, value_name = "DIR")]
    pub folders: Vec<PathBuf>,
}

/// Flags of `backup restore`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    after_help = "Revisions, versions and leases are not restored: the cluster counts its own. Keys that hung on a \
                        lease stay for good, unless --skip-leased leaves them out."
)]
pub struct BackupRestoreArgs {
    /// A full backup, then the incrementals upon it in their order
    #[arg(required = true, value_name = "DIR")]
    pub folders: Vec<PathBuf>,
    /// Also into a cluster that has keys: the backup's pairs replace those of the same keys, other keys stay
    #[arg(long)]
    pub into_non_empty: bool,
    /// Leave out keys that hung on a lease
    #[arg(long)]
    pub skip_leased: bool,
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use clap::error::ErrorKind;

    use super::*;
    use crate::cli::{Cli, Command};

    fn verb(line: &[&str]) -> Result<BackupVerb, ErrorKind> {
        match Cli::try_parse_from([&["godwit", "backup"], line].concat()) {
            Ok(Cli {
                command: Command::Backup(args),
                ..
            }) => Ok(args.verb),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.kind()),
        }
    }

    #[test]
    fn a_chain_is_named_in_its_order() {
        let expected = BackupRestoreArgs {
            folders: vec!["full".into(), "next".into()],
            into_non_empty: false,
            skip_leased: true,
        };
        assert_eq!(
            verb(&["restore", "full", "next", "--skip-leased", "--json"]),
            Ok(BackupVerb::Restore(expected))
        );
        assert_eq!(verb(&["restore"]), Err(ErrorKind::MissingRequiredArgument));
        assert_eq!(verb(&["verify"]), Err(ErrorKind::MissingRequiredArgument));
    }

    #[test]
    fn one_folder_is_made_at_a_time() {
        let expected = BackupCreateArgs {
            folder: "next".into(),
            incremental_from: Some("full".into()),
            piece_ms: 60_000,
        };
        assert_eq!(
            verb(&["create", "next", "--incremental-from", "full"]),
            Ok(BackupVerb::Create(expected))
        );
        assert_eq!(verb(&["create", "a", "b"]), Err(ErrorKind::UnknownArgument));
    }
}
