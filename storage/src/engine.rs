//! The storage engine: byte-keyed tables with atomic commits. The one file that names redb.
//!
//! An [`Engine`] is one redb database over one [`BlockFile`]. Writes go through [`Engine::write`],
//! one transaction at a time; reads through a [`ReadView`], a snapshot that later writes do not
//! disturb (and whose pages they cannot reuse while it lives, so hold it briefly).
//!
//! What must hold:
//! - a commit that returned an error has an unknown outcome, and the engine takes no further write
//!   ([`WriteEngineError::UnknownOutcome`]): its owner stops and opens the file anew;
//! - redb may panic on a page that was altered at rest. That is input from disk, so the panic is
//!   caught here and becomes `Corrupt`; the value that was being read is never returned.
//!
//! Left out: checksums of rows. redb does not verify its page checksums on ordinary reads, so each
//! owner of a table seals its own rows and verifies them on read.

use std::collections::BTreeMap;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use redb::{
    Database, DatabaseError, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, StorageBackend, StorageError, Table, TableDefinition, TableError, TableHandle,
    WriteTransaction,
};

use crate::disk::BlockFile;
use crate::seeded_bug;

/// How an engine's file is opened.
#[derive(Debug, Clone, Copy)]
pub struct EngineOptions {
    /// Memory for cached pages, in bytes. redb's own default is 1 GiB a file.
    pub cache_bytes: usize,
    /// Saves the allocator's state in each synced commit, so that an open after a crash does not
    /// walk the file. Costs a second sync a commit: for large files that commit seldom.
    pub quick_repair: bool,
    /// Verifies the checksum of every page at open, which reads the whole file.
    pub verify_on_open: bool,
}

/// Whether a commit waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The commit, and every one before it, survives a power cut once it returned.
    Synced,
    /// The commit is visible at once and durable with the next synced one.
    Unsynced,
}

