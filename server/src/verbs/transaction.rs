//! The document that `godwit kv txn` reads: a transaction as JSON.
//!
//! ```json
//! {
//!   "if":   [{"key": "a", "exists": true}, {"key": "a", "is": ">", "version": 2}],
//!   "then": [{"put": "a", "value": "1"}, {"delete": "b"}, {"get": "c"}, {"scan": "p/", "end": "p0", "limit": 10}],
//!   "else": [{"get": "a"}, {"delete_range": "q/", "end": "q0"}]
//! }
//! ```

use client::{Action, Compare, KeyRange, Property, Relation, Transaction};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default, rename = "if")]
    compares: Vec<CompareDocument>,
    #[serde(default)]
    then: Vec<ActionDocument>,
    #[serde(default, rename = "else")]
    otherwise: Vec<ActionDocument>,
}

/// One of the properties, compared as `is` says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CompareDocument {
    key: String,
    #[serde(default)]
    is: RelationDocument,
    value: Option<String>,
    version: Option<u64>,
    create_revision: Option<u64>,
    mod_revision: Option<u64>,
    exists: Option<bool>,
    lease: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
enum RelationDocument {
    #[default]
    #[serde(rename = "=")]
    Equal,
    #[serde(rename = "!=")]
    NotEqual,
    #[serde(rename = ">")]
    Greater,
    #[serde(rename = "<")]
    Less,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum ActionDocument {
    Put {
        put: String,
        value: String,
        #[serde(default)]
        lease: u64,
    },
    Delete {
        delete: String,
    },
    DeleteRange {
        delete_range: String,
        #[serde(default)]
        end: String,
    },
    Get {
        get: String,
    },
    Scan {
        scan: String,
        #[serde(default)]
        end: String,
        #[serde(default)]
        limit: u32,
    },
}

/// The transaction that the text describes, or what is wrong with it.
pub(super) fn parse(text: &[u8]) -> Result<Transaction, String> {
    let document: Document = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let mut transaction = Transaction::new();
    for (number, compare) in document.compares.into_iter().enumerate() {
        let compare = compare
            .read()
            .map_err(|e| format!("comparison {}: {e}", number + 1))?;
        transaction = transaction.when(compare);
    }
    for action in document.then {
        transaction = transaction.then(action.into());
    }
    for action in document.otherwise {
        transaction = transaction.otherwise(action.into());
    }
    Ok(transaction)
}

impl CompareDocument {
    fn read(self) -> Result<Compare, String> {
        let properties = [
            self.value.map(|value| Property::Value(value.into())),
            self.version.map(Property::Version),
            self.create_revision.map(Property::CreateRevision),
            self.mod_revision.map(Property::ModRevision),
            self.exists.map(Property::Exists),
            self.lease.map(Property::Lease),
        ];
        let mut given = properties.into_iter().flatten();
        let (Some(property), None) = (given.next(), given.next()) else {
            return Err("one of value, version, create_revision, mod_revision, exists and lease".to_owned());
        };
        let relation = match self.is {
            RelationDocument::Equal => Relation::Equal,
            RelationDocument::NotEqual => Relation::NotEqual,
            RelationDocument::Greater => Relation::Greater,
            RelationDocument::Less => Relation::Less,
        };
        Ok(Compare::new(self.key, relation, property))
    }
}

impl From<ActionDocument> for Action {
    fn from(action: ActionDocument) -> Self {
        match action {
            ActionDocument::Put { put, value, lease } => Self::put_leased(put, value, lease),
            ActionDocument::Delete { delete } => Self::delete(delete),
            ActionDocument::DeleteRange { delete_range, end } => Self::delete_range(KeyRange {
                start: delete_range.into(),
                end: end.into(),
            }),
            ActionDocument::Get { get } => Self::get(get),
            ActionDocument::Scan { scan, end, limit } => {
                let range = KeyRange {
                    start: scan.into(),
                    end: end.into(),
                };
                Self::scan(range, limit)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_says_what_the_builder_does() {
        let text = br#"{
            "if": [{"key": "a", "exists": true}, {"key": "a", "is": ">", "version": 2}, {"key": "b", "lease": 7}],
            "then": [{"put": "a", "value": "1"}, {"delete": "b"}, {"scan": "p/", "end": "p0", "limit": 10}],
            "else": [{"get": "a"}, {"delete_range": "q/", "end": "q0"}]
        }"#;
        let built = Transaction::new()
            .when(Compare::exists("a"))
            .when(Compare::new("a", Relation::Greater, Property::Version(2)))
            .when(Compare::lease("b", 7))
            .then(Action::put("a", "1"))
            .then(Action::delete("b"))
            .then(Action::scan(KeyRange::of("p/".."p0"), 10))
            .otherwise(Action::get("a"))
            .otherwise(Action::delete_range(KeyRange::of("q/".."q0")));
        assert_eq!(parse(text), Ok(built));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, named) in [
            (r#"{"when": []}"#, "when"),
            (r#"{"if": [{"key": "a"}]}"#, "comparison 1"),
            (
                r#"{"if": [{"key": "a", "exists": true, "version": 1}]}"#,
                "comparison 1",
            ),
            (r#"{"if": [{"key": "a", "is": "~", "version": 1}]}"#, "~"),
            (r#"{"then": [{"put": "a"}]}"#, "ActionDocument"),
            ("[", "EOF"),
        ] {
            let error = parse(text.as_bytes()).expect_err(text);
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
