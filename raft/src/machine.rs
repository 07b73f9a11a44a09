//! What a group replicates: a state machine with durable checkpoints.
//!
//! The replicator calls [`Machine::apply`] for each committed entry, in order, from one task. Durability is two
//! steps: [`Machine::capture`] freezes the state (fast, between two applies) and [`Captured::write`] makes it
//! durable (slow, beside further applies), but only once the replica's own log is flushed up to the captured
//! index: a state ahead of its log would be refused at the next start. The `mark` is the replicator's own record
//! of what the state covers; a machine keeps it beside the state, in the same transaction, and hands it back.

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::types::Position;

/// The answer of a machine to one command. The proposer knows the type and downcasts.
#[derive(Clone, Default)]
pub struct Response(Option<Arc<dyn Any + Send + Sync>>);

impl Response {
    /// Wraps an answer.
    pub fn new<T: Any + Send + Sync>(answer: T) -> Self {
        Self(Some(Arc::new(answer)))
    }

    /// The answer as a `T`; `None` if the entry had no command or the type is another.
    pub fn take<T: Any + Send + Sync + Clone>(self) -> Option<T> {
        let answer = self.0?.downcast::<T>().ok()?;
        Some(Arc::try_unwrap(answer).unwrap_or_else(|shared| (*shared).clone()))
    }
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Response")
    }
}

impl std::fmt::Display for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("response")
    }
}

/// The machine cannot go on: its replica stops. A refusal of one command is part of [`Response`], never this.
#[derive(Debug, thiserror::Error)]
pub enum MachineFault {
    /// A command of a kind or version this build does not know.
    #[error("cannot apply an entry of this kind: {0}")]
    UnknownEntry(String),
    /// Stored bytes failed their checksum.
    #[error("corrupt state: {0}")]
    Corrupt(String),
    /// The disk refused, or a commit's outcome is unknown.
    #[error("storage: {0}")]
    Storage(String),
    /// A checkpoint or a snapshot is already being made.
    #[error("a checkpoint is already in progress")]
    Busy,
    /// The replica was closed; its state may be deleted at any time.
    #[error("the replica is closed")]
    Closed,
}

impl MachineFault {
    /// Whether nothing is wrong with the machine: this was not the moment, or there is no need any more.
    pub fn is_harmless(&self) -> bool {
        matches!(self, Self::Busy | Self::Closed)
    }
}

/// Resolves when a machine may be free to move on again.
pub type Release = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What has to be done before a command can be applied.
pub type Preparation = Pin<Box<dyn Future<Output = Result<(), MachineFault>> + Send>>;

/// A replicated state machine. All methods are synchronous; those marked *blocking* run on the blocking executor.
pub trait Machine: Send + Sync + 'static {
    /// What the command needs before it can be applied; `None` for nearly all. When it is awaited, a durable checkpoint
    /// covers every command before this one, and until the command is applied nothing is captured or installed.
    fn preparation(&self, _command: &Bytes) -> Option<Preparation> {
        None
    }

    /// Applies one committed entry; `None` for an entry that carries no command.
    fn apply(&self, at: Position, command: Option<&Bytes>) -> Result<Response, MachineFault>;

    /// The mark of the last durable checkpoint, as found when the machine was opened or last installed.
    fn mark(&self) -> Option<Bytes>;

    /// Freezes what a checkpoint would write. No apply runs meanwhile.
    fn capture(&self, mark: Bytes) -> Result<Box<dyn Captured>, MachineFault>;

    /// Whether the state may neither be captured nor replaced for a while, because something that it gave away is not
    /// durable elsewhere yet; then the end of a wait after which to ask again.
    fn detained(&self) -> Option<Release> {
        None
    }

    /// Bytes applied since the last checkpoint, to pace checkpoints.
    fn dirty_bytes(&self) -> u64;

    /// Opens a view of the last durable checkpoint, with its mark. *Blocking.*
    fn export(&self) -> Result<Box<dyn SnapshotSource>, MachineFault>;

    /// Begins to receive another replica's state beside the present one. *Blocking.*
    fn begin_import(&self) -> Result<Box<dyn SnapshotSink>, MachineFault>;

    /// Replaces the state by a finished import, durably and at once. *Blocking.*
    fn install(&self, imported: Imported, mark: Bytes) -> Result<(), MachineFault>;
}

/// A frozen state, ready to be written.
pub trait Captured: Send {
    /// Writes it in one durable transaction. *Blocking.*
    fn write(self: Box<Self>) -> Result<(), MachineFault>;
}

/// A stream of snapshot frames, each at most about 1 MiB and checksummed by the machine.
pub trait SnapshotSource: Send {
    /// The mark that these frames bring their receiver to.
    fn mark(&self) -> Bytes;

    /// The next frame; `None` after the last. *Blocking.*
    fn next_frame(&mut self) -> Result<Option<Bytes>, MachineFault>;
}

/// Receives snapshot frames.
pub trait SnapshotSink: Send {
    /// Takes the next frame; refuses one that is damaged or out of order. *Blocking.*
    fn push(&mut self, frame: Bytes) -> Result<(), MachineFault>;

    /// Ends the stream: everything received is durable. *Blocking.*
    fn finish(self: Box<Self>) -> Result<Imported, MachineFault>;
}

/// A finished import; only the machine that made it knows what is inside.
pub struct Imported(pub Box<dyn Any + Send + Sync>);

impl std::fmt::Debug for Imported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Imported")
    }
}
