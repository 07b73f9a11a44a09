//! Bringing a backup's pairs into a cluster, whatever its shards and hosts are.
//!
//! Every pair is one put, many under way at once; the SDK sends those of a shard together. Each key is written once, with
//! what the chain's newest revision has, so the order does not matter, and a restore that was interrupted is repeated as a
//! whole: it writes the same again. Afterwards the cluster is read and held against the backup, pair by pair.
//!
//! What is not brought back: revisions and versions, which the new shards count themselves, and leases. A key that hung on
//! a lease becomes one that stays, unless it is left out. Nobody else may write while this goes on.

use std::sync::atomic::{AtomicU64, Ordering};

use client::{Client, KeyRange, KeyValue, MutationError, ReadError};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    Progress, SHARDS_AT_ONCE,
    chain::Chain,
    merge::{Merged, ReadRunError},
};

/// Puts of one shard of the backup that are under way at once.
const PUTS_AT_ONCE: usize = 64;
/// How often a pair is put, at most, while it is not known whether it was.
const ATTEMPTS_MAX: u32 = 3;
/// A line of progress after so many pairs.
const PAIRS_A_LINE: u64 = 100_000;

/// How to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Also into a cluster that has keys. What the backup has replaces them; other keys stay.
    pub into_non_empty: bool,
    /// Leave out keys that hung on a lease.
    pub skip_leased: bool,
}

/// What was restored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// Pairs that were written, and found again.
    pub keys: u64,
    /// Bytes of their keys and values.
    pub data_bytes: u64,
    /// Keys of the backup that were left out.
    pub skipped: u64,
    /// Keys of the cluster that the backup does not have.
    pub others: u64,
}

/// Why a restore did not come to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The cluster has keys. Nothing was written.
    #[error(
        "the cluster is not empty: it has a key \"{key}\". With --into-non-empty the backup's pairs replace those of the same \
         keys, and other keys stay; so is a restore repeated that was interrupted"
    )]
    NotEmpty {
        /// One of its keys.
        key: String,
    },
    /// The backup.
    #[error(transparent)]
    Backup(#[from] ReadRunError),
    /// The cluster cannot be read.
    #[error("cannot read the cluster: {0}")]
    Read(#[from] ReadError),
    /// A pair cannot be written. Others were; repeating the restore writes them again.
    #[error("cannot write \"{key}\": {source}. A part is restored: repeat it with --into-non-empty")]
    Write {
        /// Its key.
        key: String,
        /// Why.
        source: MutationError,
    },
    /// The cluster does not hold what was written.
    #[error(
        "the cluster does not hold what was restored: {missing} keys are missing and {different} have other values, \
         \"{first}\" first, and {others} are not in the backup. Did somebody else write meanwhile?"
    )]
    Differs {
        /// Keys that the cluster does not have.
        missing: u64,
        /// Keys with other values.
        different: u64,
        /// Keys that the backup does not have.
        others: u64,
        /// The first key of any of these.
        first: String,
    },
}

/// Writes what the newest backup of a chain holds, and makes sure that it is there.
pub async fn restore(
    client: &Client,
    chain: &Chain,
    options: RestoreOptions,
    progress: Progress<'_>,
) -> Result<Restored, RestoreError> {
    if !options.into_non_empty {
        refuse_keys(client).await?;
    }
    let restore = Restore {
        client,
        chain,
        options,
        progress,
        written: AtomicU64::new(0),
    };
    let shards = || stream::iter(0..chain.shards().len());
    let write = |shard| restore.write(shard);
    shards()
        .map(Ok)
        .try_for_each_concurrent(SHARDS_AT_ONCE, write)
        .await?;
    progress("holds the cluster against the backup".to_owned());
    let compared = shards().map(|shard| restore.compare(shard));
    let compared: Vec<Compared> = compared.buffered(SHARDS_AT_ONCE).try_collect().await?;
    let mut total = Compared::default();
    compared.into_iter().for_each(|of_shard| total.add(of_shard));
    total.restored(options)
}

async fn refuse_keys(client: &Client) -> Result<(), RestoreError> {
    match client.scan(KeyRange::all(), 1).next().await? {
        None => Ok(()),
        Some(pair) => Err(RestoreError::NotEmpty {
            key: pair.key.escape_ascii().to_string(),
        }),
    }
}

