//! `godwit admin`: look at a cluster, move shards, take hosts out of service.

use clap::{Args, Subcommand};

use super::moment::{Moment, parse_moment};
use super::windows::WindowArgs;

/// Flags shared by the admin verbs, and the verb.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct AdminArgs {
    /// Answer as JSON, for scripts
    #[arg(long, global = true)]
    pub json: bool,
    /// The verb.
    #[command(subcommand)]
    pub verb: AdminVerb,
}

/// The admin verbs.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum AdminVerb {
    /// The cluster as the host reached sees it
    Status,
    /// Hosts: locality, state, load, space, alarms and the shards with the highest host affinity
    Hosts(HostsArgs),
    /// Shards: range, epoch, home, replicas and host affinity scores
    Shards(ShardsArgs),
    /// Replicas: what each has applied, and a fingerprint of its state, asked of every host
    Replicas(ReplicasArgs),
    /// What needs an operator: hosts without space (NOSPACE) and replicas that differ (CORRUPT), asked of every host
    Alarms,
    /// Compare what all replicas of a shard hold, at one entry of its log; reads everything, and raises CORRUPT
    Scrub(ScrubArgs),
    /// Migrations under way, with the reasons given for each
    Migrations(MigrationsArgs),
    /// Move one replica of a shard to another host; answers once the migration is in the log
    Move(MoveArgs),
    /// Move a shard's home to a host that has a voting replica of it
    Home(MoveHomeArgs),
    /// Give the upper part of a shard's range to a new shard; answers once the split is in the log
    Split(SplitArgs),
    /// Have a shard take over the keys of the next one, whose replicas are on the same hosts
    Merge(MergeArgs),
    /// What the placement log decided, newest last
    History(HistoryArgs),
    /// Keep new replicas and homes off a host; it keeps what it has
    Cordon(HostArgs),
    /// Open a host again that was cordoned or drained, or whose decommissioning has not ended
    Uncordon(HostArgs),
    /// Move a host's homes and replicas elsewhere; it stays a member
    Drain(LeaveArgs),
    /// Take a host out of the cluster for good, once what it holds is elsewhere; one that is down counts as dead
    Decommission(LeaveArgs),
    /// What each place is worth for a shard as things stand, and what forbids it; changes nothing
    Explain(ExplainArgs),
    /// What the planner would propose now, and what stands in the way of the rest; changes nothing
    Plan(PlanArgs),
    /// Stop what an origin proposes: nothing of it starts until `resume`; what has started goes on
    Pause(PauseArgs),
    /// Have a paused origin go on
    Resume(PauseArgs),
    /// Write down and measure what a forecast proposes, and do not carry it out, until `unshadow`
    Shadow(ShadowArgs),
    /// Carry out again what was in shadow
    Unshadow(ShadowArgs),
    /// Maintenance windows: the hours in which balancing and forecasts may start moves
    Window(WindowArgs),
    /// What moves were predicted to save and what they saved, and who has lost the right to propose by it
    Trust(TrustArgs),
    /// Give a migration up before its point of no return
    Cancel(CancelArgs),
    /// How much may be under way at once, and at what rate; with flags, change it
    Limits(LimitsArgs),
    /// What is left of a shard whose majority is on dead hosts; with --unsafe, have it go on from that
    Recover(RecoverArgs),
}

/// Flags of `admin explain`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ExplainArgs {
    /// Shard id
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub shard: u64,
}

/// Flags of `admin plan`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct PlanArgs {
    /// Only say what would be proposed; there is no other way yet, so it may be left out
    #[arg(long)]
    pub dry_run: bool,
    /// Plan replica sets as well as homes
    #[arg(long)]
    pub replicas: bool,
}

/// Who proposes moves. `all` is everybody but operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OriginArg {
    /// Forecasts
    Model,
    /// Uneven load
    Balance,
    /// Rules that do not hold, and shards that are too large
    Rule,
    /// Hosts that are being emptied
    Drain,
    /// Replicas that are lost or missing
    Repair,
    /// Operators: `admin move`, `home` and `split`
    Manual,
    /// All of these but manual
    All,
}

impl OriginArg {
    /// The names of the origins meant, as the protocol writes them.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            OriginArg::Model => &["model"],
            OriginArg::Balance => &["balance"],
            OriginArg::Rule => &["rule"],
            OriginArg::Drain => &["drain"],
            OriginArg::Repair => &["repair"],
            OriginArg::Manual => &["manual"],
            OriginArg::All => &["model", "balance", "rule", "drain", "repair"],
        }
    }
}

/// Flags of `admin pause` and `admin resume`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct PauseArgs {
    /// Whose proposals
    #[arg(value_enum, required = true)]
    pub origins: Vec<OriginArg>,
    /// Why, kept in the history
    #[arg(long, default_value = "")]
    pub reason: String,
}

