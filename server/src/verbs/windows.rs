//! `godwit admin window`: the hours in which balancing and forecasts may start moves.

use client::proto::{ChangeWindowsRequest, MaintenanceWindow, WindowsReply};
use serde_json::{Value, json};

use super::VerbError;
use super::admin::Operator;
use super::documents::each;
use super::listing::Listing;
use super::text::{self, escaped, numbers, utc, words};
use crate::cli::{WindowAddArgs, WindowArgs, WindowRemoveArgs, WindowVerb};

impl Operator<'_> {
    /// Lists the windows, after the change that is asked for.
    pub(super) async fn windows(&self, args: WindowArgs) -> Result<Listing, VerbError> {
        let change = match args.verb {
            WindowVerb::List => None,
            WindowVerb::Add(args) => Some(added(args)),
            WindowVerb::Remove(WindowRemoveArgs { window, reason }) => Some(ChangeWindowsRequest {
                remove: window,
                reason,
                ..ChangeWindowsRequest::default()
            }),
        };
        if let Some(change) = change {
            let reply = self.calls.change_windows(change).await.map_err(self.failed())?;
            if !reply.refused.is_empty() {
                return Err(VerbError::Refused {
                    message: reply.refused,
                });
            }
        }
        let reply = self.calls.windows().await.map_err(self.failed())?;
        Ok(Listing::Windows(reply))
    }
}

fn added(args: WindowAddArgs) -> ChangeWindowsRequest {
    let days = args.days.iter().map(|day| day.name().to_owned());
    ChangeWindowsRequest {
        add: Some(MaintenanceWindow {
            days: days.collect(),
            start_minute: args.start,
            minutes: args.minutes,
            ..MaintenanceWindow::default()
        }),
        reason: args.reason,
        ..ChangeWindowsRequest::default()
    }
}

pub(super) fn windows_text(told: &WindowsReply) -> String {
    if told.windows.is_empty() {
        return "no maintenance windows: balancing and forecasts start moves at all hours".to_owned();
    }
    let columns = [
        numbers("window"),
        words("days"),
        words("from (UTC)"),
        numbers("minutes"),
        words("open"),
    ];
    let row = |window: &MaintenanceWindow| {
        [
            window.window_id.to_string(),
            escaped(window.days.join(",").as_bytes()),
            format!("{:02}:{:02}", window.start_minute / 60, window.start_minute % 60),
            window.minutes.to_string(),
            if window.open { "yes" } else { "no" }.to_owned(),
        ]
    };
    let state = match told.open {
        true => "may start moves",
        false => "wait",
    };
    format!(
        "{}\n\nit is {}: balancing and forecasts {state}; all else never waits",
        text::table(columns, told.windows.iter().map(row)),
        utc(told.now_ms)
    )
}

pub(super) fn windows_document(told: &WindowsReply) -> Value {
    let window = |window: &MaintenanceWindow| {
        json!({
            "window_id": window.window_id,
            "days": window.days,
            "start_minute": window.start_minute,
            "minutes": window.minutes,
            "open": window.open,
        })
    };
    json!({ "windows": each(&told.windows, window), "open": told.open, "now_ms": told.now_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_told_with_whether_one_is_open() {
        let told = WindowsReply {
            windows: vec![MaintenanceWindow {
                window_id: 9,
                days: vec!["mon".into(), "tue".into()],
                start_minute: 22 * 60 + 5,
                minutes: 360,
                open: false,
            }],
            open: false,
            now_ms: 0,
        };
        let shown = windows_text(&told);
        for part in ["mon,tue", "22:05", "360", "forecasts wait"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert_eq!(windows_document(&told)["windows"][0]["start_minute"], 1_325);
        assert!(windows_text(&WindowsReply::default()).contains("at all hours"));
    }
}
