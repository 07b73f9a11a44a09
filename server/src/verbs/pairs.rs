//! Answers about keys: lines for people and JSON documents.

use client::{ActionResult, Fetched, KeyValue, Previous, Swapped, Transacted, Versions, Written};
use serde_json::{Value, json};

use super::text::{escaped, octets};

/// What a scan shows.
pub(super) struct Page {
    pairs: Vec<KeyValue>,
    more: bool,
    keys_only: bool,
}

impl Page {
    /// The first `limit` of the pairs found; whether there were more is kept.
    pub(super) fn new(mut found: Vec<KeyValue>, limit: usize, keys_only: bool) -> Self {
        let more = found.len() > limit;
        found.truncate(limit);
        Self {
            pairs: found,
            more,
            keys_only,
        }
    }

    /// A line a pair, key and value escaped and a tab between them. Says nothing of further pairs: each line is data.
    pub(super) fn text(&self) -> String {
        let line = |pair: &KeyValue| match self.keys_only {
            true => format!("{}\n", escaped(&pair.key)),
            false => format!("{}\t{}\n", escaped(&pair.key), escaped(&pair.value)),
        };
        self.pairs.iter().map(line).collect()
    }

    /// `{"pairs": [..], "more": bool}`, or with `keys` instead of `pairs`.
    pub(super) fn document(&self) -> Value {
        match self.keys_only {
            true => {
                let keys: Vec<Value> = self.pairs.iter().map(|pair| octets(&pair.key)).collect();
                json!({ "keys": keys, "more": self.more })
            }
            false => {
                let pairs: Vec<Value> = self.pairs.iter().map(pair_document).collect();
                json!({ "pairs": pairs, "more": self.more })
            }
        }
    }
}

/// What a put did.
pub(super) fn put_text(written: &Written, wanted: Previous) -> String {
    let what = if written.existed { "replaced" } else { "created" };
    let revision = written.revision;
    format!("{what} at revision {revision}{}", previous_line(written, wanted))
}

/// What a delete did.
pub(super) fn delete_text(written: &Written, wanted: Previous) -> String {
    let revision = written.revision;
    match written.existed {
        true => format!("deleted at revision {revision}{}", previous_line(written, wanted)),
        false => format!("absent at revision {revision}"),
    }
}

/// Whether a compare-and-set wrote, and if not, why.
pub(super) fn swapped_text(swapped: &Swapped) -> String {
    match swapped {
        Swapped {
            applied: true,
            revision,
            ..
        } => format!("written at revision {revision}"),
        Swapped { existed: false, .. } => "not written: the key is absent".to_owned(),
        Swapped {
            current: Some(pair), ..
        } => format!("not written: the key holds {}", held(pair)),
        Swapped { current: None, .. } => "not written: the key holds something else".to_owned(),
    }
}

/// `previous` is null where it was not asked for, where there was none (`existed` tells), or where the answer to a
/// repeated put or delete no longer has it.
pub(super) fn written_document(key: &[u8], written: &Written) -> Value {
    json!({
        "key": octets(key),
        "revision": written.revision,
        "existed": written.existed,
        "previous": written.previous.as_ref().map(pair_document),
    })
}

/// `pair` is null where the key is absent.
pub(super) fn fetched_document(key: &[u8], fetched: &Fetched) -> Value {
    json!({
        "key": octets(key),
        "revision": fetched.revision,
        "pair": fetched.pair.as_ref().map(pair_document),
    })
}

/// `current` is null where the new value was written, or as in [`written_document`].
pub(super) fn swapped_document(key: &[u8], swapped: &Swapped) -> Value {
    json!({
        "key": octets(key),
        "applied": swapped.applied,
        "revision": swapped.revision,
        "existed": swapped.existed,
        "current": swapped.current.as_ref().map(pair_document),
    })
}

/// A line a version: its revision, which version of the key it is, and the value.
pub(super) fn versions_text(found: &Versions) -> String {
    let line = |version: &KeyValue| match version.version {
        0 => format!("{}\tdeleted\n", version.mod_revision),
        number => format!(
            "{}\t{number}\t{}\n",
            version.mod_revision,
            escaped(&version.value)
        ),
    };
    let mut lines: String = found.versions.iter().map(line).collect();
    if let (true, Some(last)) = (found.more, found.versions.last()) {
        lines.push_str(&format!("more with --before {}\n", last.mod_revision));
    }
    lines
}

