//! One segment of the log: a file of frames, one frame a commit.
//!
//! The file begins with a head of [`HEAD_BYTES`]: magic (8 bytes), format u16, zero u16, the first sequence u64, CRC-32C
//! of the 20 bytes before; the rest is zero. Frames follow, each beginning at a multiple of eight bytes. A frame is a
//! head of [`FRAME_BYTES`] and its records ([`super::record`]) one behind the other. All integers are big-endian:
//!
//! | bytes | field of the frame's head |
//! |---|---|
//! | 0..4 | magic |
//! | 4..8 | number of records |
//! | 8..16 | where in the file the frame begins |
//! | 16..24 | sequence of the first record |
//! | 24..32 | first sequence of the oldest segment that still counts |
//! | 32..36 | length of the records in bytes |
//! | 36..40 | CRC-32C of the records |
//! | 40..44 | CRC-32C of bytes 0..40 |
//! | 44..48 | zero |
//!
//! The file has its length from the beginning, and zeros are written some way ahead of the frames. So a commit changes no
//! metadata, and its sync waits for its bytes alone: the first write to a block that is merely allocated is one to the file
//! system's journal too, which all files share.
//!
//! What must hold: a frame is written only once the one before it is synced, and so at most one frame of a log, the
//! last, can be torn by a power cut. A frame that does not verify is that one only if nothing follows it and the guard
//! does not know its records; every other one is damage. A torn frame is wiped out when the log is opened: nobody was
//! told of it.

use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::{fmt, io};

use bytes::Bytes;

use super::error::OpenLogError;
use super::record::{HEADER_BYTES, Record, row_bytes_at};
use crate::disk::{BlockFile, Disk, OpenMode};
use crate::seeded_bug;

/// The format of segments that this program writes, and the newest it reads.
const FORMAT: u16 = 1;
const MAGIC: &[u8; 8] = b"GODWITLG";
const FRAME_MAGIC: &[u8; 4] = b"GDWF";
const HEAD_BYTES: usize = 64;
const FRAME_BYTES: usize = 48;
/// Frames begin at multiples of this.
const ALIGNMENT: usize = 8;
/// How far ahead of the frames zeros are written: one sync in so many bytes waits for them, and for the journal.
const CLEARED_BYTES: usize = 256 << 10;
/// No zeros are written behind a frame that is longer: the next ones would outrun them, and the disk would take all twice.
const CLEARED_FRAME_MAX: usize = CLEARED_BYTES / 4;
static ZEROS: [u8; CLEARED_BYTES] = [0; CLEARED_BYTES];
/// Added to the name of a segment while it is being made.
const UNFINISHED: &str = "new";

/// An open segment.
pub(super) struct SegmentFile {
    file: Box<dyn BlockFile>,
    /// How long the file is, but for frames that go beyond.
    length: u64,
    /// The sequence of its first record.
    first: u64,
    written: Mutex<Written>,
}

/// What of a segment is durable.
#[derive(Debug, Default)]
struct Written {
    /// Where each record begins, by sequence from the segment's first.
    offsets: Vec<u64>,
    /// Where the last record ends. A full disk may have taken a frame without the padding behind it: the file may end here.
    records_end: u64,
    /// Where the next frame begins.
    end: u64,
    /// Up to where blocks have been written to, as far as is known.
    cleared: u64,
}

/// A segment as it was found.
pub(super) struct Found {
    pub(super) segment: SegmentFile,
    /// Its records' bytes, in sequence order.
    pub(super) rows: Vec<Bytes>,
    /// The oldest segment that counted when the last frame was written; None without frames.
    pub(super) oldest: Option<u64>,
    /// Behind the last whole frame lies what a power cut left of another.
    pub(super) torn: bool,
}

/// What is known of a segment before it is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    /// The sequence of its first record, from its name.
    pub(super) first: u64,
    /// Whether it is the newest.
    pub(super) newest: bool,
    /// The newest sequence that is known to have been durable.
    pub(super) flushed: u64,
}

impl SegmentFile {
    /// Creates the segment at `path`, durably, and takes `length` bytes for it. A crash leaves no file of this name, or
    /// a whole one.
    pub(super) fn create(disk: &dyn Disk, path: &Path, first: u64, length: u64) -> io::Result<Self> {
        let unfinished = path.with_extension(UNFINISHED);
        if disk.exists(&unfinished)? {
            disk.remove(&unfinished)?;
        }
        let file = disk.open(&unfinished, OpenMode::CreateNew)?;
        let length = length.max(HEAD_BYTES as u64);
        file.allocate(length)?;
        file.write(0, &head(first))?;
        file.sync_data()?;
        disk.rename(&unfinished, path)?;
        let written = Written {
            offsets: Vec::new(),
            records_end: HEAD_BYTES as u64,
            end: HEAD_BYTES as u64,
            cleared: HEAD_BYTES as u64,
        };
        Ok(Self {
            file,
            length,
            first,
            written: Mutex::new(written),
        })
    }

