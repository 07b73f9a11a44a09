//! `godwit demo`: the main job on one machine.

use std::path::PathBuf;

use clap::Args;

use crate::config::PolicyName;

/// Flags of `godwit demo`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    after_help = "Six hosts in six zones and three regions run as processes of this binary, with real \
                        files and an emulated network between zones. The part of the trace before the \
                        measured slice trains the model; the slice is then replayed under each policy, each \
                        from the same placement. One host is killed on the way. At the end every \
                        acknowledged write is read back."
)]
pub struct DemoArgs {
    /// Measure 2 days of the trace instead of 7; ends within 3 minutes on two cores
    #[arg(long)]
    pub quick: bool,
    /// Trace to replay (CSV or CSV.zst: timestamp_ms,user_id,data_id,origin,op,size)
    #[arg(long, value_name = "FILE", requires = "zones")]
    pub trace: Option<PathBuf>,
    /// Zone and region of each origin of the trace (CSV: origin,zone,region,lat,lon)
    #[arg(long, value_name = "FILE")]
    pub zones: Option<PathBuf>,
    /// Policies to measure, in this order [default: all six]
    #[arg(long, value_name = "POLICY,POLICY", value_delimiter = ',', value_enum)]
    pub policies: Vec<PolicyName>,
    /// Key ranges to cut the trace's keys into
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub shards: u32,
    /// Seed of everything drawn by chance
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Folder for the hosts' data [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Write the results to FILE as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Write the results to FILE as one HTML page with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

impl DemoArgs {
    /// The policies to measure, each once, in order.
    pub fn policies(&self) -> Vec<PolicyName> {
        let asked = if self.policies.is_empty() {
            &PolicyName::ALL[..]
        } else {
            &self.policies
        };
        let mut policies = Vec::new();
        for policy in asked {
            if !policies.contains(policy) {
                policies.push(*policy);
            }
        }
        policies
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use clap::error::ErrorKind;

    use super::*;
    use crate::cli::{Cli, Command};

    fn demo(line: &[&str]) -> Result<DemoArgs, ErrorKind> {
        match Cli::try_parse_from([&["godwit", "demo"], line].concat()) {
            Ok(Cli {
                command: Command::Demo(args),
                ..
            }) => Ok(args),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.kind()),
        }
    }

    #[test]
    fn the_plain_demo_measures_every_policy() {
        let args = demo(&[]).unwrap();
        assert_eq!((args.quick, args.shards, args.seed), (false, 64, 1));
        assert_eq!(args.policies(), PolicyName::ALL);
    }

    #[test]
    fn every_flag_is_read() {
        let args = demo(&[
            "--quick",
            "--trace",
            "t.csv",
            "--zones",
            "z.csv",
            "--report",
            "r.json",
            "--html",
            "r.html",
            "--data-dir",
            "d",
            "--seed",
            "7",
            "--shards",
            "64",
            "--policies",
            "burn-model,static-hash,burn-model",
        ])
        .unwrap();
        assert_eq!(args.policies(), [PolicyName::BurnModel, PolicyName::StaticHash]);
        let expected = DemoArgs {
            quick: true,
            trace: Some("t.csv".into()),
            zones: Some("z.csv".into()),
            policies: vec![
                PolicyName::BurnModel,
                PolicyName::StaticHash,
                PolicyName::BurnModel,
            ],
            shards: 64,
            seed: 7,
            data_dir: Some("d".into()),
            report: Some("r.json".into()),
            html: Some("r.html".into()),
        };
        assert_eq!(args, expected);
    }

    #[test]
    fn bad_values_are_refused() {
        assert_eq!(demo(&["--policies", "best"]), Err(ErrorKind::InvalidValue));
        assert_eq!(demo(&["--shards", "0"]), Err(ErrorKind::ValueValidation));
        assert_eq!(
            demo(&["--trace", "t.csv"]),
            Err(ErrorKind::MissingRequiredArgument)
        );
    }
}
