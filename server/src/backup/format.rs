//! One file of a backup.
//!
//! It begins with [`MAGIC`]; frames follow, each with its length and a CRC-32C before it (both four bytes, little-endian).
//! The checksum is of the frame's offset, its length and its bytes, so that a frame which was moved, cut or altered does not
//! pass. The bytes are a [`Frame`], compressed with zstd. Every frame has versions of one run, in key order; the last frame
//! says how many there were, and nothing comes after it: a file that was cut between two frames is told from a whole one.
//!
//! The format only grows. A reader that meets a field it does not know passes over it; whatever must not be passed over
//! needs a new [`MAGIC`].

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    path::Path,
};

use client::KeyValue;
use prost::Message;

use super::manifest::Run;

/// The first bytes of a file, with the format's version.
const MAGIC: &[u8; 8] = b"GODWITB1";
/// Length and checksum.
const FRAME_HEAD: usize = 8;
/// A frame is closed when its keys and values reach this; one with a larger pair has that pair alone.
const FRAME_BYTES: usize = 1 << 20;
/// What one pair takes beside its key and value, roughly.
const PAIR_BYTES: usize = 32;
const ZSTD_LEVEL: i32 = 3;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The file cannot be opened or read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is something else, or of a later version.
    #[error("does not begin as a file of a backup that this program can read")]
    Foreign,
    /// It ends too early.
    #[error("is cut off: the frame at byte {at} is not whole, or the last one is missing")]
    Cut {
        /// Where the frame begins.
        at: u64,
    },
    /// It is not what was written.
    #[error("is damaged: {what} in the frame at byte {at}")]
    Damaged {
        /// Where the frame begins.
        at: u64,
        /// What does not fit.
        what: &'static str,
    },
}

/// What stands in a file between two checksums.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Frame {
    /// Which run the versions are of, counted from 0.
    #[prost(uint32, tag = "1")]
    pub(super) run: u32,
    /// In key order. Version 0: the key was deleted.
    #[prost(message, repeated, tag = "2")]
    pub(super) versions: Vec<KeyValue>,
    /// In the last frame, which has no versions.
    #[prost(message, optional, tag = "3")]
    pub(super) end: Option<End>,
}

/// The last word of a file.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct End {
    /// Versions in the file.
    #[prost(uint64, tag = "1")]
    pub(super) versions: u64,
    /// The shard's revision that the file leads to.
    #[prost(uint64, tag = "2")]
    pub(super) revision: u64,
}

/// What was written to a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) file_bytes: u64,
    /// Of the whole file.
    pub(super) crc32c: u32,
    pub(super) versions: u64,
    /// How many of the versions are deletions.
    pub(super) deletions: u64,
    /// Bytes of keys and values.
    pub(super) data_bytes: u64,
    pub(super) runs: Vec<Run>,
}

/// A file that is being written.
pub(super) struct FrameWriter {
    file: File,
    written: Written,
    pending: Vec<KeyValue>,
    pending_bytes: usize,
    frame_bytes: usize,
}