/// Why a file could not be opened as a database.
#[derive(Debug, thiserror::Error)]
pub enum OpenEngineError {
    /// The disk failed.
    #[error("the database file cannot be read or written: {0}")]
    Io(#[source] io::Error),
    /// The file is not a database, or its pages do not verify.
    #[error("the database file is corrupt: {0}")]
    Corrupt(String),
    /// The file was written by another format of the engine.
    #[error("the database file has engine format {found}, which this program does not know")]
    UnknownFormat {
        /// The format found in the file.
        found: u8,
    },
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadEngineError {
    /// The disk failed.
    #[error("the database cannot be read: {0}")]
    Io(#[source] io::Error),
    /// A page does not parse.
    #[error("the database is corrupt: {0}")]
    Corrupt(String),
}

/// Why a write failed. Unless it is [`WriteEngineError::UnknownOutcome`], nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteEngineError {
    /// The disk failed before the commit; nothing was written.
    #[error("the database cannot be written: {0}")]
    Io(#[source] io::Error),
    /// A page does not parse; nothing was written.
    #[error("the database is corrupt: {0}")]
    Corrupt(String),
    /// The commit itself failed: its changes are on disk all together or not at all.
    #[error("the commit failed and may or may not have taken effect: {0}")]
    UnknownOutcome(#[source] io::Error),
    /// An earlier commit failed; the file must be opened anew.
    #[error("an earlier commit failed, the database takes no further write")]
    Stopped,
}

/// A database of byte-keyed tables in one file.
#[derive(Debug)]
pub struct Engine {
    database: Arc<Database>,
    file: Arc<dyn BlockFile>,
    quick_repair: bool,
    /// Set by a failed commit: the file's state is unknown, so nothing is written on top of it.
    stopped: AtomicBool,
}

impl Engine {
    /// Opens the database in `file`, or creates one in an empty file. After a crash this repairs:
    /// the state is that of a commit, the newest synced one or a later one.
    pub fn open(file: Box<dyn BlockFile>, options: EngineOptions) -> Result<Engine, OpenEngineError> {
        let file: Arc<dyn BlockFile> = Arc::from(file);
        let open = || {
            Database::builder()
                .set_cache_size(options.cache_bytes)
                .set_check_integrity_on_open(options.verify_on_open)
                .create_with_backend(Backend(file.clone()))
        };
        let database = shielded(open).map_err(OpenEngineError::Corrupt)??;
        Ok(Engine {
            database: Arc::new(database),
            file,
            quick_repair: options.quick_repair,
            stopped: AtomicBool::new(false),
        })
    }

    /// Runs `change` in one transaction and commits it; an error of `change` discards it all.
    /// Waits while another write runs.
    pub fn write<T, E: From<WriteEngineError>>(
        &self,
        durability: Durability,
        change: impl FnOnce(&mut WriteTx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let transaction = self.begin_write(durability)?;
        let mut tx = WriteTx {
            transaction: &transaction,
            tables: BTreeMap::new(),
            added_bytes: 0,
            broken: false,
        };
        let changed = change(&mut tx)?;
        let broken = tx.broken;
        drop(tx);
        // An error that `change` swallowed must not become half a commit.
        if broken {
            return Err(WriteEngineError::Corrupt("an operation of the transaction failed".into()).into());
        }
        self.commit(transaction)?;
        Ok(changed)
    }

    /// A snapshot of the newest commit, synced or not.
    pub fn read(&self) -> Result<ReadView, ReadEngineError> {
        match shielded(|| self.database.begin_read()) {
            Err(panic) => Err(ReadEngineError::Corrupt(panic)),
            Ok(Ok(transaction)) => Ok(ReadView {
                transaction,
                database: self.database.clone(),
            }),
            Ok(Err(error)) => Err(ReadEngineError::Io(io::Error::other(error))),
        }
    }

    /// The bytes that the file takes on the disk. Space inside that no row uses is part of it: redb
    /// uses such space again and seldom gives it back.
    pub fn taken_bytes(&self) -> io::Result<u64> {
        self.file.taken_bytes()
    }

    /// Verifies every page's checksum; true when the file was sound, false when it was repaired.
    /// No read view may be alive: `ResourceBusy`.
    pub fn check_integrity(&mut self) -> Result<bool, OpenEngineError> {
        let database = Arc::get_mut(&mut self.database)
            .ok_or_else(|| OpenEngineError::Io(io::ErrorKind::ResourceBusy.into()))?;
        Ok(shielded(|| database.check_integrity()).map_err(OpenEngineError::Corrupt)??)
    }

    fn begin_write(&self, durability: Durability) -> Result<WriteTransaction, WriteEngineError> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(WriteEngineError::Stopped);
        }
        let mut transaction = shielded(|| self.database.begin_write())
            .map_err(WriteEngineError::Corrupt)?
            .map_err(|error| WriteEngineError::Io(io::Error::other(error)))?;
        let level = match durability {
            Durability::Synced => redb::Durability::Immediate,
            Durability::Unsynced => redb::Durability::None,
        };
        transaction
            .set_durability(level)
            .map_err(|error| WriteEngineError::Io(io::Error::other(error)))?;
        transaction.set_quick_repair(self.quick_repair && durability == Durability::Synced);
        Ok(transaction)
    }

    fn commit(&self, transaction: WriteTransaction) -> Result<(), WriteEngineError> {
        let failure = match shielded(|| transaction.commit()) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => io::Error::other(error),
            Err(panic) => io::Error::other(panic),
        };
        self.stopped.store(true, Ordering::Release);
        Err(WriteEngineError::UnknownOutcome(failure))
    }
}

/// One write transaction. Tables come into being with their first put.
pub struct WriteTx<'tx> {
    transaction: &'tx WriteTransaction,
    tables: BTreeMap<String, Table<'tx, &'static [u8], &'static [u8]>>,
    added_bytes: i64,
    /// An operation failed half way, so the transaction must not commit.
    broken: bool,
}

impl<'tx> WriteTx<'tx> {
    /// The value of a key, as this transaction sees it.
    pub fn get(&mut self, table: &str, key: &[u8]) -> Result<Option<Bytes>, WriteEngineError> {
        self.with_table(table, |table| {
            Ok(table.get(key)?.map(|value| Bytes::copy_from_slice(value.value())))
        })
    }

