//! Watches: what changes on the shards that this host leads, told to those who asked, in the order of revisions.
//!
//! Each shard has a [`Feed`]. Watches that have been told everything so far share one walk over the newest changes
//! ([`pump`]); one that is behind, because it starts in the past or because its client reads slowly, walks by itself
//! ([`catch_up`]) until it has arrived. Nothing waits for a client: what a watch is told goes into its stream's
//! [`Outbox`], and one that has no room there falls behind. What it has missed then lies in the shard, not in memory, and
//! if it falls behind further than the shard remembers, it ends with the reason.
//!
//! What must hold: a watch is told whole revisions, each once, in order, and only what is committed; what it was told last
//! says how far it has come. A host that does not lead a shard any more ends the shard's watches: a replica that is cut
//! off would keep its clients waiting.

mod catch_up;
mod event;
mod feed;
mod outbox;
mod pump;
mod ranges;
mod start;

pub(crate) use feed::Feed;
pub(crate) use outbox::{Outbox, replies};
pub(crate) use start::{NotStarted, Started, start};
