//! `godwit admin history`: what the placement log decided, and how often.

use client::proto::{HistoryEvent, HistoryReply, Total};
use serde_json::{Value, json};

use super::documents;
use super::text::{self, escaped, id, nonzero, numbers, utc, words};

pub(super) fn history_text(history: &HistoryReply) -> String {
    let events = match history.events.is_empty() {
        true => "no events".to_owned(),
        false => events_text(&history.events),
    };
    match history.dropped {
        0 => events,
        dropped => format!(
            "{events}\n\n{dropped} older events, until {}, are only counted: `--totals`",
            utc(history.dropped_until_ms)
        ),
    }
}

fn events_text(events: &[HistoryEvent]) -> String {
    let columns = [
        numbers("index"),
        words("at"),
        words("what"),
        numbers("shard"),
        numbers("migration"),
        words("detail"),
    ];
    let row = |event: &HistoryEvent| {
        [
            event.index.to_string(),
            utc(event.at_ms),
            escaped(event.what.as_bytes()),
            id(event.shard_id),
            id(event.migration_id),
            escaped(event.detail.as_bytes()),
        ]
    };
    text::table(columns, events.iter().map(row))
}

pub(super) fn totals_text(totals: &[Total]) -> String {
    let row = |total: &Total| [escaped(total.what.as_bytes()), total.count.to_string()];
    match totals.is_empty() {
        true => "nothing happened yet".to_owned(),
        false => text::table([words("what"), numbers("times")], totals.iter().map(row)),
    }
}

pub(super) fn history_document(history: &HistoryReply) -> Value {
    json!({
        "events": documents::each(&history.events, documents::event),
        "dropped": history.dropped,
        "dropped_until_ms": nonzero(history.dropped_until_ms),
    })
}

pub(super) fn totals_document(totals: &[Total]) -> Value {
    let total = |total: &Total| json!({ "what": total.what, "count": total.count });
    json!({ "totals": documents::each(totals, total) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_a_line_an_event() {
        let event = HistoryEvent {
            index: 41,
            at_ms: 1_709_210_096_000,
            what: "Step".into(),
            shard_id: 7,
            migration_id: 9,
            detail: "Adding -> CatchingUp".into(),
        };
        let joined = HistoryEvent {
            index: 3,
            what: "HostJoined".into(),
            detail: "host 2\nb:7420".into(),
            ..HistoryEvent::default()
        };
        let history = HistoryReply {
            events: vec![joined, event],
            dropped: 12,
            dropped_until_ms: 1_709_210_095_000,
            ..HistoryReply::default()
        };
        let expected = [
            r" index  at                    what        shard  migration  detail",
            r"─────────────────────────────────────────────────────────────────────────────────",
            r"     3                        HostJoined                    host 2\nb:7420",
            r"    41  2024-02-29 12:34:56Z  Step            7          9  Adding -> CatchingUp",
        ]
        .join("\n")
            + "\n\n12 older events, until 2024-02-29 12:34:55Z, are only counted: `--totals`";
        assert_eq!(history_text(&history), expected);
    }

    #[test]
    fn totals_are_counted_by_name() {
        let totals = [Total {
            what: "model migrations Done".into(),
            count: 7,
        }];
        assert!(totals_text(&totals).contains("model migrations Done"));
        assert_eq!(totals_document(&totals)["totals"][0]["count"], 7);
        assert_eq!(totals_text(&[]), "nothing happened yet");
    }
}
