//! JSON lines, streamed: nothing is held but the line at hand. Blank lines are skipped, and counted.

use std::io::{self, BufRead, Write};
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Why a line could not be taken.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The input failed.
    #[error("line {line}: {source}")]
    Io {
        /// The line that was being read, from 1.
        line: u64,
        /// What failed.
        source: io::Error,
    },
    /// The line is no JSON, or says something that cannot be.
    #[error("line {line}: {source}")]
    Bad {
        /// The bad line, from 1.
        line: u64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl ReadError {
    /// The number of the line, from 1.
    pub fn line(&self) -> u64 {
        match self {
            Self::Io { line, .. } | Self::Bad { line, .. } => *line,
        }
    }
}

/// Iterates over the lines of `R` as values of type `T`. It ends after the first failure of the input itself, but a
/// bad line does not end it: whoever reads decides.
pub struct LineReader<R, T> {
    input: R,
    line: u64,
    buffer: String,
    failed: bool,
    of: PhantomData<T>,
}

impl<R: BufRead, T: DeserializeOwned> LineReader<R, T> {
    /// Reads from `input`.
    pub fn new(input: R) -> Self {
        Self {
            input,
            line: 0,
            buffer: String::new(),
            failed: false,
            of: PhantomData,
        }
    }

    fn fill(&mut self) -> io::Result<bool> {
        loop {
            self.buffer.clear();
            self.line += 1;
            if self.input.read_line(&mut self.buffer)? == 0 {
                return Ok(false);
            }
            if !self.buffer.trim().is_empty() {
                return Ok(true);
            }
        }
    }
}

impl<R: BufRead, T: DeserializeOwned> Iterator for LineReader<R, T> {
    type Item = Result<T, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        match self.fill() {
            Ok(false) => None,
            Ok(true) => {
                let parsed = serde_json::from_str(&self.buffer);
                Some(parsed.map_err(|source| ReadError::Bad {
                    line: self.line,
                    source,
                }))
            }
            Err(source) => {
                self.failed = true;
                Some(Err(ReadError::Io {
                    line: self.line,
                    source,
                }))
            }
        }
    }
}

/// Writes values as JSON lines. Nothing is flushed before [`LineWriter::finish`].
pub struct LineWriter<W> {
    output: W,
}

impl<W: Write> LineWriter<W> {
    /// Writes to `output`; hand in a buffered one.
    pub fn new(output: W) -> Self {
        Self { output }
    }

    /// Writes one line.
    ///
    /// # Errors
    /// Those of the output.
    pub fn write<T: Serialize>(&mut self, value: &T) -> io::Result<()> {
        serde_json::to_writer(&mut self.output, value)?;
        self.output.write_all(b"\n")
    }

    /// Flushes and hands the output back.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.flush()?;
        Ok(self.output)
    }
}
