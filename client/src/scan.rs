//! Scans: a range of keys, a page at a time, across shards.
//!
//! Each page is one linearizable read of one shard, with the operation's whole deadline to itself. The pages together
//! are not a snapshot: a key that changes while the scan is under way is seen as it is when its page is read. What
//! holds is that keys come in order and once, and that a key that exists, unchanged, from the scan's begin to its end
//! is seen, whatever splits, merges or moves meanwhile.
//!
//! A scan at a revision is a snapshot, and stays within one shard: each shard counts its own revisions.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::{Stream, stream};

use crate::{
    client::{Client, misread},
    dispatch::Answer,
    error::ReadError,
    operation::KeyRange,
    proto::{self, KeyValue, reply},
};

/// A scan under way.
pub struct Scan {
    client: Client,
    page: VecDeque<KeyValue>,
    /// What is still to be read. `None`: nothing.
    rest: Option<KeyRange>,
    /// Pairs still to be given out, those in `page` included.
    limit: usize,
    /// The revision to read at; 0: the newest.
    revision: u64,
}

impl Scan {
    pub(crate) fn new(client: Client, range: KeyRange, limit: usize, revision: u64) -> Self {
        let empty = !range.end.is_empty() && range.start >= range.end;
        Self {
            client,
            page: VecDeque::new(),
            rest: (!empty).then_some(range),
            limit,
            revision,
        }
    }

    /// The next pair; `None`: there are no more. After an error the scan stands where it was: calling again reads the
    /// same page again.
    pub async fn next(&mut self) -> Result<Option<KeyValue>, ReadError> {
        while self.limit > 0 {
            if let Some(pair) = self.page.pop_front() {
                self.limit -= 1;
                return Ok(Some(pair));
            }
            let Some(rest) = self.rest.clone() else { break };
            self.read_page(rest).await?;
        }
        Ok(None)
    }

    /// All that is left, in one go.
    pub async fn collect(mut self) -> Result<Vec<KeyValue>, ReadError> {
        let mut pairs = Vec::new();
        while let Some(pair) = self.next().await? {
            pairs.push(pair);
        }
        Ok(pairs)
    }

    /// The pairs as a stream, which ends after the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<KeyValue, ReadError>> + Send {
        stream::try_unfold(self, |mut scan| async move {
            let pair = scan.next().await?;
            Ok(pair.map(|pair| (pair, scan)))
        })
    }

    async fn read_page(&mut self, rest: KeyRange) -> Result<(), ReadError> {
        let page_pairs = self.client.config().limits.scan_page_pairs.max(1);
        let limit = u32::try_from(self.limit).unwrap_or(u32::MAX).min(page_pairs);
        let request = proto::Scan {
            start: rest.start.clone(),
            end: rest.end.clone(),
            limit,
            revision: self.revision,
        };
        let Answer { result, shard, .. } = self.client.page(request).await?;
        let reply::Result::Scan(found) = result else {
            return Err(misread().into());
        };
        let left = rest_after(rest, &found.next, &shard.end)?;
        let in_another_shard = left.is_some() && found.next.is_empty();
        if self.revision > 0 && in_another_shard {
            let message = "the range goes on in another shard, and a revision is of one shard".to_owned();
            return Err(ReadError::Invalid { message });
        }
        self.rest = left;
        self.page.extend(found.pairs);
        Ok(())
    }
}

/// What is left of a range after a page: from `next` if the shard has more, else from the shard's end.
fn rest_after(range: KeyRange, next: &Bytes, shard_end: &Bytes) -> Result<Option<KeyRange>, ReadError> {
    let start = if next.is_empty() { shard_end } else { next };
    if start.is_empty() || !range.end.is_empty() && *start >= range.end {
        return Ok(None);
    }
    if *start <= range.start {
        let message = "a page of a scan does not lead on".to_owned();
        return Err(ReadError::Incompatible { message });
    }
    Ok(Some(KeyRange {
        start: start.clone(),
        end: range.end,
    }))
}