/// The newest version first; a deletion has `deleted` and no value. `oldest`: the oldest revision that can be read.
pub(super) fn versions_document(key: &[u8], found: &Versions) -> Value {
    let version = |version: &KeyValue| match version.version {
        0 => json!({ "mod_revision": version.mod_revision, "deleted": true }),
        _ => pair_document(version),
    };
    let versions: Vec<Value> = found.versions.iter().map(version).collect();
    json!({
        "key": octets(key),
        "revision": found.revision,
        "oldest": found.oldest,
        "versions": versions,
        "more": found.more,
    })
}

/// Whether the comparisons held, then a line an action.
pub(super) fn transacted_text(transacted: &Transacted) -> String {
    let held = match transacted.succeeded {
        true => "the comparisons held",
        false => "the comparisons did not hold",
    };
    let mut text = format!("{held}, at revision {}\n", transacted.revision);
    let Some(results) = &transacted.results else {
        text.push_str("what the actions found is not known any more\n");
        return text;
    };
    for result in results {
        match result {
            ActionResult::Changed { existed: true, .. } => text.push_str("changed\n"),
            ActionResult::Changed { existed: false, .. } => text.push_str("changed, was absent\n"),
            ActionResult::RangeDeleted { keys } => text.push_str(&format!("{keys} deleted\n")),
            ActionResult::Read(None) => text.push_str("absent\n"),
            ActionResult::Read(Some(pair)) => text.push_str(&pair_line(pair)),
            ActionResult::Scanned { pairs, next } => {
                pairs.iter().for_each(|pair| text.push_str(&pair_line(pair)));
                if let Some(next) = next {
                    text.push_str(&format!("more from {}\n", escaped(next)));
                }
            }
        }
    }
    text
}

fn pair_line(pair: &KeyValue) -> String {
    format!("{}\t{}\n", escaped(&pair.key), escaped(&pair.value))
}

/// `results` is null where a repetition was answered from memory.
pub(super) fn transacted_document(transacted: &Transacted) -> Value {
    let result = |result: &ActionResult| match result {
        ActionResult::Changed { existed, previous } => json!({
            "existed": existed,
            "previous": previous.as_ref().map(pair_document),
        }),
        ActionResult::RangeDeleted { keys } => json!({ "deleted": keys }),
        ActionResult::Read(pair) => json!({ "pair": pair.as_ref().map(pair_document) }),
        ActionResult::Scanned { pairs, next } => json!({
            "pairs": pairs.iter().map(pair_document).collect::<Vec<Value>>(),
            "next": next.as_ref().map(|next| octets(next)),
        }),
    };
    let results = transacted.results.as_ref();
    json!({
        "succeeded": transacted.succeeded,
        "revision": transacted.revision,
        "results": results.map(|results| results.iter().map(result).collect::<Vec<Value>>()),
    })
}

/// The oldest revision that can be read, of a shard at `revision`.
pub(super) fn compacted_document(oldest: u64, revision: u64) -> Value {
    json!({ "oldest": oldest, "revision": revision })
}

/// `lease` is left out where the key hangs on none.
pub(super) fn pair_document(pair: &KeyValue) -> Value {
    let mut document = json!({
        "key": octets(&pair.key),
        "value": octets(&pair.value),
        "create_revision": pair.create_revision,
        "mod_revision": pair.mod_revision,
        "version": pair.version,
    });
    if pair.lease > 0 {
        document["lease"] = json!(pair.lease);
    }
    document
}

fn previous_line(written: &Written, wanted: Previous) -> String {
    match (wanted, &written.previous, written.existed) {
        (Previous::Value, Some(pair), _) => format!("\nheld {}", held(pair)),
        // A repetition was answered from memory, and a shard remembers outcomes, not values.
        (Previous::Value, None, true) => "\nwhat it held is not known any more".to_owned(),
        _ => String::new(),
    }
}

