//! `godwit init`: makes a fresh host the first of a cluster, with the key space cut into shards.
//!
//! The call goes to the first address of `--connect` and to no other. Where one host does not answer the next may be
//! fresh, and would become the first of a second cluster beside the one that is only out of reach.

use std::{
    cmp::Ordering,
    io::{self, Write},
    path::Path,
};

use bytes::Bytes;
use client::{AdminError, proto::InitRequest};

use super::{Exit, VerbError, connect, text};
use crate::cli::{ConnectArgs, InitArgs, InitRanges};

/// As many as `--shards` may ask for.
const SHARDS_MAX: usize = 65_536;

/// Why a file does not cut the key space. Lines count from 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SplitFileError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// The file is empty.
    #[error("holds no key; for a single shard say --shards 1")]
    NoKeys,
    /// A line is empty, and the first shard begins at the empty key already.
    #[error("line {line} is empty; each line is the first key of a shard")]
    EmptyLine {
        /// The line.
        line: usize,
    },
    /// A key stands on two lines.
    #[error("line {line}: {key} is the key of line {} already", line - 1)]
    Duplicate {
        /// The second of the lines.
        line: usize,
        /// The key.
        key: String,
    },
    /// A key is before the one of the line above.
    #[error("line {line}: {key} is before {above}, the key of line {}; keys must rise in byte order", line - 1)]
    NotRising {
        /// The line.
        line: usize,
        /// The key.
        key: String,
        /// The key of the line above.
        above: String,
    },
    /// More keys than there may be shards.
    #[error("holds {keys} keys; at most {} are possible", SHARDS_MAX - 1)]
    TooMany {
        /// Keys in the file.
        keys: usize,
    },
}

/// Makes the first address of `connect` the first host of a new cluster, and prints the cluster's id.
pub async fn init(connect: &ConnectArgs, args: InitArgs, out: &mut dyn Write) -> Result<Exit, VerbError> {
    let request = request_of(&args)?;
    let shards = shards_of(&request);
    let host = connect::operator_of_first(connect)?;
    let reply = host.init(request).await.map_err(|error| failed(connect, error))?;
    writeln!(out, "{}", confirmation(&reply.cluster_id, shards, args.hosts))?;
    Ok(Exit::Ok)
}

fn request_of(args: &InitArgs) -> Result<InitRequest, VerbError> {
    let InitRanges { shards, split_at } = &args.ranges;
    let split_at = match split_at {
        Some(path) => read_split_keys(path).map_err(|source| VerbError::SplitFile {
            path: path.clone(),
            source,
        })?,
        None => Vec::new(),
    };
    let by_default = u32::from(args.ranges.split_at.is_none());
    Ok(InitRequest {
        shards: shards.unwrap_or(by_default),
        split_at,
        replication_factor: args.replication_factor,
        hosts: args.hosts,
    })
}

/// A split key begins a shard, and one more shard comes before the first of them.
fn shards_of(request: &InitRequest) -> usize {
    match request.split_at.len() {
        0 => request.shards as usize,
        keys => keys + 1,
    }
}

fn confirmation(cluster_id: &str, shards: usize, hosts: u32) -> String {
    let shards = match shards {
        1 => "1 shard".to_owned(),
        more => format!("{more} shards"),
    };
    match hosts {
        0 | 1 => format!("cluster {cluster_id}\n{shards} created"),
        more => format!("cluster {cluster_id}\n{shards} to be created once {more} hosts have joined"),
    }
}

fn failed(connect: &ConnectArgs, error: AdminError) -> VerbError {
    match error {
        AdminError::Unreachable { cause } => VerbError::NotServing {
            address: connect.connect.first().cloned().unwrap_or_default(),
            cause,
        },
        other => connect::failed(connect, "godwit admin status")(other),
    }
}

pub(super) fn read_split_keys(path: &Path) -> Result<Vec<Bytes>, SplitFileError> {
    split_keys(&std::fs::read(path)?)
}

/// The keys of a file, one a line. A line ends with LF or CR LF, which are no part of its key.
fn split_keys(file: &[u8]) -> Result<Vec<Bytes>, SplitFileError> {
    let mut keys: Vec<Bytes> = Vec::new();
    for (number, line) in (1..).zip(file.split_inclusive(|byte| *byte == b'\n')) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let key = line.strip_suffix(b"\r").unwrap_or(line);
        check_follows(number, key, keys.last())?;
        keys.push(Bytes::copy_from_slice(key));
    }
    match keys.len() {
        0 => Err(SplitFileError::NoKeys),
        keys @ SHARDS_MAX.. => Err(SplitFileError::TooMany { keys }),
        _ => Ok(keys),
    }
}

