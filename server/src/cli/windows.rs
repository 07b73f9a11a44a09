//! `godwit admin window`: when balancing and forecasts may start moves.

use clap::{Args, Subcommand};

/// Flags of `admin window`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct WindowArgs {
    /// The verb.
    #[command(subcommand)]
    pub verb: WindowVerb,
}

/// The verbs of `admin window`.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum WindowVerb {
    /// The windows, and whether one is open
    List,
    /// One more window; with any, balancing and forecasts start moves inside windows alone
    Add(WindowAddArgs),
    /// One window less; without any, they start at all hours
    Remove(WindowRemoveArgs),
}

/// A day of the week, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DayArg {
    /// Monday
    Mon,
    /// Tuesday
    Tue,
    /// Wednesday
    Wed,
    /// Thursday
    Thu,
    /// Friday
    Fri,
    /// Saturday
    Sat,
    /// Sunday
    Sun,
}

impl DayArg {
    /// Its name, as the protocol writes it.
    pub fn name(self) -> &'static str {
        match self {
            DayArg::Mon => "mon",
            DayArg::Tue => "tue",
            DayArg::Wed => "wed",
            DayArg::Thu => "thu",
            DayArg::Fri => "fri",
            DayArg::Sat => "sat",
            DayArg::Sun => "sun",
        }
    }
}

/// Flags of `admin window add`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct WindowAddArgs {
    /// The days on which it begins
    #[arg(long, value_enum, value_delimiter = ',', required = true)]
    pub days: Vec<DayArg>,
    /// When it begins, in UTC
    #[arg(long, value_name = "HH:MM", value_parser = parse_minute)]
    pub start: u32,
    /// How long it lasts; past midnight it goes on into the next day
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_440))]
    pub minutes: u32,
    /// Why, kept in the history
    #[arg(long, default_value = "")]
    pub reason: String,
}

/// Flags of `admin window remove`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct WindowRemoveArgs {
    /// Window id, as listed
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub window: u64,
    /// Why, kept in the history
    #[arg(long, default_value = "")]
    pub reason: String,
}

/// Minutes after midnight.
fn parse_minute(text: &str) -> Result<u32, String> {
    let parts = text.split_once(':');
    let numbers = parts.and_then(|(hour, minute)| Some((hour.parse().ok()?, minute.parse().ok()?)));
    match numbers {
        Some((hour @ 0..=23, minute @ 0..=59)) => Ok(hour * 60 + minute),
        _ => Err("must be a time of day such as 22:30".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use clap::error::ErrorKind;

    use super::*;
    use crate::cli::{AdminVerb, Cli, Command};

    fn window(line: &[&str]) -> Result<WindowVerb, ErrorKind> {
        match Cli::try_parse_from([&["godwit", "admin", "window"], line].concat()).map(|cli| cli.command) {
            Ok(Command::Admin(args)) => match args.verb {
                AdminVerb::Window(args) => Ok(args.verb),
                other => panic!("{other:?}"),
            },
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.kind()),
        }
    }

    #[test]
    fn a_window_names_days_begin_and_length() {
        let add = window(&["add", "--days", "mon,fri", "--start", "22:30", "--minutes", "90"]);
        let expected = WindowAddArgs {
            days: vec![DayArg::Mon, DayArg::Fri],
            start: 22 * 60 + 30,
            minutes: 90,
            reason: String::new(),
        };
        assert_eq!(add, Ok(WindowVerb::Add(expected)));
        let add = |start, minutes| window(&["add", "--days", "mon", "--start", start, "--minutes", minutes]);
        for (start, minutes) in [
            ("24:00", "1"),
            ("12", "1"),
            ("12:60", "1"),
            ("12:00", "0"),
            ("12:00", "1441"),
        ] {
            assert_eq!(
                add(start, minutes),
                Err(ErrorKind::ValueValidation),
                "{start} {minutes}"
            );
        }
        assert_eq!(window(&["list"]), Ok(WindowVerb::List));
        assert_eq!(window(&["remove", "0"]), Err(ErrorKind::ValueValidation));
    }
}