impl FrameWriter {
    /// Begins a file, in place of what is there.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Self::with_frames_of(FRAME_BYTES, path)
    }

    fn with_frames_of(frame_bytes: usize, path: &Path) -> io::Result<Self> {
        let mut writer = Self {
            file: File::create(path)?,
            written: Written::default(),
            pending: Vec::new(),
            pending_bytes: 0,
            frame_bytes,
        };
        writer.append(MAGIC)?;
        Ok(writer)
    }

    /// Versions so far.
    pub(super) fn versions(&self) -> u64 {
        self.written.versions
    }

    /// What is pushed from now on is of a new run.
    pub(super) fn begin_run(&mut self) -> io::Result<()> {
        self.close_frame()?;
        if self.written.runs.last().is_none_or(|run| run.versions > 0) {
            self.written.runs.push(Run {
                offset: self.written.file_bytes,
                versions: 0,
            });
        }
        Ok(())
    }

    /// Adds a version to the run, whose keys must come in their order.
    pub(super) fn push(&mut self, version: KeyValue) -> io::Result<()> {
        let run = self.written.runs.last_mut().expect("a run was begun");
        run.versions += 1;
        let bytes = version.key.len() + version.value.len();
        self.written.versions += 1;
        self.written.deletions += u64::from(version.version == 0);
        self.written.data_bytes += bytes as u64;
        self.pending_bytes += bytes + PAIR_BYTES;
        self.pending.push(version);
        match self.pending_bytes >= self.frame_bytes {
            true => self.close_frame(),
            false => Ok(()),
        }
    }

    /// Ends the file, which leads to `revision`, and has it synced. Its name is synced with the folder.
    pub(super) fn finish(mut self, revision: u64) -> io::Result<Written> {
        self.close_frame()?;
        self.written.runs.retain(|run| run.versions > 0);
        let end = End {
            versions: self.written.versions,
            revision,
        };
        self.write(&Frame {
            end: Some(end),
            ..Frame::default()
        })?;
        self.file.sync_all()?;
        Ok(self.written)
    }

    fn close_frame(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.pending_bytes = 0;
        let frame = Frame {
            run: self.written.runs.len() as u32 - 1,
            versions: std::mem::take(&mut self.pending),
            end: None,
        };
        self.write(&frame)
    }

    fn write(&mut self, frame: &Frame) -> io::Result<()> {
        let bytes = zstd::encode_all(&frame.encode_to_vec()[..], ZSTD_LEVEL)?;
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let checksum = checksum(self.written.file_bytes, length, &bytes);
        let head = [length.to_le_bytes(), checksum.to_le_bytes()].concat();
        self.append(&head)?;
        self.append(&bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.written.file_bytes += bytes.len() as u64;
        self.written.crc32c = crc32c::crc32c_append(self.written.crc32c, bytes);
        Ok(())
    }
}

fn checksum(offset: u64, length: u32, bytes: &[u8]) -> u32 {
    let head = crc32c::crc32c_append(crc32c::crc32c(&offset.to_le_bytes()), &length.to_le_bytes());
    crc32c::crc32c_append(head, bytes)
}

/// A file that is being read, frame by frame.
pub(super) struct FrameReader {
    file: BufReader<File>,
    at: u64,
    crc32c: u32,
    has_ended: bool,
}

impl FrameReader {
    /// From the first frame on.
    pub(super) fn open(path: &Path) -> Result<Self, FormatError> {
        let mut reader = Self {
            file: BufReader::new(File::open(path)?),
            at: 0,
            crc32c: 0,
            has_ended: false,
        };
        let magic = reader.take(MAGIC.len() as u64)?;
        if magic.len() < MAGIC.len() {
            return Err(FormatError::Cut { at: 0 });
        }
        match magic == MAGIC {
            true => Ok(reader),
            false => Err(FormatError::Foreign),
        }
    }

    /// From the frame that begins at `offset` on.
    pub(super) fn open_at(path: &Path, offset: u64) -> Result<Self, FormatError> {
        let mut reader = Self::open(path)?;
        reader.file.seek(SeekFrom::Start(offset))?;
        reader.at = offset;
        Ok(reader)
    }

    /// Where the next frame begins.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Of all bytes read so far; of the whole file after its last frame, where it was opened at its beginning.
    pub(super) fn crc32c(&self) -> u32 {
        self.crc32c
    }

    /// The next frame; `None`: the last one was the last, and the file ends there.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, FormatError> {
        let at = self.at;
        let head = self.take(FRAME_HEAD as u64)?;
        if head.is_empty() && self.has_ended {
            return Ok(None);
        }
        if self.has_ended {
            let what = "bytes after the last frame";
            return Err(FormatError::Damaged { at, what });
        }
        let Some((length, expected)) = split(&head) else {
            return Err(FormatError::Cut { at });
        };
        let bytes = self.take(length.into())?;
        if bytes.len() < length as usize {
            return Err(FormatError::Cut { at });
        }
        if checksum(at, length, &bytes) != expected {
            let what = "a wrong checksum";
            return Err(FormatError::Damaged { at, what });
        }
        let frame = decoded(&bytes).ok_or(FormatError::Damaged {
            at,
            what: "bytes that cannot be read",
        })?;
        self.has_ended = frame.end.is_some();
        Ok(Some(frame))
    }

    /// As many bytes, or those that are left. A length that was altered reserves nothing.
    fn take(&mut self, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        (&mut self.file).take(length).read_to_end(&mut bytes)?;
        self.at += bytes.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, &bytes);
        Ok(bytes)
    }
}

