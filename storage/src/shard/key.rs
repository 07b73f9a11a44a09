//! Keys as the index holds them.
//!
//! A lookup in a tree of a million keys compares with twenty of them, and to follow a pointer for each is what such a
//! lookup costs. So a short key lies in the tree itself; a longer one is shared by all that refer to it.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// The longest key that lies in the tree: with its length and the mark of its kind it takes the room of a shared one,
/// rounded up.
const INLINE_BYTES: usize = 22;

/// A key: cheap to clone, equal to and ordered as its bytes.
#[derive(Clone)]
pub(crate) enum Key {
    /// The first `len` of these bytes.
    Inline { len: u8, bytes: [u8; INLINE_BYTES] },
    /// More bytes than that.
    Shared(Arc<[u8]>),
}

impl From<&[u8]> for Key {
    /// Copies the key. Never a slice of a log payload, which would keep the whole payload in memory.
    fn from(key: &[u8]) -> Key {
        let mut bytes = [0; INLINE_BYTES];
        match (u8::try_from(key.len()), bytes.get_mut(..key.len())) {
            (Ok(len), Some(room)) => {
                room.copy_from_slice(key);
                Key::Inline { len, bytes }
            }
            _ => Key::Shared(key.into()),
        }
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Key::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Key::Shared(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        **self == **other
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_bytes_whatever_its_length() {
        for len in [
            0,
            1,
            INLINE_BYTES - 1,
            INLINE_BYTES,
            INLINE_BYTES + 1,
            255,
            256,
            70_000,
        ] {
            let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let key = Key::from(&bytes[..]);
            assert_eq!(&*key, &bytes[..], "{len} bytes");
            assert_eq!(
                matches!(key, Key::Inline { .. }),
                len <= INLINE_BYTES,
                "{len} bytes"
            );
            assert_eq!(key, key.clone());
        }
        assert_eq!(size_of::<Key>(), 24);
    }

    #[test]
    fn keys_are_ordered_as_their_bytes() {
        let long = [b'b'; 40];
        let names: [&[u8]; 7] = [b"", b"\0", b"a", b"a\0", b"b", &long, b"c"];
        let mut keys: Vec<Key> = names.iter().rev().map(|name| Key::from(*name)).collect();
        keys.sort();
        assert!(keys.iter().map(|key| &**key).eq(names));
        // A shorter key that is the beginning of a longer one comes first, whatever lies behind it in memory.
        assert!(Key::from(b"a".as_slice()) < Key::from(b"a\0".as_slice()));
    }
}