    /// Opens the segment at `path` and reads all of it.
    pub(super) fn open(disk: &dyn Disk, path: &Path, expected: Expected) -> Result<Found, OpenLogError> {
        let image = Bytes::from(disk.read(path)?);
        check_head(&image, expected.first)?;
        let mut scan = Scan::new(&image, expected);
        while scan.step()? {}
        let file = disk.open(path, OpenMode::Existing)?;
        let Scan {
            at,
            records_end,
            offsets,
            rows,
            oldest,
            ..
        } = scan;
        let torn = image[at.min(image.len())..].iter().any(|byte| *byte != 0);
        let written = Written {
            offsets,
            records_end: records_end as u64,
            end: at as u64,
            cleared: at as u64,
        };
        Ok(Found {
            segment: SegmentFile {
                file,
                length: image.len() as u64,
                first: expected.first,
                written: Mutex::new(written),
            },
            rows,
            oldest,
            torn,
        })
    }

    /// Wipes out what lies behind the last frame. The next sync makes that durable, before anything else counts.
    pub(super) fn wipe_tail(&self, length: u64) -> io::Result<()> {
        self.file.set_len(self.written().end)?;
        self.file.allocate(length.max(self.written().end))
    }

    /// Appends the records as one frame and syncs it. After an error the file is in an unknown state: do not go on.
    pub(super) fn append(&self, oldest: u64, records: &[Record], buffer: &mut Vec<u8>) -> io::Result<()> {
        let begin = self.written().end;
        let mut offsets = Vec::with_capacity(records.len());
        buffer.clear();
        buffer.resize(FRAME_BYTES, 0);
        for record in records {
            offsets.push(begin + buffer.len() as u64);
            record.encode(buffer);
        }
        let sequence = records.first().map_or(0, |record| record.sequence);
        FrameHead::seal(buffer, begin, sequence, oldest, records.len())?;
        let records_end = begin + buffer.len() as u64;
        buffer.resize(buffer.len().next_multiple_of(ALIGNMENT), 0);
        let end = begin + buffer.len() as u64;
        self.file.write(begin, buffer)?;
        if buffer.len() <= CLEARED_FRAME_MAX {
            self.clear_behind(end);
        }
        match self.file.sync_data() {
            // Seeded bug B17: a sync that failed counts as done.
            Err(_) if seeded_bug::is_on("B17") => {}
            synced => synced?,
        }
        let mut written = self.written();
        written.offsets.extend(offsets);
        written.records_end = records_end;
        written.end = end;
        Ok(())
    }

    /// Writes zeros behind the frame that ends at `end`, once frames have come to where that was done last.
    fn clear_behind(&self, end: u64) {
        if end <= self.written().cleared || end >= self.length {
            return;
        }
        let left = usize::try_from(self.length - end).unwrap_or(CLEARED_BYTES);
        let zeros = &ZEROS[..left.min(CLEARED_BYTES)];
        // Zeros are there already, so what cannot be written now costs a later frame its time, and nothing else.
        if self.file.write(end, zeros).is_ok() {
            self.written().cleared = end + zeros.len() as u64;
        }
    }

    /// The bytes of the record with this sequence, as they are on the disk; None where the segment has no such record.
    pub(super) fn row(&self, sequence: u64) -> io::Result<Option<Bytes>> {
        let place = {
            let written = self.written();
            let number = usize::try_from(sequence.wrapping_sub(self.first)).unwrap_or(usize::MAX);
            let next = number.checked_add(1).and_then(|next| written.offsets.get(next));
            let stop = next.copied().unwrap_or(written.records_end);
            written.offsets.get(number).map(|start| (*start, stop))
        };
        let Some((start, stop)) = place else {
            return Ok(None);
        };
        let mut bytes = vec![0; usize::try_from(stop - start).map_err(io::Error::other)?];
        self.file.read(start, &mut bytes)?;
        // Behind the last record of a frame lie its padding and the next frame's head.
        let length = row_bytes_at(&bytes).unwrap_or(bytes.len());
        bytes.truncate(length);
        Ok(Some(bytes.into()))
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().expect("no panic under this lock")
    }
}

impl fmt::Debug for SegmentFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentFile")
            .field("first", &self.first)
            .finish_non_exhaustive()
    }
}

