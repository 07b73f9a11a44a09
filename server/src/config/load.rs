//! Layers a [`HostConfig`]: defaults, then the file, then the environment, then flags.
//!
//! Each environment variable and each flag is its own layer, so that figment can say which one a bad
//! value came from. `GODWIT_LIMITS__KEY_BYTES_MAX` is `limits.key_bytes_max`: two underscores step
//! into a section. A text takes the type its field has by default, so a zone named `1` stays a text;
//! lists are separated by commas.

use std::fmt;
use std::path::{Path, PathBuf};

use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::HostConfig;

const ENV_PREFIX: &str = "GODWIT_";
/// Read by the command line itself; no fields of a host.
const ENV_OF_THE_COMMAND_LINE: [&str; 2] = ["CONFIG", "CONNECT"];

/// One value given outside the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The field's path, sections separated by dots (`limits.key_bytes_max`).
    pub field: String,
    /// Where it was given, for errors: `flag --zone`.
    pub source: String,
    /// Its text; lists are separated by commas.
    pub text: String,
}

/// One wrong value: which field, where it came from, what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The field's path; empty when a whole source is wrong.
    pub field: String,
    /// The file, environment variable or flag; `default` when nothing set it.
    pub source: String,
    /// What is wrong, to be read after the field's name.
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            return write!(f, "{} (from {})", self.problem, self.source);
        }
        write!(f, "{}: {} (from {})", self.field, self.problem, self.source)
    }
}

/// Why a configuration cannot be used. Nothing has been opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file named on the command line or by `GODWIT_CONFIG` is not there or is no file.
    #[error("the configuration file {} does not exist", .0.display())]
    NoFile(PathBuf),
    /// A source holds an unknown key, a value of the wrong type or no TOML.
    #[error("the configuration cannot be read:{}", list(.0))]
    Unreadable(Vec<Fault>),
    /// Values that break a rule.
    #[error("the configuration is invalid:{}", list(.0))]
    Invalid(Vec<Fault>),
}

fn list(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}

/// Loads and checks a host's configuration: `defaults`, and what the sources say otherwise. `environment` is the process
/// environment (variables without the `GODWIT_` prefix are passed over); `flags` win over all else.
pub fn load(
    defaults: HostConfig,
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[Setting],
) -> Result<HostConfig, ConfigError> {
    let mut figment = Figment::from(Serialized::defaults(defaults));
    if let Some(path) = file {
        if !path.is_file() {
            return Err(ConfigError::NoFile(path.to_owned()));
        }
        figment = figment.merge(Toml::file_exact(path));
    }
    let defaults = figment.clone();
    for setting in environment_settings(environment).iter().chain(flags) {
        figment = figment.merge(Layer::new(&defaults, setting));
    }
    let config: HostConfig = figment.extract().map_err(|error| unreadable(&figment, error))?;
    check(&figment, &config)?;
    Ok(config)
}

fn check(figment: &Figment, config: &HostConfig) -> Result<(), ConfigError> {
    let faults: Vec<Fault> = config
        .breaches()
        .into_iter()
        .map(|breach| Fault {
            field: breach.field.to_owned(),
            source: source_of(figment, breach.field),
            problem: breach.problem,
        })
        .collect();
    if faults.is_empty() {
        Ok(())
    } else {
        Err(ConfigError::Invalid(faults))
    }
}

fn environment_settings(environment: impl IntoIterator<Item = (String, String)>) -> Vec<Setting> {
    let mut settings: Vec<Setting> = environment
        .into_iter()
        .filter_map(|(name, text)| {
            let key = name.strip_prefix(ENV_PREFIX)?;
            let passed_over = ENV_OF_THE_COMMAND_LINE.contains(&key);
            let field = key.to_ascii_lowercase().replace("__", ".");
            let source = format!("environment variable {name}");
            (!passed_over).then_some(Setting { field, source, text })
        })
        .collect();
    settings.sort_by(|a, b| a.field.cmp(&b.field));
    settings
}

/// A layer of one value, named after its source.
struct Layer {
    source: String,
    values: Dict,
}