fn held(pair: &KeyValue) -> String {
    format!(
        "{} (revision {})",
        super::text::quoted(&pair.value),
        pair.mod_revision
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_shows_what_was_deleted_and_how_to_go_on() {
        let of = |mod_revision, version, value: &'static str| KeyValue {
            key: "k".into(),
            value: value.into(),
            create_revision: 3,
            mod_revision,
            version,
            lease: 0,
        };
        let found = Versions {
            revision: 9,
            versions: vec![of(8, 1, "c\n"), of(7, 0, ""), of(5, 2, "b")],
            more: true,
            oldest: 2,
        };
        assert_eq!(
            versions_text(&found),
            "8\t1\tc\\n\n7\tdeleted\n5\t2\tb\nmore with --before 5\n"
        );
        let document = versions_document(b"k", &found);
        assert_eq!(
            document["versions"][1],
            json!({ "mod_revision": 7, "deleted": true })
        );
        assert_eq!(document["versions"][2]["version"], 2);
        assert_eq!(
            (&document["oldest"], &document["more"]),
            (&json!(2), &json!(true))
        );
    }

    fn pair(key: &'static [u8], value: &'static [u8]) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: value.into(),
            create_revision: 3,
            mod_revision: 5,
            version: 2,
            lease: 0,
        }
    }

    fn written(existed: bool, previous: Option<KeyValue>) -> Written {
        Written {
            revision: 9,
            existed,
            previous,
        }
    }

    fn swapped(applied: bool, existed: bool, current: Option<KeyValue>) -> Swapped {
        Swapped {
            applied,
            revision: 9,
            current,
            existed,
        }
    }

    #[test]
    fn writes_say_what_there_was() {
        let old = || Some(pair(b"k", b"old\n"));
        let put = |written: Written, wanted| put_text(&written, wanted);
        let delete = |written: Written, wanted| delete_text(&written, wanted);
        assert_eq!(
            put(written(false, None), Previous::Existence),
            "created at revision 9"
        );
        assert_eq!(
            put(written(false, None), Previous::Value),
            "created at revision 9"
        );
        assert_eq!(
            put(written(true, None), Previous::Existence),
            "replaced at revision 9"
        );
        assert_eq!(
            put(written(true, old()), Previous::Value),
            "replaced at revision 9\nheld \"old\\n\" (revision 5)"
        );
        assert_eq!(
            put(written(true, None), Previous::Value),
            "replaced at revision 9\nwhat it held is not known any more"
        );
        assert_eq!(
            delete(written(true, old()), Previous::Value),
            "deleted at revision 9\nheld \"old\\n\" (revision 5)"
        );
        assert_eq!(
            delete(written(false, None), Previous::Value),
            "absent at revision 9"
        );
    }

    #[test]
    fn a_compare_and_set_says_why_not() {
        assert_eq!(swapped_text(&swapped(true, true, None)), "written at revision 9");
        assert_eq!(
            swapped_text(&swapped(false, false, None)),
            "not written: the key is absent"
        );
        let current = Some(pair(b"k", b"other"));
        assert_eq!(
            swapped_text(&swapped(false, true, current)),
            "not written: the key holds \"other\" (revision 5)"
        );
        assert_eq!(
            swapped_text(&swapped(false, true, None)),
            "not written: the key holds something else"
        );
    }

    #[test]
    fn documents_keep_their_shape() {
        let expected = json!({
            "key": "k", "value": { "hex": "ff" }, "create_revision": 3, "mod_revision": 5, "version": 2,
        });
        let held = || Some(pair(b"k", b"\xff"));
        assert_eq!(
            written_document(b"k", &written(true, held())),
            json!({ "key": "k", "revision": 9, "existed": true, "previous": expected })
        );
        assert_eq!(
            written_document(b"\xff", &written(false, None)),
            json!({ "key": { "hex": "ff" }, "revision": 9, "existed": false, "previous": null })
        );
        let fetched = |pair| fetched_document(b"k", &Fetched { revision: 9, pair });
        assert_eq!(
            fetched(held()),
            json!({ "key": "k", "revision": 9, "pair": expected })
        );
        assert_eq!(fetched(None), json!({ "key": "k", "revision": 9, "pair": null }));
        let leased = held().map(|pair| KeyValue { lease: 8, ..pair });
        assert_eq!(fetched(leased)["pair"]["lease"], 8);
        assert_eq!(
            swapped_document(b"k", &swapped(false, true, held())),
            json!({ "key": "k", "applied": false, "revision": 9, "existed": true, "current": expected })
        );
    }

    #[test]
    fn a_page_is_cut_at_its_limit_and_knows_of_more() {
        let found = || vec![pair(b"a\tb", b"1\n"), pair(b"c", b""), pair(b"d", b"3")];
        assert_eq!(Page::new(found(), 2, false).text(), "a\\tb\t1\\n\nc\t\n");
        assert_eq!(Page::new(found(), 3, true).text(), "a\\tb\nc\nd\n");
        let keys = |limit| Page::new(found(), limit, true).document();
        assert_eq!(keys(2), json!({ "keys": ["a\tb", "c"], "more": true }));
        assert_eq!(keys(3), json!({ "keys": ["a\tb", "c", "d"], "more": false }));
        let document = Page::new(found(), 1, false).document();
        assert_eq!(document["pairs"][0]["value"], "1\n");
        assert_eq!(
            (document["pairs"].as_array().unwrap().len(), &document["more"]),
            (1, &json!(true))
        );
    }
}