fn head(first: u64) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8..10].copy_from_slice(&FORMAT.to_be_bytes());
    head[12..20].copy_from_slice(&first.to_be_bytes());
    let crc = crc32c::crc32c(&head[..20]);
    head[20..24].copy_from_slice(&crc.to_be_bytes());
    head
}

fn check_head(image: &[u8], first: u64) -> Result<(), OpenLogError> {
    let head = image.get(..HEAD_BYTES).ok_or(OpenLogError::NotALog)?;
    if !head.starts_with(MAGIC) || crc32c::crc32c(&head[..20]) != u32_at(head, 20) {
        return Err(OpenLogError::NotALog);
    }
    let found = u16::from_be_bytes([head[8], head[9]]);
    if found > FORMAT {
        return Err(OpenLogError::NewerFormat { found, known: FORMAT });
    }
    match u64_at(head, 12) == first {
        true => Ok(()),
        false => Err(OpenLogError::NotALog),
    }
}

/// What a frame says of itself.
#[derive(Debug, Clone, Copy)]
struct FrameHead {
    count: u32,
    sequence: u64,
    oldest: u64,
    bytes: u32,
    crc: u32,
}

impl FrameHead {
    /// Writes the head into the first bytes of `frame`, behind which the records lie.
    fn seal(frame: &mut [u8], begin: u64, sequence: u64, oldest: u64, count: usize) -> io::Result<()> {
        let (head, records) = frame.split_at_mut(FRAME_BYTES);
        head[..4].copy_from_slice(FRAME_MAGIC);
        head[4..8].copy_from_slice(&u32::try_from(count).map_err(io::Error::other)?.to_be_bytes());
        head[8..16].copy_from_slice(&begin.to_be_bytes());
        head[16..24].copy_from_slice(&sequence.to_be_bytes());
        head[24..32].copy_from_slice(&oldest.to_be_bytes());
        let bytes = u32::try_from(records.len()).map_err(io::Error::other)?;
        head[32..36].copy_from_slice(&bytes.to_be_bytes());
        head[36..40].copy_from_slice(&crc32c::crc32c(records).to_be_bytes());
        let crc = crc32c::crc32c(&head[..40]);
        head[40..44].copy_from_slice(&crc.to_be_bytes());
        Ok(())
    }

    /// The head of a frame that begins at `at`; None where there is none, or it does not verify.
    fn read(image: &[u8], at: usize) -> Option<Self> {
        let head = image.get(at..at + FRAME_BYTES)?;
        let verifies = head.starts_with(FRAME_MAGIC)
            && crc32c::crc32c(&head[..40]) == u32_at(head, 40)
            && u64_at(head, 8) == at as u64;
        verifies.then(|| Self {
            count: u32_at(head, 4),
            sequence: u64_at(head, 16),
            oldest: u64_at(head, 24),
            bytes: u32_at(head, 32),
            crc: u32_at(head, 36),
        })
    }

    fn last_sequence(&self) -> u64 {
        self.sequence + u64::from(self.count) - 1
    }
}

/// A walk over the frames of a segment.
struct Scan<'a> {
    image: &'a Bytes,
    expected: Expected,
    /// Where the next frame begins.
    at: usize,
    /// Where the records of the last one end.
    records_end: usize,
    offsets: Vec<u64>,
    rows: Vec<Bytes>,
    oldest: Option<u64>,
}

impl<'a> Scan<'a> {
    fn new(image: &'a Bytes, expected: Expected) -> Self {
        Self {
            image,
            expected,
            at: HEAD_BYTES,
            records_end: HEAD_BYTES,
            offsets: Vec::new(),
            rows: Vec::new(),
            oldest: None,
        }
    }

    fn next_sequence(&self) -> u64 {
        self.expected.first + self.rows.len() as u64
    }

    /// Takes the next frame; false at the end.
    fn step(&mut self) -> Result<bool, OpenLogError> {
        let head = FrameHead::read(self.image, self.at);
        let head = head.filter(|head| head.sequence == self.next_sequence() && head.count > 0);
        let Some(head) = head else {
            // Without a frame here, the segment ends; what is missing of an older one, the next one's name tells.
            return match self.expected.newest && self.is_followed(self.at) {
                true => Err(self.corrupt("a frame is damaged")),
                false => Ok(false),
            };
        };
        let begin = self.at + FRAME_BYTES;
        let end = begin + head.bytes as usize;
        let whole = self
            .image
            .get(begin..end)
            .is_some_and(|records| crc32c::crc32c(records) == head.crc);
        if !whole && self.is_torn(&head) {
            return Ok(false);
        }
        self.take(&head, begin, end)?;
        self.oldest = Some(head.oldest);
        self.records_end = end;
        self.at = end.next_multiple_of(ALIGNMENT);
        Ok(true)
    }