impl Layer {
    fn new(defaults: &Figment, setting: &Setting) -> Self {
        let typed = match defaults.find_value(&setting.field) {
            Ok(Value::Num(..) | Value::Bool(..)) => parse_scalar(&setting.text),
            Ok(Value::Array(..)) => parse_list(&setting.text),
            _ => Value::from(setting.text.as_str()),
        };
        let nested = figment::util::nest(&setting.field, typed);
        Layer {
            source: setting.source.clone(),
            values: nested.into_dict().unwrap_or_default(),
        }
    }
}

/// What cannot be parsed stays a text, which the field then refuses with its own message.
fn parse_scalar(text: &str) -> Value {
    if let Ok(number) = text.trim().parse::<u64>() {
        return Value::from(number);
    }
    match text.trim() {
        "true" => Value::from(true),
        "false" => Value::from(false),
        _ => Value::from(text),
    }
}

fn parse_list(text: &str) -> Value {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    Value::from(items.map(Value::from).collect::<Vec<Value>>())
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.source.clone())
    }

    fn data(&self) -> figment::error::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

fn unreadable(figment: &Figment, error: figment::Error) -> ConfigError {
    let fault = |error: figment::Error| {
        let field = error.path.join(".");
        let source = match &error.metadata {
            Some(metadata) => describe(metadata),
            None => source_of(figment, &field),
        };
        Fault {
            field,
            source,
            problem: error.kind.to_string(),
        }
    };
    ConfigError::Unreadable(error.into_iter().map(fault).collect())
}

fn source_of(figment: &Figment, field: &str) -> String {
    figment
        .find_metadata(field)
        .map_or_else(|| "default".to_owned(), describe)
}