    /// Sets a key's value.
    pub fn put(&mut self, table: &str, key: &[u8], value: &[u8]) -> Result<(), WriteEngineError> {
        let replaced = self.with_table(table, |table| {
            Ok(table.insert(key, value)?.map(|old| old.value().len()))
        })?;
        self.added_bytes += row_bytes(key, value.len()) - replaced.map_or(0, |old| row_bytes(key, old));
        Ok(())
    }

    /// Removes a key, if it is there.
    pub fn delete(&mut self, table: &str, key: &[u8]) -> Result<(), WriteEngineError> {
        let removed = self.with_table(table, |table| Ok(table.remove(key)?.map(|old| old.value().len())))?;
        self.added_bytes -= removed.map_or(0, |old| row_bytes(key, old));
        Ok(())
    }

    /// How many bytes of keys and values [`WriteTx::put`] added more than it and [`WriteTx::delete`]
    /// removed.
    pub fn added_bytes(&self) -> i64 {
        self.added_bytes
    }

    /// Removes the keys from `start` up to, not including, `end`.
    pub fn delete_range(&mut self, table: &str, start: &[u8], end: &[u8]) -> Result<(), WriteEngineError> {
        self.with_table(table, |table| table.retain_in(start..end, |_, _| false))
    }

    /// Removes a table and all it holds, if it is there.
    pub fn drop_table(&mut self, table: &str) -> Result<(), WriteEngineError> {
        self.tables.remove(table);
        let transaction = self.transaction;
        let dropped = shielded(|| transaction.delete_table(definition(table)));
        self.settle(dropped.map(|result| result.map(|_| ())))
    }

    /// The names of all tables, sorted.
    pub fn tables(&mut self) -> Result<Vec<String>, WriteEngineError> {
        let transaction = self.transaction;
        let listed = shielded(|| {
            Ok(transaction
                .list_tables()?
                .map(|table| table.name().to_owned())
                .collect::<Vec<_>>())
        });
        let mut names = self.settle(listed)?;
        names.sort();
        Ok(names)
    }

    fn with_table<T>(
        &mut self,
        name: &str,
        operation: impl FnOnce(&mut Table<'tx, &'static [u8], &'static [u8]>) -> Result<T, StorageError>,
    ) -> Result<T, WriteEngineError> {
        if !self.tables.contains_key(name) {
            let transaction = self.transaction;
            let opened = shielded(|| transaction.open_table(definition(name)));
            let table = self.settle(opened)?;
            self.tables.insert(name.to_owned(), table);
        }
        let table = self.tables.get_mut(name).expect("the table was opened above");
        let outcome = shielded(|| operation(table).map_err(TableError::from));
        self.settle(outcome)
    }

    /// Turns an operation's outcome into this crate's terms, and marks the transaction if it failed.
    fn settle<T>(&mut self, outcome: Result<Result<T, TableError>, String>) -> Result<T, WriteEngineError> {
        let error = match outcome {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(TableError::Storage(StorageError::Corrupted(why)))) => WriteEngineError::Corrupt(why),
            Ok(Err(TableError::Storage(StorageError::Io(error)))) => WriteEngineError::Io(error),
            Ok(Err(other)) => WriteEngineError::Io(io::Error::other(other)),
            Err(panic) => WriteEngineError::Corrupt(panic),
        };
        self.broken = true;
        Err(error)
    }
}

/// A snapshot of all tables. Cheap to open; pins the pages it can see until it is dropped, and keeps
/// the database open, as do the tables and rows taken from it: redb fails reads of a closed one.
pub struct ReadView {
    // Dropped before the database it belongs to; so below.
    transaction: ReadTransaction,
    database: Arc<Database>,
}

impl ReadView {
    /// One table of the snapshot, opened once for many reads. A missing table reads as empty.
    pub fn table(&self, name: &str) -> Result<TableView, ReadEngineError> {
        let table = match shielded(|| self.transaction.open_table(definition(name))) {
            Ok(Ok(table)) => Some(table),
            Ok(Err(TableError::TableDoesNotExist(_))) => None,
            Ok(Err(TableError::Storage(error))) => return Err(error.into()),
            Ok(Err(other)) => return Err(ReadEngineError::Corrupt(other.to_string())),
            Err(panic) => return Err(ReadEngineError::Corrupt(panic)),
        };
        Ok(TableView {
            table,
            database: self.database.clone(),
        })
    }

