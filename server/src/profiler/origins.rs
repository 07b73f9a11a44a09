//! Names of origins, numbered, so that counting an access compares no text.
//!
//! A stream asks for its number once. Clients choose the names, so there is a cap: whoever comes after
//! it is counted under [`OTHER_ORIGIN`], and a client inventing names costs no memory.

use std::sync::{PoisonError, RwLock};

use placement::Zone;

/// Most origins told apart on one host.
pub const ORIGINS_MAX: usize = 64;

/// The origin of accesses beyond [`ORIGINS_MAX`] names, and of clients that name none.
pub const OTHER_ORIGIN: &str = "other";

/// The number of an origin, valid with the profiler that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OriginId(u16);

impl OriginId {
    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }

    pub(super) fn of_index(index: usize) -> Option<Self> {
        u16::try_from(index).ok().map(Self)
    }
}

#[derive(Debug)]
pub(super) struct Origins {
    names: RwLock<Vec<Zone>>,
}

impl Origins {
    pub(super) fn new() -> Self {
        Origins {
            names: RwLock::new(vec![Zone::from(OTHER_ORIGIN)]),
        }
    }

    pub(super) fn number(&self, name: &str) -> OriginId {
        if let Some(known) = find(&self.names.read().unwrap_or_else(PoisonError::into_inner), name) {
            return known;
        }
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = find(&names, name) {
            return known;
        }
        if names.len() > ORIGINS_MAX {
            return OriginId(0);
        }
        names.push(Zone::from(name));
        OriginId((names.len() - 1) as u16)
    }

    pub(super) fn name(&self, origin: OriginId) -> Zone {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names
            .get(usize::from(origin.0))
            .cloned()
            .unwrap_or_else(|| Zone::from(OTHER_ORIGIN))
    }
}

fn find(names: &[Zone], name: &str) -> Option<OriginId> {
    if name.is_empty() {
        return Some(OriginId(0));
    }
    names
        .iter()
        .position(|known| known.0 == name)
        .map(|index| OriginId(index as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_numbers_and_are_bounded() {
        let origins = Origins::new();
        let east = origins.number("east");
        assert_eq!(
            (origins.number("east"), origins.name(east)),
            (east, Zone::from("east"))
        );
        assert_eq!(origins.name(origins.number("")), Zone::from(OTHER_ORIGIN));
        for i in 1..ORIGINS_MAX {
            assert_eq!(origins.name(origins.number(&format!("z{i}"))).0, format!("z{i}"));
        }
        assert_eq!(
            origins.name(origins.number("one too many")),
            Zone::from(OTHER_ORIGIN)
        );
        assert_eq!(origins.number("east"), east);
    }
}