/// Who proposes on a bet on the future.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BetArg {
    /// Forecasts
    Model,
    /// Uneven load, and what stands in for a forecast that may not propose
    Balance,
}

impl BetArg {
    /// Its name, as the protocol writes it.
    pub fn name(self) -> &'static str {
        match self {
            BetArg::Model => "model",
            BetArg::Balance => "balance",
        }
    }
}

/// Flags of `admin shadow` and `admin unshadow`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ShadowArgs {
    /// Whose proposals
    #[arg(value_enum, required = true)]
    pub origins: Vec<BetArg>,
    /// Why, kept in the history
    #[arg(long, default_value = "")]
    pub reason: String,
}

/// Flags of `admin trust`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct TrustArgs {
    /// Give the policies of this origin their right to propose back
    #[arg(long, value_enum, value_name = "ORIGIN")]
    pub restore: Option<BetArg>,
    /// Verdicts at most, the newest
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// Why, kept in the history
    #[arg(long, default_value = "", requires = "restore")]
    pub reason: String,
}

/// Flags of `admin cancel`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CancelArgs {
    /// Migration id
    pub migration: u64,
}

/// Flags of `admin limits`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct LimitsArgs {
    /// Replicas on their way to one host
    #[arg(long, value_name = "N")]
    pub moves_in: Option<u32>,
    /// Replicas on their way from one host
    #[arg(long, value_name = "N")]
    pub moves_out: Option<u32>,
    /// Home moves in the cluster
    #[arg(long, value_name = "N")]
    pub homes: Option<u32>,
    /// Windows between two replica moves of a shard on a forecast
    #[arg(long, value_name = "WINDOWS")]
    pub move_dwell: Option<u64>,
    /// Windows between two home moves of a shard on a forecast
    #[arg(long, value_name = "WINDOWS")]
    pub home_dwell: Option<u64>,
    /// A host that is down this long is declared dead
    #[arg(long, value_name = "MS")]
    pub dead_after: Option<u64>,
    /// Moves on a forecast that are judged together, by what they saved; 0: nobody loses the right to propose
    #[arg(long, value_name = "N")]
    pub trust_moves: Option<u32>,
    /// What they must have saved together, in parts per million of what was predicted
    #[arg(long, value_name = "PPM")]
    pub trust_share: Option<u32>,
    /// Windows over which a move is measured
    #[arg(long, value_name = "WINDOWS")]
    pub trust_windows: Option<u32>,
    /// How old an event of the history may get; 0: any age
    #[arg(long, value_name = "MS")]
    pub history_age: Option<u64>,
    /// Events of the history at most; older ones are only counted
    #[arg(long, value_name = "N")]
    pub history_events: Option<u32>,
    /// Bytes a second of the snapshots that leave a host, on every host: a number, 0 for as many as go, or `configured`
    /// for what each host is configured with
    #[arg(long, value_name = "BYTES", value_parser = parse_rate)]
    pub snapshot_rate: Option<RateArg>,
    /// The same of those that are part of a move, within that; voters that fell behind and replicas that replace lost ones
    /// are not held to it
    #[arg(long, value_name = "BYTES", value_parser = parse_rate)]
    pub move_rate: Option<RateArg>,
    /// Why, kept in the history
    #[arg(long, default_value = "")]
    pub reason: String,
}

/// A rate of snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateArg {
    /// What each host is configured with.
    Configured,
    /// Bytes a second; 0: as many as go.
    BytesPerS(u64),
}

fn parse_rate(text: &str) -> Result<RateArg, String> {
    match text {
        "configured" => Ok(RateArg::Configured),
        number => number
            .parse()
            .map(RateArg::BytesPerS)
            .map_err(|_| "must be a number of bytes a second, or `configured`".to_owned()),
    }
}

/// Flags of `admin recover`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RecoverArgs {
    /// Shard id
    pub shard: u64,
    /// Do it: what only the dead hosts had is lost, though it was acknowledged
    #[arg(long = "unsafe")]
    pub accept_loss: bool,
    /// Why, kept in the history
    #[arg(long, default_value = "", requires = "accept_loss")]
    pub reason: String,
}

/// Flags of `admin hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct HostsArgs {
    /// Also those that were decommissioned and have left for good
    #[arg(long)]
    pub all: bool,
}

/// Flags of `admin cordon` and `admin uncordon`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct HostArgs {
    /// Host id
    pub host: u64,
    /// Why, kept in the history
    #[arg(long, default_value = "")]
    pub reason: String,
}

/// Flags of `admin drain` and `admin decommission`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct LeaveArgs {
    /// Which host, and why.
    #[command(flatten)]
    pub host: HostArgs,
    /// Follow it until it is done; fails with what is stuck when the time is over
    #[arg(long)]
    pub wait: bool,
    /// How long to follow it; the cluster goes on afterwards
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "wait",
          value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub timeout: u64,
}