struct Restore<'a> {
    client: &'a Client,
    chain: &'a Chain,
    options: RestoreOptions,
    progress: Progress<'a>,
    written: AtomicU64,
}

impl Restore<'_> {
    fn is_skipped(&self, pair: &KeyValue) -> bool {
        self.options.skip_leased && pair.lease > 0
    }

    async fn write(&self, shard: usize) -> Result<(), RestoreError> {
        let pairs = Merged::open(self.chain, shard)?;
        let pairs = stream::iter(pairs).map_err(RestoreError::from);
        let put = |pair: KeyValue| async move {
            match self.is_skipped(&pair) {
                true => Ok(()),
                false => self.put(pair).await,
            }
        };
        pairs.try_for_each_concurrent(PUTS_AT_ONCE, put).await
    }

    async fn put(&self, pair: KeyValue) -> Result<(), RestoreError> {
        let mut attempt = 1;
        loop {
            match self.client.put(pair.key.clone(), pair.value.clone()).await {
                Ok(_) => break,
                // The same once more, or twice, is the same.
                Err(error) if error.is_outcome_unknown() && attempt < ATTEMPTS_MAX => attempt += 1,
                Err(source) => {
                    let key = pair.key.escape_ascii().to_string();
                    return Err(RestoreError::Write { key, source });
                }
            }
        }
        let written = self.written.fetch_add(1, Ordering::Relaxed) + 1;
        if written.is_multiple_of(PAIRS_A_LINE) {
            (self.progress)(format!("{written} pairs written"));
        }
        Ok(())
    }

    /// Holds the cluster's keys of one shard of the backup against it.
    async fn compare(&self, shard: usize) -> Result<Compared, RestoreError> {
        let mut expected = Merged::open(self.chain, shard)?;
        let mut scan = self.client.scan(self.chain.shards()[shard].range(), usize::MAX);
        let mut compared = Compared::default();
        let mut held = scan.next().await?;
        while let Some(pair) = expected.next().transpose()? {
            if self.is_skipped(&pair) {
                compared.skipped += 1;
                continue;
            }
            while let Some(before) = held.take_if(|held| held.key < pair.key) {
                compared.add_other(&before);
                held = scan.next().await?;
            }
            let found = held.take_if(|held| held.key == pair.key);
            compared.add_pair(&pair, found.as_ref());
            if found.is_some() {
                held = scan.next().await?;
            }
        }
        while let Some(after) = held {
            compared.add_other(&after);
            held = scan.next().await?;
        }
        Ok(compared)
    }
}

/// A backup and a cluster.
#[derive(Default)]
struct Compared {
    keys: u64,
    data_bytes: u64,
    skipped: u64,
    missing: u64,
    different: u64,
    others: u64,
    first_wrong: Option<String>,
    first_other: Option<String>,
}

impl Compared {
    fn add_pair(&mut self, pair: &KeyValue, found: Option<&KeyValue>) {
        match found {
            Some(found) if found.value == pair.value => {
                self.keys += 1;
                self.data_bytes += (pair.key.len() + pair.value.len()) as u64;
                return;
            }
            Some(_) => self.different += 1,
            None => self.missing += 1,
        }
        let key = || pair.key.escape_ascii().to_string();
        self.first_wrong.get_or_insert_with(key);
    }

    fn add_other(&mut self, found: &KeyValue) {
        self.others += 1;
        let key = || found.key.escape_ascii().to_string();
        self.first_other.get_or_insert_with(key);
    }

    fn add(&mut self, next: Self) {
        self.keys += next.keys;
        self.data_bytes += next.data_bytes;
        self.skipped += next.skipped;
        self.missing += next.missing;
        self.different += next.different;
        self.others += next.others;
        self.first_wrong = self.first_wrong.take().or(next.first_wrong);
        self.first_other = self.first_other.take().or(next.first_other);
    }

    fn restored(self, options: RestoreOptions) -> Result<Restored, RestoreError> {
        let is_alone = self.others == 0 || options.into_non_empty;
        if self.missing == 0 && self.different == 0 && is_alone {
            return Ok(Restored {
                keys: self.keys,
                data_bytes: self.data_bytes,
                skipped: self.skipped,
                others: self.others,
            });
        }
        Err(RestoreError::Differs {
            missing: self.missing,
            different: self.different,
            others: self.others,
            first: self.first_wrong.or(self.first_other).unwrap_or_default(),
        })
    }
}
