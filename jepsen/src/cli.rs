//! What the `jepsen` program understands.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jepsen::simulate::FaultClass;
use jepsen::workload::WorkloadName;

/// What `--soak` stands for.
const SOAK_ROUNDS: u64 = 12;
const SOAK_SECONDS: u64 = 300;
const SOAK_SCHEDULES: u64 = 10_000;

/// Runs godwit clusters under faults, and judges what clients saw.
#[derive(Debug, Parser)]
#[command(name = "jepsen", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start hosts, load and torment them, and judge; exit code 0 only if all is ok
    Run(Box<RunArgs>),
    /// Run whole clusters in one process each, on simulated time, network and disks; exit code 0 only if all are ok
    Simulate(SimulateArgs),
    /// Turn on each seeded bug and see that something finds it; exit code 0 only if all are found
    Mutants(MutantsArgs),
    /// Judge once more what a run left in its folder
    Check {
        /// The folder
        folder: PathBuf,
    },
    /// The store itself, as `jepsen godwit serve ...`: taken apart before this program's own arguments
    #[command(disable_help_flag = true)]
    Godwit {
        /// Its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Workloads, with commas between: register, append, set, counter, scan, bank, lease [default: all]
    #[arg(long, value_delimiter = ',', value_parser = str::parse::<WorkloadName>)]
    pub(crate) workload: Vec<WorkloadName>,
    /// Nemeses, with commas between; `none` for a run without faults [default: the default mix]
    #[arg(long, value_delimiter = ',')]
    pub(crate) nemesis: Vec<String>,
    /// How long faults go on
    #[arg(long, value_name = "S", default_value_t = 60)]
    pub(crate) seconds: u64,
    /// Where every choice comes from [default: a random one, which is printed]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Where files go; must not exist, or be empty [default: jepsen-SEED]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Hosts
    #[arg(long, default_value_t = 5)]
    pub(crate) hosts: usize,
    /// Shards
    #[arg(long, default_value_t = 8)]
    pub(crate) shards: u32,
    /// Logical clients
    #[arg(long, default_value_t = 16)]
    pub(crate) clients: usize,
    /// Operations a second of all clients together; 0: as fast as it goes
    #[arg(long, default_value_t = 400)]
    pub(crate) rate: u64,
    /// How hosts are cut off from one another
    #[arg(long, value_enum, default_value_t = Network::Auto)]
    pub(crate) network: Network,
    /// The program that hosts run [default: this one, as `jepsen godwit`]
    #[arg(long, value_name = "PATH")]
    pub(crate) godwit: Option<String>,
    /// Rounds with consecutive seeds; more than one writes totals.json
    #[arg(long, default_value_t = 1)]
    pub(crate) rounds: u64,
    /// An hour: twelve rounds of five minutes
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    pub(crate) soak: bool,
}

impl RunArgs {
    pub(crate) fn rounds(&self) -> u64 {
        if self.soak { SOAK_ROUNDS } else { self.rounds }
    }

    pub(crate) fn seconds(&self) -> u64 {
        if self.soak { SOAK_SECONDS } else { self.seconds }
    }
}

#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    /// The one schedule to run, in this process
    #[arg(long, conflicts_with_all = ["schedules", "from", "seeds_file"])]
    pub(crate) seed: Option<u64>,
    /// Classes of fault, with commas between [default: those that the seed draws]
    #[arg(long, value_delimiter = ',', value_parser = FaultClass::named)]
    pub(crate) nemesis: Vec<FaultClass>,
    /// Where the schedule's history, events, verdict and page go
    #[arg(long, value_name = "DIR", requires = "seed")]
    pub(crate) out: Option<PathBuf>,
    /// Print the schedule's figures as JSON
    #[arg(long, requires = "seed")]
    pub(crate) json: bool,
    /// Schedules to run, each in a process of its own
    #[arg(long, default_value_t = 20)]
    pub(crate) schedules: u64,
    /// 10,000 schedules: some hours
    #[arg(long, conflicts_with_all = ["schedules", "seed"])]
    pub(crate) soak: bool,
    /// The first seed of several [default: a random one, which is printed]
    #[arg(long)]
    pub(crate) from: Option<u64>,
    /// A file with seeds to run before the others, one a line
    #[arg(long, value_name = "FILE")]
    pub(crate) seeds_file: Option<PathBuf>,
    /// Processes at a time
    #[arg(long, default_value_t = 2)]
    pub(crate) jobs: usize,
    /// Where the totals go, as JSON: what the file holds already counts too, so a soak may be run in pieces
    #[arg(long, value_name = "FILE")]
    pub(crate) totals: Option<PathBuf>,
}

impl SimulateArgs {
    pub(crate) fn schedules(&self) -> u64 {
        if self.soak { SOAK_SCHEDULES } else { self.schedules }
    }
}

#[derive(Debug, Args)]
pub(crate) struct MutantsArgs {
    /// Bugs, with commas between [default: all]
    #[arg(long, value_delimiter = ',')]
    pub(crate) bug: Vec<String>,
    /// Where the table goes, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// A program built with the feature `seeded-bugs` [default: it is built]
    #[arg(long, value_name = "PATH")]
    pub(crate) program: Option<PathBuf>,
    /// Where runs against processes leave their files
    #[arg(long, value_name = "DIR", default_value = "jepsen-mutants")]
    pub(crate) out: PathBuf,
    /// Simulations at a time
    #[arg(long, default_value_t = 2)]
    pub(crate) jobs: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    /// Whatever this machine can do
    Auto,
    /// Network namespaces; needs root
    Netns,
    /// Proxies in this process
    Proxy,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_named() {
        let parsed = Cli::try_parse_from(["jepsen", "run", "--workload", "register,scan"]).unwrap();
        let Command::Run(args) = parsed.command else {
            panic!("{parsed:?}")
        };
        assert_eq!(args.workload, [WorkloadName::Register, WorkloadName::Scan]);
        let refused = Cli::try_parse_from(["jepsen", "run", "--workload", "leases"]).unwrap_err();
        assert!(refused.to_string().contains("register, append"), "{refused}");
    }
}
