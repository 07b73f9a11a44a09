//! Maintenance windows, between the placement log's words and the protocol's.

use client::proto::{ChangeWindowsRequest, MaintenanceWindow, WindowsReply};
use placement::{Hours, HoursChange, Placement, Weekday};

/// The windows, and whether one is open.
pub(super) fn told(state: &Placement, now_ms: u64) -> WindowsReply {
    let window = |(id, hours): (&u64, &Hours)| MaintenanceWindow {
        window_id: *id,
        days: hours.days.iter().map(|day| day.as_str().to_owned()).collect(),
        start_minute: hours.start_minute,
        minutes: hours.minutes,
        open: hours.contains(now_ms),
    };
    WindowsReply {
        windows: state.hours().iter().map(window).collect(),
        open: state.in_hours(now_ms),
        now_ms,
    }
}

/// What an operator asks to change, or what is wrong with it.
pub(super) fn change(request: &ChangeWindowsRequest) -> Result<HoursChange, String> {
    match (&request.add, request.remove) {
        (Some(window), 0) => added(window).map(HoursChange::Add),
        (None, id) if id > 0 => Ok(HoursChange::Remove(id)),
        _ => Err("either a window is added or one is removed".to_owned()),
    }
}

fn added(window: &MaintenanceWindow) -> Result<Hours, String> {
    let day = |name: &String| Weekday::named(name).ok_or_else(|| format!("no day is called {name:?}"));
    let days: Result<_, String> = window.days.iter().map(day).collect();
    Ok(Hours {
        days: days?,
        start_minute: window.start_minute,
        minutes: window.minutes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_read_and_nonsense_is_named() {
        let window = MaintenanceWindow {
            days: vec!["sun".into(), "mon".into()],
            start_minute: 90,
            minutes: 30,
            ..MaintenanceWindow::default()
        };
        let add = ChangeWindowsRequest {
            add: Some(window.clone()),
            ..ChangeWindowsRequest::default()
        };
        let hours = Hours {
            days: [Weekday::Mon, Weekday::Sun].into(),
            start_minute: 90,
            minutes: 30,
        };
        assert_eq!(change(&add), Ok(HoursChange::Add(hours)));
        let remove = ChangeWindowsRequest {
            remove: 7,
            ..ChangeWindowsRequest::default()
        };
        assert_eq!(change(&remove), Ok(HoursChange::Remove(7)));
        let both = ChangeWindowsRequest { remove: 7, ..add };
        assert!(change(&both).is_err() && change(&ChangeWindowsRequest::default()).is_err());
        let someday = MaintenanceWindow {
            days: vec!["someday".into()],
            ..window
        };
        assert_eq!(added(&someday).unwrap_err(), "no day is called \"someday\"");
    }
}