fn describe(metadata: &Metadata) -> String {
    if metadata.name.contains("HostConfig") {
        return "default".to_owned();
    }
    match metadata.source.as_ref().and_then(|source| source.file_path()) {
        Some(path) => format!("file {}", path.display()),
        None => metadata.name.clone().into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::config::{BalancerConfig, PolicyName, TracingFormat};

    /// From the ordinary defaults.
    fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[Setting],
    ) -> Result<HostConfig, ConfigError> {
        super::load(HostConfig::default(), file, environment, flags)
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect()
    }

    fn flag(field: &str, text: &str) -> Setting {
        Setting {
            field: field.into(),
            source: format!("flag --{field}"),
            text: text.into(),
        }
    }

    #[test]
    fn each_layer_overrides_the_one_before() {
        let file = file(
            "zone = \"file\"\nregion = \"file\"\nlisten = \"127.0.0.1:1\"\n[raft]\nheartbeat_ms = 100\n",
        );
        let env = env(&[
            ("GODWIT_REGION", "env"),
            ("GODWIT_LISTEN", "127.0.0.1:2"),
            ("HOME", "/root"),
        ]);
        let config = load(Some(file.path()), env, &[flag("listen", "127.0.0.1:3")]).unwrap();
        assert_eq!(config.zone, "file");
        assert_eq!(config.region, "env");
        assert_eq!(config.listen, "127.0.0.1:3");
        assert_eq!(config.raft.heartbeat_ms, 100);
        assert_eq!(config.raft.election_min_ms, 1_000);
        assert_eq!(config.data_dir, PathBuf::from("godwit-data"));
    }

    #[test]
    fn the_environment_takes_the_types_of_the_fields() {
        let env = env(&[
            ("GODWIT_ZONE", "1"),
            ("GODWIT_JOIN", "a:1, b:2"),
            ("GODWIT_LIMITS__KEY_BYTES_MAX", "512"),
            ("GODWIT_BALANCER__ENABLED", "false"),
            ("GODWIT_BALANCER__POLICY", "last-window"),
            ("GODWIT_TRACING__FORMAT", "json"),
            ("GODWIT_ADVERTISE", "host.example:9"),
            ("GODWIT_CONNECT", "passed:1"),
        ]);
        let config = load(None, env, &[]).unwrap();
        assert_eq!(config.zone, "1");
        assert_eq!(config.join, ["a:1", "b:2"]);
        assert_eq!(config.limits.key_bytes_max, 512);
        assert!(!config.balancer.enabled);
        assert_eq!(config.balancer.policy, PolicyName::LastWindow);
        assert_eq!(config.tracing.format, TracingFormat::Json);
        assert_eq!(config.advertise.as_deref(), Some("host.example:9"));
    }

    fn only_fault(error: ConfigError) -> Fault {
        let (ConfigError::Unreadable(faults) | ConfigError::Invalid(faults)) = error else {
            panic!("no list of faults: {error}");
        };
        let [fault] = <[Fault; 1]>::try_from(faults).unwrap();
        fault
    }

    #[test]
    fn unknown_keys_name_their_source() {
        let file = file("[limits]\nkey_bytes = 1\n");
        let fault = only_fault(load(Some(file.path()), env(&[]), &[]).unwrap_err());
        assert!(fault.problem.contains("key_bytes"), "{fault}");
        assert_eq!(fault.source, format!("file {}", file.path().display()));

        let fault = only_fault(load(None, env(&[("GODWIT_LIMIT__KEY", "1")]), &[]).unwrap_err());
        assert!(fault.problem.contains("limit"), "{fault}");
        assert_eq!(fault.source, "environment variable GODWIT_LIMIT__KEY");

        let fault = only_fault(load(None, env(&[]), &[flag("raft.heartbeat", "1")]).unwrap_err());
        assert_eq!(fault.source, "flag --raft.heartbeat");
    }

    #[test]
    fn wrong_types_name_field_and_source() {
        let env = env(&[("GODWIT_RAFT__HEARTBEAT_MS", "fast")]);
        let fault = only_fault(load(None, env, &[]).unwrap_err());
        assert_eq!(fault.field, "raft.heartbeat_ms");
        assert_eq!(fault.source, "environment variable GODWIT_RAFT__HEARTBEAT_MS");
        assert!(fault.problem.contains("fast"), "{fault}");

        let file = file("balancer.policy = \"best\"\n");
        let fault = only_fault(load(Some(file.path()), [], &[]).unwrap_err());
        assert_eq!(fault.field, "balancer.policy");
        assert!(fault.problem.contains("best"), "{fault}");
    }

    #[test]
    fn broken_rules_name_field_and_source() {
        let file = file("zone = \"a b\"\n");
        let fault = only_fault(load(Some(file.path()), [], &[]).unwrap_err());
        assert_eq!(
            (fault.field.as_str(), fault.source.starts_with("file ")),
            ("zone", true)
        );

        let fault = only_fault(load(None, [], &[flag("capacity_bytes", "7")]).unwrap_err());
        assert_eq!(
            (fault.field.as_str(), fault.source.as_str()),
            ("capacity_bytes", "flag --capacity_bytes")
        );

        let fault = only_fault(load(None, [], &[flag("raft.heartbeat_ms", "400")]).unwrap_err());
        assert_eq!(
            (fault.field.as_str(), fault.source.as_str()),
            ("raft.election_min_ms", "default")
        );
    }

    #[test]
    fn a_file_that_is_absent_or_no_toml_is_an_error() {
        let absent = Path::new("/nonexistent/godwit.toml");
        assert!(matches!(load(Some(absent), [], &[]), Err(ConfigError::NoFile(path)) if path == absent));
        let file = file("zone = \n");
        assert!(matches!(
            load(Some(file.path()), [], &[]),
            Err(ConfigError::Unreadable(_))
        ));
    }

    #[test]
    fn what_is_printed_loads_as_the_same() {
        let balancer = BalancerConfig {
            policy: PolicyName::BurnModel,
            model_file: Some("m.bin".into()),
            ..BalancerConfig::default()
        };
        let config = HostConfig {
            advertise: Some("a.example:1".into()),
            join: vec!["b:2".into()],
            balancer,
            ..HostConfig::default()
        };
        for config in [HostConfig::default(), config] {
            let file = file(&toml::to_string(&config).unwrap());
            assert_eq!(load(Some(file.path()), [], &[]).unwrap(), config);
        }
    }
}