    /// The value of a key.
    pub fn get(&self, table: &str, key: &[u8]) -> Result<Option<Bytes>, ReadEngineError> {
        self.table(table)?.get(key)
    }

    /// The rows of a key range, in key order; iterate from either end.
    pub fn range<'k>(&self, table: &str, keys: impl RangeBounds<&'k [u8]>) -> Result<Rows, ReadEngineError> {
        self.table(table)?.range(keys)
    }

    /// The names of all tables, sorted.
    pub fn tables(&self) -> Result<Vec<String>, ReadEngineError> {
        let list = || -> Result<Vec<String>, StorageError> {
            Ok(self
                .transaction
                .list_tables()?
                .map(|table| table.name().to_owned())
                .collect())
        };
        let mut names = shielded(list).map_err(ReadEngineError::Corrupt)??;
        names.sort();
        Ok(names)
    }
}

/// One table of a [`ReadView`]; it keeps the snapshot alive by itself.
pub struct TableView {
    table: Option<ReadOnlyTable<&'static [u8], &'static [u8]>>,
    database: Arc<Database>,
}

impl TableView {
    /// How many rows there are.
    pub fn count(&self) -> Result<u64, ReadEngineError> {
        let Some(table) = &self.table else { return Ok(0) };
        Ok(shielded(|| table.len()).map_err(ReadEngineError::Corrupt)??)
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadEngineError> {
        let Some(table) = &self.table else { return Ok(None) };
        let get = || -> Result<Option<Bytes>, StorageError> {
            Ok(table.get(key)?.map(|value| Bytes::copy_from_slice(value.value())))
        };
        Ok(shielded(get).map_err(ReadEngineError::Corrupt)??)
    }

    /// The rows of a key range, in key order; iterate from either end. The iterator keeps the
    /// snapshot alive by itself.
    pub fn range<'k>(&self, keys: impl RangeBounds<&'k [u8]>) -> Result<Rows, ReadEngineError> {
        let (start, end) = (keys.start_bound().cloned(), keys.end_bound().cloned());
        let rows = match &self.table {
            Some(table) if !is_empty(start, end) => {
                let rows = shielded(|| table.range::<&[u8]>((start, end)));
                Some(rows.map_err(ReadEngineError::Corrupt)??)
            }
            _ => None,
        };
        Ok(Rows {
            rows,
            _database: self.database.clone(),
        })
    }
}

/// The rows of a range as (key, value), from either end.
pub struct Rows {
    rows: Option<redb::Range<'static, &'static [u8], &'static [u8]>>,
    _database: Arc<Database>,
}

type StoredRow = Result<
    (
        redb::AccessGuard<'static, &'static [u8]>,
        redb::AccessGuard<'static, &'static [u8]>,
    ),
    StorageError,
>;

