//! `godwit kv lease`: leases of a shard.

use std::time::Duration;

use client::{Client, LeaseStatus, MutationError};
use serde_json::{Value, json};

use super::{
    Exit, VerbError,
    kv::{unread, unwritten},
    text::{self, escaped, octets},
};
use crate::cli::{LeaseOf, LeaseVerb};

/// Does what is asked, and says what came of it.
pub(super) async fn answer(
    client: &Client,
    verb: LeaseVerb,
    json: bool,
) -> Result<(Exit, String), VerbError> {
    match verb {
        LeaseVerb::Grant { key, ttl_ms, id } => {
            let ttl = Duration::from_millis(ttl_ms);
            let id = id.unwrap_or_else(|| client.lease(ttl).id());
            let granted = client.grant_lease(key.clone(), id, ttl).await;
            let granted = granted.map_err(|error| unwritten(&key, error))?;
            let text = match granted {
                true => id.to_string(),
                false => format!("there is a lease {id} already"),
            };
            Ok(told(
                granted,
                json,
                json!({ "id": id, "granted": granted, "ttl_ms": ttl_ms }),
                text,
            ))
        }
        LeaseVerb::Keep(LeaseOf { key, id }) => {
            let kept = client.keep_lease(key.clone(), id).await;
            changed(&key, id, kept, json, "kept")
        }
        LeaseVerb::Revoke(LeaseOf { key, id }) => {
            let revoked = client.revoke_lease(key.clone(), id).await;
            changed(&key, id, revoked.map(drop), json, "revoked")
        }
        LeaseVerb::Status(LeaseOf { key, id }) => {
            let found = client.lease_status(key.clone(), id).await;
            let found = found.map_err(|source| unread(text::quoted(key.as_bytes()), source))?;
            Ok(told(
                found.is_some(),
                json,
                document(id, found.as_ref()),
                lines(id, found.as_ref()),
            ))
        }
    }
}

/// A change of a lease; that there is none is an answer, too.
fn changed(
    key: &str,
    id: u64,
    outcome: Result<(), MutationError>,
    json: bool,
    what: &str,
) -> Result<(Exit, String), VerbError> {
    let exists = match outcome {
        Ok(()) => true,
        Err(MutationError::NoLease { .. }) => false,
        Err(error) => return Err(unwritten(key, error)),
    };
    let text = match exists {
        true => what.to_owned(),
        false => absent(id),
    };
    Ok(told(exists, json, json!({ "id": id, "exists": exists }), text))
}

fn told(found: bool, json: bool, document: Value, text: String) -> (Exit, String) {
    let exit = if found { Exit::Ok } else { Exit::NotFound };
    (exit, if json { document.to_string() } else { text })
}

fn absent(id: u64) -> String {
    format!("there is no lease {id} on this shard, or it has ended")
}

/// `keys` may be fewer than `keys_total`.
fn document(id: u64, found: Option<&LeaseStatus>) -> Value {
    let Some(status) = found else {
        return json!({ "id": id, "exists": false });
    };
    let keys: Vec<Value> = status.keys.iter().map(|key| octets(key)).collect();
    json!({
        "id": id,
        "exists": true,
        "ttl_ms": milliseconds(status.ttl),
        "left_ms": milliseconds(status.left),
        "keys_total": status.keys_total,
        "keys": keys,
    })
}

fn lines(id: u64, found: Option<&LeaseStatus>) -> String {
    let Some(status) = found else {
        return absent(id);
    };
    let (ttl, left) = (milliseconds(status.ttl), milliseconds(status.left));
    let head = format!("{left} ms left of {ttl}, {} keys", status.keys_total);
    let keys = status.keys.iter().map(|key| escaped(key));
    [head].into_iter().chain(keys).collect::<Vec<_>>().join("\n")
}

fn milliseconds(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_told_with_its_keys() {
        let status = LeaseStatus {
            ttl: Duration::from_secs(5),
            left: Duration::from_millis(1_200),
            keys_total: 2,
            keys: vec!["a\tb".into(), "c".into()],
        };
        assert_eq!(lines(7, Some(&status)), "1200 ms left of 5000, 2 keys\na\\tb\nc");
        assert_eq!(document(7, Some(&status))["left_ms"], json!(1_200));
        assert_eq!(
            lines(7, None),
            "there is no lease 7 on this shard, or it has ended"
        );
        assert_eq!(document(7, None), json!({ "id": 7, "exists": false }));
    }
}
