//! Histories: what clients asked, what they were told and when, one JSON object a line.
//!
//! - `operation`: the types; a state that no client could have seen cannot be built.
//! - `line`: the wire form of an operation, strict about what belongs together.
//! - `lines`: reading and writing JSON lines of any kind; a bad line is named by its number.

mod line;
mod lines;
mod operation;

pub use lines::{LineReader, LineWriter, ReadError};
pub use operation::{Action, Deleted, Invalid, Operation, OperationKind, Outcome, Read, Swapped, Wrote};

/// Reads a history, one operation at a time.
pub type HistoryReader<R> = LineReader<R, Operation>;

/// Writes a history, one operation at a time.
pub type HistoryWriter<W> = LineWriter<W>;