/// Flags of `admin shards`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ShardsArgs {
    /// This shard alone
    pub shard: Option<u64>,
}

/// Flags of `admin replicas`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ReplicasArgs {
    /// This shard alone; 0 is the placement group
    pub shard: Option<u64>,
}

/// Flags of `admin scrub`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ScrubArgs {
    /// This shard alone
    #[arg(long, value_name = "ID")]
    pub shard: Option<u64>,
    /// How long to wait for each shard; it is scrubbed to the end all the same
    #[arg(long, value_name = "SECONDS", default_value_t = 600,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

/// Flags of `admin migrations`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct MigrationsArgs {
    /// Also those that have ended
    #[arg(long)]
    pub all: bool,
    /// At most this many, newest first
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
}

/// Flags of `admin move`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct MoveArgs {
    /// Shard id
    pub shard: u64,
    /// Host id that gives its replica up
    #[arg(long, value_name = "HOST")]
    pub from: u64,
    /// Host id that receives the replica
    #[arg(long, value_name = "HOST")]
    pub to: u64,
    /// Why, kept in the history
    #[arg(long, default_value = "")]
    pub reason: String,
}

/// Flags of `admin home`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct MoveHomeArgs {
    /// Shard id
    pub shard: u64,
    /// Host id of the new home
    #[arg(long, value_name = "HOST")]
    pub to: u64,
    /// Why, kept in the history
    #[arg(long, default_value = "")]
    pub reason: String,
}

/// Flags of `admin split`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct SplitArgs {
    /// Shard id
    pub shard: u64,
    /// The new shard's first key; without it, where the data parts in two halves
    #[arg(long, value_name = "KEY", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub at: Option<String>,
    /// Why, kept in the history
    #[arg(long, default_value = "")]
    pub reason: String,
}

/// Flags of `admin merge`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct MergeArgs {
    /// Shard id; the shard after it ends
    pub shard: u64,
    /// Why, kept in the history
    #[arg(long, default_value = "")]
    pub reason: String,
}