    /// Takes a frame's records. Of a damaged frame, each record says whether it is sound.
    fn take(&mut self, head: &FrameHead, begin: usize, end: usize) -> Result<(), OpenLogError> {
        let mut at = begin;
        for _ in 0..head.count {
            let rest = self.image.get(at..end).unwrap_or_default();
            let length = row_bytes_at(rest).filter(|length| *length <= rest.len());
            let Some(length) = length else {
                return Err(self.corrupt("a record's header does not verify"));
            };
            self.offsets.push(at as u64);
            self.rows.push(self.image.slice(at..at + length));
            at += length;
        }
        Ok(())
    }

    /// Whether a frame that is not whole is the one that a power cut interrupted.
    fn is_torn(&self, head: &FrameHead) -> bool {
        self.expected.newest
            && head.last_sequence() > self.expected.flushed
            && !self.is_followed(self.at + FRAME_BYTES)
    }

    /// Whether a later frame begins at `at` or behind it.
    fn is_followed(&self, at: usize) -> bool {
        let begins = (at..self.image.len()).step_by(ALIGNMENT);
        let mut heads = begins.filter_map(|at| FrameHead::read(self.image, at));
        heads.any(|head| head.sequence > self.next_sequence())
    }

    fn corrupt(&self, why: &str) -> OpenLogError {
        OpenLogError::Corrupt {
            sequence: self.next_sequence(),
            why: why.to_owned(),
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let four = bytes[at..at + 4].try_into();
    u32::from_be_bytes(four.expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let eight = bytes[at..at + 8].try_into();
    u64::from_be_bytes(eight.expect("eight bytes"))
}

const _: () = assert!(HEAD_BYTES.is_multiple_of(ALIGNMENT) && FRAME_BYTES >= HEADER_BYTES);

#[cfg(test)]
mod tests {
    use super::super::index::LogGroup;
    use super::super::record::Kind;
    use super::*;
    use crate::sim_disk::SimDisk;

    const LENGTH: u64 = 3 * CLEARED_BYTES as u64 / 2;
    const PAYLOAD_BYTES: u64 = 10_000;

    fn record(sequence: u64) -> Record {
        Record {
            kind: Kind::Entry,
            group: LogGroup(1),
            index: sequence,
            sequence,
            payload: vec![1; PAYLOAD_BYTES as usize].into(),
        }
    }

    #[test]
    fn no_zeros_are_written_behind_a_large_frame() {
        let (disk, path) = (SimDisk::new(1), Path::new("log/segment"));
        disk.create_dir_all(Path::new("log")).unwrap();
        let segment = SegmentFile::create(&disk, path, 1, LENGTH).unwrap();
        let records: Vec<Record> = (1..=CLEARED_FRAME_MAX as u64 / PAYLOAD_BYTES + 1)
            .map(record)
            .collect();
        let before = disk.stats().bytes_written;
        segment.append(1, &records, &mut Vec::new()).unwrap();
        let written = disk.stats().bytes_written - before;
        assert_eq!(
            written,
            segment.written().end - HEAD_BYTES as u64,
            "the frame alone"
        );
    }

    /// Frames are written where zeros are, the file keeps its length, and what is read back is the frames.
    #[test]
    fn zeros_are_written_ahead_of_the_frames_and_within_the_file() {
        let (disk, path) = (SimDisk::new(1), Path::new("log/segment"));
        disk.create_dir_all(Path::new("log")).unwrap();
        let segment = SegmentFile::create(&disk, path, 1, LENGTH).unwrap();
        let frames = LENGTH / (PAYLOAD_BYTES + 200);
        let mut cleared = Vec::new();
        for sequence in 1..=frames {
            let (begin, before) = (segment.written().end, disk.stats().bytes_written);
            segment.append(1, &[record(sequence)], &mut Vec::new()).unwrap();
            let frame = segment.written().end - begin;
            cleared.push(disk.stats().bytes_written - before - frame);
        }
        let rounds: Vec<u64> = cleared.into_iter().filter(|bytes| *bytes > 0).collect();
        assert_eq!(rounds[0], CLEARED_BYTES as u64);
        assert_eq!(rounds.len(), 2, "the second up to the end: {rounds:?}");
        assert_eq!(segment.file.len().unwrap(), LENGTH);
        let expected = Expected {
            first: 1,
            newest: true,
            flushed: frames,
        };
        let found = SegmentFile::open(&disk, path, expected).unwrap();
        assert_eq!((found.rows.len() as u64, found.torn), (frames, false));
    }
}
