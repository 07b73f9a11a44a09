//! What changed in a shard between two of its revisions, as runs.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::Duration,
};

use bytes::Bytes;
use client::{Client, KeyRange, KeyValue, WatchError, WatchFrom, WatchOptions};

use super::format::FrameWriter;

/// Changes are gathered up to so many bytes, then they are a run: what they take in memory, and less runs to merge.
const RUN_BYTES: usize = 32 << 20;
/// What a gathered change takes beside its key and value, roughly.
const CHANGE_BYTES: usize = 128;
/// A host tells how far it is at least every few seconds.
const SILENCE_MAX: Duration = Duration::from_secs(90);

/// Which changes.
pub(super) struct Span {
    /// The whole shard: its newest change is then always among those told.
    pub(super) shard: KeyRange,
    /// Those of these keys are kept.
    pub(super) keys: KeyRange,
    /// Of higher revisions than this.
    pub(super) after: u64,
    /// Up to this one, to which the shard has come.
    pub(super) through: u64,
}

/// Why changes cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChangesError {
    #[error(transparent)]
    Watch(WatchError),
    #[error("its home has told nothing for {} s", SILENCE_MAX.as_secs())]
    Silent,
    #[error(transparent)]
    Write(#[from] std::io::Error),
}

/// Writes the changes of a span, of each key the last one of a run.
pub(super) async fn write_changes(
    client: &Client,
    span: Span,
    writer: &mut FrameWriter,
) -> Result<(), ChangesError> {
    if span.after >= span.through {
        return Ok(());
    }
    let options = WatchOptions {
        from: WatchFrom::After(span.after),
        previous: false,
    };
    let watch = client.watch(span.shard.clone(), options);
    let mut watch = watch.await.map_err(ChangesError::Watch)?;
    let mut gathered = Gathered::default();
    let mut told = span.after;
    while told < span.through {
        let update = tokio::time::timeout(SILENCE_MAX, watch.next()).await;
        let update = update
            .map_err(|_| ChangesError::Silent)?
            .map_err(ChangesError::Watch)?;
        told = update.revision;
        let changes = update.events.into_iter().map(|event| event.pair);
        let is_wanted =
            |change: &KeyValue| change.mod_revision <= span.through && span.keys.contains(&change.key);
        changes.filter(is_wanted).for_each(|change| gathered.add(change));
        if gathered.bytes >= RUN_BYTES {
            std::mem::take(&mut gathered).write(writer)?;
        }
    }
    Ok(gathered.write(writer)?)
}

/// The last change of each key.
#[derive(Default)]
struct Gathered {
    by_key: BTreeMap<Bytes, KeyValue>,
    bytes: usize,
}

impl Gathered {
    fn add(&mut self, change: KeyValue) {
        // What comes is part of a frame, all of which would stay in memory with it.
        let change = KeyValue {
            key: Bytes::copy_from_slice(&change.key),
            value: Bytes::copy_from_slice(&change.value),
            ..change
        };
        match self.by_key.entry(change.key.clone()) {
            Entry::Vacant(entry) => {
                self.bytes += CHANGE_BYTES + change.key.len() + change.value.len();
                entry.insert(change);
            }
            Entry::Occupied(mut entry) => {
                self.bytes += change.value.len();
                self.bytes -= entry.get().value.len();
                entry.insert(change);
            }
        }
    }

    fn write(self, writer: &mut FrameWriter) -> std::io::Result<()> {
        if self.by_key.is_empty() {
            return Ok(());
        }
        writer.begin_run()?;
        self.by_key
            .into_values()
            .try_for_each(|change| writer.push(change))
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::FrameReader;
    use super::*;

    #[test]
    fn of_each_key_the_last_change_is_left_in_key_order() {
        let change = |key: &'static str, value: &'static str, mod_revision| KeyValue {
            key: key.into(),
            value: value.into(),
            mod_revision,
            version: u64::from(!value.is_empty()),
            ..KeyValue::default()
        };
        let mut gathered = Gathered::default();
        for (key, value, revision) in [("b", "1", 1), ("a", "long", 2), ("b", "", 3), ("a", "2", 4)] {
            gathered.add(change(key, value, revision));
        }
        assert_eq!(gathered.bytes, 2 * CHANGE_BYTES + 2 + 1);
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        let mut writer = FrameWriter::create(&path).unwrap();
        Gathered::default().write(&mut writer).unwrap();
        gathered.write(&mut writer).unwrap();
        let written = writer.finish(4).unwrap();
        assert_eq!(
            (written.versions, written.deletions, written.runs.len()),
            (2, 1, 1)
        );
        let frame = FrameReader::open(&path).unwrap().next().unwrap().unwrap();
        assert_eq!(frame.versions, [change("a", "2", 4), change("b", "", 3)]);
    }
}
