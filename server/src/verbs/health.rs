//! What is wrong with hosts and replicas, as tables for people.

use std::collections::BTreeSet;

use client::proto::{Alarm, ScrubReply, ScrubbedReplica, UsageReply};

use super::listing::SilentHost;
use super::text::{self, escaped, id, numbers, utc, words};

/// The kinds of a host's alarms, each once.
pub(super) fn alarm_kinds(usage: &UsageReply) -> String {
    let kinds: BTreeSet<String> = usage
        .alarms
        .iter()
        .map(|alarm| escaped(alarm.kind.as_bytes()))
        .collect();
    kinds.into_iter().collect::<Vec<_>>().join(", ")
}

/// Alarms, and who did not say whether it has any.
pub(super) fn alarms_text(alarms: &[Alarm], silent: &[SilentHost]) -> String {
    let columns = [
        words("alarm"),
        numbers("host"),
        numbers("shard"),
        numbers("replica"),
        words("since"),
        words("detail"),
    ];
    let row = |alarm: &Alarm| {
        [
            escaped(alarm.kind.as_bytes()),
            alarm.host_id.to_string(),
            id(alarm.shard_id),
            id(alarm.replica_id),
            utc(alarm.since_ms),
            escaped(alarm.detail.as_bytes()),
        ]
    };
    let table = match alarms.is_empty() {
        true => "no alarms".to_owned(),
        false => text::table(columns, alarms.iter().map(row)),
    };
    with_silent(table, silent)
}

/// What scrubs came to, a replica a line.
pub(super) fn scrubbed_text(shards: &[(u64, Result<ScrubReply, String>)]) -> String {
    let columns = [
        numbers("shard"),
        numbers("replica"),
        numbers("host"),
        numbers("entry"),
        numbers("keys"),
        words("checksum"),
        words("verdict"),
        words("detail"),
    ];
    let row = |(shard, index, replica): (u64, u64, &ScrubbedReplica)| {
        let (keys, sum) = match replica.checksum {
            0 => (String::new(), String::new()),
            sum => (replica.keys.to_string(), text::hash(sum)),
        };
        [
            shard.to_string(),
            replica.replica_id.to_string(),
            replica.host_id.to_string(),
            index.to_string(),
            keys,
            sum,
            escaped(replica.verdict.as_bytes()),
            escaped(replica.detail.as_bytes()),
        ]
    };
    let replies = shards
        .iter()
        .filter_map(|(shard, reply)| Some((*shard, reply.as_ref().ok()?)));
    let rows = replies.flat_map(|(shard, reply)| {
        let replicas = reply.replicas.iter();
        replicas.map(move |replica| (shard, reply.index, replica))
    });
    let table = text::table(columns, rows.map(row));
    let failed = shards.iter().filter_map(|(shard, reply)| {
        let why = reply.as_ref().err()?;
        Some(format!(
            " shard {shard}: not scrubbed: {}",
            escaped(why.as_bytes())
        ))
    });
    [table].into_iter().chain(failed).collect::<Vec<_>>().join("\n")
}

/// A table, and below it those that were asked and did not answer.
pub(super) fn with_silent(table: String, silent: &[SilentHost]) -> String {
    let silent = silent
        .iter()
        .map(|host| format!(" host {}: {}", host.host_id, escaped(host.cause.as_bytes())));
    [table].into_iter().chain(silent).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::Value;

    use super::super::listing::Listing;
    use super::*;

    pub(in super::super) fn no_space() -> Alarm {
        Alarm {
            kind: "NOSPACE".into(),
            host_id: 1,
            since_ms: 1_709_210_096_000,
            detail: "full".into(),
            ..Alarm::default()
        }
    }

    #[test]
    fn alarms_name_their_host_and_who_did_not_answer() {
        let silent = || {
            vec![SilentHost {
                host_id: 3,
                cause: "no answer".into(),
            }]
        };
        let none = Listing::Alarms {
            alarms: Vec::new(),
            silent: silent(),
        };
        assert_eq!(none.text(), "no alarms\n host 3: no answer");
        let one = Listing::Alarms {
            alarms: vec![no_space()],
            silent: Vec::new(),
        };
        let text = one.text();
        assert!(text.contains("NOSPACE") && text.contains("full"), "{text}");
        assert_eq!(one.document()["alarms"][0]["shard_id"], Value::Null);
    }

    #[test]
    fn a_scrub_shows_each_replica_and_what_was_not_scrubbed() {
        let replica = |replica_id, checksum, verdict: &str| ScrubbedReplica {
            replica_id,
            host_id: replica_id + 10,
            verdict: verdict.into(),
            checksum,
            keys: 5,
            detail: String::new(),
        };
        let reply = ScrubReply {
            shard_id: 7,
            index: 99,
            replicas: vec![replica(1, 0xab, "sound"), replica(2, 0, "unknown")],
        };
        let listing = Listing::Scrubbed(vec![(7, Ok(reply)), (8, Err("no home".into()))]);
        let text = listing.text();
        assert!(
            text.contains("00000000000000ab") && text.contains("unknown"),
            "{text}"
        );
        assert!(text.ends_with(" shard 8: not scrubbed: no home"), "{text}");
        let document = listing.document();
        assert_eq!(document["shards"][0]["replicas"][1]["checksum"], Value::Null);
        assert_eq!(document["shards"][1]["error"], "no home");
    }
}
