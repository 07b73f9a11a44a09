//! A shard's runs, from a whole chain, as one: its pairs in key order.
//!
//! Of a key's versions the one of the newest run holds; where that is a deletion, the key is left out. In memory is one
//! frame of each run, whatever the shard's size.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use client::KeyValue;

use super::{
    chain::Chain,
    format::{FormatError, FrameReader},
    manifest::Run,
};

/// Why a run cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{} {source}", path.display())]
pub struct ReadRunError {
    path: PathBuf,
    source: FormatError,
}

/// What a shard held at the newest revision of a chain: its pairs in key order, until the first error.
pub struct Merged {
    /// The older before the newer.
    runs: Vec<RunReader>,
    /// The first key of each run that has one left; of runs with the same key the newest first.
    heads: BinaryHeap<Reverse<(Bytes, Reverse<usize>)>>,
}

impl Merged {
    /// Of the shard with this place in [`Chain::shards`].
    pub fn open(chain: &Chain, shard: usize) -> Result<Self, ReadRunError> {
        let files = chain.backups().iter().map(|backup| {
            let shard = &backup.manifest.shards[shard];
            (backup.path(shard), &shard.runs)
        });
        let places = files.flat_map(|(path, runs)| {
            let numbered = runs.iter().enumerate();
            numbered.map(move |(number, run)| (path.clone(), number, run))
        });
        let runs = places.map(|(path, number, run)| RunReader::open(&path, number, run));
        let runs: Vec<_> = runs.collect::<Result<_, _>>()?;
        let mut merged = Self {
            heads: BinaryHeap::with_capacity(runs.len()),
            runs,
        };
        (0..merged.runs.len()).for_each(|run| merged.note_head(run));
        Ok(merged)
    }

    /// The next pair; `None`: there are no more.
    fn pair(&mut self) -> Result<Option<KeyValue>, ReadRunError> {
        while let Some(newest) = self.pop()? {
            while self
                .heads
                .peek()
                .is_some_and(|Reverse((key, _))| *key == newest.key)
            {
                self.pop()?;
            }
            if newest.version > 0 {
                return Ok(Some(newest));
            }
        }
        Ok(None)
    }

    fn pop(&mut self) -> Result<Option<KeyValue>, ReadRunError> {
        let Some(Reverse((_, Reverse(run)))) = self.heads.pop() else {
            return Ok(None);
        };
        let version = self.runs[run].pop()?;
        self.note_head(run);
        Ok(version)
    }

    fn note_head(&mut self, run: usize) {
        if let Some(head) = self.runs[run].frame.front() {
            self.heads.push(Reverse((head.key.clone(), Reverse(run))));
        }
    }
}

impl Iterator for Merged {
    type Item = Result<KeyValue, ReadRunError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.pair().transpose()
    }
}

/// A run that is being read.
struct RunReader {
    path: PathBuf,
    reader: FrameReader,
    number: usize,
    /// Versions that are not in memory yet.
    left: u64,
    /// Empty only when nothing is left.
    frame: VecDeque<KeyValue>,
}

impl RunReader {
    fn open(path: &Path, number: usize, run: &Run) -> Result<Self, ReadRunError> {
        let failed = |source| ReadRunError {
            path: path.to_owned(),
            source,
        };
        let mut reader = Self {
            path: path.to_owned(),
            reader: FrameReader::open_at(path, run.offset).map_err(failed)?,
            number,
            left: run.versions,
            frame: VecDeque::new(),
        };
        reader.fill()?;
        Ok(reader)
    }

    fn pop(&mut self) -> Result<Option<KeyValue>, ReadRunError> {
        let first = self.frame.pop_front();
        self.fill()?;
        Ok(first)
    }

    fn fill(&mut self) -> Result<(), ReadRunError> {
        if !self.frame.is_empty() || self.left == 0 {
            return Ok(());
        }
        let at = self.reader.at();
        let read = self.reader.next().and_then(|frame| {
            let frame = frame.filter(|frame| {
                let count = frame.versions.len() as u64;
                frame.run as usize == self.number && (1..=self.left).contains(&count)
            });
            let what = "another run than the manifest says";
            frame.ok_or(FormatError::Damaged { at, what })
        });
        let frame = read.map_err(|source| ReadRunError {
            path: self.path.clone(),
            source,
        })?;
        self.left -= frame.versions.len() as u64;
        self.frame = frame.versions.into();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use client::KeyRange;

    use super::super::{
        chain::Backup,
        format::FrameWriter,
        manifest::{Base, Manifest, Shard, file_name},
    };
    use super::*;

    /// Keys with their values; no value is a deletion.
    type Contents = [(&'static str, Option<&'static str>)];

    fn backup(folder: PathBuf, base: Option<Base>, revisions: (u64, u64), runs: &[&Contents]) -> Backup {
        std::fs::create_dir(&folder).unwrap();
        let mut writer = FrameWriter::create(&folder.join(file_name(1))).unwrap();
        for run in runs {
            writer.begin_run().unwrap();
            for (key, value) in *run {
                let version = KeyValue {
                    key: (*key).into(),
                    value: value.unwrap_or_default().into(),
                    version: value.is_some().into(),
                    ..KeyValue::default()
                };
                writer.push(version).unwrap();
            }
        }
        let written = writer.finish(revisions.1).unwrap();
        let mut manifest = Manifest::new("a".to_owned(), "c".to_owned(), 0, base);
        manifest.shards = vec![Shard::new(1, &KeyRange::all(), revisions, written)];
        let manifest = manifest.write(&folder).unwrap();
        Backup { folder, manifest }
    }

    #[test]
    fn the_newest_version_of_each_key_is_left() {
        let temp = tempfile::tempdir().unwrap();
        let full: [&Contents; 3] = [
            &[("a", Some("1")), ("b", Some("1")), ("c", Some("1"))],
            &[("a", Some("2")), ("b", None)],
            &[("d", Some("1")), ("e", Some("1"))],
        ];
        let full = backup(temp.path().join("full"), None, (0, 5), &full);
        let pairs = |backups: &[&Backup]| {
            let chain = Chain::new(backups.iter().map(|at| (*at).clone()).collect()).unwrap();
            let pairs = Merged::open(&chain, 0).unwrap().map(Result::unwrap);
            let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
            let pairs = pairs.map(|pair| format!("{}={}", text(pair.key), text(pair.value)));
            pairs.collect::<Vec<_>>()
        };
        assert_eq!(pairs(&[&full]), ["a=2", "c=1", "d=1", "e=1"]);
        let none = backup(
            temp.path().join("none"),
            Some(full.manifest.as_base()),
            (5, 5),
            &[],
        );
        assert_eq!(pairs(&[&full, &none]), ["a=2", "c=1", "d=1", "e=1"]);
        let next: [&Contents; 2] = [&[("b", Some("3")), ("e", None)], &[("a", None), ("z", Some(""))]];
        let next = backup(
            temp.path().join("next"),
            Some(full.manifest.as_base()),
            (5, 9),
            &next,
        );
        assert_eq!(pairs(&[&full, &next]), ["b=3", "c=1", "d=1", "z="]);
    }
}
