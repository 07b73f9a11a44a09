//! `godwit serve`: the flags, and how they become configuration settings.
//!
//! The common fields have a flag of their own; every other field of
//! [`HostConfig`](crate::config::HostConfig) is reached with `--set`.

use std::path::PathBuf;

use clap::Args;

use crate::config::{Setting, TracingFormat};

/// Flags of `godwit serve`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
#[command(
    after_help = "Order of precedence: flags, GODWIT_* environment variables, the file, defaults.\n\
                        GODWIT_LIMITS__KEY_BYTES_MAX is the field limits.key_bytes_max.\n\
                        --print-config shows every field with the value in force."
)]
pub struct ServeArgs {
    /// Configuration file (TOML); unknown keys are refused
    #[arg(long, value_name = "FILE", env = "GODWIT_CONFIG")]
    pub config: Option<PathBuf>,
    /// Folder of this host's data
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Address others are told to use [default: the bound listen address]
    #[arg(long, value_name = "ADDR")]
    pub advertise: Option<String>,
    /// Zone (fault domain) this host stands in
    #[arg(long)]
    pub zone: Option<String>,
    /// Region the zone lies in
    #[arg(long)]
    pub region: Option<String>,
    /// Hosts of the cluster to join, tried in order
    #[arg(long, value_name = "ADDR,ADDR")]
    pub join: Option<String>,
    /// Bytes of shard data the planner may place here
    #[arg(long, value_name = "BYTES")]
    pub capacity_bytes: Option<String>,
    /// Round-trip times between zones to emulate (CSV zone,zone,micros or JSON)
    #[arg(long, value_name = "FILE", requires = "rtt_addresses")]
    pub rtt_matrix: Option<String>,
    /// Zone of each address, for --rtt-matrix (CSV address,zone)
    #[arg(long, value_name = "FILE", requires = "rtt_matrix")]
    pub rtt_addresses: Option<String>,
    /// Address of the HTTP endpoint with /metrics, /healthz and /readyz [default: none]
    #[arg(long, value_name = "ADDR")]
    pub listen_metrics: Option<String>,
    /// Form of log lines
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub log_format: Option<TracingFormat>,
    /// Which log events: info, or directives such as info,raft=debug
    #[arg(long, value_name = "FILTER")]
    pub log_filter: Option<String>,
    /// Set any other field, e.g. --set limits.value_bytes_max=65536; may be repeated
    #[arg(long = "set", value_name = "FIELD=VALUE", value_parser = parse_assignment)]
    pub assignments: Vec<(String, String)>,
    /// Print the configuration in force as TOML and exit
    #[arg(long)]
    pub print_config: bool,
}

impl ServeArgs {
    /// The flags as settings for [`config::load`](crate::config::load), `--set` last.
    pub fn settings(&self) -> Vec<Setting> {
        let format = self.log_format.map(|format| match format {
            TracingFormat::Text => "text".to_owned(),
            TracingFormat::Json => "json".to_owned(),
        });
        let named = [
            ("--data-dir", "data_dir", &self.data_dir),
            ("--listen", "listen", &self.listen),
            ("--advertise", "advertise", &self.advertise),
            ("--zone", "zone", &self.zone),
            ("--region", "region", &self.region),
            ("--join", "join", &self.join),
            ("--capacity-bytes", "capacity_bytes", &self.capacity_bytes),
            ("--rtt-matrix", "emulation.rtt_matrix", &self.rtt_matrix),
            ("--rtt-addresses", "emulation.addresses", &self.rtt_addresses),
            ("--listen-metrics", "monitoring.listen", &self.listen_metrics),
            ("--log-format", "tracing.format", &format),
            ("--log-filter", "tracing.filter", &self.log_filter),
        ];
        let named = named.into_iter().filter_map(|(flag, field, text)| {
            text.clone()
                .map(|text| setting(field, format!("flag {flag}"), text))
        });
        let assigned = self
            .assignments
            .iter()
            .map(|(field, text)| setting(field, "flag --set".to_owned(), text.clone()));
        named.chain(assigned).collect()
    }
}

fn setting(field: &str, source: String, text: String) -> Setting {
    Setting {
        field: field.to_owned(),
        source,
        text,
    }
}

fn parse_assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((field, value)) if !field.is_empty() => Ok((field.to_owned(), value.to_owned())),
        _ => Err("must be FIELD=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::config::{self, ConfigError, HostConfig};

    fn serve(flags: &[&str]) -> ServeArgs {
        match Cli::try_parse_from([&["godwit", "serve"], flags].concat()).map(|cli| cli.command) {
            Ok(Command::Serve(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_flag_reaches_its_field() {
        let args = serve(&[
            "--data-dir",
            "d",
            "--listen",
            "127.0.0.1:0",
            "--advertise",
            "h:1",
            "--zone",
            "z",
            "--region",
            "r",
            "--join",
            "a:1,b:2",
            "--capacity-bytes",
            "2000000",
            "--rtt-matrix",
            "m",
            "--rtt-addresses",
            "n",
            "--listen-metrics",
            "127.0.0.1:9",
            "--log-format",
            "json",
            "--log-filter",
            "debug",
            "--set",
            "limits.key_bytes_max=99",
        ]);
        let config = config::load(HostConfig::default(), None, [], &args.settings()).unwrap();
        assert_eq!(config.data_dir, PathBuf::from("d"));
        assert_eq!(config.listen, "127.0.0.1:0");
        assert_eq!(config.advertise.as_deref(), Some("h:1"));
        assert_eq!((config.zone.as_str(), config.region.as_str()), ("z", "r"));
        assert_eq!(config.join, ["a:1", "b:2"]);
        assert_eq!(config.capacity_bytes, 2_000_000);
        assert_eq!(config.emulation.rtt_matrix, Some("m".into()));
        assert_eq!(config.emulation.addresses, Some("n".into()));
        assert_eq!(config.monitoring.listen.as_deref(), Some("127.0.0.1:9"));
        assert_eq!(config.tracing.format, TracingFormat::Json);
        assert_eq!(config.tracing.filter, "debug");
        assert_eq!(config.limits.key_bytes_max, 99);
    }

    #[test]
    fn an_unknown_field_in_set_is_refused_with_its_flag() {
        let settings = serve(&["--set", "limits.keys=1"]).settings();
        let Err(ConfigError::Unreadable(faults)) = config::load(HostConfig::default(), None, [], &settings)
        else {
            panic!("accepted");
        };
        assert_eq!(faults[0].source, "flag --set");
        assert!(Cli::try_parse_from(["godwit", "serve", "--set", "zone"]).is_err());
        assert!(Cli::try_parse_from(["godwit", "serve", "--rtt-matrix", "m"]).is_err());
    }
}