fn check_follows(line: usize, key: &[u8], above: Option<&Bytes>) -> Result<(), SplitFileError> {
    let above = above.map(|above| &above[..]).unwrap_or_default();
    if key.is_empty() {
        return Err(SplitFileError::EmptyLine { line });
    }
    match key.cmp(above) {
        Ordering::Greater => Ok(()),
        Ordering::Equal => Err(SplitFileError::Duplicate {
            line,
            key: text::quoted(key),
        }),
        Ordering::Less => Err(SplitFileError::NotRising {
            line,
            key: text::quoted(key),
            above: text::quoted(above),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn refused(file: &[u8]) -> String {
        split_keys(file).unwrap_err().to_string()
    }

    fn args(ranges: InitRanges) -> InitArgs {
        InitArgs {
            ranges,
            replication_factor: 3,
            hosts: 0,
        }
    }

    #[test]
    fn keys_are_the_bytes_of_the_lines() {
        let keys = |file: &[u8]| split_keys(file).unwrap();
        assert_eq!(keys(b"a\nb\nba"), ["a", "b", "ba"]);
        assert_eq!(keys(b"a\r\nb\r\n"), ["a", "b"], "line ends are no part of keys");
        assert_eq!(
            keys(b"a\tb\na \n\xff\xfe\n").len(),
            3,
            "other white space is, and keys are bytes"
        );
    }

    #[test]
    fn a_faulty_line_is_named() {
        assert_eq!(refused(b""), "holds no key; for a single shard say --shards 1");
        assert_eq!(
            refused(b"a\n\nb\n"),
            "line 2 is empty; each line is the first key of a shard"
        );
        assert!(refused(b"\na\n").starts_with("line 1 is empty"));
        assert!(
            refused(b"a\n\n").starts_with("line 2 is empty"),
            "not taken for the end"
        );
        assert_eq!(
            refused(b"a\nb\nb\n"),
            r#"line 3: "b" is the key of line 2 already"#
        );
        assert_eq!(
            refused(b"a\nab\nB\n"),
            r#"line 3: "B" is before "ab", the key of line 2; keys must rise in byte order"#
        );
    }

    #[test]
    fn as_many_shards_as_by_number() {
        let file = |keys: usize| (0..keys).map(|key| format!("{key:05}\n")).collect::<String>();
        let most = split_keys(file(SHARDS_MAX - 1).as_bytes()).unwrap();
        assert_eq!(most.len(), 65_535);
        assert_eq!(
            refused(file(SHARDS_MAX).as_bytes()),
            "holds 65536 keys; at most 65535 are possible"
        );
    }

    #[test]
    fn the_request_says_how_to_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, "k\nq\n").unwrap();
        let split_at = args(InitRanges {
            shards: None,
            split_at: Some(path),
        });
        let request = request_of(&split_at).unwrap();
        assert_eq!(
            (request.shards, shards_of(&request)),
            (0, 3),
            "and one before \"k\""
        );
        assert_eq!(request.split_at, ["k", "q"]);
        let by_number = args(InitRanges {
            shards: Some(64),
            split_at: None,
        });
        assert_eq!(shards_of(&request_of(&by_number).unwrap()), 64);
        let by_default = args(InitRanges {
            shards: None,
            split_at: None,
        });
        assert_eq!(shards_of(&request_of(&by_default).unwrap()), 1);
    }

    #[test]
    fn the_confirmation_says_when_the_shards_exist() {
        assert_eq!(confirmation("0a1b", 64, 0), "cluster 0a1b\n64 shards created");
        assert_eq!(
            confirmation("0a1b", 1, 3),
            "cluster 0a1b\n1 shard to be created once 3 hosts have joined"
        );
    }

    #[tokio::test]
    async fn a_missing_file_is_named_before_any_host_is_asked() {
        let connect = ConnectArgs { connect: vec![] };
        let missing = args(InitRanges {
            shards: None,
            split_at: Some("no/such/file".into()),
        });
        let error = init(&connect, missing, &mut Vec::new()).await.unwrap_err();
        assert!(
            error.to_string().starts_with("no/such/file: cannot be read: "),
            "{error}"
        );
    }

    #[tokio::test]
    async fn only_the_first_address_is_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let second = TcpListener::bind("127.0.0.1:0").unwrap();
        let (first, other) = (listener.local_addr().unwrap(), second.local_addr().unwrap());
        drop(listener);
        let connect = ConnectArgs {
            connect: vec![first.to_string(), other.to_string()],
        };
        let by_number = args(InitRanges {
            shards: Some(1),
            split_at: None,
        });
        let error = init(&connect, by_number, &mut Vec::new()).await.unwrap_err();
        let VerbError::NotServing { address, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(address, first.to_string());
        second.set_nonblocking(true).unwrap();
        assert_eq!(
            second.accept().unwrap_err().kind(),
            io::ErrorKind::WouldBlock,
            "was asked"
        );
    }
}