impl Rows {
    fn step(
        &mut self,
        advance: impl FnOnce(&mut redb::Range<'static, &'static [u8], &'static [u8]>) -> Option<StoredRow>,
    ) -> Option<Result<(Bytes, Bytes), ReadEngineError>> {
        let rows = self.rows.as_mut()?;
        let copied = shielded(|| {
            advance(rows).map(|row| {
                let (key, value) = row?;
                Ok::<_, StorageError>((
                    Bytes::copy_from_slice(key.value()),
                    Bytes::copy_from_slice(value.value()),
                ))
            })
        });
        match copied {
            Ok(row) => row.map(|row| row.map_err(ReadEngineError::from)),
            Err(panic) => {
                // After a panic the iterator's own state is not to be trusted.
                self.rows = None;
                Some(Err(ReadEngineError::Corrupt(panic)))
            }
        }
    }
}

impl Iterator for Rows {
    type Item = Result<(Bytes, Bytes), ReadEngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(|rows| rows.next())
    }
}

impl DoubleEndedIterator for Rows {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(|rows| rows.next_back())
    }
}

/// redb's view of a [`BlockFile`].
#[derive(Debug)]
struct Backend(Arc<dyn BlockFile>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.0.sync_data() {
            // Seeded bug B17: a sync that failed counts as done.
            Err(_) if seeded_bug::is_on("B17") => Ok(()),
            synced => synced,
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write(offset, bytes)
    }
}

impl From<StorageError> for ReadEngineError {
    fn from(error: StorageError) -> ReadEngineError {
        match error {
            StorageError::Corrupted(why) => ReadEngineError::Corrupt(why),
            StorageError::Io(error) => ReadEngineError::Io(error),
            other => ReadEngineError::Io(io::Error::other(other)),
        }
    }
}

impl From<DatabaseError> for OpenEngineError {
    fn from(error: DatabaseError) -> OpenEngineError {
        match error {
            DatabaseError::UpgradeRequired(found) => OpenEngineError::UnknownFormat { found },
            DatabaseError::Storage(StorageError::Corrupted(why)) => OpenEngineError::Corrupt(why),
            // redb reports a file that is not its own as invalid data, and one cut short as its end.
            DatabaseError::Storage(StorageError::Io(error)) => match error.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                    OpenEngineError::Corrupt(error.to_string())
                }
                _ => OpenEngineError::Io(error),
            },
            other => OpenEngineError::Io(io::Error::other(other)),
        }
    }
}

fn row_bytes(key: &[u8], value_bytes: usize) -> i64 {
    (key.len() + value_bytes) as i64
}

fn definition(name: &str) -> TableDefinition<'_, &'static [u8], &'static [u8]> {
    TableDefinition::new(name)
}

/// redb refuses a range whose start lies after its end; here it is a range without rows.
fn is_empty(start: Bound<&[u8]>, end: Bound<&[u8]>) -> bool {
    match (start, end) {
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
            start >= end
        }
        _ => false,
    }
}