fn split(head: &[u8]) -> Option<(u32, u32)> {
    let (length, checksum) = head.split_at_checked(4)?;
    let number = |bytes: &[u8]| Some(u32::from_le_bytes(bytes.try_into().ok()?));
    Some((number(length)?, number(checksum)?))
}

fn decoded(bytes: &[u8]) -> Option<Frame> {
    Frame::decode(&zstd::decode_all(bytes).ok()?[..]).ok()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn version(key: &str, value: &str, version: u64) -> KeyValue {
        KeyValue {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            create_revision: 2,
            mod_revision: 7,
            version,
            lease: 3,
        }
    }

    /// Two runs, of which the first has more than one frame.
    fn file(folder: &Path) -> (PathBuf, Written) {
        let path = folder.join("file");
        let mut writer = FrameWriter::with_frames_of(100, &path).unwrap();
        writer.begin_run().unwrap();
        let large = "v".repeat(100);
        for key in ["a", "b"] {
            writer.push(version(key, &large, 1)).unwrap();
        }
        writer.push(version("c", "small", 4)).unwrap();
        writer.begin_run().unwrap();
        writer.begin_run().unwrap();
        writer.push(version("b", "", 0)).unwrap();
        let written = writer.finish(9).unwrap();
        (path, written)
    }

    fn read(path: &Path) -> Result<(Vec<Frame>, u32), FormatError> {
        let mut reader = FrameReader::open(path)?;
        let mut frames = Vec::new();
        while let Some(frame) = reader.next()? {
            frames.push(frame);
        }
        Ok((frames, reader.crc32c()))
    }

    #[test]
    fn what_is_written_is_read() {
        let temp = tempfile::tempdir().unwrap();
        let (path, written) = file(temp.path());
        let (frames, crc32c) = read(&path).unwrap();
        let keys = |frame: &Frame| -> Vec<String> {
            let keys = frame.versions.iter().map(|version| version.key.to_vec());
            keys.map(|key| String::from_utf8(key).unwrap()).collect()
        };
        let shown: Vec<_> = frames.iter().map(|frame| (frame.run, keys(frame))).collect();
        let of = |run, keys: &[&str]| (run, keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>());
        let expected = [
            of(0, &["a"]),
            of(0, &["b"]),
            of(0, &["c"]),
            of(1, &["b"]),
            of(0, &[]),
        ];
        assert_eq!(shown, expected);
        assert_eq!(frames[2].versions, [version("c", "small", 4)]);
        let end = End {
            versions: 4,
            revision: 9,
        };
        assert_eq!(frames[4].end, Some(end));
        assert_eq!(
            (written.versions, written.deletions, written.crc32c),
            (4, 1, crc32c)
        );
        assert_eq!(written.file_bytes, std::fs::metadata(&path).unwrap().len());
        assert_eq!(
            written.runs.iter().map(|run| run.versions).collect::<Vec<_>>(),
            [3, 1]
        );
        let second = FrameReader::open_at(&path, written.runs[1].offset)
            .unwrap()
            .next();
        assert_eq!(second.unwrap().unwrap(), frames[3]);
    }

    #[test]
    fn no_flipped_bit_passes() {
        let temp = tempfile::tempdir().unwrap();
        let (path, _) = file(temp.path());
        let whole = std::fs::read(&path).unwrap();
        assert!(whole.len() < 4_000, "{} bytes take too long", whole.len());
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &flipped).unwrap();
            assert!(read(&path).is_err(), "bit {bit} of {}", whole.len() * 8);
        }
    }

    #[test]
    fn a_cut_file_is_told_and_so_is_a_longer_one() {
        let temp = tempfile::tempdir().unwrap();
        let (path, written) = file(temp.path());
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let cut = read(&path);
            assert!(matches!(cut, Err(FormatError::Cut { .. })), "{length}: {cut:?}");
        }
        std::fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
        assert!(matches!(read(&path), Err(FormatError::Damaged { .. })));
        // A frame that stands elsewhere, whole as it is.
        let second = written.runs[1].offset as usize;
        let moved = [&whole[..MAGIC.len()], &whole[second..]].concat();
        std::fs::write(&path, moved).unwrap();
        assert!(matches!(read(&path), Err(FormatError::Damaged { .. })));
    }
}
