//! Watching a range of keys.
//!
//! A [`Watch`] is made of parts, one for each shard that its range touches. A part is told of its shard's changes on the
//! watch stream of the shard's home ([`stream`]); when that ends, or another host becomes home, or the shard's range
//! changes, the part starts again after the last revision that it was told, so nothing is missing and nothing comes twice.
//!
//! Memory is bounded: what a watch was told and has not yet handed out waits in a queue, and where that is full the host is
//! asked to stop; the part starts again, after what was handed out, when there is room.

mod attempt;
mod options;
mod part;
mod running;
mod stream;

pub(crate) use options::common;
pub use options::{Event, WatchError, WatchFrom, WatchOptions, WatchPosition, WatchUpdate};
pub use running::Watch;
pub(crate) use stream::WatchStreams;