/// Flags of `admin history`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct HistoryArgs {
    /// Events of this shard
    #[arg(long, value_name = "ID", conflicts_with_all = ["host", "migration"])]
    pub shard: Option<u64>,
    /// Events of this host
    #[arg(long, value_name = "ID", conflicts_with = "migration")]
    pub host: Option<u64>,
    /// Events of this migration
    #[arg(long, value_name = "ID")]
    pub migration: Option<u64>,
    /// From then on: so long ago (30m, 2h, 7d), or a time in UTC (2026-03-01T12:00:00Z)
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    pub since: Option<Moment>,
    /// Until then, as --since
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    pub until: Option<Moment>,
    /// How often everything happened, over all that ever did, instead of the events
    #[arg(long)]
    pub totals: bool,
    /// At most this many, the newest
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use clap::error::ErrorKind;

    use super::*;
    use crate::cli::{Cli, Command};

    fn admin(line: &[&str]) -> Result<AdminArgs, ErrorKind> {
        match Cli::try_parse_from([&["godwit", "admin"], line].concat()) {
            Ok(Cli {
                command: Command::Admin(args),
                ..
            }) => Ok(args),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.kind()),
        }
    }

    #[test]
    fn json_stands_before_or_after_the_verb() {
        assert!(admin(&["--json", "status"]).unwrap().json);
        assert!(admin(&["hosts", "--json"]).unwrap().json);
        assert_eq!(
            admin(&["status"]),
            Ok(AdminArgs {
                json: false,
                verb: AdminVerb::Status
            })
        );
    }

    #[test]
    fn origins_are_named_and_all_leaves_operators_out() {
        let Ok(AdminVerb::Pause(args)) = admin(&["pause", "model", "balance"]).map(|args| args.verb) else {
            panic!("refused");
        };
        let names: Vec<&str> = args
            .origins
            .iter()
            .flat_map(|origin| origin.names())
            .copied()
            .collect();
        assert_eq!(names, ["model", "balance"]);
        assert!(!OriginArg::All.names().contains(&"manual"));
        assert_eq!(admin(&["pause"]), Err(ErrorKind::MissingRequiredArgument));
        assert_eq!(admin(&["resume", "fortune"]), Err(ErrorKind::InvalidValue));
    }

    #[test]
    fn a_rate_is_a_number_or_as_configured() {
        let rate = |text| match admin(&["limits", "--snapshot-rate", text])?.verb {
            AdminVerb::Limits(args) => Ok(args.snapshot_rate),
            other => panic!("{other:?}"),
        };
        assert_eq!(rate("configured"), Ok(Some(RateArg::Configured)));
        assert_eq!(rate("1048576"), Ok(Some(RateArg::BytesPerS(1 << 20))));
        assert_eq!(rate("fast"), Err(ErrorKind::ValueValidation));
    }

    #[test]
    fn moves_name_their_hosts() {
        let args = admin(&["move", "7", "--from", "1", "--to", "4", "--reason", "drain"]).unwrap();
        let expected = MoveArgs {
            shard: 7,
            from: 1,
            to: 4,
            reason: "drain".into(),
        };
        assert_eq!(args.verb, AdminVerb::Move(expected));
        let home = MoveHomeArgs {
            shard: 7,
            to: 4,
            reason: String::new(),
        };
        assert_eq!(
            admin(&["home", "7", "--to", "4"]).unwrap().verb,
            AdminVerb::Home(home)
        );
        assert_eq!(
            admin(&["move", "7", "--to", "4"]),
            Err(ErrorKind::MissingRequiredArgument)
        );
        assert_eq!(
            admin(&["home", "seven", "--to", "4"]),
            Err(ErrorKind::ValueValidation)
        );
    }

    #[test]
    fn hosts_are_taken_out_of_service_by_name() {
        let host = |reason: &str| HostArgs {
            host: 4,
            reason: reason.into(),
        };
        let verb = |line: &[&str]| admin(line).map(|args| args.verb);
        assert_eq!(
            verb(&["cordon", "4", "--reason", "disk"]),
            Ok(AdminVerb::Cordon(host("disk")))
        );
        assert_eq!(verb(&["uncordon", "4"]), Ok(AdminVerb::Uncordon(host(""))));
        let leave = |wait, timeout| LeaveArgs {
            host: host(""),
            wait,
            timeout,
        };
        assert_eq!(verb(&["drain", "4"]), Ok(AdminVerb::Drain(leave(false, 600))));
        assert_eq!(
            verb(&["decommission", "4", "--wait", "--timeout", "30"]),
            Ok(AdminVerb::Decommission(leave(true, 30)))
        );
        assert_eq!(
            verb(&["drain", "4", "--timeout", "30"]),
            Err(ErrorKind::MissingRequiredArgument)
        );
        assert_eq!(verb(&["drain"]), Err(ErrorKind::MissingRequiredArgument));
        assert_eq!(
            verb(&["hosts", "--all"]),
            Ok(AdminVerb::Hosts(HostsArgs { all: true }))
        );
    }

    #[test]
    fn a_shard_is_recovered_by_force_only_where_the_loss_is_accepted() {
        let verb = |line: &[&str]| admin(line).map(|args| args.verb);
        let recover = |accept_loss, reason: &str| {
            Ok(AdminVerb::Recover(RecoverArgs {
                shard: 7,
                accept_loss,
                reason: reason.into(),
            }))
        };
        assert_eq!(verb(&["recover", "7"]), recover(false, ""));
        assert_eq!(
            verb(&["recover", "7", "--unsafe", "--reason", "fire"]),
            recover(true, "fire")
        );
        assert_eq!(
            verb(&["recover", "7", "--reason", "fire"]),
            Err(ErrorKind::MissingRequiredArgument)
        );
    }

    #[test]
    fn listings_are_narrowed_and_bounded() {
        let scrub = ScrubArgs {
            shard: Some(3),
            timeout: 600,
        };
        assert_eq!(
            admin(&["scrub", "--shard", "3"]).unwrap().verb,
            AdminVerb::Scrub(scrub)
        );
        assert_eq!(
            admin(&["scrub", "--timeout", "0"]),
            Err(ErrorKind::ValueValidation)
        );
        assert_eq!(
            admin(&["shards", "3"]).unwrap().verb,
            AdminVerb::Shards(ShardsArgs { shard: Some(3) })
        );
        assert_eq!(
            admin(&["replicas", "0"]).unwrap().verb,
            AdminVerb::Replicas(ReplicasArgs { shard: Some(0) })
        );
        let migrations = MigrationsArgs { all: true, limit: 50 };
        assert_eq!(
            admin(&["migrations", "--all"]).unwrap().verb,
            AdminVerb::Migrations(migrations)
        );
        let history = HistoryArgs {
            shard: None,
            host: Some(2),
            migration: None,
            since: None,
            until: None,
            totals: false,
            limit: 9,
        };
        let args = admin(&["history", "--host", "2", "--limit", "9"]).unwrap();
        assert_eq!(args.verb, AdminVerb::History(history));
        assert_eq!(
            admin(&["history", "--host", "2", "--shard", "1"]),
            Err(ErrorKind::ArgumentConflict)
        );
        assert_eq!(
            admin(&["history", "--limit", "0"]),
            Err(ErrorKind::ValueValidation)
        );
    }
}