/// Runs redb code; a panic in it becomes the panic's message.
fn shielded<T>(operation: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(operation)).map_err(|panic| {
        let message = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        message
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "redb panicked".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, OpenMode, RealDisk};

    const OPTIONS: EngineOptions = EngineOptions {
        cache_bytes: 1 << 20,
        quick_repair: false,
        verify_on_open: false,
    };

    fn open(dir: &tempfile::TempDir) -> Engine {
        let file = RealDisk
            .open(&dir.path().join("db"), OpenMode::CreateIfMissing)
            .unwrap();
        Engine::open(file, OPTIONS).unwrap()
    }

    fn keys(rows: Rows) -> Vec<Bytes> {
        rows.map(|row| row.unwrap().0).collect()
    }

    #[test]
    fn ranges_run_from_either_end_and_views_stand_still() {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(&dir);
        let fill = |tx: &mut WriteTx<'_>| {
            for key in [b"a", b"b", b"c", b"d"] {
                tx.put("rows", key, b"value")?;
            }
            Ok::<_, WriteEngineError>(())
        };
        engine.write(Durability::Unsynced, fill).unwrap();
        let before = engine.read().unwrap();
        engine
            .write(Durability::Synced, |tx| {
                tx.delete_range("rows", b"b", b"d")?;
                tx.drop_table("absent")?;
                tx.delete("rows", b"a")
            })
            .unwrap();
        let (all, low): (Bound<&[u8]>, _) = (Bound::Unbounded, Bound::Included(b"b".as_slice()));
        assert_eq!(keys(before.range("rows", (low, all)).unwrap()), ["b", "c", "d"]);
        let backwards = before
            .range("rows", (low, all))
            .unwrap()
            .rev()
            .map(|row| row.unwrap().0);
        assert_eq!(backwards.collect::<Vec<_>>(), ["d", "c", "b"]);
        assert!(
            keys(
                before
                    .range("rows", (low, Bound::Excluded(b"a".as_slice())))
                    .unwrap()
            )
            .is_empty()
        );
        assert_eq!(
            keys(engine.read().unwrap().range("rows", (all, all)).unwrap()),
            ["d"]
        );
        assert_eq!(engine.read().unwrap().get("absent", b"d").unwrap(), None);
    }

    #[test]
    fn an_error_discards_the_transaction_and_a_reopen_finds_what_was_committed() {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(&dir);
        engine
            .write(Durability::Synced, |tx| tx.put("kept", b"k", b"1"))
            .unwrap();
        let refused: Result<(), WriteEngineError> = engine.write(Durability::Synced, |tx| {
            tx.put("kept", b"k", b"2")?;
            tx.drop_table("kept")?;
            Err(WriteEngineError::Corrupt("the caller changed its mind".into()))
        });
        refused.unwrap_err();
        drop(engine);
        let mut engine = open(&dir);
        assert_eq!(engine.read().unwrap().get("kept", b"k").unwrap().unwrap(), "1");
        assert!(engine.check_integrity().unwrap());
        engine
            .write(Durability::Synced, |tx| tx.drop_table("kept"))
            .unwrap();
        assert!(engine.read().unwrap().tables().unwrap().is_empty());
    }

    #[test]
    fn a_view_is_read_although_its_engine_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mut engine = open(&dir);
        engine
            .write(Durability::Synced, |tx| tx.put("rows", b"k", b"v"))
            .unwrap();
        let table = engine.read().unwrap().table("rows").unwrap();
        assert!(engine.check_integrity().is_err());
        drop(engine);
        assert_eq!(table.get(b"k").unwrap().unwrap(), "v");
        let rows = table.range(..).unwrap();
        drop(table);
        assert_eq!(keys(rows), ["k"]);
        open(&dir);
    }

    #[test]
    fn a_transaction_counts_what_it_adds_and_removes() {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(&dir);
        let added = |change: &dyn Fn(&mut WriteTx<'_>) -> Result<(), WriteEngineError>| {
            let counted = engine.write(Durability::Unsynced, |tx| {
                change(tx)?;
                Ok::<_, WriteEngineError>(tx.added_bytes())
            });
            counted.unwrap()
        };
        assert_eq!(added(&|tx| tx.put("rows", b"key", b"value")), 8);
        assert_eq!(added(&|tx| tx.put("rows", b"key", b"v")), -4);
        assert_eq!(added(&|tx| tx.delete("rows", b"absent")), 0);
        assert_eq!(added(&|tx| tx.delete("rows", b"key")), -4);
        assert!(engine.taken_bytes().unwrap() > 0);
    }

    #[test]
    fn a_file_of_something_else_is_corrupt() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        std::fs::write(&path, vec![7; 8192]).unwrap();
        let file = RealDisk.open(&path, OpenMode::Existing).unwrap();
        assert!(matches!(
            Engine::open(file, OPTIONS),
            Err(OpenEngineError::Corrupt(_))
        ));
        assert_eq!(std::fs::read(&path).unwrap(), vec![7; 8192]);
    }

    #[test]
    fn views_and_rows_can_cross_threads() {
        fn assert_send<T: Send>() {}
        assert_send::<Engine>();
        assert_send::<ReadView>();
        assert_send::<Rows>();
    }
}
