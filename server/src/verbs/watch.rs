//! `godwit kv watch`: changes as they are made, a line each.
//!
//! A line for people is `put` or `delete`, the revision, the key and the value, with tabs between; one JSON document a line
//! with `--json`. A reader that goes away, as `head` does, ends the verb without an error.

use std::io::{self, Write};

use client::{Client, Event, KeyRange, WatchFrom, WatchOptions, WatchUpdate};
use serde_json::{Value, json};

use super::{
    Exit, VerbError, pairs,
    text::{self, escaped},
};
use crate::cli::WatchArgs;

/// What is printed.
pub(super) struct Form {
    pub(super) json: bool,
    pub(super) previous: bool,
    pub(super) progress: bool,
}

/// Prints until there were as many changes as asked for.
pub(super) async fn print(
    client: &Client,
    watch: WatchArgs,
    form: &Form,
    out: &mut dyn Write,
) -> Result<Exit, VerbError> {
    let range = range_of(&watch);
    let failed = |source| VerbError::Watch {
        what: text::range(&range.start, &range.end),
        source,
    };
    let options = WatchOptions {
        from: watch.after.map_or(WatchFrom::Now, WatchFrom::After),
        previous: watch.previous,
    };
    let mut left = watch.count.unwrap_or(u64::MAX);
    let mut watch = client.watch(range.clone(), options).await.map_err(failed)?;
    while left > 0 {
        let update = watch.next().await.map_err(failed)?;
        let shown = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(update.events.len());
        left -= shown as u64;
        match out
            .write_all(form.text(&update, shown).as_bytes())
            .and_then(|()| out.flush())
        {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            written => written?,
        }
    }
    Ok(Exit::Ok)
}

fn range_of(watch: &WatchArgs) -> KeyRange {
    let key = watch.key.clone();
    match &watch.end {
        Some(end) => KeyRange::of(key..end.clone()),
        None if watch.prefix || key.is_empty() => KeyRange::prefix(key),
        None => KeyRange::of(key.clone()..=key),
    }
}

impl Form {
    /// The first `shown` events of an update, or its note of progress.
    fn text(&self, update: &WatchUpdate, shown: usize) -> String {
        if update.events.is_empty() {
            return match (self.progress, self.json) {
                (false, _) => String::new(),
                (true, false) => format!("progress\t{}\tshard {}\n", update.revision, update.shard_id),
                (true, true) => format!("{}\n", progress_document(update)),
            };
        }
        let events = update.events.iter().take(shown);
        let line = |event: &Event| match self.json {
            true => format!("{}\n", event_document(update.shard_id, event)),
            false => self.line(event),
        };
        events.map(line).collect()
    }

    fn line(&self, event: &Event) -> String {
        let what = if event.is_deletion() { "delete" } else { "put" };
        let pair = &event.pair;
        let mut fields = vec![what.to_owned(), pair.mod_revision.to_string(), escaped(&pair.key)];
        if !event.is_deletion() {
            fields.push(escaped(&pair.value));
        }
        if self.previous {
            let before = event.previous.as_ref();
            fields.push(before.map_or("was absent".to_owned(), |before| {
                format!("was {}", escaped(&before.value))
            }));
        }
        format!("{}\n", fields.join("\t"))
    }
}

/// `previous` is null where it was not asked for, or the key did not exist.
fn event_document(shard_id: u64, event: &Event) -> Value {
    json!({
        "event": if event.is_deletion() { "delete" } else { "put" },
        "shard": shard_id,
        "pair": pairs::pair_document(&event.pair),
        "previous": event.previous.as_ref().map(pairs::pair_document),
    })
}

fn progress_document(update: &WatchUpdate) -> Value {
    json!({ "event": "progress", "shard": update.shard_id, "revision": update.revision })
}

#[cfg(test)]
mod tests {
    use client::KeyValue;

    use super::*;

    fn pair(value: &'static str, revision: u64, version: u64) -> KeyValue {
        KeyValue {
            key: "a\tb".into(),
            value: value.into(),
            create_revision: 1,
            mod_revision: revision,
            version,
            lease: 0,
        }
    }

    fn update() -> WatchUpdate {
        let put = Event {
            pair: pair("one", 4, 1),
            previous: None,
        };
        let delete = Event {
            pair: pair("", 5, 0),
            previous: Some(pair("one", 4, 1)),
        };
        WatchUpdate {
            part: "a".into(),
            shard_id: 3,
            events: vec![put, delete],
            revision: 5,
        }
    }

    fn form(json: bool, previous: bool, progress: bool) -> Form {
        Form {
            json,
            previous,
            progress,
        }
    }

    #[test]
    fn a_change_is_a_line() {
        let plain = form(false, false, false).text(&update(), 2);
        assert_eq!(plain, "put\t4\ta\\tb\tone\ndelete\t5\ta\\tb\n");
        let previous = form(false, true, false).text(&update(), 2);
        assert_eq!(
            previous,
            "put\t4\ta\\tb\tone\twas absent\ndelete\t5\ta\\tb\twas one\n"
        );
        assert_eq!(form(false, false, false).text(&update(), 1).lines().count(), 1);
        let json = form(true, true, false).text(&update(), 2);
        let lines: Vec<Value> = json
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(
            (&lines[0]["event"], &lines[1]["event"]),
            (&json!("put"), &json!("delete"))
        );
        assert_eq!(lines[1]["previous"]["mod_revision"], json!(4), "{}", lines[1]);
    }

    #[test]
    fn progress_is_told_to_those_who_ask() {
        let progress = WatchUpdate {
            events: Vec::new(),
            ..update()
        };
        assert_eq!(form(false, false, false).text(&progress, 0), "");
        assert_eq!(
            form(false, false, true).text(&progress, 0),
            "progress\t5\tshard 3\n"
        );
        let json = form(true, false, true).text(&progress, 0);
        assert_eq!(json, "{\"event\":\"progress\",\"revision\":5,\"shard\":3}\n");
    }
}
